//! Time: by the clock on the wall, and as the processor spent it.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What one of something took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cost {
    pub(super) wall_seconds: f64,
    /// Of the processor, whoever else used it meanwhile.
    pub(super) cpu_seconds: f64,
}

/// Runs from its making on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopwatch {
    began: Instant,
    clock: ClockId,
    cpu_began: Duration,
}

impl Stopwatch {
    /// Counts the processor time of this thread.
    pub(super) fn of_thread() -> Self {
        Self::start(ClockId::ThreadCPUTime)
    }

    /// Counts the processor time of all threads: both ends of a connection, and what they leave to others.
    pub(super) fn of_process() -> Self {
        Self::start(ClockId::ProcessCPUTime)
    }

    fn start(clock: ClockId) -> Self {
        Self { began: Instant::now(), clock, cpu_began: processor_time(clock) }
    }

    /// Processor time so far.
    pub(super) fn cpu(&self) -> Duration {
        processor_time(self.clock).saturating_sub(self.cpu_began)
    }

    /// What one of `count` took.
    pub(super) fn each(&self, count: u32) -> Cost {
        let (wall, cpu) = (self.began.elapsed(), self.cpu());
        Cost {
            wall_seconds: wall.as_secs_f64() / f64::from(count),
            cpu_seconds: cpu.as_secs_f64() / f64::from(count),
        }
    }
}

/// The kernel counts from 0 up, so that the conversion cannot fail.
fn processor_time(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// One variant's costs, round by round.
#[derive(Debug, Clone, Default)]
pub(super) struct Series(Vec<Cost>);

impl Series {
    pub(super) fn push(&mut self, cost: Cost) {
        self.0.push(cost);
    }

    /// Median seconds on the wall; 0 without any round.
    pub(super) fn wall(&self) -> f64 {
        median(self.0.iter().map(|cost| cost.wall_seconds))
    }

    /// Median seconds of the processor; 0 without any round.
    pub(super) fn cpu(&self) -> f64 {
        median(self.0.iter().map(|cost| cost.cpu_seconds))
    }

    /// The median over the rounds of how many times as long as the other it took in the same round.
    pub(super) fn wall_ratio(&self, other: &Self) -> f64 {
        median(self.0.iter().zip(&other.0).map(|(one, other)| one.wall_seconds / other.wall_seconds))
    }

    /// The same, by the processor's time.
    pub(super) fn cpu_ratio(&self, other: &Self) -> f64 {
        median(self.0.iter().zip(&other.0).map(|(one, other)| one.cpu_seconds / other.cpu_seconds))
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        len if len % 2 == 1 => values[len / 2],
        len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(seconds: &[f64]) -> Series {
        let cost = |seconds: &f64| Cost { wall_seconds: *seconds, cpu_seconds: seconds / 2.0 };
        Series(seconds.iter().map(cost).collect())
    }

    #[test]
    fn a_ratio_compares_within_rounds_so_that_a_busy_round_does_not_count() {
        // In the last round the machine was ten times as slow, for both.
        let (plain, other) = (series(&[1.0, 1.0, 10.0]), series(&[2.0, 2.0, 20.0]));
        assert_eq!((other.wall_ratio(&plain), other.cpu_ratio(&plain)), (2.0, 2.0));
        assert_eq!((other.wall(), other.cpu()), (2.0, 1.0));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(series(&[4.0, 1.0, 3.0, 2.0]).wall(), 2.5);
        assert_eq!(Series::default().wall(), 0.0);
    }

    #[test]
    fn a_thread_that_waits_spends_no_processor_time() {
        let watch = Stopwatch::of_thread();
        let (_sender, nothing) = std::sync::mpsc::channel::<()>();
        assert!(nothing.recv_timeout(Duration::from_millis(50)).is_err());
        let cost = watch.each(1);
        assert!(cost.wall_seconds >= 0.05, "{cost:?}");
        assert!(cost.cpu_seconds < 0.025, "{cost:?}");
    }
}
