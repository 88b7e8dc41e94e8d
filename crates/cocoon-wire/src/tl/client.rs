//! `client.*`: what a client asks its proxy, and the proxy's answers.

use bytes::Bytes;

use super::proxy::{self, SignedPayment};
use super::{ProtoRange, TokensUsed};
use crate::codec::ByteStr;
use crate::macros::{tl_debug, tl_struct, tl_union};

tl_struct! {
    /// `client.params`.
    #[derive(Eq)]
    Params = 0x40fd_ca64 {} flags keep
        /// Bits 2 to 30 of the flags word: offers of extensions, such as [`EXT_V1`](super::ext::EXT_V1).
        /// Other bits are ignored on encoding.
        ext_flags
    {
        /// The client's wallet.
        client_owner_address: ByteStr,
    } optional {
        0 => /// Works on the test root contract.
            is_test: bool,
        1 => /// Absent at protocol version 0.
            proto: ProtoRange,
    }
}

tl_struct! {
    /// `client.connectToProxy`, answered by [`ConnectedToProxy`].
    #[derive(Eq)]
    ConnectToProxy = 0xff5f_a0f4 {
        /// The client.
        params: Params,
        /// The lowest version of the root contract's params that the client accepts.
        min_config_version: i32,
    }
}

tl_union! {
    /// `client.ProxyConnectionAuth`: how the client must prove that it owns its contract.
    #[derive(Eq)]
    ProxyConnectionAuth {
        /// By [`AuthorizeWithProxyShort`].
        Short = 0xd6ff_c5af {
            /// SHA-256 of the secret, as on chain.
            secret_hash: [u8; 32],
            /// For the long way.
            nonce: i64,
        },
        /// By a message on chain, then [`AuthorizeWithProxyLong`].
        Long = 0x417b_f016 {
            /// To be put in the message.
            nonce: i64,
        },
    }
}

tl_struct! {
    /// `client.connectedToProxy`.
    #[derive(Eq)]
    ConnectedToProxy = 0x9531_7ad1 {
        /// The proxy.
        params: proxy::Params,
        /// The contract between the two, to be recomputed by the client.
        client_sc_address: ByteStr,
        /// What comes next.
        auth: ProxyConnectionAuth,
        /// The newest.
        signed_payment: SignedPayment,
    }
}

tl_struct! {
    /// `client.authorizeWithProxyShort`, answered by [`AuthorizationWithProxy`].
    #[derive(Eq)]
    AuthorizeWithProxyShort = 0x6c27_6723 {
        /// The secret.
        data: Bytes,
    }
}

tl_struct! {
    /// `client.authorizeWithProxyLong`, answered by [`AuthorizationWithProxy`].
    #[derive(Copy, Eq)]
    AuthorizeWithProxyLong = 0xd347_4303 {}
}

tl_union! {
    /// `client.AuthorizationWithProxy`.
    #[derive(Eq)]
    AuthorizationWithProxy {
        /// Requests may come.
        Success = 0x75d5_ac34 {
            /// The newest.
            signed_payment: SignedPayment,
            /// What the proxy has saved, in adjusted tokens.
            tokens_committed_to_db: i64,
            /// At most, unsaved work included.
            max_tokens: i64,
        },
        /// The proof was refused.
        Failed = 0x6055_1c96 {
            /// What kind of error.
            error_code: i32,
            /// For a reader.
            error: ByteStr,
        },
    }
}

tl_struct! {
    /// `client.runQuery`: the form of protocol version 0; answered by [`QueryAnswer`] and the like.
    RunQuery = 0xbc74_8f32 {
        /// The part of a model's name before `@`.
        model_name: ByteStr,
        /// A boxed [`http::Request`](super::http::Request).
        query: Bytes,
        /// The highest price, in thousandths of the network's.
        max_coefficient: i32,
        /// To be reserved.
        max_tokens: i32,
        /// Seconds; any `double`.
        timeout: f64,
        /// Chosen by the client.
        request_id: [u8; 32],
        /// The lowest version of the root contract's params that the client accepts.
        min_config_version: i32,
    }
}

tl_struct! {
    /// `client.runQueryEx`, answered by [`QueryAnswerEx`] and the like.
    RunQueryEx = 0xf54c_b74b {
        /// The part of a model's name before `@`.
        model_name: ByteStr,
        /// A boxed [`http::Request`](super::http::Request).
        query: Bytes,
        /// The highest price, in thousandths of the network's.
        max_coefficient: i32,
        /// To be reserved.
        max_tokens: i32,
        /// Seconds; any `double`.
        timeout: f64,
        /// Chosen by the client.
        request_id: [u8; 32],
        /// The lowest version of the root contract's params that the client accepts.
        min_config_version: i32,
    } flags {} optional {
        0 => /// Whether debug information is wanted in the final info.
            enable_debug: bool,
    }
}

tl_struct! {
    /// `client.queryAnswer`: the head of an answer, in the form of protocol version 0.
    #[derive(Eq)]
    QueryAnswer = 0x9b94_3922 {
        /// A boxed [`http::Response`](super::http::Response).
        answer: Bytes,
        /// Nothing follows.
        is_completed: bool,
        /// The client's.
        request_id: [u8; 32],
        /// So far.
        request_tokens_used: TokensUsed,
    }
}

tl_struct! {
    /// `client.queryAnswerError`: failure before the head, in the form of protocol version 0. Published
    /// proxies send it at later versions too.
    #[derive(Eq)]
    QueryAnswerError = 0x6d60_569a {
        /// What kind of error.
        error_code: i32,
        /// For a reader.
        error: ByteStr,
        /// The client's.
        request_id: [u8; 32],
        /// So far.
        request_tokens_used: TokensUsed,
    }
}

tl_struct! {
    /// `client.queryAnswerPart`: more of the body, in the form of protocol version 0.
    #[derive(Eq)]
    QueryAnswerPart = 0xb765_de4c {
        /// Bytes of the body.
        answer: Bytes,
        /// Nothing follows.
        is_completed: bool,
        /// The client's.
        request_id: [u8; 32],
        /// So far.
        request_tokens_used: TokensUsed,
    }
}

tl_struct! {
    /// `client.queryAnswerPartError`: failure after the head, in the form of protocol version 0.
    #[derive(Eq)]
    QueryAnswerPartError = 0xd790_a022 {
        /// What kind of error.
        error_code: i32,
        /// For a reader.
        error: ByteStr,
        /// The client's.
        request_id: [u8; 32],
        /// So far.
        request_tokens_used: TokensUsed,
    }
}

tl_struct! {
    /// Debug information, where the request asked for it.
    #[derive(Eq)]
    FinalDebug {
        /// JSON.
        worker_debug: ByteStr,
        /// JSON.
        proxy_debug: ByteStr,
    }
}

tl_struct! {
    /// When proxy and worker worked, in Unix seconds; any `double`.
    #[derive(Copy)]
    FinalTimings {
        /// Request received by the proxy.
        proxy_start_time: f64,
        /// Answer complete at the proxy.
        proxy_end_time: f64,
        /// Request received by the worker.
        worker_start_time: f64,
        /// Answer complete at the worker.
        worker_end_time: f64,
    }
}

tl_struct! {
    /// `client.queryFinalInfo`: what a request came to.
    QueryFinalInfo = 0x69a4_52f0 {} flags {
        /// Charged.
        tokens_used: TokensUsed,
    } optional {
        0 => /// Where the request asked for it.
            debug: FinalDebug,
        1 => /// Absent at old protocol versions.
            timings: FinalTimings,
    }
}

tl_struct! {
    /// `client.queryAnswerEx`: the head of an answer.
    QueryAnswerEx = 0xcd52_4720 {
        /// The client's.
        request_id: [u8; 32],
        /// A boxed [`http::Response`](super::http::Response).
        answer: Bytes,
    } flags {} optional {
        0 => /// Present when nothing follows.
            final_info: QueryFinalInfo,
    }
}

tl_struct! {
    /// `client.queryAnswerErrorEx`: failure, before or after the head.
    QueryAnswerErrorEx = 0x0725_62a8 {
        /// The client's.
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
    /// `client.queryAnswerPartEx`: more of the body.
    QueryAnswerPartEx = 0xc07b_faec {
        /// The client's.
        request_id: [u8; 32],
        /// Bytes of the body.
        answer: Bytes,
    } flags {} optional {
        0 => /// Present when nothing follows.
            final_info: QueryFinalInfo,
    }
}

tl_struct! {
    /// `client.requestRefund`, answered by [`Refund`].
    #[derive(Copy, Eq)]
    RequestRefund = 0x238d_863d {}
}

tl_union! {
    /// `client.Refund`.
    #[derive(Eq)]
    Refund {
        /// Granted.
        Refund = 0x83aa_bead {
            /// A signed order for the client's contract: a bag of cells.
            data: Bytes,
        },
        /// Not while requests run.
        Rejected = 0xcf9d_9957 {
            /// How many run.
            active_queries: i64,
        },
    }
}

tl_struct! {
    /// `client.updatePaymentStatus`, answered by [`PaymentStatus`].
    #[derive(Copy, Eq)]
    UpdatePaymentStatus = 0x9ed1_c697 {}
}

tl_struct! {
    /// `client.paymentStatus`.
    #[derive(Eq)]
    PaymentStatus = 0xaa8a_0ecc {
        /// The newest.
        signed_payment: SignedPayment,
        /// What the proxy has saved, in adjusted tokens.
        db_tokens: i64,
        /// At most, unsaved work included.
        max_tokens: i64,
    }
}

tl_struct! {
    /// `client.getWorkerTypes`, answered by [`WorkerTypes`].
    #[derive(Copy, Eq)]
    GetWorkerTypes = 0x7f06_2bdb {}
}

tl_struct! {
    /// `client.workerType`: the workers of one model.
    #[derive(Eq)]
    WorkerType = 0x8210_e21c {
        /// The part of the model's name before `@`.
        name: ByteStr,
        /// How many.
        active_workers: i32,
        /// The lowest price, in thousandths of the network's.
        coefficient_min: i32,
        /// The median price.
        coefficient_bucket50: i32,
        /// The highest price.
        coefficient_max: i32,
    }
}

tl_struct! {
    /// `client.workerTypes`.
    #[derive(Eq)]
    WorkerTypes = 0xf64e_0e01 {
        /// One for each model.
        types: Vec<WorkerType>,
    }
}

tl_struct! {
    /// `client.getWorkerTypesV2`, answered by [`WorkerTypesV2`].
    #[derive(Copy, Eq)]
    GetWorkerTypesV2 = 0xb213_3d72 {}
}

tl_struct! {
    /// `client.workerInstanceV2`: one worker.
    #[derive(Copy, Eq)]
    WorkerInstanceV2 = 0x3ea9_3d00 {} flags keep
        /// Bits 0 to 30 of the flags word; the scheme gives none a meaning.
        flags
    {
        /// Price in thousandths of the network's.
        coefficient: i32,
        /// Requests it runs for this proxy.
        active_requests: i32,
        /// Requests it takes from this proxy at once.
        max_active_requests: i32,
    } optional {}
}

tl_struct! {
    /// `client.workerTypeV2`: the workers of one model.
    #[derive(Eq)]
    WorkerTypeV2 = 0xb27d_8197 {
        /// The part of the model's name before `@`.
        name: ByteStr,
        /// Each of them.
        workers: Vec<WorkerInstanceV2>,
    }
}

tl_struct! {
    /// `client.workerTypesV2`.
    #[derive(Eq)]
    WorkerTypesV2 = 0x0cf0_dc67 {
        /// One for each model.
        types: Vec<WorkerTypeV2>,
    }
}
