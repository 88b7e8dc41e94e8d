//! The only place that writes to the terminal: results to standard output, complaints to standard error.

use std::io::{self, Write as _};

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
