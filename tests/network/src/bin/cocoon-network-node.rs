//! One node in a process of its own, so that a test can kill it: `proxy DIR WORKER_PORT CLIENT_PORT`,
//! `worker DIR PROXY_WORKER_PORT` or `gateway DIR PROXY_CLIENT_PORT`. Says where its HTTP page is once it runs, and ends when its input ends.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use cocoon_attest::Policy;
use cocoon_chain::StaticChain;
use cocoon_network_tests::{
    ADMIN_TOKEN, FixedEngine, Network, Options, gateway_with, proxy_config, root, tls,
};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let dir = Path::new(&arguments[2]);
    let port = |at: usize| SocketAddr::from(([127, 0, 0, 1], arguments[at].parse().unwrap()));
    let chain = Arc::new(StaticChain::from_config(root()).unwrap());
    let show = || tls("none", Policy::any());
    let (http, _node): (SocketAddr, Box<dyn std::any::Any>) = match arguments[1].as_str() {
        "proxy" => {
            let mut config = proxy_config(&dir.join("proxy.db"), &Options::default());
            (config.workers, config.clients) = (port(3), port(4));
            let proxy = cocoon_proxy::start(config, show(), show(), chain).await.unwrap();
            (proxy.http_addr(), Box::new(proxy))
        }
        "worker" => {
            let config = Network::worker_config_for(port(3), dir, 1);
            let engine = Arc::new(FixedEngine("from a process".into()));
            let worker = cocoon_worker::start(config, show(), chain, engine).await.unwrap();
            (worker.http_addr(), Box::new(worker))
        }
        "gateway" => {
            let proxies = [port(3)];
            let gateway = gateway_with(&proxies, dir, chain, |config| {
                config.access.admin_token = Some(ADMIN_TOKEN.to_owned().into());
            })
            .await;
            gateway.ready().await;
            (gateway.http_addr(), Box::new(gateway))
        }
        other => panic!("no such role: {other}"),
    };
    println!("{http}");
    // Also where the test dies without killing us.
    let end = || std::io::Read::read_to_end(&mut std::io::stdin(), &mut Vec::new());
    let _ = tokio::task::spawn_blocking(end).await;
}
