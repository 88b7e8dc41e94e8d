//! The gateway's filter: what the caller sees of usage and price, and what is held back for it.

use bytes::Bytes;
use cocoon_openai::{AnswerFilter, BodyKind, BodyLimits, Endpoint, Usage, add_cocoon_object};

use super::{CHAT_STREAM, cocoon, filter, filter_chunks};

const USAGE_CHUNK: &str = "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3,\"total_tokens\":8}}\n\n";

/// What a caller that asked for usage gets where the engine told none.
const PRICE_CHUNK: &str = "data: {\"id\":\"cocoon\",\"object\":\"chat.completion.chunk\",\"created\":0,\"model\":\"\",\"choices\":[],\"cocoon\":{\"cost\": 7}}\n\n";

#[test]
fn a_caller_who_did_not_ask_sees_no_usage_but_a_comment_with_the_price() {
    let expected = CHAT_STREAM.replace(USAGE_CHUNK, ": cocoon {\"cost\": 7}\n\n");
    let (out, report) = filter_chunks(BodyKind::Sse, false, &[CHAT_STREAM.as_bytes()]);
    assert_eq!(out, expected);
    assert_eq!((report.usage, report.content_deltas), (Some(Usage::new(5, 3)), 2));
    assert!(report.complete);
}

#[test]
fn a_caller_who_asked_sees_usage_with_the_price_in_it() {
    let expected =
        CHAT_STREAM.replace("\"total_tokens\":8}}", "\"total_tokens\":8},\"cocoon\":{\"cost\": 7}}");
    assert_eq!(filter(BodyKind::Sse, true, CHAT_STREAM), expected);
}

#[test]
fn content_is_never_held_back_and_the_end_is() {
    let content = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    for show_usage in [false, true] {
        let mut filter = AnswerFilter::new(Endpoint::Chat, BodyKind::Sse, BodyLimits::default(), show_usage);
        assert_eq!(filter.push(Bytes::from(content)), [content]);
        assert!(filter.push(Bytes::from(USAGE_CHUNK)).is_empty());
        assert_eq!(filter.push(Bytes::from(": ping\n\n")), [": ping\n\n"]);
        assert!(filter.push(Bytes::from("data: [DONE]\n\n")).is_empty());
        assert!(filter.push(Bytes::from(content)).is_empty(), "nothing belongs to an answer after its end");
        let held = filter.take_held(None, None);
        let expected =
            if show_usage { vec![USAGE_CHUNK, "data: [DONE]\n\n"] } else { vec!["data: [DONE]\n\n"] };
        assert_eq!(held, expected);
    }
}

#[test]
fn usage_beside_content_is_taken_away_only_where_it_was_not_asked_for() {
    let null =
        "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\"\"}}],\"usage\":null,\"z\":1.0}\n\n";
    let running = "data: {\"usage\":{\"prompt_tokens\":1},\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    let cost = ": cocoon {\"cost\": 7}\n\n";
    assert_eq!(filter(BodyKind::Sse, true, null), format!("{null}{PRICE_CHUNK}"));
    assert_eq!(filter(BodyKind::Sse, true, running), format!("{running}{PRICE_CHUNK}"));
    assert_eq!(filter(BodyKind::Sse, false, null), null.replace("\"usage\":null,", "") + cost);
    assert_eq!(
        filter(BodyKind::Sse, false, running),
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"x\"}}}}]}}\n\n{cost}")
    );
}

#[test]
fn running_usage_chunks_keep_their_place_and_only_the_last_waits() {
    let content = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    let mut filter = AnswerFilter::new(Endpoint::Chat, BodyKind::Sse, BodyLimits::default(), true);
    assert!(filter.push(Bytes::from(USAGE_CHUNK)).is_empty());
    assert_eq!(filter.push(Bytes::from(content)), [USAGE_CHUNK, content]);
    assert!(filter.push(Bytes::from(USAGE_CHUNK)).is_empty());
    assert_eq!(filter.push(Bytes::from(USAGE_CHUNK)), [USAGE_CHUNK]);
}

#[test]
fn lines_of_json_follow_the_same_rule_without_comments() {
    let body = "{\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n{\"choices\":[],\"usage\":{}}\n\n";
    assert_eq!(
        filter(BodyKind::JsonLines, false, body),
        "{\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n"
    );
    let shown = filter(BodyKind::JsonLines, true, body);
    assert!(shown.contains("{\"choices\":[],\"usage\":{},\"cocoon\":{\"cost\":\n7}}\n"), "{shown}");
}

#[test]
fn a_json_answer_gets_the_cocoon_object_and_loses_nothing() {
    let body = "{\n \"usage\": {\"prompt_tokens\": 1}, \"x\": 1.50 }\n";
    for show_usage in [false, true] {
        assert_eq!(
            filter(BodyKind::Json, show_usage, body),
            "{\n \"usage\": {\"prompt_tokens\": 1}, \"x\": 1.50 ,\"cocoon\":{\"cost\":\n7}}\n"
        );
    }
}

#[test]
fn the_cocoon_object_can_not_be_forged_and_only_objects_get_one() {
    let add = |body: &'static str| add_cocoon_object(Bytes::from(body), &cocoon());
    assert_eq!(add("{}"), "{\"cocoon\":{\"cost\":\n7}}");
    assert_eq!(add("{\"cocoon\":{\"cost\":0},\"a\":1}"), "{\"a\":1,\"cocoon\":{\"cost\":\n7}}");
    for body in ["", "[]", "{\"a\":", "{\"a\":1,\"a\":2}", "null", "}"] {
        assert_eq!(add(body), body);
    }
}

#[test]
fn a_stream_without_usage_shows_the_price_all_the_same() {
    let content = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}]}\n\n";
    assert_eq!(filter(BodyKind::Sse, true, content), format!("{content}{PRICE_CHUNK}"));
    assert_eq!(filter(BodyKind::Sse, false, content), format!("{content}: cocoon {{\"cost\": 7}}\n\n"));
}

#[test]
fn what_is_over_a_limit_is_shown_unread() {
    let limits = BodyLimits { event_bytes: 100, json_bytes: 10 };
    let mut filter = AnswerFilter::new(Endpoint::Chat, BodyKind::Json, limits, false);
    assert!(filter.push(Bytes::from("{\"x\":1")).is_empty());
    assert_eq!(filter.push(Bytes::from(",\"yyyy\":2")), ["{\"x\":1,\"yyyy\":2"]);
    assert_eq!(filter.push(Bytes::from("}")), ["}"]);
    assert!(filter.take_held(Some(&cocoon()), None).is_empty());
    assert!(filter.report().gave_up);
}

#[test]
fn where_the_engine_told_no_usage_the_estimate_is_shown_to_whom_asked() {
    let estimate = cocoon_openai::Usage::new(3, 4);
    let usage = r#""usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}"#;
    let content = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}]}\n\n";
    for (kind, body, show, shown) in [
        (BodyKind::Sse, content, true, true),
        (BodyKind::Sse, content, false, false),
        (BodyKind::Json, "{\"choices\":[{\"message\":{\"content\":\"x\"}}]}", true, true),
        (BodyKind::Json, "{\"choices\":[],\"usage\":{\"prompt_tokens\":1}}", true, false),
    ] {
        let mut filter = AnswerFilter::new(Endpoint::Chat, kind, BodyLimits::default(), show);
        let mut all = filter.push(Bytes::from(body));
        all.extend(filter.take_held(Some(&cocoon()), Some(&estimate)));
        let text = String::from_utf8(all.concat()).unwrap();
        assert_eq!(text.contains(usage), shown, "{text}");
    }
}
