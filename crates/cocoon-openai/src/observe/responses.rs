//! The responses API: typed, numbered events; the last one holds the whole answer with its usage.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Observer, Role, Seen, bytes_of, each_object, parse_object, plain_text, text_bytes};
use crate::object::span_of;

impl Observer {
    pub(super) fn observe_response(&mut self, data: &[u8]) -> Option<Seen> {
        let event = parse_object::<Event<'_>>(data)?;
        if let Some(number) = event.sequence_number.and_then(|number| number.get().parse::<u64>().ok()) {
            self.report.next_sequence = Some(number.saturating_add(1));
        }
        let kind = plain_text(event.r#type);
        let terminal = match kind {
            "response.completed" | "response.incomplete" => true,
            "response.failed" | "response.cancelled" => {
                self.report.saw_error = true;
                true
            }
            "error" => {
                self.report.saw_error = true;
                return Some(Seen::default());
            }
            // No type: the whole answer, or an engine's error.
            "" => {
                self.whole = true;
                let answer = parse_object::<Answer<'_>>(data)?;
                self.observe_answer(&answer);
                let (span, usage) = self.usage_in(data, answer.usage);
                return Some(Seen { span, usage, role: Role::Content });
            }
            _ => false,
        };
        if kind.ends_with(".delta")
            && let Some(delta) = event.delta
        {
            let bytes = text_bytes(delta);
            if kind == "response.audio.delta" {
                self.report.media_bytes += bytes;
                self.report.content_deltas += u64::from(bytes > 0);
            } else {
                self.delta(bytes);
            }
        }
        let Some(response) = event.response else { return Some(Seen::default()) };
        let Some(answer) = parse_object::<Answer<'_>>(response.get().as_bytes()) else {
            return Some(Seen::default());
        };
        if terminal {
            self.report.saw_done = true;
            if self.report.content_deltas == 0 {
                self.observe_answer(&answer);
            }
        }
        let (span, usage) = self.usage_in(data, answer.usage);
        let role = match span_of(data, response.get()) {
            Some(object) if terminal => Role::Usage(object),
            _ => Role::Content,
        };
        Some(Seen { span, usage, role })
    }

    fn observe_answer(&mut self, answer: &Answer<'_>) {
        self.report.saw_error |= answer.error.is_some();
        each_object(answer.output, |item: Item<'_>| {
            let mut bytes = bytes_of([item.name, item.arguments, item.input]);
            for parts in [item.content, item.summary] {
                each_object(parts, |part: Part<'_>| {
                    bytes += bytes_of([part.text, part.refusal, part.transcript]);
                });
            }
            self.report.content_bytes += bytes;
        });
    }
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow, default)]
    delta: Option<&'a RawValue>,
    #[serde(borrow, default)]
    response: Option<&'a RawValue>,
    #[serde(borrow, default)]
    sequence_number: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, default)]
    output: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// A message, a piece of reasoning or a call of a tool.
#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    summary: Option<&'a RawValue>,
    #[serde(borrow, default)]
    name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow, default)]
    transcript: Option<&'a RawValue>,
}
