//! Where collateral comes from: the interface between those who judge evidence and those who fetch.

use std::future::Future;
use std::pin::Pin;

use crate::{Collateral, CollateralRequest, EvidenceKind};

/// What a [`CollateralSource`] promises.
pub type CollateralFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Collateral, CollateralUnavailable>> + Send + 'a>>;

/// Fetches what evidence needs for its verification: vendors' certificates, revocation lists and the like.
/// It is expected to cache. What it gives is trusted by nobody: verifiers check signatures and dates.
pub trait CollateralSource: Send + Sync {
    /// Fetches everything asked for. The time of a connection's set-up covers it.
    fn fetch<'a>(&'a self, requests: &'a [CollateralRequest]) -> CollateralFuture<'a>;

    /// Tells that evidence was refused with the answers to these requests, so that a source which caches can
    /// fetch them anew: one bad answer must not stick. It is called for every refused peer, bad ones included,
    /// so a source limits how often that makes it fetch.
    fn refused(&self, requests: &[CollateralRequest]) {
        let _ = requests;
    }
}

/// Collateral that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no collateral for {kind} evidence: {reason}")]
pub struct CollateralUnavailable {
    /// For what kind of evidence.
    pub kind: EvidenceKind,
    /// Why, and what to do about it.
    pub reason: String,
}
