//! Finding the prose in a text: Markdown, plain text or a chat log go in, clean paragraphs come out.
//!
//! Left out: headings, code blocks, tables, rules, front matter, comments, link definitions, and lines of badges.
//! Kept, each on its own: list items, and the messages of a chat log (`Name: text` or `<Name> text`).

use super::markup;
use super::tokens::is_east_asian;
use std::collections::HashSet;

/// A stretch of clean text on one line: no markup, no white space but single spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Paragraph {
    pub(super) text: String,
    /// It is a list item or a message, and stays on a line of its own.
    pub(super) own_line: bool,
}

/// The narrowest and the widest paragraph, in columns, whose line breaks may come from wrapping.
const WRAPPED_COLUMNS: std::ops::RangeInclusive<usize> = 40..=200;
/// How much earlier than need be a wrapped line may end where East Asian punctuation moves to the next line.
const WRAP_SLACK: usize = 4;
/// The longest name of a speaker in a chat log, in characters and in words.
const MAX_NAME_CHARS: usize = 30;
const MAX_NAME_WORDS: usize = 3;

/// The paragraphs of `text`. Where leaving things out would leave nothing, nothing is left out.
pub(super) fn paragraphs(text: &str) -> Vec<Paragraph> {
    let prose = Reader::read(text);
    if !prose.is_empty() {
        return prose;
    }
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.filter(|line| has_word(line)).map(|text| Paragraph { text, own_line: true }).collect()
}

fn has_word(text: &str) -> bool {
    text.chars().any(char::is_alphanumeric)
}

/// What a line is about, besides text.
enum Inside {
    Text,
    /// A fenced code block, closed by this many of this character.
    Fence(char, usize),
    /// An indented code block.
    Code,
    Table,
    Comment,
}

struct Reader<'a> {
    done: Vec<Paragraph>,
    /// Lines of the paragraph being read.
    open: Vec<&'a str>,
    own_line: bool,
    inside: Inside,
    in_list: bool,
    after_blank: bool,
    is_chat: bool,
    is_markdown: bool,
    /// Labels of link definitions, in lower case.
    labels: HashSet<String>,
}

impl<'a> Reader<'a> {
    fn read(text: &'a str) -> Vec<Paragraph> {
        let mut reader = Self {
            done: Vec::new(),
            open: Vec::new(),
            own_line: false,
            inside: Inside::Text,
            in_list: false,
            after_blank: true,
            is_chat: is_chat(text),
            labels: text.lines().filter_map(|line| definition(line.trim())).map(str::to_lowercase).collect(),
            is_markdown: text.lines().any(|line| is_heading(line) || fence(line).is_some()),
        };
        for line in without_front_matter(text).lines() {
            reader.line(line);
        }
        reader.flush();
        reader.done
    }

    fn line(&mut self, raw: &'a str) {
        let mut line = raw.trim();
        if self.still_inside(raw, line) {
            return;
        }
        while let Some(quoted) = line.strip_prefix('>') {
            line = quoted.trim_start();
        }
        if line.is_empty() {
            self.flush();
            self.after_blank = true;
            return;
        }
        let indented = raw.starts_with("    ") || raw.starts_with('\t');
        if self.after_blank && !indented && !raw.starts_with("  ") {
            self.in_list = false;
        }
        if !self.is_left_out(line, indented) {
            self.text(line);
        }
        self.after_blank = false;
    }

    /// Deals with a line inside code, a table or a comment, and says whether it was one.
    fn still_inside(&mut self, raw: &str, line: &str) -> bool {
        let stays = match self.inside {
            Inside::Text => return false,
            Inside::Fence(mark, length) => {
                let closes = line.len() >= length && line.chars().all(|c| c == mark);
                if closes {
                    self.inside = Inside::Text;
                }
                return true;
            }
            Inside::Comment => {
                if line.contains("-->") {
                    self.inside = Inside::Text;
                }
                return true;
            }
            Inside::Code => line.is_empty() || raw.starts_with("    ") || raw.starts_with('\t'),
            Inside::Table => !line.is_empty(),
        };
        if !stays {
            self.inside = Inside::Text;
        }
        stays
    }

    /// Deals with a line that is no prose, and says whether it was one.
    fn is_left_out(&mut self, line: &str, indented: bool) -> bool {
        if let Some((mark, length)) = fence(line) {
            self.flush();
            self.inside = Inside::Fence(mark, length);
        } else if indented && self.after_blank && !self.in_list && self.is_markdown {
            self.inside = Inside::Code;
        } else if line.starts_with("<!--") {
            if !line.contains("-->") {
                self.inside = Inside::Comment;
            }
        } else if is_rule(line) {
            let heading = line.starts_with(['=', '-']) && self.open.len() == 1 && !self.own_line;
            if heading && !self.open.iter().any(|line| super::sentences::is_complete(line)) {
                self.open.clear();
            }
            self.flush();
        } else if is_table_rule(line) {
            self.open.pop();
            self.flush();
            self.inside = Inside::Table;
        } else if is_heading(line) || is_table_row(line) || definition(line).is_some() {
            self.flush();
        } else {
            return false;
        }
        true
    }

    fn text(&mut self, line: &'a str) {
        if let Some(item) = list_item(line) {
            self.flush();
            self.in_list = true;
            self.own_line = true;
            self.open.push(item);
        } else if self.is_chat && speaker(line).is_some() {
            self.flush();
            self.own_line = true;
            self.open.push(line);
        } else {
            self.open.push(line);
        }
    }

    /// Ends the paragraph being read: joins wrapped lines, and takes the markup out.
    fn flush(&mut self) {
        let lines = std::mem::take(&mut self.open);
        let own_line = std::mem::replace(&mut self.own_line, false);
        let width = lines.iter().map(|line| columns(line)).max().unwrap_or(0);
        let mut joined = String::new();
        let mut last: Option<&str> = None;
        for line in lines {
            match last {
                Some(before) if !self.is_markdown && is_deliberate(before, line, width) => {
                    self.push(&std::mem::take(&mut joined), own_line);
                }
                Some(before) if !runs_on(before, line) => joined.push(' '),
                _ => {}
            }
            joined.push_str(line);
            last = Some(line);
        }
        self.push(&joined, own_line);
    }

    fn push(&mut self, joined: &str, own_line: bool) {
        let message = if self.is_chat { speaker(joined) } else { None };
        let text = match message {
            Some((name, said)) => format!("{name}: {}", markup::strip(said, &self.labels)),
            None => markup::strip(joined, &self.labels),
        };
        if has_word(&text) {
            self.done.push(Paragraph { text, own_line: own_line || message.is_some() });
        }
    }
}

/// Columns that a line takes on a screen, roughly.
fn columns(line: &str) -> usize {
    line.chars().map(|c| if is_east_asian(c) { 2 } else { 1 }).sum()
}

/// Whether the break between two lines was meant: the next word would still have fitted, or nothing was wrapped.
fn is_deliberate(before: &str, after: &str, width: usize) -> bool {
    if !WRAPPED_COLUMNS.contains(&width) {
        return true;
    }
    if after.starts_with(char::is_lowercase) {
        return false;
    }
    let east_asian = after.starts_with(is_east_asian);
    let word = if east_asian { 2 + WRAP_SLACK } else { after.split_whitespace().next().map_or(0, columns) };
    columns(before) + 1 + word <= width
}

/// Whether two wrapped lines belong together without a space.
fn runs_on(before: &str, after: &str) -> bool {
    before.ends_with(is_east_asian) && after.starts_with(is_east_asian)
}

fn without_front_matter(text: &str) -> &str {
    let text = text.trim_start_matches('\u{feff}');
    let Some(rest) = text.strip_prefix("---\n").or_else(|| text.strip_prefix("---\r\n")) else { return text };
    rest.find("\n---\n").map_or(text, |at| &rest[at + 5..])
}

fn is_heading(line: &str) -> bool {
    let rest = line.trim_start_matches('#');
    (1..=6).contains(&(line.len() - rest.len())) && (rest.is_empty() || rest.starts_with([' ', '\t']))
}

/// The mark and length of a code fence that opens on this line.
fn fence(line: &str) -> Option<(char, usize)> {
    let line = line.trim_start();
    let mark = line.chars().next().filter(|c| matches!(c, '`' | '~'))?;
    let rest = line.trim_start_matches(mark);
    let length = line.len() - rest.len();
    (length >= 3 && !rest.contains(mark)).then_some((mark, length))
}

/// A line that only rules off, or underlines a heading: `---`, `===`, `***`, `* * *`.
fn is_rule(line: &str) -> bool {
    let mut marks = line.chars().filter(|c| !c.is_whitespace());
    let Some(first) = marks.next().filter(|c| matches!(c, '-' | '=' | '*' | '_')) else { return false };
    let others = marks.try_fold(0_usize, |count, c| (c == first).then_some(count + 1));
    others.is_some_and(|count| count >= 2)
}

fn is_table_rule(line: &str) -> bool {
    line.contains('|')
        && line.contains('-')
        && line.chars().all(|c| matches!(c, '|' | '-' | ':' | '+') || c == ' ')
}

fn is_table_row(line: &str) -> bool {
    line.strip_prefix('|').is_some_and(|rest| rest.contains('|'))
}

/// The label of `[label]: https://...` and `[^note]: text`.
fn definition(line: &str) -> Option<&str> {
    let (label, _) = line.strip_prefix('[')?.split_once("]:")?;
    (!label.contains(']')).then_some(label)
}

/// The text of a list item, without its marker and check box.
fn list_item(line: &str) -> Option<&str> {
    let digits = line.bytes().take(4).take_while(u8::is_ascii_digit).count();
    let marker = match (digits, line.as_bytes().get(digits)?) {
        (0, b'-' | b'*' | b'+') => 1,
        (1..=3, b'.' | b')') => digits + 1,
        _ => return line.strip_prefix('•').map(str::trim_start),
    };
    let item = line[marker..].strip_prefix([' ', '\t'])?.trim_start();
    let boxes = ["[ ] ", "[x] ", "[X] "];
    Some(boxes.iter().find_map(|mark| item.strip_prefix(mark)).unwrap_or(item))
}

/// Whether a text is a chat log: at least two lines, and a third of all, are said by somebody.
fn is_chat(text: &str) -> bool {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let (all, said) = lines
        .fold((0_usize, 0_usize), |(all, said), line| (all + 1, said + usize::from(speaker(line).is_some())));
    said >= 2 && said * 3 >= all
}

/// Reads `Name: text`, `<Name> text`, and either with `[time]` before it.
fn speaker(line: &str) -> Option<(&str, &str)> {
    let mut line = line;
    if let Some(rest) = line.strip_prefix('[') {
        let (_, rest) = rest.split_once(']').filter(|(time, _)| time.len() <= MAX_NAME_CHARS)?;
        line = rest.trim_start();
    }
    let (name, said) = match line.strip_prefix('<') {
        Some(rest) => rest.split_once('>')?,
        None => {
            let (at, colon) =
                line.char_indices().take(MAX_NAME_CHARS + 1).find(|(_, c)| matches!(c, ':' | '：'))?;
            let said = &line[at + colon.len_utf8()..];
            if colon == ':' && !said.starts_with(char::is_whitespace) {
                return None;
            }
            (&line[..at], said)
        }
    };
    let is_name = name.chars().next().is_some_and(|c| c.is_alphabetic() && !c.is_lowercase())
        && name.chars().count() <= MAX_NAME_CHARS
        && name.split(' ').count() <= MAX_NAME_WORDS
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, ' ' | '_' | '-' | '.' | '\''));
    let said = said.trim();
    (is_name && !said.is_empty()).then_some((name, said))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(text: &str) -> Vec<String> {
        paragraphs(text).into_iter().map(|paragraph| paragraph.text).collect()
    }

    #[test]
    fn markdown_loses_what_is_not_prose() {
        let text = "---\ntitle: x\n---\n# Title\n[![b](u)](v)\n\nFirst *line*\nof prose.\n\n```sh\nrun me\n```\n\
                    | a | b |\n|---|---|\n| 1 | 2 |\n\nHeading\n-------\n<!-- hidden\nstill -->\nSecond. See [it](u).\n\n    let code = 1;\n\n\
                    - [x] one item\n  that goes on\n- two\n\n***\n> quoted words\n\n[r]: https://a.example\n";
        assert_eq!(
            texts(text),
            ["First line of prose.", "Second. See it.", "one item that goes on", "two", "quoted words"]
        );
    }

    #[test]
    fn wrapped_lines_are_joined_and_meant_breaks_are_kept() {
        let wrapped = "The quick brown fox jumps over the lazy dog and then\nRuns off into the woods of the north, where it\nsleeps.";
        assert_eq!(texts(wrapped).len(), 1);
        let meant =
            "Council opens bridge\nThe new bridge over the river was opened on Monday by the council.";
        assert_eq!(texts(meant).len(), 2);
        assert_eq!(texts("这是一个很长的句子它在这里被换行了因为这一行已经\n满了，所以继续。").len(), 1);
    }

    #[test]
    fn messages_of_a_chat_stand_alone_with_their_speakers() {
        let log = "Ann: hi all\nBob Lee: shall we ship?\n[10:42] <Cy> yes, *today*\nJust a line\n";
        assert_eq!(texts(log), ["Ann: hi all", "Bob Lee: shall we ship?", "Cy: yes, today", "Just a line"]);
    }

    #[test]
    fn text_of_code_alone_is_kept() {
        assert_eq!(
            texts("```\nonly code here\n```"),
            ["```", "only code here", "```"].map(str::to_owned)[1..2]
        );
    }

    proptest! {
        #[test]
        fn paragraphs_are_clean_single_lines(text in "(\\PC|\n|[#>`|*-] |\\[|\\]|: ){0,300}") {
            for paragraph in paragraphs(&text) {
                prop_assert!(has_word(&paragraph.text));
                prop_assert!(!paragraph.text.contains('\n') && !paragraph.text.contains("  "));
            }
        }
    }
}
