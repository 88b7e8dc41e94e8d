//! `cocoon up`: a network that answers, ends in order, and remembers.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, mpsc};

use serde_json::{Value, json};
use support::{Listen, Running, cocoon, complaint, get_json, http, run, text, wait_for};

fn up(directory: &Path) -> (Running, Value) {
    let command = cocoon(&["up", "--dir", text(directory), "--port-base", "0", "--json"]);
    let mut running = Running::start(command, Listen::Stdout);
    let endpoints = running.json_with("gateway");
    (running, endpoints)
}

fn ask(endpoints: &Value) -> Value {
    let body = json!({
        "model": endpoints["models"][0],
        "messages": [{"role": "user", "content": "Summarise in 1 sentence: The lamp is on. The lamp is old. Rain fell."}],
    });
    let gateway = endpoints["gateway"].as_str().unwrap();
    let (status, answer) = http(gateway, "POST", "/v1/chat/completions", &body.to_string());
    assert_eq!(status, 200, "{answer}");
    serde_json::from_str(&answer).unwrap()
}

fn charged_tokens(endpoints: &Value) -> u64 {
    let proxy = endpoints["proxy"]["http"].as_str().unwrap();
    get_json(proxy, "/jsonstats")["books"]["charged_tokens"].as_u64().unwrap()
}

/// Every key file with its content.
fn keys(directory: &Path) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    for role in ["gateway", "proxy", "worker-1", "worker-2"] {
        for entry in std::fs::read_dir(directory.join(role)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "hex") {
                assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
                keys.insert(text(&path).to_owned(), std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    keys
}

#[test]
fn a_network_answers_ends_in_order_and_remembers_its_keys_and_books() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("net");
    let file = directory.join("endpoints.json");

    let (running, endpoints) = up(&directory);
    let written: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(written, endpoints);
    assert_eq!(endpoints["workers"].as_array().unwrap().len(), 2);
    let answer = ask(&endpoints);
    assert!(answer["choices"][0]["message"]["content"].as_str().unwrap().contains("lamp"), "{answer}");
    let total = answer["usage"]["total_tokens"].as_u64().unwrap();
    let charged = wait_for("the charge", || Some(charged_tokens(&endpoints)).filter(|&tokens| tokens > 0));
    assert_eq!(charged, total);
    let first_keys = keys(&directory);
    assert_eq!(first_keys.len(), 15, "{:?}", first_keys.keys());

    let second = run(&["up", "--dir", text(&directory), "--port-base", "0"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(complaint(&second).contains("another cocoon process"), "{}", complaint(&second));

    assert_eq!(running.stop(), Some(0));
    assert!(!file.exists(), "endpoints.json outlived the network");

    let (running, endpoints) = up(&directory);
    assert_eq!(keys(&directory), first_keys);
    assert_eq!(charged_tokens(&endpoints), charged);
    ask(&endpoints);
    wait_for("the second charge", || (charged_tokens(&endpoints) == 2 * charged).then_some(()));
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn a_network_of_which_a_node_cannot_go_on_ends_and_says_why() {
    for role in ["proxy", "gateway", "worker-1"] {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("net");
        let command = cocoon(&["up", "--dir", text(&directory), "--port-base", "0", "--workers", "1"]);
        let mut running = Running::start(command, Listen::Stderr);
        let written = || std::fs::read_to_string(directory.join("endpoints.json")).ok();
        let endpoints = wait_for("the network", || serde_json::from_str(&written()?).ok());
        // Whoever opens the books last is their only writer.
        let _books = cocoon_store::SqliteStore::open(directory.join(role).join("ledger.sqlite")).unwrap();
        ask(&endpoints);
        let why = running.line_with(&format!("the {} stopped", role.trim_end_matches("-1")));
        assert!(why.contains("another process has taken over"), "{why}");
        assert_eq!(running.wait(), Some(1), "{role}");
    }
}

#[test]
fn more_can_be_under_way_at_a_time_where_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let limits = ["--workers", "1", "--max-active", "700", "--max-connections", "900"];
    let mut command = cocoon(&["up", "--dir", text(directory.path()), "--port-base", "0", "--json"]);
    command.args(limits);
    let mut running = Running::start(command, Listen::Stdout);
    let endpoints = running.json_with("gateway");
    let worker = endpoints["workers"][0]["http"].as_str().unwrap();
    assert_eq!(get_json(worker, "/jsonstats")["max_active_requests"], 700);
    let gateway = std::fs::read_to_string(directory.path().join("gateway/gateway.toml")).unwrap();
    assert!(gateway.contains("max_connections = 900"), "{gateway}");
    assert_eq!(running.stop(), Some(0));
}

/// A network before a model server that answers when told to, and a request that waits for it.
struct Waiting {
    running: Running,
    request: std::thread::JoinHandle<std::thread::Result<(u16, String)>>,
    answer_now: mpsc::Sender<()>,
    _directory: tempfile::TempDir,
}

fn with_a_request_under_way() -> Waiting {
    let directory = tempfile::tempdir().unwrap();
    let (answer_now, told) = mpsc::channel::<()>();
    let (arrived, arrives) = mpsc::channel::<()>();
    let (told, arrived) = (Mutex::new(told), Mutex::new(arrived));
    let url = support::model_server("slow-model", move || {
        arrived.lock().unwrap().send(()).unwrap();
        // Told, or nobody is there any more to tell.
        let _ = told.lock().unwrap().recv();
        json!({
            "id": "x", "object": "chat.completion", "created": 1, "model": "slow-model",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "At last."}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4},
        })
    });
    let command = cocoon(&[
        "up",
        "--dir",
        text(directory.path()),
        "--port-base",
        "0",
        "--json",
        "--workers",
        "1",
        "--upstream",
        &url,
    ]);
    let mut running = Running::start(command, Listen::Stdout);
    let endpoints = running.json_with("gateway");
    assert_eq!(endpoints["models"], json!(["slow-model"]));
    let gateway = endpoints["gateway"].as_str().unwrap().to_owned();
    let body = json!({"model": "slow-model", "messages": [{"role": "user", "content": "Well?"}]}).to_string();
    let request = std::thread::spawn(move || {
        std::panic::catch_unwind(|| http(&gateway, "POST", "/v1/chat/completions", &body))
    });
    arrives.recv_timeout(support::LIMIT).unwrap();
    Waiting { running, request, answer_now, _directory: directory }
}

#[test]
fn a_request_under_way_gets_its_answer_before_the_end() {
    let waiting = with_a_request_under_way();
    waiting.running.signal("TERM");
    waiting.answer_now.send(()).unwrap();
    assert_eq!(waiting.running.wait(), Some(0));
    let (status, answer) = waiting.request.join().unwrap().unwrap();
    assert!(status == 200 && answer.contains("At last."), "{answer}");
}

#[test]
fn who_starts_it_so_that_it_outlives_its_terminal_is_heeded() {
    let directory = tempfile::tempdir().unwrap();
    let plain = cocoon(&["up", "--dir", text(directory.path()), "--port-base", "0", "--json"]);
    let mut command = Command::new("nohup");
    command.arg(plain.get_program()).args(plain.get_args()).stdin(Stdio::null());
    for (name, _) in plain.get_envs() {
        command.env_remove(name);
    }
    let mut running = Running::start(command, Listen::Stdout);
    let endpoints = running.json_with("gateway");
    running.signal("HUP");
    ask(&endpoints);
    // Where the first signal had begun its end, this were the second.
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let waiting = with_a_request_under_way();
    waiting.running.signal("INT");
    // Signals of one kind that come together count as one.
    waiting.running.signal("TERM");
    assert_eq!(waiting.running.wait(), Some(130));
    let cut = waiting.request.join().unwrap();
    assert!(cut.is_err() || cut.is_ok_and(|(status, _)| status != 200));
}

#[test]
fn a_port_in_use_is_named_with_the_way_out() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    if port > 63_000 {
        // The system hands out such ports only where it was told to.
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let output = run(&["up", "--dir", text(directory.path()), "--port-base", &port.to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = complaint(&output);
    assert!(complaint.contains(&port.to_string()) && complaint.contains("--port-base"), "{complaint}");
}

#[test]
fn a_model_server_that_is_not_there_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for url in [format!("http://{closed}"), "https://127.0.0.1".to_owned()] {
        let output = run(&["up", "--dir", text(directory.path()), "--port-base", "0", "--upstream", &url]);
        assert_eq!(output.status.code(), Some(1));
        assert!(complaint(&output).contains(&url), "{}", complaint(&output));
    }
}

/// `cocoon up` in a shell that sets its limit on open files first.
#[cfg(target_os = "linux")]
fn limited(limit: &str, directory: &Path) -> std::process::Command {
    let mut command = std::process::Command::new("sh");
    let script = format!("ulimit {limit} && exec \"$0\" \"$@\"");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_cocoon"), "up", "--dir", text(directory)]);
    command.args(["--port-base", "0", "--workers", "1", "--json"]).stdin(std::process::Stdio::null());
    command
}

#[test]
#[cfg(target_os = "linux")]
fn a_network_takes_the_open_files_that_it_may_have_and_warns_where_they_are_too_few() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start(limited("-Sn 300", directory.path()), Listen::Stdout);
    running.json_with("gateway");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", running.pid())).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let numbers: Vec<&str> = line.split_whitespace().collect();
    assert!(numbers[0] == numbers[1] && numbers[0] != "300", "{line}");
    assert_eq!(running.stop(), Some(0));

    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start(limited("-n 2000", directory.path()), Listen::Stderr);
    let line = running.line_with("does not fit the limit on open files");
    assert!(line.contains("limits.max_connections") && line.contains("limit=2000"), "{line}");
    let endpoints = directory.path().join("endpoints.json");
    wait_for("the network", || endpoints.exists().then_some(()));
    assert_eq!(running.stop(), Some(0));
}
