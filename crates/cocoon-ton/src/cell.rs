//! Bounded decoding of bags of cells, and the field encodings that the contracts share.
//!
//! Cells come from the chain, from peers and from files, so each decoder here takes a limit on bytes and on depth.

use tycho_types::boc::Boc;
use tycho_types::cell::{CellBuilder, CellFamily as _, CellSlice};

use crate::address::Address;

pub use tycho_types::cell::Cell;

/// Deepest tree that we accept, in cells: the depth limit that TON sets for messages.
pub const MAX_DEPTH: u16 = 512;
/// Largest bag of cells with a contract's code that we decode, in bytes. Today's contracts have under 2 KiB.
pub const MAX_CODE_BOC_BYTES: usize = 64 * 1024;

/// Why bytes are not the cells we expect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CellError {
    /// More bytes than the named limit.
    #[error("the bag of cells has {actual} bytes, over the limit of {limit}")]
    TooLarge {
        /// Bytes found.
        actual: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A tree deeper than [`MAX_DEPTH`].
    #[error("the cells are nested {0} deep, over the limit of {MAX_DEPTH}")]
    TooDeep(u16),
    /// Not a bag with one root cell.
    #[error("not a bag of cells with one root: {0}")]
    Malformed(String),
    /// A pruned, library or proof cell where an ordinary one must be.
    #[error("{0} is not an ordinary cell")]
    Exotic(&'static str),
    /// The cell ends before the field.
    #[error("the cell ends before its field {0}")]
    Missing(&'static str),
    /// The cell goes on after its last field.
    #[error("{0} has bits or references after its last field")]
    Trailing(&'static str),
    /// An amount of coins over 2^64 - 1 nanoton; all coins that exist are fewer.
    #[error("the amount {0} does not fit 64 bits")]
    AmountTooLarge(&'static str),
    /// A number that stands for nothing we know.
    #[error("{field} is {value}, which this program does not know; it may need an update")]
    UnknownValue {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u8,
    },
    /// An address that is not a standard one of workchain 0 or -1.
    #[error("{0} is not a standard address")]
    NotStandardAddress(&'static str),
}

/// Decodes a bag of cells with one root, of at most `limit` bytes and [`MAX_DEPTH`] levels.
///
/// # Errors
/// [`CellError::TooLarge`], [`CellError::Malformed`] or [`CellError::TooDeep`].
pub fn decode_boc(bytes: &[u8], limit: usize) -> Result<Cell, CellError> {
    if bytes.len() > limit {
        return Err(CellError::TooLarge { actual: bytes.len(), limit });
    }
    let cell = Boc::decode(bytes).map_err(|error| CellError::Malformed(error.to_string()))?;
    check_depth(cell)
}

/// Encodes a tree of cells as the reference does by default: no index, no checksum.
pub fn encode_boc(cell: &Cell) -> Vec<u8> {
    Boc::encode(cell)
}

/// A contract's code, known to be shallow enough to stand in further cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContractCode(Cell);

impl ContractCode {
    /// The code that a test-mode file means by an empty string: one cell without bits or references.
    pub fn empty() -> Self {
        Self(Cell::empty_cell())
    }

    /// Takes a cell as code.
    ///
    /// # Errors
    /// [`CellError::TooDeep`].
    pub fn from_cell(cell: Cell) -> Result<Self, CellError> {
        check_depth(cell).map(Self)
    }

    /// Decodes a bag of cells of at most [`MAX_CODE_BOC_BYTES`].
    ///
    /// # Errors
    /// As [`decode_boc`].
    pub fn from_boc(bytes: &[u8]) -> Result<Self, CellError> {
        decode_boc(bytes, MAX_CODE_BOC_BYTES).map(Self)
    }

    /// The code as a bag of cells.
    pub fn to_boc(&self) -> Vec<u8> {
        encode_boc(&self.0)
    }

    /// The root cell.
    pub const fn cell(&self) -> &Cell {
        &self.0
    }

    /// Representation hash of the root cell: the "code hash" that explorers show.
    pub fn hash(&self) -> [u8; 32] {
        self.0.repr_hash().0
    }

    /// Depth of the root cell.
    pub fn depth(&self) -> u16 {
        self.0.repr_depth()
    }

    /// Whether this is the placeholder [`Self::empty`].
    pub fn is_empty(&self) -> bool {
        self == &Self::empty()
    }
}

fn check_depth(cell: Cell) -> Result<Cell, CellError> {
    match cell.repr_depth() {
        depth if depth > MAX_DEPTH => Err(CellError::TooDeep(depth)),
        _ => Ok(cell),
    }
}

/// Writes one cell field by field. Only for layouts that fit a cell whatever their values are: 1023 bits and four
/// references, with children no deeper than [`MAX_DEPTH`] and a few more. Each of this crate's layouts is such.
pub(crate) struct Writer(CellBuilder);

const FITS: &str = "the layout has a fixed maximum under 1023 bits, 4 references and the depth limit";

impl Writer {
    pub(crate) fn new() -> Self {
        Self(CellBuilder::new())
    }

    pub(crate) fn uint(mut self, value: u64, bits: u16) -> Self {
        self.0.store_uint(value, bits).expect(FITS);
        self
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        for &byte in bytes {
            self.0.store_u8(byte).expect(FITS);
        }
        self
    }

    /// `VarUInteger 16`: a 4-bit count of bytes, then the amount in as few bytes as it takes.
    pub(crate) fn coins(self, nanoton: u64) -> Self {
        let bytes = nanoton.to_be_bytes();
        let skip = bytes.iter().take_while(|&&byte| byte == 0).count();
        let significant = &bytes[skip..];
        self.uint(significant.len() as u64, 4).bytes(significant)
    }

    /// `addr_std$10` without anycast: 267 bits.
    pub(crate) fn address(self, address: &Address) -> Self {
        self.uint(0b100, 3).bytes(&address.workchain().to_be_bytes()).bytes(address.hash())
    }

    pub(crate) fn reference(mut self, cell: Cell) -> Self {
        self.0.store_reference(cell).expect(FITS);
        self
    }

    /// `Maybe ^Cell`: a bit, then the reference if the bit is set.
    pub(crate) fn maybe_reference(self, cell: Option<&Cell>) -> Self {
        match cell {
            Some(cell) => self.uint(1, 1).reference(cell.clone()),
            None => self.uint(0, 1),
        }
    }

    pub(crate) fn build(self) -> Cell {
        self.0.build().expect(FITS)
    }
}

/// Reads one ordinary cell field by field; every failure names the field.
pub(crate) struct Reader<'a>(CellSlice<'a>);

impl<'a> Reader<'a> {
    pub(crate) fn new(cell: &'a Cell, what: &'static str) -> Result<Self, CellError> {
        CellSlice::new(cell.as_ref()).map(Self).map_err(|_| CellError::Exotic(what))
    }

    pub(crate) const fn from_slice(slice: CellSlice<'a>) -> Self {
        Self(slice)
    }

    pub(crate) fn uint(&mut self, bits: u16, field: &'static str) -> Result<u64, CellError> {
        self.0.load_uint(bits).map_err(|_| CellError::Missing(field))
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, CellError> {
        self.0.load_u32().map_err(|_| CellError::Missing(field))
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, CellError> {
        self.0.load_u8().map_err(|_| CellError::Missing(field))
    }

    pub(crate) fn bit(&mut self, field: &'static str) -> Result<bool, CellError> {
        self.0.load_bit().map_err(|_| CellError::Missing(field))
    }

    pub(crate) fn bytes<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], CellError> {
        let mut bytes = [0u8; N];
        for byte in &mut bytes {
            *byte = self.u8(field)?;
        }
        Ok(bytes)
    }

    pub(crate) fn coins(&mut self, field: &'static str) -> Result<u64, CellError> {
        let count = self.uint(4, field)?;
        (0..count).try_fold(0u64, |amount, _| {
            let byte = self.u8(field)?;
            let shifted = amount.checked_mul(256).ok_or(CellError::AmountTooLarge(field))?;
            Ok(shifted | u64::from(byte))
        })
    }

    /// An amount that need not be there in coins, so that anybody can make it larger than all coins that exist: then
    /// it is the largest number that there is.
    pub(crate) fn coins_or_more(&mut self, field: &'static str) -> Result<u64, CellError> {
        let count = self.uint(4, field)?;
        (0..count).try_fold(0u64, |amount, _| {
            let byte = self.u8(field)?;
            Ok(amount.checked_mul(256).map_or(u64::MAX, |shifted| shifted | u64::from(byte)))
        })
    }

    pub(crate) fn address(&mut self, field: &'static str) -> Result<Address, CellError> {
        if self.uint(3, field)? != 0b100 {
            return Err(CellError::NotStandardAddress(field));
        }
        let workchain = i8::from_be_bytes([self.u8(field)?]);
        let hash = self.bytes(field)?;
        Address::new(workchain, hash).map_err(|_| CellError::NotStandardAddress(field))
    }

    pub(crate) fn reference(&mut self, field: &'static str) -> Result<Cell, CellError> {
        self.0.load_reference_cloned().map_err(|_| CellError::Missing(field))
    }

    /// A reference to cells that may stand in further cells.
    pub(crate) fn shallow_reference(&mut self, field: &'static str) -> Result<Cell, CellError> {
        self.reference(field).and_then(check_depth)
    }

    /// Goes on reading in the next reference.
    pub(crate) fn nested(&mut self, field: &'static str) -> Result<Self, CellError> {
        let cell = self.0.load_reference().map_err(|_| CellError::Missing(field))?;
        CellSlice::new(cell).map(Self).map_err(|_| CellError::Exotic(field))
    }

    /// [`Self::nested`] behind a bit that says whether there is one.
    pub(crate) fn maybe_nested(&mut self, field: &'static str) -> Result<Option<Self>, CellError> {
        if self.bit(field)? { self.nested(field).map(Some) } else { Ok(None) }
    }

    /// Bits that are left.
    pub(crate) const fn bits_left(&self) -> u16 {
        self.0.size_bits()
    }

    /// References that are left.
    pub(crate) const fn references_left(&self) -> u8 {
        self.0.size_refs()
    }

    pub(crate) fn maybe_reference(&mut self, field: &'static str) -> Result<Option<Cell>, CellError> {
        if self.bit(field)? { self.reference(field).map(Some) } else { Ok(None) }
    }

    pub(crate) fn end(self, what: &'static str) -> Result<(), CellError> {
        if self.0.size_bits() == 0 && self.0.size_refs() == 0 {
            Ok(())
        } else {
            Err(CellError::Trailing(what))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_amount_of_coins_reads_back(amount: u64) {
            let cell = Writer::new().coins(amount).build();
            let mut reader = Reader::new(&cell, "cell").unwrap();
            prop_assert_eq!(reader.coins("amount").unwrap(), amount);
            prop_assert_eq!(reader.end("cell"), Ok(()));
        }
    }

    #[test]
    fn coins_take_as_few_bytes_as_they_need() {
        for (amount, bits) in [(0, 4), (1, 12), (255, 12), (256, 20), (u64::MAX, 68)] {
            assert_eq!(Writer::new().coins(amount).build().bit_len(), bits, "{amount}");
        }
    }

    #[test]
    fn more_coins_than_64_bits_hold_are_refused() {
        let cell = Writer::new().uint(9, 4).bytes(&[1; 9]).build();
        let read = Reader::new(&cell, "cell").unwrap().coins("amount");
        assert_eq!(read, Err(CellError::AmountTooLarge("amount")));
        let last = Writer::new().uint(15, 4).bytes(&[1; 15]).uint(5, 8).build();
        for (cell, amount) in [(&cell, u64::MAX), (&last, u64::MAX), (&Writer::new().coins(7).build(), 7)] {
            assert_eq!(Reader::new(cell, "cell").unwrap().coins_or_more("amount"), Ok(amount));
        }
    }

    #[test]
    fn addresses_of_other_kinds_are_refused() {
        for cell in [
            Writer::new().uint(0, 2).build(),                                 // none
            Writer::new().uint(0b101, 3).bytes(&[0; 40]).build(),             // with anycast
            Writer::new().uint(0b100, 3).bytes(&[5]).bytes(&[0; 32]).build(), // workchain 5
        ] {
            assert!(Reader::new(&cell, "cell").unwrap().address("who").is_err());
        }
    }
}
