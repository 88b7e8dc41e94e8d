//! `cocoon wallet show`: where a wallet is, what it has, and what of a node lies in contracts.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cocoon_chain::{AccountStatus, Chain, WalletDriver};
use cocoon_ledger::Nanoton;
use cocoon_ton::{SigningKey, Wallet};
use serde_json::Value as Json;

use super::node::NodeFile;
use super::{asking, contracts, print, qr, with_address};
use crate::cli::{Role, ShowWallet};
use crate::http_client;
use crate::record::{Record, Telling, Value};
use crate::sending;
use crate::terminal::{self, Style};

/// How long a node is given to say how it is.
const NODE_ANSWER: Duration = Duration::from_secs(2);

/// Shows a wallet, or a node's wallet with its contracts.
///
/// # Errors
/// The secret cannot be read, or the chain does not answer.
pub(super) async fn show(options: ShowWallet) -> anyhow::Result<()> {
    match options.role {
        Some(role) => show_node(role, &options).await,
        None => show_wallet(&options).await,
    }
}

async fn show_wallet(options: &ShowWallet) -> anyhow::Result<()> {
    let network = options.chain.network()?;
    let telling = Telling { testnet: network.is_testnet(), style: Style::stdout() };
    // The command line asks for it where no role is named.
    let file = options.wallet.as_deref().context("no wallet: say --wallet FILE, or a role")?;
    let key = sending::load_key(file)?;
    let wallet = sending::wallet(options.wallet_kind, &key, options.wallet_owner, network)?;
    let address = wallet.address();
    let described = describe(options.chain.open()?, wallet, key, telling).await;
    let (record, _) = described.with_context(|| asking(&options.chain))?;
    let link = qr::link(address, telling.testnet, None);
    print(&record.with("link", Value::Text(link.clone())), options.json, telling)?;
    picture(&link, options.json)
}

/// What the chain shows of a wallet, and its coins.
async fn describe(
    chain: Arc<dyn Chain>,
    wallet: Wallet,
    key: SigningKey,
    telling: Telling,
) -> anyhow::Result<(Record, u64)> {
    let account = chain.account_state(wallet.address()).await?;
    let state = match account.status {
        AccountStatus::Active => "deployed",
        AccountStatus::Uninitialised => "not deployed yet: its first message does that",
        AccountStatus::NonExistent => "nothing was sent there yet",
        AccountStatus::Frozen => "frozen: it owes storage fees; send it coins",
    };
    let seqno = match account.status {
        AccountStatus::Frozen => None,
        _ => Some(WalletDriver::new(chain, wallet.clone(), key).view().await?.seqno),
    };
    let record = with_address(Record::new("wallet", "", "Wallet"), wallet.address(), telling.testnet)
        .with("wallet", Value::Text(wallet.kind().to_string()))
        .with_some("owner", wallet.owner().map(Value::Address))
        .with("state", Value::Text(state.to_owned()))
        .with("balance", Value::Coins(account.balance_nanoton))
        .with_some("seqno", seqno.map(|seqno| Value::Small(seqno.into())));
    Ok((record, account.balance_nanoton))
}

async fn show_node(role: Role, options: &ShowWallet) -> anyhow::Result<()> {
    let node = NodeFile::load(role, options.config.as_deref())?;
    let telling = Telling { testnet: node.root().is_testnet, style: Style::stdout() };
    let (wallet, key) = node.wallet()?;
    let address = wallet.address();
    let backend = node.backend().await?;
    let owner = wallet.owner().context("a node's wallet has an owner")?;
    let (record, balance) = describe(Arc::clone(&backend.chain), wallet, key, telling).await?;
    let found = contracts::find(backend.chain.as_ref(), &node, address, owner).await?;
    let said = ask(&node).await.filter(|said| said["wallet"] == address.to_wire_string(telling.testnet));

    let params = backend.chain.subscribe_root().borrow().params.clone();
    let missing = match &said {
        Some(said) => said["needs"]["missing_nanoton"].as_u64(),
        // Before the first start, what it will need can be told.
        None if found.contracts.is_empty() => {
            Some(node.first_coins(&params).saturating_sub(balance)).filter(|&missing| missing > 0)
        }
        None => None,
    };
    let link = qr::link(address, telling.testnet, missing);
    let text = |name: &str| {
        said.as_ref().and_then(|said| said[name].as_str()).map(|text| Value::Text(text.to_owned()))
    };
    let mut record = record
        .with("role", Value::Text(node.role().to_owned()))
        .with("directory", Value::Text(node.dir().display().to_string()))
        .with("answers", Value::Flag(said.is_some()))
        .with_some("holds_back", text("hold"))
        .with_some("fails", text("error"))
        .with("contracts", Value::Parts(found.contracts));
    if found.incomplete {
        let words = "the history is too long to be looked through: some contracts may be missing here";
        record = record.with("note", Value::Text(words.to_owned()));
    }
    let funds = missing.map(|missing| {
        format!("send at least {} to {}", Nanoton(missing), address.to_wire_string(telling.testnet))
    });
    let record =
        record.with_some("missing", missing.map(Value::Coins)).with("link", Value::Text(link.clone()));
    print(&record, options.json, telling)?;
    if let Some(funds) = funds.filter(|_| !options.json) {
        let words = telling.style.warn(&format!("funds needed: {funds}"));
        terminal::print(&format!("\n{words}\n"))?;
    }
    picture(&link, options.json)
}

/// What a running node says of its settlement. `None` where it does not run, or does not answer in time.
async fn ask(node: &NodeFile) -> Option<Json> {
    let asking = async { http_client::get(node.http(), "/jsonstats").await.ok()?.json().await.ok() };
    let mut stats: Json = tokio::time::timeout(NODE_ANSWER, asking).await.ok()??;
    Some(stats["settlement"].take()).filter(Json::is_object)
}

/// For the camera of whoever sits before the terminal.
fn picture(link: &str, json: bool) -> anyhow::Result<()> {
    if json || !std::io::stdout().is_terminal() {
        return Ok(());
    }
    match qr::picture(link) {
        Some(picture) => Ok(terminal::print(&format!("\n{picture}\n"))?),
        None => Ok(()),
    }
}
