//! A gateway that stops, and one whose places are all taken.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use cocoon_gateway::GatewayLimits;
use serde_json::json;
use support::{Network, Plan, Scripted, ask, chat, eventually, json_answer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

fn gated() -> (Arc<Scripted>, Arc<Notify>) {
    let go = Arc::new(Notify::new());
    let gate = Arc::clone(&go);
    let engine = Scripted::new(move |_| {
        let gate = Arc::clone(&gate);
        async move {
            gate.notified().await;
            Ok(json_answer(200, &chat(11, 4)))
        }
    });
    (engine, go)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_stops_ends_what_is_under_way_and_tells_others_to_come_back() {
    let (engine, go) = gated();
    let network = Network::with(engine.clone()).await;
    let (mut first, mut kept, mut watcher) =
        (network.client().await, network.client().await, network.client().await);
    assert_eq!(kept.get("/health").await.status, 200);
    let address = network.gateway.http_addr();
    let asking = tokio::spawn(async move { first.post(&ask(&json!({}))).await });
    eventually("the call", || (!engine.asked.lock().unwrap().is_empty()).then_some(())).await;
    let gateway = network.gateway;
    gateway.drain();
    let stopping = tokio::spawn(gateway.shutdown());
    // On a connection that was open, and on a new one.
    let refused = kept.post(&ask(&json!({}))).await;
    assert_eq!((refused.error().0, refused.error().2.as_str()), (503, "gateway_draining"));
    assert_eq!((refused.header("retry-after"), refused.header("connection")), ("1", "close"));
    let health = watcher.get("/health").await;
    assert_eq!((health.status, &health.json()["status"]), (503, &json!("draining")));
    assert!(TcpStream::connect(address).await.is_ok(), "whoever comes is told");
    assert!(!stopping.is_finished());
    go.notify_one();
    assert_eq!(asking.await.unwrap().status, 200);
    tokio::time::timeout(support::SOON, stopping).await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_places_are_taken_the_longest_idle_connection_makes_room() {
    let (engine, go) = gated();
    let limits = GatewayLimits { max_connections: 3, ..GatewayLimits::default() };
    let network = Network::start(Plan { limits, ..Plan::default() }, vec![engine.clone()]).await;
    let address = network.gateway.http_addr();
    let mut working = network.client().await;
    let asking = tokio::spawn(async move { working.post(&ask(&json!({}))).await });
    eventually("the call", || (!engine.asked.lock().unwrap().is_empty()).then_some(())).await;
    let mut longest = TcpStream::connect(address).await.unwrap();
    let mut other = network.client().await;
    assert_eq!(other.get("/health").await.status, 200);
    // Far more than there are places.
    for _ in 0..20 {
        assert_eq!(network.client().await.get("/health").await.status, 200);
    }
    let ended = tokio::time::timeout(support::SOON, longest.read(&mut [0; 1])).await.unwrap();
    assert_eq!(ended.unwrap(), 0, "it was closed, and in order");
    assert!(!asking.is_finished(), "one that waits for an answer stays");
    go.notify_one();
    assert_eq!(asking.await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_begun_a_head_makes_room_as_well() {
    let limits =
        GatewayLimits { max_connections: 2, header_timeout: 10 * support::SOON, ..GatewayLimits::default() };
    let network = Network::start(Plan { limits, ..Plan::default() }, Vec::new()).await;
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut tcp = TcpStream::connect(network.gateway.http_addr()).await.unwrap();
        tcp.write_all(b"GET /hea").await.unwrap();
        slow.push(tcp);
    }
    assert_eq!(network.client().await.get("/health").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_place_is_kept_while_nobody_else_comes() {
    let limits = GatewayLimits { max_connections: 1, ..GatewayLimits::default() };
    let network = Network::start(Plan { limits, ..Plan::default() }, Vec::new()).await;
    let mut only = network.client().await;
    for _ in 0..5 {
        assert_eq!(only.get("/health").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_still_waits_when_the_time_is_over_is_told_so() {
    let (engine, _go) = gated();
    let limits = GatewayLimits { drain_timeout: Duration::from_millis(100), ..GatewayLimits::default() };
    let network = Network::start(Plan { limits, ..Plan::default() }, vec![engine.clone()]).await;
    let mut client = network.client().await;
    let asking = tokio::spawn(async move { client.post(&ask(&json!({}))).await });
    eventually("the call", || (!engine.asked.lock().unwrap().is_empty()).then_some(())).await;
    network.gateway.shutdown().await;
    assert_eq!(asking.await.unwrap().error().0, 503);
    assert_eq!(engine.asked.lock().unwrap().len(), 1, "and nobody is asked anew");
}
