//! Starts one role from its configuration. `cocoon up` starts all of them the same way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use cocoon_attest::{EvidenceKind, EvidenceSource};
use cocoon_chain::{Chain, StaticChain, ToncenterChain, ToncenterOptions};
use cocoon_engine::Engine;
use cocoon_engine::builtin::{EXTRACTIVE_SUMMARY_MODEL, ExtractiveSummary};
use cocoon_engine::upstream::{HttpEngine, HttpEngineOptions};
use cocoon_gateway::{AccessConfig, Gateway, GatewayConfig, WorkerDemands};
use cocoon_net::{
    Clock, DialOptions, Judge, NodeIdentity, NodeKey, SystemClock, TlsSettings, spawn_rotation,
};
use cocoon_openai::ability;
use cocoon_proxy::{Proxy, ProxyConfig};
use cocoon_tee::sealing::SealingKey;
use cocoon_ton::{Address, SigningKey, Wallet};
use cocoon_worker::{Worker, WorkerConfig};
use zeroize::Zeroizing;

use crate::attestation::{self, Judging, Whom, real_enough};
use crate::config::{
    ChainFile, EngineFile, GatewayFile, Present, ProxyFile, Require, RoleFile, Root, WorkerFile, required,
};
use crate::dir::StateDir;
use crate::doctor;
use crate::keys;
use crate::model_files;
use crate::open_files;
use crate::signals::{Asked, Signals};
use crate::telemetry::Telemetry;

/// The key of a node's certificate, by which peers know it.
const NODE_KEY: &str = "node-key.hex";
/// The key of a node's wallet.
pub(crate) const WALLET_KEY: &str = "wallet-key.hex";
/// The key with which a proxy signs payment orders.
const PAYMENT_KEY: &str = "payment-key.hex";
/// The secret by which proxies know a gateway again; its hash stands on chain.
const CLIENT_SECRET: &str = "client-secret.hex";
/// Where a node keeps its books.
const LEDGER: &str = "ledger.sqlite";
/// Where a gateway keeps API keys and what was used.
pub(crate) const ACCESS: &str = "access.sqlite";
/// What opens a gateway's admin API.
pub(crate) const ADMIN_TOKEN: &str = "admin-token.hex";
/// Where a gateway's admin API was found at its last start.
pub(crate) const ADMIN_ADDRESS: &str = "admin-url.txt";
/// Longest secret that authorises a client, in bytes.
const MAX_SECRET_BYTES: u64 = 1024;

/// A running role, its directory, and its certificate's renewal.
pub(crate) struct Running<T> {
    /// The role.
    pub(crate) role: T,
    _dir: StateDir,
    _rotation: tokio_util::task::AbortOnDropHandle<()>,
    telemetry: Option<Telemetry>,
}

impl Running<Gateway> {
    /// Ends it in order.
    pub(crate) async fn shutdown(self) {
        self.role.shutdown().await;
        finish(self.telemetry).await;
    }
}

impl Running<Proxy> {
    /// Ends it in order.
    pub(crate) async fn shutdown(self) {
        self.role.shutdown().await;
        finish(self.telemetry).await;
    }
}

impl Running<Worker> {
    /// Ends it in order.
    pub(crate) async fn shutdown(self) {
        self.role.shutdown().await;
        finish(self.telemetry).await;
    }
}

/// Sends the last spans.
async fn finish(telemetry: Option<Telemetry>) {
    if let Some(telemetry) = telemetry {
        // It fails only where the runtime is ending, too.
        let _ = tokio::task::spawn_blocking(move || telemetry.finish()).await;
    }
}

/// Runs a gateway until a signal ends it.
///
/// # Errors
/// What stands in the way of its start, or [`crate::signals::Interrupted`].
pub(crate) async fn run_gateway(file: &GatewayFile, signals: &mut Signals) -> anyhow::Result<()> {
    let chain = Backend::open(GatewayFile::ROLE, &file.root, &file.chain).await?;
    let gateway = start_gateway(file, &chain).await?;
    let address = gateway.role.http_addr();
    let scheme = if file.tls.cert_file.is_some() { "https" } else { "http" };
    let plain = gateway.role.plain_addr().map(|address| address.to_string());
    let openai_base_url = format!("{scheme}://{address}/v1");
    tracing::info!(http = %address, openai_base_url, plain, "the gateway is listening");
    let failure = wait(signals, &chain, gateway.role.stopped()).await;
    signals.unless_stopped(gateway.shutdown()).await?;
    outcome(failure.map(|why| stopped(GatewayFile::ROLE, &why)))
}

/// Runs a proxy until a signal ends it.
///
/// # Errors
/// As [`run_gateway`].
pub(crate) async fn run_proxy(file: &ProxyFile, signals: &mut Signals) -> anyhow::Result<()> {
    let chain = Backend::open(ProxyFile::ROLE, &file.root, &file.chain).await?;
    let proxy = start_proxy(file, &chain).await?;
    let role = &proxy.role;
    let (http, workers, clients) = (role.http_addr(), role.workers_addr(), role.clients_addr());
    tracing::info!(%http, %workers, %clients, contract = %role.contract(), "the proxy is listening");
    let failure = wait(signals, &chain, proxy.role.stopped()).await;
    signals.unless_stopped(proxy.shutdown()).await?;
    outcome(failure.map(|why| stopped(ProxyFile::ROLE, &why)))
}

/// Runs a worker until a signal ends it.
///
/// # Errors
/// As [`run_gateway`].
pub(crate) async fn run_worker(file: &WorkerFile, signals: &mut Signals) -> anyhow::Result<()> {
    let chain = Backend::open(WorkerFile::ROLE, &file.root, &file.chain).await?;
    let engine = open_engine(&file.engine, file.max_active as usize)?;
    if let Some(model) = &file.model {
        warn_unless_serving(engine.as_ref(), model.split('@').next().unwrap_or(model)).await;
    }
    // Reading a model can take minutes.
    let worker = signals.unless_stopped(start_worker(file, &chain, engine)).await??;
    tracing::info!(http = %worker.role.http_addr(), "the worker is listening");
    let failure = wait(signals, &chain, worker.role.stopped()).await;
    signals.unless_stopped(worker.shutdown()).await?;
    outcome(failure.map(|why| stopped(WorkerFile::ROLE, &why)))
}

/// Starts a gateway.
///
/// # Errors
/// What stands in the way; nothing keeps running then.
pub(crate) async fn start_gateway(file: &GatewayFile, backend: &Backend) -> anyhow::Result<Running<Gateway>> {
    let root_address = *root_address(GatewayFile::ROLE, &file.root)?;
    let shown = &file.attestation;
    let demand = ("attestation.require", shown.require);
    real_enough(&file.root, demand, ("check_proxy_hashes", file.check_proxy_hashes))?;
    let dir = open_dir(file)?;
    let policy = shown.policy_file.as_deref();
    let judging = Judging::open(
        policy,
        &[shown.require, shown.require_of_workers],
        &file.root,
        &file.collateral,
        Some(dir.path()),
    )?;
    let tls = Tls::open(file, &dir, judging)?;
    let (wallet, key) = wallet(&dir, owner(file.owner, Some(&tls), &file.root, backend)?)?;
    let address = wallet.address();
    let settlement = backend.settles.then(|| gateway_settlement(file, backend, wallet, key));
    let telemetry = Telemetry::start(GatewayFile::ROLE, &file.telemetry)?;
    let config = GatewayConfig {
        http: file.http,
        proxies: file.proxies.clone(),
        wallet: address,
        secret: secret(file.secret_file.as_deref(), &dir, backend)?,
        root_address,
        is_test: file.root.is_test,
        is_testnet: file.root.is_testnet,
        extensions: file.extensions,
        check_proxy_hashes: file.check_proxy_hashes,
        workers: worker_demands(file, &tls)?,
        dial: dial(file.pow.max_difficulty),
        store: dir.path().join(LEDGER),
        settlement,
        access: access(file, &dir)?,
        https: file.tls.https()?,
        limits: file.limits.into(),
        tracing: telemetry.as_ref().map(Telemetry::tracing),
    };
    open_files::warn_unless_enough("limits.max_connections", config.limits.max_connections);
    let has_tls = config.https.is_some();
    let settings = tls.settings(shown.require, Whom::Proxy)?;
    let role = cocoon_gateway::start(config, settings, Arc::clone(&backend.chain))
        .await
        .context("cannot start the gateway")?;
    // Where `cocoon keys` finds it, whatever the flags and the system made of the address.
    let address = AdminAddress::of(role.http_addr(), has_tls);
    crate::dir::write_whole(&dir.path().join(ADMIN_ADDRESS), &format!("{}\n", address.url))?;
    Ok(Running { role, _dir: dir, _rotation: tls.rotate(), telemetry })
}

/// Who may use a gateway. The token for its admin API is made where there is none.
fn access(file: &GatewayFile, dir: &StateDir) -> anyhow::Result<AccessConfig> {
    let token_file = dir.path().join(ADMIN_TOKEN);
    let is_new = !token_file.exists();
    // Not sealed: whoever may administer the gateway reads it.
    let token = keys::load_or_create(&token_file, None)?;
    if is_new {
        tracing::info!(file = %token_file.display(), "made the token for the admin API");
    }
    let mut access = AccessConfig::new(dir.path().join(ACCESS));
    access.require_keys = file.access.require_keys.into();
    access.allowed_hosts.clone_from(&file.access.allowed_hosts);
    access.allowed_origins.clone_from(&file.access.allowed_origins);
    access.usage_days = file.access.usage_days;
    access.admin_token = Some(Zeroizing::new(hex::encode(*token)));
    Ok(access)
}

/// Where a gateway's admin API is found on this machine.
pub(crate) struct AdminAddress {
    pub(crate) url: String,
}

impl AdminAddress {
    fn of(http: SocketAddr, has_tls: bool) -> Self {
        let ip = match http.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        let scheme = if has_tls { "https" } else { "http" };
        Self { url: format!("{scheme}://{}", SocketAddr::from((ip, http.port()))) }
    }
}

/// What a gateway demands of workers itself; `None` where it leaves them to its proxies.
fn worker_demands(file: &GatewayFile, tls: &Tls) -> anyhow::Result<Option<WorkerDemands>> {
    let require = file.attestation.require_of_workers;
    if require == Require::Any {
        return Ok(None);
    }
    if !file.extensions {
        bail!(
            "attestation.require_of_workers needs extensions = true: others pass no evidence of workers on"
        );
    }
    let (judging, clock) = (&tls.judging, Arc::clone(&tls.clock));
    let policy = judging.policy(require, Whom::Worker)?;
    let judge = Judge::new(judging.verifiers(), policy, Some(judging.collateral()), clock);
    Ok(Some(WorkerDemands { judge, listed_images: file.check_worker_hashes }))
}

/// Starts a proxy.
///
/// # Errors
/// As [`start_gateway`].
pub(crate) async fn start_proxy(file: &ProxyFile, backend: &Backend) -> anyhow::Result<Running<Proxy>> {
    if file.trust_long_authorization && !file.root.is_test && !backend.settles {
        bail!("trust_long_authorization lets anyone spend as anyone: set it to false outside a test network");
    }
    let shown = &file.attestation;
    let demand = ("attestation.require_of_workers", shown.require_of_workers);
    real_enough(&file.root, demand, ("check_worker_hashes", file.check_worker_hashes))?;
    let dir = open_dir(file)?;
    let policy = shown.policy_file.as_deref();
    let judging = Judging::open(
        policy,
        &[shown.require_of_workers, shown.require_of_clients],
        &file.root,
        &file.collateral,
        Some(dir.path()),
    )?;
    let tls = Tls::open(file, &dir, judging)?;
    let telemetry = Telemetry::start(ProxyFile::ROLE, &file.telemetry)?;
    let mut config = proxy_config(file, &dir, Some(&tls), backend)?;
    config.tracing = telemetry.as_ref().map(Telemetry::tracing);
    // Each of the two ports has so many.
    open_files::warn_unless_enough("limits.max_connections", file.limits.max_connections.saturating_mul(2));
    let worker_tls = tls.settings(shown.require_of_workers, Whom::Worker)?;
    let client_tls = tls.settings(shown.require_of_clients, Whom::Client)?;
    let chain = Arc::clone(&backend.chain);
    let role =
        cocoon_proxy::start(config, worker_tls, client_tls, chain).await.context("cannot start the proxy")?;
    Ok(Running { role, _dir: dir, _rotation: tls.rotate(), telemetry })
}

fn proxy_config(
    file: &ProxyFile,
    dir: &StateDir,
    tls: Option<&Tls>,
    backend: &Backend,
) -> anyhow::Result<ProxyConfig> {
    let owner = owner(file.owner, tls, &file.root, backend)?;
    let (wallet, key) = wallet(dir, owner)?;
    let settlement = backend.settles.then(|| cocoon_proxy::SettlementConfig {
        wallet: wallet.clone(),
        key,
        policy: file.money.into(),
        poll: file.chain.poll(),
        min_pause: file.chain.min_pause(),
    });
    Ok(ProxyConfig {
        http: file.http,
        workers: file.listen_workers,
        clients: file.listen_clients,
        key_seed: self::key(dir, PAYMENT_KEY)?,
        owner,
        wallet: wallet.address(),
        root_address: *root_address(ProxyFile::ROLE, &file.root)?,
        is_test: file.root.is_test,
        is_testnet: file.root.is_testnet,
        check_worker_hashes: file.check_worker_hashes,
        // A chain that carries registrations makes trust superfluous.
        trust_long_authorization: file.trust_long_authorization && !backend.settles,
        extensions: file.extensions,
        max_body_bytes: file.limits.max_body_bytes.get(),
        store: dir.path().join(LEDGER),
        settlement,
        listener: file.listener(),
        tracing: None,
    })
}

/// Starts a worker.
///
/// # Errors
/// As [`start_gateway`].
pub(crate) async fn start_worker(
    file: &WorkerFile,
    backend: &Backend,
    engine: Arc<dyn Engine>,
) -> anyhow::Result<Running<Worker>> {
    let builtin = format!("{EXTRACTIVE_SUMMARY_MODEL}@builtin:0");
    let model = match &file.model {
        None if file.engine.builtin && file.model_path.is_none() => &builtin,
        model => {
            let hint = "name what the engine serves, NAME@COMMIT:VERITYHASH";
            required(WorkerFile::ROLE, "model", model.as_ref(), hint)?
        }
    };
    let root_address = *root_address(WorkerFile::ROLE, &file.root)?;
    let shown = &file.attestation;
    let demand = ("attestation.require", shown.require);
    real_enough(&file.root, demand, ("check_proxy_hashes", file.check_proxy_hashes))?;
    engine_within(file)?;
    let dir = open_dir(file)?;
    let (model, model_files) = model_files::checked(model, file.model_path.as_deref()).await?;
    let policy = shown.policy_file.as_deref();
    let judging = Judging::open(policy, &[shown.require], &file.root, &file.collateral, Some(dir.path()))?;
    let tls = Tls::open(file, &dir, judging)?;
    let owner = owner(file.owner, Some(&tls), &file.root, backend)?;
    let (wallet, key) = wallet(&dir, owner)?;
    let settlement = backend.settles.then(|| worker_settlement(file, wallet, key));
    let telemetry = Telemetry::start(WorkerFile::ROLE, &file.telemetry)?;
    let config = WorkerConfig {
        http: file.http,
        proxies: file.proxies.clone(),
        owner,
        model,
        model_files,
        coefficient: file.coefficient,
        follow_load: file.price.follow()?,
        max_active: file.max_active,
        max_body_bytes: file.max_body_bytes.get(),
        root_address,
        is_test: file.root.is_test,
        is_testnet: file.root.is_testnet,
        extensions: file.extensions,
        check_proxy_hashes: file.check_proxy_hashes,
        dial: dial(file.pow.max_difficulty),
        store: dir.path().join(LEDGER),
        settlement,
        paused: file.paused,
        tracing: telemetry.as_ref().map(Telemetry::tracing),
    };
    // One to the engine for each request.
    open_files::warn_unless_enough("max_active", file.max_active as usize);
    let settings = tls.settings(shown.require, Whom::Proxy)?;
    let chain = Arc::clone(&backend.chain);
    let role =
        cocoon_worker::start(config, settings, chain, engine).await.context("cannot start the worker")?;
    Ok(Running { role, _dir: dir, _rotation: tls.rotate(), telemetry })
}

/// A worker's evidence speaks for its own machine: an engine on another one sees every prompt, and nothing proves what it
/// is.
///
/// # Errors
/// The engine is elsewhere, and real evidence would be shown for it.
fn engine_within(file: &WorkerFile) -> anyhow::Result<()> {
    let Some(url) = file.engine.url.as_deref().filter(|url| !doctor::is_local(url)) else { return Ok(()) };
    match file.attestation.present {
        Present::Tdx | Present::SevSnp | Present::Auto => bail!(
            "the engine at {url} is on another machine: it would see every prompt, and this machine's evidence says \
             nothing about it. Run the engine in this machine, or set attestation.present = \"none\""
        ),
        _ => tracing::warn!(
            url,
            "the engine is on another machine, which sees every prompt and proves nothing"
        ),
    }
    Ok(())
}

/// What a stopped gateway's money is handled with.
///
/// # Errors
/// The owner is not configured, or a key cannot be used.
pub(crate) fn gateway_till(
    file: &GatewayFile,
    dir: &StateDir,
    backend: &Backend,
) -> anyhow::Result<cocoon_gateway::LeaveConfig> {
    let (wallet, key) = wallet(dir, named_owner(file.owner)?)?;
    let settlement = gateway_settlement(file, backend, wallet, key);
    Ok(cocoon_gateway::LeaveConfig { store: dir.path().join(LEDGER), settlement })
}

/// What a stopped proxy is wound up with.
///
/// # Errors
/// As [`gateway_till`].
pub(crate) fn proxy_till(file: &ProxyFile, dir: &StateDir, backend: &Backend) -> anyhow::Result<ProxyConfig> {
    proxy_config(file, dir, None, backend)
}

/// What a stopped worker's money is handled with; `exit`: whether its wallet is emptied, too.
///
/// # Errors
/// As [`gateway_till`].
pub(crate) fn worker_till(
    file: &WorkerFile,
    dir: &StateDir,
    exit: bool,
) -> anyhow::Result<cocoon_worker::LeaveConfig> {
    let owner = named_owner(file.owner)?;
    let (wallet, key) = wallet(dir, owner)?;
    let settlement = worker_settlement(file, wallet, key);
    Ok(cocoon_worker::LeaveConfig { store: dir.path().join(LEDGER), owner, settlement, exit })
}

fn gateway_settlement(
    file: &GatewayFile,
    backend: &Backend,
    wallet: Wallet,
    key: SigningKey,
) -> cocoon_gateway::SettlementConfig {
    let min_stake = backend.chain.subscribe_root().borrow().params.min_client_stake_nanoton;
    cocoon_gateway::SettlementConfig {
        wallet,
        key,
        policy: file.money.policy(min_stake),
        poll: file.chain.poll(),
        min_pause: file.chain.min_pause(),
    }
}

fn worker_settlement(file: &WorkerFile, wallet: Wallet, key: SigningKey) -> cocoon_worker::SettlementConfig {
    cocoon_worker::SettlementConfig {
        wallet,
        key,
        policy: file.money.into(),
        require_backing: file.money.require_backing,
        poll: file.chain.poll(),
        min_pause: file.chain.min_pause(),
    }
}

/// The engine that a worker's configuration names, for up to `at_once` requests at a time.
///
/// # Errors
/// It names none or both, or the URL cannot be that of an engine.
pub(crate) fn open_engine(file: &EngineFile, at_once: usize) -> anyhow::Result<Arc<dyn Engine>> {
    match (&file.url, file.builtin) {
        (Some(url), false) => open_upstream(url, at_once, file.abilities.as_deref()),
        (None, true) if file.abilities.is_some() => {
            bail!("the built-in engine says itself what it can do; engine.abilities goes with engine.url")
        }
        (None, true) => Ok(Arc::new(ExtractiveSummary::new())),
        (None, false) => bail!(
            "no engine: set engine.url to an OpenAI-style server such as http://127.0.0.1:8000, \
             or engine.builtin = true for the built-in summariser"
        ),
        (Some(_), true) => bail!("two engines: either engine.url or engine.builtin = true, not both"),
    }
}

/// An OpenAI-style server as the engine, for up to `at_once` requests at a time; what it can do is found out, unless it is
/// stated.
///
/// # Errors
/// The URL cannot be that of an engine, or there is no such ability.
pub(crate) fn open_upstream(
    url: &str,
    at_once: usize,
    abilities: Option<&[String]>,
) -> anyhow::Result<Arc<dyn Engine>> {
    let abilities = abilities.map(ability_bits).transpose()?;
    let usual = HttpEngineOptions::default();
    // A request that a worker takes must find a connection; the probe needs one beside them.
    let max_connections = usual.max_connections.max(at_once.saturating_add(1));
    let engine = HttpEngine::new(url, HttpEngineOptions { max_connections, abilities, ..usual });
    Ok(Arc::new(engine.with_context(|| format!("the engine's URL {url:?}"))?))
}

fn ability_bits(names: &[String]) -> anyhow::Result<u32> {
    if names.is_empty() {
        bail!("engine.abilities is empty: such a worker would get no requests");
    }
    names.iter().try_fold(0, |bits, name| {
        let known = ability::NAMES.iter().find(|(_, known)| known == name);
        let (bit, _) = known.with_context(|| {
            let all: Vec<_> = ability::NAMES.iter().map(|(_, name)| *name).collect();
            format!("engine.abilities: there is no ability {name:?}; there are {}", all.join(", "))
        })?;
        Ok(bits | bit)
    })
}

/// Asks an engine whether it serves a model, by its base name. What is wrong may be right soon, so it is only logged.
pub(crate) async fn warn_unless_serving(engine: &dyn Engine, model: &str) {
    let health = engine.probe().await;
    if !health.ready {
        let detail = health.detail.unwrap_or_default();
        tracing::warn!(detail, "the engine is not ready; requests will fail until it is");
    } else if !health.models.is_empty() && !health.models.iter().any(|name| name == model) {
        tracing::warn!(model, lists = health.models.join(", "), "the engine does not list the model");
    }
}

/// The chain that a role works with.
pub(crate) struct Backend {
    /// The chain.
    pub(crate) chain: Arc<dyn Chain>,
    /// Whether coins move on it.
    pub(crate) settles: bool,
    /// The chain again, where it is a file that can change.
    file: Option<Arc<StaticChain>>,
}

impl Backend {
    /// A chain on which coins move.
    pub(crate) fn settling(chain: Arc<dyn Chain>) -> Self {
        Self { chain, settles: true, file: None }
    }

    /// The chain that a configuration names: a server, or a fixed root configuration.
    ///
    /// # Errors
    /// It is not named, or cannot be used.
    pub(crate) async fn open(role: &str, root: &Root, chain: &ChainFile) -> anyhow::Result<Self> {
        if let Some(url) = &chain.url {
            let toncenter = open_toncenter(url, chain, *root_address(role, root)?, root.is_test).await?;
            return Ok(Self::settling(Arc::new(toncenter)));
        }
        if !root.is_test {
            bail!(
                "root.is_test = false is a network with real coins: name a server with its chain's API in chain.url"
            );
        }
        let hint =
            "name a server with the chain's API in chain.url, or the JSON file of a fixed root configuration";
        let file = required(role, "root.file", root.file.as_ref(), hint)?;
        let hint = "cannot read the root configuration";
        let chain = Arc::new(StaticChain::from_file(file.clone()).await.context(hint)?);
        Ok(Self { chain: chain.clone(), settles: false, file: Some(chain) })
    }
}

/// A chain behind a server with toncenter's API.
///
/// # Errors
/// It cannot be reached, or has no such root contract.
async fn open_toncenter(
    url: &str,
    file: &ChainFile,
    root: Address,
    is_test: bool,
) -> anyhow::Result<ToncenterChain> {
    let mut options = ToncenterOptions::new(url, root, is_test);
    let api_key = file.api_key_file.as_deref().map(|path| keys::load_text(path, MAX_SECRET_BYTES));
    options.api_key = api_key.transpose()?;
    options.requests_per_second = file.requests_per_second;
    options.poll_every = file.poll();
    ToncenterChain::open(options).await.with_context(|| format!("the chain at {url}"))
}

/// Until the process shall end; why, where a role has `stopped` by itself. On SIGHUP a fixed root configuration is read
/// again.
async fn wait(
    signals: &mut Signals,
    backend: &Backend,
    stopped: impl Future<Output = String>,
) -> Option<String> {
    let asked = async {
        while signals.next().await == Asked::Reload {
            let Some(file) = &backend.file else { continue };
            match file.reload().await {
                Ok(changed) => tracing::info!(changed, "read the root configuration again"),
                Err(error) => tracing::error!(%error, "the root configuration stays as it was"),
            }
        }
    };
    tokio::select! {
        () = asked => {
            tracing::info!("finishing requests under way; a second signal ends at once");
            None
        }
        why = stopped => Some(why),
    }
}

/// Of a role that has stopped by itself.
pub(crate) fn stopped(role: &str, why: &str) -> String {
    format!("the {role} stopped: {why}")
}

/// How a process ends in which something may have stopped by itself.
///
/// # Errors
/// It has, for this reason.
pub(crate) fn outcome(failure: Option<String>) -> anyhow::Result<()> {
    failure.map_or(Ok(()), |why| Err(anyhow::Error::msg(why)))
}

/// A stopped node's directory, or one that is about to start: held, and with what seals its keys.
///
/// # Errors
/// It is in use, or the machine that is configured cannot be used.
pub(crate) fn open_dir<T: RoleFile>(file: &T) -> anyhow::Result<StateDir> {
    let sealing = sealing(file)?;
    Ok(StateDir::open(file.dir())?.sealed(sealing))
}

/// What seals a node's keys; `None` where they lie open.
///
/// # Errors
/// The machine that is configured cannot be used.
pub(crate) fn sealing<T: RoleFile>(file: &T) -> anyhow::Result<Option<Arc<dyn SealingKey>>> {
    attestation::sealing(image::<T>(), &file.shown(), file.root())
}

/// The name of the image that a role runs in where its machine is simulated.
pub(crate) fn image<T: RoleFile>() -> &'static str {
    // One image for all roles would be as good; two show that each is checked.
    if T::ROLE == WorkerFile::ROLE { "cocoon worker" } else { "cocoon proxy" }
}

/// A node's key with its evidence, and what it takes to judge peers, from which the settings of each port are made.
struct Tls {
    identity: Arc<NodeIdentity>,
    judging: Judging,
    clock: Arc<dyn Clock>,
}

impl Tls {
    fn open<T: RoleFile>(file: &T, dir: &StateDir, judging: Judging) -> anyhow::Result<Self> {
        let source = attestation::source(image::<T>(), &file.shown(), file.root())?;
        let key = node_key(dir, source.as_ref())?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let identity = NodeIdentity::new(key, source, clock.now()).context("cannot make the certificate")?;
        Ok(Self { identity, judging, clock })
    }

    fn settings(&self, require: Require, whom: Whom) -> anyhow::Result<TlsSettings> {
        let (policy, judging) = (self.judging.policy(require, whom)?, &self.judging);
        let collateral = Some(judging.collateral());
        let clock = Arc::clone(&self.clock);
        TlsSettings::new(Arc::clone(&self.identity), judging.verifiers(), policy, collateral, clock)
            .context("cannot set up TLS")
    }

    fn rotate(self) -> tokio_util::task::AbortOnDropHandle<()> {
        spawn_rotation(self.identity, self.clock)
    }
}

/// The configured owner. Where coins are simulated, one that follows from the node's key will do.
fn owner(
    configured: Option<Address>,
    tls: Option<&Tls>,
    root: &Root,
    backend: &Backend,
) -> anyhow::Result<Address> {
    match (configured, tls) {
        (None, Some(tls)) if root.is_test && !backend.settles => {
            Ok(Address::basechain(tls.identity.public_key()))
        }
        (configured, _) => named_owner(configured),
    }
}

/// The owner, where there must be one.
///
/// # Errors
/// None is configured, or one of another workchain.
pub(crate) fn named_owner(configured: Option<Address>) -> anyhow::Result<Address> {
    let owner = configured.context(
        "owner is missing: the address that this node's coins go to in the end; `cocoon wallet create` makes one",
    )?;
    if owner.workchain() != 0 {
        bail!(
            "owner {owner} is an account of workchain {}; wallets live in the basechain, whose addresses begin with \
             0: in their raw form",
            owner.workchain()
        );
    }
    Ok(owner)
}

/// A key of the node; made where the directory is new. Where there are books, a missing key is lost, not new: another one
/// would be another node, without this one's money.
fn key(dir: &StateDir, name: &str) -> anyhow::Result<keys::Secret> {
    let path = dir.path().join(name);
    if dir.path().join(LEDGER).exists() && !path.exists() {
        bail!(
            "the key file {} is missing beside {LEDGER}; restore it from a backup, or move the directory away to start \
             as a new node",
            path.display()
        );
    }
    keys::load_or_create(&path, dir.sealing())
}

/// The key that the node's evidence speaks for. Whoever runs a machine can read its disk, so where hardware vouches for
/// the key and nothing seals it, it lives in memory alone: each start has another, and nothing hangs on it.
fn node_key(dir: &StateDir, source: &dyn EvidenceSource) -> anyhow::Result<NodeKey> {
    let is_proof = source.kind() != EvidenceKind::None && !source.is_simulated();
    if is_proof && dir.sealing().is_none() {
        return Ok(NodeKey::generate());
    }
    Ok(NodeKey::from_seed(&*key(dir, NODE_KEY)?))
}

/// The node's wallet: the contract that its wallet key controls, and in the last resort its owner.
pub(crate) fn wallet(dir: &StateDir, owner: Address) -> anyhow::Result<(Wallet, SigningKey)> {
    let key = SigningKey::from_bytes(&*key(dir, WALLET_KEY)?);
    Ok((Wallet::cocoon(key.verifying_key().to_bytes(), owner), key))
}

/// The configured secret. Where its hash stands on chain, one is made if none is given.
fn secret(file: Option<&Path>, dir: &StateDir, backend: &Backend) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    if file.is_none() && backend.settles {
        let secret = key(dir, CLIENT_SECRET)?;
        return Ok(Zeroizing::new(hex::encode(*secret).into_bytes()));
    }
    let text = file.map(|path| keys::load_text(path, MAX_SECRET_BYTES)).transpose()?;
    Ok(Zeroizing::new(text.map_or_else(Vec::new, |text| text.as_bytes().to_vec())))
}

fn root_address<'a>(role: &str, root: &'a Root) -> anyhow::Result<&'a Address> {
    let hint = "name the root contract; `cocoon up` writes its own to DIR/endpoints.json while it runs";
    required(role, "root.address", root.address.as_ref(), hint)
}

fn dial(max_difficulty: u8) -> DialOptions {
    DialOptions { max_difficulty, ..DialOptions::default() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A machine of this kind.
    struct Of(EvidenceKind, bool);

    impl EvidenceSource for Of {
        fn kind(&self) -> EvidenceKind {
            self.0
        }

        fn is_simulated(&self) -> bool {
            self.1
        }

        fn evidence(
            &self,
            _: &cocoon_attest::ReportData,
        ) -> Result<cocoon_attest::Evidence, cocoon_attest::EvidenceError> {
            Ok(cocoon_attest::Evidence::none())
        }
    }

    #[test]
    fn a_key_that_hardware_vouches_for_never_lies_open_on_the_disk() {
        let parent = tempfile::tempdir().unwrap();
        let dir = StateDir::open(&parent.path().join("node")).unwrap();
        let key = |source: Of| node_key(&dir, &source).unwrap().public_key();
        for kind in [EvidenceKind::Tdx, EvidenceKind::SevSnp] {
            assert_ne!(key(Of(kind, false)), key(Of(kind, false)));
            assert!(!dir.path().join(NODE_KEY).exists(), "{kind}");
        }
        // Nor is one taken that somebody put there.
        let open = key(Of(EvidenceKind::None, false));
        assert_ne!(key(Of(EvidenceKind::Tdx, false)), open);
        assert_eq!(key(Of(EvidenceKind::Tdx, true)), open, "a simulated machine has nothing to hide");
        assert_eq!(key(Of(EvidenceKind::None, false)), open);

        let sealing = cocoon_tee::sealing::SimulatedSealing::new(&[7; 32], 1, b"worker");
        std::fs::remove_file(dir.path().join(NODE_KEY)).unwrap();
        let dir = dir.sealed(Some(Arc::new(sealing)));
        let sealed = node_key(&dir, &Of(EvidenceKind::SevSnp, false)).unwrap().public_key();
        assert_eq!(node_key(&dir, &Of(EvidenceKind::SevSnp, false)).unwrap().public_key(), sealed);
    }

    #[test]
    fn an_owner_is_a_wallet_of_the_basechain() {
        let here = Address::basechain([7; 32]);
        assert_eq!(named_owner(Some(here)).unwrap(), here);
        let message = named_owner(Some(Address::new(-1, [7; 32]).unwrap())).unwrap_err().to_string();
        assert!(message.contains("workchain -1"), "{message}");
        assert!(named_owner(None).unwrap_err().to_string().contains("cocoon wallet create"));
    }
}
