//! How all of it is named where it is kept.

use crate::{Day, KeyId};

const KEYS: &str = "access/key/";
const SPENDING: &str = "access/spent/";
const USAGE: &str = "access/usage/";

/// Something that has to be written: the entry's name, and its value, or nothing where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredChange {
    /// Name of the entry.
    pub entry: String,
    /// Its value.
    pub value: Option<Vec<u8>>,
}

/// The prefixes of keys and of what they have spent.
pub(crate) const PREFIXES: [&str; 2] = [KEYS, SPENDING];

/// The entry of a key.
#[must_use]
pub fn key_entry(id: KeyId) -> String {
    format!("{KEYS}{id}")
}

pub(crate) fn spending_entry(id: KeyId) -> String {
    format!("{SPENDING}{id}")
}

/// The entry of a key's usage on a day.
#[must_use]
pub fn usage_entry(day: Day, id: KeyId) -> String {
    format!("{}{id}", day_prefix(Some(day)))
}

/// What all entries of a day's usage begin with; of all days', without one.
#[must_use]
pub fn day_prefix(day: Option<Day>) -> String {
    day.map_or_else(|| USAGE.to_owned(), |day| format!("{USAGE}{day}/"))
}

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    Key(KeyId),
    Spending(KeyId),
}

pub(crate) fn about(entry: &str) -> Option<About> {
    if let Some(id) = entry.strip_prefix(KEYS) {
        return id.parse().ok().map(About::Key);
    }
    entry.strip_prefix(SPENDING)?.parse().ok().map(About::Spending)
}
