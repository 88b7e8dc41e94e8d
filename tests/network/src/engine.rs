//! Engines that answer as a test says.

use bytes::Bytes;
use cocoon_engine::{Engine, EngineError, EngineHealth, EngineRequest, EngineResponse};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::sync::{mpsc, oneshot};

use crate::within;

/// A whole answer of a chat completion that used 10 and 5 tokens.
pub fn chat_answer(text: &str) -> Bytes {
    let answer = serde_json::json!({
        "id": "answer", "object": "chat.completion", "model": "test",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    });
    answer.to_string().into()
}

/// One event of a streamed answer.
pub fn delta(text: &str) -> Bytes {
    let event = serde_json::json!({
        "id": "answer", "object": "chat.completion.chunk", "model": "test",
        "choices": [{"index": 0, "delta": {"content": text}}],
    });
    format!("data: {event}\n\n").into()
}

/// The last events of a streamed answer.
pub fn usage_event(prompt: u64, completion: u64) -> Bytes {
    let event = serde_json::json!({
        "id": "answer", "object": "chat.completion.chunk", "model": "test", "choices": [],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion},
    });
    format!("data: {event}\n\ndata: [DONE]\n\n").into()
}

fn response(status: u16, kind: &'static str, body: cocoon_engine::EngineBody) -> EngineResponse {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    EngineResponse { status: StatusCode::from_u16(status).unwrap(), headers, body }
}

/// Answers everything at once with the same text.
pub struct FixedEngine(pub String);

impl Engine for FixedEngine {
    fn call(&self, _: EngineRequest) -> BoxFuture<'_, Result<EngineResponse, EngineError>> {
        let body = futures_util::stream::iter([Ok(chat_answer(&self.0))]).boxed();
        Box::pin(async { Ok(response(200, "application/json", body)) })
    }

    fn probe(&self) -> BoxFuture<'_, EngineHealth> {
        Box::pin(async { EngineHealth { ready: true, models: Vec::new(), detail: None } })
    }
}

/// Hands every call to the test.
pub struct ScriptedEngine(mpsc::UnboundedSender<Call>);

/// A call that waits for its answer.
pub struct Call {
    pub request: EngineRequest,
    respond: oneshot::Sender<Result<EngineResponse, EngineError>>,
}

/// An answer whose body the test writes.
pub struct Answering(mpsc::Sender<Result<Bytes, EngineError>>);

impl ScriptedEngine {
    /// The engine, and its calls.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Call>) {
        let (sender, calls) = mpsc::unbounded_channel();
        (Self(sender), calls)
    }
}

impl Engine for ScriptedEngine {
    fn call(&self, request: EngineRequest) -> BoxFuture<'_, Result<EngineResponse, EngineError>> {
        let (respond, answer) = oneshot::channel();
        let sent = self.0.send(Call { request, respond });
        Box::pin(async move {
            let gone = || EngineError::Unreachable("the test let go of its calls".into());
            sent.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        })
    }

    fn probe(&self) -> BoxFuture<'_, EngineHealth> {
        Box::pin(async { EngineHealth { ready: true, models: Vec::new(), detail: None } })
    }
}

impl Call {
    /// Answers in full.
    pub fn answer(self, text: &str) {
        let body = futures_util::stream::iter([Ok(chat_answer(text))]).boxed();
        let _ = self.respond.send(Ok(response(200, "application/json", body)));
    }

    /// Fails before the first byte.
    pub fn fail(self) {
        let _ = self.respond.send(Err(EngineError::Broken("as the test wants".into())));
    }

    /// Begins a streamed answer.
    pub fn stream(self) -> Answering {
        self.body("text/event-stream")
    }

    /// Begins an answer of some type.
    pub fn body(self, kind: &'static str) -> Answering {
        let (sender, receiver) = mpsc::channel(1);
        let body = futures_util::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|chunk| (chunk, receiver))
        });
        let _ = self.respond.send(Ok(response(200, kind, body.boxed())));
        Answering(sender)
    }

    /// Waits until the asker gives the call up.
    pub async fn given_up(mut self) {
        within("the call to be given up", self.respond.closed()).await;
    }
}

impl Answering {
    /// Sends a piece; `false` where nobody listens any more.
    pub async fn send(&self, data: Bytes) -> bool {
        within("room for a piece", self.0.send(Ok(data))).await.is_ok()
    }

    /// The same, however long it takes.
    pub async fn send_slowly(&self, data: Bytes) -> bool {
        self.0.send(Ok(data)).await.is_ok()
    }

    /// Waits until the asker lets go of the body.
    pub async fn dropped(self) {
        within("the body to be dropped", self.0.closed()).await;
    }

    /// Whether the asker let go of the body.
    pub fn is_dropped(&self) -> bool {
        self.0.is_closed()
    }
}

/// Answers every endpoint in its true shape, and remembers what it was asked.
#[derive(Clone, Default)]
pub struct VersatileEngine(pub std::sync::Arc<std::sync::Mutex<Vec<EngineRequest>>>);

/// What [`VersatileEngine`] says instead of sound.
pub const SOUND: &str = "ID3 not quite a sound";

impl VersatileEngine {
    /// The newest request.
    ///
    /// # Panics
    /// There is none.
    pub fn last(&self) -> EngineRequest {
        self.0.lock().unwrap().last().unwrap().clone()
    }
}

impl Engine for VersatileEngine {
    fn call(&self, request: EngineRequest) -> BoxFuture<'_, Result<EngineResponse, EngineError>> {
        use serde_json::json;
        let usage = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15});
        let named = json!({"input_tokens": 10, "output_tokens": 5, "total_tokens": 15});
        let text = json!([{"type": "output_text", "text": "hi"}]);
        let answer = match request.path.as_str() {
            "/v1/chat/completions" => json!({"object": "chat.completion", "usage": usage,
                "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}]}),
            "/v1/completions" => json!({"object": "text_completion", "usage": usage,
                "choices": [{"index": 0, "finish_reason": "stop", "text": "hi"}]}),
            "/v1/responses" => {
                json!({"object": "response", "status": "completed", "error": null, "usage": named,
                "output": [{"type": "message", "role": "assistant", "content": text}]})
            }
            "/v1/messages" => json!({"type": "message", "role": "assistant", "stop_reason": "end_turn",
                "content": [{"type": "text", "text": "hi"}], "usage": named}),
            "/v1/embeddings" => json!({"object": "list", "usage": {"prompt_tokens": 2, "total_tokens": 2},
                "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}]}),
            "/v1/rerank" => json!({"results": [{"index": 0, "relevance_score": 0.5}]}),
            "/v1/moderations" => json!({"results": [{"flagged": false}]}),
            "/v1/images/generations" | "/v1/images/edits" | "/v1/images/variations" => {
                json!({"created": 1, "data": [{"b64_json": "AAAA"}]})
            }
            "/v1/audio/transcriptions" | "/v1/audio/translations" => json!({"text": "hello"}),
            "/tokenize" => json!({"count": 1, "tokens": [1]}),
            "/detokenize" => json!({"prompt": "x"}),
            "/v1/messages/count_tokens" => json!({"input_tokens": 7}),
            "/v1/responses/input_tokens" => json!({"object": "response.input_tokens", "input_tokens": 7}),
            _ => serde_json::Value::Null,
        };
        let (status, kind, body) = match (request.path.as_str(), &answer) {
            ("/v1/audio/speech", _) => (200, "audio/mpeg", Bytes::from_static(SOUND.as_bytes())),
            (_, serde_json::Value::Null) => (404, "application/json", Bytes::from_static(b"{}")),
            (_, answer) => (200, "application/json", answer.to_string().into()),
        };
        let asked = std::sync::Arc::clone(&self.0);
        Box::pin(async move {
            // As a server does that needs all of it.
            let whole = request.read_whole(1 << 30).await?.unwrap_or_default();
            asked.lock().unwrap().push(EngineRequest { body: whole, rest: None, ..request });
            let body = futures_util::stream::iter([Ok(body)]).boxed();
            Ok(response(status, kind, body))
        })
    }

    fn probe(&self) -> BoxFuture<'_, EngineHealth> {
        Box::pin(async { EngineHealth { ready: true, models: Vec::new(), detail: None } })
    }

    fn explore<'a>(&'a self, _: &'a str, _: u32) -> BoxFuture<'a, u32> {
        Box::pin(async { u32::MAX })
    }
}
