//! The client disappears: proxy and workers get all that is theirs, and the rest waits for the client.

use cocoon_gateway::WalletEnd;
use cocoon_network_tests::until;
use cocoon_ton::Address;
use cocoon_ton::contracts::ContractStatus;

use crate::world::*;

/// A network that was used and whose client died: the client contract, the proxy contract, and the tokens.
struct Used {
    client: Address,
    contract: Address,
    tokens: u64,
}

async fn used_by_a_client_that_died(world: &World, keep_proxy: bool) -> (Used, Option<cocoon_proxy::Proxy>) {
    let proxy = world.proxy().await;
    let worker = world.worker(WORKER, proxy.workers_addr(), TON).await;
    world.grant(wallet(GATEWAY).0.address(), 10 * TON).await;
    let gateway = world.gateway(proxy.clients_addr(), 3 * TON, 8 * TON).await;
    answered_times(&gateway, 30).await;
    let (_, tokens) = signed(&proxy, &[&worker]).await;
    until("the deposit", || channels(&gateway).iter().any(|channel| channel.balance_nanoton > 0)).await;
    let client = channels(&gateway)[0].contract;
    drop(gateway);
    let contract = proxy.contract();
    worker.shutdown().await;
    if keep_proxy {
        return (Used { client, contract, tokens }, Some(proxy));
    }
    drop(proxy);
    (Used { client, contract, tokens }, None)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_winds_up_charges_all_and_sends_the_rest_where_the_client_finds_it() {
    let world = World::start().await;
    let (used, proxy) = used_by_a_client_that_died(&world, true).await;
    proxy.unwrap().shutdown().await;
    let (rest, steps) = world.wind_up().await;
    let state = world.client_state(used.client).await;
    assert_eq!((state.status, state.balance_nanoton), (ContractStatus::Closed, 0), "{steps:?}");
    assert_eq!(state.tokens_used, used.tokens, "the newest charge is on the chain");

    // The worker had no contract yet: what it is owed waits for it.
    assert_eq!(rest.contracts.len(), 1, "{rest:?}");
    let left = world.worker_leaves(WORKER).await;
    assert_eq!(left.proxies[0].paid_tokens, Some(used.tokens), "{left:?}");
    assert!(world.held(owner(WORKER)).await >= used.tokens * FEE + 2 * TON - FEES);
    let share = used.tokens * (PRICE - FEE);
    let held = world.held(owner(PROXY)).await;
    assert!(held >= 20 * TON - 4 * FEES, "{held} of 20 TON and the share {share}: {steps:?}");

    let (left, steps) = world.gateway_leaves().await;
    assert!(matches!(left.wallet, WalletEnd::Sent { .. }), "{left:?}");
    let held = world.held(owner(GATEWAY)).await;
    let most = 10 * TON - used.tokens * PRICE;
    assert!((most - FEES..=most).contains(&held), "{held} of {most}: {steps:?}");

    // The last of it: the worker's payout came late, so the proxy's part of it stayed in the contract.
    world.advance(TOO_LATE).await;
    world.grant(wallet(PROXY).0.address(), TON).await;
    let (rest, steps) = world.wind_up().await;
    assert_eq!(rest.contracts, [], "{steps:?}");
    let held = world.held(owner(PROXY)).await;
    assert!((21 * TON + share - 3 * FEES..=21 * TON + share).contains(&held), "{held}, {share}: {steps:?}");
    world.assert_conserved().await;
}

/// The owner closes the contract with nothing but its own wallet.
async fn owner_closes(world: &World, contract: Address) {
    world.owner_says(PROXY, contract, "c").await;
    assert_eq!(world.proxy_state(contract).await.status, ContractStatus::Closing);
    world.advance(PROXY_DELAY + 1).await;
    world.owner_says(PROXY, contract, "c").await;
    assert_eq!(world.proxy_state(contract).await.status, ContractStatus::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_in_time_finds_its_rest_in_a_closed_contract() {
    let world = World::start().await;
    let (used, _) = used_by_a_client_that_died(&world, false).await;
    owner_closes(&world, used.contract).await;
    world.advance(170 * 24 * 60 * 60).await;
    world.owner_says(PROXY, used.contract, "w").await;
    assert!(world.held(used.contract).await > 2 * TON, "the owner cannot take it yet");

    let left = world.worker_leaves(WORKER).await;
    assert_eq!(left.proxies[0].paid_tokens, Some(used.tokens), "{left:?}");
    let (left, steps) = world.gateway_leaves().await;
    assert!(matches!(left.wallet, WalletEnd::Sent { .. }), "{left:?}");
    let unpaid: u64 = left.unpaid.iter().map(|(_, nanoton)| nanoton).sum();
    let held = world.held(owner(GATEWAY)).await;
    // The stake was paid out at the close, so the uncharged use of the lost books is nobody's loss but this one's.
    let least = 10 * TON - used.tokens * PRICE - FEES;
    assert!(held >= least, "{held} of {least}, {unpaid} unpaid: {steps:?}");
    world.assert_conserved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_claims_in_half_a_year_goes_to_the_owner_of_the_proxy() {
    let world = World::start().await;
    let (used, _) = used_by_a_client_that_died(&world, false).await;
    owner_closes(&world, used.contract).await;
    let before = world.held(owner(PROXY)).await;
    world.advance(TOO_LATE).await;
    world.owner_says(PROXY, used.contract, "w").await;
    assert!(world.held(owner(PROXY)).await > before + 2 * TON);
    // Who comes now is told what is lacking.
    let (left, steps) = world.gateway_leaves().await;
    assert_eq!(left.unpaid.len(), 1, "{left:?} {steps:?}");
    assert_eq!(left.unpaid[0].0, used.client);
    assert!(left.unpaid[0].1 >= 3 * TON - used.tokens * PRICE, "{left:?}");
    world.assert_conserved().await;
}
