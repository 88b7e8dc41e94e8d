//! A gateway's keys under load, in a crash, and when they are taken away.

use std::cell::Cell;
use std::net::SocketAddr;

use cocoon_gateway::Gateway;
use cocoon_network_tests::{
    ADMIN_TOKEN, Ask, FixedEngine, Network, ScriptedEngine, call, gateway_with, until, within,
};
use serde_json::{Value, json};

use crate::durability::Process;

/// What an answer of the fixed engine costs, in nanoton: 15 tokens at 2.
const COST: u64 = 30;

async fn operate(gateway: SocketAddr, method: &str, path: &str, body: Value) -> Value {
    let reply = call(gateway, method, path, ADMIN_TOKEN, &body).await;
    assert!((200..300).contains(&reply.status), "{method} {path}: {reply:?}");
    serde_json::from_str(&reply.body).unwrap()
}

async fn make_key(gateway: SocketAddr, settings: Value) -> String {
    let key = operate(gateway, "POST", "/admin/keys", settings).await;
    key["secret"].as_str().unwrap().to_owned()
}

async fn shown(gateway: SocketAddr, key: &str) -> Value {
    operate(gateway, "GET", &format!("/admin/keys/{key}"), Value::Null).await
}

async fn ask(gateway: SocketAddr, secret: &str) -> u16 {
    call(gateway, "POST", "/v1/chat/completions", secret, &Ask::default().body).await.status
}

async fn gateway_of(network: &Network) -> Gateway {
    let with_admin = |config: &mut cocoon_gateway::GatewayConfig| {
        config.access.admin_token = Some(ADMIN_TOKEN.to_owned().into());
    };
    let proxies = [network.proxy.clients_addr()];
    let gateway = gateway_with(&proxies, network.dir.path(), network.chain.clone(), with_admin).await;
    within("the gateway to be ready", gateway.ready()).await;
    gateway
}

#[tokio::test]
async fn a_key_that_is_revoked_under_load_opens_nothing_from_that_moment_on() {
    let network = Network::start().await;
    let _worker = network.worker(1, FixedEngine("hello".into())).await;
    let gateway = gateway_of(&network).await;
    let http = gateway.http_addr();
    let (secret, other) =
        (make_key(http, json!({"name": "a"})).await, make_key(http, json!({"name": "b"})).await);
    let (answered, revoked, refused) = (Cell::new(0_u64), Cell::new(false), Cell::new(0_u64));
    let load = async || {
        while refused.get() < 40 {
            let begun_after = revoked.get();
            match ask(http, &secret).await {
                200 => {
                    assert!(!begun_after, "a revoked key was let in");
                    answered.set(answered.get() + 1);
                }
                401 => refused.set(refused.get() + 1),
                other => panic!("status {other}"),
            }
        }
    };
    let revoking = async {
        until("requests to be answered", || answered.get() >= 100).await;
        operate(http, "DELETE", "/admin/keys/a", Value::Null).await;
        revoked.set(true);
    };
    tokio::join!(load(), load(), load(), load(), revoking);
    assert_eq!(ask(http, &other).await, 200, "other keys are not touched");
    let usage = operate(http, "GET", "/admin/usage?key=a", Value::Null).await;
    let totals = &usage["totals"];
    let good = totals["requests"].as_u64().unwrap() - totals["errors"].as_u64().unwrap();
    assert_eq!(good, answered.get(), "who is nobody is counted for nobody");
    until("the notices", || gateway.spent().nanoton.nano() == (answered.get() + 1) * COST).await;
    let usage = operate(http, "GET", "/admin/usage", Value::Null).await;
    assert_eq!(usage["totals"]["cost_nanoton"], (answered.get() + 1) * COST);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_budget_is_spent_to_its_end_and_never_beyond_while_many_ask() {
    let network = Network::start().await;
    let _worker = network.worker(1, FixedEngine("hello".into())).await;
    let gateway = gateway_of(&network).await;
    let http = gateway.http_addr();
    let budget = 20_000;
    let secret = make_key(http, json!({"name": "a", "budget_nanoton": budget})).await;
    let (answered, refused) = (Cell::new(0_u64), Cell::new(0_u64));
    let load = async || {
        for _ in 0..60 {
            match ask(http, &secret).await {
                200 => answered.set(answered.get() + 1),
                429 => refused.set(refused.get() + 1),
                other => panic!("status {other}"),
            }
        }
    };
    tokio::join!(load(), load(), load(), load(), load(), load(), load(), load());
    until("the notices", || gateway.spent().nanoton.nano() == answered.get() * COST).await;
    let key = shown(http, "a").await;
    assert_eq!((&key["spent_nanoton"], &key["reserved_nanoton"]), (&json!(answered.get() * COST), &json!(0)));
    assert!(
        answered.get() > 0 && refused.get() > 0,
        "{} answered, {} refused",
        answered.get(),
        refused.get()
    );
    assert!(answered.get() * COST <= budget);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_gateway_that_is_killed_forgets_no_key_and_counts_what_was_under_way_as_spent() {
    let network = Network::start().await;
    let (engine, mut calls) = ScriptedEngine::new();
    let _worker = network.worker(1, engine).await;
    let port = network.proxy.clients_addr().port().to_string();
    let arguments = ["gateway", network.dir.path().to_str().unwrap(), &port];
    let process = Process::start(&arguments).await;
    let http = process.http;
    let secret = make_key(http, json!({"name": "a", "budget_nanoton": 1_000_000})).await;
    let gone = make_key(http, json!({"name": "b"})).await;
    operate(http, "DELETE", "/admin/keys/b", Value::Null).await;

    let answering = async {
        within("the call", calls.recv()).await.unwrap().answer("hello");
        calls
    };
    let (status, mut calls) = tokio::join!(ask(http, &secret), answering);
    assert_eq!(status, 200);
    let pending = {
        let secret = secret.clone();
        tokio::spawn(async move { ask(http, &secret).await })
    };
    let _call = within("the second call", calls.recv()).await.unwrap();
    // What an operator changes is durable when he is told, and with it what came before.
    let before = operate(http, "PATCH", "/admin/keys/a", json!({"concurrent_requests": 100})).await;
    let reserved = before["reserved_nanoton"].as_u64().unwrap();
    assert_eq!(before["spent_nanoton"], COST);
    assert!(reserved > COST);
    process.kill().await;
    assert_eq!(pending.await.unwrap(), 0, "the connection is gone");

    let process = Process::start(&arguments).await;
    let http = process.http;
    let after = shown(http, "a").await;
    assert_eq!(after["spent_nanoton"], COST + reserved, "the most that it can have cost");
    assert_eq!((&after["unsettled_nanoton"], &after["reserved_nanoton"]), (&json!(reserved), &json!(0)));
    assert_eq!(after["concurrent_requests"], 100);
    assert_eq!(ask(http, &gone).await, 401, "what was revoked stays revoked");
    let usage = operate(http, "GET", "/admin/usage?key=a", Value::Null).await;
    assert_eq!(usage["totals"]["cost_nanoton"], COST);
    let forgiven = operate(http, "PATCH", "/admin/keys/a", json!({"forgive_unsettled": true})).await;
    assert_eq!(forgiven["spent_nanoton"], COST);
    process.kill().await;
    let process = Process::start(&arguments).await;
    assert_eq!(shown(process.http, "a").await["spent_nanoton"], COST, "also that is durable");
}
