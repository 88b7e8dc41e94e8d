//! `cocoon wallet`: a person's wallet, and what is done with the wallets of nodes while they are stopped.

mod contracts;
mod leave;
mod make;
mod node;
mod pay;
mod qr;
mod show;

use cocoon_ton::{Address, AddressFormat};

use crate::chain_access::ChainAccess;
use crate::cli::{Exit, GatewayWork, Wallet, WalletCommand, Withdraw};
use crate::record::{Record, Telling, Value};
use crate::signals::Signals;
use crate::terminal;

/// Does what is asked with a wallet.
///
/// # Errors
/// What stands in the way, or [`crate::signals::Interrupted`].
pub(crate) async fn run(options: Wallet, signals: &mut Signals) -> anyhow::Result<()> {
    let work = async {
        match options.command {
            WalletCommand::Create(options) => make::create(options).await,
            WalletCommand::Import(options) => make::import(options).await,
            WalletCommand::Show(options) => show::show(options).await,
            WalletCommand::Send(options) => pay::send(options).await,
            WalletCommand::Fund(options) => pay::fund(options).await,
            WalletCommand::Deposit(options) => {
                let work = GatewayWork::Deposit(options.amount);
                node::gateway(work, options.channel, &options.acting).await
            }
            WalletCommand::Withdraw(Withdraw::Gateway { channel, acting }) => {
                node::gateway(GatewayWork::Withdraw, channel, &acting).await
            }
            WalletCommand::Withdraw(Withdraw::Worker { from, acting }) => node::worker(from, &acting).await,
            WalletCommand::Withdraw(Withdraw::Proxy { acting }) => node::proxy(&acting).await,
            WalletCommand::Exit(Exit::Gateway { acting }) => leave::gateway(&acting).await,
            WalletCommand::Exit(Exit::Worker { acting }) => leave::worker(&acting).await,
            WalletCommand::Exit(Exit::Proxy { acting }) => leave::proxy(&acting).await,
            WalletCommand::Exit(Exit::Node { owner_wallet, owner_wallet_kind, json, wallet, chain }) => {
                let owner = owner_wallet.map(|file| (file, owner_wallet_kind));
                pay::empty_node_wallet(owner, &wallet, &chain, json).await
            }
        }
    };
    signals.unless_stopped(work).await?
}

/// The form that receives coins whatever is there, and the one that sends them back where nothing is.
fn forms(address: Address, testnet: bool) -> [String; 2] {
    [false, true].map(|bounceable| {
        address.to_friendly_string(AddressFormat { bounceable, testnet, ..AddressFormat::WIRE })
    })
}

/// An address in the forms that programs ask for.
fn with_address(record: Record, address: Address, testnet: bool) -> Record {
    let [plain, bounceable] = forms(address, testnet);
    record
        .with("address", Value::Text(plain))
        .with("bounceable_address", Value::Text(bounceable))
        .with("raw_address", Value::Text(address.to_raw_string()))
}

/// Where a question went that was not answered, and what to do.
fn asking(access: &ChainAccess) -> String {
    format!(
        "no answer from the chain at {}: is it running, and the right one? --url names another; `cocoon chain` runs one here",
        access.url
    )
}

/// Prints what came of a command.
fn print(record: &Record, json: bool, telling: Telling) -> anyhow::Result<()> {
    let text = if json { format!("{}\n", record.to_json(telling)) } else { record.to_text(telling) };
    Ok(terminal::print(&text)?)
}
