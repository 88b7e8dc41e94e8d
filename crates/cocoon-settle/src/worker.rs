//! A worker's side: turning signed orders into coins.
//!
//! An order stays good whatever becomes of the proxy, as long as its contract holds coins: for 180 days after its close
//! nobody can take them away. So a worker waits until a payout is worth its fees, and no longer once the proxy closes.

use cocoon_ton::Address;
use cocoon_ton::contracts::{ContractStatus, StateInit, WorkerState};
use cocoon_ton::message::Body;
use cocoon_ton::payment::SignedPayment;

use crate::{Plan, Purpose, Transfer, WORTH_FETCHING_NANOTON, commission, cost};

/// What a first payout must bring, in nanoton, unless less is asked for: it leaves [`crate::ACCOUNT_RESERVE_NANOTON`] in
/// the contract, and deploying costs fees.
pub const FIRST_PAYOUT_NANOTON: u64 = 150_000_000;

/// When a worker fetches what it has earned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerPolicy {
    /// Fetch once so much is due.
    pub payout_at_nanoton: u64,
}

impl Default for WorkerPolicy {
    /// 1 TON: a payout's fees are then about one percent.
    fn default() -> Self {
        Self { payout_at_nanoton: 1_000_000_000 }
    }
}

/// A worker's contract at one proxy, as the chain shows it.
#[derive(Debug, Clone)]
pub struct WorkerChannel {
    /// The worker contract.
    pub contract: Address,
    /// Deploys it.
    pub init: StateInit,
    /// Its state; `None` before the first payout.
    pub state: Option<WorkerState>,
    /// Its coins.
    pub held_nanoton: u64,
    /// The newest order of the proxy.
    pub order: Option<SignedPayment>,
    /// What a token is worth to the worker.
    pub fee_per_token_nanoton: u64,
    /// State of the proxy contract; `None` where it is not there.
    pub proxy_status: Option<ContractStatus>,
    /// Coins of the proxy contract.
    pub proxy_held_nanoton: u64,
    /// Set where somebody asks for the payout now: it is worth it to them from so many nanoton on.
    pub wanted_from_nanoton: Option<u64>,
}

impl WorkerChannel {
    /// What the newest order is worth beyond what was paid.
    pub fn due_nanoton(&self) -> u64 {
        let paid = self.state.as_ref().map_or(0, |state| state.tokens);
        let signed = self.order.as_ref().map_or(0, |order| order.order().tokens);
        cost(signed.saturating_sub(paid), self.fee_per_token_nanoton)
    }

    fn open(&self) -> bool {
        self.state.as_ref().is_none_or(|state| state.status != ContractStatus::Closed)
    }
}

/// What to fetch from one proxy. What is left of the messages goes back to `wallet`.
pub fn plan(policy: &WorkerPolicy, channel: &WorkerChannel, wallet: &Address) -> Plan {
    let mut plan = Plan::default();
    let due = channel.due_nanoton();
    let Some(order) = channel.order.filter(|_| channel.open()) else {
        plan.finished = true;
        return plan;
    };
    let leaving = matches!(channel.proxy_status, Some(ContractStatus::Closing | ContractStatus::Closed));
    let at = if leaving { WORTH_FETCHING_NANOTON } else { policy.payout_at_nanoton };
    let at = channel.wanted_from_nanoton.map_or(at, |wanted| wanted.min(at));
    // The first payout leaves coins in the contract that it deploys, until the proxy closes that. Only who asks for less
    // than is worth fetching at all gets it at that price.
    let first = channel.state.is_none() && at >= WORTH_FETCHING_NANOTON;
    let at = if first { at.max(FIRST_PAYOUT_NANOTON) } else { at };
    if due == 0 || due < at {
        plan.finished = true;
        return plan;
    }
    // A proxy contract that holds less would refuse; the order stays good, and coins may come.
    if channel.proxy_status.is_none() || channel.proxy_held_nanoton < due {
        return plan;
    }
    plan.send(Transfer {
        to: channel.contract,
        value_nanoton: commission(channel.held_nanoton),
        init: channel.state.is_none().then(|| channel.init.clone()),
        body: Body::SignedPayment(order.with_excesses_to(*wallet)),
        purpose: Purpose::PayWorker { tokens: order.order().tokens, amount: due },
    });
    plan
}
