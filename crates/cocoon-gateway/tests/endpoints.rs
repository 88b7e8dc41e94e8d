//! Answers of other endpoints than chat, through real proxies and workers: what they cost, and how they break.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use cocoon_engine::{Engine, EngineError, EngineHealth, EngineRequest, EngineResponse};
use cocoon_gateway::GatewayLimits;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use http::Method;
use serde_json::{Value, json};
use support::{MODEL, Network, PRICE, Plan, Reply, Scripted, chat, json_answer, request, respond, sse};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An engine that can do everything.
struct Able(Arc<Scripted>);

impl Engine for Able {
    fn call(&self, request: EngineRequest) -> BoxFuture<'_, Result<EngineResponse, EngineError>> {
        self.0.call(request)
    }

    fn probe(&self) -> BoxFuture<'_, EngineHealth> {
        self.0.probe()
    }

    fn explore<'a>(&'a self, _: &'a str, _: u32) -> BoxFuture<'a, u32> {
        Box::pin(async { u32::MAX })
    }
}

/// A network whose engine gives this answer.
async fn network(
    limits: GatewayLimits,
    answer: impl Fn() -> EngineResponse + Send + Sync + 'static,
) -> Network {
    let answer = Arc::new(answer);
    let engine = Scripted::new(move |_| {
        let answer = Arc::clone(&answer);
        async move { Ok(answer()) }
    });
    let network = Network::start(Plan { limits, ..Plan::default() }, vec![Arc::new(Able(engine))]).await;
    let page = network.workers[0].http_addr();
    let told = async {
        loop {
            let mut stream = TcpStream::connect(page).await.unwrap();
            stream
                .write_all(b"GET /jsonstats HTTP/1.1\r\nhost: w\r\nconnection: close\r\n\r\n")
                .await
                .unwrap();
            let mut shown = String::new();
            stream.read_to_string(&mut shown).await.unwrap();
            if shown.contains("\"messages\"") {
                break;
            }
        }
    };
    tokio::time::timeout(support::SOON, told).await.expect("the worker never learns what the engine can do");
    network
}

async fn post(network: &Network, path: &str, more: &Value) -> Reply {
    let mut body = json!({"model": MODEL});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    network.client().await.send(request(Method::POST, path, body.to_string().into())).await
}

async fn disputes(network: &Network) -> bool {
    network.client().await.get("/metrics").await.text().contains("cocoon_gateway_disputes_total{")
}

fn typed(value: &Value) -> Bytes {
    format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap()).into()
}

fn message_start() -> Bytes {
    typed(&json!({"type": "message_start", "message": {"type": "message", "content": [],
        "usage": {"input_tokens": 7, "cache_read_input_tokens": 3, "output_tokens": 1}}}))
}

fn text_delta(text: &str) -> Bytes {
    typed(&json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streamed_response_ends_with_its_price_in_it() {
    let network = network(GatewayLimits::default(), || {
        let usage = json!({"input_tokens": 9, "output_tokens": 2, "total_tokens": 11});
        sse(vec![
            typed(&json!({"type": "response.output_text.delta", "sequence_number": 0, "delta": "Hi"})),
            typed(&json!({"type": "response.completed", "sequence_number": 1,
                "response": {"status": "completed", "error": null, "output": [], "usage": usage}})),
        ])
    })
    .await;
    let seen = post(&network, "/v1/responses", &json!({"input": "x", "stream": true})).await.text();
    let last = seen.trim_end().lines().last().unwrap().strip_prefix("data: ").unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["response"]["usage"]["total_cost"], 11 * PRICE, "{seen}");
    let cocoon = &last["response"]["cocoon"];
    assert_eq!((&cocoon["cost_nanoton"], &cocoon["disputed"]), (&json!(11 * PRICE), &json!(false)), "{seen}");
    network.spent(11).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engines_own_error_is_the_only_one_however_its_stream_ends() {
    for (broken, half) in [(false, ""), (true, ""), (true, "data: {\"half\":")] {
        let network = network(GatewayLimits::default(), move || {
            let text = json!({"type": "response.output_text.delta", "sequence_number": 0, "delta": "Hi"});
            let failed = json!({"type": "response.failed", "sequence_number": 1,
                "response": {"status": "failed", "error": {"code": "x", "message": "oom"}, "output": []}});
            let mut pieces = vec![Ok(typed(&text)), Ok(typed(&failed)), Ok(Bytes::from(half))];
            if broken {
                pieces.push(Err(EngineError::Broken("gone".to_owned())));
            }
            respond(200, "text/event-stream", stream::iter(pieces))
        })
        .await;
        let seen = post(&network, "/v1/responses", &json!({"input": "x", "stream": true})).await.text();
        assert_eq!(seen.matches("oom").count(), 1, "{broken} {seen}");
        assert!(!seen.contains("event: error") && !seen.contains("half"), "{broken} {seen}");
        let last = seen.trim_end().lines().last().unwrap().strip_prefix("data: ").unwrap();
        let last: Value = serde_json::from_str(last).unwrap();
        assert!(last["response"]["cocoon"].is_object(), "its price is told: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_breaks_off_says_so_in_anthropics_words() {
    let network = network(GatewayLimits::default(), || {
        let broken = Err(EngineError::Broken("gone".to_owned()));
        let pieces = [Ok(message_start()), Ok(text_delta("one")), Ok(text_delta("two")), broken];
        respond(200, "text/event-stream", stream::iter(pieces))
    })
    .await;
    let ask = json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "stream": true});
    let seen = post(&network, "/v1/messages", &ask).await.text();
    let (rest, error) = seen.split_once("event: error\ndata: ").unwrap_or_else(|| panic!("{seen}"));
    let error: Value = serde_json::from_str(error).unwrap();
    assert_eq!((&error["type"], &error["error"]["type"]), (&json!("error"), &json!("api_error")));
    assert!(rest.contains(": cocoon {") && rest.contains("\"two\""), "{rest}");
    // Ten tokens of prompt were told, three of them cached, and two deltas came.
    network.spent(12).await;
    assert!(!disputes(&network).await);

    let unknown = json!({"model": "none", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5});
    let refused = post(&network, "/v1/messages", &unknown).await;
    assert_eq!(refused.status, 404);
    assert_eq!(refused.json()["type"], "error");
    assert_eq!(refused.json()["error"]["type"], "not_found_error");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn speech_costs_by_its_words_and_nothing_is_added_to_it() {
    let sound: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let sent = sound.clone();
    let network = network(GatewayLimits::default(), move || {
        let chunks: Vec<_> = sent.chunks(9000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        respond(200, "audio/mpeg", stream::iter(chunks))
    })
    .await;
    let reply = post(&network, "/v1/audio/speech", &json!({"input": "say this", "voice": "v"})).await;
    assert!(reply.status == 200 && reply.body == sound);
    assert_eq!(reply.header("x-cocoon-cost-nanoton"), "", "it is not known before the end");
    assert_eq!(reply.header("x-cocoon-request-id").len(), 64);
    network.spent(2 + 8).await;
    assert!(!disputes(&network).await);
    let metrics = network.client().await.get("/metrics").await.text();
    let line = "cocoon_gateway_engine_tokens_total{endpoint=\"speech\",class=\"audio_completion\"} 8";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_and_vectors_carry_their_price() {
    let network =
        network(GatewayLimits::default(), || json_answer(200, &json!({"data": [{"b64_json": "AAAA"}]})))
            .await;
    let image =
        post(&network, "/v1/images/generations", &json!({"prompt": "a cat", "size": "64x32", "n": 2})).await;
    let tokens = 2 + 2 * 4 * 2;
    assert_eq!(image.header("x-cocoon-tokens"), tokens.to_string(), "{}", image.text());
    let cocoon = &image.json()["cocoon"];
    assert_eq!((&cocoon["estimated"], &cocoon["disputed"]), (&json!(true), &json!(false)), "{cocoon}");
    let vectors = post(&network, "/v1/embeddings", &json!({"input": "twelve bytes"})).await;
    assert_eq!(vectors.header("x-cocoon-tokens"), "3", "{}", vectors.text());
    assert_eq!(vectors.json()["usage"]["prompt_tokens"], 3);
    network.spent(tokens + 3).await;
    assert!(!disputes(&network).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_costs_its_prompt_by_the_rule_whatever_the_engine_counted() {
    let network =
        network(GatewayLimits::default(), || json_answer(200, &json!({"input_tokens": 9999}))).await;
    let conversation = json!([{"role": "user", "content": "twelve bytes"}]);
    for (path, body, tokens) in [
        ("/v1/messages/count_tokens", json!({"messages": conversation, "system": "four"}), 3 + 4 + 1),
        ("/v1/messages/count_tokens?beta=true", json!({"messages": conversation}), 3 + 4),
        ("/v1/responses/input_tokens", json!({"input": "twelve bytes", "instructions": "four"}), 3 + 1),
    ] {
        let counted = post(&network, path, &body).await;
        assert_eq!(counted.header("x-cocoon-tokens"), tokens.to_string(), "{path}: {}", counted.text());
        let answer = counted.json();
        assert_eq!((&answer["input_tokens"], answer.get("usage")), (&json!(9999), None), "{path}");
        let cocoon = &answer["cocoon"];
        assert_eq!((&cocoon["estimated"], &cocoon["disputed"]), (&json!(true), &json!(false)), "{cocoon}");
    }
    network.spent(8 + 7 + 4).await;
    assert!(!disputes(&network).await);

    let unknown = json!({"model": "none", "messages": conversation});
    let refused = post(&network, "/v1/messages/count_tokens", &unknown).await;
    assert_eq!((refused.status, &refused.json()["error"]["type"]), (404, &json!("not_found_error")));
    assert_eq!(refused.json()["type"], "error");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_too_large_to_be_held_passes_whole() {
    let mut body = chat(11, 4);
    body["padding"] = json!("x".repeat(50_000));
    let sent = body.to_string();
    let limits = GatewayLimits { max_answer_bytes: 10_000, ..GatewayLimits::default() };
    let network = network(limits, move || {
        let chunks: Vec<_> =
            sent.as_bytes().chunks(4000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        respond(200, "application/json", stream::iter(chunks).boxed())
    })
    .await;
    let reply =
        post(&network, "/v1/chat/completions", &json!({"messages": [{"role": "user", "content": "x"}]}))
            .await;
    assert_eq!(reply.status, 200);
    let mut shown = reply.json();
    assert!(shown.get("cocoon").is_none() && reply.header("x-cocoon-cost-nanoton").is_empty());
    let usage = shown["usage"].as_object_mut().unwrap();
    assert_eq!(usage.remove("total_cost"), Some(json!(15 * PRICE)), "the worker's word stands");
    usage.remove("prompt_total_cost");
    usage.remove("completion_total_cost");
    assert_eq!(shown, body);
    network.spent(15).await;
    assert!(!disputes(&network).await, "what was not read is not doubted");
}
