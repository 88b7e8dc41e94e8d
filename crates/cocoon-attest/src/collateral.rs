//! Where collateral comes from: the interface between those who judge evidence and those who fetch.

use std::future::Future;
use std::pin::Pin;

use crate::{Collateral, CollateralRequest, Evidence, EvidenceKind, Verifier};

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

/// How often answers may bring new questions.
const ROUNDS: usize = 3;

/// Everything that was fetched to judge one piece of evidence.
#[derive(Debug, Clone, Default)]
pub struct Fetched {
    /// The answers.
    pub collateral: Collateral,
    /// What was asked for.
    pub requests: Vec<CollateralRequest>,
}

/// Fetches everything that judging this evidence takes, also what only the first answers ask for.
///
/// # Errors
/// The source gives nothing at all.
pub async fn fetch_all(
    verifier: &dyn Verifier,
    source: &dyn CollateralSource,
    evidence: &Evidence,
) -> Result<Fetched, CollateralUnavailable> {
    let mut fetched = Fetched::default();
    let mut needed = verifier.collateral_needed(evidence);
    for _ in 0..ROUNDS {
        needed.retain(|request| !fetched.requests.contains(request));
        if needed.is_empty() {
            break;
        }
        fetched.collateral.absorb(source.fetch(&needed).await?);
        fetched.requests.append(&mut needed);
        needed = verifier.further_collateral(evidence, &fetched.collateral);
    }
    Ok(fetched)
}
