//! The workers of one model, in order: by rank for each preference, and by price.
//!
//! Workers with the same abilities stand together, so that what a request needs is looked at once for each set of
//! abilities (mostly one or two) and not for each worker.

use std::collections::{BTreeMap, BTreeSet};

use crate::market::{Place, State};
use crate::score::{Preference, Rank, Trust};
use crate::{AFFINITY_FACTOR, Name, NoWorker, PATIENCE, Wish};

/// One worker as a choice looks at it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) name: Name,
    pub(crate) coefficient: u32,
    pub(crate) in_flight: u32,
    pub(crate) limit: u32,
    pub(crate) abilities: u32,
    pub(crate) place: Place,
    pub(crate) rank: Rank,
}

impl Candidate {
    /// Whether it is so full that what it has in its cache is no reason any more.
    fn is_loaded(&self) -> bool {
        u64::from(self.in_flight) * 4 >= u64::from(self.limit) * 3
    }
}

#[derive(Debug)]
struct Group<K> {
    workers: usize,
    /// Those that take a request, by rank for each preference.
    ranked: [BTreeSet<(Rank, K)>; 3],
    /// The same, by price.
    open: BTreeSet<(u32, K)>,
    /// Those that are full, by price.
    full: BTreeSet<(u32, K)>,
}

impl<K> Default for Group<K> {
    fn default() -> Self {
        let ranked = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
        Self { workers: 0, ranked, open: BTreeSet::new(), full: BTreeSet::new() }
    }
}

#[derive(Debug)]
pub(crate) struct Shelf<K> {
    groups: BTreeMap<u32, Group<K>>,
    /// All of them; one name may have several connections.
    names: BTreeMap<Name, BTreeSet<K>>,
    workers: usize,
    in_flight: u64,
}

impl<K> Default for Shelf<K> {
    fn default() -> Self {
        Self { groups: BTreeMap::new(), names: BTreeMap::new(), workers: 0, in_flight: 0 }
    }
}

impl<K: Copy + Ord> Shelf<K> {
    pub(crate) fn is_empty(&self) -> bool {
        self.workers == 0
    }

    /// Requests under way at all of them.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = K> {
        self.names.values().flatten().copied()
    }

    pub(crate) fn add(&mut self, key: K, name: Name, state: &State, place: Place, ranks: &[Rank; 3]) {
        self.names.entry(name).or_default().insert(key);
        self.workers += 1;
        self.in_flight += u64::from(state.in_flight);
        let group = self.groups.entry(state.abilities).or_default();
        group.workers += 1;
        match place {
            Place::Open => {
                for (ranked, &rank) in group.ranked.iter_mut().zip(ranks) {
                    ranked.insert((rank, key));
                }
                group.open.insert((state.coefficient, key));
            }
            Place::Full => {
                group.full.insert((state.coefficient, key));
            }
            Place::Away => {}
        }
    }

    pub(crate) fn remove(&mut self, key: K, name: &Name, state: &State, place: Place, ranks: &[Rank; 3]) {
        if let Some(keys) = self.names.get_mut(name) {
            keys.remove(&key);
            if keys.is_empty() {
                self.names.remove(name);
            }
        }
        self.workers -= 1;
        self.in_flight -= u64::from(state.in_flight);
        let Some(group) = self.groups.get_mut(&state.abilities) else { return };
        group.workers -= 1;
        match place {
            Place::Open => {
                for (ranked, &rank) in group.ranked.iter_mut().zip(ranks) {
                    ranked.remove(&(rank, key));
                }
                group.open.remove(&(state.coefficient, key));
            }
            Place::Full => {
                group.full.remove(&(state.coefficient, key));
            }
            Place::Away => {}
        }
        if group.workers == 0 {
            self.groups.remove(&state.abilities);
        }
    }

    /// See [`crate::Market::choose`]. `warm`: workers that answered requests with the same beginning, the best first.
    pub(crate) fn choose(
        &self,
        wish: &Wish<'_, K>,
        warm: impl Iterator<Item = K>,
        look: impl Fn(K) -> Option<Candidate>,
    ) -> Result<K, NoWorker> {
        let Some((best, key)) = self.best(wish, &look) else { return Err(self.why(wish, &look)) };
        for other in warm {
            if other == key {
                break;
            }
            let Some(candidate) = look(other).filter(|candidate| admits(wish, other, candidate)) else {
                continue;
            };
            let near = match wish.preference {
                Preference::Cheapest => candidate.rank.figure() <= best.figure(),
                Preference::Balanced | Preference::Fastest => {
                    candidate.rank.figure() <= AFFINITY_FACTOR * best.figure()
                }
            };
            let trusted = candidate.rank.trust == Trust::Sound || candidate.rank.trust <= best.trust;
            if near && trusted && !candidate.is_loaded() {
                return Ok(other);
            }
        }
        Ok(key)
    }

    fn able(&self, needs: u32) -> impl Iterator<Item = &Group<K>> {
        self.groups.iter().filter(move |(abilities, _)| **abilities & needs == needs).map(|(_, group)| group)
    }

    /// The best worker that the wish admits.
    fn best(&self, wish: &Wish<'_, K>, look: &impl Fn(K) -> Option<Candidate>) -> Option<(Rank, K)> {
        if let Some(allowed) = wish.allowed
            && allowed.len() <= PATIENCE
        {
            return self.best_of(wish, self.allowed(allowed), look);
        }
        let mut best = None;
        let mut unsure = Vec::new();
        for group in self.able(wish.needs) {
            match group.walk(wish, look) {
                Walk::Found(found) => best = lower(best, Some(found)),
                Walk::End => {}
                Walk::OutOfPatience => unsure.push(group),
            }
        }
        if unsure.is_empty() {
            return best;
        }
        match wish.allowed {
            Some(allowed) if allowed.len() < self.workers => self.best_of(wish, self.allowed(allowed), look),
            _ => {
                let cheap = unsure.iter().flat_map(|group| group.affordable(wish.max_coefficient));
                lower(best, self.best_of(wish, cheap, look))
            }
        }
    }

    /// The workers that a client allows, by its list.
    fn allowed<'a>(&'a self, allowed: &'a BTreeSet<Name>) -> impl Iterator<Item = K> + 'a {
        allowed.iter().filter_map(|name| self.names.get(name)).flatten().copied()
    }

    fn best_of(
        &self,
        wish: &Wish<'_, K>,
        keys: impl Iterator<Item = K>,
        look: &impl Fn(K) -> Option<Candidate>,
    ) -> Option<(Rank, K)> {
        let admitted = keys.filter_map(|key| {
            look(key).filter(|candidate| admits(wish, key, candidate)).map(|candidate| (candidate.rank, key))
        });
        admitted.min()
    }

    /// Why the wish admits nobody.
    fn why(&self, wish: &Wish<'_, K>, look: &impl Fn(K) -> Option<Candidate>) -> NoWorker {
        let mut reasons = Reasons::default();
        match wish.allowed {
            Some(allowed) if allowed.len() < self.workers => {
                for key in self.allowed(allowed) {
                    reasons.note_of(wish, key, look);
                }
            }
            Some(_) => {
                for key in self.keys() {
                    reasons.note_of(wish, key, look);
                }
            }
            None => {
                reasons.allowed = true;
                for group in self.able(wish.needs) {
                    reasons.able = true;
                    // What was tried already is skipped, and that is at most a few.
                    let cheapest = |of: &BTreeSet<(u32, K)>| {
                        of.iter()
                            .find(|(_, key)| !wish.tried.contains(key))
                            .map(|&(coefficient, _)| coefficient)
                    };
                    let (open, full) = (cheapest(&group.open), cheapest(&group.full));
                    reasons.busy |= full.is_some_and(|coefficient| coefficient <= wish.max_coefficient);
                    reasons.cheapest = [reasons.cheapest, open, full].into_iter().flatten().min();
                }
            }
        }
        reasons.verdict()
    }
}

enum Walk<K> {
    Found((Rank, K)),
    End,
    OutOfPatience,
}

impl<K: Copy + Ord> Group<K> {
    /// The best that the wish admits, by a walk of bounded length.
    fn walk(&self, wish: &Wish<'_, K>, look: &impl Fn(K) -> Option<Candidate>) -> Walk<K> {
        if self.open.first().is_none_or(|&(coefficient, _)| coefficient > wish.max_coefficient) {
            return Walk::End;
        }
        for (steps, &(rank, key)) in self.ranked[wish.preference.index()].iter().enumerate() {
            if steps == PATIENCE {
                return Walk::OutOfPatience;
            }
            if look(key).is_some_and(|candidate| admits(wish, key, &candidate)) {
                return Walk::Found((rank, key));
            }
        }
        Walk::End
    }

    fn affordable(&self, max_coefficient: u32) -> impl Iterator<Item = K> {
        let cheap = self.open.iter().take_while(move |(coefficient, _)| *coefficient <= max_coefficient);
        cheap.map(|&(_, key)| key)
    }
}

/// Whether a worker may get the request.
fn admits<K: Copy + Ord>(wish: &Wish<'_, K>, key: K, candidate: &Candidate) -> bool {
    candidate.place == Place::Open
        && candidate.coefficient <= wish.max_coefficient
        && candidate.abilities & wish.needs == wish.needs
        && wish.allowed.is_none_or(|allowed| allowed.contains(&candidate.name))
        && !wish.tried.contains(&key)
}

fn lower<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    [a, b].into_iter().flatten().min()
}

/// What stands in the way, gathered.
#[derive(Debug, Default)]
struct Reasons {
    allowed: bool,
    able: bool,
    busy: bool,
    cheapest: Option<u32>,
}

impl Reasons {
    fn note_of<K: Copy + Ord>(&mut self, wish: &Wish<'_, K>, key: K, look: &impl Fn(K) -> Option<Candidate>) {
        let Some(candidate) = look(key) else { return };
        if wish.allowed.is_some_and(|allowed| !allowed.contains(&candidate.name)) {
            return;
        }
        self.allowed = true;
        if candidate.abilities & wish.needs != wish.needs {
            return;
        }
        self.able = true;
        if candidate.place == Place::Away || wish.tried.contains(&key) {
            return;
        }
        let affordable = candidate.coefficient <= wish.max_coefficient;
        self.busy |= affordable && candidate.place == Place::Full;
        self.cheapest = lower(self.cheapest, Some(candidate.coefficient));
    }

    fn verdict(&self) -> NoWorker {
        match self {
            Self { allowed: false, .. } => NoWorker::NotAllowed,
            Self { able: false, .. } => NoWorker::Unable,
            Self { busy: true, .. } => NoWorker::Busy,
            Self { cheapest: Some(cheapest), .. } => NoWorker::TooDear { cheapest: *cheapest },
            Self { cheapest: None, .. } => NoWorker::NotReady,
        }
    }
}
