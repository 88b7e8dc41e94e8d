//! Anthropic's messages: typed events; usage at the start and, grown, before the end.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Observer, Role, Seen, bytes_of, each_object, parse_object, plain_text};
use crate::object::span_of;

impl Observer {
    pub(super) fn observe_messages(&mut self, data: &[u8]) -> Option<Seen> {
        let event = parse_object::<Event<'_>>(data)?;
        self.report.saw_error |= event.error.is_some();
        match plain_text(event.r#type) {
            "message_start" => {
                let message =
                    event.message.and_then(|message| parse_object::<Message<'_>>(message.get().as_bytes()));
                // No price belongs there: clients keep it beside the final counts.
                let told = self.tell(data, message.and_then(|message| message.usage));
                Some(Seen { span: None, ..told })
            }
            "content_block_start" | "content_block_delta" => {
                let block = event.content_block.or(event.delta);
                if let Some(block) = block.and_then(|block| parse_object::<Block<'_>>(block.get().as_bytes()))
                {
                    self.delta(block.bytes());
                }
                Some(Seen::default())
            }
            "message_delta" => {
                let mut seen = self.tell(data, event.usage);
                if seen.usage.is_some() {
                    seen.role = Role::Usage(0..data.len());
                }
                Some(seen)
            }
            "message_stop" => {
                self.report.saw_done = true;
                Some(Seen { role: Role::End, ..Seen::default() })
            }
            "error" => {
                self.report.saw_error = true;
                Some(Seen::default())
            }
            // `message`, or no type at all: the whole answer.
            "message" | "" => {
                self.whole = true;
                let message = parse_object::<Message<'_>>(data)?;
                each_object(message.content, |block: Block<'_>| self.report.content_bytes += block.bytes());
                Some(self.tell(data, message.usage))
            }
            _ => Some(Seen::default()),
        }
    }

    fn tell(&mut self, data: &[u8], usage: Option<&RawValue>) -> Seen {
        let told =
            usage.and_then(|usage| Some((span_of(data, usage.get())?, self.messages.take_in(usage.get())?)));
        let (span, usage) = told.unzip();
        Seen { span, usage, role: Role::Content }
    }
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content_block: Option<&'a RawValue>,
    #[serde(borrow, default)]
    delta: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

/// A block of content, or what is new in it. Signatures are no content.
#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    thinking: Option<&'a RawValue>,
    #[serde(borrow, default)]
    partial_json: Option<&'a RawValue>,
    #[serde(borrow, default)]
    name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

impl Block<'_> {
    fn bytes(&self) -> u64 {
        bytes_of([self.text, self.thinking, self.partial_json, self.name, self.input])
    }
}
