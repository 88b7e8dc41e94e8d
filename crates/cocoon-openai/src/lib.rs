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
mod kind;
mod meter;
mod object;
mod observe;
mod request;
mod sse;
mod units;
mod usage;

pub use arriving::ArrivingRequest;
pub use endpoint::{BodyForm, Endpoint, ability};
pub use error::ApiError;
pub use estimate::{
    BYTES_PER_TOKEN, MeteredUsage, TOKENS_PER_MEDIA_PART, TOKENS_PER_MESSAGE, estimate_prompt_tokens,
    estimate_usage,
};
pub use filter::{AnswerFilter, add_cocoon_object, cocoon_comment};
pub use kind::{BodyKind, BodyLimits};
pub use meter::{AnswerMeter, CostFields, CostFn};
pub use observe::MeterReport;
pub use request::{
    DEFAULT_MAX_COEFFICIENT, DEFAULT_MAX_TOKENS, DEFAULT_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS, Preference,
    PreparedRequest, RequestDefaults, RequestError,
};
pub use sse::{DEFAULT_EVENT_LIMIT_BYTES, SseError, SseEvent, SseSplitter};
pub use usage::Usage;
