//! The whole network, with good and bad peers, over real sockets.
#![allow(clippy::unwrap_used, missing_docs)]

mod bad_bytes;
mod bad_clients;
mod bad_workers;
mod failover;
