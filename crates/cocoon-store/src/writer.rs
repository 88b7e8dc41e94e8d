//! The writer thread: everything that is queued becomes one transaction, again and again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::watch;

use crate::open::{from_sql, to_sql};
use crate::queue::{Done, Job, Queue};
use crate::{Change, Durability, StoreError};

/// How long the writer waits before it tries again what the disk had no room for.
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(crate) struct Writer {
    pub(crate) path: PathBuf,
    pub(crate) connection: Connection,
    pub(crate) epoch: u64,
    pub(crate) queue: Arc<Queue>,
    pub(crate) durable: watch::Sender<Durability>,
    pub(crate) commits: Arc<AtomicU64>,
}

impl Writer {
    /// Runs until the queue is ended and empty, or until a failure that waiting does not mend.
    pub(crate) fn run(mut self) {
        while let Some(jobs) = self.queue.take_all() {
            let outcome = self.commit_patiently(&jobs);
            if let Err(failure) = &outcome {
                self.queue.end(failure.clone());
                self.durable.send_modify(|state| {
                    (state.waiting, state.failure) = (None, Some(failure.clone()));
                });
                // What was queued between the commit and the end fails with it.
                if let Some(late) = self.queue.take_all() {
                    answer(late, &outcome);
                }
            } else {
                self.commits.fetch_add(1, Ordering::Relaxed);
                let last = jobs.iter().rev().find_map(|job| match job {
                    Job::Record { position, .. } => Some(*position),
                    _ => None,
                });
                if let Some(position) = last {
                    self.durable.send_modify(|state| state.position = position);
                }
            }
            let failed = outcome.is_err();
            answer(jobs, &outcome);
            if failed {
                return;
            }
        }
    }

    /// Where the disk is full or somebody holds the file, what was begun is taken back and tried again: nobody was told of
    /// it yet, so waiting costs time only. A store that is being closed waits no more.
    fn commit_patiently(&mut self, jobs: &[Job]) -> Result<(), StoreError> {
        let mut waits = false;
        loop {
            let outcome = self.commit(jobs);
            let Err(error) = &outcome else { break };
            if !error.passes() || !self.roll_back() || self.queue.has_ended() {
                return outcome;
            }
            if !waits {
                tracing::warn!(%error, "waiting to write; nothing new is confirmed meanwhile");
                self.durable.send_modify(|state| state.waiting = Some(error.clone()));
                waits = true;
            }
            self.queue.wait_for_end(RETRY_AFTER);
        }
        if waits {
            tracing::info!(path = %self.path.display(), "writing goes on");
            self.durable.send_modify(|state| state.waiting = None);
        }
        Ok(())
    }

    /// Ends a transaction that failed, where SQLite has not done so itself. Whether there is none now.
    fn roll_back(&self) -> bool {
        self.connection.is_autocommit() || self.connection.execute_batch("ROLLBACK").is_ok()
    }

    /// All or nothing, once the caller has rolled a failed transaction back or let go of the connection.
    fn commit(&mut self, jobs: &[Job]) -> Result<(), StoreError> {
        let sqlite = |error: rusqlite::Error| StoreError::from_sqlite(&self.path, &error);
        // Statements are kept: parsing them each time would cost as much as the writing.
        let run = |text: &str| self.connection.prepare_cached(text)?.execute([]).map(drop);
        // The write lock is held from here on, so the epoch cannot change before the commit.
        run("BEGIN IMMEDIATE").map_err(sqlite)?;
        let epoch: i64 = self
            .connection
            .prepare_cached("SELECT epoch FROM epoch")
            .and_then(|mut select| select.query_row([], |row| row.get(0)))
            .map_err(sqlite)?;
        if from_sql(&self.path, epoch)? != self.epoch {
            return Err(StoreError::Fenced { path: self.path.clone(), epoch: self.epoch });
        }
        for job in jobs {
            write(&self.connection, job).map_err(sqlite)?;
        }
        run("COMMIT").map_err(sqlite)
    }
}

impl Drop for Writer {
    /// Whatever ends the thread, nobody queues for it any more.
    fn drop(&mut self) {
        self.queue.end(StoreError::Closed);
    }
}

/// Within the transaction that is open.
fn write(transaction: &Connection, job: &Job) -> rusqlite::Result<()> {
    match job {
        Job::Record { position, bytes } => {
            let mut insert = transaction.prepare_cached("INSERT INTO records VALUES (?1, ?2)")?;
            insert.execute((to_sql(*position), &bytes[..]))?;
        }
        Job::Snapshot { at, bytes, .. } => {
            let at = to_sql(*at);
            transaction.execute("INSERT OR REPLACE INTO snapshot VALUES (1, ?1, ?2)", (at, &bytes[..]))?;
            transaction.execute("DELETE FROM records WHERE position <= ?1", (at,))?;
        }
        Job::Put { key, value, .. } => put(transaction, key, value)?,
        Job::Write { changes, .. } => {
            for change in changes {
                match change {
                    Change::Put(key, value) => put(transaction, key, value)?,
                    Change::Remove(key) => {
                        let mut delete = transaction.prepare_cached("DELETE FROM entries WHERE key = ?1")?;
                        delete.execute((key,))?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn put(transaction: &Connection, key: &str, value: &[u8]) -> rusqlite::Result<()> {
    let mut upsert = transaction.prepare_cached("INSERT OR REPLACE INTO entries VALUES (?1, ?2)")?;
    upsert.execute((key, value)).map(drop)
}

fn answer(jobs: Vec<Job>, outcome: &Result<(), StoreError>) {
    let tell = |done: Done| {
        // A caller that did not wait is not told.
        let _ = done.send(outcome.clone());
    };
    for job in jobs {
        match job {
            Job::Record { .. } => {}
            Job::Snapshot { done, .. } | Job::Put { done, .. } | Job::Write { done, .. } => tell(done),
        }
    }
}
