//! A vendor's service on the loopback interface, that answers as a test wants, and a clock that a test sets.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cocoon_attest::snp::SnpProduct;
use cocoon_attest::{Collateral, CollateralRequest, CollateralSource as _, EvidenceKind, UnixSeconds};
use cocoon_collateral::{Fetcher, FetcherOptions};
use cocoon_tee::simulated::snp::{SimulatedAmd, Span};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// 2026-11-21 02:41:27 UTC.
pub const NOW: UnixSeconds = UnixSeconds(1_795_228_887);
pub const DAY: u64 = 86_400;

/// What a service says to a request.
#[derive(Clone)]
pub enum Reply {
    /// Status, further header lines, body.
    Answer(u16, String, Bytes),
    /// An answer that goes on for ever.
    Endless,
    /// A length that the body does not reach.
    Cut,
    /// Nothing at all, the connection stays open.
    Silence,
    /// A head that goes on for ever.
    EndlessHead,
}

impl Reply {
    pub fn ok(body: impl Into<Bytes>) -> Self {
        Self::Answer(200, String::new(), body.into())
    }

    pub fn status(status: u16, headers: &str) -> Self {
        Self::Answer(
            status,
            headers.to_owned(),
            Bytes::from_static(b"{\"message\":\"words of the service\"}"),
        )
    }
}

struct State {
    replies: Mutex<HashMap<String, Reply>>,
    bodies: Mutex<Vec<Bytes>>,
    hits: watch::Sender<usize>,
    gate: Semaphore,
}

/// A service; dropping it ends it.
pub struct Vendor {
    pub url: String,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

impl Vendor {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    pub async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://localhost:{}", listener.local_addr().unwrap().port());
        let state = Arc::new(State {
            replies: Mutex::default(),
            bodies: Mutex::default(),
            hits: watch::channel(0).0,
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
        });
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (state, tls) = (Arc::clone(&shared), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(tcp, &state).await,
                        // A client that does not like the certificate leaves.
                        Some(tls) => match tls.accept(tcp).await {
                            Ok(stream) => serve(stream, &state).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        Self { url, state, task }
    }

    /// From now on, this to a request for this path and query.
    pub fn says(&self, path: &str, reply: Reply) {
        self.state.replies.lock().unwrap().insert(path.to_owned(), reply);
    }

    /// How often it was asked.
    pub fn hits(&self) -> usize {
        *self.state.hits.borrow()
    }

    /// Waits until it was asked so often.
    pub async fn hit(&self, times: usize) {
        let mut hits = self.state.hits.subscribe();
        within(hits.wait_for(|hits| *hits >= times)).await.unwrap();
    }

    /// The bodies it was sent.
    pub fn bodies(&self) -> Vec<Bytes> {
        self.state.bodies.lock().unwrap().clone()
    }

    /// Holds back answers until [`release`](Self::release).
    pub fn hold(&self) {
        self.state.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub fn release(&self) {
        self.state.gate.add_permits(1_000);
    }

    pub async fn stop(self) {
        self.task.abort();
        let url = self.url.clone();
        drop(self);
        let address = url.trim_start_matches("http://").to_owned();
        // The port is closed once the task is gone.
        within(async { while tokio::net::TcpStream::connect(&address).await.is_ok() {} }).await;
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, state: &State) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    state.bodies.lock().unwrap().push(body.into());
    state.hits.send_modify(|hits| *hits += 1);
    let _open = state.gate.acquire().await.ok()?;
    let path = head.split(' ').nth(1)?.to_owned();
    let reply = state.replies.lock().unwrap().get(&path).cloned();
    match reply.unwrap_or_else(|| Reply::status(404, "")) {
        Reply::Answer(status, headers, body) => {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
            );
            stream.write_all(head.as_bytes()).await.ok()?;
            stream.write_all(&body).await.ok()?;
        }
        Reply::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await.ok()?;
            while stream.write_all(&[b'0'; 4096]).await.is_ok() {}
        }
        Reply::Cut => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0").await.ok()?,
        Reply::Silence => std::future::pending().await,
        Reply::EndlessHead => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await.ok()?;
            while stream.write_all(b"X-More: and more\r\n").await.is_ok() {}
        }
    }
    stream.shutdown().await.ok()
}

/// A clock that stands still until it is set.
#[derive(Clone)]
pub struct TestClock(Arc<AtomicU64>);

impl TestClock {
    pub fn at(now: UnixSeconds) -> Self {
        Self(Arc::new(AtomicU64::new(now.0)))
    }

    pub fn set(&self, now: UnixSeconds) {
        self.0.store(now.0, Ordering::SeqCst);
    }

    pub fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }

    pub fn now(&self) -> UnixSeconds {
        UnixSeconds(self.0.load(Ordering::SeqCst))
    }
}

/// Every service at this URL, no cache on disk.
pub fn options(url: &str) -> FetcherOptions {
    FetcherOptions {
        pccs_url: url.to_owned(),
        kds_url: url.to_owned(),
        nvidia_rim_url: url.to_owned(),
        nvidia_ocsp_url: url.to_owned(),
        fetch_timeout: Duration::from_secs(30),
        ..FetcherOptions::default()
    }
}

pub fn cached(url: &str, folder: &Path) -> FetcherOptions {
    FetcherOptions { cache_dir: Some(folder.to_owned()), ..options(url) }
}

pub fn offline(folder: &Path) -> FetcherOptions {
    // Nobody listens there.
    FetcherOptions { offline: true, ..cached("http://127.0.0.1:9", folder) }
}

pub fn fetcher(options: &FetcherOptions, clock: &TestClock) -> Fetcher {
    let clock = clock.clone();
    Fetcher::new(options, Arc::new(move || clock.now())).unwrap()
}

/// A revocation list of the simulated AMD, for this many days from [`NOW`] less an hour.
pub fn amd_list(days: u64) -> Bytes {
    let span = Span { from: UnixSeconds(NOW.0 - 3_600), to: NOW.plus(days * DAY) };
    SimulatedAmd::new(SnpProduct::Genoa).revocation_list(span, &[]).into()
}

/// The request for a list, by a number of our own that tells requests apart.
pub fn list(number: usize) -> CollateralRequest {
    CollateralRequest { kind: EvidenceKind::SevSnp, name: format!("vcek/v1/Genoa/{number}/crl") }
}

pub fn path(request: &CollateralRequest) -> String {
    format!("/{}", request.name)
}

/// A certificate in PEM.
pub fn pem(der: &[u8]) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
}

/// The answer to one request, and the note that comes with it.
pub async fn ask(fetcher: &Fetcher, request: &CollateralRequest) -> (Option<Bytes>, Option<String>) {
    let requests = [request.clone()];
    let found: Collateral = within(fetcher.fetch(&requests)).await.unwrap();
    let note = found.failures().next().map(|(_, note)| note.to_owned());
    (found.get(request).cloned(), note)
}

/// Asks until the answer is this one: what is fetched in the background has come.
pub async fn ask_until(fetcher: &Fetcher, request: &CollateralRequest, expected: &Bytes) {
    within(async {
        while ask(fetcher, request).await.0.as_ref() != Some(expected) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it does not come to an end")
}
