//! Answers as the worker meters and the gateway filters them, over whole bodies and over any cut of them.

#![allow(clippy::unwrap_used)]

mod captured;
mod endpoints;
mod filtering;
mod metering;

use bytes::Bytes;
use cocoon_openai::{
    AnswerFilter, AnswerMeter, BodyKind, BodyLimits, CostFields, Endpoint, MeterReport, Usage,
};
use proptest::prelude::*;
use serde_json::value::RawValue;

/// A streamed chat with a role chunk, two deltas, an end and usage, as vLLM and OpenAI send it.
const CHAT_STREAM: &str = concat!(
    "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
    "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"},\"finish_reason\":null}]}\n\n",
    "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" \\u00e9\"}}]}\n\n",
    "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3,\"total_tokens\":8}}\n\n",
    "data: [DONE]\n\n",
);

/// Ten nanoton per prompt token, twenty per token of the answer.
fn price(usage: &Usage) -> CostFields {
    let count = |tokens: i64| u64::try_from(tokens).unwrap();
    let (prompt, completion) = (10 * count(usage.prompt_tokens), 20 * count(usage.completion_tokens));
    CostFields {
        prompt_total_cost: prompt,
        completion_total_cost: completion,
        total_cost: prompt + completion,
    }
}

fn cocoon() -> Box<RawValue> {
    RawValue::from_string("{\"cost\":\n7}".to_owned()).unwrap()
}

fn meter_chunks(kind: BodyKind, limits: BodyLimits, chunks: &[&[u8]]) -> (String, MeterReport) {
    let mut meter = AnswerMeter::new(Endpoint::Chat, kind, limits, Box::new(price));
    let mut out: Vec<Bytes> = Vec::new();
    for chunk in chunks {
        out.extend(meter.push(Bytes::copy_from_slice(chunk)));
    }
    let (rest, report) = meter.finish();
    out.extend(rest);
    (text(&out), report)
}

fn meter(kind: BodyKind, body: &str) -> (String, MeterReport) {
    meter_chunks(kind, BodyLimits::default(), &[body.as_bytes()])
}

fn filter_chunks(kind: BodyKind, show_usage: bool, chunks: &[&[u8]]) -> (String, MeterReport) {
    let mut filter = AnswerFilter::new(Endpoint::Chat, kind, BodyLimits::default(), show_usage);
    let mut out: Vec<Bytes> = Vec::new();
    for chunk in chunks {
        out.extend(filter.push(Bytes::copy_from_slice(chunk)));
    }
    out.extend(filter.take_held(Some(&cocoon()), None));
    (text(&out), filter.report())
}

fn filter(kind: BodyKind, show_usage: bool, body: &str) -> String {
    filter_chunks(kind, show_usage, &[body.as_bytes()]).0
}

fn text(out: &[Bytes]) -> String {
    String::from_utf8(out.concat()).unwrap()
}

/// Pieces of streams, whole and broken, in an order that proptest picks.
fn any_stream() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        Just(
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"é\"},\"finish_reason\":null}],\"usage\":null}\n\n"
        ),
        Just(
            "data:{\"choices\":[{\"index\":1,\"delta\":{\"tool_calls\":[{}]},\"finish_reason\":\"stop\"}]}\r\n\r\n"
        ),
        Just("data: {\"choices\":[],\ndata: \"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3}}\n\n"),
        Just(
            "data: {\"choices\":[{\"text\":\"x\"}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\r\r"
        ),
        Just("{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\\"usage\\\"\"}}],\n \"usage\":{}}\n"),
        Just("{\"choices\":[],\"usage\":{\"prompt_tokens\":2}}\n"),
        Just(": ping\n\n"),
        Just("event: error\ndata: {\"error\":{}}\n\n"),
        Just("data: [DONE]\n\n"),
        Just("\n"),
        Just("data: {\"cho"),
    ];
    proptest::collection::vec(pieces, 0..10).prop_map(|pieces| pieces.concat())
}

fn any_kind() -> impl Strategy<Value = BodyKind> {
    prop_oneof![Just(BodyKind::Sse), Just(BodyKind::JsonLines), Just(BodyKind::Json), Just(BodyKind::Opaque)]
}

fn cut<'a>(body: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
    at.extend([0, body.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &body[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn any_cut_of_a_body_gives_the_same_answer(
        kind in any_kind(),
        body in any_stream(),
        show_usage in any::<bool>(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let bytes = body.as_bytes();
        let chunks = cut(bytes, &cuts);
        let limits = BodyLimits::default();
        prop_assert_eq!(meter_chunks(kind, limits, &[bytes]), meter_chunks(kind, limits, &chunks));
        prop_assert_eq!(filter_chunks(kind, show_usage, &[bytes]), filter_chunks(kind, show_usage, &chunks));
    }

    #[test]
    fn a_body_without_usage_passes_the_meter_byte_for_byte(
        kind in any_kind(),
        body in proptest::collection::vec(any::<u8>(), 0..300),
        event_bytes in 1_usize..400,
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let limits = BodyLimits { event_bytes, json_bytes: event_bytes };
        let mut meter = AnswerMeter::new(Endpoint::Chat, kind, limits, Box::new(price));
        let mut out = Vec::new();
        for chunk in cut(&body, &cuts) {
            out.extend(meter.push(Bytes::copy_from_slice(chunk)).concat());
        }
        out.extend(meter.finish().0.unwrap_or_default());
        prop_assert_eq!(out, body);
    }
}
