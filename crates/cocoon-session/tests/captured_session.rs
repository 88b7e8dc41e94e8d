//! The captured session of published nodes, with each of ours in turn in the place of one of them.
//!
//! Ids of connections, queries and requests are random in every session, so they are mapped; signatures of our proxy
//! cannot be those of the captured one, whose private key nobody has, so there the structure is compared.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_ledger::PeerCounters;
use cocoon_session::client::{ClientEvent, ClientSecret, ClientSession, ClientSettings, Submission};
use cocoon_session::proxy::{ClientChainState, ProxySettings};
use cocoon_session::worker::{WorkerEvent, WorkerSession, WorkerSettings};
use cocoon_session::{PaymentCounters, ProxyTerms, Time};
use cocoon_ton::{Address, OrderKind, RootConfig, SignedPayment, VerifyingKey, proxy_address};
use cocoon_wire::codec::{Message as _, from_boxed, to_boxed};
use cocoon_wire::frame::{FrameDecoder, FrameEncoder, MAX_FRAME_PAYLOAD};
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::tl::{
    ClientToProxy, ProxyToClient, ProxyToWorker, TokensUsed, WorkerToProxy, client, http, proxy, worker,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use support::{Net, Raw, attested};
use zeroize::Zeroizing;

const FRAMES: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/session-v2.frames.jsonl"));
const KEYS: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/session-v2.keys.json"));

const WORKER: u64 = 1;
const CLIENT: u64 = 2;
/// What the engine counted in each of the two requests.
const TOKENS: TokensUsed = TokensUsed {
    prompt_tokens_used: 23,
    cached_tokens_used: 11,
    completion_tokens_used: 90,
    reasoning_tokens_used: 10,
    total_tokens_used: 134,
};

/// One captured frame.
struct Frame {
    conn: u64,
    to_proxy: bool,
    packet: Packet,
}

fn capture() -> Vec<Frame> {
    let mut lanes: BTreeMap<(u64, bool), (FrameDecoder, BytesMut)> = BTreeMap::new();
    let mut frames = Vec::new();
    for line in FRAMES.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let Some(hex) = line["hex"].as_str() else { continue };
        let (conn, to_proxy) = (line["conn"].as_u64().unwrap(), line["dir"] == "out");
        let (decoder, received) = lanes
            .entry((conn, to_proxy))
            .or_insert_with(|| (FrameDecoder::new(MAX_FRAME_PAYLOAD), BytesMut::new()));
        received.extend_from_slice(&hex::decode(hex).unwrap());
        while let Some(payload) = decoder.decode(received).unwrap() {
            frames.push(Frame { conn, to_proxy, packet: Packet::decode_boxed(payload).unwrap() });
        }
    }
    frames
}

struct Keys(Value);

impl Keys {
    fn load() -> Self {
        Self(serde_json::from_str(KEYS).unwrap())
    }

    fn address(&self, pointer: &str) -> Address {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap().parse().unwrap()
    }

    fn root(&self) -> Arc<RootConfig> {
        Arc::new(RootConfig::from_published_json(&self.0["root_config"].to_string()).unwrap())
    }

    fn proxy_key(&self) -> [u8; 32] {
        let hex = self.0["proxy"]["public_key_hex"].as_str().unwrap();
        hex::decode(hex).unwrap().try_into().unwrap()
    }

    /// That the captured proxy signed this, for this contract.
    fn verify(&self, counters: &PaymentCounters, kind: OrderKind, contract: &Address) {
        let payment = SignedPayment::parse(counters.signed.as_ref().unwrap()).unwrap();
        let key = VerifyingKey::from_bytes(&self.proxy_key()).unwrap();
        assert_eq!(payment.verify(&key, kind, contract), Ok(0), "the session signs for 0 tokens");
    }
}

/// The constructors of a packet and of what it carries: its kind.
fn kind(packet: &Packet) -> (u32, u32) {
    let id = |data: &Bytes| u32::from_le_bytes(data[..4].try_into().unwrap());
    let outer = id(&to_boxed(packet));
    let inner = match packet {
        Packet::Packet { data } | Packet::Query { data, .. } | Packet::QueryAnswer { data, .. } => id(data),
        _ => 0,
    };
    (outer, inner)
}

/// A peer's answer to a request, joined.
#[derive(Debug, Default, PartialEq)]
struct Joined {
    status: i32,
    body: Vec<u8>,
    tokens: Option<TokensUsed>,
    has_timings: bool,
    has_debug: bool,
}

impl Joined {
    fn head(&mut self, answer: &Bytes) {
        let head: http::Response = from_boxed(answer.clone()).unwrap();
        self.status = head.status_code;
        self.body.extend_from_slice(&head.payload);
    }

    fn client_end(&mut self, info: Option<&client::QueryFinalInfo>) {
        if let Some(info) = info {
            self.tokens = Some(info.tokens_used);
            (self.has_timings, self.has_debug) = (info.timings.is_some(), info.debug.is_some());
        }
    }

    fn worker_end(&mut self, info: Option<&proxy::QueryFinalInfo>) {
        if let Some(info) = info {
            self.tokens = Some(info.tokens_used);
            (self.has_timings, self.has_debug) = (info.timings.is_some(), info.worker_debug.is_some());
        }
    }
}

/// The answers that a client received, by its ids.
fn client_answers<'a>(packets: impl Iterator<Item = &'a Packet>) -> BTreeMap<[u8; 32], Joined> {
    let mut answers: BTreeMap<[u8; 32], Joined> = BTreeMap::new();
    for packet in packets {
        let Packet::Packet { data } = packet else { continue };
        match ProxyToClient::decode_boxed(data.clone()).unwrap() {
            ProxyToClient::QueryAnswerEx(m) => {
                let joined = answers.entry(m.request_id).or_default();
                joined.head(&m.answer);
                joined.client_end(m.final_info.as_ref());
            }
            ProxyToClient::QueryAnswerPartEx(m) => {
                let joined = answers.entry(m.request_id).or_default();
                joined.body.extend_from_slice(&m.answer);
                joined.client_end(m.final_info.as_ref());
            }
            ProxyToClient::ClientRequestPayment(m) => assert_eq!(m.request_tokens, 134),
            other => panic!("{other:?}"),
        }
    }
    answers
}

#[test]
fn our_proxy_stands_in_for_the_captured_one() {
    let keys = Keys::load();
    let root = keys.root();
    let base = support::proxy_settings();
    let owner = keys.address("/owner_address");
    let public = base.key.verifying_key().to_bytes();
    let root_address = keys.address("/root_contract_address");
    let contract = proxy_address(&root.params, &root_address, &owner, &public).unwrap();
    let mut net = Net::new(ProxySettings { owner, contract, root_address, root, ..base });
    net.funds =
        Some(ClientChainState { secret_hash: Sha256::digest(b"").into(), ..support::chain_state(1 << 50) });
    net.commit_later = true;
    let mut peers: BTreeMap<u64, Raw> = BTreeMap::new();
    for conn in [WORKER, CLIENT] {
        let id = net.open();
        if conn == WORKER {
            net.proxy.add_worker(id, attested(id), net.now)
        } else {
            net.proxy.add_client(id, net.now)
        }
        peers.insert(conn, Raw::new(id));
    }
    // The captured proxy's ids of requests, in order, and ours.
    let (mut captured_ids, mut our_ids) = (Vec::new(), Vec::new());
    let mut captured: BTreeMap<u64, Vec<Packet>> = BTreeMap::new();
    let mut ours: BTreeMap<u64, Vec<Packet>> = BTreeMap::new();
    for frame in capture() {
        net.now = net.now.plus(Duration::from_millis(1));
        if !frame.to_proxy {
            if let Packet::Packet { data } = &frame.packet
                && frame.conn == WORKER
                && let Ok(ProxyToWorker::RunQueryEx(m)) = ProxyToWorker::decode_boxed(data.clone())
            {
                captured_ids.push(m.request_id);
            }
            captured.entry(frame.conn).or_default().push(frame.packet);
            continue;
        }
        let packet = with_our_ids(frame.packet, frame.conn, &captured_ids, &our_ids);
        let peer = peers.get_mut(&frame.conn).unwrap();
        peer.send(&mut net, &packet).unwrap();
        // Answers leave first; notices once the log is durable.
        for commit in [false, true] {
            if commit {
                net.commit();
            }
            for (&conn, peer) in &mut peers {
                for packet in peer.packets(&mut net) {
                    if let Packet::Packet { data } = &packet
                        && conn == WORKER
                        && let Ok(ProxyToWorker::RunQueryEx(m)) = ProxyToWorker::decode_boxed(data.clone())
                    {
                        our_ids.push(m.request_id);
                    }
                    ours.entry(conn).or_default().push(packet);
                }
            }
        }
    }
    for conn in [WORKER, CLIENT] {
        let kinds = |packets: &[Packet]| packets.iter().map(kind).collect::<Vec<_>>();
        assert_eq!(kinds(&ours[&conn]), kinds(&captured[&conn]), "the same messages in the same order");
    }
    let answers = client_answers(ours[&CLIENT].iter());
    assert_eq!(answers, client_answers(captured[&CLIENT].iter()));
    assert!(answers.len() == 2 && answers.values().all(|answer| answer.tokens == Some(TOKENS)));
    compare_handshakes(&ours, &captured);
    assert_eq!(net.proxy.ledger().charged().0.0, 268);
}

/// A worker's words with our proxy's ids of requests.
fn with_our_ids(packet: Packet, conn: u64, captured: &[[u8; 32]], ours: &[[u8; 32]]) -> Packet {
    let Packet::Packet { data } = &packet else { return packet };
    if conn != WORKER {
        return packet;
    }
    let map = |id: [u8; 32]| ours[captured.iter().position(|known| *known == id).unwrap()];
    let data = match WorkerToProxy::decode_boxed(data.clone()).unwrap() {
        WorkerToProxy::QueryAnswerEx(m) => {
            to_boxed(&proxy::QueryAnswerEx { request_id: map(m.request_id), ..m })
        }
        WorkerToProxy::QueryAnswerPartEx(m) => {
            to_boxed(&proxy::QueryAnswerPartEx { request_id: map(m.request_id), ..m })
        }
        other => panic!("{other:?}"),
    };
    Packet::Packet { data }
}

/// Handshake answers agree in all but keys, addresses and signatures.
fn compare_handshakes(ours: &BTreeMap<u64, Vec<Packet>>, captured: &BTreeMap<u64, Vec<Packet>>) {
    fn params(packet: &Packet) -> Option<proxy::Params> {
        let Packet::QueryAnswer { data, .. } = packet else { return None };
        let worker = from_boxed::<worker::ConnectedToProxy>(data.clone()).map(|answer| answer.params);
        worker
            .or_else(|_| from_boxed::<client::ConnectedToProxy>(data.clone()).map(|answer| answer.params))
            .ok()
    }
    for conn in [WORKER, CLIENT] {
        let one = |packets: &[Packet]| packets.iter().find_map(params).unwrap();
        let (ours, captured) = (one(&ours[&conn]), one(&captured[&conn]));
        assert_eq!(ours.ext_flags, 0, "a published peer offers no extensions");
        assert_eq!(ours.proxy_owner_address, captured.proxy_owner_address);
        assert_eq!((ours.is_test, ours.proto_version), (captured.is_test, captured.proto_version));
    }
}

/// The dialling side of a captured connection, played by one of our sessions: translates ids.
struct Dialler {
    encoder: FrameEncoder,
    decoder: FrameDecoder,
    said: BytesMut,
    to_session: BytesMut,
    connect_id: i64,
    /// Our open queries, by what they ask.
    queries: BTreeMap<u32, i64>,
    /// What the captured queries ask, by their ids.
    captured_queries: BTreeMap<i64, u32>,
    messages: Vec<Bytes>,
}

impl Dialler {
    fn new() -> Self {
        Self {
            encoder: FrameEncoder::new(),
            decoder: FrameDecoder::new(MAX_FRAME_PAYLOAD),
            said: BytesMut::new(),
            to_session: BytesMut::new(),
            connect_id: 0,
            queries: BTreeMap::new(),
            captured_queries: BTreeMap::new(),
            messages: Vec::new(),
        }
    }

    /// Reads what our session says.
    fn hear(&mut self, bytes: &[u8]) {
        self.said.extend_from_slice(bytes);
        while let Some(payload) = self.decoder.decode(&mut self.said).unwrap() {
            let packet = Packet::decode_boxed(payload).unwrap();
            match &packet {
                Packet::Connect { id } => self.connect_id = *id,
                Packet::Query { id, .. } => drop(self.queries.insert(kind(&packet).1, *id)),
                Packet::Packet { data } => self.messages.push(data.clone()),
                _ => {}
            }
        }
    }

    /// Notes what the captured dialler asks.
    fn note(&mut self, packet: &Packet) {
        if let Packet::Query { id, .. } = packet {
            self.captured_queries.insert(*id, kind(packet).1);
        }
    }

    /// Which query of ours the captured packet answers, if our session did not ask it yet.
    fn missing_query(&self, packet: &Packet) -> bool {
        matches!(packet, Packet::QueryAnswer { id, .. } if !self.queries.contains_key(&self.captured_queries[id]))
    }

    /// Puts the captured proxy's packet before our session, with its ids.
    fn tell(&mut self, packet: Packet) {
        let packet = match packet {
            Packet::Connected { .. } => Packet::Connected { id: self.connect_id },
            Packet::QueryAnswer { id, data } => {
                let id = self.queries.remove(&self.captured_queries[&id]).unwrap();
                Packet::QueryAnswer { id, data }
            }
            other => other,
        };
        self.encoder.encode_message(&mut self.to_session, &packet).unwrap();
    }
}

fn check_terms(terms: &ProxyTerms, keys: &Keys, pair: &str) {
    assert_eq!(terms.public_key, keys.proxy_key());
    assert_eq!(terms.contract, keys.address("/addresses/proxy_sc"));
    assert_eq!(terms.pair_contract, keys.address(pair));
    assert_eq!((terms.proto_version, terms.extensions), (2, false));
}

fn submission(query: &client::RunQueryEx) -> Submission {
    Submission {
        id: query.request_id,
        model: query.model_name.to_str().unwrap().into(),
        query: query.query.clone(),
        max_coefficient: query.max_coefficient,
        max_tokens: query.max_tokens,
        timeout: Duration::from_secs_f64(query.timeout / 0.95),
        enable_debug: query.enable_debug.unwrap(),
        ..support::submission(0)
    }
}

#[test]
fn our_client_stands_in_for_the_captured_one() {
    let keys = Keys::load();
    let settings = ClientSettings {
        wallet: keys.address("/client/wallet_address"),
        is_test: true,
        is_testnet: false,
        secret: ClientSecret::Shared(Zeroizing::new(Vec::new())),
        root: keys.root(),
        root_address: keys.address("/root_contract_address"),
        extensions: true,
        restrict_workers: false,
    };
    let mut now = support::START;
    let mut session = ClientSession::new(settings, now, 42);
    let mut dialler = Dialler::new();
    let mut events = Vec::new();
    let mut received = Vec::new();
    for frame in capture().into_iter().filter(|frame| frame.conn == CLIENT) {
        if frame.to_proxy {
            dialler.note(&frame.packet);
            if let Packet::Packet { data } = &frame.packet {
                let Ok(ClientToProxy::RunQueryEx(captured)) = ClientToProxy::decode_boxed(data.clone())
                else {
                    panic!("the captured client says something else")
                };
                session.submit(&submission(&captured), now).unwrap();
                dialler.hear(&session.transmit(1 << 20).unwrap());
                let ours: client::RunQueryEx = from_boxed(dialler.messages.pop().unwrap()).unwrap();
                assert!((ours.timeout - captured.timeout).abs() < 1e-6);
                assert_eq!(client::RunQueryEx { timeout: captured.timeout, ..ours }, captured);
            }
            continue;
        }
        received.push(frame.packet.clone());
        while let Some(bytes) = session.transmit(1 << 20) {
            dialler.hear(&bytes);
        }
        while dialler.missing_query(&frame.packet) {
            now = now.plus(Duration::from_secs(1));
            assert!(now < Time(support::START.0 + 100_000_000), "our client never asks this");
            session.on_time(now).unwrap();
            while let Some(bytes) = session.transmit(1 << 20) {
                dialler.hear(&bytes);
            }
        }
        dialler.tell(frame.packet);
        session.receive(&mut dialler.to_session, now).unwrap();
        events.extend(std::iter::from_fn(|| session.poll_event()));
    }
    let contract = keys.address("/addresses/client_sc");
    let mut answers: BTreeMap<[u8; 32], Joined> = BTreeMap::new();
    let (mut known, mut paid, mut models) = (PeerCounters::default(), 0, 0);
    for event in &events {
        match event {
            ClientEvent::Ready(terms) => check_terms(terms, &keys, "/addresses/client_sc"),
            ClientEvent::Head { request, head, .. } => {
                answers.entry(*request).or_default().status = head.status_code
            }
            ClientEvent::Data { request, data } => {
                answers.entry(*request).or_default().body.extend_from_slice(data);
            }
            ClientEvent::Completed { request, info, debug } => {
                let answer = answers.entry(*request).or_default();
                answer.tokens = Some(info.tokens);
                answer.has_timings = info.worker_start > 0.0 && info.proxy_end >= info.worker_end;
                answer.has_debug = debug.is_some();
            }
            ClientEvent::Payment { request, counters } => {
                keys.verify(counters, OrderKind::ChargeClient, &contract);
                known.observe(counters.db_tokens, counters.max_tokens, None).unwrap();
                paid += request.map_or(0, |(_, tokens)| tokens);
            }
            ClientEvent::Models(offers) => {
                models += 1;
                assert_eq!(
                    (offers[0].name.as_str(), offers[0].offers[0].coefficient),
                    ("Qwen/Qwen3-8B", 1000)
                );
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answers, client_answers(received.iter()));
    assert!(answers.len() == 2 && answers.values().all(|answer| answer.tokens == Some(TOKENS)));
    assert_eq!((paid, known.max(), models), (268, 268, 1));
}

#[test]
fn our_worker_stands_in_for_the_captured_one() {
    let keys = Keys::load();
    let hello = capture().into_iter().find_map(|frame| match frame.packet {
        Packet::Query { data, .. } => from_boxed::<worker::ConnectToProxy>(data).ok(),
        _ => None,
    });
    let hello = hello.unwrap();
    let settings = WorkerSettings {
        owner: keys.address("/owner_address"),
        model: hello.params.model.to_str().unwrap().into(),
        coefficient: 1000,
        paused: false,
        proxies: u32::try_from(hello.params.limits.unwrap().proxy_cnt).unwrap(),
        max_active: u32::try_from(hello.params.limits.unwrap().max_active_requests).unwrap(),
        is_test: true,
        is_testnet: false,
        root: keys.root(),
        root_address: keys.address("/root_contract_address"),
        extensions: true,
        max_body_bytes: cocoon_session::DEFAULT_MAX_BODY_BYTES,
    };
    let mut now = support::START;
    let mut session = WorkerSession::new(settings, now, 42);
    let mut dialler = Dialler::new();
    let (mut captured, mut ours) = (BTreeMap::new(), BTreeMap::new());
    let (mut work, mut known, mut paid, mut ready) = (Vec::new(), PeerCounters::default(), 0, false);
    for frame in capture().into_iter().filter(|frame| frame.conn == WORKER) {
        if frame.to_proxy {
            dialler.note(&frame.packet);
            if let Packet::Packet { data } = &frame.packet {
                join_worker(&mut captured, data);
                speak(&mut session, data, now);
                while let Some(bytes) = session.transmit(1 << 20) {
                    dialler.hear(&bytes);
                }
                for data in dialler.messages.drain(..) {
                    join_worker(&mut ours, &data);
                }
            }
            continue;
        }
        while let Some(bytes) = session.transmit(1 << 20) {
            dialler.hear(&bytes);
        }
        while dialler.missing_query(&frame.packet) {
            now = now.plus(Duration::from_secs(1));
            assert!(now < Time(support::START.0 + 100_000_000), "our worker never asks this");
            session.on_time(now).unwrap();
            while let Some(bytes) = session.transmit(1 << 20) {
                dialler.hear(&bytes);
            }
        }
        dialler.tell(frame.packet);
        session.receive(&mut dialler.to_session, now).unwrap();
        while let Some(event) = session.poll_event() {
            match event {
                WorkerEvent::Compare(terms) => {
                    check_terms(&terms, &keys, "/addresses/worker_sc");
                    session.compare(PeerCounters::default(), now).unwrap();
                }
                WorkerEvent::Ready => ready = true,
                WorkerEvent::Work(it) => work.push(it),
                WorkerEvent::Payment { request, counters } => {
                    keys.verify(&counters, OrderKind::PayWorker, &keys.address("/addresses/worker_sc"));
                    known.observe(counters.db_tokens, counters.max_tokens, None).unwrap();
                    paid += request.map_or(0, |(_, tokens)| tokens);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(ready);
    assert_eq!(work.len(), 2);
    assert!(
        work.iter()
            .all(|work| work.request.url.as_bytes() == b"/v1/chat/completions" && work.coefficient == 1000)
    );
    assert_eq!(ours, captured);
    assert!(ours.values().all(|answer: &Joined| answer.tokens == Some(TOKENS)));
    assert_eq!((paid, known.max()), (268, 268));
}

/// Has our worker say what the captured one said.
fn speak(session: &mut WorkerSession, data: &Bytes, now: Time) {
    match WorkerToProxy::decode_boxed(data.clone()).unwrap() {
        WorkerToProxy::QueryAnswerEx(m) => {
            let mut head: http::Response = from_boxed(m.answer).unwrap();
            let body = std::mem::take(&mut head.payload);
            session.head(m.request_id, head, now);
            session.data(m.request_id, body);
            assert!(m.final_info.is_none(), "no captured answer is whole at once");
        }
        WorkerToProxy::QueryAnswerPartEx(m) => {
            session.data(m.request_id, m.answer);
            if let Some(info) = m.final_info {
                session.complete_request(m.request_id, info.tokens_used, now);
            }
        }
        other => panic!("{other:?}"),
    }
}

fn join_worker(answers: &mut BTreeMap<[u8; 32], Joined>, data: &Bytes) {
    match WorkerToProxy::decode_boxed(data.clone()).unwrap() {
        WorkerToProxy::QueryAnswerEx(m) => {
            let joined = answers.entry(m.request_id).or_default();
            joined.head(&m.answer);
            joined.worker_end(m.final_info.as_ref());
        }
        WorkerToProxy::QueryAnswerPartEx(m) => {
            let joined = answers.entry(m.request_id).or_default();
            joined.body.extend_from_slice(&m.answer);
            joined.worker_end(m.final_info.as_ref());
        }
        other => panic!("{other:?}"),
    }
}
