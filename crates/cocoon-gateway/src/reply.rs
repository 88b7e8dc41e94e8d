//! An answer's head, and what kind of body follows it.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cocoon_openai::{ApiError, BodyKind};
use cocoon_wire::tl::http as wire;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::answer::{AnswerBody, Answering, Collected, Timing, collect};
use crate::bill::Bill;
use crate::body::Body;
use crate::dispatch::{Answered, Asked};

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

impl Asked<'_> {
    pub(crate) async fn answer(self, answered: Answered) -> Result<Response<Body>, ApiError> {
        let Answered { exchange, head, sent, told } = answered;
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
            request: self.prepared.basis(),
            offers: connection.models(),
            kind,
            success,
            show_usage: self.prepared.caller_wants_usage || !streamed,
            enable_debug: self.prepared.enable_debug,
            request_guid: self.prepared.request_guid,
            told,
            timing: Timing { started: self.started, sent, head: Instant::now() },
            bytes: 0,
            in_flight: self.in_flight,
        };
        // What has a price only at its end is held where it is text of a bounded size. Sound and other bytes flow.
        let held = !success || kind.is_whole();
        let body = if held {
            match collect(answering).await? {
                Collected::Whole(body, Bill { costs, tokens, .. }) => {
                    set(&mut headers, COST, costs.total_cost.to_string());
                    set(&mut headers, TOKENS, tokens.to_string());
                    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
                    Body::full(body)
                }
                Collected::Flowing(body) => Body::Answer(body),
            }
        } else {
            if kind == BodyKind::Sse && !headers.contains_key(CACHE_CONTROL) {
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            }
            Body::Answer(Box::new(AnswerBody::new(answering)))
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
    use cocoon_wire::codec::ByteStr;

    use super::*;

    #[test]
    fn the_header_list_is_sorted_for_the_search() {
        assert!(NOT_TAKEN_OVER.is_sorted());
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
