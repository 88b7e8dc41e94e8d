//! Reads server-sent events with JSON data, as they come from our own gateway.

use anyhow::{Context as _, bail};
use serde_json::Value;

/// Longest line, in bytes.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// Events of a stream that comes in pieces.
#[derive(Debug, Default)]
pub(crate) struct Events {
    line: Vec<u8>,
    done: bool,
}

impl Events {
    /// Takes a piece and gives the data of the events that it completes. Every event of ours is one line of data.
    ///
    /// # Errors
    /// Data that is not JSON, or a line over the limit.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> anyhow::Result<Vec<Value>> {
        let mut data = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            if self.line.len() + piece.len() > MAX_LINE_BYTES {
                bail!("an event of the answer is over {MAX_LINE_BYTES} bytes");
            }
            self.line.extend_from_slice(piece);
            if self.line.ends_with(b"\n") {
                match self.line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) {
                    Some(b"[DONE]") => self.done = true,
                    Some(json) => {
                        data.push(serde_json::from_slice(json).context("an event is not JSON")?);
                    }
                    // Empty lines, comments, names of events.
                    None => {}
                }
                self.line.clear();
            }
        }
        Ok(data)
    }

    /// Whether the stream said that it is complete.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_however_the_stream_is_cut() {
        let stream = b": hello\ndata: {\"a\":1}\n\nevent: x\r\ndata:{\"b\":2}\r\n\r\ndata: [DONE]\n\n";
        for size in 1..=stream.len() {
            let mut events = Events::default();
            let mut all = Vec::new();
            for piece in stream.chunks(size) {
                all.extend(events.feed(piece).unwrap());
            }
            assert_eq!(all, [serde_json::json!({"a": 1}), serde_json::json!({"b": 2})], "pieces of {size}");
            assert!(events.is_done());
        }
    }

    #[test]
    fn a_cut_stream_is_not_done_and_nonsense_is_refused() {
        let mut events = Events::default();
        assert_eq!(events.feed(b"data: {\"a\":1}\n\ndata: [DO").unwrap().len(), 1);
        assert!(!events.is_done());
        assert!(Events::default().feed(b"data: {\n").is_err());
        assert!(Events::default().feed(&vec![b'x'; MAX_LINE_BYTES + 1]).is_err());
    }
}
