//! What clients learn of the market at a proxy, and how their wishes decide who answers.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use cocoon_session::ability;
use cocoon_wire::codec::from_boxed;
use cocoon_wire::tl::market::{GetMarket, Market};
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::tl::{ProxyToClient, ext, http};
use support::*;

fn question() -> GetMarket {
    GetMarket { model: "".into(), index: 0 }
}

fn options(id: u8, needs: u32, affinity: &[i64]) -> ext::RequestOptions {
    ext::RequestOptions {
        request_id: [id; 32],
        needs: needs.cast_signed(),
        preference: 0,
        affinity: affinity.to_vec(),
        trace: Bytes::new(),
        body_bytes: -1,
    }
}

fn ask(net: &mut Net, client: &mut Raw, id: u8, needs: u32, affinity: &[i64]) {
    client.say(net, &options(id, needs, affinity)).unwrap();
    client.say(net, &query(id)).unwrap();
}

/// The status of the one answer that the client gets.
fn status(net: &mut Net, client: &mut Raw) -> i32 {
    let answers = answers(net, client);
    let [ProxyToClient::QueryAnswerEx(answer)] = answers.as_slice() else { panic!("{answers:?}") };
    from_boxed::<http::Response>(answer.answer.clone()).unwrap().status_code
}

#[test]
fn a_client_is_told_who_offers_what_and_how_they_have_done() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    assert_eq!(client.answer::<Market>(&mut net, &question()).models, []);
    let mut worker = raw_worker(&mut net, true);
    works(&mut net, &mut client, &mut worker, 1);
    let told: Market = client.answer(&mut net, &question());
    assert!(!told.more && told.models.len() == 1, "{told:?}");
    let [offer] = told.models[0].offers.as_slice() else { panic!("{told:?}") };
    assert_eq!(offer.fingerprint, *attested(worker.conn).fingerprint());
    assert_eq!((offer.coefficient, offer.active), (worker_hello(true).params.coefficient, 0));
    assert_eq!((offer.success_ppm, offer.requests), (1_000_000, 1));
    assert_eq!(offer.abilities.cast_unsigned(), ability::UNTOLD);
}

#[test]
fn a_client_that_asks_all_the_time_is_refused_until_some_time_has_passed() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let refused = |net: &mut Net, client: &mut Raw| {
        let said = client.ask(net, &question()).unwrap();
        said.iter().any(|packet| matches!(packet, Packet::QueryError { code: 651, .. }))
    };
    let granted = (0..200).take_while(|_| !refused(&mut net, &mut client)).count();
    assert_eq!(granted, 64);
    net.pass(std::time::Duration::from_secs(1));
    assert!(!refused(&mut net, &mut client));
}

#[test]
fn a_request_goes_only_to_workers_that_can_do_what_it_needs() {
    let mut net = Net::new(proxy_settings());
    let (mut client, mut worker) = (raw_client(&mut net, true), raw_worker(&mut net, true));
    ask(&mut net, &mut client, 1, ability::EMBEDDINGS, &[]);
    assert_eq!(status(&mut net, &mut client), 404);
    let abilities = (ability::UNTOLD | ability::EMBEDDINGS).cast_signed();
    worker.say(&mut net, &ext::Abilities { abilities }).unwrap();
    ask(&mut net, &mut client, 2, ability::EMBEDDINGS, &[]);
    let request = asked(&mut net, &mut worker);
    worker.say(&mut net, &head(request, Some(5))).unwrap();
    assert_eq!(status(&mut net, &mut client), 200);
}

#[test]
fn a_request_goes_where_its_beginning_was_answered_before() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let mut workers = [raw_worker(&mut net, true), raw_worker(&mut net, true)];
    let mut served = |net: &mut Net, id: u8, affinity: &[i64]| {
        ask(net, &mut client, id, ability::CHAT, affinity);
        let asked = workers.iter_mut().position(|worker| {
            let packets = worker.messages::<cocoon_wire::tl::ProxyToWorker>(net);
            let request = packets.iter().find_map(|packet| match packet {
                cocoon_wire::tl::ProxyToWorker::RunQueryEx(query) => Some(query.request_id),
                _ => None,
            });
            request.is_some_and(|request| worker.say(net, &head(request, Some(5))).is_ok())
        });
        answers(net, &mut client);
        asked.unwrap()
    };
    let first = served(&mut net, 1, &[7, 8]);
    for id in 2..6 {
        assert_eq!(served(&mut net, id, &[7, 8, i64::from(id) + 100]), first);
    }
    assert_ne!(served(&mut net, 6, &[9]), first, "others take turns");
}

#[test]
fn who_finds_all_workers_busy_hears_when_a_place_is_likely_to_become_free() {
    let mut net = Net::new(proxy_settings());
    let conn = net.open();
    net.proxy.add_worker(conn, attested(conn), net.now);
    let mut worker = Raw::new(conn);
    worker.connect(&mut net);
    let mut hello = worker_hello(true);
    hello.params.limits.as_mut().unwrap().max_active_requests = 2;
    shake_hands(&mut net, &mut worker, &hello);
    let mut client = raw_client(&mut net, true);
    let busy = |net: &mut Net, client: &mut Raw, worker: &mut Raw, id: u8| {
        let running = [id, id + 1].map(|id| {
            client.say(net, &query(id)).unwrap();
            asked(net, worker)
        });
        client.say(net, &query(id + 2)).unwrap();
        let answers = answers(net, client);
        let [ProxyToClient::QueryAnswerEx(answer)] = answers.as_slice() else { panic!("{answers:?}") };
        let head = from_boxed::<http::Response>(answer.answer.clone()).unwrap();
        let named = head.headers.iter().find(|header| header.name.to_lossy() == "Retry-After");
        (running, head.status_code, named.map(|header| header.value.to_lossy().into_owned()))
    };
    let (running, status, named) = busy(&mut net, &mut client, &mut worker, 1);
    assert_eq!((status, named), (429, None), "nothing has ended yet");
    // Neither must seem silent meanwhile.
    for _ in 0..9 {
        net.pass(Duration::from_secs(1));
        worker.send(&mut net, &Packet::Ping { id: 1 }).unwrap();
        client.send(&mut net, &Packet::Ping { id: 1 }).unwrap();
    }
    for request in running {
        worker.say(&mut net, &head(request, Some(5))).unwrap();
    }
    answers(&mut net, &mut client);
    let (_, status, named) = busy(&mut net, &mut client, &mut worker, 4);
    // Two requests of nine seconds each: one ends every four and a half.
    assert_eq!((status, named.as_deref()), (429, Some("5")));
}
