//! `cocoon wallet exit`: a node's way out, told step by step, and what came back in the end.

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::bail;
use cocoon_ledger::Nanoton;
use cocoon_ton::RootParams;

use super::node::{reach, told};
use super::print;
use crate::calendar;
use crate::cli::Acting;
use crate::config::{GatewayFile, ProxyFile, RoleFile, Root, WorkerFile};
use crate::exit::{self, Exit, Progress};
use crate::record::{Record, Telling, Value};
use crate::roles::Backend;
use crate::sending::confirm;
use crate::terminal::{self, Style};

/// Brings a gateway's coins home.
///
/// # Errors
/// As [`exit::gateway`], or something did not come back.
pub(super) async fn gateway(acting: &Acting) -> anyhow::Result<()> {
    let file: GatewayFile = acting.load()?;
    let backend = reach(GatewayFile::ROLE, &file.root, &file.chain).await?;
    // Before anybody is asked for nothing.
    drop(exit::hold(&file)?);
    let delay = params(&backend).client_delay_before_close_seconds;
    let plan = format!(
        "All channels are closed and refunded, at once where the proxy has signed the refund, else after {}; then the \
         wallet's coins go to the owner.",
        calendar::span(delay.into())
    );
    let mut teller = Teller::begin(acting, &file.root, &plan).await?;
    let exit = exit::gateway(&file, &backend, |step| teller.hear(step)).await?;
    teller.end(&exit)
}

/// Brings a worker's coins home.
///
/// # Errors
/// As [`gateway`].
pub(super) async fn worker(acting: &Acting) -> anyhow::Result<()> {
    let file: WorkerFile = acting.load()?;
    let backend = reach(WorkerFile::ROLE, &file.root, &file.chain).await?;
    drop(exit::hold(&file)?);
    let plan = "All that proxies owe is paid to the owner; then the wallet's coins go there, too. Nothing is waited for.";
    let mut teller = Teller::begin(acting, &file.root, plan).await?;
    let exit = exit::worker(&file, &backend, |step| teller.hear(step)).await?;
    teller.end(&exit)
}

/// Brings a proxy's coins home.
///
/// # Errors
/// As [`gateway`].
pub(super) async fn proxy(acting: &Acting) -> anyhow::Result<()> {
    let file: ProxyFile = acting.load()?;
    let backend = reach(ProxyFile::ROLE, &file.root, &file.chain).await?;
    drop(exit::hold(&file)?);
    let delay = params(&backend).proxy_delay_before_close_seconds;
    let plan = format!(
        "All clients are refunded, workers that have a contract are paid (others are owed for half a year), and the proxy's \
         contract is closed, which takes {}; then stake, earnings and the wallet's coins go to the owner, but for what \
         fetching the rest in half a year will cost.",
        calendar::span(delay.into())
    );
    let mut teller = Teller::begin(acting, &file.root, &plan).await?;
    let exit = exit::proxy(&file, &backend, |step| teller.hear(step)).await?;
    teller.end(&exit)
}

fn params(backend: &Backend) -> RootParams {
    backend.chain.subscribe_root().borrow().params.clone()
}

/// Tells what happens as it happens, and remembers it.
struct Teller {
    json: bool,
    telling: Telling,
    steps: Vec<Record>,
}

impl Teller {
    /// Says what will be done, and asks.
    async fn begin(acting: &Acting, root: &Root, plan: &str) -> anyhow::Result<Self> {
        if !acting.json {
            terminal::print(&format!("{plan}\nIt may be interrupted at any moment, and run again.\n"))?;
        }
        if !acting.yes {
            confirm("Leave?").await?;
        }
        let telling = Telling { testnet: root.is_testnet, style: Style::stdout() };
        Ok(Self { json: acting.json, telling, steps: Vec::new() })
    }

    fn hear(&mut self, step: Progress) {
        if !self.json {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let style = self.telling.style;
            let words = match &step {
                step if step.refused() => style.bad(&step.to_string()),
                Progress::Waiting { .. } | Progress::FundsNeeded(_) | Progress::Retrying(_) => {
                    style.warn(&step.to_string())
                }
                step => step.to_string(),
            };
            // The coins come home whether or not somebody reads about it.
            let _ = writeln!(std::io::stdout().lock(), "{}  {words}", style.dim(&calendar::utc(now)));
        }
        self.steps.push(told(&step));
    }

    /// Shows what came back.
    fn end(self, exit: &Exit) -> anyhow::Result<()> {
        let gained = exit.after_nanoton.saturating_sub(exit.before_nanoton);
        let left = exit.left.iter().map(|left| {
            Record::new("left", "", "coins")
                .with("contract", Value::Address(left.contract))
                .with("amount", Value::Coins(left.nanoton))
                .with("why", Value::Text(left.why.clone()))
                .with_some("from", left.from.map(Value::Time))
        });
        let mut record = Record::new("exit", "", "What came back")
            .with("owner", Value::Address(exit.owner))
            .with("had", Value::Coins(exit.before_nanoton))
            .with("has", Value::Coins(exit.after_nanoton))
            .with("came_back", Value::Coins(gained))
            .with("node_wallet", Value::Address(exit.wallet))
            .with("left_in_wallet", Value::Coins(exit.in_wallet_nanoton))
            .with("left_elsewhere", Value::Parts(left.collect()));
        if self.json {
            record = record.with("steps", Value::Parts(self.steps));
        }
        print(&record, self.json, self.telling)?;
        let lacking: u64 = exit
            .left
            .iter()
            .filter(|left| !left.in_order)
            .fold(0, |sum, left| sum.saturating_add(left.nanoton));
        if lacking > 0 {
            bail!("{} did not come back yet, for the reasons above; run this again later", Nanoton(lacking));
        }
        Ok(())
    }
}
