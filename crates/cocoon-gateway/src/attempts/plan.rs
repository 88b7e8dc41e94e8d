//! What one request does after a failure: at once elsewhere, after a while anew, or nothing more.

use std::time::{Duration, Instant};

/// First and last ceiling of the wait before a request asks anew where nobody could serve it.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How often a request that meets only busy workers waits for one to become free.
const BUSY_ROUNDS: u32 = 1;
/// Attempts that reached an engine which then failed: more would let one bad prompt go through all machines.
const ENGINE_ATTEMPTS: u32 = 2;
/// Attempts in all, refusals that cost nothing included.
const MAX_ASKED: u32 = 24;

/// Why an attempt gave no answer, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Nobody else would do better: the request itself, its time, the caller's money.
    Final,
    /// This proxy refuses; another may have what is wanted. Waiting does not help.
    Refused,
    /// All workers there are at their limit, and may be asked again after this time.
    Busy(Duration),
    /// The proxy has no worker now, or takes no requests now.
    NotNow,
    /// No proxy is connected.
    NoProxy,
    /// The connection to the proxy ended, or the proxy fell silent.
    Lost,
    /// A worker was asked and failed.
    Engine,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask another proxy, which was not asked in this round.
    Elsewhere,
    /// Wait so long, or until something has changed; then any proxy may be asked again.
    Wait(Duration),
    /// Tell the caller.
    GiveUp,
}

/// One request's attempts.
#[derive(Debug)]
pub(crate) struct Plan {
    deadline: Instant,
    /// Until when it waits for somebody who can serve it.
    patient_until: Instant,
    max_reached: u32,
    asked: u32,
    /// Attempts that may have reached a worker.
    reached: u32,
    engines: u32,
    moved: bool,
    busy_rounds: u32,
    waits: u32,
}

impl Plan {
    /// `max_attempts` bounds those that may have reached a worker.
    pub(crate) fn new(started: Instant, timeout: Duration, patience: Duration, max_attempts: u32) -> Self {
        Self {
            deadline: started + timeout,
            patient_until: started + patience.min(timeout),
            max_reached: max_attempts.max(1),
            asked: 0,
            reached: 0,
            engines: 0,
            moved: false,
            busy_rounds: 0,
            waits: 0,
        }
    }

    /// The time that is left for an attempt.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        self.deadline.saturating_duration_since(now)
    }

    /// What to do after a failure. `others`: a proxy is left that was not asked in this round. `take`: takes a second attempt
    /// out of the budget. `jitter`: 0 to 1.
    pub(crate) fn after(
        &mut self,
        why: Why,
        others: bool,
        now: Instant,
        take: impl FnOnce() -> bool,
        jitter: f64,
    ) -> Step {
        self.asked += u32::from(why != Why::NoProxy);
        self.reached += u32::from(matches!(why, Why::Lost | Why::Engine));
        self.engines += u32::from(why == Why::Engine);
        let spent = self.reached >= self.max_reached
            || self.engines >= ENGINE_ATTEMPTS
            || self.asked >= MAX_ASKED
            || now >= self.deadline;
        if why == Why::Final || spent {
            return Step::GiveUp;
        }
        // A proxy that is gone took its load with it: what it had moves once, and multiplies nothing.
        let moves = why == Why::Lost && !std::mem::replace(&mut self.moved, true);
        // Asking anew after a wait costs no worker anything, and the waits grow.
        let waits = why == Why::NoProxy || (why == Why::NotNow && !others);
        let free = moves || waits;
        if !free && !take() {
            // Time brings new attempts; until then nobody is asked.
            return match why {
                Why::NotNow | Why::Lost | Why::Engine => self.wait(now, jitter),
                _ => Step::GiveUp,
            };
        }
        if others && why != Why::NoProxy {
            return Step::Elsewhere;
        }
        match why {
            Why::Final | Why::Refused => Step::GiveUp,
            Why::Busy(after) => {
                let wait = after.mul_f64(1.0 + 0.25 * jitter);
                if self.busy_rounds >= BUSY_ROUNDS || now + wait >= self.patient_until {
                    return Step::GiveUp;
                }
                self.busy_rounds += 1;
                Step::Wait(wait)
            }
            Why::NotNow | Why::NoProxy | Why::Lost | Why::Engine => self.wait(now, jitter),
        }
    }

    fn wait(&mut self, now: Instant, jitter: f64) -> Step {
        if now >= self.patient_until {
            return Step::GiveUp;
        }
        let ceiling = WAIT.0.saturating_mul(2_u32.saturating_pow(self.waits)).min(WAIT.1);
        self.waits = self.waits.saturating_add(1);
        let wait = ceiling.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0));
        Step::Wait(wait.min(self.patient_until - now))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(now: Instant) -> Plan {
        Plan::new(now, Duration::from_secs(120), Duration::from_secs(10), 3)
    }

    #[test]
    fn what_the_request_is_to_blame_for_is_told_at_once() {
        let now = Instant::now();
        assert_eq!(plan(now).after(Why::Final, true, now, || true, 0.0), Step::GiveUp);
    }

    #[test]
    fn a_refusal_is_asked_of_every_other_proxy_and_not_waited_for() {
        let now = Instant::now();
        let mut plan = plan(now);
        for _ in 0..5 {
            assert_eq!(plan.after(Why::Refused, true, now, || true, 0.0), Step::Elsewhere);
        }
        assert_eq!(plan.after(Why::Refused, false, now, || true, 0.0), Step::GiveUp);
    }

    #[test]
    fn a_lost_proxy_s_request_moves_even_where_the_budget_is_empty_but_only_once() {
        let now = Instant::now();
        let mut plan = plan(now);
        assert_eq!(plan.after(Why::Lost, true, now, || false, 0.0), Step::Elsewhere);
        assert!(matches!(plan.after(Why::Lost, true, now, || false, 0.0), Step::Wait(_)));
        assert_eq!(plan.after(Why::Lost, true, now, || true, 0.0), Step::GiveUp, "three attempts");
    }

    #[test]
    fn a_prompt_that_two_engines_failed_at_goes_to_no_third() {
        let now = Instant::now();
        let mut plan = plan(now);
        assert_eq!(plan.after(Why::Engine, true, now, || true, 0.0), Step::Elsewhere);
        assert_eq!(plan.after(Why::Engine, true, now, || true, 0.0), Step::GiveUp);
    }

    #[test]
    fn busy_workers_are_asked_again_after_the_time_that_they_named() {
        let now = Instant::now();
        let mut plan = plan(now);
        let busy = Why::Busy(Duration::from_secs(2));
        assert_eq!(plan.after(busy, true, now, || true, 0.0), Step::Elsewhere);
        assert_eq!(plan.after(busy, false, now, || true, 0.0), Step::Wait(Duration::from_secs(2)));
        assert_eq!(plan.after(busy, false, now, || true, 0.0), Step::GiveUp);
        let mut hurried = Plan::new(now, Duration::from_secs(1), Duration::from_secs(10), 3);
        assert_eq!(hurried.after(busy, false, now, || true, 0.0), Step::GiveUp, "it would come too late");
    }

    #[test]
    fn without_a_proxy_it_waits_for_its_patience_and_no_longer() {
        let mut now = Instant::now();
        let began = now;
        let mut plan = plan(now);
        while let Step::Wait(wait) = plan.after(Why::NoProxy, false, now, || false, 0.5) {
            assert!(wait <= WAIT.1);
            now += wait;
        }
        assert_eq!(now - began, Duration::from_secs(10));
    }

    proptest! {
        #[test]
        fn every_request_comes_to_an_end_within_its_deadline_and_its_attempts(
            whys in prop::collection::vec((0_u8..7, any::<bool>(), any::<bool>(), 0.0..1.0_f64, 0_u64..400), 500),
            timeout in 0_u64..30_000,
        ) {
            let mut now = Instant::now();
            let deadline = now + Duration::from_millis(timeout);
            let mut plan = Plan::new(now, Duration::from_millis(timeout), Duration::from_secs(10), 3);
            let (mut asked, mut reached, mut ended) = (0, 0, false);
            for (why, others, budget, jitter, took) in whys {
                let why = [
                    Why::Final, Why::Refused, Why::Busy(Duration::from_secs(1)), Why::NotNow, Why::NoProxy, Why::Lost,
                    Why::Engine,
                ][usize::from(why)];
                now += Duration::from_millis(took);
                asked += u32::from(why != Why::NoProxy);
                reached += u32::from(matches!(why, Why::Lost | Why::Engine));
                match plan.after(why, others, now, || budget, jitter) {
                    Step::Elsewhere => {}
                    Step::Wait(wait) => {
                        prop_assert!(now + wait <= deadline);
                        now += wait;
                    }
                    Step::GiveUp => {
                        ended = true;
                        break;
                    }
                }
                prop_assert!(asked < MAX_ASKED && reached < 3);
            }
            prop_assert!(ended || plan.asked < MAX_ASKED);
        }
    }
}
