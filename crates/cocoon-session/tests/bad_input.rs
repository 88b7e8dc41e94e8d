//! Whatever a peer says: its own connection is closed or its request is answered with an error, and nobody else notices.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_session::Violation;
use cocoon_ton::Address;
use cocoon_wire::codec::{from_boxed, to_boxed};
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::tl::{ProxyToClient, TokensUsed, client, ext, http, proxy, worker};
use proptest::prelude::*;
use support::*;

/// A client and a worker that are well, and a stranger who is about to speak.
fn bystanders() -> (Net, Raw, Raw) {
    let mut net = Net::new(proxy_settings());
    let client = raw_client(&mut net, true);
    let worker = raw_worker(&mut net, true);
    (net, client, worker)
}

fn stranger(net: &mut Net, opened: bool) -> Raw {
    let conn = net.open();
    net.proxy.add_client(conn, net.now);
    let mut raw = Raw::new(conn);
    if opened {
        raw.connect(net);
    }
    raw
}

#[test]
fn broken_frames_close_their_connection_only() {
    let (mut net, mut client, mut worker) = bystanders();
    let frames: [(&str, &[u8]); 5] = [
        ("a wrong sequence number", &[4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]),
        ("a giant length", &[255, 255, 255, 127]),
        ("a length that is one too large", &[1, 0, 0, 1]),
        ("a length that is too small", &[3, 0, 0, 0]),
        ("an unknown constructor", &[4, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]),
    ];
    for (number, (what, bytes)) in (1_u8..).zip(frames) {
        let raw = stranger(&mut net, false);
        assert!(net.feed(raw.conn, bytes).is_err(), "{what} passes");
        works(&mut net, &mut client, &mut worker, number);
    }
}

#[test]
fn what_comes_out_of_order_in_the_opening_closes_the_connection() {
    let (mut net, mut client, mut worker) = bystanders();
    for packet in [Packet::Ping { id: 1 }, Packet::Connected { id: 1 }, Packet::Packet { data: Bytes::new() }]
    {
        let mut raw = stranger(&mut net, false);
        assert!(raw.send(&mut net, &packet).is_err(), "the first packet is {packet:?}");
    }
    let mut raw = stranger(&mut net, true);
    assert!(raw.send(&mut net, &Packet::Connect { id: 2 }).is_err(), "a second opening");
    let mut raw = stranger(&mut net, true);
    assert!(raw.say(&mut net, &query(1)).is_err(), "a request before the handshake");
    let mut raw = stranger(&mut net, true);
    assert!(raw.ask(&mut net, &worker_hello(true)).is_err(), "a worker at the clients' port");
    let mut raw = stranger(&mut net, true);
    raw.ask(&mut net, &client_hello(true)).unwrap();
    assert!(raw.ask(&mut net, &client_hello(true)).is_err(), "a second handshake");
    works(&mut net, &mut client, &mut worker, 1);
}

#[test]
fn trailing_bytes_and_unknown_messages_close_the_connection() {
    let (mut net, mut client, mut worker) = bystanders();
    for data in [[to_boxed(&query(1)), Bytes::from_static(&[0; 4])].concat(), vec![9; 8], Vec::new()] {
        let mut raw = raw_client(&mut net, true);
        assert!(raw.say_bytes(&mut net, data.into()).is_err());
    }
    works(&mut net, &mut client, &mut worker, 1);
}

#[test]
fn a_handshake_that_makes_no_sense_is_refused_in_words() {
    let (mut net, mut client, mut worker) = bystanders();
    let refused = |net: &mut Net, change: &dyn Fn(&mut worker::ConnectToProxy)| {
        let mut hello = worker_hello(true);
        change(&mut hello);
        let conn = net.open();
        net.proxy.add_worker(conn, attested(conn), net.now);
        let mut raw = Raw::new(conn);
        raw.connect(net);
        let answer = raw.ask(net, &hello).unwrap();
        assert!(matches!(answer.as_slice(), [Packet::QueryError { .. }]), "{answer:?}");
        assert!(net.doomed.contains_key(&conn), "it is to be closed");
    };
    refused(&mut net, &|hello| hello.params.coefficient = -1);
    refused(&mut net, &|hello| hello.params.coefficient = i32::MAX);
    refused(&mut net, &|hello| hello.params.model = "".into());
    refused(&mut net, &|hello| hello.params.model = "@".into());
    refused(&mut net, &|hello| hello.params.model = "a\nb".into());
    refused(&mut net, &|hello| hello.params.worker_owner_address = "nowhere".into());
    refused(&mut net, &|hello| hello.params.limits.as_mut().unwrap().proxy_cnt = 0);
    refused(&mut net, &|hello| hello.params.limits.as_mut().unwrap().max_active_requests = i32::MIN);
    refused(&mut net, &|hello| hello.params.limits = None);
    refused(&mut net, &|hello| hello.params.proto.as_mut().unwrap().min = 3);
    works(&mut net, &mut client, &mut worker, 1);
}

/// A worker breaks the protocol in the midst of a request; its client gets an error, others nothing.
fn worker_breaks(what: &str, begun: bool, message: impl Fn([u8; 32]) -> Bytes) {
    let mut net = Net::new(proxy_settings());
    let mut bad = raw_worker(&mut net, true);
    let mut client = raw_client(&mut net, true);
    let mut bystander = raw_client(&mut net, true);
    client.say(&mut net, &query(1)).unwrap();
    let request = asked(&mut net, &mut bad);
    if begun {
        bad.say(&mut net, &head(request, None)).unwrap();
    }
    assert!(bad.say_bytes(&mut net, message(request)).is_err(), "{what} passes");
    let messages = answers(&mut net, &mut client);
    match (begun, messages.as_slice()) {
        (false, [ProxyToClient::QueryAnswerEx(m)]) => assert!(m.final_info.is_some()),
        (true, [ProxyToClient::QueryAnswerEx(_), ProxyToClient::QueryAnswerErrorEx(_)]) => {}
        other => panic!("{what}: {other:?}"),
    }
    let mut good = raw_worker(&mut net, true);
    works(&mut net, &mut bystander, &mut good, 2);
    assert_eq!((net.proxy.in_flight(), net.proxy.ledger().reservations()), (0, 0));
}

#[test]
fn a_worker_that_breaks_the_protocol_loses_its_connection() {
    worker_breaks("a second head", true, |id| to_boxed(&head(id, None)));
    worker_breaks("a part before the head", false, |id| to_boxed(&part(id, None)));
    worker_breaks("a head that is no http.response", false, |id| {
        to_boxed(&proxy::QueryAnswerEx { answer: Bytes::from_static(b"junk"), ..head(id, None) })
    });
    worker_breaks("a status that is none", false, |id| {
        to_boxed(&proxy::QueryAnswerEx { answer: http_head(-1), ..head(id, None) })
    });
    worker_breaks("a negative price", true, |_| to_boxed(&worker::NewCoefficient { new_coefficient: -1 }));
    worker_breaks("an absurd price", false, |_| {
        to_boxed(&worker::NewCoefficient { new_coefficient: i32::MAX })
    });
}

#[test]
fn nothing_new_is_given_to_a_worker_whose_connection_is_being_closed() {
    let (mut net, mut client, mut worker) = bystanders();
    let junk = worker.frame(&Packet::Packet { data: Bytes::from_static(b"junk") });
    net.proxy.receive(worker.conn, &mut BytesMut::from(&junk[..]), net.now).unwrap_err();
    client.say(&mut net, &query(1)).unwrap();
    let messages = answers(&mut net, &mut client);
    let [ProxyToClient::QueryAnswerEx(refused)] = messages.as_slice() else { panic!("{messages:?}") };
    let head: http::Response = from_boxed(refused.answer.clone()).unwrap();
    assert_eq!((head.status_code, net.proxy.in_flight()), (503, 0));
}

#[test]
fn words_about_requests_that_a_worker_does_not_have_are_ignored() {
    let (mut net, mut client, mut worker) = bystanders();
    client.say(&mut net, &query(1)).unwrap();
    let request = asked(&mut net, &mut worker);
    let mut other = raw_worker(&mut net, true);
    other.say(&mut net, &head(request, Some(1_000))).unwrap();
    other.say(&mut net, &part([9; 32], Some(1_000))).unwrap();
    other.say(&mut net, &error(request, 602)).unwrap();
    assert!(answers(&mut net, &mut client).is_empty(), "another worker answered for it");
    worker.say(&mut net, &head(request, Some(7))).unwrap();
    assert_eq!(net.ends.last().map(|end| end.charged), Some(7));
    worker.say(&mut net, &head(request, Some(7))).unwrap();
    assert_eq!(net.proxy.ledger().charged().0.0, 7, "an answer is paid once");
}

#[test]
fn absurd_tokens_are_held_to_what_can_be_true() {
    let absurd = [
        [i64::MIN; 5],
        [-1, -1, -1, -1, i64::MAX],
        [i64::MAX; 5],
        [0, 0, i64::MAX, i64::MAX, -7],
        [1 << 62, 1 << 62, 1 << 62, 1 << 62, 0],
    ];
    let (mut net, mut client, mut worker) = bystanders();
    for (id, [prompt, cached, completion, reasoning, total]) in (1_u8..).zip(absurd) {
        client.say(&mut net, &query(id)).unwrap();
        let request = asked(&mut net, &mut worker);
        let mut message = head(request, Some(0));
        message.final_info.as_mut().unwrap().tokens_used = TokensUsed {
            prompt_tokens_used: prompt,
            cached_tokens_used: cached,
            completion_tokens_used: completion,
            reasoning_tokens_used: reasoning,
            total_tokens_used: total,
        };
        worker.say(&mut net, &message).unwrap();
        let end = net.ends.last().unwrap();
        let most = 4 * (100 + query(id).query.len() as u64);
        assert!(end.charged <= most, "{} tokens are charged", end.charged);
        let told = answers(&mut net, &mut client);
        let [ProxyToClient::QueryAnswerEx(answer)] = told.as_slice() else { panic!("{told:?}") };
        let told = answer.final_info.as_ref().unwrap().tokens_used;
        let classes = [
            told.prompt_tokens_used,
            told.cached_tokens_used,
            told.completion_tokens_used,
            told.reasoning_tokens_used,
        ];
        assert!(classes.iter().all(|class| *class >= 0), "{told:?}");
        let sum = classes.iter().fold(0_i64, |sum, class| sum.checked_add(*class).unwrap());
        assert_eq!(told.total_tokens_used, sum, "the total is what it is settled by");
    }
    works(&mut net, &mut client, &mut worker, 99);
}

#[test]
fn negative_credit_closes_the_connection() {
    let (mut net, mut client, mut worker) = bystanders();
    let mut raw = raw_client(&mut net, true);
    let credit = ext::Credit { request_id: [1; 32], bytes: -1 };
    assert_eq!(raw.say(&mut net, &credit), Err(Violation::Unexpected("negative credit")));
    client.say(&mut net, &ext::Credit { request_id: [1; 32], bytes: i64::MAX }).unwrap();
    client.say(&mut net, &ext::Cancel { request_id: [1; 32] }).unwrap();
    works(&mut net, &mut client, &mut worker, 1);
    client.say(&mut net, &query(2)).unwrap();
    for _ in 0..3 {
        client.say(&mut net, &ext::Credit { request_id: [2; 32], bytes: i64::MAX }).unwrap();
    }
    let request = asked(&mut net, &mut worker);
    worker.say(&mut net, &head(request, Some(1))).unwrap();
    assert_eq!(answers(&mut net, &mut client).len(), 1);
}

#[test]
fn a_slow_reader_holds_back_only_its_own_answer() {
    let (mut net, mut client, mut worker) = bystanders();
    client.say(&mut net, &query(1)).unwrap();
    let slow = asked(&mut net, &mut worker);
    worker.say(&mut net, &head(slow, None)).unwrap();
    let long = Bytes::from(vec![b'x'; 1 << 20]);
    worker
        .say(&mut net, &proxy::QueryAnswerPartEx { request_id: slow, answer: long, final_info: None })
        .unwrap();
    let got: usize = answers(&mut net, &mut client)
        .iter()
        .map(|message| match message {
            ProxyToClient::QueryAnswerPartEx(m) => m.answer.len(),
            ProxyToClient::QueryAnswerEx(_) => 6,
            other => panic!("{other:?}"),
        })
        .sum();
    assert_eq!(got, cocoon_session::INITIAL_CREDIT_BYTES, "no more than it has credit for");
    for id in 2..30 {
        works(&mut net, &mut client, &mut worker, id);
    }
    client.say(&mut net, &ext::Credit { request_id: [1; 32], bytes: 10 }).unwrap();
    let more = answers(&mut net, &mut client);
    assert!(
        matches!(more.as_slice(), [ProxyToClient::QueryAnswerPartEx(m)] if m.answer.len() == 10),
        "{more:?}"
    );
}

#[test]
fn a_request_whose_reader_takes_nothing_ends_at_the_limit() {
    let (mut net, mut client, mut worker) = bystanders();
    client.say(&mut net, &query(1)).unwrap();
    let request_id = asked(&mut net, &mut worker);
    worker.say(&mut net, &head(request_id, None)).unwrap();
    let answer = Bytes::from(vec![b'x'; 1 << 20]);
    for _ in 0..9 {
        let part = proxy::QueryAnswerPartEx { request_id, answer: answer.clone(), final_info: None };
        worker.say(&mut net, &part).unwrap();
    }
    let last = answers(&mut net, &mut client);
    assert!(matches!(last.last(), Some(ProxyToClient::QueryAnswerErrorEx(_))), "it is over");
    worker.say(&mut net, &error(request_id, 653)).unwrap();
    assert_eq!(net.proxy.in_flight(), 0);
    works(&mut net, &mut client, &mut worker, 2);
}

#[test]
fn an_id_in_use_is_answered_with_an_error() {
    let (mut net, mut client, mut worker) = bystanders();
    client.say(&mut net, &query(1)).unwrap();
    asked(&mut net, &mut worker);
    client.say(&mut net, &query(1)).unwrap();
    assert_eq!(answers(&mut net, &mut client).len(), 1);
    assert_eq!((net.proxy.in_flight(), net.proxy.ledger().reservations()), (1, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_bytes_make_the_proxy_panic_or_touch_others(
        garbage in prop::collection::vec(any::<u8>(), 0..200), kind in 0_u8..6, begun: bool,
    ) {
        let (mut net, mut client, mut worker) = bystanders();
        let mut bad_client = raw_client(&mut net, true);
        let mut bad_worker = raw_worker(&mut net, true);
        if begun {
            bad_client.say(&mut net, &query(7)).unwrap();
        }
        let data = Bytes::from(garbage);
        let _ = match kind {
            0 => net.feed(bad_client.conn, &data),
            1 => net.feed(bad_worker.conn, &data),
            2 => bad_client.say_bytes(&mut net, data),
            3 => bad_worker.say_bytes(&mut net, data),
            4 => bad_client.send(&mut net, &Packet::Query { id: 0, data }),
            _ => bad_worker.send(&mut net, &Packet::Query { id: 0, data }),
        };
        net.pass(Duration::from_millis(200));
        net.proxy.closed(bad_worker.conn, net.now);
        net.proxy.closed(bad_client.conn, net.now);
        let _ = worker.packets(&mut net);
        works(&mut net, &mut client, &mut worker, 1);
    }
}

#[test]
fn a_stranger_who_pings_on_and_never_comes_to_the_point_is_closed() {
    use cocoon_session::proxy::{CLIENT_HANDSHAKE_TIME, WORKER_HANDSHAKE_TIME};
    let (mut net, ..) = bystanders();
    for (worker, limit) in [(true, WORKER_HANDSHAKE_TIME), (false, CLIENT_HANDSHAKE_TIME)] {
        let conn = net.open();
        match worker {
            true => net.proxy.add_worker(conn, attested(conn), net.now),
            false => net.proxy.add_client(conn, net.now),
        }
        let mut raw = Raw::new(conn);
        raw.connect(&mut net);
        let deadline = net.now.plus(limit);
        while net.now.plus(Duration::from_secs(1)) < deadline {
            net.pass(Duration::from_secs(1));
            raw.send(&mut net, &Packet::Ping { id: 1 }).unwrap();
        }
        assert!(!net.doomed.contains_key(&conn), "there was time left");
        net.pass(Duration::from_secs(1));
        let why = net.doomed.get(&conn).map(ToString::to_string);
        assert_eq!(why.as_deref(), Some("the handshake was not done in time"));
    }
}

#[test]
fn a_stranger_who_names_a_wallet_and_not_its_secret_leaves_nothing_in_the_books() {
    let (mut net, ..) = bystanders();
    let before = (net.proxy.ledger().clients().count(), net.proxy.ledger().position());
    let mut raw = opened_client(&mut net);
    let mut hello = client_hello(true);
    hello.params.client_owner_address = Address::basechain([99; 32]).to_wire_string(false).into();
    let _: client::ConnectedToProxy = raw.answer(&mut net, &hello);
    let wrong = client::AuthorizeWithProxyShort { data: Bytes::from_static(b"a guess") };
    let refused = raw.ask(&mut net, &wrong).unwrap();
    assert!(matches!(refused.as_slice(), [Packet::QueryError { .. }]), "{refused:?}");
    net.proxy.closed(raw.conn, net.now);
    assert_eq!((net.proxy.ledger().clients().count(), net.proxy.ledger().position()), before);
}
