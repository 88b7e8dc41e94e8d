//! What OpenTelemetry's conventions for generative AI measure at a client, under Prometheus' spelling of their names.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cocoon_openai::Endpoint;
use cocoon_trace::{GEN_AI_PROVIDER, GEN_AI_SECONDS};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::charged::Charged;

/// Models with figures of their own; more of them are `other`: workers name their models as they like.
const MAX_MODELS: usize = 200;
/// Longest name of a model that becomes a label, in bytes.
const MAX_NAME_BYTES: usize = 128;
/// The conventions' bounds for numbers of tokens.
const TOKENS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    gen_ai_operation_name: &'static str,
    gen_ai_request_model: String,
    error_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Begun {
    gen_ai_operation_name: &'static str,
    gen_ai_request_model: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Used {
    gen_ai_operation_name: &'static str,
    gen_ai_request_model: String,
    gen_ai_token_type: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// See the module.
#[derive(Debug)]
pub(crate) struct GenAi {
    registry: Registry,
    models: Mutex<BTreeSet<String>>,
    duration: Histograms<Ended>,
    first_chunk: Histograms<Begun>,
    tokens: Histograms<Used>,
}

impl GenAi {
    pub(crate) fn new() -> Self {
        let provider = (GEN_AI_PROVIDER.0.into(), GEN_AI_PROVIDER.1.into());
        let mut registry = Registry::with_labels(std::iter::once(provider));
        let seconds: fn() -> Histogram = || Histogram::new(GEN_AI_SECONDS);
        let tokens: fn() -> Histogram = || Histogram::new(TOKENS);
        let duration = Histograms::new_with_constructor(seconds);
        let first_chunk = Histograms::new_with_constructor(seconds);
        let tokens = Histograms::new_with_constructor(tokens);
        let help = "From a request's last byte to the end of its answer";
        registry.register_with_unit(
            "gen_ai_client_operation_duration",
            help,
            Unit::Seconds,
            duration.clone(),
        );
        let (name, help) = ("gen_ai_client_operation_time_to_first_chunk", "Of answers that are streamed");
        registry.register_with_unit(name, help, Unit::Seconds, first_chunk.clone());
        let help = "Tokens of answers, as their engines count them";
        registry.register("gen_ai_client_token_usage", help, tokens.clone());
        Self { registry, models: Mutex::default(), duration, first_chunk, tokens }
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The name under which a model's figures are kept.
    fn label(&self, model: &str) -> String {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        let known = models.contains(model);
        if !known && (models.len() >= MAX_MODELS || model.len() > MAX_NAME_BYTES) {
            return "other".to_owned();
        }
        if !known {
            models.insert(model.to_owned());
        }
        model.to_owned()
    }

    /// A request failed before its answer began; `model`: its name, unless it is one of a caller's own making.
    pub(crate) fn failed(
        &self,
        endpoint: Endpoint,
        model: Option<&str>,
        error_type: &'static str,
        took: Duration,
    ) {
        let labels = Ended {
            gen_ai_operation_name: endpoint.operation(),
            gen_ai_request_model: model.map_or_else(|| "other".to_owned(), |model| self.label(model)),
            error_type,
        };
        self.duration.get_or_create(&labels).observe(took.as_secs_f64());
    }

    pub(crate) fn answered(&self, charged: &Charged<'_>) {
        let gen_ai_operation_name = charged.endpoint.operation();
        let gen_ai_request_model = self.label(charged.model);
        if let Some(first) = charged.first {
            let gen_ai_request_model = gen_ai_request_model.clone();
            let labels = Begun { gen_ai_operation_name, gen_ai_request_model };
            self.first_chunk.get_or_create(&labels).observe(first.as_secs_f64());
        }
        let usage = &charged.usage;
        for (gen_ai_token_type, tokens) in
            [("input", usage.prompt_tokens), ("output", usage.completion_tokens)]
        {
            if tokens > 0 {
                let gen_ai_request_model = gen_ai_request_model.clone();
                let labels = Used { gen_ai_operation_name, gen_ai_request_model, gen_ai_token_type };
                // Counts are far below 2^53.
                #[allow(clippy::cast_precision_loss)]
                self.tokens.get_or_create(&labels).observe(tokens as f64);
            }
        }
        let error_type = charged.end.error().unwrap_or_default();
        let labels = Ended { gen_ai_operation_name, gen_ai_request_model, error_type };
        self.duration.get_or_create(&labels).observe(charged.took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_models_becomes_one_label() {
        let gen_ai = GenAi::new();
        for number in 0..MAX_MODELS {
            assert_eq!(gen_ai.label(&number.to_string()), number.to_string());
        }
        assert_eq!(gen_ai.label("one more"), "other");
        assert_eq!(gen_ai.label("7"), "7");
        assert_eq!(GenAi::new().label(&"x".repeat(MAX_NAME_BYTES + 1)), "other");
    }
}
