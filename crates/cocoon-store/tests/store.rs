//! A store keeps what it reports durable, in order, for one writer, within its limits.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cocoon_store::{
    Change, Durability, Loaded, MAX_KEY_BYTES, MAX_QUEUE_ENTRIES, MAX_RECORD_BYTES, MAX_VALUE_BYTES,
    SqliteStore, Store, StoreError, ended, wait_durable,
};
use tempfile::TempDir;

fn scratch() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.db");
    (dir, path)
}

fn numbered(number: u64) -> Bytes {
    Bytes::from(format!("record {number}"))
}

fn append(store: &SqliteStore, numbers: RangeInclusive<u64>) -> u64 {
    store.append(&numbers.map(numbered).collect::<Vec<_>>()).unwrap()
}

fn numbers(loaded: &Loaded) -> Vec<u64> {
    for (position, bytes) in &loaded.records {
        assert_eq!(bytes, &numbered(*position), "position {position} holds another record");
    }
    loaded.records.iter().map(|(position, _)| *position).collect()
}

#[tokio::test]
async fn everything_durable_survives_a_reopen() {
    let (_dir, path) = scratch();
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.load().unwrap(), Loaded::default());
    assert_eq!(append(&store, 1..=3), 3);
    assert_eq!(append(&store, 4..=4), 4);
    assert_eq!(store.append(&[]).unwrap(), 4);
    store.put("counters", Bytes::from_static(b"one")).unwrap().await.unwrap();
    store.put("counters", Bytes::from_static(b"two")).unwrap().await.unwrap();
    wait_durable(&store, 4).await.unwrap();
    let first_epoch = store.epoch();
    drop(store);

    let store = SqliteStore::open(&path).unwrap();
    assert!(store.epoch() > first_epoch, "each opening has a higher epoch");
    assert_eq!(store.durable().borrow().position, 4);
    assert_eq!(numbers(&store.load().unwrap()), [1, 2, 3, 4]);
    assert_eq!(store.get("counters").unwrap(), Some(Bytes::from_static(b"two")));
    assert_eq!(store.get("nothing").unwrap(), None);
    assert_eq!(append(&store, 5..=5), 5, "positions go on where they ended");
}

#[tokio::test]
async fn a_snapshot_replaces_the_records_before_it() {
    let (_dir, path) = scratch();
    let store = SqliteStore::open(&path).unwrap();
    append(&store, 1..=10);
    let refused = store.save_snapshot(11, Bytes::new()).unwrap_err();
    assert_eq!(refused, StoreError::SnapshotPosition { at: 11, newest: 0, end: 10 });
    store.save_snapshot(7, Bytes::from_static(b"books at 7")).unwrap().await.unwrap();
    let loaded = store.load().unwrap();
    assert_eq!(loaded.snapshot, Some((7, Bytes::from_static(b"books at 7"))));
    assert_eq!(numbers(&loaded), [8, 9, 10]);
    assert!(
        store.save_snapshot(6, Bytes::new()).is_err(),
        "an older snapshot would lose what the newer one covers"
    );
    store.save_snapshot(10, Bytes::from_static(b"books at 10")).unwrap().await.unwrap();
    drop(store);

    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.load().unwrap().records, []);
    assert_eq!(append(&store, 11..=11), 11, "positions go on after a snapshot of everything");
}

#[test]
fn closing_drains_the_queue_and_takes_nothing_more() {
    let (_dir, path) = scratch();
    let store = SqliteStore::open(&path).unwrap();
    append(&store, 1..=5_000);
    store.close().unwrap();
    assert_eq!(store.append(&[numbered(5_001)]), Err(StoreError::Closed));
    store.close().unwrap();
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.load().unwrap().records.len(), 5_000);
}

#[tokio::test]
async fn waiting_for_what_never_comes_ends_when_the_store_closes() {
    let (_dir, path) = scratch();
    let store = Arc::new(SqliteStore::open(&path).unwrap());
    let waiting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { wait_durable(&*store, 1).await }
    });
    tokio::task::yield_now().await;
    store.close().unwrap();
    assert_eq!(waiting.await.unwrap(), Err(StoreError::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_share_few_commits() {
    let (_dir, path) = scratch();
    let store = Arc::new(SqliteStore::open(&path).unwrap());
    let tasks: Vec<_> = (0..1_000)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let position = store.append(&[Bytes::from_static(b"record")]).unwrap();
                wait_durable(&*store, position).await.unwrap();
                position
            })
        })
        .collect();
    let mut positions = BTreeSet::new();
    for task in tasks {
        positions.insert(task.await.unwrap());
    }
    assert_eq!(positions, (1..=1_000).collect(), "each record has its own position");
    assert!(store.commits() < 500, "{} commits for 1,000 records", store.commits());
    assert_eq!(store.load().unwrap().records.len(), 1_000);
}

#[tokio::test]
async fn the_last_to_open_is_the_only_writer() {
    let (_dir, path) = scratch();
    let old = SqliteStore::open(&path).unwrap();
    append(&old, 1..=1);
    wait_durable(&old, 1).await.unwrap();

    let new = SqliteStore::open(&path).unwrap();
    assert_eq!(append(&new, 2..=2), 2);
    let position = old.append(&[Bytes::from_static(b"from the past")]).unwrap();
    let fenced = wait_durable(&old, position).await.unwrap_err();
    assert!(matches!(fenced, StoreError::Fenced { .. }), "{fenced}");
    assert_eq!(old.durable().borrow().position, 1, "durable never advances over a failure");
    assert_eq!(old.append(&[]), Err(fenced.clone()), "a fenced writer takes nothing more");
    assert!(matches!(old.put("key", Bytes::new()), Err(StoreError::Fenced { .. })));
    assert_eq!(old.close(), Err(fenced));

    wait_durable(&new, 2).await.unwrap();
    assert_eq!(numbers(&new.load().unwrap()), [1, 2]);
}

/// A store that waits for room, with something in it that can go, and how many records are durable in it.
async fn full(path: &Path) -> (SqliteStore, u64) {
    let store = SqliteStore::open_limited(path, 256 * 1024).unwrap();
    store.put("ballast", Bytes::from(vec![7; 100 * 1024])).unwrap().await.unwrap();
    let record = Bytes::from(vec![7; 16 * 1024]);
    let mut durable = store.durable();
    loop {
        let position = store.append(std::slice::from_ref(&record)).unwrap();
        assert!(position < 100, "the limit is never reached");
        let stands = |state: &Durability| state.position >= position || state.waiting.is_some();
        let state = durable.wait_for(stands).await.unwrap().clone();
        if let Some(waiting) = state.waiting {
            assert_eq!(waiting, StoreError::DiskFull { path: path.to_owned() });
            assert_eq!(state.position, position - 1, "durable never passes what is written");
            return (store, position - 1);
        }
    }
}

/// Makes room, as whoever runs the node would.
fn make_room(path: &Path) {
    let other = rusqlite::Connection::open(path).unwrap();
    assert_eq!(other.execute("DELETE FROM entries WHERE key = 'ballast'", []).unwrap(), 1);
}

#[tokio::test]
async fn what_a_full_disk_had_no_room_for_is_written_once_there_is_room() {
    let (_dir, path) = scratch();
    let (store, durable) = full(&path).await;
    let later = store.append(&[Bytes::from_static(b"later")]).unwrap();
    let put = store.put("key", Bytes::from_static(b"value")).unwrap();
    assert_eq!(later, durable + 2, "a full disk takes records still");
    make_room(&path);
    wait_durable(&store, later).await.unwrap();
    put.await.unwrap();
    assert_eq!(*store.durable().borrow(), Durability { position: later, ..Durability::default() });
    store.close().unwrap();
    drop(store);
    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.load().unwrap().records.len() as u64, later, "each record is there once");
    assert_eq!(store.get("key").unwrap(), Some(Bytes::from_static(b"value")));
}

#[tokio::test]
async fn closing_waits_for_no_room_and_says_what_is_not_written() {
    let (_dir, path) = scratch();
    let (store, mut durable) = full(&path).await;
    let written = store.put("key", Bytes::new()).unwrap();
    let failure = StoreError::DiskFull { path: path.clone() };
    assert_eq!(store.close(), Err(failure.clone()));
    assert_eq!(written.await, Err(failure.clone()));
    assert_eq!(ended(&store).await, failure);
    drop(store);

    let store = SqliteStore::open(&path).unwrap();
    assert_eq!(store.load().unwrap().records.len() as u64, durable, "everything reported durable is there");
    durable += 1;
    assert_eq!(
        store.append(&[Bytes::from_static(b"record")]),
        Ok(durable),
        "with room again the log goes on"
    );
    wait_durable(&store, durable).await.unwrap();
}

#[tokio::test]
async fn a_file_that_another_program_holds_is_written_once_it_lets_go() {
    let (_dir, path) = scratch();
    let store = SqliteStore::open(&path).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    append(&store, 1..=1);
    let mut durable = store.durable();
    let waiting = durable.wait_for(|state| state.waiting.is_some()).await.unwrap().waiting.clone();
    assert_eq!(waiting, Some(StoreError::Locked { path: path.clone() }));
    other.execute_batch("ROLLBACK").unwrap();
    wait_durable(&store, 1).await.unwrap();
}

#[tokio::test]
async fn a_failing_write_ends_the_store_and_every_write_behind_it() {
    let (_dir, path) = scratch();
    let store = SqliteStore::open(&path).unwrap();
    append(&store, 1..=1);
    wait_durable(&store, 1).await.unwrap();
    rusqlite::Connection::open(&path).unwrap().execute_batch("DROP TABLE records").unwrap();
    let position = append(&store, 2..=2);
    let failure = wait_durable(&store, position).await.unwrap_err();
    assert!(matches!(failure, StoreError::Io { .. }), "{failure}");
    assert_eq!(store.durable().borrow().position, 1);
    assert!(store.put("key", Bytes::new()).is_err());
    assert!(store.load().is_err());
}

#[test]
fn a_batch_over_the_queues_limit_is_refused_whole() {
    let (_dir, path) = scratch();
    let store = SqliteStore::open(&path).unwrap();
    let batch = vec![Bytes::new(); MAX_QUEUE_ENTRIES + 1];
    assert_eq!(store.append(&batch), Err(StoreError::QueueFull));
    assert_eq!(store.append(&[]), Ok(0), "nothing of it was queued");
    assert_eq!(store.append(&batch[1..]), Ok(MAX_QUEUE_ENTRIES as u64));
}

#[test]
fn oversized_records_keys_and_values_are_refused() {
    let (_dir, path) = scratch();
    let store = SqliteStore::open(&path).unwrap();
    let too_large = |result: Result<(), StoreError>| {
        assert!(matches!(result, Err(StoreError::TooLarge { .. })), "{result:?}")
    };
    store.append(&[Bytes::from(vec![0; MAX_RECORD_BYTES])]).unwrap();
    store.put(&"k".repeat(MAX_KEY_BYTES), Bytes::from(vec![0; MAX_VALUE_BYTES])).unwrap();
    too_large(store.append(&[Bytes::from(vec![0; MAX_RECORD_BYTES + 1])]).map(drop));
    too_large(store.put("key", Bytes::from(vec![0; MAX_VALUE_BYTES + 1])).map(drop));
    too_large(store.put(&"k".repeat(MAX_KEY_BYTES + 1), Bytes::new()).map(drop));
}

#[tokio::test]
async fn changes_are_made_together_and_listed_by_their_prefix_in_order() {
    let (_dir, path) = scratch();
    let store = SqliteStore::open(&path).unwrap();
    let put = |key: &str| Change::Put(key.to_owned(), Bytes::copy_from_slice(key.as_bytes()));
    let first = vec![put("b/2"), put("b/1"), put("b"), put("a/1"), put("c/1"), put("b/é")];
    store.write(first).unwrap().await.unwrap();
    store.write(vec![Change::Remove("b/1".to_owned()), put("b/3")]).unwrap().await.unwrap();
    store.write(vec![Change::Remove("never there".to_owned())]).unwrap().await.unwrap();
    let listed = |after, limit| {
        let entries = store.list("b/", after, limit).unwrap();
        entries.into_iter().map(|(key, value)| (value == key, key)).collect::<Vec<_>>()
    };
    let all = ["b/2", "b/3", "b/é"].map(|key| (true, key.to_owned()));
    assert_eq!(listed(None, 10), all);
    assert_eq!(listed(None, 2), all[..2]);
    assert_eq!(listed(Some("b/2"), 10), all[1..]);
    assert!(store.list("d", None, 10).unwrap().is_empty());

    let too_large = vec![put("b/4"), Change::Put("b/5".to_owned(), vec![0; MAX_VALUE_BYTES + 1].into())];
    assert!(matches!(store.write(too_large), Err(StoreError::TooLarge { .. })));
    assert!(matches!(
        store.write(vec![Change::Remove("k".repeat(MAX_KEY_BYTES + 1))]),
        Err(StoreError::TooLarge { .. })
    ));
    drop(store);
    let store = SqliteStore::open(&path).unwrap();
    let kept = store.list("b/", None, 10).unwrap();
    assert_eq!(kept.len(), 3, "nothing of a refused write stays: {kept:?}");
}
