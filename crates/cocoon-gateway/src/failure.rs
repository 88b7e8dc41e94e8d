//! What went wrong on the way, as an error for the caller.
//!
//! Proxies of ours say it as a complete HTTP answer with the header `X-Cocoon-Error`; published ones as an error
//! packet whose code and words together tell. Words of peers are shown to the caller, never logged.

use std::time::Duration;

use cocoon_openai::ApiError;
use cocoon_session::{ErrorCode, RESEND_HEADER, RequestFailure};
use cocoon_wire::tl::http;
use serde::Deserialize;

use crate::attempts::Why;

/// The header by which a node of the network marks an answer as its own, not an engine's.
const ERROR_HEADER: &str = "x-cocoon-error";
/// Suggested to a caller that meets only busy workers, in seconds.
pub(crate) const BUSY_RETRY_SECONDS: u32 = 1;
/// When busy workers are asked again that named no time.
const BUSY_RETRY: Duration = Duration::from_secs(BUSY_RETRY_SECONDS as u64);
/// The longest time of a peer that is believed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);
/// What a worker says that is at its limit, ours and the published one.
const WORKER_FULL: &str = "too many active queries";
/// What a proxy says whose workers are all at their limit.
const ALL_BUSY: &str = "busy";
/// Longest text of a peer that is shown, in characters.
const MAX_WORDS: usize = 300;

/// What kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    UnknownModel,
    Busy,
    NoWorker,
    /// There are workers, but none whose evidence we accept.
    NoAttestedWorker,
    /// There are workers, but none that can do what the request needs.
    Unable,
    TooDear,
    Balance,
    /// No proxy serves us before coins have come to the wallet.
    Funds,
    Invalid,
    /// Its body is over the proxy's limit.
    TooLarge,
    TimedOut,
    Engine,
    /// The proxy cannot serve now.
    Proxy,
    /// The connection to the proxy ended, or the proxy fell silent.
    Lost,
    /// No proxy is connected.
    NoProxy,
    /// The caller's key may not spend what the request can cost.
    KeyBudget,
    /// The caller's key was taken away meanwhile.
    KeyGone,
}

impl Kind {
    /// One word for traces.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::UnknownModel => "unknown_model",
            Self::Busy => "busy",
            Self::NoWorker => "no_worker",
            Self::NoAttestedWorker => "no_attested_worker",
            Self::Unable => "not_supported",
            Self::TooDear => "too_dear",
            Self::Balance | Self::Funds => "funds",
            Self::Invalid => "invalid",
            Self::TooLarge => "too_large",
            Self::TimedOut => "timeout",
            Self::Engine => "engine",
            Self::Proxy | Self::NoProxy => "proxy",
            Self::Lost => "connection_lost",
            Self::KeyBudget | Self::KeyGone => "key",
        }
    }
}

/// A failure on the way to an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    words: String,
    /// After this the one who said it may be asked again.
    retry_after: Option<Duration>,
    /// The caller's `max_price`, where that made it too dear.
    price_cap: Option<u64>,
}

impl Failure {
    pub(crate) fn new(kind: Kind, words: &str) -> Self {
        let words = words.chars().filter(|character| !character.is_control()).take(MAX_WORDS).collect();
        Self { kind, words, retry_after: None, price_cap: None }
    }

    /// A refusal with these words: where a worker is at its limit, the proxy only knows that it failed.
    pub(crate) fn refused(kind: Kind, words: &str) -> Self {
        let kind = if kind == Kind::NoWorker && words.contains(WORKER_FULL) { Kind::Busy } else { kind };
        Self::new(kind, words)
    }

    /// The same, where a balance is too low, with the reason why it is not filled up before what the proxy says.
    pub(crate) fn with_cause_of_low_balance(self, why: &str) -> Self {
        match self.kind {
            Kind::Balance => Self::new(Kind::Balance, &format!("{why} ({})", self.words)),
            _ => self,
        }
    }

    /// The same, where the caller capped the price of tokens: in that unit, as `price_of` a coefficient tells it.
    pub(crate) fn under_price_cap(self, nanoton_per_million: u64, price_of: impl Fn(u32) -> u64) -> Self {
        if self.kind != Kind::TooDear {
            return self;
        }
        let cheapest = self.words.rsplit("coefficient=").next().and_then(|text| text.parse().ok());
        let words = cheapest.map(|cheapest| format!("the cheapest asks {}", price_of(cheapest)));
        Self { words: words.unwrap_or(self.words), price_cap: Some(nanoton_per_million), ..self }
    }

    /// The same, where no worker can do what the request needs: with what that is, and what the model's workers can do.
    pub(crate) fn lacking(self, needed: &[&str], there: Option<&[&str]>) -> Self {
        if self.kind != Kind::Unable {
            return self;
        }
        let there = there.map_or_else(
            || "/v1/models says what they can do".to_owned(),
            |there| format!("they can do: {}", there.join(", ")),
        );
        Self { words: format!("it needs {}; {there}", needed.join(", ")), ..self }
    }

    /// The same, said by one who may be asked again after so long.
    pub(crate) fn again_after(self, retry_after: Option<Duration>) -> Self {
        Self { retry_after, ..self }
    }

    /// What it means for another attempt; `soon`: the worker that is missed was here not long ago, or is being judged.
    pub(crate) fn why(&self, soon: bool) -> Why {
        match self.kind {
            Kind::Funds | Kind::Invalid | Kind::TimedOut | Kind::KeyBudget | Kind::KeyGone => Why::Final,
            // A worker that starts anew is away for a moment.
            Kind::UnknownModel | Kind::NoAttestedWorker if soon => Why::NotNow,
            Kind::UnknownModel
            | Kind::NoAttestedWorker
            | Kind::Unable
            | Kind::TooDear
            | Kind::TooLarge
            | Kind::Balance => Why::Refused,
            Kind::Busy => Why::Busy(self.retry_after.unwrap_or(BUSY_RETRY).min(MAX_RETRY_AFTER)),
            Kind::NoWorker | Kind::Proxy => Why::NotNow,
            Kind::Lost => Why::Lost,
            Kind::NoProxy => Why::NoProxy,
            Kind::Engine => Why::Engine,
        }
    }

    /// Of two failures of one request the one that tells its caller more; `self` came first.
    pub(crate) fn or_worse(self, later: Self) -> Self {
        // A proxy without the model says nothing about one whose workers are busy, and that nobody is there now nothing
        // about why nobody is.
        let tells = |failure: &Self| match failure.kind {
            Kind::UnknownModel | Kind::NoProxy => 0,
            Kind::Lost => 1,
            _ => 2,
        };
        if tells(&later) >= tells(&self) && later.kind != Kind::NoProxy { later } else { self }
    }

    /// The error for the caller, who asked for `model`; `available`: the models there are.
    pub(crate) fn into_api_error(self, model: &str, available: &[String]) -> ApiError {
        let words = &self.words;
        match self.kind {
            // It was there a moment ago, so asking again makes sense.
            Kind::UnknownModel
                if available.iter().any(|name| Some(name.as_str()) == model.split('@').next()) =>
            {
                ApiError::no_worker(format!(
                    "No worker for '{model}' is connected at the moment; try again later."
                ))
            }
            Kind::UnknownModel => ApiError::model_not_found(model, available),
            Kind::Busy => {
                let named = self.retry_after.map(|after| after.min(MAX_RETRY_AFTER).as_secs());
                let seconds = named.map_or(BUSY_RETRY_SECONDS, |seconds| {
                    u32::try_from(seconds).unwrap_or(u32::MAX).max(BUSY_RETRY_SECONDS)
                });
                // A limit of the proxy's is another cause, in its own words.
                let workers = words.is_empty() || words.contains(ALL_BUSY) || words.contains(WORKER_FULL);
                let message = match workers {
                    true => format!("All workers for '{model}' are busy; try again in a moment."),
                    false => format!("The proxy takes no more for now: {words}."),
                };
                ApiError::workers_busy(message, seconds)
            }
            // There may be workers; the proxy says in its own words why it asks none.
            Kind::NoWorker if !words.is_empty() && !words.contains("worker") => {
                ApiError::no_proxy(format!("No proxy can serve this request now: {words}."))
            }
            Kind::NoWorker => {
                ApiError::no_worker(format!("No worker for '{model}' is ready; try again later."))
            }
            Kind::NoAttestedWorker => ApiError::new(
                503,
                "service_unavailable_error",
                "no_attested_worker",
                format!(
                    "No worker for '{model}' has evidence that is accepted here; /v1/attestation says what is \
                     wanted, and what each worker lacks."
                ),
            ),
            Kind::Unable => ApiError::new(
                404,
                "invalid_request_error",
                "unsupported_by_model",
                format!("No worker for '{model}' can serve this request: {words}."),
            ),
            Kind::TooDear => {
                let (param, cap) = match self.price_cap {
                    Some(price) => {
                        ("max_price", format!("max_price, {price} nanoton per million completion tokens"))
                    }
                    None => ("max_coefficient", "max_coefficient".to_owned()),
                };
                let message = format!(
                    "Every ready worker for '{model}' is dearer than {cap} ({words}); raise it, or wait. /v1/market tells \
                     what there is."
                );
                ApiError {
                    param: Some(param.to_owned()),
                    ..ApiError::new(503, "service_unavailable_error", "price_cap_too_low", message)
                }
            }
            Kind::Balance => ApiError::insufficient_balance(format!(
                "The balance at the proxy does not cover this request: {words}, or lower max_tokens."
            )),
            Kind::Funds => ApiError::new(
                402,
                "insufficient_quota",
                "insufficient_funds",
                format!("No proxy is ready: {words}."),
            ),
            Kind::KeyBudget => {
                let quota = ApiError::new(429, "insufficient_quota", "insufficient_quota", words);
                let wait = self.retry_after.map(|wait| u32::try_from(wait.as_secs()).unwrap_or(u32::MAX));
                ApiError { retry_after: wait, ..quota }
            }
            Kind::KeyGone => ApiError::new(401, "invalid_request_error", "invalid_api_key", words),
            Kind::Invalid => {
                ApiError::invalid_request(None, "refused_by_network", format!("Refused: {words}."))
            }
            Kind::TooLarge => ApiError::new(
                413,
                "invalid_request_error",
                "request_too_large",
                format!("No proxy takes a request of this size: {words}."),
            ),
            Kind::TimedOut => ApiError::timed_out(format!(
                "The answer did not come within the request's timeout ({words}); raise `timeout`, or try again."
            )),
            Kind::Engine => ApiError::engine_failed(format!("The worker failed: {words}.")),
            Kind::Proxy | Kind::Lost | Kind::NoProxy => {
                ApiError::no_proxy(format!("No proxy can serve this request now: {words}."))
            }
        }
    }
}

/// A failure that came as an error packet, or that our own session noticed.
impl From<&RequestFailure> for Failure {
    fn from(failure: &RequestFailure) -> Self {
        let words = failure.message.to_ascii_lowercase();
        let says = |text: &str| words.contains(text);
        let kind = if says("unknown model") {
            Kind::UnknownModel
        } else if says("balance") && says("low") {
            Kind::Balance
        } else if says("can run this query with coefficient") {
            Kind::TooDear
        } else if says("no workers for") || says("no ready workers") {
            Kind::NoWorker
        } else if says("busy") || says(WORKER_FULL) {
            Kind::Busy
        } else {
            match failure.code {
                ErrorCode::TIMEOUT => Kind::TimedOut,
                ErrorCode::NOT_READY if says("connection to the proxy") => Kind::Lost,
                // Its proxy is there, and says so.
                ErrorCode::NOT_READY if says("the worker went away") => Kind::Engine,
                ErrorCode::NOT_READY => Kind::Proxy,
                ErrorCode::ERROR if says("too slowly") => Kind::Proxy,
                ErrorCode::PROTOCOL if says("connection") || says("version") => Kind::Proxy,
                ErrorCode::PROTOCOL => Kind::Invalid,
                ErrorCode::ERROR if says("connection") || says("version is too low") || says("test mode") => {
                    Kind::Proxy
                }
                _ => Kind::Engine,
            }
        };
        Self::new(kind, &failure.message)
    }
}

/// Whether this head says that a node of the network could not serve the request; then, in which way.
pub(crate) fn refusal(head: &http::Response) -> Option<Kind> {
    let find = |name: &str| {
        head.headers.iter().find(|header| header.name.as_bytes().eq_ignore_ascii_case(name.as_bytes()))
    };
    let header = find(ERROR_HEADER)?;
    // A worker failed, and the proxy could not ask another one: it no longer had the body, which we have.
    if find(RESEND_HEADER).is_some() {
        return Some(Kind::Engine);
    }
    let word = header.value.to_lossy();
    Some(match head.status_code {
        402 => Kind::Balance,
        404 if word == "not_supported" => Kind::Unable,
        404 => Kind::UnknownModel,
        429 => Kind::Busy,
        503 if word == "price_cap_too_low" => Kind::TooDear,
        503 if word == "no_attested_worker" => Kind::NoAttestedWorker,
        503 => Kind::NoWorker,
        504 => Kind::TimedOut,
        400 => Kind::Invalid,
        413 => Kind::TooLarge,
        _ => Kind::Engine,
    })
}

/// Whether this head says that the proxy answers before its worker has spoken its last word. Each request that it gave to
/// a worker has a notice in the end, what it refuses has none.
pub(crate) fn is_early(head: &http::Response) -> bool {
    let has = |name: &str| {
        head.headers.iter().any(|header| header.name.as_bytes().eq_ignore_ascii_case(name.as_bytes()))
    };
    has(ERROR_HEADER) && (head.status_code == 504 || has(RESEND_HEADER))
}

/// When whoever answered so may be asked again, where it says.
pub(crate) fn retry_after(head: &http::Response) -> Option<Duration> {
    let is_it = |header: &&http::Header| header.name.as_bytes().eq_ignore_ascii_case(b"retry-after");
    let seconds = head.headers.iter().find(is_it)?.value.to_lossy().trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Whether an engine's own answer says that it, rather than the request, is at fault: another one may do better.
pub(crate) fn engine_is_unwell(head: &http::Response) -> bool {
    matches!(head.status_code, 429 | 500 | 502 | 503 | 504 | 529)
}

/// The words in a refusal's body.
pub(crate) fn words_of(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Outer {
        error: Inner,
    }
    #[derive(Deserialize)]
    struct Inner {
        message: String,
    }
    serde_json::from_slice::<Outer>(body)
        .map_or_else(|_| "no reason given".to_owned(), |outer| outer.error.message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cocoon_wire::codec::ByteStr;

    use super::*;

    fn status(code: i32, words: &str) -> u16 {
        Failure::from(&RequestFailure::new(ErrorCode(code), words))
            .into_api_error("m", &["a".to_owned()])
            .status
    }

    #[test]
    fn published_error_packets_get_the_status_that_their_code_and_words_deserve() {
        for (code, words, expected) in [
            (621, "unknown model m", 404),
            (651, "balance is too low", 402),
            (602, "balance too low: reserved", 402),
            (651, "no workers for model m", 503),
            (651, "no ready workers for modelm", 503),
            (651, "can run this query with coefficient=7000", 503),
            (651, "all workers for model m are busy", 429),
            (651, "the worker went away", 502),
            (651, "proxy is disabled", 503),
            (651, "client is closing", 503),
            (652, "timeout", 504),
            (602, "connection dead", 503),
            (602, "active config version is too low", 503),
            (621, "expected client connection", 503),
            (621, "bad json", 400),
            (0, "unknown query", 502),
            (602, "HTTP server closed", 502),
        ] {
            assert_eq!(status(code, words), expected, "{code} {words}");
        }
    }

    #[test]
    fn busy_says_when_to_come_back_and_too_dear_says_the_price() {
        let behind = Failure::new(Kind::NoWorker, "the proxy's disk is behind").into_api_error("m", &[]);
        assert_eq!((behind.status, behind.code.as_deref()), (503, Some("no_proxy")));
        let limited = Failure::new(Kind::Busy, "what was used is being charged").into_api_error("m", &[]);
        assert!(limited.message.contains("being charged") && limited.retry_after.is_some(), "{limited}");
        let busy = Failure::new(Kind::Busy, "").into_api_error("m", &[]);
        assert_eq!(busy.retry_after, Some(BUSY_RETRY_SECONDS));
        for (named, told) in [(0, 1), (7, 7), (u64::MAX, 30)] {
            let busy = Failure::new(Kind::Busy, "").again_after(Some(Duration::from_secs(named)));
            assert_eq!(busy.into_api_error("m", &[]).retry_after, Some(told));
        }
        let dear = Failure::new(Kind::TooDear, "can run this query with coefficient=7000");
        assert!(dear.into_api_error("m", &[]).message.contains("coefficient=7000"));
    }

    #[test]
    fn a_low_balance_is_told_with_the_reason_why_it_stays_low() {
        let low = Failure::new(Kind::Balance, "balance too low: 2 TON needed")
            .with_cause_of_low_balance("send coins");
        let error = low.into_api_error("m", &[]);
        assert_eq!(error.status, 402);
        assert!(error.message.contains("send coins (balance too low: 2 TON needed)"), "{}", error.message);
        let busy = Failure::new(Kind::Busy, "busy");
        assert_eq!(busy.clone().with_cause_of_low_balance("send coins"), busy);
    }

    #[test]
    fn a_model_that_was_there_a_moment_ago_is_worth_another_try() {
        let status = |model: &str| {
            Failure::new(Kind::UnknownModel, "").into_api_error(model, &["a/b".to_owned()]).status
        };
        assert_eq!([status("a/b"), status("a/b@c:d"), status("a")], [503, 503, 404]);
    }

    #[test]
    fn a_body_over_one_proxys_limit_may_be_within_anothers() {
        let head = http::Response {
            http_version: "HTTP/1.1".into(),
            status_code: 413,
            reason: "Content Too Large".into(),
            headers: vec![http::Header { name: "X-Cocoon-Error".into(), value: "request_too_large".into() }],
            payload: bytes::Bytes::new(),
        };
        let failure = Failure::refused(refusal(&head).unwrap(), "a body may have 7 bytes");
        assert_eq!(failure.why(true), Why::Refused);
        assert_eq!(failure.into_api_error("m", &[]).status, 413);
    }

    #[test]
    fn of_several_failures_the_most_telling_one_is_told() {
        let told = |first, later| Failure::new(first, "").or_worse(Failure::new(later, "")).kind;
        assert_eq!(told(Kind::Busy, Kind::UnknownModel), Kind::Busy);
        assert_eq!(told(Kind::UnknownModel, Kind::Busy), Kind::Busy);
        assert_eq!(told(Kind::Lost, Kind::NoProxy), Kind::Lost);
        assert_eq!(told(Kind::Busy, Kind::Lost), Kind::Busy);
        assert_eq!(told(Kind::NoWorker, Kind::Engine), Kind::Engine);
    }

    #[test]
    fn a_lost_connection_is_told_apart_from_a_proxy_that_cannot_serve() {
        let kind = |words| Failure::from(&RequestFailure::new(ErrorCode::NOT_READY, words)).kind;
        assert_eq!(kind("connection to the proxy lost: connection reset"), Kind::Lost);
        assert_eq!(kind("proxy is disabled"), Kind::Proxy);
    }

    #[test]
    fn a_proxy_that_answers_in_a_workers_place_may_hear_more_of_it() {
        let text = ByteStr::from_static;
        let head = |status_code, names: &[&'static str]| http::Response {
            http_version: text("HTTP/1.1"),
            status_code,
            reason: text(""),
            headers: names.iter().map(|name| http::Header { name: text(name), value: text("1") }).collect(),
            payload: bytes::Bytes::new(),
        };
        assert!(is_early(&head(504, &["X-Cocoon-Error"])));
        assert!(is_early(&head(503, &["X-Cocoon-Error", RESEND_HEADER])));
        assert!(!is_early(&head(503, &["X-Cocoon-Error"])), "it has given the request to nobody");
        assert!(!is_early(&head(504, &["Content-Type"])), "an engine's own");
    }

    #[test]
    fn words_of_peers_are_cut_and_cleaned() {
        let words = format!("a\r\nb{}", "x".repeat(1000));
        let message = Failure::new(Kind::Engine, &words).into_api_error("m", &[]).message;
        assert!(message.contains("abx") && message.len() < 400, "{message}");
    }
}
