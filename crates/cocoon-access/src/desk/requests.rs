//! A request's way: admitted, started, coins set aside and settled, finished.

use super::keys::usable;
use super::{Denied, Desk, Entry, Refused};
use crate::{Counts, KeyId, Moment, RateView, Settled};

/// A request that was admitted. Each is finished once, by [`Desk::finish`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Whose request it is.
    pub key: KeyId,
    /// What it asks for.
    pub endpoint: &'static str,
    /// The model, once it is known.
    pub model: String,
    /// Tokens that were taken from the limit per minute.
    expected_tokens: u64,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestEnd {
    /// With an error, or broken off.
    pub failed: bool,
    /// Tokens that it used.
    pub used: Counts,
}

impl Desk {
    /// Lets a request in, or counts it as refused.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn admit(&mut self, key: KeyId, endpoint: &'static str, now: Moment) -> Result<Ticket, Refused> {
        let admitted = match self.keys.get_mut(&key) {
            Some(entry) => entry.admit(endpoint, now),
            None if key == KeyId::NONE => Ok(()),
            None => Err(Refused::Key(Denied::Unknown)),
        };
        match admitted {
            Ok(()) => Ok(Ticket { key, endpoint, model: String::new(), expected_tokens: 0 }),
            Err(refused) => {
                let refusal = Counts { requests: 1, errors: 1, ..Counts::default() };
                self.count(key, "", endpoint, &refusal, now);
                Err(refused)
            }
        }
    }

    /// The request's model is known, and how many tokens it may use.
    ///
    /// # Errors
    /// [`Refused`]; the request still has to be finished.
    pub fn start(
        &mut self,
        ticket: &mut Ticket,
        model: &str,
        expected_tokens: u64,
        now: Moment,
    ) -> Result<(), Refused> {
        model.split('@').next().unwrap_or_default().clone_into(&mut ticket.model);
        let Some(entry) = self.keys.get_mut(&ticket.key) else { return Ok(()) };
        if !entry.record.settings.covers_model(model) {
            return Err(Refused::Model);
        }
        if let Some(bucket) = &mut entry.tokens {
            let taken = bucket.take(expected_tokens, now);
            taken.map_err(|wait_micros| Refused::Tokens { rate: bucket.view(now), wait_micros })?;
            ticket.expected_tokens = expected_tokens;
        }
        Ok(())
    }

    /// Sets coins aside for one attempt at a request: the most that it can cost. [`Desk::settle`] must follow.
    ///
    /// # Errors
    /// [`Refused::Budget`], or the key was revoked meanwhile. Nothing is set aside then.
    pub fn hold(&mut self, key: KeyId, nanoton: u64, now: Moment) -> Result<(), Refused> {
        let Some(entry) = self.keys.get_mut(&key) else {
            return if key == KeyId::NONE { Ok(()) } else { Err(Refused::Key(Denied::Unknown)) };
        };
        usable(&entry.record, now).map_err(Refused::Key)?;
        let budget = entry.record.settings.budget();
        entry
            .spending
            .hold(nanoton, budget, now.day())
            .map_err(|which| Refused::Budget { which, wanted: nanoton })?;
        self.unwritten.spending.insert(key);
        Ok(())
    }

    /// Replaces what was set aside by what it cost. `unsettled`: nobody said so, it is the most that it can have been. Of a
    /// cost beyond what was set aside, that part is unsettled.
    pub fn settle(&mut self, ticket: &Ticket, held: u64, cost: u64, unsettled: bool, now: Moment) -> Settled {
        let mut settled = Settled { held, cost, day: now.day() };
        if let Some(entry) = self.keys.get_mut(&ticket.key) {
            settled = entry.spending.settle(held, cost, unsettled, now.day());
            self.unwritten.spending.insert(ticket.key);
        }
        if settled.cost > 0 {
            let counts = Counts { cost_nanoton: settled.cost, ..Counts::default() };
            self.count(ticket.key, &ticket.model, ticket.endpoint, &counts, now);
        }
        settled
    }

    /// What was settled turned out to be something else. It counts on the day on which it was settled.
    pub fn correct(&mut self, ticket: &Ticket, from: Settled, mut to: u64, now: Moment) {
        if from.cost == to {
            return;
        }
        if let Some(entry) = self.keys.get_mut(&ticket.key) {
            to = entry.spending.correct(from, to, now.day());
            self.unwritten.spending.insert(ticket.key);
        }
        let sum = self.sum_of(ticket.key);
        sum.cost_nanoton = sum.cost_nanoton.saturating_add(to).saturating_sub(from.cost);
        let day = (from.day, ticket.key);
        self.usage.entry(day).or_default().correct_cost(&ticket.model, ticket.endpoint, from.cost, to);
        self.unwritten.usage.insert(day);
    }

    /// The request is over.
    pub fn finish(&mut self, ticket: &Ticket, end: &RequestEnd, now: Moment) {
        if let Some(entry) = self.keys.get_mut(&ticket.key) {
            entry.running = entry.running.saturating_sub(1);
            if let Some(bucket) = &mut entry.tokens {
                bucket.correct(ticket.expected_tokens, end.used.tokens(), now);
            }
        }
        let counts = Counts { requests: 1, errors: u64::from(end.failed), cost_nanoton: 0, ..end.used };
        self.count(ticket.key, &ticket.model, ticket.endpoint, &counts, now);
    }

    /// How a key's limits stand: requests, tokens.
    #[must_use]
    pub fn rates(&self, key: KeyId, now: Moment) -> (Option<RateView>, Option<RateView>) {
        self.keys.get(&key).map_or((None, None), |entry| {
            (entry.requests.map(|bucket| bucket.view(now)), entry.tokens.map(|bucket| bucket.view(now)))
        })
    }

    fn count(&mut self, key: KeyId, model: &str, endpoint: &str, counts: &Counts, now: Moment) {
        self.sum_of(key).add(counts);
        let day = (now.day(), key);
        self.usage.entry(day).or_default().add(model, endpoint, counts);
        self.unwritten.usage.insert(day);
    }
}

impl Entry {
    fn admit(&mut self, endpoint: &str, now: Moment) -> Result<(), Refused> {
        let settings = &self.record.settings;
        usable(&self.record, now).map_err(Refused::Key)?;
        if !settings.covers_endpoint(endpoint) {
            return Err(Refused::Endpoint);
        }
        if let Some(limit) = settings.concurrent_requests
            && self.running >= limit
        {
            return Err(Refused::Concurrent(limit));
        }
        if let Some(bucket) = &mut self.requests {
            let taken = bucket.take(1, now);
            taken.map_err(|wait_micros| Refused::Requests { rate: bucket.view(now), wait_micros })?;
        }
        self.running += 1;
        Ok(())
    }
}
