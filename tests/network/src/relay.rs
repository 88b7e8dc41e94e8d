//! A TCP relay between two nodes, on which a test cuts, stalls and slows connections.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::network::local;

/// Bytes that are passed on at a time.
const PIECE_BYTES: usize = 16 * 1024;

/// How a relay treats what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Nothing is read any more; the connections stay.
    Stall,
    /// Each piece waits so long.
    Slow(Duration),
}

struct Shared {
    target: Mutex<SocketAddr>,
    mode: watch::Sender<Mode>,
    cut: Mutex<CancellationToken>,
}

/// Listens at an address of its own, and passes everything on to a target that may change.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

impl Relay {
    /// A relay to `target`.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(local()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            mode: watch::Sender::new(Mode::Pass),
            cut: Mutex::new(stop.child_token()),
        });
        tokio::spawn(accept(listener, Arc::clone(&shared), stop.clone()));
        Self { address, shared, _stop: stop.drop_guard() }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// New connections go there.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap() = target;
    }

    /// How it treats what passes from now on.
    pub fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
    }

    /// Ends all connections, in the middle of whatever they say.
    pub fn cut(&self) {
        let mut cut = self.shared.cut.lock().unwrap();
        cut.cancel();
        *cut = CancellationToken::new();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((inner, _)) = accepted else { continue };
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tokio::spawn(async move {
            let (target, cut) = (*shared.target.lock().unwrap(), shared.cut.lock().unwrap().clone());
            let Ok(outer) = TcpStream::connect(target).await else { return };
            let _ = (inner.set_nodelay(true), outer.set_nodelay(true));
            let ((from_inner, to_inner), (from_outer, to_outer)) = (inner.into_split(), outer.into_split());
            let mode = shared.mode.subscribe();
            tokio::select! {
                // Where one direction ends both do: nobody here half-closes.
                () = pass(from_inner, to_outer, mode.clone()) => {}
                () = pass(from_outer, to_inner, mode) => {}
                () = cut.cancelled() => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mode: watch::Receiver<Mode>) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        if mode.wait_for(|mode| *mode != Mode::Stall).await.is_err() {
            return;
        }
        let Ok(read @ 1..) = from.read(&mut piece).await else { return };
        // What was read before it stalled waits, too.
        let now = match mode.wait_for(|mode| *mode != Mode::Stall).await {
            Ok(mode) => *mode,
            Err(_) => return,
        };
        if let Mode::Slow(wait) = now {
            tokio::time::sleep(wait).await;
        }
        if to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}
