//! Refusals in OpenAI's words, and the headers that tell callers how their limits stand.

use std::time::Duration;

use cocoon_access::{Denied, Exhausted, RateView, Refused};
use cocoon_openai::ApiError;
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Suggested to a key that has too many requests under way, in seconds.
const CONCURRENT_RETRY_SECONDS: u32 = 1;
/// Nanoton in one TON.
const NANOTON_PER_TON: u64 = 1_000_000_000;

/// OpenAI's clients try again after a 429 unless this says no.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const NAMES: [[HeaderName; 3]; 2] = [
    [
        HeaderName::from_static("x-ratelimit-limit-requests"),
        HeaderName::from_static("x-ratelimit-remaining-requests"),
        HeaderName::from_static("x-ratelimit-reset-requests"),
    ],
    [
        HeaderName::from_static("x-ratelimit-limit-tokens"),
        HeaderName::from_static("x-ratelimit-remaining-tokens"),
        HeaderName::from_static("x-ratelimit-reset-tokens"),
    ],
];

/// How the limits of a key stand, for the headers of an answer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    pub(crate) requests: Option<RateView>,
    pub(crate) tokens: Option<RateView>,
}

impl Limits {
    /// Writes the headers that OpenAI's clients know.
    pub(crate) fn stamp(&self, headers: &mut HeaderMap) {
        for (view, [limit, remaining, reset]) in [self.requests, self.tokens].into_iter().zip(NAMES) {
            let Some(view) = view else { continue };
            headers.insert(limit, HeaderValue::from(view.limit));
            headers.insert(remaining, HeaderValue::from(view.remaining));
            if let Ok(value) = HeaderValue::from_str(&duration(Duration::from_micros(view.reset_micros))) {
                headers.insert(reset, value);
            }
        }
    }
}

/// Headers that belong to an error and not to all answers: whether a client should try again by itself.
pub(crate) fn stamp_error(error: &ApiError, headers: &mut HeaderMap) {
    // Neither budget nor price changes within the moment that clients wait.
    let of_price = error.code.as_deref() == Some("price_cap_too_low");
    if of_price || (error.status == 429 && error.kind == "insufficient_quota") {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    if error.status == 401 {
        headers.insert(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
}

/// As OpenAI writes them: `1s`, `6m0s`, `20ms`.
fn duration(duration: Duration) -> String {
    let millis = duration.as_micros().div_ceil(1000);
    match (millis / 60_000, millis % 60_000) {
        (0, millis) if millis < 1000 => format!("{millis}ms"),
        (minutes, rest) => {
            let seconds = rest.div_ceil(1000);
            if minutes == 0 { format!("{seconds}s") } else { format!("{minutes}m{seconds}s") }
        }
    }
}

/// 401: there is no good key.
pub(super) fn no_key(why: &str) -> ApiError {
    ApiError::new(401, "invalid_request_error", "invalid_api_key", why)
}

/// 403: the key is good, but not for this.
fn forbidden(code: &str, message: impl Into<String>) -> ApiError {
    ApiError::new(403, "invalid_request_error", code, message)
}

/// A refusal as an error for the caller; `endpoint` and `model` as he asked for them.
pub(crate) fn error_of(refused: &Refused, endpoint: &str, model: &str, to_midnight: u64) -> ApiError {
    match refused {
        Refused::Key(denied) => denied_error(*denied),
        Refused::Endpoint => {
            forbidden("endpoint_not_allowed", format!("This key is not for the endpoint '{endpoint}'."))
        }
        Refused::Model => ApiError {
            param: Some("model".to_owned()),
            ..forbidden("model_not_allowed", format!("This key is not for the model '{}'.", shortened(model)))
        },
        Refused::Concurrent(limit) => limited(
            format!("This key may have {limit} requests under way at a time; wait for one to end."),
            CONCURRENT_RETRY_SECONDS,
        ),
        Refused::Requests { rate, wait_micros } => limited(
            format!("This key may send {} requests per minute.{}", rate.limit, again(*wait_micros)),
            seconds(*wait_micros),
        ),
        Refused::Tokens { rate, wait_micros } => limited(
            format!(
                "This key may use {} tokens per minute, and {} are left now, which this request may exceed.{}",
                rate.limit,
                rate.remaining,
                again(*wait_micros)
            ),
            seconds(*wait_micros),
        ),
        Refused::Budget { which, wanted } => quota(*which, *wanted, to_midnight),
    }
}

pub(super) fn denied_error(denied: Denied) -> ApiError {
    no_key(match denied {
        Denied::Unknown => "Incorrect API key: it does not exist here, or was revoked.",
        Denied::Disabled => "This API key is disabled.",
        Denied::Expired => "This API key has expired.",
    })
}

fn limited(message: String, seconds: u32) -> ApiError {
    let error = ApiError::new(429, "rate_limit_error", "rate_limit_exceeded", message);
    ApiError { retry_after: Some(seconds), ..error }
}

fn quota(which: Exhausted, wanted: u64, to_midnight: u64) -> ApiError {
    let (what, budget, used, retry_after) = match which {
        Exhausted::Total { budget, used } => ("budget", budget, used, None),
        Exhausted::Day { budget, used } => {
            let wait = u32::try_from(to_midnight).unwrap_or(u32::MAX);
            ("budget for a day (UTC)", budget, used, Some(wait))
        }
    };
    let message = format!(
        "This key's {what} is {} TON, of which {} TON are spent or set aside; this request can cost up to {} TON. Lower \
         max_tokens, or what a token may cost (max_coefficient, max_price), or ask whoever gave you the key.",
        ton(budget),
        ton(used),
        ton(wanted)
    );
    ApiError { retry_after, ..ApiError::new(429, "insufficient_quota", "insufficient_quota", message) }
}

fn again(wait_micros: u64) -> String {
    format!(" Try again in {}.", duration(Duration::from_micros(wait_micros)))
}

fn seconds(micros: u64) -> u32 {
    u32::try_from(micros.div_ceil(1_000_000)).unwrap_or(u32::MAX).max(1)
}

/// Nanoton as TON, exactly.
fn ton(nanoton: u64) -> String {
    let text = format!("{}.{:09}", nanoton / NANOTON_PER_TON, nanoton % NANOTON_PER_TON);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn durations_are_written_as_clients_know_them() {
        for (micros, text) in [
            (0, "0ms"),
            (1, "1ms"),
            (999_000, "999ms"),
            (1_000_000, "1s"),
            (1_000_001, "2s"),
            (360_000_000, "6m0s"),
        ] {
            assert_eq!(duration(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn a_used_up_budget_is_told_apart_from_a_rate_and_not_tried_again_by_clients() {
        let which = Exhausted::Day { budget: 2_000_000_000, used: 1_500_000_000 };
        let error = error_of(&Refused::Budget { which, wanted: 600_000_000 }, "chat", "m", 60);
        assert_eq!((error.status, error.kind, error.retry_after), (429, "insufficient_quota", Some(60)));
        assert!(error.message.contains("2 TON") && error.message.contains("1.5 TON"), "{}", error.message);
        let mut headers = HeaderMap::new();
        stamp_error(&error, &mut headers);
        assert_eq!(headers.get("x-should-retry").unwrap(), "false");

        let rate = RateView { limit: 60, remaining: 0, reset_micros: 60_000_000 };
        let error = error_of(&Refused::Requests { rate, wait_micros: 1_200_000 }, "chat", "m", 60);
        assert_eq!((error.status, error.code.as_deref()), (429, Some("rate_limit_exceeded")));
        assert_eq!(error.retry_after, Some(2));
        let mut headers = HeaderMap::new();
        Limits { requests: Some(rate), tokens: None }.stamp(&mut headers);
        assert_eq!(headers.get("x-ratelimit-reset-requests").unwrap(), "1m0s");
        assert_eq!(headers.len(), 3);
    }
}
