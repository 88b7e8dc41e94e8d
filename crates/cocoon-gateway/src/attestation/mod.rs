//! Who answers, and on what evidence: what is known of proxies and workers, what is demanded of workers, and what
//! callers may see of it.
//!
//! - `demands`: what this gateway demands of workers, and the judgement of one certificate by it.
//! - `memory`: the certificates of proxies and workers, also of those that are gone, within bounds.
//! - `vetting`: which workers are allowed now: judged once, and anew when a verdict runs out or lists change.
//! - `report`: `GET /v1/attestation`.
//!
//! Without demands the proxies' verdicts stand, and workers' evidence is fetched only where somebody asks for it, or
//! where a worker has answered.

mod demands;
mod memory;
mod report;
mod vetting;

pub use demands::WorkerDemands;
pub(crate) use report::{all, one};
pub(crate) use vetting::{Vetting, run};

/// SHA-256 of a certificate, by which a node is known.
pub(crate) type Fingerprint = [u8; 32];

/// Reads a fingerprint in hexadecimal digits.
pub(crate) fn parse_fingerprint(digits: &str) -> Option<Fingerprint> {
    let mut fingerprint = [0; 32];
    hex::decode_to_slice(digits, &mut fingerprint).ok().map(|()| fingerprint)
}
