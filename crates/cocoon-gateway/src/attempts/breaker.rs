//! Which proxies are left alone for a while, because what was sent there failed.
//!
//! A breaker is closed (requests pass), open (they go elsewhere), or half-open: one request at a time is let through to see
//! whether things are well again. It says what should be avoided and no more: where nothing else is left, a proxy behind
//! an open breaker is asked all the same, so that the last way is never closed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Failures in a row that open a breaker.
const CONSECUTIVE: u32 = 5;
/// Share of recent requests that failed, in percent, at which a breaker opens,
const FAILED_PERCENT: f64 = 50.0;
/// once there were so many of them.
const MIN_RECENT: f64 = 20.0;
/// Time in which what happened comes to count for half.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// First and longest time that a breaker stays open.
const OPEN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// After this long without a word, a request that was let through to see tells nothing any more.
const PROBE_TIME: Duration = Duration::from_secs(10);
/// Breakers that are kept; what fails beyond that has none.
const MAX_BREAKERS: usize = 4096;

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Instant },
    HalfOpen { probed: Option<Instant> },
}

/// What is known of one way.
#[derive(Debug)]
struct Breaker {
    state: State,
    /// How long it is open next.
    wait: Duration,
    consecutive: u32,
    /// Recent requests and failures among them, as they fade.
    recent: f64,
    failed: f64,
    updated: Instant,
}

impl Breaker {
    fn new(now: Instant) -> Self {
        Self { state: State::Closed, wait: OPEN.0, consecutive: 0, recent: 0.0, failed: 0.0, updated: now }
    }

    fn fade(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.updated).as_secs_f64();
        let left = 0.5_f64.powf(passed / HALF_LIFE.as_secs_f64());
        self.recent *= left;
        self.failed *= left;
        self.updated = now;
    }

    /// Whether a request may go this way.
    fn allows(&self, now: Instant) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { until } => now >= until,
            State::HalfOpen { probed } => {
                probed.is_none_or(|since| now.saturating_duration_since(since) >= PROBE_TIME)
            }
        }
    }

    /// A request goes this way.
    fn begin(&mut self, now: Instant) {
        match self.state {
            State::Closed => {}
            // It was sent for want of another way, and shows nothing before its time.
            State::Open { until } if now < until => {}
            State::Open { .. } | State::HalfOpen { .. } => self.state = State::HalfOpen { probed: Some(now) },
        }
    }

    fn succeeded(&mut self, now: Instant) {
        self.fade(now);
        self.recent += 1.0;
        self.consecutive = 0;
        if self.state != State::Closed {
            *self = Self { recent: 1.0, ..Self::new(now) };
        }
    }

    /// `jitter` is 0 to 1: by it, nodes that lost the same peer do not come back all at once. Whether it opens now.
    fn failed(&mut self, now: Instant, jitter: f64) -> bool {
        self.fade(now);
        self.recent += 1.0;
        self.failed += 1.0;
        self.consecutive = self.consecutive.saturating_add(1);
        let rate = self.recent >= MIN_RECENT && self.failed * 100.0 >= FAILED_PERCENT * self.recent;
        let open = match self.state {
            State::Closed => self.consecutive >= CONSECUTIVE || rate,
            State::HalfOpen { .. } => true,
            // One that was under way when it opened, or that had no other way.
            State::Open { .. } => false,
        };
        if open {
            let share = 0.5 + 0.5 * jitter.clamp(0.0, 1.0);
            self.state = State::Open { until: now + self.wait.mul_f64(share) };
            self.wait = (self.wait * 2).min(OPEN.1);
        }
        open
    }

    /// Nothing can be learnt from what was let through.
    fn let_go(&mut self) {
        if let State::HalfOpen { probed } = &mut self.state {
            *probed = None;
        }
    }

    /// Whether it says no more than a new one.
    fn is_blank(&self, now: Instant) -> bool {
        self.state == State::Closed && now.saturating_duration_since(self.updated) > 6 * HALF_LIFE
    }
}

/// Which part of a way: the proxy itself, or its workers for one model.
type Key = (String, Option<String>);

/// The breakers of all ways on which something failed not long ago.
#[derive(Debug, Default)]
pub(crate) struct Breakers(HashMap<Key, Breaker>);

impl Breakers {
    /// Whether this proxy should be asked for this model.
    pub(crate) fn allow(&self, proxy: &str, model: &str, now: Instant) -> bool {
        // Mostly there are none.
        self.0.is_empty()
            || keys(proxy, model).iter().all(|key| self.0.get(key).is_none_or(|breaker| breaker.allows(now)))
    }

    /// It is asked.
    pub(crate) fn begin(&mut self, proxy: &str, model: &str, now: Instant) {
        self.each(proxy, model, |breaker| breaker.begin(now));
    }

    /// It answered.
    pub(crate) fn succeeded(&mut self, proxy: &str, model: &str, now: Instant) {
        self.each(proxy, model, |breaker| breaker.succeeded(now));
    }

    /// It was asked, and what came says neither that it works nor that it does not.
    pub(crate) fn let_go(&mut self, proxy: &str, model: &str) {
        self.each(proxy, model, Breaker::let_go);
    }

    /// The proxy itself failed. Whether its breaker opens.
    pub(crate) fn proxy_failed(&mut self, proxy: &str, model: &str, now: Instant, jitter: f64) -> bool {
        let [own, workers] = keys(proxy, model);
        if let Some(breaker) = self.0.get_mut(&workers) {
            breaker.let_go();
        }
        self.failed(own, now, jitter)
    }

    /// The proxy is well, but its workers for the model failed. Whether their breaker opens.
    pub(crate) fn workers_failed(&mut self, proxy: &str, model: &str, now: Instant, jitter: f64) -> bool {
        let [own, workers] = keys(proxy, model);
        if let Some(breaker) = self.0.get_mut(&own) {
            breaker.succeeded(now);
        }
        self.failed(workers, now, jitter)
    }

    /// How many are open or half-open.
    pub(crate) fn open(&self) -> usize {
        self.0.values().filter(|breaker| breaker.state != State::Closed).count()
    }

    fn failed(&mut self, key: Key, now: Instant, jitter: f64) -> bool {
        if self.0.len() >= MAX_BREAKERS && !self.0.contains_key(&key) {
            self.0.retain(|_, breaker| !breaker.is_blank(now));
            if self.0.len() >= MAX_BREAKERS {
                return false;
            }
        }
        self.0.entry(key).or_insert_with(|| Breaker::new(now)).failed(now, jitter)
    }

    fn each(&mut self, proxy: &str, model: &str, mut change: impl FnMut(&mut Breaker)) {
        if self.0.is_empty() {
            return;
        }
        for key in keys(proxy, model) {
            if let Some(breaker) = self.0.get_mut(&key) {
                change(breaker);
            }
        }
    }
}

fn keys(proxy: &str, model: &str) -> [Key; 2] {
    [(proxy.to_owned(), None), (proxy.to_owned(), Some(model.to_owned()))]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn five_failures_in_a_row_open_it_and_one_that_is_let_through_closes_it() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        for _ in 1..CONSECUTIVE {
            assert!(!breaker.failed(now, 1.0) && breaker.allows(now));
        }
        assert!(breaker.failed(now, 1.0), "it opens");
        assert!(!breaker.failed(now, 1.0), "it is open already");
        assert!(!breaker.allows(now) && !breaker.allows(now + SECOND / 2));
        let later = now + SECOND;
        assert!(breaker.allows(later));
        breaker.begin(later);
        assert!(!breaker.allows(later), "one at a time");
        breaker.succeeded(later);
        assert!(breaker.allows(later));
        assert_eq!(breaker.state, State::Closed);
    }

    #[test]
    fn one_that_fails_again_stays_open_for_longer_each_time_up_to_half_a_minute() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(now);
        (0..CONSECUTIVE).for_each(|_| _ = breaker.failed(now, 1.0));
        let mut waits = Vec::new();
        for _ in 0..8 {
            let State::Open { until } = breaker.state else { panic!("{breaker:?}") };
            waits.push((until - now).as_secs());
            now = until;
            breaker.begin(now);
            breaker.failed(now, 1.0);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn half_of_many_failing_opens_it_and_failures_of_long_ago_do_not() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        for _ in 0..9 {
            breaker.succeeded(now);
            breaker.failed(now, 0.5);
        }
        assert!(breaker.allows(now), "too few to tell");
        breaker.succeeded(now);
        breaker.failed(now, 0.5);
        assert!(!breaker.allows(now));
        let mut calm = Breaker::new(now);
        for step in 0..200_u32 {
            let at = now + step * SECOND * 30;
            calm.succeeded(at);
            calm.failed(at, 0.5);
            assert!(calm.allows(at), "{step}");
        }
    }

    #[test]
    fn a_request_let_through_that_never_ends_does_not_keep_it_shut() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        (0..CONSECUTIVE).for_each(|_| _ = breaker.failed(now, 1.0));
        breaker.begin(now + SECOND);
        assert!(!breaker.allows(now + 2 * SECOND));
        assert!(breaker.allows(now + SECOND + PROBE_TIME));
        breaker.let_go();
        assert!(breaker.allows(now + 2 * SECOND));
    }

    #[test]
    fn a_models_broken_workers_do_not_close_the_way_for_other_models() {
        let now = Instant::now();
        let mut breakers = Breakers::default();
        for _ in 0..CONSECUTIVE {
            breakers.workers_failed("a:1", "broken", now, 1.0);
        }
        assert!(!breakers.allow("a:1", "broken", now));
        assert!(breakers.allow("a:1", "well", now) && breakers.allow("b:1", "broken", now));
        assert_eq!(breakers.open(), 1);
        for _ in 0..CONSECUTIVE {
            breakers.proxy_failed("b:1", "well", now, 1.0);
        }
        assert!(!breakers.allow("b:1", "anything", now));
    }

    #[test]
    fn there_are_never_too_many_and_old_ones_make_room() {
        let now = Instant::now();
        let mut breakers = Breakers::default();
        for number in 0..2 * MAX_BREAKERS {
            breakers.workers_failed("a:1", &number.to_string(), now, 0.0);
        }
        assert_eq!(breakers.0.len(), MAX_BREAKERS);
        breakers.workers_failed("a:1", "new", now + 600 * SECOND, 0.0);
        assert_eq!(breakers.0.len(), 1);
    }

    proptest! {
        #[test]
        fn whatever_happened_a_minute_of_peace_and_one_answer_make_it_well(
            steps in prop::collection::vec((0_u64..5000, 0_u8..4, 0.0..1.0_f64), 0..200),
        ) {
            let mut now = Instant::now();
            let mut breaker = Breaker::new(now);
            for (millis, what, jitter) in steps {
                now += Duration::from_millis(millis);
                match what {
                    0 => breaker.begin(now),
                    1 => breaker.succeeded(now),
                    2 => _ = breaker.failed(now, jitter),
                    _ => breaker.let_go(),
                }
            }
            now += 60 * SECOND;
            prop_assert!(breaker.allows(now), "never shut for good");
            breaker.begin(now);
            breaker.succeeded(now);
            prop_assert_eq!(breaker.state, State::Closed);
        }
    }
}
