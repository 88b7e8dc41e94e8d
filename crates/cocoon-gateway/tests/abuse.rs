//! Callers that break HTTP, or stretch it: they are answered or cut off, and others notice nothing.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cocoon_gateway::{AccessConfig, GatewayLimits};
use futures_util::stream;
use http::Method;
use serde_json::json;
use support::{Network, Plan, Scripted, ask, chat, delta, eventually, json_answer, request, respond};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

fn answers() -> Arc<Scripted> {
    Scripted::new(|_| async { Ok(json_answer(200, &chat(11, 4))) })
}

async fn connect(gateway: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect(gateway).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp
}

/// All that comes until the connection ends.
async fn rest(tcp: &mut TcpStream) -> String {
    let mut reply = Vec::new();
    // A connection that is reset shows as a reply that stops.
    let _ = tokio::time::timeout(support::SOON, tcp.read_to_end(&mut reply)).await.expect("no end");
    String::from_utf8_lossy(&reply).into_owned()
}

/// Sends these bytes, which may be refused half-way, and reads what comes.
async fn told(gateway: SocketAddr, bytes: Vec<u8>) -> String {
    let mut tcp = connect(gateway).await;
    let (mut read, mut write) = tcp.split();
    let sending = async {
        let _ = write.write_all(&bytes).await;
    };
    let reading = async {
        let mut reply = Vec::new();
        let mut piece = [0; 4096];
        // The end of a head is enough.
        while !reply.windows(4).any(|window| window == b"\r\n\r\n") {
            match read.read(&mut piece).await {
                Ok(read @ 1..) => reply.extend_from_slice(&piece[..read]),
                _ => break,
            }
        }
        String::from_utf8_lossy(&reply).into_owned()
    };
    tokio::time::timeout(support::SOON, async { tokio::join!(sending, reading).1 }).await.expect("no answer")
}

fn completion(head: &str) -> String {
    let body = ask(&json!({})).to_string();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{head}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_are_too_large_are_431_and_bodies_that_lie_are_refused() {
    let engine = answers();
    let network = Network::with(engine.clone()).await;
    let gateway = network.gateway.http_addr();
    let post = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n";
    let body = ask(&json!({})).to_string();
    let many: String = (0..5000).map(|number| format!("x-{number}: 1\r\n")).collect();
    for (name, bytes, status) in [
        ("a megabyte in one header", format!("{post}x: {}\r\n\r\n", "x".repeat(1 << 20)), "431"),
        ("a megabyte without an end", format!("{post}x: {}", "x".repeat(1 << 20)), "431"),
        ("thousands of headers", format!("{post}{many}\r\n"), "431"),
        ("a long address", format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "x".repeat(100_000)), "4"),
        ("two lengths", format!("{post}content-length: 5\r\ncontent-length: 7\r\n\r\n{body}"), "400"),
        ("a senseless length", format!("{post}content-length: -1\r\n\r\n{body}"), "400"),
        (
            "a chunk with an endless extension",
            format!("{post}transfer-encoding: chunked\r\n\r\n1;{}\r\n", "x".repeat(1 << 20)),
            "400",
        ),
        ("a senseless chunk", format!("{post}transfer-encoding: chunked\r\n\r\nzz\r\n"), "400"),
        ("an absurd chunk", format!("{post}transfer-encoding: chunked\r\n\r\nffffffffffffffff1\r\n"), "400"),
        ("no HTTP", "\x16\x03\x01\x02\x00\x01".repeat(100), ""),
    ] {
        let reply = told(gateway, bytes.into_bytes()).await;
        let wanted = format!("HTTP/1.1 {status}");
        assert!(reply.is_empty() && status.is_empty() || reply.starts_with(&wanted), "{name}: {reply}");
    }
    assert!(engine.asked.lock().unwrap().is_empty(), "nothing of that is a request");
    assert_eq!(network.client().await.post(&ask(&json!({}))).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_refused_by_his_head_can_send_all_and_read_why() {
    const BODY: usize = 24 << 20;
    let network = Network::with(answers()).await;
    let cases = [
        ("POST /v1/nothing", "", 404),
        ("PUT /v1/chat/completions", "", 405),
        ("POST /v1/chat/completions", "origin: https://elsewhere.example\r\n", 403),
    ];
    for (line, header, status) in cases {
        let mut tcp = connect(network.gateway.http_addr()).await;
        let head = format!("{line} HTTP/1.1\r\nhost: localhost\r\n{header}content-length: {BODY}\r\n\r\n");
        tcp.write_all(head.as_bytes()).await.unwrap();
        tcp.write_all(&vec![b' '; BODY]).await.unwrap_or_else(|error| panic!("{line}: {error}"));
        // And its connection is as good as before.
        tcp.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
        let reply = rest(&mut tcp).await;
        assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {reply}");
        assert!(reply.contains("HTTP/1.1 200 OK"), "{line}: {reply}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_refused_takes_no_room_for_its_body() {
    const ROOM: usize = 24 << 20;
    const TOKEN: &str = "the admin token of this test, long enough";
    let limits = GatewayLimits {
        max_held_bytes: ROOM,
        max_conversation_bytes: ROOM,
        max_upload_bytes: ROOM,
        ..GatewayLimits::default()
    };
    let access = |access: &mut AccessConfig| access.admin_token = Some(TOKEN.to_owned().into());
    let network = Network::start(Plan { limits, access, ..Plan::default() }, vec![answers()]).await;
    let mut client = network.client().await;
    let settings = json!({"name": "vectors", "endpoints": ["embeddings"]}).to_string();
    let mut make = request(Method::POST, "/admin/keys", settings.into());
    make.headers_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    let key = client.send(make).await.json()["secret"].as_str().unwrap().to_owned();

    let mut refused = connect(network.gateway.http_addr()).await;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\ncontent-length: {ROOM}\r\n\r\n"
    );
    refused.write_all(head.as_bytes()).await.unwrap();
    // More than the system holds: most of it has been read.
    refused.write_all(&vec![b' '; ROOM - 1024]).await.unwrap();
    let large = ask(&json!({"user": "x".repeat(200_000)}));
    let reply = client.post(&large).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    drop(refused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_announces_much_and_sends_little_takes_little_room() {
    const ROOM: usize = 24 << 20;
    let limits = GatewayLimits {
        max_held_bytes: ROOM,
        max_conversation_bytes: ROOM,
        max_upload_bytes: ROOM,
        ..GatewayLimits::default()
    };
    let network = Network::start(Plan { limits, ..Plan::default() }, vec![answers()]).await;
    let head =
        format!("POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {ROOM}\r\n\r\n");
    let mut silent = Vec::new();
    for _ in 0..2 {
        let mut tcp = connect(network.gateway.http_addr()).await;
        tcp.write_all(head.as_bytes()).await.unwrap();
        tcp.write_all(&vec![b' '; 100_000]).await.unwrap();
        silent.push(tcp);
    }
    let large = ask(&json!({"user": "x".repeat(200_000)}));
    let reply = network.client().await.post(&large).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_shorter_than_it_says_never_reaches_an_engine() {
    let engine = answers();
    let network = Network::with(engine.clone()).await;
    let mut tcp = connect(network.gateway.http_addr()).await;
    tcp.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{")
        .await
        .unwrap();
    tcp.shutdown().await.unwrap();
    let reply = rest(&mut tcp).await;
    assert!(!reply.contains(" 200 "), "{reply}");
    assert!(engine.asked.lock().unwrap().is_empty());
    assert_eq!(network.client().await.post(&ask(&json!({}))).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_one_piece_are_answered_in_order() {
    let network = Network::with(answers()).await;
    let mut tcp = connect(network.gateway.http_addr()).await;
    let two = format!(
        "{}{}",
        completion(""),
        "GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    );
    tcp.write_all(two.as_bytes()).await.unwrap();
    let reply = rest(&mut tcp).await;
    let (first, second) =
        (reply.find("one two three four").unwrap(), reply.find("\"status\":\"ok\"").unwrap());
    assert!(first < second, "{reply}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_sends_requests_without_end_and_reads_nothing_is_worked_for_no_more() {
    const REQUESTS: usize = 2000;
    let engine = Scripted::new(|_| async {
        let mut answer = chat(11, 4);
        answer["choices"][0]["message"]["content"] = json!("x".repeat(128 * 1024));
        Ok(json_answer(200, &answer))
    });
    let network = Network::with(engine.clone()).await;
    let mut tcp = connect(network.gateway.http_addr()).await;
    let (mut reading, mut writing) = tcp.split();
    let flood = completion("").repeat(REQUESTS);
    let flooding = async {
        // Nobody takes all of it: the system's buffers fill up.
        let _ = writing.write_all(flood.as_bytes()).await;
        std::future::pending::<()>().await;
    };
    let others = async {
        let (mut before, mut unchanged) = (0, 0);
        loop {
            for _ in 0..20 {
                assert_eq!(network.client().await.get("/health").await.status, 200);
            }
            let asked = engine.asked.lock().unwrap().len();
            unchanged = if asked > 0 && asked == before { unchanged + 1 } else { 0 };
            if unchanged == 10 {
                return asked;
            }
            before = asked;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let asked = tokio::select! {
        () = flooding => unreachable!(),
        asked = tokio::time::timeout(support::SOON, others) => asked.unwrap(),
    };
    // As many answers as the system's buffers take, of 256 MiB.
    assert!(asked <= REQUESTS / 10, "{asked} requests were worked on for a caller that does not read");
    assert!(reading.read(&mut [0; 1024]).await.unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_closes_only_its_sending_side_gets_its_answer() {
    for stream in [false, true] {
        let go = Arc::new(Notify::new());
        let gate = Arc::clone(&go);
        let engine = Scripted::new(move |_| {
            let gate = Arc::clone(&gate);
            async move {
                gate.notified().await;
                Ok(match stream {
                    true => support::sse(vec![
                        delta("word"),
                        support::finish(),
                        support::usage(9, 1),
                        support::done(),
                    ]),
                    false => json_answer(200, &chat(11, 4)),
                })
            }
        });
        let network = Network::with(engine.clone()).await;
        let mut tcp = connect(network.gateway.http_addr()).await;
        let body = ask(&json!({"stream": stream})).to_string();
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n";
        tcp.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes())
            .await
            .unwrap();
        tcp.shutdown().await.unwrap();
        eventually("the call", || (!engine.asked.lock().unwrap().is_empty()).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        go.notify_one();
        let reply = rest(&mut tcp).await;
        let end = if stream { "[DONE]" } else { "one two three four" };
        assert!(reply.contains("HTTP/1.1 200 OK") && reply.contains(end), "{reply}");
        assert_eq!(engine.cancelled.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_before_its_answer_begins_stops_the_engine() {
    let engine = Scripted::new(|_| std::future::pending());
    let network = Network::with(engine.clone()).await;
    let mut tcp = connect(network.gateway.http_addr()).await;
    tcp.write_all(completion("").as_bytes()).await.unwrap();
    eventually("the call", || (!engine.asked.lock().unwrap().is_empty()).then_some(())).await;
    let began = Instant::now();
    drop(tcp);
    eventually("the engine to be stopped", || (engine.cancelled.load(Ordering::SeqCst) == 1).then_some(()))
        .await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_stops_reading_is_cut_off_and_its_engine_stopped() {
    let engine = Scripted::new(|_| async {
        let piece = delta(&"x".repeat(16 * 1024));
        Ok(respond(200, "text/event-stream", stream::iter(std::iter::repeat_with(move || Ok(piece.clone())))))
    });
    let limits = GatewayLimits { stall_timeout: Duration::from_millis(500), ..GatewayLimits::default() };
    let network = Network::start(Plan { limits, ..Plan::default() }, vec![engine.clone()]).await;
    let mut tcp = connect(network.gateway.http_addr()).await;
    let body = ask(&json!({"stream": true, "timeout": 300})).to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n";
    tcp.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    assert_eq!(network.client().await.get("/health").await.status, 200);
    eventually("the engine to be stopped", || (engine.cancelled.load(Ordering::SeqCst) == 1).then_some(()))
        .await;
}
