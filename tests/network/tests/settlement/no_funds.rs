//! The coins run out: callers are told so, and it goes on by itself once there are some.

use cocoon_network_tests::PATIENCE;

use crate::world::*;

/// Asks until it is refused for want of coins, and told so with `words`. Before that, use may be ahead of the charges for
/// a moment.
async fn used_up(gateway: &cocoon_gateway::Gateway, words: &str) -> String {
    let asking = async {
        loop {
            let (status, body) = ask(gateway).await;
            let said = body["error"]["message"].as_str().unwrap_or_default();
            if status == 402 && said.contains(words) {
                return said.to_owned();
            }
        }
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(body) => body,
        Err(_) => panic!("never used up: {:?} {:?}", ask(gateway).await, channels(gateway)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_wallet_is_told_and_filled_up_it_goes_on() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let _worker = world.worker(WORKER, proxy.workers_addr(), TON).await;
    // Enough for one deposit of 1 TON, and not for the next.
    world.grant(wallet(GATEWAY).0.address(), 2 * TON).await;
    let gateway = world.gateway(proxy.clients_addr(), TON, 50 * TON).await;
    answered(&gateway).await;
    let address = wallet(GATEWAY).0.address().to_wire_string(false);
    let words = used_up(&gateway, &address).await;
    assert!(words.contains("TON") && words.contains("top up"), "{words}");
    world.grant(wallet(GATEWAY).0.address(), 10 * TON).await;
    answered_times(&gateway, 50).await;
    world.assert_conserved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_kept_and_one_that_is_used_up_is_named() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let worker = world.worker(WORKER, proxy.workers_addr(), TON).await;
    world.grant(wallet(GATEWAY).0.address(), 20 * TON).await;
    let gateway = world.gateway(proxy.clients_addr(), TON, 2 * TON).await;
    answered(&gateway).await;
    let words = used_up(&gateway, "budget").await;
    assert!(words.contains("2 TON"), "{words}");
    let (_, tokens) = signed(&proxy, &[&worker]).await;
    assert!(tokens * PRICE <= 2 * TON, "{tokens} tokens are more than the budget");
    assert!(world.held(wallet(GATEWAY).0.address()).await >= 18 * TON - FEES);
    gateway.shutdown().await;

    // A larger budget, and it goes on where it was.
    let gateway = world.gateway(proxy.clients_addr(), TON, 5 * TON).await;
    answered_times(&gateway, 50).await;
    world.assert_conserved().await;
}
