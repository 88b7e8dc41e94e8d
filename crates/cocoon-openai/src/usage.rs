//! Token usage as engines report it, read leniently: a strange number becomes a harmless one, never an error.

use crate::endpoint::Endpoint;
use crate::object::RawObject;

/// Prompt tokens of each second of sound that was begun, where an engine tells the length of a sound and no tokens.
pub const TOKENS_PER_SECOND: i64 = 50;

/// Tokens of one answer. Every count lies in `0..=`[`Usage::MAX_COUNT`]; a part never exceeds its whole
/// (`cached_tokens` and `audio_prompt_tokens` are parts of `prompt_tokens`; `reasoning_tokens` and
/// `audio_completion_tokens` of `completion_tokens`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: i64,
    /// Tokens of the answer, reasoning included.
    pub completion_tokens: i64,
    /// As reported, but at least `prompt_tokens + completion_tokens`.
    pub total_tokens: i64,
    /// The part of the prompt that came from the engine's cache.
    pub cached_tokens: i64,
    /// The part of the answer that was reasoning.
    pub reasoning_tokens: i64,
    /// The part of the prompt that was sound.
    pub audio_prompt_tokens: i64,
    /// The part of the answer that was sound.
    pub audio_completion_tokens: i64,
}

impl Usage {
    /// Larger counts are read as this one (2^40): no price overflows on it, and no model reaches it.
    pub const MAX_COUNT: i64 = 1 << 40;

    /// Usage from its three independent counts, held within the limits of the type.
    #[must_use]
    pub fn new(prompt_tokens: i64, completion_tokens: i64) -> Self {
        Self { prompt_tokens, completion_tokens, ..Self::default() }.clamped()
    }

    /// As a `usage` object with the three counts that every client reads.
    #[must_use]
    pub fn to_json(&self) -> String {
        let Self { prompt_tokens, completion_tokens, total_tokens, .. } = self;
        format!(
            r#"{{"prompt_tokens":{prompt_tokens},"completion_tokens":{completion_tokens},"total_tokens":{total_tokens}}}"#
        )
    }

    /// Reads a `usage` object of OpenAI's kind; `None` where `json` is not an object (`null`, for one).
    ///
    /// Understood spellings: `prompt_tokens`, `completion_tokens`, `total_tokens`,
    /// `prompt_tokens_details.cached_tokens`, `completion_tokens_details.reasoning_tokens` and `audio_tokens` in both
    /// (OpenAI, vLLM, SGLang, llama.cpp, Ollama); `input_tokens`, `output_tokens` and their details, also as
    /// `input_token_details` (OpenAI's responses, images and transcriptions); `prompt_cache_hit_tokens` (DeepSeek);
    /// `cached_tokens` and `reasoning_tokens` directly in `usage` (SGLang).
    #[must_use]
    pub fn from_json(json: &str) -> Option<Self> {
        Some(Counts::read(&RawObject::parse(json.as_bytes()).ok()?).usage())
    }

    /// Reads the `usage` object of an answer at `endpoint`. `text_bytes`: bytes of text in the answer, which are counted
    /// where an engine tells the length of a sound instead of tokens.
    ///
    /// Beyond [`Self::from_json`]: where only `total_tokens` is told of something that has no completion, it is the
    /// prompt's; a transcription's `seconds` or `duration` are [`TOKENS_PER_SECOND`] each. Anthropic's usage is read by
    /// [`MessagesUsage`].
    pub(crate) fn read(endpoint: Endpoint, json: &str, text_bytes: u64) -> Option<Self> {
        let object = RawObject::parse(json.as_bytes()).ok()?;
        let mut counts = Counts::read(&object);
        match endpoint {
            Endpoint::Transcriptions | Endpoint::Translations if counts.names_no_tokens() => {
                let seconds =
                    ["seconds", "duration"].iter().find_map(|key| read_seconds(object.get(key)?))?;
                return Some(Self::of_sound(seconds, text_bytes));
            }
            Endpoint::Embeddings | Endpoint::Rerank | Endpoint::Moderations
                if counts.prompt.is_none() && counts.completion.is_none() =>
            {
                counts.prompt = counts.total;
            }
            _ => {}
        }
        let mut usage = counts.usage();
        if endpoint == Endpoint::Speech {
            usage.audio_completion_tokens = usage.completion_tokens;
        }
        Some(usage)
    }

    /// The usage of a transcription of so many seconds.
    pub(crate) fn of_sound(seconds: i64, text_bytes: u64) -> Self {
        let prompt = seconds.saturating_mul(TOKENS_PER_SECOND);
        let text = i64::try_from(text_bytes.div_ceil(crate::estimate::BYTES_PER_TOKEN)).unwrap_or(i64::MAX);
        Self { audio_prompt_tokens: prompt, ..Self::new(prompt, text) }.clamped()
    }

    /// Cohere's and Jina's way to tell a ranking's tokens: `meta.tokens.input_tokens`, else
    /// `meta.billed_units.input_tokens` (or `total_tokens`). Search units are no tokens and are left aside.
    pub(crate) fn from_rerank_meta(json: &str) -> Option<Self> {
        let meta = RawObject::parse(json.as_bytes()).ok()?;
        ["tokens", "billed_units"].iter().find_map(|key| {
            let counts = Counts::read(&RawObject::parse(meta.get_set(key)?.as_bytes()).ok()?);
            let prompt = counts.prompt.or(counts.total)?;
            Some(Self::new(prompt, counts.completion.unwrap_or(0)))
        })
    }

    /// Held within the limits of the type.
    pub(crate) fn clamped(self) -> Self {
        let within = |count: i64| count.clamp(0, Self::MAX_COUNT);
        let (prompt_tokens, completion_tokens) = (within(self.prompt_tokens), within(self.completion_tokens));
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: within(self.total_tokens).max(prompt_tokens + completion_tokens),
            cached_tokens: within(self.cached_tokens).min(prompt_tokens),
            reasoning_tokens: within(self.reasoning_tokens).min(completion_tokens),
            audio_prompt_tokens: within(self.audio_prompt_tokens).min(prompt_tokens),
            audio_completion_tokens: within(self.audio_completion_tokens).min(completion_tokens),
        }
    }

    /// The same with at most so many tokens of each kind; `total_tokens` follows.
    pub(crate) fn at_most(self, prompt: i64, completion: i64) -> Self {
        if self.prompt_tokens <= prompt && self.completion_tokens <= completion {
            return self;
        }
        let (prompt_tokens, completion_tokens) =
            (self.prompt_tokens.min(prompt), self.completion_tokens.min(completion));
        Self { prompt_tokens, completion_tokens, total_tokens: 0, ..self }.clamped()
    }
}

/// The counts of a `usage` object, where it has them.
#[derive(Debug, Default)]
struct Counts {
    prompt: Option<i64>,
    completion: Option<i64>,
    total: Option<i64>,
    cached: Option<i64>,
    reasoning: Option<i64>,
    audio_prompt: Option<i64>,
    audio_completion: Option<i64>,
}

impl Counts {
    fn read(object: &RawObject<'_>) -> Self {
        let count = |keys: &[&str]| keys.iter().find_map(|key| read_count(object.get(key)?));
        let details = |keys: &[&str]| {
            keys.iter().find_map(|key| RawObject::parse(object.get_set(key)?.as_bytes()).ok())
        };
        let input = details(&["prompt_tokens_details", "input_tokens_details", "input_token_details"]);
        let output = details(&["completion_tokens_details", "output_tokens_details", "output_token_details"]);
        let within = |details: &Option<RawObject<'_>>, key| read_count(details.as_ref()?.get(key)?);
        Self {
            prompt: count(&["prompt_tokens", "input_tokens"]),
            completion: count(&["completion_tokens", "output_tokens"]),
            total: count(&["total_tokens"]),
            cached: within(&input, "cached_tokens")
                .or_else(|| count(&["prompt_cache_hit_tokens", "cached_tokens"])),
            reasoning: within(&output, "reasoning_tokens").or_else(|| count(&["reasoning_tokens"])),
            audio_prompt: within(&input, "audio_tokens"),
            audio_completion: within(&output, "audio_tokens"),
        }
    }

    fn names_no_tokens(&self) -> bool {
        self.prompt.is_none() && self.completion.is_none() && self.total.is_none()
    }

    fn usage(&self) -> Usage {
        let usage = Usage {
            prompt_tokens: self.prompt.unwrap_or(0),
            completion_tokens: self.completion.unwrap_or(0),
            total_tokens: self.total.unwrap_or(0),
            cached_tokens: self.cached.unwrap_or(0),
            reasoning_tokens: self.reasoning.unwrap_or(0),
            audio_prompt_tokens: self.audio_prompt.unwrap_or(0),
            audio_completion_tokens: self.audio_completion.unwrap_or(0),
        };
        usage.clamped()
    }
}

/// Anthropic's usage, gathered over a stream: each object tells some of the counts, cumulatively, so the largest of each
/// counts. `input_tokens` there leaves out what was read from the cache or written to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MessagesUsage {
    input: i64,
    cache_creation: i64,
    cache_read: i64,
    output: i64,
    thinking: i64,
}

impl MessagesUsage {
    /// Takes in one more `usage` object; the whole so far. `None` where `json` is no object.
    pub(crate) fn take_in(&mut self, json: &str) -> Option<Usage> {
        let object = RawObject::parse(json.as_bytes()).ok()?;
        let take = |held: &mut i64, key: &str| {
            *held = object.get(key).and_then(read_count).unwrap_or(0).max(*held);
        };
        take(&mut self.input, "input_tokens");
        take(&mut self.cache_creation, "cache_creation_input_tokens");
        take(&mut self.cache_read, "cache_read_input_tokens");
        take(&mut self.output, "output_tokens");
        let thinking = object
            .get_set("output_tokens_details")
            .and_then(|details| RawObject::parse(details.as_bytes()).ok())
            .and_then(|details| read_count(details.get("thinking_tokens")?));
        self.thinking = thinking.unwrap_or(0).max(self.thinking);
        let prompt_tokens = self.input + self.cache_creation + self.cache_read;
        let usage = Usage {
            cached_tokens: self.cache_read,
            reasoning_tokens: self.thinking,
            ..Usage::new(prompt_tokens, self.output)
        };
        Some(usage.clamped())
    }
}

/// Seconds that were begun; `None` where the value is no length. Whisper's servers write it as a number or as a text.
pub(crate) fn read_seconds(json: &str) -> Option<i64> {
    let seconds: f64 = match crate::object::string_of(json) {
        Some(text) => text.trim().parse().ok()?,
        None => serde_json::from_str(json).ok()?,
    };
    // `as` saturates, and takes NaN to 0.
    #[allow(clippy::cast_possible_truncation)]
    let whole = seconds.ceil() as i64;
    Some(whole.clamp(0, Usage::MAX_COUNT))
}

/// A count within the limits of [`Usage`]; `None` where the value is no number (then another spelling may serve).
fn read_count(json: &str) -> Option<i64> {
    let number: serde_json::Number = serde_json::from_str(json).ok()?;
    if let Some(whole) = number.as_i64() {
        return Some(whole.clamp(0, Usage::MAX_COUNT));
    }
    if number.is_u64() {
        return Some(Usage::MAX_COUNT);
    }
    // `as` saturates, and takes NaN to 0.
    #[allow(clippy::cast_possible_truncation)]
    number.as_f64().map(|float| (float as i64).clamp(0, Usage::MAX_COUNT))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(json: &str) -> Usage {
        Usage::from_json(json).unwrap()
    }

    #[test]
    fn openai_usage_is_read_with_its_details() {
        let usage = read(
            r#"{"prompt_tokens":34,"completion_tokens":100,"total_tokens":134,
                "prompt_tokens_details":{"cached_tokens":11},"completion_tokens_details":{"reasoning_tokens":10}}"#,
        );
        let expected = Usage {
            prompt_tokens: 34,
            completion_tokens: 100,
            total_tokens: 134,
            cached_tokens: 11,
            reasoning_tokens: 10,
            ..Usage::default()
        };
        assert_eq!(usage, expected);
    }

    #[test]
    fn other_spellings_are_understood() {
        assert_eq!(read(r#"{"prompt_tokens":9,"prompt_cache_hit_tokens":4}"#).cached_tokens, 4);
        assert_eq!(read(r#"{"completion_tokens":9,"reasoning_tokens":4}"#).reasoning_tokens, 4);
        let responses =
            read(r#"{"input_tokens":5,"output_tokens":6,"input_tokens_details":{"cached_tokens":2}}"#);
        assert_eq!(
            (responses.prompt_tokens, responses.completion_tokens, responses.cached_tokens),
            (5, 6, 2)
        );
        assert_eq!(responses.total_tokens, 11);
        assert_eq!(read(r#"{"prompt_tokens":5,"prompt_tokens_details":null}"#).cached_tokens, 0);
    }

    #[test]
    fn strange_numbers_become_harmless() {
        let usage = read(r#"{"prompt_tokens":-5,"completion_tokens":1e300,"total_tokens":"7"}"#);
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (0, Usage::MAX_COUNT));
        assert_eq!(usage.total_tokens, Usage::MAX_COUNT);
        assert_eq!(read(r#"{"prompt_tokens":12.7}"#).prompt_tokens, 12);
        assert_eq!(read(r#"{"prompt_tokens":18446744073709551615}"#).prompt_tokens, Usage::MAX_COUNT);
        assert_eq!(read(r#"{"prompt_tokens":99999999999999999999999}"#).prompt_tokens, Usage::MAX_COUNT);
        assert_eq!(read(r#"{"prompt_tokens":3,"cached_tokens":9}"#).cached_tokens, 3);
    }

    #[test]
    fn what_is_no_object_is_no_usage() {
        for json in ["null", "7", "[]", "\"x\"", "", "{"] {
            assert_eq!(Usage::from_json(json), None, "{json}");
        }
    }

    #[test]
    fn sound_is_told_apart() {
        let usage = read(
            r#"{"prompt_tokens":30,"completion_tokens":20,"prompt_tokens_details":{"audio_tokens":12},
                "completion_tokens_details":{"audio_tokens":99}}"#,
        );
        assert_eq!((usage.audio_prompt_tokens, usage.audio_completion_tokens), (12, 20));
        let usage = Usage::read(
            Endpoint::Transcriptions,
            r#"{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":0,"audio_tokens":14},"output_tokens":5}"#,
            0,
        );
        assert_eq!(usage, Some(Usage { audio_prompt_tokens: 14, ..Usage::new(14, 5) }));
    }

    #[test]
    fn a_sound_of_so_many_seconds_costs_by_the_second_begun() {
        let read = |json: &str| Usage::read(Endpoint::Transcriptions, json, 9);
        let expected = Some(Usage { audio_prompt_tokens: 450, ..Usage::new(450, 3) });
        assert_eq!(read(r#"{"type":"duration","seconds":8.2}"#), expected);
        assert_eq!(read(r#"{"duration":"9"}"#), expected);
        for json in [r#"{"seconds":null}"#, r#"{"seconds":"long"}"#, "{}", "7"] {
            assert_eq!(read(json), None, "{json}");
        }
        let endless = read(r#"{"seconds":1e300}"#).unwrap();
        assert_eq!(endless.prompt_tokens, Usage::MAX_COUNT);
        assert_eq!(read(r#"{"seconds":-3}"#).unwrap().prompt_tokens, 0);
    }

    #[test]
    fn what_has_no_completion_may_tell_its_total_alone() {
        let total = r#"{"total_tokens":15}"#;
        assert_eq!(Usage::read(Endpoint::Rerank, total, 0), Some(Usage::new(15, 0)));
        assert_eq!(Usage::read(Endpoint::Embeddings, total, 0), Some(Usage::new(15, 0)));
        assert_eq!(Usage::read(Endpoint::Chat, total, 0).unwrap().prompt_tokens, 0);
    }

    #[test]
    fn rankings_tell_tokens_in_their_meta_too() {
        let read = Usage::from_rerank_meta;
        let both = r#"{"billed_units":{"search_units":1,"input_tokens":9},"tokens":{"input_tokens":12}}"#;
        assert_eq!(read(both), Some(Usage::new(12, 0)));
        assert_eq!(read(r#"{"billed_units":{"total_tokens":7}}"#), Some(Usage::new(7, 0)));
        for json in [r#"{"billed_units":{"search_units":1}}"#, r#"{"tokens":7}"#, "{}", "[]"] {
            assert_eq!(read(json), None, "{json}");
        }
    }

    #[test]
    fn anthropics_counts_add_up_and_only_grow() {
        let mut usage = MessagesUsage::default();
        let start = r#"{"input_tokens":10,"cache_creation_input_tokens":20,"cache_read_input_tokens":30,"output_tokens":1}"#;
        let expected = Usage { cached_tokens: 30, ..Usage::new(60, 1) };
        assert_eq!(usage.take_in(start), Some(expected));
        assert_eq!(usage.take_in("null"), None);
        let end = r#"{"input_tokens":0,"output_tokens":25,"output_tokens_details":{"thinking_tokens":9}}"#;
        let expected = Usage { cached_tokens: 30, reasoning_tokens: 9, ..Usage::new(60, 25) };
        assert_eq!(usage.take_in(end), Some(expected));
    }
}
