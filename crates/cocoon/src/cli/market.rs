//! `cocoon market`.

use std::net::SocketAddr;

use clap::Args;

/// Show who offers what through a gateway, at which price, and how each worker has done.
///
/// For every model: coefficient, price in TON per million tokens of prompt and completion, load, time to the first byte,
/// tokens per second, success, and evidence of each worker, the cheapest first.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cocoon market                                 by the gateway on this machine
  cocoon market --gateway 10.0.0.5:10000 llama  only models whose name has llama in it
  cocoon market --json                          as GET /v1/market answers it")]
pub(crate) struct Market {
    /// Where the gateway listens for HTTP
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:10000")]
    pub(crate) gateway: SocketAddr,

    /// Only models with this in their name
    #[arg(value_name = "MODEL")]
    pub(crate) model: Option<String>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
