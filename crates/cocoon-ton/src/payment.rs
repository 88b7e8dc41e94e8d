//! Payment orders: what a proxy signs, off chain, for a client's or a worker's contract.
//!
//! An order names a contract and a cumulative number of adjusted tokens: "charge this client up to N", "pay this
//! worker up to N". Numbers only rise, so of any two orders the larger replaces the smaller, and either side may put
//! the newest on chain. The proxy signs the hash of the inner cell with Ed25519; the outer cell is the message body
//! that the contract expects:
//!
//! ```text
//! outer: op:uint32 query_id:uint64 excesses_to:MsgAddress signature:bits512 ^inner
//! inner: op:uint32 query_id:uint64 tokens:uint64 contract:MsgAddress
//! ```
//!
//! Where the excess coins go is not signed: whoever sends the order may change it
//! ([`SignedPayment::with_excesses_to`]).

//!
//! [`SignedProxyClose`] is of the same make: the proxy's order to its own contract to close.

mod envelope;
mod proxy_close;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

pub use proxy_close::{ProxyCloseKind, SignedProxyClose};

use self::envelope::Envelope;
use crate::address::Address;
use crate::cell::{Cell, CellError, Writer, decode_boc, encode_boc};
use crate::message::op;

/// Largest encoded signed payment that we decode, in bytes. A well-formed one has about 180.
pub const MAX_SIGNED_PAYMENT_BYTES: usize = 4 * 1024;

/// What an order tells its contract to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OrderKind {
    /// `ext_client_charge_signed`: charge the client up to N tokens.
    ChargeClient,
    /// `ext_client_grant_refund_signed`: charge the client up to N tokens, close, and refund the rest.
    RefundClient,
    /// `ext_worker_payout_request_signed`: pay the worker up to N tokens.
    PayWorker,
    /// `ext_worker_last_payout_request_signed`: pay the worker up to N tokens, and close.
    PayWorkerLast,
}

impl OrderKind {
    const ALL: [Self; 4] = [Self::ChargeClient, Self::RefundClient, Self::PayWorker, Self::PayWorkerLast];

    /// The operation code at the start of both cells.
    pub const fn operation(self) -> u32 {
        match self {
            Self::ChargeClient => op::EXT_CLIENT_CHARGE_SIGNED,
            Self::RefundClient => op::EXT_CLIENT_GRANT_REFUND_SIGNED,
            Self::PayWorker => op::EXT_WORKER_PAYOUT_REQUEST_SIGNED,
            Self::PayWorkerLast => op::EXT_WORKER_LAST_PAYOUT_REQUEST_SIGNED,
        }
    }

    fn from_operation(operation: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.operation() == operation)
    }
}

/// An order before it is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaymentOrder {
    /// What to do.
    pub kind: OrderKind,
    /// The client's or worker's contract that shall do it. Any other refuses the order.
    pub contract: Address,
    /// Lets the sender recognise the contract's answer; published nodes draw it at random.
    pub query_id: u64,
    /// Adjusted tokens since the contract began.
    pub tokens: u64,
    /// Where the contract sends coins that are left of the message: published proxies name their wallet.
    pub excesses_to: Address,
}

impl PaymentOrder {
    /// The inner cell, whose hash is signed.
    pub fn unsigned_cell(&self) -> Cell {
        Writer::new()
            .uint(u64::from(self.kind.operation()), 32)
            .uint(self.query_id, 64)
            .uint(self.tokens, 64)
            .address(&self.contract)
            .build()
    }

    /// Signs the order with the proxy's key. Ed25519 is deterministic: the same order gives the same bytes.
    pub fn sign(&self, key: &SigningKey) -> SignedPayment {
        let signature = key.sign(&self.unsigned_cell().repr_hash().0);
        SignedPayment { order: *self, signature: signature.to_bytes() }
    }
}

/// An order and what claims to be the proxy's signature. Only [`Self::verify`] tells whether it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedPayment {
    order: PaymentOrder,
    signature: [u8; 64],
}

impl SignedPayment {
    /// Reads a signed payment as it comes over the wire, in the one encoding that published proxies write (no index,
    /// no checksum): a payment passes through several programs, and all must see the same in it.
    ///
    /// # Errors
    /// When the bytes are over [`MAX_SIGNED_PAYMENT_BYTES`], are no cells, have another layout or another encoding.
    pub fn parse(bytes: &[u8]) -> Result<Self, PaymentParseError> {
        let payment = Self::from_cell(&decode_boc(bytes, MAX_SIGNED_PAYMENT_BYTES)?)?;
        if payment.to_boc() == bytes { Ok(payment) } else { Err(PaymentParseError::NotCanonical) }
    }

    /// Reads a signed payment from a message body.
    ///
    /// # Errors
    /// When the cells have another layout.
    pub fn from_cell(cell: &Cell) -> Result<Self, PaymentParseError> {
        let envelope = Envelope::from_cell(cell)?;
        let kind = OrderKind::from_operation(envelope.operation)
            .ok_or(PaymentParseError::UnknownOperation(envelope.operation))?;
        let mut inner = envelope.open()?;
        let tokens = inner.uint(64, "tokens")?;
        let contract = inner.address("contract")?;
        inner.end("the payment order")?;
        let Envelope { query_id, excesses_to, signature, .. } = envelope;
        Ok(Self { order: PaymentOrder { kind, contract, query_id, tokens, excesses_to }, signature })
    }

    /// Checks that the proxy with `key` ordered `contract` to do `kind`, and returns the number of tokens.
    ///
    /// # Errors
    /// [`PaymentVerifyError`] says which of the three does not hold.
    pub fn verify(
        &self,
        key: &VerifyingKey,
        kind: OrderKind,
        contract: &Address,
    ) -> Result<u64, PaymentVerifyError> {
        if self.order.kind != kind {
            return Err(PaymentVerifyError::Kind { expected: kind, found: self.order.kind });
        }
        if self.order.contract != *contract {
            return Err(PaymentVerifyError::Contract { expected: *contract, found: self.order.contract });
        }
        self.envelope().verify(key)?;
        Ok(self.order.tokens)
    }

    /// The order. Do not act on it before [`Self::verify`].
    pub const fn order(&self) -> &PaymentOrder {
        &self.order
    }

    /// The same signed order, with excess coins going elsewhere. The signature does not cover that address.
    #[must_use]
    pub const fn with_excesses_to(mut self, excesses_to: Address) -> Self {
        self.order.excesses_to = excesses_to;
        self
    }

    /// The message body that the contract expects.
    pub fn to_cell(&self) -> Cell {
        self.envelope().to_cell()
    }

    /// The bytes that go on the wire: [`Self::to_cell`] as a bag of cells without index and checksum.
    pub fn to_boc(&self) -> Vec<u8> {
        encode_boc(&self.to_cell())
    }

    fn envelope(&self) -> Envelope {
        Envelope {
            operation: self.order.kind.operation(),
            query_id: self.order.query_id,
            excesses_to: self.order.excesses_to,
            signature: self.signature,
            order: self.order.unsigned_cell(),
        }
    }
}

/// Why bytes are not a signed payment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PaymentParseError {
    /// The cells do not have the layout.
    #[error("not a signed payment: {0}")]
    Cell(#[from] CellError),
    /// None of the four kinds.
    #[error("the signed payment has the unknown operation {0:#010x}")]
    UnknownOperation(u32),
    /// The same cells could be written in the usual way and are not.
    #[error(
        "the signed payment is not in the usual encoding: one root, no index, no checksum, nothing after it"
    )]
    NotCanonical,
    /// The outer cell says something else than what was signed.
    #[error("the operation or query id beside the signature differs from the signed one")]
    HeaderMismatch,
}

/// Why a signed payment does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PaymentVerifyError {
    /// An order to do something else.
    #[error("the payment order is a {found:?} where a {expected:?} must be")]
    Kind {
        /// What was asked for.
        expected: OrderKind,
        /// What the order says.
        found: OrderKind,
    },
    /// An order to another contract.
    #[error("the payment order is for the contract {found}, not for {expected}")]
    Contract {
        /// The contract in question.
        expected: Address,
        /// The contract in the order.
        found: Address,
    },
    /// Not signed by that key.
    #[error("the signature of the payment order does not fit the proxy's key")]
    Signature,
}
