//! Numbers for operators, in Prometheus' text form.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cocoon_access::Counts;
use cocoon_ledger::DisputeReason;
use cocoon_openai::Endpoint;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::charged::{Charged, End};
use crate::gen_ai::GenAi;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    endpoint: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    endpoint: &'static str,
    status: u16,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartLabel {
    part: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabel {
    end: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UsageLabels {
    endpoint: &'static str,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyLabel {
    key: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyTokensLabels {
    key: String,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ContractLabel {
    contract: String,
}

#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    gen_ai: GenAi,
    requests: Family<RequestLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    ends: Family<EndLabel, Counter>,
    duration: Histogram,
    first_byte: Histogram,
    pub(crate) in_flight: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) retries: Counter,
    pub(crate) hedges: Counter,
    pub(crate) hedges_won: Counter,
    pub(crate) budget_refusals: Counter,
    pub(crate) breakers_open: Gauge,
    breaker_openings: Family<PartLabel, Counter>,
    tokens: Counter,
    cost: Counter,
    usage: Family<UsageLabels, Counter>,
    estimated: Counter,
    key_requests: Family<KeyLabel, Counter>,
    key_tokens: Family<KeyTokensLabels, Counter>,
    key_cost: Family<KeyLabel, Counter>,
    disputes: Family<ReasonLabel, Counter>,
    pub(crate) counter_faults: Counter,
    pub(crate) store_faults: Counter,
    proxies_ready: Gauge,
    spent_tokens: Gauge<u64, AtomicU64>,
    spent_nanoton: Gauge<u64, AtomicU64>,
    wallet_nanoton: Gauge<u64, AtomicU64>,
    committed_nanoton: Gauge<u64, AtomicU64>,
    budget_nanoton: Gauge<u64, AtomicU64>,
    channel_nanoton: Family<ContractLabel, Gauge<u64, AtomicU64>>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        // 1 ms to about 9 min.
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 20));
        let mut metrics = Self {
            registry: Registry::with_prefix("cocoon_gateway"),
            gen_ai: GenAi::new(),
            requests: Family::default(),
            errors: Family::default(),
            ends: Family::default(),
            duration: seconds(),
            first_byte: seconds(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            retries: Counter::default(),
            hedges: Counter::default(),
            hedges_won: Counter::default(),
            budget_refusals: Counter::default(),
            breakers_open: Gauge::default(),
            breaker_openings: Family::default(),
            tokens: Counter::default(),
            cost: Counter::default(),
            usage: Family::default(),
            estimated: Counter::default(),
            key_requests: Family::default(),
            key_tokens: Family::default(),
            key_cost: Family::default(),
            disputes: Family::default(),
            counter_faults: Counter::default(),
            store_faults: Counter::default(),
            proxies_ready: Gauge::default(),
            spent_tokens: Gauge::default(),
            spent_nanoton: Gauge::default(),
            wallet_nanoton: Gauge::default(),
            committed_nanoton: Gauge::default(),
            budget_nanoton: Gauge::default(),
            channel_nanoton: Family::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let Self { registry, .. } = self;
        registry.register(
            "requests",
            "Completion requests by endpoint and HTTP status",
            self.requests.clone(),
        );
        registry.register(
            "errors",
            "Those of them that were answered with an error, by its code; `engine` is an engine's own, `cancelled` a caller \
             that left before its answer began",
            self.errors.clone(),
        );
        registry.register("answers", "Answers by the way they ended", self.ends.clone());
        registry.register_with_unit(
            "request_duration",
            "From a request's head to the end of its answer",
            Unit::Seconds,
            self.duration.clone(),
        );
        registry.register_with_unit(
            "time_to_first_byte",
            "From a request's head to the head of its answer",
            Unit::Seconds,
            self.first_byte.clone(),
        );
        registry.register("requests_in_flight", "Completion requests under way", self.in_flight.clone());
        registry.register("connections", "Open HTTP connections", self.connections.clone());
        registry.register("retries", "Attempts after the first one of a request", self.retries.clone());
        registry.register(
            "hedges",
            "Requests sent a second time because the first was slow",
            self.hedges.clone(),
        );
        registry.register("hedges_won", "Of these, those that the second answered", self.hedges_won.clone());
        registry.register(
            "retry_budget_refusals",
            "Second attempts that were not made at once because the budget was spent",
            self.budget_refusals.clone(),
        );
        registry.register(
            "breakers_open",
            "Proxies, and models at a proxy, that are left alone because they failed",
            self.breakers_open.clone(),
        );
        registry.register(
            "breaker_openings",
            "How often a proxy, or the workers of a proxy for a model, were left alone",
            self.breaker_openings.clone(),
        );
        registry.register("tokens", "Adjusted tokens of answers, as told to callers", self.tokens.clone());
        registry.register("cost_nanoton", "Cost of answers, as told to callers", self.cost.clone());
        registry.register(
            "engine_tokens",
            "Tokens as engines count them, by endpoint and class; those of sound are counted in both classes",
            self.usage.clone(),
        );
        registry.register(
            "estimated_answers",
            "Answers whose final count no engine told",
            self.estimated.clone(),
        );
        registry.register("key_requests", "Requests by API key, refused ones too", self.key_requests.clone());
        registry.register(
            "key_tokens",
            "Tokens as engines count them, by API key and class",
            self.key_tokens.clone(),
        );
        registry.register("key_cost_nanoton", "Cost by API key, as its usage says", self.key_cost.clone());
        registry.register(
            "disputes",
            "Charges that do not agree with what was received",
            self.disputes.clone(),
        );
        registry.register(
            "counter_faults",
            "Payment notices refused, such as counters that went back",
            self.counter_faults.clone(),
        );
        registry.register("store_faults", "Failed writes to the gateway's store", self.store_faults.clone());
        registry.register(
            "proxies_ready",
            "Proxy connections that take requests",
            self.proxies_ready.clone(),
        );
        registry.register(
            "spent_tokens",
            "Adjusted tokens acknowledged by payment notices, all proxies, since ever",
            self.spent_tokens.clone(),
        );
        registry.register(
            "spent_nanoton",
            "Cost of the tokens acknowledged by payment notices",
            self.spent_nanoton.clone(),
        );
        registry.register(
            "wallet_nanoton",
            "Coins of the wallet, when last seen; 0 without settlement",
            self.wallet_nanoton.clone(),
        );
        registry.register(
            "committed_nanoton",
            "Coins in channels and spent from them, as the chain shows",
            self.committed_nanoton.clone(),
        );
        registry.register(
            "budget_nanoton",
            "What all channels together may ever take",
            self.budget_nanoton.clone(),
        );
        registry.register(
            "channel_nanoton",
            "Coins in a channel, as the chain shows",
            self.channel_nanoton.clone(),
        );
    }

    /// A request was answered, or its caller left; with the code of an error.
    pub(crate) fn request(&self, endpoint: &'static str, status: u16, code: Option<&str>) {
        self.requests.get_or_create(&RequestLabels { endpoint, status }).inc();
        if let Some(code) = code {
            let code = code.to_owned();
            self.errors.get_or_create(&ErrorLabels { endpoint, status, code }).inc();
        }
    }

    /// The head of an answer is on its way.
    pub(crate) fn headed(&self, after: Duration) {
        self.first_byte.observe(after.as_secs_f64());
    }

    /// From now on a way is left alone: a `proxy`, or its `workers` for a model.
    pub(crate) fn breaker_opened(&self, part: &'static str) {
        self.breaker_openings.get_or_create(&PartLabel { part }).inc();
    }

    /// An answer ended, be it that nobody saw a byte of it.
    pub(crate) fn ended(&self, end: End, took: Duration) {
        self.ends.get_or_create(&EndLabel { end: end.name() }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// A request came to no answer; `model`: its name, unless it is one of a caller's own making.
    pub(crate) fn unanswered(
        &self,
        endpoint: Endpoint,
        model: Option<&str>,
        error: &'static str,
        took: Duration,
    ) {
        self.gen_ai.failed(endpoint, model, error, took);
    }

    /// What an answer came to that its caller saw.
    pub(crate) fn charged(&self, charged: &Charged<'_>) {
        self.ended(charged.end, charged.took);
        self.gen_ai.answered(charged);
        self.tokens.inc_by(charged.tokens);
        self.cost.inc_by(charged.costs.total_cost);
        self.estimated.inc_by(charged.estimated.into());
        let usage = &charged.usage;
        for (class, tokens) in [
            ("prompt", usage.prompt_tokens - usage.cached_tokens),
            ("cached", usage.cached_tokens),
            ("completion", usage.completion_tokens - usage.reasoning_tokens),
            ("reasoning", usage.reasoning_tokens),
            ("audio_prompt", usage.audio_prompt_tokens),
            ("audio_completion", usage.audio_completion_tokens),
        ] {
            if let Ok(tokens @ 1..) = u64::try_from(tokens) {
                let labels = UsageLabels { endpoint: charged.endpoint.name(), class };
                self.usage.get_or_create(&labels).inc_by(tokens);
            }
        }
    }

    pub(crate) fn disputed(&self, reason: DisputeReason) {
        self.disputes.get_or_create(&ReasonLabel { reason: reason.name() }).inc();
    }

    /// The text form, with these figures of the moment.
    pub(crate) fn text(
        &self,
        ready: usize,
        spent: &crate::Spent,
        keys: &[(String, Counts)],
        settlement: Option<&crate::SettlementReport>,
    ) -> String {
        self.keys(keys);
        self.proxies_ready.set(i64::try_from(ready).unwrap_or(i64::MAX));
        self.spent_tokens.set(spent.tokens.get());
        self.spent_nanoton.set(spent.nanoton.nano());
        self.channel_nanoton.clear();
        if let Some(report) = settlement {
            self.wallet_nanoton.set(report.status.balance_nanoton.unwrap_or(0));
            self.committed_nanoton.set(report.committed_nanoton);
            self.budget_nanoton.set(report.budget_nanoton);
            for channel in &report.channels {
                let contract = channel.contract.to_string();
                self.channel_nanoton.get_or_create(&ContractLabel { contract }).set(channel.balance_nanoton);
            }
        }
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode_registry(&mut out, &self.registry);
        let _ = text::encode(&mut out, self.gen_ai.registry());
        out
    }

    fn keys(&self, keys: &[(String, Counts)]) {
        // The last word on a cost may be a lower one; a counter waits until the sum has caught up.
        let advance = |counter: &Counter, sum: u64| counter.inner().fetch_max(sum, Ordering::Relaxed);
        for (key, counts) in keys {
            let label = KeyLabel { key: key.clone() };
            advance(&self.key_requests.get_or_create(&label), counts.requests);
            advance(&self.key_cost.get_or_create(&label), counts.cost_nanoton);
            for (class, tokens) in
                [("prompt", counts.prompt_tokens), ("completion", counts.completion_tokens)]
            {
                let label = KeyTokensLabels { key: key.clone(), class };
                advance(&self.key_tokens.get_or_create(&label), tokens);
            }
        }
    }

    /// Counts of ends and disputes for people: how many answers were complete, broken, cancelled.
    pub(crate) fn end_counts(&self) -> [(&'static str, u64); 3] {
        ["complete", "broken", "cancelled"].map(|end| (end, self.ends.get_or_create(&EndLabel { end }).get()))
    }
}

#[cfg(test)]
mod tests {
    use cocoon_openai::{CostFields, Endpoint, Usage};

    use super::*;

    #[test]
    fn names_and_units_are_prometheus_own() {
        let metrics = Metrics::new();
        metrics.request("chat", 200, None);
        metrics.request("chat", 429, Some("workers_busy"));
        metrics.breaker_opened("proxy");
        let usage = Usage { cached_tokens: 2, audio_prompt_tokens: 3, ..Usage::new(9, 4) };
        metrics.charged(&Charged {
            endpoint: Endpoint::Chat,
            model: "m",
            usage,
            tokens: 13,
            costs: CostFields { prompt_total_cost: 9, completion_total_cost: 4, total_cost: 13 },
            estimated: true,
            end: End::Complete,
            took: Duration::from_millis(5),
            first: Some(Duration::from_millis(2)),
        });
        metrics.disputed(DisputeReason::UsageDiffers);
        let used = Counts { requests: 2, prompt_tokens: 9, cost_nanoton: 13, ..Counts::default() };
        metrics.text(1, &crate::Spent::default(), &[("key_1".to_owned(), used)], None);
        let lower = Counts { cost_nanoton: 12, requests: 3, ..used };
        let text = metrics.text(1, &crate::Spent::default(), &[("key_1".to_owned(), lower)], None);
        for line in [
            "cocoon_gateway_requests_total{endpoint=\"chat\",status=\"200\"} 1",
            "cocoon_gateway_errors_total{endpoint=\"chat\",status=\"429\",code=\"workers_busy\"} 1",
            "cocoon_gateway_breaker_openings_total{part=\"proxy\"} 1",
            "cocoon_gateway_answers_total{end=\"complete\"} 1",
            "cocoon_gateway_cost_nanoton_total 13",
            "cocoon_gateway_estimated_answers_total 1",
            "cocoon_gateway_engine_tokens_total{endpoint=\"chat\",class=\"prompt\"} 7",
            "cocoon_gateway_engine_tokens_total{endpoint=\"chat\",class=\"cached\"} 2",
            "cocoon_gateway_engine_tokens_total{endpoint=\"chat\",class=\"audio_prompt\"} 3",
            "cocoon_gateway_key_requests_total{key=\"key_1\"} 3",
            "cocoon_gateway_key_tokens_total{key=\"key_1\",class=\"prompt\"} 9",
            "cocoon_gateway_key_cost_nanoton_total{key=\"key_1\"} 13",
            "cocoon_gateway_disputes_total{reason=\"usage_differs\"} 1",
            "cocoon_gateway_request_duration_seconds_count 1",
            "cocoon_gateway_proxies_ready 1",
            "cocoon_gateway_spent_nanoton 0",
            "gen_ai_client_operation_duration_seconds_count{gen_ai_provider_name=\"cocoon\",gen_ai_operation_name=\"chat\",gen_ai_request_model=\"m\",error_type=\"\"} 1",
            "gen_ai_client_token_usage_sum{gen_ai_provider_name=\"cocoon\",gen_ai_operation_name=\"chat\",gen_ai_request_model=\"m\",gen_ai_token_type=\"input\"} 9.0",
            "gen_ai_client_operation_time_to_first_chunk_seconds_count{gen_ai_provider_name=\"cocoon\",gen_ai_operation_name=\"chat\",gen_ai_request_model=\"m\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
    }
}
