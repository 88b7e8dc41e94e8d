//! Extensions of ours, sent only after both sides of a connection offered them in the flags words of their
//! params ([`EXT_V1`]). A published node ignores those bits and never offers, so it never meets these.

use crate::macros::{tl_debug, tl_struct};

/// The bit of the params' flags words by which a node offers extension set 1: [`Cancel`], [`Credit`], and
/// answer parts of at most [`MAX_PART_BYTES`] that interleave. Bits 0 and 1 are the scheme's.
pub const EXT_V1: u32 = 1 << 16;

/// The most answer bytes in one part where [`EXT_V1`] is agreed: 64 KiB.
pub const MAX_PART_BYTES: usize = 64 * 1024;

tl_struct! {
    /// `cocoon.cancel`: nobody waits for this request any more.
    #[derive(Copy, Eq)]
    Cancel = 0xe7e0_3050 {
        /// The request, by its id on this connection.
        request_id: [u8; 32],
    }
}

tl_struct! {
    /// `cocoon.credit`: the sender takes this many more answer bytes of a request.
    #[derive(Copy, Eq)]
    Credit = 0x9202_b4f2 {
        /// The request, by its id on this connection.
        request_id: [u8; 32],
        /// Bytes on top of what was granted before.
        bytes: i64,
    }
}
