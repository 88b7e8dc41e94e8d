//! The request as it goes to the worker: which of the caller's headers pass, and how it is written.

use bytes::Bytes;
use cocoon_openai::PreparedRequest;
use cocoon_session::split_body;
use cocoon_wire::codec::ByteStr;
use cocoon_wire::tl::http as wire;
use http::header::HeaderMap;

/// The caller's headers that go on: what changes how an engine reads a request or writes its answer. All others stay here,
/// because many tell who asks (keys, cookies, addresses, traces, programs and languages), nobody can list those that do,
/// and what is wished of the network (`X-Cocoon-*`) is nothing for a worker to know.
const PASSED: [&str; 4] = ["accept", "anthropic-beta", "anthropic-version", "openai-beta"];

/// The boxed `http.request` for the worker, and the bytes of a large body that follow it.
pub(crate) fn query(headers: &HeaderMap, prepared: &PreparedRequest) -> (Bytes, Bytes) {
    let header = |name: &str, value: &[u8]| wire::Header {
        name: name.to_owned().into(),
        value: ByteStr(Bytes::copy_from_slice(value)),
    };
    let mut passed = vec![
        header("Content-Type", prepared.content_type.as_bytes()),
        header("Content-Length", prepared.body.len().to_string().as_bytes()),
    ];
    for name in PASSED {
        passed.extend(headers.get_all(name).iter().map(|value| header(name, value.as_bytes())));
    }
    split_body(wire::Request {
        method: ByteStr::from_static("POST"),
        url: ByteStr::from_static(prepared.endpoint.path()),
        http_version: ByteStr::from_static("HTTP/1.1"),
        headers: passed,
        payload: prepared.body.clone(),
    })
}
