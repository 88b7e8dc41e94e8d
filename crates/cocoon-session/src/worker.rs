//! The worker's side of one connection to a proxy.
//!
//! Life: opening, `worker.connectToProxy`, comparison of balances, `worker.proxyHandshakeComplete`, ready. Then the proxy
//! sends requests; the worker answers each with a head, body bytes and an end. A proxy that shows smaller numbers than
//! it once did has lost its books: the connection is refused.
//!
//! What a published proxy can bear: every end carries a final info, and a failure before the head goes out as a
//! *completed* answer with an error status, because its client crashes on the other form. A proxy of ours gets
//! the error form, so that it can try another worker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_ledger::PeerCounters;
use cocoon_ton::address::Address;
use cocoon_ton::root::RootConfig;
use cocoon_wire::codec::{ByteStr, Message as _, from_boxed, to_boxed};
use cocoon_wire::tl::{self, ProtoRange, ProxyToWorker, ext, http, proxy, worker};

use crate::answer::{self, error_body, seconds_header};
use crate::body::{Incoming, compact};
use crate::link::{Link, LinkEvent, Side};
use crate::options::Options;
use crate::outbox::{Chunk, Outbox};
use crate::terms::{ProxyClaims, check_proxy};
use crate::{
    ErrorCode, INITIAL_CREDIT_BYTES, MAX_PART_BYTES, MAX_PROTO_VERSION, MAX_REQUEST_TIME, MIN_PROTO_VERSION,
    PaymentCounters, ProxyTerms, RequestFailure, Time, Violation,
};

/// Body bytes that wait for one request, over which the engine is to be held back.
pub const MAX_QUEUED_BYTES: usize = INITIAL_CREDIT_BYTES;
/// Answers under way on one connection. A proxy keeps to the worker's own, lower limit; one that does not is closed.
pub const MAX_REQUESTS: usize = 16_384;

const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const STATUS_WITHIN: Duration = Duration::from_secs(60);
const STATUS_EVERY: Duration = Duration::from_secs(15);

const CONNECT: &str = "worker.connectToProxy";
const COMPARE: &str = "worker.compareBalanceWithProxy";
const COMPARE_FURTHER: &str = "worker.extendedCompareBalanceWithProxy";
const COMPLETE: &str = "worker.proxyHandshakeComplete";
const STATUS: &str = "worker.updatePaymentStatus";

/// Who the worker is, and what it offers.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// The worker's owner, who is paid.
    pub owner: Address,
    /// Full model name, `name@commit:verityhash`.
    pub model: String,
    /// Price in 1/1000 of the base price.
    pub coefficient: u32,
    /// Whether no requests are taken for now.
    pub paused: bool,
    /// How many proxies share `max_active`.
    pub proxies: u32,
    /// Requests at a time, over all proxies.
    pub max_active: u32,
    /// Whether the network is a test network.
    pub is_test: bool,
    /// Whether addresses are written in the testnet form.
    pub is_testnet: bool,
    /// Root configuration to work with.
    pub root: Arc<RootConfig>,
    /// Address of the root contract.
    pub root_address: Address,
    /// Whether to offer extension set 1.
    pub extensions: bool,
    /// Largest body of a request, in bytes, where it streams.
    pub max_body_bytes: u64,
}

/// A request to work on.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// The proxy's id for it.
    pub id: [u8; 32],
    /// The HTTP request of the caller.
    pub request: http::Request,
    /// Bytes of the body that follow those in the request, as [`WorkerEvent::Body`]; `None`: it is whole.
    pub body_bytes: Option<u64>,
    /// The price that the proxy counts with, in 1/1000.
    pub coefficient: i64,
    /// Time that is left.
    pub timeout: Duration,
    /// Whether timings are wanted.
    pub enable_debug: bool,
    /// The caller's W3C `traceparent`, by the words of a proxy of ours: visible ASCII, of bounded length.
    pub trace: Option<String>,
}

/// What happened on the connection.
#[derive(Debug, Clone, PartialEq)]
pub enum WorkerEvent {
    /// The proxy's contract is known and checked. Tell what is known of its counters with
    /// [`WorkerSession::compare`]; the handshake waits for it.
    Compare(ProxyTerms),
    /// Requests may come.
    Ready,
    /// A request.
    Work(Box<Work>),
    /// More of a request's body. Tell [`WorkerSession::body_taken`] once it is passed on; no more comes than that allows,
    /// [`INITIAL_CREDIT_BYTES`] to begin with.
    Body {
        /// Which request.
        request: [u8; 32],
        /// The bytes.
        data: Bytes,
        /// Whether the body ends here.
        last: bool,
    },
    /// The caller went away, or time is up: stop, and end the request with [`WorkerSession::fail`].
    Cancelled {
        /// Which request.
        request: [u8; 32],
        /// Why.
        failure: RequestFailure,
    },
    /// There is room again for body bytes of a request that was over [`MAX_QUEUED_BYTES`].
    Room {
        /// Which request.
        request: [u8; 32],
    },
    /// The counters, with a request where its payment is acknowledged. Record them; `signed` is not verified here.
    Payment {
        /// Which request, and its adjusted tokens.
        request: Option<([u8; 32], i64)>,
        /// The counters now.
        counters: PaymentCounters,
    },
}

#[derive(Debug)]
enum Stage {
    Opening,
    Connecting,
    /// Handshake steps that need the counters; the terms are known.
    Comparing(Box<ProxyTerms>),
    Completing(Box<ProxyTerms>),
    Ready(Box<ProxyTerms>),
}

#[derive(Debug)]
struct Running {
    started: Time,
    deadline: Time,
    enable_debug: bool,
    has_head: bool,
    cancelled: bool,
    full: bool,
    body: Option<Incoming>,
}

#[derive(Debug)]
enum End {
    Complete(proxy::QueryFinalInfo),
    Failed(RequestFailure, proxy::QueryFinalInfo),
}

/// One connection to a proxy.
#[derive(Debug)]
pub struct WorkerSession {
    settings: WorkerSettings,
    link: Link,
    stage: Stage,
    known: PeerCounters,
    /// Price and pause as the handshake told them.
    told_coefficient: u32,
    told_paused: bool,
    /// What the engine can do, once that is known.
    abilities: Option<u32>,
    /// Options of the request that must come next.
    announced: Option<([u8; 32], Options)>,
    requests: BTreeMap<[u8; 32], Running>,
    deadlines: BTreeSet<(Time, [u8; 32])>,
    outbox: Outbox<[u8; 32], http::Response, End>,
    events: VecDeque<WorkerEvent>,
    next_status: Time,
}

impl WorkerSession {
    /// A connection that was just made. `random` seeds ids.
    #[must_use]
    pub fn new(settings: WorkerSettings, now: Time, random: u64) -> Self {
        Self {
            told_coefficient: settings.coefficient,
            told_paused: settings.paused,
            abilities: None,
            announced: None,
            settings,
            link: Link::new(Side::Dialler, now, random),
            stage: Stage::Opening,
            known: PeerCounters::default(),
            requests: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            outbox: Outbox::new(false),
            events: VecDeque::new(),
            next_status: now.plus(STATUS_EVERY),
        }
    }

    /// Takes in what was received; leaves an incomplete frame in `received`.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn receive(&mut self, received: &mut BytesMut, now: Time) -> Result<(), Violation> {
        while let Some(event) = self.link.receive(received, now)? {
            match event {
                LinkEvent::Opened => self.connect(now)?,
                LinkEvent::Packet(data) => self.on_packet(data, now)?,
                LinkEvent::Query { id, .. } => {
                    self.link.refuse(id, ErrorCode::PROTOCOL, "a worker takes no queries")
                }
                LinkEvent::Answer { what, data } => self.on_answer(what, data, now)?,
                LinkEvent::Refused { what: STATUS, .. } => {}
                LinkEvent::Refused { code, message, .. } => return Err(Violation::Refused { code, message }),
            }
        }
        Ok(())
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<WorkerEvent> {
        self.events.pop_front()
    }

    /// Bytes to send, about `capacity` of them.
    pub fn transmit(&mut self, capacity: usize) -> Option<Bytes> {
        while self.link.unsent() < capacity
            && let Some(chunk) = self.outbox.next_chunk()
        {
            self.send(chunk);
        }
        self.link.take_output()
    }

    /// Requests under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.requests.len()
    }

    /// Whether nothing is under way any more: no request, no answer.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.requests.is_empty() && self.outbox.is_empty() && self.link.unsent() == 0
    }

    fn connect(&mut self, now: Time) -> Result<(), Violation> {
        self.stage = Stage::Connecting;
        self.told_coefficient = self.settings.coefficient;
        let settings = &self.settings;
        let natural = |number: u32| i32::try_from(number).unwrap_or(i32::MAX).max(1);
        let message = worker::ConnectToProxy {
            params: worker::Params {
                ext_flags: if settings.extensions { ext::EXT_V1 } else { 0 },
                worker_owner_address: settings.owner.to_wire_string(settings.is_testnet).into(),
                model: settings.model.clone().into(),
                coefficient: i32::try_from(settings.coefficient).unwrap_or(i32::MAX),
                limits: Some(worker::Limits {
                    is_test: settings.is_test,
                    proxy_cnt: natural(settings.proxies),
                    max_active_requests: natural(settings.max_active),
                }),
                proto: Some(ProtoRange { min: MIN_PROTO_VERSION, max: MAX_PROTO_VERSION }),
            },
        };
        self.link.query(CONNECT, &message, now, ANSWER_WITHIN)
    }

    fn on_answer(&mut self, what: &'static str, data: Bytes, now: Time) -> Result<(), Violation> {
        match (what, &self.stage) {
            (CONNECT, Stage::Connecting) => self.on_connected(data),
            (COMPARE, Stage::Comparing(_)) => self.on_compared(data, now),
            (COMPARE_FURTHER, Stage::Comparing(_)) => {
                let answer: worker::ExtendedCompareBalanceWithProxyResult =
                    from_boxed(data).map_err(Violation::message("comparison answer"))?;
                if answer.error_code != 0 {
                    return Err(Violation::Mismatch("the proxy cannot reconcile its books with ours".into()));
                }
                self.complete(now)
            }
            (COMPLETE, Stage::Completing(terms)) => {
                let _: worker::ProxyHandshakeCompleted =
                    from_boxed(data).map_err(Violation::message("handshake answer"))?;
                self.outbox = Outbox::new(terms.extensions);
                self.stage = Stage::Ready(terms.clone());
                self.events.push_back(WorkerEvent::Ready);
                // What changed during the handshake.
                let (coefficient, paused) = (self.settings.coefficient, self.settings.paused);
                if coefficient != self.told_coefficient {
                    self.set_coefficient(coefficient);
                }
                if paused != self.told_paused {
                    self.set_paused(paused);
                }
                self.tell_abilities();
                Ok(())
            }
            (STATUS, Stage::Ready(_)) => {
                let status: worker::PaymentStatus =
                    from_boxed(data).map_err(Violation::message("payment status"))?;
                self.on_payment(None, status.db_tokens, status.max_tokens, status.signed_payment)
            }
            _ => Err(Violation::Unexpected("answer")),
        }
    }

    fn on_connected(&mut self, data: Bytes) -> Result<(), Violation> {
        let answer: worker::ConnectedToProxy =
            from_boxed(data).map_err(Violation::message("handshake answer"))?;
        let settings = &self.settings;
        let claims = ProxyClaims { params: &answer.params, pair_contract: &answer.worker_sc_address };
        let terms = check_proxy(
            &claims,
            &settings.root,
            &settings.root_address,
            settings.is_test,
            settings.extensions,
            |params, proxy, key| cocoon_ton::contracts::worker_address(params, &settings.owner, proxy, key),
        )?;
        self.stage = Stage::Comparing(Box::new(terms.clone()));
        self.events.push_back(WorkerEvent::Compare(terms));
        Ok(())
    }

    /// Goes on with the handshake, knowing what the proxy showed in earlier connections.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn compare(&mut self, known: PeerCounters, now: Time) -> Result<(), Violation> {
        self.known = known;
        self.known.begin_connection();
        // A published proxy aborts where these are larger than its own, so they are held against its answer here.
        let message = worker::CompareBalanceWithProxy {
            tokens_committed_to_blockchain: 0,
            tokens_committed_to_db: 0,
            max_tokens: i64::try_from(self.known.max()).unwrap_or(i64::MAX),
        };
        self.link.query(COMPARE, &message, now, ANSWER_WITHIN)
    }

    fn on_compared(&mut self, data: Bytes, now: Time) -> Result<(), Violation> {
        let result: worker::CompareBalanceWithProxyResult =
            from_boxed(data).map_err(Violation::message("comparison answer"))?;
        let tokens_committed_to_db = result.tokens_committed_to_db;
        self.on_payment(None, tokens_committed_to_db, result.max_tokens, result.signed_payment)?;
        if result.error_code == 0 {
            return self.complete(now);
        }
        let message = worker::ExtendedCompareBalanceWithProxy { tokens_committed_to_db, other: Bytes::new() };
        self.link.query(COMPARE_FURTHER, &message, now, ANSWER_WITHIN)
    }

    fn complete(&mut self, now: Time) -> Result<(), Violation> {
        let Stage::Comparing(terms) = &self.stage else { return Err(Violation::Unexpected("answer")) };
        self.stage = Stage::Completing(terms.clone());
        self.told_paused = self.settings.paused;
        let message = worker::ProxyHandshakeComplete { is_disabled: self.settings.paused };
        self.link.query(COMPLETE, &message, now, ANSWER_WITHIN)
    }

    fn on_payment(
        &mut self,
        request: Option<([u8; 32], i64)>,
        db_tokens: i64,
        max_tokens: i64,
        signed: proxy::SignedPayment,
    ) -> Result<(), Violation> {
        self.known
            .observe(db_tokens, max_tokens, None)
            .map_err(|error| Violation::Mismatch(format!("the proxy's books went back: {error}")))?;
        let counters = PaymentCounters::new(db_tokens, max_tokens, signed);
        self.events.push_back(WorkerEvent::Payment { request, counters });
        Ok(())
    }

    fn on_packet(&mut self, data: Bytes, now: Time) -> Result<(), Violation> {
        if !matches!(self.stage, Stage::Ready(_)) {
            return Err(Violation::Unexpected("packet before the handshake is done"));
        }
        let packet = ProxyToWorker::decode_boxed(data).map_err(Violation::message("packet from proxy"))?;
        if let Some((announced, options)) = self.announced.take() {
            return match packet {
                ProxyToWorker::RunQueryEx(query) if query.request_id == announced => {
                    self.on_request(query, options, now)
                }
                _ => Err(Violation::Unexpected("packet between a request's options and the request")),
            };
        }
        match packet {
            ProxyToWorker::RunQueryEx(query) => self.on_request(query, Options::default(), now),
            ProxyToWorker::RunQuery(m) => {
                let query = proxy::RunQueryEx {
                    query: m.query,
                    signed_payment: m.signed_payment,
                    coefficient: m.coefficient,
                    timeout: m.timeout,
                    request_id: m.request_id,
                    enable_debug: None,
                };
                self.on_request(query, Options::default(), now)
            }
            ProxyToWorker::RequestOptions(_) | ProxyToWorker::BodyPart(_) if !self.extensions() => {
                Err(Violation::Unexpected("extension that was not agreed"))
            }
            ProxyToWorker::RequestOptions(m) => {
                self.announced = Some((m.request_id, Options::from_wire(m)?));
                Ok(())
            }
            ProxyToWorker::BodyPart(m) => self.on_body_part(m),
            ProxyToWorker::WorkerRequestPayment(m) => {
                let request = Some((m.request_id, m.request_tokens));
                self.on_payment(request, m.db_tokens, m.max_tokens, m.signed_payment)
            }
            ProxyToWorker::Cancel(m) => {
                self.cancel(
                    m.request_id,
                    &RequestFailure::new(ErrorCode::CANCELLED, "cancelled by the caller"),
                );
                Ok(())
            }
            ProxyToWorker::Credit(m) => {
                let bytes = usize::try_from(m.bytes).map_err(|_| Violation::Unexpected("negative credit"))?;
                self.outbox.grant(m.request_id, bytes);
                Ok(())
            }
        }
    }

    fn on_request(
        &mut self,
        message: proxy::RunQueryEx,
        options: Options,
        now: Time,
    ) -> Result<(), Violation> {
        let proxy::RunQueryEx { request_id: id, query, coefficient, timeout, enable_debug, .. } = message;
        let enable_debug = enable_debug.unwrap_or(false);
        if self.requests.contains_key(&id) || self.outbox.contains(id) {
            return Err(Violation::Unexpected("request with an id that is in use"));
        }
        if self.outbox.open_answers() >= MAX_REQUESTS {
            return Err(Violation::Unexpected("request over every limit"));
        }
        let timeout = answer::request_time(timeout).unwrap_or(MAX_REQUEST_TIME);
        let deadline = now.plus(timeout);
        self.outbox.open(id);
        // None at all is a whole one, too.
        let body_bytes = options.body_bytes.filter(|bytes| *bytes > 0);
        let running = Running {
            started: now,
            deadline,
            enable_debug,
            has_head: false,
            cancelled: false,
            full: false,
            body: body_bytes.map(Incoming::new),
        };
        self.requests.insert(id, running);
        self.deadlines.insert((deadline, id));
        // The proxy passes queries on unread: a bad one is the caller's fault, not that of this connection.
        let Ok(request) = from_boxed::<http::Request>(query) else {
            let failure = RequestFailure::new(ErrorCode::PROTOCOL, "the query is no http.request");
            self.fail(id, failure, tl::TokensUsed::default(), now);
            return Ok(());
        };
        if !answer::fits(&request.headers, 0) {
            let failure = RequestFailure::new(ErrorCode::PROTOCOL, "the request has too many headers");
            self.fail(id, failure, tl::TokensUsed::default(), now);
            return Ok(());
        }
        let whole = body_bytes.unwrap_or(0).saturating_add(request.payload.len() as u64);
        if whole > self.settings.max_body_bytes {
            let failure = RequestFailure::new(ErrorCode::PROTOCOL, "the body is too large for this worker");
            self.fail(id, failure, tl::TokensUsed::default(), now);
            return Ok(());
        }
        let work = Work { id, request, body_bytes, coefficient, timeout, enable_debug, trace: options.trace };
        self.events.push_back(WorkerEvent::Work(Box::new(work)));
        Ok(())
    }

    fn on_body_part(&mut self, part: ext::BodyPart) -> Result<(), Violation> {
        let ext::BodyPart { request_id: request, data, last } = part;
        // What came for a request that is over was under way.
        let Some(running) = self.requests.get_mut(&request) else { return Ok(()) };
        let Some(body) = &mut running.body else {
            return Err(Violation::Unexpected("part of a body that was whole"));
        };
        body.part(data.len(), last)?;
        if !running.cancelled {
            self.events.push_back(WorkerEvent::Body { request, data: compact(data), last });
        }
        Ok(())
    }

    /// Notes that so many bytes of a request's body were passed on, so that more may come.
    pub fn body_taken(&mut self, request: [u8; 32], bytes: usize) {
        let Some(running) = self.requests.get_mut(&request) else { return };
        if let Some(bytes) = running.body.as_mut().and_then(|body| body.taken(bytes)) {
            self.link.packet(&ext::BodyCredit { request_id: request, bytes });
        }
    }

    fn cancel(&mut self, request: [u8; 32], failure: &RequestFailure) {
        // Also where the engine is done: its bytes may wait for credit that never comes, and the end with them.
        self.outbox.discard_data(request);
        if let Some(running) = self.requests.get_mut(&request)
            && !std::mem::replace(&mut running.cancelled, true)
        {
            self.events.push_back(WorkerEvent::Cancelled { request, failure: failure.clone() });
        }
    }

    /// Begins the answer of a request. Nothing happens for a request that is not under way; so below.
    pub fn head(&mut self, request: [u8; 32], mut head: http::Response, now: Time) {
        let Some(running) = self.requests.get_mut(&request) else { return };
        running.has_head = true;
        head.headers.push(seconds_header("X-Cocoon-Worker-Start", running.started));
        head.headers.push(seconds_header("X-Cocoon-Worker-End", now));
        self.outbox.head(request, head);
    }

    /// Queues body bytes, and says how many more are welcome now: at 0, wait for [`WorkerEvent::Room`].
    pub fn data(&mut self, request: [u8; 32], data: Bytes) -> usize {
        let Some(running) = self.requests.get_mut(&request) else { return MAX_QUEUED_BYTES };
        if running.cancelled {
            return MAX_QUEUED_BYTES;
        }
        self.outbox.data(request, data);
        let room = MAX_QUEUED_BYTES.saturating_sub(self.outbox.queued(request));
        running.full = room == 0;
        room
    }

    /// Ends a request with a complete answer.
    pub fn complete_request(&mut self, request: [u8; 32], tokens: tl::TokensUsed, now: Time) {
        if let Some(info) = self.forget(&request, tokens, now) {
            self.outbox.end(request, End::Complete(info.0));
        }
    }

    /// Ends a request without a complete answer; `tokens` is what was used all the same.
    pub fn fail(&mut self, request: [u8; 32], failure: RequestFailure, tokens: tl::TokensUsed, now: Time) {
        let Some((info, running)) = self.forget(&request, tokens, now) else { return };
        if !running.has_head && !self.extensions() {
            let (head, body) = error_body(&failure);
            self.outbox.head(request, head);
            self.outbox.data(request, body);
            self.outbox.end(request, End::Complete(info));
            return;
        }
        self.outbox.end(request, End::Failed(failure, info));
    }

    fn forget(
        &mut self,
        request: &[u8; 32],
        tokens_used: tl::TokensUsed,
        now: Time,
    ) -> Option<(proxy::QueryFinalInfo, Running)> {
        let running = self.requests.remove(request)?;
        self.deadlines.remove(&(running.deadline, *request));
        let (started, ended) = (running.started.unix_seconds(), now.unix_seconds());
        let worker_debug = running.enable_debug.then(|| {
            let debug = serde_json::json!({"type": "worker_stats", "start_time": started, "answer_receive_end_at": ended});
            ByteStr::from(debug.to_string())
        });
        let with_timings = self.terms().is_some_and(|terms| terms.proto_version >= 2);
        let timings = with_timings
            .then_some(proxy::WorkerTimings { worker_start_time: started, worker_end_time: ended });
        Some((proxy::QueryFinalInfo { tokens_used, worker_debug, timings }, running))
    }

    fn send(&mut self, chunk: Chunk<[u8; 32], http::Response, End>) {
        let Chunk { key: request_id, head, data, end } = chunk;
        let (final_info, failed) = match end {
            None => (None, None),
            Some(End::Complete(info)) => (Some(info), None),
            Some(End::Failed(failure, info)) => (None, Some((failure, info))),
        };
        if let Some(running) = self.requests.get_mut(&request_id)
            && running.full
            && self.outbox.queued(request_id) < MAX_QUEUED_BYTES / 2
        {
            running.full = false;
            self.events.push_back(WorkerEvent::Room { request: request_id });
        }
        if let Some(mut head) = head {
            head.headers.push(answer::framing_header(final_info.is_some(), data.len()));
            head.payload = data;
            self.link.packet(&proxy::QueryAnswerEx { request_id, answer: to_boxed(&head), final_info });
        } else if !data.is_empty() || final_info.is_some() {
            self.link.packet(&proxy::QueryAnswerPartEx { request_id, answer: data, final_info });
        }
        if let Some((failure, info)) = failed {
            self.link.packet(&proxy::QueryAnswerErrorEx {
                request_id,
                error_code: failure.code.0,
                error: failure.message.into(),
                final_info: Some(info),
            });
        }
    }

    /// The proxy's terms, once they are known.
    #[must_use]
    pub fn terms(&self) -> Option<&ProxyTerms> {
        match &self.stage {
            Stage::Opening | Stage::Connecting => None,
            Stage::Comparing(terms) | Stage::Completing(terms) | Stage::Ready(terms) => Some(terms),
        }
    }

    fn extensions(&self) -> bool {
        self.terms().is_some_and(|terms| terms.extensions)
    }

    /// Takes requests again, or stops taking them. Those under way go on.
    pub fn set_paused(&mut self, paused: bool) {
        self.settings.paused = paused;
        if matches!(self.stage, Stage::Ready(_)) {
            self.link.packet(&worker::EnabledDisabled { disabled: i32::from(paused) });
        }
    }

    /// Changes the price, for requests to come.
    pub fn set_coefficient(&mut self, coefficient: u32) {
        self.settings.coefficient = coefficient;
        if matches!(self.stage, Stage::Ready(_)) {
            let new_coefficient = i32::try_from(coefficient).unwrap_or(i32::MAX);
            self.link.packet(&worker::NewCoefficient { new_coefficient });
        }
    }

    /// Tells what the engine can do, now or once the handshake is done: bits of [`ability`](crate::ability). Until
    /// told, a worker counts as one for chat and completions.
    pub fn set_abilities(&mut self, abilities: u32) {
        if self.abilities.replace(abilities) != Some(abilities) && matches!(self.stage, Stage::Ready(_)) {
            self.tell_abilities();
        }
    }

    fn tell_abilities(&mut self) {
        if let Some(abilities) = self.abilities
            && self.extensions()
        {
            self.link.packet(&ext::Abilities { abilities: abilities.cast_signed() });
        }
    }

    /// Does what is due. Call at least every 100 ms.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn on_time(&mut self, now: Time) -> Result<(), Violation> {
        self.link.on_time(now)?;
        while let Some(&(deadline, request)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            self.cancel(
                request,
                &RequestFailure::new(ErrorCode::TIMEOUT, "the engine did not answer in time"),
            );
        }
        if matches!(self.stage, Stage::Ready(_)) && now >= self.next_status {
            self.next_status = now.plus(STATUS_EVERY);
            self.link.query(STATUS, &worker::UpdatePaymentStatus {}, now, STATUS_WITHIN)?;
        }
        Ok(())
    }
}

const _: () = assert!(MAX_PART_BYTES <= INITIAL_CREDIT_BYTES);
