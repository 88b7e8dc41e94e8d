//! The wire of Cocoon: what two nodes say to each other, byte for byte.
//!
//! - [`tl`]: the messages of the published scheme, and our own extensions;
//! - [`codec`]: the strict TL codec they are written with;
//! - [`frame`]: the framing of a connection;
//! - [`pow`]: the proof of work in front of a connection.
//!
//! Everything here is pure: bytes in, types out, and back. Decoding never panics, borrows payloads from
//! the received buffer instead of copying them, and allocates nothing on the word of a length that the
//! received bytes do not back.

mod macros;

pub mod codec;
pub mod frame;
pub mod fuzzing;
pub mod pow;
pub mod tl;

pub use codec::{
    Boxed, ByteStr, Decode, DecodeError, Encode, Message, Reader, encode_boxed, from_boxed, to_boxed,
};
pub use frame::{FrameDecoder, FrameEncoder, FrameError, MAX_FRAME_PAYLOAD};
