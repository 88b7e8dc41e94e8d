//! Engines: what a worker asks for the answer.
//!
//! An [`Engine`] is one HTTP exchange, seen from the asking side: request head and body in, response head and a
//! stream of body bytes out. Dropping the body (or the future) cancels the work. What the bytes mean (usage,
//! server-sent events) is not an engine's business: see `cocoon-openai`.

use bytes::{Bytes, BytesMut};
use cocoon_openai::ability;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

mod body;
pub mod builtin;
pub mod upstream;

pub use body::{BodyBroken, BodyStream};

/// One request to an engine. What is there of the body has already been checked by the worker.
#[derive(Debug, Clone)]
pub struct EngineRequest {
    /// HTTP method, `POST` for completions.
    pub method: http::Method,
    /// Path and query, such as `/v1/chat/completions`; always starts with `/`.
    pub path: String,
    /// End-to-end headers; hop-by-hop ones and `Content-Length` are the engine's own business.
    pub headers: http::HeaderMap,
    /// The whole request body, or its first bytes.
    pub body: Bytes,
    /// The bytes that follow those, as they come.
    pub rest: Option<BodyStream>,
}

impl EngineRequest {
    /// Reads what follows of the body, and gives all of it; `None` where that is more than `limit` bytes.
    ///
    /// # Errors
    /// The rest does not come.
    pub async fn read_whole(&self, limit: usize) -> Result<Option<Bytes>, EngineError> {
        let Some(mut rest) = self.rest.as_ref().and_then(BodyStream::take) else {
            return Ok(Some(self.body.clone()));
        };
        let mut body = BytesMut::from(self.body.as_ref());
        while let Some(data) = rest.next().await {
            body.extend_from_slice(&data.map_err(|broken| EngineError::Broken(broken.to_string()))?);
            if body.len() > limit {
                return Ok(None);
            }
        }
        Ok(Some(body.freeze()))
    }
}

/// The body of an answer, as it comes. An error means that the answer is incomplete.
pub type EngineBody = BoxStream<'static, Result<Bytes, EngineError>>;

/// The answer of an engine: its head, and its body as it comes.
pub struct EngineResponse {
    /// HTTP status, passed on faithfully, errors included.
    pub status: http::StatusCode,
    /// End-to-end headers; hop-by-hop ones and `Content-Length` are removed.
    pub headers: http::HeaderMap,
    /// The body, without transfer coding. Dropping it cancels the work.
    pub body: EngineBody,
}

/// Why an engine gave no (complete) answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No connection could be made.
    #[error("engine unreachable: {0}")]
    Unreachable(String),
    /// The connection broke, or what came over it was not HTTP.
    #[error("engine failed: {0}")]
    Broken(String),
    /// A limit of ours was passed.
    #[error("engine answer over the limit: {0}")]
    TooLarge(String),
    /// The request can't be served by this engine at all.
    #[error("engine can't serve this request: {0}")]
    Unsupported(String),
}

/// What a probe of an engine found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineHealth {
    /// Whether the engine answered as an OpenAI-style server.
    pub ready: bool,
    /// Model names that the engine says it serves; empty where it does not say.
    pub models: Vec<String>,
    /// Where not ready: why, in words for the operator.
    pub detail: Option<String>,
}

/// Something that answers OpenAI-style HTTP requests.
pub trait Engine: Send + Sync + 'static {
    /// Starts one exchange. Dropping the future or the answer's body cancels it.
    fn call(&self, request: EngineRequest) -> BoxFuture<'_, Result<EngineResponse, EngineError>>;

    /// Asks whether the engine is ready; never fails, and ends within a few seconds.
    fn probe(&self) -> BoxFuture<'_, EngineHealth>;

    /// Finds out what the engine can do with a model, as bits of [`cocoon_openai::ability`]. `known` is what was found
    /// before, which holds for what can't be told now. Never fails, and ends within a few minutes.
    ///
    /// An engine that says nothing of itself counts as one for chats and completions.
    fn explore<'a>(&'a self, model: &'a str, known: u32) -> BoxFuture<'a, u32> {
        let _ = (model, known);
        Box::pin(std::future::ready(ability::UNTOLD))
    }
}
