//! The task that asks again and again what is new.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use cocoon_ton::{Address, RootConfig};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::server::Server;
use crate::types::AccountState;
use crate::{ChainError, read_root};

/// Polls the root contract and all accounts that are listened to, for ever. One request at a time: where turns are scarce,
/// at least every second one is left to others.
pub(super) async fn follow(
    server: Arc<Server>,
    root: Address,
    sender: watch::Sender<Arc<RootConfig>>,
    poll_every: Duration,
) {
    let first = Arc::clone(&sender.borrow());
    let mut follower =
        Follower { server, root, sender, first, failing: HashSet::new(), is_root_refused: false };
    // The root was read a moment ago, so waiting comes first.
    loop {
        let next = Instant::now() + poll_every;
        while timeout_at(next, follower.server.nudge.notified()).await.is_ok() {
            for address in follower.server.fresh() {
                follower.poll(address).await;
            }
        }
        follower.poll(root).await;
        let listened_to = follower.server.listened_to();
        follower.failing.retain(|failing| *failing == root || listened_to.contains(failing));
        for address in listened_to {
            if address != root {
                follower.poll(address).await;
            }
        }
    }
}

struct Follower {
    server: Arc<Server>,
    root: Address,
    sender: watch::Sender<Arc<RootConfig>>,
    first: Arc<RootConfig>,
    /// Accounts whose last poll failed. The first one is told, and that there is none any more.
    failing: HashSet<Address>,
    /// Whether the root contract's last state was not taken, which is said once.
    is_root_refused: bool,
}

impl Follower {
    async fn poll(&mut self, address: Address) {
        // The account's listeners hear of it on the way.
        match self.server.account(address).await {
            Ok(state) => {
                if self.failing.remove(&address) && self.failing.is_empty() {
                    tracing::info!("the chain answers again");
                }
                if address == self.root {
                    self.take_root(&state);
                }
            }
            Err(error) => {
                if self.failing.is_empty() {
                    tracing::warn!(%address, %error, "the chain cannot be polled; what is known stays in force");
                } else {
                    tracing::debug!(%address, %error, "the chain still cannot be polled");
                }
                self.failing.insert(address);
            }
        }
    }

    fn take_root(&mut self, state: &AccountState) {
        match self.usable(state) {
            Ok(config) => {
                self.is_root_refused = false;
                self.sender.send_if_modified(|known| {
                    let changed = **known != config;
                    if changed {
                        *known = Arc::new(config);
                    }
                    changed
                });
            }
            Err(reason) => {
                if !std::mem::replace(&mut self.is_root_refused, true) {
                    tracing::error!(
                        root = %self.root,
                        reason,
                        "the root contract's new state is not taken; the last one stays in force"
                    );
                }
            }
        }
    }

    /// The configuration, unless it is broken or of another network than the first one. A change of the network under a
    /// running node would be a change of all contracts, so it needs a restart by somebody who means it.
    fn usable(&self, state: &AccountState) -> Result<RootConfig, String> {
        let config =
            read_root(self.root, state.data.as_ref()).map_err(|error: ChainError| error.to_string())?;
        let (now, first) = (&config, &self.first);
        let what = if now.owner != first.owner {
            "owner"
        } else if now.params.unique_id != first.params.unique_id {
            "unique id"
        } else if now.params.is_test != first.params.is_test {
            "kind of network"
        } else {
            return Ok(config);
        };
        Err(format!("it has another {what} than when this node started; restart the node if that is meant"))
    }
}
