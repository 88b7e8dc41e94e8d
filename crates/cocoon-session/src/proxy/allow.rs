//! Which workers may see a client's requests, where the client says so.

use std::collections::BTreeSet;

use cocoon_wire::tl::ext;

use super::{ConnId, Peer, Proxy};
use crate::{MAX_ALLOWED_WORKERS, Violation};

/// Fingerprints that all clients together may allow: each takes about 50 bytes.
pub const MAX_ALLOWED_OF_ALL: usize = 1 << 22;
/// Fingerprints that one client may allow over all its connections; it has more than one while it changes from an old one
/// to a new one.
pub const MAX_ALLOWED_PER_CLIENT: usize = 4 * MAX_ALLOWED_WORKERS;

impl Proxy {
    /// Notes which workers a client allows from now on. Requests that a worker has already seen stay with it. Where there is
    /// no room, those that are left over get none of its requests.
    pub(super) fn on_allow_workers(
        &mut self,
        conn: ConnId,
        message: ext::AllowWorkers,
    ) -> Result<(), Violation> {
        let Some(account) = self.client(conn).map(|client| client.account) else { return Ok(()) };
        let (mut of_others, mut of_account) = (0, 0);
        for (&other, state) in &self.conns {
            if let Peer::Client(client) = &state.peer
                && other != conn
            {
                let count = client.allowed.as_ref().map_or(0, BTreeSet::len);
                of_others += count;
                of_account += if client.account == account { count } else { 0 };
            }
        }
        let room = (MAX_ALLOWED_OF_ALL.saturating_sub(of_others))
            .min(MAX_ALLOWED_PER_CLIENT.saturating_sub(of_account));
        let Some(client) = self.client_mut(conn) else { return Ok(()) };
        let Some(allowed) = &mut client.allowed else {
            return Err(Violation::Unexpected("cocoon.allowWorkers from a client that allows all"));
        };
        let disallow: BTreeSet<_> = message.disallow.into_iter().collect();
        allowed.retain(|fingerprint| !disallow.contains(fingerprint));
        for fingerprint in message.allow {
            if allowed.len() < room && !disallow.contains(&fingerprint) {
                allowed.insert(fingerprint);
            }
        }
        if allowed.len() > MAX_ALLOWED_WORKERS {
            return Err(Violation::Unexpected("cocoon.allowWorkers over the limit"));
        }
        Ok(())
    }
}
