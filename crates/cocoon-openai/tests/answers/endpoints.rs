//! Answers of each endpoint in the shapes that their documentation gives: what is metered, what is changed, what is not.

use bytes::Bytes;
use cocoon_openai::{
    AnswerFilter, AnswerMeter, BodyKind, BodyLimits, Endpoint, MeterReport, RequestBasis, RequestSummary,
    Usage, estimate_usage,
};
use proptest::prelude::*;

use super::{cocoon, cut, price, text};

/// A streamed response: a message, a call of a function, and the end with the whole answer.
pub(super) const RESPONSE_STREAM: &str = concat!(
    "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"r\",\"status\":\"in_progress\",\"error\":null,\"output\":[],\"usage\":null}}\n\n",
    "event: response.output_item.added\ndata: {\"type\":\"response.output_item.added\",\"sequence_number\":1,\"output_index\":0,\"item\":{\"type\":\"message\",\"content\":[]}}\n\n",
    "event: response.reasoning_text.delta\ndata: {\"type\":\"response.reasoning_text.delta\",\"sequence_number\":2,\"delta\":\"Hm\"}\n\n",
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":3,\"delta\":\"Hi\",\"logprobs\":[]}\n\n",
    "event: response.output_text.done\ndata: {\"type\":\"response.output_text.done\",\"sequence_number\":4,\"text\":\"Hi\"}\n\n",
    "event: response.function_call_arguments.delta\ndata: {\"type\":\"response.function_call_arguments.delta\",\"sequence_number\":5,\"delta\":\"{}\"}\n\n",
    "event: response.completed\ndata: {\"type\":\"response.completed\",\"sequence_number\":6,\"response\":{\"id\":\"r\",\"status\":\"completed\",\"error\":null,\"output\":[{\"type\":\"message\",\"content\":[{\"type\":\"output_text\",\"text\":\"Hi\"}]}],\"usage\":{\"input_tokens\":9,\"input_tokens_details\":{\"cached_tokens\":4},\"output_tokens\":5,\"output_tokens_details\":{\"reasoning_tokens\":2},\"total_tokens\":14}}}\n\n",
);

/// A streamed message of Anthropic's API.
pub(super) const MESSAGE_STREAM: &str = concat!(
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[],\"usage\":{\"input_tokens\":5,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":3,\"output_tokens\":1}}}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
    "event: ping\ndata: {\"type\": \"ping\"}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n",
    "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{}}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{}\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":2,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"hm\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":2,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"xyz\"}}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":12}}\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
);

const TRANSCRIPT_STREAM: &str = concat!(
    "data: {\"type\":\"transcript.text.delta\",\"delta\":\"I see\",\"logprobs\":[]}\n\n",
    "data: {\"type\":\"transcript.text.delta\",\"delta\":\" you\"}\n\n",
    "data: {\"type\":\"transcript.text.done\",\"text\":\"I see you\",\"usage\":{\"type\":\"tokens\",\"input_tokens\":14,\"input_token_details\":{\"text_tokens\":0,\"audio_tokens\":14},\"output_tokens\":4,\"total_tokens\":18}}\n\n",
);

const IMAGE_STREAM: &str = concat!(
    "event: image_generation.partial_image\ndata: {\"type\":\"image_generation.partial_image\",\"b64_json\":\"AAAA\",\"partial_image_index\":0}\n\n",
    "event: image_generation.completed\ndata: {\"type\":\"image_generation.completed\",\"b64_json\":\"AAAAAAAA\",\"usage\":{\"input_tokens\":5,\"output_tokens\":1056,\"total_tokens\":1061,\"input_tokens_details\":{\"text_tokens\":5,\"image_tokens\":0}}}\n\n",
);

const SPEECH_STREAM: &str = concat!(
    "data: {\"type\":\"speech.audio.delta\",\"audio\":\"AAAA\"}\n\n",
    "data: {\"type\":\"speech.audio.done\",\"usage\":{\"input_tokens\":3,\"output_tokens\":9,\"total_tokens\":12}}\n\n",
);

fn metered(endpoint: Endpoint, kind: BodyKind, body: &str) -> (String, MeterReport) {
    let mut meter = AnswerMeter::new(endpoint, kind, BodyLimits::of(endpoint), Box::new(price));
    let mut out = meter.push(Bytes::copy_from_slice(body.as_bytes()));
    let (rest, report) = meter.finish();
    out.extend(rest);
    (text(&out), report)
}

fn shown(endpoint: Endpoint, kind: BodyKind, chunks: &[&[u8]]) -> (String, MeterReport) {
    let mut filter = AnswerFilter::new(endpoint, kind, BodyLimits::of(endpoint), false);
    let mut out: Vec<Bytes> = Vec::new();
    for chunk in chunks {
        out.extend(filter.push(Bytes::copy_from_slice(chunk)));
    }
    out.extend(filter.take_held(Some(&cocoon()), None));
    (text(&out), filter.report())
}

fn show(endpoint: Endpoint, kind: BodyKind, body: &str) -> String {
    shown(endpoint, kind, &[body.as_bytes()]).0
}

#[test]
fn a_streamed_response_is_metered_by_its_last_event_and_priced_in_it() {
    let (out, report) = metered(Endpoint::Responses, BodyKind::Sse, RESPONSE_STREAM);
    let priced = RESPONSE_STREAM.replace(
        "\"total_tokens\":14",
        "\"total_tokens\":14,\"prompt_total_cost\":90,\"completion_total_cost\":100,\"total_cost\":190",
    );
    assert_eq!(out, priced);
    let expected = Usage { cached_tokens: 4, reasoning_tokens: 2, ..Usage::new(9, 5) };
    assert_eq!(report.usage, Some(expected));
    assert_eq!((report.content_deltas, report.content_bytes), (3, 6));
    assert!(report.complete && report.saw_done && !report.saw_error);
    assert_eq!(report.next_sequence, Some(7));
    let expected = RESPONSE_STREAM.replace("}}}\n\n", "},\"cocoon\":{\"cost\": 7}}}\n\n");
    assert_eq!(show(Endpoint::Responses, BodyKind::Sse, RESPONSE_STREAM), expected);
}

#[test]
fn a_response_that_failed_or_was_cut_is_not_complete() {
    let failed = RESPONSE_STREAM.replace("response.completed", "response.failed");
    let (_, report) = metered(Endpoint::Responses, BodyKind::Sse, &failed);
    assert!(report.saw_error && report.saw_done && !report.complete);
    assert!(show(Endpoint::Responses, BodyKind::Sse, &failed).contains("\"cocoon\""), "its end is shown");
    let incomplete = RESPONSE_STREAM.replace("response.completed", "response.incomplete");
    assert!(metered(Endpoint::Responses, BodyKind::Sse, &incomplete).1.complete);
    let cut = &RESPONSE_STREAM[..RESPONSE_STREAM.find("event: response.completed").unwrap()];
    let (_, report) = metered(Endpoint::Responses, BodyKind::Sse, cut);
    assert!(!report.complete && report.usage.is_none());
    assert_eq!(show(Endpoint::Responses, BodyKind::Sse, cut), format!("{cut}: cocoon {{\"cost\": 7}}\n\n"));
    let error =
        "event: error\ndata: {\"type\":\"error\",\"code\":\"x\",\"message\":\"x\",\"param\":null}\n\n";
    let (_, report) = metered(Endpoint::Responses, BodyKind::Sse, error);
    assert!(report.saw_error && !report.complete);
}

#[test]
fn a_done_mark_behind_the_last_event_keeps_its_place() {
    let response = RESPONSE_STREAM.to_owned() + "data: [DONE]\n\n";
    let expected = response.replace("}}}\n\n", "},\"cocoon\":{\"cost\": 7}}}\n\n");
    assert_eq!(show(Endpoint::Responses, BodyKind::Sse, &response), expected);
    let message = MESSAGE_STREAM.to_owned() + "data: [DONE]\n\n: bye\n\n";
    let expected = message.replace(":12}}\n\n", ":12},\"cocoon\":{\"cost\": 7}}\n\n");
    assert_eq!(show(Endpoint::Messages, BodyKind::Sse, &message), expected);
    let many = MESSAGE_STREAM.to_owned() + &"data: {}\n\n".repeat(40);
    assert_eq!(show(Endpoint::Messages, BodyKind::Sse, &many), many + ": cocoon {\"cost\": 7}\n\n");
}

#[test]
fn a_whole_response_counts_text_reasoning_and_calls() {
    let body = r#"{"id":"r","object":"response","status":"completed","error":null,"output":[
        {"type":"reasoning","summary":[{"type":"summary_text","text":"ab"}],"content":[{"type":"reasoning_text","text":"c"}]},
        {"type":"message","content":[{"type":"output_text","text":"def","annotations":[]},{"type":"refusal","refusal":"no"}]},
        {"type":"function_call","name":"f","arguments":"{}"}],"usage":{"input_tokens":3,"output_tokens":8}}"#;
    let (_, report) = metered(Endpoint::Responses, BodyKind::Json, body);
    assert_eq!((report.content_bytes, report.content_deltas), (11, 0));
    assert_eq!((report.usage, report.complete), (Some(Usage::new(3, 8)), true));
    assert!(
        show(Endpoint::Responses, BodyKind::Json, body)
            .ends_with("}},\"cocoon\":{\"cost\":\n7}}".trim_start_matches('}'))
    );
}

#[test]
fn a_streamed_message_adds_up_what_anthropic_tells_apart() {
    let (out, report) = metered(Endpoint::Messages, BodyKind::Sse, MESSAGE_STREAM);
    let end = "\"prompt_total_cost\":80,\"completion_total_cost\":240,\"total_cost\":320";
    let priced = MESSAGE_STREAM.replace("\"output_tokens\":12", &format!("\"output_tokens\":12,{end}"));
    assert_eq!(out, priced);
    assert_eq!(report.usage, Some(Usage { cached_tokens: 3, ..Usage::new(8, 12) }));
    // Text, the name of a tool, its input, and a thought; a signature is none.
    assert_eq!((report.content_deltas, report.content_bytes), (4, 7));
    assert!(report.complete && report.saw_done);
    let expected = MESSAGE_STREAM.replace(":12}}\n\n", ":12},\"cocoon\":{\"cost\": 7}}\n\n");
    assert_eq!(show(Endpoint::Messages, BodyKind::Sse, MESSAGE_STREAM), expected);
}

#[test]
fn nothing_of_a_message_waits_but_its_end() {
    let mut filter = AnswerFilter::new(Endpoint::Messages, BodyKind::Sse, BodyLimits::default(), false);
    let at = MESSAGE_STREAM.find("event: message_delta").unwrap();
    let passed = filter.push(Bytes::from_static(MESSAGE_STREAM.as_bytes()));
    assert_eq!(passed.concat(), &MESSAGE_STREAM.as_bytes()[..at]);
    assert_eq!(filter.take_held(None, None).concat(), &MESSAGE_STREAM.as_bytes()[at..]);
}

#[test]
fn an_error_within_a_message_leaves_it_incomplete() {
    let cut = &MESSAGE_STREAM[..MESSAGE_STREAM.find("event: message_delta").unwrap()];
    let broken = cut.to_owned()
        + "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"x\"}}\n\n";
    let (out, report) = metered(Endpoint::Messages, BodyKind::Sse, &broken);
    assert!(report.saw_error && !report.complete);
    assert!(out.ends_with("\"message\":\"x\"}}\n\n"));
    let request = RequestBasis::json(Endpoint::Messages, Bytes::from_static(b"{\"max_tokens\":3}"));
    // Four deltas came, but no more than three were allowed.
    assert_eq!(estimate_usage(&report, &request).usage, Usage { cached_tokens: 3, ..Usage::new(8, 3) });
}

#[test]
fn a_whole_message_is_read_as_its_stream_is() {
    let body = r#"{"id":"m","type":"message","role":"assistant","content":[{"type":"thinking","thinking":"ab","signature":"x"},
        {"type":"text","text":"cd"},{"type":"tool_use","id":"t","name":"f","input":{"a":1}}],"stop_reason":"end_turn",
        "usage":{"input_tokens":2,"cache_read_input_tokens":3,"output_tokens":4}}"#;
    let (_, report) = metered(Endpoint::Messages, BodyKind::Json, body);
    assert_eq!(report.usage, Some(Usage { cached_tokens: 3, ..Usage::new(5, 4) }));
    assert_eq!((report.content_bytes, report.complete), (2 + 2 + 1 + 7, true));
}

#[test]
fn transcripts_are_told_in_tokens_in_seconds_or_not_at_all() {
    let (_, report) = metered(Endpoint::Transcriptions, BodyKind::Sse, TRANSCRIPT_STREAM);
    assert_eq!(report.usage, Some(Usage { audio_prompt_tokens: 14, ..Usage::new(14, 4) }));
    assert_eq!((report.content_deltas, report.content_bytes, report.complete), (2, 9, true));
    assert!(
        show(Endpoint::Transcriptions, BodyKind::Sse, TRANSCRIPT_STREAM)
            .ends_with(":18},\"cocoon\":{\"cost\": 7}}\n\n")
    );

    let seconds = |seconds: i64, text: i64| Usage {
        audio_prompt_tokens: 50 * seconds,
        ..Usage::new(50 * seconds, text)
    };
    let body = r#"{"text":"I see you","usage":{"type":"duration","seconds":2.1}}"#;
    let (out, report) = metered(Endpoint::Transcriptions, BodyKind::Json, body);
    assert_eq!((report.usage, report.complete), (Some(seconds(3, 3)), true));
    assert!(out.ends_with(
        "\"seconds\":2.1,\"prompt_total_cost\":1500,\"completion_total_cost\":60,\"total_cost\":1560}}"
    ));
    let verbose = r#"{"task":"transcribe","language":"en","duration":"8.47","text":"I see","segments":[{"text":"I see"}]}"#;
    let (out, report) = metered(Endpoint::Translations, BodyKind::Json, verbose);
    assert_eq!((out.as_str(), report.usage), (verbose, Some(seconds(9, 2))));

    let mut request = RequestSummary::new(Endpoint::Transcriptions);
    request.add_body_bytes(7000);
    request.add_file_bytes(6400);
    let request = RequestBasis::from(request);
    for (kind, body) in [
        (BodyKind::Json, r#"{"text":"12345678"}"#),
        (BodyKind::Text, "12345678"),
        (BodyKind::Sse, "data: {\"type\":\"transcript.text.done\",\"text\":\"12345678\"}\n\n"),
        (BodyKind::Sse, "data: {\"choices\":[{\"delta\":{\"content\":\"12345678\"}}]}\n\ndata: [DONE]\n\n"),
    ] {
        let (out, report) = metered(Endpoint::Transcriptions, kind, body);
        assert_eq!(out, body);
        assert!(report.complete, "{body}");
        let usage = estimate_usage(&report, &request).usage;
        assert_eq!(usage, Usage { audio_prompt_tokens: 10, ..Usage::new(10, 2) }, "{body}");
    }
    assert_eq!(
        show(Endpoint::Transcriptions, BodyKind::Text, "1\n00:00 --> 00:01\nHi\n"),
        "1\n00:00 --> 00:01\nHi\n"
    );
}

#[test]
fn images_in_events_and_in_one_body_are_metered() {
    let (_, report) = metered(Endpoint::ImageGenerations, BodyKind::Sse, IMAGE_STREAM);
    assert_eq!(report.usage, Some(Usage::new(5, 1056)));
    assert_eq!((report.media_bytes, report.complete), (12, true));
    assert!(
        show(Endpoint::ImageEdits, BodyKind::Sse, IMAGE_STREAM).ends_with("},\"cocoon\":{\"cost\": 7}}\n\n")
    );
    let body = r#"{"created":1,"data":[{"b64_json":"AAAA","revised_prompt":"cat"},{"url":"http://x"}]}"#;
    let (out, report) = metered(Endpoint::ImageGenerations, BodyKind::Json, body);
    assert_eq!((out.as_str(), report.usage, report.complete), (body, None, true));
    assert_eq!((report.media_bytes, report.content_bytes), (4, 11));
    let shown = show(Endpoint::ImageGenerations, BodyKind::Json, body);
    assert_eq!(shown, body.replace("}]}", "}],\"cocoon\":{\"cost\":\n7}}"));
}

#[test]
fn a_large_image_passes_read_and_one_beyond_the_limit_passes_unread() {
    let large = |bytes: usize| {
        format!(
            "{{\"data\":[{{\"b64_json\":\"{}\"}}],\"usage\":{{\"input_tokens\":1,\"output_tokens\":2}}}}",
            "A".repeat(bytes)
        )
    };
    let (_, report) = metered(Endpoint::ImageGenerations, BodyKind::Json, &large(15 << 20));
    assert_eq!(report.usage, Some(Usage::new(1, 2)));
    let beyond = large(17 << 20);
    let (out, report) = metered(Endpoint::ImageGenerations, BodyKind::Json, &beyond);
    assert!(out == beyond && report.gave_up && report.usage.is_none());
    let request = RequestBasis::json(
        Endpoint::ImageGenerations,
        Bytes::from_static(b"{\"prompt\":\"abcd\",\"size\":\"512x512\"}"),
    );
    let metered = estimate_usage(&report, &request);
    assert_eq!((metered.usage, metered.estimated), (Usage::new(1, 1024), true));
}

#[test]
fn speech_passes_byte_for_byte_and_costs_by_its_request() {
    let sound: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let mut meter =
        AnswerMeter::new(Endpoint::Speech, BodyKind::Opaque, BodyLimits::default(), Box::new(price));
    let mut filter = AnswerFilter::new(Endpoint::Speech, BodyKind::Opaque, BodyLimits::default(), false);
    let mut out = Vec::new();
    for chunk in sound.chunks(700) {
        for piece in meter.push(Bytes::copy_from_slice(chunk)) {
            out.extend(filter.push(piece).concat());
        }
    }
    out.extend(filter.take_held(Some(&cocoon()), None).concat());
    assert_eq!(out, sound);
    let request = RequestBasis::json(Endpoint::Speech, Bytes::from_static(b"{\"input\":\"say this\"}"));
    let usage = estimate_usage(&meter.finish().1, &request).usage;
    assert_eq!(usage, Usage { audio_completion_tokens: 8, ..Usage::new(2, 8) });
    let (_, report) = metered(Endpoint::Speech, BodyKind::Sse, SPEECH_STREAM);
    assert_eq!(report.usage, Some(Usage { audio_completion_tokens: 9, ..Usage::new(3, 9) }));
    assert!(report.complete);
}

#[test]
fn vectors_rankings_and_tokens_pass_with_nothing_but_the_price_added() {
    let prompt = |tokens| Some(Usage::new(tokens, 0));
    for (endpoint, body, usage) in [
        (
            Endpoint::Embeddings,
            r#"{"object":"list","data":[{"embedding":[0.1,-2e-3],"index":0}],"usage":{"prompt_tokens":8,"total_tokens":8}}"#,
            prompt(8),
        ),
        (
            Endpoint::Embeddings,
            r#"{"object":"list","data":[{"embedding":"AAAA"}],"usage":{"total_tokens":8}}"#,
            prompt(8),
        ),
        (
            Endpoint::Rerank,
            r#"{"results":[{"index":0,"relevance_score":0.9}],"usage":{"total_tokens":15}}"#,
            prompt(15),
        ),
        (
            Endpoint::Rerank,
            r#"{"results":[],"meta":{"billed_units":{"search_units":1},"tokens":{"input_tokens":12}}}"#,
            prompt(12),
        ),
        (Endpoint::Rerank, r#"{"results":[],"meta":{"billed_units":{"search_units":1}}}"#, None),
        (Endpoint::Moderations, r#"{"results":[{"flagged":false}]}"#, None),
        (Endpoint::Tokenize, r#"{"count":3,"max_model_len":8,"tokens":[1,2,3]}"#, None),
        (Endpoint::Detokenize, r#"{"prompt":"abc"}"#, None),
        // An answer's own number is what was asked for, not what is paid for.
        (
            Endpoint::CountTokens,
            r#"{"input_tokens":3,"context_management":{"original_input_tokens":3}}"#,
            None,
        ),
        (Endpoint::InputTokens, r#"{"object":"response.input_tokens","input_tokens":3}"#, None),
    ] {
        let (out, report) = metered(endpoint, BodyKind::Json, body);
        assert_eq!((report.usage, report.complete), (usage, true), "{body}");
        if !body.contains("\"usage\"") {
            assert_eq!(out, body);
        }
        let expected = body[..body.len() - 1].to_owned() + ",\"cocoon\":{\"cost\":\n7}}";
        assert_eq!(show(endpoint, BodyKind::Json, body), expected);
    }
    // Some servers answer with a list; it has no place for a price.
    let list = r#"[{"index":0,"score":0.9}]"#;
    assert_eq!(
        metered(Endpoint::Rerank, BodyKind::Json, list),
        (list.to_owned(), MeterReport { complete: true, ..MeterReport::default() })
    );
    assert_eq!(show(Endpoint::Rerank, BodyKind::Json, list), list);
    assert!(!metered(Endpoint::Rerank, BodyKind::Json, "[{").1.complete);
}

#[test]
fn sound_in_a_chat_counts_as_sound() {
    let chunk = "data: {\"choices\":[{\"index\":0,\"delta\":{\"audio\":{\"id\":\"a\",\"data\":\"AAAA\",\"transcript\":\"hi\"}}}]}\n\n";
    let (_, report) = metered(Endpoint::Chat, BodyKind::Sse, chunk);
    assert_eq!((report.content_deltas, report.content_bytes, report.media_bytes), (1, 2, 4));
    let whole = r#"{"choices":[{"message":{"content":null,"audio":{"data":"AAAA","transcript":"hi"}},"logprobs":{"content":[{"token":"hi"}]}}],
        "usage":{"prompt_tokens":1,"completion_tokens":30,"completion_tokens_details":{"audio_tokens":25}}}"#;
    let (_, report) = metered(Endpoint::Chat, BodyKind::Json, whole);
    assert_eq!((report.content_bytes, report.media_bytes), (2, 4));
    assert_eq!(report.usage.unwrap().audio_completion_tokens, 25);
}

/// Pieces of streams of every API, whole and broken, in an order that proptest picks.
fn any_stream() -> impl Strategy<Value = String> {
    let all =
        [RESPONSE_STREAM, MESSAGE_STREAM, TRANSCRIPT_STREAM, IMAGE_STREAM, SPEECH_STREAM, super::CHAT_STREAM];
    let mut pieces: Vec<String> =
        all.iter().flat_map(|stream| stream.split_inclusive("\n\n").map(str::to_owned)).collect();
    pieces.extend(
        [": ping\n\n", "data: {\"typ", "\n", "data: 7\n\n", "data: {}\r\n\r\n", "é"].map(str::to_owned),
    );
    proptest::collection::vec(proptest::sample::select(pieces), 0..12).prop_map(|pieces| pieces.concat())
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    proptest::sample::select(&Endpoint::ALL[..])
}

fn any_kind() -> impl Strategy<Value = BodyKind> {
    proptest::sample::select(vec![
        BodyKind::Sse,
        BodyKind::JsonLines,
        BodyKind::Json,
        BodyKind::Text,
        BodyKind::Opaque,
    ])
}

/// What was added to a body, taken away again.
fn without_additions(shown: &str) -> String {
    shown
        .replace(": cocoon {\"cost\": 7}\n\n", "")
        .replace(",\"cocoon\":{\"cost\": 7}", "")
        .replace(",\"cocoon\":{\"cost\":\n7}", "")
        .replace("\"cocoon\":{\"cost\": 7}", "")
        .replace("\"cocoon\":{\"cost\":\n7}", "")
}

proptest! {
    #[test]
    fn any_cut_of_any_answer_of_any_endpoint_gives_the_same(
        endpoint in any_endpoint(),
        kind in any_kind(),
        body in any_stream(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let chunks = cut(body.as_bytes(), &cuts);
        prop_assert_eq!(shown(endpoint, kind, &[body.as_bytes()]), shown(endpoint, kind, &chunks));
        let mut meter = AnswerMeter::new(endpoint, kind, BodyLimits::default(), Box::new(price));
        let mut out: Vec<Bytes> = Vec::new();
        for chunk in &chunks {
            out.extend(meter.push(Bytes::copy_from_slice(chunk)));
        }
        let (rest, report) = meter.finish();
        out.extend(rest);
        prop_assert_eq!((text(&out), report), metered(endpoint, kind, &body));
    }

    #[test]
    fn a_caller_sees_what_the_engine_sent_and_the_documented_additions_alone(
        endpoint in any_endpoint(),
        kind in any_kind(),
        body in any_stream(),
    ) {
        prop_assume!(!matches!(endpoint, Endpoint::Chat | Endpoint::Completions));
        prop_assert_eq!(without_additions(&show(endpoint, kind, &body)), body);
    }

    #[test]
    fn bytes_of_no_form_pass_every_endpoint_untouched(
        endpoint in any_endpoint(),
        kind in any_kind(),
        body in proptest::collection::vec(any::<u8>(), 0..300),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut meter = AnswerMeter::new(endpoint, kind, BodyLimits::default(), Box::new(price));
        let mut filter = AnswerFilter::new(endpoint, kind, BodyLimits::default(), true);
        let mut out = Vec::new();
        for chunk in cut(&body, &cuts) {
            for piece in meter.push(Bytes::copy_from_slice(chunk)) {
                out.extend(filter.push(piece).concat());
            }
        }
        if let Some(rest) = meter.finish().0 {
            out.extend(filter.push(rest).concat());
        }
        out.extend(filter.take_held(None, None).concat());
        prop_assert_eq!(out, body);
    }

    #[test]
    fn gateway_and_worker_come_to_the_same_estimate(
        endpoint in any_endpoint(),
        kind in any_kind(),
        body in any_stream(),
        at in any::<prop::sample::Index>(),
    ) {
        let body = &body[..body.floor_char_boundary(at.index(body.len() + 1))];
        let (passed, worker) = metered(endpoint, kind, body);
        let (_, gateway) = shown(endpoint, kind, &[passed.as_bytes()]);
        let request = || RequestBasis::json(endpoint, Bytes::from_static(b"{\"input\":\"abcdefgh\",\"prompt\":\"abcd\"}"));
        prop_assert_eq!(estimate_usage(&worker, &request()), estimate_usage(&gateway, &request()));
    }
}
