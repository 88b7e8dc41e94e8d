//! The developer's side: an HTTP server with OpenAI's API in front of connections to one or more proxies.
//!
//! [`start`] it with a [`GatewayConfig`], TLS settings and a chain; point any OpenAI client at [`Gateway::http_addr`].
//! It is a library without globals, signal handlers or output of its own, and needs neither a TEE nor a TVM, so it can
//! live inside an application.
//!
//! A request is parsed once, gets an explicit limit of tokens, goes to the ready proxy with the fewest requests under
//! way, and is answered chunk by chunk as the engine writes. Its price is recomputed from what was received; what does
//! not agree is kept as a dispute. Prompts and answers are never logged.

mod access;
mod affinity;
mod answer;
mod attempts;
mod attestation;
mod bill;
mod body;
mod book;
mod charged;
mod claims;
mod completion;
mod config;
mod connection;
mod debug_log;
mod dispatch;
mod exchange;
mod failure;
mod gen_ai;
mod https;
mod idempotency;
mod intake;
mod io;
mod market;
mod metrics;
mod models;
mod outgoing;
mod pool;
mod price;
mod reply;
mod room;
mod routes;
mod server;
mod settle;
mod slots;
mod trail;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use cocoon_attest::{Policy, PolicyError};
use cocoon_chain::Chain;
use cocoon_ledger::Dispute;
use cocoon_net::{MonotonicClock, TlsSettings};
use cocoon_session::client::{ClientSecret, ClientSettings};
use cocoon_ton::{Address, RootConfig};
use cocoon_trace::Tracing;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::room::Room;

pub use access::{AccessConfig, OfflineKeys, OfflineReply, RequireKeys};
pub use attestation::WorkerDemands;
pub use book::{BookLoadError, Spent};
pub use cocoon_chain::settler::{Emptied, SettlementStatus, Step};
pub use config::{GatewayConfig, GatewayLimits, RetryLimits};
pub use https::{HttpsConfig, HttpsError};
pub use idempotency::IdempotencyLimits;
pub use models::{Model, ModelDetails, ModelOffer, Price, ProxyDetails};
pub use settle::{
    ChannelReport, Channels, LeaveConfig, LeaveStep, Left, OperateError, ReadError, SettlementConfig,
    SettlementReport, WalletEnd, deposit, leave, withdraw,
};

use access::{Access, TIDY_EVERY};
use attempts::RetryBudget;
use attestation::Vetting;
use book::{Book, FLUSH_EVERY};
use debug_log::DebugLog;
use https::Https;
use idempotency::Idempotency;
use metrics::Metrics;
use pool::{Dialler, Pool};
use settle::Settlement;

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The HTTP address cannot be used.
    #[error("cannot listen on {address} for HTTP: {source}; choose another port, or stop what uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The store cannot be used.
    #[error("the gateway's store: {0}")]
    Store(#[from] BookLoadError),
    /// A limit makes no sense.
    #[error("the gateway's limits: {0}")]
    Limits(String),
    /// Who may use the gateway is not settled.
    #[error("{0}")]
    Access(String),
    /// TLS for callers cannot be used.
    #[error("TLS for callers: {0}")]
    Https(#[from] HttpsError),
    /// The settlement makes no sense.
    #[error("the gateway's settlement: {0}")]
    Settlement(String),
    /// Image hashes shall be checked, but the policy asks for no evidence.
    #[error("the proxies' image hashes cannot be checked: {0}")]
    Policy(#[from] PolicyError),
    /// The demands on workers make no sense.
    #[error("the demands on workers: {0}")]
    Workers(String),
}

/// What all tasks share.
pub(crate) struct Shared {
    pub(crate) limits: GatewayLimits,
    pub(crate) wallet: Address,
    pub(crate) clock: MonotonicClock,
    pub(crate) started_unix_seconds: u64,
    pub(crate) root: watch::Receiver<Arc<RootConfig>>,
    pub(crate) pool: Pool,
    /// What is known and demanded of nodes.
    pub(crate) vetting: Vetting,
    /// What is demanded of proxies is in here.
    tls: TlsSettings,
    pub(crate) check_proxy_hashes: bool,
    pub(crate) book: Book,
    pub(crate) access: Arc<Access>,
    pub(crate) metrics: Metrics,
    pub(crate) debug_log: DebugLog,
    /// `None` where nothing moves on chain.
    pub(crate) settlement: Option<Arc<Settlement>>,
    /// For large bodies.
    pub(crate) room: Arc<Room>,
    /// With it the beginnings of requests are hashed: random, and never leaves the process.
    pub(crate) affinity_key: [u8; 32],
    pub(crate) tracing: Option<Tracing>,
    /// Which proxy served which beginning.
    pub(crate) served: affinity::Served,
    /// Whether somebody looks at the market.
    pub(crate) looks: market::Looks,
    pub(crate) retries: Mutex<RetryBudget>,
    pub(crate) idempotency: Arc<Idempotency>,
    /// Cancelled when the gateway is told to stop: what is under way goes on, and new requests are refused.
    pub(crate) draining: CancellationToken,
    /// Requests for an engine that are under way.
    pub(crate) under_way: TaskTracker,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Shared {
    /// What is demanded of proxies now.
    pub(crate) fn proxy_policy(&self) -> Arc<Policy> {
        self.tls.policy()
    }

    /// Keeps, counts and logs a dispute.
    pub(crate) fn dispute(&self, dispute: &Dispute, proxy: &[u8; 32], model: &str) {
        tracing::warn!(
            request = %dispute.request,
            proxy = %hex::encode(proxy),
            reason = dispute.reason.name(),
            claimed = dispute.claimed.total().get(),
            expected = dispute.expected.total().get(),
            "a charge does not agree with what was received"
        );
        self.metrics.disputed(dispute.reason);
        self.book.dispute(dispute, proxy, model);
    }
}

/// How long callers are given to take the last words of answers that a shutdown ends.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(2);
/// How long a shutdown waits for proxies to tell what it ended, and what was cancelled before, did cost. Workers of ours
/// say so at once.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(3);

/// A running gateway. Dropping it without [`Gateway::shutdown`] stops it at once.
#[derive(Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
    http: SocketAddr,
    plain: Option<SocketAddr>,
    requests: TaskTracker,
    background: TaskTracker,
    /// No connections that wait for a request.
    stop: CancellationToken,
    /// No requests at all.
    abort: CancellationToken,
    /// No connections to proxies.
    disconnect: CancellationToken,
    _ends: [DropGuard; 3],
}

/// Starts a gateway: listens, and begins to connect to proxies.
///
/// # Errors
/// [`StartError`]; nothing runs then.
pub async fn start(
    config: GatewayConfig,
    tls: TlsSettings,
    chain: Arc<dyn Chain>,
) -> Result<Gateway, StartError> {
    config.limits.check().map_err(StartError::Limits)?;
    config.check_settlement().map_err(StartError::Settlement)?;
    config.access.check(config.http).map_err(StartError::Access)?;
    let root = chain.subscribe_root();
    if config.check_proxy_hashes {
        tls.list_images(root.borrow().proxy_hashes.iter().copied())?;
    }
    if config.workers.is_some() && !config.extensions {
        return Err(StartError::Workers(
            "proxies cannot be told of them with extensions switched off".to_owned(),
        ));
    }
    let restrict_workers = config.workers.is_some();
    let vetting = Vetting::new(config.workers, &root.borrow())
        .map_err(|error| StartError::Workers(error.to_string()))?;
    let listen_error = |source| StartError::Listen { address: config.http, source };
    let listener = TcpListener::bind(config.http).await.map_err(listen_error)?;
    let http = listener.local_addr().map_err(listen_error)?;
    let plain = match config.https.as_ref().and_then(|https| https.plain) {
        None => None,
        Some(address) => {
            let listen_error = |source| StartError::Listen { address, source };
            Some(TcpListener::bind(address).await.map_err(listen_error)?)
        }
    };
    let plain_addr = plain.as_ref().and_then(|listener| listener.local_addr().ok());
    let acme_dir = config.https.as_ref().and_then(|https| https.acme_dir.clone());
    let https_config = config.https;
    let (path, settlement, secret) = (config.store.clone(), config.settlement.clone(), config.secret.clone());
    let (clock, access) = (MonotonicClock::start(), config.access);
    let opened = tokio::task::spawn_blocking(move || {
        let book = Book::open(&path)?;
        let settlement =
            settlement.map(|settlement| Settlement::open(settlement, &secret, chain, &book)).transpose()?;
        let access = Access::open(clock, access, http)?;
        let https = https_config.map(Https::open).transpose()?.map(Arc::new);
        Ok::<_, StartError>((book, settlement.map(Arc::new), access, https))
    })
    .await;
    let (book, settlement, access, https) = match opened {
        Ok(opened) => opened?,
        // Opening panicked or the runtime is shutting down: neither says more.
        Err(error) => {
            let detail = error.to_string();
            return Err(BookLoadError::Content { key: "the file", detail }.into());
        }
    };
    if let Some(why) = access.why_not_open(http) {
        return Err(StartError::Access(why));
    }
    let retry = config.limits.retry;
    let (requests, background) = (TaskTracker::new(), TaskTracker::new());
    let (stop, abort, disconnect) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let shared = Arc::new(Shared {
        limits: config.limits,
        wallet: config.wallet,
        clock,
        started_unix_seconds: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        root: root.clone(),
        pool: Pool::default(),
        vetting,
        tls: tls.clone(),
        check_proxy_hashes: config.check_proxy_hashes,
        book,
        access: Arc::new(access),
        metrics: Metrics::new(),
        debug_log: DebugLog::default(),
        settlement: settlement.clone(),
        room: Room::new(config.limits.max_held_bytes, config.limits.held_bytes_of_a_key()),
        idempotency: Arc::new(Idempotency::new(config.limits.idempotency, requests.clone(), abort.clone())),
        draining: CancellationToken::new(),
        under_way: TaskTracker::new(),
        affinity_key: rand::random(),
        tracing: config.tracing,
        served: affinity::Served::default(),
        looks: market::Looks::default(),
        retries: Mutex::new(RetryBudget::new(retry.budget_percent, retry.budget_floor, Instant::now())),
    });
    let settings = ClientSettings {
        wallet: config.wallet,
        is_test: config.is_test,
        is_testnet: config.is_testnet,
        // A published network of test mode, where nothing is settled, has one secret for all.
        secret: match config.settlement {
            Some(_) => ClientSecret::PerProxy(config.secret),
            None => ClientSecret::Shared(config.secret),
        },
        root: Arc::clone(&root.borrow()),
        root_address: config.root_address,
        extensions: config.extensions,
        restrict_workers,
    };
    let check_proxy_hashes = config.check_proxy_hashes;
    let dialler = Dialler { tls, options: config.dial, settings, check_proxy_hashes };
    background.spawn(attestation::run(Arc::clone(&shared), disconnect.clone()));
    background.spawn(keep_books(Arc::clone(&shared), disconnect.clone()));
    background.spawn(keep_access(Arc::clone(&shared), disconnect.clone()));
    if let Some(settlement) = settlement {
        settlement.warn_of_slow_looks(&root.borrow());
        background.spawn(settle::run(Arc::clone(&shared), settlement, disconnect.clone()));
    }
    background.spawn(pool::keep_connected(Arc::clone(&shared), dialler, config.proxies, disconnect.clone()));
    if let Some(https) = &https {
        background.spawn(https::keep_fresh(Arc::clone(https), disconnect.clone()));
    }
    if let Some(plain) = plain {
        background.spawn(https::serve_plain(plain, http, acme_dir, background.clone(), stop.clone()));
    }
    background.spawn(server::serve(
        Arc::clone(&shared),
        (listener, https),
        requests.clone(),
        stop.clone(),
        abort.clone(),
    ));
    let ends = [stop.clone().drop_guard(), abort.clone().drop_guard(), disconnect.clone().drop_guard()];
    Ok(Gateway {
        shared,
        http,
        plain: plain_addr,
        requests,
        background,
        stop,
        abort,
        disconnect,
        _ends: ends,
    })
}

/// Writes what the proxies' notices change, in groups.
async fn keep_books(shared: Arc<Shared>, stop: CancellationToken) {
    let mut failing = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(FLUSH_EVERY) => {}
            () = stop.cancelled() => return,
        }
        // What is queued stays queued where the end does not wait for it.
        match stop.run_until_cancelled(shared.book.flush()).await.unwrap_or(Ok(())) {
            Ok(()) => failing = false,
            Err(error) => {
                shared.metrics.store_faults.inc();
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "the proxies' counters cannot be stored");
                }
            }
        }
    }
}

/// Writes what callers use, in groups, and lets go of what is old.
async fn keep_access(shared: Arc<Shared>, stop: CancellationToken) {
    let mut failing = false;
    let mut tidied: Option<Instant> = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(FLUSH_EVERY) => {}
            () = stop.cancelled() => return,
        }
        let keeping = async {
            shared.access.flush().await?;
            if tidied.is_none_or(|tidied| tidied.elapsed() >= TIDY_EVERY) {
                tidied = Some(Instant::now());
                shared.access.tidy().await?;
            }
            Ok::<_, cocoon_store::StoreError>(())
        };
        match stop.run_until_cancelled(keeping).await.unwrap_or(Ok(())) {
            Ok(()) => failing = false,
            Err(error) => {
                shared.metrics.store_faults.inc();
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "keys and usage cannot be stored");
                }
            }
        }
    }
}

impl Gateway {
    /// Where it listens for HTTP.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// Where it listens without TLS, only to lead callers on.
    #[must_use]
    pub fn plain_addr(&self) -> Option<SocketAddr> {
        self.plain
    }

    /// Resolves when at least one proxy connection takes requests.
    pub async fn ready(&self) {
        // The sender lives as long as `self`.
        let _ = self.shared.pool.ready().wait_for(|ready| *ready > 0).await;
    }

    /// How the newest attempt to reach a proxy failed, while none is connected.
    #[must_use]
    pub fn last_failure(&self) -> Option<String> {
        self.shared.pool.failure()
    }

    /// What was spent over all proxies, as acknowledged by their payment notices.
    #[must_use]
    pub fn spent(&self) -> Spent {
        self.shared.book.spent()
    }

    /// How the settlement stands, now and as it changes; `None` where nothing moves on chain.
    #[must_use]
    pub fn settlement(&self) -> Option<watch::Receiver<SettlementReport>> {
        self.shared.settlement.as_ref().map(|settlement| settlement.report())
    }

    /// The models on offer now, as `/v1/models` tells them.
    #[must_use]
    pub fn models(&self) -> Vec<Model> {
        server::all_models(&self.shared)
    }

    /// Waits until what it counts cannot be stored any more, and says why. A full disk is no reason: that is waited for.
    pub async fn stopped(&self) -> String {
        tokio::select! {
            error = self.shared.book.ended() => format!("the proxies' counters cannot be stored: {error}"),
            error = self.shared.access.ended() => format!("keys and usage cannot be stored: {error}"),
        }
    }

    /// Begins to stop: requests under way go on, new ones are answered 503, and `/health` says so. Calling it some time
    /// before [`Gateway::shutdown`] gives a load balancer that time to see it.
    pub fn drain(&self) {
        self.shared.draining.cancel();
    }

    /// Refuses new requests, waits for those under way (at most [`GatewayLimits::drain_timeout`]) and for the last words on
    /// what they cost, disconnects, and stores what is to be stored.
    pub async fn shutdown(self) {
        let deadline = tokio::time::Instant::now() + self.shared.limits.drain_timeout;
        self.drain();
        self.shared.under_way.close();
        // Meanwhile whoever comes is told to come back, rather than met with a closed door.
        let _ = tokio::time::timeout_at(deadline, self.shared.under_way.wait()).await;
        self.stop.cancel();
        self.requests.close();
        if tokio::time::timeout_at(deadline, self.requests.wait()).await.is_err() {
            tracing::warn!(requests = self.requests.len(), "giving up on requests that do not end");
            // Every answer ends, and says so to its caller.
            self.shared.pool.close();
            if tokio::time::timeout(FAREWELL, self.requests.wait()).await.is_err() {
                self.abort.cancel();
                self.requests.wait().await;
            }
        }
        if tokio::time::timeout(LAST_WORDS, self.shared.access.last_words()).await.is_err() {
            tracing::warn!(
                "not all proxies have told what was ended; keys are charged the most that it can cost"
            );
        }
        self.disconnect.cancel();
        self.background.close();
        self.background.wait().await;
        let shared = Arc::clone(&self.shared);
        let closing = move || {
            let (book, access) = (shared.book.close(), shared.access.close());
            book.and(access)
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(closing).await {
            tracing::error!(%error, "not all that was counted could be stored");
        }
    }
}
