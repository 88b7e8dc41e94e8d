//! Everything breaks all the time, and callers hardly notice.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod callers;
mod engine;
mod maintenance;
mod storm;
