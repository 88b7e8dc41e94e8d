//! Answers of the published worker, captured: the figures that it wrote, ours must write too.

use bytes::Bytes;
use cocoon_openai::{AnswerMeter, BodyKind, BodyLimits, CostFields, Endpoint, Usage};
use serde_json::{Value, json};

const SESSION: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/session-v2.decoded.txt"));

/// The bodies with usage that the worker sent, in their order.
fn bodies_with_usage() -> Vec<String> {
    let sent =
        SESSION.lines().filter(|line| line.contains(" c1 out ") && line.contains("proxy.queryAnswerPartEx"));
    let bodies = sent.filter_map(|line| {
        let packet: Value = serde_json::from_str(&line[line.find('{').unwrap()..]).unwrap();
        Some(packet["data"]["answer"].as_str()?.to_owned())
    });
    bodies.filter(|body| body.contains("\"usage\"")).collect()
}

#[test]
fn prices_are_written_where_the_published_worker_writes_them() {
    const PRICE: i64 = 2;
    let bodies = bodies_with_usage();
    assert!(bodies.len() >= 2, "the capture holds a whole and a streamed answer");
    for (body, kind) in bodies.iter().zip([BodyKind::Json, BodyKind::JsonLines]) {
        let published: Value = serde_json::from_str(body).unwrap();
        let mut unpriced = published.clone();
        for field in ["prompt_total_cost", "completion_total_cost", "total_cost"] {
            unpriced["usage"].as_object_mut().unwrap().remove(field).unwrap();
        }
        let cost = |usage: &Usage| {
            let nanoton = |tokens: i64| u64::try_from(tokens * PRICE).unwrap();
            CostFields {
                prompt_total_cost: nanoton(usage.prompt_tokens),
                completion_total_cost: nanoton(usage.completion_tokens),
                total_cost: nanoton(usage.prompt_tokens + usage.completion_tokens),
            }
        };
        let mut meter = AnswerMeter::new(Endpoint::Chat, kind, BodyLimits::default(), Box::new(cost));
        let mut out = meter.push(Bytes::from(format!("{unpriced}\n"))).concat();
        let (rest, report) = meter.finish();
        out.extend(rest.unwrap_or_default());
        assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), published);
        let usage = report.usage.unwrap();
        assert_eq!(json!([usage.cached_tokens, usage.reasoning_tokens]), json!([11, 10]));
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (34, 100, 134));
    }
}
