//! Bodies that are none: nothing panics, and nothing is taken for what it is not.

use cocoon_ton::Cell;
use cocoon_ton::cell::{MAX_DEPTH, decode_boc};
use cocoon_ton::contracts::ContractStatus;
use cocoon_ton::message::{Body, ClientCounters, op};
use proptest::prelude::*;
use tycho_types::cell::{CellBuilder, CellFamily as _};

use crate::round_trips::any_body;

fn build(bits: &[u8], length: u16, references: &[Cell]) -> Cell {
    let mut builder = CellBuilder::new();
    builder.store_raw(bits, length).unwrap();
    for cell in references {
        builder.store_reference(cell.clone()).unwrap();
    }
    builder.build().unwrap()
}

fn words(words: &[u32], references: &[Cell]) -> Cell {
    let bits: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    build(&bits, u16::try_from(bits.len() * 8).unwrap(), references)
}

/// A chain of `depth` cells.
fn chain(depth: u16) -> Cell {
    (1..depth).fold(Cell::empty_cell(), |next, _| build(&[], 0, &[next]))
}

/// Whether what was understood means the same when written again.
fn is_stable(parsed: &Body) -> bool {
    match parsed {
        Body::Unknown { .. } => true,
        Body::Bounced(body) => is_stable(body),
        body => Body::parse(&body.to_cell()) == *body,
    }
}

#[test]
fn what_a_client_contract_counts_is_told_whatever_its_owner_puts_beside_it() {
    let owner = cocoon_ton::Address::basechain([1; 32]);
    let counters = ClientCounters {
        status: ContractStatus::Closing,
        balance: 5,
        stake: 4,
        tokens_used: 3,
        secret_hash: [2; 32],
    };
    let notice = Body::ClientProxyRequest { query_id: 7, owner, counters, request: None };
    let cell = notice.to_cell();
    let mut bits = cell.data().to_vec();
    // The last bit says whether a request follows.
    let last = cell.bit_len() - 1;
    bits[usize::from(last / 8)] |= 0x80 >> (last % 8);
    // An amount of none, and an address with a length of its own.
    let strange = words(&[op::CLIENT_PROXY_REFUND_GRANTED, 0x0c00_0000], &[]);
    for request in [strange, words(&[0x1234_5678], &[]), Cell::empty_cell()] {
        let references = [cell.reference_cloned(0).unwrap(), request];
        assert_eq!(Body::parse(&build(&bits, cell.bit_len(), &references)), notice);
    }
}

proptest! {
    #[test]
    fn a_body_with_a_bit_more_or_less_is_never_the_same(body in any_body()) {
        let cell = body.to_cell();
        let length = cell.bit_len();
        prop_assume!(length > 0 && !matches!(body, Body::BouncedOp { .. } | Body::Unknown { .. }));
        let references: Vec<Cell> = (0..cell.reference_count()).map(|index| cell.reference_cloned(index).unwrap()).collect();
        for changed in [length - 1, length + 1] {
            prop_assume!(changed <= 1023);
            let mut bits = cell.data().to_vec();
            bits.push(0);
            let parsed = Body::parse(&build(&bits, changed, &references));
            prop_assert!(matches!(parsed, Body::Unknown { .. }), "{:?}", parsed);
        }
    }

    #[test]
    fn no_damage_to_a_body_makes_the_parser_panic(
        body in any_body(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut boc = cocoon_ton::cell::encode_boc(&body.to_cell());
        for (at, to) in changes {
            let at = at.index(boc.len());
            boc[at] = to;
        }
        if let Ok(cell) = decode_boc(&boc, 64 * 1024) {
            let parsed = Body::parse(&cell);
            prop_assert!(is_stable(&parsed), "{:?}", parsed);
        }
    }

    #[test]
    fn no_bits_after_a_known_operation_make_the_parser_panic(
        which in any::<prop::sample::Index>(), rest in prop::collection::vec(any::<u8>(), 0..120),
        references in 0usize..=4,
    ) {
        let known = [
            op::TEXT, op::BOUNCED, op::BOUNCED_WHOLE, op::CLIENT_PROXY_REQUEST, op::WORKER_PROXY_REQUEST,
            op::EXT_CLIENT_CHARGE_SIGNED, op::EXT_PROXY_CLOSE_REQUEST_SIGNED, op::ROOT_REGISTER_PROXY,
            op::ROOT_UPGRADE_FULL, op::ROOT_CHANGE_PARAMS, op::OWNER_WALLET_SEND_MESSAGE, op::DO_NOT_PROCESS,
        ];
        let bits = [&which.get(&known).to_be_bytes()[..], &rest].concat();
        let references = vec![words(&[op::CLIENT_PROXY_TOP_UP], &[]); references];
        let parsed = Body::parse(&build(&bits, u16::try_from(bits.len() * 8).unwrap(), &references));
        prop_assert!(is_stable(&parsed), "{:?}", parsed);
    }
}

#[test]
fn less_than_an_operation_is_unknown_and_only_nothing_is_empty() {
    assert_eq!(Body::parse(&build(&[], 0, &[])), Body::Empty);
    assert_eq!(Body::parse(&build(&[], 0, &[Cell::empty_cell()])), Body::Unknown { op: None });
    assert_eq!(Body::parse(&build(&[0; 4], 31, &[])), Body::Unknown { op: None });
    assert_eq!(Body::parse(&words(&[0x1234_5678], &[])), Body::Unknown { op: Some(0x1234_5678) });
}

#[test]
fn a_bounce_of_a_bounce_is_unknown_however_deep() {
    let mut cell = Body::Payout { query_id: 1 }.to_cell();
    for _ in 0..MAX_DEPTH {
        cell = words(&[op::BOUNCED_WHOLE], &[cell]);
    }
    let unknown = Box::new(Body::Unknown { op: Some(op::BOUNCED_WHOLE) });
    assert_eq!(Body::parse(&cell), Body::Bounced(unknown));
    let cell = words(&[op::BOUNCED_WHOLE], &[words(&[op::BOUNCED, 7], &[])]);
    assert_eq!(Body::parse(&cell), Body::Bounced(Box::new(Body::Unknown { op: Some(op::BOUNCED) })));
    assert_eq!(Body::parse(&words(&[op::BOUNCED_WHOLE], &[])), Body::Unknown { op: Some(op::BOUNCED_WHOLE) });
    assert_eq!(Body::parse(&words(&[op::BOUNCED], &[])), Body::Unknown { op: Some(op::BOUNCED) });
    // Nor can one be written.
    let twice = Body::Bounced(Box::new(Body::Bounced(Box::new(Body::Empty))));
    assert_eq!(
        Body::parse(&twice.to_cell()),
        Body::parse(&words(&[op::BOUNCED_WHOLE], &[words(&[op::BOUNCED_WHOLE], &[])]))
    );
}

#[test]
fn code_nested_too_deep_is_unknown() {
    let upgrade = |depth| Body::parse(&words(&[op::ROOT_UPGRADE, 0, 0], &[chain(depth)]));
    assert!(matches!(upgrade(MAX_DEPTH + 1), Body::Root { .. }), "the limit itself is allowed");
    assert_eq!(upgrade(MAX_DEPTH + 2), Body::Unknown { op: Some(op::ROOT_UPGRADE) });
}

#[test]
fn a_text_over_the_limit_or_without_end_or_not_in_utf_8_is_unknown() {
    let unknown = Body::Unknown { op: Some(op::TEXT) };
    let mut long = build(&[b'x'; 127], 127 * 8, &[]);
    for _ in 0..8 {
        long = build(&[b'x'; 127], 127 * 8, &[long]);
    }
    assert_eq!(Body::parse(&words(&[op::TEXT], &[long])), unknown);
    assert_eq!(Body::parse(&words(&[op::TEXT], &[chain(1020)])), Body::Comment(String::new()));
    assert_eq!(Body::parse(&words(&[op::TEXT, 0xffff_ffff], &[])), unknown);
    assert_eq!(Body::parse(&build(&[0; 5], 36, &[])), unknown, "half a byte");
    assert_eq!(Body::parse(&words(&[op::TEXT], &[chain(1), chain(1)])), unknown, "two continuations");
}

#[test]
fn an_address_that_is_not_a_standard_one_makes_a_body_unknown() {
    // owner_client_withdraw with addr_none$00.
    let mut bits = op::OWNER_CLIENT_WITHDRAW.to_be_bytes().to_vec();
    bits.extend([0; 9]);
    let unknown = Body::Unknown { op: Some(op::OWNER_CLIENT_WITHDRAW) };
    assert_eq!(Body::parse(&build(&bits, 98, &[])), unknown);
}
