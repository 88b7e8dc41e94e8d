//! The chain's file: what was told is found again, whatever moment the process ends at.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use cocoon_localchain::{
    BlockHeader, LocalChain, OpenError, Options, Production, SUPPLY_NANOTON, TimeSource, method_id,
};
use cocoon_ton::Address;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use support::*;

const FILE: &str = "COCOON_LOCALCHAIN_TEST_FILE";
const RECEIVER: Address = Address::basechain([0xcc; 32]);

fn options(path: &Path, production: Production) -> Options {
    Options { path: Some(path.to_owned()), production, time: TimeSource::Fixed(START), ..Options::default() }
}

async fn balance(chain: &LocalChain, address: Address) -> u64 {
    chain.account(address).await.unwrap().0.balance_nanoton
}

/// Every block follows from the one before it, down to the first.
async fn check_blocks(chain: &LocalChain) -> Vec<BlockHeader> {
    let head = chain.head().await.unwrap();
    let mut blocks: Vec<BlockHeader> = Vec::new();
    for seqno in 0..=head.seqno {
        let block = chain.block(seqno).await.unwrap().unwrap();
        let made = chain.block_transactions(seqno).await.unwrap();
        assert_eq!(made.len(), block.transactions as usize);
        assert!(made.iter().all(|made| (block.start_lt..=block.end_lt).contains(&made.lt)));
        if let Some(last) = blocks.last() {
            assert_eq!(block.previous, last.hash);
            assert!(block.start_lt > last.end_lt && block.unix_time >= last.unix_time);
        }
        blocks.push(block);
    }
    assert_eq!(blocks.last(), Some(&head));
    blocks
}

#[tokio::test]
async fn a_chain_that_is_opened_again_goes_on_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("chain");
    let probe = probe(1);
    let before = {
        let chain = LocalChain::open(&options(&path, Production::OnMessage)).unwrap();
        chain.grant(probe.address, 5 * TON).await.unwrap();
        chain.submit(probe.external(0, &[])).await.unwrap();
        chain.advance(1_000_000).await.unwrap();
        let supply = chain.supply().await.unwrap();
        (chain.head().await.unwrap(), chain.account(probe.address).await.unwrap(), supply)
    };
    let chain = reopen(&path, Production::OnMessage).await;
    let after = (
        chain.head().await.unwrap(),
        chain.account(probe.address).await.unwrap(),
        chain.supply().await.unwrap(),
    );
    assert_eq!(before, after);
    assert_eq!(chain.now().await.unwrap(), START + 1_000_000, "a clock that was moved stays moved");
    chain
        .submit(probe.external(1, &[(1, internal(RECEIVER, TON, false, None, &empty_cell()))]))
        .await
        .unwrap();
    assert_eq!(balance(&chain, RECEIVER).await, TON);
    check_blocks(&chain).await;
}

#[tokio::test]
async fn messages_under_way_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("chain");
    {
        let chain = LocalChain::open(&options(&path, Production::Manual)).unwrap();
        let probe = probe(1);
        chain.grant(probe.address, 100 * TON).await.unwrap();
        chain.produce_block().await.unwrap();
        let send = |nanoton| (1, internal(RECEIVER, nanoton, false, None, &empty_cell()));
        chain.submit(probe.external(0, &[send(TON), send(TON), send(TON)])).await.unwrap();
        for _ in 1..cocoon_localchain::MAX_PENDING_INPUTS {
            chain.grant(RECEIVER, 1).await.unwrap();
        }
        chain.produce_block().await.unwrap();
        assert!(chain.supply().await.unwrap().queue_nanoton > 0);
    }
    let chain = reopen(&path, Production::Manual).await;
    assert_eq!(chain.produce_block().await.unwrap().transactions, 3);
    assert_eq!(chain.supply().await.unwrap().queue_nanoton, 0);
    assert!(balance(&chain, RECEIVER).await > 3 * TON);
}

#[tokio::test]
async fn a_file_that_is_in_use_or_not_a_chain_is_refused_with_advice() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("chain");
    let first = LocalChain::open(&options(&path, Production::Manual)).unwrap();
    let again = LocalChain::open(&options(&path, Production::Manual)).unwrap_err();
    assert!(matches!(again, OpenError::Store { .. }));
    assert!(again.to_string().contains("another process runs this chain"), "{again}");
    drop(first);

    let other = directory.path().join("other");
    std::fs::write(&other, "not a database, but long enough that it could be one".repeat(100)).unwrap();
    assert!(LocalChain::open(&options(&other, Production::Manual)).is_err());
    let foreign = directory.path().join("foreign");
    rusqlite::Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    let refused = LocalChain::open(&options(&foreign, Production::Manual)).unwrap_err();
    assert!(refused.to_string().contains("not a chain of this program"), "{refused}");
}

#[tokio::test]
async fn a_closed_chain_lets_go_of_its_file_and_says_so_to_everybody() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("chain");
    for round in 0..20 {
        let chain = LocalChain::open(&options(&path, Production::OnMessage)).unwrap();
        let other = chain.clone();
        let mut news = other.subscribe(RECEIVER).unwrap();
        chain.grant(RECEIVER, TON).await.unwrap();
        chain.close().await;
        // Nothing but the other process's lock is in the way of the file any more.
        let reader = rusqlite::Connection::open(&path).unwrap();
        reader.busy_timeout(std::time::Duration::ZERO).unwrap();
        let blocks: u32 = reader.query_row("SELECT count(*) FROM blocks", [], |row| row.get(0)).unwrap();
        assert_eq!(blocks, round + 2);

        assert!(other.grant(RECEIVER, TON).await.unwrap_err().to_string().contains("has ended"));
        assert!(other.subscribe(RECEIVER).is_err());
        while news.changed().await.is_ok() {}
        other.close().await;
    }
}

#[tokio::test]
async fn a_chain_whose_file_is_full_waits_and_is_whole_when_it_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("chain");
    let small = Options { max_file_bytes: 300_000, ..options(&path, Production::OnMessage) };
    let chain = LocalChain::open(&small).unwrap();
    let (mut granted, failure) = loop {
        let granted = balance(&chain, RECEIVER).await;
        if let Err(failure) = chain.grant(RECEIVER, TON).await {
            break (granted, failure);
        }
    };
    assert!(granted > 10 * TON);
    assert!(failure.to_string().contains("make room"), "{failure}");
    // Nobody is told of what a restart will not find.
    assert!(chain.account(RECEIVER).await.unwrap_err().to_string().contains("make room"));
    assert!(chain.produce_block().await.is_err());
    drop(chain);
    let chain = reopen(&path, Production::OnMessage).await;
    assert_eq!(balance(&chain, RECEIVER).await, granted);
    chain.grant(RECEIVER, TON).await.unwrap();
    granted += TON;
    assert_eq!(balance(&chain, RECEIVER).await, granted);
    assert_eq!(chain.supply().await.unwrap().total_nanoton(), SUPPLY_NANOTON);
}

/// Waits for the thread of the last handle to let go of the file.
async fn reopen(path: &Path, production: Production) -> LocalChain {
    let (path, path_options) = (path.to_owned(), options(path, production));
    tokio::task::spawn_blocking(move || LocalChain::open(&path_options))
        .await
        .unwrap()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// How many senders work at the same time, and how many times they are killed.
const SENDERS: u32 = 4;
const KILLS: u32 = 50;

/// Not a test of its own: sends coins from several contracts until it is killed, and says of each message that the chain
/// has taken which transaction it made.
#[tokio::test]
#[ignore = "the process that the next test kills"]
async fn sender_until_killed() {
    let Some(path) = std::env::var_os(FILE) else { return };
    let chain = LocalChain::open(&options(Path::new(&path), Production::OnMessage)).unwrap();
    let senders = (0..SENDERS).map(|number| send_without_end(chain.clone(), number));
    futures_util::future::join_all(senders).await;
}

async fn send_without_end(chain: LocalChain, number: u32) {
    let probe = probe(number);
    if chain.account(probe.address).await.unwrap().0.balance_nanoton == 0 {
        chain.grant(probe.address, 1_000_000 * TON).await.unwrap();
    }
    let mut seqno = sent(&chain, number).await;
    loop {
        let send = (1, internal(RECEIVER, 1_000, false, None, &empty_cell()));
        chain.submit(probe.external(seqno, &[send])).await.unwrap();
        seqno += 1;
        let made = chain.account(probe.address).await.unwrap().0.last_transaction.unwrap();
        // One write for the line: a kill leaves it whole or not at all, but for the last.
        println!("told {number} {seqno} {} {}", made.lt, hex::encode(made.hash));
    }
}

/// How many messages the sender's contract has counted.
async fn sent(chain: &LocalChain, number: u32) -> u32 {
    let address = probe(number).address;
    let state = chain.run_get_method(address, method_id("state"), Vec::new()).await.unwrap();
    match state.stack.first() {
        Some(cocoon_chain::StackItem::Int(seqno)) => u32::try_from(seqno.to_u64().unwrap()).unwrap(),
        _ => 0,
    }
}

#[tokio::test]
async fn what_was_told_before_a_kill_is_there_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("chain");
    let mut runner = TestRunner::deterministic();
    let (mut told, mut last_total) = (Vec::new(), 0);
    for round in 0..KILLS {
        let lines = (1..40_usize).new_tree(&mut runner).unwrap().current();
        let pause = (0..3_000_u64).new_tree(&mut runner).unwrap().current();
        let new = run_and_kill(&path, lines, pause).await;
        let chain = LocalChain::open(&options(&path, Production::OnMessage)).unwrap();
        for transaction in &new {
            check_told(&chain, transaction, round).await;
        }
        told.extend(new);

        let mut total = 0;
        for number in 0..SENDERS {
            total += u64::from(sent(&chain, number).await);
        }
        assert_eq!(balance(&chain, RECEIVER).await, total * 1_000, "round {round}: nothing is paid twice");
        assert!(total >= told.len() as u64 && total > last_total, "round {round}: the chain went on");
        assert_eq!(chain.supply().await.unwrap().total_nanoton(), SUPPLY_NANOTON, "round {round}");
        last_total = total;
        if round % 10 == 9 {
            check_blocks(&chain).await;
        }
        chain.close().await;
    }
    let chain = LocalChain::open(&options(&path, Production::OnMessage)).unwrap();
    for transaction in &told {
        check_told(&chain, transaction, KILLS).await;
    }
}

/// What a sender said.
struct Told {
    sender: u32,
    sent: u32,
    lt: u64,
    hash: String,
}

impl Told {
    /// `None` for a line that the kill cut off.
    fn read(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("told ")?.split(' ');
        let mut next = || words.next();
        let told = Self {
            sender: next()?.parse().ok()?,
            sent: next()?.parse().ok()?,
            lt: next()?.parse().ok()?,
            hash: next()?.to_owned(),
        };
        (told.hash.len() == 64).then_some(told)
    }
}

async fn check_told(chain: &LocalChain, told: &Told, round: u32) {
    let address = probe(told.sender).address;
    let made = chain.history(address, told.lt, told.lt - 1, 1).await.unwrap();
    let hash = made.first().map(|made| hex::encode(made.hash));
    assert_eq!(hash.as_ref(), Some(&told.hash), "round {round}: what was told is there");
    assert!(sent(chain, told.sender).await >= told.sent, "round {round}: no message is forgotten");
}

/// Starts the senders, reads so many lines, waits so many microseconds, kills them, and gives what they said.
async fn run_and_kill(path: &Path, lines: usize, pause_us: u64) -> Vec<Told> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sender_until_killed", "--ignored", "--nocapture"])
        .env(FILE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut told = output.lines().map_while(Result::ok).filter_map(|line| Told::read(&line));
    let mut all: Vec<Told> = told.by_ref().take(lines).collect();
    tokio::time::sleep(std::time::Duration::from_micros(pause_us)).await;
    child.kill().unwrap();
    child.wait().unwrap();
    // Lines that were written before the kill count too.
    all.extend(told);
    assert!(all.len() >= lines, "the senders ended by themselves");
    all
}
