//! What a client can send once it was let in.

use cocoon_network_tests::{
    Ask, FixedEngine, Log, MODEL, Network, RawPeer, ScriptedEngine, http_request, ready_client, until, within,
};
use cocoon_wire::codec::{from_boxed, to_boxed};
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::tl::{client, ext, http, proxy};

fn query(request_id: u8) -> client::RunQueryEx {
    client::RunQueryEx {
        model_name: MODEL.to_owned().into(),
        query: to_boxed(&http_request(&Ask::default().body)),
        max_coefficient: 4000,
        max_tokens: 100,
        timeout: 10.0,
        request_id: [request_id; 32],
        min_config_version: 0,
        enable_debug: None,
    }
}

/// Sends a query, and returns the status of its answer, which must be a complete one in a form that every client bears.
async fn status_of(peer: &mut RawPeer, query: &client::RunQueryEx) -> i32 {
    peer.packet(query).await;
    let mut status = None;
    loop {
        match peer.recv().await.expect("an answer, not the end") {
            Packet::Packet { data } => {
                if let Ok(answer) = from_boxed::<client::QueryAnswerEx>(data.clone()) {
                    let head: http::Response = from_boxed(answer.answer).unwrap();
                    if answer.final_info.is_some() {
                        return head.status_code;
                    }
                    status = Some(head.status_code);
                } else if let Ok(part) = from_boxed::<client::QueryAnswerPartEx>(data)
                    && part.final_info.is_some()
                {
                    return status.expect("a head comes first");
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn absurd_numbers_in_queries_are_answered_with_an_error_and_cost_nothing() {
    let log = Log::capture();
    let network = Network::start().await;
    let worker = network.worker(1, FixedEngine("hello".into())).await;
    let client = network.client(11).await;
    let mut bad = ready_client(network.proxy.clients_addr(), 12, true).await;
    let mut cases = Vec::new();
    let mut case = |name, status, change: &dyn Fn(&mut client::RunQueryEx)| {
        let mut query = query(u8::try_from(cases.len()).unwrap());
        change(&mut query);
        cases.push((name, status, query));
    };
    case("negative max_tokens", 400, &|query| query.max_tokens = -1);
    case("lowest max_tokens", 400, &|query| query.max_tokens = i32::MIN);
    case("negative coefficient", 400, &|query| query.max_coefficient = -1);
    case("absurd coefficient", 400, &|query| query.max_coefficient = i32::MAX);
    case("more than the account holds", 402, &|query| {
        (query.max_tokens, query.max_coefficient) = (i32::MAX, 999_999_999);
    });
    case("timeout that is no number", 400, &|query| query.timeout = f64::NAN);
    case("negative timeout", 400, &|query| query.timeout = -1.0);
    case("no timeout", 400, &|query| query.timeout = 0.0);
    case("infinite timeout", 400, &|query| query.timeout = f64::INFINITY);
    case("negatively infinite timeout", 400, &|query| query.timeout = f64::NEG_INFINITY);
    case("unknown model", 404, &|query| query.model_name = "no/such".to_owned().into());
    case("empty model", 404, &|query| query.model_name = String::new().into());
    case("config from the future", 503, &|query| query.min_config_version = i32::MAX);
    case("negative config version", 503, &|query| query.min_config_version = -1);
    case("query that is none", 400, &|query| query.query = vec![1, 2, 3, 4].into());
    case("empty query", 400, &|query| query.query = Vec::new().into());
    for (name, status, query) in &cases {
        assert_eq!(status_of(&mut bad, query).await, *status, "{name}");
        network.assert_serves(&client).await;
    }
    // A very long time is shortened, and served.
    let mut long = query(200);
    long.timeout = 1e300;
    assert_eq!(status_of(&mut bad, &long).await, 200);
    let cost = loop {
        let notice: proxy::ClientRequestPayment = bad.recv_message().await;
        if notice.request_id == long.request_id {
            break notice;
        }
        assert_eq!(notice.request_tokens, 0, "an error costs nothing");
    };
    assert_eq!((cost.request_tokens, cost.db_tokens), (15, 15));
    assert_eq!(network.proxy.books().charged.get(), 15 * (cases.len() as u64 + 1));
    until("the worker's notices", || worker.earned().tokens == network.proxy.books().charged).await;
    log.assert_no_errors();
}

#[tokio::test]
async fn a_request_id_in_use_is_refused_and_the_first_request_goes_on() {
    let log = Log::capture();
    let network = Network::start().await;
    let (engine, mut calls) = ScriptedEngine::new();
    let worker = network.worker(1, engine).await;
    let mut bad = ready_client(network.proxy.clients_addr(), 12, true).await;
    bad.packet(&query(1)).await;
    let call = within("the call", calls.recv()).await.unwrap();
    assert_eq!(status_of(&mut bad, &query(1)).await, 400);
    call.answer("first");
    let answer: client::QueryAnswerEx = bad.recv_message().await;
    assert_eq!(from_boxed::<http::Response>(answer.answer).unwrap().status_code, 200);
    let notice: proxy::ClientRequestPayment = bad.recv_message().await;
    assert_eq!(notice.request_tokens, 15);
    assert_eq!(network.proxy.books().charged.get(), 15, "charged once");
    let _ = worker;
    log.assert_no_errors();
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_while_others_work_is_closed_alone() {
    let log = Log::capture();
    let network = Network::start().await;
    let worker = network.worker(1, FixedEngine("hello".into())).await;
    let client = network.client(11).await;
    let unknown = Packet::Packet { data: vec![0xff; 8].into() };
    let credit = |bytes| Packet::Packet { data: to_boxed(&ext::Credit { request_id: [1; 32], bytes }) };
    let again = Packet::Query { id: 1, data: to_boxed(&client::AuthorizeWithProxyLong {}) };
    let cases = [
        ("bad packet from client", unknown),
        ("negative credit", credit(-1)),
        ("negative credit", credit(i64::MIN)),
        ("query from client at this point", again),
        ("second opening message", Packet::Connected { id: 5 }),
    ];
    for (cause, packet) in cases {
        let mut bad = ready_client(network.proxy.clients_addr(), 12, true).await;
        // Credit and cancels for what never was are no harm.
        bad.send(&credit(i64::MAX)).await;
        bad.packet(&ext::Cancel { request_id: [9; 32] }).await;
        bad.send(&packet).await;
        bad.closed().await;
        let line = log.closed(bad.local, cause).await;
        assert_eq!(line.field("role"), "Client");
        network.assert_serves(&client).await;
    }
    network.assert_balances(&[&client], &[&worker]).await;
    log.assert_no_errors();
}

#[tokio::test]
async fn a_client_without_the_secret_is_refused_in_words() {
    let log = Log::capture();
    let network = Network::start().await;
    let mut bad = RawPeer::open(network.proxy.clients_addr()).await;
    let params = client::Params {
        ext_flags: 0,
        client_owner_address: cocoon_network_tests::wallet(12).to_wire_string(false).into(),
        is_test: Some(true),
        proto: Some(cocoon_wire::tl::ProtoRange { min: 1, max: 2 }),
    };
    let _: client::ConnectedToProxy =
        bad.query(&client::ConnectToProxy { params, min_config_version: 0 }).await.unwrap();
    let refused = bad
        .query::<client::AuthorizationWithProxy>(&client::AuthorizeWithProxyShort {
            data: b"guess".to_vec().into(),
        })
        .await
        .unwrap_err();
    assert!(refused.contains("mismatch"), "{refused}");
    bad.closed().await;
    log.closed(bad.local, "mismatch").await;
}
