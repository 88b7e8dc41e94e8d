//! The worker role: dials proxies, takes their requests to an engine, meters the answers.
//!
//! - [`link`](self): one task per proxy keeps a connection to it (`link.rs`).
//! - [`work`](self): one task per request: engine, metering, answer (`work.rs`).
//! - [`http`](self): the operator's page: health, metrics, pause, resume, price, payout (`http.rs`).
//! - [`abilities`](self): what the engine can do (`abilities.rs`).
//! - [`body`](self): a request's body on its way from the link to the engine (`body.rs`).
//! - [`channel`](self): what is kept of each proxy over restarts (`channel.rs`).
//! - [`claims`](self): what was claimed and is not credited yet (`claims.rs`).
//! - [`model`](self): whether the model's files are still those that were checked (`model.rs`).
//! - [`price`](self): a price that follows the load (`price.rs`).
//! - [`settle`](self): one task turns what proxies have signed into coins, another sees whether they can pay (`settle.rs`).
//! - [`leave`]: the same with the node stopped, and the way out for the wallet's coins.

mod abilities;
mod body;
mod channel;
mod claims;
mod http;
mod leave;
mod link;
mod model;
mod price;
mod settle;
mod trail;
mod work;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cocoon_attest::PolicyError;
use cocoon_chain::Chain;
use cocoon_engine::Engine;
use cocoon_ledger::{AdjustedTokens, Nanoton};
use cocoon_model::CheckedModel;
use cocoon_net::{DialOptions, MonotonicClock, PageListener, TlsSettings};
use cocoon_session::Time;
use cocoon_store::{SqliteStore, Store, StoreError};
use cocoon_ton::address::Address;
use cocoon_ton::root::RootConfig;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use channel::Channels;
pub use channel::MAX_CHANNELS;
pub use cocoon_market::pricing::Bounds;
pub use cocoon_session::DEFAULT_MAX_BODY_BYTES;
pub use leave::{LeaveConfig, LeaveError, Left, Rest, leave};
pub use price::{BadFollow, FollowConfig};
use settle::Settlement;
pub use settle::{NoSettlement, ProxyDue, SettlementConfig, SettlementView};

/// How long a shutdown waits for requests under way.
const DRAIN: Duration = Duration::from_secs(10);
/// How often a shutdown looks whether they are done.
const DRAIN_CHECK: Duration = Duration::from_millis(20);
/// Prices are below this, in 1/1000.
pub const COEFFICIENT_LIMIT: u32 = 1_000_000_000;

/// What a worker needs to know.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Where operators look and steer: /health, /metrics, /jsonstats, /pause, /resume, /coefficient, /payout.
    pub http: SocketAddr,
    /// Worker ports of proxies, `host:port`; empty: those that the root configuration lists.
    pub proxies: Vec<String>,
    /// The worker's owner, who is paid.
    pub owner: Address,
    /// Full model name, `name@commit:verityhash`.
    pub model: String,
    /// The model's files, where they were read and have the hash that `model` ends with. The worker looks every half
    /// minute whether they are still the same, and takes no requests once they are not. `None`: nobody compared the
    /// name with any files.
    pub model_files: Option<CheckedModel>,
    /// Price in 1/1000 of the base price; where it follows the load, what it begins with.
    pub coefficient: u32,
    /// How the price follows the load; `None`: it is fixed.
    pub follow_load: Option<FollowConfig>,
    /// Requests at a time, over all proxies.
    pub max_active: u32,
    /// Largest body of a request, in bytes; [`DEFAULT_MAX_BODY_BYTES`].
    pub max_body_bytes: u64,
    /// The root contract.
    pub root_address: Address,
    /// Whether the network is a test network.
    pub is_test: bool,
    /// Whether addresses are written in the testnet form.
    pub is_testnet: bool,
    /// Whether to offer protocol extensions.
    pub extensions: bool,
    /// Whether proxies' image hashes must be listed in the root configuration.
    pub check_proxy_hashes: bool,
    /// How to dial.
    pub dial: DialOptions,
    /// Where the counters and the newest order of each proxy are kept.
    pub store: PathBuf,
    /// How orders are turned into coins; `None` where the chain moves none.
    pub settlement: Option<SettlementConfig>,
    /// Whether to start without taking requests.
    pub paused: bool,
    /// Where to write down what becomes of requests. `None`: nowhere.
    pub tracing: Option<cocoon_trace::Tracing>,
}

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The HTTP address cannot be listened on.
    #[error("cannot listen on {address} for HTTP: {error}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// The system's word.
        error: io::Error,
    },
    /// The counters cannot be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The policy is unusable.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A setting is out of range.
    #[error("{0}")]
    Config(String),
}

/// What a worker has earned, as its proxies acknowledged durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Earned {
    /// Adjusted tokens.
    pub tokens: AdjustedTokens,
    /// What they are worth, each at the fee of its contract.
    pub nanoton: Nanoton,
}

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    succeeded: AtomicU64,
    cancelled: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    answer_bytes: AtomicU64,
    estimated: AtomicU64,
    /// Requests for which less was credited than was claimed, and how many adjusted tokens less.
    underpaid: AtomicU64,
    missing_tokens: AtomicU64,
}

/// What all tasks of one worker share.
struct Shared {
    config: WorkerConfig,
    gen_ai: trail::GenAi,
    tls: TlsSettings,
    chain: Arc<dyn Chain>,
    engine: Arc<dyn Engine>,
    store: Arc<SqliteStore>,
    clock: MonotonicClock,
    channels: Arc<Channels>,
    settlement: Option<Arc<Settlement>>,
    links: Mutex<HashMap<String, Arc<link::Link>>>,
    active: AtomicUsize,
    paused: AtomicBool,
    model_files: model::ModelFiles,
    coefficient: AtomicU32,
    pricing: price::Pricing,
    /// What the engine can do, once that was found out.
    abilities: Mutex<Option<u32>>,
    ready: watch::Sender<usize>,
    counts: Counts,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Shared {
    fn now(&self) -> Time {
        Time(self.clock.micros())
    }

    fn root(&self) -> Arc<RootConfig> {
        self.chain.subscribe_root().borrow().clone()
    }

    fn links(&self) -> MutexGuard<'_, HashMap<String, Arc<link::Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Base name of the model, by which callers know it.
    fn model(&self) -> &str {
        self.config.model.split_once('@').map_or(&self.config.model, |(base, _)| base)
    }

    fn earned(&self) -> Earned {
        let (mut tokens, mut nanoton) = (0_u64, 0_u64);
        for channel in self.channels.list() {
            let earned = channel.books().counters.db();
            tokens = tokens.saturating_add(earned);
            nanoton = nanoton.saturating_add(earned.saturating_mul(channel.terms.fee_nanoton()));
        }
        Earned { tokens: AdjustedTokens(tokens), nanoton: Nanoton(nanoton) }
    }

    /// Whether proxies must be seen to be able to pay.
    fn asks_for_backing(&self) -> bool {
        self.settlement.as_ref().is_some_and(|settlement| settlement.require_backing())
    }

    /// Why connected proxies cannot send requests, for each that cannot.
    fn holds(&self) -> Vec<String> {
        self.links().values().filter_map(|link| link.hold_of_connected(self)).collect()
    }

    /// Whether every request is done, and every answer all out.
    fn is_quiet(&self) -> bool {
        self.active.load(Ordering::Acquire) == 0 && self.links().values().all(|link| link.is_quiet())
    }

    /// Whether no requests are taken from any proxy: because the operator said so, or the model is another one now.
    fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed) || self.model_files.fault().is_some()
    }

    fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
        self.steer();
    }

    /// Tells all proxies whether requests are taken.
    fn steer(&self) {
        for link in self.links().values() {
            link.steer(self);
        }
    }

    /// What the engine can do, as bits of [`cocoon_openai::ability`]; `None` until that was found out.
    fn abilities(&self) -> Option<u32> {
        *self.abilities.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_abilities(&self, abilities: u32) {
        *self.abilities.lock().unwrap_or_else(PoisonError::into_inner) = Some(abilities);
        for link in self.links().values() {
            link.run(self, |session, _| session.set_abilities(abilities));
        }
    }

    /// The operator's price, which follows nothing any more.
    fn set_coefficient(&self, coefficient: u32) {
        self.pricing.fix();
        self.announce(coefficient);
    }

    /// Whether a proxy may count with this price: it is the one announced, or was not long ago.
    fn asks(&self, coefficient: u32) -> bool {
        self.pricing.holds(&self.coefficient, coefficient, self.now())
    }

    /// Tells all proxies the price from now on.
    fn announce(&self, coefficient: u32) {
        self.pricing.replace(&self.coefficient, coefficient, self.now());
        for link in self.links().values() {
            link.run(self, |session, _| session.set_coefficient(coefficient));
        }
    }
}

/// A running worker. Dropping it stops it without draining.
pub struct Worker {
    shared: Arc<Shared>,
    http: SocketAddr,
    _stop: DropGuard,
}

/// Starts a worker with an engine.
///
/// # Errors
/// Says what stands in the way; nothing keeps running then.
pub async fn start(
    mut config: WorkerConfig,
    tls: TlsSettings,
    chain: Arc<dyn Chain>,
    engine: Arc<dyn Engine>,
) -> Result<Worker, StartError> {
    if config.coefficient >= COEFFICIENT_LIMIT {
        return Err(StartError::Config(format!("the coefficient must be below {COEFFICIENT_LIMIT}")));
    }
    if config.max_active == 0 || config.model.is_empty() {
        return Err(StartError::Config(
            "a worker needs a model name and room for at least one request".into(),
        ));
    }
    let model_files =
        model::ModelFiles::new(config.model_files.take(), &config.model).map_err(StartError::Config)?;
    let (pricing, coefficient) = price::Pricing::new(config.follow_load, config.coefficient)
        .map_err(|error| StartError::Config(error.to_string()))?;
    let path = config.store.clone();
    let (store, channels) = open_store(path).await?;
    let listen = |error| StartError::Listen { address: config.http, error };
    let listener = PageListener::bind(config.http).await.map_err(listen)?;
    let http = listener.local_addr().map_err(listen)?;
    let stop = CancellationToken::new();
    let settlement = config
        .settlement
        .take()
        .map(|config| Arc::new(Settlement::new(config, Arc::clone(&chain), Arc::clone(&channels))));
    let shared = Arc::new(Shared {
        gen_ai: trail::GenAi::new(),
        paused: AtomicBool::new(config.paused),
        model_files,
        coefficient: AtomicU32::new(coefficient),
        pricing,
        abilities: Mutex::default(),
        config,
        tls,
        chain,
        engine,
        store,
        clock: MonotonicClock::start(),
        channels,
        settlement,
        links: Mutex::default(),
        active: AtomicUsize::new(0),
        ready: watch::Sender::new(0),
        counts: Counts::default(),
        tasks: TaskTracker::new(),
        stop: stop.clone(),
    });
    shared.tasks.spawn(stop.clone().run_until_cancelled_owned(http::serve(listener, Arc::clone(&shared))));
    link::follow_root(&shared)?;
    if let Some(every) = shared.pricing.every() {
        shared.tasks.spawn(stop.clone().run_until_cancelled_owned(price::follow(Arc::clone(&shared), every)));
    }
    shared.tasks.spawn(stop.clone().run_until_cancelled_owned(abilities::watch(Arc::clone(&shared))));
    if shared.model_files.is_checked() {
        shared.tasks.spawn(stop.clone().run_until_cancelled_owned(model::watch(Arc::clone(&shared))));
    }
    if let Some(settlement) = &shared.settlement {
        shared.tasks.spawn(stop.clone().run_until_cancelled_owned(Arc::clone(settlement).run()));
        if settlement.require_backing() {
            shared.tasks.spawn(stop.clone().run_until_cancelled_owned(Arc::clone(settlement).watch()));
        }
    }
    Ok(Worker { shared, http, _stop: stop.drop_guard() })
}

/// Opens the store and reads what it knows of proxies.
async fn open_store(path: PathBuf) -> Result<(Arc<SqliteStore>, Arc<Channels>), StoreError> {
    let opening = tokio::task::spawn_blocking(move || {
        let store = Arc::new(SqliteStore::open(&path)?);
        let channels = Channels::load(Arc::clone(&store), &path)?;
        Ok((store, Arc::new(channels)))
    });
    opening.await.map_err(|_| StoreError::Closed)?
}

impl Worker {
    /// Where operators look.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// Waits until at least one proxy can send requests: it is connected and, where that is asked for, can pay.
    pub async fn ready(&self) {
        // The sender lives as long as `self`.
        let _ = self.shared.ready.subscribe().wait_for(|&ready| ready > 0).await;
    }

    /// What was earned.
    #[must_use]
    pub fn earned(&self) -> Earned {
        self.shared.earned()
    }

    /// How settlement stands; `None` where there is none.
    #[must_use]
    pub fn settlement(&self) -> Option<SettlementView> {
        self.shared.settlement.as_ref().map(|settlement| settlement.view())
    }

    /// Asks for everything that a proxy owes to be paid now, where that is worth at least so much
    /// ([`cocoon_settle::WORTH_FETCHING_NANOTON`] is sensible). What cannot be paid at once is paid as soon as it can.
    /// Gives what each proxy owes, as last seen.
    ///
    /// # Errors
    /// The worker was started without a settlement.
    pub fn pay_out(&self, from_nanoton: u64) -> Result<Vec<ProxyDue>, NoSettlement> {
        self.shared.settlement.as_ref().map(|settlement| settlement.pay_out(from_nanoton)).ok_or(NoSettlement)
    }

    /// Takes no requests for now, or takes them again from proxies that can pay. Those under way go on.
    pub fn set_paused(&self, paused: bool) {
        self.shared.set_paused(paused);
    }

    /// Changes the price, in 1/1000, for requests to come. It follows the load no more.
    ///
    /// # Errors
    /// The price is out of range.
    pub fn set_coefficient(&self, coefficient: u32) -> Result<(), StartError> {
        if coefficient >= COEFFICIENT_LIMIT {
            return Err(StartError::Config(format!("the coefficient must be below {COEFFICIENT_LIMIT}")));
        }
        self.shared.set_coefficient(coefficient);
        Ok(())
    }

    /// Waits until what it earns cannot be stored any more, and says why. A full disk is no reason: that is waited for.
    pub async fn stopped(&self) -> String {
        format!("what it earned cannot be stored: {}", cocoon_store::ended(&*self.shared.store).await)
    }

    /// Takes no new requests, gives those under way ten seconds, then closes everything.
    pub async fn shutdown(self) {
        self.shared.set_paused(true);
        let quiet = async {
            while !self.shared.is_quiet() {
                tokio::time::sleep(DRAIN_CHECK).await;
            }
        };
        // What is left after the time-out is cut.
        let _ = tokio::time::timeout(DRAIN, quiet).await;
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        self.shared.channels.flush();
        let store = Arc::clone(&self.shared.store);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || store.close()).await {
            tracing::error!(%error, "the counters were not closed cleanly");
        }
    }
}
