//! An engine that takes its time, now and then fails, and remembers what it has finished.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cocoon_engine::{Engine, EngineError, EngineHealth, EngineRequest, EngineResponse};
use cocoon_network_tests::{chat_answer, delta, usage_event};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use rand::Rng as _;

/// Adjusted tokens of every whole answer, at the coefficient of all workers.
pub const TOKENS: u64 = 15;

/// What all engines did.
#[derive(Default)]
pub struct Work {
    /// Calls begun and calls answered in full, by the name of the request.
    calls: Mutex<HashMap<String, (u64, u64)>>,
}

impl Work {
    fn begun(&self, name: &str) {
        self.calls.lock().unwrap().entry(name.to_owned()).or_default().0 += 1;
    }

    fn finished(&self, name: &str) {
        self.calls.lock().unwrap().entry(name.to_owned()).or_default().1 += 1;
    }

    /// Whether some engine answered this request in full.
    pub fn has_finished(&self, name: &str) -> bool {
        self.calls.lock().unwrap().get(name).is_some_and(|(_, finished)| *finished > 0)
    }

    /// Calls begun and finished, all requests together.
    pub fn sums(&self) -> (u64, u64) {
        let calls = self.calls.lock().unwrap();
        calls.values().fold((0, 0), |(begun, finished), call| (begun + call.0, finished + call.1))
    }
}

/// One worker's engine.
pub struct Moody {
    pub work: Arc<Work>,
    /// Percent of the calls that fail before the first byte, and after it.
    pub fails: u32,
    pub breaks: u32,
}

impl Engine for Moody {
    fn call(&self, request: EngineRequest) -> BoxFuture<'_, Result<EngineResponse, EngineError>> {
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        let name = body["user"].as_str().unwrap_or_default().to_owned();
        let streamed = body["stream"] == true;
        let work = Arc::clone(&self.work);
        let (fails, breaks, think, pieces) = {
            let mut rng = rand::rng();
            let percent = |rng: &mut rand::rngs::ThreadRng| rng.random_range(0..100);
            let (fails, breaks) = (percent(&mut rng) < self.fails, percent(&mut rng) < self.breaks);
            (fails, breaks, rng.random_range(0..30), rng.random_range(1..8_u64))
        };
        Box::pin(async move {
            work.begun(&name);
            tokio::time::sleep(Duration::from_millis(think)).await;
            if fails {
                return Err(EngineError::Broken("as engines do".into()));
            }
            let (kind, parts) = match streamed {
                true => {
                    let words = (0..pieces).map(|number| delta(&format!("word {number} ")));
                    ("text/event-stream", words.chain([usage_event(10, 5)]).collect::<Vec<_>>())
                }
                false => ("application/json", vec![chat_answer(&name)]),
            };
            let last = parts.len() - 1;
            let body =
                futures_util::stream::iter(parts.into_iter().enumerate()).then(move |(number, part)| {
                    let (work, name) = (Arc::clone(&work), name.clone());
                    async move {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                        if number == last {
                            if breaks {
                                return Err(EngineError::Broken("as engines do".into()));
                            }
                            work.finished(&name);
                        }
                        Ok::<Bytes, _>(part)
                    }
                });
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            Ok(EngineResponse { status: StatusCode::OK, headers, body: body.boxed() })
        })
    }

    fn probe(&self) -> BoxFuture<'_, EngineHealth> {
        Box::pin(async { EngineHealth { ready: true, models: Vec::new(), detail: None } })
    }
}
