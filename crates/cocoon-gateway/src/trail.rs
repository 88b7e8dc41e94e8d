//! One request as operators see it: its id, its line in the log, and its spans. Nothing here holds a word of what was
//! asked or answered.
//!
//! A request is a server span of the gateway's, which lasts until its answer has ended, with a client span below it for each
//! time that it was sent to a proxy. The network gets to know the trace only where that is configured, and never the caller's own headers about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use cocoon_openai::Endpoint;
use cocoon_trace::{GEN_AI_PROVIDER, Span, SpanId, SpanKind, TraceContext, Value};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::Shared;
use crate::answer::Answering;
use crate::charged::{Charged, End};
use crate::failure::Kind;

/// The id of a request, as the caller named it or as we did.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context: where the caller stands in a trace.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Longest id that a caller may give.
const MAX_ID_BYTES: usize = 128;
/// What happened where nobody waits for an answer any more.
const CANCELLED: &str = "cancelled";

/// One request.
#[derive(Debug)]
pub(crate) struct Trail {
    id: HeaderValue,
    endpoint: Endpoint,
    /// In microseconds since 1970.
    started_us: u64,
    /// The gateway's span, and the caller's.
    place: Option<(TraceContext, Option<SpanId>)>,
    /// The status of an answer that is on its way, whose end will be the request's; 0 while there is none.
    flowing: AtomicU16,
}

impl Trail {
    pub(crate) fn begin(shared: &Shared, endpoint: Endpoint, headers: &HeaderMap) -> Arc<Self> {
        let place = shared.tracing.as_ref().map(|tracing| {
            let parent = headers.get(TRACEPARENT).and_then(|value| TraceContext::parse(value.as_bytes()));
            (tracing.enter(parent.as_ref(), rand::random()), parent.map(|parent| parent.span))
        });
        Arc::new(Self {
            id: id_of(headers).unwrap_or_else(new_id),
            endpoint,
            started_us: shared.clock.micros(),
            place,
            flowing: AtomicU16::new(0),
        })
    }

    /// For the answer's head.
    pub(crate) fn id(&self) -> &HeaderValue {
        &self.id
    }

    fn id_text(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }

    /// What the proxy is told of the trace, for the attempt with this id.
    pub(crate) fn told(&self, shared: &Shared, attempt: &[u8; 32]) -> Option<String> {
        let propagates = shared.tracing.as_ref().is_some_and(|tracing| tracing.propagate);
        let (context, _) = self.place.filter(|(context, _)| propagates && context.sampled)?;
        Some(context.at(attempt).to_traceparent())
    }

    /// The head of the answer, or an error, is on its way. `code`: of an error. `flows`: [`Self::ended`] follows.
    pub(crate) fn headed(&self, shared: &Shared, status: u16, code: Option<&str>, flows: bool) {
        let request_id = self.id_text();
        let endpoint = self.endpoint.name();
        if status >= 500 {
            tracing::info!(request_id, endpoint, status, code, "a request failed");
        } else {
            tracing::debug!(request_id, endpoint, status, code, "a request was answered");
        }
        if flows {
            self.flowing.store(status, Ordering::Release);
        } else {
            self.over(shared, Some(status), (status >= 500).then_some("server_error"));
        }
    }

    /// Nobody waits for the answer any more, of which there is no head yet.
    pub(crate) fn left(&self, shared: &Shared) {
        let endpoint = self.endpoint.name();
        tracing::debug!(request_id = self.id_text(), endpoint, "a caller left before its answer began");
        self.over(shared, None, Some(CANCELLED));
    }

    fn over(&self, shared: &Shared, status: Option<u16>, error: Option<&'static str>) {
        let (Some(tracing), Some((context, parent))) = (&shared.tracing, self.place) else { return };
        let mut attributes: Vec<(&'static str, Value)> = vec![
            ("http.request.method", "POST".into()),
            ("http.route", self.endpoint.path().into()),
            ("cocoon.request_id", self.id_text().into()),
        ];
        attributes.extend(status.map(|status| ("http.response.status_code", i64::from(status).into())));
        tracing.record(Span {
            name: format!("POST {}", self.endpoint.path()),
            kind: SpanKind::Server,
            context,
            parent,
            start_us: self.started_us,
            end_us: shared.clock.micros(),
            attributes,
            error,
        });
    }

    /// An attempt begins. Unless an answer comes of it, it is written down when this is dropped.
    pub(crate) fn attempting<'a>(
        &'a self,
        shared: &'a Shared,
        model: &'a str,
        id: [u8; 32],
    ) -> Attempting<'a> {
        Attempting { trail: self, shared, model, id, began: Instant::now(), fate: Some(CANCELLED) }
    }

    fn attempt(
        &self,
        shared: &Shared,
        model: &str,
        attempt: &[u8; 32],
        began: Instant,
        more: Vec<(&'static str, Value)>,
        error: Option<&'static str>,
    ) {
        let (Some(tracing), Some((context, _))) = (&shared.tracing, self.place) else { return };
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let end_us = shared.clock.micros();
        let operation = self.endpoint.operation();
        // What no worker offers may be any text of the caller's.
        let model = if shared.pool.knows(model) { model } else { "other" };
        let mut attributes = vec![
            ("gen_ai.operation.name", operation.into()),
            ("gen_ai.provider.name", GEN_AI_PROVIDER.1.into()),
            ("gen_ai.request.model", model.into()),
        ];
        attributes.extend(more);
        tracing.record(Span {
            name: format!("{operation} {model}"),
            kind: SpanKind::Client,
            context: context.at(attempt),
            parent: Some(context.span),
            start_us: end_us.saturating_sub(took),
            end_us,
            attributes,
            error,
        });
    }

    /// An answer has ended.
    pub(crate) fn ended(&self, answering: &Answering, charged: &Charged<'_>) {
        let (request, end) = (answering.exchange.request(), charged.end);
        let worker = answering.exchange.worker().map(hex::encode);
        let proxy = answering.exchange.connection().address.as_str();
        let (request_id, endpoint, model) = (self.id_text(), self.endpoint.name(), charged.model);
        let cocoon_request_id = hex::encode(request);
        if end == End::Broken {
            tracing::info!(
                request_id,
                cocoon_request_id,
                endpoint,
                model,
                proxy,
                worker,
                "an answer broke off"
            );
        }
        tracing::debug!(
            request_id,
            cocoon_request_id,
            endpoint,
            model,
            end = end.name(),
            input_tokens = charged.usage.prompt_tokens,
            output_tokens = charged.usage.completion_tokens,
            cost_nanoton = charged.costs.total_cost,
            took_ms = charged.took.as_millis(),
            proxy,
            worker,
            "an answer ended"
        );
        let shared = &answering.shared;
        if !answering.told {
            let mut more = vec![
                ("gen_ai.usage.input_tokens", charged.usage.prompt_tokens.into()),
                ("gen_ai.usage.output_tokens", charged.usage.completion_tokens.into()),
                ("cocoon.request", cocoon_request_id.as_str().into()),
                ("cocoon.cost_nanoton", charged.costs.total_cost.into()),
                ("server.address", proxy.into()),
            ];
            more.extend(worker.map(|worker| ("cocoon.worker", worker.as_str().into())));
            self.attempt(shared, model, request, answering.timing.sent, more, end.error());
        }
        // Not where its head is still to come, or its caller left before that.
        if let status @ 1.. = self.flowing.swap(0, Ordering::AcqRel) {
            self.over(shared, Some(status), end.error());
        }
    }
}

/// An attempt whose answer has not begun.
pub(crate) struct Attempting<'a> {
    trail: &'a Trail,
    shared: &'a Shared,
    model: &'a str,
    id: [u8; 32],
    began: Instant,
    /// What becomes of it, as far as it is known: nothing, where it is let go of.
    fate: Option<&'static str>,
}

impl Attempting<'_> {
    /// There is an answer, whose end will be the attempt's.
    pub(crate) fn answered(mut self) {
        self.fate = None;
    }

    /// There is none to pass on.
    pub(crate) fn missed(mut self, kind: Kind) {
        self.fate = Some(kind.name());
    }
}

impl Drop for Attempting<'_> {
    fn drop(&mut self) {
        if let Some(fate) = self.fate {
            self.trail.attempt(self.shared, self.model, &self.id, self.began, Vec::new(), Some(fate));
        }
    }
}

/// The caller's name for a request, where it is one that can be written into a log.
fn id_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(REQUEST_ID)?;
    let bytes = id.as_bytes();
    let plain = bytes.iter().all(u8::is_ascii_graphic);
    (plain && (1..=MAX_ID_BYTES).contains(&bytes.len())).then(|| id.clone())
}

fn new_id() -> HeaderValue {
    let id = format!("req_{}", hex::encode(rand::random::<[u8; 16]>()));
    // Hexadecimal digits are a header's value; an empty one is harmless.
    HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_id_stands_where_it_can_be_written() {
        let of = |id: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(id).unwrap());
            id_of(&headers).map(|id| id.as_bytes().to_vec())
        };
        assert_eq!(of(b"mine-7"), Some(b"mine-7".to_vec()));
        assert_eq!(of(&[b'x'; MAX_ID_BYTES]).map(|id| id.len()), Some(MAX_ID_BYTES));
        for bad in [&b""[..], b"two words", b"\xc3\xa4", &[b'x'; MAX_ID_BYTES + 1]] {
            assert_eq!(of(bad), None);
        }
        assert_ne!(new_id(), new_id());
        assert!(new_id().to_str().unwrap().starts_with("req_"));
    }
}
