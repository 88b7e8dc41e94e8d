//! AMD and its machines, simulated: roots, endorsement keys, revocation lists and attestation reports.
//!
//! A report made here passes through [`SnpVerifier`](cocoon_attest::snp::SnpVerifier) like any other, if that was
//! built with [`SimulatedAmd::roots`]. Milan writes reports of version 2, Genoa of version 3 and Turin of version 5,
//! each with its own order of security versions, so that every form goes through.
//!
//! The authorities' RSA keys are the same everywhere and public (`test-keys.txt`); a machine's key follows from its
//! seed. Everything is deterministic, signatures included.

mod amd;
mod machine;
mod report;
mod rsa;

pub use amd::{AmdForm, EndorsementForm, SimulatedAmd, Span};
pub use machine::SimulatedSnp;
pub use report::encode_report;
