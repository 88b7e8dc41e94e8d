//! What a proxy observed of one worker: how soon it answers, how fast it goes on, and how often it fails.

use std::time::Duration;

/// Weight of the newest time to the first byte, and of the newest success or failure, in the running averages.
const NEWEST_WEIGHT: f64 = 0.2;
/// Tokens that came at once count as if they had taken so long: how fast a worker is cannot be seen from them.
const SHORTEST: Duration = Duration::from_millis(1);
/// What is left of the weight of older answers in the running speed with each new one.
const SPEED_MEMORY: f64 = 0.9;
/// Time in which a failure rate halves by itself.
pub const HALF_LIFE: Duration = Duration::from_secs(10);
/// The failure rates between the [levels](Observed::level). Over the last of them ([`DOUBTFUL`]) a worker is used only
/// where no other is left: three failures in a row reach it.
pub const LEVELS: [f64; 5] = [0.02, 0.05, 0.1, 0.2, DOUBTFUL];
/// See [`LEVELS`].
pub const DOUBTFUL: f64 = 0.4;
/// How much failures of each level stretch the expected time: about 1 + 9 times the failure rate.
pub const STRETCH: [f64; LEVELS.len() + 1] = [1.0, 1.25, 1.6, 2.3, 3.5, 5.0];
/// What was measured counts for so long after the newest answer; then the worker is a newcomer again, so that one which
/// was slow once gets another try.
pub const STALE_AFTER: Duration = Duration::from_secs(600);
/// A worker of which nothing could be measured is tried again after so long: whoever refuses everything at once is not
/// thereby the quickest.
pub const TRY_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// For how long a worker that had no room for a request is given none; twice as long with each further refusal until it
/// answers one, at most 128 times as long.
pub const FULL_FOR: Duration = Duration::from_millis(250);
const MAX_DOUBLINGS: u32 = 7;

/// What was observed of one worker; starts empty and is fed by the requests that it serves.
///
/// Failures heal with time. So that nobody has to look at all workers for that, a failure rate counts by **level**, and
/// it is known beforehand when the level falls next ([`Observed::next_change`]).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Observed {
    first_byte_s: Option<f64>,
    /// Tokens, and the seconds that they took: running sums, so that long answers count for more than short ones.
    tokens: f64,
    seconds: f64,
    /// As of `failed_at`.
    failure_rate: f64,
    failed_at_us: u64,
    successes: u32,
    requests: u64,
    measured_at_us: u64,
    /// Requests that it was given, and when it was given the newest.
    given: u64,
    given_at_us: u64,
    /// Refusals for want of room since it last answered, and until when the newest counts.
    refusals: u32,
    full_until_us: u64,
}

impl Observed {
    /// A streamed answer got its first byte after `wait`, or an answer without tokens was complete then.
    pub fn first_byte(&mut self, wait: Duration, now_us: u64) {
        let wait = wait.as_secs_f64();
        self.first_byte_s = Some(self.first_byte_s.map_or(wait, |old| old + NEWEST_WEIGHT * (wait - old)));
        self.measured_at_us = now_us;
    }

    /// `tokens` of an answer took `time`: from the first byte to the last where it was streamed, in all where it was
    /// not. Without tokens this says nothing.
    pub fn answered(&mut self, tokens: u64, time: Duration, now_us: u64) {
        if tokens == 0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a measurement, no amount")]
        let tokens = tokens as f64;
        self.tokens = self.tokens * SPEED_MEMORY + tokens;
        self.seconds = self.seconds * SPEED_MEMORY + time.max(SHORTEST).as_secs_f64();
        self.measured_at_us = now_us;
    }

    /// It was given so many requests more.
    pub fn given(&mut self, count: u32, now_us: u64) {
        self.given = self.given.saturating_add(count.into());
        self.given_at_us = now_us;
    }

    /// It had no room for a request. Refusals of requests that were on their way already say nothing new.
    pub fn refused(&mut self, now_us: u64) {
        if self.is_full(now_us) {
            return;
        }
        let wait = FULL_FOR * (1 << self.refusals.min(MAX_DOUBLINGS));
        self.full_until_us = after(now_us, wait);
        self.refusals = self.refusals.saturating_add(1);
    }

    /// It would not serve a request that another worker served. For [`FULL_FOR`] it is given none: never longer, because
    /// callers have a part in it.
    pub fn set_aside(&mut self, now_us: u64) {
        self.full_until_us = self.full_until_us.max(after(now_us, FULL_FOR));
    }

    /// A request ended; `failed` only where the worker, not the caller, was the cause. An end that says nothing about the
    /// worker is none for this.
    pub fn ended(&mut self, failed: bool, now_us: u64) {
        let old = self.failure_rate(now_us);
        let newest = if failed { 1.0 } else { 0.0 };
        self.failure_rate = old + NEWEST_WEIGHT * (newest - old);
        self.failed_at_us = now_us;
        self.requests = self.requests.saturating_add(1);
        // However it ended, its place is free.
        self.full_until_us = 0;
        if !failed {
            self.successes = self.successes.saturating_add(1);
            self.refusals = 0;
        } else if self.failure_rate > DOUBTFUL {
            self.successes = 0;
        }
    }

    /// Running failure rate at this moment, 0 to 1.
    #[must_use]
    pub fn failure_rate(&self, now_us: u64) -> f64 {
        let passed = Duration::from_micros(now_us.saturating_sub(self.failed_at_us));
        self.failure_rate * 0.5_f64.powf(passed.as_secs_f64() / HALF_LIFE.as_secs_f64())
    }

    /// How many of the [`LEVELS`] the failure rate exceeds at this moment.
    #[must_use]
    pub fn level(&self, now_us: u64) -> usize {
        LEVELS.iter().filter(|&&level| self.falls_below(level).is_some_and(|at| at > now_us)).count()
    }

    /// When the failure rate is down to `level`; `None` where it was never over it.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and below a minute"
    )]
    fn falls_below(&self, level: f64) -> Option<u64> {
        let half_lives = (self.failure_rate > level).then(|| (self.failure_rate / level).log2())?;
        let wait_us = (half_lives * HALF_LIFE.as_secs_f64() * 1e6).ceil() as u64;
        Some(self.failed_at_us.saturating_add(wait_us))
    }

    /// The next moment after `now_us` at which time alone changes how this worker is seen.
    #[must_use]
    pub fn next_change(&self, now_us: u64) -> Option<u64> {
        let levels = LEVELS.iter().filter_map(|&level| self.falls_below(level));
        let known_until = if self.is_fresh(now_us) { self.stale_at() } else { self.try_again_at() };
        levels.chain([known_until, self.full_until_us]).filter(|&at| at > now_us).min()
    }

    /// Whether it has no room at this moment, by its own word.
    #[must_use]
    pub const fn is_full(&self, now_us: u64) -> bool {
        now_us < self.full_until_us
    }

    /// Whether it should be given a request to see how quick it is: nothing is known of that, or nothing any more, and it
    /// had none for a while.
    #[must_use]
    pub fn is_untried(&self, now_us: u64) -> bool {
        !self.is_fresh(now_us) && now_us >= self.try_again_at()
    }

    fn try_again_at(&self) -> u64 {
        if self.given == 0 { 0 } else { after(self.given_at_us, TRY_AGAIN_AFTER) }
    }

    fn is_fresh(&self, now_us: u64) -> bool {
        self.is_measured() && now_us < self.stale_at()
    }

    fn is_measured(&self) -> bool {
        self.first_byte_s.is_some() || self.tokens > 0.0
    }

    fn stale_at(&self) -> u64 {
        after(self.measured_at_us, STALE_AFTER)
    }

    /// The time that an answer of `tokens` took so far, in seconds: time to the first byte, and the tokens at the
    /// running speed. `None` where nothing was measured, or not for a long time.
    #[must_use]
    pub fn answer_time(&self, tokens: f64, now_us: u64) -> Option<f64> {
        let rest = self.tokens_per_s().map_or(0.0, |speed| tokens / speed);
        self.is_fresh(now_us).then_some(self.first_byte_s.unwrap_or(0.0) + rest)
    }

    /// Running average of the time to the first byte of streamed answers; `None` before the first.
    #[must_use]
    pub fn time_to_first_byte(&self) -> Option<Duration> {
        self.first_byte_s.and_then(|s| Duration::try_from_secs_f64(s).ok())
    }

    /// Running average of completion tokens per second of one request; `None` before the first.
    #[must_use]
    pub fn tokens_per_s(&self) -> Option<f64> {
        // A microsecond is the least that is measured.
        (self.tokens > 0.0).then(|| self.tokens / self.seconds.max(1e-6))
    }

    /// Requests that it was given.
    #[must_use]
    pub const fn requests_given(&self) -> u64 {
        self.given
    }

    /// Requests that ended on this worker, and told something about it.
    #[must_use]
    pub const fn requests(&self) -> u64 {
        self.requests
    }

    /// Requests that ended well since it joined, or since it was doubtful last.
    #[must_use]
    pub const fn successes(&self) -> u32 {
        self.successes
    }
}

/// So much later, in microseconds.
pub(crate) fn after(moment_us: u64, time: Duration) -> u64 {
    moment_us.saturating_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn three_failures_in_a_row_make_a_worker_doubtful_and_time_heals_that() {
        let mut observed = Observed::default();
        for _ in 0..2 {
            observed.ended(true, SECOND);
        }
        assert_eq!(observed.level(SECOND), 4, "not yet: {}", observed.failure_rate(SECOND));
        observed.ended(true, SECOND);
        assert_eq!(observed.level(SECOND), 5);
        let healed = observed.next_change(SECOND).unwrap();
        assert!((SECOND..5 * SECOND).contains(&healed), "{healed}");
        assert_eq!((observed.level(healed - 1), observed.level(healed)), (5, 4));
        let mut at = healed;
        while let Some(next) = observed.next_change(at) {
            assert_eq!(observed.level(next), observed.level(at) - 1);
            at = next;
        }
        assert_eq!(observed.level(at), 0);
    }

    #[test]
    fn a_doubtful_worker_has_to_prove_itself_anew() {
        let mut observed = Observed::default();
        (0..10).for_each(|_| observed.ended(false, 0));
        assert_eq!(observed.successes(), 10);
        observed.ended(true, 0);
        assert_eq!(observed.successes(), 10, "one failure is no doubt");
        (0..2).for_each(|_| observed.ended(true, 0));
        assert_eq!(observed.successes(), 0);
    }

    #[test]
    fn speed_is_told_by_long_answers_more_than_by_short_ones() {
        let mut observed = Observed::default();
        observed.answered(1000, Duration::from_secs(10), 0);
        observed.answered(1, Duration::from_secs(1), 0);
        let speed = observed.tokens_per_s().unwrap();
        assert!((85.0..100.0).contains(&speed), "{speed}");
        observed.answered(0, Duration::from_secs(100), 0);
        assert_eq!(observed.tokens_per_s(), Some(speed), "no tokens, no word about speed");
    }

    #[test]
    fn what_was_measured_long_ago_is_forgotten() {
        let mut observed = Observed::default();
        assert_eq!(observed.answer_time(100.0, 0), None);
        observed.first_byte(Duration::from_secs(2), 5);
        observed.answered(100, Duration::from_secs(1), 5);
        assert_eq!(observed.answer_time(100.0, 6), Some(3.0));
        let stale = observed.next_change(6).unwrap();
        assert_eq!(stale, 5 + 600 * SECOND);
        assert_eq!(observed.answer_time(100.0, stale), None);
        assert_eq!(observed.next_change(stale), None);
    }

    #[test]
    fn a_worker_that_gives_nothing_to_measure_is_tried_now_and_then() {
        let mut observed = Observed::default();
        assert!(observed.is_untried(0));
        observed.given(1, SECOND);
        assert!(!observed.is_untried(SECOND), "whatever became of it");
        let again = observed.next_change(SECOND).unwrap();
        assert_eq!((again, observed.is_untried(again)), (31 * SECOND, true));
        observed.given(1, again);
        observed.first_byte(Duration::from_secs(2), again);
        let stale = observed.next_change(again).unwrap();
        assert!(!observed.is_untried(stale - 1) && observed.is_untried(stale), "measured, and stale");
        observed.given(1, stale);
        assert!(!observed.is_untried(stale), "it is being tried");
    }

    #[test]
    fn a_full_worker_rests_longer_with_each_refusal_until_it_answers() {
        let mut observed = Observed::default();
        let mut now = SECOND;
        let mut rest = |observed: &mut Observed| {
            observed.refused(now);
            observed.refused(now);
            let free = observed.next_change(now).unwrap();
            assert!(observed.is_full(free - 1) && !observed.is_full(free));
            let rested = free - now;
            now = free;
            rested / 1000
        };
        let rests: Vec<u64> = (0..9).map(|_| rest(&mut observed)).collect();
        assert_eq!(rests, [250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 32_000]);
        assert_eq!((observed.level(0), observed.requests()), (0, 0), "it is no failure");
        observed.refused(now);
        observed.ended(true, now);
        assert!(!observed.is_full(now), "whoever fails has room, too");
        observed.refused(now);
        assert!(observed.is_full(now + 31_000_000), "but has not answered");
        observed.ended(false, now);
        assert!(!observed.is_full(now), "who answers has room again");
        observed.refused(now);
        assert_eq!(observed.next_change(now), Some(now + 250_000));
    }
}
