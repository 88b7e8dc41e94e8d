//! The connections to proxies: who is dialled, who is ready, and who gets a request.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use cocoon_net::{Backoff, DialOptions, TlsSettings, dial};
use cocoon_session::client::{ClientSettings, ModelOffers};
use cocoon_session::{ErrorCode, RequestFailure};
use cocoon_ton::RootConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Shared;
use crate::attempts::Breakers;
use crate::attestation::Fingerprint;
use crate::connection::Connection;

/// First and last ceiling of the wait between two attempts to reach a proxy.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));
/// A connection that lived this long was a good one: the next attempt follows soon.
const GOOD_CONNECTION: Duration = Duration::from_secs(30);
/// Most proxies that are dialled.
const MAX_PROXIES: usize = 256;
/// Models that are remembered after nobody offers them any more,
const MAX_KNOWN_MODELS: usize = 4096;
/// and for how long. A request for one of them waits for a worker to come back.
const KNOWN_FOR: Duration = Duration::from_secs(60);

/// Connections that are up, ready or not.
#[derive(Debug)]
pub(crate) struct Pool {
    connections: RwLock<Arc<Vec<Arc<Connection>>>>,
    ready: watch::Sender<usize>,
    /// Counts what may be news for a request that waits: connections, and offers on them.
    news: watch::Sender<u64>,
    /// When the last proxy was lost, if there was any.
    lost: Mutex<Option<Instant>>,
    /// When models were last on offer.
    known: Mutex<HashMap<String, Instant>>,
    breakers: Mutex<Breakers>,
    /// How the newest attempt to reach a proxy failed, with its address.
    failure: Mutex<Option<String>>,
    /// No requests are sent any more.
    closed: AtomicBool,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            connections: RwLock::default(),
            ready: watch::Sender::new(0),
            news: watch::Sender::new(0),
            lost: Mutex::default(),
            known: Mutex::default(),
            breakers: Mutex::default(),
            failure: Mutex::default(),
            closed: AtomicBool::new(false),
        }
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

    /// Ends all requests under way, for good. Connections stay, so that proxies can tell what those cost.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let why = RequestFailure::new(ErrorCode::NOT_READY, "the gateway is shutting down");
        self.all().iter().for_each(|connection| connection.give_up(&why));
        self.changed();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Counts anew which connections are ready.
    pub(crate) fn changed(&self) {
        let ready = self.all().iter().filter(|connection| connection.takes_requests()).count();
        self.ready.send_if_modified(|known| {
            let before = std::mem::replace(known, ready);
            if before > 0 && ready == 0 {
                *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
            before != ready
        });
        self.news.send_modify(|count| *count += 1);
    }

    /// A proxy told what its workers offer.
    pub(crate) fn offered(&self, before: &[ModelOffers], offers: &[ModelOffers]) {
        let now = Instant::now();
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            for name in before.iter().chain(offers).map(|model| &model.name) {
                match known.get_mut(name) {
                    Some(seen) => *seen = now,
                    None => drop(known.insert(name.clone(), now)),
                }
            }
            if known.len() > MAX_KNOWN_MODELS {
                known.retain(|_, seen| now.duration_since(*seen) < KNOWN_FOR);
            }
            if known.len() > MAX_KNOWN_MODELS {
                known.clear();
            }
        }
        let worse = |model: &ModelOffers| {
            let is_it = |other: &&ModelOffers| other.name == model.name;
            before.iter().find(is_it).is_none_or(|before| free(before, u32::MAX) < free(model, u32::MAX))
        };
        if offers.iter().any(worse) {
            self.news.send_modify(|count| *count += 1);
        }
    }

    /// Whether somebody offered this model not long ago.
    pub(crate) fn knows(&self, model: &str) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(model).is_some_and(|seen| seen.elapsed() < KNOWN_FOR)
    }

    /// Whether a proxy took requests at most so long ago, or does now.
    pub(crate) fn was_ready_within(&self, time: Duration) -> bool {
        let lost = *self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = lost.filter(|_| !self.is_closed());
        *self.ready.borrow() > 0 || lost.is_some_and(|lost| lost.elapsed() < time)
    }

    /// Something that changes as connections come and go, and as workers become free.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Which proxies should be left alone.
    pub(crate) fn breakers(&self) -> MutexGuard<'_, Breakers> {
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection for a request: a ready one that was not tried, where possible one that is not silent and no breaker
    /// is open for, and offers the model and has a free worker for it; of those the one at the address `served`, which
    /// served a request that began the same, then the one with the fewest requests of ours under way.
    pub(crate) fn choose(
        &self,
        model: &str,
        max_coefficient: u32,
        served: Option<&str>,
        tried: &[Arc<Connection>],
    ) -> Option<Arc<Connection>> {
        let all = self.all();
        let fit = |connection: &Arc<Connection>| {
            let models = connection.models();
            let Some(model) = models.iter().find(|offered| offered.name == model) else { return 2 };
            u8::from(free(model, max_coefficient) == 0)
        };
        let ready = |connection: &&Arc<Connection>| {
            connection.takes_requests() && !tried.iter().any(|tried| Arc::ptr_eq(tried, connection))
        };
        let mut candidates = all.iter().filter(ready);
        let first = candidates.next()?;
        let Some(second) = candidates.next() else { return Some(Arc::clone(first)) };
        let (breakers, now) = (self.breakers(), Instant::now());
        // What is to be avoided is taken all the same where nothing else is left.
        let avoid = |connection: &Arc<Connection>| {
            connection.is_silent() || !breakers.allow(&connection.address, model, now)
        };
        [first, second]
            .into_iter()
            .chain(candidates)
            .min_by_key(|connection| {
                let other = served != Some(connection.address.as_str());
                (avoid(connection), fit(connection), other, connection.in_flight.load(Ordering::Relaxed))
            })
            .cloned()
    }

    /// Whether another connection than this one could be asked, and answers.
    pub(crate) fn has_other(&self, than: &Arc<Connection>) -> bool {
        self.all()
            .iter()
            .any(|other| !Arc::ptr_eq(other, than) && other.takes_requests() && !other.is_silent())
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

/// How many more requests workers take for this model at this price.
fn free(model: &ModelOffers, max_coefficient: u32) -> u64 {
    let affordable = model.offers.iter().filter(|offer| offer.coefficient <= max_coefficient);
    affordable.map(|offer| u64::from(offer.limit.saturating_sub(offer.active))).sum()
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
