//! What keys may spend: budgets that hold, and what requests cost that their callers or the gateway gave up.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use cocoon_gateway::GatewayLimits;
use futures_util::stream::{self, StreamExt as _};
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::json;
use support::keys::{admin, ask_with, make_key, message, operate, shown};
use support::{Client, Network, PRICE, Plan, SOON, Scripted, ask, chat, delta, json_answer, respond};

/// What an answer of `chat(11, 4)` costs.
const COST: u64 = 15 * PRICE;

/// An engine whose stream never ends by itself.
fn endless() -> Arc<Scripted> {
    Scripted::new(|_| async {
        let deltas = stream::iter(["one ", "two "].map(|text| Ok(delta(text))));
        Ok(respond(200, "text/event-stream", deltas.chain(stream::pending())))
    })
}

/// A stream, once all that its engine says is there.
async fn open_stream(client: &mut Client, secret: &str) -> Incoming {
    let bearer = format!("Bearer {secret}");
    let body = ask(&json!({"stream": true}));
    let request = message(Method::POST, "/v1/chat/completions", &[("authorization", &bearer)], &body);
    let mut answer = client.open(request).await.into_body();
    let mut seen = String::new();
    while !seen.contains("two") {
        let frame = answer.frame().await.unwrap().unwrap();
        seen += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
    }
    answer
}

/// Once nothing is set aside any more: the key has spent what the proxies charged, and nothing was guessed.
async fn is_settled(network: &Network) {
    let spent = network.spent(1).await.nanoton.nano();
    let waiting = async {
        loop {
            let key = shown(network, "a").await;
            if key["reserved_nanoton"] == 0 {
                return key;
            }
        }
    };
    let key = tokio::time::timeout(SOON, waiting).await.unwrap();
    assert_eq!((&key["spent_nanoton"], &key["unsettled_nanoton"]), (&json!(spent), &json!(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_budget_holds_however_many_ask_at_once_and_is_settled_to_the_nanoton() {
    let engine = Scripted::new(|_| async { Ok(json_answer(200, &chat(11, 4))) });
    let network = Network::start(Plan { access: admin, ..Plan::default() }, vec![engine]).await;
    let budget = 40 * COST;
    let (secret, _) = make_key(&network, json!({"name": "a", "budget_nanoton": budget})).await;
    let asking = (0..12).map(|_| async {
        let mut client = network.client().await;
        let (mut good, mut refused) = (0_u64, 0_u64);
        for _ in 0..20 {
            let reply =
                ask_with(&mut client, &secret, &ask(&json!({"max_tokens": 20, "max_coefficient": 1000})))
                    .await;
            match reply.status {
                200 => good += 1,
                _ => {
                    assert_eq!(reply.error().2, "insufficient_quota");
                    assert_eq!(reply.header("x-should-retry"), "false");
                    refused += 1;
                }
            }
        }
        (good, refused)
    });
    let all = futures_util::future::join_all(asking).await;
    let good: u64 = all.iter().map(|(good, _)| good).sum();
    assert!(all.iter().map(|(_, refused)| refused).sum::<u64>() > 0);
    let spent = network.spent(good * 15).await;
    assert_eq!(spent.nanoton.nano(), good * COST);
    let key = shown(&network, "a").await;
    assert_eq!((&key["spent_nanoton"], &key["reserved_nanoton"]), (&json!(good * COST), &json!(0)));
    assert!(good * COST <= budget && good > 0, "{good} answers");
    // More budget, and on it goes.
    operate(&network, Method::PATCH, "/admin/keys/a", json!({"budget_nanoton": null})).await;
    let mut client = network.client().await;
    assert_eq!(ask_with(&mut client, &secret, &ask(&json!({}))).await.status, 200);
    operate(&network, Method::PATCH, "/admin/keys/a", json!({"budget_per_day_nanoton": 1})).await;
    let reply = ask_with(&mut client, &secret, &ask(&json!({}))).await;
    assert_eq!(reply.error().2, "insufficient_quota");
    let wait: u64 = reply.header("retry-after").parse().unwrap();
    assert!((1..=86_400).contains(&wait));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_stream_is_charged_to_its_key_as_the_proxy_says() {
    let network = Network::start(Plan { access: admin, ..Plan::default() }, vec![endless()]).await;
    let (secret, _) = make_key(&network, json!({"name": "a"})).await;
    let mut client = network.client().await;
    let answer = open_stream(&mut client, &secret).await;
    assert!(shown(&network, "a").await["reserved_nanoton"].as_u64().unwrap() > 0);
    drop((answer, client));
    is_settled(&network).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_stops_hears_what_the_streams_cost_that_it_ends() {
    let limits = GatewayLimits { drain_timeout: Duration::from_millis(100), ..GatewayLimits::default() };
    let plan = Plan { access: admin, limits, ..Plan::default() };
    let network = Network::start(Plan { access: admin, limits, ..Plan::default() }, vec![endless()]).await;
    let (secret, _) = make_key(&network, json!({"name": "a"})).await;
    let mut client = network.client().await;
    let rest = tokio::spawn(open_stream(&mut client, &secret).await.collect());
    let network = network.restart_gateway(&plan).await;
    let rest = String::from_utf8(rest.await.unwrap().unwrap().to_bytes().to_vec()).unwrap();
    assert!(rest.contains("data: {\"error\":"), "{rest}");
    is_settled(&network).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_stops_hears_what_was_worked_for_callers_that_have_left() {
    let plan = Plan { access: admin, ..Plan::default() };
    let network = Network::start(Plan { access: admin, ..Plan::default() }, vec![endless()]).await;
    let (secret, _) = make_key(&network, json!({"name": "a"})).await;
    let mut client = network.client().await;
    drop((open_stream(&mut client, &secret).await, client));
    let network = network.restart_gateway(&plan).await;
    is_settled(&network).await;
}
