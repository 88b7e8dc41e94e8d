//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, GatewayFile, Overrides, ProxyFile, WorkerFile};
use crate::logging::LogFormat;

/// Most workers in one process: a limit on a slip of the finger, not on what works.
const MAX_WORKERS: i64 = 64;

/// The three roles of a Cocoon network, alone or all together: private AI inference at exact prices.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 110, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// What to log: error, warn, info, debug or trace [default: warn for up and demo, else info]
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

`cocoon COMMAND --help` says more about each.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Up(Up),
    Demo(Demo),
    Gateway(Gateway),
    Proxy(Proxy),
    Worker(Worker),
}

/// Run a whole network on this machine: a gateway, a proxy and workers.
///
/// All run in one process, over real connections on the loopback interface. Attestation and chain are simulated: proxy and workers show a quote that proves nothing, and no coins move. The
/// prices, the metering and the protocol are the real ones.
#[derive(Debug, Args)]
#[command(after_help = "\
Files in DIR:
  endpoints.json    where everything listens; there while the network is ready
  root-config.json  prices and the proxy, in the published form, for nodes that join; edited prices are kept
  gateway/, proxy/, worker-N/   keys and ledgers, kept over restarts

Ports: gateway BASE, proxy BASE+1000 to BASE+1002, workers from BASE+2000 on.

Examples:
  cocoon up
  cocoon up --upstream http://127.0.0.1:8080               the model server's first model
  cocoon up --upstream http://127.0.0.1:11434 --model qwen3:8b --workers 1
  cocoon up --port-base 0 --json                           free ports; one line of JSON when ready")]
pub(crate) struct Up {
    /// Where keys, ledgers and endpoints.json are kept; made if missing
    #[arg(long, value_name = "DIR", default_value = ".cocoon", env = "COCOON_UP_DIR")]
    pub(crate) dir: PathBuf,

    /// How many workers, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=MAX_WORKERS))]
    pub(crate) workers: u16,

    /// An OpenAI-style model server for the workers, instead of the built-in summariser
    #[arg(long, value_name = "URL")]
    pub(crate) upstream: Option<String>,

    /// The model to serve, as the model server names it [default: the first one that it lists]
    #[arg(long, value_name = "NAME", requires = "upstream")]
    pub(crate) model: Option<String>,

    /// First port: 0 takes free ports everywhere, else at most 63472
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u16).range(..=MAX_PORT_BASE))]
    pub(crate) port_base: u16,

    /// Bits of proof of work between the nodes, 0 to 28. Low, since nobody else can connect
    #[arg(long, value_name = "BITS", default_value_t = config::LOOPBACK_DIFFICULTY, value_parser = clap::value_parser!(u8).range(..=28))]
    pub(crate) difficulty: u8,

    /// Print one line of JSON when ready, instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// The highest first port that leaves room for all workers' ports.
const MAX_PORT_BASE: i64 = 65_535 - 2_000 - MAX_WORKERS + 1;

/// Summarise a file through a whole network, and check that the money adds up.
///
/// Brings a network up in a temporary directory, asks its gateway for the summary, and prints the answer, the metered
/// tokens, what the client paid, what the worker earned and what the proxy kept. Ends with 0 if the sums agree, else
/// with 1 and the reason.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cocoon demo README.md
  cocoon demo notes.txt --sentences 2
  cocoon demo notes.txt --json")]
pub(crate) struct Demo {
    /// A text file, UTF-8, at most 4 MiB
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// How many sentences the summary shall have, 1 to 50 [default: by the length of the text]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=50))]
    pub(crate) sentences: Option<u8>,

    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// What all roles take.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The configuration, TOML; in the environment: COCOON_ROLE_FIELD
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where to listen for HTTP
    #[arg(long, value_name = "IP:PORT")]
    http: Option<SocketAddr>,

    /// Where keys and state are kept; made if missing
    #[arg(long, value_name = "DIR")]
    dir: Option<String>,

    /// The root configuration, JSON in the published form
    #[arg(long, value_name = "FILE")]
    root_file: Option<String>,

    /// The root contract's address
    #[arg(long, value_name = "ADDRESS")]
    root_address: Option<String>,
}

impl Common {
    fn overrides(self) -> (Option<PathBuf>, Overrides) {
        let given = [
            ("http", self.http.map(|address| address.to_string())),
            ("dir", self.dir),
            ("root.file", self.root_file),
            ("root.address", self.root_address),
        ];
        let given = given.into_iter().filter_map(|(name, value)| Some((name, value?)));
        (self.config, given.collect())
    }
}

/// Run a gateway: the side of those who ask, with an OpenAI-style HTTP API.
///
/// It passes requests to proxies, pays for the answers, and checks what it is charged.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cocoon gateway --config gateway.toml
  COCOON_GATEWAY_PROXIES=10.0.0.5:11002 cocoon gateway --config gateway.toml --http 127.0.0.1:8080

crates/cocoon/examples/gateway.toml documents every field.")]
pub(crate) struct Gateway {
    #[command(flatten)]
    common: Common,
}

impl Gateway {
    /// The configuration from file, environment and flags.
    ///
    /// # Errors
    /// See [`config::load`].
    pub(crate) fn load(self) -> anyhow::Result<GatewayFile> {
        let (file, flags) = self.common.overrides();
        config::load(file.as_deref(), environment(), flags)
    }
}

/// Run a proxy: it brings gateways and workers together and keeps the books.
///
/// Both connect to it. It reserves the money for a request, picks a worker, and signs who owes whom.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cocoon proxy --config proxy.toml
  cocoon proxy --config proxy.toml --listen-workers 0.0.0.0:11001 --listen-clients 0.0.0.0:11002

crates/cocoon/examples/proxy.toml documents every field.")]
pub(crate) struct Proxy {
    #[command(flatten)]
    common: Common,

    /// Where workers connect
    #[arg(long, value_name = "IP:PORT")]
    listen_workers: Option<SocketAddr>,

    /// Where clients connect
    #[arg(long, value_name = "IP:PORT")]
    listen_clients: Option<SocketAddr>,
}

impl Proxy {
    /// As [`Gateway::load`].
    ///
    /// # Errors
    /// See [`config::load`].
    pub(crate) fn load(self) -> anyhow::Result<ProxyFile> {
        let (file, mut flags) = self.common.overrides();
        flags.extend(self.listen_workers.map(|address| ("listen_workers", address.to_string())));
        flags.extend(self.listen_clients.map(|address| ("listen_clients", address.to_string())));
        config::load(file.as_deref(), environment(), flags)
    }
}

/// Run a worker: it answers with a model server, or with the built-in engine.
///
/// It connects to proxies and takes as many of their requests as its limit allows.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cocoon worker --config worker.toml
  cocoon worker --config worker.toml --model 'Qwen/Qwen3-8B@COMMIT:HASH' --engine-url http://127.0.0.1:8000

crates/cocoon/examples/worker.toml documents every field.")]
pub(crate) struct Worker {
    #[command(flatten)]
    common: Common,

    /// The model's full name, NAME@COMMIT:VERITYHASH
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,

    /// The OpenAI-style model server that answers
    #[arg(long, value_name = "URL")]
    engine_url: Option<String>,
}

impl Worker {
    /// As [`Gateway::load`].
    ///
    /// # Errors
    /// See [`config::load`].
    pub(crate) fn load(self) -> anyhow::Result<WorkerFile> {
        let (file, mut flags) = self.common.overrides();
        flags.extend(self.model.map(|model| ("model", model)));
        flags.extend(self.engine_url.map(|url| ("engine.url", url)));
        config::load(file.as_deref(), environment(), flags)
    }
}

/// The environment, without what is not text: no field's value could be that.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
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
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{} says nothing about itself", command.get_name());
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {} has no help",
                    command.get_name(),
                    argument.get_id()
                );
            }
        }
    }
}
