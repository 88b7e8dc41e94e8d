//! Durable state of a node: one log of records with snapshots, and a small key-value table beside it.
//!
//! The [`Store`] trait is shaped for a ledger: [`Store::append`] returns at once with a position, commits
//! happen in groups, and [`Store::durable`] says how far they got. What must not leave the node before it is
//! durable waits for its position ([`wait_durable`]). [`SqliteStore`] keeps it all in one SQLite file.

mod error;
mod open;
mod queue;
mod sqlite;
mod writer;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

pub use error::StoreError;
pub use queue::{MAX_QUEUE_BYTES, MAX_QUEUE_ENTRIES};
pub use sqlite::SqliteStore;

/// A place in the log: the first record ever appended has position 1, and there are no gaps. A ledger all
/// of whose records are appended in order therefore counts the same positions.
pub type Position = u64;

/// Largest record, in bytes.
pub const MAX_RECORD_BYTES: usize = 64 * 1024;
/// Largest snapshot, in bytes.
pub const MAX_SNAPSHOT_BYTES: usize = 256 * 1024 * 1024;
/// Largest value of the key-value table, in bytes.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// Longest key of the key-value table, in bytes.
pub const MAX_KEY_BYTES: usize = 256;

/// Most entries that one [`Store::list`] gives.
pub const MAX_LISTED: usize = 65_536;

/// Largest file of a store, in bytes, where none is given. Snapshots keep a store far below it.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024 * 1024;

/// How far the log is durable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durability {
    /// Every record up to here survives a crash.
    pub position: Position,
    /// Why nothing after it does yet: the disk is full, or another program holds the file. It is tried again and again.
    pub waiting: Option<StoreError>,
    /// Why nothing after it ever will, once the store has failed. The store takes nothing more then.
    pub failure: Option<StoreError>,
}

/// Everything that a log holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The newest snapshot and its position.
    pub snapshot: Option<(Position, Bytes)>,
    /// The records after it, in order and without gaps.
    pub records: Vec<(Position, Bytes)>,
}

/// A change of the key-value table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Sets the value of a key.
    Put(String, Bytes),
    /// Removes a key and its value, if it is there.
    Remove(String),
}

impl Change {
    /// What it takes in the queue.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Put(key, value) => key.len() + value.len(),
            Self::Remove(key) => key.len(),
        }
    }
}

/// Resolves once a write is durable, or has failed. Dropping it does not take the write back.
#[derive(Debug)]
pub struct Written(oneshot::Receiver<Result<(), StoreError>>);

impl Future for Written {
    type Output = Result<(), StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|outcome| outcome.unwrap_or(Err(StoreError::Closed)))
    }
}

/// A log with snapshots and a single writer, and a key-value table beside it.
///
/// No method waits for the disk, except where it says so; writes are made durable in the order of the calls.
pub trait Store: Send + Sync {
    /// Queues records and returns the position of the last one (of the newest in the log, for an empty slice).
    ///
    /// # Errors
    /// [`StoreError::QueueFull`] where the disk does not keep up: nothing was queued; append the same records
    /// again, before any newer one, once [`Store::durable`] has moved. [`StoreError::TooLarge`] for a record
    /// over [`MAX_RECORD_BYTES`]. Any other error is the failure that ended the store.
    fn append(&self, records: &[Bytes]) -> Result<Position, StoreError>;

    /// Watches how far the log is durable.
    fn durable(&self) -> watch::Receiver<Durability>;

    /// Queues a snapshot of everything up to `at`; once durable it replaces those records.
    ///
    /// # Errors
    /// [`StoreError::SnapshotPosition`] where `at` was never appended or is before the newest snapshot;
    /// otherwise as for [`Store::append`].
    fn save_snapshot(&self, at: Position, bytes: Bytes) -> Result<Written, StoreError>;

    /// Reads the newest snapshot and the durable records after it. Waits for the disk: for the start of a node.
    ///
    /// # Errors
    /// [`StoreError`] where the file cannot be read or records are missing.
    fn load(&self) -> Result<Loaded, StoreError>;

    /// Queues a value for a key, replacing its former value.
    ///
    /// # Errors
    /// As for [`Store::append`].
    fn put(&self, key: &str, value: Bytes) -> Result<Written, StoreError>;

    /// Queues changes that become durable together or not at all, in their order.
    ///
    /// # Errors
    /// As for [`Store::append`]; nothing is queued where one of them exceeds its limit.
    fn write(&self, changes: Vec<Change>) -> Result<Written, StoreError>;

    /// Reads the durable entries whose keys begin with `prefix` and come after `after`, in the order of their keys, at
    /// most `limit` and [`MAX_LISTED`] of them. Waits for the disk.
    ///
    /// # Errors
    /// [`StoreError`] where the file cannot be read.
    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Bytes)>, StoreError>;

    /// Reads the durable value of a key. Waits for the disk.
    ///
    /// # Errors
    /// [`StoreError`] where the file cannot be read.
    fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError>;

    /// The writer's number: each opening of the store has a higher one, and only the highest can write.
    fn epoch(&self) -> u64;

    /// Takes nothing more, makes everything queued durable, and stops. Waits for the disk, but not for room on it.
    ///
    /// # Errors
    /// The failure that ended the store, if one did.
    fn close(&self) -> Result<(), StoreError>;
}

/// Waits until a store takes nothing more, and says why.
pub async fn ended(store: &(impl Store + ?Sized)) -> StoreError {
    let mut durable = store.durable();
    let failed = durable.wait_for(|state| state.failure.is_some()).await;
    failed.ok().and_then(|state| state.failure.clone()).unwrap_or(StoreError::Closed)
}

/// Waits until everything up to `position` is durable.
///
/// # Errors
/// The failure that ended the store before it was, or [`StoreError::Closed`].
pub async fn wait_durable(store: &(impl Store + ?Sized), position: Position) -> Result<(), StoreError> {
    let mut durable = store.durable();
    let reached = durable.wait_for(|state| state.position >= position || state.failure.is_some()).await;
    let state = reached.map_err(|_| StoreError::Closed)?;
    match &state.failure {
        Some(failure) if state.position < position => Err(failure.clone()),
        _ => Ok(()),
    }
}
