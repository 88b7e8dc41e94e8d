//! An account's transactions, from the newest down, each proven by the hash that the one after it names.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_ton::Address;
use serde_json::json;
use tokio::time::Instant;

use super::MAX_HISTORY_PAGES;
use super::answer::Item;
use super::failure::{Failure, Kind};
use super::server::{Patience, Server, Wrong, parsed};
use super::trail::{MAX_PLACES, STRIDE, Start, Trail};
use crate::ChainError;
use crate::decode::DecodedTransaction;
use crate::types::{Transaction, TransactionId};

/// Transactions per request: the most that servers give.
const PAGE: usize = 100;

/// The oldest `limit` transactions of `account` after `after_lt`, oldest first.
pub(super) async fn read(
    server: &Server,
    account: Address,
    after_lt: u64,
    limit: usize,
) -> Result<Vec<Transaction>, ChainError> {
    let deadline = server.deadline();
    let mut patience = Patience::default();
    loop {
        let start = server.trails().start(account, after_lt, limit);
        let is_end = matches!(start, Start::End(_));
        let (next, trail) = match start {
            Start::Top => (None, Some(Trail::default())),
            Start::Place(place) => (Some(place), None),
            Start::End(trail) => (trail.places.last().copied(), Some(trail)),
        };
        let mut walk = Walk {
            server,
            account,
            after_lt,
            limit,
            deadline,
            known: server.marks().last(account).filter(|known| known.lt > after_lt),
            next,
            trail,
            since_place: 0,
            steps: 0,
            archival: false,
            kept: VecDeque::new(),
        };
        let outcome = walk.down().await;
        match (walk.trail.take(), walk.steps) {
            // A trail that leads nowhere may be that of another history.
            (_, 0) => server.trails().forget(account),
            (Some(mut trail), _) => {
                trail.down_to = outcome.is_ok().then_some(after_lt);
                server.trails().keep(account, trail);
            }
            (None, _) => {}
        }
        match outcome {
            // The end of the trail is reached, but those above may belong to the oldest ones, too.
            Ok(()) if is_end && walk.kept.len() < limit => {}
            Ok(()) => return Ok(walk.kept.into_iter().rev().collect()),
            Err(wrong) => patience.wait(wrong, deadline).await?,
        }
    }
}

/// The way down one history.
struct Walk<'a> {
    server: &'a Server,
    account: Address,
    after_lt: u64,
    limit: usize,
    deadline: Instant,
    /// A transaction that was heard of, which the way must lead over.
    known: Option<TransactionId>,
    /// Which transaction must come next; `None` at the beginning.
    next: Option<TransactionId>,
    /// Remembers the way, for the next call; `None` where that is done already.
    trail: Option<Trail>,
    /// Steps since the last place on the trail.
    since_place: usize,
    steps: usize,
    /// Whether to ask for servers with the full history.
    archival: bool,
    /// The oldest ones so far, the newest first.
    kept: VecDeque<Transaction>,
}

impl Walk<'_> {
    async fn down(&mut self) -> Result<(), Wrong> {
        for _ in 0..MAX_HISTORY_PAGES {
            let page = match self.page().await {
                // Some servers fail where there is nothing yet.
                Err(failure) if self.next.is_none() && self.is_nothing(&failure).await? => Vec::new(),
                page => page?,
            };
            if page.is_empty() {
                return self.nothing_more();
            }
            for item in page {
                if self.step(item.read(self.account)?)? {
                    return Ok(());
                }
            }
        }
        let reason = format!(
            "the history of {} is long: {} transactions more were read, and the next call goes on from there",
            self.account, self.steps
        );
        Err(Wrong::Final(ChainError::Unavailable { reason, retry_after: None }))
    }

    async fn page(&mut self) -> Result<Vec<Item>, Failure> {
        loop {
            let mut params = json!({
                "address": self.account.to_raw_string(),
                "limit": PAGE,
                // Signed at the server's.
                "to_lt": self.after_lt.min(i64::MAX.unsigned_abs()).to_string(),
                "archival": self.archival,
            });
            if let Some(next) = self.next {
                params["lt"] = json!(next.lt.to_string());
                params["hash"] = json!(STANDARD.encode(next.hash));
            }
            match self.server.ask(self.deadline, "getTransactions", &params).await {
                Err(failure) if failure.kind == Kind::Missing && !self.archival => self.archival = true,
                page => return parsed(&page?),
            }
        }
    }

    /// Whether the failure comes from an account without transactions.
    async fn is_nothing(&self, failure: &Failure) -> Result<bool, ChainError> {
        if !matches!(failure.kind, Kind::Missing | Kind::Server | Kind::Request) {
            return Ok(false);
        }
        let state = self.server.account_until(self.account, self.deadline).await?;
        Ok(state.last_transaction.is_none())
    }

    /// The server has no more.
    fn nothing_more(&self) -> Result<(), Wrong> {
        match (self.next, self.known) {
            (Some(next), _) => {
                let reason = format!(
                    "the server does not have the transaction of {} with logical time {}, though the one after it \
                     names it",
                    self.account, next.lt
                );
                Err(Failure::new(Kind::Missing, reason).into())
            }
            (None, Some(known)) => Err(Wrong::Older(format!(
                "went back in time: it has no transaction of {} after logical time {}, after one of {}",
                self.account, self.after_lt, known.lt
            ))),
            (None, None) => Ok(()),
        }
    }

    /// Takes one transaction; returns whether it was the last one.
    fn step(&mut self, decoded: DecodedTransaction) -> Result<bool, Wrong> {
        let DecodedTransaction { transaction, previous } = decoded;
        let id = transaction.id;
        match self.next {
            None => {
                self.server.marks().transaction(self.account, Some(id))?;
                self.server.tell(self.account, Some(id));
                if id.lt <= self.after_lt {
                    return Ok(true);
                }
            }
            Some(next) if next != id => {
                let reason = format!(
                    "the history of {} does not hang together: where the transaction of logical time {} must be, there is \
                     one of {}",
                    self.account, next.lt, id.lt
                );
                return Err(Failure::nonsense(reason).into());
            }
            Some(_) => {}
        }
        let below = previous.map_or(0, |previous| previous.lt);
        if below >= id.lt {
            return Err(Failure::nonsense("a transaction names a later one as the one before it").into());
        }
        if let Some(known) = self.known
            && ((known.lt == id.lt && known.hash != id.hash) || (below < known.lt && known.lt < id.lt))
        {
            let reason = format!(
                "the history of {} leaves out the transaction of logical time {}, which was told before",
                self.account, known.lt
            );
            return Err(Failure::nonsense(reason).into());
        }
        self.remember(id)?;
        if self.kept.len() == self.limit {
            self.kept.pop_front();
        }
        if self.limit > 0 {
            self.kept.push_back(transaction);
        }
        self.next = previous;
        Ok(below <= self.after_lt)
    }

    /// Leaves a mark on the trail now and then.
    fn remember(&mut self, id: TransactionId) -> Result<(), Wrong> {
        self.steps += 1;
        if let Some(trail) = &mut self.trail
            && self.since_place == STRIDE
        {
            if trail.places.len() == MAX_PLACES {
                return Err(Wrong::Final(ChainError::Unsupported {
                    what: "reading that many transactions back",
                    hint: "begin at a later logical time; at most ten million transactions can have come since",
                }));
            }
            trail.places.push(id);
            self.since_place = 0;
        }
        self.since_place += 1;
        Ok(())
    }
}
