//! A connection that is up.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::PeerIdentity;
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
}

/// The encrypted byte stream. It counts against its listener's limit until it is dropped.
#[derive(Debug)]
pub struct SecureIo {
    tls: TlsStream<TcpStream>,
    slot: Option<Slot>,
}

impl SecureIo {
    pub(crate) fn new(tls: TlsStream<TcpStream>) -> Self {
        Self { tls, slot: None }
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

impl AsyncRead for SecureIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for SecureIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
