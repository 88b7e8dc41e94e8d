//! A model's files: packed, named and checked on the command line, and held to their name by a worker.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};
use support::{Listen, Running, cocoon, complaint, get_json, run, text, wait_for};

const ROOT_ADDRESS: &str = "EQBT4hy4vMEZ9uxSCuhw_gBKh9_AwmHXLe7Wo0O4Vh-4kRjJ";
const OWNER: &str = "0QBgPMq7ye2WRcudRHK_-yjHwMXjeN-UCzAuoo06TR6hmgHV";
/// Of the two files below; the test of the hash itself is in `cocoon-model`.
const CONTENT: [(&str, &str); 2] = [("config.json", "{}"), ("weights", "0123456789")];

struct Place {
    root: tempfile::TempDir,
    model: PathBuf,
}

impl Place {
    fn with_model() -> Self {
        let root = tempfile::tempdir().unwrap();
        let model = root.path().join("gemma");
        std::fs::create_dir(&model).unwrap();
        CONTENT.iter().for_each(|(name, content)| std::fs::write(model.join(name), content).unwrap());
        Self { root, model }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn hash(&self) -> String {
        let output = run(&["model", "hash", text(&self.model)]);
        assert!(output.status.success(), "{}", complaint(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

#[test]
fn an_archive_is_packed_named_and_verified() {
    let place = Place::with_model();
    let (archive, tree) = (place.path("a.tar"), place.path("a.tar.verity"));
    let output = run(&[
        "model",
        "pack",
        text(&place.model),
        "--out",
        text(&archive),
        "--hash-tree",
        text(&tree),
        "--name",
        "google/gemma",
        "--commit",
        "9b0cfec",
        "--json",
    ]);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", complaint(&output));
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    let hash = place.hash();
    let name = format!("google/gemma@9b0cfec:{hash}");
    assert_eq!(made["hash"], hash);
    assert_eq!(made["model"], name);
    assert_eq!(made["files"], 2);
    assert_eq!(made["bytes"], std::fs::metadata(&archive).unwrap().len());
    assert!(std::fs::metadata(&tree).unwrap().len() >= 8192);

    for path in [&archive, &place.model] {
        for expected in [&name, &hash] {
            let output = run(&["model", "verify", text(path), expected]);
            assert!(output.status.success(), "{}", complaint(&output));
            assert!(String::from_utf8(output.stdout).unwrap().contains("matches"));
        }
    }
    let named = run(&["model", "hash", text(&archive), "--name", "google/gemma", "--commit", "9b0cfec"]);
    assert_eq!(String::from_utf8(named.stdout).unwrap(), format!("{name}\n"));
}

#[test]
fn an_archive_lies_where_the_command_was_run_and_is_not_written_twice() {
    let place = Place::with_model();
    let pack = || cocoon(&["model", "pack", "gemma"]).current_dir(place.root.path()).output().unwrap();
    let output = pack();
    assert!(output.status.success(), "{}", complaint(&output));
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains(&place.hash()) && shown.contains("gemma.tar ("), "{shown}");
    let output = pack();
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("exists already"), "{}", complaint(&output));
}

#[test]
fn another_model_ends_with_1_and_both_hashes() {
    let place = Place::with_model();
    let (found, other) = (place.hash(), "ab".repeat(32));
    let output = run(&["model", "verify", text(&place.model), &other, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&told["matches"], &told["hash"], &told["expected"]),
        (&json!(false), &json!(found), &json!(other))
    );
    let message = complaint(&output);
    assert!(message.contains(&found) && message.contains(&other) && message.contains("gemma"), "{message}");
}

#[test]
fn an_interrupted_packing_leaves_nothing_behind() {
    let place = Place::with_model();
    // Two gigabytes of nothing: no disk space, and time enough to interrupt.
    let large = std::fs::File::create(place.model.join("large")).unwrap();
    large.set_len(2_000_000_000).unwrap();
    let out = place.path("out");
    std::fs::create_dir(&out).unwrap();
    let archive = out.join("a.tar");
    let mut command = cocoon(&["model", "pack", text(&place.model), "--out", text(&archive)]);
    command.stdout(Stdio::null());
    let packing = Running::start(command, Listen::Stderr);
    let files = || std::fs::read_dir(&out).unwrap().count();
    wait_for("the archive to be begun", || (files() > 0).then_some(()));
    packing.signal("INT");
    assert_eq!(packing.wait(), Some(130));
    assert_eq!(files(), 0);
}

fn worker(place: &Place, model: &str, more: &str) -> std::process::Command {
    let root = json!({
        "registered_proxies": [], "price_per_token": 7, "worker_fee_per_token": 5,
        "last_proxy_seqno": 1, "version": 1, "params_version": 1, "root_owner_address": OWNER,
    });
    std::fs::write(place.path("root.json"), root.to_string()).unwrap();
    let config = format!(
        "dir = \"worker\"\nhttp = \"127.0.0.1:0\"\nmodel = \"{model}\"\n{more}\n[engine]\nbuiltin = true\n\
         [root]\nfile = \"root.json\"\naddress = \"{ROOT_ADDRESS}\"\n"
    );
    let path = place.path("worker.toml");
    std::fs::write(&path, config).unwrap();
    cocoon(&["worker", "--config", text(&path), "--log-format", "json"])
}

/// Its page's word on the model.
fn announced(mut running: Running) -> Value {
    let log = running.json_with("http");
    let mut stats = get_json(log["http"].as_str().unwrap(), "/jsonstats");
    assert_eq!(running.stop(), Some(0));
    json!([stats["model"].take(), stats["model_checked"].take()])
}

#[test]
fn a_worker_completes_its_model_s_name_by_the_files() {
    let place = Place::with_model();
    let command = worker(&place, "google/gemma@9b0cfec", "model_path = \"gemma\"");
    let shown = announced(Running::start(command, Listen::Stderr));
    assert_eq!(shown, json!([format!("google/gemma@9b0cfec:{}", place.hash()), true]));
}

#[test]
fn a_worker_does_not_start_with_another_model_s_files() {
    let place = Place::with_model();
    let full = format!("google/gemma@9b0cfec:{}", place.hash());
    std::fs::write(place.model.join("weights"), "9876543210").unwrap();
    let output = worker(&place, &full, "model_path = \"gemma\"").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = complaint(&output);
    assert!(message.contains("is another model") && message.contains(&place.hash()), "{message}");
    assert!(!message.contains("the worker is listening"), "{message}");
}

#[test]
fn a_worker_without_the_files_says_that_nobody_checked_them() {
    let place = Place::with_model();
    let full = format!("google/gemma@9b0cfec:{}", place.hash());
    let mut running = Running::start(worker(&place, &full, ""), Listen::Stderr);
    assert!(running.line_with("nobody checked").contains("WARN"));
    assert_eq!(announced(running), json!([full, false]));
}
