//! Request bodies that come bit by bit: how they are framed, who sets their pace, and how they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cocoon_engine::{BodyBroken, BodyStream, Engine, EngineRequest};
use futures_util::{StreamExt, stream};
use http::StatusCode;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use super::server::Server;
use super::{engine, post, read};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn streaming(
    first: &'static str,
    rest: Vec<Result<&'static str, BodyBroken>>,
    length: Option<u64>,
) -> EngineRequest {
    let rest = rest.into_iter().map(|item| item.map(|text| Bytes::from_static(text.as_bytes())));
    EngineRequest { rest: Some(BodyStream::new(stream::iter(rest), length)), ..post(first) }
}

/// A server that tells what comes on each of its connections until it ends, after so many bytes of it answering.
async fn listening(answer_after: usize) -> (Server, mpsc::UnboundedReceiver<String>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let server = Server::start(move |_, mut peer| {
        let sender = sender.clone();
        async move {
            let mut heard = peer.read(answer_after).await;
            peer.write(OK).await;
            heard.extend(peer.read(1 << 20).await);
            sender.send(String::from_utf8(heard).unwrap()).unwrap();
        }
    })
    .await;
    (server, receiver)
}

#[tokio::test]
async fn a_body_of_known_length_says_so() {
    let (server, mut heard) = listening(1).await;
    {
        let engine = engine(&server);
        let request = streaming("ab", vec![Ok("cd"), Ok(""), Ok("e")], Some(3));
        assert!(read(engine.call(request).await.unwrap()).await.1.is_none());
    }
    let heard = heard.recv().await.unwrap();
    assert!(heard.contains("content-length: 5\r\n") && heard.ends_with("\r\n\r\nabcde"), "{heard}");
}

#[tokio::test]
async fn a_body_of_unknown_length_goes_in_chunks() {
    let (server, mut heard) = listening(1).await;
    {
        let engine = engine(&server);
        let request = streaming("ab", vec![Ok("cd")], None);
        assert!(read(engine.call(request).await.unwrap()).await.1.is_none());
    }
    let heard = heard.recv().await.unwrap();
    assert!(heard.contains("transfer-encoding: chunked\r\n"), "{heard}");
    assert!(heard.ends_with("2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"), "{heard}");
}

#[tokio::test]
async fn a_body_that_breaks_off_or_lies_about_its_length_never_looks_whole() {
    for (rest, length) in [
        (vec![Ok("cd"), Err(BodyBroken)], Some(10)),
        (vec![Ok("cd"), Err(BodyBroken)], None),
        (vec![Ok("cd")], Some(10)),
        (vec![Ok("cdefg")], Some(3)),
    ] {
        let (server, mut heard) = listening(1 << 20).await;
        let called = engine(&server).call(streaming("ab", rest.clone(), length)).await;
        assert!(called.is_err(), "{rest:?} of {length:?} passes");
        let heard = heard.recv().await.unwrap();
        let whole = match length {
            Some(length) => {
                heard.split_once("\r\n\r\n").is_some_and(|(_, body)| body.len() as u64 == length + 2)
            }
            None => heard.ends_with("0\r\n\r\n"),
        };
        assert!(!whole, "{heard}");
    }
}

#[tokio::test]
async fn a_server_may_answer_before_the_body_is_there_and_its_connection_is_not_used_again() {
    const REFUSAL: &[u8] = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nmuch";
    let server = Server::start(|_, mut peer| async move {
        peer.read(64).await;
        peer.write(REFUSAL).await;
        peer.closed().await;
    })
    .await;
    let engine = engine(&server);
    for _ in 0..2 {
        let endless = stream::iter([Ok(Bytes::from_static(b"x"))]).chain(stream::pending());
        let request = EngineRequest { rest: Some(BodyStream::new(endless, Some(100))), ..post("{") };
        let response = engine.call(request).await.unwrap();
        assert_eq!(response.status, StatusCode::PAYLOAD_TOO_LARGE);
        let (body, error) = read(response).await;
        assert!(error.is_none() && body.as_ref() == b"much", "{error:?}");
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_slow_server_holds_its_body_back() {
    let go_on = Arc::new(Notify::new());
    let waits = Arc::clone(&go_on);
    let server = Server::start(move |_, mut peer| {
        let waits = Arc::clone(&waits);
        async move {
            waits.notified().await;
            peer.read(200 << 20).await;
        }
    })
    .await;
    let pulled = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&pulled);
    let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
    let rest = stream::repeat_with(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(chunk.clone())
    });
    let length = 1600 * 64 * 1024;
    let request = EngineRequest { rest: Some(BodyStream::new(rest.take(1600), Some(length))), ..post("{") };
    let engine = engine(&server);
    let mut calling = engine.call(request);
    // It goes on as far as the system's buffers reach, then no further.
    let mut seen = usize::MAX;
    while pulled.load(Ordering::SeqCst) != seen {
        seen = pulled.load(Ordering::SeqCst);
        assert!(timeout(Duration::from_millis(300), &mut calling).await.is_err(), "nobody answered");
    }
    assert!(seen > 0 && seen < 400, "{seen} chunks were read for a server that reads nothing");
    go_on.notify_one();
    while pulled.load(Ordering::SeqCst) < 1600 {
        assert!(timeout(Duration::from_millis(20), &mut calling).await.is_err(), "nobody answered");
    }
}

/// Says when it is dropped.
struct Told(mpsc::UnboundedSender<()>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tokio::test]
async fn giving_the_call_up_lets_go_of_the_body_and_closes_the_connection() {
    let (closed, mut ended) = mpsc::unbounded_channel();
    let server = Server::start(move |_, mut peer| {
        let closed = closed.clone();
        async move {
            peer.closed().await;
            closed.send(()).unwrap();
        }
    })
    .await;
    let (dropped, mut let_go) = mpsc::unbounded_channel();
    let told = Told(dropped);
    let rest = stream::unfold(told, |told| async move {
        std::future::pending::<()>().await;
        Some((Ok(Bytes::new()), told))
    });
    let request = EngineRequest { rest: Some(BodyStream::new(rest, Some(100))), ..post("{") };
    let engine = engine(&server);
    assert!(timeout(Duration::from_millis(100), engine.call(request)).await.is_err());
    let_go.recv().await.unwrap();
    ended.recv().await.unwrap();
}
