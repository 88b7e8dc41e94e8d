//! What a contract starts with, and the address that follows from it.

use sha2::{Digest as _, Sha256};

use crate::address::Address;
use crate::cell::{Cell, CellError, Reader, Writer};

/// Code and data that a contract is deployed with. None of our contracts has libraries, a split depth or a tick-tock
/// flag, so this has room for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateInit {
    /// What it runs.
    pub code: Cell,
    /// What it knows at first.
    pub data: Cell,
}

impl StateInit {
    /// The address in the basechain.
    pub fn address(&self) -> Address {
        Address::basechain(state_init_hash(
            (self.code.repr_hash().0, self.code.repr_depth()),
            (self.data.repr_hash().0, self.data.repr_depth()),
        ))
    }

    /// The `StateInit` cell of TON's scheme, whose hash is the address.
    pub fn cell(&self) -> Cell {
        Writer::new()
            .uint(0, 2) // neither split depth nor special
            .maybe_reference(Some(&self.code))
            .maybe_reference(Some(&self.data))
            .uint(0, 1) // no libraries
            .build()
    }

    /// Reads a `StateInit` cell.
    ///
    /// # Errors
    /// When code or data is missing, or there is more than them.
    pub fn from_cell(cell: &Cell) -> Result<Self, CellError> {
        const WHAT: &str = "the state init";
        let mut reader = Reader::new(cell, WHAT)?;
        if reader.uint(2, "split_depth")? != 0 {
            return Err(CellError::Trailing(WHAT));
        }
        let code = reader.maybe_reference("code")?.ok_or(CellError::Missing("code"))?;
        let data = reader.maybe_reference("data")?.ok_or(CellError::Missing("data"))?;
        if reader.bit("library")? {
            return Err(CellError::Trailing(WHAT));
        }
        reader.end(WHAT)?;
        Ok(Self { code, data })
    }
}

/// Representation hash of a `StateInit` with code and data, no split depth, no special flag and no libraries, from
/// the (hash, depth) of both. The representation of a cell is two descriptor bytes, its bits, then the depths and the
/// hashes of its references.
pub(super) fn state_init_hash(code: ([u8; 32], u16), data: ([u8; 32], u16)) -> [u8; 32] {
    /// An ordinary cell with two references.
    const REFERENCES: u8 = 2;
    /// Five bits: floor(5 / 8) + ceil(5 / 8).
    const LENGTH: u8 = 1;
    /// The bits 00110 (code and data present), completed by 100.
    const BITS: u8 = 0b0011_0100;
    Sha256::new()
        .chain_update([REFERENCES, LENGTH, BITS])
        .chain_update(code.1.to_be_bytes())
        .chain_update(data.1.to_be_bytes())
        .chain_update(code.0)
        .chain_update(data.0)
        .finalize()
        .into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn init() -> StateInit {
        StateInit {
            code: Writer::new().uint(7, 9).reference(Writer::new().uint(1, 1).build()).build(),
            data: Writer::new().uint(5, 3).build(),
        }
    }

    #[test]
    fn the_address_is_the_hash_of_the_built_cell() {
        assert_eq!(init().address(), Address::basechain(init().cell().repr_hash().0));
    }

    #[test]
    fn a_state_init_reads_back_and_nothing_else_does() {
        assert_eq!(StateInit::from_cell(&init().cell()).unwrap(), init());
        let empty = Writer::new().build();
        for (flags, code, data, end) in [
            (1, true, true, 0),
            (2, true, true, 0),
            (0, false, true, 0),
            (0, true, false, 0),
            (0, true, true, 1),
        ] {
            let cell = Writer::new()
                .uint(flags, 2)
                .maybe_reference(code.then_some(&empty))
                .maybe_reference(data.then_some(&empty))
                .uint(end, 1)
                .build();
            assert!(StateInit::from_cell(&cell).is_err(), "{flags} {code} {data} {end}");
        }
    }
}
