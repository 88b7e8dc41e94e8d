//! Who answered what begins the same way: an engine that still has the beginning of a prompt in its cache answers
//! sooner, and charges cached tokens.

use std::collections::BTreeMap;

/// Prefixes that are remembered, all models together: about 100 bytes each. The one that was used longest ago goes first.
pub const MAX_PREFIXES: usize = 262_144;
/// Prefixes of one request.
pub const MAX_PREFIXES_PER_REQUEST: usize = 16;

/// A bounded memory of which worker answered which prefix last.
#[derive(Debug)]
pub(crate) struct Prefixes<K> {
    known: BTreeMap<(u64, u64), (u64, K)>,
    /// Their keys by when they were used last.
    used: BTreeMap<u64, (u64, u64)>,
    clock: u64,
    limit: usize,
}

impl<K: Copy> Prefixes<K> {
    pub(crate) const fn new(limit: usize) -> Self {
        Self { known: BTreeMap::new(), used: BTreeMap::new(), clock: 0, limit }
    }

    /// A worker answered a request that begins with these.
    pub(crate) fn remember(&mut self, model: u64, prefixes: &[u64], worker: K) {
        // The shortest last: a longer one is worth less without it, so it is forgotten sooner.
        for &prefix in prefixes.iter().take(MAX_PREFIXES_PER_REQUEST).rev() {
            self.clock += 1;
            if let Some((used, _)) = self.known.insert((model, prefix), (self.clock, worker)) {
                self.used.remove(&used);
            }
            self.used.insert(self.clock, (model, prefix));
        }
        while self.known.len() > self.limit
            && let Some((_, oldest)) = self.used.pop_first()
        {
            self.known.remove(&oldest);
        }
    }

    /// The workers that answered such a request, the one with the longest common prefix first.
    pub(crate) fn find(&self, model: u64, prefixes: &[u64]) -> impl Iterator<Item = K> {
        let newest = prefixes.iter().take(MAX_PREFIXES_PER_REQUEST).rev();
        newest.filter_map(move |&prefix| self.known.get(&(model, prefix)).map(|&(_, worker)| worker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_comes_first_and_the_newest_answer_counts() {
        let mut prefixes = Prefixes::new(100);
        prefixes.remember(1, &[10, 11, 12], 'a');
        prefixes.remember(1, &[10, 11], 'b');
        assert_eq!(prefixes.find(1, &[10, 11, 12, 13]).collect::<String>(), "abb");
        assert_eq!(prefixes.find(2, &[10]).count(), 0, "models share nothing");
    }

    #[test]
    fn what_was_used_longest_ago_is_forgotten_first() {
        let mut prefixes = Prefixes::new(3);
        prefixes.remember(1, &[10, 11, 12], 'a');
        prefixes.remember(1, &[20], 'b');
        assert_eq!(prefixes.find(1, &[10, 11]).collect::<String>(), "aa");
        assert_eq!(prefixes.find(1, &[12]).count(), 0, "the longest went first");
        prefixes.remember(1, &[30, 31], 'c');
        assert_eq!((prefixes.known.len(), prefixes.used.len()), (3, 3));
        assert_eq!(prefixes.find(1, &[11]).count(), 0);
    }
}
