//! The way out, with the proxy stopped: all clients are refunded, all workers paid, the proxy contracts closed, and what is
//! the proxy's comes to its owner.

use std::sync::Arc;
use std::time::Duration;

use cocoon_chain::Chain;
use cocoon_chain::settler::{Emptied, RETRY_AFTER, Step};
use cocoon_chain::wallet::SendError;
use cocoon_settle::FundsNeeded;
use cocoon_ton::contracts::ContractStatus;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::settle::SettlementError;
use crate::{InstanceStatus, ProxyConfig, StartError, open, open_settlement};

/// What the wallet keeps to fetch, one day, what nobody claimed: a message's commission and its fees.
const FETCH_LATER_NANOTON: u64 = 300_000_000;
/// How often the chain's time is looked at while a delay runs.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What happens on the way out.
#[derive(Debug, Clone)]
pub enum WindUpStep {
    /// A message was sent, and has arrived.
    Sent(Box<Step>),
    /// A delay of a contract runs.
    Waiting {
        /// Until this chain time, in Unix seconds.
        until_unix_time: u64,
    },
    /// The wallet lacks coins; the way out goes on once it has them.
    FundsNeeded(FundsNeeded),
    /// Something failed and is tried again.
    Failed(String),
    /// The wallet's coins were sent to its owner.
    Emptied(Emptied),
}

/// What is left for later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest {
    /// Closed contracts that hold coins for workers and clients who come late. What nobody claims can be taken from
    /// each one's `unlock_unix_time` on, by winding up once more.
    pub contracts: Vec<InstanceStatus>,
}

/// Winds a stopped proxy up. May be interrupted at any time and started again.
///
/// # Errors
/// What stands in the way from the start, or a ledger that went back. What may pass is reported and tried again.
pub async fn wind_up(
    config: ProxyConfig,
    chain: Arc<dyn Chain>,
    mut progress: impl FnMut(WindUpStep),
) -> Result<Rest, StartError> {
    let Some(settlement_config) = config.settlement.clone() else {
        return Ok(Rest { contracts: Vec::new() });
    };
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let core = open(&config, Arc::clone(&chain), &tasks, &stop).await?;
    let _ends = stop.clone().drop_guard();
    let mut settlement = open_settlement(&config, &settlement_config, &core, &chain, true).await?;
    let roots = chain.subscribe_root();
    let mut told = (None, None);
    let rest = loop {
        let (plan, steps) = match settlement.round(&roots).await {
            Ok(done) => done,
            Err(error) if error.passes() => {
                progress(WindUpStep::Failed(error.to_string()));
                tokio::time::sleep(RETRY_AFTER).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        steps.into_iter().for_each(|step| progress(WindUpStep::Sent(Box::new(step))));
        let rest = settlement.rest();
        // Who comes late has half a year; nobody waits for that here.
        let only_late = rest.iter().all(|left| left.status == Some(ContractStatus::Closed));
        if plan.finished || only_late && !plan.more {
            break rest;
        }
        if plan.more {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        let needs = settlement.settler().status().borrow().needs;
        if (plan.again_at, needs) != told {
            told = (plan.again_at, needs);
            plan.again_at
                .into_iter()
                .for_each(|until_unix_time| progress(WindUpStep::Waiting { until_unix_time }));
            needs.into_iter().for_each(|needs| progress(WindUpStep::FundsNeeded(needs)));
        }
        tokio::time::sleep(LOOK_EVERY.min(settlement_config.poll)).await;
    };
    // What is held for those who come late is fetched with another message.
    let keep = if rest.is_empty() { 0 } else { FETCH_LATER_NANOTON };
    match settlement.settler().empty(keep).await {
        Ok(emptied) => emptied.into_iter().for_each(|emptied| progress(WindUpStep::Emptied(emptied))),
        // Its owner can command it, also with little left.
        Err(error @ SendError::PublishedWalletLow { .. }) => progress(WindUpStep::Failed(error.to_string())),
        Err(error) => return Err(SettlementError::from(error).into()),
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    let closing = Arc::clone(&core);
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || closing.close_store()).await {
        tracing::error!(%error, "the log was not closed cleanly");
    }
    Ok(Rest { contracts: rest })
}
