//! The settlement against real contracts on the embedded chain.
#![allow(clippy::unwrap_used)]

mod world;

use std::sync::Arc;
use std::time::Duration;

use cocoon_chain::settler::RETRY_AFTER;
use cocoon_settle::Purpose;
use cocoon_settle::client::ClientPolicy;
use cocoon_ton::contracts::ContractStatus;
use cocoon_ton::message::Body;
use cocoon_ton::payment::OrderKind;

use super::{Channels, LeaveStep, WalletEnd, deposit, leave, withdraw};
use world::{CLIENT_DELAY, Lie, PRICE, TON, World};

fn policy(deposit: u64, budget: u64) -> ClientPolicy {
    ClientPolicy { deposit_nanoton: deposit * TON, budget_nanoton: budget * TON, ..ClientPolicy::default() }
}

#[tokio::test]
async fn a_channel_is_remembered_opened_and_registered_in_one_go() {
    let world = World::new(10).await;
    let till = world.till(policy(2, 5));
    let presence = till.meet(&world);
    presence.register(77);
    let round = till.round().await;
    let purposes: Vec<_> = round.steps.iter().map(|step| step.transfer.purpose).collect();
    assert_eq!(purposes, [Purpose::OpenChannel { amount: 2 * TON }, Purpose::Register]);
    assert_eq!(round.steps[0].transaction, round.steps[1].transaction, "both in one message of the wallet");
    assert!(!round.was_refused());
    assert!(till.book.load_channels().unwrap().by_contract.contains_key(&world.contract()));

    let state = world.client().await.unwrap();
    assert_eq!(
        (state.balance_nanoton, state.secret_hash),
        (2 * TON, till.settlement.secret.hash_for_proxy(&world.proxy))
    );
    let seen = world.proxy_was_told().await;
    let registered = |body: &Body| match body {
        Body::ClientProxyRequest { request, .. } => {
            matches!(request, Some(cocoon_ton::message::ClientRequest::Register { nonce: 77 }))
        }
        _ => false,
    };
    assert_eq!(seen.iter().filter(|body| registered(body)).count(), 1);

    let round = till.round().await;
    assert!(round.steps.is_empty(), "what was done is not done again: {:?}", round.steps);
    let report = till.settlement.report().borrow().clone();
    assert_eq!((report.committed_nanoton, report.channels[0].unspent_nanoton), (2 * TON, 2 * TON));
    assert_eq!(report.channels[0].status, Some(ContractStatus::Open));
}

#[tokio::test]
async fn a_nonce_is_forgotten_with_its_connection_or_once_the_proxy_lets_us_in() {
    let world = World::new(10).await;
    let till = world.till(policy(2, 5));
    let (first, second) = (till.meet(&world), till.meet(&world));
    first.register(1);
    second.register(2);
    drop(first);
    assert_eq!(second.channel().live().registration.map(|(nonce, _)| nonce), Some(2), "the newest stays");
    second.ready();
    assert_eq!(second.channel().live().registration, None);
    second.register(3);
    let channel = Arc::clone(second.channel());
    drop(second);
    assert_eq!((channel.live().registration, channel.live().connections), (None, 0));
    assert!(till.round().await.steps.is_empty(), "a proxy that is gone gets no coins");
}

#[tokio::test]
async fn use_is_topped_up_at_the_right_moment_and_within_the_budget() {
    let world = World::new(10).await;
    let till = world.till(policy(2, 3));
    let presence = till.meet(&world);
    till.settle().await;

    // Below half of two TON left, or 80 % of the stake's one TON uncharged: the latter comes first.
    let due = TON / 100 * 80 / PRICE;
    presence.charge(world.order(OrderKind::ChargeClient, due - 1));
    assert!(!till.is_woken(), "nothing is due yet");
    presence.charge(world.order(OrderKind::ChargeClient, due));
    assert!(till.is_woken());
    let purposes: Vec<_> = till.settle().await;
    assert_eq!(purposes, [Purpose::Charge { tokens: due }]);

    let due = TON / PRICE + 1;
    presence.charge(world.order(OrderKind::ChargeClient, due - 1));
    assert!(!till.is_woken());
    presence.charge(world.order(OrderKind::ChargeClient, due));
    assert!(till.is_woken());
    let purposes = till.settle().await;
    assert_eq!(purposes, [Purpose::TopUp { amount: TON }], "as much as the budget allows");

    let all = 3 * TON / PRICE;
    presence.charge(world.order(OrderKind::ChargeClient, all));
    assert!(till.settle().await.iter().all(|purpose| matches!(purpose, Purpose::Charge { .. })));
    let report = till.settlement.report().borrow().clone();
    assert_eq!((report.committed_nanoton, report.channels[0].balance_nanoton), (3 * TON, 0));
    assert!(report.status.hold.unwrap().contains("used up"));
}

#[tokio::test]
async fn a_new_secret_reaches_the_contract() {
    let world = World::new(10).await;
    let till = world.till(policy(2, 3));
    let presence = till.meet(&world);
    till.settle().await;
    drop(presence);
    till.close();
    let till = world.till_with_secret(policy(2, 3), b"another secret of ours");
    let _presence = till.meet(&world);
    assert_eq!(till.settle().await, [Purpose::ChangeSecret]);
    assert_eq!(
        world.client().await.unwrap().secret_hash,
        till.settlement.secret.hash_for_proxy(&world.proxy)
    );
}

#[tokio::test]
async fn a_closing_proxy_is_left_and_the_refund_is_forced_after_the_delay() {
    let world = World::new(10).await;
    let till = world.till(policy(2, 3));
    let presence = till.meet(&world);
    till.settle().await;
    world.close_proxy().await;
    assert_eq!(till.round().await.steps[0].transfer.purpose, Purpose::RequestRefund);
    assert!(presence.channel().is_leaving() && presence.wants_refund());
    let round = till.round().await;
    assert!(round.steps.is_empty(), "the delay runs: {:?}", round.steps);
    assert!(round.again_at.unwrap() > round.now);
    world.chain.chain().advance(CLIENT_DELAY + 1).await.unwrap();
    let purposes = till.settle().await;
    // What was over the stake came back with the request.
    assert_eq!(purposes[0], Purpose::ForceRefund { amount: TON });
    world.has_all_but_fees(10).await;
    let records = till.book.load_channels().unwrap();
    assert_eq!(records.by_contract[&world.contract()].finished_spent_nanoton, Some(0));
}

#[tokio::test]
async fn a_refund_that_the_proxy_grants_is_taken_at_once_and_survives_a_restart() {
    let world = World::new(10).await;
    let till = world.till(policy(2, 3));
    let presence = till.meet(&world);
    till.settle().await;
    world.close_proxy().await;
    till.round().await;
    presence.refund(world.order(OrderKind::RefundClient, 100));
    assert!(till.is_woken() && !presence.wants_refund());
    let known = till.settlement.look(&till.book, &till.settlement.settler.settled().await.unwrap()).await;
    assert_eq!(known.unwrap().0.len(), 1);
    drop(presence);
    till.close();
    let till = world.till(policy(2, 3));
    assert_eq!(till.round().await.steps[0].transfer.purpose, Purpose::GrantRefund { tokens: 100 });
    till.settle().await;
    assert_eq!(world.client().await.unwrap().tokens_used, 100);
    let committed = till.settlement.report().borrow().committed_nanoton;
    assert_eq!(committed, 100 * PRICE, "what was spent counts against the budget for good");
    let records = till.book.load_channels().unwrap();
    assert_eq!(records.by_contract[&world.contract()].finished_spent_nanoton, Some(100 * PRICE));
}

#[tokio::test]
async fn leaving_can_be_broken_off_at_any_step_and_ends_with_all_coins_at_the_owner() {
    let world = World::new(10).await;
    let till = world.till(policy(3, 3));
    let presence = till.meet(&world);
    till.settle().await;
    drop(presence);
    till.close();

    let mut left = None;
    let mut attempts = 0_usize;
    while left.is_none() {
        attempts += 1;
        assert!(attempts < 30, "no end");
        let broken_off = tokio::sync::Notify::new();
        let mut steps = 0;
        let progress = |step: LeaveStep| {
            steps += 1;
            if let LeaveStep::Waiting { until_unix_time, now_unix_time } = step {
                assert!(until_unix_time > now_unix_time);
                let chain = world.chain.chain().clone();
                tokio::spawn(async move { chain.advance(CLIENT_DELAY + 1).await });
            }
            if steps == attempts {
                broken_off.notify_one();
            }
        };
        tokio::select! {
            done = leave(world.leave_config(), world.chain.clone(), progress) => left = Some(done.unwrap()),
            () = broken_off.notified() => {}
        }
    }
    assert!(attempts > 3, "it was broken off a few times");
    let left = left.unwrap();
    assert!(left.unpaid.is_empty());
    assert!(matches!(left.wallet, WalletEnd::Sent { owner, .. } if owner == world.owner));
    assert!(world.held(world.owner).await > 10 * TON - TON / 5, "{}", world.held(world.owner).await);
    assert!(
        world.held(world.contract()).await < TON / 20 && world.held(world.wallet.address()).await < TON / 20
    );

    let again = leave(world.leave_config(), world.chain.clone(), |_| {}).await.unwrap();
    assert_eq!(again.wallet, WalletEnd::Sent { owner: world.owner, nanoton: 0 });
}

#[tokio::test]
async fn what_the_proxy_contract_lacks_is_told_and_fetched_once_it_is_there() {
    let world = World::new(10).await;
    let till = world.till(policy(2, 3));
    let presence = till.meet(&world);
    till.settle().await;
    drop(presence);
    till.close();
    world.drain_proxy().await;
    let progress = |step: LeaveStep| {
        if matches!(step, LeaveStep::Waiting { .. }) {
            let chain = world.chain.chain().clone();
            tokio::spawn(async move { chain.advance(CLIENT_DELAY + 1).await });
        }
    };
    let leaving = leave(world.leave_config(), world.chain.clone(), progress);
    let left = tokio::time::timeout(Duration::from_secs(30), leaving).await.unwrap().unwrap();
    let [(contract, lacking)] = left.unpaid[..] else { panic!("{left:?}") };
    assert!(contract == world.contract() && lacking > TON, "{left:?}");
    assert!(world.held(world.wallet.address()).await > TON / 10, "enough to ask again");

    world.chain.chain().grant(world.proxy, 3 * TON).await.unwrap();
    let leaving = leave(world.leave_config(), world.chain.clone(), |_| {});
    let left = tokio::time::timeout(Duration::from_secs(20), leaving).await.unwrap().unwrap();
    assert!(left.unpaid.is_empty(), "{left:?}");
    let held = world.held(world.owner).await;
    assert!(held > 10 * TON - TON / 4, "{held}");
}

#[tokio::test]
async fn a_published_wallet_with_little_is_emptied_by_its_owner() {
    let world = World::new(1).await;
    let wallet = world.published_wallet();
    world.chain.chain().grant(wallet.address(), TON).await.unwrap();
    let mut config = world.leave_config();
    config.settlement.wallet = wallet;
    let left = leave(config, world.chain.clone(), |_| {}).await.unwrap();
    assert_eq!(left.wallet, WalletEnd::OwnersTextNeeded { owner: Some(world.owner), nanoton: TON });
}

#[tokio::test]
async fn an_operator_pays_in_beyond_the_budget_and_takes_out_what_is_over_the_stake() {
    let world = World::new(10).await;
    let nothing = deposit(world.leave_config(), world.chain.clone(), Channels::All, TON).await;
    assert!(nothing.unwrap_err().to_string().contains("no open channel"));
    let till = world.till(policy(1, 1));
    let presence = till.meet(&world);
    till.settle().await;
    drop(presence);
    till.close();
    let which = Channels::One(world.contract());
    let steps = deposit(world.leave_config(), world.chain.clone(), which, 2 * TON).await.unwrap();
    assert_eq!(steps[0].exit_code, Some(0));
    assert_eq!(world.client().await.unwrap().balance_nanoton, 3 * TON);
    let too_much = deposit(world.leave_config(), world.chain.clone(), which, 100 * TON).await;
    assert!(too_much.unwrap_err().to_string().contains("send at least"));
    withdraw(world.leave_config(), world.chain.clone(), Channels::All).await.unwrap();
    assert_eq!(world.client().await.unwrap().balance_nanoton, TON);
    world.has_all_but_fees(9).await;
}

#[tokio::test]
async fn what_the_wallet_lacks_is_said_and_paid_for_once_it_has_come() {
    let world = World::new(1).await;
    let till = world.till(policy(2, 3));
    let _presence = till.meet(&world);
    let round = till.round().await;
    assert!(round.steps.is_empty());
    let needs = till.settlement.status().needs.unwrap();
    assert_eq!(
        (needs.wallet, needs.purpose),
        (world.wallet.address(), Purpose::OpenChannel { amount: 2 * TON })
    );
    let json = till.settlement.report().borrow().to_json();
    assert!(json["needs"]["link"].as_str().unwrap().starts_with("ton://transfer/"), "{json}");
    // A little more, because the account itself costs something meanwhile.
    let enough = needs.missing_nanoton + TON / 100;
    world.chain.chain().grant(world.wallet.address(), enough).await.unwrap();
    assert_eq!(till.settle().await, [Purpose::OpenChannel { amount: 2 * TON }]);
    assert_eq!(till.settlement.status().needs, None);
}

#[tokio::test]
async fn a_chain_that_contradicts_itself_moves_no_coins() {
    let world = World::new(10).await;
    let till = world.till(policy(2, 4));
    let presence = till.meet(&world);
    let fresh = world.chain_account(world.contract()).await;
    till.settle().await;
    let opened = world.chain_account(world.contract()).await;
    presence.charge(world.order(OrderKind::ChargeClient, TON / PRICE + TON / PRICE / 2));
    till.settle().await;
    let newest = world.chain_account(world.contract()).await;

    let mut other_code = newest.clone();
    other_code.code = Some(cocoon_ton::code::worker().cell().clone());
    let mut no_data = newest.clone();
    no_data.data = None;
    presence.charge(world.order(OrderKind::ChargeClient, 3 * TON / PRICE));
    for (lie, words) in [
        (other_code, "another contract"),
        (no_data, "without code or data"),
        (opened.clone(), "as it was some time ago"),
        // Also where it claims to be from the newest block.
        (cocoon_chain::AccountState { at: newest.at, ..opened }, "as it was some time ago"),
        (cocoon_chain::AccountState { at: newest.at, ..fresh }, "as it was some time ago"),
    ] {
        world.lie(Lie::Account(world.contract(), Box::new(lie)));
        let error = till.settlement.round(&till.book).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(till.settlement.report().borrow().status.error.as_ref().unwrap().contains(words));
    }
    let mut other_proxy = world.chain_account(world.proxy).await;
    other_proxy.code = Some(cocoon_ton::code::worker().cell().clone());
    world.lie(Lie::Account(world.proxy, Box::new(other_proxy)));
    assert!(till.settlement.round(&till.book).await.is_err());
    assert_eq!(
        world.chain_account(world.wallet.address()).await,
        world.account(world.wallet.address()).await
    );
    world.lie(Lie::None);
    assert!(!till.settle().await.is_empty(), "the truth is acted on");
    assert_eq!(till.settlement.report().borrow().status.error, None);
}

#[tokio::test]
async fn a_chain_that_stalls_is_left_alone_for_as_long_as_it_asks() {
    let world = World::new(10).await;
    let till = world.till(policy(2, 4));
    let _presence = till.meet(&world);
    for (asks, waits) in [(None, RETRY_AFTER), (Some(60), Duration::from_secs(60)), (Some(1), RETRY_AFTER)] {
        world.lie(Lie::Stall(world.contract(), asks.map(Duration::from_secs)));
        let outcome = till.settlement.round(&till.book).await;
        assert!(outcome.is_err());
        let wait = till.settlement.wait_after(&outcome);
        assert_eq!((wait.time, wait.wakeable), (waits, false));
    }
}

#[tokio::test]
async fn what_one_contract_refuses_holds_up_no_other_channel() {
    let world = World::new(10).await;
    let till = world.till(policy(2, 4));
    let presence = till.meet(&world);
    till.settle().await;
    presence.register(1);
    let mut round = till.round().await;
    round.steps[0].exit_code = Some(-14);
    assert!(round.was_refused());
    let wait = till.settlement.wait_after(&Ok(round));
    assert_eq!((wait.time, wait.wakeable), (Duration::ZERO, true));
}
