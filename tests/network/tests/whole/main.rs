//! The whole network, with good and bad peers, over real sockets.
#![allow(clippy::unwrap_used, missing_docs)]

mod allow_lists;
mod attested_workers;
mod bad_bytes;
mod bad_clients;
mod bad_proxies;
mod bad_proxies_of_gateways;
mod bad_workers;
mod cancelling;
mod durability;
mod endpoints;
mod failover;
mod keys;
mod large_bodies;
mod lookups;
mod market;
mod rotation;
mod shutdown;
mod slow_readers;
mod traces;
