//! Connections: what is sent over them, when they are used again, and when they close.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cocoon_engine::upstream::{BaseUrlError, HttpEngine, HttpEngineOptions};
use cocoon_engine::{Engine, EngineError};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::server::Server;
use super::{engine, engine_with, post, read, whole};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A server that tells the requests it gets.
async fn recording() -> (Server, mpsc::UnboundedReceiver<String>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let server = Server::start(move |_, mut peer| {
        let sender = sender.clone();
        async move {
            while let Some(request) = peer.request().await {
                sender.send(request).unwrap();
                peer.write(OK).await;
            }
        }
    })
    .await;
    (server, receiver)
}

#[tokio::test]
async fn a_request_arrives_with_its_end_to_end_headers_and_ours() {
    let (server, mut requests) = recording().await;
    let mut request = post("{\"x\":1}");
    for (name, value) in [
        ("authorization", "Bearer k"),
        ("connection", "close, x-hop"),
        ("x-hop", "1"),
        ("transfer-encoding", "chunked"),
        ("content-length", "999"),
        ("expect", "100-continue"),
        ("accept-encoding", "gzip, br"),
        ("host", "elsewhere"),
    ] {
        request.headers.insert(name, value.parse().unwrap());
    }
    assert!(read(engine(&server).call(request).await.unwrap()).await.1.is_none());
    let sent = requests.recv().await.unwrap();
    let (head, body) = sent.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<String> = head.lines().map(str::to_owned).collect();
    assert_eq!(lines.remove(0), "POST /v1/chat/completions HTTP/1.1");
    lines.sort_unstable();
    let host = format!("host: 127.0.0.1:{}", server.port);
    let expected = [
        "accept-encoding: identity",
        "authorization: Bearer k",
        "content-length: 7",
        "content-type: application/json",
        &host,
    ];
    assert_eq!(lines, expected);
    assert_eq!(body, "{\"x\":1}");
}

#[tokio::test]
async fn the_base_path_is_joined_and_v1_is_not_doubled() {
    let (server, mut requests) = recording().await;
    for (base, path) in
        [("", ""), ("/", ""), ("/v1", ""), ("/v1/", ""), ("/llm", "/llm"), ("/llm/v1", "/llm")]
    {
        let url = format!("{}{base}", server.url());
        whole(&HttpEngine::new(&url, HttpEngineOptions::default()).unwrap()).await;
        let sent = requests.recv().await.unwrap();
        assert!(sent.starts_with(&format!("POST {path}/v1/chat/completions HTTP/1.1\r\n")), "{base}: {sent}");
    }
}

#[test]
fn urls_that_can_be_no_engine_are_refused_with_the_reason() {
    let refusal = |url: &str| HttpEngine::new(url, HttpEngineOptions::default()).err();
    assert_eq!(refusal("https://127.0.0.1"), Some(BaseUrlError::Https));
    assert!(BaseUrlError::Https.to_string().contains("same TEE"));
    for url in ["", "127.0.0.1:8000", "localhost:8000", "/v1", "ftp://x", "http://", "http:// x"] {
        assert_eq!(refusal(url), Some(BaseUrlError::NotHttp), "{url}");
    }
    for url in ["http://u:p@x", "http://x/?q", "http://x/#f"] {
        assert_eq!(refusal(url), Some(BaseUrlError::Extras), "{url}");
    }
    assert_eq!(refusal("http://[::1]:8000/v1"), None);
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let server = Server::saying(OK).await;
    let engine = engine(&server);
    for _ in 0..5 {
        assert_eq!(whole(&engine).await, "ok");
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closed_is_replaced() {
    let server = Server::saying_once(OK).await;
    let engine = engine(&server);
    for round in 1..=20 {
        assert_eq!(whole(&engine).await, "ok");
        assert_eq!(server.connections(), round);
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_connection_kept_too_long_is_replaced() {
    let server = Server::saying(OK).await;
    let engine = engine_with(
        &server,
        HttpEngineOptions { pool_idle_timeout: Duration::from_millis(20), ..Default::default() },
    );
    whole(&engine).await;
    sleep(Duration::from_millis(60)).await;
    whole(&engine).await;
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_request_that_was_sent_is_never_sent_again() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let server = Server::start(move |_, mut peer| {
        let counter = Arc::clone(&counter);
        async move {
            while peer.request().await.is_some() {
                // The first request is answered; at the second the server falls over.
                if counter.fetch_add(1, Ordering::SeqCst) > 0 {
                    return;
                }
                peer.write(OK).await;
            }
        }
    })
    .await;
    let engine = engine(&server);
    whole(&engine).await;
    let error = engine.call(post("{}")).await.err();
    assert!(matches!(error, Some(EngineError::Broken(_))), "{error:?}");
    assert_eq!((seen.load(Ordering::SeqCst), server.connections()), (2, 1));
}

#[tokio::test]
async fn an_answer_that_is_dropped_closes_its_connection() {
    let (sender, mut closed) = mpsc::unbounded_channel();
    let server = Server::start(move |_, mut peer| {
        let sender = sender.clone();
        async move {
            peer.request().await;
            peer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
            peer.closed().await;
            sender.send(()).unwrap();
        }
    })
    .await;
    let engine = engine(&server);
    let mut response = engine.call(post("{}")).await.unwrap();
    assert_eq!(response.body.next().await.unwrap().unwrap(), "hello");
    drop(response);
    timeout(Duration::from_secs(2), closed.recv()).await.expect("the server never saw the cancelled answer");
}

#[tokio::test]
async fn a_call_that_is_dropped_closes_its_connection() {
    let (sender, mut events) = mpsc::unbounded_channel();
    let server = Server::start(move |_, mut peer| {
        let sender = sender.clone();
        async move {
            peer.request().await;
            sender.send("asked").unwrap();
            peer.closed().await;
            sender.send("closed").unwrap();
        }
    })
    .await;
    let engine = engine(&server);
    let call = engine.call(post("{}"));
    tokio::select! {
        _ = call => panic!("there was no answer to get"),
        event = events.recv() => assert_eq!(event, Some("asked")),
    }
    let event =
        timeout(Duration::from_secs(2), events.recv()).await.expect("the server never saw the cancel");
    assert_eq!(event, Some("closed"));
}

#[tokio::test]
async fn a_huge_body_flows_only_as_fast_as_it_is_read() {
    const CHUNK: usize = 64 << 10;
    const CHUNKS: usize = 1024;
    let written = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&written);
    let server = Server::start(move |_, mut peer| {
        let counter = Arc::clone(&counter);
        async move {
            peer.request().await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", CHUNK * CHUNKS);
            peer.write(head.as_bytes()).await;
            for _ in 0..CHUNKS {
                peer.write(&[b'x'; CHUNK]).await;
                counter.fetch_add(CHUNK, Ordering::SeqCst);
            }
            peer.closed().await;
        }
    })
    .await;
    let mut response = engine(&server).call(post("{}")).await.unwrap();
    let mut total = response.body.next().await.unwrap().unwrap().len();
    sleep(Duration::from_millis(300)).await;
    // What lies in the kernel's socket buffers is not ours; of 64 MiB it is a small part.
    let ahead = written.load(Ordering::SeqCst);
    assert!(ahead < 24 << 20, "{ahead} bytes were taken while nobody read");
    let mut largest = 0;
    while let Some(chunk) = response.body.next().await {
        let length = chunk.unwrap().len();
        largest = largest.max(length);
        total += length;
    }
    assert_eq!(total, CHUNK * CHUNKS);
    assert!(largest <= 256 << 10, "one chunk held {largest} bytes");
}

#[tokio::test]
async fn exchanges_over_the_limit_wait_and_then_fail() {
    let server = Server::start(|_, mut peer| async move {
        peer.request().await;
        peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await;
        peer.closed().await;
    })
    .await;
    let options = HttpEngineOptions {
        max_connections: 1,
        connect_timeout: Duration::from_millis(100),
        ..Default::default()
    };
    let engine = engine_with(&server, options);
    let first = engine.call(post("{}")).await.unwrap();
    let error = engine.call(post("{}")).await.err();
    assert!(
        matches!(&error, Some(EngineError::Unreachable(detail)) if detail.contains("in use")),
        "{error:?}"
    );
    drop(first);
    assert!(engine.call(post("{}")).await.is_ok());
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_unreachable() {
    let port = Server::saying(OK).await.port;
    let engine = HttpEngine::new(&format!("http://127.0.0.1:{port}"), HttpEngineOptions::default()).unwrap();
    // The server is gone with the end of the statement above; its port may take a moment to close.
    let mut error = engine.call(post("{}")).await.err();
    for _ in 0..50 {
        if matches!(error, Some(EngineError::Unreachable(_))) {
            break;
        }
        sleep(Duration::from_millis(10)).await;
        error = engine.call(post("{}")).await.err();
    }
    assert!(matches!(error, Some(EngineError::Unreachable(_))), "{error:?}");
    let health = engine.probe().await;
    assert!(!health.ready && health.detail.is_some_and(|detail| detail.contains("unreachable")));
}

/// A server that answers each path with its own bytes.
async fn serving(answers: &'static [(&'static str, &'static [u8])]) -> Server {
    Server::start(move |_, mut peer| async move {
        while let Some(request) = peer.request().await {
            let path = request.split(' ').nth(1).unwrap();
            let answer = answers.iter().find(|(at, _)| *at == path).map(|(_, bytes)| *bytes);
            peer.write(answer.unwrap_or(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_probe_lists_the_models() {
    let server = serving(&[(
        "/v1/models",
        b"HTTP/1.0 200 OK\r\nConnection: close\r\nContent-Length: 63\r\n\r\n\
          {\"object\":\"list\",\"data\":[{\"id\":\"a/b\"},{\"id\":\"c\"},{\"name\":\"d\"}]}",
    )])
    .await;
    let health = engine(&server).probe().await;
    assert!(health.ready, "{health:?}");
    assert_eq!(health.models, ["a/b", "c"]);
}

#[tokio::test]
async fn a_probe_falls_back_to_health() {
    let server = serving(&[("/health", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")]).await;
    let health = engine(&server).probe().await;
    assert!(health.ready && health.models.is_empty(), "{health:?}");
}

#[tokio::test]
async fn a_probe_tells_why_an_engine_is_not_ready() {
    const LOADING: &[u8] = b"HTTP/1.1 503 Loading\r\nContent-Length: 0\r\n\r\n";
    const NO_KEY: &[u8] = b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n";
    let loading = serving(&[("/v1/models", LOADING), ("/health", LOADING)]).await;
    let detail = engine(&loading).probe().await.detail.unwrap();
    assert!(detail.contains("503"), "{detail}");
    let locked = serving(&[("/v1/models", NO_KEY), ("/health", OK)]).await;
    let health = engine(&locked).probe().await;
    assert!(!health.ready && health.detail.unwrap().contains("key"));
}

#[tokio::test]
async fn a_probe_ends_within_its_time() {
    let server = Server::start(|_, mut peer| async move { peer.closed().await }).await;
    let health = timeout(Duration::from_secs(5), engine(&server).probe()).await.expect("the probe hangs");
    assert!(!health.ready && health.detail.is_some());
}
