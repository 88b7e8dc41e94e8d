//! Worker nodes and their engines, which answer in every shape, or not at all.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use cocoon_ledger::{Coefficient, PeerCounters, TokenCounts, Tokens, adjust_exact};
use cocoon_session::proxy::RequestEnd;
use cocoon_session::worker::{Work, WorkerEvent, WorkerSession, WorkerSettings};
use cocoon_session::{ErrorCode, INITIAL_CREDIT_BYTES, ProxyTerms, RequestFailure, Time, Violation};
use cocoon_ton::{Address, OrderKind, RootConfig};
use cocoon_wire::codec::ByteStr;
use cocoon_wire::tl::{TokensUsed, http};

use crate::caller::saved;
use crate::checks::{Breach, CallId, short};
use crate::network::Network;
use crate::rng::Rng;
use crate::wire::Way;
use crate::world::{Event, Node, Step, World};

/// Most body bytes between an engine and a caller who does not read, where all three nodes know credit: the worker's
/// queue and one chunk, the credit of each hop, and a part on its way.
const MAX_BEHIND: usize = 1024 * 1024;

/// Bytes of a prompt without its padding.
const PROMPT_BYTES: usize = 40;

/// What a caller asks, as it stands in the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prompt {
    pub(crate) call: CallId,
    pub(crate) max_tokens: u32,
    pub(crate) max_coefficient: u32,
}

impl Prompt {
    pub(crate) fn encode(&self, padding: usize) -> Bytes {
        let mut out = BytesMut::with_capacity(40 + padding);
        out.put_slice(&self.call);
        out.put_u32_le(self.max_tokens);
        out.put_u32_le(self.max_coefficient);
        out.extend((0..padding).map(|at| self.padding(at)));
        out.freeze()
    }

    /// The byte of the padding at a place: another one for each call, and hardly the same at neighbouring places.
    fn padding(&self, at: usize) -> u8 {
        self.call[at % 32].wrapping_add((at / 32).to_le_bytes()[0])
    }

    /// Whether these are bytes of the padding, from a place on.
    fn is_padding(&self, bytes: &[u8], from: usize) -> bool {
        bytes.iter().zip(from..).all(|(byte, at)| *byte == self.padding(at))
    }

    fn decode(mut body: &[u8]) -> Option<Self> {
        let mut call = [0; 32];
        body.try_copy_to_slice(&mut call).ok()?;
        Some(Self {
            call,
            max_tokens: body.try_get_u32_le().ok()?,
            max_coefficient: body.try_get_u32_le().ok()?,
        })
    }
}

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Complete,
    Fail,
    Never,
}

/// A request on an engine.
#[derive(Debug)]
struct Job {
    prompt: Prompt,
    prompt_tokens: u64,
    coefficient: i64,
    status: i32,
    chunks: VecDeque<usize>,
    gap_ms: u64,
    ending: Ending,
    has_head: bool,
    wrote: usize,
    /// Held back until there is room.
    waiting: bool,
    /// Bytes of the body that have come, and that are still to come.
    body_came: usize,
    body_left: u64,
    /// Bytes of it that wait to be read.
    body_waits: usize,
    /// How long the engine takes to read a piece of it; `None`: it never does.
    body_read_after_ms: Option<u64>,
    cancelled: Option<RequestFailure>,
}

#[derive(Debug)]
pub(crate) struct WorkerNode {
    settings: WorkerSettings,
    session: Option<(u64, WorkerSession)>,
    terms: Option<ProxyTerms>,
    pub(crate) counters: PeerCounters,
    jobs: BTreeMap<[u8; 32], Job>,
    pub(crate) up: bool,
    life: u64,
    /// Claims absurd numbers of tokens.
    byzantine: bool,
}

impl WorkerNode {
    pub(crate) fn random(network: &Network, rng: &mut Rng) -> Self {
        Self {
            settings: network.worker(rng),
            session: None,
            terms: None,
            counters: PeerCounters::default(),
            jobs: BTreeMap::new(),
            up: true,
            life: 0,
            byzantine: rng.chance(20),
        }
    }

    pub(crate) fn wants_connection(&self) -> bool {
        self.up && self.session.is_none()
    }

    pub(crate) fn connected(&mut self, wire: u64, now: Time, random: u64) {
        self.session = Some((wire, WorkerSession::new(self.settings.clone(), now, random)));
    }

    pub(crate) fn transmit(&mut self, room: usize) -> Option<Bytes> {
        self.session.as_mut().and_then(|(_, session)| session.transmit(room))
    }

    pub(crate) fn receive(&mut self, received: &mut BytesMut, now: Time) -> Result<(), Violation> {
        self.session.as_mut().map_or(Ok(()), |(_, session)| session.receive(received, now))
    }

    pub(crate) fn lost(&mut self) {
        self.session = None;
        self.jobs.clear();
        self.life += 1;
    }

    /// The process dies. Gives its connection.
    pub(crate) fn crash(&mut self) -> Option<u64> {
        self.up = false;
        let wire = self.session.as_ref().map(|(wire, _)| *wire);
        self.lost();
        wire
    }

    pub(crate) fn resume(&mut self) {
        self.settings.paused = false;
        if let Some((_, session)) = &mut self.session {
            session.set_paused(false);
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        let quiet = self.session.as_ref().is_some_and(|(_, session)| session.in_flight() == 0);
        quiet && self.jobs.is_empty()
    }

    pub(crate) fn model(&self) -> &str {
        &self.settings.model
    }

    /// Model, price and whether it takes requests, as its proxy should see them.
    pub(crate) fn offer(&self) -> (String, u32, bool) {
        (self.settings.model.clone(), self.settings.coefficient, !self.settings.paused)
    }

    /// Learns of a root configuration; connections to come use it.
    pub(crate) fn set_root(&mut self, root: Arc<RootConfig>) {
        self.settings.root = root;
    }

    /// Whether its connection has the contract of the newest parameters.
    pub(crate) fn is_with(&self, contract: &Address) -> bool {
        let terms = self.session.as_ref().and_then(|(_, session)| session.terms());
        terms.is_some_and(|terms| terms.contract == *contract)
    }

    /// The worker as ledger and log name it.
    pub(crate) fn account(&self) -> Option<[u8; 32]> {
        self.terms.as_ref().map(|terms| *terms.pair_contract.hash())
    }

    fn extended(&self) -> bool {
        self.session.as_ref().and_then(|(_, session)| session.terms()).is_some_and(|terms| terms.extensions)
    }

    fn claim(&self, job: &Job, rng: &mut Rng) -> Result<TokensUsed, Breach> {
        let numbers = if self.byzantine {
            std::array::from_fn(|_| [i64::MIN, -1, i64::MAX, 1 << 40, 7][rng.size(0, 4)])
        } else {
            // Of an answer without a byte nobody has anything, so nothing is claimed for it.
            let counts = match job.wrote {
                0 => TokenCounts::default(),
                _ => TokenCounts {
                    prompt: Tokens(job.prompt_tokens),
                    completion: Tokens(rng.range(0, job.prompt.max_tokens.into())),
                    ..TokenCounts::default()
                },
            };
            let coefficient =
                Coefficient::from_wire(job.coefficient).map_err(|why| Breach(why.to_string()))?;
            let exact = adjust_exact(counts, coefficient, &crate::network::TARIFF);
            exact.map_err(|why| Breach(why.to_string()))?.to_wire()
        };
        let [prompt, cached, completion, reasoning, total] = numbers;
        Ok(TokensUsed {
            prompt_tokens_used: prompt,
            cached_tokens_used: cached,
            completion_tokens_used: completion,
            reasoning_tokens_used: reasoning,
            total_tokens_used: total,
        })
    }
}

fn random_job(work: &Work, prompt: Prompt, calm: bool, rng: &mut Rng) -> Job {
    let mut job = Job {
        prompt,
        prompt_tokens: work.request.payload.len() as u64 / 4,
        coefficient: work.coefficient,
        status: 200,
        chunks: VecDeque::from([rng.size(1, 20_000)]),
        gap_ms: 0,
        ending: Ending::Complete,
        has_head: false,
        wrote: 0,
        waiting: false,
        body_came: work.request.payload.len() - PROMPT_BYTES,
        body_left: work.body_bytes.unwrap_or(0),
        body_waits: 0,
        body_read_after_ms: Some(0),
        cancelled: None,
    };
    if calm {
        return job;
    }
    match rng.range(0, 9) {
        0 => job.chunks.clear(),
        1 => job.status = 500,
        2..=4 => job.chunks = (0..rng.range(1, 120)).map(|_| rng.size(10, 2_000)).collect(),
        5 | 6 => job.chunks = (0..rng.range(4, 40)).map(|_| rng.size(1_000, 65_536)).collect(),
        _ => {}
    }
    job.body_read_after_ms = [Some(0), Some(5), Some(100), None][rng.size(0, 3)];
    job.gap_ms = [0, 1, 30, 300][rng.size(0, 3)];
    match rng.range(0, 19) {
        0 | 1 => job.ending = Ending::Fail,
        2 => job.ending = Ending::Never,
        _ => {}
    }
    job
}

impl World<'_> {
    pub(crate) fn worker_tick(&mut self, worker: usize) -> Step {
        let now = self.now;
        let Some((wire, session)) = &mut self.workers[worker].session else { return Ok(()) };
        let (wire, result) = (*wire, session.on_time(now));
        self.after_worker(worker)?;
        result.or_else(|violation| self.fail_node(wire, &violation))
    }

    pub(crate) fn after_worker(&mut self, worker: usize) -> Step {
        loop {
            while let Some(event) =
                self.workers[worker].session.as_mut().and_then(|(_, session)| session.poll_event())
            {
                self.on_worker_event(worker, event)?;
            }
            let Some((wire, _)) = &self.workers[worker].session else { return Ok(()) };
            self.pump(*wire, Way::ToProxy)?;
            // Sending makes room, which is an event again.
            let more = self.workers[worker].session.as_mut().and_then(|(_, session)| session.poll_event());
            match more {
                Some(event) => self.on_worker_event(worker, event)?,
                None => return Ok(()),
            }
        }
    }

    fn on_worker_event(&mut self, worker: usize, event: WorkerEvent) -> Step {
        let now = self.now;
        let node = &mut self.workers[worker];
        match event {
            WorkerEvent::Compare(terms) => {
                if node.terms.as_ref().is_some_and(|known| known.pair_contract != terms.pair_contract) {
                    // Another contract has counters of its own.
                    node.counters = PeerCounters::default();
                }
                node.terms = Some(terms);
                node.counters = saved(node.counters)?;
                let known = node.counters;
                node.counters.begin_connection();
                let Some((_, session)) = &mut node.session else { return Ok(()) };
                session.compare(known, now).map_err(|violation| Breach(violation.to_string()))
            }
            WorkerEvent::Ready => Ok(()),
            WorkerEvent::Work(work) => self.on_work(worker, &work),
            WorkerEvent::Body { request, data, last } => self.on_body(worker, request, &data, last),
            WorkerEvent::Cancelled { request, failure } => {
                let life = node.life;
                let Some(job) = node.jobs.get_mut(&request) else {
                    return Err(Breach(format!("request {} was cancelled after its end", short(&request))));
                };
                job.cancelled = Some(failure);
                job.waiting = false;
                self.after(0, 400, Event::Engine { worker, life, request });
                Ok(())
            }
            WorkerEvent::Room { request } => {
                let life = node.life;
                if let Some(job) = node.jobs.get_mut(&request)
                    && std::mem::replace(&mut job.waiting, false)
                {
                    self.after(0, 5, Event::Engine { worker, life, request });
                }
                Ok(())
            }
            WorkerEvent::Payment { request, counters } => {
                let Some(terms) = &node.terms else {
                    return Err(Breach("payment before the handshake".into()));
                };
                self.checks.shown(&mut node.counters, &counters, terms, OrderKind::PayWorker)?;
                request.map_or(Ok(()), |(attempt, _)| self.checks.worker_notice(attempt))
            }
        }
    }

    fn on_work(&mut self, worker: usize, work: &Work) -> Step {
        let Some(prompt) = Prompt::decode(&work.request.payload) else {
            return Err(Breach("a query changed on its way".into()));
        };
        if !prompt.is_padding(&work.request.payload[PROMPT_BYTES..], 0) {
            return Err(Breach("a body changed on its way".into()));
        }
        if work.coefficient > i64::from(prompt.max_coefficient) {
            return Err(Breach(format!("call {} went to a worker over its price cap", short(&prompt.call))));
        }
        self.checks.attempt(prompt.call, work.id);
        self.tell(&format!("worker {worker} gets call {} as {}", short(&prompt.call), short(&work.id)));
        let job = random_job(work, prompt, self.calm, &mut self.rng);
        let node = &mut self.workers[worker];
        node.jobs.insert(work.id, job);
        let life = node.life;
        let slowest = if self.rng.chance(20) { 4_000 } else { 50 };
        self.after(0, slowest, Event::Engine { worker, life, request: work.id });
        Ok(())
    }

    /// More of a body comes to an engine: the next bytes, and no more than it has agreed to.
    fn on_body(&mut self, worker: usize, request: [u8; 32], data: &Bytes, last: bool) -> Step {
        let node = &mut self.workers[worker];
        let life = node.life;
        let Some(job) = node.jobs.get_mut(&request) else {
            return Err(Breach(format!("a body came for request {}, which is over", short(&request))));
        };
        if !job.prompt.is_padding(data, job.body_came) {
            return Err(Breach(format!("the body of call {} changed on its way", short(&job.prompt.call))));
        }
        job.body_came += data.len();
        job.body_waits += data.len();
        job.body_left = job.body_left.saturating_sub(data.len() as u64);
        if job.body_waits > INITIAL_CREDIT_BYTES || last != (job.body_left == 0) {
            return Err(Breach(format!("the body of call {} breaks its terms", short(&job.prompt.call))));
        }
        if let Some(ms) = job.body_read_after_ms {
            self.after(0, ms, Event::BodyRead { worker, life, request, bytes: data.len() });
        }
        if last {
            self.summary.bodies += 1;
            self.after(0, 5, Event::Engine { worker, life, request });
        }
        Ok(())
    }

    /// An engine has read that much of a body.
    pub(crate) fn body_read(&mut self, worker: usize, life: u64, request: [u8; 32], bytes: usize) -> Step {
        let node = &mut self.workers[worker];
        if node.life != life {
            return Ok(());
        }
        if let Some(job) = node.jobs.get_mut(&request) {
            job.body_waits -= bytes;
        }
        if let Some((_, session)) = &mut node.session {
            session.body_taken(request, bytes);
        }
        self.after_worker(worker)
    }

    /// An engine goes one step on with a request.
    pub(crate) fn engine(&mut self, worker: usize, life: u64, request: [u8; 32]) -> Step {
        let now = self.now;
        let node = &mut self.workers[worker];
        if node.life != life {
            return Ok(());
        }
        let Some(mut job) = node.jobs.remove(&request) else { return Ok(()) };
        let claim = node.claim(&job, &mut self.rng)?;
        let Some((_, session)) = &mut node.session else { return Ok(()) };
        let mut next = None;
        if let Some(failure) = job.cancelled.take() {
            session.fail(request, failure, claim, now);
        } else if job.waiting
            || (job.chunks.is_empty() && job.ending == Ending::Never)
            // An engine that fails or refuses need not have read the body.
            || (job.body_left > 0 && job.ending == Ending::Complete && job.status == 200)
        {
            next = Some(false);
        } else if job.chunks.is_empty() && job.ending == Ending::Fail {
            let code = [ErrorCode::ERROR, ErrorCode::NOT_READY, ErrorCode::PROTOCOL][self.rng.size(0, 2)];
            session.fail(request, RequestFailure::new(code, "the engine broke"), claim, now);
        } else if !job.has_head && (job.ending == Ending::Complete || self.rng.chance(50)) {
            job.has_head = true;
            session.head(request, head(job.status), now);
            next = Some(true);
        } else if !job.has_head {
            job.chunks.clear();
            next = Some(true);
        } else if let Some(size) = job.chunks.pop_front() {
            let data = noise(size, &mut self.rng);
            self.checks.wrote(&request, &data, false);
            job.wrote += size;
            job.waiting = session.data(request, data) == 0;
            next = Some(!job.waiting);
        } else {
            self.checks.wrote(&request, &[], true);
            session.complete_request(request, claim, now);
        }
        let (gap, wrote, call) = (job.gap_ms, job.wrote, job.prompt.call);
        if let Some(goes_on) = next {
            self.workers[worker].jobs.insert(request, job);
            if goes_on {
                self.after(0, gap, Event::Engine { worker, life, request });
            }
        }
        self.check_behind(worker, &call, wrote)?;
        self.after_worker(worker)
    }

    /// A slow reader holds its own answer's engine back, and bounds what is kept for it.
    fn check_behind(&self, worker: usize, call: &CallId, wrote: usize) -> Step {
        if !self.workers[worker].extended() {
            return Ok(());
        }
        let reader = self.clients.iter().filter(|client| client.extended());
        let received =
            reader.filter_map(|client| client.calls.get(call)).map(|call| call.received.len()).next();
        match received {
            Some(received) if wrote > received + MAX_BEHIND => Err(Breach(format!(
                "call {}: {} bytes are kept for its reader",
                short(call),
                wrote - received
            ))),
            _ => Ok(()),
        }
    }

    /// An honest worker whose answer was complete gets all that it claims, unless funds ran out.
    pub(crate) fn check_end(&self, end: &RequestEnd) -> Step {
        let worker = end.worker.and_then(|conn| self.wires.get(&conn.0)).and_then(|wire| match wire.node {
            Node::Worker(worker) => self.workers.get(worker),
            _ => None,
        });
        let honest = worker.is_some_and(|worker| !worker.byzantine);
        if honest && end.failure.is_none() && end.overrun > 0 && self.clients.iter().all(|it| it.is_rich()) {
            return Err(Breach(format!("an honest worker lost {} tokens", end.overrun)));
        }
        Ok(())
    }

    /// A worker's owner changes the price, or takes a break.
    pub(crate) fn manage(&mut self, worker: usize) -> Step {
        if self.calm {
            return Ok(());
        }
        let paused = self.rng.chance(8);
        let coefficient = [500, 1000, 1500][self.rng.size(0, 2)];
        let node = &mut self.workers[worker];
        node.settings.paused = paused;
        node.settings.coefficient = coefficient;
        if let Some((_, session)) = &mut node.session {
            session.set_paused(paused);
            session.set_coefficient(coefficient);
        }
        self.tell(&format!("worker {worker} asks {coefficient}, paused: {paused}"));
        self.after_worker(worker)?;
        self.after(200, 15_000, Event::Manage(worker));
        Ok(())
    }
}

fn head(status: i32) -> http::Response {
    http::Response {
        http_version: ByteStr::from_static("HTTP/1.1"),
        status_code: status,
        reason: ByteStr::from_static("OK"),
        headers: Vec::new(),
        payload: Bytes::new(),
    }
}

fn noise(size: usize, rng: &mut Rng) -> Bytes {
    let mut out = BytesMut::with_capacity(size + 8);
    while out.len() < size {
        out.put_u64_le(rng.next_u64());
    }
    out.truncate(size);
    out.freeze()
}
