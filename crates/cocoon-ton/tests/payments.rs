//! Payment orders: round trips, and bytes that are none.

#![allow(clippy::unwrap_used)]

use cocoon_ton::cell::{MAX_DEPTH, decode_boc};
use cocoon_ton::payment::MAX_SIGNED_PAYMENT_BYTES;
use cocoon_ton::{
    Address, CellError, OrderKind, PaymentOrder, PaymentParseError, PaymentVerifyError, SignedPayment,
    SigningKey,
};
use proptest::prelude::*;

fn any_kind() -> impl Strategy<Value = OrderKind> {
    prop_oneof![
        Just(OrderKind::ChargeClient),
        Just(OrderKind::RefundClient),
        Just(OrderKind::PayWorker),
        Just(OrderKind::PayWorkerLast),
    ]
}

fn any_address() -> impl Strategy<Value = Address> {
    (any::<bool>(), any::<[u8; 32]>())
        .prop_map(|(masterchain, hash)| Address::new(if masterchain { -1 } else { 0 }, hash).unwrap())
}

prop_compose! {
    fn any_order()(
        kind in any_kind(), contract in any_address(), query_id: u64, tokens: u64, excesses_to in any_address(),
    ) -> PaymentOrder {
        PaymentOrder { kind, contract, query_id, tokens, excesses_to }
    }
}

proptest! {
    #[test]
    fn a_signed_order_reads_back_and_verifies(order in any_order(), seed: [u8; 32]) {
        let key = SigningKey::from_bytes(&seed);
        let signed = order.sign(&key);
        prop_assert_eq!(order.sign(&key), signed, "signing is deterministic");
        let parsed = SignedPayment::parse(&signed.to_boc()).unwrap();
        prop_assert_eq!(parsed, signed);
        prop_assert_eq!(parsed.verify(&key.verifying_key(), order.kind, &order.contract), Ok(order.tokens));
    }

    #[test]
    fn more_tokens_than_signed_do_not_verify(order in any_order(), seed: [u8; 32], more in 1u64..) {
        let key = SigningKey::from_bytes(&seed);
        let honest = order.sign(&key).to_boc();
        let dearer = PaymentOrder { tokens: order.tokens.wrapping_add(more), ..order };
        // Put the honest signature into the dearer order: both cells have fixed places for everything.
        let mut forged = dearer.sign(&key).to_boc();
        let inner_len = 55 + 2;
        let outer = ..forged.len() - inner_len;
        forged[outer].copy_from_slice(&honest[outer]);
        let forged = SignedPayment::parse(&forged).unwrap();
        prop_assert_eq!(forged.order().tokens, dearer.tokens);
        let verdict = forged.verify(&key.verifying_key(), order.kind, &order.contract);
        prop_assert_eq!(verdict, Err(PaymentVerifyError::Signature));
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = SignedPayment::parse(&bytes);
    }

    #[test]
    fn no_damage_to_a_payment_makes_the_parser_panic(
        order in any_order(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = order.sign(&SigningKey::from_bytes(&[5; 32])).to_boc();
        for (at, to) in changes {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        let _ = SignedPayment::parse(&bytes);
    }

    #[test]
    fn no_bytes_after_a_cell_header_make_the_parser_panic(
        head in prop::collection::vec(0u8..8, 8), rest in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = [&[0xb5, 0xee, 0x9c, 0x72][..], &head, &rest].concat();
        let _ = SignedPayment::parse(&bytes);
    }
}

#[test]
fn sending_excess_coins_elsewhere_keeps_the_signature() {
    let key = SigningKey::from_bytes(&[2; 32]);
    let (contract, ours) = (Address::basechain([1; 32]), Address::basechain([9; 32]));
    let order = PaymentOrder {
        kind: OrderKind::PayWorker,
        contract,
        query_id: 1,
        tokens: 10,
        excesses_to: Address::basechain([3; 32]),
    };
    let redirected = order.sign(&key).with_excesses_to(ours);
    assert_eq!(SignedPayment::parse(&redirected.to_boc()).unwrap().order().excesses_to, ours);
    assert_eq!(redirected.verify(&key.verifying_key(), OrderKind::PayWorker, &contract), Ok(10));
}

#[test]
fn a_payment_over_the_size_limit_is_refused_before_it_is_decoded() {
    let error = SignedPayment::parse(&vec![0; MAX_SIGNED_PAYMENT_BYTES + 1]).unwrap_err();
    assert!(
        matches!(error, PaymentParseError::Cell(CellError::TooLarge { actual: 4097, limit: 4096 })),
        "{error}"
    );
    let error = SignedPayment::parse(&vec![0; MAX_SIGNED_PAYMENT_BYTES]).unwrap_err();
    assert!(matches!(error, PaymentParseError::Cell(CellError::Malformed(_))), "{error}");
}

#[test]
fn a_payment_in_another_encoding_is_refused() {
    let order = PaymentOrder {
        kind: OrderKind::ChargeClient,
        contract: Address::basechain([1; 32]),
        query_id: 1,
        tokens: 10,
        excesses_to: Address::basechain([3; 32]),
    };
    let mut longer = order.sign(&SigningKey::from_bytes(&[2; 32])).to_boc();
    longer.push(0);
    assert_eq!(SignedPayment::parse(&longer), Err(PaymentParseError::NotCanonical));
}

#[test]
fn an_order_with_an_unknown_operation_is_refused_by_number() {
    let order = PaymentOrder {
        kind: OrderKind::PayWorker,
        contract: Address::basechain([1; 32]),
        query_id: 1,
        tokens: 10,
        excesses_to: Address::basechain([3; 32]),
    };
    let mut bytes = order.sign(&SigningKey::from_bytes(&[2; 32])).to_boc();
    bytes[13] ^= 1; // the first byte of the outer cell's data
    let error = SignedPayment::parse(&bytes).unwrap_err();
    assert_eq!(error, PaymentParseError::UnknownOperation(0xa140_ad28));
}

/// A bag of `count` cells, each but the last with references to the next one only.
fn chain(count: u16, references: u8) -> Vec<u8> {
    let cell_len = |index: u16| if index + 1 == count { 2 } else { 2 + 2 * usize::from(references) };
    let total: usize = (0..count).map(cell_len).sum();
    let mut bytes = vec![0xb5, 0xee, 0x9c, 0x72, 2, 4];
    bytes.extend(count.to_be_bytes());
    bytes.extend([0, 1, 0, 0]);
    bytes.extend(u32::try_from(total).unwrap().to_be_bytes());
    bytes.extend([0, 0]);
    for index in 0..count {
        let last = index + 1 == count;
        bytes.extend([if last { 0 } else { references }, 0]);
        for _ in 0..if last { 0 } else { references } {
            bytes.extend((index + 1).to_be_bytes());
        }
    }
    bytes
}

#[test]
fn cells_nested_too_deep_are_refused() {
    assert!(decode_boc(&chain(MAX_DEPTH + 1, 1), 1 << 20).is_ok(), "the limit itself is allowed");
    assert_eq!(decode_boc(&chain(MAX_DEPTH + 2, 1), 1 << 20).unwrap_err(), CellError::TooDeep(MAX_DEPTH + 1));
    let deepest = decode_boc(&chain(60_000, 1), 1 << 20);
    assert!(deepest.is_err(), "and dropping a deep tree does not overflow the stack");
}

#[test]
fn a_small_bag_that_unfolds_to_astronomic_size_is_refused_at_once() {
    // 400 levels of four references each: 4^399 paths in under 4 KiB.
    let bomb = chain(400, 4);
    assert!(bomb.len() <= MAX_SIGNED_PAYMENT_BYTES, "{}", bomb.len());
    assert!(matches!(SignedPayment::parse(&bomb), Err(PaymentParseError::Cell(_))));
}
