//! An embedded chain on an HTTP port: toncenter's API, the faucet and the clock.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::Context as _;
use cocoon_localchain::{LocalChain, toncenter};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Connections at a time; further ones wait in the system's own queue.
const MAX_CONNECTIONS: usize = 256;
/// Longest silence of a connection before it is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(90);
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Longest wait at the end for requests under way.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// A chain that answers on a port, until this is dropped.
pub(crate) struct ChainServer {
    address: SocketAddr,
    stop: CancellationToken,
    server: AbortOnDropHandle<io::Result<()>>,
}

impl ChainServer {
    /// Serves `chain` at `listen`. Whoever reaches that address may use the faucet and move the clock.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub(crate) async fn start(chain: LocalChain, listen: SocketAddr) -> anyhow::Result<Self> {
        let cannot = || format!("cannot listen on {listen}; choose another address with --listen");
        let tcp = TcpListener::bind(listen).await.with_context(cannot)?;
        let address = tcp.local_addr().with_context(cannot)?;
        let listener = Bounded { tcp, places: Arc::new(Semaphore::new(MAX_CONNECTIONS)) };
        let routes = toncenter::routes(chain.clone()).merge(toncenter::control_routes(chain));
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let server = axum::serve(listener, routes).with_graceful_shutdown(stopped);
        let server = AbortOnDropHandle::new(tokio::spawn(server.into_future()));
        Ok(Self { address, stop, server })
    }

    /// Where it is reached.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends once the requests under way have their answers, or [`DRAIN_LIMIT`] is over.
    pub(crate) async fn shutdown(self) {
        self.stop.cancel();
        // It never fails, and whoever is not done by then is cut off.
        let _ = tokio::time::timeout(DRAIN_LIMIT, self.server).await;
    }
}

/// Accepts a bounded number of connections.
struct Bounded {
    tcp: TcpListener,
    places: Arc<Semaphore>,
}

impl axum::serve::Listener for Bounded {
    type Io = Watched;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Watched, SocketAddr) {
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { continue };
            match self.tcp.accept().await {
                Ok((tcp, remote)) => {
                    let silence = Box::pin(tokio::time::sleep(IDLE_LIMIT));
                    return (Watched { tcp, silence, _place: place }, remote);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; trying again");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// A connection that ends when its other side says nothing for [`IDLE_LIMIT`].
struct Watched {
    tcp: TcpStream,
    silence: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.tcp).poll_read(cx, buf) {
            Poll::Ready(read) => {
                self.silence.as_mut().reset(Instant::now() + IDLE_LIMIT);
                Poll::Ready(read)
            }
            Poll::Pending => {
                ready!(self.silence.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
