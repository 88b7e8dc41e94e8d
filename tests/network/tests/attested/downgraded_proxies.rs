//! Proxies whose evidence does not hold: gateways send them no prompt, and workers do not join them.

use std::sync::Arc;

use cocoon_attest::{EvidenceSource, Policy};
use cocoon_network_tests::{FakeProxy, FixedEngine, Network, wallet, within};

use crate::forgeries;
use crate::world::{PROXY_IMAGE, PROXY_MACHINE, WORKER_IMAGE, World, ask, has_marker, refused_because};

/// A proxy that shows this machine, takes everybody, and notes what it hears.
async fn fake(world: &World, source: Arc<dyn EvidenceSource>) -> FakeProxy {
    FakeProxy::showing(world.node(source, Policy::any())).await
}

/// All that a proxy heard on all connections since their handshakes.
async fn heard(proxy: FakeProxy) -> (usize, Vec<u8>) {
    let peers = proxy.hang_up().await;
    let (count, mut heard) = (peers.len(), Vec::new());
    for peer in peers {
        heard.extend(peer.heard().await);
    }
    (count, heard)
}

/// Where the chain and the directories come from; its own proxy is not used.
async fn surroundings(world: &World) -> Network {
    world.network(world.tdx(PROXY_MACHINE, PROXY_IMAGE)).await
}

#[tokio::test]
async fn a_gateway_sends_a_forger_nothing_and_tells_callers_which_rule_it_broke() {
    let world = World::new();
    for forgery in forgeries::all(&world, PROXY_IMAGE) {
        let network = surroundings(&world).await;
        let proxy = fake(&world, forgery.source).await;
        let gateway = world.gateway_of(proxy.address, &network, |_| ()).await;
        refused_because(&gateway, forgery.rule, forgery.check).await;
        gateway.shutdown().await;
        let (connections, heard) = heard(proxy).await;
        assert!(connections > 0, "{}: nobody dialled", forgery.what);
        assert_eq!(heard, b"", "{}", forgery.what);
    }
}

#[tokio::test]
async fn a_worker_does_not_join_a_forger() {
    let world = World::new();
    for forgery in forgeries::all(&world, PROXY_IMAGE) {
        let network = surroundings(&world).await;
        let proxy = fake(&world, forgery.source).await;
        let mut config = Network::worker_config_for(proxy.address, network.dir.path(), 1);
        config.check_proxy_hashes = true;
        let show = world.node(world.tdx(1, WORKER_IMAGE), Policy::tee());
        let engine = Arc::new(FixedEngine("never asked".into()));
        let worker = cocoon_worker::start(config, show, network.chain.clone(), engine).await.unwrap();
        let (address, rule) = (proxy.address.to_string(), format!("refused by policy ({})", forgery.rule));
        let refused = world.log.wait(forgery.what, |line| {
            let cause = line.field("cause");
            line.field("proxy") == address && cause.starts_with(&rule) && cause.contains(forgery.check)
        });
        assert_eq!(refused.await.message, "cannot connect to a proxy");
        worker.shutdown().await;
        let (connections, heard) = heard(proxy).await;
        assert!(connections > 0, "{}: nobody dialled", forgery.what);
        assert_eq!(heard, b"", "{}", forgery.what);
    }
}

/// So that the tests above look in the right place.
#[tokio::test]
async fn an_honest_proxy_does_hear_the_prompt() {
    let world = World::new();
    let network = surroundings(&world).await;
    let mut proxy = fake(&world, world.snp(4, PROXY_IMAGE)).await;
    // It does not know what this gateway would demand of workers.
    let gateway = world.gateway_of(proxy.address, &network, |config| config.workers = None).await;
    let mut peer = proxy.ready_client(&wallet(11), 0, 0).await;
    let hearing = async {
        within("the prompt", FakeProxy::request(&mut peer)).await.expect("a request");
    };
    within("the gateway to be ready", gateway.ready()).await;
    tokio::select! {
        () = hearing => {}
        reply = ask(&gateway) => panic!("answered by nobody: {reply:?}"),
    }
    drop(gateway);
    assert!(has_marker(&peer.heard().await));
}
