//! The harness of the whole-network tests: real nodes on loopback sockets, engines that answer as a test says, peers
//! that speak the protocol well ([`TestClient`]) or say whatever a test wants ([`RawPeer`], [`FakeProxy`]), and the log.
#![allow(missing_docs, clippy::unwrap_used)]

mod caller;
mod chain;
mod client;
mod engine;
mod fake_proxy;
mod fleet;
mod log;
mod network;
mod raw;
mod relay;

pub use caller::{Reply, Streaming, call, get, post, send};
pub use chain::{TON, send_ton, settling_root};
pub use client::{Answer, Ask, Exchange, Notice, TestClient};
pub use engine::{
    Answering, Call, FixedEngine, SOUND, ScriptedEngine, VersatileEngine, chat_answer, delta, usage_event,
};
pub use fake_proxy::FakeProxy;
pub use fleet::Fleet;
pub use log::{Event, Log};
pub use network::{
    ADMIN_TOKEN, ManualClock, Network, Options, SECRET, gateway, gateway_with, gateway_with_tls, identity,
    local, proxy_config, root, tls, tls_with, wallet,
};
pub use raw::{MODEL, RawPeer, http_request, ready_client, ready_worker, ready_worker_over, worker_params};
pub use relay::{Mode, Relay};

use std::future::Future;
use std::time::Duration;

/// Far more than anything here takes; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that must happen.
///
/// # Panics
/// It does not.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Waits until `ready` says so: for states that nothing announces.
///
/// # Panics
/// It never does.
pub async fn until(what: &str, mut ready: impl FnMut() -> bool) {
    within(what, async {
        while !ready() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
