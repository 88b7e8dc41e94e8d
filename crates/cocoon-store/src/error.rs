//! What can go wrong with a store, said so that a person knows what to do next.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::{MAX_QUEUE_BYTES, MAX_QUEUE_ENTRIES, Position};

/// Why a store refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another writer has opened the same file since.
    #[error("another process has taken over {path}; this one must stop (its epoch was {epoch})")]
    Fenced {
        /// The file.
        path: PathBuf,
        /// The epoch that is no longer current.
        epoch: u64,
    },
    /// No space is left, or the file has reached its limit.
    #[error("the disk of {path} is full, or the file has reached its limit: make room")]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// Another program holds a lock for longer than the store waits.
    #[error("{path} is locked by another program: close whatever has it open (a backup, a database shell)")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged.
    #[error("{path} is damaged ({detail}): restore it from a backup; do not edit or delete it by hand")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The file is something else.
    #[error("{path} is not a store of this program: check the configured path")]
    NotAStore {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a newer program.
    #[error("{path} has format {found}, this program knows up to {known}: install the newer version again")]
    Newer {
        /// The file.
        path: PathBuf,
        /// The file's format.
        found: i64,
        /// The newest format this program knows.
        known: i64,
    },
    /// The file cannot be opened or created.
    #[error(
        "cannot open {path}: {detail}; check that its directory exists and that this user may write there"
    )]
    CannotOpen {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        detail: String,
    },
    /// Reading or writing failed.
    #[error("cannot read or write {path}: {detail}; check the disk and restart the node")]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason given.
        detail: String,
    },
    /// The disk does not keep up with what is written.
    #[error(
        "the write queue is full ({MAX_QUEUE_ENTRIES} entries or {MAX_QUEUE_BYTES} bytes): try again later"
    )]
    QueueFull,
    /// Something exceeds its limit.
    #[error("{what} of {bytes} bytes exceeds its limit of {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A snapshot of a position that cannot have one.
    #[error("no snapshot can be taken at {at}: the newest is at {newest}, the log ends at {end}")]
    SnapshotPosition {
        /// The position asked for.
        at: Position,
        /// The newest snapshot's position.
        newest: Position,
        /// The log's last position.
        end: Position,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether what failed can go well later, as it is.
    #[must_use]
    pub const fn passes(&self) -> bool {
        matches!(self, Self::DiskFull { .. } | Self::Locked { .. } | Self::QueueFull)
    }

    /// What an SQLite error means for the file at `path`.
    pub(crate) fn from_sqlite(path: &Path, error: &rusqlite::Error) -> Self {
        let path = path.to_owned();
        let detail = error.to_string();
        let extended = error.sqlite_error().map(|error| error.extended_code);
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull { path },
            // The index of the write-ahead log could not grow.
            _ if extended == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE) => Self::DiskFull { path },
            Some(
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed,
            ) => Self::Locked { path },
            Some(ErrorCode::DatabaseCorrupt) => Self::Corrupt { path, detail },
            Some(ErrorCode::NotADatabase) => Self::NotAStore { path },
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                Self::CannotOpen { path, detail }
            }
            _ => Self::Io { path, detail },
        }
    }
}
