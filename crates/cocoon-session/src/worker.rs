//! The worker's side of one connection to a proxy.
//!
//! Life: opening, `worker.connectToProxy`, comparison of balances, `worker.proxyHandshakeComplete`, ready. Then the proxy
//! sends requests; the worker answers each with a head, body bytes and an end. A proxy that shows smaller numbers than
//! it once did has lost its books: the connection is refused.
//!
//! What a published proxy can bear: every end carries a final info, and a failure before the head goes out as a
//! *completed* answer with an error status, because its client crashes on the other form. A proxy of ours gets
//! the error form, so that it can try another worker.

mod handshake;
mod requests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_ledger::PeerCounters;
use cocoon_ton::address::Address;
use cocoon_ton::root::RootConfig;
use cocoon_wire::codec::Message as _;
use cocoon_wire::tl::{ProxyToWorker, ext, http, proxy, worker};

pub use self::requests::{MAX_QUEUED_BYTES, MAX_REQUESTS, Work};

use self::requests::{End, Running};
use crate::link::{Link, LinkEvent, Side};
use crate::options::Options;
use crate::outbox::Outbox;
use crate::{
    ErrorCode, INITIAL_CREDIT_BYTES, MAX_PART_BYTES, PaymentCounters, ProxyTerms, RequestFailure, Time,
    Violation,
};

const STATUS_WITHIN: Duration = Duration::from_secs(60);
const STATUS_EVERY: Duration = Duration::from_secs(15);

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
