//! Accepting the few, short connections of an operator's pages, so that nobody can use up the node's file descriptors there.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// Connections at a time; further ones wait in the system's own queue.
const MAX_CONNECTIONS: usize = 64;
/// A connection's whole life. Pages are small: this is room for many of them.
const LIFETIME: Duration = Duration::from_secs(30);
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Accepts a bounded number of connections, each for a bounded time.
#[derive(Debug)]
pub struct PageListener {
    tcp: TcpListener,
    places: Arc<Semaphore>,
}

/// One of them. Reading fails when its time is up.
#[derive(Debug)]
pub struct PageStream {
    tcp: TcpStream,
    ends: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl PageListener {
    /// Listens on `address`.
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Ok(Self { tcp: TcpListener::bind(address).await?, places })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The next connection; waits for a free place, and out any trouble of the system.
    pub async fn accept(&self) -> (PageStream, SocketAddr) {
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { continue };
            match self.tcp.accept().await {
                Ok((tcp, remote)) => {
                    let ends = Box::pin(tokio::time::sleep(LIFETIME));
                    return (PageStream { tcp, ends, _place: place }, remote);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an operator's connection; trying again");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}

impl PageStream {
    fn time_is_up(&mut self, cx: &mut Context<'_>) -> bool {
        self.ends.as_mut().poll(cx).is_ready()
    }
}

impl AsyncRead for PageStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.time_is_up(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for PageStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.time_is_up(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn a_connection_over_the_limit_waits_for_a_free_place() {
        let listener = PageListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut callers = Vec::new();
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            callers.push(TcpStream::connect(address).await.unwrap());
            held.push(listener.accept().await);
        }
        let _one_more = TcpStream::connect(address).await.unwrap();
        let accepting = listener.accept();
        tokio::pin!(accepting);
        let waits = std::future::poll_fn(|cx| Poll::Ready(accepting.as_mut().poll(cx).is_pending())).await;
        assert!(waits, "there is no place");
        held.pop();
        accepting.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_stays_is_ended() {
        let listener = PageListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let _caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await;
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
