//! A connection that is up.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::PeerIdentity;
use crate::Renewal;
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
/// peer is no longer let in: from then on nothing is read or written.
pub struct SecureIo {
    tls: TlsStream<TcpStream>,
    slot: Option<Slot>,
    standing: Standing,
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
    ) -> Self {
        Self { tls, slot: None, standing: Standing::Good(Box::pin(until_refused)) }
    }

    /// Looks before every read and write, so that nothing gets through once the policy has changed.
    fn check_standing(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Standing::Good(until_refused) = &mut self.standing
            && let Poll::Ready(why) = until_refused.as_mut().poll(cx)
        {
            self.standing = Standing::Lost(NoLongerAllowed(why));
        }
        match &self.standing {
            Standing::Good(_) => Ok(()),
            Standing::Lost(why) => Err(io::Error::new(io::ErrorKind::PermissionDenied, why.clone())),
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
        self.check_standing(cx)?;
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for SecureIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_standing(cx)?;
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_standing(cx)?;
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_standing(cx)?;
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
