//! New parameters give all contracts new addresses: connections end cleanly on both sides, and nothing of the old
//! contracts is ever mixed with the new ones.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use cocoon_session::Violation;
use cocoon_session::client::{ClientEvent, ClientSettings};
use cocoon_session::proxy::LEAVING_GRACE;
use cocoon_session::worker::{WorkerEvent, WorkerSettings};
use cocoon_ton::RootConfig;
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::tl::{ProxyToClient, client};
use support::*;

fn new_root() -> Arc<RootConfig> {
    let mut root = root().as_ref().clone();
    root.version += 1;
    root.params.min_client_stake_nanoton += 1;
    Arc::new(root)
}

fn reason(net: &Net, raw: &Raw) -> Option<String> {
    net.doomed.get(&raw.conn).map(ToString::to_string)
}

#[test]
fn a_new_version_with_the_same_parameters_disturbs_nobody() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let mut worker = raw_worker(&mut net, true);
    let contract = *net.proxy.contract();
    let mut root = root().as_ref().clone();
    root.version += 1;
    assert_eq!(net.proxy.set_root(Arc::new(root), TARIFF), Ok(false));
    assert_eq!(*net.proxy.contract(), contract);
    net.pass(Duration::from_secs(1));
    works(&mut net, &mut client, &mut worker, 1);
    assert!(net.doomed.is_empty());
}

#[test]
fn idle_connections_end_at_once_and_busy_ones_after_their_requests() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let mut idle = raw_client(&mut net, true);
    let mut worker = raw_worker(&mut net, true);
    client.say(&mut net, &query(1)).unwrap();
    let running = asked(&mut net, &mut worker);
    let before = *net.proxy.contract();
    assert_eq!(net.proxy.set_root(new_root(), TARIFF), Ok(true));
    assert_ne!(*net.proxy.contract(), before);
    net.pass(Duration::from_secs(1));
    assert!(reason(&net, &idle).unwrap().contains("parameters changed"));
    assert_eq!((reason(&net, &client), reason(&net, &worker)), (None, None));
    client.say(&mut net, &query(2)).unwrap();
    assert_eq!(answers(&mut net, &mut client).len(), 1, "new requests are rejected meanwhile");
    worker.say(&mut net, &head(running, Some(5))).unwrap();
    let messages: Vec<ProxyToClient> = client.messages(&mut net);
    assert!(messages.iter().any(|message| matches!(message, ProxyToClient::ClientRequestPayment(_))));
    let _ = worker.packets(&mut net);
    net.pass(Duration::from_secs(1));
    assert!(reason(&net, &client).unwrap().contains("parameters changed"));
    assert!(reason(&net, &worker).unwrap().contains("parameters changed"));
    let _ = idle.packets(&mut net);
    let account = cocoon_ledger::ClientId(*client_contract().hash());
    assert_eq!(net.proxy.ledger().client(&account).unwrap().charged.0, 5, "old accounts stay in the books");
    assert_eq!(net.proxy.charge_order(&client_contract()).unwrap().order().tokens, 5);
}

#[test]
fn a_request_that_does_not_end_is_cut_after_the_grace_and_never_given_to_a_new_worker() {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let mut old = raw_worker(&mut net, true);
    client.say(&mut net, &query(1)).unwrap();
    asked(&mut net, &mut old);
    net.proxy.set_root(new_root(), TARIFF).unwrap();
    let mut new = raw_worker(&mut net, true);
    net.pass(Duration::from_secs(10));
    assert!(new.packets(&mut net).iter().all(|packet| !matches!(packet, Packet::Packet { .. })));
    // The old worker stays silent and alive.
    for _ in 0..4 {
        net.pass(LEAVING_GRACE / 4);
        for raw in [&mut client, &mut old, &mut new] {
            raw.send(&mut net, &Packet::Ping { id: 1 }).unwrap();
            let _ = raw.packets(&mut net);
        }
    }
    assert!(reason(&net, &client).is_some() && reason(&net, &old).is_some());
    assert!(reason(&net, &new).is_none());
    for conn in [old.conn, client.conn] {
        net.proxy.closed(conn, net.now);
    }
    net.settle();
    assert_eq!((net.proxy.in_flight(), net.proxy.ledger().charged().0.0), (0, 0));
    assert!(new.packets(&mut net).iter().all(|packet| !matches!(packet, Packet::Packet { .. })));
    let mut client = raw_client(&mut net, true);
    works(&mut net, &mut client, &mut new, 2);
}

#[test]
fn a_handshake_under_way_is_refused_with_words() {
    let mut net = Net::new(proxy_settings());
    net.funds = None;
    let mut waiting = opened_client(&mut net);
    let _: client::ConnectedToProxy = waiting.answer(&mut net, &client_hello(true));
    assert!(waiting.ask(&mut net, &client::AuthorizeWithProxyLong {}).unwrap().is_empty());
    net.proxy.set_root(new_root(), TARIFF).unwrap();
    net.settle();
    let packets = waiting.packets(&mut net);
    assert!(
        matches!(packets.as_slice(), [Packet::QueryError { code: 651, message, .. }]
            if message.to_lossy().contains("connect again")),
        "{packets:?}"
    );
    assert!(reason(&net, &waiting).is_some());
    let late = waiting.ask(&mut net, &client::AuthorizeWithProxyLong {});
    assert!(matches!(late, Err(Violation::Mismatch(_))), "{late:?}");
}

/// Connects our client once; how its side ends.
fn dial_client(net: &mut Net, root: Arc<RootConfig>) -> Result<bool, Violation> {
    let events = OurClient::dial(net, ClientSettings { root, ..client_settings() }).talk(net)?;
    Ok(events.iter().any(|event| matches!(event, ClientEvent::Ready(_))))
}

/// Connects our worker once; how its side ends.
fn dial_worker(net: &mut Net, root: Arc<RootConfig>) -> Result<bool, Violation> {
    let events = OurWorker::dial(net, WorkerSettings { root, ..worker_settings() }).talk(net)?;
    Ok(events.contains(&WorkerEvent::Ready))
}

#[test]
fn nodes_that_learn_of_new_parameters_at_different_times_meet_again() {
    let mut net = Net::new(proxy_settings());
    let differs = |result: Result<bool, Violation>| match result {
        Err(Violation::Mismatch(why)) => assert!(why.contains("passes by itself"), "{why}"),
        Err(Violation::Refused { message, .. }) => assert!(message.contains("config version"), "{message}"),
        other => panic!("{other:?}"),
    };
    differs(dial_client(&mut net, new_root()));
    differs(dial_worker(&mut net, new_root()));
    net.proxy.set_root(new_root(), TARIFF).unwrap();
    differs(dial_client(&mut net, root()));
    differs(dial_worker(&mut net, root()));
    assert_eq!(dial_client(&mut net, new_root()), Ok(true));
    assert_eq!(dial_worker(&mut net, new_root()), Ok(true));
}
