//! What validators take from a network's coins: months of requests, settled by the real planners with real wallets and
//! contracts on the embedded chain.
//!
//! Requests off chain cost nothing and are added up; each message on chain is executed, with all that follows from it.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use cocoon_localchain::ChainConfig;
use cocoon_ton::NANOTON_PER_TON;

use market::{Market, Outcome};
use report::Report;

mod market;
mod report;
mod world;

/// Adds up what settlement costs on chain.
#[derive(Args)]
pub(crate) struct Flags {
    /// Price of a token in nanoton; the network's own by default.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=1_000_000))]
    price: u64,
    /// A worker's part of it.
    #[arg(long, default_value_t = 18, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    worker_fee: u64,
    /// A small part of the tables, within seconds: to see that it works.
    #[arg(long)]
    quick: bool,
    /// Prints JSON in place of the tables.
    #[arg(long)]
    json: bool,
}

/// One month of a network.
#[derive(Debug, Clone, Copy)]
struct Scenario {
    /// Requests of the month, over all clients.
    requests: u64,
    tokens_per_request: u64,
    price_nanoton: u64,
    worker_fee_nanoton: u64,
    clients: u32,
    workers: u32,
    /// What a client must keep paid in; a share of it is charged at once.
    stake_nanoton: u64,
    /// What a client keeps paid in, at least the stake.
    deposit_nanoton: u64,
    /// From when on a worker has itself paid.
    payout_nanoton: u64,
    /// Share of what may stay uncharged at which a client is charged.
    charge_at_percent: u64,
    commit_every_seconds: u64,
}

impl Scenario {
    /// What the month's requests cost the clients.
    const fn turnover_nanoton(&self) -> u64 {
        self.requests * self.tokens_per_request * self.price_nanoton
    }
}

/// A table: what its months have in common, and the months.
struct Section {
    title: &'static str,
    scenarios: Vec<Scenario>,
}

/// Runs everything and prints the report.
///
/// # Errors
/// A run did not work, or a coin was missing in it.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    anyhow::ensure!(flags.worker_fee <= flags.price, "a worker's part cannot be more than the price");
    let started = Instant::now();
    let config = Arc::new(ChainConfig::new().context("the chain's configuration")?);
    let base = Scenario {
        requests: 1_000_000,
        tokens_per_request: 500,
        price_nanoton: flags.price,
        worker_fee_nanoton: flags.worker_fee,
        clients: 10,
        workers: 10,
        stake_nanoton: NANOTON_PER_TON,
        deposit_nanoton: NANOTON_PER_TON,
        payout_nanoton: NANOTON_PER_TON,
        charge_at_percent: 50,
        commit_every_seconds: 3600,
    };
    let mut report = Report::new(base);
    steps(&config, base, &mut report)?;
    let sections = if flags.quick { quick(base) } else { all(base) };
    let scenarios: Vec<_> = sections.iter().flat_map(|section| section.scenarios.iter().copied()).collect();
    let mut outcomes = run_all(&config, &scenarios)?.into_iter();
    for section in sections {
        let rows = section.scenarios.iter().copied().zip(outcomes.by_ref()).collect();
        report.add(section.title, rows);
    }
    let text = if flags.json { format!("{:#}\n", report.json()) } else { report.tables() };
    std::io::stdout().write_all(text.as_bytes())?;
    progress(&format!("{:.1} s", started.elapsed().as_secs_f64()));
    Ok(())
}

/// Each step by itself: one client and one worker, from deploying to closing, in a month that moves 20 TON.
fn steps(config: &Arc<ChainConfig>, base: Scenario, report: &mut Report) -> anyhow::Result<()> {
    let tokens = 20 * NANOTON_PER_TON / base.price_nanoton;
    let month = Scenario { requests: tokens / base.tokens_per_request, clients: 1, workers: 1, ..base };
    let mut market = Market::new(Arc::clone(config), month)?;
    market.run()?;
    market.wind_up()?;
    let mut other = Market::new(Arc::clone(config), month)?;
    other.run()?;
    report.steps(&market.tallies, other.storage_year()?);
    Ok(())
}

fn grid(base: Scenario, requests: u64, tokens_per_request: u64) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for clients in [1, 10, 100, 1000] {
        for workers in [1, 10, 100] {
            scenarios.push(Scenario { requests, tokens_per_request, clients, workers, ..base });
        }
    }
    scenarios
}

fn all(base: Scenario) -> Vec<Section> {
    let busy = Scenario { requests: 100_000_000, ..base };
    let mut thresholds = Vec::new();
    for deposit in [1, 5, 20] {
        for payout in [1, 10] {
            let (deposit_nanoton, payout_nanoton) = (deposit * NANOTON_PER_TON, payout * NANOTON_PER_TON);
            thresholds.push(Scenario { deposit_nanoton, payout_nanoton, ..busy });
        }
    }
    let stakes = [1, 5, 10].map(|stake| {
        let stake_nanoton = stake * NANOTON_PER_TON;
        Scenario { stake_nanoton, deposit_nanoton: 20 * NANOTON_PER_TON, ..busy }
    });
    let charges = [25, 50, 75].map(|charge_at_percent| Scenario { charge_at_percent, ..busy });
    let mut commits = Vec::new();
    for requests in [1_000_000, 10_000_000, 100_000_000] {
        for hours in [1, 6, 24] {
            commits.push(Scenario { requests, commit_every_seconds: hours * 3600, ..base });
        }
    }
    vec![
        Section {
            title: "A month of a million requests of 500 tokens",
            scenarios: grid(base, 1_000_000, 500),
        },
        Section {
            title: "A month of a million requests of 2,000 tokens",
            scenarios: grid(base, 1_000_000, 2000),
        },
        Section {
            title: "A month of 100 million requests of 500 tokens",
            scenarios: grid(base, 100_000_000, 500),
        },
        Section {
            title: "A month of 100 million requests of 2,000 tokens",
            scenarios: [10, 1000]
                .map(|clients| Scenario { clients, tokens_per_request: 2000, ..busy })
                .to_vec(),
        },
        Section { title: "Deposits and payouts: 100 million requests of 500 tokens", scenarios: thresholds },
        Section {
            title: "Stakes of clients: 100 million requests of 500 tokens",
            scenarios: stakes.to_vec(),
        },
        Section { title: "When to charge: 100 million requests of 500 tokens", scenarios: charges.to_vec() },
        Section { title: "How often to commit", scenarios: commits },
    ]
}

fn quick(base: Scenario) -> Vec<Section> {
    let months = [(1, 1), (10, 10)].map(|(clients, workers)| Scenario { clients, workers, ..base });
    vec![Section { title: "A month of a million requests of 500 tokens", scenarios: months.to_vec() }]
}

/// As many at a time as there are cores. The order of the outcomes is that of the scenarios.
fn run_all(config: &Arc<ChainConfig>, scenarios: &[Scenario]) -> anyhow::Result<Vec<Outcome>> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(scenario) = scenarios.get(index) else { return };
            let outcome = Market::new(Arc::clone(config), *scenario)
                .and_then(|mut market| market.run())
                .with_context(|| format!("{scenario:?}"));
            outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((index, outcome));
            progress(&format!("month {} of {}", index + 1, scenarios.len()));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(work);
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Says on standard error how far it is.
fn progress(what: &str) {
    let _ = writeln!(std::io::stderr(), "fees: {what}");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MONTH: Scenario = Scenario {
        requests: 200_000,
        tokens_per_request: 500,
        price_nanoton: 20,
        worker_fee_nanoton: 18,
        clients: 2,
        workers: 2,
        stake_nanoton: NANOTON_PER_TON,
        deposit_nanoton: NANOTON_PER_TON,
        payout_nanoton: NANOTON_PER_TON / 2,
        charge_at_percent: 50,
        commit_every_seconds: 24 * 3600,
    };

    fn month(scenario: Scenario) -> Outcome {
        let config = Arc::new(ChainConfig::new().unwrap());
        let mut market = Market::new(config, scenario).unwrap();
        let outcome = market.run().unwrap();
        market.wind_up().unwrap();
        outcome
    }

    #[test]
    fn each_threshold_is_crossed_as_often_as_the_month_s_use_says() {
        // 2 TON of use, 1 for each client, 0.9 for each worker.
        let outcome = month(MONTH);
        let times = |name| outcome.tallies.times(name);
        assert_eq!(times("charge"), 2 * 2, "at 0.5 TON and, topped up by then, at 1 TON");
        assert_eq!(times("first payout"), 2);
        assert_eq!(times("payout"), 0);
        assert!((29..=30 + 4).contains(&times("commit")), "{}", times("commit"));
        assert!(outcome.month.clients > 0 && outcome.month.workers > 0 && outcome.month.proxy > 0);
    }

    #[test]
    fn looking_at_books_where_nothing_is_due_costs_nothing() {
        let rarely = Scenario { requests: 1000, commit_every_seconds: u64::MAX, ..MONTH };
        assert_eq!(month(rarely).month.total(), 0);
    }

    #[test]
    fn more_use_than_a_channel_covers_between_two_looks_is_an_error_and_not_a_figure() {
        let config = Arc::new(ChainConfig::new().unwrap());
        let absurd = Scenario { requests: 2_000_000_000_000, clients: 1, workers: 1, ..MONTH };
        let error = Market::new(config, absurd).and_then(|mut market| market.run()).unwrap_err();
        assert!(error.to_string().contains("too far apart"), "{error:#}");
    }
}
