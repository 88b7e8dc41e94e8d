//! What is known, what is being fetched, what failed, and who is left alone for now: every decision about fetching, as
//! a function of the time. No I/O here.

use std::collections::HashMap;

use bytes::Bytes;
use cocoon_attest::{CollateralRequest, UnixSeconds};
use tokio::sync::watch;

use crate::disk::Stored;
use crate::http::{Failure, Kind};
use crate::route::{Route, Service};

/// Most answers kept in memory.
pub const MAX_REMEMBERED_ANSWERS: usize = 1_024;
/// Most bytes of answers kept in memory.
pub const MAX_REMEMBERED_BYTES: usize = 32 << 20;
/// Most failures kept in mind.
const MAX_REMEMBERED_FAILURES: usize = 1_024;
/// Most fetches at a time, those that wait for their turn included.
pub const MAX_FETCHES_UNDER_WAY: usize = 256;
/// First and longest pause after an answer that cannot be had, seconds; it doubles each time.
const PAUSES_AFTER_NOTHING: (u64, u64) = (30, 3_600);
/// First and longest pause with a service that is away, seconds; it doubles each time.
const PAUSES_WITH_SERVICE: (u64, u64) = (5, 300);
/// Longest pause that a service may ask for, seconds.
const MAX_RETRY_AFTER: u64 = 900;

/// A fetch under way: it ends when the sender is dropped, and may say before why nothing new came of it.
pub(crate) type Flight = watch::Receiver<Option<String>>;

/// What to do about a request.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Give this; fetch the next one behind the caller's back if `renew`; `note` says what is wrong with it.
    Serve { body: Bytes, renew: bool, note: Option<String> },
    /// Somebody is fetching it.
    Wait(Flight),
    /// Begin to fetch it.
    Start,
    /// There is nothing, for this reason.
    Nothing(String),
}

#[derive(Debug)]
struct Entry {
    body: Bytes,
    fetched_at: UnixSeconds,
    expires: UnixSeconds,
    renew_at: UnixSeconds,
    /// Evidence was refused with it.
    suspect: bool,
    /// When it was last asked for, by a count of such events.
    used: u64,
}

#[derive(Debug, Clone)]
struct Pause {
    until: UnixSeconds,
    reason: String,
    tries: u32,
}

#[derive(Debug, Default)]
struct Standing {
    pause: Option<Pause>,
    /// The minute that is counted, and fetches in it.
    minute: (u64, u32),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Books {
    offline: bool,
    refetch_pause: u64,
    entries: HashMap<CollateralRequest, Entry>,
    bytes: usize,
    uses: u64,
    flights: HashMap<CollateralRequest, Flight>,
    failures: HashMap<CollateralRequest, Pause>,
    /// By [`Service::index`].
    services: [Standing; Service::ALL.len()],
}

impl Books {
    pub(crate) fn new(offline: bool, refetch_pause_seconds: u64) -> Self {
        Self {
            offline,
            refetch_pause: refetch_pause_seconds,
            entries: HashMap::new(),
            bytes: 0,
            uses: 0,
            flights: HashMap::new(),
            failures: HashMap::new(),
            services: Default::default(),
        }
    }

    /// What to do about a request. Whoever is told to renew or to start calls [`depart`](Self::depart) before anybody
    /// else asks.
    pub(crate) fn decide(
        &mut self,
        request: &CollateralRequest,
        service: Service,
        now: UnixSeconds,
    ) -> Decision {
        self.uses += 1;
        let obstacle = self.obstacle(request, service, now);
        let flight = self.flights.get(request).cloned();
        let is_full = self.flights.len() >= MAX_FETCHES_UNDER_WAY;
        let full = || format!("{MAX_FETCHES_UNDER_WAY} fetches are under way already");
        let Some(entry) = self.entries.get_mut(request) else {
            // The disk may have it, whatever is wrong with the service.
            return match (flight, self.failures.get(request).filter(|failure| stands(failure, now))) {
                (Some(flight), _) => Decision::Wait(flight),
                (None, Some(failure)) => Decision::Nothing(told(failure, now)),
                (None, None) if is_full => Decision::Nothing(full()),
                (None, None) => Decision::Start,
            };
        };
        entry.used = self.uses;
        let body = entry.body.clone();
        let has_run_out = now >= entry.expires;
        let is_fresh = age(entry, now) < self.refetch_pause;
        if !has_run_out {
            // Nobody waits because others were refused.
            let in_doubt = entry.suspect && !is_fresh;
            let is_due = now >= entry.renew_at || in_doubt;
            let renew = is_due && obstacle.is_none() && flight.is_none() && !is_full;
            let why = || obstacle.unwrap_or_else(|| "it is still being fetched".to_owned());
            return Decision::Serve { body, renew, note: in_doubt.then(|| stale(has_run_out, &why())) };
        }
        let stale = |reason: String| Some(stale(has_run_out, &reason));
        match (flight, obstacle) {
            (Some(flight), _) => Decision::Wait(flight),
            (None, _) if is_fresh => {
                let note = stale("it was fetched a moment ago".to_owned());
                Decision::Serve { body, renew: false, note }
            }
            (None, Some(reason)) => Decision::Serve { body, renew: false, note: stale(reason) },
            (None, None) if is_full => Decision::Serve { body, renew: false, note: stale(full()) },
            (None, None) => Decision::Start,
        }
    }

    /// What to give after a fetch ended, whatever came of it.
    pub(crate) fn settle(
        &mut self,
        request: &CollateralRequest,
        reason: Option<String>,
        now: UnixSeconds,
    ) -> Decision {
        match self.entries.get(request) {
            Some(entry) => {
                let has_run_out = now >= entry.expires;
                let reason = reason.unwrap_or_else(|| "it had when it was fetched".to_owned());
                let note = (has_run_out || entry.suspect).then(|| stale(has_run_out, &reason));
                Decision::Serve { body: entry.body.clone(), renew: false, note }
            }
            None => Decision::Nothing(reason.unwrap_or_else(|| "fetching it was broken off".to_owned())),
        }
    }

    /// Notes that a fetch begins.
    pub(crate) fn depart(&mut self, request: &CollateralRequest) -> watch::Sender<Option<String>> {
        let (sender, flight) = watch::channel(None);
        self.flights.insert(request.clone(), flight);
        sender
    }

    /// Notes that a fetch ended.
    pub(crate) fn arrive(&mut self, request: &CollateralRequest) {
        self.flights.remove(request);
    }

    /// Whether the service may be asked now; if so, that is counted.
    pub(crate) fn permit(
        &mut self,
        request: &CollateralRequest,
        service: Service,
        now: UnixSeconds,
    ) -> Result<(), String> {
        if let Some(obstacle) = self.obstacle(request, service, now) {
            return Err(obstacle);
        }
        // A quarter is kept for what we once had, so that strangers who ask for ever new things cannot use it up.
        let is_new = !self.entries.contains_key(request);
        let limit = service.fetches_a_minute();
        let limit = if is_new { limit - limit / 4 } else { limit };
        let (minute, count) = &mut self.services[service.index()].minute;
        if *minute != now.0 / 60 {
            (*minute, *count) = (now.0 / 60, 0);
        }
        if *count >= limit {
            return Err(format!("{} was asked {count} times this minute; that is the limit", service.name()));
        }
        *count += 1;
        Ok(())
    }

    /// Whether what is known makes a fetch unnecessary: it holds, and is not due for renewal if that was the reason.
    pub(crate) fn is_good(&self, request: &CollateralRequest, renewing: bool, now: UnixSeconds) -> bool {
        self.entries
            .get(request)
            .is_some_and(|entry| now < entry.expires && !entry.suspect && (!renewing || now < entry.renew_at))
    }

    /// Takes what the disk has, if it is newer than what is known and what was asked for.
    pub(crate) fn recall(
        &mut self,
        request: &CollateralRequest,
        route: &Route,
        stored: Stored,
        now: UnixSeconds,
    ) {
        // A time that is yet to come would keep an answer from being fetched anew.
        let fetched_at = stored.fetched_at.min(now);
        if self.entries.get(request).is_none_or(|entry| entry.fetched_at < fetched_at) {
            self.remember(request, route, stored.body, fetched_at);
        }
    }

    /// Keeps an answer; `None` if it is not what was asked for.
    pub(crate) fn remember(
        &mut self,
        request: &CollateralRequest,
        route: &Route,
        body: Bytes,
        fetched_at: UnixSeconds,
    ) -> Option<()> {
        let (expires, renew_at) = route.life(&body, fetched_at)?;
        self.bytes += body.len();
        self.uses += 1;
        let entry = Entry { body, fetched_at, expires, renew_at, suspect: false, used: self.uses };
        if let Some(old) = self.entries.insert(request.clone(), entry) {
            self.bytes -= old.body.len();
        }
        while self.entries.len() > MAX_REMEMBERED_ANSWERS || self.bytes > MAX_REMEMBERED_BYTES {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            let Some(oldest) = oldest.map(|(request, _)| request.clone()) else { break };
            if let Some(old) = self.entries.remove(&oldest) {
                self.bytes -= old.body.len();
            }
        }
        Some(())
    }

    /// Notes that a fetch succeeded.
    pub(crate) fn succeeded(&mut self, request: &CollateralRequest, service: Service) {
        self.failures.remove(request);
        if self.services[service.index()].pause.take().is_some() {
            tracing::info!("{} answers again", service.name());
        }
    }

    /// Notes that a fetch failed, and who is left alone for how long.
    pub(crate) fn failed(
        &mut self,
        request: &CollateralRequest,
        service: Service,
        failure: &Failure,
        now: UnixSeconds,
    ) {
        let standing = &mut self.services[service.index()].pause;
        if failure.kind == Kind::NotThis {
            *standing = None;
            tracing::debug!(reason = failure.reason, "an answer cannot be had");
            let tries = self.failures.get(request).map_or(0, |failure| failure.tries);
            let pause = pause(tries, PAUSES_AFTER_NOTHING, &failure.reason, now);
            self.failures.insert(request.clone(), pause);
            self.forget_failures(now);
            return;
        }
        let first = standing.is_none();
        let tries = standing.as_ref().map_or(0, |pause| pause.tries);
        let mut next = pause(tries, PAUSES_WITH_SERVICE, &failure.reason, now);
        if let Kind::Busy(Some(asked)) = failure.kind {
            next.until = now.plus(asked.as_secs().clamp(1, MAX_RETRY_AFTER));
        }
        *standing = Some(next);
        if first {
            tracing::warn!(
                reason = failure.reason,
                "collateral cannot be fetched; what is cached stays in use"
            );
        }
    }

    /// Notes that evidence was refused with this answer.
    pub(crate) fn suspect(&mut self, request: &CollateralRequest) {
        if let Some(entry) = self.entries.get_mut(request) {
            entry.suspect = true;
        }
    }

    /// Why nothing can be fetched now.
    fn obstacle(&self, request: &CollateralRequest, service: Service, now: UnixSeconds) -> Option<String> {
        if self.offline {
            return Some("this node works offline".to_owned());
        }
        let pauses = [self.failures.get(request), self.services[service.index()].pause.as_ref()];
        pauses.into_iter().flatten().find(|pause| stands(pause, now)).map(|pause| told(pause, now))
    }

    fn forget_failures(&mut self, now: UnixSeconds) {
        if self.failures.len() > MAX_REMEMBERED_FAILURES {
            // Those over stay for a while, since the next pause is longer for them, but not at any price.
            self.failures.retain(|_, failure| stands(failure, now));
        }
        while self.failures.len() > MAX_REMEMBERED_FAILURES {
            let soonest = self.failures.iter().min_by_key(|(_, failure)| failure.until);
            let Some(soonest) = soonest.map(|(request, _)| request.clone()) else { break };
            self.failures.remove(&soonest);
        }
    }
}

/// What is wrong with an answer that is given all the same.
fn stale(has_run_out: bool, reason: &str) -> String {
    let what = if has_run_out { "it has run out" } else { "evidence was refused with it" };
    format!("{what}, and there is no newer one: {reason}")
}

/// How old an answer is, seconds; one that the clock was put back for is of any age.
fn age(entry: &Entry, now: UnixSeconds) -> u64 {
    now.0.checked_sub(entry.fetched_at.0).unwrap_or(u64::MAX)
}

fn pause(tries: u32, (first, longest): (u64, u64), reason: &str, now: UnixSeconds) -> Pause {
    let seconds = first.saturating_mul(1 << tries.min(16)).min(longest);
    Pause { until: now.plus(seconds), reason: reason.to_owned(), tries: tries.saturating_add(1) }
}

/// Whether a pause is not over. One longer than any can be is left from before the clock was put back.
fn stands(pause: &Pause, now: UnixSeconds) -> bool {
    let left = pause.until.0.saturating_sub(now.0);
    left > 0 && left <= PAUSES_AFTER_NOTHING.1
}

fn told(pause: &Pause, now: UnixSeconds) -> String {
    format!("{}; the next try is in {} s", pause.reason, pause.until.0.saturating_sub(now.0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cocoon_attest::EvidenceKind;

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_000_000);

    fn books() -> (Books, Route) {
        (Books::new(false, 60), Route::that_takes_anything())
    }

    fn request(number: usize) -> CollateralRequest {
        CollateralRequest { kind: EvidenceKind::Tdx, name: number.to_string() }
    }

    fn has(books: &mut Books, number: usize) -> bool {
        matches!(books.decide(&request(number), Service::Rim, NOW), Decision::Serve { .. })
    }

    #[test]
    fn what_nobody_asks_for_makes_room_in_memory() {
        let (mut books, route) = books();
        let body = Bytes::from_static(b"{}");
        for number in 0..MAX_REMEMBERED_ANSWERS {
            books.remember(&request(number), &route, body.clone(), NOW).unwrap();
        }
        assert!(has(&mut books, 0), "it is used, so it stays");
        books.remember(&request(MAX_REMEMBERED_ANSWERS), &route, body, NOW).unwrap();
        assert_eq!([0, 1, 2].map(|number| has(&mut books, number)), [true, false, true]);
        let large = Bytes::from([b"{".as_slice(), &vec![0; MAX_REMEMBERED_BYTES / 2]].concat());
        for number in [5_000, 5_001] {
            books.remember(&request(number), &route, large.clone(), NOW).unwrap();
        }
        assert_eq!([0, 5_000, 5_001].map(|number| has(&mut books, number)), [false, false, true]);
        assert_eq!(books.bytes, large.len());
    }

    #[test]
    fn fetches_under_way_are_bounded_and_what_is_known_is_given_all_the_same() {
        let (mut books, route) = books();
        books.remember(&request(0), &route, Bytes::from_static(b"{}"), NOW).unwrap();
        for number in 1..=MAX_FETCHES_UNDER_WAY {
            assert!(matches!(books.decide(&request(number), Service::Rim, NOW), Decision::Start));
            books.depart(&request(number));
        }
        let refused = books.decide(&request(9_999), Service::Rim, NOW);
        assert!(matches!(refused, Decision::Nothing(reason) if reason.contains("under way")));
        for late in [NOW, NOW.plus(2 * 86_400), NOW.plus(9 * 86_400)] {
            let known = books.decide(&request(0), Service::Rim, late);
            assert!(matches!(known, Decision::Serve { renew: false, .. }), "{known:?}");
        }
        books.arrive(&request(1));
        assert!(matches!(books.decide(&request(9_999), Service::Rim, NOW), Decision::Start));
    }

    #[test]
    fn failures_are_forgotten_in_the_end() {
        let (mut books, _) = books();
        let failure = Failure { kind: Kind::NotThis, reason: "gone".to_owned() };
        for number in 0..2 * MAX_REMEMBERED_FAILURES {
            books.failed(&request(number), Service::Rim, &failure, NOW);
        }
        assert_eq!(books.failures.len(), MAX_REMEMBERED_FAILURES);
    }
}
