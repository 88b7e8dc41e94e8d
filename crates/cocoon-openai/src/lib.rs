//! What OpenAI-style bodies mean: requests, answers, server-sent events, usage and errors.
//!
//! Pure functions and incremental state machines over bytes; no I/O, no clock. The gateway uses [`PreparedRequest`],
//! [`AnswerFilter`] and [`ApiError`]; the worker uses [`ArrivingRequest`], [`AnswerMeter`] and [`estimate_usage`].
//! A body passes through verbatim wherever it need not change: unknown fields, number spellings and the order of
//! fields are kept.

mod arriving;
mod endpoint;
mod error;
mod estimate;
mod filter;
mod form;
pub mod fuzzing;
mod kind;
mod meter;
mod multipart;
mod object;
mod observe;
mod request;
mod sse;
mod summary;
mod units;
mod usage;

pub use arriving::{ArrivingBody, ArrivingRequest};
pub use endpoint::{BodyForm, Endpoint, ability};
pub use error::ApiError;
pub use estimate::{
    BYTES_PER_FILE_TOKEN, BYTES_PER_TOKEN, MeteredUsage, TEMPLATE_TOKENS, TOKENS_PER_MEDIA_PART,
    TOKENS_PER_MESSAGE, TRANSCRIPT_BASE_TOKENS, TRANSCRIPT_BYTES_PER_TOKEN, estimate_prompt_tokens,
    estimate_usage,
};
pub use filter::{AnswerFilter, add_cocoon_object, cocoon_comment};
pub use form::{MAX_FORM_FIELD_BYTES, MAX_FORM_PROMPT_BYTES};
pub use kind::{BodyKind, BodyLimits};
pub use meter::{AnswerMeter, CostFields, CostFn};
pub use multipart::{Boundary, MAX_PART_HEAD_BYTES, MAX_PARTS};
pub use observe::MeterReport;
pub use request::{
    DEFAULT_MAX_COEFFICIENT, DEFAULT_MAX_TOKENS, DEFAULT_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS, Preference,
    PreparedRequest, RequestDefaults, RequestError, RequestForm, Wishes,
};
pub use sse::{DEFAULT_EVENT_LIMIT_BYTES, SseError, SseEvent, SseSplitter};
pub use summary::{RequestBasis, RequestSummary};
pub use usage::{TOKENS_PER_SECOND, Usage};
