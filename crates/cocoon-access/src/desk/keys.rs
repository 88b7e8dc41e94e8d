//! Making, finding, changing and ending keys.

use serde_json::{Map, Value};

use super::{Denied, Desk, Entry, MAX_KEYS};
use crate::record::Previous;
use crate::{KeyId, KeyRecord, KeySecret, KeySettings, Moment, RateView, SettingsError, Spending};

/// Why a key was not made or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The settings make no sense.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A field is unknown or of the wrong kind.
    #[error("{0}")]
    Field(String),
    /// The name is taken.
    #[error("there is a key named '{0}' already; revoke it first, or choose another name")]
    NameTaken(String),
    /// There is no such key.
    #[error("there is no such key; `cocoon keys list` shows all")]
    NotFound,
    /// It was revoked, for good.
    #[error("this key was revoked, and does not come back; make a new one")]
    Revoked,
    /// There are too many keys.
    #[error("there are {MAX_KEYS} keys already; revoke those that nobody needs")]
    TooMany,
}

/// A key and how it stands.
#[derive(Debug, Clone)]
pub struct KeyView {
    /// What is set for it.
    pub record: KeyRecord,
    /// What it has spent.
    pub spending: Spending,
    /// Requests in a minute, where they are limited.
    pub requests: Option<RateView>,
    /// Tokens in a minute, where they are limited.
    pub tokens: Option<RateView>,
    /// Requests under way.
    pub running: u64,
}

impl Desk {
    /// The key of this secret.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn identify(&self, secret: &KeySecret, now: Moment) -> Result<KeyId, Denied> {
        let shown = secret.hash();
        let entry = self.by_hash.get(&shown.bucket()).and_then(|id| self.keys.get(id));
        let record = &entry.ok_or(Denied::Unknown)?.record;
        let known = record.hashes().fold(false, |known, hash| hash.is(&shown) | known);
        let current = record.hash.as_deref().and_then(crate::KeyHash::from_hex);
        let is_current = current.is_some_and(|hash| hash.is(&shown));
        let outlived = |previous: &Previous| previous.until_unix_seconds <= now.seconds();
        if !known || !is_current && record.previous.as_ref().is_none_or(outlived) {
            return Err(Denied::Unknown);
        }
        usable(record, now)?;
        Ok(record.id)
    }

    /// Whether any key can be used now.
    #[must_use]
    pub fn has_usable_keys(&self, now: Moment) -> bool {
        self.keys.values().any(|entry| usable(&entry.record, now).is_ok())
    }

    /// The id of the key that is meant by its id or name; a key that is in use goes before revoked ones of its name.
    #[must_use]
    pub fn find(&self, id_or_name: &str) -> Option<KeyId> {
        if let Ok(id) = id_or_name.parse() {
            return self.keys.contains_key(&id).then_some(id);
        }
        let named = self.keys.values().map(|entry| &entry.record);
        let named = named.filter(|record| record.settings.name == id_or_name);
        named.max_by_key(|record| record.revoked.unwrap_or(u64::MAX)).map(|record| record.id)
    }

    /// A key and how it stands.
    #[must_use]
    pub fn view(&self, id: KeyId, now: Moment) -> Option<KeyView> {
        self.keys.get(&id).map(|entry| view(entry, now))
    }

    /// All keys, oldest first.
    #[must_use]
    pub fn views(&self, now: Moment) -> Vec<KeyView> {
        let mut views: Vec<_> = self.keys.values().map(|entry| view(entry, now)).collect();
        views.sort_by_key(|view| (view.record.created, view.record.id));
        views
    }

    /// The name of a key, for lists of usage.
    #[must_use]
    pub fn name(&self, id: KeyId) -> Option<&str> {
        self.keys.get(&id).map(|entry| entry.record.settings.name.as_str())
    }

    /// What is set for a key.
    #[must_use]
    pub fn settings(&self, id: KeyId) -> Option<&KeySettings> {
        self.keys.get(&id).map(|entry| &entry.record.settings)
    }

    /// Makes a key of this secret.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn create(
        &mut self,
        id: KeyId,
        secret: &KeySecret,
        settings: KeySettings,
        now: Moment,
    ) -> Result<(), ChangeError> {
        settings.check()?;
        self.refuse_taken(&settings.name, id)?;
        if self.keys.len() >= MAX_KEYS {
            let revoked = self.keys.values().filter(|entry| entry.record.revoked.is_some());
            let oldest = revoked.min_by_key(|entry| entry.record.revoked).map(|entry| entry.record.id);
            self.remove(oldest.ok_or(ChangeError::TooMany)?);
        }
        let record = KeyRecord {
            id,
            hint: secret.hint(),
            created: now.seconds(),
            revoked: None,
            settings,
            hash: Some(secret.hash().to_hex()),
            previous: None,
        };
        self.put(id, Entry::new(record, now));
        self.unwritten.keys.insert(id);
        Ok(())
    }

    /// Changes the settings that `patch` names, in the form of [`KeySettings`]; `null` takes a limit away.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing is changed then.
    pub fn change(&mut self, id: KeyId, patch: &Map<String, Value>, now: Moment) -> Result<(), ChangeError> {
        let entry = self.live(id)?;
        let mut fields = match serde_json::to_value(&entry.record.settings) {
            Ok(Value::Object(fields)) => fields,
            // A structure of our own is an object.
            _ => Map::new(),
        };
        for (name, value) in patch {
            // What is null goes, and comes back as its default.
            if value.is_null() {
                fields.remove(name)
            } else {
                fields.insert(name.clone(), value.clone())
            };
        }
        let settings: KeySettings = serde_json::from_value(Value::Object(fields))
            .map_err(|error| ChangeError::Field(error.to_string()))?;
        settings.check()?;
        self.refuse_taken(&settings.name, id)?;
        let entry = self.live(id)?;
        let adapted = |bucket: Option<crate::Bucket>, limit: Option<u64>| match (bucket, limit) {
            (_, None) => None,
            (None, Some(limit)) => Some(crate::Bucket::new(limit, now)),
            (Some(bucket), Some(limit)) => Some(bucket.with_limit(limit, now)),
        };
        entry.requests = adapted(entry.requests, settings.requests_per_minute);
        entry.tokens = adapted(entry.tokens, settings.tokens_per_minute);
        entry.record.settings = settings;
        self.unwritten.keys.insert(id);
        Ok(())
    }

    /// Ends a key for good. It stays in lists, with what it used. Revoking it twice is no error.
    ///
    /// # Errors
    /// [`ChangeError::NotFound`].
    pub fn revoke(&mut self, id: KeyId, now: Moment) -> Result<(), ChangeError> {
        let entry = self.keys.get_mut(&id).ok_or(ChangeError::NotFound)?;
        for hash in entry.record.hashes() {
            self.by_hash.remove(&hash.bucket());
        }
        entry.record.revoked.get_or_insert(now.seconds());
        (entry.record.hash, entry.record.previous) = (None, None);
        self.unwritten.keys.insert(id);
        Ok(())
    }

    /// Gives a key a new secret. The old one is good for `grace_seconds` more.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn rotate(
        &mut self,
        id: KeyId,
        secret: &KeySecret,
        grace_seconds: u64,
        now: Moment,
    ) -> Result<(), ChangeError> {
        let entry = self.live(id)?;
        let old: Vec<_> = entry.record.hashes().map(|hash| hash.bucket()).collect();
        let until_unix_seconds = now.seconds().saturating_add(grace_seconds);
        let replaced = entry.record.hash.replace(secret.hash().to_hex());
        entry.record.previous =
            replaced.filter(|_| grace_seconds > 0).map(|hash| Previous { hash, until_unix_seconds });
        entry.record.hint = secret.hint();
        let new: Vec<_> = entry.record.hashes().map(|hash| hash.bucket()).collect();
        for bucket in old {
            self.by_hash.remove(&bucket);
        }
        self.by_hash.extend(new.into_iter().map(|bucket| (bucket, id)));
        self.unwritten.keys.insert(id);
        Ok(())
    }

    /// Gives back what was counted as spent without an agreed cost.
    ///
    /// # Errors
    /// [`ChangeError::NotFound`].
    pub fn forgive(&mut self, id: KeyId) -> Result<(), ChangeError> {
        self.keys.get_mut(&id).ok_or(ChangeError::NotFound)?.spending.forgive();
        self.unwritten.spending.insert(id);
        Ok(())
    }

    /// Forgets keys that were revoked before this moment.
    pub fn forget_revoked_before(&mut self, end: Moment) {
        let old = self.keys.values().map(|entry| &entry.record);
        let old = old.filter(|record| record.revoked.is_some_and(|revoked| revoked < end.seconds()));
        for id in old.map(|record| record.id).collect::<Vec<_>>() {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: KeyId) {
        self.keys.remove(&id);
        self.unwritten.keys.insert(id);
        self.unwritten.spending.insert(id);
    }

    fn live(&mut self, id: KeyId) -> Result<&mut Entry, ChangeError> {
        let entry = self.keys.get_mut(&id).ok_or(ChangeError::NotFound)?;
        if entry.record.revoked.is_some() { Err(ChangeError::Revoked) } else { Ok(entry) }
    }

    fn refuse_taken(&self, name: &str, but: KeyId) -> Result<(), ChangeError> {
        let mut others = self.keys.values().map(|entry| &entry.record);
        let taken =
            others.any(|other| other.settings.name == name && other.id != but && other.revoked.is_none());
        if taken { Err(ChangeError::NameTaken(name.to_owned())) } else { Ok(()) }
    }
}

/// Whether a key can be used now.
pub(super) fn usable(record: &KeyRecord, now: Moment) -> Result<(), Denied> {
    match record.state(now) {
        "active" => Ok(()),
        "disabled" => Err(Denied::Disabled),
        "expired" => Err(Denied::Expired),
        _ => Err(Denied::Unknown),
    }
}

fn view(entry: &Entry, now: Moment) -> KeyView {
    KeyView {
        record: entry.record.clone(),
        spending: entry.spending.on(now.day()),
        requests: entry.requests.map(|bucket| bucket.view(now)),
        tokens: entry.tokens.map(|bucket| bucket.view(now)),
        running: entry.running,
    }
}
