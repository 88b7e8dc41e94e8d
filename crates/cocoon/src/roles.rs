//! Starts one role from its configuration. `cocoon up` starts all of them the same way.

mod backend;
mod engine;
mod identity;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use cocoon_engine::Engine;
use cocoon_engine::builtin::EXTRACTIVE_SUMMARY_MODEL;
use cocoon_gateway::{AccessConfig, Gateway, GatewayConfig, WorkerDemands};
use cocoon_net::{DialOptions, Judge};
use cocoon_proxy::{Proxy, ProxyConfig};
use cocoon_ton::{SigningKey, Wallet};
use cocoon_worker::{Worker, WorkerConfig};
use zeroize::Zeroizing;

pub(crate) use self::backend::Backend;
pub(crate) use self::engine::{open_engine, open_upstream, warn_unless_ready, warn_unless_serving};
pub(crate) use self::identity::{WALLET_KEY, image, named_owner, open_dir, sealing, wallet};

use self::backend::{root_address, wait};
use self::engine::engine_within;
use self::identity::{LEDGER, PAYMENT_KEY, Tls, owner, secret};
use crate::attestation::{Judging, Whom, real_enough};
use crate::config::{GatewayFile, ProxyFile, Require, RoleFile, WorkerFile, required};
use crate::dir::StateDir;
use crate::keys;
use crate::model_files;
use crate::open_files;
use crate::signals::Signals;
use crate::telemetry::Telemetry;

/// Where a gateway keeps API keys and what was used.
pub(crate) const ACCESS: &str = "access.sqlite";
/// What opens a gateway's admin API.
pub(crate) const ADMIN_TOKEN: &str = "admin-token.hex";
/// Where a gateway's admin API was found at its last start.
pub(crate) const ADMIN_ADDRESS: &str = "admin-url.txt";

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
    if !has_tls && !role.http_addr().ip().is_loopback() {
        tracing::warn!(
            http = %role.http_addr(),
            "keys and texts reach this address in the clear: set tls.certificate and tls.key, or listen on 127.0.0.1 behind a \
             server with TLS"
        );
    }
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
        key_seed: identity::key(dir, PAYMENT_KEY)?,
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

fn dial(max_difficulty: u8) -> DialOptions {
    DialOptions { max_difficulty, ..DialOptions::default() }
}
