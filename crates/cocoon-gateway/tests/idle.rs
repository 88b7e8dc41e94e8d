//! Thousands of idle connections, in a process in which nothing else takes memory.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{Network, Scripted, ask, chat, json_answer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// A figure of this process, from a file under `/proc/self`.
fn figure(file: &str, name: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap_or(usize::MAX)
}

/// Both ends of each connection are in this process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_idle_connections_cost_little_and_hinder_nobody() {
    const WANTED: usize = 10_000;
    /// Both ends, and whatever the allocator keeps.
    const MAX_BYTES_EACH: usize = 32 * 1024;
    let engine = Scripted::new(|_| async { Ok(json_answer(200, &chat(11, 4))) });
    let network = Network::with(engine).await;
    let gateway = network.gateway.http_addr();
    let count = WANTED.min(figure("limits", "Max open files").saturating_sub(500) / 2);
    let mut client = network.client().await;
    assert_eq!(client.post(&ask(&json!({}))).await.status, 200);
    let before = figure("status", "VmRSS:");
    let mut idle = Vec::with_capacity(count);
    for number in 0..count {
        let mut tcp = TcpStream::connect(gateway).await.unwrap();
        // Some have spoken before, some have begun to speak, some have said nothing.
        match number % 3 {
            0 => tcp.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap(),
            1 => tcp.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nho").await.unwrap(),
            _ => {}
        }
        idle.push(tcp);
    }
    let metric = |text: &str| -> usize {
        let line = text.lines().find_map(|line| line.strip_prefix("cocoon_gateway_connections "));
        line.unwrap().trim().parse().unwrap()
    };
    while metric(&client.get("/metrics").await.text()) < count {
        tokio::task::yield_now().await;
    }
    let each = figure("status", "VmRSS:").saturating_sub(before) * 1024 / count;
    #[allow(clippy::print_stderr)]
    let told = || eprintln!("{count} idle connections, {each} bytes each");
    told();
    assert!(each <= MAX_BYTES_EACH, "{each} bytes for each of {count} idle connections");
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(client.post(&ask(&json!({}))).await.status, 200);
        assert_eq!(network.client().await.post(&ask(&json!({}))).await.status, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}
