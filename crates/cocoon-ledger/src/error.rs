//! What a [`Ledger`](crate::Ledger) refuses, and why.

use crate::ids::{ClientId, RequestId, WorkerId};
use crate::ledger::MAX_RESERVATIONS;
use crate::units::{Nanoton, Overflow};

/// Why a reservation was refused. Nothing was reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// The client's free funds do not cover the amount.
    #[error(
        "balance too low: {needed} needed, {available} available; top up the client contract, or raise its stake"
    )]
    InsufficientFunds {
        /// What the reservation costs at most.
        needed: Nanoton,
        /// What is neither spent nor reserved.
        available: Nanoton,
    },
    /// This request already has a reservation.
    #[error("request {0} already has a reservation")]
    DuplicateRequest(RequestId),
    /// No funds were ever seen for this client.
    #[error("unknown client {0}")]
    UnknownClient(ClientId),
    /// The account was closed for good.
    #[error("the account of client {0} is closed; open a new client contract to go on")]
    ClientClosed(ClientId),
    /// [`MAX_RESERVATIONS`] are open.
    #[error("too many requests in flight ({MAX_RESERVATIONS})")]
    TooManyReservations,
    /// The amount, or a total with it, does not fit.
    #[error(transparent)]
    Overflow(#[from] Overflow),
}

/// Why a settlement was refused. Nothing was charged and the reservation, if any, stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    /// The request has no open reservation: never made, released, or settled already.
    #[error("request {0} has no open reservation")]
    UnknownRequest(RequestId),
    /// The worker's account was closed for good.
    #[error("the account of worker {0} is closed: it earns nothing more")]
    WorkerClosed(WorkerId),
    /// The record does not fit the books; [`Ledger::reserve`](crate::Ledger::reserve) makes sure that it does.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// Why an account was not closed. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CloseError {
    /// Requests of this client may still be charged: wait until the last one is settled.
    #[error("{reservations} requests of the account are under way; close it after the last one")]
    Busy {
        /// How many.
        reservations: u64,
    },
    /// The record does not fit the books.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// Why a record does not continue the books. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Records are missing, doubled or out of order.
    #[error("record {found} does not follow position {position}")]
    OutOfOrder {
        /// The position the ledger is at.
        position: u64,
        /// The record's position.
        found: u64,
    },
    /// The totals that the record names are not those that the books arrive at.
    #[error("record {position} belongs to another history: its totals do not match")]
    TotalsDiffer {
        /// The record's position.
        position: u64,
    },
    /// The record charges, pays or closes an account that was closed before.
    #[error("record {position} changes an account that is closed")]
    Closed {
        /// The record's position.
        position: u64,
    },
    /// A total does not fit.
    #[error(transparent)]
    Overflow(#[from] Overflow),
}

/// A log that claims to hold more than the ledger ever wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("position {durable} is reported durable, but the ledger is at {position}: another ledger's log?")]
pub struct MarkError {
    /// The reported position.
    pub durable: u64,
    /// The ledger's position.
    pub position: u64,
}

/// Books that do not balance. This is a defect of the program or a damaged snapshot, never a peer's doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvariantViolation {
    /// Tokens charged and tokens earned differ.
    #[error("clients were charged {charged} tokens, but workers earned {earned}")]
    Tokens {
        /// Sum over all clients.
        charged: u128,
        /// Sum over all workers.
        earned: u128,
    },
    /// The money does not add up.
    #[error("clients owe {cost} nanoton, but workers earned {value} and the proxy keeps {kept}")]
    Money {
        /// Sum over all clients.
        cost: u128,
        /// Sum over all workers.
        value: u128,
        /// What the proxy keeps.
        kept: u128,
    },
    /// A client's reserved amounts are not the sum of its reservations.
    #[error("client {0} has other amounts reserved than its reservations, or some although it is closed")]
    Reserved(ClientId),
    /// More is reported durable than was ever counted.
    #[error("a counter is behind its durable part")]
    Durable,
    /// A running total is not the sum of its accounts.
    #[error("a running total is not the sum of its accounts")]
    Totals,
}
