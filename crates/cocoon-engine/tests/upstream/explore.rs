//! What a server can do is seen by what it answers to the least of each.

use std::sync::{Arc, Mutex};

use cocoon_engine::Engine as _;
use cocoon_engine::upstream::HttpEngineOptions;
use cocoon_openai::ability;

use crate::server::Server;
use crate::{engine, engine_with};

/// A server that answers each path with a status, and 404 elsewhere; and what it was asked.
async fn server(
    answer: impl Fn(&str, &str) -> u16 + Send + Sync + 'static,
) -> (Server, Arc<Mutex<Vec<String>>>) {
    let answer = Arc::new(answer);
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&asked);
    let server = Server::start(move |_, mut peer| {
        let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
        async move {
            while let Some(request) = peer.request().await {
                let path = request.split(' ').nth(1).unwrap().to_owned();
                let status = answer(&path, &request);
                log.lock().unwrap().push(path);
                let body = r#"{"choices":[{"message":{"content":"","reasoning_content":"m"}}]}"#;
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
                );
                peer.write(answer.as_bytes()).await;
            }
        }
    })
    .await;
    (server, asked)
}

fn names(bits: u32) -> Vec<&'static str> {
    ability::names(bits).collect()
}

#[tokio::test]
async fn a_server_for_chats_is_found_to_be_one() {
    let (server, asked) = server(|path, request| match path {
        "/v1/chat/completions" if request.contains("input_audio") || request.contains("image_url") => 500,
        "/v1/chat/completions" | "/v1/completions" | "/tokenize" => 200,
        "/v1/messages/count_tokens" if request.contains("max_tokens") => 400,
        "/v1/messages/count_tokens" => 200,
        // As vLLM, which takes it for the name of a response.
        "/v1/responses/input_tokens" => 405,
        "/v1/audio/transcriptions" => 400,
        _ => 404,
    })
    .await;
    let found = engine(&server).explore("m", 0).await;
    let expected =
        ["chat", "completions", "tokenize", "count_tokens", "tools", "structured_output", "reasoning"];
    assert_eq!(names(found), expected);
    let asked = asked.lock().unwrap();
    assert!(asked.len() <= 20, "{asked:?}");
}

#[tokio::test]
async fn what_takes_long_is_only_looked_for_with_an_empty_body() {
    let (server, _) = server(|path, request| match path {
        "/v1/images/generations" | "/v1/images/edits" | "/v1/audio/speech" => {
            assert!(request.ends_with("\r\n\r\n"), "{request}");
            if path.ends_with("edits") { 405 } else { 422 }
        }
        _ => 404,
    })
    .await;
    assert_eq!(names(engine(&server).explore("m", 0).await), ["speech", "images"]);
}

#[tokio::test]
async fn a_server_that_answers_400_everywhere_shows_nothing_by_it() {
    let (server, _) = server(|_, _| 400).await;
    assert_eq!(engine(&server).explore("m", u32::MAX).await & ability::IMAGES, 0);
}

#[tokio::test]
async fn what_can_not_be_told_stays_as_it_was() {
    let (busy, _) = server(|_, _| 503).await;
    let known = ability::CHAT | ability::TOOLS | ability::IMAGES;
    assert_eq!(engine(&busy).explore("m", known).await, known);
    let gone = {
        let (server, _) = server(|_, _| 200).await;
        engine(&server)
    };
    assert_eq!(gone.explore("m", known).await, known);
}

#[tokio::test]
async fn what_is_stated_is_not_asked_for() {
    let (server, asked) = server(|_, _| 200).await;
    let options = HttpEngineOptions { abilities: Some(ability::RERANK), ..HttpEngineOptions::default() };
    assert_eq!(engine_with(&server, options).explore("m", 0).await, ability::RERANK);
    assert!(asked.lock().unwrap().is_empty());
}
