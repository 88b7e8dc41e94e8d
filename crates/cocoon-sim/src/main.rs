//! Replays one history, or looks through many for one in which an invariant breaks.

#![allow(clippy::print_stdout, reason = "a command line tool: what it prints is what it is for")]

use anyhow::{Context as _, bail};
use clap::Parser;
use cocoon_sim::{DEFAULT_STEPS, Options, Summary, run};

#[derive(Parser)]
#[command(about = "Replays seeded histories of the network's protocol and checks its invariants")]
struct Args {
    /// Replay this history.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run the histories from A up to but not including B.
    #[arg(long, value_name = "A..B")]
    seeds: Option<String>,
    /// Events before everything heals.
    #[arg(long, default_value_t = DEFAULT_STEPS)]
    steps: u64,
    /// Print each event.
    #[arg(long)]
    trace: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let (first, end) = match (args.seed, &args.seeds) {
        (Some(seed), _) => (seed, seed.saturating_add(1)),
        (None, Some(range)) => {
            let (first, end) = range.split_once("..").context("write --seeds as A..B")?;
            (first.parse().context("A of --seeds A..B")?, end.parse().context("B of --seeds A..B")?)
        }
        (None, None) => bail!("name a history with --seed N, or many with --seeds A..B"),
    };
    let mut total = Summary::default();
    for seed in first..end {
        let options = Options { steps: args.steps, ..Options::new(seed) };
        let trace = |line: &str| {
            if args.trace {
                println!("{line}");
            }
        };
        match run(options, trace) {
            Ok(summary) => total += summary,
            Err(breach) => {
                bail!("seed {seed} fails {breach}\nreplay: --seed {seed} --steps {} --trace", args.steps)
            }
        }
    }
    println!("{} histories hold: {total}", end.saturating_sub(first));
    Ok(())
}
