//! Client nodes, and those who call through them: patient, slow, absent-minded or gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_ledger::{Coefficient, PeerCounters, reservation};
use cocoon_session::client::{ClientEvent, ClientSession, ClientSettings, Submission};
use cocoon_session::proxy::ClientChainState;
use cocoon_session::{
    INITIAL_CREDIT_BYTES, Preference, ProxyTerms, RequestFailure, Time, Violation, WHOLE_BODY_BYTES,
    WorkerList, split_body,
};
use cocoon_ton::contracts::ContractStatus;
use cocoon_ton::{Address, OrderKind, RootConfig};
use cocoon_wire::codec::ByteStr;
use cocoon_wire::tl::http;

use crate::Sabotage;
use crate::checks::{Breach, CallId, short};
use crate::engine::Prompt;
use crate::network::{MODELS, Network, TARIFF};
use crate::rng::Rng;
use crate::world::{Event, Step, World};

/// Calls that a client has open at a time.
const MAX_CALLS: usize = 40;

/// A call that has not ended.
#[derive(Debug)]
pub(crate) struct Call {
    /// The connection that carries it.
    wire: u64,
    /// The answer's status, once its head is there.
    status: Option<i32>,
    /// A node answers, not an engine.
    from_node: bool,
    pub(crate) received: Vec<u8>,
    /// Bytes received and not yet read.
    held: usize,
    /// How long the caller takes to read a piece; `None`: it never does.
    reads_after_ms: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct ClientNode {
    settings: ClientSettings,
    pub(crate) session: Option<(u64, ClientSession)>,
    terms: Option<ProxyTerms>,
    /// What the proxy has shown, as the node saved it.
    pub(crate) counters: PeerCounters,
    pub(crate) calls: BTreeMap<CallId, Call>,
    pub(crate) up: bool,
    /// Whether its contract exists.
    pub(crate) on_chain: bool,
    /// Whether the chain knows the secret that the node has.
    pub(crate) right_secret: bool,
    /// Lifetime funds in nanoton.
    funds: u64,
    /// Tokens charged on chain, by contract.
    pub(crate) tokens_used: BTreeMap<Address, u64>,
    /// The workers that may see its calls on this connection, where it chooses.
    chosen: BTreeSet<[u8; 32]>,
    pub(crate) status: ContractStatus,
    /// Its owner wants its coins back; it then comes back as another client.
    pub(crate) leaving: bool,
    /// Calls answered in full by an engine, with the connection that carried them.
    answered: Vec<(u64, CallId)>,
    /// How the last call ended: whether an engine answered it, and its status.
    last_end: Option<(bool, i32)>,
}

impl ClientNode {
    pub(crate) fn random(network: &Network, rng: &mut Rng) -> Self {
        Self {
            settings: network.client(rng),
            session: None,
            terms: None,
            counters: PeerCounters::default(),
            calls: BTreeMap::new(),
            up: true,
            on_chain: network.trusts_long() || rng.chance(70),
            right_secret: rng.chance(70),
            funds: if rng.chance(80) { 1 << 50 } else { rng.range(0, 20_000_000) },
            tokens_used: BTreeMap::new(),
            chosen: BTreeSet::new(),
            status: ContractStatus::Open,
            leaving: false,
            answered: Vec::new(),
            last_end: None,
        }
    }

    /// What the chain shows of a contract of it. The stake is never smaller than the balance, so it does not bind.
    pub(crate) fn chain_state(&self, contract: &Address) -> ClientChainState {
        let tokens_used = self.tokens_used.get(contract).copied().unwrap_or(0);
        let price = TARIFF.price_per_token.0;
        let balance_nanoton = self.funds.saturating_sub(tokens_used.saturating_mul(price));
        let secret_hash =
            if self.right_secret { self.settings.secret.hash_for_proxy(contract) } else { [0; 32] };
        ClientChainState {
            status: self.status,
            balance_nanoton,
            stake_nanoton: self.funds,
            tokens_used,
            price_per_token_nanoton: price,
            secret_hash,
        }
    }

    /// The contract that the last proxy it was ready with has for it.
    pub(crate) fn contract(&self) -> Option<Address> {
        self.terms.as_ref().map(|terms| terms.pair_contract)
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

    pub(crate) fn is_rich(&self) -> bool {
        self.funds >= 1 << 50
    }

    pub(crate) fn wants_connection(&self) -> bool {
        self.up && self.session.is_none()
    }

    pub(crate) fn connected(&mut self, wire: u64, now: Time, random: u64) {
        self.chosen.clear();
        self.session = Some((wire, ClientSession::new(self.settings.clone(), now, random)));
    }

    pub(crate) fn transmit(&mut self, room: usize) -> Option<Bytes> {
        self.session.as_mut().and_then(|(_, session)| session.transmit(room))
    }

    pub(crate) fn receive(&mut self, received: &mut BytesMut, now: Time) -> Result<(), Violation> {
        self.session.as_mut().map_or(Ok(()), |(_, session)| session.receive(received, now))
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.session.as_ref().is_some_and(|(_, session)| session.terms().is_some())
    }

    /// Whether these workers are the ones that may see its calls, where it chooses.
    pub(crate) fn has_chosen(&self, workers: &BTreeSet<[u8; 32]>) -> bool {
        !self.settings.restrict_workers || self.chosen == *workers
    }

    /// Whether its connection has our extensions.
    pub(crate) fn extended(&self) -> bool {
        self.session.as_ref().and_then(|(_, session)| session.terms()).is_some_and(|terms| terms.extensions)
    }

    /// The client as ledger and log name it.
    pub(crate) fn account(&self) -> Option<[u8; 32]> {
        self.terms.as_ref().map(|terms| *terms.pair_contract.hash())
    }

    /// Calls that an engine answered in full over the connection that is still there.
    pub(crate) fn answered(&self) -> Vec<CallId> {
        let wire = self.session.as_ref().map(|(wire, _)| *wire);
        self.answered.iter().filter(|(on, _)| Some(*on) == wire).map(|(_, id)| *id).collect()
    }
}

impl World<'_> {
    pub(crate) fn client_tick(&mut self, client: usize) -> Step {
        let now = self.now;
        let Some((wire, session)) = &mut self.clients[client].session else { return Ok(()) };
        let (wire, result) = (*wire, session.on_time(now));
        self.after_client(client)?;
        result.or_else(|violation| self.fail_node(wire, &violation))
    }

    pub(crate) fn after_client(&mut self, client: usize) -> Step {
        while let Some(event) =
            self.clients[client].session.as_mut().and_then(|(_, session)| session.poll_event())
        {
            self.on_client_event(client, event)?;
        }
        match &self.clients[client].session {
            Some((wire, _)) => self.pump(*wire, crate::wire::Way::ToProxy),
            None => Ok(()),
        }
    }

    fn on_client_event(&mut self, client: usize, event: ClientEvent) -> Step {
        match event {
            ClientEvent::Ready(terms) => {
                let node = &mut self.clients[client];
                if node.contract().is_some_and(|known| known != terms.pair_contract) {
                    // Another contract has counters of its own.
                    node.counters = PeerCounters::default();
                }
                node.terms = Some(terms);
                node.counters.begin_connection();
                Ok(())
            }
            ClientEvent::RegistrationNeeded { nonce, contract, .. } => {
                self.after(500, 4_000, Event::Registered { client, contract, nonce });
                Ok(())
            }
            ClientEvent::Head { request, head, .. } => self.on_head(client, request, &head),
            ClientEvent::Data { request, data } => self.on_data(client, request, &data),
            ClientEvent::Completed { request, .. } => self.on_completed(client, request),
            ClientEvent::Failed { request, failure, .. } => self.on_failed(client, request, &failure),
            ClientEvent::Payment { request, counters } => {
                if request.is_some() && self.options.sabotage == Some(Sabotage::DropNotices) {
                    return Ok(());
                }
                let node = &mut self.clients[client];
                let Some(terms) = &node.terms else {
                    return Err(Breach("payment before the handshake".into()));
                };
                self.checks.shown(&mut node.counters, &counters, terms, OrderKind::ChargeClient)?;
                request.map_or(Ok(()), |(id, _)| self.checks.client_notice(id))
            }
            ClientEvent::RefundGranted { order } => self.refund_granted(client, &order),
            // It asks again.
            ClientEvent::RefundRejected { .. }
            | ClientEvent::Models(_)
            | ClientEvent::Market(_)
            | ClientEvent::Evidence { .. } => Ok(()),
            ClientEvent::Workers(workers) => self.allow_workers(client, &workers),
        }
    }

    /// A client that chooses its workers takes all that it is told of; the session notices if another one answers.
    fn allow_workers(&mut self, client: usize, workers: &WorkerList) -> Step {
        let (now, node) = (self.now, &mut self.clients[client]);
        if let Some((_, session)) = &mut node.session
            && node.settings.restrict_workers
        {
            node.chosen = workers.keys().copied().collect();
            session.allow_workers(&node.chosen, now).map_err(|error| Breach(error.to_string()))?;
        }
        Ok(())
    }

    fn call(&mut self, client: usize, id: &CallId) -> Result<&mut Call, Breach> {
        self.checks.running(id)?;
        self.clients[client]
            .calls
            .get_mut(id)
            .ok_or_else(|| Breach(format!("an event came for call {}, which another node made", short(id))))
    }

    fn on_head(&mut self, client: usize, id: CallId, head: &http::Response) -> Step {
        let call = self.call(client, &id)?;
        call.from_node = head.headers.iter().any(|header| header.name.as_bytes() == b"X-Cocoon-Error");
        match call.status.replace(head.status_code) {
            None => Ok(()),
            Some(_) => Err(Breach(format!("call {} got two heads", short(&id)))),
        }
    }

    fn on_data(&mut self, client: usize, id: CallId, data: &Bytes) -> Step {
        let corrupt = self.options.sabotage == Some(Sabotage::CorruptAnswers);
        let extended = self.clients[client].extended();
        let call = self.call(client, &id)?;
        if call.status.is_none() {
            return Err(Breach(format!("call {} got a body before its head", short(&id))));
        }
        let start = call.received.len();
        call.received.extend_from_slice(data);
        if corrupt && let Some(byte) = call.received.get_mut(start) {
            *byte = !*byte;
        }
        call.held += data.len();
        let (held, reads_after_ms) = (call.held, call.reads_after_ms);
        if extended && held > INITIAL_CREDIT_BYTES {
            return Err(Breach(format!(
                "call {} holds {held} bytes, more than the credit given",
                short(&id)
            )));
        }
        match reads_after_ms {
            Some(ms) => {
                self.after(0, ms, Event::Consume { client, call: id, bytes: data.len() });
            }
            None if start == 0 => self.summary.held_back += 1,
            None => {}
        }
        Ok(())
    }

    pub(crate) fn consume(&mut self, client: usize, id: CallId, bytes: usize) -> Step {
        let node = &mut self.clients[client];
        let Some(call) = node.calls.get_mut(&id) else { return Ok(()) };
        call.held = call.held.saturating_sub(bytes);
        if let Some((_, session)) = &mut node.session {
            session.consumed(id, bytes);
        }
        self.after_client(client)
    }

    fn on_completed(&mut self, client: usize, id: CallId) -> Step {
        if self.options.sabotage == Some(Sabotage::DropEndings) {
            return Ok(());
        }
        let call = self.call(client, &id)?;
        let (status, from_node, wire) = (call.status, call.from_node, call.wire);
        let received = std::mem::take(&mut call.received);
        let Some(status) = status else {
            return Err(Breach(format!("call {} completed without a head", short(&id))));
        };
        if from_node {
            self.summary.refused += 1;
        } else {
            self.checks.received(&id, &received, true)?;
            self.clients[client].answered.push((wire, id));
            self.summary.completed += 1;
        }
        self.tell(&format!("call {} completed: {status}, {} bytes", short(&id), received.len()));
        self.clients[client].last_end = Some((!from_node, status));
        self.end_call(client, &id)
    }

    fn on_failed(&mut self, client: usize, id: CallId, failure: &RequestFailure) -> Step {
        let call = self.call(client, &id)?;
        let (from_node, received) = (call.from_node, std::mem::take(&mut call.received));
        if !from_node {
            self.checks.received(&id, &received, false)?;
        }
        self.summary.failed += 1;
        self.tell(&format!("call {} failed: {} {}", short(&id), failure.code, failure.message));
        self.clients[client].last_end = Some((false, 0));
        self.end_call(client, &id)
    }

    fn end_call(&mut self, client: usize, id: &CallId) -> Step {
        self.clients[client].calls.remove(id);
        self.checks.ended(id)
    }

    pub(crate) fn client_lost(&mut self, client: usize, why: &str) -> Step {
        let Some((_, session)) = self.clients[client].session.take() else { return Ok(()) };
        for event in session.close(why) {
            self.on_client_event(client, event)?;
        }
        match self.clients[client].calls.keys().next() {
            None => Ok(()),
            Some(id) => Err(Breach(format!("call {} outlived its connection", short(id)))),
        }
    }

    /// The node's process dies, and its callers' calls with it. Gives its connection.
    pub(crate) fn crash_client(&mut self, client: usize) -> Result<Option<u64>, Breach> {
        let node = &mut self.clients[client];
        node.up = false;
        node.counters = saved(node.counters)?;
        let wire = node.session.take().map(|(wire, _)| wire);
        for id in std::mem::take(&mut node.calls).into_keys() {
            self.checks.ended(&id)?;
        }
        Ok(wire)
    }

    /// What callers do now and then.
    pub(crate) fn act(&mut self, client: usize) -> Step {
        if self.calm {
            return Ok(());
        }
        if self.clients[client].leaving && self.rng.chance(70) {
            self.after(20, 1_500, Event::Act(client));
            return Ok(());
        }
        if self.rng.chance(15) {
            self.cancel_one(client)?;
        } else {
            for _ in 0..self.rng.range(1, 3) {
                self.call_once(client)?;
            }
        }
        self.after_client(client)?;
        self.after(20, 1_500, Event::Act(client));
        Ok(())
    }

    fn cancel_one(&mut self, client: usize) -> Step {
        let node = &mut self.clients[client];
        if node.calls.is_empty() {
            return Ok(());
        }
        let chosen = self.rng.size(0, node.calls.len() - 1);
        let Some(id) = node.calls.keys().nth(chosen).copied() else { return Ok(()) };
        if let Some((_, session)) = &mut node.session {
            session.cancel(id);
        }
        self.summary.cancelled += 1;
        self.tell(&format!("call {} is cancelled", short(&id)));
        self.end_call(client, &id)
    }

    fn call_once(&mut self, client: usize) -> Step {
        let rng = &mut self.rng;
        let prompt = Prompt {
            call: rng.bytes32(),
            max_tokens: u32::try_from(rng.range(0, 600)).unwrap_or(0),
            max_coefficient: if rng.chance(85) { 4_000 } else { [1_200, 700, 100][rng.size(0, 2)] },
        };
        let padding = match rng.range(0, 99) {
            0..=4 => rng.size(0, 80_000),
            5..=8 => rng.size(WHOLE_BODY_BYTES, 3 * 1024 * 1024),
            _ => rng.size(0, 1_500),
        };
        let model = match rng.range(0, 29) {
            0 => "sim/none".to_owned(),
            1..=2 => MODELS[rng.size(0, 1)].to_owned(),
            _ => self.workers[rng.size(0, self.workers.len() - 1)].model().to_owned(),
        };
        let timeout = rng.millis(300, 20_000);
        let reads_after_ms = [Some(0), Some(5), Some(400), None][rng.size(0, 3)];
        let garbled = rng.chance(2);
        self.submit(client, &prompt, padding, &model, timeout, reads_after_ms, garbled)
    }

    #[expect(clippy::too_many_arguments, reason = "each is one property of a call")]
    fn submit(
        &mut self,
        client: usize,
        prompt: &Prompt,
        padding: usize,
        model: &str,
        timeout: Duration,
        reads_after_ms: Option<u64>,
        garbled: bool,
    ) -> Step {
        let now = self.now;
        let request = http::Request {
            method: ByteStr::from_static("POST"),
            url: ByteStr::from_static("/v1/chat/completions"),
            http_version: ByteStr::from_static("HTTP/1.1"),
            headers: Vec::new(),
            payload: prompt.encode(padding),
        };
        let (query, body) =
            if garbled { (prompt.encode(padding.min(80_000)), Bytes::new()) } else { split_body(request) };
        let coefficient = Coefficient::new(prompt.max_coefficient).unwrap_or(Coefficient::MAX);
        let bound =
            reservation(prompt.max_tokens.into(), (query.len() + body.len()) as u64, coefficient, &TARIFF)
                .map_or(0, |bound| bound.0);
        let submission = Submission {
            id: prompt.call,
            model: model.split_once('@').map_or(model, |(base, _)| base).to_owned(),
            query,
            body,
            max_coefficient: coefficient.to_wire(),
            max_tokens: i32::try_from(prompt.max_tokens).unwrap_or(i32::MAX),
            timeout,
            enable_debug: self.rng.chance(30),
            needs: 0,
            preference: Preference::Balanced,
            affinity: Vec::new(),
            trace: None,
        };
        let node = &mut self.clients[client];
        let Some((wire, session)) = &mut node.session else { return Ok(()) };
        if node.calls.len() >= MAX_CALLS || session.submit(&submission, now).is_err() {
            return Ok(());
        }
        let call = Call {
            wire: *wire,
            status: None,
            from_node: false,
            received: Vec::new(),
            held: 0,
            reads_after_ms,
        };
        node.calls.insert(prompt.call, call);
        self.summary.submitted += 1;
        self.tell(&format!("client {client} submits call {}", short(&prompt.call)));
        self.checks.submitted(prompt.call, now.plus(timeout), bound)
    }

    /// After the storm an ordinary call must be served.
    pub(crate) fn last_call(&mut self, client: usize) -> Step {
        let model = self.workers[0].model().to_owned();
        let prompt = Prompt { call: self.rng.bytes32(), max_tokens: 100, max_coefficient: 4_000 };
        self.clients[client].last_end = None;
        let timeout = Duration::from_secs(20);
        self.submit(client, &prompt, 10, &model, timeout, Some(0), false)?;
        self.after_client(client)?;
        if self.clients[client].calls.is_empty() {
            return Err(Breach(format!("client {client} cannot submit after the storm")));
        }
        while !self.clients[client].calls.is_empty() {
            self.step()?;
        }
        match self.clients[client].last_end {
            Some((true, 200)) => Ok(()),
            Some((false, 402)) if !self.clients[client].is_rich() => Ok(()),
            end => Err(Breach(format!("the call of client {client} after the storm ended with {end:?}"))),
        }
    }
}

/// Counters as they come back from a disk.
pub(crate) fn saved(counters: PeerCounters) -> Result<PeerCounters, Breach> {
    PeerCounters::decode(&counters.encode()).map_err(|why| Breach(format!("saved counters: {why}")))
}
