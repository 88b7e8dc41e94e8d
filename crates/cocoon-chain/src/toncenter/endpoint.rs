//! Where the server is, from what people write.

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};

use crate::ChainError;

/// Where version 2 of the API lies on a server.
const API_PATH: &str = "/api/v2";
/// The one method of HTTP's that has all methods of the API.
const RPC_PATH: &str = "/jsonRPC";

/// A server.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// Where requests go.
    pub(super) uri: Uri,
    /// Whether the server is this very machine.
    pub(super) is_loopback: bool,
    /// Whether nobody on the way can read along.
    pub(super) is_encrypted: bool,
}

impl Endpoint {
    /// Reads `https://toncenter.com/api/v2`, or the same without the path.
    pub(super) fn parse(text: &str) -> Result<Self, ChainError> {
        if text.contains('#') {
            return Err(wrong("it has a fragment, as in http://127.0.0.1:8081/#part; leave it out"));
        }
        let uri: Uri = text.trim().parse().map_err(|_| wrong(HINT))?;
        let scheme = uri.scheme().filter(|scheme| [&Scheme::HTTP, &Scheme::HTTPS].contains(scheme));
        let (Some(scheme), Some(authority)) = (scheme, uri.authority()) else {
            return Err(wrong(HINT));
        };
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(wrong(
                "it has a user, a password or a query; an API key is set apart, never in the URL",
            ));
        }
        if authority.host().is_empty() {
            return Err(wrong(HINT));
        }
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(scheme.clone());
        parts.authority = Some(authority.clone());
        parts.path_and_query = Some(rpc_path(uri.path())?);
        Ok(Self {
            uri: Uri::from_parts(parts).map_err(|_| wrong(HINT))?,
            is_loopback: is_loopback(authority),
            is_encrypted: *scheme == Scheme::HTTPS,
        })
    }
}

const HINT: &str = "write http://HOST:PORT or https://HOST, such as https://toncenter.com/api/v2";

fn wrong(hint: &'static str) -> ChainError {
    ChainError::Unsupported { what: "reaching a chain at that URL", hint }
}

fn rpc_path(path: &str) -> Result<PathAndQuery, ChainError> {
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix(RPC_PATH).unwrap_or(path);
    let base = path.strip_suffix(API_PATH).unwrap_or(path);
    format!("{base}{API_PATH}{RPC_PATH}").parse().map_err(|_| wrong(HINT))
}

fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_the_api_is_added_where_it_is_missing_and_never_twice() {
        for (written, meant) in [
            ("https://toncenter.com/api/v2", "https://toncenter.com/api/v2/jsonRPC"),
            ("https://toncenter.com/api/v2/", "https://toncenter.com/api/v2/jsonRPC"),
            ("https://toncenter.com", "https://toncenter.com/api/v2/jsonRPC"),
            (" http://127.0.0.1:8081\n", "http://127.0.0.1:8081/api/v2/jsonRPC"),
            ("http://[::1]:8081/api/v2/jsonRPC", "http://[::1]:8081/api/v2/jsonRPC"),
            ("https://host.example/behind", "https://host.example/behind/api/v2/jsonRPC"),
        ] {
            assert_eq!(Endpoint::parse(written).unwrap().uri.to_string(), meant);
        }
    }

    #[test]
    fn what_is_no_plain_url_is_refused_with_a_hint() {
        for wrong in [
            "",
            "toncenter.com",
            "ftp://toncenter.com",
            "/api/v2",
            "https://",
            "https://user:word@toncenter.com",
            "https://toncenter.com/api/v2?api_key=1",
            "https://toncenter.com/#x",
        ] {
            let refused = Endpoint::parse(wrong).unwrap_err();
            assert!(matches!(refused, ChainError::Unsupported { .. }), "{wrong}: {refused}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        let is_loopback = |url| Endpoint::parse(url).unwrap().is_loopback;
        assert!(
            is_loopback("http://127.0.0.9:1")
                && is_loopback("http://localhost:1")
                && is_loopback("http://[::1]:1")
        );
        assert!(!is_loopback("https://toncenter.com") && !is_loopback("http://127.0.0.1.example"));
        assert!(!is_loopback("http://192.168.0.1"));
    }
}
