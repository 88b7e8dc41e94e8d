//! Requests on their way out, and their answers.

use std::time::Duration;

use bytes::Bytes;
use cocoon_wire::codec::{ByteStr, Message as _, from_boxed};
use cocoon_wire::frame::MAX_FRAME_PAYLOAD;
use cocoon_wire::tl::{self, ProxyToClient, client, ext, http};

use super::{ClientEvent, ClientSession, Stage};
use crate::answer::{ERROR_HEADER, OWN_HEADERS, TIME_SHARE, fits, sanitize, take_worker};
use crate::body::join_body;
use crate::options::Options;
use crate::terms::words;
use crate::{
    ErrorCode, FinalInfo, INITIAL_CREDIT_BYTES, MAX_HELD_BYTES, PaymentCounters, Preference, RequestFailure,
    Time, Violation,
};

/// Largest encoded `http.request` that fits a frame with what is around it.
pub const MAX_QUERY_BYTES: usize = MAX_FRAME_PAYLOAD - 4096;
/// Requests under way on one connection.
pub const MAX_REQUESTS: usize = 16_384;

/// A request on its way in.
#[derive(Debug, Clone)]
pub struct Submission {
    /// 256 random bits.
    pub id: [u8; 32],
    /// Model name without `@...`.
    pub model: String,
    /// The boxed `http.request`, at most [`MAX_QUERY_BYTES`].
    pub query: Bytes,
    /// The bytes of the body that follow those in the query, as [`split_body`](crate::split_body) has them; none where
    /// the query holds all. A published proxy gets them in the query all the same.
    pub body: Bytes,
    /// Highest price accepted, in 1/1000.
    pub max_coefficient: i32,
    /// Limit of completion tokens, all choices together.
    pub max_tokens: i32,
    /// Time that is left.
    pub timeout: Duration,
    /// Ask all hops for timings.
    pub enable_debug: bool,
    /// What its worker must be able to do: bits of [`ability`](crate::ability). This and what follows is told to
    /// proxies of ours only; a published one goes by the model alone.
    pub needs: u32,
    /// Which of the workers that can serve it.
    pub preference: Preference,
    /// Hashes of growing prefixes of the prompt, shortest first, at most [`MAX_AFFINITY`](crate::MAX_AFFINITY): the
    /// proxy likes to give prompts that begin alike to the same worker.
    pub affinity: Vec<u64>,
    /// A W3C `traceparent`, at most [`MAX_TRACE_BYTES`](crate::MAX_TRACE_BYTES).
    pub trace: Option<String>,
}

#[derive(Debug)]
pub(super) struct Running {
    deadline: Time,
    answering: bool,
    held: usize,
    grant: usize,
}

impl ClientSession {
    /// Sends a request.
    ///
    /// # Errors
    /// Says why it cannot be sent; nothing was sent then.
    pub fn submit(&mut self, request: &Submission, now: Time) -> Result<(), RequestFailure> {
        let refuse = |message: &str| Err(RequestFailure::new(ErrorCode::NOT_READY, message));
        if !matches!(self.stage, Stage::Ready(_)) {
            return refuse("the connection to the proxy is not ready");
        }
        if self.requests.len() >= MAX_REQUESTS || self.link.unsent() > MAX_FRAME_PAYLOAD {
            return refuse("too many requests are under way to this proxy");
        }
        let extensions = self.extensions();
        let streams = extensions && !request.body.is_empty();
        let query = if streams || request.body.is_empty() {
            Some(request.query.clone())
        } else {
            // Not joined in vain.
            let fits = request.query.len() + request.body.len() <= MAX_QUERY_BYTES;
            fits.then(|| join_body(&request.query, &request.body)).flatten()
        };
        let Some(query) = query.filter(|query| query.len() <= MAX_QUERY_BYTES) else {
            return Err(RequestFailure::new(ErrorCode::PROTOCOL, "the request is too large for this proxy"));
        };
        if self.requests.contains_key(&request.id) {
            return Err(RequestFailure::new(ErrorCode::PROTOCOL, "the request's id is in use"));
        }
        if extensions {
            let options = Options {
                needs: request.needs,
                preference: request.preference,
                affinity: request.affinity.clone(),
                trace: request.trace.clone(),
                body_bytes: streams.then_some(request.body.len() as u64),
            };
            self.link.packet(&options.to_wire(request.id));
        }
        self.link.packet(&client::RunQueryEx {
            model_name: request.model.clone().into(),
            query,
            max_coefficient: request.max_coefficient,
            max_tokens: request.max_tokens,
            timeout: request.timeout.as_secs_f64() * TIME_SHARE,
            request_id: request.id,
            min_config_version: self.settings.root.version.cast_signed(),
            enable_debug: Some(request.enable_debug),
        });
        // The proxy and the worker time out before us and say so; this is for those that do not.
        let deadline = now.plus(request.timeout);
        self.requests.insert(request.id, Running { deadline, answering: false, held: 0, grant: 0 });
        self.deadlines.insert((deadline, request.id));
        if streams {
            self.bodies.open(request.id);
            self.bodies.data(request.id, request.body.clone());
            self.bodies.end(request.id, ());
        }
        Ok(())
    }

    /// Gives a request up: no more events come for it, and a proxy of ours stops the work.
    pub fn cancel(&mut self, request: [u8; 32]) {
        if self.forget(&request).is_some() && self.extensions() {
            self.link.packet(&ext::Cancel { request_id: request });
        }
    }

    /// Notes that `bytes` of an answer were passed on to the caller.
    pub fn consumed(&mut self, request: [u8; 32], bytes: usize) {
        let extensions = self.extensions();
        let Some(running) = self.requests.get_mut(&request) else { return };
        running.held = running.held.saturating_sub(bytes);
        running.grant += bytes;
        if extensions && running.grant >= INITIAL_CREDIT_BYTES / 4 {
            let bytes = i64::try_from(std::mem::take(&mut running.grant)).unwrap_or(0);
            self.link.packet(&ext::Credit { request_id: request, bytes });
        }
    }

    fn forget(&mut self, request: &[u8; 32]) -> Option<Running> {
        let running = self.requests.remove(request)?;
        self.deadlines.remove(&(running.deadline, *request));
        // Whatever of its body is not out yet, nobody waits for.
        self.bodies.close(*request);
        Some(running)
    }

    pub(super) fn on_packet(&mut self, data: Bytes) -> Result<(), Violation> {
        if !matches!(self.stage, Stage::Ready(_)) {
            return Err(Violation::Unexpected("packet before the handshake is done"));
        }
        let packet = ProxyToClient::decode_boxed(data).map_err(Violation::message("packet from proxy"))?;
        match packet {
            ProxyToClient::QueryAnswerEx(m) => self.on_head(m.request_id, m.answer, m.final_info.map(ending)),
            ProxyToClient::QueryAnswerPartEx(m) => {
                self.on_part(m.request_id, m.answer, m.final_info.map(ending))
            }
            ProxyToClient::QueryAnswerErrorEx(m) => {
                self.on_error(m.request_id, m.error_code, &m.error, m.final_info.map(|info| ending(info).0));
                Ok(())
            }
            ProxyToClient::QueryAnswer(m) => {
                let end = m.is_completed.then(|| old_ending(m.request_tokens_used));
                self.on_head(m.request_id, m.answer, end)
            }
            ProxyToClient::QueryAnswerPart(m) => {
                let end = m.is_completed.then(|| old_ending(m.request_tokens_used));
                self.on_part(m.request_id, m.answer, end)
            }
            ProxyToClient::QueryAnswerError(m) => {
                let info = Some(old_ending(m.request_tokens_used).0);
                self.on_error(m.request_id, m.error_code, &m.error, info);
                Ok(())
            }
            ProxyToClient::QueryAnswerPartError(m) => {
                let info = Some(old_ending(m.request_tokens_used).0);
                self.on_error(m.request_id, m.error_code, &m.error, info);
                Ok(())
            }
            ProxyToClient::BodyCredit(m) => {
                let bytes = usize::try_from(m.bytes).map_err(|_| Violation::Unexpected("negative credit"))?;
                self.bodies.grant(m.request_id, bytes);
                Ok(())
            }
            ProxyToClient::ClientRequestPayment(m) => {
                let counters = PaymentCounters::new(m.db_tokens, m.max_tokens, m.signed_payment);
                let request = Some((m.request_id, m.request_tokens));
                self.events.push_back(ClientEvent::Payment { request, counters });
                Ok(())
            }
        }
    }

    fn on_head(&mut self, request: [u8; 32], answer: Bytes, end: Option<Ending>) -> Result<(), Violation> {
        let Some(running) = self.requests.get_mut(&request) else { return Ok(()) };
        if std::mem::replace(&mut running.answering, true) {
            return Err(Violation::Unexpected("second head of an answer"));
        }
        let mut head: http::Response = from_boxed(answer).map_err(Violation::message("http.response"))?;
        let data = std::mem::take(&mut head.payload);
        // A published proxy passes on what a worker says of itself.
        let worker = take_worker(&mut head).filter(|_| self.extensions());
        if self.settings.restrict_workers {
            self.check_worker(&head, worker)?;
        }
        // Published workers leave a stale `Content-Length` in, and a proxy passes on what a worker says.
        let Some(head) = Some(head).filter(|head| fits(&head.headers, OWN_HEADERS)).and_then(sanitize) else {
            let failure = RequestFailure::new(ErrorCode::ERROR, "the answer is no HTTP");
            self.cancel(request);
            self.events.push_back(ClientEvent::Failed { request, failure, info: None });
            return Ok(());
        };
        self.events.push_back(ClientEvent::Head { request, worker, head });
        self.on_body(request, data, end);
        Ok(())
    }

    /// The proxy is at fault where a worker answers that we have not allowed.
    fn check_worker(&self, head: &http::Response, worker: Option<[u8; 32]>) -> Result<(), Violation> {
        let is_error =
            |header: &http::Header| header.name.as_bytes().eq_ignore_ascii_case(ERROR_HEADER.as_bytes());
        match worker {
            Some(worker) if self.workers.may_have(&worker) => Ok(()),
            Some(_) => {
                Err(Violation::Mismatch("the proxy gave a request to a worker that we do not allow".into()))
            }
            None if head.headers.iter().any(is_error) => Ok(()),
            None => Err(Violation::Unexpected("answer without the name of its worker")),
        }
    }

    fn on_part(&mut self, request: [u8; 32], data: Bytes, end: Option<Ending>) -> Result<(), Violation> {
        match self.requests.get(&request) {
            None => return Ok(()),
            Some(running) if !running.answering => return Err(Violation::Unexpected("part before the head")),
            Some(_) => self.on_body(request, data, end),
        }
        Ok(())
    }

    fn on_body(&mut self, request: [u8; 32], data: Bytes, end: Option<Ending>) {
        let Some(running) = self.requests.get_mut(&request) else { return };
        running.held += data.len();
        if running.held > MAX_HELD_BYTES {
            let failure = RequestFailure::new(ErrorCode::ERROR, "the caller reads too slowly");
            self.cancel(request);
            self.events.push_back(ClientEvent::Failed { request, failure, info: None });
            return;
        }
        if !data.is_empty() {
            self.events.push_back(ClientEvent::Data { request, data });
        }
        if let Some((info, debug)) = end {
            self.forget(&request);
            self.events.push_back(ClientEvent::Completed { request, info, debug });
        }
    }

    fn on_error(&mut self, request: [u8; 32], code: i32, message: &ByteStr, info: Option<FinalInfo>) {
        if self.forget(&request).is_some() {
            let message = words(message);
            let failure = RequestFailure::new(ErrorCode(code), message);
            self.events.push_back(ClientEvent::Failed { request, failure, info });
        }
    }
}

type Ending = (FinalInfo, Option<(ByteStr, ByteStr)>);

fn ending(info: client::QueryFinalInfo) -> Ending {
    let mut result = FinalInfo { tokens: info.tokens_used, ..FinalInfo::default() };
    if let Some(timings) = info.timings {
        result.worker_start = timings.worker_start_time;
        result.worker_end = timings.worker_end_time;
        result.proxy_start = timings.proxy_start_time;
        result.proxy_end = timings.proxy_end_time;
    }
    (result, info.debug.map(|debug| (debug.worker_debug, debug.proxy_debug)))
}

fn old_ending(tokens: tl::TokensUsed) -> Ending {
    (FinalInfo { tokens, ..FinalInfo::default() }, None)
}
