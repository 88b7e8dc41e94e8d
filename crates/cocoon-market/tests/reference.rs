//! The index chooses exactly the worker that a plain look at every worker finds.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cocoon_market::{
    AFFINITY_FACTOR, DOUBTFUL, Market, Name, NoWorker, Observed, Preference, STRETCH, State, TYPICAL_TOKENS,
    UNHURRIED_S, UNKNOWN_TIME_S, Wish,
};
use proptest::prelude::*;

const MODEL: &str = "m";

/// One worker of the reference, without any order or timers.
#[derive(Clone, Copy)]
struct Plain {
    state: State,
    observed: Observed,
}

/// Trust, figure, the other figure, in flight, requests given, key: lower is better.
type Score = (u8, f64, f64, u32, u64, u32);

impl Plain {
    fn score(&self, key: u32, preference: Preference, now: u64) -> Score {
        let State { coefficient, in_flight, limit, .. } = self.state;
        let level = self.observed.level(now);
        let allowance = 1_u64 << self.observed.successes().min(40);
        let trust = match () {
            () if self.observed.failure_rate(now) > DOUBTFUL && level == 5 => 2,
            () if u64::from(in_flight) >= allowance => 1,
            () => 0,
        };
        let untried = self.observed.is_untried(now);
        let unknown = if in_flight == 0 && level == 0 && untried { 0.0 } else { UNKNOWN_TIME_S };
        let time = self.observed.answer_time(TYPICAL_TOKENS, now).unwrap_or(unknown)
            * (1.0 + f64::from(in_flight) / f64::from(limit.max(1)))
            * STRETCH[level];
        let price = f64::from(coefficient);
        let (first, second) = match preference {
            Preference::Cheapest => (price, time),
            Preference::Fastest => (time, price),
            Preference::Balanced => ((price + 1.0) * (time + UNHURRIED_S).sqrt(), time),
        };
        (trust, first, second, in_flight, self.observed.requests_given(), key)
    }
}

#[derive(Default)]
struct Reference {
    workers: BTreeMap<u32, Plain>,
    prefixes: BTreeMap<u64, u32>,
    gone: BTreeMap<Name, (u64, Observed)>,
    now: u64,
}

impl Reference {
    fn choose(&self, wish: &Wish<'_, u32>) -> Result<u32, NoWorker> {
        if self.workers.is_empty() {
            return Err(NoWorker::None);
        }
        let allowed = |key: &u32| wish.allowed.is_none_or(|allowed| allowed.contains(&name(*key)));
        let workers = || self.workers.iter().filter(|(key, _)| allowed(key));
        let able = || workers().filter(|(_, w)| w.state.abilities & wish.needs == wish.needs);
        let ready = || able().filter(|(key, w)| w.state.ready && !wish.tried.contains(key));
        let affordable = || ready().filter(|(_, w)| w.state.coefficient <= wish.max_coefficient);
        let now = self.now;
        let open =
            |w: &Plain| w.state.has_room && w.state.in_flight < w.state.limit && !w.observed.is_full(now);
        let score = |key: u32| self.workers[&key].score(key, wish.preference, self.now);
        let eligible: Vec<u32> = affordable().filter(|(_, w)| open(w)).map(|(&key, _)| key).collect();
        let best = eligible.iter().copied().min_by(|&a, &b| score(a).partial_cmp(&score(b)).unwrap());
        if let Some(best) = best {
            let warm = wish.affinity.iter().rev().filter_map(|prefix| self.prefixes.get(prefix).copied());
            for key in warm {
                if key == best {
                    break;
                }
                if !eligible.contains(&key) {
                    continue;
                }
                let (theirs, its) = (score(key), score(best));
                let factor = if wish.preference == Preference::Cheapest { 1.0 } else { AFFINITY_FACTOR };
                let state = self.workers[&key].state;
                let loaded = u64::from(state.in_flight) * 4 >= u64::from(state.limit) * 3;
                if theirs.1 <= factor * its.1 && (theirs.0 == 0 || theirs.0 <= its.0) && !loaded {
                    return Ok(key);
                }
            }
            return Ok(best);
        }
        match () {
            () if workers().count() == 0 => Err(NoWorker::NotAllowed),
            () if able().count() == 0 => Err(NoWorker::Unable),
            () if affordable().count() > 0 => Err(NoWorker::Busy),
            () => match ready().map(|(_, w)| w.state.coefficient).min() {
                Some(cheapest) => Err(NoWorker::TooDear { cheapest }),
                None => Err(NoWorker::NotReady),
            },
        }
    }
}

fn name(key: u32) -> Name {
    // Some workers have two connections.
    let mut name = [0; 32];
    name[..4].copy_from_slice(&(key / 2).to_le_bytes());
    name
}

#[derive(Debug, Clone)]
enum Event {
    Join(u32, State),
    Leave(u32),
    Update(u32, State),
    FirstByte(u32, u64),
    Answered(u32, u64, u64),
    Ended(u32, bool),
    Refused(u32),
    Remember(u32, Vec<u64>),
    Pass(u64),
}

fn state() -> impl Strategy<Value = State> {
    (0_u32..6, 0_u32..6, 1_u32..5, 0_u32..4, 0_u32..8, 0_u32..10).prop_map(
        |(coefficient, in_flight, limit, abilities, ready, room)| State {
            coefficient: coefficient * 500,
            in_flight,
            limit,
            abilities,
            ready: ready > 0,
            has_room: room > 0,
        },
    )
}

fn event(workers: u32) -> impl Strategy<Value = Event> {
    let key = 0..workers;
    prop_oneof![
        4 => (key.clone(), state()).prop_map(|(key, state)| Event::Join(key, state)),
        1 => key.clone().prop_map(Event::Leave),
        4 => (key.clone(), state()).prop_map(|(key, state)| Event::Update(key, state)),
        2 => (key.clone(), 1_u64..3000).prop_map(|(key, ms)| Event::FirstByte(key, ms)),
        2 => (key.clone(), 0_u64..500, 1_u64..9000).prop_map(|(key, n, ms)| Event::Answered(key, n, ms)),
        4 => (key.clone(), any::<bool>()).prop_map(|(key, failed)| Event::Ended(key, failed)),
        1 => key.clone().prop_map(Event::Refused),
        2 => (key, prop::collection::vec(0_u64..8, 1..4)).prop_map(|(key, p)| Event::Remember(key, p)),
        2 => prop_oneof![0_u64..2_000_000, 0_u64..30_000_000, 0_u64..900_000_000].prop_map(Event::Pass),
    ]
}

type Ask = (u32, u32, usize, Option<BTreeSet<Name>>, Vec<u32>, Vec<u64>);

fn ask(workers: u32) -> impl Strategy<Value = Ask> {
    (
        (0_u32..7).prop_map(|cap| cap * 500),
        0_u32..4,
        0_usize..3,
        prop::option::of(prop::collection::btree_set((0..workers).prop_map(name), 0..workers as usize)),
        prop::collection::vec(0..workers, 0..3),
        prop::collection::vec(0_u64..8, 0..4),
    )
}

fn carry_out(market: &mut Market<u32>, reference: &mut Reference, event: Event) {
    let now = reference.now;
    match event {
        Event::Join(key, state) => {
            market.join(key, MODEL, name(key), name(key), state);
            let observed = reference.gone.remove(&name(key)).filter(|&(at, _)| now < at + 600_000_000);
            let observed = observed.map_or_else(Observed::default, |(_, observed)| observed);
            reference.workers.insert(key, Plain { state, observed });
        }
        Event::Leave(key) => {
            market.leave(key);
            let left = reference.workers.remove(&key).map(|worker| worker.observed);
            if let Some(observed) = left.filter(|left| *left != Observed::default()) {
                let old = reference.gone.get(&name(key)).filter(|&&(at, _)| now < at + 600_000_000);
                let worse = old.filter(|(_, old)| old.failure_rate(now) > observed.failure_rate(now));
                let observed = worse.map_or(observed, |&(_, old)| old);
                reference.gone.insert(name(key), (now, observed));
            }
        }
        Event::Update(key, state) => {
            market.update(key, state);
            if let Some(worker) = reference.workers.get_mut(&key) {
                let more = state.in_flight.saturating_sub(worker.state.in_flight);
                if more > 0 {
                    worker.observed.given(more, now);
                }
                worker.state = state;
            }
        }
        Event::FirstByte(key, ms) => {
            market.first_byte(key, Duration::from_millis(ms), now);
            if let Some(worker) = reference.workers.get_mut(&key) {
                worker.observed.first_byte(Duration::from_millis(ms), now);
            }
        }
        Event::Answered(key, tokens, ms) => {
            market.answered(key, tokens, Duration::from_millis(ms), now);
            if let Some(worker) = reference.workers.get_mut(&key) {
                worker.observed.answered(tokens, Duration::from_millis(ms), now);
            }
        }
        Event::Ended(key, failed) => {
            market.ended(key, failed, now);
            if let Some(worker) = reference.workers.get_mut(&key) {
                worker.observed.ended(failed, now);
            }
        }
        Event::Refused(key) => {
            market.refused(key, now);
            if let Some(worker) = reference.workers.get_mut(&key) {
                worker.observed.refused(now);
            }
        }
        Event::Remember(key, prefixes) => {
            market.remember(key, &prefixes);
            if reference.workers.contains_key(&key) {
                reference.prefixes.extend(prefixes.iter().map(|&prefix| (prefix, key)));
            }
        }
        Event::Pass(us) => {
            reference.now += us;
            market.advance(reference.now);
        }
    }
}

fn agree(workers: u32, events: Vec<(Event, Ask)>) -> Result<(), TestCaseError> {
    let (mut market, mut reference) = (Market::new(), Reference::default());
    // A key is used once only; here it may come back, so prefixes of an earlier life are told apart by a new key.
    let (mut lives, mut next) = (BTreeMap::new(), workers);
    for (event, (max_coefficient, needs, preference, allowed, tried, affinity)) in events {
        let event = with_life(event, &mut lives, &mut next);
        carry_out(&mut market, &mut reference, event);
        let preference = Preference::ALL[preference];
        let tried: Vec<u32> = tried.iter().map(|key| *lives.get(key).unwrap_or(key)).collect();
        let allowed = allowed.map(|names| {
            let of = |(old, new): (&u32, &u32)| names.contains(&name(*old)).then(|| name(*new));
            lives.iter().filter_map(of).collect::<BTreeSet<_>>()
        });
        let wish = Wish {
            max_coefficient,
            needs,
            preference,
            allowed: allowed.as_ref(),
            tried: &tried,
            affinity: &affinity,
        };
        prop_assert_eq!(market.choose(MODEL, &wish), reference.choose(&wish));
    }
    Ok(())
}

fn with_life(event: Event, lives: &mut BTreeMap<u32, u32>, next: &mut u32) -> Event {
    if let Event::Join(key, state) = event
        && !lives.contains_key(&key)
    {
        *next += 1;
        lives.insert(key, *next);
        return Event::Join(*next, state);
    }
    let of = |key: u32| *lives.get(&key).unwrap_or(&key);
    match event {
        Event::Join(key, state) | Event::Update(key, state) => Event::Update(of(key), state),
        Event::Leave(key) => Event::Leave(lives.remove(&key).unwrap_or(key)),
        Event::FirstByte(key, ms) => Event::FirstByte(of(key), ms),
        Event::Answered(key, tokens, ms) => Event::Answered(of(key), tokens, ms),
        Event::Ended(key, failed) => Event::Ended(of(key), failed),
        Event::Refused(key) => Event::Refused(of(key)),
        Event::Remember(key, prefixes) => Event::Remember(of(key), prefixes),
        Event::Pass(us) => Event::Pass(us),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_few_workers(events in prop::collection::vec((event(6), ask(6)), 1..120)) {
        agree(6, events)?;
    }

    #[test]
    fn more_workers_than_are_walked_one_by_one(
        states in prop::collection::vec(state(), 100..160),
        events in prop::collection::vec((event(160), ask(160)), 1..120),
    ) {
        let joined = (0..).zip(states).map(|(key, mut state)| {
            // Only a few are within most caps, so that the walk runs out of patience.
            state.coefficient += if key % 25 == 0 { 0 } else { 2500 };
            (Event::Join(key, state), (0, 0, 0, None, vec![], vec![]))
        });
        agree(160, joined.chain(events).collect())?;
    }
}
