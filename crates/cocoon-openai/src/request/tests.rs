#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::ApiError;

fn chat(body: &str) -> PreparedRequest {
    PreparedRequest::parse(body.as_bytes(), Endpoint::Chat, 500).unwrap()
}

fn refused(body: &[u8], endpoint: Endpoint) -> RequestError {
    PreparedRequest::parse(body, endpoint, 500).unwrap_err()
}

fn forwarded(body: &str) -> String {
    String::from_utf8(chat(body).body.to_vec()).unwrap()
}

#[test]
fn unknown_fields_and_number_spellings_pass_untouched() {
    let body =
        r#"{"seed":1e2,"model":"m","x":{"b": 1.50,"a":[ ]},"max_tokens":50,"messages":[{"role": "user"}]}"#;
    assert_eq!(forwarded(body), body);
}

#[test]
fn the_gateways_own_fields_are_taken_out() {
    let request = chat(
        r#"{"max_coefficient":9,"model":"m","timeout":2.5,"messages":[1],"enable_debug":true,
            "request_guid":"g","max_tokens":1}"#,
    );
    assert_eq!(request.body, r#"{"model":"m","messages":[1],"max_tokens":1}"#);
    assert_eq!((request.max_coefficient, request.timeout), (9, Duration::from_millis(2500)));
    assert_eq!((request.enable_debug, request.request_guid.as_deref()), (true, Some("g")));
}

#[test]
fn absent_fields_have_the_published_defaults() {
    for body in
        [r#"{"model":"m","messages":[1]}"#, r#"{"model":"m","messages":[1],"timeout":null,"stream":null}"#]
    {
        let request = chat(body);
        assert_eq!((request.max_coefficient, request.timeout), (4000, Duration::from_secs(120)));
        assert_eq!((request.stream, request.enable_debug, request.request_guid), (false, false, None));
    }
}

#[test]
fn defaults_of_ones_own_fill_only_what_is_absent() {
    let defaults = RequestDefaults { max_tokens: 7, max_coefficient: 1500, timeout: Duration::from_secs(9) };
    let parse = |body: &str| PreparedRequest::parse_with(body.as_bytes(), Endpoint::Chat, &defaults).unwrap();
    let open = parse(r#"{"model":"m","messages":[1]}"#);
    assert_eq!((open.max_tokens, open.max_coefficient, open.timeout), (7, 1500, Duration::from_secs(9)));
    let set = parse(r#"{"model":"m","messages":[1],"max_tokens":3,"max_coefficient":2,"timeout":1}"#);
    assert_eq!((set.max_tokens, set.max_coefficient, set.timeout), (3, 2, Duration::from_secs(1)));
}

#[test]
fn a_limit_is_always_explicit() {
    assert!(forwarded(r#"{"model":"m","messages":[1]}"#).ends_with(r#","max_tokens":500}"#));
    assert!(
        forwarded(r#"{"model":"m","messages":[1],"max_tokens":null}"#).ends_with(r#","max_tokens":500}"#)
    );
    let both = chat(r#"{"model":"m","messages":[1],"max_tokens":7,"max_completion_tokens":3}"#);
    assert_eq!(both.max_tokens, 3);
    assert!(both.body.ends_with(br#""max_tokens":3,"max_completion_tokens":3}"#));
    let giant = chat(r#"{"model":"m","messages":[1],"max_tokens":99999999999999999999999}"#);
    assert_eq!((giant.max_tokens, giant.completion_bound), (i32::MAX, i32::MAX));
    assert!(giant.body.ends_with(b"\"max_tokens\":2147483647}"));
}

#[test]
fn llama_cpps_own_limit_can_not_outrun_the_reservation() {
    for (given, sent) in [("-1", "9"), ("100", "9"), ("4", "4"), ("null", "null")] {
        let body = format!(r#"{{"model":"m","messages":[1],"max_tokens":9,"n_predict":{given}}}"#);
        assert!(forwarded(&body).ends_with(&format!(r#""n_predict":{sent}}}"#)), "{given}");
    }
}

#[test]
fn an_engine_that_knows_only_the_older_name_of_the_limit_finds_it_too() {
    let sent = forwarded(r#"{"model":"m","messages":[1],"max_completion_tokens":3}"#);
    assert!(sent.ends_with(r#""max_completion_tokens":3,"max_tokens":3}"#), "{sent}");
}

#[test]
fn a_field_that_differs_in_case_alone_is_refused_because_some_engines_would_obey_it() {
    for field in
        ["MAX_TOKENS", "max_to\u{212a}ens", "max_token\u{17f}", "N", "Stream", "Model", "\\u004e_predict"]
    {
        let body = format!(r#"{{"model":"m","messages":[1],"max_tokens":1,"{field}":100000}}"#);
        let error = refused(body.as_bytes(), Endpoint::Chat);
        assert_eq!(error.code, "unknown_parameter", "{field}");
    }
    let hidden = br#"{"model":"m","messages":[1],"stream":true,"stream_options":{"Include_Usage":false}}"#;
    assert_eq!(refused(hidden, Endpoint::Chat).code, "unknown_parameter");
    assert_eq!(chat(r#"{"model":"m","messages":[1],"Seed":1,"nn":2}"#).max_tokens, 500);
}

#[test]
fn a_cap_above_all_prices_is_the_highest_price() {
    for cap in ["999999999", "1000000000", "99999999999999999999"] {
        let request = chat(&format!(r#"{{"model":"m","messages":[1],"max_coefficient":{cap}}}"#));
        assert_eq!(request.max_coefficient, 999_999_999);
    }
}

#[test]
fn usage_is_always_asked_of_a_stream() {
    let request = chat(r#"{"model":"m","messages":[1],"max_tokens":1,"stream":true}"#);
    assert!(request.body.ends_with(br#""stream":true,"stream_options":{"include_usage":true}}"#));
    assert!(request.stream && !request.caller_wants_usage);
    let wanted =
        chat(r#"{"stream_options":{"x":1,"include_usage":true},"model":"m","messages":[1],"stream":true}"#);
    assert!(wanted.caller_wants_usage);
    assert!(wanted.body.starts_with(br#"{"stream_options":{"x":1,"include_usage":true},"#));
    let declined =
        chat(r#"{"model":"m","messages":[1],"stream":true,"stream_options":{"include_usage":false}}"#);
    assert!(!declined.caller_wants_usage);
    assert!(String::from_utf8_lossy(&declined.body).contains(r#"{"include_usage":true}"#));
}

#[test]
fn an_object_of_very_many_fields_is_refused_at_the_gateway_before_a_worker_would() {
    let body = |fields: usize| {
        let odd: String = (0..fields - 2).map(|number| format!(r#","f{number}":1"#)).collect();
        format!(r#"{{"model":"m","messages":[1]{odd}}}"#)
    };
    // One more is the limit, which is added here.
    let most = chat(&body(crate::object::MAX_FIELDS - 1));
    assert_eq!(crate::ArrivingRequest::parse(Endpoint::Chat, most.body.clone()).unwrap().body, most.body);
    for fields in [crate::object::MAX_FIELDS + 1, 100_000] {
        let error = refused(body(fields).as_bytes(), Endpoint::Chat);
        assert_eq!(error.code, "invalid_json");
        assert!(error.message.contains("4096 fields"), "{error}");
    }
}

#[test]
fn the_bound_counts_every_choice_of_every_prompt() {
    let bound = |rest: &str| {
        let body = format!(r#"{{"model":"m","max_tokens":10,{rest}}}"#);
        PreparedRequest::parse(body.as_bytes(), Endpoint::Completions, 1)
            .map(|request| request.completion_bound)
    };
    assert_eq!(bound(r#""prompt":"x""#), Ok(10));
    assert_eq!(bound(r#""prompt":["x","y"],"n":3"#), Ok(60));
    assert_eq!(bound(r#""prompt":[1,2,3]"#), Ok(10));
    assert_eq!(bound(r#""prompt":[[1,2],[3]],"n":2,"best_of":4"#), Ok(80));
    assert_eq!(bound(r#""prompt":"x","n":2,"n_cmpl":8"#), Ok(80));
    assert_eq!(bound(r#""prompt":"x","n":214748365"#).unwrap_err().param.as_deref(), Some("n"));
    assert_eq!(bound(r#""prompt":"x","n":99999999999999999999"#).unwrap_err().code, "invalid_value");
}

#[test]
fn errors_name_the_field() {
    let cases = [
        (r#"{"messages":[1]}"#, "model", "missing_required_parameter"),
        (r#"{"model":7,"messages":[1]}"#, "model", "invalid_type"),
        (r#"{"model":"","messages":[1]}"#, "model", "invalid_value"),
        (r#"{"model":"m"}"#, "messages", "missing_required_parameter"),
        (r#"{"model":"m","messages":"x"}"#, "messages", "invalid_type"),
        (r#"{"model":"m","messages":[ ]}"#, "messages", "invalid_value"),
        (r#"{"model":"m","messages":[1],"max_tokens":-1}"#, "max_tokens", "invalid_type"),
        (r#"{"model":"m","messages":[1],"max_tokens":1.5}"#, "max_tokens", "invalid_type"),
        (
            r#"{"model":"m","messages":[1],"max_completion_tokens":"9"}"#,
            "max_completion_tokens",
            "invalid_type",
        ),
        (r#"{"model":"m","messages":[1],"max_coefficient":-4}"#, "max_coefficient", "invalid_type"),
        (r#"{"model":"m","messages":[1],"timeout":"1"}"#, "timeout", "invalid_type"),
        (r#"{"model":"m","messages":[1],"timeout":0}"#, "timeout", "invalid_value"),
        (r#"{"model":"m","messages":[1],"enable_debug":1}"#, "enable_debug", "invalid_type"),
        (r#"{"model":"m","messages":[1],"request_guid":1}"#, "request_guid", "invalid_type"),
        (r#"{"model":"m","messages":[1],"stream":"yes"}"#, "stream", "invalid_type"),
        (
            r#"{"model":"m","messages":[1],"stream":true,"stream_options":3}"#,
            "stream_options",
            "invalid_type",
        ),
        (r#"{"model":"m","messages":[1],"n":0}"#, "n", "invalid_value"),
        (r#"{"model":"m","model":"n","messages":[1]}"#, "model", "duplicate_parameter"),
        (r#"{"model":"m","\u006dodel":"n","messages":[1]}"#, "model", "duplicate_parameter"),
    ];
    for (body, param, code) in cases {
        let error = refused(body.as_bytes(), Endpoint::Chat);
        assert_eq!((error.param.as_deref(), error.code), (Some(param), code), "{body}: {error}");
        assert_eq!(ApiError::from(error).status, 400);
    }
    let prompt = refused(br#"{"model":"m","messages":[1]}"#, Endpoint::Completions);
    assert_eq!(prompt.param.as_deref(), Some("prompt"));
}

#[test]
fn what_is_no_json_object_is_refused() {
    for body in [
        &b""[..],
        b"[]",
        b"\"x\"",
        b"{",
        b"{\"model\":\"m\"",
        b"{}x",
        b"\xff{}",
        b"null",
        b"{\"a\":\"\xff\"}",
    ] {
        assert_eq!(refused(body, Endpoint::Chat).code, "invalid_json", "{body:?}");
    }
}

#[test]
fn deep_nesting_does_no_harm() {
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let body = format!(r#"{{"model":"m","messages":[1],"x":{deep}}}"#);
    assert!(chat(&body).body.len() > 400_000);
}

proptest! {
    #[test]
    fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = PreparedRequest::parse(&body, Endpoint::Chat, 500);
    }

    #[test]
    fn preparing_twice_changes_nothing_more(
        tokens in proptest::option::of(any::<u64>()), stream in any::<bool>(), extra in "[a-z\"\\\\ ✓]{0,9}",
    ) {
        let extra = serde_json::Value::from(extra);
        let tokens = tokens.map_or("null".to_owned(), |tokens| tokens.to_string());
        let body = format!(r#"{{"model":"m","x":{extra},"messages":[1],"max_tokens":{tokens},"stream":{stream}}}"#);
        let once = chat(&body);
        let twice = PreparedRequest::parse(&once.body, Endpoint::Chat, 7).unwrap();
        prop_assert_eq!(&once.body, &twice.body);
        prop_assert_eq!(once.completion_bound, twice.completion_bound);
    }
}

/// Each endpoint whose requests are JSON, with the least of a body.
const LEAST: [(Endpoint, &str); 13] = [
    (Endpoint::Chat, r#"{"model":"m","messages":[1]}"#),
    (Endpoint::Completions, r#"{"model":"m","prompt":"x"}"#),
    (Endpoint::Responses, r#"{"model":"m","input":"x"}"#),
    (Endpoint::Messages, r#"{"model":"m","messages":[1],"max_tokens":7}"#),
    (Endpoint::Embeddings, r#"{"model":"m","input":["x"]}"#),
    (Endpoint::Rerank, r#"{"model":"m","query":"x","documents":["y"]}"#),
    (Endpoint::Speech, r#"{"model":"m","input":"x"}"#),
    (Endpoint::ImageGenerations, r#"{"model":"m","prompt":"x"}"#),
    (Endpoint::Moderations, r#"{"model":"m","input":"x"}"#),
    (Endpoint::Tokenize, r#"{"model":"m","prompt":"x"}"#),
    (Endpoint::Detokenize, r#"{"model":"m","tokens":[1]}"#),
    (Endpoint::CountTokens, r#"{"model":"m","messages":[1]}"#),
    (Endpoint::InputTokens, r#"{"model":"m","input":"x"}"#),
];

fn prepared(endpoint: Endpoint, body: &str) -> PreparedRequest {
    PreparedRequest::parse(body.as_bytes(), endpoint, 500).unwrap()
}

/// A least body with more fields.
fn with(endpoint: Endpoint, rest: &str) -> String {
    let (_, body) = LEAST.into_iter().find(|(other, _)| *other == endpoint).unwrap();
    format!("{},{rest}}}", body.strip_suffix('}').unwrap())
}

#[test]
fn every_endpoint_reads_its_least_body_and_passes_unknown_fields_verbatim() {
    for (endpoint, body) in LEAST {
        let request = prepared(endpoint, body);
        assert_eq!((request.model.as_str(), request.endpoint), ("m", endpoint));
        assert_eq!(request.needs, endpoint.ability(), "{endpoint}");
        assert_eq!(request.content_type, "application/json");
        let rich =
            r#""seed":1e2,"user":"u","logprobs":true,"x":{"b": 1.50,"a":[ ]},"metadata":{"k":"\u0041"}"#;
        let sent = prepared(endpoint, &with(endpoint, rich)).body;
        let sent = std::str::from_utf8(&sent).unwrap();
        assert!(sent.contains(rich), "{endpoint}: {sent}");
        // What needs no change keeps every byte.
        if request.max_tokens == 0 {
            assert_eq!(sent, with(endpoint, rich), "{endpoint}");
        }
    }
}

#[test]
fn every_endpoint_takes_wishes_out_and_refuses_what_others_might_misread() {
    for (endpoint, _) in LEAST {
        let wished =
            with(endpoint, r#""max_coefficient":9,"max_price":5,"preference":"cheapest","timeout":1"#);
        let request = prepared(endpoint, &wished);
        assert_eq!((request.max_coefficient, request.max_price), (9, Some(5)), "{endpoint}");
        assert_eq!(request.preference, Preference::Cheapest, "{endpoint}");
        assert_eq!(
            request.body,
            prepared(endpoint, &with(endpoint, r#""z":0"#)).body.strip_z(),
            "{endpoint}"
        );
        for rest in [r#""Model":"x""#, r#""model":"x""#] {
            let code = refused(with(endpoint, rest).as_bytes(), endpoint).code;
            assert!(["unknown_parameter", "duplicate_parameter"].contains(&code), "{endpoint}: {code}");
        }
        let without = with(endpoint, r#""z":0"#).replacen(r#""model":"m","#, "", 1);
        assert_eq!(refused(without.as_bytes(), endpoint).param.as_deref(), Some("model"), "{endpoint}");
    }
}

trait StripZ {
    fn strip_z(&self) -> Bytes;
}

impl StripZ for Bytes {
    /// The body without the field `z`.
    fn strip_z(&self) -> Bytes {
        let text = std::str::from_utf8(self).unwrap();
        text.replacen(r#","z":0"#, "", 1).into()
    }
}

#[test]
fn what_an_endpoint_works_on_must_be_there() {
    for (endpoint, body, param, code) in [
        (Endpoint::Responses, r#"{"model":"m"}"#, "input", "missing_required_parameter"),
        (Endpoint::Responses, r#"{"model":"m","input":7}"#, "input", "invalid_type"),
        (Endpoint::Messages, r#"{"model":"m","messages":[1]}"#, "max_tokens", "missing_required_parameter"),
        (Endpoint::Messages, r#"{"model":"m","messages":[1],"max_tokens":0}"#, "max_tokens", "invalid_value"),
        (Endpoint::Messages, r#"{"model":"m","max_tokens":1}"#, "messages", "missing_required_parameter"),
        (Endpoint::Embeddings, r#"{"model":"m","input":[]}"#, "input", "invalid_value"),
        (Endpoint::Rerank, r#"{"model":"m","documents":["x"]}"#, "query", "missing_required_parameter"),
        (Endpoint::Rerank, r#"{"model":"m","query":"x","documents":"y"}"#, "documents", "invalid_type"),
        (Endpoint::Speech, r#"{"model":"m","input":["x"]}"#, "input", "invalid_type"),
        (Endpoint::Speech, r#"{"model":"m","input":""}"#, "input", "invalid_value"),
        (Endpoint::ImageGenerations, r#"{"model":"m"}"#, "prompt", "missing_required_parameter"),
        (Endpoint::Moderations, r#"{"model":"m"}"#, "input", "missing_required_parameter"),
        (Endpoint::Tokenize, r#"{"model":"m"}"#, "prompt", "missing_required_parameter"),
        (Endpoint::Detokenize, r#"{"model":"m","tokens":"x"}"#, "tokens", "invalid_type"),
        (Endpoint::CountTokens, r#"{"model":"m","messages":[]}"#, "messages", "invalid_value"),
        (Endpoint::InputTokens, r#"{"model":"m"}"#, "input", "missing_required_parameter"),
    ] {
        let error = refused(body.as_bytes(), endpoint);
        assert_eq!((error.param.as_deref(), error.code), (Some(param), code), "{endpoint}: {error}");
    }
    for (endpoint, body) in [
        (Endpoint::Embeddings, r#"{"model":"m","messages":[1]}"#),
        (Endpoint::Rerank, r#"{"model":"m","query":"x","documents":{"content":[]}}"#),
        (Endpoint::Tokenize, r#"{"model":"m","messages":[1]}"#),
        (Endpoint::Tokenize, r#"{"model":"m","content":"x"}"#),
    ] {
        prepared(endpoint, body);
    }
}

#[test]
fn an_answer_of_the_responses_api_is_limited_under_each_of_its_names() {
    let open = prepared(Endpoint::Responses, r#"{"model":"m","input":"x"}"#);
    assert_eq!((open.max_tokens, open.completion_bound), (500, 500));
    assert!(open.body.ends_with(br#","max_output_tokens":500}"#));
    let set = prepared(
        Endpoint::Responses,
        r#"{"model":"m","input":"x","max_tokens":9,"max_output_tokens":7,"n_predict":-1,"stream":true}"#,
    );
    let expected =
        r#"{"model":"m","input":"x","max_tokens":7,"max_output_tokens":7,"n_predict":7,"stream":true}"#;
    assert_eq!(set.body, expected);
    assert!(set.stream && !set.caller_wants_usage);
    assert_eq!(
        refused(br#"{"model":"m","input":"x","n":2}"#, Endpoint::Responses).param.as_deref(),
        Some("n")
    );
}

#[test]
fn what_would_need_a_workers_memory_is_refused_in_words() {
    for endpoint in [Endpoint::Responses, Endpoint::InputTokens] {
        for field in [r#""previous_response_id":"r""#, r#""conversation":"c""#, r#""background":true"#] {
            let error = refused(with(endpoint, field).as_bytes(), endpoint);
            assert_eq!(error.code, "unsupported_parameter");
            assert!(error.message.contains("keep no state"), "{error}");
        }
    }
    prepared(Endpoint::Responses, &with(Endpoint::Responses, r#""background":false,"store":true"#));
}

#[test]
fn a_message_is_limited_by_its_own_max_tokens() {
    let body = r#"{"model":"m","messages":[1],"max_tokens":7,"stream":true}"#;
    let request = prepared(Endpoint::Messages, body);
    assert_eq!((request.completion_bound, request.stream), (7, true));
    assert_eq!(request.body, body);
    let capped = prepared(Endpoint::Messages, &with(Endpoint::Messages, r#""n_predict":-1,"best_of":1"#));
    assert!(capped.body.ends_with(br#""n_predict":7,"best_of":1}"#));
}

#[test]
fn what_is_spoken_or_drawn_is_bounded_by_the_request() {
    let bound = |endpoint, rest: &str| {
        PreparedRequest::parse(with(endpoint, rest).as_bytes(), endpoint, 1)
            .map(|request| request.completion_bound)
            .map_err(|error| error.param.unwrap_or_default().into_owned())
    };
    assert_eq!(prepared(Endpoint::Speech, r#"{"model":"m","input":"\u00e9a"}"#).completion_bound, 3);
    for (rest, expected) in [
        (r#""z":0"#, Ok(4096)),
        (r#""size":"auto","n":2"#, Ok(8192)),
        (r#""size":"256x257""#, Ok(16 * 17)),
        (r#""size":"16x16","width":32,"height":32"#, Ok(4)),
        (r#""size":"1024""#, Err("size".to_owned())),
        (r#""size":"0x5""#, Err("size".to_owned())),
        (r#""size":5"#, Err("size".to_owned())),
        (r#""n":0"#, Err("n".to_owned())),
        (r#""n":999999999"#, Err("n".to_owned())),
        (r#""n":99999999999999999999999"#, Err("n".to_owned())),
    ] {
        assert_eq!(bound(Endpoint::ImageGenerations, rest), expected, "{rest}");
    }
    for endpoint in [
        Endpoint::Embeddings,
        Endpoint::Rerank,
        Endpoint::Moderations,
        Endpoint::Tokenize,
        Endpoint::CountTokens,
        Endpoint::InputTokens,
    ] {
        assert_eq!(bound(endpoint, r#""max_tokens":7"#), Ok(0));
    }
}

#[test]
fn only_what_streams_events_is_a_stream() {
    let stream = |endpoint, rest: &str| prepared(endpoint, &with(endpoint, rest)).stream;
    assert!(stream(Endpoint::Speech, r#""stream_format":"sse""#));
    assert!(!stream(Endpoint::Speech, r#""stream_format":"audio""#));
    assert!(stream(Endpoint::ImageGenerations, r#""stream":true"#));
    for endpoint in [Endpoint::Embeddings, Endpoint::CountTokens, Endpoint::InputTokens] {
        assert!(!stream(endpoint, r#""stream":true"#));
    }
}

#[test]
fn wishes_in_headers_bind_beside_those_in_the_body() {
    let headers = Wishes { max_coefficient: Some(3), max_price: Some(8), ..Wishes::default() };
    let defaults = RequestDefaults::default();
    let body = br#"{"model":"m","input":"x","max_coefficient":5}"#;
    let request = PreparedRequest::from_json(body, Endpoint::Embeddings, headers, &defaults).unwrap();
    assert_eq!((request.max_coefficient, request.max_price), (3, Some(8)));
    assert_eq!(request.timeout, defaults.timeout);
}

proptest! {
    #[test]
    fn no_body_of_any_endpoint_panics(
        body in proptest::collection::vec(any::<u8>(), 0..200), at in 0..Endpoint::ALL.len(),
    ) {
        let _ = PreparedRequest::parse(&body, Endpoint::ALL[at], 500);
    }

    #[test]
    fn preparing_any_endpoint_twice_changes_nothing_more(at in 0..LEAST.len(), limit in any::<u64>()) {
        let (endpoint, _) = LEAST[at];
        let field = match endpoint {
            Endpoint::Responses => "max_output_tokens",
            Endpoint::Messages => "n_predict",
            _ => "max_tokens",
        };
        let once = prepared(endpoint, &with(endpoint, &format!(r#""{field}":{limit}"#)));
        let twice = PreparedRequest::parse(&once.body, endpoint, 7).unwrap();
        prop_assert_eq!(&once, &PreparedRequest { max_coefficient: once.max_coefficient, ..twice });
        // And a worker forwards it as it is.
        let arriving = crate::ArrivingRequest::parse(endpoint, once.body.clone()).unwrap();
        prop_assert_eq!(arriving.body, once.body);
    }
}
