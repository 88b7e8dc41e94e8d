//! External messages: bytes from anybody, checked before the chain's state is touched.

use cocoon_ton::cell::decode_boc;
use cocoon_ton::{Address, AddressParseError, Cell, CellError};
use tycho_types::cell::Load as _;
use tycho_types::models::{IntAddr, Message, MsgInfo};

/// Largest external message, as a bag of cells, in bytes: the public network's limit.
pub const MAX_EXTERNAL_MESSAGE_BYTES: usize = 65_535;

/// A well-formed external message to an account of the basechain or the masterchain.
#[derive(Debug, Clone)]
pub struct ExternalMessage {
    destination: Address,
    cell: Cell,
}

impl ExternalMessage {
    /// Reads a bag of cells of at most [`MAX_EXTERNAL_MESSAGE_BYTES`] and [`cocoon_ton::cell::MAX_DEPTH`] levels.
    ///
    /// # Errors
    /// [`MessageError`], which says what is wrong with it.
    pub fn from_boc(bytes: &[u8]) -> Result<Self, MessageError> {
        Self::from_cell(decode_boc(bytes, MAX_EXTERNAL_MESSAGE_BYTES)?)
    }

    /// Takes a message that is decoded already.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn from_cell(cell: Cell) -> Result<Self, MessageError> {
        if cell.is_exotic() {
            return Err(CellError::Exotic("the message").into());
        }
        let malformed = |error: tycho_types::error::Error| MessageError::Malformed(error.to_string());
        let mut slice = cell.as_slice().map_err(malformed)?;
        let message = Message::load_from(&mut slice).map_err(malformed)?;
        if !slice.is_empty() {
            return Err(MessageError::Malformed("data after its body".to_owned()));
        }
        let MsgInfo::ExtIn(info) = message.info else {
            return Err(MessageError::NotExternal);
        };
        let destination = match info.dst {
            IntAddr::Std(address) if address.anycast.is_none() => {
                Address::new(address.workchain, address.address.0)?
            }
            IntAddr::Std(_) | IntAddr::Var(_) => return Err(MessageError::UnusualAddress),
        };
        Ok(Self { destination, cell })
    }

    /// The account that it is for.
    pub const fn destination(&self) -> Address {
        self.destination
    }

    /// The message.
    pub const fn cell(&self) -> &Cell {
        &self.cell
    }

    /// Hash of the message's cell.
    pub fn hash(&self) -> [u8; 32] {
        self.cell.repr_hash().0
    }
}

/// Why bytes are not an external message that the chain could take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not a bag of cells within the limits.
    #[error("{0}")]
    Cells(#[from] CellError),
    /// The cells are not a message.
    #[error("not a message: {0}")]
    Malformed(String),
    /// A message inside the chain or out of it.
    #[error("not an external message into the chain; only such can be sent from outside")]
    NotExternal,
    /// An address with anycast or of variable length.
    #[error("the destination is not a standard address")]
    UnusualAddress,
    /// A workchain that does not exist here.
    #[error("the destination: {0}")]
    Workchain(#[from] AddressParseError),
}
