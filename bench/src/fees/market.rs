//! One proxy, its clients and its workers, through a month: every message on chain is executed, requests off chain are
//! added up.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use cocoon_localchain::ChainConfig;
use cocoon_settle::client::{self, ClientChannel, ClientPolicy, ClientView};
use cocoon_settle::proxy::{
    self, Books, ClientAccount, Closing, Commits, ProxyPolicy, ProxyView, WorkerAccount,
};
use cocoon_settle::worker::{self, WorkerChannel, WorkerPolicy};
use cocoon_settle::{Plan, Purpose};
use cocoon_ton::contracts::{
    ClientState, ContractStatus, ProxyState, RootParams, StateInit, StructVersion, WorkerState,
    client_state_init, proxy_state_init, worker_state_init,
};
use cocoon_ton::message::Body;
use cocoon_ton::payment::{OrderKind, PaymentOrder, ProxyCloseKind, SignedPayment, SignedProxyClose};
use cocoon_ton::{Address, NANOTON_PER_TON, SigningKey, code};

use super::Scenario;
use super::world::{Node, Tallies, World, seed};

/// Hours of a month of 30 days.
const HOURS: u32 = 720;
const HOUR_SECONDS: u32 = 3600;
/// How many looks of a client, or of the proxy at it, fit between two charges.
const LOOKS_PER_CHARGE: u64 = 20;
/// Rounds after which everybody must have come to rest.
const MAX_ROUNDS: usize = 10_000;
/// Numbers of the wallets' keys: the proxy's, then clients' and workers' from these on.
const FIRST_CLIENT: u32 = 1_000;
const FIRST_WORKER: u32 = 1_000_000;

fn params(scenario: &Scenario) -> RootParams {
    RootParams {
        struct_version: StructVersion::V3,
        params_version: 1,
        unique_id: 7,
        is_test: true,
        price_per_token_nanoton: scenario.price_nanoton,
        worker_fee_per_token_nanoton: scenario.worker_fee_nanoton,
        prompt_tokens_price_multiplier: 10_000,
        cached_tokens_price_multiplier: 10_000,
        completion_tokens_price_multiplier: 10_000,
        reasoning_tokens_price_multiplier: 10_000,
        proxy_delay_before_close_seconds: 600,
        client_delay_before_close_seconds: 300,
        min_proxy_stake_nanoton: NANOTON_PER_TON,
        min_client_stake_nanoton: scenario.stake_nanoton,
        proxy_code: Some(code::proxy().clone()),
        worker_code: Some(code::worker().clone()),
        client_code: Some(code::client().clone()),
    }
}

/// What the proxy signs. Here nothing is ever under way when it signs.
struct Ledger {
    key: SigningKey,
    wallet: Address,
    /// Tokens of each client and worker, by contract.
    tokens: HashMap<Address, u64>,
}

impl Ledger {
    fn order(&self, kind: OrderKind, contract: Address) -> SignedPayment {
        let (tokens, excesses_to) = (self.tokens(&contract), self.wallet);
        PaymentOrder { kind, contract, query_id: tokens, tokens, excesses_to }.sign(&self.key)
    }

    fn tokens(&self, contract: &Address) -> u64 {
        self.tokens.get(contract).copied().unwrap_or(0)
    }
}

impl Books for Ledger {
    fn charge(&mut self, client: &Address) -> Option<SignedPayment> {
        Some(self.order(OrderKind::ChargeClient, *client))
    }

    fn close_client(&mut self, client: &Address) -> Closing {
        Closing::Done(self.order(OrderKind::RefundClient, *client))
    }

    fn close_worker(&mut self, worker: &Address) -> Closing {
        Closing::Done(self.order(OrderKind::PayWorkerLast, *worker))
    }

    fn close_proxy(&mut self, proxy: &Address, complete: bool) -> Body {
        let kind = if complete { ProxyCloseKind::Complete } else { ProxyCloseKind::Close };
        Body::SignedProxyClose(SignedProxyClose::sign(&self.key, kind, *proxy, 1, self.wallet))
    }
}

struct Party<S> {
    node: Node,
    contract: Address,
    init: StateInit,
    state: Option<S>,
    held: u64,
    /// Tokens at the last look. Looking again before much has changed would change nothing.
    looked_at: u64,
}

impl<S> Party<S> {
    fn new(node: Node, init: StateInit) -> Self {
        Self { contract: init.address(), node, init, state: None, held: 0, looked_at: 0 }
    }
}

/// What the fees of a month were, in nanoton, by who paid them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fees {
    pub(super) clients: u64,
    pub(super) workers: u64,
    pub(super) proxy: u64,
}

impl Fees {
    pub(super) const fn total(&self) -> u64 {
        self.clients + self.workers + self.proxy
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            clients: self.clients - before.clients,
            workers: self.workers - before.workers,
            proxy: self.proxy - before.proxy,
        }
    }
}

/// What a run came to.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    /// What deploying everything cost, before the first request.
    pub(super) setup: Fees,
    /// What the month cost after that.
    pub(super) month: Fees,
    pub(super) tallies: Tallies,
    pub(super) transactions: u64,
}

/// All of a run.
pub(super) struct Market {
    world: World,
    scenario: Scenario,
    params: RootParams,
    ledger: Ledger,
    proxy: Node,
    proxy_contract: Address,
    proxy_init: StateInit,
    clients: Vec<Party<ClientState>>,
    workers: Vec<Party<WorkerState>>,
    by_contract: HashMap<Address, usize>,
    commits: Commits,
    position: u64,
    intents: (proxy::Intent, client::Intent),
    pub(super) tallies: Tallies,
}

impl Market {
    pub(super) fn new(config: Arc<ChainConfig>, scenario: Scenario) -> anyhow::Result<Self> {
        let mut world = World::new(config)?;
        let params = params(&scenario);
        let key = SigningKey::from_bytes(&seed(b'p', 0));
        let public = key.verifying_key().to_bytes();
        let turnover = scenario.turnover_nanoton();
        // The proxy's fees come out of its wallet; its earnings go to its owner.
        let proxy = Node::new(&mut world, 0, 100 * NANOTON_PER_TON + turnover / 5)?;
        let proxy_init =
            proxy_state_init(&params, &Address::basechain(seed(b'r', 0)), &proxy.owner()?, &public)?;
        let proxy_contract = proxy_init.address();
        let mut clients = Vec::new();
        let each = turnover / u64::from(scenario.clients);
        let purse = each + each / 5 + 2 * scenario.deposit_nanoton + 5 * NANOTON_PER_TON;
        for number in 0..scenario.clients {
            let node = Node::new(&mut world, FIRST_CLIENT + number, purse)?;
            let init = client_state_init(&params, &node.address(), &proxy_contract, &public)?;
            clients.push(Party::new(node, init));
        }
        let mut workers = Vec::new();
        let purse = 5 * NANOTON_PER_TON + turnover / u64::from(scenario.workers) / 20;
        for number in 0..scenario.workers {
            let node = Node::new(&mut world, FIRST_WORKER + number, purse)?;
            let init = worker_state_init(&params, &node.owner()?, &proxy_contract, &public)?;
            workers.push(Party::new(node, init));
        }
        let named = |(index, contract)| (contract, index);
        let by_contract = clients.iter().map(|party| party.contract).enumerate().map(named);
        let by_contract =
            by_contract.chain(workers.iter().map(|party| party.contract).enumerate().map(named)).collect();
        Ok(Self {
            ledger: Ledger { key, wallet: proxy.address(), tokens: HashMap::new() },
            world,
            scenario,
            params,
            proxy,
            proxy_contract,
            proxy_init,
            clients,
            workers,
            by_contract,
            commits: Commits::default(),
            position: 0,
            intents: (proxy::Intent::Serve, client::Intent::Use),
            tallies: Tallies::default(),
        })
    }

    /// The whole month.
    pub(super) fn run(&mut self) -> anyhow::Result<Outcome> {
        self.settle_proxy()?;
        for index in 0..self.clients.len() {
            self.settle_client(index)?;
        }
        self.check()?;
        let setup = self.fees()?;
        let looks = self.looks_per_hour();
        for hour in 0..HOURS {
            for look in 1..=looks {
                self.world.now += HOUR_SECONDS / looks;
                self.serve(u64::from(hour * looks + look), u64::from(HOURS * looks))?;
                self.settle()?;
            }
            // What division has cut off.
            self.world.now += HOUR_SECONDS % looks;
        }
        self.check()?;
        let month = self.fees()?.since(&setup);
        let transactions = self.world.transactions;
        Ok(Outcome { setup, month, tallies: self.tallies.clone(), transactions })
    }

    /// Everybody leaves, so that the steps of that can be seen too.
    pub(super) fn wind_up(&mut self) -> anyhow::Result<()> {
        self.intents.1 = client::Intent::Leave;
        for _ in 0..2 {
            (0..self.clients.len()).try_for_each(|index| self.settle_client(index))?;
            self.settle_proxy()?;
        }
        self.intents.0 = proxy::Intent::WindUp;
        for _ in 0..2 {
            self.settle_proxy()?;
            self.world.now += self.params.proxy_delay_before_close_seconds + 1;
        }
        let state = self.world.read(self.proxy_contract, ProxyState::from_data)?;
        let closed = state.is_some_and(|state| state.status == ContractStatus::Closed);
        ensure!(closed, "the proxy contract did not close");
        self.check()
    }

    /// What a year of storage costs each kind of account, in nanoton, by name.
    pub(super) fn storage_year(&mut self) -> anyhow::Result<Vec<(&'static str, u64)>> {
        let (client, worker) = (&self.clients[0], &self.workers[0]);
        let accounts = [
            ("wallet", client.node.address()),
            ("client contract", client.contract),
            ("worker contract", worker.contract),
            ("proxy contract", self.proxy_contract),
        ];
        let mut years = Vec::new();
        for (name, address) in accounts {
            let mut touch = |wait: u32| {
                self.world.now += wait;
                let before = self.world.collected();
                self.world.grant(address, NANOTON_PER_TON)?;
                anyhow::Ok(self.world.collected() - before)
            };
            touch(0)?;
            let touching = touch(0)?;
            years.push((name, touch(365 * 24 * HOUR_SECONDS)? - touching));
        }
        self.clients[0].node.granted += 6 * NANOTON_PER_TON;
        self.workers[0].node.granted += 3 * NANOTON_PER_TON;
        self.proxy.granted += 3 * NANOTON_PER_TON;
        let changed = accounts.map(|(_, address)| address);
        self.refresh(&changed)?;
        Ok(years)
    }

    /// So many that a client's use between two of them is a small part of what is charged at once.
    fn looks_per_hour(&self) -> u32 {
        let at_once = self.params.min_client_stake_nanoton / 100 * self.scenario.charge_at_percent;
        let hourly = self.scenario.turnover_nanoton() / u64::from(self.scenario.clients) / u64::from(HOURS);
        let looks = hourly.div_ceil(at_once / LOOKS_PER_CHARGE).clamp(1, u64::from(HOUR_SECONDS));
        u32::try_from(looks).unwrap_or(HOUR_SECONDS)
    }

    /// All requests of the month up to this part of it, spread evenly over clients and workers.
    fn serve(&mut self, part: u64, parts: u64) -> anyhow::Result<()> {
        let requests = u128::from(self.scenario.requests) * u128::from(part) / u128::from(parts);
        let requests = u64::try_from(requests)?;
        let tokens = self.scenario.tokens_per_request;
        // Of requests dealt out in turns, those that fell to this one.
        let dealt = |index: usize, among: usize| {
            let (index, among) = (index as u64, among as u64);
            (requests + among - 1 - index) / among * tokens
        };
        for (index, client) in self.clients.iter().enumerate() {
            let used = dealt(index, self.clients.len());
            self.ledger.tokens.insert(client.contract, used);
            let state = client.state.as_ref().context("a channel did not open")?;
            // The proxy would have the client wait.
            let uncharged = (used - state.tokens_used) * self.scenario.price_nanoton;
            ensure!(
                uncharged <= state.balance_nanoton.min(state.stake_nanoton),
                "a client used {uncharged} nanoton without a charge: looks are too far apart"
            );
        }
        for (index, worker) in self.workers.iter().enumerate() {
            self.ledger.tokens.insert(worker.contract, dealt(index, self.workers.len()));
        }
        self.position = requests;
        Ok(())
    }

    fn settle(&mut self) -> anyhow::Result<()> {
        self.settle_proxy()?;
        let step = self.scenario.deposit_nanoton / LOOKS_PER_CHARGE / self.scenario.price_nanoton;
        for index in 0..self.clients.len() {
            let client = &self.clients[index];
            if self.ledger.tokens(&client.contract) >= client.looked_at + step {
                self.settle_client(index)?;
            }
        }
        let step = self.scenario.payout_nanoton / LOOKS_PER_CHARGE / self.scenario.worker_fee_nanoton;
        for index in 0..self.workers.len() {
            let worker = &self.workers[index];
            if self.ledger.tokens(&worker.contract) >= worker.looked_at + step {
                self.settle_worker(index)?;
            }
        }
        Ok(())
    }

    fn settle_proxy(&mut self) -> anyhow::Result<()> {
        for _ in 0..MAX_ROUNDS {
            let plan = self.plan_proxy()?;
            let Some(sent) = self.proxy.carry_out(&mut self.world, plan)? else { return Ok(()) };
            for transfer in &sent.transfers {
                if let Purpose::Commit { seqno } = transfer.purpose {
                    let unix_time = u64::from(self.world.now);
                    self.commits = Commits { seqno, position: self.position, unix_time };
                }
            }
            self.tallies.add("proxy", &sent);
            self.refresh(&sent.touched)?;
        }
        anyhow::bail!("the proxy never comes to rest")
    }

    fn plan_proxy(&mut self) -> anyhow::Result<Plan> {
        let state = self.world.read(self.proxy_contract, ProxyState::from_data)?;
        let account = |client: &Party<ClientState>| ClientAccount {
            contract: client.contract,
            state: client.state.clone(),
            held_nanoton: client.held,
            signed_tokens: self.ledger.tokens(&client.contract),
        };
        let clients: Vec<_> = self.clients.iter().map(account).collect();
        let account = |worker: &Party<WorkerState>| WorkerAccount {
            contract: worker.contract,
            state: worker.state.clone(),
            held_nanoton: worker.held,
        };
        let workers: Vec<_> = self.workers.iter().map(account).collect();
        let view = ProxyView {
            now: u64::from(self.world.now),
            wallet: self.proxy.address(),
            contract: self.proxy_contract,
            init: &self.proxy_init,
            min_stake_nanoton: self.params.min_proxy_stake_nanoton,
            state: state.as_ref(),
            held_nanoton: self.world.held(self.proxy_contract)?,
            clients: &clients,
            workers: &workers,
            commits: self.commits,
            position: self.position,
            intent: self.intents.0,
            query_id: 1,
        };
        let policy = ProxyPolicy {
            charge_at_percent: self.scenario.charge_at_percent,
            commit_every_seconds: self.scenario.commit_every_seconds,
            ..ProxyPolicy::default()
        };
        Ok(proxy::plan(&policy, &view, &mut self.ledger))
    }

    fn settle_client(&mut self, index: usize) -> anyhow::Result<()> {
        for _ in 0..MAX_ROUNDS {
            let client = &self.clients[index];
            let channel = ClientChannel {
                contract: client.contract,
                init: client.init.clone(),
                min_stake_nanoton: self.params.min_client_stake_nanoton,
                state: client.state.clone(),
                held_nanoton: client.held,
                proxy: self.world.read(self.proxy_contract, ProxyState::from_data)?,
                proxy_held_nanoton: self.world.held(self.proxy_contract)?,
                charge: Some(self.ledger.order(OrderKind::ChargeClient, client.contract)),
                refund: None,
                // A proxy that does not know a client yet asks it to register.
                registration: client.state.is_none().then_some(1),
                secret_hash: [5; 32],
                intent: self.intents.1,
            };
            let policy = ClientPolicy {
                deposit_nanoton: self.scenario.deposit_nanoton,
                budget_nanoton: client.node.granted,
                ..ClientPolicy::default()
            };
            let view = ClientView {
                now: u64::from(self.world.now),
                wallet: client.node.address(),
                channels: &[channel],
                query_id: 2,
            };
            let plan = client::plan(&policy, &view);
            let client = &mut self.clients[index];
            client.looked_at = self.ledger.tokens(&client.contract);
            let Some(sent) = client.node.carry_out(&mut self.world, plan)? else { return Ok(()) };
            self.tallies.add("client", &sent);
            self.refresh(&sent.touched)?;
        }
        anyhow::bail!("a client never comes to rest")
    }

    fn settle_worker(&mut self, index: usize) -> anyhow::Result<()> {
        for _ in 0..MAX_ROUNDS {
            let proxy = self.world.read(self.proxy_contract, ProxyState::from_data)?;
            let worker = &mut self.workers[index];
            worker.looked_at = self.ledger.tokens(&worker.contract);
            let channel = WorkerChannel {
                contract: worker.contract,
                init: worker.init.clone(),
                state: worker.state.clone(),
                held_nanoton: worker.held,
                order: Some(self.ledger.order(OrderKind::PayWorker, worker.contract)),
                fee_per_token_nanoton: self.scenario.worker_fee_nanoton,
                proxy_status: proxy.map(|state| state.status),
                proxy_held_nanoton: self.world.held(self.proxy_contract)?,
                wanted_from_nanoton: None,
            };
            let policy = WorkerPolicy { payout_at_nanoton: self.scenario.payout_nanoton };
            let plan = worker::plan(&policy, &channel, &worker.node.address());
            let Some(sent) = worker.node.carry_out(&mut self.world, plan)? else { return Ok(()) };
            self.tallies.add("worker", &sent);
            self.refresh(&sent.touched)?;
        }
        anyhow::bail!("a worker never comes to rest")
    }

    /// Reads those contracts again that changed.
    fn refresh(&mut self, touched: &[Address]) -> anyhow::Result<()> {
        for address in touched {
            let Some(&index) = self.by_contract.get(address) else { continue };
            let held = self.world.held(*address)?;
            if let Some(client) = self.clients.get_mut(index).filter(|client| client.contract == *address) {
                client.state = self.world.read(*address, ClientState::from_data)?;
                client.held = held;
            } else if let Some(worker) = self.workers.get_mut(index) {
                worker.state = self.world.read(*address, WorkerState::from_data)?;
                worker.held = held;
            }
        }
        Ok(())
    }

    /// Every coin is where the signed orders say, or was a fee.
    fn check(&self) -> anyhow::Result<()> {
        let mut held = vec![self.world.held(self.proxy_contract)?];
        let contracts = self.by_contract.keys().map(|contract| self.world.held(*contract));
        held.extend(contracts.collect::<Result<Vec<_>, _>>()?);
        let nodes = self.clients.iter().map(|party| &party.node);
        let nodes = nodes.chain(self.workers.iter().map(|party| &party.node)).chain([&self.proxy]);
        for node in nodes {
            held.push(self.world.held(node.address())?);
            held.push(self.world.held(node.owner()?)?);
        }
        self.world.check_balance(held)?;
        let total = self.fees()?.total();
        ensure!(
            total == self.world.collected(),
            "{total} nanoton of fees were paid, and {} taken",
            self.world.collected()
        );
        Ok(())
    }

    /// What everybody lost beside what it paid for and gained beside what it earned: fees.
    fn fees(&self) -> anyhow::Result<Fees> {
        let lost = |before: u64, after: u64| before.checked_sub(after).context("somebody gained coins");
        let (price, worker_fee) = (self.scenario.price_nanoton, self.scenario.worker_fee_nanoton);
        let mut fees = Fees::default();
        let mut paid_in = 0;
        for client in &self.clients {
            let spent =
                client.state.as_ref().map_or(0, |state| state.balance_nanoton + state.tokens_used * price);
            let node = &client.node;
            let has = self.world.held(node.address())? + self.world.held(node.owner()?)? + client.held;
            fees.clients += lost(node.granted, has + spent)?;
            paid_in += spent;
        }
        let mut paid_out = 0;
        for worker in &self.workers {
            let earned = worker.state.as_ref().map_or(0, |state| state.tokens * worker_fee);
            let node = &worker.node;
            let has = self.world.held(node.address())? + self.world.held(node.owner()?)? + worker.held;
            fees.workers += lost(node.granted + earned, has)?;
            paid_out += earned;
        }
        // What is the clients' and workers' in the proxy contract is not the proxy's.
        let node = &self.proxy;
        let has = self.world.held(node.address())?
            + self.world.held(node.owner()?)?
            + self.world.held(self.proxy_contract)?;
        fees.proxy = lost(node.granted + paid_in, has + paid_out)?;
        Ok(fees)
    }
}
