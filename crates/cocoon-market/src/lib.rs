//! Choosing a worker: the one rule by which a proxy sends a request to this worker and not to that one.
//!
//! Pure: what is known of the workers comes in, a choice comes out. The rule, in order:
//!
//! 1. Only workers that are **eligible**: allowed by the caller, enabled, answering, under their limit, not dearer than
//!    the caller's cap and not tried before for this request.
//! 2. A worker of whose recent requests more than [`DOUBTFUL`] failed is used only where no other is left, whatever its
//!    price; time heals that ([`Observed::time_passed`]), so that it gets a request to prove itself now and then.
//! 3. Then the **lowest price** (coefficient) wins. A full cheap worker is passed over, so that load spills to the
//!    next price.
//! 4. At equal price the lowest **expected wait** wins: (requests in flight + 1) times the observed time to the first
//!    byte, stretched by recent failures. A worker that was never tried counts as fast for its first request, so that
//!    newcomers get work, and as slow for more, so that one which never answers does not swallow them all.
//! 5. What is still equal goes to the worker with the fewest requests so far, so that idle equals take turns.

use std::time::Duration;

/// Weight of the newest observation in the running averages.
const NEWEST_WEIGHT: f64 = 0.2;
/// Share of failed requests over which a worker is used only where no other is left: three failures in a row reach it.
pub const DOUBTFUL: f64 = 0.4;
/// Time in which a failure rate halves by itself.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// What is assumed of a worker's time to the first byte while its first requests are under way.
const UNKNOWN_FIRST_BYTE_S: f64 = 1.0;
/// How much a failure rate of 1 stretches the expected wait.
const FAILURE_STRETCH: f64 = 9.0;

/// What a proxy observed of one worker; starts empty and is fed by the requests that the worker serves.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Observed {
    first_byte_s: Option<f64>,
    failure_rate: f64,
    requests: u64,
}

impl Observed {
    /// Notes that a request got its first byte after `wait`.
    pub fn first_byte(&mut self, wait: Duration) {
        let wait = wait.as_secs_f64();
        self.first_byte_s = Some(self.first_byte_s.map_or(wait, |old| old + NEWEST_WEIGHT * (wait - old)));
    }

    /// Notes that a request ended; `failed` only where the worker, not the caller, was the cause.
    pub fn ended(&mut self, failed: bool) {
        let newest = if failed { 1.0 } else { 0.0 };
        self.failure_rate += NEWEST_WEIGHT * (newest - self.failure_rate);
        self.requests = self.requests.saturating_add(1);
    }

    /// Notes that `time` went by: what failed long ago counts for less.
    pub fn time_passed(&mut self, time: Duration) {
        self.failure_rate *= 0.5_f64.powf(time.as_secs_f64() / HALF_LIFE.as_secs_f64());
    }

    /// Running average of the time to the first byte; `None` before the first observation.
    #[must_use]
    pub fn time_to_first_byte(&self) -> Option<Duration> {
        self.first_byte_s.and_then(|s| Duration::try_from_secs_f64(s).ok())
    }

    /// Running failure rate, 0 to 1.
    #[must_use]
    pub fn failure_rate(&self) -> f64 {
        self.failure_rate
    }

    /// Requests that ended on this worker.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    fn expected_wait(&self, in_flight: u32) -> f64 {
        let unknown = if in_flight == 0 { 0.0 } else { UNKNOWN_FIRST_BYTE_S };
        (f64::from(in_flight) + 1.0)
            * self.first_byte_s.unwrap_or(unknown)
            * (1.0 + FAILURE_STRETCH * self.failure_rate)
    }
}

/// One worker as the choice sees it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<K> {
    /// Who it is; handed back by [`choose`].
    pub key: K,
    /// Its price, in 1/1000 of the base price.
    pub coefficient: u32,
    /// Requests it is working on for this proxy.
    pub in_flight: u32,
    /// The most it takes from this proxy at a time.
    pub limit: u32,
    /// Enabled by its owner, and answering.
    pub ready: bool,
    /// This request already failed there.
    pub tried: bool,
    /// The caller lets it see its requests.
    pub allowed: bool,
    /// What was observed of it.
    pub observed: Observed,
}

/// Why there is no worker for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoWorker {
    /// No worker offers the model.
    #[error("no worker offers this model")]
    None,
    /// Workers offer it, but all are paused, silent, or already failed this request.
    #[error("no worker for this model is ready")]
    NotReady,
    /// Workers offer it, but the caller lets none of them see its requests.
    #[error("no worker for this model is one that the caller allows")]
    NotAllowed,
    /// Every worker within the price cap is at its limit.
    #[error("all workers for this model are busy")]
    Busy,
    /// Ready workers are all dearer than the cap; the cheapest asks this coefficient.
    #[error("the cheapest ready worker asks coefficient {cheapest}")]
    TooDear {
        /// Lowest coefficient on offer, in 1/1000.
        cheapest: u32,
    },
}

/// Chooses among `candidates` by the rule of this module.
///
/// # Errors
/// Says why nobody is left; [`NoWorker::Busy`] takes precedence over [`NoWorker::TooDear`], because waiting helps.
pub fn choose<K: Copy>(
    candidates: impl Iterator<Item = Candidate<K>>,
    max_coefficient: u32,
) -> Result<K, NoWorker> {
    let mut best: Option<(Candidate<K>, f64)> = None;
    let (mut any, mut barred, mut busy, mut cheapest_over_cap) = (false, false, false, None::<u32>);
    for candidate in candidates {
        if !candidate.allowed {
            barred = true;
            continue;
        }
        any = true;
        if !candidate.ready || candidate.tried {
            continue;
        }
        if candidate.coefficient > max_coefficient {
            let cheapest = cheapest_over_cap.unwrap_or(u32::MAX).min(candidate.coefficient);
            cheapest_over_cap = Some(cheapest);
            continue;
        }
        if candidate.in_flight >= candidate.limit {
            busy = true;
            continue;
        }
        let wait = candidate.observed.expected_wait(candidate.in_flight);
        let better = best.as_ref().is_none_or(|(held, held_wait)| {
            let doubtful = |candidate: &Candidate<K>| candidate.observed.failure_rate > DOUBTFUL;
            doubtful(&candidate)
                .cmp(&doubtful(held))
                .then(candidate.coefficient.cmp(&held.coefficient))
                .then(wait.total_cmp(held_wait))
                .then(candidate.in_flight.cmp(&held.in_flight))
                .then(candidate.observed.requests.cmp(&held.observed.requests))
                .is_lt()
        });
        if better {
            best = Some((candidate, wait));
        }
    }
    match (best, busy, cheapest_over_cap) {
        (Some((candidate, _)), _, _) => Ok(candidate.key),
        (None, true, _) => Err(NoWorker::Busy),
        (None, false, Some(cheapest)) => Err(NoWorker::TooDear { cheapest }),
        (None, false, None) if any => Err(NoWorker::NotReady),
        (None, false, None) if barred => Err(NoWorker::NotAllowed),
        (None, false, None) => Err(NoWorker::None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn worker(key: u32, coefficient: u32) -> Candidate<u32> {
        let observed = Observed::default();
        Candidate {
            key,
            coefficient,
            in_flight: 0,
            limit: 2,
            ready: true,
            tried: false,
            allowed: true,
            observed,
        }
    }

    #[test]
    fn the_cheapest_worker_wins_until_it_is_full() {
        let mut cheap = worker(1, 500);
        assert_eq!(choose([worker(2, 1000), cheap].into_iter(), 4000), Ok(1));
        cheap.in_flight = 2;
        assert_eq!(choose([worker(2, 1000), cheap].into_iter(), 4000), Ok(2));
    }

    #[test]
    fn a_worker_that_keeps_failing_comes_last_until_time_has_healed_that() {
        let (mut broken, dear) = (worker(1, 500), worker(2, 1000));
        for _ in 0..2 {
            broken.observed.ended(true);
        }
        assert_eq!(choose([broken, dear].into_iter(), 4000), Ok(1));
        broken.observed.ended(true);
        assert_eq!(choose([broken, dear].into_iter(), 4000), Ok(2));
        assert_eq!(choose([broken, dear].into_iter(), 999), Ok(1), "it is better than none");
        broken.observed.time_passed(HALF_LIFE);
        assert_eq!(choose([broken, dear].into_iter(), 4000), Ok(1));
    }

    #[test]
    fn a_newcomer_gets_one_request_and_no_more_until_it_has_answered() {
        let (mut known, mut newcomer) = (worker(1, 1000), worker(2, 1000));
        (known.limit, newcomer.limit) = (1000, 1000);
        known.observed.first_byte(Duration::from_millis(100));
        known.in_flight = 3;
        assert_eq!(choose([known, newcomer].into_iter(), 4000), Ok(2));
        newcomer.in_flight = 1;
        assert_eq!(choose([known, newcomer].into_iter(), 4000), Ok(1));
    }

    #[test]
    fn at_equal_price_the_one_with_the_shorter_expected_wait_wins() {
        let (mut slow, mut fast) = (worker(1, 1000), worker(2, 1000));
        slow.observed.first_byte(Duration::from_millis(300));
        fast.observed.first_byte(Duration::from_millis(100));
        assert_eq!(choose([slow, fast].into_iter(), 4000), Ok(2));
        fast.limit = 10;
        fast.in_flight = 5;
        assert_eq!(choose([slow, fast].into_iter(), 4000), Ok(1));
    }

    #[test]
    fn failures_cost_a_worker_its_place_among_equals() {
        let (mut failing, mut sound) = (worker(1, 1000), worker(2, 1000));
        for w in [&mut failing, &mut sound] {
            w.observed.first_byte(Duration::from_millis(100));
        }
        failing.observed.ended(true);
        sound.observed.ended(false);
        assert_eq!(choose([failing, sound].into_iter(), 4000), Ok(2));
    }

    #[test]
    fn each_reason_for_no_worker_is_told_apart() {
        let none: [Candidate<u32>; 0] = [];
        assert_eq!(choose(none.into_iter(), 4000), Err(NoWorker::None));
        let mut paused = worker(1, 1000);
        paused.ready = false;
        assert_eq!(choose([paused].into_iter(), 4000), Err(NoWorker::NotReady));
        let mut full = worker(1, 1000);
        full.in_flight = 2;
        assert_eq!(choose([full].into_iter(), 4000), Err(NoWorker::Busy));
        let dear = [worker(1, 3000), worker(2, 2000)];
        assert_eq!(choose(dear.into_iter(), 1000), Err(NoWorker::TooDear { cheapest: 2000 }));
        let mut barred = worker(1, 1000);
        barred.allowed = false;
        assert_eq!(choose([barred].into_iter(), 4000), Err(NoWorker::NotAllowed));
    }

    #[test]
    fn a_worker_that_the_caller_does_not_allow_counts_for_nothing() {
        let (mut barred, dear) = (worker(1, 500), worker(2, 1000));
        barred.allowed = false;
        assert_eq!(choose([barred, dear].into_iter(), 4000), Ok(2));
        assert_eq!(choose([barred, dear].into_iter(), 999), Err(NoWorker::TooDear { cheapest: 1000 }));
        let full = Candidate { in_flight: 2, ..dear };
        assert_eq!(choose([barred, full].into_iter(), 4000), Err(NoWorker::Busy));
        let tried = Candidate { tried: true, ..dear };
        assert_eq!(choose([barred, tried].into_iter(), 4000), Err(NoWorker::NotReady));
    }

    proptest! {
        #[test]
        fn a_choice_is_always_eligible_and_never_dearer_than_another_eligible_one(
            workers in prop::collection::vec((0u32..5, 0u32..4, any::<[bool; 3]>()), 0..12),
            cap in 0u32..5,
        ) {
            let all: Vec<_> = (0u32..).zip(&workers).map(|(key, &(coefficient, in_flight, [ready, tried, allowed]))| {
                Candidate { in_flight, ready, tried, allowed, ..worker(key, coefficient) }
            }).collect();
            let eligible = |c: &&Candidate<u32>| {
                c.allowed && c.ready && !c.tried && c.in_flight < c.limit && c.coefficient <= cap
            };
            let lowest = all.iter().filter(eligible).map(|c| c.coefficient).min();
            match choose(all.iter().copied(), cap) {
                Ok(key) => {
                    let chosen = all.iter().find(|c| c.key == key).unwrap();
                    prop_assert!(eligible(&chosen));
                    prop_assert_eq!(Some(chosen.coefficient), lowest);
                }
                Err(_) => prop_assert_eq!(lowest, None),
            }
        }
    }
}
