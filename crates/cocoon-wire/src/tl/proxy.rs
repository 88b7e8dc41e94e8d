//! `proxy.*`: what a proxy says of itself, its orders to workers and their answers, payment notices.

use bytes::Bytes;

use super::TokensUsed;
use crate::codec::ByteStr;
use crate::macros::{tl_debug, tl_struct, tl_union};

tl_struct! {
    /// `proxy.params`.
    #[derive(Eq)]
    Params = 0xd5c5_609f {} flags keep
        /// Bits 2 to 30 of the flags word: offers of extensions, such as [`EXT_V1`](super::ext::EXT_V1).
        /// Other bits are ignored on encoding.
        ext_flags
    {
        /// The Ed25519 key that signs payments.
        proxy_public_key: [u8; 32],
        /// The address that is paid.
        proxy_owner_address: ByteStr,
        /// The proxy's contract, to be recomputed by the peer.
        proxy_sc_address: ByteStr,
    } optional {
        0 => /// Works on the test root contract.
            is_test: bool,
        1 => /// The version that the proxy chose. Absent at protocol version 0.
            proto_version: i32,
    }
}

tl_union! {
    /// `proxy.SignedPayment`: an order that the contract of a worker or client accepts.
    #[derive(Eq)]
    SignedPayment {
        /// There is one.
        Signed = 0x0299_8182 {
            /// A bag of cells.
            data: Bytes,
        },
        /// There is none yet.
        Empty = 0xb347_ce64,
    }
}

tl_struct! {
    /// `proxy.runQuery`: the form of protocol version 0; answered by [`QueryAnswer`] and the like.
    RunQuery = 0x4718_2416 {
        /// A boxed [`http::Request`](super::http::Request).
        query: Bytes,
        /// The worker's newest.
        signed_payment: SignedPayment,
        /// The price that the proxy counts with, in thousandths of the network's.
        coefficient: i64,
        /// Seconds; any `double`.
        timeout: f64,
        /// Chosen by the proxy, other than the client's.
        request_id: [u8; 32],
    }
}

tl_struct! {
    /// `proxy.runQueryEx`, answered by [`QueryAnswerEx`] and the like.
    RunQueryEx = 0xc805_e7e2 {
        /// A boxed [`http::Request`](super::http::Request).
        query: Bytes,
        /// The worker's newest.
        signed_payment: SignedPayment,
        /// The price that the proxy counts with, in thousandths of the network's.
        coefficient: i64,
        /// Seconds; any `double`.
        timeout: f64,
        /// Chosen by the proxy, other than the client's.
        request_id: [u8; 32],
    } flags {} optional {
        0 => /// Whether debug information is wanted in the final info.
            enable_debug: bool,
    }
}

tl_struct! {
    /// `proxy.queryAnswer`: the head of an answer, in the form of protocol version 0.
    #[derive(Eq)]
    QueryAnswer = 0x37e5_f725 {
        /// A boxed [`http::Response`](super::http::Response).
        answer: Bytes,
        /// Nothing follows.
        is_completed: bool,
        /// The proxy's.
        request_id: [u8; 32],
        /// So far.
        tokens_used: TokensUsed,
    }
}

tl_struct! {
    /// `proxy.queryAnswerError`: failure before the head, in the form of protocol version 0.
    #[derive(Eq)]
    QueryAnswerError = 0x669d_014e {
        /// What kind of error.
        error_code: i32,
        /// For a reader.
        error: ByteStr,
        /// The proxy's.
        request_id: [u8; 32],
        /// So far.
        tokens_used: TokensUsed,
    }
}

tl_struct! {
    /// `proxy.queryAnswerPart`: more of the body, in the form of protocol version 0.
    #[derive(Eq)]
    QueryAnswerPart = 0x72eb_00ee {
        /// Bytes of the body.
        answer: Bytes,
        /// Nothing follows.
        is_completed: bool,
        /// The proxy's.
        request_id: [u8; 32],
        /// So far.
        tokens_used: TokensUsed,
    }
}

tl_struct! {
    /// `proxy.queryAnswerPartError`: failure after the head, in the form of protocol version 0.
    #[derive(Eq)]
    QueryAnswerPartError = 0x940e_1168 {
        /// What kind of error.
        error_code: i32,
        /// For a reader.
        error: ByteStr,
        /// The proxy's.
        request_id: [u8; 32],
        /// So far.
        tokens_used: TokensUsed,
    }
}

tl_struct! {
    /// When the worker worked, in Unix seconds; any `double`.
    #[derive(Copy)]
    WorkerTimings {
        /// Request received.
        worker_start_time: f64,
        /// Answer complete.
        worker_end_time: f64,
    }
}

tl_struct! {
    /// `proxy.queryFinalInfo`: what a request came to.
    QueryFinalInfo = 0xe794_e6fc {} flags {
        /// To be charged.
        tokens_used: TokensUsed,
    } optional {
        0 => /// JSON.
            worker_debug: ByteStr,
        1 => /// Absent at old protocol versions.
            timings: WorkerTimings,
    }
}

tl_struct! {
    /// `proxy.queryAnswerEx`: the head of an answer.
    QueryAnswerEx = 0x1ce5_74e8 {
        /// The proxy's.
        request_id: [u8; 32],
        /// A boxed [`http::Response`](super::http::Response).
        answer: Bytes,
    } flags {} optional {
        0 => /// Present when nothing follows.
            final_info: QueryFinalInfo,
    }
}

tl_struct! {
    /// `proxy.queryAnswerErrorEx`: failure, before or after the head.
    QueryAnswerErrorEx = 0x8f7f_b0a7 {
        /// The proxy's.
        request_id: [u8; 32],
        /// What kind of error.
        error_code: i32,
        /// For a reader.
        error: ByteStr,
    } flags {} optional {
        0 => /// Absent from some, but published peers crash without it.
            final_info: QueryFinalInfo,
    }
}

tl_struct! {
    /// `proxy.queryAnswerPartEx`: more of the body.
    QueryAnswerPartEx = 0x6d85_b50f {
        /// The proxy's.
        request_id: [u8; 32],
        /// Bytes of the body.
        answer: Bytes,
    } flags {} optional {
        0 => /// Present when nothing follows.
            final_info: QueryFinalInfo,
    }
}

tl_struct! {
    /// `proxy.workerRequestPayment`: tells a worker what a request brought.
    #[derive(Eq)]
    WorkerRequestPayment = 0x1436_c0d5 {
        /// The proxy's.
        request_id: [u8; 32],
        /// The newest.
        signed_payment: SignedPayment,
        /// What the proxy has saved, in adjusted tokens.
        db_tokens: i64,
        /// At most, unsaved work included.
        max_tokens: i64,
        /// Of this request.
        request_tokens: i64,
        /// The client's owner address.
        request_client_owner: ByteStr,
    }
}

tl_struct! {
    /// `proxy.clientRequestPayment`: tells a client what a request cost.
    #[derive(Eq)]
    ClientRequestPayment = 0xc6bc_f127 {
        /// The client's.
        request_id: [u8; 32],
        /// The newest.
        signed_payment: SignedPayment,
        /// What the proxy has saved, in adjusted tokens.
        db_tokens: i64,
        /// At most, unsaved work included.
        max_tokens: i64,
        /// Of this request.
        request_tokens: i64,
    }
}
