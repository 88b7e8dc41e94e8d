//! `cocoon up` and `cocoon demo`: networks on this machine.

use std::path::PathBuf;

use clap::Args;

use crate::config;

/// Most workers in one process: a limit on a slip of the finger, not on what works.
const MAX_WORKERS: i64 = 64;

/// Run a whole network on this machine: a gateway, a proxy and workers.
///
/// All run in one process, over real connections on the loopback interface, on an embedded TON chain with real contracts
/// and coins from a faucet. Proxy and workers run on simulated machines: their evidence is complete and verified as in
/// production, under test roots that nobody trusts without its seed.
#[derive(Debug, Args)]
#[command(after_help = "\
Files in DIR:
  endpoints.json    where everything listens; there while the network is ready
  simulated-seed.hex   what the simulated machines and their vendors are made from, for `cocoon attest verify`
  chain.sqlite      the chain, with the network's root contract; its owner's key is owner-key.hex
  gateway/, proxy/, worker-N/   keys, ledgers and configurations, kept over restarts

Ports: gateway BASE, proxy BASE+1000 to BASE+1002, workers from BASE+2000 on, chain BASE+3000.

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

    /// First port: 0 takes free ports everywhere, else at most 62535
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u16).range(..=MAX_PORT_BASE))]
    pub(crate) port_base: u16,

    /// Bits of proof of work between the nodes, 0 to 28. Low, since nobody else can connect
    #[arg(long, value_name = "BITS", default_value_t = config::LOOPBACK_DIFFICULTY, value_parser = clap::value_parser!(u8).range(..=28))]
    pub(crate) difficulty: u8,

    /// Requests at a time for each worker [default: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_AT_ONCE))]
    pub(crate) max_active: Option<u32>,

    /// HTTP connections at a time of the gateway [default: 16384]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_AT_ONCE))]
    pub(crate) max_connections: Option<u32>,

    /// Print one line of JSON when ready, instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Most requests or connections at a time: as many requests as a proxy takes of all its clients.
const MAX_AT_ONCE: i64 = 65_536;

/// The highest first port that leaves room for the chain's, which is the last.
const MAX_PORT_BASE: i64 = 65_535 - 3_000;

/// Summarise a file through a whole network, and check that the money adds up.
///
/// Brings a network up in a temporary directory, asks its gateway for the summary, and prints the answer, the metered
/// tokens, what the client paid, what the worker earned and what the proxy kept. Then everybody leaves the network, and
/// the chain is asked where every coin went. Ends with 0 if all sums agree to the nanoton, else with 1 and the reason.
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
