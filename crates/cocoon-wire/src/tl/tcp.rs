//! `tcp.*`: what a frame carries.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{ByteStr, Message, bytes_len, put_bytes};
use crate::macros::tl_union;

/// The id of `tcp.packet`.
const PACKET_ID: u32 = 0x9c17_baf8;

tl_union! {
    /// `tcp.Packet`: the payload of a frame.
    Packet {
        /// Asks for a [`Packet::Pong`].
        Ping = 0xbbe9_627c {
            /// Comes back in the answer.
            id: i64,
        },
        /// Answers a [`Packet::Ping`].
        Pong = 0x0bd4_302c {
            /// The ping's.
            id: i64,
        },
        /// A one-way message.
        Packet = 0x9c17_baf8 {
            /// A boxed message.
            data: Bytes,
        },
        /// A question that wants one answer.
        Query = 0x3af5_1908 {
            /// Chosen at random by the asking side.
            id: i64,
            /// A boxed query.
            data: Bytes,
        },
        /// The answer to a [`Packet::Query`].
        QueryAnswer = 0xc048_c311 {
            /// The query's.
            id: i64,
            /// A boxed answer.
            data: Bytes,
        },
        /// The refusal of a [`Packet::Query`].
        QueryError = 0x4cd2_f602 {
            /// The query's.
            id: i64,
            /// What kind of error.
            code: i32,
            /// For a reader.
            message: ByteStr,
        },
        /// The first payload of a connection, from the dialling side.
        Connect = 0xa57c_4261 {
            /// Comes back in the answer.
            id: i64,
        },
        /// The first payload from the accepting side.
        Connected = 0x636d_41d6 {
            /// That of `Connect`.
            id: i64,
        },
    }
}

/// Bytes that [`write_packet`] writes.
pub fn packet_len(message: &impl Message) -> usize {
    4 + bytes_len(message.encoded_len())
}

/// Appends a [`Packet::Packet`] that carries `message`, without a buffer in between.
pub fn write_packet(out: &mut BytesMut, message: &impl Message) {
    out.put_u32_le(PACKET_ID);
    put_bytes(out, message.encoded_len(), |out| message.encode_boxed(out));
}
