//! How much a proxy reserves for a request and how much it lets a worker claim, without reading bodies.
//!
//! The proxy sees bytes and limits only. Its rule rests on two facts: a token of a prompt stands for at least
//! one byte of the query (JSON only adds bytes), and an engine obeys the limit that the gateway wrote into the
//! body. A chat template may add tokens that are in no body: [`TEMPLATE_ALLOWANCE`] covers them. Reasoning may
//! be invisible and some engines count it as completion, so the bytes of an answer say nothing certain about its
//! tokens, except that an answer without a byte has none to be paid. Images named by reference may be dearer
//! than their bytes; the reservation does not cover them either, so that is the worker's to refuse.

use crate::tariff::{Adjusted, Tariff, adjust_one};
use crate::units::{AdjustedTokens, Coefficient, MAX_COUNTER, Multiplier};

/// Prompt tokens that a chat template, its default system prompt and its tool instructions may add.
pub const TEMPLATE_ALLOWANCE: u64 = 1024;

/// What a request reserves: (max_tokens + bytes of the query) * max_coefficient / 1000, as published, where no
/// multiplier exceeds one; a multiplier above one raises its side, so that an honest charge always fits.
/// `None` where the amount exceeds [`MAX_COUNTER`].
///
/// `max_tokens` is the limit of the whole request: where a body asks for several choices, the gateway
/// multiplies.
pub fn reservation(
    max_tokens: u64,
    query_bytes: u64,
    max_coefficient: Coefficient,
    tariff: &Tariff,
) -> Option<AdjustedTokens> {
    let output = tariff.output_weight().max(Multiplier::ONE);
    let input = tariff.input_weight().max(Multiplier::ONE);
    if output == Multiplier::ONE && input == Multiplier::ONE {
        // One rounding, as published.
        return adjust_one(max_tokens.checked_add(query_bytes)?, max_coefficient, Multiplier::ONE)
            .filter(fits);
    }
    let output = adjust_one(max_tokens, max_coefficient, output)?;
    output.checked_add(adjust_one(query_bytes, max_coefficient, input)?).filter(fits)
}

fn fits(amount: &AdjustedTokens) -> bool {
    amount.0 <= MAX_COUNTER
}

/// What the proxy knows of a request when its worker claims tokens for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimBound {
    /// Bytes of the query that the worker was sent.
    pub query_bytes: u64,
    /// Bytes of the answer that the worker sent.
    pub answer_bytes: u64,
    /// The request's limit of completion tokens, reasoning included, all choices together.
    pub max_tokens: u64,
    /// Whether that limit is known to stand in the body. Our gateway writes it there; a published one does
    /// not, so an honest answer may be longer than the limit it announced, but not than its bytes.
    pub limit_binds: bool,
    /// The worker's coefficient when it was given the request.
    pub coefficient: Coefficient,
}

/// A claim, held to its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounded {
    /// What of the claim is plausible; settle with this.
    pub accepted: AdjustedTokens,
    /// What is not; zero for an honest worker.
    pub excess: AdjustedTokens,
}

impl ClaimBound {
    /// The most that prompt and cached tokens together may be. Nothing where no byte of an answer came.
    pub fn max_input(&self, tariff: &Tariff) -> AdjustedTokens {
        if self.answer_bytes == 0 {
            return AdjustedTokens::ZERO;
        }
        self.adjust(self.query_bytes.saturating_add(TEMPLATE_ALLOWANCE), tariff.input_weight())
    }

    /// The most that completion and reasoning tokens together may be. Nothing where no byte of an answer came.
    pub fn max_output(&self, tariff: &Tariff) -> AdjustedTokens {
        let tokens = match (self.answer_bytes, self.limit_binds) {
            (0, _) => 0,
            (_, true) => self.max_tokens,
            (bytes, false) => self.max_tokens.max(bytes),
        };
        self.adjust(tokens, tariff.output_weight())
    }

    /// Holds a claim to the two bounds.
    pub fn hold(&self, claimed: &Adjusted, tariff: &Tariff) -> Bounded {
        // Sums of two classes and of two bounds below them: all at most the claim's total, which fits.
        let input = (claimed.prompt().0 + claimed.cached().0).min(self.max_input(tariff).0);
        let output = (claimed.completion().0 + claimed.reasoning().0).min(self.max_output(tariff).0);
        let accepted = AdjustedTokens(input + output);
        Bounded { accepted, excess: claimed.total().left_after(accepted) }
    }

    fn adjust(&self, tokens: u64, weight: Multiplier) -> AdjustedTokens {
        adjust_one(tokens, self.coefficient, weight).unwrap_or(AdjustedTokens(MAX_COUNTER))
    }
}
