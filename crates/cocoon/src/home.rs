//! The end of a local network: everybody leaves, and the chain is asked where every coin went.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use cocoon_ledger::Nanoton;
use cocoon_proxy::WindUpStep;
use cocoon_ton::Address;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::amount;
use crate::config::{GatewayFile, ProxyFile, WorkerFile};
use crate::network::Network;
use crate::roles::{self, Backend};
use crate::treasury::{Treasury, coins};

/// How often nodes that leave look at the chain.
const POLL: Duration = Duration::from_millis(20);
/// How long a closed proxy contract holds coins for those who come late, in seconds, and a day more.
const LATE: u32 = 181 * 86_400;

/// Accounts of one party. Their coins are its own.
#[derive(Debug, Clone)]
pub(crate) struct Party {
    /// What it is called.
    pub(crate) name: &'static str,
    /// Wallets first, then contracts.
    pub(crate) accounts: Vec<Address>,
    /// Its coins at the start, in nanoton.
    pub(crate) before: u64,
}

/// Where all coins were before any node did anything.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    /// Owner of the network, client, proxy, workers.
    pub(crate) parties: Vec<Party>,
    /// Fees that had been paid by then, in nanoton.
    pub(crate) collected: u64,
}

impl Opening {
    /// Looks at the chain now.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn of(
        treasury: &Treasury,
        parties: Vec<(&'static str, Vec<Address>)>,
    ) -> anyhow::Result<Self> {
        let mut opening = Vec::new();
        for (name, accounts) in parties {
            let before = sum(treasury, &accounts).await?;
            opening.push(Party { name, accounts, before });
        }
        let collected = treasury.chain.supply().await?.collected_nanoton;
        Ok(Self { parties: opening, collected })
    }
}

async fn sum(treasury: &Treasury, accounts: &[Address]) -> anyhow::Result<u64> {
    let mut sum = 0_u64;
    for &account in accounts {
        sum += coins(&treasury.chain, account).await?;
    }
    Ok(sum)
}

/// One line of the settlement. Amounts in nanoton.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) before: u64,
    pub(crate) after: u64,
    /// What the party's tokens brought it (or cost, below zero), by the contracts.
    pub(crate) tokens: i128,
    /// What it paid to validators.
    pub(crate) fees: i128,
}

/// Where all coins are in the end.
#[derive(Debug, Clone)]
pub(crate) struct Settlement {
    pub(crate) lines: Vec<Line>,
    /// All fees that validators took, by the chain's own count.
    pub(crate) fees: u64,
}

impl Settlement {
    /// Coins that nobody can account for: what all had, less what all have, less the fees.
    pub(crate) fn difference(&self) -> i128 {
        let before: i128 = self.lines.iter().map(|line| i128::from(line.before)).sum();
        let after: i128 = self.lines.iter().map(|line| i128::from(line.after)).sum();
        before - after - i128::from(self.fees)
    }

    /// For machines. Amounts in nanoton, as texts.
    pub(crate) fn to_json(&self) -> Value {
        let lines = self.lines.iter().map(|line| {
            let value = json!({
                "before": amount::to_json(Nanoton(line.before)),
                "after": amount::to_json(Nanoton(line.after)),
                "for_tokens_nanoton": line.tokens.to_string(),
                "fees_nanoton": line.fees.to_string(),
            });
            (line.name.to_owned(), value)
        });
        json!({
            "balances": lines.collect::<serde_json::Map<_, _>>(),
            "fees": amount::to_json(Nanoton(self.fees)),
            "difference_nanoton": self.difference().to_string(),
        })
    }
}

/// What was signed for, in nanoton, as the books of the nodes have it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signed {
    pub(crate) paid: u64,
    pub(crate) earned: u64,
    pub(crate) kept: u64,
}

/// Ends the network: the gateway gets its coins back, workers are paid to the last token, the proxy closes, and all
/// that is left comes to the owners. Delays of the contracts are passed by moving the chain's clock.
///
/// # Errors
/// Something does not come home.
pub(crate) async fn send_home(network: Network, signed: Signed) -> anyhow::Result<Settlement> {
    let backend = Backend::settling(network.treasury.rooted.clone());
    let mut opening = network.opening.clone();
    let contracts = contracts(&network);
    for (party, contracts) in opening.parties.iter_mut().zip(contracts) {
        party.accounts.extend(contracts);
    }
    let (gateway, workers, proxy) = (network.files.gateway, network.files.workers, network.files.proxy);
    // The proxy is still there, and grants the refund at once.
    network.gateway.shutdown().await;
    leave_gateway(&gateway, &backend).await.context("the gateway's coins")?;
    for (file, worker) in workers.iter().zip(network.workers) {
        worker.shutdown().await;
        leave_worker(file, &backend).await.context("a worker's coins")?;
    }
    network.proxy.shutdown().await;
    network.chain_server.shutdown().await;
    let treasury = network.treasury;
    // The first time closes everything, the second fetches what was held for those who come late.
    for _ in 0..2 {
        wind_up_proxy(&proxy, &backend, &treasury).await.context("the proxy's coins")?;
        treasury.chain.advance(LATE).await?;
    }
    let settlement = settle(&treasury, &opening, signed).await;
    drop(backend);
    treasury.close().await;
    settlement
}

/// The contracts of each party, in the order of the opening: none of the network's owner.
fn contracts(network: &Network) -> [Vec<Address>; 4] {
    let channels = network.gateway.role.settlement().map(|report| report.borrow().channels.clone());
    let client = channels.into_iter().flatten().map(|channel| channel.contract).collect();
    let workers = network.workers.iter().filter_map(|worker| worker.role.settlement());
    let workers = workers.flat_map(|view| view.proxies.into_iter().map(|due| due.contract)).collect();
    [Vec::new(), client, vec![network.proxy.role.contract()], workers]
}

async fn leave_gateway(file: &GatewayFile, backend: &Backend) -> anyhow::Result<()> {
    let dir = roles::open_dir(file)?;
    let mut config = roles::gateway_till(file, &dir, backend)?;
    (config.settlement.poll, config.settlement.min_pause) = (POLL, POLL);
    let left = cocoon_gateway::leave(config, Arc::clone(&backend.chain), |step| {
        tracing::info!("gateway: {step:?}");
    })
    .await?;
    ensure!(left.unpaid.is_empty(), "the proxy contract cannot pay {} refunds", left.unpaid.len());
    Ok(())
}

async fn leave_worker(file: &WorkerFile, backend: &Backend) -> anyhow::Result<()> {
    let dir = roles::open_dir(file)?;
    let mut config = roles::worker_till(file, &dir, true)?;
    (config.settlement.poll, config.settlement.min_pause) = (POLL, POLL);
    let left = cocoon_worker::leave(config, Arc::clone(&backend.chain), 1, |_| ()).await?;
    ensure!(left.needs.is_none(), "the worker's wallet cannot pay the fees");
    Ok(())
}

async fn wind_up_proxy(file: &ProxyFile, backend: &Backend, treasury: &Treasury) -> anyhow::Result<()> {
    let dir = roles::open_dir(file)?;
    let mut config = roles::proxy_till(file, &dir, backend)?;
    if let Some(settlement) = &mut config.settlement {
        (settlement.poll, settlement.min_pause) = (POLL, POLL);
    }
    let (waits, mut delays) = mpsc::unbounded_channel();
    let winding = cocoon_proxy::wind_up(config, Arc::clone(&backend.chain), move |step| {
        if let WindUpStep::Waiting { until_unix_time } = step {
            // Whoever listens ends together with this.
            let _ = waits.send(until_unix_time);
        }
    });
    tokio::pin!(winding);
    loop {
        tokio::select! {
            done = &mut winding => return Ok(done.map(drop)?),
            Some(until) = delays.recv() => {
                let ahead = until.saturating_sub(u64::from(treasury.chain.now().await?));
                treasury.chain.advance(u32::try_from(ahead).unwrap_or(u32::MAX).saturating_add(1)).await?;
            }
        }
    }
}

async fn settle(treasury: &Treasury, opening: &Opening, signed: Signed) -> anyhow::Result<Settlement> {
    let tokens = [0, -i128::from(signed.paid), i128::from(signed.kept), i128::from(signed.earned)];
    let mut lines = Vec::new();
    for (party, tokens) in opening.parties.iter().zip(tokens) {
        let after = sum(treasury, &party.accounts).await?;
        let fees = i128::from(party.before) + tokens - i128::from(after);
        lines.push(Line { name: party.name, before: party.before, after, tokens, fees });
    }
    let collected = treasury.chain.supply().await?.collected_nanoton;
    Ok(Settlement { lines, fees: collected.saturating_sub(opening.collected) })
}

/// The contracts' own chain is the judge: what it shows must be what the books say.
///
/// # Errors
/// A coin is missing, or was made from nothing.
pub(crate) fn check(settlement: &Settlement) -> anyhow::Result<()> {
    let difference = settlement.difference();
    ensure!(difference == 0, "the coins do not add up: {difference} nanoton are missing");
    let paid: i128 = settlement.lines.iter().map(|line| line.fees).sum();
    let fees = i128::from(settlement.fees);
    ensure!(paid == fees, "the parties paid {paid} nanoton of fees, validators took {fees}");
    let odd = settlement.lines.iter().find(|line| line.fees < 0);
    match odd {
        Some(line) => anyhow::bail!("{} has more than it is owed", line.name),
        None => Ok(()),
    }
}
