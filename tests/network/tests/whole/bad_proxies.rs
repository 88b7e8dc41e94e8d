//! What a proxy can do to our worker and our client.

use std::sync::Arc;

use cocoon_attest::Policy;
use cocoon_chain::StaticChain;
use cocoon_network_tests::{
    Ask, Event, FakeProxy, FixedEngine, Log, Network, RawPeer, root, tls, until, wallet, within,
};
use cocoon_wire::codec::to_boxed;
use cocoon_wire::tl::proxy::{self, SignedPayment};
use cocoon_wire::tl::tcp::Packet;
use cocoon_worker::{Worker, WorkerConfig};
use ed25519_dalek::SigningKey;
use tempfile::TempDir;

/// A worker that knows only a fake proxy.
struct Town {
    log: Log,
    proxy: FakeProxy,
    config: WorkerConfig,
    worker: Worker,
    _dir: TempDir,
}

async fn start(config: WorkerConfig) -> Worker {
    let chain = Arc::new(StaticChain::from_config(root()).unwrap());
    let engine = Arc::new(FixedEngine("hello".into()));
    cocoon_worker::start(config, tls("none", Policy::any()), chain, engine).await.unwrap()
}

impl Town {
    async fn start() -> Self {
        let log = Log::capture();
        let proxy = FakeProxy::start().await;
        let dir = TempDir::new().unwrap();
        let config = Network::worker_config_for(proxy.address, dir.path(), 1);
        let worker = start(config.clone()).await;
        Self { log, proxy, config, worker, _dir: dir }
    }

    /// Checks that the worker closed, says why, and comes back.
    async fn closes_and_comes_back(&mut self, mut peer: RawPeer, cause: &str) {
        peer.closed().await;
        let address = self.proxy.address.to_string();
        let fits = |line: &Event| line.field("proxy") == address && line.field("cause").contains(cause);
        self.log.wait(&format!("cause {cause:?}"), fits).await;
        let peer = self.proxy.ready(1, 100, 100).await;
        self.answers(peer).await;
        self.log.assert_no_errors();
    }

    async fn answers(&mut self, mut peer: RawPeer) {
        peer.packet(&query(1)).await;
        let answer: proxy::QueryAnswerEx = peer.recv_message().await;
        assert_eq!(answer.request_id, [1; 32]);
    }
}

fn query(number: u8) -> proxy::RunQueryEx {
    proxy::RunQueryEx {
        query: to_boxed(&cocoon_network_tests::http_request(&Ask::default().body)),
        signed_payment: SignedPayment::Empty,
        coefficient: 1000,
        timeout: 10.0,
        request_id: [number; 32],
        enable_debug: None,
    }
}

fn notice(db_tokens: i64, max_tokens: i64, signed_payment: SignedPayment) -> proxy::WorkerRequestPayment {
    proxy::WorkerRequestPayment {
        request_id: [1; 32],
        signed_payment,
        db_tokens,
        max_tokens,
        request_tokens: 1,
        request_client_owner: Default::default(),
    }
}

#[tokio::test]
async fn a_proxy_with_false_terms_is_left_and_tried_again() {
    type Change = fn(&mut proxy::Params);
    let cases: [(&str, Change); 7] = [
        ("does not follow from its key", |params| {
            params.proxy_sc_address = wallet(77).to_wire_string(false).into();
        }),
        ("does not follow from its key", |params| params.proxy_public_key = [5; 32]),
        ("does not follow from its key", |params| {
            params.proxy_owner_address = wallet(77).to_wire_string(false).into();
        }),
        ("test mode mismatch", |params| params.is_test = Some(false)),
        ("protocol version 7", |params| params.proto_version = Some(7)),
        ("protocol version -1", |params| params.proto_version = Some(-1)),
        ("address", |params| params.proxy_sc_address = "nonsense".to_owned().into()),
    ];
    for (cause, change) in cases {
        let mut town = Town::start().await;
        let mut params = town.proxy.params();
        change(&mut params);
        let peer = town.proxy.greet(1, params).await;
        town.closes_and_comes_back(peer, cause).await;
    }
    let mut town = Town::start().await;
    let params = town.proxy.params();
    let peer = town.proxy.greet(2, params).await;
    town.closes_and_comes_back(peer, "the proxy names contract").await;
}

#[tokio::test]
async fn orders_that_do_not_verify_are_refused() {
    for case in 0..5 {
        let mut town = Town::start().await;
        let (key, other) = (town.proxy.key.clone(), SigningKey::from_bytes(&[8; 32]));
        let bad = match case {
            0 => town.proxy.order(1, 50, &other),
            1 => town.proxy.order(2, 50, &key),
            2 => SignedPayment::Signed { data: b"no cells".to_vec().into() },
            3 => SignedPayment::Signed { data: Vec::new().into() },
            _ => {
                let SignedPayment::Signed { data } = town.proxy.order(1, 50, &key) else { unreachable!() };
                let mut bytes = data.to_vec();
                let last = bytes.len() - 9;
                bytes[last] ^= 1;
                SignedPayment::Signed { data: bytes.into() }
            }
        };
        if case % 2 == 0 {
            let mut peer = town.proxy.ready(1, 0, 0).await;
            peer.packet(&notice(50, 50, bad)).await;
            town.closes_and_comes_back(peer, "").await;
        } else {
            let params = town.proxy.params();
            let mut peer = town.proxy.greet(1, params).await;
            FakeProxy::compare(&mut peer, 50, 50, bad).await.unwrap();
            town.closes_and_comes_back(peer, "").await;
        }
        assert_eq!(town.worker.earned().tokens.get(), 100, "what did not verify counted for nothing");
    }
}

#[tokio::test]
async fn counters_that_go_back_or_make_no_sense_end_the_connection() {
    let cases = [
        ("went back", 50, 100),
        ("went back", 60, 60),
        ("-1", -1, 100),
        ("-1", 100, -1),
        ("", i64::MIN, i64::MAX),
        ("db_tokens (101) than max_tokens (100)", 101, 100),
    ];
    for (cause, db, max) in cases {
        let mut town = Town::start().await;
        let mut peer = town.proxy.ready(1, 80, 100).await;
        until("the first counters", || town.worker.earned().tokens.get() == 80).await;
        peer.packet(&notice(db, max, SignedPayment::Empty)).await;
        town.closes_and_comes_back(peer, cause).await;
    }
}

#[tokio::test]
async fn a_proxy_that_lost_its_books_is_refused_for_ever_also_by_a_restarted_worker() {
    let mut town = Town::start().await;
    let peer = town.proxy.ready(1, 100, 120).await;
    until("the counters", || town.worker.earned().tokens.get() == 100).await;
    drop(peer);
    let refused = async |town: &mut Town| {
        let params = town.proxy.params();
        let mut peer = town.proxy.greet(1, params).await;
        let known = FakeProxy::compare(&mut peer, 50, 50, SignedPayment::Empty).await.unwrap();
        peer.closed().await;
        known
    };
    assert_eq!(refused(&mut town).await, 100, "what was never durable may be lost");
    let fits = |line: &Event| line.field("cause").contains("went back");
    town.log.wait("books that went back", fits).await;
    assert_eq!(town.worker.earned().tokens.get(), 100, "the higher figure stands");

    within("the worker to stop", town.worker.shutdown()).await;
    town.worker = start(town.config.clone()).await;
    assert_eq!(refused(&mut town).await, 100);
    // An honest one is taken back.
    let peer = town.proxy.ready(1, 100, 100).await;
    town.answers(peer).await;
}

#[tokio::test]
async fn requests_that_make_no_sense_are_answered_with_an_error_on_a_connection_that_stays() {
    let mut town = Town::start().await;
    let mut peer = town.proxy.ready(1, 0, 0).await;
    let mut cases = Vec::new();
    let mut case = |change: &dyn Fn(&mut proxy::RunQueryEx)| {
        let mut query = query(10 + u8::try_from(cases.len()).unwrap());
        change(&mut query);
        cases.push(query);
    };
    let http = |change: &dyn Fn(&mut cocoon_wire::tl::http::Request)| {
        let mut request = cocoon_network_tests::http_request(&Ask::default().body);
        change(&mut request);
        to_boxed(&request)
    };
    case(&|query| query.query = vec![0xff; 16].into());
    case(&|query| query.query = Vec::new().into());
    case(&|query| query.coefficient = -1);
    case(&|query| query.coefficient = i64::MAX);
    case(&|query| query.query = http(&|request| request.payload = b"{".to_vec().into()));
    case(&|query| query.query = http(&|request| request.payload = Vec::new().into()));
    case(&|query| query.query = http(&|request| request.url = "/v1/unload_model".to_owned().into()));
    case(&|query| query.query = http(&|request| request.url = "/v1/../admin".to_owned().into()));
    case(&|query| query.query = http(&|request| request.method = "DELETE".to_owned().into()));
    case(&|query| query.query = http(&|request| request.payload = b"{\"model\":\"other\"}".to_vec().into()));
    for query in &cases {
        peer.packet(query).await;
        let answer: proxy::QueryAnswerEx = peer.recv_message().await;
        assert_eq!(answer.request_id, query.request_id);
        let head: cocoon_wire::tl::http::Response = cocoon_wire::codec::from_boxed(answer.answer).unwrap();
        assert_eq!(head.status_code, 400, "request {}", query.request_id[0]);
        let info = answer.final_info.expect("published proxies die without it");
        assert_eq!(info.tokens_used.total_tokens_used, 0);
    }
    for timeout in [f64::NAN, f64::INFINITY, -1.0] {
        let mut odd = query(40);
        odd.timeout = timeout;
        peer.packet(&odd).await;
        let answer: proxy::QueryAnswerEx = peer.recv_message().await;
        assert_eq!(answer.request_id, odd.request_id);
    }
    town.answers(peer).await;
    town.log.assert_no_errors();
}

/// The status that a proxy without extensions gets, and the tokens claimed.
async fn outcome(peer: &mut RawPeer, query: &proxy::RunQueryEx) -> (i32, i64) {
    peer.packet(query).await;
    let answer: proxy::QueryAnswerEx = peer.recv_message().await;
    assert_eq!(answer.request_id, query.request_id);
    let head: cocoon_wire::tl::http::Response = cocoon_wire::codec::from_boxed(answer.answer).unwrap();
    (head.status_code, answer.final_info.unwrap().tokens_used.total_tokens_used)
}

#[tokio::test]
async fn a_proxy_does_not_name_the_price() {
    let mut town = Town::start().await;
    let mut peer = town.proxy.ready(1, 0, 0).await;
    let at = |number, coefficient| proxy::RunQueryEx { coefficient, ..query(number) };
    assert_eq!(outcome(&mut peer, &at(1, 1000)).await, (200, 15));
    for (number, price) in [(2, 0), (3, 999), (4, 1001)] {
        assert_eq!(outcome(&mut peer, &at(number, price)).await, (503, 0), "{price}");
    }
    town.worker.set_coefficient(2000).unwrap();
    let _: cocoon_wire::tl::worker::NewCoefficient = peer.recv_message().await;
    assert_eq!(outcome(&mut peer, &at(5, 2000)).await, (200, 30));
    assert_eq!(outcome(&mut peer, &at(6, 1000)).await, (200, 15), "it may have been under way");
    assert_eq!(outcome(&mut peer, &at(7, 1500)).await, (503, 0));
    town.answers(peer).await;
    town.log.assert_no_errors();
}

#[tokio::test]
async fn a_proxy_that_credits_less_than_was_claimed_is_seen() {
    let mut town = Town::start().await;
    let mut peer = town.proxy.ready(1, 0, 0).await;
    for (number, credited, counter) in [(1, 15, 15), (2, 14, 29), (3, 15, 44)] {
        assert_eq!(outcome(&mut peer, &query(number)).await, (200, 15));
        let notice = proxy::WorkerRequestPayment {
            request_id: [number; 32],
            request_tokens: credited,
            ..notice(counter, counter, SignedPayment::Empty)
        };
        peer.packet(&notice).await;
        let earned = || town.worker.earned().tokens.get() == counter.cast_unsigned();
        until("the notice", earned).await;
    }
    let short: Vec<Event> =
        town.log.lines().into_iter().filter(|line| line.message.contains("less than was claimed")).collect();
    assert_eq!(short.iter().map(|line| line.field("missing")).collect::<Vec<_>>(), ["1"]);
    town.log.assert_no_errors();
}

#[tokio::test]
async fn words_that_break_the_protocol_end_the_connection() {
    let unknown = Packet::Packet { data: vec![0xff; 8].into() };
    let negative =
        Packet::Packet { data: to_boxed(&cocoon_wire::tl::ext::Credit { request_id: [1; 32], bytes: -1 }) };
    let cases = [
        ("bad packet from proxy", unknown),
        ("negative credit", negative),
        ("second opening message", Packet::Connect { id: 1 }),
    ];
    for (cause, packet) in cases {
        let mut town = Town::start().await;
        let mut peer = town.proxy.ready(1, 0, 0).await;
        // Questions and strange answers are no harm.
        peer.send(&Packet::Query { id: 1, data: vec![1; 4].into() }).await;
        assert!(matches!(peer.recv().await, Some(Packet::QueryError { id: 1, .. })));
        peer.send(&Packet::QueryAnswer { id: 5, data: vec![1; 4].into() }).await;
        peer.send(&packet).await;
        town.closes_and_comes_back(peer, cause).await;
    }
}
