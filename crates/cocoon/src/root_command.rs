//! `cocoon root`: shows a network's root contract, makes one, and changes it from its owner's wallet.

mod change;
mod show;

use std::sync::Arc;

use anyhow::{Context as _, bail};
use cocoon_chain::{AccountState, AccountStatus, Chain, read_root};
use cocoon_ledger::Nanoton;
use cocoon_ton::message::{Body, RootChange};
use cocoon_ton::{Address, RootConfig, StructVersion, code, root_state_init};
use serde_json::json;

use self::change::{Wanted, change, check_client_stake, check_delays, check_prices};
use crate::cli::{Changing, DeployRoot, Images, Models, Proxies, Root, RootCommand, ShowRoot, Upgrade};
use crate::record::{Record, Telling};
use crate::sending::{Sender, message};
use crate::signals::Signals;
use crate::terminal::{self, Style};

/// What a change brings along for its fees; what is left comes back.
const CHANGE_VALUE: Nanoton = Nanoton(100_000_000);

/// Shows, makes or changes a root contract.
///
/// # Errors
/// What stands in the way, or [`crate::signals::Interrupted`].
pub(crate) async fn run(options: Root, signals: &mut Signals) -> anyhow::Result<()> {
    let work = async {
        let (wanted, changing) = match options.command {
            RootCommand::Show(options) => return show(options).await,
            RootCommand::Deploy(options) => return deploy(options).await,
            RootCommand::Prices { prices, changing } => (Wanted::Prices(prices), changing),
            RootCommand::Params { prices, limits, changing } => (Wanted::Params(prices, limits), changing),
            RootCommand::Images(Images::Add { role, hash, changing }) => {
                (Wanted::Image { role, hash, accepted: true }, changing)
            }
            RootCommand::Images(Images::Remove { role, hash, changing }) => {
                (Wanted::Image { role, hash, accepted: false }, changing)
            }
            RootCommand::Models(Models::Add { model, changing }) => {
                (Wanted::Model { name: model, accepted: true }, changing)
            }
            RootCommand::Models(Models::Remove { model, changing }) => {
                (Wanted::Model { name: model, accepted: false }, changing)
            }
            RootCommand::Proxies(Proxies::Register { place, changing }) => {
                (Wanted::Register(place), changing)
            }
            RootCommand::Proxies(Proxies::Update { number, place, changing }) => {
                (Wanted::Update(number, place), changing)
            }
            RootCommand::Proxies(Proxies::Unregister { number, changing }) => {
                (Wanted::Unregister(number), changing)
            }
            RootCommand::Upgrade(Upgrade::Contracts { changing }) => (Wanted::UpgradeContracts, changing),
            RootCommand::Upgrade(Upgrade::Root { changing }) => (Wanted::UpgradeRoot, changing),
            RootCommand::Owner { owner, changing } => (Wanted::Owner(owner), changing),
        };
        apply(&wanted, changing).await
    };
    signals.unless_stopped(work).await?
}

async fn show(options: ShowRoot) -> anyhow::Result<()> {
    let telling = Telling { testnet: options.chain.network()?.is_testnet(), style: Style::stdout() };
    let chain = options.chain.open()?;
    let (account, config) = read(chain.as_ref(), options.address).await?;
    let record = show::describe(options.address, &account, &config);
    let text = if options.json { format!("{}\n", record.to_json(telling)) } else { record.to_text(telling) };
    Ok(terminal::print(&text)?)
}

async fn read(chain: &dyn Chain, address: Address) -> anyhow::Result<(AccountState, RootConfig)> {
    let account = chain.account_state(address).await?;
    let config = read_root(address, account.data.as_ref())?;
    Ok((account, config))
}

async fn deploy(options: DeployRoot) -> anyhow::Result<()> {
    let chain = options.chain.open()?;
    let sender = Sender::open(&options.wallet, &options.chain, Arc::clone(&chain), options.json)?;
    let is_test = options.chain.network()?.is_testnet();
    let config = first_config(&options, sender.address(), is_test)?;
    let init = root_state_init(&config);
    let address = init.address();
    if chain.account_state(address).await?.status == AccountStatus::Active {
        bail!(
            "this root contract is there already, at {}; for another one say another --unique-id",
            address.to_wire_string(is_test)
        );
    }
    let sent = sender.send(vec![message(address, options.value, &Body::Empty, Some(init))]).await?;
    finish(chain.as_ref(), address, &sender, &sent, options.json).await
}

/// What the contract is made with: the layout and the codes of today.
fn first_config(options: &DeployRoot, owner: Address, is_test: bool) -> anyhow::Result<RootConfig> {
    let (price, worker_fee) = (options.price.nano(), options.worker_fee.nano());
    check_prices(price, worker_fee)?;
    let mut config = RootConfig::test_mode(owner);
    let params = &mut config.params;
    let delay = |given: Option<u32>, in_tests, option| match given {
        None if !is_test => bail!("say --{option} SECONDS: on a main network it is not guessed"),
        given => Ok(given.unwrap_or(in_tests)),
    };
    let proxy_delay = delay(options.proxy_delay, params.proxy_delay_before_close_seconds, "proxy-delay")?;
    let client_delay = delay(options.client_delay, params.client_delay_before_close_seconds, "client-delay")?;
    check_delays(proxy_delay, client_delay)?;
    check_client_stake(options.min_client_stake.nano())?;
    params.struct_version = StructVersion::V3;
    params.unique_id = options.unique_id.unwrap_or_else(rand::random);
    params.is_test = is_test;
    params.price_per_token_nanoton = price;
    params.worker_fee_per_token_nanoton = worker_fee;
    params.proxy_delay_before_close_seconds = proxy_delay;
    params.client_delay_before_close_seconds = client_delay;
    params.min_proxy_stake_nanoton = options.min_proxy_stake.nano();
    params.min_client_stake_nanoton = options.min_client_stake.nano();
    params.proxy_code = Some(code::proxy().clone());
    params.worker_code = Some(code::worker().clone());
    params.client_code = Some(code::client().clone());
    Ok(config)
}

async fn apply(wanted: &Wanted, changing: Changing) -> anyhow::Result<()> {
    let chain = changing.chain.open()?;
    let sender = Sender::open(&changing.wallet, &changing.chain, Arc::clone(&chain), changing.json)?;
    let testnet = sender.telling().testnet;
    let (account, config) = read(chain.as_ref(), changing.address).await?;
    if sender.address() != config.owner {
        bail!(
            "the root contract obeys {} alone, and this wallet is {}; is it another --wallet-kind?",
            config.owner.to_wire_string(testnet),
            sender.address().to_wire_string(testnet)
        );
    }
    let change = change(wanted, &config)?;
    if let RootChange::UpgradeCode(code) = &change
        && account.code.as_ref() == Some(code.cell())
    {
        bail!("the root contract runs the code in this program already");
    }
    let body = Body::Root { query_id: rand::random(), change };
    let sent = sender.send(vec![message(changing.address, CHANGE_VALUE, &body, None)]).await?;
    finish(chain.as_ref(), changing.address, &sender, &sent, changing.json).await
}

/// Shows the contract as it is now.
async fn finish(
    chain: &dyn Chain,
    address: Address,
    sender: &Sender,
    sent: &Record,
    json: bool,
) -> anyhow::Result<()> {
    let (account, config) =
        read(chain, address).await.context("it was sent, but the root contract cannot be read back")?;
    let root = show::describe(address, &account, &config);
    let telling = sender.telling();
    let text = if json {
        format!("{}\n", json!({"sent": sent.to_json(telling), "root": root.to_json(telling)}))
    } else {
        root.to_text(telling)
    };
    Ok(terminal::print(&text)?)
}
