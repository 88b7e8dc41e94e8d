//! The market as callers see it: what is on offer, how each worker has done, and prices that move.

use std::sync::Arc;
use std::time::Duration;

use cocoon_attest::Policy;
use cocoon_engine::Engine;
use cocoon_gateway::Gateway;
use cocoon_network_tests::{
    ADMIN_TOKEN, Call, FixedEngine, Network, Options, Reply, ScriptedEngine, call, delta, gateway_with, get,
    root, send, tls, usage_event, within,
};
use cocoon_worker::{Bounds, FollowConfig, Worker, WorkerConfig};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

async fn gateway_of(network: &Network) -> Gateway {
    let with_admin = |config: &mut cocoon_gateway::GatewayConfig| {
        config.access.admin_token = Some(ADMIN_TOKEN.to_owned().into());
    };
    let proxies = [network.proxy.clients_addr()];
    let gateway = gateway_with(&proxies, network.dir.path(), network.chain.clone(), with_admin).await;
    within("the gateway to be ready", gateway.ready()).await;
    gateway
}

fn offering(network: &Network, number: u8, model: &str, coefficient: u32) -> WorkerConfig {
    WorkerConfig { model: model.to_owned(), coefficient, ..network.worker_config(number) }
}

/// A worker that shows this evidence.
async fn worker(network: &Network, config: WorkerConfig, evidence: &str, engine: impl Engine) -> Worker {
    let show = tls(evidence, Policy::any());
    let worker = cocoon_worker::start(config, show, network.chain.clone(), Arc::new(engine)).await.unwrap();
    within("the worker to be ready", worker.ready()).await;
    worker
}

async fn page(gateway: &Gateway, path: &str) -> Value {
    let reply = get(gateway.http_addr(), path).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    serde_json::from_str(&reply.body).unwrap()
}

/// Looks at the market until it is as wanted: proxies are asked every few seconds.
async fn market_with(gateway: &Gateway, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    within(what, async {
        loop {
            let market = page(gateway, "/v1/market").await;
            if wanted(&market) {
                return market;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

fn model<'a>(market: &'a Value, name: &str) -> &'a Value {
    let models = market["models"].as_array().unwrap();
    models.iter().find(|model| model["id"] == name).unwrap_or(&Value::Null)
}

async fn ask(gateway: &Gateway, model: &str, more: Value) -> Reply {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "Hello?"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let json = "Content-Type: application/json";
    send(gateway.http_addr(), "/v1/chat/completions", &[json], body.to_string().as_bytes()).await
}

/// What an answer cost, in nanoton.
fn cost(reply: &Reply) -> u64 {
    assert_eq!(reply.status, 200, "{reply:?}");
    let body: Value = serde_json::from_str(&reply.body).unwrap();
    body["usage"]["total_cost"].as_u64().unwrap_or_else(|| panic!("no cost in {body}"))
}

async fn next(calls: &mut UnboundedReceiver<Call>) -> Call {
    within("a call of the engine", calls.recv()).await.unwrap()
}

#[tokio::test]
async fn the_market_tells_what_each_worker_asks_and_how_it_has_done() {
    let mut root = root();
    root.params.cached_tokens_price_multiplier = 1000;
    root.params.completion_tokens_price_multiplier = 40_000;
    root.params.reasoning_tokens_price_multiplier = 20_000;
    let worker_policy = Policy::fake_tdx();
    let network = Network::with(Options { root, worker_policy, ..Options::default() }).await;
    let (engine, mut cheap_calls) = ScriptedEngine::new();
    let _cheap = worker(&network, offering(&network, 1, "a/model", 500), "fake_tdx", engine).await;
    let (engine, mut dear_calls) = ScriptedEngine::new();
    let dear = WorkerConfig { max_active: 7, ..offering(&network, 2, "a/model", 2000) };
    let _dear = worker(&network, dear, "fake_tdx", engine).await;
    let _other =
        worker(&network, offering(&network, 3, "b/model", 1000), "fake_tdx", FixedEngine("x".into())).await;
    let gateway = gateway_of(&network).await;

    // Before anything was measured. What each showed of its machine comes a moment later.
    let market = market_with(&gateway, "three offers with their evidence", |market| {
        let offers = model(market, "a/model")["offers"].as_array();
        offers.is_some_and(|offers| offers.len() == 2 && offers.iter().all(|o| o["attestation"] != "unknown"))
            && model(market, "b/model")["workers"] == 1
    })
    .await;
    let a = model(&market, "a/model");
    let [cheap, dear] = [&a["offers"][0], &a["offers"][1]];
    // A million tokens at 2 nanoton, by class and coefficient.
    let prices = |coefficient: u64| {
        json!({
            "coefficient": coefficient,
            "prompt_nanoton_per_million": 2_000 * coefficient,
            "cached_nanoton_per_million": 200 * coefficient,
            "completion_nanoton_per_million": 8_000 * coefficient,
            "reasoning_nanoton_per_million": 4_000 * coefficient,
        })
    };
    assert_eq!((&cheap["price"], &dear["price"]), (&prices(500), &prices(2000)));
    assert_eq!((&a["price"], &a["highest_price"]), (&cheap["price"], &dear["price"]));
    assert_eq!((&a["workers"], &a["capacity"], &a["active"]), (&json!(2), &json!(107), &json!(0)));
    assert_eq!((&cheap["capacity"], &dear["capacity"]), (&json!(100), &json!(7)));
    assert_eq!((&cheap["attestation"], &dear["attestation"]), (&json!("fake_tdx"), &json!("fake_tdx")));
    assert_eq!((&dear["verified_by"], &a["insecure"]), (&json!("proxy"), &json!(true)));
    for offer in [cheap, dear] {
        assert_eq!(offer["requests"], 0, "{offer:#}");
        assert_eq!(
            (&offer["first_byte_ms"], &offer["success_rate"]),
            (&Value::Null, &Value::Null),
            "{offer:#}"
        );
        assert_eq!(offer["proxy"], market["proxies"][0]["fingerprint"]);
    }
    assert_ne!(cheap["worker"], dear["worker"]);

    // The cheap one fails, and the dear one answers, but takes its time.
    let slow = Duration::from_millis(120);
    let answering = async {
        next(&mut cheap_calls).await.fail();
        let call = next(&mut dear_calls).await;
        tokio::time::sleep(slow).await;
        let answer = call.stream();
        answer.send(delta("hello")).await;
        let during =
            market_with(&gateway, "a request under way", |market| model(market, "a/model")["active"] == 1)
                .await;
        assert_eq!(model(&during, "a/model")["offers"][1]["active"], 1, "{during:#}");
        answer.send(usage_event(10, 5)).await;
    };
    let body = json!({"stream": true, "preference": "cheapest"});
    let (reply, ()) = tokio::join!(ask(&gateway, "a/model", body), answering);
    assert!(reply.status == 200 && reply.body.contains("hello"), "{reply:?}");
    let market = market_with(&gateway, "what was measured", |market| {
        model(market, "a/model")["offers"][1]["requests"] == 1 && model(market, "a/model")["active"] == 0
    })
    .await;
    let a = model(&market, "a/model");
    let figure = |offer: usize, name: &str| a["offers"][offer][name].as_f64();
    assert_eq!(figure(0, "requests"), Some(1.0));
    let (failed, answered) = (figure(0, "success_rate").unwrap(), figure(1, "success_rate").unwrap());
    assert!((0.5..1.0).contains(&failed) && answered == 1.0, "{a:#}");
    let first_byte = figure(1, "first_byte_ms").unwrap();
    assert!(slow.as_secs_f64() * 1e3 <= first_byte && first_byte < 20_000.0, "{a:#}");
    assert!(figure(1, "tokens_per_second").unwrap() > 0.0, "{a:#}");
    assert_eq!(a["offers"][0]["first_byte_ms"], Value::Null, "it never had one");

    // The same for people.
    let shown = get(gateway.http_addr(), "/market").await;
    assert!(shown.status == 200 && shown.head.contains("content-type: text/html"), "{}", shown.head);
    assert!(shown.head.contains("content-security-policy: default-src 'none'"), "{}", shown.head);
    let fingerprint = |offer: usize| a["offers"][offer]["worker"].as_str().unwrap().to_owned();
    for text in [
        "a/model".to_owned(),
        "b/model".to_owned(),
        format!("/v1/attestation/{}", fingerprint(0)),
        format!("/v1/attestation/{}", fingerprint(1)),
        "fake_tdx (by the proxy)".to_owned(),
        format!("{first_byte:.0} ms"),
        "0.016".to_owned(),
    ] {
        assert!(shown.body.contains(&text), "{text} is not in {}", shown.body);
    }
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_key_for_some_models_sees_these_and_is_counted_by_its_id() {
    let network = Network::start().await;
    let _a = worker(&network, offering(&network, 1, "a/model", 1000), "none", FixedEngine("x".into())).await;
    let _b = worker(&network, offering(&network, 2, "b/model", 1000), "none", FixedEngine("x".into())).await;
    let gateway = gateway_of(&network).await;
    let http = gateway.http_addr();
    let settings = json!({"name": "team", "models": ["a/*"]});
    let made = call(http, "POST", "/admin/keys", ADMIN_TOKEN, &settings).await;
    let made: Value = serde_json::from_str(&made.body).unwrap();
    let (secret, id) = (made["secret"].as_str().unwrap(), made["id"].as_str().unwrap());
    let all = |market: &Value| {
        let evidence = |name: &str| model(market, name)["offers"][0]["attestation"].clone();
        ["a/model", "b/model"].iter().all(|name| evidence(name) == "none")
    };
    market_with(&gateway, "both models, of workers that show nothing", all).await;
    let names = |list: &Value| -> Vec<String> {
        let models = list.as_array().unwrap().iter();
        models.map(|model| model["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&page(&gateway, "/v1/models").await["data"]), ["a/model", "b/model"], "without a key");

    let get_with = async |path: &str| call(http, "GET", path, secret, &Value::Null).await;
    let parsed = |reply: Reply| serde_json::from_str::<Value>(&reply.body).unwrap();
    assert_eq!(names(&parsed(get_with("/v1/models").await)["data"]), ["a/model"]);
    assert_eq!(names(&parsed(get_with("/v1/market").await)["models"]), ["a/model"]);
    let shown = get_with("/market").await.body;
    assert!(shown.contains("a/model") && !shown.contains("b/model"), "{shown}");
    assert_eq!(get_with("/v1/models/a/model").await.status, 200);
    let shown = parsed(get_with("/v1/attestation").await);
    assert_eq!(shown["proxies"][0]["workers_total"], 1, "{shown:#}");
    assert_eq!(page(&gateway, "/v1/attestation").await["proxies"][0]["workers_total"], 2);
    let hidden = get_with("/v1/models/b/model").await;
    let error = parsed(hidden)["error"].clone();
    assert_eq!(
        (&error["code"], error["message"].as_str().unwrap().contains("Available models: a/model.")),
        (&json!("model_not_found"), true)
    );
    // Nor does a misspelt name tell it of others.
    let body = json!({"model": "a/misspelt", "messages": [{"role": "user", "content": "Hello?"}]});
    let misspelt = parsed(call(http, "POST", "/v1/chat/completions", secret, &body).await);
    let message = misspelt["error"]["message"].as_str().unwrap();
    assert!(message.contains("a/model") && !message.contains("b/model"), "{message}");

    let body = json!({"model": "a/model", "messages": [{"role": "user", "content": "Hello?"}]});
    assert_eq!(cost(&call(http, "POST", "/v1/chat/completions", secret, &body).await), 30);
    let lines = [
        format!("cocoon_gateway_key_requests_total{{key=\"{id}\"}} 2\n"),
        format!("cocoon_gateway_key_tokens_total{{key=\"{id}\",class=\"prompt\"}} 10\n"),
        format!("cocoon_gateway_key_tokens_total{{key=\"{id}\",class=\"completion\"}} 5\n"),
        format!("cocoon_gateway_key_cost_nanoton_total{{key=\"{id}\"}} 30\n"),
    ];
    // A request is counted when it is over, which its caller may see a moment before.
    let metrics = within("the key's figures", async {
        loop {
            let metrics = get(http, "/metrics").await.body;
            if lines.iter().all(|line| metrics.contains(line)) {
                return metrics;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(!metrics.contains(secret) && !metrics.contains("team"));
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_price_that_follows_the_load_moves_between_its_bounds_beside_one_that_is_fixed() {
    const PLACES: usize = 20;
    let network = Network::start().await;
    let fixed = offering(&network, 1, "fixed/model", 1000);
    let _fixed = worker(&network, fixed, "none", FixedEngine("x".into())).await;
    let bounds = Bounds { floor: 800, ceiling: 1200, pace_permille: 500 };
    let moving = WorkerConfig {
        follow_load: Some(FollowConfig { bounds, every: Duration::from_secs(1) }),
        max_active: u32::try_from(PLACES).unwrap(),
        ..offering(&network, 2, "moving/model", 1000)
    };
    let (engine, mut calls) = ScriptedEngine::new();
    let _moving = worker(&network, moving, "none", engine).await;
    let gateway = gateway_of(&network).await;
    let asks = |market: &Value, name: &str| model(market, name)["price"]["coefficient"].as_u64();
    let asking = async |coefficient: u64| {
        let market = market_with(&gateway, &format!("a price of {coefficient}"), |market| {
            asks(market, "moving/model") == Some(coefficient)
        })
        .await;
        assert_eq!(asks(&market, "fixed/model"), Some(1000));
        market
    };

    // Nobody asks, so it falls to its floor, and what it costs is what it says.
    asking(800).await;
    let (reply, ()) = tokio::join!(ask(&gateway, "moving/model", json!({"max_coefficient": 800})), async {
        next(&mut calls).await.answer("cheap");
    });
    assert_eq!(cost(&reply), 24, "15 tokens at 2 nanoton and 0.8");
    assert_eq!(cost(&ask(&gateway, "fixed/model", json!({})).await), 30);

    // It is all but full, so it rises to its ceiling, and no further.
    let waiting: Vec<_> = (1..PLACES).map(|_| ask(&gateway, "moving/model", json!({}))).collect();
    let while_full = async {
        let mut held = Vec::new();
        for _ in 1..PLACES {
            held.push(next(&mut calls).await);
        }
        let market = asking(1200).await;
        assert_eq!(model(&market, "moving/model")["active"], json!(PLACES - 1));
        let refused = ask(&gateway, "moving/model", json!({"max_coefficient": 1199})).await;
        let refused: Value = serde_json::from_str(&refused.body).unwrap();
        assert_eq!(refused["error"]["code"], "price_cap_too_low", "{refused}");
        let (reply, ()) =
            tokio::join!(ask(&gateway, "moving/model", json!({"max_coefficient": 1200})), async {
                next(&mut calls).await.answer("dear");
            });
        assert_eq!(cost(&reply), 36, "15 tokens at 2 nanoton and 1.2");
        held.into_iter().for_each(|call| call.answer("at last"));
    };
    let (replies, ()) = tokio::join!(futures_util::future::join_all(waiting), while_full);
    for reply in &replies {
        assert!((24..=36).contains(&cost(reply)), "{reply:?}");
    }

    // And back.
    asking(800).await;
    gateway.shutdown().await;
}
