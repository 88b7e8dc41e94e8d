//! The one notion of time that the state machines know.

use std::time::Duration;

/// Microseconds since 1970-01-01T00:00Z, never going backwards within one process (the driver sees to that).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// The moment `after` this one; saturates at the end of time.
    #[must_use]
    pub fn plus(self, after: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(after.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Time since `earlier`; zero where that lies in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// Seconds since 1970 as the protocol writes them (microsecond precision).
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "exact for the next 285 years")]
    pub fn unix_seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }
}
