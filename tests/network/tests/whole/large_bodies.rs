//! Request bodies that are larger than any frame, from a caller's HTTP to an engine, which sets their pace.

use std::time::Duration;

use bytes::Bytes;
use cocoon_engine::{BodyStream, Engine, EngineError, EngineHealth, EngineRequest, EngineResponse};
use cocoon_gateway::Gateway;
use cocoon_network_tests::{FixedEngine, MODEL, Network, Options, gateway, get, send, until, within};
use cocoon_worker::Worker;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};

const FORM: &str = "Content-Type: multipart/form-data; boundary=B";
const JSON: &str = "Content-Type: application/json";
/// More than a frame holds.
const FILE_BYTES: usize = 24 << 20;

/// Hands each request to the test, which reads its body and answers.
struct Reader(mpsc::UnboundedSender<Call>);

struct Call {
    request: EngineRequest,
    respond: oneshot::Sender<EngineResponse>,
}

impl Engine for Reader {
    fn call(&self, request: EngineRequest) -> BoxFuture<'_, Result<EngineResponse, EngineError>> {
        let (respond, answer) = oneshot::channel();
        let sent = self.0.send(Call { request, respond });
        Box::pin(async move {
            let gone = || EngineError::Unreachable("the test let go of its calls".into());
            sent.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())
        })
    }

    fn probe(&self) -> BoxFuture<'_, EngineHealth> {
        Box::pin(async { EngineHealth { ready: true, models: Vec::new(), detail: None } })
    }

    fn explore<'a>(&'a self, _: &'a str, _: u32) -> BoxFuture<'a, u32> {
        Box::pin(async { u32::MAX })
    }
}

impl Call {
    fn answer(self, status: u16, body: &'static str) {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json".parse().unwrap());
        let body = futures_util::stream::iter([Ok(Bytes::from_static(body.as_bytes()))]).boxed();
        let status = StatusCode::from_u16(status).unwrap();
        // Who has given up hears nothing.
        let _ = self.respond.send(EngineResponse { status, headers, body });
    }
}

struct World {
    calls: mpsc::UnboundedReceiver<Call>,
    gateway: Gateway,
    _worker: Worker,
    _network: Network,
}

impl World {
    async fn start() -> Self {
        let network = Network::start().await;
        let (sender, calls) = mpsc::unbounded_channel();
        let worker = network.worker(1, Reader(sender)).await;
        let proxy = [network.proxy.clients_addr()];
        let gateway = gateway(&proxy, network.dir.path(), network.chain.clone()).await;
        within("the gateway to be ready", gateway.ready()).await;
        until("the offer", || !gateway.models().is_empty()).await;
        let page = worker.http_addr();
        within("what the engine can do", async {
            while get(page, "/jsonstats").await.body.contains("\"abilities\":null") {
                tokio::task::yield_now().await;
            }
        })
        .await;
        Self { calls, gateway, _worker: worker, _network: network }
    }

    async fn call(&mut self) -> Call {
        within("the call", self.calls.recv()).await.unwrap()
    }
}

fn file() -> String {
    (0..FILE_BYTES / 8).map(|number| format!("{number:07}\n")).collect()
}

fn form(file: &str) -> String {
    format!(
        "--B\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{MODEL}\r\n\
         --B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n{file}\r\n--B--\r\n"
    )
}

/// Reads a body piece by piece.
async fn read(request: &EngineRequest) -> Vec<u8> {
    let mut body = request.body.to_vec();
    let mut rest = request.rest.as_ref().and_then(BodyStream::take).unwrap();
    while let Some(piece) = rest.next().await {
        body.extend_from_slice(&piece.unwrap());
    }
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_larger_than_a_frame_streams_to_the_engine_byte_for_byte() {
    let mut world = World::start().await;
    let file = file();
    let (address, body) = (world.gateway.http_addr(), form(&file));
    let caller =
        tokio::spawn(
            async move { send(address, "/v1/audio/transcriptions", &[FORM], body.as_bytes()).await },
        );
    let call = world.call().await;
    let length = call.request.rest.as_ref().and_then(BodyStream::length).unwrap();
    let announced = length + call.request.body.len() as u64;
    let heard = within("the body", read(&call.request)).await;
    assert_eq!(heard.len() as u64, announced);
    let heard = String::from_utf8(heard).unwrap();
    assert!(heard.contains(&file), "{} bytes arrived", heard.len());
    call.answer(200, "{\"text\":\"hello\"}");
    let reply = caller.await.unwrap();
    assert!(reply.status == 200 && reply.body.contains("hello"), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_an_engine_reads_nothing_others_are_served() {
    let mut world = World::start().await;
    let (address, body) = (world.gateway.http_addr(), form(&file()));
    let caller =
        tokio::spawn(
            async move { send(address, "/v1/audio/transcriptions", &[FORM], body.as_bytes()).await },
        );
    let slow = world.call().await;
    for _ in 0..10 {
        let body = format!("{{\"model\":\"{MODEL}\",\"input\":\"x\"}}");
        let quick =
            tokio::spawn(async move { send(address, "/v1/embeddings", &[JSON], body.as_bytes()).await });
        world.call().await.answer(200, "{\"object\":\"list\",\"data\":[]}");
        assert_eq!(quick.await.unwrap().status, 200);
    }
    within("the body", read(&slow.request)).await;
    slow.answer(200, "{\"text\":\"hello\"}");
    assert_eq!(caller.await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_refuses_a_body_early_is_heard() {
    let mut world = World::start().await;
    let (address, body) = (world.gateway.http_addr(), form(&file()));
    let caller =
        tokio::spawn(
            async move { send(address, "/v1/audio/transcriptions", &[FORM], body.as_bytes()).await },
        );
    world.call().await.answer(413, "{\"error\":{\"message\":\"too much for me\"}}");
    let reply = caller.await.unwrap();
    assert!(reply.status == 413 && reply.body.contains("too much for me"), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_json_is_whole_before_the_engine_hears_of_it() {
    let mut world = World::start().await;
    let text = "y".repeat(20 << 20);
    let body =
        format!("{{\"model\":\"{MODEL}\",\"messages\":[{{\"role\":\"user\",\"content\":\"{text}\"}}]}}");
    let address = world.gateway.http_addr();
    let caller =
        tokio::spawn(async move { send(address, "/v1/chat/completions", &[JSON], body.as_bytes()).await });
    let call = world.call().await;
    assert!(call.request.rest.is_none() && call.request.body.len() > text.len());
    call.answer(
        200,
        "{\"object\":\"chat.completion\",\"choices\":[],\
         \"usage\":{\"prompt_tokens\":1,\"completion_tokens\":0,\"total_tokens\":1}}",
    );
    assert_eq!(caller.await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_goes_away_ends_the_body_at_the_engine() {
    let mut world = World::start().await;
    let body = form(&file());
    let head = format!(
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n{FORM}\r\n\r\n",
        body.len()
    );
    let mut caller = tokio::net::TcpStream::connect(world.gateway.http_addr()).await.unwrap();
    let sent = caller.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await;
    if sent.is_err() {
        let mut reply = String::new();
        let _ = caller.read_to_string(&mut reply).await;
        panic!("{sent:?}: {reply}");
    }
    let call = world.call().await;
    let mut rest = call.request.rest.as_ref().and_then(BodyStream::take).unwrap();
    assert!(within("a piece", rest.next()).await.unwrap().is_ok());
    drop(caller);
    let broken = within("the end", async {
        while let Some(piece) = rest.next().await {
            if piece.is_err() {
                return true;
            }
            // Slow enough for the news of the caller's end.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    });
    assert!(broken.await, "the body came in full");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_over_a_proxys_or_a_workers_own_limit_are_refused_in_words_and_others_are_not() {
    // Below and above what goes whole in a query.
    let cases = [
        (400_000, 1 << 30, 413, "a body may have 400000 bytes"),
        (1 << 30, 400_000, 400, "too large for this worker"),
        (1 << 30, 100_000, 400, "too large for this worker"),
    ];
    for (of_proxy, of_worker, status, words) in cases {
        let network = Network::with(Options { max_body_bytes: of_proxy, ..Options::default() }).await;
        let mut config = network.worker_config(1);
        config.max_body_bytes = of_worker;
        let _worker = network.worker_with(config, FixedEngine("hello".to_owned())).await;
        let proxy = [network.proxy.clients_addr()];
        let gateway = gateway(&proxy, network.dir.path(), network.chain.clone()).await;
        within("the gateway to be ready", gateway.ready()).await;
        until("the offer", || !gateway.models().is_empty()).await;
        let model = MODEL.split('@').next().unwrap();
        let ask = async |bytes: u64| {
            let padding = "x".repeat(usize::try_from(bytes).unwrap());
            let body =
                json!({"model": model, "messages": [{"role": "user", "content": "x"}], "user": padding});
            send(gateway.http_addr(), "/v1/chat/completions", &[JSON], body.to_string().as_bytes()).await
        };
        let limit = of_proxy.min(of_worker);
        let reply = ask(limit - 1000).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        // A proxy does not know how much of a query is body, so that it lets up to 64 KiB more through.
        let reply = ask(limit + 100_000).await;
        assert!(reply.status == status && reply.body.contains(words), "{} {}", reply.status, reply.body);
    }
}
