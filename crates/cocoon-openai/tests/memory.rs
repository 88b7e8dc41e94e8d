//! What many small elements cost: a body or an answer is read in about the memory of its text.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, missing_docs)]

use bytes::Bytes;
use cocoon_openai::{AnswerMeter, BodyKind, BodyLimits, CostFields, Endpoint, PreparedRequest};

const MIB: usize = 1 << 20;
const BODY: usize = 4 * MIB;

/// The most memory that this process has had, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

/// `{"model":"m","max_tokens":1,FIELD:[1,1,...]}` of about so many bytes.
fn many(field: &str, bytes: usize) -> Bytes {
    format!("{{\"model\":\"m\",\"max_tokens\":1,\"{field}\":[{}1]}}", "1,".repeat(bytes / 2)).into()
}

#[test]
fn a_long_array_of_tiny_elements_is_no_list_in_memory() {
    let grows = |what: &str, at_most: usize, read: &dyn Fn()| {
        let before = peak();
        read();
        let grown = peak() - before;
        assert!(grown <= at_most, "{what}: {} MiB", grown / MIB);
    };
    // Where it is read as a request, one copy goes on.
    for (endpoint, field) in
        [(Endpoint::Chat, "messages"), (Endpoint::Completions, "prompt"), (Endpoint::Detokenize, "tokens")]
    {
        let body = many(field, BODY);
        grows(field, 3 * BODY, &|| {
            let prepared = PreparedRequest::parse(&body, endpoint, 1).unwrap();
            assert!(prepared.basis().summary().prompt_tokens() > 0);
        });
    }
    for (endpoint, field) in [(Endpoint::Chat, "choices"), (Endpoint::Responses, "output")] {
        let answer = many(field, BODY);
        grows(field, 3 * BODY, &|| {
            let costs = CostFields { prompt_total_cost: 0, completion_total_cost: 0, total_cost: 0 };
            let limits = BodyLimits::of(endpoint);
            let mut meter = AnswerMeter::new(endpoint, BodyKind::Json, limits, Box::new(move |_| costs));
            meter.push(answer.clone());
            meter.finish();
        });
    }
}
