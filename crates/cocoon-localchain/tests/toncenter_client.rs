//! The client of toncenter's API against the embedded chain's own: it must tell the same as the chain itself.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/network.rs"]
mod network;
mod support;

use std::time::Duration;

use cocoon_chain::{
    AccountStatus, Chain, ChainError, Compute, SkipReason, StackInt, StackItem, ToncenterChain, TransactionId,
};
use cocoon_localchain::{LocalChain, RootedChain};
use cocoon_ton::Address;
use cocoon_ton::cell::encode_boc;
use network::{Network, PRICE, change_prices};
use support::*;
use tokio::sync::watch;
use tokio::time::timeout;

const NOBODY: Address = Address::basechain([0xaa; 32]);
const SOON: Duration = Duration::from_secs(20);

/// Runs the same assertions against the chain itself and against its API's client.
async fn both(suite: impl AsyncFn(&Network, &dyn Chain)) {
    let direct = Network::start().await;
    suite(&direct, &direct.rooted).await;
    let through_api = Network::start().await;
    let client: ToncenterChain = through_api.client().await;
    suite(&through_api, &client).await;
}

async fn settled<T: Clone>(heard: &mut watch::Receiver<T>, done: impl FnMut(&T) -> bool) -> T {
    timeout(SOON, heard.wait_for(done)).await.unwrap().unwrap().clone()
}

#[tokio::test]
async fn accounts_in_every_state_are_told() {
    both(async |network, chain| {
        let probe = chain.account_state(network.probe.address).await.unwrap();
        assert_eq!(probe.status, AccountStatus::Active);
        assert!(probe.code.is_some() && probe.data.is_some() && probe.balance_nanoton > 100 * TON);
        assert_eq!(chain.account_state(NOBODY).await.unwrap().status, AccountStatus::NonExistent);
        network.local.grant(NOBODY, 7).await.unwrap();
        let funded = chain.account_state(NOBODY).await.unwrap();
        assert_eq!((funded.status, funded.balance_nanoton), (AccountStatus::Uninitialised, 7));
        assert!(funded.last_transaction.is_some() && funded.code.is_none());
        assert!(funded.at > probe.at);
    })
    .await;
}

#[tokio::test]
async fn transactions_are_told_oldest_first_and_those_that_skipped_the_code_too() {
    both(async |network, chain| {
        let probe = &network.probe;
        let notice = internal(probe.address, 1, false, None, &body(OP_ADD, 9, &[]));
        let message = probe.external(1, &[(1, notice)]);
        let hash = chain.send(encode_boc(message.cell())).await.unwrap();
        assert_eq!(hash.0, message.hash());
        let all = chain.transactions_since(probe.address, 0, 100).await.unwrap();
        assert_eq!(all.len(), 4, "a grant, two external messages, and the notice");
        assert!(all.is_sorted_by(|one, next| one.id.lt < next.id.lt));
        assert_eq!(all[0].compute, Compute::Skipped(SkipReason::NoState));
        assert_eq!(all[3].compute, Compute::Skipped(SkipReason::NoGas));
        assert_eq!(all[3].in_message.as_ref().unwrap().body, body(OP_ADD, 9, &[]));
        let newest = chain.account_state(probe.address).await.unwrap().last_transaction;
        assert_eq!(newest, Some(all[3].id));
        for (after, limit, expected) in
            [(1, 1, &all[2..3]), (1, 100, &all[2..]), (3, 9, &[]), (0, 2, &all[1..3])]
        {
            let rest = chain.transactions_since(probe.address, all[after].id.lt, limit).await.unwrap();
            assert_eq!(rest, expected);
        }
        assert_eq!(chain.transactions_since(NOBODY, 0, 9).await.unwrap(), []);
        assert_eq!(chain.transactions_since(probe.address, 0, 0).await.unwrap(), []);
        assert_eq!(chain.transactions_since(probe.address, u64::MAX, 9).await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn a_long_history_is_read_page_by_page() {
    both(async |network, chain| {
        for _ in 0..230 {
            network.local.grant(NOBODY, 1).await.unwrap();
        }
        let all = chain.transactions_since(NOBODY, 0, 1_000).await.unwrap();
        assert_eq!(all.len(), 230);
        let mut seen = Vec::new();
        while let Some(last) = {
            let after = seen.last().map_or(0, |id: &TransactionId| id.lt);
            let more = chain.transactions_since(NOBODY, after, 60).await.unwrap();
            assert!(more.len() <= 60);
            seen.extend(more.iter().map(|transaction| transaction.id));
            more.last().map(|transaction| transaction.id)
        } {
            assert!(seen.len() <= 230, "{last:?}");
        }
        assert_eq!(seen, all.iter().map(|transaction| transaction.id).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn get_methods_run_with_values_of_every_type() {
    both(async |network, chain| {
        let probe = network.probe.address;
        let int = |number: i64| StackItem::Int(StackInt::from(number));
        let sum = chain.run_get_method(probe, "sum", vec![int(2), int(-3)]).await.unwrap();
        assert_eq!((sum.exit_code, &sum.stack[..]), (0, &[int(-1)][..]));
        assert!(sum.gas_used > 0 && sum.at.seqno > 0);

        let most = StackItem::Int(StackInt::from_unsigned([0xff; 32]));
        let sum = chain.run_get_method(probe, "sum", vec![most.clone(), int(0)]).await.unwrap();
        assert_eq!(sum.stack, [most]);

        let value = StackItem::Cell(body(OP_ADD, 7, &[(3, empty_cell())]));
        let echo = chain.run_get_method(probe, "echo", vec![value.clone()]).await.unwrap();
        assert_eq!(echo.stack.len(), 4);
        assert_eq!((&echo.stack[0], &echo.stack[2]), (&value, &StackItem::Null));
        assert!(matches!(echo.stack[1], StackItem::Slice(_) | StackItem::Cell(_)));
        let inner = StackItem::Tuple(vec![int(-2), value]);
        assert_eq!(echo.stack[3], StackItem::Tuple(vec![int(1), inner]));

        let list = chain.run_get_method(probe, "nested", vec![int(3)]).await.unwrap();
        let pair = |head, tail| StackItem::Tuple(vec![int(head), tail]);
        assert_eq!(list.stack, [pair(1, pair(2, pair(3, StackItem::Null)))]);

        let failed = chain.run_get_method(probe, "fail", vec![int(77)]).await.unwrap();
        assert_eq!(failed.exit_code, 77);
        let unknown = chain.run_get_method(probe, "no_such_method", vec![]).await.unwrap();
        assert_eq!(unknown.exit_code, 11);
    })
    .await;
}

#[tokio::test]
async fn listeners_hear_of_new_transactions() {
    both(async |network, chain| {
        let mut heard = chain.subscribe(network.probe.address).unwrap();
        let mut silent = chain.subscribe(NOBODY).unwrap();
        let known = settled(&mut heard, Option::is_some).await.unwrap();
        network.local.submit(network.probe.external(1, &[])).await.unwrap();
        let newer = settled(&mut heard, |id| id.is_some_and(|id| id.lt > known.lt)).await.unwrap();
        let since = chain.transactions_since(network.probe.address, known.lt, 9).await.unwrap();
        assert_eq!(since.last().unwrap().id, newer);
        assert_eq!(*silent.borrow_and_update(), None);
        network.local.grant(NOBODY, 1).await.unwrap();
        assert!(settled(&mut silent, Option::is_some).await.is_some());
    })
    .await;
}

#[tokio::test]
async fn messages_that_the_contract_or_the_chain_does_not_take_are_refused_with_a_reason() {
    both(async |network, chain| {
        let refusal = async |boc: Vec<u8>| match chain.send(boc).await {
            Err(ChainError::Refused { reason }) => reason,
            other => panic!("{other:?}"),
        };
        assert!(refusal(vec![1, 2, 3]).await.contains("not a bag of cells"));
        assert!(refusal(vec![0; 70_000]).await.contains("over the limit"));
        assert!(refusal(encode_boc(&empty_cell())).await.contains("not a message"));
        let probe = &network.probe;
        assert!(refusal(encode_boc(probe.external(7, &[]).cell())).await.contains("exit code 33"));
        let stranger = support::probe(5).external(0, &[]);
        assert!(refusal(encode_boc(stranger.cell())).await.contains("does not exist"));
    })
    .await;
}

#[tokio::test]
async fn the_root_contract_is_followed_and_prices_that_contradict_each_other_are_not_taken() {
    both(async |network, chain| {
        let mut configs = chain.subscribe_root();
        assert_eq!(configs.borrow_and_update().params.price_per_token_nanoton, PRICE);
        let change = async |seqno, price, fee| {
            let message = internal(network.root, TON, false, None, &change_prices(price, fee));
            network.local.submit(network.probe.external(seqno, &[(1, message)])).await.unwrap();
        };
        change(1, 40, 15).await;
        let config = settled(&mut configs, |config| config.params.price_per_token_nanoton == 40).await;
        assert_eq!(config.params.worker_fee_per_token_nanoton, 15);
        // The root contract itself does not take these, so nothing may change.
        change(2, 5, 10).await;
        change(3, 50, 20).await;
        let config = settled(&mut configs, |config| config.params.price_per_token_nanoton != 40).await;
        assert!(config.params.worker_fee_per_token_nanoton <= config.params.price_per_token_nanoton);
    })
    .await;
}

#[tokio::test]
async fn both_tell_the_very_same() {
    let network = Network::start().await;
    let (rooted, client): (&RootedChain, _) = (&network.rooted, network.client().await);
    let local: &LocalChain = &network.local;
    let probe = &network.probe;
    let notice = internal(NOBODY, TON, true, None, &body(OP_FAIL, 9, &[]));
    let bounce = internal(probe.address, TON, true, None, &body(OP_FAIL, 9, &[]));
    local.submit(probe.external(1, &[(1, notice), (1, bounce)])).await.unwrap();
    local.settle().await.unwrap();
    for address in [probe.address, network.root, NOBODY, Address::basechain([0xbb; 32])] {
        let mut state = rooted.account_state(address).await.unwrap();
        assert!(std::mem::replace(&mut state.proven, false));
        assert_eq!(client.account_state(address).await.unwrap(), state);
        let all = rooted.transactions_since(address, 0, 256).await.unwrap();
        assert_eq!(client.transactions_since(address, 0, 256).await.unwrap(), all);
    }
    let (direct, told) = (rooted.subscribe_root(), client.subscribe_root());
    assert_eq!(**direct.borrow(), **told.borrow());
    for method in ["get_cocoon_data", "get_cur_params", "last_proxy_seqno"] {
        let direct = rooted.run_get_method(network.root, method, vec![]).await.unwrap();
        let told = client.run_get_method(network.root, method, vec![]).await.unwrap();
        let as_cells = direct.stack.into_iter().map(|item| match item {
            StackItem::Slice(cell) => StackItem::Cell(cell),
            item => item,
        });
        assert_eq!(told.stack, as_cells.collect::<Vec<_>>(), "{method}");
        assert_eq!((told.at, told.gas_used), (direct.at, direct.gas_used), "{method}");
    }
}
