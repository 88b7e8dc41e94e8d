//! The HTTP side: accepts connections, finds out what is asked, and gives every answer its common headers.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cocoon_openai::{ApiError, Endpoint};
use cocoon_session::tariff;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY,
    RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Shared;
use crate::access::{self, Access, Scope, Visitor};
use crate::attestation;
use crate::body::{Body, Occupying};
use crate::completion::complete;
use crate::connection::Connection;
use crate::https::Https;
use crate::intake::discard;
use crate::io::{HalfClosed, Stalling};
use crate::market;
use crate::models::{self, ProxyDetails};
use crate::routes::{is_plain, nothing_at};
use crate::slots::{Slot, Slots};

/// Wait after the system could not give us a connection (out of file descriptors, for one).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Read buffer of a connection; grows to hold a request's head.
const MAX_READ_BUFFER: usize = 128 * 1024;
/// When to come back to a gateway that shuts down, in seconds.
const DRAINING_RETRY_SECONDS: u32 = 1;
/// Disputes shown to people.
const SHOWN_DISPUTES: usize = 20;

/// Where callers see who serves them, and on what evidence.
const ATTESTATION: &str = "/v1/attestation";
/// Where callers see what is on offer, and where people do.
const MARKET: &str = "/v1/market";
const MARKET_PAGE: &str = "/market";
/// How long a list of models waits for what proxies tell of their workers' abilities.
const MARKET_PATIENCE: Duration = Duration::from_millis(300);
/// What there is to see.
const PAGES: [&str; 8] = [
    "/v1/models",
    MARKET,
    MARKET_PAGE,
    ATTESTATION,
    "/health",
    "/metrics",
    "/jsonstats",
    "/request/debuglogentry",
];
/// One model follows.
const MODEL: &str = "/v1/models/";
/// One node follows.
const NODE: &str = "/v1/attestation/";
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Accepts connections until `stop`; `abort` ends those that are still there.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    (listener, https): (TcpListener, Option<Arc<Https>>),
    tasks: TaskTracker,
    stop: CancellationToken,
    abort: CancellationToken,
) {
    let slots = Slots::new(shared.limits.max_connections);
    loop {
        // A place is taken for one who is there: nobody has to make room for one who may never come.
        let accept = async {
            let (stream, _) = listener.accept().await?;
            Ok((stream, slots.take().await))
        };
        let accepted: std::io::Result<_> = tokio::select! {
            accepted = accept => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, slot)) => {
                let (shared, stop, abort) = (Arc::clone(&shared), stop.clone(), abort.clone());
                let https = https.clone();
                slot.idles();
                tasks.spawn(async move {
                    tokio::select! {
                        () = greet(shared, stream, https, slot, stop) => {}
                        () = abort.cancelled() => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                // The system may be short of what idle connections hold.
                slots.make_room();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Speaks TLS first, where that is to be.
async fn greet(
    shared: Arc<Shared>,
    stream: TcpStream,
    https: Option<Arc<Https>>,
    slot: Arc<Slot>,
    stop: CancellationToken,
) {
    if stream.set_nodelay(true).is_err() {
        // The caller is gone already.
        return;
    }
    let Some(https) = https else { return serve_connection(shared, stream, slot, stop).await };
    let handshake = TlsAcceptor::from(Arc::clone(&https.server)).accept(stream);
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(https.handshake_timeout(), handshake) => outcome,
        () = either(&stop, slot.left()) => return,
    };
    match outcome {
        Ok(Ok(stream)) => serve_connection(shared, stream, slot, stop).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake with a caller failed"),
        Err(_) => tracing::debug!("a caller was too slow with its TLS handshake"),
    }
}

async fn serve_connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    shared: Arc<Shared>,
    stream: S,
    slot: Arc<Slot>,
    stop: CancellationToken,
) {
    shared.metrics.connections.inc();
    let limits = shared.limits;
    let service = {
        let (shared, slot) = (Arc::clone(&shared), Arc::clone(&slot));
        service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Arc::clone(&slot));
            let (shared, busy) = (Arc::clone(&shared), slot.busy());
            async move {
                let response = respond(&shared, request).await;
                Ok::<_, Infallible>(response.map(|body| Occupying { body, _busy: busy }))
            }
        })
    };
    let stream = HalfClosed::new(Stalling::new(stream, limits.stall_timeout), Arc::clone(&slot));
    let io = TokioIo::new(stream);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(MAX_READ_BUFFER)
        .max_header_size(limits.max_header_bytes)
        .serve_connection(io, service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = either(&stop, slot.left()) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                ended = connection.as_mut() => ended,
                // One that has begun to say something would have its place until all of its head was there.
                () = std::future::ready(()), if slot.left().is_cancelled() && !slot.is_busy() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended");
    }
    shared.metrics.connections.dec();
}

async fn either(first: &CancellationToken, second: &CancellationToken) {
    tokio::select! {
        () = first.cancelled() => {}
        () = second.cancelled() => {}
    }
}

async fn respond(shared: &Arc<Shared>, mut request: Request<Incoming>) -> Response<Body> {
    let access = &shared.access;
    if access::is_preflight(request.method()) {
        return access::preflight(access, request.uri().path(), request.headers());
    }
    let head_only = request.method() == Method::HEAD;
    let endpoint = Endpoint::from_path(request.uri().path());
    let (mut response, cors) = match access::enter(access, request.uri().path(), request.headers()).await {
        Ok(visitor) => {
            request.extensions_mut().insert(visitor.clone());
            let answered = route(shared, &visitor, request).await;
            let mut response = answered.unwrap_or_else(|error| refused(shared, &error, endpoint));
            access.limits_of(&visitor).stamp(response.headers_mut());
            (response, visitor.cors)
        }
        Err(turned_away) => {
            discard(request).await;
            let (error, cors) = *turned_away;
            (refused(shared, &error, endpoint), cors)
        }
    };
    cors.stamp(response.headers_mut());
    if shared.draining.is_cancelled() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if head_only {
        *response.body_mut() = Body::EMPTY;
    }
    response
}

async fn route(
    shared: &Arc<Shared>,
    visitor: &Visitor,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    if let Err(error) = is_plain(request.headers()) {
        discard(request).await;
        return Err(error);
    }
    let request = match Access::serve(shared, visitor, request).await {
        Ok(served) => return served,
        Err(request) => request,
    };
    if let Err(error) = serves(shared, &request) {
        discard(request).await;
        return Err(error);
    }
    let path = request.uri().path();
    if let Some(endpoint) = Endpoint::from_path(path) {
        return Ok(complete(shared, request, endpoint).await);
    }
    let model = path.strip_prefix(MODEL);
    let node = path.strip_prefix(NODE);
    if let Some(node) = node {
        return one_node(shared, node).await;
    }
    let scope = || shared.access.scope_of(visitor.key);
    match (path, model) {
        (_, Some(id)) => {
            market::warm(shared, MARKET_PATIENCE).await;
            one_model(shared, id, &scope())
        }
        (MARKET, _) => Ok(json_response(StatusCode::OK, &market::look(shared, &scope()).await)),
        (MARKET_PAGE, _) => Ok(market_page(shared, &scope()).await),
        ("/v1/models", _) => {
            market::warm(shared, MARKET_PATIENCE).await;
            let models = models_within(shared, &scope());
            Ok(json_response(StatusCode::OK, &json!({"object": "list", "data": models})))
        }
        (ATTESTATION, _) => {
            let query = request.uri().query().unwrap_or_default();
            let model = query.split('&').find_map(|field| field.strip_prefix("model=")).map(percent_decoded);
            Ok(json_response(StatusCode::OK, &attestation::all(shared, model.as_deref(), &scope()).await))
        }
        ("/health", _) => Ok(health(shared)),
        ("/metrics", _) => Ok(metrics(shared)),
        ("/jsonstats", _) => Ok(json_response(StatusCode::OK, &stats(shared))),
        _ => debug_entry(shared, visitor, request.uri().query().unwrap_or_default()),
    }
}

/// Whether something is served at this path, and by this method.
fn serves(shared: &Shared, request: &Request<Incoming>) -> Result<(), ApiError> {
    let path = request.uri().path();
    if Endpoint::from_path(path).is_some() {
        only(request, &[Method::POST], "POST")?;
        return if shared.draining.is_cancelled() { Err(draining()) } else { Ok(()) };
    }
    if !PAGES.contains(&path) && !path.starts_with(MODEL) && !path.starts_with(NODE) {
        return Err(nothing_at(path));
    }
    only(request, &[Method::GET, Method::HEAD], "GET")
}

fn only(request: &Request<Incoming>, methods: &[Method], allowed: &str) -> Result<(), ApiError> {
    if methods.contains(request.method()) {
        return Ok(());
    }
    Err(ApiError::method_not_allowed(request.method().as_str(), allowed))
}

/// What a request hears that comes too late.
fn draining() -> ApiError {
    let mut error = ApiError::new(
        503,
        "service_unavailable_error",
        "gateway_draining",
        "This gateway is shutting down and takes no new requests; send it again, to wherever it is answered next.",
    );
    error.retry_after = Some(DRAINING_RETRY_SECONDS);
    error
}

/// Turns a request away before anything was done for it.
fn refused(shared: &Shared, error: &ApiError, endpoint: Option<Endpoint>) -> Response<Body> {
    if let Some(endpoint) = endpoint {
        shared.metrics.request(endpoint.name(), error.status, error.code.as_deref());
    }
    failed(error, endpoint)
}

/// An error as an HTTP answer, in the shape that the endpoint's clients read.
pub(crate) fn failed(error: &ApiError, endpoint: Option<Endpoint>) -> Response<Body> {
    let body = endpoint.map_or_else(|| error.to_json(), |endpoint| error.to_json_for(endpoint));
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    if let Some(seconds) = error.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    access::stamp_error(error, headers);
    if error.status == 405
        && let Some(allowed) = error.message.rsplit("use ").next()
        && let Ok(value) = HeaderValue::from_str(allowed.trim_end_matches('.'))
    {
        headers.insert(ALLOW, value);
    }
    response
}

pub(crate) fn all_models(shared: &Shared) -> Vec<models::Model> {
    models::list(&shared.pool.all(), &tariff(&shared.root.borrow()), shared.started_unix_seconds)
}

/// Those that somebody may use.
fn models_within(shared: &Shared, scope: &Scope) -> Vec<models::Model> {
    let mut models = all_models(shared);
    models.retain(|model| scope.covers(&model.id));
    models
}

/// A model that a key is not for is none to it: what exists for others is not told.
fn one_model(shared: &Shared, id: &str, scope: &Scope) -> Result<Response<Body>, ApiError> {
    let id = percent_decoded(id);
    let models = models_within(shared, scope);
    match models.iter().find(|model| model.id == id) {
        Some(model) => Ok(json_response(StatusCode::OK, model)),
        None => {
            let names: Vec<_> = models.iter().map(|model| model.id.as_str()).collect();
            Err(ApiError::model_not_found(&id.chars().take(200).collect::<String>(), &names))
        }
    }
}

/// What one proxy or worker showed of itself.
async fn one_node(shared: &Arc<Shared>, digits: &str) -> Result<Response<Body>, ApiError> {
    let Some(fingerprint) = attestation::parse_fingerprint(digits) else {
        let message = "Name a node by the SHA-256 of its certificate: 64 hexadecimal digits.";
        return Err(ApiError::invalid_request(Some("fingerprint"), "invalid_value", message));
    };
    match attestation::one(shared, &fingerprint).await {
        Some(node) => Ok(json_response(StatusCode::OK, &node)),
        None => {
            let message = "No proxy or worker with this certificate is connected, or remembered.";
            Err(ApiError::new(404, "invalid_request_error", "not_found", message))
        }
    }
}

/// What is on offer, for people.
async fn market_page(shared: &Shared, scope: &Scope) -> Response<Body> {
    let (page, policy) = market::html(&market::look(shared, scope).await);
    let mut response = Response::new(Body::full(page.into()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn health(shared: &Shared) -> Response<Body> {
    let ready = *shared.pool.ready().borrow();
    let (status, word) = match ready {
        _ if shared.draining.is_cancelled() => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        0 => (StatusCode::SERVICE_UNAVAILABLE, "no proxy is connected"),
        _ => (StatusCode::OK, "ok"),
    };
    json_response(
        status,
        &json!({"status": word, "proxies_ready": ready, "last_failure": shared.pool.failure()}),
    )
}

fn metrics(shared: &Shared) -> Response<Body> {
    let ready = *shared.pool.ready().borrow();
    shared.metrics.breakers_open.set(i64::try_from(shared.pool.breakers().open()).unwrap_or(i64::MAX));
    let settlement = shared.settlement.as_ref().map(|settlement| settlement.report());
    let text = shared.metrics.text(
        ready,
        &shared.book.spent(),
        &shared.access.sums(),
        settlement.as_ref().map(|report| report.borrow()).as_deref(),
    );
    let mut response = Response::new(Body::full(text.into()));
    let form = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, form);
    response
}

fn stats(shared: &Shared) -> serde_json::Value {
    let connections = shared.pool.all();
    let proxies: Vec<_> = connections.iter().map(|connection| proxy_stats(shared, connection)).collect();
    let spent = shared.book.spent();
    let ends: serde_json::Map<_, _> =
        shared.metrics.end_counts().into_iter().map(|(end, count)| (end.to_owned(), count.into())).collect();
    json!({
        "started_unix_seconds": shared.started_unix_seconds,
        "wallet": shared.wallet.to_string(),
        "answers": ends,
        "requests_in_flight": shared.metrics.in_flight.get(),
        "connections": shared.metrics.connections.get(),
        "spent": {"tokens": spent.tokens.get(), "nanoton": spent.nanoton.nano()},
        "settlement": shared.settlement.as_ref().map(|settlement| settlement.report().borrow().to_json()),
        "proxies": proxies,
        "models": all_models(shared),
        "disputes": shared.book.disputes(SHOWN_DISPUTES),
    })
}

fn proxy_stats(shared: &Shared, connection: &Connection) -> serde_json::Value {
    let counters = connection
        .terms()
        .map(|terms| shared.book.counters(&Connection::peer_key(terms)))
        .unwrap_or_default();
    json!({
        "address": connection.address,
        "ready": connection.takes_requests(),
        "identity": ProxyDetails::of(connection),
        "client_contract": connection.terms().map(|terms| terms.pair_contract.to_string()),
        "protocol_version": connection.terms().map(|terms| terms.proto_version),
        "extensions": connection.terms().map(|terms| terms.extensions),
        "requests_in_flight": connection.in_flight.load(std::sync::atomic::Ordering::Relaxed),
        "db_tokens": counters.db(),
        "max_tokens": counters.max(),
        "signed_tokens": counters.signed(),
    })
}

fn debug_entry(shared: &Shared, visitor: &Visitor, query: &str) -> Result<Response<Body>, ApiError> {
    let guid = query.split('&').find_map(|field| field.strip_prefix("request_guid="));
    let Some(guid) = guid else {
        let message = "Name the request: /request/debuglogentry?request_guid=...";
        return Err(ApiError::invalid_request(Some("request_guid"), "missing_required_parameter", message));
    };
    let text = shared.debug_log.get(visitor.key, &percent_decoded(guid)).ok_or_else(|| {
        let message = "No such request is remembered; send it with `enable_debug` and `request_guid`.";
        ApiError::new(404, "invalid_request_error", "not_found", message)
    })?;
    let mut response = Response::new(Body::full(text.into()));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    Ok(response)
}

fn json_response(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // Our own structures of strings and numbers: serialising them cannot fail.
    let body: Bytes = serde_json::to_vec(value).unwrap_or_default().into();
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// `%2F` and the like decoded; what is no such escape stays.
pub(crate) fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = (byte == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(escaped.unwrap_or(byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_in_a_models_name_are_decoded_and_bad_ones_left() {
        assert_eq!(percent_decoded("builtin%2Fextractive-summary"), "builtin/extractive-summary");
        assert_eq!(percent_decoded("a/b%"), "a/b%");
        assert_eq!(percent_decoded("%zz%4"), "%zz%4");
        assert_eq!(percent_decoded("%ff"), "\u{fffd}");
        assert_eq!(percent_decoded("%é"), "%é");
    }
}
