//! The chain as nodes see it: accounts, transactions, get-methods, messages, and the root contract's configuration.
//!
//! [`Chain`] is the one trait behind which every way to reach a chain stands. [`StaticChain`] is the simplest: a root
//! configuration from a file, and balances simulated as published nodes do in test mode. [`ToncenterChain`] asks a server
//! that speaks toncenter's HTTP API: a public network's or an embedded chain's. Implementations with heavy dependencies
//! are crates of their own.

mod decode;
mod root;
pub mod settler;
mod static_chain;
pub mod toncenter;
mod types;
pub mod wallet;

use std::sync::Arc;
use std::time::Duration;

use cocoon_ton::{Address, CellError, ClientState, RootConfig, RootConfigError, WorkerState};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

pub use decode::{DecodeError, DecodedTransaction, decode_transaction};
pub use root::read_root;
pub use static_chain::{SIMULATED_CONTRACT_BALANCE_NANOTON, StaticChain, TestModeClient};
pub use toncenter::{ToncenterChain, ToncenterOptions};
pub use types::{
    AccountState, AccountStatus, BlockRef, Compute, ContractView, GetMethodResult, Message, MessageHash,
    SkipReason, StackInt, StackItem, Transaction, TransactionId,
};
pub use wallet::{Landing, SendError, Sent, Timing, WalletDriver, WalletView};

/// Most transactions that one call of [`Chain::transactions_since`] returns.
pub const MAX_TRANSACTIONS_PER_CALL: usize = 256;

/// A view of the chain.
///
/// Every answer about an account says from which block it is and whether it is proven, because money decisions depend
/// on both. Implementations are shared between tasks and may be called from any number of them.
pub trait Chain: Send + Sync + std::fmt::Debug {
    /// The root contract's configuration now, and each new one.
    fn subscribe_root(&self) -> watch::Receiver<Arc<RootConfig>>;

    /// The account at `address`. An account that does not exist is a state ([`AccountStatus::NonExistent`]), no error.
    fn account_state(&self, address: Address) -> BoxFuture<'_, Result<AccountState, ChainError>>;

    /// Transactions of `address` with a logical time over `after_lt`, oldest first, at most `limit` and
    /// [`MAX_TRANSACTIONS_PER_CALL`]; call again with the last one's logical time for more. Includes those whose
    /// compute phase was skipped: the contracts' notices are messages of one nanoton, which pay for no gas.
    fn transactions_since(
        &self,
        address: Address,
        after_lt: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Transaction>, ChainError>>;

    /// Runs the get-method `method` of the contract at `address`. A method that fails is an answer with that exit
    /// code, no error.
    fn run_get_method<'a>(
        &'a self,
        address: Address,
        method: &'a str,
        stack: Vec<StackItem>,
    ) -> BoxFuture<'a, Result<GetMethodResult, ChainError>>;

    /// Sends an external message, a bag of cells. Success means that the chain took the message, not that a
    /// transaction came of it: watch the receiver's transactions for that.
    fn send(&self, boc: Vec<u8>) -> BoxFuture<'_, Result<MessageHash, ChainError>>;

    /// The newest transaction of `address` (`None`: none yet), and each newer one. Values may be skipped, transactions
    /// are not lost: on each change, fetch [`Self::transactions_since`] the last one seen.
    fn subscribe(&self, address: Address) -> Result<watch::Receiver<Option<TransactionId>>, ChainError>;

    /// What the client contract at `address` knows. `None` where it is not deployed.
    fn client_state(&self, address: Address) -> BoxFuture<'_, Result<ContractView<ClientState>, ChainError>> {
        self.account_state(address)
            .map(move |state| contract_view(address, state?, ClientState::from_data))
            .boxed()
    }

    /// What the worker contract at `address` knows. `None` where it is not deployed.
    fn worker_state(&self, address: Address) -> BoxFuture<'_, Result<ContractView<WorkerState>, ChainError>> {
        self.account_state(address)
            .map(move |state| contract_view(address, state?, WorkerState::from_data))
            .boxed()
    }
}

fn contract_view<T>(
    address: Address,
    account: AccountState,
    read: impl FnOnce(&cocoon_ton::Cell) -> Result<T, CellError>,
) -> Result<ContractView<T>, ChainError> {
    let state = account
        .data
        .as_ref()
        .map(read)
        .transpose()
        .map_err(|source| ChainError::UnexpectedData { address, source })?;
    Ok(ContractView {
        at: account.at,
        proven: account.proven,
        balance_nanoton: account.balance_nanoton,
        state,
    })
}

/// Why the chain could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// This implementation cannot do that at all.
    #[error("{what} is not possible here: {hint}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// Why not, and what to use instead.
        hint: &'static str,
    },
    /// The thing asked for does not exist.
    #[error("{0} was not found on the chain")]
    NotFound(String),
    /// The chain cannot be reached or is overloaded; the same call may succeed later.
    #[error("the chain cannot be reached: {reason}")]
    Unavailable {
        /// What happened.
        reason: String,
        /// When to try again, where the other side said so.
        retry_after: Option<Duration>,
    },
    /// The chain refused the message.
    #[error("the chain refused the message: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
    /// The other side answered something that cannot be.
    #[error("the chain's answer makes no sense: {0}")]
    BadAnswer(String),
    /// A contract's data does not have the layout of such a contract.
    #[error("the data of {address} does not fit: {source}")]
    UnexpectedData {
        /// The account.
        address: Address,
        /// What does not fit.
        source: CellError,
    },
    /// The root configuration cannot be used.
    #[error("{origin}: {source}")]
    Root {
        /// The file, or how else it came.
        origin: String,
        /// What is wrong with it.
        source: RootConfigError,
    },
    /// The root contract belongs to the other kind of network.
    #[error(
        "{origin} says that it belongs to a {} network, but this node is set up for a {} one; \
         set the right root contract or the right network",
        network(*.is_test), network(!*.is_test)
    )]
    OtherNetwork {
        /// The root contract.
        origin: String,
        /// What it says: whether coins are worth nothing there.
        is_test: bool,
    },
    /// The prices of the root configuration contradict each other.
    #[error(
        "{origin}: worker_fee_per_token ({worker_fee_nanoton}) is over price_per_token ({price_nanoton}): \
         the proxy would pay more than it takes; lower the fee or raise the price"
    )]
    FeeOverPrice {
        /// The file, or how else it came.
        origin: String,
        /// What a client pays.
        price_nanoton: u64,
        /// What a worker gets.
        worker_fee_nanoton: u64,
    },
    /// A file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
}

const fn network(is_test: bool) -> &'static str {
    if is_test { "test" } else { "main" }
}
