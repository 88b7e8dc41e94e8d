//! A worker disappears, and comes back when even the proxy contract is closed.

use cocoon_gateway::WalletEnd;

use crate::world::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_others_do_not_notice_and_its_order_is_good_after_the_close() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let first = world.worker(WORKER, proxy.workers_addr(), TON).await;
    world.grant(wallet(GATEWAY).0.address(), 10 * TON).await;
    let gateway = world.gateway(proxy.clients_addr(), 3 * TON, 8 * TON).await;
    answered_times(&gateway, 20).await;
    let (lost, _) = signed(&proxy, &[&first]).await;
    drop(first);

    let second = world.worker(WORKER + 1, proxy.workers_addr(), TON / 5).await;
    answered_times(&gateway, 60).await;
    let all = proxy.books().charged.get();
    let theirs = all - lost[0];
    // This one is paid as it works; the rest of it when the proxy is gone.
    let paid = || second.settlement().unwrap().proxies[0].paid_tokens.unwrap_or(0);
    cocoon_network_tests::until("a payout", || paid() > 0).await;
    second.shutdown().await;
    gateway.shutdown().await;
    let contract = proxy.contract();
    proxy.shutdown().await;

    let (rest, steps) = world.wind_up().await;
    assert_eq!(rest.contracts.len(), 1, "{rest:?}");
    assert_eq!(rest.contracts[0].contract, Some(contract));
    // The wind-up has paid whoever has a worker contract.
    let held = world.held(owner(WORKER + 1)).await;
    assert!(held + TON / 1000 >= theirs * FEE, "{held} for {theirs} tokens: {steps:?}");
    let (left, _) = world.gateway_leaves().await;
    assert!(matches!(left.wallet, WalletEnd::Sent { .. }), "{left:?}");
    let held = world.held(owner(GATEWAY)).await;
    let most = 10 * TON - all * PRICE;
    assert!((most - FEES..=most).contains(&held), "{held} of {most}");

    world.advance(150 * 24 * 60 * 60).await;
    let left = world.worker_leaves(WORKER).await;
    assert_eq!(left.proxies[0].paid_tokens, Some(lost[0]), "{left:?}");
    assert!(world.held(owner(WORKER)).await >= lost[0] * FEE + 2 * TON - FEES);
    let left = world.worker_leaves(WORKER + 1).await;
    assert_eq!(left.proxies[0].due_nanoton(), Some(0), "{left:?}");
    world.assert_conserved().await;
}
