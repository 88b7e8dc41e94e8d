//! All keys together: who is let in, what is set aside and spent, and what has to be written down.

mod keys;
mod requests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Error as JsonError;

use crate::stored::{About, PREFIXES, about, key_entry, spending_entry, usage_entry};
use crate::{
    Bucket, Counts, Day, DayUsage, Exhausted, KeyId, KeyRecord, Moment, RateView, Spending, StoredChange,
};

pub use keys::{ChangeError, KeyView};
pub use requests::{RequestEnd, Ticket};

/// Most keys that are kept, revoked ones too. Where there are more, the longest revoked go.
pub const MAX_KEYS: usize = 10_000;

/// Keys whose sums since the start are told apart; those of all others are one.
pub const MAX_SUMS: usize = 500;

/// Why a secret opens nothing. Only who has the secret of an existing key learns more than [`Denied::Unknown`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No key has this secret, or it was revoked or replaced.
    #[error("this key does not exist, or was revoked")]
    Unknown,
    /// It was switched off.
    #[error("this key is disabled")]
    Disabled,
    /// Its time is over.
    #[error("this key has expired")]
    Expired,
}

/// Why a request of a key is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The key is good no more.
    Key(Denied),
    /// The key is not for this endpoint.
    Endpoint,
    /// The key is not for this model.
    Model,
    /// So many requests of the key are under way, and more may not be.
    Concurrent(u64),
    /// Too many requests in a minute.
    Requests {
        /// How they stand.
        rate: RateView,
        /// How long to wait, in microseconds.
        wait_micros: u64,
    },
    /// Too many tokens in a minute.
    Tokens {
        /// How they stand.
        rate: RateView,
        /// How long to wait, in microseconds.
        wait_micros: u64,
    },
    /// What the request can cost does not fit into the budget.
    Budget {
        /// Which budget.
        which: Exhausted,
        /// What the request can cost, in nanoton.
        wanted: u64,
    },
}

#[derive(Debug)]
struct Entry {
    record: KeyRecord,
    spending: Spending,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    running: u64,
}

impl Entry {
    fn new(record: KeyRecord, now: Moment) -> Self {
        let bucket = |limit: Option<u64>| limit.map(|limit| Bucket::new(limit, now));
        Self {
            spending: Spending { day: now.day(), ..Spending::default() },
            requests: bucket(record.settings.requests_per_minute),
            tokens: bucket(record.settings.tokens_per_minute),
            running: 0,
            record,
        }
    }
}

/// What has changed and is not written yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unwritten {
    keys: BTreeSet<KeyId>,
    spending: BTreeSet<KeyId>,
    usage: BTreeSet<(Day, KeyId)>,
}

impl Unwritten {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// All keys of a gateway.
#[derive(Debug, Default)]
pub struct Desk {
    keys: HashMap<KeyId, Entry>,
    by_hash: HashMap<[u8; 16], KeyId>,
    /// Of today, and older ones until they are written.
    usage: BTreeMap<(Day, KeyId), DayUsage>,
    /// Since the start; `None`: all keys that came when there were [`MAX_SUMS`].
    sums: BTreeMap<Option<KeyId>, Counts>,
    unwritten: Unwritten,
}

/// Something stored is not what this program writes.
#[derive(Debug, thiserror::Error)]
#[error("{entry}: {source}")]
pub struct BadEntry {
    /// Which entry.
    pub entry: String,
    /// What is wrong with it.
    pub source: JsonError,
}

impl Desk {
    /// The prefixes of the entries that [`Desk::restore`] takes, in the order in which it takes them.
    pub const PREFIXES: [&str; 2] = PREFIXES;

    /// Takes an entry that was stored; of others it takes no notice.
    ///
    /// # Errors
    /// [`BadEntry`].
    pub fn restore(&mut self, entry: &str, value: &[u8], now: Moment) -> Result<(), BadEntry> {
        let bad = |source| BadEntry { entry: entry.to_owned(), source };
        match about(entry) {
            Some(About::Key(id)) => {
                let record: KeyRecord = serde_json::from_slice(value).map_err(bad)?;
                self.put(id, Entry::new(record, now));
            }
            Some(About::Spending(id)) => {
                let spending: Spending = serde_json::from_slice(value).map_err(bad)?;
                if let Some(entry) = self.keys.get_mut(&id) {
                    entry.spending = spending.revived();
                    if entry.spending != spending {
                        self.unwritten.spending.insert(id);
                    }
                }
            }
            None => {}
        }
        Ok(())
    }

    /// Takes what was stored of a key's usage today.
    pub fn restore_usage(&mut self, day: Day, id: KeyId, usage: DayUsage) {
        self.usage.insert((day, id), usage);
    }

    /// What must be written now, all together; give `Unwritten` back where that failed.
    pub fn take_changes(&mut self, now: Moment) -> (Vec<StoredChange>, Unwritten) {
        let taken = std::mem::take(&mut self.unwritten);
        let mut changes = Vec::new();
        for id in &taken.keys {
            let value = self.keys.get(id).map(|entry| json(&entry.record));
            changes.push(StoredChange { entry: key_entry(*id), value });
        }
        for id in &taken.spending {
            let value = self.keys.get(id).map(|entry| json(&entry.spending));
            changes.push(StoredChange { entry: spending_entry(*id), value });
        }
        for (day, id) in &taken.usage {
            let value = self.usage.get(&(*day, *id)).map(DayUsage::to_json);
            changes.push(StoredChange { entry: usage_entry(*day, *id), value });
        }
        let yesterday = now.day().minus(1);
        self.usage.retain(|row, _| row.0 >= yesterday || taken.usage.contains(row));
        (changes, taken)
    }

    /// What could not be written counts as changed again.
    pub fn put_back(&mut self, unwritten: Unwritten) {
        self.unwritten.keys.extend(unwritten.keys);
        self.unwritten.spending.extend(unwritten.spending);
        self.unwritten.usage.extend(unwritten.usage);
    }

    /// A key's usage on a day, as far as it is in memory: newer than what is stored.
    #[must_use]
    pub fn usage(&self, day: Day, id: KeyId) -> Option<&DayUsage> {
        self.usage.get(&(day, id))
    }

    /// The usage in memory of all days from `from` to `to`.
    pub fn usage_between(&self, from: Day, to: Day) -> impl Iterator<Item = (Day, KeyId, &DayUsage)> {
        let days = self.usage.iter().filter(move |((day, _), _)| (from..=to).contains(day));
        days.map(|((day, id), usage)| (*day, *id, usage))
    }

    /// What was used since the start, by key; `None` stands for all those that came when [`MAX_SUMS`] had sums.
    pub fn sums(&self) -> impl Iterator<Item = (Option<KeyId>, &Counts)> {
        self.sums.iter().map(|(id, counts)| (*id, counts))
    }

    fn sum_of(&mut self, id: KeyId) -> &mut Counts {
        let told_apart = self.sums.len() < MAX_SUMS || self.sums.contains_key(&Some(id));
        self.sums.entry(told_apart.then_some(id)).or_default()
    }

    fn put(&mut self, id: KeyId, entry: Entry) {
        for hash in entry.record.hashes() {
            self.by_hash.insert(hash.bucket(), id);
        }
        self.keys.insert(id, entry);
    }
}

/// Values of our own, strings and numbers only: serialising them cannot fail.
fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
