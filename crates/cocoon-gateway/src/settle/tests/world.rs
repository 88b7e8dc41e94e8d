//! An embedded chain with a root, a proxy contract and a gateway's wallet, and a way to lie about it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cocoon_chain::{
    AccountState, Chain, ChainError, GetMethodResult, MessageHash, StackItem, Transaction, TransactionId,
};
use cocoon_localchain::{ExternalMessage, LocalChain, Options, RootedChain};
use cocoon_session::ProxyTerms;
use cocoon_settle::Purpose;
use cocoon_settle::client::ClientPolicy;
use cocoon_ton::message::Body;
use cocoon_ton::wallet::{OutMessage, Wallet};
use cocoon_ton::{
    Address, ClientState, OrderKind, PaymentOrder, RootConfig, SignedPayment, SigningKey, StateInit,
    StructVersion, client_address, code, proxy_state_init, root_state_init, worker_state_init,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::super::round::Round;
use super::super::{LeaveConfig, Presence, Settlement, SettlementConfig};
use crate::book::Book;

pub(super) const TON: u64 = 1_000_000_000;
pub(super) const PRICE: u64 = 2000;
pub(super) const CLIENT_DELAY: u32 = 300;
const SECRET: &[u8] = b"a secret of ours, long enough";

/// What is told of the chain instead of the truth.
#[derive(Debug, Clone)]
pub(super) enum Lie {
    None,
    Account(Address, Box<AccountState>),
    Stall(Address, Option<Duration>),
}

/// The chain as the settlement sees it.
#[derive(Debug)]
pub(super) struct Liar {
    truth: RootedChain,
    lie: Mutex<Lie>,
}

impl Liar {
    pub(super) fn chain(&self) -> &LocalChain {
        self.truth.chain()
    }
}

impl Chain for Liar {
    fn subscribe_root(&self) -> watch::Receiver<Arc<RootConfig>> {
        self.truth.subscribe_root()
    }

    fn account_state(&self, address: Address) -> BoxFuture<'_, Result<AccountState, ChainError>> {
        match self.lie.lock().unwrap().clone() {
            Lie::Account(about, state) if about == address => async move { Ok(*state) }.boxed(),
            Lie::Stall(about, retry_after) if about == address => {
                async move { Err(ChainError::Unavailable { reason: "it stalls".to_owned(), retry_after }) }
                    .boxed()
            }
            _ => self.truth.account_state(address),
        }
    }

    fn transactions_since(
        &self,
        address: Address,
        after_lt: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Transaction>, ChainError>> {
        self.truth.transactions_since(address, after_lt, limit)
    }

    fn run_get_method<'a>(
        &'a self,
        address: Address,
        method: &'a str,
        stack: Vec<StackItem>,
    ) -> BoxFuture<'a, Result<GetMethodResult, ChainError>> {
        self.truth.run_get_method(address, method, stack)
    }

    fn send(&self, boc: Vec<u8>) -> BoxFuture<'_, Result<MessageHash, ChainError>> {
        self.truth.send(boc)
    }

    fn subscribe(&self, address: Address) -> Result<watch::Receiver<Option<TransactionId>>, ChainError> {
        self.truth.subscribe(address)
    }
}

/// Everything around a gateway's settlement.
pub(super) struct World {
    pub(super) chain: Arc<Liar>,
    pub(super) wallet: Wallet,
    key: SigningKey,
    pub(super) owner: Address,
    /// Runs the proxy and owns its contract.
    operator: (Wallet, SigningKey),
    proxy_key: SigningKey,
    pub(super) proxy: Address,
    root: Arc<RootConfig>,
    dir: tempfile::TempDir,
}

fn root_config(owner: Address) -> RootConfig {
    let mut root = RootConfig::test_mode(owner);
    let params = &mut root.params;
    params.struct_version = StructVersion::V3;
    params.price_per_token_nanoton = PRICE;
    params.worker_fee_per_token_nanoton = PRICE - 1;
    params.client_delay_before_close_seconds = CLIENT_DELAY;
    params.proxy_delay_before_close_seconds = 2 * CLIENT_DELAY;
    params.proxy_code = Some(code::proxy().clone());
    params.worker_code = Some(code::worker().clone());
    params.client_code = Some(code::client().clone());
    root
}

async fn send(
    chain: &LocalChain,
    (wallet, key): &(Wallet, SigningKey),
    to: Address,
    value_nanoton: u64,
    init: Option<StateInit>,
    body: &Body,
) {
    let (account, _) = chain.account(wallet.address()).await.unwrap();
    let seqno = account.data.map_or(0, |data| wallet.seqno_from_data(&data).unwrap());
    let message = OutMessage { to, value_nanoton, bounce: false, mode: 1, init, body: Some(body.to_cell()) };
    let valid_until = chain.now().await.unwrap() + 60;
    let signed = wallet.sign(key, seqno, valid_until, &[message]).unwrap();
    chain.submit(ExternalMessage::from_cell(signed).unwrap()).await.unwrap();
    chain.settle().await.unwrap();
}

impl World {
    /// The gateway's wallet has so many TON.
    pub(super) async fn new(ton: u64) -> Self {
        let chain = LocalChain::open(&Options::default()).unwrap();
        let operator_key = SigningKey::from_bytes(&[1; 32]);
        let operator = Wallet::cocoon(operator_key.verifying_key().to_bytes(), Address::basechain([1; 32]));
        let operator = (operator, operator_key);
        chain.grant(operator.0.address(), 100 * TON).await.unwrap();
        let root = root_config(operator.0.address());
        let root_init = root_state_init(&root);
        let root_address = root_init.address();
        send(&chain, &operator, root_address, TON, Some(root_init), &Body::Empty).await;
        let proxy_key = SigningKey::from_bytes(&[2; 32]);
        let public = proxy_key.verifying_key().to_bytes();
        let init = proxy_state_init(&root.params, &root_address, &operator.0.address(), &public).unwrap();
        let proxy = init.address();
        let stake = Body::IncreaseProxyStake { query_id: 1, amount: TON, excesses_to: operator.0.address() };
        send(&chain, &operator, proxy, 2 * TON, Some(init), &stake).await;
        let key = SigningKey::from_bytes(&[3; 32]);
        let owner = Address::basechain([4; 32]);
        let wallet = Wallet::cocoon(key.verifying_key().to_bytes(), owner);
        chain.grant(wallet.address(), ton * TON).await.unwrap();
        let truth = chain.follow_root(root_address).await.unwrap();
        let root = truth.subscribe_root().borrow().clone();
        let chain = Arc::new(Liar { truth, lie: Mutex::new(Lie::None) });
        let dir = tempfile::tempdir().unwrap();
        Self { chain, wallet, key, owner, operator, proxy_key, proxy, root, dir }
    }

    /// A wallet of the published kind for the same key and owner.
    pub(super) fn published_wallet(&self) -> Wallet {
        Wallet::published(self.key.verifying_key().to_bytes(), self.owner)
    }

    pub(super) fn lie(&self, lie: Lie) {
        *self.chain.lie.lock().unwrap() = lie;
    }

    fn public(&self) -> [u8; 32] {
        self.proxy_key.verifying_key().to_bytes()
    }

    /// The gateway's client contract.
    pub(super) fn contract(&self) -> Address {
        client_address(&self.root.params, &self.wallet.address(), &self.proxy, &self.public()).unwrap()
    }

    pub(super) fn order(&self, kind: OrderKind, tokens: u64) -> SignedPayment {
        let contract = self.contract();
        PaymentOrder { kind, contract, query_id: tokens, tokens, excesses_to: self.proxy }
            .sign(&self.proxy_key)
    }

    /// The account as it is.
    pub(super) async fn chain_account(&self, address: Address) -> AccountState {
        self.chain.truth.account_state(address).await.unwrap()
    }

    /// The account as the settlement sees it.
    pub(super) async fn account(&self, address: Address) -> AccountState {
        self.chain.account_state(address).await.unwrap()
    }

    pub(super) async fn held(&self, address: Address) -> u64 {
        self.chain_account(address).await.balance_nanoton
    }

    pub(super) async fn client(&self) -> Option<ClientState> {
        self.chain_account(self.contract()).await.data.map(|data| ClientState::from_data(&data).unwrap())
    }

    /// All that the proxy contract ever received.
    pub(super) async fn proxy_was_told(&self) -> Vec<Body> {
        let transactions = self.chain.transactions_since(self.proxy, 0, 256).await.unwrap();
        let messages = transactions.into_iter().filter_map(|transaction| transaction.in_message);
        messages.map(|message| Body::parse(&message.body)).collect()
    }

    /// The proxy's owner begins to close its contract.
    pub(super) async fn close_proxy(&self) {
        let body = Body::OwnerCloseProxy { query_id: 2, excesses_to: self.operator.0.address() };
        send(self.chain.chain(), &self.operator, self.proxy, TON / 5, None, &body).await;
    }

    /// The proxy signs nearly all coins of its contract away, its clients' included.
    pub(super) async fn drain_proxy(&self) {
        let operator = self.operator.0.address();
        let init = worker_state_init(&self.root.params, &operator, &self.proxy, &self.public()).unwrap();
        let contract = init.address();
        let tokens = (self.held(self.proxy).await - TON / 2) / PRICE;
        let kind = OrderKind::PayWorker;
        let order = PaymentOrder { kind, contract, query_id: 1, tokens, excesses_to: operator };
        let body = Body::SignedPayment(order.sign(&self.proxy_key));
        send(self.chain.chain(), &self.operator, contract, TON / 2, Some(init), &body).await;
        assert!(self.held(self.proxy).await < TON);
    }

    /// The gateway's wallet has so many TON but for fees.
    pub(super) async fn has_all_but_fees(&self, ton: u64) {
        self.chain.chain().settle().await.unwrap();
        let held = self.held(self.wallet.address()).await;
        assert!(held > ton * TON - TON / 4, "{held} of {ton} TON");
    }

    fn config(&self, policy: ClientPolicy) -> SettlementConfig {
        SettlementConfig {
            wallet: self.wallet.clone(),
            key: self.key.clone(),
            policy,
            poll: Duration::from_millis(50),
            min_pause: Duration::from_millis(1),
        }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("gateway.sqlite")
    }

    pub(super) fn leave_config(&self) -> LeaveConfig {
        LeaveConfig { store: self.store(), settlement: self.config(ClientPolicy::default()) }
    }

    pub(super) fn till(&self, policy: ClientPolicy) -> Till {
        self.till_with_secret(policy, SECRET)
    }

    pub(super) fn till_with_secret(&self, policy: ClientPolicy, secret: &[u8]) -> Till {
        let book = Book::open(&self.store()).unwrap();
        let settlement = Settlement::open(self.config(policy), secret, self.chain.clone(), &book).unwrap();
        Till { book, settlement }
    }
}

/// A gateway's settlement, round by round.
pub(super) struct Till {
    pub(super) book: Book,
    pub(super) settlement: Settlement,
}

impl Till {
    /// A connection meets the proxy.
    pub(super) fn meet(&self, world: &World) -> Presence {
        let terms = ProxyTerms {
            public_key: world.public(),
            contract: world.proxy,
            pair_contract: world.contract(),
            proto_version: 1,
            extensions: true,
        };
        self.settlement.join(&terms, &world.root).unwrap()
    }

    pub(super) async fn round(&self) -> Round {
        self.settlement.round(&self.book).await.unwrap()
    }

    /// Rounds until nothing is to be done; what was.
    pub(super) async fn settle(&self) -> Vec<Purpose> {
        let mut done = Vec::new();
        for _ in 0..20 {
            let round = self.round().await;
            assert!(!round.was_refused(), "{:?}", round.steps);
            if round.steps.is_empty() {
                // What came before is not news.
                self.is_woken();
                return done;
            }
            done.extend(round.steps.iter().map(|step| step.transfer.purpose));
        }
        panic!("no end of {done:?}");
    }

    /// Whether a new round was asked for.
    pub(super) fn is_woken(&self) -> bool {
        self.settlement.wake.notified().now_or_never().is_some()
    }

    pub(super) fn close(self) {
        self.book.close().unwrap();
    }
}
