//! The messages themselves.

use super::RootChange;
use super::op::{self, operation_name};
use crate::address::Address;
use crate::cell::Cell;
use crate::contracts::ContractStatus;
use crate::payment::{SignedPayment, SignedProxyClose};

/// The body of an internal message.
///
/// `query_id` lets a sender recognise answers; `excesses_to` is where coins go that are left of a message. Cells in it
/// are nested at most [`MAX_DEPTH`](crate::cell::MAX_DEPTH) deep.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are explained above and by the contracts' sources")]
pub enum Body {
    /// Nothing: a plain transfer of coins.
    Empty,
    /// A text, or a one-letter command to the proxy, root or wallet contract. Of a longer one only the first
    /// [`MAX_COMMENT_BYTES`](super::MAX_COMMENT_BYTES) are written.
    Comment(String),
    /// What is left of a message, back to where its sender wanted it.
    Excesses { query_id: u64 },
    /// Coins that somebody is owed.
    Payout { query_id: u64 },
    /// Contracts let it pass.
    DoNotProcess { query_id: u64 },
    /// A proxy's note to itself about its newest saved state, behind `do_not_process`.
    SaveState { query_id: u64, seqno: u32, unique_hash: [u8; 32] },

    /// From a worker contract to its proxy contract: its counters, and the payout it asks for.
    WorkerProxyRequest {
        query_id: u64,
        owner: Address,
        status: ContractStatus,
        tokens: u64,
        payout: Option<WorkerPayout>,
    },
    /// From a client contract to its proxy contract: its counters, and what it asks for.
    ClientProxyRequest {
        query_id: u64,
        owner: Address,
        counters: ClientCounters,
        request: Option<ClientRequest>,
    },
    /// From a proxy contract to a client contract: so much of a refund could not be paid.
    RefundUnpaid { query_id: u64, amount: u64, excesses_to: Address },

    /// To a proxy contract: adds `amount` to the stake.
    IncreaseProxyStake { query_id: u64, amount: u64, excesses_to: Address },
    /// To a proxy contract, by anybody: pays its owner what it has earned.
    ProxyPayout { query_id: u64, excesses_to: Address },
    /// To a proxy contract, by its owner: starts closing, or completes it.
    OwnerCloseProxy { query_id: u64, excesses_to: Address },
    /// To a proxy contract, by whoever has the proxy's order: starts closing, or completes it.
    SignedProxyClose(SignedProxyClose),

    /// To a client or worker contract, by whoever has the proxy's order: a charge, a refund or a payout.
    SignedPayment(SignedPayment),
    /// To a worker contract, by its owner: shows itself to the proxy.
    RegisterWorker { query_id: u64, excesses_to: Address },

    /// To a client contract, by anybody: pays `amount` in.
    TopUpClient { query_id: u64, amount: u64, excesses_to: Address },
    /// To a client contract, by its owner: shows `nonce` to the proxy, which asked for it in a long authorisation.
    RegisterClient { query_id: u64, nonce: u64, excesses_to: Address },
    /// To a client contract, by its owner: sets the SHA-256 of the secret of short authorisation.
    ChangeSecretHash { query_id: u64, secret_hash: [u8; 32], excesses_to: Address },
    /// To a client contract, by its owner: both in one.
    ChangeSecretHashAndTopUp { query_id: u64, amount: u64, secret_hash: [u8; 32], excesses_to: Address },
    /// To a client contract, by its owner: starts closing; sent again after the delay, forces the refund.
    RequestRefund { query_id: u64, excesses_to: Address },
    /// To a client contract, by its owner: sets a higher stake.
    IncreaseClientStake { query_id: u64, stake: u64, excesses_to: Address },
    /// To a client contract, by its owner: takes out what is above the stake.
    WithdrawClient { query_id: u64, excesses_to: Address },

    /// To a node wallet, by its owner: sends `message`.
    WalletSend { query_id: u64, mode: u8, message: Cell },
    /// To the root contract, by its owner.
    Root { query_id: u64, change: RootChange },

    /// A message that came back with its whole body, which is never itself a bounced one. Writing it puts zeros for
    /// what the chain adds about the failure.
    Bounced(Box<Self>),
    /// A message that came back with the start of its body: what it was is told by [`operation_name`].
    BouncedOp { op: u32 },
    /// Anything else; `None` where there is not even an operation. Only the operation is written.
    Unknown { op: Option<u32> },
}

/// What a worker contract asks its proxy contract to pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerPayout {
    /// For the worker's owner, in nanoton.
    pub worker_part: u64,
    /// What the proxy earns by it, in nanoton.
    pub proxy_part: u64,
    /// Where coins go that are left of the message.
    pub excesses_to: Address,
}

/// What a client contract tells about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientCounters {
    /// Whether it may be charged.
    pub status: ContractStatus,
    /// Coins that may be spent, the stake included, in nanoton.
    pub balance: u64,
    /// Coins that the owner cannot withdraw while the contract is open, in nanoton.
    pub stake: u64,
    /// Adjusted tokens charged so far.
    pub tokens_used: u64,
    /// SHA-256 of the secret of short authorisation.
    pub secret_hash: [u8; 32],
}

/// What a client contract asks its proxy contract for. Amounts are in nanoton.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are explained by Body and by the contracts' sources")]
pub enum ClientRequest {
    /// Keep the coins that come with this.
    TopUp { amount: u64, excesses_to: Address },
    /// The answer to a long authorisation.
    Register { nonce: u64 },
    /// A refund that the proxy has signed, or a withdrawal above the stake.
    RefundGranted { amount: u64, excesses_to: Address },
    /// A refund after the client's delay.
    RefundForced { amount: u64, excesses_to: Address },
}

impl ClientRequest {
    /// The operation code at its start.
    pub const fn op(&self) -> u32 {
        match self {
            Self::TopUp { .. } => op::CLIENT_PROXY_TOP_UP,
            Self::Register { .. } => op::CLIENT_PROXY_REGISTER,
            Self::RefundGranted { .. } => op::CLIENT_PROXY_REFUND_GRANTED,
            Self::RefundForced { .. } => op::CLIENT_PROXY_REFUND_FORCE,
        }
    }

    /// The published snake-case name.
    pub fn name(&self) -> &'static str {
        operation_name(self.op()).unwrap_or("unknown")
    }
}

impl Body {
    /// The operation code at the start of the body.
    pub const fn op(&self) -> Option<u32> {
        Some(match self {
            Self::Empty => return None,
            Self::Unknown { op } => return *op,
            Self::Comment(_) => op::TEXT,
            Self::Excesses { .. } => op::EXCESSES,
            Self::Payout { .. } => op::PAYOUT,
            Self::DoNotProcess { .. } | Self::SaveState { .. } => op::DO_NOT_PROCESS,
            Self::WorkerProxyRequest { .. } => op::WORKER_PROXY_REQUEST,
            Self::ClientProxyRequest { .. } => op::CLIENT_PROXY_REQUEST,
            Self::RefundUnpaid { .. } => op::PROXY_CLIENT_UNPAID,
            Self::IncreaseProxyStake { .. } => op::EXT_PROXY_INCREASE_STAKE,
            Self::ProxyPayout { .. } => op::EXT_PROXY_PAYOUT_REQUEST,
            Self::OwnerCloseProxy { .. } => op::OWNER_PROXY_CLOSE,
            Self::SignedProxyClose(close) => close.kind.operation(),
            Self::SignedPayment(payment) => payment.order().kind.operation(),
            Self::RegisterWorker { .. } => op::OWNER_WORKER_REGISTER,
            Self::TopUpClient { .. } => op::EXT_CLIENT_TOP_UP,
            Self::RegisterClient { .. } => op::OWNER_CLIENT_REGISTER,
            Self::ChangeSecretHash { .. } => op::OWNER_CLIENT_CHANGE_SECRET_HASH,
            Self::ChangeSecretHashAndTopUp { .. } => op::OWNER_CLIENT_CHANGE_SECRET_HASH_AND_TOP_UP,
            Self::RequestRefund { .. } => op::OWNER_CLIENT_REQUEST_REFUND,
            Self::IncreaseClientStake { .. } => op::OWNER_CLIENT_INCREASE_STAKE,
            Self::WithdrawClient { .. } => op::OWNER_CLIENT_WITHDRAW,
            Self::WalletSend { .. } => op::OWNER_WALLET_SEND_MESSAGE,
            Self::Root { change, .. } => change.op(),
            Self::Bounced(_) => op::BOUNCED_WHOLE,
            Self::BouncedOp { .. } => op::BOUNCED,
        })
    }

    /// The published snake-case name, as `owner_client_request_refund`; `empty`, `text`, `bounced` or `unknown` for
    /// what has none.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Comment(_) => "text",
            Self::SaveState { .. } => "proxy_save_state",
            Self::Bounced(_) | Self::BouncedOp { .. } => "bounced",
            Self::Unknown { .. } => "unknown",
            known => known.op().and_then(operation_name).unwrap_or("unknown"),
        }
    }

    /// The query id, where there is one.
    pub const fn query_id(&self) -> Option<u64> {
        match self {
            Self::Excesses { query_id }
            | Self::Payout { query_id }
            | Self::DoNotProcess { query_id }
            | Self::SaveState { query_id, .. }
            | Self::WorkerProxyRequest { query_id, .. }
            | Self::ClientProxyRequest { query_id, .. }
            | Self::RefundUnpaid { query_id, .. }
            | Self::IncreaseProxyStake { query_id, .. }
            | Self::ProxyPayout { query_id, .. }
            | Self::OwnerCloseProxy { query_id, .. }
            | Self::RegisterWorker { query_id, .. }
            | Self::TopUpClient { query_id, .. }
            | Self::RegisterClient { query_id, .. }
            | Self::ChangeSecretHash { query_id, .. }
            | Self::ChangeSecretHashAndTopUp { query_id, .. }
            | Self::RequestRefund { query_id, .. }
            | Self::IncreaseClientStake { query_id, .. }
            | Self::WithdrawClient { query_id, .. }
            | Self::WalletSend { query_id, .. }
            | Self::Root { query_id, .. } => Some(*query_id),
            Self::SignedProxyClose(close) => Some(close.query_id),
            Self::SignedPayment(payment) => Some(payment.order().query_id),
            Self::Empty
            | Self::Comment(_)
            | Self::Bounced(_)
            | Self::BouncedOp { .. }
            | Self::Unknown { .. } => None,
        }
    }
}
