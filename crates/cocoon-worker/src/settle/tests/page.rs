use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cocoon_attest::{Policy, VerifierSet};
use cocoon_chain::Chain;
use cocoon_engine::builtin::ExtractiveSummary;
use cocoon_net::{Clock as _, DialOptions, NodeIdentity, NodeKey, SystemClock, TlsSettings};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::town::{FEE, OWNER, ROOT, TON, Town};
use super::until;
use crate::{SettlementConfig, Worker, WorkerConfig, open_store};

pub(super) fn tls(seed: [u8; 32], policy: Policy) -> TlsSettings {
    let identity =
        NodeIdentity::new(NodeKey::from_seed(&seed), cocoon_tee::open("none").unwrap(), SystemClock.now());
    let verifiers = Arc::new(VerifierSet::built_in());
    TlsSettings::new(identity.unwrap(), verifiers, policy, None, Arc::new(SystemClock)).unwrap()
}

async fn worker(town: &Town, settlement: Option<SettlementConfig>) -> Worker {
    worker_of(town, settlement, Vec::new()).await
}

pub(super) async fn worker_of(
    town: &Town,
    settlement: Option<SettlementConfig>,
    proxies: Vec<String>,
) -> Worker {
    let config = WorkerConfig {
        tracing: None,
        http: "127.0.0.1:0".parse().unwrap(),
        proxies,
        owner: OWNER,
        model: "test/model@commit:hash".into(),
        model_files: None,
        coefficient: 1000,
        follow_load: None,
        max_active: 1,
        root_address: ROOT,
        is_test: true,
        is_testnet: false,
        extensions: true,
        max_body_bytes: crate::DEFAULT_MAX_BODY_BYTES,
        check_proxy_hashes: false,
        dial: DialOptions { max_difficulty: 28, timeout: Duration::from_secs(10) },
        store: town.store(),
        settlement,
        paused: false,
    };
    let chain = Arc::clone(&town.line) as Arc<dyn Chain>;
    crate::start(config, tls([5; 32], Policy::any()), chain, Arc::new(ExtractiveSummary::new()))
        .await
        .unwrap()
}

/// Status line and body of an answer.
pub(super) async fn ask(to: SocketAddr, request: &str, body: &str) -> (String, String) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let length = body.len();
    let head = format!(
        "{request} HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

pub(super) async fn stats(to: SocketAddr) -> Value {
    serde_json::from_str(&ask(to, "GET /jsonstats", "").await.1).unwrap()
}

#[tokio::test]
async fn the_operators_page_shows_what_is_due_and_has_it_paid() {
    let town = Town::new(5 * TON).await;
    let proxy = town.proxy(1, 100 * TON).await;
    let (store, channels) = open_store(town.store()).await.unwrap();
    let tokens = TON / 5 / FEE;
    town.show(&channels, &proxy, tokens).unwrap();
    drop((store, channels));

    let worker = worker(&town, Some(town.config())).await;
    let page = worker.http_addr();
    let earned = worker.earned();
    assert_eq!(
        (earned.tokens.get(), earned.nanoton.nano()),
        (tokens, tokens * FEE),
        "before any proxy is up"
    );
    until("the first look", async || stats(page).await["settlement"]["proxies"][0]["status"] == "open").await;
    let settlement = &stats(page).await["settlement"];
    assert_eq!(settlement["wallet"], town.wallet.address().to_wire_string(false));
    assert_eq!((&settlement["balance_nanoton"], &settlement["error"]), (&(5 * TON).into(), &Value::Null));
    let due = &settlement["proxies"][0];
    assert_eq!(due["contract"], proxy.worker.to_wire_string(false));
    assert_eq!((&due["signed_tokens"], &due["paid_tokens"]), (&tokens.into(), &0.into()));
    assert_eq!((town.paid().await, town.line.sent()), (0, 0), "too little to be fetched unasked");

    let (status, answer) = ask(page, "POST /payout", "{}").await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert!(status.contains("202"), "{status}");
    assert_eq!(answer["proxies"][0]["due_nanoton"], tokens * FEE);
    until("the payout", async || town.paid().await == tokens * FEE).await;
    let paid = format!("cocoon_worker_paid_nanoton {}", tokens * FEE);
    until("the gauge", async || ask(page, "GET /metrics", "").await.1.contains(&paid)).await;
    let metrics = ask(page, "GET /metrics", "").await.1;
    assert!(metrics.contains("cocoon_worker_due_nanoton 0\n"), "{metrics}");
    assert!(metrics.contains("cocoon_worker_wallet_nanoton 4"), "{metrics}");
    let (status, _) = ask(page, "POST /payout", r#"{"from": 5}"#).await;
    assert!(status.contains("422"), "{status}");
    worker.shutdown().await;
}

#[tokio::test]
async fn a_worker_on_a_chain_that_moves_nothing_says_so() {
    let town = Town::new(0).await;
    let worker = worker(&town, None).await;
    assert!(worker.pay_out(1).is_err() && worker.settlement().is_none());
    assert_eq!(stats(worker.http_addr()).await["settlement"], Value::Null);
    let (status, answer) = ask(worker.http_addr(), "POST /payout", "{}").await;
    assert!(status.contains("409") && answer.contains("does not settle"), "{status} {answer}");
    worker.shutdown().await;
}
