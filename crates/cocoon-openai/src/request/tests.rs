#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

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
