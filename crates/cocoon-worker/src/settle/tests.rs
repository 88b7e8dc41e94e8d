#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod backing;
mod leaving;
mod page;
mod random;
mod town;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cocoon_chain::{AccountState, Chain};
use cocoon_settle::WORTH_FETCHING_NANOTON;
use cocoon_settle::worker::FIRST_PAYOUT_NANOTON;
use cocoon_store::{SqliteStore, Store as _};
use cocoon_ton::Cell;
use cocoon_ton::contracts::{ContractStatus, WorkerState};
use cocoon_ton::message::Body;
use cocoon_ton::payment::{OrderKind, SignedPayment};
use tokio::time::Instant;

use super::{Settlement, SettlementConfig};
use crate::open_store;
use town::{FEE, ONE_TON_OF_TOKENS, PROXY_DELAY, TON, Town};

const DAY: u32 = 24 * 60 * 60;

#[tokio::test]
async fn at_the_threshold_the_owner_is_paid_to_the_nano_and_later_only_the_difference() {
    let town = Town::new(5 * TON).await;
    let proxy = town.proxy(1, 100 * TON).await;
    let settlement = town.open().await;

    town.show(&settlement.channels, &proxy, ONE_TON_OF_TOKENS - 1).unwrap();
    assert!(settlement.round().await.unwrap().is_empty());
    assert_eq!(town.line.sent(), 0, "below the threshold nothing is sent");

    town.show(&settlement.channels, &proxy, ONE_TON_OF_TOKENS).unwrap();
    let steps = settlement.round().await.unwrap();
    assert_eq!((steps.len(), steps[0].exit_code), (1, Some(0)));
    assert_eq!(town.paid().await, ONE_TON_OF_TOKENS * FEE);
    let contract = town.line.account(proxy.worker).await;
    assert_eq!(WorkerState::from_data(&contract.data.unwrap()).unwrap().tokens, ONE_TON_OF_TOKENS);

    assert!(settlement.round().await.unwrap().is_empty(), "a paid order is not sent again");
    town.show(&settlement.channels, &proxy, 3 * ONE_TON_OF_TOKENS).unwrap();
    assert_eq!(settlement.round().await.unwrap().len(), 1);
    assert_eq!(town.paid().await, 3 * ONE_TON_OF_TOKENS * FEE);
    settlement.round().await.unwrap();
    let due = &settlement.proxies()[0];
    assert_eq!((due.due_nanoton(), due.paid_nanoton()), (Some(0), Some(3 * ONE_TON_OF_TOKENS * FEE)));
    // What was left of the messages came back: the owner's coins are not used for fees, nor does the wallet bleed.
    assert!(town.line.balance(town.wallet.address()).await > 5 * TON - TON / 5);
}

#[tokio::test]
async fn a_process_that_dies_after_an_order_loses_nothing_and_needs_no_proxy_to_be_paid() {
    let town = Town::new(5 * TON).await;
    let proxy = town.proxy(1, 100 * TON).await;
    let (store, channels) = open_store(town.store()).await.unwrap();
    town.show(&channels, &proxy, 2 * ONE_TON_OF_TOKENS).unwrap();
    // Writes are durable in order: with this one, so is the order.
    store.put("later", "anything".into()).unwrap().await.unwrap();
    std::mem::forget((store, channels));

    let settlement = town.open().await;
    let books = settlement.channels.list()[0].books();
    assert_eq!((books.counters.db(), books.signed()), (2 * ONE_TON_OF_TOKENS, 2 * ONE_TON_OF_TOKENS));
    assert_eq!(settlement.round().await.unwrap().len(), 1);
    assert_eq!(town.paid().await, 2 * ONE_TON_OF_TOKENS * FEE);
}

#[tokio::test]
async fn after_a_change_of_prices_old_orders_are_paid_at_the_old_fee() {
    let town = Town::new(5 * TON).await;
    let old = town.proxy(1, 100 * TON).await;
    let settlement = town.open().await;
    town.show(&settlement.channels, &old, 2 * ONE_TON_OF_TOKENS).unwrap();
    town.line.change_root(|params| params.worker_fee_per_token_nanoton = FEE / 2);
    let new = town.proxy(1, 100 * TON).await;
    assert_ne!((old.contract, old.worker), (new.contract, new.worker));
    town.show(&settlement.channels, &new, 4 * ONE_TON_OF_TOKENS).unwrap();
    assert_eq!(settlement.round().await.unwrap().len(), 2);
    assert_eq!(town.paid().await, 2 * ONE_TON_OF_TOKENS * FEE + 4 * ONE_TON_OF_TOKENS * (FEE / 2));
}

#[tokio::test]
async fn an_order_that_was_paid_or_is_lower_pays_nothing_whoever_brings_it() {
    let town = Town::new(5 * TON).await;
    let proxy = town.proxy(1, 100 * TON).await;
    let settlement = town.open().await;
    town.show(&settlement.channels, &proxy, 2 * ONE_TON_OF_TOKENS).unwrap();
    settlement.round().await.unwrap();
    let paid = town.paid().await;

    // Somebody who has seen it.
    for tokens in [ONE_TON_OF_TOKENS, 2 * ONE_TON_OF_TOKENS] {
        let order = SignedPayment::parse(&proxy.order(OrderKind::PayWorker, tokens)).unwrap();
        town.send(proxy.worker, TON, None, Body::SignedPayment(order)).await;
        assert_eq!(town.paid().await, paid);
    }
    // A proxy that shows less than before.
    let refused = town.show(&settlement.channels, &proxy, ONE_TON_OF_TOKENS).unwrap_err();
    assert!(refused.contains("went back"), "{refused}");
    // A worker that has forgotten everything is shown an old order.
    drop(settlement);
    std::fs::remove_file(town.store()).unwrap();
    let settlement = town.open().await;
    town.show(&settlement.channels, &proxy, ONE_TON_OF_TOKENS).unwrap();
    settlement.pay_out(0);
    assert!(settlement.round().await.unwrap().is_empty());
    assert_eq!((town.paid().await, town.line.sent()), (paid, 0));
}

#[tokio::test]
async fn a_proxy_contract_without_enough_coins_is_waited_for() {
    let town = Town::new(5 * TON).await;
    let proxy = town.proxy(1, 0).await;
    let settlement = town.open().await;
    town.show(&settlement.channels, &proxy, 2 * ONE_TON_OF_TOKENS).unwrap();
    for _ in 0..3 {
        assert!(settlement.round().await.unwrap().is_empty());
    }
    assert_eq!(town.line.sent(), 0, "no fees are spent in vain");
    assert_eq!(settlement.proxies()[0].due_nanoton(), Some(2 * ONE_TON_OF_TOKENS * FEE));
    town.send(proxy.contract, 5 * TON, None, Body::Empty).await;
    assert_eq!(settlement.round().await.unwrap().len(), 1);
    assert_eq!(town.paid().await, 2 * ONE_TON_OF_TOKENS * FEE);
}

#[tokio::test]
async fn a_payout_that_comes_back_is_not_repeated_at_once() {
    let town = Town::new(5 * TON).await;
    let proxy = town.proxy(1, 100 * TON).await;
    let settlement = town.open().await;
    town.show(&settlement.channels, &proxy, 2 * ONE_TON_OF_TOKENS).unwrap();
    // The chain shows riches where there is nothing: the payout is refused and taken back.
    let mut rich = town.line.account(proxy.contract).await;
    let poor = town.proxy(2, 0).await;
    town.show(&settlement.channels, &poor, 2 * ONE_TON_OF_TOKENS).unwrap();
    rich.data = town.line.account(poor.contract).await.data;
    rich.at.seqno = u32::MAX;
    *town.line.lie.lock().unwrap() = Some((poor.contract, rich));
    assert_eq!(settlement.round().await.unwrap().len(), 2);
    assert_eq!(town.paid().await, 2 * ONE_TON_OF_TOKENS * FEE, "the other one is not held up");
    for _ in 0..3 {
        assert!(settlement.round().await.unwrap().is_empty());
    }
    let due = settlement.proxies().into_iter().find(|due| due.proxy == poor.contract).unwrap();
    assert!(due.error.unwrap().contains("came back"));
    // Who asks for it gets another try.
    *town.line.lie.lock().unwrap() = None;
    town.send(poor.contract, 5 * TON, None, Body::Empty).await;
    settlement.pay_out(WORTH_FETCHING_NANOTON);
    assert_eq!(settlement.round().await.unwrap().len(), 1);
    assert_eq!(town.paid().await, 4 * ONE_TON_OF_TOKENS * FEE);
}

#[tokio::test]
async fn at_a_proxy_that_closes_small_sums_are_fetched_and_half_a_year_later_still() {
    let town = Town::new(5 * TON).await;
    let (early, late) = (town.proxy(1, 10 * TON).await, town.proxy(2, 10 * TON).await);
    let settlement = town.open().await;
    let small = FIRST_PAYOUT_NANOTON / FEE + 1;
    town.show(&settlement.channels, &early, small).unwrap();
    assert!(settlement.round().await.unwrap().is_empty());
    for proxy in [&early, &late] {
        town.close(proxy).await;
    }
    assert_eq!(settlement.round().await.unwrap().len(), 1);
    assert_eq!(town.paid().await, small * FEE);

    town.line.chain.advance(PROXY_DELAY + 1).await.unwrap();
    for proxy in [&early, &late] {
        town.close(proxy).await;
    }
    town.line.chain.advance(179 * DAY).await.unwrap();
    town.show(&settlement.channels, &late, small).unwrap();
    assert_eq!(settlement.round().await.unwrap().len(), 1);
    settlement.round().await.unwrap();
    let due = settlement.proxies().into_iter().find(|due| due.proxy == late.contract).unwrap();
    assert_eq!((due.proxy_status, due.due_nanoton()), (Some(ContractStatus::Closed), Some(0)));
    let storage = 2 * small * FEE - town.paid().await;
    assert!(storage < TON / 1000, "less the storage of the owner's account: {storage}");
}

#[tokio::test]
async fn an_empty_wallet_says_what_it_needs_and_goes_on_once_it_has_it() {
    let town = Town::new(0).await;
    let proxy = town.proxy(1, 100 * TON).await;
    let settlement = town.open().await;
    town.show(&settlement.channels, &proxy, ONE_TON_OF_TOKENS).unwrap();
    assert!(settlement.round().await.unwrap().is_empty());
    let needs = settlement.view().needs.unwrap();
    assert_eq!(needs.wallet, town.wallet.address());
    assert!(needs.link().starts_with("ton://transfer/"), "{}", needs.link());
    assert_eq!(town.line.sent(), 0);
    // Exactly what it says is enough.
    town.line.grant(town.wallet.address(), needs.missing_nanoton + TON / 50).await;
    assert_eq!(settlement.round().await.unwrap().len(), 1);
    assert_eq!(town.paid().await, ONE_TON_OF_TOKENS * FEE);
    settlement.round().await.unwrap();
    assert_eq!(settlement.view().needs, None);
}

#[tokio::test]
async fn nothing_is_signed_for_a_chain_that_shows_other_contracts() {
    let town = Town::new(5 * TON).await;
    let (proxy, other) = (town.proxy(1, 100 * TON).await, town.proxy(2, 100 * TON).await);
    let settlement = town.open().await;
    town.show(&settlement.channels, &proxy, ONE_TON_OF_TOKENS).unwrap();
    town.show(&settlement.channels, &other, ONE_TON_OF_TOKENS).unwrap();
    settlement.round().await.unwrap();
    town.show(&settlement.channels, &proxy, 9 * ONE_TON_OF_TOKENS).unwrap();
    let (paid, sent) = (town.paid().await, town.line.sent());

    let honest = town.line.account(proxy.worker).await;
    let honest_proxy = town.line.account(proxy.contract).await;
    let others = town.line.account(other.worker).await;
    let others_proxy = town.line.account(other.contract).await;
    let lies = [
        (proxy.worker, AccountState { code: honest_proxy.code.clone(), ..honest.clone() }, "code"),
        (proxy.worker, AccountState { code: None, ..honest.clone() }, "does not show"),
        (proxy.worker, AccountState { data: others.data.clone(), ..honest.clone() }, "parties"),
        (proxy.worker, AccountState { data: Some(Cell::default()), ..honest.clone() }, "ends"),
        (proxy.contract, AccountState { code: honest.code.clone(), ..honest_proxy.clone() }, "code"),
        (proxy.contract, AccountState { data: others_proxy.data.clone(), ..honest_proxy.clone() }, "key"),
    ];
    for (address, lie, words) in lies {
        *town.line.lie.lock().unwrap() = Some((address, lie));
        assert!(settlement.round().await.unwrap().is_empty());
        let due = settlement.proxies().into_iter().find(|due| due.proxy == proxy.contract).unwrap();
        let error = due.error.unwrap();
        assert!(error.contains(words) && error.contains("another contract"), "{error}");
    }
    assert_eq!((town.paid().await, town.line.sent()), (paid, sent));
    *town.line.lie.lock().unwrap() = None;
    assert_eq!(settlement.round().await.unwrap().len(), 1, "and then the truth is acted on");
}

#[tokio::test]
async fn nothing_is_signed_for_a_chain_that_answers_from_the_past() {
    let town = Town::new(5 * TON).await;
    let proxy = town.proxy(1, 100 * TON).await;
    let settlement = town.open().await;
    town.show(&settlement.channels, &proxy, ONE_TON_OF_TOKENS).unwrap();
    let before = town.line.account(proxy.worker).await;
    assert_eq!(settlement.round().await.unwrap().len(), 1);
    *town.line.lie.lock().unwrap() = Some((proxy.worker, before));
    let error = settlement.round().await.unwrap_err().to_string();
    assert!(error.contains("an endpoint is behind"), "{error}");
    assert_eq!(settlement.view().error, Some(error));
    assert_eq!(town.line.sent(), 1);
}

#[tokio::test]
async fn a_chain_that_never_answers_is_given_up_and_said_so() {
    let town = Town::new(5 * TON).await;
    let proxy = town.proxy(1, 100 * TON).await;
    let settlement = town.open().await;
    town.show(&settlement.channels, &proxy, ONE_TON_OF_TOKENS).unwrap();
    town.line.stalled.store(true, Ordering::SeqCst);
    tokio::time::pause();
    let error = settlement.round().await.unwrap_err().to_string();
    assert!(error.contains("no answer about the wallet's state within 300 s"), "{error}");
    town.line.stalled.store(false, Ordering::SeqCst);
    town.line.down.store(true, Ordering::SeqCst);
    let error = settlement.round().await.unwrap_err().to_string();
    assert!(error.contains("no line"), "{error}");
    assert_eq!(settlement.view().error, Some(error));
    tokio::time::resume();
    town.line.down.store(false, Ordering::SeqCst);
    assert_eq!(settlement.round().await.unwrap().len(), 1);
    assert_eq!(settlement.view().error, None);
}

/// Waits for what the task does by itself.
async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done().await {
        assert!(Instant::now() < deadline, "in vain waited for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_task_wakes_for_a_due_order_and_on_demand_and_not_for_less() {
    let town = Town::new(5 * TON).await;
    let proxy = town.proxy(1, 100 * TON).await;
    let (_store, channels) = open_store(town.store()).await.unwrap();
    let chain = Arc::clone(&town.line) as Arc<dyn Chain>;
    let config: SettlementConfig = town.config();
    let settlement = Arc::new(Settlement::new(config, chain, channels));
    let task = tokio::spawn(Arc::clone(&settlement).run());

    town.show(&settlement.channels, &proxy, ONE_TON_OF_TOKENS).unwrap();
    until("the payout", async || town.paid().await == ONE_TON_OF_TOKENS * FEE).await;
    until("the next look", async || settlement.proxies()[0].due_nanoton() == Some(0)).await;
    for tokens in 1..10 {
        town.show(&settlement.channels, &proxy, ONE_TON_OF_TOKENS + tokens * 1_000).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(town.line.sent(), 1, "little is not worth it");
    assert_eq!(settlement.pay_out(FEE).len(), 1);
    until("the payout on demand", async || town.paid().await == (ONE_TON_OF_TOKENS + 9_000) * FEE).await;
    town.show(&settlement.channels, &proxy, 3 * ONE_TON_OF_TOKENS).unwrap();
    until("the next payout", async || town.paid().await == 3 * ONE_TON_OF_TOKENS * FEE).await;
    task.abort();
}

#[tokio::test]
async fn a_last_order_is_taken_and_no_work_is_done_after_it() {
    let town = Town::new(5 * TON).await;
    let proxy = town.proxy(1, 100 * TON).await;
    let settlement = town.open().await;
    town.show(&settlement.channels, &proxy, ONE_TON_OF_TOKENS).unwrap();
    let last = proxy.order(OrderKind::PayWorkerLast, ONE_TON_OF_TOKENS);
    town.show_order(&settlement.channels, &proxy, &last, ONE_TON_OF_TOKENS).unwrap();
    assert_eq!(settlement.round().await.unwrap().len(), 1);
    // A worker contract that closes also gives its owner its own reserve.
    let reserve = town.paid().await - ONE_TON_OF_TOKENS * FEE;
    assert!(reserve < TON / 5, "{reserve}");
    settlement.round().await.unwrap();
    let refusal = settlement.channels.list()[0].refusal().unwrap();
    assert!(refusal.contains("is closed: nothing would be paid"), "{refusal}");
    town.show(&settlement.channels, &proxy, 2 * ONE_TON_OF_TOKENS).unwrap();
    assert!(settlement.round().await.unwrap().is_empty());
    assert!(settlement.proxies()[0].error.as_ref().unwrap().contains("is closed"));
}

#[tokio::test]
async fn what_is_stored_reads_back_and_what_is_damaged_is_named() {
    let town = Town::new(0).await;
    let proxy = town.proxy(1, TON).await;
    let (store, channels) = open_store(town.store()).await.unwrap();
    town.show(&channels, &proxy, 7).unwrap();
    let books = channels.list()[0].books();
    store.close().unwrap();
    drop((store, channels));
    let (store, channels) = open_store(town.store()).await.unwrap();
    assert_eq!((channels.list().len(), channels.list()[0].books()), (1, books));
    assert_eq!(channels.list()[0].terms.contract, proxy.worker);

    let key = format!("channel/{}", proxy.worker.to_raw_string());
    let good = store.get(&key).unwrap().unwrap();
    let other = town.proxy(2, TON).await;
    let forged = [&good[..26], &other.order(OrderKind::PayWorker, 7)].concat();
    let older = [&good[..26], &proxy.order(OrderKind::PayWorker, 6)].concat();
    let values = [
        (Vec::new(), "nothing"),
        (vec![9], "format version 9"),
        (good[..20].to_vec(), "end early"),
        (good[..good.len() - 1].to_vec(), "bag of cells"),
        (forged, "does not verify"),
        (older, "not the newest"),
    ];
    drop((store, channels));
    for (value, words) in values {
        let store = SqliteStore::open(town.store()).unwrap();
        store.put(&key, value.into()).unwrap().await.unwrap();
        drop(store);
        let error = open_store(town.store()).await.err().map(|error| error.to_string()).unwrap();
        assert!(error.contains("is damaged") && error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn an_order_of_another_key_or_for_another_contract_is_refused() {
    let town = Town::new(0).await;
    let (proxy, other) = (town.proxy(1, TON).await, town.proxy(2, TON).await);
    let settlement = town.open().await;
    for order in
        [other.order(OrderKind::PayWorker, 5), proxy.order(OrderKind::ChargeClient, 5), vec![1, 2, 3]]
    {
        town.show_order(&settlement.channels, &proxy, &order, 5).unwrap_err();
    }
    assert!(settlement.proxies().is_empty());
}
