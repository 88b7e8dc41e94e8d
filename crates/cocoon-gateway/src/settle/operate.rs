//! What an operator does with the channels while the gateway is stopped: get everything back, pay in, take out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cocoon_chain::settler::{Emptied, RETRY_AFTER, Step};
use cocoon_chain::wallet::SendError;
use cocoon_chain::{Chain, ChainError};
use cocoon_settle::{ACCOUNT_RESERVE_NANOTON, COMMISSION_NANOTON, FundsNeeded, Purpose, Transfer};
use cocoon_store::StoreError;
use cocoon_ton::Address;
use cocoon_ton::message::Body;

use super::round::{Entry, RoundError};
use super::till::{Emptying, Till};
use super::{ReadError, Settlement, SettlementConfig};
use crate::book::BookLoadError;

/// What stays in the wallet for each channel whose coins the proxy contract lacks, in nanoton: what a message carries, the
/// reserve of the client contract, and fees.
const FEES_TO_ASK_AGAIN_NANOTON: u64 = 300_000_000;
/// Longest pause while coins are on their way.
const ARRIVAL_PAUSE: Duration = Duration::from_secs(2);

/// What to get back, and how.
#[derive(Debug, Clone)]
pub struct LeaveConfig {
    /// The gateway's store. No gateway may be running on it.
    pub store: PathBuf,
    /// The gateway's wallet; `poll` and `min_pause` say how often to look.
    pub settlement: SettlementConfig,
}

/// A step on the way out.
#[derive(Debug, Clone, PartialEq)]
pub enum LeaveStep {
    /// So many channels may hold coins.
    Began {
        /// How many.
        channels: usize,
    },
    /// A message was sent.
    Sent {
        /// The client contract.
        contract: Address,
        /// Why.
        purpose: Purpose,
        /// What the contract said; 0 and 1 mean success. `None` where it was not seen.
        exit_code: Option<i32>,
    },
    /// A delay runs: the proxy has this long to charge what was used.
    Waiting {
        /// The chain's time at its end, in Unix seconds.
        until_unix_time: u64,
        /// The chain's time now.
        now_unix_time: u64,
    },
    /// The wallet cannot pay the fees. It goes on once it can.
    NeedsFunds(FundsNeeded),
    /// Something failed; it is tried again.
    Retrying {
        /// What failed.
        error: String,
        /// When.
        after: Duration,
    },
    /// All channels are closed; their last coins are on their way to the wallet.
    Arriving,
    /// All coins of the wallet went to its owner.
    Emptied(Emptied),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Left {
    /// What became of the wallet's coins.
    pub wallet: WalletEnd,
    /// Client contracts whose coins the proxy contract lacks, and how many, in nanoton. Leave again once it has some.
    pub unpaid: Vec<(Address, u64)>,
}

/// What became of a wallet's coins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalletEnd {
    /// The owner has them.
    Sent {
        /// The owner.
        owner: Address,
        /// How many, in nanoton, fees included; 0 where there were none.
        nanoton: u64,
    },
    /// The wallet has no owner but the holder of its key; the coins stay there.
    NoOwner {
        /// How many, in nanoton.
        nanoton: u64,
    },
    /// A wallet of the published kind sends nothing for its key with less than 2 TON. Its owner gets the coins by sending
    /// it a message with the text `w`.
    OwnersTextNeeded {
        /// The owner.
        owner: Option<Address>,
        /// How many, in nanoton.
        nanoton: u64,
    },
}

/// Which channels are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channels {
    /// All that are open.
    All,
    /// The one of this client contract.
    One(Address),
}

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// The store cannot be read.
    #[error("the gateway's store: {0}")]
    Book(#[from] BookLoadError),
    /// The store cannot be written.
    #[error("the gateway's store: {0}")]
    Store(#[from] StoreError),
    /// The chain or the wallet cannot.
    #[error(transparent)]
    Send(#[from] SendError),
    /// What the chain shows cannot be.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is no such channel.
    #[error("the gateway has no open channel {0}; /jsonstats and the logs name those that it has")]
    UnknownChannel(Address),
    /// There is no channel at all.
    #[error("the gateway has no open channel; it opens one by itself when it meets a proxy")]
    NoChannel,
    /// The wallet has too few coins. Nothing was sent.
    #[error("{0}")]
    Funds(FundsNeeded),
}

impl From<ChainError> for OperateError {
    fn from(error: ChainError) -> Self {
        Self::Send(SendError::Chain(error))
    }
}

impl From<RoundError> for OperateError {
    fn from(error: RoundError) -> Self {
        match error {
            RoundError::Send(error) => Self::Send(error),
            RoundError::Read(error) => Self::Read(error),
            RoundError::Store(error) => Self::Store(error),
            RoundError::Stalled => {
                let (reason, retry_after) = (error.to_string(), None);
                Self::Send(SendError::Chain(ChainError::Unavailable { reason, retry_after }))
            }
        }
    }
}

impl OperateError {
    /// Whether waiting may help.
    fn passes(&self) -> bool {
        match self {
            Self::Send(SendError::Sign(_) | SendError::Frozen(_)) => false,
            Self::Send(SendError::Chain(error)) => !matches!(error, ChainError::Unsupported { .. }),
            Self::Send(_) | Self::Read(_) => true,
            _ => false,
        }
    }
}

/// Does something until the chain lets it be done.
async fn waited_out<T>(
    progress: &mut impl FnMut(LeaveStep),
    attempt: impl AsyncFn() -> Result<T, OperateError>,
) -> Result<T, OperateError> {
    loop {
        match attempt().await {
            Err(error) if error.passes() => {
                progress(LeaveStep::Retrying { error: error.to_string(), after: RETRY_AFTER });
                tokio::time::sleep(RETRY_AFTER).await;
            }
            other => return other,
        }
    }
}

impl Settlement {
    /// Says that all channels are to be left.
    fn leave_all(&self) -> usize {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut channels = 0;
        for (contract, record) in &mut inner.records.by_contract {
            if inner.channels.contains_key(contract) && record.finished_spent_nanoton.is_none() {
                record.leave = true;
                channels += 1;
            }
        }
        channels
    }
}

/// Gets everything back: closes all channels, waiting for the delays that run, and sends all coins of the wallet to its
/// owner. Can be broken off at any moment and called again. Errors of the chain are waited out; `progress` tells of
/// everything.
///
/// # Errors
/// [`OperateError`] where the store does not work, or the wallet cannot be emptied. Nothing is lost; call it again.
pub async fn leave(
    config: LeaveConfig,
    chain: Arc<dyn Chain>,
    mut progress: impl FnMut(LeaveStep) + Send,
) -> Result<Left, OperateError> {
    let till = Till::open(config, chain).await?;
    let settlement = &till.settlement;
    progress(LeaveStep::Began { channels: settlement.leave_all() });
    let unpaid = close_channels(&till, &mut progress).await?;
    let mut told = false;
    while !waited_out(&mut progress, async || till.all_arrived().await).await? {
        if !std::mem::replace(&mut told, true) {
            progress(LeaveStep::Arriving);
        }
        tokio::time::sleep(settlement.pause.min(ARRIVAL_PAUSE)).await;
    }
    // Whoever is not paid yet needs fees to ask again.
    let keep_nanoton = FEES_TO_ASK_AGAIN_NANOTON.saturating_mul(unpaid.len() as u64);
    let mut emptied = 0_u64;
    let wallet = loop {
        // Coins may come in between.
        match waited_out(&mut progress, async || till.empty_wallet(keep_nanoton).await).await? {
            Emptying::More(step) => {
                emptied = emptied.saturating_add(step.nanoton);
                progress(LeaveStep::Emptied(step));
            }
            Emptying::Over(end) => break end,
        }
    };
    let wallet = match wallet {
        WalletEnd::Sent { owner, .. } => WalletEnd::Sent { owner, nanoton: emptied },
        other => other,
    };
    till.close().await?;
    Ok(Left { wallet, unpaid })
}

/// Closes all channels as far as that is possible; says which could not be paid.
async fn close_channels(
    till: &Till,
    progress: &mut impl FnMut(LeaveStep),
) -> Result<Vec<(Address, u64)>, OperateError> {
    let settlement = &till.settlement;
    let mut waiting = None;
    let mut lacking = None;
    loop {
        let outcome = settlement.round(&till.book).await;
        let wait = settlement.wait_after(&outcome).time.max(settlement.pause);
        let round = match outcome {
            Ok(round) => round,
            Err(error) => {
                let error = OperateError::from(error);
                if !error.passes() {
                    return Err(error);
                }
                progress(LeaveStep::Retrying { error: error.to_string(), after: wait });
                tokio::time::sleep(wait).await;
                continue;
            }
        };
        for step in &round.steps {
            let (contract, purpose) = (step.transfer.to, step.transfer.purpose);
            progress(LeaveStep::Sent { contract, purpose, exit_code: step.exit_code });
        }
        if round.needs != lacking {
            lacking = round.needs;
            round.needs.into_iter().for_each(|needs| progress(LeaveStep::NeedsFunds(needs)));
        }
        if round.again_at != waiting {
            waiting = round.again_at;
            if let Some(until_unix_time) = waiting {
                progress(LeaveStep::Waiting { until_unix_time, now_unix_time: round.now });
            }
        }
        let idle = round.steps.is_empty() && !round.more && round.needs.is_none();
        if round.steps.is_empty() && round.finished {
            return Ok(Vec::new());
        }
        // Only a proxy contract without coins holds things up now. That may take for ever.
        if idle && round.again_at.is_none() && round.hold.is_some() {
            let report = settlement.report();
            let unpaid = report
                .borrow()
                .channels
                .iter()
                .filter(|channel| channel.balance_nanoton > 0)
                .map(|channel| (channel.contract, channel.balance_nanoton))
                .collect();
            return Ok(unpaid);
        }
        tokio::time::sleep(wait).await;
    }
}

/// Pays `amount_nanoton` into each of the channels, whatever the budget says; what is paid in counts against it.
///
/// # Errors
/// [`OperateError`]. Where there are more channels than the wallet can serve at once, some may be paid by then.
pub async fn deposit(
    config: LeaveConfig,
    chain: Arc<dyn Chain>,
    which: Channels,
    amount_nanoton: u64,
) -> Result<Vec<Step>, OperateError> {
    let till = Till::open(config, chain).await?;
    let excesses_to = till.settlement.settler.address();
    let transfers = till.open_channels(which).await?.into_iter().map(|entry| {
        let body = Body::TopUpClient { query_id: rand::random(), amount: amount_nanoton, excesses_to };
        transfer(&entry, amount_nanoton, body, Purpose::TopUp { amount: amount_nanoton })
    });
    let steps = till.send(transfers.collect()).await?;
    till.close().await?;
    Ok(steps)
}

/// Takes what is over the stake out of the channels and into the wallet; they stay open. What was used and is not charged
/// yet is covered by the stake.
///
/// # Errors
/// [`OperateError`]. Where there are more channels than the wallet can serve at once, some may have paid by then.
pub async fn withdraw(
    config: LeaveConfig,
    chain: Arc<dyn Chain>,
    which: Channels,
) -> Result<Vec<Step>, OperateError> {
    let till = Till::open(config, chain).await?;
    let excesses_to = till.settlement.settler.address();
    let open = till.open_channels(which).await?;
    let over_stake = open.into_iter().filter(|entry| {
        entry.shown.client.as_ref().is_some_and(|state| state.balance_nanoton > state.stake_nanoton)
    });
    let transfers = over_stake.map(|entry| {
        let body = Body::WithdrawClient { query_id: rand::random(), excesses_to };
        transfer(&entry, 0, body, Purpose::TakeLeftover)
    });
    let steps = till.send(transfers.collect()).await?;
    till.close().await?;
    Ok(steps)
}

fn transfer(entry: &Entry, amount_nanoton: u64, body: Body, purpose: Purpose) -> Transfer {
    let reserve = ACCOUNT_RESERVE_NANOTON.saturating_sub(entry.shown.held_nanoton);
    Transfer {
        to: entry.contract,
        value_nanoton: amount_nanoton.saturating_add(COMMISSION_NANOTON + reserve),
        init: None,
        body,
        purpose,
    }
}
