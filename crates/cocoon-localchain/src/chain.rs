//! The chain as async code sees it.

use std::sync::Arc;
use std::sync::mpsc::TrySendError;
use std::time::Duration;

use cocoon_chain::{
    AccountState, Chain, ChainError, GetMethodResult, MAX_TRANSACTIONS_PER_CALL, MessageHash, StackItem,
    Transaction, TransactionId,
};
use cocoon_ton::{Address, Cell, RootConfig};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{oneshot, watch};

use crate::core::{
    BlockHeader, CommittedTransaction, Draft, Fees, GrantError, SubmitError, Supply, method_id,
};
use crate::decode::decode_transaction;
use crate::node::{Call, MAX_WAITING_CALLS, Node, OpenError, Options, Running, ended, read_root, start};
use crate::store::Span;
use crate::{ExternalMessage, MAX_TRANSACTIONS_PER_BLOCK};

/// When to call again while too many calls wait.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// A running chain. Cloning gives another handle to the same chain, which ends with its last handle or when one of them
/// closes it.
#[derive(Clone)]
pub struct LocalChain {
    running: Running,
}

/// A point in the chain's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// A logical time.
    Logical(u64),
    /// A Unix time, in seconds.
    Unix(u32),
}

impl std::fmt::Debug for LocalChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalChain").finish_non_exhaustive()
    }
}

impl LocalChain {
    /// Opens or creates a chain and runs it on a thread of its own. Waits for the disk.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        Ok(Self { running: start(options)? })
    }

    /// Ends the chain for all its handles, and waits until its file is closed: another process, or this one, can open it
    /// at once. Calls of other handles that wait for their turn, and all later ones, are answered that the chain has
    /// ended; listeners learn it too. Dropping the last handle ends the chain as well, without waiting for it.
    pub async fn close(self) {
        let Running { calls, mut failed, .. } = self.running;
        let mut close: Call = Box::new(Node::close);
        while let Err(TrySendError::Full(again)) = calls.try_send(close) {
            close = again;
            tokio::time::sleep(RETRY_AFTER).await;
        }
        drop(calls);
        // An error says that the thread is gone, and the file closed.
        while failed.changed().await.is_ok() {}
    }

    /// Waits until the chain cannot go on, and says why. A full disk is no reason: that is waited for.
    pub async fn stopped(&self) -> String {
        let mut failed = self.running.failed.clone();
        let failure = failed.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        failure.unwrap_or_else(|| ended().to_string())
    }

    /// Has the faucet send coins to `to`.
    ///
    /// # Errors
    /// [`ChainError::Refused`] for nothing or more than the faucet has, [`ChainError::Unavailable`].
    pub async fn grant(&self, to: Address, nanoton: u64) -> Result<(), ChainError> {
        self.call(move |node| {
            node.core.grant(to, nanoton).map_err(|error| match error {
                GrantError::Amount { .. } => ChainError::Refused { reason: error.to_string() },
                GrantError::Overloaded => busy(error.to_string()),
            })?;
            node.after_input()
        })
        .await
    }

    /// Takes a message for the next block, as [`Chain::send`] does.
    ///
    /// # Errors
    /// [`ChainError::Refused`] where the contract does not accept it, [`ChainError::Unavailable`].
    pub async fn submit(&self, message: ExternalMessage) -> Result<MessageHash, ChainError> {
        self.call(move |node| {
            let now = node.now();
            let hash = node.core.submit(message, now).map_err(|error| match error {
                SubmitError::Refused(reason) => ChainError::Refused { reason: reason.to_string() },
                SubmitError::Overloaded => busy(error.to_string()),
            })?;
            node.after_input()?;
            Ok(MessageHash(hash))
        })
        .await
    }

    /// What a message would cost its receiver if it came next. Nothing changes.
    ///
    /// # Errors
    /// [`ChainError::Refused`] where the contract would not accept it, [`ChainError::Unavailable`].
    pub async fn estimate(&self, draft: Draft) -> Result<Fees, ChainError> {
        self.call(move |node| {
            let estimated = node.core.estimate(&draft, node.now());
            estimated.map_err(|reason| ChainError::Refused { reason: reason.to_string() })
        })
        .await
    }

    /// Makes a block now.
    ///
    /// # Errors
    /// [`ChainError::Unavailable`].
    pub async fn produce_block(&self) -> Result<BlockHeader, ChainError> {
        self.call(Node::produce).await
    }

    /// Makes blocks until nothing waits for one, at most [`crate::MAX_BLOCKS_TO_SETTLE`], and gives them.
    ///
    /// # Errors
    /// [`ChainError::Unavailable`].
    pub async fn settle(&self) -> Result<Vec<BlockHeader>, ChainError> {
        self.call(Node::settle).await
    }

    /// Moves the clock on. The next block has the new time; where blocks come with messages only, one is made at once.
    ///
    /// # Errors
    /// [`ChainError::Unavailable`].
    pub async fn advance(&self, seconds: u32) -> Result<BlockHeader, ChainError> {
        self.call(move |node| {
            node.move_clock(seconds);
            node.produce()
        })
        .await
    }

    /// The chain's time, in Unix seconds.
    ///
    /// # Errors
    /// [`ChainError::Unavailable`].
    pub async fn now(&self) -> Result<u32, ChainError> {
        self.call(|node| Ok(node.now())).await
    }

    /// The root of the dictionary of the blockchain configuration's parameters.
    ///
    /// # Errors
    /// [`ChainError::Unavailable`].
    pub async fn config_root(&self) -> Result<Option<Cell>, ChainError> {
        self.call(|node| Ok(node.core.config().root())).await
    }

    /// The newest block.
    ///
    /// # Errors
    /// [`ChainError::Unavailable`].
    pub async fn head(&self) -> Result<BlockHeader, ChainError> {
        self.call(|node| Ok(*node.core.head())).await
    }

    /// The block with that sequence number; `None` where there is none.
    ///
    /// # Errors
    /// [`ChainError::Unavailable`], [`ChainError::BadAnswer`] where the file is damaged.
    pub async fn block(&self, seqno: u32) -> Result<Option<BlockHeader>, ChainError> {
        self.call(move |node| node.store.block(seqno).map_err(damaged)).await
    }

    /// The first block that ends at that moment or after it; `None` where there is none yet.
    ///
    /// # Errors
    /// As [`Self::block`].
    pub async fn block_from(&self, moment: Moment) -> Result<Option<BlockHeader>, ChainError> {
        self.call(move |node| {
            let newest = node.core.head().seqno;
            let reached = |block: &BlockHeader| match moment {
                Moment::Logical(lt) => block.end_lt >= lt,
                Moment::Unix(time) => block.unix_time >= time,
            };
            node.store.first_block(newest, reached).map_err(damaged)
        })
        .await
    }

    /// All transactions of a block, in the order of execution.
    ///
    /// # Errors
    /// As [`Self::block`].
    pub async fn block_transactions(&self, seqno: u32) -> Result<Vec<CommittedTransaction>, ChainError> {
        self.call(move |node| {
            node.store.block_transactions(seqno, MAX_TRANSACTIONS_PER_BLOCK).map_err(damaged)
        })
        .await
    }

    /// Transactions of `address`, newest first, from the logical time `from_lt` down to but without `to_lt`, at most
    /// `limit` and [`MAX_TRANSACTIONS_PER_CALL`].
    ///
    /// # Errors
    /// As [`Self::block`].
    pub async fn history(
        &self,
        address: Address,
        from_lt: u64,
        to_lt: u64,
        limit: usize,
    ) -> Result<Vec<CommittedTransaction>, ChainError> {
        let limit = limit.min(MAX_TRANSACTIONS_PER_CALL);
        self.call(move |node| {
            node.store.transactions(address, Span::From(from_lt, to_lt), limit).map_err(damaged)
        })
        .await
    }

    /// As [`Chain::transactions_since`].
    ///
    /// # Errors
    /// As [`Self::block`].
    pub async fn transactions_since(
        &self,
        address: Address,
        after_lt: u64,
        limit: usize,
    ) -> Result<Vec<Transaction>, ChainError> {
        let limit = limit.min(MAX_TRANSACTIONS_PER_CALL);
        let found = self
            .call(move |node| node.store.transactions(address, Span::After(after_lt), limit).map_err(damaged))
            .await?;
        found.iter().map(|made| decode_transaction(made).map_err(damaged)).collect()
    }

    /// As [`Chain::subscribe`].
    ///
    /// # Errors
    /// [`ChainError::Unavailable`] while [`crate::MAX_SUBSCRIPTIONS`] accounts are listened to.
    pub fn subscribe(&self, address: Address) -> Result<watch::Receiver<Option<TransactionId>>, ChainError> {
        self.running.news.subscribe(address)
    }

    /// Where all coins are. Looks at every account.
    ///
    /// # Errors
    /// [`ChainError::Unavailable`], [`ChainError::BadAnswer`].
    pub async fn supply(&self) -> Result<Supply, ChainError> {
        self.call(|node| node.core.supply().map_err(|error| ChainError::BadAnswer(error.to_string()))).await
    }

    /// The account at `address`, and the hash of its contract where it is frozen.
    ///
    /// # Errors
    /// [`ChainError::Unavailable`], [`ChainError::BadAnswer`].
    pub async fn account(&self, address: Address) -> Result<(AccountState, Option<[u8; 32]>), ChainError> {
        self.call(move |node| {
            let mut state =
                node.core.account(address).map_err(|error| ChainError::BadAnswer(error.to_string()))?;
            // The account is as it would be at this moment. The newest block may be old: where nothing happens, no block
            // is made, and who signs for a minute from its time on would sign for the past.
            state.at.unix_time = node.now().into();
            Ok((state, node.core.frozen_hash(address)))
        })
        .await
    }

    /// Runs the get-method with that number, as [`Chain::run_get_method`] does.
    ///
    /// # Errors
    /// [`ChainError::Refused`] for arguments over the limits, [`ChainError::BadAnswer`] for answers that cannot be
    /// passed on, [`ChainError::Unavailable`].
    pub async fn run_get_method(
        &self,
        address: Address,
        method: u32,
        stack: Vec<StackItem>,
    ) -> Result<GetMethodResult, ChainError> {
        self.call(move |node| {
            let now = node.now();
            node.core
                .run_get_method(address, method, &stack, now)
                .map_err(|error| ChainError::BadAnswer(error.to_string()))
        })
        .await
    }

    /// The chain with the root contract at `address`, which must be deployed.
    ///
    /// # Errors
    /// [`ChainError::NotFound`], [`ChainError::Root`] or [`ChainError::FeeOverPrice`] for a root that cannot be used,
    /// [`ChainError::Unavailable`].
    pub async fn follow_root(&self, address: Address) -> Result<RootedChain, ChainError> {
        let news = Arc::clone(&self.running.news);
        let root =
            self.call(move |node| Ok(news.follow_root(address, read_root(address, &node.core)?))).await?;
        Ok(RootedChain { chain: self.clone(), root })
    }

    /// Runs `work` on the chain's thread.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Node) -> Result<T, ChainError> + Send + 'static,
    ) -> Result<T, ChainError> {
        let (answer, answered) = oneshot::channel();
        let call: Call = Box::new(move |node| {
            // Nobody may be waiting any more; the work is done all the same.
            let _ = answer.send(node.alive().and_then(|()| work(node)));
        });
        self.running.calls.try_send(call).map_err(|error| match error {
            TrySendError::Full(_) => busy(format!("{MAX_WAITING_CALLS} calls wait for the chain already")),
            TrySendError::Disconnected(_) => ended(),
        })?;
        answered.await.map_err(|_| ended())?
    }
}

/// A running chain and its root contract: what the nodes of a network use.
#[derive(Debug, Clone)]
pub struct RootedChain {
    chain: LocalChain,
    root: watch::Receiver<Arc<RootConfig>>,
}

impl RootedChain {
    /// The chain alone.
    pub const fn chain(&self) -> &LocalChain {
        &self.chain
    }
}

impl Chain for RootedChain {
    fn subscribe_root(&self) -> watch::Receiver<Arc<RootConfig>> {
        self.root.clone()
    }

    fn account_state(&self, address: Address) -> BoxFuture<'_, Result<AccountState, ChainError>> {
        self.chain.account(address).map(|found| Ok(found?.0)).boxed()
    }

    fn transactions_since(
        &self,
        address: Address,
        after_lt: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Transaction>, ChainError>> {
        self.chain.transactions_since(address, after_lt, limit).boxed()
    }

    fn run_get_method<'a>(
        &'a self,
        address: Address,
        method: &'a str,
        stack: Vec<StackItem>,
    ) -> BoxFuture<'a, Result<GetMethodResult, ChainError>> {
        self.chain.run_get_method(address, method_id(method), stack).boxed()
    }

    fn send(&self, boc: Vec<u8>) -> BoxFuture<'_, Result<MessageHash, ChainError>> {
        async move {
            let message = ExternalMessage::from_boc(&boc)
                .map_err(|error| ChainError::Refused { reason: error.to_string() })?;
            self.chain.submit(message).await
        }
        .boxed()
    }

    fn subscribe(&self, address: Address) -> Result<watch::Receiver<Option<TransactionId>>, ChainError> {
        self.chain.subscribe(address)
    }
}

fn busy(reason: String) -> ChainError {
    ChainError::Unavailable { reason, retry_after: Some(RETRY_AFTER) }
}

fn damaged(error: impl std::fmt::Display) -> ChainError {
    ChainError::BadAnswer(error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_chain_without_room_tells_nothing_and_goes_on_once_there_is_room() {
        let directory = tempfile::tempdir().unwrap();
        let path = Some(directory.path().join("chain"));
        let options = Options { path, max_file_bytes: 300_000, ..Options::default() };
        let chain = LocalChain::open(&options).unwrap();
        let receiver = Address::basechain([7; 32]);
        let mut news = chain.subscribe(receiver).unwrap();
        let balance = async || chain.account(receiver).await.map(|found| found.0.balance_nanoton);
        let mut granted = 0;
        let refused = loop {
            news.mark_unchanged();
            match chain.grant(receiver, 1_000_000_000).await {
                Ok(()) => granted = balance().await.unwrap(),
                Err(refused) => break refused.to_string(),
            }
        };
        assert!(refused.contains("make room"), "{refused}");
        assert_eq!(balance().await.unwrap_err().to_string(), refused);
        assert!(!news.has_changed().unwrap(), "nobody is told of what a restart may not find");

        let (done, raised) = oneshot::channel();
        let raise: Call = Box::new(move |node| {
            node.store.raise_limit();
            done.send(()).unwrap();
        });
        chain.running.calls.try_send(raise).unwrap();
        raised.await.unwrap();
        news.changed().await.unwrap();
        assert_eq!(balance().await.unwrap(), granted + 1_000_000_000);
        chain.grant(receiver, 1_000_000_000).await.unwrap();
    }
}
