//! A whole proxy: its connections to clients and workers, the requests between them, and what is owed for them.
//!
//! One state machine holds all connections, because every decision here is about two of them: which worker gets a
//! client's request, whose slowness holds back whom, who pays whom. The driver feeds bytes, time, what the chain
//! says ([`Proxy::client_found`], [`Proxy::client_seen`], [`Proxy::client_registered`], [`Proxy::set_root`]) and what
//! became durable ([`Proxy::persisted`]); it polls bytes per connection ([`Proxy::transmit`]), connections that have
//! something to send or say ([`Proxy::poll_wake`]), events, and signed orders for the chain ([`Proxy::charge_order`],
//! [`Proxy::payout_order`], [`Proxy::close_client`], [`Proxy::close_worker`]).
//!
//! - `peer`: the connections.
//! - `handshake`: how clients and workers are let in.
//! - `request`, `reply`: from a query to its end: reservation, choice of worker, retries, answers, cancelling.
//! - `upload`: request bodies that stream, from the client to the worker.
//! - `choice`: which worker gets a request, and what is noticed of workers for that.
//! - `blame`: what the end of a request says about its worker.
//! - `payment`: settlement, notices once it is durable, and orders.
//! - `account`: what the chain shows of clients, and how accounts are closed.
//! - `roster`, `allow`: what workers showed of themselves, and which of them a client lets see its requests.
//! - `offers`: what clients are told of the market.
//! - `share`: what one client takes, over all its connections.
//! - `generation`: connections that end because parameters changed, or accounts.
//!
//! Bodies are never parsed here; of an answer only the `http.response` around the first bytes is read, to make it
//! safe for published gateways and to add this proxy's times.

mod account;
mod allow;
mod blame;
mod choice;
mod events;
mod generation;
mod handshake;
mod last_word;
mod lost;
mod offers;
mod payment;
mod peer;
mod reply;
mod request;
mod roster;
mod settings;
mod share;
mod stats;
mod upload;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_ledger::{ClientId, Ledger, Record, RestoreError, WorkerId};
use cocoon_market::Market;
use sha2::{Digest as _, Sha256};

use crate::link::{Link, LinkEvent, Side};
use crate::outbox::Outbox;
use crate::{ErrorCode, RequestFailure, Time, Violation};

use account::WaitingRefund;
use payment::{Notice, SignedOrders};
use peer::{ClientPeer, ClientStage, Conn, End, Peer, WorkerPeer, WorkerStage};
use request::Request;
use roster::Roster;
use share::{Answers, Shares};

pub use account::{CLOSING_GRACE, ClientChainState, CloseProgress};
pub use allow::{MAX_ALLOWED_OF_ALL, MAX_ALLOWED_PER_CLIENT};
pub use events::{ProxyEvent, RequestEnd};
pub use generation::LEAVING_GRACE;
pub use roster::{
    Attested, EvidenceTooLarge, MAX_CERTIFICATE_BYTES, MAX_GONE_BYTES, MAX_GONE_WORKERS, MAX_LISTED_BYTES,
    MAX_LISTED_WORKERS, MAX_MODELS_PER_WORKER, MAX_VERDICT_BYTES, RENEW_BEFORE,
};
pub use settings::ProxySettings;
pub use share::{MAX_ANSWER_BYTES_HELD, UNREAD_TIME};
pub use stats::{ConnectionStats, ProxyStats};
pub use upload::{BODY_STALL, MAX_KEPT_BODY_BYTES};

/// Requests under way, all clients together.
pub const MAX_REQUESTS: usize = 65_536;
/// Requests under way per client, and answers of its that are not all out.
pub const MAX_REQUESTS_PER_CLIENT: usize = 16_384;
/// Bytes of requests held at a time, all clients together: queries, which are kept until their end for another worker,
/// and what is kept of bodies that stream or waits for their worker.
pub const MAX_QUERY_BYTES_HELD: usize = 1 << 30;
/// The same for one client.
pub const MAX_QUERY_BYTES_HELD_PER_CLIENT: usize = 1 << 28;
/// A worker with work in flight is pinged after this much silence.
pub const PROBE_AFTER: Duration = Duration::from_millis(500);
/// A worker with work in flight leaves routing after this much silence.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(2);
/// A worker that sends nothing for a request for this long until the request's time is up, though nobody else is waited
/// for, is to blame for it. A caller in a greater hurry is not its fault. One that sends nothing at all for so long, though
/// it is pinged, will not go on with answers that it has begun.
pub const BLAME_AFTER: Duration = Duration::from_secs(10);
/// A worker's handshake must be done within this after its connection came up.
pub const WORKER_HANDSHAKE_TIME: Duration = Duration::from_secs(60);
/// The same for a client, whose registration may have to reach the chain first.
pub const CLIENT_HANDSHAKE_TIME: Duration = Duration::from_secs(330);
/// How often one request is given to another worker.
pub const MAX_ATTEMPTS: usize = 3;
/// How long the worker's final word on a request is waited for after the client's side of it ended.
pub const DRAIN_TIME: Duration = Duration::from_secs(60);

/// One connection, as the driver names it; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Why no new requests are taken for now: each gets 503 `service_unavailable` with these words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Which kind of reason, for metrics: one word.
    pub reason: &'static str,
    /// In words, for clients: what is the matter, and what may be done.
    pub message: String,
}

/// Our own name of a request; rises.
type RequestKey = u64;

/// A proxy. See the [module](self).
#[derive(Debug)]
pub struct Proxy {
    settings: ProxySettings,
    ledger: Ledger,
    conns: BTreeMap<ConnId, Conn>,
    /// Workers that finished their handshake, by model name without `@...`.
    market: Market<ConnId>,
    roster: Roster,
    requests: BTreeMap<RequestKey, Request>,
    deadlines: BTreeSet<(Time, RequestKey)>,
    /// What is held of `requests`, in bytes.
    held: usize,
    shares: Shares,
    /// Those whose bodies are still coming.
    uploads: BTreeSet<RequestKey>,
    notices: VecDeque<Notice>,
    orders: SignedOrders,
    /// Clients that take no new requests because their contract closes or is to be closed.
    closing: BTreeSet<ClientId>,
    /// Those of them whose requests under way do not know of it yet.
    hurried: Vec<ClientId>,
    /// Workers that get no new requests because their account is to be closed.
    closing_workers: BTreeSet<WorkerId>,
    /// At most one per connection.
    refunds: Vec<WaitingRefund>,
    events: VecDeque<ProxyEvent>,
    woken: BTreeSet<ConnId>,
    doomed: BTreeMap<ConnId, Violation>,
    draining: bool,
    log_behind: bool,
    hold: Option<Hold>,
    counter: u64,
    stats: ProxyStats,
}

impl Proxy {
    /// A proxy with the books that its log holds: a snapshot, if one was taken, and the records after it.
    ///
    /// # Errors
    /// The books do not fit together.
    pub fn restore(
        settings: ProxySettings,
        snapshot: Option<&[u8]>,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<Self, RestoreBooksError> {
        let mut ledger = snapshot.map(Ledger::restore).transpose()?.unwrap_or_default();
        for record in records {
            ledger.apply(&record)?;
        }
        ledger.check_invariants()?;
        Ok(Self {
            settings,
            ledger,
            conns: BTreeMap::new(),
            market: Market::new(),
            roster: Roster::default(),
            requests: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            held: 0,
            shares: Shares::default(),
            uploads: BTreeSet::new(),
            notices: VecDeque::new(),
            orders: SignedOrders::default(),
            closing: BTreeSet::new(),
            hurried: Vec::new(),
            closing_workers: BTreeSet::new(),
            refunds: Vec::new(),
            events: VecDeque::new(),
            woken: BTreeSet::new(),
            doomed: BTreeMap::new(),
            draining: false,
            log_behind: false,
            hold: None,
            counter: 0,
            stats: ProxyStats::default(),
        })
    }

    /// A client connected.
    pub fn add_client(&mut self, conn: ConnId, now: Time) {
        self.add(conn, Peer::Client(Box::new(ClientPeer::new(now))), now);
    }

    /// A worker connected. Its attestation was checked when the connection was made; `attested` is passed on to clients.
    pub fn add_worker(&mut self, conn: ConnId, attested: Attested, now: Time) {
        self.add(conn, Peer::Worker(Box::new(WorkerPeer::new(attested, now))), now);
    }

    fn add(&mut self, conn: ConnId, peer: Peer, now: Time) {
        let random = self.random_u64();
        let link = Link::new(Side::Acceptor, now, random);
        self.conns.insert(conn, Conn { link, peer, since: now, leaving: None });
    }

    /// Takes in what was received on a connection; leaves an incomplete frame in `received`.
    ///
    /// # Errors
    /// The connection must be closed, with [`Proxy::closed`].
    pub fn receive(&mut self, conn: ConnId, received: &mut BytesMut, now: Time) -> Result<(), Violation> {
        let outcome = self.take_in(conn, received, now);
        if outcome.is_err()
            && let Some(worker) = self.worker_mut(conn)
        {
            // Its last words may take a while to go out; nothing new is given to it meanwhile.
            worker.paused = true;
            self.tell_market(conn);
        }
        outcome
    }

    fn take_in(&mut self, conn: ConnId, received: &mut BytesMut, now: Time) -> Result<(), Violation> {
        self.note_alive(conn);
        loop {
            let Some(connection) = self.conns.get_mut(&conn) else { return Ok(()) };
            let Some(event) = connection.link.receive(received, now)? else { break };
            let from_client = matches!(connection.peer, Peer::Client(_));
            match (event, from_client) {
                (LinkEvent::Opened, true) => self.client_opened(conn),
                (LinkEvent::Opened, false) => self.worker_opened(conn),
                (LinkEvent::Query { id, data }, true) => self.on_client_query(conn, id, data)?,
                (LinkEvent::Query { id, data }, false) => self.on_worker_query(conn, id, data)?,
                (LinkEvent::Packet(data), true) => self.on_client_packet(conn, data, now)?,
                (LinkEvent::Packet(data), false) => {
                    self.on_worker_packet(conn, data, now)?;
                    self.tell_market(conn);
                }
                // A proxy asks nothing, so the link drops these before.
                (LinkEvent::Answer { .. } | LinkEvent::Refused { .. }, _) => {}
            }
        }
        self.woken.insert(conn);
        self.flush_records();
        Ok(())
    }

    fn note_alive(&mut self, conn: ConnId) {
        if let Some(worker) = self.worker_mut(conn)
            && worker.suspect_since.take().is_some()
        {
            self.tell_market(conn);
        }
    }

    /// Bytes to send on a connection, about `capacity` of them.
    pub fn transmit(&mut self, conn: ConnId, capacity: usize) -> Option<Bytes> {
        loop {
            let Conn { link, peer, .. } = self.conns.get_mut(&conn)?;
            if link.unsent() >= capacity {
                break;
            }
            match peer {
                Peer::Client(_) => {
                    let Some(chunk) = self.change_answers(conn, Answers::next_chunk)? else { break };
                    self.send_chunk(conn, chunk);
                }
                Peer::Worker(worker) => {
                    let Some(chunk) = worker.bodies.next_chunk() else { break };
                    self.send_body_chunk(conn, chunk);
                }
            }
        }
        // Whoever asks needs no telling.
        self.woken.remove(&conn);
        let state = self.conns.get_mut(&conn)?;
        let had_room = state.has_room();
        let output = state.link.take_output();
        if !had_room {
            self.tell_market(conn);
        }
        output
    }

    /// A connection that may have bytes to send, or that must be closed for the reason given.
    pub fn poll_wake(&mut self) -> Option<(ConnId, Option<Violation>)> {
        if let Some((conn, violation)) = self.doomed.pop_first() {
            return Some((conn, Some(violation)));
        }
        self.woken.pop_first().map(|conn| (conn, None))
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<ProxyEvent> {
        self.events.pop_front()
    }

    /// Does what is due. Call at least every 100 ms.
    pub fn on_time(&mut self, now: Time) {
        let (mut suspects, mut mute) = (Vec::new(), Vec::new());
        let mut broken = Vec::new();
        for (&id, conn) in &mut self.conns {
            if let Peer::Worker(worker) = &mut conn.peer {
                let working = !worker.work.is_empty();
                conn.link.probe_after(working.then_some(PROBE_AFTER));
                // An idle worker is silent with right: its time counts from when it got work.
                let silence = conn.link.silent_for(now).min(now.since(worker.busy_since));
                if working && worker.suspect_since.is_none() && silence >= SUSPECT_AFTER {
                    worker.suspect_since = Some(now);
                    suspects.push(id);
                }
                // Counted from when it was first seen, because it may be us who stood still; and not where a large query on
                // its way keeps pings from it.
                if worker.extensions
                    && conn.link.unsent() == 0
                    && worker
                        .suspect_since
                        .is_some_and(|since| now.since(since) >= BLAME_AFTER - SUSPECT_AFTER)
                {
                    mute.push(id);
                }
            }
            if conn.dawdles(now) {
                self.doomed.insert(id, Violation::Mismatch("the handshake was not done in time".into()));
            }
            if let Err(violation) = conn.link.on_time(now) {
                if let Peer::Worker(worker) = &mut conn.peer {
                    worker.paused = true;
                    broken.push(id);
                }
                self.doomed.insert(id, violation);
            }
            if conn.link.unsent() > 0 {
                self.woken.insert(id);
            }
        }
        self.market.advance(now.0);
        for &conn in suspects.iter().chain(&broken) {
            self.tell_market(conn);
        }
        for conn in suspects {
            self.retry_unanswered(conn, now);
        }
        for conn in mute {
            self.end_broken_off(conn, now);
        }
        self.hurry(now);
        self.end_stalled_uploads(now);
        self.give_up_unread(now);
        self.renew_workers(now);
        while let Some(&(deadline, key)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            self.on_deadline(key, now);
        }
        self.close_leaving(now);
        self.flush_records();
    }

    /// Closes a connection that cannot be served now.
    pub fn refuse(&mut self, conn: ConnId, why: &str) {
        self.doomed.insert(conn, Violation::Mismatch(why.to_owned()));
    }

    /// A connection is gone, for whatever reason.
    pub fn closed(&mut self, conn: ConnId, now: Time) {
        self.woken.remove(&conn);
        self.doomed.remove(&conn);
        self.change_answers(conn, |answers| *answers = Outbox::new(false));
        let Some(Conn { peer, .. }) = self.conns.remove(&conn) else { return };
        match peer {
            Peer::Client(client) => {
                let gone = RequestFailure::new(ErrorCode::CANCELLED, "the client went away");
                for key in client.requests.into_values() {
                    self.abandon(key, gone.clone(), now);
                }
            }
            Peer::Worker(worker) => {
                self.roster.leave(conn, worker.attested.fingerprint());
                for key in worker.work.into_values() {
                    self.worker_lost(key, now);
                }
                // Last, so that what it did not finish counts for it when it comes back.
                self.market.leave(conn);
            }
        }
        self.flush_records();
    }

    /// Takes no new requests from now on; those under way go on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Takes no new requests while `held`: the log is far behind, and what waits for it must not grow without bound.
    pub fn hold_requests(&mut self, held: bool) {
        self.log_behind = held;
    }

    /// Takes no new requests until the hold is lifted by `None`: for reasons outside of this machine, such as a
    /// contract that is not open. Independent of [`Proxy::drain`] and [`Proxy::hold_requests`].
    pub fn set_hold(&mut self, hold: Option<Hold>) {
        self.hold = hold;
    }

    /// The hold in force.
    #[must_use]
    pub const fn hold(&self) -> Option<&Hold> {
        self.hold.as_ref()
    }

    /// Whether nothing is under way any more: no request, no answer, no payment notice, no refund.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let waiting = !self.requests.is_empty() || !self.notices.is_empty() || !self.refunds.is_empty();
        !waiting && self.conns.values().all(Conn::is_quiet)
    }

    fn flush_records(&mut self) {
        let records = self.ledger.take_records();
        if !records.is_empty() {
            self.events.push_back(ProxyEvent::Persist(records));
        }
    }

    /// The books.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn client_mut(&mut self, conn: ConnId) -> Option<&mut ClientPeer> {
        match &mut self.conns.get_mut(&conn)?.peer {
            Peer::Client(client) => Some(client),
            Peer::Worker(_) => None,
        }
    }

    fn client(&self, conn: ConnId) -> Option<&ClientPeer> {
        match &self.conns.get(&conn)?.peer {
            Peer::Client(client) => Some(client),
            Peer::Worker(_) => None,
        }
    }

    fn worker_mut(&mut self, conn: ConnId) -> Option<&mut WorkerPeer> {
        match &mut self.conns.get_mut(&conn)?.peer {
            Peer::Worker(worker) => Some(worker),
            Peer::Client(_) => None,
        }
    }

    fn worker(&self, conn: ConnId) -> Option<&WorkerPeer> {
        match &self.conns.get(&conn)?.peer {
            Peer::Worker(worker) => Some(worker),
            Peer::Client(_) => None,
        }
    }

    fn link_mut(&mut self, conn: ConnId) -> Option<&mut Link> {
        self.woken.insert(conn);
        self.conns.get_mut(&conn).map(|conn| &mut conn.link)
    }

    /// 256 bits that nobody without the seed can guess.
    fn random_id(&mut self) -> [u8; 32] {
        self.counter += 1;
        Sha256::new()
            .chain_update(self.settings.seed)
            .chain_update(self.counter.to_le_bytes())
            .finalize()
            .into()
    }

    fn random_u64(&mut self) -> u64 {
        let id = self.random_id();
        u64::from_le_bytes([id[0], id[1], id[2], id[3], id[4], id[5], id[6], id[7]])
    }
}

/// Books that cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum RestoreBooksError {
    /// The snapshot is damaged.
    #[error("the ledger's snapshot is damaged: {0}")]
    Snapshot(#[from] RestoreError),
    /// A record does not follow.
    #[error("the ledger's log is damaged: {0}")]
    Record(#[from] cocoon_ledger::ApplyError),
    /// The sums do not agree.
    #[error("the ledger does not balance: {0}")]
    Balance(#[from] cocoon_ledger::InvariantViolation),
}

/// A model's name without commit and hash.
fn base_name(model: &str) -> &str {
    model.split_once('@').map_or(model, |(base, _)| base)
}
