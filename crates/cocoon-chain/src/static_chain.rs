//! A chain that never moves: the root configuration from a file, balances simulated.
//!
//! This is the published nodes' test mode. No contract exists and no coin moves; every client may spend
//! [`TestModeClient`], every worker contract looks as before its first payment, and every account holds
//! [`SIMULATED_CONTRACT_BALANCE_NANOTON`]. For networks whose coins are worth something, use another [`Chain`].

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use cocoon_ton::contracts::ContractStatus;
use cocoon_ton::root::MAX_PUBLISHED_JSON_BYTES;
use cocoon_ton::{Address, ClientState, NANOTON_PER_TON, RootConfig, RootParams};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;

use crate::root::checked;
use crate::types::{
    AccountState, AccountStatus, BlockRef, ContractView, GetMethodResult, MessageHash, StackItem,
    Transaction, TransactionId,
};
use crate::{Chain, ChainError};

/// What every account holds in test mode: 100 TON, as the published nodes simulate it.
pub const SIMULATED_CONTRACT_BALANCE_NANOTON: u64 = 100 * NANOTON_PER_TON;

const HINT: &str =
    "this network has no chain, only a fixed root configuration; use an embedded or a real chain";

/// What the contract of every client says in test mode.
///
/// The default is what published proxies and clients simulate: a million TON of balance, as much stake, nothing
/// used, and the empty text as the secret of short authorisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TestModeClient {
    /// What the client may spend.
    pub balance_nanoton: u64,
    /// What it cannot withdraw.
    pub stake_nanoton: u64,
    /// SHA-256 of the secret that authorises a client.
    pub secret_hash: [u8; 32],
}

impl Default for TestModeClient {
    fn default() -> Self {
        let million_ton = 1_000_000 * NANOTON_PER_TON;
        Self {
            balance_nanoton: million_ton,
            stake_nanoton: million_ton,
            secret_hash: Sha256::digest(b"").into(),
        }
    }
}

impl TestModeClient {
    /// The same client with another secret.
    #[must_use]
    pub fn with_secret(mut self, secret: &[u8]) -> Self {
        self.secret_hash = Sha256::digest(secret).into();
        self
    }

    /// As its contract would say it under `params`. Test mode has no contracts, so owner, proxy and key are zeros.
    pub fn state(&self, params: &RootParams) -> ClientState {
        ClientState {
            owner: Address::basechain([0; 32]),
            proxy: Address::basechain([0; 32]),
            proxy_public_key: [0; 32],
            status: ContractStatus::Open,
            balance_nanoton: self.balance_nanoton,
            stake_nanoton: self.stake_nanoton,
            tokens_used: 0,
            unlock_unix_time: 0,
            secret_hash: self.secret_hash,
            params: RootParams { proxy_code: None, worker_code: None, client_code: None, ..params.clone() },
        }
    }
}

/// A root configuration from a file or from the program, and simulated balances.
#[derive(Debug)]
pub struct StaticChain {
    path: Option<PathBuf>,
    root: watch::Sender<Arc<RootConfig>>,
    loaded_at: RwLock<BlockRef>,
    client: TestModeClient,
    /// Never changes: no account has transactions.
    newest_transaction: watch::Sender<Option<TransactionId>>,
}

impl StaticChain {
    /// Reads the root configuration from `path`, in the published test-mode form.
    ///
    /// # Errors
    /// [`ChainError::File`], [`ChainError::Root`] or [`ChainError::FeeOverPrice`], each with the path.
    pub async fn from_file(path: impl Into<PathBuf>) -> Result<Self, ChainError> {
        let path = path.into();
        let config = load(&path).await?;
        Ok(Self::new(config, Some(path)))
    }

    /// Takes the root configuration as it is.
    ///
    /// # Errors
    /// [`ChainError::FeeOverPrice`].
    pub fn from_config(config: RootConfig) -> Result<Self, ChainError> {
        Ok(Self::new(checked(config, "the root configuration")?, None))
    }

    /// Lets every client look like `client`.
    #[must_use]
    pub const fn with_test_mode_client(mut self, client: TestModeClient) -> Self {
        self.client = client;
        self
    }

    /// The root configuration now.
    pub fn root(&self) -> Arc<RootConfig> {
        self.root.borrow().clone()
    }

    /// Reads the file again and tells the subscribers if something changed; returns whether it did. When the file
    /// cannot be used, the configuration stays as it was.
    ///
    /// # Errors
    /// As [`Self::from_file`], and [`ChainError::Unsupported`] when the configuration did not come from a file.
    pub async fn reload(&self) -> Result<bool, ChainError> {
        let path = self.path.as_deref().ok_or(ChainError::Unsupported {
            what: "reloading the root configuration",
            hint: "it did not come from a file; replace it instead",
        })?;
        Ok(self.put(load(path).await?))
    }

    /// Puts another root configuration in place and tells the subscribers if something changed; returns whether it
    /// did.
    ///
    /// # Errors
    /// [`ChainError::FeeOverPrice`].
    pub fn replace(&self, config: RootConfig) -> Result<bool, ChainError> {
        Ok(self.put(checked(config, "the root configuration")?))
    }

    fn new(config: RootConfig, path: Option<PathBuf>) -> Self {
        Self {
            path,
            root: watch::Sender::new(Arc::new(config)),
            loaded_at: RwLock::new(now()),
            client: TestModeClient::default(),
            newest_transaction: watch::Sender::new(None),
        }
    }

    fn put(&self, config: RootConfig) -> bool {
        *self.loaded_at.write().unwrap_or_else(PoisonError::into_inner) = now();
        self.root.send_if_modified(|current| {
            let changed = **current != config;
            if changed {
                *current = Arc::new(config);
            }
            changed
        })
    }

    fn at(&self) -> BlockRef {
        *self.loaded_at.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn view<T>(&self, state: Option<T>) -> ContractView<T> {
        ContractView {
            at: self.at(),
            proven: false,
            balance_nanoton: SIMULATED_CONTRACT_BALANCE_NANOTON,
            state,
        }
    }
}

impl Chain for StaticChain {
    fn subscribe_root(&self) -> watch::Receiver<Arc<RootConfig>> {
        self.root.subscribe()
    }

    /// Every account exists and holds [`SIMULATED_CONTRACT_BALANCE_NANOTON`]; its code and data are unknown. What a
    /// client contract says in test mode comes from [`Chain::client_state`].
    fn account_state(&self, _address: Address) -> BoxFuture<'_, Result<AccountState, ChainError>> {
        let state = AccountState {
            at: self.at(),
            proven: false,
            balance_nanoton: SIMULATED_CONTRACT_BALANCE_NANOTON,
            status: AccountStatus::Active,
            code: None,
            data: None,
            last_transaction: None,
        };
        ready(Ok(state)).boxed()
    }

    /// None, ever.
    fn transactions_since(
        &self,
        _address: Address,
        _after_lt: u64,
        _limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Transaction>, ChainError>> {
        ready(Ok(Vec::new())).boxed()
    }

    fn run_get_method<'a>(
        &'a self,
        _address: Address,
        _method: &'a str,
        _stack: Vec<StackItem>,
    ) -> BoxFuture<'a, Result<GetMethodResult, ChainError>> {
        ready(Err(ChainError::Unsupported { what: "running a get-method", hint: HINT })).boxed()
    }

    fn send(&self, _boc: Vec<u8>) -> BoxFuture<'_, Result<MessageHash, ChainError>> {
        ready(Err(ChainError::Unsupported { what: "sending a message", hint: HINT })).boxed()
    }

    fn subscribe(&self, _address: Address) -> Result<watch::Receiver<Option<TransactionId>>, ChainError> {
        Ok(self.newest_transaction.subscribe())
    }

    fn client_state(
        &self,
        _address: Address,
    ) -> BoxFuture<'_, Result<ContractView<ClientState>, ChainError>> {
        ready(Ok(self.view(Some(self.client.state(&self.root().params))))).boxed()
    }
}

async fn load(path: &Path) -> Result<RootConfig, ChainError> {
    let origin = path.display().to_string();
    let file_error = |source| ChainError::File { path: origin.clone(), source };
    let file = tokio::fs::File::open(path).await.map_err(file_error)?;
    // One byte over the limit, so that a longer file is noticed and refused by the reader.
    let limit = u64::try_from(MAX_PUBLISHED_JSON_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut text = String::new();
    file.take(limit).read_to_string(&mut text).await.map_err(file_error)?;
    let config = RootConfig::from_published_json(&text)
        .map_err(|source| ChainError::Root { origin: origin.clone(), source })?;
    checked(config, &origin)
}

fn now() -> BlockRef {
    // A clock before 1970 is as wrong as it gets; zero makes everything look old, which is the safe side.
    let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    BlockRef { seqno: 0, unix_time }
}
