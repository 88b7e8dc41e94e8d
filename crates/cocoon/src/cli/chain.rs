//! `cocoon chain`: a chain on this machine, and what can be asked of a running one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use cocoon_ledger::Nanoton;
use cocoon_localchain::MIN_INTERVAL;
use cocoon_ton::Address;

use crate::amount;

/// Where `cocoon chain` listens unless told otherwise: the port of toncenter's own program.
pub(crate) const DEFAULT_LISTEN: &str = "127.0.0.1:8081";
const DEFAULT_URL: &str = "http://127.0.0.1:8081";
/// Longest time between two blocks.
const MAX_BLOCK_TIME: Duration = Duration::from_secs(3_600);
/// Farthest that the clock is moved at once, in seconds: ten years.
const MAX_ADVANCE_SECONDS: i64 = 10 * 365 * 86_400;

/// Run a TON-style chain on this machine, or talk to a running one.
///
/// Real contracts on a real virtual machine, with fees, bounces and storage debts, but without validators and without
/// value. Wallets and libraries for TON reach it through toncenter's HTTP API. All its state is in DIR and survives a
/// restart and a kill.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Reached at http://LISTEN/api/v2: toncenter's methods, by GET, POST and JSON-RPC
           http://LISTEN/localchain: faucet and clock, which are open to whoever reaches them

Examples:
  cocoon chain                                  a block after each message
  cocoon chain --block-time 5 --dir ./chain     a block every five seconds
  cocoon chain faucet UQ... 100                 100 TON out of nothing
  cocoon chain advance 86400                    a day later at once, for what has delays
  cocoon chain status --json"
)]
pub(crate) struct Chain {
    #[command(subcommand)]
    pub(crate) command: Option<ChainCommand>,

    #[command(flatten)]
    pub(crate) run: RunChain,
}

/// How a chain is run.
#[derive(Debug, Args)]
pub(crate) struct RunChain {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = DEFAULT_LISTEN)]
    pub(crate) listen: SocketAddr,

    /// Where the chain is kept; made if missing
    #[arg(long, value_name = "DIR", default_value = ".cocoon/chain", env = "COCOON_CHAIN_DIR")]
    pub(crate) dir: PathBuf,

    /// Seconds from block to block, 0.01 to 3600; 0 makes a block after each message
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = block_time)]
    pub(crate) block_time: BlockTime,

    /// Listen on an address that other machines reach: they may use the faucet and move the clock
    #[arg(long)]
    pub(crate) allow_remote: bool,

    /// Print one line of JSON when ready, instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// When there is a new block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockTime {
    /// After each message.
    OnMessage,
    /// Whenever so much time has passed.
    Every(Duration),
}

/// What a running chain can be asked.
#[derive(Debug, Subcommand)]
pub(crate) enum ChainCommand {
    /// Give coins to an account, out of nothing
    #[command(after_help = FAUCET_HELP)]
    Faucet {
        /// The account, in any form of address
        #[arg(value_name = "ADDRESS")]
        address: Address,
        /// How much
        #[arg(value_name = "AMOUNT", value_parser = amount::parse)]
        amount: Nanoton,
        #[command(flatten)]
        chain: ChainUrl,
    },
    /// Move the chain's clock forward, for good, and make a block at the new time
    #[command(after_help = "Examples:\n  cocoon chain advance 600\n  cocoon chain advance 86400 --json")]
    Advance {
        /// How far, up to ten years
        #[arg(value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=MAX_ADVANCE_SECONDS))]
        seconds: u32,
        #[command(flatten)]
        chain: ChainUrl,
    },
    /// Show the newest block and the chain's time
    #[command(
        after_help = "Examples:\n  cocoon chain status\n  cocoon chain status --url http://127.0.0.1:13000 --json"
    )]
    Status {
        #[command(flatten)]
        chain: ChainUrl,
    },
}

const FAUCET_HELP: &str = "\
Amounts: 1.5 or \"1.5 TON\", with up to nine decimals; or whole nanotons, 1500000000n. Wallets now call the coin Gram;
it is the same coin, and 1 Gram is 1 TON.

Examples:
  cocoon chain faucet UQ... 100
  cocoon chain faucet 0:9a... 1500000000n --json";

/// Which running chain, and how the answer is shown.
#[derive(Debug, Args)]
pub(crate) struct ChainUrl {
    /// Where the running chain is
    #[arg(long, value_name = "URL", default_value = DEFAULT_URL, env = "COCOON_CHAIN_URL")]
    pub(crate) url: String,

    /// Print one line of JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

fn block_time(text: &str) -> Result<BlockTime, String> {
    let wrong = || "a number of seconds is meant, such as 0, 5 or 0.5".to_owned();
    let milliseconds = amount::decimal(text, 3).map_err(|_| wrong())?;
    match Duration::from_millis(milliseconds) {
        Duration::ZERO => Ok(BlockTime::OnMessage),
        every if (MIN_INTERVAL..=MAX_BLOCK_TIME).contains(&every) => Ok(BlockTime::Every(every)),
        _ => Err("0, or 0.01 to 3600 seconds".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_time_is_zero_or_within_its_range() {
        assert_eq!(block_time("0"), Ok(BlockTime::OnMessage));
        assert_eq!(block_time("0.25"), Ok(BlockTime::Every(Duration::from_millis(250))));
        assert_eq!(block_time("3600"), Ok(BlockTime::Every(MAX_BLOCK_TIME)));
        for text in ["", "-1", "0.001", "3601", "5s", "0.0001", "99999999999999999999"] {
            assert!(block_time(text).is_err(), "{text}");
        }
    }
}
