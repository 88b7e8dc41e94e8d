//! `cocoon tx`: what a message or transaction says.

use std::path::PathBuf;

use clap::Args;
use cocoon_ton::VerifyingKey;

use crate::chain_access::NetworkKind;
use crate::tx::{MAX_SHOWN, parse_key};

/// Show what a message or transaction says, in words.
///
/// Understands all messages between the contracts of Cocoon, signed orders, what wallets are told to send, and the
/// transactions that come of them. Proves nothing about who sent it, except signatures where the key is given.
#[derive(Debug, Args)]
#[command(after_help = "\
Ends with 2 where the input is no bag of cells.

Examples:
  cocoon tx te6ccgEB...                            a bag of cells in base64, or in hex
  cocoon tx message.boc --json                     one in a file: bytes, hex or base64
  cocoon tx --url http://127.0.0.1:8081 UQ... --limit 20
  curl -s ... | cocoon tx - --proxy-key 5590...    one from standard input; are orders in it signed by that proxy?")]
pub(crate) struct Tx {
    /// A bag of cells as hex or base64, a file with one, or - for standard input; with --url: an account's address
    #[arg(value_name = "CELLS|ADDRESS")]
    pub(crate) input: String,

    /// List an account's newest transactions, as a server with toncenter's HTTP API tells them
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,

    /// How many transactions are listed, 1 to 200
    #[arg(long, value_name = "N", default_value_t = 10, requires = "url", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_SHOWN)))]
    pub(crate) limit: u16,

    /// Whether the coins are worth something there [default: what is known of the URL]
    #[arg(long, value_enum, value_name = "NETWORK", requires = "url")]
    pub(crate) network: Option<NetworkKind>,

    /// A private file with the server's API key
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(crate) api_key_file: Option<PathBuf>,

    /// A proxy's public key, 64 hexadecimal digits: checks the signatures of its orders [with --url: the contract's own]
    #[arg(long, value_name = "HEX", value_parser = parse_key)]
    pub(crate) proxy_key: Option<VerifyingKey>,

    /// Write addresses as test networks do
    #[arg(long)]
    pub(crate) testnet: bool,

    /// Print one line of JSON instead of text; numbers of 64 bits are texts in it
    #[arg(long)]
    pub(crate) json: bool,
}
