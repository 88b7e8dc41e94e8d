//! Spans of a whole network at an OpenTelemetry collector: what arrives there, when, and what never does.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use prost::Message as _;
use serde_json::{Value, json};
use support::{Listen, Running, cocoon, http, text};

const PROMPT: &str = "Why did the zebra paint the lighthouse?";
const ANSWER: &str = "Because marmalade was sold out.";

/// A collector on a free port: its URL, and every byte of each request that came, head and body.
fn collector() -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let tell = tell.clone();
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                loop {
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") {
                        if stream.read_line(&mut head).unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let lower = head.to_ascii_lowercase();
                    let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                    let mut body = vec![0; length.unwrap().parse().unwrap()];
                    stream.read_exact(&mut body).unwrap();
                    tell.send((head, body)).unwrap();
                    stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
                }
            });
        }
    });
    (url, told)
}

/// A network with one worker before a model server, whose spans go to `collector`.
fn network(directory: &std::path::Path, collector: &str) -> (Running, Value) {
    let upstream = support::model_server("some-model", || {
        json!({
            "id": "x", "object": "chat.completion", "created": 1, "model": "some-model",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
        })
    });
    let options = ["--port-base", "0", "--json", "--workers", "1", "--upstream", &upstream];
    let mut command = cocoon(&["up", "--dir", text(directory)]);
    command.args(options).env("OTEL_EXPORTER_OTLP_ENDPOINT", collector);
    // Nothing leaves before the end unless it is many.
    command.env("OTEL_BSP_SCHEDULE_DELAY", "3600000");
    let mut running = Running::start(command, Listen::Stdout);
    let endpoints = running.json_with("gateway");
    (running, endpoints)
}

fn ask(endpoints: &Value) -> (u16, String) {
    let body = json!({"model": "some-model", "messages": [{"role": "user", "content": PROMPT}]});
    http(endpoints["gateway"].as_str().unwrap(), "POST", "/v1/chat/completions", &body.to_string())
}

fn figures(attributes: &[KeyValue]) -> BTreeMap<&str, Any> {
    let value = |pair: &KeyValue| pair.value.clone().unwrap().value.unwrap();
    attributes.iter().map(|pair| (pair.key.as_str(), value(pair))).collect()
}

#[test]
fn a_request_arrives_at_the_collector_as_one_trace_without_a_word_of_it() {
    let (url, received) = collector();
    let directory = tempfile::tempdir().unwrap();
    let (running, endpoints) = network(directory.path(), &url);
    let (status, answer) = ask(&endpoints);
    assert!(status == 200 && answer.contains(ANSWER), "{status} {answer}");
    assert!(received.try_recv().is_err(), "what arrives is what a stop sends");
    assert_eq!(running.stop(), Some(0));

    // By the service that they are of.
    let mut spans: BTreeMap<String, Vec<Span>> = BTreeMap::new();
    let mut bytes = 0;
    for (head, body) in received.try_iter() {
        assert!(head.starts_with("POST /v1/traces ") && head.contains("application/x-protobuf"), "{head}");
        for word in PROMPT.split(' ').chain(ANSWER.split(' ')).filter(|word| word.len() > 4) {
            let found = body.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word.as_bytes()));
            assert!(!found && !head.contains(word), "{word:?} was sent");
        }
        bytes += body.len();
        for part in ExportTraceServiceRequest::decode(body.as_slice()).unwrap().resource_spans {
            let of = part.resource.unwrap().attributes;
            let Any::StringValue(service) = figures(&of)["service.name"].clone() else { panic!("{of:?}") };
            spans.entry(service).or_default().extend(part.scope_spans.into_iter().flat_map(|of| of.spans));
        }
    }
    assert!(bytes > 0);
    let mut of = |service: &str| spans.remove(service).unwrap_or_default();
    let [attempt, server] = <[Span; 2]>::try_from(of("cocoon-gateway")).unwrap();
    let [proxy] = <[Span; 1]>::try_from(of("cocoon-proxy")).unwrap();
    let [worker] = <[Span; 1]>::try_from(of("cocoon-worker")).unwrap();
    assert!(spans.is_empty(), "{spans:?}");

    assert!(server.parent_span_id.is_empty(), "it begins here");
    for (child, parent) in [(&attempt, &server), (&proxy, &attempt), (&worker, &proxy)] {
        assert_eq!(child.parent_span_id, parent.span_id, "{child:?} in {parent:?}");
        assert_eq!(child.trace_id, server.trace_id);
        assert!(child.start_time_unix_nano <= child.end_time_unix_nano);
    }
    let kinds = [&server, &attempt, &proxy, &worker].map(Span::kind);
    assert_eq!(kinds, [SpanKind::Server, SpanKind::Client, SpanKind::Server, SpanKind::Server]);
    assert_eq!(server.name, "POST /v1/chat/completions");
    for span in [&attempt, &worker] {
        assert_eq!(span.name, "chat some-model");
        let figures = figures(&span.attributes);
        assert_eq!(figures["gen_ai.operation.name"], Any::StringValue("chat".into()));
        assert_eq!(figures["gen_ai.request.model"], Any::StringValue("some-model".into()));
        assert_eq!(figures["gen_ai.usage.input_tokens"], Any::IntValue(11));
        assert_eq!(figures["gen_ai.usage.output_tokens"], Any::IntValue(7));
    }
    assert_eq!(figures(&server.attributes)["http.response.status_code"], Any::IntValue(200));
    assert_eq!(figures(&proxy.attributes)["cocoon.charged_tokens"], Any::IntValue(18));
}

#[test]
fn a_collector_that_is_away_or_answers_nothing_delays_neither_requests_nor_the_end_for_long() {
    // Connections to it are taken by the system, and nobody ever answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let away = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for collector in [silent.local_addr().unwrap(), away] {
        let directory = tempfile::tempdir().unwrap();
        let (running, endpoints) = network(directory.path(), &format!("http://{collector}"));
        for _ in 0..5 {
            assert_eq!(ask(&endpoints).0, 200);
        }
        // It ends within the test's own limit, and as if nothing were amiss.
        assert_eq!(running.stop(), Some(0), "{collector}");
    }
}
