//! A whole network in this process: a gateway, a proxy and workers, over real connections on the loopback interface.
//!
//! Two things are simulated. The machines: proxy and workers show complete evidence of simulated Intel and AMD machines, under
//! test roots that nobody trusts without the network's seed, and everybody verifies it as in production. The coins: the chain is embedded, real
//! contracts on a real virtual machine, with a faucet.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cocoon_attest::EvidenceKind;
use cocoon_engine::Engine;
use cocoon_gateway::Gateway;
use cocoon_proxy::Proxy;
use cocoon_tee::simulated::Vendors;
use cocoon_ton::{Address, NANOTON_PER_TON, RootConfig};
use cocoon_worker::Worker;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};

use crate::chain_server::ChainServer;
use crate::config::{
    AcceptPow, Attestation, ChainFile, EngineFile, GatewayAttestation, GatewayFile, GatewayMoney, Present,
    ProxyAttestation, ProxyFile, Require, RoleFile, Root, WorkerFile,
};
use crate::dir::{StateDir, write_whole};
use crate::home::Opening;
use crate::http_client;
use crate::keys;
use crate::roles::{self, Backend, Running};
use crate::telemetry::TelemetryFile;
use crate::treasury::{Images, Treasury, owner_wallet};

/// What the gateway's wallet is given, in nanoton.
const GATEWAY_COINS: u64 = 100 * NANOTON_PER_TON;
/// What the proxy's wallet is given, in nanoton: stake, storage, fees.
const PROXY_COINS: u64 = 5 * NANOTON_PER_TON;
/// What a worker's wallet is given, in nanoton: fees.
const WORKER_COINS: u64 = NANOTON_PER_TON;
/// What the gateway pays in at a proxy, and what it may pay in over all, in nanoton.
const SPENDING: (u64, u64) = (10 * NANOTON_PER_TON, 90 * NANOTON_PER_TON);
/// What the simulated machines and their vendors are made from.
const SIMULATED_SEED: &str = "simulated-seed.hex";
/// Where it is said what listens where.
const ENDPOINTS: &str = "endpoints.json";
/// Longest wait for everybody to know everybody.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Distance of the chain's port from the first.
const CHAIN_PORT: u16 = 3000;
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
    /// The same, as a worker's configuration names it.
    pub(crate) engine_file: EngineFile,
    /// The model's name, as callers give it.
    pub(crate) model: String,
    /// First port; 0 takes free ones.
    pub(crate) port_base: u16,
    /// Bits of work between nodes.
    pub(crate) difficulty: u8,
    /// Requests at a time for each worker, where it isn't the usual number.
    pub(crate) max_active: Option<u32>,
    /// HTTP connections at a time of the gateway, where it isn't the usual number.
    pub(crate) max_connections: Option<u32>,
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
    /// The chain.
    pub(crate) treasury: Treasury,
    /// The chain's port.
    pub(crate) chain_server: ChainServer,
    /// The nodes' configurations.
    pub(crate) files: Files,
    /// Where all coins were before the nodes started.
    pub(crate) opening: Opening,
    dir: StateDir,
}

/// The nodes' configurations, as they lie in their directories.
pub(crate) struct Files {
    pub(crate) gateway: GatewayFile,
    pub(crate) proxy: ProxyFile,
    pub(crate) workers: Vec<WorkerFile>,
}

/// A node before its start: its owner has a standard wallet, whose key lies in the node's directory, as its own does.
struct Node {
    owner: Address,
    wallet: Address,
    /// What its wallet is to have, in nanoton.
    coins: u64,
}

impl Network {
    /// Brings a network up and waits until a request can go through.
    ///
    /// # Errors
    /// What stands in the way; nothing keeps running then.
    pub(crate) async fn start(plan: Plan) -> anyhow::Result<Self> {
        let ports = Ports::choose(plan.port_base, plan.workers)?;
        let dir = StateDir::open(&plan.dir)?;
        forget_endpoints(&dir)?;
        let treasury = Treasury::open(&dir).await?;
        let seed_file = absolute(&dir.path().join(SIMULATED_SEED));
        let vendors = Vendors::from_seed(&*keys::load_or_create(&seed_file, None)?);
        let root = Root {
            file: None,
            address: Some(treasury.root),
            is_test: true,
            is_testnet: false,
            simulated_seed_file: Some(seed_file),
        };
        let mut gateway_file = gateway_file(&dir, &root, &ports);
        if let Some(connections) = plan.max_connections {
            gateway_file.limits.max_connections = connections as usize;
        }
        let mut proxy_file = proxy_file(&dir, &root, &ports, plan.difficulty);
        let worker_file = |number| worker_file(&dir, &root, &ports, number, &plan.model);
        let mut worker_files: Vec<_> = (1..=plan.workers).map(worker_file).collect();
        let gateway_node = Node::prepare(&gateway_file, GATEWAY_COINS)?;
        let proxy_node = Node::prepare(&proxy_file, PROXY_COINS)?;
        let worker_nodes = worker_files.iter().map(|file| Node::prepare(file, WORKER_COINS));
        let worker_nodes = worker_nodes.collect::<anyhow::Result<Vec<_>>>()?;
        let coins = [&gateway_node, &proxy_node].into_iter().chain(&worker_nodes);
        let coins: Vec<_> = coins.map(|node| (node.wallet, node.coins)).collect();
        let model_hash = cocoon_ton::root::model_hash(&full_name(&plan.model));
        treasury.prepare(&images(&vendors), model_hash, &coins).await?;
        let accounts = |nodes: &[Node]| nodes.iter().flat_map(|node| [node.owner, node.wallet]).collect();
        let parties = vec![
            ("owner", vec![treasury.owner(), treasury.root]),
            ("client", accounts(std::slice::from_ref(&gateway_node))),
            ("proxy", accounts(std::slice::from_ref(&proxy_node))),
            ("workers", accounts(&worker_nodes)),
        ];
        let opening = Opening::of(&treasury, parties).await?;
        let chain_server = ChainServer::start(treasury.chain.clone(), ports.chain).await?;
        let backend = Backend::settling(treasury.rooted.clone());

        let chain = ChainFile { url: Some(chain_server.url()), ..ChainFile::default() };
        (proxy_file.owner, proxy_file.chain) = (Some(proxy_node.owner), chain.clone());
        note(&proxy_file, &proxy_file.dir)?;
        let proxy = roles::start_proxy(&proxy_file, &backend).await?;
        let v4 = |address: SocketAddr| SocketAddrV4::new(Ipv4Addr::LOCALHOST, address.port());
        let (for_workers, for_clients) = (v4(proxy.role.workers_addr()), v4(proxy.role.clients_addr()));
        treasury.register_proxy(for_workers, for_clients).await?;

        let mut workers = Vec::new();
        for (file, node) in worker_files.iter_mut().zip(&worker_nodes) {
            (file.owner, file.chain) = (Some(node.owner), chain.clone());
            file.max_active = plan.max_active.unwrap_or(file.max_active);
            file.engine = plan.engine_file.clone();
            note(file, &file.dir)?;
            workers.push(roles::start_worker(file, &backend, Arc::clone(&plan.engine)).await?);
        }
        let linked = async {
            for worker in &workers {
                worker.role.ready().await;
            }
        };
        ready("the workers have not reached the proxy", linked).await?;
        // Only now: so it finds every worker with its first question.
        (gateway_file.owner, gateway_file.chain) = (Some(gateway_node.owner), chain);
        note(&gateway_file, &gateway_file.dir)?;
        let gateway = roles::start_gateway(&gateway_file, &backend).await?;
        let listed = async {
            gateway.role.ready().await;
            wait_listed(gateway.role.http_addr(), &plan.model).await;
        };
        let listed = async {
            tokio::select! {
                () = listed => Ok(()),
                why = left(&gateway.role) => Err(why),
            }
        };
        let known =
            ready("the gateway does not know the model", listed).await.map_err(|error| {
                match gateway.role.last_failure() {
                    Some(why) => error.context(why),
                    None => error,
                }
            })?;
        if let Err(why) = known {
            bail!(
                "{why}\nWho has left does not come back: start a new network, with another --dir or after removing {}",
                plan.dir.display()
            );
        }
        let model = plan.model;
        let files = Files { gateway: gateway_file, proxy: proxy_file, workers: worker_files };
        let network = Self { gateway, proxy, workers, model, treasury, chain_server, files, opening, dir };
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
            "chain": format!("{}/api/v2", self.chain_server.url()),
            "root_address": self.treasury.root.to_string(),
            "dir": absolute(self.dir.path()),
            "simulated": ["attestation", "coins"],
        })
    }

    /// Where `endpoints.json` is.
    pub(crate) fn endpoints_path(&self) -> PathBuf {
        self.dir.path().join(ENDPOINTS)
    }

    /// The root configuration.
    pub(crate) fn root(&self) -> Arc<RootConfig> {
        self.treasury.config()
    }

    /// Waits until a node stops by itself, and says which and why.
    pub(crate) async fn stopped(&self) -> String {
        let mut workers: FuturesUnordered<_> =
            self.workers.iter().map(|worker| worker.role.stopped()).collect();
        tokio::select! {
            why = self.gateway.role.stopped() => roles::stopped(GatewayFile::ROLE, &why),
            why = self.proxy.role.stopped() => roles::stopped(ProxyFile::ROLE, &why),
            Some(why) = workers.next() => roles::stopped(WorkerFile::ROLE, &why),
            why = self.treasury.chain.stopped() => why,
        }
    }

    /// Lets work under way end, then closes gateway, workers and proxy in this order: nobody loses a partner that it
    /// still needs.
    pub(crate) async fn shutdown(self) {
        if let Err(error) = forget_endpoints(&self.dir) {
            tracing::warn!(error = format!("{error:#}"), "endpoints.json stays behind");
        }
        self.gateway.shutdown().await;
        let mut workers = tokio::task::JoinSet::new();
        for worker in self.workers {
            workers.spawn(worker.shutdown());
        }
        workers.join_all().await;
        self.proxy.shutdown().await;
        self.chain_server.shutdown().await;
        self.treasury.close().await;
    }
}

/// Where everything shall listen; 0 is any free port.
struct Ports {
    gateway: SocketAddr,
    proxy: [SocketAddr; 3],
    workers: Vec<SocketAddr>,
    chain: SocketAddr,
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
            chain: at(CHAIN_PORT),
        };
        // Looked at before anything starts, so that nothing has to be undone.
        for address in [&ports.gateway, &ports.chain].into_iter().chain(&ports.proxy).chain(&ports.workers) {
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
        dir: absolute(&dir.path().join("proxy")),
        root: root.clone(),
        check_worker_hashes: true,
        attestation: ProxyAttestation {
            present: Present::SimulatedTdx,
            require_of_workers: Require::Tee,
            ..ProxyAttestation::default()
        },
        pow: AcceptPow { difficulty: Some(difficulty) },
        ..ProxyFile::default()
    }
}

fn worker_file(dir: &StateDir, root: &Root, ports: &Ports, number: u16, model: &str) -> WorkerFile {
    WorkerFile {
        http: ports.workers.get(usize::from(number) - 1).copied().unwrap_or(ports.gateway),
        dir: absolute(&dir.path().join(format!("worker-{number}"))),
        model: Some(full_name(model)),
        root: root.clone(),
        check_proxy_hashes: true,
        attestation: machine(number),
        ..WorkerFile::default()
    }
}

fn gateway_file(dir: &StateDir, root: &Root, ports: &Ports) -> GatewayFile {
    GatewayFile {
        http: ports.gateway,
        // All nodes are of the same person.
        telemetry: TelemetryFile { propagate: true, ..TelemetryFile::default() },
        dir: absolute(&dir.path().join("gateway")),
        root: root.clone(),
        check_proxy_hashes: true,
        check_worker_hashes: true,
        attestation: GatewayAttestation {
            require: Require::Tee,
            require_of_workers: Require::Tee,
            ..GatewayAttestation::default()
        },
        money: GatewayMoney::spending(SPENDING.0, SPENDING.1),
        ..GatewayFile::default()
    }
}

/// The name that goes into the protocol, with commit and hash: nobody has checked either in a local network.
fn full_name(model: &str) -> String {
    if model.contains('@') { model.to_owned() } else { format!("{model}@unchecked:{}", "0".repeat(64)) }
}

/// Leaves a node's configuration in its directory, for the commands that work on one node.
fn note<T: RoleFile>(file: &T, dir: &Path) -> anyhow::Result<()> {
    let text = toml::to_string_pretty(file).context("cannot write a node's configuration")?;
    write_whole(&dir.join(format!("{}.toml", T::ROLE)), &text)
}

/// The machine of a worker: Intel's with a GPU, and AMD's, in turn. Where the vendor has keys that outlive a guest, as AMD
/// has, the node's keys are sealed with them.
fn machine(number: u16) -> Attestation {
    let amd = number.is_multiple_of(2);
    Attestation {
        present: if amd { Present::SimulatedSevSnp } else { Present::SimulatedTdx },
        seal_keys: amd,
        gpus: !amd,
        simulated_machine: number.into(),
        require: Require::Tee,
        ..Attestation::default()
    }
}

/// The images that this network's root lists.
fn images(vendors: &Vendors) -> Images {
    let hashes = |image, kinds: &[EvidenceKind]| {
        kinds.iter().filter_map(|kind| vendors.image_hash(*kind, image)).collect()
    };
    Images {
        proxy: hashes(roles::image::<ProxyFile>(), &[EvidenceKind::Tdx]),
        worker: hashes(roles::image::<WorkerFile>(), &[EvidenceKind::Tdx, EvidenceKind::SevSnp]),
    }
}

impl Node {
    fn prepare<T: RoleFile>(file: &T, coins: u64) -> anyhow::Result<Self> {
        let dir = roles::open_dir(file)?;
        let owner = owner_wallet(dir.path())?.0.address();
        let wallet = roles::wallet(&dir, owner)?.0.address();
        Ok(Self { owner, wallet, coins })
    }
}

async fn ready<T>(otherwise: &str, step: impl Future<Output = T>) -> anyhow::Result<T> {
    let limit = READY_LIMIT.as_secs();
    tokio::time::timeout(READY_LIMIT, step)
        .await
        .with_context(|| format!("{otherwise} within {limit} s; run again with --log info to see why"))
}

/// Until the proxy says that this gateway has left it for good.
async fn left(gateway: &Gateway) -> String {
    loop {
        if let Some(why) = gateway.last_failure().filter(|why| why.contains("it has left")) {
            return why;
        }
        tokio::time::sleep(READY_POLL).await;
    }
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
