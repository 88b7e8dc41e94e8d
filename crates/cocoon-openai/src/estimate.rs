//! What an answer is billed for when the engine's own count never came (it was cut, cancelled, or does not count).
//!
//! The rule, the same for every party, and a pure function of bytes that each of them has seen:
//! - **Answer**: the last running usage if the engine gave one, but at least one token per content delta. An answer
//!   that was not streamed has no deltas: one token per [`BYTES_PER_TOKEN`] bytes of its text, rounded up.
//!   An engine that sends a token per delta, as is usual, is thus billed in full for all that was delivered: leaving
//!   just before the end saves the caller no more than the token that marks the end. One that packs several tokens
//!   into a delta should give running usage.
//! - **Prompt**: the running usage's, else one token per [`BYTES_PER_TOKEN`] bytes of UTF-8 text (messages, prompts,
//!   tool calls and the JSON of tools), rounded up, plus [`TOKENS_PER_MESSAGE`] per message for the template around
//!   it, plus [`TOKENS_PER_MEDIA_PART`] per image, sound or file. Prompts given as token numbers are counted.
//!   Four bytes are about one token in English, and, because UTF-8 takes two or three bytes for a letter where
//!   tokens are shorter in letters, in most other languages too.
//! - **Nothing** where the answer is an error and no content was delivered. (Whether an answer whose HTTP status is
//!   an error is billed at all is the caller's decision; it should not be.)

use serde_json::value::RawValue;

use crate::object::{RawObject, string_of};
use crate::observe::MeterReport;
use crate::usage::Usage;

/// Bytes of UTF-8 text that are counted as one token.
pub const BYTES_PER_TOKEN: u64 = 4;
/// Tokens counted for the template around one chat message.
pub const TOKENS_PER_MESSAGE: u64 = 4;
/// Tokens counted for one part of a message that is not text.
pub const TOKENS_PER_MEDIA_PART: u64 = 256;

/// Usage to bill, and whether it is the engine's final word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeteredUsage {
    /// The tokens.
    pub usage: Usage,
    /// The engine's final count never came; the rule of this module was applied.
    pub estimated: bool,
}

/// The usage to bill for an answer, from its report and the request's body.
#[must_use]
pub fn estimate_usage(report: &MeterReport, request_body: &[u8]) -> MeteredUsage {
    if let (Some(usage), true) = (report.usage, report.complete) {
        return MeteredUsage { usage, estimated: false };
    }
    if report.saw_error && report.usage.is_none() && report.content_bytes == 0 {
        return MeteredUsage { usage: Usage::default(), estimated: true };
    }
    let delivered = match report.content_deltas {
        0 => report.content_bytes.div_ceil(BYTES_PER_TOKEN),
        deltas => deltas,
    };
    let delivered = to_count(delivered);
    let usage = match report.usage {
        Some(running) => {
            let completion_tokens = running.completion_tokens.max(delivered);
            let total_tokens = running.total_tokens.max(running.prompt_tokens + completion_tokens);
            Usage { completion_tokens, total_tokens, ..running }
        }
        None => Usage::new(estimate_prompt_tokens(request_body), delivered),
    };
    MeteredUsage { usage, estimated: true }
}

/// The tokens that a request's prompt is counted as; see the module. A body that can't be read counts by its size.
#[must_use]
pub fn estimate_prompt_tokens(request_body: &[u8]) -> i64 {
    let Ok(body) = RawObject::parse(request_body) else {
        return to_count((request_body.len() as u64).div_ceil(BYTES_PER_TOKEN));
    };
    let mut count = Count::default();
    for message in body.get_set("messages").map(elements).unwrap_or_default() {
        count.message(message.get());
    }
    if let Some(prompt) = body.get_set("prompt") {
        count.prompt(prompt);
    }
    for field in ["suffix", "tools", "functions", "response_format"] {
        count.text_bytes += body.get_set(field).map_or(0, json_bytes);
    }
    to_count(count.text_bytes.div_ceil(BYTES_PER_TOKEN) + count.tokens)
}

#[derive(Default)]
struct Count {
    text_bytes: u64,
    tokens: u64,
}

impl Count {
    fn message(&mut self, json: &str) {
        self.tokens += TOKENS_PER_MESSAGE;
        let Ok(message) = RawObject::parse(json.as_bytes()) else {
            self.text_bytes += json_bytes(json);
            return;
        };
        for field in ["name", "tool_calls", "function_call", "reasoning_content"] {
            self.text_bytes += message.get_set(field).map_or(0, json_bytes);
        }
        match message.get_set("content") {
            None => {}
            Some(parts) if parts.starts_with('[') => {
                elements(parts).iter().for_each(|part| self.part(part.get()))
            }
            Some(text) => self.text_bytes += json_bytes(text),
        }
    }

    fn part(&mut self, json: &str) {
        match RawObject::parse(json.as_bytes()).ok().and_then(|part| Some(json_bytes(part.get_set("text")?)))
        {
            Some(bytes) => self.text_bytes += bytes,
            None if json.starts_with('"') => self.text_bytes += json_bytes(json),
            None => self.tokens += TOKENS_PER_MEDIA_PART,
        }
    }

    /// A text, an array of texts, an array of token numbers, or an array of such arrays.
    fn prompt(&mut self, json: &str) {
        if json.starts_with('"') {
            self.text_bytes += json_bytes(json);
            return;
        }
        for element in elements(json) {
            match element.get() {
                text if text.starts_with('"') => self.text_bytes += json_bytes(text),
                numbers if numbers.starts_with('[') => self.tokens += elements(numbers).len() as u64,
                _ => self.tokens += 1,
            }
        }
    }
}

fn elements(json: &str) -> Vec<&RawValue> {
    serde_json::from_str(json).unwrap_or_default()
}

/// Bytes of a text, or of the JSON of anything else.
fn json_bytes(json: &str) -> u64 {
    string_of(json).map_or(json.len(), |text| text.len()) as u64
}

fn to_count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(Usage::MAX_COUNT).min(Usage::MAX_COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_count_is_billed_as_it_is() {
        let usage = Usage::new(7, 9);
        let report =
            MeterReport { usage: Some(usage), complete: true, content_deltas: 50, ..Default::default() };
        assert_eq!(estimate_usage(&report, b"{}"), MeteredUsage { usage, estimated: false });
    }

    #[test]
    fn a_cut_stream_is_billed_by_its_deltas() {
        let report = MeterReport { content_deltas: 12, content_bytes: 400, ..Default::default() };
        let metered = estimate_usage(&report, br#"{"messages":[{"role":"user","content":"12345"}]}"#);
        assert!(metered.estimated);
        assert_eq!((metered.usage.prompt_tokens, metered.usage.completion_tokens), (2 + 4, 12));
    }

    #[test]
    fn running_usage_counts_but_never_less_than_was_delivered() {
        let running = Usage { cached_tokens: 3, ..Usage::new(10, 4) };
        let report = MeterReport { usage: Some(running), content_deltas: 6, ..Default::default() };
        let usage = estimate_usage(&report, b"{}").usage;
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (10, 6, 16));
        assert_eq!(usage.cached_tokens, 3);
    }

    #[test]
    fn an_error_instead_of_an_answer_costs_nothing() {
        let report = MeterReport { saw_error: true, complete: true, ..Default::default() };
        assert_eq!(estimate_usage(&report, br#"{"prompt":"12345678"}"#).usage, Usage::default());
        let cut_by_error =
            MeterReport { saw_error: true, content_deltas: 3, content_bytes: 9, ..Default::default() };
        assert_eq!(estimate_usage(&cut_by_error, br#"{"prompt":"12345678"}"#).usage, Usage::new(2, 3));
    }

    #[test]
    fn a_whole_answer_without_usage_is_billed_by_its_bytes() {
        let report = MeterReport { content_bytes: 9, complete: true, ..Default::default() };
        assert_eq!(estimate_usage(&report, b"{}").usage.completion_tokens, 3);
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
            assert_eq!(estimate_prompt_tokens(body.as_bytes()), tokens, "{body}");
        }
    }
}
