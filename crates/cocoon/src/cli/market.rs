//! `cocoon market`.

use std::path::PathBuf;

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
  cocoon market --json                          as GET /v1/market answers it
  cocoon market --gateway https://gateway.example.com --api-key-file key.txt")]
pub(crate) struct Market {
    /// The gateway: IP:PORT, or its URL
    #[arg(long, value_name = "URL", default_value = "127.0.0.1:10000")]
    pub(crate) gateway: String,

    /// A private file with an API key, for a gateway that asks for one; without it, COCOON_API_KEY in the environment
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,

    /// Only models with this in their name
    #[arg(value_name = "MODEL")]
    pub(crate) model: Option<String>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
