//! A whole network on loopback around a gateway: real proxies and workers, engines that do what a test says.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

pub mod keys;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cocoon_attest::{Policy, UnixSeconds, VerifierSet};
use cocoon_chain::{StaticChain, TestModeClient};
use cocoon_engine::{Engine, EngineError, EngineHealth, EngineRequest, EngineResponse};
use cocoon_gateway::{AccessConfig, Gateway, GatewayConfig, GatewayLimits, HttpsConfig};
use cocoon_net::{
    AcceptOptions, DialOptions, ListenerOptions, NodeIdentity, NodeKey, SystemClock, TlsSettings,
};
use cocoon_proxy::{Proxy, ProxyConfig};
use cocoon_ton::{Address, RootConfig};
use cocoon_worker::{Worker, WorkerConfig};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, Stream, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use zeroize::Zeroizing;

pub const MODEL: &str = "test/model";
pub const PRICE: u64 = 20;
/// Longer than anything takes that goes well.
pub const SOON: Duration = Duration::from_secs(20);

fn address(byte: u8) -> Address {
    Address::new(0, [byte; 32]).unwrap()
}

fn tls(evidence: &str, policy: Policy) -> TlsSettings {
    let now =
        UnixSeconds(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs());
    let source = cocoon_tee::open(evidence).unwrap();
    let identity = NodeIdentity::new(NodeKey::generate(), source, now).unwrap();
    TlsSettings::new(identity, Arc::new(VerifierSet::built_in()), policy, None, Arc::new(SystemClock))
        .unwrap()
}

type Answer =
    Box<dyn Fn(EngineRequest) -> BoxFuture<'static, Result<EngineResponse, EngineError>> + Send + Sync>;

/// Does what the test says, and remembers what it was asked.
pub struct Scripted {
    answer: Answer,
    pub asked: Mutex<Vec<EngineRequest>>,
    /// Bodies that were dropped before their end.
    pub cancelled: Arc<AtomicUsize>,
}

impl Scripted {
    pub fn new<F>(answer: impl Fn(EngineRequest) -> F + Send + Sync + 'static) -> Arc<Self>
    where
        F: Future<Output = Result<EngineResponse, EngineError>> + Send + 'static,
    {
        Arc::new(Self {
            answer: Box::new(move |request| Box::pin(answer(request))),
            asked: Mutex::default(),
            cancelled: Arc::default(),
        })
    }

    pub fn asked_json(&self, at: usize) -> Value {
        serde_json::from_slice(&self.asked.lock().unwrap()[at].body).unwrap()
    }
}

/// Counts itself when it is dropped, unless its answer came to an end.
struct Watched(Option<Arc<AtomicUsize>>);

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(cancelled) = &self.0 {
            cancelled.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Engine for Scripted {
    fn call(&self, request: EngineRequest) -> BoxFuture<'_, Result<EngineResponse, EngineError>> {
        self.asked.lock().unwrap().push(request.clone());
        let answer = (self.answer)(request);
        let mut watched = Watched(Some(Arc::clone(&self.cancelled)));
        Box::pin(async move {
            let answered = answer.await;
            let Ok(response) = answered else {
                watched.0.take();
                return answered;
            };
            let body = stream::unfold((response.body, watched), |(mut body, mut watched)| async move {
                match body.next().await {
                    Some(item) => Some((item, (body, watched))),
                    None => {
                        watched.0.take();
                        None
                    }
                }
            });
            Ok(EngineResponse { body: body.boxed(), ..response })
        })
    }

    fn probe(&self) -> BoxFuture<'_, EngineHealth> {
        Box::pin(async { EngineHealth { ready: true, models: vec![MODEL.to_owned()], detail: None } })
    }
}

pub fn respond(
    status: u16,
    content_type: &'static str,
    body: impl Stream<Item = Result<Bytes, EngineError>> + Send + 'static,
) -> EngineResponse {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static(content_type));
    EngineResponse { status: StatusCode::from_u16(status).unwrap(), headers, body: body.boxed() }
}

pub fn json_answer(status: u16, value: &Value) -> EngineResponse {
    let body = Bytes::from(value.to_string());
    respond(status, "application/json", stream::iter([Ok(body)]))
}

/// An honest chat answer of four tokens.
pub fn chat(prompt_tokens: i64, completion_tokens: i64) -> Value {
    json!({
        "id": "c", "object": "chat.completion", "model": MODEL, "x_unknown": [1, 2],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "one two three four"},
                     "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
                  "total_tokens": prompt_tokens + completion_tokens},
    })
}

pub fn delta(text: &str) -> Bytes {
    event(&json!({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]}))
}

pub fn finish() -> Bytes {
    event(&json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
}

pub fn usage(prompt: i64, completion: i64) -> Bytes {
    event(&json!({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion,
        "total_tokens": prompt + completion}}))
}

pub fn event(value: &Value) -> Bytes {
    format!("data: {value}\n\n").into()
}

pub fn done() -> Bytes {
    Bytes::from_static(b"data: [DONE]\n\n")
}

pub fn sse(pieces: Vec<Bytes>) -> EngineResponse {
    respond(200, "text/event-stream", stream::iter(pieces.into_iter().map(Ok)))
}

/// How to build a network.
pub struct Plan {
    pub proxies: usize,
    /// How many of the proxies have the workers; the others have none.
    pub served: usize,
    pub client: TestModeClient,
    pub limits: GatewayLimits,
    pub extensions: bool,
    pub max_active: u32,
    pub coefficient: u32,
    pub check_proxy_hashes: bool,
    pub model: &'static str,
    /// Let the gateway take its proxies from the root configuration, which names none at first.
    pub proxies_from_root: bool,
    /// What is unusual about who may use the gateway.
    pub access: fn(&mut AccessConfig),
    pub https: Option<HttpsConfig>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            proxies: 1,
            served: usize::MAX,
            client: TestModeClient::default(),
            limits: GatewayLimits::default(),
            extensions: true,
            max_active: 64,
            coefficient: 1000,
            check_proxy_hashes: false,
            model: MODEL,
            proxies_from_root: false,
            access: |_| (),
            https: None,
        }
    }
}

pub struct Network {
    pub gateway: Gateway,
    pub proxies: Vec<Proxy>,
    pub workers: Vec<Worker>,
    pub chain: Arc<StaticChain>,
    dir: TempDir,
    workers_at: String,
}

impl Network {
    /// One worker per engine, at every proxy.
    pub async fn start(plan: Plan, engines: Vec<Arc<dyn Engine>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut root = RootConfig::test_mode(address(1));
        root.params.price_per_token_nanoton = PRICE;
        root.params.worker_fee_per_token_nanoton = PRICE - 5;
        let chain = Arc::new(StaticChain::from_config(root).unwrap().with_test_mode_client(plan.client));
        let mut proxies = Vec::new();
        for number in 0..plan.proxies {
            let store = dir.path().join(format!("proxy{number}.sqlite"));
            proxies.push(proxy(&plan, number, "127.0.0.1:0", store, Arc::clone(&chain)).await);
        }
        let mut workers = Vec::new();
        for (number, engine) in engines.into_iter().enumerate() {
            let config = WorkerConfig {
                tracing: None,
                http: "127.0.0.1:0".parse().unwrap(),
                proxies: proxies
                    .iter()
                    .take(plan.served)
                    .map(|proxy| proxy.workers_addr().to_string())
                    .collect(),
                owner: address(40 + u8::try_from(number).unwrap()),
                model: format!("{}@commit:hash", plan.model),
                model_files: None,
                coefficient: plan.coefficient,
                follow_load: None,
                max_active: plan.max_active,
                root_address: address(2),
                is_test: true,
                is_testnet: false,
                extensions: plan.extensions,
                max_body_bytes: cocoon_worker::DEFAULT_MAX_BODY_BYTES,
                check_proxy_hashes: false,
                dial: dial(),
                store: dir.path().join(format!("worker{number}.sqlite")),
                settlement: None,
                paused: false,
            };
            let tls = tls("fake_tdx", Policy::fake_tdx());
            let worker = cocoon_worker::start(config, tls, chain.clone(), engine).await.unwrap();
            worker.ready().await;
            workers.push(worker);
        }
        let gateway = gateway(&plan, &dir, &proxies, &chain).await;
        let network = Self { gateway, proxies, workers, chain, dir, workers_at: String::new() };
        if plan.proxies > 0 && !plan.check_proxy_hashes && !plan.proxies_from_root {
            network.gateway.ready().await;
        }
        network
    }

    /// One proxy, one worker with this engine.
    pub async fn with(engine: Arc<dyn Engine>) -> Self {
        Self::start(Plan::default(), vec![engine]).await
    }

    /// Puts another gateway with the same stores in the place of the first one, which is stopped in order.
    pub async fn restart_gateway(self, plan: &Plan) -> Self {
        let Self { gateway: old, proxies, workers, chain, dir, workers_at } = self;
        old.shutdown().await;
        let gateway = gateway(plan, &dir, &proxies, &chain).await;
        gateway.ready().await;
        Self { gateway, proxies, workers, chain, dir, workers_at }
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.gateway).await
    }

    /// Puts a proxy with the same key, but without memory, in the place of the first one.
    pub async fn forget_first_proxy(&mut self) {
        let address = self.proxies[0].clients_addr().to_string();
        self.proxies.remove(0).shutdown().await;
        let store = self.dir.path().join("forgetful.sqlite");
        let proxy = proxy(&Plan::default(), 0, &address, store, Arc::clone(&self.chain)).await;
        self.proxies.insert(0, proxy);
    }

    /// Stops the first proxy; says where its clients came.
    pub async fn stop_first_proxy(&mut self) -> String {
        let address = self.proxies[0].clients_addr().to_string();
        self.workers_at = self.proxies[0].workers_addr().to_string();
        self.proxies.remove(0).shutdown().await;
        address
    }

    /// Starts it again, where it was.
    pub async fn start_first_proxy_again(&mut self, address: &str) {
        let store = self.dir.path().join("proxy0.sqlite");
        let workers = self.workers_at.clone();
        let proxy = proxy_at(&Plan::default(), 0, &workers, address, store, Arc::clone(&self.chain)).await;
        self.proxies.insert(0, proxy);
    }

    /// Waits until what was spent is at least this.
    pub async fn spent(&self, tokens: u64) -> cocoon_gateway::Spent {
        eventually("payment notices", || {
            let spent = self.gateway.spent();
            (spent.tokens.get() >= tokens).then_some(spent)
        })
        .await
    }
}

pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "in vain waited for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn dial() -> DialOptions {
    DialOptions { max_difficulty: 8, timeout: Duration::from_secs(20) }
}

async fn proxy(plan: &Plan, number: usize, clients: &str, store: PathBuf, chain: Arc<StaticChain>) -> Proxy {
    proxy_at(plan, number, "127.0.0.1:0", clients, store, chain).await
}

async fn proxy_at(
    plan: &Plan,
    number: usize,
    workers: &str,
    clients: &str,
    store: PathBuf,
    chain: Arc<StaticChain>,
) -> Proxy {
    let number = u8::try_from(number).unwrap();
    let accept = AcceptOptions { difficulty: 2, timeout: Duration::from_secs(20) };
    let config = ProxyConfig {
        tracing: None,
        http: "127.0.0.1:0".parse().unwrap(),
        workers: workers.parse().unwrap(),
        clients: clients.parse().unwrap(),
        key_seed: Zeroizing::new([100 + number; 32]),
        owner: address(10 + number),
        wallet: address(20 + number),
        root_address: address(2),
        is_test: true,
        is_testnet: false,
        check_worker_hashes: false,
        trust_long_authorization: false,
        extensions: plan.extensions,
        max_body_bytes: cocoon_proxy::DEFAULT_MAX_BODY_BYTES,
        store,
        settlement: None,
        listener: ListenerOptions { accept, ..ListenerOptions::default() },
    };
    let worker_tls = tls("fake_tdx", Policy::fake_tdx());
    let client_tls = tls("fake_tdx", Policy::any());
    cocoon_proxy::start(config, worker_tls, client_tls, chain).await.unwrap()
}

/// A gateway on this address that knows no proxy.
pub async fn try_start(
    http: &str,
    require_keys: cocoon_gateway::RequireKeys,
) -> Result<Gateway, cocoon_gateway::StartError> {
    start_alone(|config| {
        config.http = http.parse().unwrap();
        config.access.require_keys = require_keys;
    })
    .await
}

/// A gateway with TLS that knows no proxy.
pub async fn try_start_with_tls(https: HttpsConfig) -> Result<Gateway, cocoon_gateway::StartError> {
    start_alone(|config| config.https = Some(https)).await
}

async fn start_alone(change: impl FnOnce(&mut GatewayConfig)) -> Result<Gateway, cocoon_gateway::StartError> {
    let dir = tempfile::tempdir().unwrap();
    let chain = Arc::new(StaticChain::from_config(RootConfig::test_mode(address(1))).unwrap());
    let mut config = config(&Plan::default(), &dir, vec!["127.0.0.1:1".to_owned()]);
    change(&mut config);
    cocoon_gateway::start(config, tls("none", Policy::fake_tdx()), chain).await
}

async fn gateway(plan: &Plan, dir: &TempDir, proxies: &[Proxy], chain: &Arc<StaticChain>) -> Gateway {
    let unreachable = vec!["127.0.0.1:1".to_owned()];
    let addresses: Vec<_> = proxies.iter().map(|proxy| proxy.clients_addr().to_string()).collect();
    let proxies = match plan.proxies_from_root {
        true => Vec::new(),
        false if addresses.is_empty() => unreachable,
        false => addresses,
    };
    let config = config(plan, dir, proxies);
    cocoon_gateway::start(config, tls("none", Policy::fake_tdx()), chain.clone()).await.unwrap()
}

fn config(plan: &Plan, dir: &TempDir, proxies: Vec<String>) -> GatewayConfig {
    let mut access = AccessConfig::new(dir.path().join("access.sqlite"));
    (plan.access)(&mut access);
    GatewayConfig {
        tracing: None,
        http: "127.0.0.1:0".parse().unwrap(),
        proxies,
        wallet: address(3),
        secret: Zeroizing::new(Vec::new()),
        root_address: address(2),
        is_test: true,
        is_testnet: false,
        extensions: plan.extensions,
        check_proxy_hashes: plan.check_proxy_hashes,
        workers: None,
        dial: dial(),
        store: dir.path().join("gateway.sqlite"),
        settlement: None,
        access,
        https: plan.https.clone(),
        limits: plan.limits,
    }
}

/// One keep-alive HTTP connection.
pub struct Client(hyper::client::conn::http1::SendRequest<Full<Bytes>>);

pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Status, `error.type`, `error.code`, `error.param`.
    pub fn error(&self) -> (u16, String, String, Value) {
        let error = &self.json()["error"];
        let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
        assert!(!text("message").is_empty(), "an error without words");
        (self.status, text("type"), text("code"), error["param"].clone())
    }
}

impl Client {
    pub async fn connect(gateway: &Gateway) -> Self {
        let stream = TcpStream::connect(gateway.http_addr()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    pub async fn open(&mut self, request: Request<Full<Bytes>>) -> http::Response<Incoming> {
        self.0.ready().await.unwrap();
        tokio::time::timeout(SOON, self.0.send_request(request)).await.expect("no answer").unwrap()
    }

    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Reply {
        let (parts, body) = self.open(request).await.into_parts();
        let body = tokio::time::timeout(SOON, body.collect()).await.expect("no end").unwrap().to_bytes();
        Reply { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub async fn get(&mut self, path: &str) -> Reply {
        self.send(request(Method::GET, path, Bytes::new())).await
    }

    pub async fn post(&mut self, body: &Value) -> Reply {
        self.send(request(Method::POST, "/v1/chat/completions", body.to_string().into())).await
    }

    pub async fn stream(&mut self, body: &Value) -> Incoming {
        let request = request(Method::POST, "/v1/chat/completions", body.to_string().into());
        let response = self.open(request).await;
        assert_eq!(response.status(), 200);
        response.into_body()
    }
}

pub fn request(method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header(HeaderName::from_static("authorization"), "Bearer hidden")
        .body(Full::new(body))
        .unwrap()
}

/// A question, with more fields.
pub fn ask(more: &Value) -> Value {
    let mut body = json!({"model": MODEL, "messages": [{"role": "user", "content": "What is it?"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}
