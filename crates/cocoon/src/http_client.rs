//! A very small HTTP client for our own gateway: one request per connection, on this machine.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// Longest wait for the head of an answer, or for more of its body.
const SILENCE_LIMIT: Duration = Duration::from_secs(120);
/// Largest JSON answer, in bytes.
const MAX_JSON_BYTES: usize = 1024 * 1024;

/// An answer whose body is still to come.
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: http::StatusCode,
    body: Incoming,
    /// Moves the bytes; stops with the answer.
    _connection: AbortOnDropHandle<()>,
}

/// `GET path`.
///
/// # Errors
/// There is no HTTP server at `address`.
pub(crate) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    send(address, http::Method::GET, path, Bytes::new()).await
}

/// `POST path` with a JSON body.
///
/// # Errors
/// There is no HTTP server at `address`.
pub(crate) async fn post(address: SocketAddr, path: &str, body: &Value) -> anyhow::Result<Answer> {
    send(address, http::Method::POST, path, Bytes::from(body.to_string())).await
}

async fn send(address: SocketAddr, method: http::Method, path: &str, body: Bytes) -> anyhow::Result<Answer> {
    let tcp = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // What breaks the connection is seen where its answer is read.
        let _ = connection.await;
    }));
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, address.to_string())
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::CONNECTION, "close")
        .body(Full::new(body))?;
    let answer = within(sender.send_request(request)).await?.context("the connection broke")?;
    Ok(Answer { status: answer.status(), body: answer.into_body(), _connection: connection })
}

impl Answer {
    /// The next bytes of the body; none at its end.
    ///
    /// # Errors
    /// The connection broke, or was silent for too long.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        while let Some(frame) = within(self.body.frame()).await? {
            if let Ok(data) = frame.context("the connection broke")?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The whole body as JSON.
    ///
    /// # Errors
    /// It is no JSON, or too large, or incomplete.
    pub(crate) async fn json(self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.bytes_up_to(MAX_JSON_BYTES).await?).context("the answer is not JSON")
    }

    /// The whole body, of at most `max_bytes`.
    ///
    /// # Errors
    /// It is too large, or incomplete.
    pub(crate) async fn bytes_up_to(mut self, max_bytes: usize) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(data) = self.next().await? {
            if body.len() + data.len() > max_bytes {
                bail!("the answer is over {max_bytes} bytes");
            }
            body.extend_from_slice(&data);
        }
        Ok(body)
    }
}

async fn within<T>(step: impl Future<Output = T>) -> anyhow::Result<T> {
    let limit = SILENCE_LIMIT.as_secs();
    tokio::time::timeout(SILENCE_LIMIT, step).await.with_context(|| format!("nothing came for {limit} s"))
}
