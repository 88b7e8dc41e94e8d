#![allow(clippy::unwrap_used)]
use std::sync::LazyLock;

use bytes::Bytes;
use cocoon_ledger::{Multiplier, PricePerToken, adjust_published};
use proptest::prelude::*;

use super::*;

const CAP: u32 = 4000;

fn order() -> Order {
    Order {
        query_bytes: 1000,
        max_tokens: 500,
        max_coefficient: Coefficient::new(CAP).unwrap(),
        tariff: Tariff {
            price_per_token: PricePerToken(20),
            worker_fee_per_token: PricePerToken(15),
            prompt: Multiplier::ONE,
            cached: Multiplier(1000),
            completion: Multiplier::ONE,
            reasoning: Multiplier::ONE,
        },
        limit_binds: true,
    }
}

fn request() -> &'static RequestBasis {
    static REQUEST: LazyLock<RequestBasis> = LazyLock::new(|| {
        let body = br#"{"messages":[{"role":"user","content":"12345678"}]}"#;
        RequestBasis::json(Endpoint::Chat, Bytes::from_static(body))
    });
    &REQUEST
}

fn received(usage: Option<Usage>) -> Received<'static> {
    Received {
        request: request(),
        bytes: 4000,
        report: MeterReport {
            usage,
            content_bytes: 2000,
            complete: true,
            saw_done: true,
            ..MeterReport::default()
        },
        success: true,
        completed: true,
        readable: true,
    }
}

fn usage() -> Usage {
    Usage { cached_tokens: 40, reasoning_tokens: 7, ..Usage::new(100, 200) }
}

fn claim_at(usage: &Usage, coefficient: u32) -> [i64; 5] {
    let coefficient = Coefficient::new(coefficient).unwrap();
    adjust_exact(counts_of(usage), coefficient, &order().tariff).unwrap().to_wire()
}

#[test]
fn an_honest_claim_at_an_offered_price_is_believed_to_the_last_nanoton() {
    let claim = claim_at(&usage(), 1500);
    let assessment = assess(&order(), &[1000, 1500], &claim, &received(Some(usage())));
    assert_eq!(assessment.dispute, None);
    assert_eq!(assessment.coefficient, Coefficient::new(1500).ok());
    assert!(!assessment.estimated);
    assert_eq!(assessment.charged.to_wire(), claim[4]);
    let costs = assessment.costs(&order().tariff);
    assert_eq!(costs.total_cost, assessment.charged.0 * 20);
    assert_eq!(costs.prompt_total_cost, (60 * 3 / 2 + 6) * 20);
}

#[test]
fn a_price_that_changed_meanwhile_is_found_and_one_over_the_cap_is_disputed() {
    let assessment = assess(&order(), &[1000], &claim_at(&usage(), 1234), &received(Some(usage())));
    assert_eq!(assessment.dispute, None);
    assert!(assessment.coefficient.is_some());
    let assessment = assess(&order(), &[1000], &claim_at(&usage(), CAP + 500), &received(Some(usage())));
    assert_eq!((assessment.dispute, assessment.coefficient), (Some(DisputeReason::ExceedsLimit), None));
}

#[test]
fn a_claim_that_the_usage_does_not_give_is_disputed() {
    let mut claim = claim_at(&usage(), 1000);
    claim[2] += 100;
    claim[4] += 100;
    let assessment = assess(&order(), &[1000], &claim, &received(Some(usage())));
    assert_eq!(assessment.dispute, Some(DisputeReason::UsageDiffers));
    claim[4] += 1;
    let assessment = assess(&order(), &[1000], &claim, &received(Some(usage())));
    assert_eq!(assessment.dispute, Some(DisputeReason::TotalDiffers));
}

#[test]
fn a_claim_below_the_usage_is_no_ones_loss_but_the_workers() {
    let assessment = assess(&order(), &[1000], &[0; 5], &received(Some(usage())));
    assert_eq!((assessment.dispute, assessment.charged), (None, AdjustedTokens::ZERO));
}

#[test]
fn usage_over_the_limit_or_over_what_was_received_is_disputed() {
    let long = Usage::new(100, 501);
    let assessment = assess(&order(), &[1000], &claim_at(&long, 1000), &received(Some(long)));
    assert_eq!(assessment.dispute, Some(DisputeReason::ExceedsLimit));
    assert_eq!(assessment.charged.0, 600, "the proxy holds the claim to the limit");

    let mut short = received(Some(Usage::new(100, 400)));
    short.report.content_bytes = 10;
    let claim = claim_at(&Usage::new(100, 400), 1000);
    assert_eq!(assess(&order(), &[1000], &claim, &short).dispute, Some(DisputeReason::ExceedsDelivered));
    short.readable = false;
    assert_eq!(assess(&order(), &[1000], &claim, &short).dispute, None);
}

#[test]
fn tokens_for_an_error_or_for_nothing_are_disputed() {
    let claim = claim_at(&usage(), 1000);
    let nothing = Received { bytes: 0, ..received(None) };
    assert_eq!(assess(&order(), &[1000], &claim, &nothing).dispute, Some(DisputeReason::NoAnswer));
    let error = Received { success: false, ..received(None) };
    assert_eq!(assess(&order(), &[1000], &claim, &error).dispute, Some(DisputeReason::NoAnswer));
    assert_eq!(assess(&order(), &[1000], &[0; 5], &error).dispute, None);
}

#[test]
fn without_usage_the_documented_rule_is_the_measure() {
    let mut cut = received(None);
    cut.report.content_deltas = 50;
    cut.report.complete = false;
    // 8 bytes of prompt are 2 tokens, one message adds 4, 50 deltas are 50.
    let claim = claim_at(&Usage::new(6, 50), 1000);
    let assessment = assess(&order(), &[1000], &claim, &cut);
    assert_eq!((assessment.dispute, assessment.estimated), (None, true));
    let claim = claim_at(&Usage::new(6, 90), 1000);
    assert_eq!(assess(&order(), &[1000], &claim, &cut).dispute, Some(DisputeReason::ExceedsDelivered));
    cut.completed = false;
    assert_eq!(assess(&order(), &[1000], &claim, &cut).dispute, None, "what was sent may not have arrived");
}

#[test]
fn absurd_claims_change_nothing_but_the_verdict() {
    for claim in [[i64::MAX; 5], [i64::MIN; 5], [-1, -1, -1, -1, -4], [i64::MAX, 0, 0, 0, i64::MAX]] {
        let assessment = assess(&order(), &[0, u32::MAX], &claim, &received(Some(usage())));
        assert!(assessment.charged.0 <= order().at_most().unwrap().0);
        if claim[0] > 0 {
            assert!(assessment.dispute.is_some(), "{claim:?}");
        }
    }
}

proptest! {
    #[test]
    fn honest_figures_of_ours_and_of_published_workers_are_never_disputed(
        prompt in 0_i64..1000, cached in 0_i64..1000, completion in 0_i64..500, reasoning in 0_i64..500,
        coefficient in 0_u32..=CAP, known in any::<bool>(),
    ) {
        let usage = Usage {
            cached_tokens: cached.min(prompt),
            reasoning_tokens: reasoning.min(completion),
            ..Usage::new(prompt, completion)
        };
        let offers = if known { vec![coefficient] } else { vec![] };
        let exact = claim_at(&usage, coefficient);
        let published =
            adjust_published(counts_of(&usage), Coefficient::new(coefficient).unwrap(), &order().tariff).to_wire();
        for claim in [exact, published] {
            let assessment = assess(&order(), &offers, &claim, &received(Some(usage)));
            prop_assert_eq!(assessment.dispute, None);
            prop_assert_eq!(assessment.charged.to_wire(), claim[4]);
        }
    }
}

#[test]
fn a_price_per_million_tokens_becomes_the_coefficient_that_keeps_to_it() {
    let tariff = |price: u64, completion: u32| Tariff {
        price_per_token: PricePerToken(price),
        completion: Multiplier(completion),
        ..order().tariff
    };
    // At coefficient 1000 and weight 1, a million tokens cost a million times the price.
    assert_eq!(coefficient_within(20_000_000, &tariff(20, 10_000)), 1000);
    assert_eq!(coefficient_within(20_000_000, &tariff(20, 40_000)), 250);
    assert_eq!(coefficient_within(20_019_999, &tariff(20, 10_000)), 1000);
    assert_eq!(coefficient_within(19_999, &tariff(20, 10_000)), 0);
    for free in [tariff(0, 10_000), tariff(20, 0), tariff(1, 1)] {
        assert_eq!(coefficient_within(u64::MAX, &free), 999_999_999);
    }
}
