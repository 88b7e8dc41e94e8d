//! Finds out what a server can do, by asking it for the least of each.
//!
//! | Ability | Request | Shown by |
//! |---|---|---|
//! | chat, completions, responses, messages | two letters, an answer of one token (16 for responses) | 2xx |
//! | embeddings, rerank, moderations, tokenize, count_tokens, input_tokens | two letters | 2xx |
//! | transcriptions, translations | half a second of silence | 2xx |
//! | speech, images, image_edits | an empty body | 400 or 422: it is there, and misses what to work on |
//! | tools | a chat with a function that may be called | 2xx |
//! | image_input | a chat with a white picture of 64 x 64 | 2xx |
//! | audio_input | a chat with half a second of silence | 2xx |
//! | structured_output | a chat with a JSON schema | 2xx |
//! | reasoning | the answer to the chat has reasoning of its own | |
//!
//! A server that answers 400 or 422 at a path that surely does not exist shows nothing by it: then the three that rest on
//! that are taken as not there. Speech and images are not asked for in earnest, because a voice's name differs everywhere and a
//! picture takes long.
//!
//! What can't be told (no answer in time, 408, 425, 429, 502 to 504, a broken connection) stays as it was known before. A
//! server that does something at these paths that is not the API's could be taken for able; its errors then reach callers.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use cocoon_openai::{Endpoint, ability};
use futures_util::StreamExt as _;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::HttpEngine;
use crate::{Engine as _, EngineError, EngineRequest};

/// Longest wait for one answer. A model that is not loaded yet may take all of it.
const ONE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest exploration. What was not asked by then stays as it was.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(180);
/// Largest answer that is read, in bytes; of a larger one, the status is enough.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// No server has this.
const NOWHERE: &str = "/v1/cocoon/nothing-is-here";
/// A white picture of 64 x 64 pixels.
const PICTURE: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAIAAAAlC+aJAAAAS0lEQVR42u3PMQ0AAAwDoPo33UrYvQQckD4XAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAYHLAMpT0sIcNbcEAAAAAElFTkSuQmCC";
/// Samples in half a second of sound.
const SAMPLES: usize = 8000;
/// Of the form in which sound is sent.
const BOUNDARY: &str = "cocoon-looks-what-is-there";

/// What an answer shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Able,
    Unable,
    /// Nothing, this time.
    Unknown,
}

/// The abilities of a server with a model; `known` is what was found before.
pub(super) async fn explore(engine: &HttpEngine, model: &str, known: u32) -> u32 {
    let until = Instant::now() + WHOLE_TIMEOUT;
    let mut exploration = Exploration { engine, model, until, found: known };
    exploration.texts().await;
    exploration.sounds().await;
    exploration.works().await;
    exploration.found
}

struct Exploration<'a> {
    engine: &'a HttpEngine,
    model: &'a str,
    until: Instant,
    found: u32,
}

impl Exploration<'_> {
    /// What works on text, and what chats can do beside.
    async fn texts(&mut self) {
        let chat = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1});
        let (shown, answer) = self.ask(Endpoint::Chat, chat.clone()).await;
        self.note(ability::CHAT, shown);
        if shown == Shown::Able {
            let message = &answer["choices"][0]["message"];
            let reasons = ["reasoning_content", "reasoning"].iter().any(|field| message[*field].is_string());
            self.note(ability::REASONING, if reasons { Shown::Able } else { Shown::Unable });
        }
        for (bit, extra) in chat_extras() {
            let shown = match shown {
                Shown::Able => {
                    let mut body = chat.clone();
                    body.as_object_mut().into_iter().for_each(|body| body.extend(extra.clone()));
                    self.ask(Endpoint::Chat, body).await.0
                }
                // What chats cannot do is of no use without chats.
                shown => shown,
            };
            self.note(bit, shown);
        }
        if shown == Shown::Unable {
            self.note(ability::REASONING, shown);
        }
        let message = json!([{"role": "user", "content": "Hi"}]);
        for (endpoint, body) in [
            (Endpoint::Completions, json!({"prompt": "Hi", "max_tokens": 1})),
            (Endpoint::Responses, json!({"input": "Hi", "max_output_tokens": 16, "store": false})),
            (Endpoint::Messages, json!({"messages": message.clone(), "max_tokens": 1})),
            (Endpoint::CountTokens, json!({"messages": message})),
            (Endpoint::InputTokens, json!({"input": "Hi"})),
            (Endpoint::Embeddings, json!({"input": "Hi"})),
            (Endpoint::Rerank, json!({"query": "Hi", "documents": ["Hi"]})),
            (Endpoint::Moderations, json!({"input": "Hi"})),
            // llama.cpp knows it by another name.
            (Endpoint::Tokenize, json!({"prompt": "Hi", "content": "Hi"})),
        ] {
            let (shown, _) = self.ask(endpoint, body).await;
            self.note(endpoint.ability(), shown);
        }
    }

    /// What works on files of sound.
    async fn sounds(&mut self) {
        for endpoint in [Endpoint::Transcriptions, Endpoint::Translations] {
            let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
            let body = form(self.model, &silence());
            let shown = match self.post(endpoint.path(), &content_type, body).await {
                Ok((status, _)) => by_success(status),
                Err(_) => Shown::Unknown,
            };
            self.note(endpoint.ability(), shown);
        }
    }

    /// What is only looked for.
    async fn works(&mut self) {
        let nowhere = self.post(NOWHERE, "application/json", Bytes::new()).await;
        for endpoint in [Endpoint::Speech, Endpoint::ImageGenerations, Endpoint::ImageEdits] {
            let shown = match (&nowhere, self.post(endpoint.path(), "application/json", Bytes::new()).await) {
                (Err(_), _) | (_, Err(_)) => Shown::Unknown,
                (Ok((nowhere, _)), Ok(_)) if misses_something(*nowhere) => Shown::Unable,
                (Ok(_), Ok((status, _))) if misses_something(status) => Shown::Able,
                (Ok(_), Ok((status, _))) if is_passing(status) => Shown::Unknown,
                _ => Shown::Unable,
            };
            self.note(endpoint.ability(), shown);
        }
    }

    fn note(&mut self, bit: u32, shown: Shown) {
        match shown {
            Shown::Able => self.found |= bit,
            Shown::Unable => self.found &= !bit,
            Shown::Unknown => {}
        }
    }

    /// Asks with a JSON body to which the model is added.
    async fn ask(&self, endpoint: Endpoint, mut body: Value) -> (Shown, Value) {
        body["model"] = self.model.into();
        match self.post(endpoint.path(), "application/json", body.to_string().into()).await {
            Ok((status, answer)) => (by_success(status), serde_json::from_slice(&answer).unwrap_or_default()),
            Err(_) => (Shown::Unknown, Value::Null),
        }
    }

    async fn post(
        &self,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), EngineError> {
        let late = || EngineError::Broken("no answer in time".to_owned());
        let left = self.until.saturating_duration_since(Instant::now()).min(ONE_TIMEOUT);
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(content_type) {
            headers.insert(CONTENT_TYPE, value);
        }
        let request =
            EngineRequest { method: Method::POST, path: path.to_owned(), headers, body, rest: None };
        timeout(left, async {
            let mut response = self.engine.call(request).await?;
            let mut answer = BytesMut::new();
            while let Some(chunk) = response.body.next().await {
                answer.extend_from_slice(&chunk?);
                if answer.len() > MAX_ANSWER_BYTES {
                    answer.clear();
                    break;
                }
            }
            Ok((response.status, answer.freeze()))
        })
        .await
        .map_err(|_| late())?
    }
}

/// What a chat is asked beside, for each ability of chats.
fn chat_extras() -> [(u32, serde_json::Map<String, Value>); 4] {
    let with = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    let sound = BASE64.encode(silence());
    let extras = [
        (
            ability::TOOLS,
            json!({"tools": [{"type": "function", "function": {
                "name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}},
            }}], "tool_choice": "auto"}),
        ),
        (ability::IMAGE_INPUT, with(json!([{"type": "image_url", "image_url": {"url": PICTURE}}]))),
        (
            ability::AUDIO_INPUT,
            with(json!([{"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}])),
        ),
        (
            ability::STRUCTURED_OUTPUT,
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {
                "type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
                "additionalProperties": false,
            }}}}),
        ),
    ];
    extras.map(|(bit, extra)| match extra {
        Value::Object(fields) => (bit, fields),
        _ => (bit, serde_json::Map::new()),
    })
}

fn by_success(status: StatusCode) -> Shown {
    match status {
        status if status.is_success() => Shown::Able,
        status if is_passing(status) => Shown::Unknown,
        _ => Shown::Unable,
    }
}

/// Whether the status says that something was missing, so that there is something at the path.
fn misses_something(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY)
}

/// Whether the status is that of a server which could say something else in a while.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 502..=504)
}

/// Half a second of silence: a WAV file of one channel, 16,000 samples of 16 bits in a second.
fn silence() -> Vec<u8> {
    const RATE: u32 = 16_000;
    // Two bytes for each sample; a small constant.
    let data = u32::try_from(SAMPLES * 2).unwrap_or(0);
    let mut wav = Vec::with_capacity(44 + SAMPLES * 2);
    wav.extend_from_slice(b"RIFF");
    wav.extend_from_slice(&(36 + data).to_le_bytes());
    wav.extend_from_slice(b"WAVEfmt ");
    wav.extend_from_slice(&16_u32.to_le_bytes());
    // PCM, one channel.
    wav.extend_from_slice(&[1, 0, 1, 0]);
    wav.extend_from_slice(&RATE.to_le_bytes());
    wav.extend_from_slice(&(RATE * 2).to_le_bytes());
    // Two bytes in a frame, 16 bits in a sample.
    wav.extend_from_slice(&[2, 0, 16, 0]);
    wav.extend_from_slice(b"data");
    wav.extend_from_slice(&data.to_le_bytes());
    wav.resize(wav.len() + SAMPLES * 2, 0);
    wav
}

fn form(model: &str, sound: &[u8]) -> Bytes {
    let before = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--{BOUNDARY}\r\n\
         Content-Disposition: form-data; name=\"file\"; filename=\"silence.wav\"\r\nContent-Type: audio/wav\r\n\r\n"
    );
    [before.as_bytes(), sound, format!("\r\n--{BOUNDARY}--\r\n").as_bytes()].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_a_file_as_long_as_it_says() {
        let wav = silence();
        assert_eq!(wav.len(), 44 + 2 * SAMPLES);
        assert_eq!(wav[4..8], u32::try_from(wav.len() - 8).unwrap_or(0).to_le_bytes());
        assert_eq!(wav[40..44], u32::try_from(2 * SAMPLES).unwrap_or(0).to_le_bytes());
    }

    #[test]
    fn what_passes_shows_nothing() {
        for (status, shown) in [
            (200, Shown::Able),
            (400, Shown::Unable),
            (404, Shown::Unable),
            (429, Shown::Unknown),
            (500, Shown::Unable),
            (503, Shown::Unknown),
        ] {
            assert_eq!(StatusCode::from_u16(status).map(by_success).ok(), Some(shown), "{status}");
        }
    }
}
