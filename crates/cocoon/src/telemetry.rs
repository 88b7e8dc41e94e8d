//! Spans on their way to an OpenTelemetry collector, over OTLP/HTTP with protobuf.
//!
//! The roles hand over what they did ([`cocoon_trace::Span`]); a thread of the library's sends it in batches. A collector
//! that is slow or away costs spans, never requests: what does not fit the queue is dropped, and one that answers nothing
//! holds up no more than one batch for its time. Headers for the collector
//! (a token, for one), its time-out and the size of queue and batches are read from OpenTelemetry's own environment
//! variables (`OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_TIMEOUT`, `OTEL_BSP_*`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use cocoon_trace::{Span, SpanSink, Tracing, Value};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    OTEL_EXPORTER_OTLP_TIMEOUT, OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, OTEL_EXPORTER_OTLP_TRACES_TIMEOUT,
    Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

/// The collector's address where the configuration names none; OpenTelemetry's own variable.
const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// Under this path collectors take spans.
const PATH: &str = "/v1/traces";
/// Largest answer of a collector that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// How long the last spans may take at the end.
const LAST_SPANS_WITHIN: Duration = Duration::from_secs(3);

/// Traces, as configured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TelemetryFile {
    /// Base URL of an OpenTelemetry collector, such as `http://127.0.0.1:4318`. None: `OTEL_EXPORTER_OTLP_ENDPOINT`; where
    /// that is not set either, nothing is traced.
    pub(crate) otlp_endpoint: Option<String>,
    /// Share of the traces that begin here which is written down, 0 to 1.
    pub(crate) sample_share: f64,
    /// Whether the next node is told of the trace.
    pub(crate) propagate: bool,
}

impl Default for TelemetryFile {
    /// Nothing is traced; what is, wholly, and the next node is not told.
    fn default() -> Self {
        Self { otlp_endpoint: None, sample_share: 1.0, propagate: false }
    }
}

/// Sends a node's spans. Ends with the last spans sent, as far as that goes within three seconds.
#[derive(Debug)]
pub(crate) struct Telemetry {
    exporter: Arc<Exporter>,
    tracing: Tracing,
}

#[derive(Debug)]
struct Exporter {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
}

impl Telemetry {
    /// Starts to send what `role` does; `None` where no collector is named.
    ///
    /// # Errors
    /// The settings make no sense.
    pub(crate) fn start(role: &'static str, file: &TelemetryFile) -> anyhow::Result<Option<Self>> {
        let named = || std::env::var(ENDPOINT_VARIABLE).ok();
        let Some(base) = file.otlp_endpoint.clone().or_else(named).filter(|base| !base.is_empty()) else {
            return Ok(None);
        };
        if !(0.0..=1.0).contains(&file.sample_share) {
            bail!("telemetry.sample_share is {}, but must be 0 to 1", file.sample_share);
        }
        Self::to(role, endpoint(&base)?, file, answer_within()).map(Some)
    }

    /// Sends what `role` does to this URL, each batch of it within this time.
    fn to(
        role: &'static str,
        endpoint: String,
        file: &TelemetryFile,
        within: Duration,
    ) -> anyhow::Result<Self> {
        let client = Collector::new(within).context("cannot send spans")?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
            .with_http_client(client)
            .build()
            .context("cannot send spans")?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        let resource = Resource::builder()
            .with_service_name(format!("cocoon-{role}"))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        processor.set_resource(&resource);
        let scope = InstrumentationScope::builder("cocoon").with_version(env!("CARGO_PKG_VERSION")).build();
        let exporter = Arc::new(Exporter { processor, scope });
        let sink: Arc<dyn SpanSink> = Arc::clone(&exporter) as _;
        let tracing = Tracing { sink, share: file.sample_share, propagate: file.propagate };
        Ok(Self { exporter, tracing })
    }

    /// For the role.
    pub(crate) fn tracing(&self) -> Tracing {
        self.tracing.clone()
    }

    /// Sends the last spans. Call it on no thread of the runtime's: it waits.
    pub(crate) fn finish(&self) {
        if let Err(error) = self.exporter.processor.shutdown_with_timeout(LAST_SPANS_WITHIN) {
            tracing::warn!(%error, "the last spans may not have reached the collector");
        }
    }
}

/// How long the collector may take for one batch. The library knows the variables, but leaves the time to its client.
fn answer_within() -> Duration {
    let named = [OTEL_EXPORTER_OTLP_TRACES_TIMEOUT, OTEL_EXPORTER_OTLP_TIMEOUT];
    let millis = named.into_iter().find_map(|name| std::env::var(name).ok()?.parse().ok());
    millis.map_or(OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, Duration::from_millis)
}

/// Where spans are sent to.
fn endpoint(base: &str) -> anyhow::Result<String> {
    let url: http::Uri =
        base.parse().with_context(|| format!("telemetry.otlp_endpoint {base:?} is no URL"))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) || url.authority().is_none() {
        bail!("telemetry.otlp_endpoint {base:?} must be a URL such as http://127.0.0.1:4318");
    }
    let base = base.trim_end_matches('/');
    Ok(if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") })
}

impl SpanSink for Exporter {
    fn record(&self, span: Span) {
        let context = &span.context;
        let moment = |micros: u64| SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
        let mut attributes: Vec<KeyValue> =
            span.attributes.into_iter().map(|(name, value)| KeyValue::new(name, exported(value))).collect();
        let status = match span.error {
            Some(kind) => {
                attributes.push(KeyValue::new("error.type", kind));
                Status::error(kind)
            }
            None => Status::Unset,
        };
        self.processor.on_end(SpanData {
            span_context: SpanContext::new(
                TraceId::from_bytes(context.trace.bytes()),
                SpanId::from_bytes(context.span.bytes()),
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: span.parent.map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.bytes())),
            parent_span_is_remote: span.kind == cocoon_trace::SpanKind::Server,
            span_kind: match span.kind {
                cocoon_trace::SpanKind::Server => SpanKind::Server,
                cocoon_trace::SpanKind::Client => SpanKind::Client,
                cocoon_trace::SpanKind::Internal => SpanKind::Internal,
            },
            name: span.name.into(),
            start_time: moment(span.start_us),
            end_time: moment(span.end_us),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: self.scope.clone(),
        });
    }
}

fn exported(value: Value) -> opentelemetry::Value {
    match value {
        Value::Text(text) => text.into(),
        Value::Int(number) => number.into(),
        Value::Float(number) => number.into(),
        Value::Bool(yes) => yes.into(),
    }
}

/// The way to the collector. The library's thread knows no runtime, so requests run on ours.
#[derive(Debug)]
struct Collector {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    runtime: Handle,
    within: Duration,
    /// The last batch did not arrive.
    is_away: AtomicBool,
}

impl Collector {
    fn new(within: Duration) -> anyhow::Result<Self> {
        let connector =
            HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, runtime: Handle::try_current()?, within, is_away: AtomicBool::new(false) })
    }

    /// Tells of a collector that is away, once, and when it is back.
    fn note(&self, outcome: &Result<http::Response<Bytes>, HttpError>) {
        let why = match outcome {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(error) => Some(with_causes(error.as_ref())),
        };
        let was_away = self.is_away.swap(why.is_some(), Ordering::Relaxed);
        match why {
            Some(why) if !was_away => tracing::warn!(why, "spans do not reach the collector, and are lost"),
            None if was_away => tracing::info!("spans reach the collector again"),
            _ => {}
        }
    }
}

/// An error in one line, down to what the system said.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[async_trait::async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        let (client, within) = (self.client.clone(), self.within);
        let exchange = async move {
            let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?.to_bytes();
            Ok::<_, HttpError>(http::Response::from_parts(head, body))
        };
        // The library's thread has no clock of the runtime's.
        let sent = self.runtime.spawn(async move { tokio::time::timeout(within, exchange).await }).await;
        // It fails only where the runtime is ending.
        let outcome = sent?.unwrap_or_else(|late| Err(late.into()));
        self.note(&outcome);
        outcome
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;

    use cocoon_trace::{SpanId, TraceContext, TraceId};
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use prost::Message as _;

    use super::*;

    /// One request's body.
    fn received(stream: &mut TcpStream) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 16 * 1024];
        loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
                let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                let whole = end + 4 + length.unwrap().parse::<usize>().unwrap();
                if bytes.len() >= whole {
                    return Some(bytes.split_off(end + 4));
                }
            }
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            }
        }
    }

    fn spans(body: &[u8]) -> usize {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        scopes.map(|scope| scope.spans.len()).sum()
    }

    /// A collector: `answer` is called with each request's body, and what it returns is whether it is answered.
    fn collector(answer: impl Fn(Vec<u8>) -> bool + Send + Sync + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}{PATH}", listener.local_addr().unwrap());
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let answer = Arc::clone(&answer);
                std::thread::spawn(move || {
                    while let Some(body) = received(&mut stream) {
                        if answer(body) {
                            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
                        }
                    }
                });
            }
        });
        url
    }

    fn span(number: u64) -> Span {
        Span {
            name: "chat".to_owned(),
            kind: cocoon_trace::SpanKind::Server,
            context: TraceContext {
                trace: TraceId::from_random(1),
                span: SpanId::from_random(number),
                sampled: true,
            },
            parent: None,
            start_us: 1,
            end_us: 2,
            attributes: vec![("gen_ai.request.model", "m".into())],
            error: None,
        }
    }

    fn telemetry(url: &str, within: Duration) -> Telemetry {
        Telemetry::to("gateway", url.to_owned(), &TelemetryFile::default(), within).unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_collector_that_keeps_everyone_waiting_holds_up_no_request_and_fills_no_memory() {
        let (tell, told) = mpsc::channel();
        let (go_on, go) = mpsc::channel::<()>();
        let go = std::sync::Mutex::new(go);
        let url = collector(move |body| {
            tell.send(spans(&body)).unwrap();
            // Once nobody can say it any more, there is nothing to wait for.
            let _ = go.lock().unwrap().recv();
            true
        });
        let telemetry = telemetry(&url, Duration::from_secs(600));
        let (tracing, count) = (telemetry.tracing(), 100_000);
        // Whoever had to wait for the collector here would wait for ever.
        for number in 1..=count {
            tracing.record(span(number));
        }
        drop(go_on);
        tokio::task::spawn_blocking(move || telemetry.finish()).await.unwrap();
        let arrived: usize = told.try_iter().sum();
        // The library's queue, and a batch on its way.
        assert!((1..=2048 + 512).contains(&arrived), "{arrived} of {count}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_collector_that_never_answers_is_given_up_and_asked_again() {
        let (tell, told) = mpsc::channel();
        let calls = std::sync::atomic::AtomicUsize::new(0);
        let url = collector(move |body| {
            tell.send(spans(&body)).unwrap();
            calls.fetch_add(1, Ordering::Relaxed) > 0
        });
        let telemetry = telemetry(&url, Duration::from_millis(100));
        telemetry.tracing().record(span(1));
        tokio::task::spawn_blocking(move || telemetry.finish()).await.unwrap();
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [1, 1], "the first time in vain");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn without_a_collector_the_last_spans_are_not_waited_for_beyond_their_time() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let telemetry = telemetry(&format!("http://{nobody}{PATH}"), Duration::from_secs(600));
        telemetry.tracing().record(span(1));
        let began = std::time::Instant::now();
        tokio::task::spawn_blocking(move || telemetry.finish()).await.unwrap();
        assert!(began.elapsed() < 3 * LAST_SPANS_WITHIN, "{:?}", began.elapsed());
    }

    #[test]
    fn a_collectors_address_may_have_the_path_or_not() {
        for base in ["http://c:4318", "http://c:4318/", "http://c:4318/v1/traces"] {
            assert_eq!(endpoint(base).unwrap(), "http://c:4318/v1/traces");
        }
        for wrong in ["c:4318", "ftp://c", "http://", ""] {
            assert!(endpoint(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_share_beyond_the_whole_is_refused() {
        let file = TelemetryFile {
            otlp_endpoint: Some("http://127.0.0.1:1".to_owned()),
            sample_share: 1.5,
            ..TelemetryFile::default()
        };
        assert!(Telemetry::start("gateway", &file).unwrap_err().to_string().contains("sample_share"));
    }
}
