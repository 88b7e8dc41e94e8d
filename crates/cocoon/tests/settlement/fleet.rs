//! A chain, a proxy, two workers and a gateway as processes, each started from its configuration file and on ports
//! that stay the same, so that any of them can be killed and started again.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cocoon_chain::wallet::WalletDriver;
use cocoon_chain::{ToncenterChain, ToncenterOptions};
use cocoon_ton::contracts::StructVersion;
use cocoon_ton::wallet::OutMessage;
use cocoon_ton::{
    Address, Body, NANOTON_PER_TON, RootChange, RootConfig, SigningKey, Wallet, code, root_state_init,
};
use rand::Rng as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{LIMIT, cocoon, text, wait_for};

/// What callers ask for.
pub(crate) const MODEL: &str = "builtin/extractive-summary";
/// Dear, so that some requests make a charge, a top-up and a payout.
pub(crate) const PRICE: u64 = 200_000;
/// The worker's part of it.
pub(crate) const FEE: u64 = 150_000;
/// Of the client contracts, in seconds.
pub(crate) const CLIENT_DELAY: u32 = 600;
/// Of the proxy contract, in seconds.
pub(crate) const PROXY_DELAY: u32 = 1200;
/// How many workers there are.
pub(crate) const WORKERS: u8 = 2;
/// Every process, by its place in [`Fleet::processes`].
pub(crate) const CHAIN: usize = 0;
pub(crate) const PROXY: usize = 1;
pub(crate) const WORKER: usize = 2;
pub(crate) const GATEWAY: usize = 4;

const TON: u64 = NANOTON_PER_TON;
/// Stake of proxy and client, in nanoton.
const STAKE: u64 = TON / 2;
const OPERATOR: u8 = 200;

/// Who a node is, all of it made from one number.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) dir: PathBuf,
    /// A plain address, whose coins nobody spends: what arrives there can be counted.
    pub(crate) owner: Address,
    pub(crate) wallet: Wallet,
    pub(crate) key: SigningKey,
    number: u8,
}

impl Identity {
    fn new(dir: &Path, name: &str, number: u8) -> Self {
        let owner = Address::basechain([number; 32]);
        let key = SigningKey::from_bytes(&[number; 32]);
        let wallet = Wallet::cocoon(key.verifying_key().to_bytes(), owner);
        Self { dir: dir.join(name), owner, wallet, key, number }
    }

    /// The key with which a proxy signs.
    pub(crate) fn payment_key(&self) -> [u8; 32] {
        [self.number + 100; 32]
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.dir.join("ledger.sqlite")
    }

    /// Makes its directory, with its keys.
    fn settle_in(&self) {
        std::fs::create_dir(&self.dir).unwrap();
        std::fs::set_permissions(&self.dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        for (name, key) in [("wallet-key.hex", [self.number; 32]), ("payment-key.hex", self.payment_key())] {
            let mut options = std::fs::OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600).open(self.dir.join(name));
            let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(file.unwrap(), "{digits}").unwrap();
        }
    }
}

/// One process: what starts it, and whether it runs.
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) http: String,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
    /// How often it ended without being killed.
    pub(crate) ended: u32,
}

impl Process {
    pub(crate) fn start(&mut self) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut command = cocoon(&arguments);
        self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    /// As when the power fails, for this process alone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it again where it has ended by itself: a role that finds no chain at its start gives up.
    pub(crate) fn revive(&mut self) {
        let exited = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
        if exited.is_some() {
            self.ended += 1;
            self.start();
        }
    }

    /// Waits until it ends by itself, and gives its exit code.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let child = self.child.as_mut().unwrap();
        let status = wait_for("the end of a process", || child.try_wait().unwrap());
        self.child = None;
        status.code()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its operator's page, where it answers.
    pub(crate) fn stats(&self) -> Option<Value> {
        let (status, body) = exchange(&self.http, "GET", "/jsonstats", "")?;
        (status == 200).then(|| serde_json::from_str(&body).ok())?
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The whole network.
pub(crate) struct Fleet {
    pub(crate) processes: Vec<Process>,
    pub(crate) proxy: Identity,
    pub(crate) workers: Vec<Identity>,
    pub(crate) gateway: Identity,
    pub(crate) root: Address,
    pub(crate) url: String,
    pub(crate) dir: TempDir,
}

impl Fleet {
    /// Starts all of it.
    pub(crate) fn start(runtime: &tokio::runtime::Runtime) -> Self {
        let dir = TempDir::new().unwrap();
        let ports = ports(7);
        let url = format!("http://127.0.0.1:{}", ports[0]);
        let proxy = Identity::new(dir.path(), "proxy", 1);
        let workers: Vec<_> =
            (1..=WORKERS).map(|n| Identity::new(dir.path(), &format!("worker-{n}"), 1 + n)).collect();
        let gateway = Identity::new(dir.path(), "gateway", 9);

        let chain_dir = dir.path().join("chain");
        let arguments = ["chain", "--listen", &url["http://".len()..], "--dir", text(&chain_dir)];
        let mut chain = process(dir.path(), "chain", ports[0], &arguments);
        chain.start();
        let now = || exchange(&chain.http, "POST", "/localchain/now", "{}");
        wait_for("the chain", || now().filter(|answer| answer.0 == 200));
        let root = runtime.block_on(make_root(&url, &chain.http, ports[1], ports[2]));

        let mut fleet = Self { processes: vec![chain], proxy, workers, gateway, root, url, dir };
        for (identity, ton) in
            [(&fleet.proxy, 100), (&fleet.workers[0], 50), (&fleet.workers[1], 50), (&fleet.gateway, 3000)]
        {
            identity.settle_in();
            fleet.control("grant", &grant(identity.wallet.address(), ton * TON));
        }
        let config = format!(
            "listen_workers = \"127.0.0.1:{}\"\nlisten_clients = \"127.0.0.1:{}\"\n{}\
             [money]\ncharge_at_percent = 10\nwithdraw_at = \"0.02 TON\"\ncommit_every_seconds = 1\n\
             [attestation]\npresent = \"fake_tdx\"\nrequire_of_workers = \"fake_tdx\"\n[pow]\ndifficulty = 1\n",
            ports[1],
            ports[2],
            fleet.common()
        );
        let identity = fleet.proxy.clone();
        fleet.add("proxy", &identity, ports[3], &config);
        let config = format!(
            "{}[engine]\nbuiltin = true\n[money]\npayout_at = \"0.05 TON\"\n\
             [attestation]\npresent = \"fake_tdx\"\nrequire = \"fake_tdx\"\n",
            fleet.common()
        );
        for (identity, port) in fleet.workers.clone().iter().zip(&ports[4..6]) {
            fleet.add("worker", identity, *port, &config);
        }
        let config = format!(
            "{}[money]\ndeposit = \"1 TON\"\nbudget = \"2500 TON\"\n[attestation]\nrequire = \"fake_tdx\"\n\
             [limits]\ndefault_max_tokens = 64\n",
            fleet.common()
        );
        let identity = fleet.gateway.clone();
        fleet.add("gateway", &identity, ports[6], &config);
        fleet
    }

    fn common(&self) -> String {
        format!("[root]\naddress = \"{}\"\n[chain]\nurl = \"{}\"\npoll_seconds = 1\n", self.root, self.url)
    }

    fn add(&mut self, role: &str, identity: &Identity, port: u16, config: &str) {
        let name = identity.dir.file_name().unwrap().to_str().unwrap();
        let path = self.dir.path().join(format!("{name}.toml"));
        let head = format!(
            "dir = \"{}\"\nhttp = \"127.0.0.1:{port}\"\nowner = \"{}\"\n",
            identity.dir.display(),
            identity.owner
        );
        std::fs::write(&path, head + config).unwrap();
        let mut process = process(self.dir.path(), name, port, &[role, "--config", text(&path)]);
        process.start();
        self.processes.push(process);
    }

    /// Something that only our own chain can.
    pub(crate) fn control(&self, method: &str, request: &Value) -> Value {
        let path = format!("/localchain/{method}");
        let (status, body) =
            exchange(&self.processes[CHAIN].http, "POST", &path, &request.to_string()).unwrap();
        assert_eq!(status, 200, "{method}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Moves the chain's clock.
    pub(crate) fn advance(&self, seconds: u32) {
        self.control("advance", &json!({"seconds": seconds}));
    }

    /// Another view of the chain, for what a node does while it is stopped.
    pub(crate) async fn view(&self) -> ToncenterChain {
        let mut options = ToncenterOptions::new(&self.url, self.root, true);
        options.poll_every = Duration::from_millis(100);
        ToncenterChain::open(options).await.unwrap()
    }

    /// Starts whatever has ended by itself.
    pub(crate) fn revive(&mut self) {
        self.processes.iter_mut().for_each(Process::revive);
    }

    pub(crate) fn gateway_http(&self) -> String {
        self.processes[GATEWAY].http.clone()
    }

    /// Waits until a request goes through.
    pub(crate) fn wait_until_it_serves(&mut self) {
        let body = crate::load::question(1, false).to_string();
        let end = Instant::now() + LIMIT;
        let mut last = None;
        while Instant::now() < end {
            self.revive();
            last = exchange(&self.gateway_http(), "POST", "/v1/chat/completions", &body);
            if last.as_ref().is_some_and(|answer| answer.0 == 200) {
                return;
            }
        }
        panic!("no answer within {LIMIT:?}, last {last:?}\n{}", self.tails());
    }

    /// The ends of all logs, for a test that fails.
    pub(crate) fn tails(&self) -> String {
        let tail = |process: &Process| {
            let log = process.log();
            let lines: Vec<_> = log.lines().rev().take(12).collect();
            let stats = process.stats().unwrap_or_default();
            let log = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
            format!("--- {}\n{log}\n{stats}\n", process.name)
        };
        self.processes.iter().map(tail).collect()
    }
}

fn process(dir: &Path, name: &str, port: u16, arguments: &[&str]) -> Process {
    Process {
        name: name.to_owned(),
        http: format!("127.0.0.1:{port}"),
        arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
        log: dir.join(format!("{name}.log")),
        child: None,
        ended: 0,
    }
}

fn grant(to: Address, nanoton: u64) -> Value {
    json!({"address": to.to_raw_string(), "amount": nanoton.to_string()})
}

/// Puts a root contract on the chain that names the proxy's ports.
async fn make_root(url: &str, http: &str, workers: u16, clients: u16) -> Address {
    let key = SigningKey::from_bytes(&[OPERATOR; 32]);
    let wallet = Wallet::cocoon(key.verifying_key().to_bytes(), Address::basechain([OPERATOR; 32]));
    let request = grant(wallet.address(), 100 * TON).to_string();
    assert_eq!(exchange(http, "POST", "/localchain/grant", &request).map(|answer| answer.0), Some(200));
    let mut config = RootConfig::test_mode(wallet.address());
    let params = &mut config.params;
    params.struct_version = StructVersion::V3;
    params.params_version = 1;
    params.price_per_token_nanoton = PRICE;
    params.worker_fee_per_token_nanoton = FEE;
    params.min_proxy_stake_nanoton = STAKE;
    params.min_client_stake_nanoton = STAKE;
    params.client_delay_before_close_seconds = CLIENT_DELAY;
    params.proxy_delay_before_close_seconds = PROXY_DELAY;
    params.proxy_code = Some(code::proxy().clone());
    params.worker_code = Some(code::worker().clone());
    params.client_code = Some(code::client().clone());
    let init = root_state_init(&config);
    let root = init.address();
    let local = |port| std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, port);
    let endpoints = cocoon_ton::ProxyEndpoints { for_workers: local(workers), for_clients: local(clients) };
    let message = |init, body: &Body| OutMessage {
        to: root,
        value_nanoton: TON,
        bounce: false,
        mode: 1,
        init,
        body: Some(body.to_cell()),
    };
    let register = Body::Root { query_id: 1, change: RootChange::RegisterProxy(endpoints) };
    let messages = vec![message(Some(init), &Body::DoNotProcess { query_id: 0 }), message(None, &register)];
    let chain = ToncenterChain::without_root(&ToncenterOptions::new(url, root, true)).unwrap();
    let driver = WalletDriver::new(Arc::new(chain), wallet, key);
    let view = driver.settled().await.unwrap();
    driver.send(&view, messages).await.unwrap();
    root
}

/// Free ports below those that the system gives to outgoing connections, so that they stay free while a process is dead.
fn ports(count: usize) -> Vec<u16> {
    // Those of the other tests in this process, too, whose nodes may not have taken them yet.
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap();
    let mut ports = Vec::new();
    while ports.len() < count {
        let port = rand::rng().random_range(15_000..32_000);
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port);
            ports.push(port);
        }
    }
    ports
}

/// One HTTP exchange; `None` where the answer is not whole.
pub(crate) fn exchange(address: &str, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let limit = Duration::from_secs(60);
    let mut tcp = TcpStream::connect(address).ok()?;
    tcp.set_read_timeout(Some(limit)).unwrap();
    tcp.set_write_timeout(Some(limit)).unwrap();
    let length = body.len();
    write!(
        tcp,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .ok()?;
    let began = Instant::now();
    let mut answer = Vec::new();
    if tcp.read_to_end(&mut answer).is_err() {
        assert!(began.elapsed() < limit, "{address} keeps a caller of {path} waiting");
        return None;
    }
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let head = head.to_ascii_lowercase();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    if head.contains("transfer-encoding: chunked") {
        return Some((status, joined(body)?));
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"))?;
    let length: usize = length.trim().parse().ok()?;
    (body.len() == length).then(|| (status, body.to_owned()))
}

/// Joins the chunks of a body, if they are all there.
fn joined(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole += rest.get(..size)?;
        body = rest.get(size..)?.strip_prefix("\r\n")?;
    }
}
