//! Request bodies that come bit by bit.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{BoxStream, Stream, StreamExt as _};
use http_body::{Frame, SizeHint};

/// The part of a request's body that follows what is there, as it comes.
///
/// Clones share the stream: whoever takes it first gets the bytes. It is read only as fast as the engine takes it, which is
/// how an engine holds its caller back. An error in it breaks the exchange off.
#[derive(Clone)]
pub struct BodyStream {
    stream: Arc<Mutex<Option<Bits>>>,
    length: Option<u64>,
}

type Bits = BoxStream<'static, Result<Bytes, BodyBroken>>;

/// The rest of a request's body will not come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the request's body will not be complete")]
pub struct BodyBroken;

impl BodyStream {
    /// A body of which `length` bytes follow; `None` where nobody knows how many.
    pub fn new(
        stream: impl Stream<Item = Result<Bytes, BodyBroken>> + Send + 'static,
        length: Option<u64>,
    ) -> Self {
        Self { stream: Arc::new(Mutex::new(Some(stream.boxed()))), length }
    }

    /// How many bytes follow, where that is known.
    #[must_use]
    pub const fn length(&self) -> Option<u64> {
        self.length
    }

    /// The bytes, for the one who reads them; nothing where they were taken before.
    #[must_use]
    pub fn take(&self) -> Option<Bits> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl std::fmt::Debug for BodyStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BodyStream").field("length", &self.length).finish_non_exhaustive()
    }
}

/// A body as it is sent.
pub(crate) struct Sending {
    first: Option<Bytes>,
    rest: Option<Bits>,
    /// Bytes still to be sent, where that is known.
    left: Option<u64>,
    /// Told once all of it was handed over for sending.
    sent: Arc<AtomicBool>,
}

impl Sending {
    pub(crate) fn new(first: Bytes, rest: Option<&BodyStream>) -> Self {
        let left = match rest {
            None => Some(first.len() as u64),
            Some(rest) => rest.length.and_then(|length| length.checked_add(first.len() as u64)),
        };
        let rest = rest.and_then(BodyStream::take);
        let sent = Arc::new(AtomicBool::new(rest.is_none()));
        Self { first: Some(first).filter(|first| !first.is_empty()), rest, left, sent }
    }

    /// Whether the body is all handed over, at any later time: before, its connection is good for nothing else.
    pub(crate) fn sent(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.sent)
    }

    fn note(&mut self, bytes: usize) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(bytes as u64);
        }
    }
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = BodyBroken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyBroken>>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            this.note(first.len());
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        loop {
            let Some(rest) = &mut this.rest else { return Poll::Ready(None) };
            match rest.as_mut().poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(data))) if data.is_empty() => {}
                Poll::Ready(Some(Ok(data))) if this.left.is_some_and(|left| data.len() as u64 > left) => {
                    this.rest = None;
                    return Poll::Ready(Some(Err(BodyBroken)));
                }
                Poll::Ready(Some(Ok(data))) => {
                    this.note(data.len());
                    if this.left == Some(0) {
                        this.sent.store(true, Ordering::Relaxed);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(Some(Err(broken))) => {
                    this.rest = None;
                    return Poll::Ready(Some(Err(broken)));
                }
                Poll::Ready(None) => {
                    this.rest = None;
                    // Shorter than it said it was: what goes out must not look whole.
                    if this.left.is_some_and(|left| left > 0) {
                        return Poll::Ready(Some(Err(BodyBroken)));
                    }
                    this.sent.store(true, Ordering::Relaxed);
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
