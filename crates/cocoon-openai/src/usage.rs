//! Token usage as engines report it, read leniently: a strange number becomes a harmless one, never an error.

use crate::object::RawObject;

/// Tokens of one answer. Every count lies in `0..=`[`Usage::MAX_COUNT`], `cached_tokens <= prompt_tokens`, and
/// `reasoning_tokens <= completion_tokens`.
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

    /// Reads a `usage` object; `None` where `json` is not an object (`null`, for one).
    ///
    /// Understood spellings: `prompt_tokens`, `completion_tokens`, `total_tokens`,
    /// `prompt_tokens_details.cached_tokens`, `completion_tokens_details.reasoning_tokens` (OpenAI, vLLM, SGLang,
    /// llama.cpp, Ollama); `input_tokens`, `output_tokens` and their details (OpenAI Responses);
    /// `prompt_cache_hit_tokens` (DeepSeek); `cached_tokens` and `reasoning_tokens` directly in `usage`.
    #[must_use]
    pub fn from_json(json: &str) -> Option<Self> {
        let object = RawObject::parse(json.as_bytes()).ok()?;
        let count = |keys: &[&str]| keys.iter().find_map(|key| read_count(object.get(key)?)).unwrap_or(0);
        let nested = |outer: &[&str], inner: &str| {
            outer.iter().find_map(|key| {
                let details = RawObject::parse(object.get_set(key)?.as_bytes()).ok()?;
                read_count(details.get(inner)?)
            })
        };
        let cached = nested(&["prompt_tokens_details", "input_tokens_details"], "cached_tokens");
        let reasoning = nested(&["completion_tokens_details", "output_tokens_details"], "reasoning_tokens");
        let usage = Self {
            prompt_tokens: count(&["prompt_tokens", "input_tokens"]),
            completion_tokens: count(&["completion_tokens", "output_tokens"]),
            total_tokens: count(&["total_tokens"]),
            cached_tokens: cached.unwrap_or_else(|| count(&["prompt_cache_hit_tokens", "cached_tokens"])),
            reasoning_tokens: reasoning.unwrap_or_else(|| count(&["reasoning_tokens"])),
        };
        Some(usage.clamped())
    }

    fn clamped(self) -> Self {
        let within = |count: i64| count.clamp(0, Self::MAX_COUNT);
        let (prompt_tokens, completion_tokens) = (within(self.prompt_tokens), within(self.completion_tokens));
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: within(self.total_tokens).max(prompt_tokens + completion_tokens),
            cached_tokens: within(self.cached_tokens).min(prompt_tokens),
            reasoning_tokens: within(self.reasoning_tokens).min(completion_tokens),
        }
    }
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
}
