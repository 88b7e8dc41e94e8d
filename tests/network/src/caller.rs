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
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    exchange(server, request.as_bytes()).await
}

/// Asks for a completion.
pub async fn post(server: SocketAddr, body: &serde_json::Value) -> Reply {
    exchange(server, completion(body).as_bytes()).await
}

/// Sends any request with a body; `headers` are whole lines.
pub async fn send(server: SocketAddr, path: &str, headers: &[&str], body: &[u8]) -> Reply {
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{lines}\r\n"
    );
    exchange(server, &[head.as_bytes(), body].concat()).await
}

/// Asks for anything, with a token; an empty body where `body` is null.
pub async fn call(
    server: SocketAddr,
    method: &str,
    path: &str,
    token: &str,
    body: &serde_json::Value,
) -> Reply {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    exchange(server, request.as_bytes()).await
}

fn completion(body: &serde_json::Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// A reply that is read as it comes.
pub struct Streaming {
    tcp: TcpStream,
    reply: Vec<u8>,
}

impl Streaming {
    /// Asks for a completion.
    pub async fn post(server: SocketAddr, body: &serde_json::Value) -> Self {
        let mut tcp = TcpStream::connect(server).await.unwrap();
        tcp.write_all(completion(body).as_bytes()).await.unwrap();
        Self { tcp, reply: Vec::new() }
    }

    /// Reads until this has come.
    ///
    /// # Panics
    /// The reply ends before.
    pub async fn until(&mut self, text: &str) {
        within("a piece of the reply", async {
            while !String::from_utf8_lossy(&self.reply).contains(text) {
                let read = self.tcp.read_buf(&mut self.reply).await.unwrap();
                assert!(read > 0, "{text:?} never came: {}", String::from_utf8_lossy(&self.reply));
            }
        })
        .await;
    }

    /// The head, as far as it has come.
    pub fn head(&self) -> String {
        read(&self.reply).head
    }

    /// Reads to the end.
    pub async fn finish(mut self) -> Reply {
        // A connection that breaks shows as a reply that is none.
        let _ = within("the reply", self.tcp.read_to_end(&mut self.reply)).await;
        read(&self.reply)
    }
}

async fn exchange(server: SocketAddr, request: &[u8]) -> Reply {
    let mut reply = Vec::new();
    within("the reply", async {
        let mut tcp = TcpStream::connect(server).await.unwrap();
        // One that is refused early may find nobody who reads on.
        let _ = tcp.write_all(request).await;
        // A connection that breaks shows as a reply that is none.
        let _ = tcp.read_to_end(&mut reply).await;
    })
    .await;
    read(&reply)
}

fn read(reply: &[u8]) -> Reply {
    let text = String::from_utf8_lossy(reply);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    Reply { status, head: head.to_lowercase(), body: body.to_owned() }
}
