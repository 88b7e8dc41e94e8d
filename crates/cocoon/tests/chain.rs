//! `cocoon chain`: a chain on a port, its faucet and its clock.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{Listen, Running, cocoon, complaint, get_json, run, text, wait_for};

const ADDRESS: &str = "0:00000000000000000000000000000000000000000000000000000000000000aa";

fn start(directory: &Path, more: &[&str]) -> (Running, String) {
    let mut arguments = vec!["chain", "--listen", "127.0.0.1:0", "--json", "--dir", text(directory)];
    arguments.extend(more);
    let mut running = Running::start(cocoon(&arguments), Listen::Stdout);
    let ready = running.json_with("api");
    (running, ready["url"].as_str().unwrap().to_owned())
}

fn answer(arguments: &[&str]) -> Value {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", complaint(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn balance(url: &str) -> u64 {
    let path = format!("/api/v2/getAddressBalance?address={ADDRESS}");
    get_json(url, &path)["result"].as_str().unwrap().parse().unwrap()
}

#[test]
fn coins_and_time_are_given_by_command_and_survive_a_restart_and_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let (running, url) = start(directory.path(), &[]);
    let given = answer(&["chain", "faucet", ADDRESS, "1.5 TON", "--url", &url, "--json"]);
    assert_eq!(given["granted"], json!({"nanoton": "1500000000", "ton": "1.5 TON"}));
    assert_eq!((&given["arrived"], &given["balance"]["nanoton"]), (&json!(true), &json!("1500000000")));
    let before = answer(&["chain", "status", "--url", &url, "--json"]);
    let moved = answer(&["chain", "advance", "86400", "--url", &format!("{url}/api/v2/"), "--json"]);
    let passed = moved["unix_time"].as_u64().unwrap() - before["unix_time"].as_u64().unwrap();
    assert!((86_400..86_460).contains(&passed), "{passed}");
    assert_eq!(running.stop(), Some(0));

    let (running, url) = start(directory.path(), &[]);
    let a_day_later = balance(&url);
    assert!((1_499_000_000..=1_500_000_000).contains(&a_day_later), "storage is dear: {a_day_later}");
    let words = run(&["chain", "faucet", ADDRESS, "500000000n", "--url", &url]);
    let words = String::from_utf8(words.stdout).unwrap();
    assert!(words.contains("Gave 0.5 TON") && words.contains("It now has 1.99999"), "{words}");
    running.signal("KILL");
    assert_eq!(running.wait(), None);

    let (running, url) = start(directory.path(), &[]);
    let after_the_kill = balance(&url);
    assert!((1_999_000_000..2_000_000_000).contains(&after_the_kill), "{after_the_kill}");
    let status = answer(&["chain", "status", "--url", &url, "--json"]);
    assert!(status["unix_time"].as_u64() >= moved["unix_time"].as_u64(), "the clock went back: {status}");
    let words = run(&["chain", "status", "--url", &url]);
    assert!(String::from_utf8(words.stdout).unwrap().contains("ahead of this machine"));
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn blocks_come_by_themselves_where_asked() {
    let directory = tempfile::tempdir().unwrap();
    let (running, url) = start(directory.path(), &["--block-time", "0.02"]);
    let block = || answer(&["chain", "status", "--url", &url, "--json"])["block"].as_u64().unwrap();
    let first = block();
    wait_for("a new block", || (block() > first).then_some(()));
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn a_chain_is_run_by_one_process_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let (running, _) = start(directory.path(), &[]);
    let second = run(&["chain", "--listen", "127.0.0.1:0", "--dir", text(directory.path())]);
    assert_eq!(second.status.code(), Some(1));
    assert!(complaint(&second).contains("another cocoon process"), "{}", complaint(&second));
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn a_port_in_use_is_named_with_the_way_out() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let output = run(&["chain", "--listen", &listen, "--dir", text(directory.path())]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = complaint(&output);
    assert!(complaint.contains(&listen) && complaint.contains("--listen"), "{complaint}");
}

#[test]
fn nobody_else_is_let_in_unless_that_is_said() {
    let directory = tempfile::tempdir().unwrap();
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let output = run(&["chain", "--listen", listen, "--dir", text(directory.path())]);
        assert_eq!(output.status.code(), Some(1));
        assert!(complaint(&output).contains("--allow-remote"), "{}", complaint(&output));
    }
    let (running, _) = start(directory.path(), &["--allow-remote"]);
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn what_cannot_be_asked_is_told_with_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    let (_running, url) = start(directory.path(), &[]);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let other = support::model_server("a-model", || json!({}));
    for (arguments, words) in [
        (&["faucet", ADDRESS, "0", "--url", &url][..], "a grant must be from 1"),
        (&["faucet", ADDRESS, "9000000000", "--url", &url], "what the faucet has left"),
        (&["status", "--url", &format!("http://{closed}")], "cannot connect"),
        (&["status", "--url", &other], "does not answer as a chain"),
        (&["status", "--url", "https://toncenter.com"], "is not a URL such as"),
        (&["status", "--url", "127.0.0.1:8081"], "is not a URL such as"),
    ] {
        let mut all = vec!["chain"];
        all.extend(arguments);
        let output = run(&all);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(complaint(&output).contains(words), "{arguments:?}: {}", complaint(&output));
    }
    for arguments in [
        &["faucet", "nobody", "1"][..],
        &["faucet", ADDRESS, "1.5 EUR"],
        &["faucet", ADDRESS, "1e9"],
        &["advance", "0"],
        &["--block-time", "0.001"],
        &["--json", "status"],
    ] {
        let mut all = vec!["chain"];
        all.extend(arguments);
        assert_eq!(run(&all).status.code(), Some(2), "{arguments:?}");
    }
}
