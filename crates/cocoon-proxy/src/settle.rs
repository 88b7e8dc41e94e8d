//! Settlement: what the chain tells the proxy, and what the proxy sends to it.
//!
//! One task goes in rounds: it waits until the wallet's last messages have arrived, reads what is new in the history of the
//! proxy contract, tells the state machine about clients, has `cocoon-settle` plan, and sends. The proxy contract's
//! history is where clients and workers leave their notices, registrations included, and where this proxy's own commits
//! stand: a ledger that is behind the newest commit was rolled back, and must not sign.
//!
//! Each set of the root's parameters has a proxy contract of its own, an [`Instance`]. Old ones are wound up; the list
//! is stored before a contract is deployed, so that none is forgotten.

mod books;
mod instance;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cocoon_chain::settler::{RETRY_AFTER, SettlementStatus, Settler, Step};
use cocoon_chain::wallet::SendError;
use cocoon_chain::{Chain, ChainError};
use cocoon_session::proxy::Hold;
use cocoon_settle::Plan;
use cocoon_settle::proxy::{Intent, ProxyPolicy, ProxyView, plan};
use cocoon_store::{SqliteStore, Store as _, StoreError};
use cocoon_ton::contracts::{CodeMissing, ProxyState};
use cocoon_ton::wallet::Wallet;
use cocoon_ton::{Address, RootParams, SigningKey};
use tokio::sync::{Notify, watch};

use crate::core::Core;

pub(crate) use instance::Identity;
pub use instance::InstanceStatus;
use instance::{Instance, Synced};

/// Where the list of instances is stored.
const INSTANCES: &str = "settlement/instances";
/// How often the books are compared with what is on chain, without asking the chain.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A chain that was silent for less is no reason to stop working.
const MIN_SILENCE: Duration = Duration::from_secs(30);

/// How a proxy settles.
#[derive(Clone)]
pub struct SettlementConfig {
    /// The wallet that pays for the proxy's messages.
    pub wallet: Wallet,
    /// Controls it.
    pub key: SigningKey,
    /// When to charge, commit and withdraw.
    pub policy: ProxyPolicy,
    /// How often to look at the chain without being told to.
    pub poll: Duration,
    /// Least time between two rounds: 20 ms for a chain on this machine, 1 s for others.
    pub min_pause: Duration,
}

impl std::fmt::Debug for SettlementConfig {
    /// All but the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SettlementConfig")
            .field("wallet", &self.wallet.address())
            .field("policy", &self.policy)
            .field("poll", &self.poll)
            .finish_non_exhaustive()
    }
}

/// Why settlement cannot go on at all.
#[derive(Debug, thiserror::Error)]
pub enum SettlementError {
    /// The ledger lacks what was committed on chain.
    #[error(
        "the ledger went back: commit {seqno} on chain names position {committed}, the ledger ends at {position}; \
         restore the newest copy of the ledger. Serving with this one could sign what was signed before"
    )]
    WentBack {
        /// Number of the newest commit.
        seqno: u32,
        /// The position it names.
        committed: u64,
        /// Where the ledger ends.
        position: u64,
    },
    /// The list of instances cannot be read or written.
    #[error("the list of proxy contracts: {0}")]
    Store(#[from] StoreError),
    /// The list of instances is damaged.
    #[error(
        "the list of proxy contracts in the ledger file cannot be read: {0}; restore a backup of the file"
    )]
    Damaged(String),
    /// The root configuration lacks a code.
    #[error(transparent)]
    Code(#[from] CodeMissing),
    /// The chain or the wallet cannot be used now.
    #[error(transparent)]
    Send(#[from] SendError),
}

impl From<ChainError> for SettlementError {
    fn from(error: ChainError) -> Self {
        Self::Send(error.into())
    }
}

impl SettlementError {
    /// Whether waiting may help.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::Send(_) => true,
            Self::Store(error) => error.passes(),
            Self::WentBack { .. } | Self::Damaged(_) | Self::Code(_) => false,
        }
    }
}

/// What settlement has reached.
#[derive(Debug, Clone, PartialEq)]
pub struct SettlementReport {
    /// The wallet, and what holds it up.
    pub wallet: SettlementStatus,
    /// Every proxy contract, the newest last.
    pub instances: Vec<InstanceStatus>,
}

/// Runs settlement for one proxy.
pub(crate) struct Settlement {
    core: Arc<Core>,
    chain: Arc<dyn Chain>,
    store: Arc<SqliteStore>,
    settler: Settler,
    config: SettlementConfig,
    identity: Identity,
    instances: Vec<Instance>,
    report: watch::Sender<SettlementReport>,
    /// Wakes the task out of turn.
    wake: Arc<Notify>,
    /// Wind everything up instead of serving.
    leaving: bool,
    heard: Instant,
}

impl Settlement {
    /// Reads the stored list of instances. Waits for the disk.
    pub(crate) fn open(
        core: Arc<Core>,
        chain: Arc<dyn Chain>,
        store: Arc<SqliteStore>,
        config: SettlementConfig,
        identity: Identity,
        leaving: bool,
    ) -> Result<Self, SettlementError> {
        let settler = Settler::new(Arc::clone(&chain), config.wallet.clone(), config.key.clone());
        let stored = store.get(INSTANCES)?;
        let instances =
            stored.map_or_else(|| Ok(Vec::new()), |bytes| instance::read_list(&bytes, &identity))?;
        let wallet = settler.status().borrow().clone();
        let report = watch::Sender::new(SettlementReport { wallet, instances: Vec::new() });
        let wake = Arc::new(Notify::new());
        let heard = Instant::now();
        Ok(Self { core, chain, store, settler, config, identity, instances, report, wake, leaving, heard })
    }

    pub(crate) fn report(&self) -> watch::Receiver<SettlementReport> {
        self.report.subscribe()
    }

    /// Settles until something happens that waiting does not mend.
    pub(crate) async fn run(mut self) -> SettlementError {
        self.hold(Some("the chain has not been read yet"));
        let roots = self.chain.subscribe_root();
        loop {
            let outcome = self.round(&roots).await;
            let wait = match outcome {
                Ok((plan, _)) => self.wait_for(&plan),
                Err(error) if error.passes() => {
                    self.note_silence(&error);
                    RETRY_AFTER
                }
                Err(error) => {
                    self.hold(Some(match error {
                        SettlementError::WentBack { .. } => "the proxy's books went back",
                        _ => "the proxy cannot settle any more",
                    }));
                    return error;
                }
            };
            tokio::time::sleep(self.config.min_pause).await;
            self.sleep(wait).await;
        }
    }

    /// One round. Returns what was planned, and the steps that were taken.
    pub(crate) async fn round(
        &mut self,
        roots: &watch::Receiver<Arc<cocoon_ton::RootConfig>>,
    ) -> Result<(Plan, Vec<Step>), SettlementError> {
        let params = roots.borrow().params.clone();
        if !self.leaving {
            self.enter(&params).await?;
        }
        let wallet = self.settler.settled().await?;
        let now = wallet.at.unix_time;
        let position = self.core.look(|proxy| proxy.ledger().durable());
        let mut all = Plan { finished: true, ..Plan::default() };
        let mut hold = None;
        let newest = self.instances.len().saturating_sub(1);
        for index in 0..self.instances.len() {
            let serves = index == newest && !self.leaving;
            if self.instances[index].finished && !serves {
                continue;
            }
            let synced =
                self.instances[index].sync(self.chain.as_ref(), &self.core, !serves, wallet.at).await?;
            self.check_commits(index)?;
            let intent = if serves { Intent::Serve } else { Intent::WindUp };
            let min_stake = params.min_proxy_stake_nanoton;
            let made = self.plan(index, &synced, intent, now, position, min_stake);
            // A contract with a history that is not there now may be a lie, and must not be forgotten.
            let is_known = synced.state.is_some() || self.instances[index].fresh();
            self.instances[index].finished = made.finished && is_known;
            if serves {
                hold = Some(made.hold.clone());
            }
            all.join(made);
        }
        self.save().await?;
        self.heard = Instant::now();
        if let Some(hold) = hold {
            self.hold(hold.as_ref().map(|hold| hold.reason.as_str()));
        }
        let steps = self.settler.carry_out(&wallet, all.clone()).await;
        self.publish();
        let steps = steps?;
        for step in &steps {
            self.instances.iter_mut().for_each(|instance| instance.done(step));
        }
        if !steps.is_empty() {
            // What was sent has changed the picture.
            all.more = true;
        }
        Ok((all, steps))
    }

    fn plan(
        &mut self,
        index: usize,
        synced: &Synced,
        intent: Intent,
        now: u64,
        position: u64,
        min_stake_nanoton: u64,
    ) -> Plan {
        let instance = &self.instances[index];
        let view = ProxyView {
            now,
            wallet: self.settler.address(),
            contract: instance.contract,
            init: &instance.init,
            min_stake_nanoton,
            state: synced.state.as_ref(),
            held_nanoton: synced.held_nanoton,
            clients: &synced.clients,
            workers: &synced.workers,
            commits: instance.commits,
            position,
            intent,
            query_id: rand::random(),
        };
        let mut books =
            books::CoreBooks { core: &self.core, key: &self.identity.key, wallet: self.settler.address() };
        let mut made = plan(&self.config.policy, &view, &mut books);
        made.more |= synced.more;
        made
    }

    /// Makes sure that the newest instance is that of the parameters in force, and that it is stored.
    async fn enter(&mut self, params: &RootParams) -> Result<(), SettlementError> {
        if self.instances.last().is_some_and(|instance| instance.params == *params) {
            return Ok(());
        }
        // Every change makes the version higher. To believe an older one would be to close the contract in use for good.
        let newest = self.instances.last().map_or(0, |instance| instance.params.params_version);
        if params.params_version < newest {
            self.hold(Some("the chain shows older parameters of the network than before"));
            return Err(ChainError::BadAnswer(format!(
                "the root contract shows parameters of version {}, after those of version {newest}: an endpoint is behind \
                 or shows another chain. If the root's owner has set them back, wind this proxy up and start it with a \
                 new ledger",
                params.params_version
            ))
            .into());
        }
        let instance = match Instance::new(params.clone(), &self.identity) {
            Ok(instance) => instance,
            // As with connections: a root configuration that cannot be used leaves the old one in force.
            Err(_) if !self.instances.is_empty() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // Parameters may come back to what they were: then the contract of that time is taken up again.
        self.instances.retain(|old| old.contract != instance.contract || !old.fresh());
        match self.instances.iter().position(|old| old.contract == instance.contract) {
            Some(index) => {
                let old = self.instances.remove(index);
                self.instances.push(old);
            }
            None => self.instances.push(instance),
        }
        self.hold(Some("the network's parameters changed"));
        self.save().await
    }

    fn check_commits(&self, index: usize) -> Result<(), SettlementError> {
        let commits = self.instances[index].commits;
        let position = self.core.look(|proxy| proxy.ledger().position());
        if commits.position > position {
            let (seqno, committed) = (commits.seqno, commits.position);
            return Err(SettlementError::WentBack { seqno, committed, position });
        }
        Ok(())
    }

    async fn save(&self) -> Result<(), SettlementError> {
        if self.instances.iter().all(|instance| instance.saved()) {
            return Ok(());
        }
        let bytes = instance::write_list(&self.instances);
        self.store.put(INSTANCES, bytes)?.await?;
        self.instances.iter().for_each(Instance::mark_saved);
        Ok(())
    }

    fn hold(&self, reason: Option<&str>) {
        let hold = reason.map(|words| Hold { reason: "settlement", message: words.to_owned() });
        self.core.run(|proxy, _| proxy.set_hold(hold));
    }

    /// A proxy that cannot see the chain cannot see who leaves.
    fn note_silence(&self, error: &SettlementError) {
        let delay = self.instances.last().map_or(0, |last| last.params.client_delay_before_close_seconds);
        let limit = (Duration::from_secs(u64::from(delay)) / 2).max(MIN_SILENCE);
        if self.heard.elapsed() > limit {
            self.hold(Some("the chain has not answered for too long"));
        }
        tracing::debug!(%error, "no settlement for now");
        self.publish();
    }

    fn publish(&self) {
        let wallet = self.settler.status().borrow().clone();
        let instances = self.instances.iter().map(Instance::status).collect();
        self.report.send_replace(SettlementReport { wallet, instances });
    }

    fn wait_for(&self, plan: &Plan) -> Duration {
        if plan.more {
            return Duration::ZERO;
        }
        let seen = self.settler.status().borrow().seen_unix_time.unwrap_or(0);
        let until = plan.again_at.map(|at| Duration::from_secs(at.saturating_sub(seen) + 1));
        until.unwrap_or(self.config.poll).min(self.config.poll)
    }

    /// Sleeps, but not through news: a transaction of the proxy contract, a charge that is due, a new root.
    async fn sleep(&self, wait: Duration) {
        if wait.is_zero() {
            return;
        }
        let contract = self.instances.last().map(|instance| instance.contract);
        let mut news = contract.and_then(|contract| self.chain.subscribe(contract).ok());
        let mut roots = self.chain.subscribe_root();
        roots.mark_unchanged();
        let cursor = self.instances.last().map_or(0, |instance| instance.cursor);
        if news.as_ref().is_some_and(|news| news.borrow().is_some_and(|newest| newest.lt > cursor)) {
            return;
        }
        let changed = async {
            if let Some(news) = &mut news
                && news.changed().await.is_ok()
            {
                return;
            }
            std::future::pending().await
        };
        let due = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                if self.due() {
                    return;
                }
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = changed => {}
            () = due => {}
            _ = roots.changed() => {}
            () = self.wake.notified() => {}
        }
    }

    /// Whether a charge is due by what is known.
    fn due(&self) -> bool {
        let Some(instance) = self.instances.last() else { return false };
        let percent = self.config.policy.charge_at_percent;
        self.core.look(|proxy| instance.charge_is_due(proxy.ledger(), percent))
    }

    /// What is left of old proxy contracts for later.
    pub(crate) fn rest(&self) -> Vec<InstanceStatus> {
        let statuses = self.instances.iter().filter(|instance| !instance.finished).map(Instance::status);
        statuses.filter(|status| status.status.is_some()).collect()
    }

    pub(crate) fn settler(&self) -> &Settler {
        &self.settler
    }
}

/// Reads a proxy contract and checks that it is the one that was meant.
pub(crate) fn expected(
    contract: Address,
    state: ProxyState,
    identity: &Identity,
) -> Result<ProxyState, ChainError> {
    let key = identity.key.verifying_key().to_bytes();
    if state.owner == identity.owner && state.public_key == key && state.root == identity.root {
        return Ok(state);
    }
    Err(ChainError::BadAnswer(format!("{contract} is the contract of another proxy")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_slow_or_full_does_not_end_settlement() {
        let full = StoreError::DiskFull { path: "ledger.sqlite".into() };
        for error in [StoreError::QueueFull, full] {
            assert!(SettlementError::Store(error.clone()).passes(), "{error}");
        }
        assert!(!SettlementError::Store(StoreError::Closed).passes());
    }
}
