//! Callers that ask without a pause and look at every answer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::fleet::{MODEL, exchange};

/// What the callers have seen.
#[derive(Default)]
pub(crate) struct Seen {
    /// Complete answers.
    pub(crate) answers: AtomicU64,
    /// Errors, refusals included.
    pub(crate) errors: AtomicU64,
    /// Connections that broke, or found nobody.
    pub(crate) broken: AtomicU64,
    /// Tokens of the complete answers.
    pub(crate) tokens: AtomicU64,
    /// Tokens of the dearest one.
    pub(crate) dearest: AtomicU64,
    /// What was neither: there must be none.
    pub(crate) wrong: Mutex<Vec<String>>,
}

/// Callers under way.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    pub(crate) seen: Arc<Seen>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(gateway: &str, callers: u32) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
        let caller = |number| {
            let (gateway, stop, seen) = (gateway.to_owned(), Arc::clone(&stop), Arc::clone(&seen));
            std::thread::spawn(move || {
                for turn in number.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    call(&gateway, turn, &seen);
                }
            })
        };
        let threads = (0..callers).map(caller).collect();
        Self { stop, seen, threads }
    }

    pub(crate) fn stop(self) -> Arc<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.seen
    }
}

/// A question; every second one wants its answer bit by bit.
pub(crate) fn question(turn: u32, stream: bool) -> Value {
    let text = format!("Summarise in 1 sentence: The sea was calm. Boat {turn} was blue. Tom ate.");
    let mut question =
        json!({"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 40});
    if stream {
        question["stream"] = json!(true);
        question["stream_options"] = json!({"include_usage": true});
    }
    question
}

fn call(gateway: &str, turn: u32, seen: &Seen) {
    let stream = turn % 2 == 1;
    let add = |count: &AtomicU64, more| {
        count.fetch_add(more, Ordering::Relaxed);
    };
    match exchange(gateway, "POST", "/v1/chat/completions", &question(turn, stream).to_string()) {
        None => {
            add(&seen.broken, 1);
            pause(50);
        }
        Some((200, body)) => match complete(&body, stream) {
            Some(tokens) => {
                add(&seen.answers, 1);
                add(&seen.tokens, tokens);
                seen.dearest.fetch_max(tokens, Ordering::Relaxed);
            }
            None if is_error(&body, stream) => add(&seen.errors, 1),
            None => seen.wrong.lock().unwrap().push(format!("200 {body}")),
        },
        Some((status, body)) => {
            if serde_json::from_str::<Value>(&body).is_ok_and(|body| body["error"]["message"].is_string()) {
                add(&seen.errors, 1);
            } else {
                seen.wrong.lock().unwrap().push(format!("{status} {body}"));
            }
            pause(20);
        }
    }
}

/// What a complete answer cost.
fn complete(body: &str, stream: bool) -> Option<u64> {
    if !stream {
        let body: Value = serde_json::from_str(body).ok()?;
        body["choices"][0]["message"]["content"].as_str()?;
        return body["usage"]["total_tokens"].as_u64();
    }
    let body = body.trim_end().strip_suffix("data: [DONE]")?;
    let events = body.lines().filter_map(|line| line.strip_prefix("data: "));
    let events: Option<Vec<Value>> = events.map(|event| serde_json::from_str(event).ok()).collect();
    events?.iter().find_map(|event| event["usage"]["total_tokens"].as_u64())
}

/// Whether an answer that began well says that it broke off.
fn is_error(body: &str, stream: bool) -> bool {
    let named =
        |text: &str| serde_json::from_str::<Value>(text).is_ok_and(|value| value["error"].is_object());
    if stream { body.lines().filter_map(|line| line.strip_prefix("data: ")).any(named) } else { named(body) }
}

/// A caller that is refused does not hammer.
#[allow(clippy::disallowed_methods)]
fn pause(milliseconds: u64) {
    std::thread::sleep(std::time::Duration::from_millis(milliseconds));
}
