//! The rule, case by case.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use cocoon_market::{Market, Name, NoWorker, Preference, State, Wish};

const SECOND: u64 = 1_000_000;
const MODEL: &str = "m";

fn state(coefficient: u32) -> State {
    State { coefficient, in_flight: 0, limit: 8, abilities: 0b11, ready: true, has_room: true }
}

fn name(key: u32) -> Name {
    [u8::try_from(key).unwrap(); 32]
}

fn market(workers: &[(u32, State)]) -> Market<u32> {
    let mut market = Market::new();
    for &(key, state) in workers {
        market.join(key, MODEL, name(key), name(key), state);
    }
    market
}

/// Lets a worker answer a few requests of 256 tokens, each in `seconds` after a first byte at once.
fn prove(market: &mut Market<u32>, key: u32, seconds: f64) {
    for _ in 0..5 {
        market.first_byte(key, Duration::ZERO, 0);
        market.answered(key, 256, Duration::from_secs_f64(seconds), 0);
        market.ended(key, false, 0);
    }
}

/// Gives an idle worker a request, and takes it away again.
fn give(market: &mut Market<u32>, key: u32, state: State) {
    market.update(key, State { in_flight: 1, ..state });
    market.update(key, state);
}

fn by(preference: Preference) -> Wish<'static, u32> {
    Wish { preference, ..Wish::default() }
}

#[test]
fn the_cheapest_worker_wins_until_it_is_full() {
    let mut market = market(&[(1, state(500)), (2, state(1000))]);
    prove(&mut market, 1, 1.0);
    for in_flight in 0..8 {
        market.update(1, State { in_flight, ..state(500) });
        assert_eq!(market.choose(MODEL, &by(Preference::Cheapest)), Ok(1));
    }
    market.update(1, State { in_flight: 8, ..state(500) });
    assert_eq!(market.choose(MODEL, &by(Preference::Cheapest)), Ok(2));
}

#[test]
fn each_preference_gets_what_it_asks_for() {
    let mut market = market(&[(1, state(500)), (2, state(700)), (3, state(3000))]);
    for (key, seconds) in [(1, 20.0), (2, 2.0), (3, 1.0)] {
        prove(&mut market, key, seconds);
    }
    assert_eq!(market.choose(MODEL, &by(Preference::Cheapest)), Ok(1));
    assert_eq!(market.choose(MODEL, &by(Preference::Balanced)), Ok(2));
    assert_eq!(market.choose(MODEL, &by(Preference::Fastest)), Ok(3));
}

#[test]
fn a_worker_that_keeps_failing_comes_last_until_time_has_healed_that() {
    let mut market = market(&[(1, state(500)), (2, state(1000))]);
    prove(&mut market, 2, 1.0);
    let cheapest = by(Preference::Cheapest);
    for _ in 0..3 {
        assert_eq!(market.choose(MODEL, &cheapest), Ok(1));
        market.ended(1, true, 0);
    }
    assert_eq!(market.choose(MODEL, &cheapest), Ok(2));
    let capped = Wish { max_coefficient: 999, ..cheapest };
    assert_eq!(market.choose(MODEL, &capped), Ok(1), "it is better than none");
    market.advance(10 * SECOND);
    assert_eq!(market.choose(MODEL, &cheapest), Ok(1));
}

#[test]
fn a_newcomer_gets_one_request_and_more_with_each_success() {
    let mut market = market(&[(1, state(500)), (2, state(1000))]);
    prove(&mut market, 2, 1.0);
    let most_at_a_time = |market: &mut Market<u32>| {
        let fits = |market: &mut Market<u32>, in_flight| {
            market.update(1, State { in_flight, ..state(500) });
            market.choose(MODEL, &by(Preference::Cheapest)) == Ok(1)
        };
        (0..8).take_while(|&in_flight| fits(market, in_flight)).count()
    };
    for expected in [1, 2, 4, 8] {
        assert_eq!(most_at_a_time(&mut market), expected);
        market.ended(1, false, 0);
    }
}

#[test]
fn idle_equals_take_turns() {
    let mut market = market(&[(1, state(500)), (2, state(500)), (3, state(500))]);
    let mut served = Vec::new();
    for _ in 0..6 {
        let key = market.choose(MODEL, &Wish::default()).unwrap();
        give(&mut market, key, state(500));
        market.first_byte(key, Duration::from_millis(50), 0);
        market.ended(key, false, 0);
        served.push(key);
    }
    served.sort_unstable();
    assert_eq!(served, [1, 1, 2, 2, 3, 3]);
}

#[test]
fn a_worker_that_refuses_everything_at_once_is_not_the_quickest() {
    let mut market = market(&[(1, state(1000)), (2, state(1000))]);
    prove(&mut market, 1, 5.0);
    for preference in [Preference::Balanced, Preference::Fastest] {
        assert_eq!(market.choose(MODEL, &by(preference)), Ok(2), "nobody knows how quick it is");
    }
    give(&mut market, 2, state(1000));
    for preference in [Preference::Balanced, Preference::Fastest] {
        assert_eq!(market.choose(MODEL, &by(preference)), Ok(1), "it was tried, and that told nothing");
    }
    market.advance(30 * SECOND);
    assert_eq!(market.choose(MODEL, &Wish::default()), Ok(2), "it is tried again");
}

#[test]
fn a_worker_that_has_no_room_is_left_alone_for_a_moment_and_is_no_worse_for_it() {
    let mut market = market(&[(1, state(500)), (2, state(1000))]);
    market.refused(1, 0);
    let cheapest = by(Preference::Cheapest);
    assert_eq!(market.choose(MODEL, &cheapest), Ok(2));
    let capped = Wish { max_coefficient: 999, ..cheapest };
    assert_eq!(market.choose(MODEL, &capped), Err(NoWorker::Busy));
    market.advance(SECOND / 4);
    assert_eq!(market.choose(MODEL, &cheapest), Ok(1));
    market.refused(1, SECOND / 4);
    assert_eq!(market.choose(MODEL, &cheapest), Ok(2));
    market.ended(1, false, SECOND / 4);
    assert_eq!(market.choose(MODEL, &cheapest), Ok(1), "what it has done makes room");
}

#[test]
fn a_worker_that_fails_and_comes_back_is_no_newcomer() {
    let mut market = market(&[(1, state(500)), (2, state(1000))]);
    prove(&mut market, 2, 1.0);
    let cheapest = by(Preference::Cheapest);
    for _ in 0..3 {
        market.ended(1, true, 0);
    }
    market.leave(1);
    market.join(3, MODEL, name(3), name(1), state(500));
    assert_eq!(market.choose(MODEL, &cheapest), Ok(2));
    market.advance(10 * SECOND);
    assert_eq!(market.choose(MODEL, &cheapest), Ok(3), "time heals it as if it had stayed");
    market.refused(3, 10 * SECOND);
    market.leave(3);
    market.join(4, MODEL, name(4), name(1), state(500));
    assert_eq!(market.choose(MODEL, &cheapest), Ok(2), "it is as full as it was");
    market.advance(11 * SECOND);
    assert_eq!(market.choose(MODEL, &cheapest), Ok(4));
}

#[test]
fn each_reason_for_no_worker_is_told_apart() {
    let wish = Wish { max_coefficient: 1000, needs: 1, ..Wish::default() };
    let why = |workers: &[(u32, State)]| market(workers).choose(MODEL, &wish);
    assert_eq!(why(&[]), Err(NoWorker::None));
    let paused = State { ready: false, ..state(1000) };
    let full = State { in_flight: 8, ..state(1000) };
    let unable = State { abilities: 0b10, ..state(1000) };
    assert_eq!(why(&[(1, paused)]), Err(NoWorker::NotReady));
    assert_eq!(why(&[(1, full)]), Err(NoWorker::Busy));
    assert_eq!(why(&[(1, State { has_room: false, ..state(1000) })]), Err(NoWorker::Busy));
    assert_eq!(why(&[(1, unable)]), Err(NoWorker::Unable));
    assert_eq!(why(&[(1, state(3000)), (2, state(2000))]), Err(NoWorker::TooDear { cheapest: 2000 }));
    assert_eq!(why(&[(1, state(3000)), (2, paused)]), Err(NoWorker::TooDear { cheapest: 3000 }));
    assert_eq!(why(&[(1, state(3000)), (2, full)]), Err(NoWorker::Busy));
    assert_eq!(why(&[(1, unable), (2, paused)]), Err(NoWorker::NotReady));
    let (nobody, second) = (BTreeSet::new(), BTreeSet::from([name(2)]));
    let why = |workers: &[(u32, State)], allowed| {
        market(workers).choose(MODEL, &Wish { allowed: Some(allowed), ..wish })
    };
    assert_eq!(why(&[(1, state(1000))], &nobody), Err(NoWorker::NotAllowed));
    assert_eq!(why(&[(1, state(1000)), (2, unable)], &second), Err(NoWorker::Unable));
    assert_eq!(why(&[(1, state(1000)), (2, full)], &second), Err(NoWorker::Busy));
    assert_eq!(
        why(&[(1, state(1000)), (2, state(2000))], &second),
        Err(NoWorker::TooDear { cheapest: 2000 })
    );
    assert_eq!(why(&[(1, state(1000)), (2, paused)], &second), Err(NoWorker::NotReady));
}

#[test]
fn a_request_goes_only_where_it_can_be_done_and_was_not_tried() {
    let able = State { abilities: 0b100, ..state(2000) };
    let market = market(&[(1, state(500)), (2, able)]);
    assert_eq!(market.choose(MODEL, &Wish { needs: 0b100, ..Wish::default() }), Ok(2));
    assert_eq!(market.choose(MODEL, &Wish { tried: &[1], ..Wish::default() }), Ok(2));
    let both = Wish { tried: &[1, 2], ..Wish::default() };
    assert_eq!(market.choose(MODEL, &both), Err(NoWorker::NotReady));
}

#[test]
fn who_knows_the_beginning_is_preferred_while_it_is_nearly_as_good() {
    let mut market = market(&[(1, state(1000)), (2, state(1100)), (3, state(1000))]);
    for key in 1..=3 {
        prove(&mut market, key, 1.0);
    }
    let wish = Wish { affinity: &[10, 11, 12], ..Wish::default() };
    let first = market.choose(MODEL, &wish).unwrap();
    assert_ne!(first, 2, "nobody knows it: the cheaper ones go first");
    market.remember(2, &[10, 11]);
    assert_eq!(market.choose(MODEL, &wish), Ok(2));
    market.remember(3, &[10, 11, 12]);
    assert_eq!(market.choose(MODEL, &wish), Ok(3), "a longer beginning is worth more");
    let other = Wish { affinity: &[20, 21], ..Wish::default() };
    assert_eq!(market.choose(MODEL, &other), Ok(first));
    let capped = Wish { max_coefficient: 1000, affinity: &[10, 11], ..Wish::default() };
    assert_ne!(market.choose(MODEL, &capped), Ok(2), "the cap binds");
    let cheap = Wish { preference: Preference::Cheapest, affinity: &[10, 11], ..Wish::default() };
    assert_ne!(market.choose(MODEL, &cheap), Ok(2), "who asks for the cheapest gets it");
    market.update(3, State { in_flight: 6, ..state(1000) });
    assert_ne!(market.choose(MODEL, &wish), Ok(3), "an overloaded worker loses it");
    market.update(3, State { coefficient: 3000, ..state(1000) });
    assert_ne!(market.choose(MODEL, &wish), Ok(3), "and so does one that has become much dearer");
}

#[test]
fn a_worker_that_left_leaves_nothing_behind() {
    let mut market = market(&[(1, state(500))]);
    market.remember(1, &[10]);
    market.ended(1, true, 0);
    market.leave(1);
    assert_eq!(market.models().count(), 0);
    market.join(2, MODEL, name(2), name(2), state(700));
    let wish = Wish { affinity: &[10], ..Wish::default() };
    assert_eq!(market.choose(MODEL, &wish), Ok(2));
    market.advance(100 * SECOND);
    market.leave(7);
    assert_eq!(market.offers(MODEL).map(|offer| offer.key).collect::<Vec<_>>(), [2]);
}

#[test]
fn the_next_place_becomes_free_sooner_where_more_requests_are_under_way() {
    let mut market = market(&[(1, state(500)), (2, state(500))]);
    assert_eq!(market.next_place(MODEL), None, "nothing is known yet");
    market.freed(1, Duration::from_secs(60));
    assert_eq!(market.next_place(MODEL), Some(Duration::from_secs(60)));
    for (key, in_flight) in [(1, 8), (2, 4)] {
        market.update(key, State { in_flight, ..state(500) });
    }
    assert_eq!(market.next_place(MODEL), Some(Duration::from_secs(5)));
    for _ in 0..100 {
        market.freed(2, Duration::from_secs(12));
    }
    let soon = market.next_place(MODEL).unwrap().as_secs_f64();
    assert!((1.0..1.01).contains(&soon), "{soon}");
    market.leave(1);
    let later = market.next_place(MODEL).unwrap().as_secs_f64();
    assert!((3.0..3.01).contains(&later), "a worker took its requests with it: {later}");
    assert_eq!(market.next_place("another"), None);
}
