//! What an answer came to, told apart: the one place where answers are counted when they end.

use std::time::Duration;

use cocoon_ledger::{Dispute, RequestId};
use cocoon_openai::{CostFields, Endpoint, Usage};

use crate::Shared;
use crate::answer::Answering;
use crate::price::Assessment;

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// All of it came.
    Complete,
    /// It broke off.
    Broken,
    /// The caller went away before its end.
    Cancelled,
}

impl End {
    /// Its name in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Broken => "broken",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What one answer came to. Made exactly once for each request whose caller was given the head of an answer, or its error,
/// when that answer has ended, however it ended.
#[derive(Debug)]
pub(crate) struct Charged<'a> {
    pub(crate) endpoint: Endpoint,
    /// Without `@...`.
    pub(crate) model: &'a str,
    /// The engine's tokens of each class, as it told them, or else by the rule: nothing where nothing is charged.
    pub(crate) usage: Usage,
    /// Adjusted tokens.
    pub(crate) tokens: u64,
    /// In nanoton. Where the caller went away, what is to be expected: nobody tells it.
    pub(crate) costs: CostFields,
    /// The engine's own final count never came.
    pub(crate) estimated: bool,
    pub(crate) end: End,
    /// From the request's head to the end of its answer.
    pub(crate) took: Duration,
}

impl Shared {
    /// An answer has ended. Whoever counts answers, tokens or money does it here.
    pub(crate) fn charged(&self, charged: &Charged<'_>) {
        let Charged { endpoint, model, tokens, end, .. } = charged;
        tracing::debug!(%endpoint, model, tokens, end = end.name(), "an answer ended");
        self.metrics.charged(charged);
    }
}

impl Answering {
    /// Hands on what the answer came to, and keeps a dispute.
    pub(crate) fn record(&self, assessment: &Assessment, end: End) {
        self.shared.charged(&Charged {
            endpoint: self.request.endpoint(),
            model: &self.model,
            usage: assessment.usage,
            tokens: assessment.charged.get(),
            costs: assessment.costs(&self.order.tariff),
            estimated: assessment.estimated,
            end,
            took: self.timing.started.elapsed(),
        });
        if let Some(pass) = self.in_flight.pass() {
            pass.answered(end == End::Broken || !self.success, &assessment.usage);
        }
        if let Some(reason) = assessment.dispute
            && let Some(terms) = self.exchange.connection().terms()
        {
            let dispute = Dispute {
                request: RequestId(*self.exchange.request()),
                expected: assessment.expected,
                claimed: assessment.claimed,
                reason,
            };
            self.shared.dispute(&dispute, &terms.public_key, &self.model);
        }
    }
}
