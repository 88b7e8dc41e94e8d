//! So many per minute: a bucket that is full at first, gives to each request, and fills up evenly.

use crate::Moment;

/// Parts into which one unit is divided, so that a limit per minute fills up exactly, microsecond by microsecond.
const PARTS: i128 = 60_000_000;

/// A bucket that holds one minute's worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    per_minute: u64,
    /// In parts; below zero where more was used than expected.
    level: i128,
    at: Moment,
}

/// How a limit stands, as answers tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateView {
    /// Units per minute.
    pub limit: u64,
    /// Units that can be taken now.
    pub remaining: u64,
    /// Until the bucket is full again, in microseconds.
    pub reset_micros: u64,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn new(per_minute: u64, now: Moment) -> Self {
        Self { per_minute, level: i128::from(per_minute) * PARTS, at: now }
    }

    /// The same use under another limit: what was taken stays taken.
    #[must_use]
    pub fn with_limit(mut self, per_minute: u64, now: Moment) -> Self {
        self.fill(now);
        let taken = self.full() - self.level;
        let full = i128::from(per_minute) * PARTS;
        Self { per_minute, level: full - taken, at: self.at }
    }

    /// Takes `units`, or all of a full bucket where they are more than it holds: a request that is larger than a minute's
    /// worth goes through when nothing else has been used, and is paid off afterwards ([`Bucket::correct`]).
    ///
    /// # Errors
    /// Too little is left; how many microseconds to wait.
    pub fn take(&mut self, units: u64, now: Moment) -> Result<(), u64> {
        self.fill(now);
        let wanted = i128::from(units.min(self.per_minute)) * PARTS;
        if self.level >= wanted {
            self.level -= wanted;
            return Ok(());
        }
        Err(self.micros_for(wanted - self.level))
    }

    /// Gives back what [`Bucket::take`] took for `expected` units, and takes what was used in truth.
    pub fn correct(&mut self, expected: u64, used: u64, now: Moment) {
        self.fill(now);
        let taken = i128::from(expected.min(self.per_minute));
        self.level = (self.level + (taken - i128::from(used)) * PARTS).min(self.full());
    }

    /// How it stands.
    #[must_use]
    pub fn view(&self, now: Moment) -> RateView {
        let mut filled = *self;
        filled.fill(now);
        RateView {
            limit: self.per_minute,
            remaining: u64::try_from(filled.level / PARTS).unwrap_or(0),
            reset_micros: filled.micros_for(filled.full() - filled.level),
        }
    }

    fn full(&self) -> i128 {
        i128::from(self.per_minute) * PARTS
    }

    fn fill(&mut self, now: Moment) {
        let passed = now.0.saturating_sub(self.at.0);
        self.level = (self.level + i128::from(passed) * i128::from(self.per_minute)).min(self.full());
        self.at = self.at.max(now);
    }

    /// How long it takes for so many parts to come, rounded up.
    fn micros_for(&self, parts: i128) -> u64 {
        let rate = i128::from(self.per_minute.max(1));
        u64::try_from((parts.max(0) + rate - 1) / rate).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn at(millis: u64) -> Moment {
        Moment(1_000_000_000_000 + millis * 1000)
    }

    #[test]
    fn a_minutes_worth_can_be_taken_at_once_and_comes_back_evenly() {
        let mut bucket = Bucket::new(60, at(0));
        assert_eq!(bucket.take(60, at(0)), Ok(()));
        assert_eq!(bucket.view(at(0)), RateView { limit: 60, remaining: 0, reset_micros: 60_000_000 });
        assert_eq!(bucket.take(1, at(0)), Err(1_000_000));
        assert_eq!(bucket.take(1, at(999)), Err(1000));
        assert_eq!(bucket.take(1, at(1000)), Ok(()));
        assert_eq!(bucket.take(1, at(1000)), Err(1_000_000));
        assert_eq!(bucket.view(at(61_000)).remaining, 60, "it holds no more than a minute's worth");
        assert_eq!(bucket.view(at(1_000_000)).reset_micros, 0);
    }

    #[test]
    fn what_was_expected_is_replaced_by_what_was_used() {
        let mut bucket = Bucket::new(1000, at(0));
        assert_eq!(bucket.take(800, at(0)), Ok(()));
        bucket.correct(800, 100, at(0));
        assert_eq!(bucket.view(at(0)).remaining, 900);
        // More than a minute's worth: all of the bucket is taken, and a debt stays.
        assert_eq!(bucket.take(5000, at(0)).unwrap_err(), 6_000_000);
        assert_eq!(bucket.take(5000, at(6000)), Ok(()));
        bucket.correct(5000, 3000, at(6000));
        assert_eq!(bucket.view(at(6000)).remaining, 0);
        assert_eq!(bucket.take(1, at(6000)), Err(120_060_000), "two minutes' debt and one token");
    }

    #[test]
    fn a_limit_that_changes_keeps_what_was_used() {
        let mut bucket = Bucket::new(100, at(0));
        assert_eq!(bucket.take(90, at(0)), Ok(()));
        assert_eq!(bucket.with_limit(1000, at(0)).view(at(0)).remaining, 910);
        assert_eq!(bucket.with_limit(50, at(0)).view(at(0)).remaining, 0);
        let mut none = Bucket::new(0, at(0));
        assert!(none.take(1, at(0)).is_ok(), "a limit of 0 is refused before it comes here");
    }

    proptest! {
        #[test]
        fn in_no_stretch_of_time_goes_more_than_the_limit_allows(
            limit in 1_u64..500,
            asks in prop::collection::vec((0_u64..20_000, 1_u64..50), 1..200),
        ) {
            let mut bucket = Bucket::new(limit, at(0));
            let (mut now, mut taken) = (0, Vec::new());
            for (pause, units) in asks {
                now += pause;
                let units = units.min(limit);
                match bucket.take(units, at(now)) {
                    Ok(()) => taken.push((now, units)),
                    Err(micros) => {
                        prop_assert!(micros > 0);
                        let mut later = bucket;
                        prop_assert!(later.take(units, Moment(at(now).0 + micros)).is_ok(), "the wait suffices");
                        let mut sooner = bucket;
                        prop_assert!(sooner.take(units, Moment(at(now).0 + micros - 1)).is_err(), "and is needed");
                    }
                }
            }
            for (from, (began, _)) in taken.iter().enumerate() {
                let mut sum = 0;
                for (ended, units) in &taken[from..] {
                    sum += units;
                    let allowed = limit * 60_000 + limit * (ended - began);
                    prop_assert!(sum * 60_000 <= allowed, "{sum} within {} ms at {limit}", ended - began);
                }
            }
        }

        #[test]
        fn corrections_add_up(limit in 1_u64..1000, requests in prop::collection::vec((0_u64..3000, 0_u64..3000), 1..20)) {
            let mut bucket = Bucket::new(limit, at(0));
            for (expected, used) in &requests {
                // Whatever stands in the bucket, what was taken comes back.
                let before = bucket;
                if bucket.take(*expected, at(0)).is_ok() {
                    bucket.correct(*expected, 0, at(0));
                    prop_assert_eq!(bucket, before);
                    bucket.correct(0, *used, at(0));
                    prop_assert!(bucket.view(at(0)).remaining <= limit);
                }
            }
        }
    }
}
