//! Frames: u32 length of the payload, u32 sequence number from 0 in each direction, payload.
//!
//! The bounds and the check of the sequence number are the published protocol's. The number wraps.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::codec::Message;
use crate::tl::tcp;

/// The longest payload in bytes, published: 16 MiB.
pub const MAX_FRAME_PAYLOAD: usize = 1 << 24;
/// The shortest payload in bytes, published: a constructor id.
pub const MIN_FRAME_PAYLOAD: usize = 4;
/// Bytes in front of a payload.
pub const FRAME_HEADER_LEN: usize = 8;
/// What follows a longer payload, in bytes, gets a buffer of its own.
const MAX_SHARED_PAYLOAD: usize = 256 * 1024;

/// Why a frame cannot be read or written. On the reading side the connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A received length below [`MIN_FRAME_PAYLOAD`] or above the limit.
    #[error("a frame of {0} bytes is outside the limits")]
    BadLength(u32),
    /// A frame was lost, repeated or made up.
    #[error("frame number {got} where {expected} was due")]
    BadSeqno {
        /// The number that was due.
        expected: u32,
        /// The number received.
        got: u32,
    },
    /// A payload to be sent is outside the limits.
    #[error("a payload of {0} bytes fits in no frame")]
    BadPayload(usize),
    /// The writer of a payload did not keep to the length it announced.
    #[error("a payload of {announced} bytes came to {written}")]
    LengthMismatch {
        /// What the caller said.
        announced: usize,
        /// What it wrote.
        written: usize,
    },
}

/// Takes frames off the front of what was received.
#[derive(Debug)]
pub struct FrameDecoder {
    max_payload: usize,
    seqno: u32,
}

impl FrameDecoder {
    /// Accepts payloads up to `max_payload` bytes, at most [`MAX_FRAME_PAYLOAD`].
    pub fn new(max_payload: usize) -> Self {
        Self { max_payload: max_payload.min(MAX_FRAME_PAYLOAD), seqno: 0 }
    }

    /// Accepts payloads up to `max_payload` bytes from now on, at most [`MAX_FRAME_PAYLOAD`].
    pub fn set_max_payload(&mut self, max_payload: usize) {
        self.max_payload = max_payload.min(MAX_FRAME_PAYLOAD);
    }

    /// The next payload, or `None` until more bytes have come.
    ///
    /// Refuses a bad length or number as soon as it is there, and reserves nothing: `buf` grows only with
    /// what arrives. The payload shares the buffer; what follows a large one does not, so that whoever keeps a small frame
    /// keeps no giant's memory with it.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        let mut header = &buf[..];
        let Ok(announced) = header.try_get_u32_le() else { return Ok(None) };
        let len = match usize::try_from(announced) {
            Ok(len) if (MIN_FRAME_PAYLOAD..=self.max_payload).contains(&len) => len,
            _ => return Err(FrameError::BadLength(announced)),
        };
        let Ok(got) = header.try_get_u32_le() else { return Ok(None) };
        if got != self.seqno {
            return Err(FrameError::BadSeqno { expected: self.seqno, got });
        }
        if header.len() < len {
            return Ok(None);
        }
        self.seqno = self.seqno.wrapping_add(1);
        buf.advance(FRAME_HEADER_LEN);
        let payload = buf.split_to(len).freeze();
        if len > MAX_SHARED_PAYLOAD {
            *buf = BytesMut::from(&buf[..]);
        }
        Ok(Some(payload))
    }
}

/// Puts payloads in frames.
#[derive(Debug, Default)]
pub struct FrameEncoder {
    seqno: u32,
}

impl FrameEncoder {
    /// Starts at frame 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a frame whose payload of `payload_len` bytes is appended by `write`.
    ///
    /// On an error nothing is appended and the frame's number is not used up, so the connection can go on.
    pub fn encode(
        &mut self,
        out: &mut BytesMut,
        payload_len: usize,
        write: impl FnOnce(&mut BytesMut),
    ) -> Result<(), FrameError> {
        let header = match u32::try_from(payload_len) {
            Ok(header) if (MIN_FRAME_PAYLOAD..=MAX_FRAME_PAYLOAD).contains(&payload_len) => header,
            _ => return Err(FrameError::BadPayload(payload_len)),
        };
        let start = out.len();
        out.reserve(FRAME_HEADER_LEN + payload_len);
        out.put_u32_le(header);
        out.put_u32_le(self.seqno);
        write(out);
        let written = out.len().saturating_sub(start + FRAME_HEADER_LEN);
        if written != payload_len {
            out.truncate(start);
            return Err(FrameError::LengthMismatch { announced: payload_len, written });
        }
        self.seqno = self.seqno.wrapping_add(1);
        Ok(())
    }

    /// Appends a frame that carries `message`: most often a [`tcp::Packet`].
    pub fn encode_message(&mut self, out: &mut BytesMut, message: &impl Message) -> Result<(), FrameError> {
        self.encode(out, message.encoded_len(), |out| message.encode_boxed(out))
    }

    /// Appends a frame that carries a [`tcp::Packet::Packet`] that carries `message`, without a buffer in
    /// between.
    pub fn encode_tcp_packet(
        &mut self,
        out: &mut BytesMut,
        message: &impl Message,
    ) -> Result<(), FrameError> {
        self.encode(out, tcp::packet_len(message), |out| tcp::write_packet(out, message))
    }
}
