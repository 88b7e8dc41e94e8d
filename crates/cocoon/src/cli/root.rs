//! `cocoon root`: a network's root contract.

use std::net::SocketAddrV4;

use clap::{Args, Subcommand, ValueEnum};
use cocoon_ledger::Nanoton;
use cocoon_ton::Address;

use crate::amount;
use crate::chain_access::ChainAccess;
use crate::sending::WalletArgs;

/// Show or change a network's root contract: who may take part, prices, and the code of its contracts.
///
/// Changing it takes the wallet of its owner. New prices, delays, stakes and codes hold for contracts made from then on:
/// nodes wind the old ones up and make new ones.
#[derive(Debug, Args)]
#[command(after_help = "\
Amounts: 1.5 or \"1.5 TON\", with up to nine decimals; or whole nanotons, 20n. Wallets now call the coin Gram; it is the
same coin, and 1 Gram is 1 TON.

Examples:
  cocoon root show --address EQ...
  cocoon root deploy --wallet words.txt --price 20n --worker-fee 18n
  cocoon root prices --address EQ... --wallet words.txt --price 30n
  cocoon root proxies register 10.0.0.5:11001 10.0.0.5:11002 --address EQ... --wallet words.txt
  cocoon root models add 'Qwen/Qwen3-8B@COMMIT:HASH' --address EQ... --wallet words.txt --yes --json")]
pub(crate) struct Root {
    #[command(subcommand)]
    pub(crate) command: RootCommand,
}

/// What can be done with a root contract.
#[derive(Debug, Subcommand)]
pub(crate) enum RootCommand {
    /// Show all that the contract says, and whose code it runs
    Show(ShowRoot),
    /// Make a new root contract, owned by the wallet
    Deploy(DeployRoot),
    /// Set what a token costs and what a worker gets of it
    Prices {
        #[command(flatten)]
        prices: PriceArgs,
        #[command(flatten)]
        changing: Changing,
    },
    /// Set prices, delays and least stakes; what is not given stays
    Params {
        #[command(flatten)]
        prices: PriceArgs,
        #[command(flatten)]
        limits: LimitArgs,
        #[command(flatten)]
        changing: Changing,
    },
    /// Say which images proxies and workers may run
    #[command(subcommand)]
    Images(Images),
    /// Say which models workers may serve
    #[command(subcommand)]
    Models(Models),
    /// List proxies where clients and workers find them
    #[command(subcommand)]
    Proxies(Proxies),
    /// Bring contracts to the code in this program
    #[command(subcommand)]
    Upgrade(Upgrade),
    /// Hand the root contract over to another owner, for good
    Owner {
        /// Who may change it from then on
        #[arg(value_name = "ADDRESS")]
        owner: Address,
        #[command(flatten)]
        changing: Changing,
    },
}

/// Which root contract to show.
#[derive(Debug, Args)]
pub(crate) struct ShowRoot {
    /// The root contract's address
    #[arg(long, value_name = "ADDRESS", env = "COCOON_ROOT_ADDRESS")]
    pub(crate) address: Address,

    /// Print one line of JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) chain: ChainAccess,
}

/// What a new root contract begins with.
#[derive(Debug, Args)]
pub(crate) struct DeployRoot {
    /// What a client pays for a token
    #[arg(long, value_name = "AMOUNT", value_parser = amount::parse)]
    pub(crate) price: Nanoton,

    /// What a worker gets of it
    #[arg(long, value_name = "AMOUNT", value_parser = amount::parse)]
    pub(crate) worker_fee: Nanoton,

    /// How long a proxy's contract stays closing [default: 600 on a test network; required elsewhere]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) proxy_delay: Option<u32>,

    /// How long a client's contract stays closing, less than a proxy's [default: 300 on a test network]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) client_delay: Option<u32>,

    /// Least stake of a proxy
    #[arg(long, value_name = "AMOUNT", default_value = "1", value_parser = amount::parse)]
    pub(crate) min_proxy_stake: Nanoton,

    /// Least stake of a client
    #[arg(long, value_name = "AMOUNT", default_value = "1", value_parser = amount::parse)]
    pub(crate) min_client_stake: Nanoton,

    /// Tells networks of one owner apart [default: a random one]
    #[arg(long, value_name = "N")]
    pub(crate) unique_id: Option<u32>,

    /// Coins for the contract's storage: 0.05 TON a year
    #[arg(long, value_name = "AMOUNT", default_value = "0.6", value_parser = amount::parse)]
    pub(crate) value: Nanoton,

    /// Print one line of JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) wallet: WalletArgs,

    #[command(flatten)]
    pub(crate) chain: ChainAccess,
}

/// Prices; what is not given stays.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PriceArgs {
    /// What a client pays for a token
    #[arg(long, value_name = "AMOUNT", value_parser = amount::parse)]
    pub(crate) price: Option<Nanoton>,

    /// What a worker gets of it
    #[arg(long, value_name = "AMOUNT", value_parser = amount::parse)]
    pub(crate) worker_fee: Option<Nanoton>,
}

/// Delays and least stakes; what is not given stays.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct LimitArgs {
    /// How long a proxy's contract stays closing
    #[arg(long, value_name = "SECONDS")]
    pub(crate) proxy_delay: Option<u32>,

    /// How long a client's contract stays closing, less than a proxy's
    #[arg(long, value_name = "SECONDS")]
    pub(crate) client_delay: Option<u32>,

    /// Least stake of a proxy
    #[arg(long, value_name = "AMOUNT", value_parser = amount::parse)]
    pub(crate) min_proxy_stake: Option<Nanoton>,

    /// Least stake of a client
    #[arg(long, value_name = "AMOUNT", value_parser = amount::parse)]
    pub(crate) min_client_stake: Option<Nanoton>,
}

/// What all changes take.
#[derive(Debug, Clone, Args)]
pub(crate) struct Changing {
    /// The root contract's address
    #[arg(long, value_name = "ADDRESS", env = "COCOON_ROOT_ADDRESS")]
    pub(crate) address: Address,

    /// Print one line of JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) wallet: WalletArgs,

    #[command(flatten)]
    pub(crate) chain: ChainAccess,
}

/// Whose image it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImageOf {
    /// A proxy's.
    Proxy,
    /// A worker's.
    Worker,
}

/// Changes of the lists of images.
#[derive(Debug, Subcommand)]
pub(crate) enum Images {
    /// Accept an image
    Add {
        /// Whose image it is
        #[arg(value_enum, value_name = "ROLE")]
        role: ImageOf,
        /// Its hash, 64 hexadecimal digits or 32 bytes in base64
        #[arg(value_name = "HASH", value_parser = parse_hash)]
        hash: Hash,
        #[command(flatten)]
        changing: Changing,
    },
    /// No longer accept an image
    Remove {
        /// Whose image it is
        #[arg(value_enum, value_name = "ROLE")]
        role: ImageOf,
        /// Its hash, 64 hexadecimal digits or 32 bytes in base64
        #[arg(value_name = "HASH", value_parser = parse_hash)]
        hash: Hash,
        #[command(flatten)]
        changing: Changing,
    },
}

/// Changes of the list of models.
#[derive(Debug, Subcommand)]
pub(crate) enum Models {
    /// Accept a model
    Add {
        /// Its full name, NAME@COMMIT:VERITYHASH
        #[arg(value_name = "MODEL")]
        model: String,
        #[command(flatten)]
        changing: Changing,
    },
    /// No longer accept a model
    Remove {
        /// Its full name, NAME@COMMIT:VERITYHASH
        #[arg(value_name = "MODEL")]
        model: String,
        #[command(flatten)]
        changing: Changing,
    },
}

/// Changes of the list of proxies.
#[derive(Debug, Subcommand)]
pub(crate) enum Proxies {
    /// List a proxy under the next number
    Register {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        changing: Changing,
    },
    /// List another place for a proxy
    Update {
        /// The proxy's number
        #[arg(value_name = "NUMBER")]
        number: u32,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        changing: Changing,
    },
    /// No longer list a proxy
    Unregister {
        /// The proxy's number
        #[arg(value_name = "NUMBER")]
        number: u32,
        #[command(flatten)]
        changing: Changing,
    },
}

/// Where a proxy listens.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Place {
    /// Where workers connect, IPv4
    #[arg(value_name = "IP:PORT")]
    pub(crate) for_workers: SocketAddrV4,
    /// Where clients connect [default: the same place]
    #[arg(value_name = "IP:PORT")]
    pub(crate) for_clients: Option<SocketAddrV4>,
}

/// What is brought to the code in this program.
#[derive(Debug, Subcommand)]
pub(crate) enum Upgrade {
    /// The proxy, worker and client contracts made from then on
    Contracts {
        #[command(flatten)]
        changing: Changing,
    },
    /// The root contract itself
    Root {
        #[command(flatten)]
        changing: Changing,
    },
}

/// 32 bytes.
pub(crate) type Hash = [u8; 32];

fn parse_hash(text: &str) -> Result<Hash, String> {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};
    let bytes = hex::decode(text).or_else(|_| STANDARD.decode(text)).or_else(|_| URL_SAFE.decode(text));
    let hash = bytes.ok().and_then(|bytes| bytes.try_into().ok());
    hash.ok_or_else(|| "64 hexadecimal digits or 32 bytes in base64 are meant".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_32_bytes_in_hex_or_base64() {
        assert_eq!(parse_hash(&"ab".repeat(32)), Ok([0xab; 32]));
        assert_eq!(parse_hash("q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s="), Ok([0xab; 32]));
        for text in ["", "ab", &"ab".repeat(33), &"zz".repeat(32)] {
            assert!(parse_hash(text).is_err(), "{text}");
        }
    }
}
