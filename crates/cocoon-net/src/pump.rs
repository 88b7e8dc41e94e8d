//! Moves bytes between a connection and the state machine behind it, in one task per connection.
//!
//! Reading and writing go on side by side: a peer that does not read never keeps us from reading. What is to be sent
//! is asked for only when the last bytes are out, so that the peer's slowness reaches the state machine.

use std::io;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::NoLongerAllowed;

/// Bytes asked of the state machine at a time.
const SEND_BYTES: usize = 128 * 1024;
/// Room for reading, when it is made.
const READ_BYTES: usize = 32 * 1024;
/// Less room than this is too little to read into. Frames that are still in use keep their buffer, so making room often
/// means a new one: not before each of many small reads.
const LEAST_ROOM: usize = 4 * 1024;
/// A read buffer that grew for a large frame is given back over this.
const KEEP_BYTES: usize = 256 * 1024;
/// How long the last words to a peer may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// The state machine behind a connection.
pub trait Endpoint: Send + Sync {
    /// Takes in what was received, and leaves an incomplete frame in `received`.
    ///
    /// # Errors
    /// Why the connection must be closed, in words for the log.
    fn receive(&self, received: &mut BytesMut) -> Result<(), String>;

    /// Bytes to send, about `capacity` of them. [`Notify`] tells [`pump`] when to ask again.
    fn transmit(&self, capacity: usize) -> Option<Bytes>;
}

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The peer closed it.
    #[error("closed by the peer")]
    ByPeer,
    /// We closed it.
    #[error("closed by us")]
    ByUs,
    /// The peer is no longer let in.
    #[error("closed: {0}")]
    Refused(NoLongerAllowed),
    /// It broke.
    #[error("broken: {0}")]
    Broken(io::Error),
    /// The peer broke the protocol.
    #[error("closed because of the peer: {0}")]
    Violation(String),
}

/// Serves a connection until it ends. `wake` is to be notified whenever there may be something to send; `close` closes the
/// connection after what is to be sent went out (within two seconds).
pub async fn pump<S>(stream: S, endpoint: &dyn Endpoint, wake: &Notify, close: &CancellationToken) -> Ended
where
    S: AsyncRead + AsyncWrite + Send,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut received = BytesMut::new();
    let mut sending = Bytes::new();
    let ended =
        move_bytes(&mut reader, &mut writer, &mut received, &mut sending, endpoint, wake, close).await;
    if matches!(ended, Ended::ByUs | Ended::Violation(_)) {
        let farewell = async {
            loop {
                writer.write_all_buf(&mut sending).await?;
                match endpoint.transmit(SEND_BYTES) {
                    Some(more) => sending = more,
                    None => break,
                }
            }
            writer.shutdown().await
        };
        // Whether the peer still listens makes no difference to how the connection ended.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }
    ended
}

async fn move_bytes<S: AsyncRead + AsyncWrite>(
    reader: &mut ReadHalf<S>,
    writer: &mut WriteHalf<S>,
    received: &mut BytesMut,
    sending: &mut Bytes,
    endpoint: &dyn Endpoint,
    wake: &Notify,
    close: &CancellationToken,
) -> Ended {
    let mut unflushed = false;
    loop {
        if sending.is_empty()
            && let Some(more) = endpoint.transmit(SEND_BYTES)
        {
            *sending = more;
        }
        if received.is_empty() && received.capacity() > KEEP_BYTES {
            *received = BytesMut::new();
        }
        if received.capacity() - received.len() < LEAST_ROOM {
            received.reserve(READ_BYTES);
        }
        tokio::select! {
            written = write_some(writer, sending), if unflushed || !sending.is_empty() => match written {
                Ok(0) if !sending.is_empty() => return Ended::Broken(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    unflushed = !sending.is_empty();
                    sending.advance(count);
                }
                Err(error) => return broken(error),
            },
            () = wake.notified(), if sending.is_empty() => {}
            read = reader.read_buf(received) => match read {
                Ok(0) => return Ended::ByPeer,
                Ok(_) => if let Err(why) = endpoint.receive(received) {
                    return Ended::Violation(why);
                },
                Err(error) if is_close(&error) => return Ended::ByPeer,
                Err(error) => return broken(error),
            },
            () = close.cancelled() => return Ended::ByUs,
        }
    }
}

/// Writes what it can, and flushes when there is nothing to write. Returns the bytes written.
async fn write_some(writer: &mut (impl AsyncWrite + Unpin), sending: &[u8]) -> io::Result<usize> {
    if sending.is_empty() { writer.flush().await.map(|()| 0) } else { writer.write(sending).await }
}

/// Refused by us, or broken.
fn broken(error: io::Error) -> Ended {
    let refused = error.get_ref().and_then(|inner| inner.downcast_ref::<NoLongerAllowed>()).cloned();
    refused.map_or(Ended::Broken(error), Ended::Refused)
}

/// Peers often just drop the connection, without TLS's farewell.
fn is_close(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Sends back what it receives; an `X` is a violation.
    #[derive(Default)]
    struct Echo(Mutex<BytesMut>);

    impl Endpoint for Echo {
        fn receive(&self, received: &mut BytesMut) -> Result<(), String> {
            let data = received.split();
            self.0.lock().unwrap().extend_from_slice(&data);
            if data.contains(&b'X') { Err("an X".to_owned()) } else { Ok(()) }
        }

        fn transmit(&self, capacity: usize) -> Option<Bytes> {
            let mut held = self.0.lock().unwrap();
            let count = held.len().min(capacity);
            (count > 0).then(|| held.split_to(count).freeze())
        }
    }

    #[tokio::test]
    async fn what_comes_in_goes_through_the_endpoint_and_back() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let (wake, close) = (Notify::new(), CancellationToken::new());
        let echo = Echo::default();
        // More than the pipe holds, so that both directions must go on side by side.
        let mut back = vec![0; 100_000];
        let (mut read, mut write) = tokio::io::split(&mut theirs);
        let exchange = async {
            let (sent, got) = tokio::join!(write.write_all(&[7; 100_000]), read.read_exact(&mut back));
            (sent.unwrap(), got.unwrap())
        };
        tokio::select! {
            ended = pump(ours, &echo, &wake, &close) => panic!("ended early: {ended}"),
            _ = exchange => {}
        }
        assert!(back.iter().all(|&byte| byte == 7));
    }

    #[tokio::test]
    async fn a_violation_ends_the_connection_after_the_last_words() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let (wake, close) = (Notify::new(), CancellationToken::new());
        theirs.write_all(b"abX").await.unwrap();
        let echo = Echo::default();
        let ended = pump(ours, &echo, &wake, &close).await;
        assert!(matches!(ended, Ended::Violation(why) if why == "an X"));
        let mut last = Vec::new();
        theirs.read_to_end(&mut last).await.unwrap();
        assert_eq!(last, b"abX");
    }

    #[tokio::test]
    async fn closing_by_us_and_by_the_peer_are_told_apart() {
        let (ours, theirs) = tokio::io::duplex(64);
        let (wake, close) = (Notify::new(), CancellationToken::new());
        drop(theirs);
        assert!(matches!(pump(ours, &Echo::default(), &wake, &close).await, Ended::ByPeer));
        let (ours, _theirs) = tokio::io::duplex(64);
        close.cancel();
        assert!(matches!(pump(ours, &Echo::default(), &wake, &close).await, Ended::ByUs));
    }
}
