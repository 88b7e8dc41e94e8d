//! Which workers may see a client's requests, where the client says so.

use std::collections::BTreeSet;

use cocoon_wire::tl::ext;

use super::{ConnId, Peer, Proxy};
use crate::{MAX_ALLOWED_WORKERS, Violation};

/// Fingerprints that all clients together may allow: each takes about 50 bytes.
pub const MAX_ALLOWED_OF_ALL: usize = 1 << 22;

impl Proxy {
    /// Notes which workers a client allows from now on. Requests that a worker has already seen stay with it.
    pub(super) fn on_allow_workers(
        &mut self,
        conn: ConnId,
        message: ext::AllowWorkers,
    ) -> Result<(), Violation> {
        let of_others: usize =
            self.conns.values().map(|other| other.peer.allowed().map_or(0, BTreeSet::len)).sum();
        let Some(client) = self.client_mut(conn) else { return Ok(()) };
        let Some(allowed) = &mut client.allowed else {
            return Err(Violation::Unexpected("cocoon.allowWorkers from a client that allows all"));
        };
        let of_others = of_others - allowed.len();
        allowed.extend(message.allow);
        for fingerprint in &message.disallow {
            allowed.remove(fingerprint);
        }
        if allowed.len() > MAX_ALLOWED_WORKERS {
            return Err(Violation::Unexpected("cocoon.allowWorkers over the limit"));
        }
        if of_others + allowed.len() > MAX_ALLOWED_OF_ALL {
            return Err(Violation::Mismatch("the proxy has no room for what its clients allow".into()));
        }
        Ok(())
    }
}

impl Peer {
    fn allowed(&self) -> Option<&BTreeSet<[u8; 32]>> {
        match self {
            Self::Client(client) => client.allowed.as_ref(),
            Self::Worker(_) => None,
        }
    }
}
