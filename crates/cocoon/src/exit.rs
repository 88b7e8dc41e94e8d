//! The way out of a node: with the node stopped, everything of its role is closed, and all its coins come to its owner.
//!
//! Says nothing to anybody but the caller. Each way out may be broken off at any moment and taken again: what is done is
//! on the chain, and is not done twice.

use std::fmt;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use cocoon_chain::Chain;
use cocoon_chain::settler::Step;
use cocoon_gateway::{LeaveStep, WalletEnd};
use cocoon_ledger::Nanoton;
use cocoon_proxy::WindUpStep;
use cocoon_settle::worker::FIRST_PAYOUT_NANOTON;
use cocoon_settle::{FundsNeeded, Purpose};
use cocoon_ton::Address;
use cocoon_ton::contracts::ContractStatus;
use cocoon_ton::message::exit_code_words;

use crate::calendar;
use crate::config::{GatewayFile, ProxyFile, RoleFile, WorkerFile};
use crate::dir::StateDir;
use crate::roles::{self, Backend};

/// From what debt on a worker is paid on its way out, in nanoton: from the first.
const FROM_NANOTON: u64 = cocoon_settle::WORTH_FETCHING_NANOTON;

/// Something that happens on the way out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Progress {
    /// So many channels may hold coins.
    Channels(usize),
    /// A message was sent, and has arrived.
    Sent {
        /// The contract.
        to: Address,
        /// Why.
        purpose: Purpose,
        /// What the contract said; 0 and 1 mean success. `None` where that was not seen.
        exit_code: Option<i32>,
    },
    /// A delay runs, until this chain time in Unix seconds.
    Waiting {
        /// Its end.
        until: u64,
        /// The chain's time, where it was asked for.
        now: Option<u64>,
    },
    /// The wallet cannot pay fees. It goes on once it can.
    FundsNeeded(FundsNeeded),
    /// Something failed, and is tried again.
    Retrying(String),
    /// All is closed; the last coins are on their way to the wallet.
    Arriving,
    /// The wallet's coins were sent to the owner.
    Emptied {
        /// How many, in nanoton, with the fee.
        nanoton: u64,
    },
}

impl Progress {
    /// How many coins this moved, in nanoton, where it says so.
    pub(crate) fn nanoton(&self) -> Option<u64> {
        match self {
            Self::Sent {
                purpose:
                    Purpose::TopUp { amount }
                    | Purpose::TakeEarnings { amount }
                    | Purpose::ForceRefund { amount }
                    | Purpose::PayWorker { amount, .. },
                ..
            } => Some(*amount),
            Self::Emptied { nanoton } => Some(*nanoton),
            _ => None,
        }
    }

    /// Whether a contract refused what it was told.
    pub(crate) fn refused(&self) -> bool {
        matches!(self, Self::Sent { exit_code: Some(code), .. } if !matches!(code, 0 | 1))
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channels(0) => f.write_str("no channel holds coins"),
            Self::Channels(1) => f.write_str("one channel may hold coins"),
            Self::Channels(count) => write!(f, "{count} channels may hold coins"),
            Self::Sent { purpose, exit_code, .. } => {
                write!(f, "{purpose}")?;
                if let Some(amount) = self.nanoton() {
                    write!(f, ", {}", Nanoton(amount))?;
                }
                match exit_code {
                    Some(code) if self.refused() => {
                        write!(f, ": refused, {} (exit code {code})", exit_code_words(*code))
                    }
                    Some(_) => Ok(()),
                    None => f.write_str(": sent, what came of it was not seen"),
                }
            }
            Self::Waiting { until, now } => {
                write!(f, "waiting until {}", calendar::utc(*until))?;
                match now {
                    Some(now) => write!(f, " ({} of chain time)", calendar::span(until.saturating_sub(*now))),
                    None => Ok(()),
                }
            }
            Self::FundsNeeded(needs) => write!(f, "{needs}; it goes on as soon as they are there"),
            Self::Retrying(error) => write!(f, "{error}; trying again"),
            Self::Arriving => {
                f.write_str("all is closed; the last coins are on their way to the node's wallet")
            }
            Self::Emptied { nanoton } => write!(f, "send the wallet's {} to the owner", Nanoton(*nanoton)),
        }
    }
}

/// What came of a way out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Exit {
    /// Who got the coins.
    pub(crate) owner: Address,
    /// The owner's coins before, in nanoton.
    pub(crate) before_nanoton: u64,
    /// The owner's coins after, in nanoton.
    pub(crate) after_nanoton: u64,
    /// The node's wallet.
    pub(crate) wallet: Address,
    /// What is in it still, in nanoton.
    pub(crate) in_wallet_nanoton: u64,
    /// What did not come back.
    pub(crate) left: Vec<Left>,
}

/// Coins that did not come back yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Left {
    /// Where they are.
    pub(crate) contract: Address,
    /// How many, in nanoton.
    pub(crate) nanoton: u64,
    /// Why they stay.
    pub(crate) why: String,
    /// From when on they can be had, in Unix seconds, where that is known.
    pub(crate) from: Option<u64>,
    /// Whether that is as it should be: nothing can be done about it now, and running this again changes nothing.
    pub(crate) in_order: bool,
}

/// Takes a stopped node's directory for this process.
///
/// # Errors
/// There is no node, or it runs.
pub(crate) fn hold<T: RoleFile>(file: &T) -> anyhow::Result<StateDir> {
    let dir = file.dir();
    let shown = dir.display();
    if !dir.join(roles::WALLET_KEY).exists() {
        bail!("there is no {} in {shown}: no {} lies there; check `dir`", T::ROLE, roles::WALLET_KEY);
    }
    roles::open_dir(file).with_context(|| {
        format!(
            "the {} in {shown} must be stopped first: Ctrl-C where it runs, or SIGTERM; then run this again",
            T::ROLE
        )
    })
}

/// Closes all channels of a gateway, waiting for the delays that run.
///
/// # Errors
/// The node runs, its store is damaged, or the wallet cannot be emptied.
pub(crate) async fn gateway(
    file: &GatewayFile,
    backend: &Backend,
    mut progress: impl FnMut(Progress) + Send,
) -> anyhow::Result<Exit> {
    needs_coins(backend)?;
    let dir = hold(file)?;
    let config = roles::gateway_till(file, &dir, backend)?;
    let accounts = Accounts::look(backend, config.settlement.wallet.address(), file.owner).await?;
    let chain = Arc::clone(&backend.chain);
    let left = cocoon_gateway::leave(config, chain, |step| progress(of_gateway(step))).await?;
    let unpaid = left.unpaid.into_iter().map(|(contract, nanoton)| Left {
        contract,
        nanoton,
        why: "the proxy contract has too few coins to pay it; try again later".to_owned(),
        from: None,
        in_order: false,
    });
    let mut left_over: Vec<Left> = unpaid.collect();
    if let WalletEnd::OwnersTextNeeded { nanoton, .. } = left.wallet {
        left_over.push(owners_text(accounts.wallet, nanoton));
    }
    accounts.end(backend, left_over).await
}

/// Has a worker paid all that is owed to it, and empties its wallet.
///
/// # Errors
/// As [`gateway`].
pub(crate) async fn worker(
    file: &WorkerFile,
    backend: &Backend,
    mut progress: impl FnMut(Progress) + Send,
) -> anyhow::Result<Exit> {
    needs_coins(backend)?;
    let dir = hold(file)?;
    let config = roles::worker_till(file, &dir, true)?;
    let accounts = Accounts::look(backend, config.settlement.wallet.address(), file.owner).await?;
    let chain = Arc::clone(&backend.chain);
    let left = cocoon_worker::leave(config, chain, FROM_NANOTON, |step| progress(sent(&step))).await?;
    let mut left_over = Vec::new();
    for due in &left.proxies {
        let nanoton = due.due_nanoton().unwrap_or(0);
        if nanoton > 0 {
            // Without a contract yet, the first payout has to bring more.
            let first = due.paid_tokens.is_none_or(|tokens| tokens == 0);
            let worth = if first { FIRST_PAYOUT_NANOTON } else { FROM_NANOTON };
            let in_order = nanoton < worth && due.error.is_none();
            let why = match &due.error {
                Some(error) => error.clone(),
                None if in_order => {
                    "owed, but less than fetching it costs; `cocoon wallet withdraw worker --from 1n` \
                                     fetches it all the same"
                        .to_owned()
                }
                None => "the proxy contract did not pay it".to_owned(),
            };
            left_over.push(Left { contract: due.contract, nanoton, why, from: None, in_order });
        }
    }
    for due in &left.proxies {
        let shown = backend.chain.worker_state(due.contract).await?;
        let open = shown.state.is_some_and(|state| state.status != ContractStatus::Closed);
        if open && shown.balance_nanoton > 0 {
            left_over.push(Left {
                contract: due.contract,
                nanoton: shown.balance_nanoton,
                why: "kept for the worker contract's storage; comes back when the proxy closes it".to_owned(),
                from: None,
                in_order: true,
            });
        }
    }
    left.needs.into_iter().for_each(|needs| progress(Progress::FundsNeeded(needs)));
    match left.rest {
        cocoon_worker::Rest::Sent { nanoton, .. } => progress(Progress::Emptied { nanoton }),
        cocoon_worker::Rest::OwnerMustTake { nanoton, .. } => {
            left_over.push(owners_text(accounts.wallet, nanoton));
        }
        cocoon_worker::Rest::Kept { .. } => {}
    }
    accounts.end(backend, left_over).await
}

/// Refunds all clients of a proxy, pays all workers, and closes its contracts, waiting for the delays that run.
///
/// # Errors
/// As [`gateway`].
pub(crate) async fn proxy(
    file: &ProxyFile,
    backend: &Backend,
    mut progress: impl FnMut(Progress) + Send,
) -> anyhow::Result<Exit> {
    needs_coins(backend)?;
    let dir = hold(file)?;
    let config = roles::proxy_till(file, &dir, backend)?;
    let accounts = Accounts::look(backend, config.wallet, file.owner).await?;
    let chain = Arc::clone(&backend.chain);
    let rest = cocoon_proxy::wind_up(config, chain, |step| progress(of_proxy(step))).await?;
    let late = rest.contracts.into_iter().filter_map(|status| {
        Some(Left {
            contract: status.contract?,
            nanoton: status.held_nanoton,
            why: "held for workers and clients who come late; what nobody claims is the owner's".to_owned(),
            from: Some(status.unlock_unix_time.into()),
            in_order: true,
        })
    });
    accounts.end(backend, late.collect()).await
}

fn of_gateway(step: LeaveStep) -> Progress {
    match step {
        LeaveStep::Began { channels } => Progress::Channels(channels),
        LeaveStep::Sent { contract, purpose, exit_code } => {
            Progress::Sent { to: contract, purpose, exit_code }
        }
        LeaveStep::Waiting { until_unix_time, now_unix_time } => {
            Progress::Waiting { until: until_unix_time, now: Some(now_unix_time) }
        }
        LeaveStep::NeedsFunds(needs) => Progress::FundsNeeded(needs),
        LeaveStep::Retrying { error, .. } => Progress::Retrying(error),
        LeaveStep::Arriving => Progress::Arriving,
        LeaveStep::Emptied(emptied) => Progress::Emptied { nanoton: emptied.nanoton },
    }
}

fn of_proxy(step: WindUpStep) -> Progress {
    match step {
        WindUpStep::Sent(step) => sent(&step),
        WindUpStep::Waiting { until_unix_time } => Progress::Waiting { until: until_unix_time, now: None },
        WindUpStep::FundsNeeded(needs) => Progress::FundsNeeded(needs),
        WindUpStep::Failed(error) => Progress::Retrying(error),
        WindUpStep::Emptied(emptied) => Progress::Emptied { nanoton: emptied.nanoton },
    }
}

/// A message that was sent, in any role.
pub(crate) fn sent(step: &Step) -> Progress {
    Progress::Sent { to: step.transfer.to, purpose: step.transfer.purpose, exit_code: step.exit_code }
}

/// Coins only move on a chain.
///
/// # Errors
/// There is none.
pub(crate) fn needs_coins(backend: &Backend) -> anyhow::Result<()> {
    if !backend.settles {
        bail!(
            "this node's coins are simulated: chain.url is missing in its configuration, so there is nothing to move"
        );
    }
    Ok(())
}

fn owners_text(wallet: Address, nanoton: u64) -> Left {
    let why =
        "the wallet obeys only its owner below 2 TON: the owner's message with the text w brings them out";
    Left { contract: wallet, nanoton, why: why.to_owned(), from: None, in_order: false }
}

/// Whose coins are compared.
struct Accounts {
    wallet: Address,
    owner: Address,
    before_nanoton: u64,
}

impl Accounts {
    async fn look(backend: &Backend, wallet: Address, owner: Option<Address>) -> anyhow::Result<Self> {
        let owner = roles::named_owner(owner)?;
        Ok(Self { wallet, owner, before_nanoton: balance(backend.chain.as_ref(), owner).await? })
    }

    async fn end(self, backend: &Backend, left: Vec<Left>) -> anyhow::Result<Exit> {
        let chain = backend.chain.as_ref();
        Ok(Exit {
            owner: self.owner,
            before_nanoton: self.before_nanoton,
            after_nanoton: balance(chain, self.owner).await?,
            wallet: self.wallet,
            in_wallet_nanoton: balance(chain, self.wallet).await?,
            left,
        })
    }
}

async fn balance(chain: &dyn Chain, address: Address) -> anyhow::Result<u64> {
    Ok(chain.account_state(address).await?.balance_nanoton)
}
