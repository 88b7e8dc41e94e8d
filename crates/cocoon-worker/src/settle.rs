//! Settlement: turns proxies' newest orders into coins of the worker's owner.
//!
//! One task, in rounds: wait until all that the wallet sent has arrived; read the contracts; compare; send what is to be
//! sent. Nothing is remembered between rounds but how often a payout came back. A round follows when an order becomes
//! due, when somebody asks, and now and then. A second task sees to it that no work is done that cannot be paid
//! ([`backing`]).

mod backing;
mod look;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cocoon_chain::settler::{RETRY_AFTER, Settler, Step};
use cocoon_chain::wallet::{SendError, WalletView};
use cocoon_chain::{BlockRef, Chain, ChainError};
use cocoon_settle::worker::{WorkerChannel, WorkerPolicy, plan};
use cocoon_settle::{FundsNeeded, Plan, WORTH_FETCHING_NANOTON};
use cocoon_ton::contracts::ContractStatus;
use cocoon_ton::wallet::Wallet;
use cocoon_ton::{Address, SigningKey};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::channel::{Channel, Channels};
use backing::Backing;
pub(crate) use backing::Hold;
use look::{Cause, Seen};

/// How long the wallet may take to come to rest, or a plan to be carried out. The chain's own waiting times are shorter.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long after a payout that came back the same one is tried again; it doubles each time.
const AFTER_RETURN: Duration = Duration::from_secs(60);
/// Longest such wait.
const AFTER_RETURNS: Duration = Duration::from_secs(24 * 60 * 60);
/// A contract whose orders are all paid, or whose proxy has no contract, is looked at only every so many polls.
const POLLS_OF_REST: u32 = 10;

/// How a worker turns orders into coins.
#[derive(Clone)]
pub struct SettlementConfig {
    /// The wallet that pays the fees. Who is paid is the worker's owner.
    pub wallet: Wallet,
    /// The wallet's key.
    pub key: SigningKey,
    /// When a payout is worth it.
    pub policy: WorkerPolicy,
    /// Whether to work only for proxies whose contract can pay for it. Without it, work is done that nobody may pay.
    pub require_backing: bool,
    /// Longest time between two looks at the chain.
    pub poll: Duration,
    /// Shortest time between two rounds: 1 s for a public chain, 20 ms for an embedded one.
    pub min_pause: Duration,
}

impl fmt::Debug for SettlementConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SettlementConfig")
            .field("wallet", &self.wallet.address())
            .field("policy", &self.policy)
            .field("require_backing", &self.require_backing)
            .field("poll", &self.poll)
            .field("min_pause", &self.min_pause)
            .finish_non_exhaustive()
    }
}

/// How settlement stands.
#[derive(Debug, Clone, PartialEq)]
pub struct SettlementView {
    /// The wallet that pays the fees.
    pub wallet: Address,
    /// Its coins, when last seen.
    pub balance_nanoton: Option<u64>,
    /// What it lacks.
    pub needs: Option<FundsNeeded>,
    /// Why nothing can be settled at the moment.
    pub error: Option<String>,
    /// What each proxy owes, in the order of the worker contracts' addresses.
    pub proxies: Vec<ProxyDue>,
}

/// What one proxy owes the worker's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyDue {
    /// The proxy contract, which pays.
    pub proxy: Address,
    /// The worker contract, which asks it to.
    pub contract: Address,
    /// State of the proxy contract; `None` where it is not there or was not seen yet.
    pub proxy_status: Option<ContractStatus>,
    /// Adjusted tokens that the proxy has signed for.
    pub signed_tokens: u64,
    /// Of these, paid; `None` before the chain was looked at.
    pub paid_tokens: Option<u64>,
    /// What a token is worth.
    pub fee_nanoton: u64,
    /// Why it cannot be settled.
    pub error: Option<String>,
    /// Whether it can pay for work to come, so that its requests are taken. `None` where no link to it is up, or where
    /// [`SettlementConfig::require_backing`] does not ask for it.
    pub backed: Option<bool>,
    /// Why its requests are not taken, where it is not backed.
    pub hold: Option<String>,
}

impl ProxyDue {
    /// What is owed; `None` before the chain was looked at.
    #[must_use]
    pub fn due_nanoton(&self) -> Option<u64> {
        let paid = self.paid_tokens?;
        Some(self.signed_tokens.saturating_sub(paid).saturating_mul(self.fee_nanoton))
    }

    /// What was paid; `None` before the chain was looked at.
    #[must_use]
    pub fn paid_nanoton(&self) -> Option<u64> {
        Some(self.paid_tokens?.saturating_mul(self.fee_nanoton))
    }
}

/// The worker was started without a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this worker does not settle: its chain moves no coins")]
pub struct NoSettlement;

/// What is known of one channel from the rounds before.
#[derive(Debug, Clone, Default)]
struct Standing {
    proxy_status: Option<ContractStatus>,
    paid: Option<u64>,
    error: Option<String>,
    looked: Option<Instant>,
    /// Set until what somebody asked for is done.
    wanted_from: Option<u64>,
    /// The newest payout.
    tried: Option<Tried>,
    /// The newest view of its means, which is newer than the rest where a link is up.
    backing: Option<Backing>,
}

/// A payout that was sent.
#[derive(Debug, Clone, Copy)]
struct Tried {
    /// Tokens paid for before it.
    paid: u64,
    at: Instant,
    /// How often in a row it changed nothing.
    times: u32,
}

impl Tried {
    /// Whether a payout would be a repetition that is too early. It costs fees each time.
    fn too_early(&self, paid: u64) -> bool {
        let wait = AFTER_RETURN.saturating_mul(1 << self.times.saturating_sub(1).min(16)).min(AFTER_RETURNS);
        paid <= self.paid && self.at.elapsed() < wait
    }
}

/// What the settlement task, the operator's page and [`crate::leave`] share.
pub(crate) struct Settlement {
    settler: Settler,
    chain: Arc<dyn Chain>,
    pub(crate) channels: Arc<Channels>,
    policy: WorkerPolicy,
    require_backing: bool,
    poll: Duration,
    min_pause: Duration,
    /// How many links are up, by worker contract. Locked before `standings`.
    links: Mutex<HashMap<Address, usize>>,
    /// Wakes [`Self::watch`].
    look_now: Notify,
    standings: Mutex<HashMap<Address, Standing>>,
    error: Mutex<Option<String>>,
}

impl Settlement {
    pub(crate) fn new(config: SettlementConfig, chain: Arc<dyn Chain>, channels: Arc<Channels>) -> Self {
        Self {
            settler: Settler::new(Arc::clone(&chain), config.wallet, config.key),
            chain,
            channels,
            policy: config.policy,
            require_backing: config.require_backing,
            poll: config.poll,
            min_pause: config.min_pause,
            links: Mutex::default(),
            look_now: Notify::new(),
            standings: Mutex::default(),
            error: Mutex::default(),
        }
    }

    /// Rounds without end.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            match self.round().await {
                Ok(steps) => {
                    tokio::time::sleep(self.min_pause).await;
                    if steps.is_empty() {
                        // In vain is fine: then it is time for a look.
                        let _ = timeout(self.poll, self.channels.due.notified()).await;
                    }
                }
                Err(error) => tokio::time::sleep(wait_after(&error).max(self.min_pause)).await,
            }
        }
    }

    /// One round. Gives what was sent: then another one is due.
    pub(crate) async fn round(&self) -> Result<Vec<Step>, SendError> {
        self.channels.flush();
        let outcome = self.settle().await;
        let error = outcome.as_ref().err().map(ToString::to_string);
        let mut known = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        // The settler has logged what it met itself.
        if error.is_some() && error != *known && error != self.settler.status().borrow().error {
            tracing::warn!(error, "cannot settle; trying again");
        }
        *known = error;
        drop(known);
        outcome
    }

    async fn settle(&self) -> Result<Vec<Step>, SendError> {
        let view = patiently("the wallet's state", self.settler.settled()).await?;
        let mut all = Plan { finished: true, ..Plan::default() };
        for channel in self.channels.list() {
            if self.rests(&channel) {
                continue;
            }
            match look::look(self.chain.as_ref(), &channel.terms, view.at).await {
                Ok(seen) => all.join(self.plan(&channel, seen)),
                Err(Cause::Chain(error)) => return Err(error.into()),
                Err(Cause::Contract(why)) => self.note_error(&channel, why),
            }
        }
        self.carry_out(&view, all).await
    }

    /// Whether there is nothing to see: no order; or when last seen, all was paid, or there was no proxy contract.
    fn rests(&self, channel: &Channel) -> bool {
        let Some(order) = channel.books().order else { return true };
        let standings = self.standings();
        standings.get(&channel.terms.contract).is_some_and(|standing| {
            let paid = standing.paid.is_some_and(|paid| paid >= order.order().tokens);
            let idle = paid || (standing.proxy_status.is_none() && standing.wanted_from.is_none());
            let rest = self.poll.saturating_mul(POLLS_OF_REST);
            idle && standing.looked.is_some_and(|at| at.elapsed() < rest)
        })
    }

    /// Compares what one channel's contracts show with its newest order.
    fn plan(&self, channel: &Channel, seen: Seen) -> Plan {
        let backing = Backing::of(&seen);
        let mut standings = self.standings();
        let standing = standings.entry(channel.terms.contract).or_default();
        let paid = seen.worker.as_ref().map_or(0, |state| state.tokens);
        let closed = seen.worker.as_ref().is_some_and(|state| state.status == ContractStatus::Closed);
        let asked = WorkerChannel {
            contract: channel.terms.contract,
            init: channel.terms.init.clone(),
            state: seen.worker,
            held_nanoton: seen.worker_held_nanoton,
            order: channel.books().order,
            fee_per_token_nanoton: channel.terms.fee_nanoton(),
            proxy_status: seen.proxy_status,
            proxy_held_nanoton: seen.proxy_held_nanoton,
            wanted_from_nanoton: standing.wanted_from,
        };
        let mut plan = plan(&self.policy, &asked, &self.settler.address());
        if plan.finished {
            standing.wanted_from = None;
        }
        let late = standing.tried.filter(|tried| !plan.transfers.is_empty() && tried.too_early(paid));
        if late.is_some() {
            plan.transfers.clear();
        }
        let error = match late {
            Some(Tried { times, .. }) => Some(format!(
                "the payout came back or did not arrive, {times} times in a row; it is tried again later"
            )),
            None if closed && asked.due_nanoton() > 0 => {
                Some("the worker contract is closed: what it did not pay is lost".to_owned())
            }
            None => None,
        };
        complain(&channel.terms.contract, standing.error.as_ref(), error.as_ref());
        *standing = Standing {
            proxy_status: seen.proxy_status,
            paid: Some(paid),
            error,
            looked: Some(Instant::now()),
            backing: Some(backing),
            ..standing.clone()
        };
        let worth_it = self.worth_it(standing, asked.fee_per_token_nanoton);
        channel.note_chain(closed, |signed| match worth_it {
            // What stands in the way is looked at in time; orders to come do not hasten it.
            Some(tokens) if signed < paid.saturating_add(tokens) => paid.saturating_add(tokens),
            _ => u64::MAX,
        });
        plan
    }

    /// How many unpaid tokens are worth a payout.
    fn worth_it(&self, standing: &Standing, fee_nanoton: u64) -> Option<u64> {
        let leaving = matches!(standing.proxy_status, Some(ContractStatus::Closing | ContractStatus::Closed));
        let at = if leaving { WORTH_FETCHING_NANOTON } else { self.policy.payout_at_nanoton };
        let at = standing.wanted_from.map_or(at, |wanted| wanted.min(at));
        (fee_nanoton > 0).then(|| at.div_ceil(fee_nanoton).max(1))
    }

    async fn carry_out(&self, view: &WalletView, plan: Plan) -> Result<Vec<Step>, SendError> {
        let contracts: Vec<Address> = plan.transfers.iter().map(|transfer| transfer.to).collect();
        let outcome = patiently("a message", self.settler.carry_out(view, plan)).await;
        let sent: Vec<Address> = match &outcome {
            Ok(steps) => steps.iter().map(|step| step.transfer.to).collect(),
            // It is not known what became of them.
            Err(SendError::LandingUnknown { .. } | SendError::Chain(_)) => contracts,
            Err(_) => Vec::new(),
        };
        let mut standings = self.standings();
        for contract in sent {
            let standing = standings.entry(contract).or_default();
            let paid = standing.paid.unwrap_or(0);
            let before = standing.tried.filter(|tried| paid <= tried.paid).map_or(0, |tried| tried.times);
            standing.tried = Some(Tried { paid, at: Instant::now(), times: before.saturating_add(1) });
        }
        outcome
    }

    fn note_error(&self, channel: &Channel, why: String) {
        let mut standings = self.standings();
        let standing = standings.entry(channel.terms.contract).or_default();
        complain(&channel.terms.contract, standing.error.as_ref(), Some(&why));
        standing.backing = Some(Backing::unfit(why.clone()));
        standing.error = Some(why);
    }

    /// Asks for all that is due and worth at least so much, now. Remains asked until it is done.
    pub(crate) fn pay_out(&self, from_nanoton: u64) -> Vec<ProxyDue> {
        let channels = self.channels.list();
        let mut standings = self.standings();
        for channel in &channels {
            let signed = channel.books().signed();
            let standing = standings.entry(channel.terms.contract).or_default();
            if standing.paid.unwrap_or(0) >= signed {
                continue;
            }
            let wanted = standing.wanted_from.map_or(from_nanoton, |wanted| wanted.min(from_nanoton));
            standing.wanted_from = Some(wanted);
            standing.tried = None;
        }
        drop(standings);
        self.channels.due.notify_one();
        self.proxies()
    }

    /// What each proxy owes that has signed an order, or that a link is up to.
    pub(crate) fn proxies(&self) -> Vec<ProxyDue> {
        let links = self.links().clone();
        let due = |channel: Arc<Channel>| {
            let contract = channel.terms.contract;
            let is_linked = links.contains_key(&contract);
            let hold = if is_linked { self.hold(&channel) } else { None };
            let standing = self.standings().get(&contract).cloned().unwrap_or_default();
            let order = channel.books().order;
            let shown = standing.backing.and_then(|backing| backing.shown.ok());
            (is_linked || order.is_some()).then(|| ProxyDue {
                proxy: channel.terms.start.proxy,
                contract,
                proxy_status: shown.map_or(standing.proxy_status, |shown| shown.proxy_status),
                signed_tokens: order.map_or(0, |order| order.order().tokens),
                paid_tokens: shown.map(|shown| shown.paid_tokens).or(standing.paid),
                fee_nanoton: channel.terms.fee_nanoton(),
                error: standing.error,
                backed: (is_linked && self.require_backing).then_some(hold.is_none()),
                hold: hold.map(|hold| hold.to_string()),
            })
        };
        self.channels.list().into_iter().filter_map(due).collect()
    }

    /// How it stands.
    pub(crate) fn view(&self) -> SettlementView {
        let status = self.settler.status().borrow().clone();
        let error = self.error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        SettlementView {
            wallet: self.settler.address(),
            balance_nanoton: status.balance_nanoton,
            needs: status.needs,
            error,
            proxies: self.proxies(),
        }
    }

    fn standings(&self) -> MutexGuard<'_, HashMap<Address, Standing>> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says once what is wrong with one contract.
fn complain(contract: &Address, known: Option<&String>, now: Option<&String>) {
    if let Some(why) = now
        && known != Some(why)
    {
        tracing::warn!(%contract, why, "cannot settle with a proxy");
    }
}

/// A chain that never answers must not stop the settlement. To give up is safe at every moment: the next round begins with
/// what the chain then shows.
async fn patiently<T>(what: &str, work: impl Future<Output = Result<T, SendError>>) -> Result<T, SendError> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(no_answer(what, PATIENCE).into()))
}

fn no_answer(what: &str, waited: Duration) -> ChainError {
    let reason = format!("no answer about {what} within {} s", waited.as_secs());
    ChainError::Unavailable { reason, retry_after: None }
}

fn behind(contract: &Address, at: BlockRef, not_before: BlockRef) -> ChainError {
    let reason = format!(
        "{contract} was shown at block {}, though block {} was seen: an endpoint is behind",
        at.seqno, not_before.seqno
    );
    ChainError::Unavailable { reason, retry_after: None }
}

fn wait_after(error: &SendError) -> Duration {
    match error {
        SendError::Chain(ChainError::Unavailable { retry_after: Some(wait), .. }) => RETRY_AFTER.max(*wait),
        _ => RETRY_AFTER,
    }
}
