//! The request as it goes to the worker: which of the caller's headers pass, and how it is written.
//!
//! Headers that wish something of the network (`X-Cocoon-*`) end here, too: what a caller would pay at most is nothing for
//! a worker to know.

use bytes::Bytes;
use cocoon_openai::PreparedRequest;
use cocoon_session::split_body;
use cocoon_wire::codec::ByteStr;
use cocoon_wire::tl::http as wire;
use http::header::{CONNECTION, HeaderMap};

/// Request headers that end here: hop by hop (RFC 9110 §7.6.1), set anew, credentials, and where the caller comes
/// from. `accept-encoding` too: a compressed answer could not be metered.
const KEPT_BACK: [&str; 32] = [
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
    "idempotency-key",
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

/// The boxed `http.request` for the worker, and the bytes of a large body that follow it.
pub(crate) fn query(headers: &HeaderMap, prepared: &PreparedRequest) -> (Bytes, Bytes) {
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
            && !name.starts_with("x-cocoon-")
            && !named.iter().any(|other| other == name)
    };
    let mut passed = vec![
        header("Content-Type", prepared.content_type.as_bytes()),
        header("Content-Length", prepared.body.len().to_string().as_bytes()),
    ];
    passed.extend(
        headers
            .iter()
            .filter(|(name, _)| passes(name.as_str()))
            .map(|(name, value)| header(name.as_str(), value.as_bytes())),
    );
    split_body(wire::Request {
        method: ByteStr::from_static("POST"),
        url: ByteStr::from_static(prepared.endpoint.path()),
        http_version: ByteStr::from_static("HTTP/1.1"),
        headers: passed,
        payload: prepared.body.clone(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cocoon_openai::Endpoint;
    use cocoon_wire::codec::from_boxed;
    use http::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn the_header_list_is_sorted_for_the_search() {
        assert!(KEPT_BACK.is_sorted());
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
            ("x-cocoon-max-price", "7"),
            ("x-custom", "kept"),
            ("accept", "*/*"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let body = br#"{"model":"m","messages":[1]}"#;
        let prepared = PreparedRequest::parse(body, Endpoint::Chat, 5).unwrap();
        let request: wire::Request = from_boxed(query(&headers, &prepared).0).unwrap();
        let names: Vec<_> = request.headers.iter().map(|header| header.name.to_lossy()).collect();
        assert_eq!(names, ["Content-Type", "Content-Length", "x-custom", "accept"]);
        assert_eq!(request.headers[1].value.to_lossy(), prepared.body.len().to_string());
        assert_eq!(request.url.to_lossy(), "/v1/chat/completions");
    }
}
