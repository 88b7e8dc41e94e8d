//! The time of day, as a value that tests can set.

use std::time::{SystemTime, UNIX_EPOCH};

use cocoon_attest::UnixSeconds;

/// Tells the time of day.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> UnixSeconds;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixSeconds {
        // A clock before 1970 is treated as 1970: then no certificate is valid yet, which is the safe side.
        UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }
}

/// The time of day in microseconds, made monotonic: it begins at the system's time and then follows the monotonic clock,
/// so that a changed system time upsets no time-out. Reading it is cheap.
#[derive(Debug, Clone, Copy)]
pub struct MonotonicClock {
    began_micros: u64,
    began: std::time::Instant,
}

impl MonotonicClock {
    /// A clock that begins now.
    #[must_use]
    pub fn start() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let began_micros = u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX);
        Self { began_micros, began: std::time::Instant::now() }
    }

    /// Microseconds since 1970-01-01T00:00Z.
    #[must_use]
    pub fn micros(&self) -> u64 {
        self.began_micros.saturating_add(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}
