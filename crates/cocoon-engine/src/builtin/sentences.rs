//! Cutting a paragraph into sentences.
//!
//! The rules are those of UAX #29, section 5, made simpler: its rule SB8 looks ahead without bound, which hostile
//! text could turn into quadratic time, and it breaks after abbreviations. Here every step is linear.

use super::tokens::is_unspaced;
use unicode_segmentation::UnicodeSegmentation;

/// The widest sentence, in columns: a character counts one, or [`UNSPACED_COLUMNS`] in a script written without
/// spaces. Text that runs on without punctuation is cut at a pause, a space or a word boundary before this width.
pub(super) const MAX_SENTENCE_COLUMNS: usize = 600;

/// Columns of a character of a script written without spaces, which says about as much as three letters.
const UNSPACED_COLUMNS: usize = 3;

/// How far to look past opening quotes and brackets for a letter in lower case.
const MAX_OPENERS: usize = 8;

/// Abbreviations after which a full stop does not end a sentence, in lower case.
const ABBREVIATIONS: [&str; 34] = [
    "mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "vs", "e.g", "i.e", "cf", "no", "fig", "vol", "gen",
    "sen", "rep", "gov", "approx", "dept", "z.b", "u.a", "bzw", "ca", "т.е", "т.д", "т.п", "им", "г", "ул",
    "стр", "см", "руб",
];

/// Cuts `paragraph` (one line) into sentences, without white space around them.
pub(super) fn split(paragraph: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    let mut rest = paragraph.trim();
    while !rest.is_empty() {
        let end = sentence_end(rest);
        // `sentence_end` is at least one character and on a boundary, so this ends.
        let (sentence, tail) = rest.split_at(end);
        sentences.push(sentence.trim());
        rest = tail.trim_start();
    }
    sentences
}

/// Whether `sentence` ends as sentences do: with a terminator, perhaps followed by closing quotes or brackets.
pub(super) fn is_complete(sentence: &str) -> bool {
    let last = sentence.trim_end_matches(is_closer).chars().next_back();
    last.is_some_and(|c| is_narrow_terminator(c) || is_wide_terminator(c))
}

/// Terminators that need no space after them.
pub(super) fn is_wide_terminator(c: char) -> bool {
    matches!(c, '。' | '！' | '？' | '｡' | '．' | '।' | '॥' | '۔' | '։' | '።' | '၊' | '။' | '។' | '៕')
}

fn is_narrow_terminator(c: char) -> bool {
    matches!(c, '.' | '!' | '?' | '…' | '؟' | '‽' | '⁇' | '⁈' | '⁉')
}

fn is_closer(c: char) -> bool {
    matches!(
        c,
        ')' | ']'
            | '}'
            | '"'
            | '\''
            | '”'
            | '’'
            | '»'
            | '›'
            | '」'
            | '』'
            | '）'
            | '】'
            | '》'
            | '〉'
            | '〕'
    )
}

fn is_pause(c: char) -> bool {
    matches!(c, ',' | ';' | ':' | '，' | '、' | '；' | '：' | '،' | '؛')
}

fn columns(c: char) -> usize {
    if is_unspaced(c) { UNSPACED_COLUMNS } else { 1 }
}

/// Where the first sentence of a text that is not empty ends, in bytes.
fn sentence_end(text: &str) -> usize {
    let mut width = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        width += columns(c);
        if width > MAX_SENTENCE_COLUMNS && at > 0 {
            return forced_end(&text[..at]);
        }
        if !is_narrow_terminator(c) && !is_wide_terminator(c) {
            continue;
        }
        let mut wide = is_wide_terminator(c);
        let mut end = at + c.len_utf8();
        while let Some(&(next_at, next)) = chars.peek() {
            if !(is_closer(next) || is_narrow_terminator(next) || is_wide_terminator(next)) {
                break;
            }
            width += columns(next);
            if width > MAX_SENTENCE_COLUMNS {
                break;
            }
            wide |= is_wide_terminator(next);
            end = next_at + next.len_utf8();
            chars.next();
        }
        if ends_here(text, at, end, c, wide) {
            return end;
        }
    }
    text.len()
}

/// Whether the terminator `c` at `at`, whose closers reach to `end`, ends a sentence.
fn ends_here(text: &str, at: usize, end: usize, c: char, wide: bool) -> bool {
    let after = &text[end..];
    if after.is_empty() || wide {
        return true;
    }
    if !after.starts_with(char::is_whitespace) {
        return false;
    }
    let mut ahead = after.trim_start().chars().take(MAX_OPENERS);
    if ahead.find(|c| !is_opener(*c)).is_some_and(char::is_lowercase) {
        return false;
    }
    c != '.' || !is_abbreviation(&text[..at])
}

fn is_opener(c: char) -> bool {
    matches!(c, '(' | '[' | '"' | '\'' | '“' | '‘' | '«' | '‹' | '¿' | '¡' | '—' | '–' | '-')
}

/// Whether the text before a full stop ends with an abbreviation or an initial.
fn is_abbreviation(before: &str) -> bool {
    // Only the end is looked at: the longest abbreviation is far shorter than this.
    let tail: Vec<char> =
        before.chars().rev().take(12).take_while(|c| c.is_alphanumeric() || *c == '.').collect();
    let word: String = tail.iter().rev().flat_map(|c| c.to_lowercase()).collect();
    let initial = tail.len() == 1 && tail.iter().all(|c| c.is_uppercase());
    initial || ABBREVIATIONS.contains(&word.as_str())
}

/// Where to cut a text that is too wide and has no end: after the last pause or at the last space of its second
/// half, else at its last word boundary, else at its end.
fn forced_end(text: &str) -> usize {
    let half = text.len() / 2;
    let after_pause = text.char_indices().rev().find(|(_, c)| is_pause(*c)).map(|(at, c)| at + c.len_utf8());
    let at_space = text.char_indices().rev().find(|(_, c)| c.is_whitespace()).map(|(at, _)| at);
    let at_word = text.split_word_bound_indices().next_back().map(|(at, _)| at);
    let late = |end: &usize| *end > half;
    let end = after_pause.filter(late).or(at_space.filter(late)).or(at_word.filter(late));
    end.unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn terminators_end_sentences_in_every_script() {
        assert_eq!(split("One here. Two there! Three?"), ["One here.", "Two there!", "Three?"]);
        assert_eq!(
            split("今天下雨。明天呢？「不会。」他说。"),
            ["今天下雨。", "明天呢？", "「不会。」", "他说。"]
        );
        assert_eq!(split("Он пришёл. «Где все?» Тишина…"), ["Он пришёл.", "«Где все?»", "Тишина…"]);
        assert_eq!(split("ما هذا؟ هذا كتاب."), ["ما هذا؟", "هذا كتاب."]);
        assert_eq!(split("यह एक है। यह दो है।"), ["यह एक है।", "यह दो है।"]);
    }

    #[test]
    fn abbreviations_numbers_and_lower_case_do_not_end_a_sentence() {
        assert_eq!(split("Dr. Smith paid 3.5 coins, e.g. Two."), ["Dr. Smith paid 3.5 coins, e.g. Two."]);
        assert_eq!(split("J. Doe wrote v1.2. It ran."), ["J. Doe wrote v1.2.", "It ran."]);
        assert_eq!(split("\"Stop!\" he said. She did."), ["\"Stop!\" he said.", "She did."]);
    }

    #[test]
    fn text_that_runs_on_is_cut_at_spaces() {
        let text = "word ".repeat(1000);
        let sentences = split(&text);
        assert!(sentences.len() > 5, "{} sentences", sentences.len());
        assert!(sentences.iter().all(|s| s.len() <= MAX_SENTENCE_COLUMNS && s.ends_with("word")));
    }

    proptest! {
        #[test]
        fn nothing_but_white_space_is_lost(text in "(\\PC|[.!?。] |[)\"]){0,900}") {
            let sentences = split(&text);
            let bare = |s: &str| s.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(bare(&sentences.concat()), bare(&text));
            for sentence in sentences {
                prop_assert!(!sentence.is_empty());
                prop_assert!(sentence.chars().map(columns).sum::<usize>() <= MAX_SENTENCE_COLUMNS + UNSPACED_COLUMNS);
            }
        }
    }
}
