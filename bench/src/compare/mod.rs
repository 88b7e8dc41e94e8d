//! Our whole path beside other ways to the same engine: one run, one machine, one mock engine, one load.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use contestant::{Contestant, Ground, Kind};
use report::{Cell, Results};
use rounds::{Load, Measure};
use tools::{Tools, say};

use crate::mock::Mock;

mod contestant;
mod process;
mod report;
mod rounds;
mod tools;

/// One that fails so often at a level is asked no more there, and at no higher one.
const GIVE_UP: f64 = 0.5;

/// Burst streams are measured at this many connections, or at the nearest level below.
const BURSTS: usize = 64;

/// What to compare, and how long.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// The program under test [default: `cocoon` beside this program].
    #[arg(long, value_name = "PATH")]
    cocoon: Option<PathBuf>,
    /// Another build of it, to see what a change does.
    #[arg(long, value_name = "PATH")]
    baseline: Option<PathBuf>,
    /// First install what is missing, in pinned versions.
    #[arg(long)]
    install: bool,
    /// Where that is installed [default: `bench-tools` in the target directory].
    #[arg(long, value_name = "DIR")]
    tools: Option<PathBuf>,
    /// Who takes part [default: all that are installed].
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    only: Vec<Kind>,
    /// What is asked for.
    #[arg(long, value_name = "KIND,KIND", value_delimiter = ',', default_value = "answers,streams,bursts")]
    measure: Vec<Measure>,
    /// Numbers of connections, or streams, at a time [default: 1,16,64,256,1000,5000; quick: 1,16].
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=8000))]
    levels: Vec<u16>,
    /// Rounds at each level [default: 3; quick: 1].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: Option<u16>,
    /// Seconds that are measured of each round, at the least [default: 1.5; quick: 0.4].
    #[arg(long, value_name = "SECONDS", value_parser = crate::seconds)]
    window: Option<f64>,
    /// Connections that only stay, for the measurement of memory [default: 10000; quick: 200].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16_000))]
    idle: Option<u16>,
    /// Workers of our network.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Everything within seconds: enough to see that it works, not to quote numbers.
    #[arg(long)]
    quick: bool,
    /// Prints JSON in place of the tables.
    #[arg(long)]
    json: bool,
}

/// Measures everything and prints the report; whether the engine and our path answered all.
///
/// # Errors
/// What stands in the way of measuring.
pub(crate) async fn run(flags: &Flags) -> anyhow::Result<bool> {
    let files = process::raise_open_files()?;
    let tools = Tools::at(flags.tools.clone())?;
    let mut results = Results::default();
    if flags.install {
        for failure in tools.install().await {
            results.note(failure);
        }
    }
    let mock = Mock::start().await.context("can't start the mock engine")?;
    let directory = tempfile::tempdir().context("can't make a temporary directory")?;
    let wanted = |kind: Kind| flags.only.is_empty() || flags.only.contains(&kind);
    let cocoon = wanted(Kind::Cocoon).then(|| crate::program(flags.cocoon.clone())).transpose()?;
    let ground = Ground {
        mock: &mock,
        tools: &tools,
        cocoon: cocoon.map(std::path::absolute).transpose()?,
        baseline: flags.baseline.as_deref().map(std::path::absolute).transpose()?,
        workers: flags.workers,
        dir: directory.path(),
    };
    let measured = async {
        let awake = process::Awake::keep();
        let contestants = start(&ground, wanted, &mut results).await?;
        measure(flags, files, &mock, &contestants, &mut results).await?;
        drop(awake);
        for contestant in contestants {
            if let Err(error) = contestant.stop().await {
                results.note(format!("{error:#}"));
            }
        }
        anyhow::Ok(())
    };
    tokio::select! {
        measured = measured => measured?,
        // Whoever runs is ended as it is dropped.
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    }
    let clean = results.is_clean();
    let text = if flags.json { format!("{:#}\n", results.json()) } else { results.text() };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(clean)
}

async fn start(
    ground: &Ground<'_>,
    wanted: impl Fn(Kind) -> bool,
    results: &mut Results,
) -> anyhow::Result<Vec<Contestant>> {
    let mut contestants = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|&kind| wanted(kind)) {
        say(&format!("starting: {}", kind.name()));
        match Contestant::start(kind, ground).await {
            Ok(Some(contestant)) => {
                let idle = contestant.tree().map(process::Tree::memory_kib);
                results.took_part(&contestant, idle);
                contestants.push(contestant);
            }
            Ok(None) if kind == Kind::Baseline => {}
            Ok(None) => results
                .note(format!("{} is not installed, so it took no part; --install installs it", kind.name())),
            // Without these two there is nothing to compare.
            Err(error) if matches!(kind, Kind::Direct | Kind::Cocoon) => return Err(error),
            Err(error) => results.note(format!("{} FAILED to start: {error:#}", kind.name())),
        }
    }
    Ok(contestants)
}

async fn measure(
    flags: &Flags,
    files: u64,
    mock: &Mock,
    contestants: &[Contestant],
    results: &mut Results,
) -> anyhow::Result<()> {
    let quick = flags.quick;
    let rounds = flags.rounds.unwrap_or(if quick { 1 } else { 3 });
    let window = Duration::from_secs_f64(flags.window.unwrap_or(if quick { 0.4 } else { 1.5 }));
    let levels = match flags.levels.as_slice() {
        [] if quick => &[1, 16][..],
        [] => &[1, 16, 64, 256, 1000, 5000],
        asked => asked,
    };
    // Both ends of a connection to the mock are ours; some files are open anyhow.
    let most = usize::try_from(files / 2).unwrap_or(usize::MAX).saturating_sub(100);
    // Before any load, so that what an allocator keeps afterwards does not hide the growth.
    let idle = usize::from(flags.idle.unwrap_or(if quick { 200 } else { 10_000 })).min(2 * most);
    for contestant in contestants {
        say(&format!("measuring: {idle} idle connections, {}", contestant.kind.name()));
        match rounds::idle_connections(contestant, idle).await {
            Ok(kib) => results.idle_connection(contestant.kind, kib),
            Err(error) => results
                .note(format!("{} FAILED with {idle} idle connections: {error:#}", contestant.kind.name())),
        }
    }
    let bursts_at =
        levels.iter().copied().map(usize::from).filter(|&level| level <= BURSTS).max().unwrap_or(BURSTS);
    let mut given_up = Vec::new();
    // What many connections leave behind in a contestant shows in no figure of fewer.
    for connections in levels.iter().copied().map(usize::from) {
        if connections > most {
            results.note(format!(
                "{connections} connections need more open files than the {files} that are allowed"
            ));
            continue;
        }
        for measure in &flags.measure {
            let load = Load::new(*measure, connections, window);
            if *measure != Measure::Bursts || connections == bursts_at {
                level(&load, rounds, mock, contestants, &mut given_up, results).await?;
            }
        }
    }
    Ok(())
}

/// Everybody in turn, and that several times: what else the machine does hits all.
async fn level(
    load: &Load,
    rounds: u16,
    mock: &Mock,
    contestants: &[Contestant],
    given_up: &mut Vec<(Measure, Kind, usize)>,
    results: &mut Results,
) -> anyhow::Result<()> {
    let unasked: Vec<_> = given_up
        .iter()
        .filter(|(measure, ..)| *measure == load.measure)
        .map(|&(_, kind, level)| (kind, level))
        .collect();
    let asked = |kind: Kind| unasked.iter().all(|(given_up, _)| *given_up != kind);
    let mut cells: Vec<Cell> = contestants
        .iter()
        .filter(|contestant| asked(contestant.kind))
        .map(|contestant| Cell { kind: contestant.kind, rounds: Vec::new() })
        .collect();
    for number in 1..=rounds {
        for contestant in contestants {
            let kind = contestant.kind;
            let Some(cell) = cells.iter_mut().find(|cell| cell.kind == kind) else { continue };
            if given_up.iter().any(|&(measure, given_up, _)| (measure, given_up) == (load.measure, kind)) {
                continue;
            }
            say(&format!(
                "measuring: {:?}, {}, round {number}, {}",
                load.measure,
                load.connections,
                kind.name()
            ));
            let figures = rounds::round(mock, contestant, load).await?;
            if figures.failed() > GIVE_UP {
                given_up.push((load.measure, kind, load.connections));
            }
            cell.rounds.push(figures);
        }
    }
    results.level(load, &cells, &unasked);
    Ok(())
}
