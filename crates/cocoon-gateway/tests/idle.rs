//! Ten thousand idle connections, in a process in which nothing else takes memory; their other ends are in a child of it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cocoon_gateway::GatewayLimits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use support::{Network, Plan, Scripted, ask, chat, json_answer};

const WANTED: usize = 10_000;
/// What the child is told: the gateway's address, and how many connections.
const TOLD: &str = "COCOON_TEST_IDLE";
/// What it says once all are open.
const OPEN: &str = "all open";

/// Memory of this process, in KiB.
fn memory() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// As many open files as this process may have.
fn raise_open_files() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    maximum.map_or(usize::MAX, |maximum| usize::try_from(maximum).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_cost_little_and_hinder_nobody() {
    const MAX_BYTES_EACH: usize = 32 * 1024;
    let files = raise_open_files();
    let count = WANTED.min(files.saturating_sub(300));
    #[allow(clippy::print_stderr)]
    if count < WANTED {
        eprintln!(
            "ONLY {count} OF {WANTED} CONNECTIONS: a process may have no more than {files} files open here"
        );
    }
    let engine = Scripted::new(|_| async { Ok(json_answer(200, &chat(11, 4))) });
    // However slow the machine is, nobody has idled for too long before all are there.
    let limits = GatewayLimits { header_timeout: Duration::from_secs(600), ..GatewayLimits::default() };
    let network = Network::start(Plan { limits, ..Plan::default() }, vec![engine]).await;
    let gateway = network.gateway.http_addr();
    let mut client = network.client().await;
    assert_eq!(client.post(&ask(&json!({}))).await.status, 200);
    let before = memory();
    let mut callers = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_callers_of_the_other_test", "--ignored", "--nocapture"])
        .env(TOLD, format!("{gateway} {count}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(callers.stdout.take().unwrap()).lines();
    let opening = tokio::task::spawn_blocking(move || {
        let open = said.any(|line| line.unwrap().contains(OPEN));
        (open, said)
    });
    // What it says is taken to its end.
    let (open, _said) = opening.await.unwrap();
    assert!(open);
    let metric = |text: &str| -> usize {
        let line = text.lines().find_map(|line| line.strip_prefix("cocoon_gateway_connections "));
        line.unwrap().trim().parse().unwrap()
    };
    let began = Instant::now();
    while metric(&client.get("/metrics").await.text()) < count {
        assert!(began.elapsed() < Duration::from_secs(60), "not all connections were taken");
        tokio::task::yield_now().await;
    }
    let each = memory().saturating_sub(before) * 1024 / count;
    #[allow(clippy::print_stderr)]
    let told = || eprintln!("{count} idle connections, {each} bytes each");
    told();
    assert!(each <= MAX_BYTES_EACH, "{each} bytes for each of {count} idle connections");
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(client.post(&ask(&json!({}))).await.status, 200);
        assert_eq!(network.client().await.post(&ask(&json!({}))).await.status, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop(callers.stdin.take());
    assert!(callers.wait().unwrap().success());
}

/// Runs in a process of its own, as the other test's child: opens connections, and holds them until it is told to end.
#[test]
#[ignore = "the other test runs it"]
fn the_callers_of_the_other_test() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let (gateway, count) = told.split_once(' ').unwrap();
    raise_open_files();
    let idle = (0..count.parse().unwrap()).map(|number: usize| {
        let mut tcp = TcpStream::connect(gateway).unwrap();
        // Some have spoken before, some have begun to speak, some have said nothing.
        match number % 3 {
            0 => {
                tcp.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
                // At the gateway's pace: the system's queue for connections is short.
                tcp.read_exact(&mut [0]).unwrap();
            }
            1 => tcp.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nho").unwrap(),
            _ => {}
        }
        tcp
    });
    let idle: Vec<_> = idle.collect();
    let mut stdout = std::io::stdout();
    writeln!(stdout, "\n{OPEN}").unwrap();
    stdout.flush().unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    drop(idle);
}
