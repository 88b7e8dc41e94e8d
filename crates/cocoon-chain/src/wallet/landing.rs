//! Whether what a wallet sent has arrived: its receiver has a transaction for it.

use std::collections::{HashSet, VecDeque};

use cocoon_ton::{Address, Cell, OutMessage};
use tokio::time::Instant;

use super::{Landing, SendError, WalletDriver, WalletView};
use crate::{ChainError, MAX_TRANSACTIONS_PER_CALL, Message, Transaction};

/// How far back, in logical time, a driver that has just begun looks for messages under way: a thousand blocks in
/// which little happens, which are many minutes.
pub const LT_LOOKED_BACK: u64 = 1_000_000_000;
/// How long a message may be under way, in seconds of the chain's time. What left no trace for so long leaves none.
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
    /// Messages that those caused, by the same.
    answers: HashSet<u64>,
}

impl Arrived {
    fn landed(&mut self, message: &Message, at: &Transaction) {
        self.messages.insert(message.created_lt);
        self.answers.extend(at.out_messages.iter().map(|answer| answer.created_lt));
    }

    /// Whether the message came back, by the wallet's later transactions. Only for messages that are not listed where
    /// they went: an account that does not exist has no list.
    fn came_back(&mut self, message: &Message, later: &[Transaction]) -> bool {
        let returned = later.iter().filter_map(|transaction| transaction.in_message.as_ref()).find(|came| {
            came.bounced
                && came.source == message.destination
                && came.created_lt > message.created_lt
                && !self.answers.contains(&came.created_lt)
        });
        if let Some(came) = returned {
            self.messages.insert(message.created_lt);
            self.answers.insert(came.created_lt);
        }
        returned.is_some()
    }
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
        let Some((history, whole)) = self.history(after_lt, last_lt).await? else { return Ok(false) };
        let recent = |transaction: &&Transaction| {
            transaction.unix_time.saturating_add(SECONDS_UNDER_WAY) >= view.at.unix_time
        };
        for message in history.iter().filter(recent).flat_map(inside) {
            if arrived.messages.contains(&message.created_lt) {
                continue;
            }
            match self.landing(message).await? {
                Some(at) => arrived.landed(message, &at),
                None if arrived.came_back(message, &history) => {}
                None => return Ok(false),
            }
        }
        let up_to_lt = history.last().map_or(last_lt, |newest| newest.id.lt);
        *arrived = Arrived { up_to_lt: arrived.up_to_lt.max(up_to_lt), ..Arrived::default() };
        // Where so much has come in that this was a part only, the next look begins after it.
        Ok(whole)
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
        let Some((history, whole)) = self.history(after_lt, last.lt).await? else { return Ok(None) };
        let ours = |transaction: &Transaction| {
            transaction.in_message.as_ref().is_some_and(|message| {
                message.source.is_none() && message.body.repr_hash() == body.repr_hash()
            })
        };
        match history.into_iter().find(ours) {
            None if whole => Err(self.overtaken(before.seqno)),
            found => Ok(found),
        }
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
            let landing = match sent.front().copied().filter(|message| is_of_plan(message, plan)) {
                None => Landing { to: plan.to, transaction: None, came_back: false },
                Some(message) => {
                    sent.pop_front();
                    self.await_landing(transaction, message, deadline, arrived).await?
                }
            };
            landed.push(landing);
        }
        Ok(landed)
    }

    async fn await_landing(
        &self,
        transaction: &Transaction,
        message: &Message,
        deadline: Instant,
        arrived: &mut Arrived,
    ) -> Result<Landing, SendError> {
        let to = message.destination.unwrap_or(transaction.account);
        let mut pause = self.pause();
        loop {
            if let Some(at) = self.landing(message).await? {
                arrived.landed(message, &at);
                return Ok(Landing { to, transaction: Some(at), came_back: false });
            }
            self.wait(&mut pause, deadline).await?;
            let later = self.page(self.wallet.address(), transaction.id.lt).await?.unwrap_or_default();
            // It may have become known just now where it went.
            if self.landing(message).await?.is_none() && arrived.came_back(message, &later) {
                return Ok(Landing { to, transaction: None, came_back: true });
            }
        }
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

    /// The wallet's transactions after the one and up to the other logical time, and whether these are all: the oldest of
    /// [`MAX_PAGES`] pages otherwise. `None` while the chain does not list them up to there.
    async fn history(
        &self,
        after_lt: u64,
        last_lt: u64,
    ) -> Result<Option<(Vec<Transaction>, bool)>, SendError> {
        let mut history: Vec<Transaction> = Vec::new();
        let mut reached = after_lt;
        for _ in 0..MAX_PAGES {
            if reached >= last_lt {
                return Ok(Some((history, true)));
            }
            let Some(page) = self.page(self.wallet.address(), reached).await? else { return Ok(None) };
            let Some(last) = page.last() else { return Ok(None) };
            reached = last.id.lt;
            history.extend(page);
        }
        Ok(Some((history, reached >= last_lt)))
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
