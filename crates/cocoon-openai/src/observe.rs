//! Reads what the pieces of an answer say, for metering: usage, content, and whether the answer is whole.
//!
//! Each API has a dialect of its own: choices with deltas and `[DONE]` ([`choices`]), typed events of the responses API
//! ([`responses`]), of Anthropic's messages ([`messages`]), and of sound and images ([`media`]).

mod choices;
mod media;
mod messages;
mod responses;

use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::endpoint::Endpoint;
use crate::kind::BodyKind;
use crate::object::{each_element, span_of, string_of};
use crate::units::Unit;
use crate::usage::{MessagesUsage, Usage};

use choices::Choices;

/// What an answer was, as far as its bytes tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MeterReport {
    /// The last usage that the answer told; `None` where it told none.
    pub usage: Option<Usage>,
    /// Pieces of a stream with something new for the reader: text, reasoning, a refusal, a call of a tool, sound, not
    /// empty, summed over the choices. Zero for an answer that is not streamed.
    pub content_deltas: u64,
    /// Bytes of UTF-8 of all that text, for streams and whole answers alike.
    pub content_bytes: u64,
    /// Bytes of sound and images, as they are written in JSON (base64).
    pub media_bytes: u64,
    /// The stream's own end was seen: `[DONE]`, or the event that is the last one.
    pub saw_done: bool,
    /// The answer carried an `error`, alone or in a stream.
    pub saw_error: bool,
    /// The answer came to its own end. A stream: no error, and its end seen or every choice finished. One JSON
    /// body: it parsed. A body of another form: always, since only HTTP can tell.
    pub complete: bool,
    /// A limit was passed and the rest went unread, so that the numbers may be too small.
    pub gave_up: bool,
    /// The `sequence_number` that the next event would have, where events are numbered.
    pub next_sequence: Option<u64>,
}

/// What one piece showed.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Where the `usage` object lies in the piece's data.
    pub(crate) span: Option<Range<usize>>,
    /// The usage of the answer, as far as this piece and those before it told it, where this piece told some.
    pub(crate) usage: Option<Usage>,
    pub(crate) role: Role,
}

/// What a piece is for the reader.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Role {
    /// To be passed on at once.
    #[default]
    Content,
    /// It closes the answer with its usage, as far as can be told; a `cocoon` object belongs into the object at this span.
    Usage(Range<usize>),
    /// The end mark, without any content.
    End,
}

/// Sums up the pieces of one answer.
#[derive(Debug)]
pub(crate) struct Observer {
    endpoint: Endpoint,
    kind: BodyKind,
    report: MeterReport,
    choices: Choices,
    messages: MessagesUsage,
    /// A JSON object was read that is a whole answer, no event.
    whole: bool,
    parsed: bool,
    /// The end mark was seen. What follows is no part of the answer, for whoever reads it.
    ended: bool,
}

impl Observer {
    pub(crate) fn new(endpoint: Endpoint, kind: BodyKind) -> Self {
        Self {
            endpoint,
            kind,
            report: MeterReport::default(),
            choices: Choices::default(),
            messages: MessagesUsage::default(),
            whole: false,
            parsed: false,
            ended: false,
        }
    }

    pub(crate) fn observe(&mut self, unit: &Unit) -> Seen {
        if self.ended {
            return Seen::default();
        }
        if unit.is_done() {
            self.report.saw_done = true;
            self.ended = true;
            return Seen { role: Role::End, ..Seen::default() };
        }
        let data = unit.data();
        let seen = match self.endpoint {
            Endpoint::Chat | Endpoint::Completions => self.observe_choices(data),
            Endpoint::Responses => self.observe_response(data),
            Endpoint::Messages => self.observe_messages(data),
            Endpoint::Transcriptions | Endpoint::Translations => self.observe_transcript(data),
            Endpoint::Speech
            | Endpoint::ImageGenerations
            | Endpoint::ImageEdits
            | Endpoint::ImageVariations => self.observe_media(data),
            Endpoint::Embeddings
            | Endpoint::Rerank
            | Endpoint::Moderations
            | Endpoint::Tokenize
            | Endpoint::Detokenize
            | Endpoint::CountTokens
            | Endpoint::InputTokens => self.observe_plain(data),
        };
        self.parsed |= seen.is_some() || (!self.speaks_choices() && is_json(data));
        let seen = seen.unwrap_or_default();
        self.ended = seen.role == Role::End;
        if seen.usage.is_some() {
            self.report.usage = seen.usage;
        }
        seen
    }

    /// Bytes of a body that has no pieces. Only a transcript is text that is counted so.
    pub(crate) fn observe_text(&mut self, bytes: usize) {
        if matches!(self.endpoint, Endpoint::Transcriptions | Endpoint::Translations) {
            self.report.content_bytes += bytes as u64;
        }
    }

    pub(crate) fn report(&self, gave_up: bool) -> MeterReport {
        let complete = match self.kind {
            BodyKind::Opaque | BodyKind::Text => true,
            BodyKind::Json => self.parsed && !gave_up,
            BodyKind::Sse | BodyKind::JsonLines => {
                let ended = self.report.saw_done || (!gave_up && (self.whole || self.choices.all_finished()));
                !self.report.saw_error && ended
            }
        };
        MeterReport { complete, gave_up, ..self.report }
    }

    fn speaks_choices(&self) -> bool {
        matches!(self.endpoint, Endpoint::Chat | Endpoint::Completions)
    }

    /// Counts one piece of new text in a stream.
    fn delta(&mut self, bytes: u64) {
        self.report.content_bytes += bytes;
        self.report.content_deltas += u64::from(bytes > 0);
    }

    /// An answer that is neither text nor media: embeddings, rankings and the like.
    fn observe_plain(&mut self, data: &[u8]) -> Option<Seen> {
        let answer = parse_object::<Plain<'_>>(data)?;
        self.report.saw_error |= answer.error.is_some();
        self.whole = true;
        let (span, usage) = self.usage_in(data, answer.usage);
        let usage = usage.or_else(|| Usage::from_rerank_meta(answer.meta?.get()));
        Some(Seen { span, usage, role: Role::Content })
    }

    /// A `usage` object: where it lies in `data`, and what it says.
    fn usage_in(&self, data: &[u8], usage: Option<&RawValue>) -> (Option<Range<usize>>, Option<Usage>) {
        let read = usage.and_then(|usage| {
            let json = usage.get();
            Some((span_of(data, json)?, Usage::read(self.endpoint, json, self.report.content_bytes)?))
        });
        read.unzip()
    }
}

#[derive(Deserialize)]
struct Plain<'a> {
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    meta: Option<&'a RawValue>,
}

/// Reads an object into a struct; serde would take an array for one as well.
fn parse_object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    json.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(json).ok()).flatten()
}

fn is_json(data: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(data).is_ok()
}

/// Bytes of a text's UTF-8; of anything else that is not empty, bytes of its JSON.
fn text_bytes(value: &RawValue) -> u64 {
    let json = value.get();
    let bytes = match json {
        "[]" | "{}" | "\"\"" | "null" => 0,
        _ if json.starts_with('"') => string_of(json).map_or(json.len(), |text| text.len()),
        _ => json.len(),
    };
    bytes as u64
}

/// As [`text_bytes`] of what is there.
fn bytes_of<const N: usize>(values: [Option<&RawValue>; N]) -> u64 {
    values.into_iter().flatten().map(text_bytes).sum()
}

/// Hands out the elements of an array that are objects of this kind.
fn each_object<'a, T: Deserialize<'a>>(array: Option<&'a RawValue>, mut see: impl FnMut(T)) {
    each_element(array.map_or("", RawValue::get), |element| {
        if let Some(object) = parse_object(element.as_bytes()) {
            see(object);
        }
        true
    });
}

/// The text of a JSON string, where there is one and it needs no unescaping, as names of types never do.
fn plain_text(value: Option<&RawValue>) -> &str {
    value.and_then(|value| value.get().strip_prefix('"')?.strip_suffix('"')).unwrap_or_default()
}
