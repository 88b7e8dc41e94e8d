//! Workers whose evidence does not hold: not one byte of a prompt reaches them.

use cocoon_attest::Policy;
use cocoon_network_tests::{FixedEngine, RawPeer, ready_worker_over, worker_params};
use cocoon_wire::codec::{Message as _, to_boxed};
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::tl::{ProxyToWorker, proxy, worker};

use crate::forgeries;
use crate::world::{
    PROXY_IMAGE, PROXY_MACHINE, WORKER_IMAGE, World, answered_by, ask, ask_until, has_marker, json, page,
};

/// Cheaper than every honest worker.
const CHEAP: i32 = 1;
const USUAL: u32 = 1000;

/// Says at once all that a worker says before it gets work, as if the proxy had let it in.
async fn push_in(peer: &mut RawPeer) {
    peer.send(&Packet::Connect { id: 5 }).await;
    let connect = worker::ConnectToProxy { params: worker_params(9, CHEAP) };
    let compare = worker::CompareBalanceWithProxy {
        tokens_committed_to_blockchain: 0,
        tokens_committed_to_db: 0,
        max_tokens: 0,
    };
    let complete = worker::ProxyHandshakeComplete { is_disabled: false };
    for (id, data) in [(1, to_boxed(&connect)), (2, to_boxed(&compare)), (3, to_boxed(&complete))] {
        peer.send(&Packet::Query { id, data }).await;
    }
}

#[tokio::test]
async fn the_proxy_refuses_every_forgery_at_the_door_and_answers_it_nothing() {
    let world = World::new();
    let network = world.network(world.tdx(PROXY_MACHINE, PROXY_IMAGE)).await;
    let engine = FixedEngine("from the honest one".into());
    let (_honest, honest) = world.worker(&network, 1, world.snp(2, WORKER_IMAGE), USUAL, engine).await;
    let gateway = world.gateway(&network).await;
    for forgery in forgeries::all(&world, WORKER_IMAGE) {
        let what = forgery.what;
        let (mut forger, _) = world.dial(network.proxy.workers_addr(), forgery.source).await;
        push_in(&mut forger).await;
        assert_eq!(answered_by(&ask(&gateway).await)["fingerprint"], *honest, "beside {what}");
        let refused = world.log.closed(forger.local, forgery.check).await;
        let rule = format!("refused by policy ({})", forgery.rule);
        assert!(refused.field("cause").starts_with(&rule), "{what}: {refused:?}");
        assert_eq!(forger.heard().await, b"", "{what}");
    }
    world.log.assert_no_errors();
}

#[tokio::test]
async fn without_an_honest_worker_a_request_fails_rather_than_reach_a_forger() {
    let world = World::new();
    let network = world.network(world.tdx(PROXY_MACHINE, PROXY_IMAGE)).await;
    let gateway = world.gateway(&network).await;
    let forgery = forgeries::all(&world, WORKER_IMAGE).pop().unwrap();
    let (mut forger, _) = world.dial(network.proxy.workers_addr(), forgery.source).await;
    push_in(&mut forger).await;
    let reply = ask(&gateway).await;
    assert!([404, 503].contains(&reply.status), "{reply:?}");
    assert_eq!(forger.heard().await, b"");
}

/// Whether anything that the proxy sent to a worker was a request.
async fn was_asked(mut peer: RawPeer) -> (bool, Vec<u8>) {
    let mut asked = false;
    while let Some(packet) = peer.recv().await {
        if let Packet::Packet { data } = packet {
            let message = ProxyToWorker::decode_boxed(data).unwrap();
            asked |= !matches!(message, ProxyToWorker::WorkerRequestPayment(_));
        }
    }
    (asked, peer.heard().await)
}

#[tokio::test]
async fn what_a_careless_proxy_lets_in_the_gateway_refuses_itself() {
    let world = World::new();
    let machine = world.tdx(PROXY_MACHINE, PROXY_IMAGE);
    let network = world.network_demanding(machine, Policy::any(), false).await;
    let mut forgers = Vec::new();
    for (number, forgery) in (10..).zip(forgeries::all(&world, WORKER_IMAGE)) {
        let (peer, name) = world.dial(network.proxy.workers_addr(), forgery.source.clone()).await;
        let peer = ready_worker_over(peer.stream, worker_params(number, CHEAP)).await;
        forgers.push((peer, name, forgery));
    }
    let gateway = world.gateway(&network).await;
    let refused = ask(&gateway).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(json(&refused)["error"]["code"], "no_attested_worker");
    for (_, name, forgery) in &forgers {
        let shown = page(&gateway, &format!("/v1/attestation/{name}")).await;
        let reason = shown["reason"].as_str().unwrap_or_default();
        assert_eq!(shown["allowed"], false, "{}", forgery.what);
        assert!(
            reason.starts_with(forgery.rule) && reason.contains(forgery.check),
            "{}: {reason}",
            forgery.what
        );
    }

    // An honest worker is dearer than all of them, and gets everything.
    let engine = FixedEngine("from the honest one".into());
    let (worker, honest) = world.worker(&network, 1, world.snp(2, WORKER_IMAGE), USUAL, engine).await;
    assert_eq!(answered_by(&ask_until(&gateway, 200).await)["fingerprint"], *honest);
    for _ in 0..10 {
        assert_eq!(answered_by(&ask(&gateway).await)["fingerprint"], *honest);
    }
    worker.shutdown().await;
    ask_until(&gateway, 503).await;
    gateway.shutdown().await;
    network.proxy.shutdown().await;
    for (peer, _, forgery) in forgers {
        let (asked, heard) = was_asked(peer).await;
        assert!(!asked, "{} was asked", forgery.what);
        assert!(!heard.is_empty() && !has_marker(&heard), "{} heard of a prompt", forgery.what);
    }
    world.log.assert_no_errors();
}

/// So that the tests above look in the right place.
#[tokio::test]
async fn an_honest_worker_does_hear_the_prompt() {
    let world = World::new();
    let network = world.network(world.tdx(PROXY_MACHINE, PROXY_IMAGE)).await;
    let (peer, _) = world.dial(network.proxy.workers_addr(), world.snp(2, WORKER_IMAGE)).await;
    let mut peer = ready_worker_over(peer.stream, worker_params(1, CHEAP)).await;
    let gateway = world.gateway(&network).await;
    let asking = ask(&gateway);
    let hearing = async {
        let _: proxy::RunQueryEx = peer.recv_message().await;
        peer
    };
    let peer = tokio::select! {
        peer = hearing => peer,
        reply = asking => panic!("answered by nobody: {reply:?}"),
    };
    drop((gateway, network));
    assert!(has_marker(&peer.heard().await));
}
