//! Where a reader has been in a long history, so that the next call goes on from there.
//!
//! A server tells a history from the newest transaction down, while we want the oldest first. Without a memory each call
//! would begin at the top; and a history that is too long for one call, because a node slept or somebody sent thousands of
//! small messages, could never be read at all.

use std::collections::HashMap;

use cocoon_ton::Address;

use crate::types::TransactionId;

/// So many transactions lie between two places that are remembered.
pub(super) const STRIDE: usize = 100;
/// So many places are remembered of one history.
pub(super) const MAX_PLACES: usize = 100_000;
/// Of so many histories.
const MAX_TRAILS: usize = 16;

/// Places in one history, from the newest down.
#[derive(Debug, Default, Clone)]
pub(super) struct Trail {
    pub(super) places: Vec<TransactionId>,
    /// It goes down to the transactions after this logical time; `None` while it is not known how far it goes.
    pub(super) down_to: Option<u64>,
    used: u64,
}

/// Where to begin to read.
#[derive(Debug)]
pub(super) enum Start {
    /// At the newest transaction.
    Top,
    /// Here, where at least as many transactions follow as are wanted.
    Place(TransactionId),
    /// Where the trail ends.
    End(Trail),
}

/// The trails in long histories.
#[derive(Debug, Default)]
pub(super) struct Trails {
    accounts: HashMap<Address, Trail>,
    clock: u64,
}

impl Trails {
    pub(super) fn start(&mut self, account: Address, after_lt: u64, limit: usize) -> Start {
        self.clock += 1;
        let Some(trail) = self.accounts.get_mut(&account) else { return Start::Top };
        trail.used = self.clock;
        let above = trail.places.partition_point(|place| place.lt > after_lt);
        let is_whole = above < trail.places.len() || trail.down_to.is_some_and(|down_to| down_to <= after_lt);
        if above == 0 {
            self.accounts.remove(&account);
            return Start::Top;
        }
        if !is_whole {
            return self.accounts.remove(&account).map_or(Start::Top, Start::End);
        }
        let first = above.checked_sub(limit / STRIDE + 2);
        first.and_then(|first| trail.places.get(first)).map_or(Start::Top, |place| Start::Place(*place))
    }

    pub(super) fn keep(&mut self, account: Address, mut trail: Trail) {
        if trail.places.is_empty() {
            return;
        }
        if self.accounts.len() >= MAX_TRAILS && !self.accounts.contains_key(&account) {
            let oldest =
                self.accounts.iter().min_by_key(|(_, trail)| trail.used).map(|(account, _)| *account);
            oldest.and_then(|account| self.accounts.remove(&account));
        }
        self.clock += 1;
        trail.used = self.clock;
        self.accounts.insert(account, trail);
    }

    pub(super) fn forget(&mut self, account: Address) {
        self.accounts.remove(&account);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Address = Address::basechain([1; 32]);

    fn trail(down_to: Option<u64>) -> Trail {
        let place = |lt| TransactionId { lt, hash: [0; 32] };
        Trail { places: [900, 800, 700, 600].map(place).into(), down_to, used: 0 }
    }

    #[test]
    fn reading_goes_on_where_enough_follows() {
        let mut trails = Trails::default();
        assert!(matches!(trails.start(WHO, 500, 10), Start::Top));
        trails.keep(WHO, trail(Some(500)));
        assert!(matches!(trails.start(WHO, 500, 10), Start::Place(TransactionId { lt: 700, .. })));
        assert!(matches!(trails.start(WHO, 650, 10), Start::Place(TransactionId { lt: 800, .. })));
        assert!(matches!(trails.start(WHO, 500, 256), Start::Place(TransactionId { lt: 900, .. })));
        assert!(matches!(trails.start(WHO, 850, 10), Start::Top), "too little is known to follow");
        assert!(matches!(trails.start(WHO, 400, 10), Start::End(_)), "nobody was so far down");
        assert!(matches!(trails.start(WHO, 500, 10), Start::Top), "whoever goes on has the trail");
        trails.keep(WHO, trail(None));
        assert!(matches!(trails.start(WHO, 500, 10), Start::End(_)));
        trails.keep(WHO, trail(Some(500)));
        assert!(matches!(trails.start(WHO, 1000, 10), Start::Top));
        assert!(trails.accounts.is_empty(), "all of it was read");
    }

    #[test]
    fn only_so_many_trails_are_kept() {
        let mut trails = Trails::default();
        for number in 0..100 {
            trails.keep(Address::basechain([number; 32]), trail(None));
            trails.keep(WHO, trail(None));
        }
        assert!(trails.accounts.len() <= MAX_TRAILS && trails.accounts.contains_key(&WHO));
    }
}
