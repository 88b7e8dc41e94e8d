//! Platforms that are not there: evidence made and signed in software, in exactly the form that hardware gives it.
//!
//! Local networks and tests go through the very code that production uses. What differs is the root: each simulated
//! vendor has its own, derived from a seed, and a verifier accepts it only where it was built with that root. Whoever
//! knows the seed can make any evidence, so such a root belongs on test networks only.

mod der;
pub mod nvidia;
pub mod pki;
pub mod snp;
pub mod tdx;
mod vendors;

pub use vendors::{MAX_MACHINES, Vendors};
