//! What anybody can send to the proxy's two ports before it is let in.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use cocoon_net::{AcceptOptions, ListenerOptions};
use cocoon_network_tests::{Ask, FixedEngine, until};
use cocoon_network_tests::{
    Log, MODEL, Network, Options, RawPeer, ScriptedEngine, TestClient, http_request, within, worker_params,
};
use cocoon_wire::codec::{ByteStr, to_boxed};
use cocoon_wire::frame::FrameEncoder;
use cocoon_wire::pow::{CHALLENGE_LEN, Challenge, Solution};
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::tl::{ProtoRange, client, worker};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A proxy with a worker and a client that behave well, beside whom others misbehave.
struct Town {
    log: Log,
    network: Network,
    worker: cocoon_worker::Worker,
    client: TestClient,
}

impl Town {
    async fn start(options: Options) -> Self {
        let log = Log::capture();
        let network = Network::with(options).await;
        let worker = network.worker(1, FixedEngine("hello".into())).await;
        let client = network.client(11).await;
        Self { log, network, worker, client }
    }

    fn ports(&self) -> [SocketAddr; 2] {
        [self.network.proxy.workers_addr(), self.network.proxy.clients_addr()]
    }

    async fn still_works(&self) {
        self.network.assert_serves(&self.client).await;
        self.network.assert_balances(&[&self.client], &[&self.worker]).await;
        self.log.assert_no_errors();
    }
}

/// What a stranger says to the challenge.
type Answer<'a> = &'a dyn Fn(&Challenge) -> Vec<u8>;

async fn read_to_end(tcp: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ = within("the connection to be closed", tcp.read_to_end(&mut rest)).await;
}

fn difficulty(bits: u8, timeout: Duration) -> Options {
    let accept = AcceptOptions { difficulty: bits, timeout };
    Options { listener: ListenerOptions { accept, ..ListenerOptions::default() }, ..Options::default() }
}

#[tokio::test]
async fn garbage_http_and_wrong_work_are_refused_by_name_and_harm_nobody() {
    let town = Town::start(difficulty(8, Duration::from_secs(20))).await;
    for port in town.ports() {
        let wrong_work = |challenge: &Challenge| {
            let nonce = (0..).find(|&nonce| !challenge.verify(&Solution { nonce })).unwrap();
            Solution { nonce }.encode().to_vec()
        };
        let bad: [(&str, Answer<'_>); 3] = [
            ("garbage", &|_| vec![0xa5; 4096]),
            ("HTTP", &|_| b"GET /v1/models HTTP/1.1\r\nHost: example.org\r\n\r\n".to_vec()),
            ("wrong work", &wrong_work),
        ];
        for (name, bytes) in bad {
            let mut tcp = TcpStream::connect(port).await.unwrap();
            let local = tcp.local_addr().unwrap();
            let mut challenge = [0; CHALLENGE_LEN];
            tcp.read_exact(&mut challenge).await.unwrap();
            tcp.write_all(&bytes(&Challenge::decode(&challenge).unwrap())).await.unwrap();
            read_to_end(&mut tcp).await;
            let line = town.log.closed(local, "").await;
            assert!(!line.field("cause").is_empty(), "{name}: {line:?}");
        }
        // The right work, and then no TLS.
        let mut tcp = TcpStream::connect(port).await.unwrap();
        let local = tcp.local_addr().unwrap();
        let mut challenge = [0; CHALLENGE_LEN];
        tcp.read_exact(&mut challenge).await.unwrap();
        let challenge = Challenge::decode(&challenge).unwrap();
        let nonce = cocoon_wire::pow::solve(&challenge, &false.into()).unwrap();
        tcp.write_all(&Solution { nonce }.encode()).await.unwrap();
        tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        read_to_end(&mut tcp).await;
        town.log.closed(local, "TLS").await;
        town.still_works().await;
    }
}

#[tokio::test]
async fn a_handshake_that_comes_byte_by_byte_is_cut_when_its_time_is_up() {
    let town = Town::start(difficulty(1, Duration::from_millis(700))).await;
    for port in town.ports() {
        let mut tcp = TcpStream::connect(port).await.unwrap();
        let local = tcp.local_addr().unwrap();
        let began = Instant::now();
        tcp.write_all(&Solution { nonce: 0 }.encode()[..1]).await.unwrap();
        let dripping = async {
            while tcp.write_all(&[0x16]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
        };
        // Eleven more bytes end the work, right or wrong, so that this takes as long as the time-out at most.
        within("the connection to be cut", dripping).await;
        assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
        town.log.closed(local, "").await;
    }
    town.still_works().await;
}

#[tokio::test]
async fn a_silent_connection_and_one_that_stops_within_tls_are_cut_when_their_time_is_up() {
    let town = Town::start(difficulty(0, Duration::from_millis(500))).await;
    for port in town.ports() {
        let mut silent = TcpStream::connect(port).await.unwrap();
        let local = silent.local_addr().unwrap();
        read_to_end(&mut silent).await;
        town.log.closed(local, "time").await;
        let mut half = TcpStream::connect(port).await.unwrap();
        let local = half.local_addr().unwrap();
        half.write_all(&Solution { nonce: 0 }.encode()).await.unwrap();
        // A TLS record that announces a hello and never has one.
        half.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
        read_to_end(&mut half).await;
        town.log.closed(local, "time").await;
    }
    town.still_works().await;
}

#[tokio::test]
async fn a_flood_of_connections_is_turned_away_and_harms_nobody() {
    let mut options = difficulty(1, Duration::from_secs(20));
    options.listener.max_pending_per_ip = 4;
    let town = Town::start(options).await;
    for (round, port) in town.ports().into_iter().enumerate() {
        let mut flood = Vec::new();
        for _ in 0..40 {
            flood.push(TcpStream::connect(port).await.unwrap());
        }
        let over = |line: &cocoon_network_tests::Event| {
            line.message.contains("over the limit") && !line.field("peer").is_empty()
        };
        town.log.wait_count("36 connections over the limit", (round + 1) * 36, over).await;
        town.still_works().await;
        drop(flood);
    }
    let late = within("a place for a client", async {
        let tls = cocoon_network_tests::tls("none", cocoon_attest::Policy::any());
        let wallet = cocoon_network_tests::wallet(12);
        loop {
            let root = town.network.chain.root();
            let clients = town.network.proxy.clients_addr();
            if let Ok(client) = TestClient::dial(clients, &tls, wallet, root, true).await {
                return client;
            }
        }
    })
    .await;
    assert!(late.is_up());
}

#[tokio::test]
async fn broken_frames_close_the_connection_with_the_cause_in_the_log() {
    let town = Town::start(Options::default()).await;
    let connect = to_boxed(&Packet::Connect { id: 1 });
    let frame = |len: u32, seqno: u32, payload: &[u8]| {
        [&len.to_le_bytes()[..], &seqno.to_le_bytes(), payload].concat()
    };
    let ping = to_boxed(&Packet::Ping { id: 1 });
    let cases = [
        ("unexpected first message", frame(12, 0, &ping)),
        ("bad tcp packet", frame(8, 0, b"\xff\xff\xff\xff1234")),
        ("frame number 7 where 0 was due", frame(12, 7, &connect)),
        ("a frame of 0 bytes", frame(0, 0, &[])),
        ("a frame of 3 bytes", frame(3, 0, &[1, 2, 3])),
        ("a frame of 16777217 bytes", frame((1 << 24) + 1, 0, &connect)),
        ("a frame of 4294967295 bytes", frame(u32::MAX, 0, &connect)),
        ("bad tcp packet", frame(16, 0, &[&connect[..], &[0; 4]].concat())),
    ];
    for port in town.ports() {
        for (cause, bytes) in &cases {
            let mut peer = RawPeer::dial(port).await;
            peer.send_bytes(bytes).await;
            peer.closed().await;
            town.log.closed(peer.local, cause).await;
        }
        let mut cut = RawPeer::dial(port).await;
        cut.send_bytes(&frame(1000, 0, &connect)).await;
        let local = cut.local.to_string();
        drop(cut);
        town.log
            .wait("the cut connection", |line| line.message == "disconnected" && line.field("peer") == local)
            .await;
        town.still_works().await;
    }
}

#[tokio::test]
async fn broken_packets_close_the_connection_with_the_cause_in_the_log() {
    let town = Town::start(Options::default()).await;
    let unknown: &[u8] = b"\xde\xad\xbe\xef";
    for (port, role) in town.ports().into_iter().zip(["worker", "client"]) {
        let early = if role == "worker" {
            to_boxed(&worker::NewCoefficient { new_coefficient: 5 })
        } else {
            to_boxed(&run_query([1; 32]))
        };
        let early_query = if role == "worker" {
            to_boxed(&worker::ProxyHandshakeComplete { is_disabled: false })
        } else {
            to_boxed(&client::AuthorizeWithProxyLong {})
        };
        let packet = |data: &[u8]| Packet::Packet { data: data.to_vec().into() };
        let query = |data: &[u8]| Packet::Query { id: 1, data: data.to_vec().into() };
        let cases = [
            (format!("bad packet from {role}"), packet(unknown)),
            (format!("bad packet from {role}"), packet(&[])),
            (format!("bad packet from {role}"), packet(&[&early[..], &[0; 4]].concat())),
            (format!("bad query from {role}"), query(unknown)),
            (format!("bad query from {role}"), query(&[&early_query[..], &[0; 4]].concat())),
            ("packet before the handshake".to_owned(), packet(&early)),
            (format!("query from {role} at this point"), query(&early_query)),
            ("second opening message".to_owned(), Packet::Connect { id: 5 }),
        ];
        for (cause, bad) in cases {
            let mut peer = RawPeer::open(port).await;
            peer.send(&bad).await;
            peer.closed().await;
            town.log.closed(peer.local, &cause).await;
        }
        // Answers to questions that nobody asked are no harm.
        let mut peer = RawPeer::open(port).await;
        peer.send(&Packet::QueryAnswer { id: 77, data: unknown.to_vec().into() }).await;
        peer.send(&Packet::Ping { id: 8 }).await;
        assert!(matches!(peer.recv().await, Some(Packet::Pong { id: 8 })));
        town.still_works().await;
    }
}

#[tokio::test]
async fn nobody_makes_the_proxy_hold_megabytes_before_the_handshake_is_done() {
    let town = Town::start(Options::default()).await;
    for port in town.ports() {
        let mut peer = RawPeer::open(port).await;
        let mut start = BytesMut::new();
        start.extend_from_slice(&(4_u32 << 20).to_le_bytes());
        start.extend_from_slice(&1_u32.to_le_bytes());
        peer.send_bytes(&start).await;
        peer.closed().await;
        town.log.closed(peer.local, "a frame of 4194304 bytes is outside the limits").await;
    }
    town.still_works().await;
}

#[tokio::test]
async fn a_stranger_who_asks_and_never_reads_is_closed() {
    let town = Town::start(Options::default()).await;
    for port in town.ports() {
        let mut peer = RawPeer::open(port).await;
        let (mut encoder, mut bytes) = (FrameEncoder::new(), BytesMut::new());
        // Frame 0 was the opening.
        encoder.encode_message(&mut BytesMut::new(), &Packet::Connect { id: 5 }).unwrap();
        within("the connection to be closed", async {
            loop {
                bytes.clear();
                for id in 0..10_000 {
                    encoder.encode_message(&mut bytes, &Packet::Ping { id }).unwrap();
                }
                if peer.stream.io.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        })
        .await;
        town.log.closed(peer.local, "does not read what we send").await;
    }
    town.still_works().await;
}

#[tokio::test]
async fn workers_with_absurd_terms_are_refused_in_words_and_never_listed() {
    let town = Town::start(Options::default()).await;
    let with = |change: &dyn Fn(&mut worker::Params)| {
        let mut params = worker_params(9, 500);
        change(&mut params);
        params
    };
    let limits = |is_test, proxy_cnt, max_active_requests| {
        Some(worker::Limits { is_test, proxy_cnt, max_active_requests })
    };
    let cases = [
        ("coefficient", with(&|params| params.coefficient = -1)),
        ("coefficient", with(&|params| params.coefficient = i32::MAX)),
        ("max_active_requests", with(&|params| params.limits = limits(true, 1, 0))),
        ("max_active_requests", with(&|params| params.limits = limits(true, 1, i32::MIN))),
        ("max_active_requests", with(&|params| params.limits = limits(true, 0, 1))),
        ("test mode mismatch", with(&|params| params.limits = limits(false, 1, 1))),
        ("too old", with(&|params| params.limits = None)),
        ("model name", with(&|params| params.model = ByteStr::default())),
        ("model name", with(&|params| params.model = "@commit:hash".to_owned().into())),
        ("model name", with(&|params| params.model = "m".repeat(513).into())),
        ("model name", with(&|params| params.model = "a\nb".to_owned().into())),
        ("model name", with(&|params| params.model = ByteStr(vec![0xff; 8].into()))),
        ("protocol version", with(&|params| params.proto = Some(ProtoRange { min: 7, max: 9 }))),
        ("protocol version", with(&|params| params.proto = Some(ProtoRange { min: 2, max: 1 }))),
        ("address", with(&|params| params.worker_owner_address = "nowhere".to_owned().into())),
    ];
    for (words, params) in cases {
        let mut peer = RawPeer::open(town.network.proxy.workers_addr()).await;
        let refused =
            peer.query::<worker::ConnectedToProxy>(&worker::ConnectToProxy { params }).await.unwrap_err();
        assert!(refused.contains(words), "{words}: {refused}");
        peer.closed().await;
        town.log.closed(peer.local, words).await;
    }
    town.client.offers(|offers| offers.len() == 1).await;
    town.still_works().await;
}

#[tokio::test]
async fn a_worker_with_room_for_everything_gets_only_what_there_is() {
    let log = Log::capture();
    let network = Network::start().await;
    let (engine, mut calls) = ScriptedEngine::new();
    let mut config = network.worker_config(1);
    config.max_active = u32::MAX;
    let worker = network.worker_with(config, engine).await;
    let client = network.client(11).await;
    client.offers(|offers| offers.iter().any(|offer| offer.limit == i32::MAX.unsigned_abs())).await;
    let exchange = client.submit(&Ask::default());
    within("the call", calls.recv()).await.unwrap().answer("hi");
    assert_eq!(exchange.finish().await.status, 200);
    network.assert_balances(&[&client], &[&worker]).await;
    log.assert_no_errors();
}

#[tokio::test]
async fn a_peer_that_goes_on_sending_after_its_violation_is_gone_all_the_same() {
    let town = Town::start(Options::default()).await;
    let mut peer = RawPeer::open(town.network.proxy.clients_addr()).await;
    let mut bytes = BytesMut::new();
    let mut encoder = FrameEncoder::new();
    // The wrong number first, then a megabyte.
    encoder.encode_message(&mut bytes, &Packet::Ping { id: 1 }).unwrap();
    bytes.resize(1 << 20, 0);
    peer.send_bytes(&bytes).await;
    peer.closed().await;
    town.log.closed(peer.local, "frame number 0 where 1 was due").await;
    until("the proxy to forget it", || town.client.is_up()).await;
    town.still_works().await;
}

fn run_query(request_id: [u8; 32]) -> client::RunQueryEx {
    client::RunQueryEx {
        model_name: MODEL.to_owned().into(),
        query: to_boxed(&http_request(&Ask::default().body)),
        max_coefficient: 4000,
        max_tokens: 100,
        timeout: 10.0,
        request_id,
        min_config_version: 0,
        enable_debug: None,
    }
}
