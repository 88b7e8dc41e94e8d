//! The small strict codec of records and snapshots: little-endian integers, raw identifiers, no padding,
//! no trailing bytes.

use crate::units::OutOfRange;

/// Bytes that are not a value of the expected type. Decoding has no effect and never panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("truncated: {needed} more bytes expected")]
    Truncated {
        /// How many bytes the field lacked.
        needed: usize,
    },
    /// Bytes are left over after the last field.
    #[error("{extra} bytes too many")]
    Trailing {
        /// How many bytes were left.
        extra: usize,
    },
    /// A version that this program does not know.
    #[error("unknown format version {0}: written by a newer program?")]
    Version(u8),
    /// A kind of value that this version does not know.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// A number outside its range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// Fields that contradict each other or an order that is not kept.
    #[error("contradictory: {0}")]
    Contradiction(&'static str),
}

/// Takes fields off the front of a slice.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let Some((head, rest)) = self.0.split_first_chunk::<N>() else {
            return Err(DecodeError::Truncated { needed: N - self.0.len() });
        };
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn end(self) -> Result<(), DecodeError> {
        match self.0.len() {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing { extra }),
        }
    }
}
