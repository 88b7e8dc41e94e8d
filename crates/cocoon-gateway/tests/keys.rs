//! Keys at a gateway: who is let in, what is limited, what is counted, and what browsers may do.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cocoon_gateway::{AccessConfig, RequireKeys};
use http::Method;
use serde_json::{Value, json};
use support::keys::{TOKEN, admin, ask_with, make_key, message, operate, shown};
use support::{
    MODEL, Network, PRICE, Plan, Reply, Scripted, ask, chat, delta, done, eventually, json_answer, sse, usage,
};
use tokio::sync::Semaphore;

/// What an answer of `chat(11, 4)` costs.
const COST: u64 = 15 * PRICE;

fn locked(access: &mut AccessConfig) {
    admin(access);
    access.require_keys = RequireKeys::Always;
}

/// A gateway with the admin API that asks for no key, and an engine that answers at once.
async fn open_network() -> Network {
    let engine = Scripted::new(|_| async { Ok(json_answer(200, &chat(11, 4))) });
    Network::start(Plan { access: admin, ..Plan::default() }, vec![engine]).await
}

/// The same, which asks for one from its second start on.
async fn locked_network(engine: Arc<Scripted>, settings: Value) -> (Network, String, Value) {
    let network = Network::start(Plan { access: admin, ..Plan::default() }, vec![engine]).await;
    let (secret, key) = make_key(&network, settings).await;
    (network.restart_gateway(&Plan { access: locked, ..Plan::default() }).await, secret, key)
}

async fn get_with(network: &Network, secret: &str, path: &str) -> Reply {
    let mut client = network.client().await;
    client.send(message(Method::GET, path, &[("x-api-key", secret)], &Value::Null)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_key_is_needed_only_a_good_one_opens() {
    let engine = Scripted::new(|_| async { Ok(json_answer(200, &chat(11, 4))) });
    let (network, secret, key) = locked_network(engine.clone(), json!({"name": "team"})).await;
    let mut client = network.client().await;
    let mistyped = format!("{}{}", &secret[..51], if secret.ends_with('A') { 'B' } else { 'A' });
    let other = cocoon_gateway_secret();
    for bad in ["", "none", "sk-proj-1", mistyped.as_str(), other.as_str()] {
        let reply = ask_with(&mut client, bad, &ask(&json!({}))).await;
        let (status, kind, code, _) = reply.error();
        assert_eq!((status, kind.as_str(), code.as_str()), (401, "invalid_request_error", "invalid_api_key"));
        assert_eq!(reply.header("www-authenticate"), "Bearer");
    }
    assert_eq!(engine.asked.lock().unwrap().len(), 0, "nothing goes on without a key");
    for path in ["/v1/models", "/v1/attestation", "/v1/usage", "/metrics", "/jsonstats", "/v1/models/x"] {
        let reply = client.send(message(Method::GET, path, &[], &Value::Null)).await;
        assert_eq!(reply.status, 401, "{path}");
    }
    let health = client.send(message(Method::GET, "/health", &[("host", "any.example")], &Value::Null)).await;
    assert_eq!(health.status, 200, "load balancers have no keys");

    let named = json!({"enable_debug": true, "request_guid": "mine"});
    let reply = ask_with(&mut client, &secret, &ask(&named)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let sent = format!("{:?}", engine.asked.lock().unwrap()[0].headers);
    assert!(!sent.contains("ck-"), "the key stays here: {sent}");
    assert_eq!(get_with(&network, &secret, "/v1/models").await.status, 200);
    assert_eq!(get_with(&network, &secret, "/metrics").await.error().2, "endpoint_not_allowed");
    let (prometheus, _) = make_key(&network, json!({"name": "prometheus", "endpoints": ["metrics"]})).await;
    assert!(
        get_with(&network, &prometheus, "/metrics").await.text().contains("cocoon_gateway_requests_total")
    );
    assert_eq!(get_with(&network, TOKEN, "/jsonstats").await.status, 200);
    let debug = "/request/debuglogentry?request_guid=mine";
    assert_eq!(get_with(&network, &secret, debug).await.status, 200);
    assert_eq!(get_with(&network, &prometheus, debug).await.status, 404, "it is another's");
    let began = Instant::now();
    for page in ["/metrics", "/jsonstats", "/metrics"] {
        assert_eq!(get_with(&network, "a guess", page).await.status, 401);
    }
    assert!(began.elapsed() >= Duration::from_millis(750), "guesses are answered slowly");
    assert_eq!(ask_with(&mut client, &prometheus, &ask(&json!({}))).await.error().2, "endpoint_not_allowed");

    let id = key["id"].as_str().unwrap();
    let revoked = operate(&network, Method::DELETE, &format!("/admin/keys/{id}"), Value::Null).await;
    assert_eq!(revoked.json()["state"], "revoked");
    assert_eq!(ask_with(&mut client, &secret, &ask(&json!({}))).await.status, 401, "on the same connection");
    let network = network.restart_gateway(&Plan { access: locked, ..Plan::default() }).await;
    let mut client = network.client().await;
    assert_eq!(ask_with(&mut client, &secret, &ask(&json!({}))).await.status, 401, "also after a restart");
}

/// A well-formed key that nobody made.
fn cocoon_gateway_secret() -> String {
    cocoon_access::KeySecret::from_random([9; 32]).to_text().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_for_its_models_and_endpoints_only() {
    let network = open_network().await;
    let (secret, _) = make_key(&network, json!({"name": "a", "models": ["other/*"]})).await;
    let mut client = network.client().await;
    let (status, _, code, param) = ask_with(&mut client, &secret, &ask(&json!({}))).await.error();
    assert_eq!((status, code.as_str(), param), (403, "model_not_allowed", json!("model")));
    let (secret, _) =
        make_key(&network, json!({"name": "b", "models": ["test/*"], "endpoints": ["completions"]})).await;
    assert_eq!(ask_with(&mut client, &secret, &ask(&json!({}))).await.error().2, "endpoint_not_allowed");
    let path = "/admin/keys/b";
    let changed = operate(&network, Method::PATCH, path, json!({"endpoints": ["chat"]})).await;
    assert_eq!(changed.json()["models"], json!(["test/*"]), "what is not named stays");
    assert_eq!(ask_with(&mut client, &secret, &ask(&json!({}))).await.status, 200);
    operate(&network, Method::PATCH, path, json!({"disabled": true})).await;
    assert_eq!(ask_with(&mut client, &secret, &ask(&json!({}))).await.error().0, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_told_on_every_answer_and_kept() {
    let network = open_network().await;
    let settings = json!({"name": "a", "requests_per_minute": 2, "tokens_per_minute": 10_000});
    let (secret, _) = make_key(&network, settings).await;
    let mut client = network.client().await;
    let first = ask_with(&mut client, &secret, &ask(&json!({"max_tokens": 50}))).await;
    assert_eq!(first.header("x-ratelimit-limit-requests"), "2");
    assert_eq!(first.header("x-ratelimit-remaining-requests"), "1");
    assert_eq!(first.header("x-ratelimit-limit-tokens"), "10000");
    assert!(first.header("x-ratelimit-reset-requests").ends_with('s'));
    assert_eq!(ask_with(&mut client, &secret, &ask(&json!({}))).await.status, 200);
    let third = ask_with(&mut client, &secret, &ask(&json!({}))).await;
    assert_eq!(third.error().2, "rate_limit_exceeded");
    let wait: u64 = third.header("retry-after").parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    assert_eq!(third.header("x-ratelimit-remaining-requests"), "0");
    // Tokens: what was set aside beyond what was used came back.
    let left: u64 = third.header("x-ratelimit-remaining-tokens").parse().unwrap();
    assert!((10_000 - 2 * 15..=10_000).contains(&left), "{left}");
    let plain = network.client().await.post(&ask(&json!({}))).await;
    assert_eq!(plain.header("x-ratelimit-limit-requests"), "", "who has no key has no limits");

    let (secret, _) = make_key(&network, json!({"name": "b", "tokens_per_minute": 100})).await;
    let many = ask_with(&mut client, &secret, &ask(&json!({"max_tokens": 50}))).await;
    assert_eq!(many.status, 200);
    let more = ask_with(&mut client, &secret, &ask(&json!({"max_tokens": 90}))).await;
    assert_eq!(more.error().2, "rate_limit_exceeded", "{}", more.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_so_many_requests_of_a_key_are_under_way() {
    let gate = Arc::new(Semaphore::new(0));
    let engine = {
        let gate = Arc::clone(&gate);
        Scripted::new(move |_| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                Ok(json_answer(200, &chat(11, 4)))
            }
        })
    };
    let plan = Plan { access: admin, ..Plan::default() };
    let network = Network::start(plan, vec![engine.clone()]).await;
    let (secret, _) = make_key(&network, json!({"name": "a", "concurrent_requests": 1})).await;
    let mut slow = network.client().await;
    let bearer = secret.clone();
    let first = tokio::spawn(async move { ask_with(&mut slow, &bearer, &ask(&json!({}))).await });
    eventually("the first at the engine", || (engine.asked.lock().unwrap().len() == 1).then_some(())).await;
    let mut client = network.client().await;
    let second = ask_with(&mut client, &secret, &ask(&json!({}))).await;
    assert_eq!((second.error().2.as_str(), second.header("retry-after")), ("rate_limit_exceeded", "1"));
    assert_eq!(shown(&network, "a").await["requests_under_way"], 1);
    // Revoked meanwhile: what is under way ends, nothing new begins.
    operate(&network, Method::DELETE, "/admin/keys/a", Value::Null).await;
    gate.add_permits(1);
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(ask_with(&mut client, &secret, &ask(&json!({}))).await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_is_told_by_day_model_and_endpoint_to_the_key_and_to_operators() {
    let engine = Scripted::new(|request| async move {
        let streamed = String::from_utf8_lossy(&request.body).contains("\"stream\":true");
        if streamed {
            return Ok(sse(vec![delta("a"), usage(11, 4), done()]));
        }
        Ok(json_answer(200, &chat(11, 4)))
    });
    let network = Network::start(Plan { access: admin, ..Plan::default() }, vec![engine]).await;
    let (secret, key) = make_key(&network, json!({"name": "=team"})).await;
    let mut client = network.client().await;
    for body in [json!({}), json!({"stream": true}), json!({"model": "no/such"})] {
        let reply = ask_with(&mut client, &secret, &ask(&body)).await;
        assert_eq!(reply.status, if body["model"].is_null() { 200 } else { 404 });
    }
    network.client().await.post(&ask(&json!({}))).await;
    network.spent(45).await;

    let own = get_with(&network, &secret, "/v1/usage").await.json();
    let good = own["data"].as_array().unwrap().iter().find(|row| row["model"] == MODEL).unwrap().clone();
    assert_eq!(
        (&good["requests"], &good["errors"], &good["endpoint"]),
        (&json!(2), &json!(0), &json!("chat"))
    );
    assert_eq!((&good["prompt_tokens"], &good["completion_tokens"]), (&json!(22), &json!(8)));
    assert_eq!((&own["totals"]["requests"], &own["totals"]["errors"]), (&json!(3), &json!(1)));
    assert_eq!(own["totals"]["cost_nanoton"], 2 * COST);
    assert_eq!((&own["key"]["name"], &own["key"]["spent_nanoton"]), (&json!("=team"), &json!(2 * COST)));
    assert!(!own.to_string().contains(&secret[9..]), "the secret is shown once");

    let id = key["id"].as_str().unwrap();
    let all = operate(&network, Method::GET, "/admin/usage", Value::Null).await.json();
    assert_eq!(all["totals"]["cost_nanoton"], 3 * COST, "callers without a key are counted, too");
    let csv = operate(
        &network,
        Method::GET,
        &format!("/admin/usage?format=csv&key={id}&model=test%2Fmodel"),
        Value::Null,
    )
    .await;
    assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8");
    let lines: Vec<_> = csv.text().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[1].contains(&format!("{id},\"'=team\",\"test/model\",chat,2,0,22,0,8,0,0,{}", 2 * COST)),
        "{}",
        lines[1]
    );
    for (query, status) in [
        ("from=2026-01-01&to=2025-01-01", 400),
        ("from=yesterday", 400),
        ("key=nobody", 400),
        ("colour=red", 400),
        ("from=2020-01-01&to=2021-01-01", 200),
        ("from=2020-01-01&to=2021-01-02", 400),
    ] {
        let reply = operate(&network, Method::GET, &format!("/admin/usage?{query}"), Value::Null).await;
        assert_eq!(reply.status, status, "{query}: {}", reply.text());
    }
    let forbidden = get_with(&network, &secret, "/v1/usage?key=none").await;
    assert_eq!(forbidden.status, 400, "a key asks for its own use only");

    let network = network.restart_gateway(&Plan { access: admin, ..Plan::default() }).await;
    let again = operate(&network, Method::GET, "/admin/usage", Value::Null).await.json();
    assert_eq!(again["totals"], all["totals"], "a restart forgets nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_api_is_for_the_admin_token_alone() {
    let network = open_network().await;
    let (secret, _) = make_key(&network, json!({"name": "a"})).await;
    let mut client = network.client().await;
    for bad in ["", "wrong", secret.as_str(), &TOKEN[1..]] {
        let bearer = format!("Bearer {bad}");
        let reply = client
            .send(message(Method::GET, "/admin/keys", &[("authorization", &bearer)], &Value::Null))
            .await;
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (401, ""), "{bad}");
    }
    let bearer = format!("Bearer {TOKEN}");
    for origin in ["http://localhost:3000", "https://evil.example", "null"] {
        let headers = [("authorization", bearer.as_str()), ("origin", origin)];
        let reply = client.send(message(Method::GET, "/admin/keys", &headers, &Value::Null)).await;
        assert_eq!(
            (reply.error().2.as_str(), reply.header("access-control-allow-origin")),
            ("origin_not_allowed", "")
        );
        let asked = [("origin", origin), ("access-control-request-headers", "authorization")];
        let reply = client.send(message(Method::OPTIONS, "/admin/keys", &asked, &Value::Null)).await;
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (403, ""));
    }
    for (method, path, body, status, code) in [
        (Method::POST, "/admin/keys", json!({}), 400, "invalid_value"),
        (Method::POST, "/admin/keys", json!({"name": "b", "budget": 1}), 400, "invalid_value"),
        (Method::POST, "/admin/keys", json!({"name": "a"}), 409, "name_taken"),
        (Method::POST, "/admin/keys", json!({"name": "b", "endpoints": ["chats"]}), 400, "invalid_value"),
        (Method::POST, "/admin/keys", json!([]), 400, "invalid_json"),
        (Method::POST, "/admin/keys", json!({"name": "x".repeat(70_000)}), 413, "request_too_large"),
        (Method::GET, "/admin/keys/nobody", Value::Null, 404, "key_not_found"),
        (Method::PUT, "/admin/keys/a", json!({}), 405, "method_not_allowed"),
        (Method::GET, "/admin/nothing", Value::Null, 404, "unknown_url"),
        (Method::POST, "/admin/keys/a/rotate", json!({"grace_seconds": -1}), 400, "invalid_value"),
        (Method::POST, "/admin/keys/a/rotate", json!({"grace": 1}), 400, "invalid_value"),
    ] {
        let reply = operate(&network, method.clone(), path, body).await;
        assert_eq!((reply.status, reply.error().2.as_str()), (status, code), "{method} {path}");
    }
    let rotated =
        operate(&network, Method::POST, "/admin/keys/a/rotate", json!({"grace_seconds": 3600})).await.json();
    let new = rotated["secret"].as_str().unwrap();
    for secret in [secret.as_str(), new] {
        assert_eq!(ask_with(&mut client, secret, &ask(&json!({}))).await.status, 200);
    }
    operate(&network, Method::POST, "/admin/keys/a/rotate", Value::Null).await;
    for secret in [secret.as_str(), new] {
        assert_eq!(ask_with(&mut client, secret, &ask(&json!({}))).await.status, 401);
    }
    let list = operate(&network, Method::GET, "/admin/keys", Value::Null).await;
    assert!(!list.text().contains("hash") && !list.text().contains("secret"), "{}", list.text());

    let engine = Scripted::new(|_| async { Ok(json_answer(200, &chat(11, 4))) });
    let without = Network::with(engine).await;
    assert_eq!(operate(&without, Method::GET, "/admin/keys", Value::Null).await.error().2, "unknown_url");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_keys_only_this_machines_names_and_pages_are_let_in() {
    let engine = Scripted::new(|_| async { Ok(json_answer(200, &chat(11, 4))) });
    let plan = Plan {
        access: |access| {
            admin(access);
            access.allowed_hosts = vec!["gateway.internal".to_owned()];
            access.allowed_origins = vec!["https://app.example".to_owned()];
        },
        ..Plan::default()
    };
    let network = Network::start(plan, vec![engine.clone()]).await;
    let (secret, _) = make_key(&network, json!({"name": "a"})).await;
    let mut client = network.client().await;
    let chat_path = "/v1/chat/completions";
    for (host, status) in [
        ("localhost:10000", 200),
        ("127.0.0.1", 200),
        ("[::1]:10000", 200),
        ("Gateway.Internal:80", 200),
        ("rebound.example", 403),
        ("localhost.rebound.example", 403),
    ] {
        let reply = client.send(message(Method::POST, chat_path, &[("host", host)], &ask(&json!({})))).await;
        assert_eq!(reply.status, status, "{host}: {}", reply.text());
        if status == 403 {
            assert_eq!(
                (reply.error().2.as_str(), reply.header("access-control-allow-origin")),
                ("host_not_allowed", "")
            );
        }
    }
    let before = engine.asked.lock().unwrap().len();
    for (origin, status) in [
        ("http://localhost:3000", 200),
        ("http://127.0.0.1:5173", 200),
        ("https://app.example", 200),
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
    ] {
        let reply =
            client.send(message(Method::POST, chat_path, &[("origin", origin)], &ask(&json!({})))).await;
        assert_eq!(reply.status, status, "{origin}: {}", reply.text());
        assert_eq!(reply.header("access-control-allow-origin"), origin, "the page may read why");
        let asked = [("origin", origin), ("access-control-request-headers", "content-type")];
        let reply = client.send(message(Method::OPTIONS, chat_path, &asked, &Value::Null)).await;
        assert_eq!(reply.status, if status == 200 { 204 } else { 403 }, "{origin}");

        // A page that was given a key may use it; one that makes one up gets nothing.
        let asked = [("origin", origin), ("access-control-request-headers", "authorization, content-type")];
        let reply = client.send(message(Method::OPTIONS, chat_path, &asked, &Value::Null)).await;
        assert_eq!(
            (reply.status, reply.header("access-control-allow-headers")),
            (204, "authorization, content-type")
        );
        let bearer = format!("Bearer {secret}");
        let keyed = [("origin", origin), ("authorization", bearer.as_str())];
        let reply = client.send(message(Method::POST, chat_path, &keyed, &ask(&json!({})))).await;
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, "*"), "{origin}");
        let made_up = [("origin", origin), ("authorization", "Bearer none")];
        let reply = client.send(message(Method::POST, chat_path, &made_up, &ask(&json!({})))).await;
        assert_eq!(reply.status, status, "{origin}");
    }
    assert_eq!(engine.asked.lock().unwrap().len() - before, 3 * 3 + 3, "what is refused reaches no engine");
}

#[tokio::test]
async fn a_gateway_for_others_does_not_start_without_a_key() {
    for (http, require_keys, words) in [
        ("0.0.0.0:0", RequireKeys::Never, "require_keys"),
        ("0.0.0.0:0", RequireKeys::Auto, "cocoon keys add"),
        ("127.0.0.1:0", RequireKeys::Always, "cocoon keys add"),
    ] {
        let error = support::try_start(http, require_keys).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    support::try_start("127.0.0.1:0", RequireKeys::Never).await.unwrap();
}
