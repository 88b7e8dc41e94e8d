//! Request bodies that stream from client to worker: in order, at the worker's pace, within bounds, and given up by whoever
//! does not want them any more.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_ledger::PeerCounters;
use cocoon_session::client::{ClientEvent, ClientSession, Submission};
use cocoon_session::proxy::{BODY_STALL, MAX_KEPT_BODY_BYTES, ProxySettings};
use cocoon_session::worker::{WorkerEvent, WorkerSession};
use cocoon_session::{ErrorCode, INITIAL_CREDIT_BYTES, MAX_PART_BYTES, RESEND_HEADER, Violation, split_body};
use cocoon_wire::codec::{from_boxed, to_boxed};
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::tl::{ProxyToClient, ProxyToWorker, client, ext, http};
use support::*;

const PARTS: usize = INITIAL_CREDIT_BYTES / MAX_PART_BYTES;

fn announce(id: u8, body_bytes: u64) -> ext::RequestOptions {
    ext::RequestOptions {
        request_id: [id; 32],
        needs: 0,
        preference: 0,
        affinity: Vec::new(),
        trace: Bytes::new(),
        body_bytes: i64::try_from(body_bytes).unwrap(),
    }
}

fn body_part(id: [u8; 32], bytes: usize, last: bool) -> ext::BodyPart {
    ext::BodyPart { request_id: id, data: vec![id[0]; bytes].into(), last }
}

fn begin(net: &mut Net, client: &mut Raw, id: u8, body_bytes: u64) {
    client.say(net, &announce(id, body_bytes)).unwrap();
    client.say(net, &query(id)).unwrap();
}

/// Says so many full parts of a body that goes on.
fn say_parts(net: &mut Net, client: &mut Raw, id: u8, parts: usize) {
    for _ in 0..parts {
        client.say(net, &body_part([id; 32], MAX_PART_BYTES, false)).unwrap();
    }
}

/// The request, the bytes, and whether they are the last.
type HeardPart = ([u8; 32], usize, bool);
/// What is wrong, the announced bytes, and the sizes of the parts with their marks.
type Case = (&'static str, u64, &'static [(usize, bool)]);

/// What a worker hears: the ids of the requests, and the body bytes of each message in their order.
fn hears(net: &mut Net, worker: &mut Raw) -> (Vec<[u8; 32]>, Vec<HeardPart>) {
    let (mut asked, mut parts) = (Vec::new(), Vec::new());
    for message in worker.messages::<ProxyToWorker>(net) {
        match message {
            ProxyToWorker::RunQueryEx(query) => asked.push(query.request_id),
            ProxyToWorker::BodyPart(part) => parts.push((part.request_id, part.data.len(), part.last)),
            _ => {}
        }
    }
    (asked, parts)
}

fn bytes_of(parts: &[HeardPart]) -> usize {
    parts.iter().map(|(_, bytes, _)| bytes).sum()
}

/// What the client was granted now.
fn granted(net: &mut Net, client: &mut Raw) -> i64 {
    let grants = answers(net, client).into_iter().map(|message| match message {
        ProxyToClient::BodyCredit(credit) => credit.bytes,
        other => panic!("{other:?}"),
    });
    grants.sum()
}

/// The only answer: its status, and whether it is worth sending anew.
fn refusal(net: &mut Net, client: &mut Raw) -> (i32, bool) {
    let mut messages = answers(net, client);
    messages.retain(|message| !matches!(message, ProxyToClient::BodyCredit(_)));
    let [ProxyToClient::QueryAnswerEx(answer)] = messages.as_slice() else { panic!("{messages:?}") };
    assert!(answer.final_info.is_some());
    let head: http::Response = from_boxed(answer.answer.clone()).unwrap();
    let resend = head.headers.iter().any(|header| header.name.as_bytes() == RESEND_HEADER.as_bytes());
    (head.status_code, resend)
}

fn world() -> (Net, Raw, Raw) {
    let mut net = Net::new(proxy_settings());
    let client = raw_client(&mut net, true);
    let worker = raw_worker(&mut net, true);
    (net, client, worker)
}

#[test]
fn a_body_goes_no_faster_than_its_worker_takes_it() {
    let (mut net, mut client, mut worker) = world();
    begin(&mut net, &mut client, 1, 64 << 20);
    say_parts(&mut net, &mut client, 1, PARTS);
    let (asked, parts) = hears(&mut net, &mut worker);
    assert_eq!(bytes_of(&parts), INITIAL_CREDIT_BYTES);
    assert_eq!(granted(&mut net, &mut client), 256 * 1024, "what has left may come again");
    say_parts(&mut net, &mut client, 1, PARTS);
    assert_eq!(hears(&mut net, &mut worker).1, [], "the worker has not granted more");
    assert_eq!(granted(&mut net, &mut client), 0, "nor has the client been");
    let credit = ext::BodyCredit { request_id: asked[0], bytes: 100_000 };
    worker.say(&mut net, &credit).unwrap();
    assert_eq!(bytes_of(&hears(&mut net, &mut worker).1), 100_000);
    assert_eq!(granted(&mut net, &mut client), 65_536, "in steps of a part");
}

#[test]
fn a_body_arrives_in_full_and_its_last_part_says_so() {
    let (mut net, mut client, mut worker) = world();
    begin(&mut net, &mut client, 1, MAX_PART_BYTES as u64 + 10);
    say_parts(&mut net, &mut client, 1, 1);
    client.say(&mut net, &body_part([1; 32], 10, true)).unwrap();
    let (asked, parts) = hears(&mut net, &mut worker);
    assert_eq!(parts, [(asked[0], MAX_PART_BYTES, false), (asked[0], 10, true)]);
    worker.say(&mut net, &head(asked[0], Some(5))).unwrap();
    assert_eq!(answers(&mut net, &mut client).len(), 1);
    assert_eq!(net.proxy.held_bytes(), 0);
}

#[test]
fn bodies_take_turns_and_let_small_requests_through() {
    let (mut net, mut client, mut worker) = world();
    for id in [1, 2] {
        begin(&mut net, &mut client, id, 1 << 30 >> 4);
        say_parts(&mut net, &mut client, id, PARTS);
    }
    // As a slow connection takes it: a little at a time.
    net.proxy.transmit(worker.conn, 1).unwrap();
    client.say(&mut net, &query(3)).unwrap();
    let rest = net.proxy.transmit(worker.conn, 1).unwrap();
    let next: Vec<ProxyToWorker> = packets_in(&rest);
    assert!(
        matches!(next.last(), Some(ProxyToWorker::RunQueryEx(_))) && next.len() == 1,
        "the small request waits for no body: {next:?}"
    );
    let mut order = Vec::new();
    while let Some(bytes) = net.proxy.transmit(worker.conn, 1) {
        order.extend(packets_in(&bytes).into_iter().filter_map(|message| match message {
            ProxyToWorker::BodyPart(part) => Some(part.request_id),
            _ => None,
        }));
    }
    assert!(order.windows(2).take(5).all(|pair| pair[0] != pair[1]), "they take turns: {order:?}");
    let _ = &mut worker;
}

#[test]
fn parts_that_break_the_announcement_close_the_connection() {
    let (mut net, _, mut worker) = world();
    let cases: [Case; 6] = [
        ("a body that ends early", 100, &[(50, false), (49, true)]),
        ("a body that does not say that it ends", 100, &[(100, false)]),
        ("a body that is too long", 100, &[(101, true)]),
        ("an empty part", 100, &[(0, false)]),
        ("a part over the limit", 1 << 20, &[(MAX_PART_BYTES + 1, false)]),
        ("more than was granted", 1 << 20, &[(MAX_PART_BYTES, false); PARTS + 1]),
    ];
    for (what, bytes, parts) in cases {
        let mut client = raw_client(&mut net, true);
        begin(&mut net, &mut client, 1, bytes);
        let said: Result<(), _> =
            parts.iter().try_for_each(|&(len, last)| client.say(&mut net, &body_part([1; 32], len, last)));
        assert!(said.is_err(), "{what} passes");
        hears(&mut net, &mut worker);
    }
    let mut client = raw_client(&mut net, true);
    client.say(&mut net, &query(1)).unwrap();
    assert!(client.say(&mut net, &body_part([1; 32], 1, true)).is_err(), "a part of a whole body");
    let mut client = raw_client(&mut net, false);
    let expected = Err(Violation::Unexpected("extension that was not agreed"));
    assert_eq!(client.say(&mut net, &body_part([1; 32], 1, true)), expected);
    let credit = ext::BodyCredit { request_id: [1; 32], bytes: -1 };
    assert!(worker.say(&mut net, &credit).is_err(), "negative credit");
}

#[test]
fn parts_for_unknown_requests_are_dropped_and_hold_nothing() {
    let (mut net, mut client, mut worker) = world();
    for number in 0..200_u8 {
        client.say(&mut net, &body_part([number; 32], MAX_PART_BYTES, number % 2 == 0)).unwrap();
    }
    worker.say(&mut net, &ext::BodyCredit { request_id: [9; 32], bytes: i64::MAX }).unwrap();
    assert_eq!(net.proxy.held_bytes(), 0);
    works(&mut net, &mut client, &mut worker, 1);
}

#[test]
fn a_body_that_is_kept_goes_to_another_worker_from_its_beginning() {
    let (mut net, mut client, mut first) = world();
    begin(&mut net, &mut client, 1, MAX_KEPT_BODY_BYTES);
    say_parts(&mut net, &mut client, 1, 3);
    let (asked, parts) = hears(&mut net, &mut first);
    assert_eq!(bytes_of(&parts), 3 * MAX_PART_BYTES);
    let mut second = raw_worker(&mut net, true);
    first.say(&mut net, &error(asked[0], ErrorCode::ERROR.0)).unwrap();
    let (asked, parts) = hears(&mut net, &mut second);
    assert_eq!((asked.len(), bytes_of(&parts)), (1, 3 * MAX_PART_BYTES));
    let before = granted(&mut net, &mut client);
    assert_eq!(before, 3 * 65_536, "what goes a second time is not granted for again");
    let rest = usize::try_from(MAX_KEPT_BODY_BYTES).unwrap() / MAX_PART_BYTES - 3;
    for number in 1..=rest {
        client.say(&mut net, &body_part([1; 32], MAX_PART_BYTES, number == rest)).unwrap();
        let (_, parts) = hears(&mut net, &mut second);
        assert_eq!(bytes_of(&parts), MAX_PART_BYTES);
        second.say(&mut net, &ext::BodyCredit { request_id: asked[0], bytes: 65_536 }).unwrap();
        granted(&mut net, &mut client);
    }
    second.say(&mut net, &head(asked[0], Some(5))).unwrap();
    assert_eq!(answers(&mut net, &mut client).len(), 1);
    assert_eq!((net.proxy.held_bytes(), net.proxy.ledger().reservations()), (0, 0));
}

#[test]
fn where_a_body_is_gone_the_client_is_told_to_send_it_anew() {
    for how in ["fails", "is lost", "falls silent"] {
        let (mut net, mut client, mut first) = world();
        begin(&mut net, &mut client, 1, MAX_KEPT_BODY_BYTES + 1);
        say_parts(&mut net, &mut client, 1, 1);
        let (asked, _) = hears(&mut net, &mut first);
        let mut second = raw_worker(&mut net, true);
        match how {
            "fails" => first.say(&mut net, &error(asked[0], ErrorCode::ERROR.0)).unwrap(),
            "is lost" => {
                net.proxy.closed(first.conn, net.now);
                net.settle();
            }
            _ => net.pass(Duration::from_secs(3)),
        }
        let (status, resend) = refusal(&mut net, &mut client);
        assert!(resend && [502, 503].contains(&status), "its worker {how}: {status}");
        assert_eq!(hears(&mut net, &mut second).0.len(), 0, "the second worker gets half a body");
        begin(&mut net, &mut client, 2, MAX_KEPT_BODY_BYTES + 1);
        if how != "fails" {
            assert_eq!(hears(&mut net, &mut second).0.len(), 1, "sent anew, it goes to the other worker");
        }
    }
}

#[test]
fn what_the_request_is_to_blame_for_is_not_worth_sending_anew() {
    let (mut net, mut client, mut worker) = world();
    begin(&mut net, &mut client, 1, MAX_KEPT_BODY_BYTES + 1);
    say_parts(&mut net, &mut client, 1, 1);
    let (asked, _) = hears(&mut net, &mut worker);
    worker.say(&mut net, &error(asked[0], ErrorCode::PROTOCOL.0)).unwrap();
    assert_eq!(refusal(&mut net, &mut client), (400, false));
}

#[test]
fn a_published_worker_gets_the_body_whole_once_it_is_there() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let mut worker = raw_worker(&mut net, false);
    let body = 2 * MAX_KEPT_BODY_BYTES;
    begin(&mut net, &mut client, 1, body);
    let parts = usize::try_from(body).unwrap() / MAX_PART_BYTES;
    for number in 1..=parts {
        assert_eq!(hears(&mut net, &mut worker), (vec![], vec![]));
        client.say(&mut net, &body_part([1; 32], MAX_PART_BYTES, number == parts)).unwrap();
    }
    let heard: Vec<ProxyToWorker> = worker.messages(&mut net);
    let [ProxyToWorker::RunQueryEx(query)] = heard.as_slice() else { panic!("{} messages", heard.len()) };
    let request: http::Request = from_boxed(query.query.clone()).unwrap();
    assert_eq!(request.payload.len() as u64, 2 + body);
    worker.say(&mut net, &head(query.request_id, Some(5))).unwrap();
    let messages = answers(&mut net, &mut client);
    assert!(matches!(messages.last(), Some(ProxyToClient::QueryAnswerEx(_))));
    assert_eq!(net.proxy.held_bytes(), 0);
}

#[test]
fn a_published_worker_is_given_no_more_large_bodies_than_its_connection_holds() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let mut worker = raw_worker(&mut net, false);
    let parts = 240;
    let begins = |net: &mut Net, client: &mut Raw, id: u8| {
        begin(net, client, id, (parts * MAX_PART_BYTES) as u64);
        answers(net, client).len()
    };
    assert_eq!([1, 2, 3].map(|id| begins(&mut net, &mut client, id)), [0, 0, 1], "the third is refused");
    client.say(&mut net, &ext::Cancel { request_id: [2; 32] }).unwrap();
    let _ = client.packets(&mut net);
    assert_eq!(
        [4, 5].map(|id| begins(&mut net, &mut client, id)),
        [0, 1],
        "one that is given up leaves its room"
    );
    for id in [1, 4] {
        for number in 1..=parts {
            client.say(&mut net, &body_part([id; 32], MAX_PART_BYTES, number == parts)).unwrap();
            let _ = client.packets(&mut net);
        }
    }
    // Nothing of this looks as if the worker did not read.
    worker.send(&mut net, &Packet::Ping { id: 1 }).unwrap();
    assert_eq!(hears(&mut net, &mut worker).0.len(), 2);
    assert!(net.doomed.is_empty());
    assert_eq!(begins(&mut net, &mut client, 6), 0, "there is room again");
}

#[test]
fn a_body_that_no_frame_holds_goes_to_no_published_worker() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let _published = raw_worker(&mut net, false);
    begin(&mut net, &mut client, 1, 16 << 20);
    assert_eq!(refusal(&mut net, &mut client), (404, false));
    let mut ours = raw_worker(&mut net, true);
    begin(&mut net, &mut client, 2, 16 << 20);
    assert_eq!(hears(&mut net, &mut ours).0.len(), 1);
}

#[test]
fn a_request_that_waits_for_its_body_ends_at_once_when_cancelled() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let _published = raw_worker(&mut net, false);
    begin(&mut net, &mut client, 1, MAX_KEPT_BODY_BYTES);
    client.say(&mut net, &ext::Cancel { request_id: [1; 32] }).unwrap();
    assert_eq!((net.proxy.in_flight(), net.proxy.held_bytes()), (0, 0));
    assert_eq!(net.proxy.ledger().reservations(), 0);
}

#[test]
fn an_engine_may_answer_before_the_body_is_there() {
    let (mut net, mut client, mut worker) = world();
    begin(&mut net, &mut client, 1, 64 << 20);
    say_parts(&mut net, &mut client, 1, 2);
    let (asked, _) = hears(&mut net, &mut worker);
    worker.say(&mut net, &head(asked[0], Some(1))).unwrap();
    let messages = answers(&mut net, &mut client);
    assert!(matches!(messages.last(), Some(ProxyToClient::QueryAnswerEx(m)) if m.final_info.is_some()));
    say_parts(&mut net, &mut client, 1, 2);
    assert_eq!(hears(&mut net, &mut worker).1, [], "what comes late goes nowhere");
    assert_eq!((net.proxy.held_bytes(), net.ends.len(), net.ends[0].charged), (0, 1, 1));
    works(&mut net, &mut client, &mut worker, 2);
}

#[test]
fn a_cancel_stops_a_body_wherever_it_is() {
    for parts in 0..=PARTS {
        let (mut net, mut client, mut worker) = world();
        begin(&mut net, &mut client, 1, 64 << 20);
        say_parts(&mut net, &mut client, 1, parts);
        client.say(&mut net, &ext::Cancel { request_id: [1; 32] }).unwrap();
        let heard: Vec<ProxyToWorker> = worker.messages(&mut net);
        assert!(matches!(heard.last(), Some(ProxyToWorker::Cancel(_))), "{} messages", heard.len());
        say_parts(&mut net, &mut client, 1, 1);
        assert!(worker.messages::<ProxyToWorker>(&mut net).is_empty());
        net.pass(Duration::from_secs(61));
        assert_eq!((net.proxy.in_flight(), net.proxy.held_bytes()), (0, 0));
        assert_eq!((net.ends.len(), net.ends[0].charged), (1, 0));
    }
}

#[test]
fn a_body_that_stops_coming_ends_its_request_and_one_that_its_worker_holds_back_does_not() {
    let (mut net, mut client, mut worker) = world();
    begin(&mut net, &mut client, 1, 64 << 20);
    begin(&mut net, &mut client, 2, 64 << 20);
    say_parts(&mut net, &mut client, 1, PARTS);
    hears(&mut net, &mut worker);
    granted(&mut net, &mut client);
    say_parts(&mut net, &mut client, 1, PARTS);
    for _ in 0..BODY_STALL.as_secs() + 1 {
        worker.send(&mut net, &cocoon_wire::tl::tcp::Packet::Ping { id: 1 }).unwrap();
        client.send(&mut net, &cocoon_wire::tl::tcp::Packet::Ping { id: 1 }).unwrap();
        net.pass(Duration::from_secs(1));
    }
    let messages = answers(&mut net, &mut client);
    let [ProxyToClient::QueryAnswerEx(answer)] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!(answer.request_id, [2; 32], "only the one that nobody sends ends");
    let head: http::Response = from_boxed(answer.answer.clone()).unwrap();
    assert_eq!(head.status_code, 504);
}

#[test]
fn bodies_over_a_limit_are_refused() {
    let mut net = Net::new(ProxySettings { max_body_bytes: 1000, ..proxy_settings() });
    let mut client = raw_client(&mut net, true);
    let mut worker = raw_worker(&mut net, true);
    begin(&mut net, &mut client, 1, 1001);
    assert_eq!(refusal(&mut net, &mut client), (413, false));
    client.say(&mut net, &body_part([1; 32], 900, false)).unwrap();
    begin(&mut net, &mut client, 2, 1000);
    assert_eq!(hears(&mut net, &mut worker).0.len(), 1);
}

#[test]
fn what_is_held_of_one_clients_unfinished_bodies_is_bounded() {
    let (mut net, mut client, _worker) = world();
    let _workers: Vec<_> = (0..20).map(|_| raw_worker(&mut net, true)).collect();
    let mut taken = 0_u32;
    let status = loop {
        let mut request_id = [0; 32];
        request_id[..4].copy_from_slice(&taken.to_le_bytes());
        client.say(&mut net, &ext::RequestOptions { request_id, ..announce(1, 100 << 20) }).unwrap();
        client.say(&mut net, &client::RunQueryEx { request_id, ..query(1) }).unwrap();
        let messages = answers(&mut net, &mut client);
        if let [ProxyToClient::QueryAnswerEx(answer)] = messages.as_slice() {
            let head: http::Response = from_boxed(answer.answer.clone()).unwrap();
            break head.status_code;
        }
        taken += 1;
    };
    let most = cocoon_session::proxy::MAX_QUERY_BYTES_HELD_PER_CLIENT;
    assert_eq!(status, 429);
    assert!(net.proxy.held_bytes() <= most && taken as usize >= most / INITIAL_CREDIT_BYTES - 5);
    net.proxy.closed(client.conn, net.now);
    net.pass(Duration::from_secs(61));
    assert_eq!(net.proxy.held_bytes(), 0);
    // The others have been silent for too long.
    let _fresh = raw_worker(&mut net, true);
    let mut other = raw_client(&mut net, true);
    begin(&mut net, &mut other, 1, 100 << 20);
    assert_eq!(answers(&mut net, &mut other), []);
}

#[test]
fn what_is_reserved_covers_the_body_as_well() {
    let mut settings = proxy_settings();
    settings.extensions = true;
    let mut net = Net::new(settings);
    // Enough for a small request, and not for a megabyte of prompt.
    net.funds = Some(chain_state(20 * 4 * 10_000));
    let mut client = raw_client(&mut net, true);
    let mut worker = raw_worker(&mut net, true);
    begin(&mut net, &mut client, 1, 1 << 20);
    assert_eq!(refusal(&mut net, &mut client).0, 402);
    works(&mut net, &mut client, &mut worker, 2);
}

/// Both ends are sessions of ours, and the worker's engine reads slowly.
#[test]
fn a_slow_engine_holds_the_gateway_back_and_little_is_held_between_them() {
    let mut net = Net::new(proxy_settings());
    let (client_conn, worker_conn) = (net.open(), net.open());
    net.proxy.add_client(client_conn, net.now);
    net.proxy.add_worker(worker_conn, attested(worker_conn), net.now);
    let mut client = ClientSession::new(client_settings(), net.now, 1);
    let mut worker = WorkerSession::new(worker_settings(), net.now, 2);
    let (mut to_client, mut to_worker) = (BytesMut::new(), BytesMut::new());
    let mut request: http::Request = from_boxed(query(1).query).unwrap();
    let body: Bytes =
        (0..20_000_000_u32).map(|number| (number / 7).to_le_bytes()[0]).collect::<Vec<_>>().into();
    request.payload = body.clone();
    let (query, rest) = split_body(request);
    let total = rest.len();
    let (mut read, mut waiting, mut work, mut most) = (BytesMut::new(), Vec::new(), None, 0);
    let mut submitted = false;
    let mut completed = false;
    for round in 0..40_000 {
        while let Some(bytes) = client.transmit(128 * 1024) {
            net.feed(client_conn, &bytes).unwrap();
        }
        while let Some(bytes) = worker.transmit(128 * 1024) {
            net.feed(worker_conn, &bytes).unwrap();
        }
        while let Some(bytes) = net.proxy.transmit(client_conn, 128 * 1024) {
            to_client.extend_from_slice(&bytes);
        }
        while let Some(bytes) = net.proxy.transmit(worker_conn, 128 * 1024) {
            to_worker.extend_from_slice(&bytes);
        }
        client.receive(&mut to_client, net.now).unwrap();
        worker.receive(&mut to_worker, net.now).unwrap();
        while let Some(event) = worker.poll_event() {
            match event {
                WorkerEvent::Compare(_) => worker.compare(PeerCounters::default(), net.now).unwrap(),
                WorkerEvent::Work(new) => {
                    assert_eq!(new.body_bytes, Some(total as u64));
                    read.extend_from_slice(&new.request.payload);
                    work = Some(new.id);
                }
                WorkerEvent::Body { data, last, .. } => waiting.push((data, last)),
                _ => {}
            }
        }
        while let Some(event) = client.poll_event() {
            match event {
                ClientEvent::Ready(_) => {}
                ClientEvent::Completed { .. } => completed = true,
                ClientEvent::Failed { failure, .. } => panic!("{failure:?}"),
                _ => {}
            }
        }
        if !submitted && client.terms().is_some() && net.proxy.workers().len() == 1 {
            submitted = true;
            let submission = Submission { query: query.clone(), body: rest.clone(), ..submission(1) };
            client.submit(&submission, net.now).unwrap();
        }
        if submitted {
            // What has left the gateway and was not read by the engine yet.
            let under_way = total - client.unsent_body_bytes() - read.len().saturating_sub(65_536);
            most = most.max(under_way);
        }
        // The engine takes one piece in a while.
        if round % 3 == 0
            && let Some(id) = work
            && !waiting.is_empty()
        {
            let (data, last) = waiting.remove(0);
            read.extend_from_slice(&data);
            worker.body_taken(id, data.len());
            if last {
                let answer = http::Response {
                    http_version: "HTTP/1.1".into(),
                    status_code: 200,
                    reason: "OK".into(),
                    headers: Vec::new(),
                    payload: Bytes::new(),
                };
                worker.head(id, answer, net.now);
                worker.complete_request(id, tokens(5), net.now);
            }
        }
        if completed {
            break;
        }
    }
    assert!(completed && read == body, "{} of {} bytes arrived", read.len(), body.len());
    assert!(most <= 2 * INITIAL_CREDIT_BYTES + 2 * MAX_PART_BYTES, "{most} bytes were under way");
    assert_eq!(net.proxy.held_bytes(), 0);
}

#[test]
fn a_published_proxy_gets_the_whole_body_in_the_query_as_far_as_a_frame_holds_it() {
    let mut net = Net::new(ProxySettings { extensions: false, ..proxy_settings() });
    let mut client = OurClient::dial(&mut net, client_settings());
    client.talk(&mut net).unwrap();
    let mut client = client.session;
    let mut request: http::Request = from_boxed(query(1).query).unwrap();
    request.payload = vec![7; 1 << 20].into();
    let (first, rest) = split_body(request.clone());
    let submission = |id, body| Submission { query: first.clone(), body, ..submission(id) };
    client.submit(&submission(1, rest), net.now).unwrap();
    let said = packets_in::<cocoon_wire::tl::ClientToProxy>(&client.transmit(1 << 20).unwrap());
    let [cocoon_wire::tl::ClientToProxy::RunQueryEx(query)] = said.as_slice() else {
        panic!("more than a query")
    };
    assert_eq!(query.query, to_boxed(&request));
    let failure = client.submit(&submission(2, vec![7; 16 << 20].into()), net.now).unwrap_err();
    assert_eq!(failure.code, ErrorCode::PROTOCOL);
    assert_eq!(client.in_flight(), 1);
}

#[test]
fn a_worker_closes_on_a_proxy_that_sends_more_than_it_may() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let mut worker = OurWorker::dial(&mut net, worker_settings());
    worker.talk(&mut net).unwrap();
    begin(&mut net, &mut client, 1, 64 << 20);
    say_parts(&mut net, &mut client, 1, PARTS);
    // The proxy forges the worker's consent.
    let events = worker.talk(&mut net).unwrap();
    let id = events
        .into_iter()
        .find_map(|event| if let WorkerEvent::Work(work) = event { Some(work.id) } else { None })
        .unwrap();
    let mut forger = cocoon_wire::FrameEncoder::new();
    let mut discarded = BytesMut::new();
    // As many frames as the proxy has used up: the opening, three answers, options, query and parts.
    for _ in 0..6 + PARTS {
        forger.encode_tcp_packet(&mut discarded, &ext::Cancel { request_id: [0; 32] }).unwrap();
    }
    let mut more = BytesMut::new();
    forger.encode_tcp_packet(&mut more, &body_part(id, 1, false)).unwrap();
    let expected = Violation::Unexpected("part of a body beyond the credit");
    assert_eq!(worker.session.receive(&mut more, net.now), Err(expected));
}
