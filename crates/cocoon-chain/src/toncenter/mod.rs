//! A chain behind a server that speaks toncenter's HTTP API, version 2: <https://toncenter.com>, a server of one's own, or
//! an embedded chain.
//!
//! # What is believed
//! The server proves nothing, so every answer is its word ([`AccountState::proven`] is false). It is held to it, though:
//! a history must hang together by the hashes of its transactions, from the newest one down, so nothing can be left out
//! of it or put into it; what was told once cannot be taken back; and an answer from before an earlier one is not taken,
//! but asked for again. What is left to a lying server is to keep silent about the newest, and to tell a false state.
//! For coins that are worth something, use a server of one's own or of somebody trusted.
//!
//! # Limits
//! Every request is bounded in time and size, every call has a deadline, and requests follow each other no faster than
//! the server allows; see [`ToncenterOptions`]. Failures that pass (no connection, status 429 or over 499) are tried
//! again with growing pauses, all others are not.

mod answer;
mod endpoint;
mod failure;
mod follow;
mod history;
mod http;
mod marks;
mod pace;
mod server;
mod stack;
mod trail;

use std::sync::Arc;
use std::time::Duration;

use cocoon_ton::cell::decode_boc;
use cocoon_ton::{Address, RootConfig};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use zeroize::Zeroizing;

use self::endpoint::Endpoint;
use self::failure::Kind;
use self::follow::follow;
use self::server::{Server, parsed};
use self::stack::RunResult;
use crate::root::origin;
use crate::types::{
    AccountState, BlockRef, GetMethodResult, MessageHash, StackItem, Transaction, TransactionId,
};
use crate::{Chain, ChainError, MAX_TRANSACTIONS_PER_CALL, read_root};

/// Most requests that are under way at the same time. Times [`ToncenterOptions::max_answer_bytes`] it bounds the memory.
pub const MAX_CONCURRENT_REQUESTS: usize = 16;
/// Most accounts that can be listened to at the same time. Each costs one request per poll.
pub const MAX_SUBSCRIPTIONS: usize = 1_000;
/// Most requests that one call of [`Chain::transactions_since`] makes, each for 100 transactions. The server tells
/// the newest first, so a call reads all that came after its start, however few it gives. A longer history takes several
/// calls: all but the last fail with [`ChainError::Unavailable`], and each goes on where the one before it ended.
pub const MAX_HISTORY_PAGES: usize = 100;
/// Largest external message, in bytes: the public network's limit.
pub const MAX_EXTERNAL_MESSAGE_BYTES: usize = 65_535;
/// Requests per second that the public service allows without an API key, and with one of its free plan.
pub const REQUESTS_PER_SECOND: (f64, f64) = (1.0, 10.0);
/// Shortest time between two polls of an account.
pub const MIN_POLL_EVERY: Duration = Duration::from_millis(20);

/// Where the server is and how to treat it.
#[derive(Clone)]
pub struct ToncenterOptions {
    /// `https://toncenter.com/api/v2` or `http://127.0.0.1:8081`; `/api/v2` is added where it is missing.
    pub url: String,
    /// Sent as the header `X-API-Key`, over TLS or to this machine only; never in a URL or a log.
    pub api_key: Option<Zeroizing<String>>,
    /// The root contract.
    pub root: Address,
    /// How often the root contract and each account that is listened to are asked for; at least [`MIN_POLL_EVERY`].
    /// Takes longer where [`Self::requests_per_second`] does not allow it.
    pub poll_every: Duration,
    /// How many requests may be sent in a second; infinity for no limit. `None`: [`REQUESTS_PER_SECOND`], without a limit
    /// for a server on this machine.
    pub requests_per_second: Option<f64>,
    /// Longest time for one request, from dialling to the last byte of its answer.
    pub timeout: Duration,
    /// Longest time for one call with all its requests, pauses and waiting for its turn.
    pub deadline: Duration,
    /// Largest answer, in bytes.
    pub max_answer_bytes: usize,
    /// Whether this node belongs to a network whose coins are worth nothing. The root contract must say the same.
    pub is_testnet: bool,
}

impl ToncenterOptions {
    /// Polls every 5 s; 10 s for a request, 60 s for a call, 8 MiB for an answer.
    pub fn new(url: impl Into<String>, root: Address, is_testnet: bool) -> Self {
        Self {
            url: url.into(),
            api_key: None,
            root,
            poll_every: Duration::from_secs(5),
            requests_per_second: None,
            timeout: Duration::from_secs(10),
            deadline: Duration::from_secs(60),
            max_answer_bytes: 8 << 20,
            is_testnet,
        }
    }
}

impl std::fmt::Debug for ToncenterOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ToncenterOptions")
            .field("url", &self.url)
            .field("has_api_key", &self.api_key.is_some())
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

/// A chain as a server tells it. Cloning gives another handle; polling ends with the last one.
#[derive(Debug, Clone)]
pub struct ToncenterChain {
    server: Arc<Server>,
    root: watch::Receiver<Arc<RootConfig>>,
    /// `None` without a root contract.
    _polling: Option<Arc<Polling>>,
}

/// The task that polls; it ends with this.
#[derive(Debug)]
struct Polling(AbortHandle);

impl Drop for Polling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The server, not asked anything yet.
fn reach(options: &ToncenterOptions) -> Result<Arc<Server>, ChainError> {
    let endpoint = Endpoint::parse(&options.url)?;
    if options.api_key.is_some() && !endpoint.is_encrypted && !endpoint.is_loopback {
        return Err(ChainError::Unsupported {
            what: "sending the API key in the clear",
            hint: "use an https:// URL, or leave the key out",
        });
    }
    Ok(Arc::new(Server::new(&endpoint, options)?))
}

impl ToncenterChain {
    /// Reads the root contract and begins to poll. Needs a running tokio runtime.
    ///
    /// # Errors
    /// * [`ChainError::Unsupported`] for a URL or key that cannot be used.
    /// * [`ChainError::NotFound`], [`ChainError::Root`], [`ChainError::FeeOverPrice`] or [`ChainError::OtherNetwork`] for
    ///   a root contract that cannot be used.
    /// * [`ChainError::Unavailable`], [`ChainError::BadAnswer`].
    pub async fn open(options: ToncenterOptions) -> Result<Self, ChainError> {
        let server = reach(&options)?;
        let address = options.root;
        let state = server.account(address).await?;
        let config = read_root(address, state.data.as_ref())?;
        if config.params.is_test != options.is_testnet {
            let is_test = config.params.is_test;
            return Err(ChainError::OtherNetwork { origin: origin(address), is_test });
        }
        let (sender, root) = watch::channel(Arc::new(config));
        let poll_every = options.poll_every.max(MIN_POLL_EVERY);
        let polling = tokio::spawn(follow(Arc::clone(&server), address, sender, poll_every));
        Ok(Self { server, root, _polling: Some(Arc::new(Polling(polling.abort_handle()))) })
    }

    /// Without a root contract, for what reads accounts and sends messages where none is deployed yet: nothing is asked
    /// for, [`ToncenterOptions::root`] and [`ToncenterOptions::is_testnet`] are not looked at, and
    /// [`Chain::subscribe_root`] has a configuration without entries that never changes.
    ///
    /// # Errors
    /// [`ChainError::Unsupported`] for a URL or key that cannot be used.
    pub fn without_root(options: &ToncenterOptions) -> Result<Self, ChainError> {
        let (_, root) = watch::channel(Arc::new(RootConfig::test_mode(options.root)));
        Ok(Self { server: reach(options)?, root, _polling: None })
    }

    async fn run(
        &self,
        address: Address,
        method: &str,
        stack: &[StackItem],
    ) -> Result<GetMethodResult, ChainError> {
        let deadline = self.server.deadline();
        let params = json!({
            "address": address.to_raw_string(),
            "method": method,
            "stack": stack::write(stack)?,
        });
        let result = self.server.ask(deadline, "runGetMethod", &params).await?;
        let result: RunResult<'_> = parsed(&result)?;
        let newest = self.server.marks().newest_block();
        let seqno = result.block_id.as_ref().map_or(newest.seqno, |block| block.seqno);
        Ok(GetMethodResult {
            at: BlockRef { seqno, unix_time: newest.unix_time },
            exit_code: result.exit_code,
            gas_used: result.gas_used(),
            stack: result.stack()?,
        })
    }

    async fn send_message(&self, boc: Vec<u8>) -> Result<MessageHash, ChainError> {
        let message = decode_boc(&boc, MAX_EXTERNAL_MESSAGE_BYTES)
            .map_err(|error| ChainError::Refused { reason: error.to_string() })?;
        let Err(failure) = self.server.send(&boc).await else {
            return Ok(MessageHash(message.repr_hash().0));
        };
        match failure.kind {
            Kind::Duplicate => Ok(MessageHash(message.repr_hash().0)),
            Kind::Refused | Kind::Request if failure.may_have_worked => {
                let reason = format!(
                    "an earlier try to send the message may have worked, though the last one was refused: {}",
                    failure.reason
                );
                Err(ChainError::Unavailable { reason, retry_after: None })
            }
            Kind::Refused | Kind::Request => Err(ChainError::Refused { reason: failure.reason }),
            _ => Err(failure.into()),
        }
    }
}

impl Chain for ToncenterChain {
    /// A state that cannot be used, and one of another network, owner or unique id than the first one, leaves the last one
    /// in force.
    fn subscribe_root(&self) -> watch::Receiver<Arc<RootConfig>> {
        self.root.clone()
    }

    fn account_state(&self, address: Address) -> BoxFuture<'_, Result<AccountState, ChainError>> {
        self.server.account(address).boxed()
    }

    /// Reads all transactions after `after_lt`, and gives the oldest of them. Where these are more than
    /// [`MAX_HISTORY_PAGES`] times 100, it fails at first, and goes on when it is called again.
    fn transactions_since(
        &self,
        address: Address,
        after_lt: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Transaction>, ChainError>> {
        let limit = limit.min(MAX_TRANSACTIONS_PER_CALL);
        async move { history::read(&self.server, address, after_lt, limit).await }.boxed()
    }

    /// A slice among the top-level values arrives as a cell, because the server does not tell them apart. Where it does not
    /// tell the block, that is the newest one heard of; the block's time always is.
    fn run_get_method<'a>(
        &'a self,
        address: Address,
        method: &'a str,
        stack: Vec<StackItem>,
    ) -> BoxFuture<'a, Result<GetMethodResult, ChainError>> {
        async move { self.run(address, method, &stack).await }.boxed()
    }

    /// Success is also that the server knows the message already.
    fn send(&self, boc: Vec<u8>) -> BoxFuture<'_, Result<MessageHash, ChainError>> {
        self.send_message(boc).boxed()
    }

    /// The first value is what was heard of the account before, perhaps nothing; the next one comes with the first poll,
    /// which is made at once.
    fn subscribe(&self, address: Address) -> Result<watch::Receiver<Option<TransactionId>>, ChainError> {
        self.server.subscribe(address)
    }
}
