//! Programs for node against this chain: the unmodified TonClient, and the reference emulator as a yardstick.
//!
//! They need node 20 and `npm ci` in `tests/localchain`, so they run only when asked for:
//! `cargo test -p cocoon-localchain --test ton_client -- --ignored`.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod support;

use std::process::Stdio;

use cocoon_localchain::{LocalChain, Options, Production, TimeSource, toncenter};
use support::START;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// A start that leaves the programs decades to wait.
const LONG_AGO: u32 = 100_000_000;

/// Programs of a network that share a chain: its time has to do for all of them.
const PROGRAMS_PER_CHAIN: u32 = 10;

/// Serves a chain to the program, and expects it to succeed.
async fn run(program: &[&str], production: Production, start: u32) {
    run_with(program, &[], production, start).await;
}

async fn run_with(program: &[&str], environment: &[(&str, u32)], production: Production, start: u32) {
    let time = TimeSource::Fixed(start);
    let chain = LocalChain::open(&Options { production, time, ..Options::default() }).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = toncenter::routes(chain.clone()).merge(toncenter::control_routes(chain.clone()));
    let server = tokio::spawn(axum::serve(listener, routes).into_future());

    let mut child = Command::new("node")
        .args(program)
        .arg(&url)
        .envs(environment.iter().map(|(name, value)| (name, value.to_string())))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/localchain"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut output, mut errors) = (String::new(), String::new());
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (read, failed) = tokio::join!(stdout.read_to_string(&mut output), stderr.read_to_string(&mut errors));
    read.unwrap();
    failed.unwrap();
    assert!(child.wait().await.unwrap().success(), "{output}{errors}");
    println!("{output}");
    assert_eq!(chain.supply().await.unwrap().total_nanoton(), cocoon_localchain::SUPPLY_NANOTON);
    server.abort();
}

#[tokio::test]
#[ignore = "needs node and its packages"]
async fn the_unmodified_ton_client_deploys_wallets_sends_coins_and_reads_what_happened() {
    run(&["client.mjs"], Production::OnMessage, START).await;
}

#[tokio::test]
#[ignore = "needs node and its packages"]
async fn the_committed_test_contract_is_what_its_source_compiles_to() {
    run(&["compile.mjs", "--check"], Production::Manual, START).await;
}

#[tokio::test]
#[ignore = "needs node and its packages"]
async fn random_programs_have_the_same_effects_here_and_in_the_reference_emulator() {
    run(&["differential.mjs"], Production::Manual, LONG_AGO).await;
}

#[tokio::test]
#[ignore = "needs node, its packages, and those of contracts/"]
async fn random_networks_have_the_same_effects_here_and_in_the_reference_emulator() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u32>().unwrap());
    let first = number("SEED").unwrap_or(1);
    let mut seeds = first..first + number("PROGRAMS").unwrap_or(30);
    while !seeds.is_empty() {
        let programs = PROGRAMS_PER_CHAIN.min(seeds.end - seeds.start);
        let environment = [("SEED", seeds.start), ("PROGRAMS", programs)];
        run_with(&["cocoon.mjs"], &environment, Production::Manual, LONG_AGO).await;
        seeds.start += programs;
    }
}
