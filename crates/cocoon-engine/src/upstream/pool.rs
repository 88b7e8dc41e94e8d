//! Connections to one server, kept and used again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::HttpEngineOptions;
use crate::EngineError;
use crate::body::Sending;

/// Smallest buffer that hyper works with, in bytes.
const MIN_HEAD_BYTES: usize = 8192;
/// How long a kept connection may take to be ready again; one that is not is given up.
const READY_TIMEOUT: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Pool {
    pub(super) options: HttpEngineOptions,
    host: String,
    port: u16,
    permits: Arc<Semaphore>,
    /// The one used last at the end.
    idle: Mutex<VecDeque<Idle>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// One connection; dropping it closes the socket at once, whatever is under way.
#[derive(Debug)]
pub(super) struct Connection {
    sender: http1::SendRequest<Sending>,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pool {
    pub(super) fn new(host: String, port: u16, options: HttpEngineOptions) -> Self {
        let permits = options.max_connections.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            options,
            host,
            port,
            permits: Arc::new(Semaphore::new(permits)),
            idle: Mutex::new(VecDeque::new()),
        }
    }

    /// Sends a request over a kept connection or a new one, and waits for the head of the answer.
    ///
    /// A kept connection that turns out to be closed before a byte of the request was written is replaced, once;
    /// otherwise nothing is ever sent twice.
    pub(super) async fn send(
        &self,
        mut request: Request<Sending>,
    ) -> Result<(OwnedSemaphorePermit, Response<Incoming>, Connection), EngineError> {
        let permits = Arc::clone(&self.permits).acquire_owned();
        let permit =
            timeout(self.options.connect_timeout, permits).await.ok().and_then(Result::ok).ok_or_else(
                || {
                    EngineError::Unreachable(format!(
                        "all {} connections are in use",
                        self.options.max_connections
                    ))
                },
            )?;
        if let Some(mut connection) = self.take_idle().await {
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok((permit, response, connection)),
                Err(mut unsent) => match unsent.take_message() {
                    Some(message) => request = message,
                    None => return Err(error_of(unsent.error())),
                },
            }
        }
        let mut connection = self.connect().await?;
        let response = connection.sender.send_request(request).await.map_err(|error| error_of(&error))?;
        Ok((permit, response, connection))
    }

    /// Keeps a connection whose exchange has ended, unless it is closing.
    pub(super) fn keep(&self, connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken under the lock, so that the oldest stay in front.
        let now = Instant::now();
        while idle
            .front()
            .is_some_and(|kept| now.duration_since(kept.since) >= self.options.pool_idle_timeout)
        {
            idle.pop_front();
        }
        if idle.len() < self.options.max_connections {
            idle.push_back(Idle { connection, since: now });
        }
    }

    /// The connection used last that is still good.
    async fn take_idle(&self) -> Option<Connection> {
        loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop_back()?;
            if kept.since.elapsed() >= self.options.pool_idle_timeout {
                continue;
            }
            let mut connection = kept.connection;
            if let Ok(Ok(())) = timeout(READY_TIMEOUT, connection.sender.ready()).await {
                return Some(connection);
            }
        }
    }

    async fn connect(&self) -> Result<Connection, EngineError> {
        let limit = self.options.connect_timeout;
        let address = (self.host.as_str(), self.port);
        let stream = match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(EngineError::Unreachable(error.to_string())),
            Err(_) => return Err(EngineError::Unreachable(format!("no connection within {limit:?}"))),
        };
        // Only a matter of latency; a socket that refuses it works all the same.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(self.options.max_head_bytes.max(MIN_HEAD_BYTES))
            .max_headers(self.options.max_headers)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error_of(&error))?;
        // Its errors reach whoever waits for the answer.
        let task = tokio::spawn(async { drop(connection.await) });
        Ok(Connection { sender, task: task.abort_handle() })
    }
}

/// What went wrong, in our words and the transport's; never a byte of a body.
pub(super) fn error_of(error: &hyper::Error) -> EngineError {
    use std::error::Error as _;
    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    if error.is_parse_too_large() {
        EngineError::TooLarge("the head of the answer".to_owned())
    } else if error.is_incomplete_message() {
        EngineError::Broken("the connection closed before the answer was complete".to_owned())
    } else {
        EngineError::Broken(format!("{error}{cause}"))
    }
}
