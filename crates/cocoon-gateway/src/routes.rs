//! What there is at which path, in words for those who asked for something else.

use cocoon_openai::{ApiError, Endpoint};
use http::header::{HOST, HeaderMap, TRANSFER_ENCODING};

/// Longest path that is quoted, in letters.
const QUOTED: usize = 200;

/// Parts of other APIs that would need a memory which workers do not have.
const STATEFUL: [&str; 11] = [
    "/v1/assistants",
    "/v1/batches",
    "/v1/chat/completions/",
    "/v1/conversations",
    "/v1/files",
    "/v1/fine_tuning",
    "/v1/messages/batches",
    "/v1/responses/",
    "/v1/threads",
    "/v1/uploads",
    "/v1/vector_stores",
];

/// 404: there is nothing at this path.
pub(crate) fn nothing_at(path: &str) -> ApiError {
    let quoted: String = path.chars().take(QUOTED).collect();
    let is_count = path.starts_with(Endpoint::InputTokens.path());
    let why = if path.starts_with("/v1/v1/") {
        " The client's base URL has a /v1 that the client adds by itself."
    } else if !is_count && STATEFUL.iter().any(|start| path.starts_with(start)) {
        " Workers keep no state, so nothing that was asked before can be fetched, changed or continued."
    } else {
        ""
    };
    let served = Endpoint::ALL.map(Endpoint::path);
    let message = format!(
        "Nothing is served at {quoted}.{why} The API is POST {} and GET /v1/models and /v1/market, for people /market. \
         A client's base URL ends in /v1.",
        served.join(", ")
    );
    ApiError::new(404, "invalid_request_error", "unknown_url", message)
}

/// Whether nobody on the way can have taken the request for another one.
pub(crate) fn is_plain(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.get_all(HOST).iter().nth(1).is_some() {
        return Err(ApiError::invalid_request(None, "two_hosts", "The request has more than one Host."));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        let message = "No Transfer-Encoding but `chunked` is understood here.";
        return Err(ApiError::new(501, "invalid_request_error", "unsupported_transfer_encoding", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_elsewhere_hears_what_there_is_and_why() {
        let typo = nothing_at("/v1/chat/completion");
        assert_eq!((typo.status, typo.code.as_deref()), (404, Some("unknown_url")));
        assert!(typo.message.contains("POST /v1/chat/completions"), "{typo}");
        assert!(!typo.message.contains("state"), "{typo}");
        assert!(!nothing_at("/v1/responses/input_tokens/").message.contains("state"));
        for path in ["/v1/responses/resp_1", "/v1/files", "/v1/batches/b/cancel"] {
            assert!(nothing_at(path).message.contains("keep no state"), "{path}");
        }
        assert!(nothing_at(&"x".repeat(100_000)).message.len() < 2000);
    }
}
