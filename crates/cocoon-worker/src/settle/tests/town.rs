//! An embedded chain with a proxy contract or two, behind a line that loses, lies and stalls as a test says.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cocoon_chain::wallet::WalletDriver;
use cocoon_chain::{
    AccountState, Chain, ChainError, GetMethodResult, MessageHash, StackItem, Transaction, TransactionId,
};
use cocoon_localchain::{ExternalMessage, LocalChain, Options, Production, TimeSource, method_id};
use cocoon_session::{PaymentCounters, ProxyTerms};
use cocoon_settle::worker::WorkerPolicy;
use cocoon_ton::contracts::{StructVersion, proxy_state_init, worker_state_init};
use cocoon_ton::message::Body;
use cocoon_ton::payment::{OrderKind, PaymentOrder};
use cocoon_ton::wallet::{OutMessage, Wallet};
use cocoon_ton::{Address, RootConfig, RootParams, SigningKey, StateInit, code};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, pending};
use tempfile::TempDir;
use tokio::sync::{Notify, watch};

use crate::channel::Channels;
use crate::open_store;
use crate::settle::{Settlement, SettlementConfig};

pub(crate) const TON: u64 = 1_000_000_000;
pub(crate) const FEE: u64 = 1_700;
pub(crate) const PROXY_DELAY: u32 = 600;
const START: u32 = 1_780_000_000;
/// Tokens whose fee is a TON and a little.
pub(crate) const ONE_TON_OF_TOKENS: u64 = TON / FEE + 1;
pub(crate) const OWNER: Address = Address::basechain([0x0e; 32]);
pub(crate) const ROOT: Address = Address::basechain([0x07; 32]);

/// What becomes of the next message from outside, when the process that sends it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    BeforeSending,
    AfterSending,
    /// The message is under way, and arrives when [`Line::deliver`] says so.
    MessageUnderWay,
}

/// The chain as the worker sees it.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) chain: LocalChain,
    root: watch::Sender<Arc<RootConfig>>,
    pub(crate) sends: AtomicU64,
    pub(crate) down: AtomicBool,
    pub(crate) stalled: AtomicBool,
    pub(crate) lie: Mutex<Option<(Address, AccountState)>>,
    pub(crate) death: Mutex<Option<Death>>,
    pub(crate) died: Notify,
    late: Mutex<Vec<ExternalMessage>>,
}

impl Line {
    fn new() -> Arc<Self> {
        let (production, time) = (Production::Manual, TimeSource::Fixed(START));
        let mut root = RootConfig::test_mode(ROOT);
        let params = &mut root.params;
        params.struct_version = StructVersion::V3;
        params.price_per_token_nanoton = 2_000;
        params.worker_fee_per_token_nanoton = FEE;
        params.proxy_delay_before_close_seconds = PROXY_DELAY;
        params.proxy_code = Some(code::proxy().clone());
        params.worker_code = Some(code::worker().clone());
        params.client_code = Some(code::client().clone());
        Arc::new(Self {
            chain: LocalChain::open(&Options { production, time, ..Options::default() }).unwrap(),
            root: watch::Sender::new(Arc::new(root)),
            sends: AtomicU64::new(0),
            down: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            lie: Mutex::new(None),
            death: Mutex::new(None),
            died: Notify::new(),
            late: Mutex::new(Vec::new()),
        })
    }

    pub(crate) fn change_root(&self, change: impl FnOnce(&mut RootParams)) {
        self.root.send_modify(|root| change(&mut Arc::make_mut(root).params));
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sends.load(Ordering::SeqCst)
    }

    /// Whatever is under way arrives. The chain may refuse it: its number is used, or its time is over.
    pub(crate) async fn deliver(&self) {
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        for message in late {
            let _ = self.chain.submit(message).await;
            self.chain.settle().await.unwrap();
        }
    }

    pub(crate) async fn account(&self, address: Address) -> AccountState {
        self.chain.account(address).await.unwrap().0
    }

    pub(crate) async fn balance(&self, address: Address) -> u64 {
        self.account(address).await.balance_nanoton
    }

    pub(crate) async fn grant(&self, to: Address, nanoton: u64) {
        self.chain.grant(to, nanoton).await.unwrap();
        self.chain.settle().await.unwrap();
    }

    /// Every message leads to blocks until nothing is left to do.
    async fn take(&self, boc: Vec<u8>) -> Result<MessageHash, ChainError> {
        self.sends.fetch_add(1, Ordering::SeqCst);
        let message = ExternalMessage::from_boc(&boc).unwrap();
        let death = self.death.lock().unwrap().take();
        let taken = match death {
            None | Some(Death::AfterSending) => {
                let taken = self.chain.submit(message).await?;
                self.chain.settle().await?;
                Some(taken)
            }
            Some(Death::BeforeSending) => None,
            Some(Death::MessageUnderWay) => {
                self.late.lock().unwrap().push(message);
                None
            }
        };
        match (taken, death) {
            (Some(taken), None) => Ok(taken),
            _ => {
                self.died.notify_one();
                pending().await
            }
        }
    }
}

impl Chain for Line {
    fn subscribe_root(&self) -> watch::Receiver<Arc<RootConfig>> {
        self.root.subscribe()
    }

    fn account_state(&self, address: Address) -> BoxFuture<'_, Result<AccountState, ChainError>> {
        async move {
            if self.stalled.load(Ordering::SeqCst) {
                return pending().await;
            }
            if self.down.load(Ordering::SeqCst) {
                let reason = "no line".to_owned();
                return Err(ChainError::Unavailable { reason, retry_after: None });
            }
            match &*self.lie.lock().unwrap() {
                Some((of, lie)) if *of == address => return Ok(lie.clone()),
                _ => {}
            }
            Ok(self.chain.account(address).await?.0)
        }
        .boxed()
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
        self.take(boc).boxed()
    }

    fn subscribe(&self, address: Address) -> Result<watch::Receiver<Option<TransactionId>>, ChainError> {
        self.chain.subscribe(address)
    }
}

/// A proxy: a key that signs, and a contract.
#[derive(Debug, Clone)]
pub(crate) struct TestProxy {
    key: SigningKey,
    init: StateInit,
    pub(crate) contract: Address,
    pub(crate) worker: Address,
}

impl TestProxy {
    /// Of the key that it signs with.
    pub(crate) fn seed(number: u8) -> [u8; 32] {
        [number; 32]
    }

    fn new(root: &RootConfig, number: u8, owner: Address) -> Self {
        let key = SigningKey::from_bytes(&Self::seed(number));
        let public_key = key.verifying_key().to_bytes();
        let init = proxy_state_init(&root.params, &ROOT, &owner, &public_key).unwrap();
        let contract = init.address();
        let worker = worker_state_init(&root.params, &OWNER, &contract, &public_key).unwrap().address();
        Self { key, init, contract, worker }
    }

    pub(crate) fn terms(&self) -> ProxyTerms {
        ProxyTerms {
            public_key: self.key.verifying_key().to_bytes(),
            contract: self.contract,
            pair_contract: self.worker,
            proto_version: 2,
            extensions: true,
        }
    }

    pub(crate) fn order(&self, kind: OrderKind, tokens: u64) -> Vec<u8> {
        let excesses_to = Address::basechain([0xee; 32]);
        PaymentOrder { kind, contract: self.worker, query_id: tokens, tokens, excesses_to }
            .sign(&self.key)
            .to_boc()
    }
}

/// The chain, a rich man who deploys and sends what tests want, and a worker's directory.
pub(crate) struct Town {
    pub(crate) line: Arc<Line>,
    rich: WalletDriver,
    pub(crate) rich_address: Address,
    dir: TempDir,
    pub(crate) wallet: Wallet,
}

pub(crate) fn key() -> SigningKey {
    SigningKey::from_bytes(&[0x77; 32])
}

impl Town {
    /// The worker's wallet begins with so much.
    pub(crate) async fn new(wallet_nanoton: u64) -> Self {
        let line = Line::new();
        let rich_key = SigningKey::from_bytes(&[0x99; 32]);
        let rich = Wallet::cocoon(rich_key.verifying_key().to_bytes(), ROOT);
        let rich_address = rich.address();
        line.grant(rich_address, 100_000 * TON).await;
        let wallet = Wallet::cocoon(key().verifying_key().to_bytes(), OWNER);
        if wallet_nanoton > 0 {
            line.grant(wallet.address(), wallet_nanoton).await;
        }
        let rich = WalletDriver::new(Arc::clone(&line) as Arc<dyn Chain>, rich, rich_key);
        Self { line, rich, rich_address, dir: tempfile::tempdir().unwrap(), wallet }
    }

    pub(crate) async fn send(&self, to: Address, nanoton: u64, init: Option<StateInit>, body: Body) {
        let view = self.rich.settled().await.unwrap();
        let body = Some(body.to_cell());
        let message = OutMessage { to, value_nanoton: nanoton, bounce: false, mode: 1, init, body };
        self.rich.send(&view, vec![message]).await.unwrap();
        self.line.sends.store(0, Ordering::SeqCst);
    }

    /// A proxy whose contract has so much, besides what it keeps for its storage.
    pub(crate) async fn proxy(&self, number: u8, nanoton: u64) -> TestProxy {
        let root = self.line.root.borrow().clone();
        let proxy = TestProxy::new(&root, number, self.rich_address);
        self.send(proxy.contract, nanoton + TON / 10, Some(proxy.init.clone()), Body::Empty).await;
        proxy
    }

    /// The proxy's owner closes its contract: the first time it begins, after the delay it completes.
    pub(crate) async fn close(&self, proxy: &TestProxy) {
        let body = Body::OwnerCloseProxy { query_id: 1, excesses_to: self.rich_address };
        self.send(proxy.contract, TON / 5, None, body).await;
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.dir.path().join("worker.db")
    }

    pub(crate) fn config(&self) -> SettlementConfig {
        SettlementConfig {
            wallet: self.wallet.clone(),
            key: key(),
            policy: WorkerPolicy { payout_at_nanoton: TON },
            require_backing: true,
            poll: Duration::from_secs(3600),
            min_pause: Duration::from_millis(1),
        }
    }

    /// The worker's settlement, with what its store knows.
    pub(crate) async fn open(&self) -> Arc<Settlement> {
        let (_, channels) = open_store(self.store()).await.unwrap();
        // No contract rests, so that every round sees everything.
        let config = SettlementConfig { poll: Duration::ZERO, ..self.config() };
        Arc::new(Settlement::new(config, Arc::clone(&self.line) as Arc<dyn Chain>, channels))
    }

    pub(crate) async fn paid(&self) -> u64 {
        self.line.balance(OWNER).await
    }

    /// The proxy shows these counters with an order for as much.
    pub(crate) fn show(&self, channels: &Channels, proxy: &TestProxy, tokens: u64) -> Result<(), String> {
        self.show_order(channels, proxy, &proxy.order(OrderKind::PayWorker, tokens), tokens)
    }

    pub(crate) fn show_order(
        &self,
        channels: &Channels,
        proxy: &TestProxy,
        order: &[u8],
        tokens: u64,
    ) -> Result<(), String> {
        let root = self.line.root.borrow().clone();
        let channel = channels.at(&proxy.terms(), &root, &OWNER)?;
        let tokens = i64::try_from(tokens).unwrap();
        let counters = PaymentCounters { db_tokens: tokens, max_tokens: tokens, signed: None };
        channels.note(&channel, &counters, Some(channel.terms.verify(order)?))
    }
}
