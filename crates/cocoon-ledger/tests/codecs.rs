//! Records, snapshots and peer counters as bytes: strict, total, and never a panic.
#![allow(clippy::unwrap_used)]

use cocoon_ledger::{
    AdjustedTokens, Change, ClientId, Counter, CounterChange, CounterError, DecodeError, Ledger, Nanoton,
    PeerCounters, PricePerToken, Rates, Record, RequestId, WorkerId,
};
use proptest::prelude::*;

fn record() -> impl Strategy<Value = Record> {
    let funds = (any::<[u8; 32]>(), any::<u64>())
        .prop_map(|(client, funds)| Change::ClientFunds { client: ClientId(client), funds: Nanoton(funds) });
    let charge = (any::<[[u8; 32]; 3]>(), any::<[u64; 5]>()).prop_map(|(ids, numbers)| Change::Charge {
        request: RequestId(ids[0]),
        client: ClientId(ids[1]),
        worker: WorkerId(ids[2]),
        tokens: AdjustedTokens(numbers[0]),
        rates: Rates::new(PricePerToken(numbers[1]), PricePerToken(numbers[2])),
        client_total: AdjustedTokens(numbers[3]),
        worker_total: AdjustedTokens(numbers[4]),
    });
    let close_client = (any::<[u8; 32]>(), any::<u64>()).prop_map(|(client, total)| Change::CloseClient {
        client: ClientId(client),
        client_total: AdjustedTokens(total),
    });
    let close_worker = (any::<[u8; 32]>(), any::<u64>()).prop_map(|(worker, total)| Change::CloseWorker {
        worker: WorkerId(worker),
        worker_total: AdjustedTokens(total),
    });
    (any::<u64>(), prop_oneof![funds, charge, close_client, close_worker])
        .prop_map(|(position, change)| Record { position, change })
}

fn books() -> Ledger {
    let mut ledger = Ledger::new();
    for number in 1..=3 {
        let (client, request) = (ClientId([number; 32]), RequestId([number; 32]));
        ledger.set_client_funds(client, Nanoton(1000)).unwrap();
        ledger
            .reserve(request, client, AdjustedTokens(50), Rates::new(PricePerToken(3), PricePerToken(2)))
            .unwrap();
        ledger.settle(request, WorkerId([number % 2; 32]), AdjustedTokens(20)).unwrap();
    }
    ledger.close_client(ClientId([2; 32])).unwrap();
    ledger.close_worker(WorkerId([0; 32])).unwrap();
    ledger
}

proptest! {
    #[test]
    fn a_record_survives_its_bytes(record in record()) {
        prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn a_cut_or_lengthened_record_is_refused(record in record(), cut in 0..146_usize, more in 1..5_usize) {
        let mut bytes = record.encode();
        prop_assert!(Record::decode(&bytes[..cut.min(bytes.len() - 1)]).is_err());
        bytes.resize(bytes.len() + more, 0);
        prop_assert_eq!(Record::decode(&bytes), Err(DecodeError::Trailing { extra: more }));
    }

    #[test]
    fn bytes_that_decode_are_the_bytes_that_are_encoded(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..6_u8, length in prop::sample::select(vec![50_usize, 146]),
    ) {
        let _ = Ledger::restore(&bytes);
        bytes.resize(length, 0);
        bytes[..2].copy_from_slice(&[1, kind]);
        if let Ok(record) = Record::decode(&bytes) {
            prop_assert_eq!(record.encode(), bytes);
        }
    }

    #[test]
    fn a_damaged_snapshot_never_panics_and_never_breaks_the_books(
        at in 0..400_usize, value in any::<u8>(), keep in 0..400_usize,
    ) {
        let mut bytes = books().snapshot();
        prop_assert!(Ledger::restore(&bytes[..keep.min(bytes.len() - 1)]).is_err());
        let at = at % bytes.len();
        bytes[at] = value;
        if let Ok(ledger) = Ledger::restore(&bytes) {
            prop_assert_eq!(ledger.snapshot(), bytes);
            ledger.check_invariants().unwrap();
        }
    }

    #[test]
    fn counters_survive_their_bytes_and_never_fall(notices in prop::collection::vec((-5..300_i64, -5..300_i64, prop::option::of(0..300_u64)), 0..40)) {
        let mut counters = PeerCounters::default();
        for (db, max, signed) in notices {
            let before = counters;
            match counters.observe(db, max, signed) {
                Ok(change) => {
                    prop_assert_eq!(before.db() + change.db, counters.db());
                    prop_assert_eq!(before.max() + change.max, counters.max());
                    prop_assert_eq!(before.signed() + change.signed, counters.signed());
                }
                Err(_) => prop_assert_eq!(before, counters),
            }
            prop_assert_eq!(PeerCounters::decode(&counters.encode()), Ok(counters));
        }
    }
}

#[test]
fn unknown_versions_and_kinds_are_named() {
    assert_eq!(Record::decode(&[2]), Err(DecodeError::Version(2)));
    assert_eq!(Record::decode(&[1, 9, 0, 0, 0, 0, 0, 0, 0, 0]), Err(DecodeError::Kind(9)));
    assert_eq!(Record::decode(&[]), Err(DecodeError::Truncated { needed: 1 }));
    assert_eq!(PeerCounters::decode(&[7]), Err(DecodeError::Version(7)));
}

#[test]
fn a_snapshot_from_before_accounts_could_be_closed_is_read() {
    let mut ledger = Ledger::new();
    ledger.set_client_funds(ClientId([1; 32]), Nanoton(1000)).unwrap();
    let new = ledger.snapshot();
    let mut old = new[..new.len() - 1].to_vec();
    old[0] = 1;
    assert_eq!(Ledger::restore(&old).unwrap().snapshot(), new);
    let mut unclear = new;
    *unclear.last_mut().unwrap() = 2;
    assert!(Ledger::restore(&unclear).is_err(), "open or closed, nothing else");
}

#[test]
fn a_snapshot_whose_books_do_not_balance_is_refused() {
    let mut bytes = books().snapshot();
    bytes[9] ^= 1; // The lowest byte of what the proxy keeps.
    let refused = Ledger::restore(&bytes).unwrap_err();
    assert!(refused.to_string().contains("do not balance"), "{refused}");
}

#[test]
fn a_snapshot_with_a_giant_count_is_refused_at_once() {
    let mut bytes = books().snapshot();
    bytes[17..25].fill(0xff);
    assert!(Ledger::restore(&bytes).is_err());
}

#[test]
fn a_proxy_that_goes_back_is_refused_and_named() {
    let mut counters = PeerCounters::default();
    assert_eq!(counters.observe(10, 12, Some(5)), Ok(CounterChange { db: 10, max: 12, signed: 5 }));
    let back = |counter, known, shown| Err(CounterError::WentBack { counter, known, shown });
    assert_eq!(counters.observe(9, 12, None), back(Counter::Db, 10, 9));
    assert_eq!(counters.observe(10, 11, None), back(Counter::Max, 12, 11));
    assert_eq!(counters.observe(10, 12, Some(4)), back(Counter::Signed, 5, 4));
    assert_eq!(counters.observe(13, 12, None), Err(CounterError::DbAboveMax { db: 13, max: 12 }));
    assert!(matches!(counters.observe(-1, 12, None), Err(CounterError::OutOfRange(_))));
    assert_eq!((counters.db(), counters.max(), counters.signed()), (10, 12, 5));
}

#[test]
fn a_new_connection_may_honestly_lack_what_was_never_in_the_database() {
    let mut counters = PeerCounters::default();
    counters.observe(10, 12, None).unwrap();
    counters.begin_connection();
    assert_eq!(counters.observe(10, 10, None), Ok(CounterChange::default()));
}
