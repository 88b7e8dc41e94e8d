//! Telling what is asked for from the text that it is asked about.
//!
//! People send "Summarise this in two sentences:" and then the text. The first line (or what is before its first
//! colon) and the last line are looked at; what reads as a request for a summary is taken off, and a number of
//! sentences is read from it. Anything else is text.

use unicode_segmentation::UnicodeSegmentation;

/// The longest line that can be an instruction, in bytes.
const MAX_INSTRUCTION_BYTES: usize = 300;
/// The most words of an instruction that does not end with a colon; a Han character or kana is a word here.
const MAX_INSTRUCTION_WORDS: usize = 40;

/// Beginnings of words that speak of summaries, in lower case.
const SUMMARY_WORDS: [&str; 30] = [
    "summar",
    "tl;dr",
    "tldr",
    "shorten",
    "condense",
    "key point",
    "main point",
    "gist",
    "резюм",
    "кратк",
    "короч",
    "перескаж",
    "обобщ",
    "суммир",
    "саммари",
    "总结",
    "總結",
    "摘要",
    "概括",
    "概述",
    "要約",
    "まとめ",
    "요약",
    "résum",
    "resum",
    "zusammenf",
    "riassu",
    "streszcz",
    "لخص",
    "สรุป",
];

/// How an instruction begins that has no colon, no number of sentences, and no word of a summary at its start.
const OPENINGS: [&str; 26] = [
    "please",
    "can ",
    "could ",
    "would ",
    "give",
    "write",
    "make",
    "provide",
    "create",
    "produce",
    "i need",
    "i want",
    "what",
    "now ",
    "пожалуйста",
    "сделай",
    "дай",
    "напиши",
    "можешь",
    "请",
    "請",
    "bitte",
    "por favor",
    "s'il",
    "你能",
    "用",
];

/// Numbers that people write as words.
const NUMBERS: [(&str, usize); 50] = [
    ("one", 1),
    ("single", 1),
    ("two", 2),
    ("three", 3),
    ("four", 4),
    ("five", 5),
    ("six", 6),
    ("seven", 7),
    ("eight", 8),
    ("nine", 9),
    ("ten", 10),
    ("одно", 1),
    ("одном", 1),
    ("одним", 1),
    ("два", 2),
    ("двух", 2),
    ("двумя", 2),
    ("три", 3),
    ("трёх", 3),
    ("трех", 3),
    ("тремя", 3),
    ("четыре", 4),
    ("четырёх", 4),
    ("пять", 5),
    ("пяти", 5),
    ("ein", 1),
    ("einem", 1),
    ("zwei", 2),
    ("drei", 3),
    ("vier", 4),
    ("fünf", 5),
    ("une", 1),
    ("deux", 2),
    ("trois", 3),
    ("quatre", 4),
    ("una", 1),
    ("dos", 2),
    ("tres", 3),
    ("一", 1),
    ("二", 2),
    ("两", 2),
    ("兩", 2),
    ("三", 3),
    ("四", 4),
    ("五", 5),
    ("六", 6),
    ("七", 7),
    ("八", 8),
    ("九", 9),
    ("十", 10),
];

/// Beginnings of what is counted: sentences, and points of a list, which are sentences here.
const UNITS: [&str; 14] = [
    "sentence",
    "bullet",
    "point",
    "предложен",
    "фраз",
    "пункт",
    "satz",
    "sätz",
    "phrase",
    "oracion",
    "frase",
    "句",
    "文",
    "条",
];

/// A message taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parted<'a> {
    /// The text without the instruction; the whole message where there is nothing else.
    pub(super) text: &'a str,
    /// The number of sentences that the instruction asks for.
    pub(super) sentences: Option<usize>,
}

/// Takes instructions off the beginning and the end of a message.
pub(super) fn part(message: &str) -> Parted<'_> {
    let mut parted = Parted { text: message.trim(), sentences: None };
    if let Some((instruction, rest)) = leading(parted.text) {
        parted = Parted { text: rest, sentences: sentences_asked(instruction) };
    }
    if let Some((rest, last)) = parted.text.rsplit_once('\n') {
        let alone = rest.ends_with(['\n', '\r']) || last.trim_end().ends_with(TERMINATORS);
        if alone && is_instruction(last.trim()) && !rest.trim().is_empty() {
            parted = Parted { text: rest.trim(), sentences: sentences_asked(last).or(parted.sentences) };
        }
    }
    if parted.text == message.trim()
        && parted.text.len() <= MAX_INSTRUCTION_BYTES
        && is_instruction(parted.text)
    {
        parted.sentences = sentences_asked(parted.text);
    }
    parted
}

const TERMINATORS: [char; 8] = ['.', '!', '?', ':', '。', '！', '？', '：'];

fn leading(text: &str) -> Option<(&str, &str)> {
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    let line = line.trim();
    let alone = rest.starts_with(['\n', '\r']) || line.ends_with(TERMINATORS);
    if alone && !rest.trim().is_empty() && is_instruction(line) {
        return Some((line, rest.trim()));
    }
    let colon = line.char_indices().find(|(_, c)| matches!(c, ':' | '：'))?;
    let (instruction, rest) = text.split_at(colon.0 + colon.1.len_utf8());
    (!rest.trim().is_empty() && is_instruction(instruction)).then(|| (instruction, rest.trim()))
}

/// Whether a line asks for a summary.
pub(super) fn is_instruction(line: &str) -> bool {
    if line.len() > MAX_INSTRUCTION_BYTES {
        return false;
    }
    let lower = line.to_lowercase();
    if !SUMMARY_WORDS.iter().any(|word| lower.contains(word)) {
        return false;
    }
    let opens = SUMMARY_WORDS.iter().chain(&OPENINGS).any(|opening| lower.starts_with(opening));
    let asks = opens || sentences_asked(line).is_some();
    lower.ends_with([':', '：']) || (asks && lower.unicode_words().count() <= MAX_INSTRUCTION_WORDS)
}

/// The number of sentences that an instruction asks for: a number, and soon after it what is counted.
pub(super) fn sentences_asked(instruction: &str) -> Option<usize> {
    let start: String = instruction.chars().take(MAX_INSTRUCTION_BYTES).collect();
    let lower = start.to_lowercase();
    let words: Vec<&str> = lower.unicode_words().collect();
    words.iter().enumerate().find_map(|(at, word)| {
        let number = number(word)?;
        let near = words[at + 1..].iter().take(2);
        near.into_iter().any(|word| UNITS.iter().any(|unit| word.starts_with(unit))).then_some(number)
    })
}

fn number(word: &str) -> Option<usize> {
    let written = NUMBERS.iter().find(|(name, _)| *name == word).map(|(_, number)| *number);
    written.or_else(|| word.parse().ok()).filter(|number| (1..=999).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parted(text: &str, sentences: Option<usize>) -> Parted<'_> {
        Parted { text, sentences }
    }

    #[test]
    fn an_instruction_before_or_after_the_text_is_taken_off() {
        assert_eq!(part("Summarise this:\nThe text."), parted("The text.", None));
        assert_eq!(
            part("Please summarize in 2 sentences: The text: it is."),
            parted("The text: it is.", Some(2))
        );
        assert_eq!(part("Give me a two-sentence summary.\n\nThe text."), parted("The text.", Some(2)));
        assert_eq!(
            part("The text.\nMore.\n\nSummarise the above in one sentence."),
            parted("The text.\nMore.", Some(1))
        );
        assert_eq!(part("Кратко перескажи в трёх предложениях:\nТекст."), parted("Текст.", Some(3)));
        assert_eq!(part("请用两句话总结：\n文章。"), parted("文章。", Some(2)));
        assert_eq!(part("3文で要約してください。\n本文です。"), parted("本文です。", Some(3)));
    }

    #[test]
    fn text_that_only_speaks_of_summaries_stays() {
        for text in [
            "The report summarizes the year.\nIt was good.",
            "Summarising the year, the mayor said that it had been\nthe best of all.",
            "News: the mayor wrote a summary.",
            "Plain text with 3 sentences in it.",
        ] {
            assert_eq!(part(text), parted(text, None));
        }
    }

    #[test]
    fn an_instruction_alone_is_text_with_a_length() {
        assert_eq!(part("Summarise in 2 short sentences"), parted("Summarise in 2 short sentences", Some(2)));
        assert_eq!(sentences_asked("in 0 sentences"), None);
        assert_eq!(sentences_asked("in 99999999999999999999999 sentences"), None);
    }

    proptest! {
        #[test]
        fn the_text_is_a_part_of_the_message(message in "(\\PC|\n|summarise |: |2 sentences){0,60}") {
            prop_assert!(message.contains(part(&message).text));
        }
    }
}
