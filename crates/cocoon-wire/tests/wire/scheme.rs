//! The scheme itself, and an encoder that knows nothing else: it takes a message as JSON and writes what the
//! scheme's line for its constructor says. A constructor's id is the CRC-32 of its line, unless pinned.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

/// Every line that clients, proxies and workers use, in the form that ids are computed from.
const SCHEME: &[&str] = &[
    "tcp.ping id:long = tcp.Packet",
    "tcp.pong id:long = tcp.Packet",
    "tcp.packet data:bytes = tcp.Packet",
    "tcp.queryAnswer id:long data:bytes = tcp.Packet",
    "tcp.queryError id:long code:int message:string = tcp.Packet",
    "tcp.query id:long data:bytes = tcp.Packet",
    "tcp.connected id:long = tcp.Packet",
    "tcp.connect id:long = tcp.Packet",
    "tokensUsed prompt_tokens_used:long cached_tokens_used:long completion_tokens_used:long \
     reasoning_tokens_used:long total_tokens_used:long = TokensUsed",
    "worker.params#869c73ed flags:# worker_owner_address:string model:string coefficient:int \
     is_test:flags.0?Bool proxy_cnt:flags.0?int max_active_requests:flags.0?int \
     min_proto_version:flags.1?int max_proto_version:flags.1?int = worker.Params",
    "proxy.params#d5c5609f flags:# proxy_public_key:int256 proxy_owner_address:string \
     proxy_sc_address:string is_test:flags.0?Bool proto_version:flags.1?int = proxy.Params",
    "client.params#40fdca64 flags:# client_owner_address:string is_test:flags.0?Bool \
     min_proto_version:flags.1?int max_proto_version:flags.1?int = client.Params",
    "client.proxyConnectionAuthShort secret_hash:int256 nonce:long = client.ProxyConnectionAuth",
    "client.proxyConnectionAuthLong nonce:long = client.ProxyConnectionAuth",
    "client.authorizationWithProxySuccess signed_payment:proxy.SignedPayment \
     tokens_committed_to_db:long max_tokens:long = client.AuthorizationWithProxy",
    "client.authorizationWithProxyFailed error_code:int error:string = client.AuthorizationWithProxy",
    "client.connectedToProxy params:proxy.params client_sc_address:string \
     auth:client.ProxyConnectionAuth signed_payment:proxy.SignedPayment = client.ConnectedToProxy",
    "client.queryAnswer answer:bytes is_completed:Bool request_id:int256 \
     request_tokens_used:tokensUsed = client.QueryAnswer",
    "client.queryAnswerError error_code:int error:string request_id:int256 \
     request_tokens_used:tokensUsed = client.QueryAnswer",
    "client.queryAnswerPart answer:bytes is_completed:Bool request_id:int256 \
     request_tokens_used:tokensUsed = client.QueryAnswerPart",
    "client.queryAnswerPartError error_code:int error:string request_id:int256 \
     request_tokens_used:tokensUsed = client.QueryAnswerPart",
    "client.queryFinalInfo flags:# tokens_used:tokensUsed worker_debug:flags.0?string \
     proxy_debug:flags.0?string proxy_start_time:flags.1?double proxy_end_time:flags.1?double \
     worker_start_time:flags.1?double worker_end_time:flags.1?double = client.QueryFinalInfo",
    "client.queryAnswerEx request_id:int256 answer:bytes flags:# \
     final_info:flags.0?client.queryFinalInfo = client.QueryAnswerEx",
    "client.queryAnswerErrorEx request_id:int256 error_code:int error:string flags:# \
     final_info:flags.0?client.queryFinalInfo = client.QueryAnswerEx",
    "client.queryAnswerPartEx request_id:int256 answer:bytes flags:# \
     final_info:flags.0?client.queryFinalInfo = client.QueryAnswerEx",
    "client.refund data:bytes = client.Refund",
    "client.refundRejected active_queries:long = client.Refund",
    "client.workerType name:string active_workers:int coefficient_min:int coefficient_bucket50:int \
     coefficient_max:int = client.WorkerType",
    "client.workerTypes types:vector client.workerType = client.WorkerTypes",
    "client.workerInstanceV2#3ea93d00 flags:# coefficient:int active_requests:int \
     max_active_requests:int = client.WorkerInstanceV2",
    "client.workerTypeV2 name:string workers:vector client.workerInstanceV2 = client.WorkerTypeV2",
    "client.workerTypesV2 types:vector client.workerTypeV2 = client.WorkerTypesV2",
    "client.paymentStatus signed_payment:proxy.SignedPayment db_tokens:long max_tokens:long = \
     client.PaymentStatus",
    "proxy.clientRequestPayment request_id:int256 signed_payment:proxy.SignedPayment db_tokens:long \
     max_tokens:long request_tokens:long = proxy.WorkerRequestPayment",
    "client.connectToProxy params:client.params min_config_version:int = client.ConnectedToProxy",
    "client.authorizeWithProxyShort data:bytes = client.AuthorizationWithProxy",
    "client.authorizeWithProxyLong = client.AuthorizationWithProxy",
    "client.runQuery model_name:string query:bytes max_coefficient:int max_tokens:int timeout:double \
     request_id:int256 min_config_version:int = client.QueryAnswer",
    "client.runQueryEx model_name:string query:bytes max_coefficient:int max_tokens:int \
     timeout:double request_id:int256 min_config_version:int flags:# enable_debug:flags.0?Bool = \
     client.QueryAnswerEx",
    "client.requestRefund = client.Refund",
    "client.updatePaymentStatus = client.PaymentStatus",
    "client.getWorkerTypes = client.WorkerTypes",
    "client.getWorkerTypesV2 = client.WorkerTypesV2",
    "proxy.signedPayment data:bytes = proxy.SignedPayment",
    "proxy.signedPaymentEmpty = proxy.SignedPayment",
    "proxy.queryAnswer answer:bytes is_completed:Bool request_id:int256 tokens_used:tokensUsed = \
     proxy.QueryAnswer",
    "proxy.queryAnswerError error_code:int error:string request_id:int256 tokens_used:tokensUsed = \
     proxy.QueryAnswer",
    "proxy.queryAnswerPart answer:bytes is_completed:Bool request_id:int256 tokens_used:tokensUsed = \
     proxy.QueryAnswerPart",
    "proxy.queryAnswerPartError error_code:int error:string request_id:int256 tokens_used:tokensUsed \
     = proxy.QueryAnswerPart",
    "proxy.queryFinalInfo flags:# tokens_used:tokensUsed worker_debug:flags.0?string \
     worker_start_time:flags.1?double worker_end_time:flags.1?double = proxy.QueryFinalInfo",
    "proxy.queryAnswerEx request_id:int256 answer:bytes flags:# \
     final_info:flags.0?proxy.queryFinalInfo = proxy.QueryAnswerEx",
    "proxy.queryAnswerErrorEx request_id:int256 error_code:int error:string flags:# \
     final_info:flags.0?proxy.queryFinalInfo = proxy.QueryAnswerEx",
    "proxy.queryAnswerPartEx request_id:int256 answer:bytes flags:# \
     final_info:flags.0?proxy.queryFinalInfo = proxy.QueryAnswerEx",
    "proxy.workerRequestPayment request_id:int256 signed_payment:proxy.SignedPayment db_tokens:long \
     max_tokens:long request_tokens:long request_client_owner:string = proxy.WorkerRequestPayment",
    "proxy.runQuery query:bytes signed_payment:proxy.SignedPayment coefficient:long timeout:double \
     request_id:int256 = proxy.QueryAnswer",
    "proxy.runQueryEx query:bytes signed_payment:proxy.SignedPayment coefficient:long timeout:double \
     request_id:int256 flags:# enable_debug:flags.0?Bool = proxy.QueryAnswer",
    "worker.enabledDisabled disabled:int = worker.EnabledDisabled",
    "worker.newCoefficient new_coefficient:int = worker.NewCoefficient",
    "worker.connectedToProxy params:proxy.params worker_sc_address:string = worker.ConnectedToProxy",
    "worker.compareBalanceWithProxyResult signed_payment:proxy.SignedPayment \
     tokens_committed_to_db:long max_tokens:long error_code:int = \
     worker.CompareBalanceWithProxyResult",
    "worker.extendedCompareBalanceWithProxyResult error_code:int = \
     worker.ExtendedCompareBalanceWithProxyResult",
    "worker.proxyHandshakeCompleted = worker.HandshakeCompleted",
    "worker.paymentStatus signed_payment:proxy.SignedPayment db_tokens:long max_tokens:long = \
     worker.PaymentStatus",
    "worker.connectToProxy params:worker.params = worker.ConnectedToProxy",
    "worker.compareBalanceWithProxy tokens_committed_to_blockchain:long tokens_committed_to_db:long \
     max_tokens:long = worker.CompareBalanceWithProxyResult",
    "worker.extendedCompareBalanceWithProxy tokens_committed_to_db:long other:bytes = \
     worker.ExtendedCompareBalanceWithProxyResult",
    "worker.proxyHandshakeComplete is_disabled:Bool = worker.HandshakeCompleted",
    "worker.updatePaymentStatus = worker.PaymentStatus",
    "http.header name:string value:string = http.Header",
    "http.response http_version:string status_code:int reason:string headers:vector http.header \
     payload:bytes = http.Response",
    "http.request method:string url:string http_version:string headers:vector http.header \
     payload:bytes = http.Response",
    "cocoon.cancel request_id:int256 = cocoon.Ext",
    "cocoon.credit request_id:int256 bytes:long = cocoon.Ext",
    "cocoon.worker fingerprint:int256 models:vector string = cocoon.Worker",
    "cocoon.workers reset:Bool seen:long newest:long workers:vector cocoon.worker = cocoon.Workers",
    "cocoon.getWorkers begun:long seen:long = cocoon.Workers",
    "cocoon.evidence fingerprint:int256 certificate:bytes verdict:bytes = cocoon.Evidence",
    "cocoon.evidenceUnknown fingerprint:int256 = cocoon.Evidence",
    "cocoon.getEvidence fingerprint:int256 = cocoon.Evidence",
    "cocoon.marketOffer fingerprint:int256 coefficient:int active:int limit:int abilities:int \
     first_byte_us:long milli_tokens_per_s:long success_ppm:int requests:long = cocoon.MarketOffer",
    "cocoon.marketModel name:string offers:vector cocoon.marketOffer = cocoon.MarketModel",
    "cocoon.market models:vector cocoon.marketModel more:Bool next_model:string next_index:int = \
     cocoon.Market",
    "cocoon.getMarket model:string index:int = cocoon.Market",
    "cocoon.allowWorkers allow:vector int256 disallow:vector int256 = cocoon.Ext",
    "cocoon.requestOptions request_id:int256 needs:int preference:int affinity:vector long \
     trace:bytes body_bytes:long = cocoon.Ext",
    "cocoon.bodyPart request_id:int256 data:bytes last:Bool = cocoon.Ext",
    "cocoon.bodyCredit request_id:int256 bytes:long = cocoon.Ext",
    "cocoon.abilities abilities:int = cocoon.Ext",
];

struct Constructor {
    id: u32,
    /// Name and type.
    fields: Vec<(&'static str, String)>,
}

static CONSTRUCTORS: LazyLock<HashMap<&str, Constructor>> =
    LazyLock::new(|| SCHEME.iter().map(|line| constructor(line)).collect());

fn constructor(line: &'static str) -> (&'static str, Constructor) {
    let (left, _) = line.split_once(" =").unwrap();
    let mut words = left.split(' ');
    let (name, id) = match words.next().unwrap().split_once('#') {
        Some((name, pinned)) => (name, u32::from_str_radix(pinned, 16).unwrap()),
        None => (left.split(' ').next().unwrap(), crc32fast::hash(line.as_bytes())),
    };
    let mut fields: Vec<(&str, String)> = Vec::new();
    for word in words {
        match word.split_once(':') {
            Some((field, kind)) => fields.push((field, kind.to_owned())),
            // The item type of a vector.
            None => fields.last_mut().unwrap().1.push_str(&format!(" {word}")),
        }
    }
    (name, Constructor { id, fields })
}

/// The message by the scheme, constructor id first.
pub(crate) fn encode_boxed(message: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_boxed(message, &mut out);
    out
}

/// Every constructor of the scheme.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    SCHEME.iter().map(|line| constructor(line).0)
}

fn put_boxed(message: &Value, out: &mut Vec<u8>) {
    let name = message["@"].as_str().unwrap();
    out.extend(CONSTRUCTORS[name].id.to_le_bytes());
    put_bare(message, out);
}

fn put_bare(message: &Value, out: &mut Vec<u8>) {
    for (field, kind) in &CONSTRUCTORS[message["@"].as_str().unwrap()].fields {
        let value = &message[*field];
        match kind.strip_prefix("flags.") {
            None => put_value(kind, value, out),
            Some(optional) => {
                let (bit, kind) = optional.split_once('?').unwrap();
                let present = message["flags"].as_u64().unwrap() >> bit.parse::<u32>().unwrap() & 1 == 1;
                assert_eq!(present, !value.is_null(), "{field} goes with its flag");
                if present {
                    put_value(kind, value, out);
                }
            }
        }
    }
}

fn put_value(kind: &str, value: &Value, out: &mut Vec<u8>) {
    match kind {
        "#" => out.extend(u32::try_from(value.as_u64().unwrap()).unwrap().to_le_bytes()),
        "int" => out.extend(i32::try_from(value.as_i64().unwrap()).unwrap().to_le_bytes()),
        "long" => out.extend(value.as_i64().unwrap().to_le_bytes()),
        // As bits, because JSON knows no infinity.
        "double" => out.extend(value.as_u64().unwrap().to_le_bytes()),
        "int256" => out.extend(hex::decode(value.as_str().unwrap()).unwrap()),
        "string" | "bytes" => put_bytes(&hex::decode(value.as_str().unwrap()).unwrap(), out),
        "Bool" => out.extend(crc32fast::hash(bool_line(value).as_bytes()).to_le_bytes()),
        _ => match kind.strip_prefix("vector ") {
            Some(item_kind) => {
                let items = value.as_array().unwrap();
                out.extend((items.len() as u32).to_le_bytes());
                items.iter().for_each(|item| put_value(item_kind, item, out));
            }
            None if kind.rsplit('.').next().unwrap().starts_with(char::is_uppercase) => put_boxed(value, out),
            None => put_bare(value, out),
        },
    }
}

fn bool_line(value: &Value) -> &'static str {
    if value.as_bool().unwrap() { "boolTrue = Bool" } else { "boolFalse = Bool" }
}

fn put_bytes(data: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    if data.len() < 254 {
        out.push(data.len() as u8);
    } else {
        out.push(254);
        out.extend(&(data.len() as u32).to_le_bytes()[..3]);
    }
    out.extend(data);
    while !(out.len() - start).is_multiple_of(4) {
        out.push(0);
    }
}
