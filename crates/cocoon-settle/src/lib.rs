//! From what the books say and the chain shows to the transactions that a node should send: the life of a channel.
//!
//! Three planners, one for each role: [`proxy`], [`client`], [`worker`]. Each is a pure function: what the chain shows,
//! what is signed, the chain's time and the operator's wishes go in; messages to send, a reason to hold back, and what
//! the wallet lacks come out. They keep nothing between calls. What should be is compared with what is, so a plan that was
//! lost, or a process that was killed, is made good by the next call; and a plan that was carried out makes the next one
//! empty.
//!
//! That nothing is paid twice rests on the caller: it reads the wallet's sequence number, waits until everything that
//! the wallet sent before has arrived, reads the contracts only then, and signs the plan with that number. Of two plans made
//! at the same number the chain carries out at most one.

pub mod client;
mod plan;
pub mod proxy;
pub mod worker;

pub use plan::{FundsNeeded, Hold, Plan, Purpose, Transfer, WalletFunds};

/// What a message to a contract carries for fees, in nanoton: a little over the 0.1 TON that contracts ask for. What is
/// not used comes back.
pub const COMMISSION_NANOTON: u64 = 120_000_000;
/// What a client's or worker's contract keeps for its storage, in nanoton; the first message must bring it.
pub const ACCOUNT_RESERVE_NANOTON: u64 = 110_000_000;
/// What a proxy contract is deployed with for its storage, in nanoton: enough for about ten years.
pub const PROXY_ENDOWMENT_NANOTON: u64 = 400_000_000;
/// What a wallet keeps back for its own storage, in nanoton.
pub const WALLET_RESERVE_NANOTON: u64 = 20_000_000;
/// What a wallet keeps back beside that when it pays into a channel, in nanoton: the commission and the fees of one step
/// on the way out. Nearly all of it comes back, and pays for the next step.
pub const EXIT_RESERVE_NANOTON: u64 = 250_000_000;
/// Below this, in nanoton, something is not worth the fees of fetching it.
pub const WORTH_FETCHING_NANOTON: u64 = 50_000_000;

/// Coins for a message to a contract that holds `held_nanoton` and must end with its reserve whole.
pub(crate) fn commission(held_nanoton: u64) -> u64 {
    COMMISSION_NANOTON + ACCOUNT_RESERVE_NANOTON.saturating_sub(held_nanoton)
}

/// What `tokens` cost, at most the largest number there is.
pub(crate) fn cost(tokens: u64, price_nanoton: u64) -> u64 {
    tokens.saturating_mul(price_nanoton)
}

/// `percent` hundredths of `amount`.
pub fn share(amount: u64, percent: u64) -> u64 {
    amount / 100 * percent + amount % 100 * percent / 100
}
