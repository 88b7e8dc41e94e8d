//! The state machine and what surrounds it, shared by all tasks of one proxy.
//!
//! Tasks take turns at the machine under one lock, for microseconds; what it wants done is done after the lock
//! is given back, except appending to the log, which keeps the order of the records and waits for nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::{Bytes, BytesMut};
use cocoon_attest::{PeerCertificate, Verdict};
use cocoon_chain::Chain;
use cocoon_ledger::ClientId;
use cocoon_net::{Ended, Endpoint, MonotonicClock, PeerIdentity, SecureStream, pump};
use cocoon_session::proxy::{
    Attested, ClientChainState, ConnId, EvidenceTooLarge, MAX_VERDICT_BYTES, Proxy, ProxyEvent, RequestEnd,
};
use cocoon_session::{ErrorCode, Time, Violation};
use cocoon_store::{SqliteStore, Store, StoreError};
use cocoon_ton::address::Address;
use cocoon_trace::{Span, SpanKind, Tracing};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::lookups::Lookups;
use crate::next_conn;
use crate::settle::SettlementReport;

/// Over so many records that wait for the log, no new requests are taken.
const MAX_UNLOGGED: usize = 100_000;
/// A snapshot of the books is taken after this many records.
const SNAPSHOT_EVERY: u64 = 20_000;
/// Records handed to the log at a time.
const BATCH: usize = 1024;

/// Which port a connection came in on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Worker,
    Client,
}

#[derive(Debug)]
struct Tap {
    wake: Arc<Notify>,
    close: CancellationToken,
    why: Arc<Mutex<Option<Violation>>>,
}

#[derive(Debug)]
struct Machine {
    proxy: Proxy,
    taps: HashMap<ConnId, Tap>,
    /// Records that the log has no room for yet.
    unlogged: Vec<Bytes>,
    /// Whether the log waits for room on the disk: what is earned meanwhile could be lost.
    log_waits: bool,
    /// Set when the log failed: nothing that needs it may go on.
    failed: bool,
    snapshot_at: u64,
    draining: bool,
}

#[derive(Debug)]
pub(crate) struct Core {
    machine: Mutex<Machine>,
    store: Arc<SqliteStore>,
    chain: Arc<dyn Chain>,
    lookups: Lookups,
    clock: MonotonicClock,
    tasks: TaskTracker,
    stop: CancellationToken,
    quiet: Notify,
    /// Why the proxy stopped by itself.
    failure: OnceLock<String>,
    /// What settlement has reached, where there is any.
    settlement: OnceLock<watch::Receiver<SettlementReport>>,
    tracing: Option<Tracing>,
}

impl Core {
    /// `snapshot_at` is the position of the newest snapshot in the log, 0 without one.
    pub(crate) fn new(
        proxy: Proxy,
        store: Arc<SqliteStore>,
        chain: Arc<dyn Chain>,
        tasks: TaskTracker,
        stop: CancellationToken,
        snapshot_at: u64,
        tracing: Option<Tracing>,
    ) -> Self {
        let machine = Mutex::new(Machine {
            proxy,
            taps: HashMap::new(),
            unlogged: Vec::new(),
            log_waits: false,
            failed: false,
            snapshot_at,
            draining: false,
        });
        Self {
            machine,
            store,
            chain,
            lookups: Lookups::default(),
            clock: MonotonicClock::start(),
            tasks,
            stop,
            quiet: Notify::new(),
            failure: OnceLock::new(),
            settlement: OnceLock::new(),
            tracing,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        // The machine has no invariant that a panic elsewhere could have broken half-way without failing its own checks.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn look<R>(&self, look: impl FnOnce(&Proxy) -> R) -> R {
        look(&self.lock().proxy)
    }

    /// Runs one step of the machine, and does what it asks for.
    pub(crate) fn run<R>(self: &Arc<Self>, step: impl FnOnce(&mut Proxy, Time) -> R) -> R {
        let mut sought = Vec::new();
        let result = {
            let mut machine = self.lock();
            let result = step(&mut machine.proxy, Time(self.clock.micros()));
            while let Some(event) = machine.proxy.poll_event() {
                match event {
                    ProxyEvent::Persist(records) => {
                        machine.unlogged.extend(records.iter().map(|record| Bytes::from(record.encode())));
                    }
                    ProxyEvent::FindClient { conn, contract } => {
                        let known = machine.proxy.ledger().client(&ClientId(*contract.hash())).is_some();
                        sought.push((conn, contract, known));
                    }
                    ProxyEvent::WorkerReady { conn, model } => {
                        tracing::info!(conn = conn.0, model, "worker is ready")
                    }
                    ProxyEvent::ClientReady { conn } => tracing::info!(conn = conn.0, "client is ready"),
                    ProxyEvent::Ended(end) => {
                        log_end(&end);
                        if let Some(tracing) = &self.tracing {
                            trace_end(tracing, &end);
                        }
                    }
                }
            }
            self.append(&mut machine);
            let behind = machine.log_waits || machine.unlogged.len() > MAX_UNLOGGED;
            machine.proxy.hold_requests(behind);
            while let Some((conn, violation)) = machine.proxy.poll_wake() {
                let Some(tap) = machine.taps.get(&conn) else { continue };
                match violation {
                    None => tap.wake.notify_one(),
                    Some(violation) => {
                        *tap.why.lock().unwrap_or_else(PoisonError::into_inner) = Some(violation);
                        tap.close.cancel();
                    }
                }
            }
            if machine.draining && machine.proxy.is_quiet() {
                self.quiet.notify_waiters();
            }
            result
        };
        for (conn, contract, known) in sought {
            if self.lookups.is_first(conn, contract) {
                self.tasks.spawn(Arc::clone(self).find_client(contract, known));
            }
        }
        result
    }

    /// Hands records to the log. Where that has no room for them now, they wait, in order; nothing is signed for meanwhile.
    fn append(&self, machine: &mut Machine) {
        if machine.failed || machine.unlogged.is_empty() {
            return;
        }
        // Piece by piece: the log takes no batch that is larger than its whole queue.
        while let batch = machine.unlogged.len().min(BATCH)
            && batch > 0
        {
            match self.store.append(&machine.unlogged[..batch]) {
                Ok(_) => drop(machine.unlogged.drain(..batch)),
                Err(StoreError::QueueFull) => return,
                Err(error) => {
                    // What is not in the log must never be signed for, so the proxy ends here; a restart goes on from the log.
                    machine.failed = true;
                    tracing::error!(%error, "the log cannot be written; stopping");
                    self.fail(format!("the ledger cannot be written: {error}"));
                    return;
                }
            }
        }
        // All that the books hold is in the log now.
        let position = machine.proxy.ledger().position();
        if position.saturating_sub(machine.snapshot_at) >= SNAPSHOT_EVERY {
            machine.snapshot_at = position;
            let snapshot = Bytes::from(machine.proxy.ledger().snapshot());
            // A failed write shows in the log's own state; until a snapshot is durable, the records stay.
            if let Err(error) = self.store.save_snapshot(position, snapshot).map(drop) {
                tracing::warn!(%error, "no snapshot of the books; the log grows until the next");
            }
        }
    }

    async fn find_client(self: Arc<Self>, contract: Address, known: bool) {
        let _turn = self.lookups.turn(known).await;
        let mut conns = self.lookups.begin(&contract);
        {
            // Who has gone away meanwhile needs no answer.
            let machine = self.lock();
            conns.retain(|conn| machine.taps.contains_key(conn));
        }
        if conns.is_empty() {
            return;
        }
        match self.chain.client_state(contract).await {
            Ok(view) => {
                // The price that its contract charges, whatever the root asks for by now.
                let state = view
                    .state
                    .map(|state| ClientChainState::new(&state, state.params.price_per_token_nanoton));
                self.run(|proxy, _| conns.iter().for_each(|&conn| proxy.client_found(conn, state)));
            }
            Err(error) => {
                tracing::warn!(%contract, %error, "cannot look up a client's contract");
                let why = "the chain does not answer; try again";
                self.run(|proxy, _| conns.iter().for_each(|&conn| proxy.refuse(conn, why)));
            }
        }
    }

    /// Tells the machine what became durable.
    pub(crate) async fn follow_log(self: Arc<Self>) {
        let mut durable = self.store.durable();
        loop {
            let state = durable.borrow_and_update().clone();
            self.lock().log_waits = state.waiting.is_some();
            let outcome = self.run(|proxy, _| proxy.persisted(state.position.min(proxy.ledger().position())));
            if let Err(error) = outcome {
                tracing::error!(%error, "the log is ahead of the books");
            }
            if let Some(error) = state.failure {
                tracing::error!(%error, "the log failed; stopping");
                self.fail(format!("the ledger cannot be written: {error}"));
                return;
            }
            if durable.changed().await.is_err() {
                return;
            }
        }
    }

    /// Serves one connection in a task of its own.
    pub(crate) fn serve(self: &Arc<Self>, stream: SecureStream, role: Role) {
        let core = Arc::clone(self);
        self.tasks.spawn(async move {
            let conn = next_conn();
            let wake = Arc::new(Notify::new());
            let close = core.stop.child_token();
            let why = Arc::new(Mutex::new(None));
            let attested = match role {
                Role::Worker => attested(&stream.peer).map(Some),
                Role::Client => Ok(None),
            };
            let attested = match attested {
                Ok(attested) => attested,
                Err(cause) => {
                    tracing::warn!(conn = conn.0, peer = %stream.remote, ?role, %cause, "closed a connection");
                    return;
                }
            };
            {
                let mut machine = core.lock();
                let now = Time(core.clock.micros());
                match attested {
                    Some(attested) => machine.proxy.add_worker(conn, attested, now),
                    None => machine.proxy.add_client(conn, now),
                }
                let tap = Tap { wake: Arc::clone(&wake), close: close.clone(), why: Arc::clone(&why) };
                machine.taps.insert(conn, tap);
            }
            let remote = stream.remote;
            tracing::debug!(conn = conn.0, peer = %remote, ?role, kind = %stream.peer.kind, "connected");
            let wire = Wire { core: Arc::clone(&core), conn };
            let ended = pump(stream.io, &wire, &wake, &close).await;
            core.lock().taps.remove(&conn);
            core.run(|proxy, now| proxy.closed(conn, now));
            match (ended, why.lock().unwrap_or_else(PoisonError::into_inner).take()) {
                (_, Some(violation)) => {
                    tracing::warn!(conn = conn.0, peer = %remote, ?role, cause = %violation, "closed a connection");
                }
                (Ended::Violation(cause), None) => {
                    tracing::warn!(conn = conn.0, peer = %remote, ?role, cause, "closed a connection");
                }
                (ended, None) => tracing::info!(conn = conn.0, peer = %remote, ?role, %ended, "disconnected"),
            }
        });
    }

    /// Takes no new requests, and waits until those under way are answered and acknowledged.
    pub(crate) async fn drain(&self) {
        {
            let mut machine = self.lock();
            machine.draining = true;
            machine.proxy.drain();
        }
        loop {
            let notified = self.quiet.notified();
            if self.look(Proxy::is_quiet) {
                return;
            }
            notified.await;
        }
    }

    /// Waits until the proxy stops; why, where it did so by itself.
    pub(crate) async fn stopped(&self) -> Option<String> {
        self.stop.cancelled().await;
        self.failure.get().cloned()
    }

    /// Ends the proxy for a reason that waiting does not mend.
    pub(crate) fn fail(&self, why: String) {
        // The first reason is the cause of the others.
        let _ = self.failure.set(why);
        self.stop.cancel();
    }

    pub(crate) fn set_settlement(&self, report: watch::Receiver<SettlementReport>) {
        // Set once, at the start.
        let _ = self.settlement.set(report);
    }

    pub(crate) fn settlement(&self) -> Option<watch::Receiver<SettlementReport>> {
        self.settlement.get().cloned()
    }

    pub(crate) fn store(&self) -> Arc<SqliteStore> {
        Arc::clone(&self.store)
    }

    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    pub(crate) fn close_store(&self) -> Result<(), StoreError> {
        self.store.close()
    }
}

/// What clients are told of a worker.
fn attested(peer: &PeerIdentity) -> Result<Attested, EvidenceTooLarge> {
    // Strings, numbers and lists of them: serialising them cannot fail.
    let json = |verdict: &Verdict| Bytes::from(serde_json::to_vec(verdict).unwrap_or_default());
    let mut verdict = json(&peer.verdict);
    if verdict.len() > MAX_VERDICT_BYTES {
        verdict = json(&Verdict::unchecked(peer.kind, "the proxy's verdict is too long to be passed on"));
    }
    let attested = Attested::new(peer.certificate.clone(), verdict)?;
    // It was parsed when the connection was made, so it parses.
    let Ok(certificate) = PeerCertificate::parse(&peer.certificate) else { return Ok(attested) };
    Ok(attested.until(Time(certificate.validity().not_after.0.saturating_mul(1_000_000))))
}

fn log_end(end: &RequestEnd) {
    let took_ms = end.took.as_millis();
    // What its caller and its gateway call it, and what its worker does: together they join the logs of all three.
    let (request, attempt) = (|| hex::encode(end.client_request), || hex::encode(end.attempt));
    match end.failure.as_ref().filter(|failure| failure.code != ErrorCode::CANCELLED) {
        None => tracing::debug!(
            request = request(),
            attempt = attempt(),
            model = end.model,
            charged = end.charged,
            attempts = end.attempts,
            took_ms,
            "{}",
            if end.failure.is_some() { "the caller left" } else { "request answered" }
        ),
        Some(failure) => tracing::info!(
            request = request(),
            attempt = attempt(),
            model = end.model,
            charged = end.charged,
            why = failure.code.name(),
            code = failure.code.0,
            attempts = end.attempts,
            took_ms,
            "request not answered in full"
        ),
    }
    if end.overrun > 0 {
        tracing::warn!(
            request = request(),
            attempt = attempt(),
            model = end.model,
            worker = end.worker.map(|conn| conn.0),
            overrun = end.overrun,
            charged = end.charged,
            "a worker claimed more tokens than were reserved or than are plausible; it does not get them"
        );
    }
}

/// Writes down a request that came with a trace.
fn trace_end(tracing: &Tracing, end: &RequestEnd) {
    let (Some(context), Some(parent)) = (end.span(), end.parent) else { return };
    let count = u64::try_from(end.attempts).unwrap_or(u64::MAX);
    tracing.record(Span {
        name: format!("proxy {}", end.model),
        kind: SpanKind::Server,
        context,
        parent: Some(parent.span),
        start_us: end.started.0,
        end_us: end.started.plus(end.took).0,
        attributes: vec![
            ("gen_ai.request.model", end.model.as_str().into()),
            ("cocoon.attempts", count.into()),
            ("cocoon.charged_tokens", end.charged.into()),
        ],
        error: end.failure.as_ref().map(|failure| failure.code.name()),
    });
}

/// One connection, as the byte pump sees it.
struct Wire {
    core: Arc<Core>,
    conn: ConnId,
}

impl Endpoint for Wire {
    fn receive(&self, received: &mut BytesMut) -> Result<(), String> {
        self.core
            .run(|proxy, now| proxy.receive(self.conn, received, now))
            .map_err(|violation| violation.to_string())
    }

    fn transmit(&self, capacity: usize) -> Option<Bytes> {
        // Sending may give a worker credit, which wakes its connection.
        self.core.run(|proxy, _| proxy.transmit(self.conn, capacity))
    }
}
