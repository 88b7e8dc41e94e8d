//! All workers of a proxy, indexed so that a choice does not have to look at each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::affinity::{MAX_PREFIXES, Prefixes};
use crate::gone::Gone;
use crate::observed::Observed;
use crate::score::{Preference, Rank, Standing};
use crate::shelf::{Candidate, Shelf};
use crate::{Name, NoWorker, Owner, Wish};

/// A worker as its proxy sees it at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Its price, in 1/1000 of the base price.
    pub coefficient: u32,
    /// Requests that it is working on for this proxy.
    pub in_flight: u32,
    /// The most it takes from this proxy at a time.
    pub limit: u32,
    /// What it can do: one bit for each ability.
    pub abilities: u32,
    /// Enabled by its owner, and answering.
    pub ready: bool,
    /// It reads what is sent to it.
    pub has_room: bool,
}

impl State {
    /// Where it stands in the index, but for what it said itself.
    fn place(&self) -> Place {
        match (self.ready, self.has_room && self.in_flight < self.limit) {
            (false, _) => Place::Away,
            (true, false) => Place::Full,
            (true, true) => Place::Open,
        }
    }
}

/// Whether a worker can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// It takes a request.
    Open,
    /// It takes one later.
    Full,
    /// It takes none.
    Away,
}

/// One worker, for those who want to know what is on offer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Offer<K> {
    /// Who it is.
    pub key: K,
    /// Its name.
    pub name: Name,
    /// As its proxy sees it.
    pub state: State,
    /// What was observed of it.
    pub observed: Observed,
}

#[derive(Debug)]
struct Entry {
    model: Arc<str>,
    name: Name,
    owner: Owner,
    state: State,
    observed: Observed,
    place: Place,
    ranks: [Rank; 3],
    timer: Option<u64>,
}

impl Entry {
    fn ranks(&self, now_us: u64) -> [Rank; 3] {
        let State { coefficient, in_flight, limit, .. } = self.state;
        let standing = Standing { coefficient, in_flight, limit, observed: &self.observed };
        Preference::ALL.map(|preference| standing.rank(preference, now_us))
    }

    fn place(&self, now_us: u64) -> Place {
        match self.state.place() {
            Place::Open if self.observed.is_full(now_us) => Place::Full,
            place => place,
        }
    }
}

/// What the newest request counts for in the running average of how long requests take.
const NEWEST_SHARE: f64 = 0.1;

/// A model's workers.
#[derive(Debug)]
struct Model<K> {
    number: u64,
    shelf: Shelf<K>,
    /// How long a worker has a request, in seconds, as a running average.
    typical_s: Option<f64>,
}

/// The workers of a proxy. See the [crate](crate).
///
/// Time comes in as microseconds that never go back. Workers that it does not know are ignored.
#[derive(Debug)]
pub struct Market<K> {
    models: BTreeMap<Arc<str>, Model<K>>,
    workers: BTreeMap<K, Entry>,
    /// When time alone changes a worker's rank next.
    timers: BTreeSet<(u64, K)>,
    prefixes: Prefixes<K>,
    gone: Gone,
    now_us: u64,
    numbers: u64,
}

impl<K: Copy + Ord> Default for Market<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Copy + Ord> Market<K> {
    /// A market without workers.
    #[must_use]
    pub fn new() -> Self {
        Self {
            models: BTreeMap::new(),
            workers: BTreeMap::new(),
            timers: BTreeSet::new(),
            prefixes: Prefixes::new(MAX_PREFIXES),
            gone: Gone::default(),
            now_us: 0,
            numbers: 0,
        }
    }

    /// A worker joins. A key that is there already leaves first. Keys are never used for two workers. What was observed of a
    /// worker of this owner and model that left lately, counts for it.
    pub fn join(&mut self, key: K, model: &str, name: Name, owner: Owner, state: State) {
        self.leave(key);
        let model: Arc<str> = model.into();
        let numbers = &mut self.numbers;
        let on_sale = self.models.entry(Arc::clone(&model)).or_insert_with(|| {
            *numbers += 1;
            Model { number: *numbers, shelf: Shelf::default(), typical_s: None }
        });
        let observed = self.gone.take(owner, &model, self.now_us);
        let rank = Standing { coefficient: 0, in_flight: 0, limit: 0, observed: &observed }
            .rank(Preference::Balanced, self.now_us);
        let place = state.place();
        let mut entry = Entry { model, name, owner, state, observed, place, ranks: [rank; 3], timer: None };
        entry.ranks = entry.ranks(self.now_us);
        on_sale.shelf.add(key, name, &state, place, &entry.ranks);
        self.workers.insert(key, entry);
        // Who comes back may be full, and has moments to come at which it is seen otherwise.
        self.change(key, |_| ());
    }

    /// A worker leaves.
    pub fn leave(&mut self, key: K) {
        let Some(entry) = self.workers.remove(&key) else { return };
        if let Some(at) = entry.timer {
            self.timers.remove(&(at, key));
        }
        if let Some(model) = self.models.get_mut(&entry.model) {
            model.shelf.remove(key, &entry.name, &entry.state, entry.place, &entry.ranks);
            if model.shelf.is_empty() {
                self.models.remove(&entry.model);
            }
        }
        self.gone.put(entry.owner, entry.model, entry.observed, self.now_us);
    }

    /// Something about a worker changed: its price, its abilities, what it has under way, whether it is ready. Where it has
    /// more under way than before, it was given that.
    pub fn update(&mut self, key: K, state: State) {
        if self.workers.get(&key).is_some_and(|entry| entry.state != state) {
            let now_us = self.now_us;
            self.change(key, |entry| {
                let more = state.in_flight.saturating_sub(entry.state.in_flight);
                if more > 0 {
                    entry.observed.given(more, now_us);
                }
                entry.state = state;
            });
        }
    }

    /// A streamed answer got its first byte after `wait`, or an answer without tokens was complete then.
    pub fn first_byte(&mut self, key: K, wait: Duration, now_us: u64) {
        self.change(key, |entry| entry.observed.first_byte(wait, now_us));
    }

    /// `tokens` of an answer took `time`; see [`Observed::answered`].
    pub fn answered(&mut self, key: K, tokens: u64, time: Duration, now_us: u64) {
        self.change(key, |entry| entry.observed.answered(tokens, time, now_us));
    }

    /// A worker had no room for a request; see [`Observed::refused`].
    pub fn refused(&mut self, key: K, now_us: u64) {
        self.change(key, |entry| entry.observed.refused(now_us));
    }

    /// See [`Observed::set_aside`].
    pub fn set_aside(&mut self, key: K, now_us: u64) {
        self.change(key, |entry| entry.observed.set_aside(now_us));
    }

    /// A request ended; see [`Observed::ended`].
    pub fn ended(&mut self, key: K, failed: bool, now_us: u64) {
        self.change(key, |entry| entry.observed.ended(failed, now_us));
    }

    /// A worker no longer has a request that it had for so long, whatever became of it.
    pub fn freed(&mut self, key: K, had: Duration) {
        let model = self.workers.get(&key).and_then(|entry| self.models.get_mut(&entry.model));
        if let Some(model) = model {
            let had = had.as_secs_f64();
            let average = model.typical_s.map_or(had, |typical| typical + NEWEST_SHARE * (had - typical));
            model.typical_s = Some(average);
        }
    }

    /// How long it takes, by what was seen lately, until one of the requests under way at a model's workers ends and leaves
    /// its place. `None` where none has ended yet.
    #[must_use]
    pub fn next_place(&self, model: &str) -> Option<Duration> {
        let model = self.models.get(model)?;
        // Far fewer than 2^53.
        #[allow(clippy::cast_precision_loss)]
        let under_way = model.shelf.in_flight().max(1) as f64;
        Duration::try_from_secs_f64(model.typical_s? / under_way).ok()
    }

    /// A worker answered a request that begins with these prefixes, the shortest first.
    pub fn remember(&mut self, key: K, prefixes: &[u64]) {
        let model = self.workers.get(&key).and_then(|entry| self.models.get(&entry.model));
        if let Some(model) = model {
            self.prefixes.remember(model.number, prefixes, key);
        }
    }

    /// The time up to which it has come.
    #[must_use]
    pub const fn now_us(&self) -> u64 {
        self.now_us
    }

    /// Time went by: what failed long ago counts for less. Costs something only for workers that it changes.
    pub fn advance(&mut self, now_us: u64) {
        self.now_us = self.now_us.max(now_us);
        while let Some(&(at, key)) = self.timers.first()
            && at <= self.now_us
        {
            self.timers.pop_first();
            if let Some(entry) = self.workers.get_mut(&key) {
                entry.timer = None;
            }
            self.change(key, |_| ());
        }
    }

    /// Changes a worker, and its places in the index where they follow from what changed.
    fn change(&mut self, key: K, change: impl FnOnce(&mut Entry)) {
        let now_us = self.now_us;
        let Some(entry) = self.workers.get_mut(&key) else { return };
        let (old_state, old_place, old_ranks) = (entry.state, entry.place, entry.ranks);
        change(entry);
        (entry.place, entry.ranks) = (entry.place(now_us), entry.ranks(now_us));
        let timer = entry.observed.next_change(now_us);
        if timer != entry.timer {
            if let Some(at) = entry.timer {
                self.timers.remove(&(at, key));
            }
            if let Some(at) = timer {
                self.timers.insert((at, key));
            }
            entry.timer = timer;
        }
        if (old_state, old_place, old_ranks) == (entry.state, entry.place, entry.ranks) {
            return;
        }
        let Some(model) = self.models.get_mut(&entry.model) else { return };
        model.shelf.remove(key, &entry.name, &old_state, old_place, &old_ranks);
        model.shelf.add(key, entry.name, &entry.state, entry.place, &entry.ranks);
    }

    /// Chooses a worker of `model`, by the state of the last [`Market::advance`].
    ///
    /// # Errors
    /// Says why there is none.
    pub fn choose(&self, model: &str, wish: &Wish<'_, K>) -> Result<K, NoWorker> {
        let Model { number, shelf, .. } = self.models.get(model).ok_or(NoWorker::None)?;
        let look = |key: K| self.candidate(key, wish.preference);
        let warm = self.prefixes.find(*number, wish.affinity);
        shelf.choose(wish, warm, look)
    }

    fn candidate(&self, key: K, preference: Preference) -> Option<Candidate> {
        let entry = self.workers.get(&key)?;
        let State { coefficient, in_flight, limit, abilities, .. } = entry.state;
        let rank = entry.ranks[preference.index()];
        let place = entry.place;
        Some(Candidate { name: entry.name, coefficient, in_flight, limit, abilities, place, rank })
    }

    /// The models on offer, by name.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.models.keys().map(AsRef::as_ref)
    }

    /// The same, from this name on.
    pub fn models_from(&self, name: &str) -> impl Iterator<Item = &str> {
        let from = (Bound::Included(name), Bound::Unbounded);
        self.models.range::<str, _>(from).map(|(name, _)| name.as_ref())
    }

    /// The workers of a model.
    pub fn offers(&self, model: &str) -> impl Iterator<Item = Offer<K>> {
        let keys = self.models.get(model).into_iter().flat_map(|model| model.shelf.keys());
        keys.filter_map(|key| {
            let entry = self.workers.get(&key)?;
            Some(Offer { key, name: entry.name, state: entry.state, observed: entry.observed })
        })
    }
}
