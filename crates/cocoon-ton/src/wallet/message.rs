//! Messages as wallets send and receive them.

use tycho_types::cell::CellBuilder;

use crate::address::Address;
use crate::cell::{Cell, CellError, MAX_DEPTH, Writer};
use crate::contracts::StateInit;

/// Mode: the sender pays for the way, so that the receiver gets the full value.
pub const MODE_PAY_FEES_SEPARATELY: u8 = 1;
/// Mode: a message that cannot be sent is left out.
pub const MODE_IGNORE_ERRORS: u8 = 2;
/// Mode: carry all the coins that the wallet has, whatever the message's value says.
pub const MODE_CARRY_ALL: u8 = 128;

/// Bits of a cell.
const CELL_BITS: u16 = 1023;
/// References of a cell.
const CELL_REFERENCES: u8 = 4;

/// Something that a wallet is to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutMessage {
    /// To whom.
    pub to: Address,
    /// With how many coins.
    pub value_nanoton: u64,
    /// Whether it comes back, less fees, where the receiver cannot process it. Not for a receiver that is not deployed.
    pub bounce: bool,
    /// How it is sent: [`MODE_PAY_FEES_SEPARATELY`], or another of the virtual machine's modes.
    pub mode: u8,
    /// The receiver's contract, to deploy it.
    pub init: Option<StateInit>,
    /// What it says; `None` for a plain transfer.
    pub body: Option<Cell>,
}

impl OutMessage {
    /// The message as the wallet's key signs it; the chain fills in the sender.
    ///
    /// # Errors
    /// [`CellError`] where the body, the code or the data is too deep.
    pub fn to_cell(&self) -> Result<Cell, CellError> {
        let header = Writer::new()
            .uint(0b01, 2) // inside the chain; ihr_disabled
            .uint(u64::from(self.bounce), 1)
            .uint(0, 3) // not bounced; the sender
            .address(&self.to)
            .coins(self.value_nanoton)
            // No other currencies, two fees, logical time, Unix time: the chain fills them in.
            .uint(0, 1 + 4 + 4)
            .uint(0, 64)
            .uint(0, 32)
            .build();
        let empty = Cell::default();
        message(&header, self.init.as_ref(), self.body.as_ref().unwrap_or(&empty))
    }
}

/// A message from outside to the contract at `to`; `init` deploys it.
///
/// # Errors
/// [`CellError`] where the body, the code or the data is too deep.
pub fn external_message(to: &Address, init: Option<&StateInit>, body: &Cell) -> Result<Cell, CellError> {
    // From outside, from nobody; no fee offered.
    let header = Writer::new().uint(0b10, 2).uint(0, 2).address(to).coins(0).build();
    message(&header, init, body)
}

/// Header, contract and body; the body inside the same cell where there is room, which is cheaper.
fn message(header: &Cell, init: Option<&StateInit>, body: &Cell) -> Result<Cell, CellError> {
    let depths = init.map(|init| [init.code.repr_depth(), init.data.repr_depth()]).unwrap_or_default();
    let depth = depths.into_iter().fold(body.repr_depth(), u16::max);
    if depth > MAX_DEPTH {
        return Err(CellError::TooDeep(depth));
    }
    let unfit = |error: tycho_types::error::Error| CellError::Malformed(error.to_string());
    let mut builder = CellBuilder::new();
    builder.store_slice(header.as_slice_allow_exotic()).map_err(unfit)?;
    match init {
        None => builder.store_bit_zero().map_err(unfit)?,
        Some(init) => {
            builder.store_bit_one().map_err(unfit)?;
            builder.store_bit_zero().map_err(unfit)?; // here, not in a cell of its own
            builder.store_slice(init.cell().as_slice_allow_exotic()).map_err(unfit)?;
        }
    }
    let bits_left = CELL_BITS - builder.size_bits() - 1;
    let references_left = CELL_REFERENCES - builder.size_refs();
    if body.bit_len() <= bits_left && body.reference_count() <= references_left && !body.is_exotic() {
        builder.store_bit_zero().map_err(unfit)?;
        builder.store_slice(body.as_slice_allow_exotic()).map_err(unfit)?;
    } else {
        builder.store_bit_one().map_err(unfit)?;
        builder.store_reference(body.clone()).map_err(unfit)?;
    }
    builder.build().map_err(unfit)
}
