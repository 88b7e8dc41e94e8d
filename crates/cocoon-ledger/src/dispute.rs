//! What a gateway keeps when a charge does not agree with what it received.

use crate::ids::RequestId;
use crate::tariff::Adjusted;

/// A disagreement about one request. It holds no text of the request or its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dispute {
    /// The request as its gateway named it.
    pub request: RequestId,
    /// What the gateway computed from the answer it received.
    pub expected: Adjusted,
    /// What the other side claims.
    pub claimed: Adjusted,
    /// How the two disagree.
    pub reason: DisputeReason,
}

/// How a claim disagrees with what was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DisputeReason {
    /// A class of tokens differs from the usage that the answer itself reports.
    UsageDiffers,
    /// The answer carried no usage, and the claim exceeds what was delivered.
    ExceedsDelivered,
    /// The claimed total is not the sum of its classes.
    TotalDiffers,
    /// The claim exceeds the limit that the request set.
    ExceedsLimit,
    /// The proxy's counter rose by more than the request's claim.
    CounterExceedsClaim,
    /// Tokens were claimed for a request that got no answer.
    NoAnswer,
}

impl DisputeReason {
    /// A short fixed name for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UsageDiffers => "usage_differs",
            Self::ExceedsDelivered => "exceeds_delivered",
            Self::TotalDiffers => "total_differs",
            Self::ExceedsLimit => "exceeds_limit",
            Self::CounterExceedsClaim => "counter_exceeds_claim",
            Self::NoAnswer => "no_answer",
        }
    }
}
