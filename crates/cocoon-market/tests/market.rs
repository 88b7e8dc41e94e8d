//! What becomes of a whole market: seeded simulations of workers, callers and prices, with numbers.
#![allow(clippy::print_stdout)] // Figures for docs/market.md, shown with --nocapture.
#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use cocoon_market::pricing::{Bounds, FollowLoad};
use cocoon_market::{Market, Preference, State, Wish};

const MODEL: &str = "m";
const SECOND: u64 = 1_000_000;
const ROUND: u64 = 30 * SECOND;

/// xorshift64*: seeded, and enough for this.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Times between events that come at random, `mean` apart.
    fn wait(&mut self, mean_us: f64) -> u64 {
        (-(1.0 - self.next()).ln() * mean_us) as u64
    }
}

struct Worker {
    state: State,
    price: Option<FollowLoad>,
    first_byte: Duration,
    tokens_per_s: f64,
    fails: bool,
    busy_us: u64,
    served: u64,
}

fn worker(coefficient: u32, limit: u32) -> Worker {
    let state = State { coefficient, in_flight: 0, limit, abilities: 0, ready: true, has_room: true };
    Worker {
        state,
        price: None,
        first_byte: Duration::from_millis(200),
        tokens_per_s: 50.0,
        fails: false,
        busy_us: 0,
        served: 0,
    }
}

fn follower(start: u32, bounds: Bounds) -> Worker {
    Worker { price: Some(FollowLoad::new(bounds, start).unwrap()), ..worker(start, 10) }
}

/// One request that ended: who had it, at what price, how long it took.
#[derive(Clone, Copy)]
struct Served {
    worker: usize,
    coefficient: u32,
    took: Duration,
}

struct Sim {
    market: Market<usize>,
    workers: Vec<Worker>,
    running: BinaryHeap<Reverse<(u64, usize, u64)>>,
    now: u64,
    next_round: u64,
    dice: Dice,
}

impl Sim {
    fn new(workers: Vec<Worker>, seed: u64) -> Self {
        let mut market = Market::new();
        for (key, worker) in workers.iter().enumerate() {
            market.join(key, MODEL, [key as u8; 32], [key as u8; 32], worker.state);
        }
        let dice = Dice(seed);
        Self { market, workers, running: BinaryHeap::new(), now: 0, next_round: ROUND, dice }
    }

    /// One more worker.
    fn enter(&mut self, worker: Worker) {
        let key = self.workers.len();
        self.market.join(key, MODEL, [key as u8; 32], [key as u8; 32], worker.state);
        self.workers.push(worker);
    }

    /// Lets `count` requests come, `mean_us` apart. Each is 256 tokens.
    fn run(&mut self, count: usize, mean_us: f64, wish: &Wish<'_, usize>) -> Vec<Served> {
        let mut served = Vec::new();
        for _ in 0..count {
            let at = self.now + self.dice.wait(mean_us);
            self.advance(at);
            // As a proxy does: at most three workers.
            let mut tried = Vec::new();
            while tried.len() < 3 {
                let Ok(key) = self.market.choose(MODEL, &Wish { tried: &tried, ..*wish }) else { break };
                self.workers[key].served += 1;
                if self.workers[key].fails {
                    let state = self.workers[key].state;
                    self.market.update(key, State { in_flight: state.in_flight + 1, ..state });
                    self.market.update(key, state);
                    self.market.ended(key, true, self.now);
                    tried.push(key);
                    served.push(Served { worker: key, coefficient: 0, took: Duration::ZERO });
                    continue;
                }
                served.push(self.serve(key));
                break;
            }
        }
        served
    }

    fn serve(&mut self, key: usize) -> Served {
        let worker = &mut self.workers[key];
        let time = 256.0 / worker.tokens_per_s * (0.8 + 0.4 * self.dice.next());
        let took = worker.first_byte + Duration::from_secs_f64(time);
        let served = Served { worker: key, coefficient: worker.state.coefficient, took };
        worker.state.in_flight += 1;
        self.market.update(key, worker.state);
        self.running.push(Reverse((self.now + took.as_micros() as u64, key, self.now)));
        served
    }

    fn advance(&mut self, to: u64) {
        loop {
            let end = self.running.peek().map_or(u64::MAX, |Reverse((end, ..))| *end);
            let next = end.min(self.next_round);
            if next > to {
                break;
            }
            self.now = next;
            self.market.advance(next);
            if end == next {
                let Reverse((_, key, began)) = self.running.pop().unwrap();
                let worker = &mut self.workers[key];
                worker.busy_us += next - began.max(self.next_round - ROUND);
                worker.state.in_flight -= 1;
                self.market.first_byte(key, worker.first_byte, next);
                let writing = Duration::from_micros(next - began) - worker.first_byte;
                self.market.answered(key, 256, writing, next);
                self.market.ended(key, false, next);
                self.market.update(key, worker.state);
            } else {
                self.round();
            }
        }
        self.now = to;
        self.market.advance(to);
    }

    fn round(&mut self) {
        let began = self.next_round - ROUND;
        for &Reverse((_, key, asked)) in &self.running {
            self.workers[key].busy_us += self.next_round - asked.max(began);
        }
        for (key, worker) in self.workers.iter_mut().enumerate() {
            let load = worker.busy_us as f64 / (ROUND * u64::from(worker.state.limit)) as f64;
            worker.busy_us = 0;
            if let Some(price) = &mut worker.price {
                worker.state.coefficient = price.round(load);
                self.market.update(key, worker.state);
            }
        }
        self.next_round += ROUND;
    }
}

fn mean(served: &[Served], of: impl Fn(&Served) -> f64) -> f64 {
    served.iter().map(of).sum::<f64>() / served.len() as f64
}

/// Requests come so often that they keep this share of all places busy (an answer takes 5.3 s).
fn every_us(workers: &[Worker], load: f64) -> f64 {
    let places: u32 = workers.iter().map(|worker| worker.state.limit).sum();
    5.32e6 / (f64::from(places) * load)
}

const BOUNDS: Bounds = Bounds { floor: 500, ceiling: 4000, pace_permille: 50 };

/// The mean price that callers pay in the 30 rounds after the first `rounds`.
fn price_among(count: usize, load: f64, preference: Preference, rounds: usize, seed: u64) -> f64 {
    let workers: Vec<Worker> =
        (0..count).map(|number| follower(1500 + 300 * number as u32, BOUNDS)).collect();
    let every = every_us(&workers, load);
    let mut sim = Sim::new(workers, seed);
    let wish = Wish { preference, ..Wish::default() };
    let per_round = (ROUND as f64 / every) as usize;
    sim.run(per_round * rounds, every, &wish);
    mean(&sim.run(per_round * 30, every, &wish), |served| f64::from(served.coefficient))
}

#[test]
fn competition_brings_prices_down_to_cost_and_a_monopoly_keeps_them_up() {
    for seed in [1, 2] {
        for load in [0.3, 0.5] {
            let cheapest = price_among(5, load, Preference::Cheapest, 60, seed);
            let balanced = price_among(5, load, Preference::Balanced, 60, seed);
            println!("seed {seed}, load {load}: {cheapest:.0} (cheapest), {balanced:.0} (balanced)");
            assert!(cheapest < 1.15 * 500.0, "seed {seed}, load {load}: {cheapest}");
            assert!(balanced < 1.15 * 500.0, "seed {seed}, load {load}: {balanced}");
        }
        let alone = price_among(1, 1.1, Preference::Balanced, 60, seed);
        let tight = price_among(5, 0.7, Preference::Balanced, 60, seed);
        println!("seed {seed}, alone: {alone:.0}; little room: {tight:.0}");
        assert!(alone > 2.5 * 500.0, "seed {seed}: {alone}");
    }
}

/// What becomes of a round's requests: the mean price of those that were served, and which share that is.
fn round_of(sim: &mut Sim, every: f64, max_coefficient: u32) -> (f64, f64) {
    let count = (ROUND as f64 / every) as usize;
    let wish = Wish { max_coefficient, preference: Preference::Cheapest, ..Wish::default() };
    let served = sim.run(count, every, &wish);
    let paid: f64 = served.iter().map(|served| f64::from(served.coefficient)).sum();
    (paid / served.len().max(1) as f64, served.len() as f64 / count as f64)
}

/// The same over many rounds.
fn rounds_of(sim: &mut Sim, rounds: usize, every: f64, max_coefficient: u32) -> (f64, f64) {
    let each: Vec<_> = (0..rounds).map(|_| round_of(sim, every, max_coefficient)).collect();
    let served: f64 = each.iter().map(|(_, served)| served).sum();
    let paid: f64 = each.iter().map(|(price, served)| price * served).sum();
    (paid / served.max(f64::MIN_POSITIVE), served / rounds as f64)
}

/// One owner's five workers of ten places, whose price is `owner`'s to say.
fn monopoly(owner: impl Fn() -> Worker, load: f64, seed: u64) -> (Sim, f64) {
    let workers: Vec<Worker> = (0..5).map(|_| owner()).collect();
    let every = every_us(&workers, load);
    (Sim::new(workers, seed), every)
}

#[test]
fn a_monopoly_takes_what_callers_will_pay_until_somebody_with_room_comes() {
    const CEILING: u32 = BOUNDS.ceiling;
    const CAP: u32 = 1500;
    let following = || follower(1000, BOUNDS);
    let dear = || worker(CEILING, 10);
    for seed in [1, 2] {
        // More is asked for than there is: the price goes to the owner's bound, or to the callers'.
        let (mut sim, every) = monopoly(following, 1.3, seed);
        rounds_of(&mut sim, 90, every, u32::MAX);
        let scarce = rounds_of(&mut sim, 30, every, u32::MAX);
        let (mut sim, every) = monopoly(following, 1.3, seed);
        rounds_of(&mut sim, 90, every, CAP);
        let capped = rounds_of(&mut sim, 30, every, CAP);
        // Less is asked for than there is, and the owner names his price all the same.
        let (mut sim, every) = monopoly(dear, 0.6, seed);
        let named = rounds_of(&mut sim, 30, every, u32::MAX);
        let refused = rounds_of(&mut sim, 30, every, CAP);
        println!(
            "seed {seed}, alone: scarce {:.0} ({:.2} served), scarce with a cap {:.0} ({:.2}), named {:.0} ({:.2}), \
             named with a cap: {:.2} served",
            scarce.0, scarce.1, capped.0, capped.1, named.0, named.1, refused.1
        );
        assert!(scarce.0 > 0.95 * f64::from(CEILING), "{scarce:?}");
        assert!(capped.0 <= f64::from(CAP) && capped.0 > 0.85 * f64::from(CAP), "{capped:?}");
        assert!((named.0 - f64::from(CEILING)).abs() < 0.01 && named.1 > 0.99, "{named:?}");
        assert!(refused.1 < 0.001, "{refused:?}");

        // Somebody comes who can serve everybody, and begins at the owner's price.
        let (mut sim, every) = monopoly(dear, 0.6, seed);
        rounds_of(&mut sim, 10, every, u32::MAX);
        let newcomer = follower(CEILING, BOUNDS);
        sim.enter(Worker { state: State { limit: 50, ..newcomer.state }, ..newcomer });
        let falls = (1..=120).find(|_| round_of(&mut sim, every, u32::MAX).0 < 1.15 * 500.0);
        let after = rounds_of(&mut sim, 30, every, u32::MAX);
        // And somebody who can serve a third of what is asked for.
        let (mut small, every) = monopoly(dear, 0.6, seed);
        small.enter(follower(1000, BOUNDS));
        rounds_of(&mut small, 120, every, u32::MAX);
        let beside = rounds_of(&mut small, 30, every, u32::MAX);
        println!(
            "seed {seed}, a competitor with room: {:.0} after {falls:?} rounds; with little room: {:.0}",
            after.0, beside.0
        );
        assert!(falls.is_some_and(|rounds| rounds < 60) && after.0 < 1.15 * 500.0, "{falls:?}, {after:?}");
        assert!(beside.0 > 3000.0, "{beside:?}");
    }
}

/// The share of attempts that went to the first worker.
fn share(served: &[Served]) -> f64 {
    mean(served, |served| f64::from(u8::from(served.worker == 0)))
}

#[test]
fn a_worker_that_undercuts_and_then_fails_loses_its_place_until_it_is_well_again() {
    let workers = [500, 1000, 1000, 1000, 1000].map(|price| worker(price, 20));
    let mut sim = Sim::new(workers.into(), 7);
    let (every, wish) = (100_000.0, Wish { preference: Preference::Cheapest, ..Wish::default() });
    sim.run(300, every, &wish);
    let before = share(&sim.run(1000, every, &wish));
    sim.workers[0].fails = true;
    let first = sim.run(50, every, &wish);
    let failing = share(&sim.run(1000, every, &wish));
    sim.workers[0].fails = false;
    sim.run(300, every, &wish);
    let after = share(&sim.run(1000, every, &wish));
    let lost = first.iter().filter(|served| served.worker == 0).count();
    println!(
        "before {before:.3}, {lost} of the first 50 failed, while failing {failing:.3}, after {after:.3}"
    );
    assert!(before > 0.3, "it is the cheapest: {before}");
    assert!(lost <= 12, "{lost} of the first 50 requests were lost on it");
    assert!(failing < 0.04, "its share while it fails: {failing}");
    assert!(after > 0.9 * before, "it comes back: {after}");
}

#[test]
fn callers_get_the_price_or_the_speed_that_they_ask_for() {
    // Cheap and slow, dear and fast, and between.
    let kinds = [(500, 15.0), (500, 15.0), (1000, 40.0), (1000, 40.0), (2500, 120.0), (2500, 120.0)];
    let served = Preference::ALL.map(|preference| {
        let workers = kinds.map(|(price, tokens_per_s)| Worker { tokens_per_s, ..worker(price, 10) });
        let mut sim = Sim::new(workers.into(), 11);
        let wish = Wish { preference, ..Wish::default() };
        sim.run(100, 2e6, &wish);
        let served = sim.run(1000, 2e6, &wish);
        let price = mean(&served, |served| f64::from(served.coefficient));
        let seconds = mean(&served, |served| served.took.as_secs_f64());
        println!("{preference:?}: coefficient {price:.0}, {seconds:.2} s");
        (price, seconds)
    });
    let [balanced, cheapest, fastest] = served;
    assert!(cheapest.0 < 600.0 && cheapest.0 <= balanced.0 && balanced.0 <= fastest.0);
    assert!(fastest.1 < 2.6 && fastest.1 <= balanced.1 && balanced.1 <= cheapest.1);
}
