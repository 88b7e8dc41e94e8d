//! What can go wrong, and what then stands.

use super::{MAX_PENDING_INPUTS, Refusal, SUPPLY_NANOTON};
use crate::ConfigError;

/// Why an external message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The contract would not accept it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// [`MAX_PENDING_INPUTS`] wait already.
    #[error("{MAX_PENDING_INPUTS} messages wait for the next block; try again after it")]
    Overloaded,
}

/// Why the faucet gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// Nothing, or more than the faucet has.
    #[error("a grant must be from 1 to {left_nanoton} nanoton, which is what the faucet has left")]
    Amount {
        /// What the faucet can still grant.
        left_nanoton: u64,
    },
    /// [`MAX_PENDING_INPUTS`] wait already.
    #[error("{MAX_PENDING_INPUTS} messages wait for the next block; try again after it")]
    Overloaded,
}

/// Why there is no new block.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The time is before the newest block's.
    #[error("the time {now} is before the newest block's, {last}: a chain's time never falls")]
    TimeWentBack {
        /// The time that was given, in Unix seconds.
        now: u32,
        /// The newest block's, in Unix seconds.
        last: u32,
    },
    /// Sequence numbers are used up.
    #[error("the chain has as many blocks as it can have")]
    Exhausted,
    /// A cell of the chain's own cannot be read or written.
    #[error("the chain's state is broken: {0}")]
    Broken(#[from] tycho_types::error::Error),
}

/// Why a stored chain cannot be continued.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A stored cell is not what it should be.
    #[error("a stored account or message is broken: {0}")]
    Cells(#[from] tycho_types::error::Error),
    /// Amounts that cannot be.
    #[error("the stored amounts are over all coins there are")]
    Overflow,
    /// Coins are missing or too many.
    #[error("the stored amounts add up to {0} nanoton, not to {SUPPLY_NANOTON}")]
    Unbalanced(u64),
    /// The configuration cannot be built.
    #[error(transparent)]
    Config(#[from] ConfigError),
}
