//! The engine as a worker sees it.
#![allow(clippy::unwrap_used)]

use super::*;
use futures_util::StreamExt;
use proptest::prelude::*;
use std::time::Instant;

const ARTICLE: &str = include_str!("samples/bridge.en.txt");

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn request(method: Method, path: &str, body: impl Into<Bytes>) -> EngineRequest {
    EngineRequest { method, path: path.to_owned(), headers: HeaderMap::new(), body: body.into(), rest: None }
}

async fn fetch(request: EngineRequest) -> (StatusCode, HeaderMap, Vec<u8>) {
    let response = ExtractiveSummary::new().call(request).await.unwrap();
    let body = response.body.map(|part| part.unwrap()).concat_parts().await;
    (response.status, response.headers, body)
}

/// Puts the parts of a body together.
trait ConcatParts {
    async fn concat_parts(self) -> Vec<u8>;
}

impl<S: futures_util::Stream<Item = Bytes>> ConcatParts for S {
    async fn concat_parts(self) -> Vec<u8> {
        self.fold(Vec::new(), |mut all, part| async move {
            all.extend_from_slice(&part);
            all
        })
        .await
    }
}

async fn post(path: &str, body: &Value) -> (StatusCode, Value) {
    let (status, headers, body) = fetch(request(Method::POST, path, body.to_string())).await;
    assert_eq!(headers[CONTENT_TYPE], "application/json");
    (status, serde_json::from_slice(&body).unwrap())
}

/// The events of a stream, after checking its frame: `data:` lines, `[DONE]` at the end.
async fn post_events(path: &str, body: &Value) -> Vec<Value> {
    let (status, headers, body) = fetch(request(Method::POST, path, body.to_string())).await;
    assert_eq!(
        (status, &headers[CONTENT_TYPE]),
        (StatusCode::OK, &HeaderValue::from_static("text/event-stream"))
    );
    let text = String::from_utf8(body).unwrap();
    let events: Vec<&str> =
        text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(*done, "[DONE]");
    chunks.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect()
}

fn chat(text: &str) -> Value {
    json!({"model": EXTRACTIVE_SUMMARY_MODEL, "messages": [{"role": "user", "content": text}]})
}

#[tokio::test]
async fn a_chat_is_answered_with_a_summary_and_its_usage() {
    let (status, answer) =
        post("/v1/chat/completions", &chat(&format!("Summarise in 2 sentences:\n{ARTICLE}"))).await;
    assert_eq!(status, StatusCode::OK);
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.contains("voted on Tuesday to rebuild the old bridge"), "{text}");
    assert_eq!(answer["object"], "chat.completion");
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let usage = &answer["usage"];
    assert_eq!(usage["completion_tokens"], count_tokens(text));
    assert_eq!(usage["prompt_tokens"], count_tokens(ARTICLE) + 5);
    assert_eq!(usage["total_tokens"], count_tokens(text) + count_tokens(ARTICLE) + 5);
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 0);
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 0);
}

#[tokio::test]
async fn a_streamed_chat_says_the_same_one_token_at_a_time() {
    let mut body = chat(ARTICLE);
    let (_, whole) = post("/v1/chat/completions", &body).await;
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let chunks = post_events("/v1/chat/completions", &body).await;
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let [deltas @ .., finish, usage] = &chunks[1..] else { panic!("too few chunks") };
    let text: String =
        deltas.iter().map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().unwrap()).collect();
    assert_eq!(text, whole["choices"][0]["message"]["content"]);
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    assert_eq!(finish["choices"][0]["delta"], json!({}));
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"], whole["usage"]);
    assert_eq!(usage["usage"]["completion_tokens"], deltas.len());
    assert!(
        chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["id"] == usage["id"])
    );
}

#[tokio::test]
async fn completions_are_answered_whole_and_streamed() {
    let mut body = json!({"prompt": ARTICLE, "max_tokens": 3});
    let (_, whole) = post("/v1/completions", &body).await;
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(whole["usage"]["completion_tokens"], 3);
    body["stream"] = json!(true);
    let chunks = post_events("/v1/completions", &body).await;
    assert_eq!(chunks.len(), 4, "three tokens and an end, no usage unasked");
    let text: String = chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(text, whole["choices"][0]["text"]);
    assert_eq!(chunks[3]["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn a_stop_sequence_ends_the_answer_before_itself() {
    let body = json!({"prompt": "One short sentence with a word in it.", "stop": [" with", "zzz"]});
    let (_, answer) = post("/v1/completions", &body).await;
    assert_eq!(answer["choices"][0]["text"], "One short sentence");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn an_empty_text_gets_an_empty_answer() {
    let (status, answer) = post("/v1/chat/completions", &chat("")).await;
    assert_eq!((status, answer["choices"][0]["message"]["content"].as_str()), (StatusCode::OK, Some("")));
    assert_eq!(answer["usage"]["total_tokens"], 0);
}

#[tokio::test]
async fn models_health_and_probe_name_the_model() {
    let (status, _, body) = fetch(request(Method::GET, "/v1/models?x=1", "")).await;
    let models: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &models["data"][0]["id"]), (StatusCode::OK, &json!(EXTRACTIVE_SUMMARY_MODEL)));
    assert_eq!(fetch(request(Method::GET, "/health", "")).await.0, StatusCode::OK);
    let health = ExtractiveSummary::new().probe().await;
    assert!(health.ready && health.models == [EXTRACTIVE_SUMMARY_MODEL]);
}

#[tokio::test]
async fn refusals_have_the_right_status_and_shape() {
    for (method, path, body, status) in [
        (Method::POST, "/v1/embeddings", "{}", 404),
        (Method::GET, "/v1/chat/completions", "", 405),
        (Method::POST, "/v1/models", "", 405),
        (Method::POST, "/v1/chat/completions", "{}", 400),
        (Method::POST, "/v1/chat/completions", "not json", 400),
        (Method::POST, "/v1/completions", r#"{"prompt":["a","b"]}"#, 400),
        (Method::POST, "/v1/completions", r#"{"prompt":"a","n":2}"#, 400),
        (Method::POST, "/v1/completions", r#"{"prompt":"a","model":"other"}"#, 404),
    ] {
        let (found, _, answer) = fetch(request(method, path, body)).await;
        assert_eq!(found.as_u16(), status, "{path} {body}");
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert!(answer["error"]["message"].is_string(), "{answer}");
        assert_eq!(answer["error"]["type"], "invalid_request_error");
    }
}

#[tokio::test]
async fn a_delay_paces_a_stream_and_dropping_it_ends_it() {
    let delay = Duration::from_millis(20);
    let engine = ExtractiveSummary::new().with_delay_per_token(Some(delay));
    let mut body = chat("Seven small words are in this sentence");
    body["stream"] = json!(true);
    let begun = Instant::now();
    let call = engine.call(request(Method::POST, "/v1/chat/completions", body.to_string()));
    let mut answer = call.await.unwrap().body;
    for _ in 0..=3 {
        assert!(answer.next().await.unwrap().is_ok());
    }
    assert!(begun.elapsed() >= delay * 3, "the role and three tokens took {:?}", begun.elapsed());
    drop(answer);
}

#[tokio::test]
async fn a_long_text_does_not_block_the_thread_and_a_dropped_call_stops_its_work() {
    let text: String = (0..200_000).map(|n| format!("Sentence number {n} is about item{n}. ")).collect();
    let engine = ExtractiveSummary::new();
    let call = engine.call(request(Method::POST, "/v1/chat/completions", chat(&text).to_string()));
    let begun = Instant::now();
    assert!(tokio::time::timeout(Duration::from_millis(20), call).await.is_err(), "answered at once");
    assert!(begun.elapsed() < Duration::from_secs(5), "the thread was blocked for {:?}", begun.elapsed());
    let flag = CancelOnDrop::default();
    let seen = Arc::clone(&flag.0);
    drop(flag);
    assert!(seen.load(Ordering::Relaxed));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        prop_oneof!["user", "assistant", "system", "text"].prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 6, |inner| {
        let key = prop_oneof!["role", "content", "type", "text", "include_usage", "\\PC{0,5}"];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::hash_map(key, inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_body_gets_an_answer(
        fields in proptest::collection::hash_map(
            prop_oneof!["messages", "prompt", "stream", "stream_options", "max_tokens", "stop", "n", "model"],
            any_json(), 0..5),
        endpoint in prop_oneof![Just("/v1/chat/completions"), Just("/v1/completions")],
    ) {
        let body = Value::Object(fields.into_iter().collect());
        let (status, _, answer) = runtime().block_on(fetch(request(Method::POST, endpoint, body.to_string())));
        prop_assert!(status == StatusCode::OK || status.is_client_error());
        prop_assert!(!answer.is_empty());
    }

    #[test]
    fn any_bytes_get_an_answer(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (status, ..) = runtime().block_on(fetch(request(Method::POST, "/v1/completions", body)));
        prop_assert!(status.is_client_error());
    }

    #[test]
    fn the_limit_of_tokens_is_exact_and_streams_say_the_same(
        text in "(\\PC|[a-z]{3,9} |[.!?] |[你好世界]{2}|。|\n){1,200}", limit in 1_usize..60,
    ) {
        runtime().block_on(async {
            let mut body = chat(&text);
            body["max_tokens"] = json!(limit);
            let (_, whole) = post("/v1/chat/completions", &body).await;
            let content = whole["choices"][0]["message"]["content"].as_str().unwrap();
            let tokens = usize::try_from(whole["usage"]["completion_tokens"].as_u64().unwrap()).unwrap();
            assert!(tokens <= limit);
            assert!(whole["choices"][0]["finish_reason"] == "stop" || tokens == limit, "{whole}");
            assert_eq!(whole["usage"]["prompt_tokens"], count_tokens(&text));
            body["stream"] = json!(true);
            let chunks = post_events("/v1/chat/completions", &body).await;
            let deltas = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
            assert_eq!(deltas.clone().collect::<String>(), content);
            assert_eq!(deltas.count(), tokens + 1, "the role and one delta for each token");
        });
    }
}
