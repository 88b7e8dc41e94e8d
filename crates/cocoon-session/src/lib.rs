//! The three sides of the Cocoon protocol as state machines without I/O.
//!
//! Bytes, time and decisions come in as arguments; what is to be sent is polled with a capacity, what happened is
//! polled as events. No clock, no randomness, no sockets: so the same code serves the nodes, the simulator and the
//! tests.
//!
//! - [`link`]: one framed connection: opening, pings, time-outs, query/answer correlation.
//! - [`outbox`]: answers on their way out, shared fairly between the requests of one connection.
//! - `body`: request bodies that stream.
//! - [`client`]: the gateway's side of a connection to a proxy.
//! - [`worker`]: the worker's side of a connection to a proxy.
//! - [`proxy`]: a whole proxy: all its connections, requests, reservations and payment notices.
//!
//! A peer that breaks the protocol gets a [`Violation`], with which its connection is closed; nothing a peer sends
//! can panic here.

pub mod client;
pub mod link;
pub mod outbox;
pub mod proxy;
pub mod worker;

mod answer;
mod body;
mod market;
mod options;
mod terms;
mod time;
mod workers;

pub use answer::{MAX_HEAD_BYTES, MAX_HEADERS, RESEND_HEADER};
pub use body::{DEFAULT_MAX_BODY_BYTES, FIRST_BODY_BYTES, WHOLE_BODY_BYTES, split_body};
pub use cocoon_market::Preference;
pub use cocoon_wire::tl::ext::{MAX_AFFINITY, MAX_PART_BYTES, MAX_TRACE_BYTES, ability};
pub use cocoon_wire::tl::market::MarketOffer;
pub use market::{KnownMarket, MAX_KNOWN_OFFERS};
pub use terms::{ErrorCode, FinalInfo, PaymentCounters, ProxyTerms, RequestFailure, Violation, tariff};
pub use time::Time;
pub use workers::{AllowError, WorkerEvidence, WorkerList};

/// Lowest protocol version that we speak.
pub const MIN_PROTO_VERSION: i32 = 1;
/// Highest protocol version that we speak.
pub const MAX_PROTO_VERSION: i32 = 2;
/// Body bytes that may be under way per request before the receiver grants more (extension set 1).
pub const INITIAL_CREDIT_BYTES: usize = 256 * 1024;
/// Body bytes held for one request whose receiver is slow, where the peer knows no credit; over it that request ends.
pub const MAX_HELD_BYTES: usize = 8 * 1024 * 1024;
/// Body bytes held for all requests of one client; what comes over it ends its own request.
pub const MAX_HELD_BYTES_PER_CLIENT: usize = 256 * 1024 * 1024;
/// Workers that one client may allow at a time, where it says which ones see its requests.
pub const MAX_ALLOWED_WORKERS: usize = 65_536;
/// Longest time a request may take; longer wishes are shortened.
pub const MAX_REQUEST_TIME: std::time::Duration = std::time::Duration::from_secs(3600);
