//! Processes that are killed in the middle of their work, and go on from their logs.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

use bytes::Bytes;
use cocoon_attest::Policy;
use cocoon_chain::StaticChain;
use cocoon_ledger::{ClientId, Ledger, Nanoton};
use cocoon_network_tests::{
    Ask, FixedEngine, Log, Network, Notice, Options, TestClient, get, post, proxy_config, root, tls, until,
    wallet, within,
};
use cocoon_store::{SqliteStore, Store as _, wait_durable};
use cocoon_ton::payment::{OrderKind, SignedPayment};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, Command};

/// A node in a process of its own.
pub(crate) struct Process {
    child: Child,
    pub(crate) http: SocketAddr,
    _stdin: ChildStdin,
}

impl Process {
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cocoon-network-node"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let http = within("the process to start", lines.next_line()).await.unwrap();
        Self { child, http: http.expect("the process says where it is").parse().unwrap(), _stdin: stdin }
    }

    /// As `kill -9` does.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// A number of its /metrics page.
    async fn metric(&self, name: &str) -> u64 {
        let mut tcp = TcpStream::connect(self.http).await.unwrap();
        tcp.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut page = String::new();
        within("the page", tcp.read_to_string(&mut page)).await.unwrap();
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).trim().parse().unwrap()
    }
}

/// A port that is free now, outside the range from which the system gives ports to those who dial.
fn free_port() -> u16 {
    // Those of the other tests in this process, too, whose nodes may not have taken them yet.
    static GIVEN: std::sync::Mutex<BTreeSet<u16>> = std::sync::Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap();
    (0..1000)
        .map(|_| rand::random_range(12_000..30_000))
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok() && given.insert(*port))
        .unwrap()
}

/// What was ever shown to a client; nothing may ever be below it.
#[derive(Default)]
struct Shown {
    db: i64,
    max: i64,
    signed: i64,
    acknowledged: i64,
}

impl Shown {
    fn observe(&mut self, client: &TestClient, notice: &Notice) {
        let counters = &notice.counters;
        assert!(counters.db_tokens >= self.db, "{counters:?} is below {} db_tokens shown before", self.db);
        assert!(
            counters.max_tokens >= self.max,
            "{counters:?} is below {} max_tokens shown before",
            self.max
        );
        assert_eq!(
            counters.max_tokens, counters.db_tokens,
            "what is not durable is not shown: a crash would take it back"
        );
        let terms = client.terms();
        let key = cocoon_ton::VerifyingKey::from_bytes(&terms.public_key).unwrap();
        let order = SignedPayment::parse(counters.signed.as_ref().expect("a signed order")).unwrap();
        let signed = order.verify(&key, OrderKind::ChargeClient, &terms.pair_contract).unwrap().cast_signed();
        assert!(signed <= counters.db_tokens, "signed for {signed}, more than {counters:?}");
        assert!(signed >= self.signed, "signed for {signed} after {}", self.signed);
        (self.db, self.max, self.signed) = (counters.db_tokens, counters.max_tokens, signed);
        self.acknowledged += notice.request.map_or(0, |(_, tokens)| tokens);
    }
}

#[tokio::test]
async fn a_proxy_killed_in_the_middle_of_its_work_forgets_nothing_that_it_ever_showed() {
    const KILLS: usize = 3;
    let log = Log::capture();
    let dir = TempDir::new().unwrap();
    let (workers, clients) = (free_port(), free_port());
    let arguments = ["proxy", dir.path().to_str().unwrap(), &workers.to_string(), &clients.to_string()]
        .map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut proxy = Process::start(&arguments).await;
    let chain = Arc::new(StaticChain::from_config(root()).unwrap());
    let address = SocketAddr::from(([127, 0, 0, 1], clients));
    let config = Network::worker_config_for(SocketAddr::from(([127, 0, 0, 1], workers)), dir.path(), 1);
    let engine = Arc::new(FixedEngine("hello".into()));
    let worker =
        cocoon_worker::start(config, tls("none", Policy::any()), chain.clone(), engine).await.unwrap();
    within("the worker to be ready", worker.ready()).await;

    let (answered, sent, stop) = (Cell::new(0_u64), Cell::new(0_i64), Cell::new(false));
    let shown = RefCell::new(Shown::default());
    let load = async {
        let show = tls("none", Policy::any());
        loop {
            // Whoever lost the proxy comes back by himself.
            let Ok(client) = TestClient::dial(address, &show, wallet(11), chain.root(), true).await else {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                continue;
            };
            if !client.let_in().await {
                continue;
            }
            let mut seen = 0;
            while client.is_up() && !stop.get() {
                let asked: Vec<_> = (0..20).map(|_| client.submit(&Ask::default())).collect();
                for exchange in asked {
                    sent.set(sent.get() + 1);
                    let answer = exchange.finish().await;
                    answered.set(answered.get() + u64::from(answer.end.is_ok() && answer.status == 200));
                }
                let notices = client.notices();
                for notice in &notices[seen..] {
                    shown.borrow_mut().observe(&client, notice);
                }
                seen = notices.len();
            }
            let notices = client.notices();
            for notice in &notices[seen..] {
                shown.borrow_mut().observe(&client, notice);
            }
            if stop.get() {
                return client;
            }
        }
    };
    let killing = async {
        for kill in 0..KILLS {
            let goal = answered.get() + 200;
            until("requests to be answered", || answered.get() >= goal).await;
            // Not at the same point of every batch.
            tokio::time::sleep(std::time::Duration::from_millis(3 * kill as u64)).await;
            proxy.kill().await;
            let before = worker.earned();
            proxy = Process::start(&arguments).await;
            assert!(worker.earned().tokens >= before.tokens);
        }
        let goal = answered.get() + 100;
        until("requests to be answered again", || answered.get() >= goal).await;
        stop.set(true);
        proxy
    };
    let (client, proxy) = tokio::join!(load, killing);

    let paid = async || proxy.metric("cocoon_proxy_books_paid_nanoton").await;
    within("the last notices", async {
        while 2 * client.charged() != paid().await || client.charged() != worker.earned().tokens.get() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let (charged, shown) = (client.charged().cast_signed(), shown.into_inner());
    assert_eq!(
        proxy.metric("cocoon_proxy_books_kept_nanoton").await,
        client.charged(),
        "one nanoton a token"
    );
    assert!(shown.acknowledged <= charged, "{} tokens were acknowledged", shown.acknowledged);
    assert!(charged <= 15 * sent.get(), "nothing is charged twice: {charged} for {} requests", sent.get());
    assert!(answered.get() >= 700);
    let distrust: Vec<_> = log
        .lines()
        .into_iter()
        .filter(|line| line.field("cause").contains("went back") || line.level == tracing::Level::ERROR)
        .collect();
    assert!(distrust.is_empty(), "{distrust:#?}");
}

#[tokio::test]
async fn a_long_log_is_cut_short_by_a_snapshot_and_nothing_is_lost() {
    const RECORDS: u64 = 25_000;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("proxy.db");
    {
        let mut ledger = Ledger::new();
        let stranger = ClientId([9; 32]);
        for funds in 1..=RECORDS {
            ledger.set_client_funds(stranger, Nanoton(funds)).unwrap();
        }
        let records: Vec<Bytes> = ledger.take_records().iter().map(|record| record.encode().into()).collect();
        let store = SqliteStore::open(&path).unwrap();
        for some in records.chunks(1000) {
            let position = store.append(some).unwrap();
            wait_durable(&store, position).await.unwrap();
        }
        store.close().unwrap();
    }
    let mut charged = 0;
    for _ in 0..2 {
        let chain = Arc::new(StaticChain::from_config(root()).unwrap());
        let config = proxy_config(&path, &Options::default());
        let show = || tls("none", Policy::any());
        let proxy = cocoon_proxy::start(config, show(), show(), chain.clone()).await.unwrap();
        assert_eq!(proxy.books().charged.get(), charged, "the books are as they were");
        let config = Network::worker_config_for(proxy.workers_addr(), dir.path(), 1);
        let engine = Arc::new(FixedEngine("hello".into()));
        let worker = cocoon_worker::start(config, show(), chain.clone(), engine).await.unwrap();
        within("the worker to be ready", worker.ready()).await;
        let client = TestClient::connect(proxy.clients_addr(), &show(), wallet(11), chain.root(), true).await;
        until("the account", || client.charged() == charged).await;
        let answer = client.ask(Ask::default()).await;
        charged += client.cost(answer.id).await.cast_unsigned();
        within("the proxy to stop", proxy.shutdown()).await;
        within("the worker to stop", worker.shutdown()).await;
        let store = SqliteStore::open(&path).unwrap();
        let loaded = store.load().unwrap();
        let (position, _) = loaded.snapshot.expect("a snapshot");
        assert!(position > RECORDS, "the snapshot is at {position}");
        assert!(loaded.records.len() < 10, "{} records are left", loaded.records.len());
        store.close().unwrap();
    }
    assert_eq!(charged, 30);
}

#[tokio::test]
async fn a_proxy_whose_log_cannot_be_written_for_a_while_takes_no_requests_and_goes_on_afterwards() {
    let network = Network::start().await;
    let worker = network.worker(1, FixedEngine("hello".into())).await;
    let client = network.client(11).await;
    client.offers(|offers| offers.len() == 1).await;
    // As with a full disk: what is begun is tried again and again.
    let other = rusqlite::Connection::open(network.dir.path().join("proxy.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut answered = 0;
    let refused = within("the proxy to notice", async {
        loop {
            let answer = client.ask(Ask::default()).await;
            if answer.status != 200 {
                break answer;
            }
            answered += 1;
        }
    })
    .await;
    assert_eq!(refused.status, 503);
    let health = get(network.proxy.http_addr(), "/health").await;
    assert!(health.status == 503 && health.body.contains("the proxy's disk is behind"), "{health:?}");
    assert!(answered > 0);
    assert_eq!(client.charged(), 0, "nothing is acknowledged that is not durable");
    other.execute_batch("ROLLBACK").unwrap();
    within("the proxy to go on", async {
        while client.ask(Ask::default()).await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    answered += 1;
    until("every charge", || client.charged() == 15 * answered).await;
    network.assert_balances(&[&client], &[&worker]).await;
}

#[tokio::test]
async fn a_gateway_comes_back_to_a_proxy_that_was_killed_and_trusts_its_figures() {
    const KILLS: usize = 3;
    let log = Log::capture();
    let dir = TempDir::new().unwrap();
    let (workers, clients) = (free_port(), free_port());
    let arguments = ["proxy", dir.path().to_str().unwrap(), &workers.to_string(), &clients.to_string()]
        .map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut proxy = Process::start(&arguments).await;
    let chain = Arc::new(StaticChain::from_config(root()).unwrap());
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let config = Network::worker_config_for(local(workers), dir.path(), 1);
    let engine = Arc::new(FixedEngine("hello".into()));
    let worker =
        cocoon_worker::start(config, tls("none", Policy::any()), chain.clone(), engine).await.unwrap();
    let gateway = cocoon_network_tests::gateway(&[local(clients)], dir.path(), chain).await;
    within("the worker to be ready", worker.ready()).await;
    within("the gateway to be ready", gateway.ready()).await;
    let (answered, stop) = (Cell::new(0_u64), Cell::new(false));
    let load = async || {
        while !stop.get() {
            let reply = post(gateway.http_addr(), &Ask::default().body).await;
            // Without a proxy the caller hears so, at once and in HTTP.
            assert!([200, 502, 503, 404].contains(&reply.status), "{reply:?}");
            answered.set(answered.get() + u64::from(reply.status == 200));
            if reply.status != 200 {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    };
    let killing = async {
        for _ in 0..KILLS {
            let goal = answered.get() + 60;
            until("requests to be answered", || answered.get() >= goal).await;
            let spent = gateway.spent();
            proxy.kill().await;
            proxy = Process::start(&arguments).await;
            assert!(gateway.spent().tokens >= spent.tokens);
        }
        let goal = answered.get() + 60;
        until("requests to be answered again", || answered.get() >= goal).await;
        stop.set(true);
        proxy
    };
    let (_, _, _, _, proxy) = tokio::join!(load(), load(), load(), load(), killing);
    within("the last notices", async {
        while gateway.spent().nanoton.nano() != proxy.metric("cocoon_proxy_books_paid_nanoton").await {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let distrust: Vec<_> = log
        .lines()
        .into_iter()
        .filter(|line| line.field("why").contains("went back") || line.level == tracing::Level::ERROR)
        .collect();
    assert!(distrust.is_empty(), "{distrust:#?}");
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_worker_killed_in_the_middle_of_its_work_comes_back_and_knows_what_it_earned() {
    const KILLS: usize = 3;
    let log = Log::capture();
    let network = Network::start().await;
    let port = network.proxy.workers_addr().port().to_string();
    let arguments = ["worker", network.dir.path().to_str().unwrap(), &port];
    let mut worker = Process::start(&arguments).await;
    let client = network.client(11).await;
    client.offers(|offers| offers.len() == 1).await;
    let (answered, ended, stop) = (Cell::new(0_u64), Cell::new(0_u64), Cell::new(false));
    let load = async {
        while !stop.get() {
            let asked: Vec<_> = (0..20).map(|_| client.submit(&Ask::default())).collect();
            for exchange in asked {
                // Every request ends, one way or another.
                let answer = exchange.finish().await;
                ended.set(ended.get() + 1);
                answered.set(answered.get() + u64::from(answer.end.is_ok() && answer.status == 200));
            }
        }
    };
    let killing = async {
        for _ in 0..KILLS {
            let goal = answered.get() + 200;
            until("requests to be answered", || answered.get() >= goal).await;
            worker.kill().await;
            worker = Process::start(&arguments).await;
        }
        let goal = answered.get() + 100;
        until("requests to be answered again", || answered.get() >= goal).await;
        stop.set(true);
        worker
    };
    let ((), worker) = tokio::join!(load, killing);
    within("the last notices", async {
        while client.charged() != network.proxy.books().charged.get()
            || worker.metric("cocoon_worker_earned_tokens").await != client.charged()
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(client.charged() >= 15 * answered.get(), "what was answered is charged");
    assert!(client.charged() <= 15 * ended.get(), "nothing is charged twice");
    log.assert_no_errors();
}
