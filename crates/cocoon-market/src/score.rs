//! How workers compare: the formulas.
//!
//! Everything that follows from a worker's state alone is a [`Rank`], lower is better; it changes only with events
//! of that worker, so it can be the key of an ordered set.

use crate::observed::{LEVELS, Observed, STRETCH};

/// The length of answer by which workers are compared, in completion tokens.
pub const TYPICAL_TOKENS: f64 = 256.0;
/// What is assumed of an answer by a worker of which nothing is known, while it is being tried, after it failed, and where
/// trying it told nothing, in seconds.
pub const UNKNOWN_TIME_S: f64 = 10.0;
/// Added to the expected time before it is weighed against the price, in seconds: where all are quick, price decides.
pub const UNHURRIED_S: f64 = 1.0;

/// What a caller cares for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Preference {
    /// Price and time, weighed against each other.
    #[default]
    Balanced,
    /// The lowest price; time only among equals.
    Cheapest,
    /// The shortest expected time; price only among equals.
    Fastest,
}

impl Preference {
    /// All of them, in the order of their indices.
    pub const ALL: [Self; 3] = [Self::Balanced, Self::Cheapest, Self::Fastest];

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Balanced => 0,
            Self::Cheapest => 1,
            Self::Fastest => 2,
        }
    }
}

/// How far a worker is relied on, whatever its price and speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trust {
    /// It has at most as many requests as its successes vouch for.
    Sound,
    /// It has more.
    OnTrial,
    /// Too many of its recent requests failed.
    Doubtful,
}

/// The place of a worker among the others; lower is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    pub(crate) trust: Trust,
    /// What the preference is about, and what decides among equals: floats that are not negative, by their bits.
    pub(crate) first: u64,
    pub(crate) second: u64,
    pub(crate) in_flight: u32,
    /// All that it was given.
    pub(crate) given: u64,
}

impl Rank {
    /// What the preference is about, as a number.
    pub(crate) fn figure(&self) -> f64 {
        f64::from_bits(self.first)
    }
}

/// What a rank is made of.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Price in 1/1000 of the base price.
    pub coefficient: u32,
    /// Requests under way.
    pub in_flight: u32,
    /// Most requests at a time.
    pub limit: u32,
    /// What was observed.
    pub observed: &'a Observed,
}

impl Standing<'_> {
    /// How many requests it may have at a time before others are preferred: one at first, twice as many with each
    /// success. So newcomers get work at once, and one that never answers does not swallow it all.
    fn allowance(&self) -> u32 {
        1_u32.checked_shl(self.observed.successes()).unwrap_or(u32::MAX)
    }

    fn trust(&self, now_us: u64) -> Trust {
        if self.observed.level(now_us) == LEVELS.len() {
            Trust::Doubtful
        } else if self.in_flight >= self.allowance() {
            Trust::OnTrial
        } else {
            Trust::Sound
        }
    }

    /// How much its load stretches the expected time: 1 when idle, almost 2 when almost full. What load did to earlier
    /// answers is in their times already; were it weighed more, dear idle workers would hardly ever lose to cheap ones.
    #[must_use]
    pub fn load(&self) -> f64 {
        1.0 + f64::from(self.in_flight) / f64::from(self.limit.max(1))
    }

    /// The expected time of a typical answer, in seconds.
    #[must_use]
    pub fn expected_s(&self, now_us: u64) -> f64 {
        let level = self.observed.level(now_us);
        let welcome = self.in_flight == 0 && level == 0 && self.observed.is_untried(now_us);
        let unknown = if welcome { 0.0 } else { UNKNOWN_TIME_S };
        let time = self.observed.answer_time(TYPICAL_TOKENS, now_us).unwrap_or(unknown);
        time * self.load() * STRETCH[level]
    }

    /// The rank by one preference.
    #[must_use]
    pub fn rank(&self, preference: Preference, now_us: u64) -> Rank {
        let (price, time) = (f64::from(self.coefficient), self.expected_s(now_us));
        let (first, second) = match preference {
            Preference::Cheapest => (price, time),
            Preference::Fastest => (time, price),
            // A free worker is not better than all others however slow it is.
            Preference::Balanced => ((price + 1.0) * (time + UNHURRIED_S).sqrt(), time),
        };
        Rank {
            trust: self.trust(now_us),
            first: first.to_bits(),
            second: second.to_bits(),
            in_flight: self.in_flight,
            given: self.observed.requests_given(),
        }
    }
}
