//! What a worker says to a request, up to its last word, and what the client is told of it.

use std::time::Duration;

use bytes::Bytes;
use cocoon_ledger::{ClaimBound, Coefficient};
use cocoon_wire::codec::{ByteStr, Message as _, from_boxed, to_boxed};
use cocoon_wire::tl::{WorkerToProxy, client, ext, http};

use super::blame::{Outcome, blames_request};
use super::choice::Begun;
use super::last_word::{LastWord, claim};
use super::request::{Phase, Rejection};
use super::{ConnId, End, Proxy, ProxyEvent, RequestEnd, RequestKey};
use crate::answer::{
    ERROR_HEADER, PROXY_HEADER, RESEND_HEADER, WORKER_HEADER, error_body, fits, framing_header, head_bytes,
    resend_header, retry_after_header, sanitize, seconds_header, status_body, worker_header,
};
use crate::body::compact;
use crate::outbox::Chunk;
use crate::terms::words;
use crate::{
    ErrorCode, INITIAL_CREDIT_BYTES, MAX_HELD_BYTES, MAX_HELD_BYTES_PER_CLIENT, RequestFailure, Time,
    Violation,
};

/// How a request ends whose client leaves too much unread.
const READS_TOO_SLOWLY: &str = "the client reads too slowly";
/// Longest debug text of a worker that is passed on, in bytes.
const MAX_DEBUG_BYTES: usize = 16 * 1024;

/// Whether the answer comes piece by piece as its engine goes on.
fn is_event_stream(head: &http::Response) -> bool {
    head.headers.iter().any(|header| {
        let value = header.value.as_bytes();
        header.name.as_bytes().eq_ignore_ascii_case(b"content-type")
            && value.get(..17).is_some_and(|start| start.eq_ignore_ascii_case(b"text/event-stream"))
    })
}

impl Proxy {
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
            WorkerToProxy::Abilities(_) | WorkerToProxy::BodyCredit(_) if !worker.extensions => {
                Err(Violation::Unexpected("extension that was not agreed"))
            }
            WorkerToProxy::Abilities(m) => {
                worker.abilities = m.abilities.cast_unsigned();
                Ok(())
            }
            WorkerToProxy::BodyCredit(m) => {
                let bytes = usize::try_from(m.bytes).map_err(|_| Violation::Unexpected("negative credit"))?;
                worker.bodies.grant(m.request_id, bytes);
                let key = worker.work.get(&m.request_id).copied();
                if let Some(request) = key.and_then(|key| self.requests.get_mut(&key))
                    && request.upload.as_ref().is_some_and(|upload| !upload.is_complete())
                {
                    request.moved = now;
                }
                self.woken.insert(conn);
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
        let mut head: http::Response =
            from_boxed(compact(answer)).map_err(Violation::message("http.response"))?;
        if !fits(&head.headers, 0) {
            // It would be kept as long as the client does not read.
            self.stop_worker(key);
            let words = ByteStr::from_static("the head of the answer is too large");
            self.on_error(conn, attempt, ErrorCode::ERROR.0, &words, LastWord::none(), now);
            return Ok(());
        }
        let data = std::mem::take(&mut head.payload);
        // Our workers fail by an error message, so this mark in an answer of theirs is forged; published ones know no other
        // way than a complete answer.
        let forged = self.worker(conn).is_some_and(|worker| worker.extensions);
        // Who answers is for the proxy to say, to clients that know of it.
        head.headers.retain(|header| {
            let name = header.name.as_bytes();
            let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
            !(is(WORKER_HEADER) || is(PROXY_HEADER) || is(RESEND_HEADER) || forged && is(ERROR_HEADER))
        });
        let Some(request) = self.requests.get_mut(&key) else { return Ok(()) };
        match request.phase {
            Phase::Answering => return Err(Violation::Unexpected("second head of an answer")),
            Phase::Draining => {}
            Phase::Asked => {
                // Before the phase changes: this worker's failure to speak HTTP is one before the first byte.
                let Some(head) = sanitize(head) else {
                    return Err(Violation::Unexpected("answer that is no HTTP"));
                };
                if self.doubt_status(key, head.status_code, now) {
                    return Ok(());
                }
                self.pass_head(key, head, now);
            }
        }
        self.on_body(key, data, end, now);
        Ok(())
    }

    /// An answer begins.
    fn pass_head(&mut self, key: RequestKey, mut head: http::Response, now: Time) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        let (client_conn, client_request) = (request.client, request.client_request);
        let bytes = head_bytes(&head.headers);
        if self.shares.of(request.account).queued.saturating_add(bytes) > MAX_HELD_BYTES_PER_CLIENT {
            self.give_up(key, RequestFailure::new(ErrorCode::ERROR, READS_TOO_SLOWLY), now);
            return;
        }
        request.phase = Phase::Answering;
        let streamed = is_event_stream(&head);
        request.begun = Some(Begun { status: head.status_code, streamed, first_byte: None });
        let (started, fingerprint) = (request.started, request.fingerprint);
        head.headers.push(seconds_header("X-Cocoon-Proxy-Start", started));
        head.headers.push(seconds_header("X-Cocoon-Proxy-End", now));
        if self.client(client_conn).is_some_and(|client| client.extensions) {
            head.headers.push(worker_header(&fingerprint));
        }
        self.change_answers(client_conn, |answers| answers.head(client_request, head, bytes));
        self.end_hoarding();
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
        let first = request.answer_bytes == 0;
        request.answer_bytes += data.len() as u64;
        let (conn, draining) = (request.client, request.phase == Phase::Draining);
        let (client_request, account) = (request.client_request, request.account);
        if !data.is_empty() {
            request.moved = now;
            if first && !draining {
                self.note_first_byte(key, now);
            }
        }
        if !draining {
            self.stats.answer_bytes += data.len() as u64;
            let Some(queued) = self.change_answers(conn, |answers| {
                answers.data(client_request, data);
                answers.queued(client_request)
            }) else {
                return;
            };
            self.woken.insert(conn);
            if queued > MAX_HELD_BYTES || self.shares.of(account).queued > MAX_HELD_BYTES_PER_CLIENT {
                let failure = RequestFailure::new(ErrorCode::ERROR, READS_TOO_SLOWLY);
                self.change_answers(conn, |answers| answers.discard_data(client_request));
                self.give_up(key, failure, now);
            }
            self.end_hoarding();
        }
        if let Some(word) = end
            && let Some(request) = self.requests.get(&key)
        {
            self.finish(key, None, self.outcome_of_answer(request), word, now);
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
        let (code, words) = (ErrorCode(code), words(message));
        let outcome = self.outcome_of_error(request, code, &words, now);
        let at_fault = blames_request(code, &words);
        if request.phase == Phase::Asked && at_fault && self.hear_another(key, now) {
            return;
        }
        let Some(request) = self.requests.get(&key) else { return };
        if request.phase == Phase::Asked && !at_fault {
            // Nothing of what was worked for came, so nothing of it is paid.
            if self.retry(key, outcome, now) {
                return;
            }
            self.note_resend(key);
        }
        let code = match code {
            _ if at_fault => ErrorCode::PROTOCOL,
            // Nobody asked it to; whoever did was told already.
            ErrorCode::CANCELLED => ErrorCode::ERROR,
            code => code,
        };
        self.finish(key, Some(RequestFailure::new(code, words)), outcome, word, now);
    }

    /// The worker's part is over: settle, and end the client's side where that is still open.
    pub(super) fn finish(
        &mut self,
        key: RequestKey,
        failure: Option<RequestFailure>,
        outcome: Outcome,
        word: LastWord,
        now: Time,
    ) {
        self.end_for_client(key, failure.clone(), &word, now);
        // Whether the worker is to blame for a time-out was settled when it happened.
        let abandoned = self.requests.get(&key).is_some_and(|request| request.failure.is_some());
        let outcome = if abandoned { Outcome::Nothing } else { outcome };
        self.take_from_worker(key, outcome, now);
        self.drop_upload(key);
        self.note_held(key, 0);
        let Some(request) = self.requests.remove(&key) else { return };
        self.shares.change(request.account, |share| share.requests = share.requests.saturating_sub(1));
        if outcome == Outcome::Served {
            self.note_answered(&request, &word.tokens, now);
        }
        self.deadlines.remove(&(request.deadline, key));
        if let Some(client) = self.client_mut(request.client) {
            client.requests.remove(&request.client_request);
        }
        let bound = ClaimBound {
            query_bytes: request.asked_bytes(),
            answer_bytes: request.answer_bytes,
            max_tokens: request.max_tokens,
            limit_binds: request.limit_binds,
            coefficient: request.coefficient,
        };
        let held = bound.hold(&claim(&word.tokens), &self.settings.tariff);
        let (charged, overrun) = self.settle(&request, held.accepted);
        let overrun = overrun.0.saturating_add(held.excess.0);
        let parent = request.parent();
        let failure = request.failure.or(failure);
        match &failure {
            None => self.stats.succeeded += 1,
            Some(RequestFailure { code: ErrorCode::CANCELLED, .. }) => self.stats.cancelled += 1,
            Some(_) => self.stats.failed += 1,
        }
        self.stats.tokens = self.stats.tokens.saturating_add(charged.0);
        self.stats.overrun = self.stats.overrun.saturating_add(overrun);
        let end = Box::new(RequestEnd {
            request: request.id,
            client_request: request.client_request,
            attempt: request.attempt,
            started: request.started,
            parent,
            model: request.model,
            worker: Some(request.worker),
            failure,
            charged: charged.0,
            overrun,
            took: now.since(request.started),
            attempts: request.tried.len(),
        });
        self.events.push_back(ProxyEvent::Ended(end));
        self.flush_records();
    }

    /// Ends the answer to the client, unless that was done before.
    pub(super) fn end_for_client(
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
        let (id, fingerprint, resend) = (request.client_request, request.fingerprint, request.resend);
        self.woken.insert(conn);
        let Some(client) = self.client_mut(conn) else { return };
        let info = final_info(word, client.proto_version, enable_debug, started, now);
        match failure {
            None => client.outbox.end(id, End::Complete(info)),
            Some(failure) if begun => client.outbox.end(id, End::Failed(failure, info)),
            Some(failure) => {
                let (mut head, body) = error_body(&failure);
                if client.extensions {
                    head.headers.push(worker_header(&fingerprint));
                    if resend {
                        head.headers.push(resend_header());
                    }
                }
                let bytes = head_bytes(&head.headers);
                self.change_answers(conn, |answers| {
                    answers.head(id, head, bytes);
                    answers.data(id, body);
                    answers.end(id, End::Complete(info));
                });
            }
        }
    }

    /// Answers a query that never became a request. `again_after`: when another one may have more luck.
    pub(super) fn reject(
        &mut self,
        conn: ConnId,
        request_id: [u8; 32],
        (status, kind, message): &Rejection,
        again_after: Option<Duration>,
        now: Time,
    ) {
        let (mut head, body) = status_body(*status, kind, message);
        head.headers.extend(again_after.map(retry_after_header));
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
        // Until now the worker may have been held back.
        request.moved = request.moved.max(Time(self.market.now_us()));
        let (conn, request_id) = (request.worker, request.attempt);
        if self.worker(conn).is_some_and(|worker| worker.extensions)
            && let Some(link) = self.link_mut(conn)
        {
            link.packet(&ext::Credit { request_id, bytes });
        }
    }
}

pub(super) fn final_info(
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
