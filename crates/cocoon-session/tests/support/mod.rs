//! A proxy in a test network, and peers that speak to it frame by frame, so that they can say anything.

#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod ours;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_ledger::{Multiplier, PricePerToken, Tariff};
use cocoon_session::client::{ClientSecret, ClientSettings};
use cocoon_session::proxy::{
    Attested, ClientChainState, ConnId, Proxy, ProxyEvent, ProxySettings, RequestEnd,
};
use cocoon_session::worker::WorkerSettings;
use cocoon_session::{DEFAULT_MAX_BODY_BYTES, Time, Violation};
use cocoon_ton::contracts::ContractStatus;
use cocoon_ton::{Address, RootConfig, SigningKey, client_address, proxy_address, worker_address};
use cocoon_wire::codec::{ByteStr, Message, from_boxed, to_boxed};
use cocoon_wire::frame::{FrameDecoder, FrameEncoder, MAX_FRAME_PAYLOAD};
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::tl::{
    ProtoRange, ProxyToClient, ProxyToWorker, TokensUsed, client, ext, http, proxy, worker,
};
pub use ours::*;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

pub const MODEL: &str = "test/model@main:00";
pub const SECRET: &[u8] = b"secret";
pub const START: Time = Time(1_800_000_000_000_000);

pub const TARIFF: Tariff = Tariff {
    price_per_token: PricePerToken(20),
    worker_fee_per_token: PricePerToken(17),
    prompt: Multiplier::ONE,
    cached: Multiplier::ONE,
    completion: Multiplier::ONE,
    reasoning: Multiplier::ONE,
};

pub fn root() -> Arc<RootConfig> {
    let mut root = RootConfig::test_mode(Address::basechain([1; 32]));
    root.version = 3;
    Arc::new(root)
}

pub fn root_address() -> Address {
    Address::basechain([2; 32])
}

pub fn proxy_settings() -> ProxySettings {
    let key = SigningKey::from_bytes(&[3; 32]);
    let owner = Address::basechain([4; 32]);
    let public = key.verifying_key().to_bytes();
    ProxySettings {
        key,
        owner,
        contract: proxy_address(&root().params, &root_address(), &owner, &public).unwrap(),
        wallet: owner,
        root_address: root_address(),
        root: root(),
        tariff: TARIFF,
        is_test: true,
        is_testnet: false,
        check_models: false,
        trust_long_authorization: false,
        extensions: true,
        max_body_bytes: DEFAULT_MAX_BODY_BYTES,
        seed: [5; 32],
    }
}

pub fn client_settings() -> ClientSettings {
    ClientSettings {
        wallet: Address::basechain([6; 32]),
        is_test: true,
        is_testnet: false,
        secret: ClientSecret::Shared(Zeroizing::new(SECRET.to_vec())),
        root: root(),
        root_address: root_address(),
        extensions: true,
        restrict_workers: false,
    }
}

/// What the worker of a connection showed: another certificate for each.
pub fn attested(conn: ConnId) -> Attested {
    let certificate = format!("certificate of {}", conn.0);
    Attested::new(certificate.into(), Bytes::from_static(b"{\"kind\":\"none\"}")).unwrap()
}

pub fn worker_settings() -> WorkerSettings {
    WorkerSettings {
        owner: Address::basechain([7; 32]),
        model: MODEL.into(),
        coefficient: 1000,
        paused: false,
        proxies: 1,
        max_active: 100,
        is_test: true,
        is_testnet: false,
        root: root(),
        root_address: root_address(),
        extensions: true,
        max_body_bytes: DEFAULT_MAX_BODY_BYTES,
    }
}

/// An open client contract with so much balance and stake.
pub fn chain_state(nanoton: u64) -> ClientChainState {
    ClientChainState {
        status: ContractStatus::Open,
        balance_nanoton: nanoton,
        stake_nanoton: nanoton,
        tokens_used: 0,
        price_per_token_nanoton: TARIFF.price_per_token.0,
        secret_hash: Sha256::digest(SECRET).into(),
    }
}

/// A proxy with its driver: the chain knows every client, and records are durable at once unless told otherwise.
pub struct Net {
    pub proxy: Proxy,
    pub now: Time,
    pub ends: Vec<RequestEnd>,
    /// Connections that the proxy wants closed, and why.
    pub doomed: BTreeMap<ConnId, Violation>,
    /// What the chain shows of every client; `None`: their contracts do not exist.
    pub funds: Option<ClientChainState>,
    /// Records become durable only with [`Net::commit`].
    pub commit_later: bool,
    appended: u64,
    inboxes: BTreeMap<ConnId, BytesMut>,
    next: u64,
}

impl Net {
    pub fn new(settings: ProxySettings) -> Self {
        Self {
            proxy: Proxy::restore(settings, None, []).unwrap(),
            now: START,
            ends: Vec::new(),
            doomed: BTreeMap::new(),
            funds: Some(chain_state(1 << 50)),
            commit_later: false,
            appended: 0,
            inboxes: BTreeMap::new(),
            next: 0,
        }
    }

    pub fn open(&mut self) -> ConnId {
        self.next += 1;
        ConnId(self.next)
    }

    /// Gives received bytes to the proxy. A violation closes the connection, as a driver does.
    pub fn feed(&mut self, conn: ConnId, bytes: &[u8]) -> Result<(), Violation> {
        let inbox = self.inboxes.entry(conn).or_default();
        inbox.extend_from_slice(bytes);
        let result = self.proxy.receive(conn, inbox, self.now);
        if result.is_err() {
            self.proxy.closed(conn, self.now);
        }
        self.settle();
        result
    }

    pub fn settle(&mut self) {
        while let Some(event) = self.proxy.poll_event() {
            match event {
                ProxyEvent::FindClient { conn, .. } => self.proxy.client_found(conn, self.funds),
                ProxyEvent::Persist(records) => {
                    self.appended = records.last().unwrap().position;
                    if !self.commit_later {
                        self.commit();
                    }
                }
                ProxyEvent::Ended(end) => self.ends.push(*end),
                ProxyEvent::WorkerReady { .. } | ProxyEvent::ClientReady { .. } => {}
            }
        }
        while let Some((conn, violation)) = self.proxy.poll_wake() {
            if let Some(violation) = violation {
                self.doomed.insert(conn, violation);
            }
        }
        self.proxy.ledger().check_invariants().unwrap();
    }

    pub fn commit(&mut self) {
        self.proxy.persisted(self.appended).unwrap();
    }

    /// Lets time pass in the steps of a driver.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now.plus(time);
        while self.now < until {
            self.now = self.now.plus(Duration::from_millis(100)).min(until);
            self.proxy.on_time(self.now);
            self.settle();
        }
    }
}

/// A peer of the proxy that says what it is told to.
pub struct Raw {
    pub conn: ConnId,
    encoder: FrameEncoder,
    decoder: FrameDecoder,
    next_id: i64,
    received: BytesMut,
}

impl Raw {
    pub fn new(conn: ConnId) -> Self {
        Self {
            conn,
            encoder: FrameEncoder::new(),
            decoder: FrameDecoder::new(MAX_FRAME_PAYLOAD),
            next_id: 1,
            received: BytesMut::new(),
        }
    }

    pub fn frame(&mut self, packet: &Packet) -> Bytes {
        let mut out = BytesMut::new();
        self.encoder.encode_message(&mut out, packet).unwrap();
        out.freeze()
    }

    pub fn send(&mut self, net: &mut Net, packet: &Packet) -> Result<(), Violation> {
        let frame = self.frame(packet);
        net.feed(self.conn, &frame)
    }

    /// Sends a one-way message.
    pub fn say(&mut self, net: &mut Net, message: &impl Message) -> Result<(), Violation> {
        self.say_bytes(net, to_boxed(message))
    }

    pub fn say_bytes(&mut self, net: &mut Net, data: Bytes) -> Result<(), Violation> {
        self.send(net, &Packet::Packet { data })
    }

    /// Everything that the proxy sends now.
    pub fn packets(&mut self, net: &mut Net) -> Vec<Packet> {
        while let Some(bytes) = net.proxy.transmit(self.conn, 1 << 20) {
            self.received.extend_from_slice(&bytes);
        }
        std::iter::from_fn(|| self.decoder.decode(&mut self.received).unwrap())
            .map(|payload| Packet::decode_boxed(payload).unwrap())
            .collect()
    }

    /// The one-way messages among them.
    pub fn messages<M: Message>(&mut self, net: &mut Net) -> Vec<M> {
        let data = self.packets(net).into_iter().filter_map(|packet| match packet {
            Packet::Packet { data } => Some(data),
            _ => None,
        });
        data.map(|data| M::decode_boxed(data).unwrap()).collect()
    }

    pub fn connect(&mut self, net: &mut Net) {
        self.send(net, &Packet::Connect { id: 77 }).unwrap();
        assert_eq!(self.packets(net), [Packet::Connected { id: 77 }]);
    }

    pub fn ask(&mut self, net: &mut Net, message: &impl Message) -> Result<Vec<Packet>, Violation> {
        self.next_id += 1;
        let query = Packet::Query { id: self.next_id, data: to_boxed(message) };
        self.send(net, &query)?;
        Ok(self.packets(net))
    }

    pub fn answer<A: Message>(&mut self, net: &mut Net, message: &impl Message) -> A {
        let packets = self.ask(net, message).unwrap();
        match packets.as_slice() {
            [Packet::QueryAnswer { data, .. }] => from_boxed(data.clone()).unwrap(),
            other => panic!("no answer: {other:?}"),
        }
    }
}

pub fn client_hello(extensions: bool) -> client::ConnectToProxy {
    client::ConnectToProxy {
        params: client::Params {
            ext_flags: if extensions { ext::EXT_V1 } else { 0 },
            client_owner_address: client_settings().wallet.to_wire_string(false).into(),
            is_test: Some(true),
            proto: Some(ProtoRange { min: 1, max: 2 }),
        },
        min_config_version: 3,
    }
}

/// The contract of the one client.
pub fn client_contract() -> Address {
    let (settings, key) = (proxy_settings(), proxy_settings().key.verifying_key().to_bytes());
    client_address(&settings.root.params, &client_settings().wallet, &settings.contract, &key).unwrap()
}

/// The contract of the one worker.
pub fn worker_contract() -> Address {
    let (settings, key) = (proxy_settings(), proxy_settings().key.verifying_key().to_bytes());
    worker_address(&settings.root.params, &worker_settings().owner, &settings.contract, &key).unwrap()
}

/// A client whose connection is open, and that has said nothing yet.
pub fn opened_client(net: &mut Net) -> Raw {
    let conn = net.open();
    net.proxy.add_client(conn, net.now);
    let mut raw = Raw::new(conn);
    raw.connect(net);
    raw
}

/// A client that finished its handshake; without extensions, as published ones are.
pub fn raw_client(net: &mut Net, extensions: bool) -> Raw {
    let mut raw = opened_client(net);
    let answer: client::ConnectedToProxy = raw.answer(net, &client_hello(extensions));
    assert_eq!(answer.params.ext_flags != 0, extensions);
    let data = Bytes::from_static(SECRET);
    let authorized: client::AuthorizationWithProxy =
        raw.answer(net, &client::AuthorizeWithProxyShort { data });
    assert!(matches!(authorized, client::AuthorizationWithProxy::Success { .. }));
    raw
}

pub fn worker_hello(extensions: bool) -> worker::ConnectToProxy {
    worker::ConnectToProxy {
        params: worker::Params {
            ext_flags: if extensions { ext::EXT_V1 } else { 0 },
            worker_owner_address: worker_settings().owner.to_wire_string(false).into(),
            model: MODEL.into(),
            coefficient: 1000,
            limits: Some(worker::Limits { is_test: true, proxy_cnt: 1, max_active_requests: 100 }),
            proto: Some(ProtoRange { min: 1, max: 2 }),
        },
    }
}

/// A worker that finished its handshake; without extensions, as published ones are.
pub fn raw_worker(net: &mut Net, extensions: bool) -> Raw {
    let conn = net.open();
    net.proxy.add_worker(conn, attested(conn), net.now);
    let mut raw = Raw::new(conn);
    raw.connect(net);
    shake_hands(net, &mut raw, &worker_hello(extensions));
    raw
}

/// A worker's handshake after the opening.
pub fn shake_hands(net: &mut Net, raw: &mut Raw, hello: &worker::ConnectToProxy) {
    let _: worker::ConnectedToProxy = raw.answer(net, hello);
    let compare = worker::CompareBalanceWithProxy {
        tokens_committed_to_blockchain: 0,
        tokens_committed_to_db: 0,
        max_tokens: 0,
    };
    let _: worker::CompareBalanceWithProxyResult = raw.answer(net, &compare);
    let _: worker::ProxyHandshakeCompleted =
        raw.answer(net, &worker::ProxyHandshakeComplete { is_disabled: false });
}

pub fn query(id: u8) -> client::RunQueryEx {
    let request = http::Request {
        method: ByteStr::from_static("POST"),
        url: ByteStr::from_static("/v1/chat/completions"),
        http_version: ByteStr::from_static("HTTP/1.1"),
        headers: Vec::new(),
        payload: Bytes::from_static(b"{}"),
    };
    client::RunQueryEx {
        model_name: "test/model".into(),
        query: to_boxed(&request),
        max_coefficient: 4000,
        max_tokens: 100,
        timeout: 60.0,
        request_id: [id; 32],
        min_config_version: 3,
        enable_debug: Some(true),
    }
}

/// What the proxy asks of this worker: the id of the newest request.
pub fn asked(net: &mut Net, worker: &mut Raw) -> [u8; 32] {
    let messages: Vec<ProxyToWorker> = worker.messages(net);
    match messages.last() {
        Some(ProxyToWorker::RunQueryEx(query)) => query.request_id,
        other => panic!("no query: {other:?}"),
    }
}

pub fn http_head(status: i32) -> Bytes {
    to_boxed(&http::Response {
        http_version: ByteStr::from_static("HTTP/1.1"),
        status_code: status,
        reason: ByteStr::from_static("OK"),
        headers: Vec::new(),
        payload: Bytes::from_static(b"first "),
    })
}

pub fn tokens(total: i64) -> TokensUsed {
    TokensUsed { completion_tokens_used: total, total_tokens_used: total, ..TokensUsed::default() }
}

pub fn final_info(total: i64) -> proxy::QueryFinalInfo {
    proxy::QueryFinalInfo { tokens_used: tokens(total), worker_debug: None, timings: None }
}

pub fn head(request_id: [u8; 32], end: Option<i64>) -> proxy::QueryAnswerEx {
    proxy::QueryAnswerEx { request_id, answer: http_head(200), final_info: end.map(final_info) }
}

pub fn part(request_id: [u8; 32], end: Option<i64>) -> proxy::QueryAnswerPartEx {
    let answer = Bytes::from_static(b"more");
    proxy::QueryAnswerPartEx { request_id, answer, final_info: end.map(final_info) }
}

pub fn error(request_id: [u8; 32], error_code: i32) -> proxy::QueryAnswerErrorEx {
    let final_info = Some(final_info(0));
    proxy::QueryAnswerErrorEx { request_id, error_code, error: "broken".into(), final_info }
}

/// The one-way messages in what a session sent.
pub fn packets_in<M: Message>(bytes: &[u8]) -> Vec<M> {
    let mut rest = bytes;
    let mut found = Vec::new();
    while let Some((length, more)) = rest.split_first_chunk::<4>() {
        let (frame, later) = more[4..].split_at(usize::try_from(u32::from_le_bytes(*length)).unwrap());
        if let Packet::Packet { data } = Packet::decode_boxed(Bytes::copy_from_slice(frame)).unwrap() {
            found.push(M::decode_boxed(data).unwrap());
        }
        rest = later;
    }
    found
}

/// What the proxy tells this client, without payment notices.
pub fn answers(net: &mut Net, client: &mut Raw) -> Vec<ProxyToClient> {
    let mut messages: Vec<ProxyToClient> = client.messages(net);
    messages.retain(|message| !matches!(message, ProxyToClient::ClientRequestPayment(_)));
    messages
}

/// Runs one whole request over these two, to show that they are well.
pub fn works(net: &mut Net, client: &mut Raw, worker: &mut Raw, id: u8) {
    client.say(net, &query(id)).unwrap();
    let request = asked(net, worker);
    worker.say(net, &head(request, Some(5))).unwrap();
    let messages = answers(net, client);
    assert!(
        matches!(messages.as_slice(), [ProxyToClient::QueryAnswerEx(m)] if m.request_id == [id; 32]
            && m.final_info.as_ref().is_some_and(|info| info.tokens_used.total_tokens_used == 5)),
        "{messages:?}"
    );
}
