//! Every role and the chain are killed at any moment, hundreds of times, under load. In the end everybody leaves, and every
//! token and every coin is counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cocoon_chain::Chain;
use cocoon_gateway::WalletEnd;
use cocoon_localchain::{LocalChain, Options, SUPPLY_NANOTON};
use cocoon_proxy::{ProxyConfig, WindUpStep};
use cocoon_settle::client::ClientPolicy;
use cocoon_settle::proxy::ProxyPolicy;
use cocoon_settle::worker::WorkerPolicy;
use cocoon_ton::contracts::ContractStatus;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::accounts::{Flows, client, worker};
use crate::fleet::{CHAIN, CLIENT_DELAY, FEE, Fleet, GATEWAY, Identity, PRICE, PROXY, PROXY_DELAY, WORKER};
use crate::load::Load;
use crate::support::LIMIT;

/// Kills in an ordinary run; `KILLS` asks for more.
const KILLS: u32 = 200;
/// Longest time between two kills.
const LONGEST_PEACE: Duration = Duration::from_millis(700);
/// How often each way out is broken off.
const BREAKS: u32 = 4;
const CALLERS: u32 = 6;
const TON: u64 = cocoon_ton::NANOTON_PER_TON;
const POLL: Duration = Duration::from_millis(200);
const MIN_PAUSE: Duration = Duration::from_millis(20);

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

/// The most that each page has ever acknowledged: it must never be less again in the end.
#[derive(Default)]
struct Acknowledged {
    worker_tokens: [u64; 2],
    worker_signed: [u64; 2],
    client_signed: u64,
}

impl Acknowledged {
    fn note(&mut self, fleet: &Fleet, process: usize) {
        let Some(stats) = fleet.processes[process].stats() else { return };
        let higher = |known: &mut u64, value: &Value| *known = (*known).max(value.as_u64().unwrap_or(0));
        match process {
            GATEWAY => {
                for channel in stats["settlement"]["channels"].as_array().into_iter().flatten() {
                    higher(&mut self.client_signed, &channel["tokens_signed"]);
                }
            }
            // The proxy's page shows its books before they are durable; what counts is what it told others.
            CHAIN | PROXY => {}
            worker => {
                let place = worker - WORKER;
                higher(&mut self.worker_tokens[place], &stats["earned"]["tokens"]);
                let due = &stats["settlement"]["proxies"][0];
                higher(&mut self.worker_signed[place], &due["signed_tokens"]);
            }
        }
    }
}

#[test]
fn whoever_is_killed_whenever_nothing_is_lost_and_nothing_is_paid_twice() {
    let seed = number("SEED").unwrap_or_else(rand::random);
    let kills = number("KILLS").map_or(KILLS, |kills| u32::try_from(kills).unwrap());
    #[allow(clippy::print_stderr)]
    let told = || eprintln!("SEED={seed} KILLS={kills}");
    told();
    let mut rng = StdRng::seed_from_u64(seed);
    let runtime = Runtime::new().unwrap();
    let mut fleet = Fleet::start(&runtime);
    fleet.wait_until_it_serves();

    let mut acknowledged = Acknowledged::default();
    let load = Load::start(&fleet.gateway_http(), CALLERS);
    let mut killed = [0_u32; 5];
    for _ in 0..kills {
        let moment = Instant::now() + rng.random_range(Duration::ZERO..LONGEST_PEACE);
        while Instant::now() < moment {
            fleet.revive();
            pause();
        }
        let victim = rng.random_range(0..fleet.processes.len());
        acknowledged.note(&fleet, victim);
        fleet.processes[victim].kill();
        fleet.processes[victim].start();
        killed[victim] += 1;
    }
    fleet.wait_until_it_serves();
    let seen = load.stop();
    let wrong = std::mem::take(&mut *seen.wrong.lock().unwrap());
    assert!(wrong.is_empty(), "neither complete nor an error: {wrong:?}");
    let counts = [&seen.answers, &seen.errors, &seen.broken].map(|count| count.load(Ordering::Relaxed));
    let ended: Vec<u32> = fleet.processes.iter().map(|process| process.ended).collect();
    #[allow(clippy::print_stderr)]
    let told = || eprintln!("killed {killed:?}, ended {ended:?}; answers, errors, broken: {counts:?}");
    told();
    assert!(counts[0] > u64::from(kills), "hardly anything went through: {counts:?}\n{}", fleet.tails());
    for process in &fleet.processes {
        assert!(!process.log().contains("panicked"), "{}: {}", process.name, fleet.tails());
    }

    let charged = books_agree(&mut fleet);
    // An answer reaches its caller a moment before its charge is durable. That moment is at the proxy's own risk.
    let [tokens, dearest] = [&seen.tokens, &seen.dearest].map(|count| count.load(Ordering::Relaxed));
    let at_risk = u64::from(killed[PROXY] * CALLERS) * dearest;
    assert!(charged + at_risk >= tokens, "{tokens} tokens in answers, {charged} charged, {at_risk} at risk");
    runtime.block_on(everybody_leaves(&mut fleet, &mut rng, &acknowledged, charged));
}

/// Waits until nothing is under way and the workers know of every token that the proxy has charged.
fn books_agree(fleet: &mut Fleet) -> u64 {
    let mut last = String::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        fleet.revive();
        let stats: Option<Vec<Value>> =
            fleet.processes[PROXY..GATEWAY].iter().map(|role| role.stats()).collect();
        if let Some(stats) = stats {
            let charged = stats[0]["books"]["charged_tokens"].as_u64().unwrap();
            let earned: u64 =
                stats[1..].iter().map(|worker| worker["earned"]["tokens"].as_u64().unwrap()).sum();
            if stats[0]["requests"]["in_flight"] == 0 && earned == charged {
                return charged;
            }
            last = format!(
                "in flight {}, charged {charged}, earned {earned}",
                stats[0]["requests"]["in_flight"]
            );
        }
        pause();
    }
    panic!("the books do not agree: {last}\n{}", fleet.tails());
}

/// Begins something a few times and breaks it off at a random moment, as a kill would.
async fn broken_off<F: Future>(rng: &mut StdRng, begin: impl Fn() -> F) {
    for _ in 0..BREAKS {
        // Where it was quick enough, it is done; that must not hurt either.
        let _ = tokio::time::timeout(rng.random_range(Duration::ZERO..LONGEST_PEACE), begin()).await;
    }
}

async fn everybody_leaves(fleet: &mut Fleet, rng: &mut StdRng, acknowledged: &Acknowledged, charged: u64) {
    let chain = Arc::new(fleet.view().await);
    fleet.processes[GATEWAY].kill();
    let leave = || cocoon_gateway::leave(gateway_way_out(fleet), chain.clone(), |_| {});
    broken_off(rng, leave).await;
    let left = tokio::time::timeout(LIMIT, leave()).await;
    let left = left.unwrap_or_else(|_| panic!("the gateway cannot leave:\n{}", fleet.tails())).unwrap();
    assert!(matches!(left.wallet, WalletEnd::Sent { .. }) && left.unpaid.is_empty(), "{left:?}");

    let mut signed = Vec::new();
    for (place, identity) in fleet.workers.clone().iter().enumerate() {
        fleet.processes[WORKER + place].kill();
        let leave = || cocoon_worker::leave(worker_way_out(identity), chain.clone(), 1, |_| {});
        broken_off(rng, leave).await;
        let left = tokio::time::timeout(LIMIT, leave()).await.unwrap().unwrap();
        let [due] = &left.proxies[..] else { panic!("one proxy, not {left:?}") };
        assert_eq!((due.paid_tokens, due.due_nanoton()), (Some(due.signed_tokens), Some(0)), "{left:?}");
        assert!(due.signed_tokens >= acknowledged.worker_signed[place], "an order was lost: {left:?}");
        assert!(due.signed_tokens >= acknowledged.worker_tokens[place], "an order was lost: {left:?}");
        signed.push(due.signed_tokens);
    }
    assert_eq!(signed.iter().sum::<u64>(), charged, "what was charged is what was signed to workers");

    fleet.processes[PROXY].kill();
    broken_off(rng, || wind_up(fleet, chain.clone())).await;
    wind_up(fleet, chain.clone()).await;
    // Half a year later, what nobody has claimed.
    fleet.advance(181 * 24 * 60 * 60);
    let address = fleet.proxy.wallet.address().to_raw_string();
    fleet.control("grant", &json!({"address": address, "amount": TON.to_string()}));
    wind_up(fleet, chain).await;
    fleet.processes[CHAIN].kill();
    count(fleet, acknowledged, charged, &signed).await;
}

fn worker_way_out(identity: &Identity) -> cocoon_worker::LeaveConfig {
    cocoon_worker::LeaveConfig {
        store: identity.ledger(),
        owner: identity.owner,
        settlement: cocoon_worker::SettlementConfig {
            wallet: identity.wallet.clone(),
            key: identity.key.clone(),
            policy: WorkerPolicy::default(),
            require_backing: true,
            poll: POLL,
            min_pause: MIN_PAUSE,
        },
        exit: true,
    }
}

fn gateway_way_out(fleet: &Fleet) -> cocoon_gateway::LeaveConfig {
    let identity = &fleet.gateway;
    cocoon_gateway::LeaveConfig {
        store: identity.ledger(),
        settlement: cocoon_gateway::SettlementConfig {
            wallet: identity.wallet.clone(),
            key: identity.key.clone(),
            policy: ClientPolicy::default(),
            poll: POLL,
            min_pause: MIN_PAUSE,
        },
    }
}

async fn wind_up(fleet: &Fleet, chain: Arc<dyn Chain>) {
    let identity = &fleet.proxy;
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let config = ProxyConfig {
        tracing: None,
        http: any,
        workers: any,
        clients: any,
        key_seed: zeroize::Zeroizing::new(identity.payment_key()),
        owner: identity.owner,
        wallet: identity.wallet.address(),
        root_address: fleet.root,
        is_test: true,
        is_testnet: false,
        check_worker_hashes: false,
        trust_long_authorization: false,
        extensions: true,
        max_body_bytes: cocoon_proxy::DEFAULT_MAX_BODY_BYTES,
        store: identity.ledger(),
        settlement: Some(cocoon_proxy::SettlementConfig {
            wallet: identity.wallet.clone(),
            key: identity.key.clone(),
            policy: ProxyPolicy::default(),
            poll: POLL,
            min_pause: MIN_PAUSE,
        }),
        listener: cocoon_net::ListenerOptions::default(),
    };
    let mut steps = Vec::new();
    let progress = |step| {
        if matches!(step, WindUpStep::Waiting { .. }) {
            fleet.advance(CLIENT_DELAY.max(PROXY_DELAY) + 1);
        }
        steps.push(step);
    };
    let winding = cocoon_proxy::wind_up(config, chain, progress);
    let outcome = tokio::time::timeout(LIMIT, winding).await;
    match outcome {
        Ok(outcome) => drop(outcome.unwrap()),
        Err(_) => panic!("the proxy cannot wind up: {steps:?}"),
    }
}

/// With everybody gone, the chain's file tells what really happened.
async fn count(fleet: &Fleet, acknowledged: &Acknowledged, charged: u64, signed: &[u64]) {
    let path = fleet.dir.path().join("chain").join("chain.sqlite");
    let chain = LocalChain::open(&Options { path: Some(path), ..Options::default() }).unwrap();
    let rooted = chain.follow_root(fleet.root).await.unwrap();
    let params = rooted.subscribe_root().borrow().params.clone();
    let key = cocoon_ton::SigningKey::from_bytes(&fleet.proxy.payment_key()).verifying_key().to_bytes();
    let proxy =
        cocoon_ton::proxy_state_init(&params, &fleet.root, &fleet.proxy.owner, &key).unwrap().address();
    let flows = Flows::of(&rooted, proxy).await;

    let (&contract, &paid_in) = flows.paid_in.first_key_value().unwrap();
    assert_eq!(flows.paid_in.len(), 1, "one client");
    let state = client(&rooted, contract).await;
    assert_eq!((state.status, state.balance_nanoton), (ContractStatus::Closed, 0));
    assert_eq!(state.tokens_used, charged, "every token of the books is charged once");
    assert!(state.tokens_used >= acknowledged.client_signed);
    let refunded = flows.paid_to(fleet.gateway.wallet.address());
    assert_eq!(paid_in, charged * PRICE + refunded, "the client has back what it did not use");
    assert!(charged * PRICE < TON || paid_in > TON, "nothing was topped up");

    let mut paid_tokens = Vec::new();
    for identity in &fleet.workers {
        let received = flows.paid_to(identity.owner);
        assert_eq!(received % FEE, 0);
        paid_tokens.push(received / FEE);
    }
    assert_eq!(paid_tokens, signed, "every token is paid once");
    assert_eq!(flows.workers.len(), signed.len());
    for contract in &flows.workers {
        let state = worker(&rooted, *contract).await;
        assert!(signed.contains(&state.tokens), "{state:?}");
    }
    let earned = flows.paid_to(fleet.proxy.owner);
    assert!(earned >= charged * (PRICE - FEE), "{earned} is less than the proxy's part of {charged} tokens");
    let left = rooted.account_state(proxy).await.unwrap().balance_nanoton;
    assert!(left < TON / 10, "{left} is left in the proxy contract");

    let supply = chain.supply().await.unwrap();
    assert_eq!(supply.total_nanoton(), SUPPLY_NANOTON, "a coin is missing, or one is too many");
    assert_eq!(supply.queue_nanoton, 0);
    drop(rooted);
    chain.close().await;
}

/// Between two looks at what runs; the kills themselves come at random moments.
#[allow(clippy::disallowed_methods)]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}
