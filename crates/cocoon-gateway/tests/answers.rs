//! Answers that go well, through real proxies and workers: what the caller sees, what it costs.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cocoon_engine::builtin::{EXTRACTIVE_SUMMARY_MODEL, ExtractiveSummary};
use futures_util::stream::{self, StreamExt as _};
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use support::{
    Client, MODEL, Network, PRICE, Plan, Scripted, ask, chat, delta, done, finish, json_answer, request,
    respond, sse, usage,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_carries_its_exact_price_and_the_sums_agree() {
    let engine = Scripted::new(|_| async { Ok(json_answer(200, &chat(11, 4))) });
    let plan = Plan { coefficient: 1500, ..Plan::default() };
    let network = Network::start(plan, vec![engine.clone()]).await;
    let reply = network.client().await.post(&ask(&json!({"seed": 7, "x_new": {"a": null}}))).await;

    assert_eq!(reply.status, 200, "{}", reply.text());
    let body = reply.json();
    let (tokens, cost) = (16 + 6, (16 + 6) * PRICE);
    assert_eq!(body["choices"][0]["message"]["content"], "one two three four");
    assert_eq!(body["x_unknown"], json!([1, 2]), "unknown fields of the answer pass");
    assert_eq!(body["usage"]["total_cost"], cost);
    assert_eq!(body["usage"]["prompt_total_cost"], 16 * PRICE);
    let cocoon = &body["cocoon"];
    assert_eq!(cocoon["cost_nanoton"], cost);
    assert_eq!(cocoon["cost"], "0.00000044");
    assert_eq!(cocoon["tokens"], json!({"prompt":16,"cached":0,"completion":6,"reasoning":0,"total":tokens}));
    assert_eq!((&cocoon["coefficient"], &cocoon["insecure"]), (&json!(1500), &json!(true)));
    assert_eq!((&cocoon["estimated"], &cocoon["disputed"]), (&json!(false), &json!(false)));
    assert_eq!(cocoon["proxy"]["attestation"], "fake_tdx");
    assert!(cocoon["latency"]["worker_ms"].is_number(), "{cocoon}");
    assert_eq!(reply.header("x-cocoon-cost-nanoton"), cost.to_string());
    assert_eq!(reply.header("x-cocoon-tokens"), tokens.to_string());
    assert_eq!(reply.header("x-cocoon-request-id"), cocoon["request_id"].as_str().unwrap());
    assert_eq!(reply.header("x-cocoon-proxy"), cocoon["proxy"]["fingerprint"].as_str().unwrap());
    assert_eq!(reply.header("x-cocoon-worker"), cocoon["worker"]["fingerprint"].as_str().unwrap());
    assert_eq!(reply.header("content-length"), reply.body.len().to_string());

    let asked = engine.asked_json(0);
    assert_eq!((&asked["seed"], &asked["x_new"]), (&json!(7), &json!({"a": null})));
    assert_eq!(asked["max_tokens"], 4096, "the limit is always explicit");
    let headers = engine.asked.lock().unwrap()[0].headers.clone();
    assert!(headers.get("authorization").is_none(), "the caller's key leaked");

    let spent = network.spent(tokens).await;
    assert_eq!((spent.tokens.get(), spent.nanoton.nano()), (tokens, cost));
    let books = network.proxies[0].books();
    assert_eq!((books.charged, books.paid), (spent.tokens, spent.nanoton));
    assert_eq!(books.earned.nano() + books.kept.nano(), cost);
    network.gateway.shutdown().await;
}

/// A stream that waits for a word of the test between its two halves.
fn halves(go: Arc<tokio::sync::Notify>) -> Arc<Scripted> {
    Scripted::new(move |_| {
        let go = Arc::clone(&go);
        async move {
            let first = stream::iter([Ok(delta("one")), Ok(delta(" two"))]);
            let rest = stream::once(async move { go.notified().await })
                .flat_map(|()| stream::iter([finish(), usage(10, 2), done()].map(Ok)));
            Ok(respond(200, "text/event-stream", first.chain(rest)))
        }
    })
}

async fn next(body: &mut hyper::body::Incoming) -> String {
    let frame = tokio::time::timeout(support::SOON, body.frame()).await.expect("nothing came");
    String::from_utf8(frame.unwrap().unwrap().into_data().unwrap().to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_pass_as_they_come_and_usage_is_shown_only_to_who_asked() {
    let go = Arc::new(tokio::sync::Notify::new());
    let engine = halves(Arc::clone(&go));
    let network = Network::with(engine.clone()).await;
    let mut client = network.client().await;

    let mut body = client.stream(&ask(&json!({"stream": true}))).await;
    let mut seen = String::new();
    while !seen.contains(" two") {
        seen += &next(&mut body).await;
    }
    go.notify_one();
    seen += std::str::from_utf8(&body.collect().await.unwrap().to_bytes()).unwrap();
    assert!(!seen.contains("\"usage\""), "{seen}");
    assert!(seen.ends_with("data: [DONE]\n\n"), "{seen}");
    let comment = seen.lines().find_map(|line| line.strip_prefix(": cocoon ")).unwrap();
    let cocoon: Value = serde_json::from_str(comment).unwrap();
    assert_eq!((&cocoon["cost_nanoton"], &cocoon["estimated"]), (&json!(12 * PRICE), &json!(false)));
    assert_eq!(engine.asked_json(0)["stream_options"]["include_usage"], true);

    go.notify_one();
    let with_usage = ask(&json!({"stream": true, "stream_options": {"include_usage": true}}));
    let seen = client.post(&with_usage).await.text();
    let last = seen.trim_end().strip_suffix("data: [DONE]").unwrap().trim_end().lines().last().unwrap();
    let last: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(last["usage"]["total_tokens"], 12);
    assert_eq!(last["usage"]["total_cost"], 12 * PRICE);
    assert_eq!(last["cocoon"]["cost_nanoton"], 12 * PRICE);
    network.spent(24).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_our_extensions_everything_works_as_well() {
    let engine =
        Scripted::new(|_| async { Ok(sse(vec![delta("a"), delta("b"), finish(), usage(9, 2), done()])) });
    let network = Network::start(Plan { extensions: false, ..Plan::default() }, vec![engine]).await;
    let seen = network.client().await.post(&ask(&json!({"stream": true}))).await.text();
    assert!(seen.contains("\"cost_nanoton\":220") && seen.ends_with("data: [DONE]\n\n"), "{seen}");
    network.spent(11).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_builtin_engine_answers_through_the_whole_network() {
    let text =
        "Cats sleep most of the day. Dogs like walks. Cats and dogs live with people. The moon is far away.";
    let plan = Plan { model: EXTRACTIVE_SUMMARY_MODEL, ..Plan::default() };
    let network = Network::start(plan, vec![Arc::new(ExtractiveSummary::new())]).await;
    let question = json!({"model": EXTRACTIVE_SUMMARY_MODEL, "messages": [{"role": "user", "content": text}], "stream": true,
        "stream_options": {"include_usage": true}});
    let seen = network.client().await.post(&question).await.text();
    assert!(seen.ends_with("data: [DONE]\n\n"), "{seen}");
    assert!(seen.contains("\"disputed\":false") && seen.contains("\"estimated\":false"), "{seen}");
    let many = futures_util::future::join_all(
        (0..50).map(|_| async { network.client().await.post(&question).await.text() }),
    )
    .await;
    assert!(many.iter().all(|seen| seen.ends_with("data: [DONE]\n\n")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_gets_the_headers_that_steer_it_and_none_that_tells_who_asks() {
    const STEERING: [&str; 4] = ["accept", "anthropic-beta", "anthropic-version", "openai-beta"];
    const TELLING: [&str; 46] = [
        "accept-language",
        "api-key",
        "b3",
        "baggage",
        "cf-access-jwt-assertion",
        "cf-connecting-ip",
        "client-ip",
        "cookie",
        "dnt",
        "fastly-client-ip",
        "forwarded",
        "from",
        "helicone-auth",
        "idempotency-key",
        "openai-organization",
        "openai-project",
        "priority",
        "proxy-authorization",
        "referer",
        "sec-ch-ua",
        "sentry-trace",
        "traceparent",
        "tracestate",
        "true-client-ip",
        "user-agent",
        "via",
        "x-amzn-trace-id",
        "x-any-name",
        "x-api-key",
        "x-auth-token",
        "x-b3-traceid",
        "x-client-ip",
        "x-cloud-trace-context",
        "x-cluster-client-ip",
        "x-cocoon-request-guid",
        "x-correlation-id",
        "x-datadog-trace-id",
        "x-envoy-external-address",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-goog-api-key",
        "x-original-forwarded-for",
        "x-real-ip",
        "x-request-id",
        "x-stainless-os",
        "x-user-id",
    ];
    let engine = Scripted::new(|_| async { Ok(json_answer(200, &chat(11, 4))) });
    let network = Network::with(engine.clone()).await;
    let mut asked = request(Method::POST, "/v1/chat/completions", ask(&json!({})).to_string().into());
    for name in STEERING {
        asked.headers_mut().append(name, "one".parse().unwrap());
        asked.headers_mut().append(name, "two".parse().unwrap());
    }
    for name in TELLING {
        asked.headers_mut().insert(name, "secret".parse().unwrap());
    }
    let reply = network.client().await.send(asked).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let heard = engine.asked.lock().unwrap()[0].headers.clone();
    let mut names: Vec<_> = heard.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "anthropic-beta", "anthropic-version", "content-type", "openai-beta"]);
    for name in STEERING {
        assert!(heard.get_all(name).iter().eq(["one", "two"]), "{name}: {heard:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_tell_price_capacity_and_attestation() {
    let network = Network::with(Scripted::new(|_| async { Ok(json_answer(200, &chat(1, 1))) })).await;
    let mut client = network.client().await;
    support::eventually("offers", || (!network.gateway.models().is_empty()).then_some(())).await;
    let list = client.get("/v1/models").await;
    assert_eq!((list.status, list.header("content-type")), (200, "application/json"));
    let list = list.json();
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&json!("list"), &json!(MODEL)));
    for path in ["/v1/models/test/model", "/v1/models/test%2Fmodel"] {
        let model = client.get(path).await.json();
        assert_eq!((&model["id"], &model["object"]), (&json!(MODEL), &json!("model")), "{path}");
        let cocoon = &model["cocoon"];
        assert_eq!(cocoon["price"]["prompt_nanoton_per_million"], PRICE * 1_000_000);
        assert_eq!(cocoon["offers"][0]["coefficient"], 1000);
        assert_eq!(cocoon["capacity"], 64);
        assert_eq!(cocoon["proxies"][0]["attestation"], "fake_tdx");
        assert_eq!(cocoon["insecure"], true);
    }
    let missing = client.get("/v1/models/none").await;
    assert_eq!(missing.error().0, 404);
    assert!(missing.text().contains(MODEL), "the error lists what there is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_for_operators_and_browsers() {
    let network = Network::with(Scripted::new(|_| async { Ok(json_answer(200, &chat(11, 4))) })).await;
    let mut client = network.client().await;
    client.post(&ask(&json!({"enable_debug": true, "request_guid": "my guid"}))).await;
    assert_eq!(client.get("/health").await.json()["status"], "ok");
    let metrics = client.get("/metrics").await.text();
    assert!(
        metrics.contains("cocoon_gateway_requests_total{endpoint=\"chat\",status=\"200\"} 1"),
        "{metrics}"
    );
    network.spent(15).await;
    let stats = client.get("/jsonstats").await.json();
    assert_eq!(stats["answers"]["complete"], 1);
    assert_eq!((&stats["spent"]["tokens"], &stats["proxies"][0]["db_tokens"]), (&json!(15), &json!(15)));
    let debug = client.get("/request/debuglogentry?request_guid=my%20guid").await.json();
    assert_eq!(debug["client"]["type"], "client_stats");
    assert_eq!(debug["proxy"]["type"], "proxy_stats");

    let mut preflight = request(Method::OPTIONS, "/v1/chat/completions", Bytes::new());
    let headers = preflight.headers_mut();
    headers.insert("origin", "https://example.org".parse().unwrap());
    headers.insert("access-control-request-headers", "authorization, x-any".parse().unwrap());
    let reply = client.send(preflight).await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (204, "https://example.org"));
    assert_eq!(reply.header("access-control-allow-headers"), "authorization, x-any");
    assert!(reply.header("access-control-allow-methods").contains("POST"));
    let error = client.get("/nothing").await;
    assert_eq!((error.error().0, error.header("access-control-allow-origin")), (404, "*"));
    assert!(error.header("access-control-expose-headers").contains("X-Cocoon-Cost-Nanoton"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_stalls_nobody_else_and_its_answer_waits_in_the_engine() {
    /// What all nodes and all sockets between engine and caller hold together, at most.
    const HELD: usize = 16 << 20;
    const PIECE: usize = 8192;
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    let chunk = Bytes::from(format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n",
        "x".repeat(PIECE)
    ));
    let engine = Scripted::new(move |request| {
        let (chunk, counter) = (chunk.clone(), Arc::clone(&counter));
        async move {
            let big = request.body.windows(3).any(|window| window == b"big");
            let chunks = vec![chunk; if big { 8192 } else { 4 }];
            let end = [finish(), usage(9, 2), done()];
            let pieces = stream::iter(chunks.into_iter().chain(end)).map(move |piece| {
                counter.fetch_add(usize::from(big), Ordering::Relaxed);
                Ok(piece)
            });
            Ok(respond(200, "text/event-stream", pieces))
        }
    });
    let network = Network::with(engine).await;
    let mut slow = network.client().await;
    let big = ask(&json!({"stream": true, "user": "big", "timeout": 300}));
    let mut unread = slow.stream(&big).await;
    next(&mut unread).await;
    // The caller reads no more; 64 MiB wait in the engine.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut others = futures_util::stream::FuturesUnordered::new();
    for _ in 0..20 {
        let mut client = Client::connect(&network.gateway).await;
        others.push(async move { client.post(&ask(&json!({"stream": true}))).await.text() });
    }
    while let Some(seen) = others.next().await {
        assert!(seen.ends_with("data: [DONE]\n\n"));
    }
    let held = taken.load(Ordering::Relaxed) * PIECE;
    assert!(held < HELD, "{held} bytes were taken from the engine for a caller that does not read");
    let rest = tokio::time::timeout(support::SOON, unread.collect()).await.unwrap().unwrap().to_bytes();
    assert!(rest.ends_with(b"data: [DONE]\n\n"), "the slow reader gets all of it in the end");
}
