//! A connection that is up.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::PeerIdentity;
use crate::Renewal;
use crate::judge::Pause;
use crate::listener::Slot;

/// A connection to a peer that the policy let in.
#[derive(Debug)]
pub struct SecureStream {
    /// The bytes, both ways.
    pub io: SecureIo,
    /// Who is at the other end.
    pub peer: PeerIdentity,
    /// From where.
    pub remote: SocketAddr,
    /// When to dial it again.
    pub renewal: Renewal,
}

/// The encrypted byte stream. It counts against its listener's limit until it is dropped, and ends as soon as the
/// peer is no longer let in: from then on nothing is read or written. While what is known of the peer has run out and is
/// being found out anew, reading and writing wait.
pub struct SecureIo {
    tls: TlsStream<TcpStream>,
    slot: Option<Slot>,
    standing: Standing,
    pause: Pause,
}

/// Whether the peer is still let in.
enum Standing {
    /// It is; the future says why it no longer is.
    Good(Pin<Box<dyn Future<Output = String> + Send>>),
    /// It is not.
    Lost(NoLongerAllowed),
}

/// Why a peer lost its connection.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the peer is no longer let in: {0}")]
pub struct NoLongerAllowed(String);

impl SecureIo {
    pub(crate) fn new(
        tls: TlsStream<TcpStream>,
        until_refused: impl Future<Output = String> + Send + 'static,
        pause: Pause,
    ) -> Self {
        Self { tls, slot: None, standing: Standing::Good(Box::pin(until_refused)), pause }
    }

    /// Looks before every read and write, so that nothing gets through once the policy has changed.
    fn poll_standing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Standing::Good(until_refused) = &mut self.standing
            && let Poll::Ready(why) = until_refused.as_mut().poll(cx)
        {
            self.standing = Standing::Lost(NoLongerAllowed(why));
        }
        match &self.standing {
            // The future, polled just now, wakes us when the pause is over.
            Standing::Good(_) if self.pause.is_on() => Poll::Pending,
            Standing::Good(_) => Poll::Ready(Ok(())),
            Standing::Lost(why) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::PermissionDenied, why.clone())))
            }
        }
    }

    /// Our end of it, by which the peer's log knows us.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tls.get_ref().0.local_addr()
    }

    /// Ties the place under the listener's limit to the life of the stream.
    pub(crate) fn hold(&mut self, slot: Slot) {
        self.slot = Some(slot);
    }
}

impl fmt::Debug for SecureIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecureIo").field("tls", &self.tls).field("slot", &self.slot).finish_non_exhaustive()
    }
}

impl AsyncRead for SecureIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_standing(cx))?;
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for SecureIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_standing(cx))?;
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_standing(cx))?;
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_standing(cx))?;
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
