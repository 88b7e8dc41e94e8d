//! The engine that both sides of the comparison are asked of: deterministic, and as fast as a server can be here.
//!
//! It answers one JSON completion, or a stream of server-sent events whose count and pace are set from the
//! measuring side. Each event carries the time at which it was written, on the clock of this process, so that the
//! reader at the other end of the path knows exactly how long that event travelled.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The one model that the mock serves.
pub(crate) const MODEL: &str = "mock";

/// Opens the stamp inside an event's content; a number of nanoseconds and [`STAMP_END`] follow.
pub(crate) const STAMP_START: &[u8] = b"t=";

/// Closes the stamp.
pub(crate) const STAMP_END: u8 = b';';

/// Longest request body that is read, in bytes.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// The running mock; clones share it.
#[derive(Clone)]
pub(crate) struct Mock {
    inner: Arc<Inner>,
}

struct Inner {
    address: SocketAddr,
    epoch: Instant,
    chunks: AtomicUsize,
    delay_us: AtomicU64,
    active_streams: AtomicUsize,
    connections: AtomicUsize,
    /// Changes when all connections are to end.
    leave: watch::Sender<()>,
}

impl Mock {
    /// Starts the mock on a free port of 127.0.0.1.
    pub(crate) async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let inner = Inner {
            address: listener.local_addr()?,
            epoch: Instant::now(),
            chunks: AtomicUsize::new(1),
            delay_us: AtomicU64::new(0),
            active_streams: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            leave: watch::Sender::new(()),
        };
        let mock = Self { inner: Arc::new(inner) };
        let accepting = mock.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(accepting.clone(), stream));
            }
        });
        Ok(mock)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.inner.address
    }

    /// Sets how many events the streams that start from now on have, and the pause before each but the first.
    pub(crate) fn set_stream(&self, chunks: usize, delay: Duration) {
        self.inner.chunks.store(chunks, Ordering::Relaxed);
        self.inner.delay_us.store(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Nanoseconds since the mock started: the clock of the stamps.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.inner.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Streams that have begun and are neither complete nor cancelled.
    pub(crate) fn active_streams(&self) -> usize {
        self.inner.active_streams.load(Ordering::Relaxed)
    }

    /// Ends the connections on which nothing is asked, and waits a little until they are gone: whoever keeps thousands for
    /// later use would leave others too few open files of this process.
    pub(crate) async fn release(&self) {
        self.inner.leave.send_replace(());
        for _ in 0..100 {
            if self.inner.connections.load(Ordering::Relaxed) == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

type Body = BoxBody<Bytes, Infallible>;

async fn serve(mock: Mock, stream: TcpStream) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut leave = mock.inner.leave.subscribe();
    mock.inner.connections.fetch_add(1, Ordering::Relaxed);
    let service = {
        let mock = mock.clone();
        service_fn(move |request| {
            let mock = mock.clone();
            async move { Ok::<_, Infallible>(answer(&mock, request).await) }
        })
    };
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // A connection that ends badly ends only itself; the reader at the other side counts it.
    tokio::select! {
        _ = connection.as_mut() => {}
        _ = leave.changed() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
    mock.inner.connections.fetch_sub(1, Ordering::Relaxed);
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

async fn answer(mock: &Mock, request: Request<Incoming>) -> Response<Body> {
    let is_completion = request.method() == Method::POST && request.uri().path() == "/v1/chat/completions";
    match (is_completion, request.uri().path()) {
        (true, _) => {}
        (false, "/v1/models") => {
            let list = format!(
                r#"{{"object":"list","data":[{{"id":"{MODEL}","object":"model","owned_by":"bench"}}]}}"#
            );
            return whole(StatusCode::OK, list.into());
        }
        (false, "/health") => return whole(StatusCode::OK, Bytes::from_static(b"{}")),
        (false, _) => return whole(StatusCode::NOT_FOUND, Bytes::from_static(b"{}")),
    }
    let Ok(body) = Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await else {
        return whole(StatusCode::PAYLOAD_TOO_LARGE, Bytes::from_static(b"{}"));
    };
    let Ok(asked) = serde_json::from_slice::<Asked>(&body.to_bytes()) else {
        return whole(StatusCode::BAD_REQUEST, Bytes::from_static(b"{}"));
    };
    if asked.stream {
        let usage = asked.stream_options.is_some_and(|options| options.include_usage);
        events(mock, usage)
    } else {
        whole(StatusCode::OK, Bytes::from_static(ANSWER))
    }
}

const ANSWER: &[u8] = concat!(
    r#"{"id":"mock-1","object":"chat.completion","created":1700000000,"model":"mock","choices":[{"index":0,"#,
    r#""message":{"role":"assistant","content":"one two three four"},"finish_reason":"stop"}],"#,
    r#""usage":{"prompt_tokens":8,"completion_tokens":4,"total_tokens":12}}"#
)
.as_bytes();

fn whole(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// Counts a stream as active for as long as its body lives.
struct Active(Mock);

impl Active {
    fn new(mock: &Mock) -> Self {
        mock.inner.active_streams.fetch_add(1, Ordering::Relaxed);
        Self(mock.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.inner.active_streams.fetch_sub(1, Ordering::Relaxed);
    }
}

fn events(mock: &Mock, usage: bool) -> Response<Body> {
    let chunks = mock.inner.chunks.load(Ordering::Relaxed);
    let delay = Duration::from_micros(mock.inner.delay_us.load(Ordering::Relaxed));
    let body = stream::unfold((Active::new(mock), 0_usize), move |(active, index)| async move {
        let data = match index {
            // The last data event, the usage and the mark of the end leave together, as servers do.
            index if index == chunks => Bytes::from(ending(chunks, usage)),
            index if index > chunks => return None,
            index => {
                if index > 0 && !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                Bytes::from(event(active.0.now_ns()))
            }
        };
        Some((Ok::<_, Infallible>(Frame::data(data)), (active, index + 1)))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(body)));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/event-stream"));
    response
}

const EVENT_HEAD: &str =
    r#"{"id":"mock-1","object":"chat.completion.chunk","created":1700000000,"model":"mock""#;

fn event(now_ns: u64) -> String {
    format!(
        "data: {EVENT_HEAD},\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"t={now_ns};\"}},\
         \"finish_reason\":null}}]}}\n\n"
    )
}

fn ending(chunks: usize, usage: bool) -> String {
    let mut text = format!(
        "data: {EVENT_HEAD},\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\n"
    );
    if usage {
        let total = chunks + 8;
        text.push_str(&format!(
            "data: {EVENT_HEAD},\"choices\":[],\"usage\":{{\"prompt_tokens\":8,\"completion_tokens\":{chunks},\
             \"total_tokens\":{total}}}}}\n\n"
        ));
    }
    text.push_str("data: [DONE]\n\n");
    text
}
