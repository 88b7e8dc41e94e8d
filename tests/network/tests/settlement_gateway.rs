//! A gateway that pays: with a real proxy and a real worker on the embedded chain.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use cocoon_attest::Policy;
use cocoon_chain::Chain as _;
use cocoon_gateway::{
    AccessConfig, Gateway, GatewayConfig, GatewayLimits, LeaveConfig, LeaveStep, WalletEnd,
};
use cocoon_localchain::{LocalChain, Options, RootedChain};
use cocoon_net::DialOptions;
use cocoon_network_tests::{
    FixedEngine, MODEL, Network, Options as NetworkOptions, TON, get, local, post, proxy_config, send_ton,
    settling_root, tls, until, within,
};
use cocoon_proxy::Proxy;
use cocoon_settle::client::ClientPolicy;
use cocoon_settle::proxy::ProxyPolicy;
use cocoon_ton::contracts::ContractStatus;
use cocoon_ton::message::{Body, RootChange};
use cocoon_ton::wallet::Wallet;
use cocoon_ton::{Address, SigningKey, root_state_init};
use cocoon_worker::Worker;
use serde_json::{Value, json};
use tempfile::TempDir;
use zeroize::Zeroizing;

const CLIENT_DELAY: u32 = 300;
/// Dear, so that a question is seen in the balances.
const PRICE: u64 = 100_000;
const POLL: Duration = Duration::from_millis(200);
const MIN_PAUSE: Duration = Duration::from_millis(20);

fn wallet(number: u8) -> (Wallet, SigningKey) {
    let key = SigningKey::from_bytes(&[number; 32]);
    (Wallet::cocoon(key.verifying_key().to_bytes(), Address::basechain([number; 32])), key)
}

struct World {
    chain: Arc<RootedChain>,
    operator: (Wallet, SigningKey),
    root_address: Address,
    dir: TempDir,
    proxy: Proxy,
    _worker: Worker,
}

impl World {
    async fn start() -> Self {
        let local_chain = LocalChain::open(&Options::default()).unwrap();
        let operator = wallet(50);
        local_chain.grant(operator.0.address(), 100 * TON).await.unwrap();
        let init = root_state_init(&settling_root(
            operator.0.address(),
            PRICE,
            PRICE / 2,
            (CLIENT_DELAY, 2 * CLIENT_DELAY),
        ));
        let root_address = init.address();
        send_ton(&local_chain, &operator, root_address, Some(init), &Body::Empty).await;
        let chain = Arc::new(local_chain.follow_root(root_address).await.unwrap());

        let dir = TempDir::new().unwrap();
        let mut config = proxy_config(&dir.path().join("proxy.db"), &NetworkOptions::default());
        let (proxy_wallet, key) = wallet(51);
        local_chain.grant(proxy_wallet.address(), 20 * TON).await.unwrap();
        config.root_address = root_address;
        config.wallet = proxy_wallet.address();
        config.trust_long_authorization = false;
        config.settlement = Some(cocoon_proxy::SettlementConfig {
            wallet: proxy_wallet,
            key,
            policy: ProxyPolicy::default(),
            poll: POLL,
            min_pause: MIN_PAUSE,
        });
        let open = || tls("none", Policy::any());
        let proxy = cocoon_proxy::start(config, open(), open(), chain.clone()).await.unwrap();

        let mut config = Network::worker_config_for(proxy.workers_addr(), dir.path(), 1);
        config.root_address = root_address;
        let engine = Arc::new(FixedEngine("paid for".into()));
        let worker = cocoon_worker::start(config, open(), chain.clone(), engine).await.unwrap();
        Self { chain, operator, root_address, dir, proxy, _worker: worker }
    }

    fn settlement(deposit_ton: u64, budget_ton: u64) -> cocoon_gateway::SettlementConfig {
        let (wallet, key) = wallet(52);
        let policy = ClientPolicy {
            deposit_nanoton: deposit_ton * TON,
            budget_nanoton: budget_ton * TON,
            ..ClientPolicy::default()
        };
        cocoon_gateway::SettlementConfig { wallet, key, policy, poll: POLL, min_pause: MIN_PAUSE }
    }

    async fn gateway(&self, deposit_ton: u64, budget_ton: u64) -> Gateway {
        self.gateway_with(Self::settlement(deposit_ton, budget_ton)).await
    }

    async fn gateway_with(&self, settlement: cocoon_gateway::SettlementConfig) -> Gateway {
        let config = GatewayConfig {
            tracing: None,
            http: local(),
            proxies: vec![self.proxy.clients_addr().to_string()],
            wallet: settlement.wallet.address(),
            secret: Zeroizing::new(b"a secret of ours, long enough".to_vec()),
            root_address: self.root_address,
            is_test: true,
            is_testnet: false,
            extensions: true,
            check_proxy_hashes: false,
            workers: None,
            dial: DialOptions { max_difficulty: 8, timeout: Duration::from_secs(10) },
            store: self.dir.path().join("gateway.db"),
            settlement: Some(settlement),
            access: AccessConfig::new(self.dir.path().join("access.db")),
            https: None,
            limits: GatewayLimits { default_max_tokens: 100, ..GatewayLimits::default() },
        };
        cocoon_gateway::start(config, tls("none", Policy::any()), self.chain.clone()).await.unwrap()
    }

    async fn held(&self, address: Address) -> u64 {
        self.chain.account_state(address).await.unwrap().balance_nanoton
    }

    /// Has the root's owner change something.
    async fn change_root(&self, change: RootChange) {
        let body = Body::Root { query_id: 1, change };
        send_ton(self.chain.chain(), &self.operator, self.root_address, None, &body).await;
    }
}

async fn ask(gateway: &Gateway) -> (u16, Value) {
    let question = json!({"model": MODEL, "messages": [{"role": "user", "content": "What does it cost?"}]});
    let reply = post(gateway.http_addr(), &question).await;
    (reply.status, serde_json::from_str(&reply.body).unwrap())
}

/// Asks until an answer comes; a new connection first has to hear of the workers.
async fn answered(gateway: &Gateway) {
    let mut last = (0, Value::Null);
    for _ in 0..200 {
        last = ask(gateway).await;
        if last.0 == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("in vain waited for an answer: {last:?}");
}

fn channels(gateway: &Gateway) -> Vec<cocoon_gateway::ChannelReport> {
    gateway.settlement().unwrap().borrow().channels.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_coins_says_what_it_needs_and_serves_once_it_has_come() {
    let world = World::start().await;
    let gateway = world.gateway(2, 3).await;
    let mut report = gateway.settlement().unwrap();
    within("the lack of coins", report.wait_for(|report| report.status.needs.is_some())).await.unwrap();
    let (status, error) = ask(&gateway).await;
    assert_eq!((status, error["error"]["code"].as_str()), (402, Some("insufficient_funds")));
    let words = error["error"]["message"].as_str().unwrap();
    let address = wallet(52).0.address().to_wire_string(false);
    assert!(words.contains(&address) && words.contains("TON"), "{words}");
    let stats: Value = serde_json::from_str(&get(gateway.http_addr(), "/jsonstats").await.body).unwrap();
    assert!(stats["settlement"]["needs"]["link"].as_str().unwrap().starts_with("ton://transfer/"), "{stats}");

    world.chain.chain().grant(wallet(52).0.address(), 5 * TON).await.unwrap();
    within("the proxy", gateway.ready()).await;
    answered(&gateway).await;
    let committed = || gateway.settlement().unwrap().borrow().committed_nanoton;
    until("the deposit", || committed() == 2 * TON).await;
    let metrics = get(gateway.http_addr(), "/metrics").await.body;
    assert!(metrics.contains("cocoon_gateway_committed_nanoton 2000000000"), "{metrics}");
    assert!(metrics.contains("cocoon_gateway_channel_nanoton{contract="), "{metrics}");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_used_is_paid_and_the_rest_comes_back() {
    let world = World::start().await;
    world.chain.chain().grant(wallet(52).0.address(), 10 * TON).await.unwrap();
    let gateway = world.gateway(2, 3).await;
    within("the proxy", gateway.ready()).await;
    for _ in 0..20 {
        answered(&gateway).await;
    }
    until("the proxy's signatures", || channels(&gateway).iter().any(|channel| channel.tokens_signed > 0))
        .await;
    let spent = gateway.spent();
    assert!(spent.nanoton.nano() >= 100 * PRICE);
    gateway.shutdown().await;

    // With the secret in the contract, a restart needs no registration.
    let gateway = world.gateway(2, 3).await;
    within("the proxy", gateway.ready()).await;
    answered(&gateway).await;
    assert_eq!(gateway.settlement().unwrap().borrow().status.sent, 0);
    let spent = gateway.spent();
    gateway.shutdown().await;

    let mut steps = Vec::new();
    let config =
        LeaveConfig { store: world.dir.path().join("gateway.db"), settlement: World::settlement(2, 3) };
    let chain = world.chain.chain().clone();
    let progress = |step: LeaveStep| {
        if matches!(step, LeaveStep::Waiting { .. }) {
            let chain = chain.clone();
            tokio::spawn(async move {
                // Time for the proxy to put its charge on the chain.
                tokio::time::sleep(Duration::from_secs(1)).await;
                chain.advance(CLIENT_DELAY + 1).await
            });
        }
        steps.push(step);
    };
    let left = within("the end", cocoon_gateway::leave(config, world.chain.clone(), progress)).await.unwrap();
    let owner = wallet(52).0.owner().unwrap();
    assert!(matches!(left.wallet, WalletEnd::Sent { .. }), "{left:?} after {steps:?}");
    let held = world.held(owner).await;
    let most = 10 * TON - spent.nanoton.nano();
    assert!((most - TON / 4..=most).contains(&held), "{held} of {most} after {steps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn use_is_topped_up_as_it_happens_and_ends_with_the_budget() {
    let world = World::start().await;
    world.chain.chain().grant(wallet(52).0.address(), 10 * TON).await.unwrap();
    // Nobody looks at the chain in time unless the use itself calls for it.
    let poll = Duration::from_secs(600);
    let gateway =
        world.gateway_with(cocoon_gateway::SettlementConfig { poll, ..World::settlement(1, 2) }).await;
    within("the proxy", gateway.ready()).await;
    answered(&gateway).await;
    let mut status = 200;
    let mut answers = 0_u32;
    while status == 200 {
        answers += 1;
        assert!(answers < 3000, "more is answered than the budget pays for");
        (status, _) = ask(&gateway).await;
    }
    assert_eq!(status, 402, "after {answers} answers");
    let report = gateway.settlement().unwrap().borrow().clone();
    assert_eq!(report.committed_nanoton, 2 * TON);
    let spent = gateway.spent().nanoton.nano();
    assert!((TON + TON / 2..=2 * TON).contains(&spent), "{spent} after {answers} answers");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_prices_move_the_gateway_to_a_new_channel_and_bring_the_old_one_back() {
    let world = World::start().await;
    world.chain.chain().grant(wallet(52).0.address(), 10 * TON).await.unwrap();
    let gateway = world.gateway(2, 4).await;
    within("the proxy", gateway.ready()).await;
    answered(&gateway).await;
    let before = channels(&gateway)[0].clone();
    world.change_root(RootChange::ChangePrices { price: 2 * PRICE, worker_fee: PRICE }).await;
    let moved = |channels: &[cocoon_gateway::ChannelReport]| {
        let open = |channel: &cocoon_gateway::ChannelReport| {
            channel.contract != before.contract && channel.status == Some(ContractStatus::Open)
        };
        channels.iter().any(open) && channels.iter().all(|channel| channel.contract != before.contract)
    };
    within("the move", async {
        let mut ticks = 0_u32;
        while !moved(&channels(&gateway)) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            ticks += 1;
            if ticks.is_multiple_of(30) {
                // Should the proxy not refund by itself.
                world.chain.chain().advance(CLIENT_DELAY).await.unwrap();
            }
        }
    })
    .await;
    answered(&gateway).await;
    assert!(world.held(before.contract).await < TON / 20);
    gateway.shutdown().await;
}
