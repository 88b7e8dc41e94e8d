//! What counts against a worker and what does not: no worker gains by refusing, and no caller can make one look bad.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use cocoon_session::proxy::BLAME_AFTER;
use cocoon_session::{ErrorCode, INITIAL_CREDIT_BYTES, MAX_PART_BYTES};
use cocoon_wire::codec::{ByteStr, from_boxed, to_boxed};
use cocoon_wire::frame::MAX_FRAME_PAYLOAD;
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::tl::{ProxyToClient, ProxyToWorker, client, ext, http, proxy, worker};
use support::*;

fn world(workers: usize) -> (Net, Raw, Vec<Raw>) {
    let mut net = Net::new(proxy_settings());
    // As a driver does: the proxy looks at the clock.
    net.pass(Duration::from_millis(100));
    let client = raw_client(&mut net, true);
    let workers = (0..workers).map(|_| raw_worker(&mut net, true)).collect();
    (net, client, workers)
}

/// The request that one of these workers is asked now, and which of them.
fn asked_of(net: &mut Net, workers: &mut [Raw]) -> (usize, [u8; 32]) {
    let mut found = Vec::new();
    for (number, worker) in workers.iter_mut().enumerate() {
        found.extend(worker.messages(net).into_iter().filter_map(|message| match message {
            ProxyToWorker::RunQueryEx(query) => Some((number, query.request_id)),
            _ => None,
        }));
    }
    assert_eq!(found.len(), 1, "one worker is asked once");
    found[0]
}

/// The status of the one answer that the client gets.
fn status(net: &mut Net, client: &mut Raw) -> i32 {
    let answers = answers(net, client);
    let [ProxyToClient::QueryAnswerEx(answer)] = answers.as_slice() else { panic!("{answers:?}") };
    from_boxed::<http::Response>(answer.answer.clone()).unwrap().status_code
}

/// Whether the only worker was blamed for anything, and how many ends told something about it.
fn standing(net: &Net) -> (bool, u64) {
    let workers = net.proxy.workers();
    let [worker] = workers.as_slice() else { panic!("{workers:?}") };
    (worker.failure_rate > 0.0, worker.requests)
}

fn answer(request_id: [u8; 32], status: i32) -> proxy::QueryAnswerEx {
    let answer = http_head(status);
    proxy::QueryAnswerEx { request_id, answer, final_info: Some(final_info(0)) }
}

fn query_to(id: u8, url: &'static str) -> client::RunQueryEx {
    let request = http::Request { url: ByteStr::from_static(url), ..from_boxed(query(id).query).unwrap() };
    client::RunQueryEx { query: to_boxed(&request), ..query(id) }
}

fn failed(id: [u8; 32], code: i32, words: &'static str, tokens: i64) -> proxy::QueryAnswerErrorEx {
    let final_info = Some(final_info(tokens));
    proxy::QueryAnswerErrorEx { request_id: id, error_code: code, error: words.into(), final_info }
}

#[test]
fn a_query_that_no_frame_would_hold_on_its_way_to_a_worker_ends_at_the_door() {
    let (mut net, mut client, mut workers) = world(1);
    // From now on a signed order goes with each request.
    works(&mut net, &mut client, &mut workers[0], 1);
    let mut large = query(2);
    large.query = Bytes::new();
    let rest = to_boxed(&large).len() + 16;
    large.query = vec![b'x'; MAX_FRAME_PAYLOAD - rest].into();
    client.say(&mut net, &large).unwrap();
    net.pass(Duration::from_millis(200));
    assert_eq!(net.doomed.len(), 0, "nobody's connection ends: {:?}", net.doomed);
    assert_eq!(status(&mut net, &mut client), 413);
    works(&mut net, &mut client, &mut workers[0], 3);
}

#[test]
fn what_an_engine_has_against_its_worker_counts_and_what_it_has_against_a_request_does_not() {
    for (code, blamed) in [
        (200, false),
        (301, true),
        (400, false),
        (401, true),
        (402, true),
        (403, true),
        (404, true),
        (405, false),
        (413, false),
        (415, false),
        (422, false),
        (429, true),
        (500, true),
        (503, true),
    ] {
        let (mut net, mut client, mut workers) = world(1);
        client.say(&mut net, &query(1)).unwrap();
        let (_, request) = asked_of(&mut net, &mut workers);
        workers[0].say(&mut net, &answer(request, code)).unwrap();
        assert_eq!(status(&mut net, &mut client), code);
        let counted = u64::from(blamed || code == 200);
        assert_eq!(standing(&net), (blamed, counted), "{code}");
    }
}

#[test]
fn what_a_caller_names_and_an_engine_does_not_find_is_not_the_workers_fault() {
    for query in [query_to(1, "/v1/responses"), query_to(1, "/v1/chat/completions/"), {
        client::RunQueryEx { query: Bytes::from_static(b"sealed"), ..query(1) }
    }] {
        let (mut net, mut client, mut workers) = world(1);
        client.say(&mut net, &query).unwrap();
        let (_, request) = asked_of(&mut net, &mut workers);
        workers[0].say(&mut net, &answer(request, 404)).unwrap();
        assert_eq!(standing(&net), (false, 0));
    }
    let (mut net, mut client, mut workers) = world(1);
    let abilities = cocoon_session::ability::CHAT.cast_signed();
    workers[0].say(&mut net, &ext::Abilities { abilities }).unwrap();
    client.say(&mut net, &query_to(1, "/v1/completions")).unwrap();
    let (_, request) = asked_of(&mut net, &mut workers);
    workers[0].say(&mut net, &answer(request, 404)).unwrap();
    assert_eq!(standing(&net), (false, 0), "it never said that it could do this");
}

#[test]
fn an_engine_that_refuses_all_it_is_asked_is_not_asked_before_one_that_answers() {
    let (mut net, mut client, mut workers) = world(2);
    let mut refusals = 0;
    for id in 1..=20 {
        client.say(&mut net, &query(id)).unwrap();
        let (number, request) = asked_of(&mut net, &mut workers);
        net.pass(Duration::from_millis(100));
        let message = if number == 0 { answer(request, 422) } else { head(request, Some(50)) };
        workers[number].say(&mut net, &message).unwrap();
        refusals += u32::from(number == 0);
        answers(&mut net, &mut client);
    }
    assert_eq!(refusals, 1, "once was enough to see that it is no quicker");
}

#[test]
fn who_finds_fault_with_every_request_is_heard_beside_another() {
    let fault = |request| answer(request, 400);
    let refusal = |request| failed(request, ErrorCode::PROTOCOL.0, "no good", 0);
    for by_error in [false, true] {
        let (mut net, mut client, mut workers) = world(2);
        // By far the cheapest, so that it is asked first wherever it may be.
        workers[0].say(&mut net, &worker::NewCoefficient { new_coefficient: 1 }).unwrap();
        let find_fault = |net: &mut Net, worker: &mut Raw, request| match by_error {
            false => worker.say(net, &fault(request)).unwrap(),
            true => worker.say(net, &refusal(request)).unwrap(),
        };
        let ask = |net: &mut Net, client: &mut Raw, workers: &mut [Raw], id| {
            client.say(net, &query(id)).unwrap();
            asked_of(net, workers)
        };
        // Once may be the request's fault.
        let (number, request) = ask(&mut net, &mut client, &mut workers, 1);
        assert_eq!(number, 0);
        find_fault(&mut net, &mut workers[0], request);
        assert_eq!(status(&mut net, &mut client), 400);

        // Another one serves the next, and the first is left alone for a while.
        let (number, request) = ask(&mut net, &mut client, &mut workers, 2);
        assert_eq!(number, 0);
        find_fault(&mut net, &mut workers[0], request);
        let (number, request) = asked_of(&mut net, &mut workers);
        assert_eq!(number, 1);
        workers[1].say(&mut net, &head(request, Some(50))).unwrap();
        assert_eq!(status(&mut net, &mut client), 200);
        let (number, request) = ask(&mut net, &mut client, &mut workers, 3);
        assert_eq!(number, 1, "the first is left alone");
        workers[1].say(&mut net, &head(request, Some(50))).unwrap();
        assert_eq!(status(&mut net, &mut client), 200);
        assert!(net.proxy.workers().iter().all(|worker| worker.failure_rate == 0.0), "nobody failed");

        // What both find fault with is at fault, and counts against nobody.
        net.pass(Duration::from_secs(1));
        for id in [4, 5] {
            let (number, request) = ask(&mut net, &mut client, &mut workers, id);
            assert_eq!(number, 0);
            find_fault(&mut net, &mut workers[0], request);
            let (number, request) = asked_of(&mut net, &mut workers);
            assert_eq!(number, 1);
            find_fault(&mut net, &mut workers[1], request);
            assert_eq!(status(&mut net, &mut client), 400);
        }
        // One that served a request is believed again.
        let (number, request) = ask(&mut net, &mut client, &mut workers, 6);
        assert_eq!(number, 0);
        workers[0].say(&mut net, &head(request, Some(50))).unwrap();
        assert_eq!(status(&mut net, &mut client), 200);
        let (_, request) = ask(&mut net, &mut client, &mut workers, 7);
        find_fault(&mut net, &mut workers[0], request);
        assert_eq!(status(&mut net, &mut client), 400);
    }
}

#[test]
fn an_answer_whose_worker_falls_silent_ends_long_before_its_time() {
    let (mut net, mut client, mut workers) = world(1);
    client.say(&mut net, &query(1)).unwrap();
    let (_, request) = asked_of(&mut net, &mut workers);
    workers[0].say(&mut net, &head(request, None)).unwrap();
    assert!(matches!(answers(&mut net, &mut client).as_slice(), [ProxyToClient::QueryAnswerEx(_)]));
    // Its connection takes what is sent to it.
    let pass = |net: &mut Net, worker: &mut Raw, speaks: bool| {
        net.pass(Duration::from_secs(1));
        let _ = worker.packets(net);
        if speaks {
            worker.send(net, &Packet::Pong { id: 0 }).unwrap();
        }
    };
    // An engine may think for long: as long as its worker answers pings, that is no silence.
    for _ in 0..15 {
        pass(&mut net, &mut workers[0], true);
    }
    assert_eq!(answers(&mut net, &mut client), []);
    // Nor is it one where the proxy itself stood still, and what came meanwhile is yet to be read.
    net.now = net.now.plus(2 * BLAME_AFTER);
    pass(&mut net, &mut workers[0], true);
    pass(&mut net, &mut workers[0], true);
    assert_eq!(answers(&mut net, &mut client), []);
    for _ in 0..=BLAME_AFTER.as_secs() {
        pass(&mut net, &mut workers[0], false);
    }
    let ended = answers(&mut net, &mut client);
    let [ProxyToClient::QueryAnswerErrorEx(ended)] = ended.as_slice() else { panic!("{ended:?}") };
    assert_eq!(ended.error_code, ErrorCode::ERROR.0);
    assert_eq!(standing(&net), (true, 1));
}

#[test]
fn an_error_before_the_head_goes_elsewhere_and_counts_whatever_its_worker_calls_it() {
    let hasty =
        [(ErrorCode::CANCELLED, 0), (ErrorCode::ERROR, 1), (ErrorCode::NONE, 0), (ErrorCode::TIMEOUT, 0)];
    for (code, tokens) in hasty {
        let (mut net, mut client, mut workers) = world(2);
        client.say(&mut net, &query(1)).unwrap();
        let (first, request) = asked_of(&mut net, &mut workers);
        workers[first].say(&mut net, &failed(request, code.0, "no", tokens)).unwrap();
        let (second, request) = asked_of(&mut net, &mut workers);
        assert_ne!(first, second);
        workers[second].say(&mut net, &head(request, Some(5))).unwrap();
        assert_eq!(status(&mut net, &mut client), 200);
        let mut rates: Vec<bool> =
            net.proxy.workers().iter().map(|worker| worker.failure_rate > 0.0).collect();
        rates.sort_unstable();
        assert_eq!(rates, [false, true], "{code}");
        assert_eq!(net.ends.last().map(|end| (end.charged, end.attempts)), Some((5, 2)));
    }
}

#[test]
fn a_worker_cannot_say_that_the_caller_gave_up() {
    let (mut net, mut client, mut workers) = world(1);
    client.say(&mut net, &query(1)).unwrap();
    let (_, request) = asked_of(&mut net, &mut workers);
    workers[0].say(&mut net, &error(request, ErrorCode::CANCELLED.0)).unwrap();
    assert_eq!(status(&mut net, &mut client), 502);
    assert_eq!(standing(&net), (true, 1));
}

#[test]
fn a_request_that_its_worker_finds_fault_with_is_refused_and_counts_for_nobody() {
    let published = "worker: invalid http request: model name mismatch";
    for (code, words) in [(ErrorCode::PROTOCOL, "no JSON"), (ErrorCode::NONE, published)] {
        let (mut net, mut client, mut workers) = world(2);
        client.say(&mut net, &query(1)).unwrap();
        let (first, request) = asked_of(&mut net, &mut workers);
        workers[first].say(&mut net, &failed(request, code.0, words, 7)).unwrap();
        assert_eq!(status(&mut net, &mut client), 400);
        let workers = net.proxy.workers();
        assert!(
            workers.iter().all(|worker| worker.failure_rate == 0.0 && worker.requests == 0),
            "{workers:?}"
        );
        assert_eq!(net.ends.last().map(|end| (end.charged, end.attempts)), Some((0, 1)));
    }
    // After the head that is no excuse.
    let (mut net, mut client, mut workers) = world(1);
    client.say(&mut net, &query(1)).unwrap();
    let (_, request) = asked_of(&mut net, &mut workers);
    workers[0].say(&mut net, &head(request, None)).unwrap();
    workers[0].say(&mut net, &error(request, ErrorCode::PROTOCOL.0)).unwrap();
    assert_eq!(standing(&net), (true, 1));
}

#[test]
fn a_worker_without_room_is_left_alone_for_a_moment_and_not_blamed() {
    for (code, words) in [(ErrorCode::NOT_READY, "later"), (ErrorCode::ERROR, "too many active queries")] {
        let (mut net, mut client, mut workers) = world(1);
        client.say(&mut net, &query(1)).unwrap();
        let (_, request) = asked_of(&mut net, &mut workers);
        workers[0].say(&mut net, &failed(request, code.0, words, 0)).unwrap();
        assert!(status(&mut net, &mut client) > 500, "there is no other");
        assert_eq!(standing(&net), (false, 0));
        client.say(&mut net, &query(2)).unwrap();
        assert_eq!(status(&mut net, &mut client), 429, "it said that it has no room");
        net.pass(Duration::from_millis(300));
        works(&mut net, &mut client, &mut workers[0], 3);
    }
}

#[test]
fn a_worker_that_goes_away_with_work_has_failed_and_comes_back_as_the_one_it_was() {
    let (mut net, mut client, mut workers) = world(1);
    client.say(&mut net, &query(1)).unwrap();
    asked_of(&mut net, &mut workers);
    net.proxy.closed(workers[0].conn, net.now);
    net.settle();
    assert_eq!(status(&mut net, &mut client), 503);
    net.pass(Duration::from_secs(1));
    let mut worker = raw_worker(&mut net, true);
    assert_eq!(standing(&net), (true, 1));
    works(&mut net, &mut client, &mut worker, 2);
    net.proxy.closed(worker.conn, net.now);
    raw_worker(&mut net, true);
    assert_eq!(standing(&net).1, 2);
}

/// A query for a stream, and what its worker begins to answer.
fn hurried(id: u8, seconds: f64) -> client::RunQueryEx {
    client::RunQueryEx { timeout: seconds, ..query(id) }
}

fn stream_head(request_id: [u8; 32], payload: &'static [u8]) -> proxy::QueryAnswerEx {
    let header = http::Header { name: "Content-Type".into(), value: "text/event-stream".into() };
    let mut head: http::Response = from_boxed(http_head(200)).unwrap();
    head.headers.push(header);
    head.payload = Bytes::from_static(payload);
    proxy::QueryAnswerEx { request_id, answer: to_boxed(&head), final_info: None }
}

#[test]
fn a_head_alone_is_no_answer() {
    let (mut net, mut client, mut workers) = world(1);
    client.say(&mut net, &hurried(1, 30.0)).unwrap();
    let (_, request) = asked_of(&mut net, &mut workers);
    workers[0].say(&mut net, &stream_head(request, b"")).unwrap();
    answers(&mut net, &mut client);
    assert_eq!(net.proxy.workers()[0].first_byte, None, "no byte came yet");
    net.pass(Duration::from_secs(30));
    assert_eq!(standing(&net), (true, 1), "nothing came for half a minute");
}

#[test]
fn the_first_byte_is_the_first_of_the_body() {
    let (mut net, mut client, mut workers) = world(1);
    client.say(&mut net, &query(1)).unwrap();
    let (_, request) = asked_of(&mut net, &mut workers);
    workers[0].say(&mut net, &stream_head(request, b"")).unwrap();
    net.now = net.now.plus(Duration::from_millis(1500));
    workers[0].say(&mut net, &part(request, None)).unwrap();
    assert_eq!(net.proxy.workers()[0].first_byte, Some(Duration::from_millis(1500)));
    net.now = net.now.plus(Duration::from_millis(500));
    workers[0].say(&mut net, &part(request, Some(5))).unwrap();
    assert_eq!(net.proxy.workers()[0].first_byte, Some(Duration::from_millis(1500)));
    assert!(net.proxy.workers()[0].tokens_per_s.is_some_and(|speed| (speed - 10.0).abs() < 1e-6));
}

#[test]
fn a_stream_that_goes_silent_is_blamed_and_one_that_nobody_reads_is_not() {
    for (reads, blamed) in [(true, true), (false, false)] {
        let (mut net, mut client, mut workers) = world(1);
        client.say(&mut net, &hurried(1, 30.0)).unwrap();
        let (_, request) = asked_of(&mut net, &mut workers);
        workers[0].say(&mut net, &stream_head(request, b"data: 1\n\n")).unwrap();
        if reads {
            answers(&mut net, &mut client);
        }
        for _ in 0..30 {
            net.pass(Duration::from_secs(1));
            workers[0].send(&mut net, &Packet::Pong { id: 0 }).unwrap();
        }
        net.pass(Duration::from_millis(100));
        assert_eq!(standing(&net).0, blamed, "{reads}");
    }
    // One that goes on until the time is up has done what it could.
    let (mut net, mut client, mut workers) = world(1);
    client.say(&mut net, &hurried(1, 30.0)).unwrap();
    let (_, request) = asked_of(&mut net, &mut workers);
    workers[0].say(&mut net, &stream_head(request, b"data: 1\n\n")).unwrap();
    for _ in 0..6 {
        net.pass(Duration::from_secs(5));
        workers[0].say(&mut net, &part(request, None)).unwrap();
        answers(&mut net, &mut client);
    }
    assert_eq!(standing(&net), (false, 0));
}

#[test]
fn a_caller_in_a_hurry_takes_no_workers_good_name() {
    for seconds in [1.0, 9.0] {
        let (mut net, mut client, mut workers) = world(1);
        client.say(&mut net, &hurried(1, seconds)).unwrap();
        let (_, request) = asked_of(&mut net, &mut workers);
        net.pass(Duration::from_secs_f64(seconds * 0.95));
        workers[0].say(&mut net, &error(request, ErrorCode::TIMEOUT.0)).unwrap();
        assert_eq!(status(&mut net, &mut client), 504);
        assert_eq!(standing(&net), (false, 0), "{seconds}");
    }
    let (mut net, mut client, mut workers) = world(1);
    client.say(&mut net, &hurried(1, 20.0)).unwrap();
    let (_, request) = asked_of(&mut net, &mut workers);
    net.pass(Duration::from_secs(19));
    workers[0].say(&mut net, &error(request, ErrorCode::TIMEOUT.0)).unwrap();
    assert_eq!(standing(&net), (true, 1), "it had its time");
}

#[test]
fn a_body_that_its_worker_does_not_take_counts_and_one_that_does_not_come_does_not() {
    let parts = INITIAL_CREDIT_BYTES / MAX_PART_BYTES;
    for (rounds, blamed) in [(1, false), (2, true)] {
        let (mut net, mut client, mut workers) = world(1);
        let options = ext::RequestOptions {
            request_id: [1; 32],
            needs: 0,
            preference: 0,
            affinity: Vec::new(),
            trace: Bytes::new(),
            body_bytes: 1 << 26,
        };
        client.say(&mut net, &options).unwrap();
        client.say(&mut net, &hurried(1, 20.0)).unwrap();
        for _ in 0..rounds {
            for _ in 0..parts {
                let data = vec![b'x'; MAX_PART_BYTES].into();
                client.say(&mut net, &ext::BodyPart { request_id: [1; 32], data, last: false }).unwrap();
            }
            // What goes to the worker is granted to the client anew.
            workers[0].packets(&mut net);
        }
        net.pass(Duration::from_secs(20));
        assert_eq!(standing(&net).0, blamed, "{rounds}");
        assert_eq!(net.ends.len() + net.proxy.in_flight(), 1);
    }
}
