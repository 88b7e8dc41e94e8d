//! From an engine's token counts to adjusted tokens and money.
//!
//! Among our own nodes figures are exact integers: `floor(tokens * coefficient * multiplier / 10^7)` per
//! class. The published nodes compute the same in double precision and truncate, which gives one less for
//! about 0.005 % of inputs; [`adjust_published`] is that formula and [`accepts_published`] forgives it.

use crate::units::{AdjustedTokens, Coefficient, MAX_COUNTER, Multiplier, Overflow, PricePerToken, Tokens};

/// Coefficient (1/1000) times multiplier (1/10000).
const SCALE: u128 = 10_000_000;

/// Prices and weights, as the root contract sets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tariff {
    /// What a client pays, in nanoton per adjusted token.
    pub price_per_token: PricePerToken,
    /// What a worker earns, in nanoton per adjusted token. A root contract may publish a fee above the
    /// price; the worker then earns the price ([`Tariff::rates`]).
    pub worker_fee_per_token: PricePerToken,
    /// Weight of prompt tokens that were not cached.
    pub prompt: Multiplier,
    /// Weight of cached prompt tokens.
    pub cached: Multiplier,
    /// Weight of completion tokens that are not reasoning.
    pub completion: Multiplier,
    /// Weight of reasoning tokens.
    pub reasoning: Multiplier,
}

impl Tariff {
    /// Price and fee, the fee held to the price.
    pub fn rates(&self) -> Rates {
        Rates::new(self.price_per_token, self.worker_fee_per_token)
    }

    /// The dearer of the two weights of a prompt's tokens.
    pub(crate) fn input_weight(&self) -> Multiplier {
        self.prompt.max(self.cached)
    }

    /// The dearer of the two weights of an answer's tokens.
    pub(crate) fn output_weight(&self) -> Multiplier {
        self.completion.max(self.reasoning)
    }
}

/// The price and the worker's fee that apply to one request. The fee never exceeds the price.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    price: PricePerToken,
    worker_fee: PricePerToken,
}

impl Rates {
    /// Price and fee; a fee above the price is lowered to it, so that a proxy never pays in.
    pub fn new(price: PricePerToken, worker_fee: PricePerToken) -> Self {
        Self { price, worker_fee: worker_fee.min(price) }
    }

    /// What the client pays, in nanoton per adjusted token.
    pub const fn price(&self) -> PricePerToken {
        self.price
    }

    /// What the worker earns, in nanoton per adjusted token.
    pub const fn worker_fee(&self) -> PricePerToken {
        self.worker_fee
    }
}

/// An engine's counts per class: prompt without cached, completion without reasoning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Prompt tokens that were not in a cache.
    pub prompt: Tokens,
    /// Prompt tokens that were.
    pub cached: Tokens,
    /// Completion tokens that are not reasoning.
    pub completion: Tokens,
    /// Reasoning tokens.
    pub reasoning: Tokens,
}

impl TokenCounts {
    /// From an OpenAI-style `usage`, where `prompt_tokens` includes `cached` and `completion_tokens` includes
    /// `reasoning`. Negative numbers count as zero, and a part larger than its whole counts as the whole.
    pub fn from_usage(prompt_tokens: i64, cached: i64, completion_tokens: i64, reasoning: i64) -> Self {
        let split = |whole: i64, part: i64| {
            let whole = whole.max(0).unsigned_abs();
            let part = part.max(0).unsigned_abs().min(whole);
            (Tokens(whole - part), Tokens(part))
        };
        let (prompt, cached) = split(prompt_tokens, cached);
        let (completion, reasoning) = split(completion_tokens, reasoning);
        Self { prompt, cached, completion, reasoning }
    }
}

/// Adjusted tokens per class. The total never exceeds the largest counter ([`MAX_COUNTER`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Adjusted {
    prompt: AdjustedTokens,
    cached: AdjustedTokens,
    completion: AdjustedTokens,
    reasoning: AdjustedTokens,
}

impl Adjusted {
    /// Nothing in any class.
    pub const ZERO: Self = Self {
        prompt: AdjustedTokens::ZERO,
        cached: AdjustedTokens::ZERO,
        completion: AdjustedTokens::ZERO,
        reasoning: AdjustedTokens::ZERO,
    };

    /// From the four classes: prompt, cached, completion, reasoning.
    ///
    /// # Errors
    /// [`Overflow`] where their sum exceeds [`MAX_COUNTER`].
    pub fn new(classes: [AdjustedTokens; 4]) -> Result<Self, Overflow> {
        let adjusted = Self::saturating(classes);
        if adjusted.classes() == classes { Ok(adjusted) } else { Err(Overflow { what: "adjusted tokens" }) }
    }

    /// From the four classes; what does not fit is cut from the later ones.
    pub fn saturating(classes: [AdjustedTokens; 4]) -> Self {
        let mut room = MAX_COUNTER;
        let [prompt, cached, completion, reasoning] = classes.map(|class| {
            let taken = class.0.min(room);
            room -= taken;
            AdjustedTokens(taken)
        });
        Self { prompt, cached, completion, reasoning }
    }

    /// Prompt tokens that were not cached.
    pub const fn prompt(&self) -> AdjustedTokens {
        self.prompt
    }

    /// Cached prompt tokens.
    pub const fn cached(&self) -> AdjustedTokens {
        self.cached
    }

    /// Completion tokens that are not reasoning.
    pub const fn completion(&self) -> AdjustedTokens {
        self.completion
    }

    /// Reasoning tokens.
    pub const fn reasoning(&self) -> AdjustedTokens {
        self.reasoning
    }

    /// All classes: prompt, cached, completion, reasoning.
    pub const fn classes(&self) -> [AdjustedTokens; 4] {
        [self.prompt, self.cached, self.completion, self.reasoning]
    }

    /// The sum, at most [`MAX_COUNTER`].
    pub fn total(&self) -> AdjustedTokens {
        AdjustedTokens(self.classes().iter().map(|class| class.0).sum())
    }

    /// The five numbers of the wire's `tokensUsed`: the classes, then the total.
    pub fn to_wire(&self) -> [i64; 5] {
        let [prompt, cached, completion, reasoning] = self.classes().map(AdjustedTokens::to_wire);
        [prompt, cached, completion, reasoning, self.total().to_wire()]
    }
}

/// `floor(tokens * coefficient * multiplier / 10^7)` of one class, `None` where it does not fit.
pub(crate) fn adjust_one(
    tokens: u64,
    coefficient: Coefficient,
    weight: Multiplier,
) -> Option<AdjustedTokens> {
    // 64 + 30 + 32 bits: the product always fits 128.
    let product = u128::from(tokens) * u128::from(coefficient.get()) * u128::from(weight.get());
    u64::try_from(product / SCALE).ok().map(AdjustedTokens)
}

/// Adjusted tokens as exact integers, each class rounded down.
///
/// # Errors
/// [`Overflow`] where the sum exceeds [`MAX_COUNTER`].
pub fn adjust_exact(
    counts: TokenCounts,
    coefficient: Coefficient,
    tariff: &Tariff,
) -> Result<Adjusted, Overflow> {
    let one = |tokens: Tokens, weight| {
        adjust_one(tokens.0, coefficient, weight).ok_or(Overflow { what: "adjusted tokens" })
    };
    Adjusted::new([
        one(counts.prompt, tariff.prompt)?,
        one(counts.cached, tariff.cached)?,
        one(counts.completion, tariff.completion)?,
        one(counts.reasoning, tariff.reasoning)?,
    ])
}

/// Adjusted tokens as the published nodes compute them: double precision from left to right, truncated;
/// what does not fit saturates.
pub fn adjust_published(counts: TokenCounts, coefficient: Coefficient, tariff: &Tariff) -> Adjusted {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "truncation is the published formula; `as` saturates"
    )]
    let one = |tokens: Tokens, weight: Multiplier| {
        let adjusted =
            tokens.0 as f64 * (f64::from(coefficient.get()) * 0.001) * f64::from(weight.get()) * 0.0001;
        AdjustedTokens::from_wire(adjusted as i64)
    };
    Adjusted::saturating([
        one(counts.prompt, tariff.prompt),
        one(counts.cached, tariff.cached),
        one(counts.completion, tariff.completion),
        one(counts.reasoning, tariff.reasoning),
    ])
}

/// Whether a published peer's figures (four classes, then the total) agree with exact ones: each class equal
/// or one lower, the total the sum of the classes.
pub fn accepts_published(claimed: &[i64; 5], exact: &Adjusted) -> bool {
    let [classes @ .., total] = claimed;
    let close = classes.iter().zip(exact.classes()).all(|(&claimed, exact)| {
        let exact = exact.to_wire();
        claimed == exact || (exact > 0 && claimed == exact - 1)
    });
    // Close classes are at most `exact`, whose sum fits.
    close && classes.iter().sum::<i64>() == *total
}

/// A peer's figures (four classes, then the total) made harmless: negative classes count as zero and the
/// total is recomputed, saturating.
pub fn clamp_claim(claimed: &[i64; 5]) -> Adjusted {
    let [prompt, cached, completion, reasoning, _] = claimed.map(AdjustedTokens::from_wire);
    Adjusted::saturating([prompt, cached, completion, reasoning])
}
