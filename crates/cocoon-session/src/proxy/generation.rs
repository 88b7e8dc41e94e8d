//! What ends connections without anybody's fault: new parameters, with which all contracts get new addresses, accounts
//! that are closed, and certificates of workers that run out.
//!
//! A connection that leaves takes no new requests; it is closed once those under way are over and acknowledged, or after
//! [`LEAVING_GRACE`], a worker with an old certificate after [`RENEW_BEFORE`]. The accounts of old contracts stay in the books: they are wound up on chain.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cocoon_ledger::Tariff;
use cocoon_ton::address::Address;
use cocoon_ton::contracts::{CodeMissing, proxy_address};
use cocoon_ton::root::RootConfig;

use super::{ClientStage, ConnId, Peer, Proxy, RENEW_BEFORE, WorkerStage};
use crate::{Time, Violation};

/// How long a connection that leaves may still take for what is under way.
pub const LEAVING_GRACE: Duration = Duration::from_secs(30);
/// Why connections end when the parameters change.
const PARAMS_CHANGED: &str = "the network's parameters changed; connect again";

/// Why a worker's connection ends when its certificate is about to run out.
const CERTIFICATE_RUNS_OUT: &str = "the certificate runs out; connect again with a new one";

/// A connection that is on its way out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaving {
    /// In words, for the peer and the log.
    pub(super) why: &'static str,
    /// When it is closed at the latest; known from the next tick on.
    by: Option<Time>,
    /// How long what is under way may still take.
    grace: Duration,
}

impl Proxy {
    /// Works with another root configuration from now on. Where its parameters give the proxy's contract another
    /// address, all contracts are new ones: connections end as soon as what is under way on them is over, so
    /// that their peers come back with the new contracts. Says whether that is so.
    ///
    /// # Errors
    /// [`CodeMissing`] where the configuration lacks the proxy contract's code; the old one stays in force.
    pub fn set_root(&mut self, root: Arc<RootConfig>, tariff: Tariff) -> Result<bool, CodeMissing> {
        let settings = &mut self.settings;
        let key = settings.key.verifying_key().to_bytes();
        let contract = proxy_address(&root.params, &settings.root_address, &settings.owner, &key)?;
        let changed = contract != settings.contract;
        (settings.root, settings.tariff, settings.contract) = (root, tariff, contract);
        if changed {
            for conn in self.conns.keys().copied().collect::<Vec<_>>() {
                self.leave(conn, PARAMS_CHANGED);
            }
        }
        Ok(changed)
    }

    /// The proxy's own contract, by the root configuration in force.
    #[must_use]
    pub const fn contract(&self) -> &Address {
        &self.settings.contract
    }

    /// Lets a connection end: at once where it is in its handshake, else after what is under way.
    pub(super) fn leave(&mut self, conn: ConnId, why: &'static str) {
        self.leave_within(conn, why, LEAVING_GRACE);
    }

    /// Lets workers go whose certificates are about to run out.
    pub(super) fn renew_workers(&mut self, now: Time) {
        let due = self.conns.iter().filter(|(_, conn)| match &conn.peer {
            Peer::Worker(worker) => worker.attested.renew_at(conn.since).is_some_and(|at| now >= at),
            Peer::Client(_) => false,
        });
        for conn in due.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.leave_within(conn, CERTIFICATE_RUNS_OUT, RENEW_BEFORE);
        }
    }

    fn leave_within(&mut self, conn: ConnId, why: &'static str, grace: Duration) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        if state.leaving.is_some() {
            return;
        }
        state.leaving = Some(Leaving { why, by: None, grace });
        let (ready, query) = match &state.peer {
            Peer::Client(client) => match client.stage {
                ClientStage::Ready => (true, None),
                ClientStage::Finding { query } => (false, Some(query)),
                ClientStage::Authorizing { waiting, .. } => (false, waiting),
                ClientStage::Opening | ClientStage::Connecting => (false, None),
            },
            Peer::Worker(worker) => {
                let ready = worker.stage == WorkerStage::Ready;
                self.market.leave(conn);
                (ready, None)
            }
        };
        if let Some(query) = query {
            self.refuse_query(conn, query, why);
        }
        if !ready {
            self.doomed.insert(conn, Violation::Mismatch(why.to_owned()));
        }
    }

    /// Closes those connections on their way out on which nothing is under way, or whose time is up.
    pub(super) fn close_leaving(&mut self, now: Time) {
        if self.conns.values().all(|conn| conn.leaving.is_none()) {
            return;
        }
        let mut busy = BTreeSet::new();
        busy.extend(self.requests.values().flat_map(|request| [request.client, request.worker]));
        busy.extend(self.notices.iter().flat_map(|notice| [notice.client, notice.worker]));
        for (&id, conn) in &mut self.conns {
            let quiet = conn.is_quiet() && !busy.contains(&id);
            let Some(leaving) = &mut conn.leaving else { continue };
            let by = *leaving.by.get_or_insert(now.plus(leaving.grace));
            if quiet || now >= by {
                self.doomed.insert(id, Violation::Mismatch(leaving.why.to_owned()));
            }
        }
    }
}
