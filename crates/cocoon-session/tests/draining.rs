//! Nodes on their way out, or at rest: a proxy that drains, a worker that pauses. Nothing new begins, and nothing that has
//! begun is lost.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use bytes::Bytes;
use cocoon_session::MAX_PART_BYTES;
use cocoon_wire::codec::from_boxed;
use cocoon_wire::tl::{ProxyToClient, ProxyToWorker, ext, http, worker};
use support::*;

/// The status of the only answer.
fn status(net: &mut Net, client: &mut Raw) -> i32 {
    let messages = answers(net, client);
    let [ProxyToClient::QueryAnswerEx(answer)] = messages.as_slice() else { panic!("{messages:?}") };
    from_boxed::<http::Response>(answer.answer.clone()).unwrap().status_code
}

/// Begins a request whose body streams; half of it is there.
fn begin_upload(net: &mut Net, client: &mut Raw, id: u8) {
    let body_bytes = i64::try_from(2 * MAX_PART_BYTES).unwrap();
    let (affinity, trace) = (Vec::new(), Bytes::new());
    let options =
        ext::RequestOptions { request_id: [id; 32], needs: 0, preference: 0, affinity, trace, body_bytes };
    client.say(net, &options).unwrap();
    client.say(net, &query(id)).unwrap();
    client.say(net, &part_of(id, false)).unwrap();
}

fn part_of(id: u8, last: bool) -> ext::BodyPart {
    ext::BodyPart { request_id: [id; 32], data: vec![id; MAX_PART_BYTES].into(), last }
}

/// The second half comes, and the worker answers.
fn end_upload(net: &mut Net, client: &mut Raw, worker: &mut Raw, id: u8, attempt: [u8; 32]) {
    client.say(net, &part_of(id, true)).unwrap();
    let heard: Vec<ProxyToWorker> = worker.messages(net);
    assert!(
        matches!(heard.as_slice(), [ProxyToWorker::BodyPart(part)] if part.last && part.request_id == attempt),
        "{heard:?}"
    );
    worker.say(net, &head(attempt, Some(5))).unwrap();
    assert_eq!(status(net, client), 200);
}

fn attempt_of(net: &mut Net, worker: &mut Raw) -> [u8; 32] {
    let heard: Vec<ProxyToWorker> = worker.messages(net);
    let found = heard.iter().find_map(|message| match message {
        ProxyToWorker::RunQueryEx(query) => Some(query.request_id),
        _ => None,
    });
    found.unwrap()
}

#[test]
fn a_proxy_that_drains_refuses_what_is_new_and_lets_what_runs_end() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let mut worker = raw_worker(&mut net, true);
    begin_upload(&mut net, &mut client, 1);
    let uploading = attempt_of(&mut net, &mut worker);
    client.say(&mut net, &query(2)).unwrap();
    let answering = asked(&mut net, &mut worker);
    worker.say(&mut net, &head(answering, None)).unwrap();
    assert_eq!(status(&mut net, &mut client), 200);

    net.proxy.drain();
    client.say(&mut net, &query(3)).unwrap();
    assert_eq!(status(&mut net, &mut client), 503);
    assert!(worker.messages::<ProxyToWorker>(&mut net).is_empty(), "nothing new goes to a worker");
    assert!(!net.proxy.is_quiet());
    end_upload(&mut net, &mut client, &mut worker, 1, uploading);
    worker.say(&mut net, &part(answering, Some(5))).unwrap();
    let messages = answers(&mut net, &mut client);
    assert!(
        matches!(messages.as_slice(), [ProxyToClient::QueryAnswerPartEx(m)] if m.final_info.is_some()),
        "{messages:?}"
    );
    worker.packets(&mut net);
    client.packets(&mut net);
    assert!(net.proxy.is_quiet());
    assert_eq!((net.ends.len(), net.proxy.ledger().reservations()), (2, 0));
    assert!(net.ends.iter().all(|end| end.failure.is_none() && end.charged == 5));
}

#[test]
fn a_worker_that_pauses_gets_nothing_new_and_loses_nothing() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let mut pausing = raw_worker(&mut net, true);
    begin_upload(&mut net, &mut client, 1);
    let uploading = attempt_of(&mut net, &mut pausing);
    pausing.say(&mut net, &worker::EnabledDisabled { disabled: 1 }).unwrap();
    client.say(&mut net, &query(2)).unwrap();
    assert_eq!(status(&mut net, &mut client), 503, "no other is there");

    let mut other = raw_worker(&mut net, true);
    works(&mut net, &mut client, &mut other, 3);
    assert!(pausing.messages::<ProxyToWorker>(&mut net).is_empty());
    end_upload(&mut net, &mut client, &mut pausing, 1, uploading);
    assert!(net.ends.iter().all(|end| end.failure.is_none()));

    net.proxy.closed(other.conn, net.now);
    pausing.say(&mut net, &worker::EnabledDisabled { disabled: 0 }).unwrap();
    pausing.packets(&mut net);
    works(&mut net, &mut client, &mut pausing, 4);
}

#[test]
fn a_request_that_fails_elsewhere_does_not_go_to_a_worker_that_pauses() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let mut first = raw_worker(&mut net, true);
    client.say(&mut net, &query(1)).unwrap();
    let request = asked(&mut net, &mut first);
    let mut pausing = raw_worker(&mut net, true);
    pausing.say(&mut net, &worker::EnabledDisabled { disabled: 1 }).unwrap();
    first.say(&mut net, &error(request, 602)).unwrap();
    assert_eq!(status(&mut net, &mut client), 502);
    assert!(pausing.messages::<ProxyToWorker>(&mut net).is_empty());
}
