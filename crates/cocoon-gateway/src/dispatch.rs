//! Finds a proxy that answers a request: one after the other, while that makes sense.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cocoon_ledger::{Adjusted, AdjustedTokens, Coefficient, Dispute, DisputeReason, RequestId, clamp_claim};
use cocoon_openai::PreparedRequest;
use cocoon_session::client::Submission;
use cocoon_session::{FinalInfo, Preference, tariff};
use cocoon_wire::tl::http as wire;

use crate::Shared;
use crate::answer::claim_of;
use crate::connection::Connection;
use crate::exchange::{Ending, Event, Exchange};
use crate::failure::{Failure, Kind, refusal, words_of};
use crate::intake::InFlight;
use crate::price::Order;

/// Proxies that one request is given to.
const MAX_ATTEMPTS: usize = 2;
/// Bytes of a refusal that are read for its words.
const MAX_REFUSAL_BYTES: usize = 16 * 1024;

/// A request that was understood.
pub(crate) struct Asked<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) prepared: PreparedRequest,
    pub(crate) query: Bytes,
    /// The model's name without `@...`.
    pub(crate) model: String,
    pub(crate) started: Instant,
    pub(crate) in_flight: InFlight,
}

impl Asked<'_> {
    /// Why no proxy takes the request.
    fn no_proxy(&self) -> Failure {
        let status = self.shared.settlement.as_ref().map(|settlement| settlement.status());
        match status.map(|status| (status.needs, status.hold)) {
            Some((Some(needs), _)) => Failure::new(Kind::Funds, &needs.to_string()),
            Some((None, Some(hold))) => Failure::new(Kind::Proxy, &hold),
            _ => {
                let failure = self.shared.pool.failure().map_or_else(String::new, |why| format!(" ({why})"));
                Failure::new(Kind::Proxy, &format!("no proxy is connected{failure}; see /health"))
            }
        }
    }

    /// Finds a proxy that answers.
    pub(crate) async fn send(&self) -> Result<(Exchange, wire::Response, Instant), Failure> {
        let deadline = self.started + self.prepared.timeout;
        let cap = self.prepared.max_coefficient.unsigned_abs();
        let mut tried: Vec<Arc<Connection>> = Vec::new();
        let mut last = None;
        while tried.len() < MAX_ATTEMPTS {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(last.unwrap_or_else(|| Failure::new(Kind::TimedOut, "no proxy answered")));
            }
            let Some(connection) = self.shared.pool.choose(&self.model, cap, &tried) else { break };
            if !tried.is_empty() {
                self.shared.metrics.retries.inc();
            }
            let sent = Instant::now();
            match self.attempt(&connection, left).await {
                Ok((exchange, head)) => return Ok((exchange, head, sent)),
                Err(failure) if !failure.worth_another_proxy() => return Err(failure),
                // A proxy without the model says nothing about one whose workers are busy.
                Err(failure) if failure.kind == Kind::UnknownModel => last = last.or(Some(failure)),
                Err(failure) => last = Some(failure),
            }
            tried.push(connection);
        }
        Err(last.unwrap_or_else(|| self.no_proxy()))
    }

    /// Asks one proxy, up to the head of the answer.
    async fn attempt(
        &self,
        connection: &Arc<Connection>,
        timeout: Duration,
    ) -> Result<(Exchange, wire::Response), Failure> {
        let order = self.order(connection);
        let at_most = order.at_most().map_or(i64::MAX, AdjustedTokens::to_wire);
        let submission = Submission {
            id: rand::random(),
            model: self.model.clone(),
            query: self.query.clone(),
            max_coefficient: self.prepared.max_coefficient,
            max_tokens: self.prepared.completion_bound,
            timeout,
            enable_debug: self.prepared.enable_debug,
            needs: 0,
            preference: Preference::Balanced,
            affinity: Vec::new(),
            trace: None,
        };
        let mut exchange =
            connection.submit(&submission, at_most).map_err(|failure| Failure::from(&failure))?;
        let head = loop {
            match exchange.next().await {
                Event::Head(head, _) => break head,
                Event::Data(_) => {}
                Event::End(Ending::Failed { failure, info }) => {
                    self.dispute_claim(connection, submission.id, &info.unwrap_or_default());
                    return Err(Failure::from(&failure));
                }
                Event::End(Ending::Completed { info, .. }) => {
                    self.dispute_claim(connection, submission.id, &info);
                    return Err(Failure::new(Kind::Engine, "an answer without a head"));
                }
            }
        };
        let Some(kind) = refusal(&head) else { return Ok((exchange, head)) };
        let mut body = Vec::new();
        let info = loop {
            match exchange.next().await {
                Event::Data(data) if body.len() + data.len() <= MAX_REFUSAL_BYTES => {
                    body.extend_from_slice(&data);
                }
                Event::End(Ending::Completed { info, .. }) => break info,
                Event::End(Ending::Failed { info, .. }) => break info.unwrap_or_default(),
                _ => {}
            }
        };
        self.dispute_claim(connection, submission.id, &info);
        Err(Failure::refused(kind, &words_of(&body)))
    }

    /// Where nothing was delivered, nothing may be claimed.
    fn dispute_claim(&self, connection: &Connection, request: [u8; 32], info: &FinalInfo) {
        let claimed = clamp_claim(&claim_of(info));
        if let Some(terms) = connection.terms()
            && claimed.total() > AdjustedTokens::ZERO
        {
            let (expected, reason) = (Adjusted::ZERO, DisputeReason::NoAnswer);
            let dispute = Dispute { request: RequestId(request), expected, claimed, reason };
            self.shared.dispute(&dispute, &terms.public_key, &self.model);
        }
    }

    pub(crate) fn order(&self, connection: &Connection) -> Order {
        Order {
            query_bytes: self.query.len() as u64,
            max_tokens: u64::try_from(self.prepared.completion_bound).unwrap_or(0),
            max_coefficient: Coefficient::from_wire(self.prepared.max_coefficient.into())
                .unwrap_or(Coefficient::MAX),
            tariff: tariff(&self.shared.root.borrow()),
            limit_binds: connection.terms().is_some_and(|terms| terms.extensions),
        }
    }
}
