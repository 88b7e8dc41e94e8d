//! When a connection is to be made anew: both sides' certificates last a day, and a connection that stays up shows no
//! new ones. Whoever dialled it dials again, at a moment when nothing is under way.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cocoon_attest::UnixSeconds;

use crate::Clock;

/// With this much left of the older certificate a new connection brings new ones: both sides have renewed theirs with
/// eight hours left.
const DUE_WHEN_LEFT: Duration = Duration::from_secs(7 * 60 * 60);
/// A connection younger than this is not made anew: a peer that cannot renew its certificate is not dialled all the time.
const LEAST_AGE: Duration = Duration::from_secs(30 * 60);

/// Tells when a connection should be made anew.
#[derive(Clone)]
pub struct Renewal {
    clock: Arc<dyn Clock>,
    due_at: UnixSeconds,
}

impl Renewal {
    /// Of a connection made at this moment with certificates that end at `ends`.
    pub(crate) fn of(clock: Arc<dyn Clock>, ends: UnixSeconds) -> Self {
        let due = UnixSeconds(ends.0.saturating_sub(DUE_WHEN_LEFT.as_secs()));
        let due_at = due.max(clock.now().plus(LEAST_AGE.as_secs()));
        Self { clock, due_at }
    }

    /// Whether to dial again as soon as nothing is under way.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.clock.now() >= self.due_at
    }
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewal").field("due_at", &self.due_at).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn now(&self) -> UnixSeconds {
            UnixSeconds(self.0.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn it_is_due_when_both_sides_have_new_certificates_and_not_at_once_again() {
        let (day, hour) = (24 * 3600, 3600);
        let clock = Arc::new(Hand(AtomicU64::new(0)));
        let renewal = Renewal::of(clock.clone(), UnixSeconds(day));
        for (hours, due) in [(0, false), (16, false), (17, true), (30, true)] {
            clock.0.store(hours * hour, Ordering::Relaxed);
            assert_eq!(renewal.is_due(), due, "after {hours} h");
        }
        // The peer still shows the old one.
        let again = Renewal::of(clock.clone(), UnixSeconds(day));
        assert!(!again.is_due());
        clock.0.fetch_add(LEAST_AGE.as_secs(), Ordering::Relaxed);
        assert!(again.is_due());
    }
}
