//! The gateway's money on chain: it opens a channel at each proxy, fills it up within a budget, and gets back what is left.
//!
//! What to do is planned by [`cocoon_settle::client`], and carried out with the gateway's wallet by
//! [`cocoon_chain::settler`]. Here is what lies between: which channels there are (their records are durable before the
//! first coin goes there), what the chain shows of them, and when to look again.

mod channel;
mod operate;
mod read;
mod record;
mod report;
mod round;
mod task;
mod till;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cocoon_chain::settler::{SettlementStatus, Settler};
use cocoon_chain::{BlockRef, Chain};
use cocoon_session::ProxyTerms;
use cocoon_session::client::ClientSecret;
use cocoon_settle::client::ClientPolicy;
use cocoon_ton::wallet::Wallet;
use cocoon_ton::{Address, RootConfig, SigningKey, client_state_init};
use tokio::sync::{Notify, watch};
use zeroize::Zeroizing;

pub(crate) use channel::{Channel, Presence};
pub use operate::{
    Channels, LeaveConfig, LeaveStep, Left, OperateError, WalletEnd, deposit, leave, withdraw,
};
pub use read::ReadError;
pub(crate) use record::Records;
pub use report::{ChannelReport, SettlementReport};
pub(crate) use task::run;

use crate::book::{Book, BookLoadError};
use record::Record;

/// Shortest secret that may guard a channel with coins, in bytes.
pub(crate) const MIN_SECRET_BYTES: usize = 16;

/// How a gateway pays.
#[derive(Clone)]
pub struct SettlementConfig {
    /// Owns the client contracts; their coins come from here and go back here.
    pub wallet: Wallet,
    /// The wallet's key.
    pub key: SigningKey,
    /// How much to spend, and how.
    pub policy: ClientPolicy,
    /// How often to look at the chain where nothing calls for it earlier. Far below the delay of the network's client
    /// contracts, so that there is time to leave a proxy that closes; a warning says where it is not.
    pub poll: Duration,
    /// Least time between two looks: 20 ms for a chain on this machine, 1 s for others.
    pub min_pause: Duration,
}

impl std::fmt::Debug for SettlementConfig {
    /// All but the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SettlementConfig")
            .field("wallet", &self.wallet.address())
            .field("policy", &self.policy)
            .field("poll", &self.poll)
            .field("min_pause", &self.min_pause)
            .finish_non_exhaustive()
    }
}

/// What connections, pages and the task share.
#[derive(Debug)]
pub(crate) struct Settlement {
    chain: Arc<dyn Chain>,
    settler: Settler,
    status: watch::Receiver<SettlementStatus>,
    report: watch::Sender<SettlementReport>,
    policy: ClientPolicy,
    poll: Duration,
    pause: Duration,
    /// From which each proxy's own secret for short authorisation follows.
    secret: ClientSecret,
    inner: Mutex<Inner>,
    wake: Arc<Notify>,
}

#[derive(Debug)]
struct Inner {
    records: Records,
    /// What the store holds.
    stored: Records,
    channels: BTreeMap<Address, Arc<Channel>>,
    connections: u64,
    /// The newest block, and when it was first seen: a chain may make none while nothing happens.
    newest: Option<(BlockRef, Instant)>,
}

impl Settlement {
    /// Takes up what `book` remembers. Waits for the disk.
    pub(crate) fn open(
        config: SettlementConfig,
        secret: &[u8],
        chain: Arc<dyn Chain>,
        book: &Book,
    ) -> Result<Self, BookLoadError> {
        let records = book.load_channels()?;
        let settler = Settler::new(Arc::clone(&chain), config.wallet, config.key);
        let wallet = settler.address();
        let wake = Arc::new(Notify::new());
        let mut channels = BTreeMap::new();
        for (contract, record) in &records.by_contract {
            if record.begin.owner != wallet {
                tracing::warn!(
                    %contract, owner = %record.begin.owner,
                    "a channel of another wallet is remembered; leave it with that wallet's key"
                );
                continue;
            }
            let channel = Channel::new(Arc::clone(&wake));
            if let Some(refund) = record.refund {
                channel.put_refund(refund);
            }
            channels.insert(*contract, Arc::new(channel));
        }
        let status = settler.status();
        let report = SettlementReport::new(status.borrow().clone(), config.policy.budget_nanoton);
        let stored = records.clone();
        Ok(Self {
            chain,
            settler,
            status,
            report: watch::Sender::new(report),
            policy: config.policy,
            poll: config.poll,
            pause: config.min_pause.max(Duration::from_millis(1)),
            secret: ClientSecret::PerProxy(Zeroizing::new(secret.to_vec())),
            inner: Mutex::new(Inner { records, stored, channels, connections: 0, newest: None }),
            wake,
        })
    }

    /// A connection has met a proxy under this root configuration: the channel with it counts from now on. `None` where it
    /// cannot be remembered.
    pub(crate) fn join(&self, terms: &ProxyTerms, root: &RootConfig) -> Option<Presence> {
        let wallet = self.settler.address();
        let init = client_state_init(&root.params, &wallet, &terms.contract, &terms.public_key);
        let (Ok(init), Some(proxy_code)) = (init, &root.params.proxy_code) else { return None };
        let contract = init.address();
        if contract != terms.pair_contract {
            tracing::warn!(%contract, named = %terms.pair_contract, "a proxy names another client contract");
            return None;
        }
        let mut inner = self.lock();
        let inner = &mut *inner;
        if !inner.records.by_contract.contains_key(&contract) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let record = Record::new(init, proxy_code.hash(), now)
                .inspect_err(|why| tracing::error!(%contract, why, "a channel cannot be opened"))
                .ok()?;
            let channels = &inner.channels;
            let in_use =
                |other: &Address| channels.get(other).is_some_and(|channel| channel.live().connections > 0);
            if !inner.records.make_room(in_use) {
                tracing::error!(
                    %contract,
                    "no coins go to this proxy: {} channels are remembered and may hold coins; leave some of them",
                    record::MAX_CHANNELS
                );
                return None;
            }
            inner.records.by_contract.insert(contract, record);
            self.warn_of_slow_looks(root);
        }
        let wake = &self.wake;
        let channel =
            inner.channels.entry(contract).or_insert_with(|| Arc::new(Channel::new(Arc::clone(wake))));
        inner.connections += 1;
        Some(Presence::new(Arc::clone(channel), inner.connections))
    }

    /// What the wallet has and lacks, now.
    pub(crate) fn status(&self) -> SettlementStatus {
        self.status.borrow().clone()
    }

    /// Why channels are not filled up, where they cannot be.
    pub(crate) fn why_not_filled_up(&self) -> Option<String> {
        if let Some(needs) = self.status.borrow().needs {
            return Some(needs.to_string());
        }
        let report = self.report.borrow();
        let left = report.budget_nanoton.saturating_sub(report.committed_nanoton);
        // The planner tops up by no less.
        (left < (self.policy.deposit_nanoton / 10).max(1)).then(|| {
            let budget = cocoon_ledger::Nanoton(report.budget_nanoton);
            format!("the gateway's budget of {budget} does not allow for another top-up; raise it")
        })
    }

    /// How it stands, now and as it changes.
    pub(crate) fn report(&self) -> watch::Receiver<SettlementReport> {
        self.report.subscribe()
    }

    /// Makes the records durable, if they have changed.
    async fn store(&self, book: &Book) -> Result<(), cocoon_store::StoreError> {
        let changed = {
            let inner = self.lock();
            (inner.records != inner.stored).then(|| inner.records.clone())
        };
        if let Some(records) = changed {
            book.store_channels(&records).await?;
            self.lock().stored = records;
        }
        Ok(())
    }

    /// Says so where the operator looks at the chain too seldom for this network.
    pub(crate) fn warn_of_slow_looks(&self, root: &RootConfig) {
        let params = &root.params;
        let client = u64::from(params.client_delay_before_close_seconds);
        let proxy = u64::from(params.proxy_delay_before_close_seconds);
        // Who sees late that a proxy closes has only the difference left.
        let time = client.min(proxy.saturating_sub(client));
        if self.poll > Duration::from_secs(time) / 4 {
            tracing::warn!(
                poll_seconds = self.poll.as_secs(),
                time_to_leave_seconds = time,
                "the chain is looked at too seldom to leave a closing proxy in time for sure; look more often"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
