//! The worker's meter: what it writes, what it reports, and when it lets go of a piece.

use bytes::Bytes;
use cocoon_openai::{AnswerMeter, BodyKind, BodyLimits, Endpoint, Usage};

use super::{CHAT_STREAM, meter, meter_chunks, price};

#[test]
fn a_stream_passes_unchanged_but_for_the_price_in_its_usage() {
    let (out, report) = meter(BodyKind::Sse, CHAT_STREAM);
    let priced = CHAT_STREAM.replace(
        "\"total_tokens\":8",
        "\"total_tokens\":8,\"prompt_total_cost\":50,\"completion_total_cost\":60,\"total_cost\":110",
    );
    assert_eq!(out, priced);
    assert_eq!(report.usage, Some(Usage::new(5, 3)));
    assert_eq!((report.content_deltas, report.content_bytes), (2, 5));
    assert!(report.saw_done && report.complete && !report.saw_error);
}

#[test]
fn an_event_is_passed_on_with_its_last_byte() {
    let mut meter = AnswerMeter::new(Endpoint::Chat, BodyKind::Sse, BodyLimits::default(), Box::new(price));
    assert!(meter.push(Bytes::from_static(b"data: {}\n")).is_empty());
    assert_eq!(meter.push(Bytes::from_static(b"\nda")), ["data: {}\n\n"]);
    assert_eq!(meter.push(Bytes::from_static(b"ta: x\r\n\r\n")), ["data: x\r\n\r\n"]);
}

#[test]
fn a_json_answer_keeps_its_layout() {
    let body = "{\n  \"x\": 1.50,\n  \"usage\": {\"prompt_tokens\": 2, \"y\": [ 1 ]},\n  \"choices\": [\n    \
                {\"message\": {\"content\": \"four\"}, \"finish_reason\": \"stop\"}]\n}\n";
    let (out, report) = meter(BodyKind::Json, body);
    let priced = body.replace(
        "{\"prompt_tokens\": 2, \"y\": [ 1 ]}",
        "{\"prompt_tokens\":2,\"y\":[ 1 ],\"prompt_total_cost\":20,\"completion_total_cost\":0,\"total_cost\":20}",
    );
    assert_eq!(out, priced);
    assert!(report.complete);
    assert_eq!((report.content_deltas, report.content_bytes), (0, 4));
}

#[test]
fn one_json_object_in_answer_to_a_streamed_request_is_priced_too() {
    let body =
        "{\n \"choices\":[{\"message\":{\"content\":\"four\"},\"finish_reason\":\"stop\"}],\n \"usage\":{}}";
    let (out, report) = meter(BodyKind::JsonLines, body);
    assert!(
        out.ends_with("\"usage\":{\"prompt_total_cost\":0,\"completion_total_cost\":0,\"total_cost\":0}}")
    );
    assert_eq!((report.content_deltas, report.content_bytes, report.complete), (0, 4, true));
}

#[test]
fn the_last_of_running_usages_counts_and_each_is_priced() {
    let chunk = |tokens: u64, end: &str| {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"x\"}},\"finish_reason\":{end}}}],\
             \"usage\":{{\"prompt_tokens\":4,\"completion_tokens\":{tokens}}}}}\n\n"
        )
    };
    let (out, report) = meter(BodyKind::Sse, &(chunk(1, "null") + &chunk(2, "\"length\"")));
    assert_eq!(out.matches("\"total_cost\":").count(), 2);
    assert_eq!(report.usage, Some(Usage::new(4, 2)));
    assert!(report.complete && !report.saw_done);
}

#[test]
fn a_price_that_was_there_already_is_replaced() {
    let (out, _) = meter(BodyKind::Json, r#"{"usage":{"total_cost":9,"prompt_tokens":1}}"#);
    let expected =
        r#"{"usage":{"total_cost":10,"prompt_tokens":1,"prompt_total_cost":10,"completion_total_cost":0}}"#;
    assert_eq!(out, expected);
}

#[test]
fn every_kind_of_content_counts_once_per_choice_and_chunk() {
    let deltas = [
        (r#"{"delta":{"content":"a"}}"#, 1),
        (r#"{"delta":{"reasoning_content":"a"}}"#, 1),
        (r#"{"delta":{"reasoning":"a","content":"b"}}"#, 1),
        (r#"{"delta":{"refusal":"a"}}"#, 1),
        (r#"{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}}"#, 1),
        (r#"{"text":"a"}"#, 1),
        (r#"{"delta":{"content":"a"}},{"index":1,"delta":{"content":"b"}}"#, 2),
        (r#"{"delta":{"content":"","reasoning_content":null,"tool_calls":[]}}"#, 0),
        (r#"{"delta":{"role":"assistant"}}"#, 0),
        (r#"{"text":""}"#, 0),
        (r#"{"delta":null}"#, 0),
        ("7", 0),
    ];
    for (choices, expected) in deltas {
        let (_, report) = meter(BodyKind::Sse, &format!("data: {{\"choices\":[{choices}]}}\n\n"));
        assert_eq!(report.content_deltas, expected, "{choices}");
    }
}

#[test]
fn a_stream_is_complete_only_when_it_came_to_its_end() {
    let choice = |index: u64, end: &str| {
        format!("data: {{\"choices\":[{{\"index\":{index},\"delta\":{{}},\"finish_reason\":{end}}}]}}\n\n")
    };
    let complete = |body: &str| meter(BodyKind::Sse, body).1.complete;
    assert!(complete(&(choice(0, "null") + "data: [DONE]\n\n")));
    assert!(complete("data: [DONE]"), "the last blank line may be missing");
    assert!(complete(&(choice(0, "\"stop\"") + &choice(1, "\"stop\""))));
    assert!(!complete(&(choice(0, "\"stop\"") + &choice(1, "null"))));
    assert!(!complete(&choice(0, "null")));
    assert!(!complete(""));
    assert!(!complete("data: {\"error\":{\"message\":\"x\"}}\n\ndata: [DONE]\n\n"));
}

#[test]
fn a_json_body_is_complete_when_it_is_whole() {
    assert!(meter(BodyKind::Json, "{\"choices\":[]}").1.complete);
    assert!(!meter(BodyKind::Json, "{\"choices\":[").1.complete);
    assert!(!meter(BodyKind::Json, "").1.complete);
    let (_, error) = meter(BodyKind::Json, "{\"error\":{\"message\":\"x\"}}");
    assert!(error.saw_error && error.complete);
}

#[test]
fn nothing_counts_that_follows_the_end() {
    let late = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"usage\":{\"prompt_tokens\":900}}\n\n";
    let (out, report) = meter(BodyKind::Sse, &(CHAT_STREAM.to_owned() + late));
    assert!(out.ends_with(late), "it passes all the same");
    assert_eq!(report, meter(BodyKind::Sse, CHAT_STREAM).1);
}

#[test]
fn what_is_over_a_limit_passes_unread() {
    let limits = BodyLimits { event_bytes: 20, json_bytes: 20 };
    for (kind, body) in [
        (BodyKind::Sse, "data: {}\n\ndata: {\"usage\":{\"prompt_tokens\":1}}\n\ndata: [DONE]\n\n"),
        (BodyKind::JsonLines, "{}\n{\"usage\":{\"prompt_tokens\":1}}\n{}\n"),
        (BodyKind::Json, "{\"usage\":{\"prompt_tokens\":1}}"),
    ] {
        let (out, report) = meter_chunks(kind, limits, &[body.as_bytes()]);
        assert_eq!(out, body);
        assert!(report.gave_up && report.usage.is_none() && !report.complete, "{kind:?}: {report:?}");
    }
    // At the limit, all is read.
    let (_, report) = meter_chunks(BodyKind::Json, limits, &[b"{\"usage\":{ \"x\": 1}}\n"]);
    assert!(!report.gave_up && report.usage.is_some());
}

#[test]
fn strange_json_passes_unchanged() {
    for body in [
        "data: not JSON\n\n",
        "data: [1,2]\n\n",
        "data: {\"usage\":7,\"choices\":{}}\n\n",
        "data: {\"usage\":null,\"choices\":[null,[],{\"index\":-1,\"delta\":[]}]}\n\n",
        "data: {\"usage\":{},\"usage\":{}}\n\n",
        "data: {\"usage\":{\"a\":1,\"a\":2}}\n\n",
    ] {
        let (out, report) = meter(BodyKind::Sse, body);
        assert_eq!(out, body);
        assert_eq!((report.usage, report.content_deltas), (None, 0), "{body}");
    }
}

#[test]
fn an_opaque_body_passes_unread() {
    let (out, report) = meter(BodyKind::Opaque, CHAT_STREAM);
    assert_eq!(out, CHAT_STREAM);
    assert!(report.usage.is_none() && report.complete);
}
