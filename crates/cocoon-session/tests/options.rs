//! What a request wishes, and what workers can do, on their way; neither ever meets a published node.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use bytes::Bytes;
use cocoon_session::client::Submission;
use cocoon_session::proxy::ProxySettings;
use cocoon_session::{MAX_AFFINITY, MAX_TRACE_BYTES, Preference, Violation, ability};
use cocoon_wire::tl::{ClientToProxy, ProxyToWorker, ext};
use support::*;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn options(id: u8) -> ext::RequestOptions {
    ext::RequestOptions {
        request_id: [id; 32],
        needs: 1,
        preference: 2,
        affinity: vec![1, -1],
        trace: Bytes::from_static(TRACE.as_bytes()),
        body_bytes: -1,
    }
}

fn wishing(id: u8) -> Submission {
    Submission {
        needs: ability::CHAT,
        preference: Preference::Fastest,
        affinity: vec![1, u64::MAX],
        trace: Some(TRACE.into()),
        ..submission(id)
    }
}

/// What a client of ours says when it submits a request, after its handshake with this proxy.
fn says(extensions: bool) -> Vec<ClientToProxy> {
    let mut net = Net::new(ProxySettings { extensions, ..proxy_settings() });
    let mut client = OurClient::dial(&mut net, client_settings());
    client.talk(&mut net).unwrap();
    client.session.submit(&wishing(1), net.now).unwrap();
    packets_in(&client.session.transmit(1 << 20).unwrap())
}

#[test]
fn a_client_tells_a_proxy_of_ours_what_it_wishes_right_before_the_request() {
    let said = says(true);
    assert!(
        matches!(said.as_slice(), [ClientToProxy::RequestOptions(first), ClientToProxy::RunQueryEx(query)]
            if *first == options(1) && query.request_id == [1; 32]),
        "{said:?}"
    );
}

#[test]
fn a_client_tells_a_published_proxy_nothing_of_it() {
    let said = says(false);
    assert!(matches!(said.as_slice(), [ClientToProxy::RunQueryEx(_)]), "{said:?}");
}

#[test]
fn a_worker_of_ours_hears_the_trace_and_nothing_of_how_it_was_chosen() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let mut worker = raw_worker(&mut net, true);
    client.say(&mut net, &options(1)).unwrap();
    client.say(&mut net, &query(1)).unwrap();
    let heard: Vec<ProxyToWorker> = worker.messages(&mut net);
    let [ProxyToWorker::RequestOptions(told), ProxyToWorker::RunQueryEx(query)] = heard.as_slice() else {
        panic!("{heard:?}");
    };
    assert_eq!(told.request_id, query.request_id);
    // The same trace, and in it the proxy's own place.
    let (trace, place) = (&TRACE.as_bytes()[..36], &TRACE.as_bytes()[36..]);
    assert!(told.trace.starts_with(trace) && !told.trace.ends_with(place), "{:?}", told.trace);
    assert_eq!((told.needs, told.preference, told.affinity.len(), told.body_bytes), (0, 0, 0, -1));
}

#[test]
fn a_published_worker_hears_the_request_alone() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let mut worker = raw_worker(&mut net, false);
    client.say(&mut net, &options(1)).unwrap();
    client.say(&mut net, &query(1)).unwrap();
    let heard: Vec<ProxyToWorker> = worker.messages(&mut net);
    assert!(matches!(heard.as_slice(), [ProxyToWorker::RunQueryEx(_)]), "{heard:?}");
}

#[test]
fn options_that_no_request_follows_close_the_connection() {
    let between = |net: &mut Net| {
        let mut client = raw_client(net, true);
        client.say(net, &options(1)).unwrap();
        client
    };
    let mut net = Net::new(proxy_settings());
    let _worker = raw_worker(&mut net, true);
    let expected = Err(Violation::Unexpected("packet between a request's options and the request"));
    assert_eq!(between(&mut net).say(&mut net, &query(2)), expected, "another request");
    assert_eq!(between(&mut net).say(&mut net, &options(1)), expected, "options again");
    assert_eq!(between(&mut net).say(&mut net, &ext::Cancel { request_id: [1; 32] }), expected, "a cancel");
    assert_eq!(between(&mut net).say(&mut net, &query(1)), Ok(()));
}

#[test]
fn options_over_a_limit_close_the_connection() {
    let mut net = Net::new(proxy_settings());
    for bad in [
        ext::RequestOptions { affinity: vec![0; MAX_AFFINITY + 1], ..options(1) },
        ext::RequestOptions { trace: vec![b'0'; MAX_TRACE_BYTES + 1].into(), ..options(1) },
        ext::RequestOptions { trace: Bytes::from_static(b"a b"), ..options(1) },
        ext::RequestOptions { body_bytes: -2, ..options(1) },
        ext::RequestOptions { body_bytes: i64::MIN, ..options(1) },
    ] {
        let mut client = raw_client(&mut net, true);
        assert!(client.say(&mut net, &bad).is_err(), "{bad:?} passes");
    }
}

#[test]
fn extensions_that_were_not_agreed_close_the_connection() {
    let mut net = Net::new(proxy_settings());
    let expected = Err(Violation::Unexpected("extension that was not agreed"));
    assert_eq!(raw_client(&mut net, false).say(&mut net, &options(1)), expected);
    assert_eq!(raw_worker(&mut net, false).say(&mut net, &ext::Abilities { abilities: 1 }), expected);
}

#[test]
fn a_worker_counts_as_one_for_chat_and_completions_until_it_tells() {
    let mut net = Net::new(proxy_settings());
    let mut worker = raw_worker(&mut net, true);
    assert_eq!(net.proxy.workers()[0].abilities, ability::CHAT | ability::COMPLETIONS);
    worker.say(&mut net, &ext::Abilities { abilities: i32::MAX }).unwrap();
    assert_eq!(net.proxy.workers()[0].abilities, i32::MAX.cast_unsigned());
}

#[test]
fn a_worker_tells_what_it_can_do_after_the_handshake_and_when_that_changes() {
    let mut net = Net::new(proxy_settings());
    let mut worker = OurWorker::dial(&mut net, worker_settings());
    worker.session.set_abilities(ability::EMBEDDINGS);
    worker.talk(&mut net).unwrap();
    assert_eq!(net.proxy.workers()[0].abilities, ability::EMBEDDINGS);
    worker.session.set_abilities(ability::EMBEDDINGS);
    assert!(worker.session.transmit(1 << 20).is_none(), "nothing has changed");
    worker.session.set_abilities(ability::RERANK);
    worker.talk(&mut net).unwrap();
    assert_eq!(net.proxy.workers()[0].abilities, ability::RERANK);
}
