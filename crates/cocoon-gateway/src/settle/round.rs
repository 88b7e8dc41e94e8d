//! One look at the chain, and what follows from it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cocoon_chain::ChainError;
use cocoon_chain::settler::Step;
use cocoon_chain::wallet::{SendError, WalletView};
use cocoon_session::client::ClientSecret;
use cocoon_settle::client::{ClientChannel, ClientPolicy, ClientView, Intent, plan};
use cocoon_settle::{FundsNeeded, Plan, Purpose, share};
use cocoon_store::StoreError;
use cocoon_ton::Address;
use cocoon_ton::contracts::ContractStatus;

use super::Settlement;
use super::channel::{Channel, Live};
use super::read::{self, ReadError, Shown};
use super::record::Record;
use super::report::{ChannelReport, SettlementReport};
use crate::book::Book;

/// How long a round may take. The chain's and the wallet's own waiting times are shorter.
const ROUND_WITHIN: Duration = Duration::from_secs(300);

/// Why a round did not come to its end. The next one makes it good.
#[derive(Debug, thiserror::Error)]
pub(super) enum RoundError {
    #[error(transparent)]
    Send(#[from] SendError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the channels' records cannot be stored: {0}")]
    Store(#[from] StoreError),
    #[error("the chain does not answer within {} s", ROUND_WITHIN.as_secs())]
    Stalled,
}

impl RoundError {
    /// When the chain asks to be left alone until.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Send(SendError::Chain(ChainError::Unavailable { retry_after, .. }))
            | Self::Read(ReadError::Chain(ChainError::Unavailable { retry_after, .. })) => *retry_after,
            _ => None,
        }
    }
}

/// What a round came to.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) steps: Vec<Step>,
    /// The chain's time, in Unix seconds.
    pub(super) now: u64,
    pub(super) needs: Option<FundsNeeded>,
    pub(super) hold: Option<String>,
    pub(super) more: bool,
    pub(super) again_at: Option<u64>,
    pub(super) finished: bool,
}

#[cfg(test)]
impl Round {
    /// Whether a contract refused something.
    pub(super) fn was_refused(&self) -> bool {
        self.steps.iter().any(Step::is_refused)
    }
}

/// A channel at the moment of a round.
pub(super) struct Entry {
    pub(super) contract: Address,
    pub(super) record: Record,
    pub(super) channel: Arc<Channel>,
    pub(super) shown: Shown,
    pub(super) live: Live,
}

impl Entry {
    /// Whether everything is to be got back.
    fn leaves(&self) -> bool {
        let closing =
            |status: Option<ContractStatus>| status.is_some_and(|status| status != ContractStatus::Open);
        self.shown.client.is_some()
            && (self.record.leave
                || closing(self.shown.client.as_ref().map(|state| state.status))
                || closing(self.shown.proxy.as_ref().map(|proxy| proxy.status)))
    }

    fn is_live(&self) -> bool {
        self.live.connections > 0
    }

    pub(super) fn for_plan(&self, secret: &ClientSecret) -> ClientChannel {
        ClientChannel {
            contract: self.contract,
            init: self.record.init.clone(),
            min_stake_nanoton: self.record.begin.stake_nanoton,
            state: self.shown.client.clone(),
            held_nanoton: self.shown.held_nanoton,
            proxy: self.shown.proxy.clone(),
            proxy_held_nanoton: self.shown.proxy_held_nanoton,
            charge: self.live.charge,
            refund: self.live.refund,
            registration: self.live.registration.map(|(nonce, _)| nonce),
            secret_hash: secret.hash_for_proxy(&self.record.begin.proxy),
            intent: if self.leaves() { Intent::Leave } else { Intent::Use },
        }
    }
}

impl Settlement {
    /// Looks, plans, and carries the plan out.
    pub(super) async fn round(&self, book: &Book) -> Result<Round, RoundError> {
        let outcome = tokio::time::timeout(ROUND_WITHIN, self.try_round(book)).await;
        let outcome = outcome.unwrap_or(Err(RoundError::Stalled));
        let mut status = self.status.borrow().clone();
        if let Err(error) = &outcome {
            status.error = Some(error.to_string());
        }
        self.report.send_if_modified(|report| {
            let changed = report.status != status;
            // The settler tells of its own errors.
            if let Err(error) = &outcome
                && !matches!(error, RoundError::Send(_))
                && report.status.error != status.error
            {
                tracing::warn!(%error, "settlement is held up");
            }
            report.status = status;
            changed
        });
        outcome
    }

    async fn try_round(&self, book: &Book) -> Result<Round, RoundError> {
        let view = self.settler.settled().await?;
        let (entries, unread) = self.look(book, &view).await?;
        let now = self.chain_time(&view);
        let plan = self.plan_for(&entries, now, view.address, unread.is_some());
        let plan = plan.fit(&self.settler.funds(&view));
        let mut round = Round {
            steps: Vec::new(),
            now,
            needs: plan.needs,
            hold: plan.hold.as_ref().map(|hold| hold.reason.clone()),
            more: plan.more,
            again_at: plan.again_at,
            finished: plan.finished,
        };
        round.steps = self.settler.carry_out(&view, plan).await?;
        self.after(&round.steps);
        self.store(book).await?;
        unread.map_or(Ok(round), |error| Err(error.into()))
    }

    /// Reads all channels that are not over, and says where one of them is shown as it cannot be: the others go on all
    /// the same, since some may have to be left in time. Whatever is returned is in the store.
    pub(super) async fn look(
        &self,
        book: &Book,
        view: &WalletView,
    ) -> Result<(Vec<Entry>, Option<ReadError>), RoundError> {
        let known = self.known(view.address);
        self.store(book).await?;
        let mut entries = Vec::with_capacity(known.len());
        let mut unread = None;
        for (contract, record, channel) in known {
            let shown = match read::read(self.chain.as_ref(), contract, &record, view.at).await {
                Ok(shown) => shown,
                // Then none can be read.
                Err(ReadError::Chain(error @ ChainError::Unavailable { .. })) => {
                    return Err(ReadError::Chain(error).into());
                }
                Err(error) => {
                    unread.get_or_insert(error);
                    continue;
                }
            };
            if shown.frozen {
                channel.tell_frozen(&contract);
                continue;
            }
            let live = channel.live();
            entries.push(Entry { contract, record, channel, shown, live });
        }
        self.take_note(&mut entries);
        self.store(book).await?;
        Ok((entries, unread))
    }

    /// The channels to read: all but those that are over and not in use.
    fn known(&self, wallet: Address) -> Vec<(Address, Record, Arc<Channel>)> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut known = Vec::new();
        for (contract, record) in &mut inner.records.by_contract {
            let Some(channel) = inner.channels.get(contract) else { continue };
            let live = channel.live();
            if live.refund.is_some() {
                record.refund = live.refund;
            }
            if record.begin.owner == wallet
                && (record.finished_spent_nanoton.is_none() || live.connections > 0)
            {
                known.push((*contract, record.clone(), Arc::clone(channel)));
            }
        }
        known
    }

    /// Keeps what must not be forgotten of what the chain has shown.
    fn take_note(&self, entries: &mut [Entry]) {
        // A proxy that shows another contract with the same key has new terms; nothing more comes through the old one.
        let current: Vec<([u8; 32], Address)> = entries
            .iter()
            .filter(|entry| entry.is_live())
            .map(|entry| (entry.record.begin.proxy_public_key, entry.contract))
            .collect();
        let mut inner = self.lock();
        for entry in entries {
            let begin = &entry.record.begin;
            let superseded = !entry.is_live()
                && current
                    .iter()
                    .any(|(key, other)| *key == begin.proxy_public_key && *other != entry.contract);
            // Before the first deposit there is nothing to leave.
            entry.record.leave = (entry.record.leave || superseded) && entry.shown.client.is_some();
            entry.record.seen_lt = entry.record.seen_lt.max(entry.shown.client_lt);
            let committed = entry.for_plan(&self.secret).committed_nanoton();
            entry.record.finished_spent_nanoton = read::is_finished(&entry.shown).then_some(committed);
            if let Some(record) = inner.records.by_contract.get_mut(&entry.contract) {
                record.clone_from(&entry.record);
            }
        }
    }

    fn plan_for(&self, entries: &[Entry], now: u64, wallet: Address, unread: bool) -> Plan {
        let mut planned = Vec::new();
        let mut reports = Vec::new();
        let mut elsewhere = self.spent_through_finished(entries);
        let mut committed = elsewhere;
        for entry in entries {
            let channel = entry.for_plan(&self.secret);
            committed = committed.saturating_add(channel.committed_nanoton());
            entry.channel.set_leaving(channel.intent == Intent::Leave);
            let begin = &entry.record.begin;
            reports.push(ChannelReport::of(&channel, begin.proxy_public_key, begin.proxy, entry.is_live()));
            // A proxy that is not there gets nothing more.
            if entry.is_live() || channel.intent == Intent::Leave {
                planned.push(channel);
            } else {
                elsewhere = elsewhere.saturating_add(channel.committed_nanoton());
            }
        }
        let budget_nanoton = self.policy.budget_nanoton.saturating_sub(elsewhere);
        // What lies in a channel that cannot be read is unknown, so nothing more is paid in anywhere.
        let budget_nanoton = if unread { 0 } else { budget_nanoton };
        let policy = ClientPolicy { budget_nanoton, ..self.policy };
        for entry in entries {
            entry.channel.set_due_at(due_at(&policy, &entry.for_plan(&self.secret)));
        }
        let status = self.status.borrow().clone();
        let budget_nanoton = self.policy.budget_nanoton;
        self.report.send_replace(SettlementReport {
            status,
            budget_nanoton,
            committed_nanoton: committed,
            channels: reports,
        });
        plan(&policy, &ClientView { now, wallet, channels: &planned, query_id: rand::random() })
    }

    /// What was spent through channels that are over, in nanoton.
    fn spent_through_finished(&self, read: &[Entry]) -> u64 {
        let inner = self.lock();
        let not_read = |contract: &Address| !read.iter().any(|entry| entry.contract == *contract);
        let spent = inner
            .records
            .by_contract
            .iter()
            .filter(|(contract, _)| not_read(contract))
            .filter_map(|(_, record)| record.finished_spent_nanoton);
        spent.fold(inner.records.forgotten_spent_nanoton, u64::saturating_add)
    }

    /// Keeps what the round's own messages imply.
    fn after(&self, steps: &[Step]) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        for step in steps {
            let contract = &step.transfer.to;
            // The contract's transaction comes after the wallet's. Any state without it is from the past.
            if step.is_done()
                && let Some(record) = inner.records.by_contract.get_mut(contract)
            {
                record.seen_lt = record.seen_lt.max(step.transaction.lt.saturating_add(1));
            }
            if step.transfer.purpose == Purpose::Register
                && let cocoon_ton::message::Body::RegisterClient { nonce, .. } = step.transfer.body
                && let Some(channel) = inner.channels.get(contract)
            {
                channel.registered(nonce);
            }
        }
    }

    /// The chain's time: that of its newest block, and what has passed since it was first seen.
    fn chain_time(&self, view: &WalletView) -> u64 {
        let mut inner = self.lock();
        let since = match inner.newest {
            Some((newest, since)) if newest == view.at => since,
            _ => {
                let now = Instant::now();
                inner.newest = Some((view.at, now));
                now
            }
        };
        view.at.unix_time.saturating_add(since.elapsed().as_secs())
    }
}

/// The smallest number of signed tokens, over those signed now, at which the planner has something to do: a top-up, or to
/// put the charge on chain itself.
pub(super) fn due_at(policy: &ClientPolicy, channel: &ClientChannel) -> u64 {
    let Some(state) = &channel.state else { return u64::MAX };
    let price = state.params.price_per_token_nanoton;
    if price == 0 || state.status != ContractStatus::Open {
        return u64::MAX;
    }
    let deposit = policy.deposit_nanoton.max(channel.min_stake_nanoton);
    let enough = share(deposit, policy.top_up_below_percent);
    let until_top_up = (state.balance_nanoton.saturating_add(price)).saturating_sub(enough) / price;
    let credit = state.balance_nanoton.min(state.stake_nanoton);
    let until_charge = share(credit, policy.charge_at_percent).div_ceil(price).max(1);
    let signed = channel.charge.map_or(0, |charge| charge.order().tokens);
    [until_top_up, until_charge]
        .into_iter()
        .map(|tokens| state.tokens_used.saturating_add(tokens))
        .filter(|tokens| *tokens > signed)
        .min()
        .unwrap_or(u64::MAX)
}
