//! How fast requests may follow each other.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::failure::{Failure, Kind};

/// Longest pause that a server can impose on all requests.
const MAX_HOLD_OFF: Duration = Duration::from_secs(60);

/// Gives out turns, first come, first served, at most one per interval.
///
/// Without bursts: servers count within fixed seconds, and two bursts can meet in one.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    /// The first moment that is still free.
    next: Mutex<Instant>,
}

impl Pace {
    /// `per_second` turns per second; infinity means no limit.
    pub(super) fn new(per_second: f64) -> Self {
        // Anything slower than one request per hour, and what is no number, is as slow as that.
        let interval = Duration::try_from_secs_f64(1.0 / per_second).unwrap_or(Duration::MAX);
        Self { interval: interval.min(Duration::from_secs(3600)), next: Mutex::new(Instant::now()) }
    }

    /// Waits for a turn; fails at once where it would come after `deadline`.
    pub(super) async fn turn(&self, deadline: Instant) -> Result<(), Failure> {
        let turn = self.reserve(Instant::now(), deadline)?;
        sleep_until(turn).await;
        Ok(())
    }

    /// Nobody gets a turn for that long.
    pub(super) fn hold_off(&self, pause: Duration) {
        let until = Instant::now() + pause.min(MAX_HOLD_OFF);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next).max(until);
    }

    fn reserve(&self, now: Instant, deadline: Instant) -> Result<Instant, Failure> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*next).max(now);
        if turn > deadline {
            let wait = turn - now;
            let mut failure = Failure::new(
                Kind::Busy,
                format!("the limit on requests per second leaves no turn for {:.1} s", wait.as_secs_f32()),
            );
            failure.retry_after = Some(wait);
            return Err(failure);
        }
        *next = turn + self.interval;
        Ok(turn)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn turns_keep_their_distance_and_nobody_waits_in_vain() {
        let pace = Pace::new(4.0);
        let now = Instant::now();
        let deadline = now + Duration::from_millis(600);
        let turns: Vec<_> = (0..3).map(|_| pace.reserve(now, deadline).unwrap() - now).collect();
        assert_eq!(turns, [0, 250, 500].map(Duration::from_millis));
        let late = pace.reserve(now, deadline).unwrap_err();
        assert_eq!(late.retry_after, Some(Duration::from_millis(750)));
        // Who was refused took nobody's turn.
        let later = pace.reserve(now, now + Duration::from_secs(1)).unwrap();
        assert_eq!(later - now, Duration::from_millis(750));
    }

    #[test]
    fn without_a_limit_all_turns_come_at_once_until_the_server_asks_for_a_pause() {
        let pace = Pace::new(f64::INFINITY);
        let now = Instant::now();
        for _ in 0..1_000 {
            assert_eq!(pace.reserve(now, now).unwrap(), now);
        }
        pace.hold_off(Duration::from_secs(1_000_000));
        let turn = pace.reserve(now, now + Duration::from_secs(100)).unwrap();
        assert!(turn >= now + MAX_HOLD_OFF && turn < now + MAX_HOLD_OFF + Duration::from_secs(10));
    }
}
