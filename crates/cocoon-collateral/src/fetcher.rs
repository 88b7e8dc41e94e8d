//! The source that fetches.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cocoon_attest::{
    Collateral, CollateralFuture, CollateralRequest, CollateralSource, CollateralUnavailable, EvidenceKind,
    UnixSeconds,
};
use futures_util::future::join_all;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

pub use crate::books::MAX_FETCHES_UNDER_WAY;
use crate::books::{Books, Decision, Flight};
use crate::bundle::{Bundle, BundleError};
use crate::disk::{Disk, Stored};
use crate::http::{Failure, Http, Kind};
use crate::options::{FetcherOptions, OptionsError};
use crate::route::{Route, Routes, Service};

/// Most requests in one call. Eight GPUs with all their certificates need about a hundred.
pub const MAX_REQUESTS: usize = 256;
/// A service that wants to be left alone for no longer than this is asked once more by the same fetch.
const MAX_WAIT_FOR_TURN: Duration = Duration::from_secs(10);

/// Tells the time of day.
pub type Now = Arc<dyn Fn() -> UnixSeconds + Send + Sync>;

/// Fetches collateral from the vendors' services and keeps it, in memory and on disk.
///
/// - Whatever holds is given at once. When it is due (a list of who is revoked after a day, and everything before it
///   runs out) the next one is fetched in the background.
/// - However many ask for the same thing, it is fetched once; how many fetches are under way, and how often a service
///   is asked, is bounded.
/// - What has run out is fetched before it is given. If that fails, the old answer is given with a note why
///   ([`Collateral::failures`]), since the verifier judges dates.
/// - A service that fails is left alone for a while that doubles, as is one that asks for it (`Retry-After`), and
///   an answer that cannot be had.
/// - After a [refusal](CollateralSource::refused), the answers behind it are fetched anew in the background when they are
///   next asked for, but only [`refetch_pause`](FetcherOptions::refetch_pause) after they were fetched, and kept where
///   that fails: a service that lied does not make it stick, and a peer that makes itself refused neither costs us what
///   we have nor makes others wait.
/// - A caller waits no longer than [`patience`](FetcherOptions::patience), for all rounds of a judgement together.
///
/// Cheap to clone; clones share everything. Must be used within a tokio runtime.
#[derive(Clone)]
pub struct Fetcher {
    inner: Arc<Inner>,
}

struct Inner {
    routes: Routes,
    http: Http,
    disk: Option<Disk>,
    books: Mutex<Books>,
    /// By [`Service::index`].
    places: [Semaphore; Service::ALL.len()],
    now: Now,
    patience: Duration,
    turn_timeout: Duration,
}

impl Fetcher {
    /// Nothing is dialled yet. `now` tells the time of day.
    ///
    /// # Errors
    /// An option cannot be carried out: a URL, a file with certificates, the folder of the cache.
    pub fn new(options: &FetcherOptions, now: Now) -> Result<Self, OptionsError> {
        let open = |path: &Path| {
            Disk::open(path).map_err(|reason| OptionsError::CacheDir { path: path.to_owned(), reason })
        };
        Ok(Self {
            inner: Arc::new(Inner {
                routes: Routes::new(options)?,
                http: Http::new(options)?,
                disk: options.cache_dir.as_deref().map(open).transpose()?,
                books: Mutex::new(Books::new(options.offline, options.refetch_pause.as_secs())),
                places: Service::ALL.map(|service| Semaphore::new(service.places())),
                now,
                patience: options.patience,
                turn_timeout: options.fetch_timeout,
            }),
        })
    }

    /// The answers to these requests as a file, fetched where they are not at hand.
    ///
    /// # Errors
    /// An answer cannot be had; a bundle that lacks something would be no use offline. Or it is more than a bundle takes.
    pub async fn export_bundle(
        &self,
        requests: &[CollateralRequest],
    ) -> Result<Vec<u8>, CollateralUnavailable> {
        let answers = self.fetch(requests).await?;
        if let Some(missing) = requests.iter().find(|request| answers.get(request).is_none()) {
            let why = answers.failures().find(|(request, _)| *request == missing);
            let why = why.map_or("it cannot be had", |(_, why)| why);
            let reason = format!("{}: {why}", missing.name);
            return Err(CollateralUnavailable { kind: missing.kind, reason });
        }
        let bundle = Bundle { gathered_at: (self.inner.now)(), answers };
        bundle.to_json().map_err(|error| {
            let kind = requests.first().map_or(EvidenceKind::None, |request| request.kind);
            CollateralUnavailable { kind, reason: error.to_string() }
        })
    }

    /// Takes the answers of a bundle as if they had been fetched when it was gathered. Newer ones that are there stay.
    /// Gives the number of answers that fit a request; others are left out.
    ///
    /// # Errors
    /// It is no bundle.
    pub async fn import_bundle(&self, json: &[u8]) -> Result<usize, BundleError> {
        let bundle = Bundle::from_json(json)?;
        let mut taken = 0;
        for (request, body) in bundle.answers.iter() {
            let Some(route) = self.inner.routes.find(request) else { continue };
            if route.life(body, bundle.gathered_at).is_none() {
                continue;
            }
            self.inner.recall_from_disk(request, &route).await;
            let stored = Stored { fetched_at: bundle.gathered_at, body: body.clone() };
            let newest = {
                let now = (self.inner.now)();
                let mut books = self.inner.books();
                books.recall(request, &route, stored.clone(), now);
                matches!(books.settle(request, None, now), Decision::Serve { body, .. } if body == stored.body)
            };
            if newest {
                self.inner.store(request, &route, stored).await;
            }
            taken += 1;
        }
        Ok(taken)
    }
}

impl CollateralSource for Fetcher {
    fn fetch<'a>(&'a self, requests: &'a [CollateralRequest]) -> CollateralFuture<'a> {
        Box::pin(self.inner.answers(requests, self.inner.deadline()))
    }

    fn for_one_judgement(&self) -> Option<Box<dyn CollateralSource + '_>> {
        Some(Box::new(Errand { inner: &self.inner, deadline: self.inner.deadline() }))
    }

    fn refused(&self, requests: &[CollateralRequest]) {
        self.inner.refused(requests);
    }
}

/// A fetcher with one deadline for all that is fetched by it.
struct Errand<'a> {
    inner: &'a Arc<Inner>,
    deadline: Instant,
}

impl CollateralSource for Errand<'_> {
    fn fetch<'a>(&'a self, requests: &'a [CollateralRequest]) -> CollateralFuture<'a> {
        Box::pin(self.inner.answers(requests, self.deadline))
    }

    fn refused(&self, requests: &[CollateralRequest]) {
        self.inner.refused(requests);
    }
}

impl Inner {
    fn books(&self) -> MutexGuard<'_, Books> {
        // No method of the books leaves them half written.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When whoever asks now has waited long enough; patience beyond what the clock can name is an hour.
    fn deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.patience).unwrap_or_else(|| now + Duration::from_secs(3_600))
    }

    fn refused(&self, requests: &[CollateralRequest]) {
        let mut books = self.books();
        for request in requests.iter().take(MAX_REQUESTS) {
            books.suspect(request);
        }
    }

    /// The answers to these requests, as far as they are there by the deadline.
    async fn answers(
        self: &Arc<Self>,
        requests: &[CollateralRequest],
        deadline: Instant,
    ) -> Result<Collateral, CollateralUnavailable> {
        if requests.len() > MAX_REQUESTS {
            let kind = requests.first().map_or(EvidenceKind::None, |request| request.kind);
            let reason = format!("{} things are needed, over the limit of {MAX_REQUESTS}", requests.len());
            return Err(CollateralUnavailable { kind, reason });
        }
        let answers = requests.iter().map(|request| self.answer(request, deadline));
        let mut found = Collateral::none();
        for (request, (body, note)) in requests.iter().zip(join_all(answers).await) {
            if let Some(body) = body {
                found.insert(request.clone(), body);
            }
            if let Some(note) = note {
                found.note_failure(request.clone(), note);
            }
        }
        Ok(found)
    }

    /// The answer to a request, if there is one, and what went wrong, if something did.
    async fn answer(
        self: &Arc<Self>,
        request: &CollateralRequest,
        deadline: Instant,
    ) -> (Option<Bytes>, Option<String>) {
        let Some(route) = self.routes.find(request) else {
            return (None, Some("no service is known that answers this".to_owned()));
        };
        let (decision, flight) = self.decide(request, &route);
        let Some(mut flight) = flight else { return given(decision) };
        let landed = timeout_at(deadline, ended(&mut flight)).await.is_ok();
        let reason = if landed {
            flight.borrow().clone()
        } else {
            Some(format!("{} has not answered yet", route.service.name()))
        };
        given(self.books().settle(request, reason, (self.now)()))
    }

    /// Decides, and sends off what is to be fetched.
    fn decide(self: &Arc<Self>, request: &CollateralRequest, route: &Route) -> (Decision, Option<Flight>) {
        let mut books = self.books();
        let decision = books.decide(request, route.service, (self.now)());
        match decision {
            Decision::Start => {
                let flight = self.depart(&mut books, request, route, false);
                (decision, Some(flight))
            }
            Decision::Serve { renew: true, .. } => {
                self.depart(&mut books, request, route, true);
                (decision, None)
            }
            Decision::Wait(ref flight) => {
                let flight = flight.clone();
                (decision, Some(flight))
            }
            Decision::Serve { .. } | Decision::Nothing(_) => (decision, None),
        }
    }

    fn depart(
        self: &Arc<Self>,
        books: &mut Books,
        request: &CollateralRequest,
        route: &Route,
        renewing: bool,
    ) -> Flight {
        let sender = books.depart(request);
        let flight = sender.subscribe();
        let landing = Landing { inner: Arc::clone(self), request: request.clone(), sender };
        let route = route.clone();
        tokio::spawn(async move { landing.inner.clone().fly(landing, &route, renewing).await });
        flight
    }

    /// Fetches one thing: from the disk if another process was faster, or else from the service.
    async fn fly(self: Arc<Self>, landing: Landing, route: &Route, renewing: bool) {
        let request = &landing.request.clone();
        self.recall_from_disk(request, route).await;
        let permitted = {
            let now = (self.now)();
            let mut books = self.books();
            if books.is_good(request, renewing, now) {
                return;
            }
            books.permit(request, route.service, now)
        };
        if let Err(obstacle) = permitted {
            landing.say(obstacle);
            return;
        }
        let fetched = self.ask(route).await;
        let now = (self.now)();
        let stored = {
            let mut books = self.books();
            let kept = fetched.and_then(|body| {
                books.remember(request, route, body.clone(), now).map(|()| body).ok_or_else(|| {
                    let reason = format!("{}: the answer is not what was asked for", route.service.name());
                    Failure { kind: Kind::NotThis, reason }
                })
            });
            match kept {
                Ok(body) => {
                    books.succeeded(request, route.service);
                    Stored { fetched_at: now, body }
                }
                Err(failure) => {
                    books.failed(request, route.service, &failure, now);
                    landing.say(failure.reason);
                    return;
                }
            }
        };
        // Whoever waits need not wait for the disk.
        drop(landing);
        self.store(request, route, stored).await;
    }

    /// Asks a service when it is our turn, and once more if it wants that a little later.
    async fn ask(&self, route: &Route) -> Result<Bytes, Failure> {
        let service = route.service;
        let place = timeout(self.turn_timeout, self.places[service.index()].acquire()).await;
        let Ok(Ok(_place)) = place else {
            let reason = format!("{}: too many others are asking it", service.name());
            return Err(Failure { kind: Kind::Busy(Some(Duration::from_secs(1))), reason });
        };
        match self.http.fetch(route).await {
            Err(Failure { kind: Kind::Busy(Some(wait)), .. }) if wait <= MAX_WAIT_FOR_TURN => {
                tokio::time::sleep(wait).await;
                self.http.fetch(route).await
            }
            fetched => fetched,
        }
    }

    async fn recall_from_disk(self: &Arc<Self>, request: &CollateralRequest, route: &Route) {
        if self.disk.is_none() {
            return;
        }
        let (inner, wanted) = (Arc::clone(self), request.clone());
        let load = move || inner.disk.as_ref().and_then(|disk| disk.load(&wanted));
        if let Ok(Some(stored)) = tokio::task::spawn_blocking(load).await {
            self.books().recall(request, route, stored, (self.now)());
        }
    }

    async fn store(self: &Arc<Self>, request: &CollateralRequest, route: &Route, stored: Stored) {
        if self.disk.is_none() {
            return;
        }
        let (inner, request, url) = (Arc::clone(self), request.clone(), route.uri.to_string());
        let store = move || inner.disk.as_ref().map_or(Ok(()), |disk| disk.store(&request, &url, &stored));
        if let Ok(Err(error)) = tokio::task::spawn_blocking(store).await {
            tracing::warn!(%error, "an answer cannot be kept on disk");
        }
    }
}

/// A fetch under way, which ends for those who wait when this is dropped, even by a panic.
struct Landing {
    inner: Arc<Inner>,
    request: CollateralRequest,
    sender: watch::Sender<Option<String>>,
}

impl Landing {
    /// Says why nothing new came of it.
    fn say(&self, reason: String) {
        self.sender.send_replace(Some(reason));
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.inner.books().arrive(&self.request);
    }
}

/// Waits until a fetch has ended.
async fn ended(flight: &mut Flight) {
    while flight.changed().await.is_ok() {}
}

fn given(decision: Decision) -> (Option<Bytes>, Option<String>) {
    match decision {
        Decision::Serve { body, note, .. } => (Some(body), note),
        Decision::Nothing(reason) => (None, Some(reason)),
        Decision::Start | Decision::Wait(_) => (None, Some("it is still being fetched".to_owned())),
    }
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("routes", &self.inner.routes).finish_non_exhaustive()
    }
}
