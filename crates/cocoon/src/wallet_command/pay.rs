//! Coins that leave a wallet: `cocoon wallet send`, `fund`, and `exit node`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cocoon_chain::settler::Settler;
use cocoon_chain::{AccountStatus, Chain, MAX_TRANSACTIONS_PER_CALL, SendError, WalletDriver};
use cocoon_ledger::Nanoton;
use cocoon_ton::message::Body;
use cocoon_ton::wallet::{MODE_CARRY_ALL, MODE_PAY_FEES_SEPARATELY};
use cocoon_ton::{Address, NANOTON_PER_TON, OutMessage, SigningKey, Wallet};
use tokio::time::Instant;

use super::node::NodeFile;
use super::{asking, print};
use crate::chain_access::{ChainAccess, NetworkKind};
use crate::cli::{FundNode, PersonKind, SendCoins};
use crate::record::{Record, Telling, Value};
use crate::sending::{self, Sender, WalletArgs, confirm};
use crate::terminal::{self, Style};

/// What the owner's message brings along for the node wallet's fees; what is left comes back with the rest.
const TEXT_VALUE: u64 = NANOTON_PER_TON / 20;
/// How long coins from a node wallet are waited for at its owner's.
const WAY_HOME: Duration = Duration::from_secs(60);
/// Time between two looks for them.
const LOOK: Duration = Duration::from_millis(300);

/// Sends coins.
///
/// # Errors
/// The address is not for coins, or as [`Sender::send`].
pub(super) async fn send(options: SendCoins) -> anyhow::Result<()> {
    let network = options.chain.network()?;
    if let Some(objection) = options.to.objection(network).filter(|_| !options.force) {
        bail!("{objection}; say --force if it is meant");
    }
    let chain = options.chain.open()?;
    let sender = Sender::open(&options.wallet, &options.chain, Arc::clone(&chain), options.json)?;
    let to = options.to.address;
    let account = chain.account_state(to).await.with_context(|| asking(&options.chain))?;
    let active = account.status == AccountStatus::Active;
    if !active && !options.json {
        terminal::print("No contract is at that address yet: the coins will wait there.\n")?;
    }
    let (value, mode) = match options.amount {
        Some(amount) => (amount.nano(), MODE_PAY_FEES_SEPARATELY),
        None => (0, MODE_CARRY_ALL),
    };
    let body = options.comment.map(|text| Body::Comment(text).to_cell());
    // What is not there cannot send back.
    let bounce = active && options.to.may_bounce();
    let message = OutMessage { to, value_nanoton: value, bounce, mode, init: None, body };
    let record = sender.send(vec![message]).await?;
    if options.json { print(&record, true, sender.telling()) } else { Ok(()) }
}

/// Sends coins to a node's wallet.
///
/// # Errors
/// The configuration cannot be used, or as [`Sender::send`].
pub(super) async fn fund(options: FundNode) -> anyhow::Result<()> {
    let node = NodeFile::load(options.node.role, options.node.config.as_deref())?;
    let to = node.wallet()?.0.address();
    let network = if node.root().is_test { NetworkKind::Test } else { NetworkKind::Main };
    let chain = node.backend().await?.chain;
    let (wallet, key) = options.wallet.load(network)?;
    let telling = Telling { testnet: node.root().is_testnet, style: Style::stdout() };
    let driver = WalletDriver::new(chain, wallet, key);
    let sender = Sender::new(driver, options.wallet.yes(), options.json, telling);
    let record = sender.send(vec![plain(to, options.amount)]).await?;
    if options.json { print(&record, true, telling) } else { Ok(()) }
}

fn plain(to: Address, value: Nanoton) -> OutMessage {
    // A wallet that is not deployed keeps the coins all the same.
    let (mode, bounce) = (MODE_PAY_FEES_SEPARATELY, false);
    OutMessage { to, value_nanoton: value.nano(), bounce, mode, init: None, body: None }
}

/// Sends all that a node wallet has to its owner: for its key, or, where it does not obey that, for its owner's text.
///
/// # Errors
/// It is no node wallet, the owner's wallet is needed, or the coins do not move.
pub(super) async fn empty_node_wallet(
    owner_wallet: Option<(PathBuf, PersonKind)>,
    args: &WalletArgs,
    access: &ChainAccess,
    json: bool,
) -> anyhow::Result<()> {
    let network = access.network()?;
    let telling = Telling { testnet: network.is_testnet(), style: Style::stdout() };
    let (wallet, key) = args.load(network)?;
    let Some(owner) = wallet.owner() else {
        bail!(
            "a {} wallet has no owner: say --wallet-kind cocoon or published, or send its coins with `cocoon wallet send \
             ADDRESS --all`",
            wallet.kind()
        );
    };
    let chain = access.open()?;
    let before = chain.account_state(owner).await.with_context(|| asking(access))?;
    let node = chain.account_state(wallet.address()).await?;
    let intent = with_parties("To be emptied", &wallet, owner)
        .with("balance", Value::Coins(node.balance_nanoton))
        .with("owner_has", Value::Coins(before.balance_nanoton));
    if !json {
        terminal::print(&intent.to_text(telling))?;
    }
    if !args.yes() {
        confirm("Send all that the node wallet has to its owner?").await?;
    }
    let settler = Settler::new(Arc::clone(&chain), wallet.clone(), key);
    let way = match settler.empty(0).await {
        Ok(Some(_)) => "the node's key",
        Ok(None) => "nothing: there is too little to be worth the fee",
        Err(SendError::PublishedWalletLow { .. }) => {
            let owner_key = open_owner(owner_wallet, owner, network, telling.testnet)?;
            let active = node.status == AccountStatus::Active;
            let driver = WalletDriver::new(Arc::clone(&chain), owner_key.0, owner_key.1);
            // It was agreed to already.
            let sender = Sender::new(driver, true, json, telling);
            sender.send(vec![owners_text(&wallet, active)]).await?;
            let after_lt = before.last_transaction.map_or(0, |last| last.lt);
            wait_home(chain.as_ref(), wallet.address(), owner, after_lt).await?;
            "its owner's text w"
        }
        Err(error) => return Err(error.into()),
    };
    let record = with_parties("What came back", &wallet, owner)
        .with("moved_by", Value::Text(way.to_owned()))
        .with("owner_had", Value::Coins(before.balance_nanoton))
        .with("owner_has", Value::Coins(chain.account_state(owner).await?.balance_nanoton))
        .with("left_in_wallet", Value::Coins(chain.account_state(wallet.address()).await?.balance_nanoton));
    print(&record, json, telling)
}

fn with_parties(words: &'static str, wallet: &Wallet, owner: Address) -> Record {
    Record::new("exit", "", words)
        .with("node_wallet", Value::Address(wallet.address()))
        .with("wallet", Value::Text(wallet.kind().to_string()))
        .with("owner", Value::Address(owner))
}

/// The owner's wallet and key.
fn open_owner(
    file: Option<(PathBuf, PersonKind)>,
    owner: Address,
    network: NetworkKind,
    testnet: bool,
) -> anyhow::Result<(Wallet, SigningKey)> {
    let (path, kind) = file.with_context(|| {
        format!(
            "this wallet of the published kind obeys its key only from 2 TON on. Only its owner {} gets the coins now: \
             name the owner's wallet with --owner-wallet FILE, or send 0.1 TON with the comment w from it by any program",
            owner.to_wire_string(testnet)
        )
    })?;
    let key = sending::load_key(&path)?;
    let wallet = sending::wallet(kind.into(), &key, None, network)?;
    if wallet.address() != owner {
        bail!(
            "the node wallet's owner is {}, and {} is {}: is it another --owner-wallet-kind?",
            owner.to_wire_string(testnet),
            path.display(),
            wallet.address().to_wire_string(testnet)
        );
    }
    Ok((wallet, key))
}

/// The text by which a node wallet sends its owner everything. Deploys it where that was not done yet.
fn owners_text(wallet: &Wallet, active: bool) -> OutMessage {
    OutMessage {
        to: wallet.address(),
        value_nanoton: TEXT_VALUE,
        bounce: active,
        mode: MODE_PAY_FEES_SEPARATELY,
        init: (!active).then(|| wallet.state_init().clone()),
        body: Some(Body::Comment("w".to_owned()).to_cell()),
    }
}

/// Waits until a message of `from` has arrived at `to`.
async fn wait_home(chain: &dyn Chain, from: Address, to: Address, after_lt: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + WAY_HOME;
    while Instant::now() < deadline {
        let since = chain.transactions_since(to, after_lt, MAX_TRANSACTIONS_PER_CALL).await?;
        let sources = since.iter().filter_map(|transaction| transaction.in_message.as_ref()?.source);
        if sources.into_iter().any(|source| source == from) {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    bail!(
        "the node wallet took the owner's text, but its coins did not arrive within a minute; look again later"
    )
}
