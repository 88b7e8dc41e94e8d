//! Requests under way: their bodies coming in, their answers going out.

use std::time::Duration;

use bytes::Bytes;
use cocoon_wire::codec::{ByteStr, from_boxed, to_boxed};
use cocoon_wire::tl::{self, ext, http, proxy};

use super::{WorkerEvent, WorkerSession};
use crate::answer::{self, error_body, head_bytes, seconds_header};
use crate::body::{Incoming, compact};
use crate::options::Options;
use crate::outbox::Chunk;
use crate::{ErrorCode, INITIAL_CREDIT_BYTES, MAX_REQUEST_TIME, RequestFailure, Time, Violation};

/// Body bytes that wait for one request, over which the engine is to be held back.
pub const MAX_QUEUED_BYTES: usize = INITIAL_CREDIT_BYTES;
/// Answers under way on one connection. A proxy keeps to the worker's own, lower limit; one that does not is closed.
pub const MAX_REQUESTS: usize = 16_384;

/// A request to work on.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// The proxy's id for it.
    pub id: [u8; 32],
    /// The HTTP request of the caller.
    pub request: http::Request,
    /// Bytes of the body that follow those in the request, as [`WorkerEvent::Body`]; `None`: it is whole.
    pub body_bytes: Option<u64>,
    /// The price that the proxy counts with, in 1/1000.
    pub coefficient: i64,
    /// Time that is left.
    pub timeout: Duration,
    /// Whether timings are wanted.
    pub enable_debug: bool,
    /// The caller's W3C `traceparent`, by the words of a proxy of ours: visible ASCII, of bounded length.
    pub trace: Option<String>,
}

#[derive(Debug)]
pub(super) struct Running {
    started: Time,
    deadline: Time,
    enable_debug: bool,
    has_head: bool,
    cancelled: bool,
    full: bool,
    body: Option<Incoming>,
}

#[derive(Debug)]
pub(super) enum End {
    Complete(proxy::QueryFinalInfo),
    Failed(RequestFailure, proxy::QueryFinalInfo),
}

impl WorkerSession {
    pub(super) fn on_request(
        &mut self,
        message: proxy::RunQueryEx,
        options: Options,
        now: Time,
    ) -> Result<(), Violation> {
        let proxy::RunQueryEx { request_id: id, query, coefficient, timeout, enable_debug, .. } = message;
        let enable_debug = enable_debug.unwrap_or(false);
        if self.requests.contains_key(&id) || self.outbox.contains(id) {
            return Err(Violation::Unexpected("request with an id that is in use"));
        }
        if self.outbox.open_answers() >= MAX_REQUESTS {
            return Err(Violation::Unexpected("request over every limit"));
        }
        let timeout = answer::request_time(timeout).unwrap_or(MAX_REQUEST_TIME);
        let deadline = now.plus(timeout);
        self.outbox.open(id);
        // None at all is a whole one, too.
        let body_bytes = options.body_bytes.filter(|bytes| *bytes > 0);
        let running = Running {
            started: now,
            deadline,
            enable_debug,
            has_head: false,
            cancelled: false,
            full: false,
            body: body_bytes.map(Incoming::new),
        };
        self.requests.insert(id, running);
        self.deadlines.insert((deadline, id));
        // The proxy passes queries on unread: a bad one is the caller's fault, not that of this connection.
        let Ok(request) = from_boxed::<http::Request>(query) else {
            let failure = RequestFailure::new(ErrorCode::PROTOCOL, "the query is no http.request");
            self.fail(id, failure, tl::TokensUsed::default(), now);
            return Ok(());
        };
        if !answer::fits(&request.headers, 0) {
            let failure = RequestFailure::new(ErrorCode::PROTOCOL, "the request has too many headers");
            self.fail(id, failure, tl::TokensUsed::default(), now);
            return Ok(());
        }
        let whole = body_bytes.unwrap_or(0).saturating_add(request.payload.len() as u64);
        if whole > self.settings.max_body_bytes {
            let failure = RequestFailure::new(ErrorCode::PROTOCOL, "the body is too large for this worker");
            self.fail(id, failure, tl::TokensUsed::default(), now);
            return Ok(());
        }
        let work = Work { id, request, body_bytes, coefficient, timeout, enable_debug, trace: options.trace };
        self.events.push_back(WorkerEvent::Work(Box::new(work)));
        Ok(())
    }

    pub(super) fn on_body_part(&mut self, part: ext::BodyPart) -> Result<(), Violation> {
        let ext::BodyPart { request_id: request, data, last } = part;
        // What came for a request that is over was under way.
        let Some(running) = self.requests.get_mut(&request) else { return Ok(()) };
        let Some(body) = &mut running.body else {
            return Err(Violation::Unexpected("part of a body that was whole"));
        };
        body.part(data.len(), last)?;
        if !running.cancelled {
            self.events.push_back(WorkerEvent::Body { request, data: compact(data), last });
        }
        Ok(())
    }

    /// Notes that so many bytes of a request's body were passed on, so that more may come.
    pub fn body_taken(&mut self, request: [u8; 32], bytes: usize) {
        let Some(running) = self.requests.get_mut(&request) else { return };
        if let Some(bytes) = running.body.as_mut().and_then(|body| body.taken(bytes)) {
            self.link.packet(&ext::BodyCredit { request_id: request, bytes });
        }
    }

    pub(super) fn cancel(&mut self, request: [u8; 32], failure: &RequestFailure) {
        // Also where the engine is done: its bytes may wait for credit that never comes, and the end with them.
        self.outbox.discard_data(request);
        if let Some(running) = self.requests.get_mut(&request)
            && !std::mem::replace(&mut running.cancelled, true)
        {
            self.events.push_back(WorkerEvent::Cancelled { request, failure: failure.clone() });
        }
    }

    /// Begins the answer of a request. Nothing happens for a request that is not under way; so below.
    pub fn head(&mut self, request: [u8; 32], mut head: http::Response, now: Time) {
        let Some(running) = self.requests.get_mut(&request) else { return };
        running.has_head = true;
        head.headers.push(seconds_header("X-Cocoon-Worker-Start", running.started));
        head.headers.push(seconds_header("X-Cocoon-Worker-End", now));
        let bytes = head_bytes(&head.headers);
        self.outbox.head(request, head, bytes);
    }

    /// Queues body bytes, and says how many more are welcome now: at 0, wait for [`WorkerEvent::Room`].
    pub fn data(&mut self, request: [u8; 32], data: Bytes) -> usize {
        let Some(running) = self.requests.get_mut(&request) else { return MAX_QUEUED_BYTES };
        if running.cancelled {
            return MAX_QUEUED_BYTES;
        }
        self.outbox.data(request, data);
        let room = MAX_QUEUED_BYTES.saturating_sub(self.outbox.queued(request));
        running.full = room == 0;
        room
    }

    /// Ends a request with a complete answer.
    pub fn complete_request(&mut self, request: [u8; 32], tokens: tl::TokensUsed, now: Time) {
        if let Some(info) = self.forget(&request, tokens, now) {
            self.outbox.end(request, End::Complete(info.0));
        }
    }

    /// Ends a request without a complete answer; `tokens` is what was used all the same.
    pub fn fail(&mut self, request: [u8; 32], failure: RequestFailure, tokens: tl::TokensUsed, now: Time) {
        let Some((info, running)) = self.forget(&request, tokens, now) else { return };
        if !running.has_head && !self.extensions() {
            let (head, body) = error_body(&failure);
            let bytes = head_bytes(&head.headers);
            self.outbox.head(request, head, bytes);
            self.outbox.data(request, body);
            self.outbox.end(request, End::Complete(info));
            return;
        }
        self.outbox.end(request, End::Failed(failure, info));
    }

    fn forget(
        &mut self,
        request: &[u8; 32],
        tokens_used: tl::TokensUsed,
        now: Time,
    ) -> Option<(proxy::QueryFinalInfo, Running)> {
        let running = self.requests.remove(request)?;
        self.deadlines.remove(&(running.deadline, *request));
        let (started, ended) = (running.started.unix_seconds(), now.unix_seconds());
        let worker_debug = running.enable_debug.then(|| {
            let debug = serde_json::json!({"type": "worker_stats", "start_time": started, "answer_receive_end_at": ended});
            ByteStr::from(debug.to_string())
        });
        let with_timings = self.terms().is_some_and(|terms| terms.proto_version >= 2);
        let timings = with_timings
            .then_some(proxy::WorkerTimings { worker_start_time: started, worker_end_time: ended });
        Some((proxy::QueryFinalInfo { tokens_used, worker_debug, timings }, running))
    }

    pub(super) fn send(&mut self, chunk: Chunk<[u8; 32], http::Response, End>) {
        let Chunk { key: request_id, head, data, end } = chunk;
        let (final_info, failed) = match end {
            None => (None, None),
            Some(End::Complete(info)) => (Some(info), None),
            Some(End::Failed(failure, info)) => (None, Some((failure, info))),
        };
        if let Some(running) = self.requests.get_mut(&request_id)
            && running.full
            && self.outbox.queued(request_id) < MAX_QUEUED_BYTES / 2
        {
            running.full = false;
            self.events.push_back(WorkerEvent::Room { request: request_id });
        }
        if let Some(mut head) = head {
            head.headers.push(answer::framing_header(final_info.is_some(), data.len()));
            head.payload = data;
            self.link.packet(&proxy::QueryAnswerEx { request_id, answer: to_boxed(&head), final_info });
        } else if !data.is_empty() || final_info.is_some() {
            self.link.packet(&proxy::QueryAnswerPartEx { request_id, answer: data, final_info });
        }
        if let Some((failure, info)) = failed {
            self.link.packet(&proxy::QueryAnswerErrorEx {
                request_id,
                error_code: failure.code.0,
                error: failure.message.into(),
                final_info: Some(info),
            });
        }
    }
}
