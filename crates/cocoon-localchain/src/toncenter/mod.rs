//! toncenter's HTTP API, version 2, answered by an embedded chain.
//!
//! Every method is reachable in three ways, as there: `GET /api/v2/METHOD?name=value`, `POST /api/v2/METHOD` with the
//! parameters as a JSON object, and `POST /api/v2/jsonRPC` with `method` and `params`. Answers are
//! `{"ok":true,"result":...}`, or `{"ok":false,"error":...,"code":...}` with the code as HTTP status.
//!
//! Pages in a browser may ask whatever site they are of, as there, so that wallets for the browser work.
//!
//! [`control_routes`] adds what no public network has: a faucet and a clock that can be moved.

mod browser;
mod methods;
mod params;
mod shapes;
mod stack;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use cocoon_chain::ChainError;
use serde_json::{Map, Value, json};

use crate::LocalChain;
use params::Params;

/// Largest request, in bytes: room for the largest external message in base64.
pub const MAX_REQUEST_BYTES: usize = 256 * 1024;

/// The API under `/api/v2`.
pub fn routes(chain: LocalChain) -> Router {
    Router::new()
        .route("/api/v2/jsonRPC", post(json_rpc))
        .route("/api/v2/{method}", get(by_query).post(by_body))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .layer(axum::middleware::from_fn(browser::permit))
        .with_state(chain)
}

/// `POST /localchain/METHOD`: `grant` with `address` and `amount` (nanoton, a text), `advance` with `seconds`, `settle`
/// (blocks until nothing waits), `now`, and `config` (the root of the configuration's dictionary). Whoever can reach
/// them can use them, so serve them on a loopback address only.
pub fn control_routes(chain: LocalChain) -> Router {
    Router::new()
        .route("/localchain/{method}", post(control))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(chain)
}

async fn by_query(
    State(chain): State<LocalChain>,
    Path(method): Path<String>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let answer = match query {
        Ok(Query(pairs)) => {
            let params = pairs.into_iter().map(|(name, value)| (name, Value::String(value)));
            methods::call(&chain, &method, &Params(params.collect())).await
        }
        Err(rejection) => Err(ApiError::new(400, rejection.body_text())),
    };
    respond(answer, Map::new())
}

async fn by_body(
    State(chain): State<LocalChain>,
    Path(method): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let answer = match object(body) {
        Ok(params) => methods::call(&chain, &method, &Params(params)).await,
        Err(error) => Err(error),
    };
    respond(answer, Map::new())
}

async fn control(
    State(chain): State<LocalChain>,
    Path(method): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    // A web page in the user's browser can send anything but this without being asked for permission.
    let is_json = headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let answer = match object(body) {
        _ if !is_json => Err(ApiError::new(415, "content-type must be application/json")),
        Ok(params) => methods::control(&chain, &method, &Params(params)).await,
        Err(error) => Err(error),
    };
    respond(answer, Map::new())
}

async fn json_rpc(State(chain): State<LocalChain>, body: Result<Bytes, BytesRejection>) -> Response {
    let mut frame = Map::from_iter([("jsonrpc".to_owned(), json!("2.0"))]);
    let answer = match object(body) {
        Ok(mut request) => {
            frame.insert("id".to_owned(), request.remove("id").unwrap_or(Value::Null));
            rpc_call(&chain, request).await
        }
        Err(error) => Err(error),
    };
    respond(answer, frame)
}

async fn rpc_call(chain: &LocalChain, mut request: Map<String, Value>) -> Result<Value, ApiError> {
    let Some(Value::String(method)) = request.remove("method") else {
        return Err(ApiError::new(422, "method: a text is required"));
    };
    match request.remove("params") {
        Some(Value::Object(params)) => methods::call(chain, &method, &Params(params)).await,
        None | Some(Value::Null) => methods::call(chain, &method, &Params(Map::new())).await,
        Some(_) => Err(ApiError::new(422, "params: an object is required")),
    }
}

fn object(body: Result<Bytes, BytesRejection>) -> Result<Map<String, Value>, ApiError> {
    let body = body.map_err(|rejection| ApiError::new(rejection.status().as_u16(), rejection.body_text()))?;
    if body.is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(&body) {
        Ok(Value::Object(params)) => Ok(params),
        Ok(_) => Err(ApiError::new(422, "the request's body is not a JSON object")),
        Err(error) => Err(ApiError::new(422, format!("the request's body is not JSON: {error}"))),
    }
}

/// Puts an answer or an error into the frame that every response has.
fn respond(answer: Result<Value, ApiError>, frame: Map<String, Value>) -> Response {
    let (status, mut response) = match answer {
        Ok(result) => {
            (StatusCode::OK, Map::from_iter([("ok".to_owned(), json!(true)), ("result".to_owned(), result)]))
        }
        Err(ApiError { code, error }) => (
            StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            Map::from_iter([
                ("ok".to_owned(), json!(false)),
                ("error".to_owned(), json!(error)),
                ("code".to_owned(), json!(code)),
            ]),
        ),
    };
    response.extend(frame);
    (status, axum::Json(response)).into_response()
}

/// A refusal in toncenter's form.
#[derive(Debug)]
struct ApiError {
    /// HTTP status.
    code: u16,
    error: String,
}

impl ApiError {
    fn new(code: u16, error: impl Into<String>) -> Self {
        Self { code, error: error.into() }
    }

    /// A parameter that cannot be used.
    fn parameter(name: &str, reason: impl std::fmt::Display) -> Self {
        Self::new(422, format!("{name}: {reason}"))
    }
}

impl From<ChainError> for ApiError {
    fn from(error: ChainError) -> Self {
        match error {
            // The words that the public servers use, which clients look for.
            ChainError::Refused { reason } => Self::new(
                500,
                format!(
                    "LITE_SERVER_UNKNOWN: cannot apply external message to current state : \
                     External message was not accepted: {reason}"
                ),
            ),
            ChainError::Unavailable { .. } => Self::new(503, error.to_string()),
            ChainError::NotFound(_) => Self::new(404, error.to_string()),
            other => Self::new(500, other.to_string()),
        }
    }
}

impl From<tycho_types::error::Error> for ApiError {
    fn from(error: tycho_types::error::Error) -> Self {
        Self::new(500, format!("a stored transaction is broken: {error}"))
    }
}
