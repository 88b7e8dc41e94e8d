//! One framed connection: who opens it, how it is kept alive, which answer belongs to which query.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_wire::codec::{ByteStr, Message};
use cocoon_wire::frame::{FrameDecoder, FrameEncoder, MAX_FRAME_PAYLOAD};
use cocoon_wire::tl::tcp::Packet;

use crate::terms::words;
use crate::{ErrorCode, Time, Violation};

/// A dialler pings after this much silence.
pub const DIALLER_PING_AFTER: Duration = Duration::from_secs(10);
/// A dialler gives a silent connection up after this.
pub const DIALLER_SILENCE: Duration = Duration::from_secs(20);
/// An acceptor gives a silent connection up after this.
pub const ACCEPTOR_SILENCE: Duration = Duration::from_secs(60);
/// The opening exchange must be done within this.
pub const OPENING_TIME: Duration = Duration::from_secs(10);
/// Largest frame that an acceptor takes before the dialler's handshake is done: room for any handshake message, and
/// nothing that many strangers could exhaust memory with.
pub const MAX_HANDSHAKE_FRAME: usize = 64 * 1024;
/// Bytes encoded but not yet taken for sending, over which the peer counts as one that does not read. Room for two
/// frames of the largest size.
pub const MAX_UNSENT_BYTES: usize = 2 * MAX_FRAME_PAYLOAD + 65_536;
/// The same for an acceptor before the dialler's handshake is done.
pub const MAX_HANDSHAKE_UNSENT_BYTES: usize = 256 * 1024;
/// Queries of ours that may be open at a time on one connection.
const MAX_OPEN_QUERIES: usize = 64;

/// Which end of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// We connected.
    Dialler,
    /// We were connected to.
    Acceptor,
}

/// What came over the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// The opening exchange is done; from now on packets and queries flow.
    Opened,
    /// A one-way message.
    Packet(Bytes),
    /// A query, to be answered under its id.
    Query {
        /// The peer's id.
        id: i64,
        /// The boxed query.
        data: Bytes,
    },
    /// The answer to a query of ours.
    Answer {
        /// What [`Link::query`] was told the query is for.
        what: &'static str,
        /// The boxed answer.
        data: Bytes,
    },
    /// A query of ours was refused.
    Refused {
        /// What [`Link::query`] was told the query is for.
        what: &'static str,
        /// The peer's code.
        code: i32,
        /// The peer's words.
        message: String,
    },
}

#[derive(Debug)]
struct OpenQuery {
    what: &'static str,
    deadline: Time,
}

/// State of one connection.
#[derive(Debug)]
pub struct Link {
    side: Side,
    open: bool,
    connect_id: i64,
    decoder: FrameDecoder,
    encoder: FrameEncoder,
    out: BytesMut,
    max_unsent: usize,
    opened_by: Time,
    last_received: Time,
    last_ping: Option<Time>,
    probe_after: Option<Duration>,
    next_id: i64,
    queries: BTreeMap<i64, OpenQuery>,
    broken: Option<Violation>,
}

impl Link {
    /// A connection that just came up. `random` seeds the ids that this side chooses.
    #[must_use]
    pub fn new(side: Side, now: Time, random: u64) -> Self {
        let mut link = Self {
            side,
            open: false,
            connect_id: random.cast_signed(),
            decoder: FrameDecoder::new(match side {
                Side::Dialler => MAX_FRAME_PAYLOAD,
                Side::Acceptor => MAX_HANDSHAKE_FRAME,
            }),
            encoder: FrameEncoder::new(),
            out: BytesMut::new(),
            max_unsent: match side {
                Side::Dialler => MAX_UNSENT_BYTES,
                Side::Acceptor => MAX_HANDSHAKE_UNSENT_BYTES,
            },
            opened_by: now.plus(OPENING_TIME),
            last_received: now,
            last_ping: None,
            probe_after: None,
            next_id: random.rotate_left(32).cast_signed(),
            queries: BTreeMap::new(),
            broken: None,
        };
        if side == Side::Dialler {
            let id = link.connect_id;
            link.write(&Packet::Connect { id });
        }
        link
    }

    /// Takes the next event out of `received`; call until it gives `None`.
    ///
    /// # Errors
    /// Any violation ends the connection.
    pub fn receive(&mut self, received: &mut BytesMut, now: Time) -> Result<Option<LinkEvent>, Violation> {
        if !received.is_empty() {
            self.last_received = now;
            self.last_ping = None;
        }
        while let Some(payload) = self.decoder.decode(received)? {
            let packet = Packet::decode_boxed(payload).map_err(Violation::message("tcp packet"))?;
            let event = if self.open { self.on_packet(packet)? } else { Some(self.on_opening(&packet)?) };
            self.check()?;
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    fn on_opening(&mut self, packet: &Packet) -> Result<LinkEvent, Violation> {
        match (self.side, packet) {
            (Side::Acceptor, Packet::Connect { id }) => self.write(&Packet::Connected { id: *id }),
            (Side::Dialler, Packet::Connected { id }) if *id == self.connect_id => {}
            (Side::Dialler, Packet::Connected { .. }) => {
                return Err(Violation::Unexpected("tcp.connected with another id"));
            }
            _ => return Err(Violation::Unexpected("first message")),
        }
        self.open = true;
        Ok(LinkEvent::Opened)
    }

    fn on_packet(&mut self, packet: Packet) -> Result<Option<LinkEvent>, Violation> {
        Ok(match packet {
            Packet::Ping { id } => {
                self.write(&Packet::Pong { id });
                None
            }
            Packet::Pong { .. } => None,
            Packet::Packet { data } => Some(LinkEvent::Packet(data)),
            Packet::Query { id, data } => Some(LinkEvent::Query { id, data }),
            // An answer to a query that timed out, or that never was, is no harm: drop it.
            Packet::QueryAnswer { id, data } => {
                self.queries.remove(&id).map(|query| LinkEvent::Answer { what: query.what, data })
            }
            Packet::QueryError { id, code, message } => self
                .queries
                .remove(&id)
                .map(|query| LinkEvent::Refused { what: query.what, code, message: words(&message) }),
            Packet::Connect { .. } | Packet::Connected { .. } => {
                return Err(Violation::Unexpected("second opening message"));
            }
        })
    }

    /// Sends a one-way message.
    pub fn packet(&mut self, message: &impl Message) {
        if let Err(error) = self.encoder.encode_tcp_packet(&mut self.out, message) {
            self.broken = Some(error.into());
        }
    }

    /// Asks the peer; the answer comes as an event that carries `what`.
    ///
    /// # Errors
    /// [`Violation::NotReading`] where the peer leaves too many queries unanswered.
    pub fn query(
        &mut self,
        what: &'static str,
        message: &impl Message,
        now: Time,
        within: Duration,
    ) -> Result<(), Violation> {
        if self.queries.len() >= MAX_OPEN_QUERIES {
            return Err(Violation::NoAnswer(what));
        }
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.queries.insert(id, OpenQuery { what, deadline: now.plus(within) });
        self.write(&Packet::Query { id, data: boxed(message) });
        Ok(())
    }

    /// Answers the peer's query `id`.
    pub fn answer(&mut self, id: i64, message: &impl Message) {
        self.write(&Packet::QueryAnswer { id, data: boxed(message) });
    }

    /// Refuses the peer's query `id`.
    pub fn refuse(&mut self, id: i64, code: ErrorCode, message: &str) {
        let message = ByteStr::from(message.to_owned());
        self.write(&Packet::QueryError { id, code: code.0, message });
    }

    fn write(&mut self, packet: &Packet) {
        if let Err(error) = self.encoder.encode_message(&mut self.out, packet) {
            self.broken = Some(error.into());
        }
    }

    fn check(&mut self) -> Result<(), Violation> {
        match self.broken.take() {
            Some(violation) => Err(violation),
            None if self.out.len() > self.max_unsent => Err(Violation::NotReading(self.out.len())),
            None => Ok(()),
        }
    }

    /// Bytes encoded and waiting to be taken.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.out.len()
    }

    /// Takes all encoded bytes.
    pub fn take_output(&mut self) -> Option<Bytes> {
        (!self.out.is_empty()).then(|| self.out.split().freeze())
    }

    /// The peer was let in: frames of full size may come and wait from now on.
    pub fn let_in(&mut self) {
        self.decoder.set_max_payload(MAX_FRAME_PAYLOAD);
        self.max_unsent = MAX_UNSENT_BYTES;
    }

    /// How long nothing came.
    #[must_use]
    pub fn silent_for(&self, now: Time) -> Duration {
        now.since(self.last_received)
    }

    /// Pings each time that this much silence passed (`None`: only as the side's ordinary rule says).
    pub fn probe_after(&mut self, silence: Option<Duration>) {
        self.probe_after = silence;
    }

    /// Does what is due: pings, and gives up.
    ///
    /// # Errors
    /// The violation with which to close: silence, or a query left without an answer.
    pub fn on_time(&mut self, now: Time) -> Result<(), Violation> {
        self.check()?;
        if !self.open {
            return if now >= self.opened_by { Err(Violation::NoAnswer("opening")) } else { Ok(()) };
        }
        let limit = if self.side == Side::Dialler { DIALLER_SILENCE } else { ACCEPTOR_SILENCE };
        let silence = self.silent_for(now);
        if silence >= limit {
            return Err(Violation::Silent(limit.as_secs()));
        }
        if let Some(query) = self.queries.values().find(|query| now >= query.deadline) {
            return Err(Violation::NoAnswer(query.what));
        }
        let every = match (self.probe_after, self.side) {
            (Some(after), _) => after,
            (None, Side::Dialler) => DIALLER_PING_AFTER,
            (None, Side::Acceptor) => return Ok(()),
        };
        if silence >= every && self.last_ping.is_none_or(|last| now.since(last) >= every) {
            self.last_ping = Some(now);
            let id = self.next_id;
            self.next_id = self.next_id.wrapping_add(1);
            self.write(&Packet::Ping { id });
        }
        Ok(())
    }
}

fn boxed(message: &impl Message) -> Bytes {
    let mut data = BytesMut::with_capacity(message.encoded_len() + 4);
    message.encode_boxed(&mut data);
    data.freeze()
}
