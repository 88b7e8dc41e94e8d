//! Nodes on loopback sockets, each with a directory of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cocoon_attest::{Policy, UnixSeconds, VerifierSet};
use cocoon_chain::StaticChain;
use cocoon_engine::Engine;
use cocoon_gateway::{AccessConfig, Gateway, GatewayConfig, GatewayLimits};
use cocoon_net::{
    AcceptOptions, Clock, DialOptions, ListenerOptions, NodeIdentity, NodeKey, SystemClock, TlsSettings,
};
use cocoon_proxy::{Books, Proxy, ProxyConfig};
use cocoon_ton::{Address, RootConfig};
use cocoon_trace::Tracing;
use cocoon_worker::{Worker, WorkerConfig};
use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::raw::MODEL;
use crate::{Ask, TestClient, until, within};

/// What every client proves itself with in test mode.
pub const SECRET: &[u8] = b"";

/// What opens the admin API of a gateway that has one.
pub const ADMIN_TOKEN: &str = "the admin token of the network tests";

/// A clock that stands where it was set.
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Begins at the real time.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(SystemClock.now().0)))
    }

    /// Moves on.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_secs(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixSeconds {
        UnixSeconds(self.0.load(Ordering::SeqCst))
    }
}

/// How the network differs from an ordinary one.
#[derive(Clone)]
pub struct Options {
    pub balance_nanoton: u64,
    pub extensions: bool,
    pub listener: ListenerOptions,
    pub check_worker_hashes: bool,
    pub worker_policy: Policy,
    pub root: RootConfig,
    pub max_body_bytes: u64,
    /// Where the proxy writes down what becomes of requests.
    pub tracing: Option<Tracing>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            balance_nanoton: 1_000_000_000_000,
            extensions: true,
            listener: ListenerOptions {
                accept: AcceptOptions { difficulty: 1, timeout: Duration::from_secs(20) },
                ..ListenerOptions::default()
            },
            check_worker_hashes: false,
            worker_policy: Policy::any(),
            root: root(),
            max_body_bytes: cocoon_proxy::DEFAULT_MAX_BODY_BYTES,
            tracing: None,
        }
    }
}

/// Owner and root contract of every test network.
fn owner() -> Address {
    Address::basechain([1; 32])
}

/// The root contract's address.
fn root_address() -> Address {
    Address::basechain([2; 32])
}

/// A wallet for each number.
pub fn wallet(number: u8) -> Address {
    Address::basechain([number; 32])
}

/// A root configuration with a price of 2 and a fee of 1 nanoton.
pub fn root() -> RootConfig {
    let mut root = RootConfig::test_mode(owner());
    root.version = 1;
    root.params.price_per_token_nanoton = 2;
    root.params.worker_fee_per_token_nanoton = 1;
    root
}

/// Port 0 on loopback.
pub fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A fresh identity that shows `source`.
pub fn identity(source: &str) -> Arc<NodeIdentity> {
    NodeIdentity::new(NodeKey::generate(), cocoon_tee::open(source).unwrap(), SystemClock.now()).unwrap()
}

/// Shows `source`, demands `policy`.
pub fn tls(source: &str, policy: Policy) -> TlsSettings {
    tls_with(identity(source), policy, Arc::new(SystemClock))
}

/// Shows `identity`, demands `policy`, by this clock.
pub fn tls_with(identity: Arc<NodeIdentity>, policy: Policy, clock: Arc<dyn Clock>) -> TlsSettings {
    TlsSettings::new(identity, Arc::new(VerifierSet::built_in()), policy, None, clock).unwrap()
}

/// An ordinary proxy's configuration.
pub fn proxy_config(store: &Path, options: &Options) -> ProxyConfig {
    ProxyConfig {
        tracing: options.tracing.clone(),
        http: local(),
        workers: local(),
        clients: local(),
        key_seed: Zeroizing::new([7; 32]),
        owner: owner(),
        wallet: wallet(3),
        root_address: root_address(),
        is_test: true,
        is_testnet: false,
        check_worker_hashes: options.check_worker_hashes,
        trust_long_authorization: true,
        extensions: options.extensions,
        max_body_bytes: options.max_body_bytes,
        settlement: None,
        store: store.to_owned(),
        listener: options.listener.clone(),
    }
}

/// A gateway of wallet 11 that knows these proxies, and no request of which waits long.
pub async fn gateway(proxies: &[SocketAddr], dir: &Path, chain: Arc<StaticChain>) -> Gateway {
    gateway_with(proxies, dir, chain, |_| ()).await
}

/// A gateway that differs.
pub async fn gateway_with(
    proxies: &[SocketAddr],
    dir: &Path,
    chain: Arc<StaticChain>,
    change: impl FnOnce(&mut GatewayConfig),
) -> Gateway {
    gateway_with_tls(proxies, dir, chain, tls("none", Policy::any()), change).await
}

/// A gateway that shows and demands something else, too.
pub async fn gateway_with_tls(
    proxies: &[SocketAddr],
    dir: &Path,
    chain: Arc<StaticChain>,
    tls: TlsSettings,
    change: impl FnOnce(&mut GatewayConfig),
) -> Gateway {
    let mut config = GatewayConfig {
        tracing: None,
        http: local(),
        proxies: proxies.iter().map(SocketAddr::to_string).collect(),
        wallet: wallet(11),
        secret: Zeroizing::new(SECRET.to_vec()),
        root_address: root_address(),
        is_test: true,
        is_testnet: false,
        extensions: true,
        check_proxy_hashes: false,
        workers: None,
        dial: DialOptions { max_difficulty: 8, timeout: Duration::from_secs(10) },
        store: dir.join("gateway.db"),
        settlement: None,
        access: AccessConfig::new(dir.join("access.db")),
        https: None,
        limits: GatewayLimits { default_max_tokens: 100, ..GatewayLimits::default() },
    };
    change(&mut config);
    cocoon_gateway::start(config, tls, chain).await.unwrap()
}

/// A proxy and whatever a test adds.
pub struct Network {
    pub chain: Arc<StaticChain>,
    pub proxy: Proxy,
    pub dir: TempDir,
}

impl Network {
    /// An ordinary proxy.
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// A proxy that differs.
    pub async fn with(options: Options) -> Self {
        Self::with_tls(options.clone(), tls("none", options.worker_policy), tls("none", Policy::any())).await
    }

    /// A proxy that shows something else.
    pub async fn with_tls(options: Options, worker_tls: TlsSettings, client_tls: TlsSettings) -> Self {
        let dir = TempDir::new().unwrap();
        let client =
            cocoon_chain::TestModeClient { balance_nanoton: options.balance_nanoton, ..Default::default() };
        let chain =
            Arc::new(StaticChain::from_config(options.root.clone()).unwrap().with_test_mode_client(client));
        let config = proxy_config(&dir.path().join("proxy.db"), &options);
        let proxy = cocoon_proxy::start(config, worker_tls, client_tls, chain.clone()).await.unwrap();
        Self { chain, proxy, dir }
    }

    /// An ordinary worker's configuration; `number` tells workers apart.
    pub fn worker_config(&self, number: u8) -> WorkerConfig {
        Self::worker_config_for(self.proxy.workers_addr(), self.dir.path(), number)
    }

    /// The same for any proxy and directory.
    pub fn worker_config_for(proxy: SocketAddr, dir: &Path, number: u8) -> WorkerConfig {
        WorkerConfig {
            tracing: None,
            http: local(),
            proxies: vec![proxy.to_string()],
            owner: wallet(100 + number),
            model: MODEL.to_owned(),
            model_files: None,
            coefficient: 1000,
            follow_load: None,
            max_active: 100,
            root_address: root_address(),
            is_test: true,
            is_testnet: false,
            extensions: true,
            max_body_bytes: cocoon_worker::DEFAULT_MAX_BODY_BYTES,
            check_proxy_hashes: false,
            dial: DialOptions { max_difficulty: 8, timeout: Duration::from_secs(10) },
            store: dir.join(format!("worker-{number}.db")),
            settlement: None,
            paused: false,
        }
    }

    /// A worker that is ready.
    pub async fn worker(&self, number: u8, engine: impl Engine) -> Worker {
        self.worker_with(self.worker_config(number), engine).await
    }

    /// A worker that differs.
    pub async fn worker_with(&self, config: WorkerConfig, engine: impl Engine) -> Worker {
        let tls = tls("none", Policy::any());
        let worker = cocoon_worker::start(config, tls, self.chain.clone(), Arc::new(engine)).await.unwrap();
        within("the worker to be ready", worker.ready()).await;
        worker
    }

    /// A client that is ready.
    pub async fn client(&self, number: u8) -> TestClient {
        self.client_with(number, true).await
    }

    /// A client with or without extensions.
    pub async fn client_with(&self, number: u8, extensions: bool) -> TestClient {
        let tls = tls("none", Policy::any());
        TestClient::connect(self.proxy.clients_addr(), &tls, wallet(number), self.chain.root(), extensions)
            .await
    }

    /// Asks once, and expects an ordinary answer.
    ///
    /// # Panics
    /// The network does not work any more.
    pub async fn assert_serves(&self, client: &TestClient) {
        let answer = client.ask(Ask::default()).await;
        assert_eq!(answer.status, 200, "the network does not serve any more: {}", answer.body);
        assert!(answer.end.is_ok(), "the network does not serve any more: {:?}", answer.end);
    }

    /// Checks that clients were charged what workers earned and the proxy kept, once all notices are there.
    ///
    /// # Panics
    /// The sums do not agree.
    pub async fn assert_balances(&self, clients: &[&TestClient], workers: &[&Worker]) {
        let charged = || clients.iter().map(|client| client.charged()).sum::<u64>();
        let earned = || workers.iter().map(|worker| worker.earned().tokens.get()).sum::<u64>();
        let books = || self.proxy.books();
        until("the notices of all requests", || {
            charged() == books().charged.get() && earned() == books().charged.get()
        })
        .await;
        let Books { charged, paid, earned, kept } = books();
        let fees = workers.iter().map(|worker| worker.earned().nanoton.nano()).sum::<u64>();
        assert_eq!(paid.nano(), 2 * charged.get(), "clients pay two nanoton a token");
        assert_eq!(earned.nano(), fees, "what workers earn stands in the proxy's books");
        assert_eq!(paid.nano(), fees + kept.nano(), "what is paid is earned or kept");
    }
}
