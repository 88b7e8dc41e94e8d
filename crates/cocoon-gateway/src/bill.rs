//! What an answer costs, in the forms that go out: the `cocoon` object, cost fields and headers.

use std::time::Instant;

use cocoon_openai::CostFields;
use cocoon_session::FinalInfo;
use cocoon_wire::codec::ByteStr;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::answer::{Answering, Timing};
use crate::price::Assessment;

/// Nanoton in one TON.
const NANOTON_PER_TON: u64 = 1_000_000_000;

/// What an answer costs, in the forms that go out.
pub(crate) struct Bill {
    pub(crate) cocoon: Box<RawValue>,
    pub(crate) costs: CostFields,
    pub(crate) tokens: u64,
}

#[derive(Serialize)]
struct Cocoon<'a> {
    request_id: String,
    cost_nanoton: u64,
    /// In TON.
    cost: String,
    tokens: CocoonTokens,
    /// In 1/1000; `null` where the charge does not tell it.
    coefficient: Option<u32>,
    price_per_token_nanoton: u64,
    proxy: CocoonProxy<'a>,
    worker: Option<CocoonWorker>,
    insecure: bool,
    estimated: bool,
    disputed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    dispute: Option<&'static str>,
    latency: Latency,
    #[serde(skip_serializing_if = "Option::is_none")]
    debug: Option<serde_json::Value>,
}

/// Adjusted tokens, as charged.
#[derive(Serialize)]
struct CocoonTokens {
    prompt: u64,
    cached: u64,
    completion: u64,
    reasoning: u64,
    total: u64,
}

#[derive(Serialize)]
struct CocoonProxy<'a> {
    fingerprint: String,
    public_key: String,
    contract: String,
    attestation: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_hash: Option<String>,
}

/// Known where the proxy names its workers.
#[derive(Serialize)]
struct CocoonWorker {
    fingerprint: String,
    /// `null` where nobody's verdict is known yet.
    attestation: Option<&'static str>,
    /// Whose verdict that is: `gateway` or `proxy`.
    verified_by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_hash: Option<String>,
}

/// Durations in milliseconds. Those of proxy and worker are their own words.
#[derive(Serialize)]
struct Latency {
    gateway_ms: f64,
    first_byte_ms: f64,
    proxy_ms: Option<f64>,
    worker_ms: Option<f64>,
}

impl Answering {
    pub(crate) fn bill(
        &self,
        assessment: &Assessment,
        info: &FinalInfo,
        debug: Option<&(ByteStr, ByteStr)>,
    ) -> Bill {
        let connection = self.exchange.connection();
        let costs = assessment.costs(&self.order.tariff);
        let claimed = &assessment.claimed;
        let debug = self.enable_debug.then(|| debug_info(debug, &self.timing));
        if let (Some(debug), Some(guid), Some(pass)) = (&debug, &self.request_guid, self.in_flight.pass()) {
            self.shared.debug_log.put(pass.key(), guid, debug.to_string());
        }
        let (public_key, contract) = connection.terms().map_or_else(Default::default, |terms| {
            (hex::encode(terms.public_key), terms.contract.to_string())
        });
        let worker = self.exchange.worker();
        let seen = worker.and_then(|worker| self.shared.vetting.memory.seen(worker));
        // Where the proxy names no workers, it is one of a published network, and answers for them itself.
        let insecure_worker = worker.is_some() && seen.as_ref().is_none_or(|seen| seen.insecure);
        let cocoon = Cocoon {
            request_id: hex::encode(self.exchange.request()),
            cost_nanoton: costs.total_cost,
            cost: ton_decimal(costs.total_cost),
            tokens: CocoonTokens {
                prompt: claimed.prompt().get(),
                cached: claimed.cached().get(),
                completion: claimed.completion().get(),
                reasoning: claimed.reasoning().get(),
                total: assessment.charged.get(),
            },
            coefficient: assessment.coefficient.map(|coefficient| coefficient.get()),
            price_per_token_nanoton: self.order.tariff.price_per_token.get(),
            proxy: CocoonProxy {
                fingerprint: hex::encode(connection.peer.certificate_fingerprint),
                public_key,
                contract,
                attestation: connection.attestation.kind,
                image_hash: connection.attestation.image_hash.map(hex::encode),
            },
            worker: worker.map(|worker| CocoonWorker {
                fingerprint: hex::encode(worker),
                attestation: seen.as_ref().map(|seen| seen.kind),
                verified_by: seen.as_ref().map(|seen| seen.by),
                image_hash: seen.as_ref().and_then(|seen| seen.image_hash).map(hex::encode),
            }),
            insecure: connection.attestation.insecure || insecure_worker,
            estimated: assessment.estimated,
            disputed: assessment.dispute.is_some(),
            dispute: assessment.dispute.map(|reason| reason.name()),
            latency: Latency {
                gateway_ms: millis(self.timing.started.elapsed().as_secs_f64()),
                first_byte_ms: millis((self.timing.head - self.timing.started).as_secs_f64()),
                proxy_ms: span(info.proxy_start, info.proxy_end),
                worker_ms: span(info.worker_start, info.worker_end),
            },
            debug,
        };
        // Strings and finite numbers only: this cannot fail; an empty object is harmless.
        let cocoon = to_raw_value(&cocoon).unwrap_or_else(|_| RawValue::NULL.to_owned());
        Bill { cocoon, costs, tokens: assessment.charged.get() }
    }
}

/// Worker's and proxy's debug information, and ours, under the published names.
fn debug_info(debug: Option<&(ByteStr, ByteStr)>, timing: &Timing) -> serde_json::Value {
    let parse = |text: &ByteStr| serde_json::from_slice::<serde_json::Value>(text.as_bytes()).ok();
    let ms = |from: Instant, to: Instant| millis((to - from).as_secs_f64());
    serde_json::json!({
        "worker": debug.and_then(|(worker, _)| parse(worker)),
        "proxy": debug.and_then(|(_, proxy)| parse(proxy)),
        "client": {
            "type": "client_stats",
            "sent_after_ms": ms(timing.started, timing.sent),
            "head_after_ms": ms(timing.started, timing.head),
            "end_after_ms": ms(timing.started, Instant::now()),
        },
    })
}

/// Microsecond precision.
fn millis(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e3
}

/// Milliseconds between two moments in Unix seconds; `None` where a peer's figures make no sense.
fn span(start: f64, end: f64) -> Option<f64> {
    let seconds = end - start;
    (start > 0.0 && (0.0..=86_400.0).contains(&seconds)).then(|| millis(seconds))
}

/// Nanoton as TON, exactly, without a unit.
fn ton_decimal(nanoton: u64) -> String {
    let text = format!("{}.{:09}", nanoton / NANOTON_PER_TON, nanoton % NANOTON_PER_TON);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_written_as_an_exact_decimal() {
        for (nanoton, text) in
            [(0, "0"), (1, "0.000000001"), (1_500_000_000, "1.5"), (u64::MAX, "18446744073.709551615")]
        {
            assert_eq!(ton_decimal(nanoton), text);
        }
    }

    #[test]
    fn senseless_timings_of_peers_are_left_out() {
        assert_eq!(span(1.0, 1.25), Some(250.0));
        for (start, end) in [(0.0, 5.0), (2.0, 1.0), (f64::NAN, 1.0), (1.0, f64::INFINITY), (1.0, 1e9)] {
            assert_eq!(span(start, end), None);
        }
    }
}
