//! Who disappears, and when: with real nodes on an embedded chain whose clock is moved.
#![allow(clippy::unwrap_used, missing_docs)]

mod client_gone;
mod new_parameters;
mod no_funds;
mod proxy_closes;
mod proxy_gone;
mod worker_gone;
mod world;
