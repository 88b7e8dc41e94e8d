//! Which keys are under way, and which answers are kept.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::{IdempotencyLimits, Recorded};

/// Bytes that a kept answer counts beside its body: headers, and its place in the table.
const OVERHEAD_BYTES: usize = 1024;

/// A caller and its key, hashed.
pub(super) type Key = [u8; 32];

/// What is known of a key.
#[derive(Debug)]
enum State {
    /// Dropped when the request ends, which those that wait for it see.
    Running {
        ended: watch::Sender<()>,
    },
    Done(Arc<Recorded>),
}

#[derive(Debug)]
struct Entry {
    key: Key,
    /// Of endpoint and body.
    request: [u8; 32],
    since: Instant,
    bytes: usize,
    state: State,
}

/// What a request with a key meets.
#[derive(Debug)]
pub(super) enum Met {
    /// It is the first: to be run under this number.
    Nothing(u64),
    /// The same request is under way; the receiver fails once it has ended.
    Running(watch::Receiver<()>),
    Done(Arc<Recorded>),
    /// The key belongs to another request.
    Another,
    /// All places are taken by requests under way.
    Full,
}

/// See the [module](super).
#[derive(Debug)]
pub(crate) struct Table {
    limits: IdempotencyLimits,
    /// By number, so the oldest first.
    entries: BTreeMap<u64, Entry>,
    serials: HashMap<Key, u64>,
    next: u64,
    bytes: usize,
}

impl Table {
    pub(super) fn new(limits: IdempotencyLimits) -> Self {
        Self { limits, entries: BTreeMap::new(), serials: HashMap::new(), next: 0, bytes: 0 }
    }

    pub(super) const fn is_off(&self) -> bool {
        self.limits.entries == 0
    }

    pub(super) fn enter(&mut self, key: Key, request: [u8; 32], now: Instant) -> Met {
        self.forget_old(now);
        if let Some(entry) = self.serials.get(&key).and_then(|serial| self.entries.get(serial)) {
            return match &entry.state {
                _ if entry.request != request => Met::Another,
                State::Running { ended } => Met::Running(ended.subscribe()),
                State::Done(recorded) => Met::Done(Arc::clone(recorded)),
            };
        }
        while self.entries.len() >= self.limits.entries {
            if !self.drop_oldest() {
                return Met::Full;
            }
        }
        let serial = self.next;
        self.next += 1;
        let state = State::Running { ended: watch::Sender::new(()) };
        self.entries.insert(serial, Entry { key, request, since: now, bytes: 0, state });
        self.serials.insert(key, serial);
        Met::Nothing(serial)
    }

    /// Counts bytes of a running request's answer, for which older answers make room. `false`: there is none.
    pub(super) fn hold(&mut self, serial: u64, bytes: usize) -> bool {
        let limit = self.limits.answer_bytes;
        let Some(entry) = self.entries.get_mut(&serial) else { return false };
        if entry.bytes + bytes > limit {
            return false;
        }
        entry.bytes += bytes;
        self.bytes += bytes;
        while self.bytes > self.limits.bytes {
            if !self.drop_oldest() {
                return false;
            }
        }
        true
    }

    /// A running request ended, with an answer to keep or without.
    pub(super) fn finish(&mut self, serial: u64, recorded: Option<Recorded>, now: Instant) {
        match recorded {
            Some(recorded) if self.hold(serial, 0) => {
                let Some(entry) = self.entries.get_mut(&serial) else { return };
                self.bytes -= entry.bytes;
                entry.bytes = recorded.body.len() + OVERHEAD_BYTES;
                self.bytes += entry.bytes;
                entry.since = now;
                entry.state = State::Done(Arc::new(recorded));
                // Kept answers are in the order in which they came to be kept.
                if let Some(entry) = self.entries.remove(&serial) {
                    self.serials.insert(entry.key, self.next);
                    self.entries.insert(self.next, entry);
                    self.next += 1;
                }
                while self.bytes > self.limits.bytes && self.drop_oldest() {}
            }
            _ => self.remove(serial),
        }
    }

    fn forget_old(&mut self, now: Instant) {
        let old = |entry: &Entry| now.saturating_duration_since(entry.since) >= self.limits.time;
        // Kept ones are in order; those under way come to their own end.
        let gone: Vec<u64> = self
            .entries
            .iter()
            .filter(|(_, entry)| matches!(entry.state, State::Done(_)))
            .take_while(|(_, entry)| old(entry))
            .map(|(&serial, _)| serial)
            .collect();
        gone.into_iter().for_each(|serial| self.remove(serial));
    }

    /// Forgets the oldest answer that is kept; `false` where none is.
    fn drop_oldest(&mut self) -> bool {
        let oldest = self.entries.iter().find(|(_, entry)| matches!(entry.state, State::Done(_)));
        let Some((&serial, _)) = oldest else { return false };
        self.remove(serial);
        true
    }

    fn remove(&mut self, serial: u64) {
        if let Some(entry) = self.entries.remove(&serial) {
            self.bytes -= entry.bytes;
            self.serials.remove(&entry.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};
    use proptest::prelude::*;

    use super::*;

    fn limits(entries: usize, bytes: usize) -> IdempotencyLimits {
        IdempotencyLimits { entries, bytes, answer_bytes: 10_000, time: Duration::from_secs(60) }
    }

    fn answer(bytes: usize) -> Recorded {
        Recorded { status: StatusCode::OK, headers: HeaderMap::new(), body: vec![1; bytes].into() }
    }

    fn begin(table: &mut Table, key: u8, now: Instant) -> u64 {
        match table.enter([key; 32], [key; 32], now) {
            Met::Nothing(serial) => serial,
            met => panic!("{met:?}"),
        }
    }

    #[test]
    fn the_second_request_waits_then_gets_the_same_answer_and_another_request_none() {
        let now = Instant::now();
        let mut table = Table::new(limits(10, 100_000));
        let serial = begin(&mut table, 1, now);
        let Met::Running(waiting) = table.enter([1; 32], [1; 32], now) else { panic!("it runs") };
        assert!(matches!(table.enter([1; 32], [2; 32], now), Met::Another));
        assert!(waiting.has_changed().is_ok());
        assert!(table.hold(serial, 3));
        table.finish(serial, Some(answer(3)), now);
        assert!(waiting.has_changed().is_err(), "those that wait are told");
        let Met::Done(kept) = table.enter([1; 32], [1; 32], now) else { panic!("it is kept") };
        assert_eq!(kept.body, Bytes::from_static(&[1; 3]));
        assert!(matches!(table.enter([1; 32], [2; 32], now), Met::Another));
    }

    #[test]
    fn what_failed_leaves_its_key_free() {
        let now = Instant::now();
        let mut table = Table::new(limits(10, 100_000));
        let serial = begin(&mut table, 1, now);
        assert!(table.hold(serial, 100));
        table.finish(serial, None, now);
        assert_eq!(table.bytes, 0);
        begin(&mut table, 1, now);
    }

    #[test]
    fn old_answers_go_by_time_and_the_oldest_make_room() {
        let now = Instant::now();
        let mut table = Table::new(limits(2, 100_000));
        for key in 1..=3 {
            let serial = begin(&mut table, key, now);
            table.finish(serial, Some(answer(1)), now);
        }
        assert!(matches!(table.enter([3; 32], [3; 32], now), Met::Done(_)));
        begin(&mut table, 1, now);
        assert!(matches!(table.enter([9; 32], [9; 32], now), Met::Nothing(_)));
        assert!(matches!(table.enter([8; 32], [8; 32], now), Met::Full), "what runs is not forgotten");
        let mut table = Table::new(limits(10, 100_000));
        let serial = begin(&mut table, 1, now);
        table.finish(serial, Some(answer(1)), now);
        assert!(matches!(table.enter([1; 32], [1; 32], now + Duration::from_secs(59)), Met::Done(_)));
        begin(&mut table, 1, now + Duration::from_secs(60));
    }

    #[test]
    fn an_answer_over_the_limit_is_not_kept() {
        let now = Instant::now();
        let mut table = Table::new(limits(10, 100_000));
        let serial = begin(&mut table, 1, now);
        assert!(table.hold(serial, 10_000));
        assert!(!table.hold(serial, 1));
    }

    proptest! {
        #[test]
        fn bytes_and_entries_stay_within_their_limits_and_add_up(
            steps in prop::collection::vec((0_u8..8, 0_u8..4, 0_usize..6000), 0..200),
        ) {
            let now = Instant::now();
            let mut table = Table::new(limits(4, 20_000));
            let mut running = Vec::new();
            for (key, what, bytes) in steps {
                match what {
                    0 | 1 => {
                        if let Met::Nothing(serial) = table.enter([key; 32], [key; 32], now) {
                            running.push((serial, 0));
                        }
                    }
                    2 => {
                        if let Some((serial, held)) = running.last_mut() {
                            match table.hold(*serial, bytes) {
                                true => *held += bytes,
                                false => {
                                    table.finish(*serial, None, now);
                                    running.pop();
                                }
                            }
                        }
                    }
                    _ => {
                        if let Some((serial, held)) = running.pop() {
                            table.finish(serial, Some(answer(held)), now);
                        }
                    }
                }
                prop_assert!(table.entries.len() <= 4 && table.entries.len() == table.serials.len());
                prop_assert_eq!(table.bytes, table.entries.values().map(|entry| entry.bytes).sum::<usize>());
                prop_assert!(table.bytes <= 20_000 + OVERHEAD_BYTES, "{}", table.bytes);
            }
        }
    }
}
