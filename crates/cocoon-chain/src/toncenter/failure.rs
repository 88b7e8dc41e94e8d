//! What can go wrong with one request, and what that means for the caller.

use std::time::Duration;

use crate::ChainError;

/// Longest text of a server that we repeat, in characters.
const MAX_QUOTED_CHARS: usize = 300;

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    /// In words, one bounded line.
    pub(super) reason: String,
    /// When to come again, where the server said so.
    pub(super) retry_after: Option<Duration>,
    /// Whether this or an earlier try may have had its effect all the same.
    pub(super) may_have_worked: bool,
}

/// What kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing, or only a part of an answer, came back.
    Unreachable,
    /// Too many requests.
    Busy,
    /// The server says that it failed.
    Server,
    /// The server does not take the key.
    Key,
    /// The server does not have what was asked for, though another one may: old transactions.
    Missing,
    /// The server does not know the method.
    UnknownMethod,
    /// The server does not take the request as it is.
    Request,
    /// The contract does not take the message.
    Refused,
    /// The message was sent before.
    Duplicate,
    /// What came back cannot be.
    Nonsense,
}

impl Failure {
    pub(super) fn new(kind: Kind, reason: impl Into<String>) -> Self {
        let may_have_worked = matches!(kind, Kind::Unreachable | Kind::Server);
        Self { kind, reason: reason.into(), retry_after: None, may_have_worked }
    }

    pub(super) fn nonsense(reason: impl Into<String>) -> Self {
        Self::new(Kind::Nonsense, reason)
    }

    /// What a server meant by a status and an error in its own words.
    pub(super) fn told(status: u16, words: &str) -> Self {
        Self::new(kind_of(status, words), format!("HTTP status {status}: {}", one_line(words)))
    }

    /// Whether the same request may succeed a little later.
    pub(super) const fn may_pass(&self) -> bool {
        matches!(self.kind, Kind::Unreachable | Kind::Busy | Kind::Server)
    }
}

impl From<Failure> for ChainError {
    fn from(failure: Failure) -> Self {
        let Failure { kind, reason, retry_after, .. } = failure;
        match kind {
            Kind::Unreachable | Kind::Busy | Kind::Server => Self::Unavailable { reason, retry_after },
            Kind::Key => {
                let reason = format!("{reason}; check the API key and the network it is for");
                Self::Unavailable { reason, retry_after }
            }
            Kind::Missing => {
                let reason = format!("{reason}; use a server with the full history");
                Self::Unavailable { reason, retry_after }
            }
            Kind::UnknownMethod => {
                let reason = format!("{reason}; check that the URL is that of toncenter's API, version 2");
                Self::Unavailable { reason, retry_after }
            }
            Kind::Refused | Kind::Duplicate => Self::Refused { reason },
            Kind::Request => Self::BadAnswer(format!("it does not take the request: {reason}")),
            Kind::Nonsense => Self::BadAnswer(reason),
        }
    }
}

/// Servers tell most failures of the chain with status 500 (older) or 542 (newer), and the kind only in words. The words
/// are those of the lite-server behind them.
fn kind_of(status: u16, words: &str) -> Kind {
    let has = |part: &str| words.contains(part);
    match status {
        429 => Kind::Busy,
        401 | 403 => Kind::Key,
        _ if has("duplicate message") => Kind::Duplicate,
        _ if has("cannot apply external message") || has("xternal message was not accepted") => Kind::Refused,
        500.. if has("not in db") || has("cannot locate transaction") || has("cannot find block") => {
            Kind::Missing
        }
        404 | 405 | 501 => Kind::UnknownMethod,
        422 if has("nknown method") => Kind::UnknownMethod,
        400..=499 => Kind::Request,
        _ => Kind::Server,
    }
}

/// Somebody's words as one line of at most [`MAX_QUOTED_CHARS`] characters.
pub(super) fn one_line(words: &str) -> String {
    let mut line: String = words
        .trim()
        .chars()
        .take(MAX_QUOTED_CHARS)
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect();
    if words.trim().chars().nth(MAX_QUOTED_CHARS).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_public_servers_are_understood() {
        for (status, words, kind) in [
            (429, "Ratelimit exceed", Kind::Busy),
            (403, "API key does not exist", Kind::Key),
            (
                500,
                "LITE_SERVER_UNKNOWN: cannot apply external message to current state : External message was not accepted",
                Kind::Refused,
            ),
            (
                500,
                "LITE_SERVER_UNKNOWN: cannot locate transaction in block with specified logical time",
                Kind::Missing,
            ),
            (
                542,
                "LITE_SERVER_UNKNOWN: cannot compute block with specified transaction: cannot find block \
                 (0,c25e8b92e48f9c50) lt=29142750000001: lt not in db",
                Kind::Missing,
            ),
            (500, "LITE_SERVER_NOTREADY: not in sync", Kind::Server),
            (504, "Liteserver timeout", Kind::Server),
            (422, "Unknown method", Kind::UnknownMethod),
            (422, "empty boc", Kind::Request),
            (416, "Incorrect address", Kind::Request),
            (404, "method 'x' is not known here", Kind::UnknownMethod),
        ] {
            assert_eq!(Failure::told(status, words).kind, kind, "{words}");
        }
    }

    #[test]
    fn a_servers_words_are_one_bounded_line() {
        let line = one_line(&format!("a\nb\u{1b}[31m{}", "x".repeat(10_000)));
        assert!(!line.chars().any(char::is_control));
        assert_eq!(line.chars().count(), MAX_QUOTED_CHARS + 1);
    }
}
