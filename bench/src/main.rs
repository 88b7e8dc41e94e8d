//! Measures what a whole network (gateway, proxy and workers) adds to asking an engine directly; by `fees`, what its
//! settlement costs on chain; by `attest`, what attestation costs; by `market`, what choosing a worker costs; and by
//! `compare`, how other ways to an engine compare.
//!
//! A mock engine and the load generator live in this process; the network is a process of its own. Everything is
//! measured twice in the same run, directly and through the network, in short alternating rounds, so that whatever
//! else the machine does hits both. See `bench/README.md`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};

use load::{Ask, Client, Samples};
use mock::Mock;
use network::Network;
use report::{Report, connected};

mod attest;
mod compare;
mod fees;
mod load;
mod market;
mod mock;
mod network;
mod report;
mod tables;

/// Alternations between the direct and the whole path within one measurement.
const ROUNDS: u32 = 5;

/// Idle connections opened for the memory measurement.
const IDLE_CONNECTIONS: usize = 256;

/// Events of the streams that are held open for the memory measurement, and the pause between them: long enough
/// together (12 s) that none ends by itself.
const HELD_EVENTS: usize = 600;
const HELD_PAUSE: Duration = Duration::from_millis(20);

/// Pause of a settled state before its memory is read.
const SETTLE: Duration = Duration::from_millis(300);

/// Cancelled streams must have left the engine within this time.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);

/// Measures what a network adds to asking an engine directly.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Flags {
    #[command(subcommand)]
    other: Option<Other>,
    /// The program under test [default: `cocoon` beside this program].
    #[arg(long, value_name = "PATH")]
    cocoon: Option<PathBuf>,
    /// Seconds of load for each measurement and path.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    duration: f64,
    /// Numbers of connections to measure at.
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1,64",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: Vec<u16>,
    /// Events per stream.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    chunks: u16,
    /// Milliseconds between the events of a paced stream.
    #[arg(long, value_name = "MS", default_value_t = 20, value_parser = clap::value_parser!(u16).range(0..=1000))]
    chunk_delay: u16,
    /// Open streams for the memory measurement.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    streams: u16,
    /// Workers of the network.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Everything in about ten seconds: enough to see that it works, not to quote numbers.
    #[arg(long)]
    quick: bool,
    /// Measures the mock alone, without a network.
    #[arg(long)]
    direct_only: bool,
    /// Prints JSON in place of the table.
    #[arg(long)]
    json: bool,
}

/// What else can be measured.
#[derive(Subcommand)]
enum Other {
    /// Adds up what settlement costs on chain, over months of requests.
    Fees(fees::Flags),
    /// Measures other ways to the same engine beside ours: nginx, sglang-router, LiteLLM.
    Compare(compare::Flags),
    /// Measures what attestation costs: verifying evidence, connecting, and a connection that is up.
    Attest(attest::Flags),
    /// Measures what choosing a worker costs a proxy, by the number of workers.
    Market(market::Flags),
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.1..=600.0).contains(&value) => Ok(value),
        _ => Err("must be between 0.1 and 600".to_owned()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let flags = Flags::parse();
    let outcome = match &flags.other {
        Some(Other::Fees(fees)) => fees::run(fees).map(|()| true),
        Some(Other::Market(market)) => market::run(market).map(|()| true),
        Some(Other::Attest(attest)) => attest::run(attest).await.map(|()| true),
        Some(Other::Compare(compare)) => compare::run(compare).await,
        None => run(flags).await,
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "cocoon-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: Flags) -> anyhow::Result<bool> {
    let mock = Mock::start().await.context("can't start the mock engine")?;
    let directory = tempfile::tempdir().context("can't make a temporary directory")?;
    let network = if flags.direct_only {
        None
    } else {
        let program = program(flags.cocoon.clone())?;
        Some(Network::start(&program, &mock, usize::from(flags.workers), directory.path()).await?)
    };
    let mut report = Report::default();
    if let Some(network) = &network {
        progress("memory");
        // Before any load, so that what an allocator keeps afterwards does not hide the growth.
        measure_memory(&flags, &mock, network, &mut report).await?;
    }
    measure_load(&flags, &mock, network.as_ref().map(Network::gateway), &mut report).await?;
    if let Some(network) = network {
        report.fact("memory after the load", network.rss_kib()? as f64 / 1024.0, "MiB");
        match network.stop().await {
            Ok(took) => report.fact("clean end after Ctrl-C", millis(took), "ms"),
            Err(error) => report.error(format!("{error:#}")),
        }
    }
    let text = if flags.json { format!("{:#}\n", report.json()) } else { report.table() };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(report.is_clean())
}

/// The program under test; it is never built here.
fn program(asked: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let path = match asked {
        Some(path) => path,
        None => std::env::current_exe().context("can't tell where this program is")?.with_file_name("cocoon"),
    };
    if !path.is_file() {
        bail!(
            "there is no program {}; build it with `cargo build --release`, or name it with --cocoon PATH",
            path.display()
        );
    }
    Ok(path)
}

async fn measure_load(
    flags: &Flags,
    mock: &Mock,
    gateway: Option<SocketAddr>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let chunks = usize::from(flags.chunks);
    let pause = Duration::from_millis(u64::from(flags.chunk_delay));
    for connections in flags.connections.iter().copied().map(usize::from) {
        let label = connected(connections);
        progress(&format!("answers, {label}"));
        let (mut direct, mut through) = alternate(flags, mock, gateway, Ask::Whole, connections).await?;
        report.whole(connections, &mut direct, through.as_mut());
        for (kind, delay) in [("paced", pause), ("burst", Duration::ZERO)] {
            progress(&format!("{kind} streams, {label}"));
            mock.set_stream(chunks, delay);
            let ask = Ask::Stream { chunks };
            let (mut direct, mut through) = alternate(flags, mock, gateway, ask, connections).await?;
            report.streams(&format!("{kind}, {label}"), &mut direct, through.as_mut());
        }
    }
    Ok(())
}

/// Measures the direct and the whole path in turns.
async fn alternate(
    flags: &Flags,
    mock: &Mock,
    gateway: Option<SocketAddr>,
    ask: Ask,
    connections: usize,
) -> anyhow::Result<(Samples, Option<Samples>)> {
    let (rounds, total) = if flags.quick { (2, 0.7) } else { (ROUNDS, flags.duration) };
    let each = Duration::from_secs_f64(total) / rounds;
    let mut direct = Samples::default();
    let mut through = gateway.map(|_| Samples::default());
    for _ in 0..rounds {
        direct.merge(load::round(mock, mock.address(), ask, connections, each).await?);
        if let (Some(gateway), Some(samples)) = (gateway, through.as_mut()) {
            samples.merge(load::round(mock, gateway, ask, connections, each).await?);
        }
    }
    Ok((direct, through))
}

async fn measure_memory(
    flags: &Flags,
    mock: &Mock,
    network: &Network,
    report: &mut Report,
) -> anyhow::Result<()> {
    report.fact("ready after", millis(network.ready_after()), "ms");
    tokio::time::sleep(SETTLE).await;
    let idle = network.rss_kib()?;
    report.fact("memory, idle", idle as f64 / 1024.0, "MiB");

    let mut clients = Vec::with_capacity(IDLE_CONNECTIONS);
    for _ in 0..IDLE_CONNECTIONS {
        let mut client = Client::connect(network.gateway()).await?;
        client.get("/health").await?;
        clients.push(client);
    }
    tokio::time::sleep(SETTLE).await;
    let connected = network.rss_kib()?;
    report.fact("memory per idle connection", per_one(idle, connected, IDLE_CONNECTIONS), "KiB");

    mock.set_stream(HELD_EVENTS, HELD_PAUSE);
    let streams = usize::from(flags.streams);
    clients.truncate(streams);
    while clients.len() < streams {
        clients.push(Client::connect(network.gateway()).await?);
    }
    let before = network.rss_kib()?;
    let mut bodies = Vec::with_capacity(streams);
    for client in &mut clients {
        match client.open_stream(HELD_EVENTS).await {
            Ok(body) => bodies.push(body),
            Err(error) => {
                report.error(format!("only {} of {streams} streams opened: {error:#}", bodies.len()));
                break;
            }
        }
    }
    tokio::time::sleep(SETTLE).await;
    if !bodies.is_empty() {
        report.fact("memory per stream", per_one(before, network.rss_kib()?, bodies.len()), "KiB");
    }
    drop(bodies);
    drop(clients);
    let started = Instant::now();
    while mock.active_streams() > 0 && started.elapsed() < CANCEL_LIMIT {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    match mock.active_streams() {
        0 => report.fact("cancelling reaches the engine", millis(started.elapsed()), "ms"),
        left => {
            report.error(format!("{left} cancelled streams still ran at the engine after {CANCEL_LIMIT:?}"))
        }
    }
    Ok(())
}

/// Growth per one of `count`, in KiB; negative where memory was given back meanwhile.
fn per_one(before_kib: u64, after_kib: u64, count: usize) -> f64 {
    (after_kib as f64 - before_kib as f64) / count as f64
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Says on standard error what is being measured now.
fn progress(what: &str) {
    let _ = writeln!(std::io::stderr(), "measuring: {what}");
}
