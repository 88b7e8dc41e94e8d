//! What a proxy counts, for operators.

use super::choice::TAKES_STREAMS;
use super::{Peer, Proxy};

/// Counters since the start, and gauges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyStats {
    /// Requests that came in.
    pub requests: u64,
    /// Requests refused before a worker was chosen.
    pub rejected: u64,
    /// Requests answered in full.
    pub succeeded: u64,
    /// Requests whose caller left before their end.
    pub cancelled: u64,
    /// Requests that failed or were given up after a worker was chosen.
    pub failed: u64,
    /// Times that a request was given to another worker.
    pub retries: u64,
    /// Body bytes passed from workers to clients.
    pub answer_bytes: u64,
    /// Adjusted tokens charged.
    pub tokens: u64,
    /// Adjusted tokens that workers claimed beyond what they got.
    pub overrun: u64,
}

/// One worker connection, for operators and clients.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectionStats {
    /// Full model name.
    pub model: String,
    /// Price in 1/1000.
    pub coefficient: u32,
    /// Requests under way.
    pub active: usize,
    /// Most requests at a time.
    pub limit: u32,
    /// What it can do: bits of [`ability`](crate::ability).
    pub abilities: u32,
    /// Takes requests now.
    pub ready: bool,
    /// Running average of the time to the first byte.
    pub first_byte: Option<std::time::Duration>,
    /// Running average of completion tokens per second of one answer.
    pub tokens_per_s: Option<f64>,
    /// Running failure rate, 0 to 1.
    pub failure_rate: f64,
    /// Requests that ended there.
    pub requests: u64,
}

impl Proxy {
    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> &ProxyStats {
        &self.stats
    }

    /// Requests under way, those waiting for a worker's last word included.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.requests.len()
    }

    /// The most that is held of requests' queries and bodies now, in bytes.
    #[must_use]
    pub const fn held_bytes(&self) -> usize {
        self.held
    }

    /// Number of client connections.
    #[must_use]
    pub fn client_connections(&self) -> usize {
        self.conns.values().filter(|conn| matches!(conn.peer, Peer::Client(_))).count()
    }

    /// The workers that finished their handshake.
    #[must_use]
    pub fn workers(&self) -> Vec<ConnectionStats> {
        let offers = self.market.models().flat_map(|model| self.market.offers(model));
        offers
            .filter_map(|offer| {
                let worker = self.worker(offer.key)?;
                Some(ConnectionStats {
                    model: worker.model.clone(),
                    coefficient: offer.state.coefficient,
                    active: worker.work.len(),
                    limit: offer.state.limit,
                    abilities: offer.state.abilities & !TAKES_STREAMS,
                    ready: offer.state.ready,
                    first_byte: offer.observed.time_to_first_byte(),
                    tokens_per_s: offer.observed.tokens_per_s(),
                    failure_rate: offer.observed.failure_rate(self.market.now_us()),
                    requests: offer.observed.requests(),
                })
            })
            .collect()
    }
}
