//! The connections at work: dialling, sending, arriving, and what follows from it.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use cocoon_session::Violation;
use cocoon_session::proxy::{Attested, ConnId, EvidenceTooLarge};

use crate::caller::ClientNode;
use crate::checks::Breach;
use crate::engine::WorkerNode;
use crate::wire::{Quality, Way, Wire};
use crate::world::{Event, Node, Step, World};

/// What the worker on a wire showed.
fn attested(wire: u64) -> Result<Attested, EvidenceTooLarge> {
    Attested::new(Bytes::from(wire.to_le_bytes().to_vec()), Bytes::new())
}

impl World<'_> {
    /// The certificates of the workers that are connected.
    pub(crate) fn fingerprints(&self) -> BTreeSet<[u8; 32]> {
        let up = self.wires.iter().filter(|(_, wire)| wire.proxy_end && matches!(wire.node, Node::Worker(_)));
        up.filter_map(|(&id, _)| Some(*attested(id).ok()?.fingerprint())).collect()
    }

    pub(crate) fn dial(&mut self, node: Node) {
        let wanted = match node {
            Node::Client(client) => self.clients.get(client).is_some_and(ClientNode::wants_connection),
            Node::Worker(worker) => self.workers.get(worker).is_some_and(WorkerNode::wants_connection),
            Node::Proxy => false,
        };
        if !wanted {
            return;
        }
        let now = self.now;
        let quality = if self.calm { Quality::GOOD } else { Quality::random(&mut self.rng) };
        let Some(proxy) = &mut self.proxy else {
            self.after(100, 2_000, Event::Dial(node));
            return;
        };
        let id = self.next_wire;
        self.next_wire += 1;
        match node {
            Node::Client(_) => proxy.add_client(ConnId(id), now),
            // Each time with another certificate.
            _ => {
                // Eight bytes are no more than there may be.
                if let Ok(attested) = attested(id) {
                    proxy.add_worker(ConnId(id), attested, now);
                }
            }
        }
        let mut wire = Wire::new(node, quality, now);
        let leaves = matches!(node, Node::Client(client) if self.clients[client].leaving);
        wire.excused = leaves || self.unlearned > 0;
        self.wires.insert(id, wire);
        let random = self.rng.next_u64();
        match node {
            Node::Client(client) => self.clients[client].connected(id, now, random),
            Node::Worker(worker) => self.workers[worker].connected(id, now, random),
            Node::Proxy => {}
        }
        self.tell(&format!("{node:?} dials: connection {id}"));
    }

    /// Lets the sender of a direction send what there is room for.
    pub(crate) fn pump(&mut self, id: u64, way: Way) -> Step {
        let now = self.now;
        loop {
            let Some(wire) = self.wires.get_mut(&id) else { return Ok(()) };
            let window = wire.quality.window;
            let room = wire.lane(way).room(window);
            let sends = if way == Way::ToProxy { wire.node_end } else { wire.proxy_end };
            if room == 0 || !sends {
                return Ok(());
            }
            let bytes = match (way, wire.node) {
                (Way::FromProxy, _) => self.proxy.as_mut().and_then(|proxy| proxy.transmit(ConnId(id), room)),
                (Way::ToProxy, Node::Client(client)) => self.clients[client].transmit(room),
                (Way::ToProxy, Node::Worker(worker)) => self.workers[worker].transmit(room),
                (Way::ToProxy, Node::Proxy) => None,
            };
            let Some(bytes) = bytes else { break };
            if let Some(wire) = self.wires.get_mut(&id) {
                wire.lane(way).offer(bytes);
                let quality = wire.quality;
                let arrivals = wire.lane(way).depart(quality, now, &mut self.rng, false);
                for arrival in arrivals {
                    self.at(arrival, Event::Arrive { wire: id, way });
                }
            }
        }
        Ok(())
    }

    /// Sends everything that is left, without regard to room: the sender is about to close.
    pub(crate) fn flush(&mut self, id: u64, way: Way) {
        let now = self.now;
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let quality = wire.quality;
        let mut arrivals = wire.lane(way).depart(quality, now, &mut self.rng, true);
        if way == Way::FromProxy
            && let Some(bytes) = self.proxy.as_mut().and_then(|proxy| proxy.transmit(ConnId(id), 1))
        {
            wire.lane(way).offer(bytes);
            arrivals.extend(wire.lane(way).depart(quality, now, &mut self.rng, true));
        }
        for arrival in arrivals {
            self.at(arrival, Event::Arrive { wire: id, way });
        }
    }

    pub(crate) fn arrive(&mut self, id: u64, way: Way) -> Step {
        let now = self.now;
        let Some(wire) = self.wires.get_mut(&id) else { return Ok(()) };
        if wire.stalled_until > now {
            let later = wire.stalled_until;
            self.at(later, Event::Arrive { wire: id, way });
            return Ok(());
        }
        if !wire.lane(way).arrive() {
            return Ok(());
        }
        let quality = wire.quality;
        let arrivals = wire.lane(way).depart(quality, now, &mut self.rng, false);
        let (node, node_end, proxy_end) = (wire.node, wire.node_end, wire.proxy_end);
        let mut received = std::mem::take(&mut wire.lane(way).received);
        for arrival in arrivals {
            self.at(arrival, Event::Arrive { wire: id, way });
        }
        let result = match way {
            Way::ToProxy if !proxy_end => return Ok(()),
            Way::FromProxy if !node_end => return Ok(()),
            Way::ToProxy => match &mut self.proxy {
                Some(proxy) => proxy.receive(ConnId(id), &mut received, now),
                None => return Ok(()),
            },
            Way::FromProxy => match node {
                Node::Client(client) => self.clients[client].receive(&mut received, now),
                Node::Worker(worker) => self.workers[worker].receive(&mut received, now),
                Node::Proxy => Ok(()),
            },
        };
        if let Some(wire) = self.wires.get_mut(&id) {
            wire.lane(way).received = received;
        }
        self.react(id, way, result)?;
        // There is room again for the sender.
        self.pump(id, way)
    }

    /// Does what follows from input to the receiver of a direction.
    pub(crate) fn react(&mut self, id: u64, way: Way, result: Result<(), Violation>) -> Step {
        let node = self.wires.get(&id).map(|wire| wire.node);
        if way == Way::ToProxy {
            if let Err(violation) = result {
                self.judge(id, "proxy", &violation)?;
                self.flush(id, Way::FromProxy);
                self.lose_proxy_end(id)?;
            }
            return self.after_proxy();
        }
        self.after_node(node)?;
        match result {
            Ok(()) => Ok(()),
            Err(violation) => self.fail_node(id, &violation),
        }
    }

    /// Does what a node wants done. Call after everything that it takes in.
    pub(crate) fn after_node(&mut self, node: Option<Node>) -> Step {
        match node {
            Some(Node::Client(client)) => self.after_client(client),
            Some(Node::Worker(worker)) => self.after_worker(worker),
            _ => Ok(()),
        }
    }

    /// A node closes its connection because of a violation.
    pub(crate) fn fail_node(&mut self, id: u64, violation: &Violation) -> Step {
        self.judge(id, "node", violation)?;
        self.flush(id, Way::ToProxy);
        self.lose_node_end(id, &violation.to_string())
    }

    /// Between honest nodes nothing but silence of a bad connection ends a connection, unless the chain has changed.
    pub(crate) fn judge(&mut self, id: u64, who: &str, violation: &Violation) -> Step {
        self.tell(&format!("{who} closes connection {id}: {violation}"));
        let silence = matches!(violation, Violation::Silent(_) | Violation::NoAnswer(_));
        if silence && self.wires.get(&id).is_none_or(|wire| wire.disturbed) {
            return Ok(());
        }
        let refused = matches!(violation, Violation::Mismatch(_) | Violation::Refused { .. });
        if refused && self.wires.get(&id).is_none_or(|wire| wire.excused) {
            return Ok(());
        }
        Err(Breach(format!("the {who}'s end of connection {id} saw a violation: {violation}")))
    }

    pub(crate) fn lose_proxy_end(&mut self, id: u64) -> Step {
        let now = self.now;
        let Some(wire) = self.wires.get_mut(&id) else { return Ok(()) };
        if !std::mem::replace(&mut wire.proxy_end, false) {
            return Ok(());
        }
        let told = wire.lane(Way::FromProxy).last_arrival().max(now).plus(Duration::from_millis(1));
        self.at(told, Event::EndLost { wire: id, way: Way::FromProxy });
        if let Some(proxy) = &mut self.proxy {
            proxy.closed(ConnId(id), now);
        }
        self.after_proxy()
    }

    pub(crate) fn lose_node_end(&mut self, id: u64, why: &str) -> Step {
        let now = self.now;
        let Some(wire) = self.wires.get_mut(&id) else { return Ok(()) };
        if !std::mem::replace(&mut wire.node_end, false) {
            return Ok(());
        }
        let told = wire.lane(Way::ToProxy).last_arrival().max(now).plus(Duration::from_millis(1));
        let node = wire.node;
        self.at(told, Event::EndLost { wire: id, way: Way::ToProxy });
        self.tell(&format!("{node:?} lost connection {id}: {why}"));
        self.after(50, 3_000, Event::Dial(node));
        match node {
            Node::Client(client) => self.client_lost(client, why),
            Node::Worker(worker) => {
                self.workers[worker].lost();
                Ok(())
            }
            Node::Proxy => Ok(()),
        }
    }
}
