//! What choosing a worker costs, by the number of workers: the choice itself, and a whole request's worth of it (choose,
//! one more in flight, first byte, answer, one less).

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::hint::black_box;
use std::io::Write as _;
use std::time::{Duration, Instant};

use clap::Args;
use cocoon_market::{Market, Name, Preference, State, Wish};
use serde_json::json;

/// Numbers of workers that are compared.
const SIZES: [u32; 4] = [10, 100, 1_000, 10_000];
const MODEL: &str = "m";

/// Measures what choosing a worker costs.
#[derive(Args)]
pub(crate) struct Flags {
    /// Milliseconds for each figure.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    millis: u64,
    /// Prints JSON in place of the table.
    #[arg(long)]
    json: bool,
}

/// One line: what is measured, and nanoseconds for each size.
struct Line {
    what: &'static str,
    nanos: [f64; SIZES.len()],
}

/// xorshift64*: seeded, so that every run measures the same market.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

fn name(key: u32) -> Name {
    let mut name = [0; 32];
    name[..4].copy_from_slice(&key.to_be_bytes());
    name
}

/// Workers of all prices and speeds, some with work, some paused, some that failed lately.
fn market(workers: u32) -> Market<u32> {
    let (mut market, mut dice) = (Market::new(), Dice(42));
    for key in 0..workers {
        let number = |dice: &mut Dice, bound| u32::try_from(dice.below(bound)).unwrap_or(0);
        let state = State {
            coefficient: 500 + number(&mut dice, 3500),
            in_flight: 0,
            limit: 64,
            abilities: if dice.below(10) == 0 { 0b1 } else { 0b11 },
            ready: dice.below(20) > 0,
            has_room: true,
        };
        market.join(key, MODEL, name(key), name(key), state);
        for _ in 0..8 {
            market.first_byte(key, Duration::from_millis(50 + dice.below(2000)), 0);
            market.answered(key, 200, Duration::from_millis(1000 + dice.below(9000)), 0);
            market.ended(key, dice.below(30) == 0, 0);
        }
        market.update(key, State { in_flight: number(&mut dice, 60), ..state });
    }
    market
}

/// Nanoseconds that `step` takes.
fn timed(millis: u64, mut step: impl FnMut(u64)) -> f64 {
    let (time, mut count) = (Duration::from_millis(millis), 0_u64);
    let began = Instant::now();
    loop {
        for _ in 0..64 {
            step(count);
            count += 1;
        }
        let took = began.elapsed();
        if took >= time {
            return took.as_nanos() as f64 / count as f64;
        }
    }
}

pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    let wish = |preference| Wish { preference, needs: 0b11, ..Wish::default() };
    let choice = |preference: Preference| {
        SIZES.map(|size| {
            let market = market(size);
            let wish = wish(preference);
            timed(flags.millis, |_| {
                let _ = black_box(market.choose(MODEL, black_box(&wish)));
            })
        })
    };
    let mut lines = vec![
        Line { what: "choice, balanced", nanos: choice(Preference::Balanced) },
        Line { what: "choice, cheapest", nanos: choice(Preference::Cheapest) },
        Line { what: "choice, fastest", nanos: choice(Preference::Fastest) },
    ];
    lines.push(Line {
        what: "choice, where half of the workers are allowed",
        nanos: SIZES.map(|size| {
            let market = market(size);
            let allowed: BTreeSet<Name> = (0..size).filter(|key| key % 2 == 0).map(name).collect();
            let wish = Wish { allowed: Some(&allowed), ..wish(Preference::Balanced) };
            timed(flags.millis, |_| {
                let _ = black_box(market.choose(MODEL, black_box(&wish)));
            })
        }),
    });
    lines.push(Line {
        what: "choice, where three workers are allowed",
        nanos: SIZES.map(|size| {
            let market = market(size);
            let allowed: BTreeSet<Name> = [1, size / 2, size - 1].map(name).into();
            let wish = Wish { allowed: Some(&allowed), ..wish(Preference::Balanced) };
            timed(flags.millis, |_| {
                let _ = black_box(market.choose(MODEL, black_box(&wish)));
            })
        }),
    });
    lines.push(Line {
        what: "a request: choice and all that follows it",
        nanos: SIZES.map(|size| request(flags, size)),
    });
    let text = if flags.json { in_json(&lines) } else { in_words(&lines) };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// All that a request does to the market.
fn request(flags: &Flags, size: u32) -> f64 {
    let mut market = market(size);
    let mut states: HashMap<u32, State> =
        market.offers(MODEL).map(|offer| (offer.key, offer.state)).collect();
    let wish = Wish { needs: 0b11, ..Wish::default() };
    timed(flags.millis, |count| {
        let now = count * 1000;
        if count % 50 == 0 {
            market.advance(now);
        }
        let Ok(key) = market.choose(MODEL, &wish) else { return };
        let Some(state) = states.get_mut(&key) else { return };
        state.in_flight += 1;
        market.update(key, *state);
        market.first_byte(key, Duration::from_millis(100 + count % 50), now);
        market.answered(key, 100, Duration::from_millis(2000 + count % 500), now);
        market.ended(key, false, now);
        state.in_flight -= 1;
        market.update(key, *state);
    })
}

/// The last size's time, by the first one's.
fn ratio(line: &Line) -> f64 {
    line.nanos[SIZES.len() - 1] / line.nanos[0]
}

fn in_words(lines: &[Line]) -> String {
    let mut text = String::from("| ns |");
    // Writing to a String does not fail.
    for size in SIZES {
        let _ = write!(text, " {size} workers |");
    }
    text += " ratio |\n| --- | ---: | ---: | ---: | ---: | ---: |\n";
    for line in lines {
        let _ = write!(text, "| {} |", line.what);
        for nanos in line.nanos {
            let _ = write!(text, " {nanos:.0} |");
        }
        let _ = writeln!(text, " {:.2} |", ratio(line));
    }
    text
}

fn in_json(lines: &[Line]) -> String {
    let lines: Vec<_> = lines
        .iter()
        .map(|line| {
            let by_size: serde_json::Map<_, _> =
                SIZES.iter().zip(line.nanos).map(|(size, nanos)| (size.to_string(), json!(nanos))).collect();
            json!({"what": line.what, "nanoseconds": by_size, "ratio": ratio(line)})
        })
        .collect();
    format!("{:#}\n", json!(lines))
}
