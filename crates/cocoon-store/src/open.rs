//! Opening the file: permissions, format, integrity, and the writer's epoch.

use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};

use crate::{Position, StoreError};

/// Marks a file as ours ("COCO"), in SQLite's header.
const APPLICATION_ID: i64 = 0x434f_434f;
/// The newest format this program knows.
const FORMAT: i64 = 1;
/// How long to wait for another program's lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

const SCHEMA: &str = "
    CREATE TABLE epoch (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL) STRICT;
    INSERT INTO epoch VALUES (1, 0);
    CREATE TABLE records (position INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
    CREATE TABLE snapshot (one INTEGER PRIMARY KEY CHECK (one = 1), position INTEGER NOT NULL, bytes BLOB NOT NULL)
        STRICT;
    CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
";

/// An opened file, and where its log stands.
pub(crate) struct Opened {
    pub(crate) writer: Connection,
    pub(crate) reader: Connection,
    pub(crate) epoch: u64,
    /// Position of the last record.
    pub(crate) end: Position,
    /// Position of the newest snapshot, 0 without one.
    pub(crate) snapshot: Position,
}

pub(crate) fn open(path: &Path, max_bytes: u64) -> Result<Opened, StoreError> {
    create_private(path)?;
    let sqlite = |error: rusqlite::Error| StoreError::from_sqlite(path, &error);
    let mut writer = connect(path).map_err(sqlite)?;
    check_format(path, &writer)?;
    check_integrity(path, &writer)?;
    let mode: String = writer.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(sqlite)?;
    if mode != "wal" {
        let detail = format!("its file system does not support write-ahead logging (journal mode {mode})");
        return Err(StoreError::Io { path: path.to_owned(), detail });
    }
    // Each commit reaches the disk before it is reported.
    writer.pragma_update(None, "synchronous", "FULL").map_err(sqlite)?;
    limit_size(&writer, max_bytes).map_err(sqlite)?;
    let (epoch, end, snapshot) = take_over(&mut writer).map_err(sqlite)?;
    let reader = connect(path).map_err(sqlite)?;
    let number = |value: i64| from_sql(path, value);
    Ok(Opened { writer, reader, epoch: number(epoch)?, end: number(end)?, snapshot: number(snapshot)? })
}

/// A number of the file, none of which is ever negative.
pub(crate) fn from_sql(path: &Path, value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Corrupt {
        path: path.to_owned(),
        detail: format!("negative number {value}"),
    })
}

/// Numbers count single events, so they stay far below the signed range.
pub(crate) fn to_sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Creates the file where it is missing, and makes it readable by its owner only. SQLite gives its
/// write-ahead log the same permissions.
fn create_private(path: &Path) -> Result<(), StoreError> {
    let cannot =
        |error: std::io::Error| StoreError::CannotOpen { path: path.to_owned(), detail: error.to_string() };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path).map_err(cannot)?;
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(cannot)?;
    drop(file);
    Ok(())
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(LOCK_TIMEOUT)?;
    Ok(connection)
}

/// Lets SQLite report a full disk before the file outgrows `max_bytes`. A file that has outgrown it already
/// keeps its size.
fn limit_size(connection: &Connection, max_bytes: u64) -> rusqlite::Result<()> {
    let page_bytes: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let pages = to_sql(max_bytes) / page_bytes.max(1);
    connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
}

/// Accepts an empty file or one of ours in a format that we know.
fn check_format(path: &Path, connection: &Connection) -> Result<(), StoreError> {
    let sqlite = |error: rusqlite::Error| StoreError::from_sqlite(path, &error);
    let pragma = |name| connection.pragma_query_value::<i64, _>(None, name, |row| row.get(0)).map_err(sqlite);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(sqlite)?;
    let (application, found) = (pragma("application_id")?, pragma("user_version")?);
    if tables == 0 && application == 0 && found == 0 {
        return Ok(());
    }
    if application != APPLICATION_ID {
        return Err(StoreError::NotAStore { path: path.to_owned() });
    }
    if found > FORMAT {
        return Err(StoreError::Newer { path: path.to_owned(), found, known: FORMAT });
    }
    Ok(())
}

fn check_integrity(path: &Path, connection: &Connection) -> Result<(), StoreError> {
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| StoreError::from_sqlite(path, &error))?;
    if verdict == "ok" { Ok(()) } else { Err(StoreError::Corrupt { path: path.to_owned(), detail: verdict }) }
}

/// Creates the tables where they are missing, raises the epoch, and reads where the log stands, all at once:
/// from here on no earlier writer can commit.
fn take_over(connection: &mut Connection) -> rusqlite::Result<(i64, i64, i64)> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let format: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if format == 0 {
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", FORMAT)?;
    }
    let epoch =
        transaction.query_row("UPDATE epoch SET epoch = epoch + 1 RETURNING epoch", [], |row| row.get(0))?;
    let snapshot = transaction
        .query_row("SELECT position FROM snapshot", [], |row| row.get::<_, i64>(0))
        .optional()?
        .unwrap_or(0);
    let last: Option<i64> =
        transaction.query_row("SELECT max(position) FROM records", [], |row| row.get(0))?;
    transaction.commit()?;
    Ok((epoch, last.unwrap_or(0).max(snapshot), snapshot))
}
