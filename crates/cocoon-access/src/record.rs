//! A key as it is kept, and what its owner may set.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Budget, KeyHash, ModelPattern, Moment};

/// Longest name, in characters.
const MAX_NAME: usize = 64;
/// Most patterns of models in one key.
const MAX_MODELS: usize = 64;
/// The highest rate that makes sense.
const MAX_RATE: u64 = 1_000_000_000_000;

/// The endpoint that a key must name to read a gateway's `/metrics` and `/jsonstats`.
pub const METRICS: &str = "metrics";

/// What a key can be limited to.
pub const ENDPOINTS: [&str; 18] = [
    "chat",
    "completions",
    "responses",
    "messages",
    "embeddings",
    "rerank",
    "transcriptions",
    "translations",
    "speech",
    "image_generations",
    "image_edits",
    "image_variations",
    "moderations",
    "tokenize",
    "detokenize",
    "count_tokens",
    "input_tokens",
    METRICS,
];

/// Whether there is an endpoint of this name.
#[must_use]
pub fn is_endpoint(name: &str) -> bool {
    ENDPOINTS.contains(&name)
}

/// Names a key for ever, also after its secret was replaced. Written `key_` and 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 8]);

impl KeyId {
    /// Stands for callers without a key, where none is needed. Written `none`.
    pub const NONE: Self = Self([0; 8]);

    /// The id of these random bits.
    #[must_use]
    pub fn from_random(bits: [u8; 8]) -> Self {
        // Only all zeros stand for something else.
        if bits == [0; 8] { Self([0xff; 8]) } else { Self(bits) }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NONE { f.write_str("none") } else { write!(f, "key_{}", hex::encode(self.0)) }
    }
}

impl FromStr for KeyId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "none" {
            return Ok(Self::NONE);
        }
        let mut bits = [0; 8];
        hex::decode_to_slice(text.strip_prefix("key_").ok_or(())?, &mut bits).map_err(drop)?;
        let id = Self(bits);
        if id.to_string() == text { Ok(id) } else { Err(()) }
    }
}

impl Serialize for KeyId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(|()| serde::de::Error::custom("no key's id"))
    }
}

/// What is set for a key. No limit where none is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySettings {
    /// What people call it: 1 to 64 characters.
    pub name: String,
    /// From when on it is refused, in seconds since 1970.
    #[serde(default, rename = "expires_unix_seconds")]
    pub expires: Option<u64>,
    /// Whether it is refused for now.
    #[serde(default)]
    pub disabled: bool,
    /// The models that it is for.
    #[serde(default = "any_model")]
    pub models: Vec<ModelPattern>,
    /// The endpoints that it is for, of [`ENDPOINTS`]; none stands for all but [`METRICS`].
    #[serde(default)]
    pub endpoints: Vec<String>,
    /// What it may spend in all, in nanoton.
    #[serde(default)]
    pub budget_nanoton: Option<u64>,
    /// What it may spend on a UTC day, in nanoton.
    #[serde(default)]
    pub budget_per_day_nanoton: Option<u64>,
    /// Requests in a minute.
    #[serde(default)]
    pub requests_per_minute: Option<u64>,
    /// Tokens in a minute, as engines count them: prompts and answers.
    #[serde(default)]
    pub tokens_per_minute: Option<u64>,
    /// Requests at the same time.
    #[serde(default)]
    pub concurrent_requests: Option<u64>,
}

fn any_model() -> Vec<ModelPattern> {
    vec![ModelPattern::any()]
}

/// Settings that make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The name.
    #[error(
        "a key's name has 1 to {MAX_NAME} characters, none of them a control character, and no spaces at its ends"
    )]
    Name,
    /// The name could be taken for an id.
    #[error("a name that looks like an id (key_...) could be taken for one; choose another")]
    NameIsId,
    /// No models, or too many.
    #[error("a key is for 1 to {MAX_MODELS} models or patterns; `*` is for all")]
    Models,
    /// An endpoint that is none.
    #[error("there is no endpoint '{0}'; there are {all}", all = ENDPOINTS.join(", "))]
    Endpoint(String),
    /// A limit of nothing.
    #[error("{0} must be 1 to {MAX_RATE}; a key that may do nothing is one that is disabled")]
    Limit(&'static str),
}

impl KeySettings {
    /// A key without limits.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            expires: None,
            disabled: false,
            models: any_model(),
            endpoints: Vec::new(),
            budget_nanoton: None,
            budget_per_day_nanoton: None,
            requests_per_minute: None,
            tokens_per_minute: None,
            concurrent_requests: None,
        }
    }

    /// Says what makes no sense.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn check(&self) -> Result<(), SettingsError> {
        let length = self.name.chars().count();
        if length == 0
            || length > MAX_NAME
            || self.name.trim() != self.name
            || self.name.chars().any(char::is_control)
        {
            return Err(SettingsError::Name);
        }
        if self.name.starts_with("key_") || self.name == "none" {
            return Err(SettingsError::NameIsId);
        }
        if self.models.is_empty() || self.models.len() > MAX_MODELS {
            return Err(SettingsError::Models);
        }
        if let Some(unknown) = self.endpoints.iter().find(|name| !is_endpoint(name)) {
            return Err(SettingsError::Endpoint(unknown.chars().take(MAX_NAME).collect()));
        }
        for (name, limit) in [
            ("requests_per_minute", self.requests_per_minute),
            ("tokens_per_minute", self.tokens_per_minute),
            ("concurrent_requests", self.concurrent_requests),
        ] {
            if limit.is_some_and(|limit| limit == 0 || limit > MAX_RATE) {
                return Err(SettingsError::Limit(name));
            }
        }
        Ok(())
    }

    /// Whether it may be used for a model, by its full name or the name before `@`.
    #[must_use]
    pub fn covers_model(&self, model: &str) -> bool {
        let base = model.split('@').next().unwrap_or_default();
        self.models.iter().any(|pattern| pattern.fits(base) || pattern.fits(model))
    }

    /// Whether it may be used at an endpoint.
    #[must_use]
    pub fn covers_endpoint(&self, endpoint: &str) -> bool {
        if self.endpoints.is_empty() {
            return endpoint != METRICS;
        }
        self.endpoints.iter().any(|name| name == endpoint)
    }

    /// What it may spend.
    #[must_use]
    pub fn budget(&self) -> Budget {
        Budget { total: self.budget_nanoton, per_day: self.budget_per_day_nanoton }
    }
}

/// The hash of a secret that was replaced, and until when it is still good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Previous {
    pub(crate) hash: String,
    pub(crate) until_unix_seconds: u64,
}

/// A key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Names it for ever.
    pub id: KeyId,
    /// The first digits of its secret.
    pub hint: String,
    /// When it was made, in seconds since 1970.
    #[serde(rename = "created_unix_seconds")]
    pub created: u64,
    /// When it was revoked; it never comes back.
    #[serde(rename = "revoked_unix_seconds")]
    pub revoked: Option<u64>,
    /// What is set for it.
    pub settings: KeySettings,
    /// Hash of its secret, hexadecimal; gone once it is revoked.
    pub(crate) hash: Option<String>,
    /// The secret before.
    pub(crate) previous: Option<Previous>,
}

impl KeyRecord {
    /// Whether it can be used now, in one word: `active`, `disabled`, `expired` or `revoked`.
    #[must_use]
    pub fn state(&self, now: Moment) -> &'static str {
        if self.revoked.is_some() {
            "revoked"
        } else if self.settings.disabled {
            "disabled"
        } else if self.settings.expires.is_some_and(|end| end <= now.seconds()) {
            "expired"
        } else {
            "active"
        }
    }

    /// The hashes by which it is found.
    pub(crate) fn hashes(&self) -> impl Iterator<Item = KeyHash> {
        let previous = self.previous.as_ref().map(|previous| &previous.hash);
        self.hash.iter().chain(previous).filter_map(|digits| KeyHash::from_hex(digits))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_id_has_one_form() {
        let id = KeyId::from_random([0xab; 8]);
        assert_eq!(id.to_string(), "key_abababababababab");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("none".parse(), Ok(KeyId::NONE));
        assert_ne!(KeyId::from_random([0; 8]), KeyId::NONE);
        for text in ["", "key_", "key_ABABABABABABABAB", "key_0000000000000000", "abababababababab"] {
            assert_eq!(text.parse::<KeyId>(), Err(()), "{text}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let good = KeySettings::named("team");
        assert_eq!(good.check(), Ok(()));
        let refused = |change: fn(&mut KeySettings)| {
            let mut settings = good.clone();
            change(&mut settings);
            settings.check().unwrap_err()
        };
        assert_eq!(refused(|it| it.name.clear()), SettingsError::Name);
        assert_eq!(refused(|it| it.name = " team".into()), SettingsError::Name);
        assert_eq!(refused(|it| it.name = "a\u{1b}[2J".into()), SettingsError::Name);
        assert_eq!(refused(|it| it.name = "x".repeat(65)), SettingsError::Name);
        assert_eq!(refused(|it| it.name = "key_1".into()), SettingsError::NameIsId);
        assert_eq!(refused(|it| it.models.clear()), SettingsError::Models);
        assert!(refused(|it| it.endpoints.push("chats".into())).to_string().contains("chat, completions"));
        assert_eq!(
            refused(|it| it.requests_per_minute = Some(0)),
            SettingsError::Limit("requests_per_minute")
        );
        assert_eq!(
            refused(|it| it.concurrent_requests = Some(0)),
            SettingsError::Limit("concurrent_requests")
        );
    }

    #[test]
    fn a_key_covers_the_models_and_endpoints_that_it_names() {
        let mut settings = KeySettings::named("team");
        assert!(settings.covers_model("any@c:h") && settings.covers_endpoint("chat"));
        assert!(!settings.covers_endpoint(METRICS), "an operator's page is opened on purpose");
        settings.models = vec!["Qwen/*".parse().unwrap(), "a/b@c:h".parse().unwrap()];
        settings.endpoints = vec![METRICS.to_owned()];
        assert!(settings.covers_model("Qwen/Qwen3-8B@c:h") && settings.covers_model("a/b@c:h"));
        assert!(!settings.covers_model("a/b") && !settings.covers_model("a/b@c:i"));
        assert!(settings.covers_endpoint(METRICS) && !settings.covers_endpoint("chat"));
    }

    #[test]
    fn a_misspelt_setting_is_an_error_and_not_a_key_without_that_limit() {
        let text = r#"{"name":"a","budget_nanotons":5}"#;
        assert!(
            serde_json::from_str::<KeySettings>(text).unwrap_err().to_string().contains("budget_nanotons")
        );
        let read: KeySettings = serde_json::from_str(r#"{"name":"a"}"#).unwrap();
        assert_eq!(read, KeySettings::named("a"));
    }
}
