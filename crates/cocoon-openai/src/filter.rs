//! The gateway's view of an answer: shows the caller what was asked for, and adds the `cocoon` object.
//!
//! The engine is always asked for usage. A caller of chat or completions who did not ask for it gets the stream without:
//! the chunk that carries only usage (no choices) is left out, and from other chunks the `usage` field, `null` included,
//! is taken away. (An engine that sends usage unasked loses it too: the two can't be told apart.) All else passes byte
//! for byte, at once, and so does every answer of another endpoint.
//!
//! Held back until the price is known is only what closes a stream: the chunk that carries nothing but usage and the
//! `[DONE]` event; `response.completed` and its like; `message_delta` with usage and `message_stop`; `*.done` and
//! `*.completed` of sound and images. There the `cocoon` object is added: to the chunk or event, or to the `response` in
//! it. Where nothing was held that could take it, the price goes into a comment before the end: `: cocoon {...}`; clients
//! skip comments. Lines of JSON have no comments: there it is left out. What follows `[DONE]` of a chat, comments apart,
//! is no part of the answer and is left out.

use std::ops::Range;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::endpoint::Endpoint;
use crate::kind::{BodyKind, BodyLimits};
use crate::object::{RawObject, splice};
use crate::observe::{MeterReport, Observer, Role};
use crate::units::{Piece, Unit, UnitReader};
use crate::usage::Usage;

/// Pieces that are held behind a stream's end; more of them are let go.
const MAX_TAIL: usize = 16;

/// Filters one answer on its way to the caller, and meters it for checking.
#[derive(Debug)]
pub struct AnswerFilter {
    endpoint: Endpoint,
    kind: BodyKind,
    show_usage: bool,
    reader: UnitReader,
    observer: Observer,
    closing: Option<Closing>,
    /// The end mark, and what follows it.
    tail: Vec<Bytes>,
    finished: bool,
}

/// A piece that closes an answer, and where in its data the object lies that is to hold the price.
#[derive(Debug)]
struct Closing {
    unit: Unit,
    object: Range<usize>,
}

impl AnswerFilter {
    /// A filter for one answer of `endpoint`; `show_usage`: the caller asked for usage in the stream. It matters for chat
    /// and completions alone: other streams have their usage always.
    #[must_use]
    pub fn new(endpoint: Endpoint, kind: BodyKind, limits: BodyLimits, show_usage: bool) -> Self {
        Self {
            endpoint,
            kind,
            show_usage: show_usage || !has_choices(endpoint),
            reader: UnitReader::new(kind, limits),
            observer: Observer::new(endpoint, kind),
            closing: None,
            tail: Vec::new(),
            finished: false,
        }
    }

    /// Takes the next bytes; what can be shown now, in order. Nothing of one JSON body comes before its end.
    pub fn push(&mut self, chunk: Bytes) -> Vec<Bytes> {
        self.reader.push(chunk);
        let mut out = Vec::new();
        while let Some(piece) = self.reader.next_piece() {
            self.pass(piece, &mut out);
        }
        out
    }

    /// The body has ended: what can be shown of its last bytes. From now on [`Self::report`] covers all of it. A JSON
    /// body is held until [`Self::take_held`].
    pub fn finish(&mut self) -> Vec<Bytes> {
        let mut out = Vec::new();
        if std::mem::replace(&mut self.finished, true) {
            return out;
        }
        match self.reader.finish() {
            Some(Piece::Unit(unit)) if self.kind == BodyKind::Json => {
                self.observer.observe(&unit);
                self.closing = Some(Closing { object: 0..unit.data().len(), unit });
            }
            Some(piece) => self.pass(piece, &mut out),
            None => {}
        }
        out.retain(|bytes| !bytes.is_empty());
        out
    }

    /// The answer has ended: what was held back, with the `cocoon` object where there is one. Calls [`Self::finish`].
    ///
    /// `estimate` is the usage to show where it is to be shown and the engine told none (of a chat, completion or
    /// embedding). After an engine's own error, which is the last word of a chat, `[DONE]` is left out.
    ///
    /// For a stream that broke, call this with `None`, or not at all, and end with an error event instead; or with
    /// [`Self::take_error`], where the engine sent one.
    pub fn take_held(&mut self, cocoon: Option<&RawValue>, estimate: Option<&Usage>) -> Vec<Bytes> {
        let mut out = self.finish();
        let report = self.report();
        if report.saw_error && self.kind == BodyKind::Sse && has_choices(self.endpoint) {
            self.closing = None;
            self.tail.clear();
            out.extend(cocoon.map(cocoon_comment));
            return out;
        }
        let shows_estimate =
            self.show_usage && (has_choices(self.endpoint) || self.endpoint == Endpoint::Embeddings);
        let estimate = estimate.filter(|_| shows_estimate && report.usage.is_none()).map(Usage::to_json);
        match (self.closing.take(), cocoon) {
            (Some(closing), cocoon) => {
                out.push(with_cocoon(with_usage(closing, estimate.as_deref()), cocoon));
            }
            (None, Some(cocoon)) if self.kind == BodyKind::Sse => {
                let asked = self.show_usage && has_choices(self.endpoint);
                out.push(match asked {
                    true => cocoon_chunk(self.endpoint, cocoon, estimate.as_deref()),
                    false => cocoon_comment(cocoon),
                });
            }
            (None, _) => {}
        }
        out.append(&mut self.tail);
        out.retain(|bytes| !bytes.is_empty());
        out
    }

    /// The answer broke off after the engine's own error: what was held back, as [`Self::take_held`] gives it. An event of
    /// which only the beginning came is dropped.
    pub fn take_error(&mut self, cocoon: Option<&RawValue>) -> Vec<Bytes> {
        self.finished = true;
        self.take_held(cocoon, None)
    }

    /// What the answer was so far.
    #[must_use]
    pub fn report(&self) -> MeterReport {
        self.observer.report(self.reader.gave_up())
    }

    fn pass(&mut self, piece: Piece, out: &mut Vec<Bytes>) {
        let unit = match piece {
            Piece::Unread(bytes) => {
                if self.kind == BodyKind::Text {
                    self.observer.observe_text(bytes.len());
                }
                self.release(out);
                out.push(bytes);
                return;
            }
            Piece::Unit(unit) => unit,
        };
        if unit.data().is_empty() && (self.tail.is_empty() || has_choices(self.endpoint)) {
            if !has_choices(self.endpoint) {
                self.release(out);
            }
            out.push(unit.into_raw());
            return;
        }
        if !self.tail.is_empty() {
            if !has_choices(self.endpoint) {
                self.tail.push(unit.into_raw());
                if self.tail.len() > MAX_TAIL {
                    self.release(out);
                }
            }
            return;
        }
        let seen = self.observer.observe(&unit);
        match seen.role {
            Role::End => self.tail.push(unit.into_raw()),
            Role::Usage(object) => {
                // Only the last such piece is held: an engine with running usage sends many.
                let earlier =
                    if self.show_usage { self.closing.replace(Closing { unit, object }) } else { None };
                out.extend(earlier.map(|earlier| earlier.unit.into_raw()));
            }
            Role::Content => {
                self.release(out);
                out.push(if self.show_usage { unit.into_raw() } else { without_usage(unit) });
            }
        }
    }

    /// Lets go of what was held: it was not the end.
    fn release(&mut self, out: &mut Vec<Bytes>) {
        out.extend(self.closing.take().map(|closing| closing.unit.into_raw()));
        if !has_choices(self.endpoint) {
            out.append(&mut self.tail);
        }
    }
}

fn has_choices(endpoint: Endpoint) -> bool {
    matches!(endpoint, Endpoint::Chat | Endpoint::Completions)
}

/// A whole JSON answer with a `cocoon` object as its last field (instead of one that it may have), else verbatim.
/// What is no JSON object with distinct fields stays as it is.
#[must_use]
pub fn add_cocoon_object(body: Bytes, cocoon: &RawValue) -> Bytes {
    let unit = Unit::text(body);
    with_cocoon(Closing { object: 0..unit.data().len(), unit }, Some(cocoon))
}

/// The server-sent comment `: cocoon {...}`, which clients skip.
#[must_use]
pub fn cocoon_comment(cocoon: &RawValue) -> Bytes {
    // Line ends in JSON are white space, but would end the comment.
    format!(": cocoon {}\n\n", cocoon.get().replace(['\n', '\r'], " ")).into()
}

/// For a caller that asked for usage, where the engine told none: a chunk without choices, as the one with usage is.
fn cocoon_chunk(endpoint: Endpoint, cocoon: &RawValue, usage: Option<&str>) -> Bytes {
    let cocoon = cocoon.get().replace(['\n', '\r'], " ");
    let object = match endpoint {
        Endpoint::Completions => "text_completion",
        _ => "chat.completion.chunk",
    };
    let head = format!(r#"{{"id":"cocoon","object":"{object}","created":0,"model":"","choices":[]"#);
    let usage = usage.map_or_else(String::new, |usage| format!(",\"usage\":{usage}"));
    format!("data: {head}{usage},\"cocoon\":{cocoon}}}\n\n").into()
}

/// A JSON answer with `usage` where it has none.
fn with_usage(closing: Closing, usage: Option<&str>) -> Closing {
    let Some(usage) = usage else { return closing };
    let changed = RawObject::parse(closing.unit.data())
        .ok()
        .filter(|object| object.get_set("usage").is_none())
        .map(|mut object| {
            object.set("usage", usage);
            object.to_json()
        });
    changed.map_or(closing, |json| Closing { object: 0..json.len(), unit: Unit::text(json.into()) })
}

fn with_cocoon(Closing { unit, object: span }: Closing, cocoon: Option<&RawValue>) -> Bytes {
    let changed = cocoon.and_then(|cocoon| {
        let data = unit.data();
        let part = data.get(span.clone())?;
        let mut object = RawObject::parse(part).ok()?;
        if object.get("cocoon").is_some() {
            object.remove("cocoon");
            object.set("cocoon", cocoon.get());
            return Some(splice(data, span, object.to_json().as_bytes()));
        }
        let comma = if object.is_empty() { "" } else { "," };
        let end = span.end.checked_sub(1)?;
        let field = format!("{comma}\"cocoon\":{}", cocoon.get());
        Some(splice(data, end..end, field.as_bytes()))
    });
    match changed {
        Some(json) => unit.with_data(&json),
        None => unit.into_raw(),
    }
}

fn without_usage(unit: Unit) -> Bytes {
    const KEY: &[u8] = b"\"usage\"";
    let data = unit.data();
    if !data.windows(KEY.len()).any(|window| window == KEY) {
        return unit.into_raw();
    }
    let object = RawObject::parse(data).ok();
    match object.and_then(|mut object| object.remove("usage").map(|_| object.to_json())) {
        Some(json) => unit.with_data(json.as_bytes()),
        None => unit.into_raw(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_covers_the_last_bytes_before_anything_held_is_let_go() {
        let json = br#"{"choices":[{"message":{"content":"ab"}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;
        for kind in [BodyKind::Json, BodyKind::JsonLines] {
            let mut filter = AnswerFilter::new(Endpoint::Chat, kind, BodyLimits::default(), true);
            assert!(filter.push(Bytes::from_static(json)).is_empty());
            let mut shown = filter.finish();
            let report = filter.report();
            assert_eq!(report.usage.map(|usage| usage.total_tokens), Some(4), "{kind:?}");
            assert_eq!(report.content_bytes, 2);
            shown.extend(filter.take_held(None, None));
            assert_eq!(shown.concat(), json);
        }
    }
}
