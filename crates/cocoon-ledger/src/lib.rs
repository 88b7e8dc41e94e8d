//! Tokens, prices, reservations and cumulative counters: the money core of the network.
//!
//! Everything here is pure: no I/O, no clock, no async. A proxy owns a [`Ledger`]; a client and a worker
//! keep [`PeerCounters`] for each proxy they deal with. Amounts are integers with names ([`units`]), tokens
//! become money by a [`Tariff`], and what a worker claims is held against a [`ClaimBound`] and a reservation.
//!
//! The order of events that keeps everybody safe from a crash: [`Ledger::settle`], [`Ledger::take_records`],
//! write the records to a durable log, [`Ledger::mark_durable`], and only then let a notice or a signature
//! leave that names at most [`Ledger::chargeable`] or [`Ledger::payable`].

pub mod bound;
mod codec;
pub mod counters;
pub mod dispute;
pub mod error;
pub mod ids;
pub mod ledger;
pub mod record;
mod snapshot;
pub mod tariff;
pub mod units;

pub use bound::{Bounded, ClaimBound, reservation};
pub use codec::DecodeError;
pub use counters::{Counter, CounterChange, CounterError, PeerCounters};
pub use dispute::{Dispute, DisputeReason};
pub use error::{ApplyError, CloseError, InvariantViolation, MarkError, ReserveError, SettleError};
pub use ids::{ClientId, RequestId, WorkerId};
pub use ledger::{ClientAccount, Ledger, MAX_RESERVATIONS, Settlement, WorkerAccount};
pub use record::{Change, Record};
pub use snapshot::RestoreError;
pub use tariff::{
    Adjusted, Rates, Tariff, TokenCounts, accepts_published, adjust_exact, adjust_published, clamp_claim,
};
pub use units::{
    AdjustedTokens, Coefficient, Multiplier, Nanoton, OutOfRange, Overflow, PricePerToken, Tokens,
};
