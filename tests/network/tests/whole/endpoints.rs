//! Every endpoint of the API, from a caller's HTTP through gateway, proxy and worker to an engine and back.

use cocoon_gateway::{Gateway, GatewayLimits};
use cocoon_network_tests::{
    MODEL, Network, Reply, SOUND, VersatileEngine, gateway, gateway_with, get, send, until, within,
};
use cocoon_worker::Worker;
use serde_json::{Value, json};

const JSON: &str = "Content-Type: application/json";
const FORM: &str = "Content-Type: multipart/form-data; boundary=B";

struct World {
    engine: VersatileEngine,
    gateway: Gateway,
    worker: Worker,
    _network: Network,
}

impl World {
    async fn start() -> Self {
        Self::with(GatewayLimits::default()).await
    }

    async fn with(limits: GatewayLimits) -> Self {
        let network = Network::start().await;
        let engine = VersatileEngine::default();
        let worker = network.worker(1, engine.clone()).await;
        let proxy = [network.proxy.clients_addr()];
        let gateway = gateway_with(&proxy, network.dir.path(), network.chain.clone(), |config| {
            config.limits = limits;
        })
        .await;
        within("the gateway to be ready", gateway.ready()).await;
        until("the offer", || !gateway.models().is_empty()).await;
        let page = worker.http_addr();
        within("what the engine can do", async {
            while json_of(&get(page, "/jsonstats").await)["abilities"].is_null() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        Self { engine, gateway, worker, _network: network }
    }

    async fn send(&self, path: &str, headers: &[&str], body: &str) -> Reply {
        send(self.gateway.http_addr(), path, headers, body.as_bytes()).await
    }

    /// Sends what should be refused; status and error.
    async fn refused(&self, path: &str, headers: &[&str], body: &str) -> (u16, Value) {
        let asked = self.engine.0.lock().unwrap().len();
        let reply = self.send(path, headers, body).await;
        assert_eq!(self.engine.0.lock().unwrap().len(), asked, "the engine hears nothing of it");
        (reply.status, json_of(&reply)["error"].take())
    }
}

fn json_of(reply: &Reply) -> Value {
    serde_json::from_str(&reply.body).unwrap_or_else(|error| panic!("{error}: {reply:?}"))
}

/// A part; a value that begins with `@` is that of a file.
fn part(name: &str, value: &str) -> String {
    let (file, value) = value.strip_prefix('@').map_or(("", value), |value| ("; filename=\"f\"", value));
    format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{value}\r\n")
}

fn form(parts: &[(&str, &str)]) -> String {
    let parts: String = parts.iter().map(|(name, value)| part(name, value)).collect();
    format!("{parts}--B--\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_json_endpoint_is_served_and_its_body_passes() {
    let world = World::start().await;
    let extra = json!({"seed": 7, "unknown": {"a": [1.50]}, "user": "u"});
    for (path, at_engine, body, field) in [
        (
            "/v1/chat/completions",
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": "x"}]}),
            "choices",
        ),
        ("/v1/completions", "/v1/completions", json!({"prompt": "x"}), "choices"),
        ("/v1/responses", "/v1/responses", json!({"input": "x"}), "output"),
        (
            "/v1/messages",
            "/v1/messages",
            json!({"max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}),
            "content",
        ),
        ("/v1/embeddings", "/v1/embeddings", json!({"input": ["x"]}), "data"),
        ("/v1/rerank", "/v1/rerank", json!({"query": "x", "documents": ["y"]}), "results"),
        ("/rerank", "/v1/rerank", json!({"query": "x", "documents": ["y"]}), "results"),
        ("/v1/moderations", "/v1/moderations", json!({"input": "x"}), "results"),
        ("/v1/images/generations", "/v1/images/generations", json!({"prompt": "x", "size": "64x64"}), "data"),
        ("/tokenize", "/tokenize", json!({"prompt": "x"}), "tokens"),
        ("/v1/tokenize", "/tokenize", json!({"prompt": "x"}), "tokens"),
        ("/detokenize", "/detokenize", json!({"tokens": [1]}), "prompt"),
        (
            "/v1/messages/count_tokens",
            "/v1/messages/count_tokens",
            json!({"messages": [{"role": "user", "content": "x"}], "system": "y"}),
            "input_tokens",
        ),
        ("/v1/responses/input_tokens", "/v1/responses/input_tokens", json!({"input": "x"}), "input_tokens"),
    ] {
        let mut asked = body.clone();
        let fields = asked.as_object_mut().unwrap();
        fields.insert("model".into(), MODEL.into());
        fields.insert("max_price".into(), 1_000_000_000_u64.into());
        fields.extend(extra.as_object().unwrap().clone());
        let reply = world.send(path, &[JSON, "X-Cocoon-Preference: cheapest"], &asked.to_string()).await;
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        assert!(!json_of(&reply)[field].is_null(), "{path}: {}", reply.body);
        assert!(reply.head.contains("x-cocoon-request-id"), "{path}: {}", reply.head);
        let heard = world.engine.last();
        assert_eq!(heard.path, at_engine);
        assert!(heard.headers.keys().all(|name| !name.as_str().starts_with("x-cocoon-")), "{path}");
        let heard: Value = serde_json::from_slice(&heard.body).unwrap();
        for (name, value) in body.as_object().unwrap().iter().chain(extra.as_object().unwrap()) {
            assert_eq!(heard[name], *value, "{path}: {name}");
        }
        assert!(heard.get("max_price").is_none(), "{path}: wishes end at the gateway");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sound_passes_byte_for_byte() {
    let world = World::start().await;
    let body = json!({"model": MODEL, "input": "say this", "voice": "v"}).to_string();
    let reply = world.send("/v1/audio/speech", &[JSON], &body).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(reply.head.contains("audio/mpeg") && reply.body.contains(SOUND), "{reply:?}");
    assert_eq!(world.engine.last().body, body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_arrive_with_the_model_first_and_every_other_byte_as_it_was() {
    let world = World::start().await;
    let sound = format!("@{}\r\n--\r\n", "s".repeat(300_000));
    let image = [("model", MODEL), ("image[]", "@a"), ("image[]", "@b"), ("prompt", "p"), ("n", "2")];
    for (path, parts) in [
        (
            "/v1/audio/transcriptions",
            &[("file", sound.as_str()), ("language", "en"), ("timeout", "30"), ("model", MODEL)][..],
        ),
        ("/v1/audio/translations", &[("model", MODEL), ("file", &sound)]),
        ("/v1/images/edits", &image),
        ("/v1/images/variations", &[("image", "@a"), ("model", MODEL), ("size", "256x256")]),
    ] {
        let reply = world.send(path, &[FORM], &form(parts)).await;
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        let heard = world.engine.last();
        assert_eq!(heard.path, path);
        assert_eq!(heard.headers["content-type"], "multipart/form-data; boundary=B");
        let mut expected: Vec<_> = parts.iter().copied().filter(|(name, _)| *name != "timeout").collect();
        expected.sort_by_key(|(name, _)| *name != "model");
        assert_eq!(heard.body, form(&expected), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_request_is_said_and_no_engine_is_asked() {
    let world = World::start().await;
    let chat = json!({"model": MODEL, "messages": [{"role": "user", "content": "x"}]}).to_string();
    let file = form(&[("file", "@x"), ("model", MODEL)]);
    let twice = form(&[("model", MODEL), ("file", "@x"), ("model", "another")]);
    let spaced = file.replace("--B\r\n", "--B \r\n");
    for (path, headers, body, status, code) in [
        ("/v1/chat/completions", &["Content-Type: text/plain"][..], &chat, 415, "unsupported_media_type"),
        ("/v1/chat/completions", &[JSON, "Content-Encoding: gzip"], &chat, 415, "unsupported_encoding"),
        ("/v1/chat/completions", &[JSON, "X-Cocoon-Timeout: soon"], &chat, 400, "invalid_type"),
        ("/v1/audio/transcriptions", &[JSON], &chat, 415, "unsupported_media_type"),
        ("/v1/audio/transcriptions", &[], &file, 415, "unsupported_media_type"),
        ("/v1/audio/transcriptions", &["Content-Type: multipart/form-data"], &file, 400, "invalid_multipart"),
        ("/v1/audio/transcriptions", &[FORM], &twice, 400, "duplicate_parameter"),
        ("/v1/audio/transcriptions", &[FORM], &spaced, 400, "invalid_multipart"),
        ("/v1/responses/resp_1/cancel", &[JSON], &chat, 404, "unknown_url"),
        ("/v1/responses/input_tokens", &[JSON], &chat, 400, "missing_required_parameter"),
        ("/v1/files", &[FORM], &file, 404, "unknown_url"),
    ] {
        let (found, error) = world.refused(path, headers, body).await;
        assert_eq!((found, error["code"].as_str()), (status, Some(code)), "{path} {headers:?}: {error}");
    }
    let body = json!({"model": MODEL, "messages": [{"role": "user", "content": "x"}]}).to_string();
    let anthropic = json_of(&world.send("/v1/messages", &[JSON], &body).await);
    assert_eq!(
        (&anthropic["type"], &anthropic["error"]["type"]),
        (&json!("error"), &json!("invalid_request_error"))
    );
    assert!(anthropic["error"]["message"].as_str().unwrap().contains("max_tokens"), "{anthropic}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_of_its_kind_is_refused_with_the_limit_and_the_kind() {
    let limits = GatewayLimits {
        max_body_bytes: 1000,
        max_conversation_bytes: 2000,
        max_upload_bytes: 3000,
        ..GatewayLimits::default()
    };
    let world = World::with(limits).await;
    let filled = |body: Value, size: usize| {
        let mut body = body;
        body["model"] = MODEL.into();
        body["pad"] = "".into();
        let pad = "p".repeat(size - body.to_string().len());
        body["pad"] = pad.into();
        body.to_string()
    };
    let upload = |size: usize| {
        let empty = form(&[("model", MODEL), ("file", "@")]).len();
        form(&[("model", MODEL), ("file", &format!("@{}", "x".repeat(size - empty)))])
    };
    let chat = json!({"messages": [{"role": "user", "content": "x"}]});
    for (path, header, limit, fits, over) in [
        ("/v1/chat/completions", JSON, 2000, filled(chat.clone(), 2000), filled(chat, 2001)),
        (
            "/v1/embeddings",
            JSON,
            1000,
            filled(json!({"input": "x"}), 1000),
            filled(json!({"input": "x"}), 1001),
        ),
        ("/v1/audio/transcriptions", FORM, 3000, upload(3000), upload(3001)),
    ] {
        assert_eq!(world.send(path, &[header], &fits).await.status, 200, "{path}");
        let (status, error) = world.refused(path, &[header], &over).await;
        let message = error["message"].as_str().unwrap();
        assert_eq!((status, error["code"].as_str()), (413, Some("request_too_large")), "{path}");
        assert!(message.contains(&limit.to_string()) && message.contains(path), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_price_for_a_million_tokens_is_a_cap() {
    let world = World::start().await;
    // The network's price is two nanoton a token, and the worker takes the base price.
    let body = json!({"model": MODEL, "prompt": "x"}).to_string();
    let fair = world.send("/v1/completions", &[JSON, "X-Cocoon-Max-Price: 2000000"], &body).await;
    assert_eq!(fair.status, 200, "{fair:?}");
    let refused = world.send("/v1/completions", &[JSON, "X-Cocoon-Max-Price: 1999999"], &body).await;
    assert_eq!((refused.status, &json_of(&refused)["error"]["code"]), (503, &json!("price_cap_too_low")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_shows_what_its_engine_can_do() {
    let world = World::start().await;
    let abilities = json_of(&get(world.worker.http_addr(), "/jsonstats").await)["abilities"].take();
    let abilities = abilities.as_array().unwrap();
    for name in ["chat", "embeddings", "image_edits", "tools"] {
        assert!(abilities.iter().any(|known| known == name), "{name}");
    }
    // One that has said nothing of itself counts as published workers do.
    let network = Network::start().await;
    let worker = network.worker(1, cocoon_network_tests::FixedEngine("x".into())).await;
    let gateway = gateway(&[network.proxy.clients_addr()], network.dir.path(), network.chain.clone()).await;
    within("the gateway to be ready", gateway.ready()).await;
    within("what the engine can do", async {
        while json_of(&get(worker.http_addr(), "/jsonstats").await)["abilities"]
            != json!(["chat", "completions"])
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
