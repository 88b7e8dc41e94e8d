//! Reads a request once, at the door: takes out what is the gateway's business, sets the limits that a reservation
//! relies on, finds out what a worker must be able to do, and leaves every other byte as the caller wrote it.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;

use crate::endpoint::{BodyForm, Endpoint};
use crate::error::ApiError;
use crate::multipart::Boundary;
use crate::object::{MAX_FIELDS, ObjectError, RawObject};
use crate::summary::{RequestBasis, RequestSummary};

mod error;
mod form;
mod limits;
mod needs;
mod rules;
mod wishes;

pub use error::RequestError;
pub(crate) use limits::{Limit, image_size};
pub(crate) use rules::{ask_for_usage, count_prompts, lookalike, read_model, refuse_ambiguous, wants_stream};
pub(crate) use wishes::Wish;
pub use wishes::{Preference, Wishes};

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

/// A request that was read, and the body to forward.
#[derive(Debug, Clone, PartialEq)]
pub struct PreparedRequest {
    /// The endpoint it was read for.
    pub endpoint: Endpoint,
    /// The model's name as the caller wrote it; not empty.
    pub model: String,
    /// Whether the answer is to be streamed as events.
    pub stream: bool,
    /// Whether the caller set `stream_options.include_usage` to true.
    pub caller_wants_usage: bool,
    /// Limit on each choice, in tokens: the caller's, or the default. 0 where the endpoint knows none.
    pub max_tokens: i32,
    /// Limit on the whole answer, in tokens: `max_tokens` times choices (`n` or `best_of`) times prompts, or what the
    /// endpoint's own rule allows.
    pub completion_bound: i32,
    /// Highest price coefficient that the caller accepts, in thousandths.
    pub max_coefficient: i32,
    /// Highest price that the caller accepts, in nanoton per million completion tokens. It binds beside
    /// `max_coefficient`; whoever knows the tariff translates it.
    pub max_price: Option<u64>,
    /// The caller's deadline; above zero, at most [`MAX_TIMEOUT_SECONDS`].
    pub timeout: Duration,
    /// What the caller prefers among workers.
    pub preference: Preference,
    /// After how long without an answer a second worker may be asked, too; `None` where the caller said nothing.
    pub hedge: Option<Duration>,
    /// Bits of [`crate::ability`] that a worker must have.
    pub needs: u32,
    /// Whether the caller asked for debugging data.
    pub enable_debug: bool,
    /// The caller's own name for the request.
    pub request_guid: Option<String>,
    /// The `Content-Type` of the body.
    pub content_type: Cow<'static, str>,
    /// The body to forward: without the gateway's fields, with an explicit limit, and, for a stream, with
    /// `stream_options.include_usage` set to true.
    pub body: Bytes,
    /// Of a form; of JSON it follows from the body.
    summary: Option<RequestSummary>,
}

impl PreparedRequest {
    /// What the answer's price may rest on.
    #[must_use]
    pub fn basis(&self) -> RequestBasis {
        match &self.summary {
            Some(summary) => summary.clone().into(),
            None => RequestBasis::json(self.endpoint, self.body.clone()),
        }
    }

    /// Reads the JSON body of a request; `default_max_tokens` (negative counts as 0) is the limit written into a body
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
        Self::from_json(body, endpoint, Wishes::default(), defaults)
    }

    /// Reads a request whose body has this form, with the wishes that stood in its headers.
    ///
    /// # Errors
    /// As [`Self::from_json`] and [`Self::from_form`].
    pub fn read(
        form: &RequestForm,
        body: &Bytes,
        endpoint: Endpoint,
        headers: Wishes,
        defaults: &RequestDefaults,
    ) -> Result<Self, RequestError> {
        match form {
            RequestForm::Json => Self::from_json(body, endpoint, headers, defaults),
            RequestForm::Multipart(boundary) => Self::from_form(body, boundary, endpoint, headers, defaults),
        }
    }

    /// As [`Self::parse_with`], with the wishes that stood in the request's headers.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn from_json(
        body: &[u8],
        endpoint: Endpoint,
        headers: Wishes,
        defaults: &RequestDefaults,
    ) -> Result<Self, RequestError> {
        let text =
            std::str::from_utf8(body).map_err(|_| RequestError::body("The body is not valid UTF-8."))?;
        if !text.trim_ascii_start().starts_with('{') {
            return Err(RequestError::body("The body must be a JSON object."));
        }
        let mut object = RawObject::parse(body)?;
        if object.len() > MAX_FIELDS {
            return Err(ObjectError::TooManyFields.into());
        }
        refuse_ambiguous(endpoint, &object)?;
        let model = read_model(&object)?;
        rules::check(endpoint, &object)?;
        let stream = wants_stream(endpoint, &object)?;
        let needs = needs::of(endpoint, &object);
        let wishes = Wishes::take(&mut object)?.and(headers);
        let limit = limits::set(endpoint, &mut object, defaults.max_tokens.max(0))?;
        let caller_wants_usage =
            if stream && endpoint.counts_on_demand() { ask_for_usage(&mut object)? } else { false };
        let read = Read { endpoint, model, stream, caller_wants_usage, limit, needs, summary: None };
        Ok(read.with(wishes, defaults, Cow::Borrowed("application/json"), object.to_json().into()))
    }
}

/// The body of a request, by its `Content-Type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestForm {
    /// One JSON object.
    Json,
    /// A form with this boundary.
    Multipart(Boundary),
}

impl RequestForm {
    /// The form of a request to an endpoint. JSON need not be named.
    ///
    /// # Errors
    /// [`ApiError`] 415 where the type is not the endpoint's, 400 where it can't be read.
    pub fn of(endpoint: Endpoint, content_type: Option<&str>) -> Result<Self, ApiError> {
        let unsupported = |expected: &str| {
            let what = content_type.map_or_else(
                || "nothing".to_owned(),
                |text| {
                    format!(
                        "'{}'",
                        text.chars().filter(|letter| !letter.is_control()).take(100).collect::<String>()
                    )
                },
            );
            let message = format!("{} takes {expected}; the Content-Type says {what}.", endpoint.path());
            ApiError::new(415, "invalid_request_error", "unsupported_media_type", message)
        };
        match endpoint.form() {
            BodyForm::Json => {
                let media = content_type.map(|text| text.split(';').next().unwrap_or_default().trim());
                let is_json = media.is_none_or(|media| {
                    let media = media.to_ascii_lowercase();
                    media == "application/json"
                        || media.starts_with("application/") && media.ends_with("+json")
                });
                if is_json { Ok(Self::Json) } else { Err(unsupported("a JSON object as application/json")) }
            }
            BodyForm::Multipart => {
                let boundary = Boundary::from_content_type(content_type.unwrap_or_default())?;
                let boundary = boundary.ok_or_else(|| {
                    unsupported("a form with the file as multipart/form-data; boundary=...")
                })?;
                Ok(Self::Multipart(boundary))
            }
        }
    }
}

/// What a body says, whatever its form.
struct Read {
    endpoint: Endpoint,
    model: String,
    stream: bool,
    caller_wants_usage: bool,
    limit: limits::Limit,
    needs: u32,
    summary: Option<RequestSummary>,
}

impl Read {
    fn with(
        self,
        wishes: Wishes,
        defaults: &RequestDefaults,
        content_type: Cow<'static, str>,
        body: Bytes,
    ) -> PreparedRequest {
        PreparedRequest {
            endpoint: self.endpoint,
            model: self.model,
            stream: self.stream,
            caller_wants_usage: self.caller_wants_usage,
            max_tokens: self.limit.each,
            completion_bound: self.limit.all,
            max_coefficient: wishes.max_coefficient.unwrap_or(defaults.max_coefficient),
            max_price: wishes.max_price,
            timeout: wishes.timeout.unwrap_or(defaults.timeout),
            preference: wishes.preference.unwrap_or_default(),
            hedge: wishes.hedge,
            needs: self.needs,
            enable_debug: wishes.enable_debug,
            request_guid: wishes.request_guid,
            content_type,
            body,
            summary: self.summary,
        }
    }
}

pub(crate) fn read_bool(json: Option<&str>, field: &'static str) -> Result<bool, RequestError> {
    match json {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(RequestError::wrong_type(field, "a boolean")),
    }
}

/// A non-negative integer spelled in digits; one too large for `u64` is read as its maximum.
pub(crate) fn read_whole(json: &str) -> Option<u64> {
    (!json.is_empty() && json.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| json.parse().unwrap_or(u64::MAX))
}

pub(crate) fn to_i32(whole: u64) -> i32 {
    i32::try_from(whole).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
