//! The embedded chain behind a connection that can fail, and the wallets that use it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cocoon_chain::{
    AccountState, Chain, ChainError, GetMethodResult, MAX_TRANSACTIONS_PER_CALL, MessageHash, Sent,
    StackItem, Timing, Transaction, TransactionId, WalletDriver,
};
use cocoon_localchain::{ExternalMessage, GLOBAL_ID, LocalChain, Options, Production, TimeSource, method_id};
use cocoon_ton::wallet::MODE_PAY_FEES_SEPARATELY;
use cocoon_ton::{Address, Cell, OutMessage, RootConfig, SigningKey, Wallet, WalletKind};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tycho_types::cell::CellBuilder;

pub(crate) const START: u32 = 1_780_000_000;
pub(crate) const TON: u64 = 1_000_000_000;
pub(crate) const CENT: u64 = TON / 100;

/// Quick enough for tests; nothing waits for the computer's clock but failures.
pub(crate) const QUICK: Timing = Timing {
    valid_seconds: 60,
    resend: Duration::from_millis(30),
    first_poll: Duration::from_millis(5),
    last_poll: Duration::from_millis(20),
    answer: Duration::from_secs(1),
    landing: Duration::from_secs(20),
};

/// The embedded chain behind a connection that can fail in many ways.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) chain: LocalChain,
    root: watch::Sender<Arc<RootConfig>>,
    /// Messages that are taken and lost.
    pub(crate) to_lose: AtomicU32,
    pub(crate) sends: AtomicU32,
    /// An old answer, and how often it is given.
    pub(crate) past: Mutex<Option<AccountState>>,
    pub(crate) past_answers: AtomicU32,
    /// Whether transactions of accounts other than the wallet are hidden.
    pub(crate) blind: AtomicBool,
    wallet: Mutex<Option<Address>>,
    pub(crate) unavailable: AtomicU32,
    /// Most transactions of the wallet that are listed at once.
    pub(crate) page: AtomicUsize,
}

/// Takes one off a counter that is not at its end.
pub(crate) fn spend(counter: &AtomicU32) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

pub(crate) fn silent() -> ChainError {
    ChainError::Unavailable { reason: "no answer".into(), retry_after: None }
}

impl Line {
    pub(crate) fn new(production: Production) -> Arc<Self> {
        let options = Options { production, time: TimeSource::Fixed(START), ..Options::default() };
        Arc::new(Self {
            chain: LocalChain::open(&options).unwrap(),
            root: watch::Sender::new(Arc::new(RootConfig::test_mode(somebody(0)))),
            to_lose: AtomicU32::new(0),
            sends: AtomicU32::new(0),
            past: Mutex::new(None),
            past_answers: AtomicU32::new(0),
            blind: AtomicBool::new(false),
            wallet: Mutex::new(None),
            unavailable: AtomicU32::new(0),
            page: AtomicUsize::new(MAX_TRANSACTIONS_PER_CALL),
        })
    }

    pub(crate) async fn balance(&self, address: Address) -> u64 {
        self.chain.account(address).await.unwrap().0.balance_nanoton
    }

    pub(crate) fn driver(self: &Arc<Self>, wallet: &Wallet) -> WalletDriver {
        *self.wallet.lock().unwrap() = Some(wallet.address());
        WalletDriver::new(Arc::clone(self) as Arc<dyn Chain>, wallet.clone(), key()).with_timing(QUICK)
    }
}

impl Chain for Line {
    fn subscribe_root(&self) -> watch::Receiver<Arc<RootConfig>> {
        self.root.subscribe()
    }

    fn account_state(&self, address: Address) -> BoxFuture<'_, Result<AccountState, ChainError>> {
        async move {
            if spend(&self.unavailable) {
                return Err(silent());
            }
            let past = self.past.lock().unwrap().clone();
            match past {
                Some(past) if spend(&self.past_answers) => Ok(past),
                _ => Ok(self.chain.account(address).await?.0),
            }
        }
        .boxed()
    }

    fn transactions_since(
        &self,
        address: Address,
        after_lt: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Transaction>, ChainError>> {
        async move {
            if spend(&self.unavailable) {
                return Err(silent());
            }
            let is_wallet = *self.wallet.lock().unwrap() == Some(address);
            if self.blind.load(Ordering::SeqCst) && !is_wallet {
                return Ok(Vec::new());
            }
            let limit = if is_wallet { limit.min(self.page.load(Ordering::SeqCst)) } else { limit };
            self.chain.transactions_since(address, after_lt, limit).await
        }
        .boxed()
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
            let message = ExternalMessage::from_boc(&boc).unwrap();
            self.sends.fetch_add(1, Ordering::SeqCst);
            if spend(&self.unavailable) {
                return Err(silent());
            }
            if spend(&self.to_lose) {
                return Ok(MessageHash(message.hash()));
            }
            self.chain.submit(message).await
        }
        .boxed()
    }

    fn subscribe(&self, address: Address) -> Result<watch::Receiver<Option<TransactionId>>, ChainError> {
        self.chain.subscribe(address)
    }
}

pub(crate) fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

pub(crate) fn owner_key() -> SigningKey {
    SigningKey::from_bytes(&[8; 32])
}

/// The owner of the node wallets, with a wallet of the owner's own.
pub(crate) fn owner() -> Wallet {
    Wallet::v4r2(owner_key().verifying_key().to_bytes())
}

pub(crate) fn wallet(kind: WalletKind) -> Wallet {
    let public_key = key().verifying_key().to_bytes();
    match kind {
        WalletKind::Cocoon => Wallet::cocoon(public_key, owner().address()),
        WalletKind::Published => Wallet::published(public_key, owner().address()),
        WalletKind::V4R2 => Wallet::v4r2(public_key),
        WalletKind::V5R1 => Wallet::v5r1(public_key, GLOBAL_ID),
    }
}

pub(crate) fn somebody(number: u16) -> Address {
    let mut hash = [0xee; 32];
    hash[..2].copy_from_slice(&number.to_be_bytes());
    Address::basechain(hash)
}

pub(crate) fn transfer(to: Address, value_nanoton: u64) -> OutMessage {
    OutMessage { to, value_nanoton, bounce: false, mode: MODE_PAY_FEES_SEPARATELY, init: None, body: None }
}

pub(crate) fn cell(store: impl FnOnce(&mut CellBuilder)) -> Cell {
    let mut builder = CellBuilder::new();
    store(&mut builder);
    builder.build().unwrap()
}

/// A text of one letter, as owners command node wallets.
pub(crate) fn command(letter: u8) -> Cell {
    cell(|body| {
        body.store_u32(0).unwrap();
        body.store_u8(letter).unwrap();
    })
}

/// A wallet of that kind with 20 TON, not deployed yet.
pub(crate) async fn funded(kind: WalletKind) -> (Arc<Line>, WalletDriver) {
    let line = Line::new(Production::OnMessage);
    line.chain.grant(wallet(kind).address(), 20 * TON).await.unwrap();
    let driver = line.driver(&wallet(kind));
    (line, driver)
}

pub(crate) async fn all_landed(driver: &WalletDriver, messages: Vec<OutMessage>) -> Sent {
    let planned = driver.settled().await.unwrap();
    let sent = driver.send(&planned, messages).await.unwrap();
    assert!(sent.landed.iter().all(|landing| landing.transaction.is_some()), "{sent:?}");
    sent
}
