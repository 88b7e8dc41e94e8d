//! Which keys are under way, and which answers are kept.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, hash_map};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::{IdempotencyLimits, Recorded};

/// Bytes that a kept answer counts beside itself: its places in the table.
const OVERHEAD_BYTES: usize = 1024;

/// A caller, hashed.
pub(super) type Caller = [u8; 32];
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
    caller: Caller,
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

/// What one caller has.
#[derive(Debug, Default)]
struct Share {
    entries: usize,
    bytes: usize,
    /// Numbers of the answers that are kept, so the oldest first.
    kept: BTreeSet<u64>,
}

/// See the [module](super).
#[derive(Debug)]
pub(crate) struct Table {
    limits: IdempotencyLimits,
    /// By number, so the oldest first.
    entries: BTreeMap<u64, Entry>,
    serials: HashMap<Key, u64>,
    shares: HashMap<Caller, Share>,
    next: u64,
    bytes: usize,
}

impl Table {
    pub(super) fn new(limits: IdempotencyLimits) -> Self {
        let (entries, serials, shares) = Default::default();
        Self { limits, entries, serials, shares, next: 0, bytes: 0 }
    }

    pub(super) const fn is_off(&self) -> bool {
        self.limits.entries == 0
    }

    pub(super) fn enter(&mut self, caller: Caller, key: Key, request: [u8; 32], now: Instant) -> Met {
        self.forget_old(now);
        if let Some(entry) = self.serials.get(&key).and_then(|serial| self.entries.get(serial)) {
            return match &entry.state {
                _ if entry.request != request => Met::Another,
                State::Running { ended } => Met::Running(ended.subscribe()),
                State::Done(recorded) => Met::Done(Arc::clone(recorded)),
            };
        }
        while self.entries.len() >= self.limits.entries {
            if !self.make_room(&caller, |share| share.entries) {
                return Met::Full;
            }
        }
        let state = State::Running { ended: watch::Sender::new(()) };
        Met::Nothing(self.insert(Entry { caller, key, request, since: now, bytes: 0, state }))
    }

    /// Counts bytes of a running request's answer, for which kept answers make room. `false`: there is none.
    pub(super) fn hold(&mut self, serial: u64, bytes: usize) -> bool {
        let Some(entry) = self.entries.get_mut(&serial) else { return false };
        if entry.bytes + bytes > self.limits.answer_bytes {
            return false;
        }
        entry.bytes += bytes;
        self.bytes += bytes;
        let caller = entry.caller;
        if let Some(share) = self.shares.get_mut(&caller) {
            share.bytes += bytes;
        }
        self.keep_within(&caller)
    }

    /// A running request ended, with an answer to keep or without.
    pub(super) fn finish(&mut self, serial: u64, recorded: Option<Recorded>, now: Instant) {
        let Some(entry) = self.remove(serial) else { return };
        let Some(recorded) = recorded else { return };
        let (caller, bytes) = (entry.caller, recorded.bytes() + OVERHEAD_BYTES);
        // Under a new number: kept answers are in the order in which they came to be kept.
        self.insert(Entry { since: now, bytes, state: State::Done(Arc::new(recorded)), ..entry });
        self.keep_within(&caller);
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
        for serial in gone {
            self.remove(serial);
        }
    }

    /// Makes room until all answers are within their limit, for something of this caller's; `false` where they are not.
    fn keep_within(&mut self, caller: &Caller) -> bool {
        while self.bytes > self.limits.bytes {
            if !self.make_room(caller, |share| share.bytes) {
                return false;
            }
        }
        true
    }

    /// Whoever has most makes room, by his oldest answer: so nobody's requests push out those of others who have less.
    /// `false` where that is the one who asks, and nothing of his is kept; or nothing is kept at all.
    fn make_room(&mut self, asking: &Caller, amount: impl Fn(&Share) -> usize) -> bool {
        let own = self.shares.get(asking).map_or(0, &amount);
        let kept = self.shares.values().filter_map(|share| Some((amount(share), *share.kept.first()?)));
        let Some((most, oldest)) = kept.max_by_key(|&(amount, oldest)| (amount, Reverse(oldest))) else {
            return false;
        };
        own <= most && self.remove(oldest).is_some()
    }

    fn insert(&mut self, entry: Entry) -> u64 {
        let serial = self.next;
        self.next += 1;
        self.bytes += entry.bytes;
        self.serials.insert(entry.key, serial);
        let share = self.shares.entry(entry.caller).or_default();
        share.entries += 1;
        share.bytes += entry.bytes;
        if matches!(entry.state, State::Done(_)) {
            share.kept.insert(serial);
        }
        self.entries.insert(serial, entry);
        serial
    }

    fn remove(&mut self, serial: u64) -> Option<Entry> {
        let entry = self.entries.remove(&serial)?;
        self.bytes -= entry.bytes;
        self.serials.remove(&entry.key);
        if let hash_map::Entry::Occupied(mut share) = self.shares.entry(entry.caller) {
            let Share { entries, bytes, kept } = share.get_mut();
            *entries -= 1;
            *bytes -= entry.bytes;
            kept.remove(&serial);
            if *entries == 0 {
                share.remove();
            }
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};
    use proptest::prelude::*;

    use super::*;

    const ME: Caller = [0; 32];

    fn limits(entries: usize, bytes: usize) -> IdempotencyLimits {
        IdempotencyLimits { entries, bytes, answer_bytes: 10_000, time: Duration::from_secs(60) }
    }

    fn answer(bytes: usize) -> Recorded {
        Recorded { status: StatusCode::OK, headers: HeaderMap::new(), body: vec![1; bytes].into() }
    }

    fn begin(table: &mut Table, key: u8, now: Instant) -> u64 {
        match table.enter(ME, [key; 32], [key; 32], now) {
            Met::Nothing(serial) => serial,
            met => panic!("{met:?}"),
        }
    }

    #[test]
    fn the_second_request_waits_then_gets_the_same_answer_and_another_request_none() {
        let now = Instant::now();
        let mut table = Table::new(limits(10, 100_000));
        let serial = begin(&mut table, 1, now);
        let Met::Running(waiting) = table.enter(ME, [1; 32], [1; 32], now) else { panic!("it runs") };
        assert!(matches!(table.enter(ME, [1; 32], [2; 32], now), Met::Another));
        assert!(waiting.has_changed().is_ok());
        assert!(table.hold(serial, 3));
        table.finish(serial, Some(answer(3)), now);
        assert!(waiting.has_changed().is_err(), "those that wait are told");
        let Met::Done(kept) = table.enter(ME, [1; 32], [1; 32], now) else { panic!("it is kept") };
        assert_eq!(kept.body, Bytes::from_static(&[1; 3]));
        assert!(matches!(table.enter(ME, [1; 32], [2; 32], now), Met::Another));
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
        assert!(matches!(table.enter(ME, [3; 32], [3; 32], now), Met::Done(_)));
        begin(&mut table, 1, now);
        assert!(matches!(table.enter(ME, [9; 32], [9; 32], now), Met::Nothing(_)));
        assert!(matches!(table.enter(ME, [8; 32], [8; 32], now), Met::Full), "what runs is not forgotten");
        let mut table = Table::new(limits(10, 100_000));
        let serial = begin(&mut table, 1, now);
        table.finish(serial, Some(answer(1)), now);
        assert!(matches!(table.enter(ME, [1; 32], [1; 32], now + Duration::from_secs(59)), Met::Done(_)));
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

    /// Keeps an answer of so many bytes.
    fn keep(table: &mut Table, caller: u8, key: u8, bytes: usize) {
        let now = Instant::now();
        match table.enter([caller; 32], [key; 32], [key; 32], now) {
            Met::Nothing(serial) if table.hold(serial, bytes) => {
                table.finish(serial, Some(answer(bytes)), now);
            }
            met => panic!("{met:?}"),
        }
    }

    #[test]
    fn whoever_has_most_makes_room_by_his_oldest_and_others_keep_theirs() {
        for limits in [limits(4, 1 << 20), limits(100, 4 * (OVERHEAD_BYTES + 100))] {
            let mut table = Table::new(limits);
            keep(&mut table, 1, 1, 100);
            for key in 10..30 {
                keep(&mut table, 2, key, 100);
            }
            keep(&mut table, 3, 3, 100);
            let kept: Vec<_> = table.entries.values().map(|entry| entry.key[0]).collect();
            assert_eq!(kept, [1, 28, 29, 3]);
        }
    }

    #[test]
    fn headers_count() {
        let mut table = Table::new(limits(10, 50_000));
        let serial = begin(&mut table, 1, Instant::now());
        let mut recorded = answer(10);
        recorded.headers.insert("x", http::HeaderValue::from_bytes(&[b'x'; 40_000]).unwrap());
        table.finish(serial, Some(recorded), Instant::now());
        assert!((40_000..50_000).contains(&table.bytes), "{}", table.bytes);
        keep(&mut table, 0, 2, 9_000);
        assert_eq!(table.entries.len(), 1, "the first made room");
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
                        let caller = [key % 3; 32];
                        if let Met::Nothing(serial) = table.enter(caller, [key; 32], [key; 32], now) {
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
                prop_assert!(table.bytes <= 20_000, "{}", table.bytes);
                let of = |count: fn(&Share) -> usize| table.shares.values().map(count).sum::<usize>();
                prop_assert_eq!((of(|share| share.bytes), of(|share| share.entries)), (table.bytes, table.entries.len()));
                let done = |entry: &&Entry| matches!(entry.state, State::Done(_));
                prop_assert_eq!(of(|share| share.kept.len()), table.entries.values().filter(done).count());
            }
        }
    }
}
