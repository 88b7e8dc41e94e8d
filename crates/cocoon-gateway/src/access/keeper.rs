//! Reads what is stored, writes what has changed, and lets go of what is old.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cocoon_access::{Day, DayUsage, Desk, KeyId, Moment, StoredChange, Unwritten, day_prefix, usage_entry};
use cocoon_net::MonotonicClock;
use cocoon_store::{Change, SqliteStore, Store as _, StoreError, Written};

use super::admin::Slowly;
use super::holds::Holds;
use super::{Access, AccessConfig};
use crate::book::BookLoadError;

/// Entries that are read or removed at a time.
pub(super) const PAGE: usize = 1000;
/// How often old usage is looked for.
pub(crate) const TIDY_EVERY: Duration = Duration::from_secs(3600);

impl Access {
    /// Reads what is stored. Waits for the disk.
    pub(crate) fn open(
        clock: MonotonicClock,
        config: AccessConfig,
        http: SocketAddr,
    ) -> Result<Self, BookLoadError> {
        let store = Arc::new(SqliteStore::open(&config.store)?);
        let now = Moment(clock.micros());
        let mut desk = Desk::default();
        let bad = |detail: String| BookLoadError::Content { key: "access", detail };
        for prefix in Desk::PREFIXES {
            for_each(&store, prefix, |entry, value| {
                desk.restore(entry, value, now).map_err(|error| bad(error.to_string()))
            })?;
        }
        let today = day_prefix(Some(now.day()));
        for_each(&store, &today, |entry, value| {
            let id = entry.strip_prefix(&today).and_then(|id| id.parse::<KeyId>().ok());
            let usage = DayUsage::from_json(value).map_err(|error| bad(format!("{entry}: {error}")))?;
            if let Some(id) = id {
                desk.restore_usage(now.day(), id, usage);
            }
            Ok(())
        })?;
        let keys_needed = config.keys_needed(http);
        let (desk, holds) = (Mutex::new(desk), Mutex::new(Holds::default()));
        Ok(Self { desk, holds, store, clock, config, keys_needed, slowly: Slowly::new() })
    }

    /// Writes what has changed, and waits until it is durable. What could not be written counts as changed still.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        self.give_up_old(self.now());
        let Some((queued, unwritten)) = self.queue_changes()? else { return Ok(()) };
        let outcome = queued.await;
        if outcome.is_err() {
            self.desk().put_back(unwritten);
        }
        outcome
    }

    /// Under the lock, so that what is newer is also written later.
    fn queue_changes(&self) -> Result<Option<(Written, Unwritten)>, StoreError> {
        let now = self.now();
        let mut desk = self.desk();
        let (changes, unwritten) = desk.take_changes(now);
        if changes.is_empty() {
            return Ok(None);
        }
        let changes = changes.into_iter().map(|StoredChange { entry, value }| match value {
            Some(value) => Change::Put(entry, value.into()),
            None => Change::Remove(entry),
        });
        match self.store.write(changes.collect()) {
            Ok(written) => Ok(Some((written, unwritten))),
            Err(error) => {
                desk.put_back(unwritten);
                Err(error)
            }
        }
    }

    /// Removes usage, and revoked keys, that are older than they are kept.
    pub(crate) async fn tidy(&self) -> Result<(), StoreError> {
        let first_kept = self.now().day().minus(self.config.usage_days);
        self.desk().forget_revoked_before(Moment::from_seconds(first_kept.unix_seconds()));
        let kept_from = day_prefix(Some(first_kept));
        loop {
            let store = Arc::clone(&self.store);
            let listed = tokio::task::spawn_blocking(move || store.list(&day_prefix(None), None, PAGE)).await;
            // A look that panicked, or a runtime that ends, leaves things as they are.
            let Ok(page) = listed else { return Ok(()) };
            let entries = page?.into_iter().map(|(entry, _)| entry);
            let old: Vec<_> = entries.take_while(|entry| *entry < kept_from).map(Change::Remove).collect();
            let more = old.len() == PAGE;
            if !old.is_empty() {
                self.store.write(old)?.await?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Waits until nothing more can be written, and says why.
    pub(crate) async fn ended(&self) -> StoreError {
        cocoon_store::ended(&*self.store).await
    }

    /// Writes what has changed, and stops writing. Waits for the disk, but not for room on it.
    pub(crate) fn close(&self) -> Result<(), StoreError> {
        self.give_up_old(self.now());
        let queued = self.queue_changes().map(drop);
        self.store.close().and(queued)
    }

    /// A key's usage on a day, also what is not written yet. Waits for the disk.
    pub(super) fn usage_of(&self, day: Day, key: KeyId) -> Result<DayUsage, String> {
        if let Some(usage) = self.desk().usage(day, key) {
            return Ok(usage.clone());
        }
        match self.store.get(&usage_entry(day, key)).map_err(|error| error.to_string())? {
            Some(bytes) => DayUsage::from_json(&bytes).map_err(|error| error.to_string()),
            None => Ok(DayUsage::default()),
        }
    }
}

/// Every entry whose key begins with `prefix`, page by page.
fn for_each(
    store: &SqliteStore,
    prefix: &str,
    mut take: impl FnMut(&str, &[u8]) -> Result<(), BookLoadError>,
) -> Result<(), BookLoadError> {
    let mut after: Option<String> = None;
    loop {
        let page = store.list(prefix, after.as_deref(), PAGE)?;
        for (entry, value) in &page {
            take(entry, value)?;
        }
        match page.into_iter().next_back() {
            Some((last, _)) => after = Some(last),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cocoon_openai::Endpoint;

    use super::*;

    #[test]
    fn a_key_can_be_for_any_endpoint_that_there_is() {
        for endpoint in Endpoint::ALL {
            assert!(cocoon_access::is_endpoint(endpoint.name()), "{endpoint}");
        }
    }

    #[tokio::test]
    async fn usage_is_kept_for_its_time_and_then_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = AccessConfig::new(dir.path().join("access.sqlite"));
        config.usage_days = 30;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let access = Access::open(MonotonicClock::start(), config, nowhere).unwrap();
        let today = access.now().day();
        let days = (0..3 * u32::try_from(PAGE).unwrap()).map(|back| today.minus(back));
        let entries = days.map(|day| Change::Put(usage_entry(day, KeyId::NONE), b"[]".as_slice().into()));
        access.store.write(entries.collect()).unwrap().await.unwrap();
        access.tidy().await.unwrap();
        let left = access.store.list(&day_prefix(None), None, 4 * PAGE).unwrap();
        assert_eq!(left.len(), 31);
        assert_eq!(left[0].0, usage_entry(today.minus(30), KeyId::NONE));
    }
}
