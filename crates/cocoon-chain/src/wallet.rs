//! The only way by which a node acts on the chain: its wallet, in steps none of which can happen twice.
//!
//! A plan is bound to the wallet's sequence number that it was made at:
//!
//! 1. [`WalletDriver::settled`] waits until all that the wallet sent has arrived, and tells its sequence number N. Only
//!    then the caller reads contracts and plans.
//! 2. [`WalletDriver::send`] signs the plan for the number N and for about a minute, and repeats the same bytes until
//!    the wallet obeys (its number is then N + 1) or the minute is over. Whatever else was signed for N never runs.
//!
//! Nothing is kept on disk: a process that dies between two steps finds all it needs on the chain, because it begins
//! with the first step. A plan that did not run, for whatever reason, is made anew from what the chain then says.

mod landing;
mod look;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cocoon_ton::wallet::{PUBLISHED_MIN_BALANCE_NANOTON, fees};
use cocoon_ton::{Address, Cell, OutMessage, SignError, SigningKey, Wallet, WalletKind};
use tokio::time::{Instant, sleep};

pub use landing::{LT_LOOKED_BACK, MAX_PAGES, SECONDS_UNDER_WAY};

use crate::{BlockRef, Chain, ChainError, Transaction, TransactionId};
use cocoon_ton::cell::encode_boc;
use landing::Arrived;
use look::Newest;

/// How often a message that the chain refuses at once is offered before that is believed.
const MAX_REFUSALS: u32 = 4;

/// How long the driver waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long a signed message may run, in seconds of the chain's time.
    pub valid_seconds: u32,
    /// How often a message that waits is sent again.
    pub resend: Duration,
    /// Pause before the second question; it doubles from question to question.
    pub first_poll: Duration,
    /// Longest pause between two questions.
    pub last_poll: Duration,
    /// How long a question is repeated while the chain does not answer, or answers from the past.
    pub answer: Duration,
    /// How long the driver waits for a message to run, and then for what it sent to arrive.
    pub landing: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            valid_seconds: 60,
            resend: Duration::from_secs(5),
            first_poll: Duration::from_millis(200),
            last_poll: Duration::from_secs(1),
            answer: Duration::from_secs(20),
            landing: Duration::from_secs(120),
        }
    }
}

/// A wallet at one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalletView {
    /// Where it is.
    pub address: Address,
    /// Which contract it is.
    pub kind: WalletKind,
    /// Coins that it has.
    pub balance_nanoton: u64,
    /// The sequence number that its next message must have; 0 before it is deployed.
    pub seqno: u32,
    /// Whether the contract is there.
    pub deployed: bool,
    /// The block that all this is from.
    pub at: BlockRef,
    /// Its newest transaction.
    pub last: Option<TransactionId>,
}

/// A plan that ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The wallet's transaction.
    pub transaction: Transaction,
    /// What became of each message of the plan, in its order.
    pub landed: Vec<Landing>,
}

/// What became of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landing {
    /// Its receiver.
    pub to: Address,
    /// The receiver's transaction. `None` where the message came back, or the wallet left it out because it could not
    /// pay for it.
    pub transaction: Option<Transaction>,
    /// Whether it came back from an account that does not exist, for which the chain lists no transactions.
    pub came_back: bool,
}

/// Why a plan did not run, or why it is not known whether it did. In each case the way on is [`WalletDriver::settled`]
/// and a new plan: that is safe always.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The chain cannot be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The wallet cannot send that.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// Too few coins. Nothing was sent.
    #[error(
        "the wallet {address} has {have_nanoton} nanoton and needs {needed_nanoton} with fees; send it coins"
    )]
    Funds {
        /// The messages' values and the fees, at most.
        needed_nanoton: u64,
        /// The wallet's balance.
        have_nanoton: u64,
        /// The wallet.
        address: Address,
    },
    /// The published wallet contract obeys nothing from outside for lack of coins. Nothing was sent.
    #[error(
        "the wallet {address} has {have_nanoton} nanoton and, being of the published kind, sends nothing with less \
         than {PUBLISHED_MIN_BALANCE_NANOTON}; send it coins, or take its coins out by a message with the text `w` \
         from its owner"
    )]
    PublishedWalletLow {
        /// The wallet.
        address: Address,
        /// The wallet's balance.
        have_nanoton: u64,
    },
    /// The wallet owes storage fees and is frozen. Nothing was sent.
    #[error("the wallet {0} is frozen because it owes storage fees; send it coins, and its contract again")]
    Frozen(Address),
    /// Another message ran at the plan's sequence number: a plan was used twice, or another program has the same key.
    /// Nothing of the plan was sent, nor ever will be.
    #[error(
        "the wallet {address} obeyed another message at its number {seqno}; nothing of this plan was sent. Let only \
         one program use a key"
    )]
    Overtaken {
        /// The wallet.
        address: Address,
        /// The number that the plan was made at.
        seqno: u32,
    },
    /// The message did not run in its time. It never will.
    #[error("the message of the wallet {address} for its number {seqno} was not taken within its time")]
    Expired {
        /// The wallet.
        address: Address,
        /// The number that the plan was made at.
        seqno: u32,
    },
    /// The chain refused the message again and again.
    #[error("the chain does not take the message of the wallet {address}: {reason}")]
    Refused {
        /// The wallet.
        address: Address,
        /// What the chain said.
        reason: String,
    },
    /// It is not known whether what the wallet sent has arrived.
    #[error(
        "within {waited_seconds} s it could not be seen that all messages of the wallet {address} arrived; whatever \
         they are, they are not lost: ask again"
    )]
    LandingUnknown {
        /// The wallet.
        address: Address,
        /// How long was waited.
        waited_seconds: u64,
    },
}

/// Acts through one wallet. One process should have one driver for a key; two do each other no harm, but one of two
/// plans made at once fails.
pub struct WalletDriver {
    chain: Arc<dyn Chain>,
    wallet: Wallet,
    key: SigningKey,
    timing: Timing,
    /// The newest answer, against endpoints that go back in time.
    newest: Mutex<Option<Newest>>,
    /// Held by whoever sends, or waits for what was sent: no two plans are signed at once.
    turn: tokio::sync::Mutex<Arrived>,
}

impl std::fmt::Debug for WalletDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalletDriver").field("wallet", &self.wallet.address()).finish_non_exhaustive()
    }
}

impl WalletDriver {
    /// Acts through `wallet`, which obeys `key`.
    pub fn new(chain: Arc<dyn Chain>, wallet: Wallet, key: SigningKey) -> Self {
        Self {
            chain,
            wallet,
            key,
            timing: Timing::default(),
            newest: Mutex::new(None),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// The same with other waiting times.
    #[must_use]
    pub fn with_timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// The wallet.
    pub const fn wallet(&self) -> &Wallet {
        &self.wallet
    }

    /// The wallet now. What it sent may be under way still: plan from [`Self::settled`].
    ///
    /// # Errors
    /// [`SendError::Chain`], [`SendError::Frozen`].
    pub async fn view(&self) -> Result<WalletView, SendError> {
        self.look(Instant::now() + self.timing.answer).await
    }

    /// The wallet once all that it sent has arrived, by whichever program it was sent. Waits for another plan of this
    /// driver.
    ///
    /// # Errors
    /// [`SendError::Chain`], [`SendError::Frozen`]; [`SendError::LandingUnknown`] after [`Timing::landing`].
    pub async fn settled(&self) -> Result<WalletView, SendError> {
        let mut arrived = self.turn.lock().await;
        let deadline = Instant::now() + self.timing.landing;
        let mut pause = self.pause();
        loop {
            let view = self.view().await?;
            if self.all_arrived(&view, &mut arrived).await? {
                return Ok(view);
            }
            self.wait(&mut pause, deadline).await?;
        }
    }

    /// Has the wallet send `messages`, at most [`Wallet::max_messages`], if its number is still that of `planned`, and
    /// waits until all have arrived. Where the future is dropped, the message may run or not, as after a crash.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn send(&self, planned: &WalletView, messages: Vec<OutMessage>) -> Result<Sent, SendError> {
        let mut arrived = self.turn.lock().await;
        let view = self.view().await?;
        if view.seqno != planned.seqno {
            return Err(self.overtaken(planned.seqno));
        }
        self.check_funds(&view, &messages)?;
        let now = u32::try_from(view.at.unix_time).unwrap_or(u32::MAX);
        let valid_until = now.saturating_add(self.timing.valid_seconds);
        let body = self.wallet.sign_body(&self.key, view.seqno, valid_until, &messages)?;
        let transaction = self.run(&view, &body, valid_until).await?;
        let landed = self.landings(&transaction, &messages, &mut arrived).await?;
        Ok(Sent { transaction, landed })
    }

    fn check_funds(&self, view: &WalletView, messages: &[OutMessage]) -> Result<(), SendError> {
        let fees = fees::estimate(&self.wallet, view.deployed, messages)?;
        let needed_nanoton =
            messages.iter().fold(fees, |sum, message| sum.saturating_add(message.value_nanoton));
        let (address, have_nanoton) = (view.address, view.balance_nanoton);
        if self.wallet.kind() == WalletKind::Published && have_nanoton < PUBLISHED_MIN_BALANCE_NANOTON {
            return Err(SendError::PublishedWalletLow { address, have_nanoton });
        }
        if have_nanoton < needed_nanoton {
            return Err(SendError::Funds { needed_nanoton, have_nanoton, address });
        }
        Ok(())
    }

    /// Sends the message with that body until the wallet has a transaction for it.
    async fn run(
        &self,
        before: &WalletView,
        body: &Cell,
        valid_until: u32,
    ) -> Result<Transaction, SendError> {
        let boc = encode_boc(&self.wallet.external(before.seqno, body)?);
        let deadline = Instant::now() + self.timing.landing;
        let mut offered = Offered::default();
        let mut pause = self.pause();
        loop {
            if offered.is_due(self.timing.resend) {
                offered.told(self.chain.send(boc.clone()).await)?;
            }
            let view = self.look(deadline).await?;
            if view.seqno != before.seqno {
                if let Some(transaction) = self.transaction_of(before, &view, body).await? {
                    return Ok(transaction);
                }
            } else if view.at.unix_time > u64::from(valid_until) {
                return Err(SendError::Expired { address: view.address, seqno: before.seqno });
            } else if let Some(reason) = offered.refused() {
                return Err(SendError::Refused { address: view.address, reason });
            }
            self.wait(&mut pause, deadline).await?;
        }
    }

    fn overtaken(&self, seqno: u32) -> SendError {
        SendError::Overtaken { address: self.wallet.address(), seqno }
    }

    fn pause(&self) -> Duration {
        self.timing.first_poll
    }

    /// Waits a little, and longer the next time.
    async fn wait(&self, pause: &mut Duration, deadline: Instant) -> Result<(), SendError> {
        if Instant::now() >= deadline {
            return Err(SendError::LandingUnknown {
                address: self.wallet.address(),
                waited_seconds: self.timing.landing.as_secs(),
            });
        }
        sleep(*pause).await;
        *pause = (*pause * 2).min(self.timing.last_poll);
        Ok(())
    }
}

/// What the chain said to a message that is sent again and again.
#[derive(Default)]
struct Offered {
    /// When it was last taken. A chain that has taken a message once may refuse it later, because it has run.
    taken: Option<Instant>,
    refusals: u32,
    reason: String,
}

impl Offered {
    fn is_due(&self, interval: Duration) -> bool {
        self.taken.is_none_or(|at| at.elapsed() >= interval)
    }

    fn told(&mut self, answer: Result<crate::MessageHash, ChainError>) -> Result<(), SendError> {
        match answer {
            Ok(_) => self.taken = Some(Instant::now()),
            Err(ChainError::Refused { reason }) => {
                self.refusals += 1;
                self.reason = reason;
                // Not every moment, once it was taken.
                self.taken = self.taken.map(|_| Instant::now());
            }
            Err(ChainError::Unavailable { reason, .. }) => {
                tracing::debug!(reason, "a wallet's message could not be sent; it will be sent again");
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Why the chain never took it, if that is to be believed.
    fn refused(&self) -> Option<String> {
        (self.taken.is_none() && self.refusals >= MAX_REFUSALS).then(|| self.reason.clone())
    }
}
