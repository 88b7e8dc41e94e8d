#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

fn prompt(endpoint: Endpoint, body: &str) -> i64 {
    RequestSummary::of_json(endpoint, body.as_bytes()).prompt_tokens()
}

#[test]
fn prompts_are_counted_by_the_stated_rule() {
    let image = r#"{"messages":[{"content":[{"type":"text","text":"1234"},
        {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAAAAAAAAAAAAAAAAAA"}}]}]}"#;
    let cases = [
        (r#"{"prompt":"12345678"}"#, 2),
        (r#"{"prompt":["1234","5678"]}"#, 2),
        (r#"{"prompt":[5,6,7]}"#, 3),
        (r#"{"prompt":[[5,6],[7]]}"#, 3),
        (r#"{"messages":[{"role":"user","content":null}]}"#, 4),
        (r#"{"messages":[{"content":"\u0436\u0436"},{"content":"x"}]}"#, 2 + 8),
        (image, 1 + 4 + 256),
        ("not JSON", 2),
    ];
    for (body, tokens) in cases {
        assert_eq!(prompt(Endpoint::Chat, body), tokens, "{body}");
    }
}

#[test]
fn conversations_of_every_api_are_counted_alike() {
    let responses = r#"{"instructions":"1234","input":[{"role":"user","content":[{"type":"input_text","text":"1234"},
        {"type":"input_image","image_url":"x"}]},{"type":"function_call","name":"ab","arguments":"{}"},
        {"type":"function_call_output","output":"1234"}]}"#;
    for endpoint in [Endpoint::Responses, Endpoint::InputTokens] {
        assert_eq!(prompt(endpoint, responses), 4 + 3 * 4 + 256);
        assert_eq!(prompt(endpoint, r#"{"input":"12345678"}"#), 2);
    }
    let messages = r#"{"system":[{"type":"text","text":"1234"}],"messages":[{"role":"user","content":"1234"},
        {"role":"assistant","content":[{"type":"thinking","thinking":"1234","signature":"xxxxxxxxxxxxxxx"},
            {"type":"tool_use","id":"t","name":"ab","input":{}}]},
        {"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[{"type":"text","text":"1234"}]},
            {"type":"image","source":{}}]}]}"#;
    for endpoint in [Endpoint::Messages, Endpoint::CountTokens] {
        assert_eq!(prompt(endpoint, messages), 5 + 3 * 4 + 256);
        assert_eq!(prompt(endpoint, r#"{"system":"12345678","messages":[]}"#), 2);
    }
}

#[test]
fn what_gives_no_text_is_paid_by_the_text_that_is_sent() {
    let cases = [
        (Endpoint::Embeddings, r#"{"input":"12345"}"#, 2),
        (Endpoint::Embeddings, r#"{"input":["1234","1234"]}"#, 2),
        (Endpoint::Embeddings, r#"{"input":[[1,2],[3]]}"#, 3),
        (Endpoint::Rerank, r#"{"query":"1234","documents":["1234",{"text":"1234"}]}"#, 3),
        (Endpoint::Moderations, r#"{"input":[{"type":"text","text":"1234"}]}"#, 1),
        (Endpoint::Tokenize, r#"{"prompt":"1234"}"#, 1),
        (Endpoint::Tokenize, r#"{"content":"1234"}"#, 1),
        (Endpoint::Detokenize, r#"{"tokens":[1,2,3]}"#, 3),
        (Endpoint::CountTokens, r#"{"messages":[{"content":"1234"}],"max_tokens":9}"#, 1 + 4),
        (Endpoint::InputTokens, r#"{"input":"1234","max_output_tokens":9}"#, 1),
    ];
    for (endpoint, body, tokens) in cases {
        let summary = RequestSummary::of_json(endpoint, body.as_bytes());
        assert_eq!(summary.prompt_tokens(), tokens, "{endpoint} {body}");
        assert_eq!((summary.completion_tokens(), summary.completion_bound()), (Some(0), Some(0)));
    }
}

#[test]
fn speech_is_paid_by_the_bytes_that_are_spoken() {
    let summary = RequestSummary::of_json(Endpoint::Speech, r#"{"input":"éab","voice":"x"}"#.as_bytes());
    assert_eq!((summary.prompt_tokens(), summary.completion_bound()), (1, Some(4)));
}

#[test]
fn images_are_paid_by_their_number_and_size() {
    let drawn = |body: &str| {
        RequestSummary::of_json(Endpoint::ImageGenerations, body.as_bytes()).completion_tokens().unwrap()
    };
    assert_eq!(drawn(r#"{"prompt":"a"}"#), 4096);
    assert_eq!(drawn(r#"{"prompt":"a","n":3,"size":"512x500"}"#), 3 * 32 * 32);
    assert_eq!(drawn(r#"{"prompt":"a","n":null,"size":"auto"}"#), 4096);
    assert_eq!(drawn(r#"{"size":"16x16","width":32,"height":32}"#), 4);
    assert_eq!(drawn(r#"{"size":"99999999999x9999999","n":18446744073709551615}"#), Usage::MAX_COUNT);
    let mut form = RequestSummary::new(Endpoint::ImageEdits);
    form.add_field("prompt", b"12345678");
    form.add_field("n", b"2");
    form.add_field("size", b"256x256");
    form.add_field("mode", b"ignored");
    form.add_file_bytes(1_000_000);
    form.add_body_bytes(1_000_300);
    assert_eq!((form.prompt_tokens(), form.completion_tokens()), (2, Some(2 * 256)));
}

#[test]
fn sound_is_paid_by_the_bytes_of_its_file() {
    let mut form = RequestSummary::new(Endpoint::Transcriptions);
    form.add_body_bytes(70_000);
    form.add_field("prompt", b"a text that guides, and is not counted");
    form.add_file_bytes(64_000);
    form.add_file_bytes(1);
    assert_eq!((form.prompt_tokens(), form.completion_bound()), (101, Some(4096 + 1000)));
    assert_eq!(form.completion_tokens(), None);
}

#[test]
fn the_limit_of_a_text_covers_all_its_choices() {
    let bound = |endpoint, body: &str| RequestSummary::of_json(endpoint, body.as_bytes()).completion_bound();
    assert_eq!(bound(Endpoint::Chat, r#"{"max_tokens":5,"max_completion_tokens":7,"n":3}"#), Some(21));
    assert_eq!(bound(Endpoint::Completions, r#"{"max_tokens":5,"prompt":["a","b"]}"#), Some(10));
    assert_eq!(bound(Endpoint::Completions, r#"{"max_tokens":5,"prompt":[1,2]}"#), Some(5));
    assert_eq!(bound(Endpoint::Responses, r#"{"max_output_tokens":9,"max_tokens":1}"#), Some(9));
    assert_eq!(bound(Endpoint::Messages, r#"{"max_tokens":9}"#), Some(9));
    assert_eq!(bound(Endpoint::Chat, "{}"), None);
}

#[test]
fn an_engines_count_is_held_only_where_nothing_limits_the_engine() {
    let huge = Usage::new(1_000_000, 1_000_000);
    let body = Bytes::from_static(br#"{"input":"abcd","prompt":"abcd","max_tokens":1}"#);
    let held = |endpoint| RequestBasis::json(endpoint, body.clone()).hold(&huge);
    assert_eq!(held(Endpoint::Chat), huge);
    assert_eq!(held(Endpoint::Embeddings), Usage::new(47 + 1024, 0));
    assert_eq!(held(Endpoint::CountTokens), Usage::new(47 + 1024, 0));
    assert_eq!(held(Endpoint::Speech), Usage::new(47 + 1024, 4));
    assert_eq!(held(Endpoint::ImageGenerations), Usage::new(47 + 1024, 4096));
    let few = Usage { total_tokens: 50, ..Usage::new(7, 3) };
    assert_eq!(RequestBasis::json(Endpoint::Speech, body.clone()).hold(&few), few);
}

proptest! {
    #[test]
    fn no_body_counts_as_more_than_a_proxy_lets_pass(
        endpoint in proptest::sample::select(&Endpoint::ALL[..]),
        body in "[{}\\[\\]\":,a0 ]{0,80}",
        messages in 0_usize..2000,
    ) {
        let many = format!("{{\"messages\":[{}{{}}],\"input\":[{}1]}}", "{},".repeat(messages), "1,".repeat(messages));
        for body in [body, many] {
            let summary = RequestSummary::of_json(endpoint, body.as_bytes());
            prop_assert!(summary.prompt_tokens() <= to_count(body.len() as u64) + 1024);
        }
    }
}
