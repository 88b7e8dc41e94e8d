//! Engines that need no model server.
//!
//! [`ExtractiveSummary`] answers chats and completions with a summary made of sentences of the text it is given: no
//! weights, no accelerator, no randomness, any language. It is there so that a network does something useful before
//! anyone has set up a model, and so that tests of a network have real work to do. It never writes a word of its own,
//! and its name, [`EXTRACTIVE_SUMMARY_MODEL`], says what it is.
//!
//! # How a summary is made
//! 1. The prose of the text is found (Markdown, plain text and chat logs) and cleaned of markup.
//! 2. It is cut into sentences; crumbs, repeated sentences and lead-ins that end with a colon are set aside. Of more
//!    than [`MAX_COMPARED_SENTENCES`], as many are taken at even distances.
//! 3. Sentences are ranked by continuous LexRank (G. Erkan and D. R. Radev, "LexRank: Graph-based Lexical Centrality
//!    as Salience in Text Summarization", JAIR 22, 2004), close kin of TextRank (R. Mihalcea and P. Tarau, "TextRank:
//!    Bringing Order into Texts", EMNLP 2004): a sentence is central if it resembles central sentences, by
//!    idf-modified cosine over word beginnings, or over pairs of characters where a script has no spaces. Power
//!    iteration with damping 0.85; ties go to the earlier sentence.
//! 4. Earlier sentences gain a little, fragments lose some. Sentences are chosen by maximal marginal relevance, so that
//!    none says again what another said, and put back in the order of the text.
//!
//! # What is honoured of a request
//! The text is the last user message, or the conversation if that message is only a short instruction. A number of
//! sentences asked for in words, `max_tokens`, `max_completion_tokens`, `stop`, `stream` and
//! `stream_options.include_usage` are honoured; sampling parameters and tools change nothing and are ignored; what
//! would be answered wrongly (`n` over 1, images, JSON output, a demanded call of a tool, another model) is refused.
//! Tokens are counted by the rule at [`count_tokens`]; each `content` delta of a stream is exactly one token.

mod instructions;
mod lexrank;
mod markup;
mod prose;
mod reply;
mod request;
mod sentences;
mod summary;
mod tokens;

#[cfg(test)]
mod tests;

pub use request::MAX_BODY_BYTES;
pub use summary::{MAX_COMPARED_SENTENCES, MAX_SUMMARY_SENTENCES};
pub use tokens::{MAX_TOKEN_CHARS, count_tokens};

use crate::{Engine, EngineBody, EngineError, EngineHealth, EngineRequest, EngineResponse};
use bytes::Bytes;
use cocoon_openai::ability;
use futures_util::future::BoxFuture;
use futures_util::stream;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reply::Reply;
use request::{ApiError, Endpoint, Job};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The name under which [`ExtractiveSummary`] serves.
pub const EXTRACTIVE_SUMMARY_MODEL: &str = "builtin/extractive-summary";

/// An engine that answers with the most telling sentences of the text. See the module's documentation.
#[derive(Debug, Clone, Default)]
pub struct ExtractiveSummary {
    delay_per_token: Option<Duration>,
}

impl ExtractiveSummary {
    /// An engine that answers as fast as it can.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes streams wait this long before each token, so that people can see them and tests can break them off.
    /// Answers that are not streamed do not wait.
    #[must_use]
    pub fn with_delay_per_token(mut self, delay: Option<Duration>) -> Self {
        self.delay_per_token = delay;
        self
    }

    async fn answer(&self, request: EngineRequest) -> Result<EngineResponse, EngineError> {
        let path = request.path.split('?').next().unwrap_or_default();
        let endpoint = match (path, &request.method) {
            ("/v1/chat/completions", &Method::POST) => Endpoint::Chat,
            ("/v1/completions", &Method::POST) => Endpoint::Completions,
            ("/v1/models", &Method::GET) => return Ok(whole(StatusCode::OK, &reply::models_json())),
            ("/health", &Method::GET) => return Ok(whole(StatusCode::OK, &json!({"status": "ok"}))),
            ("/v1/chat/completions" | "/v1/completions", _) => return Ok(wrong_method("POST")),
            ("/v1/models" | "/health", _) => return Ok(wrong_method("GET")),
            _ => {
                let message =
                    "no such path: this engine serves /v1/chat/completions, /v1/completions and /v1/models";
                return Ok(refusal(&ApiError::new(StatusCode::NOT_FOUND, message)));
            }
        };
        let Some(body) = request.read_whole(MAX_BODY_BYTES).await? else {
            return Ok(refusal(&ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "the text is too long")));
        };
        let cancel = CancelOnDrop::default();
        let flag = Arc::clone(&cancel.0);
        let work = tokio::task::spawn_blocking(move || summarise(endpoint, &body, &flag));
        let done =
            work.await.map_err(|_| EngineError::Broken("the summary's thread ended early".to_owned()))?;
        Ok(match done {
            Ok((reply, true)) => events(reply.into_events(self.delay_per_token)),
            Ok((reply, false)) => whole(StatusCode::OK, &reply.to_json()),
            Err(error) => refusal(&error),
        })
    }
}

impl Engine for ExtractiveSummary {
    fn call(&self, request: EngineRequest) -> BoxFuture<'_, Result<EngineResponse, EngineError>> {
        Box::pin(self.answer(request))
    }

    fn probe(&self) -> BoxFuture<'_, EngineHealth> {
        let models = vec![EXTRACTIVE_SUMMARY_MODEL.to_owned()];
        Box::pin(std::future::ready(EngineHealth { ready: true, models, detail: None }))
    }

    /// Chats and completions, whatever was known.
    fn explore<'a>(&'a self, _: &'a str, _: u32) -> BoxFuture<'a, u32> {
        Box::pin(std::future::ready(ability::CHAT | ability::COMPLETIONS))
    }
}

/// Tells the blocking work to stop when the future that waits for it is dropped.
#[derive(Default)]
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads a request and makes its reply, and says whether it shall be streamed. Takes long for a long text.
fn summarise(endpoint: Endpoint, body: &[u8], cancel: &AtomicBool) -> Result<(Reply, bool), ApiError> {
    let job = Job::read(endpoint, body)?;
    // Once cancelled nobody reads the answer, whatever it is.
    let text = summary::summarise(&job.text, job.length(), cancel).unwrap_or_default();
    Ok((Reply::new(&job, text), job.stream))
}

fn whole(status: StatusCode, body: &Value) -> EngineResponse {
    let bytes = Bytes::from(body.to_string());
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    EngineResponse { status, headers, body: Box::pin(stream::once(std::future::ready(Ok(bytes)))) }
}

fn events(body: EngineBody) -> EngineResponse {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    EngineResponse { status: StatusCode::OK, headers, body }
}

fn refusal(error: &ApiError) -> EngineResponse {
    whole(error.status, &reply::error_json(error))
}

fn wrong_method(allowed: &'static str) -> EngineResponse {
    let message = format!("wrong method: this path takes {allowed}");
    let mut response = refusal(&ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message));
    response.headers.insert(ALLOW, HeaderValue::from_static(allowed));
    response
}
