//! One proxy: a connection that is kept up, and the session on it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_attest::PolicyError;
use cocoon_net::{Backoff, Ended, Endpoint, SecureStream, dial, pump};
use cocoon_session::worker::{WorkerEvent, WorkerSession, WorkerSettings};
use cocoon_session::{PaymentCounters, ProxyTerms, RequestFailure, Time};
use cocoon_ton::Address;
use cocoon_ton::root::RootConfig;
use std::sync::atomic::Ordering;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::body::BodyQueue;
use crate::channel::Channel;
use crate::claims::Claims;
use crate::settle::Hold;
use crate::{Shared, work};

#[cfg(test)]
mod tests;

/// How often the session's time-outs are looked at.
const TICK: Duration = Duration::from_millis(50);
const BACKOFF_BASE: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A connection that held this long starts the waiting anew.
const STABLE: Duration = Duration::from_secs(30);
/// What holds a link for less is not worth a warning: at the start of a network, contracts come after connections.
const WORTH_A_WARNING: Duration = Duration::from_secs(10);

/// A request under way, as its task sees it.
#[derive(Debug, Default)]
pub(crate) struct Running {
    /// Set before `cancelled` is.
    pub(crate) why: Mutex<Option<RequestFailure>>,
    pub(crate) cancelled: CancellationToken,
    pub(crate) room: Notify,
    /// What came of the body and was not passed on yet.
    pub(crate) body: BodyQueue,
}

#[derive(Debug)]
struct Machine {
    session: WorkerSession,
    running: HashMap<[u8; 32], Arc<Running>>,
    claims: Claims,
    /// The root configuration that the proxy's terms are checked against.
    root: Arc<RootConfig>,
    channel: Option<Arc<Channel>>,
    verified: Option<Bytes>,
    /// Whether the handshake is done.
    up: bool,
    /// Whether it is counted among those that can send requests.
    ready: bool,
    /// Why no requests are taken, whatever the operator says.
    held: Option<Held>,
    /// Whether the session was told to take no requests.
    paused: bool,
    broken: Option<String>,
}

/// A proxy that cannot pay, as far as is known.
#[derive(Debug)]
struct Held {
    why: Hold,
    since: Time,
    warned: bool,
}

/// One connection to one proxy.
#[derive(Debug)]
pub(crate) struct Link {
    machine: Mutex<Machine>,
    wake: Notify,
    close: CancellationToken,
}

/// Keeps a link to each proxy of the configuration, or of the root configuration, as that changes.
pub(crate) fn follow_root(shared: &Arc<Shared>) -> Result<(), PolicyError> {
    let mut roots = shared.chain.subscribe_root();
    let root = roots.borrow_and_update().clone();
    allow_images(shared, &root)?;
    let mut kept = HashMap::new();
    keep_links(shared, &root, &mut kept);
    let following = Arc::clone(shared);
    shared.tasks.spawn(shared.stop.clone().run_until_cancelled_owned(async move {
        while roots.changed().await.is_ok() {
            let root = roots.borrow_and_update().clone();
            match allow_images(&following, &root) {
                Ok(()) => keep_links(&following, &root, &mut kept),
                Err(error) => {
                    tracing::error!(%error, "the new root configuration's image hashes cannot be used")
                }
            }
        }
    }));
    Ok(())
}

fn allow_images(shared: &Shared, root: &RootConfig) -> Result<(), PolicyError> {
    if shared.config.check_proxy_hashes {
        shared.tls.list_images(root.proxy_hashes.iter().copied())?;
    }
    Ok(())
}

fn keep_links(shared: &Arc<Shared>, root: &RootConfig, kept: &mut HashMap<String, CancellationToken>) {
    let wanted: HashSet<String> = if shared.config.proxies.is_empty() {
        root.registered_proxies.iter().map(|proxy| proxy.endpoints.for_workers.to_string()).collect()
    } else {
        shared.config.proxies.iter().cloned().collect()
    };
    kept.retain(|address, token| {
        let keep = wanted.contains(address);
        if !keep {
            token.cancel();
        }
        keep
    });
    let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
    for address in wanted {
        kept.entry(address.clone()).or_insert_with(|| {
            let token = shared.stop.child_token();
            let keeping = keep_up(Arc::clone(shared), address, count, token.clone());
            shared.tasks.spawn(keeping);
            token
        });
    }
}

async fn keep_up(shared: Arc<Shared>, address: String, proxies: u32, stop: CancellationToken) {
    let mut backoff = Backoff::new(BACKOFF_BASE, BACKOFF_MAX);
    loop {
        let began = shared.now();
        let connected = stop.run_until_cancelled(dial(&address, &shared.tls, &shared.config.dial)).await;
        match connected {
            None => return,
            Some(Err(error)) => {
                tracing::warn!(proxy = address, cause = %error.cause, "cannot connect to a proxy")
            }
            Some(Ok(stream)) => {
                let ended = serve(&shared, &address, stream, proxies, &stop).await;
                match &ended {
                    Ended::Violation(cause) => {
                        tracing::warn!(proxy = address, cause, "closed the connection to a proxy")
                    }
                    ended => tracing::info!(proxy = address, %ended, "disconnected from a proxy"),
                }
                if shared.now().since(began) >= STABLE {
                    backoff.reset();
                }
            }
        }
        let wait = backoff.next(&mut rand::rng());
        if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

/// What we are to one of so many proxies.
fn settings(shared: &Shared, proxies: u32, paused: bool) -> WorkerSettings {
    let config = &shared.config;
    WorkerSettings {
        owner: config.owner,
        model: config.model.clone(),
        coefficient: shared.coefficient.load(Ordering::Relaxed),
        paused,
        proxies,
        max_active: config.max_active,
        is_test: config.is_test,
        is_testnet: config.is_testnet,
        root: shared.root(),
        root_address: config.root_address,
        extensions: config.extensions,
        max_body_bytes: config.max_body_bytes,
    }
}

async fn serve(
    shared: &Arc<Shared>,
    address: &str,
    stream: SecureStream,
    proxies: u32,
    stop: &CancellationToken,
) -> Ended {
    let held =
        shared.asks_for_backing().then(|| Held { why: Hold::Unseen, since: shared.now(), warned: false });
    let settings = settings(shared, proxies, held.is_some() || shared.is_paused());
    let link = Arc::new(Link::new(settings, held, shared.now(), stop.child_token()));
    shared.links().insert(address.to_owned(), Arc::clone(&link));
    // Who changed price or pause since they were read above did not see this link yet.
    link.run(shared, |session, _| {
        session.set_coefficient(shared.coefficient.load(Ordering::Relaxed));
        if let Some(abilities) = shared.abilities() {
            session.set_abilities(abilities);
        }
    });
    link.steer(shared);
    let SecureStream { io, renewal, .. } = stream;
    let wire = Wire { shared: Arc::clone(shared), link: Arc::clone(&link) };
    let ended = {
        let pumping = pump(io, &wire, &link.wake, &link.close);
        let ticking = async {
            let mut ticks = tokio::time::interval(TICK);
            loop {
                ticks.tick().await;
                link.steer(shared);
                if let Err(violation) = link.run_shared(shared, |session, now| session.on_time(now)) {
                    return violation.to_string();
                }
                if let Some(broken) = link.lock().broken.take() {
                    return broken;
                }
                if renewal.is_due() && link.is_idle() {
                    tracing::info!(proxy = address, "dialling again, to show and see new certificates");
                    link.close.cancel();
                }
            }
        };
        tokio::select! {
            ended = pumping => ended,
            why = ticking => Ended::Violation(why),
        }
    };
    shared.links().remove(address);
    let mut machine = link.lock();
    for running in machine.running.values() {
        running.cancelled.cancel();
    }
    machine.up = false;
    machine.count(shared);
    if let (Some(settlement), Some(channel)) = (&shared.settlement, machine.channel.take()) {
        settlement.link_down(channel.terms.contract);
    }
    ended
}

impl Machine {
    /// Looks whether this proxy can pay, and tells the session where that, or the operator, changed something.
    fn steer(&mut self, shared: &Shared) {
        if let (Some(settlement), Some(channel)) = (&shared.settlement, &self.channel) {
            let why = settlement.hold(channel);
            if why.is_some() && self.held.is_none() {
                settlement.look_soon();
            }
            let proxy = channel.terms.start.proxy;
            self.note_hold(why, &proxy, shared.now());
        }
        let paused = self.held.is_some() || shared.is_paused();
        if paused != self.paused {
            self.paused = paused;
            self.session.set_paused(paused);
        }
        self.count(shared);
    }

    /// Keeps why requests are not taken, and says it once.
    fn note_hold(&mut self, why: Option<Hold>, proxy: &Address, now: Time) {
        let Some(why) = why else {
            if let Some(over) = self.held.take() {
                tracing::info!(%proxy, was = %over.why, "takes requests of a proxy");
            }
            return;
        };
        let (since, warned) = match &self.held {
            Some(held) if held.why.is_like(&why) => (held.since, held.warned),
            _ => {
                tracing::info!(%proxy, %why, "takes no requests of a proxy");
                (now, false)
            }
        };
        let late = !warned && now.since(since) >= WORTH_A_WARNING;
        if late {
            tracing::warn!(%proxy, %why, "takes no requests of a proxy that may not be able to pay");
        }
        self.held = Some(Held { why, since, warned: warned || late });
    }

    /// Counts this link among those that can send requests, or no longer.
    fn count(&mut self, shared: &Shared) {
        let ready = self.up && self.held.is_none();
        if ready != std::mem::replace(&mut self.ready, ready) {
            shared.ready.send_modify(|count| {
                *count = if ready { *count + 1 } else { count.saturating_sub(1) };
            });
        }
    }
}

impl Link {
    fn new(settings: WorkerSettings, held: Option<Held>, now: Time, close: CancellationToken) -> Self {
        let (root, paused) = (Arc::clone(&settings.root), settings.paused);
        let machine = Machine {
            session: WorkerSession::new(settings, now, rand::random()),
            running: HashMap::new(),
            claims: Claims::default(),
            root,
            channel: None,
            verified: None,
            up: false,
            ready: false,
            held,
            paused,
            broken: None,
        };
        Self { machine: Mutex::new(machine), wake: Notify::new(), close }
    }

    /// Applies what the operator and the proxy's means say about taking requests.
    pub(crate) fn steer(&self, shared: &Shared) {
        let mut machine = self.lock();
        let before = machine.paused;
        machine.steer(shared);
        if machine.paused != before {
            self.wake.notify_one();
        }
    }

    /// Why no requests are taken at this moment, whatever the operator says.
    pub(crate) fn hold(&self, shared: &Shared) -> Option<String> {
        self.steer(shared);
        self.lock().held.as_ref().map(|held| held.why.to_string())
    }

    /// The same, where the handshake is done.
    pub(crate) fn hold_of_connected(&self, shared: &Shared) -> Option<String> {
        self.steer(shared);
        let machine = self.lock();
        machine.held.as_ref().filter(|_| machine.up).map(|held| held.why.to_string())
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no request is under way and nothing waits to be sent.
    fn is_idle(&self) -> bool {
        let machine = self.lock();
        machine.running.is_empty() && machine.session.is_quiet()
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.lock().session.is_quiet()
    }

    /// One step of the session that causes no events.
    pub(crate) fn run<R>(&self, shared: &Shared, step: impl FnOnce(&mut WorkerSession, Time) -> R) -> R {
        let result = step(&mut self.lock().session, shared.now());
        self.wake.notify_one();
        result
    }

    /// One step of the session, and what follows from it.
    fn run_shared<R>(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        step: impl FnOnce(&mut WorkerSession, Time) -> R,
    ) -> R {
        let mut machine = self.lock();
        let now = shared.now();
        let result = step(&mut machine.session, now);
        while let Some(event) = machine.session.poll_event() {
            self.on_event(shared, &mut machine, event, now);
        }
        drop(machine);
        self.wake.notify_one();
        result
    }

    fn on_event(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        machine: &mut Machine,
        event: WorkerEvent,
        now: Time,
    ) {
        match event {
            WorkerEvent::Compare(terms) => {
                if let Err(why) = compare(shared, machine, &terms, now) {
                    machine.broken = Some(why);
                }
            }
            WorkerEvent::Ready => {
                tracing::info!("connected with a proxy");
                machine.up = true;
                machine.steer(shared);
            }
            WorkerEvent::Work(work) => {
                let running = Arc::new(Running::default());
                machine.running.insert(work.id, Arc::clone(&running));
                shared.tasks.spawn(work::run(Arc::clone(shared), Arc::clone(self), *work, running));
            }
            WorkerEvent::Body { request, data, last } => {
                if let Some(running) = machine.running.get(&request) {
                    running.body.put(data, last);
                }
            }
            WorkerEvent::Cancelled { request, failure } => {
                if let Some(running) = machine.running.get(&request) {
                    *running.why.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
                    running.cancelled.cancel();
                }
            }
            WorkerEvent::Room { request } => {
                if let Some(running) = machine.running.get(&request) {
                    running.room.notify_one();
                }
            }
            WorkerEvent::Payment { request, counters } => {
                if let Some((request, credited)) = request
                    && let Some(missing) = machine.claims.credit(&request, credited)
                {
                    tracing::info!(credited, missing, "a proxy credits less than was claimed");
                    shared.counts.underpaid.fetch_add(1, Ordering::Relaxed);
                    shared.counts.missing_tokens.fetch_add(missing, Ordering::Relaxed);
                }
                if let Err(why) = note_payment(shared, machine, &counters) {
                    machine.broken = Some(why);
                }
            }
        }
    }

    /// The last step of a request's task: with it the proxy is told what is claimed.
    pub(crate) fn end(
        &self,
        shared: &Shared,
        request: [u8; 32],
        claimed: u64,
        step: impl FnOnce(&mut WorkerSession, Time),
    ) {
        let mut machine = self.lock();
        step(&mut machine.session, shared.now());
        machine.claims.note(request, claimed);
        machine.running.remove(&request);
        drop(machine);
        self.wake.notify_one();
    }
}

/// Compares what this proxy shows with what it showed before.
fn compare(shared: &Shared, machine: &mut Machine, terms: &ProxyTerms, now: Time) -> Result<(), String> {
    let channel = shared.channels.at(terms, &machine.root, &shared.config.owner)?;
    if let Some(why) = channel.refusal() {
        return Err(why);
    }
    let known = channel.books().counters;
    if let Some(settlement) = &shared.settlement {
        settlement.link_up(channel.terms.contract);
    }
    machine.channel = Some(channel);
    machine.session.compare(known, now).map_err(|violation| violation.to_string())
}

/// Checks what a proxy says it owes us, and keeps it.
fn note_payment(shared: &Shared, machine: &mut Machine, counters: &PaymentCounters) -> Result<(), String> {
    let Some(channel) = &machine.channel else { return Ok(()) };
    let mut order = None;
    if let Some(signed) = &counters.signed
        && machine.verified.as_ref() != Some(signed)
    {
        order = Some(channel.terms.verify(signed)?);
        machine.verified = Some(signed.clone());
    }
    shared.channels.note(channel, counters, order)?;
    channel.refusal().map_or(Ok(()), Err)
}

struct Wire {
    shared: Arc<Shared>,
    link: Arc<Link>,
}

impl Endpoint for Wire {
    fn receive(&self, received: &mut BytesMut) -> Result<(), String> {
        let outcome = self.link.run_shared(&self.shared, |session, now| session.receive(received, now));
        outcome.map_err(|violation| violation.to_string())
    }

    fn transmit(&self, capacity: usize) -> Option<Bytes> {
        let mut machine = self.link.lock();
        let bytes = machine.session.transmit(capacity);
        let now = self.shared.now();
        while let Some(event) = machine.session.poll_event() {
            self.link.on_event(&self.shared, &mut machine, event, now);
        }
        bytes
    }
}
