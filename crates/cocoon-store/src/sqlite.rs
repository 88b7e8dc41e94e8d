//! A store in one SQLite file.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::{oneshot, watch};

use crate::open::{self, from_sql};
use crate::queue::Queue;
use crate::writer::Writer;
use crate::{
    Change, Durability, Loaded, MAX_FILE_BYTES, MAX_KEY_BYTES, MAX_LISTED, MAX_RECORD_BYTES,
    MAX_SNAPSHOT_BYTES, MAX_VALUE_BYTES, Position, Store, StoreError, Written,
};

/// A [`Store`] in one SQLite file: mode 0600, write-ahead log, each commit synced, one writer thread that
/// commits in groups. Whoever opens the file last is its writer; an earlier one fails with
/// [`StoreError::Fenced`] at its next commit. Dropping it closes it.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    epoch: u64,
    queue: Arc<Queue>,
    durable: watch::Receiver<Durability>,
    reader: Mutex<Connection>,
    thread: Mutex<Option<JoinHandle<()>>>,
    commits: Arc<AtomicU64>,
}

impl SqliteStore {
    /// Opens or creates the file and takes over as its writer. Waits for the disk.
    ///
    /// # Errors
    /// [`StoreError`], naming the file and what to do.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_limited(path, MAX_FILE_BYTES)
    }

    /// As [`SqliteStore::open`], for a file of at most `max_bytes`; past them the store waits as on a full disk.
    ///
    /// # Errors
    /// [`StoreError`], naming the file and what to do.
    pub fn open_limited(path: impl AsRef<Path>, max_bytes: u64) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        let opened = open::open(&path, max_bytes)?;
        let queue = Arc::new(Queue::starting_at(opened.end, opened.snapshot));
        let (durable_sender, durable) =
            watch::channel(Durability { position: opened.end, ..Durability::default() });
        let commits = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            path: path.clone(),
            connection: opened.writer,
            epoch: opened.epoch,
            queue: Arc::clone(&queue),
            durable: durable_sender,
            commits: Arc::clone(&commits),
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| StoreError::Io { path: path.clone(), detail: error.to_string() })?;
        let (reader, thread) = (Mutex::new(opened.reader), Mutex::new(Some(thread)));
        Ok(Self { path, epoch: opened.epoch, queue, durable, reader, thread, commits })
    }

    /// How many transactions were committed since the opening.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        // One transaction, so that all of it is of one moment.
        reader
            .transaction()
            .and_then(|transaction| read(&transaction))
            .map_err(|error| StoreError::from_sqlite(&self.path, &error))
    }

    fn thread(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for SqliteStore {
    fn append(&self, records: &[Bytes]) -> Result<Position, StoreError> {
        records.iter().try_for_each(|record| at_most("record", record.len(), MAX_RECORD_BYTES))?;
        self.queue.append(records)
    }

    fn durable(&self) -> watch::Receiver<Durability> {
        self.durable.clone()
    }

    fn save_snapshot(&self, at: Position, bytes: Bytes) -> Result<Written, StoreError> {
        at_most("snapshot", bytes.len(), MAX_SNAPSHOT_BYTES)?;
        let (done, written) = oneshot::channel();
        self.queue.snapshot(at, bytes, done)?;
        Ok(Written(written))
    }

    fn load(&self) -> Result<Loaded, StoreError> {
        let (snapshot, rows) = self.read(|transaction| {
            let snapshot = transaction
                .query_row("SELECT position, bytes FROM snapshot", [], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let mut select = transaction.prepare("SELECT position, bytes FROM records ORDER BY position")?;
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok((snapshot, rows.collect::<rusqlite::Result<Vec<(i64, Vec<u8>)>>>()?))
        })?;
        let own =
            |(position, bytes): (i64, Vec<u8>)| Ok((from_sql(&self.path, position)?, Bytes::from(bytes)));
        let snapshot = snapshot.map(own).transpose()?;
        let records = rows.into_iter().map(own).collect::<Result<Vec<_>, StoreError>>()?;
        let start = snapshot.as_ref().map_or(0, |(position, _)| *position);
        for (expected, (position, _)) in (start + 1..).zip(&records) {
            if expected != *position {
                let detail = format!("record {expected} is missing");
                return Err(StoreError::Corrupt { path: self.path.clone(), detail });
            }
        }
        Ok(Loaded { snapshot, records })
    }

    fn put(&self, key: &str, value: Bytes) -> Result<Written, StoreError> {
        at_most("key", key.len(), MAX_KEY_BYTES)?;
        at_most("value", value.len(), MAX_VALUE_BYTES)?;
        let (done, written) = oneshot::channel();
        self.queue.put(key, value, done)?;
        Ok(Written(written))
    }

    fn write(&self, changes: Vec<Change>) -> Result<Written, StoreError> {
        for change in &changes {
            match change {
                Change::Put(key, value) => {
                    at_most("key", key.len(), MAX_KEY_BYTES)?;
                    at_most("value", value.len(), MAX_VALUE_BYTES)?;
                }
                Change::Remove(key) => at_most("key", key.len(), MAX_KEY_BYTES)?,
            }
        }
        let (done, written) = oneshot::channel();
        self.queue.write(changes, done)?;
        Ok(Written(written))
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Bytes)>, StoreError> {
        // Keys compare as bytes; what begins with the prefix stands together.
        const FROM: &str =
            "SELECT key, value FROM entries WHERE key >= ?1 AND key > ?2 ORDER BY key LIMIT ?3";
        let limit = limit.min(MAX_LISTED);
        self.read(|transaction| {
            let mut select = transaction.prepare(FROM)?;
            let mut rows = select.query((
                prefix,
                after.unwrap_or_default(),
                i64::try_from(limit).unwrap_or(i64::MAX),
            ))?;
            let mut listed = Vec::new();
            while let Some(row) = rows.next()? {
                let key: String = row.get(0)?;
                if !key.starts_with(prefix) {
                    break;
                }
                listed.push((key, Bytes::from(row.get::<_, Vec<u8>>(1)?)));
            }
            Ok(listed)
        })
    }

    fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let value = self.read(|transaction| {
            transaction
                .query_row("SELECT value FROM entries WHERE key = ?1", (key,), |row| row.get::<_, Vec<u8>>(0))
                .optional()
        })?;
        Ok(value.map(Bytes::from))
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn close(&self) -> Result<(), StoreError> {
        self.queue.end(StoreError::Closed);
        // The lock is held while joining, so that a second caller returns only once the first one's drain is done.
        if let Some(thread) = self.thread().take() {
            // A writer that panicked has dropped its end of `durable`; nothing more can be learnt from it.
            if thread.join().is_err() {
                let detail = "the writer thread died".to_owned();
                return Err(StoreError::Io { path: self.path.clone(), detail });
            }
        }
        match &self.durable.borrow().failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // Whoever wants to know the outcome calls `close` first.
        let _ = self.close();
    }
}

fn at_most(what: &'static str, bytes: usize, limit: usize) -> Result<(), StoreError> {
    if bytes > limit { Err(StoreError::TooLarge { what, bytes, limit }) } else { Ok(()) }
}
