//! A worker's price that follows its load between bounds.
//!
//! The rule, once a round (say, every 30 s), from the share of its places that were taken since the last one:
//!
//! - **Room to spare** (below [`SPARE`]): one step down. Others are preferred, or too few ask.
//! - **Nearly full** (above [`FULL`]): half a step up. What it turns away goes to dearer ones.
//! - **Between**: the price stays.
//!
//! A step is `pace` of the price, at least 1/1000 of the base price. So where workers together have more room than is
//! asked for, those who lose requests undercut those who have them, down to their floors; where room is scarce, prices
//! rise. Steps up are the smaller ones, because whoever is full for being the cheapest is dearer than others soon
//! enough. The rule looks at nobody else's price, and at no income: workers that watch whether a step paid can end up
//! raising prices together, each seeing that it pays.

/// Load below which the price falls.
pub const SPARE: f64 = 0.7;
/// Load above which it rises.
pub const FULL: f64 = 0.9;

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

/// A price that follows load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowLoad {
    bounds: Bounds,
    coefficient: u32,
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
        Ok(Self { bounds, coefficient })
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
        let Bounds { floor, ceiling, pace_permille } = self.bounds;
        let step = |pace: u32| {
            let step = u64::from(self.coefficient) * u64::from(pace) / 1000;
            u32::try_from(step).unwrap_or(u32::MAX).max(1)
        };
        let moved = match load {
            load if load < SPARE => self.coefficient.saturating_sub(step(pace_permille)),
            load if load > FULL => self.coefficient.saturating_add(step(pace_permille / 2)),
            // No number says nothing, either.
            _ => self.coefficient,
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
        (0..100).for_each(|_| {
            price.round(1.0);
        });
        assert!(price.coefficient() > 3500, "{price:?}");
    }

    #[test]
    fn a_worker_that_is_well_used_keeps_its_price() {
        let mut price = FollowLoad::new(BOUNDS, 1000).unwrap();
        for load in [0.7, 0.8, 0.9, f64::NAN] {
            assert_eq!(price.round(load), 1000);
        }
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
