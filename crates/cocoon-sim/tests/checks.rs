//! Each check can fail: what it forbids is shown to it.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use cocoon_ledger::{
    AdjustedTokens, Change, ClientId, PeerCounters, PricePerToken, Rates, Record, RequestId, WorkerId,
};
use cocoon_session::{PaymentCounters, ProxyTerms, Time};
use cocoon_sim::Checks;
use cocoon_ton::{Address, OrderKind, PaymentOrder, SigningKey};

const CALL: [u8; 32] = [1; 32];
const ATTEMPT: [u8; 32] = [2; 32];
const PAIR: [u8; 32] = [3; 32];

fn submitted() -> Checks {
    let mut checks = Checks::default();
    checks.submitted(CALL, Time(1_000_000), 100).unwrap();
    checks.attempt(CALL, ATTEMPT);
    checks
}

fn charge(request: u8, tokens: u64, total: u64) -> Record {
    let change = Change::Charge {
        request: RequestId([request; 32]),
        client: ClientId(PAIR),
        worker: WorkerId([9; 32]),
        tokens: AdjustedTokens(tokens),
        rates: Rates::new(PricePerToken(2), PricePerToken(1)),
        client_total: AdjustedTokens(total),
        worker_total: AdjustedTokens(total),
    };
    Record { position: 1, change }
}

#[test]
fn a_call_ends_once_and_in_time() {
    let mut checks = submitted();
    assert!(checks.submitted(CALL, Time(0), 1).is_err(), "an id is used twice");
    assert!(checks.running(&CALL).is_ok());
    assert!(checks.overdue(Time(1_100_000), Duration::from_millis(200)).is_ok());
    assert!(checks.overdue(Time(1_300_000), Duration::from_millis(200)).is_err(), "it outlives its deadline");
    checks.ended(&CALL).unwrap();
    assert!(checks.overdue(Time(1_300_000), Duration::ZERO).is_ok());
    assert!(checks.ended(&CALL).is_err(), "it ends twice");
    assert!(checks.running(&CALL).is_err(), "something comes after the end");
    assert!(checks.ended(&[7; 32]).is_err(), "it never began");
}

#[test]
fn a_closed_account_stays_at_its_final_count() {
    let mut checks = submitted();
    assert!(checks.closed(ClientId(PAIR), 1).is_err(), "closed above what is durable");
    checks.durable(&charge(1, 10, 10));
    assert!(checks.closed(ClientId(PAIR), 9).is_err(), "closed below what is durable");
    checks.closed(ClientId(PAIR), 10).unwrap();
    checks.closed(ClientId(PAIR), 10).unwrap();
    assert!(checks.recorded(&charge(2, 1, 11)).is_err(), "charged after its end");
    checks.durable(&charge(2, 1, 11));
    assert!(checks.closed(ClientId(PAIR), 11).is_err(), "closed at two counts");
}

#[test]
fn an_answer_is_what_one_engine_wrote() {
    let mut checks = submitted();
    checks.wrote(&ATTEMPT, b"half", false);
    assert!(checks.received(&CALL, b"ha", false).is_ok());
    assert!(checks.received(&CALL, b"half", true).is_err(), "a part is taken for the whole");
    checks.wrote(&ATTEMPT, b" more", true);
    assert!(checks.received(&CALL, b"half more", true).is_ok());
    assert!(checks.received(&CALL, b"half", true).is_err(), "the end is missing");
    assert!(checks.received(&CALL, b"more", false).is_err(), "the beginning is missing");
}

#[test]
fn a_request_is_charged_once_and_within_its_bound() {
    let mut checks = submitted();
    checks.recorded(&charge(2, 100, 100)).unwrap();
    assert!(checks.recorded(&charge(2, 1, 101)).is_err(), "it is charged twice");
    let mut checks = submitted();
    assert!(checks.recorded(&charge(2, 101, 101)).is_err(), "the charge exceeds the reservation");
}

#[test]
fn a_notice_comes_once_and_is_missed() {
    let mut checks = submitted();
    assert!(checks.acknowledged(&CALL).is_err(), "the notice never came");
    checks.client_notice(CALL).unwrap();
    assert!(checks.acknowledged(&CALL).is_ok());
    assert!(checks.client_notice(CALL).is_err(), "a second notice to the client");
    checks.worker_notice(ATTEMPT).unwrap();
    assert!(checks.worker_notice(ATTEMPT).is_err(), "a second notice to the worker");
}

#[test]
fn shown_counters_rise_are_durable_and_signed() {
    let key = SigningKey::from_bytes(&[5; 32]);
    let pair_contract = Address::basechain(PAIR);
    let terms = ProxyTerms {
        public_key: key.verifying_key().to_bytes(),
        contract: Address::basechain([6; 32]),
        pair_contract,
        proto_version: 2,
        extensions: true,
    };
    let kind = OrderKind::ChargeClient;
    let show = |checks: &mut Checks, known: &mut PeerCounters, db, max, signed: u64, key: &SigningKey| {
        let order = PaymentOrder {
            kind,
            contract: pair_contract,
            query_id: 0,
            tokens: signed,
            excesses_to: pair_contract,
        };
        let signed = Some(order.sign(key).to_boc().into());
        checks.shown(known, &PaymentCounters { db_tokens: db, max_tokens: max, signed }, &terms, kind)
    };
    let mut checks = submitted();
    let mut known = PeerCounters::default();
    checks.durable(&charge(2, 10, 10));
    show(&mut checks, &mut known, 10, 12, 10, &key).unwrap();
    let mut fails = |db, max, signed, key: &SigningKey, why| {
        assert!(show(&mut checks, &mut known.clone(), db, max, signed, key).is_err(), "{why}");
    };
    fails(9, 12, 10, &key, "the saved counter falls");
    fails(10, 11, 10, &key, "the largest counter falls");
    fails(10, 12, 9, &key, "the signed counter falls");
    fails(11, 12, 10, &key, "more is shown as saved than is durable");
    fails(10, 12, 11, &key, "more is signed than is durable");
    fails(10, 12, 10, &SigningKey::from_bytes(&[8; 32]), "another key signed");
}
