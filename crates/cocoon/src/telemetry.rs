//! Spans on their way to an OpenTelemetry collector, over OTLP/HTTP with protobuf.
//!
//! The roles hand over what they did ([`cocoon_trace::Span`]); a thread of the library's sends it in batches. A collector
//! that is slow or away costs spans, never requests: what does not fit the queue is dropped. Headers for the collector
//! (a token, for one), its time-out and the size of queue and batches are read from OpenTelemetry's own environment
//! variables (`OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_TIMEOUT`, `OTEL_BSP_*`).

use std::sync::Arc;
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
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
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
        let endpoint = endpoint(&base)?;
        let client = Collector::new().context("cannot send spans")?;
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
        Ok(Some(Self { exporter, tracing }))
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
}

impl Collector {
    fn new() -> anyhow::Result<Self> {
        let connector =
            HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, runtime: Handle::try_current()? })
    }
}

#[async_trait::async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let exchange = async move {
            let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?.to_bytes();
            Ok(http::Response::from_parts(head, body))
        };
        self.runtime.spawn(exchange).await?
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
