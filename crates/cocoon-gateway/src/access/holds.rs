//! Coins set aside for attempts that are under way, and what they cost in the end.
//!
//! Three things tell what an attempt cost, in this order: the claim at its end, up to what was set aside; the proxy's
//! payment notice, which names the request and is the last word, also where the attempt was cancelled or another one won;
//! and, where neither comes within [`LAST_WORD`], nobody: then all that was set aside counts as spent, and as `unsettled`.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use cocoon_access::{Moment, Refused, Settled, Ticket};

use super::Access;

/// A proxy waits 60 s for a worker's last word on a cancelled request, and then sends its notice.
const LAST_WORD: Duration = Duration::from_secs(90);
/// Attempts whose last word is awaited. More than can be under way; what is pushed out is treated as if its time were up.
const MAX_HOLDS: usize = 65_536;
/// The most that one request counts, in nanoton: a million TON. None costs as much, and thousands of such fit into a sum.
const MAX_COST: u64 = 1_000_000_000_000_000;
/// How often it is looked whether all last words are there.
const LOOK: Duration = Duration::from_millis(20);

/// A request as the network knows it.
type RequestId = [u8; 32];

#[derive(Debug)]
struct Hold {
    ticket: Ticket,
    /// What was set aside, in nanoton.
    held: u64,
    /// What was counted instead, once something told its cost.
    settled: Option<Settled>,
    /// Nanoton per adjusted token.
    price: u64,
    /// Place in the order of ends, once the attempt has ended.
    until: Option<(Moment, u64)>,
}

#[derive(Debug, Default)]
pub(super) struct Holds {
    open: HashMap<RequestId, Hold>,
    /// Those that have ended, in the order in which they are given up.
    ended: BTreeMap<(Moment, u64), RequestId>,
    ends: u64,
}

impl Access {
    /// Sets coins aside for an attempt: `at_most` adjusted tokens at this price.
    pub(crate) fn hold(
        &self,
        ticket: &Ticket,
        request: RequestId,
        at_most: u64,
        price: u64,
    ) -> Result<(), Refused> {
        let (now, amount) = (self.now(), at_most.saturating_mul(price));
        let oldest = {
            self.desk().hold(ticket.key, amount, now)?;
            let mut holds = self.holds();
            let hold = Hold { ticket: ticket.clone(), held: amount, settled: None, price, until: None };
            holds.open.insert(request, hold);
            if holds.open.len() > MAX_HOLDS { holds.take_oldest(Moment(u64::MAX)) } else { None }
        };
        if let Some(oldest) = oldest {
            self.give_up(&oldest);
        }
        Ok(())
    }

    /// The attempt was never sent.
    pub(crate) fn release(&self, request: &RequestId) {
        let hold = self.holds().remove(request);
        if let Some(Hold { ticket, held, settled: None, .. }) = hold {
            self.desk().settle(&ticket, held, 0, false, self.now());
        }
    }

    /// The attempt has ended, and this many adjusted tokens are claimed for it.
    pub(crate) fn claimed(&self, request: &RequestId, tokens: i64) {
        self.end(request, Some(tokens));
    }

    /// The attempt has ended, and how much was worked for it is told later.
    pub(crate) fn cancelled(&self, request: &RequestId) {
        self.end(request, None);
    }

    /// The proxy's last word.
    pub(crate) fn charged(&self, request: &RequestId, tokens: i64) {
        let now = self.now();
        let Some(hold) = self.holds().remove(request) else { return };
        let cost = hold.cost_of(tokens);
        match hold.settled {
            Some(settled) => self.desk().correct(&hold.ticket, settled, cost, now),
            None => {
                self.desk().settle(&hold.ticket, hold.held, cost, false, now);
            }
        }
    }

    /// Whether coins are still set aside for one of these, though it has ended: its last word is to come.
    pub(crate) fn awaits_any<'a>(&self, requests: impl IntoIterator<Item = &'a RequestId>) -> bool {
        let holds = self.holds();
        requests.into_iter().any(|request| holds.awaits(request))
    }

    /// Waits until the last words on all that has ended are there.
    pub(crate) async fn last_words(&self) {
        let missing = |holds: &Holds| holds.ended.values().any(|request| holds.awaits(request));
        while missing(&self.holds()) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Gives up on last words that do not come.
    pub(super) fn give_up_old(&self, now: Moment) {
        loop {
            let oldest = self.holds().take_oldest(now);
            match oldest {
                Some(hold) => self.give_up(&hold),
                None => return,
            }
        }
    }

    fn give_up(&self, hold: &Hold) {
        if hold.settled.is_none() {
            self.desk().settle(&hold.ticket, hold.held, hold.held, true, self.now());
        }
    }

    fn end(&self, request: &RequestId, claimed: Option<i64>) {
        let now = self.now();
        let mut holds = self.holds();
        holds.ends += 1;
        let until = (Moment(now.0.saturating_add(micros(LAST_WORD))), holds.ends);
        let Some(hold) = holds.open.get_mut(request) else { return };
        if let (Some(tokens), None) = (claimed, hold.settled) {
            let cost = hold.cost_of(tokens).min(hold.held);
            hold.settled = Some(self.desk().settle(&hold.ticket, hold.held, cost, false, now));
        }
        if hold.until.is_none() {
            hold.until = Some(until);
            holds.ended.insert(until, *request);
        }
    }
}

impl Hold {
    /// What a proxy charges beyond what was set aside counts, too, and is disputed elsewhere.
    fn cost_of(&self, tokens: i64) -> u64 {
        u64::try_from(tokens).unwrap_or(0).saturating_mul(self.price).min(MAX_COST)
    }
}

impl Holds {
    fn remove(&mut self, request: &RequestId) -> Option<Hold> {
        let hold = self.open.remove(request)?;
        if let Some(until) = hold.until {
            self.ended.remove(&until);
        }
        Some(hold)
    }

    fn awaits(&self, request: &RequestId) -> bool {
        self.open.get(request).is_some_and(|hold| hold.until.is_some() && hold.settled.is_none())
    }

    /// One whose time is up by then.
    fn take_oldest(&mut self, now: Moment) -> Option<Hold> {
        let (until, _) = self.ended.first_key_value()?;
        if until.0 > now {
            return None;
        }
        let (_, request) = self.ended.pop_first()?;
        self.open.remove(&request)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::SocketAddr;

    use cocoon_access::{KeyId, KeySecret, KeySettings, Spending};
    use cocoon_net::MonotonicClock;

    use super::*;
    use crate::access::AccessConfig;

    const KEY: [u8; 8] = [1; 8];

    fn access(dir: &std::path::Path) -> Access {
        let config = AccessConfig::new(dir.join("access.sqlite"));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let access = Access::open(MonotonicClock::start(), config, nowhere).unwrap();
        let (id, secret) = (KeyId::from_random(KEY), KeySecret::from_random([1; 32]));
        access.desk().create(id, &secret, KeySettings::named("a"), access.now()).unwrap();
        access
    }

    fn ticket(access: &Access) -> Ticket {
        access.desk().admit(KeyId::from_random(KEY), "chat", access.now()).unwrap()
    }

    fn spending(access: &Access) -> Spending {
        access.desk().view(KeyId::from_random(KEY), access.now()).unwrap().spending
    }

    #[test]
    fn the_proxys_word_is_the_last_whether_it_comes_before_the_end_or_after() {
        let dir = tempfile::tempdir().unwrap();
        let access = access(dir.path());
        let ticket = ticket(&access);
        for (number, claim_first) in [(1, true), (2, false)] {
            let request = [number; 32];
            access.hold(&ticket, request, 100, 2).unwrap();
            assert_eq!(spending(&access).reserved, 200);
            if claim_first {
                access.claimed(&request, 30);
                assert_eq!(spending(&access).total, 60);
            }
            access.charged(&request, 20);
            access.claimed(&request, 30);
            access.charged(&request, 99);
            assert_eq!(spending(&access).total, 40 * u64::from(number));
            assert_eq!(spending(&access).reserved, 0);
        }
        assert!(access.holds().open.is_empty() && access.holds().ended.is_empty());
    }

    #[test]
    fn what_nobody_tells_counts_in_full_once_its_time_is_up() {
        let dir = tempfile::tempdir().unwrap();
        let access = access(dir.path());
        let ticket = ticket(&access);
        let later = |seconds: u64| Moment(access.now().0 + seconds * 1_000_000);
        for number in 1..=4 {
            access.hold(&ticket, [number; 32], 100, 2).unwrap();
        }
        access.cancelled(&[1; 32]);
        access.cancelled(&[2; 32]);
        access.claimed(&[3; 32], 0);
        assert_eq!(spending(&access).reserved, 600);
        assert!(access.awaits_any([&[3; 32], &[2; 32]]));
        assert!(!access.awaits_any([&[3; 32], &[4; 32], &[5; 32]]), "told, under way, unknown");
        access.give_up_old(later(80));
        assert_eq!(spending(&access).reserved, 600);
        access.give_up_old(later(91));
        let after = spending(&access);
        assert_eq!((after.reserved, after.total, after.unsettled_nanoton), (200, 400, 400));
        access.charged(&[1; 32], 7);
        assert_eq!(spending(&access).total, 400, "a word that comes too late changes nothing");
        access.release(&[4; 32]);
        assert_eq!((spending(&access).reserved, access.holds().open.len()), (0, 0));
    }

    #[test]
    fn no_claim_counts_more_than_was_set_aside_nor_takes_history_along() {
        let dir = tempfile::tempdir().unwrap();
        let access = access(dir.path());
        let ticket = ticket(&access);
        for (number, claimed, charged) in [(1, 30, 30), (2, i64::MAX, 15), (3, i64::MIN, 10)] {
            access.hold(&ticket, [number; 32], 100, 2).unwrap();
            access.claimed(&[number; 32], claimed);
            assert!(spending(&access).today <= 300, "{claimed}");
            access.charged(&[number; 32], charged);
        }
        let day = access.now().day();
        let cost = access.desk().usage(day, ticket.key).unwrap().rows()[0].counts.cost_nanoton;
        let spent = spending(&access);
        assert_eq!((spent.total, spent.today, cost), (110, 110, 110));
    }

    #[test]
    fn an_absurd_charge_locks_no_key_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let access = access(dir.path());
        let ticket = ticket(&access);
        for (number, claims) in [(1, true), (2, false)] {
            access.hold(&ticket, [number; 32], 100, 2).unwrap();
            if claims {
                access.claimed(&[number; 32], 30);
            }
            access.charged(&[number; 32], i64::MAX);
        }
        assert_eq!(spending(&access).total, 2 * MAX_COST, "it is what the proxy says");
        access.desk().forgive(ticket.key).unwrap();
        let after = spending(&access);
        assert_eq!((after.total, after.today, after.unsettled_nanoton), (400, 400, 0));
    }
}
