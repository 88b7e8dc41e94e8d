//! What a worker says at the end of its answer, and what it claims.

use cocoon_ledger::{Adjusted, clamp_claim};
use cocoon_wire::codec::ByteStr;
use cocoon_wire::tl::{self, proxy};

/// What the worker says at the end of its answer.
pub(super) struct LastWord {
    pub(super) tokens: tl::TokensUsed,
    pub(super) worker_start: f64,
    pub(super) worker_end: f64,
    pub(super) debug: Option<ByteStr>,
}

impl LastWord {
    pub(super) fn none() -> Self {
        Self { tokens: tl::TokensUsed::default(), worker_start: 0.0, worker_end: 0.0, debug: None }
    }

    pub(super) fn old(tokens: tl::TokensUsed) -> Self {
        Self { tokens: natural(tokens), ..Self::none() }
    }
}

impl From<proxy::QueryFinalInfo> for LastWord {
    fn from(info: proxy::QueryFinalInfo) -> Self {
        let (worker_start, worker_end) =
            info.timings.map_or((0.0, 0.0), |timings| (timings.worker_start_time, timings.worker_end_time));
        let moment = |seconds: f64| if seconds.is_finite() { seconds.max(0.0) } else { 0.0 };
        Self {
            tokens: natural(info.tokens_used),
            worker_start: moment(worker_start),
            worker_end: moment(worker_end),
            debug: info.worker_debug,
        }
    }
}

/// What a worker claims, per class. What it calls the total counts for nothing.
pub(super) fn claim(tokens: &tl::TokensUsed) -> Adjusted {
    clamp_claim(&[
        tokens.prompt_tokens_used,
        tokens.cached_tokens_used,
        tokens.completion_tokens_used,
        tokens.reasoning_tokens_used,
        tokens.total_tokens_used,
    ])
}

/// What clients are shown of a claim is what it is settled by: no class below zero, and the total their sum.
fn natural(tokens: tl::TokensUsed) -> tl::TokensUsed {
    let claimed = claim(&tokens);
    tl::TokensUsed {
        prompt_tokens_used: claimed.prompt().to_wire(),
        cached_tokens_used: claimed.cached().to_wire(),
        completion_tokens_used: claimed.completion().to_wire(),
        reasoning_tokens_used: claimed.reasoning().to_wire(),
        total_tokens_used: claimed.total().to_wire(),
    }
}
