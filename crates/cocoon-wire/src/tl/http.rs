//! `http.*`: the exchange that passes from gateway to worker and back, opaque to the proxy.

use bytes::Bytes;

use crate::codec::ByteStr;
use crate::macros::{tl_debug, tl_struct};

tl_struct! {
    /// `http.header`.
    #[derive(Eq)]
    Header = 0x8e9b_e511 {
        /// As received: any case, not checked to be a token.
        name: ByteStr,
        /// As received: not checked, not always UTF-8.
        value: ByteStr,
    }
}

tl_struct! {
    /// `http.request`.
    #[derive(Eq)]
    Request = 0x4749_2de5 {
        /// `POST` and the like.
        method: ByteStr,
        /// Path and query.
        url: ByteStr,
        /// `HTTP/1.1`.
        http_version: ByteStr,
        /// In order, names may repeat.
        headers: Vec<Header>,
        /// The body.
        payload: Bytes,
    }
}

tl_struct! {
    /// `http.response`.
    #[derive(Eq)]
    Response = 0x1cd0_c42b {
        /// `HTTP/1.1`.
        http_version: ByteStr,
        /// Any number: not checked to be a status.
        status_code: i32,
        /// The reason phrase.
        reason: ByteStr,
        /// In order, names may repeat.
        headers: Vec<Header>,
        /// The first bytes of the body; the rest follows in answer parts.
        payload: Bytes,
    }
}
