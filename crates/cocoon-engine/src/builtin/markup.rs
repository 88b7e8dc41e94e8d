//! Taking inline Markdown and HTML markup out of a line: what stays is what a reader sees.
//!
//! Not a Markdown parser: it may leave a stray mark behind, and it always takes time linear in the line, since each
//! look-ahead stops where the next one would begin.

use std::collections::HashSet;

/// The longest destination of a link or HTML tag, in bytes; beyond it the marks are taken for text.
const MAX_MARK_BYTES: usize = 2048;

/// The text of one line of Markdown, with runs of white space made one space. `labels` are those of the document's link
/// definitions, in lower case: a `[label]` among them is a link.
pub(super) fn strip(line: &str, labels: &HashSet<String>) -> String {
    let mut text = line.to_owned();
    if text.contains("![") {
        text = without_links(&text, true, labels);
    }
    if text.contains('[') {
        text = without_links(&text, false, labels);
    }
    if text.contains(['*', '_', '`', '<', '&', '\\', '~']) {
        text = without_marks(&text);
    }
    let mut clean = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !clean.is_empty() {
            clean.push(' ');
        }
        clean.push_str(word);
    }
    clean
}

/// Removes images, or replaces links by their labels: `![alt](url)`, `[label](url)`, `[label][ref]`, `[label]`, `[^note]`.
fn without_links(text: &str, images: bool, labels: &HashSet<String>) -> String {
    let open = if images { "![" } else { "[" };
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(open) {
        out.push_str(&rest[..at]);
        let inner = &rest[at + open.len()..];
        match link(inner, labels) {
            Some((label, used)) => {
                if !images && !label.starts_with('^') {
                    out.push_str(label);
                }
                rest = &inner[used..];
            }
            None => {
                out.push_str(open);
                rest = inner;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Reads `label](url)`, `label][ref]`, `label]` or `^note]`: the label, and how many bytes it all takes.
fn link<'a>(inner: &'a str, labels: &HashSet<String>) -> Option<(&'a str, usize)> {
    let end = inner.find(['[', ']'])?;
    if !inner[end..].starts_with(']') {
        return None;
    }
    let label = &inner[..end];
    let after = &inner[end + 1..];
    let target = match after.as_bytes().first() {
        Some(b'(') => destination(after)?,
        Some(b'[') => after[1..].find(['[', ']']).filter(|at| after[1..][*at..].starts_with(']'))? + 2,
        _ if label.starts_with('^') || labels.contains(&label.to_lowercase()) => 0,
        _ => return None,
    };
    Some((label, end + 1 + target))
}

/// How many bytes `(url "title")` takes, brackets balanced.
fn destination(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, byte) in text.bytes().enumerate().take(MAX_MARK_BYTES) {
        match byte {
            b'(' => depth += 1,
            b')' if depth == 1 => return Some(at + 1),
            b')' => depth -= 1,
            b'[' => return None,
            _ => {}
        }
    }
    None
}

/// Removes emphasis, code marks, tags and escapes, and decodes the commonest entities.
fn without_marks(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = None;
    // Whether a single star has opened emphasis, so that the next one closes it even inside a word.
    let mut starred = false;
    while let Some(c) = rest.chars().next() {
        let (used, kept) = mark(rest, c, before, starred);
        starred ^= c == '*' && used % 2 == 1 && kept.is_empty();
        out.push_str(kept);
        before = rest[..used].chars().next_back();
        rest = &rest[used..];
    }
    out
}

/// What stands at the start of `rest`, whose first character is `c`: how many bytes it takes, and what to keep of it.
fn mark(rest: &str, c: char, before: Option<char>, starred: bool) -> (usize, &str) {
    let plain = (c.len_utf8(), &rest[..c.len_utf8()]);
    match c {
        '\\' => match rest[1..].chars().next() {
            Some(next) if next.is_ascii_punctuation() => (2, &rest[1..2]),
            _ => plain,
        },
        '`' => code_span(rest),
        '<' => tag(rest).map_or(plain, |used| (used, address(&rest[1..used - 1]))),
        '&' => ENTITIES
            .iter()
            .find(|(name, _)| rest.starts_with(name))
            .map_or(plain, |(name, c)| (name.len(), *c)),
        '*' | '_' | '~' => {
            let run = rest.len() - rest.trim_start_matches(c).len();
            let after = rest[run..].chars().next();
            if is_emphasis(c, run, before, after) || (starred && c == '*' && run == 1) {
                (run, "")
            } else {
                (run, &rest[..run])
            }
        }
        _ => plain,
    }
}

/// Entities that people write by hand, with what they stand for.
const ENTITIES: [(&str, &str); 8] = [
    ("&amp;", "&"),
    ("&lt;", "<"),
    ("&gt;", ">"),
    ("&quot;", "\""),
    ("&apos;", "'"),
    ("&#39;", "'"),
    ("&nbsp;", " "),
    ("&mdash;", "—"),
];

/// A code span without its back-ticks; lone back-ticks vanish.
fn code_span(rest: &str) -> (usize, &str) {
    let run = rest.len() - rest.trim_start_matches('`').len();
    match rest[run..].find('`') {
        Some(length) => (run + length, &rest[run..run + length]),
        None => (rest.len(), &rest[run..]),
    }
}

/// How many bytes an HTML tag, comment or `<https://...>` takes; nothing where `<` means "less than".
fn tag(rest: &str) -> Option<usize> {
    let name = rest[1..].trim_start_matches('/');
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '!') {
        return None;
    }
    let end = rest.bytes().take(MAX_MARK_BYTES).skip(1).position(|b| b == b'>' || b == b'<')? + 1;
    rest[end..].starts_with('>').then_some(end + 1)
}

/// What a tag shows: nothing, unless it is an address such as `https://...`.
fn address(inside: &str) -> &str {
    let is_address = inside.contains("://") && !inside.contains(char::is_whitespace);
    if is_address { inside } else { "" }
}

/// Whether a run of marks is emphasis rather than a sign in the text, such as in `2 * 3` or `snake_case`.
fn is_emphasis(c: char, run: usize, before: Option<char>, after: Option<char>) -> bool {
    let word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let space = |c: Option<char>| c.is_none_or(char::is_whitespace);
    if space(before) && space(after) {
        return false;
    }
    match c {
        '~' => run == 2,
        '_' => !(word(before) && word(after)),
        _ => run > 1 || !(word(before) && word(after)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bare(line: &str) -> String {
        strip(line, &HashSet::from(["guide".to_owned()]))
    }

    #[test]
    fn a_reader_sees_text_without_marks() {
        assert_eq!(bare("**Bold *ser*ial** and _thin_ and `code_x`"), "Bold serial and thin and code_x");
        assert_eq!(
            bare("See [the guide](https://a.example/x_(y)), [Guide] or [it][1][^2]."),
            "See the guide, Guide or it."
        );
        assert_eq!(bare("[![build](https://b.example/i.svg)](https://c.example)"), "");
        assert_eq!(
            bare("A <br/>line &amp; \\*star\\* <https://d.example>"),
            "A line & *star* https://d.example"
        );
    }

    #[test]
    fn signs_in_the_text_stay() {
        for text in ["2 * 3 < 7 and 9 > 8", "snake_case and a*b", "~5 [sic] (really) & so on", "x <- y [0]"] {
            assert_eq!(bare(text), text);
        }
    }

    proptest! {
        #[test]
        fn anything_goes_in(text in "(\\PC|[\\[\\]()!<>`*_~&\\\\]){0,200}") {
            let clean = bare(&text);
            prop_assert!(!clean.contains("  "));
        }
    }
}
