//! Nodes that are told to stop.

use cocoon_network_tests::{Ask, FixedEngine, Log, Network, ScriptedEngine, delta, usage_event, within};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_proxy_that_stops_finishes_what_is_under_way_and_refuses_the_rest() {
    let log = Log::capture();
    let network = Network::start().await;
    let (engine, mut calls) = ScriptedEngine::new();
    let worker = network.worker(1, engine).await;
    let client = network.client(11).await;
    let mut exchange = client.submit(&Ask::streamed());
    let body = within("the call", calls.recv()).await.unwrap().stream();
    assert!(body.send(delta("one")).await);
    assert_eq!(exchange.head().await, 200);
    exchange.data("one").await;

    let address = network.proxy.clients_addr();
    let stopping = tokio::spawn(network.proxy.shutdown());
    let refused = within("the proxy to refuse", async {
        loop {
            let answer = client.submit(&Ask { model: "no/such".into(), ..Ask::default() }).finish().await;
            if answer.status != 404 {
                return answer;
            }
        }
    })
    .await;
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(refused.body.contains("shutting down"), "{}", refused.body);
    assert!(!stopping.is_finished(), "the request under way is waited for");

    assert!(body.send(delta("two")).await);
    assert!(body.send(usage_event(10, 2)).await);
    drop(body);
    let answer = exchange.finish().await;
    assert!(answer.end.is_ok(), "{:?}", answer.end);
    assert_eq!(client.cost(answer.id).await, 12, "its notice comes before the end");
    within("the proxy to stop", stopping).await.unwrap();
    client.ended().await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    assert_eq!(worker.earned().tokens.get(), 12);
    log.assert_no_errors();
}

#[tokio::test]
async fn a_worker_that_stops_finishes_what_is_under_way_and_the_rest_goes_to_others() {
    let log = Log::capture();
    let network = Network::start().await;
    let (engine, mut calls) = ScriptedEngine::new();
    let mut config = network.worker_config(9);
    config.coefficient = 500;
    let stopping = network.worker_with(config, engine).await;
    let worker = network.worker(1, FixedEngine("from the other".into())).await;
    let client = network.client(11).await;
    let mut exchange = client.submit(&Ask { max_tokens: 10_000, ..Ask::streamed() });
    let body = within("the call", calls.recv()).await.unwrap().stream();
    assert!(body.send(delta("one")).await);
    assert_eq!(exchange.head().await, 200);

    let stopped = tokio::spawn(stopping.shutdown());
    client.offers(|offers| offers.len() == 1).await;
    let other = client.ask(Ask::default()).await;
    assert!(other.body.contains("from the other"), "{}", other.body);
    // A long rest that the client has not read when the engine is done.
    let long = "x".repeat(200_000);
    assert!(body.send(delta(&long)).await);
    assert!(body.send(delta(&long)).await);
    assert!(body.send(usage_event(10, 4)).await);
    drop(body);
    tokio::task::yield_now().await;
    let answer = exchange.finish().await;
    assert!(answer.end.is_ok(), "{:?}", answer.end);
    assert!(answer.body.len() > 400_000, "{} bytes", answer.body.len());
    within("the worker to stop", stopped).await.unwrap();
    assert_eq!(client.cost(answer.id).await, 7, "14 tokens at half the price");
    let _ = worker;
    log.assert_no_errors();
}

#[tokio::test]
async fn idle_nodes_stop_at_once() {
    let network = Network::start().await;
    let worker = network.worker(1, FixedEngine("x".into())).await;
    let client = network.client(11).await;
    network.assert_serves(&client).await;
    let began = std::time::Instant::now();
    within("the worker to stop", worker.shutdown()).await;
    within("the proxy to stop", network.proxy.shutdown()).await;
    assert!(began.elapsed().as_secs() < 3, "it took {:?}", began.elapsed());
    client.ended().await;
}
