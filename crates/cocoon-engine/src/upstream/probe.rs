//! Asks a server whether it is ready, and for which models.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, Method, StatusCode};
use tokio::time::timeout;

use super::HttpEngine;
use crate::{Engine, EngineError, EngineHealth, EngineRequest};

/// Longest probe, both questions together.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Largest answer that is read, in bytes.
const MAX_PROBE_BYTES: usize = 1 << 20;
/// Most models that are taken from an answer.
const MAX_MODELS: usize = 1000;

/// `GET /v1/models`, and where that is not offered, `GET /health`.
pub(super) async fn probe(engine: &HttpEngine) -> EngineHealth {
    let not_ready = |detail: String| EngineHealth { ready: false, models: Vec::new(), detail: Some(detail) };
    match timeout(PROBE_TIMEOUT, ask(engine)).await {
        Ok(Ok(models)) => EngineHealth { ready: true, models, detail: None },
        Ok(Err(detail)) => not_ready(detail),
        Err(_) => not_ready(format!("no answer to a probe within {} s", PROBE_TIMEOUT.as_secs())),
    }
}

async fn ask(engine: &HttpEngine) -> Result<Vec<String>, String> {
    let models = match get(engine, "/v1/models").await {
        Ok((StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _)) => {
            return Err("GET /v1/models: the engine asks for a key; run it without one".to_owned());
        }
        Ok((status, body)) if status.is_success() => match model_names(&body) {
            Some(names) => return Ok(names),
            None => "an answer without a list of models".to_owned(),
        },
        Ok((status, _)) => format!("HTTP {status}"),
        Err(EngineError::Unreachable(detail)) => return Err(format!("engine unreachable: {detail}")),
        Err(error) => error.to_string(),
    };
    match get(engine, "/health").await {
        Ok((status, _)) if status.is_success() => Ok(Vec::new()),
        Ok((status, _)) => Err(format!("GET /v1/models: {models}; GET /health: HTTP {status}")),
        Err(error) => Err(format!("GET /v1/models: {models}; GET /health: {error}")),
    }
}

async fn get(engine: &HttpEngine, path: &str) -> Result<(StatusCode, Bytes), EngineError> {
    let request = EngineRequest {
        method: Method::GET,
        path: path.to_owned(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        rest: None,
    };
    let mut response = engine.call(request).await?;
    let mut body = BytesMut::new();
    while let Some(chunk) = response.body.next().await {
        body.extend_from_slice(&chunk?);
        if body.len() > MAX_PROBE_BYTES {
            return Err(EngineError::TooLarge(format!("the answer to GET {path}")));
        }
    }
    Ok((response.status, body.freeze()))
}

/// The names in OpenAI's list of models; a list that is `null` is an empty one (Ollama without models).
fn model_names(body: &[u8]) -> Option<Vec<String>> {
    let list: serde_json::Value = serde_json::from_slice(body).ok()?;
    let models = match list.get("data")? {
        serde_json::Value::Null => return Some(Vec::new()),
        data => data.as_array()?,
    };
    let names = models.iter().filter_map(|model| model.get("id")?.as_str());
    Some(names.take(MAX_MODELS).map(str::to_owned).collect())
}
