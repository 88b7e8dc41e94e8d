//! A request: from the client's query to a worker, to another one where that fails, and its end before its time.

use bytes::Bytes;
use cocoon_ledger::{ClientId, Coefficient, RequestId, ReserveError, reservation};
use cocoon_market::NoWorker;
use cocoon_ton::payment::OrderKind;
use cocoon_trace::TraceContext;
use cocoon_wire::codec::Message as _;
use cocoon_wire::tl::{ClientToProxy, client, ext, proxy};

use super::account::ACCOUNT_CLOSING;
use super::account::Credit;
use super::blame::Outcome;
use super::choice::{Begun, no_worker};
use super::handshake::MAX_MODEL_NAME;
use super::last_word::LastWord;
use super::upload::{MAX_WHOLE_QUERY, Upload, is_kept, most_held};
use super::{
    ConnId, DRAIN_TIME, MAX_ATTEMPTS, MAX_QUERY_BYTES_HELD, MAX_QUERY_BYTES_HELD_PER_CLIENT, MAX_REQUESTS,
    MAX_REQUESTS_PER_CLIENT, Proxy, RequestKey,
};
use crate::answer::{MAX_HEAD_BYTES, TIME_SHARE, request_time};
use crate::body::compact;
use crate::options::Options;
use crate::{ErrorCode, RequestFailure, Time, Violation};

/// Why a query becomes no request: HTTP status, kind, words.
pub(super) type Rejection = (i32, &'static str, String);

/// What a client is told that uses faster than its use is charged.
const BEING_CHARGED: &str =
    "what was used is being charged on chain; try again soon, or raise the client contract's stake";

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
    /// Whose share it counts for, also when that connection is gone.
    pub(super) account: ClientId,
    pub(super) client_request: [u8; 32],
    pub(super) worker: ConnId,
    /// The fingerprint of that worker's certificate.
    pub(super) fingerprint: [u8; 32],
    /// Our id for the current attempt, by which the worker knows it.
    pub(super) attempt: [u8; 32],
    /// Our id for the whole request, by which the ledger knows it.
    pub(super) id: [u8; 32],
    pub(super) model: String,
    pub(super) query: Bytes,
    /// What of its body follows the query.
    pub(super) upload: Option<Upload>,
    /// The most that is held of query and body, in bytes.
    pub(super) held: usize,
    pub(super) max_coefficient: u32,
    pub(super) max_tokens: u64,
    /// Whether `max_tokens` stands in the body, as our gateways see to.
    pub(super) limit_binds: bool,
    pub(super) enable_debug: bool,
    pub(super) options: Options,
    pub(super) phase: Phase,
    pub(super) started: Time,
    pub(super) asked: Time,
    /// When something of it moved last, in either direction.
    pub(super) moved: Time,
    /// How the answer began.
    pub(super) begun: Option<Begun>,
    pub(super) deadline: Time,
    pub(super) tried: Vec<ConnId>,
    /// The worker that found fault with it, where another one was asked because of that.
    pub(super) faulted_by: Option<ConnId>,
    pub(super) coefficient: Coefficient,
    pub(super) answer_bytes: u64,
    /// Bytes that left for the client and for which the worker gets credit.
    pub(super) grant: usize,
    pub(super) failure: Option<RequestFailure>,
    /// It fails for a reason that another worker might not have, and cannot be given to one from here.
    pub(super) resend: bool,
}

impl Request {
    /// Where its sender stands in a trace.
    pub(super) fn parent(&self) -> Option<TraceContext> {
        self.options.trace.as_ref().and_then(|trace| TraceContext::parse(trace.as_bytes()))
    }
}

impl Proxy {
    pub(super) fn on_client_packet(&mut self, conn: ConnId, data: Bytes, now: Time) -> Result<(), Violation> {
        let packet = ClientToProxy::decode_boxed(data).map_err(Violation::message("packet from client"))?;
        let Some(client) = self.client_mut(conn) else { return Ok(()) };
        if client.stage != super::ClientStage::Ready {
            return Err(Violation::Unexpected("packet before the handshake is done"));
        }
        if let Some((announced, options)) = client.announced.take() {
            return match packet {
                ClientToProxy::RunQueryEx(query) if query.request_id == announced => {
                    self.on_query(conn, query, options, now);
                    Ok(())
                }
                _ => Err(Violation::Unexpected("packet between a request's options and the request")),
            };
        }
        match packet {
            ClientToProxy::RunQueryEx(query) => self.on_query(conn, query, Options::default(), now),
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
                self.on_query(conn, query, Options::default(), now);
            }
            ClientToProxy::Cancel(cancel) => {
                let key = client.requests.remove(&cancel.request_id);
                self.change_answers(conn, |answers| answers.close(cancel.request_id));
                if let Some(key) = key {
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
            ClientToProxy::AllowWorkers(message) => self.on_allow_workers(conn, message)?,
            ClientToProxy::RequestOptions(_) | ClientToProxy::BodyPart(_) if !client.extensions => {
                return Err(Violation::Unexpected("extension that was not agreed"));
            }
            ClientToProxy::RequestOptions(message) => {
                client.announced = Some((message.request_id, Options::from_wire(message)?));
            }
            ClientToProxy::BodyPart(part) => self.on_body_part(conn, part, now)?,
        }
        Ok(())
    }

    fn on_query(&mut self, conn: ConnId, query: client::RunQueryEx, options: Options, now: Time) {
        self.stats.requests += 1;
        if let Err(rejection) = self.try_query(conn, &query, options, now) {
            self.stats.rejected += 1;
            let again_after =
                (rejection.0 == 429).then(|| self.market.next_place(&query.model_name.to_lossy()));
            self.reject(conn, query.request_id, &rejection, again_after.flatten(), now);
        }
    }

    fn try_query(
        &mut self,
        conn: ConnId,
        query: &client::RunQueryEx,
        options: Options,
        now: Time,
    ) -> Result<(), Rejection> {
        self.check_taking_requests(conn)?;
        let bad = |what: &str| Err((400, "invalid_request_error", what.to_owned()));
        let Some(client) = self.client(conn) else { return Ok(()) };
        if client.requests.contains_key(&query.request_id) || client.outbox.contains(query.request_id) {
            return bad("request id is in use");
        }
        let (account, limit_binds) = (client.account, client.extensions);
        let credit = client.chain.map_or_else(Credit::default, |chain| Credit::of(&chain));
        self.check_account(client)?;
        if query.model_name.as_bytes().len() > MAX_MODEL_NAME {
            return bad("the name of the model is too long");
        }
        // It goes on in one frame with what the proxy adds: what no frame holds would end the worker's connection.
        if query.query.len() as u64 > MAX_WHOLE_QUERY {
            return Err((413, "request_too_large", format!("a query may have {MAX_WHOLE_QUERY} bytes")));
        }
        // None at all is a whole body, too.
        let body_bytes = options.body_bytes.filter(|bytes| *bytes > 0);
        // A query is not read here; beside what it holds of the body, it has a head.
        let begun = query.query.len().saturating_sub(MAX_HEAD_BYTES) as u64;
        let most = self.settings.max_body_bytes;
        if body_bytes.unwrap_or(0).max(begun) > most {
            return Err((413, "request_too_large", format!("a body may have {most} bytes")));
        }
        let share = self.shares.of(account);
        // An answer that nobody reads counts until it is out, and a request that was given up until its worker has done so.
        if share.answers.max(share.requests) >= MAX_REQUESTS_PER_CLIENT || self.requests.len() >= MAX_REQUESTS
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
        let worker = self
            .choose_worker(conn, &model, max_coefficient.get(), &options, &[], query.query.len())
            .map_err(|why| no_worker(why, &model))?;
        let kept = body_bytes
            .is_some_and(|bytes| is_kept(bytes, self.worker(worker).is_some_and(|worker| worker.extensions)));
        let held = most_held(query.query.len(), body_bytes, kept);
        if self.held.saturating_add(held) > MAX_QUERY_BYTES_HELD
            || share.held.saturating_add(held) > MAX_QUERY_BYTES_HELD_PER_CLIENT
        {
            return Err((429, "rate_limit_exceeded", "too many large requests are under way".into()));
        }
        let query_bytes = (query.query.len() as u64).saturating_add(body_bytes.unwrap_or(0));
        let Some(amount) = reservation(max_tokens, query_bytes, max_coefficient, &self.settings.tariff)
        else {
            return bad("max_tokens is absurdly high");
        };
        let id = self.random_id();
        self.ledger.reserve(RequestId(id), account, amount, self.settings.tariff.rates()).map_err(|why| {
            match why {
                ReserveError::TooManyReservations => (429, "rate_limit_exceeded", why.to_string()),
                // The balance is there; what may be used before it is charged on chain is used up for the moment.
                ReserveError::InsufficientFunds { needed, available } if credit.covers(needed, available) => {
                    (429, "rate_limit_exceeded", BEING_CHARGED.to_owned())
                }
                ReserveError::InsufficientFunds { .. } | ReserveError::UnknownClient(_) => {
                    (402, "insufficient_balance", why.to_string())
                }
                ReserveError::ClientClosed(_) => (402, ACCOUNT_CLOSING, why.to_string()),
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
            account,
            client_request: query.request_id,
            worker,
            // Known once it is asked.
            fingerprint: [0; 32],
            attempt: id,
            id,
            model,
            query: compact(query.query.clone()),
            upload: body_bytes.map(|bytes| Upload::new(bytes, kept, now)),
            held: 0,
            max_coefficient: max_coefficient.get(),
            max_tokens,
            limit_binds,
            enable_debug: query.enable_debug.unwrap_or(false),
            options,
            phase: Phase::Asked,
            started: now,
            asked: now,
            moved: now,
            begun: None,
            deadline,
            tried: Vec::new(),
            faulted_by: None,
            coefficient: Coefficient::ONE,
            answer_bytes: 0,
            grant: 0,
            failure: None,
            resend: false,
        };
        self.requests.insert(key, request);
        self.shares.change(account, |share| share.requests += 1);
        self.note_held(key, held);
        if body_bytes.is_some() {
            self.uploads.insert(key);
        }
        self.deadlines.insert((deadline, key));
        if let Some(client) = self.client_mut(conn) {
            client.requests.insert(query.request_id, key);
        }
        self.change_answers(conn, |answers| answers.open(query.request_id));
        self.ask(key, worker, now);
        Ok(())
    }

    /// Whether requests are taken at all now, from this connection.
    fn check_taking_requests(&self, conn: ConnId) -> Result<(), Rejection> {
        let leaving = self.conns.get(&conn).and_then(|conn| conn.leaving.as_ref()).map(|leaving| leaving.why);
        match leaving.or_else(|| self.takes_no_requests()) {
            Some(why) => Err((503, "service_unavailable", why.to_owned())),
            None => Ok(()),
        }
    }

    /// Why no requests are taken now, whoever asks; `None`: they are.
    pub fn takes_no_requests(&self) -> Option<&str> {
        if self.draining {
            return Some("the proxy is shutting down");
        }
        if self.log_behind {
            return Some("the proxy's disk is behind; try again");
        }
        self.hold.as_ref().map(|hold| hold.message.as_str())
    }

    /// Gives a request to a worker.
    fn ask(&mut self, key: RequestKey, conn: ConnId, now: Time) {
        let Some(worker) = self.worker(conn) else { return };
        let coefficient = worker.coefficient;
        let fingerprint = *worker.attested.fingerprint();
        let Some(request) = self.requests.get_mut(&key) else { return };
        (request.worker, request.fingerprint) = (conn, fingerprint);
        (request.asked, request.moved) = (now, now);
        request.tried.push(conn);
        request.coefficient = Coefficient::new(coefficient).unwrap_or(Coefficient::MAX);
        let attempt = request.attempt;
        if let Some(worker) = self.worker_mut(conn) {
            if worker.work.is_empty() {
                worker.busy_since = now;
            }
            worker.work.insert(attempt, key);
        }
        self.tell_market(conn);
        self.send_query(key, now);
    }

    /// Sends a request to the worker that it was given to, unless it has to wait for its body.
    pub(super) fn send_query(&mut self, key: RequestKey, now: Time) {
        let Some(conn) = self.requests.get(&key).map(|request| request.worker) else { return };
        let Some(worker) = self.worker(conn) else { return };
        let (contract, extensions) = (worker.contract, worker.extensions);
        let Some(query) = self.begin_upload(key, conn, extensions) else { return };
        let signed_payment = self.signed(OrderKind::PayWorker, contract);
        let Some(request) = self.requests.get(&key) else { return };
        let message = proxy::RunQueryEx {
            query,
            signed_payment,
            coefficient: i64::from(request.coefficient.get()),
            timeout: request.deadline.since(now).as_secs_f64() * TIME_SHARE,
            request_id: request.attempt,
            enable_debug: Some(request.enable_debug),
        };
        // Of no interest to a worker is how it was chosen.
        let options = Options {
            trace: request.parent().map(|parent| parent.at(&request.id).to_traceparent()),
            body_bytes: request.upload.as_ref().map(Upload::bytes),
            ..Options::default()
        };
        let announced =
            (extensions && options != Options::default()).then(|| options.to_wire(request.attempt));
        if let Some(link) = self.link_mut(conn) {
            if let Some(options) = announced {
                link.packet(&options);
            }
            link.packet(&message);
        }
        self.tell_market(conn);
    }

    /// Takes a request away from its worker, for which it ended so, and gives it to another. `false` where no other is left.
    pub(super) fn retry(&mut self, key: RequestKey, outcome: Outcome, now: Time) -> bool {
        let attempt = self.random_id();
        let Some(request) = self.requests.get(&key) else { return true };
        if request.tried.len() >= MAX_ATTEMPTS || now >= request.deadline || !request.can_begin_again() {
            return false;
        }
        // Workers of new parameters are paid from another contract than the one that this client paid into.
        if self.conns.get(&request.client).is_none_or(|conn| conn.leaving.is_some()) {
            return false;
        }
        let Ok(conn) = self.other_worker(request) else { return false };
        self.stats.retries += 1;
        self.take_from_worker(key, outcome, now);
        if let Some(request) = self.requests.get_mut(&key) {
            request.attempt = attempt;
        }
        self.ask(key, conn, now);
        true
    }

    /// A worker that has not been tried for this request.
    pub(super) fn other_worker(&self, request: &Request) -> Result<ConnId, NoWorker> {
        let (client, model, cap) = (request.client, &request.model, request.max_coefficient);
        self.choose_worker(client, model, cap, &request.options, &request.tried, request.query.len())
    }

    /// Notes, where a request fails that another worker might serve, whether only its sender can give it to one.
    pub(super) fn note_resend(&mut self, key: RequestKey) {
        if let Some(request) = self.requests.get_mut(&key) {
            request.resend = request.phase == Phase::Asked && !request.can_begin_again();
        }
    }

    /// The worker no longer has this request; late words of its are ignored.
    pub(super) fn take_from_worker(&mut self, key: RequestKey, outcome: Outcome, now: Time) {
        self.end_waiting(key);
        let Some(request) = self.requests.get(&key) else { return };
        let (conn, attempt, faulted_by) = (request.worker, request.attempt, request.faulted_by);
        self.market.freed(conn, now.since(request.asked));
        if let Some(worker) = self.worker_mut(conn) {
            worker.work.remove(&attempt);
            worker.bodies.close(attempt);
            worker.finds_fault &= outcome != Outcome::Served;
        }
        match outcome {
            Outcome::Served => {
                self.market.ended(conn, false, now.0);
                // Unless it has served others meanwhile.
                if let Some(other) = faulted_by
                    && self.worker(other).is_some_and(|worker| worker.finds_fault)
                {
                    self.market.set_aside(other, now.0);
                    self.tell_market(other);
                }
            }
            Outcome::Failed => self.market.ended(conn, true, now.0),
            Outcome::NoRoom => self.market.refused(conn, now.0),
            Outcome::Nothing => {}
        }
        self.tell_market(conn);
    }

    /// Tells a worker of ours to stop.
    pub(super) fn stop_worker(&mut self, key: RequestKey) {
        let Some(request) = self.requests.get(&key) else { return };
        self.cancel(request.worker, request.attempt);
    }

    /// The same for an attempt that the request is no longer at.
    pub(super) fn cancel(&mut self, conn: ConnId, attempt: [u8; 32]) {
        if self.worker(conn).is_some_and(|worker| worker.extensions)
            && let Some(link) = self.link_mut(conn)
        {
            link.packet(&ext::Cancel { request_id: attempt });
        }
    }

    pub(super) fn on_deadline(&mut self, key: RequestKey, now: Time) {
        let Some(request) = self.requests.get(&key) else { return };
        if request.phase == Phase::Draining {
            self.finish(key, None, Outcome::Nothing, LastWord::none(), now);
            return;
        }
        if self.is_stuck(request, now) {
            self.market.ended(request.worker, true, now.0);
        }
        let failure = RequestFailure::new(ErrorCode::TIMEOUT, "the worker did not answer in time");
        self.give_up(key, failure, now);
    }

    /// Ends a request for its client before the worker has spoken its last word.
    pub(super) fn give_up(&mut self, key: RequestKey, failure: RequestFailure, now: Time) {
        self.end_for_client(key, Some(failure.clone()), &LastWord::none(), now);
        self.abandon(key, failure, now);
    }

    /// The client's side of a request is over: stop the work, and wait for the worker's last word.
    pub(super) fn abandon(&mut self, key: RequestKey, failure: RequestFailure, now: Time) {
        self.stop_worker(key);
        self.drop_upload(key);
        let Some(request) = self.requests.get_mut(&key) else { return };
        let unasked = request.upload.as_ref().is_some_and(Upload::waits);
        request.phase = Phase::Draining;
        request.failure = Some(failure);
        self.deadlines.remove(&(request.deadline, key));
        request.deadline = now.plus(DRAIN_TIME);
        self.deadlines.insert((request.deadline, key));
        let (conn, client_request) = (request.client, request.client_request);
        if let Some(client) = self.client_mut(conn) {
            client.requests.remove(&client_request);
        }
        if unasked {
            self.finish(key, None, Outcome::Nothing, LastWord::none(), now);
        }
    }
}
