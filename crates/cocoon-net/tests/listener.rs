//! Many connections at once: limits hold, and nobody holds up anybody else.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use cocoon_attest::Policy;
use cocoon_net::{ConnectFailure, Listener, ListenerOptions, SecureStream, Stage, dial};
use cocoon_wire::pow::CHALLENGE_LEN;
use support::{accepting, dialling, node};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

struct Server {
    address: SocketAddr,
    ready: mpsc::Receiver<SecureStream>,
    task: AbortOnDropHandle<()>,
}

async fn serve(options: ListenerOptions) -> Server {
    let listener = Listener::bind("127.0.0.1:0", node("none", Policy::any()), options).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, ready) = mpsc::channel(16);
    Server { address, ready, task: AbortOnDropHandle::new(tokio::spawn(listener.run(sender))) }
}

fn options() -> ListenerOptions {
    ListenerOptions { accept: accepting(), ..ListenerOptions::default() }
}

impl Server {
    async fn dial(&self) -> Result<SecureStream, ConnectFailure> {
        let settings = node("none", Policy::any());
        dial(&self.address.to_string(), &settings, &dialling()).await.map_err(|error| error.cause)
    }

    /// Dials until there is room: freeing a place takes the server a moment.
    async fn dial_until_room(&self) -> SecureStream {
        let dialling = async {
            loop {
                if let Ok(stream) = self.dial().await {
                    return stream;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), dialling).await.expect("no place became free")
    }

    /// A connection that was let in so far as to be asked for work, and stays there.
    async fn linger(&self) -> TcpStream {
        let mut tcp = TcpStream::connect(self.address).await.unwrap();
        tcp.read_exact(&mut [0; CHALLENGE_LEN]).await.unwrap();
        tcp
    }
}

fn assert_turned_away(result: Result<SecureStream, ConnectFailure>) {
    match result {
        Err(ConnectFailure::Closed { stage: Stage::ProofOfWork }) => {}
        other => panic!("not turned away: {other:?}"),
    }
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_at_once_and_a_dropped_one_makes_room() {
    let mut server = serve(ListenerOptions { max_connections: 2, ..options() }).await;
    let _first = server.dial().await.unwrap();
    let first_accepted = server.ready.recv().await.unwrap();
    let _second = server.dial().await.unwrap();
    let _second_accepted = server.ready.recv().await.unwrap();
    assert_turned_away(server.dial().await);
    drop(first_accepted);
    server.dial().await.unwrap();
    server.ready.recv().await.unwrap();
}

#[tokio::test]
async fn lingering_set_ups_are_limited_per_address_and_make_room_when_they_leave() {
    let server = serve(ListenerOptions { max_pending_per_ip: 2, ..options() }).await;
    let (first, second) = (server.linger().await, server.linger().await);
    assert_turned_away(server.dial().await);
    drop((first, second));
    server.dial_until_room().await;
}

#[tokio::test]
async fn lingering_set_ups_are_limited_in_all() {
    let server = serve(ListenerOptions { max_pending: 1, ..options() }).await;
    let lingering = server.linger().await;
    assert_turned_away(server.dial().await);
    drop(lingering);
    server.dial_until_room().await;
}

#[tokio::test]
async fn a_finished_set_up_no_longer_counts_as_pending() {
    let mut server = serve(ListenerOptions { max_pending: 1, max_pending_per_ip: 1, ..options() }).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(server.dial().await.unwrap());
        streams.push(server.ready.recv().await.unwrap());
    }
}

#[tokio::test]
async fn silent_and_babbling_peers_do_not_hold_up_the_others() {
    let mut server = serve(options()).await;
    let mut bad = Vec::new();
    for _ in 0..20 {
        bad.push(server.linger().await);
        let mut babbling = server.linger().await;
        babbling.write_all(&[0xff; 4096]).await.unwrap();
        bad.push(babbling);
    }
    let mut dialled = server.dial().await.unwrap();
    let mut accepted = server.ready.recv().await.unwrap();
    dialled.io.write_all(b"x").await.unwrap();
    accepted.io.read_exact(&mut [0]).await.unwrap();
}

#[tokio::test]
async fn the_listener_ends_when_nobody_receives_and_closes_what_is_under_way() {
    let Server { address, ready, task } = serve(options()).await;
    let server =
        Server { address, ready: mpsc::channel(1).1, task: AbortOnDropHandle::new(tokio::spawn(async {})) };
    let mut lingering = server.linger().await;
    drop(ready);
    tokio::time::timeout(Duration::from_secs(20), task).await.expect("the listener goes on").unwrap();
    let read = lingering.read(&mut [0; 1]).await;
    assert!(!matches!(read, Ok(1..)), "{read:?}");
    assert!(matches!(server.dial().await, Err(ConnectFailure::Unreachable(_))));
}
