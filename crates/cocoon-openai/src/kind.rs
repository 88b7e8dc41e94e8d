//! What form an answer's body has, as far as reading it goes.

use crate::endpoint::Endpoint;
use crate::sse::DEFAULT_EVENT_LIMIT_BYTES;

/// The form of an answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// Server-sent events (`text/event-stream`).
    Sse,
    /// One JSON object per line; published nodes stream in this form.
    JsonLines,
    /// One JSON object.
    Json,
    /// Plain text, as transcripts come: passed through at once; its bytes are counted.
    Text,
    /// Anything else, such as sound: passed through unread.
    Opaque,
}

impl BodyKind {
    /// Whether a body of this form is text that is of use only as a whole, so that it can be held until its price is known.
    #[must_use]
    pub const fn is_whole(self) -> bool {
        matches!(self, Self::Json | Self::Text)
    }

    /// Tells the form from the `Content-Type` and from whether the caller asked for a stream.
    ///
    /// `application/json` in answer to a streamed request is read line by line, which reads one object as well as
    /// many. Without a content type, a stream is taken for server-sent events.
    #[must_use]
    pub fn detect(content_type: Option<&str>, streaming: bool) -> Self {
        let Some(content_type) = content_type else {
            return if streaming { Self::Sse } else { Self::Json };
        };
        let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media.as_str() {
            "text/event-stream" => Self::Sse,
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines"
            | "application/json-lines"
            | "application/stream+json" => Self::JsonLines,
            "application/json" if streaming => Self::JsonLines,
            "application/json" => Self::Json,
            "text/plain" | "text/vtt" | "text/srt" | "application/x-subrip" => Self::Text,
            _ => Self::Opaque,
        }
    }
}

/// How much of an answer is held in memory at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// Largest single event or line, in bytes. Beyond it the rest passes through unread.
    pub event_bytes: usize,
    /// Largest whole JSON body, in bytes. Beyond it the body passes through unread.
    pub json_bytes: usize,
}

/// Largest single event of an endpoint whose events hold whole answers or images, in bytes.
const LARGE_EVENT_BYTES: usize = 16 << 20;

impl BodyLimits {
    /// The limits for answers of an endpoint: as [`Self::default`], but 16 MiB per event where an event may hold a whole
    /// answer or an image.
    #[must_use]
    pub fn of(endpoint: Endpoint) -> Self {
        match endpoint {
            Endpoint::Chat | Endpoint::Completions | Endpoint::Messages => Self::default(),
            _ => Self { event_bytes: LARGE_EVENT_BYTES, ..Self::default() },
        }
    }
}

impl Default for BodyLimits {
    /// 1 MiB per event, 16 MiB per JSON body.
    fn default() -> Self {
        Self { event_bytes: DEFAULT_EVENT_LIMIT_BYTES, json_bytes: 16 << 20 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_tell_the_form() {
        let detect = BodyKind::detect;
        assert_eq!(detect(Some("text/event-stream; charset=utf-8"), true), BodyKind::Sse);
        assert_eq!(detect(Some("Text/Event-Stream"), false), BodyKind::Sse);
        assert_eq!(detect(Some("application/json"), true), BodyKind::JsonLines);
        assert_eq!(detect(Some("application/json;charset=utf-8"), false), BodyKind::Json);
        assert_eq!(detect(Some("application/x-ndjson"), false), BodyKind::JsonLines);
        assert_eq!(detect(Some("text/html"), true), BodyKind::Opaque);
        assert_eq!(detect(Some("text/plain; charset=utf-8"), false), BodyKind::Text);
        assert_eq!(detect(Some("audio/mpeg"), false), BodyKind::Opaque);
        assert_eq!((detect(None, true), detect(None, false)), (BodyKind::Sse, BodyKind::Json));
    }
}
