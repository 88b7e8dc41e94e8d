//! What operators see of one request at the engine: a span where the request came with a trace, and the figures that
//! OpenTelemetry's conventions name for a model's server. Nothing here holds a word of what was asked or answered.

use std::time::{Duration, Instant};

use cocoon_openai::{Endpoint, Usage};
use cocoon_session::worker::Work;
use cocoon_trace::{GEN_AI_PROVIDER, GEN_AI_SECONDS, Span, SpanKind, TraceContext};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::Shared;

/// The conventions' bounds for the first token, in seconds.
const FIRST_SECONDS: [f64; 16] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// The conventions' bounds for each further token, in seconds.
const TOKEN_SECONDS: [f64; 13] = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    gen_ai_operation_name: &'static str,
    gen_ai_request_model: String,
    error_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    gen_ai_operation_name: &'static str,
    gen_ai_request_model: String,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The figures. A worker has one model, so they stay few.
#[derive(Debug)]
pub(crate) struct GenAi {
    registry: Registry,
    duration: Histograms<Ended>,
    first_token: Histograms<Answered>,
    each_token: Histograms<Answered>,
}

impl GenAi {
    pub(crate) fn new() -> Self {
        let provider = (GEN_AI_PROVIDER.0.into(), GEN_AI_PROVIDER.1.into());
        let mut registry = Registry::with_labels(std::iter::once(provider));
        let duration: fn() -> Histogram = || Histogram::new(GEN_AI_SECONDS);
        let first: fn() -> Histogram = || Histogram::new(FIRST_SECONDS);
        let each: fn() -> Histogram = || Histogram::new(TOKEN_SECONDS);
        let duration = Histograms::new_with_constructor(duration);
        let first_token = Histograms::new_with_constructor(first);
        let each_token = Histograms::new_with_constructor(each);
        let (name, help) = ("gen_ai_server_request_duration", "From a request to the end of its answer");
        registry.register_with_unit(name, help, Unit::Seconds, duration.clone());
        let (name, help) = ("gen_ai_server_time_to_first_token", "Of whole answers that were streamed");
        registry.register_with_unit(name, help, Unit::Seconds, first_token.clone());
        let (name, help) = (
            "gen_ai_server_time_per_output_token",
            "After the first one, of whole answers that were streamed",
        );
        registry.register_with_unit(name, help, Unit::Seconds, each_token.clone());
        Self { registry, duration, first_token, each_token }
    }

    /// In Prometheus' form, to follow other metrics.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode_registry(&mut out, &self.registry);
        out
    }

    fn ended(&self, model: &str, seen: &Seen, error: Option<&'static str>, took: Duration) {
        let (operation, model) = (seen.operation(), model.to_owned());
        let labels = Ended {
            gen_ai_operation_name: operation,
            gen_ai_request_model: model.clone(),
            error_type: error.unwrap_or_default(),
        };
        self.duration.get_or_create(&labels).observe(took.as_secs_f64());
        let (None, Some(first)) = (error, seen.first) else { return };
        let labels = Answered { gen_ai_operation_name: operation, gen_ai_request_model: model };
        self.first_token.get_or_create(&labels).observe(first.as_secs_f64());
        let more = seen.usage.completion_tokens.saturating_sub(1);
        if more > 0 {
            // Counts are far below 2^53.
            #[allow(clippy::cast_precision_loss)]
            let each = (took.saturating_sub(first)).as_secs_f64() / more as f64;
            self.each_token.get_or_create(&labels).observe(each);
        }
    }
}

/// What was seen of one request.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Seen {
    /// Known once it was read.
    pub(crate) endpoint: Option<Endpoint>,
    /// When the first bytes of a stream came from the engine, after the request.
    pub(crate) first: Option<Duration>,
    pub(crate) usage: Usage,
}

impl Seen {
    /// What OpenTelemetry's conventions call it.
    fn operation(&self) -> &'static str {
        self.endpoint.map_or("unknown", Endpoint::operation)
    }
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trail {
    pub(crate) began: Instant,
    started_us: u64,
    id: [u8; 32],
    parent: Option<TraceContext>,
}

impl Trail {
    pub(crate) fn begin(shared: &Shared, work: &Work) -> Self {
        let parent = work.trace.as_ref().and_then(|trace| TraceContext::parse(trace.as_bytes()));
        Self { began: Instant::now(), started_us: shared.clock.micros(), id: work.id, parent }
    }

    /// The request is over.
    pub(crate) fn end(&self, shared: &Shared, seen: &Seen, error: Option<&'static str>) {
        let model = shared.model();
        shared.gen_ai.ended(model, seen, error, self.began.elapsed());
        let (Some(tracing), Some(parent)) = (&shared.config.tracing, self.parent) else { return };
        let operation = seen.operation();
        let mut attributes = vec![
            ("gen_ai.provider.name", GEN_AI_PROVIDER.1.into()),
            ("gen_ai.operation.name", operation.into()),
            ("gen_ai.request.model", model.into()),
            ("gen_ai.usage.input_tokens", seen.usage.prompt_tokens.into()),
            ("gen_ai.usage.output_tokens", seen.usage.completion_tokens.into()),
        ];
        if let Some(first) = seen.first {
            attributes.push(("gen_ai.server.time_to_first_token", first.as_secs_f64().into()));
        }
        tracing.record(Span {
            name: format!("{operation} {model}"),
            kind: SpanKind::Server,
            context: parent.at(&self.id),
            parent: Some(parent.span),
            start_us: self.started_us,
            end_us: shared.clock.micros(),
            attributes,
            error,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streams_figures_are_those_of_the_conventions() {
        let gen_ai = GenAi::new();
        let seen = Seen {
            endpoint: Some(Endpoint::Chat),
            first: Some(Duration::from_millis(200)),
            usage: Usage::new(9, 5),
        };
        gen_ai.ended("m", &seen, None, Duration::from_secs(1));
        gen_ai.ended("m", &Seen::default(), Some("not_ready"), Duration::ZERO);
        let text = gen_ai.text();
        let chat =
            "gen_ai_provider_name=\"cocoon\",gen_ai_operation_name=\"chat\",gen_ai_request_model=\"m\"";
        for line in [
            format!("gen_ai_server_request_duration_seconds_count{{{chat},error_type=\"\"}} 1"),
            format!("gen_ai_server_time_to_first_token_seconds_sum{{{chat}}} 0.2"),
            format!("gen_ai_server_time_per_output_token_seconds_sum{{{chat}}} 0.2"),
            "error_type=\"not_ready\"} 1".to_owned(),
        ] {
            assert!(text.contains(&line), "{line} is missing in:\n{text}");
        }
    }
}
