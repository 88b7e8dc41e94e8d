//! A request for an engine: read, sent to a proxy (to a second one where the first cannot serve it), answered.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cocoon_openai::{ApiError, Endpoint, PreparedRequest, RequestForm, Wishes, ability};
use cocoon_session::client::MAX_QUERY_BYTES;
use cocoon_session::tariff;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use http::{Request, Response};
use hyper::body::Incoming;

use crate::Shared;
use crate::access::{Pass, Visitor};
use crate::affinity::beginnings;
use crate::body::Body;
use crate::dispatch::Asked;
use crate::idempotency;
use crate::intake::{InFlight, discard, read_body, too_large, work_on};
use crate::market;
use crate::models;
use crate::outgoing::query;
use crate::price::{coefficient_within, price_of};
use crate::server::failed;
use crate::slots::Slot;
use crate::trail::{REQUEST_ID, Trail};

/// Longest name of a model, in bytes.
const MAX_MODEL_BYTES: usize = 512;
/// The status under which a request is counted whose caller went away before its answer began, as web servers do.
const LEFT: u16 = 499;
/// The code under which an engine's own errors are counted, which pass as they are.
const ENGINES_OWN: &str = "engine";

/// Answers a request for an engine.
pub(crate) async fn complete(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    endpoint: Endpoint,
) -> Response<Body> {
    let started = Instant::now();
    let trail = Trail::begin(shared, endpoint, request.headers());
    let waiting = Waiting { shared, endpoint, trail: &trail, ended: false };
    let answered = try_complete(shared, request, endpoint, Arc::clone(&trail)).await;
    waiting.end();
    // An error is an answer from here on, so that it has the request's id.
    let (mut response, code) = match answered {
        Ok(response) if response.status().as_u16() < 400 => (response, None),
        Ok(response) => (response, Some(ENGINES_OWN.to_owned())),
        Err(error) => (failed(&error, Some(endpoint)), error.code),
    };
    response.headers_mut().insert(REQUEST_ID, trail.id().clone());
    let (status, code) = (response.status().as_u16(), code.as_deref());
    shared.metrics.request(endpoint.name(), status, code);
    shared.metrics.headed(started.elapsed());
    trail.headed(shared, status, code, response.body().flows());
    response
}

/// A caller waits for the head of its answer. Where this is dropped, it went away.
struct Waiting<'a> {
    shared: &'a Shared,
    endpoint: Endpoint,
    trail: &'a Trail,
    ended: bool,
}

impl Waiting<'_> {
    fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.metrics.request(self.endpoint.name(), LEFT, Some("cancelled"));
            self.trail.left(self.shared);
        }
    }
}

/// A request without an answer yet. Where this is dropped, its caller went away.
struct Sending<'a> {
    asked: &'a Asked<'a>,
    endpoint: Endpoint,
    error: Option<&'static str>,
}

impl Sending<'_> {
    fn end(mut self, error: Option<&'static str>) {
        self.error = error;
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        let Some(error) = self.error else { return };
        let Asked { shared, model, started, .. } = self.asked;
        let model = shared.pool.knows(model).then_some(model.as_str());
        shared.metrics.unanswered(self.endpoint, model, error, started.elapsed());
    }
}

async fn try_complete(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    endpoint: Endpoint,
    trail: Arc<Trail>,
) -> Result<Response<Body>, ApiError> {
    let mut in_flight = InFlight::new(shared, trail);
    match Pass::admit(shared, request.extensions().get(), endpoint) {
        Ok(pass) => in_flight.admitted(pass),
        Err(refused) => {
            discard(request).await;
            return Err(refused);
        }
    }
    let (parts, body) = request.into_parts();
    let body = read_body(&mut in_flight, endpoint, &parts.headers, body).await?;
    if let Some(slot) = parts.extensions.get::<Arc<Slot>>() {
        slot.heard();
    }
    let key = idempotency::key_of(&parts.headers)?.map(str::to_owned);
    let caller = Visitor::name(&parts);
    let run = {
        let (shared, headers, body) = (Arc::clone(shared), parts.headers.clone(), body.clone());
        let caller = caller.clone();
        move || async move { answer(&shared, in_flight, &headers, &caller, body, endpoint).await }
    };
    let Some(key) = key else { return run().await };
    let asked = idempotency::Request {
        caller: &caller,
        key: &key,
        endpoint,
        headers: &parts.headers,
        body: &body,
        patience: shared.limits.default_timeout,
    };
    idempotency::once(&shared.idempotency, asked, run).await
}

/// Answers a request that has been read.
async fn answer(
    shared: &Arc<Shared>,
    mut in_flight: InFlight,
    headers: &HeaderMap,
    caller: &[u8],
    body: Bytes,
    endpoint: Endpoint,
) -> Result<Response<Body>, ApiError> {
    // Only now: a caller with a slow line has as much time for its answer as others.
    let started = Instant::now();
    if let Some(pass) = in_flight.pass() {
        pass.begin();
    }
    let prepared = prepare(shared, endpoint, headers, body).await?;
    let (query, body) = query(headers, &prepared);
    if query.len() > MAX_QUERY_BYTES {
        return Err(too_large(endpoint, shared.limits.body_bytes(endpoint)));
    }
    let base_model = prepared.model.split('@').next().unwrap_or_default().to_owned();
    if base_model.len() > MAX_MODEL_BYTES {
        let message = format!("No model has a name of more than {MAX_MODEL_BYTES} bytes.");
        return Err(ApiError::invalid_request(Some("model"), "invalid_value", message));
    }
    in_flight.start(&prepared)?;
    // Whoever sends a key wants one execution; a second one beside it would be another. Otherwise the caller's word goes
    // before the operator's; 0 means that nothing is sent twice.
    let hedge = match (idempotency::key_of(headers)?, prepared.hedge) {
        (Some(_), _) => None,
        (None, None) => shared.limits.retry.hedge_after,
        (None, wanted) => wanted.filter(|after| !after.is_zero()),
    };
    let affinity = beginnings(&shared.affinity_key, caller, &base_model, &prepared.body);
    let asked =
        Asked { shared, prepared, query, body, model: base_model, started, hedge, affinity, in_flight };
    let sending = Sending { asked: &asked, endpoint, error: Some("cancelled") };
    match asked.send().await {
        Ok(answered) => {
            sending.end(None);
            asked.answer(answered).await
        }
        Err(failure) => {
            sending.end(Some(failure.kind.name()));
            let mut available = models::names(&shared.pool.all());
            if shared.pool.knows(&asked.model) && !available.contains(&asked.model) {
                available.push(asked.model.clone());
            }
            if let Some(scope) = asked.in_flight.pass().map(Pass::scope) {
                available.retain(|model| scope.covers(model));
            }
            let failure =
                match shared.settlement.as_ref().and_then(|settlement| settlement.why_not_filled_up()) {
                    Some(why) => failure.with_cause_of_low_balance(&why),
                    None => failure,
                };
            let failure = match asked.prepared.max_price {
                Some(price) => {
                    let tariff = tariff(&shared.root.borrow());
                    failure.under_price_cap(price, |coefficient| price_of(coefficient, &tariff))
                }
                None => failure,
            };
            let needed: Vec<_> = ability::names(asked.prepared.needs).collect();
            let failure =
                failure.lacking(&needed, market::abilities(&shared.pool.all(), &asked.model).as_deref());
            Err(failure.into_api_error(&asked.prepared.model, &available))
        }
    }
}

/// Reads what the caller asks and wishes.
async fn prepare(
    shared: &Shared,
    endpoint: Endpoint,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<PreparedRequest, ApiError> {
    refuse_encoded(headers)?;
    let content_type = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("unreadable bytes"));
    let form = RequestForm::of(endpoint, content_type)?;
    let wishes = Wishes::from_headers(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))?;
    let defaults = shared.limits.request_defaults();
    let bytes = body.len();
    let read = move || PreparedRequest::read(&form, &body, endpoint, wishes, &defaults);
    let mut prepared = work_on(bytes, read).await??;
    if let Some(price) = prepared.max_price {
        let cap = coefficient_within(price, &tariff(&shared.root.borrow()));
        if cap >= prepared.max_coefficient {
            // The other cap is the one that binds, and that is told where it is too low.
            prepared.max_price = None;
        }
        prepared.max_coefficient = prepared.max_coefficient.min(cap);
    }
    Ok(prepared)
}

/// A compressed body could hold anything of any size, and no worker's engine need know how to read it.
fn refuse_encoded(headers: &HeaderMap) -> Result<(), ApiError> {
    let plain = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(CONTENT_ENCODING).iter().all(plain) {
        return Ok(());
    }
    let message = "Send the body as it is: a Content-Encoding (compression) is not taken in requests.";
    Err(ApiError::new(415, "invalid_request_error", "unsupported_encoding", message))
}
