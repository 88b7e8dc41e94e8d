//! A network with several proxies and workers, each pair behind a relay, any of which may die and come back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cocoon_attest::Policy;
use cocoon_chain::{StaticChain, TestModeClient};
use cocoon_engine::Engine;
use cocoon_gateway::{Gateway, GatewayConfig};
use cocoon_proxy::Proxy;
use cocoon_worker::Worker;
use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::network::{Network, Options, gateway_with, local, proxy_config, root, tls, wallet};
use crate::relay::Relay;
use crate::within;

/// A gateway, proxies, and workers of every proxy.
pub struct Fleet {
    pub gateway: Gateway,
    /// `None` while it is dead.
    pub proxies: Vec<Option<Proxy>>,
    pub workers: Vec<Option<Worker>>,
    /// From the gateway to each proxy.
    pub gateway_links: Vec<Relay>,
    /// From each worker to each proxy.
    pub worker_links: Vec<Vec<Relay>>,
    engines: Vec<Arc<dyn Engine>>,
    chain: Arc<StaticChain>,
    dir: TempDir,
}

impl Fleet {
    /// So many proxies, and a worker for each engine.
    pub async fn start(
        proxies: usize,
        engines: Vec<Arc<dyn Engine>>,
        change: impl FnOnce(&mut GatewayConfig),
    ) -> Self {
        let dir = TempDir::new().unwrap();
        let client = TestModeClient { balance_nanoton: 1_000_000_000_000_000, ..Default::default() };
        let chain = Arc::new(StaticChain::from_config(root()).unwrap().with_test_mode_client(client));
        let (mut running, mut gateway_links) = (Vec::new(), Vec::new());
        for number in 0..proxies {
            let proxy = start_proxy(number, &dir, &chain).await;
            gateway_links.push(Relay::start(proxy.clients_addr()).await);
            running.push(Some(proxy));
        }
        let (mut workers, mut worker_links) = (Vec::new(), Vec::new());
        for (number, engine) in engines.iter().enumerate() {
            let mut links = Vec::new();
            for proxy in running.iter().flatten() {
                links.push(Relay::start(proxy.workers_addr()).await);
            }
            let worker = start_worker(number, &links, &dir, &chain, engine).await;
            within("the worker to be ready", worker.ready()).await;
            workers.push(Some(worker));
            worker_links.push(links);
        }
        let addresses: Vec<SocketAddr> = gateway_links.iter().map(Relay::address).collect();
        let gateway = gateway_with(&addresses, dir.path(), chain.clone(), change).await;
        within("the gateway to be ready", gateway.ready()).await;
        Self { gateway, proxies: running, workers, gateway_links, worker_links, engines, chain, dir }
    }

    /// The proxy dies in the middle of its work.
    pub fn kill_proxy(&mut self, number: usize) {
        self.proxies[number] = None;
    }

    /// It comes back, with its books.
    pub async fn revive_proxy(&mut self, number: usize) {
        let proxy = start_proxy(number, &self.dir, &self.chain).await;
        self.gateway_links[number].lead_to(proxy.clients_addr());
        for links in &self.worker_links {
            links[number].lead_to(proxy.workers_addr());
        }
        self.proxies[number] = Some(proxy);
    }

    /// The worker dies in the middle of its work.
    pub fn kill_worker(&mut self, number: usize) {
        self.workers[number] = None;
    }

    /// It comes back.
    pub async fn revive_worker(&mut self, number: usize) {
        let (links, engine) = (&self.worker_links[number], &self.engines[number]);
        self.workers[number] = Some(start_worker(number, links, &self.dir, &self.chain, engine).await);
    }
}

/// Who died a moment ago may hold its file for another one.
const LET_GO: Duration = Duration::from_millis(20);

async fn start_proxy(number: usize, dir: &TempDir, chain: &Arc<StaticChain>) -> Proxy {
    let number = u8::try_from(number).unwrap();
    let store = dir.path().join(format!("proxy-{number}.db"));
    within("the proxy to start", async {
        loop {
            let mut config = proxy_config(&store, &Options::default());
            config.key_seed = Zeroizing::new([70 + number; 32]);
            (config.owner, config.wallet) = (wallet(50 + number), wallet(60 + number));
            let show = || tls("none", Policy::any());
            match cocoon_proxy::start(config, show(), show(), chain.clone()).await {
                Ok(proxy) => return proxy,
                Err(_) => tokio::time::sleep(LET_GO).await,
            }
        }
    })
    .await
}

async fn start_worker(
    number: usize,
    links: &[Relay],
    dir: &TempDir,
    chain: &Arc<StaticChain>,
    engine: &Arc<dyn Engine>,
) -> Worker {
    let number = u8::try_from(number).unwrap();
    within("the worker to start", async {
        loop {
            let mut config = Network::worker_config_for(local(), dir.path(), number);
            config.proxies = links.iter().map(|link| link.address().to_string()).collect();
            let tls = tls("none", Policy::any());
            match cocoon_worker::start(config, tls, chain.clone(), Arc::clone(engine)).await {
                Ok(worker) => return worker,
                Err(_) => tokio::time::sleep(LET_GO).await,
            }
        }
    })
    .await
}
