//! What an answer costs, and whether what is claimed for it can be true.
//!
//! The protocol does not tell a client at which coefficient it was charged, so the coefficient is found: an offered one
//! under the caller's cap at which the answer's own usage gives exactly the claimed figures (figures of published
//! workers may be one lower per class), else any under the cap at which it does, because prices change between two
//! looks at the offers. A claim that no price under the cap explains, that is over the limit that the request set, or
//! whose usage contradicts the bytes received, is disputed. Nothing is held back for it: a dispute is a record.
//!
//! Where the usage never came, the rule of [`estimate_usage`] says what to expect. A stream that broke may have lost
//! bytes on the way that were worked for: its claim is only held to the request's limit. So is the claim for an answer that
//! was too large to be read here: the worker may have read it.

use cocoon_ledger::bound::TEMPLATE_ALLOWANCE;
use cocoon_ledger::{
    Adjusted, AdjustedTokens, ClaimBound, Coefficient, DisputeReason, Tariff, TokenCounts, accepts_published,
    adjust_exact, clamp_claim, reservation,
};
use cocoon_openai::{
    CostFields, Endpoint, MeterReport, RequestBasis, TEMPLATE_TOKENS, Usage, estimate_usage,
};

/// Completion tokens that are believed on top of two per byte received (markers that an engine counts but does not
/// show: ends of messages, tool syntax).
const UNSEEN_TOKENS: u64 = 128;
/// Coefficients tried to explain a claim.
const MAX_GUESSES: u64 = 4096;

// What the rule for a missing usage counts as prompt, a proxy lets a worker claim; the two crates do not know each other.
const _: () = assert!(TEMPLATE_TOKENS == TEMPLATE_ALLOWANCE);

/// What was asked for, and at which price at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    /// Bytes of the query as the proxy got it.
    pub(crate) query_bytes: u64,
    /// Limit on the whole answer, in tokens.
    pub(crate) max_tokens: u64,
    pub(crate) max_coefficient: Coefficient,
    pub(crate) tariff: Tariff,
    /// Whether the proxy is one of ours, which holds claims to the limit.
    pub(crate) limit_binds: bool,
}

impl Order {
    /// The most that may be charged, in adjusted tokens.
    pub(crate) fn at_most(&self) -> Option<AdjustedTokens> {
        reservation(self.max_tokens, self.query_bytes, self.max_coefficient, &self.tariff)
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received<'a> {
    /// The request, as forwarded.
    pub(crate) request: &'a RequestBasis,
    /// Bytes of the answer's body.
    pub(crate) bytes: u64,
    pub(crate) report: MeterReport,
    /// The status is no error.
    pub(crate) success: bool,
    /// The worker said that the answer is complete.
    pub(crate) completed: bool,
    /// The answer's form lets us see what is in it.
    pub(crate) readable: bool,
}

/// What an answer costs, and whether to believe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Assessment {
    /// What is claimed, per class.
    pub(crate) claimed: Adjusted,
    /// What our own computation gives.
    pub(crate) expected: Adjusted,
    /// The engine's tokens, as it told them, or else by the rule.
    pub(crate) usage: Usage,
    /// What will be charged, as far as can be known before the notice.
    pub(crate) charged: AdjustedTokens,
    /// The price that explains the claim.
    pub(crate) coefficient: Option<Coefficient>,
    /// No final usage came: the rule for that was applied.
    pub(crate) estimated: bool,
    pub(crate) dispute: Option<DisputeReason>,
}

impl Assessment {
    /// The charge as money, split into prompt and answer. Saturates.
    pub(crate) fn costs(&self, tariff: &Tariff) -> CostFields {
        let price = tariff.price_per_token.get();
        let input = (self.claimed.prompt().0 + self.claimed.cached().0).min(self.charged.0);
        let output = self.charged.0 - input;
        let [prompt, completion] = [input, output].map(|tokens| tokens.saturating_mul(price));
        CostFields {
            prompt_total_cost: prompt,
            completion_total_cost: completion,
            total_cost: prompt.saturating_add(completion),
        }
    }
}

/// The highest coefficient at which a million completion tokens cost at most so many nanoton.
pub(crate) fn coefficient_within(nanoton_per_million: u64, tariff: &Tariff) -> i32 {
    // coefficient / 1000 x multiplier / 10,000 x price x 1,000,000
    let per_coefficient = u128::from(tariff.completion.get()) * u128::from(tariff.price_per_token.get());
    let most = (u128::from(nanoton_per_million) * 10).checked_div(per_coefficient);
    let most = most.unwrap_or(u128::MAX).min(Coefficient::MAX.get().into());
    i32::try_from(most).unwrap_or(i32::MAX)
}

/// What a million completion tokens cost at a coefficient, in nanoton, rounded up.
pub(crate) fn price_of(coefficient: u32, tariff: &Tariff) -> u64 {
    let per_coefficient = u128::from(tariff.completion.get()) * u128::from(tariff.price_per_token.get());
    u64::try_from((u128::from(coefficient) * per_coefficient).div_ceil(10)).unwrap_or(u64::MAX)
}

/// Holds a claim (the wire's five numbers) against what was received. `offered`: coefficients that were on offer.
pub(crate) fn assess(
    order: &Order,
    offered: &[u32],
    claim: &[i64; 5],
    received: &Received<'_>,
) -> Assessment {
    let claimed = clamp_claim(claim);
    if !received.success || received.bytes == 0 {
        return Assessment {
            claimed,
            expected: Adjusted::ZERO,
            usage: Usage::default(),
            charged: charge(order, received, &claimed, order.max_coefficient).0,
            coefficient: None,
            estimated: false,
            dispute: (claimed.total().0 > 0).then_some(DisputeReason::NoAnswer),
        };
    }
    let metered = estimate_usage(&received.report, received.request);
    let usage = metered.usage;
    let counts = counts_of(&usage);
    let coefficient = explain(order, offered, claim, &counts);
    let within_cap = coefficient.filter(|coefficient| *coefficient <= order.max_coefficient);
    let priced_at = within_cap.unwrap_or(dearest(order, offered));
    let expected = adjust_exact(counts, priced_at, &order.tariff).unwrap_or(Adjusted::ZERO);
    let (charged, over_limit) =
        charge(order, received, &claimed, within_cap.unwrap_or(order.max_coefficient));
    let estimated = metered.estimated || !received.completed;
    let exceeds =
        claimed.classes().iter().zip(expected.classes()).any(|(claimed, expected)| *claimed > expected);
    let report = &received.report;
    let shown = report.content_bytes.saturating_mul(2).saturating_add(report.media_bytes);
    let unseen = received.readable
        && !report.gave_up
        && shows_its_tokens(received.request.endpoint())
        && counts.completion.0 > shown.saturating_add(UNSEEN_TOKENS);
    let total = claim[..4].iter().fold(0_i64, |sum, class| sum.saturating_add(*class));
    let dispute = if total != claim[4] {
        Some(DisputeReason::TotalDiffers)
    } else if over_limit || coefficient.is_some() && within_cap.is_none() {
        Some(DisputeReason::ExceedsLimit)
    } else if !received.completed {
        None
    } else if within_cap.is_none() && exceeds && !report.gave_up {
        Some(if metered.estimated { DisputeReason::ExceedsDelivered } else { DisputeReason::UsageDiffers })
    } else if unseen && !metered.estimated && claimed.total().0 > 0 {
        Some(DisputeReason::ExceedsDelivered)
    } else {
        None
    };
    Assessment { claimed, expected, usage, charged, coefficient: within_cap, estimated, dispute }
}

/// What an honest worker will claim, at the dearest price that may be in force, for an answer of which no claim is told.
pub(crate) fn expect(order: &Order, offered: &[u32], received: &Received<'_>) -> Assessment {
    let (usage, expected) = if received.success && received.bytes > 0 {
        let usage = estimate_usage(&received.report, received.request).usage;
        let adjusted = adjust_exact(counts_of(&usage), dearest(order, offered), &order.tariff);
        (usage, adjusted.unwrap_or(Adjusted::ZERO))
    } else {
        (Usage::default(), Adjusted::ZERO)
    };
    Assessment {
        claimed: expected,
        expected,
        usage,
        charged: charge(order, received, &expected, order.max_coefficient).0,
        coefficient: None,
        estimated: true,
        dispute: None,
    }
}

fn counts_of(usage: &Usage) -> TokenCounts {
    TokenCounts::from_usage(
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.completion_tokens,
        usage.reasoning_tokens,
    )
}

/// Whether every completion token that is not called reasoning shows in the answer. Anthropic's usage has no word for
/// reasoning, and engines need not show it; images and sound have no tokens that could be seen.
fn shows_its_tokens(endpoint: Endpoint) -> bool {
    matches!(
        endpoint,
        Endpoint::Chat
            | Endpoint::Completions
            | Endpoint::Responses
            | Endpoint::Transcriptions
            | Endpoint::Translations
    )
}

/// What will be charged of a claim, and whether the claim was over what the request allows.
fn charge(
    order: &Order,
    received: &Received<'_>,
    claimed: &Adjusted,
    coefficient: Coefficient,
) -> (AdjustedTokens, bool) {
    let bound = ClaimBound {
        query_bytes: order.query_bytes,
        answer_bytes: received.bytes,
        max_tokens: order.max_tokens,
        limit_binds: true,
        coefficient,
    };
    let held = bound.hold(claimed, &order.tariff);
    let at_most = order.at_most().unwrap_or(AdjustedTokens(u64::MAX));
    let over = held.excess.0 > 0 || held.accepted > at_most;
    // A published proxy charges whatever is claimed.
    let charged = if order.limit_binds { held.accepted.min(at_most) } else { claimed.total() };
    (charged, over)
}

/// The dearest offer that the caller accepts; the cap itself where none is known.
fn dearest(order: &Order, offered: &[u32]) -> Coefficient {
    let accepted = offered.iter().filter_map(|&offer| Coefficient::new(offer).ok());
    accepted.filter(|offer| *offer <= order.max_coefficient).max().unwrap_or(order.max_coefficient)
}

/// The coefficient at which `counts` gives the claimed figures: an offered one where one does, else the lowest.
fn explain(order: &Order, offered: &[u32], claim: &[i64; 5], counts: &TokenCounts) -> Option<Coefficient> {
    let explains = |coefficient: &Coefficient| {
        adjust_exact(*counts, *coefficient, &order.tariff).is_ok_and(|exact| accepts_published(claim, &exact))
    };
    let mut offers = offered.iter().filter_map(|&offer| Coefficient::new(offer).ok());
    if let Some(offer) = offers.find(|offer| *offer <= order.max_coefficient && explains(offer)) {
        return Some(offer);
    }
    let tariff = &order.tariff;
    let classes = [
        (counts.prompt, tariff.prompt),
        (counts.cached, tariff.cached),
        (counts.completion, tariff.completion),
        (counts.reasoning, tariff.reasoning),
    ];
    let weights = classes.iter().map(|(tokens, weight)| u128::from(tokens.0) * u128::from(weight.get()));
    let (heaviest, figure) = weights.zip(claim).max_by_key(|(weight, _)| *weight)?;
    let figure = u128::from(u64::try_from(*figure).ok()?);
    // figure <= heaviest * coefficient / 10^7 < figure + 2, where the figure may be one lower.
    let lowest = u64::try_from((figure * 10_000_000).checked_div(heaviest)?).ok()?;
    let guesses = (lowest..=lowest.saturating_add(MAX_GUESSES))
        .filter_map(|guess| Coefficient::from_wire(i64::try_from(guess).ok()?).ok());
    let beyond = u64::try_from(((figure + 2) * 10_000_000).checked_div(heaviest)?).ok()?;
    guesses.take_while(|guess| u64::from(guess.get()) <= beyond).find(explains)
}

#[cfg(test)]
mod tests;
