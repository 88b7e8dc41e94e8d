//! Runs a request under its key, records its answer, and replays it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cocoon_openai::{ApiError, Boundary, Endpoint, RequestForm};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use memchr::memmem;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use super::table::{Caller, Key, Met};
use super::{Idempotency, Recorded, Ticket, header_bytes};
use crate::answer::{AnswerBody, Broken};
use crate::body::Body;
use crate::intake::work_on;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Longest key, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// The key that a request names.
pub(crate) fn key_of(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut named = headers.get_all(KEY).iter();
    let Some(key) = named.next() else { return Ok(None) };
    match key.to_str() {
        Ok(key) if (1..=MAX_KEY_BYTES).contains(&key.len()) && named.next().is_none() => Ok(Some(key)),
        _ => {
            let message =
                format!("Send one Idempotency-Key of 1 to {MAX_KEY_BYTES} visible ASCII characters.");
            Err(ApiError::invalid_request(Some("Idempotency-Key"), "invalid_value", message))
        }
    }
}

/// A caller, and its key. Callers do not meet each other's keys.
fn names(caller: &[u8], key: &str) -> (Caller, Key) {
    let caller: Caller = Sha256::digest(caller).into();
    let key = Sha256::new().chain_update(b"key").chain_update(caller).chain_update(key).finalize();
    (caller, key.into())
}

/// What tells requests apart: endpoint and body. The boundary of a form is another one each time that a client writes
/// the same form, so it counts for nothing.
fn fingerprint(endpoint: Endpoint, boundary: Option<&Boundary>, body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    add(endpoint.path().as_bytes());
    let mut rest = body;
    if let Some(boundary) = boundary.map(|boundary| boundary.as_str().as_bytes()) {
        let finder = memmem::Finder::new(boundary);
        while let Some((part, after)) = finder.find(rest).and_then(|at| rest.split_at_checked(at)) {
            add(part);
            rest = after.get(boundary.len()..).unwrap_or_default();
        }
    }
    add(rest);
    hash.finalize().into()
}

/// The boundary of a request that is a form. One that cannot be read has none: it will be refused.
fn boundary_of(request: &Request<'_>) -> Option<Boundary> {
    let content_type = request.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    match RequestForm::of(request.endpoint, content_type) {
        Ok(RequestForm::Multipart(boundary)) => Some(boundary),
        Ok(RequestForm::Json) | Err(_) => None,
    }
}

/// A request as its key sees it.
pub(crate) struct Request<'a> {
    /// Whoever asks, in bytes that tell callers apart.
    pub(crate) caller: &'a [u8],
    pub(crate) key: &'a str,
    pub(crate) endpoint: Endpoint,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a Bytes,
    /// How long it waits for the same request under way.
    pub(crate) patience: Duration,
}

/// Answers a request with a key: by `run`, unless the same was asked before. What `run` begins goes on to its end even if
/// the caller leaves, so that the caller can come back for it.
pub(crate) async fn once<R>(
    all: &Arc<Idempotency>,
    request: Request<'_>,
    run: impl FnOnce() -> R,
) -> Result<Response<Body>, ApiError>
where
    R: Future<Output = Result<Response<Body>, ApiError>> + Send + 'static,
{
    if all.table().is_off() {
        return run().await;
    }
    let (caller, name) = names(request.caller, request.key);
    let (endpoint, boundary, body) = (request.endpoint, boundary_of(&request), request.body.clone());
    let print = work_on(body.len(), move || fingerprint(endpoint, boundary.as_ref(), &body)).await?;
    let until = tokio::time::Instant::now() + request.patience;
    let serial = loop {
        let met = all.table().enter(caller, name, print, Instant::now());
        match met {
            Met::Nothing(serial) => break serial,
            Met::Done(recorded) => return Ok(replay(&recorded)),
            // Once its sender is gone, the one under way has ended.
            Met::Running(mut running) => {
                if tokio::time::timeout_at(until, running.changed()).await.is_err() {
                    return Err(in_use());
                }
            }
            Met::Another => {
                let message = "This Idempotency-Key was used for another request; use a new one for this.";
                return Err(ApiError::new(422, "invalid_request_error", "idempotency_key_reused", message));
            }
            Met::Full => {
                let message =
                    "Too many requests with an Idempotency-Key are under way; try again in a moment.";
                return Err(ApiError::workers_busy(message, 1));
            }
        }
    };
    let ticket = Ticket { all: Arc::clone(all), serial: Some(serial) };
    let (tell, told) = oneshot::channel();
    let work = run();
    all.spawn(async move {
        let answered = match work.await {
            Ok(response) => Ok(record(response, ticket)),
            Err(error) => {
                drop(ticket);
                Err(error)
            }
        };
        // Where the caller has left, the body's end is seen to when it is dropped.
        let _ = tell.send(answered);
    });
    told.await.unwrap_or_else(|_| Err(ApiError::no_proxy("The gateway is shutting down.")))
}

fn in_use() -> ApiError {
    let message = "The request with this Idempotency-Key is still under way; ask again later.";
    let mut error = ApiError::new(409, "invalid_request_error", "idempotency_key_in_use", message);
    error.retry_after = Some(1);
    error
}

fn replay(recorded: &Recorded) -> Response<Body> {
    let mut response = Response::new(Body::full(recorded.body.clone()));
    *response.status_mut() = recorded.status;
    *response.headers_mut() = recorded.headers.clone();
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

/// Keeps the answer once it is whole.
fn record(response: Response<Body>, ticket: Ticket) -> Response<Body> {
    let status = response.status();
    if !status.is_success() {
        return response;
    }
    let (parts, body) = response.into_parts();
    let headers = copied(&parts.headers);
    let body = match body {
        Body::Full(bytes) => {
            let body = bytes.as_deref().unwrap_or_default();
            if ticket.hold(header_bytes(&headers) + body.len()) {
                ticket.keep(Recorded { status, headers, body: Bytes::copy_from_slice(body) });
            }
            Body::Full(bytes)
        }
        Body::Answer(answer) if ticket.hold(header_bytes(&headers)) => {
            let recorder = Recorder { ticket, status, headers, body: Vec::new() };
            Body::Recording(Box::new(Recording(Some(Inner { answer, recorder: Some(recorder) }))))
        }
        other => other,
    };
    Response::from_parts(parts, body)
}

/// The headers to keep. Names are copies already.
fn copied(headers: &HeaderMap) -> HeaderMap {
    let kept = headers.iter().filter(|(name, _)| *name != CONTENT_LENGTH);
    kept.filter_map(|(name, value)| Some((name.clone(), HeaderValue::from_bytes(value.as_bytes()).ok()?)))
        .collect()
}

struct Recorder {
    ticket: Ticket,
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Recorder {
    /// Keeps a piece; `false`: the answer is too large.
    fn push(&mut self, piece: &[u8]) -> bool {
        let held = self.ticket.hold(piece.len());
        if held {
            self.body.extend_from_slice(piece);
        }
        held
    }

    fn keep(self) {
        let Self { ticket, status, headers, body } = self;
        ticket.keep(Recorded { status, headers, body: body.into_boxed_slice().into() });
    }
}

struct Inner {
    answer: Box<AnswerBody>,
    /// Gone once the answer is too large to be kept.
    recorder: Option<Recorder>,
}

impl Inner {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let polled = Pin::new(self.answer.as_mut()).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(data), Some(recorder)) = (frame.data_ref(), &mut self.recorder)
                    && !recorder.push(data)
                {
                    self.recorder = None;
                }
            }
            Poll::Ready(_) => self.end(),
            Poll::Pending => {}
        }
        // Who reads no further than the last frame has seen the end, too.
        if self.answer.is_end_stream() {
            self.end();
        }
        polled
    }

    fn end(&mut self) {
        if let Some(recorder) = self.recorder.take()
            && self.answer.is_complete()
        {
            recorder.keep();
        }
    }
}

impl http_body::Body for Inner {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.get_mut().poll(cx)
    }
}

/// A body that is recorded as it is passed on. Dropped before its end, it is read to the end all the same.
pub(crate) struct Recording(Option<Inner>);

impl Recording {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |inner| inner.poll(cx))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|inner| inner.answer.is_end_stream())
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let Some(mut inner) = self.0.take() else { return };
        // Where nothing can be kept, the work stops as ever.
        let Some(all) = inner.recorder.as_ref().map(|recorder| Arc::clone(&recorder.ticket.all)) else {
            return;
        };
        if tokio::runtime::Handle::try_current().is_ok() {
            all.spawn(async move {
                while let Some(Ok(_)) = inner.frame().await {
                    if inner.recorder.is_none() {
                        return;
                    }
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn print(endpoint: Endpoint, content_type: &str, body: &str) -> [u8; 32] {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
        let body = Bytes::copy_from_slice(body.as_bytes());
        let patience = Duration::ZERO;
        let request = Request { caller: b"", key: "k", endpoint, headers: &headers, body: &body, patience };
        fingerprint(endpoint, boundary_of(&request).as_ref(), &body)
    }

    fn form(boundary: &str, text: &str) -> [u8; 32] {
        let kind = format!("multipart/form-data; boundary={boundary}");
        let body = format!("--{boundary}\r\nfield\r\n\r\n{text}\r\n--{boundary}--\r\n");
        print(Endpoint::Transcriptions, &kind, &body)
    }

    #[test]
    fn the_same_form_with_another_boundary_is_the_same_request() {
        assert_eq!(form("aaaab", "x"), form("other", "x"));
        assert_ne!(form("aaaab", "x"), form("aaaab", "y"));
        let json = "application/json";
        assert_ne!(print(Endpoint::Chat, json, "x"), print(Endpoint::Completions, json, "x"));
        assert_ne!(names(b"one", "k"), names(b"two", "k"));
    }

    #[test]
    fn json_has_no_boundary_whatever_its_type_says() {
        let of = |boundary: &str, body: &str| print(Endpoint::Chat, &format!("x; boundary={boundary}"), body);
        assert_ne!(of("one", "{one}"), of("two", "{two}"));
        assert_eq!(of("one", "{one}"), of("two", "{one}"));
    }

    #[test]
    fn no_boundary_makes_the_search_for_it_long() {
        let body = "a".repeat(8 << 20);
        for (endpoint, boundary) in [
            (Endpoint::Chat, format!("{}b", "a".repeat(29_999))),
            (Endpoint::Transcriptions, format!("{}b", "a".repeat(69))),
        ] {
            let began = Instant::now();
            print(endpoint, &format!("multipart/form-data; boundary={boundary}"), &body);
            let took = began.elapsed();
            assert!(took < Duration::from_secs(3), "{endpoint}: {took:?}");
        }
    }

    /// The right to run a request, and where its answer is kept.
    fn ticket() -> (Arc<Idempotency>, Ticket) {
        let all = Arc::new(Idempotency::new(
            super::super::IdempotencyLimits::default(),
            tokio_util::task::TaskTracker::new(),
            tokio_util::sync::CancellationToken::new(),
        ));
        let met = all.table().enter([1; 32], [1; 32], [1; 32], Instant::now());
        let Met::Nothing(serial) = met else { panic!("{met:?}") };
        (Arc::clone(&all), Ticket { all, serial: Some(serial) })
    }

    #[test]
    fn a_kept_answer_holds_no_buffer_of_a_connection() {
        let buffer = Bytes::from(vec![b'x'; 256 << 10]);
        let (all, held) = ticket();
        let mut response = Response::new(Body::full(buffer.slice(..5)));
        response.headers_mut().append("x-a", HeaderValue::from_maybe_shared(buffer.slice(..9)).unwrap());
        response.headers_mut().append("x-a", HeaderValue::from_static("second"));
        drop(record(response, held));
        let met = all.table().enter([1; 32], [1; 32], [1; 32], Instant::now());
        let Met::Done(kept) = met else { panic!("{met:?}") };
        assert_eq!((kept.body.as_ref(), kept.headers.get_all("x-a").iter().count()), (&b"xxxxx"[..], 2));
        assert!(buffer.is_unique());

        let (_all, held) = ticket();
        let mut recorder =
            Recorder { ticket: held, status: StatusCode::OK, headers: HeaderMap::new(), body: Vec::new() };
        let piece = buffer.slice(..5);
        assert!(recorder.push(&piece));
        drop(piece);
        assert!(buffer.is_unique());
    }

    #[test]
    fn a_key_is_one_short_text() {
        let keys = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(KEY, HeaderValue::from_str(value).unwrap());
            }
            key_of(&headers).map(|key| key.map(str::to_owned)).map_err(|error| error.status)
        };
        assert_eq!(keys(&[]), Ok(None));
        assert_eq!(keys(&["a"]), Ok(Some("a".to_owned())));
        assert_eq!(keys(&["a", "a"]), Err(400));
        assert_eq!(keys(&[""]), Err(400));
        assert_eq!(keys(&[&"x".repeat(255)]).map(|key| key.map(|key| key.len())), Ok(Some(255)));
        assert_eq!(keys(&[&"x".repeat(256)]), Err(400));
    }
}
