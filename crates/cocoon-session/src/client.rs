//! The gateway's side of one connection to a proxy.
//!
//! Life: opening, `client.connectToProxy`, authorisation, ready. Then requests go out with [`ClientSession::submit`] and
//! their answers come as events. With a proxy of ours, answers are held back by credit: the caller's reading
//! ([`ClientSession::consumed`]) grants more. With a published proxy at most
//! [`MAX_HELD_BYTES`](crate::MAX_HELD_BYTES) are held per request.
//!
//! A proxy of ours tells which workers it has ([`ClientEvent::Workers`]) and passes on what they showed of themselves
//! ([`ClientSession::want_evidence`]). A client that restricts its workers names those that may see its requests
//! ([`ClientSession::allow_workers`]); none may before.

mod events;
mod handshake;
mod offers;
mod requests;
mod settings;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_wire::codec::from_boxed;
use cocoon_wire::tl::{client, ext};

pub use self::events::{ClientEvent, ModelOffers, Offer};
pub use self::requests::{MAX_QUERY_BYTES, MAX_REQUESTS, Submission};
pub use self::settings::{ClientSecret, ClientSettings};

use self::requests::Running;
use crate::link::{Link, LinkEvent, Side};
use crate::market::Walk;
use crate::outbox::Outbox;
use crate::workers::Workers;
use crate::{ErrorCode, PaymentCounters, ProxyTerms, RequestFailure, Time, Violation};

/// For what is asked now and then: its answer may wait behind much data, and silence has its own limit.
const STATUS_WITHIN: Duration = Duration::from_secs(60);
/// How often the payment status is compared.
const STATUS_EVERY: Duration = Duration::from_secs(15);

const CONNECT: &str = "client.connectToProxy";
const AUTHORIZE: &str = "client.authorizeWithProxy";
const STATUS: &str = "client.updatePaymentStatus";
const MODELS: &str = "client.getWorkerTypesV2";
const REFUND: &str = "client.requestRefund";
const WORKERS: &str = "cocoon.getWorkers";
const EVIDENCE: &str = "cocoon.getEvidence";
const MARKET: &str = "cocoon.getMarket";

#[derive(Debug)]
enum Stage {
    Opening,
    Connecting,
    Authorizing(Box<ProxyTerms>),
    Ready(Box<ProxyTerms>),
}

/// One connection to a proxy.
#[derive(Debug)]
pub struct ClientSession {
    settings: ClientSettings,
    link: Link,
    stage: Stage,
    requests: BTreeMap<[u8; 32], Running>,
    deadlines: BTreeSet<(Time, [u8; 32])>,
    events: VecDeque<ClientEvent>,
    next_status: Time,
    next_models: Time,
    /// The offers were asked for, and the answer is not there yet.
    models_asked: bool,
    refund_asked: bool,
    workers: Workers,
    /// As `models_asked`.
    workers_asked: bool,
    /// Bodies of requests that are not all out yet.
    bodies: Outbox<[u8; 32], (), ()>,
    market: Walk,
}

impl ClientSession {
    /// A connection that was just made. `random` seeds ids.
    #[must_use]
    pub fn new(settings: ClientSettings, now: Time, random: u64) -> Self {
        Self {
            settings,
            link: Link::new(Side::Dialler, now, random),
            stage: Stage::Opening,
            requests: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            events: VecDeque::new(),
            next_status: now.plus(STATUS_EVERY),
            next_models: now,
            models_asked: false,
            refund_asked: false,
            workers: Workers::default(),
            workers_asked: false,
            bodies: Outbox::new(true),
            market: Walk::default(),
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
                LinkEvent::Packet(data) => self.on_packet(data)?,
                LinkEvent::Query { id, .. } => {
                    self.link.refuse(id, ErrorCode::PROTOCOL, "a client takes no queries")
                }
                LinkEvent::Answer { what, data } => self.on_answer(what, data, now)?,
                LinkEvent::Refused { what: MODELS, .. } => self.models_asked = false,
                LinkEvent::Refused { what: WORKERS, .. } => self.workers_asked = false,
                LinkEvent::Refused { what: STATUS, .. } => {}
                LinkEvent::Refused { what: MARKET, .. } => self.market.refused(),
                LinkEvent::Refused { what: REFUND, .. } => {
                    self.refund_asked = false;
                    self.events.push_back(ClientEvent::RefundRejected { active_queries: 0 });
                }
                LinkEvent::Refused { code, message, .. } => return Err(Violation::Refused { code, message }),
            }
        }
        Ok(())
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// Bytes to send, about `capacity` of them.
    pub fn transmit(&mut self, capacity: usize) -> Option<Bytes> {
        while self.link.unsent() < capacity
            && let Some(chunk) = self.bodies.next_chunk()
        {
            let (request_id, data, last) = (chunk.key, chunk.data, chunk.end.is_some());
            self.link.packet(&ext::BodyPart { request_id, data, last });
        }
        self.link.take_output()
    }

    /// Bytes of requests' bodies that wait for the proxy to take them.
    #[must_use]
    pub fn unsent_body_bytes(&self) -> usize {
        self.bodies.total_queued()
    }

    /// The proxy's terms once the connection is ready.
    #[must_use]
    pub fn terms(&self) -> Option<&ProxyTerms> {
        match &self.stage {
            Stage::Ready(terms) => Some(terms),
            _ => None,
        }
    }

    /// Requests under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.requests.len()
    }

    fn on_answer(&mut self, what: &'static str, data: Bytes, now: Time) -> Result<(), Violation> {
        match (what, &self.stage) {
            (CONNECT, Stage::Connecting) => self.on_connected(data, now),
            (AUTHORIZE, Stage::Authorizing(terms)) => {
                let terms = terms.clone();
                self.on_authorized(data, terms)
            }
            (STATUS, Stage::Ready(_)) => {
                let status: client::PaymentStatus =
                    from_boxed(data).map_err(Violation::message("payment status"))?;
                let counters =
                    PaymentCounters::new(status.db_tokens, status.max_tokens, status.signed_payment);
                self.events.push_back(ClientEvent::Payment { request: None, counters });
                Ok(())
            }
            (MODELS, Stage::Ready(_)) => self.on_models(data),
            (WORKERS, Stage::Ready(_)) => self.on_workers(data, now),
            (EVIDENCE, Stage::Ready(_)) => self.on_evidence(data, now),
            (MARKET, Stage::Ready(_)) => self.on_market(data, now),
            (REFUND, Stage::Ready(_)) => {
                self.refund_asked = false;
                let answer = from_boxed(data).map_err(Violation::message("refund answer"))?;
                self.events.push_back(match answer {
                    client::Refund::Refund { data } => ClientEvent::RefundGranted { order: data },
                    client::Refund::Rejected { active_queries } => {
                        ClientEvent::RefundRejected { active_queries: active_queries.max(0) }
                    }
                });
                Ok(())
            }
            _ => Err(Violation::Unexpected("answer")),
        }
    }

    /// Asks the proxy to close our account and to order the refund of what is left; the answer comes as an event. Our
    /// requests must be over, and their answers read. Nothing happens before the connection is ready, and while
    /// an answer is awaited.
    ///
    /// # Errors
    /// The connection must be closed.
    pub fn request_refund(&mut self, now: Time) -> Result<(), Violation> {
        if matches!(self.stage, Stage::Ready(_)) && !std::mem::replace(&mut self.refund_asked, true) {
            self.link.query(REFUND, &client::RequestRefund {}, now, STATUS_WITHIN)?;
        }
        Ok(())
    }

    fn extensions(&self) -> bool {
        self.terms().is_some_and(|terms| terms.extensions)
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
            self.cancel(request);
            let failure = RequestFailure::new(ErrorCode::TIMEOUT, "the proxy did not answer in time");
            self.events.push_back(ClientEvent::Failed { request, failure, info: None });
        }
        if matches!(self.stage, Stage::Ready(_)) {
            if now >= self.next_models {
                self.refresh_models(now)?;
                self.refresh_workers(now)?;
            }
            if now >= self.next_status {
                self.next_status = now.plus(STATUS_EVERY);
                self.link.query(STATUS, &client::UpdatePaymentStatus {}, now, STATUS_WITHIN)?;
            }
        }
        Ok(())
    }

    /// The connection is gone: every request under way fails. Returns the events that were left, too.
    pub fn close(mut self, why: &str) -> Vec<ClientEvent> {
        let failure =
            RequestFailure::new(ErrorCode::NOT_READY, format!("connection to the proxy lost: {why}"));
        let lost = self.requests.keys().map(|&request| ClientEvent::Failed {
            request,
            failure: failure.clone(),
            info: None,
        });
        self.events.extend(lost.collect::<Vec<_>>());
        self.events.into()
    }
}
