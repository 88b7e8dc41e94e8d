//! The worker's price: fixed, or following its load between bounds. The rule is [`cocoon_market::pricing`]'s.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cocoon_market::pricing::{BadBounds, Bounds, FollowLoad};
use cocoon_session::Time;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{COEFFICIENT_LIMIT, Shared};

/// How often the load is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The shortest round: proxies, and the callers behind them, must have had time to react.
const SHORTEST_ROUND: Duration = Duration::from_secs(1);
/// For how long a proxy may count with a price after the worker announced another one: what it gave away before it heard of
/// that is still on its way.
const OLD_PRICE_HOLDS: Duration = Duration::from_secs(60);
/// Old prices that are kept, the newest: one a second, and some that the operator sets.
const MAX_OLD_PRICES: usize = 128;

/// How a price follows the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowConfig {
    /// Between what and how fast.
    pub bounds: Bounds,
    /// How long a round takes.
    pub every: Duration,
}

/// Why a price cannot follow the load so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFollow {
    /// See there.
    #[error(transparent)]
    Bounds(#[from] BadBounds),
    /// No proxy takes such a price.
    #[error("the price's ceiling must be below {COEFFICIENT_LIMIT}")]
    Ceiling,
    /// See [`FollowConfig::every`].
    #[error("the price may change once a second at most")]
    TooOften,
}

/// What sets the price now.
#[derive(Debug)]
pub(crate) struct Pricing {
    /// `None`: it is fixed.
    following: Mutex<Option<FollowLoad>>,
    config: Option<FollowConfig>,
    /// Earlier prices, and until when each of them holds.
    old: Mutex<VecDeque<(u32, Time)>>,
}

impl Pricing {
    /// Begins at `coefficient`, or at the bound next to it; says where.
    pub(crate) fn new(config: Option<FollowConfig>, coefficient: u32) -> Result<(Self, u32), BadFollow> {
        let Some(follow) = config else {
            return Ok((Self::with(None, None), coefficient));
        };
        if follow.bounds.ceiling >= COEFFICIENT_LIMIT {
            return Err(BadFollow::Ceiling);
        }
        if follow.every < SHORTEST_ROUND {
            return Err(BadFollow::TooOften);
        }
        let rule = FollowLoad::new(follow.bounds, coefficient)?;
        Ok((Self::with(Some(rule), config), rule.coefficient()))
    }

    fn with(rule: Option<FollowLoad>, config: Option<FollowConfig>) -> Self {
        Self { following: Mutex::new(rule), config, old: Mutex::default() }
    }

    /// Another price is in force from now on.
    pub(crate) fn replace(&self, current: &AtomicU32, coefficient: u32, now: Time) {
        let mut old = self.old.lock().unwrap_or_else(PoisonError::into_inner);
        old.push_back((current.swap(coefficient, Ordering::Relaxed), now.plus(OLD_PRICE_HOLDS)));
        if old.len() > MAX_OLD_PRICES {
            old.pop_front();
        }
    }

    /// Whether this is the price, or was not long ago.
    pub(crate) fn holds(&self, current: &AtomicU32, coefficient: u32, now: Time) -> bool {
        let old = self.old.lock().unwrap_or_else(PoisonError::into_inner);
        coefficient == current.load(Ordering::Relaxed)
            || old.iter().any(|&(price, until)| price == coefficient && now < until)
    }

    fn lock(&self) -> MutexGuard<'_, Option<FollowLoad>> {
        self.following.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the price is what the operator says.
    pub(crate) fn fix(&self) {
        *self.lock() = None;
    }

    /// How long a round takes, where the price follows the load.
    pub(crate) fn every(&self) -> Option<Duration> {
        self.config.map(|config| config.every)
    }

    /// For the worker's page.
    pub(crate) fn to_json(&self) -> Value {
        match (*self.lock(), self.config) {
            (Some(rule), Some(config)) => {
                let Bounds { floor, ceiling, pace_permille } = rule.bounds();
                json!({
                    "strategy": "follow_load",
                    "floor": floor,
                    "ceiling": ceiling,
                    "pace_percent": f64::from(pace_permille) / 10.0,
                    "every_seconds": config.every.as_secs_f64(),
                })
            }
            _ => json!({"strategy": "fixed"}),
        }
    }

    /// A round with this load is over; the new price, where it follows the load.
    fn round(&self, load: f64) -> Option<u32> {
        self.lock().as_mut().map(|rule| rule.round(load))
    }
}

/// Lets the price follow the load, until the operator fixes it.
pub(crate) async fn follow(shared: Arc<Shared>, every: Duration) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut began = tokio::time::Instant::now();
    let (mut taken, mut looks) = (0_u64, 0_u64);
    loop {
        ticks.tick().await;
        if shared.is_paused() || *shared.ready.borrow() == 0 {
            // That nobody asks now says nothing about the price.
            (began, taken, looks) = (tokio::time::Instant::now(), 0, 0);
            continue;
        }
        taken += (shared.active.load(Ordering::Relaxed) as u64).min(shared.config.max_active.into());
        looks += 1;
        if began.elapsed() < every {
            continue;
        }
        #[expect(clippy::cast_precision_loss, reason = "a share, between 0 and 1")]
        let load = taken as f64 / (looks * u64::from(shared.config.max_active)) as f64;
        (began, taken, looks) = (tokio::time::Instant::now(), 0, 0);
        let Some(coefficient) = shared.pricing.round(load) else { return };
        if coefficient != shared.coefficient.load(Ordering::Relaxed) {
            tracing::info!(coefficient, load, "the price follows the load");
            shared.announce(coefficient);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { floor: 500, ceiling: 2000, pace_permille: 100 };

    #[test]
    fn a_price_is_fixed_unless_it_is_to_follow() {
        let (fixed, coefficient) = Pricing::new(None, 700).unwrap();
        assert_eq!((coefficient, fixed.round(0.0), fixed.every()), (700, None, None));
        let every = Duration::from_secs(5);
        let (following, coefficient) =
            Pricing::new(Some(FollowConfig { bounds: BOUNDS, every }), 3000).unwrap();
        assert_eq!((coefficient, following.round(0.0), following.every()), (2000, Some(1800), Some(every)));
        assert_eq!(following.to_json()["floor"], 500);
        following.fix();
        assert_eq!((following.round(0.0), following.to_json()), (None, json!({"strategy": "fixed"})));
    }

    #[test]
    fn an_old_price_holds_for_a_minute() {
        let (pricing, _) = Pricing::new(None, 700).unwrap();
        let (current, now) = (AtomicU32::new(700), Time(0));
        let holds = |price, at| pricing.holds(&current, price, at);
        assert!(holds(700, now) && !holds(701, now));
        pricing.replace(&current, 800, now);
        pricing.replace(&current, 900, now.plus(OLD_PRICE_HOLDS / 2));
        let later = now.plus(OLD_PRICE_HOLDS);
        let before = Time(later.0 - 1);
        assert!([700, 800, 900].iter().all(|&price| holds(price, before)) && !holds(750, before));
        assert!([800, 900].iter().all(|&price| holds(price, later)) && !holds(700, later));
        (0..1000).for_each(|price| pricing.replace(&current, price, now));
        assert_eq!(pricing.old.lock().unwrap().len(), MAX_OLD_PRICES);
        assert!(holds(998, now) && holds(999, later) && !holds(0, now));
    }

    #[test]
    fn what_no_price_can_follow_is_refused() {
        let of = |bounds, every| Pricing::new(Some(FollowConfig { bounds, every }), 1000).err();
        let second = Duration::from_secs(1);
        assert_eq!(of(Bounds { ceiling: COEFFICIENT_LIMIT, ..BOUNDS }, second), Some(BadFollow::Ceiling));
        assert_eq!(of(BOUNDS, second / 2), Some(BadFollow::TooOften));
        let upside_down = Bounds { floor: 3000, ..BOUNDS };
        assert_eq!(of(upside_down, second), Some(BadFollow::Bounds(BadBounds::FloorAboveCeiling)));
    }
}
