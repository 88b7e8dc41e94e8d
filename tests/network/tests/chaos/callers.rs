//! Callers without pause, and what they got.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cocoon_network_tests::MODEL;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::engine::{TOKENS, Work};

/// The deadline of each request, and how much later its end may come.
const TIMEOUT: Duration = Duration::from_secs(12);
const GRACE: Duration = Duration::from_secs(2);

/// What all callers got.
#[derive(Default)]
pub struct Seen {
    pub complete: AtomicU64,
    /// Streams that broke after their first byte, and said so.
    pub broken: AtomicU64,
    /// What these were told that they cost, in adjusted tokens.
    pub broken_tokens: AtomicU64,
    /// Errors before the first byte, in words.
    pub failed: Mutex<Vec<String>>,
    /// What no request may meet.
    pub wrong: Mutex<Vec<String>>,
    /// The longest that one took.
    pub longest: Mutex<Duration>,
    stop: AtomicBool,
}

/// Callers at work.
pub struct Callers {
    pub seen: Arc<Seen>,
    tasks: JoinSet<()>,
}

impl Callers {
    /// So many, each with one request at a time.
    pub fn start(gateway: SocketAddr, count: usize, work: &Arc<Work>) -> Self {
        let seen = Arc::new(Seen::default());
        let mut tasks = JoinSet::new();
        for caller in 0..count {
            let (seen, work) = (Arc::clone(&seen), Arc::clone(work));
            tasks.spawn(async move {
                let mut number = 0_u64;
                while !seen.stop.load(Ordering::Relaxed) {
                    let name = format!("{caller}-{number}");
                    one(gateway, &name, number.is_multiple_of(2), &seen, &work).await;
                    number += 1;
                }
            });
        }
        Self { seen, tasks }
    }

    /// Waits for the last answers.
    pub async fn stop(self) -> Arc<Seen> {
        self.seen.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
        self.seen
    }
}

async fn one(gateway: SocketAddr, name: &str, streamed: bool, seen: &Seen, work: &Work) {
    let body = json!({
        "model": MODEL, "messages": [{"role": "user", "content": "Hello?"}], "user": name, "stream": streamed,
        "timeout": TIMEOUT.as_secs(),
    });
    let began = Instant::now();
    let reply = tokio::time::timeout(TIMEOUT + GRACE, exchange(gateway, &body.to_string())).await;
    let took = began.elapsed();
    {
        let mut longest = seen.longest.lock().unwrap();
        *longest = longest.max(took);
    }
    let wrong = |what: &str, text: &str| seen.wrong.lock().unwrap().push(format!("{name}: {what}: {text}"));
    let Ok(reply) = reply else { return wrong("no end within its deadline", "") };
    let Some((head, text)) = reply.split_once("\r\n\r\n") else { return wrong("no HTTP", &reply) };
    let status = head.split(' ').nth(1).unwrap_or_default();
    let whole = match status {
        "200" if streamed => {
            text.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n") || text.contains("data: [DONE]\n\n")
        }
        "200" => serde_json::from_str::<Value>(text).is_ok_and(|body| body["choices"].is_array()),
        _ => false,
    };
    if whole {
        if !work.has_finished(name) {
            wrong("complete, but no engine has finished it", text);
        }
        let billed = format!("\"total\":{TOKENS}}}");
        if !text.contains(&billed) || !text.contains("\"disputed\":false") {
            wrong("a wrong bill", text);
        }
        seen.complete.fetch_add(1, Ordering::Relaxed);
    } else if status == "200" && streamed && text.contains("data: {\"error\":") {
        seen.broken.fetch_add(1, Ordering::Relaxed);
        let Some(told) = bill_of_broken(text) else { return wrong("a broken stream without a bill", text) };
        if told > TOKENS {
            wrong("a broken stream at the price of a whole one, or more", text);
        }
        seen.broken_tokens.fetch_add(told, Ordering::Relaxed);
    } else if status != "200" && text.contains("\"error\":{\"message\":") {
        seen.failed.lock().unwrap().push(format!("{name} after {took:?}: {status} {text}"));
    } else {
        wrong("neither an answer nor an error", &reply);
    }
}

/// The bill of a stream that broke, in adjusted tokens.
fn bill_of_broken(text: &str) -> Option<u64> {
    let comment = text.lines().find_map(|line| line.strip_prefix(": cocoon "))?;
    let bill: Value = serde_json::from_str(comment).ok()?;
    bill["tokens"]["total"].as_u64()
}

async fn exchange(gateway: SocketAddr, body: &str) -> String {
    let mut reply = Vec::new();
    let Ok(mut tcp) = TcpStream::connect(gateway).await else { return "cannot connect".to_owned() };
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let _ = tcp.write_all((head + body).as_bytes()).await;
    let _ = tcp.read_to_end(&mut reply).await;
    String::from_utf8_lossy(&reply).into_owned()
}
