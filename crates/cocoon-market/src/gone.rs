//! Workers that left, so that who comes back is seen as before and not as a newcomer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::Owner;
use crate::observed::{Observed, STALE_AFTER, after};

/// Owners and models of which a worker that left is remembered.
pub const MAX_GONE: usize = 4096;

type Key = (Owner, Arc<str>);

/// What was observed of workers that left, one of each owner and model, for [`STALE_AFTER`].
#[derive(Debug, Default)]
pub(crate) struct Gone {
    workers: BTreeMap<Key, (u64, Observed)>,
    /// When each of them left.
    order: BTreeSet<(u64, Key)>,
}

impl Gone {
    /// A worker left. Where another one of its owner is remembered, the one that failed more often is.
    pub(crate) fn put(&mut self, owner: Owner, model: Arc<str>, mut observed: Observed, now_us: u64) {
        self.forget_old(now_us);
        if observed == Observed::default() {
            return;
        }
        if let Some(other) = self.remove(&(owner, Arc::clone(&model)))
            && other.failure_rate(now_us) > observed.failure_rate(now_us)
        {
            observed = other;
        }
        let key = (owner, model);
        self.order.insert((now_us, key.clone()));
        self.workers.insert(key, (now_us, observed));
        if self.workers.len() > MAX_GONE
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.workers.remove(&oldest);
        }
    }

    /// A worker comes: what is remembered of one of its owner goes over to it.
    pub(crate) fn take(&mut self, owner: Owner, model: &Arc<str>, now_us: u64) -> Observed {
        self.forget_old(now_us);
        self.remove(&(owner, Arc::clone(model))).unwrap_or_default()
    }

    fn forget_old(&mut self, now_us: u64) {
        while let Some(left_us) = self.order.first().map(|(left_us, _)| *left_us)
            && now_us >= after(left_us, STALE_AFTER)
            && let Some((_, key)) = self.order.pop_first()
        {
            self.workers.remove(&key);
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Observed> {
        let (left_us, observed) = self.workers.remove(key)?;
        self.order.remove(&(left_us, key.clone()));
        Some(observed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000_000;

    fn failed(times: u32, now_us: u64) -> Observed {
        let mut observed = Observed::default();
        (0..times).for_each(|_| observed.ended(true, now_us));
        observed
    }

    fn owner(number: usize) -> Owner {
        let mut owner = [0; 32];
        owner[..8].copy_from_slice(&number.to_be_bytes());
        owner
    }

    #[test]
    fn one_that_left_is_remembered_once_and_for_ten_minutes() {
        let (mut gone, model) = (Gone::default(), Arc::<str>::from("m"));
        gone.put(owner(1), Arc::clone(&model), failed(2, 0), 0);
        assert_eq!(gone.take(owner(2), &model, 0), Observed::default(), "another one's");
        assert_eq!(gone.take(owner(1), &"other".into(), 0), Observed::default(), "for another model");
        assert_eq!(gone.take(owner(1), &model, 0), failed(2, 0));
        assert_eq!(gone.take(owner(1), &model, 0), Observed::default(), "that was the one");
        gone.put(owner(1), Arc::clone(&model), failed(2, 0), 0);
        assert_eq!(gone.take(owner(1), &model, 10 * MINUTE), Observed::default());
        assert!(gone.order.is_empty() && gone.workers.is_empty());
    }

    #[test]
    fn of_two_that_left_the_worse_is_remembered() {
        let (mut gone, model) = (Gone::default(), Arc::<str>::from("m"));
        for times in [1, 3, 2] {
            gone.put(owner(1), Arc::clone(&model), failed(times, 0), 0);
        }
        assert_eq!(gone.take(owner(1), &model, 0), failed(3, 0));
    }

    #[test]
    fn those_that_left_first_are_forgotten_where_there_are_too_many() {
        let (mut gone, model) = (Gone::default(), Arc::<str>::from("m"));
        for number in 0..=MAX_GONE {
            gone.put(owner(number), Arc::clone(&model), failed(1, 0), if number == 7 { 0 } else { 1 });
        }
        gone.put(owner(MAX_GONE + 1), Arc::clone(&model), Observed::default(), 5);
        assert_eq!((gone.workers.len(), gone.order.len()), (MAX_GONE, MAX_GONE));
        assert_eq!(gone.take(owner(7), &model, 5), Observed::default());
        assert_eq!(gone.take(owner(8), &model, 5), failed(1, 0));
    }
}
