//! The gateway's view of an answer: shows the caller what was asked for, and adds the `cocoon` object.
//!
//! The engine is always asked for usage. A caller who did not ask for it gets the stream without: the chunk that
//! carries only usage (no choices) is left out, and from other chunks the `usage` field, `null` included, is taken
//! away. (An engine that sends usage unasked loses it too: the two can't be told apart.) All else passes byte for
//! byte, at once.
//!
//! Held back until the price is known are only the chunk that carries nothing but usage, and the `[DONE]` event;
//! what follows `[DONE]`, comments apart, is no part of the answer and is left out. Where the caller sees no such
//! chunk, the price goes into a comment before `[DONE]`: `: cocoon {...}`; clients skip comments. Lines of JSON
//! have no comments: there it is left out.

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::kind::{BodyKind, BodyLimits};
use crate::object::{ObjectError, RawObject, splice};
use crate::observe::{MeterReport, Observer};
use crate::units::{Piece, Unit, UnitReader};
use crate::usage::Usage;

/// Filters one answer on its way to the caller, and meters it for checking.
#[derive(Debug)]
pub struct AnswerFilter {
    kind: BodyKind,
    show_usage: bool,
    reader: UnitReader,
    observer: Observer,
    usage: Option<Unit>,
    done: Option<Bytes>,
    finished: bool,
}

impl AnswerFilter {
    /// A filter for one answer; `show_usage`: the caller asked for usage in the stream.
    #[must_use]
    pub fn new(kind: BodyKind, limits: BodyLimits, show_usage: bool) -> Self {
        Self {
            kind,
            show_usage,
            reader: UnitReader::new(kind, limits),
            observer: Observer::new(kind),
            usage: None,
            done: None,
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
                self.usage = Some(unit);
            }
            Some(piece) => self.pass(piece, &mut out),
            None => {}
        }
        out.retain(|bytes| !bytes.is_empty());
        out
    }

    /// The answer has ended: what was held back, with the `cocoon` object where there is one. Calls [`Self::finish`].
    ///
    /// `estimate` is the usage to show where it is to be shown and the engine told none.
    ///
    /// For a stream that broke, call this with `None`, or not at all, and end with an error event instead.
    pub fn take_held(&mut self, cocoon: Option<&RawValue>, estimate: Option<&Usage>) -> Vec<Bytes> {
        let mut out = self.finish();
        let estimate =
            estimate.filter(|_| self.show_usage && self.report().usage.is_none()).map(Usage::to_json);
        match (self.usage.take(), cocoon) {
            (Some(unit), cocoon) => out.push(with_cocoon(with_usage(unit, estimate.as_deref()), cocoon)),
            (None, Some(cocoon)) if self.kind == BodyKind::Sse && self.show_usage => {
                out.push(cocoon_chunk(cocoon, estimate.as_deref()));
            }
            (None, Some(cocoon)) if self.kind == BodyKind::Sse => out.push(cocoon_comment(cocoon)),
            (None, _) => {}
        }
        out.extend(self.done.take());
        out.retain(|bytes| !bytes.is_empty());
        out
    }

    /// What the answer was so far.
    #[must_use]
    pub fn report(&self) -> MeterReport {
        self.observer.report(self.reader.gave_up())
    }

    fn pass(&mut self, piece: Piece, out: &mut Vec<Bytes>) {
        let unit = match piece {
            Piece::Unread(bytes) => {
                out.extend(self.usage.take().map(Unit::into_raw));
                out.push(bytes);
                return;
            }
            Piece::Unit(unit) => unit,
        };
        if unit.data().is_empty() {
            out.push(unit.into_raw());
            return;
        }
        if self.done.is_some() {
            return;
        }
        let seen = self.observer.observe(&unit);
        if unit.is_done() {
            self.done = Some(unit.into_raw());
        } else if seen.usage.is_some() && !seen.has_choices {
            // Only the last such chunk is held: an engine with running usage sends many.
            let earlier = if self.show_usage { self.usage.replace(unit) } else { None };
            out.extend(earlier.map(Unit::into_raw));
        } else {
            out.extend(self.usage.take().map(Unit::into_raw));
            out.push(if self.show_usage { unit.into_raw() } else { without_usage(unit) });
        }
    }
}

/// A whole JSON answer with a `cocoon` object as its last field (instead of one that it may have), else verbatim.
/// What is no JSON object with distinct fields stays as it is.
#[must_use]
pub fn add_cocoon_object(body: Bytes, cocoon: &RawValue) -> Bytes {
    with_cocoon(Unit::text(body), Some(cocoon))
}

/// The server-sent comment `: cocoon {...}`, which clients skip.
#[must_use]
pub fn cocoon_comment(cocoon: &RawValue) -> Bytes {
    // Line ends in JSON are white space, but would end the comment.
    format!(": cocoon {}\n\n", cocoon.get().replace(['\n', '\r'], " ")).into()
}

/// For a caller that asked for usage, where the engine told none: a chunk without choices, as the one with usage is.
fn cocoon_chunk(cocoon: &RawValue, usage: Option<&str>) -> Bytes {
    let cocoon = cocoon.get().replace(['\n', '\r'], " ");
    let head = r#"{"id":"cocoon","object":"chat.completion.chunk","created":0,"model":"","choices":[]"#;
    let usage = usage.map_or_else(String::new, |usage| format!(",\"usage\":{usage}"));
    format!("data: {head}{usage},\"cocoon\":{cocoon}}}\n\n").into()
}

/// A JSON answer with `usage` where it has none.
fn with_usage(unit: Unit, usage: Option<&str>) -> Unit {
    let Some(usage) = usage else { return unit };
    let changed = RawObject::parse(unit.data()).ok().filter(|object| object.get_set("usage").is_none()).map(
        |mut object| {
            object.set("usage", usage);
            object.to_json()
        },
    );
    changed.map_or(unit, |json| Unit::text(json.into()))
}

fn with_cocoon(unit: Unit, cocoon: Option<&RawValue>) -> Bytes {
    let changed = cocoon.and_then(|cocoon| {
        let data = unit.data();
        let mut object = RawObject::parse(data).ok()?;
        if object.get("cocoon").is_some() {
            object.remove("cocoon");
            object.set("cocoon", cocoon.get());
            return Some(object.to_json().into_bytes());
        }
        let comma = if object.is_empty() { "" } else { "," };
        let end = data.len().checked_sub(1)?;
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
    let stripped = match RawObject::parse(data) {
        Ok(mut object) => object.remove("usage").map(|_| object.to_json()),
        Err(ObjectError::Syntax { .. } | ObjectError::Duplicate(_)) => None,
    };
    match stripped {
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
            let mut filter = AnswerFilter::new(kind, BodyLimits::default(), true);
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
