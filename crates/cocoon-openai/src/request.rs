//! Reads a request for a completion once, at the door: takes out what is the gateway's business, sets the limits
//! that a reservation relies on, and leaves every other byte as the caller wrote it.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::endpoint::Endpoint;
use crate::error::ApiError;
use crate::object::{ObjectError, RawObject, string_of};

/// Highest price coefficient, in thousandths, that a caller pays who names none; as published.
pub const DEFAULT_MAX_COEFFICIENT: i32 = 4000;
/// Deadline of a request that names none, in seconds; as published.
pub const DEFAULT_TIMEOUT_SECONDS: u64 = 120;
/// Longest deadline, in seconds (one hour); longer ones are read as this one.
pub const MAX_TIMEOUT_SECONDS: f64 = 3600.0;
/// Limit on the answer, in tokens, that is written into a request that names none.
pub const DEFAULT_MAX_TOKENS: i32 = 4096;
/// Highest price coefficient that the network knows, in thousandths; higher caps are read as this one.
const HIGHEST_COEFFICIENT: i32 = 999_999_999;
/// Fields that decide how much an engine works and what is paid for it.
const BINDING: [&str; 11] = [
    "best_of",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "model",
    "n",
    "n_cmpl",
    "n_predict",
    "prompt",
    "stream",
    "stream_options",
];

/// What is read into a request that leaves it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestDefaults {
    /// Limit on each choice, in tokens, that is written into the body; negative counts as 0.
    pub max_tokens: i32,
    /// Highest price coefficient, in thousandths.
    pub max_coefficient: i32,
    /// Deadline.
    pub timeout: Duration,
}

impl Default for RequestDefaults {
    /// [`DEFAULT_MAX_TOKENS`], [`DEFAULT_MAX_COEFFICIENT`] and [`DEFAULT_TIMEOUT_SECONDS`].
    fn default() -> Self {
        Self {
            max_tokens: DEFAULT_MAX_TOKENS,
            max_coefficient: DEFAULT_MAX_COEFFICIENT,
            timeout: Duration::from_secs(DEFAULT_TIMEOUT_SECONDS),
        }
    }
}

/// What a caller prefers among the workers that it accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preference {
    /// Cheap and fast, weighed against each other.
    #[default]
    Balanced,
    /// The lowest price.
    Cheapest,
    /// The shortest time.
    Fastest,
}

impl Preference {
    /// Its number in the protocol's `cocoon.requestOptions`.
    #[must_use]
    pub const fn to_wire(self) -> i32 {
        match self {
            Self::Balanced => 0,
            Self::Cheapest => 1,
            Self::Fastest => 2,
        }
    }
}

/// A request that was read, and the body to forward.
#[derive(Debug, Clone, PartialEq)]
pub struct PreparedRequest {
    /// The endpoint it was read for.
    pub endpoint: Endpoint,
    /// The model's name as the caller wrote it; not empty.
    pub model: String,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Whether the caller set `stream_options.include_usage` to true.
    pub caller_wants_usage: bool,
    /// Limit on each choice, in tokens: the caller's, or the default.
    pub max_tokens: i32,
    /// Limit on the whole answer, in tokens: `max_tokens` times choices (`n` or `best_of`) times prompts.
    pub completion_bound: i32,
    /// Highest price coefficient that the caller accepts, in thousandths.
    pub max_coefficient: i32,
    /// The caller's deadline; above zero, at most [`MAX_TIMEOUT_SECONDS`].
    pub timeout: Duration,
    /// Whether the caller asked for debugging data.
    pub enable_debug: bool,
    /// The caller's own name for the request.
    pub request_guid: Option<String>,
    /// What the caller prefers among workers.
    pub preference: Preference,
    /// Bits of [`crate::ability`] that a worker must have.
    pub needs: u32,
    /// The body to forward: without the gateway's fields, with an explicit limit, and, for a stream, with
    /// `stream_options.include_usage` set to true.
    pub body: Bytes,
}

/// Why a request can't be served as it stands: a 400 for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// The field at fault, where it is one.
    pub param: Option<Cow<'static, str>>,
    /// OpenAI's code for the kind of fault.
    pub code: &'static str,
    /// What is wrong and what would be right; quotes nothing but a field's name.
    pub message: String,
}

impl RequestError {
    pub(crate) fn body(message: impl Into<String>) -> Self {
        Self { param: None, code: "invalid_json", message: message.into() }
    }

    pub(crate) fn duplicate(field: String) -> Self {
        let message = format!("The field '{field}' occurs twice; send it once.");
        Self { param: Some(Cow::Owned(field)), code: "duplicate_parameter", message }
    }

    fn lookalike(field: &str, meant: &str) -> Self {
        let message = format!("Unknown parameter: '{field}'. Some engines read it as '{meant}'; write that.");
        Self { param: Some(Cow::Owned(field.to_owned())), code: "unknown_parameter", message }
    }

    fn missing(param: &'static str) -> Self {
        let message = format!("Missing required parameter: '{param}'.");
        Self { param: Some(Cow::Borrowed(param)), code: "missing_required_parameter", message }
    }

    fn wrong_type(param: &'static str, expected: &str) -> Self {
        let message = format!("Invalid type for '{param}': expected {expected}.");
        Self { param: Some(Cow::Borrowed(param)), code: "invalid_type", message }
    }

    fn wrong_value(param: &'static str, expected: &str) -> Self {
        let message = format!("Invalid value for '{param}': expected {expected}.");
        Self { param: Some(Cow::Borrowed(param)), code: "invalid_value", message }
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        Self::invalid_request(error.param.as_deref(), error.code, error.message)
    }
}

impl PreparedRequest {
    /// Reads the body of a request; `default_max_tokens` (negative counts as 0) is the limit written into a body
    /// that names none.
    ///
    /// `max_completion_tokens` wins over `max_tokens`, which is then set to the same: not every engine knows the
    /// newer name. A limit above `i32::MAX` is lowered to it; `n_predict`, which llama.cpp puts above `max_tokens`, is
    /// lowered to the limit. `null` counts as absent. A field that occurs twice, or differs from one that matters here
    /// in nothing but the case of its letters, is refused: the engine might read another one than was paid for.
    ///
    /// # Errors
    /// [`RequestError`] where the body is not one JSON object in UTF-8, or a field that matters here is missing or
    /// out of range. Other fields are not looked at.
    pub fn parse(body: &[u8], endpoint: Endpoint, default_max_tokens: i32) -> Result<Self, RequestError> {
        let defaults = RequestDefaults { max_tokens: default_max_tokens, ..RequestDefaults::default() };
        Self::parse_with(body, endpoint, &defaults)
    }

    /// As [`Self::parse`], with all defaults given.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_with(
        body: &[u8],
        endpoint: Endpoint,
        defaults: &RequestDefaults,
    ) -> Result<Self, RequestError> {
        let text =
            std::str::from_utf8(body).map_err(|_| RequestError::body("The body is not valid UTF-8."))?;
        if !text.trim_ascii_start().starts_with('{') {
            return Err(RequestError::body("The body must be a JSON object."));
        }
        let mut object = RawObject::parse(body).map_err(|error| match error {
            ObjectError::Syntax { line, column } => {
                RequestError::body(format!("The body is not valid JSON: line {line}, column {column}."))
            }
            ObjectError::Duplicate(field) => RequestError::duplicate(field),
        })?;
        refuse_ambiguous(&object)?;
        let model = read_model(&object)?;
        let prompts = count_prompts(&object, endpoint)?;
        let choices = read_choices(&object)?;
        let stream = read_bool(object.get_set("stream"), "stream")?;
        let max_coefficient = take_max_coefficient(&mut object, defaults.max_coefficient)?;
        let timeout = take_timeout(&mut object, defaults.timeout)?;
        let enable_debug = read_bool(take(&mut object, "enable_debug").as_deref(), "enable_debug")?;
        let request_guid = take_guid(&mut object)?;
        let max_tokens = set_limit(&mut object, defaults.max_tokens.max(0))?;
        let caller_wants_usage = if stream { ask_for_usage(&mut object)? } else { false };
        let completion_bound = choices
            .checked_mul(prompts)
            .and_then(|factor| i32::try_from(factor).ok()?.checked_mul(max_tokens))
            .ok_or_else(|| RequestError::wrong_value("n", "max_tokens times choices to be below 2^31"))?;
        let body = object.to_json().into();
        Ok(Self {
            endpoint,
            model,
            stream,
            caller_wants_usage,
            max_tokens,
            completion_bound,
            max_coefficient,
            timeout,
            enable_debug,
            request_guid,
            preference: Preference::default(),
            needs: endpoint.ability(),
            body,
        })
    }
}

/// Refuses fields that a reader which ignores case, as Go's is, would take for one of `fields`.
fn refuse_lookalikes(object: &RawObject<'_>, fields: &[&str]) -> Result<(), RequestError> {
    let plain = |letter: char| match letter {
        // The two letters beyond ASCII whose other case is an ASCII letter.
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_ascii_lowercase(),
    };
    for key in object.keys() {
        let alike = |field: &&&str| **field != key && key.chars().map(plain).eq(field.chars());
        if let Some(meant) = fields.iter().find(alike) {
            return Err(RequestError::lookalike(key, meant));
        }
    }
    Ok(())
}

/// Refuses fields that the engine might take for one that decides about work and pay.
pub(crate) fn refuse_ambiguous(object: &RawObject<'_>) -> Result<(), RequestError> {
    refuse_lookalikes(object, &BINDING)
}

pub(crate) fn read_model(object: &RawObject<'_>) -> Result<String, RequestError> {
    let json = object.get_set("model").ok_or_else(|| RequestError::missing("model"))?;
    let model = string_of(json).ok_or_else(|| RequestError::wrong_type("model", "a string"))?;
    if model.is_empty() {
        return Err(RequestError::wrong_value("model", "the name of a model"));
    }
    Ok(model.into_owned())
}

/// How many prompts the request asks to complete: more than one only for an array of texts or of token arrays.
fn count_prompts(object: &RawObject<'_>, endpoint: Endpoint) -> Result<u64, RequestError> {
    let field = match endpoint {
        Endpoint::Chat => "messages",
        Endpoint::Completions => "prompt",
        _ => return Ok(1),
    };
    let json = object.get_set(field).ok_or_else(|| RequestError::missing(field))?;
    if endpoint == Endpoint::Completions && json.starts_with('"') {
        return Ok(1);
    }
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(json) else {
        let expected = if endpoint == Endpoint::Chat { "an array" } else { "a string or an array" };
        return Err(RequestError::wrong_type(field, expected));
    };
    match items.first().map(|item| item.get().as_bytes()) {
        None => Err(RequestError::wrong_value(field, "at least one element")),
        Some([b'"' | b'[', ..]) if endpoint == Endpoint::Completions => Ok(items.len() as u64),
        Some(_) => Ok(1),
    }
}

/// Choices that the engine works out: the largest of `n`, `best_of` and `n_cmpl` (llama.cpp's name for `n`).
fn read_choices(object: &RawObject<'_>) -> Result<u64, RequestError> {
    let read = |field: &'static str| match object.get_set(field) {
        None => Ok(1),
        Some(json) => match read_whole(json) {
            Some(choices) if choices > 0 => Ok(choices),
            _ => Err(RequestError::wrong_value(field, "a positive integer")),
        },
    };
    Ok(read("n")?.max(read("best_of")?).max(read("n_cmpl")?))
}

fn take_max_coefficient(object: &mut RawObject<'_>, default: i32) -> Result<i32, RequestError> {
    match take(object, "max_coefficient") {
        None => Ok(default),
        Some(json) => read_whole(&json)
            .map(|cap| to_i32(cap).min(HIGHEST_COEFFICIENT))
            .ok_or_else(|| RequestError::wrong_type("max_coefficient", "a non-negative integer")),
    }
}

fn take_timeout(object: &mut RawObject<'_>, default: Duration) -> Result<Duration, RequestError> {
    let Some(json) = take(object, "timeout") else { return Ok(default) };
    let seconds: f64 = serde_json::from_str(&json)
        .map_err(|_| RequestError::wrong_type("timeout", "a number of seconds"))?;
    Duration::try_from_secs_f64(seconds.min(MAX_TIMEOUT_SECONDS))
        .ok()
        .filter(|timeout| !timeout.is_zero())
        .ok_or_else(|| RequestError::wrong_value("timeout", "a number of seconds above 0"))
}

fn take_guid(object: &mut RawObject<'_>) -> Result<Option<String>, RequestError> {
    let Some(json) = take(object, "request_guid") else { return Ok(None) };
    let guid = string_of(&json).ok_or_else(|| RequestError::wrong_type("request_guid", "a string"))?;
    Ok(Some(guid.into_owned()))
}

/// Makes the limit on each choice explicit in the body, and returns it.
fn set_limit(object: &mut RawObject<'_>, default: i32) -> Result<i32, RequestError> {
    let mut limit = None;
    for field in ["max_completion_tokens", "max_tokens"] {
        let Some(json) = object.get_set(field) else { continue };
        let tokens = read_whole(json)
            .map(to_i32)
            .ok_or_else(|| RequestError::wrong_type(field, "a non-negative integer"))?;
        limit = limit.or(Some((field, tokens)));
    }
    let (field, tokens) = limit.unwrap_or(("max_tokens", default));
    if field == "max_completion_tokens" {
        object.set(field, tokens.to_string());
    } else {
        object.remove("max_completion_tokens");
    }
    // Always, because an engine that does not know the newer name would otherwise answer without a limit.
    object.set("max_tokens", tokens.to_string());
    // -1 means "no end" there, and larger numbers would outrun the reservation.
    let obeys = |json: &str| read_whole(json).is_some_and(|predict| to_i32(predict) <= tokens);
    if object.get_set("n_predict").is_some_and(|json| !obeys(json)) {
        object.set("n_predict", tokens.to_string());
    }
    Ok(tokens)
}

/// Sets `stream_options.include_usage`; whether the caller had set it.
pub(crate) fn ask_for_usage(object: &mut RawObject<'_>) -> Result<bool, RequestError> {
    let options = object.get_set("stream_options").unwrap_or("{}").to_owned();
    let mut options = RawObject::parse(options.as_bytes())
        .map_err(|_| RequestError::wrong_type("stream_options", "an object without repeated fields"))?;
    refuse_lookalikes(&options, &["include_usage"])?;
    let wanted = read_bool(options.get_set("include_usage"), "stream_options.include_usage")?;
    options.set("include_usage", "true");
    object.set("stream_options", options.to_json());
    Ok(wanted)
}

fn take(object: &mut RawObject<'_>, field: &str) -> Option<String> {
    object.remove(field).filter(|json| json != "null").map(Cow::into_owned)
}

pub(crate) fn read_bool(json: Option<&str>, field: &'static str) -> Result<bool, RequestError> {
    match json {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(RequestError::wrong_type(field, "a boolean")),
    }
}

/// A non-negative integer spelled in digits; one too large for `u64` is read as its maximum.
fn read_whole(json: &str) -> Option<u64> {
    (!json.is_empty() && json.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| json.parse().unwrap_or(u64::MAX))
}

fn to_i32(whole: u64) -> i32 {
    i32::try_from(whole).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
