//! What the months cost, as tables in Markdown and as JSON.

use std::fmt::Write as _;

use cocoon_ton::NANOTON_PER_TON;
use serde_json::{Value, json};

use super::Scenario;
use super::market::{Fees, Outcome};
use super::world::{Step, Tallies};

/// Requests that fees are told for.
const PER_REQUESTS: u64 = 1_000_000;

/// What was found, grown as the runs go on.
pub(super) struct Report {
    base: Scenario,
    steps: Vec<Step>,
    storage: Vec<(&'static str, u64)>,
    sections: Vec<(&'static str, Vec<(Scenario, Outcome)>)>,
}

impl Report {
    pub(super) fn new(base: Scenario) -> Self {
        Self { base, steps: Vec::new(), storage: Vec::new(), sections: Vec::new() }
    }

    pub(super) fn steps(&mut self, tallies: &Tallies, storage: Vec<(&'static str, u64)>) {
        self.steps.clone_from(&tallies.0);
        self.storage = storage;
    }

    pub(super) fn add(&mut self, title: &'static str, rows: Vec<(Scenario, Outcome)>) {
        self.sections.push((title, rows));
    }

    pub(super) fn tables(&self) -> String {
        let mut text = format!(
            "Fees in TON, at {} nanoton for a token, of which a worker gets {}.\n\n### One step\n\n\
             | Step | Who pays | Fee |\n| --- | --- | ---: |\n",
            self.base.price_nanoton, self.base.worker_fee_nanoton
        );
        // Writing to a text cannot fail.
        for step in &self.steps {
            let fee = ton(step.fee_nanoton / step.times, 5);
            let _ = writeln!(text, "| {} | {} | {fee} |", step.what.join(", "), step.payer);
        }
        for (name, fee) in &self.storage {
            let _ = writeln!(text, "| a year of storage: {name} | its owner | {} |", ton(*fee, 5));
        }
        for (title, rows) in &self.sections {
            let _ = write!(text, "\n### {title}\n\n{}", table(rows));
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        let steps = self.steps.iter().map(|step| {
            let fee = step.fee_nanoton / step.times;
            json!({"steps": step.what, "payer": step.payer, "fee_nanoton": fee})
        });
        let storage = self.storage.iter().map(|(name, fee)| json!({"account": name, "year_nanoton": fee}));
        let sections = self.sections.iter().map(|(title, rows)| {
            let rows = rows.iter().map(|(scenario, outcome)| row_json(scenario, outcome));
            json!({"title": title, "months": rows.collect::<Vec<_>>()})
        });
        json!({
            "steps": steps.collect::<Vec<_>>(),
            "storage": storage.collect::<Vec<_>>(),
            "sections": sections.collect::<Vec<_>>(),
        })
    }
}

/// Settings, in the order of their columns; then what came of them.
const SETTINGS: [&str; 9] = [
    "Requests",
    "Turnover",
    "Clients",
    "Workers",
    "Stake",
    "Deposit",
    "Payout at",
    "Charge at",
    "Commit every",
];
const RESULTS: [&str; 7] = [
    "Fees of clients",
    "of workers",
    "of the proxy",
    "all",
    "per million requests",
    "of the turnover",
    "before the first request",
];

/// A line with what all months have in common, and a table of the rest.
fn table(rows: &[(Scenario, Outcome)]) -> String {
    let settings: Vec<_> = rows.iter().map(|(scenario, _)| settings(scenario)).collect();
    let is_common = |column: usize| settings.iter().all(|row| row[column] == settings[0][column]);
    let (common, own): (Vec<_>, Vec<_>) = (0..SETTINGS.len()).partition(|column| is_common(*column));
    let common = common.into_iter().map(|column| format!("{} {}", SETTINGS[column], settings[0][column]));
    let head: Vec<_> = own.iter().map(|column| SETTINGS[*column]).chain(RESULTS).collect();
    let common = common.collect::<Vec<_>>().join(", ");
    let mut text = format!("{common}.\n\n| {} |\n|{}\n", head.join(" | "), " ---: |".repeat(head.len()));
    for (settings, (scenario, outcome)) in settings.iter().zip(rows) {
        let own = own.iter().map(|column| settings[*column].clone());
        let cells: Vec<_> = own.chain(results(scenario, outcome)).collect();
        // Writing to a text cannot fail.
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

fn settings(scenario: &Scenario) -> [String; 9] {
    let whole = |nanoton: u64| format!("{} TON", nanoton / NANOTON_PER_TON);
    [
        format!("{} M", scenario.requests / PER_REQUESTS),
        whole(scenario.turnover_nanoton()),
        scenario.clients.to_string(),
        scenario.workers.to_string(),
        whole(scenario.stake_nanoton),
        whole(scenario.deposit_nanoton),
        whole(scenario.payout_nanoton),
        format!("{} %", scenario.charge_at_percent),
        format!("{} h", scenario.commit_every_seconds / 3600),
    ]
}

fn results(scenario: &Scenario, outcome: &Outcome) -> [String; 7] {
    let Fees { clients, workers, proxy } = outcome.month;
    [
        ton(clients, 2),
        ton(workers, 2),
        ton(proxy, 2),
        ton(outcome.month.total(), 2),
        ton(per_million(scenario, outcome), 3),
        share(scenario, outcome),
        ton(outcome.setup.total(), 2),
    ]
}

fn row_json(scenario: &Scenario, outcome: &Outcome) -> Value {
    let fees = |fees: &Fees| json!({"clients": fees.clients, "workers": fees.workers, "proxy": fees.proxy});
    let times = |name| outcome.tallies.times(name);
    json!({
        "requests": scenario.requests,
        "tokens_per_request": scenario.tokens_per_request,
        "price_nanoton": scenario.price_nanoton,
        "worker_fee_nanoton": scenario.worker_fee_nanoton,
        "clients": scenario.clients,
        "workers": scenario.workers,
        "stake_nanoton": scenario.stake_nanoton,
        "deposit_nanoton": scenario.deposit_nanoton,
        "payout_nanoton": scenario.payout_nanoton,
        "charge_at_percent": scenario.charge_at_percent,
        "commit_every_seconds": scenario.commit_every_seconds,
        "turnover_nanoton": scenario.turnover_nanoton(),
        "setup_fees_nanoton": fees(&outcome.setup),
        "month_fees_nanoton": fees(&outcome.month),
        "fees_per_million_requests_nanoton": per_million(scenario, outcome),
        "transactions": outcome.transactions,
        "charges": times("charge"),
        "top_ups": times("top up"),
        "payouts": times("first payout") + times("payout"),
        "withdrawals": times("take earnings"),
        "commits": times("commit"),
    })
}

fn per_million(scenario: &Scenario, outcome: &Outcome) -> u64 {
    let fees = u128::from(outcome.month.total()) * u128::from(PER_REQUESTS) / u128::from(scenario.requests);
    u64::try_from(fees).unwrap_or(u64::MAX)
}

/// In hundredths of a percent, as text.
fn share(scenario: &Scenario, outcome: &Outcome) -> String {
    let parts = u128::from(outcome.month.total()) * 10_000 / u128::from(scenario.turnover_nanoton().max(1));
    format!("{}.{:02} %", parts / 100, parts % 100)
}

/// An amount in TON with so many decimals, rounded.
fn ton(nanoton: u64, decimals: u32) -> String {
    let unit = 10_u64.pow(9 - decimals);
    let scaled = (nanoton + unit / 2) / unit;
    let one = 10_u64.pow(decimals);
    let digits = usize::try_from(decimals).unwrap_or(0);
    format!("{}.{:0digits$}", scaled / one, scaled % one)
}
