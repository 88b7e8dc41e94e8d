//! The root's parameters change while requests run: everybody moves on, and the old contracts are wound up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cocoon_network_tests::{PATIENCE, get};
use cocoon_ton::contracts::ContractStatus;
use cocoon_ton::message::RootChange;

use crate::world::*;

#[tokio::test(flavor = "multi_thread")]
async fn new_prices_under_load_bring_all_old_coins_back_and_requests_go_on() {
    let world = World::start().await;
    let proxy = world.proxy().await;
    let first = world.worker(WORKER, proxy.workers_addr(), TON / 10).await;
    let second = world.worker(WORKER + 1, proxy.workers_addr(), TON / 10).await;
    world.grant(wallet(GATEWAY).0.address(), 100 * TON).await;
    let gateway = Arc::new(world.gateway(proxy.clients_addr(), 3 * TON, 80 * TON).await);
    answered_times(&gateway, 20).await;
    let old = channels(&gateway)[0].clone();

    let stop = Arc::new(AtomicBool::new(false));
    let caller = |_| {
        let (gateway, stop) = (Arc::clone(&gateway), Arc::clone(&stop));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let (status, body) = ask(&gateway).await;
                let said = body["error"]["message"].as_str().is_some_and(|words| !words.is_empty());
                assert!(status == 200 || said, "{status} {body}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    };
    let callers: Vec<_> = (0..3).map(caller).collect();
    world.change_root(RootChange::ChangePrices { price: 2 * PRICE, worker_fee: 2 * FEE }).await;
    let new = async {
        loop {
            let channels = channels(&gateway);
            let open = channels.iter().find(|channel| {
                channel.contract != old.contract && channel.status == Some(ContractStatus::Open)
            });
            if let Some(open) = open {
                return open.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let Ok(new) = tokio::time::timeout(PATIENCE, new).await else {
        panic!("no new channel: {:?} {:?}", channels(&gateway), instances(&proxy));
    };
    answered_times(&gateway, 20).await;

    // The old contracts: closed, one after the other, by nodes that go on working.
    let over = async {
        let finished = |proxy| {
            let instances = instances(proxy);
            instances.len() == 2 && instances[0].status == Some(ContractStatus::Closed)
        };
        let mut looks = 0_u32;
        while !finished(&proxy) || channels(&gateway).iter().any(|channel| channel.contract == old.contract) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            looks += 1;
            if looks.is_multiple_of(20) {
                world.advance(PROXY_DELAY + 1).await;
            }
        }
    };
    if tokio::time::timeout(PATIENCE, over).await.is_err() {
        panic!("the old contracts stay: {:?} {:?}", channels(&gateway), instances(&proxy));
    }
    answered(&gateway).await;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let state = world.client_state(old.contract).await;
    assert_eq!((state.status, state.balance_nanoton), (ContractStatus::Closed, 0));
    assert!(world.held(old.contract).await < TON / 20);
    assert!(world.client_state(new.contract).await.params.price_per_token_nanoton == 2 * PRICE);

    // What the workers have earned under the old price is paid, by the running workers or by the wind-up.
    let paid = |worker: &cocoon_worker::Worker| {
        let due = worker.settlement().unwrap().proxies.into_iter().find(|due| due.proxy == old.proxy);
        due.is_none_or(|due| due.due_nanoton() == Some(0))
    };
    for worker in [&first, &second] {
        worker.pay_out(1).unwrap();
    }
    cocoon_network_tests::until("the old orders' payouts", || paid(&first) && paid(&second)).await;
    let page = get(gateway.http_addr(), "/health").await;
    assert_eq!(page.status, 200);
    // Half a year on, the old proxy contract gives its endowment back; nothing is forgotten.
    world.advance(TOO_LATE).await;
    let finished = || instances(&proxy)[0].finished;
    cocoon_network_tests::until("the end of the old proxy contract", finished).await;
    assert!(world.held(old.proxy).await < TON / 20);
    world.assert_conserved().await;
}
