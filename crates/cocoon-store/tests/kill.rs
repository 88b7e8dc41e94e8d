//! What was reported durable survives the death of the process.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cocoon_store::{SqliteStore, Store, wait_durable};

const CHILD: &str = "COCOON_STORE_TEST_CHILD";

fn numbered(number: u64) -> Bytes {
    Bytes::from(format!("record {number}"))
}

/// Not a test of its own but the process that the test below kills: appends for ever, printing each
/// position that is reported durable.
#[test]
fn child_appends_until_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = SqliteStore::open(path).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut out = std::io::stderr();
    for number in (1..).step_by(3) {
        let position = store.append(&[numbered(number), numbered(number + 1), numbered(number + 2)]).unwrap();
        runtime.block_on(wait_durable(&store, position)).unwrap();
        writeln!(out, "durable {position}").unwrap();
    }
}

#[test]
fn every_position_reported_durable_is_present_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=3_u64 {
        let path = dir.path().join(format!("{round}.db"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_appends_until_killed", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut reported = 0;
        let mut note = |line: String| {
            reported = line.strip_prefix("durable ").and_then(|text| text.parse().ok()).unwrap_or(reported);
            reported
        };
        let started = Instant::now();
        while note(lines.next().expect("the child runs until it is killed")) < 40 * round {
            assert!(started.elapsed() < Duration::from_secs(60), "the child makes no progress");
        }
        child.kill().unwrap();
        // What it still reported before it died counts as well.
        lines.for_each(|line| {
            note(line);
        });
        child.wait().unwrap();

        let records = SqliteStore::open(&path).unwrap().load().unwrap().records;
        assert!(records.len() as u64 >= reported, "{reported} reported durable, {} present", records.len());
        for (expected, (position, bytes)) in (1..).zip(&records) {
            assert_eq!((*position, bytes), (expected, &numbered(expected)));
        }
    }
}
