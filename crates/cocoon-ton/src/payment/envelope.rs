//! What all signed orders have in common: the outer cell, and the head of the inner one.

use ed25519_dalek::{Signature, VerifyingKey};

use super::{PaymentParseError, PaymentVerifyError};
use crate::address::Address;
use crate::cell::{Cell, Reader, Writer};

/// The outer cell of a signed order.
pub(super) struct Envelope {
    pub(super) operation: u32,
    pub(super) query_id: u64,
    pub(super) excesses_to: Address,
    pub(super) signature: [u8; 64],
    /// The inner cell, whose hash is signed.
    pub(super) order: Cell,
}

impl Envelope {
    pub(super) fn from_cell(cell: &Cell) -> Result<Self, PaymentParseError> {
        const WHAT: &str = "the signed order";
        let mut outer = Reader::new(cell, WHAT)?;
        let envelope = Self {
            operation: outer.u32("op")?,
            query_id: outer.uint(64, "query_id")?,
            excesses_to: outer.address("excesses_to")?,
            signature: outer.bytes("signature")?,
            order: outer.reference("payload")?,
        };
        outer.end(WHAT)?;
        Ok(envelope)
    }

    pub(super) fn to_cell(&self) -> Cell {
        Writer::new()
            .uint(u64::from(self.operation), 32)
            .uint(self.query_id, 64)
            .address(&self.excesses_to)
            .bytes(&self.signature)
            .reference(self.order.clone())
            .build()
    }

    /// What follows the head of the inner cell, which must name the same operation and query id as the outer one.
    pub(super) fn open(&self) -> Result<Reader<'_>, PaymentParseError> {
        let mut inner = Reader::new(&self.order, "the order")?;
        let same_operation = inner.u32("op")? == self.operation;
        let same_query = inner.uint(64, "query_id")? == self.query_id;
        if same_operation && same_query { Ok(inner) } else { Err(PaymentParseError::HeaderMismatch) }
    }

    pub(super) fn verify(&self, key: &VerifyingKey) -> Result<(), PaymentVerifyError> {
        key.verify_strict(&self.order.repr_hash().0, &Signature::from_bytes(&self.signature))
            .map_err(|_| PaymentVerifyError::Signature)
    }
}
