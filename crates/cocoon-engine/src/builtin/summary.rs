//! From a text to its summary: find the prose, cut it into sentences, rank them, choose, and put the chosen ones
//! back in the order of the text.

use super::lexrank::Graph;
use super::prose::{self, Paragraph};
use super::sentences;
use super::tokens::{self, count_tokens};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

/// The most sentences that are compared with each other. A text with more is sampled at even distances, so that time
/// and memory (8 bytes for each pair) are bounded whatever the length of the text.
pub const MAX_COMPARED_SENTENCES: usize = 800;

/// The longest summary that can be asked for, in sentences.
pub const MAX_SUMMARY_SENTENCES: usize = 50;

/// Sentences with less than this are greetings and crumbs: letters and digits, three for each character of a script
/// written without spaces.
const MIN_LETTERS: usize = 12;

/// What the rank of a sentence is worth that does not end as sentences do: a list item, a caption, a leftover.
const FRAGMENT_WORTH: f64 = 0.6;

/// How much more the first sentence is worth than the last, other things being equal: writers put first what matters.
const LEAD_WORTH: f64 = 0.3;

/// Nobody waits for the summary any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cancelled;

/// How long the summary shall be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Length {
    /// Sentences asked for; where none, by the length of the text.
    pub(super) sentences: Option<usize>,
    /// Where no sentences are asked for: the tokens that all chosen sentences but the first must fit in.
    pub(super) tokens: Option<usize>,
}

#[derive(Clone, Copy)]
struct Candidate<'a> {
    text: &'a str,
    own_line: bool,
}

/// The summary of `text`; empty where the text has no words.
pub(super) fn summarise(text: &str, length: Length, cancel: &AtomicBool) -> Result<String, Cancelled> {
    if cancel.load(Ordering::Relaxed) {
        return Err(Cancelled);
    }
    let paragraphs = prose::paragraphs(text);
    if cancel.load(Ordering::Relaxed) {
        return Err(Cancelled);
    }
    Ok(join(&chosen(&paragraphs, length, cancel)?))
}

/// The sentences of the summary, in the order of the text.
fn chosen<'a>(
    paragraphs: &'a [Paragraph],
    length: Length,
    cancel: &AtomicBool,
) -> Result<Vec<Candidate<'a>>, Cancelled> {
    let candidates = candidates(paragraphs);
    let texts: Vec<&str> = candidates.iter().map(|candidate| candidate.text).collect();
    let graph = Graph::new(&texts, cancel)?;
    let mut scores = graph.ranks();
    let step = LEAD_WORTH / texts.len().max(1) as f64;
    for (at, (score, text)) in scores.iter_mut().zip(&texts).enumerate() {
        *score *= 1.0 + LEAD_WORTH - step * at as f64;
        if !sentences::is_complete(text) {
            *score *= FRAGMENT_WORTH;
        }
    }
    let count =
        length.sentences.unwrap_or_else(|| default_sentences(texts.len())).clamp(1, MAX_SUMMARY_SENTENCES);
    let mut chosen = graph.choose(&scores, count);
    if let (None, Some(tokens)) = (length.sentences, length.tokens) {
        chosen.truncate(fitting(&chosen, &texts, tokens));
    }
    chosen.sort_unstable();
    Ok(chosen.iter().filter_map(|at| candidates.get(*at).copied()).collect())
}

/// Three to five sentences, but no more than half of a short text.
fn default_sentences(available: usize) -> usize {
    let usual = match available {
        0..=15 => 3,
        16..=40 => 4,
        _ => 5,
    };
    usual.min(available.div_ceil(2))
}

/// How many of the chosen sentences fit in `tokens`, one at least.
fn fitting(chosen: &[usize], texts: &[&str], tokens: usize) -> usize {
    let mut used = 0;
    let fits = chosen.iter().take_while(|at| {
        used += count_tokens(texts[**at]);
        used <= tokens
    });
    fits.count().max(1)
}

/// The sentences to choose from: different ones, with something to say, and not more than can be compared.
fn candidates(paragraphs: &[Paragraph]) -> Vec<Candidate<'_>> {
    let mut seen = HashSet::new();
    let all: Vec<Candidate<'_>> = paragraphs
        .iter()
        .flat_map(|paragraph| {
            let own_line = paragraph.own_line;
            sentences::split(&paragraph.text).into_iter().map(move |text| Candidate { text, own_line })
        })
        .filter(|candidate| candidate.text.chars().any(char::is_alphanumeric) && seen.insert(candidate.text))
        .collect();
    let telling: Vec<Candidate<'_>> =
        all.iter().copied().filter(|candidate| is_telling(candidate.text)).collect();
    sample(if telling.is_empty() { all } else { telling })
}

/// Whether a sentence can stand for the text: not a crumb, and not only an introduction to what follows.
fn is_telling(sentence: &str) -> bool {
    let mut letters = 0;
    let enough = sentence.chars().filter(|c| c.is_alphanumeric()).any(|c| {
        letters += if tokens::is_unspaced(c) { 3 } else { 1 };
        letters >= MIN_LETTERS
    });
    enough && !sentence.ends_with([':', '：'])
}

fn sample(all: Vec<Candidate<'_>>) -> Vec<Candidate<'_>> {
    if all.len() <= MAX_COMPARED_SENTENCES {
        return all;
    }
    (0..MAX_COMPARED_SENTENCES)
        .filter_map(|at| all.get(at * all.len() / MAX_COMPARED_SENTENCES).copied())
        .collect()
}

fn join(chosen: &[Candidate<'_>]) -> String {
    let mut summary = String::new();
    let mut last: Option<&Candidate<'_>> = None;
    for candidate in chosen {
        if let Some(last) = last {
            if last.own_line || candidate.own_line || !sentences::is_complete(last.text) {
                summary.push('\n');
            } else if !last.text.ends_with(tokens::is_east_asian) {
                summary.push(' ');
            }
        }
        summary.push_str(candidate.text);
        last = Some(candidate);
    }
    summary
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn summary_of(text: &str, sentences: Option<usize>) -> String {
        summarise(text, Length { sentences, tokens: None }, &AtomicBool::new(false)).unwrap()
    }

    #[test]
    fn the_key_sentence_of_an_article_is_in_its_summary() {
        let samples = [
            (
                include_str!("samples/bridge.en.txt"),
                "The city council voted on Tuesday to rebuild the old bridge",
            ),
            (include_str!("samples/library.ru.txt"), "Городская библиотека объявила, что с первого сентября"),
            (include_str!("samples/river.zh.txt"), "市政府星期一宣布"),
        ];
        for (text, key) in samples {
            let summary = summary_of(text, None);
            assert!(summary.contains(key), "expected «{key}» in:\n{summary}");
            assert!(summary.chars().count() * 2 < text.chars().count(), "not shorter than half:\n{summary}");
        }
    }

    #[test]
    fn small_texts_are_their_own_summaries() {
        assert_eq!(summary_of("", None), "");
        assert_eq!(summary_of(" \n* * *\n", None), "");
        assert_eq!(summary_of("Only one sentence here.", None), "Only one sentence here.");
        assert_eq!(summary_of("Hi.", None), "Hi.");
        assert_eq!(summary_of("word", Some(9)), "word");
    }

    #[test]
    fn as_many_sentences_come_as_were_asked_for() {
        let text = include_str!("samples/bridge.en.txt");
        for count in 1..=6 {
            let summary = summary_of(text, Some(count));
            assert_eq!(sentences::split(&summary.replace('\n', " ")).len(), count, "{summary}");
        }
    }

    #[test]
    fn fewer_sentences_come_where_tokens_are_short() {
        let text = include_str!("samples/bridge.en.txt");
        let length = Length { sentences: None, tokens: Some(60) };
        let summary = summarise(text, length, &AtomicBool::new(false)).unwrap();
        assert!(count_tokens(&summary) <= 60 && sentences::is_complete(&summary), "{summary}");
    }

    #[test]
    fn a_cancelled_summary_stops() {
        assert_eq!(summarise("Text.", Length::default(), &AtomicBool::new(true)), Err(Cancelled));
    }

    #[test]
    fn long_and_hostile_texts_end_soon() {
        let million = 1 << 20;
        let texts = [
            "no punctuation at all just words ".repeat(million / 32),
            "x".repeat(million),
            "字".repeat(million / 3),
            "ไม่มีช่องว่าง".repeat(million / 36),
            include_str!("samples/bridge.en.txt").repeat(5 * million / 2600),
            "One fresh sentence number is here. ".repeat(10)
                + &(0..60_000).map(|n| format!("Word{n} is rare and odd{n} today. ")).collect::<String>(),
            "![[](".repeat(million / 5),
            ". (".repeat(million / 3),
            ")".repeat(million),
            "a.)".repeat(million / 3),
            "<a ".repeat(million / 3),
            "&`*_".repeat(million / 4),
            "\u{301}".repeat(million / 2),
            "🇦".repeat(million / 4),
            "a'\u{301}".repeat(million / 4),
            "A: b\n".repeat(million / 5),
        ];
        for text in texts {
            let begun = std::time::Instant::now();
            let _ = count_tokens(&text);
            let summary = summary_of(&text, None);
            let start: String = text.chars().take(20).collect();
            assert!(begun.elapsed().as_secs() < 20, "{:?} for {start:?}", begun.elapsed());
            assert!(summary.len() < 20_000, "{} bytes for {start:?}", summary.len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_sentence_of_a_summary_is_in_the_cleaned_text(
            words in proptest::collection::vec("([a-zA-Zа-яА-Я]{1,8}|[你好世界和平]{1,5}|[.!?。,:#>*|-]|\n|\n\n|\\PC{1,3})", 0..300),
            count in 1_usize..6,
        ) {
            let text = words.join(" ");
            let summary = summary_of(&text, Some(count));
            prop_assert_eq!(&summary, &summary_of(&text, Some(count)));
            let paragraphs = prose::paragraphs(&text);
            let length = Length { sentences: Some(count), tokens: None };
            let chosen = chosen(&paragraphs, length, &AtomicBool::new(false)).unwrap();
            prop_assert!(chosen.len() <= count);
            let mut all = paragraphs.iter().flat_map(|paragraph| sentences::split(&paragraph.text));
            for sentence in chosen {
                prop_assert!(all.any(|other| other == sentence.text), "not there, or out of order: {}", sentence.text);
                prop_assert!(summary.contains(sentence.text));
            }
        }
    }
}
