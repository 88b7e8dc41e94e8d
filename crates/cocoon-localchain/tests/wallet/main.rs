//! Wallets on the chain: each kind's contract, what it costs to send, and that the driver sends everything once.

#![allow(clippy::unwrap_used, missing_docs)]

mod line;

use std::sync::atomic::Ordering;
use std::time::Duration;

use cocoon_chain::wallet::MAX_PAGES;
use cocoon_chain::{ChainError, SendError, Timing, WalletDriver, WalletView};
use cocoon_localchain::{ExternalMessage, Production};
use cocoon_ton::wallet::{PUBLISHED_MIN_BALANCE_NANOTON, fees};
use cocoon_ton::{OutMessage, WalletKind};
use line::*;
use proptest::prelude::*;
use tycho_types::cell::CellBuilder;
use tycho_types::models::{IntAddr, RelaxedMessage, RelaxedMsgInfo};

/// Takes all coins along.
const MODE_CARRY_ALL: u8 = 128;

#[tokio::test]
async fn every_kind_deploys_itself_with_its_first_message_and_sends_as_many_as_it_may() {
    for kind in WalletKind::ALL {
        let (line, driver) = funded(kind).await;
        let view = driver.settled().await.unwrap();
        assert_eq!((view.seqno, view.deployed, view.balance_nanoton), (0, false, 20 * TON), "{kind}");
        let most = u16::try_from(driver.wallet().max_messages()).unwrap();
        let messages: Vec<_> = (0..most).map(|number| transfer(somebody(number), CENT)).collect();
        let estimate = fees::estimate(driver.wallet(), false, &messages).unwrap();
        let sent = all_landed(&driver, messages).await;
        assert!(20 * TON - u64::from(most) * CENT - line.balance(view.address).await <= estimate, "{kind}");
        assert_eq!((sent.landed.len(), sent.transaction.out_messages.len()), (most.into(), most.into()));
        for number in 0..most {
            assert_eq!(line.balance(somebody(number)).await, CENT, "{kind}: {number}");
        }
        let view = driver.settled().await.unwrap();
        assert_eq!((view.seqno, view.deployed), (1, true), "{kind}");

        // Another program, or this one after a restart, goes on where the chain says.
        let again = line.driver(driver.wallet());
        all_landed(&again, vec![transfer(somebody(0), CENT), transfer(somebody(0), CENT)]).await;
        assert_eq!(line.balance(somebody(0)).await, 3 * CENT, "{kind}");
        assert_eq!(again.settled().await.unwrap().seqno, 2, "{kind}");
    }
}

#[tokio::test]
async fn estimates_of_fees_are_enough_and_not_thrice_the_truth() {
    let long = cell(|body| body.store_raw(&[5; 100], 800).unwrap());
    let nested = cell(|body| {
        body.store_reference(long.clone()).unwrap();
        body.store_u64(1).unwrap();
    });
    let deploying = OutMessage {
        init: Some(owner().state_init().clone()),
        body: Some(nested.clone()),
        ..transfer(owner().address(), CENT)
    };
    let plans = [
        vec![transfer(somebody(1), CENT)],
        vec![OutMessage { body: Some(long), ..transfer(somebody(1), 0) }],
        vec![OutMessage { body: Some(nested), ..transfer(somebody(2), TON) }, deploying],
        (0..4).map(|number| transfer(somebody(number), 7)).collect(),
        Vec::new(),
    ];
    for kind in WalletKind::ALL {
        for plan in &plans {
            let (_, driver) = funded(kind).await;
            for deployed in [false, true] {
                let before = driver.settled().await.unwrap();
                assert_eq!(before.deployed, deployed);
                let estimate = fees::estimate(driver.wallet(), deployed, plan).unwrap();
                driver.send(&before, plan.clone()).await.unwrap();
                let after = driver.settled().await.unwrap();
                let values: u64 = plan.iter().map(|message| message.value_nanoton).sum();
                let actual = before.balance_nanoton - after.balance_nanoton - values;
                let about = format!("{kind} deployed: {deployed}, {} messages: {actual}", plan.len());
                assert!(actual <= estimate && estimate <= 3 * actual, "{about}, estimated {estimate}");
            }
        }
    }
}

#[tokio::test]
async fn the_published_wallet_sends_nothing_below_two_ton_and_its_owner_takes_the_rest() {
    let (line, driver) = funded(WalletKind::Published).await;
    all_landed(&driver, vec![transfer(somebody(1), 20 * TON - PUBLISHED_MIN_BALANCE_NANOTON)]).await;
    let view = driver.settled().await.unwrap();
    let refused = driver.send(&view, vec![transfer(somebody(1), 1)]).await.unwrap_err();
    let SendError::PublishedWalletLow { have_nanoton, .. } = refused else { panic!("{refused}") };
    assert_eq!(have_nanoton, view.balance_nanoton);
    assert!(refused.to_string().contains("the text `w`"), "{refused}");
    // The contract says so itself.
    let signed = driver.wallet().sign(&key(), view.seqno, START + 60, &[transfer(somebody(1), 1)]).unwrap();
    let refused = line.chain.submit(ExternalMessage::from_cell(signed).unwrap()).await.unwrap_err();
    assert!(refused.to_string().contains("exit code 1035"), "{refused}");

    line.chain.grant(owner().address(), TON).await.unwrap();
    let commander = WalletDriver::new(line.clone(), owner(), owner_key()).with_timing(QUICK);
    let planned = commander.settled().await.unwrap();
    let take = OutMessage { body: Some(command(b'w')), ..transfer(view.address, 5 * CENT) };
    commander.send(&planned, vec![take]).await.unwrap();
    let left = driver.settled().await.unwrap().balance_nanoton;
    assert!(left <= CENT, "{left}");
    let taken = commander.settled().await.unwrap().balance_nanoton;
    assert!(taken > TON + view.balance_nanoton - 3 * CENT, "{taken}");
}

#[tokio::test]
async fn our_wallet_serves_small_balances_too() {
    let line = Line::new(Production::OnMessage);
    let driver = line.driver(&wallet(WalletKind::Cocoon));
    line.chain.grant(driver.wallet().address(), 5 * CENT).await.unwrap();
    all_landed(&driver, vec![transfer(somebody(1), 3 * CENT)]).await;
    assert_eq!(line.balance(somebody(1)).await, 3 * CENT);
}

#[tokio::test]
async fn too_few_coins_are_told_before_anything_is_sent() {
    let (line, driver) = funded(WalletKind::Cocoon).await;
    let planned = driver.settled().await.unwrap();
    let refused = driver.send(&planned, vec![transfer(somebody(1), 20 * TON)]).await.unwrap_err();
    let SendError::Funds { needed_nanoton, have_nanoton, address } = refused else { panic!("{refused}") };
    assert_eq!((have_nanoton, address), (20 * TON, planned.address));
    assert!(needed_nanoton > 20 * TON && needed_nanoton < 20 * TON + CENT);
    let refused = driver.send(&planned, vec![transfer(somebody(1), 1); 5]).await.unwrap_err();
    assert!(matches!(refused, SendError::Sign(_)), "{refused}");
    assert_eq!(line.sends.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_message_that_cannot_be_paid_for_is_told_apart_from_those_that_arrived() {
    let (_, driver) = funded(WalletKind::Cocoon).await;
    let planned = driver.settled().await.unwrap();
    let all = OutMessage { mode: MODE_CARRY_ALL, ..transfer(somebody(1), 0) };
    let plan = vec![transfer(somebody(0), TON), all, transfer(somebody(2), 1)];
    let sent = driver.send(&planned, plan).await.unwrap();
    let arrived: Vec<bool> = sent.landed.iter().map(|landing| landing.transaction.is_some()).collect();
    assert_eq!(arrived, [true, true, false]);
    assert_eq!(driver.settled().await.unwrap().seqno, 1, "the number is spent all the same");
}

#[tokio::test]
async fn a_plan_is_sent_once_even_if_it_is_handed_in_twice() {
    let (line, driver) = funded(WalletKind::V5R1).await;
    let planned = driver.settled().await.unwrap();
    let plan = || vec![transfer(somebody(1), TON)];
    driver.send(&planned, plan()).await.unwrap();
    let refused = driver.send(&planned, plan()).await.unwrap_err();
    assert!(matches!(refused, SendError::Overtaken { seqno: 0, .. }), "{refused}");
    assert_eq!(line.balance(somebody(1)).await, TON);
}

#[tokio::test]
async fn of_two_programs_with_one_key_each_number_obeys_one() {
    let line = Line::new(Production::Every(Duration::from_millis(30)));
    let wallet = wallet(WalletKind::Cocoon);
    let drivers = [line.driver(&wallet), line.driver(&wallet)];
    line.chain.grant(wallet.address(), 20 * TON).await.unwrap();
    while drivers[0].view().await.unwrap().balance_nanoton == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut sent = [0u64; 2];
    let mut overtaken = 0;
    for _ in 0..8 {
        let views = futures_util::future::join_all(drivers.iter().map(WalletDriver::settled)).await;
        let sends = (0u16..).zip(&drivers).zip(&views).map(|((number, driver), view)| {
            driver.send(view.as_ref().unwrap(), vec![transfer(somebody(number), CENT)])
        });
        for (count, result) in sent.iter_mut().zip(futures_util::future::join_all(sends).await) {
            match result {
                Ok(_) => *count += 1,
                Err(SendError::Overtaken { .. } | SendError::Expired { .. }) => overtaken += 1,
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert!(overtaken > 0, "the two never met");
    for (number, count) in (0u16..).zip(sent) {
        assert_eq!(line.balance(somebody(number)).await, count * CENT);
    }
    let seqno = drivers[0].settled().await.unwrap().seqno;
    assert_eq!(u64::from(seqno), sent[0] + sent[1]);
}

#[tokio::test]
async fn a_message_that_is_lost_is_sent_again_until_it_arrives() {
    let (line, driver) = funded(WalletKind::Cocoon).await;
    line.to_lose.store(3, Ordering::SeqCst);
    all_landed(&driver, vec![transfer(somebody(1), TON)]).await;
    assert_eq!(line.sends.load(Ordering::SeqCst), 4);
    assert_eq!(line.balance(somebody(1)).await, TON);
}

#[tokio::test]
async fn a_message_that_never_arrives_expires_and_may_be_planned_again() {
    let (line, driver) = funded(WalletKind::Cocoon).await;
    line.to_lose.store(u32::MAX, Ordering::SeqCst);
    let planned = driver.settled().await.unwrap();
    let (sent, ()) = tokio::join!(driver.send(&planned, vec![transfer(somebody(1), TON)]), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        line.chain.advance(60).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        line.chain.advance(1).await.unwrap();
    });
    let expired = sent.unwrap_err();
    assert!(matches!(expired, SendError::Expired { seqno: 0, .. }), "{expired}");
    line.to_lose.store(0, Ordering::SeqCst);
    all_landed(&driver, vec![transfer(somebody(1), TON)]).await;
    assert_eq!(line.balance(somebody(1)).await, TON);
}

#[tokio::test]
async fn a_chain_that_is_silent_for_a_while_is_asked_again() {
    let (line, driver) = funded(WalletKind::Cocoon).await;
    let planned = driver.settled().await.unwrap();
    line.unavailable.store(7, Ordering::SeqCst);
    driver.send(&planned, vec![transfer(somebody(1), TON)]).await.unwrap();
    assert_eq!(line.balance(somebody(1)).await, TON);
    line.unavailable.store(u32::MAX, Ordering::SeqCst);
    let error = driver.view().await.unwrap_err();
    assert!(matches!(error, SendError::Chain(ChainError::Unavailable { .. })), "{error}");
}

#[tokio::test]
async fn answers_from_the_past_are_not_believed() {
    let (line, driver) = funded(WalletKind::Cocoon).await;
    let address = driver.wallet().address();
    all_landed(&driver, vec![transfer(somebody(1), TON)]).await;
    *line.past.lock().unwrap() = Some(line.chain.account(address).await.unwrap().0);
    all_landed(&driver, vec![transfer(somebody(1), TON)]).await;
    line.past_answers.store(3, Ordering::SeqCst);
    assert_eq!(driver.settled().await.unwrap().seqno, 2);
    assert_eq!(line.past_answers.load(Ordering::SeqCst), 0, "the answers were given");
    line.past_answers.store(u32::MAX, Ordering::SeqCst);
    let error = driver.settled().await.unwrap_err();
    assert!(error.to_string().contains("an endpoint is behind"), "{error}");
}

#[tokio::test]
async fn a_program_that_dies_between_sending_and_arrival_finds_what_it_sent() {
    let (line, driver) = funded(WalletKind::Cocoon).await;
    let planned = driver.settled().await.unwrap();
    line.blind.store(true, Ordering::SeqCst);
    let dying = driver.send(&planned, vec![transfer(somebody(1), TON)]);
    assert!(tokio::time::timeout(Duration::from_millis(200), dying).await.is_err());
    drop(driver);

    let reborn = line.driver(&wallet(WalletKind::Cocoon));
    assert_eq!(reborn.view().await.unwrap().seqno, 1);
    let (view, ()) = tokio::join!(reborn.settled(), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(line.balance(somebody(1)).await, TON);
        line.blind.store(false, Ordering::SeqCst);
    });
    assert_eq!(view.unwrap().seqno, 1, "settled once the message was seen to have arrived");
}

#[tokio::test]
async fn a_wallet_that_strangers_flood_goes_on() {
    let (line, driver) = funded(WalletKind::Cocoon).await;
    line.page.store(1, Ordering::SeqCst);
    driver.settled().await.unwrap();
    for _ in 0..3 * MAX_PAGES {
        line.chain.grant(driver.wallet().address(), 1).await.unwrap();
    }
    let view = driver.settled().await.unwrap();
    driver.send(&view, vec![transfer(somebody(1), TON)]).await.unwrap();
    assert_eq!(driver.settled().await.unwrap().seqno, 1);
}

#[tokio::test]
async fn what_comes_back_from_accounts_that_do_not_exist_is_not_waited_for() {
    let (line, driver) = funded(WalletKind::V5R1).await;
    // Such accounts have no list of transactions.
    line.blind.store(true, Ordering::SeqCst);
    let bounceable = |number| OutMessage { bounce: true, ..transfer(somebody(number), TON) };
    let planned = driver.settled().await.unwrap();
    let plan = vec![bounceable(1), bounceable(2), bounceable(1)];
    let sent = driver.send(&planned, plan).await.unwrap();
    assert!(sent.landed.iter().all(|landing| landing.came_back && landing.transaction.is_none()), "{sent:?}");
    for driver in [line.driver(driver.wallet()), driver] {
        let view = driver.settled().await.unwrap();
        assert!(view.seqno == 1 && view.balance_nanoton > 20 * TON - 3 * CENT, "{view:?}");
    }
    // One that comes back does not stand for one that does not.
    let driver = line.driver(&wallet(WalletKind::V5R1));
    let driver = driver.with_timing(Timing { landing: Duration::from_millis(100), ..QUICK });
    let planned = driver.settled().await.unwrap();
    let plan = vec![bounceable(1), transfer(somebody(1), TON)];
    let unknown = driver.send(&planned, plan).await.unwrap_err();
    assert!(matches!(unknown, SendError::LandingUnknown { .. }), "{unknown}");
    line.blind.store(false, Ordering::SeqCst);
    assert_eq!(driver.settled().await.unwrap().seqno, 2);
}

#[tokio::test]
async fn what_does_not_arrive_in_time_is_told_as_unknown() {
    let (line, driver) = funded(WalletKind::Cocoon).await;
    let driver = driver.with_timing(Timing { landing: Duration::from_millis(100), ..QUICK });
    let planned = driver.settled().await.unwrap();
    line.blind.store(true, Ordering::SeqCst);
    let unknown = driver.send(&planned, vec![transfer(somebody(1), TON)]).await.unwrap_err();
    assert!(matches!(unknown, SendError::LandingUnknown { .. }), "{unknown}");
    let unknown = driver.settled().await.unwrap_err();
    assert!(matches!(unknown, SendError::LandingUnknown { .. }), "{unknown}");
    line.blind.store(false, Ordering::SeqCst);
    assert_eq!(driver.settled().await.unwrap().seqno, 1);
}

#[tokio::test]
async fn a_program_that_dies_before_its_message_ran_plans_again_and_nothing_runs_twice() {
    let line = Line::new(Production::Manual);
    let wallet = wallet(WalletKind::Cocoon);
    let driver = line.driver(&wallet);
    line.chain.grant(wallet.address(), 20 * TON).await.unwrap();
    line.chain.produce_block().await.unwrap();
    let planned = driver.settled().await.unwrap();
    let dying = driver.send(&planned, vec![transfer(somebody(1), TON)]);
    assert!(tokio::time::timeout(Duration::from_millis(100), dying).await.is_err());
    drop(driver);

    let reborn = line.driver(&wallet);
    let planned: WalletView = reborn.settled().await.unwrap();
    assert_eq!(planned.seqno, 0, "nothing has run yet");
    let (sent, ()) = tokio::join!(reborn.send(&planned, vec![transfer(somebody(1), 2 * TON)]), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        line.chain.produce_block().await.unwrap();
    });
    let overtaken = sent.unwrap_err();
    assert!(matches!(overtaken, SendError::Overtaken { .. }), "{overtaken}");
    assert_eq!(line.balance(somebody(1)).await, TON, "the first plan ran, the second never will");
    assert_eq!(reborn.settled().await.unwrap().seqno, 1);
}

#[tokio::test]
async fn a_wallet_that_its_owner_blocked_is_told_with_the_chains_reason() {
    let (line, driver) = funded(WalletKind::Cocoon).await;
    all_landed(&driver, vec![transfer(somebody(1), CENT)]).await;
    line.chain.grant(owner().address(), TON).await.unwrap();
    let commander = WalletDriver::new(line.clone(), owner(), owner_key()).with_timing(QUICK);
    let planned = commander.settled().await.unwrap();
    let block = OutMessage { body: Some(command(b'b')), ..transfer(driver.wallet().address(), CENT) };
    commander.send(&planned, vec![block]).await.unwrap();
    let planned = driver.settled().await.unwrap();
    let refused = driver.send(&planned, vec![transfer(somebody(1), CENT)]).await.unwrap_err();
    let SendError::Refused { reason, .. } = &refused else { panic!("{refused}") };
    assert!(reason.contains("exit code 1031"), "{reason}");
    assert_eq!(line.sends.load(Ordering::SeqCst), 2 + 4, "refused for good only after some tries");
}

proptest! {
    #[test]
    fn messages_say_what_they_were_built_to_say(
        value_nanoton: u64,
        bounce: bool,
        deploys: bool,
        bits in 0u16..1023,
        references in 0u8..=4,
    ) {
        let body = cell(|body| {
            body.store_zeros(bits).unwrap();
            for number in 0..references {
                body.store_reference(cell(|child| child.store_u8(number).unwrap())).unwrap();
            }
        });
        let init = deploys.then(|| owner().state_init().clone());
        let message = OutMessage {
            bounce, init: init.clone(), body: Some(body.clone()), ..transfer(somebody(3), value_nanoton)
        };
        let built = message.to_cell().unwrap();
        let read: RelaxedMessage<'_> = built.parse().unwrap();
        let RelaxedMsgInfo::Int(info) = read.info else { panic!("{read:?}") };
        prop_assert_eq!(u128::from(value_nanoton), info.value.tokens.into_inner());
        prop_assert_eq!((bounce, false), (info.bounce, info.bounced));
        let IntAddr::Std(to) = info.dst else { panic!("{:?}", info.dst) };
        prop_assert_eq!((to.workchain, to.address.0), (0, *somebody(3).hash()));
        let mut inside = CellBuilder::new();
        inside.store_slice(read.body).unwrap();
        prop_assert_eq!(inside.build().unwrap(), body);
        prop_assert_eq!(read.init.and_then(|init| init.code), init.map(|init| init.code));
    }
}
