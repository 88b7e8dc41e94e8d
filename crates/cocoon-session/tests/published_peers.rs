//! Published peers survive us: failures reach them only in the forms that they can bear.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cocoon_ledger::PeerCounters;
use cocoon_session::worker::{WorkerEvent, WorkerSession};
use cocoon_session::{ErrorCode, RequestFailure};
use cocoon_wire::codec::{Message as _, from_boxed};
use cocoon_wire::frame::{FrameDecoder, MAX_FRAME_PAYLOAD};
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::tl::{ProxyToClient, TokensUsed, WorkerToProxy, client, http};
use support::*;

/// The one whole answer that a client gets: status, JSON body. Its end carries everything that a published client
/// reads.
fn whole_answer(messages: &[ProxyToClient]) -> (i32, serde_json::Value) {
    let [ProxyToClient::QueryAnswerEx(message)] = messages else {
        panic!("not one whole answer: {messages:?}")
    };
    bearable(message.final_info.as_ref());
    let head: http::Response = from_boxed(message.answer.clone()).unwrap();
    let length = head.headers.iter().find(|header| header.name.as_bytes() == b"Content-Length").unwrap();
    assert_eq!(length.value.to_str().unwrap(), head.payload.len().to_string());
    (head.status_code, serde_json::from_slice(&head.payload).unwrap())
}

fn bearable(info: Option<&client::QueryFinalInfo>) {
    let info = info.unwrap_or_else(|| panic!("an end without final info"));
    for text in info.debug.iter().flat_map(|debug| [&debug.worker_debug, &debug.proxy_debug]) {
        // A published client parses these texts unless they are empty, and dies of anything but JSON.
        if !text.as_bytes().is_empty() {
            serde_json::from_slice::<serde_json::Value>(text.as_bytes()).unwrap();
        }
    }
}

#[test]
fn a_rejection_is_a_whole_answer_with_an_error_status() {
    let mut net = Net::new(proxy_settings());
    net.funds = Some(chain_state(1_000_000_000));
    let mut client = raw_client(&mut net, false);
    let reject = |net: &mut Net, client: &mut Raw, change: &dyn Fn(&mut client::RunQueryEx)| {
        let mut query = query(1);
        change(&mut query);
        client.say(net, &query).unwrap();
        let (status, body) = whole_answer(&client.messages(net));
        assert!(body["error"]["message"].is_string(), "{body}");
        status
    };
    assert_eq!(reject(&mut net, &mut client, &|_| {}), 404, "nobody offers the model");
    let mut worker = raw_worker(&mut net, false);
    assert_eq!(reject(&mut net, &mut client, &|query| query.max_coefficient = 999), 503);
    assert_eq!(reject(&mut net, &mut client, &|query| query.max_tokens = -1), 400);
    assert_eq!(reject(&mut net, &mut client, &|query| query.timeout = f64::NAN), 400);
    assert_eq!(reject(&mut net, &mut client, &|query| query.max_tokens = i32::MAX), 402);
    assert_eq!(reject(&mut net, &mut client, &|query| query.min_config_version = 4), 503);
    works(&mut net, &mut client, &mut worker, 9);
}

#[test]
fn a_failure_before_the_first_byte_is_a_whole_answer_too() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, false);
    let mut worker = raw_worker(&mut net, true);
    client.say(&mut net, &query(1)).unwrap();
    let request = asked(&mut net, &mut worker);
    worker.say(&mut net, &error(request, ErrorCode::ERROR.0)).unwrap();
    assert_eq!(whole_answer(&answers(&mut net, &mut client)).0, 502);

    client.say(&mut net, &query(2)).unwrap();
    net.pass(Duration::from_secs(61));
    assert_eq!(whole_answer(&answers(&mut net, &mut client)).0, 504, "the worker never answered");

    client.say(&mut net, &query(3)).unwrap();
    net.proxy.closed(worker.conn, net.now);
    net.settle();
    assert_eq!(whole_answer(&answers(&mut net, &mut client)).0, 503, "the worker went away");
}

#[test]
fn a_worker_that_speaks_no_http_counts_as_failed_before_the_first_byte() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, false);
    let mut worker = raw_worker(&mut net, false);
    client.say(&mut net, &query(1)).unwrap();
    let request = asked(&mut net, &mut worker);
    let mut message = head(request, None);
    message.answer = http_head(42);
    worker.say(&mut net, &message).unwrap_err();
    assert_eq!(whole_answer(&answers(&mut net, &mut client)).0, 503);
}

#[test]
fn a_failure_after_the_first_byte_is_an_error_with_final_info() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, false);
    let mut worker = raw_worker(&mut net, false);
    client.say(&mut net, &query(1)).unwrap();
    let request = asked(&mut net, &mut worker);
    worker.say(&mut net, &head(request, None)).unwrap();
    let first = answers(&mut net, &mut client);
    assert!(
        matches!(first.as_slice(), [ProxyToClient::QueryAnswerEx(m)] if m.final_info.is_none()),
        "{first:?}"
    );
    worker.say(&mut net, &error(request, ErrorCode::ERROR.0)).unwrap();
    let last = answers(&mut net, &mut client);
    let [ProxyToClient::QueryAnswerErrorEx(message)] = last.as_slice() else { panic!("{last:?}") };
    bearable(message.final_info.as_ref());
    assert_eq!(message.error_code, ErrorCode::ERROR.0);
}

#[test]
fn debug_text_of_a_worker_that_is_no_json_is_not_passed_on() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, false);
    let mut worker = raw_worker(&mut net, false);
    client.say(&mut net, &query(1)).unwrap();
    let request = asked(&mut net, &mut worker);
    let mut message = head(request, Some(5));
    message.final_info.as_mut().unwrap().worker_debug = Some("no json".into());
    worker.say(&mut net, &message).unwrap();
    let messages = answers(&mut net, &mut client);
    let [ProxyToClient::QueryAnswerEx(message)] = messages.as_slice() else { panic!("{messages:?}") };
    bearable(message.final_info.as_ref());
}

#[test]
fn a_published_client_never_gets_our_extensions() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, false);
    let mut worker = raw_worker(&mut net, false);
    works(&mut net, &mut client, &mut worker, 1);
    client.say(&mut net, &query(2)).unwrap();
    asked(&mut net, &mut worker);
    net.proxy.closed(client.conn, net.now);
    net.settle();
    let to_worker: Vec<cocoon_wire::tl::ProxyToWorker> = worker.messages(&mut net);
    assert!(to_worker.is_empty(), "a published worker knows no cancelling: {to_worker:?}");
}

/// A worker of ours at a proxy, with all of their exchange.
struct WorkerAtProxy {
    net: Net,
    client: Raw,
    session: WorkerSession,
    conn: cocoon_session::proxy::ConnId,
    to_worker: BytesMut,
    /// What the worker says.
    said: Vec<WorkerToProxy>,
    decoder: FrameDecoder,
    heard: BytesMut,
    events: Vec<WorkerEvent>,
}

impl WorkerAtProxy {
    fn new(extensions: bool) -> Self {
        let mut net = Net::new(proxy_settings());
        let client = raw_client(&mut net, false);
        let conn = net.open();
        net.proxy.add_worker(conn, attested(conn), net.now);
        let mut settings = worker_settings();
        settings.extensions = extensions;
        let session = WorkerSession::new(settings, net.now, 1);
        let mut pair = Self {
            net,
            client,
            session,
            conn,
            to_worker: BytesMut::new(),
            said: Vec::new(),
            decoder: FrameDecoder::new(MAX_FRAME_PAYLOAD),
            heard: BytesMut::new(),
            events: Vec::new(),
        };
        pair.run();
        assert!(matches!(pair.events.as_slice(), [.., WorkerEvent::Ready]), "{:?}", pair.events);
        pair
    }

    fn run(&mut self) {
        loop {
            let mut quiet = true;
            while let Some(bytes) = self.session.transmit(1 << 20) {
                quiet = false;
                self.heard.extend_from_slice(&bytes);
                while let Some(payload) = self.decoder.decode(&mut self.heard).unwrap() {
                    if let Packet::Packet { data } = Packet::decode_boxed(payload).unwrap() {
                        self.said.push(WorkerToProxy::decode_boxed(data).unwrap());
                    }
                }
                self.net.feed(self.conn, &bytes).unwrap();
            }
            while let Some(bytes) = self.net.proxy.transmit(self.conn, 1 << 20) {
                quiet = false;
                self.to_worker.extend_from_slice(&bytes);
                self.session.receive(&mut self.to_worker, self.net.now).unwrap();
            }
            while let Some(event) = self.session.poll_event() {
                if let WorkerEvent::Compare(_) = event {
                    self.session.compare(PeerCounters::default(), self.net.now).unwrap();
                }
                self.events.push(event);
                quiet = false;
            }
            if quiet {
                return;
            }
        }
    }

    fn ask(&mut self, query: &client::RunQueryEx) -> Option<[u8; 32]> {
        self.client.say(&mut self.net, query).unwrap();
        self.run();
        match self.events.last() {
            Some(WorkerEvent::Work(work)) => Some(work.id),
            _ => None,
        }
    }
}

#[test]
fn our_worker_tells_a_published_proxy_of_an_early_failure_by_a_whole_answer() {
    let mut pair = WorkerAtProxy::new(false);
    let id = pair.ask(&query(1)).unwrap();
    let failure = RequestFailure::new(ErrorCode::ERROR, "the engine is down");
    pair.session.fail(id, failure, TokensUsed::default(), pair.net.now);
    pair.run();
    let [WorkerToProxy::QueryAnswerEx(message)] = pair.said.as_slice() else { panic!("{:?}", pair.said) };
    assert!(message.final_info.is_some());
    let head: http::Response = from_boxed(message.answer.clone()).unwrap();
    assert_eq!(head.status_code, 502);
    serde_json::from_slice::<serde_json::Value>(&head.payload).unwrap();
}

#[test]
fn our_worker_tells_any_proxy_of_a_late_failure_by_an_error_with_final_info() {
    for extensions in [false, true] {
        let mut pair = WorkerAtProxy::new(extensions);
        let id = pair.ask(&query(1)).unwrap();
        let head: http::Response = from_boxed(http_head(200)).unwrap();
        pair.session.head(id, head, pair.net.now);
        pair.run();
        let failure = RequestFailure::new(ErrorCode::ERROR, "the engine broke");
        pair.session.fail(id, failure, TokensUsed::default(), pair.net.now);
        pair.run();
        let [WorkerToProxy::QueryAnswerEx(_), WorkerToProxy::QueryAnswerErrorEx(message)] =
            pair.said.as_slice()
        else {
            panic!("{:?}", pair.said)
        };
        assert!(message.final_info.is_some());
    }
}

#[test]
fn a_query_that_is_no_http_costs_the_worker_nothing_but_an_answer() {
    for extensions in [false, true] {
        let mut pair = WorkerAtProxy::new(extensions);
        let mut bad = query(1);
        bad.query = Bytes::from_static(b"garbage!");
        assert_eq!(pair.ask(&bad), None, "no engine sees it");
        assert_eq!(whole_answer(&answers(&mut pair.net, &mut pair.client)).0, 400);
        assert!(pair.ask(&query(2)).is_some(), "the connection lives on");
    }
}

#[test]
fn a_finished_answer_whose_reader_went_away_is_given_up_and_paid() {
    let mut pair = WorkerAtProxy::new(true);
    pair.client = raw_client(&mut pair.net, true);
    let id = pair.ask(&query(1)).unwrap();
    let head: http::Response = from_boxed(http_head(200)).unwrap();
    pair.session.head(id, head, pair.net.now);
    // More than the credit of all hops together, so that the end waits behind it.
    for _ in 0..16 {
        pair.session.data(id, Bytes::from(vec![b'x'; 64 * 1024]));
        pair.run();
    }
    pair.session.complete_request(id, tokens(50), pair.net.now);
    pair.run();
    assert_eq!(pair.net.proxy.in_flight(), 1, "the end waits for a reader");
    pair.client.say(&mut pair.net, &cocoon_wire::tl::ext::Cancel { request_id: [1; 32] }).unwrap();
    pair.run();
    assert_eq!(pair.net.proxy.in_flight(), 0, "the last word came at once");
    assert_eq!(pair.net.ends.last().map(|end| end.charged), Some(50));
}

#[test]
fn price_and_pause_that_change_during_the_handshake_reach_the_proxy() {
    let mut net = Net::new(proxy_settings());
    let conn = net.open();
    net.proxy.add_worker(conn, attested(conn), net.now);
    let mut session = WorkerSession::new(worker_settings(), net.now, 1);
    let mut to_worker = BytesMut::new();
    for _ in 0..8 {
        while let Some(bytes) = session.transmit(1 << 20) {
            net.feed(conn, &bytes).unwrap();
        }
        while let Some(bytes) = net.proxy.transmit(conn, 1 << 20) {
            to_worker.extend_from_slice(&bytes);
        }
        session.receive(&mut to_worker, net.now).unwrap();
        while let Some(event) = session.poll_event() {
            if let WorkerEvent::Compare(_) = event {
                session.compare(PeerCounters::default(), net.now).unwrap();
                assert!(session.transmit(1 << 20).map(|bytes| net.feed(conn, &bytes)).is_some());
                session.set_coefficient(1234);
            }
        }
        session.set_paused(true);
    }
    let workers = net.proxy.workers();
    assert_eq!((workers[0].coefficient, workers[0].ready), (1234, false));
}

#[test]
fn a_worker_that_was_idle_has_its_two_seconds_once_it_gets_work() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, false);
    let mut worker = raw_worker(&mut net, false);
    net.pass(Duration::from_secs(9));
    client.say(&mut net, &query(1)).unwrap();
    net.pass(Duration::from_millis(1900));
    assert!(net.proxy.workers()[0].ready, "it is asked since 1.9 s only");
    net.pass(Duration::from_millis(200));
    assert!(!net.proxy.workers()[0].ready, "it is silent with work");
    let _ = worker.packets(&mut net);
}
