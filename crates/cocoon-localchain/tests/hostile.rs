//! Contracts and messages made to do harm: the chain goes on, and every coin is still there.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use cocoon_chain::StackItem;
use cocoon_localchain::{ExternalMessage, SUPPLY_NANOTON};
use cocoon_ton::Cell;
use cocoon_ton::cell::encode_boc;
use proptest::prelude::*;
use support::*;
use tycho_types::cell::CellBuilder;

/// As the chain's own thread has it.
const STACK_BYTES: usize = 64 << 20;

fn on_a_large_stack(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).unwrap().join().unwrap();
}

/// Code that accepts every message and then does whatever the bytes mean.
fn code(parts: &[Vec<u8>]) -> Cell {
    let mut next: Option<Cell> = None;
    for part in parts.iter().rev() {
        let mut builder = CellBuilder::new();
        // SETCP0 and ACCEPT, in the outermost cell and in all others.
        builder.store_raw(&[0xff, 0x00, 0xf8, 0x00], 32).unwrap();
        builder.store_raw(part, u16::try_from(part.len() * 8).unwrap()).unwrap();
        if let Some(next) = next {
            builder.store_reference(next.clone()).unwrap();
            builder.store_reference(next).unwrap();
        }
        next = Some(builder.build().unwrap());
    }
    next.unwrap()
}

/// Opcodes that reach deep: tuples, continuations, cells, dictionaries, actions, numbers.
fn instruction() -> impl Strategy<Value = Vec<u8>> {
    const CHOSEN: [&[u8]; 26] = [
        &[0x6d],
        &[0x6f, 0x01],
        &[0x6f, 0x8c],
        &[0xc8],
        &[0xc9],
        &[0xcf, 0x23],
        &[0xd0],
        &[0xd4],
        &[0xd7, 0x4c],
        &[0xd8],
        &[0xdb, 0x30],
        &[0xe4],
        &[0xea],
        &[0xed, 0x44],
        &[0xed, 0x54],
        &[0xed, 0x1e],
        &[0xf4, 0x17],
        &[0xfb, 0x00],
        &[0xfb, 0x02],
        &[0xf8, 0x40],
        &[0x92, 0x6f, 0x01],
        &[0x81, 0x7f, 0xff],
        &[0xa8],
        &[0xaa, 0xff],
        &[0x20],
        &[0xdb, 0x43, 0x00],
    ];
    prop_oneof![
        prop::sample::select(&CHOSEN[..]).prop_map(<[u8]>::to_vec),
        prop::collection::vec(any::<u8>(), 1..6),
        any::<u8>().prop_map(|byte| vec![byte]),
    ]
}

fn program() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let part = prop::collection::vec(instruction(), 0..30).prop_map(|parts| {
        let mut bytes = parts.concat();
        bytes.truncate(120);
        bytes
    });
    prop::collection::vec(part, 1..4)
}

fn run(parts: &[Vec<u8>], body_of_message: &[u8]) {
    let mut core = core();
    let hostile = contract(code(parts), body(1, 2, &[]));
    core.grant(hostile.address, 100 * TON).unwrap();
    block(&mut core, START);
    let mut body = CellBuilder::new();
    body.store_raw(body_of_message, u16::try_from(body_of_message.len() * 8).unwrap()).unwrap();
    let body = body.build().unwrap();
    for now in START..START + 3 {
        let _ = core.submit(external_with(hostile.address, Some(hostile.init.clone()), &body), now);
        block(&mut core, now);
        core.grant(hostile.address, TON).unwrap();
        block(&mut core, now);
        let _ = core.run_get_method(hostile.address, 0, &[StackItem::Cell(body.clone())], now);
    }
}

proptest! {
    #[test]
    fn code_of_any_kind_runs_to_an_end(
        parts in program(),
        bytes in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        on_a_large_stack(move || run(&parts, &bytes));
    }
}

/// Few bytes that are a tree of 4^levels cells.
fn bomb(levels: usize) -> Cell {
    let mut cell = empty_cell();
    for _ in 0..levels {
        let mut builder = CellBuilder::new();
        for _ in 0..4 {
            builder.store_reference(cell.clone()).unwrap();
        }
        cell = builder.build().unwrap();
    }
    cell
}

#[test]
fn trees_that_repeat_themselves_cost_no_more_than_their_bytes() {
    let begun = Instant::now();
    let (mut core, probe) = (core(), probe(1));
    deploy(&mut core, &probe, 100 * TON, START);
    let sent = internal(probe.address, TON, true, None, &bomb(400));
    let boc = encode_boc(probe.external(1, &[(1, sent)]).cell());
    assert!(boc.len() < 10_000);
    core.submit(ExternalMessage::from_boc(&boc).unwrap(), START).unwrap();
    assert_eq!(block(&mut core, START).transactions.len(), 2);
    let arguments = [StackItem::Cell(bomb(500))];
    core.run_get_method(probe.address, cocoon_localchain::method_id("echo"), &arguments, START).unwrap();
    assert_eq!(core.supply().unwrap().total_nanoton(), SUPPLY_NANOTON);
    assert!(begun.elapsed() < Duration::from_secs(20));
}
