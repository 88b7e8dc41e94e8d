//! Chat and completions: choices, deltas, `[DONE]`.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Observer, Role, Seen, bytes_of, parse_object, text_bytes};
use crate::kind::BodyKind;
use crate::object::each_element;

/// Choices followed one by one to see that each has finished; an answer with more is not called complete by its
/// choices, only by `[DONE]`.
const MAX_CHOICES: usize = 1024;

/// The choices of a stream that have begun, and those that have ended.
#[derive(Debug, Default)]
pub(super) struct Choices {
    started: BTreeSet<u64>,
    finished: BTreeSet<u64>,
}

impl Choices {
    pub(super) fn all_finished(&self) -> bool {
        !self.started.is_empty()
            && self.started.len() < MAX_CHOICES
            && self.started.len() == self.finished.len()
    }
}

impl Observer {
    pub(super) fn observe_choices(&mut self, data: &[u8]) -> Option<Seen> {
        let chunk = parse_object::<Chunk<'_>>(data)?;
        self.report.saw_error |= chunk.error.is_some();
        let mut choices = 0_usize;
        each_element(chunk.choices.map_or("", RawValue::get), |choice| {
            choices += 1;
            self.observe_choice(choice);
            true
        });
        let (span, usage) = self.usage_in(data, chunk.usage);
        let role = match usage {
            Some(_) if choices == 0 => Role::Usage(0..data.len()),
            _ => Role::Content,
        };
        Some(Seen { span, usage, role })
    }

    fn observe_choice(&mut self, json: &str) {
        let Some(choice) = parse_object::<Choice<'_>>(json.as_bytes()) else { return };
        let index = choice.index.and_then(|index| serde_json::from_str(index.get()).ok()).unwrap_or(0);
        let Choices { started, finished } = &mut self.choices;
        if started.len() < MAX_CHOICES {
            started.insert(index);
        }
        if choice.finish_reason.is_some() && started.contains(&index) {
            finished.insert(index);
        }
        let mut bytes = choice.text.map_or(0, text_bytes);
        let mut media = 0;
        let whole = choice.delta.is_none();
        if let Some(delta) = choice.delta.or(choice.message)
            && let Some(delta) = parse_object::<Delta<'_>>(delta.get().as_bytes())
        {
            bytes += bytes_of([delta.content, delta.reasoning_content.or(delta.reasoning), delta.refusal]);
            bytes += bytes_of([delta.tool_calls, delta.function_call]);
            if let Some(audio) =
                delta.audio.and_then(|audio| parse_object::<Audio<'_>>(audio.get().as_bytes()))
            {
                bytes += bytes_of([audio.transcript]);
                media = bytes_of([audio.data]);
            }
        }
        self.report.content_bytes += bytes;
        self.report.media_bytes += media;
        let streamed = self.kind != BodyKind::Json && !(whole && choice.text.is_none());
        if bytes + media > 0 && streamed {
            self.report.content_deltas += 1;
        }
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
    #[serde(borrow, default)]
    audio: Option<&'a RawValue>,
}

/// Sound in an answer: its data in base64, and what is said.
#[derive(Deserialize)]
struct Audio<'a> {
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    transcript: Option<&'a RawValue>,
}
