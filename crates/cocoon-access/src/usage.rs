//! What was used: requests, tokens and coins, by key, model, endpoint and day.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Pairs of model and endpoint that are counted apart for one key on one day.
pub const MAX_ROWS: usize = 256;
/// The model's name in the row for all that come on top of these.
pub const OTHER_MODELS: &str = "(others)";
/// Longest model's name that is kept, in bytes.
const MAX_MODEL_BYTES: usize = 256;

/// Sums over requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Requests, refused ones too.
    pub requests: u64,
    /// Those of them that ended with an error, or broke off.
    pub errors: u64,
    /// Tokens of prompts, cached ones too.
    pub prompt_tokens: u64,
    /// Those of them that were cached.
    pub cached_tokens: u64,
    /// Tokens of answers, reasoning too.
    pub completion_tokens: u64,
    /// Those of them that were reasoning.
    pub reasoning_tokens: u64,
    /// Those of all that were audio.
    pub audio_tokens: u64,
    /// Cost in nanoton.
    pub cost_nanoton: u64,
}

impl Counts {
    /// Adds to these; saturates.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.requests, other.requests),
            (&mut self.errors, other.errors),
            (&mut self.prompt_tokens, other.prompt_tokens),
            (&mut self.cached_tokens, other.cached_tokens),
            (&mut self.completion_tokens, other.completion_tokens),
            (&mut self.reasoning_tokens, other.reasoning_tokens),
            (&mut self.audio_tokens, other.audio_tokens),
            (&mut self.cost_nanoton, other.cost_nanoton),
        ] {
            *sum = sum.saturating_add(more);
        }
    }

    /// Prompt and answer, as a limit per minute counts them.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// One line of a day's usage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// The model, as it was asked for, without what follows `@`; empty where a request named none.
    pub model: String,
    /// The endpoint's name.
    pub endpoint: String,
    /// The sums.
    #[serde(flatten)]
    pub counts: Counts,
}

/// One key's usage of one day.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DayUsage(BTreeMap<(String, String), Counts>);

impl DayUsage {
    /// Adds to the line of this model and endpoint.
    pub fn add(&mut self, model: &str, endpoint: &str, counts: &Counts) {
        self.line(model, endpoint).add(counts);
    }

    /// A cost that was added turned out to be another one.
    pub fn correct_cost(&mut self, model: &str, endpoint: &str, from: u64, to: u64) {
        let counts = self.line(model, endpoint);
        counts.cost_nanoton = counts.cost_nanoton.saturating_sub(from).saturating_add(to);
    }

    fn line(&mut self, model: &str, endpoint: &str) -> &mut Counts {
        let mut end = model.len().min(MAX_MODEL_BYTES);
        while !model.is_char_boundary(end) {
            end -= 1;
        }
        let mut row = (model[..end].to_owned(), endpoint.to_owned());
        if self.0.len() >= MAX_ROWS && !self.0.contains_key(&row) {
            OTHER_MODELS.clone_into(&mut row.0);
        }
        self.0.entry(row).or_default()
    }

    /// All lines.
    #[must_use]
    pub fn rows(&self) -> Vec<UsageRow> {
        let row = |((model, endpoint), counts): (&(String, String), &Counts)| UsageRow {
            model: model.clone(),
            endpoint: endpoint.clone(),
            counts: *counts,
        };
        self.0.iter().map(row).collect()
    }

    /// As stored.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and numbers only: serialising them cannot fail.
        serde_json::to_vec(&self.rows()).unwrap_or_default()
    }

    /// From what was stored.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let rows: Vec<UsageRow> = serde_json::from_slice(bytes)?;
        Ok(Self(rows.into_iter().map(|row| ((row.model, row.endpoint), row.counts)).collect()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ONE: Counts = Counts {
        requests: 1,
        errors: 0,
        prompt_tokens: 10,
        cached_tokens: 2,
        completion_tokens: 5,
        reasoning_tokens: 1,
        audio_tokens: 0,
        cost_nanoton: 30,
    };

    #[test]
    fn a_day_adds_up_by_model_and_endpoint_and_reads_back() {
        let mut day = DayUsage::default();
        day.add("m", "chat", &ONE);
        day.add("m", "chat", &ONE);
        day.add("m", "embeddings", &ONE);
        let rows = day.rows();
        assert_eq!(rows.len(), 2);
        assert_eq!(
            (rows[0].counts.requests, rows[0].counts.cost_nanoton, rows[0].counts.tokens()),
            (2, 60, 30)
        );
        assert_eq!(DayUsage::from_json(&day.to_json()).unwrap(), day);
        assert!(DayUsage::from_json(b"{}").is_err());
        let mut full = Counts { cost_nanoton: u64::MAX, ..Counts::default() };
        full.add(&ONE);
        assert_eq!(full.cost_nanoton, u64::MAX);
    }

    #[test]
    fn a_cost_is_corrected_in_the_line_that_it_was_added_to() {
        let mut day = DayUsage::default();
        for number in 0..=MAX_ROWS {
            let name = format!("{number}{}", "x".repeat(1000));
            day.add(&name, "chat", &ONE);
            day.correct_cost(&name, "chat", 30, 10);
        }
        assert!(day.rows().iter().all(|row| row.counts.cost_nanoton == 10), "{day:?}");
    }

    #[test]
    fn a_day_stays_small_whatever_callers_name() {
        let mut day = DayUsage::default();
        for number in 0..10 * MAX_ROWS {
            day.add(&format!("{number}{}", "ж".repeat(1000)), "chat", &ONE);
        }
        let rows = day.rows();
        assert_eq!(rows.len(), MAX_ROWS + 1);
        assert_eq!(rows.iter().map(|row| row.counts.requests).sum::<u64>(), 10 * MAX_ROWS as u64);
        assert!(rows.iter().any(|row| row.model == OTHER_MODELS));
        assert!(day.to_json().len() < 256 * 1024, "it fits into an entry of the store");
    }
}
