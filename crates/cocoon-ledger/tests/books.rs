//! The books of a proxy: reservations bind, nothing is charged twice, and sums agree.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use cocoon_ledger::{
    AdjustedTokens, ApplyError, Change, ClientId, CloseError, Ledger, MarkError, Nanoton, PricePerToken,
    Rates, Record, RequestId, ReserveError, SettleError, WorkerId,
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

#[test]
fn a_closed_client_is_never_charged_again() {
    let mut ledger = funded(1000);
    ledger.reserve(request(1), CLIENT, tokens(100), rates()).unwrap();
    assert_eq!(ledger.close_client(CLIENT), Err(CloseError::Busy { reservations: 1 }));
    ledger.settle(request(1), WORKER, tokens(40)).unwrap();
    assert_eq!(ledger.close_client(CLIENT), Ok(3));
    assert_eq!(ledger.close_client(CLIENT), Ok(3), "closing again changes nothing");
    assert!(ledger.is_closed(&CLIENT) && !ledger.closed_durably(&CLIENT));
    ledger.set_client_funds(CLIENT, Nanoton(5000)).unwrap();
    let refused = ledger.reserve(request(2), CLIENT, tokens(1), rates());
    assert_eq!(refused, Err(ReserveError::ClientClosed(CLIENT)));
    let records = ledger.take_records();
    assert_eq!(records.len(), 4);
    ledger.mark_durable(2).unwrap();
    assert!(!ledger.closed_durably(&CLIENT), "a crash now would open it again");
    ledger.mark_durable(3).unwrap();
    assert!(ledger.closed_durably(&CLIENT));
    assert_eq!(ledger.chargeable(&CLIENT), tokens(40));
    for restored in [Ledger::restore(&ledger.snapshot()).unwrap(), replay(&records)] {
        assert!(restored.closed_durably(&CLIENT), "a restart keeps it closed");
        assert_eq!(restored.chargeable(&CLIENT), tokens(40));
        assert_eq!(restored.snapshot(), ledger.snapshot());
    }
}

#[test]
fn a_closed_worker_earns_nothing_more() {
    let mut ledger = funded(1000);
    for number in 1..=2 {
        ledger.reserve(request(number), CLIENT, tokens(50), rates()).unwrap();
    }
    ledger.settle(request(1), WORKER, tokens(10)).unwrap();
    assert_eq!(ledger.close_worker(WORKER), Ok(3));
    assert_eq!(ledger.close_worker(WORKER), Ok(3));
    let late = ledger.settle(request(2), WORKER, tokens(10));
    assert_eq!(late, Err(SettleError::WorkerClosed(WORKER)));
    assert_eq!(ledger.reservations(), 1, "another worker may still earn it");
    ledger.settle(request(2), WorkerId([8; 32]), tokens(10)).unwrap();
    let records = ledger.take_records();
    assert!(!ledger.worker_closed_durably(&WORKER));
    ledger.mark_durable(3).unwrap();
    assert!(ledger.is_worker_closed(&WORKER) && ledger.worker_closed_durably(&WORKER));
    assert_eq!(ledger.payable(&WORKER), tokens(10));
    assert_eq!(replay(&records).snapshot(), ledger.snapshot());
    assert!(Ledger::restore(&ledger.snapshot()).unwrap().worker_closed_durably(&WORKER));
}

#[test]
fn who_was_never_seen_can_be_closed_too() {
    let mut ledger = Ledger::new();
    assert_eq!(ledger.close_client(CLIENT), Ok(1));
    assert_eq!(ledger.close_worker(WORKER), Ok(2));
    assert_eq!(replay(&ledger.take_records()).snapshot(), ledger.snapshot());
}

#[test]
fn a_log_that_goes_on_after_an_account_was_closed_is_refused() {
    let mut ledger = funded(1000);
    ledger.reserve(request(1), CLIENT, tokens(50), rates()).unwrap();
    ledger.settle(request(1), WORKER, tokens(10)).unwrap();
    let records = ledger.take_records();
    let again = records[1].change;
    for close in [
        Change::CloseClient { client: CLIENT, client_total: tokens(10) },
        Change::CloseWorker { worker: WORKER, worker_total: tokens(10) },
    ] {
        let mut copy = replay(&records);
        copy.apply(&Record { position: 3, change: close }).unwrap();
        for change in [close, again] {
            let refused = copy.apply(&Record { position: 4, change });
            assert_eq!(refused, Err(ApplyError::Closed { position: 4 }), "{change:?}");
        }
    }
    let wrong = Change::CloseClient { client: CLIENT, client_total: tokens(11) };
    let refused = replay(&records).apply(&Record { position: 3, change: wrong });
    assert_eq!(refused, Err(ApplyError::TotalsDiffer { position: 3 }));
}

fn replay(records: &[Record]) -> Ledger {
    let mut ledger = Ledger::new();
    for record in records {
        ledger.apply(&Record::decode(&record.encode()).unwrap()).unwrap();
    }
    ledger.check_invariants().unwrap();
    ledger
}

#[derive(Debug, Clone)]
enum Step {
    Funds(u8, u64),
    CloseClient(u8),
    CloseWorker(u8),
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
        1 => (0..5_u8).prop_map(Step::CloseClient),
        1 => (0..4_u8).prop_map(Step::CloseWorker),
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
    reserved: BTreeMap<u8, (u8, u64)>,
    /// Final counts of the accounts that were closed.
    closed_clients: BTreeMap<ClientId, u64>,
    closed_workers: BTreeMap<WorkerId, u64>,
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
                let account = ClientId([client; 32]);
                if self.ledger.reserve(request(number), account, tokens(amount), rates[rate]).is_ok() {
                    assert!(!self.closed_clients.contains_key(&account), "{client} is closed");
                    assert!(
                        self.reserved.insert(number, (client, amount)).is_none(),
                        "request {number} was reserved twice"
                    );
                }
            }
            Step::Settle(number, worker, claimed) => {
                let worker = WorkerId([worker; 32]);
                let settled = self.ledger.settle(request(number), worker, tokens(claimed));
                if settled == Err(SettleError::WorkerClosed(worker)) {
                    assert!(self.closed_workers.contains_key(&worker) && self.reserved.contains_key(&number));
                    return;
                }
                let reserved = self.reserved.remove(&number);
                assert_eq!(settled.is_ok(), reserved.is_some(), "request {number}: {settled:?}");
                if let (Ok(settlement), Some((_, reserved))) = (settled, reserved) {
                    assert!(settlement.charged.0 <= reserved.min(claimed), "{settlement:?} of {reserved}");
                    assert_eq!(settlement.charged.0 + settlement.overrun.0, claimed);
                }
            }
            Step::Release(number) => {
                assert_eq!(self.ledger.release(request(number)), self.reserved.remove(&number).is_some());
            }
            Step::CloseClient(client) => {
                let open = self.reserved.values().filter(|(owner, _)| *owner == client).count() as u64;
                let client = ClientId([client; 32]);
                match self.ledger.close_client(client) {
                    Ok(position) => {
                        assert!(open == 0 && position <= self.ledger.position());
                        let charged = self.ledger.client(&client).unwrap().charged.0;
                        assert_eq!(*self.closed_clients.entry(client).or_insert(charged), charged);
                    }
                    Err(error) => assert_eq!(error, CloseError::Busy { reservations: open }),
                }
            }
            Step::CloseWorker(worker) => {
                let worker = WorkerId([worker; 32]);
                self.ledger.close_worker(worker).unwrap();
                let earned = self.ledger.worker(&worker).unwrap().earned.0;
                assert_eq!(*self.closed_workers.entry(worker).or_insert(earned), earned);
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

    fn check_closed(&self) {
        for (client, total) in &self.closed_clients {
            assert_eq!(self.ledger.client(client).unwrap().charged.0, *total, "charged after its end");
            assert!(!self.ledger.closed_durably(client) || self.ledger.chargeable(client).0 == *total);
        }
        for (worker, total) in &self.closed_workers {
            assert_eq!(self.ledger.worker(worker).unwrap().earned.0, *total, "earned after its end");
            assert!(!self.ledger.worker_closed_durably(worker) || self.ledger.payable(worker).0 == *total);
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
            history.check_closed();
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
            prop_assert!(history.closed_clients.keys().all(|client| replayed.closed_durably(client)));
            prop_assert!(history.closed_workers.keys().all(|worker| replayed.worker_closed_durably(worker)));
            replayed.check_invariants().unwrap();
        }
    }
}
