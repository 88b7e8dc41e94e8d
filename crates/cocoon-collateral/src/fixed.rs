//! Answers that are there from the start.

use std::fmt;

use bytes::Bytes;
use cocoon_attest::{Collateral, CollateralFuture, CollateralRequest, CollateralSource};

type Answer = dyn Fn(&CollateralRequest) -> Option<Bytes> + Send + Sync;

/// A source whose answers are fixed, or worked out on the spot: for simulated vendors, saved evidence and tests. What
/// it has no answer for is left out, and the verifier says so.
pub struct FixedCollateral {
    answer: Box<Answer>,
}

impl FixedCollateral {
    /// These answers and no others.
    #[must_use]
    pub fn new(answers: Collateral) -> Self {
        Self::answering(move |request| answers.get(request).cloned())
    }

    /// Whatever this function answers. It is called for each request and must not block.
    #[must_use]
    pub fn answering(answer: impl Fn(&CollateralRequest) -> Option<Bytes> + Send + Sync + 'static) -> Self {
        Self { answer: Box::new(answer) }
    }
}

impl CollateralSource for FixedCollateral {
    fn fetch<'a>(&'a self, requests: &'a [CollateralRequest]) -> CollateralFuture<'a> {
        let mut found = Collateral::none();
        for request in requests {
            match (self.answer)(request) {
                Some(answer) => found.insert(request.clone(), answer),
                None => found.note_failure(request.clone(), "it is not among what was given".to_owned()),
            }
        }
        Box::pin(std::future::ready(Ok(found)))
    }
}

impl fmt::Debug for FixedCollateral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FixedCollateral(..)")
    }
}
