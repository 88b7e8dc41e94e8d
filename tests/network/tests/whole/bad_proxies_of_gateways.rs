//! What a proxy can do to our gateway and its callers.

use std::sync::Arc;
use std::time::Duration;

use cocoon_chain::StaticChain;
use cocoon_gateway::Gateway;
use cocoon_network_tests::{
    Ask, Event, FakeProxy, FixedEngine, Log, Network, RawPeer, Reply, chat_answer, gateway, gateway_with,
    get, post, root, until, wallet, within,
};
use cocoon_wire::codec::{ByteStr, to_boxed};
use cocoon_wire::tl::proxy::{self, ClientRequestPayment, SignedPayment};
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::tl::{TokensUsed, client, http};
use ed25519_dalek::SigningKey;
use tempfile::TempDir;

/// A gateway that knows only a fake proxy.
struct Town {
    log: Log,
    proxy: FakeProxy,
    gateway: Gateway,
    dir: TempDir,
}

impl Town {
    async fn start() -> Self {
        let log = Log::capture();
        let proxy = FakeProxy::start().await;
        let dir = TempDir::new().unwrap();
        let chain = Arc::new(StaticChain::from_config(root()).unwrap());
        // Each case is about one answer of the proxy's, not about what a second attempt brings.
        let gateway = gateway_with(&[proxy.address], dir.path(), chain, |config| {
            (config.limits.retry.max_attempts, config.limits.retry.patience) = (1, Duration::ZERO);
        })
        .await;
        Self { log, proxy, gateway, dir }
    }

    /// Checks that the gateway closed, says why, comes back, and serves.
    async fn closes_and_comes_back(&mut self, mut peer: RawPeer, cause: &str) {
        while FakeProxy::request(&mut peer).await.is_some() {}
        let address = self.proxy.address.to_string();
        let fits = |line: &Event| line.field("proxy") == address && line.field("why").contains(cause);
        self.log.wait(&format!("why {cause:?}"), fits).await;
        let peer = self.proxy.ready_client(&wallet(11), 100, 100).await;
        self.serves(peer).await;
        self.log.assert_no_errors();
    }

    async fn serves(&self, peer: RawPeer) {
        let (reply, _peer) = self.ask(peer, |id| Some(complete(id, Vec::new()))).await;
        assert_eq!(reply.status, 200, "{reply:?}");
    }

    /// Asks the gateway, and lets the proxy answer so, or go away.
    async fn ask(&self, mut peer: RawPeer, says: impl Fn([u8; 32]) -> Option<Packet>) -> (Reply, RawPeer) {
        within("the gateway to be ready", self.gateway.ready()).await;
        let body = Ask::default().body;
        let answering = async {
            let query = FakeProxy::request(&mut peer).await.expect("a request");
            match says(query.request_id) {
                Some(packet) => {
                    peer.send(&packet).await;
                    peer
                }
                None => {
                    drop(peer);
                    // What follows is not looked at.
                    RawPeer::dial(self.proxy.address).await
                }
            }
        };
        tokio::join!(post(self.gateway.http_addr(), &body), answering)
    }
}

fn response(status_code: i32, headers: Vec<http::Header>) -> http::Response {
    http::Response {
        http_version: ByteStr::from_static("HTTP/1.1"),
        status_code,
        reason: ByteStr::from_static("OK"),
        headers,
        payload: chat_answer("hello"),
    }
}

fn final_info(tokens: i64) -> client::QueryFinalInfo {
    let tokens_used =
        TokensUsed { prompt_tokens_used: tokens, total_tokens_used: tokens, ..TokensUsed::default() };
    client::QueryFinalInfo { tokens_used, debug: None, timings: None }
}

fn packet(message: &impl cocoon_wire::codec::Message) -> Packet {
    Packet::Packet { data: to_boxed(message) }
}

fn complete(request_id: [u8; 32], mut headers: Vec<http::Header>) -> Packet {
    headers.push(header("Content-Type", "application/json"));
    let answer = to_boxed(&response(200, headers));
    packet(&client::QueryAnswerEx { request_id, answer, final_info: Some(final_info(15)) })
}

fn header(name: &str, value: &str) -> http::Header {
    http::Header { name: name.to_owned().into(), value: value.to_owned().into() }
}

fn notice(db_tokens: i64, max_tokens: i64, signed_payment: SignedPayment) -> Packet {
    packet(&ClientRequestPayment {
        request_id: [1; 32],
        signed_payment,
        db_tokens,
        max_tokens,
        request_tokens: 1,
    })
}

#[tokio::test]
async fn a_proxy_with_false_terms_is_left_and_tried_again() {
    type Change = fn(&mut proxy::Params);
    let cases: [(&str, Change); 5] = [
        ("does not follow from its key", |params| {
            params.proxy_sc_address = wallet(77).to_wire_string(false).into();
        }),
        ("does not follow from its key", |params| params.proxy_public_key = [5; 32]),
        ("test mode mismatch", |params| params.is_test = Some(false)),
        ("protocol version 7", |params| params.proto_version = Some(7)),
        ("address", |params| params.proxy_sc_address = "nonsense".to_owned().into()),
    ];
    for (cause, change) in cases {
        let mut town = Town::start().await;
        let mut params = town.proxy.params();
        change(&mut params);
        let peer = town.proxy.greet_client(&wallet(11), params).await;
        town.closes_and_comes_back(peer, cause).await;
    }
    let mut town = Town::start().await;
    let params = town.proxy.params();
    let peer = town.proxy.greet_client(&wallet(12), params).await;
    town.closes_and_comes_back(peer, "the proxy names contract").await;
}

#[tokio::test]
async fn orders_that_do_not_verify_and_figures_that_make_no_sense_end_the_connection() {
    let other = SigningKey::from_bytes(&[8; 32]);
    for case in 0..8 {
        let mut town = Town::start().await;
        let key = town.proxy.key.clone();
        let peer = &mut town.proxy.ready_client(&wallet(11), 80, 100).await;
        until("the first counters", || town.gateway.spent().tokens.get() == 80).await;
        let (cause, bad) = match case {
            0 => ("", notice(90, 100, town.proxy.charge(&wallet(11), 90, &other))),
            1 => ("", notice(90, 100, town.proxy.charge(&wallet(12), 90, &key))),
            2 => ("", notice(90, 100, SignedPayment::Signed { data: b"no cells".to_vec().into() })),
            3 => ("signed for 1000 tokens", notice(90, 100, town.proxy.charge(&wallet(11), 1000, &key))),
            4 => ("went back", notice(50, 100, SignedPayment::Empty)),
            5 => ("-1", notice(-1, 100, SignedPayment::Empty)),
            6 => ("-1", notice(90, -1, SignedPayment::Empty)),
            _ => ("bad packet from proxy", Packet::Packet { data: vec![0xff; 8].into() }),
        };
        peer.send(&bad).await;
        peer.closed().await;
        let fits = |line: &Event| line.field("why").contains(cause) && !line.field("proxy").is_empty();
        town.log.wait(&format!("why {cause:?}"), fits).await;
        assert_eq!(town.gateway.spent().tokens.get(), 80, "what did not verify counted for nothing");
        let peer = town.proxy.ready_client(&wallet(11), 100, 100).await;
        town.serves(peer).await;
    }
}

#[tokio::test]
async fn a_proxy_that_lost_its_books_is_refused_also_by_a_restarted_gateway() {
    let mut town = Town::start().await;
    let peer = town.proxy.ready_client(&wallet(11), 100, 100).await;
    until("the counters", || town.gateway.spent().tokens.get() == 100).await;
    drop(peer);
    for restart in [false, true] {
        if restart {
            within("the gateway to stop", town.gateway.shutdown()).await;
            let chain = Arc::new(StaticChain::from_config(root()).unwrap());
            town.gateway = gateway(&[town.proxy.address], town.dir.path(), chain).await;
        }
        let params = town.proxy.params();
        let mut peer = town.proxy.greet_client(&wallet(11), params).await;
        FakeProxy::let_in(&mut peer, 50, 50, SignedPayment::Empty).await;
        while FakeProxy::request(&mut peer).await.is_some() {}
        let wanted = 1 + usize::from(restart);
        town.log
            .wait_count("books that went back", wanted, |line| line.field("why").contains("went back"))
            .await;
        assert_eq!(town.gateway.spent().tokens.get(), 100, "the higher figure stands");
    }
    let peer = town.proxy.ready_client(&wallet(11), 100, 100).await;
    town.serves(peer).await;
}

#[tokio::test]
async fn answers_that_are_none_reach_the_caller_as_an_error_in_http() {
    type Says = fn([u8; 32]) -> Option<Packet>;
    let cases: [(&str, Says); 7] = [
        ("undecodable", |request_id| {
            let answer = b"no TL at all".to_vec().into();
            Some(packet(&client::QueryAnswerEx { request_id, answer, final_info: None }))
        }),
        ("no HTTP", |request_id| {
            let answer = to_boxed(&response(42, Vec::new()));
            Some(packet(&client::QueryAnswerEx { request_id, answer, final_info: Some(final_info(1)) }))
        }),
        ("part before the head", |request_id| {
            let answer = b"more".to_vec().into();
            Some(packet(&client::QueryAnswerPartEx { request_id, answer, final_info: None }))
        }),
        ("unknown constructor", |_| Some(Packet::Packet { data: vec![0xff; 8].into() })),
        ("an error without final info", |request_id| {
            let error = "bad\r\nSet-Cookie: x".to_owned().into();
            Some(packet(&client::QueryAnswerErrorEx { request_id, error_code: -7, error, final_info: None }))
        }),
        ("an old error", |request_id| {
            let error = "too bad".to_owned().into();
            let tokens_used = TokensUsed::default();
            Some(packet(&client::QueryAnswerError {
                error_code: 651,
                error,
                request_id,
                request_tokens_used: tokens_used,
            }))
        }),
        ("a connection that ends", |_| None),
    ];
    for (name, says) in cases {
        let mut town = Town::start().await;
        let peer = town.proxy.ready_client(&wallet(11), 0, 0).await;
        let (reply, peer) = town.ask(peer, says).await;
        assert!((500..600).contains(&reply.status), "{name}: {reply:?}");
        let error: serde_json::Value = serde_json::from_str(&reply.body).unwrap_or_default();
        assert!(error["error"]["message"].is_string(), "{name}: {reply:?}");
        assert!(!reply.head.contains("set-cookie"), "{name}: {reply:?}");
        drop(peer);
        assert_eq!(get(town.gateway.http_addr(), "/v1/models").await.status, 200, "{name}");
        town.log.assert_no_errors();
    }
}

#[tokio::test]
async fn headers_that_would_break_a_caller_are_left_out() {
    let mut town = Town::start().await;
    let peer = town.proxy.ready_client(&wallet(11), 0, 0).await;
    let says = |id| {
        let headers = vec![
            header("X-Evil", "a\r\nSet-Cookie: stolen"),
            header("X-Evil\r\nX-Two", "b"),
            header("Content-Length", "99999"),
            header("Transfer-Encoding", "chunked"),
        ];
        Some(complete(id, headers))
    };
    let (reply, _peer) = town.ask(peer, says).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    for bad in ["evil", "set-cookie", "x-two", "99999"] {
        assert!(!reply.head.contains(bad), "{bad}: {reply:?}");
    }
    assert!(reply.body.contains("hello"), "{reply:?}");
}

#[tokio::test]
async fn a_bad_proxy_beside_a_good_one_costs_callers_nothing() {
    let log = Log::capture();
    let network = Network::start().await;
    let worker = network.worker(1, FixedEngine("hello".into())).await;
    let mut bad = FakeProxy::start().await;
    let proxies = [network.proxy.clients_addr(), bad.address];
    let gateway = gateway(&proxies, network.dir.path(), network.chain.clone()).await;
    within("the gateway to be ready", gateway.ready()).await;
    let misbehaving = async {
        for round in 0..4 {
            let params = bad.params();
            let mut peer = bad.greet_client(&wallet(11), params).await;
            let order = bad.charge(&wallet(11), 0, &bad.key.clone());
            FakeProxy::let_in(&mut peer, 0, 0, order).await;
            // The first request that comes, or the first question, is answered with nonsense.
            let _ = peer.recv().await;
            if round % 2 == 0 {
                peer.send_bytes(&[0xff; 64]).await;
                peer.closed().await;
            }
        }
    };
    let asking = async {
        for _ in 0..40 {
            let reply = post(gateway.http_addr(), &Ask::default().body).await;
            assert_eq!(reply.status, 200, "{reply:?}");
        }
    };
    tokio::join!(misbehaving, asking);
    until("the notices", || gateway.spent().tokens == network.proxy.books().charged).await;
    until("the worker's notices", || worker.earned().tokens == network.proxy.books().charged).await;
    assert_eq!(gateway.spent().nanoton, network.proxy.books().paid);
    log.assert_no_errors();
}
