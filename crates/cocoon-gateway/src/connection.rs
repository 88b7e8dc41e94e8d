//! One connection to a proxy: the session, its requests, and the proxy's payment notices.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use cocoon_ledger::{Adjusted, AdjustedTokens, Dispute, DisputeReason, PricePerToken, RequestId};
use cocoon_net::{Ended, Endpoint, MonotonicClock, PeerIdentity, SecureStream, pump};
use cocoon_session::client::{ClientEvent, ClientSession, ClientSettings, ModelOffers, Submission};
use cocoon_session::{AllowError, ErrorCode, PaymentCounters, ProxyTerms, RequestFailure, Time, WorkerList};
use cocoon_ton::payment::{OrderKind, SignedPayment};
use cocoon_ton::{Address, RootConfig, VerifyingKey};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::Shared;
use crate::attestation::Fingerprint;
use crate::book::PeerKey;
use crate::claims::{Claims, Overcharge, Word};
use crate::exchange::{AnswerQueue, Ending, Event, Exchange};
use crate::failure;
use crate::market::{self, Told};
use crate::settle::{Channel, Presence};

/// How often time-outs are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How often a proxy is asked for a refund until it grants one.
const REFUND_EVERY: Duration = Duration::from_secs(5);
/// How long a new connection waits at most until all its workers have been judged; then those count that have been.
const JUDGED_WITHIN: Duration = Duration::from_secs(10);
/// When evidence is asked for again that did not come, or that there was no room for.
const EVIDENCE_EVERY: Duration = Duration::from_secs(60);
/// A proxy that sends nothing for this long counts as gone for requests that have no answer yet. It is asked what its
/// workers offer each second, so one that lives always says something.
const SILENT_AFTER: Duration = Duration::from_millis(2500);

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

/// What the notices of one connection have shown.
#[derive(Debug, Default)]
struct Notices {
    terms: Option<ProxyTerms>,
    /// The last signed order that was verified; consecutive notices often carry the same one.
    verified: Option<(Bytes, u64)>,
    /// Our part in the channel on chain, as long as the connection lasts.
    presence: Option<Presence>,
    /// When the proxy may be asked for a refund again.
    next_refund: Time,
}

/// How far the choice of this proxy's workers is, where they must show evidence.
#[derive(Debug, Default)]
struct Choice {
    /// Requests can be sent: the workers that were there at first have been judged.
    made: AtomicBool,
    /// Whose evidence was asked for and has not come.
    awaited: Mutex<BTreeSet<Fingerprint>>,
    /// When to look for workers whose evidence is missing, in microseconds since 1970.
    next_look: Mutex<Time>,
    /// Until when the first judgements are waited for.
    waits_until: OnceLock<Time>,
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
        let asked = self.step(|session| session.ask_market(now).map_err(|violation| violation.to_string()));
        if let Err(why) = asked {
            tracing::warn!(proxy = %self.address, %why, "closing the connection to the proxy");
            self.close.cancel();
        }
        self.wake.notify_one();
    }

    /// Asks the proxy for what these workers showed. Nothing happens where it does not tell.
    pub(crate) fn want_evidence(&self, workers: &[Fingerprint]) {
        if workers.is_empty() {
            return;
        }
        let now = self.now();
        let asked = self.step(|session| {
            for worker in workers {
                if session.want_evidence(*worker, now).map_err(|violation| violation.to_string())? {
                    self.awaited().insert(*worker);
                }
            }
            Ok(())
        });
        if let Err(why) = asked {
            tracing::warn!(proxy = %self.address, %why, "closing the connection to the proxy");
            self.close.cancel();
        }
        self.wake.notify_one();
    }

    /// Whether this worker's evidence was asked for and may still come.
    pub(crate) fn awaits_evidence(&self, worker: &Fingerprint) -> bool {
        self.awaited().contains(worker)
    }

    fn awaited(&self) -> MutexGuard<'_, BTreeSet<Fingerprint>> {
        self.choice.awaited.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn notices(&self) -> MutexGuard<'_, Notices> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the proxy which workers may see requests.
    fn allow_workers(&self) -> Result<(), String> {
        if self.shared.vetting.demands().is_none() {
            return Ok(());
        }
        let (allowed, now) = (Arc::clone(&self.shared.vetting.allowed().borrow()), self.now());
        self.step(|session| match session.allow_workers(&allowed, now) {
            // It is told once it is ready.
            Ok(()) | Err(AllowError::NotReady) => Ok(()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Sees to it that all workers get judged, and takes requests once the first ones are.
    fn look_at_workers(&self, now: Time) -> Result<(), String> {
        let known = self.workers.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(workers) = &known
            && *self.next_look() <= now
        {
            *self.next_look() = now.plus(EVIDENCE_EVERY);
            self.want_evidence(&self.shared.vetting.memory.unknown(workers.keys()));
        }
        if self.choice.made.load(Ordering::Relaxed) {
            return Ok(());
        }
        let waits_until = *self.choice.waits_until.get_or_init(|| now.plus(JUDGED_WITHIN));
        let judged = known.is_some_and(|workers| {
            !workers.keys().any(|worker| self.awaits_evidence(worker))
                && self.shared.vetting.all_judged(workers.keys())
        });
        if judged || now >= waits_until {
            self.allow_workers()?;
            self.step(|session| session.refresh_models(now).map_err(|violation| violation.to_string()))?;
            self.choice.made.store(true, Ordering::Relaxed);
            self.shared.pool.changed();
        }
        Ok(())
    }

    fn next_look(&self) -> MutexGuard<'_, Time> {
        self.choice.next_look.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_time(&self) -> Result<(), String> {
        let now = self.now();
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

    /// Whether to ask the proxy for what is left in the channel.
    fn is_refund_due(&self, now: Time) -> bool {
        if !self.channel.get().is_some_and(|channel| channel.is_leaving()) {
            return false;
        }
        let mut notices = self.notices();
        let due = notices.next_refund <= now
            && notices.presence.as_ref().is_some_and(|presence| presence.wants_refund());
        if due {
            notices.next_refund = now.plus(REFUND_EVERY);
        }
        due
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

    fn take_notices(&self, events: Vec<ClientEvent>) -> Result<(), String> {
        if events.is_empty() {
            return Ok(());
        }
        let mut notices = self.notices();
        for event in events {
            match event {
                ClientEvent::Ready(terms) => {
                    self.shared.book.begin_connection(Self::peer_key(&terms), !terms.extensions);
                    if let Some(presence) = self.join(&mut notices, &terms) {
                        presence.ready();
                    }
                    notices.terms = Some(terms);
                }
                ClientEvent::Payment { counters, .. } => self.take_payment(&mut notices, &counters)?,
                ClientEvent::Models(models) => {
                    let models = Arc::new(models);
                    let before = std::mem::replace(
                        &mut *self.models.write().unwrap_or_else(PoisonError::into_inner),
                        Arc::clone(&models),
                    );
                    self.shared.pool.offered(&before, &models);
                }
                ClientEvent::RegistrationNeeded { nonce, contract, terms } => {
                    match self.join(&mut notices, &terms) {
                        Some(presence) => presence.register(nonce.cast_unsigned()),
                        None => self.ask_to_register(nonce, &contract),
                    }
                }
                ClientEvent::RefundGranted { order } => self.take_refund(&notices, &order)?,
                ClientEvent::RefundRejected { active_queries } => {
                    tracing::info!(proxy = %self.address, active_queries, "the proxy grants no refund yet");
                }
                ClientEvent::Workers(workers) => {
                    *self.workers.write().unwrap_or_else(PoisonError::into_inner) = Some(workers);
                    *self.next_look() = Time(0);
                }
                ClientEvent::Market(known) => {
                    self.market.send_replace(Some(Told { known, at: Instant::now() }));
                }
                ClientEvent::Evidence { fingerprint, evidence } => {
                    self.awaited().remove(&fingerprint);
                    let listed = || self.shared.pool.listed_workers();
                    self.shared.vetting.take(fingerprint, evidence, &self.address, listed);
                }
                // Delivered before.
                ClientEvent::Head { .. }
                | ClientEvent::Data { .. }
                | ClientEvent::Completed { .. }
                | ClientEvent::Failed { .. } => {}
            }
        }
        Ok(())
    }

    /// Our part in the channel with this proxy; `None` where there is no settlement.
    fn join<'a>(&self, notices: &'a mut Notices, terms: &ProxyTerms) -> Option<&'a Presence> {
        if notices.presence.is_none() {
            let settlement = self.shared.settlement.as_ref()?;
            notices.presence = settlement.join(terms, &self.root);
        }
        let presence = notices.presence.as_ref()?;
        self.channel.get_or_init(|| Arc::clone(presence.channel()));
        Some(presence)
    }

    /// A refund must not charge for more than the proxy has told of.
    fn take_refund(&self, notices: &Notices, order: &Bytes) -> Result<(), String> {
        let (Some(terms), Some(presence)) = (&notices.terms, &notices.presence) else { return Ok(()) };
        let refund = verify(order, terms, OrderKind::RefundClient)?;
        let (tokens, known) =
            (refund.order().tokens, self.shared.book.counters(&Self::peer_key(terms)).max());
        if tokens > known {
            return Err(format!("the proxy's refund charges for {tokens} tokens, but it told of {known}"));
        }
        tracing::info!(proxy = %self.address, tokens, "the proxy grants the refund");
        presence.refund(refund);
        Ok(())
    }

    fn take_payment(&self, notices: &mut Notices, counters: &PaymentCounters) -> Result<(), String> {
        let Some(terms) = &notices.terms else {
            return Err("payment before the handshake is done".to_owned());
        };
        let mut charges = None;
        let signed = match (&counters.signed, &notices.verified) {
            (None, _) => None,
            (Some(bytes), Some((known, tokens))) if bytes == known => Some(*tokens),
            (Some(bytes), _) => {
                let charge = verify(bytes, terms, OrderKind::ChargeClient)?;
                let tokens = charge.order().tokens;
                notices.verified = Some((bytes.clone(), tokens));
                charges = Some(charge);
                Some(tokens)
            }
        };
        if let Some(signed) = signed
            && i64::try_from(signed).map_or(true, |signed| signed > counters.max_tokens)
        {
            return Err(format!("the proxy signed for {signed} tokens but knows of {}", counters.max_tokens));
        }
        let price = PricePerToken(self.shared.root.borrow().params.price_per_token_nanoton);
        let key = Self::peer_key(terms);
        self.shared.book.observe(key, counters.db_tokens, counters.max_tokens, signed, price).map_err(
            |error| {
                self.shared.metrics.counter_faults.inc();
                error.to_string()
            },
        )?;
        if let (Some(charge), Some(presence)) = (charges, &notices.presence) {
            presence.charge(charge);
        }
        if self.serving.set(terms.clone()).is_ok() {
            tracing::info!(
                proxy = %self.address,
                contract = %terms.contract,
                attestation = self.attestation.kind,
                extensions = terms.extensions,
                "connected to a proxy"
            );
            self.shared.pool.changed();
        }
        Ok(())
    }

    fn ask_to_register(&self, nonce: i64, contract: &Address) {
        tracing::warn!(
            proxy = %self.address,
            %contract,
            nonce,
            "the proxy does not know our secret and waits for an `owner_client_register` message with this nonce to \
             that contract; send it from the client's wallet, or set the secret that the contract holds the hash of"
        );
    }
}

/// Checks a signed order of that kind to our contract.
fn verify(bytes: &[u8], terms: &ProxyTerms, kind: OrderKind) -> Result<SignedPayment, String> {
    let payment = SignedPayment::parse(bytes).map_err(|error| error.to_string())?;
    let key = VerifyingKey::from_bytes(&terms.public_key)
        .map_err(|_| "the proxy's public key is no Ed25519 key".to_owned())?;
    payment.verify(&key, kind, &terms.pair_contract).map_err(|error| error.to_string())?;
    Ok(payment)
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
