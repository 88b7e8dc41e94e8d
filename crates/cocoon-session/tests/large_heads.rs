//! Heads that are far too large: floods of headers, headers of a mebibyte. They end their own request.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use cocoon_session::worker::WorkerEvent;
use cocoon_session::{MAX_HEAD_BYTES, MAX_HEADERS};
use cocoon_wire::codec::{ByteStr, from_boxed, to_boxed};
use cocoon_wire::tl::{ProxyToClient, ProxyToWorker, client, http, proxy};
use support::*;

fn headers(count: usize, value_bytes: usize) -> Vec<http::Header> {
    let value = ByteStr::from("v".repeat(value_bytes));
    let header = |number| http::Header { name: format!("X-{number:05}").into(), value: value.clone() };
    (0..count).map(header).collect()
}

/// Too many, and too large.
fn floods() -> [Vec<http::Header>; 3] {
    [headers(MAX_HEADERS + 1, 1), headers(1, 1 << 20), headers(60_000, 100)]
}

fn answer_with(request_id: [u8; 32], headers: Vec<http::Header>, end: Option<i64>) -> proxy::QueryAnswerEx {
    let mut head: http::Response = from_boxed(http_head(200)).unwrap();
    head.headers = headers;
    proxy::QueryAnswerEx { request_id, answer: to_boxed(&head), final_info: end.map(final_info) }
}

#[test]
fn a_flood_of_headers_in_an_answer_fails_over_to_another_worker() {
    for flood in floods() {
        let mut net = Net::new(proxy_settings());
        let mut client = raw_client(&mut net, true);
        let mut bad = raw_worker(&mut net, true);
        client.say(&mut net, &query(1)).unwrap();
        let request = asked(&mut net, &mut bad);
        let mut good = raw_worker(&mut net, true);
        bad.say(&mut net, &answer_with(request, flood, None)).unwrap();
        assert!(
            matches!(bad.messages(&mut net).as_slice(), [ProxyToWorker::Cancel(_)]),
            "it is told to stop"
        );
        let request = asked(&mut net, &mut good);
        good.say(&mut net, &head(request, Some(5))).unwrap();
        assert!(matches!(answers(&mut net, &mut client).as_slice(), [ProxyToClient::QueryAnswerEx(_)]));
        assert_eq!((net.proxy.in_flight(), net.proxy.ledger().reservations()), (0, 0));
    }
}

#[test]
fn heads_at_the_limit_pass() {
    let value = MAX_HEAD_BYTES / MAX_HEADERS - 8;
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let mut worker = raw_worker(&mut net, true);
    client.say(&mut net, &query(1)).unwrap();
    let request = asked(&mut net, &mut worker);
    worker.say(&mut net, &answer_with(request, headers(MAX_HEADERS, value), Some(5))).unwrap();
    let messages = answers(&mut net, &mut client);
    let [ProxyToClient::QueryAnswerEx(answer)] = messages.as_slice() else { panic!("{messages:?}") };
    let head: http::Response = from_boxed(answer.answer.clone()).unwrap();
    assert!(head.headers.len() > MAX_HEADERS);
}

#[test]
fn a_flood_of_headers_in_a_request_never_reaches_the_engine() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let mut worker = OurWorker::dial(&mut net, worker_settings());
    worker.talk(&mut net).unwrap();
    let mut works = Vec::new();
    for (id, flood) in (1..).zip(floods()) {
        let mut request: http::Request = from_boxed(query(id).query).unwrap();
        request.headers = flood;
        client.say(&mut net, &client::RunQueryEx { query: to_boxed(&request), ..query(id) }).unwrap();
        let events = worker.talk(&mut net).unwrap();
        works.extend(events.into_iter().filter(|event| matches!(event, WorkerEvent::Work(_))));
    }
    assert!(works.is_empty());
    let statuses: Vec<_> = answers(&mut net, &mut client)
        .into_iter()
        .map(|message| match message {
            ProxyToClient::QueryAnswerEx(answer) => {
                from_boxed::<http::Response>(answer.answer).unwrap().status_code
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(statuses, [400, 400, 400]);
}
