//! The connections of a proxy, and who is at their other end.

use std::collections::{BTreeMap, BTreeSet};

use cocoon_ledger::{ClientId, WorkerId};
use cocoon_ton::address::Address;
use cocoon_wire::tl::client;

use super::account::ClientChainState;
use super::generation::Leaving;
use super::offers::Pages;
use super::roster::Attested;
use super::share::Answers;
use super::{CLIENT_HANDSHAKE_TIME, RequestKey, WORKER_HANDSHAKE_TIME};
use crate::link::Link;
use crate::options::Options;
use crate::outbox::Outbox;
use crate::{RequestFailure, Time, ability};

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) link: Link,
    pub(super) peer: Peer,
    pub(super) since: Time,
    pub(super) leaving: Option<Leaving>,
}

impl Conn {
    /// Whether its handshake is done.
    pub(super) fn is_ready(&self) -> bool {
        match &self.peer {
            Peer::Client(client) => client.stage == ClientStage::Ready,
            Peer::Worker(worker) => worker.stage == WorkerStage::Ready,
        }
    }

    /// Whether it pings us on, but never comes to the point: strangers must not take places for good.
    pub(super) fn dawdles(&self, now: Time) -> bool {
        let limit = match &self.peer {
            Peer::Client(_) => CLIENT_HANDSHAKE_TIME,
            Peer::Worker(_) => WORKER_HANDSHAKE_TIME,
        };
        !self.is_ready() && now.since(self.since) >= limit
    }

    /// Whether everything that was to be said on it has left.
    pub(super) fn is_quiet(&self) -> bool {
        let answers = match &self.peer {
            Peer::Client(client) => client.outbox.is_empty(),
            Peer::Worker(_) => true,
        };
        answers && self.link.unsent() == 0
    }
}

#[derive(Debug)]
pub(super) enum Peer {
    Client(Box<ClientPeer>),
    Worker(Box<WorkerPeer>),
}

#[derive(Debug)]
pub(super) struct ClientPeer {
    pub(super) stage: ClientStage,
    pub(super) proto_version: i32,
    pub(super) extensions: bool,
    /// The workers that may see its requests; `None`: all.
    pub(super) allowed: Option<BTreeSet<[u8; 32]>>,
    /// How often it may ask what is on offer.
    pub(super) market_pages: Pages,
    /// How often it may ask which workers there are.
    pub(super) worker_pages: Pages,
    /// How often it may ask for the published lists.
    pub(super) lists: Pages,
    pub(super) wallet: Option<Address>,
    pub(super) contract: Option<Address>,
    pub(super) account: ClientId,
    /// What the chain shows of its contract; `None` where that does not exist.
    pub(super) chain: Option<ClientChainState>,
    /// The client's id of each request under way, and ours.
    pub(super) requests: BTreeMap<[u8; 32], RequestKey>,
    pub(super) outbox: Answers,
    /// Options of the request that must come next.
    pub(super) announced: Option<([u8; 32], Options)>,
}

impl ClientPeer {
    /// One that just connected.
    pub(super) fn new(now: Time) -> Self {
        Self {
            stage: ClientStage::Opening,
            proto_version: 0,
            extensions: false,
            allowed: None,
            market_pages: Pages::new(now),
            worker_pages: Pages::new(now),
            lists: Pages::new(now),
            wallet: None,
            contract: None,
            account: ClientId([0; 32]),
            chain: None,
            requests: BTreeMap::new(),
            outbox: Outbox::new(false),
            announced: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientStage {
    Opening,
    Connecting,
    Finding {
        query: i64,
    },
    /// `secret_hash` is what the chain showed when this handshake began, `registered` whether the chain has shown a
    /// registration with `nonce`, `waiting` the client's query for the outcome.
    Authorizing {
        secret_hash: Option<[u8; 32]>,
        nonce: i64,
        registered: bool,
        waiting: Option<i64>,
    },
    Ready,
}

#[derive(Debug)]
pub(super) struct WorkerPeer {
    pub(super) stage: WorkerStage,
    pub(super) attested: Attested,
    pub(super) extensions: bool,
    pub(super) proto_version: i32,
    pub(super) contract: Option<Address>,
    pub(super) account: WorkerId,
    /// Full model name.
    pub(super) model: String,
    pub(super) coefficient: u32,
    pub(super) limit: u32,
    pub(super) paused: bool,
    /// What it can do: bits of [`ability`](crate::ability).
    pub(super) abilities: u32,
    /// Since when it is known to be silent with work in flight.
    pub(super) suspect_since: Option<Time>,
    /// It found fault with a request and has served none since.
    pub(super) finds_fault: bool,
    /// When it last went from idle to working.
    pub(super) busy_since: Time,
    /// The ids under which this worker has work, and the requests they belong to.
    pub(super) work: BTreeMap<[u8; 32], RequestKey>,
    /// Bytes that it is to be sent in one frame each once they are all here.
    pub(super) awaited: usize,
    /// Bodies on their way to it, by the same ids.
    pub(super) bodies: Outbox<[u8; 32], (), ()>,
}

impl WorkerPeer {
    /// One that just connected.
    pub(super) fn new(attested: Attested, now: Time) -> Self {
        Self {
            stage: WorkerStage::Opening,
            attested,
            extensions: false,
            proto_version: 0,
            contract: None,
            account: WorkerId([0; 32]),
            model: String::new(),
            coefficient: 0,
            limit: 0,
            paused: true,
            abilities: ability::UNTOLD,
            suspect_since: None,
            finds_fault: false,
            busy_since: now,
            work: BTreeMap::new(),
            awaited: 0,
            bodies: Outbox::new(true),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkerStage {
    Opening,
    Connecting,
    Comparing,
    ComparingFurther,
    Completing,
    Ready,
}

/// How an answer to a client ends.
#[derive(Debug)]
pub(super) enum End {
    Complete(client::QueryFinalInfo),
    Failed(RequestFailure, client::QueryFinalInfo),
}
