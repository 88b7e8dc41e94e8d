//! Accepting many connections under limits, without letting any of them hold up the others.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::TlsSettings;
use crate::connect::{AcceptOptions, accept};
use crate::stream::SecureStream;

/// Wait after the system refused to accept (out of file descriptors, mostly): time for some to be closed.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Refused connections that are logged in one second; strangers cost too little to fill a disk with more.
const MAX_LOGGED_PER_SECOND: u32 = 20;

/// How to accept, and how many. A connection over a limit is closed at once, before any work is done for it.
#[derive(Debug, Clone)]
pub struct ListenerOptions {
    /// For each connection.
    pub accept: AcceptOptions,
    /// Most connections at a time, those being set up included; 4096 unless configured.
    pub max_connections: usize,
    /// Most connections at a time from one address (IPv6: one /64); 1024 unless configured. Enough for many nodes behind one
    /// router, and short of all places.
    pub max_connections_per_ip: usize,
    /// Most connections being set up at a time; 512 unless configured.
    pub max_pending: usize,
    /// Most connections being set up at a time from one address (IPv6: one /64); 64 unless configured.
    pub max_pending_per_ip: usize,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            accept: AcceptOptions::default(),
            max_connections: 4096,
            max_connections_per_ip: 1024,
            max_pending: 512,
            max_pending_per_ip: 64,
        }
    }
}

/// Accepts connections on one address.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    settings: TlsSettings,
    options: ListenerOptions,
    connections: Arc<Semaphore>,
    pending: Arc<Semaphore>,
    connections_by_ip: Arc<ByIp>,
    pending_by_ip: Arc<ByIp>,
    log: Arc<LogLimit>,
}

impl Listener {
    /// Listens on `address` (`ip:port`; port 0 picks one).
    ///
    /// # Errors
    /// What the system says about the address.
    pub async fn bind(address: &str, settings: TlsSettings, options: ListenerOptions) -> io::Result<Self> {
        let permits = |limit: usize| Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
        Ok(Self {
            tcp: TcpListener::bind(address).await?,
            settings,
            connections: permits(options.max_connections),
            pending: permits(options.max_pending),
            connections_by_ip: Arc::default(),
            pending_by_ip: Arc::default(),
            log: Arc::default(),
            options,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Accepts until the receiving end is closed or this future is dropped; either cancels set-ups under way.
    /// A connection that fails is logged with the peer's address and the cause (of many at once, some), and concerns
    /// no other.
    pub async fn run(self, ready: mpsc::Sender<SecureStream>) {
        let mut set_ups = JoinSet::new();
        loop {
            tokio::select! {
                () = ready.closed() => return,
                Some(ended) = set_ups.join_next() => if let Err(error) = ended {
                    tracing::error!(%error, "setting up a connection failed unexpectedly");
                },
                accepted = self.tcp.accept() => match accepted {
                    Ok((tcp, remote)) => {
                        if let Some(place) = self.admit(remote) {
                            let (settings, options) = (self.settings.clone(), self.options.accept.clone());
                            set_ups.spawn(set_up(tcp, remote, place, settings, options, ready.clone(), Arc::clone(&self.log)));
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept connections; trying again");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
            }
        }
    }

    /// A place under every limit, or `None`.
    fn admit(&self, remote: SocketAddr) -> Option<Place> {
        let over = |limit: &str| {
            tracing::debug!(peer = %remote, limit, "closed a connection over the limit");
        };
        let Ok(connection) = Arc::clone(&self.connections).try_acquire_owned() else {
            over("connections");
            return None;
        };
        let Ok(pending) = Arc::clone(&self.pending).try_acquire_owned() else {
            over("pending");
            return None;
        };
        let (ip, options) = (remote.ip(), &self.options);
        let Some(from_ip) = self.connections_by_ip.enter(ip, options.max_connections_per_ip) else {
            over("connections from one address");
            return None;
        };
        let Some(pending_from_ip) = self.pending_by_ip.enter(ip, options.max_pending_per_ip) else {
            over("pending from one address");
            return None;
        };
        Some(Place {
            connection: Slot { _any: connection, _from_ip: from_ip },
            pending: (pending, pending_from_ip),
        })
    }
}

/// A connection's places under the limits.
struct Place {
    connection: Slot,
    pending: (OwnedSemaphorePermit, FromIp),
}

/// A connection's place while it is up.
#[derive(Debug)]
pub(crate) struct Slot {
    _any: OwnedSemaphorePermit,
    _from_ip: FromIp,
}

async fn set_up(
    tcp: TcpStream,
    remote: SocketAddr,
    place: Place,
    settings: TlsSettings,
    options: AcceptOptions,
    ready: mpsc::Sender<SecureStream>,
    log: Arc<LogLimit>,
) {
    match accept(tcp, &settings, &options).await {
        Ok(mut stream) => {
            drop(place.pending);
            stream.io.hold(place.connection);
            tracing::debug!(peer = %remote, kind = %stream.peer.kind, "connection is up");
            // If nobody receives any more, the connection is closed by dropping it.
            let _ = ready.send(stream).await;
        }
        Err(error) => match log.admit(Instant::now()) {
            Some(0) => tracing::info!(peer = %remote, cause = %error.cause, "refused a connection"),
            Some(unlogged) => {
                tracing::info!(peer = %remote, cause = %error.cause, unlogged, "refused connections");
            }
            None => tracing::debug!(peer = %remote, cause = %error.cause, "refused a connection"),
        },
    }
}

/// Lets so many lines of a kind into the log in each second.
#[derive(Debug, Default)]
struct LogLimit(Mutex<Logged>);

#[derive(Debug, Default)]
struct Logged {
    since: Option<Instant>,
    lines: u32,
    unlogged: u64,
}

impl LogLimit {
    /// Whether to write a line now; then, how many were left out before it.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1)) {
            (logged.since, logged.lines) = (Some(now), 0);
        }
        if logged.lines >= MAX_LOGGED_PER_SECOND {
            logged.unlogged += 1;
            return None;
        }
        logged.lines += 1;
        Some(std::mem::take(&mut logged.unlogged))
    }
}

/// How many connections there are from each address.
#[derive(Debug, Default)]
struct ByIp(Mutex<HashMap<IpAddr, usize>>);

impl ByIp {
    fn enter(self: &Arc<Self>, ip: IpAddr, max: usize) -> Option<FromIp> {
        let ip = whole_customer(ip);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(&ip).copied().unwrap_or(0);
        if count >= max {
            return None;
        }
        counts.insert(ip, count + 1);
        Some(FromIp { counts: Arc::clone(self), ip })
    }
}

/// One of them; leaves when dropped.
#[derive(Debug)]
struct FromIp {
    counts: Arc<ByIp>,
    ip: IpAddr,
}

impl Drop for FromIp {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&self.ip) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                counts.remove(&self.ip);
            }
        }
    }
}

/// An IPv6 customer has a whole /64 to dial from; an IPv4 one has an address.
fn whole_customer(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_logged_in_part_and_the_rest_is_counted() {
        let (log, start) = (LogLimit::default(), Instant::now());
        for _ in 0..MAX_LOGGED_PER_SECOND {
            assert_eq!(log.admit(start), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(log.admit(start + Duration::from_millis(999)), None);
        }
        let later = start + Duration::from_secs(1);
        assert_eq!((log.admit(later), log.admit(later)), (Some(1000), Some(0)));
    }
}
