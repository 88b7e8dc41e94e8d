//! Bodies of messages to the contracts.

use crate::address::Address;
use crate::cell::{Cell, Writer};

/// `owner_client_register`.
const OP_CLIENT_REGISTER: u32 = 0xc45f_9f3b;

/// Body of the message by which a client's owner answers a proxy's long authorisation: the client contract passes
/// `nonce` on to the proxy's contract, where the proxy reads it. Excess coins go to `excesses_to`.
pub fn client_register(query_id: u64, nonce: u64, excesses_to: &Address) -> Cell {
    Writer::new()
        .uint(u64::from(OP_CLIENT_REGISTER), 32)
        .uint(query_id, 64)
        .uint(nonce, 64)
        .address(excesses_to)
        .build()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cell::Reader;

    #[test]
    fn the_register_message_is_operation_query_nonce_and_address() {
        let excesses_to = Address::basechain([4; 32]);
        let body = client_register(5, 6, &excesses_to);
        let mut reader = Reader::new(&body, "body").unwrap();
        assert_eq!(reader.u32("op").unwrap(), 0xc45f_9f3b);
        assert_eq!(reader.uint(64, "query_id").unwrap(), 5);
        assert_eq!(reader.uint(64, "nonce").unwrap(), 6);
        assert_eq!(reader.address("excesses").unwrap(), excesses_to);
        reader.end("body").unwrap();
    }
}
