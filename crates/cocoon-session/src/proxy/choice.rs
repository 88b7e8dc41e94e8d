//! Choosing a worker for a request, and what is told to the market about workers for that.
//!
//! The rule is [`cocoon_market`]'s. Here is what it is fed with: each worker's state when that changes, and what its
//! answers showed.

use std::time::Duration;

use cocoon_ledger::{Coefficient, Multiplier};
use cocoon_market::{NoWorker, State, Wish};
use cocoon_wire::frame::MAX_FRAME_PAYLOAD;
use cocoon_wire::tl::TokensUsed;

use super::request::{Rejection, Request};
use super::upload::can_take;
use super::{Conn, ConnId, Peer, Proxy, RequestKey};
use crate::options::Options;
use crate::{INITIAL_CREDIT_BYTES, Time};

/// The kind of the failure where there are workers, but none that the client lets see its requests.
const NO_ATTESTED_WORKER: &str = "no_attested_worker";
/// The kind of the failure where there are workers, but none that can do what the request needs.
const NOT_SUPPORTED: &str = "not_supported";

/// The bit beside a worker's abilities, ours alone, that says that it takes bodies in parts.
/// The market knows it; nobody is told of it, and nobody can ask for it.
pub(super) const TAKES_STREAMS: u32 = 1 << 31;

/// What was noticed of an answer as it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) status: i32,
    /// It is a stream of events.
    pub(super) streamed: bool,
    /// When the first byte of its body came. A head alone costs nobody any work.
    pub(super) first_byte: Option<Time>,
}

impl Begun {
    fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl Conn {
    /// The worker's state, as it counts for the choice.
    pub(super) fn market_state(&self) -> Option<State> {
        let Peer::Worker(worker) = &self.peer else { return None };
        Some(State {
            coefficient: worker.coefficient,
            in_flight: u32::try_from(worker.work.len()).unwrap_or(u32::MAX),
            limit: worker.limit,
            abilities: worker.abilities & !TAKES_STREAMS | if worker.extensions { TAKES_STREAMS } else { 0 },
            ready: !worker.paused && worker.suspect_since.is_none(),
            has_room: self.has_room(),
        })
    }

    /// Whether a worker can be sent one more query. A large one on top of what waits for it, or will once it is here, could
    /// make it look as if it did not read.
    pub(super) fn has_room(&self) -> bool {
        let awaited = match &self.peer {
            Peer::Worker(worker) => worker.awaited,
            Peer::Client(_) => 0,
        };
        self.link.unsent().saturating_add(awaited) <= MAX_FRAME_PAYLOAD
    }
}

impl Proxy {
    /// Something about a worker may have changed.
    pub(super) fn tell_market(&mut self, conn: ConnId) {
        if let Some(state) = self.conns.get(&conn).and_then(Conn::market_state) {
            self.market.update(conn, state);
        }
    }

    /// A worker for a request of this client, with regard to what it allows now.
    pub(super) fn choose_worker(
        &self,
        client: ConnId,
        model: &str,
        max_coefficient: u32,
        options: &Options,
        tried: &[ConnId],
        query_bytes: usize,
    ) -> Result<ConnId, NoWorker> {
        // A client that is gone allows nothing any more, and waits for nothing.
        let Some(client) = self.client(client) else { return Err(NoWorker::None) };
        // Without extensions a worker gets the body in one frame, or not at all.
        let streams = if can_take(false, query_bytes, options.body_bytes) { 0 } else { TAKES_STREAMS };
        let wish = Wish {
            max_coefficient,
            needs: options.needs & !TAKES_STREAMS | streams,
            preference: options.preference,
            allowed: client.allowed.as_ref(),
            tried,
            affinity: &options.affinity,
        };
        self.market.choose(model, &wish)
    }

    /// The first byte of a worker's answer came: from now on its engine knows how the request begins.
    pub(super) fn note_first_byte(&mut self, key: RequestKey, now: Time) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        let Some(begun) = request.begun.as_mut().filter(|begun| begun.is_good()) else { return };
        begun.first_byte = Some(now);
        self.market.remember(request.worker, &request.options.affinity);
        if begun.streamed {
            self.market.first_byte(request.worker, now.since(request.asked), now.0);
        }
    }

    /// A worker's answer is complete.
    pub(super) fn note_answered(&mut self, request: &Request, tokens: &TokensUsed, now: Time) {
        let Some(begun) = request.begun.filter(Begun::is_good) else { return };
        let Some(first_byte) = begun.first_byte else { return };
        // Up to here an answer needs no credit beyond the first, so no slow caller has slowed it.
        if request.answer_bytes > INITIAL_CREDIT_BYTES as u64 {
            return;
        }
        let multipliers = (self.settings.tariff.completion, self.settings.tariff.reasoning);
        let counted = plain(tokens.completion_tokens_used, request.coefficient, multipliers.0)
            .saturating_add(plain(tokens.reasoning_tokens_used, request.coefficient, multipliers.1));
        // A token is a byte at least: a claim beyond that makes nobody faster.
        let counted = counted.min(request.answer_bytes).min(request.max_tokens);
        let since = if begun.streamed { first_byte } else { request.asked };
        let took: Duration = now.since(since);
        if counted > 0 {
            self.market.answered(request.worker, counted, took, now.0);
        } else if !begun.streamed {
            self.market.first_byte(request.worker, took, now.0);
        }
    }
}

/// Tokens before price: `adjusted` is that many times coefficient and multiplier.
fn plain(adjusted: i64, coefficient: Coefficient, multiplier: Multiplier) -> u64 {
    let weight = u128::from(coefficient.get()) * u128::from(multiplier.0);
    let Ok(adjusted) = u128::try_from(adjusted) else { return 0 };
    (adjusted * 10_000_000).checked_div(weight).map_or(0, |tokens| u64::try_from(tokens).unwrap_or(u64::MAX))
}

/// What a client is told where there is no worker.
pub(super) fn no_worker(why: NoWorker, model: &str) -> Rejection {
    match why {
        NoWorker::None => (404, "model_not_found", format!("unknown model {model}")),
        NoWorker::NotReady => (503, "service_unavailable", format!("no ready workers for model {model}")),
        NoWorker::NotAllowed => {
            let words = format!("no worker for model {model} has evidence that this client accepts");
            (503, NO_ATTESTED_WORKER, words)
        }
        NoWorker::Unable => (404, NOT_SUPPORTED, format!("no worker for model {model} can do this")),
        NoWorker::Busy => (429, "rate_limit_exceeded", format!("all workers for model {model} are busy")),
        NoWorker::TooDear { cheapest } => {
            (503, "price_cap_too_low", format!("can run this query with coefficient={cheapest}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_behind_prices() {
        let half = Coefficient::new(500).unwrap();
        assert_eq!(plain(200, half, Multiplier(40_000)), 100);
        assert_eq!(plain(-1, half, Multiplier::ONE), 0);
        assert_eq!(plain(i64::MAX, Coefficient::new(1).unwrap(), Multiplier(1)), u64::MAX);
        assert_eq!(
            plain(5, Coefficient::new(0).unwrap(), Multiplier::ONE),
            0,
            "what costs nothing tells nothing"
        );
    }
}
