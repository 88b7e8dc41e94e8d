//! The asking side: keep-alive connections that ask, read and take the time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::mock::{MODEL, Mock, STAMP_END, STAMP_START};

/// No single request may take longer.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// Samples kept per connection and round; later ones are counted but not kept.
const MAX_SAMPLES: usize = 2_000_000;

/// Longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// After an error a connection waits this long, so that a refusing server is not asked without pause.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// Counts that can be read while a round goes on.
#[derive(Default)]
pub(crate) struct Live {
    /// Answers that were complete.
    pub(crate) answers: AtomicU64,
    /// Events that arrived.
    pub(crate) events: AtomicU64,
}

/// What one round, or several merged, measured. Times are in nanoseconds.
#[derive(Default)]
pub(crate) struct Samples {
    /// What ends before is not sampled; `None` samples all.
    pub(crate) since: Option<Instant>,
    /// Told of each answer and event at once.
    pub(crate) live: Option<Arc<Live>>,
    /// From sending a request to the whole of its answer.
    pub(crate) total_ns: Vec<u64>,
    /// From sending a request to the first event of its stream.
    pub(crate) first_ns: Vec<u64>,
    /// From an event's being written by the mock to its arrival here.
    pub(crate) chunk_ns: Vec<u64>,
    /// Answers that were complete.
    pub(crate) done: u64,
    /// Answers that were not, for any reason.
    pub(crate) errors: u64,
    /// What the first error was.
    pub(crate) first_error: Option<String>,
    /// How long the rounds took together.
    pub(crate) elapsed: Duration,
}

impl Samples {
    /// Adds the samples of another connection of the same round.
    pub(crate) fn join(&mut self, other: Self) {
        self.total_ns.extend(other.total_ns);
        self.first_ns.extend(other.first_ns);
        self.chunk_ns.extend(other.chunk_ns);
        self.done += other.done;
        self.errors += other.errors;
        if self.first_error.is_none() {
            self.first_error = other.first_error;
        }
    }

    /// Takes down that an answer was not complete.
    pub(crate) fn failed(&mut self, error: &anyhow::Error) {
        self.errors += 1;
        self.first_error.get_or_insert(format!("{error:#}"));
    }

    /// Whether what happens now is sampled.
    fn counts_now(&self) -> bool {
        self.since.is_none_or(|since| Instant::now() >= since)
    }

    fn tell(&self, what: impl Fn(&Live) -> &AtomicU64, count: usize) {
        if let Some(live) = &self.live {
            what(live).fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    /// Adds another round.
    pub(crate) fn merge(&mut self, round: Self) {
        self.elapsed += round.elapsed;
        self.join(round);
    }
}

/// What a round asks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// One JSON answer.
    Whole,
    /// A stream of this many events.
    Stream {
        /// Events with a stamp that the answer must have.
        chunks: usize,
    },
}

/// Asks over `connections` connections, each one request after the other, until `duration` has passed.
pub(crate) async fn round(
    mock: &Mock,
    target: SocketAddr,
    ask: Ask,
    connections: usize,
    duration: Duration,
) -> anyhow::Result<Samples> {
    let mut clients = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut client = Client::connect(target).await?;
        // One request per connection goes before the clock starts: connecting is not what is measured.
        client.get("/health").await?;
        clients.push(client);
    }
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for client in clients {
        tasks.spawn(ask_until(
            mock.clone(),
            client,
            ask,
            started + duration,
            REQUEST_LIMIT,
            Samples::default(),
        ));
    }
    let mut samples = Samples::default();
    while let Some(result) = tasks.join_next().await {
        samples.join(result.context("a connection's task failed")?);
    }
    samples.elapsed = started.elapsed();
    Ok(samples)
}

/// Asks one request after the other until `end`; each has `limit` for its whole answer.
pub(crate) async fn ask_until(
    mock: Mock,
    mut client: Client,
    ask: Ask,
    end: Instant,
    limit: Duration,
    mut samples: Samples,
) -> Samples {
    while Instant::now() < end {
        let result = match timeout(limit, client.ask_once(&mock, ask, &mut samples)).await {
            Ok(result) => result,
            Err(_) => Err(anyhow!("no complete answer within {limit:?}")),
        };
        match result {
            Ok(()) => samples.done += 1,
            Err(error) => {
                samples.failed(&error);
                tokio::time::sleep(ERROR_PAUSE).await;
                // A connection that has failed is not trusted again.
                match Client::connect(client.target).await {
                    Ok(fresh) => client = fresh,
                    Err(_) => return samples,
                }
            }
        }
    }
    samples
}

/// One keep-alive connection.
pub(crate) struct Client {
    target: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    /// Connects.
    pub(crate) async fn connect(target: SocketAddr) -> anyhow::Result<Self> {
        let stream = timeout(REQUEST_LIMIT, TcpStream::connect(target))
            .await
            .with_context(|| format!("connecting to {target} took too long"))?
            .with_context(|| format!("can't connect to {target}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // The connection's own error shows in the request that meets it.
        tokio::spawn(connection);
        Ok(Self { target, sender })
    }

    /// Gets a path, and reads the answer whole.
    pub(crate) async fn get(&mut self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .header(header::HOST, self.target.to_string())
            .body(Full::default())?;
        let exchange = async {
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER_BYTES)
                .collect()
                .await
                .map_err(|error| anyhow!("{error}"))?;
            Ok((status, body.to_bytes()))
        };
        timeout(REQUEST_LIMIT, exchange).await.with_context(|| format!("GET {path} took too long"))?
    }

    /// Asks once and reads the answer whole.
    pub(crate) async fn ask_once(
        &mut self,
        mock: &Mock,
        ask: Ask,
        samples: &mut Samples,
    ) -> anyhow::Result<()> {
        let request = completion(self.target, ask)?;
        let sent = Instant::now();
        self.sender.ready().await.context("the connection closed")?;
        let response = self.sender.send_request(request).await.context("no answer")?;
        let status = response.status();
        let mut body = response.into_body();
        let mut reader = StampReader::default();
        let mut answer = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.context("the answer broke off")?;
            let Some(data) = frame.data_ref() else { continue };
            if ask != Ask::Whole && status == StatusCode::OK {
                let now_ns = mock.now_ns();
                let before = reader.found;
                let counts = samples.counts_now();
                reader.push(data, |stamp_ns| {
                    if counts {
                        keep(&mut samples.chunk_ns, now_ns.saturating_sub(stamp_ns));
                    }
                });
                samples.tell(|live| &live.events, reader.found - before);
                if before == 0 && reader.found > 0 && counts {
                    keep(&mut samples.first_ns, nanos(sent.elapsed()));
                }
            } else if answer.len() + data.len() > MAX_ANSWER_BYTES {
                bail!("the answer is over {MAX_ANSWER_BYTES} bytes");
            } else {
                answer.extend_from_slice(data);
            }
        }
        if status != StatusCode::OK {
            let shown: String = String::from_utf8_lossy(&answer).chars().take(300).collect();
            bail!("status {status}: {shown}");
        }
        match ask {
            Ask::Whole if !answer.ends_with(b"}") => bail!("the answer is not a JSON object"),
            Ask::Stream { chunks } if reader.found != chunks || !reader.ended() => {
                bail!(
                    "the stream had {} events of {chunks}, its end was seen: {}",
                    reader.found,
                    reader.ended()
                )
            }
            Ask::Whole | Ask::Stream { .. } => {}
        }
        samples.tell(|live| &live.answers, 1);
        if samples.counts_now() {
            keep(&mut samples.total_ns, nanos(sent.elapsed()));
        }
        Ok(())
    }

    /// Begins a stream of `chunks` events and waits for its first event; the answer continues for as long as it is held.
    pub(crate) async fn open_stream(&mut self, chunks: usize) -> anyhow::Result<hyper::body::Incoming> {
        let request = completion(self.target, Ask::Stream { chunks })?;
        let opening = async {
            self.sender.ready().await.context("the connection closed")?;
            let response = self.sender.send_request(request).await.context("no answer")?;
            let status = response.status();
            let mut body = response.into_body();
            let mut reader = StampReader::default();
            while reader.found == 0 {
                let frame =
                    body.frame().await.context("the stream ended early")?.context("the stream broke")?;
                let data = frame.data_ref().map_or(&[][..], |data| &data[..]);
                if status != StatusCode::OK {
                    bail!("status {status}: {}", String::from_utf8_lossy(data));
                }
                reader.push(data, |_| {});
            }
            Ok(body)
        };
        timeout(REQUEST_LIMIT, opening).await.context("no event in time")?
    }
}

fn completion(target: SocketAddr, ask: Ask) -> anyhow::Result<Request<Full<Bytes>>> {
    let (stream, max_tokens) = match ask {
        Ask::Whole => (false, 16),
        Ask::Stream { chunks } => (true, chunks.max(16)),
    };
    let body = format!(
        "{{\"model\":\"{MODEL}\",\"max_tokens\":{max_tokens},\"stream\":{stream},\
         \"messages\":[{{\"role\":\"user\",\"content\":\"How long does the road take?\"}}]}}"
    );
    Ok(Request::builder()
        .method(Method::POST)
        .uri("/v1/chat/completions")
        .header(header::HOST, target.to_string())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body))?)
}

fn keep(samples: &mut Vec<u64>, value: u64) {
    if samples.len() < MAX_SAMPLES {
        samples.push(value);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Finds the stamps in a stream of events, wherever its bytes were cut on the way.
#[derive(Default)]
struct StampReader {
    rest: Vec<u8>,
    found: usize,
    tail: Vec<u8>,
}

impl StampReader {
    fn push(&mut self, data: &[u8], mut each: impl FnMut(u64)) {
        self.tail.extend_from_slice(data);
        let surplus = self.tail.len().saturating_sub(16);
        self.tail.drain(..surplus);
        self.rest.extend_from_slice(data);
        let mut done = 0;
        while let Some(start) = find(&self.rest[done..], STAMP_START) {
            let digits_at = done + start + STAMP_START.len();
            let digits = self.rest[digits_at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            match self.rest.get(digits_at + digits) {
                // The stamp is not here whole yet.
                None => {
                    done += start;
                    break;
                }
                Some(&STAMP_END) if digits > 0 => {
                    let text = std::str::from_utf8(&self.rest[digits_at..digits_at + digits]);
                    if let Some(stamp_ns) = text.ok().and_then(|text| text.parse().ok()) {
                        self.found += 1;
                        each(stamp_ns);
                    }
                    done = digits_at + digits + 1;
                }
                Some(_) => done = digits_at,
            }
        }
        // Keep what may be the beginning of a stamp: the unfinished one, or its first byte.
        let keep_from = match find(&self.rest[done..], STAMP_START) {
            Some(start) => done + start,
            None => self.rest.len().saturating_sub(STAMP_START.len() - 1).max(done),
        };
        self.rest.drain(..keep_from);
    }

    /// Whether the last bytes said that the stream is complete.
    fn ended(&self) -> bool {
        self.tail.trim_ascii_end().ends_with(b"[DONE]")
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::StampReader;

    fn stamps(pieces: &[&[u8]]) -> (Vec<u64>, bool) {
        let mut reader = StampReader::default();
        let mut found = Vec::new();
        for piece in pieces {
            reader.push(piece, |stamp| found.push(stamp));
        }
        (found, reader.ended())
    }

    #[test]
    fn stamps_are_found_wherever_the_bytes_are_cut() {
        let whole = b"data: {\"object\":\"t=\",\"content\":\"t=12;\"}\n\ndata: t=345;\n\ndata: [DONE]\n\n";
        for first in 0..whole.len() {
            for second in first..whole.len() {
                let pieces = [&whole[..first], &whole[first..second], &whole[second..]];
                assert_eq!(stamps(&pieces), (vec![12, 345], true), "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_stream_without_the_mark_of_its_end_is_not_complete() {
        assert_eq!(stamps(&[b"data: t=1;\n\n"]), (vec![1], false));
        assert_eq!(stamps(&[b"data: t=1;\n\ndata: [DONE]\n\ndata: more"]), (vec![1], false));
    }
}
