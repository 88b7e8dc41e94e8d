//! Attestation from end to end: whole networks in which proxies and workers show complete evidence of simulated Intel,
//! AMD and NVIDIA machines, and everybody verifies it by the verifiers that production uses.
#![allow(clippy::unwrap_used, missing_docs)]

mod downgraded_proxies;
mod forgeries;
mod root_changes;
mod serving;
mod tampered_workers;
mod time_passes;
mod world;
