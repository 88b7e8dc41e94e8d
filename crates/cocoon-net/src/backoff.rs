//! How long to wait before trying again.

use std::time::Duration;

use rand::Rng;

/// Exponential back-off with full jitter: each wait is drawn evenly between nothing and a ceiling that doubles
/// with every failure. The jitter keeps peers that lost the same server from coming back all at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// The first ceiling is `base`, the last is `max`.
    #[must_use]
    pub fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, failures: 0 }
    }

    /// The wait after one more failure.
    pub fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let doubled = self.base.saturating_mul(2_u32.saturating_pow(self.failures));
        let ceiling = doubled.min(self.max);
        self.failures = self.failures.saturating_add(1);
        rng.random_range(Duration::ZERO..=ceiling)
    }

    /// Something worked: the next wait is short again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    const BASE: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(10);

    /// The longest of many first waits, second waits and so on.
    fn longest_waits(steps: usize) -> Vec<Duration> {
        let mut rng = StdRng::seed_from_u64(7);
        let mut longest = vec![Duration::ZERO; steps];
        for _ in 0..500 {
            let mut backoff = Backoff::new(BASE, MAX);
            for wait in &mut longest {
                *wait = backoff.next(&mut rng).max(*wait);
            }
        }
        longest
    }

    #[test]
    fn waits_double_up_to_the_maximum_and_use_the_whole_range() {
        for (step, longest) in longest_waits(12).into_iter().enumerate() {
            let ceiling = (BASE * 2_u32.pow(u32::try_from(step).unwrap())).min(MAX);
            assert!(longest <= ceiling, "step {step}: {longest:?} is over {ceiling:?}");
            assert!(longest > ceiling * 9 / 10, "step {step}: {longest:?} is far under {ceiling:?}");
        }
    }

    #[test]
    fn any_number_of_failures_stays_within_the_maximum() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut backoff = Backoff::new(BASE, MAX);
        assert!((0..10_000).all(|_| backoff.next(&mut rng) <= MAX));
    }

    #[test]
    fn after_a_reset_the_wait_is_short_again() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut backoff = Backoff::new(BASE, MAX);
        for _ in 0..20 {
            backoff.next(&mut rng);
        }
        backoff.reset();
        assert!(backoff.next(&mut rng) <= BASE);
    }
}
