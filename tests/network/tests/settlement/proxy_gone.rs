//! The proxy disappears for good, with its books.

use cocoon_gateway::WalletEnd;
use cocoon_network_tests::until;

use crate::world::*;

/// Brings a network up, uses it, lets the proxy die, and gives what the two workers' orders are for.
async fn used_and_left_alone(world: &World) -> Vec<u64> {
    let proxy = world.proxy().await;
    let first = world.worker(WORKER, proxy.workers_addr(), TON).await;
    let second = world.worker(WORKER + 1, proxy.workers_addr(), TON).await;
    world.grant(wallet(GATEWAY).0.address(), 10 * TON).await;
    let gateway = world.gateway(proxy.clients_addr(), 3 * TON, 8 * TON).await;
    answered_times(&gateway, 40).await;
    let (tokens, charged) = signed(&proxy, &[&first, &second]).await;
    // The proxy tells the gateway of each charge on a link of its own.
    until("the gateway's books", || gateway.spent().tokens.get() == charged).await;
    // Not one clean word to anybody.
    drop(proxy);
    std::fs::remove_file(world.proxy_config().store).unwrap();
    gateway.shutdown().await;
    first.shutdown().await;
    second.shutdown().await;
    tokens
}

async fn workers_are_paid(world: &World, tokens: &[u64]) {
    for (number, &tokens) in (WORKER..).zip(tokens) {
        let left = world.worker_leaves(number).await;
        assert_eq!(left.proxies.len(), 1, "{left:?}");
        assert_eq!(left.proxies[0].paid_tokens, Some(tokens), "{left:?}");
        let earned = tokens * FEE;
        let held = world.held(owner(number)).await;
        assert!(
            (earned + 2 * TON - FEES..=earned + 2 * TON).contains(&held),
            "{held} for {tokens}: {left:?}"
        );
    }
}

async fn the_client_gets_its_rest(world: &World, charged: u64) {
    let (left, steps) = world.gateway_leaves().await;
    assert!(matches!(left.wallet, WalletEnd::Sent { .. }) && left.unpaid.is_empty(), "{left:?} {steps:?}");
    let held = world.held(owner(GATEWAY)).await;
    // What was used and not charged is not taken from a client whose proxy is gone; the stake stands in for it.
    let least = 10 * TON - charged * PRICE - FEES;
    assert!((least..=10 * TON).contains(&held), "{held}, at least {least}: {steps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_gets_what_is_theirs_the_workers_first() {
    let world = World::start().await;
    let began = world.local().now().await.unwrap();
    let tokens = used_and_left_alone(&world).await;
    workers_are_paid(&world, &tokens).await;
    the_client_gets_its_rest(&world, tokens.iter().sum()).await;
    let passed = world.local().now().await.unwrap() - began;
    assert!(passed < 2 * CLIENT_DELAY, "nobody had to wait for more than the client's delay: {passed} s");
    world.assert_conserved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_gets_what_is_theirs_the_client_first() {
    let world = World::start().await;
    let tokens = used_and_left_alone(&world).await;
    the_client_gets_its_rest(&world, tokens.iter().sum()).await;
    workers_are_paid(&world, &tokens).await;
    world.assert_conserved().await;
}
