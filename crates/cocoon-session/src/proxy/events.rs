//! What a proxy has its driver do, and tells it.

use std::time::Duration;

use cocoon_ledger::Record;
use cocoon_ton::address::Address;
use cocoon_trace::TraceContext;

use super::ConnId;
use crate::{RequestFailure, Time};

/// What the driver has to do, or may want to know.
#[derive(Debug, Clone, PartialEq)]
pub enum ProxyEvent {
    /// Look the client contract up on chain and call [`client_found`](super::Proxy::client_found).
    FindClient {
        /// The connection that waits.
        conn: ConnId,
        /// The client contract.
        contract: Address,
    },
    /// Append these records to the log, and call [`persisted`](super::Proxy::persisted) with the position of the last once durable.
    Persist(Vec<Record>),
    /// A worker finished its handshake.
    WorkerReady {
        /// Its connection.
        conn: ConnId,
        /// What it serves, in full.
        model: String,
    },
    /// A client finished its handshake.
    ClientReady {
        /// Its connection.
        conn: ConnId,
    },
    /// A request ended.
    Ended(Box<RequestEnd>),
}

/// How a request ended, for logs and metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestEnd {
    /// The proxy's own id for it: the reservation's, and its place in a trace.
    pub request: [u8; 32],
    /// The client's id for it, which its caller is told.
    pub client_request: [u8; 32],
    /// The id by which the worker knows it that was asked last.
    pub attempt: [u8; 32],
    /// Model name without `@...`.
    pub model: String,
    /// The worker's connection, if one was chosen.
    pub worker: Option<ConnId>,
    /// `None`: a complete answer.
    pub failure: Option<RequestFailure>,
    /// Adjusted tokens charged.
    pub charged: u64,
    /// Adjusted tokens claimed by the worker beyond what it gets.
    pub overrun: u64,
    /// From the query to the end.
    pub took: Duration,
    /// Workers that were tried.
    pub attempts: usize,
    /// When the query came.
    pub started: Time,
    /// Where its sender stands in a trace, by its word.
    pub parent: Option<TraceContext>,
}

impl RequestEnd {
    /// Our place in the trace, as the worker was told it.
    #[must_use]
    pub fn span(&self) -> Option<TraceContext> {
        self.parent.map(|parent| parent.at(&self.request))
    }
}
