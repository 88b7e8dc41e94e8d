//! Reads what the pieces of an answer say, for metering: usage, content, and whether the answer is whole.

use std::collections::BTreeSet;
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::kind::BodyKind;
use crate::object::{span_of, string_of};
use crate::units::Unit;
use crate::usage::Usage;

/// Choices followed one by one to see that each has finished; an answer with more is not called complete by its
/// choices, only by `[DONE]`.
const MAX_CHOICES: usize = 1024;

/// What an answer was, as far as its bytes tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MeterReport {
    /// The last usage that the answer told; `None` where it told none.
    pub usage: Option<Usage>,
    /// Chunks of a stream with something new for the reader (`content`, `reasoning_content`, `reasoning`,
    /// `refusal`, `tool_calls`, `function_call` or `text`, not empty), summed over the choices. Zero for an answer
    /// that is not streamed.
    pub content_deltas: u64,
    /// Bytes of UTF-8 of all that text, for streams and whole answers alike.
    pub content_bytes: u64,
    /// `[DONE]` was seen.
    pub saw_done: bool,
    /// The answer carried an `error`, alone or in a stream.
    pub saw_error: bool,
    /// The answer came to its own end. A stream: no error, and `[DONE]` seen or every choice finished. One JSON
    /// body: it parsed. A body of another form: always, since only HTTP can tell.
    pub complete: bool,
    /// A limit was passed and the rest went unread, so that the numbers may be too small.
    pub gave_up: bool,
}

/// What one piece showed.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Where the `usage` object lies in the piece's data, and what it says.
    pub(crate) usage: Option<(Range<usize>, Usage)>,
    /// The piece has choices.
    pub(crate) has_choices: bool,
}

/// Sums up the pieces of one answer.
#[derive(Debug)]
pub(crate) struct Observer {
    kind: BodyKind,
    report: MeterReport,
    started: BTreeSet<u64>,
    finished: BTreeSet<u64>,
    parsed: bool,
}

impl Observer {
    pub(crate) fn new(kind: BodyKind) -> Self {
        Self {
            kind,
            report: MeterReport::default(),
            started: BTreeSet::new(),
            finished: BTreeSet::new(),
            parsed: false,
        }
    }

    pub(crate) fn observe(&mut self, unit: &Unit) -> Seen {
        if unit.is_done() {
            self.report.saw_done = true;
            return Seen::default();
        }
        let data = unit.data();
        let Some(chunk) = parse_object::<Chunk<'_>>(data) else { return Seen::default() };
        self.parsed = true;
        self.report.saw_error |= chunk.error.is_some();
        let usage = chunk.usage.and_then(|usage| {
            let json = usage.get();
            Some((span_of(data, json)?, Usage::from_json(json)?))
        });
        if let Some((_, usage)) = usage {
            self.report.usage = Some(usage);
        }
        let choices: Vec<&RawValue> =
            chunk.choices.and_then(|choices| serde_json::from_str(choices.get()).ok()).unwrap_or_default();
        for choice in &choices {
            self.observe_choice(choice.get());
        }
        Seen { usage, has_choices: !choices.is_empty() }
    }

    fn observe_choice(&mut self, json: &str) {
        let Some(choice) = parse_object::<Choice<'_>>(json.as_bytes()) else { return };
        let index = choice.index.and_then(|index| serde_json::from_str(index.get()).ok()).unwrap_or(0);
        if self.started.len() < MAX_CHOICES {
            self.started.insert(index);
        }
        if choice.finish_reason.is_some() && self.started.contains(&index) {
            self.finished.insert(index);
        }
        let mut bytes = choice.text.map_or(0, text_bytes);
        let whole = choice.delta.is_none();
        if let Some(delta) = choice.delta.or(choice.message)
            && let Some(delta) = parse_object::<Delta<'_>>(delta.get().as_bytes())
        {
            let texts = [delta.content, delta.reasoning_content.or(delta.reasoning), delta.refusal];
            bytes += texts.into_iter().flatten().map(text_bytes).sum::<u64>();
            bytes +=
                [delta.tool_calls, delta.function_call].into_iter().flatten().map(text_bytes).sum::<u64>();
        }
        self.report.content_bytes += bytes;
        let streamed = self.kind != BodyKind::Json && !(whole && choice.text.is_none());
        if bytes > 0 && streamed {
            self.report.content_deltas += 1;
        }
    }

    pub(crate) fn report(&self, gave_up: bool) -> MeterReport {
        let complete = match self.kind {
            BodyKind::Opaque => true,
            BodyKind::Json => self.parsed && !gave_up,
            BodyKind::Sse | BodyKind::JsonLines => {
                let all_finished = !self.started.is_empty()
                    && self.started.len() < MAX_CHOICES
                    && self.started.len() == self.finished.len();
                !self.report.saw_error && (self.report.saw_done || (all_finished && !gave_up))
            }
        };
        MeterReport { complete, gave_up, ..self.report }
    }
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    choices: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    index: Option<&'a RawValue>,
    #[serde(borrow, default)]
    delta: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    finish_reason: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow, default)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow, default)]
    function_call: Option<&'a RawValue>,
}

/// Reads an object into a struct; serde would take an array for one as well.
fn parse_object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    json.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(json).ok()).flatten()
}

/// Bytes of a text's UTF-8; of anything else that is not empty, bytes of its JSON.
fn text_bytes(value: &RawValue) -> u64 {
    let json = value.get();
    let bytes = match json {
        "[]" | "{}" | "\"\"" => 0,
        _ if json.starts_with('"') => string_of(json).map_or(json.len(), |text| text.len()),
        _ => json.len(),
    };
    bytes as u64
}
