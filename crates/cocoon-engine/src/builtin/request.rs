//! Reading OpenAI-style requests: bytes in, a [`Job`] or an [`ApiError`] out.

use super::EXTRACTIVE_SUMMARY_MODEL;
use super::instructions;
use super::summary::Length;
use super::tokens::count_tokens;
use http::StatusCode;
use serde_json::{Map, Value};

/// The largest request body, in bytes.
pub const MAX_BODY_BYTES: usize = 16 << 20;
/// The most tokens of a last user message that may stand for "do it with all of the above".
const MAX_SHORT_MESSAGE_TOKENS: usize = 40;
/// The most stop sequences in one request, as in OpenAI's API.
const MAX_STOPS: usize = 4;

/// A refusal, in the shape of OpenAI's errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) message: String,
    /// The field at fault.
    pub(super) param: Option<&'static str>,
    pub(super) code: Option<&'static str>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None }
    }

    fn field(param: &'static str, message: impl Into<String>) -> Self {
        Self { param: Some(param), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }
}

/// Which of the two endpoints is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Chat,
    Completions,
}

/// A request understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) endpoint: Endpoint,
    /// The text to summarise.
    pub(super) text: String,
    /// Sentences asked for in words.
    pub(super) sentences: Option<usize>,
    /// The most tokens of the answer.
    pub(super) max_tokens: Option<usize>,
    /// The answer ends before the first of these.
    pub(super) stops: Vec<String>,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    /// Tokens of all that was sent as text, in whatever role.
    pub(super) prompt_tokens: usize,
}

impl Job {
    /// Reads the body of a request to `endpoint`.
    pub(super) fn read(endpoint: Endpoint, body: &[u8]) -> Result<Self, ApiError> {
        if body.len() > MAX_BODY_BYTES {
            let message = format!("the body has {} bytes, over the limit of {MAX_BODY_BYTES}", body.len());
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        // The parser's words name a line and a column, never the text.
        let value: Value = serde_json::from_slice(body).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            ApiError::new(StatusCode::BAD_REQUEST, format!("the body is not valid JSON at {place}"))
        })?;
        let Value::Object(fields) = value else {
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "the body must be a JSON object"));
        };
        check_model(&fields)?;
        check_unsupported(&fields)?;
        let stream = flag(&fields, "stream")?;
        let job = Self {
            endpoint,
            text: String::new(),
            sentences: None,
            max_tokens: max_tokens(&fields)?,
            stops: stops(&fields)?,
            stream,
            include_usage: stream && include_usage(&fields)?,
            prompt_tokens: 0,
        };
        match endpoint {
            Endpoint::Chat => job.with_messages(&messages(&fields)?),
            Endpoint::Completions => job.with_prompt(prompt(&fields)?),
        }
    }

    pub(super) fn length(&self) -> Length {
        Length { sentences: self.sentences, tokens: self.max_tokens }
    }

    fn with_prompt(mut self, prompt: &str) -> Result<Self, ApiError> {
        let parted = instructions::part(prompt);
        self.prompt_tokens = count_tokens(prompt);
        self.sentences = parted.sentences;
        parted.text.clone_into(&mut self.text);
        Ok(self)
    }

    /// The last message of the user is the text, without its instruction. If it is short, and the user said something
    /// longer before, then it is the instruction, and the conversation is the text.
    fn with_messages(mut self, messages: &[Message]) -> Result<Self, ApiError> {
        let tokens: Vec<usize> = messages.iter().map(|message| count_tokens(&message.text)).collect();
        self.prompt_tokens = tokens.iter().sum();
        let is_user = |message: &Message| message.role == Role::User;
        let Some(last) = messages.iter().rposition(is_user) else {
            self.text = joined(messages.iter());
            return Ok(self);
        };
        let last_tokens = tokens[last];
        let longer_before = (0..last).any(|at| is_user(&messages[at]) && tokens[at] > last_tokens);
        if last_tokens <= MAX_SHORT_MESSAGE_TOKENS && longer_before {
            let said = messages
                .iter()
                .enumerate()
                .filter(|(at, message)| *at != last && message.role != Role::Other);
            self.text = joined(said.map(|(_, message)| message));
            self.sentences = instructions::sentences_asked(&messages[last].text);
        } else {
            let parted = instructions::part(&messages[last].text);
            self.sentences = parted.sentences;
            parted.text.clone_into(&mut self.text);
        }
        if self.sentences.is_none() {
            let others = messages.iter().filter(|message| message.role == Role::Other);
            self.sentences =
                others.filter_map(|message| instructions::sentences_asked(&message.text)).next_back();
        }
        Ok(self)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    User,
    Assistant,
    /// System, developer, tool: counted, but not a part of the conversation.
    Other,
}

struct Message {
    role: Role,
    text: String,
}

fn joined<'a>(messages: impl Iterator<Item = &'a Message>) -> String {
    messages.map(|message| message.text.as_str()).collect::<Vec<_>>().join("\n\n")
}

/// A field that is there and is not null.
fn given<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

fn check_model(fields: &Map<String, Value>) -> Result<(), ApiError> {
    let Some(model) = given(fields, "model") else { return Ok(()) };
    let Value::String(model) = model else { return Err(ApiError::field("model", "model must be a string")) };
    // What follows `@` in Cocoon's names is the commit and hash of the weights.
    if model.split('@').next() == Some(EXTRACTIVE_SUMMARY_MODEL) {
        return Ok(());
    }
    let message = format!("this engine serves only the model {EXTRACTIVE_SUMMARY_MODEL}");
    let error = ApiError { status: StatusCode::NOT_FOUND, ..ApiError::field("model", message) };
    Err(ApiError { code: Some("model_not_found"), ..error })
}

/// Refuses what would be answered wrongly if it were ignored.
fn check_unsupported(fields: &Map<String, Value>) -> Result<(), ApiError> {
    for name in ["n", "best_of"] {
        if given(fields, name).is_some_and(|value| value.as_u64() != Some(1)) {
            return Err(ApiError::field(
                name,
                format!("{name} must be 1: the summary of a text is always the same"),
            ));
        }
    }
    if flag(fields, "echo")? {
        return Err(ApiError::field("echo", "echo is not supported by this engine"));
    }
    let format = given(fields, "response_format").and_then(|format| format.get("type"));
    if format.is_some_and(|kind| kind != "text") {
        return Err(ApiError::field("response_format", "this engine answers in plain text only"));
    }
    // `auto` and `none` are kept by calling none.
    if given(fields, "tool_choice").is_some_and(|choice| choice != "auto" && choice != "none") {
        return Err(ApiError::field("tool_choice", "this engine calls no tools; use \"auto\" or \"none\""));
    }
    Ok(())
}

fn flag(fields: &Map<String, Value>, name: &'static str) -> Result<bool, ApiError> {
    match given(fields, name) {
        None => Ok(false),
        Some(Value::Bool(on)) => Ok(*on),
        Some(_) => Err(ApiError::field(name, format!("{name} must be true or false"))),
    }
}

fn include_usage(fields: &Map<String, Value>) -> Result<bool, ApiError> {
    match given(fields, "stream_options") {
        None => Ok(false),
        Some(Value::Object(options)) => flag(options, "include_usage"),
        Some(_) => Err(ApiError::field("stream_options", "stream_options must be an object")),
    }
}

/// The smaller of the two limits that a request can name.
fn max_tokens(fields: &Map<String, Value>) -> Result<Option<usize>, ApiError> {
    let mut least = None;
    for name in ["max_tokens", "max_completion_tokens"] {
        let Some(value) = given(fields, name) else { continue };
        let Some(limit) = value.as_u64().filter(|limit| *limit > 0) else {
            return Err(ApiError::field(name, format!("{name} must be a whole number, at least 1")));
        };
        // A limit beyond what memory can hold is no limit.
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        least = Some(least.map_or(limit, |other: usize| other.min(limit)));
    }
    Ok(least)
}

fn stops(fields: &Map<String, Value>) -> Result<Vec<String>, ApiError> {
    let wrong = || ApiError::field("stop", format!("stop must be a string or up to {MAX_STOPS} strings"));
    let stops: Vec<String> = match given(fields, "stop") {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop.clone()],
        Some(Value::Array(stops)) if stops.len() <= MAX_STOPS => stops
            .iter()
            .map(|stop| stop.as_str().map(str::to_owned).ok_or_else(wrong))
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(wrong()),
    };
    Ok(stops.into_iter().filter(|stop| !stop.is_empty()).collect())
}

fn prompt(fields: &Map<String, Value>) -> Result<&str, ApiError> {
    let wrong = || ApiError::field("prompt", "prompt must be a string, or an array of exactly one string");
    match given(fields, "prompt") {
        Some(Value::String(prompt)) => Ok(prompt),
        Some(Value::Array(prompts)) => match prompts.as_slice() {
            [Value::String(prompt)] => Ok(prompt),
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}

fn messages(fields: &Map<String, Value>) -> Result<Vec<Message>, ApiError> {
    match given(fields, "messages") {
        Some(Value::Array(messages)) if !messages.is_empty() => messages.iter().map(message).collect(),
        _ => Err(ApiError::field("messages", "messages must be an array with at least one message")),
    }
}

fn message(value: &Value) -> Result<Message, ApiError> {
    let role = match value.get("role").and_then(Value::as_str) {
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some(_) => Role::Other,
        None => return Err(ApiError::field("messages", "each message must be an object with a role")),
    };
    let text = match value.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            parts.iter().map(part_text).collect::<Result<Vec<&str>, ApiError>>()?.join("\n")
        }
        // An assistant that only called tools said nothing.
        None | Some(Value::Null) if role == Role::Assistant => String::new(),
        _ => {
            return Err(ApiError::field(
                "messages",
                "the content of a message must be a string or an array of parts",
            ));
        }
    };
    Ok(Message { role, text })
}

fn part_text(part: &Value) -> Result<&str, ApiError> {
    let text = part
        .get("text")
        .and_then(Value::as_str)
        .filter(|_| part.get("type").is_some_and(|kind| kind == "text"));
    text.ok_or_else(|| ApiError::field("messages", "this engine reads only parts of the type text"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn chat(body: &Value) -> Result<Job, ApiError> {
        Job::read(Endpoint::Chat, body.to_string().as_bytes())
    }

    fn complete(body: &Value) -> Result<Job, ApiError> {
        Job::read(Endpoint::Completions, body.to_string().as_bytes())
    }

    #[test]
    fn the_last_user_message_is_the_text() {
        let job = chat(&json!({"model": "builtin/extractive-summary", "messages": [
            {"role": "system", "content": "Answer in 2 sentences."},
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": null},
            {"role": "user", "content": [{"type": "text", "text": "Summarise this:"}, {"type": "text", "text": "A text."}]},
        ]}))
        .unwrap();
        assert_eq!((job.text.as_str(), job.sentences, job.prompt_tokens), ("A text.", Some(2), 5 + 2 + 6));
    }

    #[test]
    fn a_short_last_message_asks_about_the_conversation() {
        let job = chat(&json!({"messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "A long story about a bridge, a river and a council that could not agree."},
            {"role": "assistant", "content": "I see."},
            {"role": "user", "content": "Summarise the conversation in one sentence"},
        ]}))
        .unwrap();
        assert_eq!(
            job.text,
            "A long story about a bridge, a river and a council that could not agree.\n\nI see."
        );
        assert_eq!(job.sentences, Some(1));
    }

    #[test]
    fn options_are_read() {
        let job = complete(&json!({"prompt": ["Text."], "max_tokens": 7, "max_completion_tokens": 5, "n": 1,
            "stop": "x", "stream": true, "stream_options": {"include_usage": true}, "temperature": 0.7}))
        .unwrap();
        assert_eq!(job.max_tokens, Some(5));
        assert!(job.stream && job.include_usage);
        assert_eq!((job.stops, job.text.as_str()), (vec!["x".to_owned()], "Text."));
    }

    #[test]
    fn wrong_requests_name_the_field_at_fault() {
        let user = json!([{"role": "user", "content": "x"}]);
        for (body, param) in [
            (json!({}), "messages"),
            (json!({"messages": []}), "messages"),
            (json!({"messages": [{"content": "x"}]}), "messages"),
            (json!({"messages": ["x"]}), "messages"),
            (json!({"messages": [{"role": "user"}]}), "messages"),
            (json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "messages"),
            (json!({"messages": user, "n": 2}), "n"),
            (json!({"messages": user, "max_tokens": 0}), "max_tokens"),
            (json!({"messages": user, "max_tokens": 1.5}), "max_tokens"),
            (json!({"messages": user, "stream": "yes"}), "stream"),
            (json!({"messages": user, "stop": [1]}), "stop"),
            (json!({"messages": user, "stream": true, "stream_options": 1}), "stream_options"),
            (json!({"messages": user, "response_format": {"type": "json_object"}}), "response_format"),
            (json!({"messages": user, "tool_choice": "required"}), "tool_choice"),
            (json!({"messages": user, "tool_choice": {"type": "function"}}), "tool_choice"),
        ] {
            let error = chat(&body).unwrap_err();
            assert_eq!((error.status, error.param), (StatusCode::BAD_REQUEST, Some(param)), "{body}");
        }
        assert_eq!(complete(&json!({"prompt": ["a", "b"]})).unwrap_err().param, Some("prompt"));
        assert_eq!(complete(&json!({"prompt": [1, 2]})).unwrap_err().param, Some("prompt"));
    }

    #[test]
    fn another_model_is_not_found_and_a_full_name_is() {
        let error = complete(&json!({"prompt": "x", "model": "gpt"})).unwrap_err();
        assert_eq!((error.status, error.code), (StatusCode::NOT_FOUND, Some("model_not_found")));
        assert!(complete(&json!({"prompt": "x", "model": "builtin/extractive-summary@v1:00"})).is_ok());
    }

    #[test]
    fn a_body_over_the_limit_or_no_json_is_refused() {
        let status = |body: &[u8]| Job::read(Endpoint::Chat, body).unwrap_err().status;
        assert_eq!(status(&vec![b' '; MAX_BODY_BYTES + 1]), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(status(&vec![b' '; MAX_BODY_BYTES]), StatusCode::BAD_REQUEST);
        assert_eq!(status(b"{"), StatusCode::BAD_REQUEST);
        assert_eq!(status(b"[]"), StatusCode::BAD_REQUEST);
        assert_eq!(status(&b"[".repeat(100_000)), StatusCode::BAD_REQUEST);
    }
}
