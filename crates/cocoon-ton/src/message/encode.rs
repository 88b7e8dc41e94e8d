//! Writing bodies.

use super::{Body, ClientCounters, ClientRequest, MAX_COMMENT_BYTES, WorkerPayout, op};
use crate::cell::{Cell, Writer};

/// Whole bytes that a cell of a text holds, and the first one, behind the operation.
const BYTES_PER_CELL: usize = 127;
const BYTES_IN_FIRST_CELL: usize = 123;

impl Body {
    /// The body as a cell, laid out as the contracts read it.
    pub fn to_cell(&self) -> Cell {
        match self {
            Self::Empty | Self::Unknown { op: None } => Writer::new().build(),
            Self::Unknown { op: Some(op) } => Writer::new().uint(u64::from(*op), 32).build(),
            Self::Comment(text) => comment(text),
            Self::Bounced(body) => bounced(body),
            Self::BouncedOp { op } => {
                Writer::new().uint(u64::from(op::BOUNCED), 32).uint(u64::from(*op), 32).build()
            }
            Self::SignedPayment(payment) => payment.to_cell(),
            Self::SignedProxyClose(close) => close.to_cell(),
            other => other.store_rest(other.head()).build(),
        }
    }

    /// Operation and query id, with which all other bodies begin.
    fn head(&self) -> Writer {
        let writer = Writer::new().uint(u64::from(self.op().unwrap_or(op::TEXT)), 32);
        writer.uint(self.query_id().unwrap_or(0), 64)
    }

    /// What follows the head.
    fn store_rest(&self, writer: Writer) -> Writer {
        match self {
            Self::SaveState { seqno, unique_hash, .. } => writer
                .uint(u64::from(op::PROXY_SAVE_STATE), 32)
                .uint(u64::from(*seqno), 32)
                .bytes(unique_hash),
            Self::WorkerProxyRequest { owner, status, tokens, payout, .. } => writer
                .address(owner)
                .uint(status.number(), 2)
                .uint(*tokens, 64)
                .maybe_reference(payout.map(WorkerPayout::to_cell).as_ref()),
            Self::ClientProxyRequest { owner, counters, request, .. } => writer
                .address(owner)
                .reference(counters.to_cell())
                .maybe_reference(request.map(ClientRequest::to_cell).as_ref()),
            Self::RefundUnpaid { amount, excesses_to, .. }
            | Self::IncreaseProxyStake { amount, excesses_to, .. }
            | Self::TopUpClient { amount, excesses_to, .. }
            | Self::IncreaseClientStake { stake: amount, excesses_to, .. } => {
                writer.coins(*amount).address(excesses_to)
            }
            Self::ProxyPayout { excesses_to, .. }
            | Self::OwnerCloseProxy { excesses_to, .. }
            | Self::RegisterWorker { excesses_to, .. }
            | Self::RequestRefund { excesses_to, .. }
            | Self::WithdrawClient { excesses_to, .. } => writer.address(excesses_to),
            Self::RegisterClient { nonce, excesses_to, .. } => writer.uint(*nonce, 64).address(excesses_to),
            Self::ChangeSecretHash { secret_hash, excesses_to, .. } => {
                writer.bytes(secret_hash).address(excesses_to)
            }
            Self::ChangeSecretHashAndTopUp { amount, secret_hash, excesses_to, .. } => {
                writer.coins(*amount).bytes(secret_hash).address(excesses_to)
            }
            Self::WalletSend { mode, message, .. } => {
                writer.uint(u64::from(*mode), 8).reference(message.clone())
            }
            Self::Root { change, .. } => change.store(writer),
            Self::Excesses { .. }
            | Self::Payout { .. }
            | Self::DoNotProcess { .. }
            | Self::Empty
            | Self::Comment(_)
            | Self::SignedPayment(_)
            | Self::SignedProxyClose(_)
            | Self::Bounced(_)
            | Self::BouncedOp { .. }
            | Self::Unknown { .. } => writer,
        }
    }
}

impl WorkerPayout {
    fn to_cell(self) -> Cell {
        Writer::new()
            .uint(u64::from(op::WORKER_PROXY_PAYOUT_REQUEST), 32)
            .coins(self.worker_part)
            .coins(self.proxy_part)
            .address(&self.excesses_to)
            .build()
    }
}

impl ClientCounters {
    fn to_cell(self) -> Cell {
        Writer::new()
            .uint(self.status.number(), 2)
            .coins(self.balance)
            .coins(self.stake)
            .uint(self.tokens_used, 64)
            .bytes(&self.secret_hash)
            .build()
    }
}

impl ClientRequest {
    fn to_cell(self) -> Cell {
        let writer = Writer::new().uint(u64::from(self.op()), 32);
        match self {
            Self::TopUp { amount, excesses_to }
            | Self::RefundGranted { amount, excesses_to }
            | Self::RefundForced { amount, excesses_to } => writer.coins(amount).address(&excesses_to),
            Self::Register { nonce } => writer.uint(nonce, 64),
        }
        .build()
    }
}

/// A text that goes on in one reference after the other.
fn comment(text: &str) -> Cell {
    let text = &text.as_bytes()[..text.floor_char_boundary(MAX_COMMENT_BYTES)];
    let (first, rest) = text.split_at(text.len().min(BYTES_IN_FIRST_CELL));
    let tail = rest
        .chunks(BYTES_PER_CELL)
        .rev()
        .fold(None, |next: Option<Cell>, chunk| Some(continued(Writer::new().bytes(chunk), next)));
    continued(Writer::new().uint(u64::from(op::TEXT), 32).bytes(first), tail)
}

fn continued(writer: Writer, next: Option<Cell>) -> Cell {
    match next {
        Some(next) => writer.reference(next).build(),
        None => writer.build(),
    }
}

/// The form of a bounce that carries the whole body: the body, the message's value, time and logical time, the phase
/// that failed, its exit code, and maybe what it used.
fn bounced(body: &Body) -> Cell {
    let original = match body {
        // Nothing bounces twice.
        Body::Bounced(_) => Body::Unknown { op: body.op() }.to_cell(),
        body => body.to_cell(),
    };
    let info = Writer::new().coins(0).uint(0, 1).uint(0, 64).uint(0, 32).build();
    Writer::new()
        .uint(u64::from(op::BOUNCED_WHOLE), 32)
        .reference(original)
        .reference(info)
        .uint(0, 8)
        .uint(0, 32)
        .uint(0, 1)
        .build()
}
