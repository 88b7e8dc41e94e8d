//! One connection to a proxy: the session, its requests, and the proxy's payment notices.

mod choice;
mod notices;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_ledger::{Adjusted, AdjustedTokens, Dispute, DisputeReason, RequestId};
use cocoon_net::{Ended, Endpoint, MonotonicClock, PeerIdentity, SecureStream, pump};
use cocoon_session::client::{ClientEvent, ClientSession, ClientSettings, ModelOffers, Submission};
use cocoon_session::{ErrorCode, ProxyTerms, RequestFailure, Time, Violation, WorkerList};
use cocoon_ton::RootConfig;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::choice::Choice;
use self::notices::Notices;
use crate::Shared;
use crate::book::PeerKey;
use crate::claims::{Claims, Overcharge, Word};
use crate::exchange::{AnswerQueue, Ending, Event, Exchange};
use crate::failure;
use crate::market::{self, Told};
use crate::settle::Channel;

/// How often time-outs are looked at.
const TICK: Duration = Duration::from_millis(50);
/// A proxy that sends nothing for this long counts as gone for requests that have no answer yet. It is asked what its
/// workers offer each second, so one that lives always says something.
const SILENT_AFTER: Duration = Duration::from_millis(2500);
/// After so much silence a proxy counts as gone for answers that it has begun, too: whoever waits for their rest hears so.
const GONE_AFTER: Duration = Duration::from_secs(10);

/// What is known of the machine that a proxy runs on.
#[derive(Debug, Clone)]
pub(crate) struct Attestation {
    /// Kind of the evidence that was verified, or `none`.
    pub(crate) kind: &'static str,
    /// Nothing was verified about hardware.
    pub(crate) insecure: bool,
    pub(crate) image_hash: Option<[u8; 32]>,
}

impl From<&PeerIdentity> for Attestation {
    fn from(peer: &PeerIdentity) -> Self {
        let attested = peer.attested_kind();
        Self {
            kind: attested.map_or("none", |kind| kind.name()),
            insecure: !peer.is_proven(),
            image_hash: peer.image_hash,
        }
    }
}

#[derive(Debug)]
struct Inner {
    session: Option<ClientSession>,
    waiting: HashMap<[u8; 32], Waiting>,
    claims: Claims,
}

#[derive(Debug)]
struct Waiting {
    queue: Arc<AnswerQueue>,
    at_most: i64,
    /// The proxy answers in place of the worker, which it gave up.
    early: bool,
}

/// One connection to a proxy.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) address: String,
    pub(crate) attestation: Attestation,
    /// Who the proxy showed itself to be.
    pub(crate) peer: Arc<PeerIdentity>,
    pub(crate) in_flight: AtomicUsize,
    /// When the proxy last sent anything, in microseconds since 1970.
    heard: AtomicU64,
    /// Since when it is known to say nothing, in microseconds since 1970; 0: it is not.
    silent_since: AtomicU64,
    /// Set once requests can be sent.
    serving: OnceLock<ProxyTerms>,
    /// The channel on chain, once the proxy has named it.
    channel: OnceLock<Arc<Channel>>,
    /// The root configuration of the handshake.
    root: Arc<RootConfig>,
    models: RwLock<Arc<Vec<ModelOffers>>>,
    /// The proxy's workers, once it has told.
    workers: RwLock<Option<Arc<WorkerList>>>,
    /// What the proxy told of its market last.
    market: watch::Sender<Option<Told>>,
    /// When it was asked for that, in microseconds since 1970.
    market_asked: AtomicU64,
    choice: Choice,
    inner: Mutex<Inner>,
    notices: Mutex<Notices>,
    wake: Notify,
    close: CancellationToken,
    clock: MonotonicClock,
    shared: Arc<Shared>,
}

impl Connection {
    pub(crate) fn new(
        shared: Arc<Shared>,
        address: String,
        peer: &PeerIdentity,
        settings: ClientSettings,
        close: CancellationToken,
    ) -> Arc<Self> {
        let clock = shared.clock;
        let root = Arc::clone(&settings.root);
        let session = ClientSession::new(settings, Time(clock.micros()), rand::random());
        let peer = Arc::new(peer.clone());
        shared.vetting.memory.note_proxy(&address, Arc::clone(&peer));
        Arc::new(Self {
            address,
            attestation: Attestation::from(peer.as_ref()),
            peer,
            in_flight: AtomicUsize::new(0),
            heard: AtomicU64::new(clock.micros()),
            silent_since: AtomicU64::new(0),
            serving: OnceLock::new(),
            channel: OnceLock::new(),
            root,
            models: RwLock::default(),
            workers: RwLock::default(),
            market: watch::Sender::new(None),
            market_asked: AtomicU64::new(0),
            choice: Choice::default(),
            inner: Mutex::new(Inner {
                session: Some(session),
                waiting: HashMap::new(),
                claims: Claims::default(),
            }),
            notices: Mutex::default(),
            wake: Notify::new(),
            close,
            clock,
            shared,
        })
    }

    /// Serves the connection until it ends; says how, in words.
    pub(crate) async fn serve(self: &Arc<Self>, stream: SecureStream) -> String {
        let ended = {
            let SecureStream { io, renewal, .. } = stream;
            let moving = pump(io, self.as_ref(), &self.wake, &self.close);
            tokio::pin!(moving);
            let mut ticks = tokio::time::interval(TICK);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut allowed = self.shared.vetting.allowed();
            let mut violation = None;
            let ended = loop {
                tokio::select! {
                    ended = &mut moving => break ended,
                    _ = ticks.tick(), if violation.is_none() => {
                        if let Err(why) = self.on_time() {
                            violation = Some(why);
                            self.close.cancel();
                        }
                        if renewal.is_due() && self.is_idle() {
                            tracing::info!(proxy = %self.address, "dialling again, to see a new certificate");
                            self.close.cancel();
                        }
                        self.wake.notify_one();
                    }
                    // The sender lives as long as `self`.
                    Ok(()) = allowed.changed(), if violation.is_none() => {
                        allowed.mark_unchanged();
                        if let Err(why) = self.allow_workers() {
                            violation = Some(why);
                            self.close.cancel();
                        }
                        self.wake.notify_one();
                        self.shared.pool.changed();
                    }
                }
            };
            violation.map_or(ended, Ended::Violation)
        };
        let why = ended.to_string();
        let events = {
            let mut inner = self.lock();
            let events = inner.session.take().map(|session| session.close(&why)).unwrap_or_default();
            self.deliver(&mut inner, events.into_iter())
        };
        // The connection is over: what its last notices say counts, a fault in them changes nothing any more.
        let _ = self.take_notices(events);
        self.notices().presence = None;
        self.awaited().clear();
        why
    }

    /// Whether no request of ours is under way, and none waits for the last word on its cost.
    fn is_idle(&self) -> bool {
        let inner = self.lock();
        inner.session.as_ref().is_none_or(|session| session.in_flight() == 0)
            && !self.shared.access.awaits_any(inner.claims.unacknowledged())
    }

    /// The proxy's terms, once requests can be sent.
    pub(crate) fn terms(&self) -> Option<&ProxyTerms> {
        self.serving.get()
    }

    /// Whether requests should go this way.
    pub(crate) fn takes_requests(&self) -> bool {
        let chosen = self.shared.vetting.demands().is_none() || self.choice.made.load(Ordering::Relaxed);
        chosen
            && !self.shared.pool.is_closed()
            && self.terms().is_some()
            && !self.channel.get().is_some_and(|channel| channel.is_leaving())
    }

    /// Whether the proxy owes answers and has said nothing for [`GONE_AFTER`]: counted from when the silence was first seen,
    /// because it may be us who stood still. A published proxy takes large requests in one piece, and is asked nothing
    /// meanwhile.
    fn is_gone(&self, now: Time) -> bool {
        let owes = self.in_flight.load(Ordering::Relaxed) > 0;
        if !owes || !self.is_silent() || !self.terms().is_some_and(|terms| terms.extensions) {
            self.silent_since.store(0, Ordering::Relaxed);
            return false;
        }
        let seen = self.silent_since.load(Ordering::Relaxed);
        if seen == 0 {
            self.silent_since.store(now.0, Ordering::Relaxed);
            return false;
        }
        now.since(Time(seen)) >= GONE_AFTER - SILENT_AFTER
    }

    /// Whether the proxy says nothing at all, though it is asked all the time.
    pub(crate) fn is_silent(&self) -> bool {
        self.now().since(Time(self.heard.load(Ordering::Relaxed))) >= SILENT_AFTER
    }

    pub(crate) fn models(&self) -> Arc<Vec<ModelOffers>> {
        Arc::clone(&self.models.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The workers that are connected to the proxy, as far as it tells.
    pub(crate) fn workers(&self) -> Arc<WorkerList> {
        self.workers.read().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    /// What the proxy told of its market last, and as it changes.
    pub(crate) fn market(&self) -> watch::Receiver<Option<Told>> {
        self.market.subscribe()
    }

    /// Asks the proxy what is on offer. Nothing happens where it does not tell, or was asked and has not answered.
    pub(crate) fn ask_market(&self) {
        let now = self.now();
        self.market_asked.store(now.0, Ordering::Relaxed);
        self.ask(|session| session.ask_market(now));
    }

    /// Lets the session ask the proxy for something now; closes the connection where it must be.
    fn ask(&self, work: impl FnOnce(&mut ClientSession) -> Result<(), Violation>) {
        if let Err(why) = self.step(|session| work(session).map_err(|violation| violation.to_string())) {
            tracing::warn!(proxy = %self.address, %why, "closing the connection to the proxy");
            self.close.cancel();
        }
        self.wake.notify_one();
    }

    /// Sends a request; `at_most` is the most that it may cost.
    pub(crate) fn submit(
        self: &Arc<Self>,
        submission: &Submission,
        at_most: i64,
    ) -> Result<Exchange, RequestFailure> {
        let queue = Arc::new(AnswerQueue::default());
        {
            let mut inner = self.lock();
            let Some(session) = inner.session.as_mut().filter(|_| !self.shared.pool.is_closed()) else {
                return Err(RequestFailure::new(ErrorCode::NOT_READY, "the connection to the proxy is lost"));
            };
            session.submit(submission, self.now())?;
            inner.waiting.insert(submission.id, Waiting { queue: Arc::clone(&queue), at_most, early: false });
        }
        self.wake.notify_one();
        Ok(Exchange::new(Arc::clone(self), submission.id, queue, at_most))
    }

    pub(crate) fn cancel(&self, request: [u8; 32], at_most: i64) {
        {
            let mut inner = self.lock();
            if inner.waiting.remove(&request).is_none() {
                return;
            }
            self.shared.access.cancelled(&request);
            let overcharge = inner.claims.expect(request, at_most);
            if let Some(overcharge) = overcharge {
                self.dispute_charge(&overcharge);
            }
            if let Some(session) = inner.session.as_mut() {
                session.cancel(request);
            }
        }
        self.wake.notify_one();
    }

    /// Gives up all requests under way: their callers are told so, and workers are told to stop and say what they did.
    pub(crate) fn give_up(&self, why: &RequestFailure) {
        {
            let mut inner = self.lock();
            let requests: Vec<_> = inner.waiting.keys().copied().collect();
            if let Some(session) = inner.session.as_mut() {
                requests.iter().for_each(|request| session.cancel(*request));
            }
            let ends = requests.into_iter().map(|request| ClientEvent::Failed {
                request,
                failure: why.clone(),
                info: None,
            });
            self.deliver(&mut inner, ends);
        }
        self.wake.notify_one();
    }

    pub(crate) fn consumed(&self, request: [u8; 32], bytes: usize) {
        if let Some(session) = self.lock().session.as_mut() {
            session.consumed(request, bytes);
        }
        self.wake.notify_one();
    }

    pub(crate) fn peer_key(terms: &ProxyTerms) -> PeerKey {
        PeerKey { proxy: terms.public_key, contract: terms.pair_contract }
    }

    fn now(&self) -> Time {
        Time(self.clock.micros())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_time(&self) -> Result<(), String> {
        let now = self.now();
        if self.is_gone(now) {
            return Err("the proxy fell silent".to_owned());
        }
        if self.shared.vetting.demands().is_some() && self.terms().is_some() {
            self.look_at_workers(now)?;
        }
        let asked = Time(self.market_asked.load(Ordering::Relaxed));
        if self.shared.looks.are_taken(now) && now.since(asked) >= market::ASK_EVERY {
            self.ask_market();
        }
        let refund = self.is_refund_due(now);
        self.step(|session| {
            if refund && session.in_flight() == 0 {
                session.request_refund(now).map_err(|violation| violation.to_string())?;
            }
            session.on_time(now).map_err(|violation| violation.to_string())
        })
    }

    /// Lets the session work, then deals with what happened.
    fn step(&self, work: impl FnOnce(&mut ClientSession) -> Result<(), String>) -> Result<(), String> {
        let (worked, notices) = {
            let mut inner = self.lock();
            let Some(session) = inner.session.as_mut() else { return Ok(()) };
            let mut worked = work(session);
            let mut events = Vec::new();
            while let Some(event) = session.poll_event() {
                if matches!(event, ClientEvent::Ready(_)) {
                    // Callers want to know at once what there is.
                    let (models, workers) =
                        (session.refresh_models(self.now()), session.refresh_workers(self.now()));
                    worked = worked.and(models.and(workers).map_err(|error| error.to_string()));
                }
                events.push(event);
            }
            (worked, self.deliver(&mut inner, events.into_iter()))
        };
        self.take_notices(notices)?;
        worked
    }

    /// Passes events on to who waits for them; gives back those about the connection itself.
    fn deliver(&self, inner: &mut Inner, events: impl Iterator<Item = ClientEvent>) -> Vec<ClientEvent> {
        let mut others = Vec::new();
        let mut overcharges = Vec::new();
        for event in events {
            let (request, event) = match event {
                ClientEvent::Head { request, worker, head } => {
                    if let Some(waiting) = inner.waiting.get_mut(&request) {
                        waiting.early = failure::is_early(&head);
                    }
                    (request, Event::Head(head, worker))
                }
                ClientEvent::Data { request, data } => (request, Event::Data(data)),
                ClientEvent::Completed { request, info, debug } => {
                    let early = inner.waiting.get(&request).is_some_and(|waiting| waiting.early);
                    overcharges.extend(self.note_end(inner, request, Word::completed(&info, early)));
                    (request, Event::End(Ending::Completed { info, debug }))
                }
                ClientEvent::Failed { request, failure, info } => {
                    let ours = self.terms().is_some_and(|terms| terms.extensions);
                    let word = Word::failed(&failure, info.as_ref(), ours);
                    overcharges.extend(self.note_end(inner, request, word));
                    (request, Event::End(Ending::Failed { failure, info }))
                }
                ClientEvent::Payment { request: Some((request, tokens)), counters } => {
                    self.shared.access.charged(&request, tokens);
                    overcharges.extend(inner.claims.charge(request, tokens));
                    others.push(ClientEvent::Payment { request: None, counters });
                    continue;
                }
                other => {
                    others.push(other);
                    continue;
                }
            };
            let last = matches!(event, Event::End(_));
            if let Some(waiting) = inner.waiting.get(&request) {
                waiting.queue.put(event);
            }
            if last {
                inner.waiting.remove(&request);
            }
        }
        overcharges.iter().for_each(|overcharge| self.dispute_charge(overcharge));
        others
    }

    /// An answer has ended: what is said of its cost. Whether it was charged more than that, where that is known already.
    fn note_end(&self, inner: &mut Inner, request: [u8; 32], word: Word) -> Option<Overcharge> {
        if word.last || word.claimed > 0 {
            self.shared.access.claimed(&request, word.claimed);
        } else {
            self.shared.access.cancelled(&request);
        }
        let reserved = inner.waiting.get(&request).map_or(i64::MAX, |waiting| waiting.at_most);
        inner.claims.expect(request, word.at_most(reserved))
    }

    /// The proxy charged more than the worker claimed.
    fn dispute_charge(&self, overcharge: &Overcharge) {
        let Some(terms) = self.terms() else { return };
        let all = |tokens| {
            let zero = AdjustedTokens::ZERO;
            Adjusted::saturating([AdjustedTokens::from_wire(tokens), zero, zero, zero])
        };
        let dispute = Dispute {
            request: RequestId(overcharge.request),
            expected: all(overcharge.at_most),
            claimed: all(overcharge.charged),
            reason: DisputeReason::CounterExceedsClaim,
        };
        self.shared.dispute(&dispute, &terms.public_key, "");
    }
}

impl Endpoint for Connection {
    fn receive(&self, received: &mut BytesMut) -> Result<(), String> {
        let now = self.now();
        self.heard.store(now.0, Ordering::Relaxed);
        self.step(|session| session.receive(received, now).map_err(|violation| violation.to_string()))
    }

    fn transmit(&self, capacity: usize) -> Option<Bytes> {
        self.lock().session.as_mut()?.transmit(capacity)
    }
}
