//! What a plan consists of, and how it is cut to what the wallet can pay and send at once.

use std::fmt;

use cocoon_ledger::Nanoton;
use cocoon_ton::Address;
use cocoon_ton::contracts::StateInit;
use cocoon_ton::message::Body;

use crate::{EXIT_RESERVE_NANOTON, WALLET_RESERVE_NANOTON};

/// Upper bound of what sending a message costs beside its value, in nanoton.
const FEE_NANOTON: u64 = 10_000_000;
/// The same for the code that a message brings along to deploy a contract.
const DEPLOY_FEE_NANOTON: u64 = 30_000_000;

/// One message to send from the node's wallet. Fees come on top of the value.
#[derive(Debug, Clone, PartialEq)]
pub struct Transfer {
    /// The receiver.
    pub to: Address,
    /// Coins that arrive there.
    pub value_nanoton: u64,
    /// Deploys the receiver, where it is not there yet.
    pub init: Option<StateInit>,
    /// What it is told.
    pub body: Body,
    /// Why.
    pub purpose: Purpose,
}

impl Transfer {
    /// What the wallet needs for it, at most.
    pub fn needed_nanoton(&self) -> u64 {
        let deploy = if self.init.is_some() { DEPLOY_FEE_NANOTON } else { 0 };
        self.value_nanoton.saturating_add(FEE_NANOTON + deploy)
    }

    /// What must be left in the wallet after it, in nanoton: whoever pays into a channel must be able to leave it, and
    /// that has its time.
    const fn leaves_nanoton(&self) -> u64 {
        match self.purpose {
            Purpose::OpenChannel { .. } | Purpose::TopUp { .. } => EXIT_RESERVE_NANOTON,
            _ => 0,
        }
    }
}

/// Why a message is sent. Amounts are in nanoton, counts in adjusted tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Deploy the proxy contract, with its stake.
    DeployProxy {
        /// The stake.
        stake: u64,
    },
    /// Fill the proxy's stake up.
    AddStake {
        /// What is added.
        amount: u64,
    },
    /// Put the newest charge of a client on the chain.
    Charge {
        /// Charged up to this.
        tokens: u64,
    },
    /// Close a client's contract and give it back what is left.
    GrantRefund {
        /// Charged up to this.
        tokens: u64,
    },
    /// Commit the books' position.
    Commit {
        /// The commit's number.
        seqno: u32,
    },
    /// Send what the proxy has earned to its owner.
    TakeEarnings {
        /// What may be taken.
        amount: u64,
    },
    /// Start to close the proxy contract.
    CloseProxy,
    /// Complete that, after its delay.
    CompleteClose,
    /// Take what nobody has claimed in time from a closed proxy contract.
    TakeRest,
    /// Deploy a client contract and pay in.
    OpenChannel {
        /// What is paid in.
        amount: u64,
    },
    /// Pay in more.
    TopUp {
        /// What is paid in.
        amount: u64,
    },
    /// Answer a proxy's long authorisation.
    Register,
    /// Set the secret for short authorisation.
    ChangeSecret,
    /// Ask for the client's coins: its delay begins.
    RequestRefund,
    /// Take them without the proxy, after the delay.
    ForceRefund {
        /// What the client contract counts.
        amount: u64,
    },
    /// Take what is left in a closed client contract.
    TakeLeftover,
    /// Pay a worker's owner.
    PayWorker {
        /// Paid up to this.
        tokens: u64,
        /// What the payout is worth.
        amount: u64,
    },
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeployProxy { .. } => f.write_str("deploy the proxy contract"),
            Self::AddStake { .. } => f.write_str("fill the proxy's stake up"),
            Self::Charge { tokens } => write!(f, "charge the client up to {tokens} tokens"),
            Self::GrantRefund { tokens } => {
                write!(f, "charge the client up to {tokens} tokens and refund the rest")
            }
            Self::Commit { seqno } => write!(f, "commit the books, number {seqno}"),
            Self::TakeEarnings { .. } => f.write_str("send the proxy's earnings to its owner"),
            Self::CloseProxy => f.write_str("start closing the proxy contract"),
            Self::CompleteClose => f.write_str("complete the proxy contract's close"),
            Self::TakeRest => f.write_str("take what nobody claimed from the proxy contract"),
            Self::OpenChannel { .. } => f.write_str("deploy the client contract and pay in"),
            Self::TopUp { .. } => f.write_str("top up the client contract"),
            Self::Register => f.write_str("register with the proxy"),
            Self::ChangeSecret => f.write_str("set the secret's hash"),
            Self::RequestRefund => f.write_str("ask for the client's coins back"),
            Self::ForceRefund { .. } => f.write_str("take the client's coins back"),
            Self::TakeLeftover => f.write_str("take what is left in the client contract"),
            Self::PayWorker { tokens, .. } => write!(f, "pay the worker up to {tokens} tokens"),
        }
    }
}

/// Why a node should take no work now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// In words, for peers and logs.
    pub reason: String,
}

impl Hold {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

/// The wallet's means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalletFunds {
    /// The wallet.
    pub address: Address,
    /// Its coins.
    pub balance_nanoton: u64,
    /// Messages that it can send at once.
    pub max_messages: usize,
}

/// What the wallet lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FundsNeeded {
    /// Where to send coins to.
    pub wallet: Address,
    /// At least so many.
    pub missing_nanoton: u64,
    /// For this.
    pub purpose: Purpose,
}

impl FundsNeeded {
    /// A link that opens a wallet application with receiver and amount filled in.
    pub fn link(&self) -> String {
        let wallet = self.wallet.to_wire_string(false);
        format!("ton://transfer/{wallet}?amount={}", self.missing_nanoton)
    }
}

impl fmt::Display for FundsNeeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wallet = self.wallet.to_wire_string(false);
        let amount = Nanoton(self.missing_nanoton);
        write!(f, "funds needed to {}: send at least {amount} to {wallet}", self.purpose)
    }
}

/// What a node should do now.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Messages to send, all at once, the most urgent first.
    pub transfers: Vec<Transfer>,
    /// Set where the wallet lacks coins for something that should be sent.
    pub needs: Option<FundsNeeded>,
    /// Set where no work should be taken.
    pub hold: Option<Hold>,
    /// Set where more is to be sent than fits one message of the wallet, or where the books must get ready first: plan
    /// again soon.
    pub more: bool,
    /// Chain time, in Unix seconds, at which something becomes possible that is not yet.
    pub again_at: Option<u64>,
    /// Nothing is left to do, ever: all that is closing is closed.
    pub finished: bool,
}

impl Plan {
    /// Adds what `other` wants; both share the wallet, so cut with [`Self::fit`] only then.
    pub fn join(&mut self, other: Self) {
        self.transfers.extend(other.transfers);
        self.needs = self.needs.or(other.needs);
        self.hold = self.hold.take().or(other.hold);
        self.more |= other.more;
        self.again_at = earlier(self.again_at, other.again_at);
        self.finished &= other.finished;
    }

    /// Keeps what the wallet can pay and send at once. What it cannot pay is left out and noted, the rest goes on: a
    /// top-up must not hold up a refund. What is noted as missing is enough for all of it.
    #[must_use]
    pub fn fit(mut self, wallet: &WalletFunds) -> Self {
        let have = wallet.balance_nanoton.saturating_sub(WALLET_RESERVE_NANOTON);
        let (mut left, mut wanted, mut stays, mut lacking) = (have, 0_u64, 0, None);
        let mut kept = Vec::new();
        let mut not_deployed = Vec::new();
        for transfer in std::mem::take(&mut self.transfers) {
            if kept.len() >= wallet.max_messages {
                self.more = true;
                break;
            }
            let needed = transfer.needed_nanoton();
            wanted = wanted.saturating_add(needed);
            stays = transfer.leaves_nanoton().max(stays);
            // What is not deployed now would send the next message back, for a fee.
            if not_deployed.contains(&transfer.to) {
                continue;
            }
            if needed > left.saturating_sub(transfer.leaves_nanoton()) {
                if transfer.init.is_some() {
                    not_deployed.push(transfer.to);
                }
                lacking.get_or_insert(transfer.purpose);
                continue;
            }
            left -= needed;
            kept.push(transfer);
        }
        self.transfers = kept;
        self.needs = self.needs.or(lacking.map(|purpose| FundsNeeded {
            wallet: wallet.address,
            missing_nanoton: wanted.saturating_add(stays).saturating_sub(have),
            purpose,
        }));
        self
    }

    pub(crate) fn send(&mut self, transfer: Transfer) {
        self.transfers.push(transfer);
    }

    pub(crate) fn wait_until(&mut self, unix_time: u64) {
        self.again_at = earlier(self.again_at, Some(unix_time));
    }
}

fn earlier(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use cocoon_ton::Cell;

    use super::*;

    fn transfer(value_nanoton: u64) -> Transfer {
        transfer_to(1, value_nanoton)
    }

    fn transfer_to(receiver: u8, value_nanoton: u64) -> Transfer {
        Transfer {
            to: Address::basechain([receiver; 32]),
            value_nanoton,
            init: None,
            body: Body::Empty,
            purpose: Purpose::Register,
        }
    }

    fn wallet(balance_nanoton: u64, max_messages: usize) -> WalletFunds {
        WalletFunds { address: Address::basechain([2; 32]), balance_nanoton, max_messages }
    }

    #[test]
    fn what_cannot_be_paid_is_noted_and_does_not_hold_up_the_rest() {
        let plan = Plan { transfers: vec![transfer(5_000_000_000), transfer_to(2, 1)], ..Plan::default() };
        let fitted = plan.clone().fit(&wallet(1_000_000_000, 4));
        assert_eq!(fitted.transfers, [transfer_to(2, 1)]);
        let needs = fitted.needs.map(|needs| needs.missing_nanoton);
        let (both, have) = (5_000_000_001 + 2 * FEE_NANOTON, 1_000_000_000 - WALLET_RESERVE_NANOTON);
        assert_eq!(needs, Some(both - have));
        assert_eq!(plan.fit(&wallet(1_000_000_000 + both - have, 4)).needs, None, "one sum is enough");
    }

    #[test]
    fn nothing_is_sent_to_a_contract_that_cannot_be_deployed_yet() {
        let mut open = transfer(5_000_000_000);
        open.init = Some(StateInit { code: Cell::default(), data: Cell::default() });
        let plan = Plan { transfers: vec![open.clone(), transfer(1)], ..Plan::default() };
        assert_eq!(plan.clone().fit(&wallet(1_000_000_000, 4)).transfers, []);
        assert_eq!(plan.fit(&wallet(6_000_000_000, 4)).transfers, [open, transfer(1)]);
    }

    #[test]
    fn what_is_paid_in_leaves_enough_to_get_it_back() {
        let amount = 1_000_000_000;
        let top_up = Transfer { purpose: Purpose::TopUp { amount }, ..transfer(amount) };
        let enough = amount + FEE_NANOTON + WALLET_RESERVE_NANOTON + EXIT_RESERVE_NANOTON;
        let plan = Plan { transfers: vec![top_up.clone()], ..Plan::default() };
        let fitted = plan.clone().fit(&wallet(enough - 7, 4));
        assert_eq!(fitted.needs.map(|needs| needs.missing_nanoton), Some(7));
        assert_eq!(fitted.transfers, []);
        assert_eq!(plan.fit(&wallet(enough, 4)).transfers, [top_up]);
    }

    #[test]
    fn what_does_not_fit_one_message_comes_next() {
        let plan = Plan { transfers: vec![transfer(1); 5], ..Plan::default() };
        let fitted = plan.fit(&wallet(1_000_000_000, 4));
        assert_eq!((fitted.transfers.len(), fitted.more, fitted.needs), (4, true, None));
    }

    #[test]
    fn joined_plans_wake_at_the_earlier_time_and_finish_together() {
        let mut plan = Plan { again_at: Some(7), finished: true, ..Plan::default() };
        plan.join(Plan { again_at: Some(5), ..Plan::default() });
        assert_eq!((plan.again_at, plan.finished), (Some(5), false));
    }
}
