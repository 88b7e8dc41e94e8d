//! From engine counts to adjusted tokens, and what a worker may claim.
#![allow(clippy::unwrap_used)]

use cocoon_ledger::bound::TEMPLATE_ALLOWANCE;
use cocoon_ledger::units::MAX_COUNTER;
use cocoon_ledger::{
    Adjusted, AdjustedTokens, ClaimBound, Coefficient, Multiplier, PricePerToken, Tariff, TokenCounts,
    Tokens, accepts_published, adjust_exact, adjust_published, clamp_claim, reservation,
};
use proptest::prelude::*;

fn tariff(multiplier: u32) -> Tariff {
    let weight = Multiplier(multiplier);
    Tariff {
        price_per_token: PricePerToken(2),
        worker_fee_per_token: PricePerToken(1),
        prompt: weight,
        cached: weight,
        completion: weight,
        reasoning: weight,
    }
}

fn coefficient(thousandths: u32) -> Coefficient {
    Coefficient::new(thousandths).unwrap()
}

fn adjusted(classes: [u64; 4]) -> Adjusted {
    Adjusted::new(classes.map(AdjustedTokens)).unwrap()
}

#[test]
fn two_hundred_tokens_at_145_are_29_exactly_and_28_as_published() {
    let counts = TokenCounts::from_usage(200, 0, 0, 0);
    let exact = adjust_exact(counts, coefficient(145), &tariff(10_000)).unwrap();
    let published = adjust_published(counts, coefficient(145), &tariff(10_000));
    assert_eq!(exact.prompt(), AdjustedTokens(29));
    assert_eq!(published.prompt(), AdjustedTokens(28));
    assert!(accepts_published(&published.to_wire(), &exact), "the published figures must be accepted");
}

#[test]
fn usage_is_split_into_disjoint_classes_and_odd_usage_is_clamped() {
    let tokens = |counts: TokenCounts| {
        [counts.prompt, counts.cached, counts.completion, counts.reasoning].map(Tokens::get)
    };
    assert_eq!(tokens(TokenCounts::from_usage(100, 40, 50, 10)), [60, 40, 40, 10]);
    assert_eq!(tokens(TokenCounts::from_usage(10, 40, 5, 9)), [0, 10, 0, 5], "a part exceeds its whole");
    assert_eq!(tokens(TokenCounts::from_usage(-1, -1, i64::MIN, i64::MIN)), [0; 4]);
    assert_eq!(tokens(TokenCounts::from_usage(7, -3, 0, 2)), [7, 0, 0, 0]);
}

#[test]
fn absurd_counts_are_refused_exactly_and_saturate_as_published() {
    let counts = TokenCounts::from_usage(i64::MAX, 0, i64::MAX, 0);
    assert!(adjust_exact(counts, Coefficient::MAX, &tariff(u32::MAX)).is_err());
    assert!(adjust_exact(counts, Coefficient::ONE, &tariff(10_000)).is_err(), "the sum exceeds a counter");
    assert_eq!(adjust_published(counts, Coefficient::MAX, &tariff(u32::MAX)).total().get(), MAX_COUNTER);
}

#[test]
fn published_figures_are_accepted_only_when_equal_or_one_lower() {
    let exact = adjusted([29, 0, 10, 0]);
    assert!(accepts_published(&[29, 0, 10, 0, 39], &exact));
    assert!(accepts_published(&[28, 0, 9, 0, 37], &exact));
    for wrong in [
        [27, 0, 10, 0, 37],
        [30, 0, 10, 0, 40],
        [29, -1, 10, 0, 38],
        [29, 0, 10, 0, 40],
        [29, 0, 10, 0, 38],
        [i64::MIN, i64::MIN, i64::MAX, i64::MAX, 39],
    ] {
        assert!(!accepts_published(&wrong, &exact), "{wrong:?} was accepted");
    }
}

#[test]
fn a_claim_loses_its_negatives_and_its_false_total() {
    assert_eq!(clamp_claim(&[-5, 3, i64::MIN, 4, 1_000_000]), adjusted([0, 3, 0, 4]));
    assert_eq!(clamp_claim(&[i64::MAX, i64::MAX, 1, 1, 0]).total().get(), MAX_COUNTER);
}

#[test]
fn a_reservation_follows_the_published_formula_and_covers_dearer_weights() {
    assert_eq!(reservation(1000, 500, coefficient(4000), &tariff(10_000)), Some(AdjustedTokens(6000)));
    assert_eq!(reservation(1000, 500, coefficient(4000), &tariff(5_000)), Some(AdjustedTokens(6000)));
    assert_eq!(
        reservation(1, 1, coefficient(1500), &tariff(10_000)),
        Some(AdjustedTokens(3)),
        "rounded once"
    );
    assert_eq!(reservation(1000, 500, coefficient(1000), &tariff(20_000)), Some(AdjustedTokens(3000)));
    assert_eq!(reservation(u64::MAX, 1, Coefficient::ONE, &tariff(10_000)), None);
    assert_eq!(reservation(u64::MAX, 0, Coefficient::ONE, &tariff(10_000)), None, "no counter holds it");
}

fn bound(query_bytes: u64, answer_bytes: u64, max_tokens: u64) -> ClaimBound {
    ClaimBound { query_bytes, answer_bytes, max_tokens, limit_binds: true, coefficient: Coefficient::ONE }
}

#[test]
fn an_absurd_claim_is_held_to_bytes_and_limit() {
    let held = bound(500, 300, 100).hold(&adjusted([1_000_000, 0, 60, 90]), &tariff(10_000));
    assert_eq!(held.accepted, AdjustedTokens(500 + TEMPLATE_ALLOWANCE + 100));
    assert_eq!(held.accepted.get() + held.excess.get(), 1_000_150);
}

#[test]
fn hidden_reasoning_up_to_the_limit_is_believed() {
    let held = bound(500, 40, 4000).hold(&adjusted([100, 0, 5, 3995]), &tariff(10_000));
    assert_eq!(held.excess, AdjustedTokens(0));
}

#[test]
fn an_answer_without_a_byte_is_worth_nothing() {
    let held = bound(500, 0, 4000).hold(&adjusted([100, 0, 5, 3000]), &tariff(10_000));
    assert_eq!((held.accepted, held.excess), (AdjustedTokens(0), AdjustedTokens(3105)));
}

#[test]
fn a_limit_that_stands_in_no_body_gives_way_to_the_bytes_of_a_long_answer() {
    let long = ClaimBound { limit_binds: false, ..bound(500, 9000, 1000) };
    assert_eq!(long.hold(&adjusted([0, 0, 2000, 0]), &tariff(10_000)).excess, AdjustedTokens(0));
    assert_eq!(long.hold(&adjusted([0, 0, 9001, 0]), &tariff(10_000)).excess, AdjustedTokens(1));
}

fn usage() -> impl Strategy<Value = TokenCounts> {
    (0..100_000_i64, 0..100_000_i64, 0..100_000_i64, 0..100_000_i64).prop_map(
        |(prompt, cached, completion, reasoning)| {
            TokenCounts::from_usage(prompt, cached, completion, reasoning)
        },
    )
}

proptest! {
    #[test]
    fn published_figures_of_ordinary_requests_are_always_accepted(
        counts in usage(), thousandths in 0..20_000_u32, multiplier in 0..100_000_u32,
    ) {
        let (coefficient, tariff) = (coefficient(thousandths), tariff(multiplier));
        let exact = adjust_exact(counts, coefficient, &tariff).unwrap();
        let published = adjust_published(counts, coefficient, &tariff);
        prop_assert!(accepts_published(&published.to_wire(), &exact), "{published:?} against {exact:?}");
    }

    #[test]
    fn an_honest_claim_fits_its_bound_and_its_reservation(
        query_bytes in 0..50_000_u64, max_tokens in 0..5_000_u64, prompt_part in 0..=100_u64, cached_part in 0..=100_u64,
        completion_part in 0..=100_u64, reasoning_part in 0..=100_u64, answer_bytes in 1..100_u64,
        thousandths in 0..5_000_u32, dearer in 0..1_000_u32, multipliers in [0..50_000_u32, 0..50_000, 0..50_000, 0..50_000],
    ) {
        let [prompt, cached, completion, reasoning] = multipliers.map(Multiplier);
        let tariff = Tariff { prompt, cached, completion, reasoning, ..tariff(0) };
        let input = query_bytes * prompt_part / 100;
        let output = max_tokens * completion_part / 100;
        let usage = [input, input * cached_part / 100, output, output * reasoning_part / 100].map(u64::cast_signed);
        let counts = TokenCounts::from_usage(usage[0], usage[1], usage[2], usage[3]);
        let claimed = adjust_exact(counts, coefficient(thousandths), &tariff).unwrap();
        let bound = ClaimBound { coefficient: coefficient(thousandths), ..bound(query_bytes, answer_bytes, max_tokens) };
        let held = bound.hold(&claimed, &tariff);
        prop_assert_eq!(held.excess, AdjustedTokens(0));
        prop_assert_eq!(held.accepted, claimed.total());
        let reserved = reservation(max_tokens, query_bytes, coefficient(thousandths + dearer), &tariff).unwrap();
        prop_assert!(claimed.total() <= reserved, "{:?} reserved for {:?}", reserved, claimed);
    }

    #[test]
    fn a_clamped_claim_always_fits_a_counter(claimed in any::<[i64; 5]>()) {
        let clamped = clamp_claim(&claimed);
        prop_assert!(clamped.total().get() <= MAX_COUNTER);
        prop_assert!(clamped.to_wire().iter().all(|&number| number >= 0));
        let held = bound(10, 10, 10).hold(&clamped, &tariff(10_000));
        prop_assert_eq!(held.accepted.get() + held.excess.get(), clamped.total().get());
    }
}
