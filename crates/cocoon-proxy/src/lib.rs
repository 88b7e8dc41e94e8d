//! The proxy role: takes connections from workers and clients, and runs the proxy's state machine between them.
//!
//! Every decision is `cocoon-session`'s. Here are its surroundings: listeners, one task per connection, the clock, the
//! chain's answers, the durable log, and an HTTP page for operators.

mod core;
mod http;
mod lookups;
mod settle;
mod wind_up;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cocoon_attest::PolicyError;
use cocoon_chain::{Chain, ChainError};
use cocoon_ledger::{AdjustedTokens, Nanoton, Record};
use cocoon_net::{Listener, ListenerOptions, PageListener, SecureStream, TlsSettings};
use cocoon_session::proxy::{ConnId, ProxySettings, RestoreBooksError};
use cocoon_session::tariff;
use cocoon_store::{SqliteStore, Store, StoreError};
use cocoon_ton::address::Address;
use cocoon_ton::contracts::{CodeMissing, proxy_address};
use cocoon_ton::root::RootConfig;
use ed25519_dalek::SigningKey;
use rand::RngCore as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use crate::core::{Core, Role};
use crate::settle::{Identity, Settlement};

pub use crate::settle::{InstanceStatus, SettlementConfig, SettlementError, SettlementReport};
pub use crate::wind_up::{Rest, WindUpStep, wind_up};
pub use cocoon_session::DEFAULT_MAX_BODY_BYTES;

/// How often the state machine's time-outs are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long a shutdown waits for requests under way.
const DRAIN: Duration = Duration::from_secs(10);

/// What a proxy needs to know.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// Where operators look: /health, /metrics, /jsonstats.
    pub http: SocketAddr,
    /// Where workers dial.
    pub workers: SocketAddr,
    /// Where clients dial.
    pub clients: SocketAddr,
    /// Seed of the Ed25519 key that signs payment orders.
    pub key_seed: Zeroizing<[u8; 32]>,
    /// The proxy's owner.
    pub owner: Address,
    /// The proxy's wallet, to which contracts return left-over coins.
    pub wallet: Address,
    /// The root contract.
    pub root_address: Address,
    /// Whether the network is a test network.
    pub is_test: bool,
    /// Whether addresses are written in the testnet form.
    pub is_testnet: bool,
    /// Whether workers' image hashes and models must be listed in the root configuration.
    pub check_worker_hashes: bool,
    /// Whether a client is let in on its word where the chain cannot carry a registration (static root only).
    pub trust_long_authorization: bool,
    /// Whether to agree to protocol extensions.
    pub extensions: bool,
    /// Largest body of a request, in bytes; [`DEFAULT_MAX_BODY_BYTES`].
    pub max_body_bytes: u64,
    /// The durable log.
    pub store: PathBuf,
    /// How to settle on chain; `None` on a chain that moves nothing.
    pub settlement: Option<SettlementConfig>,
    /// Limits on connections, and the proof of work asked for.
    pub listener: ListenerOptions,
    /// Where to write down what becomes of requests. `None`: nowhere.
    pub tracing: Option<cocoon_trace::Tracing>,
}

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} for {what}: {error}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// For whom.
        what: &'static str,
        /// The system's word.
        error: io::Error,
    },
    /// The log cannot be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record of the log does not decode.
    #[error("record {position} of the log is damaged: {error}")]
    Record {
        /// Its position.
        position: u64,
        /// What is wrong.
        error: cocoon_ledger::DecodeError,
    },
    /// The log's records do not fit together.
    #[error(transparent)]
    Books(#[from] RestoreBooksError),
    /// The root configuration is unusable.
    #[error(transparent)]
    Code(#[from] CodeMissing),
    /// The chain is unusable.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The policy is unusable.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Settlement cannot begin.
    #[error(transparent)]
    Settlement(#[from] SettlementError),
}

/// The proxy's books, in sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Books {
    /// Adjusted tokens charged to all clients.
    pub charged: AdjustedTokens,
    /// What clients pay for them.
    pub paid: Nanoton,
    /// What workers get of it.
    pub earned: Nanoton,
    /// What the proxy keeps of it.
    pub kept: Nanoton,
}

/// A running proxy. Dropping it stops it without draining.
#[derive(Debug)]
pub struct Proxy {
    core: Arc<Core>,
    http: SocketAddr,
    workers: SocketAddr,
    clients: SocketAddr,
    contract: Address,
    accepting: CancellationToken,
    tasks: TaskTracker,
    _stop: tokio_util::sync::DropGuard,
}

/// Starts a proxy. `worker_tls` and `client_tls` say what it shows and demands on its two ports.
///
/// # Errors
/// Says what stands in the way; nothing keeps running then.
pub async fn start(
    config: ProxyConfig,
    worker_tls: TlsSettings,
    client_tls: TlsSettings,
    chain: Arc<dyn Chain>,
) -> Result<Proxy, StartError> {
    allow_images(&config, &worker_tls, &chain.subscribe_root().borrow().clone())?;
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let core = open(&config, Arc::clone(&chain), &tasks, &stop).await?;
    let contract = core.look(|proxy| *proxy.contract());
    let settlement = match &config.settlement {
        Some(settlement) => Some(open_settlement(&config, settlement, &core, &chain, false).await?),
        None => None,
    };

    let bind = |address: SocketAddr, what, tls: TlsSettings| {
        let options = config.listener.clone();
        async move {
            let listen = |error| StartError::Listen { address, what, error };
            let listener = Listener::bind(&address.to_string(), tls, options).await.map_err(listen)?;
            let bound = listener.local_addr().map_err(listen)?;
            Ok::<_, StartError>((listener, bound))
        }
    };
    let (worker_listener, workers) = bind(config.workers, "workers", worker_tls.clone()).await?;
    let (client_listener, clients) = bind(config.clients, "clients", client_tls).await?;
    let listen = |error| StartError::Listen { address: config.http, what: "HTTP", error };
    let http_listener = PageListener::bind(config.http).await.map_err(listen)?;
    let http = http_listener.local_addr().map_err(listen)?;

    let accepting = stop.child_token();
    tasks.spawn(accept(Arc::clone(&core), worker_listener, Role::Worker, accepting.clone()));
    tasks.spawn(accept(Arc::clone(&core), client_listener, Role::Client, accepting.clone()));
    tasks.spawn(stop.clone().run_until_cancelled_owned(http::serve(http_listener, Arc::clone(&core))));
    if let Some(settlement) = settlement {
        core.set_settlement(settlement.report());
        let failing = Arc::clone(&core);
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            let error = settlement.run().await;
            tracing::error!(%error, "settlement cannot go on; stopping");
            failing.fail(error.to_string());
        }));
    }
    let following = follow_root(Arc::clone(&core), config, worker_tls, chain);
    tasks.spawn(stop.clone().run_until_cancelled_owned(following));
    Ok(Proxy { core, http, workers, clients, contract, accepting, tasks, _stop: stop.drop_guard() })
}

/// Reads the books, and starts what keeps them.
async fn open(
    config: &ProxyConfig,
    chain: Arc<dyn Chain>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Arc<Core>, StartError> {
    let store_path = config.store.clone();
    let (store, loaded) = tokio::task::spawn_blocking(move || {
        let store = SqliteStore::open(store_path)?;
        let loaded = store.load()?;
        Ok::<_, StoreError>((store, loaded))
    })
    .await
    .map_err(|_| StoreError::Closed)??;
    let root = chain.subscribe_root().borrow().clone();
    let settings = settings(config, root)?;
    let records = loaded.records.iter().map(|(position, bytes)| {
        Record::decode(bytes).map_err(|error| StartError::Record { position: *position, error })
    });
    let records = records.collect::<Result<Vec<_>, _>>()?;
    let snapshot = loaded.snapshot.as_ref().map(|(_, bytes)| bytes.as_ref());
    let machine = cocoon_session::proxy::Proxy::restore(settings, snapshot, records)?;
    let snapshot_at = loaded.snapshot.as_ref().map_or(0, |(position, _)| *position);
    let core = Core::new(
        machine,
        Arc::new(store),
        chain,
        tasks.clone(),
        stop.clone(),
        snapshot_at,
        config.tracing.clone(),
    );
    let core = Arc::new(core);
    tasks.spawn(stop.clone().run_until_cancelled_owned(tick(Arc::clone(&core))));
    tasks.spawn(stop.clone().run_until_cancelled_owned(Arc::clone(&core).follow_log()));
    Ok(core)
}

async fn open_settlement(
    config: &ProxyConfig,
    settlement: &SettlementConfig,
    core: &Arc<Core>,
    chain: &Arc<dyn Chain>,
    leaving: bool,
) -> Result<Settlement, StartError> {
    let identity = Identity {
        key: SigningKey::from_bytes(&config.key_seed),
        owner: config.owner,
        root: config.root_address,
        wallet: settlement.wallet.address(),
    };
    let (core, chain, settlement) = (Arc::clone(core), Arc::clone(chain), settlement.clone());
    let opened = tokio::task::spawn_blocking(move || {
        let store = core.store();
        Settlement::open(core, chain, store, settlement, identity, leaving)
    });
    Ok(opened.await.map_err(|_| StoreError::Closed)??)
}

impl Proxy {
    /// Where operators look.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// Where workers dial.
    #[must_use]
    pub fn workers_addr(&self) -> SocketAddr {
        self.workers
    }

    /// Where clients dial.
    #[must_use]
    pub fn clients_addr(&self) -> SocketAddr {
        self.clients
    }

    /// The proxy's contract.
    #[must_use]
    pub fn contract(&self) -> Address {
        self.contract
    }

    /// The books, in sums.
    #[must_use]
    pub fn books(&self) -> Books {
        self.core.look(|proxy| books(proxy.ledger()))
    }

    /// Waits until the proxy stops by itself, and says why: its log failed, and what is not logged must never be signed
    /// for, or its log is older than what was committed on chain.
    pub async fn stopped(&self) -> String {
        self.core.stopped().await.unwrap_or_else(|| "it was stopped".to_owned())
    }

    /// What settlement has reached, now and as it changes; `None` on a chain that moves nothing.
    #[must_use]
    pub fn settlement(&self) -> Option<watch::Receiver<SettlementReport>> {
        self.core.settlement()
    }

    /// Takes no new connections and requests, gives those under way ten seconds, then closes everything and makes the log
    /// durable.
    pub async fn shutdown(self) {
        self.accepting.cancel();
        // Nobody waits for the time-out's outcome: what is left then is cut.
        let _ = tokio::time::timeout(DRAIN, self.core.drain()).await;
        self.core.stop();
        self.tasks.close();
        self.tasks.wait().await;
        let core = Arc::clone(&self.core);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || core.close_store()).await {
            tracing::error!(%error, "the log was not closed cleanly");
        }
    }
}

fn books(ledger: &cocoon_ledger::Ledger) -> Books {
    let (charged, paid) = ledger.charged();
    let kept = ledger.proxy_kept();
    Books { charged, paid, kept, earned: paid.checked_sub(kept).unwrap_or_default() }
}

fn settings(config: &ProxyConfig, root: Arc<RootConfig>) -> Result<ProxySettings, StartError> {
    let key = SigningKey::from_bytes(&config.key_seed);
    let public_key = key.verifying_key().to_bytes();
    let contract = proxy_address(&root.params, &config.root_address, &config.owner, &public_key)?;
    let mut seed = [0; 32];
    rand::rng().fill_bytes(&mut seed);
    Ok(ProxySettings {
        key,
        owner: config.owner,
        contract,
        wallet: config.wallet,
        root_address: config.root_address,
        tariff: tariff(&root),
        root,
        is_test: config.is_test,
        is_testnet: config.is_testnet,
        check_models: config.check_worker_hashes,
        trust_long_authorization: config.trust_long_authorization,
        extensions: config.extensions,
        max_body_bytes: config.max_body_bytes,
        seed,
    })
}

fn allow_images(config: &ProxyConfig, tls: &TlsSettings, root: &RootConfig) -> Result<(), PolicyError> {
    if config.check_worker_hashes {
        tls.list_images(root.worker_hashes.iter().copied())?;
    }
    Ok(())
}

async fn accept(core: Arc<Core>, listener: Listener, role: Role, accepting: CancellationToken) {
    let (ready, mut connections) = mpsc::channel::<SecureStream>(16);
    let listening = tokio::spawn(accepting.clone().run_until_cancelled_owned(listener.run(ready)));
    while let Some(stream) = connections.recv().await {
        core.serve(stream, role);
    }
    // It ended because of the token.
    let _ = listening.await;
}

async fn tick(core: Arc<Core>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        core.run(|proxy, now| proxy.on_time(now));
    }
}

async fn follow_root(core: Arc<Core>, config: ProxyConfig, worker_tls: TlsSettings, chain: Arc<dyn Chain>) {
    let mut roots = chain.subscribe_root();
    while roots.changed().await.is_ok() {
        let root = roots.borrow_and_update().clone();
        tracing::info!(version = root.version, "the root configuration changed");
        if let Err(error) = allow_images(&config, &worker_tls, &root) {
            tracing::error!(%error, "the new root configuration's image hashes cannot be used");
            continue;
        }
        let tariff = tariff(&root);
        match core
            .run(|proxy, _| proxy.set_root(root, tariff).map(|changed| changed.then(|| *proxy.contract())))
        {
            Ok(None) => {}
            Ok(Some(contract)) => {
                tracing::info!(%contract, "the network's parameters changed; all contracts are new ones");
            }
            Err(error) => {
                tracing::error!(%error, "the new root configuration cannot be used; the old one stays")
            }
        }
    }
}

/// Numbers the connections of one process.
fn next_conn() -> ConnId {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    ConnId(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}
