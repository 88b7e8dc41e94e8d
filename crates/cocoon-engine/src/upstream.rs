//! Any OpenAI-style HTTP server as an engine: vLLM, SGLang, llama.cpp, Ollama, or one of your own.
//!
//! Plain HTTP/1.1 (and 1.0) over TCP only, since the server belongs into the same TEE as the worker: TLS would
//! hide nothing there, and an engine elsewhere would see every prompt. Connections are kept and used again;
//! statuses, headers and bodies pass faithfully, errors included; nothing is decompressed. An answer that ends before its
//! `Content-Length` or its last chunk is an error, never a short answer (only HTTP/1.0 style bodies, which end
//! with the connection, can't tell). Dropping an answer closes its connection, which is how servers learn that
//! nobody waits any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use http::uri::{Scheme, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::body::Sending;
use crate::{Engine, EngineBody, EngineError, EngineHealth, EngineRequest, EngineResponse};

mod explore;
mod headers;
mod pool;
mod probe;

use pool::{Connection, Pool};

/// Statuses above this are none of HTTP's (RFC 9110, section 15); the network does not carry them.
const HIGHEST_STATUS: u16 = 599;

/// Time and size limits towards an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpEngineOptions {
    /// Longest wait for a connection, a free one of `max_connections` included.
    pub connect_timeout: Duration,
    /// Longest wait for the head of the answer. An engine that does not stream sends it only when the whole answer
    /// is worked out; `None` leaves the limit to the request's own deadline.
    pub head_timeout: Option<Duration>,
    /// Longest silence within a body.
    pub idle_body_timeout: Duration,
    /// Exchanges at the same time; also the number of idle connections kept.
    pub max_connections: usize,
    /// Largest head of an answer, in bytes; at least 8192.
    pub max_head_bytes: usize,
    /// Most headers in an answer.
    pub max_headers: usize,
    /// How long an idle connection is kept. Below the 5 s of uvicorn (vLLM, SGLang), so that it is seldom ours that
    /// is closed under a request.
    pub pool_idle_timeout: Duration,
    /// What the server can do, as bits of [`cocoon_openai::ability`], where somebody says so. `None`: it is found out by
    /// asking the server for the least of each.
    pub abilities: Option<u32>,
}

impl Default for HttpEngineOptions {
    /// 3 s to connect, 120 s of silence, 256 connections kept for 4 s, heads of 64 KiB and 128 headers.
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            head_timeout: None,
            idle_body_timeout: Duration::from_secs(120),
            max_connections: 256,
            max_head_bytes: 64 << 10,
            max_headers: 128,
            pool_idle_timeout: Duration::from_secs(4),
            abilities: None,
        }
    }
}

/// Why a URL can't be that of an engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BaseUrlError {
    /// TLS to an engine is not offered.
    #[error(
        "an engine must be reached over plain http, not https: it must run inside the same TEE as the worker, \
         so use its local address, such as http://127.0.0.1:8000"
    )]
    Https,
    /// No `http://` URL with a host.
    #[error("the engine's address is not a URL such as http://127.0.0.1:8000")]
    NotHttp,
    /// User name, password, query or fragment.
    #[error("the engine's URL must be only http://host:port and perhaps a path")]
    Extras,
}

/// An OpenAI-style HTTP server; see the module.
#[derive(Debug)]
pub struct HttpEngine {
    pool: Arc<Pool>,
    authority: http::HeaderValue,
    base_path: String,
}

impl HttpEngine {
    /// An engine at `base_url`, such as `http://127.0.0.1:8000`; a `/v1` at its end is understood, not doubled.
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// [`BaseUrlError`] where the URL can't be that of an engine.
    pub fn new(base_url: &str, options: HttpEngineOptions) -> Result<Self, BaseUrlError> {
        if base_url.contains('#') {
            return Err(BaseUrlError::Extras);
        }
        let url: Uri = base_url.trim().parse().map_err(|_| BaseUrlError::NotHttp)?;
        match url.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => {}
            Some(scheme) if *scheme == Scheme::HTTPS => return Err(BaseUrlError::Https),
            _ => return Err(BaseUrlError::NotHttp),
        }
        let authority = url.authority().ok_or(BaseUrlError::NotHttp)?;
        if url.query().is_some() || authority.as_str().contains('@') {
            return Err(BaseUrlError::Extras);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(BaseUrlError::NotHttp);
        }
        let path = url.path().trim_end_matches('/');
        Ok(Self {
            pool: Arc::new(Pool::new(host.to_owned(), authority.port_u16().unwrap_or(80), options)),
            authority: authority.as_str().parse().map_err(|_| BaseUrlError::NotHttp)?,
            base_path: path.strip_suffix("/v1").unwrap_or(path).to_owned(),
        })
    }

    async fn exchange(&self, request: EngineRequest) -> Result<EngineResponse, EngineError> {
        let target = format!("{}{}", self.base_path, request.path);
        let target: Uri =
            target.parse().map_err(|_| EngineError::Unsupported("the path is not valid".to_owned()))?;
        let body = Sending::new(request.body, request.rest.as_ref());
        let sent = body.sent();
        let mut upstream = http::Request::new(body);
        *upstream.method_mut() = request.method;
        *upstream.uri_mut() = target;
        *upstream.headers_mut() = headers::for_request(request.headers, self.authority.clone());

        let (permit, response, connection) = match self.pool.options.head_timeout {
            None => self.pool.send(upstream).await?,
            Some(limit) => timeout(limit, self.pool.send(upstream))
                .await
                .map_err(|_| EngineError::Broken(format!("no answer within {} s", limit.as_secs_f32())))??,
        };
        if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            return Err(EngineError::Broken("it switched protocols, unasked".to_owned()));
        }
        if response.status().as_u16() > HIGHEST_STATUS {
            return Err(EngineError::Broken(format!(
                "no HTTP answer has the status {}",
                response.status().as_str()
            )));
        }
        let (head, body) = response.into_parts();
        let exchange = Exchange { body, connection, sent, pool: Arc::clone(&self.pool), _permit: permit };
        Ok(EngineResponse {
            status: head.status,
            headers: headers::for_response(head.headers),
            body: exchange.into_stream(),
        })
    }
}

impl Engine for HttpEngine {
    fn call(&self, request: EngineRequest) -> BoxFuture<'_, Result<EngineResponse, EngineError>> {
        self.exchange(request).boxed()
    }

    fn probe(&self) -> BoxFuture<'_, EngineHealth> {
        probe::probe(self).boxed()
    }

    fn explore<'a>(&'a self, model: &'a str, known: u32) -> BoxFuture<'a, u32> {
        match self.pool.options.abilities {
            Some(stated) => std::future::ready(stated).boxed(),
            None => explore::explore(self, model, known).boxed(),
        }
    }
}

/// The body of an answer, and all that must live as long as it.
struct Exchange {
    body: Incoming,
    /// Dropped before its end, it closes the connection.
    connection: Connection,
    /// Whether the request is all out; a server may answer before.
    sent: Arc<AtomicBool>,
    pool: Arc<Pool>,
    _permit: OwnedSemaphorePermit,
}

impl Exchange {
    fn into_stream(self) -> EngineBody {
        stream::unfold(Some(self), |exchange| async {
            let mut exchange = exchange?;
            let silence = exchange.pool.options.idle_body_timeout;
            loop {
                let error = match timeout(silence, exchange.body.frame()).await {
                    Ok(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) if !data.is_empty() => return Some((Ok(data), Some(exchange))),
                        // Trailers have no place in the answers passed on.
                        _ => continue,
                    },
                    Ok(None) => {
                        if exchange.sent.load(Ordering::Relaxed) {
                            exchange.pool.keep(exchange.connection);
                        }
                        return None;
                    }
                    Ok(Some(Err(error))) => pool::error_of(&error),
                    Err(_) => EngineError::Broken(format!("silent for {} s", silence.as_secs_f32())),
                };
                return Some((Err(error), None));
            }
        })
        .boxed()
    }
}
