//! A request for a completion: read, sent to a proxy (to a second one where the first cannot serve it), answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cocoon_openai::{ApiError, Endpoint, PreparedRequest};
use cocoon_session::client::MAX_QUERY_BYTES;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;

use crate::Shared;
use crate::access::Pass;
use crate::body::Body;
use crate::dispatch::Asked;
use crate::intake::{InFlight, read_body};
use crate::models;
use crate::outgoing::query;

/// By this header a caller says after how many milliseconds without an answer its request is sent a second time.
const HEDGE: &str = "x-cocoon-hedge";
/// Longest name of a model, in bytes.
const MAX_MODEL_BYTES: usize = 512;

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
    shared.metrics.request(endpoint.name(), status, started.elapsed());
    answered
}

async fn try_complete(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    endpoint: Endpoint,
    started: Instant,
) -> Result<Response<Body>, ApiError> {
    let mut in_flight = InFlight::new(shared);
    let mut pass = Pass::admit(shared, request.extensions().get(), endpoint)?;
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
    pass.start(&prepared)?;
    in_flight.admitted(pass);
    let hedge = hedge_after(shared, &parts.headers)?;
    let asked = Asked { shared, prepared, query, model: base_model, started, hedge, in_flight };
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

/// When a request is sent a second time: as its caller says, else as the operator does.
fn hedge_after(shared: &Shared, headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(wanted) = headers.get(HEDGE) else { return Ok(shared.limits.retry.hedge_after) };
    let millis = wanted.to_str().ok().and_then(|text| text.trim().parse::<u32>().ok());
    match millis {
        // It asks for none.
        Some(0) => Ok(None),
        Some(millis) => Ok(Some(Duration::from_millis(millis.into()))),
        None => {
            let message = "X-Cocoon-Hedge is a number of milliseconds; 0 means that nothing is sent twice.";
            Err(ApiError::invalid_request(Some("X-Cocoon-Hedge"), "invalid_value", message))
        }
    }
}
