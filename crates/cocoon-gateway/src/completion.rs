//! A request for a completion: read, sent to a proxy (to a second one where the first cannot serve it), answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cocoon_ledger::{Adjusted, AdjustedTokens, Coefficient, Dispute, DisputeReason, RequestId, clamp_claim};
use cocoon_openai::{ApiError, BodyKind, Endpoint, PreparedRequest};
use cocoon_session::client::{MAX_QUERY_BYTES, Submission};
use cocoon_session::{FinalInfo, tariff};
use cocoon_wire::codec::{ByteStr, to_boxed};
use cocoon_wire::tl::http as wire;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Shared;
use crate::answer::{AnswerBody, Answering, Bill, Timing, claim_of, collect};
use crate::body::Body;
use crate::connection::Connection;
use crate::exchange::{Ending, Event, Exchange};
use crate::failure::{BUSY_RETRY_SECONDS, Failure, Kind, refusal, words_of};
use crate::models;
use crate::price::Order;

/// Proxies that one request is given to.
const MAX_ATTEMPTS: usize = 2;
/// Bytes over the limit that are read and dropped, so that the caller gets to read why.
const MAX_DRAINED_BYTES: usize = 64 << 20;
/// Bodies up to this size are always read: `max_connections` of them are no burden.
const SMALL_BODY_BYTES: usize = 64 * 1024;
/// Larger bodies of all requests under way together; beyond that, large requests get 429. Each is held up to three
/// times while it is passed on.
const MAX_LARGE_BODIES_BYTES: usize = 256 << 20;
/// The unit in which that is counted.
const ROOM_UNIT_BYTES: usize = 1024;
/// Longest name of a model, in bytes.
const MAX_MODEL_BYTES: usize = 512;
/// Bytes of a refusal that are read for its words.
const MAX_REFUSAL_BYTES: usize = 16 * 1024;

/// Request headers that end here: hop by hop (RFC 9110 §7.6.1), set anew, credentials, and where the caller comes
/// from. `accept-encoding` too: a compressed answer could not be metered.
const KEPT_BACK: [&str; 31] = [
    "accept-encoding",
    "api-key",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "from",
    "host",
    "keep-alive",
    "openai-organization",
    "openai-project",
    "origin",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "referer",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-api-key",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];
/// Answer headers that are our business, not the worker's.
const NOT_TAKEN_OVER: [&str; 15] = [
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "proxy-authenticate",
    "server",
    "set-cookie",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-cocoon-cost-nanoton",
    "x-cocoon-proxy",
    "x-cocoon-request-id",
    "x-cocoon-tokens",
    "x-cocoon-worker",
];

const COST: HeaderName = HeaderName::from_static("x-cocoon-cost-nanoton");
const TOKENS: HeaderName = HeaderName::from_static("x-cocoon-tokens");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-cocoon-request-id");
const PROXY: HeaderName = HeaderName::from_static("x-cocoon-proxy");
const WORKER: HeaderName = HeaderName::from_static("x-cocoon-worker");

/// Counts a request as under way while it lives, and keeps its place among the large ones.
pub(crate) struct InFlight {
    shared: Arc<Shared>,
    room: Option<OwnedSemaphorePermit>,
}

impl InFlight {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.metrics.in_flight.inc();
        Self { shared: Arc::clone(shared), room: None }
    }

    /// Takes room for a body of so many bytes, once. Without it, the body must not be kept.
    fn make_room(&mut self, bytes: usize) -> bool {
        if self.room.is_none() {
            let units = u32::try_from(bytes.div_ceil(ROOM_UNIT_BYTES)).unwrap_or(u32::MAX);
            self.room = Arc::clone(&self.shared.room).try_acquire_many_owned(units).ok();
        }
        self.room.is_some()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.shared.metrics.in_flight.dec();
    }
}

/// Room for the large bodies of all requests under way.
pub(crate) fn room_for_bodies() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MAX_LARGE_BODIES_BYTES / ROOM_UNIT_BYTES))
}

/// Answers a request for a completion.
pub(crate) async fn complete(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    endpoint: Endpoint,
) -> Result<Response<Body>, ApiError> {
    let started = Instant::now();
    let answered = try_complete(shared, request, endpoint, started).await;
    let status = match &answered {
        Ok(response) => response.status().as_u16(),
        Err(error) => error.status,
    };
    let name = match endpoint {
        Endpoint::Chat => "chat",
        Endpoint::Completions => "completions",
    };
    shared.metrics.request(name, status, started.elapsed());
    answered
}

async fn try_complete(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    endpoint: Endpoint,
    started: Instant,
) -> Result<Response<Body>, ApiError> {
    let mut in_flight = InFlight::new(shared);
    let (parts, body) = request.into_parts();
    let body = read_body(&mut in_flight, &parts.headers, body).await?;
    let prepared = PreparedRequest::parse_with(&body, endpoint, &shared.limits.request_defaults())?;
    drop(body);
    let query = query(&parts.headers, &prepared);
    if query.len() > MAX_QUERY_BYTES {
        return Err(ApiError::too_large(shared.limits.max_body_bytes as u64));
    }
    let base_model = prepared.model.split('@').next().unwrap_or_default().to_owned();
    if base_model.len() > MAX_MODEL_BYTES {
        let message = format!("No model has a name of more than {MAX_MODEL_BYTES} bytes.");
        return Err(ApiError::invalid_request(Some("model"), "invalid_value", message));
    }
    let asked = Asked { shared, prepared, query, model: base_model, started, in_flight };
    match asked.send().await {
        Ok((exchange, head, sent)) => asked.answer(exchange, head, sent).await,
        Err(failure) => {
            let available = models::names(&shared.pool.all());
            let failure =
                match shared.settlement.as_ref().and_then(|settlement| settlement.why_not_filled_up()) {
                    Some(why) => failure.with_cause_of_low_balance(&why),
                    None => failure,
                };
            Err(failure.into_api_error(&asked.prepared.model, &available))
        }
    }
}

async fn read_body(
    in_flight: &mut InFlight,
    headers: &HeaderMap,
    mut body: Incoming,
) -> Result<Bytes, ApiError> {
    let limits = in_flight.shared.limits;
    let limit = limits.max_body_bytes;
    let reading = async {
        let announced =
            body.size_hint().exact().map_or(0, |size| usize::try_from(size).unwrap_or(usize::MAX));
        if announced > limit && headers.contains_key(EXPECT) {
            return Err(ApiError::too_large(limit as u64));
        }
        // How long a chunked body gets is not known.
        let expected = if announced == 0 { limit } else { announced };
        let mut kept = true;
        let mut first = Bytes::new();
        let mut joined: Vec<u8> = Vec::new();
        let mut received = 0_usize;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| {
                ApiError::invalid_request(None, "incomplete_body", "The request's body broke off.")
            })?;
            let Ok(data) = frame.into_data() else { continue };
            received = received.saturating_add(data.len());
            if received > limit.saturating_add(MAX_DRAINED_BYTES) {
                break;
            }
            kept &= received <= limit
                && announced <= limit
                && (received <= SMALL_BODY_BYTES || in_flight.make_room(expected));
            if !kept {
                // What was kept so far goes, the rest is read and dropped, so that the caller gets to read why.
                (first, joined) = Default::default();
                continue;
            }
            if first.is_empty() && joined.is_empty() {
                first = data;
                continue;
            }
            if joined.is_empty() {
                let known = if in_flight.room.is_some() { announced } else { 0 };
                joined.reserve(known.max(received));
                joined.extend_from_slice(&std::mem::take(&mut first));
            }
            joined.extend_from_slice(&data);
        }
        if received > limit {
            return Err(ApiError::too_large(limit as u64));
        }
        if !kept {
            let message = "Too many large requests are under way; try again in a moment.";
            return Err(ApiError::workers_busy(message, BUSY_RETRY_SECONDS));
        }
        Ok(if joined.is_empty() { first } else { joined.into() })
    };
    match tokio::time::timeout(limits.body_timeout, reading).await {
        Ok(read) => read,
        Err(_) => Err(ApiError::new(
            408,
            "invalid_request_error",
            "slow_request",
            "The request's body did not arrive in time.",
        )),
    }
}

/// The boxed `http.request` for the worker.
fn query(headers: &HeaderMap, prepared: &PreparedRequest) -> Bytes {
    let header = |name: &str, value: &[u8]| wire::Header {
        name: name.to_owned().into(),
        value: ByteStr(Bytes::copy_from_slice(value)),
    };
    // Headers that the caller's `Connection` names are for this hop alone.
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let passes = |name: &str| {
        KEPT_BACK.binary_search(&name).is_err()
            && !name.starts_with("sec-")
            && !name.starts_with("access-control-")
            && !named.iter().any(|other| other == name)
    };
    let mut passed = vec![
        header("Content-Type", b"application/json"),
        header("Content-Length", prepared.body.len().to_string().as_bytes()),
    ];
    passed.extend(
        headers
            .iter()
            .filter(|(name, _)| passes(name.as_str()))
            .map(|(name, value)| header(name.as_str(), value.as_bytes())),
    );
    to_boxed(&wire::Request {
        method: ByteStr::from_static("POST"),
        url: ByteStr::from_static(prepared.endpoint.path()),
        http_version: ByteStr::from_static("HTTP/1.1"),
        headers: passed,
        payload: prepared.body.clone(),
    })
}

/// A request that was understood.
struct Asked<'a> {
    shared: &'a Arc<Shared>,
    prepared: PreparedRequest,
    query: Bytes,
    /// The model's name without `@...`.
    model: String,
    started: Instant,
    in_flight: InFlight,
}

impl Asked<'_> {
    /// Why no proxy takes the request.
    fn no_proxy(&self) -> Failure {
        let status = self.shared.settlement.as_ref().map(|settlement| settlement.status());
        match status.map(|status| (status.needs, status.hold)) {
            Some((Some(needs), _)) => Failure::new(Kind::Funds, &needs.to_string()),
            Some((None, Some(hold))) => Failure::new(Kind::Proxy, &hold),
            _ => {
                let failure = self.shared.pool.failure().map_or_else(String::new, |why| format!(" ({why})"));
                Failure::new(Kind::Proxy, &format!("no proxy is connected{failure}; see /health"))
            }
        }
    }

    /// Finds a proxy that answers.
    async fn send(&self) -> Result<(Exchange, wire::Response, Instant), Failure> {
        let deadline = self.started + self.prepared.timeout;
        let cap = self.prepared.max_coefficient.unsigned_abs();
        let mut tried: Vec<Arc<Connection>> = Vec::new();
        let mut last = None;
        while tried.len() < MAX_ATTEMPTS {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(last.unwrap_or_else(|| Failure::new(Kind::TimedOut, "no proxy answered")));
            }
            let Some(connection) = self.shared.pool.choose(&self.model, cap, &tried) else { break };
            if !tried.is_empty() {
                self.shared.metrics.retries.inc();
            }
            let sent = Instant::now();
            match self.attempt(&connection, left).await {
                Ok((exchange, head)) => return Ok((exchange, head, sent)),
                Err(failure) if !failure.worth_another_proxy() => return Err(failure),
                // A proxy without the model says nothing about one whose workers are busy.
                Err(failure) if failure.kind == Kind::UnknownModel => last = last.or(Some(failure)),
                Err(failure) => last = Some(failure),
            }
            tried.push(connection);
        }
        Err(last.unwrap_or_else(|| self.no_proxy()))
    }

    /// Asks one proxy, up to the head of the answer.
    async fn attempt(
        &self,
        connection: &Arc<Connection>,
        timeout: Duration,
    ) -> Result<(Exchange, wire::Response), Failure> {
        let order = self.order(connection);
        let at_most = order.at_most().map_or(i64::MAX, AdjustedTokens::to_wire);
        let submission = Submission {
            id: rand::random(),
            model: self.model.clone(),
            query: self.query.clone(),
            max_coefficient: self.prepared.max_coefficient,
            max_tokens: self.prepared.completion_bound,
            timeout,
            enable_debug: self.prepared.enable_debug,
        };
        let mut exchange =
            connection.submit(&submission, at_most).map_err(|failure| Failure::from(&failure))?;
        let head = loop {
            match exchange.next().await {
                Event::Head(head, _) => break head,
                Event::Data(_) => {}
                Event::End(Ending::Failed { failure, info }) => {
                    self.dispute_claim(connection, submission.id, &info.unwrap_or_default());
                    return Err(Failure::from(&failure));
                }
                Event::End(Ending::Completed { info, .. }) => {
                    self.dispute_claim(connection, submission.id, &info);
                    return Err(Failure::new(Kind::Engine, "an answer without a head"));
                }
            }
        };
        let Some(kind) = refusal(&head) else { return Ok((exchange, head)) };
        let mut body = Vec::new();
        let info = loop {
            match exchange.next().await {
                Event::Data(data) if body.len() + data.len() <= MAX_REFUSAL_BYTES => {
                    body.extend_from_slice(&data);
                }
                Event::End(Ending::Completed { info, .. }) => break info,
                Event::End(Ending::Failed { info, .. }) => break info.unwrap_or_default(),
                _ => {}
            }
        };
        self.dispute_claim(connection, submission.id, &info);
        Err(Failure::refused(kind, &words_of(&body)))
    }

    /// Where nothing was delivered, nothing may be claimed.
    fn dispute_claim(&self, connection: &Connection, request: [u8; 32], info: &FinalInfo) {
        let claimed = clamp_claim(&claim_of(info));
        if let Some(terms) = connection.terms()
            && claimed.total() > AdjustedTokens::ZERO
        {
            let (expected, reason) = (Adjusted::ZERO, DisputeReason::NoAnswer);
            let dispute = Dispute { request: RequestId(request), expected, claimed, reason };
            self.shared.dispute(&dispute, &terms.public_key, &self.model);
        }
    }

    fn order(&self, connection: &Connection) -> Order {
        Order {
            query_bytes: self.query.len() as u64,
            max_tokens: u64::try_from(self.prepared.completion_bound).unwrap_or(0),
            max_coefficient: Coefficient::from_wire(self.prepared.max_coefficient.into())
                .unwrap_or(Coefficient::MAX),
            tariff: tariff(&self.shared.root.borrow()),
            limit_binds: connection.terms().is_some_and(|terms| terms.extensions),
        }
    }

    async fn answer(
        self,
        exchange: Exchange,
        head: wire::Response,
        sent: Instant,
    ) -> Result<Response<Body>, ApiError> {
        let status = u16::try_from(head.status_code)
            .ok()
            .and_then(|status| StatusCode::from_u16(status).ok())
            .filter(|status| status.as_u16() >= 200)
            .ok_or_else(|| ApiError::engine_failed("The worker's answer is no HTTP answer."))?;
        // A client would follow it, and carry the prompt to wherever the worker says.
        if status.is_redirection() {
            return Err(ApiError::engine_failed(
                "The worker's answer leads elsewhere, which is not followed.",
            ));
        }
        let mut headers = HeaderMap::with_capacity(head.headers.len() + 8);
        let content_type = take_over(&head, &mut headers);
        let success = status.is_success();
        let streamed = self.prepared.stream && success;
        let kind = BodyKind::detect(content_type.as_deref(), streamed);
        let connection = Arc::clone(exchange.connection());
        let order = self.order(&connection);
        set(&mut headers, REQUEST_ID, hex::encode(exchange.request()));
        let proxy = connection.peer.certificate_fingerprint;
        set(&mut headers, PROXY, hex::encode(proxy));
        if let Some(worker) = exchange.worker() {
            set(&mut headers, WORKER, hex::encode(worker));
        }
        if !self.shared.vetting.memory.note_answer(&proxy, exchange.worker()) {
            // Whoever asks later who answered should get to see it.
            connection.want_evidence(exchange.worker().map(std::slice::from_ref).unwrap_or_default());
        }
        let answering = Answering {
            shared: Arc::clone(self.shared),
            exchange,
            order,
            model: self.model,
            request_body: self.prepared.body,
            offers: connection.models(),
            kind,
            success,
            show_usage: self.prepared.caller_wants_usage || !streamed,
            enable_debug: self.prepared.enable_debug,
            request_guid: self.prepared.request_guid,
            timing: Timing { started: self.started, sent, head: Instant::now() },
            bytes: 0,
            _in_flight: self.in_flight,
        };
        let body = if success && kind != BodyKind::Json {
            if kind == BodyKind::Sse && !headers.contains_key(CACHE_CONTROL) {
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            }
            Body::Answer(Box::new(AnswerBody::new(answering)))
        } else {
            let (body, bill) = collect(answering).await?;
            if let Some(Bill { costs, tokens, .. }) = bill {
                set(&mut headers, COST, costs.total_cost.to_string());
                set(&mut headers, TOKENS, tokens.to_string());
            }
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            Body::full(body)
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// Copies the head's headers that callers should see; returns the content type.
fn take_over(head: &wire::Response, headers: &mut HeaderMap) -> Option<String> {
    let mut content_type = None;
    for header in &head.headers {
        let Ok(name) = HeaderName::from_bytes(header.name.as_bytes()) else { continue };
        let ours = NOT_TAKEN_OVER.binary_search(&name.as_str()).is_ok();
        if ours || name.as_str().starts_with("access-control-") {
            continue;
        }
        let Ok(value) = HeaderValue::from_maybe_shared(header.value.0.clone()) else { continue };
        if name == http::header::CONTENT_TYPE {
            content_type = value.to_str().ok().map(str::to_owned);
        }
        headers.append(name, value);
    }
    content_type
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(value)) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cocoon_wire::codec::from_boxed;

    use super::*;

    #[test]
    fn header_lists_are_sorted_for_the_search() {
        assert!(KEPT_BACK.is_sorted() && NOT_TAKEN_OVER.is_sorted());
    }

    #[test]
    fn the_callers_credentials_and_origin_never_leave_the_gateway() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer secret"),
            ("cookie", "secret"),
            ("x-api-key", "secret"),
            ("origin", "https://secret.example"),
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "secret"),
            ("accept-encoding", "gzip"),
            ("content-length", "7"),
            ("x-custom", "kept"),
            ("accept", "*/*"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let body = br#"{"model":"m","messages":[1]}"#;
        let prepared = PreparedRequest::parse(body, Endpoint::Chat, 5).unwrap();
        let request: wire::Request = from_boxed(query(&headers, &prepared)).unwrap();
        let names: Vec<_> = request.headers.iter().map(|header| header.name.to_lossy()).collect();
        assert_eq!(names, ["Content-Type", "Content-Length", "x-custom", "accept"]);
        assert_eq!(request.headers[1].value.to_lossy(), prepared.body.len().to_string());
        assert_eq!(request.url.to_lossy(), "/v1/chat/completions");
    }

    #[test]
    fn a_worker_cannot_write_our_headers() {
        let header = |name: &'static str, value: &'static str| wire::Header {
            name: ByteStr::from_static(name),
            value: ByteStr::from_static(value),
        };
        let head = wire::Response {
            http_version: ByteStr::from_static("HTTP/1.1"),
            status_code: 200,
            reason: ByteStr::from_static("OK"),
            headers: vec![
                header("Content-Type", "application/json"),
                header("X-Cocoon-Cost-Nanoton", "0"),
                header("Content-Length", "7"),
                header("Access-Control-Allow-Origin", "x"),
                header("bad name", "x"),
                header("X-Bad", "a\nb"),
                header("X-Cocoon-Worker", "another"),
                header("X-Cocoon-Proxy", "another"),
                header("X-Cocoon-Worker-Start", "1.5"),
            ],
            payload: Bytes::new(),
        };
        let mut headers = HeaderMap::new();
        assert_eq!(take_over(&head, &mut headers).as_deref(), Some("application/json"));
        let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["content-type", "x-cocoon-worker-start"]);
    }
}
