//! Nodes by their configuration, and what is done with a stopped node's coins while it keeps its channels.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cocoon_chain::settler::{Settler, Step};
use cocoon_gateway::Channels;
use cocoon_ledger::Nanoton;
use cocoon_settle::client::ClientPolicy;
use cocoon_settle::proxy::ProxyPolicy;
use cocoon_settle::{
    ACCOUNT_RESERVE_NANOTON, COMMISSION_NANOTON, PROXY_ENDOWMENT_NANOTON, Plan, Purpose, Transfer,
    WALLET_RESERVE_NANOTON,
};
use cocoon_ton::message::Body;
use cocoon_ton::{Address, NANOTON_PER_TON, ProxyState, RootParams, SigningKey, Wallet, proxy_state_init};
use tokio::time::Instant;

use super::print;
use crate::cli::{Acting, GatewayWork, OneChannel, Role, environment};
use crate::config::{self, ChainFile, GatewayFile, ProxyFile, RoleFile as _, Root, WorkerFile};
use crate::dir::StateDir;
use crate::exit::{self, Progress, hold};
use crate::keys;
use crate::record::{Record, Telling, Value};
use crate::roles::{self, Backend, WALLET_KEY};
use crate::sending::confirm;
use crate::terminal::Style;

/// Room for the fees of the first messages, in nanoton.
const FIRST_FEES: u64 = NANOTON_PER_TON / 10;
/// How long coins are waited for that a contract sends on.
const ARRIVAL: Duration = Duration::from_secs(60);
/// Time between two looks for them.
const LOOK: Duration = Duration::from_millis(300);

/// A node's configuration, whatever its role.
pub(super) enum NodeFile {
    Gateway(Box<GatewayFile>),
    Proxy(Box<ProxyFile>),
    Worker(Box<WorkerFile>),
}

impl NodeFile {
    /// Reads the configuration as the node itself does.
    ///
    /// # Errors
    /// See [`config::load`].
    pub(super) fn load(role: Role, file: Option<&Path>) -> anyhow::Result<Self> {
        Ok(match role {
            Role::Gateway => Self::Gateway(Box::new(config::load(file, environment(), Vec::new())?)),
            Role::Proxy => Self::Proxy(Box::new(config::load(file, environment(), Vec::new())?)),
            Role::Worker => Self::Worker(Box::new(config::load(file, environment(), Vec::new())?)),
        })
    }

    /// The role's name.
    pub(super) const fn role(&self) -> &'static str {
        match self {
            Self::Gateway(_) => GatewayFile::ROLE,
            Self::Proxy(_) => ProxyFile::ROLE,
            Self::Worker(_) => WorkerFile::ROLE,
        }
    }

    /// The node's directory.
    pub(super) fn dir(&self) -> &Path {
        match self {
            Self::Gateway(file) => &file.dir,
            Self::Proxy(file) => &file.dir,
            Self::Worker(file) => &file.dir,
        }
    }

    /// The network.
    pub(super) fn root(&self) -> &Root {
        match self {
            Self::Gateway(file) => &file.root,
            Self::Proxy(file) => &file.root,
            Self::Worker(file) => &file.root,
        }
    }

    /// Where it tells operators how it is.
    pub(super) fn http(&self) -> SocketAddr {
        match self {
            Self::Gateway(file) => file.http,
            Self::Proxy(file) => file.http,
            Self::Worker(file) => file.http,
        }
    }

    /// Who gets its coins in the end.
    pub(super) fn owner(&self) -> Option<Address> {
        match self {
            Self::Gateway(file) => file.owner,
            Self::Proxy(file) => file.owner,
            Self::Worker(file) => file.owner,
        }
    }

    fn chain(&self) -> &ChainFile {
        match self {
            Self::Gateway(file) => &file.chain,
            Self::Proxy(file) => &file.chain,
            Self::Worker(file) => &file.chain,
        }
    }

    /// The node's chain.
    ///
    /// # Errors
    /// It cannot be reached, or the node's coins are simulated.
    pub(super) async fn backend(&self) -> anyhow::Result<Backend> {
        reach(self.role(), self.root(), self.chain()).await
    }

    /// The node's wallet. Its key is made where the node never ran; a running node is not disturbed.
    ///
    /// # Errors
    /// The owner is not configured, or the key cannot be used.
    pub(super) fn wallet(&self) -> anyhow::Result<(Wallet, SigningKey)> {
        let owner = roles::named_owner(self.owner())?;
        let path = self.dir().join(WALLET_KEY);
        if !path.exists() {
            return roles::wallet(&self.open_dir()?, owner);
        }
        let sealing = match self {
            Self::Gateway(file) => roles::sealing(file.as_ref()),
            Self::Proxy(file) => roles::sealing(file.as_ref()),
            Self::Worker(file) => roles::sealing(file.as_ref()),
        }?;
        let key = SigningKey::from_bytes(&*keys::load_or_create(&path, sealing.as_deref())?);
        Ok((Wallet::cocoon(key.verifying_key().to_bytes(), owner), key))
    }

    fn open_dir(&self) -> anyhow::Result<StateDir> {
        match self {
            Self::Gateway(file) => roles::open_dir(file.as_ref()),
            Self::Proxy(file) => roles::open_dir(file.as_ref()),
            Self::Worker(file) => roles::open_dir(file.as_ref()),
        }
    }

    /// What the wallet should have before the first start, in nanoton.
    pub(super) fn first_coins(&self, params: &RootParams) -> u64 {
        let contract = match self {
            Self::Gateway(file) => {
                let policy: ClientPolicy = file.money.policy(params.min_client_stake_nanoton);
                policy.deposit_nanoton.saturating_add(ACCOUNT_RESERVE_NANOTON)
            }
            Self::Proxy(file) => {
                let policy = ProxyPolicy::from(file.money);
                let stake = params.min_proxy_stake_nanoton.saturating_add(policy.extra_stake_nanoton);
                stake.saturating_add(PROXY_ENDOWMENT_NANOTON)
            }
            Self::Worker(_) => ACCOUNT_RESERVE_NANOTON,
        };
        contract.saturating_add(COMMISSION_NANOTON + WALLET_RESERVE_NANOTON + FIRST_FEES)
    }
}

/// A node's chain, on which coins move.
///
/// # Errors
/// It cannot be reached, or the node's coins are simulated.
pub(super) async fn reach(role: &str, root: &Root, chain: &ChainFile) -> anyhow::Result<Backend> {
    let backend = Backend::open(role, root, chain).await.with_context(|| {
        format!("cannot reach the {role}'s chain; where `cocoon up` ran it, serve it with `cocoon chain --dir DIR --listen IP:PORT`")
    })?;
    exit::needs_coins(&backend)?;
    Ok(backend)
}

/// Pays into a gateway's channels, or takes out of them.
///
/// # Errors
/// The gateway runs, there is no such channel, or the wallet lacks coins.
pub(super) async fn gateway(work: GatewayWork, channel: OneChannel, acting: &Acting) -> anyhow::Result<()> {
    let file: GatewayFile = acting.load()?;
    let backend = reach(GatewayFile::ROLE, &file.root, &file.chain).await?;
    let dir = hold(&file)?;
    let config = roles::gateway_till(&file, &dir, &backend)?;
    let which = channel.channel.map_or(Channels::All, Channels::One);
    let chain = Arc::clone(&backend.chain);
    let wallet = config.settlement.wallet.address();
    let before = balance(&backend, wallet).await?;
    let steps = match work {
        GatewayWork::Deposit(amount) => {
            agreed(acting, &format!("Pay {amount} from the node's wallet into each channel meant?")).await?;
            cocoon_gateway::deposit(config, chain, which, amount.nano()).await?
        }
        GatewayWork::Withdraw => {
            agreed(acting, "Take what is over the stake out of each channel meant?").await?;
            let steps = cocoon_gateway::withdraw(config, chain, which).await?;
            if !steps.is_empty() {
                more_than(&backend, wallet, before).await?;
            }
            steps
        }
    };
    let done = match work {
        GatewayWork::Deposit(_) => "paid into the channels",
        GatewayWork::Withdraw => "taken out of the channels what is over their stakes",
    };
    let words = if steps.is_empty() { "nothing is over the stakes" } else { done };
    let record = Record::new("moved", "", "Done")
        .with("what", Value::Text(words.to_owned()))
        .with("wallet", Value::Address(wallet))
        .with("wallet_had", Value::Coins(before))
        .with("wallet_has", Value::Coins(balance(&backend, wallet).await?));
    let contracts = steps
        .iter()
        .map(|step| Record::new("channel", "", "channel").with("contract", Value::Address(step.transfer.to)));
    let record = record.with("channels", Value::Parts(contracts.collect()));
    finish(&record, &steps, acting, file.root.is_testnet)
}

/// Has a worker's owner paid what is due.
///
/// # Errors
/// The worker runs, or its wallet lacks coins.
pub(super) async fn worker(from: Nanoton, acting: &Acting) -> anyhow::Result<()> {
    let file: WorkerFile = acting.load()?;
    let backend = reach(WorkerFile::ROLE, &file.root, &file.chain).await?;
    let dir = hold(&file)?;
    let config = roles::worker_till(&file, &dir, false)?;
    let owner = config.owner;
    let before = balance(&backend, owner).await?;
    agreed(acting, "Have everything paid to the owner that proxies owe?").await?;
    let mut steps = Vec::new();
    let chain = Arc::clone(&backend.chain);
    let left = cocoon_worker::leave(config, chain, from.nano().max(1), |step| steps.push(step)).await?;
    if left.paid_nanoton > 0 {
        more_than(&backend, owner, before).await?;
    }
    let due = left.proxies.iter().filter_map(cocoon_worker::ProxyDue::due_nanoton).sum();
    let words = if steps.is_empty() { "Nothing was due" } else { "Done" };
    let record = Record::new("moved", "", words)
        .with("owner", Value::Address(owner))
        .with("paid", Value::Coins(left.paid_nanoton))
        .with("still_due", Value::Coins(due))
        .with("owner_had", Value::Coins(before))
        .with("owner_has", Value::Coins(balance(&backend, owner).await?));
    finish(&with_steps(record, &steps), &steps, acting, file.root.is_testnet)?;
    match left.needs {
        Some(needs) => bail!("{needs}"),
        None => Ok(()),
    }
}

/// Sends a proxy's earnings to its owner.
///
/// # Errors
/// The proxy runs, has no contract, or its wallet lacks coins.
pub(super) async fn proxy(acting: &Acting) -> anyhow::Result<()> {
    let file: ProxyFile = acting.load()?;
    let backend = reach(ProxyFile::ROLE, &file.root, &file.chain).await?;
    let dir = hold(&file)?;
    let config = roles::proxy_till(&file, &dir, &backend)?;
    let settlement = config.settlement.context("the proxy settles nothing")?;
    let public = SigningKey::from_bytes(&config.key_seed).verifying_key().to_bytes();
    let params = backend.chain.subscribe_root().borrow().params.clone();
    let contract = proxy_state_init(&params, &config.root_address, &config.owner, &public)?.address();
    let account = backend.chain.account_state(contract).await?;
    let Some(data) = account.data else {
        bail!(
            "the proxy's contract {} is not on the chain: it has earned nothing",
            contract.to_wire_string(file.root.is_testnet)
        );
    };
    let state = ProxyState::from_data(&data).context("the proxy's contract")?;
    let before = balance(&backend, config.owner).await?;
    let mut steps = Vec::new();
    if state.balance_nanoton > 0 {
        let amount = Nanoton(state.balance_nanoton);
        agreed(acting, &format!("Send the proxy's earnings of {amount} to its owner?")).await?;
        let settler = Settler::new(Arc::clone(&backend.chain), settlement.wallet, settlement.key);
        let view = settler.settled().await?;
        let transfer = Transfer {
            to: contract,
            value_nanoton: COMMISSION_NANOTON,
            init: None,
            body: Body::ProxyPayout { query_id: rand::random(), excesses_to: settler.address() },
            purpose: Purpose::TakeEarnings { amount: amount.nano() },
        };
        let plan = Plan { transfers: vec![transfer], ..Plan::default() }.fit(&settler.funds(&view));
        if let Some(needs) = plan.needs {
            bail!("{needs}");
        }
        steps = settler.carry_out(&view, plan).await?;
        more_than(&backend, config.owner, before).await?;
    }
    let words = if steps.is_empty() { "Nothing was earned since the last time" } else { "Done" };
    let record = Record::new("moved", "", words)
        .with("contract", Value::Address(contract))
        .with("owner", Value::Address(config.owner))
        .with("owner_had", Value::Coins(before))
        .with("owner_has", Value::Coins(balance(&backend, config.owner).await?));
    finish(&with_steps(record, &steps), &steps, acting, file.root.is_testnet)
}

/// Asks, unless that is not wished.
async fn agreed(acting: &Acting, question: &str) -> anyhow::Result<()> {
    if acting.yes { Ok(()) } else { confirm(question).await }
}

async fn balance(backend: &Backend, address: Address) -> anyhow::Result<u64> {
    Ok(backend.chain.account_state(address).await?.balance_nanoton)
}

/// Waits a while until an account has more than `before`: contracts send coins on in messages of their own.
async fn more_than(backend: &Backend, address: Address, before: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + ARRIVAL;
    while balance(backend, address).await? <= before && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn with_steps(record: Record, steps: &[Step]) -> Record {
    record.with("steps", Value::Parts(steps.iter().map(|step| told(&exit::sent(step))).collect()))
}

fn finish(record: &Record, steps: &[Step], acting: &Acting, testnet: bool) -> anyhow::Result<()> {
    let telling = Telling { testnet, style: Style::stdout() };
    print(record, acting.json, telling)?;
    let refused = steps.iter().map(exit::sent).find(Progress::refused);
    match refused {
        Some(refused) => bail!("{refused}"),
        None => Ok(()),
    }
}

/// A step, for people and machines.
pub(super) fn told(progress: &Progress) -> Record {
    let record = Record::new("step", "", "step").with("what", Value::Text(progress.to_string()));
    let to = match progress {
        Progress::Sent { to, .. } => Some(Value::Address(*to)),
        _ => None,
    };
    record.with_some("to", to).with_some("amount", progress.nanoton().map(Value::Coins))
}
