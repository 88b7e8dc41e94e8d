//! Forms of answers: each arrives whole and unchanged, or is an error.

use std::time::Duration;

use cocoon_engine::upstream::HttpEngineOptions;
use cocoon_engine::{Engine, EngineError};
use tokio::time::sleep;

use super::server::Server;
use super::{engine, engine_with, post, read, whole};

#[tokio::test]
async fn lower_case_headers_are_understood_and_hop_by_hop_ones_stay_behind() {
    let server = Server::saying(
        b"HTTP/1.1 200 ok\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: keep-alive, x-hop\r\n\
          keep-alive: timeout=5\r\nx-hop: 1\r\nx-request-id: 7\r\nset-cookie: a\r\nset-cookie: b\r\n\r\n{}",
    )
    .await;
    let response = engine(&server).call(post("{}")).await.unwrap();
    assert_eq!(response.status, 200);
    let mut names: Vec<&str> = response.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-type", "set-cookie", "x-request-id"]);
    assert_eq!(response.headers.get_all("set-cookie").iter().count(), 2);
    assert_eq!(read(response).await.0, "{}");
}

#[tokio::test]
async fn chunks_with_extensions_and_trailers_are_joined() {
    let server = Server::saying(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
          5;name=value\r\nhello\r\n6 ; q=\"x\"\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n",
    )
    .await;
    let engine = engine(&server);
    assert_eq!(whole(&engine).await, "hello world");
    assert_eq!(whole(&engine).await, "hello world");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_is_read_to_its_end() {
    let server =
        Server::saying_once(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").await;
    let engine = engine(&server);
    assert_eq!(whole(&engine).await, "data: 1\n\n");
    assert_eq!(whole(&engine).await, "data: 1\n\n");
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn each_chunk_comes_as_soon_as_the_server_sends_it() {
    use futures_util::StreamExt;
    let server = Server::start(|_, mut peer| async move {
        peer.request().await;
        peer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await;
        // Nothing more: the first chunk must not wait for a second one.
        peer.closed().await;
    })
    .await;
    let mut response = engine(&server).call(post("{}")).await.unwrap();
    let chunk = tokio::time::timeout(Duration::from_secs(5), response.body.next()).await;
    assert_eq!(chunk.expect("the chunk was held back").unwrap().unwrap(), "one");
}

#[tokio::test]
async fn a_slow_first_byte_is_waited_for_as_long_as_allowed() {
    let server = Server::start(|_, mut peer| async move {
        peer.request().await;
        sleep(Duration::from_millis(400)).await;
        peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate").await;
    })
    .await;
    assert_eq!(whole(&engine(&server)).await, "late");
    let options = HttpEngineOptions { head_timeout: Some(Duration::from_millis(50)), ..Default::default() };
    let error = engine_with(&server, options).call(post("{}")).await.err();
    assert!(matches!(error, Some(EngineError::Broken(_))), "{error:?}");
}

#[tokio::test]
async fn a_body_that_falls_silent_is_an_error() {
    let server = Server::start(|_, mut peer| async move {
        peer.request().await;
        peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
        peer.closed().await;
    })
    .await;
    let options = HttpEngineOptions { idle_body_timeout: Duration::from_millis(100), ..Default::default() };
    let (body, error) = read(engine_with(&server, options).call(post("{}")).await.unwrap()).await;
    assert_eq!(body, "half");
    assert!(matches!(&error, Some(EngineError::Broken(detail)) if detail.contains("silent")), "{error:?}");
}

#[tokio::test]
async fn a_broken_answer_is_never_a_short_one() {
    let broken: [&'static [u8]; 5] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n50\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\nzz\r\n",
    ];
    for answer in broken {
        let server = Server::saying_once(answer).await;
        let (body, error) = read(engine(&server).call(post("{}")).await.unwrap()).await;
        assert_eq!(body, "short");
        assert!(
            matches!(error, Some(EngineError::Broken(_))),
            "{error:?} after {:?}",
            String::from_utf8_lossy(answer)
        );
    }
}

#[tokio::test]
async fn what_is_no_answer_is_an_error() {
    let nonsense: [&'static [u8]; 4] = [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ];
    for answer in nonsense {
        let server = Server::saying_once(answer).await;
        let error = engine(&server).call(post("{}")).await.err();
        assert!(
            matches!(error, Some(EngineError::Broken(_))),
            "{error:?} for {:?}",
            String::from_utf8_lossy(answer)
        );
    }
}

#[tokio::test]
async fn a_head_over_the_limit_is_refused() {
    let server = Server::start(|_, mut peer| async move {
        peer.request().await;
        peer.write(b"HTTP/1.1 200 OK\r\nX-Long: ").await;
        while peer.write(&[b'x'; 1024]).await {}
    })
    .await;
    let error = engine(&server).call(post("{}")).await.err();
    assert!(matches!(error, Some(EngineError::TooLarge(_))), "{error:?}");
}

#[tokio::test]
async fn informational_answers_are_passed_over() {
    let server = Server::saying(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n\
          HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    assert_eq!(whole(&engine(&server)).await, "ok");
}

#[tokio::test]
async fn an_error_of_the_engine_passes_with_its_body() {
    let server = Server::saying(
        b"HTTP/1.1 500 Oops\r\nContent-Type: application/json\r\nContent-Length: 33\r\n\r\n\
          {\"error\":{\"message\":\"no memory\"}}",
    )
    .await;
    let response = engine(&server).call(post("{}")).await.unwrap();
    assert_eq!(response.status, 500);
    assert_eq!(response.headers["content-type"], "application/json");
    assert_eq!(read(response).await.0, r#"{"error":{"message":"no memory"}}"#);
}

#[tokio::test]
async fn a_compressed_answer_is_passed_on_as_it_is() {
    let server = Server::saying(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
    )
    .await;
    let response = engine(&server).call(post("{}")).await.unwrap();
    assert_eq!(response.headers["content-encoding"], "gzip");
    assert_eq!(read(response).await.0, &b"\x1f\x8b\x08\x00"[..]);
}

#[tokio::test]
async fn a_status_that_http_does_not_have_is_an_error() {
    for (status, good) in [("599", true), ("600", false), ("999", false), ("099", false)] {
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\n{{}}");
        let server = Server::saying(answer.leak().as_bytes()).await;
        let called = engine(&server).call(post("{}")).await;
        assert_eq!(called.is_ok(), good, "{status}");
    }
}
