//! A network that settles on an embedded chain. Every node has an owner, a plain wallet whose coins are counted in the end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cocoon_attest::Policy;
use cocoon_chain::Chain as _;
use cocoon_engine::{Engine, EngineError, EngineHealth, EngineRequest, EngineResponse};
use cocoon_gateway::{AccessConfig, ChannelReport, Gateway, GatewayConfig, GatewayLimits, LeaveStep};
use cocoon_localchain::{LocalChain, Options, RootedChain, SUPPLY_NANOTON};
use cocoon_net::DialOptions;
use cocoon_network_tests::{
    MODEL, Network, Options as NetworkOptions, local, post, proxy_config, send_ton, settling_root, tls,
    until, within,
};
use cocoon_proxy::{InstanceStatus, Proxy, ProxyConfig, WindUpStep};
use cocoon_settle::client::ClientPolicy;
use cocoon_settle::proxy::ProxyPolicy;
use cocoon_settle::worker::WorkerPolicy;
use cocoon_ton::contracts::ProxyState;
use cocoon_ton::message::{Body, RootChange};
use cocoon_ton::wallet::Wallet;
use cocoon_ton::{Address, ClientState, RootConfig, SigningKey, root_state_init};
use cocoon_worker::Worker;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tempfile::TempDir;
use zeroize::Zeroizing;

pub(crate) use cocoon_network_tests::TON;

pub(crate) const CLIENT_DELAY: u32 = 300;
pub(crate) const PROXY_DELAY: u32 = 900;
/// Longer than a closed proxy contract keeps coins for those who come late.
pub(crate) const TOO_LATE: u32 = 181 * 24 * 60 * 60;
/// Dear, so that a question is seen in the balances.
pub(crate) const PRICE: u64 = 200_000;
/// The worker's part.
pub(crate) const FEE: u64 = 120_000;
/// Of a question and its answer: 0.04 TON.
pub(crate) const TOKENS: u64 = 200;
/// What all fees and reserves of one party together stay below.
pub(crate) const FEES: u64 = TON / 4;
const STAKE: u64 = TON;
const POLL: Duration = Duration::from_millis(100);
const MIN_PAUSE: Duration = Duration::from_millis(10);

pub(crate) const OPERATOR: u8 = 50;
pub(crate) const PROXY: u8 = 51;
pub(crate) const GATEWAY: u8 = 60;
/// Of the first worker; the second's is one more.
pub(crate) const WORKER: u8 = 70;

/// The wallet of the node with that number. Its owner's is `number + 100`.
pub(crate) fn wallet(number: u8) -> (Wallet, SigningKey) {
    let key = SigningKey::from_bytes(&[number; 32]);
    (Wallet::cocoon(key.verifying_key().to_bytes(), owner(number)), key)
}

pub(crate) fn owner(number: u8) -> Address {
    owner_wallet(number).0.address()
}

fn owner_wallet(number: u8) -> (Wallet, SigningKey) {
    let key = SigningKey::from_bytes(&[number + 100; 32]);
    (Wallet::cocoon(key.verifying_key().to_bytes(), Address::basechain([number; 32])), key)
}

/// Answers everything with [`TOKENS`] tokens.
struct Wordy;

impl Engine for Wordy {
    fn call(&self, _: EngineRequest) -> BoxFuture<'_, Result<EngineResponse, EngineError>> {
        let answer = json!({
            "id": "answer", "object": "chat.completion", "model": "test",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "dear"}}],
            "usage": {"prompt_tokens": TOKENS - 50, "completion_tokens": 50, "total_tokens": TOKENS},
        });
        let body = futures_util::stream::iter([Ok(answer.to_string().into())]).boxed();
        let mut headers = http::HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        Box::pin(async { Ok(EngineResponse { status: http::StatusCode::OK, headers, body }) })
    }

    fn probe(&self) -> BoxFuture<'_, EngineHealth> {
        Box::pin(async { EngineHealth { ready: true, models: Vec::new(), detail: None } })
    }
}

pub(crate) struct World {
    pub(crate) chain: Arc<RootedChain>,
    root: Address,
    pub(crate) dir: TempDir,
}

fn root_config(owner: Address) -> RootConfig {
    let mut root = settling_root(owner, PRICE, FEE, (CLIENT_DELAY, PROXY_DELAY));
    root.params.min_proxy_stake_nanoton = STAKE;
    root.params.min_client_stake_nanoton = STAKE;
    root
}

impl World {
    /// A chain with a root contract; no nodes yet.
    pub(crate) async fn start() -> Self {
        let chain = LocalChain::open(&Options::default()).unwrap();
        let operator = wallet(OPERATOR);
        chain.grant(operator.0.address(), 100 * TON).await.unwrap();
        let init = root_state_init(&root_config(operator.0.address()));
        let root = init.address();
        send_ton(&chain, &operator, root, Some(init), &Body::Empty).await;
        let chain = Arc::new(chain.follow_root(root).await.unwrap());
        Self { chain, root, dir: TempDir::new().unwrap() }
    }

    pub(crate) fn local(&self) -> &LocalChain {
        self.chain.chain()
    }

    pub(crate) async fn grant(&self, to: Address, nanoton: u64) {
        self.local().grant(to, nanoton).await.unwrap();
        self.local().settle().await.unwrap();
    }

    pub(crate) async fn advance(&self, seconds: u32) {
        self.local().advance(seconds).await.unwrap();
    }

    /// Coins of an account.
    pub(crate) async fn held(&self, address: Address) -> u64 {
        self.chain.account_state(address).await.unwrap().balance_nanoton
    }

    /// The root's owner changes something.
    pub(crate) async fn change_root(&self, change: RootChange) {
        send_ton(self.local(), &wallet(OPERATOR), self.root, None, &Body::Root { query_id: 1, change }).await;
    }

    /// A node's owner sends 1 TON with a text: a command, for our contracts.
    pub(crate) async fn owner_says(&self, number: u8, to: Address, text: &str) {
        send_ton(self.local(), &owner_wallet(number), to, None, &Body::Comment(text.into())).await;
    }

    fn store(&self, name: &str, number: u8) -> PathBuf {
        self.dir.path().join(format!("{name}-{number}.db"))
    }

    pub(crate) fn proxy_config(&self) -> ProxyConfig {
        let mut config = proxy_config(&self.store("proxy", PROXY), &NetworkOptions::default());
        let (wallet, key) = wallet(PROXY);
        config.root_address = self.root;
        config.owner = owner(PROXY);
        config.wallet = wallet.address();
        config.trust_long_authorization = false;
        let policy = ProxyPolicy::default();
        config.settlement =
            Some(cocoon_proxy::SettlementConfig { wallet, key, policy, poll: POLL, min_pause: MIN_PAUSE });
        config
    }

    /// A proxy, with 10 TON in its wallet and in its owner's.
    pub(crate) async fn proxy(&self) -> Proxy {
        self.grant(wallet(PROXY).0.address(), 10 * TON).await;
        self.grant(owner(PROXY), 10 * TON).await;
        let config = self.proxy_config();
        let open = || tls("none", Policy::any());
        cocoon_proxy::start(config, open(), open(), self.chain.clone()).await.unwrap()
    }

    fn worker_settlement(number: u8, payout_at_nanoton: u64) -> cocoon_worker::SettlementConfig {
        let (wallet, key) = wallet(number);
        let policy = WorkerPolicy { payout_at_nanoton };
        let require_backing = true;
        cocoon_worker::SettlementConfig {
            wallet,
            key,
            policy,
            require_backing,
            poll: POLL,
            min_pause: MIN_PAUSE,
        }
    }

    /// A worker, with 2 TON in its wallet for fees, whom a proxy pays once `payout_at_nanoton` are due.
    pub(crate) async fn worker(&self, number: u8, proxy: SocketAddr, payout_at_nanoton: u64) -> Worker {
        self.grant(wallet(number).0.address(), 2 * TON).await;
        let mut config = Network::worker_config_for(proxy, self.dir.path(), number);
        config.root_address = self.root;
        config.owner = owner(number);
        config.settlement = Some(Self::worker_settlement(number, payout_at_nanoton));
        let engine = Arc::new(Wordy);
        let worker = cocoon_worker::start(config, tls("none", Policy::any()), self.chain.clone(), engine)
            .await
            .unwrap();
        within("the worker at the proxy", worker.ready()).await;
        worker
    }

    /// What a stopped worker is still owed comes to its owner, and then its wallet's coins.
    pub(crate) async fn worker_leaves(&self, number: u8) -> cocoon_worker::Left {
        let config = cocoon_worker::LeaveConfig {
            store: self.dir.path().join(format!("worker-{number}.db")),
            owner: owner(number),
            settlement: Self::worker_settlement(number, TON),
            exit: true,
        };
        within("the worker's way out", cocoon_worker::leave(config, self.chain.clone(), 1, |_| {}))
            .await
            .unwrap()
    }

    fn gateway_settlement(deposit: u64, budget: u64) -> cocoon_gateway::SettlementConfig {
        let (wallet, key) = wallet(GATEWAY);
        let policy =
            ClientPolicy { deposit_nanoton: deposit, budget_nanoton: budget, ..ClientPolicy::default() };
        cocoon_gateway::SettlementConfig { wallet, key, policy, poll: POLL, min_pause: MIN_PAUSE }
    }

    /// A gateway; whoever wants it to have coins grants them.
    pub(crate) async fn gateway(&self, proxy: SocketAddr, deposit: u64, budget: u64) -> Gateway {
        let settlement = Self::gateway_settlement(deposit, budget);
        let config = GatewayConfig {
            tracing: None,
            http: local(),
            proxies: vec![proxy.to_string()],
            wallet: settlement.wallet.address(),
            secret: Zeroizing::new(b"a secret of ours, long enough".to_vec()),
            root_address: self.root,
            is_test: true,
            is_testnet: false,
            extensions: true,
            check_proxy_hashes: false,
            workers: None,
            dial: DialOptions { max_difficulty: 8, timeout: Duration::from_secs(10) },
            store: self.store("gateway", GATEWAY),
            settlement: Some(settlement),
            access: AccessConfig::new(self.store("access", GATEWAY)),
            https: None,
            limits: GatewayLimits { default_max_tokens: 100, ..GatewayLimits::default() },
        };
        cocoon_gateway::start(config, tls("none", Policy::any()), self.chain.clone()).await.unwrap()
    }

    /// All coins of a stopped gateway come back. The clock is moved whenever a delay has to pass.
    pub(crate) async fn gateway_leaves(&self) -> (cocoon_gateway::Left, Vec<LeaveStep>) {
        let store = self.store("gateway", GATEWAY);
        let config = cocoon_gateway::LeaveConfig { store, settlement: Self::gateway_settlement(0, 0) };
        let mut steps = Vec::new();
        let progress = |step: LeaveStep| {
            if let LeaveStep::Waiting { until_unix_time, now_unix_time } = step {
                self.pass(until_unix_time.saturating_sub(now_unix_time));
            }
            steps.push(step);
        };
        let leaving = cocoon_gateway::leave(config, self.chain.clone(), progress);
        let left = tokio::time::timeout(cocoon_network_tests::PATIENCE, leaving).await;
        match left {
            Ok(left) => (left.unwrap(), steps),
            Err(_) => panic!("the gateway cannot leave: {steps:?}"),
        }
    }

    /// A stopped proxy refunds, pays and closes; the clock is moved whenever a delay has to pass.
    pub(crate) async fn wind_up(&self) -> (cocoon_proxy::Rest, Vec<WindUpStep>) {
        let now = self.local().now().await.unwrap();
        let mut steps = Vec::new();
        let mut moved = 0;
        let progress = |step: WindUpStep| {
            if let WindUpStep::Waiting { until_unix_time } = step {
                let ahead = until_unix_time.saturating_sub(u64::from(now) + moved);
                moved += ahead;
                self.pass(ahead);
            }
            steps.push(step);
        };
        let winding = cocoon_proxy::wind_up(self.proxy_config(), self.chain.clone(), progress);
        let rest = tokio::time::timeout(cocoon_network_tests::PATIENCE, winding).await;
        match rest {
            Ok(rest) => (rest.unwrap(), steps),
            Err(_) => panic!("the proxy cannot wind up: {steps:?}"),
        }
    }

    /// Moves the clock from where nothing can be awaited.
    fn pass(&self, seconds: u64) {
        let (chain, seconds) = (self.local().clone(), u32::try_from(seconds).unwrap() + 1);
        tokio::spawn(async move { chain.advance(seconds).await });
    }

    pub(crate) async fn client_state(&self, contract: Address) -> ClientState {
        let data = self.chain.account_state(contract).await.unwrap().data.unwrap();
        ClientState::from_data(&data).unwrap()
    }

    pub(crate) async fn proxy_state(&self, contract: Address) -> ProxyState {
        let data = self.chain.account_state(contract).await.unwrap().data.unwrap();
        ProxyState::from_data(&data).unwrap()
    }

    /// A worker's owner has what so many tokens are worth, but for the little that the chain takes for storage.
    pub(crate) async fn assert_paid(&self, number: u8, tokens: u64) {
        let (held, due) = (self.held(owner(number)).await, tokens * FEE);
        assert!((due - TON / 1000..=due).contains(&held), "{held} for {tokens} tokens, {due} due");
    }

    /// No coin is missing on the chain, and none is too many.
    pub(crate) async fn assert_conserved(&self) {
        self.local().settle().await.unwrap();
        let supply = self.local().supply().await.unwrap();
        assert_eq!((supply.total_nanoton(), supply.queue_nanoton), (SUPPLY_NANOTON, 0));
    }
}

pub(crate) async fn ask(gateway: &Gateway) -> (u16, Value) {
    let question = json!({"model": MODEL, "messages": [{"role": "user", "content": "What does it cost?"}]});
    let reply = post(gateway.http_addr(), &question).await;
    (reply.status, serde_json::from_str(&reply.body).unwrap())
}

/// Asks until an answer comes: a new connection first has to hear of the workers.
pub(crate) async fn answered(gateway: &Gateway) {
    let mut last = (0, Value::Null);
    let waiting = async {
        while last.0 != 200 {
            last = ask(gateway).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(cocoon_network_tests::PATIENCE, waiting).await.is_err() {
        panic!(
            "in vain waited for an answer: {last:?}, {:?}",
            gateway.settlement().unwrap().borrow().clone()
        );
    }
}

pub(crate) async fn answered_times(gateway: &Gateway, times: usize) {
    for _ in 0..times {
        answered(gateway).await;
    }
}

pub(crate) fn channels(gateway: &Gateway) -> Vec<ChannelReport> {
    gateway.settlement().unwrap().borrow().channels.clone()
}

pub(crate) fn instances(proxy: &Proxy) -> Vec<InstanceStatus> {
    proxy.settlement().unwrap().borrow().instances.clone()
}

/// Waits until the workers hold orders for every token that the proxy has charged; gives each one's tokens, and their sum.
pub(crate) async fn signed(proxy: &Proxy, workers: &[&Worker]) -> (Vec<u64>, u64) {
    let of = |worker: &Worker| {
        worker.settlement().unwrap().proxies.iter().map(|due| due.signed_tokens).sum::<u64>()
    };
    let each = || workers.iter().map(|worker| of(worker)).collect::<Vec<_>>();
    until("the workers' orders", || each().iter().sum::<u64>() == proxy.books().charged.get()).await;
    (each(), proxy.books().charged.get())
}
