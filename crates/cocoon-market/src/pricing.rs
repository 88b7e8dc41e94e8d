//! A worker's price that follows its load between bounds.
//!
//! The rule, once a round (say, every 30 s), from the share of its places that were taken since the last one:
//!
//! - **Nearly idle** (below [`IDLE`]): one step down. Others are preferred, or nobody asks.
//! - **Nearly full** (above [`FULL`]): half a step up. What it turns away goes to dearer ones.
//! - **Between**: as the last step, if what it takes in (price x load) did not fall by more than [`DEAD_BAND`]; the other
//!   way if it did. So whoever has competitors finds that a lower price brings more, and goes down to its floor; whoever
//!   has none finds that it brings less, and goes up.
//!
//! A step is `pace` of the price, at least 1/1000 of the base price. At a bound it stays, and looks one step away every
//! [`PROBE_EVERY`] rounds, since things may have changed.

/// Load below which the price falls.
pub const IDLE: f64 = 0.1;
/// Load above which it rises.
pub const FULL: f64 = 0.9;
/// By how much income may fall from round to round without a step being regretted.
pub const DEAD_BAND: f64 = 0.02;
/// Rounds between looks away from a bound.
pub const PROBE_EVERY: u32 = 10;

/// Between what and how fast a price moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Lowest coefficient: what the work costs its owner.
    pub floor: u32,
    /// Highest coefficient.
    pub ceiling: u32,
    /// A step down, in 1/1000 of the price; a step up from full load is half of it.
    pub pace_permille: u32,
}

/// Bounds between which no price can move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadBounds {
    /// The floor is above the ceiling.
    #[error("the price's floor is above its ceiling")]
    FloorAboveCeiling,
    /// The pace is none, or too fast.
    #[error("the price's pace must be between 0.1 and 50 percent")]
    Pace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Down,
    Up,
}

/// A price that follows load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FollowLoad {
    bounds: Bounds,
    coefficient: u32,
    direction: Direction,
    income: f64,
    at_bound: u32,
}

impl FollowLoad {
    /// Begins at `coefficient`, or at the bound next to it.
    ///
    /// # Errors
    /// The bounds make no sense.
    pub fn new(bounds: Bounds, coefficient: u32) -> Result<Self, BadBounds> {
        if bounds.floor > bounds.ceiling {
            return Err(BadBounds::FloorAboveCeiling);
        }
        if !(1..=500).contains(&bounds.pace_permille) {
            return Err(BadBounds::Pace);
        }
        let coefficient = coefficient.clamp(bounds.floor, bounds.ceiling);
        Ok(Self { bounds, coefficient, direction: Direction::Down, income: 0.0, at_bound: 0 })
    }

    /// The price now, in 1/1000 of the base price.
    #[must_use]
    pub const fn coefficient(&self) -> u32 {
        self.coefficient
    }

    /// The bounds.
    #[must_use]
    pub const fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// A round is over in which `load` (0 to 1) of the places were taken; gives the price for the next.
    pub fn round(&mut self, load: f64) -> u32 {
        let load = if load.is_finite() { load.clamp(0.0, 1.0) } else { 0.0 };
        let income = f64::from(self.coefficient) * load;
        let pace = self.bounds.pace_permille;
        let up = if load > FULL { pace / 2 } else { pace };
        self.direction = match self.direction {
            _ if load < IDLE => Direction::Down,
            _ if load > FULL => Direction::Up,
            same if income >= self.income * (1.0 - DEAD_BAND) => same,
            Direction::Down => Direction::Up,
            Direction::Up => Direction::Down,
        };
        self.income = income;
        let (floor, ceiling) = (self.bounds.floor, self.bounds.ceiling);
        let stuck = match self.direction {
            Direction::Down => self.coefficient == floor,
            Direction::Up => self.coefficient == ceiling,
        };
        self.at_bound = if stuck { self.at_bound + 1 } else { 0 };
        if self.at_bound == PROBE_EVERY && load >= IDLE {
            self.at_bound = 0;
            self.direction = match self.direction {
                Direction::Down => Direction::Up,
                Direction::Up => Direction::Down,
            };
        }
        let step = |pace: u32| {
            let step = u64::from(self.coefficient) * u64::from(pace) / 1000;
            u32::try_from(step).unwrap_or(u32::MAX).max(1)
        };
        let moved = match self.direction {
            Direction::Down => self.coefficient.saturating_sub(step(pace)),
            Direction::Up => self.coefficient.saturating_add(step(up)),
        };
        self.coefficient = moved.clamp(floor, ceiling);
        self.coefficient
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { floor: 500, ceiling: 4000, pace_permille: 50 };

    #[test]
    fn an_idle_worker_becomes_cheap_and_a_full_one_dear() {
        let mut price = FollowLoad::new(BOUNDS, 1000).unwrap();
        (0..40).for_each(|_| {
            price.round(0.0);
        });
        assert_eq!(price.coefficient(), 500);
        (0..200).for_each(|_| {
            price.round(1.0);
        });
        assert!(price.coefficient() > 3500, "{price:?}");
    }

    #[test]
    fn whoever_has_no_competitors_finds_that_a_higher_price_brings_more() {
        let mut price = FollowLoad::new(BOUNDS, 1000).unwrap();
        (0..60).for_each(|_| {
            price.round(0.4);
        });
        assert!(price.coefficient() > 3000, "{price:?}");
    }

    #[test]
    fn senseless_bounds_are_refused() {
        assert_eq!(
            FollowLoad::new(Bounds { floor: 5000, ..BOUNDS }, 1).err(),
            Some(BadBounds::FloorAboveCeiling)
        );
        assert_eq!(FollowLoad::new(Bounds { pace_permille: 0, ..BOUNDS }, 1).err(), Some(BadBounds::Pace));
        assert_eq!(FollowLoad::new(BOUNDS, 1).unwrap().coefficient(), 500);
    }

    proptest! {
        #[test]
        fn no_load_moves_the_price_out_of_its_bounds_or_by_more_than_a_step(
            loads in prop::collection::vec(prop::num::f64::ANY, 1..100),
            (floor, ceiling) in (0_u32..1000, 1000_u32..1_000_000_000),
            pace_permille in 1_u32..=500,
        ) {
            let mut price = FollowLoad::new(Bounds { floor, ceiling, pace_permille }, 1000).unwrap();
            for load in loads {
                let before = price.coefficient();
                let after = price.round(load);
                prop_assert!((floor..=ceiling).contains(&after));
                let step = (u64::from(before) * u64::from(pace_permille) / 1000).max(1);
                prop_assert!(u64::from(before.abs_diff(after)) <= step);
            }
        }
    }
}
