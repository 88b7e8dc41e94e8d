//! A deterministic simulator of the network's protocol: the sessions of clients, workers and a proxy, driven by one
//! seeded scheduler in virtual time.
//!
//! Connections are slow, stall and are cut in the middle of a frame; nodes crash and come back with what they had saved;
//! engines answer in every shape or not at all; callers cancel, read slowly or not. All along, and once the storm is
//! over, the invariants in [`checks`] are held against what happens. The same [`Options`] always give the same history.
//!
//! - [`checks`]: what must hold.
//! - `world`: the scheduler, and the proxy with its log; `lines`: the connections at work; `faults`: storm and calm;
//!   `chain`: clients that leave, charges that reach the chain, parameters that change.
//! - `caller`: client nodes and those who call through them.
//! - `engine`: worker nodes and their engines.
//! - `wire`, `store`, `rng`: the outside world.

mod caller;
mod chain;
pub mod checks;
mod engine;
mod faults;
mod lines;
mod network;
mod rng;
mod store;
mod wire;
mod world;

pub use checks::{Breach, Checks};

/// Events of the storm, unless told otherwise.
pub const DEFAULT_STEPS: u64 = 30_000;

/// Which history to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Everything random follows from it.
    pub seed: u64,
    /// Events before the storm ends and everything heals.
    pub steps: u64,
    /// A fault of the simulated system itself, to show that the checks notice.
    pub sabotage: Option<Sabotage>,
}

impl Options {
    /// The usual history of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, steps: DEFAULT_STEPS, sabotage: None }
    }
}

/// A fault that no correct system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Each charge is recorded a second time.
    DoubleCharge,
    /// Clients never see payment notices.
    DropNotices,
    /// The log calls records durable that a crash then loses.
    ForgetDurable,
    /// One byte of each answer changes on its way.
    CorruptAnswers,
    /// Endings are kept from callers.
    DropEndings,
}

/// What happened in a history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Scheduler events.
    pub events: u64,
    /// Virtual time, in seconds.
    pub seconds: u64,
    /// Requests submitted.
    pub submitted: u64,
    /// Requests answered in full by an engine.
    pub completed: u64,
    /// Requests answered in full by a node, with an error.
    pub refused: u64,
    /// Requests that failed otherwise.
    pub failed: u64,
    /// Requests that their callers cancelled.
    pub cancelled: u64,
    /// Charges recorded.
    pub charges: u64,
    /// Crashes of nodes.
    pub crashes: u64,
    /// Connections cut.
    pub cuts: u64,
    /// Answers that a slow or absent reader held back.
    pub held_back: u64,
    /// Bodies of requests that streamed to an engine to their end.
    pub bodies: u64,
    /// Clients that left with a refund order.
    pub refunds: u64,
    /// Charges that reached the chain.
    pub settled: u64,
    /// Changes of the network's parameters.
    pub switches: u64,
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.seconds += other.seconds;
        self.submitted += other.submitted;
        self.completed += other.completed;
        self.refused += other.refused;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.charges += other.charges;
        self.bodies += other.bodies;
        self.crashes += other.crashes;
        self.cuts += other.cuts;
        self.held_back += other.held_back;
        self.refunds += other.refunds;
        self.settled += other.settled;
        self.switches += other.switches;
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} events, {} s, {} requests: {} completed, {} refused, {} failed, {} cancelled; \
             {} charges, {} crashes, {} cuts, {} held back, {} refunds, {} settled, {} switches",
            self.events,
            self.seconds,
            self.submitted,
            self.completed,
            self.refused,
            self.failed,
            self.cancelled,
            self.charges,
            self.crashes,
            self.cuts,
            self.held_back,
            self.refunds,
            self.settled,
            self.switches
        )
    }
}

/// Runs one history; each of its events is told to `trace`.
///
/// # Errors
/// The first invariant that does not hold.
pub fn run(options: Options, trace: impl FnMut(&str)) -> Result<Summary, Breach> {
    world::World::new(options, Box::new(trace))?.run()
}
