//! An answer on its way to the caller: filtered, metered, priced, and ended honestly.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use cocoon_ledger::{Dispute, RequestId};
use cocoon_openai::{
    AnswerFilter, AnswerMeter, ApiError, BodyKind, BodyLimits, CostFields, MeterReport, Usage, estimate_usage,
};
use cocoon_session::client::ModelOffers;
use cocoon_session::{FinalInfo, RequestFailure};
use cocoon_wire::codec::ByteStr;
use http_body::{Body, Frame};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::Shared;
use crate::exchange::{Ending, Event, Exchange};
use crate::failure::Failure;
use crate::intake::InFlight;
use crate::price::{Assessment, Order, Received, assess};

/// Nanoton in one TON.
const NANOTON_PER_TON: u64 = 1_000_000_000;

/// A request that has been answered with a head, and all that its price depends on.
pub(crate) struct Answering {
    pub(crate) shared: Arc<Shared>,
    pub(crate) exchange: Exchange,
    pub(crate) order: Order,
    pub(crate) model: String,
    /// As forwarded.
    pub(crate) request_body: Bytes,
    /// Offers at the proxy when the request was sent.
    pub(crate) offers: Arc<Vec<ModelOffers>>,
    pub(crate) kind: BodyKind,
    /// The status is no error.
    pub(crate) success: bool,
    pub(crate) show_usage: bool,
    pub(crate) enable_debug: bool,
    pub(crate) request_guid: Option<String>,
    pub(crate) timing: Timing,
    /// Of the answer's body, so far.
    pub(crate) bytes: u64,
    pub(crate) _in_flight: InFlight,
}

/// Moments of a request here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) started: Instant,
    pub(crate) sent: Instant,
    pub(crate) head: Instant,
}

/// What an answer costs, in the forms that go out.
pub(crate) struct Bill {
    pub(crate) cocoon: Box<RawValue>,
    pub(crate) costs: CostFields,
    pub(crate) tokens: u64,
}

#[derive(Serialize)]
struct Cocoon<'a> {
    request_id: String,
    cost_nanoton: u64,
    /// In TON.
    cost: String,
    tokens: CocoonTokens,
    /// In 1/1000; `null` where the charge does not tell it.
    coefficient: Option<u32>,
    price_per_token_nanoton: u64,
    proxy: CocoonProxy<'a>,
    worker: Option<CocoonWorker>,
    insecure: bool,
    estimated: bool,
    disputed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    dispute: Option<&'static str>,
    latency: Latency,
    #[serde(skip_serializing_if = "Option::is_none")]
    debug: Option<serde_json::Value>,
}

/// Adjusted tokens, as charged.
#[derive(Serialize)]
struct CocoonTokens {
    prompt: u64,
    cached: u64,
    completion: u64,
    reasoning: u64,
    total: u64,
}

#[derive(Serialize)]
struct CocoonProxy<'a> {
    fingerprint: String,
    public_key: String,
    contract: String,
    attestation: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_hash: Option<String>,
}

/// Known where the proxy names its workers.
#[derive(Serialize)]
struct CocoonWorker {
    fingerprint: String,
    /// `null` where nobody's verdict is known yet.
    attestation: Option<&'static str>,
    /// Whose verdict that is: `gateway` or `proxy`.
    verified_by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_hash: Option<String>,
}

/// Durations in milliseconds. Those of proxy and worker are their own words.
#[derive(Serialize)]
struct Latency {
    gateway_ms: f64,
    first_byte_ms: f64,
    proxy_ms: Option<f64>,
    worker_ms: Option<f64>,
}

impl Answering {
    pub(crate) fn filter(&self) -> AnswerFilter {
        let limits = BodyLimits { json_bytes: self.shared.limits.max_answer_bytes, ..BodyLimits::default() };
        AnswerFilter::new(self.kind, limits, self.show_usage)
    }

    /// The answer is over: prices it, and keeps what is to be kept.
    pub(crate) fn settle(&self, filter: &AnswerFilter, ending: &Ending) -> Bill {
        let (info, debug, completed) = match ending {
            Ending::Completed { info, debug } => (*info, debug.as_ref(), true),
            Ending::Failed { info, .. } => (info.unwrap_or_default(), None, false),
        };
        let received = Received {
            request_body: &self.request_body,
            bytes: self.bytes,
            report: filter.report(),
            success: self.success,
            completed,
            readable: self.kind != BodyKind::Opaque,
        };
        let assessment = assess(&self.order, &self.offered(), &claim_of(&info), &received);
        self.record(&assessment);
        if let Some(pass) = self._in_flight.pass() {
            let usage = if self.success { self.estimate(&received.report) } else { Usage::default() };
            pass.answered(!completed || !self.success, &usage);
        }
        self.bill(&assessment, &info, debug)
    }

    /// The usage by which an answer is billed whose engine told none.
    fn estimate(&self, report: &MeterReport) -> Usage {
        estimate_usage(report, &self.request_body).usage
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

    fn record(&self, assessment: &Assessment) {
        let metrics = &self.shared.metrics;
        metrics.tokens.inc_by(assessment.charged.get());
        metrics.cost.inc_by(assessment.costs(&self.order.tariff).total_cost);
        if let Some(reason) = assessment.dispute
            && let Some(terms) = self.exchange.connection().terms()
        {
            let dispute = Dispute {
                request: RequestId(*self.exchange.request()),
                expected: assessment.expected,
                claimed: assessment.claimed,
                reason,
            };
            self.shared.dispute(&dispute, &terms.public_key, &self.model);
        }
    }

    fn bill(&self, assessment: &Assessment, info: &FinalInfo, debug: Option<&(ByteStr, ByteStr)>) -> Bill {
        let connection = self.exchange.connection();
        let costs = assessment.costs(&self.order.tariff);
        let claimed = &assessment.claimed;
        let debug = self.enable_debug.then(|| debug_info(debug, &self.timing));
        if let (Some(debug), Some(guid)) = (&debug, &self.request_guid) {
            self.shared.debug_log.put(guid, debug.to_string());
        }
        let (public_key, contract) = connection.terms().map_or_else(Default::default, |terms| {
            (hex::encode(terms.public_key), terms.contract.to_string())
        });
        let worker = self.exchange.worker();
        let seen = worker.and_then(|worker| self.shared.vetting.memory.seen(worker));
        // Where the proxy names no workers, it is one of a published network, and answers for them itself.
        let insecure_worker = worker.is_some() && seen.as_ref().is_none_or(|seen| seen.insecure);
        let cocoon = Cocoon {
            request_id: hex::encode(self.exchange.request()),
            cost_nanoton: costs.total_cost,
            cost: ton_decimal(costs.total_cost),
            tokens: CocoonTokens {
                prompt: claimed.prompt().get(),
                cached: claimed.cached().get(),
                completion: claimed.completion().get(),
                reasoning: claimed.reasoning().get(),
                total: assessment.charged.get(),
            },
            coefficient: assessment.coefficient.map(|coefficient| coefficient.get()),
            price_per_token_nanoton: self.order.tariff.price_per_token.get(),
            proxy: CocoonProxy {
                fingerprint: hex::encode(connection.peer.certificate_fingerprint),
                public_key,
                contract,
                attestation: connection.attestation.kind,
                image_hash: connection.attestation.image_hash.map(hex::encode),
            },
            worker: worker.map(|worker| CocoonWorker {
                fingerprint: hex::encode(worker),
                attestation: seen.as_ref().map(|seen| seen.kind),
                verified_by: seen.as_ref().map(|seen| seen.by),
                image_hash: seen.as_ref().and_then(|seen| seen.image_hash).map(hex::encode),
            }),
            insecure: connection.attestation.insecure || insecure_worker,
            estimated: assessment.estimated,
            disputed: assessment.dispute.is_some(),
            dispute: assessment.dispute.map(|reason| reason.name()),
            latency: Latency {
                gateway_ms: millis(self.timing.started.elapsed().as_secs_f64()),
                first_byte_ms: millis((self.timing.head - self.timing.started).as_secs_f64()),
                proxy_ms: span(info.proxy_start, info.proxy_end),
                worker_ms: span(info.worker_start, info.worker_end),
            },
            debug,
        };
        // Strings and finite numbers only: this cannot fail; an empty object is harmless.
        let cocoon = to_raw_value(&cocoon).unwrap_or_else(|_| RawValue::NULL.to_owned());
        Bill { cocoon, costs, tokens: assessment.charged.get() }
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
pub(crate) fn with_costs(piece: Bytes, kind: BodyKind, costs: CostFields) -> Bytes {
    const KEY: &[u8] = b"\"usage\"";
    if !piece.windows(KEY.len()).any(|window| window == KEY) {
        return piece;
    }
    let limits = BodyLimits { event_bytes: usize::MAX, json_bytes: usize::MAX };
    let mut meter = AnswerMeter::new(kind, limits, Box::new(move |_| costs));
    let mut parts = meter.push(piece);
    parts.extend(meter.finish().0);
    match parts.len() {
        1 => parts.swap_remove(0),
        _ => parts.concat().into(),
    }
}

/// Worker's and proxy's debug information, and ours, under the published names.
fn debug_info(debug: Option<&(ByteStr, ByteStr)>, timing: &Timing) -> serde_json::Value {
    let parse = |text: &ByteStr| serde_json::from_slice::<serde_json::Value>(text.as_bytes()).ok();
    let ms = |from: Instant, to: Instant| millis((to - from).as_secs_f64());
    serde_json::json!({
        "worker": debug.and_then(|(worker, _)| parse(worker)),
        "proxy": debug.and_then(|(_, proxy)| parse(proxy)),
        "client": {
            "type": "client_stats",
            "sent_after_ms": ms(timing.started, timing.sent),
            "head_after_ms": ms(timing.started, timing.head),
            "end_after_ms": ms(timing.started, Instant::now()),
        },
    })
}

/// Microsecond precision.
fn millis(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e3
}

/// Milliseconds between two moments in Unix seconds; `None` where a peer's figures make no sense.
fn span(start: f64, end: f64) -> Option<f64> {
    let seconds = end - start;
    (start > 0.0 && (0.0..=86_400.0).contains(&seconds)).then(|| millis(seconds))
}

/// Nanoton as TON, exactly, without a unit.
fn ton_decimal(nanoton: u64) -> String {
    let text = format!("{}.{:09}", nanoton / NANOTON_PER_TON, nanoton % NANOTON_PER_TON);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
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
        Self { answering, filter, out: VecDeque::new(), state: State::Flowing }
    }

    fn end(&mut self, ending: &Ending) {
        if matches!(ending, Ending::Completed { .. }) {
            let last = self.filter.finish();
            self.out.extend(last);
        }
        let bill = self.answering.settle(&self.filter, ending);
        let took = self.answering.timing.started.elapsed();
        let report = self.filter.report();
        let failure = match ending {
            Ending::Failed { failure, .. } => Some(failure.clone()),
            Ending::Completed { .. } => self.ended_early(),
        };
        self.answering.shared.metrics.ended(if failure.is_some() { "broken" } else { "complete" }, took);
        self.state = State::Ended;
        let kind = self.answering.kind;
        match failure {
            None if report.saw_error && kind == BodyKind::Sse => {
                // The engine's own error event is the last word: what was held, `[DONE]` above all, is left out.
                self.out.push_back(cocoon_openai::cocoon_comment(&bill.cocoon));
            }
            None => {
                let held = self.filter.take_held(Some(&bill.cocoon), Some(&self.answering.estimate(&report)));
                let readable = matches!(kind, BodyKind::Sse | BodyKind::JsonLines | BodyKind::Json);
                self.out.extend(
                    held.into_iter().map(
                        |piece| {
                            if readable { with_costs(piece, kind, bill.costs) } else { piece }
                        },
                    ),
                );
            }
            Some(failure) if kind == BodyKind::Sse => {
                if report.gave_up {
                    // What passed unread may have stopped within an event.
                    self.out.push_back(Bytes::from_static(b"\n\n"));
                }
                self.out.push_back(cocoon_openai::cocoon_comment(&bill.cocoon));
                let error = Failure::from(&failure).into_api_error(&self.answering.model, &[]);
                self.out.push_back(error.to_sse_event());
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
        let metrics = &self.answering.shared.metrics;
        if self.state == State::Flowing {
            metrics.ended("cancelled", self.answering.timing.started.elapsed());
            if let Some(pass) = self.answering._in_flight.pass() {
                pass.answered(false, &self.answering.estimate(&self.filter.report()));
            }
        }
    }
}

/// Collects an answer that is not streamed. `Err`: why there is none.
pub(crate) async fn collect(mut answering: Answering) -> Result<(Bytes, Option<Bill>), ApiError> {
    let mut filter = answering.filter();
    let mut pieces = Vec::new();
    let ending = loop {
        match answering.exchange.next().await {
            Event::Head(..) => {}
            Event::Data(data) => {
                answering.bytes += data.len() as u64;
                pieces.extend(filter.push(data));
                if answering.bytes > answering.shared.limits.max_answer_bytes as u64 {
                    let limit = answering.shared.limits.max_answer_bytes;
                    answering.shared.metrics.ended("broken", answering.timing.started.elapsed());
                    return Err(ApiError::engine_failed(format!(
                        "The answer is larger than the limit of {limit} bytes; ask for a stream, or for less."
                    )));
                }
            }
            Event::End(ending) => break ending,
        }
    };
    let took = answering.timing.started.elapsed();
    pieces.extend(filter.finish());
    let bill = answering.settle(&filter, &ending);
    if let Ending::Failed { failure, .. } = &ending {
        answering.shared.metrics.ended("broken", took);
        return Err(Failure::from(failure).into_api_error(&answering.model, &[]));
    }
    answering.shared.metrics.ended("complete", took);
    // An error is the engine's own word and passes as it is.
    let cocoon = answering.success.then_some(bill.cocoon.as_ref());
    let estimate = answering.estimate(&filter.report());
    pieces.extend(filter.take_held(cocoon, answering.success.then_some(&estimate)));
    let mut body = match pieces.len() {
        1 => pieces.swap_remove(0),
        _ => pieces.concat().into(),
    };
    if answering.success && answering.kind == BodyKind::Json {
        body = with_costs(body, BodyKind::Json, bill.costs);
    }
    Ok((body, Some(bill)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn money_is_written_as_an_exact_decimal() {
        for (nanoton, text) in
            [(0, "0"), (1, "0.000000001"), (1_500_000_000, "1.5"), (u64::MAX, "18446744073.709551615")]
        {
            assert_eq!(ton_decimal(nanoton), text);
        }
    }

    #[test]
    fn cost_fields_are_ours_whatever_the_worker_wrote() {
        let costs = CostFields { prompt_total_cost: 1, completion_total_cost: 2, total_cost: 3 };
        let json = Bytes::from_static(
            br#"{"usage":{"prompt_tokens":1,"total_cost":999},"choices":[],"cocoon":{"a":1}}"#,
        );
        let body: serde_json::Value =
            serde_json::from_slice(&with_costs(json, BodyKind::Json, costs)).unwrap();
        assert_eq!(body["usage"]["total_cost"], 3);
        assert_eq!(body["usage"]["prompt_total_cost"], 1);
        assert_eq!(body["cocoon"]["a"], 1);
        let event = Bytes::from_static(b"data: {\"usage\":{\"total_cost\":9}}\n\n");
        let event = with_costs(event, BodyKind::Sse, costs);
        assert!(
            event.ends_with(b"\"total_cost\":3,\"prompt_total_cost\":1,\"completion_total_cost\":2}}\n\n")
        );
        let done = Bytes::from_static(b"data: [DONE]\n\n");
        assert_eq!(with_costs(done.clone(), BodyKind::Sse, costs), done);
    }

    #[test]
    fn senseless_timings_of_peers_are_left_out() {
        assert_eq!(span(1.0, 1.25), Some(250.0));
        for (start, end) in [(0.0, 5.0), (2.0, 1.0), (f64::NAN, 1.0), (1.0, f64::INFINITY), (1.0, 1e9)] {
            assert_eq!(span(start, end), None);
        }
    }
}
