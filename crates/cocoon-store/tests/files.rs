//! A store tells apart the files it may not use, and says what to do.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cocoon_store::{SqliteStore, Store, StoreError};
use tempfile::TempDir;

fn scratch() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.db");
    (dir, path)
}

/// Writes a store with this many records.
fn filled(path: &Path, records: usize) {
    let store = SqliteStore::open(path).unwrap();
    store.append(&vec![Bytes::from_static(b"record"); records]).unwrap();
    store.close().unwrap();
}

fn refusal(path: &Path) -> StoreError {
    SqliteStore::open(path).expect_err("the file must be refused")
}

#[cfg(unix)]
#[test]
fn nobody_else_can_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, path) = scratch();
    fs::write(&path, b"").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let store = SqliteStore::open(&path).unwrap();
    store.append(&[Bytes::from_static(b"record")]).unwrap();
    let mut files = 0;
    for entry in fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        files += 1;
    }
    assert!(files >= 2, "the write-ahead log lies beside the file");
}

#[test]
fn a_file_of_another_kind_is_refused_untouched() {
    let (_dir, path) = scratch();
    let text = "this is no database, but something that its owner would miss\n".repeat(100);
    fs::write(&path, &text).unwrap();
    assert_eq!(refusal(&path), StoreError::NotAStore { path: path.clone() });
    assert_eq!(fs::read_to_string(&path).unwrap(), text);

    let other = path.with_file_name("other.db");
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE users (name TEXT)").unwrap();
    assert_eq!(refusal(&other), StoreError::NotAStore { path: other.clone() });
}

#[test]
fn a_truncated_or_overwritten_file_is_called_damaged() {
    let (_dir, path) = scratch();
    filled(&path, 20_000);
    let whole = fs::read(&path).unwrap();

    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let error = refusal(&path);
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("backup"), "the next step is named: {error}");

    let mut overwritten = whole;
    let middle = overwritten.len() / 2;
    overwritten[middle..middle + 8192].fill(0xa5);
    fs::write(&path, overwritten).unwrap();
    let error = refusal(&path);
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}

#[test]
fn a_log_with_a_hole_is_called_damaged() {
    let (_dir, path) = scratch();
    filled(&path, 5);
    rusqlite::Connection::open(&path).unwrap().execute("DELETE FROM records WHERE position = 3", []).unwrap();
    let error = SqliteStore::open(&path).unwrap().load().unwrap_err();
    assert!(error.to_string().contains("record 3 is missing"), "{error}");
}

#[test]
fn a_newer_format_and_a_missing_directory_say_what_to_do() {
    let (dir, path) = scratch();
    filled(&path, 1);
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 2).unwrap();
    assert_eq!(refusal(&path), StoreError::Newer { path: path.clone(), found: 2, known: 1 });
    let error = refusal(&dir.path().join("missing/node.db"));
    assert!(matches!(error, StoreError::CannotOpen { .. }), "{error}");
}

#[test]
fn a_file_that_another_program_locks_is_called_locked() {
    let (_dir, path) = scratch();
    filled(&path, 1);
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE;").unwrap();
    assert_eq!(refusal(&path), StoreError::Locked { path: path.clone() });
}
