//! The planners against real contracts on a real virtual machine: a proxy, clients and workers that use, lose messages, forget
//! everything, and leave, in random order. At the end everybody has what is theirs, and no contract holds a coin.
//!
//! `RUNS=1000 cargo test -p cocoon-settle --test life` runs more of them; `SEED=17` repeats one.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::sync::Arc;

use cocoon_localchain::{ChainConfig, Core, ExternalMessage, SUPPLY_NANOTON};
use cocoon_settle::client::{self, ClientChannel, ClientPolicy, ClientView};
use cocoon_settle::proxy::{
    self, Books, ClientAccount, Closing, Commits, ProxyPolicy, ProxyView, WorkerAccount,
};
use cocoon_settle::worker::{self, WorkerChannel, WorkerPolicy};
use cocoon_settle::{Plan, Purpose, Transfer, WalletFunds};
use cocoon_ton::contracts::{
    ClientState, ContractStatus, ProxyState, RootParams, StateInit, StructVersion, WorkerState,
    client_state_init, proxy_state_init, worker_state_init,
};
use cocoon_ton::message::Body;
use cocoon_ton::payment::{OrderKind, PaymentOrder, ProxyCloseKind, SignedPayment, SignedProxyClose};
use cocoon_ton::wallet::{OutMessage, Wallet};
use cocoon_ton::{Address, SigningKey, code};
use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};

const TON: u64 = 1_000_000_000;
const START: u32 = 1_780_000_000;
const PRICE: u64 = 2000;
const FEE: u64 = 1700;
/// No message costs more in fees; see contracts/GAS.md.
const FEE_PER_MESSAGE: u64 = 40_000_000;
/// What the chain takes from an owner's own account for its storage in all the years of a run.
const OWN_STORAGE: u64 = 100_000;

fn params() -> RootParams {
    RootParams {
        struct_version: StructVersion::V3,
        params_version: 1,
        unique_id: 7,
        is_test: true,
        price_per_token_nanoton: PRICE,
        worker_fee_per_token_nanoton: FEE,
        prompt_tokens_price_multiplier: 10_000,
        cached_tokens_price_multiplier: 10_000,
        completion_tokens_price_multiplier: 10_000,
        reasoning_tokens_price_multiplier: 10_000,
        proxy_delay_before_close_seconds: 600,
        client_delay_before_close_seconds: 300,
        min_proxy_stake_nanoton: TON,
        min_client_stake_nanoton: TON,
        proxy_code: Some(code::proxy().clone()),
        worker_code: Some(code::worker().clone()),
        client_code: Some(code::client().clone()),
    }
}

/// What becomes of the message that a round signs.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Arrives,
    Lost,
    /// Arrives, but late: another round with the same number comes first.
    Overtaken,
}

struct World {
    core: Core,
    now: u32,
    random: TestRng,
    /// External messages that are still under way.
    late: Vec<ExternalMessage>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self {
            core: Core::new(Arc::new(ChainConfig::new().unwrap()), START).unwrap(),
            now: START,
            random: TestRng::from_seed(RngAlgorithm::ChaCha, &bytes),
            late: Vec::new(),
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random.next_u64() % limit
    }

    fn block(&mut self) {
        self.core.produce_block(self.now).unwrap();
        assert_eq!(self.core.supply().unwrap().total_nanoton(), SUPPLY_NANOTON);
    }

    fn grant(&mut self, to: Address, nanoton: u64) {
        self.core.grant(to, nanoton).unwrap();
        self.block();
    }

    fn held(&self, address: Address) -> u64 {
        self.core.account(address).unwrap().balance_nanoton
    }

    fn read<T, E: std::fmt::Debug>(
        &self,
        address: Address,
        read: impl FnOnce(&cocoon_ton::Cell) -> Result<T, E>,
    ) -> Option<T> {
        self.core.account(address).unwrap().data.map(|data| read(&data).unwrap())
    }

    /// Everything late arrives now. What was overtaken is refused.
    fn arrive(&mut self) {
        for message in std::mem::take(&mut self.late) {
            let _ = self.core.submit(message, self.now);
        }
        self.block();
    }
}

struct Node {
    wallet: Wallet,
    key: SigningKey,
    granted: u64,
    sent: u64,
}

impl Node {
    fn new(world: &mut World, number: u8, nanoton: u64) -> Self {
        let key = SigningKey::from_bytes(&[number; 32]);
        let owner = Address::basechain([number; 32]);
        let wallet = Wallet::cocoon(key.verifying_key().to_bytes(), owner);
        world.grant(wallet.address(), nanoton);
        Self { wallet, key, granted: nanoton, sent: 0 }
    }

    fn address(&self) -> Address {
        self.wallet.address()
    }

    fn funds(&self, world: &World) -> WalletFunds {
        WalletFunds {
            address: self.address(),
            balance_nanoton: world.held(self.address()),
            max_messages: self.wallet.max_messages(),
        }
    }

    /// Signs a plan with the number that the wallet has now, and sends it or not.
    fn carry_out(&mut self, world: &mut World, plan: Plan, fate: Fate) -> Vec<Transfer> {
        let plan = plan.fit(&self.funds(world));
        if plan.transfers.is_empty() {
            return Vec::new();
        }
        let seqno = world.read(self.address(), |data| self.wallet.seqno_from_data(data)).unwrap_or(0);
        let messages: Vec<_> = plan
            .transfers
            .iter()
            .map(|transfer| OutMessage {
                to: transfer.to,
                value_nanoton: transfer.value_nanoton,
                bounce: true,
                mode: 3,
                init: transfer.init.clone(),
                body: Some(transfer.body.to_cell()),
            })
            .collect();
        let signed = self.wallet.sign(&self.key, seqno, world.now + 60, &messages).unwrap();
        let message = ExternalMessage::from_cell(signed).unwrap();
        match fate {
            Fate::Lost => {}
            Fate::Overtaken => world.late.push(message),
            Fate::Arrives => {
                world.core.submit(message, world.now).unwrap();
                world.block();
                self.sent += messages.len() as u64;
            }
        }
        plan.transfers
    }
}

/// The books of the proxy: what is durable.
struct TestBooks {
    key: SigningKey,
    wallet: Address,
    clients: BTreeMap<Address, (u64, bool)>,
    workers: BTreeMap<Address, (u64, bool)>,
}

impl TestBooks {
    fn order(&self, kind: OrderKind, contract: Address, tokens: u64) -> SignedPayment {
        let excesses_to = self.wallet;
        PaymentOrder { kind, contract, query_id: tokens, tokens, excesses_to }.sign(&self.key)
    }
}

impl Books for TestBooks {
    fn charge(&mut self, client: &Address) -> Option<SignedPayment> {
        let (tokens, _) = self.clients.get(client)?;
        Some(self.order(OrderKind::ChargeClient, *client, *tokens))
    }

    fn close_client(&mut self, client: &Address) -> Closing {
        let entry = self.clients.entry(*client).or_default();
        entry.1 = true;
        let tokens = entry.0;
        Closing::Done(self.order(OrderKind::RefundClient, *client, tokens))
    }

    fn close_worker(&mut self, worker: &Address) -> Closing {
        let entry = self.workers.entry(*worker).or_default();
        entry.1 = true;
        let tokens = entry.0;
        Closing::Done(self.order(OrderKind::PayWorkerLast, *worker, tokens))
    }

    fn close_proxy(&mut self, proxy: &Address, complete: bool) -> Body {
        let kind = if complete { ProxyCloseKind::Complete } else { ProxyCloseKind::Close };
        Body::SignedProxyClose(SignedProxyClose::sign(&self.key, kind, *proxy, 1, self.wallet))
    }
}

struct Party {
    node: Node,
    contract: Address,
    init: StateInit,
    intent: client::Intent,
    gone: bool,
}

struct Market {
    world: World,
    proxy: Node,
    proxy_gone: bool,
    proxy_intent: proxy::Intent,
    proxy_contract: Address,
    proxy_init: StateInit,
    books: TestBooks,
    clients: Vec<Party>,
    workers: Vec<Party>,
    commits: Commits,
    position: u64,
}

impl Market {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed);
        let params = params();
        let root = Address::basechain([200; 32]);
        let key = SigningKey::from_bytes(&[201; 32]);
        let public = key.verifying_key().to_bytes();
        let proxy = Node::new(&mut world, 1, 20 * TON);
        let owner = proxy.wallet.owner().unwrap();
        let proxy_init = proxy_state_init(&params, &root, &owner, &public).unwrap();
        let proxy_contract = proxy_init.address();
        let books =
            TestBooks { key, wallet: proxy.address(), clients: BTreeMap::new(), workers: BTreeMap::new() };
        let mut party = |number: u8, client: bool| {
            let node = Node::new(&mut world, number, 12 * TON);
            let init = if client {
                client_state_init(&params, &node.address(), &proxy_contract, &public)
            } else {
                worker_state_init(&params, &node.wallet.owner().unwrap(), &proxy_contract, &public)
            }
            .unwrap();
            Party { contract: init.address(), init, node, intent: client::Intent::Use, gone: false }
        };
        let clients = (10..12).map(|number| party(number, true)).collect();
        let workers = (20..22).map(|number| party(number, false)).collect();
        Self {
            world,
            proxy,
            proxy_gone: false,
            proxy_intent: proxy::Intent::Serve,
            proxy_contract,
            proxy_init,
            books,
            clients,
            workers,
            commits: Commits::default(),
            position: 0,
        }
    }

    fn proxy_state(&self) -> Option<ProxyState> {
        self.world.read(self.proxy_contract, ProxyState::from_data)
    }

    fn client_state(&self, index: usize) -> Option<ClientState> {
        self.world.read(self.clients[index].contract, ClientState::from_data)
    }

    fn worker_state(&self, index: usize) -> Option<WorkerState> {
        self.world.read(self.workers[index].contract, WorkerState::from_data)
    }

    fn proxy_round(&mut self, fate: Fate) -> Plan {
        let state = self.proxy_state();
        let clients: Vec<_> = (0..self.clients.len())
            .map(|index| {
                let contract = self.clients[index].contract;
                ClientAccount {
                    contract,
                    state: self.client_state(index),
                    held_nanoton: self.world.held(contract),
                    signed_tokens: self.books.clients.get(&contract).map_or(0, |entry| entry.0),
                }
            })
            .collect();
        let workers: Vec<_> = (0..self.workers.len())
            .map(|index| {
                let contract = self.workers[index].contract;
                let held_nanoton = self.world.held(contract);
                WorkerAccount { contract, state: self.worker_state(index), held_nanoton }
            })
            .collect();
        let view = ProxyView {
            now: u64::from(self.world.now),
            wallet: self.proxy.address(),
            contract: self.proxy_contract,
            init: &self.proxy_init,
            min_stake_nanoton: params().min_proxy_stake_nanoton,
            state: state.as_ref(),
            held_nanoton: self.world.held(self.proxy_contract),
            clients: &clients,
            workers: &workers,
            commits: self.commits,
            position: self.position,
            intent: self.proxy_intent,
            query_id: 1,
        };
        let plan = proxy::plan(&ProxyPolicy::default(), &view, &mut self.books);
        let sent = self.proxy.carry_out(&mut self.world, plan.clone(), fate);
        for transfer in sent {
            if let Purpose::Commit { seqno } = transfer.purpose
                && fate == Fate::Arrives
            {
                let unix_time = u64::from(self.world.now);
                self.commits = Commits { seqno, position: self.position, unix_time };
            }
        }
        plan
    }

    fn client_round(&mut self, index: usize, fate: Fate) -> Plan {
        let proxy = self.proxy_state();
        let party = &self.clients[index];
        let signed = self.books.clients.get(&party.contract).copied();
        let channel = ClientChannel {
            contract: party.contract,
            init: party.init.clone(),
            min_stake_nanoton: params().min_client_stake_nanoton,
            state: self.client_state(index),
            held_nanoton: self.world.held(party.contract),
            proxy,
            proxy_held_nanoton: self.world.held(self.proxy_contract),
            charge: signed
                .map(|(tokens, _)| self.books.order(OrderKind::ChargeClient, party.contract, tokens)),
            refund: None,
            registration: None,
            secret_hash: [5; 32],
            intent: party.intent,
        };
        let policy = ClientPolicy { budget_nanoton: 6 * TON, ..ClientPolicy::default() };
        let view = ClientView {
            now: u64::from(self.world.now),
            wallet: party.node.address(),
            channels: &[channel],
            query_id: 2,
        };
        let plan = client::plan(&policy, &view);
        self.clients[index].node.carry_out(&mut self.world, plan.clone(), fate);
        plan
    }

    fn worker_round(&mut self, index: usize, wanted: Option<u64>, fate: Fate) -> Plan {
        let party = &self.workers[index];
        let tokens = self.books.workers.get(&party.contract).map_or(0, |entry| entry.0);
        let channel = WorkerChannel {
            contract: party.contract,
            init: party.init.clone(),
            state: self.worker_state(index),
            held_nanoton: self.world.held(party.contract),
            order: (tokens > 0).then(|| self.books.order(OrderKind::PayWorker, party.contract, tokens)),
            fee_per_token_nanoton: FEE,
            proxy_status: self.proxy_state().map(|state| state.status),
            proxy_held_nanoton: self.world.held(self.proxy_contract),
            wanted_from_nanoton: wanted,
        };
        let plan = worker::plan(&WorkerPolicy::default(), &channel, &party.node.address());
        self.workers[index].node.carry_out(&mut self.world, plan.clone(), fate);
        plan
    }

    /// A request, if the proxy may take it: what the session machine decides.
    fn use_tokens(&mut self) {
        let (client, worker) = (self.world.below(2) as usize, self.world.below(2) as usize);
        let tokens = 1 + self.world.below(200_000);
        let open = self.proxy_state().is_some_and(|state| state.status == ContractStatus::Open);
        let Some(state) = self.client_state(client) else { return };
        let (contract, worker) = (self.clients[client].contract, self.workers[worker].contract);
        let entry = self.books.clients.entry(contract).or_default();
        let allowed = state.balance_nanoton.min(state.stake_nanoton) + state.tokens_used * PRICE;
        if !open || self.proxy_gone || entry.1 || state.status != ContractStatus::Open {
            return;
        }
        if (entry.0 + tokens) * PRICE > allowed {
            return;
        }
        entry.0 += tokens;
        self.books.workers.entry(worker).or_default().0 += tokens;
        self.position += 1;
    }

    fn fate(&mut self) -> Fate {
        match self.world.below(4) {
            0 => Fate::Lost,
            1 => Fate::Overtaken,
            _ => Fate::Arrives,
        }
    }

    fn step(&mut self) {
        let fate = self.fate();
        match self.world.below(12) {
            0..=3 => self.use_tokens(),
            4 | 5 if !self.proxy_gone => drop(self.proxy_round(fate)),
            6 | 7 => {
                let index = self.world.below(2) as usize;
                if !self.clients[index].gone {
                    self.client_round(index, fate);
                }
            }
            8 => {
                let index = self.world.below(2) as usize;
                let wanted = (self.world.below(2) == 0).then_some(1);
                if !self.workers[index].gone {
                    self.worker_round(index, wanted, fate);
                }
            }
            9 => self.world.arrive(),
            10 => self.world.now += self.world.random.next_u32() % 400,
            _ => {}
        }
    }

    /// Everybody who is still there leaves, and time passes until nobody has anything to do.
    fn wind_up(&mut self) {
        self.proxy_intent = proxy::Intent::WindUp;
        for client in &mut self.clients {
            client.intent = client::Intent::Leave;
        }
        let mut idle = 0;
        for _ in 0..200 {
            let mut finished = true;
            for index in 0..2 {
                if !self.clients[index].gone {
                    finished &= self.client_round(index, Fate::Arrives).finished;
                }
                if !self.workers[index].gone {
                    finished &= self.worker_round(index, Some(1), Fate::Arrives).finished;
                }
            }
            if !self.proxy_gone {
                finished &= self.proxy_round(Fate::Arrives).finished;
            }
            self.world.arrive();
            if finished {
                idle += 1;
                if idle > 2 {
                    return;
                }
            } else {
                idle = 0;
            }
            let days = if self.world.below(3) == 0 { 60 * 86_400 } else { 200 };
            self.world.now += days;
        }
        panic!("somebody never comes to an end");
    }
}

fn seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse().ok());
    match number("SEED") {
        Some(seed) => vec![seed],
        None => (0..number("RUNS").unwrap_or(40)).collect(),
    }
}

#[test]
fn everybody_gets_what_is_theirs_whatever_is_lost_on_the_way() {
    for seed in seeds() {
        eprintln!("SEED={seed}");
        let mut market = Market::new(seed);
        for _ in 0..150 {
            market.step();
        }
        market.wind_up();
        let signed = |map: &BTreeMap<Address, (u64, bool)>| map.values().map(|entry| entry.0).sum::<u64>();
        assert_eq!(signed(&market.books.clients), signed(&market.books.workers));
        for (index, client) in market.clients.iter().enumerate() {
            let used = market.books.clients.get(&client.contract).map_or(0, |entry| entry.0);
            let back = market.world.held(client.node.address());
            let lost = client.node.granted - back;
            let fees = lost.checked_sub(used * PRICE).expect("a client paid less than it used");
            assert!(
                fees <= (client.node.sent + 4) * FEE_PER_MESSAGE,
                "client {index} lost {fees} beside its use of {used} in {} messages",
                client.node.sent
            );
        }
        for (index, worker) in market.workers.iter().enumerate() {
            let earned = market.books.workers.get(&worker.contract).map_or(0, |entry| entry.0) * FEE;
            let paid = market.world.held(worker.node.wallet.owner().unwrap());
            // Its contract's reserve comes back as well.
            assert!(
                (earned..=earned + 300_000_000).contains(&(paid + OWN_STORAGE)),
                "worker {index} earned {earned} and got {paid}"
            );
        }
        let rest = market.world.held(market.proxy_contract);
        assert!(rest < 60_000_000, "the proxy contract keeps {rest}");
        for party in market.clients.iter().chain(&market.workers) {
            let rest = market.world.held(party.contract);
            assert!(rest < 60_000_000, "a contract keeps {rest}");
        }
    }
}

#[test]
fn a_proxy_that_disappears_takes_nothing_along() {
    for seed in seeds() {
        eprintln!("SEED={seed}");
        let mut market = Market::new(seed);
        for _ in 0..100 {
            market.step();
        }
        market.proxy_gone = true;
        for _ in 0..20 {
            market.step();
        }
        market.wind_up();
        let mut uncharged = 0;
        for (index, client) in market.clients.iter().enumerate() {
            let used = market.books.clients.get(&client.contract).map_or(0, |entry| entry.0);
            let charged = market.client_state(index).map_or(0, |state| state.tokens_used);
            uncharged += (used - charged) * PRICE;
            let lost = client.node.granted - market.world.held(client.node.address());
            let fees = lost.checked_sub(charged * PRICE).expect("a client paid less than it was charged");
            assert!(fees <= (client.node.sent + 4) * FEE_PER_MESSAGE, "client {index} lost {fees}");
        }
        // What nobody charged is covered by the stake, so that workers are paid all the same.
        for (index, worker) in market.workers.iter().enumerate() {
            let earned = market.books.workers.get(&worker.contract).map_or(0, |entry| entry.0) * FEE;
            let paid = market.world.held(worker.node.wallet.owner().unwrap());
            let lacking = earned.saturating_sub(paid + OWN_STORAGE);
            assert!(
                lacking <= uncharged,
                "worker {index} earned {earned}, got {paid}, uncharged {uncharged}"
            );
        }
    }
}
