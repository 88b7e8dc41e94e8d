//! `cocoon doctor`: whether a machine will do for a node.

use std::path::PathBuf;

use clap::Args;

use super::Role;

/// Tell whether this machine is ready to be a worker, a proxy or a gateway, and how to mend what is not.
///
/// Looks at the processor and its TEE (Intel TDX, AMD SEV-SNP), the kernel, memory, NVIDIA GPUs, the clock, the disk, ports
/// and limits. Changes nothing; contacts nobody but this machine, unless --online or --check-url ask for it. Some
/// things are only seen by root.
#[derive(Debug, Args)]
#[command(after_help = "\
Ends with
  0   ready
  1   there are problems that must be mended
  3   all works, but there is no TEE here: fine for test networks, where nobody asks for evidence.
      A gateway needs no TEE, and never ends with 3

Examples:
  cocoon doctor
  cocoon doctor --config worker.toml --online
  cocoon doctor --role proxy --json
  cocoon doctor --model-path /models/qwen3-8b")]
pub(crate) struct Doctor {
    /// What the machine is to be
    #[arg(long, value_enum, default_value_t = Role::Worker)]
    pub(crate) role: Role,

    /// The role's configuration: whether what it asks for is there
    ///
    /// As the role itself does, it also takes what the environment sets.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Where the model's files are, a file or a directory: their size is compared with the memory
    #[arg(long, value_name = "PATH")]
    pub(crate) model_path: Option<PathBuf>,

    /// Try to connect to the chain server, proxies, engine and certificate services, too
    ///
    /// Connections are made and closed again; only the engine is asked how it is.
    #[arg(long)]
    pub(crate) online: bool,

    /// Try to connect to this server, too; may be given several times
    #[arg(long, value_name = "URL")]
    pub(crate) check_url: Vec<String>,

    /// Look at the /proc, /sys, /dev, /etc, /run and /var of another system, below this directory
    ///
    /// For tests, and for what was copied from another machine. Disk, ports and the date are still this machine's.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,

    /// Print one line of JSON: all checks, and a summary
    #[arg(long)]
    pub(crate) json: bool,
}
