//! Answers that do not go well: the caller gets the right status and never takes a part for the whole.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cocoon_chain::TestModeClient;
use cocoon_engine::EngineError;
use cocoon_gateway::GatewayLimits;
use cocoon_ton::RegisteredProxy;
use futures_util::stream::{self, StreamExt as _};
use http::{HeaderValue, Method};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use support::{
    MODEL, Network, PRICE, Plan, Scripted, ask, chat, delta, done, event, eventually, finish, json_answer,
    request, respond, sse, usage,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn answers() -> Arc<Scripted> {
    Scripted::new(|_| async { Ok(json_answer(200, &chat(11, 4))) })
}

/// Answers never.
fn silent() -> Arc<Scripted> {
    Scripted::new(|_| std::future::pending())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_request_is_told_which_field_is_wrong() {
    let network = Network::with(answers()).await;
    let mut client = network.client().await;
    let post = |text: &str| request(Method::POST, "/v1/chat/completions", Bytes::from(text.to_owned()));
    for (body, code, param) in [
        ("{", "invalid_json", Value::Null),
        ("[]", "invalid_json", Value::Null),
        (r#"{"model":"m"}"#, "missing_required_parameter", json!("messages")),
        (r#"{"messages":[1]}"#, "missing_required_parameter", json!("model")),
        (r#"{"model":"m","messages":[1],"max_tokens":-1}"#, "invalid_type", json!("max_tokens")),
        (r#"{"model":"m","messages":[1],"timeout":0}"#, "invalid_value", json!("timeout")),
        (&ask(&json!({"model": "m".repeat(513)})).to_string(), "invalid_value", json!("model")),
    ] {
        let error = client.send(post(body)).await.error();
        assert_eq!(error, (400, "invalid_request_error".into(), code.into(), param), "{body}");
    }
    let wrong_method = client.get("/v1/chat/completions").await;
    assert_eq!((wrong_method.error().0, wrong_method.header("allow")), (405, "POST"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_model_is_answered_with_what_there_is() {
    let network = Network::with(answers()).await;
    eventually("offers", || (!network.gateway.models().is_empty()).then_some(())).await;
    let reply = network.client().await.post(&ask(&json!({"model": "nothing"}))).await;
    assert_eq!(reply.error().0, 404);
    assert!(reply.json()["error"]["message"].as_str().unwrap().contains(MODEL), "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_refused_and_one_at_the_limit_is_not() {
    let limits = GatewayLimits { max_conversation_bytes: 100_000, ..GatewayLimits::default() };
    let network = Network::start(Plan { limits, ..Plan::default() }, vec![answers()]).await;
    let sized = |size: usize| {
        let empty = ask(&json!({"user": ""})).to_string().len();
        ask(&json!({"user": "x".repeat(size - empty)}))
    };
    let mut client = network.client().await;
    assert_eq!(client.post(&sized(100_000)).await.status, 200);
    assert_eq!(client.post(&sized(100_001)).await.error().0, 413);
    assert_eq!(network.client().await.post(&sized(5_000_000)).await.error().0, 413);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_announces_too_much_and_sends_nothing_hears_so() {
    let limits = GatewayLimits { max_conversation_bytes: 100_000, ..GatewayLimits::default() };
    let network = Network::start(Plan { limits, ..Plan::default() }, vec![answers()]).await;
    let mut tcp = TcpStream::connect(network.gateway.http_addr()).await.unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100001\r\n\r\n{";
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    tokio::time::timeout(Duration::from_secs(20), tcp.read_exact(&mut start)).await.unwrap().unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_dropped_takes_no_room() {
    let limits = GatewayLimits {
        max_body_bytes: 1 << 20,
        max_conversation_bytes: 1 << 20,
        max_upload_bytes: 1 << 20,
        max_held_bytes: 1 << 20,
        ..GatewayLimits::default()
    };
    let network = Network::start(Plan { limits, ..Plan::default() }, vec![answers()]).await;
    let mut tcp = TcpStream::connect(network.gateway.http_addr()).await.unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    tcp.write_all(head.as_bytes()).await.unwrap();
    // All the room there is, then more, and no end.
    for _ in 0..17 {
        tcp.write_all(format!("10000\r\n{}\r\n", " ".repeat(1 << 16)).as_bytes()).await.unwrap();
    }
    let mut client = network.client().await;
    let large = ask(&json!({"user": "x".repeat(200_000)}));
    let began = Instant::now();
    while client.post(&large).await.status != 200 {
        assert!(began.elapsed() < support::SOON, "the room stays taken");
    }
    drop(tcp);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_two_readers_could_take_for_two_requests_is_refused() {
    let network = Network::with(answers()).await;
    let body = ask(&json!({})).to_string();
    for (more, status) in [
        (format!("host: localhost\r\nhost: localhost\r\ncontent-length: {}", body.len()), "400"),
        ("host: localhost\r\ntransfer-encoding: gzip, chunked".to_owned(), "501"),
    ] {
        let mut tcp = TcpStream::connect(network.gateway.http_addr()).await.unwrap();
        let head = format!("POST /v1/chat/completions HTTP/1.1\r\nconnection: close\r\n{more}\r\n\r\n");
        tcp.write_all((head + &body).as_bytes()).await.unwrap();
        let mut start = [0; 12];
        tokio::time::timeout(Duration::from_secs(20), tcp.read_exact(&mut start)).await.unwrap().unwrap();
        assert_eq!(std::str::from_utf8(&start).unwrap(), format!("HTTP/1.1 {status}"), "{more}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balance_that_does_not_cover_the_request_is_402() {
    let client = TestModeClient { balance_nanoton: 1000 * PRICE, ..TestModeClient::default() };
    let network = Network::start(Plan { client, ..Plan::default() }, vec![answers()]).await;
    let reply = network.client().await.post(&ask(&json!({"max_tokens": 100_000}))).await;
    assert_eq!(reply.error().0, 402, "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_workers_are_429_with_a_time_to_come_back() {
    // The second proxy, which does not know the model, does not turn that into a 404.
    let plan = Plan { max_active: 1, proxies: 2, served: 1, ..Plan::default() };
    let engine = silent();
    let network = Network::start(plan, vec![engine.clone()]).await;
    eventually("offers", || (!network.gateway.models().is_empty()).then_some(())).await;
    let mut watcher = network.client().await;
    while watcher.get("/health").await.json()["proxies_ready"] != 2 {
        tokio::task::yield_now().await;
    }
    let gateway = network.gateway.http_addr();
    let mut first = TcpStream::connect(gateway).await.unwrap();
    let body = ask(&json!({})).to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    first.write_all((head + &body).as_bytes()).await.unwrap();
    eventually("the first request", || (!engine.asked.lock().unwrap().is_empty()).then_some(())).await;
    let reply = network.client().await.post(&ask(&json!({}))).await;
    assert_eq!((reply.error().0, reply.header("retry-after")), (429, "1"), "{}", reply.text());
    // The first caller leaves: its place is free again, and the engine stops.
    drop(first);
    eventually("the engine to be stopped", || (engine.cancelled.load(Ordering::SeqCst) == 1).then_some(()))
        .await;
    // Neither is taken for the other, nor for a failure.
    let metrics = watcher.get("/metrics").await.text();
    let errors: Vec<_> =
        metrics.lines().filter(|line| line.starts_with("cocoon_gateway_errors_total{")).collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    for (status, code) in [(429, "workers_busy"), (499, "cancelled")] {
        let labels = format!("{{endpoint=\"chat\",status=\"{status}\",code=\"{code}\"}} 1");
        assert!(errors.iter().any(|line| line.ends_with(&labels)), "{errors:?}");
    }
    let proxy = network.proxies[0].http_addr();
    let noticed = async {
        while !metrics_of(proxy).await.contains("cocoon_proxy_requests_cancelled_total 1") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(support::SOON, noticed).await.expect("the proxy never counts it");
    assert!(metrics_of(proxy).await.contains("cocoon_proxy_requests_failed_total 0"));
    let worker = metrics_of(network.workers[0].http_addr()).await;
    assert!(worker.contains("cocoon_worker_requests_cancelled_total 1"), "{worker}");
    assert!(worker.contains("cocoon_worker_requests_failed_total 0"), "{worker}");
}

/// The metrics of a proxy or worker.
async fn metrics_of(node: std::net::SocketAddr) -> String {
    let mut stream = TcpStream::connect(node).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    page
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_an_engines_own_refusal_and_a_breaker_that_opens_are_told_apart() {
    let busy = json!({"error": {"message": "the queue is full"}});
    let engine = Scripted::new(move |_| {
        let busy = busy.clone();
        async move { Ok(json_answer(429, &busy)) }
    });
    let open = Network::with(engine).await;
    let mut caller = open.client().await;
    let mut wrong = request(Method::POST, "/v1/chat/completions", ask(&json!({})).to_string().into());
    wrong.headers_mut().insert("authorization", HeaderValue::from_static("Bearer ck-wrong"));
    assert_eq!(caller.send(wrong).await.error().0, 401);
    // Each is tried twice, and five failures in a row open a breaker.
    for _ in 0..3 {
        assert_eq!(caller.post(&ask(&json!({}))).await.status, 429);
    }
    let metrics = caller.get("/metrics").await.text();
    for line in [
        "cocoon_gateway_errors_total{endpoint=\"chat\",status=\"401\",code=\"invalid_api_key\"} 1",
        "cocoon_gateway_errors_total{endpoint=\"chat\",status=\"429\",code=\"engine\"} 3",
        "cocoon_gateway_requests_total{endpoint=\"chat\",status=\"429\"} 3",
        "cocoon_gateway_breaker_openings_total{part=\"workers\"} ",
    ] {
        assert!(metrics.contains(line), "{line} is missing in: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_price_over_the_callers_cap_is_told() {
    let network = Network::start(Plan { coefficient: 5000, ..Plan::default() }, vec![answers()]).await;
    let mut client = network.client().await;
    let reply = client.post(&ask(&json!({}))).await;
    assert_eq!((reply.error().0, reply.error().2), (503, "price_cap_too_low".to_owned()));
    assert!(reply.text().contains("coefficient=5000"), "{}", reply.text());
    assert_eq!(reply.json()["error"]["param"], "max_coefficient");
    let reply = client.post(&ask(&json!({"max_price": 7}))).await;
    assert_eq!((reply.error().0, reply.json()["error"]["param"].clone()), (503, json!("max_price")));
    assert!(reply.text().contains("max_price, 7 nanoton"), "{}", reply.text());
    assert_eq!(client.post(&ask(&json!({"max_coefficient": 5000}))).await.status, 200);
    let metrics = client.get("/metrics").await.text();
    let model = MODEL.split('@').next().unwrap();
    let counted = format!(
        "gen_ai_client_operation_duration_seconds_count{{gen_ai_provider_name=\"cocoon\",gen_ai_operation_name=\"chat\",\
         gen_ai_request_model=\"{model}\",error_type=\"too_dear\"}} 2"
    );
    assert!(metrics.contains(&counted), "{counted} is missing in: {metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_proxy_everything_is_503_at_once() {
    let network = Network::start(Plan { proxies: 0, ..Plan::default() }, Vec::new()).await;
    let mut client = network.client().await;
    let began = Instant::now();
    let reply = client.post(&ask(&json!({}))).await;
    assert_eq!((reply.error().0, reply.error().2), (503, "no_proxy".to_owned()));
    assert_eq!(client.get("/health").await.status, 503);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_ends_within_its_own_deadline() {
    let network = Network::with(silent()).await;
    let mut client = network.client().await;
    for body in [ask(&json!({"timeout": 1})), ask(&json!({"timeout": 1, "stream": true}))] {
        let began = Instant::now();
        let reply = client.post(&body).await;
        assert_eq!(reply.error().0, 504, "{}", reply.text());
        assert!(began.elapsed() < Duration::from_millis(1400), "{:?}", began.elapsed());
    }
    let stuck = Scripted::new(|_| async {
        Ok(respond(200, "text/event-stream", stream::iter([Ok(delta("a"))]).chain(stream::pending())))
    });
    let network = Network::with(stuck).await;
    let began = Instant::now();
    let seen = network.client().await.post(&ask(&json!({"timeout": 1, "stream": true}))).await.text();
    assert!(began.elapsed() < Duration::from_millis(1400), "{:?}", began.elapsed());
    assert!(seen.contains("timeout") && !seen.contains("[DONE]"), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_fails_is_502_and_its_own_errors_pass_faithfully() {
    let network =
        Network::with(Scripted::new(|_| async { Err(EngineError::Unreachable("gone".into())) })).await;
    assert_eq!(network.client().await.post(&ask(&json!({}))).await.error().0, 502);

    let own = json!({"error": {"message": "temperature must be at most 2", "type": "BadRequestError"}});
    for status in [400, 422, 500] {
        let body = own.clone();
        let engine = Scripted::new(move |_| {
            let body = body.clone();
            async move { Ok(json_answer(status, &body)) }
        });
        let network = Network::with(engine).await;
        let mut client = network.client().await;
        for stream in [false, true] {
            let reply = client.post(&ask(&json!({"stream": stream}))).await;
            assert_eq!((reply.status, reply.json()), (status, own.clone()));
            assert_eq!(reply.header("x-cocoon-cost-nanoton"), "0");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_ends_with_an_error_and_is_never_complete() {
    let broken = Scripted::new(|_| async {
        let pieces = [Ok(delta("one")), Ok(delta("two")), Err(EngineError::Broken("cut".into()))];
        Ok(respond(200, "text/event-stream", stream::iter(pieces)))
    });
    let early = Scripted::new(|_| async { Ok(sse(vec![delta("one"), delta("two")])) });
    let own_error = Scripted::new(|_| async {
        Ok(sse(vec![delta("one"), delta("two"), event(&json!({"error": {"message": "oom"}})), done()]))
    });
    for (engine, name) in [(broken, "broken"), (early, "early"), (own_error, "own error")] {
        let network = Network::with(engine).await;
        let seen = network.client().await.post(&ask(&json!({"stream": true}))).await.text();
        assert!(seen.contains("one") && seen.contains("two"), "{name}: {seen}");
        assert!(!seen.contains("[DONE]"), "{name}: {seen}");
        assert_eq!(seen.matches("data: {\"error\":").count(), 1, "{name}: {seen}");
        assert_eq!(seen.contains("oom"), name == "own error", "{name}: {seen}");
        let metrics = network.client().await.get("/metrics").await.text();
        assert!(metrics.contains("cocoon_gateway_answers_total{end=\"broken\"} 1"), "{name}: {metrics}");
        assert!(seen.contains("\"estimated\":true") && seen.contains("\"disputed\":false"), "{name}: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_is_502() {
    let engine = Scripted::new(|_| async {
        let pieces = [Ok(Bytes::from_static(b"{\"choices\":[")), Err(EngineError::Broken("cut".into()))];
        Ok(respond(200, "application/json", stream::iter(pieces)))
    });
    let network = Network::with(engine).await;
    assert_eq!(network.client().await.post(&ask(&json!({}))).await.error().0, 502);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_before_any_of_it_was_passed_on_is_asked_of_another_worker() {
    let json = ("application/json", "{\"choices\":[", false);
    for (form, begun, stream) in [json, ("text/event-stream", "data: {\"choi", true)] {
        let calls = Arc::new(AtomicUsize::new(0));
        let engine = Scripted::new(move |_| {
            let first = calls.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                let broken =
                    [Ok(Bytes::from_static(begun.as_bytes())), Err(EngineError::Broken("cut".into()))];
                match (first, stream) {
                    (true, _) => Ok(respond(200, form, stream::iter(broken))),
                    (false, false) => Ok(json_answer(200, &chat(11, 4))),
                    (false, true) => Ok(sse(vec![delta("a"), finish(), usage(11, 4), done()])),
                }
            }
        });
        let network = Network::start(Plan::default(), vec![engine.clone(), engine]).await;
        let reply = network.client().await.post(&ask(&json!({"stream": stream}))).await;
        assert!(reply.status == 200 && !reply.text().contains("error"), "{}", reply.text());
        assert_eq!(network.spent(15).await.tokens.get(), 15, "the broken answer costs nothing");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_stops_the_engine_and_pays_what_was_delivered() {
    let engine = Scripted::new(|_| async {
        let drip = stream::unfold(0, |count| async move {
            if count >= 3 {
                std::future::pending::<()>().await;
            }
            Some((Ok(delta("word")), count + 1))
        });
        Ok(respond(200, "text/event-stream", drip))
    });
    let network = Network::with(engine.clone()).await;
    let mut client = network.client().await;
    let mut body = client.stream(&ask(&json!({"stream": true, "timeout": 300}))).await;
    let mut words = 0;
    while words < 3 {
        let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
        words += data.windows(4).filter(|window| window == b"word").count();
    }
    assert_eq!(engine.cancelled.load(Ordering::SeqCst), 0);
    drop((body, client));
    eventually("the engine to be stopped", || (engine.cancelled.load(Ordering::SeqCst) == 1).then_some(()))
        .await;
    // 11 bytes of text are 3 tokens, the message 4, and three deltas 3.
    assert_eq!(network.spent(10).await.tokens.get(), 10);
    let mut client = network.client().await;
    assert_eq!(client.get("/jsonstats").await.json()["answers"]["cancelled"], 1);
    let metrics = client.get("/metrics").await.text();
    assert!(
        metrics.contains("cocoon_gateway_requests_total{endpoint=\"chat\",status=\"200\"} 1"),
        "{metrics}"
    );
    assert!(!metrics.contains("cocoon_gateway_errors_total{"), "its head was no error: {metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_that_contradicts_the_answer_is_disputed() {
    for (completion, reason) in [(3000, "exceeds_delivered"), (5_000_000, "exceeds_limit")] {
        let engine = Scripted::new(move |_| async move { Ok(json_answer(200, &chat(11, completion))) });
        let network = Network::with(engine).await;
        let mut client = network.client().await;
        let cocoon = client.post(&ask(&json!({}))).await.json()["cocoon"].clone();
        assert_eq!((&cocoon["disputed"], &cocoon["dispute"]), (&json!(true), &json!(reason)));
        assert!(cocoon["tokens"]["total"].as_u64().unwrap() <= 11 + 4096, "a charge stays within the limit");
        let stats = client.get("/jsonstats").await.json();
        assert_eq!(stats["disputes"][0]["reason"], reason);
        assert_eq!(stats["disputes"][0]["request_id"], cocoon["request_id"]);
        let metrics = client.get("/metrics").await.text();
        assert!(metrics.contains(&format!("cocoon_gateway_disputes_total{{reason=\"{reason}\"}} 1")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_is_lost_or_cannot_serve_is_replaced_by_another() {
    let engine = Scripted::new(|_| async { Ok(sse(vec![delta("a"), finish(), usage(9, 1), done()])) });
    let mut network = Network::start(Plan { proxies: 2, ..Plan::default() }, vec![engine]).await;
    eventually("both proxies", || {
        let models = network.gateway.models();
        (models.first()?.cocoon.proxies.len() == 2).then_some(())
    })
    .await;
    let mut client = network.client().await;
    assert_eq!(client.post(&ask(&json!({"stream": true}))).await.status, 200);
    network.proxies.remove(0).shutdown().await;
    for _ in 0..5 {
        let seen = client.post(&ask(&json!({"stream": true}))).await.text();
        assert!(seen.ends_with("data: [DONE]\n\n"), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_with_an_image_that_is_not_listed_is_not_used() {
    let plan = Plan { check_proxy_hashes: true, ..Plan::default() };
    let network = Network::start(plan, vec![answers()]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(network.client().await.get("/health").await.status, 503);
    // The root configuration lists it: the gateway connects without a restart.
    let mut root = network.chain.root().as_ref().clone();
    let fake = hex::decode("5c55c8f4").unwrap();
    root.proxy_hashes.insert(fake_image_hash(&fake));
    network.chain.replace(root).unwrap();
    network.gateway.ready().await;
    assert_eq!(network.client().await.post(&ask(&json!({}))).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_are_taken_from_the_root_configuration_as_it_changes() {
    let plan = Plan { proxies_from_root: true, ..Plan::default() };
    let network = Network::start(plan, vec![answers()]).await;
    let mut client = network.client().await;
    assert_eq!(client.get("/health").await.status, 503);
    let without = network.chain.root().as_ref().clone();
    let mut with = without.clone();
    let proxy = &network.proxies[0];
    let endpoints = format!("{} {}", proxy.workers_addr(), proxy.clients_addr()).parse().unwrap();
    with.registered_proxies.push(RegisteredProxy { seqno: 1, endpoints });
    network.chain.replace(with).unwrap();
    network.gateway.ready().await;
    assert_eq!(client.post(&ask(&json!({}))).await.status, 200);
    network.chain.replace(without).unwrap();
    let deadline = Instant::now() + support::SOON;
    while client.get("/health").await.status == 200 {
        assert!(Instant::now() < deadline, "still connected");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_lost_its_memory_gets_no_more_requests() {
    let mut network = Network::with(answers()).await;
    let mut client = network.client().await;
    client.post(&ask(&json!({}))).await;
    let spent = network.spent(15).await;
    network.forget_first_proxy().await;
    let deadline = Instant::now() + support::SOON;
    while client.get("/metrics").await.text().contains("cocoon_gateway_counter_faults_total 0") {
        assert!(Instant::now() < deadline, "nothing noticed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(client.post(&ask(&json!({}))).await.error().0, 503);
    assert_eq!(network.gateway.spent(), spent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_credit_a_reader_that_is_too_slow_loses_its_own_answer_alone() {
    let piece = delta(&"x".repeat(16 * 1024));
    let engine = Scripted::new(move |request| {
        let big = request.body.windows(3).any(|window| window == b"big");
        let pieces = vec![piece.clone(); if big { 4096 } else { 2 }];
        async move { Ok(sse(pieces.into_iter().chain([finish(), usage(9, 2), done()]).collect())) }
    });
    let network = Network::start(Plan { extensions: false, ..Plan::default() }, vec![engine]).await;
    let mut slow = network.client().await;
    let unread = slow.stream(&ask(&json!({"stream": true, "user": "big", "timeout": 300}))).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let seen = network.client().await.post(&ask(&json!({"stream": true}))).await.text();
    assert!(seen.ends_with("data: [DONE]\n\n"));
    let rest = tokio::time::timeout(support::SOON, unread.collect()).await.unwrap().unwrap().to_bytes();
    let end = String::from_utf8_lossy(&rest[rest.len() - 400..]).into_owned();
    assert!(end.contains("data: {\"error\":") && !end.contains("[DONE]"), "{end}");
}

/// The image hash of every simulated quote: SHA-256 of 448 zero bytes.
fn fake_image_hash(start: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    let hash: [u8; 32] = sha2::Sha256::digest([0; 448]).into();
    assert!(hash.starts_with(start), "not the published hash");
    hash
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_drips_is_cut_off_and_others_are_not() {
    let limits = GatewayLimits {
        header_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(300),
        ..GatewayLimits::default()
    };
    let network = Network::start(Plan { limits, ..Plan::default() }, vec![answers()]).await;
    let address = network.gateway.http_addr();
    let mut head = TcpStream::connect(address).await.unwrap();
    head.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: ").await.unwrap();
    let mut body = TcpStream::connect(address).await.unwrap();
    body.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
        .await
        .unwrap();
    assert_eq!(network.client().await.post(&ask(&json!({}))).await.status, 200);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    tokio::time::timeout(support::SOON, head.read_to_end(&mut first)).await.unwrap().unwrap();
    tokio::time::timeout(support::SOON, body.read_to_end(&mut second)).await.unwrap().unwrap();
    assert!(second.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_with_a_slow_line_is_waited_for() {
    const PIECE: usize = 16 * 1024;
    let limits = GatewayLimits { body_timeout: Duration::from_millis(300), ..GatewayLimits::default() };
    let network = Network::start(Plan { limits, ..Plan::default() }, vec![answers()]).await;
    let body = ask(&json!({"user": "x".repeat(8 * PIECE)})).to_string();
    let mut tcp = TcpStream::connect(network.gateway.http_addr()).await.unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    tcp.write_all(head.as_bytes()).await.unwrap();
    // 160 KiB a second, for longer than a body may take that does not move.
    for piece in body.as_bytes().chunks(PIECE) {
        tcp.write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut reply = Vec::new();
    tokio::time::timeout(support::SOON, tcp.read_to_end(&mut reply)).await.unwrap().unwrap();
    assert!(reply.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&reply));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_waits_for_answers_under_way() {
    let engine = Scripted::new(|_| async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        Ok(json_answer(200, &chat(11, 4)))
    });
    let network = Network::with(engine.clone()).await;
    let mut client = network.client().await;
    let asking = tokio::spawn(async move { client.post(&ask(&json!({}))).await });
    eventually("the request", || (!engine.asked.lock().unwrap().is_empty()).then_some(())).await;
    network.gateway.shutdown().await;
    assert_eq!(asking.await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_ends_a_stream_without_end_by_an_error_event() {
    let engine = Scripted::new(|_| async {
        let drip = stream::once(async { Ok(delta("word")) }).chain(stream::pending());
        Ok(respond(200, "text/event-stream", drip))
    });
    let limits = GatewayLimits { drain_timeout: Duration::from_millis(100), ..GatewayLimits::default() };
    let network = Network::start(Plan { limits, ..Plan::default() }, vec![engine]).await;
    let mut client = network.client().await;
    let mut body = client.stream(&ask(&json!({"stream": true, "timeout": 300}))).await;
    let mut seen = body.frame().await.unwrap().unwrap().into_data().unwrap().to_vec();
    let rest = tokio::spawn(body.collect());
    network.gateway.shutdown().await;
    seen.extend(rest.await.unwrap().unwrap().to_bytes());
    let seen = String::from_utf8(seen).unwrap();
    assert!(
        seen.contains("word") && seen.contains("data: {\"error\":") && !seen.contains("[DONE]"),
        "{seen}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_worker_can_lead_a_client_elsewhere() {
    for status in [301, 302, 304, 307, 308] {
        let engine = Scripted::new(move |_| async move {
            let mut response = json_answer(status, &json!({}));
            response.headers.insert("location", HeaderValue::from_static("http://127.0.0.1:9/elsewhere"));
            Ok(response)
        });
        let network = Network::with(engine).await;
        let reply = network.client().await.post(&ask(&json!({}))).await;
        assert_eq!(reply.error().0, 502, "{status}");
        assert_eq!(reply.header("location"), "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_share_one_room_and_small_ones_need_none() {
    let network = Network::with(answers()).await;
    let gateway = network.gateway.http_addr();
    let mut client = network.client().await;
    let large = ask(&json!({"user": "x".repeat(200_000)}));
    let mut slow = Vec::new();
    // 32 bodies of 8 MiB fill the 256 MiB there are; more, since one that comes beside another large one finds none.
    let refused = loop {
        let mut caller = TcpStream::connect(gateway).await.unwrap();
        let head =
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 8388608\r\n\r\n{";
        caller.write_all(head.as_bytes()).await.unwrap();
        caller.write_all(&[b' '; 100_000]).await.unwrap();
        slow.push(caller);
        let reply = client.post(&large).await;
        if reply.status != 200 {
            break reply;
        }
        assert!(slow.len() < 1000, "the room never filled");
    };
    assert!(slow.len() >= 32, "{}", slow.len());
    assert_eq!((refused.error().0, refused.header("retry-after")), (429, "1"), "{}", refused.text());
    assert_eq!(client.post(&ask(&json!({"user": "x".repeat(50_000)}))).await.status, 200);
    drop(slow);
    let began = Instant::now();
    while client.post(&large).await.status != 200 {
        assert!(began.elapsed() < Duration::from_secs(20), "the room stayed full");
    }
}
