//! Words that all three sides share: error codes, endings, the terms of a proxy.

use std::fmt;

use bytes::Bytes;
use cocoon_ledger::{Multiplier, PricePerToken, Tariff};
use cocoon_ton::address::Address;
use cocoon_ton::contracts::{CodeMissing, RootParams};
use cocoon_ton::root::RootConfig;
use cocoon_wire::codec::{ByteStr, DecodeError};
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

    /// One word for metrics and traces.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PROTOCOL => "protocol",
            Self::NOT_READY => "not_ready",
            Self::TIMEOUT => "timeout",
            Self::CANCELLED => "cancelled",
            _ => "failed",
        }
    }
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

/// What a proxy says in its handshake answer.
pub(crate) struct ProxyClaims<'a> {
    pub(crate) params: &'a tl::proxy::Params,
    pub(crate) pair_contract: &'a ByteStr,
}

/// Checks a proxy's handshake answer: network, version, and both contract addresses, recomputed.
pub(crate) fn check_proxy(
    claims: &ProxyClaims<'_>,
    root: &RootConfig,
    root_address: &Address,
    is_test: bool,
    extensions: bool,
    pair: impl FnOnce(&RootParams, &Address, &[u8; 32]) -> Result<Address, CodeMissing>,
) -> Result<ProxyTerms, Violation> {
    let params = claims.params;
    let mismatch = |what: String| Violation::Mismatch(what);
    if params.is_test != Some(is_test) {
        return Err(mismatch("the proxy serves another kind of network (test mode mismatch)".into()));
    }
    let proto_version = params.proto_version.unwrap_or(0);
    if !(crate::MIN_PROTO_VERSION..=crate::MAX_PROTO_VERSION).contains(&proto_version) {
        return Err(mismatch(format!("the proxy chose protocol version {proto_version}")));
    }
    let owner = parse_address(&params.proxy_owner_address)?;
    let contract = parse_address(&params.proxy_sc_address)?;
    let pair_contract = parse_address(claims.pair_contract)?;
    let missing = |error: CodeMissing| Violation::Mismatch(error.to_string());
    let expected =
        cocoon_ton::contracts::proxy_address(&root.params, root_address, &owner, &params.proxy_public_key)
            .map_err(missing)?;
    if expected != contract {
        return Err(mismatch(format!(
            "proxy contract {contract} does not follow from its key and owner; most often, root address or root configuration differ between the nodes; while the network's parameters change, this passes by itself"
        )));
    }
    let expected = pair(&root.params, &contract, &params.proxy_public_key).map_err(missing)?;
    if expected != pair_contract {
        return Err(mismatch(format!("the proxy names contract {pair_contract}, but ours is {expected}")));
    }
    Ok(ProxyTerms {
        public_key: params.proxy_public_key,
        contract,
        pair_contract,
        proto_version,
        extensions: extensions && params.ext_flags & tl::ext::EXT_V1 != 0,
    })
}

pub(crate) fn parse_address(text: &ByteStr) -> Result<Address, Violation> {
    let text = text.to_str().ok_or_else(|| Violation::Mismatch("address is not text".into()))?;
    Address::parse(text).map(|(address, _)| address).map_err(|error| Violation::Mismatch(error.to_string()))
}

/// Prices of a root configuration.
#[must_use]
pub fn tariff(root: &RootConfig) -> Tariff {
    let params = &root.params;
    Tariff {
        price_per_token: PricePerToken(params.price_per_token_nanoton),
        worker_fee_per_token: PricePerToken(params.worker_fee_per_token_nanoton),
        prompt: Multiplier(params.prompt_tokens_price_multiplier),
        cached: Multiplier(params.cached_tokens_price_multiplier),
        completion: Multiplier(params.completion_tokens_price_multiplier),
        reasoning: Multiplier(params.reasoning_tokens_price_multiplier),
    }
}

/// A peer's words, fit for a log: one line of bounded length.
pub(crate) fn words(text: &ByteStr) -> String {
    text.to_lossy().chars().filter(|character| !character.is_control()).take(MAX_WORDS).collect()
}

/// Longest text of a peer that is kept, in characters.
const MAX_WORDS: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_words_are_one_bounded_line() {
        let text = ByteStr::from(format!("no\r\n2026 INFO forged\u{1b}[31m{}", "x".repeat(1000)));
        let line = words(&text);
        assert!(line.starts_with("no2026 INFO forged[31mx") && line.chars().count() == MAX_WORDS, "{line}");
    }
}
