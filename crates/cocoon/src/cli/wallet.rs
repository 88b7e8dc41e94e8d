//! `cocoon wallet`: a person's wallet, and the wallets of nodes.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use cocoon_ledger::Nanoton;
use cocoon_ton::message::MAX_COMMENT_BYTES;
use cocoon_ton::{Address, AddressFormat};

use super::roles::environment;
use crate::amount;
use crate::chain_access::{ChainAccess, NetworkKind};
use crate::config::{self, RoleFile};
use crate::sending::{Kind, WalletArgs};

/// Make a wallet, look into it, send coins, and bring a node's coins home.
///
/// There are two sorts of wallets: a person's, which is a private file with 24 words or a key; and a node's, a small
/// contract whose key lies in the node's directory and whose coins its owner can always take back. A node is named by its
/// role and its configuration.
#[derive(Debug, Args)]
#[command(after_help = "\
Amounts: 1.5 or \"1.5 TON\", with up to nine decimals; or whole nanotons, 1500000000n. Wallets now call the coin Gram; it
is the same coin, and 1 Gram is 1 TON.

Ends with 0 when done, 1 when it could not be done or coins are left for later, 2 for wrong usage, 130 when interrupted.
Everything may be interrupted and repeated; nothing is sent twice by that, except what `send`, `fund` and `deposit` are
asked to send again.

Examples:
  cocoon wallet create words.txt
  cocoon wallet show --wallet words.txt
  cocoon wallet send UQ... 1.5 --wallet words.txt
  cocoon wallet show gateway --config gateway.toml
  cocoon wallet fund gateway 10 --config gateway.toml --wallet words.txt
  cocoon wallet exit gateway --config gateway.toml")]
pub(crate) struct Wallet {
    #[command(subcommand)]
    pub(crate) command: WalletCommand,
}

/// What can be done with wallets.
#[derive(Debug, Subcommand)]
pub(crate) enum WalletCommand {
    /// Make a new wallet: 24 words in a private file
    Create(CreateWallet),
    /// Make a wallet's file from its 24 words or its key, read from standard input
    Import(ImportWallet),
    /// Show a wallet's address and coins; of a node, also its contracts
    Show(ShowWallet),
    /// Send coins
    Send(SendCoins),
    /// Send coins from a person's wallet to a node's wallet
    Fund(FundNode),
    /// Pay more into a gateway's channels from its wallet, with the gateway stopped
    Deposit(Deposit),
    /// Take out what a stopped node does not need, and leave its channels open
    #[command(subcommand)]
    Withdraw(Withdraw),
    /// Close everything of a stopped node and bring all its coins to its owner
    #[command(subcommand)]
    Exit(Exit),
}

/// A new wallet.
#[derive(Debug, Args)]
#[command(after_help = "\
The words are the money: whoever reads them can take the coins, and without them nobody can. Keep a copy on paper. All
wallet programs for TON understand them.

Examples:
  cocoon wallet create words.txt
  cocoon wallet create words.txt --show-words
  cocoon wallet create words.txt --kind v4r2 --json")]
pub(crate) struct CreateWallet {
    /// The file to be made; never one that is there already
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// Which contract the wallet shall be
    #[arg(long, value_enum, value_name = "KIND", default_value = "v5r1")]
    pub(crate) kind: PersonKind,

    /// Show the words, too; on a terminal only
    #[arg(long, conflicts_with = "json")]
    pub(crate) show_words: bool,

    /// Print one line of JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// A wallet that exists.
#[derive(Debug, Args)]
#[command(after_help = "\
The words are read in one or more lines, up to an empty line or the end; on a terminal they are not shown. Keys are those of
this program's key files: the 64 digits of the Ed25519 seed.

Examples:
  cocoon wallet import words.txt
  cocoon wallet import words.txt --kind v4r2 < copy.txt
  cocoon wallet import key.txt < node/wallet-key.hex")]
pub(crate) struct ImportWallet {
    /// The file to be made; never one that is there already
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// Which contract the wallet is
    #[arg(long, value_enum, value_name = "KIND", default_value = "v5r1")]
    pub(crate) kind: PersonKind,

    /// Print one line of JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// A wallet, or a node.
#[derive(Debug, Args)]
#[command(after_help = "\
A node is shown as the chain has it, whether it runs or not. Where a node has no key yet, one is made, so that its wallet can
be given coins before the first start.

Examples:
  cocoon wallet show --wallet words.txt
  cocoon wallet show --wallet words.txt --wallet-kind v4r2 --url https://toncenter.com --json
  cocoon wallet show gateway --config gateway.toml")]
pub(crate) struct ShowWallet {
    /// Of a node with this role, instead of --wallet
    #[arg(value_enum, value_name = "ROLE")]
    pub(crate) role: Option<Role>,

    /// The node's configuration, which also says where the chain is
    #[arg(long, value_name = "FILE", requires = "role")]
    pub(crate) config: Option<PathBuf>,

    /// A private file with the wallet's 24 words, or with its key as 64 hexadecimal digits
    #[arg(long, value_name = "FILE", env = "COCOON_WALLET", required_unless_present = "role")]
    pub(crate) wallet: Option<PathBuf>,

    /// Which contract the wallet is; the same key has another address in each
    #[arg(long, value_enum, value_name = "KIND", default_value = "v5r1")]
    pub(crate) wallet_kind: Kind,

    /// The owner of a node wallet (cocoon or published), part of its address
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) wallet_owner: Option<Address>,

    /// Print one line of JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) chain: ChainAccess,
}

/// A payment.
#[derive(Debug, Args)]
#[command(after_help = "\
A comment is public, as everything on a chain.

Examples:
  cocoon wallet send UQ... 1.5 --wallet words.txt
  cocoon wallet send UQ... \"0.25 TON\" --comment 'order 17' --wallet words.txt --yes
  cocoon wallet send UQ... --all --wallet words.txt --url https://toncenter.com
  cocoon wallet send UQ... 0.1 --comment w --wallet words.txt    the node wallet UQ... sends its owner all it has")]
pub(crate) struct SendCoins {
    /// To whom, in any form of address
    #[arg(value_name = "ADDRESS")]
    pub(crate) to: Destination,

    /// How much
    #[arg(value_name = "AMOUNT", value_parser = amount::parse, required_unless_present = "all")]
    pub(crate) amount: Option<Nanoton>,

    /// All that the wallet has
    #[arg(long, conflicts_with = "amount")]
    pub(crate) all: bool,

    /// A text for the receiver, up to 1024 bytes
    #[arg(long, value_name = "TEXT", value_parser = comment)]
    pub(crate) comment: Option<String>,

    /// Send also to the masterchain, or to an address of test networks on the main network
    #[arg(long)]
    pub(crate) force: bool,

    /// Print one line of JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) wallet: WalletArgs,

    #[command(flatten)]
    pub(crate) chain: ChainAccess,
}

/// Coins for a node.
#[derive(Debug, Args)]
#[command(after_help = "\
The node may run; it goes on by itself once the coins are there. The chain is that of the node's configuration.

Examples:
  cocoon wallet fund gateway 10 --config gateway.toml --wallet words.txt
  cocoon wallet fund worker 0.5 --config worker.toml --wallet words.txt --yes --json")]
pub(crate) struct FundNode {
    #[command(flatten)]
    pub(crate) node: Node,

    /// How much
    #[arg(value_name = "AMOUNT", value_parser = amount::parse)]
    pub(crate) amount: Nanoton,

    /// Print one line of JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) wallet: WalletArgs,
}

/// A gateway's payment into its channels.
#[derive(Debug, Args)]
#[command(after_help = "\
What is paid in counts against the gateway's budget, and may go beyond it.

Examples:
  cocoon wallet deposit 5 --config gateway.toml
  cocoon wallet deposit 5 --channel EQ... --config gateway.toml --yes")]
pub(crate) struct Deposit {
    /// How much, into each of the channels
    #[arg(value_name = "AMOUNT", value_parser = amount::parse)]
    pub(crate) amount: Nanoton,

    #[command(flatten)]
    pub(crate) channel: OneChannel,

    #[command(flatten)]
    pub(crate) acting: Acting,
}

/// What is done with a gateway's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GatewayWork {
    /// Pay so much into each.
    Deposit(Nanoton),
    /// Take out what is over the stake.
    Withdraw,
}

/// What is taken out of what.
#[derive(Debug, Subcommand)]
pub(crate) enum Withdraw {
    /// Take what is over the stake out of a gateway's channels, into its wallet
    #[command(
        after_help = "Examples:\n  cocoon wallet withdraw gateway --config gateway.toml\n  cocoon wallet withdraw gateway --channel EQ... --config gateway.toml --json --yes"
    )]
    Gateway {
        #[command(flatten)]
        channel: OneChannel,
        #[command(flatten)]
        acting: Acting,
    },
    /// Have everything paid to a worker's owner that proxies owe
    #[command(
        after_help = "A running worker does the same: POST /payout on its HTTP port.\n\nExamples:\n  cocoon wallet withdraw worker --config worker.toml\n  cocoon wallet withdraw worker --from 0.5 --config worker.toml --yes"
    )]
    Worker {
        /// Leave what is less than this
        #[arg(long, value_name = "AMOUNT", default_value = "1n", value_parser = amount::parse)]
        from: Nanoton,
        #[command(flatten)]
        acting: Acting,
    },
    /// Send what a proxy has earned to its owner
    #[command(
        after_help = "A running proxy does so by itself, from money.withdraw_at on.\n\nExamples:\n  cocoon wallet withdraw proxy --config proxy.toml\n  cocoon wallet withdraw proxy --config proxy.toml --json --yes"
    )]
    Proxy {
        #[command(flatten)]
        acting: Acting,
    },
}

/// Who leaves.
#[derive(Debug, Subcommand)]
pub(crate) enum Exit {
    /// Close a gateway's channels and empty its wallet
    #[command(
        after_help = "Where a proxy does not sign a refund, its contract's delay is waited for.\n\nExamples:\n  cocoon wallet exit gateway --config gateway.toml\n  cocoon wallet exit gateway --config gateway.toml --yes --json"
    )]
    Gateway {
        #[command(flatten)]
        acting: Acting,
    },
    /// Have a worker paid all it is owed, and empty its wallet
    #[command(
        after_help = "Examples:\n  cocoon wallet exit worker --config worker.toml\n  cocoon wallet exit worker --config worker.toml --yes --json"
    )]
    Worker {
        #[command(flatten)]
        acting: Acting,
    },
    /// Refund a proxy's clients, pay its workers, close its contracts, and empty its wallet
    #[command(
        after_help = "Closing takes the delay of the proxy contract. What workers and clients have not claimed by then is held for half a\nyear; the same command fetches what nobody claimed.\n\nExamples:\n  cocoon wallet exit proxy --config proxy.toml\n  cocoon wallet exit proxy --config proxy.toml --yes --json"
    )]
    Proxy {
        #[command(flatten)]
        acting: Acting,
    },
    /// Empty a node wallet alone, whatever program used it
    #[command(after_help = "\
The published node wallet obeys its key only while it has 2 TON or more. With less, its owner's own wallet must command it:
name that wallet's file with --owner-wallet. Without the node's key, its owner takes the coins by
`cocoon wallet send NODE-WALLET 0.1 --comment w`.

Examples:
  cocoon wallet exit node --wallet key.txt --wallet-kind published --wallet-owner UQ... --owner-wallet words.txt
  cocoon wallet exit node --wallet key.txt --wallet-kind cocoon --wallet-owner UQ... --yes --json")]
    Node {
        /// The owner's wallet: a private file with its 24 words or its key
        #[arg(long, value_name = "FILE")]
        owner_wallet: Option<PathBuf>,
        /// Which contract the owner's wallet is
        #[arg(long, value_enum, value_name = "KIND", default_value = "v5r1")]
        owner_wallet_kind: PersonKind,
        /// Print one line of JSON instead of text
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        wallet: WalletArgs,
        #[command(flatten)]
        chain: ChainAccess,
    },
}

/// How a stopped node is acted for.
#[derive(Debug, Args)]
pub(crate) struct Acting {
    /// The node's configuration, as it is started with
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Do it without asking
    #[arg(long, short)]
    pub(crate) yes: bool,

    /// Print one line of JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

impl Acting {
    /// The node's configuration, from its file and the environment.
    ///
    /// # Errors
    /// See [`config::load`].
    pub(crate) fn load<T: RoleFile>(&self) -> anyhow::Result<T> {
        config::load(self.config.as_deref(), environment(), Vec::new())
    }
}

/// A node.
#[derive(Debug, Args)]
pub(crate) struct Node {
    /// The node's role
    #[arg(value_enum, value_name = "ROLE")]
    pub(crate) role: Role,

    /// The node's configuration, which also says where the chain is
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Which channels.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OneChannel {
    /// Only the channel with this client contract [default: all open ones]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) channel: Option<Address>,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// The side of those who ask.
    Gateway,
    /// The one between.
    Proxy,
    /// The side of those who answer.
    Worker,
}

impl Role {
    /// Its name, as commands and configurations have it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Proxy => "proxy",
            Self::Worker => "worker",
        }
    }
}

/// Wallet contracts that people use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PersonKind {
    /// What most wallets make today.
    V5r1,
    /// What most wallets made until 2024.
    V4r2,
}

impl From<PersonKind> for Kind {
    fn from(kind: PersonKind) -> Self {
        match kind {
            PersonKind::V5r1 => Self::V5r1,
            PersonKind::V4r2 => Self::V4r2,
        }
    }
}

/// A receiver, as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Destination {
    /// Who.
    pub(crate) address: Address,
    format: Option<AddressFormat>,
}

impl std::str::FromStr for Destination {
    type Err = cocoon_ton::AddressParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Address::parse(text.trim()).map(|(address, format)| Self { address, format })
    }
}

impl Destination {
    /// Whether the address asks for coins to come back where nothing takes them; the raw form does not say, and means yes.
    pub(crate) fn may_bounce(&self) -> bool {
        self.format.is_none_or(|format| format.bounceable)
    }

    /// What speaks against sending coins there.
    pub(crate) fn objection(&self, network: NetworkKind) -> Option<&'static str> {
        if self.format.is_some_and(|format| format.testnet) && !network.is_testnet() {
            return Some("the address is marked as one of test networks, and this is the main network");
        }
        (self.address.workchain() != 0).then_some(
            "the address is in the masterchain, where wallets are seldom; ordinary ones begin with 0:",
        )
    }
}

fn comment(text: &str) -> Result<String, String> {
    if text.len() > MAX_COMMENT_BYTES {
        return Err(format!("a comment has at most {MAX_COMMENT_BYTES} bytes; this has {}", text.len()));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn coins_go_to_the_basechain_of_the_right_network_without_a_word() {
        let address = Address::basechain([3; 32]);
        let at = |text: &str| text.parse::<Destination>().unwrap();
        let (main, test) = (at(&address.to_wire_string(false)), at(&address.to_wire_string(true)));
        for network in [NetworkKind::Main, NetworkKind::Test] {
            assert_eq!(main.objection(network), None);
            assert_eq!(at(&address.to_raw_string()).objection(network), None);
            assert!(at(&format!("-1:{}", "03".repeat(32))).objection(network).is_some());
        }
        assert_eq!(test.objection(NetworkKind::Test), None);
        assert!(test.objection(NetworkKind::Main).is_some());
    }

    #[test]
    fn a_comment_has_a_limit() {
        assert_eq!(comment("order 17").as_deref(), Ok("order 17"));
        assert!(comment(&"x".repeat(MAX_COMMENT_BYTES + 1)).is_err());
    }
}
