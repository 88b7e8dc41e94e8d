//! What breaks during the storm, and what must hold after it.

use crate::checks::Breach;
use crate::engine::WorkerNode;
use crate::wire::{Quality, Way};
use crate::world::{Event, Node, Step, World};

impl World<'_> {
    pub(crate) fn fault(&mut self) -> Step {
        if self.calm {
            return Ok(());
        }
        self.after(200, 6_000, Event::Fault);
        let open: Vec<_> = self
            .wires
            .iter()
            .filter(|(_, wire)| wire.node_end && wire.proxy_end)
            .map(|(&id, _)| id)
            .collect();
        let nodes = self.nodes();
        let node = nodes[self.rng.size(0, nodes.len() - 1)];
        let wire = if open.is_empty() { None } else { Some(open[self.rng.size(0, open.len() - 1)]) };
        match (self.rng.range(0, 9), wire) {
            (0..=2, Some(id)) => self.cut(id),
            (3..=5, Some(id)) => {
                let until = self.now.plus(self.rng.millis(50, 9_000));
                if let Some(wire) = self.wires.get_mut(&id) {
                    wire.disturbed = true;
                    wire.stalled_until = until;
                }
                self.tell(&format!("connection {id} stalls"));
            }
            (6..=7, _) => self.crash_node(node)?,
            (8, _) if self.proxy.is_some() => self.crash_proxy(),
            _ => self.chain_moves()?,
        }
        Ok(())
    }

    /// Cuts a connection; its ends learn of it soon, late, or by silence alone.
    pub(crate) fn cut(&mut self, id: u64) {
        self.summary.cuts += 1;
        self.tell(&format!("connection {id} is cut"));
        if let Some(wire) = self.wires.get_mut(&id) {
            wire.cut(&mut self.rng);
        }
        for way in Way::BOTH {
            match self.rng.range(0, 3) {
                0 => {}
                1 => self.after(1_000, 30_000, Event::EndLost { wire: id, way }),
                _ => self.after(0, 300, Event::EndLost { wire: id, way }),
            }
        }
    }

    pub(crate) fn crash_node(&mut self, node: Node) -> Step {
        let wire = match node {
            Node::Client(client) => self.crash_client(client)?,
            Node::Worker(worker) => self.workers[worker].crash(),
            Node::Proxy => return Ok(()),
        };
        self.summary.crashes += 1;
        self.tell(&format!("{node:?} crashes"));
        if let Some(id) = wire {
            if let Some(wire) = self.wires.get_mut(&id) {
                wire.node_end = false;
                wire.cut(&mut self.rng);
            }
            self.after(0, 500, Event::EndLost { wire: id, way: Way::ToProxy });
        }
        self.after(100, 5_000, Event::Restart(node));
        Ok(())
    }

    pub(crate) fn restart(&mut self, node: Node) {
        self.tell(&format!("{node:?} starts"));
        match node {
            Node::Client(client) => self.clients[client].up = true,
            Node::Worker(worker) => self.workers[worker].up = true,
            Node::Proxy => {}
        }
        self.dial(node);
    }

    pub(crate) fn heal(&mut self) -> Step {
        self.tell("the storm is over");
        self.calm = true;
        let now = self.now;
        for wire in self.wires.values_mut() {
            wire.stalled_until = now;
            wire.quality = Quality::GOOD;
        }
        for worker in 0..self.workers.len() {
            self.workers[worker].resume();
            self.after_worker(worker)?;
        }
        Ok(())
    }

    pub(crate) fn drained(&self) -> bool {
        let contract = self.network.contract();
        let clients = self
            .clients
            .iter()
            .all(|client| client.is_with(&contract) && !client.leaving && client.calls.is_empty());
        let connected = self.fingerprints();
        let chosen = self.clients.iter().all(|client| client.has_chosen(&connected));
        let workers = self.workers.iter().all(|worker| worker.is_idle() && worker.is_with(&contract));
        let proxy = self.proxy.as_ref().is_some_and(|proxy| {
            let ledger = proxy.ledger();
            let workers = proxy.workers().iter().filter(|worker| worker.ready).count() == self.workers.len();
            workers
                && proxy.in_flight() == 0
                && ledger.reservations() == 0
                && ledger.durable() == ledger.position()
        });
        // Connections whose one end still has to notice hold nothing any more, but must go, too.
        let wires = self
            .wires
            .values()
            .all(|wire| wire.node_end == wire.proxy_end && !(wire.broken && wire.node_end));
        clients && chosen && workers && proxy && wires
    }

    pub(crate) fn leftovers(&self) -> String {
        let proxy = self.proxy.as_ref().map(|proxy| {
            let ledger = proxy.ledger();
            (proxy.in_flight(), ledger.reservations(), ledger.position() - ledger.durable())
        });
        let clients: Vec<_> =
            self.clients.iter().map(|client| (client.is_ready(), client.calls.len())).collect();
        let workers: Vec<_> = self.workers.iter().map(WorkerNode::is_idle).collect();
        format!(
            "proxy (requests, reservations, records) {proxy:?}, clients (ready, calls) {clients:?}, idle workers {workers:?}"
        )
    }

    pub(crate) fn final_checks(&mut self) -> Step {
        let Some(proxy) = &self.proxy else { return Err(Breach("the proxy is down".into())) };
        let ledger = proxy.ledger();
        if proxy.in_flight() > 0 || ledger.reservations() > 0 {
            return Err(Breach(format!("left after the end: {}", self.leftovers())));
        }
        self.check_closed()?;
        let Some(proxy) = &self.proxy else { return Err(Breach("the proxy is down".into())) };
        let ledger = proxy.ledger();
        for client in &self.clients {
            let account = client.account();
            let charged =
                ledger.clients().find(|(id, _)| Some(id.0) == account).map_or(0, |(_, it)| it.charged.0);
            if client.counters.db() != charged
                || self.checks.durable_totals(&account.unwrap_or_default()).0 != charged
            {
                return Err(Breach(format!(
                    "a client knows of {} tokens where {charged} were charged",
                    client.counters.db()
                )));
            }
            for call in client.answered() {
                self.checks.acknowledged(&call)?;
            }
        }
        let mut seen: Vec<_> =
            proxy.workers().into_iter().map(|it| (it.model, it.coefficient, it.ready)).collect();
        let mut offered: Vec<_> = self.workers.iter().map(WorkerNode::offer).collect();
        seen.sort();
        offered.sort();
        if seen != offered {
            return Err(Breach(format!("the proxy sees the offers {seen:?}, but they are {offered:?}")));
        }
        for worker in &self.workers {
            let account = worker.account();
            let earned =
                ledger.workers().find(|(id, _)| Some(id.0) == account).map_or(0, |(_, it)| it.earned.0);
            if worker.counters.db() != earned {
                return Err(Breach(format!(
                    "a worker knows of {} tokens where it earned {earned}",
                    worker.counters.db()
                )));
            }
        }
        Ok(())
    }
}
