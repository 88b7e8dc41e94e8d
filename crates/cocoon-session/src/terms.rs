//! Words that all three sides share: error codes, endings, the terms of a proxy.

use std::fmt;

use bytes::Bytes;
use cocoon_ton::address::Address;
use cocoon_wire::codec::DecodeError;
use cocoon_wire::frame::FrameError;
use cocoon_wire::tl;

/// Why a connection is closed: the peer broke the protocol, went silent, or the terms do not fit.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Violation {
    /// A frame was out of order or out of bounds.
    #[error("bad frame: {0}")]
    Frame(#[from] FrameError),
    /// A message did not decode.
    #[error("bad {what}: {error}")]
    Message {
        /// Which kind of message was expected.
        what: &'static str,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// A message that has no place here.
    #[error("unexpected {0}")]
    Unexpected(&'static str),
    /// The peer stayed silent.
    #[error("nothing received for {0} s")]
    Silent(u64),
    /// An answer did not come in time.
    #[error("no answer to {0} in time")]
    NoAnswer(&'static str),
    /// The peer sends but does not read.
    #[error("peer does not read what we send: {0} bytes wait")]
    NotReading(usize),
    /// The peer refused us.
    #[error("refused by peer: {message} (code {code})")]
    Refused {
        /// Its code, see [`ErrorCode`].
        code: i32,
        /// Its words.
        message: String,
    },
    /// What the peer says does not fit what we know.
    #[error("{0}")]
    Mismatch(String),
}

impl Violation {
    pub(crate) fn message(what: &'static str) -> impl FnOnce(DecodeError) -> Self {
        move |error| Self::Message { what, error }
    }
}

/// Error codes of the published nodes, as they appear in `tcp.queryError` and the answer errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ErrorCode(pub i32);

impl ErrorCode {
    /// No particular code.
    pub const NONE: Self = Self(0);
    /// A general failure.
    pub const ERROR: Self = Self(602);
    /// The message breaks the protocol, or names something unknown.
    pub const PROTOCOL: Self = Self(621);
    /// Cannot be served now.
    pub const NOT_READY: Self = Self(651);
    /// Took too long.
    pub const TIMEOUT: Self = Self(652);
    /// Cancelled by the side that asked.
    pub const CANCELLED: Self = Self(653);
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a request ended without a complete answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestFailure {
    /// What kind of failure.
    pub code: ErrorCode,
    /// In words; from a peer, so not to be trusted or logged with user text in mind.
    pub message: String,
}

impl RequestFailure {
    /// A failure with a code and words.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// What comes with the end of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct FinalInfo {
    /// Adjusted tokens per class, as the worker claims them.
    pub tokens: tl::TokensUsed,
    /// When the worker began and ended, in Unix seconds; 0 where unknown.
    pub worker_start: f64,
    /// See `worker_start`.
    pub worker_end: f64,
    /// When the proxy began and ended, in Unix seconds; 0 where unknown.
    pub proxy_start: f64,
    /// See `proxy_start`.
    pub proxy_end: f64,
}

/// The counters of a pair, as a payment notice or status shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentCounters {
    /// Adjusted tokens that the proxy has made durable.
    pub db_tokens: i64,
    /// Adjusted tokens in all.
    pub max_tokens: i64,
    /// The newest signed order, as bytes on the wire.
    pub signed: Option<Bytes>,
}

impl PaymentCounters {
    pub(crate) fn new(db_tokens: i64, max_tokens: i64, signed: tl::proxy::SignedPayment) -> Self {
        let signed = match signed {
            tl::proxy::SignedPayment::Signed { data } => Some(data),
            tl::proxy::SignedPayment::Empty => None,
        };
        Self { db_tokens, max_tokens, signed }
    }
}

/// What a proxy said of itself in the handshake, checked against the root configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyTerms {
    /// Key with which it signs payment orders.
    pub public_key: [u8; 32],
    /// Its contract.
    pub contract: Address,
    /// The contract between it and us.
    pub pair_contract: Address,
    /// Negotiated protocol version.
    pub proto_version: i32,
    /// Whether extension set 1 is in force.
    pub extensions: bool,
}
