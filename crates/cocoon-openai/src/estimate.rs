//! What an answer is billed for when the engine's own count never came (it was cut, cancelled, or does not count).
//!
//! The rule, the same for every party, and a pure function of bytes that each of them has seen (of the request, what a
//! [`RequestSummary`] holds):
//! - **Text** (chat, completions, responses, messages): the last running usage if the engine gave one, but at least one
//!   token per content delta. An answer that was not streamed has no deltas: one token per [`BYTES_PER_TOKEN`] bytes of
//!   its text, rounded up, and one per [`BYTES_PER_FILE_TOKEN`] bytes of sound. Never more than the limit in the request.
//!   An engine that sends a token per delta, as is usual, is thus billed in full for all that was delivered: leaving
//!   just before the end saves the caller no more than the token that marks the end. One that packs several tokens
//!   into a delta should give running usage.
//! - **Its prompt**: the running usage's, else one token per [`BYTES_PER_TOKEN`] bytes of UTF-8 text (messages, prompts,
//!   instructions, tool calls and the JSON of tools), rounded up, plus [`TOKENS_PER_MESSAGE`] per message for the template
//!   around it, plus [`TOKENS_PER_MEDIA_PART`] per image, sound or file. Prompts given as token numbers are counted.
//!   Four bytes are about one token in English, and, because UTF-8 takes two or three bytes for a letter where
//!   tokens are shorter in letters, in most other languages too.
//! - **Transcriptions**: one prompt token per [`BYTES_PER_FILE_TOKEN`] bytes of the file, unless the engine tells the
//!   length of the sound; the text as above, by its bytes, streamed or not.
//! - **Speech and images**: by the request alone, see [`RequestSummary::completion_tokens`].
//! - **Embeddings, rankings, moderations, tokens**: the text that was sent; nothing for the answer.
//! - **Counts of tokens**: the prompt that is counted, as if it were asked; nothing for the answer.
//! - **Nothing** where the answer is an error and no content was delivered. (Whether an answer whose HTTP status is
//!   an error is billed at all is the caller's decision; it should not be.)
//!
//! No estimate exceeds what a proxy lets a worker claim: bytes of the body plus [`TEMPLATE_TOKENS`], and the limit that
//! was reserved.

use crate::endpoint::Endpoint;
use crate::observe::MeterReport;
use crate::summary::{RequestBasis, RequestSummary};
use crate::usage::Usage;

/// Bytes of UTF-8 text that are counted as one token.
pub const BYTES_PER_TOKEN: u64 = 4;
/// Tokens counted for the template around one chat message.
pub const TOKENS_PER_MESSAGE: u64 = 4;
/// Tokens counted for one part of a message that is not text.
pub const TOKENS_PER_MEDIA_PART: u64 = 256;
/// Bytes of a sound that are counted as one token: a second of plain speech (16,000 samples of 16 bits) has 50, as many as
/// [`crate::TOKENS_PER_SECOND`].
pub const BYTES_PER_FILE_TOKEN: u64 = 640;
/// Tokens on top of the bytes of a query that a proxy lets a worker claim as prompt, for templates.
pub const TEMPLATE_TOKENS: u64 = 1024;
/// The most tokens that the transcript of an empty file is counted as.
pub const TRANSCRIPT_BASE_TOKENS: u64 = 4096;
/// Bytes of a sound that allow one more token of its transcript: the densest common format has 750 in a second, in which
/// nobody says more than ten tokens.
pub const TRANSCRIPT_BYTES_PER_TOKEN: u64 = 64;

/// Usage to bill, and whether it is the engine's final word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeteredUsage {
    /// The tokens.
    pub usage: Usage,
    /// The engine's final count never came; the rule of this module was applied.
    pub estimated: bool,
}

/// The usage to bill for an answer, from its report and the request.
#[must_use]
pub fn estimate_usage(report: &MeterReport, request: &RequestBasis) -> MeteredUsage {
    if let (Some(usage), true) = (report.usage, report.complete) {
        return MeteredUsage { usage: request.hold(&usage), estimated: false };
    }
    let delivered_nothing = report.content_bytes == 0 && report.media_bytes == 0;
    if report.saw_error && report.usage.is_none() && delivered_nothing {
        return MeteredUsage { usage: Usage::default(), estimated: true };
    }
    let summary = request.summary();
    let bound = summary.completion_bound().unwrap_or(Usage::MAX_COUNT);
    let delivered = delivered(report, summary).min(bound);
    let usage = match report.usage {
        Some(running) => {
            let completion_tokens = running.completion_tokens.max(delivered);
            let total_tokens = running.total_tokens.max(running.prompt_tokens + completion_tokens);
            request.hold(&Usage { completion_tokens, total_tokens, ..running })
        }
        None => of_rule(request.endpoint(), summary.prompt_tokens(), delivered),
    };
    MeteredUsage { usage, estimated: true }
}

/// The tokens that the prompt of a JSON body is counted as; see the module.
#[must_use]
pub fn estimate_prompt_tokens(endpoint: Endpoint, request_body: &[u8]) -> i64 {
    RequestSummary::of_json(endpoint, request_body).prompt_tokens()
}

/// Tokens of the answer, by what came of it.
fn delivered(report: &MeterReport, summary: &RequestSummary) -> i64 {
    if let Some(ruled) = summary.completion_tokens() {
        return ruled;
    }
    let by_bytes =
        report.content_bytes.div_ceil(BYTES_PER_TOKEN) + report.media_bytes.div_ceil(BYTES_PER_FILE_TOKEN);
    let tokens = match (summary.endpoint(), report.content_deltas) {
        (Endpoint::Transcriptions | Endpoint::Translations, _) | (_, 0) => by_bytes,
        (_, deltas) => deltas,
    };
    i64::try_from(tokens).unwrap_or(Usage::MAX_COUNT)
}

fn of_rule(endpoint: Endpoint, prompt: i64, completion: i64) -> Usage {
    let usage = Usage::new(prompt, completion);
    match endpoint {
        Endpoint::Transcriptions | Endpoint::Translations => Usage { audio_prompt_tokens: prompt, ..usage },
        Endpoint::Speech => Usage { audio_completion_tokens: completion, ..usage },
        _ => usage,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn estimate(report: &MeterReport, body: &'static str) -> MeteredUsage {
        estimate_usage(report, &RequestBasis::json(Endpoint::Chat, Bytes::from_static(body.as_bytes())))
    }

    #[test]
    fn a_final_count_is_billed_as_it_is() {
        let usage = Usage::new(7, 9);
        let report =
            MeterReport { usage: Some(usage), complete: true, content_deltas: 50, ..Default::default() };
        assert_eq!(estimate(&report, "{}"), MeteredUsage { usage, estimated: false });
    }

    #[test]
    fn a_cut_stream_is_billed_by_its_deltas() {
        let report = MeterReport { content_deltas: 12, content_bytes: 400, ..Default::default() };
        let metered = estimate(&report, r#"{"messages":[{"role":"user","content":"12345"}]}"#);
        assert!(metered.estimated);
        assert_eq!((metered.usage.prompt_tokens, metered.usage.completion_tokens), (2 + 4, 12));
    }

    #[test]
    fn running_usage_counts_but_never_less_than_was_delivered() {
        let running = Usage { cached_tokens: 3, ..Usage::new(10, 4) };
        let report = MeterReport { usage: Some(running), content_deltas: 6, ..Default::default() };
        let usage = estimate(&report, "{}").usage;
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (10, 6, 16));
        assert_eq!(usage.cached_tokens, 3);
    }

    #[test]
    fn an_error_instead_of_an_answer_costs_nothing() {
        let report = MeterReport { saw_error: true, complete: true, ..Default::default() };
        assert_eq!(estimate(&report, r#"{"prompt":"12345678"}"#).usage, Usage::default());
        let cut_by_error =
            MeterReport { saw_error: true, content_deltas: 3, content_bytes: 9, ..Default::default() };
        assert_eq!(estimate(&cut_by_error, r#"{"prompt":"12345678"}"#).usage, Usage::new(2, 3));
    }

    #[test]
    fn a_whole_answer_without_usage_is_billed_by_its_bytes() {
        let report = MeterReport { content_bytes: 9, media_bytes: 641, complete: true, ..Default::default() };
        assert_eq!(estimate(&report, "{}").usage.completion_tokens, 3 + 2);
    }

    #[test]
    fn no_estimate_exceeds_the_limit_in_the_request() {
        let report = MeterReport { content_bytes: 400, complete: true, ..Default::default() };
        assert_eq!(estimate(&report, r#"{"max_tokens":7}"#).usage.completion_tokens, 7);
    }

    #[test]
    fn what_is_spoken_drawn_or_heard_has_its_own_rule() {
        let report =
            MeterReport { content_bytes: 8, content_deltas: 50, complete: true, ..Default::default() };
        let speech = RequestBasis::json(Endpoint::Speech, Bytes::from_static(br#"{"input":"say this"}"#));
        let expected = Usage { audio_completion_tokens: 8, ..Usage::new(2, 8) };
        assert_eq!(estimate_usage(&report, &speech), MeteredUsage { usage: expected, estimated: true });
        let mut sound = RequestSummary::new(Endpoint::Transcriptions);
        sound.add_file_bytes(6400);
        sound.add_body_bytes(6500);
        let expected = Usage { audio_prompt_tokens: 10, ..Usage::new(10, 2) };
        assert_eq!(estimate_usage(&report, &sound.into()).usage, expected);
        let image =
            RequestBasis::json(Endpoint::ImageGenerations, Bytes::from_static(br#"{"prompt":"cat"}"#));
        assert_eq!(estimate_usage(&report, &image).usage, Usage::new(1, 4096));
        let embedded = RequestBasis::json(Endpoint::Embeddings, Bytes::from_static(br#"{"input":"cats"}"#));
        assert_eq!(estimate_usage(&report, &embedded).usage, Usage::new(1, 0));
    }
}
