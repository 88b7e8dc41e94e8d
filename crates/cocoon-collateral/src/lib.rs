//! Fetches what evidence needs for its verification (vendors' certificates, revocation lists, TCB information), and
//! keeps it in memory and on disk.
//!
//! **Nothing that comes from here is trusted.** Verifiers check every signature and date, so a service, a transport
//! or a cache that lies can bring about a refusal and nothing else. What this crate owes its callers is that answers
//! are there, soon, and with bounded effort: [`Fetcher`] fetches each thing once however many ask, serves what it
//! has while it fetches the next, leaves a dead service alone for a while, and works [offline](FetcherOptions::offline)
//! from its cache. [`FixedCollateral`] has fixed answers, and a [`Bundle`] carries answers to where no network is.
//!
//! Which request goes where is a small table in `route`.
#![forbid(unsafe_code)]

mod books;
mod bundle;
mod disk;
mod fetcher;
mod fixed;
mod http;
mod options;
mod route;
mod tls;

pub use books::{MAX_REMEMBERED_ANSWERS, MAX_REMEMBERED_BYTES};
pub use bundle::{Bundle, BundleError, BundleTooLarge, MAX_BUNDLE_ITEMS, MAX_BUNDLE_LEN};
pub use disk::{MAX_CACHE_BYTES, MAX_CACHE_FILES};
pub use fetcher::{Fetcher, MAX_FETCHES_UNDER_WAY, MAX_REQUESTS, Now};
pub use fixed::FixedCollateral;
pub use options::{ApiKey, FetcherOptions, OptionsError, PccsTrust};
pub use route::{INTEL_PCS, INTEL_ROOT_CRL, KDS, NVIDIA_OCSP, NVIDIA_RIM};
pub use tls::tls_by;
