//! Bodies of messages: what nodes, owners and contracts say to each other.
//!
//! [`Body`] has every message of every contract. It is written by [`Body::to_cell`], and read by [`Body::parse`], which
//! never fails: whatever it does not know, or what is not laid out exactly as the contracts read it, is
//! [`Body::Unknown`]. Amounts are in nanoton.

mod body;
mod decode;
mod encode;
mod exit;
pub mod op;
mod root;

pub use body::{Body, ClientCounters, ClientRequest, WorkerPayout};
pub use exit::exit_code_words;
pub use op::operation_name;
pub use root::RootChange;

/// Longest comment that is read or written, in bytes of UTF-8.
pub const MAX_COMMENT_BYTES: usize = 1024;
