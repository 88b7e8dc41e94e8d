//! Every message of the protocol, listed once: how to make an arbitrary one, and how it looks as JSON, with
//! the names of the scheme.

use bytes::Bytes;
use cocoon_wire::tl::{self, ProtoRange, TokensUsed, client, ext, http, market, proxy, tcp, worker};
use cocoon_wire::{ByteStr, Message};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// An arbitrary value of the type.
pub(crate) trait Arb: Sized {
    fn arb() -> BoxedStrategy<Self>;
}

/// The value as JSON. Bytes and `int256` are hexadecimal, a `double` is its bits.
pub(crate) trait Json {
    fn json(&self) -> Value;
}

macro_rules! simple {
    ($($type:ty: $strategy:expr, $self:ident => $json:expr;)*) => {$(
        impl Arb for $type {
            fn arb() -> BoxedStrategy<Self> {
                $strategy.boxed()
            }
        }

        impl Json for $type {
            fn json(&$self) -> Value {
                $json
            }
        }
    )*};
}

/// Short data most often, and lengths around the edges of TL's forms and of padding.
fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![6 => vec(any::<u8>(), 0..12), 2 => vec(any::<u8>(), 250..262), 1 => vec(any::<u8>(), 1000)]
}

simple! {
    bool: any::<bool>(), self => json!(self);
    i32: any::<i32>(), self => json!(self);
    i64: any::<i64>(), self => json!(self);
    // NaN equals nothing; that it passes unharmed is seen in the fuzz targets.
    f64: {
        use proptest::num::f64::{INFINITE, NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
        POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO | INFINITE
    }, self => json!(self.to_bits());
    [u8; 32]: any::<[u8; 32]>(), self => json!(hex::encode(self));
    Bytes: data().prop_map(Bytes::from), self => json!(hex::encode(self));
    ByteStr: data().prop_map(|data| ByteStr(data.into())), self => json!(hex::encode(self.as_bytes()));
    ProtoRange: any::<(i32, i32)>().prop_map(|(min, max)| ProtoRange { min, max }),
        self => json!({ "min_proto_version": self.min, "max_proto_version": self.max });
}

/// The bits of a flags word that the scheme gives no meaning, and that are kept.
impl Arb for u32 {
    fn arb() -> BoxedStrategy<Self> {
        prop_oneof![Just(0), (0_u32..1 << 29).prop_map(|bits| bits << 2)].boxed()
    }
}

impl<T: Arb + std::fmt::Debug + Clone + 'static> Arb for Option<T> {
    fn arb() -> BoxedStrategy<Self> {
        proptest::option::of(T::arb()).boxed()
    }
}

impl<T: Arb + std::fmt::Debug + 'static> Arb for Vec<T> {
    fn arb() -> BoxedStrategy<Self> {
        vec(T::arb(), 0..4).boxed()
    }
}

impl<T: Json> Json for Vec<T> {
    fn json(&self) -> Value {
        self.iter().map(Json::json).collect()
    }
}

/// The arbitrary value of a field; its type follows from where it goes.
macro_rules! field {
    ($name:ident) => {
        Arb::arb()
    };
}

/// A struct: its constructor, its fields, and its optional fields by the bit of the flags word. A group of
/// fields has no constructor and is merged in the struct around it.
macro_rules! structs {
    ($($type:ty, $name:literal, { } ;)*) => {$(
        impl Arb for $type {
            fn arb() -> BoxedStrategy<Self> {
                Just(Self {}).boxed()
            }
        }

        impl Json for $type {
            fn json(&self) -> Value {
                json!({ "@": $name })
            }
        }
    )*};
    ($($type:ty, $name:literal, { $($field:ident)* } $(flags { $($keep:ident)? } {
        $($bit:literal $opt:ident)*
    })?;)*) => {$(
        impl Arb for $type {
            fn arb() -> BoxedStrategy<Self> {
                ($(field!($field),)* $($(field!($keep),)? $(field!($opt),)*)?)
                    .prop_map(|($($field,)* $($($keep,)? $($opt,)*)?)| {
                        Self { $($field,)* $($($keep,)? $($opt,)*)? }
                    })
                    .boxed()
            }
        }

        impl Json for $type {
            fn json(&self) -> Value {
                let mut map = Map::new();
                if !$name.is_empty() {
                    map.insert("@".into(), $name.into());
                }
                $(map.insert(stringify!($field).into(), self.$field.json());)*
                $(
                    let mut _flags = 0_u32;
                    $(_flags |= self.$keep;)?
                    $(if let Some(value) = &self.$opt {
                        _flags |= 1 << $bit;
                        match value.json() {
                            Value::Object(group) if !group.contains_key("@") => map.extend(group),
                            value => drop(map.insert(stringify!($opt).into(), value)),
                        }
                    })*
                    map.insert("flags".into(), _flags.into());
                )?
                map.into()
            }
        }
    )*};
}

macro_rules! unions {
    ($($type:ty { $($variant:ident $name:literal { $($field:ident)* })* })*) => {$(
        impl Arb for $type {
            fn arb() -> BoxedStrategy<Self> {
                prop_oneof![$(
                    (Just(()), $(field!($field),)*).prop_map(|(_, $($field,)*)| Self::$variant { $($field),* })
                ),*].boxed()
            }
        }

        impl Json for $type {
            fn json(&self) -> Value {
                match self {
                    $(Self::$variant { $($field),* } => json!({ "@": $name $(, stringify!($field): $field.json())* }),)*
                }
            }
        }
    )*};
}

macro_rules! directions {
    ($($type:ty { $($variant:ident)* })*) => {$(
        impl Arb for $type {
            fn arb() -> BoxedStrategy<Self> {
                prop_oneof![$(field!($variant).prop_map(<$type>::$variant)),*].boxed()
            }
        }

        impl Json for $type {
            fn json(&self) -> Value {
                match self {
                    $(Self::$variant(message) => message.json(),)*
                }
            }
        }
    )*};
}

structs! {
    worker::ProxyHandshakeCompleted, "worker.proxyHandshakeCompleted", {};
    worker::UpdatePaymentStatus, "worker.updatePaymentStatus", {};
    client::AuthorizeWithProxyLong, "client.authorizeWithProxyLong", {};
    client::RequestRefund, "client.requestRefund", {};
    client::UpdatePaymentStatus, "client.updatePaymentStatus", {};
    client::GetWorkerTypes, "client.getWorkerTypes", {};
    client::GetWorkerTypesV2, "client.getWorkerTypesV2", {};
}

structs! {
    TokensUsed, "tokensUsed", {
        prompt_tokens_used cached_tokens_used completion_tokens_used reasoning_tokens_used total_tokens_used
    };

    http::Header, "http.header", { name value };
    http::Request, "http.request", { method url http_version headers payload };
    http::Response, "http.response", { http_version status_code reason headers payload };

    worker::Limits, "", { is_test proxy_cnt max_active_requests };
    worker::Params, "worker.params", { worker_owner_address model coefficient }
        flags { ext_flags } { 0 limits 1 proto };
    worker::ConnectToProxy, "worker.connectToProxy", { params };
    worker::ConnectedToProxy, "worker.connectedToProxy", { params worker_sc_address };
    worker::CompareBalanceWithProxy, "worker.compareBalanceWithProxy", {
        tokens_committed_to_blockchain tokens_committed_to_db max_tokens
    };
    worker::CompareBalanceWithProxyResult, "worker.compareBalanceWithProxyResult", {
        signed_payment tokens_committed_to_db max_tokens error_code
    };
    worker::ExtendedCompareBalanceWithProxy, "worker.extendedCompareBalanceWithProxy", {
        tokens_committed_to_db other
    };
    worker::ExtendedCompareBalanceWithProxyResult, "worker.extendedCompareBalanceWithProxyResult", { error_code };
    worker::ProxyHandshakeComplete, "worker.proxyHandshakeComplete", { is_disabled };
    worker::PaymentStatus, "worker.paymentStatus", { signed_payment db_tokens max_tokens };
    worker::EnabledDisabled, "worker.enabledDisabled", { disabled };
    worker::NewCoefficient, "worker.newCoefficient", { new_coefficient };

    proxy::Params, "proxy.params", { proxy_public_key proxy_owner_address proxy_sc_address }
        flags { ext_flags } { 0 is_test 1 proto_version };
    proxy::RunQuery, "proxy.runQuery", { query signed_payment coefficient timeout request_id };
    proxy::RunQueryEx, "proxy.runQueryEx", { query signed_payment coefficient timeout request_id }
        flags {} { 0 enable_debug };
    proxy::QueryAnswer, "proxy.queryAnswer", { answer is_completed request_id tokens_used };
    proxy::QueryAnswerError, "proxy.queryAnswerError", { error_code error request_id tokens_used };
    proxy::QueryAnswerPart, "proxy.queryAnswerPart", { answer is_completed request_id tokens_used };
    proxy::QueryAnswerPartError, "proxy.queryAnswerPartError", { error_code error request_id tokens_used };
    proxy::WorkerTimings, "", { worker_start_time worker_end_time };
    proxy::QueryFinalInfo, "proxy.queryFinalInfo", { tokens_used } flags {} { 0 worker_debug 1 timings };
    proxy::QueryAnswerEx, "proxy.queryAnswerEx", { request_id answer } flags {} { 0 final_info };
    proxy::QueryAnswerErrorEx, "proxy.queryAnswerErrorEx", { request_id error_code error } flags {} { 0 final_info };
    proxy::QueryAnswerPartEx, "proxy.queryAnswerPartEx", { request_id answer } flags {} { 0 final_info };
    proxy::WorkerRequestPayment, "proxy.workerRequestPayment", {
        request_id signed_payment db_tokens max_tokens request_tokens request_client_owner
    };
    proxy::ClientRequestPayment, "proxy.clientRequestPayment", {
        request_id signed_payment db_tokens max_tokens request_tokens
    };

    client::Params, "client.params", { client_owner_address } flags { ext_flags } { 0 is_test 1 proto };
    client::ConnectToProxy, "client.connectToProxy", { params min_config_version };
    client::ConnectedToProxy, "client.connectedToProxy", { params client_sc_address auth signed_payment };
    client::AuthorizeWithProxyShort, "client.authorizeWithProxyShort", { data };
    client::RunQuery, "client.runQuery", {
        model_name query max_coefficient max_tokens timeout request_id min_config_version
    };
    client::RunQueryEx, "client.runQueryEx", {
        model_name query max_coefficient max_tokens timeout request_id min_config_version
    } flags {} { 0 enable_debug };
    client::QueryAnswer, "client.queryAnswer", { answer is_completed request_id request_tokens_used };
    client::QueryAnswerError, "client.queryAnswerError", { error_code error request_id request_tokens_used };
    client::QueryAnswerPart, "client.queryAnswerPart", { answer is_completed request_id request_tokens_used };
    client::QueryAnswerPartError, "client.queryAnswerPartError", {
        error_code error request_id request_tokens_used
    };
    client::FinalDebug, "", { worker_debug proxy_debug };
    client::FinalTimings, "", { proxy_start_time proxy_end_time worker_start_time worker_end_time };
    client::QueryFinalInfo, "client.queryFinalInfo", { tokens_used } flags {} { 0 debug 1 timings };
    client::QueryAnswerEx, "client.queryAnswerEx", { request_id answer } flags {} { 0 final_info };
    client::QueryAnswerErrorEx, "client.queryAnswerErrorEx", { request_id error_code error }
        flags {} { 0 final_info };
    client::QueryAnswerPartEx, "client.queryAnswerPartEx", { request_id answer } flags {} { 0 final_info };
    client::PaymentStatus, "client.paymentStatus", { signed_payment db_tokens max_tokens };
    client::WorkerType, "client.workerType", {
        name active_workers coefficient_min coefficient_bucket50 coefficient_max
    };
    client::WorkerTypes, "client.workerTypes", { types };
    client::WorkerInstanceV2, "client.workerInstanceV2", { coefficient active_requests max_active_requests }
        flags { flags } {};
    client::WorkerTypeV2, "client.workerTypeV2", { name workers };
    client::WorkerTypesV2, "client.workerTypesV2", { types };

    ext::Cancel, "cocoon.cancel", { request_id };
    ext::Credit, "cocoon.credit", { request_id bytes };
    ext::Worker, "cocoon.worker", { fingerprint models };
    ext::Workers, "cocoon.workers", { reset seen newest workers };
    ext::GetWorkers, "cocoon.getWorkers", { begun seen };
    ext::GetEvidence, "cocoon.getEvidence", { fingerprint };
    market::MarketOffer, "cocoon.marketOffer", {
        fingerprint coefficient active limit abilities first_byte_us milli_tokens_per_s success_ppm requests
    };
    market::MarketModel, "cocoon.marketModel", { name offers };
    market::Market, "cocoon.market", { models more next_model next_index };
    market::GetMarket, "cocoon.getMarket", { model index };
    ext::AllowWorkers, "cocoon.allowWorkers", { allow disallow };
    ext::RequestOptions, "cocoon.requestOptions", { request_id needs preference affinity trace body_bytes };
    ext::BodyPart, "cocoon.bodyPart", { request_id data last };
    ext::BodyCredit, "cocoon.bodyCredit", { request_id bytes };
    ext::Abilities, "cocoon.abilities", { abilities };
}

unions! {
    tcp::Packet {
        Ping "tcp.ping" { id }
        Pong "tcp.pong" { id }
        Packet "tcp.packet" { data }
        Query "tcp.query" { id data }
        QueryAnswer "tcp.queryAnswer" { id data }
        QueryError "tcp.queryError" { id code message }
        Connect "tcp.connect" { id }
        Connected "tcp.connected" { id }
    }
    proxy::SignedPayment {
        Signed "proxy.signedPayment" { data }
        Empty "proxy.signedPaymentEmpty" {}
    }
    client::ProxyConnectionAuth {
        Short "client.proxyConnectionAuthShort" { secret_hash nonce }
        Long "client.proxyConnectionAuthLong" { nonce }
    }
    client::AuthorizationWithProxy {
        Success "client.authorizationWithProxySuccess" { signed_payment tokens_committed_to_db max_tokens }
        Failed "client.authorizationWithProxyFailed" { error_code error }
    }
    client::Refund {
        Refund "client.refund" { data }
        Rejected "client.refundRejected" { active_queries }
    }
    ext::Evidence {
        Known "cocoon.evidence" { fingerprint certificate verdict }
        Unknown "cocoon.evidenceUnknown" { fingerprint }
    }
}

directions! {
    tl::WorkerQuery {
        ConnectToProxy CompareBalanceWithProxy ExtendedCompareBalanceWithProxy ProxyHandshakeComplete
        UpdatePaymentStatus
    }
    tl::ClientQuery {
        ConnectToProxy AuthorizeWithProxyShort AuthorizeWithProxyLong RequestRefund UpdatePaymentStatus
        GetWorkerTypes GetWorkerTypesV2 GetWorkers GetEvidence GetMarket
    }
    tl::ClientToProxy { RunQuery RunQueryEx Cancel Credit AllowWorkers RequestOptions BodyPart }
    tl::ProxyToWorker { RunQuery RunQueryEx WorkerRequestPayment Cancel Credit RequestOptions BodyPart }
    tl::WorkerToProxy {
        QueryAnswer QueryAnswerError QueryAnswerPart QueryAnswerPartError QueryAnswerEx QueryAnswerErrorEx
        QueryAnswerPartEx EnabledDisabled NewCoefficient BodyCredit Abilities
    }
    tl::ProxyToClient {
        QueryAnswer QueryAnswerError QueryAnswerPart QueryAnswerPartError QueryAnswerEx QueryAnswerErrorEx
        QueryAnswerPartEx ClientRequestPayment BodyCredit
    }
}

/// What is done with every message type.
pub(crate) trait ForEach {
    fn with<T: Message + Arb + Json + Clone + PartialEq + std::fmt::Debug + 'static>(&mut self);
}

macro_rules! every {
    ($($type:ty)*) => {
        /// Visits every type that can stand on its own, and every set of messages.
        pub(crate) fn for_each(visitor: &mut impl ForEach) {
            $(visitor.with::<$type>();)*
        }
    };
}

every! {
    tcp::Packet TokensUsed http::Header http::Request http::Response
    worker::Params worker::ConnectedToProxy worker::CompareBalanceWithProxyResult
    worker::ExtendedCompareBalanceWithProxyResult worker::ProxyHandshakeCompleted worker::PaymentStatus
    proxy::Params proxy::SignedPayment proxy::QueryFinalInfo
    client::Params client::ProxyConnectionAuth client::ConnectedToProxy client::AuthorizationWithProxy
    client::Refund client::PaymentStatus client::QueryFinalInfo client::WorkerType client::WorkerTypes
    client::WorkerInstanceV2 client::WorkerTypeV2 client::WorkerTypesV2
    ext::Worker ext::Workers ext::Evidence market::Market
    tl::WorkerQuery tl::ClientQuery tl::ClientToProxy tl::ProxyToWorker tl::WorkerToProxy tl::ProxyToClient
}
