//! What happens on chain: charges arrive there, clients leave with what is left of their coins, and the network's
//! parameters change, by which all contracts get new addresses.

use bytes::Bytes;
use cocoon_ledger::ClientId;
use cocoon_session::proxy::CloseProgress;
use cocoon_ton::contracts::ContractStatus;
use cocoon_ton::{Address, OrderKind, SignedPayment};

use crate::Sabotage;
use crate::caller::ClientNode;
use crate::checks::Breach;
use crate::world::{Event, Node, Step, World};

impl World<'_> {
    /// Something happens on chain.
    pub(crate) fn chain_moves(&mut self) -> Step {
        let client = self.rng.size(0, self.clients.len() - 1);
        match self.rng.range(0, 3) {
            0 => self.leave(client),
            1 => self.change_params(),
            _ => self.charge_on_chain(client),
        }
    }

    /// The newest charge of a client reaches the chain, and the proxy sees that.
    fn charge_on_chain(&mut self, client: usize) -> Step {
        let (Some(contract), Some(proxy)) = (self.clients[client].contract(), &mut self.proxy) else {
            return Ok(());
        };
        // A proxy that knows less than the chain serves nobody, so that nothing else would be noticed of its loss.
        if self.options.sabotage == Some(Sabotage::ForgetDurable) {
            return Ok(());
        }
        let Some(order) = proxy.charge_order(&contract) else { return Ok(()) };
        let tokens = self.verified(&order, OrderKind::ChargeClient, &contract)?;
        let (durable, _) = self.checks.durable_totals(contract.hash());
        if tokens > durable {
            return Err(Breach(format!("{tokens} tokens are charged on chain where {durable} are durable")));
        }
        let node = &mut self.clients[client];
        let used = node.tokens_used.entry(contract).or_default();
        *used = tokens.max(*used);
        let state = node.chain_state(&contract);
        self.summary.settled += 1;
        if let Some(proxy) = &mut self.proxy {
            proxy.client_seen(&contract, state);
        }
        self.after_proxy()
    }

    fn verified(&self, order: &SignedPayment, kind: OrderKind, contract: &Address) -> Result<u64, Breach> {
        order.verify(&self.network.key(), kind, contract).map_err(|why| Breach(why.to_string()))
    }

    /// A client's owner wants out: through the chain, or by asking the proxy.
    fn leave(&mut self, client: usize) -> Step {
        let by_chain = self.rng.chance(50);
        let node = &mut self.clients[client];
        let Some(contract) = node.contract().filter(|_| !node.leaving && node.up) else { return Ok(()) };
        node.leaving = true;
        for wire in self.wires.values_mut().filter(|wire| wire.node == Node::Client(client)) {
            wire.excused = true;
        }
        self.tell(&format!("client {client} leaves"));
        if by_chain {
            self.clients[client].status = ContractStatus::Closing;
            self.after(10, 3_000, Event::Wind { client, contract });
        } else {
            self.after(10, 3_000, Event::AskRefund(client));
        }
        Ok(())
    }

    /// The proxy's driver sees the closing contract again, and has the account closed if it can be.
    pub(crate) fn wind(&mut self, client: usize, contract: Address) -> Step {
        let state = self.clients[client].chain_state(&contract);
        let Some(proxy) = &mut self.proxy else {
            self.after(500, 2_000, Event::Wind { client, contract });
            return Ok(());
        };
        proxy.client_seen(&contract, state);
        let progress = proxy.close_client(&contract);
        self.after_proxy()?;
        match progress {
            CloseProgress::Done(order) => self.left(client, contract, order),
            CloseProgress::Busy | CloseProgress::Recorded => {
                self.after(100, 2_000, Event::Wind { client, contract });
                Ok(())
            }
        }
    }

    pub(crate) fn ask_refund(&mut self, client: usize) -> Step {
        if !self.clients[client].leaving {
            return Ok(());
        }
        let now = self.now;
        self.after(500, 3_000, Event::AskRefund(client));
        let Some((wire, session)) = &mut self.clients[client].session else { return Ok(()) };
        let (wire, result) = (*wire, session.request_refund(now));
        self.after_client(client)?;
        result.or_else(|violation| self.fail_node(wire, &violation))
    }

    pub(crate) fn refund_granted(&mut self, client: usize, order: &Bytes) -> Step {
        let order = SignedPayment::parse(order).map_err(|why| Breach(why.to_string()))?;
        match self.clients[client].contract() {
            Some(contract) => self.left(client, contract, order),
            None => Err(Breach("a refund before the handshake".into())),
        }
    }

    /// A client is gone with its coins; its callers go on with another wallet.
    fn left(&mut self, client: usize, contract: Address, order: SignedPayment) -> Step {
        let tokens = self.verified(&order, OrderKind::RefundClient, &contract)?;
        self.checks.closed(ClientId(*contract.hash()), tokens)?;
        self.closed.insert(contract, order);
        if !self.clients[client].leaving {
            return Ok(());
        }
        self.summary.refunds += 1;
        self.tell(&format!("client {client} left after {tokens} tokens"));
        self.crash_node(Node::Client(client))?;
        let mut fresh = ClientNode::random(&self.network, &mut self.rng);
        fresh.up = false;
        self.clients[client] = fresh;
        Ok(())
    }

    /// The chain shows other parameters; the nodes see it one after the other.
    fn change_params(&mut self) -> Step {
        if self.unlearned > 0 {
            return Ok(());
        }
        self.network.change_params()?;
        self.summary.switches += 1;
        self.tell("the parameters change");
        for wire in self.wires.values_mut() {
            wire.excused = true;
        }
        let nodes: Vec<_> = self.nodes().into_iter().chain([Node::Proxy]).collect();
        self.unlearned = nodes.len();
        for node in nodes {
            self.after(0, 5_000, Event::Root(node));
        }
        Ok(())
    }

    pub(crate) fn learn_root(&mut self, node: Node) -> Step {
        let root = self.network.root.clone();
        match node {
            Node::Client(client) => self.clients[client].set_root(root),
            Node::Worker(worker) => self.workers[worker].set_root(root),
            Node::Proxy => {
                if let Some(proxy) = &mut self.proxy {
                    let switched = proxy.set_root(root, crate::network::TARIFF);
                    switched.map_err(|why| Breach(why.to_string()))?;
                }
            }
        }
        self.unlearned = self.unlearned.saturating_sub(1);
        self.after_proxy()
    }

    /// Accounts that were closed stay so, at the same count, whatever crashed since.
    pub(crate) fn check_closed(&mut self) -> Step {
        let closed: Vec<_> = self.closed.iter().map(|(&contract, &order)| (contract, order)).collect();
        for (contract, order) in closed {
            let again = self.proxy.as_mut().map(|proxy| proxy.close_client(&contract));
            if again != Some(CloseProgress::Done(order)) {
                return Err(Breach(format!("the closed contract {contract} gets another order: {again:?}")));
            }
        }
        Ok(())
    }
}
