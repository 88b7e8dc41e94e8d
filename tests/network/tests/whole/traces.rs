//! What operators see of a request: its spans at all three nodes, its id, and the figures of each node.

use std::sync::{Arc, Mutex};

use cocoon_engine::Engine;
use cocoon_gateway::Gateway;
use cocoon_network_tests::{
    Event, FixedEngine, Log, MODEL, Network, Options, Reply, ScriptedEngine, Streaming, delta, gateway_with,
    get, send, until, usage_event, within,
};
use cocoon_trace::{Span, SpanSink, Tracing, Value};
use cocoon_worker::Worker;
use serde_json::json;

const SECRET_WORDS: &str = "the words that nobody may keep";
const TRACEPARENT: &str = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[derive(Debug, Default)]
struct Kept(Mutex<Vec<Span>>);

impl SpanSink for Kept {
    fn record(&self, span: Span) {
        self.0.lock().unwrap().push(span);
    }
}

impl Kept {
    fn tracing(self: &Arc<Self>, propagate: bool) -> Option<Tracing> {
        Some(Tracing { sink: Arc::clone(self) as _, share: 1.0, propagate })
    }

    fn named(&self, start: &str) -> Vec<Span> {
        self.0.lock().unwrap().iter().filter(|span| span.name.starts_with(start)).cloned().collect()
    }
}

struct World {
    gateway: Gateway,
    worker: Worker,
    network: Network,
    at_gateway: Arc<Kept>,
    at_proxy: Arc<Kept>,
    at_worker: Arc<Kept>,
}

impl World {
    async fn start(propagate: bool) -> Self {
        Self::with(propagate, FixedEngine("hello".to_owned())).await
    }

    async fn with(propagate: bool, engine: impl Engine) -> Self {
        let [at_gateway, at_proxy, at_worker] = [0; 3].map(|_| Arc::new(Kept::default()));
        let options = Options { tracing: at_proxy.tracing(true), ..Options::default() };
        let network = Network::with(options).await;
        let mut config = network.worker_config(1);
        config.tracing = at_worker.tracing(true);
        let worker = network.worker_with(config, engine).await;
        let proxy = [network.proxy.clients_addr()];
        let gateway = gateway_with(&proxy, network.dir.path(), network.chain.clone(), |config| {
            config.tracing = at_gateway.tracing(propagate);
        })
        .await;
        within("the gateway to be ready", gateway.ready()).await;
        until("the offer", || !gateway.models().is_empty()).await;
        Self { gateway, worker, network, at_gateway, at_proxy, at_worker }
    }

    async fn ask(&self, headers: &[&str]) -> Reply {
        self.ask_for(MODEL.split('@').next().unwrap(), headers).await
    }

    async fn ask_for(&self, model: &str, headers: &[&str]) -> Reply {
        let body = json!({"model": model, "messages": [{"role": "user", "content": SECRET_WORDS}]});
        let headers = [&["Content-Type: application/json"], headers].concat();
        send(self.gateway.http_addr(), "/v1/chat/completions", &headers, body.to_string().as_bytes()).await
    }
}

#[tokio::test]
async fn one_request_can_be_followed_through_the_logs_of_all_nodes() {
    let log = Log::capture();
    let world = World::start(false).await;
    let reply = world.ask(&["X-Request-Id: mine"]).await;
    let told = reply.head.lines().find_map(|line| line.strip_prefix("x-cocoon-request-id: "));
    let told = told.unwrap_or_else(|| panic!("no id: {}", reply.head));
    let is = |name: &'static str, value: &str| {
        let value = value.to_owned();
        move |line: &Event| line.field(name) == value
    };
    let at_gateway = log.wait("its id at the gateway", is("cocoon_request_id", told)).await;
    assert_eq!(at_gateway.field("request_id"), "mine");
    let at_proxy = log.wait("its id at the proxy", is("request", told)).await;
    let attempt = at_proxy.field("attempt");
    let ended = |line: &Event| line.message == "a request ended" && line.field("attempt") == attempt;
    let at_worker = log.wait("the attempt's id at the worker", ended).await;
    assert_eq!(at_worker.field("failure"), "", "{at_worker:?}");
}

#[tokio::test]
async fn one_request_is_one_trace_over_all_nodes() {
    let world = World::start(true).await;
    let reply = world.ask(&[TRACEPARENT, "X-Request-Id: mine-1"]).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert!(reply.head.to_ascii_lowercase().contains("x-request-id: mine-1"), "{}", reply.head);
    until("all spans", || {
        !world.at_worker.named("chat").is_empty() && !world.at_proxy.named("proxy").is_empty()
    })
    .await;
    let [server] = world.at_gateway.named("POST /v1/chat/completions").try_into().unwrap();
    let [attempt] = world.at_gateway.named("chat ").try_into().unwrap();
    let [proxy] = world.at_proxy.named("proxy ").try_into().unwrap();
    let [worker] = world.at_worker.named("chat ").try_into().unwrap();
    for span in [&server, &attempt, &proxy, &worker] {
        assert_eq!(span.context.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(span.start_us <= span.end_us && span.error.is_none(), "{span:?}");
    }
    assert_eq!(server.parent.unwrap().to_string(), "00f067aa0ba902b7");
    assert_eq!(attempt.parent, Some(server.context.span));
    assert_eq!(proxy.parent, Some(attempt.context.span));
    assert_eq!(worker.parent, Some(proxy.context.span));
    let id = server.attributes.iter().find(|(name, _)| *name == "cocoon.request_id").unwrap();
    assert_eq!(id.1, Value::from("mine-1"));
    let all = format!("{server:?}{attempt:?}{proxy:?}{worker:?}");
    assert!(!all.contains(SECRET_WORDS) && !all.contains("hello"), "{all}");
}

/// What a streamed request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Complete,
    BreaksOff,
    CallerLeaves,
    CallerLeavesBeforeTheHead,
}

#[tokio::test]
async fn a_streams_span_lasts_until_its_end_and_says_how_it_ended() {
    use Fate::{BreaksOff, CallerLeaves, CallerLeavesBeforeTheHead, Complete};
    for fate in [Complete, BreaksOff, CallerLeaves, CallerLeavesBeforeTheHead] {
        let (engine, mut calls) = ScriptedEngine::new();
        let world = World::with(true, engine).await;
        let model = MODEL.split('@').next().unwrap();
        let words = json!([{"role": "user", "content": SECRET_WORDS}]);
        let body = json!({"model": model, "messages": words, "stream": true});
        let mut caller = Streaming::post(world.gateway.http_addr(), &body).await;
        let call = within("the call", calls.recv()).await.unwrap();
        let error = if fate == CallerLeavesBeforeTheHead {
            drop(caller);
            call.given_up().await;
            Some("cancelled")
        } else {
            let answer = call.stream();
            assert!(answer.send(delta("hello")).await);
            caller.until("hello").await;
            let named = world.at_gateway.0.lock().unwrap().clone();
            assert!(named.is_empty(), "nothing is over yet: {named:?}");
            match fate {
                Complete => {
                    assert!(answer.send(delta(" you")).await && answer.send(usage_event(10, 2)).await);
                    drop(answer);
                    assert!(caller.finish().await.body.contains("[DONE]"));
                    None
                }
                BreaksOff => {
                    drop(answer);
                    assert!(caller.finish().await.body.contains("\"error\""));
                    Some("broken")
                }
                CallerLeaves | CallerLeavesBeforeTheHead => {
                    drop(caller);
                    answer.dropped().await;
                    Some("cancelled")
                }
            }
        };
        until("all spans", || {
            !world.at_gateway.named("POST ").is_empty() && !world.at_proxy.named("proxy").is_empty()
        })
        .await;
        let [server] = world.at_gateway.named("POST ").try_into().unwrap();
        let [attempt] = world.at_gateway.named("chat ").try_into().unwrap();
        let [proxy] = world.at_proxy.named("proxy ").try_into().unwrap();
        assert_eq!([server.error, attempt.error], [error; 2], "{fate:?}");
        assert_eq!((attempt.parent, proxy.parent), (Some(server.context.span), Some(attempt.context.span)));
        assert!(server.end_us >= attempt.end_us && server.start_us <= attempt.start_us, "{fate:?}");
        let status = server.attributes.iter().find(|(name, _)| *name == "http.response.status_code");
        let expected = (fate != CallerLeavesBeforeTheHead).then_some(Value::Int(200));
        assert_eq!(status.map(|(_, value)| value.clone()), expected, "{fate:?}");
        let all = format!("{server:?}{attempt:?}{proxy:?}");
        assert!(!all.contains(SECRET_WORDS) && !all.contains("hello"), "{all}");
    }
}

#[tokio::test]
async fn the_network_hears_of_no_trace_unless_it_is_told() {
    let world = World::start(false).await;
    assert_eq!(world.ask(&[TRACEPARENT]).await.status, 200);
    // A second request: what the first one left would be there when it ends.
    assert_eq!(world.ask(&[]).await.status, 200);
    assert_eq!(world.at_gateway.named("POST").len(), 2);
    assert!(world.at_proxy.0.lock().unwrap().is_empty() && world.at_worker.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_name_of_a_model_that_nobody_offers_is_not_written_down() {
    let world = World::start(false).await;
    assert_eq!(world.ask_for(SECRET_WORDS, &[]).await.status, 404);
    assert_eq!(world.at_gateway.named("chat other").len(), 1);
    let spans = format!("{:?}", world.at_gateway.0.lock().unwrap());
    assert!(!spans.contains(SECRET_WORDS), "{spans}");
}

#[tokio::test]
async fn the_dashboard_and_the_alerts_ask_for_what_the_nodes_measure() {
    let world = World::start(false).await;
    let reply = world.ask(&[]).await;
    assert!(reply.head.to_ascii_lowercase().contains("x-request-id: req_"), "{}", reply.head);
    let mut measured = String::new();
    let pages = [world.gateway.http_addr(), world.network.proxy.http_addr(), world.worker.http_addr()];
    for page in pages {
        measured.push_str(&get(page, "/metrics").await.body);
    }
    let asked = [
        include_str!("../../../../deploy/grafana/cocoon.json"),
        include_str!("../../../../deploy/prometheus/alerts.yml"),
    ];
    // What is there only once something went wrong, a stream came, or there is a wallet.
    let rare = [
        "_disputes",
        "_errors_",
        "_breaker_openings",
        "_wallet_",
        "_funds_needed",
        "first_chunk",
        "first_token",
        "output_token",
    ];
    let mut seen = 0;
    let words = asked.iter().flat_map(|text| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    for name in words.filter(|word| word.starts_with("cocoon_") || word.starts_with("gen_ai_")) {
        let label = measured.contains(&format!("{name}=\""));
        let stem = ["_bucket", "_sum", "_total"].iter().find_map(|end| name.strip_suffix(end));
        let known = measured.contains(&format!("# TYPE {name} "))
            || stem.is_some_and(|stem| measured.contains(&format!("# TYPE {stem} ")));
        assert!(known || label || rare.iter().any(|part| name.contains(part)), "no node measures {name}");
        seen += 1;
    }
    assert!(seen > 30, "{seen}");
    assert!(measured.contains("gen_ai_server_request_duration_seconds_count"), "{measured}");
    assert!(!measured.contains(SECRET_WORDS));
}
