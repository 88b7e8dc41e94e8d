//! What attestation costs: verifying evidence, connecting to a peer that shows it, and the connection once it is up.
//!
//! The machines are simulated; everything that judges them is what production uses. Variants take turns in short
//! rounds, so that whatever else the machine does hits all of them, and ratios compare a round with itself.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use cocoon_attest::snp::SnpPolicy;
use cocoon_attest::{OperatorPolicy, UnixSeconds, VerifierSet};
use cocoon_net::{Clock as _, SystemClock};
use cocoon_tee::simulated::Vendors;

use crate::tables::Report;

mod evidence;
mod handshake;
mod measure;
mod path;

/// The simulated vendors follow from it; nobody relies on them.
const SEED: [u8; 32] = [0x42; 32];
/// The image that all simulated machines run.
const IMAGE: &str = "worker";

/// Measures what attestation costs.
#[derive(Args, Clone, Copy)]
pub(crate) struct Flags {
    /// Everything within a few seconds: to see that it works, not to quote numbers.
    #[arg(long)]
    quick: bool,
    /// Prints JSON in place of the tables.
    #[arg(long)]
    json: bool,
}

/// How much of everything.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// Rounds of verifying and making evidence, and the processor time for each case in a round.
    evidence_rounds: u32,
    evidence_time: Duration,
    /// Handshakes of each sort.
    handshakes: u32,
    /// Connections of each sort that are held open to see how much memory they take; each has both its ends here, and
    /// all of them together must fit the usual limit of 1024 files.
    held: u32,
    /// Connections of each sort that are up one after the other, rounds over each, the bytes sent in a round, and the
    /// questions asked in one.
    path_connections: u32,
    path_rounds: usize,
    path_bytes: usize,
    questions: u32,
}

const FULL: Plan = Plan {
    evidence_rounds: 15,
    evidence_time: Duration::from_millis(40),
    handshakes: 100,
    held: 150,
    path_connections: 20,
    path_rounds: 10,
    path_bytes: 4 << 20,
    questions: 100,
};

const QUICK: Plan = Plan {
    evidence_rounds: 3,
    evidence_time: Duration::from_millis(5),
    handshakes: 5,
    held: 20,
    path_connections: 2,
    path_rounds: 5,
    path_bytes: 1 << 20,
    questions: 20,
};

/// Who makes evidence, and who judges it.
struct Ground {
    vendors: Vendors,
    verifiers: Arc<VerifierSet>,
    now: UnixSeconds,
}

impl Ground {
    /// The strict policy, with the simulated machines' own TCB as the least that will do.
    fn new() -> anyhow::Result<Self> {
        let vendors = Vendors::from_seed(&SEED);
        let sev_snp = SnpPolicy::with_floors(vendors.snp_floors());
        let operator = OperatorPolicy { sev_snp, ..OperatorPolicy::default() };
        let verifiers = operator.verifiers(&vendors.test_roots()).context("the simulated vendors' roots")?;
        Ok(Self { vendors, verifiers: Arc::new(verifiers), now: SystemClock.now() })
    }
}

/// Measures everything and prints the report.
///
/// # Errors
/// Something was refused or failed: then there are no figures.
pub(crate) async fn run(flags: &Flags) -> anyhow::Result<()> {
    let started = Instant::now();
    let plan = if flags.quick { QUICK } else { FULL };
    // One thread with a runtime of its own, so that both ends of a connection take turns on one core.
    let report = tokio::task::spawn_blocking(move || measure(plan)).await.context("measuring")??;
    let text = if flags.json { format!("{:#}\n", report.json()) } else { report.tables() };
    std::io::stdout().write_all(text.as_bytes())?;
    progress(&format!("{:.1} s", started.elapsed().as_secs_f64()));
    Ok(())
}

fn measure(plan: Plan) -> anyhow::Result<Report> {
    let ground = Ground::new()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut report = Report::default();
    // Memory first: what an allocator keeps of the other measurements would hide the growth.
    progress("memory");
    let memory = runtime.block_on(handshake::memory(plan, &ground))?;
    progress("evidence");
    evidence::measure(plan, &ground, &mut report)?;
    progress("handshakes");
    runtime.block_on(handshake::measure(plan, &ground, &mut report))?;
    report.add(memory);
    progress("connections that are up");
    runtime.block_on(path::measure(plan, &ground, &mut report))?;
    Ok(report)
}

/// Says on standard error how far it is.
fn progress(what: &str) {
    let _ = writeln!(std::io::stderr(), "attest: {what}");
}
