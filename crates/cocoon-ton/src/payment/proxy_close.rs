//! The order by which a proxy closes its own contract.
//!
//! ```text
//! outer: op:uint32 query_id:uint64 excesses_to:MsgAddress signature:bits512 ^inner
//! inner: op:uint32 query_id:uint64 proxy:MsgAddress
//! ```

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

use super::envelope::Envelope;
use super::{PaymentParseError, PaymentVerifyError};
use crate::address::Address;
use crate::cell::{Cell, Writer};
use crate::message::op;

/// Which of the two steps of closing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyCloseKind {
    /// `ext_proxy_close_request_signed`: start closing; the delay begins.
    Close,
    /// `ext_proxy_close_complete_request_signed`: after the delay, pay the owner and close.
    Complete,
}

impl ProxyCloseKind {
    /// The operation code at the start of both cells.
    pub const fn operation(self) -> u32 {
        match self {
            Self::Close => op::EXT_PROXY_CLOSE_REQUEST_SIGNED,
            Self::Complete => op::EXT_PROXY_CLOSE_COMPLETE_REQUEST_SIGNED,
        }
    }
}

/// An order to close and what claims to be the proxy's signature. Only [`Self::verify`] tells whether it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedProxyClose {
    /// Start or complete.
    pub kind: ProxyCloseKind,
    /// The proxy's contract. Any other refuses the order.
    pub contract: Address,
    /// Lets the sender recognise the contract's answer.
    pub query_id: u64,
    /// Where coins go that are left of the message; completing sends them to the owner all the same. Not signed.
    pub excesses_to: Address,
    /// Over kind, query id and contract.
    pub signature: [u8; 64],
}

impl SignedProxyClose {
    /// Signs with the proxy's key.
    pub fn sign(
        key: &SigningKey,
        kind: ProxyCloseKind,
        contract: Address,
        query_id: u64,
        excesses_to: Address,
    ) -> Self {
        let unsigned = Self { kind, contract, query_id, excesses_to, signature: [0; 64] };
        let signature = key.sign(&unsigned.order().repr_hash().0).to_bytes();
        Self { signature, ..unsigned }
    }

    /// Checks that the proxy with `key` ordered this to `contract`.
    ///
    /// # Errors
    /// [`PaymentVerifyError::Contract`] or [`PaymentVerifyError::Signature`].
    pub fn verify(&self, key: &VerifyingKey, contract: &Address) -> Result<(), PaymentVerifyError> {
        if self.contract != *contract {
            return Err(PaymentVerifyError::Contract { expected: *contract, found: self.contract });
        }
        self.envelope().verify(key)
    }

    /// The message body that the contract expects.
    pub fn to_cell(&self) -> Cell {
        self.envelope().to_cell()
    }

    /// Reads a message body.
    ///
    /// # Errors
    /// When the cells have another layout.
    pub fn parse(cell: &Cell) -> Result<Self, PaymentParseError> {
        let envelope = Envelope::from_cell(cell)?;
        let kind = [ProxyCloseKind::Close, ProxyCloseKind::Complete]
            .into_iter()
            .find(|kind| kind.operation() == envelope.operation)
            .ok_or(PaymentParseError::UnknownOperation(envelope.operation))?;
        let mut inner = envelope.open()?;
        let contract = inner.address("contract")?;
        inner.end("the order to close")?;
        let Envelope { query_id, excesses_to, signature, .. } = envelope;
        Ok(Self { kind, contract, query_id, excesses_to, signature })
    }

    /// The inner cell, whose hash is signed.
    fn order(&self) -> Cell {
        Writer::new()
            .uint(u64::from(self.kind.operation()), 32)
            .uint(self.query_id, 64)
            .address(&self.contract)
            .build()
    }

    fn envelope(&self) -> Envelope {
        Envelope {
            operation: self.kind.operation(),
            query_id: self.query_id,
            excesses_to: self.excesses_to,
            signature: self.signature,
            order: self.order(),
        }
    }
}
