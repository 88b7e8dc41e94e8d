//! A chain with a root contract, and its API on a loopback address.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use cocoon_chain::{ToncenterChain, ToncenterOptions};
use cocoon_localchain::{LocalChain, Options, RootedChain, TimeSource, toncenter};
use cocoon_ton::message::{Body, RootChange};
use cocoon_ton::{Address, Cell, RootConfig, StructVersion};
use tycho_types::models::StateInit;

use crate::support::{Probe, START, TON, empty_cell, internal, probe};

pub const PRICE: u64 = 20;

pub struct Network {
    pub local: LocalChain,
    pub rooted: RootedChain,
    /// Owns the root contract, and has sent one message.
    pub probe: Probe,
    pub root: Address,
    pub api: SocketAddr,
}

impl Network {
    pub async fn start() -> Self {
        let time = TimeSource::Fixed(START);
        let local = LocalChain::open(&Options { time, ..Options::default() }).unwrap();
        let probe = probe(1);
        local.grant(probe.address, 1_000 * TON).await.unwrap();
        let (root, deploy) = deploy_root(&root_config(probe.address));
        local.submit(probe.external(0, &[(1, deploy)])).await.unwrap();
        local.settle().await.unwrap();
        let rooted = local.follow_root(root).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, toncenter::routes(local.clone())).into_future());
        Self { local, rooted, probe, root, api }
    }

    /// For a server on this machine.
    pub fn options(&self, api: SocketAddr) -> ToncenterOptions {
        let poll_every = Duration::from_millis(50);
        ToncenterOptions { poll_every, ..ToncenterOptions::new(format!("http://{api}"), self.root, true) }
    }

    pub async fn client(&self) -> ToncenterChain {
        ToncenterChain::open(self.options(self.api)).await.unwrap()
    }
}

pub fn root_config(owner: Address) -> RootConfig {
    let mut config = RootConfig::test_mode(owner);
    config.params.struct_version = StructVersion::V3;
    config.params.price_per_token_nanoton = PRICE;
    config.params.worker_fee_per_token_nanoton = 10;
    config
}

/// The address of a root contract, and the message that deploys it.
pub fn deploy_root(config: &RootConfig) -> (Address, Cell) {
    let init = cocoon_ton::contracts::root_state_init(config);
    let address = init.address();
    let init = StateInit { code: Some(init.code), data: Some(init.data), ..StateInit::default() };
    (address, internal(address, TON, false, Some(init), &empty_cell()))
}

pub fn change_prices(price: u64, fee: u64) -> Cell {
    let change = RootChange::ChangePrices { price, worker_fee: fee };
    Body::Root { query_id: 0, change }.to_cell()
}
