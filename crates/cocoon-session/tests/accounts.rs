//! What the chain shows of clients, and how accounts end: funds, registrations, refunds, last payouts, and the orders
//! that go on chain.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use cocoon_ledger::{ClientId, Record};
use cocoon_session::client::{ClientEvent, ClientSecret};
use cocoon_session::proxy::{ClientChainState, CloseProgress, Hold, Proxy};
use cocoon_ton::contracts::ContractStatus;
use cocoon_ton::{Address, OrderKind, SignedPayment};
use cocoon_wire::codec::from_boxed;
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::tl::{ProxyToClient, client, http};
use sha2::{Digest as _, Sha256};
use support::*;

/// Status and kind of the one rejection among the answers.
fn rejected(net: &mut Net, client: &mut Raw, id: u8) -> (i32, String) {
    client.say(net, &query(id)).unwrap();
    let messages = answers(net, client);
    let [ProxyToClient::QueryAnswerEx(message)] = messages.as_slice() else { panic!("{messages:?}") };
    let head: http::Response = from_boxed(message.answer.clone()).unwrap();
    let body: serde_json::Value = serde_json::from_slice(&head.payload).unwrap();
    assert!(!body["error"]["message"].as_str().unwrap().is_empty());
    (head.status_code, body["error"]["type"].as_str().unwrap().to_owned())
}

fn closing(state: ClientChainState) -> ClientChainState {
    ClientChainState { status: ContractStatus::Closing, ..state }
}

/// Tokens of an order of the test proxy for a contract; panics unless it holds.
fn tokens_of(order: &SignedPayment, kind: OrderKind, contract: &Address) -> u64 {
    assert_eq!(order.order().excesses_to, proxy_settings().wallet);
    let key = proxy_settings().key.verifying_key();
    SignedPayment::parse(&order.to_boc()).unwrap().verify(&key, kind, contract).unwrap()
}

fn done(progress: CloseProgress) -> SignedPayment {
    match progress {
        CloseProgress::Done(order) => order,
        other => panic!("not closed: {other:?}"),
    }
}

/// A client and a worker between whom 5 tokens were settled.
fn after_one_request() -> (Net, Raw, Raw) {
    let mut net = Net::new(proxy_settings());
    let mut client = raw_client(&mut net, true);
    let mut worker = raw_worker(&mut net, true);
    works(&mut net, &mut client, &mut worker, 1);
    let _ = client.packets(&mut net);
    (net, client, worker)
}

#[test]
fn funds_are_what_was_charged_and_the_smaller_of_balance_and_stake() {
    let open =
        ClientChainState { balance_nanoton: 700, stake_nanoton: 300, tokens_used: 10, ..chain_state(0) };
    assert_eq!(open.lifetime_funds().0, 10 * 20 + 300);
    assert_eq!(ClientChainState { stake_nanoton: 900, ..open }.lifetime_funds().0, 10 * 20 + 700);
    assert_eq!(closing(open).lifetime_funds().0, 10 * 20 + 300, "a closing contract can still be charged");
    let closed = ClientChainState { status: ContractStatus::Closed, ..open };
    assert_eq!(closed.lifetime_funds().0, 10 * 20);
    let absurd = ClientChainState { tokens_used: u64::MAX, ..open };
    assert_eq!(absurd.lifetime_funds().0, u64::MAX);
}

#[test]
fn what_one_proxy_hears_of_a_secret_opens_nothing_at_another() {
    let [one, other] = [1, 2].map(|byte| cocoon_ton::Address::basechain([byte; 32]));
    let secret = ClientSecret::PerProxy(b"a secret of ours".to_vec().into());
    assert_eq!(secret.for_proxy(&one), secret.for_proxy(&one));
    assert_ne!(secret.for_proxy(&one), secret.for_proxy(&other));
    assert_ne!(secret.hash_for_proxy(&one), secret.hash_for_proxy(&other));
    let shared = ClientSecret::Shared(b"published".to_vec().into());
    assert_eq!(shared.for_proxy(&one).as_slice(), b"published");
    assert_eq!(format!("{secret:?}"), "PerProxy(..)");
}

#[test]
fn a_top_up_counts_as_soon_as_the_chain_shows_it() {
    let mut net = Net::new(ProxySettingsWith::trusting());
    net.funds = None;
    let mut client = opened_client(&mut net);
    let _: client::ConnectedToProxy = client.answer(&mut net, &client_hello(true));
    let _: client::AuthorizationWithProxy = client.answer(&mut net, &client::AuthorizeWithProxyLong {});
    let mut worker = raw_worker(&mut net, true);
    assert_eq!(rejected(&mut net, &mut client, 1), (402, "insufficient_balance".into()));
    net.proxy.client_seen(&client_contract(), chain_state(100));
    net.settle();
    assert_eq!(rejected(&mut net, &mut client, 2), (402, "insufficient_balance".into()));
    // Rich, but with little credit until its use is charged: that passes.
    let rich = ClientChainState { balance_nanoton: 1 << 40, stake_nanoton: 100, ..chain_state(0) };
    net.proxy.client_seen(&client_contract(), rich);
    net.settle();
    assert_eq!(rejected(&mut net, &mut client, 3), (429, "rate_limit_exceeded".into()));
    net.proxy.client_seen(&client_contract(), chain_state(1 << 40));
    net.settle();
    works(&mut net, &mut client, &mut worker, 4);
}

/// Settings that differ in one thing.
struct ProxySettingsWith;

impl ProxySettingsWith {
    fn trusting() -> cocoon_session::proxy::ProxySettings {
        cocoon_session::proxy::ProxySettings { trust_long_authorization: true, ..proxy_settings() }
    }
}

#[test]
fn news_about_strangers_leaves_nothing_in_the_books() {
    let (mut net, ..) = after_one_request();
    let before = net.proxy.ledger().position();
    net.proxy.client_seen(&Address::basechain([77; 32]), closing(chain_state(1 << 40)));
    net.settle();
    assert_eq!(net.proxy.ledger().position(), before);
}

#[test]
fn a_closing_client_gets_no_new_requests_and_no_new_connection() {
    let (mut net, mut client, mut worker) = after_one_request();
    client.say(&mut net, &query(2)).unwrap();
    let running = asked(&mut net, &mut worker);
    net.funds = Some(closing(chain_state(1 << 40)));
    net.proxy.client_seen(&client_contract(), net.funds.unwrap());
    net.settle();
    assert_eq!(rejected(&mut net, &mut client, 3), (402, "account_closing".into()));
    worker.say(&mut net, &head(running, Some(5))).unwrap();
    assert!(matches!(answers(&mut net, &mut client).as_slice(), [ProxyToClient::QueryAnswerEx(_)]));
    assert_eq!(net.proxy.ledger().charged().0.0, 10, "what was under way is charged");

    let mut second = opened_client(&mut net);
    let refused = second.ask(&mut net, &client_hello(true)).unwrap();
    assert!(matches!(refused.as_slice(), [Packet::QueryError { code: 651, .. }]), "{refused:?}");
    assert!(net.doomed.contains_key(&second.conn));
}

#[test]
fn a_proxy_whose_books_are_behind_the_chain_gives_nothing_away() {
    let (mut net, mut client, mut worker) = after_one_request();
    let contract = client_contract();
    net.proxy.client_seen(&contract, ClientChainState { tokens_used: 5, ..chain_state(1 << 40) });
    works(&mut net, &mut client, &mut worker, 2);
    let ahead = ClientChainState { tokens_used: 11, ..chain_state(1 << 40) };
    net.proxy.client_seen(&contract, ahead);
    assert_eq!(rejected(&mut net, &mut client, 3), (503, "service_unavailable".into()));
    // With a lost database it is so for everybody, from the first handshake on.
    let mut net = Net::new(proxy_settings());
    net.funds = Some(ahead);
    let mut client = opened_client(&mut net);
    let refused = client.ask(&mut net, &client_hello(true)).unwrap();
    assert!(matches!(refused.as_slice(), [Packet::QueryError { code: 651, .. }]), "{refused:?}");
    assert!(net.doomed[&client.conn].to_string().contains("database"));
}

#[test]
fn a_client_that_begins_to_close_during_its_handshake_is_turned_away() {
    let mut net = Net::new(proxy_settings());
    let mut client = opened_client(&mut net);
    let _: client::ConnectedToProxy = client.answer(&mut net, &client_hello(true));
    net.proxy.client_seen(&client_contract(), closing(chain_state(1 << 40)));
    let data = Bytes::from_static(SECRET);
    let refused = client.ask(&mut net, &client::AuthorizeWithProxyShort { data }).unwrap();
    assert!(matches!(refused.as_slice(), [Packet::QueryError { code: 651, .. }]), "{refused:?}");
    assert_eq!(net.proxy.ledger().clients().count(), 0);
}

#[test]
fn a_changed_secret_concerns_handshakes_to_come() {
    let mut net = Net::new(proxy_settings());
    let mut client = opened_client(&mut net);
    let _: client::ConnectedToProxy = client.answer(&mut net, &client_hello(true));
    let changed = ClientChainState { secret_hash: Sha256::digest(b"new").into(), ..chain_state(1 << 40) };
    net.funds = Some(changed);
    net.proxy.client_seen(&client_contract(), changed);
    let data = Bytes::from_static(SECRET);
    let let_in: client::AuthorizationWithProxy =
        client.answer(&mut net, &client::AuthorizeWithProxyShort { data: data.clone() });
    assert!(matches!(let_in, client::AuthorizationWithProxy::Success { .. }));
    let mut second = opened_client(&mut net);
    let _: client::ConnectedToProxy = second.answer(&mut net, &client_hello(true));
    let refused = second.ask(&mut net, &client::AuthorizeWithProxyShort { data }).unwrap();
    assert!(matches!(refused.as_slice(), [Packet::QueryError { .. }]), "{refused:?}");
}

#[test]
fn a_registration_counts_whether_the_chain_or_the_client_is_first() {
    for chain_first in [true, false] {
        let mut net = Net::new(proxy_settings());
        net.funds = None;
        let mut client = opened_client(&mut net);
        let answer: client::ConnectedToProxy = client.answer(&mut net, &client_hello(true));
        let client::ProxyConnectionAuth::Long { nonce } = answer.auth else { panic!("{:?}", answer.auth) };
        let contract = client_contract();
        let state = chain_state(1 << 40);
        net.proxy.client_registered(&contract, nonce ^ 1, state);
        net.proxy.client_registered(&Address::basechain([9; 32]), nonce, state);
        if chain_first {
            net.proxy.client_registered(&contract, nonce, state);
        }
        let mut packets = client.ask(&mut net, &client::AuthorizeWithProxyLong {}).unwrap();
        assert_eq!(packets.len(), usize::from(chain_first), "{packets:?}");
        if !chain_first {
            net.proxy.client_registered(&contract, nonce, state);
            packets = client.packets(&mut net);
        }
        net.settle();
        let [Packet::QueryAnswer { data, .. }] = packets.as_slice() else { panic!("{packets:?}") };
        let answer: client::AuthorizationWithProxy = from_boxed(data.clone()).unwrap();
        assert!(matches!(answer, client::AuthorizationWithProxy::Success { .. }));
        let mut worker = raw_worker(&mut net, true);
        works(&mut net, &mut client, &mut worker, 1);
    }
}

#[test]
fn orders_for_the_chain_name_what_is_durable() {
    let (mut net, mut client, mut worker) = after_one_request();
    let (paying, paid) = (client_contract(), worker_contract());
    assert_eq!(net.proxy.charge_order(&Address::basechain([77; 32])), None, "nobody owes nothing");
    net.commit_later = true;
    works(&mut net, &mut client, &mut worker, 2);
    let charge = net.proxy.charge_order(&paying).unwrap();
    assert_eq!(tokens_of(&charge, OrderKind::ChargeClient, &paying), 5);
    net.commit();
    let (charge, payout) = (net.proxy.charge_order(&paying).unwrap(), net.proxy.payout_order(&paid).unwrap());
    assert_eq!(tokens_of(&charge, OrderKind::ChargeClient, &paying), 10);
    assert_eq!(tokens_of(&payout, OrderKind::PayWorker, &paid), 10);
}

#[test]
fn a_refund_is_rejected_while_requests_run_or_answers_wait() {
    let (mut net, mut client, mut worker) = after_one_request();
    client.say(&mut net, &query(2)).unwrap();
    let running = asked(&mut net, &mut worker);
    let answer: client::Refund = client.answer(&mut net, &client::RequestRefund {});
    assert_eq!(answer, client::Refund::Rejected { active_queries: 1 });
    worker.say(&mut net, &head(running, Some(5))).unwrap();
    assert_eq!(net.proxy.in_flight(), 0);
    // The answer was not taken out for sending yet.
    client.send(&mut net, &Packet::Query { id: 99, data: boxed(&client::RequestRefund {}) }).unwrap();
    let packets = client.packets(&mut net);
    let refund = packets.iter().find_map(|packet| match packet {
        Packet::QueryAnswer { id: 99, data } => from_boxed::<client::Refund>(data.clone()).ok(),
        _ => None,
    });
    assert_eq!(refund, Some(client::Refund::Rejected { active_queries: 1 }));
    assert!(!net.proxy.ledger().is_closed(&ClientId(*client_contract().hash())));
    works(&mut net, &mut client, &mut worker, 3);
}

fn boxed(message: &impl cocoon_wire::codec::Message) -> Bytes {
    cocoon_wire::codec::to_boxed(message)
}

/// The refund order that the client gets, in tokens.
fn granted(packets: &[Packet]) -> (Bytes, u64) {
    let [Packet::QueryAnswer { data, .. }] = packets else { panic!("{packets:?}") };
    match from_boxed(data.clone()).unwrap() {
        client::Refund::Refund { data } => {
            let order = SignedPayment::parse(&data).unwrap();
            (data, tokens_of(&order, OrderKind::RefundClient, &client_contract()))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_refund_is_granted_once_its_record_is_durable_and_always_the_same() {
    let (mut net, mut client, mut worker) = after_one_request();
    net.commit_later = true;
    assert!(client.ask(&mut net, &client::RequestRefund {}).unwrap().is_empty(), "not durable yet");
    assert!(!net.proxy.is_quiet(), "an answer is owed");
    let again = client.ask(&mut net, &client::RequestRefund {}).unwrap();
    assert!(matches!(again.as_slice(), [Packet::QueryError { code: 651, .. }]), "{again:?}");
    net.commit();
    let first = granted(&client.packets(&mut net));
    assert_eq!(first.1, 5);
    assert_eq!(rejected(&mut net, &mut client, 2), (402, "account_closing".into()));
    assert_eq!(granted(&client.ask(&mut net, &client::RequestRefund {}).unwrap()), first);
    assert_eq!(done(net.proxy.close_client(&client_contract())).to_boc(), first.0);
    // The contract is still open on chain, and the client may fetch the order again; also after a restart.
    let mut net = restarted(&net);
    let mut client = raw_client(&mut net, true);
    let mut second_worker = raw_worker(&mut net, true);
    assert_eq!(granted(&client.ask(&mut net, &client::RequestRefund {}).unwrap()), first);
    assert_eq!(rejected(&mut net, &mut client, 3), (402, "account_closing".into()));
    assert!(second_worker.packets(&mut net).is_empty());
    let charge = net.proxy.charge_order(&client_contract()).unwrap();
    assert_eq!(charge.order().tokens, 5, "nothing is ever signed above the final count");
    let _ = worker.packets(&mut net);
}

/// The proxy after a restart with its log.
fn restarted(net: &Net) -> Net {
    let snapshot = net.proxy.ledger().snapshot();
    let mut restarted = Net::new(proxy_settings());
    restarted.proxy = Proxy::restore(proxy_settings(), Some(&snapshot), Vec::<Record>::new()).unwrap();
    restarted
}

#[test]
fn our_client_asks_for_its_refund_and_gets_the_order() {
    let mut net = Net::new(proxy_settings());
    let mut client = OurClient::dial(&mut net, client_settings());
    client.session.request_refund(net.now).unwrap();
    assert!(!client.talk(&mut net).unwrap().iter().any(|event| matches!(
        event,
        ClientEvent::RefundGranted { .. } | ClientEvent::RefundRejected { .. }
    )));
    client.session.request_refund(net.now).unwrap();
    client.session.request_refund(net.now).unwrap();
    let events = client.talk(&mut net).unwrap();
    let orders: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            ClientEvent::RefundGranted { order } => Some(SignedPayment::parse(order).unwrap()),
            _ => None,
        })
        .collect();
    let [order] = orders.as_slice() else { panic!("{events:?}") };
    assert_eq!(tokens_of(order, OrderKind::RefundClient, &client_contract()), 0);
}

#[test]
fn a_client_that_leaves_cannot_hold_its_account_open_by_a_long_request() {
    let (mut net, mut client, mut worker) = after_one_request();
    client.say(&mut net, &client::RunQueryEx { timeout: 3600.0, ..query(2) }).unwrap();
    let _ = asked(&mut net, &mut worker);
    net.proxy.client_seen(&client_contract(), closing(chain_state(1 << 40)));
    net.settle();
    assert_eq!(net.proxy.close_client(&client_contract()), CloseProgress::Busy);
    for _ in 0..13 {
        net.pass(Duration::from_secs(10));
    }
    net.settle();
    net.commit();
    let order = match net.proxy.close_client(&client_contract()) {
        CloseProgress::Recorded => {
            net.settle();
            net.commit();
            done(net.proxy.close_client(&client_contract()))
        }
        other => done(other),
    };
    assert_eq!(tokens_of(&order, OrderKind::RefundClient, &client_contract()), 5);
}

#[test]
fn a_client_is_closed_for_the_driver_after_its_last_request() {
    let (mut net, mut client, mut worker) = after_one_request();
    client.say(&mut net, &query(2)).unwrap();
    let running = asked(&mut net, &mut worker);
    net.proxy.closed(client.conn, net.now);
    net.commit_later = true;
    let contract = client_contract();
    assert_eq!(net.proxy.close_client(&contract), CloseProgress::Busy, "the worker's last word is out");
    worker.say(&mut net, &head(running, Some(7))).unwrap();
    assert_eq!(net.proxy.close_client(&contract), CloseProgress::Recorded);
    net.settle();
    net.commit();
    let order = done(net.proxy.close_client(&contract));
    assert_eq!(tokens_of(&order, OrderKind::RefundClient, &contract), 12);
    assert_eq!(done(restarted(&net).proxy.close_client(&contract)), order);
    let unknown = Address::basechain([78; 32]);
    assert_eq!(net.proxy.close_client(&unknown), CloseProgress::Recorded);
    net.settle();
    net.commit();
    let order = done(net.proxy.close_client(&unknown));
    assert_eq!(tokens_of(&order, OrderKind::RefundClient, &unknown), 0);
}

#[test]
fn a_worker_is_paid_for_the_last_time_after_its_last_request() {
    let (mut net, mut client, mut worker) = after_one_request();
    client.say(&mut net, &query(2)).unwrap();
    let running = asked(&mut net, &mut worker);
    net.commit_later = true;
    let contract = worker_contract();
    assert_eq!(net.proxy.close_worker(&contract), CloseProgress::Busy);
    assert_eq!(rejected(&mut net, &mut client, 3).0, 404, "it gets nothing new");
    worker.say(&mut net, &head(running, Some(7))).unwrap();
    assert_eq!(net.proxy.close_worker(&contract), CloseProgress::Recorded);
    net.settle();
    net.commit();
    let order = done(net.proxy.close_worker(&contract));
    assert_eq!(tokens_of(&order, OrderKind::PayWorkerLast, &contract), 12);
    let payout = net.proxy.payout_order(&contract).unwrap();
    assert_eq!(tokens_of(&payout, OrderKind::PayWorker, &contract), 12);
    let _ = worker.packets(&mut net);
    net.pass(Duration::from_millis(200));
    let why = net.doomed.get(&worker.conn).map(ToString::to_string).unwrap();
    assert!(why.contains("account at this proxy is closed"), "{why}");
    for mut net in [restarted(&net), net] {
        let conn = net.open();
        net.proxy.add_worker(conn, attested(conn), net.now);
        let mut back = Raw::new(conn);
        back.connect(&mut net);
        let refused = back.ask(&mut net, &worker_hello(true)).unwrap();
        assert!(matches!(refused.as_slice(), [Packet::QueryError { code: 651, .. }]), "{refused:?}");
        assert_eq!(done(net.proxy.close_worker(&contract)), order);
    }
}

#[test]
fn holds_are_independent_of_each_other() {
    let (mut net, mut client, mut worker) = after_one_request();
    let hold = Hold { reason: "chain", message: "the chain has not been heard for 60 s".into() };
    net.proxy.set_hold(Some(hold.clone()));
    assert_eq!(net.proxy.hold(), Some(&hold));
    assert_eq!(rejected(&mut net, &mut client, 2), (503, "service_unavailable".into()));
    net.proxy.hold_requests(true);
    net.proxy.set_hold(None);
    assert_eq!(rejected(&mut net, &mut client, 3).0, 503, "the log is behind all the same");
    net.proxy.hold_requests(false);
    works(&mut net, &mut client, &mut worker, 4);
    net.proxy.drain();
    assert_eq!(rejected(&mut net, &mut client, 5).0, 503);
}
