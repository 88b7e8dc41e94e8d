//! A bucket of second attempts: each request puts a fraction of one in, each second attempt takes one out.

use std::time::{Duration, Instant};

/// Parts of one attempt in which the bucket counts.
const PARTS: u64 = 1000;
/// Seconds of the floor that the bucket holds; it is full at the start.
const FLOOR_SECONDS: u64 = 5;
/// The most that requests may have saved up beside that, in attempts.
const MAX_SAVED: u64 = 1000;

/// How many second attempts there may be.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    percent: u64,
    floor_per_second: u64,
    /// From requests, in parts.
    saved: u64,
    /// From time, in parts.
    floor: u64,
    filled: Instant,
}

impl RetryBudget {
    /// `percent` of all requests, and `floor_per_second` however few there are.
    pub(crate) fn new(percent: u32, floor_per_second: u32, now: Instant) -> Self {
        let floor_per_second = u64::from(floor_per_second);
        let floor = floor_per_second * FLOOR_SECONDS * PARTS;
        Self { percent: u64::from(percent), floor_per_second, saved: 0, floor, filled: now }
    }

    /// A request came.
    pub(crate) fn request(&mut self) {
        self.saved = (self.saved + self.percent * PARTS / 100).min(MAX_SAVED * PARTS);
    }

    /// Whether a second attempt may be made now; then it is counted.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.take_above([0, 0], now)
    }

    /// As [`Self::take`], for an attempt before anything has failed: half of what the bucket can hold is left for those that
    /// are needed, however many callers want this.
    pub(crate) fn take_spare(&mut self, now: Instant) -> bool {
        self.take_above([self.most_floor() / 2, MAX_SAVED * PARTS / 2], now)
    }

    /// Takes from what comes with time, or else from what requests saved, as far as that is above so many parts.
    fn take_above(&mut self, [floor, saved]: [u64; 2], now: Instant) -> bool {
        self.fill(now);
        let pots = [(&mut self.floor, floor), (&mut self.saved, saved)];
        match pots.into_iter().find(|(pot, left)| **pot >= *left + PARTS) {
            Some((pot, _)) => {
                *pot -= PARTS;
                true
            }
            None => false,
        }
    }

    const fn most_floor(&self) -> u64 {
        self.floor_per_second * FLOOR_SECONDS * PARTS
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).min(Duration::from_secs(FLOOR_SECONDS));
        let new =
            u64::try_from(passed.as_millis()).unwrap_or(u64::MAX) * self.floor_per_second * PARTS / 1000;
        // Where nothing whole came together, the time goes on counting.
        if new > 0 {
            self.filled = now;
            self.floor = (self.floor + new).min(self.most_floor());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fifth_of_the_requests_may_be_sent_again_and_a_few_however_few_there_are() {
        let now = Instant::now();
        let mut budget = RetryBudget::new(20, 2, now);
        assert_eq!((0..20).filter(|_| budget.take(now)).count(), 10, "five seconds of the floor");
        for _ in 0..100 {
            budget.request();
        }
        assert_eq!((0..50).filter(|_| budget.take(now)).count(), 20);
        assert_eq!((0..50).filter(|_| budget.take(now + Duration::from_secs(1))).count(), 2);
        assert_eq!((0..50).filter(|_| budget.take(now + Duration::from_secs(1000))).count(), 10);
    }

    #[test]
    fn attempts_that_nobody_needs_leave_half_for_those_that_are_needed() {
        let now = Instant::now();
        let mut budget = RetryBudget::new(100, 10, now);
        let spare = (0..10 * MAX_SAVED).filter(|_| {
            budget.request();
            budget.take_spare(now)
        });
        assert_eq!(spare.count() as u64, 25 + 9 * MAX_SAVED + MAX_SAVED / 2);
        assert_eq!((0..MAX_SAVED).filter(|_| budget.take(now)).count() as u64, 25 + MAX_SAVED / 2);
        assert!(
            !budget.take_spare(now + Duration::from_secs(2)) && budget.take(now + Duration::from_secs(2))
        );
    }

    #[test]
    fn what_is_saved_up_has_a_limit() {
        let now = Instant::now();
        let mut budget = RetryBudget::new(100, 0, now);
        for _ in 0..10 * MAX_SAVED {
            budget.request();
        }
        assert_eq!((0..10 * MAX_SAVED).filter(|_| budget.take(now)).count() as u64, MAX_SAVED);
    }

    proptest! {
        #[test]
        fn there_are_never_more_second_attempts_than_the_share_and_the_floor(
            percent in 0_u32..200,
            floor in 0_u32..20,
            steps in prop::collection::vec((0_u64..3000, any::<bool>()), 0..400),
        ) {
            let mut now = Instant::now();
            let began = now;
            let mut budget = RetryBudget::new(percent, floor, now);
            let (mut requests, mut granted) = (0_u64, 0_u64);
            for (millis, ask) in steps {
                now += Duration::from_millis(millis);
                if ask {
                    granted += u64::from(budget.take(now));
                } else {
                    budget.request();
                    requests += 1;
                }
            }
            let seconds = u64::try_from((now - began).as_millis()).unwrap().div_ceil(1000);
            let most = requests * u64::from(percent) / 100 + u64::from(floor) * (FLOOR_SECONDS + seconds);
            prop_assert!(granted <= most, "{granted} of {most}");
        }
    }
}
