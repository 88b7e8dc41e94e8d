//! The accounts of clients and workers.

use crate::units::{AdjustedTokens, Nanoton};

/// A client's account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientAccount {
    /// What may be charged to this client in all, as the chain shows it; see
    /// [`set_client_funds`](super::Ledger::set_client_funds).
    pub funds: Nanoton,
    /// Tokens charged so far. Never falls.
    pub charged: AdjustedTokens,
    /// What those tokens cost, each at the price of its time.
    pub cost: Nanoton,
    /// Tokens reserved for requests in flight.
    pub reserved: AdjustedTokens,
    /// What the reserved tokens would cost.
    pub reserved_cost: Nanoton,
    /// Requests in flight: how many reservations are open.
    pub reservations: u64,
    /// The part of `charged` that durable records cover.
    pub(crate) durable: AdjustedTokens,
    /// Position of the record that closed the account.
    pub(crate) closed: Option<u64>,
}

impl ClientAccount {
    /// Funds neither spent nor reserved.
    pub fn available(&self) -> Nanoton {
        self.funds.left_after(self.cost).left_after(self.reserved_cost)
    }

    /// Whether it was closed for good.
    pub const fn is_closed(&self) -> bool {
        self.closed.is_some()
    }
}

/// A worker's account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerAccount {
    /// Tokens earned so far. Never falls.
    pub earned: AdjustedTokens,
    /// What those tokens are worth to the worker, each at the fee of its time.
    pub value: Nanoton,
    /// The part of `earned` that durable records cover.
    pub(crate) durable: AdjustedTokens,
    /// Position of the record that closed the account.
    pub(crate) closed: Option<u64>,
}

impl WorkerAccount {
    /// Whether it was closed for good.
    pub const fn is_closed(&self) -> bool {
        self.closed.is_some()
    }
}
