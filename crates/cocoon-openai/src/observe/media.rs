//! Transcripts, speech and images: one JSON object, or typed events of which the last holds the usage.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Observer, Role, Seen, bytes_of, each_object, parse_object, plain_text, text_bytes};
use crate::kind::BodyKind;
use crate::usage::{Usage, read_seconds};

impl Observer {
    pub(super) fn observe_transcript(&mut self, data: &[u8]) -> Option<Seen> {
        let event = parse_object::<Transcript<'_>>(data)?;
        if event.choices.is_some() {
            // vLLM streams transcripts as it streams chats.
            return self.observe_choices(data);
        }
        self.report.saw_error |= event.error.is_some();
        let mut role = Role::Content;
        match plain_text(event.r#type) {
            "transcript.text.delta" => {
                if let Some(delta) = event.delta {
                    self.delta(text_bytes(delta));
                }
                return Some(Seen::default());
            }
            "transcript.text.done" => {
                self.report.saw_done = true;
                if self.report.content_deltas == 0 {
                    self.report.content_bytes += bytes_of([event.text]);
                }
                role = Role::Usage(0..data.len());
            }
            "error" => {
                self.report.saw_error = true;
                return Some(Seen::default());
            }
            "" => {
                self.whole = true;
                self.report.content_bytes += bytes_of([event.text]);
            }
            _ => return Some(Seen::default()),
        }
        let (span, usage) = self.usage_in(data, event.usage);
        let usage = usage.or_else(|| {
            Some(Usage::of_sound(read_seconds(event.duration?.get())?, self.report.content_bytes))
        });
        Some(Seen { span, usage, role })
    }

    /// Speech in events, and images.
    pub(super) fn observe_media(&mut self, data: &[u8]) -> Option<Seen> {
        let event = parse_object::<Media<'_>>(data)?;
        self.report.saw_error |= event.error.is_some();
        self.report.media_bytes += bytes_of([event.audio, event.b64_json]);
        let kind = plain_text(event.r#type);
        let role = if kind.ends_with(".done") || kind.ends_with(".completed") {
            self.report.saw_done = true;
            Role::Usage(0..data.len())
        } else {
            self.report.saw_error |= kind == "error";
            self.whole |= kind.is_empty();
            Role::Content
        };
        each_object(event.data, |image: Image<'_>| {
            self.report.media_bytes += bytes_of([image.b64_json]);
            self.report.content_bytes += bytes_of([image.url, image.revised_prompt]);
        });
        let (span, usage) = self.usage_in(data, event.usage);
        let role = if self.kind == BodyKind::Json { Role::Content } else { role };
        Some(Seen { span, usage, role })
    }
}

#[derive(Deserialize)]
struct Transcript<'a> {
    #[serde(borrow, default)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow, default)]
    delta: Option<&'a RawValue>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    duration: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    choices: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Media<'a> {
    #[serde(borrow, default)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow, default)]
    audio: Option<&'a RawValue>,
    #[serde(borrow, default)]
    b64_json: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Image<'a> {
    #[serde(borrow, default)]
    b64_json: Option<&'a RawValue>,
    #[serde(borrow, default)]
    url: Option<&'a RawValue>,
    #[serde(borrow, default)]
    revised_prompt: Option<&'a RawValue>,
}
