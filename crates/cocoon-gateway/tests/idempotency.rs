//! A request that comes again with its `Idempotency-Key` is answered once and billed once.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cocoon_gateway::{GatewayLimits, IdempotencyLimits};
use futures_util::stream::{self, StreamExt as _};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use support::{
    Network, Plan, Scripted, ask, chat, delta, done, eventually, finish, json_answer, request, respond, sse,
    usage,
};
use tokio::sync::Notify;

fn answers() -> Arc<Scripted> {
    Scripted::new(|_| async { Ok(json_answer(200, &chat(11, 4))) })
}

fn keyed(key: &str, more: &Value) -> Request<Full<Bytes>> {
    let mut request = request(Method::POST, "/v1/chat/completions", ask(more).to_string().into());
    request.headers_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_gets_the_same_answer_and_is_billed_once() {
    let streamed = Scripted::new(|_| async { Ok(sse(vec![delta("a"), finish(), usage(11, 4), done()])) });
    for (engine, stream) in [(answers(), false), (streamed, true)] {
        let network = Network::with(engine.clone()).await;
        let mut client = network.client().await;
        let body = json!({"stream": stream});
        let first = client.send(keyed("one", &body)).await;
        let second = client.send(keyed("one", &body)).await;
        assert_eq!((first.status, second.status), (200, 200), "{}", first.text());
        assert_eq!(first.body, second.body);
        assert_eq!(first.header("x-cocoon-request-id"), second.header("x-cocoon-request-id"));
        assert_eq!(first.header("content-type"), second.header("content-type"));
        assert_eq!(
            (first.header("idempotency-replayed"), second.header("idempotency-replayed")),
            ("", "true")
        );
        assert_eq!(engine.asked.lock().unwrap().len(), 1);
        assert!(engine.asked.lock().unwrap()[0].headers.get("idempotency-key").is_none(), "it stays here");
        assert_eq!(network.spent(15).await.tokens.get(), 15);
        // Another request under the key, another key, and another caller.
        let error = client.send(keyed("one", &json!({"stream": stream, "user": "x"}))).await.error();
        assert_eq!((error.0, error.2.as_str()), (422, "idempotency_key_reused"));
        assert_eq!(client.send(keyed("two", &body)).await.header("idempotency-replayed"), "");
        for (name, value) in [("authorization", "Bearer another"), ("x-api-key", "another")] {
            let mut other = keyed("one", &body);
            other.headers_mut().insert(name, value.parse().unwrap());
            assert_eq!(client.send(other).await.header("idempotency-replayed"), "");
        }
        assert_eq!(engine.asked.lock().unwrap().len(), 4);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_waits_while_the_first_is_under_way() {
    let go = Arc::new(Notify::new());
    let gate = Arc::clone(&go);
    let engine = Scripted::new(move |_| {
        let gate = Arc::clone(&gate);
        async move {
            gate.notified().await;
            Ok(json_answer(200, &chat(11, 4)))
        }
    });
    let network = Network::with(engine.clone()).await;
    let mut asking = Vec::new();
    for _ in 0..5 {
        let mut client = network.client().await;
        asking.push(tokio::spawn(async move { client.send(keyed("one", &json!({}))).await }));
    }
    eventually("the call", || (!engine.asked.lock().unwrap().is_empty()).then_some(())).await;
    go.notify_one();
    let mut replayed = 0;
    for asked in asking {
        let reply = asked.await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        replayed += usize::from(reply.header("idempotency-replayed") == "true");
    }
    assert_eq!((replayed, engine.asked.lock().unwrap().len()), (4, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_waits_too_long_is_told_to_come_back() {
    let limits = GatewayLimits { default_timeout: Duration::from_millis(300), ..GatewayLimits::default() };
    let engine = Scripted::new(|_| std::future::pending());
    let network = Network::start(Plan { limits, ..Plan::default() }, vec![engine.clone()]).await;
    let mut first = network.client().await;
    tokio::spawn(async move { first.send(keyed("one", &json!({"timeout": 60}))).await });
    eventually("the call", || (!engine.asked.lock().unwrap().is_empty()).then_some(())).await;
    let reply = network.client().await.send(keyed("one", &json!({"timeout": 60}))).await;
    assert_eq!((reply.error().0, reply.header("retry-after")), (409, "1"), "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_not_kept() {
    let calls = AtomicUsize::new(0);
    let engine = Scripted::new(move |_| {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        async move {
            let cut = sse(vec![delta("a")]);
            if call == 0 { Ok(cut) } else { Ok(sse(vec![delta("a"), finish(), usage(11, 4), done()])) }
        }
    });
    let network = Network::with(engine).await;
    let mut client = network.client().await;
    let body = json!({"stream": true});
    let broken = client.send(keyed("one", &body)).await.text();
    assert!(broken.contains("data: {\"error\":"), "{broken}");
    let second = client.send(keyed("one", &body)).await;
    assert!(second.text().ends_with("data: [DONE]\n\n"), "{}", second.text());
    assert_eq!(second.header("idempotency-replayed"), "");
    assert_eq!(client.send(keyed("one", &body)).await.body, second.body);
    for bad in ["", &"x".repeat(256)] {
        assert_eq!(client.send(keyed(bad, &body)).await.error().0, 400);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_is_cut_off_comes_back_for_its_answer() {
    let go = Arc::new(Notify::new());
    let gate = Arc::clone(&go);
    let engine = Scripted::new(move |_| {
        let gate = Arc::clone(&gate);
        async move {
            let rest = stream::once(async move {
                gate.notified().await;
                Ok([finish(), usage(11, 4), done()].concat().into())
            });
            Ok(respond(200, "text/event-stream", stream::iter([Ok(delta("word"))]).chain(rest)))
        }
    });
    let network = Network::with(engine.clone()).await;
    let mut client = network.client().await;
    let mut body = client.open(keyed("one", &json!({"stream": true}))).await.into_body();
    let seen = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(seen.windows(4).any(|window| window == b"word"));
    drop((body, client));
    let mut client = network.client().await;
    let asking = tokio::spawn(async move { client.send(keyed("one", &json!({"stream": true}))).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    go.notify_one();
    let reply = asking.await.unwrap();
    assert!(reply.text().contains("word") && reply.text().ends_with("data: [DONE]\n\n"), "{}", reply.text());
    assert_eq!((reply.header("idempotency-replayed"), engine.asked.lock().unwrap().len()), ("true", 1));
    assert_eq!(network.spent(15).await.tokens.get(), 15);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_too_large_to_keep_passes_and_is_asked_anew() {
    let idempotency = IdempotencyLimits { answer_bytes: 2000, ..IdempotencyLimits::default() };
    let limits = GatewayLimits { idempotency, ..GatewayLimits::default() };
    let engine =
        Scripted::new(|_| async { Ok(sse(vec![delta(&"x".repeat(3000)), finish(), usage(11, 4), done()])) });
    let network = Network::start(Plan { limits, ..Plan::default() }, vec![engine.clone()]).await;
    let mut client = network.client().await;
    for _ in 0..2 {
        let reply = client.send(keyed("one", &json!({"stream": true}))).await;
        assert!(reply.text().ends_with("data: [DONE]\n\n"));
        assert_eq!(reply.header("idempotency-replayed"), "");
    }
    assert_eq!(engine.asked.lock().unwrap().len(), 2);
}
