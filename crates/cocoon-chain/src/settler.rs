//! Carries settlement plans out with a node's wallet, and tells how that stands.
//!
//! The rule that nothing is paid twice (see `cocoon_settle`) has its two halves here: [`Settler::settled`] waits until
//! all that the wallet sent has arrived, and [`Settler::carry_out`] signs a plan with the sequence number that was read
//! then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cocoon_settle::{FundsNeeded, Plan, Transfer, WORTH_FETCHING_NANOTON, WalletFunds};
use cocoon_ton::wallet::{MODE_CARRY_ALL, MODE_IGNORE_ERRORS, MODE_PAY_FEES_SEPARATELY, OutMessage, Wallet};
use cocoon_ton::{Address, SigningKey};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Chain;
use crate::wallet::{SendError, Sent, WalletDriver, WalletView};

/// How a node's settlement stands.
#[derive(Debug, Clone, PartialEq)]
pub struct SettlementStatus {
    /// The wallet.
    pub wallet: Address,
    /// The wallet's coins, when last seen.
    pub balance_nanoton: Option<u64>,
    /// What the wallet lacks.
    pub needs: Option<FundsNeeded>,
    /// Why no work is taken.
    pub hold: Option<String>,
    /// What failed last, where the newest attempt failed.
    pub error: Option<String>,
    /// Chain time of the newest view, in Unix seconds.
    pub seen_unix_time: Option<u64>,
    /// Messages sent since the start.
    pub sent: u64,
    /// Fees of the wallet's own transactions since the start, in nanoton.
    pub fees_nanoton: u64,
}

/// A message that was sent.
#[derive(Debug, Clone)]
pub struct Step {
    /// What was sent.
    pub transfer: Transfer,
    /// The wallet's transaction.
    pub transaction: crate::TransactionId,
    /// What the receiver's code said; `None` where it was not seen.
    pub exit_code: Option<i32>,
    /// Whether it came back: refused, or for want of a contract, or because what the code wanted could not be done.
    pub came_back: bool,
}

impl Step {
    /// Whether the receiver did not do what it was told.
    pub fn is_refused(&self) -> bool {
        self.came_back || self.exit_code.is_some_and(|code| !matches!(code, 0 | 1))
    }

    /// Whether the receiver is known to have done what it was told.
    pub fn is_done(&self) -> bool {
        self.exit_code.is_some() && !self.is_refused()
    }
}

/// The wallet's coins were sent to its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emptied {
    /// Who has them now.
    pub owner: Address,
    /// All that the wallet had, the fee included, in nanoton.
    pub nanoton: u64,
}

/// After a contract refused something, the same is sent again only after this long; twice as long each further time, at
/// most [`LONGEST_REST`]. It costs fees each time, and what is refused once will mostly be refused again.
const FIRST_REST: Duration = Duration::from_secs(60);
/// See [`FIRST_REST`].
const LONGEST_REST: Duration = Duration::from_secs(24 * 3600);

/// What a contract refused: its address and the operation.
type Refusable = (Address, Option<u32>);

#[derive(Debug, Clone, Copy)]
struct Refusal {
    times: u32,
    until: Instant,
}

/// A node's wallet with its status.
#[derive(Debug)]
pub struct Settler {
    driver: WalletDriver,
    status: watch::Sender<SettlementStatus>,
    refused: Mutex<HashMap<Refusable, Refusal>>,
}

impl Settler {
    /// Works with `wallet`, which `key` controls.
    pub fn new(chain: Arc<dyn Chain>, wallet: Wallet, key: SigningKey) -> Self {
        let status = SettlementStatus {
            wallet: wallet.address(),
            balance_nanoton: None,
            needs: None,
            hold: None,
            error: None,
            seen_unix_time: None,
            sent: 0,
            fees_nanoton: 0,
        };
        Self {
            driver: WalletDriver::new(chain, wallet, key),
            status: watch::Sender::new(status),
            refused: Mutex::default(),
        }
    }

    /// The wallet's address.
    pub fn address(&self) -> Address {
        self.driver.wallet().address()
    }

    /// How it stands, now and as it changes.
    pub fn status(&self) -> watch::Receiver<SettlementStatus> {
        self.status.subscribe()
    }

    /// The wallet, once all that it sent has arrived. Read the contracts only after this.
    ///
    /// # Errors
    /// The chain does not answer, or what was sent does not arrive.
    pub async fn settled(&self) -> Result<WalletView, SendError> {
        let view = self.driver.settled().await.inspect_err(|error| self.failed(error))?;
        self.status.send_modify(|status| {
            status.balance_nanoton = Some(view.balance_nanoton);
            status.seen_unix_time = Some(view.at.unix_time);
        });
        Ok(view)
    }

    /// What the wallet has.
    pub fn funds(&self, view: &WalletView) -> WalletFunds {
        WalletFunds {
            address: view.address,
            balance_nanoton: view.balance_nanoton,
            max_messages: self.driver.wallet().max_messages(),
        }
    }

    /// Sends what of a plan the wallet can pay, and waits until it has arrived. The plan must have been made from what
    /// the chain showed after `view` was taken. Notes and logs what is lacking.
    ///
    /// # Errors
    /// Nothing was sent, or it is not known to have arrived: make a new plan from a new view.
    pub async fn carry_out(&self, view: &WalletView, plan: Plan) -> Result<Vec<Step>, SendError> {
        let mut plan = plan;
        self.rest_after_refusals(&mut plan);
        let plan = plan.fit(&self.funds(view));
        self.note(&plan);
        if plan.transfers.is_empty() {
            self.status.send_if_modified(|status| status.error.take().is_some());
            return Ok(Vec::new());
        }
        let messages = plan.transfers.iter().map(message).collect();
        let sent = self.driver.send(view, messages).await.inspect_err(|error| self.failed(error))?;
        self.status.send_modify(|status| {
            status.error = None;
            status.sent = status.sent.saturating_add(plan.transfers.len() as u64);
            status.fees_nanoton = status.fees_nanoton.saturating_add(sent.transaction.fee_nanoton);
        });
        let steps = steps(plan.transfers, &sent);
        self.note_refusals(&steps);
        Ok(steps)
    }

    /// Leaves out what was refused a short while ago.
    fn rest_after_refusals(&self, plan: &mut Plan) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        refused.retain(|_, refusal| now < refusal.until + LONGEST_REST);
        plan.transfers.retain(|transfer| {
            let refusal = refused.get(&(transfer.to, transfer.body.op()));
            refusal.is_none_or(|refusal| refusal.until <= now)
        });
    }

    fn note_refusals(&self, steps: &[Step]) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        for step in steps {
            let key = (step.transfer.to, step.transfer.body.op());
            if !step.is_refused() {
                refused.remove(&key);
                continue;
            }
            let now = Instant::now();
            let refusal = refused.entry(key).or_insert(Refusal { times: 0, until: now });
            let rest = FIRST_REST.saturating_mul(1 << refusal.times.min(16)).min(LONGEST_REST);
            *refusal = Refusal { times: refusal.times.saturating_add(1), until: now + rest };
        }
    }

    /// Sends the wallet's coins to its owner, all but `keep_nanoton`. `None` where it has no owner, or not more than that is
    /// worth the fee.
    ///
    /// # Errors
    /// As [`Self::carry_out`]; [`SendError::PublishedWalletLow`] where only the owner's own message brings the coins out.
    pub async fn empty(&self, keep_nanoton: u64) -> Result<Option<Emptied>, SendError> {
        let view = self.settled().await?;
        let spare = view.balance_nanoton.saturating_sub(keep_nanoton);
        let owner = self.driver.wallet().owner();
        let Some(owner) = owner.filter(|_| spare >= WORTH_FETCHING_NANOTON) else {
            return Ok(None);
        };
        let (value_nanoton, mode) = match keep_nanoton {
            0 => (0, MODE_CARRY_ALL),
            _ => (spare - WORTH_FETCHING_NANOTON / 2, MODE_PAY_FEES_SEPARATELY),
        };
        let mode = mode | MODE_IGNORE_ERRORS;
        let message = OutMessage { to: owner, value_nanoton, bounce: false, mode, init: None, body: None };
        self.driver.send(&view, vec![message]).await?;
        Ok(Some(Emptied {
            owner,
            nanoton: if keep_nanoton == 0 { view.balance_nanoton } else { value_nanoton },
        }))
    }

    fn note(&self, plan: &Plan) {
        let hold = plan.hold.as_ref().map(|hold| hold.reason.clone());
        self.status.send_if_modified(|status| {
            if plan.needs != status.needs
                && let Some(needs) = &plan.needs
            {
                tracing::warn!(link = needs.link(), "{needs}");
            }
            let changed = status.needs != plan.needs || status.hold != hold;
            status.needs = plan.needs;
            status.hold.clone_from(&hold);
            changed
        });
    }

    fn failed(&self, error: &SendError) {
        let words = error.to_string();
        self.status.send_if_modified(|status| {
            let new = status.error.as_ref() != Some(&words);
            if new {
                tracing::warn!(error = words, "settlement is held up");
                status.error = Some(words.clone());
            }
            new
        });
    }
}

/// How long to wait before the next attempt after an error.
pub const RETRY_AFTER: Duration = Duration::from_secs(5);

fn message(transfer: &Transfer) -> OutMessage {
    OutMessage {
        to: transfer.to,
        value_nanoton: transfer.value_nanoton,
        bounce: true,
        // The value arrives whole. A message that cannot be paid must not hold up the others.
        mode: MODE_PAY_FEES_SEPARATELY | MODE_IGNORE_ERRORS,
        init: transfer.init.clone(),
        body: Some(transfer.body.to_cell()),
    }
}

fn steps(transfers: Vec<Transfer>, sent: &Sent) -> Vec<Step> {
    let landed = sent.landed.iter().map(Some).chain(std::iter::repeat(None));
    transfers
        .into_iter()
        .zip(landed)
        .map(|(transfer, landing)| {
            let landed = landing.and_then(|landing| landing.transaction.as_ref());
            let exit_code = landed.and_then(|transaction| match transaction.compute {
                crate::Compute::Ran { exit_code, .. } => Some(exit_code),
                crate::Compute::Skipped(_) => None,
            });
            let bounced = |at: &crate::Transaction| at.out_messages.iter().any(|message| message.bounced);
            let came_back = landing.is_some_and(|landing| landing.came_back) || landed.is_some_and(bounced);
            let step = Step { transfer, transaction: sent.transaction.id, exit_code, came_back };
            let (to, nanoton, purpose) =
                (step.transfer.to, step.transfer.value_nanoton, step.transfer.purpose);
            if step.is_refused() {
                tracing::warn!(%to, nanoton, exit_code, "refused by the contract: {purpose}");
            } else {
                tracing::info!(%to, nanoton, "{purpose}");
            }
            step
        })
        .collect()
}
