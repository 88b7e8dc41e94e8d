//! A server of toncenter's API that tells the truth, or what a test wants it to.

#![allow(unreachable_pub, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What the server answers instead of the truth.
pub enum Reply {
    /// What the chain answers.
    Truth,
    /// What the chain answers to other parameters.
    TruthAbout(Value),
    /// This result.
    Result(Value),
    /// This status, header `Retry-After` and error.
    Error(u16, Option<u64>, &'static str),
    /// These bytes.
    Bytes(Vec<u8>),
    /// Bytes without end.
    Endless,
    /// Nothing, for ever.
    Stall,
}

pub type Behaviour = Box<dyn FnMut(&str, &Value, &HeaderMap) -> Reply + Send>;

pub struct Liar {
    behaviour: Mutex<Behaviour>,
    truth: SocketAddr,
    asked: Mutex<Vec<(String, Value)>>,
}

impl Liar {
    pub async fn start(truth: SocketAddr) -> (Arc<Self>, SocketAddr) {
        let behaviour: Behaviour = Box::new(|_, _, _| Reply::Truth);
        let liar = Arc::new(Self { behaviour: Mutex::new(behaviour), truth, asked: Mutex::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = axum::Router::new().fallback(answer).with_state(Arc::clone(&liar));
        tokio::spawn(axum::serve(listener, router).into_future());
        (liar, address)
    }

    pub fn behave(&self, behaviour: impl FnMut(&str, &Value, &HeaderMap) -> Reply + Send + 'static) {
        *self.behaviour.lock().unwrap() = Box::new(behaviour);
        self.asked.lock().unwrap().clear();
    }

    /// How often `method` was called since the behaviour changed.
    pub fn asked(&self, method: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|(asked, _)| asked == method).count()
    }

    async fn truth(&self, method: &str, params: &Value) -> Vec<u8> {
        let call = json!({ "id": "1", "jsonrpc": "2.0", "method": method, "params": params }).to_string();
        let mut stream = TcpStream::connect(self.truth).await.unwrap();
        let head = "POST /api/v2/jsonRPC HTTP/1.1\r\nhost: x\r\nconnection: close";
        let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{call}", call.len());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let body = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap() + 4;
        answer.split_off(body)
    }

    /// The true result.
    pub async fn result(&self, method: &str, params: Value) -> Value {
        let answer: Value = serde_json::from_slice(&self.truth(method, &params).await).unwrap();
        answer["result"].clone()
    }
}

async fn answer(State(liar): State<Arc<Liar>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let call: Value = serde_json::from_slice(&body).unwrap();
    let (method, params) = (call["method"].as_str().unwrap(), &call["params"]);
    liar.asked.lock().unwrap().push((method.to_owned(), params.clone()));
    let reply = (liar.behaviour.lock().unwrap())(method, params, &headers);
    let mut response = Response::new(Body::empty());
    *response.body_mut() = match reply {
        Reply::Truth => liar.truth(method, params).await.into(),
        Reply::TruthAbout(params) => liar.truth(method, &params).await.into(),
        Reply::Result(result) => json!({ "ok": true, "result": result }).to_string().into(),
        Reply::Bytes(bytes) => bytes.into(),
        Reply::Error(status, retry_after, error) => {
            *response.status_mut() = status.try_into().unwrap();
            if let Some(seconds) = retry_after {
                response.headers_mut().insert("retry-after", seconds.into());
            }
            json!({ "ok": false, "error": error, "code": status }).to_string().into()
        }
        Reply::Endless => {
            let spaces = futures_util::stream::repeat(Bytes::from_static(&[b' '; 8192]));
            Body::from_stream(spaces.map(Ok::<_, std::io::Error>))
        }
        Reply::Stall => std::future::pending().await,
    };
    response
}
