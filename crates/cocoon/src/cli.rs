//! The command line.

mod attest;
mod chain;
mod doctor;
mod keys;
mod local;
mod market;
mod model;
mod roles;
mod root;
mod tx;
mod wallet;

use clap::{Parser, Subcommand};

pub(crate) use attest::{Attest, AttestCommand, MakeEvidence, PeerKind, ShowEvidence, VerifyEvidence};
pub(crate) use chain::{BlockTime, Chain, ChainCommand, ChainUrl, RunChain};
pub(crate) use doctor::Doctor;
pub(crate) use keys::{Expiry, GatewayArgs, Keys, KeysCommand, SetKey, SettingArgs};
pub(crate) use local::{Demo, Up};
pub(crate) use market::Market;
pub(crate) use model::{HashModel, Model, ModelCommand, PackModel, VerifyModel};
pub(crate) use roles::{Gateway, Proxy, Worker, environment};
pub(crate) use root::{
    Changing, DeployRoot, Hash, ImageOf, Images, LimitArgs, Models, Place, PriceArgs, Proxies, Root,
    RootCommand, ShowRoot, Upgrade,
};
pub(crate) use tx::Tx;
pub(crate) use wallet::{
    Acting, CreateWallet, Exit, FundNode, GatewayWork, ImportWallet, OneChannel, PersonKind, Role, SendCoins,
    ShowWallet, Wallet, WalletCommand, Withdraw,
};

use crate::logging::LogFormat;

/// The three roles of a Cocoon network, alone or all together: private AI inference at exact prices.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 110, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// What to log: error, warn, info, debug or trace [default: info for gateway, proxy and worker, else warn]
    ///
    /// Goes to standard error. Directives such as info,cocoon_proxy=debug are understood.
    /// Prompts and answers are never logged.
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        env = "COCOON_LOG",
        hide_env_values = true,
        help_heading = "Logs"
    )]
    pub(crate) log: Option<String>,

    /// How log lines are written
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        env = "COCOON_LOG_FORMAT"
    )]
    pub(crate) log_format: LogFormat,
}

const EXAMPLES: &str = "\
Examples:
  cocoon up                      a whole network on this machine, for any OpenAI client
  cocoon demo README.md          summarise a file through such a network and show who paid whom
  cocoon worker --config w.toml  one role alone
  cocoon keys add alice          a key for a team's gateway, with limits and a budget
  cocoon doctor                  whether this machine is ready to be a worker
  cocoon chain                   a TON-style chain on this machine, with a faucet and toncenter's API
  cocoon tx te6ccg...            what a message or transaction of the contracts says
  cocoon model pack DIR          a model's archive, and the hash by which the model is known
  cocoon market                  who offers what through a gateway, at which price, and how well
  cocoon wallet create w.txt     a wallet; `wallet` also shows, sends, and brings a node's coins home
  cocoon root show --address ...  who may take part in a network, and what tokens cost

`cocoon COMMAND --help` says more about each.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Up(Up),
    Demo(Demo),
    Gateway(Gateway),
    Proxy(Proxy),
    Worker(Worker),
    Chain(Chain),
    Attest(Attest),
    Model(Model),
    Market(Market),
    Tx(Tx),
    Root(Root),
    Wallet(Wallet),
    Keys(Keys),
    Doctor(Doctor),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_argument_is_explained() {
        explained(&Cli::command());
    }

    fn explained(command: &clap::Command) {
        let name = command.get_name();
        assert!(command.get_about().is_some(), "{name} says nothing about itself");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{name} {} has no help", argument.get_id());
        }
        command.get_subcommands().for_each(explained);
    }
}
