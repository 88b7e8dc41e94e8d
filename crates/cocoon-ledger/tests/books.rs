//! The books of a proxy: reservations bind, nothing is charged twice, and sums agree.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use cocoon_ledger::{
    AdjustedTokens, ApplyError, Change, ClientId, Ledger, MarkError, Nanoton, PricePerToken, Rates, Record,
    RequestId, ReserveError, SettleError, WorkerId,
};
use proptest::prelude::*;

const CLIENT: ClientId = ClientId([1; 32]);
const WORKER: WorkerId = WorkerId([2; 32]);

fn request(number: u8) -> RequestId {
    RequestId([number; 32])
}

fn rates() -> Rates {
    Rates::new(PricePerToken(3), PricePerToken(2))
}

fn tokens(number: u64) -> AdjustedTokens {
    AdjustedTokens(number)
}

fn funded(funds: u64) -> Ledger {
    let mut ledger = Ledger::new();
    ledger.set_client_funds(CLIENT, Nanoton(funds)).unwrap();
    ledger
}

#[test]
fn a_settled_request_moves_client_worker_and_proxy_together() {
    let mut ledger = funded(1000);
    ledger.reserve(request(1), CLIENT, tokens(100), rates()).unwrap();
    let settlement = ledger.settle(request(1), WORKER, tokens(40)).unwrap();
    assert_eq!(
        (settlement.charged, settlement.overrun, settlement.cost),
        (tokens(40), tokens(0), Nanoton(120))
    );
    let client = ledger.client(&CLIENT).unwrap();
    assert_eq!((client.charged, client.reserved, client.available()), (tokens(40), tokens(0), Nanoton(880)));
    let worker = ledger.worker(&WORKER).unwrap();
    assert_eq!((worker.earned, worker.value), (tokens(40), Nanoton(80)));
    assert_eq!(ledger.proxy_kept(), Nanoton(40));
    ledger.check_invariants().unwrap();
}

#[test]
fn an_overrun_is_the_workers_loss() {
    let mut ledger = funded(1000);
    ledger.reserve(request(1), CLIENT, tokens(100), rates()).unwrap();
    let settlement = ledger.settle(request(1), WORKER, tokens(u64::MAX)).unwrap();
    assert_eq!((settlement.charged, settlement.overrun), (tokens(100), tokens(u64::MAX - 100)));
}

#[test]
fn nothing_is_charged_twice() {
    let mut ledger = funded(1000);
    ledger.reserve(request(1), CLIENT, tokens(100), rates()).unwrap();
    ledger.settle(request(1), WORKER, tokens(40)).unwrap();
    let before = ledger.snapshot();
    let again = ledger.settle(request(1), WORKER, tokens(40));
    assert_eq!(again, Err(SettleError::UnknownRequest(request(1))));
    assert!(!ledger.release(request(1)));
    assert_eq!(ledger.snapshot(), before);
}

#[test]
fn a_reservation_is_refused_when_everything_promised_exceeds_the_funds() {
    let mut ledger = funded(300);
    ledger.reserve(request(1), CLIENT, tokens(60), rates()).unwrap();
    let refused = ledger.reserve(request(2), CLIENT, tokens(41), rates());
    assert_eq!(
        refused,
        Err(ReserveError::InsufficientFunds { needed: Nanoton(123), available: Nanoton(120) })
    );
    ledger.reserve(request(2), CLIENT, tokens(40), rates()).unwrap();
    assert!(ledger.release(request(2)), "a released reservation frees its funds");
    ledger.reserve(request(3), CLIENT, tokens(40), rates()).unwrap();
    ledger.check_invariants().unwrap();
}

#[test]
fn unknown_clients_duplicate_requests_and_overflows_are_refused() {
    let mut ledger = funded(u64::MAX);
    let stranger = ClientId([9; 32]);
    assert_eq!(
        ledger.reserve(request(1), stranger, tokens(1), rates()),
        Err(ReserveError::UnknownClient(stranger))
    );
    ledger.reserve(request(1), CLIENT, tokens(1), rates()).unwrap();
    let duplicate = ledger.reserve(request(1), CLIENT, tokens(1), rates());
    assert_eq!(duplicate, Err(ReserveError::DuplicateRequest(request(1))));
    let dear = ledger.reserve(request(2), CLIENT, tokens(u64::MAX / 2), rates());
    assert!(matches!(dear, Err(ReserveError::Overflow(_))), "{dear:?}");
    let free = Rates::default();
    let many = ledger.reserve(request(2), CLIENT, tokens(i64::MAX as u64), free);
    assert!(matches!(many, Err(ReserveError::Overflow(_))), "counters are signed on the wire: {many:?}");
    ledger.reserve(request(2), CLIENT, tokens(i64::MAX as u64 - 1), free).unwrap();
    ledger.check_invariants().unwrap();
}

#[test]
fn funds_that_vanish_under_a_running_request_bound_its_charge() {
    let mut ledger = funded(300);
    ledger.reserve(request(1), CLIENT, tokens(100), rates()).unwrap();
    ledger.set_client_funds(CLIENT, Nanoton(100)).unwrap();
    let settlement = ledger.settle(request(1), WORKER, tokens(90)).unwrap();
    assert_eq!((settlement.charged, settlement.overrun), (tokens(33), tokens(57)));
    ledger.check_invariants().unwrap();
}

#[test]
fn a_fee_above_the_price_pays_the_worker_the_price() {
    let mut ledger = funded(1000);
    let rates = Rates::new(PricePerToken(3), PricePerToken(5));
    ledger.reserve(request(1), CLIENT, tokens(10), rates).unwrap();
    ledger.settle(request(1), WORKER, tokens(10)).unwrap();
    assert_eq!(ledger.worker(&WORKER).unwrap().value, Nanoton(30));
    assert_eq!(ledger.proxy_kept(), Nanoton(0));
}

#[test]
fn nothing_may_be_signed_before_its_record_is_durable() {
    let mut ledger = funded(1000);
    for number in 1..=2 {
        ledger.reserve(request(number), CLIENT, tokens(50), rates()).unwrap();
        ledger.settle(request(number), WORKER, tokens(10)).unwrap();
    }
    assert_eq!(ledger.chargeable(&CLIENT), tokens(0));
    assert_eq!(
        ledger.mark_durable(1),
        Err(MarkError { durable: 1, position: 0 }),
        "what was never taken cannot be durable"
    );
    let positions: Vec<u64> = ledger.take_records().iter().map(|record| record.position).collect();
    assert_eq!(positions, [1, 2, 3]);
    ledger.mark_durable(2).unwrap();
    assert_eq!((ledger.chargeable(&CLIENT), ledger.payable(&WORKER)), (tokens(10), tokens(10)));
    ledger.mark_durable(3).unwrap();
    ledger.mark_durable(1).unwrap();
    assert_eq!((ledger.chargeable(&CLIENT), ledger.payable(&WORKER)), (tokens(20), tokens(20)));
    assert!(ledger.mark_durable(4).is_err());
}

#[test]
fn unchanged_funds_and_empty_charges_write_no_record() {
    let mut ledger = funded(1000);
    ledger.set_client_funds(CLIENT, Nanoton(1000)).unwrap();
    ledger.reserve(request(1), CLIENT, tokens(50), rates()).unwrap();
    ledger.settle(request(1), WORKER, tokens(0)).unwrap();
    assert_eq!(ledger.take_records().len(), 1);
    assert_eq!(ledger.client(&CLIENT).unwrap().reserved, tokens(0));
}

#[test]
fn a_log_with_a_gap_or_of_another_history_is_refused_without_effect() {
    let mut ledger = funded(1000);
    ledger.reserve(request(1), CLIENT, tokens(50), rates()).unwrap();
    ledger.settle(request(1), WORKER, tokens(10)).unwrap();
    let records = ledger.take_records();
    let mut copy = Ledger::new();
    assert_eq!(copy.apply(&records[1]), Err(ApplyError::OutOfOrder { position: 0, found: 2 }));
    copy.apply(&records[0]).unwrap();
    assert_eq!(copy.apply(&records[0]), Err(ApplyError::OutOfOrder { position: 1, found: 1 }));
    let Change::Charge { request, client, worker, tokens, rates, client_total, worker_total } =
        records[1].change
    else {
        panic!("the second record is a charge");
    };
    let client_total = client_total.checked_add(AdjustedTokens(1)).unwrap();
    let change = Change::Charge { request, client, worker, tokens, rates, client_total, worker_total };
    let before = copy.snapshot();
    assert_eq!(copy.apply(&Record { position: 2, change }), Err(ApplyError::TotalsDiffer { position: 2 }));
    assert_eq!(copy.snapshot(), before);
    copy.apply(&records[1]).unwrap();
    assert_eq!(copy.snapshot(), ledger.snapshot());
    assert_eq!(copy.chargeable(&CLIENT), AdjustedTokens(10), "what comes from the log is durable");
}

#[derive(Debug, Clone)]
enum Step {
    Funds(u8, u64),
    Reserve(u8, u8, u64, usize),
    Settle(u8, u8, u64),
    Release(u8),
    Take,
    Durable(u64),
    Snapshot,
}

fn amount() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..2_000_u64, 1 => any::<u64>(), 1 => Just(u64::MAX), 1 => Just(i64::MAX as u64)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..4_u8, amount()).prop_map(|(client, funds)| Step::Funds(client, funds.saturating_mul(10))),
        6 => (0..12_u8, 0..5_u8, amount(), 0..4_usize)
            .prop_map(|(request, client, amount, rates)| Step::Reserve(request, client, amount, rates)),
        6 => (0..12_u8, 0..4_u8, amount()).prop_map(|(request, worker, claimed)| Step::Settle(request, worker, claimed)),
        2 => (0..12_u8).prop_map(Step::Release),
        2 => Just(Step::Take),
        2 => (0..60_u64).prop_map(Step::Durable),
        1 => Just(Step::Snapshot),
    ]
}

/// All counters of clients, then of workers.
type Counters = (Vec<(ClientId, u64)>, Vec<(WorkerId, u64)>);

/// A ledger with all that its log would hold, and what is expected of it.
#[derive(Default)]
struct History {
    ledger: Ledger,
    log: Vec<Record>,
    reserved: BTreeMap<u8, u64>,
    snapshots: Vec<(u64, Vec<u8>)>,
}

impl History {
    fn step(&mut self, step: &Step) {
        let rates = [(0, 0), (3, 2), (7, 7), (2, 9)]
            .map(|(price, fee)| Rates::new(PricePerToken(price), PricePerToken(fee)));
        match *step {
            Step::Funds(client, funds) => {
                self.ledger.set_client_funds(ClientId([client; 32]), Nanoton(funds)).unwrap();
            }
            Step::Reserve(number, client, amount, rate) => {
                let client = ClientId([client; 32]);
                if self.ledger.reserve(request(number), client, tokens(amount), rates[rate]).is_ok() {
                    assert!(
                        self.reserved.insert(number, amount).is_none(),
                        "request {number} was reserved twice"
                    );
                }
            }
            Step::Settle(number, worker, claimed) => {
                let settled = self.ledger.settle(request(number), WorkerId([worker; 32]), tokens(claimed));
                let reserved = self.reserved.remove(&number);
                assert_eq!(settled.is_ok(), reserved.is_some(), "request {number}: {settled:?}");
                if let (Ok(settlement), Some(reserved)) = (settled, reserved) {
                    assert!(settlement.charged.0 <= reserved.min(claimed), "{settlement:?} of {reserved}");
                    assert_eq!(settlement.charged.0 + settlement.overrun.0, claimed);
                }
            }
            Step::Release(number) => {
                assert_eq!(self.ledger.release(request(number)), self.reserved.remove(&number).is_some());
            }
            Step::Take => self.log.extend(self.ledger.take_records()),
            Step::Durable(position) => {
                let taken = self.log.len() as u64;
                assert_eq!(self.ledger.mark_durable(position).is_ok(), position <= taken);
            }
            Step::Snapshot => self.snapshots.push((self.ledger.position(), self.ledger.snapshot())),
        }
    }

    /// The totals that records up to `position` cover, per client and per worker.
    fn covered(&self, position: u64) -> (BTreeMap<ClientId, u64>, BTreeMap<WorkerId, u64>) {
        let (mut clients, mut workers) = (BTreeMap::new(), BTreeMap::new());
        for record in self.log.iter().filter(|record| record.position <= position) {
            if let Change::Charge { client, worker, tokens, .. } = record.change {
                *clients.entry(client).or_default() += tokens.0;
                *workers.entry(worker).or_default() += tokens.0;
            }
        }
        (clients, workers)
    }

    fn check_covered(&self) {
        let (clients, workers) = self.covered(self.ledger.durable());
        for (client, _) in self.ledger.clients() {
            assert_eq!(self.ledger.chargeable(client).0, clients.get(client).copied().unwrap_or(0));
        }
        for (worker, _) in self.ledger.workers() {
            assert_eq!(self.ledger.payable(worker).0, workers.get(worker).copied().unwrap_or(0));
        }
    }

    fn counters(&self) -> Counters {
        let clients = self.ledger.clients().map(|(client, account)| (*client, account.charged.0)).collect();
        (clients, self.ledger.workers().map(|(worker, account)| (*worker, account.earned.0)).collect())
    }

    fn check_never_fell(&self, before: &Counters) {
        for (client, charged) in &before.0 {
            assert!(self.ledger.client(client).unwrap().charged.0 >= *charged);
        }
        for (worker, earned) in &before.1 {
            assert!(self.ledger.worker(worker).unwrap().earned.0 >= *earned);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn whatever_happens_sums_agree_and_a_replay_arrives_at_the_same_books(
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut history = History::default();
        history.snapshots.push((0, history.ledger.snapshot()));
        for step in &steps {
            let before = history.counters();
            history.step(step);
            history.ledger.check_invariants().unwrap();
            history.check_covered();
            history.check_never_fell(&before);
        }
        history.log.extend(history.ledger.take_records());
        for (position, snapshot) in &history.snapshots {
            let mut replayed = Ledger::restore(snapshot).unwrap();
            for record in history.log.iter().filter(|record| record.position > *position) {
                replayed.apply(&Record::decode(&record.encode()).unwrap()).unwrap();
            }
            prop_assert_eq!(replayed.snapshot(), history.ledger.snapshot());
            prop_assert_eq!(replayed.reservations(), 0, "reservations are not persisted");
            prop_assert_eq!(replayed.durable(), history.ledger.position());
            replayed.check_invariants().unwrap();
        }
    }
}
