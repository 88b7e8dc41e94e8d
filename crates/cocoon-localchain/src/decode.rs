//! Stored transactions as nodes read them.

use cocoon_chain::{DecodeError, Transaction};
use cocoon_ton::Cell;
use tycho_types::cell::{CellBuilder, CellSlice};
use tycho_types::error::Error;

use crate::core::CommittedTransaction;

/// Reads a transaction of the account it is said to be of.
///
/// # Errors
/// The cell is not a transaction of that account.
pub fn decode_transaction(committed: &CommittedTransaction) -> Result<Transaction, DecodeError> {
    Ok(cocoon_chain::decode_transaction(committed.account, &committed.cell)?.transaction)
}

/// The slice as a cell of its own.
pub(crate) fn slice_to_cell(slice: CellSlice<'_>) -> Result<Cell, Error> {
    let mut builder = CellBuilder::new();
    builder.store_slice(slice)?;
    builder.build()
}
