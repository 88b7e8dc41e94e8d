//! What breaks before the caller has a byte is mended without its noticing.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cocoon_engine::EngineError;
use cocoon_gateway::{GatewayLimits, RetryLimits};
use futures_util::stream;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::json;
use support::{
    Network, Plan, Scripted, ask, chat, delta, done, eventually, finish, json_answer, request, respond, sse,
    usage,
};

fn answers() -> Arc<Scripted> {
    Scripted::new(|_| async { Ok(json_answer(200, &chat(11, 4))) })
}

/// The first call never ends, the others are answered.
fn slow_once() -> Arc<Scripted> {
    let calls = AtomicUsize::new(0);
    Scripted::new(move |_| {
        let first = calls.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if first {
                std::future::pending::<()>().await;
            }
            Ok(json_answer(200, &chat(11, 4)))
        }
    })
}

fn hedged(millis: &str) -> Request<Full<Bytes>> {
    let mut request = request(Method::POST, "/v1/chat/completions", ask(&json!({})).to_string().into());
    request.headers_mut().insert("x-cocoon-hedge", millis.parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_waits_for_a_proxy_that_starts_anew() {
    let mut network = Network::with(answers()).await;
    let mut client = network.client().await;
    assert_eq!(client.post(&ask(&json!({}))).await.status, 200);
    let address = network.stop_first_proxy().await;
    eventually("the loss to be seen", || network.gateway.models().is_empty().then_some(())).await;
    let asking = tokio::spawn(async move { client.post(&ask(&json!({}))).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!asking.is_finished(), "it waits");
    network.start_first_proxy_again(&address).await;
    let reply = asking.await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patience_ends_and_says_so() {
    let retry = RetryLimits { patience: Duration::from_millis(400), ..RetryLimits::default() };
    let limits = GatewayLimits { retry, ..GatewayLimits::default() };
    let mut network = Network::start(Plan { limits, ..Plan::default() }, vec![answers()]).await;
    let mut client = network.client().await;
    assert_eq!(client.post(&ask(&json!({}))).await.status, 200);
    network.stop_first_proxy().await;
    eventually("the loss to be seen", || network.gateway.models().is_empty().then_some(())).await;
    let began = Instant::now();
    let reply = client.post(&ask(&json!({}))).await;
    assert_eq!((reply.error().0, reply.error().2.as_str()), (503, "no_proxy"), "{}", reply.text());
    assert_eq!(reply.header("retry-after"), "5");
    assert!((0.3..3.0).contains(&began.elapsed().as_secs_f64()), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_in_the_middle_is_asked_again_where_its_caller_has_nothing_of_it_yet() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let engine = Scripted::new(move |_| {
        let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if !first {
                return Ok(json_answer(200, &chat(11, 4)));
            }
            // Long enough that the worker passes it on, and the proxy cannot ask another one.
            let long = format!("{{\"choices\":[\"{}", "x".repeat(300_000));
            let pieces = [Ok(Bytes::from(long)), Err(EngineError::Broken("cut".into()))];
            Ok(respond(200, "application/json", stream::iter(pieces)))
        }
    });
    let network = Network::with(engine).await;
    let reply = network.client().await.post(&ask(&json!({}))).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_says_it_is_unwell_is_asked_once_more_and_its_words_pass_where_that_does_not_help() {
    let calls = Arc::new(AtomicUsize::new(0));
    for (heals, status) in [(true, 200), (false, 503)] {
        let counted = Arc::clone(&calls);
        counted.store(0, Ordering::SeqCst);
        let engine = Scripted::new(move |_| {
            let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                match heals && !first {
                    true => Ok(json_answer(200, &chat(11, 4))),
                    false => Ok(json_answer(503, &json!({"error": {"message": "the engine's own words"}}))),
                }
            }
        });
        let network = Network::with(engine).await;
        let reply = network.client().await.post(&ask(&json!({}))).await;
        assert_eq!(reply.status, status, "{}", reply.text());
        assert_eq!(reply.text().contains("the engine's own words"), !heals, "{}", reply.text());
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_prompt_goes_through_two_engines_and_no_more() {
    let engine = Scripted::new(|_| async { Err(EngineError::Broken("as always".into())) });
    let plan = Plan { proxies: 3, ..Plan::default() };
    let network = Network::start(plan, vec![engine.clone()]).await;
    eventually("all proxies", || (network.gateway.models().first()?.cocoon.proxies.len() == 3).then_some(()))
        .await;
    assert_eq!(network.client().await.post(&ask(&json!({}))).await.error().0, 502);
    assert_eq!(engine.asked.lock().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_request_is_sent_twice_where_its_caller_wants_that_and_the_loser_is_stopped() {
    let engine = slow_once();
    let network = Network::start(Plan { proxies: 2, ..Plan::default() }, vec![engine.clone()]).await;
    eventually("both proxies", || {
        (network.gateway.models().first()?.cocoon.proxies.len() == 2).then_some(())
    })
    .await;
    let mut client = network.client().await;
    let reply = client.send(hedged("50")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    // The call that never returned was dropped.
    eventually("the loser to be stopped", || (engine.cancelled.load(Ordering::SeqCst) == 1).then_some(()))
        .await;
    let metrics = client.get("/metrics").await.text();
    assert!(
        metrics.contains("cocoon_gateway_hedges_total 1") && metrics.contains("hedges_won_total 1"),
        "{metrics}"
    );
    assert_eq!(network.spent(15).await.tokens.get(), 15, "the loser had done nothing");
    assert_eq!(client.send(hedged("soon")).await.error().0, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_twice_unless_somebody_wants_it() {
    for (operator, caller) in [(None, None), (Some(Duration::from_millis(50)), Some("0"))] {
        let engine = Scripted::new(|_| async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok(sse(vec![delta("a"), finish(), usage(9, 1), done()]))
        });
        let retry = RetryLimits { hedge_after: operator, ..RetryLimits::default() };
        let limits = GatewayLimits { retry, ..GatewayLimits::default() };
        let network = Network::start(Plan { limits, ..Plan::default() }, vec![engine.clone()]).await;
        let mut client = network.client().await;
        let reply = match caller {
            Some(millis) => client.send(hedged(millis)).await,
            None => client.post(&ask(&json!({}))).await,
        };
        assert_eq!(reply.status, 200);
        assert_eq!(engine.asked.lock().unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spent_budget_ends_second_attempts_and_no_first_ones() {
    let engine = Scripted::new(|_| async { Err(EngineError::Broken("as always".into())) });
    let retry = RetryLimits {
        budget_percent: 0,
        budget_floor: 0,
        patience: Duration::ZERO,
        ..RetryLimits::default()
    };
    let limits = GatewayLimits { retry, ..GatewayLimits::default() };
    let network = Network::start(Plan { limits, ..Plan::default() }, vec![engine.clone()]).await;
    let mut client = network.client().await;
    for _ in 0..5 {
        assert_eq!(client.post(&ask(&json!({}))).await.error().0, 502);
    }
    assert_eq!(engine.asked.lock().unwrap().len(), 5);
    let metrics = client.get("/metrics").await.text();
    assert!(metrics.contains("retry_budget_refusals_total 5"), "{metrics}");
}
