//! Choosing a worker: the rule by which a proxy sends a request to this worker and not to that one.
//!
//! Pure: what happens to the workers comes in, choices come out. A [`Market`] keeps the workers of each model in order,
//! so that a choice costs the same whether there are ten workers or ten thousand; what changes a worker's place costs
//! O(log n). The rule:
//!
//! 1. Only workers that are **eligible**: allowed by the caller, able to do what the request needs, enabled, answering,
//!    under their limit, not full by their own word ([`FULL_FOR`]), not dearer than the caller's cap and not tried before
//!    for this request.
//! 2. **Trust** goes before everything else. A worker of whose recent requests more than [`DOUBTFUL`] failed is used only
//!    where no other is left, whatever its price; time heals that. One that has more requests under way than its
//!    successes vouch for (1, 2, 4, 8 and so on, doubling with each) comes behind those that are proven: a newcomer
//!    gets work at once, and one that never answers does not swallow it all.
//! 3. Then what the caller **prefers** decides, the lowest figure wins:
//!
//!    | Preference | Figure | Among equals |
//!    |---|---|---|
//!    | cheapest | coefficient | expected time |
//!    | fastest | expected time | coefficient |
//!    | balanced | (coefficient + 1) x sqrt(expected time + 1 s) | expected time |
//!
//!    **Expected time** = (time to first byte + 256 tokens / tokens per second) x load x failures. **Load** = 1 + in flight
//!    / limit. **Failures** stretch it by 1 to 5, see [`STRETCH`]. A worker that was never measured counts as
//!    immediate while it is idle and has not failed, but for [`TRY_AGAIN_AFTER`] after it was given a request; and as slow
//!    (10 s) else.
//! 4. What is still equal goes to the worker with the fewest requests under way, then with the fewest that it ever was
//!    given, so that idle equals take turns.
//! 5. **Affinity**: a worker that lately answered a request with the same beginning goes before the best, where its
//!    figure is at most [`AFFINITY_FACTOR`] times the best one's (for the cheapest: where it is not dearer), it is proven,
//!    and it is less than three quarters full. The longest common beginning counts.
//!
//! # What a choice costs
//! The workers are walked in order, so mostly the first one is it. Workers that this request may not use (dearer than
//! its cap, not on its client's list, tried) are passed over one by one, at most [`PATIENCE`] of them. Then the shorter
//! of two lists is looked through in full: the client's list, or the workers within the price cap. So the worst case
//! is [`PATIENCE`] plus the smaller of those. Abilities cost one step for each *distinct* set of abilities among the
//! model's workers. Saying why there is none costs a look at the ends of the lists, or, with a client's list, a walk along
//! the shorter of that list and the workers.

mod affinity;
mod gone;
mod market;
mod observed;
pub mod pricing;
mod score;
mod shelf;

use std::collections::BTreeSet;

pub use affinity::{MAX_PREFIXES, MAX_PREFIXES_PER_REQUEST};
pub use gone::MAX_GONE;
pub use market::{Market, Offer, State};
pub use observed::{DOUBTFUL, FULL_FOR, HALF_LIFE, LEVELS, Observed, STALE_AFTER, STRETCH, TRY_AGAIN_AFTER};
pub use score::{Preference, Rank, Standing, TYPICAL_TOKENS, UNHURRIED_S, UNKNOWN_TIME_S};

/// How clients name workers: SHA-256 of the certificate.
pub type Name = [u8; 32];
/// How a proxy tells apart whose a worker is.
pub type Owner = [u8; 32];

/// How many workers that a request may not use are passed over before another way is taken; and how long a client's list
/// is for it to be walked at once.
pub const PATIENCE: usize = 32;
/// How much worse than the best a worker may be that knows the beginning of the request.
pub const AFFINITY_FACTOR: f64 = 1.5;

/// What one request asks of a worker.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a, K> {
    /// The highest price, in 1/1000 of the base price.
    pub max_coefficient: u32,
    /// The abilities that it needs, one bit each.
    pub needs: u32,
    /// What the caller cares for.
    pub preference: Preference,
    /// The workers that may see it; `None`: all.
    pub allowed: Option<&'a BTreeSet<Name>>,
    /// Where it failed already; a few.
    pub tried: &'a [K],
    /// Hashes of its growing beginnings, the shortest first.
    pub affinity: &'a [u64],
}

impl<K> Default for Wish<'_, K> {
    fn default() -> Self {
        Self {
            max_coefficient: u32::MAX,
            needs: 0,
            preference: Preference::default(),
            allowed: None,
            tried: &[],
            affinity: &[],
        }
    }
}

/// Why there is no worker for a request. Where several things stand in the way, the first of these that fits; only
/// [`NoWorker::NotReady`] comes after [`NoWorker::TooDear`], because waiting does not help against prices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoWorker {
    /// No worker offers the model.
    #[error("no worker offers this model")]
    None,
    /// Workers offer it, but the caller lets none of them see its requests.
    #[error("no worker for this model is one that the caller allows")]
    NotAllowed,
    /// No worker that the caller allows can do what the request needs.
    #[error("no worker for this model can do this")]
    Unable,
    /// Some worker within the price cap is at its limit, and there is no other.
    #[error("all workers for this model are busy")]
    Busy,
    /// All are paused, silent, or already failed this request.
    #[error("no worker for this model is ready")]
    NotReady,
    /// Ready workers are all dearer than the cap; the cheapest asks this coefficient.
    #[error("the cheapest ready worker asks coefficient {cheapest}")]
    TooDear {
        /// Lowest coefficient on offer, in 1/1000.
        cheapest: u32,
    },
}
