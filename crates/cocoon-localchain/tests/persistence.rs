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
async fn a_chain_whose_file_is_full_stops_and_is_whole_when_there_is_room_again() {
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
    assert!(failure.to_string().contains("cannot be stored"), "{failure}");
    // Nobody is told of what a restart will not find.
    assert!(chain.account(RECEIVER).await.unwrap_err().to_string().contains("has stopped"));
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

/// Not a test of its own: sends coins until it is killed, and says after each block what it was told.
#[tokio::test]
#[ignore = "the process that the next test kills"]
async fn sender_until_killed() {
    let Some(path) = std::env::var_os(FILE) else { return };
    let chain = LocalChain::open(&options(Path::new(&path), Production::OnMessage)).unwrap();
    let probe = probe(1);
    if chain.head().await.unwrap().seqno == 0 {
        chain.grant(probe.address, 1_000_000 * TON).await.unwrap();
    }
    let state = chain.run_get_method(probe.address, method_id("state"), Vec::new()).await.unwrap();
    let mut seqno = match state.stack.first() {
        Some(cocoon_chain::StackItem::Int(seqno)) => u32::try_from(seqno.to_u64().unwrap()).unwrap(),
        _ => 0,
    };
    loop {
        let send = (1, internal(RECEIVER, 1_000, false, None, &empty_cell()));
        chain.submit(probe.external(seqno, &[send])).await.unwrap();
        seqno += 1;
        let head = chain.head().await.unwrap();
        println!(
            "told {} {} {seqno} {}",
            head.seqno,
            hex::encode(head.hash),
            balance(&chain, RECEIVER).await
        );
    }
}

#[tokio::test]
async fn what_was_told_before_a_kill_is_there_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("chain");
    let mut runner = TestRunner::deterministic();
    let mut last_told = 0;
    for round in 0..25 {
        let lines = (1..40_usize).new_tree(&mut runner).unwrap().current();
        let pause = (0..3_000_u64).new_tree(&mut runner).unwrap().current();
        let told = run_and_kill(&path, lines, pause).await;
        let [seqno, hash, sent, received] = &told[..] else { panic!("{told:?}") };

        let chain = LocalChain::open(&options(&path, Production::OnMessage)).unwrap();
        let blocks = check_blocks(&chain).await;
        let block = &blocks[seqno.parse::<usize>().unwrap()];
        assert_eq!(hex::encode(block.hash), *hash, "round {round}");
        let balance = balance(&chain, RECEIVER).await;
        assert!(balance >= received.parse().unwrap(), "round {round}: what was told as received is there");
        let state = chain.run_get_method(probe(1).address, method_id("state"), Vec::new()).await.unwrap();
        let Some(cocoon_chain::StackItem::Int(counted)) = state.stack.first() else { panic!("{state:?}") };
        let counted = counted.to_u64().unwrap();
        assert!(counted >= sent.parse().unwrap(), "round {round}: no message is forgotten");
        assert_eq!(balance, counted * 1_000, "round {round}: nothing is paid twice");
        assert_eq!(chain.supply().await.unwrap().total_nanoton(), SUPPLY_NANOTON);
        assert!(counted > last_told, "round {round}: the chain went on");
        last_told = counted;
        drop(chain);
    }
}

/// Starts the sender, reads so many lines, waits so many microseconds, kills it, and gives the last line's words.
async fn run_and_kill(path: &Path, lines: usize, pause_us: u64) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sender_until_killed", "--ignored", "--nocapture"])
        .env(FILE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut told = output.lines().map_while(Result::ok).filter(|line| line.starts_with("told "));
    let last = told.by_ref().take(lines).last().unwrap();
    tokio::time::sleep(std::time::Duration::from_micros(pause_us)).await;
    child.kill().unwrap();
    child.wait().unwrap();
    // Lines that were written before the kill count too.
    let last = told.filter(|line| line.split(' ').count() == 5).last().unwrap_or(last);
    last.split(' ').skip(1).map(str::to_owned).collect()
}
