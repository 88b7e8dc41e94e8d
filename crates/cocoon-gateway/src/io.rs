//! A TCP connection that gives up on a caller who stops reading, and tells one that has left from one that only has
//! nothing more to say.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::slots::Slot;

/// What a caller is told that closed its sending side before its answer began: one that is still there passes over it
/// (RFC 9110 §15.2), and the system of one that has left refuses it.
const ARE_YOU_THERE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// When it is looked whether the system refused it; the last one again and again.
const LOOKS: [Duration; 5] = [
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(10),
];

/// How often it is looked, at the shortest of these, whether the end of a request that was sent is still on its way in.
const UNHEARD_LOOKS: u32 = 20;

/// A stream on which a caller that closes its sending side in the middle of a request still gets its answer.
///
/// HTTP allows that, but it looks the same as leaving, at which the request must stop. So the caller is spoken to: where
/// the connection is refused then, it has left. Once the answer has begun, whoever closes counts as gone.
pub(crate) struct HalfClosed<S> {
    stream: S,
    slot: Arc<Slot>,
    /// The request, by its number on this connection, of whose answer something was written.
    begun: u64,
    closed: Option<Closed>,
}

struct Closed {
    /// How much of the question is out.
    sent: usize,
    looks: usize,
    /// How often it was looked whether the request has been read.
    unheard: u32,
    next: Pin<Box<Sleep>>,
}

impl<S> HalfClosed<S> {
    pub(crate) fn new(stream: S, slot: Arc<Slot>) -> Self {
        Self { stream, slot, begun: 0, closed: None }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> HalfClosed<S> {
    /// The caller has closed its side. Ready where it is gone, or gets nothing more.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.slot.is_busy() {
                // After the answer nothing is waited for.
                return Poll::Ready(Ok(()));
            }
            if self.begun == self.slot.requests() {
                // In the middle of it, writing shows who is there.
                return if self.closed.is_some() { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            let closed = self.closed.get_or_insert_with(|| Closed {
                sent: 0,
                looks: 0,
                unheard: 0,
                next: Box::pin(tokio::time::sleep(LOOKS[0])),
            });
            if !self.slot.is_heard() {
                if closed.unheard == UNHEARD_LOOKS {
                    // It closed in the middle of its request.
                    return Poll::Ready(Ok(()));
                }
                std::task::ready!(closed.next.as_mut().poll(cx));
                closed.unheard += 1;
                closed.next.as_mut().reset(Instant::now() + LOOKS[0]);
                continue;
            }
            if closed.sent < ARE_YOU_THERE.len() {
                let written = Pin::new(&mut self.stream).poll_write(cx, &ARE_YOU_THERE[closed.sent..]);
                if let Poll::Ready(written) = written {
                    closed.sent += written?;
                    continue;
                }
            }
            std::task::ready!(closed.next.as_mut().poll(cx));
            let last = LOOKS.len() - 1;
            closed.looks += 1;
            if closed.looks >= last {
                // It may leave later on.
                closed.sent = 0;
            }
            closed.next.as_mut().reset(Instant::now() + LOOKS[closed.looks.min(last)]);
            // Nothing is sent; a connection that was refused says so.
            if let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_write(cx, &[]) {
                return Poll::Ready(Err(error));
            }
        }
    }

    fn wrote(&mut self) {
        self.begun = self.slot.requests();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for HalfClosed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.closed.is_none() {
            let before = buf.filled().len();
            let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
            let over =
                matches!(polled, Poll::Ready(Ok(()))) && buf.filled().len() == before && buf.remaining() > 0;
            if !over {
                return polled;
            }
        }
        this.poll_gone(cx)
    }
}

impl<S: AsyncWrite + Unpin + AsyncRead> AsyncWrite for HalfClosed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.wrote();
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.wrote();
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Fails a write with [`io::ErrorKind::TimedOut`] once nothing could be written for the time given.
pub(crate) struct Stalling<S> {
    stream: S,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Stalling<S> {
    pub(crate) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, stalled: None }
    }

    /// Turns a pending write into an error when the time is up.
    fn watch<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let patience = self.patience;
        let stalled =
            self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + patience)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(polled, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watch(polled, cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stops_for_too_long_is_given_up_and_one_that_pauses_is_not() {
        let (ours, theirs) = tokio::io::duplex(16);
        let mut ours = Stalling::new(ours, Duration::from_secs(5));
        let error = ours.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(theirs);

        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut ours = Stalling::new(ours, Duration::from_secs(5));
        let slow = async {
            let mut left = 64;
            while left > 0 {
                tokio::time::sleep(Duration::from_secs(4)).await;
                left -= tokio::io::AsyncReadExt::read(&mut theirs, &mut [0; 16]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(ours.write_all(&[0; 64]), slow);
        written.unwrap();
    }
}
