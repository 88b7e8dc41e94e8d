//! Links to a real proxy, whose contract comes, is filled and closes as a test says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cocoon_attest::Policy;
use cocoon_chain::Chain;
use cocoon_net::ListenerOptions;
use cocoon_proxy::{Proxy, ProxyConfig};
use cocoon_session::worker::Work;
use cocoon_ton::contracts::ContractStatus;
use cocoon_ton::message::Body;
use cocoon_wire::tl::http::Request;
use serde_json::Value;
use tokio::time::advance;

use super::page::{ask, stats, tls, worker_of};
use super::town::{FEE, ONE_TON_OF_TOKENS, PROXY_DELAY, ROOT, TON, TestProxy, Town};
use super::until;
use crate::settle::{Hold, Settlement, SettlementConfig};
use crate::{Worker, open_store, work};

/// A proxy that takes its contract for granted, and a worker that does not.
struct Pair {
    town: Town,
    proxy: Proxy,
    worker: Worker,
}

impl Pair {
    /// With what is on chain now. The worker looks every so often by itself.
    async fn of(town: Town, change: impl FnOnce(&mut SettlementConfig)) -> Self {
        let config = ProxyConfig {
            tracing: None,
            http: "127.0.0.1:0".parse().unwrap(),
            workers: "127.0.0.1:0".parse().unwrap(),
            clients: "127.0.0.1:0".parse().unwrap(),
            key_seed: TestProxy::seed(1).into(),
            owner: town.rich_address,
            wallet: town.rich_address,
            root_address: ROOT,
            is_test: true,
            is_testnet: false,
            check_worker_hashes: false,
            trust_long_authorization: false,
            extensions: true,
            max_body_bytes: cocoon_proxy::DEFAULT_MAX_BODY_BYTES,
            store: town.store().with_file_name("proxy.db"),
            settlement: None,
            listener: ListenerOptions::default(),
        };
        let chain = Arc::clone(&town.line) as Arc<dyn Chain>;
        let any = || tls([6; 32], Policy::any());
        let proxy = cocoon_proxy::start(config, any(), any(), chain).await.unwrap();
        let mut settlement = town.config();
        change(&mut settlement);
        let worker = worker_of(&town, Some(settlement), vec![proxy.workers_addr().to_string()]).await;
        Self { town, proxy, worker }
    }

    /// Whether the proxy would send the worker requests.
    async fn is_asked(&self) -> bool {
        stats(self.proxy.http_addr()).await["workers"][0]["ready"] == true
    }

    async fn until_asked(&self) {
        until("requests to be taken", async || self.is_asked().await).await;
        self.worker.ready().await;
        let shown = self.shown().await;
        assert_eq!((&shown["backed"], &shown["hold"]), (&true.into(), &Value::Null));
    }

    /// Until the worker says so of the proxy, and takes no requests.
    async fn until_held(&self, words: &str) {
        until(words, async || self.shown().await["hold"].as_str().is_some_and(|hold| hold.contains(words)))
            .await;
        assert_eq!(self.shown().await["backed"], false);
        until("the proxy to be told", async || {
            let proxy = stats(self.proxy.http_addr()).await;
            proxy["workers"][0]["ready"] == false
        })
        .await;
        // The proxy may know of the handshake's end before the worker does.
        until("the end of the handshake", async || stats(self.worker.http_addr()).await["proxies_held"] == 1)
            .await;
    }

    async fn shown(&self) -> Value {
        stats(self.worker.http_addr()).await["settlement"]["proxies"][0].clone()
    }

    async fn operator(&self, path: &str) {
        let (status, _) = ask(self.worker.http_addr(), &format!("POST {path}"), "{}").await;
        assert!(status.contains("200"), "{status}");
    }

    async fn health(&self) -> (String, Value) {
        let (status, body) = ask(self.worker.http_addr(), "GET /health", "").await;
        (status, serde_json::from_str(&body).unwrap())
    }

    async fn end(self) {
        self.worker.shutdown().await;
        self.proxy.shutdown().await;
    }
}

/// Enough for anything here to happen that must not.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

#[tokio::test]
async fn a_proxy_without_a_contract_gets_no_work_done_until_it_has_one() {
    let pair = Pair::of(Town::new(TON).await, |_| ()).await;
    pair.until_held("is not on chain").await;
    let (status, health) = pair.health().await;
    assert!(status.contains("503"), "{status}");
    assert_eq!(health["status"], "no proxy that can pay");
    assert!(health["holds"][0].as_str().unwrap().contains("is not on chain"), "{health}");

    pair.town.proxy(1, 2 * TON).await;
    pair.until_asked().await;
    let (status, health) = pair.health().await;
    assert!(status.contains("200") && health["status"] == "ok", "{status} {health}");
    pair.end().await;
}

#[tokio::test]
async fn a_proxy_whose_contract_holds_too_little_gets_no_work_done_until_coins_come() {
    let town = Town::new(5 * TON).await;
    let contract = town.proxy(1, 0).await;
    let pair = Pair::of(town, |_| ()).await;
    pair.until_held("TON, less than the 1 TON that are due").await;
    pair.town.send(contract.contract, 2 * TON, None, Body::Empty).await;
    pair.until_asked().await;

    // What is paid out to this worker is no longer there for the next work.
    let channels = &pair.worker.shared.channels;
    pair.town.show(channels, &contract, ONE_TON_OF_TOKENS + ONE_TON_OF_TOKENS / 2).unwrap();
    pair.until_held("less than the").await;
    pair.town.send(contract.contract, 9 * TON, None, Body::Empty).await;
    pair.until_asked().await;
    pair.end().await;
}

#[tokio::test]
async fn a_proxy_whose_contract_closes_gets_no_more_work_done() {
    let town = Town::new(TON).await;
    let contract = town.proxy(1, 5 * TON).await;
    let pair = Pair::of(town, |config| config.poll = Duration::from_millis(20)).await;
    pair.until_asked().await;
    pair.town.close(&contract).await;
    pair.until_held("is closing or closed").await;
    assert_eq!(pair.shown().await["status"], "closing");
    pair.end().await;
}

#[tokio::test]
async fn a_contract_with_another_code_is_no_proxys() {
    let town = Town::new(TON).await;
    let contract = town.proxy(1, 5 * TON).await;
    let mut lie = town.line.account(contract.contract).await;
    lie.code = Some(cocoon_ton::Cell::default());
    *town.line.lie.lock().unwrap() = Some((contract.contract, lie));
    let pair = Pair::of(town, |config| config.poll = Duration::from_millis(20)).await;
    pair.until_held("it has another code").await;
    *pair.town.line.lie.lock().unwrap() = None;
    pair.until_asked().await;
    pair.end().await;
}

#[tokio::test]
async fn requests_are_taken_when_the_operator_and_the_chain_both_allow_it() {
    let pair = Pair::of(Town::new(TON).await, |_| ()).await;
    pair.until_held("is not on chain").await;
    // The operator's word does not help a proxy that cannot pay.
    pair.operator("/resume").await;
    a_while().await;
    assert!(!pair.is_asked().await);

    pair.operator("/pause").await;
    pair.town.proxy(1, 2 * TON).await;
    until("the contract to be seen", async || pair.shown().await["backed"] == true).await;
    a_while().await;
    assert!(!pair.is_asked().await, "still paused");
    assert_eq!(pair.health().await.1["status"], "paused");

    pair.operator("/resume").await;
    pair.until_asked().await;
    pair.operator("/pause").await;
    until("the pause", async || !pair.is_asked().await).await;
    pair.end().await;
}

#[tokio::test]
async fn what_a_proxy_that_cannot_pay_sends_all_the_same_is_refused() {
    let pair = Pair::of(Town::new(TON).await, |_| ()).await;
    pair.until_held("is not on chain").await;
    let shared = &pair.worker.shared;
    let counts = || {
        let read = |count: &AtomicU64| count.load(Ordering::SeqCst);
        let counts = &shared.counts;
        (read(&counts.requests), read(&counts.refused), read(&counts.succeeded))
    };
    let send = async || {
        let link = shared.links().values().next().cloned().unwrap();
        work::run(Arc::clone(shared), link, question(), Arc::default()).await;
    };
    send().await;
    assert_eq!(counts(), (1, 1, 0));
    pair.town.proxy(1, 2 * TON).await;
    pair.until_asked().await;
    send().await;
    assert_eq!(counts(), (2, 1, 1));
    pair.end().await;
}

fn question() -> Work {
    let body = r#"{"model": "test/model", "messages": [{"role": "user", "content": "Well? It rains."}]}"#;
    let request = Request {
        method: "POST".to_owned().into(),
        url: "/v1/chat/completions".to_owned().into(),
        http_version: "HTTP/1.1".to_owned().into(),
        headers: Vec::new(),
        payload: body.into(),
    };
    Work {
        id: [1; 32],
        request,
        body_bytes: None,
        coefficient: 1000,
        timeout: Duration::from_secs(9),
        enable_debug: false,
        trace: None,
    }
}

#[tokio::test]
async fn an_operator_may_work_for_proxies_that_cannot_pay() {
    let pair = Pair::of(Town::new(TON).await, |config| config.require_backing = false).await;
    pair.worker.ready().await;
    until("requests to be taken", async || pair.is_asked().await).await;
    assert_eq!(pair.shown().await["backed"], Value::Null);
    pair.end().await;
}

#[tokio::test]
async fn while_the_chain_does_not_answer_nothing_is_begun_and_nobody_is_ready() {
    let town = Town::new(TON).await;
    town.proxy(1, 5 * TON).await;
    town.line.down.store(true, Ordering::SeqCst);
    let pair = Pair::of(town, |config| config.poll = Duration::from_millis(20)).await;
    pair.until_held("has not been looked at yet").await;
    pair.town.line.down.store(false, Ordering::SeqCst);
    pair.until_asked().await;
    pair.end().await;
}

/// A settlement that has seen the proxy's contract, with an order for one token.
async fn seen(nanoton: u64) -> (Town, TestProxy, Arc<Settlement>) {
    let town = Town::new(5 * TON).await;
    let proxy = town.proxy(1, nanoton).await;
    let settlement = town.open().await;
    town.show(&settlement.channels, &proxy, 1).unwrap();
    settlement.round().await.unwrap();
    (town, proxy, settlement)
}

#[tokio::test]
async fn a_chain_that_is_silent_for_half_the_closing_delay_is_no_longer_relied_on() {
    let (_town, _, settlement) = seen(5 * TON).await;
    let channel = &settlement.channels.list()[0];
    let limit = Duration::from_secs(PROXY_DELAY.into()) / 2;
    tokio::time::pause();
    advance(limit - Duration::from_secs(1)).await;
    assert_eq!(settlement.hold(channel), None);
    advance(Duration::from_secs(2)).await;
    assert_eq!(settlement.hold(channel), Some(Hold::Silent { limit }));
    tokio::time::resume();
    settlement.round().await.unwrap();
    assert_eq!(settlement.hold(channel), None, "it answers again");
}

#[tokio::test]
async fn work_that_the_contract_does_not_cover_is_seen_without_another_look() {
    let (town, proxy, settlement) = seen(2 * TON).await;
    let channel = &settlement.channels.list()[0];
    assert_eq!(settlement.hold(channel), None);
    let held = town.line.balance(proxy.contract).await;
    let covered = (held - TON) / FEE;
    town.show(&settlement.channels, &proxy, covered).unwrap();
    assert_eq!(settlement.hold(channel), None);
    town.show(&settlement.channels, &proxy, covered + 1).unwrap();
    let needed_nanoton = TON + (covered + 1) * FEE;
    assert_eq!(settlement.hold(channel), Some(Hold::TooLittle { held_nanoton: held, needed_nanoton }));
}

#[tokio::test]
async fn the_margin_is_a_payout_but_not_more_than_the_stake_that_every_proxy_has() {
    let town = Town::new(0).await;
    let proxy = town.proxy(1, TON).await;
    let stake = town.line.subscribe_root().borrow().params.min_proxy_stake_nanoton;
    assert_eq!(stake, TON);
    for payout_at in [TON / 10, TON, 1000 * TON] {
        let (_store, channels) = open_store(town.store()).await.unwrap();
        let mut config = town.config();
        config.policy.payout_at_nanoton = payout_at;
        let settlement = Settlement::new(config, Arc::clone(&town.line) as Arc<dyn Chain>, channels);
        town.show(&settlement.channels, &proxy, 1).unwrap();
        settlement.round().await.unwrap();
        assert_eq!(settlement.hold(&settlement.channels.list()[0]), None, "{payout_at}");
    }
}

#[tokio::test]
async fn a_link_that_comes_back_waits_for_a_new_look() {
    let (town, _, settlement) = seen(5 * TON).await;
    let channel = &settlement.channels.list()[0];
    let contract = channel.terms.contract;
    settlement.link_up(contract);
    assert_eq!(settlement.hold(channel), Some(Hold::Unseen));
    let watching = tokio::spawn(Arc::clone(&settlement).watch());
    until("a look", async || settlement.hold(channel).is_none()).await;
    // A second link to the same proxy changes nothing for the first.
    settlement.link_up(contract);
    assert_eq!(settlement.hold(channel), None);
    settlement.link_down(contract);
    assert_eq!(settlement.proxies()[0].backed, Some(true));
    settlement.link_down(contract);
    let due = settlement.proxies().remove(0);
    assert_eq!((due.backed, due.hold, due.proxy_status), (None, None, Some(ContractStatus::Open)));
    watching.abort();
    drop(town);
}
