//! Whether what a wallet sent has arrived: its receiver has a transaction for it.

use std::collections::{HashSet, VecDeque};

use cocoon_ton::{Address, Cell, OutMessage};
use tokio::time::Instant;

use super::{Landing, SendError, WalletDriver, WalletView};
use crate::{ChainError, MAX_TRANSACTIONS_PER_CALL, Message, Transaction};

/// How far back, in logical time, a driver that has just begun looks for messages under way: a thousand blocks in
/// which little happens, which are many minutes.
pub const LT_LOOKED_BACK: u64 = 1_000_000_000;
/// How long a message may be under way, in seconds of the chain's time. What left no trace for so long went to an
/// account that did not exist, came back from there, and is nowhere listed.
pub const SECONDS_UNDER_WAY: u64 = 3_600;
/// Most pages of an account's transactions that are looked through for one message.
pub const MAX_PAGES: usize = 64;

/// What is known to have arrived.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    /// Everything that the wallet sent up to its transaction with that logical time.
    up_to_lt: u64,
    /// Later messages, by the logical times at which they were made.
    messages: HashSet<u64>,
}

impl WalletDriver {
    /// Whether everything that the wallet has sent has arrived.
    pub(super) async fn all_arrived(
        &self,
        view: &WalletView,
        arrived: &mut Arrived,
    ) -> Result<bool, SendError> {
        let last_lt = view.last.map_or(0, |last| last.lt);
        let after_lt = arrived.up_to_lt.max(last_lt.saturating_sub(LT_LOOKED_BACK));
        let Some(history) = self.history(after_lt, last_lt).await? else { return Ok(false) };
        let recent = |transaction: &&Transaction| {
            transaction.unix_time.saturating_add(SECONDS_UNDER_WAY) >= view.at.unix_time
        };
        for message in history.iter().filter(recent).flat_map(inside) {
            if arrived.messages.contains(&message.created_lt) {
                continue;
            }
            if self.landing(message).await?.is_none() {
                return Ok(false);
            }
            arrived.messages.insert(message.created_lt);
        }
        let up_to_lt = history.last().map_or(last_lt, |newest| newest.id.lt);
        *arrived = Arrived { up_to_lt: arrived.up_to_lt.max(up_to_lt), messages: HashSet::new() };
        Ok(true)
    }

    /// The transaction that the message with that body caused. `None`: the chain does not list it yet.
    pub(super) async fn transaction_of(
        &self,
        before: &WalletView,
        view: &WalletView,
        body: &Cell,
    ) -> Result<Option<Transaction>, SendError> {
        let (Some(last), after_lt) = (view.last, before.last.map_or(0, |last| last.lt)) else {
            return Ok(None);
        };
        let Some(history) = self.history(after_lt, last.lt).await? else { return Ok(None) };
        let ours = |transaction: &Transaction| {
            transaction.in_message.as_ref().is_some_and(|message| {
                message.source.is_none() && message.body.repr_hash() == body.repr_hash()
            })
        };
        history.into_iter().find(ours).map(Some).ok_or_else(|| self.overtaken(before.seqno))
    }

    /// Waits until all messages of the wallet's transaction have arrived.
    pub(super) async fn landings(
        &self,
        transaction: &Transaction,
        planned: &[OutMessage],
        arrived: &mut Arrived,
    ) -> Result<Vec<Landing>, SendError> {
        let deadline = Instant::now() + self.timing.landing;
        let mut sent: VecDeque<&Message> = inside(transaction).collect();
        let mut landed = Vec::with_capacity(planned.len());
        for plan in planned {
            // The wallet sends in the order of the plan, and leaves out what it cannot send.
            let message = sent.front().copied().filter(|message| is_of_plan(message, plan));
            let transaction = match message {
                None => None,
                Some(message) => {
                    sent.pop_front();
                    let mut pause = self.pause();
                    let found = loop {
                        if let Some(found) = self.landing(message).await? {
                            break found;
                        }
                        self.wait(&mut pause, deadline).await?;
                    };
                    arrived.messages.insert(message.created_lt);
                    Some(found)
                }
            };
            landed.push(Landing { to: plan.to, transaction });
        }
        Ok(landed)
    }

    /// The transaction by which the wallet's message arrived; `None` where there is none yet, or the chain cannot say.
    async fn landing(&self, message: &Message) -> Result<Option<Transaction>, SendError> {
        let Some(to) = message.destination else { return Ok(None) };
        let wallet = self.wallet.address();
        let arrived = |transaction: &Transaction| {
            transaction
                .in_message
                .as_ref()
                .is_some_and(|came| came.source == Some(wallet) && came.created_lt == message.created_lt)
        };
        let mut after_lt = message.created_lt.saturating_sub(1);
        for _ in 0..MAX_PAGES {
            let Some(page) = self.page(to, after_lt).await? else { return Ok(None) };
            let more = (page.len() >= MAX_TRANSACTIONS_PER_CALL).then(|| page.last().map(|last| last.id.lt));
            if let Some(found) = page.into_iter().find(arrived) {
                return Ok(Some(found));
            }
            match more.flatten() {
                Some(lt) => after_lt = lt,
                None => break,
            }
        }
        Ok(None)
    }

    /// All of the wallet's transactions after the one and up to the other logical time; `None` while the chain does
    /// not list them up to there.
    async fn history(&self, after_lt: u64, last_lt: u64) -> Result<Option<Vec<Transaction>>, SendError> {
        let mut history: Vec<Transaction> = Vec::new();
        let mut reached = after_lt;
        for _ in 0..MAX_PAGES {
            if reached >= last_lt {
                return Ok(Some(history));
            }
            let Some(page) = self.page(self.wallet.address(), reached).await? else { return Ok(None) };
            let Some(last) = page.last() else { return Ok(None) };
            reached = last.id.lt;
            history.extend(page);
        }
        Ok((reached >= last_lt).then_some(history))
    }

    /// Some transactions; `None` where the chain cannot be asked just now.
    async fn page(&self, address: Address, after_lt: u64) -> Result<Option<Vec<Transaction>>, SendError> {
        match self.chain.transactions_since(address, after_lt, MAX_TRANSACTIONS_PER_CALL).await {
            Ok(page) => Ok(Some(page)),
            Err(error @ ChainError::Unavailable { .. }) => {
                tracing::debug!(%error, "transactions cannot be read; asking again");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Messages that go on inside the chain.
fn inside(transaction: &Transaction) -> impl Iterator<Item = &Message> {
    transaction.out_messages.iter().filter(|message| message.destination.is_some())
}

fn is_of_plan(message: &Message, plan: &OutMessage) -> bool {
    let body = plan.body.clone().unwrap_or_default();
    message.destination == Some(plan.to) && message.body.repr_hash() == body.repr_hash()
}
