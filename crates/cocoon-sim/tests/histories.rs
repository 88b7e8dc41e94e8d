//! Fixed histories hold, and faults that no correct system has are noticed.

#![allow(clippy::unwrap_used, clippy::panic)]

use cocoon_sim::{Options, Sabotage, Summary, run};

fn histories(seeds: impl Iterator<Item = u64>) -> Summary {
    let mut total = Summary::default();
    for seed in seeds {
        total += run(Options::new(seed), |_| {}).unwrap_or_else(|breach| panic!("seed {seed}: {breach}"));
    }
    total
}

#[test]
fn every_invariant_holds_in_the_first_histories() {
    let total = histories(0..10);
    let seen = [total.completed, total.refused, total.failed, total.cancelled, total.charges];
    assert!(seen.iter().all(|&count| count > 50), "the histories are too tame: {total}");
    assert!(
        total.refunds > 5 && total.settled > 5 && total.switches > 5,
        "the histories are too tame: {total}"
    );
    assert!(
        total.crashes > 10 && total.cuts > 10 && total.held_back > 50,
        "the histories are too tame: {total}"
    );
}

/// In its history a worker says that it is full right before the last call.
#[test]
fn a_worker_that_was_full_is_asked_again_when_it_has_rested() {
    run(Options { steps: 30_000, ..Options::new(192) }, |_| {}).unwrap();
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let record = |seed| {
        let mut lines = Vec::new();
        let options = Options { steps: 6_000, ..Options::new(seed) };
        let summary = run(options, |line| lines.push(line.to_owned())).unwrap();
        (summary, lines)
    };
    assert_eq!(record(3), record(3));
    assert_ne!(record(3).1, record(4).1);
}

/// The breach that a fault leads to in one of a few histories.
fn breach_of(sabotage: Sabotage) -> String {
    (0..6)
        .find_map(|seed| {
            let options = Options { steps: 12_000, sabotage: Some(sabotage), ..Options::new(seed) };
            run(options, |_| {}).err()
        })
        .unwrap_or_else(|| panic!("{sabotage:?} goes unnoticed"))
        .to_string()
}

#[test]
fn a_double_charge_is_noticed() {
    let breach = breach_of(Sabotage::DoubleCharge);
    assert!(breach.contains("charged twice"), "{breach}");
}

#[test]
fn a_dropped_notice_is_noticed() {
    let breach = breach_of(Sabotage::DropNotices);
    assert!(breach.contains("payment notice never came"), "{breach}");
}

#[test]
fn a_log_that_forgets_is_noticed() {
    let breach = breach_of(Sabotage::ForgetDurable);
    assert!(breach.contains("went back"), "{breach}");
}

#[test]
fn a_changed_answer_is_noticed() {
    let breach = breach_of(Sabotage::CorruptAnswers);
    assert!(breach.contains("no engine wrote"), "{breach}");
}

#[test]
fn a_request_that_never_ends_is_noticed() {
    let breach = breach_of(Sabotage::DropEndings);
    assert!(breach.contains("outlive"), "{breach}");
}
