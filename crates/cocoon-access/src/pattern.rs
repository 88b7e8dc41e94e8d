//! Which models a key is for.

use std::fmt;
use std::str::FromStr;

/// Longest pattern, in bytes.
const MAX_BYTES: usize = 256;
/// Most stars in one.
const MAX_STARS: usize = 8;

/// A model's exact name, or a pattern in which each `*` stands for any text: `Qwen/*`, `*-8B`, `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPattern(String);

/// A text that is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a model is named exactly or with up to {MAX_STARS} `*`, in 1 to {MAX_BYTES} bytes without spaces")]
pub struct BadPattern;

impl ModelPattern {
    /// Every model.
    #[must_use]
    pub fn any() -> Self {
        Self("*".to_owned())
    }

    /// Whether a model's name fits.
    #[must_use]
    pub fn fits(&self, model: &str) -> bool {
        let mut parts = self.0.split('*');
        // `split` gives at least one part.
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = model.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        // The leftmost place for each part leaves most room for those after it.
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelPattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        let good = !text.is_empty()
            && text.len() <= MAX_BYTES
            && text.matches('*').count() <= MAX_STARS
            && !text.chars().any(|c| c.is_whitespace() || c.is_control());
        if good { Ok(Self(text.to_owned())) } else { Err(BadPattern) }
    }
}

impl fmt::Display for ModelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for ModelPattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for ModelPattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_fit_exactly_and_stars_stand_for_anything() {
        for (pattern, fitting, other) in [
            ("Qwen/Qwen3-8B", &["Qwen/Qwen3-8B"][..], &["Qwen/Qwen3-8B-x", "qwen/qwen3-8b", ""][..]),
            ("*", &["", "a", "a/b"], &[]),
            ("Qwen/*", &["Qwen/", "Qwen/a"], &["qwen/a", "x/Qwen/a"]),
            ("*-8B", &["Qwen3-8B", "-8B"], &["8B", "Qwen3-8B-chat"]),
            ("a*b*c", &["abc", "axxbyyc", "abbc", "abcc"], &["ab", "ac", "abcx", "acb"]),
            ("a**b", &["ab", "axb"], &["a"]),
            ("aba*aba", &["abaaba", "aba-aba"], &["aba", "ababa"]),
        ] {
            let pattern: ModelPattern = pattern.parse().unwrap();
            fitting.iter().for_each(|model| assert!(pattern.fits(model), "{pattern} {model}"));
            other.iter().for_each(|model| assert!(!pattern.fits(model), "{pattern} {model}"));
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "a b", "a\n", &"x".repeat(257), &"*".repeat(9)] {
            assert_eq!(text.parse::<ModelPattern>(), Err(BadPattern));
        }
    }

    /// The definition, word by word.
    fn plainly(pattern: &[char], model: &[char]) -> bool {
        match pattern.split_first() {
            None => model.is_empty(),
            Some(('*', rest)) => (0..=model.len()).any(|taken| plainly(rest, &model[taken..])),
            Some((first, rest)) => model.split_first().is_some_and(|(c, m)| c == first && plainly(rest, m)),
        }
    }

    proptest! {
        #[test]
        fn fitting_is_what_its_definition_says(pattern in "[ab*é]{1,8}", model in "[abé]{0,10}") {
            let written: Vec<char> = pattern.chars().collect();
            let name: Vec<char> = model.chars().collect();
            prop_assume!(pattern.matches('*').count() <= 8);
            prop_assert_eq!(pattern.parse::<ModelPattern>().unwrap().fits(&model), plainly(&written, &name));
        }
    }
}
