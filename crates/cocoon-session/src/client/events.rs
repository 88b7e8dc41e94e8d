//! What happens on a client's connection.

use std::sync::Arc;

use bytes::Bytes;
use cocoon_ton::address::Address;
use cocoon_wire::codec::ByteStr;
use cocoon_wire::tl::http;

use crate::{
    FinalInfo, KnownMarket, PaymentCounters, ProxyTerms, RequestFailure, WorkerEvidence, WorkerList,
};

/// One worker's offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Price in 1/1000 of the base price.
    pub coefficient: u32,
    /// Requests under way.
    pub active: u32,
    /// Most requests at a time.
    pub limit: u32,
}

/// A model and its offers, cheapest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelOffers {
    /// Model name without `@...`.
    pub name: String,
    /// The offers of workers that are ready.
    pub offers: Vec<Offer>,
}

/// What happened on the connection.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientEvent {
    /// Requests can be submitted.
    Ready(ProxyTerms),
    /// The proxy waits to see our registration with this nonce on chain.
    RegistrationNeeded {
        /// The nonce to register.
        nonce: i64,
        /// The client contract to send it to.
        contract: Address,
        /// What the proxy said of itself. It has not authorised us yet.
        terms: ProxyTerms,
    },
    /// The head of an answer: a sane status, and headers without those that frame the body. Its payload is empty.
    Head {
        /// Which request.
        request: [u8; 32],
        /// The worker that answers, by the fingerprint of its certificate, as a proxy of ours names it. `None` where
        /// there was no worker, or where the proxy is a published one.
        worker: Option<[u8; 32]>,
        /// Status and headers.
        head: http::Response,
    },
    /// Body bytes of an answer.
    Data {
        /// Which request.
        request: [u8; 32],
        /// The bytes.
        data: Bytes,
    },
    /// The answer is complete.
    Completed {
        /// Which request.
        request: [u8; 32],
        /// What it used.
        info: FinalInfo,
        /// Debug information of worker and proxy, JSON, where asked for.
        debug: Option<(ByteStr, ByteStr)>,
    },
    /// The answer will not be complete.
    Failed {
        /// Which request.
        request: [u8; 32],
        /// Why.
        failure: RequestFailure,
        /// What it used all the same, where that is known.
        info: Option<FinalInfo>,
    },
    /// The proxy acknowledges the payment of a request, or (without a request) tells the state of the account.
    Payment {
        /// Which request, and what it cost in adjusted tokens.
        request: Option<([u8; 32], i64)>,
        /// The counters now.
        counters: PaymentCounters,
    },
    /// What is on offer.
    Models(Vec<ModelOffers>),
    /// Which workers are connected to the proxy: the whole list, at first and each time that it has changed.
    Workers(Arc<WorkerList>),
    /// What a worker showed of itself.
    Evidence {
        /// The worker, as asked for.
        fingerprint: [u8; 32],
        /// `None`: the proxy does not know it, or no longer.
        evidence: Option<WorkerEvidence>,
    },
    /// What is on offer, as asked for by [`ask_market`](super::ClientSession::ask_market).
    Market(Arc<KnownMarket>),
    /// The account is closed for good. This signed order makes the client contract pay back what is left; it is not
    /// verified here.
    RefundGranted {
        /// The order, as bytes on the wire.
        order: Bytes,
    },
    /// No refund now.
    RefundRejected {
        /// How many requests the proxy still works on; 0 where it gives another reason.
        active_queries: i64,
    },
}
