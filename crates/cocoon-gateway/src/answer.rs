//! An answer on its way to the caller: filtered, metered, priced, and ended honestly.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use cocoon_openai::{
    AnswerFilter, AnswerMeter, ApiError, BodyKind, BodyLimits, CostFields, Endpoint, MeterReport,
    RequestBasis, Usage, estimate_usage,
};
use cocoon_session::client::ModelOffers;
use cocoon_session::{FinalInfo, RequestFailure};
use http_body::{Body, Frame};

use crate::Shared;
use crate::bill::Bill;
use crate::charged::End;
use crate::exchange::{Ending, Event, Exchange};
use crate::failure::Failure;
use crate::intake::InFlight;
use crate::price::{Order, Received, assess, expect};

/// A request that has been answered with a head, and all that its price depends on.
pub(crate) struct Answering {
    pub(crate) shared: Arc<Shared>,
    pub(crate) exchange: Exchange,
    pub(crate) order: Order,
    pub(crate) model: String,
    /// As forwarded.
    pub(crate) request: RequestBasis,
    /// Offers at the proxy when the request was sent.
    pub(crate) offers: Arc<Vec<ModelOffers>>,
    pub(crate) kind: BodyKind,
    /// The status is no error.
    pub(crate) success: bool,
    pub(crate) show_usage: bool,
    pub(crate) enable_debug: bool,
    pub(crate) request_guid: Option<String>,
    /// The attempt is written down already, as one that failed: it is the last word there is.
    pub(crate) told: bool,
    pub(crate) timing: Timing,
    /// Of the answer's body, so far.
    pub(crate) bytes: u64,
    pub(crate) in_flight: InFlight,
}

/// Moments of a request here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) started: Instant,
    pub(crate) sent: Instant,
    pub(crate) head: Instant,
}

impl Answering {
    pub(crate) fn filter(&self) -> AnswerFilter {
        let endpoint = self.request.endpoint();
        let limits =
            BodyLimits { json_bytes: self.shared.limits.max_answer_bytes, ..BodyLimits::of(endpoint) };
        AnswerFilter::new(endpoint, self.kind, limits, self.show_usage)
    }

    /// The answer is over: prices it, and keeps what is to be kept.
    pub(crate) fn settle(&self, report: MeterReport, ending: &Ending, end: End) -> Bill {
        let (info, debug, completed) = match ending {
            Ending::Completed { info, debug } => (*info, debug.as_ref(), true),
            Ending::Failed { info, .. } => (info.unwrap_or_default(), None, false),
        };
        let received = self.received(report, completed);
        let assessment = assess(&self.order, &self.offered(), &claim_of(&info), &received);
        self.record(&assessment, end);
        self.bill(&assessment, &info, debug)
    }

    /// The caller went away: what the worker will claim is not told, but it follows from what came. One that was shown an
    /// error had no reason to stay.
    fn abandon(&self, report: MeterReport) {
        let expected = expect(&self.order, &self.offered(), &self.received(report, false));
        self.record(&expected, if report.saw_error && self.success { End::Broken } else { End::Cancelled });
    }

    fn received(&self, report: MeterReport, completed: bool) -> Received<'_> {
        Received {
            request: &self.request,
            bytes: self.bytes,
            report,
            success: self.success,
            completed,
            readable: self.kind != BodyKind::Opaque,
        }
    }

    /// The usage by which an answer is billed whose engine told none.
    fn estimate(&self, report: &MeterReport) -> Usage {
        estimate_usage(report, &self.request).usage
    }

    /// Coefficients on offer for the model, when the request was sent and now.
    fn offered(&self) -> Vec<u32> {
        let now = self.exchange.connection().models();
        let same = Arc::ptr_eq(&now, &self.offers);
        let snapshots = [Some(&self.offers), (!same).then_some(&now)];
        let mut offered: Vec<u32> = snapshots
            .into_iter()
            .flatten()
            .flat_map(|models| models.iter().filter(|model| model.name == self.model))
            .flat_map(|model| model.offers.iter().map(|offer| offer.coefficient))
            .collect();
        offered.sort_unstable();
        offered.dedup();
        offered
    }
}

/// The five numbers of a claim, as the ledger takes them.
pub(crate) fn claim_of(info: &FinalInfo) -> [i64; 5] {
    let tokens = &info.tokens;
    [
        tokens.prompt_tokens_used,
        tokens.cached_tokens_used,
        tokens.completion_tokens_used,
        tokens.reasoning_tokens_used,
        tokens.total_tokens_used,
    ]
}

/// `usage` in a last piece of an answer with the cost fields that we computed, whatever the worker wrote there.
pub(crate) fn with_costs(piece: Bytes, endpoint: Endpoint, kind: BodyKind, costs: CostFields) -> Bytes {
    const KEY: &[u8] = b"\"usage\"";
    let readable = matches!(kind, BodyKind::Sse | BodyKind::JsonLines | BodyKind::Json);
    if !readable || !piece.windows(KEY.len()).any(|window| window == KEY) {
        return piece;
    }
    let limits = BodyLimits { event_bytes: usize::MAX, json_bytes: usize::MAX };
    let mut meter = AnswerMeter::new(endpoint, kind, limits, Box::new(move |_| costs));
    let mut parts = meter.push(piece);
    parts.extend(meter.finish().0);
    match parts.len() {
        1 => parts.swap_remove(0),
        _ => parts.concat().into(),
    }
}

/// The answer broke off; the HTTP connection is cut, so that nobody takes what came for the whole.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
pub(crate) struct Broken;

/// The body of a streamed answer.
pub(crate) struct AnswerBody {
    answering: Answering,
    filter: AnswerFilter,
    out: VecDeque<Bytes>,
    state: State,
    complete: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Flowing,
    Ended,
    Cut,
}

impl AnswerBody {
    pub(crate) fn new(answering: Answering) -> Self {
        let filter = answering.filter();
        Self { answering, filter, out: VecDeque::new(), state: State::Flowing, complete: false }
    }

    /// Whether it has come to its end, and that is a good one.
    pub(crate) const fn is_complete(&self) -> bool {
        self.complete
    }

    fn end(&mut self, ending: &Ending) {
        if matches!(ending, Ending::Completed { .. }) {
            let last = self.filter.finish();
            self.out.extend(last);
        }
        let report = self.filter.report();
        let failure = match ending {
            Ending::Failed { failure, .. } => Some(failure.clone()),
            Ending::Completed { .. } => self.ended_early(),
        };
        let broken = failure.is_some() || (report.saw_error && self.answering.success);
        let end = if broken { End::Broken } else { End::Complete };
        let bill = self.answering.settle(report, ending, end);
        self.state = State::Ended;
        let (endpoint, kind) = (self.answering.request.endpoint(), self.answering.kind);
        self.complete = failure.is_none() && !report.saw_error;
        let priced = |piece| with_costs(piece, endpoint, kind, bill.costs);
        if failure.is_some() && kind == BodyKind::Sse && report.gave_up {
            // What passed unread may have stopped within an event.
            self.out.push_back(Bytes::from_static(b"\n\n"));
        }
        match failure {
            None => {
                // An error is the engine's own word and passes as it is.
                let cocoon = self.answering.success.then_some(bill.cocoon.as_ref());
                let held = self.filter.take_held(cocoon, Some(&self.answering.estimate(&report)));
                self.out.extend(held.into_iter().map(priced));
            }
            // The engine has said so itself, better than we could.
            Some(_) if kind == BodyKind::Sse && report.saw_error => {
                let held = self.filter.take_error(Some(bill.cocoon.as_ref()));
                self.out.extend(held.into_iter().map(priced));
            }
            Some(failure) if kind == BodyKind::Sse => {
                self.out.push_back(cocoon_openai::cocoon_comment(&bill.cocoon));
                let error = Failure::from(&failure).into_api_error(&self.answering.model, &[]);
                self.out.push_back(error.to_event(endpoint, report.next_sequence));
            }
            Some(_) => self.state = State::Cut,
        }
    }

    /// A stream of events that the worker calls complete but that has no end of its own.
    fn ended_early(&self) -> Option<RequestFailure> {
        let report = self.filter.report();
        let whole = report.complete || report.saw_error || report.gave_up || !self.answering.success;
        (self.answering.kind == BodyKind::Sse && !whole).then(|| {
            RequestFailure::new(cocoon_session::ErrorCode::NONE, "the engine's stream ended before its end")
        })
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            if let Some(bytes) = self.out.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            match self.state {
                State::Flowing => {}
                State::Ended => return Poll::Ready(None),
                State::Cut => return Poll::Ready(Some(Err(Broken))),
            }
            match self.answering.exchange.poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                // Only one head comes, and it came before.
                Poll::Ready(Event::Head(..)) => {}
                Poll::Ready(Event::Data(data)) => {
                    self.answering.bytes += data.len() as u64;
                    let pieces = self.filter.push(data);
                    self.out.extend(pieces);
                }
                Poll::Ready(Event::End(ending)) => self.end(&ending),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Ended && self.out.is_empty()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if self.state == State::Flowing {
            self.answering.abandon(self.filter.report());
        }
    }
}

/// An answer that was to be held until its price is known.
pub(crate) enum Collected {
    /// All of it.
    Whole(Bytes, Bill),
    /// It is too large to be held: what came is sent on, and the rest as it comes.
    Flowing(Box<AnswerBody>),
}

/// Collects an answer that is not streamed. `Err`: why there is none.
pub(crate) async fn collect(answering: Answering) -> Result<Collected, ApiError> {
    let limit = answering.shared.limits.max_answer_bytes as u64;
    // Its `Drop` sees to it that a caller who goes away is not forgotten.
    let mut body = AnswerBody::new(answering);
    let ending = loop {
        match body.answering.exchange.next().await {
            Event::Head(..) => {}
            Event::Data(data) => {
                body.answering.bytes += data.len() as u64;
                let pieces = body.filter.push(data);
                body.out.extend(pieces);
                if body.answering.bytes > limit {
                    return Ok(Collected::Flowing(Box::new(body)));
                }
            }
            Event::End(ending) => break ending,
        }
    };
    let last = body.filter.finish();
    body.out.extend(last);
    body.state = State::Ended;
    let (answering, report) = (&body.answering, body.filter.report());
    if let Ending::Failed { failure, .. } = &ending {
        answering.settle(report, &ending, End::Broken);
        return Err(Failure::from(failure).into_api_error(&answering.model, &[]));
    }
    let bill = answering.settle(report, &ending, End::Complete);
    let (endpoint, kind) = (answering.request.endpoint(), answering.kind);
    let success = answering.success;
    // An error is the engine's own word and passes as it is.
    let cocoon = success.then_some(bill.cocoon.as_ref());
    let estimate = success.then(|| answering.estimate(&report));
    let held = body.filter.take_held(cocoon, estimate.as_ref());
    body.out.extend(held);
    let mut whole = match body.out.len() {
        1 => body.out.pop_front().unwrap_or_default(),
        _ => body.out.make_contiguous().concat().into(),
    };
    if success && kind == BodyKind::Json {
        whole = with_costs(whole, endpoint, kind, bill.costs);
    }
    Ok(Collected::Whole(whole, bill))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn cost_fields_are_ours_whatever_the_worker_wrote() {
        let costs = CostFields { prompt_total_cost: 1, completion_total_cost: 2, total_cost: 3 };
        let json = Bytes::from_static(
            br#"{"usage":{"prompt_tokens":1,"total_cost":999},"choices":[],"cocoon":{"a":1}}"#,
        );
        let body: serde_json::Value =
            serde_json::from_slice(&with_costs(json, Endpoint::Chat, BodyKind::Json, costs)).unwrap();
        assert_eq!(body["usage"]["total_cost"], 3);
        assert_eq!(body["usage"]["prompt_total_cost"], 1);
        assert_eq!(body["cocoon"]["a"], 1);
        let event = Bytes::from_static(b"data: {\"usage\":{\"total_cost\":9}}\n\n");
        let event = with_costs(event, Endpoint::Chat, BodyKind::Sse, costs);
        assert!(
            event.ends_with(b"\"total_cost\":3,\"prompt_total_cost\":1,\"completion_total_cost\":2}}\n\n")
        );
        let done = Bytes::from_static(b"data: [DONE]\n\n");
        assert_eq!(with_costs(done.clone(), Endpoint::Chat, BodyKind::Sse, costs), done);
    }
}
