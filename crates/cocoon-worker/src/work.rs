//! One request: from the proxy's words to the engine, and the engine's answer back, metered.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use cocoon_engine::{EngineError, EngineRequest, EngineResponse};
use cocoon_ledger::{Adjusted, Coefficient, Tariff, TokenCounts, adjust_exact};
use cocoon_openai::{
    AnswerMeter, ArrivingBody, BodyForm, BodyKind, BodyLimits, CostFields, CostFn, Endpoint, RequestBasis,
    Usage, estimate_usage,
};
use cocoon_session::worker::Work;
use cocoon_session::{ErrorCode, RequestFailure};
use cocoon_wire::codec::ByteStr;
use cocoon_wire::tl::{self, http as wire_http};
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::Shared;
use crate::body::{Coming, Stopped};
use crate::link::{Link, Running};
use crate::trail::{Seen, Trail};

/// Headers of the caller that go no further than this.
const OWN_HEADERS: [&str; 8] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "authorization",
    "cookie",
    "expect",
    "accept-encoding",
];

/// Largest body of JSON, in bytes: it is held until it is whole.
const MAX_JSON_BYTES: u64 = 64 * 1024 * 1024;

/// Works one request off; whatever happens, the session hears of its end.
pub(crate) async fn run(shared: Arc<Shared>, link: Arc<Link>, work: Work, running: Arc<Running>) {
    let id = work.id;
    let trail = Trail::begin(&shared, &work);
    shared.counts.requests.fetch_add(1, Ordering::Relaxed);
    let before = shared.active.fetch_add(1, Ordering::AcqRel);
    let end = if let Some(why) = link.hold(&shared) {
        shared.counts.refused.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(attempt = hex::encode(id), why, "refused a request");
        End::failed(ErrorCode::NOT_READY, "the worker takes no requests of this proxy now")
    } else if before >= shared.config.max_active as usize {
        shared.counts.refused.fetch_add(1, Ordering::Relaxed);
        let failure = RequestFailure::new(ErrorCode::NOT_READY, "too many active queries");
        End { failure: Some(failure), ..End::default() }
    } else {
        serve(&shared, &link, work, &running, trail.began).await
    };
    trail.end(&shared, &end.seen, end.failure.as_ref().map(|failure| failure.code.name()));
    let count = match &end.failure {
        None => &shared.counts.succeeded,
        Some(RequestFailure { code: ErrorCode::CANCELLED, .. }) => &shared.counts.cancelled,
        Some(_) => &shared.counts.failed,
    };
    count.fetch_add(1, Ordering::Relaxed);
    if end.estimated {
        shared.counts.estimated.fetch_add(1, Ordering::Relaxed);
    }
    let tokens = tokens_used(&end.tokens);
    tracing::debug!(
        attempt = hex::encode(id),
        failure = end.failure.as_ref().map(|failure| failure.code.name()),
        tokens = end.tokens.total().0,
        "a request ended"
    );
    // Before the last word: the proxy may answer it with the next request at once.
    shared.active.fetch_sub(1, Ordering::AcqRel);
    // In one step, so that a short answer leaves in one packet.
    link.end(&shared, id, end.tokens.total().0, |session, now| {
        if let Some(head) = end.head {
            session.head(id, head, now);
        }
        if let Some(rest) = end.rest {
            session.data(id, rest);
        }
        match end.failure {
            None => session.complete_request(id, tokens, now),
            Some(failure) => session.fail(id, failure, tokens, now),
        }
    });
}

/// How a request ends, and what of its answer is still to be sent.
#[derive(Default)]
struct End {
    head: Option<wire_http::Response>,
    rest: Option<Bytes>,
    failure: Option<RequestFailure>,
    tokens: Adjusted,
    estimated: bool,
    seen: Seen,
}

impl End {
    fn failed(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { failure: Some(RequestFailure::new(code, message)), ..Self::default() }
    }

    fn cancelled(running: &Running) -> Self {
        let why = running.why.lock().unwrap_or_else(PoisonError::into_inner).take();
        let failure = why.unwrap_or_else(|| {
            RequestFailure::new(ErrorCode::CANCELLED, "the connection to the proxy is gone")
        });
        Self { failure: Some(failure), ..Self::default() }
    }
}

async fn serve(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    work: Work,
    running: &Arc<Running>,
    began: Instant,
) -> End {
    let pricing = match Pricing::of(shared, work.coefficient) {
        Ok(pricing) => pricing,
        Err(why) => return End::failed(ErrorCode::PROTOCOL, why),
    };
    let coefficient = pricing.coefficient.get();
    if !shared.asks(coefficient) {
        shared.counts.refused.fetch_add(1, Ordering::Relaxed);
        let attempt = hex::encode(work.id);
        tracing::warn!(attempt, coefficient, "refused a request at a price that was not asked");
        return End::failed(ErrorCode::NOT_READY, "the worker asks another price");
    }
    let (request, coming) = match engine_request(shared, link, &work, running).await {
        Ok(request) => request,
        Err(Stopped::Refused(why)) => return End::failed(ErrorCode::PROTOCOL, why),
        Err(Stopped::Cancelled) => return End::cancelled(running),
    };
    let asking = running.cancelled.run_until_cancelled(shared.engine.call(request));
    let response = match asking.await {
        None => return End::cancelled(running),
        Some(Ok(response)) => response,
        Some(Err(_)) if let Some(why) = coming.refused() => return End::failed(ErrorCode::PROTOCOL, why),
        Some(Err(EngineError::Unsupported(why))) => return End::failed(ErrorCode::PROTOCOL, why),
        Some(Err(error)) => {
            tracing::warn!(attempt = hex::encode(work.id), %error, "the engine did not answer");
            return End::failed(ErrorCode::ERROR, "the engine did not answer");
        }
    };
    // An engine that refuses the request need not have read it to its end; one that serves it has.
    if response.status.is_success() && !coming.is_whole() {
        let attempt = hex::encode(work.id);
        tracing::warn!(attempt, "the engine answered before it had the whole request");
        return End::failed(ErrorCode::ERROR, "the engine answered before it had the whole request");
    }
    let Some(arriving) = coming.into_read() else {
        return End::failed(ErrorCode::ERROR, "the request was read twice");
    };
    let stream = arriving.stream();
    let asked = Arc::new(arriving.into_basis());
    answer(shared, link, work.id, response, running, &pricing, stream, &asked, began).await
}

/// Passes an answer on as it comes, and measures it.
#[expect(clippy::too_many_arguments, reason = "the parts of one exchange, used once")]
async fn answer(
    shared: &Shared,
    link: &Link,
    id: [u8; 32],
    response: EngineResponse,
    running: &Running,
    pricing: &Pricing,
    stream: bool,
    asked: &Arc<RequestBasis>,
    began: Instant,
) -> End {
    let mut seen = Seen { endpoint: Some(asked.endpoint()), ..Seen::default() };
    let succeeded = response.status.is_success();
    let kind = body_kind(&response, stream);
    let limits = BodyLimits::of(asked.endpoint());
    let mut meter = AnswerMeter::new(asked.endpoint(), kind, limits, cost(pricing, asked));
    // The head waits for the first bytes to pass on (of a JSON object, which is worth nothing before it is whole, for all of
    // them): where the answer breaks off before, the proxy can still try another worker.
    let mut head = Some(wire_head(&response));
    let mut body = response.body;
    let mut broken = None;
    loop {
        let chunk = match running.cancelled.run_until_cancelled(body.next()).await {
            None => {
                broken = End::cancelled(running).failure;
                break;
            }
            Some(None) => break,
            Some(Some(Ok(chunk))) => chunk,
            Some(Some(Err(error))) => {
                tracing::warn!(attempt = hex::encode(id), %error, "the engine's answer broke off");
                broken = Some(RequestFailure::new(ErrorCode::ERROR, "the engine's answer broke off"));
                break;
            }
        };
        let pieces = meter.push(chunk);
        if !pieces.is_empty() {
            if kind == BodyKind::Sse && seen.first.is_none() {
                seen.first = Some(began.elapsed());
            }
            send(shared, link, id, &mut head, pieces, running).await;
        }
    }
    let (rest, mut report) = meter.finish();
    let whole = report.complete || report.gave_up || !(stream || kind == BodyKind::Json);
    if broken.is_none() && succeeded && !whole {
        broken =
            Some(RequestFailure::new(ErrorCode::ERROR, "the engine's answer ended before it was complete"));
    }
    let silent = head.is_some();
    let (head, rest) = if broken.is_none() { (head, rest) } else { (None, None) };
    shared.counts.answer_bytes.fetch_add(rest.as_ref().map_or(0, Bytes::len) as u64, Ordering::Relaxed);
    report.complete &= broken.is_none();
    // Of an answer without a byte, nobody has anything.
    if !succeeded || (silent && rest.as_ref().is_none_or(Bytes::is_empty)) {
        return End { head, rest, failure: broken, seen, ..End::default() };
    }
    let metered = estimate_usage(&report, asked);
    seen.usage = metered.usage;
    let (tokens, estimated) = (pricing.adjust(&metered.usage), metered.estimated);
    End { head, rest, failure: broken, tokens, estimated, seen }
}

/// Queues what came, after the head where that was not sent yet; waits for room where the receiver is slow.
async fn send(
    shared: &Shared,
    link: &Link,
    id: [u8; 32],
    head: &mut Option<wire_http::Response>,
    pieces: Vec<Bytes>,
    running: &Running,
) {
    let bytes: usize = pieces.iter().map(Bytes::len).sum();
    shared.counts.answer_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    let head = head.take();
    let room = link.run(shared, |session, now| {
        if let Some(head) = head {
            session.head(id, head, now);
        }
        pieces.into_iter().map(|piece| session.data(id, piece)).last()
    });
    if room == Some(0) {
        // Cancelling is seen by the caller of this.
        let _ = running.cancelled.run_until_cancelled(running.room.notified()).await;
    }
}

fn body_kind(response: &EngineResponse, stream: bool) -> BodyKind {
    let text = |name: HeaderName| response.headers.get(name).and_then(|value| value.to_str().ok());
    let encoded = text(http::header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity");
    if encoded { BodyKind::Opaque } else { BodyKind::detect(text(http::header::CONTENT_TYPE), stream) }
}

fn cost(pricing: &Pricing, asked: &Arc<RequestBasis>) -> CostFn {
    let (pricing, asked) = (pricing.clone(), Arc::clone(asked));
    Box::new(move |usage| pricing.cost(&asked.hold(usage)))
}

fn wire_head(response: &EngineResponse) -> wire_http::Response {
    // `X-Cocoon-*` is the network's own word, never an engine's.
    let passed = response.headers.iter().filter(|(name, _)| !name.as_str().starts_with("x-cocoon-"));
    let headers = passed.map(|(name, value)| wire_http::Header {
        name: ByteStr::from(name.as_str().to_owned()),
        value: ByteStr(Bytes::copy_from_slice(value.as_bytes())),
    });
    wire_http::Response {
        http_version: ByteStr::from_static("HTTP/1.1"),
        status_code: i32::from(response.status.as_u16()),
        reason: ByteStr::from_static(response.status.canonical_reason().unwrap_or("Unknown")),
        headers: headers.collect(),
        payload: Bytes::new(),
    }
}

/// What the engine is asked, and what was read of it. Only the endpoints that are metered are open: an engine may
/// have others that steer it.
async fn engine_request(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    work: &Work,
    running: &Arc<Running>,
) -> Result<(EngineRequest, Coming), Stopped> {
    let refuse = |why: &str| Stopped::Refused(why.to_owned());
    let request = &work.request;
    let path = request.url.to_str().ok_or_else(|| refuse("the URL is not text"))?;
    let bare = path.split_once('?').map_or(path, |(bare, _)| bare);
    let endpoint = Endpoint::from_path(bare).ok_or_else(|| refuse("this path is not served"))?;
    if request.method.as_bytes() != b"POST" {
        return Err(refuse("only POST is served"));
    }
    let content_type = request
        .headers
        .iter()
        .find(|header| header.name.as_bytes().eq_ignore_ascii_case(b"content-type"))
        .and_then(|header| header.value.to_str());
    let arriving =
        ArrivingBody::new(endpoint, content_type).map_err(|error| Stopped::Refused(error.message))?;
    // What has to be held to be read is bounded; the rest goes through.
    let asked_bytes = work.body_bytes.unwrap_or(0).saturating_add(request.payload.len() as u64);
    if endpoint.form() == BodyForm::Json && asked_bytes > MAX_JSON_BYTES {
        return Err(Stopped::Refused(format!("a body of JSON may have {MAX_JSON_BYTES} bytes")));
    }
    let first = request.payload.clone();
    let whole = work.body_bytes.is_none();
    let (coming, mut pieces) =
        Coming::begin(shared, link, running, work.id, arriving, first, whole).map_err(Stopped::Refused)?;
    // Nothing goes on before the model is known; a form names it first.
    while coming.look(|arriving| arriving.model().is_none()).unwrap_or(false)
        && let Some(more) = coming.next().await?
    {
        pieces.extend(more);
    }
    let ours = |arriving: &ArrivingBody| {
        arriving.model().is_some_and(|model| model == shared.model() || model == shared.config.model)
    };
    if !coming.look(ours).unwrap_or(false) {
        let why = format!("model name mismatch: this worker serves {}", shared.model());
        return Err(Stopped::Refused(why));
    }
    let rest = (!coming.is_whole()).then(|| {
        let removed = coming.look(ArrivingBody::removed_bytes).unwrap_or(0) as u64;
        let gone = pieces.iter().map(Bytes::len).sum::<usize>() as u64;
        coming.rest(asked_bytes.checked_sub(removed.saturating_add(gone)))
    });
    let body = match pieces.len() {
        1 => pieces.swap_remove(0),
        _ => pieces.concat().into(),
    };
    let mut headers = HeaderMap::new();
    for header in &request.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let value = HeaderValue::from_bytes(header.value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value)
            && !OWN_HEADERS.contains(&name.as_str())
        {
            headers.append(name, value);
        }
    }
    let request = EngineRequest { method: Method::POST, path: path.to_owned(), headers, body, rest };
    Ok((request, coming))
}

/// From the engine's tokens to adjusted ones, and their price.
#[derive(Debug, Clone)]
struct Pricing {
    coefficient: Coefficient,
    tariff: Tariff,
}

impl Pricing {
    fn of(shared: &Shared, coefficient: i64) -> Result<Self, String> {
        let coefficient = Coefficient::from_wire(coefficient).map_err(|error| error.to_string())?;
        Ok(Self { coefficient, tariff: cocoon_session::tariff(&shared.root()) })
    }

    fn adjust(&self, usage: &Usage) -> Adjusted {
        let counts = TokenCounts::from_usage(
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.completion_tokens,
            usage.reasoning_tokens,
        );
        // Usage is bounded by its type, so this overflows only at absurd prices: then nothing is claimed.
        adjust_exact(counts, self.coefficient, &self.tariff).unwrap_or(Adjusted::ZERO)
    }

    fn cost(&self, usage: &Usage) -> CostFields {
        let adjusted = self.adjust(usage);
        let price = self.tariff.price_per_token.0;
        let nanoton = |tokens: u64| tokens.saturating_mul(price);
        CostFields {
            prompt_total_cost: nanoton(adjusted.prompt().0.saturating_add(adjusted.cached().0)),
            completion_total_cost: nanoton(adjusted.completion().0.saturating_add(adjusted.reasoning().0)),
            total_cost: nanoton(adjusted.total().0),
        }
    }
}

fn tokens_used(adjusted: &Adjusted) -> tl::TokensUsed {
    let [prompt, cached, completion, reasoning, total] = adjusted.to_wire();
    tl::TokensUsed {
        prompt_tokens_used: prompt,
        cached_tokens_used: cached,
        completion_tokens_used: completion,
        reasoning_tokens_used: reasoning,
        total_tokens_used: total,
    }
}
