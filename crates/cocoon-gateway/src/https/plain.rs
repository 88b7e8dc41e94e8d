//! The address without TLS: answers whoever issues certificates, and leads all others to the one with TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, LOCATION};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::io::Stalling;

/// Where challenges are asked for (RFC 8555 §8.3).
const CHALLENGES: &str = "/.well-known/acme-challenge/";
/// Largest answer to one, in bytes.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;
/// Longest name of one, in bytes.
const MAX_TOKEN_BYTES: usize = 256;
/// Connections at a time.
const MAX_CONNECTIONS: usize = 256;
/// For a request's head, and the longest that a caller may take to read.
const PATIENCE: Duration = Duration::from_secs(10);
/// The port that needs no mention.
const HTTPS_PORT: u16 = 443;

/// Accepts connections until `stop`.
pub(crate) async fn serve_plain(
    listener: TcpListener,
    https: SocketAddr,
    acme_dir: Option<PathBuf>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let (slots, acme_dir) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), acme_dir.map(Arc::new));
    loop {
        let accept = async {
            // The semaphore is never closed.
            let slot = Arc::clone(&slots).acquire_owned().await.ok();
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            accepted = accept => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (acme_dir, stop) = (acme_dir.clone(), stop.clone());
                tasks.spawn(async move {
                    let _slot = slot;
                    tokio::select! {
                        () = serve_connection(stream, https, acme_dir) => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, https: SocketAddr, acme_dir: Option<Arc<PathBuf>>) {
    let service = service_fn(move |request| {
        let acme_dir = acme_dir.clone();
        async move { Ok::<_, Infallible>(respond(&request, https, acme_dir).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(Stalling::new(stream, PATIENCE)), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an HTTP connection without TLS ended");
    }
}

async fn respond(
    request: &Request<Incoming>,
    https: SocketAddr,
    acme_dir: Option<Arc<PathBuf>>,
) -> Response<Full<Bytes>> {
    let reading = [Method::GET, Method::HEAD].contains(request.method());
    let path = request.uri().path();
    if let (Some(token), Some(dir), true) = (path.strip_prefix(CHALLENGES), acme_dir, reading) {
        return match challenge(&dir, token).await {
            Some(answer) => text(StatusCode::OK, answer),
            None => text(StatusCode::NOT_FOUND, "no such challenge\n".into()),
        };
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let place = place(request.headers(), https, target).filter(|_| reading);
    match place {
        Some(place) => {
            let mut response = text(StatusCode::PERMANENT_REDIRECT, "use https\n".into());
            response.headers_mut().insert(LOCATION, place);
            response
        }
        // What is sent here is sent in the clear, a key above all: being led on quietly would hide that.
        None => text(StatusCode::FORBIDDEN, "this address is not for requests: use https\n".into()),
    }
}

/// The same place with TLS.
fn place(headers: &HeaderMap, https: SocketAddr, target: &str) -> Option<HeaderValue> {
    let host = headers.get(HOST)?.to_str().ok()?;
    let name = match host.rfind(':') {
        Some(at) if !host.ends_with(']') => &host[..at],
        _ => host,
    };
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-[]:".contains(&byte);
    if name.is_empty() || name.len() > 255 || !name.bytes().all(good) || !target.starts_with('/') {
        return None;
    }
    let port = if https.port() == HTTPS_PORT { String::new() } else { format!(":{}", https.port()) };
    HeaderValue::from_str(&format!("https://{name}{port}{target}")).ok()
}

/// The answer that lies in the directory under this name.
async fn challenge(dir: &Path, token: &str) -> Option<Bytes> {
    // Base64url (RFC 8555 §8.3): a name, never a path.
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if token.is_empty() || token.len() > MAX_TOKEN_BYTES || !token.bytes().all(good) {
        return None;
    }
    let path = dir.join(&CHALLENGES[1..]).join(token);
    let metadata = tokio::fs::metadata(&path).await.ok()?;
    if !metadata.is_file() || metadata.len() > MAX_ANSWER_BYTES {
        return None;
    }
    tokio::fs::read(&path).await.ok().map(Bytes::from)
}

fn text(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_caller_is_led_to_the_same_place_with_tls_and_nowhere_else() {
        let led = |host: &str, port: u16, target: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_str(host).unwrap());
            let https = SocketAddr::from(([0, 0, 0, 0], port));
            place(&headers, https, target).map(|place| place.to_str().unwrap().to_owned())
        };
        assert_eq!(
            led("a.example", 443, "/v1/models?x=1").as_deref(),
            Some("https://a.example/v1/models?x=1")
        );
        assert_eq!(led("a.example:80", 8443, "/").as_deref(), Some("https://a.example:8443/"));
        assert_eq!(led("[::1]:80", 443, "/").as_deref(), Some("https://[::1]/"));
        for host in ["", "a.example/evil", "a b", "user@evil.example", "a\\evil"] {
            assert_eq!(led(host, 443, "/"), None, "{host}");
        }
        assert_eq!(led("a.example", 443, "*"), None);
    }

    #[tokio::test]
    async fn a_challenge_is_a_file_of_that_directory_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join(".well-known/acme-challenge");
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("token_-1"), "answer").unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        assert_eq!(challenge(dir.path(), "token_-1").await.as_deref(), Some(&b"answer"[..]));
        for token in ["", "other", "../secret", "..%2Fsecret", ".", "token_-1/", "../../secret"] {
            assert_eq!(challenge(dir.path(), token).await, None, "{token}");
        }
    }
}
