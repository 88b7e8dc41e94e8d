//! What one client may take of a proxy, over however many connections, and what what it takes costs in memory.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_session::proxy::{
    MAX_ALLOWED_PER_CLIENT, MAX_KEPT_BODY_BYTES, MAX_QUERY_BYTES_HELD_PER_CLIENT, UNREAD_TIME,
};
use cocoon_session::{MAX_ALLOWED_WORKERS, Violation};
use cocoon_ton::Address;
use cocoon_wire::codec::{from_boxed, to_boxed};
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::tl::{ProxyToClient, client, ext, http, proxy};
use support::*;

/// Room in a buffer that frames come in.
const ROOM: usize = 100_000;

/// Lets the proxy read a message from a buffer with much room, and says whether nothing keeps that buffer afterwards.
fn leaves_buffer(net: &mut Net, from: &mut Raw, message: Bytes) -> bool {
    let mut received = BytesMut::with_capacity(ROOM);
    received.extend_from_slice(&from.frame(&Packet::Packet { data: message }));
    net.proxy.receive(from.conn, &mut received, net.now).unwrap();
    net.settle();
    assert!(received.is_empty());
    received.try_reclaim(ROOM)
}

#[test]
fn what_waits_keeps_no_buffer_that_is_larger_than_itself() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let mut worker = raw_worker(&mut net, true);
    assert!(leaves_buffer(&mut net, &mut client, to_boxed(&query(1))), "a query");
    let request = asked(&mut net, &mut worker);
    assert!(leaves_buffer(&mut net, &mut worker, to_boxed(&head(request, None))), "the head of an answer");
    assert!(leaves_buffer(&mut net, &mut worker, to_boxed(&part(request, None))), "a part of an answer");
    assert_eq!(answers(&mut net, &mut client).len(), 1);
}

/// The status of the only answer, if there is one.
fn status(net: &mut Net, client: &mut Raw) -> Option<i32> {
    let messages = answers(net, client);
    let heads = messages.iter().filter_map(|message| match message {
        ProxyToClient::QueryAnswerEx(answer) => {
            Some(from_boxed::<http::Response>(answer.answer.clone()).unwrap())
        }
        _ => None,
    });
    heads.map(|head| head.status_code).next()
}

fn numbered(number: u32) -> [u8; 32] {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&number.to_le_bytes());
    id
}

/// Begins a request with a body that is kept; its status where it is refused.
fn begin(net: &mut Net, client: &mut Raw, number: u32) -> Option<i32> {
    let options = ext::RequestOptions {
        request_id: numbered(number),
        needs: 0,
        preference: 0,
        affinity: Vec::new(),
        trace: Bytes::new(),
        body_bytes: MAX_KEPT_BODY_BYTES.cast_signed(),
    };
    client.say(net, &options).unwrap();
    client.say(net, &client::RunQueryEx { request_id: numbered(number), ..query(1) }).unwrap();
    status(net, client)
}

#[test]
fn a_client_takes_no_more_over_many_connections_than_over_one() {
    let mut net = Net::new(proxy_settings());
    let _workers: Vec<_> = (0..3).map(|_| raw_worker(&mut net, true)).collect();
    let mut clients = [raw_client(&mut net, true), raw_client(&mut net, true)];
    let mut taken = 0;
    let refused = loop {
        let client = &mut clients[taken as usize % 2];
        if let Some(status) = begin(&mut net, client, taken) {
            break status;
        }
        taken += 1;
    };
    assert_eq!(refused, 429);
    let held = net.proxy.held_bytes();
    let one = held / taken as usize;
    assert!(
        held <= MAX_QUERY_BYTES_HELD_PER_CLIENT && held + one > MAX_QUERY_BYTES_HELD_PER_CLIENT,
        "{held}"
    );
    // What it leaves behind counts until the workers have given it up; others have their own share.
    for client in &clients {
        net.proxy.closed(client.conn, net.now);
    }
    let mut back = raw_client(&mut net, true);
    assert_eq!(begin(&mut net, &mut back, 0), Some(429));
    let mut other = client_of(&mut net, Address::basechain([66; 32]));
    assert_eq!(begin(&mut net, &mut other, 0), None);
    net.pass(Duration::from_secs(61));
    let _fresh = raw_worker(&mut net, true);
    assert_eq!(begin(&mut net, &mut back, 1), None);
}

/// A client with this wallet that has finished its handshake.
fn client_of(net: &mut Net, wallet: Address) -> Raw {
    let mut hello = client_hello(true);
    hello.params.client_owner_address = wallet.to_wire_string(false).into();
    client_with(net, &hello)
}

fn client_with(net: &mut Net, hello: &client::ConnectToProxy) -> Raw {
    let conn = net.open();
    net.proxy.add_client(conn, net.now);
    let mut raw = Raw::new(conn);
    raw.connect(net);
    let _: client::ConnectedToProxy = raw.answer(net, hello);
    let data = Bytes::from_static(SECRET);
    let _: client::AuthorizationWithProxy = raw.answer(net, &client::AuthorizeWithProxyShort { data });
    raw
}

#[test]
fn workers_that_a_client_has_no_room_to_allow_do_not_cost_it_its_connection() {
    let mut net = Net::new(proxy_settings());
    let mut worker = raw_worker(&mut net, true);
    let mut hello = client_hello(true);
    hello.params.ext_flags |= ext::EXT_ALLOWS_WORKERS;
    let fill = ext::AllowWorkers {
        allow: (0..MAX_ALLOWED_WORKERS).map(|number| numbered(u32::try_from(number).unwrap())).collect(),
        disallow: Vec::new(),
    };
    for _ in 0..MAX_ALLOWED_PER_CLIENT / MAX_ALLOWED_WORKERS {
        client_with(&mut net, &hello).say(&mut net, &fill).unwrap();
    }
    let ours = ext::AllowWorkers { allow: vec![*attested(worker.conn).fingerprint()], disallow: Vec::new() };
    let mut late = client_with(&mut net, &hello);
    late.say(&mut net, &ours).unwrap();
    late.say(&mut net, &query(1)).unwrap();
    assert_eq!(status(&mut net, &mut late), Some(503), "it is served by none that there is no room for");
    // Another client has room of its own.
    hello.params.client_owner_address = Address::basechain([66; 32]).to_wire_string(false).into();
    let mut other = client_with(&mut net, &hello);
    other.say(&mut net, &ours).unwrap();
    works(&mut net, &mut other, &mut worker, 1);
}

/// A request with a complete answer of so many bytes that its client does not read.
fn unread(net: &mut Net, client: &mut Raw, worker: &mut Raw, number: u32, bytes: usize) {
    client.say(net, &client::RunQueryEx { request_id: numbered(number), ..query(1) }).unwrap();
    let request_id = asked(net, worker);
    worker.say(net, &head(request_id, None)).unwrap();
    let answer = vec![b'x'; bytes].into();
    let final_info = Some(final_info(1));
    worker.say(net, &proxy::QueryAnswerPartEx { request_id, answer, final_info }).unwrap();
}

#[test]
fn who_hoards_answers_loses_a_connection_before_others_lose_an_answer() {
    let mut net = Net::new(proxy_settings());
    net.proxy.limit_answers(100_000);
    let mut worker = raw_worker(&mut net, true);
    let mut hoarder = raw_client(&mut net, true);
    let mut other = client_of(&mut net, Address::basechain([66; 32]));
    for number in 0..6 {
        unread(&mut net, &mut hoarder, &mut worker, number, 15_000);
    }
    assert!(net.doomed.is_empty());
    unread(&mut net, &mut other, &mut worker, 0, 15_000);
    let doomed: Vec<_> = net.doomed.iter().collect();
    assert!(
        matches!(doomed.as_slice(), [(conn, Violation::NotReading(_))] if **conn == hoarder.conn),
        "{doomed:?}"
    );
    net.proxy.closed(hoarder.conn, net.now);
    assert_eq!(status(&mut net, &mut other), Some(200));
    // What it held counts no more.
    for number in 1..6 {
        unread(&mut net, &mut other, &mut worker, number, 15_000);
    }
    assert_eq!(net.doomed.len(), 1);
}

#[test]
fn heads_that_nobody_reads_are_hoarded_too() {
    const EACH: usize = 100_000;
    let head = http::Response {
        headers: vec![http::Header { name: "x".into(), value: "v".repeat(EACH).into() }],
        payload: Bytes::new(),
        ..from_boxed(http_head(200)).unwrap()
    };
    let mut net = Net::new(proxy_settings());
    net.proxy.limit_answers(10 * EACH);
    let mut worker = raw_worker(&mut net, true);
    let mut hoarder = raw_client(&mut net, true);
    for number in 0..10 {
        assert!(net.doomed.is_empty(), "{number} heads are too many");
        hoarder.say(&mut net, &client::RunQueryEx { request_id: numbered(number), ..query(1) }).unwrap();
        let request_id = asked(&mut net, &mut worker);
        let answer = proxy::QueryAnswerEx { request_id, answer: to_boxed(&head), final_info: None };
        worker.say(&mut net, &answer).unwrap();
    }
    assert!(net.doomed.contains_key(&hoarder.conn), "{:?}", net.doomed);
}

#[test]
fn an_answer_that_is_complete_and_never_read_is_given_up() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let mut worker = raw_worker(&mut net, true);
    net.pass(Duration::from_millis(100));
    let too_much = cocoon_session::INITIAL_CREDIT_BYTES + 100_000;
    unread(&mut net, &mut client, &mut worker, 1, too_much);
    assert_eq!(status(&mut net, &mut client), Some(200));
    let alive = |net: &mut Net, client: &mut Raw, worker: &mut Raw, time: Duration| {
        let until = net.now.plus(time);
        while net.now < until {
            net.pass(Duration::from_secs(10));
            client.send(net, &Packet::Ping { id: 1 }).unwrap();
            worker.send(net, &Packet::Ping { id: 1 }).unwrap();
            let _ = worker.packets(net);
        }
    };
    alive(&mut net, &mut client, &mut worker, UNREAD_TIME);
    assert_eq!(answers(&mut net, &mut client), [], "a slow reader has time");
    alive(&mut net, &mut client, &mut worker, 2 * UNREAD_TIME);
    let last = answers(&mut net, &mut client);
    assert!(matches!(last.as_slice(), [ProxyToClient::QueryAnswerErrorEx(_)]), "{last:?}");
    works(&mut net, &mut client, &mut worker, 2);
}

#[test]
fn lists_are_refused_to_who_asks_all_the_time_and_the_connection_stays() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let mut worker = raw_worker(&mut net, true);
    let refused = |packets: Vec<Packet>| matches!(packets.as_slice(), [Packet::QueryError { .. }]);
    let get_workers = ext::GetWorkers { begun: 0, seen: 0 };
    for _ in 0..1000 {
        if refused(client.ask(&mut net, &client::GetWorkerTypesV2 {}).unwrap()) {
            break;
        }
    }
    assert!(refused(client.ask(&mut net, &client::GetWorkerTypes {}).unwrap()));
    assert!(refused(client.ask(&mut net, &client::UpdatePaymentStatus {}).unwrap()));
    // Walks through long lists have a bucket of their own.
    assert!(!refused(client.ask(&mut net, &get_workers).unwrap()));
    assert!((0..1000).any(|_| refused(client.ask(&mut net, &get_workers).unwrap())));
    works(&mut net, &mut client, &mut worker, 1);
    // What our clients do is always answered: all lists every second.
    for _ in 0..120 {
        net.pass(Duration::from_secs(1));
        worker.send(&mut net, &Packet::Ping { id: 1 }).unwrap();
        assert!(!refused(client.ask(&mut net, &client::GetWorkerTypesV2 {}).unwrap()));
        assert!(!refused(client.ask(&mut net, &client::UpdatePaymentStatus {}).unwrap()));
        assert!(!refused(client.ask(&mut net, &get_workers).unwrap()));
    }
}

#[test]
fn a_model_name_that_no_worker_can_have_is_refused() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let _worker = raw_worker(&mut net, true);
    let named = |bytes: usize| client::RunQueryEx { model_name: "m".repeat(bytes).into(), ..query(1) };
    client.say(&mut net, &named(512)).unwrap();
    assert_eq!(status(&mut net, &mut client), Some(404));
    client.say(&mut net, &named(513)).unwrap();
    assert_eq!(status(&mut net, &mut client), Some(400));
}
