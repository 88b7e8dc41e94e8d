//! Coins set aside for attempts that are under way, and what they cost in the end.
//!
//! Three things tell what an attempt cost, in this order: the claim at its end; the proxy's payment notice, which names the
//! request and is the last word, also where the attempt was cancelled or another one won; and, where neither comes within
//! [`LAST_WORD`], nobody: then all that was set aside counts as spent, and as `unsettled`.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use cocoon_access::{Moment, Refused, Ticket};
use cocoon_session::{ErrorCode, FinalInfo, RequestFailure};

use super::Access;
use crate::failure::{Failure, Kind};

/// A proxy waits 60 s for a worker's last word on a cancelled request, and then sends its notice.
const LAST_WORD: Duration = Duration::from_secs(90);
/// Attempts whose last word is awaited. More than can be under way; what is pushed out is treated as if its time were up.
const MAX_HOLDS: usize = 65_536;

/// A request as the network knows it.
type RequestId = [u8; 32];

#[derive(Debug)]
struct Hold {
    ticket: Ticket,
    /// What is still set aside, in nanoton.
    held: Option<u64>,
    /// What was counted as its cost, in nanoton.
    cost: u64,
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
            let hold = Hold { ticket: ticket.clone(), held: Some(amount), cost: 0, price, until: None };
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
        if let Some(Hold { ticket, held: Some(held), .. }) = hold {
            self.desk().settle(&ticket, held, 0, false, self.now());
        }
    }

    /// The attempt has ended, and this many adjusted tokens are claimed for it.
    pub(crate) fn claimed(&self, request: &RequestId, tokens: i64) {
        self.end(request, Some(tokens));
    }

    /// The attempt has failed.
    pub(crate) fn failed(&self, request: &RequestId, failure: &RequestFailure, info: Option<&FinalInfo>) {
        let claimed = info.map(|info| info.tokens.total_tokens_used);
        let unknown = failure.code == ErrorCode::TIMEOUT || Failure::from(failure).kind == Kind::Lost;
        // A proxy that answers with an error and claims nothing has not let a worker work.
        self.end(request, if unknown && claimed.unwrap_or(0) == 0 { None } else { claimed.or(Some(0)) });
    }

    /// The attempt is cancelled: how much was worked is told later.
    pub(crate) fn cancelled(&self, request: &RequestId) {
        self.end(request, None);
    }

    /// The proxy's last word.
    pub(crate) fn charged(&self, request: &RequestId, tokens: i64) {
        let now = self.now();
        let Some(hold) = self.holds().remove(request) else { return };
        let cost = hold.cost_of(tokens);
        match hold.held {
            Some(held) => self.desk().settle(&hold.ticket, held, cost, false, now),
            None => self.desk().correct(&hold.ticket, hold.cost, cost, now),
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
        if let Some(held) = hold.held {
            self.desk().settle(&hold.ticket, held, held, true, self.now());
        }
    }

    fn end(&self, request: &RequestId, claimed: Option<i64>) {
        let now = self.now();
        let mut settled = None;
        {
            let mut holds = self.holds();
            holds.ends += 1;
            let until = (Moment(now.0.saturating_add(micros(LAST_WORD))), holds.ends);
            let Some(hold) = holds.open.get_mut(request) else { return };
            if let Some(tokens) = claimed
                && let Some(held) = hold.held.take()
            {
                hold.cost = hold.cost_of(tokens);
                settled = Some((hold.ticket.clone(), held, hold.cost));
            }
            if hold.until.is_none() {
                hold.until = Some(until);
                holds.ended.insert(until, *request);
            }
        }
        if let Some((ticket, held, cost)) = settled {
            self.desk().settle(&ticket, held, cost, false, now);
        }
    }
}

impl Hold {
    /// Never more than a price allows for; what a proxy charges beyond is disputed elsewhere.
    fn cost_of(&self, tokens: i64) -> u64 {
        u64::try_from(tokens).unwrap_or(0).saturating_mul(self.price)
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
        let lost = RequestFailure::new(ErrorCode::NOT_READY, "connection to the proxy lost: reset");
        let refused = RequestFailure::new(ErrorCode::ERROR, "no workers for model m");
        for number in 1..=4 {
            access.hold(&ticket, [number; 32], 100, 2).unwrap();
        }
        access.cancelled(&[1; 32]);
        access.failed(&[2; 32], &lost, None);
        access.failed(&[3; 32], &refused, None);
        assert_eq!(spending(&access).reserved, 600, "only the refusal says that nothing was worked");
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
}
