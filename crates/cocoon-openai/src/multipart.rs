//! Reads `multipart/form-data` (RFC 7578) as it arrives, and only where every reader would read the same.
//!
//! Servers' readers of forms are lenient, each in its own way: some take lone line feeds, white space after a boundary,
//! escapes in names, a part without an end. A form that two of them read differently could name one model to a gateway and
//! another to an engine. So this one knows a single spelling:
//!
//! - the body is `--boundary CRLF` part, again and again, and `--boundary--` with at most one CRLF at the end; nothing
//!   before, between or behind;
//! - a part is header lines, an empty line, bytes, CRLF; the boundary occurs nowhere within it;
//! - each part has one `Content-Disposition: form-data` with a name, and no transfer encoding.
//!
//! What is read can be written again byte for byte: nothing is held but the head of one part and a few bytes in which a
//! boundary may begin.

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::memmem::{self, Finder};

use crate::request::RequestError;

mod boundary;
mod head;

pub use boundary::Boundary;
pub(crate) use head::PartHead;

/// Longest head of a part, in bytes.
pub const MAX_PART_HEAD_BYTES: usize = 4096;
/// Most parts of a form.
pub const MAX_PARTS: usize = 256;

const CRLF: &[u8] = b"\r\n";
const HEAD_END: &[u8] = b"\r\n\r\n";

/// What comes in a form, in this order: a head, its data, its end, the next head ..., the end of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FormEvent {
    Head(PartHead),
    Data(Bytes),
    PartEnd,
    /// The last boundary was seen; with what follows it: nothing or one CRLF.
    End(Bytes),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first boundary.
    Start,
    Head,
    Data,
    /// The data of a part have ended; in the buffer is the boundary with the line end before it.
    Boundary,
    Epilogue,
    Ended,
}

/// The reader; see the module.
#[derive(Debug)]
pub(crate) struct FormScanner {
    /// Finds `--boundary`.
    finder: Finder<'static>,
    buffer: Bytes,
    state: State,
    parts: usize,
    whole: bool,
}

impl FormScanner {
    pub(crate) fn new(boundary: &Boundary) -> Self {
        Self {
            finder: Finder::new(&boundary.delimiter()).into_owned(),
            buffer: Bytes::new(),
            state: State::Start,
            parts: 0,
            whole: false,
        }
    }

    /// Takes more bytes; [`Self::next`] is to be asked until it has nothing more before.
    pub(crate) fn push(&mut self, data: Bytes) {
        if self.buffer.is_empty() {
            self.buffer = data;
            return;
        }
        let mut joined = BytesMut::with_capacity(self.buffer.len() + data.len());
        joined.extend_from_slice(&self.buffer);
        joined.extend_from_slice(&data);
        self.buffer = joined.freeze();
    }

    /// There is no more; [`Self::next`] is to be asked until it has nothing more.
    pub(crate) fn finish(&mut self) {
        self.whole = true;
    }

    /// What comes next; `None` where more bytes are needed, or all has been said.
    pub(crate) fn next(&mut self) -> Result<Option<FormEvent>, RequestError> {
        let event = match self.state {
            State::Start => {
                let first = self.finder.needle().len() + CRLF.len();
                if self.buffer.len() < first {
                    return self.need_more();
                }
                let opening = self.buffer.split_to(first);
                if opening.strip_suffix(CRLF) != Some(self.finder.needle()) {
                    return Err(RequestError::form("The form does not begin with its boundary."));
                }
                self.state = State::Head;
                return self.next();
            }
            State::Head => self.head()?,
            State::Data => self.data()?,
            State::Boundary => self.boundary()?,
            State::Epilogue => {
                if self.buffer.len() > CRLF.len() {
                    return Err(RequestError::form("Something follows the end of the form."));
                }
                if !self.whole {
                    return Ok(None);
                }
                let rest = std::mem::take(&mut self.buffer);
                if !rest.is_empty() && rest != CRLF {
                    return Err(RequestError::form("Something follows the end of the form."));
                }
                self.state = State::Ended;
                Some(FormEvent::End(rest))
            }
            State::Ended => None,
        };
        match event {
            None if self.state != State::Ended => self.need_more(),
            event => Ok(event),
        }
    }

    fn need_more(&self) -> Result<Option<FormEvent>, RequestError> {
        if self.whole { Err(RequestError::form("The form breaks off before its end.")) } else { Ok(None) }
    }

    fn head(&mut self) -> Result<Option<FormEvent>, RequestError> {
        let seen = &self.buffer[..self.buffer.len().min(MAX_PART_HEAD_BYTES)];
        let Some(end) = memmem::find(seen, HEAD_END) else {
            if self.buffer.len() >= MAX_PART_HEAD_BYTES {
                let message = format!("The head of a part has more than {MAX_PART_HEAD_BYTES} bytes.");
                return Err(RequestError::form(message));
            }
            return Ok(None);
        };
        if self.parts == MAX_PARTS {
            return Err(RequestError::form(format!("The form has more than {MAX_PARTS} parts.")));
        }
        self.parts += 1;
        let raw = self.buffer.split_to(end + CRLF.len());
        self.buffer.advance(CRLF.len());
        if self.finder.find(&raw).is_some() {
            return Err(RequestError::form("The head of a part contains the boundary."));
        }
        self.state = State::Data;
        Ok(Some(FormEvent::Head(PartHead::parse(raw)?)))
    }

    fn data(&mut self) -> Result<Option<FormEvent>, RequestError> {
        let Some(at) = self.finder.find(&self.buffer) else {
            // The line end before a boundary, and all but the last byte of that, may be there already.
            let held = CRLF.len() + self.finder.needle().len() - 1;
            let free = self.buffer.len().saturating_sub(held);
            return Ok((free > 0).then(|| FormEvent::Data(self.buffer.split_to(free))));
        };
        let Some(end) = at.checked_sub(CRLF.len()).filter(|end| self.buffer[*end..].starts_with(CRLF)) else {
            let message = "A part contains the boundary; choose another, a random one.";
            return Err(RequestError::form(message));
        };
        let data = self.buffer.split_to(end);
        self.state = State::Boundary;
        if data.is_empty() { self.boundary() } else { Ok(Some(FormEvent::Data(data))) }
    }

    fn boundary(&mut self) -> Result<Option<FormEvent>, RequestError> {
        let line = CRLF.len() + self.finder.needle().len();
        let Some(after) = self.buffer.get(line..line + 2) else { return Ok(None) };
        self.state = match after {
            CRLF => State::Head,
            b"--" => State::Epilogue,
            _ => {
                let message = "A line begins with the boundary and goes on; choose another, a random one.";
                return Err(RequestError::form(message));
            }
        };
        self.buffer.advance(line + 2);
        Ok(Some(FormEvent::PartEnd))
    }
}

/// Writes events as they were read.
#[derive(Debug)]
pub(crate) struct FormWriter {
    delimiter: Bytes,
}

impl FormWriter {
    pub(crate) fn new(boundary: &Boundary) -> Self {
        Self { delimiter: boundary.delimiter().into() }
    }

    /// The bytes of an event.
    pub(crate) fn write(&self, event: FormEvent, out: &mut Vec<Bytes>) {
        match event {
            FormEvent::Head(head) => {
                let mut line = BytesMut::with_capacity(self.delimiter.len() + head.raw.len() + 4);
                line.extend_from_slice(&self.delimiter);
                line.extend_from_slice(CRLF);
                line.extend_from_slice(&head.raw);
                line.extend_from_slice(CRLF);
                out.push(line.freeze());
            }
            FormEvent::Data(data) => out.push(data),
            FormEvent::PartEnd => out.push(Bytes::from_static(CRLF)),
            FormEvent::End(rest) => {
                out.push([&self.delimiter, &b"--"[..], &rest].concat().into());
            }
        }
    }
}

#[cfg(test)]
mod tests;
