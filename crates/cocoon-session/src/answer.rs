//! Answers in the forms that every peer can bear.

use std::time::Duration;

use bytes::Bytes;
use cocoon_wire::codec::ByteStr;
use cocoon_wire::tl::http;

use crate::{ErrorCode, MAX_REQUEST_TIME, RequestFailure, Time};

/// Each hop passes on this share of its time, so that the inner one gives up first and says so.
pub(crate) const TIME_SHARE: f64 = 0.95;

/// A peer's wish for time, in seconds; `None` where it makes no sense.
pub(crate) fn request_time(seconds: f64) -> Option<Duration> {
    if !seconds.is_finite() || seconds <= 0.0 {
        return None;
    }
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(MAX_REQUEST_TIME).min(MAX_REQUEST_TIME))
}

/// A header with a moment, as published nodes write it: Unix seconds with six digits.
pub(crate) fn seconds_header(name: &'static str, at: Time) -> http::Header {
    header(name, format!("{}.{:06}", at.0 / 1_000_000, at.0 % 1_000_000))
}

/// The header by which a node of the network marks an answer as its own, not an engine's.
pub(crate) const ERROR_HEADER: &str = "X-Cocoon-Error";
/// The header by which a proxy names the worker that a client was given, by the fingerprint of its certificate.
pub(crate) const WORKER_HEADER: &str = "X-Cocoon-Worker";
/// The header by which a gateway names the proxy; nobody else has a say in it.
pub(crate) const PROXY_HEADER: &str = "X-Cocoon-Proxy";

/// The header by which a proxy tells a client of ours that a request failed before its first byte, at no charge, and that
/// the proxy could not give it to another worker itself because it no longer had the body: worth sending anew.
pub const RESEND_HEADER: &str = "X-Cocoon-Resend";

/// Says that a request is worth sending anew.
pub(crate) fn resend_header() -> http::Header {
    header(RESEND_HEADER, "1".into())
}

/// The longest wait that is named to whoever finds all workers busy, in seconds.
const MAX_RETRY_AFTER_SECONDS: u64 = 30;

/// Says when it makes sense to send the request again, in whole seconds, as HTTP has it.
pub(crate) fn retry_after_header(after: Duration) -> http::Header {
    let seconds = after.as_millis().div_ceil(1000).clamp(1, MAX_RETRY_AFTER_SECONDS.into());
    header("Retry-After", seconds.to_string())
}

/// Names a worker, in lower-case hexadecimal digits.
pub(crate) fn worker_header(fingerprint: &[u8; 32]) -> http::Header {
    header(WORKER_HEADER, fingerprint.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Takes the name of the worker out of a head. `None` where there is none, or what is there is no fingerprint.
pub(crate) fn take_worker(head: &mut http::Response) -> Option<[u8; 32]> {
    let is_name =
        |header: &http::Header| header.name.as_bytes().eq_ignore_ascii_case(WORKER_HEADER.as_bytes());
    let mut named = head.headers.extract_if(.., |header| is_name(header));
    let (first, more) = (named.next(), named.count());
    first.filter(|_| more == 0).and_then(|header| fingerprint(header.value.as_bytes()))
}

fn fingerprint(digits: &[u8]) -> Option<[u8; 32]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = digits.as_chunks::<2>();
    let bytes = pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?));
    let bytes: Vec<u8> = bytes.collect::<Option<_>>()?;
    rest.is_empty().then(|| bytes.try_into().ok()).flatten()
}

/// How the body is delimited. Published peers build an HTTP answer from it, so it must be there and be right.
pub(crate) fn framing_header(complete: bool, length: usize) -> http::Header {
    if complete {
        header("Content-Length", length.to_string())
    } else {
        header("Transfer-Encoding", "chunked".into())
    }
}

fn header(name: &'static str, value: String) -> http::Header {
    http::Header { name: ByteStr::from_static(name), value: value.into() }
}

/// The HTTP status that a failure deserves, and OpenAI's word for its kind.
pub(crate) fn status_of(failure: &RequestFailure) -> (i32, &'static str) {
    match failure.code {
        ErrorCode::TIMEOUT => (504, "timeout"),
        ErrorCode::NOT_READY => (503, "service_unavailable"),
        ErrorCode::PROTOCOL => (400, "invalid_request_error"),
        ErrorCode::CANCELLED => (499, "cancelled"),
        _ => (502, "upstream_error"),
    }
}

/// A failure as a whole HTTP answer.
pub(crate) fn error_body(failure: &RequestFailure) -> (http::Response, Bytes) {
    let (status, kind) = status_of(failure);
    status_body(status, kind, &failure.message)
}

/// An OpenAI-shaped error as a whole HTTP answer. The `X-Cocoon-Error` header tells the next hop that a node of the
/// network said this, not the engine.
pub(crate) fn status_body(status: i32, kind: &str, message: &str) -> (http::Response, Bytes) {
    let body = serde_json::json!({
        "error": {"message": message, "type": kind, "param": null, "code": kind}
    });
    let head = http::Response {
        http_version: ByteStr::from_static("HTTP/1.1"),
        status_code: status,
        reason: ByteStr::from_static(reason(status)),
        headers: vec![
            header("Content-Type", "application/json".into()),
            header(ERROR_HEADER, kind.to_owned()),
        ],
        payload: Bytes::new(),
    };
    (head, Bytes::from(body.to_string()))
}

pub(crate) fn reason(status: i32) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        402 => "Payment Required",
        404 => "Not Found",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        499 => "Client Closed Request",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Error",
    }
}

/// Most headers of a request or an answer. Engines and callers have far fewer; a reader of HTTP dies of far more.
pub const MAX_HEADERS: usize = 512;
/// Most bytes of names and values of all headers together.
pub const MAX_HEAD_BYTES: usize = 128 * 1024;

/// Headers that nodes add to an answer, at most.
pub(crate) const OWN_HEADERS: usize = 16;

/// Whether these headers are of a size that may be kept and passed on; `own`: so many of them are the network's own.
pub(crate) fn fits(headers: &[http::Header], own: usize) -> bool {
    headers.len() <= MAX_HEADERS + own && head_bytes(headers) <= MAX_HEAD_BYTES + 256 * own
}

/// What headers take, in bytes.
pub(crate) fn head_bytes(headers: &[http::Header]) -> usize {
    headers.iter().map(|header| header.name.as_bytes().len() + header.value.as_bytes().len()).sum()
}

/// Makes the head of a peer's answer safe to pass on: a published gateway builds an HTTP answer from it and dies of
/// anything that is none. `None` where it cannot be mended.
pub(crate) fn sanitize(mut head: http::Response) -> Option<http::Response> {
    if !(200..=599).contains(&head.status_code) {
        return None;
    }
    head.http_version = ByteStr::from_static("HTTP/1.1");
    if !head.reason.as_bytes().iter().all(|&byte| byte == b' ' || byte.is_ascii_graphic()) {
        head.reason = ByteStr::from_static(reason(head.status_code));
    }
    head.headers.retain(|header| {
        let name = header.name.as_bytes();
        let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let framing =
            ["content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "trailer"];
        !name.is_empty()
            && name.iter().all(token)
            && !framing.iter().any(|word| name.eq_ignore_ascii_case(word.as_bytes()))
            && !header.value.as_bytes().iter().any(|&byte| (byte < b' ' && byte != b'\t') || byte == 0x7f)
    });
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_would_break_a_published_gateway_is_mended_or_refused() {
        let (mut head, _) = error_body(&RequestFailure::new(ErrorCode::ERROR, "x"));
        head.http_version = ByteStr::from_static("SPDY");
        head.headers.push(header("Content-Length", "7".into()));
        head.headers.push(header("X-Evil", "a\r\nb".into()));
        head.headers.push(header("bad name", "a".into()));
        head.headers.push(header("X-Good", "a".into()));
        let mended = sanitize(head.clone()).unwrap();
        let names: Vec<_> = mended.headers.iter().map(|header| header.name.to_lossy().into_owned()).collect();
        assert_eq!(names, ["Content-Type", "X-Cocoon-Error", "X-Good"]);
        assert_eq!(mended.http_version.as_bytes(), b"HTTP/1.1");
        head.status_code = 42;
        assert!(sanitize(head).is_none());
    }

    #[test]
    fn senseless_times_are_refused_and_long_ones_shortened() {
        assert_eq!(request_time(f64::NAN), None);
        assert_eq!(request_time(-1.0), None);
        assert_eq!(request_time(1e300), Some(MAX_REQUEST_TIME));
        assert_eq!(request_time(1.5), Some(Duration::from_millis(1500)));
    }
}
