//! The chain as nodes use it: accounts, transactions, news, and the root contract's configuration.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::Duration;

use cocoon_chain::{AccountStatus, Chain, ChainError, Compute, SkipReason, StackInt, StackItem};
use cocoon_localchain::{LocalChain, Options, Production, RootedChain, TimeSource};
use cocoon_ton::cell::encode_boc;
use cocoon_ton::{Address, Cell, RootConfig};
use support::*;
use tycho_types::cell::{CellBuilder, CellFamily as _, Store as _};

const NOBODY: Address = Address::basechain([0xaa; 32]);

fn open(production: Production) -> LocalChain {
    LocalChain::open(&Options { production, time: TimeSource::Fixed(START), ..Options::default() }).unwrap()
}

/// A contract whose data is what the last message to it carries.
fn holder() -> Probe {
    let mut code = CellBuilder::new();
    // SETCP0, DROP, LDREF, DROP, POP c4
    code.store_raw(&[0xff, 0x00, 0x30, 0xd4, 0x30, 0xed, 0x54], 7 * 8).unwrap();
    contract(code.build().unwrap(), empty_cell())
}

fn with_reference(cell: Cell) -> Cell {
    let mut body = CellBuilder::new();
    body.store_reference(cell).unwrap();
    body.build().unwrap()
}

/// Data of a root contract without lists.
fn root_data(price: u64, fee: u64, version: u32) -> Cell {
    let mut config = RootConfig::test_mode(NOBODY);
    config.params.price_per_token_nanoton = price;
    config.params.worker_fee_per_token_nanoton = fee;
    let mut lists = CellBuilder::new();
    for bits in [1, 1, 32, 1, 1] {
        lists.store_zeros(bits).unwrap();
    }
    let mut root = CellBuilder::new();
    std_addr(NOBODY).store_into(&mut root, Cell::empty_context()).unwrap();
    root.store_u32(version).unwrap();
    root.store_reference(lists.build().unwrap()).unwrap();
    root.store_reference(config.params.cell_for_root()).unwrap();
    root.build().unwrap()
}

/// A chain with a root contract, and a probe with coins that has sent one message.
async fn rooted() -> (RootedChain, Probe, Probe) {
    let (chain, probe, root) = (open(Production::OnMessage), probe(1), holder());
    chain.grant(probe.address, 1_000 * TON).await.unwrap();
    let missing = chain.follow_root(root.address).await.unwrap_err();
    assert!(matches!(missing, ChainError::NotFound(_)), "{missing}");
    let deploy =
        internal(root.address, TON, false, Some(root.init.clone()), &with_reference(root_data(20, 10, 1)));
    chain.submit(probe.external(0, &[(1, deploy)])).await.unwrap();
    (chain.follow_root(root.address).await.unwrap(), probe, root)
}

fn set_root(root: &Probe, data: Cell) -> (u8, Cell) {
    (1, internal(root.address, TON, false, None, &with_reference(data)))
}

#[tokio::test]
async fn the_root_contracts_state_is_followed_and_a_broken_one_is_not_taken() {
    let (chain, probe, root) = rooted().await;
    let mut configs = chain.subscribe_root();
    assert_eq!(configs.borrow_and_update().params.price_per_token_nanoton, 20);
    chain.chain().submit(probe.external(1, &[set_root(&root, root_data(30, 10, 2))])).await.unwrap();
    configs.changed().await.unwrap();
    assert_eq!(configs.borrow_and_update().version, 2);
    // Neither a state that is none nor prices that contradict each other replace what stood.
    let broken = [set_root(&root, empty_cell()), set_root(&root, root_data(5, 10, 3))];
    chain.chain().submit(probe.external(2, &broken)).await.unwrap();
    assert!(!configs.has_changed().unwrap());
    let refused = chain.chain().follow_root(root.address).await.unwrap_err();
    assert!(matches!(refused, ChainError::FeeOverPrice { .. }), "{refused}");
}

#[tokio::test]
async fn accounts_transactions_and_get_methods_are_read_through_the_trait() {
    let (rooted, probe, _) = rooted().await;
    let chain: &dyn Chain = &rooted;
    let state = chain.account_state(probe.address).await.unwrap();
    assert_eq!((state.status, state.proven), (AccountStatus::Active, true));
    assert!(state.code.is_some() && state.data.is_some());
    assert_eq!(chain.account_state(NOBODY).await.unwrap().status, AccountStatus::NonExistent);

    let notice = internal(probe.address, 1, false, None, &body(OP_ADD, 9, &[]));
    let message = probe.external(1, &[(1, notice)]);
    let hash = chain.send(encode_boc(message.cell())).await.unwrap();
    assert_eq!(hash.0, message.hash());

    let all = chain.transactions_since(probe.address, 0, 100).await.unwrap();
    assert_eq!(all.len(), 4, "a grant, two external messages, and the notice");
    assert!(all.is_sorted_by(|one, next| one.id.lt < next.id.lt));
    assert_eq!(all[0].compute, Compute::Skipped(SkipReason::NoState));
    let received = all[0].in_message.as_ref().unwrap();
    assert_eq!((received.value_nanoton, received.destination), (1_000 * TON, Some(probe.address)));
    assert!(matches!(all[1].compute, Compute::Ran { exit_code: 0, .. }));
    assert_eq!(all[1].in_message.as_ref().unwrap().source, None);
    assert_eq!(all[1].out_messages.len(), 1);
    assert_eq!(all[3].compute, Compute::Skipped(SkipReason::NoGas));
    assert_eq!(all[3].in_message.as_ref().unwrap().body, body(OP_ADD, 9, &[]));
    let newest = chain.account_state(probe.address).await.unwrap().last_transaction;
    assert_eq!(newest, Some(all[3].id));
    let rest = chain.transactions_since(probe.address, all[1].id.lt, 1).await.unwrap();
    assert_eq!(rest[..], all[2..3]);

    let sum = [StackItem::Int(StackInt::from(2_u64)), StackItem::Int(StackInt::from(-3_i64))];
    let answer = chain.run_get_method(probe.address, "sum", sum.to_vec()).await.unwrap();
    assert_eq!(answer.stack, [StackItem::Int(StackInt::from(-1_i64))]);
}

#[tokio::test]
async fn listeners_hear_of_each_new_transaction_and_of_nothing_else() {
    let (chain, probe, _) = rooted().await;
    let mut heard = chain.subscribe(probe.address).unwrap();
    let mut silent = chain.subscribe(NOBODY).unwrap();
    let known = heard.borrow_and_update().unwrap();
    assert_eq!(*silent.borrow_and_update(), None);
    chain.chain().submit(probe.external(1, &[])).await.unwrap();
    heard.changed().await.unwrap();
    assert!(heard.borrow().unwrap().lt > known.lt);
    assert!(!silent.has_changed().unwrap());
    chain.chain().grant(NOBODY, 1).await.unwrap();
    silent.changed().await.unwrap();
    assert!(silent.borrow().is_some());
}

#[tokio::test]
async fn bad_messages_are_refused_with_a_reason() {
    let (chain, probe, _) = rooted().await;
    let refusal = async |boc: Vec<u8>| match chain.send(boc).await {
        Err(ChainError::Refused { reason }) => reason,
        other => panic!("{other:?}"),
    };
    assert!(refusal(vec![1, 2, 3]).await.contains("not a bag of cells"));
    assert!(refusal(vec![0; 70_000]).await.contains("over the limit"));
    assert!(refusal(encode_boc(&empty_cell())).await.contains("not a message"));
    let inside = internal(probe.address, TON, false, None, &empty_cell());
    assert!(refusal(encode_boc(&inside)).await.contains("not"));
    assert!(refusal(encode_boc(probe.external(7, &[]).cell())).await.contains("exit code 33"));
    let stranger = support::probe(5).external(0, &[]);
    assert!(refusal(encode_boc(stranger.cell())).await.contains("does not exist"));
    let mut deep = empty_cell();
    for _ in 0..600 {
        deep = with_reference(deep);
    }
    assert!(refusal(encode_boc(&deep)).await.contains("deep"));
}

#[tokio::test]
async fn the_clock_is_moved_by_tests_and_storage_is_due_for_the_time() {
    let (chain, probe, _) = rooted().await;
    let before = chain.account_state(probe.address).await.unwrap();
    let head = chain.chain().advance(365 * 24 * 3600).await.unwrap();
    assert_eq!(head.unix_time, START + 365 * 24 * 3600);
    chain.chain().grant(probe.address, 1).await.unwrap();
    let after = chain.account_state(probe.address).await.unwrap();
    assert!(after.balance_nanoton < before.balance_nanoton);
    assert_eq!(after.at.unix_time, u64::from(head.unix_time));
}

#[tokio::test]
async fn blocks_come_at_their_interval_with_or_without_messages() {
    let chain = open(Production::Every(Duration::from_millis(20)));
    chain.grant(NOBODY, TON).await.unwrap();
    let mut waited = 0;
    while chain.head().await.unwrap().seqno < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        waited += 1;
        assert!(waited < 1_000, "no blocks");
    }
    assert_eq!(chain.account(NOBODY).await.unwrap().0.balance_nanoton, TON);
}
