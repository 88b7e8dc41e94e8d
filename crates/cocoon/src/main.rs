//! `cocoon`: the gateway, the proxy and the worker of a Cocoon network in one program, alone or all together.
//!
//! This crate reads the command line and the configuration, keeps the keys, and puts the roles together; what a role
//! does is in its own crate. It is the only place that handles signals, sets up logging and writes to the terminal.
#![forbid(unsafe_code)]

mod amount;
mod attest_command;
mod attest_report;
mod attestation;
mod calendar;
mod chain_access;
mod chain_command;
mod chain_server;
mod cli;
mod config;
mod demo;
mod dir;
mod doctor;
mod exit;
mod gateway_client;
mod home;
mod http_client;
mod keys;
mod keys_command;
mod logging;
mod market_command;
mod model_command;
mod model_files;
mod network;
mod open_files;
mod pinned;
mod record;
mod roles;
mod root_command;
mod sending;
mod signals;
mod sse;
mod telemetry;
mod terminal;
mod treasury;
mod tx;
mod up;
mod wallet_command;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use crate::attest_command::NoEvidence;
use crate::cli::{Cli, Command};
use crate::signals::{Asked, Interrupted, Signals};
use crate::tx::Undecodable;

/// Streams are many small pieces of memory that one thread takes and another gives back; the system's allocator spends up to a
/// third of the processor time on that where there are thousands.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a shell reports of a process ended by Ctrl-C: 128 + SIGINT.
const EXIT_INTERRUPTED: u8 = 130;
/// What wrong usage ends with, as of the command line itself.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) if error.is::<Interrupted>() => {
            terminal::complain(&error);
            ExitCode::from(EXIT_INTERRUPTED)
        }
        Err(error) => {
            terminal::complain(&error);
            if error.is::<Undecodable>() || error.is::<NoEvidence>() {
                ExitCode::from(EXIT_USAGE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // Services tell of themselves in the log, and outlive the terminal.
    let service = matches!(cli.command, Command::Gateway(_) | Command::Proxy(_) | Command::Worker(_));
    let (level, on_hang_up) = if service { ("info", Asked::Reload) } else { ("warn", Asked::Stop) };
    logging::start(cli.log.as_deref().unwrap_or(level), cli.log_format)?;
    if service || matches!(cli.command, Command::Up(_) | Command::Demo(_) | Command::Chain(_)) {
        open_files::raise();
    }
    let runtime =
        tokio::runtime::Runtime::new().context("cannot start: the system gives no threads or files")?;
    let outcome = runtime.block_on(async {
        let mut stop = Signals::listen(on_hang_up)?;
        let done = match cli.command {
            Command::Doctor(options) => return doctor::run(options, &mut stop).await,
            Command::Attest(options) => return attest_command::run(options, &mut stop).await,
            Command::Up(options) => up::run(options, &mut stop).await,
            Command::Demo(options) => demo::run(options, &mut stop).await,
            Command::Gateway(options) => roles::run_gateway(&options.load()?, &mut stop).await,
            Command::Proxy(options) => roles::run_proxy(&options.load()?, &mut stop).await,
            Command::Worker(options) => roles::run_worker(&options.load()?, &mut stop).await,
            Command::Keys(options) => keys_command::run(options).await,
            Command::Chain(options) => chain_command::run(options, &mut stop).await,
            Command::Model(options) => model_command::run(options, &mut stop).await,
            Command::Market(options) => market_command::run(options, &mut stop).await,
            Command::Tx(options) => tx::run(options, &mut stop).await,
            Command::Root(options) => root_command::run(options, &mut stop).await,
            Command::Wallet(options) => wallet_command::run(options, &mut stop).await,
        };
        done.map(|()| ExitCode::SUCCESS)
    });
    // After a second signal nothing is waited for, blocking work included; otherwise nothing is left.
    runtime.shutdown_background();
    outcome
}
