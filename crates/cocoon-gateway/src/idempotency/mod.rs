//! `Idempotency-Key`: a request that comes again with the same key is answered with what the first one got.
//!
//! - [`Table`]: which keys are under way and which answers are kept, within bounds; no I/O, no clock.
//! - [`once`]: runs a request under its key, records its answer, and replays it.
//!
//! All of it is in memory and gone with the process: answers are never written to a disk, and neither they nor keys are
//! logged. Only whole answers with a status of success are kept; whatever failed may be asked again.

mod once;
mod table;

pub(crate) use once::{Recording, Request, key_of, once};
pub(crate) use table::Table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a header takes beside its name and value, in bytes.
const HEADER_OVERHEAD_BYTES: usize = 128;

/// How many answers are kept for requests with an `Idempotency-Key`, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdempotencyLimits {
    /// How long an answer is kept; 24 h.
    pub time: Duration,
    /// Keys at a time; 10,000. 0: the header is ignored. The oldest answer of the caller who has most of them makes room.
    pub entries: usize,
    /// Bytes of all answers with their headers; 64 MiB. The oldest answer of the caller who has most makes room.
    pub bytes: usize,
    /// The largest answer that is kept, with its headers, in bytes; 4 MiB.
    pub answer_bytes: usize,
}

impl Default for IdempotencyLimits {
    fn default() -> Self {
        Self { time: Duration::from_secs(24 * 3600), entries: 10_000, bytes: 64 << 20, answer_bytes: 4 << 20 }
    }
}

/// An answer that is kept. All of it is a copy: what came may be a slice of a connection's whole buffer.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Recorded {
    fn bytes(&self) -> usize {
        header_bytes(&self.headers) + self.body.len()
    }
}

/// What headers take in memory.
fn header_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD_BYTES).sum()
}

/// The keys of a gateway, and the tasks that end requests whose callers have left.
#[derive(Debug)]
pub(crate) struct Idempotency {
    table: Mutex<Table>,
    tasks: TaskTracker,
    abort: CancellationToken,
}

impl Idempotency {
    /// What it starts ends with `abort`, and is counted in `tasks`.
    pub(crate) fn new(limits: IdempotencyLimits, tasks: TaskTracker, abort: CancellationToken) -> Self {
        Self { table: Mutex::new(Table::new(limits)), tasks, abort }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let abort = self.abort.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = work => {}
                () = abort.cancelled() => {}
            }
        });
    }
}

/// The right to run a request under its key. Dropped before [`Ticket::keep`], the key is free again.
#[derive(Debug)]
pub(crate) struct Ticket {
    all: Arc<Idempotency>,
    serial: Option<u64>,
}

impl Ticket {
    /// Whether so many more bytes may be held for the answer.
    fn hold(&self, bytes: usize) -> bool {
        self.serial.is_some_and(|serial| self.all.table().hold(serial, bytes))
    }

    fn keep(mut self, recorded: Recorded) {
        if let Some(serial) = self.serial.take() {
            self.all.table().finish(serial, Some(recorded), Instant::now());
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(serial) = self.serial.take() {
            self.all.table().finish(serial, None, Instant::now());
        }
    }
}
