//! Transactions and messages, from TON's layout to the one that nodes read.

use cocoon_ton::{Address, Cell};
use tycho_types::cell::CellBuilder;
use tycho_types::error::Error;
use tycho_types::models::{
    ComputePhase, ComputePhaseSkipReason, IntAddr, Message as Raw, MsgInfo, Transaction as RawTransaction,
    TxInfo,
};

use crate::types::{Compute, Message, SkipReason, Transaction, TransactionId};

/// A transaction, and the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedTransaction {
    /// What the transaction's own cell says; its hash is the cell's.
    pub transaction: Transaction,
    /// The account's transaction before it; `None` where it is the first one.
    pub previous: Option<TransactionId>,
}

/// Why a cell is not a transaction of an account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The cell does not have a transaction's layout.
    #[error("it is not a transaction: {0}")]
    Malformed(String),
    /// It is a transaction of another account.
    #[error("it is a transaction of another account than {0}")]
    OtherAccount(Address),
}

impl From<Error> for DecodeError {
    fn from(error: Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// Reads a transaction of `account` from its cell, trusting nothing but the cell.
///
/// A transaction names its account without the workchain; that is checked by the messages, which name both.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_transaction(account: Address, cell: &Cell) -> Result<DecodedTransaction, DecodeError> {
    let raw: RawTransaction = cell.parse()?;
    let compute = match raw.load_info()? {
        TxInfo::Ordinary(info) => compute(&info.compute_phase),
        TxInfo::TickTock(info) => compute(&info.compute_phase),
    };
    let in_message = raw.in_msg.as_ref().map(decode_message).transpose()?;
    let out_messages: Vec<Message> =
        raw.out_msgs.values().map(|cell| decode_message(&cell?)).collect::<Result<_, Error>>()?;
    let other = |named: Option<Address>| named.is_some_and(|named| named != account);
    if raw.account.0 != *account.hash()
        || in_message.as_ref().is_some_and(|message| other(message.destination))
        || out_messages.iter().any(|message| other(message.source))
    {
        return Err(DecodeError::OtherAccount(account));
    }
    let previous = (raw.prev_trans_lt != 0)
        .then_some(TransactionId { lt: raw.prev_trans_lt, hash: raw.prev_trans_hash.0 });
    let transaction = Transaction {
        account,
        id: TransactionId { lt: raw.lt, hash: cell.repr_hash().0 },
        unix_time: u64::from(raw.now),
        compute,
        in_message,
        out_messages,
        fee_nanoton: u64::try_from(raw.total_fees.tokens.into_inner()).map_err(|_| Error::IntOverflow)?,
    };
    Ok(DecodedTransaction { transaction, previous })
}

fn compute(phase: &ComputePhase) -> Compute {
    match phase {
        ComputePhase::Skipped(skipped) => Compute::Skipped(match skipped.reason {
            ComputePhaseSkipReason::NoState => SkipReason::NoState,
            ComputePhaseSkipReason::BadState => SkipReason::BadState,
            ComputePhaseSkipReason::NoGas => SkipReason::NoGas,
            ComputePhaseSkipReason::Suspended => SkipReason::Suspended,
        }),
        ComputePhase::Executed(ran) => {
            Compute::Ran { exit_code: ran.exit_code, gas_used: ran.gas_used.into_inner() }
        }
    }
}

fn decode_message(cell: &Cell) -> Result<Message, Error> {
    let message: Raw<'_> = cell.parse()?;
    let mut body = CellBuilder::new();
    body.store_slice(message.body)?;
    let (source, destination, value_nanoton, bounced, created_lt) = match &message.info {
        MsgInfo::Int(info) => {
            let value = u64::try_from(info.value.tokens.into_inner()).map_err(|_| Error::IntOverflow)?;
            (named(&info.src), named(&info.dst), value, info.bounced, info.created_lt)
        }
        MsgInfo::ExtIn(info) => (None, named(&info.dst), 0, false, 0),
        MsgInfo::ExtOut(info) => (named(&info.src), None, 0, false, info.created_lt),
    };
    Ok(Message { source, destination, value_nanoton, bounced, created_lt, body: body.build()? })
}

/// The address that a message names, where it is a standard one of the two workchains.
fn named(address: &IntAddr) -> Option<Address> {
    match address {
        IntAddr::Std(standard) if standard.anycast.is_none() => {
            Address::new(standard.workchain, standard.address.0).ok()
        }
        IntAddr::Std(_) | IntAddr::Var(_) => None,
    }
}
