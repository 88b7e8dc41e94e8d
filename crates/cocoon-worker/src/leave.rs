//! A worker's way out, with the node stopped: everything that proxies owe is paid, also by those that are gone for good;
//! then, if so wished, the wallet's coins go to its owner. Every step can be repeated: what is done is not done again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cocoon_chain::settler::Step;
use cocoon_chain::wallet::{SendError, WalletDriver};
use cocoon_chain::{Chain, ChainError, MAX_TRANSACTIONS_PER_CALL, Transaction, TransactionId};
use cocoon_settle::FundsNeeded;
use cocoon_settle::worker::WorkerPolicy;
use cocoon_store::{Store as _, StoreError};
use cocoon_ton::wallet::{OutMessage, PUBLISHED_MIN_BALANCE_NANOTON};
use cocoon_ton::{Address, WalletKind};
use tokio::time::Instant;

use crate::open_store;
use crate::settle::{ProxyDue, Settlement, SettlementConfig};

/// Mode: all coins of the sender go along.
const MODE_CARRY_ALL: u8 = 128;
/// Less than this is left in the wallet: sending it would cost about as much.
const SMALLEST_SWEEP_NANOTON: u64 = 10_000_000;
/// How long what is left of a payout's message is waited for; it says that the payout is over.
const REST: Duration = Duration::from_secs(60);
/// Time between two looks for it on a chain that needs time.
const LOOK: Duration = Duration::from_millis(500);

/// What [`leave`] needs to know.
#[derive(Debug, Clone)]
pub struct LeaveConfig {
    /// The worker's store, [`crate::WorkerConfig::store`]. No worker may be using it.
    pub store: PathBuf,
    /// Who gets the wallet's coins where the wallet itself names no owner.
    pub owner: Address,
    /// The worker's settlement. Its policy is not used.
    pub settlement: SettlementConfig,
    /// Whether the wallet's coins go to the owner in the end.
    pub exit: bool,
}

/// How things are after [`leave`].
#[derive(Debug, Clone, PartialEq)]
pub struct Left {
    /// What was paid to the worker's owner now.
    pub paid_nanoton: u64,
    /// What each proxy owes still, and why.
    pub proxies: Vec<ProxyDue>,
    /// Set where the wallet lacks coins for fees: the coins of the wallet then stay, too.
    pub needs: Option<FundsNeeded>,
    /// What became of the wallet's coins.
    pub rest: Rest,
}

/// What became of the wallet's coins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// They are in the wallet, as wished or because more are needed there.
    Kept {
        /// So many.
        nanoton: u64,
    },
    /// They went to the owner.
    Sent {
        /// The owner.
        to: Address,
        /// So many.
        nanoton: u64,
        /// The wallet's transaction.
        transaction: TransactionId,
    },
    /// The published wallet sends nothing with less than 2 TON. Its owner takes the coins by sending it the text `w`.
    OwnerMustTake {
        /// The owner.
        owner: Address,
        /// So many.
        nanoton: u64,
    },
}

/// Why [`leave`] could not go on. Calling it again is safe.
#[derive(Debug, thiserror::Error)]
pub enum LeaveError {
    /// The orders cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The chain does not do its part.
    #[error(transparent)]
    Send(#[from] SendError),
}

/// Has everything paid that proxies owe, where it is worth at least `from_nanoton`; `progress` hears of each message.
/// Then, if [`LeaveConfig::exit`] says so, sends the wallet's coins to its owner.
///
/// # Errors
/// [`LeaveError`].
pub async fn leave(
    config: LeaveConfig,
    chain: Arc<dyn Chain>,
    from_nanoton: u64,
    mut progress: impl FnMut(Step),
) -> Result<Left, LeaveError> {
    let (store, channels) = open_store(config.store.clone()).await?;
    let (wallet, key) = (config.settlement.wallet.clone(), config.settlement.key.clone());
    let settlement = SettlementConfig {
        policy: WorkerPolicy { payout_at_nanoton: from_nanoton },
        require_backing: false,
        // No contract rests here.
        poll: Duration::ZERO,
        ..config.settlement.clone()
    };
    let settlement = Settlement::new(settlement, Arc::clone(&chain), channels);
    settlement.pay_out(from_nanoton);
    let mut before = None;
    loop {
        let steps = settlement.round().await?;
        let proxies = settlement.proxies();
        before.get_or_insert_with(|| paid(&proxies));
        if steps.is_empty() {
            break;
        }
        steps.iter().cloned().for_each(&mut progress);
        for step in &steps {
            until_over(chain.as_ref(), wallet.address(), step, &proxies).await?;
        }
    }
    let view = settlement.view();
    let paid_nanoton = paid(&view.proxies).saturating_sub(before.unwrap_or(0));
    // All was read that is needed, and nothing was written.
    let _ = tokio::task::spawn_blocking(move || store.close()).await;
    let driver = WalletDriver::new(chain, wallet, key);
    let rest = if config.exit && view.needs.is_none() {
        sweep(&driver, config.owner).await?
    } else {
        Rest::Kept { nanoton: driver.view().await?.balance_nanoton }
    };
    Ok(Left { paid_nanoton, proxies: view.proxies, needs: view.needs, rest })
}

fn paid(proxies: &[ProxyDue]) -> u64 {
    proxies.iter().filter_map(ProxyDue::paid_nanoton).fold(0, u64::saturating_add)
}

/// Waits until the payout was made or has come back: in both cases coins return to the wallet.
async fn until_over(
    chain: &dyn Chain,
    wallet: Address,
    step: &Step,
    proxies: &[ProxyDue],
) -> Result<(), LeaveError> {
    let contract = step.transfer.to;
    let proxy = proxies.iter().find(|due| due.contract == contract).map(|due| due.proxy);
    let returned = |transaction: &Transaction| {
        let source = transaction.in_message.as_ref().and_then(|message| message.source);
        source.is_some() && (source == Some(contract) || source == proxy)
    };
    let deadline = Instant::now() + REST;
    let mut pause = Duration::from_millis(20);
    while Instant::now() < deadline {
        let after = step.transaction.lt;
        match chain.transactions_since(wallet, after, MAX_TRANSACTIONS_PER_CALL).await {
            Ok(since) if since.iter().any(returned) => return Ok(()),
            Ok(_) | Err(ChainError::Unavailable { .. }) => {}
            Err(error) => return Err(SendError::from(error).into()),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK);
    }
    tracing::warn!(%contract, "it is not known yet whether the payout was made; ask again later");
    Ok(())
}

async fn sweep(driver: &WalletDriver, owner: Address) -> Result<Rest, SendError> {
    let view = driver.settled().await?;
    let nanoton = view.balance_nanoton;
    let to = driver.wallet().owner().unwrap_or(owner);
    if nanoton < SMALLEST_SWEEP_NANOTON {
        return Ok(Rest::Kept { nanoton });
    }
    if view.kind == WalletKind::Published && nanoton < PUBLISHED_MIN_BALANCE_NANOTON {
        return Ok(Rest::OwnerMustTake { owner: to, nanoton });
    }
    let all =
        OutMessage { to, value_nanoton: 0, bounce: false, mode: MODE_CARRY_ALL, init: None, body: None };
    let sent = driver.send(&view, vec![all]).await?;
    let arrived = sent.landed.first().and_then(|landing| landing.transaction.as_ref());
    Ok(match arrived.and_then(|arrived| arrived.in_message.as_ref()) {
        Some(message) => {
            tracing::info!(%to, nanoton = message.value_nanoton, "sent the wallet's coins to its owner");
            Rest::Sent { to, nanoton: message.value_nanoton, transaction: sent.transaction.id }
        }
        None => Rest::Kept { nanoton: driver.view().await?.balance_nanoton },
    })
}
