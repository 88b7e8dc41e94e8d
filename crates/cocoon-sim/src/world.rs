//! The scheduler, the connections, and the proxy with its log.

use std::collections::BTreeMap;
use std::time::Duration;

use cocoon_ledger::{Change, Record};
use cocoon_session::Time;
use cocoon_session::proxy::{ConnId, Proxy, ProxyEvent};
use cocoon_ton::{Address, SignedPayment};

use crate::caller::ClientNode;
use crate::checks::{Breach, CallId, Checks};
use crate::engine::WorkerNode;
use crate::network::Network;
use crate::rng::Rng;
use crate::store::Store;
use crate::wire::{Way, Wire};
use crate::{Options, Sabotage, Summary};

/// When histories begin.
const EPOCH: Time = Time(1_800_000_000_000_000);
/// What a call may outlive its deadline by: the clock of a node ticks at least every 100 ms.
const SLACK: Duration = Duration::from_millis(300);
/// Everything must have drained this long after the storm: the longest call, then the wait for a last word, then the
/// longest silence that a proxy bears.
const DRAIN: Duration = Duration::from_secs(200);
/// A worker that says that it is full gets no request for so long, at most.
const REST: Duration = Duration::from_secs(33);
/// Counters reach everybody within this: the status is asked for every 15 s.
const SETTLE: Duration = Duration::from_secs(40);

/// A node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Proxy,
    Client(usize),
    Worker(usize),
}

/// Something that is due.
#[derive(Debug)]
pub(crate) enum Event {
    /// Bytes reach the end of a connection.
    Arrive { wire: u64, way: Way },
    /// The node (`FromProxy`) or the proxy (`ToProxy`) learns that its connection is gone.
    EndLost { wire: u64, way: Way },
    /// A node's clock.
    Tick(Node),
    /// The log is durable up to here.
    Commit { life: u64, position: u64 },
    /// The chain answers the proxy about a client.
    Chain { life: u64, conn: ConnId, contract: Address },
    /// A registration reaches the chain.
    Registered { client: usize, contract: Address, nonce: i64 },
    /// The proxy's driver goes on with a client whose contract is closing on chain.
    Wind { client: usize, contract: Address },
    /// A client that wants to leave asks the proxy for its refund.
    AskRefund(usize),
    /// A node sees the newest root configuration.
    Root(Node),
    /// A node connects.
    Dial(Node),
    /// A node starts again.
    Restart(Node),
    /// A client's callers do something.
    Act(usize),
    /// A caller reads what it received.
    Consume { client: usize, call: CallId, bytes: usize },
    /// An engine has read that much of a request's body.
    BodyRead { worker: usize, life: u64, request: [u8; 32], bytes: usize },
    /// An engine goes on with a request.
    Engine { worker: usize, life: u64, request: [u8; 32] },
    /// A worker's owner changes price or takes a break.
    Manage(usize),
    /// Something breaks.
    Fault,
}

pub(crate) struct World<'a> {
    pub(crate) options: Options,
    pub(crate) rng: Rng,
    pub(crate) now: Time,
    pub(crate) network: Network,
    pub(crate) wires: BTreeMap<u64, Wire>,
    pub(crate) clients: Vec<ClientNode>,
    pub(crate) workers: Vec<WorkerNode>,
    pub(crate) checks: Checks,
    pub(crate) summary: Summary,
    /// The storm is over.
    pub(crate) calm: bool,
    pub(crate) queue: BTreeMap<(Time, u64, u64), Event>,
    pub(crate) scheduled: u64,
    pub(crate) next_wire: u64,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) proxy_life: u64,
    pub(crate) store: Store,
    /// How many nodes have not seen the newest parameters.
    pub(crate) unlearned: usize,
    /// Contracts of clients that were closed, and the orders that close them.
    pub(crate) closed: BTreeMap<Address, SignedPayment>,
    pub(crate) trace: Box<dyn FnMut(&str) + 'a>,
}

pub(crate) type Step = Result<(), Breach>;

impl<'a> World<'a> {
    pub(crate) fn new(options: Options, trace: Box<dyn FnMut(&str) + 'a>) -> Result<Self, Breach> {
        let mut rng = Rng::new(options.seed);
        let network = Network::random(&mut rng)?;
        let clients = (0..rng.range(1, 3)).map(|_| ClientNode::random(&network, &mut rng)).collect();
        let workers = (0..rng.range(1, 4)).map(|_| WorkerNode::random(&network, &mut rng)).collect();
        let mut world = Self {
            options,
            rng,
            now: EPOCH,
            network,
            wires: BTreeMap::new(),
            clients,
            workers,
            checks: Checks::default(),
            summary: Summary::default(),
            calm: false,
            queue: BTreeMap::new(),
            scheduled: 0,
            next_wire: 1,
            proxy: None,
            proxy_life: 0,
            store: Store::default(),
            unlearned: 0,
            closed: BTreeMap::new(),
            trace,
        };
        world.start_proxy()?;
        for node in world.nodes() {
            world.after(10, 500, Event::Dial(node));
            world.after(10, 100, Event::Tick(node));
            match node {
                Node::Client(client) => world.after(500, 1500, Event::Act(client)),
                Node::Worker(worker) => world.after(2_000, 20_000, Event::Manage(worker)),
                Node::Proxy => {}
            }
        }
        world.after(10, 100, Event::Tick(Node::Proxy));
        world.after(500, 8_000, Event::Fault);
        Ok(world)
    }

    pub(crate) fn nodes(&self) -> Vec<Node> {
        let clients = (0..self.clients.len()).map(Node::Client);
        clients.chain((0..self.workers.len()).map(Node::Worker)).collect()
    }

    pub(crate) fn tell(&mut self, what: &str) {
        let since = self.now.since(EPOCH);
        (self.trace)(&format!("{:>10.3} {what}", since.as_secs_f64()));
    }

    /// Schedules an event; what is due at the same moment comes in random order.
    pub(crate) fn at(&mut self, time: Time, event: Event) {
        let tie = self.rng.next_u64();
        self.scheduled += 1;
        self.queue.insert((time, tie, self.scheduled), event);
    }

    pub(crate) fn after(&mut self, low_ms: u64, high_ms: u64, event: Event) {
        let time = self.now.plus(self.rng.millis(low_ms, high_ms));
        self.at(time, event);
    }

    /// The whole history: storm, calm, and a last request of every client.
    pub(crate) fn run(mut self) -> Result<Summary, Breach> {
        let result = self.history();
        self.summary.seconds = self.now.since(EPOCH).as_secs();
        match result {
            Ok(()) => Ok(self.summary),
            Err(Breach(what)) => {
                self.tell(&format!("BREACH {what}"));
                Err(Breach(format!("at event {}, {} s: {what}", self.summary.events, self.summary.seconds)))
            }
        }
    }

    pub(crate) fn history(&mut self) -> Step {
        while self.summary.events < self.options.steps {
            self.step()?;
        }
        self.heal()?;
        let limit = self.now.plus(DRAIN);
        while !self.drained() {
            if self.now > limit {
                return Err(Breach(format!("not drained after the storm: {}", self.leftovers())));
            }
            self.step()?;
        }
        self.pass(REST)?;
        for client in 0..self.clients.len() {
            self.last_call(client)?;
        }
        self.pass(SETTLE)?;
        self.final_checks()
    }

    fn pass(&mut self, time: Duration) -> Step {
        let end = self.now.plus(time);
        while self.now < end {
            self.step()?;
        }
        Ok(())
    }

    pub(crate) fn step(&mut self) -> Step {
        let Some(((time, _, _), event)) = self.queue.pop_first() else {
            return Err(Breach("nothing is due any more".into()));
        };
        self.now = self.now.max(time);
        self.summary.events += 1;
        match event {
            Event::Arrive { wire, way } => self.arrive(wire, way)?,
            Event::EndLost { wire, way: Way::ToProxy } => self.lose_proxy_end(wire)?,
            Event::EndLost { wire, way: Way::FromProxy } => {
                self.lose_node_end(wire, "closed by the proxy")?
            }
            Event::Tick(node) => {
                self.tick(node)?;
                self.after(20, 100, Event::Tick(node));
            }
            Event::Commit { life, position } => self.commit(life, position)?,
            Event::Chain { life, conn, contract } => self.chain_answers(life, conn, &contract)?,
            Event::Registered { client, contract, nonce } => self.registered(client, &contract, nonce)?,
            Event::Wind { client, contract } => self.wind(client, contract)?,
            Event::AskRefund(client) => self.ask_refund(client)?,
            Event::Root(node) => self.learn_root(node)?,
            Event::Dial(node) => self.dial(node),
            Event::Restart(Node::Proxy) => self.start_proxy()?,
            Event::Restart(node) => self.restart(node),
            Event::Act(client) => self.act(client)?,
            Event::Consume { client, call, bytes } => self.consume(client, call, bytes)?,
            Event::BodyRead { worker, life, request, bytes } => {
                self.body_read(worker, life, request, bytes)?;
            }
            Event::Engine { worker, life, request } => self.engine(worker, life, request)?,
            Event::Manage(worker) => self.manage(worker)?,
            Event::Fault => self.fault()?,
        }
        self.checks.overdue(self.now, SLACK)?;
        match &self.proxy {
            Some(proxy) => self.checks.books(proxy.ledger()),
            None => Ok(()),
        }
    }

    pub(crate) fn tick(&mut self, node: Node) -> Step {
        let now = self.now;
        match node {
            Node::Proxy => {
                if let Some(proxy) = &mut self.proxy {
                    proxy.on_time(now);
                }
                self.after_proxy()
            }
            Node::Client(client) => self.client_tick(client),
            Node::Worker(worker) => self.worker_tick(worker),
        }
    }

    // The proxy.

    pub(crate) fn start_proxy(&mut self) -> Step {
        if self.proxy.is_some() {
            return Ok(());
        }
        self.proxy_life += 1;
        self.tell("proxy starts");
        let settings = self.network.proxy(&mut self.rng);
        let (snapshot, records) = self.store.contents();
        let proxy = Proxy::restore(settings, snapshot, records).map_err(|why| Breach(why.to_string()))?;
        self.proxy = Some(proxy);
        Ok(())
    }

    pub(crate) fn crash_proxy(&mut self) {
        self.tell("proxy crashes");
        self.summary.crashes += 1;
        self.proxy = None;
        for record in self.store.crash(&mut self.rng) {
            self.checks.durable(&record);
        }
        if self.options.sabotage == Some(Sabotage::ForgetDurable) {
            self.store = Store::default();
        }
        let open: Vec<_> = self.wires.iter().filter(|(_, wire)| wire.proxy_end).map(|(&id, _)| id).collect();
        for id in open {
            if let Some(wire) = self.wires.get_mut(&id) {
                wire.proxy_end = false;
                wire.cut(&mut self.rng);
            }
            self.after(0, 500, Event::EndLost { wire: id, way: Way::FromProxy });
        }
        self.after(100, 6_000, Event::Restart(Node::Proxy));
    }

    /// Does what the proxy wants done. Call after everything that it takes in.
    pub(crate) fn after_proxy(&mut self) -> Step {
        while let Some(event) = self.proxy.as_mut().and_then(Proxy::poll_event) {
            self.on_proxy_event(event)?;
        }
        while let Some((ConnId(wire), violation)) = self.proxy.as_mut().and_then(Proxy::poll_wake) {
            match violation {
                None => self.pump(wire, Way::FromProxy)?,
                Some(violation) => {
                    self.judge(wire, "proxy", &violation)?;
                    self.flush(wire, Way::FromProxy);
                    self.lose_proxy_end(wire)?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn on_proxy_event(&mut self, event: ProxyEvent) -> Step {
        let life = self.proxy_life;
        match event {
            ProxyEvent::FindClient { conn, contract } => {
                self.after(1, 300, Event::Chain { life, conn, contract })
            }
            ProxyEvent::Persist(records) => self.persist(&records)?,
            ProxyEvent::Ended(end) => {
                let short = crate::checks::short(&end.request);
                self.tell(&format!("proxy ends {short}: {:?}, {} tokens", end.failure, end.charged));
                self.check_end(&end)?;
            }
            ProxyEvent::WorkerReady { conn, .. } => self.tell(&format!("worker on {} is ready", conn.0)),
            ProxyEvent::ClientReady { conn } => self.tell(&format!("client on {} is ready", conn.0)),
        }
        Ok(())
    }

    pub(crate) fn persist(&mut self, records: &[Record]) -> Step {
        for record in records {
            self.checks.recorded(record)?;
            if matches!(record.change, Change::Charge { .. }) {
                self.summary.charges += 1;
                if self.options.sabotage == Some(Sabotage::DoubleCharge) {
                    self.checks.recorded(record)?;
                }
            }
        }
        self.store.append(records)?;
        let (life, position) = (self.proxy_life, self.store.appended());
        let slowest = if self.rng.chance(5) { 3_000 } else { 40 };
        self.after(0, slowest, Event::Commit { life, position });
        Ok(())
    }

    pub(crate) fn commit(&mut self, life: u64, position: u64) -> Step {
        if life != self.proxy_life || self.proxy.is_none() {
            return Ok(());
        }
        for record in self.store.commit(position) {
            self.checks.durable(&record);
        }
        if self.rng.chance(10) {
            self.store.compact()?;
        }
        if let Some(proxy) = &mut self.proxy {
            proxy.persisted(position).map_err(|why| Breach(why.to_string()))?;
        }
        self.after_proxy()
    }

    pub(crate) fn chain_answers(&mut self, life: u64, conn: ConnId, contract: &Address) -> Step {
        if life != self.proxy_life {
            return Ok(());
        }
        let client = self.wires.get(&conn.0).and_then(|wire| match wire.node {
            Node::Client(client) => self.clients.get(client),
            _ => None,
        });
        let state = client.filter(|client| client.on_chain).map(|client| client.chain_state(contract));
        if let Some(proxy) = &mut self.proxy {
            proxy.client_found(conn, state);
        }
        self.after_proxy()
    }

    pub(crate) fn registered(&mut self, client: usize, contract: &Address, nonce: i64) -> Step {
        let Some(node) = self.clients.get_mut(client) else { return Ok(()) };
        node.on_chain = true;
        node.right_secret = true;
        let state = node.chain_state(contract);
        if let Some(proxy) = &mut self.proxy {
            proxy.client_registered(contract, nonce, state);
        }
        self.after_proxy()
    }
}
