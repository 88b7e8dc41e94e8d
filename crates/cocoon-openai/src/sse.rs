//! Cuts a byte stream into server-sent events (WHATWG HTML, section 9.2), keeping each event's exact bytes.
//!
//! An event ends with a blank line; lines end with `\n`, `\r\n` or `\r`. An event that lies within one chunk is a
//! slice of it; only an event that is cut by a chunk's end is copied.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Largest single event, in bytes, that a splitter takes by default: 1 MiB.
pub const DEFAULT_EVENT_LIMIT_BYTES: usize = 1 << 20;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Why a stream can't be cut into events any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// One event is larger than the limit.
    #[error("one server-sent event is larger than {limit} bytes")]
    EventTooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
}

/// One event, or one block of comments, of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    /// The exact bytes, with the blank line that ends them.
    pub raw: Bytes,
    /// The `data` lines joined with `\n`; `None` where there is no `data` line (a comment, or blank lines).
    pub data: Option<Bytes>,
    /// Where the first line begins: after a byte order mark.
    text_start: usize,
}

impl SseEvent {
    fn new(raw: Bytes, at_stream_start: bool) -> Self {
        let text_start = if at_stream_start && raw.starts_with(BOM) { BOM.len() } else { 0 };
        let lines = Lines { bytes: &raw, at: text_start };
        let mut spans = lines.filter_map(|line| data_value(&raw, line));
        let data = match (spans.next(), spans.next()) {
            (None, _) => None,
            (Some(only), None) => Some(raw.slice(only)),
            (Some(first), Some(second)) => {
                let mut joined = BytesMut::from(&raw[first]);
                for span in std::iter::once(second).chain(spans) {
                    joined.extend_from_slice(b"\n");
                    joined.extend_from_slice(&raw[span]);
                }
                Some(joined.freeze())
            }
        };
        Self { raw, data, text_start }
    }

    /// Whether this is the `[DONE]` that ends an OpenAI-style stream.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.data.as_deref().is_some_and(|data| data.trim_ascii() == b"[DONE]")
    }

    /// The same event with other data, which must hold no line ends; all that is not data stays verbatim.
    #[must_use]
    pub(crate) fn with_data(&self, data: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(self.raw.len() + data.len());
        let mut written = false;
        out.extend_from_slice(&self.raw[..self.text_start]);
        for line in (Lines { bytes: &self.raw, at: self.text_start }) {
            match data_value(&self.raw, line) {
                None => out.extend_from_slice(&self.raw[line.start..line.next]),
                Some(_) if written => {}
                Some(value) => {
                    out.extend_from_slice(&self.raw[line.start..value.start]);
                    out.extend_from_slice(data);
                    out.extend_from_slice(&self.raw[line.end..line.next]);
                    written = true;
                }
            }
        }
        out.freeze()
    }
}

/// Incremental splitter; see the module.
#[derive(Debug)]
pub struct SseSplitter {
    limit: usize,
    /// Bytes of the current event that came in chunks already used up.
    partial: BytesMut,
    chunks: VecDeque<Bytes>,
    scan: Scan,
    at_stream_start: bool,
}

impl Default for SseSplitter {
    fn default() -> Self {
        Self::new(DEFAULT_EVENT_LIMIT_BYTES)
    }
}

impl SseSplitter {
    /// A splitter that refuses events of more than `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            partial: BytesMut::new(),
            chunks: VecDeque::new(),
            scan: Scan::default(),
            at_stream_start: true,
        }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.chunks.push_back(chunk);
        }
    }

    /// The next complete event; `None` until more bytes come.
    ///
    /// # Errors
    /// [`SseError::EventTooLarge`], and again on each later call; [`Self::take_rest`] gives the bytes not yet
    /// returned, so that they can be passed on unread.
    pub fn next_event(&mut self) -> Result<Option<SseEvent>, SseError> {
        if self.partial.len() > self.limit {
            return Err(SseError::EventTooLarge { limit: self.limit });
        }
        while let Some(chunk) = self.chunks.front_mut() {
            let end = self.scan.find_end(chunk);
            let size = self.partial.len() + end.unwrap_or(chunk.len());
            if size > self.limit {
                // Kept in `partial`, so that the error stays and no byte is lost.
                self.partial.extend_from_slice(chunk);
                self.chunks.pop_front();
                return Err(SseError::EventTooLarge { limit: self.limit });
            }
            let Some(end) = end else {
                self.partial.extend_from_slice(chunk);
                self.chunks.pop_front();
                continue;
            };
            let head = chunk.split_to(end);
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
            let raw = if self.partial.is_empty() {
                head
            } else {
                self.partial.extend_from_slice(&head);
                self.partial.split().freeze()
            };
            let at_stream_start = std::mem::replace(&mut self.at_stream_start, false);
            return Ok(Some(SseEvent::new(raw, at_stream_start)));
        }
        Ok(None)
    }

    /// Takes all bytes that are not part of a returned event, and starts anew.
    pub fn take_rest(&mut self) -> Bytes {
        self.scan = Scan::default();
        self.at_stream_start = false;
        if self.partial.is_empty() && self.chunks.len() == 1 {
            return self.chunks.pop_front().unwrap_or_default();
        }
        let mut rest = self.partial.split();
        for chunk in self.chunks.drain(..) {
            rest.extend_from_slice(&chunk);
        }
        rest.freeze()
    }

    /// The bytes left when the stream ended, read as an event although its blank line is missing: some servers
    /// leave out the last one.
    pub fn finish(&mut self) -> Option<SseEvent> {
        let at_stream_start = self.at_stream_start;
        let rest = self.take_rest();
        (!rest.is_empty()).then(|| SseEvent::new(rest, at_stream_start))
    }
}

/// Where the search for the blank line stands between chunks.
#[derive(Debug)]
struct Scan {
    /// The current line has no bytes yet.
    line_empty: bool,
    /// The line before ended with a `\r` alone.
    bare_cr: bool,
    after_cr: AfterCr,
}

/// What a `\r` as the last byte seen has ended; only the next byte tells whether a `\n` belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterCr {
    Nothing,
    Line,
    Event,
}

impl Default for Scan {
    fn default() -> Self {
        Self { line_empty: true, bare_cr: false, after_cr: AfterCr::Nothing }
    }
}

impl Scan {
    /// Looks at bytes not seen before; the position after the event's last byte, if it lies in or before `chunk`.
    ///
    /// In a stream whose lines end with `\r` alone, the second `\r` ends the event at once; elsewhere a `\n` that
    /// follows belongs to it, and its absence is known only with the next byte.
    fn find_end(&mut self, chunk: &[u8]) -> Option<usize> {
        for (at, &byte) in chunk.iter().enumerate() {
            match std::mem::replace(&mut self.after_cr, AfterCr::Nothing) {
                AfterCr::Event => {
                    *self = Self::default();
                    return Some(if byte == b'\n' { at + 1 } else { at });
                }
                AfterCr::Line if byte == b'\n' => {
                    self.bare_cr = false;
                    continue;
                }
                AfterCr::Line => self.bare_cr = true,
                AfterCr::Nothing => {}
            }
            match byte {
                b'\n' if self.line_empty => {
                    *self = Self::default();
                    return Some(at + 1);
                }
                b'\n' => {
                    self.line_empty = true;
                    self.bare_cr = false;
                }
                b'\r' if self.line_empty && self.bare_cr => {
                    *self = Self::default();
                    return Some(at + 1);
                }
                b'\r' if self.line_empty => self.after_cr = AfterCr::Event,
                b'\r' => {
                    self.line_empty = true;
                    self.after_cr = AfterCr::Line;
                }
                _ => self.line_empty = false,
            }
        }
        None
    }
}

/// One line: `start..end` without, `start..next` with its end.
#[derive(Clone, Copy)]
struct Line {
    start: usize,
    end: usize,
    next: usize,
}

struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Iterator for Lines<'_> {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        let start = self.at;
        let rest = self.bytes.get(start..).filter(|rest| !rest.is_empty())?;
        let (end, next) = match rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            None => (self.bytes.len(), self.bytes.len()),
            Some(length) => {
                let end = start + length;
                let two = self.bytes[end] == b'\r' && self.bytes.get(end + 1) == Some(&b'\n');
                (end, end + if two { 2 } else { 1 })
            }
        };
        self.at = next;
        Some(Line { start, end, next })
    }
}

/// Where the value of a `data` line lies; `None` for other lines.
fn data_value(bytes: &[u8], line: Line) -> Option<std::ops::Range<usize>> {
    let text = bytes[line.start..line.end].strip_prefix(b"data")?;
    match text {
        [] => Some(line.end..line.end),
        [b':', b' ', ..] => Some(line.start + 6..line.end),
        [b':', ..] => Some(line.start + 5..line.end),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn events(chunks: &[&[u8]]) -> (Vec<SseEvent>, Bytes) {
        let mut splitter = SseSplitter::default();
        let mut found = Vec::new();
        for chunk in chunks {
            splitter.push(Bytes::copy_from_slice(chunk));
            while let Some(event) = splitter.next_event().unwrap() {
                found.push(event);
            }
        }
        (found, splitter.take_rest())
    }

    fn data_of(stream: &[u8]) -> Vec<Option<String>> {
        let text = |data: Bytes| String::from_utf8(data.to_vec()).unwrap();
        events(&[stream]).0.into_iter().map(|event| event.data.map(text)).collect()
    }

    #[test]
    fn every_line_end_ends_events() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = format!("data: a{end}{end}data:b{end}data: c{end}{end}: note{end}{end}");
            // A bare CR could still be followed by an LF, so the splitter must not have waited for it.
            let expected = vec![Some("a".to_owned()), Some("b\nc".to_owned()), None];
            assert_eq!(data_of(stream.as_bytes()), expected, "line end {end:?}");
        }
    }

    #[test]
    fn a_space_after_the_colon_is_dropped_once() {
        assert_eq!(data_of(b"data:  x\n\n"), [Some(" x".to_owned())]);
        assert_eq!(data_of(b"data:x\n\n"), [Some("x".to_owned())]);
        assert_eq!(data_of(b"data\n\n"), [Some(String::new())]);
        assert_eq!(data_of(b"database: x\n\n"), [None]);
    }

    #[test]
    fn a_byte_order_mark_counts_only_at_the_start() {
        let stream = b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n";
        assert_eq!(data_of(stream), [Some("a".to_owned()), None]);
    }

    #[test]
    fn event_and_id_fields_stay_in_the_raw_bytes() {
        let stream = b"event: x\nid: 7\ndata: {}\nretry: 3\n\n";
        let (found, rest) = events(&[stream]);
        assert_eq!(found[0].raw, &stream[..]);
        assert_eq!(found[0].with_data(b"{1}"), &b"event: x\nid: 7\ndata: {1}\nretry: 3\n\n"[..]);
        assert!(rest.is_empty());
    }

    #[test]
    fn an_event_within_one_chunk_is_not_copied() {
        let chunk = Bytes::from_static(b"data: a\n\ndata: b\n\n");
        let mut splitter = SseSplitter::default();
        splitter.push(chunk.clone());
        let event = splitter.next_event().unwrap().unwrap();
        assert_eq!(event.raw.as_ptr(), chunk.as_ptr());
    }

    #[test]
    fn an_event_over_the_limit_is_refused_and_its_bytes_are_not_lost() {
        let mut splitter = SseSplitter::new(10);
        splitter.push(Bytes::from_static(b"data: 12\n\n"));
        assert!(splitter.next_event().unwrap().is_some());
        splitter.push(Bytes::from_static(b"data: 1"));
        assert_eq!(splitter.next_event(), Ok(None));
        splitter.push(Bytes::from_static(b"23\n\nrest"));
        let refused = Err(SseError::EventTooLarge { limit: 10 });
        assert_eq!(splitter.next_event(), refused);
        assert_eq!(splitter.next_event(), refused);
        assert_eq!(splitter.take_rest(), &b"data: 123\n\nrest"[..]);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events(
            stream in "((data|event|:|x)?:? ?[ab]?(\n|\r|\r\n)){0,24}",
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let bytes = stream.as_bytes();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let chunks: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let (whole, whole_rest) = events(&[bytes]);
            let (cut, cut_rest) = events(&chunks);
            prop_assert_eq!(&whole, &cut);
            prop_assert_eq!(&whole_rest, &cut_rest);
            let mut joined: Vec<u8> = cut.iter().flat_map(|event| event.raw.to_vec()).collect();
            joined.extend_from_slice(&cut_rest);
            prop_assert_eq!(joined, bytes);
        }
    }
}
