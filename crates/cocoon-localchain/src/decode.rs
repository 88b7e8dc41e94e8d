//! Transactions and messages, from TON's layout to the one that nodes read.

use cocoon_chain::{Compute, Message, SkipReason, Transaction, TransactionId};
use cocoon_ton::{Address, Cell};
use tycho_types::cell::{CellBuilder, CellSlice};
use tycho_types::error::Error;
use tycho_types::models::{
    ComputePhase, ComputePhaseSkipReason, Message as Raw, MsgInfo, Transaction as RawTransaction, TxInfo,
};

use crate::core::{CommittedTransaction, named};

/// Reads a transaction of the account it is said to be of.
///
/// # Errors
/// The cell is not a transaction.
pub fn decode_transaction(committed: &CommittedTransaction) -> Result<Transaction, Error> {
    let raw: RawTransaction = committed.cell.parse()?;
    let compute = match raw.load_info()? {
        TxInfo::Ordinary(info) => compute(&info.compute_phase),
        TxInfo::TickTock(info) => compute(&info.compute_phase),
    };
    let in_message = raw.in_msg.as_ref().map(decode_message).transpose()?;
    let out_messages = raw.out_msgs.values().map(|cell| decode_message(&cell?));
    Ok(Transaction {
        account: committed.account,
        id: TransactionId { lt: committed.lt, hash: committed.hash },
        unix_time: u64::from(raw.now),
        compute,
        in_message,
        out_messages: out_messages.collect::<Result<_, Error>>()?,
        fee_nanoton: u64::try_from(raw.total_fees.tokens.into_inner()).map_err(|_| Error::IntOverflow)?,
    })
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
    let body = slice_to_cell(message.body)?;
    let (source, destination, value_nanoton, bounced, created_lt) = match &message.info {
        MsgInfo::Int(info) => {
            let value = u64::try_from(info.value.tokens.into_inner()).map_err(|_| Error::IntOverflow)?;
            (named(&info.src), named(&info.dst), value, info.bounced, info.created_lt)
        }
        MsgInfo::ExtIn(info) => (None, named(&info.dst), 0, false, 0),
        MsgInfo::ExtOut(info) => (named(&info.src), None::<Address>, 0, false, info.created_lt),
    };
    Ok(Message { source, destination, value_nanoton, bounced, created_lt, body })
}

/// The slice as a cell of its own.
pub(crate) fn slice_to_cell(slice: CellSlice<'_>) -> Result<Cell, Error> {
    let mut builder = CellBuilder::new();
    builder.store_slice(slice)?;
    builder.build()
}
