//! A caller of a gateway who knows only HTTP/1.1, one connection per request.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::within;

/// What came back; a status of 0 where that was no HTTP.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// Asks for a page.
pub async fn get(server: SocketAddr, path: &str) -> Reply {
    exchange(server, &format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")).await
}

/// Asks for a completion.
pub async fn post(server: SocketAddr, body: &serde_json::Value) -> Reply {
    let body = body.to_string();
    let length = body.len();
    exchange(
        server,
        &format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        ),
    )
    .await
}

async fn exchange(server: SocketAddr, request: &str) -> Reply {
    let mut reply = Vec::new();
    within("the reply", async {
        let mut tcp = TcpStream::connect(server).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        // A connection that breaks shows as a reply that is none.
        let _ = tcp.read_to_end(&mut reply).await;
    })
    .await;
    let text = String::from_utf8_lossy(&reply);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    Reply { status, head: head.to_lowercase(), body: body.to_owned() }
}
