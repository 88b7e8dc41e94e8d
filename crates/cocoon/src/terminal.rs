//! The only place that writes to the terminal: results to standard output, complaints to standard error.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

/// Writes text to standard output at once. A closed pipe is no error: the reader has seen enough.
///
/// # Errors
/// Standard output cannot be written to.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes text from others to standard output: control characters other than line breaks and tabs are left out, so
/// that an answer cannot move the cursor or recolour the screen.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_foreign(text: &str) -> io::Result<()> {
    let shown: String = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    print(&shown)
}

/// Writes an error with the chain of its causes to standard error.
pub(crate) fn complain(error: &anyhow::Error) {
    let style = Style::of(&io::stderr());
    let mut text = format!("{}: {error}\n", style.bad("error"));
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Many errors already say their cause; once is enough.
        if !said.contains(&cause) {
            text += &format!("  because: {cause}\n");
            said = cause;
        }
    }
    // Nobody is left to tell where this fails.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// One line without control characters: for words of others between words of ours.
pub(crate) fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).collect()
}

/// Breaks a text between words so that lines that begin after `indent` columns end before `width`. The first line is not
/// indented. A word that is too long for a line has its own.
pub(crate) fn wrapped(text: &str, indent: usize, width: usize) -> String {
    let (mut wrapped, mut column) = (String::new(), indent);
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > indent && column + 1 + length > width {
            wrapped.push('\n');
            wrapped += &" ".repeat(indent);
            column = indent;
        } else if column > indent {
            wrapped.push(' ');
            column += 1;
        }
        wrapped += word;
        column += length;
    }
    wrapped
}

/// Colours, on a terminal and where the environment does not forbid them (<https://no-color.org>).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style(bool);

impl Style {
    /// The style for standard output.
    pub(crate) fn stdout() -> Self {
        Self::of(&io::stdout())
    }

    /// The style for standard error.
    pub(crate) fn stderr() -> Self {
        Self::of(&io::stderr())
    }

    /// No colours.
    #[cfg(test)]
    pub(crate) const fn plain() -> Self {
        Self(false)
    }

    fn of(stream: &impl io::IsTerminal) -> Self {
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self(stream.is_terminal() && !forbidden)
    }

    /// Whether colours are on.
    pub(crate) fn is_on(self) -> bool {
        self.0
    }

    /// A heading.
    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Something beside the point.
    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// Something well.
    pub(crate) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Something wrong.
    pub(crate) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// Something to keep in mind.
    pub(crate) fn warn(self, text: &str) -> String {
        self.paint("33", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// How long the meter waits before its first line, and between two: what is done sooner needs none.
const METER_PAUSE: Duration = Duration::from_millis(200);
/// Characters of the meter's bar.
const BAR: u64 = 24;

/// How far long work is: one line on standard error that is written over again, on a terminal only. Gone when dropped.
#[derive(Debug)]
pub(crate) struct Meter {
    verb: &'static str,
    on: bool,
    began: Instant,
    shown: Instant,
    drawn: bool,
}

impl Meter {
    /// For work of this name; `wanted`: whether there may be one at all.
    pub(crate) fn new(verb: &'static str, wanted: bool) -> Self {
        let now = Instant::now();
        Self {
            verb,
            on: wanted && io::IsTerminal::is_terminal(&io::stderr()),
            began: now,
            shown: now,
            drawn: false,
        }
    }

    /// So many bytes of so many are done.
    pub(crate) fn show(&mut self, done: u64, total: u64) {
        if self.on && self.shown.elapsed() >= METER_PAUSE {
            self.shown = Instant::now();
            self.drawn = true;
            let line = meter_line(self.verb, done, total, self.began.elapsed());
            // A terminal that cannot be written to needs no bar.
            let _ = io::stderr().lock().write_all(format!("\r{line}\x1b[K").as_bytes());
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.drawn {
            let _ = io::stderr().lock().write_all(b"\r\x1b[K");
        }
    }
}

/// How far, how fast, how long still.
fn meter_line(verb: &str, done: u64, total: u64, took: Duration) -> String {
    let (done, whole) = (u128::from(done), u128::from(total.max(1)));
    let part = |of: u64| usize::try_from(done * u128::from(of) / whole).unwrap_or(usize::MAX);
    let (filled, width) = (part(BAR), usize::try_from(BAR).unwrap_or(0));
    let bar: String = (0..width).map(|at| if at < filled { '#' } else { '-' }).collect();
    let millis = took.as_millis().max(1);
    let speed = u64::try_from(done * 1000 / millis).unwrap_or(u64::MAX);
    let left = (whole.saturating_sub(done) * millis).checked_div(done).unwrap_or(0) / 1000;
    let percent = part(100);
    format!("{verb} [{bar}] {percent:>3} %  of {}  {}/s  {left} s left", bytes(total), bytes(speed))
}

/// A number of bytes for people: `1.5 GB`, in powers of 1000.
pub(crate) fn bytes(count: u64) -> String {
    let units = [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000)];
    match units.into_iter().find(|(_, size)| count >= *size) {
        Some((unit, size)) => format!("{}.{} {unit}", count / size, count % size / (size / 10)),
        None => format!("{count} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_with_one_decimal_and_never_too_many() {
        for (count, text) in [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1000, "1.0 kB"),
            (1_999_999, "1.9 MB"),
            (12_345_678_901, "12.3 GB"),
            (u64::MAX, "18446744.0 TB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn a_meter_says_how_far_how_fast_and_how_long_still() {
        let line = meter_line("reading", 500_000_000, 2_000_000_000, Duration::from_secs(2));
        assert_eq!(line, "reading [######------------------]  25 %  of 2.0 GB  250.0 MB/s  6 s left");
        let line = meter_line("reading", 0, 0, Duration::ZERO);
        assert!(line.contains("  0 %"), "{line}");
    }
}
