//! Which workers there are, what they showed of themselves, and which of them a client lets see its requests.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use cocoon_session::client::{ClientEvent, ClientSession, ClientSettings};
use cocoon_session::proxy::{
    Attested, ConnId, MAX_CERTIFICATE_BYTES, MAX_GONE_WORKERS, MAX_VERDICT_BYTES, RENEW_BEFORE,
};
use cocoon_session::{AllowError, MAX_ALLOWED_WORKERS, Violation};
use cocoon_wire::codec::{ByteStr, from_boxed, to_boxed};
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::tl::{ProxyToClient, client, ext, http, proxy};
use support::*;

fn fingerprint(conn: ConnId) -> [u8; 32] {
    *attested(conn).fingerprint()
}

/// A client that says which workers may see its requests.
fn choosing_client(net: &mut Net) -> Raw {
    let mut raw = opened_client(net);
    let mut hello = client_hello(true);
    hello.params.ext_flags |= ext::EXT_ALLOWS_WORKERS;
    let answer: client::ConnectedToProxy = raw.answer(net, &hello);
    assert_eq!(answer.params.ext_flags, ext::EXT_V1);
    let data = Bytes::from_static(SECRET);
    let _: client::AuthorizationWithProxy = raw.answer(net, &client::AuthorizeWithProxyShort { data });
    raw
}

fn allow(net: &mut Net, client: &mut Raw, allow: &[ConnId], disallow: &[ConnId]) {
    let fingerprints = |conns: &[ConnId]| conns.iter().map(|&conn| fingerprint(conn)).collect();
    let message = ext::AllowWorkers { allow: fingerprints(allow), disallow: fingerprints(disallow) };
    client.say(net, &message).unwrap();
}

/// The one answer that a client gets now: its status, and the values of a header.
fn answer(net: &mut Net, client: &mut Raw, header: &str) -> (i32, Vec<String>) {
    let messages = answers(net, client);
    let [ProxyToClient::QueryAnswerEx(m)] = messages.as_slice() else { panic!("{messages:?}") };
    let head: http::Response = from_boxed(m.answer.clone()).unwrap();
    let values = head.headers.iter().filter(|other| other.name.to_lossy().eq_ignore_ascii_case(header));
    (head.status_code, values.map(|header| header.value.to_lossy().into_owned()).collect())
}

fn refused(net: &mut Net, client: &mut Raw, id: u8) {
    client.say(net, &query(id)).unwrap();
    assert_eq!(answer(net, client, "X-Cocoon-Error"), (503, vec!["no_attested_worker".to_owned()]));
    assert_eq!(net.proxy.in_flight(), 0);
}

#[test]
fn a_client_that_chooses_is_served_by_nobody_until_it_has_said_by_whom() {
    let mut net = Net::new(proxy_settings());
    let mut worker = raw_worker(&mut net, true);
    let mut client = choosing_client(&mut net);
    refused(&mut net, &mut client, 1);
    allow(&mut net, &mut client, &[ConnId(999)], &[]);
    refused(&mut net, &mut client, 2);
    assert!(worker.packets(&mut net).is_empty(), "a worker that is not allowed saw something");
    allow(&mut net, &mut client, &[worker.conn], &[]);
    works(&mut net, &mut client, &mut worker, 3);
    allow(&mut net, &mut client, &[worker.conn], &[worker.conn]);
    refused(&mut net, &mut client, 4);
    let mut other = raw_client(&mut net, true);
    works(&mut net, &mut other, &mut worker, 5);
}

#[test]
fn a_client_that_chooses_is_shown_only_the_offers_of_workers_that_it_allows() {
    let mut net = Net::new(proxy_settings());
    let worker = raw_worker(&mut net, true);
    let _other = raw_worker(&mut net, true);
    let mut client = choosing_client(&mut net);
    let offers = |net: &mut Net, client: &mut Raw| {
        let types: client::WorkerTypesV2 = client.answer(net, &client::GetWorkerTypesV2 {});
        types.types.iter().map(|model| model.workers.len()).collect::<Vec<_>>()
    };
    assert_eq!(offers(&mut net, &mut client), [0]);
    allow(&mut net, &mut client, &[worker.conn], &[]);
    assert_eq!(offers(&mut net, &mut client), [1]);
}

#[test]
fn a_request_that_fails_goes_to_no_worker_that_its_client_does_not_allow() {
    type Failing = fn(&mut Net, &mut Raw, [u8; 32]);
    let failures: [Failing; 3] = [
        |net, worker, request| worker.say(net, &error(request, 602)).unwrap(),
        |net, worker, _| net.proxy.closed(worker.conn, net.now),
        |net, _, _| net.pass(Duration::from_secs(3)),
    ];
    for fail in failures {
        let mut net = Net::new(proxy_settings());
        let (mut bad, mut good) = (raw_worker(&mut net, true), raw_worker(&mut net, true));
        let mut barred = raw_worker(&mut net, true);
        let mut client = choosing_client(&mut net);
        allow(&mut net, &mut client, &[bad.conn], &[]);
        client.say(&mut net, &query(1)).unwrap();
        let request = asked(&mut net, &mut bad);
        allow(&mut net, &mut client, &[good.conn], &[]);
        fail(&mut net, &mut bad, request);
        let request = asked(&mut net, &mut good);
        allow(&mut net, &mut client, &[], &[bad.conn, good.conn]);
        net.proxy.closed(good.conn, net.now);
        net.settle();
        let _ = request;
        let said = answer(&mut net, &mut client, "X-Cocoon-Worker");
        assert_eq!(said, (503, vec![hex::encode(fingerprint(good.conn))]), "who failed is named");
        assert!(barred.packets(&mut net).iter().all(|packet| matches!(packet, Packet::Ping { .. })));
    }
}

#[test]
fn a_worker_that_comes_back_with_another_certificate_is_not_allowed() {
    let mut net = Net::new(proxy_settings());
    let worker = raw_worker(&mut net, true);
    let mut client = choosing_client(&mut net);
    allow(&mut net, &mut client, &[worker.conn], &[]);
    net.proxy.closed(worker.conn, net.now);
    let mut again = raw_worker(&mut net, true);
    refused(&mut net, &mut client, 1);
    allow(&mut net, &mut client, &[again.conn], &[]);
    works(&mut net, &mut client, &mut again, 2);
}

#[test]
fn a_worker_cannot_name_another_in_its_answer() {
    for (extensions, worker_extensions) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut net = Net::new(proxy_settings());
        let mut worker = raw_worker(&mut net, worker_extensions);
        let mut client = raw_client(&mut net, extensions);
        client.say(&mut net, &query(1)).unwrap();
        let request_id = asked(&mut net, &mut worker);
        let header =
            |name: &'static str| http::Header { name: ByteStr::from_static(name), value: "ff".into() };
        let response = http::Response {
            http_version: ByteStr::from_static("HTTP/1.1"),
            status_code: 200,
            reason: ByteStr::from_static("OK"),
            headers: vec![header("x-cocoon-WORKER"), header("X-Cocoon-Worker"), header("X-Cocoon-Proxy")],
            payload: Bytes::new(),
        };
        let head = proxy::QueryAnswerEx { answer: to_boxed(&response), ..head(request_id, Some(1)) };
        worker.say(&mut net, &head).unwrap();
        let messages = answers(&mut net, &mut client);
        let [ProxyToClient::QueryAnswerEx(m)] = messages.as_slice() else { panic!("{messages:?}") };
        let head: http::Response = from_boxed(m.answer.clone()).unwrap();
        let named = |name: &str| {
            let values =
                head.headers.iter().filter(|header| header.name.to_lossy().eq_ignore_ascii_case(name));
            values.map(|header| header.value.to_lossy().into_owned()).collect::<Vec<_>>()
        };
        let expected = extensions.then(|| hex::encode(fingerprint(worker.conn)));
        assert_eq!(named("x-cocoon-worker"), expected.into_iter().collect::<Vec<_>>());
        assert_eq!(named("x-cocoon-proxy"), Vec::<String>::new());
    }
}

fn changes(net: &mut Net, client: &mut Raw, begun: i64, seen: i64) -> ext::Workers {
    client.answer(net, &ext::GetWorkers { begun, seen })
}

fn told(page: &ext::Workers) -> Vec<([u8; 32], usize)> {
    page.workers.iter().map(|worker| (worker.fingerprint, worker.models.len())).collect()
}

#[test]
fn who_comes_and_goes_is_told_once() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    assert_eq!(changes(&mut net, &mut client, 0, 0).workers, []);
    let (one, two) = (raw_worker(&mut net, true), raw_worker(&mut net, true));
    let first = changes(&mut net, &mut client, 0, 0);
    assert_eq!(told(&first), [(fingerprint(one.conn), 1), (fingerprint(two.conn), 1)]);
    assert_eq!(first.workers[0].models, [ByteStr::from_static(MODEL)]);
    assert!(first.reset && first.seen == first.newest);
    let (begun, seen) = (first.newest, first.seen);
    let none = changes(&mut net, &mut client, begun, seen);
    assert!(none.workers.is_empty() && !none.reset);
    net.proxy.closed(one.conn, net.now);
    let after = changes(&mut net, &mut client, begun, seen);
    assert_eq!(told(&after), [(fingerprint(one.conn), 0)]);
    let late = changes(&mut net, &mut client, 0, 0);
    assert_eq!(told(&late), [(fingerprint(two.conn), 1)], "a newcomer hears of no departures");
    for (begun, seen) in [(-1, -1), (i64::MAX, i64::MAX), (i64::MIN, 5), (0, i64::MAX), (99, 1)] {
        let page = changes(&mut net, &mut client, begun, seen);
        assert!(page.reset && told(&page) == told(&late), "numbers that make no sense begin anew");
    }
}

#[test]
fn a_long_list_comes_in_parts() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let workers: BTreeSet<_> = (0..6_000).map(|_| raw_worker(&mut net, true).conn).map(fingerprint).collect();
    let (mut begun, mut seen, mut pages) = (0, 0, 0);
    let mut found = BTreeSet::new();
    loop {
        let page = changes(&mut net, &mut client, begun, seen);
        assert_eq!(page.reset, pages == 0);
        assert!(to_boxed(&page).len() < 320 * 1024, "a part is small");
        found.extend(page.workers.iter().map(|worker| worker.fingerprint));
        begun = if page.reset { page.newest } else { begun };
        seen = page.seen;
        pages += 1;
        if page.seen == page.newest {
            break;
        }
    }
    assert_eq!(found, workers);
    assert!(pages > 1, "{pages}");
}

#[test]
fn what_a_worker_showed_is_known_until_long_after_it_is_gone() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let first = raw_worker(&mut net, true);
    let begun = changes(&mut net, &mut client, 0, 0).newest;
    let evidence = |net: &mut Net, client: &mut Raw, fingerprint| -> ext::Evidence {
        client.answer(net, &ext::GetEvidence { fingerprint })
    };
    let expected = ext::Evidence::Known {
        fingerprint: fingerprint(first.conn),
        certificate: format!("certificate of {}", first.conn.0).into(),
        verdict: Bytes::from_static(b"{\"kind\":\"none\"}"),
    };
    assert_eq!(evidence(&mut net, &mut client, fingerprint(first.conn)), expected);
    net.proxy.closed(first.conn, net.now);
    assert_eq!(evidence(&mut net, &mut client, fingerprint(first.conn)), expected);
    for _ in 0..MAX_GONE_WORKERS {
        let conn = raw_worker(&mut net, true).conn;
        net.proxy.closed(conn, net.now);
    }
    let unknown = |fingerprint| ext::Evidence::Unknown { fingerprint };
    let oldest = fingerprint(first.conn);
    assert_eq!(evidence(&mut net, &mut client, oldest), unknown(oldest));
    assert_eq!(evidence(&mut net, &mut client, [0; 32]), unknown([0; 32]));
    assert!(changes(&mut net, &mut client, begun, begun).reset, "who missed a departure begins anew");
    let newest = changes(&mut net, &mut client, 0, 0).newest;
    assert!(!changes(&mut net, &mut client, newest, newest).reset);
}

#[test]
fn a_worker_that_shows_the_same_certificate_twice_is_one_worker_until_both_are_gone() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let same = attested(ConnId(1000));
    let conns = [net.open(), net.open()];
    for conn in conns {
        net.proxy.add_worker(conn, same.clone(), net.now);
        let mut raw = Raw::new(conn);
        raw.connect(&mut net);
        shake_hands(&mut net, &mut raw, &worker_hello(true));
    }
    assert_eq!(told(&changes(&mut net, &mut client, 0, 0)), [(*same.fingerprint(), 1)]);
    net.proxy.closed(conns[0], net.now);
    assert_eq!(told(&changes(&mut net, &mut client, 0, 0)), [(*same.fingerprint(), 1)]);
    net.proxy.closed(conns[1], net.now);
    assert_eq!(told(&changes(&mut net, &mut client, 0, 0)), []);
}

#[test]
fn a_worker_whose_certificate_runs_out_is_let_go_once_it_is_idle_and_before_that_happens() {
    let mut net = Net::new(proxy_settings());
    let conn = net.open();
    let end = net.now.plus(RENEW_BEFORE * 3);
    net.proxy.add_worker(conn, attested(conn).until(end), net.now);
    let mut old = Raw::new(conn);
    old.connect(&mut net);
    shake_hands(&mut net, &mut old, &worker_hello(true));
    let mut client = raw_client(&mut net, true);
    let minute = Duration::from_secs(60);
    let stay = |net: &mut Net, old: &mut Raw, client: &mut Raw, time: Duration| {
        let until = net.now.plus(time);
        while net.now < until {
            net.now = net.now.plus(Duration::from_secs(1));
            old.send(net, &Packet::Ping { id: 1 }).unwrap();
            client.send(net, &Packet::Ping { id: 1 }).unwrap();
            let _ = (old.packets(net), client.packets(net));
            net.proxy.on_time(net.now);
            net.settle();
        }
    };
    stay(&mut net, &mut old, &mut client, RENEW_BEFORE * 2 - minute);
    let mut long = query(1);
    long.timeout = 3600.0;
    client.say(&mut net, &long).unwrap();
    let request = asked(&mut net, &mut old);
    old.say(&mut net, &head(request, None)).unwrap();
    stay(&mut net, &mut old, &mut client, minute * 20);
    assert!(!net.doomed.contains_key(&conn), "it is still at work");
    let mut new = raw_worker(&mut net, true);
    works(&mut net, &mut client, &mut new, 2);
    assert!(old.packets(&mut net).is_empty(), "nothing new goes to it");
    old.say(&mut net, &part(request, Some(7))).unwrap();
    assert_eq!(net.ends.last().map(|end| (end.charged, end.failure.clone())), Some((7, None)));
    stay(&mut net, &mut old, &mut client, Duration::from_secs(5));
    let why = net.doomed.get(&conn).map(ToString::to_string);
    assert!(why.is_some_and(|why| why.contains("certificate runs out")) && net.now < end);
    assert!(!net.doomed.contains_key(&new.conn));
}

#[test]
fn a_worker_that_comes_with_an_old_certificate_may_stay_for_a_while() {
    let mut net = Net::new(proxy_settings());
    let conn = net.open();
    net.proxy.add_worker(conn, attested(conn).until(net.now.plus(Duration::from_secs(60))), net.now);
    let mut worker = Raw::new(conn);
    worker.connect(&mut net);
    shake_hands(&mut net, &mut worker, &worker_hello(true));
    let mut client = raw_client(&mut net, true);
    net.pass(Duration::from_secs(30));
    works(&mut net, &mut client, &mut worker, 1);
    assert!(!net.doomed.contains_key(&conn));
}

#[test]
fn evidence_over_the_limit_is_refused_at_the_door() {
    let bytes = |len| Bytes::from(vec![0; len]);
    assert!(Attested::new(bytes(MAX_CERTIFICATE_BYTES), bytes(MAX_VERDICT_BYTES)).is_ok());
    assert!(Attested::new(bytes(MAX_CERTIFICATE_BYTES + 1), bytes(0)).is_err());
    assert!(Attested::new(bytes(0), bytes(MAX_VERDICT_BYTES + 1)).is_err());
}

#[test]
fn clients_that_have_not_offered_it_neither_choose_nor_ask() {
    let mut net = Net::new(proxy_settings());
    let mut worker = raw_worker(&mut net, true);
    let mut bystander = raw_client(&mut net, true);
    let message = ext::AllowWorkers { allow: vec![], disallow: vec![] };
    for extensions in [true, false] {
        let mut client = raw_client(&mut net, extensions);
        let result = client.say(&mut net, &message);
        assert!(matches!(result, Err(Violation::Unexpected(_))), "{result:?}");
    }
    let mut client = raw_client(&mut net, false);
    assert!(client.ask(&mut net, &ext::GetWorkers { begun: 0, seen: 0 }).is_err());
    let mut client = raw_client(&mut net, false);
    assert!(client.ask(&mut net, &ext::GetEvidence { fingerprint: [0; 32] }).is_err());
    let mut raw = opened_client(&mut net);
    let mut hello = client_hello(false);
    hello.params.ext_flags = ext::EXT_ALLOWS_WORKERS;
    let refused = raw.ask(&mut net, &hello).unwrap();
    assert!(matches!(refused.as_slice(), [Packet::QueryError { .. }]), "{refused:?}");
    works(&mut net, &mut bystander, &mut worker, 1);
}

#[test]
fn a_client_that_allows_without_end_loses_its_connection() {
    let mut net = Net::new(proxy_settings());
    let mut worker = raw_worker(&mut net, true);
    let mut bystander = raw_client(&mut net, true);
    let mut client = choosing_client(&mut net);
    let many = |from: u32, count: u32| {
        let numbers = (from..from + count).map(|number| {
            let mut fingerprint = [0; 32];
            fingerprint[..4].copy_from_slice(&number.to_le_bytes());
            fingerprint
        });
        numbers.collect::<Vec<_>>()
    };
    let limit = u32::try_from(MAX_ALLOWED_WORKERS).unwrap();
    for _ in 0..3 {
        let message = ext::AllowWorkers { allow: many(0, limit), disallow: many(0, 10) };
        client.say(&mut net, &message).unwrap();
    }
    client.say(&mut net, &ext::AllowWorkers { allow: many(0, 10), disallow: vec![] }).unwrap();
    let result = client.say(&mut net, &ext::AllowWorkers { allow: many(limit, 1), disallow: vec![] });
    assert!(matches!(result, Err(Violation::Unexpected(_))), "{result:?}");
    works(&mut net, &mut bystander, &mut worker, 1);
}

#[test]
fn a_client_that_asks_for_evidence_and_does_not_read_it_loses_its_connection() {
    let mut net = Net::new(proxy_settings());
    let conn = net.open();
    let large = Bytes::from(vec![1; MAX_CERTIFICATE_BYTES]);
    let large = Attested::new(large, Bytes::from(vec![2; MAX_VERDICT_BYTES])).unwrap();
    let fingerprint = *large.fingerprint();
    net.proxy.add_worker(conn, large, net.now);
    let mut worker = Raw::new(conn);
    worker.connect(&mut net);
    shake_hands(&mut net, &mut worker, &worker_hello(true));
    let mut bystander = raw_client(&mut net, true);
    let mut client = raw_client(&mut net, true);
    let data = to_boxed(&ext::GetEvidence { fingerprint });
    let mut asked = 0;
    let violation = loop {
        match client.send(&mut net, &Packet::Query { id: asked, data: data.clone() }) {
            Ok(()) => asked += 1,
            Err(violation) => break violation,
        }
    };
    assert!(matches!(violation, Violation::NotReading(bytes) if bytes < 40 << 20), "{violation}");
    works(&mut net, &mut bystander, &mut worker, 1);
}

/// Our own client, after its handshake.
fn our_client(net: &mut Net, restrict_workers: bool) -> OurClient {
    let mut ours = OurClient::dial(net, ClientSettings { restrict_workers, ..client_settings() });
    ours.talk(net).unwrap();
    ours
}

#[test]
fn our_client_learns_of_workers_and_their_evidence_and_lets_one_answer() {
    let mut net = Net::new(proxy_settings());
    let (mut good, mut barred) = (raw_worker(&mut net, true), raw_worker(&mut net, true));
    let mut ours = our_client(&mut net, true);
    ours.session.refresh_workers(net.now).unwrap();
    let events = ours.talk(&mut net).unwrap();
    let [ClientEvent::Workers(list)] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(
        list.keys().copied().collect::<BTreeSet<_>>(),
        [good.conn, barred.conn].map(fingerprint).into()
    );
    assert_eq!(list[&fingerprint(good.conn)].as_ref(), [MODEL.to_owned()]);

    for conn in [good.conn, barred.conn, ConnId(999)] {
        assert_eq!(ours.session.want_evidence(fingerprint(conn), net.now), Ok(true));
    }
    let evidence: Vec<_> = ours.talk(&mut net).unwrap();
    assert_eq!(evidence.len(), 3);
    assert!(matches!(&evidence[0], ClientEvent::Evidence { fingerprint: f, evidence: Some(e) }
        if *f == fingerprint(good.conn) && e.certificate == format!("certificate of {}", good.conn.0)));
    assert!(matches!(&evidence[2], ClientEvent::Evidence { evidence: None, .. }));

    ours.session.allow_workers(&[fingerprint(good.conn)].into(), net.now).unwrap();
    ours.session.submit(&submission(1), net.now).unwrap();
    ours.talk(&mut net).unwrap();
    let request = asked(&mut net, &mut good);
    good.say(&mut net, &head(request, Some(5))).unwrap();
    let events = ours.talk(&mut net).unwrap();
    let named = events.iter().find_map(|event| match event {
        ClientEvent::Head { worker, head, .. } => Some((*worker, head.headers.len())),
        _ => None,
    });
    assert_eq!(named, Some((Some(fingerprint(good.conn)), 2)), "{events:?}");
    assert!(barred.packets(&mut net).is_empty());

    net.pass(Duration::from_secs(2));
    ours.session.on_time(net.now).unwrap();
    let quiet = ours.talk(&mut net).unwrap();
    assert!(!quiet.iter().any(|event| matches!(event, ClientEvent::Workers(_))), "nothing has changed");
    net.proxy.closed(barred.conn, net.now);
    ours.session.refresh_workers(net.now).unwrap();
    let events = ours.talk(&mut net).unwrap();
    assert!(matches!(events.as_slice(), [ClientEvent::Workers(list)] if list.len() == 1), "{events:?}");
}

#[test]
fn our_client_takes_a_refusal_for_want_of_an_allowed_worker_as_one() {
    let mut net = Net::new(proxy_settings());
    let _worker = raw_worker(&mut net, true);
    let mut ours = our_client(&mut net, true);
    ours.session.submit(&submission(1), net.now).unwrap();
    let events = ours.talk(&mut net).unwrap();
    assert!(
        events.iter().any(
            |event| matches!(event, ClientEvent::Head { worker: None, head, .. } if head.status_code == 503)
        ),
        "{events:?}"
    );
}

#[test]
fn our_client_uses_no_proxy_that_cannot_be_told_which_workers_it_wants() {
    let mut net = Net::new(cocoon_session::proxy::ProxySettings { extensions: false, ..proxy_settings() });
    let settings = ClientSettings { restrict_workers: true, ..client_settings() };
    let why = OurClient::dial(&mut net, settings).talk(&mut net).unwrap_err().to_string();
    assert!(why.contains("which workers may see our requests"), "{why}");
}

#[test]
fn our_client_says_why_it_cannot_choose() {
    let mut net = Net::new(proxy_settings());
    let mut ours = our_client(&mut net, false);
    assert_eq!(ours.session.allow_workers(&BTreeSet::new(), net.now), Err(AllowError::NotRestricting));
    let settings = ClientSettings { restrict_workers: true, ..client_settings() };
    let mut early = ClientSession::new(settings, net.now, 1);
    assert_eq!(early.allow_workers(&BTreeSet::new(), net.now), Err(AllowError::NotReady));
    assert_eq!(early.want_evidence([1; 32], net.now), Ok(false));
}
