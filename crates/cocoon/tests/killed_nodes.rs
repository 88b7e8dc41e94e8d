//! `kill -9` of proxies and workers under load, and processes that stand still for a while: callers of the gateway do not
//! notice, and the books of all nodes agree.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{cocoon, text, wait_for};

const ROOT_ADDRESS: &str = "EQBT4hy4vMEZ9uxSCuhw_gBKh9_AwmHXLe7Wo0O4Vh-4kRjJ";
const OWNER: &str = "0QBgPMq7ye2WRcudRHK_-yjHwMXjeN-UCzAuoo06TR6hmgHV";
const MODEL: &str = "builtin/extractive-summary";
const CALLERS: usize = 6;
const KILLS: u64 = 12;
/// How long a process stands still: longer than others wait for it.
const STANDS_STILL: Duration = Duration::from_secs(4);
/// Longer than nodes wait for a silent peer with answers that it has begun.
const FROZEN: Duration = Duration::from_secs(12);
/// Answers between two kills.
const ANSWERS: u64 = 40;

/// One process, whose ports stay the same.
struct Node {
    arguments: Vec<String>,
    http: String,
    log: PathBuf,
    child: Option<Child>,
}

impl Node {
    fn start(directory: &Path, role: &str, name: &str, http: u16, config: &str) -> Self {
        let path = directory.join(format!("{name}.toml"));
        let root = format!("\n[root]\nfile = \"root.json\"\naddress = \"{ROOT_ADDRESS}\"\n");
        let head = format!("dir = \"{name}\"\nhttp = \"127.0.0.1:{http}\"\n");
        std::fs::write(&path, head + config + &root).unwrap();
        let arguments = [role, "--config", text(&path)].map(str::to_owned).to_vec();
        let log = directory.join(format!("{name}.log"));
        let mut node = Self { arguments, http: format!("127.0.0.1:{http}"), log, child: None };
        node.revive();
        node
    }

    fn revive(&mut self) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        self.child = Some(cocoon(&arguments).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops the process where it stands (`STOP`), or lets it go on (`CONT`).
    fn signal(&self, name: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    fn stats(&self) -> Option<Value> {
        let (status, body) = exchange(&self.http, "GET", "/jsonstats", "")?;
        (status == 200).then(|| serde_json::from_str(&body).ok())?
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // SIGKILL ends a process that stands still, too.
        self.kill();
    }
}

/// One HTTP exchange; `None` where nothing whole came.
fn exchange(address: &str, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut tcp = TcpStream::connect(address).ok()?;
    tcp.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let length = body.len();
    write!(
        tcp,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .ok()?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Free ports below those that the system gives to outgoing connections, so that they stay free while a node is dead.
fn ports<const COUNT: usize>() -> [u16; COUNT] {
    let mut held = Vec::new();
    while held.len() < COUNT {
        held.extend(TcpListener::bind(("127.0.0.1", rand::random_range(15_000..32_000))));
    }
    std::array::from_fn(|number| held[number].local_addr().unwrap().port())
}

#[derive(Default)]
struct Seen {
    complete: AtomicU64,
    broken: AtomicU64,
    failed: Mutex<Vec<String>>,
    stop: AtomicBool,
}

fn call(gateway: &str, turn: u64, seen: &Seen) {
    let stream = turn % 2 == 1;
    let question = format!("Summarise in 1 sentence: The sea was calm. Boat {turn} was blue. Tom ate.");
    let body = json!({"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": question}]});
    match exchange(gateway, "POST", "/v1/chat/completions", &body.to_string()) {
        Some((200, body)) if body.contains(if stream { "data: [DONE]" } else { "\"choices\":[" }) => {
            seen.complete.fetch_add(1, Ordering::Relaxed);
        }
        Some((200, body)) if stream && body.contains("data: {\"error\":") => {
            seen.broken.fetch_add(1, Ordering::Relaxed);
        }
        other => seen.failed.lock().unwrap().push(format!("{turn}: {other:?}")),
    }
}

#[test]
fn killed_proxies_and_workers_cost_callers_nothing_but_time() {
    let directory = tempfile::tempdir().unwrap();
    let [w1, c1, h1, w2, c2, h2, h3, h4, h5] = ports();
    let registered = [(1, w1, c1), (2, w2, c2)].map(|(seqno, workers, clients)| {
        json!({"seqno": seqno, "address": format!("127.0.0.1:{workers} 127.0.0.1:{clients}")})
    });
    let root = json!({
        "registered_proxies": registered, "price_per_token": 7, "worker_fee_per_token": 5,
        "last_proxy_seqno": 2, "version": 1, "params_version": 1, "root_owner_address": OWNER,
    });
    std::fs::write(directory.path().join("root.json"), root.to_string()).unwrap();
    let shown = "[attestation]\npresent = \"fake_tdx\"\n";
    let proxy = |name: &str, workers: u16, clients: u16, http: u16| {
        let config = format!(
            "listen_workers = \"127.0.0.1:{workers}\"\nlisten_clients = \"127.0.0.1:{clients}\"\n\
             {shown}require_of_workers = \"fake_tdx\"\n[pow]\ndifficulty = 1\n"
        );
        Node::start(directory.path(), "proxy", name, http, &config)
    };
    let worker = |name: &str, http: u16| {
        let config = format!("[engine]\nbuiltin = true\n{shown}require = \"fake_tdx\"\n");
        Node::start(directory.path(), "worker", name, http, &config)
    };
    let mut nodes = [
        proxy("proxy-1", w1, c1, h1),
        proxy("proxy-2", w2, c2, h2),
        worker("worker-1", h3),
        worker("worker-2", h4),
    ];
    let gateway =
        Node::start(directory.path(), "gateway", "gateway", h5, "[attestation]\nrequire = \"fake_tdx\"\n");
    wait_for("both workers at both proxies", || {
        let stats = gateway.stats()?;
        let offers = stats["models"][0]["cocoon"]["proxies"].as_array()?.len();
        (offers == 2).then_some(())
    });

    let seen = Arc::new(Seen::default());
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (seen, gateway) = (Arc::clone(&seen), gateway.http.clone());
            std::thread::spawn(move || {
                for turn in 0.. {
                    if seen.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    call(&gateway, turn, &seen);
                }
            })
        })
        .collect();
    let goes_on = || {
        let goal = seen.complete.load(Ordering::Relaxed) + ANSWERS;
        wait_for("answers", || (seen.complete.load(Ordering::Relaxed) >= goal).then_some(()));
    };
    goes_on();
    for kill in 0..KILLS {
        // The second proxy and the second worker; the first ones stay.
        let victim = if kill % 2 == 0 { 1 } else { 3 };
        if kill % 3 == 2 {
            // Its connections stay open, and whoever waits for it goes elsewhere.
            nodes[victim].signal("STOP");
            let began = Instant::now();
            while began.elapsed() < STANDS_STILL {
                goes_on();
            }
            nodes[victim].signal("CONT");
        } else {
            nodes[victim].kill();
            goes_on();
            nodes[victim].revive();
        }
        wait_for("it to be back", || nodes[victim].stats());
        goes_on();
    }
    // Whoever stood still for longer than it gives others must not take them for silent when it goes on.
    for frozen in [&nodes[1], &gateway] {
        let began = Instant::now();
        frozen.signal("STOP");
        wait_for("time to pass", || (began.elapsed() >= FROZEN).then_some(()));
        frozen.signal("CONT");
        goes_on();
    }
    seen.stop.store(true, Ordering::Relaxed);
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    let failed = std::mem::take(&mut *seen.failed.lock().unwrap());
    let (complete, broken) = (seen.complete.load(Ordering::Relaxed), seen.broken.load(Ordering::Relaxed));
    assert!(
        failed.is_empty(),
        "{} of {complete} failed: {:#?}",
        failed.len(),
        &failed[..failed.len().min(5)]
    );
    assert!(broken <= KILLS * CALLERS as u64, "{broken} streams broke");

    // Who came back hears of what it missed when it compares accounts.
    let number = |node: &Node, field: [&str; 2]| {
        node.stats().map_or(0, |stats| stats[field[0]][field[1]].as_u64().unwrap_or(0))
    };
    wait_for("gateway, proxies and workers to agree", || {
        let charged: u64 = nodes[..2].iter().map(|node| number(node, ["books", "charged_tokens"])).sum();
        let earned: u64 = nodes[2..].iter().map(|node| number(node, ["earned", "tokens"])).sum();
        let spent = number(&gateway, ["spent", "tokens"]);
        (charged > 0 && charged == earned && charged == spent).then_some(())
    });
}
