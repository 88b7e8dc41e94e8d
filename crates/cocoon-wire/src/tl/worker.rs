//! `worker.*`: what a worker asks and tells its proxy, and the proxy's answers.

use bytes::Bytes;

use super::ProtoRange;
use super::proxy::{self, SignedPayment};
use crate::codec::ByteStr;
use crate::macros::{tl_debug, tl_struct};

tl_struct! {
    /// What a worker says of itself since protocol version 0's first extension.
    #[derive(Copy, Eq)]
    Limits {
        /// Works on the test root contract.
        is_test: bool,
        /// Proxies that this worker serves.
        proxy_cnt: i32,
        /// Requests it takes at once, over all its proxies.
        max_active_requests: i32,
    }
}

tl_struct! {
    /// `worker.params`.
    #[derive(Eq)]
    Params = 0x869c_73ed {} flags keep
        /// Bits 2 to 30 of the flags word: offers of extensions, such as [`EXT_V1`](super::ext::EXT_V1).
        /// Other bits are ignored on encoding.
        ext_flags
    {
        /// The address that is paid.
        worker_owner_address: ByteStr,
        /// `name@commit:verityhash`.
        model: ByteStr,
        /// Price in thousandths of the network's.
        coefficient: i32,
    } optional {
        0 => /// Absent from the oldest workers.
            limits: Limits,
        1 => /// Absent at protocol version 0.
            proto: ProtoRange,
    }
}

tl_struct! {
    /// `worker.connectToProxy`, answered by [`ConnectedToProxy`].
    #[derive(Eq)]
    ConnectToProxy = 0xcc48_4c5d {
        /// The worker.
        params: Params,
    }
}

tl_struct! {
    /// `worker.connectedToProxy`.
    #[derive(Eq)]
    ConnectedToProxy = 0x66bc_82ee {
        /// The proxy.
        params: proxy::Params,
        /// The contract between the two, to be recomputed by the worker.
        worker_sc_address: ByteStr,
    }
}

tl_struct! {
    /// `worker.compareBalanceWithProxy`: what the worker believes it has earned, in adjusted tokens;
    /// answered by [`CompareBalanceWithProxyResult`].
    #[derive(Copy, Eq)]
    CompareBalanceWithProxy = 0xdb38_6501 {
        /// Paid out on chain.
        tokens_committed_to_blockchain: i64,
        /// In the proxy's database, as far as the proxy has told.
        tokens_committed_to_db: i64,
        /// At most, unsaved work included.
        max_tokens: i64,
    }
}

tl_struct! {
    /// `worker.compareBalanceWithProxyResult`.
    #[derive(Eq)]
    CompareBalanceWithProxyResult = 0x9054_c411 {
        /// The newest.
        signed_payment: SignedPayment,
        /// What the proxy has saved.
        tokens_committed_to_db: i64,
        /// At most, unsaved work included.
        max_tokens: i64,
        /// 0: agreed; 1: the worker must send [`ExtendedCompareBalanceWithProxy`].
        error_code: i32,
    }
}

tl_struct! {
    /// `worker.extendedCompareBalanceWithProxy`, answered by [`ExtendedCompareBalanceWithProxyResult`].
    #[derive(Eq)]
    ExtendedCompareBalanceWithProxy = 0xf8dd_9914 {
        /// What the worker knows to be saved.
        tokens_committed_to_db: i64,
        /// Unspecified by the protocol.
        other: Bytes,
    }
}

tl_struct! {
    /// `worker.extendedCompareBalanceWithProxyResult`.
    #[derive(Copy, Eq)]
    ExtendedCompareBalanceWithProxyResult = 0x0c10_973e {
        /// 0: agreed.
        error_code: i32,
    }
}

tl_struct! {
    /// `worker.proxyHandshakeComplete`: the worker is ready; answered by [`ProxyHandshakeCompleted`].
    #[derive(Copy, Eq)]
    ProxyHandshakeComplete = 0xf843_b066 {
        /// Ready, but to be sent nothing.
        is_disabled: bool,
    }
}

tl_struct! {
    /// `worker.proxyHandshakeCompleted`.
    #[derive(Copy, Eq)]
    ProxyHandshakeCompleted = 0x3ad9_b886 {}
}

tl_struct! {
    /// `worker.updatePaymentStatus`, answered by [`PaymentStatus`].
    #[derive(Copy, Eq)]
    UpdatePaymentStatus = 0xdc70_a524 {}
}

tl_struct! {
    /// `worker.paymentStatus`.
    #[derive(Eq)]
    PaymentStatus = 0xa88b_d701 {
        /// The newest.
        signed_payment: SignedPayment,
        /// What the proxy has saved.
        db_tokens: i64,
        /// At most, unsaved work included.
        max_tokens: i64,
    }
}

tl_struct! {
    /// `worker.enabledDisabled`: whether the worker takes requests.
    #[derive(Copy, Eq)]
    EnabledDisabled = 0xb3b7_1039 {
        /// 0: it does.
        disabled: i32,
    }
}

tl_struct! {
    /// `worker.newCoefficient`: the worker's price has changed.
    #[derive(Copy, Eq)]
    NewCoefficient = 0x6af0_92b0 {
        /// In thousandths of the network's.
        new_coefficient: i32,
    }
}
