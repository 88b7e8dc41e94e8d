//! Whether a proxy can pay for the work that it asks for.
//!
//! A link takes requests only while all of this holds. Otherwise the proxy is told to ask other workers, and what it sends
//! all the same is refused.
//!
//! - The proxy contract is on chain, open, and belongs to the key that signs the orders.
//! - It holds what is due to this worker (acknowledged or signed, and not paid) and a margin: one payout threshold, though
//!   not more than the stake that the root asks for, because an honest proxy without clients holds no more.
//! - The chain has shown this since the link is up, and within half the proxy contract's closing delay, at least 30 s.
//!
//! **What a worker can lose at most.** Of work that the proxy has acknowledged: what its contract was last seen to hold,
//! less the margin; acknowledgements count at once, not with the next look. While the chain answers and the wallet has
//! coins for fees, orders become coins at the payout threshold, so it is this threshold and what is earned while a payout
//! is under way. Such a loss takes a proxy that signs more than it has: an honest one's contract always holds what all its
//! workers are owed. Of work that the proxy has not acknowledged, nothing here sets a bound: a proxy that takes answers,
//! never acknowledges them and holds enough looks like one that is slow.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use cocoon_chain::settler::RETRY_AFTER;
use cocoon_chain::{BlockRef, TransactionId};
use cocoon_ledger::Nanoton;
use cocoon_settle::WORTH_FETCHING_NANOTON;
use cocoon_ton::contracts::ContractStatus;
use cocoon_ton::{Address, RootParams};
use futures_util::future::{pending, select_all};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::Settlement;
use super::look::{self, Cause, Seen};
use crate::channel::Channel;

/// A chain that was silent for less is no reason to stop working.
const MIN_SILENCE: Duration = Duration::from_secs(30);
/// How many proxies are looked at at a time.
const LOOKS_AT_ONCE: usize = 8;

/// Newest transactions of proxy contracts that are waited for.
type News = HashMap<Address, watch::Receiver<Option<TransactionId>>>;

/// Why a proxy's requests are not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The chain was not looked at since the link is up.
    Unseen,
    /// The chain does not answer.
    Silent { limit: Duration },
    /// The contracts are not what they must be.
    Unfit(String),
    /// There is no proxy contract.
    Missing,
    /// The proxy contract is being closed, or is.
    Leaving,
    /// The proxy contract cannot pay.
    TooLittle { held_nanoton: u64, needed_nanoton: u64 },
}

impl Hold {
    /// Whether it is the same reason, though perhaps with other numbers.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unseen => f.write_str("the proxy's contract has not been looked at yet"),
            Self::Silent { limit } => {
                write!(
                    f,
                    "the chain has not answered for {} s: whether the proxy can pay is not known",
                    limit.as_secs()
                )
            }
            Self::Unfit(why) => f.write_str(why),
            Self::Missing => f.write_str("the proxy's contract is not on chain"),
            Self::Leaving => f.write_str("the proxy's contract is closing or closed"),
            Self::TooLittle { held_nanoton, needed_nanoton } => write!(
                f,
                "the proxy's contract holds {}, less than the {} that are due here and for the work to come",
                Nanoton(*held_nanoton),
                Nanoton(*needed_nanoton)
            ),
        }
    }
}

/// What the chain last showed of a proxy's means.
#[derive(Debug, Clone)]
pub(super) struct Backing {
    heard: Instant,
    /// What it is, or why it cannot be that.
    pub(super) shown: Result<Shown, String>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub(super) proxy_status: Option<ContractStatus>,
    pub(super) paid_tokens: u64,
    held_nanoton: u64,
}

impl Backing {
    pub(super) fn of(seen: &Seen) -> Self {
        let shown = Shown {
            proxy_status: seen.proxy_status,
            paid_tokens: seen.worker.as_ref().map_or(0, |state| state.tokens),
            held_nanoton: seen.proxy_held_nanoton,
        };
        Self { heard: Instant::now(), shown: Ok(shown) }
    }

    pub(super) fn unfit(why: String) -> Self {
        Self { heard: Instant::now(), shown: Err(why) }
    }
}

/// How long a chain may be silent.
fn patience(params: &RootParams) -> Duration {
    (Duration::from_secs(params.proxy_delay_before_close_seconds.into()) / 2).max(MIN_SILENCE)
}

impl Settlement {
    pub(crate) fn require_backing(&self) -> bool {
        self.require_backing
    }

    /// Why no work should be done at this proxy; `None`: it can pay, or that is not asked.
    pub(crate) fn hold(&self, channel: &Channel) -> Option<Hold> {
        if !self.require_backing {
            return None;
        }
        if let Some(why) = channel.refusal() {
            return Some(Hold::Unfit(why));
        }
        let terms = &channel.terms;
        let standings = self.standings();
        let Some(backing) = standings.get(&terms.contract).and_then(|standing| standing.backing.as_ref())
        else {
            return Some(Hold::Unseen);
        };
        let limit = patience(&terms.start.params);
        if backing.heard.elapsed() > limit {
            return Some(Hold::Silent { limit });
        }
        let shown = match &backing.shown {
            Ok(shown) => shown,
            Err(why) => return Some(Hold::Unfit(why.clone())),
        };
        match shown.proxy_status {
            None => return Some(Hold::Missing),
            Some(ContractStatus::Closing | ContractStatus::Closed) => return Some(Hold::Leaving),
            Some(ContractStatus::Open) => {}
        }
        let due =
            channel.books().owed().saturating_sub(shown.paid_tokens).saturating_mul(terms.fee_nanoton());
        let needed_nanoton = due.saturating_add(self.margin(&terms.start.params));
        let held_nanoton = shown.held_nanoton;
        (held_nanoton < needed_nanoton).then_some(Hold::TooLittle { held_nanoton, needed_nanoton })
    }

    /// What a proxy contract must hold beyond what is due.
    fn margin(&self, params: &RootParams) -> u64 {
        self.policy.payout_at_nanoton.min(params.min_proxy_stake_nanoton.max(WORTH_FETCHING_NANOTON))
    }

    /// A link to this proxy is up: its contract is looked at now, and from now on.
    pub(crate) fn link_up(&self, contract: Address) {
        let mut links = self.links();
        let count = links.entry(contract).or_insert(0);
        *count += 1;
        if *count == 1 {
            // What was seen before an earlier link went down may be over.
            self.standings().entry(contract).or_default().backing = None;
        }
        drop(links);
        self.look_now.notify_one();
    }

    /// The link is down.
    pub(crate) fn link_down(&self, contract: Address) {
        let mut links = self.links();
        if let Some(count) = links.get_mut(&contract) {
            *count -= 1;
            if *count == 0 {
                links.remove(&contract);
            }
        }
    }

    /// Something is held that was not: its reason may be over soon.
    pub(crate) fn look_soon(&self) {
        self.look_now.notify_one();
    }

    /// How many links are up to the proxy with each worker contract.
    pub(super) fn links(&self) -> MutexGuard<'_, HashMap<Address, usize>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the contracts of all proxies that a link is up to: at once, at every poll, and where one is held, whenever
    /// something happens to its contract.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut news = News::new();
        loop {
            let linked: Vec<_> = {
                let links = self.links();
                self.channels
                    .list()
                    .into_iter()
                    .filter(|one| links.contains_key(&one.terms.contract))
                    .collect()
            };
            // Before the looks, so that nothing is missed between them and the wait.
            self.listen(&linked, &mut news);
            let looks = linked.into_iter().map(|channel| self.look_at(channel));
            let looks: Vec<bool> = stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE).collect().await;
            let wait = if looks.contains(&false) { self.poll.min(RETRY_AFTER) } else { self.poll };
            sleep(self.min_pause).await;
            tokio::select! {
                () = sleep(wait) => {}
                () = self.look_now.notified() => {}
                () = changed(&mut news) => {}
            }
        }
    }

    /// Listens to the contracts of proxies that are held, and no longer to others.
    fn listen(&self, linked: &[Arc<Channel>], news: &mut News) {
        let held: Vec<Address> = linked
            .iter()
            .filter(|channel| self.hold(channel).is_some())
            .map(|channel| channel.terms.start.proxy)
            .collect();
        news.retain(|proxy, _| held.contains(proxy));
        for proxy in held {
            if let Some(known) = news.get_mut(&proxy) {
                known.mark_unchanged();
            } else if let Ok(receiver) = self.chain.subscribe(proxy) {
                // Where that is not possible, the polls must do.
                news.insert(proxy, receiver);
            }
        }
    }

    /// Looks at one proxy's contract, if that was not done just now. `false` where the chain does not answer.
    async fn look_at(&self, channel: Arc<Channel>) -> bool {
        let contract = channel.terms.contract;
        if self.hold(&channel).is_none() && self.heard_within(&contract, self.poll / 2) {
            return true;
        }
        // Nothing is sent because of it, and for one account an answer from the past is the chain's to refuse.
        let backing = match look::look(self.chain.as_ref(), &channel.terms, BlockRef::default()).await {
            Ok(seen) => Backing::of(&seen),
            Err(Cause::Contract(why)) => Backing::unfit(why),
            Err(Cause::Chain(error)) => {
                tracing::debug!(%error, "cannot see a proxy's contract");
                return false;
            }
        };
        self.standings().entry(contract).or_default().backing = Some(backing);
        true
    }

    fn heard_within(&self, contract: &Address, time: Duration) -> bool {
        let standings = self.standings();
        let backing = standings.get(contract).and_then(|standing| standing.backing.as_ref());
        backing.is_some_and(|backing| backing.heard.elapsed() < time)
    }
}

/// Until one of the contracts has a new transaction.
async fn changed(news: &mut News) {
    if news.is_empty() {
        return pending().await;
    }
    let each = news.values_mut().map(|receiver| {
        async {
            if receiver.changed().await.is_err() {
                pending().await
            }
        }
        .boxed()
    });
    select_all(each).await;
}
