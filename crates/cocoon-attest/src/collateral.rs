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

    /// This source for one judgement, begun now: a source that makes its callers wait for a limited time makes them
    /// wait no longer than that for all that they fetch by it together. `None`: this source needs no such thing.
    fn for_one_judgement(&self) -> Option<Box<dyn CollateralSource + '_>> {
        None
    }

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

/// Fetches everything that judging this evidence takes, also what only the first answers ask for, within the time that
/// the source makes a [judgement](CollateralSource::for_one_judgement) wait.
///
/// # Errors
/// The source gives nothing at all.
pub async fn fetch_all(
    verifier: &dyn Verifier,
    source: &dyn CollateralSource,
    evidence: &Evidence,
) -> Result<Fetched, CollateralUnavailable> {
    let needed = |at_hand: Option<Collateral>| {
        std::future::ready(match at_hand {
            None => verifier.collateral_needed(evidence),
            Some(at_hand) => verifier.further_collateral(evidence, &at_hand),
        })
    };
    fetch_needed(needed, source).await
}

/// As [`fetch_all`], where finding out what is `needed` goes on elsewhere: it takes signatures of strangers. Asked first
/// with nothing, then with what is at hand.
///
/// # Errors
/// The source gives nothing at all.
pub async fn fetch_needed<F: Future<Output = Vec<CollateralRequest>>>(
    mut needed: impl FnMut(Option<Collateral>) -> F,
    source: &dyn CollateralSource,
) -> Result<Fetched, CollateralUnavailable> {
    let limited = source.for_one_judgement();
    let source = limited.as_deref().unwrap_or(source);
    let mut fetched = Fetched::default();
    let mut next = needed(None).await;
    for _ in 0..ROUNDS {
        next.retain(|request| !fetched.requests.contains(request));
        if next.is_empty() {
            break;
        }
        fetched.collateral.absorb(source.fetch(&next).await?);
        fetched.requests.append(&mut next);
        next = needed(Some(fetched.collateral.clone())).await;
    }
    Ok(fetched)
}
