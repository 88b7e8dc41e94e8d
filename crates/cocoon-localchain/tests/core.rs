//! The chain as a state machine: what messages do, what they cost, and that no coin appears or vanishes.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod support;

use cocoon_chain::{AccountStatus, StackInt, StackItem};
use cocoon_localchain::{
    BlockError, ExternalMessage, FAUCET_HASH, GrantError, MAX_PENDING_INPUTS, MAX_TRANSACTIONS_PER_BLOCK,
    Refusal, RefusedInput, SUPPLY_NANOTON, SubmitError, method_id,
};
use cocoon_ton::Address;
use proptest::prelude::*;
use support::*;
use tycho_types::models::{ComputePhase, Transaction, TxInfo};

const NOBODY: Address = Address::basechain([0xaa; 32]);
const YEAR: u32 = 365 * 24 * 3600;

fn balance(core: &cocoon_localchain::Core, address: Address) -> u64 {
    core.account(address).unwrap().balance_nanoton
}

fn numbers(
    core: &cocoon_localchain::Core,
    address: Address,
    method: &str,
    arguments: &[StackItem],
) -> Vec<i64> {
    let result = core.run_get_method(address, method_id(method), arguments, START).unwrap();
    assert_eq!(result.exit_code, 0);
    let number = |item: &StackItem| match item {
        StackItem::Int(number) => number.to_i64().unwrap(),
        other => panic!("not a number: {other:?}"),
    };
    result.stack.iter().map(number).collect()
}

#[test]
fn a_grant_arrives_and_comes_from_the_faucet() {
    let mut core = core();
    core.grant(NOBODY, 5 * TON).unwrap();
    let made = block(&mut core, START);
    assert_eq!(made.transactions.len(), 1);
    assert_eq!(balance(&core, NOBODY), 5 * TON);
    assert_eq!(core.account(NOBODY).unwrap().status, AccountStatus::Uninitialised);
    assert_eq!(balance(&core, Address::basechain(FAUCET_HASH)), SUPPLY_NANOTON - 5 * TON);
    assert_eq!(core.collected_nanoton(), 0);
}

#[test]
fn the_faucet_grants_what_it_has_and_no_more() {
    let mut core = core();
    assert_eq!(core.grant(NOBODY, 0), Err(GrantError::Amount { left_nanoton: SUPPLY_NANOTON }));
    core.grant(NOBODY, SUPPLY_NANOTON - 7).unwrap();
    assert_eq!(core.grant(NOBODY, 8), Err(GrantError::Amount { left_nanoton: 7 }));
    core.grant(NOBODY, 7).unwrap();
    block(&mut core, START);
    assert_eq!(balance(&core, NOBODY), SUPPLY_NANOTON);
}

#[test]
fn a_contract_is_deployed_by_its_first_message_and_answers_get_methods() {
    let (mut core, probe) = (core(), probe(7));
    deploy(&mut core, &probe, TON, START);
    let account = core.account(probe.address).unwrap();
    assert_eq!(account.status, AccountStatus::Active);
    assert!(account.balance_nanoton < TON);
    assert_eq!(account.balance_nanoton + core.collected_nanoton(), TON);
    assert_eq!(numbers(&core, probe.address, "state", &[]), [1, 0, 0, 7]);
    let arguments = [StackItem::Int(StackInt::from(40_u64)), StackItem::Int(StackInt::from(-82_i64))];
    assert_eq!(numbers(&core, probe.address, "sum", &arguments), [-42]);
}

#[test]
fn get_methods_answer_cells_slices_and_tuples() {
    let (mut core, probe) = (core(), probe(0));
    deploy(&mut core, &probe, TON, START);
    let value = body(1, 2, &[]);
    let result = core
        .run_get_method(probe.address, method_id("echo"), &[StackItem::Cell(value.clone())], START)
        .unwrap();
    let [cell, StackItem::Slice(address), StackItem::Null, StackItem::Tuple(outer)] = &result.stack[..]
    else {
        panic!("{:?}", result.stack)
    };
    assert_eq!(*cell, StackItem::Cell(value.clone()));
    assert_eq!(address.bit_len(), 267);
    let inner = StackItem::Tuple(vec![StackItem::Int(StackInt::from(-2_i64)), StackItem::Cell(value)]);
    assert_eq!(outer[..], [StackItem::Int(StackInt::from(1_u64)), inner]);
}

#[test]
fn get_methods_that_fail_answer_their_exit_code_and_none_is_an_error() {
    let (mut core, probe) = (core(), probe(0));
    deploy(&mut core, &probe, TON, START);
    let run = |method: &str, number: u64| {
        let arguments = [StackItem::Int(StackInt::from(number))];
        core.run_get_method(probe.address, method_id(method), &arguments, START)
    };
    assert_eq!(run("fail", 321).unwrap().exit_code, 321);
    assert_eq!(run("no_such_method", 0).unwrap().exit_code, 11);
    let endless = run("burn", 1 << 40).unwrap();
    assert_eq!((endless.exit_code, endless.gas_used), (-14, 1_000_000));
    assert_eq!(core.run_get_method(NOBODY, method_id("seqno"), &[], START).unwrap().exit_code, -13);
}

#[test]
fn get_methods_run_on_the_same_version_of_the_machine_as_transactions() {
    let (mut core, sender) = (core(), probe(0));
    deploy(&mut core, &sender, 10 * TON, START);
    // SETCP0, DROP, NEWC, BTOS: the last one is new in version 12.
    let mut code = tycho_types::cell::CellBuilder::new();
    code.store_raw(&[0xff, 0x00, 0x30, 0xc8, 0xcf, 0x50], 6 * 8).unwrap();
    let newest = contract(code.build().unwrap(), empty_cell());
    let deploy = internal(newest.address, TON, true, Some(newest.init.clone()), &empty_cell());
    core.submit(sender.external(1, &[(1, deploy)]), START).unwrap();
    block(&mut core, START);
    assert_eq!(core.account(newest.address).unwrap().status, AccountStatus::Active, "it did not bounce");
    let answer = core.run_get_method(newest.address, 0, &[], START).unwrap();
    assert_eq!((answer.exit_code, answer.stack), (0, vec![StackItem::Slice(empty_cell())]));
}

#[test]
fn answers_nested_too_deep_are_errors_and_not_crashes() {
    let (mut core, probe) = (core(), probe(0));
    deploy(&mut core, &probe, TON, START);
    let run = |depth: u64| {
        let arguments = [StackItem::Int(StackInt::from(depth))];
        core.run_get_method(probe.address, method_id("nested"), &arguments, START)
    };
    assert_eq!(run(250).unwrap().exit_code, 0);
    assert!(run(300).is_err());
    assert!(run(5_000).is_err());
    // Out of gas long before, after thousands of levels.
    assert!(run(1_000_000).is_ok());
}

#[test]
fn a_transfer_pays_for_its_way_and_arrives_whole() {
    let (mut core, probe) = (core(), probe(1));
    deploy(&mut core, &probe, 10 * TON, START);
    let (before, collected) = (balance(&core, probe.address), core.collected_nanoton());
    let message = internal(NOBODY, TON, false, None, &empty_cell());
    core.submit(probe.external(1, &[(1, message)]), START).unwrap();
    assert_eq!(block(&mut core, START).transactions.len(), 2);
    assert_eq!(balance(&core, NOBODY), TON);
    let fees = core.collected_nanoton() - collected;
    assert_eq!(balance(&core, probe.address), before - TON - fees);
    assert!((400_000..10_000_000).contains(&fees), "{fees}");
}

#[test]
fn a_message_that_fails_bounces_and_its_coins_return_less_fees() {
    let (mut core, first, second) = (core(), probe(1), probe(2));
    deploy(&mut core, &first, 10 * TON, START);
    deploy(&mut core, &second, TON, START);
    let (before, other) = (balance(&core, first.address), balance(&core, second.address));
    let message = internal(second.address, TON, true, None, &body(OP_FAIL, 5, &[]));
    core.submit(first.external(1, &[(1, message)]), START).unwrap();
    assert_eq!(block(&mut core, START).transactions.len(), 3);
    assert_eq!(numbers(&core, first.address, "state", &[])[2], 1, "the sender notices the bounce");
    assert_eq!(numbers(&core, second.address, "state", &[])[1], 0, "the receiver's data is as before");
    assert_eq!(balance(&core, second.address), other);
    assert!(balance(&core, first.address) > before - TON / 50);
}

#[test]
fn a_message_to_an_account_without_contract_bounces_if_it_may() {
    let (mut core, probe) = (core(), probe(1));
    deploy(&mut core, &probe, 10 * TON, START);
    let bouncing = internal(NOBODY, TON, true, None, &empty_cell());
    core.submit(probe.external(1, &[(1, bouncing)]), START).unwrap();
    block(&mut core, START);
    assert_eq!(balance(&core, NOBODY), 0);
    assert_eq!(core.account(NOBODY).unwrap().status, AccountStatus::NonExistent);
    assert_eq!(numbers(&core, probe.address, "state", &[])[2], 1);
}

#[test]
fn a_notice_of_one_nanoton_is_recorded_though_it_pays_for_no_gas() {
    let (mut core, first, second) = (core(), probe(1), probe(2));
    deploy(&mut core, &first, TON, START);
    deploy(&mut core, &second, TON, START);
    let notice = internal(second.address, 1, false, None, &body(OP_ADD, 9, &[]));
    core.submit(first.external(1, &[(1, notice)]), START).unwrap();
    let made = block(&mut core, START);
    let transaction = made.transactions[1].cell.parse::<Transaction>().unwrap();
    let TxInfo::Ordinary(info) = transaction.load_info().unwrap() else { panic!("not ordinary") };
    assert!(matches!(info.compute_phase, ComputePhase::Skipped(_)));
    assert_eq!(numbers(&core, second.address, "state", &[])[1], 0);
}

#[test]
fn messages_to_the_masterchain_are_delivered_at_its_prices() {
    let (mut core, probe) = (core(), probe(1));
    deploy(&mut core, &probe, 10 * TON, START);
    let there = Address::new(-1, [9; 32]).unwrap();
    let collected = core.collected_nanoton();
    let message = internal(there, TON, false, None, &empty_cell());
    core.submit(probe.external(1, &[(1, message)]), START).unwrap();
    block(&mut core, START);
    assert_eq!(balance(&core, there), TON);
    assert!(core.collected_nanoton() - collected > 10_000_000);
}

#[test]
fn storage_is_paid_for_and_debt_freezes_an_account_that_its_contract_can_thaw() {
    let (mut core, probe) = (core(), probe(1));
    deploy(&mut core, &probe, TON / 20, START);
    let poke = |core: &mut cocoon_localchain::Core, now| {
        core.grant(probe.address, 1).unwrap();
        block(core, now);
        core.account(probe.address).unwrap()
    };
    let before = balance(&core, probe.address);
    let after_a_year = poke(&mut core, START + YEAR);
    let rent = before + 1 - after_a_year.balance_nanoton;
    assert!((1_000_000..20_000_000).contains(&rent), "{rent}");
    let frozen = poke(&mut core, START + 60 * YEAR);
    assert_eq!((frozen.status, frozen.balance_nanoton), (AccountStatus::Frozen, 0));
    assert!(core.frozen_hash(probe.address).is_some());
    // The contract as it was last brings it back: seqno 1.
    let mut data = tycho_types::cell::CellBuilder::new();
    data.store_u32(1).unwrap();
    data.store_u64(0).unwrap();
    data.store_u32(0).unwrap();
    data.store_u32(1).unwrap();
    let mut last = probe.init.clone();
    last.data = Some(data.build().unwrap());
    let helper = support::probe(2);
    deploy(&mut core, &helper, 10 * TON, START + 60 * YEAR);
    let message = internal(probe.address, 5 * TON, false, Some(last), &body(OP_ADD, 3, &[]));
    core.submit(helper.external(1, &[(1, message)]), START + 60 * YEAR).unwrap();
    block(&mut core, START + 60 * YEAR);
    assert_eq!(core.account(probe.address).unwrap().status, AccountStatus::Active);
    assert_eq!(numbers(&core, probe.address, "state", &[]), [1, 3, 0, 1]);
}

#[test]
fn a_destroyed_account_can_come_back_in_the_same_block() {
    let (mut core, first, second) = (core(), probe(1), probe(2));
    deploy(&mut core, &first, 10 * TON, START);
    deploy(&mut core, &second, TON, START);
    let destroy = internal(second.address, TON, true, None, &body(OP_DESTROY, 0, &[]));
    let revive = internal(second.address, TON, false, Some(second.init.clone()), &body(OP_ADD, 4, &[]));
    core.submit(first.external(1, &[(1, destroy), (1, revive)]), START).unwrap();
    let made = block(&mut core, START);
    assert_eq!(numbers(&core, second.address, "state", &[]), [0, 4, 0, 2]);
    let mut times: Vec<_> =
        made.transactions.iter().filter(|made| made.account == second.address).map(|made| made.lt).collect();
    assert_eq!(times.len(), 2);
    times.dedup();
    assert_eq!(times.len(), 2, "no two transactions of an account have the same logical time");
}

#[test]
fn external_messages_that_a_contract_does_not_accept_are_refused_with_its_exit_code() {
    let (mut core, probe) = (core(), probe(1));
    let refused = |result| match result {
        Err(SubmitError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(core.submit(probe.external(0, &[]), START)), Refusal::NoAccount);
    core.grant(probe.address, TON).unwrap();
    block(&mut core, START);
    let wrong = refused(core.submit(probe.external(5, &[]), START));
    assert!(matches!(wrong, Refusal::NotAccepted { exit_code: 33, .. }), "{wrong}");
    // Both pass when they are sent; the second one's turn comes too late.
    core.submit(probe.external(0, &[]), START).unwrap();
    let late = probe.external(0, &[(1, internal(NOBODY, 1, false, None, &empty_cell()))]);
    core.submit(late.clone(), START).unwrap();
    core.submit(late.clone(), START).unwrap();
    let made = block(&mut core, START);
    assert_eq!(made.transactions.len(), 1);
    let [RefusedInput::Message { hash, reason: Refusal::NotAccepted { exit_code: 33, .. }, .. }] =
        made.refused[..]
    else {
        panic!("{:?}", made.refused)
    };
    assert_eq!(hash, late.hash());
}

#[test]
fn a_full_block_leaves_the_rest_of_the_messages_to_the_next() {
    let (mut core, probe) = (core(), probe(1));
    deploy(&mut core, &probe, 10 * TON, START);
    let send = |nanoton| (1, internal(NOBODY, nanoton, false, None, &empty_cell()));
    core.submit(probe.external(1, &[send(TON), send(2 * TON)]), START).unwrap();
    for _ in 1..MAX_PENDING_INPUTS {
        core.grant(NOBODY, 1).unwrap();
    }
    assert_eq!(core.grant(NOBODY, 1), Err(GrantError::Overloaded));
    let first = block(&mut core, START);
    assert_eq!(first.transactions.len(), MAX_TRANSACTIONS_PER_BLOCK);
    assert!(core.has_work());
    assert!(core.supply().unwrap().queue_nanoton > 0);
    assert_eq!(block(&mut core, START).transactions.len(), 2);
    assert_eq!(balance(&core, NOBODY), 3 * TON + MAX_PENDING_INPUTS as u64 - 1);
    assert!(!core.has_work());
}

#[test]
fn time_never_falls() {
    let mut core = core();
    block(&mut core, START + 5);
    assert!(matches!(core.produce_block(START + 4), Err(BlockError::TimeWentBack { .. })));
    assert_eq!(block(&mut core, START + 5).header.seqno, 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bytes_from_anybody_are_refused_or_taken_but_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = ExternalMessage::from_boc(&bytes);
    }

    #[test]
    fn damaged_messages_are_refused_or_taken_but_never_panic(
        at in any::<prop::sample::Index>(),
        flip in 1..=255_u8,
    ) {
        let (mut core, probe) = (core(), probe(1));
        core.grant(probe.address, TON).unwrap();
        block(&mut core, START);
        let echo = internal(probe.address, TON / 2, true, None, &body(OP_ECHO, 1, &[]));
        let mut bytes = cocoon_ton::cell::encode_boc(probe.external(0, &[(3, echo)]).cell());
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(message) = ExternalMessage::from_boc(&bytes) {
            let _ = core.submit(message, START);
            block(&mut core, START);
        }
    }

    #[test]
    fn whatever_contracts_do_coins_are_conserved_and_the_same_inputs_give_the_same_blocks(
        program in proptest::collection::vec(any::<(u8, u8, u32, u32, bool, u8)>(), 1..40),
    ) {
        prop_assert_eq!(run(&program), run(&program));
    }
}

/// Drives three probes through a program, and gives the last block's hash.
fn run(program: &[(u8, u8, u32, u32, bool, u8)]) -> [u8; 32] {
    let probes = [probe(1), probe(2), probe(3)];
    let (mut core, mut now) = (core(), START);
    for probe in &probes {
        core.grant(probe.address, 20 * TON).unwrap();
    }
    block(&mut core, now);
    for &(who, op, number, value, bounce, mode) in program {
        let from = &probes[usize::from(who) % 3];
        let to = &probes[usize::from(who / 3) % 3];
        let mode = [0, 1, 2, 3, 64, 128, 130, 160, 16, 255][usize::from(mode) % 10];
        let op = u32::from(op % 9);
        let inner = internal(from.address, u64::from(value / 3), !bounce, None, &body(op, number, &[]));
        let message = internal(
            to.address,
            u64::from(value),
            bounce,
            (number % 2 == 0).then(|| to.init.clone()),
            &body(op, number % 5_000, &[(mode, inner)]),
        );
        let state = core.run_get_method(from.address, method_id("state"), &[], now).unwrap();
        let seqno = match state.stack.first() {
            Some(StackItem::Int(seqno)) => seqno.to_u64().unwrap() as u32,
            _ => 0,
        };
        let _ = core.submit(from.external(seqno, &[(mode, message)]), now);
        if number % 3 == 0 {
            now += number % (YEAR / 4);
            block(&mut core, now);
        }
    }
    while core.has_work() {
        block(&mut core, now);
    }
    core.head().hash
}
