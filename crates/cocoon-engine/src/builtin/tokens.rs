//! What this engine calls a token, and what it calls a term.
//!
//! # The token rule
//! Text is cut at the word boundaries of UAX #29 (Unicode Text Segmentation, section 4). Then
//! - a piece of white space only is free;
//! - a piece with a letter of a script that is written without spaces (Han, kana, Thai, Lao, Khmer, Myanmar, ...)
//!   counts one token for each of its extended grapheme clusters (UAX #29, section 3);
//! - any other piece, punctuation included, counts one token, or one for each begun [`MAX_TOKEN_CHARS`] characters
//!   where it is longer, so that no input is free and no token is large.
//!
//! Line feeds are always boundaries, so the count is additive over lines: `count(a + "\n" + b) == count(a) + count(b)`.

use unicode_segmentation::UnicodeSegmentation;

/// The most characters (Unicode scalar values) in one token, apart from white space before it.
pub const MAX_TOKEN_CHARS: usize = 32;

/// How many leading characters of a word tell it from others when sentences are compared. A stemmer for every
/// language at once: inflection is mostly at the end, and truncation serves retrieval about as well as stemming
/// (McNamee and Mayfield, "Character N-Gram Tokenization for European Language Text Retrieval", 2004).
const TERM_CHARS: usize = 6;

/// Counts the tokens of `text` by the rule in the module's documentation.
#[must_use]
pub fn count_tokens(text: &str) -> usize {
    let mut count = 0;
    each_token(text, |_| count += 1);
    count
}

/// The byte offset where each token of `text` ends. White space belongs to the token after it, and at the very end
/// to the last token, so the pieces between the offsets put together are `text`, if it has any token at all.
pub(super) fn token_ends(text: &str) -> Vec<usize> {
    let mut ends = Vec::new();
    each_token(text, |end| ends.push(end));
    if let Some(last) = ends.last_mut() {
        *last = text.len();
    }
    ends
}

fn each_token(text: &str, mut on_end: impl FnMut(usize)) {
    for (start, piece) in text.split_word_bound_indices() {
        if piece.chars().all(char::is_whitespace) {
            continue;
        }
        if piece.chars().any(is_unspaced) {
            for (offset, grapheme) in piece.grapheme_indices(true) {
                each_cut(start + offset, grapheme, &mut on_end);
            }
        } else {
            each_cut(start, piece, &mut on_end);
        }
    }
}

/// Reports the ends of the parts of `piece`, each of at most [`MAX_TOKEN_CHARS`].
fn each_cut(start: usize, piece: &str, on_end: &mut impl FnMut(usize)) {
    if piece.len() > MAX_TOKEN_CHARS {
        for (offset, _) in piece.char_indices().step_by(MAX_TOKEN_CHARS).skip(1) {
            on_end(start + offset);
        }
    }
    on_end(start + piece.len());
}

/// The terms by which sentences are compared: words in lower case, cut to their first characters, and for scripts
/// written without spaces each pair of neighbouring characters (a lone character stands for itself).
pub(super) fn terms(sentence: &str) -> Vec<String> {
    let mut terms = Vec::new();
    let mut run: Vec<&str> = Vec::new();
    for piece in sentence.split_word_bounds() {
        if piece.chars().any(is_unspaced) {
            run.extend(piece.graphemes(true));
            continue;
        }
        end_run(&mut run, &mut terms);
        if piece.chars().any(char::is_alphanumeric) {
            terms.push(piece.chars().flat_map(char::to_lowercase).take(TERM_CHARS).collect());
        }
    }
    end_run(&mut run, &mut terms);
    terms
}

fn end_run(run: &mut Vec<&str>, terms: &mut Vec<String>) {
    if let [only] = run.as_slice() {
        terms.push((*only).to_owned());
    }
    terms.extend(run.windows(2).map(<[&str]>::concat));
    run.clear();
}

/// Whether a character belongs to a script that is written without spaces between words. Ranges: Unicode blocks.
pub(super) fn is_unspaced(c: char) -> bool {
    matches!(u32::from(c),
        0x0E01..=0x0E3A | 0x0E40..=0x0E4E // Thai
        | 0x0E81..=0x0ECE | 0x0EDC..=0x0EDF // Lao
        | 0x0F40..=0x0FBC // Tibetan
        | 0x1000..=0x103F | 0x1050..=0x108F // Myanmar
        | 0x1780..=0x17D3 // Khmer
        | 0x3005..=0x3007 | 0x3041..=0x30FF | 0x3105..=0x312F | 0x31A0..=0x31FF // kana, bopomofo
        | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF // Han
        | 0xFF66..=0xFF9F // half-width kana
        | 0x1B000..=0x1B16F | 0x20000..=0x3FFFF)
}

/// Whether a character takes part in East Asian text set without spaces: such a script, or its punctuation.
pub(super) fn is_east_asian(c: char) -> bool {
    let cjk = matches!(u32::from(c), 0x3001..=0x3029 | 0x3030..=0x31FF | 0xFF01..=0xFF65 | 0xFF66..=0xFF9F);
    cjk || (u32::from(c) >= 0x3000 && is_unspaced(c))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_and_punctuation_count_one_each_and_spaces_nothing() {
        assert_eq!(count_tokens(""), 0);
        assert_eq!(count_tokens(" \n\t "), 0);
        assert_eq!(count_tokens("Hello, world!"), 4);
        assert_eq!(count_tokens("Don't pay 3.14 twice"), 4);
        assert_eq!(count_tokens("Привет, мир"), 3);
    }

    #[test]
    fn scripts_without_spaces_count_their_graphemes() {
        assert_eq!(count_tokens("你好，世界。"), 6);
        assert_eq!(count_tokens("カタカナ"), 4);
        assert_eq!(count_tokens("สวัสดี"), "สวัสดี".graphemes(true).count());
    }

    #[test]
    fn a_long_word_counts_by_its_begun_parts() {
        assert_eq!(count_tokens(&"a".repeat(MAX_TOKEN_CHARS)), 1);
        assert_eq!(count_tokens(&"a".repeat(MAX_TOKEN_CHARS + 1)), 2);
        assert_eq!(count_tokens(&"й".repeat(10 * MAX_TOKEN_CHARS)), 10);
    }

    #[test]
    fn terms_fold_case_and_endings_and_pair_up_characters_without_spaces() {
        assert_eq!(terms("Правительство, правительства!"), ["правит", "правит"]);
        assert_eq!(terms("中文字 and 字"), ["中文", "文字", "and", "字"]);
    }

    proptest! {
        #[test]
        fn the_count_is_additive_over_lines(a in ".*", b in "\\PC*") {
            let joined = format!("{a}\n{b}");
            prop_assert_eq!(count_tokens(&joined), count_tokens(&a) + count_tokens(&b));
        }

        #[test]
        fn tokens_put_together_are_the_text(text in "(?s).*") {
            let ends = token_ends(&text);
            prop_assert_eq!(ends.len(), count_tokens(&text));
            prop_assert!(ends.is_sorted_by(|a, b| a < b));
            prop_assert!(ends.iter().all(|&end| text.is_char_boundary(end)));
            prop_assert!(ends.last().is_none_or(|&end| end == text.len()));
        }
    }
}
