//! Runs a request under its key, records its answer, and replays it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cocoon_openai::ApiError;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use super::table::{Key, Met};
use super::{Idempotency, Recorded, Ticket};
use crate::answer::{AnswerBody, Broken};
use crate::body::Body;

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

/// A caller and its key. Callers do not meet each other's keys.
fn name(caller: &[u8], key: &str) -> Key {
    let caller = Sha256::digest(caller);
    Sha256::new().chain_update(b"key").chain_update(caller).chain_update(key).finalize().into()
}

/// What tells requests apart: endpoint and body. The boundary of a form is another one each time that a client writes
/// the same form, so it counts for nothing.
fn fingerprint(path: &str, headers: &HeaderMap, body: &[u8]) -> [u8; 32] {
    let form = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (kind, boundary) = form.split_once("boundary=").unwrap_or((form, ""));
    let boundary = boundary.split(';').next().unwrap_or_default().trim().trim_matches('"').as_bytes();
    let mut hash = Sha256::new();
    for part in [path, kind] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    if boundary.is_empty() {
        hash.update(body);
        return hash.finalize().into();
    }
    let mut from = 0;
    while let Some(found) = find(&body[from..], boundary) {
        hash.update(&body[from..from + found]);
        hash.update([0]);
        from += found + boundary.len();
    }
    hash.update(&body[from..]);
    hash.finalize().into()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    let first = *what.first()?;
    let mut from = 0;
    loop {
        let at = from + bytes.get(from..)?.iter().position(|&byte| byte == first)?;
        if bytes[at..].starts_with(what) {
            return Some(at);
        }
        from = at + 1;
    }
}

/// A request as its key sees it.
pub(crate) struct Request<'a> {
    /// Whoever asks, in bytes that tell callers apart.
    pub(crate) caller: &'a [u8],
    pub(crate) key: &'a str,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
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
    let name = name(request.caller, request.key);
    let print = fingerprint(request.path, request.headers, request.body);
    let until = tokio::time::Instant::now() + request.patience;
    let serial = loop {
        let met = all.table().enter(name, print, Instant::now());
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
    let mut headers = parts.headers.clone();
    headers.remove(CONTENT_LENGTH);
    let body = match body {
        Body::Full(bytes) => {
            let body = bytes.clone().unwrap_or_default();
            if ticket.hold(body.len()) {
                ticket.keep(Recorded { status, headers, body });
            }
            Body::Full(bytes)
        }
        Body::Answer(answer) => {
            let recorder = Recorder { ticket, status, headers, pieces: VecDeque::new() };
            Body::Recording(Box::new(Recording(Some(Inner { answer, recorder: Some(recorder) }))))
        }
        other => other,
    };
    Response::from_parts(parts, body)
}

struct Recorder {
    ticket: Ticket,
    status: StatusCode,
    headers: HeaderMap,
    pieces: VecDeque<Bytes>,
}

impl Recorder {
    fn keep(self) {
        let Self { ticket, status, headers, pieces } = self;
        let body = Vec::from(pieces).concat().into();
        ticket.keep(Recorded { status, headers, body });
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
                if let (Some(data), Some(recorder)) = (frame.data_ref(), &mut self.recorder) {
                    match recorder.ticket.hold(data.len()) {
                        true => recorder.pieces.push_back(data.clone()),
                        false => self.recorder = None,
                    }
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

    fn form(boundary: &str, text: &str) -> [u8; 32] {
        let mut headers = HeaderMap::new();
        let kind = format!("multipart/form-data; boundary={boundary}");
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(&kind).unwrap());
        let body = format!("--{boundary}\r\nfield\r\n\r\n{text}\r\n--{boundary}--\r\n");
        fingerprint("/v1/audio/transcriptions", &headers, body.as_bytes())
    }

    #[test]
    fn the_same_form_with_another_boundary_is_the_same_request() {
        assert_eq!(form("aaaab", "x"), form("other", "x"));
        assert_ne!(form("aaaab", "x"), form("aaaab", "y"));
        let none = HeaderMap::new();
        assert_ne!(fingerprint("/a", &none, b"x"), fingerprint("/b", &none, b"x"));
        assert_ne!(name(b"one", "k"), name(b"two", "k"));
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
