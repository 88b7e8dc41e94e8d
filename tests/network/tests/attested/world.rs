//! A network of simulated machines: what they show, what their vendors publish, and what everybody demands.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use cocoon_attest::tdx::TcbStatus;
use cocoon_attest::{
    CollateralRequest, CollateralSource, EvidenceKind, EvidenceSource, OperatorPolicy, PeerCertificate,
    Policy, VerifierSet,
};
use cocoon_collateral::FixedCollateral;
use cocoon_engine::Engine;
use cocoon_gateway::{Gateway, GatewayConfig, WorkerDemands};
use cocoon_net::{Clock as _, DialOptions, Judge, NodeIdentity, NodeKey, TlsSettings};
use cocoon_network_tests::{
    Ask, Log, MODEL, ManualClock, Network, Options, RawPeer, Reply, gateway_with_tls, get, post, root, until,
    within,
};
use cocoon_tee::WithGpus;
use cocoon_tee::simulated::Vendors;
use cocoon_tee::simulated::tdx::{Level, Published};
use cocoon_ton::RootConfig;
use cocoon_ton::root::model_hash;
use cocoon_worker::Worker;
use serde_json::Value;

/// The images that the root configuration lists: one for proxies, two for workers.
pub(crate) const PROXY_IMAGE: &str = "proxy";
pub(crate) const WORKER_IMAGE: &str = "worker";
pub(crate) const NEXT_WORKER_IMAGE: &str = "worker, next version";
/// The machine that the proxy runs on; others have other numbers.
pub(crate) const PROXY_MACHINE: u32 = 0;
/// A platform model that Intel says is out of date.
pub(crate) const OLD_MODEL: [u8; 6] = *b"\xff\x00OLD\x00";
/// Stands in every prompt, and in nothing else.
pub(crate) const MARKER: &str = "what nobody else may read";
/// Longer than a verdict is good for without another look.
pub(crate) const NEXT_LOOK: Duration = Duration::from_secs(60 * 60 + 1);

/// What the vendors publish. Everything follows from the network's seed, but for what a test changes here.
pub(crate) struct Shelf {
    vendors: Vendors,
    clock: Arc<ManualClock>,
    changes: Mutex<Changes>,
    asked: AtomicUsize,
}

#[derive(Default)]
pub(crate) struct Changes {
    /// Vendors that do not answer.
    pub(crate) silent: Vec<EvidenceKind>,
    /// How long what Intel publishes lasts; a month unless set.
    pub(crate) intel_lasts: Option<Duration>,
    /// Serial numbers of Intel platforms.
    pub(crate) revoked_platforms: Vec<Vec<u8>>,
    /// Serial numbers of NVIDIA devices.
    pub(crate) revoked_gpus: Vec<Vec<u8>>,
}

impl Shelf {
    fn answer(&self, request: &CollateralRequest) -> Option<Bytes> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let changes = self.changes();
        if changes.silent.contains(&request.kind) {
            return None;
        }
        let now = self.clock.now();
        match request.kind {
            EvidenceKind::Tdx => {
                let mut usual = Published::usual(now);
                usual.revoked_platforms.clone_from(&changes.revoked_platforms);
                if let Some(lasts) = changes.intel_lasts {
                    usual.next = now.plus(lasts.as_secs());
                }
                let platform = Level::new(TcbStatus::OutOfDate, now);
                let old = Published { fmspc: OLD_MODEL, platform, ..usual.clone() };
                let published = [usual, old].map(|published| self.vendors.intel().publish(&published));
                published.iter().find_map(|published| published.get(request).cloned())
            }
            EvidenceKind::NvidiaGpu => {
                let nvidia = self.vendors.nvidia().clone().revoking(changes.revoked_gpus.clone());
                nvidia.collateral(std::slice::from_ref(request), now).get(request).cloned()
            }
            _ => self.vendors.answer(request, now),
        }
    }

    /// What a test changes.
    pub(crate) fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap()
    }

    /// How often anything was asked for.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// The vendors, the time, and everybody's demands.
pub(crate) struct World {
    pub(crate) log: Log,
    pub(crate) vendors: Vendors,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) shelf: Arc<Shelf>,
    verifiers: Arc<VerifierSet>,
    collateral: Arc<dyn CollateralSource>,
    judges: Mutex<Vec<Judge>>,
}

impl World {
    pub(crate) fn new() -> Self {
        let log = Log::capture();
        let (vendors, clock) = (Vendors::from_seed(&[7; 32]), ManualClock::new());
        let verifiers = Arc::new(OperatorPolicy::default().verifiers(&vendors.test_roots()).unwrap());
        let shelf = Arc::new(Shelf {
            vendors: vendors.clone(),
            clock: clock.clone(),
            changes: Mutex::default(),
            asked: AtomicUsize::new(0),
        });
        let answering = shelf.clone();
        let collateral = Arc::new(FixedCollateral::answering(move |request| answering.answer(request)));
        Self { log, vendors, clock, shelf, verifiers, collateral, judges: Mutex::default() }
    }

    /// A simulated TDX machine.
    pub(crate) fn tdx(&self, number: u32, image: &str) -> Arc<dyn EvidenceSource> {
        Arc::new(self.vendors.tdx(number, image))
    }

    /// A simulated SEV-SNP machine.
    pub(crate) fn snp(&self, number: u32, image: &str) -> Arc<dyn EvidenceSource> {
        Arc::new(self.vendors.snp(number, image))
    }

    /// A simulated TDX machine with a GPU.
    pub(crate) fn tdx_with_gpu(&self, number: u32, image: &str) -> Arc<dyn EvidenceSource> {
        let gpus = Arc::new(self.vendors.gpus(number, 1));
        Arc::new(WithGpus { machine: self.tdx(number, image), gpus })
    }

    fn identity(&self, source: Arc<dyn EvidenceSource>) -> Arc<NodeIdentity> {
        NodeIdentity::new(NodeKey::generate(), source, self.clock.now()).unwrap()
    }

    fn settings(&self, identity: Arc<NodeIdentity>, policy: Policy) -> TlsSettings {
        let (verifiers, collateral) = (self.verifiers.clone(), self.collateral.clone());
        let settings =
            TlsSettings::new(identity, verifiers, policy, Some(collateral), self.clock.clone()).unwrap();
        self.judges.lock().unwrap().push(settings.judge().clone());
        settings
    }

    /// A node of its own key that shows this machine and demands this.
    pub(crate) fn node(&self, source: Arc<dyn EvidenceSource>, policy: Policy) -> TlsSettings {
        self.settings(self.identity(source), policy)
    }

    /// The root configuration with all images and the model.
    pub(crate) fn root(&self) -> RootConfig {
        let mut root = root();
        for kind in [EvidenceKind::Tdx, EvidenceKind::SevSnp] {
            let hash = |image| self.vendors.image_hash(kind, image).unwrap();
            root.proxy_hashes.insert(hash(PROXY_IMAGE));
            root.worker_hashes.extend([hash(WORKER_IMAGE), hash(NEXT_WORKER_IMAGE)]);
        }
        root.model_hashes.insert(model_hash(MODEL));
        root
    }

    /// A proxy on this machine, which lets in only workers that are attested and listed.
    pub(crate) async fn network(&self, proxy: Arc<dyn EvidenceSource>) -> Network {
        self.network_demanding(proxy, Policy::tee(), true).await
    }

    /// A proxy that demands something else of workers.
    pub(crate) async fn network_demanding(
        &self,
        proxy: Arc<dyn EvidenceSource>,
        worker_policy: Policy,
        check_worker_hashes: bool,
    ) -> Network {
        let identity = self.identity(proxy);
        let options = Options { check_worker_hashes, root: self.root(), ..Options::default() };
        let workers = self.settings(identity.clone(), worker_policy);
        Network::with_tls(options, workers, self.settings(identity, Policy::any())).await
    }

    /// A worker on this machine that demands an attested and listed proxy, and its fingerprint.
    pub(crate) async fn worker(
        &self,
        network: &Network,
        number: u8,
        source: Arc<dyn EvidenceSource>,
        coefficient: u32,
        engine: impl Engine,
    ) -> (Worker, String) {
        let mut config = network.worker_config(number);
        (config.check_proxy_hashes, config.coefficient, config.max_active) = (true, coefficient, 2);
        let settings = self.node(source, Policy::tee());
        let fingerprint = fingerprint(&settings);
        let started = cocoon_worker::start(config, settings, network.chain.clone(), Arc::new(engine)).await;
        let worker = started.unwrap();
        within("the worker to be ready", worker.ready()).await;
        (worker, fingerprint)
    }

    /// A gateway that demands attested and listed proxies and workers, and is ready.
    pub(crate) async fn gateway(&self, network: &Network) -> Gateway {
        let gateway = self.gateway_of(network.proxy.clients_addr(), network, |_| ()).await;
        within("the gateway to be ready", gateway.ready()).await;
        gateway
    }

    /// A gateway of any proxy that differs; not ready yet.
    pub(crate) async fn gateway_of(
        &self,
        proxy: std::net::SocketAddr,
        network: &Network,
        change: impl FnOnce(&mut GatewayConfig),
    ) -> Gateway {
        let source = Arc::new(cocoon_tee::NoEvidence);
        let settings = self.node(source, Policy::tee());
        let (verifiers, collateral) = (self.verifiers.clone(), self.collateral.clone());
        let judge = Judge::new(verifiers, Policy::tee(), Some(collateral), self.clock.clone());
        gateway_with_tls(&[proxy], network.dir.path(), network.chain.clone(), settings, |config| {
            config.check_proxy_hashes = true;
            config.workers = Some(WorkerDemands { judge, listed_images: true });
            // The clock of these tests is moved by hand: a request says at once how things are.
            config.limits.retry.patience = Duration::ZERO;
            change(config);
        })
        .await
    }

    /// Has every connection look whether its peer is still let in.
    pub(crate) fn look_again(&self) {
        self.judges.lock().unwrap().iter().for_each(Judge::look_again);
    }

    /// Time passes, everybody looks, and at least one has asked the vendors.
    pub(crate) async fn later(&self, by: Duration) {
        let before = self.shelf.asked();
        self.clock.advance(by);
        self.look_again();
        until("somebody to ask the vendors", || self.shelf.asked() > before).await;
    }

    /// Dials `address` as a node that shows this machine, and demands nothing.
    pub(crate) async fn dial(
        &self,
        address: std::net::SocketAddr,
        source: Arc<dyn EvidenceSource>,
    ) -> (RawPeer, String) {
        let settings = self.node(source, Policy::any());
        let options = DialOptions { max_difficulty: 8, timeout: Duration::from_secs(10) };
        let stream = cocoon_net::dial(&address.to_string(), &settings, &options).await.unwrap();
        (RawPeer::over(stream), fingerprint(&settings))
    }
}

/// By which answers name a node.
fn fingerprint(settings: &TlsSettings) -> String {
    let certificate = settings.identity().certificate();
    hex::encode(PeerCertificate::parse(&certificate).unwrap().fingerprint())
}

/// A request with the marker in its prompt.
pub(crate) fn marked() -> Ask {
    mark(Ask::default())
}

/// The same, streamed.
pub(crate) fn marked_stream() -> Ask {
    mark(Ask::streamed())
}

fn mark(mut ask: Ask) -> Ask {
    ask.body["messages"][0]["content"] = MARKER.into();
    ask
}

/// Whether the marker stands in what somebody heard.
pub(crate) fn has_marker(heard: &[u8]) -> bool {
    heard.windows(MARKER.len()).any(|window| window == MARKER.as_bytes())
}

/// Asks with the marker in the prompt.
pub(crate) async fn ask(gateway: &Gateway) -> Reply {
    post(gateway.http_addr(), &marked().body).await
}

/// Asks until the answer has this status: what changed reaches everybody soon, and nothing tells when.
pub(crate) async fn ask_until(gateway: &Gateway, status: u16) -> Reply {
    within(&format!("an answer of status {status}"), async {
        loop {
            let reply = ask(gateway).await;
            if reply.status == status {
                return reply;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// A page of the gateway.
pub(crate) async fn page(gateway: &Gateway, path: &str) -> Value {
    let reply = get(gateway.http_addr(), path).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    serde_json::from_str(&reply.body).unwrap()
}

/// The body of a reply.
pub(crate) fn json(reply: &Reply) -> Value {
    serde_json::from_str(&reply.body).unwrap_or_else(|_| panic!("no JSON: {reply:?}"))
}

/// The worker that answered.
pub(crate) fn answered_by(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{reply:?}");
    json(reply)["cocoon"]["worker"].clone()
}

/// Waits until no proxy is connected because of this, and checks that callers are told so.
pub(crate) async fn refused_because(gateway: &Gateway, rule: &str, check: &str) {
    let told = || gateway.last_failure().is_some_and(|why| why.contains(rule) && why.contains(check));
    until(&format!("a failure because of {rule} and {check}"), told).await;
    let reply = ask(gateway).await;
    assert_eq!(reply.status, 503, "{reply:?}");
    let message = json(&reply)["error"]["message"].to_string();
    assert!(message.contains(rule) && message.contains(check), "{message}");
}
