//! One request and its answer, bounded in size and time.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::MAX_CONCURRENT_REQUESTS;
use super::answer::Frame;
use super::failure::{Failure, Kind, one_line};
use crate::ChainError;

/// Largest head of an answer, in bytes, and most headers in it.
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEADERS: usize = 100;
/// How long an idle connection is kept.
const IDLE_CONNECTION: Duration = Duration::from_secs(30);

/// The way to one server.
#[derive(Debug)]
pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    key: Option<HeaderValue>,
    timeout: Duration,
    max_answer_bytes: usize,
    places: Semaphore,
}

impl Http {
    /// Nothing is dialled yet.
    pub(super) fn new(
        uri: Uri,
        key: Option<&str>,
        timeout: Duration,
        max_answer_bytes: usize,
    ) -> Result<Self, ChainError> {
        let key = key.map(|key| {
            let mut value = HeaderValue::from_str(key).map_err(|_| ChainError::Unsupported {
                what: "that API key",
                hint: "it has characters that no HTTP header can have; copy it again",
            })?;
            value.set_sensitive(true);
            Ok::<_, ChainError>(value)
        });
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(timeout));
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::aws_lc_rs::default_provider())
            .map_err(|_| ChainError::Unsupported {
                what: "TLS to a chain's server",
                hint: "this build's cryptography lacks the usual protocol versions",
            })?
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_CONNECTION)
            .pool_max_idle_per_host(MAX_CONCURRENT_REQUESTS)
            .http1_max_buf_size(MAX_HEAD_BYTES)
            .http1_max_headers(MAX_HEADERS)
            .build(connector);
        let places = Semaphore::new(MAX_CONCURRENT_REQUESTS);
        Ok(Self { client, uri, key: key.transpose()?, timeout, max_answer_bytes, places })
    }

    /// Calls `method`, and gives its result as the server wrote it.
    pub(super) async fn exchange(
        &self,
        method: &str,
        params: &Value,
        deadline: Instant,
    ) -> Result<Box<RawValue>, Failure> {
        let place = timeout_at(deadline, self.places.acquire()).await;
        let Ok(Ok(_place)) = place else {
            let reason = format!("{MAX_CONCURRENT_REQUESTS} requests are under way already");
            return Err(Failure::new(Kind::Busy, reason));
        };
        let until = deadline.min(Instant::now() + self.timeout);
        let told = timeout_at(until, self.ask(method, params)).await.unwrap_or_else(|_| {
            let seconds = self.timeout.as_secs_f32();
            Err(Failure::new(Kind::Unreachable, format!("no answer within {seconds:.1} s")))
        });
        told.map_err(|failure| self.without_key(failure))
    }

    async fn ask(&self, method: &str, params: &Value) -> Result<Box<RawValue>, Failure> {
        let call = json!({ "jsonrpc": "2.0", "id": "1", "method": method, "params": params });
        let mut request = Request::post(self.uri.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(call.to_string())))
            .map_err(|error| Failure::new(Kind::Request, error.to_string()))?;
        if let Some(key) = &self.key {
            request.headers_mut().insert("x-api-key", key.clone());
        }
        let response = self.client.request(request).await.map_err(|error| {
            let mut failure = Failure::new(Kind::Unreachable, chain_of(&error));
            failure.may_have_worked = !error.is_connect();
            failure
        })?;
        self.read(response).await
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Box<RawValue>, Failure> {
        let status = response.status();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let body = Limited::new(response.into_body(), self.max_answer_bytes).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                let limit = self.max_answer_bytes;
                Failure::nonsense(format!("the answer has over {limit} bytes"))
            } else {
                let reason = format!("the answer broke off: {}", chain_of(error.as_ref()));
                Failure::new(Kind::Unreachable, reason)
            }
        })?;
        result_of(status, &body.to_bytes()).map_err(|mut failure| {
            failure.retry_after = retry_after.filter(|_| failure.may_pass());
            failure
        })
    }

    /// A server may repeat what it was sent; the key must not end up in a log.
    fn without_key(&self, mut failure: Failure) -> Failure {
        if let Some(key) = self.key.as_ref().and_then(|key| key.to_str().ok())
            && failure.reason.contains(key)
        {
            failure.reason = failure.reason.replace(key, "<the API key>");
        }
        failure
    }
}

/// The result, or what the server says instead of one. Some put the code only into the body, and the error into the
/// result.
fn result_of(status: StatusCode, body: &[u8]) -> Result<Box<RawValue>, Failure> {
    if status.is_redirection() {
        return Err(Failure::nonsense("the server sends us elsewhere; set the URL that it moved to"));
    }
    let frame: Frame<'_> = match serde_json::from_slice(body) {
        Ok(frame) => frame,
        Err(_) if !status.is_success() => {
            return Err(Failure::told(status.as_u16(), "not in the API's form"));
        }
        Err(error) => {
            let reason = format!("it is not in the API's form: {}", one_line(&error.to_string()));
            return Err(Failure::nonsense(reason));
        }
    };
    if !status.is_success() {
        return Err(Failure::told(status.as_u16(), &frame.words()));
    }
    if !frame.is_success() {
        return Err(Failure::told(frame.code().unwrap_or(status.as_u16()), &frame.words()));
    }
    frame
        .result
        .map(ToOwned::to_owned)
        .ok_or_else(|| Failure::nonsense("it has neither a result nor an error"))
}

/// The error with what caused it.
fn chain_of(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    let words = causes.fold(error.to_string(), |words, cause| format!("{words}: {cause}"));
    one_line(&words)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn failure(status: u16, body: &str) -> Failure {
        result_of(StatusCode::from_u16(status).unwrap(), body.as_bytes()).unwrap_err()
    }

    #[test]
    fn every_form_of_error_is_read() {
        for (status, body, kind, words) in [
            (500, r#"{"ok":false,"error":"LITE_SERVER_NOTREADY: x","code":500}"#, Kind::Server, "NOTREADY"),
            (429, r#"{"ok":false,"result":"Ratelimit exceed","code":429}"#, Kind::Busy, "Ratelimit"),
            (200, r#"{"ok":false,"result":"Ratelimit exceed","code":429}"#, Kind::Busy, "Ratelimit"),
            (200, r#"{"jsonrpc":"2.0","error":{"code":-32601,"message":"gone"}}"#, Kind::Server, "gone"),
            (422, r#"{"detail":[{"msg":"value is not a valid integer"}]}"#, Kind::Request, "422"),
            (403, r#"{"ok":false,"error":"API key does not exist","code":403}"#, Kind::Key, "does not exist"),
            (502, "<html>Bad Gateway</html>", Kind::Server, "502"),
            (301, "", Kind::Nonsense, "elsewhere"),
            (307, r#"{"ok":true,"result":1}"#, Kind::Nonsense, "elsewhere"),
            (200, "", Kind::Nonsense, "form"),
            (200, "{}", Kind::Nonsense, "neither"),
            (200, r#"{"ok":true}"#, Kind::Nonsense, "neither"),
            (200, r#"{"ok":true,"result":null}"#, Kind::Nonsense, "neither"),
            (200, r#"[1]"#, Kind::Nonsense, "form"),
        ] {
            let failure = failure(status, body);
            assert_eq!(failure.kind, kind, "{body}");
            assert!(failure.reason.contains(words), "{body}: {}", failure.reason);
        }
    }

    #[test]
    fn a_result_is_passed_on_as_it_was_written() {
        let result = result_of(StatusCode::OK, br#"{"ok":true,"result":{"a": 1e2},"id":"1"}"#).unwrap();
        assert_eq!(result.get(), r#"{"a": 1e2}"#);
    }
}
