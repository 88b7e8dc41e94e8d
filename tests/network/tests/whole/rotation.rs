//! Certificates that are renewed while requests flow.

use std::time::Duration;

use cocoon_attest::Policy;
use cocoon_net::Clock as _;
use cocoon_network_tests::{
    Ask, Log, ManualClock, Network, Options, ScriptedEngine, TestClient, delta, identity, tls_with,
    usage_event, wallet, within,
};
use std::sync::Arc;

#[tokio::test]
async fn certificates_rotate_while_requests_flow_without_a_dropped_connection() {
    let log = Log::capture();
    let clock = ManualClock::new();
    let (proxy, node) = (identity("fake_tdx"), identity("fake_tdx"));
    let settings = |identity: &Arc<cocoon_net::NodeIdentity>| {
        tls_with(Arc::clone(identity), Policy::fake_tdx(), clock.clone())
    };
    let network = Network::with_tls(Options::default(), settings(&proxy), settings(&proxy)).await;
    let (engine, mut calls) = ScriptedEngine::new();
    let config = network.worker_config(1);
    let worker =
        cocoon_worker::start(config, settings(&node), network.chain.clone(), Arc::new(engine)).await.unwrap();
    within("the worker to be ready", worker.ready()).await;
    let connect = |number| {
        let (address, root) = (network.proxy.clients_addr(), network.chain.root());
        let tls = settings(&node);
        async move { TestClient::connect(address, &tls, wallet(number), root, true).await }
    };
    let client = connect(11).await;
    let mut exchange = client.submit(&Ask::streamed());
    let body = within("the call", calls.recv()).await.unwrap().stream();
    assert!(body.send(delta("before")).await);
    assert_eq!(exchange.head().await, 200);
    exchange.data("before").await;

    let mut seen = vec![(proxy.certificate(), node.certificate())];
    for day in 0..3 {
        clock.advance(Duration::from_secs(17 * 60 * 60));
        for identity in [&proxy, &node] {
            assert!(identity.rotate_if_due(clock.now()).unwrap(), "renewed on day {day}");
            assert!(!identity.rotate_if_due(clock.now()).unwrap(), "and not again");
        }
        seen.push((proxy.certificate(), node.certificate()));
        assert!(body.send(delta("during")).await);
        exchange.data("during").await;
        // The old certificates are long expired by now; newcomers meet the new ones.
        let newcomer = connect(20 + day).await;
        let asked = newcomer.submit(&Ask::default());
        within("the call", calls.recv()).await.unwrap().answer("hello");
        assert_eq!(asked.finish().await.status, 200);
    }
    seen.dedup();
    assert_eq!(seen.len(), 4, "each certificate differs from the last");
    assert!(body.send(usage_event(10, 4)).await);
    drop(body);
    assert!(exchange.finish().await.end.is_ok());
    assert!(client.is_up());
    assert!(log.lines().iter().all(|line| !line.message.contains("disconnected from a proxy")));

    // Whoever does not rotate is refused by name in the end.
    clock.advance(Duration::from_secs(25 * 60 * 60));
    let options = cocoon_net::DialOptions { max_difficulty: 8, timeout: Duration::from_secs(10) };
    let address = network.proxy.clients_addr().to_string();
    let expired = cocoon_net::dial(&address, &settings(&identity("fake_tdx")), &options).await;
    assert!(expired.is_err(), "an expired proxy is not trusted");
    let _ = worker;
}

#[tokio::test]
async fn an_idle_connection_is_made_anew_when_its_certificates_are_old() {
    let log = Log::capture();
    let clock = ManualClock::new();
    let (proxy, node) = (identity("fake_tdx"), identity("fake_tdx"));
    let settings = |identity: &Arc<cocoon_net::NodeIdentity>| {
        tls_with(Arc::clone(identity), Policy::fake_tdx(), clock.clone())
    };
    let network = Network::with_tls(Options::default(), settings(&proxy), settings(&proxy)).await;
    let (engine, mut calls) = ScriptedEngine::new();
    let config = network.worker_config(1);
    let worker =
        cocoon_worker::start(config, settings(&node), network.chain.clone(), Arc::new(engine)).await.unwrap();
    within("the worker to be ready", worker.ready()).await;
    let client = TestClient::connect(
        network.proxy.clients_addr(),
        &settings(&node),
        wallet(11),
        network.chain.root(),
        true,
    )
    .await;
    let mut exchange = client.submit(&Ask::streamed());
    let body = within("the call", calls.recv()).await.unwrap().stream();
    assert!(body.send(delta("before")).await);
    assert_eq!(exchange.head().await, 200);

    clock.advance(Duration::from_secs(17 * 60 * 60 + 60));
    for identity in [&proxy, &node] {
        assert!(identity.rotate_if_due(clock.now()).unwrap());
    }
    let redials = || log.lines().iter().filter(|line| line.message.contains("dialling again")).count();
    // While a request is under way, the connection stays.
    assert!(body.send(delta("during")).await);
    exchange.data("during").await;
    assert_eq!(redials(), 0);
    assert!(body.send(usage_event(10, 4)).await);
    drop(body);
    assert!(exchange.finish().await.end.is_ok());

    let again = async {
        while log.lines().iter().filter(|line| line.message == "connected with a proxy").count() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within("the worker to dial again", again).await;
    assert_eq!(redials(), 1);
    let asked = client.submit(&Ask::default());
    within("the call", calls.recv()).await.unwrap().answer("hello");
    assert_eq!(asked.finish().await.status, 200);
}
