//! A whole network in this process: a gateway, a proxy and workers, over real connections on the loopback interface.
//!
//! Only attestation and the chain are simulated: proxy and workers present the quote of test networks and everybody
//! demands it of them, and a fixed root configuration stands in for the chain.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cocoon_chain::StaticChain;
use cocoon_engine::Engine;
use cocoon_gateway::Gateway;
use cocoon_proxy::Proxy;
use cocoon_ton::{Address, ProxyEndpoints, RegisteredProxy, RootConfig};
use cocoon_worker::Worker;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::config::{
    AcceptPow, Attestation, GatewayFile, Present, ProxyAttestation, ProxyFile, Require, Root, WorkerFile,
};
use crate::dir::{StateDir, write_whole};
use crate::http_client;
use crate::roles::{self, Running};

/// What a client pays for an adjusted token, in nanoton, in a new network.
const PRICE_PER_TOKEN: u64 = 20;
/// What a worker gets of it, in nanoton; the proxy keeps the rest.
const WORKER_FEE_PER_TOKEN: u64 = 18;
/// Where the root configuration is kept, in the published form.
const ROOT_CONFIG: &str = "root-config.json";
/// Where it is said what listens where.
const ENDPOINTS: &str = "endpoints.json";
/// Longest wait for everybody to know everybody.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// How often the gateway is asked whether it knows the model yet.
const READY_POLL: Duration = Duration::from_millis(10);

/// What a network shall be.
pub(crate) struct Plan {
    /// Where its state is kept.
    pub(crate) dir: PathBuf,
    /// How many workers.
    pub(crate) workers: u16,
    /// What answers, for all of them.
    pub(crate) engine: Arc<dyn Engine>,
    /// The model's name, as callers give it.
    pub(crate) model: String,
    /// First port; 0 takes free ones.
    pub(crate) port_base: u16,
    /// Bits of work between nodes.
    pub(crate) difficulty: u8,
}

/// A network that is up. Dropping it stops it without draining.
pub(crate) struct Network {
    /// The gateway.
    pub(crate) gateway: Running<Gateway>,
    /// The proxy.
    pub(crate) proxy: Running<Proxy>,
    /// The workers.
    pub(crate) workers: Vec<Running<Worker>>,
    /// The model's name.
    pub(crate) model: String,
    chain: Arc<StaticChain>,
    root_address: Address,
    dir: StateDir,
}

impl Network {
    /// Brings a network up and waits until a request can go through.
    ///
    /// # Errors
    /// What stands in the way; nothing keeps running then.
    pub(crate) async fn start(plan: Plan) -> anyhow::Result<Self> {
        let dir = StateDir::open(&plan.dir)?;
        forget_endpoints(&dir)?;
        let ports = Ports::choose(plan.port_base, plan.workers)?;
        let chain = Arc::new(StaticChain::from_config(root_config(&dir, &plan.model)?)?);
        let root_address = Address::basechain(Sha256::digest(b"the root contract of a local network").into());
        let root = Root { file: None, address: Some(root_address), is_test: true, is_testnet: false };

        let proxy =
            roles::start_proxy(&proxy_file(&dir, &root, &ports, plan.difficulty), chain.clone()).await?;
        list_proxy(&chain, &proxy.role)?;
        let path = dir.path().join(ROOT_CONFIG);
        write_whole(
            &path,
            &chain.root().to_published_json().context("cannot write the root configuration")?,
        )?;

        let mut workers = Vec::new();
        for number in 1..=plan.workers {
            let file = worker_file(&dir, &root, &ports, number, &plan.model);
            workers.push(roles::start_worker(&file, chain.clone(), Arc::clone(&plan.engine)).await?);
        }
        let linked = async {
            for worker in &workers {
                worker.role.ready().await;
            }
        };
        ready("the workers have not reached the proxy", linked).await?;
        // Only now: so it finds every worker with its first question.
        let gateway = roles::start_gateway(&gateway_file(&dir, &root, &ports), chain.clone()).await?;
        let listed = async {
            gateway.role.ready().await;
            wait_listed(gateway.role.http_addr(), &plan.model).await;
        };
        ready("the gateway does not know the model", listed).await?;
        let network = Self { gateway, proxy, workers, model: plan.model, chain, root_address, dir };
        write_whole(&network.endpoints_path(), &format!("{:#}\n", network.endpoints()))?;
        Ok(network)
    }

    /// Where everything is, as in `endpoints.json`.
    pub(crate) fn endpoints(&self) -> Value {
        let proxy = &self.proxy.role;
        let gateway = format!("http://{}", self.gateway.role.http_addr());
        let workers = self.workers.iter().map(
            |worker| json!({"http": format!("http://{}", worker.role.http_addr()), "model": self.model}),
        );
        json!({
            "gateway": gateway,
            "openai_base_url": format!("{gateway}/v1"),
            "proxy": {
                "http": format!("http://{}", proxy.http_addr()),
                "workers": proxy.workers_addr().to_string(),
                "clients": proxy.clients_addr().to_string(),
            },
            "workers": workers.collect::<Vec<_>>(),
            "models": [self.model],
            "root_config": absolute(&self.dir.path().join(ROOT_CONFIG)),
            "root_address": self.root_address.to_string(),
            "simulated": ["attestation", "chain"],
        })
    }

    /// Where `endpoints.json` is.
    pub(crate) fn endpoints_path(&self) -> PathBuf {
        self.dir.path().join(ENDPOINTS)
    }

    /// The root configuration.
    pub(crate) fn root(&self) -> Arc<RootConfig> {
        self.chain.root()
    }

    /// Lets work under way end, then closes gateway, workers and proxy in this order: nobody loses a partner that it
    /// still needs.
    pub(crate) async fn shutdown(self) {
        if let Err(error) = forget_endpoints(&self.dir) {
            tracing::warn!(error = format!("{error:#}"), "endpoints.json stays behind");
        }
        self.gateway.role.shutdown().await;
        let mut workers = tokio::task::JoinSet::new();
        for worker in self.workers {
            workers.spawn(worker.role.shutdown());
        }
        workers.join_all().await;
        self.proxy.role.shutdown().await;
    }
}

/// Where everything shall listen; 0 is any free port.
struct Ports {
    gateway: SocketAddr,
    proxy: [SocketAddr; 3],
    workers: Vec<SocketAddr>,
}

impl Ports {
    /// The ports of the layout, each of them free.
    fn choose(base: u16, workers: u16) -> anyhow::Result<Self> {
        let at = |offset: u16| {
            // The command line keeps the base low enough; a port too high is refused by the system.
            let port = if base == 0 { 0 } else { base.saturating_add(offset) };
            SocketAddr::from((Ipv4Addr::LOCALHOST, port))
        };
        let ports = Self {
            gateway: at(0),
            proxy: [at(1000), at(1001), at(1002)],
            workers: (0..workers).map(|number| at(2000 + number)).collect(),
        };
        // Looked at before anything starts, so that nothing has to be undone.
        for address in [&ports.gateway].into_iter().chain(&ports.proxy).chain(&ports.workers) {
            if let Err(error) = TcpListener::bind(address) {
                let port = address.port();
                let why = if error.kind() == std::io::ErrorKind::AddrInUse {
                    "is in use, perhaps by another `cocoon up`".to_owned()
                } else {
                    format!("cannot be listened on ({error})")
                };
                bail!("port {port} {why}; choose others with --port-base N, or free ones with --port-base 0");
            }
        }
        Ok(ports)
    }
}

fn proxy_file(dir: &StateDir, root: &Root, ports: &Ports, difficulty: u8) -> ProxyFile {
    let [http, listen_workers, listen_clients] = ports.proxy;
    ProxyFile {
        http,
        listen_workers,
        listen_clients,
        dir: dir.path().join("proxy"),
        root: root.clone(),
        attestation: ProxyAttestation {
            present: Present::FakeTdx,
            require_of_workers: Require::FakeTdx,
            require_of_clients: Require::Any,
        },
        pow: AcceptPow { difficulty: Some(difficulty) },
        ..ProxyFile::default()
    }
}

fn worker_file(dir: &StateDir, root: &Root, ports: &Ports, number: u16, model: &str) -> WorkerFile {
    WorkerFile {
        http: ports.workers.get(usize::from(number) - 1).copied().unwrap_or(ports.gateway),
        dir: dir.path().join(format!("worker-{number}")),
        model: Some(full_name(model)),
        root: root.clone(),
        attestation: Attestation { present: Present::FakeTdx, require: Require::FakeTdx },
        ..WorkerFile::default()
    }
}

fn gateway_file(dir: &StateDir, root: &Root, ports: &Ports) -> GatewayFile {
    GatewayFile {
        http: ports.gateway,
        dir: dir.path().join("gateway"),
        root: root.clone(),
        attestation: Attestation { present: Present::None, require: Require::FakeTdx },
        ..GatewayFile::default()
    }
}

/// The name that goes into the protocol, with commit and hash: nobody has checked either in a local network.
fn full_name(model: &str) -> String {
    if model.contains('@') { model.to_owned() } else { format!("{model}@unchecked:{}", "0".repeat(64)) }
}

/// The root configuration of an earlier start, or a new one, with what this start has on its lists.
fn root_config(dir: &StateDir, model: &str) -> anyhow::Result<RootConfig> {
    let mut config = match read_root(&dir.path().join(ROOT_CONFIG))? {
        Some(config) => config,
        None => {
            let owner = Sha256::digest(b"the owner of a local network").into();
            let mut config = RootConfig::test_mode(Address::basechain(owner));
            config.params.price_per_token_nanoton = PRICE_PER_TOKEN;
            config.params.worker_fee_per_token_nanoton = WORKER_FEE_PER_TOKEN;
            config.params.params_version = 1;
            config.version = 1;
            config
        }
    };
    // What a simulated quote measures is all zeros: 8 registers of 48 bytes and the blanked report data.
    let simulated: [u8; 32] = Sha256::digest([0; 8 * 48 + 64]).into();
    config.proxy_hashes.insert(simulated);
    config.worker_hashes.insert(simulated);
    config.model_hashes.insert(cocoon_ton::root::model_hash(&full_name(model)));
    config.registered_proxies.clear();
    Ok(config)
}

fn read_root(path: &Path) -> anyhow::Result<Option<RootConfig>> {
    let failed = || format!("cannot use {}; remove it to get a new one", path.display());
    match std::fs::read_to_string(path) {
        Ok(text) => RootConfig::from_published_json(&text).with_context(failed).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(failed),
    }
}

/// Tells everybody where the proxy listens.
fn list_proxy(chain: &StaticChain, proxy: &Proxy) -> anyhow::Result<()> {
    let v4 = |address: SocketAddr| SocketAddrV4::new(Ipv4Addr::LOCALHOST, address.port());
    let endpoints =
        ProxyEndpoints { for_workers: v4(proxy.workers_addr()), for_clients: v4(proxy.clients_addr()) };
    let mut config = chain.root().as_ref().clone();
    config.last_proxy_seqno = config.last_proxy_seqno.max(1);
    config.registered_proxies = vec![RegisteredProxy { seqno: config.last_proxy_seqno, endpoints }];
    chain.replace(config)?;
    Ok(())
}

async fn ready(otherwise: &str, step: impl Future<Output = ()>) -> anyhow::Result<()> {
    let limit = READY_LIMIT.as_secs();
    tokio::time::timeout(READY_LIMIT, step)
        .await
        .with_context(|| format!("{otherwise} within {limit} s; run again with --log info to see why"))
}

/// Until the gateway lists the model.
async fn wait_listed(gateway: SocketAddr, model: &str) {
    loop {
        if let Ok(answer) = http_client::get(gateway, "/v1/models").await
            && let Ok(list) = answer.json().await
            && let Some(models) = list["data"].as_array()
            && models.iter().any(|entry| entry["id"] == model)
        {
            return;
        }
        tokio::time::sleep(READY_POLL).await;
    }
}

/// For readers in other directories. Where the system does not say in which we are, the path stays as it is.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A file that is there while the network is ready must not outlive it.
fn forget_endpoints(dir: &StateDir) -> anyhow::Result<()> {
    let path = dir.path().join(ENDPOINTS);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the old {}", path.display()))
        }
        _ => Ok(()),
    }
}
