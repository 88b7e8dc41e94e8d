//! A request from the client's query to the worker's last word.

use bytes::Bytes;
use cocoon_ledger::{ClaimBound, Coefficient, RequestId, ReserveError, clamp_claim, reservation};
use cocoon_market::{Candidate, NoWorker, choose};
use cocoon_wire::codec::{ByteStr, Message as _, from_boxed, to_boxed};
use cocoon_wire::frame::MAX_FRAME_PAYLOAD;
use cocoon_wire::tl::{self, ClientToProxy, WorkerToProxy, client, ext, http, proxy};

use super::{
    ConnId, DRAIN_TIME, End, MAX_ATTEMPTS, MAX_QUERY_BYTES_HELD, MAX_REQUESTS, MAX_REQUESTS_PER_CLIENT,
    Proxy, ProxyEvent, RequestEnd, RequestKey,
};
use crate::answer::{
    TIME_SHARE, error_body, framing_header, request_time, sanitize, seconds_header, status_body,
};
use crate::outbox::Chunk;
use crate::terms::words;
use crate::{
    ErrorCode, INITIAL_CREDIT_BYTES, MAX_HELD_BYTES, MAX_HELD_BYTES_PER_CLIENT, RequestFailure, Time,
    Violation,
};

/// Longest debug text of a worker that is passed on, in bytes.
const MAX_DEBUG_BYTES: usize = 16 * 1024;

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The worker was asked; no byte came yet.
    Asked,
    /// The answer is on its way to the client.
    Answering,
    /// The client's side is over; the worker's last word is waited for, because it may have earned something.
    Draining,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) client: ConnId,
    pub(super) client_request: [u8; 32],
    pub(super) worker: ConnId,
    /// Our id for the current attempt, by which the worker knows it.
    pub(super) attempt: [u8; 32],
    /// Our id for the whole request, by which the ledger knows it.
    pub(super) id: [u8; 32],
    model: String,
    query: Bytes,
    max_coefficient: u32,
    max_tokens: u64,
    /// Whether `max_tokens` stands in the body, as our gateways see to.
    limit_binds: bool,
    enable_debug: bool,
    pub(super) phase: Phase,
    started: Time,
    asked: Time,
    deadline: Time,
    tried: Vec<ConnId>,
    coefficient: Coefficient,
    answer_bytes: u64,
    /// Bytes that left for the client and for which the worker gets credit.
    grant: usize,
    failure: Option<RequestFailure>,
}

/// What the worker says at the end of its answer.
struct LastWord {
    tokens: tl::TokensUsed,
    worker_start: f64,
    worker_end: f64,
    debug: Option<ByteStr>,
}

impl LastWord {
    fn none() -> Self {
        Self { tokens: tl::TokensUsed::default(), worker_start: 0.0, worker_end: 0.0, debug: None }
    }

    fn old(tokens: tl::TokensUsed) -> Self {
        Self { tokens: natural(tokens), ..Self::none() }
    }
}

impl From<proxy::QueryFinalInfo> for LastWord {
    fn from(info: proxy::QueryFinalInfo) -> Self {
        let (worker_start, worker_end) =
            info.timings.map_or((0.0, 0.0), |timings| (timings.worker_start_time, timings.worker_end_time));
        let moment = |seconds: f64| if seconds.is_finite() { seconds.max(0.0) } else { 0.0 };
        Self {
            tokens: natural(info.tokens_used),
            worker_start: moment(worker_start),
            worker_end: moment(worker_end),
            debug: info.worker_debug,
        }
    }
}

/// What clients are shown of a claim is never negative, as what they are charged never is.
fn natural(tokens: tl::TokensUsed) -> tl::TokensUsed {
    tl::TokensUsed {
        prompt_tokens_used: tokens.prompt_tokens_used.max(0),
        cached_tokens_used: tokens.cached_tokens_used.max(0),
        completion_tokens_used: tokens.completion_tokens_used.max(0),
        reasoning_tokens_used: tokens.reasoning_tokens_used.max(0),
        total_tokens_used: tokens.total_tokens_used.max(0),
    }
}

impl Proxy {
    pub(super) fn on_client_packet(&mut self, conn: ConnId, data: Bytes, now: Time) -> Result<(), Violation> {
        let packet = ClientToProxy::decode_boxed(data).map_err(Violation::message("packet from client"))?;
        let Some(client) = self.client_mut(conn) else { return Ok(()) };
        if client.stage != super::ClientStage::Ready {
            return Err(Violation::Unexpected("packet before the handshake is done"));
        }
        match packet {
            ClientToProxy::RunQueryEx(query) => self.on_query(conn, query, now),
            ClientToProxy::RunQuery(query) => {
                let query = client::RunQueryEx {
                    model_name: query.model_name,
                    query: query.query,
                    max_coefficient: query.max_coefficient,
                    max_tokens: query.max_tokens,
                    timeout: query.timeout,
                    request_id: query.request_id,
                    min_config_version: query.min_config_version,
                    enable_debug: None,
                };
                self.on_query(conn, query, now);
            }
            ClientToProxy::Cancel(cancel) => {
                client.outbox.close(cancel.request_id);
                if let Some(key) = client.requests.remove(&cancel.request_id) {
                    self.abandon(
                        key,
                        RequestFailure::new(ErrorCode::CANCELLED, "cancelled by the caller"),
                        now,
                    );
                }
            }
            ClientToProxy::Credit(credit) => {
                let bytes =
                    usize::try_from(credit.bytes).map_err(|_| Violation::Unexpected("negative credit"))?;
                client.outbox.grant(credit.request_id, bytes);
            }
        }
        Ok(())
    }

    fn on_query(&mut self, conn: ConnId, query: client::RunQueryEx, now: Time) {
        self.stats.requests += 1;
        if let Err((status, kind, message)) = self.try_query(conn, &query, now) {
            self.stats.rejected += 1;
            self.reject(conn, query.request_id, status, kind, &message, now);
        }
    }

    fn try_query(
        &mut self,
        conn: ConnId,
        query: &client::RunQueryEx,
        now: Time,
    ) -> Result<(), (i32, &'static str, String)> {
        if self.draining {
            return Err((503, "service_unavailable", "the proxy is shutting down".into()));
        }
        if self.log_behind {
            return Err((503, "service_unavailable", "the proxy's disk is behind; try again".into()));
        }
        let bad = |what: &str| Err((400, "invalid_request_error", what.to_owned()));
        let Some(client) = self.client_mut(conn) else { return Ok(()) };
        if client.requests.contains_key(&query.request_id) || client.outbox.contains(query.request_id) {
            return bad("request id is in use");
        }
        let (account, limit_binds) = (client.account, client.extensions);
        // An answer that nobody reads counts until it is out.
        if client.outbox.open_answers() >= MAX_REQUESTS_PER_CLIENT
            || self.requests.len() >= MAX_REQUESTS
            || self.query_bytes + query.query.len() > MAX_QUERY_BYTES_HELD
        {
            return Err((429, "rate_limit_exceeded", "too many requests are under way".into()));
        }
        let Some(timeout) = request_time(query.timeout) else {
            return bad("timeout must be a positive number");
        };
        let (Ok(max_tokens), Ok(max_coefficient)) =
            (u64::try_from(query.max_tokens), Coefficient::from_wire(query.max_coefficient.into()))
        else {
            return bad("max_tokens must not be negative, and max_coefficient be 0 to 999999999");
        };
        if query.min_config_version.cast_unsigned() > self.settings.root.version {
            return Err((503, "service_unavailable", "active config version is too low".into()));
        }
        let model = query.model_name.to_lossy().into_owned();
        let worker =
            self.choose_worker(&model, max_coefficient.get(), &[]).map_err(|why| no_worker(why, &model))?;
        let query_bytes = query.query.len() as u64;
        let Some(amount) = reservation(max_tokens, query_bytes, max_coefficient, &self.settings.tariff)
        else {
            return bad("max_tokens is absurdly high");
        };
        let id = self.random_id();
        self.ledger.reserve(RequestId(id), account, amount, self.settings.tariff.rates()).map_err(|why| {
            match why {
                ReserveError::TooManyReservations => (429, "rate_limit_exceeded", why.to_string()),
                ReserveError::InsufficientFunds { .. } | ReserveError::UnknownClient(_) => {
                    (402, "insufficient_balance", why.to_string())
                }
                ReserveError::DuplicateRequest(_) | ReserveError::Overflow(_) => {
                    (400, "invalid_request_error", why.to_string())
                }
            }
        })?;
        self.counter += 1;
        let key = self.counter;
        let deadline = now.plus(timeout);
        let request = Request {
            client: conn,
            client_request: query.request_id,
            worker,
            attempt: id,
            id,
            model,
            query: query.query.clone(),
            max_coefficient: max_coefficient.get(),
            max_tokens,
            limit_binds,
            enable_debug: query.enable_debug.unwrap_or(false),
            phase: Phase::Asked,
            started: now,
            asked: now,
            deadline,
            tried: Vec::new(),
            coefficient: Coefficient::ONE,
            answer_bytes: 0,
            grant: 0,
            failure: None,
        };
        self.query_bytes += request.query.len();
        self.requests.insert(key, request);
        self.deadlines.insert((deadline, key));
        if let Some(client) = self.client_mut(conn) {
            client.requests.insert(query.request_id, key);
            client.outbox.open(query.request_id);
        }
        self.ask(key, worker, now);
        Ok(())
    }

    fn choose_worker(&self, model: &str, max_coefficient: u32, tried: &[ConnId]) -> Result<ConnId, NoWorker> {
        let workers = self.models.get(model).into_iter().flatten();
        let candidates = workers.filter_map(|&conn| {
            let worker = self.worker(conn)?;
            // One more large query on top of these could make it look as if it did not read.
            let full = self.conns.get(&conn)?.link.unsent() > MAX_FRAME_PAYLOAD;
            Some(Candidate {
                key: conn,
                coefficient: worker.coefficient,
                in_flight: u32::try_from(worker.work.len()).unwrap_or(u32::MAX),
                limit: if full { 0 } else { worker.limit },
                ready: !worker.paused && !worker.suspect,
                tried: tried.contains(&conn),
                observed: worker.observed,
            })
        });
        choose(candidates, max_coefficient)
    }

    /// Gives a request to a worker.
    fn ask(&mut self, key: RequestKey, conn: ConnId, now: Time) {
        let Some((coefficient, account, contract)) =
            self.worker(conn).map(|worker| (worker.coefficient, worker.account, worker.contract))
        else {
            return;
        };
        let signed_payment = self.orders.worker(&self.settings, &self.ledger, account, contract);
        let Some(request) = self.requests.get_mut(&key) else { return };
        let left = request.deadline.since(now);
        request.worker = conn;
        request.asked = now;
        request.tried.push(conn);
        request.coefficient = Coefficient::new(coefficient).unwrap_or(Coefficient::MAX);
        let message = proxy::RunQueryEx {
            query: request.query.clone(),
            signed_payment,
            coefficient: i64::from(coefficient),
            timeout: left.as_secs_f64() * TIME_SHARE,
            request_id: request.attempt,
            enable_debug: Some(request.enable_debug),
        };
        let attempt = request.attempt;
        if let Some(worker) = self.worker_mut(conn) {
            if worker.work.is_empty() {
                worker.busy_since = now;
            }
            worker.work.insert(attempt, key);
        }
        if let Some(link) = self.link_mut(conn) {
            link.packet(&message);
        }
    }

    /// Takes a request away from its worker and gives it to another. `false` where no other is left.
    fn retry(&mut self, key: RequestKey, now: Time) -> bool {
        let attempt = self.random_id();
        let Some(request) = self.requests.get(&key) else { return true };
        if request.tried.len() >= MAX_ATTEMPTS || now >= request.deadline {
            return false;
        }
        let Ok(conn) = self.choose_worker(&request.model, request.max_coefficient, &request.tried) else {
            return false;
        };
        self.stats.retries += 1;
        self.take_from_worker(key, Some(true));
        if let Some(request) = self.requests.get_mut(&key) {
            request.attempt = attempt;
        }
        self.ask(key, conn, now);
        true
    }

    /// The worker no longer has this request; late words of its are ignored. `failed` is `None` where the end says nothing
    /// about the worker.
    fn take_from_worker(&mut self, key: RequestKey, failed: Option<bool>) {
        let Some(request) = self.requests.get(&key) else { return };
        let (conn, attempt) = (request.worker, request.attempt);
        if let Some(worker) = self.worker_mut(conn) {
            worker.work.remove(&attempt);
            if let Some(failed) = failed {
                worker.observed.ended(failed);
            }
        }
    }

    /// Tells a worker of ours to stop.
    fn stop_worker(&mut self, key: RequestKey) {
        let Some(request) = self.requests.get(&key) else { return };
        let (conn, request_id) = (request.worker, request.attempt);
        if self.worker(conn).is_some_and(|worker| worker.extensions)
            && let Some(link) = self.link_mut(conn)
        {
            link.packet(&ext::Cancel { request_id });
        }
    }

    /// A worker stays silent: what it has not begun goes to others.
    pub(super) fn retry_unanswered(&mut self, conn: ConnId, now: Time) {
        let Some(worker) = self.worker(conn) else { return };
        let keys: Vec<_> = worker.work.values().copied().collect();
        for key in keys {
            if self.requests.get(&key).is_some_and(|request| request.phase == Phase::Asked) {
                let (old_conn, old_attempt) = (conn, self.requests.get(&key).map(|request| request.attempt));
                if self.retry(key, now)
                    && self.worker(old_conn).is_some_and(|worker| worker.extensions)
                    && let Some(request_id) = old_attempt
                    && let Some(link) = self.link_mut(old_conn)
                {
                    link.packet(&ext::Cancel { request_id });
                }
            }
        }
    }

    /// A worker's connection is gone.
    pub(super) fn worker_lost(&mut self, key: RequestKey, now: Time) {
        let Some(request) = self.requests.get(&key) else { return };
        if request.phase == Phase::Asked && self.retry(key, now) {
            return;
        }
        let failure = RequestFailure::new(ErrorCode::NOT_READY, "the worker went away");
        self.finish(key, Some(failure), LastWord::none(), now);
    }

    pub(super) fn on_deadline(&mut self, key: RequestKey, now: Time) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        if request.phase == Phase::Draining {
            self.finish(key, None, LastWord::none(), now);
            return;
        }
        let silent = request.phase == Phase::Asked && now.since(request.asked) >= super::BLAME_AFTER;
        let conn = request.worker;
        if silent && let Some(worker) = self.worker_mut(conn) {
            worker.observed.ended(true);
        }
        let failure = RequestFailure::new(ErrorCode::TIMEOUT, "the worker did not answer in time");
        self.end_for_client(key, Some(failure.clone()), &LastWord::none(), now);
        self.abandon(key, failure, now);
    }

    /// The client's side of a request is over: stop the work, and wait for the worker's last word.
    pub(super) fn abandon(&mut self, key: RequestKey, failure: RequestFailure, now: Time) {
        self.stop_worker(key);
        let Some(request) = self.requests.get_mut(&key) else { return };
        request.phase = Phase::Draining;
        request.failure = Some(failure);
        self.deadlines.remove(&(request.deadline, key));
        request.deadline = now.plus(DRAIN_TIME);
        self.deadlines.insert((request.deadline, key));
        let (conn, client_request) = (request.client, request.client_request);
        if let Some(client) = self.client_mut(conn) {
            client.requests.remove(&client_request);
        }
    }

    pub(super) fn on_worker_packet(&mut self, conn: ConnId, data: Bytes, now: Time) -> Result<(), Violation> {
        let packet = WorkerToProxy::decode_boxed(data).map_err(Violation::message("packet from worker"))?;
        let Some(worker) = self.worker_mut(conn) else { return Ok(()) };
        if worker.stage != super::WorkerStage::Ready {
            return Err(Violation::Unexpected("packet before the handshake is done"));
        }
        match packet {
            WorkerToProxy::QueryAnswerEx(m) => {
                self.on_head(conn, &m.request_id, m.answer, m.final_info.map(LastWord::from), now)
            }
            WorkerToProxy::QueryAnswerPartEx(m) => {
                self.on_part(conn, &m.request_id, m.answer, m.final_info.map(LastWord::from), now)
            }
            WorkerToProxy::QueryAnswerErrorEx(m) => {
                let word = m.final_info.map_or_else(LastWord::none, LastWord::from);
                self.on_error(conn, &m.request_id, m.error_code, &m.error, word, now);
                Ok(())
            }
            WorkerToProxy::QueryAnswer(m) => {
                let end = m.is_completed.then(|| LastWord::old(m.tokens_used));
                self.on_head(conn, &m.request_id, m.answer, end, now)
            }
            WorkerToProxy::QueryAnswerPart(m) => {
                let end = m.is_completed.then(|| LastWord::old(m.tokens_used));
                self.on_part(conn, &m.request_id, m.answer, end, now)
            }
            WorkerToProxy::QueryAnswerError(m) => {
                self.on_error(conn, &m.request_id, m.error_code, &m.error, LastWord::old(m.tokens_used), now);
                Ok(())
            }
            WorkerToProxy::QueryAnswerPartError(m) => {
                self.on_error(conn, &m.request_id, m.error_code, &m.error, LastWord::old(m.tokens_used), now);
                Ok(())
            }
            WorkerToProxy::EnabledDisabled(m) => {
                worker.paused = m.disabled != 0;
                Ok(())
            }
            WorkerToProxy::NewCoefficient(m) => {
                let coefficient = Coefficient::from_wire(m.new_coefficient.into());
                worker.coefficient =
                    coefficient.map_err(|_| Violation::Unexpected("coefficient out of range"))?.get();
                Ok(())
            }
        }
    }

    /// The request for which this worker answers, if it has it.
    fn request_of(&self, conn: ConnId, attempt: &[u8; 32]) -> Option<RequestKey> {
        self.worker(conn)?.work.get(attempt).copied()
    }

    fn on_head(
        &mut self,
        conn: ConnId,
        attempt: &[u8; 32],
        answer: Bytes,
        end: Option<LastWord>,
        now: Time,
    ) -> Result<(), Violation> {
        let Some(key) = self.request_of(conn, attempt) else { return Ok(()) };
        let mut head: http::Response = from_boxed(answer).map_err(Violation::message("http.response"))?;
        let data = std::mem::take(&mut head.payload);
        // Our workers fail by an error message, so this mark in an answer of theirs is forged; published ones know no other
        // way than a complete answer.
        if self.worker(conn).is_some_and(|worker| worker.extensions) {
            head.headers.retain(|header| !header.name.as_bytes().eq_ignore_ascii_case(b"x-cocoon-error"));
        }
        let Some(request) = self.requests.get_mut(&key) else { return Ok(()) };
        match request.phase {
            Phase::Answering => return Err(Violation::Unexpected("second head of an answer")),
            Phase::Draining => {}
            Phase::Asked => {
                // Before the phase changes: this worker's failure to speak HTTP is one before the first byte.
                let Some(mut head) = sanitize(head) else {
                    return Err(Violation::Unexpected("answer that is no HTTP"));
                };
                request.phase = Phase::Answering;
                let (client_conn, asked, started) = (request.client, request.asked, request.started);
                let client_request = request.client_request;
                if let Some(worker) = self.worker_mut(conn) {
                    worker.observed.first_byte(now.since(asked));
                }
                head.headers.push(seconds_header("X-Cocoon-Proxy-Start", started));
                head.headers.push(seconds_header("X-Cocoon-Proxy-End", now));
                if let Some(client) = self.client_mut(client_conn) {
                    client.outbox.head(client_request, head);
                }
            }
        }
        self.on_body(key, data, end, now);
        Ok(())
    }

    fn on_part(
        &mut self,
        conn: ConnId,
        attempt: &[u8; 32],
        data: Bytes,
        end: Option<LastWord>,
        now: Time,
    ) -> Result<(), Violation> {
        let Some(key) = self.request_of(conn, attempt) else { return Ok(()) };
        if self.requests.get(&key).is_some_and(|request| request.phase == Phase::Asked) {
            return Err(Violation::Unexpected("part before the head"));
        }
        self.on_body(key, data, end, now);
        Ok(())
    }

    fn on_body(&mut self, key: RequestKey, data: Bytes, end: Option<LastWord>, now: Time) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        request.answer_bytes += data.len() as u64;
        let (conn, draining) = (request.client, request.phase == Phase::Draining);
        let client_request = request.client_request;
        if !draining {
            self.stats.answer_bytes += data.len() as u64;
            let Some(client) = self.client_mut(conn) else { return };
            client.outbox.data(client_request, data);
            let overflow = client.outbox.queued(client_request) > MAX_HELD_BYTES
                || client.outbox.total_queued() > MAX_HELD_BYTES_PER_CLIENT;
            self.woken.insert(conn);
            if overflow {
                let failure = RequestFailure::new(ErrorCode::ERROR, "the client reads too slowly");
                if let Some(client) = self.client_mut(conn) {
                    client.outbox.discard_data(client_request);
                }
                self.end_for_client(key, Some(failure.clone()), &LastWord::none(), now);
                self.abandon(key, failure, now);
            }
        }
        if let Some(word) = end {
            self.finish(key, None, word, now);
        }
    }

    fn on_error(
        &mut self,
        conn: ConnId,
        attempt: &[u8; 32],
        code: i32,
        message: &ByteStr,
        word: LastWord,
        now: Time,
    ) {
        let Some(key) = self.request_of(conn, attempt) else { return };
        let Some(request) = self.requests.get(&key) else { return };
        let code = ErrorCode(code);
        // What the request itself is to blame for would fail elsewhere, too; what was worked for is paid here.
        let elsewhere = request.phase == Phase::Asked
            && word.tokens.total_tokens_used <= 0
            && code != ErrorCode::PROTOCOL
            && code != ErrorCode::CANCELLED;
        if elsewhere && self.retry(key, now) {
            return;
        }
        let message = words(message);
        self.finish(key, Some(RequestFailure::new(code, message)), word, now);
    }

    /// The worker's part is over: settle, and end the client's side where that is still open.
    fn finish(&mut self, key: RequestKey, failure: Option<RequestFailure>, word: LastWord, now: Time) {
        self.end_for_client(key, failure.clone(), &word, now);
        let abandoned = self.requests.get(&key).is_some_and(|request| request.failure.is_some());
        let failed = match &failure {
            // Whether the worker is to blame for a time-out was settled when it happened.
            _ if abandoned => None,
            None => Some(false),
            Some(RequestFailure { code: ErrorCode::CANCELLED | ErrorCode::PROTOCOL, .. }) => None,
            Some(_) => Some(true),
        };
        self.take_from_worker(key, failed);
        let Some(request) = self.requests.remove(&key) else { return };
        self.query_bytes -= request.query.len();
        self.deadlines.remove(&(request.deadline, key));
        if let Some(client) = self.client_mut(request.client) {
            client.requests.remove(&request.client_request);
        }
        let tokens = &word.tokens;
        let claimed = clamp_claim(&[
            tokens.prompt_tokens_used,
            tokens.cached_tokens_used,
            tokens.completion_tokens_used,
            tokens.reasoning_tokens_used,
            tokens.total_tokens_used,
        ]);
        let bound = ClaimBound {
            query_bytes: request.query.len() as u64,
            answer_bytes: request.answer_bytes,
            max_tokens: request.max_tokens,
            limit_binds: request.limit_binds,
            coefficient: request.coefficient,
        };
        let held = bound.hold(&claimed, &self.settings.tariff);
        let (charged, overrun) = self.settle(&request, held.accepted);
        let overrun = overrun.0.saturating_add(held.excess.0);
        let failure = request.failure.or(failure);
        match failure {
            None => self.stats.succeeded += 1,
            Some(_) => self.stats.failed += 1,
        }
        self.stats.tokens = self.stats.tokens.saturating_add(charged.0);
        self.stats.overrun = self.stats.overrun.saturating_add(overrun);
        self.events.push_back(ProxyEvent::Ended(RequestEnd {
            request: request.id,
            model: request.model,
            worker: Some(request.worker),
            failure,
            charged: charged.0,
            overrun,
            took: now.since(request.started),
            attempts: request.tried.len(),
        }));
        self.flush_records();
    }

    /// Ends the answer to the client, unless that was done before.
    fn end_for_client(
        &mut self,
        key: RequestKey,
        failure: Option<RequestFailure>,
        word: &LastWord,
        now: Time,
    ) {
        let Some(request) = self.requests.get(&key) else { return };
        if request.phase == Phase::Draining {
            return;
        }
        let begun = request.phase == Phase::Answering;
        let (conn, started, enable_debug) = (request.client, request.started, request.enable_debug);
        let id = request.client_request;
        self.woken.insert(conn);
        let Some(client) = self.client_mut(conn) else { return };
        let info = final_info(word, client.proto_version, enable_debug, started, now);
        match failure {
            None => client.outbox.end(id, End::Complete(info)),
            Some(failure) if begun => client.outbox.end(id, End::Failed(failure, info)),
            Some(failure) => {
                let (head, body) = error_body(&failure);
                client.outbox.head(id, head);
                client.outbox.data(id, body);
                client.outbox.end(id, End::Complete(info));
            }
        }
    }

    /// Answers a query that never became a request.
    fn reject(
        &mut self,
        conn: ConnId,
        request_id: [u8; 32],
        status: i32,
        kind: &str,
        message: &str,
        now: Time,
    ) {
        let (mut head, body) = status_body(status, kind, message);
        head.headers.push(seconds_header("X-Cocoon-Proxy-Start", now));
        head.headers.push(seconds_header("X-Cocoon-Proxy-End", now));
        head.headers.push(framing_header(true, body.len()));
        head.payload = body;
        let Some(client) = self.client_mut(conn) else { return };
        let info = final_info(&LastWord::none(), client.proto_version, false, now, now);
        let message = client::QueryAnswerEx { request_id, answer: to_boxed(&head), final_info: Some(info) };
        if let Some(link) = self.link_mut(conn) {
            link.packet(&message);
        }
    }

    /// Encodes one chunk for a client, and gives the worker credit for it.
    pub(super) fn send_chunk(&mut self, conn: ConnId, chunk: Chunk<[u8; 32], http::Response, End>) {
        let Chunk { key: request_id, head, data, end } = chunk;
        let sent = data.len();
        let (final_info, failed) = match end {
            None => (None, None),
            Some(End::Complete(info)) => (Some(info), None),
            Some(End::Failed(failure, info)) => (None, Some((failure, info))),
        };
        let Some(link) = self.link_mut(conn) else { return };
        if let Some(mut head) = head {
            head.headers.push(framing_header(final_info.is_some(), data.len()));
            head.payload = data;
            link.packet(&client::QueryAnswerEx { request_id, answer: to_boxed(&head), final_info });
        } else if !data.is_empty() || final_info.is_some() {
            link.packet(&client::QueryAnswerPartEx { request_id, answer: data, final_info });
        }
        if let Some((failure, info)) = failed {
            link.packet(&client::QueryAnswerErrorEx {
                request_id,
                error_code: failure.code.0,
                error: failure.message.into(),
                final_info: Some(info),
            });
        }
        if let Some(key) = self.client_mut(conn).and_then(|client| client.requests.get(&request_id).copied())
        {
            self.grant_worker(key, sent);
        }
    }

    fn grant_worker(&mut self, key: RequestKey, bytes: usize) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        request.grant += bytes;
        if request.grant < INITIAL_CREDIT_BYTES / 4 {
            return;
        }
        let bytes = i64::try_from(std::mem::take(&mut request.grant)).unwrap_or(0);
        let (conn, request_id) = (request.worker, request.attempt);
        if self.worker(conn).is_some_and(|worker| worker.extensions)
            && let Some(link) = self.link_mut(conn)
        {
            link.packet(&ext::Credit { request_id, bytes });
        }
    }
}

fn no_worker(why: NoWorker, model: &str) -> (i32, &'static str, String) {
    match why {
        NoWorker::None => (404, "model_not_found", format!("unknown model {model}")),
        NoWorker::NotReady => (503, "service_unavailable", format!("no ready workers for model {model}")),
        NoWorker::Busy => (429, "rate_limit_exceeded", format!("all workers for model {model} are busy")),
        NoWorker::TooDear { cheapest } => {
            (503, "price_cap_too_low", format!("can run this query with coefficient={cheapest}"))
        }
    }
}

fn final_info(
    word: &LastWord,
    proto_version: i32,
    enable_debug: bool,
    started: Time,
    now: Time,
) -> client::QueryFinalInfo {
    let (proxy_start_time, proxy_end_time) = (started.unix_seconds(), now.unix_seconds());
    let debug = enable_debug.then(|| {
        let proxy_debug = serde_json::json!({
            "type": "proxy_stats", "start_time": proxy_start_time, "answer_receive_end_at": proxy_end_time,
        });
        // A published gateway parses this text and dies of anything but JSON.
        let worker_debug = word.debug.clone().filter(|text| {
            text.as_bytes().len() <= MAX_DEBUG_BYTES
                && serde_json::from_slice::<serde_json::Value>(text.as_bytes()).is_ok()
        });
        client::FinalDebug {
            worker_debug: worker_debug.unwrap_or_default(),
            proxy_debug: proxy_debug.to_string().into(),
        }
    });
    let timings = (proto_version >= 2).then_some(client::FinalTimings {
        proxy_start_time,
        proxy_end_time,
        worker_start_time: word.worker_start,
        worker_end_time: word.worker_end,
    });
    client::QueryFinalInfo { tokens_used: word.tokens, debug, timings }
}
