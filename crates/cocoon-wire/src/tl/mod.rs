//! The messages of the published scheme, by the scheme's prefixes, plus our extensions ([`ext`]).
//!
//! A type's name is its constructor's. The wire order of fields is the scheme's. Numbers are as a peer
//! sent them: any value, negative ones included, and any `double`, NaN and infinities included.

use crate::macros::{tl_debug, tl_struct};

pub mod client;
mod direction;
pub mod ext;
pub mod http;
pub mod market;
pub mod proxy;
pub mod tcp;
pub mod worker;

pub use direction::{ClientQuery, ClientToProxy, ProxyToClient, ProxyToWorker, WorkerQuery, WorkerToProxy};

tl_struct! {
    /// `tokensUsed`: tokens of one request by class, already adjusted by coefficient and multipliers.
    #[derive(Copy, Default, Eq)]
    TokensUsed = 0x70c5_b15c {
        /// Prompt tokens that were not cached.
        prompt_tokens_used: i64,
        /// Cached prompt tokens.
        cached_tokens_used: i64,
        /// Completion tokens without reasoning.
        completion_tokens_used: i64,
        /// Reasoning tokens.
        reasoning_tokens_used: i64,
        /// The sum, which is what is charged.
        total_tokens_used: i64,
    }
}

tl_struct! {
    /// The protocol versions a worker or client speaks; a peer of protocol version 0 does not say.
    #[derive(Copy, Eq)]
    ProtoRange {
        /// The lowest.
        min: i32,
        /// The highest.
        max: i32,
    }
}
