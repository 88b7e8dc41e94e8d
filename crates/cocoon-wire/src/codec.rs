//! TL, Telegram's Type Language, as a strict codec.
//!
//! Integers are little-endian; a `string` or `bytes` is one length byte, or 0xFE and three, then the data,
//! then zeros up to a multiple of four; a vector is a count and its bare items; a boxed value starts with
//! its 32-bit constructor id.
//!
//! # Strictness
//! There is one encoding of each value, and only that one is accepted: lengths must be minimal, padding
//! must be zero, a `Bool` must be one of its two constructors, nothing may follow the value. The published
//! nodes' reader tolerates long lengths and dirty padding, but their only writer never produces either, so
//! strictness costs no compatibility and leaves no room for two readings of the same bytes.
//!
//! Three things are tolerated. Bytes of a `string` need not be UTF-8: published peers relay header
//! values as they came. Unknown bits of the params' flags words are kept, as that is where nodes offer
//! extensions. Unknown bits of other flags words are dropped, as the published reader does. Bit 31 is
//! refused everywhere: the published reader takes a flags word for a signed number and refuses a negative one.

use std::borrow::Cow;
use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// `boolTrue`.
const BOOL_TRUE: u32 = 0x9972_75b5;
/// `boolFalse`.
const BOOL_FALSE: u32 = 0xbc79_9737;
/// Data shorter than this has a one-byte length.
const LONG_FORM_FROM: usize = 254;
/// Data of this length or longer does not fit in a three-byte length, nor in any frame.
const HUGE_FORM_FROM: usize = 1 << 24;
/// The bits of a flags word that may be set: all but the sign.
pub(crate) const FLAG_BITS: u32 = 0x7fff_ffff;

/// The most items a vector may have. HTTP headers and worker lists, the only vectors of the protocol, stay
/// far below; and the memory of the items stays within a few MiB.
pub const MAX_VECTOR_ITEMS: usize = 1 << 16;

/// Why bytes are not the value they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The value goes on after the last byte.
    #[error("the data ends inside a value")]
    UnexpectedEnd,
    /// Bytes follow the value.
    #[error("{0} bytes follow the value")]
    TrailingBytes(usize),
    /// Padding of a `string` or `bytes` is not zero.
    #[error("padding is not zero")]
    NonZeroPadding,
    /// A length in the four-byte form that fits in one byte.
    #[error("length {0} is not in its shortest form")]
    NonMinimalLength(usize),
    /// A length in the eight-byte form, which only lengths above every frame need.
    #[error("a length of 16 MiB or more")]
    TooLong,
    /// A vector with more items than the remaining bytes or [`MAX_VECTOR_ITEMS`] allow.
    #[error("a vector of {0} items is too long")]
    VectorTooLong(u32),
    /// A constructor that is not expected here.
    #[error("unknown constructor {0:#010x}")]
    UnknownConstructor(u32),
    /// Neither `boolTrue` nor `boolFalse`.
    #[error("{0:#010x} is no Bool")]
    BadBool(u32),
    /// A flags word with bit 31 set.
    #[error("flags are negative")]
    NegativeFlags,
}

/// Takes TL values off the front of a buffer without copying payloads.
#[derive(Debug)]
pub struct Reader {
    rest: Bytes,
}

impl Reader {
    /// Reads from `data`.
    pub fn new(data: Bytes) -> Self {
        Self { rest: data }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Ends reading; refuses bytes left over.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(DecodeError::TrailingBytes(left)),
        }
    }

    /// A constructor id or another unsigned 32-bit number.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.rest.try_get_u32_le().map_err(|_| DecodeError::UnexpectedEnd)
    }

    /// A `flags:#` word; never has bit 31.
    pub fn flags(&mut self) -> Result<u32, DecodeError> {
        let flags = self.u32()?;
        if flags & !FLAG_BITS != 0 { Err(DecodeError::NegativeFlags) } else { Ok(flags) }
    }

    /// The data of a `string` or `bytes`, sharing the buffer it was received in.
    pub fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let first = usize::from(self.rest.try_get_u8().map_err(|_| DecodeError::UnexpectedEnd)?);
        let (len, prefix) = match first {
            0..LONG_FORM_FROM => (first, 1),
            LONG_FORM_FROM => {
                let low = self.rest.try_get_u16_le().map_err(|_| DecodeError::UnexpectedEnd)?;
                let high = self.rest.try_get_u8().map_err(|_| DecodeError::UnexpectedEnd)?;
                let len = usize::from(high) << 16 | usize::from(low);
                if len < LONG_FORM_FROM {
                    return Err(DecodeError::NonMinimalLength(len));
                }
                (len, 4)
            }
            _ => return Err(DecodeError::TooLong),
        };
        let padding = padding(prefix + len);
        if self.rest.len() < len + padding {
            return Err(DecodeError::UnexpectedEnd);
        }
        let data = self.rest.split_to(len);
        if self.rest.split_to(padding).iter().any(|byte| *byte != 0) {
            return Err(DecodeError::NonZeroPadding);
        }
        Ok(data)
    }
}

/// Zeros that follow `len` bytes to reach a multiple of four.
fn padding(len: usize) -> usize {
    len.wrapping_neg() % 4
}

/// A value that can be written, in its bare form: no constructor id, save where the value is a union, which
/// has no bare form.
pub trait Encode {
    /// Bytes that [`Encode::encode`] writes.
    fn bare_len(&self) -> usize;
    /// Appends the value.
    fn encode(&self, out: &mut BytesMut);
}

/// A value that can be read, in the form that [`Encode`] writes.
pub trait Decode: Sized {
    /// Takes the value off the front.
    fn decode(r: &mut Reader) -> Result<Self, DecodeError>;
}

/// A type with a single constructor.
pub trait Boxed: Encode + Decode {
    /// The constructor id.
    const ID: u32;
}

/// What can stand on its own in a packet, a query or an answer: a boxed type, a union, or the set of
/// messages that one side of a connection may send.
pub trait Message: Sized {
    /// Bytes that [`Message::encode_boxed`] writes.
    fn encoded_len(&self) -> usize;
    /// Appends the constructor id and the value.
    fn encode_boxed(&self, out: &mut BytesMut);
    /// Reads a whole message; refuses bytes that follow it.
    fn decode_boxed(data: Bytes) -> Result<Self, DecodeError>;
}

impl<T: Boxed> Message for T {
    fn encoded_len(&self) -> usize {
        4 + self.bare_len()
    }

    fn encode_boxed(&self, out: &mut BytesMut) {
        out.put_u32_le(T::ID);
        self.encode(out);
    }

    fn decode_boxed(data: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(data);
        match reader.u32()? {
            id if id == T::ID => decode_rest(reader),
            other => Err(DecodeError::UnknownConstructor(other)),
        }
    }
}

/// The value that makes up all that is left to read.
pub(crate) fn decode_rest<T: Decode>(mut reader: Reader) -> Result<T, DecodeError> {
    let value = T::decode(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

/// The message as a buffer of its own.
pub fn to_boxed<T: Message>(message: &T) -> Bytes {
    let mut out = BytesMut::with_capacity(message.encoded_len());
    message.encode_boxed(&mut out);
    out.freeze()
}

/// Appends the message; see [`Message::encode_boxed`].
pub fn encode_boxed<T: Message>(message: &T, out: &mut BytesMut) {
    message.encode_boxed(out);
}

/// Reads a whole message; see [`Message::decode_boxed`].
pub fn from_boxed<T: Message>(data: Bytes) -> Result<T, DecodeError> {
    T::decode_boxed(data)
}

/// A TL `string`: bytes that are usually UTF-8 but never assumed to be (published peers relay Latin-1
/// header values). `Debug` shows the length alone, because it may be a user's text.
///
/// Shares the buffer it was received in, so a short string keeps its whole frame in memory: copy what
/// outlives the message.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteStr(pub Bytes);

impl ByteStr {
    /// A string known at compile time.
    pub const fn from_static(text: &'static str) -> Self {
        Self(Bytes::from_static(text.as_bytes()))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, if it is UTF-8.
    pub fn to_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// The text with U+FFFD for what is not UTF-8.
    pub fn to_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl fmt::Debug for ByteStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

impl From<&str> for ByteStr {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for ByteStr {
    fn from(text: String) -> Self {
        Self(Bytes::from(text))
    }
}

/// `Debug` for messages: like the derived one, but of `bytes` and `string` only the length, because they
/// carry users' text and secrets.
pub(crate) trait Redacted {
    fn redacted(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// Makes `Debug` of [`Redacted`].
pub(crate) struct Shown<'a, T>(pub(crate) &'a T);

impl<T: Redacted> fmt::Debug for Shown<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.redacted(f)
    }
}

/// Numbers that TL writes as their little-endian bytes.
macro_rules! number {
    ($($type:ty, $get:ident, $put:ident;)*) => {$(
        impl Encode for $type {
            fn bare_len(&self) -> usize {
                size_of::<$type>()
            }

            fn encode(&self, out: &mut BytesMut) {
                out.$put(*self);
            }
        }

        impl Decode for $type {
            fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
                r.rest.$get().map_err(|_| DecodeError::UnexpectedEnd)
            }
        }

        impl Redacted for $type {
            fn redacted(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }
    )*};
}

number! {
    u32, try_get_u32_le, put_u32_le;
    i32, try_get_i32_le, put_i32_le;
    i64, try_get_i64_le, put_i64_le;
    f64, try_get_f64_le, put_f64_le;
}

/// `int256`.
impl Encode for [u8; 32] {
    fn bare_len(&self) -> usize {
        32
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(self);
    }
}

impl Decode for [u8; 32] {
    fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let mut value = [0; 32];
        r.rest.try_copy_to_slice(&mut value).map_err(|_| DecodeError::UnexpectedEnd)?;
        Ok(value)
    }
}

impl Redacted for [u8; 32] {
    fn redacted(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// `Bool`.
impl Encode for bool {
    fn bare_len(&self) -> usize {
        4
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(if *self { BOOL_TRUE } else { BOOL_FALSE });
    }
}

impl Decode for bool {
    fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        match r.u32()? {
            BOOL_TRUE => Ok(true),
            BOOL_FALSE => Ok(false),
            other => Err(DecodeError::BadBool(other)),
        }
    }
}

impl Redacted for bool {
    fn redacted(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Bytes that a `bytes` of `len` bytes takes: length, data and padding.
pub(crate) fn bytes_len(len: usize) -> usize {
    let prefix = match len {
        0..LONG_FORM_FROM => 1,
        LONG_FORM_FROM..HUGE_FORM_FROM => 4,
        _ => 8,
    };
    prefix + len + padding(prefix + len)
}

/// Appends a `bytes` of `len` bytes, which `write` must append.
///
/// A length above every frame is written in TL's eight-byte form: that no frame can carry it is for the
/// framing to refuse, where there is someone to tell.
pub(crate) fn put_bytes(out: &mut BytesMut, len: usize, write: impl FnOnce(&mut BytesMut)) {
    out.reserve(bytes_len(len));
    let start = out.len();
    // Little-endian bytes of the length, cut to the form's width.
    let bytes = (len as u64).to_le_bytes();
    match len {
        0..LONG_FORM_FROM => out.put_slice(&bytes[..1]),
        LONG_FORM_FROM..HUGE_FORM_FROM => {
            out.put_u8(254);
            out.put_slice(&bytes[..3]);
        }
        _ => {
            out.put_u8(255);
            out.put_slice(&bytes[..7]);
        }
    }
    write(out);
    out.put_bytes(0, padding(out.len() - start));
}

impl Encode for Bytes {
    fn bare_len(&self) -> usize {
        bytes_len(self.len())
    }

    fn encode(&self, out: &mut BytesMut) {
        put_bytes(out, self.len(), |out| out.put_slice(self));
    }
}

impl Decode for Bytes {
    fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        r.bytes()
    }
}

impl Redacted for Bytes {
    fn redacted(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.len())
    }
}

impl Encode for ByteStr {
    fn bare_len(&self) -> usize {
        self.0.bare_len()
    }

    fn encode(&self, out: &mut BytesMut) {
        self.0.encode(out);
    }
}

impl Decode for ByteStr {
    fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        r.bytes().map(Self)
    }
}

impl Redacted for ByteStr {
    fn redacted(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A vector of bare items.
impl<T: Encode> Encode for Vec<T> {
    fn bare_len(&self) -> usize {
        4 + self.iter().map(Encode::bare_len).sum::<usize>()
    }

    fn encode(&self, out: &mut BytesMut) {
        // A vector too long to count is also too long for any frame, which is where it is refused.
        out.put_u32_le(u32::try_from(self.len()).unwrap_or(u32::MAX));
        self.iter().for_each(|item| item.encode(out));
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let count = r.u32()?;
        // Every item takes at least four bytes. Nothing is reserved on the word of the count even so.
        let most = MAX_VECTOR_ITEMS.min(r.remaining() / 4);
        if usize::try_from(count).map_or(true, |count| count > most) {
            return Err(DecodeError::VectorTooLong(count));
        }
        (0..count).map(|_| T::decode(r)).collect()
    }
}

impl<T: Redacted> Redacted for Vec<T> {
    fn redacted(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(Shown)).finish()
    }
}

impl<T: Redacted> Redacted for Option<T> {
    fn redacted(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.as_ref().map(Shown), f)
    }
}
