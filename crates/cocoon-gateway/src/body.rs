//! The bodies of our HTTP answers.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::answer::{AnswerBody, Broken};
use crate::idempotency::Recording;
use crate::slots::Busy;

/// A body: all there, or on its way.
pub(crate) enum Body {
    Full(Option<Bytes>),
    Answer(Box<AnswerBody>),
    /// On its way, and kept for whoever asks the same again.
    Recording(Box<Recording>),
}

impl Body {
    pub(crate) fn full(bytes: Bytes) -> Self {
        Self::Full((!bytes.is_empty()).then_some(bytes))
    }

    pub(crate) const EMPTY: Self = Self::Full(None);

    /// Whether it is still on its way.
    pub(crate) const fn flows(&self) -> bool {
        !matches!(self, Self::Full(_))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Answer(answer) => Pin::new(answer.as_mut()).poll_frame(cx),
            Self::Recording(recording) => recording.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Answer(answer) => answer.is_end_stream(),
            Self::Recording(recording) => recording.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Answer(_) | Self::Recording(_) => SizeHint::default(),
        }
    }
}

/// A body during which its connection is at work.
pub(crate) struct Occupying {
    pub(crate) body: Body,
    pub(crate) _busy: Busy,
}

impl http_body::Body for Occupying {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
