//! Whose a request is, and whether a browser's page may send it.
//!
//! **A key is not ambient.** A browser adds no key by itself, so a page that sends one was given it: with a good key any
//! origin is welcome, and where every request needs one, CORS can stay open.
//!
//! **Without keys the address is the only protection**, and every page in a browser on this machine reaches it. So a
//! gateway that needs no key lets in only requests whose `Host` is this machine (otherwise a page could give its own name
//! our address, and count as our own origin), and, where a browser names the page's origin, only pages of this machine.
//! Browsers name the origin with every request that a page could spend coins with (every cross-origin POST), and programs
//! that are no browsers name none.
//!
//! `/admin` takes no request with an `Origin` at all.

use std::net::IpAddr;

use cocoon_access::{KeyId, KeySecret, METRICS, SecretError};
use cocoon_openai::ApiError;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, AUTHORIZATION,
    HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use super::admin::is_admin;
use super::refusal::{denied_error, no_key};
use super::{Access, Limits};
use crate::body::Body;

const ANY: HeaderValue = HeaderValue::from_static("*");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "X-Request-Id, X-Cocoon-Cost-Nanoton, X-Cocoon-Tokens, X-Cocoon-Request-Id, X-Cocoon-Proxy, X-Cocoon-Worker, X-Cocoon-Proxy-Start, \
     X-Cocoon-Proxy-End, X-Cocoon-Worker-Start, X-Cocoon-Worker-End, Retry-After, X-RateLimit-Limit-Requests, \
     X-RateLimit-Limit-Tokens, X-RateLimit-Remaining-Requests, X-RateLimit-Remaining-Tokens, \
     X-RateLimit-Reset-Requests, X-RateLimit-Reset-Tokens, Idempotency-Replayed",
);

/// Paths that tell of all callers' use; where keys are needed, a key must be for [`METRICS`] to read them.
const OPERATORS_PAGES: [&str; 2] = ["/metrics", "/jsonstats"];
/// Open to everybody: load balancers have no keys.
const HEALTH: &str = "/health";

/// Who came in.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    /// Whose request it is; [`KeyId::NONE`] for callers without a key.
    pub(crate) key: KeyId,
    pub(crate) cors: Cors,
}

impl Visitor {
    /// Whoever asks, in bytes that tell callers apart: the key, or what a caller without one says of himself.
    pub(crate) fn name(request: &Parts) -> Vec<u8> {
        match request.extensions.get::<Self>() {
            Some(visitor) if visitor.key != KeyId::NONE => visitor.key.to_string().into_bytes(),
            _ => {
                let said = |name| request.headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
                // No header's value has an end of line in it, and no key's name either.
                [said(AUTHORIZATION), said(API_KEY)].join(&b'\n')
            }
        }
    }
}

/// Which pages may read the answer.
#[derive(Debug, Clone)]
pub(crate) enum Cors {
    /// Those of every origin.
    Any,
    /// Those of this one.
    Only(HeaderValue),
    /// None.
    None,
}

impl Cors {
    /// Writes the headers that tell a browser.
    pub(crate) fn stamp(&self, headers: &mut HeaderMap) {
        let origin = match self {
            Self::None => return,
            Self::Any => ANY,
            Self::Only(origin) => {
                headers.append(VARY, HeaderValue::from_static("Origin"));
                origin.clone()
            }
        };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
}

/// Who was turned away, and which pages may read why.
pub(crate) type TurnedAway = Box<(ApiError, Cors)>;

/// Finds out who comes.
pub(crate) async fn enter(access: &Access, path: &str, headers: &HeaderMap) -> Result<Visitor, TurnedAway> {
    let turned_away = |error, cors| Box::new((error, cors));
    access.refuse_strange_host(headers).map_err(|error| turned_away(error, Cors::None))?;
    if is_admin(path) {
        return match headers.get(ORIGIN) {
            None => Ok(Visitor { key: KeyId::NONE, cors: Cors::None }),
            Some(_) => {
                let message = "The admin API is not for web pages: it takes no request with an Origin.";
                let error = ApiError::new(403, "invalid_request_error", "origin_not_allowed", message);
                Err(turned_away(error, Cors::None))
            }
        };
    }
    let origin = headers.get(ORIGIN);
    let readable = || origin.cloned().map_or(Cors::Any, Cors::Only);
    let key = access.key_of(headers).map_err(|error| turned_away(error, readable()))?;
    let cors = match origin {
        _ if access.keys_needed || key.is_some() => Cors::Any,
        None => Cors::Any,
        Some(origin) if access.is_welcome(origin) => Cors::Only(origin.clone()),
        Some(_) => {
            let message = "Pages of this origin may not use the gateway without a key: send one (`cocoon keys add`), or list \
                           the origin in allowed_origins.";
            let error = ApiError::new(403, "invalid_request_error", "origin_not_allowed", message);
            return Err(turned_away(error, readable()));
        }
    };
    if access.keys_needed && path != HEALTH {
        let good = match OPERATORS_PAGES.contains(&path) {
            true => access.need_operator(headers, key).await,
            false => need_key(headers, key),
        };
        good.map_err(|error| turned_away(error, cors.clone()))?;
    }
    Ok(Visitor { key: key.unwrap_or(KeyId::NONE), cors })
}

/// Answers a browser that asks what a page may do.
pub(crate) fn preflight(access: &Access, path: &str, asked: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::EMPTY);
    *response.status_mut() = StatusCode::FORBIDDEN;
    let known = access.refuse_strange_host(asked).is_ok() && !is_admin(path);
    let origin = asked.get(ORIGIN);
    // Whether a key is good shows when it comes; that one will come is enough here.
    let brings_key = asked.get(ACCESS_CONTROL_REQUEST_HEADERS).and_then(|names| names.to_str().ok());
    let brings_key = brings_key.is_some_and(|names| {
        let mut names = names.split(',').map(|name| name.trim().to_ascii_lowercase());
        names.any(|name| name == AUTHORIZATION.as_str() || name == API_KEY.as_str())
    });
    let welcome = access.keys_needed || brings_key || origin.is_none_or(|origin| access.is_welcome(origin));
    if !known || !welcome {
        return response;
    }
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    match origin {
        Some(origin) if !access.keys_needed => Cors::Only(origin.clone()).stamp(headers),
        _ => Cors::Any.stamp(headers),
    }
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST, OPTIONS"));
    // `*` does not cover `Authorization`; what was asked for does.
    let allowed = asked.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned().unwrap_or(ANY);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    headers.append(VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
    if asked.contains_key(PRIVATE_NETWORK) {
        headers.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
    }
    response
}

impl Access {
    /// How a visitor's limits stand.
    pub(crate) fn limits_of(&self, visitor: &Visitor) -> Limits {
        let (requests, tokens) = self.desk().rates(visitor.key, self.now());
        Limits { requests, tokens }
    }

    /// The key that a request brings. Where none is needed, words that are not meant as one of ours are nobody's
    /// business: clients insist on sending some.
    fn key_of(&self, headers: &HeaderMap) -> Result<Option<KeyId>, ApiError> {
        let Some(text) = shown_key(headers).filter(|text| KeySecret::is_meant_by(text)) else {
            return Ok(None);
        };
        let secret = KeySecret::parse(text).map_err(|error| {
            no_key(match error {
                SecretError::Checksum => {
                    "Incorrect API key: it was not copied whole, its checksum does not fit."
                }
                SecretError::Form => {
                    "Incorrect API key: a key of this gateway is ck- and 49 letters and digits."
                }
            })
        })?;
        self.desk().identify(&secret, self.now()).map(Some).map_err(denied_error)
    }

    /// Operators' pages tell of all callers.
    async fn need_operator(&self, headers: &HeaderMap, key: Option<KeyId>) -> Result<(), ApiError> {
        if let Some(key) = key {
            let covered = self.desk().settings(key).is_some_and(|settings| settings.covers_endpoint(METRICS));
            let message = "This page tells of all callers; a key reads it that was made for it: `cocoon keys add NAME \
                           --endpoint metrics`.";
            let error = || ApiError::new(403, "invalid_request_error", "endpoint_not_allowed", message);
            return covered.then_some(()).ok_or_else(error);
        }
        if self.is_admin_token(headers) {
            return Ok(());
        }
        let why = "This page needs the admin token, or a key with the endpoint `metrics`.";
        // Whoever shows nothing does not guess.
        Err(if shown_key(headers).is_none() { no_key(why) } else { self.slowly.answer(why).await })
    }

    /// A page that gave its own name our address must not count as one of ours.
    fn refuse_strange_host(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.keys_needed {
            return Ok(());
        }
        // Only programs that are no browsers send none.
        let Some(host) = headers.get(HOST) else { return Ok(()) };
        let name = host.to_str().ok().map(name_of_authority).unwrap_or_default();
        let listed = |listed: &String| listed.eq_ignore_ascii_case(name);
        if is_this_machine(name) || self.config.allowed_hosts.iter().any(listed) {
            return Ok(());
        }
        let message = "This gateway needs no key, so it answers only under the names of this machine (localhost, 127.0.0.1). \
                       List other names in allowed_hosts, or set require_keys = \"always\".";
        Err(ApiError::new(403, "invalid_request_error", "host_not_allowed", message))
    }

    /// Whether pages of an origin may use the gateway without a key.
    fn is_welcome(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        // `null`, of files and sandboxed frames, is anybody's.
        authority.is_some_and(|authority| is_this_machine(name_of_authority(authority)))
            || self.config.allowed_origins.iter().any(|listed| listed.eq_ignore_ascii_case(origin))
    }
}

fn need_key(headers: &HeaderMap, key: Option<KeyId>) -> Result<(), ApiError> {
    match (key, shown_key(headers)) {
        (Some(_), _) => Ok(()),
        (None, None) => Err(no_key(
            "You did not provide an API key: send it as `Authorization: Bearer ck-...` (or `x-api-key: ck-...`).",
        )),
        (None, Some(_)) => Err(no_key("Incorrect API key: keys of this gateway begin with ck-.")),
    }
}

/// The key that a request shows, whatever it is.
pub(super) fn shown_key(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    let plain = headers.get(API_KEY).and_then(|value| value.to_str().ok()).map(str::trim);
    // Some clients send both, one of them made up.
    let ours = [bearer, plain].into_iter().flatten().find(|text| KeySecret::is_meant_by(text));
    ours.or(bearer).or(plain).filter(|text| !text.is_empty())
}

/// `localhost` of `localhost:10000`, `::1` of `[::1]:10000`.
fn name_of_authority(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        // Only a port may follow.
        return match rest.split_once(']') {
            Some((name, port)) if port.is_empty() || is_port(port) => name,
            _ => "",
        };
    }
    match authority.find(':') {
        Some(at) if is_port(&authority[at..]) => &authority[..at],
        Some(_) => "",
        None => authority,
    }
}

fn is_port(text: &str) -> bool {
    let digits = text.strip_prefix(':');
    digits.is_some_and(|digits| {
        !digits.is_empty() && digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit())
    })
}

fn is_this_machine(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a text is an origin as browsers write it.
pub(super) fn is_origin(text: &str) -> bool {
    let authority = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    authority.is_some_and(|authority| {
        !name_of_authority(authority).is_empty() && !authority.contains(['/', '?', '#', '@', ' ', '*'])
    })
}

/// Whether a method asks what it may do.
pub(crate) fn is_preflight(method: &Method) -> bool {
    method == Method::OPTIONS
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_this_machine() {
        for authority in ["localhost", "LOCALHOST:10000", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:10000"]
        {
            assert!(is_this_machine(name_of_authority(authority)), "{authority}");
        }
        for authority in [
            "",
            "localhost.evil.example",
            "evil.localhost.example:80",
            "127.0.0.1.evil.example",
            "0.0.0.0",
            "10.0.0.1:80",
            "localhost:80:80",
            "localhost:",
            "[::1].evil.example",
            "[::2]",
            "user@localhost",
            "localhost:99999999",
            "::1:evil",
        ] {
            assert!(!is_this_machine(name_of_authority(authority)), "{authority}");
        }
    }

    #[test]
    fn an_origin_is_a_scheme_and_an_authority() {
        for text in ["https://app.example", "http://localhost:3000", "http://[::1]:3000"] {
            assert!(is_origin(text), "{text}");
        }
        for text in
            ["", "*", "null", "app.example", "https://", "https://app.example/", "https://a@b", "ftp://a"]
        {
            assert!(!is_origin(text), "{text}");
        }
    }

    #[test]
    fn a_key_is_read_from_either_header_and_ours_goes_first() {
        let shown = |headers: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            shown_key(&map).map(str::to_owned)
        };
        assert_eq!(shown(&[("authorization", "Bearer a")]).as_deref(), Some("a"));
        assert_eq!(shown(&[("authorization", "bearer  a ")]).as_deref(), Some("a"));
        assert_eq!(shown(&[("x-api-key", "b")]).as_deref(), Some("b"));
        assert_eq!(shown(&[("authorization", "Bearer a"), ("x-api-key", "b")]).as_deref(), Some("a"));
        assert_eq!(shown(&[("authorization", "Bearer a"), ("x-api-key", "ck-b")]).as_deref(), Some("ck-b"));
        assert_eq!(shown(&[("authorization", "Basic a")]), None);
        assert_eq!(shown(&[("authorization", "Bearer ")]), None);
    }
}
