//! The proxy's owner closes the proxy contract on chain, with the text `c`, while everything runs.

use std::time::Duration;

use cocoon_network_tests::{PATIENCE, until};
use cocoon_ton::contracts::ContractStatus;

use crate::world::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_leaves_by_itself_in_time_and_nobody_loses() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let worker = world.worker(WORKER, proxy.workers_addr(), TON).await;
    world.grant(wallet(GATEWAY).0.address(), 10 * TON).await;
    let gateway = world.gateway(proxy.clients_addr(), 3 * TON, 8 * TON).await;
    answered_times(&gateway, 30).await;
    let (_, tokens) = signed(&proxy, &[&worker]).await;
    let client = channels(&gateway)[0].contract;

    world.owner_says(PROXY, proxy.contract(), "c").await;
    let began = world.local().now().await.unwrap();
    let out = |channel: &cocoon_gateway::ChannelReport| {
        channel.contract != client || channel.status == Some(ContractStatus::Closed)
    };
    until("the gateway's way out", || channels(&gateway).iter().all(out)).await;
    let passed = world.local().now().await.unwrap() - began;
    assert!(passed < CLIENT_DELAY, "the proxy grants it at once: {passed} s");
    let state = world.client_state(client).await;
    assert_eq!((state.status, state.balance_nanoton, state.tokens_used), (ContractStatus::Closed, 0, tokens));
    let (status, body) = ask(&gateway).await;
    assert!(status != 200 && body["error"]["message"].is_string(), "{status} {body}");
    // A closing proxy is a reason to fetch what is due, without being asked.
    let due = || worker.settlement().unwrap().proxies[0].due_nanoton();
    until("the worker's payout", || due() == Some(0)).await;
    world.assert_paid(WORKER, tokens).await;

    let closed = async {
        while world.proxy_state(proxy.contract()).await.status != ContractStatus::Closed {
            world.advance(PROXY_DELAY / 4).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, closed).await.is_err() {
        panic!("the close is not completed: {:?}", instances(&proxy));
    }
    let held = world.held(owner(PROXY)).await;
    // 10 TON of its own, the stake, the proxy's part, and what the last message carried for fees.
    let most = 11 * TON + tokens * (PRICE - FEE) + cocoon_settle::COMMISSION_NANOTON;
    assert!((most - FEES..=most).contains(&held), "{held} of {most}");
    gateway.shutdown().await;
    let (left, steps) = world.gateway_leaves().await;
    let held = world.held(owner(GATEWAY)).await;
    let most = 10 * TON - tokens * PRICE;
    assert!((most - FEES..=most).contains(&held), "{held} of {most}: {left:?} {steps:?}");
    world.assert_conserved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_leaves_in_time_also_where_the_proxys_node_is_gone() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let worker = world.worker(WORKER, proxy.workers_addr(), TON).await;
    world.grant(wallet(GATEWAY).0.address(), 10 * TON).await;
    let gateway = world.gateway(proxy.clients_addr(), 3 * TON, 8 * TON).await;
    answered_times(&gateway, 30).await;
    let (_, tokens) = signed(&proxy, &[&worker]).await;
    let client = channels(&gateway)[0].contract;
    let contract = proxy.contract();
    drop(proxy);
    world.owner_says(PROXY, contract, "c").await;
    let asked = async {
        while world.client_state(client).await.status != ContractStatus::Closing {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, asked).await.is_err() {
        panic!("the gateway does not leave: {:?}", channels(&gateway));
    }
    world.advance(CLIENT_DELAY + 1).await;
    let gone = async {
        while world.client_state(client).await.status != ContractStatus::Closed {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, gone).await.is_err() {
        panic!("the gateway does not take its coins: {:?}", channels(&gateway));
    }
    let due = || worker.settlement().unwrap().proxies[0].due_nanoton();
    until("the worker's payout", || due() == Some(0)).await;
    world.assert_paid(WORKER, tokens).await;
    gateway.shutdown().await;
    world.advance(PROXY_DELAY).await;
    world.owner_says(PROXY, contract, "c").await;
    let (left, _) = world.gateway_leaves().await;
    assert!(left.unpaid.is_empty(), "{left:?}");
    let held = world.held(owner(GATEWAY)).await;
    assert!(held >= 10 * TON - tokens * PRICE - FEES, "{held}");
    world.assert_conserved().await;
}
