//! Answers in OpenAI's shapes: one JSON object, or server-sent events with one token each.

use super::request::{Endpoint, Job};
use super::tokens::token_ends;
use super::{ApiError, EXTRACTIVE_SUMMARY_MODEL};
use crate::EngineBody;
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A finished text, ready to be sent whole or token by token.
#[derive(Debug)]
pub(super) struct Reply {
    endpoint: Endpoint,
    id: String,
    created: u64,
    text: String,
    /// Where each token ends, in bytes.
    ends: Vec<usize>,
    finish_reason: &'static str,
    prompt_tokens: usize,
    include_usage: bool,
}

impl Reply {
    /// Cuts `text` at the job's stop sequences and at its limit of tokens.
    pub(super) fn new(job: &Job, mut text: String) -> Self {
        if let Some(at) = job.stops.iter().filter_map(|stop| text.find(stop.as_str())).min() {
            text.truncate(at);
        }
        let mut ends = token_ends(&text);
        let mut finish_reason = "stop";
        if let Some(limit) = job.max_tokens.filter(|limit| *limit < ends.len()) {
            ends.truncate(limit);
            finish_reason = "length";
        }
        text.truncate(ends.last().copied().unwrap_or(0));
        Self {
            endpoint: job.endpoint,
            id: new_id(job.endpoint),
            created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            text,
            ends,
            finish_reason,
            prompt_tokens: job.prompt_tokens,
            include_usage: job.include_usage,
        }
    }

    /// The whole answer.
    pub(super) fn to_json(&self) -> Value {
        let choice = match self.endpoint {
            Endpoint::Chat => json!({
                "index": 0,
                "message": {"role": "assistant", "content": self.text, "refusal": null},
                "logprobs": null,
                "finish_reason": self.finish_reason,
            }),
            Endpoint::Completions => json!({
                "index": 0,
                "text": self.text,
                "logprobs": null,
                "finish_reason": self.finish_reason,
            }),
        };
        let object = match self.endpoint {
            Endpoint::Chat => "chat.completion",
            Endpoint::Completions => "text_completion",
        };
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": EXTRACTIVE_SUMMARY_MODEL,
            "choices": [choice],
            "usage": self.usage(),
        })
    }

    /// The answer as server-sent events, made one at a time as they are asked for; `delay` passes before each token.
    pub(super) fn into_events(self, delay: Option<Duration>) -> EngineBody {
        let first = match self.endpoint {
            Endpoint::Chat => Step::Role,
            Endpoint::Completions => Step::Token(0),
        };
        Box::pin(stream::unfold((self, first), move |(reply, step)| async move {
            let step = reply.skip_absent(step);
            if let (Step::Token(_), Some(delay)) = (step, delay) {
                tokio::time::sleep(delay).await;
            }
            let (event, next) = reply.event(step)?;
            Some((Ok(event), (reply, next)))
        }))
    }

    /// The step that really comes: no tokens after the last, no usage where nobody asked.
    fn skip_absent(&self, step: Step) -> Step {
        match step {
            Step::Token(at) if at >= self.ends.len() => Step::Finish,
            Step::Usage if !self.include_usage => Step::Done,
            step => step,
        }
    }

    fn event(&self, step: Step) -> Option<(Bytes, Step)> {
        Some(match step {
            Step::Role => (self.chunk(&json!({"role": "assistant", "content": ""}), None), Step::Token(0)),
            Step::Token(at) => {
                let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
                let piece = &self.text[start..self.ends[at]];
                (self.chunk(&json!({"content": piece}), None), Step::Token(at + 1))
            }
            Step::Finish => (self.chunk(&json!({}), Some(self.finish_reason)), Step::Usage),
            Step::Usage => {
                let mut chunk = self.envelope(json!([]));
                chunk["usage"] = self.usage();
                (event_bytes(&chunk), Step::Done)
            }
            Step::Done => (Bytes::from_static(b"data: [DONE]\n\n"), Step::End),
            Step::End => return None,
        })
    }

    fn chunk(&self, delta: &Value, finish_reason: Option<&str>) -> Bytes {
        let choice = match self.endpoint {
            Endpoint::Chat => {
                json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason})
            }
            Endpoint::Completions => {
                let text = delta.get("content").and_then(Value::as_str).unwrap_or_default();
                json!({"index": 0, "text": text, "logprobs": null, "finish_reason": finish_reason})
            }
        };
        let mut chunk = self.envelope(json!([choice]));
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        event_bytes(&chunk)
    }

    fn envelope(&self, choices: Value) -> Value {
        let object = match self.endpoint {
            Endpoint::Chat => "chat.completion.chunk",
            Endpoint::Completions => "text_completion",
        };
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": EXTRACTIVE_SUMMARY_MODEL,
            "choices": choices,
        })
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.ends.len(),
            "total_tokens": self.prompt_tokens + self.ends.len(),
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        })
    }
}

/// Where a stream of events is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Role,
    Token(usize),
    Finish,
    Usage,
    Done,
    End,
}

fn event_bytes(chunk: &Value) -> Bytes {
    Bytes::from(format!("data: {chunk}\n\n"))
}

/// An id that no other answer of this process has, and by its random keys most likely none at all.
fn new_id(endpoint: Endpoint) -> String {
    static KEYS: OnceLock<(RandomState, RandomState)> = OnceLock::new();
    static ANSWERS: AtomicU64 = AtomicU64::new(0);
    let (high, low) = KEYS.get_or_init(|| (RandomState::new(), RandomState::new()));
    let answer = ANSWERS.fetch_add(1, Ordering::Relaxed);
    let prefix = match endpoint {
        Endpoint::Chat => "chatcmpl",
        Endpoint::Completions => "cmpl",
    };
    format!("{prefix}-{:016x}{:016x}", high.hash_one(answer), low.hash_one(answer))
}

/// The body of a refusal.
pub(super) fn error_json(error: &ApiError) -> Value {
    json!({"error": {
        "message": error.message,
        "type": "invalid_request_error",
        "param": error.param,
        "code": error.code,
    }})
}

/// The list of models.
pub(super) fn models_json() -> Value {
    let model =
        json!({"id": EXTRACTIVE_SUMMARY_MODEL, "object": "model", "created": 0, "owned_by": "cocoon"});
    json!({"object": "list", "data": [model]})
}
