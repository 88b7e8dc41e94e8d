//! `cocoon tx`: any message or transaction of Cocoon's contracts in words.

mod body;
mod input;
mod kinds;
mod list;
mod message;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod transaction;

use cocoon_ton::message::Body;
use cocoon_ton::{Address, AddressParseError, Cell, CellError, VerifyingKey};

pub(crate) use body::Known;
pub(crate) use body::describe as describe_body;
pub(crate) use kinds::kind_of;
pub(crate) use list::MAX_SHOWN;

use crate::chain_access::ChainAccess;
use crate::cli::Tx;
use crate::record::{Record, Telling, Value};
use crate::signals::Signals;
use crate::terminal::{self, Style};

/// The input is not what it should be; the process ends with the exit code of wrong usage.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Undecodable {
    /// Neither cells nor a file.
    #[error("this is neither hex or base64 of a bag of cells nor a file; is a part of it missing?")]
    NoInput,
    /// A file of something else.
    #[error("this holds neither a bag of cells nor one in hex or base64")]
    NotText,
    /// Bytes of something else.
    #[error(
        "this is no bag of cells: one begins with b5ee9c72 in hex, te6cc in base64; an account's address goes with --url, the \
         server of its chain"
    )]
    NoCells,
    /// Over the limit.
    #[error("this is larger than any transaction can be: over 2 MiB of cells")]
    TooLarge,
    /// Over the limit.
    #[error("the cells are nested {0} deep, deeper than on any chain")]
    TooDeep(u16),
    /// No address.
    #[error(transparent)]
    Address(AddressParseError),
    /// Damaged.
    #[error("{0}; is a part of it missing?")]
    Cells(#[from] CellError),
}

/// Decodes, or lists an account's transactions.
///
/// # Errors
/// [`Undecodable`], or what stands in the way.
pub(crate) async fn run(options: Tx, signals: &mut Signals) -> anyhow::Result<()> {
    let (json, style) = (options.json, Style::stdout());
    let known = Known { proxy_key: options.proxy_key, nesting: 0 };
    if let Some(url) = options.url {
        let access = ChainAccess { url, network: options.network, api_key_file: options.api_key_file };
        let testnet = options.testnet || access.network()?.is_testnet();
        let address = options.input.parse().map_err(Undecodable::Address)?;
        let listed = signals.unless_stopped(list(&access, address, options.limit, known)).await??;
        return show(&listed, json, Telling { testnet, style });
    }
    // Standard input may take its time.
    let text = options.input;
    let cell = signals.unless_stopped(tokio::task::spawn_blocking(move || input::read(&text))).await???;
    show(&describe(&cell, known), json, Telling { testnet: options.testnet, style })
}

/// The account with its newest transactions.
async fn list(access: &ChainAccess, address: Address, limit: u16, known: Known) -> anyhow::Result<Record> {
    let chain = access.open()?;
    let account = chain.account_state(address).await?;
    let (record, key) = list::describe_account(address, &account);
    let known = Known { proxy_key: known.proxy_key.or(key), ..known };
    let found = list::newest(chain.as_ref(), &account, address, limit).await?;
    let told: Vec<Record> =
        found.iter().rev().map(|transaction| transaction::describe_view(transaction, known)).collect();
    Ok(record.with("transactions", Value::Parts(told)))
}

fn show(record: &Record, json: bool, telling: Telling) -> anyhow::Result<()> {
    let text = if json { format!("{}\n", record.to_json(telling)) } else { record.to_text(telling) };
    Ok(terminal::print(&text)?)
}

/// What the cells are: a transaction, a message, a known contract's code, or else a message's body.
fn describe(cell: &Cell, known: Known) -> Record {
    transaction::describe_cell(cell, known)
        .or_else(|| message::describe_sent(cell, known))
        .or_else(|| message::describe_code(cell))
        .unwrap_or_else(|| body::describe(&Body::parse(cell), known))
}

/// Reads a public key for the command line.
///
/// # Errors
/// It is not 64 hexadecimal digits of such a key.
pub(crate) fn parse_key(text: &str) -> Result<VerifyingKey, String> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| "64 hexadecimal digits are meant".to_owned())?;
    VerifyingKey::from_bytes(&bytes).map_err(|_| "this is no Ed25519 public key".to_owned())
}
