//! The operators' API under `/admin`: keys and usage, for whoever has the admin token.

mod keys;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cocoon_openai::ApiError;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::door::shown_key;
use super::refusal::no_key;
use super::{Access, Visitor};
use crate::Shared;
use crate::body::Body;
use crate::intake::slow;

/// Where it begins.
const ADMIN: &str = "/admin";
/// Largest body of a request, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Wrong tokens are answered one after the other, each after this time, whoever sends them.
const PAUSE: Duration = Duration::from_millis(250);
/// Wrong tokens whose answers wait; further ones are told so at once.
const MAX_WAITING: usize = 64;

/// Slows down those who guess.
#[derive(Debug)]
pub(super) struct Slowly {
    turn: tokio::sync::Mutex<()>,
    waiting: Arc<Semaphore>,
}

impl Slowly {
    pub(super) fn new() -> Self {
        Self { turn: tokio::sync::Mutex::new(()), waiting: Arc::new(Semaphore::new(MAX_WAITING)) }
    }

    /// The answer to a wrong token, after its turn has come: `why` it is none.
    pub(super) async fn answer(&self, why: &str) -> ApiError {
        let Ok(_place) = self.waiting.try_acquire() else {
            let message = "Too many wrong admin tokens; try again later.";
            return ApiError::new(429, "rate_limit_error", "rate_limit_exceeded", message);
        };
        let _turn = self.turn.lock().await;
        tokio::time::sleep(PAUSE).await;
        no_key(why)
    }
}

/// What an operator gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: Bytes,
}

impl Reply {
    fn json(status: u16, value: &Value) -> Self {
        Self { status, content_type: "application/json", body: value.to_string().into() }
    }

    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::full(self.body));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        // A secret is shown once, and not by a cache.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

pub(super) fn is_admin(path: &str) -> bool {
    path.strip_prefix(ADMIN).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Access {
    /// Answers a request under `/admin`, or to `/v1/usage`; `None` where the path is another.
    pub(crate) async fn serve(
        shared: &Arc<Shared>,
        visitor: &Visitor,
        request: Request<Incoming>,
    ) -> Result<Result<Response<Body>, ApiError>, Request<Incoming>> {
        let path = request.uri().path();
        if path == "/v1/usage" {
            return Ok(own_usage(shared, visitor, &request).await);
        }
        if !is_admin(path) || shared.access.config.admin_token.is_none() {
            return Err(request);
        }
        Ok(serve_admin(shared, request).await)
    }

    /// Whether a request brings the admin token. Takes the same time whatever it brings.
    pub(super) fn is_admin_token(&self, headers: &HeaderMap) -> bool {
        let (Some(token), Some(shown)) = (&self.config.admin_token, shown_key(headers)) else { return false };
        // Of equal length, so that comparing tells nothing of the token's.
        let [token, shown] =
            [token.as_bytes(), shown.as_bytes()].map(|text| <[u8; 32]>::from(Sha256::digest(text)));
        token.iter().zip(shown).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }

    /// Does what a request to the admin API asks for.
    pub(super) async fn operate(
        self: &Arc<Self>,
        method: &Method,
        path: &str,
        query: &str,
        body: &[u8],
    ) -> Result<Reply, ApiError> {
        let rest = path.strip_prefix(ADMIN).unwrap_or_default().trim_end_matches('/');
        let mut parts = rest.split('/').skip(1).map(percent_decoded);
        let parts = [parts.next(), parts.next(), parts.next(), parts.next()];
        let parts = parts.each_ref().map(|part| part.as_deref());
        let body = || read_object(body);
        match (method.as_str(), parts) {
            ("GET", [Some("keys"), None, ..]) => Ok(self.list_keys()),
            ("POST", [Some("keys"), None, ..]) => self.create_key(body()?).await,
            ("GET", [Some("keys"), Some(key), None, _]) => self.show_key(key),
            ("PATCH", [Some("keys"), Some(key), None, _]) => self.change_key(key, body()?).await,
            ("DELETE", [Some("keys"), Some(key), None, _]) => self.revoke_key(key).await,
            ("POST", [Some("keys"), Some(key), Some("rotate"), None]) => self.rotate_key(key, &body()?).await,
            ("GET", [Some("usage"), None, ..]) => self.usage(query, None).await,
            (_, [Some("keys"), None, ..]) => Err(ApiError::method_not_allowed(method.as_str(), "GET, POST")),
            (_, [Some("keys"), Some(_), None, _]) => {
                Err(ApiError::method_not_allowed(method.as_str(), "GET, PATCH, DELETE"))
            }
            (_, [Some("keys"), Some(_), Some("rotate"), None]) => {
                Err(ApiError::method_not_allowed(method.as_str(), "POST"))
            }
            (_, [Some("usage"), None, ..]) => Err(ApiError::method_not_allowed(method.as_str(), "GET")),
            _ => {
                let message = "Nothing is served here; the admin API is /admin/keys, /admin/keys/KEY, \
                               /admin/keys/KEY/rotate and /admin/usage.";
                Err(ApiError::new(404, "invalid_request_error", "unknown_url", message))
            }
        }
    }
}

async fn serve_admin(shared: &Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let access = &shared.access;
    if !access.is_admin_token(request.headers()) {
        tracing::warn!("a request to the admin API without the admin token");
        let why = "The admin API needs the admin token as `Authorization: Bearer ...`; it is in the gateway's directory.";
        return Err(access.slowly.answer(why).await);
    }
    let (parts, body) = request.into_parts();
    let read = Limited::new(body, MAX_BODY_BYTES).collect();
    let read = tokio::time::timeout(shared.limits.body_timeout, read).await;
    let body = match read {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let message =
                format!("The request is larger than {MAX_BODY_BYTES} bytes, the limit of the admin API.");
            return Err(ApiError::new(413, "invalid_request_error", "request_too_large", message));
        }
        Ok(Err(_)) => {
            let message = "The request's body broke off.";
            return Err(ApiError::invalid_request(None, "incomplete_body", message));
        }
        Err(_) => return Err(slow()),
    };
    let is_json = |value: &HeaderValue| value.as_bytes().starts_with(b"application/json");
    if !body.is_empty() && !parts.headers.get(CONTENT_TYPE).is_some_and(is_json) {
        let message = "Send JSON, as `Content-Type: application/json`.";
        return Err(ApiError::new(415, "invalid_request_error", "unsupported_media_type", message));
    }
    let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
    let reply = access.operate(&parts.method, path, query, &body).await?;
    if parts.method != Method::GET {
        tracing::info!(method = %parts.method, path, "an operator changed keys");
    }
    Ok(reply.into_response())
}

/// What a key has used, for whoever has it.
async fn own_usage(
    shared: &Arc<Shared>,
    visitor: &Visitor,
    request: &Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return Err(ApiError::method_not_allowed(request.method().as_str(), "GET"));
    }
    let query = request.uri().query().unwrap_or_default();
    shared.access.usage(query, Some(visitor.key)).await.map(Reply::into_response)
}

fn read_object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(body).map_err(|error| {
        ApiError::invalid_request(None, "invalid_json", format!("The body is no JSON object: {error}"))
    })
}

/// Fields of a query, decoded.
fn fields(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|field| !field.is_empty()).map(|field| {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        (percent_decoded(name), percent_decoded(&value.replace('+', " ")))
    })
}

fn percent_decoded(text: &str) -> String {
    crate::server::percent_decoded(text)
}
