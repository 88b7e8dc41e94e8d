//! The bounded queue between the callers and the writer thread.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::{Change, Position, StoreError};

/// Most records and values that wait for the disk.
pub const MAX_QUEUE_ENTRIES: usize = 65_536;
/// Most bytes of them, one snapshot aside.
pub const MAX_QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// How long the first of a group waits for others. What is written is never in an answer's way, and a group costs the disk
/// no more than one record does.
const LINGER: Duration = Duration::from_millis(5);
/// A group of this many entries waits no longer.
const LARGE_GROUP: usize = 4096;

pub(crate) type Done = oneshot::Sender<Result<(), StoreError>>;

/// Something to be made durable.
#[derive(Debug)]
pub(crate) enum Job {
    Record { position: Position, bytes: Bytes },
    Snapshot { at: Position, bytes: Bytes, done: Done },
    Put { key: String, value: Bytes, done: Done },
    Write { changes: Vec<Change>, done: Done },
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: Vec<Job>,
    bytes: usize,
    /// Position of the last record, queued or durable.
    end: Position,
    /// Position of the newest snapshot, queued or durable.
    snapshot: Position,
    /// Set once nothing more is taken.
    ended: Option<StoreError>,
}

impl Queue {
    pub(crate) fn starting_at(end: Position, snapshot: Position) -> Self {
        Self { state: Mutex::new(State { end, snapshot, ..State::default() }), changed: Condvar::new() }
    }

    pub(crate) fn append(&self, records: &[Bytes]) -> Result<Position, StoreError> {
        let mut state = self.open()?;
        state.make_room(records.len(), records.iter().map(Bytes::len).sum())?;
        let idle = state.jobs.is_empty();
        for bytes in records {
            state.end += 1;
            let position = state.end;
            state.jobs.push(Job::Record { position, bytes: bytes.clone() });
        }
        self.wake_writer(&state, idle);
        Ok(state.end)
    }

    pub(crate) fn snapshot(&self, at: Position, bytes: Bytes, done: Done) -> Result<(), StoreError> {
        let mut state = self.open()?;
        if at < state.snapshot || at > state.end {
            return Err(StoreError::SnapshotPosition { at, newest: state.snapshot, end: state.end });
        }
        if state.jobs.iter().any(|job| matches!(job, Job::Snapshot { .. })) {
            return Err(StoreError::QueueFull);
        }
        state.make_room(1, 0)?;
        state.snapshot = at;
        state.jobs.push(Job::Snapshot { at, bytes, done });
        self.wake_writer(&state, state.jobs.len() == 1);
        Ok(())
    }

    pub(crate) fn put(&self, key: &str, value: Bytes, done: Done) -> Result<(), StoreError> {
        let mut state = self.open()?;
        state.make_room(1, key.len() + value.len())?;
        state.jobs.push(Job::Put { key: key.to_owned(), value, done });
        self.wake_writer(&state, state.jobs.len() == 1);
        Ok(())
    }

    pub(crate) fn write(&self, changes: Vec<Change>, done: Done) -> Result<(), StoreError> {
        let mut state = self.open()?;
        state.make_room(changes.len().max(1), changes.iter().map(Change::bytes).sum())?;
        state.jobs.push(Job::Write { changes, done });
        self.wake_writer(&state, state.jobs.len() == 1);
        Ok(())
    }

    /// Waits for work; `None` once the queue was ended and is empty.
    pub(crate) fn take_all(&self) -> Option<Vec<Job>> {
        let waiting = |state: &mut State| state.jobs.is_empty() && state.ended.is_none();
        let state = self.changed.wait_while(self.lock(), waiting).unwrap_or_else(PoisonError::into_inner);
        let gathering = |state: &mut State| state.jobs.len() < LARGE_GROUP && state.ended.is_none();
        let (mut state, _) =
            self.changed.wait_timeout_while(state, LINGER, gathering).unwrap_or_else(PoisonError::into_inner);
        state.bytes = 0;
        Some(std::mem::take(&mut state.jobs)).filter(|jobs| !jobs.is_empty())
    }

    /// Takes nothing more, for this reason. The first reason stands.
    pub(crate) fn end(&self, reason: StoreError) {
        self.lock().ended.get_or_insert(reason);
        self.changed.notify_all();
    }

    /// Whether nothing more is taken.
    pub(crate) fn has_ended(&self) -> bool {
        self.lock().ended.is_some()
    }

    /// Waits so long, or until the queue is ended.
    pub(crate) fn wait_for_end(&self, longest: Duration) {
        let goes_on = |state: &mut State| state.ended.is_none();
        // How it ended shows in the state.
        let _ = self.changed.wait_timeout_while(self.lock(), longest, goes_on);
    }

    /// Wakes the writer only where that changes what it does: it wakes by itself when its group is complete.
    fn wake_writer(&self, state: &State, was_idle: bool) {
        if was_idle || state.jobs.len() >= LARGE_GROUP {
            self.changed.notify_one();
        }
    }

    fn open(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.lock();
        match &state.ended {
            Some(reason) => Err(reason.clone()),
            None => Ok(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, and the state is whole at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn make_room(&mut self, entries: usize, bytes: usize) -> Result<(), StoreError> {
        let total = self.bytes.saturating_add(bytes);
        if self.jobs.len().saturating_add(entries) > MAX_QUEUE_ENTRIES || total > MAX_QUEUE_BYTES {
            return Err(StoreError::QueueFull);
        }
        self.bytes = total;
        Ok(())
    }
}
