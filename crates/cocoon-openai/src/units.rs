//! Cuts an answer's body into the pieces that carry one JSON object each, whatever its form.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::kind::{BodyKind, BodyLimits};
use crate::sse::{SseEvent, SseSplitter};

/// A piece of a body. The pieces, joined, are the body.
#[derive(Debug)]
pub(crate) enum Piece {
    /// An event, a line, or the whole body.
    Unit(Unit),
    /// Bytes to pass on unread, or plain text.
    Unread(Bytes),
}

/// A piece that may hold one JSON object.
#[derive(Debug)]
pub(crate) enum Unit {
    Event(SseEvent),
    /// A line, or a whole body; the range is the JSON without the white space around it.
    Text(Bytes, Range<usize>),
}

impl Unit {
    pub(crate) fn text(raw: Bytes) -> Self {
        let start = raw.len() - raw.trim_ascii_start().len();
        let end = start + raw.trim_ascii().len();
        Self::Text(raw, start..end)
    }

    pub(crate) fn into_raw(self) -> Bytes {
        match self {
            Self::Event(event) => event.raw,
            Self::Text(raw, _) => raw,
        }
    }

    /// What should be JSON; empty where there is none.
    pub(crate) fn data(&self) -> &[u8] {
        match self {
            Self::Event(event) => event.data.as_deref().unwrap_or_default(),
            Self::Text(raw, span) => &raw[span.clone()],
        }
    }

    /// The same piece with other JSON in it.
    pub(crate) fn with_data(&self, json: &[u8]) -> Bytes {
        match self {
            Self::Event(event) => {
                // Line ends in JSON are white space; within one `data` line they would end it.
                let flat: Vec<u8> = json
                    .iter()
                    .map(|&byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte })
                    .collect();
                event.with_data(&flat)
            }
            Self::Text(raw, span) => crate::object::splice(raw, span.clone(), json).into(),
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Event(event) if event.is_done())
    }
}

/// Incremental reader of the pieces of one body.
#[derive(Debug)]
pub(crate) struct UnitReader {
    source: Source,
    /// A limit was passed, and the rest goes unread.
    gave_up: bool,
}

#[derive(Debug)]
enum Source {
    Sse(SseSplitter),
    Lines(LineSplitter),
    Whole { held: BytesMut, limit: usize },
    Unread(Bytes),
}

impl UnitReader {
    pub(crate) fn new(kind: BodyKind, limits: BodyLimits) -> Self {
        let source = match kind {
            BodyKind::Sse => Source::Sse(SseSplitter::new(limits.event_bytes)),
            BodyKind::JsonLines => Source::Lines(LineSplitter::new(limits.event_bytes)),
            BodyKind::Json => Source::Whole { held: BytesMut::new(), limit: limits.json_bytes },
            BodyKind::Text | BodyKind::Opaque => Source::Unread(Bytes::new()),
        };
        Self { source, gave_up: false }
    }

    /// Whether a limit was passed, so that the rest goes unread.
    pub(crate) fn gave_up(&self) -> bool {
        self.gave_up
    }

    /// Takes the next bytes; [`Self::next_piece`] is to be called until it has no more.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        match &mut self.source {
            Source::Sse(splitter) => splitter.push(chunk),
            Source::Lines(lines) => lines.push(&chunk),
            Source::Whole { held, .. } => held.extend_from_slice(&chunk),
            Source::Unread(held) if held.is_empty() => *held = chunk,
            Source::Unread(held) => {
                let joined = [held.as_ref(), chunk.as_ref()].concat();
                *held = joined.into();
            }
        }
    }

    pub(crate) fn next_piece(&mut self) -> Option<Piece> {
        let too_large = match &mut self.source {
            Source::Sse(splitter) => match splitter.next_event() {
                Ok(event) => return event.map(|event| Piece::Unit(Unit::Event(event))),
                Err(_) => splitter.take_rest(),
            },
            Source::Lines(lines) => match lines.next_line() {
                Ok(line) => return line.map(|line| Piece::Unit(Unit::text(line))),
                Err(TooLarge) => lines.take_rest(),
            },
            Source::Whole { held, limit } if held.len() > *limit => held.split().freeze(),
            Source::Whole { .. } => return None,
            Source::Unread(held) => {
                let bytes = std::mem::take(held);
                return (!bytes.is_empty()).then_some(Piece::Unread(bytes));
            }
        };
        self.gave_up = true;
        self.source = Source::Unread(Bytes::new());
        Some(Piece::Unread(too_large))
    }

    /// The last piece, once the body has ended and [`Self::next_piece`] has no more.
    pub(crate) fn finish(&mut self) -> Option<Piece> {
        let unit = match &mut self.source {
            Source::Sse(splitter) => splitter.finish().map(Unit::Event),
            Source::Lines(lines) => Some(lines.take_rest()).filter(|rest| !rest.is_empty()).map(Unit::text),
            Source::Whole { held, .. } => Some(Unit::text(held.split().freeze())),
            Source::Unread(_) => None,
        };
        unit.map(Piece::Unit)
    }
}

struct TooLarge;

/// Cuts a stream of JSON values at the line ends between them; a value may itself span lines.
#[derive(Debug)]
struct LineSplitter {
    held: BytesMut,
    limit: usize,
    scanned: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl LineSplitter {
    fn new(limit: usize) -> Self {
        Self { held: BytesMut::new(), limit, scanned: 0, depth: 0, in_string: false, escaped: false }
    }

    fn push(&mut self, chunk: &[u8]) {
        self.held.extend_from_slice(chunk);
    }

    fn next_line(&mut self) -> Result<Option<Bytes>, TooLarge> {
        while let Some(&byte) = self.held.get(self.scanned) {
            self.scanned += 1;
            if self.scanned > self.limit {
                return Err(TooLarge);
            }
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                b'\n' if self.depth == 0 => {
                    let end = std::mem::take(&mut self.scanned);
                    return Ok(Some(self.held.split_to(end).freeze()));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn take_rest(&mut self) -> Bytes {
        *self = Self { held: std::mem::take(&mut self.held), ..Self::new(self.limit) };
        self.held.split().freeze()
    }
}
