//! The connections to proxies: who is dialled, who is ready, and who gets a request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use cocoon_net::{Backoff, DialOptions, TlsSettings, dial};
use cocoon_session::client::ClientSettings;
use cocoon_ton::RootConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Shared;
use crate::attestation::Fingerprint;
use crate::connection::Connection;

/// First and last ceiling of the wait between two attempts to reach a proxy.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));
/// A connection that lived this long was a good one: the next attempt follows soon.
const GOOD_CONNECTION: Duration = Duration::from_secs(30);
/// Most proxies that are dialled.
const MAX_PROXIES: usize = 256;

/// Connections that are up, ready or not.
#[derive(Debug)]
pub(crate) struct Pool {
    connections: RwLock<Arc<Vec<Arc<Connection>>>>,
    ready: watch::Sender<usize>,
    /// How the newest attempt to reach a proxy failed, with its address.
    failure: Mutex<Option<String>>,
}

impl Default for Pool {
    fn default() -> Self {
        Self { connections: RwLock::default(), ready: watch::Sender::new(0), failure: Mutex::default() }
    }
}

impl Pool {
    /// All connections that are up.
    pub(crate) fn all(&self) -> Arc<Vec<Arc<Connection>>> {
        Arc::clone(&self.connections.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The workers of all connections, as far as proxies tell.
    pub(crate) fn listed_workers(&self) -> BTreeSet<Fingerprint> {
        self.all()
            .iter()
            .flat_map(|connection| connection.workers().keys().copied().collect::<Vec<_>>())
            .collect()
    }

    /// How many are ready, now and as it changes.
    pub(crate) fn ready(&self) -> watch::Receiver<usize> {
        self.ready.subscribe()
    }

    /// Why no proxy is connected, where none is and one was tried.
    pub(crate) fn failure(&self) -> Option<String> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.clone().filter(|_| *self.ready.borrow() == 0)
    }

    fn failed(&self, address: &str, why: &dyn std::fmt::Display) {
        let words = format!("{address}: {why}");
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(words);
    }

    /// Counts anew which connections are ready.
    pub(crate) fn changed(&self) {
        let ready = self.all().iter().filter(|connection| connection.takes_requests()).count();
        self.ready.send_if_modified(|known| std::mem::replace(known, ready) != ready);
    }

    /// The connection for a request: a ready one that was not tried, where possible one that offers the model and has
    /// a free worker for it; of those the one with the fewest requests of ours under way.
    pub(crate) fn choose(
        &self,
        model: &str,
        max_coefficient: u32,
        tried: &[Arc<Connection>],
    ) -> Option<Arc<Connection>> {
        let all = self.all();
        let fit = |connection: &Arc<Connection>| {
            let models = connection.models();
            let Some(model) = models.iter().find(|offered| offered.name == model) else { return 2 };
            let free = |offer: &cocoon_session::client::Offer| {
                offer.coefficient <= max_coefficient && offer.active < offer.limit
            };
            u8::from(!model.offers.iter().any(free))
        };
        let ready = |connection: &&Arc<Connection>| {
            connection.takes_requests() && !tried.iter().any(|tried| Arc::ptr_eq(tried, connection))
        };
        let mut candidates = all.iter().filter(ready);
        let first = candidates.next()?;
        let Some(second) = candidates.next() else { return Some(Arc::clone(first)) };
        [first, second]
            .into_iter()
            .chain(candidates)
            .min_by_key(|connection| (fit(connection), connection.in_flight.load(Ordering::Relaxed)))
            .cloned()
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Connection>>)) {
        {
            let mut connections = self.connections.write().unwrap_or_else(PoisonError::into_inner);
            let mut changed = connections.as_ref().clone();
            change(&mut changed);
            *connections = Arc::new(changed);
        }
        self.changed();
    }
}

/// How to reach proxies, and who we are to them.
#[derive(Clone)]
pub(crate) struct Dialler {
    pub(crate) tls: TlsSettings,
    pub(crate) options: DialOptions,
    /// As of the start; the root configuration in it is replaced by the current one for each connection.
    pub(crate) settings: ClientSettings,
    pub(crate) check_proxy_hashes: bool,
}

/// Keeps a connection to every proxy: the `fixed` ones, or those that the root configuration registers.
pub(crate) async fn keep_connected(
    shared: Arc<Shared>,
    dialler: Dialler,
    fixed: Vec<String>,
    stop: CancellationToken,
) {
    let tasks = TaskTracker::new();
    let mut root = shared.root.clone();
    let mut dialled: BTreeMap<String, CancellationToken> = BTreeMap::new();
    loop {
        let config = Arc::clone(&root.borrow_and_update());
        if dialler.check_proxy_hashes {
            // That the policy asks for evidence was seen at the start.
            if let Err(error) = dialler.tls.list_images(config.proxy_hashes.iter().copied()) {
                tracing::error!(%error, "the proxies' image hashes cannot be enforced");
            }
        }
        let wanted = wanted(&fixed, &config);
        dialled.retain(|address, stop| {
            let keep = wanted.contains(address);
            if !keep {
                tracing::info!(proxy = %address, "no longer registered: disconnecting");
                stop.cancel();
            }
            keep
        });
        for address in wanted {
            dialled.entry(address).or_insert_with_key(|address| {
                let stop = stop.child_token();
                tasks.spawn(stay_connected(
                    Arc::clone(&shared),
                    dialler.clone(),
                    address.clone(),
                    stop.clone(),
                ));
                stop
            });
        }
        tokio::select! {
            changed = root.changed() => if changed.is_err() {
                // The chain is gone; what it said last stands.
                stop.cancelled().await;
                break;
            },
            () = stop.cancelled() => break,
        }
    }
    tasks.close();
    tasks.wait().await;
}

fn wanted(fixed: &[String], config: &RootConfig) -> Vec<String> {
    let mut wanted = fixed.to_vec();
    if wanted.is_empty() {
        wanted =
            config.registered_proxies.iter().map(|proxy| proxy.endpoints.for_clients.to_string()).collect();
    }
    wanted.sort();
    wanted.dedup();
    if wanted.len() > MAX_PROXIES {
        tracing::warn!(proxies = wanted.len(), "only {MAX_PROXIES} proxies are dialled");
        wanted.truncate(MAX_PROXIES);
    }
    wanted
}

async fn stay_connected(shared: Arc<Shared>, dialler: Dialler, address: String, stop: CancellationToken) {
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    loop {
        let dialled = tokio::select! {
            dialled = dial(&address, &dialler.tls, &dialler.options) => dialled,
            () = stop.cancelled() => return,
        };
        match dialled {
            Ok(stream) => {
                let mut settings = dialler.settings.clone();
                settings.root = Arc::clone(&shared.root.borrow());
                let close = stop.child_token();
                let connection =
                    Connection::new(Arc::clone(&shared), address.clone(), &stream.peer, settings, close);
                shared.pool.change(|connections| connections.push(Arc::clone(&connection)));
                let began = Instant::now();
                let why = connection.serve(stream).await;
                shared.pool.change(|all| all.retain(|other| !Arc::ptr_eq(other, &connection)));
                if stop.is_cancelled() {
                    return;
                }
                shared.pool.failed(&address, &why);
                tracing::warn!(proxy = %address, %why, "connection to the proxy ended");
                if connection.terms().is_some() && began.elapsed() >= GOOD_CONNECTION {
                    backoff.reset();
                }
            }
            Err(error) => {
                shared.pool.failed(&address, &error.cause);
                tracing::warn!(proxy = %address, cause = %error.cause, "cannot connect to the proxy")
            }
        }
        let wait = backoff.next(&mut rand::rng());
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}
