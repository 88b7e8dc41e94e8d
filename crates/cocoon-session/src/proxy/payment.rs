//! What is owed for requests: settlement in the ledger, payment notices once that is durable, and signed orders.
//!
//! Order of events, whatever crashes in between: settle, log, durable, and only then a signature or a notice that
//! covers it. Signing happens once per account and commit, not once per request.

use std::collections::HashMap;

use bytes::Bytes;
use cocoon_ledger::{AdjustedTokens, ClientId, MarkError, RequestId, WorkerId};
use cocoon_ton::address::Address;
use cocoon_ton::payment::{OrderKind, PaymentOrder, SignedPayment};
use cocoon_wire::codec::ByteStr;
use cocoon_wire::tl::proxy::{self, ClientRequestPayment, WorkerRequestPayment};

use super::request::Request;
use super::{ConnId, Proxy};

/// A notice that waits for its record to be durable.
#[derive(Debug)]
pub(super) struct Notice {
    after: u64,
    pub(super) client: ConnId,
    client_request: [u8; 32],
    pub(super) worker: ConnId,
    worker_request: [u8; 32],
    tokens: i64,
}

/// The newest signed order of each kind and contract, and its bytes.
#[derive(Debug, Default)]
pub(super) struct SignedOrders(HashMap<(OrderKind, Address), (SignedPayment, Bytes)>);

impl Proxy {
    /// The newest order that charges a client: everything that is durable. `None` while that is nothing.
    pub fn charge_order(&mut self, contract: &Address) -> Option<SignedPayment> {
        let order = self.order(OrderKind::ChargeClient, contract).0;
        (order.order().tokens > 0).then_some(order)
    }

    /// The newest order that pays a worker: everything that is durable. `None` while that is nothing.
    pub fn payout_order(&mut self, contract: &Address) -> Option<SignedPayment> {
        let order = self.order(OrderKind::PayWorker, contract).0;
        (order.order().tokens > 0).then_some(order)
    }

    /// The newest order of a kind for a contract: the one place that signs. What is not durable is never signed for.
    /// The kinds that close a contract are for accounts that are closed durably.
    pub(super) fn order(&mut self, kind: OrderKind, contract: &Address) -> &(SignedPayment, Bytes) {
        let account = *contract.hash();
        let tokens = match kind {
            OrderKind::ChargeClient | OrderKind::RefundClient => self.ledger.chargeable(&ClientId(account)),
            OrderKind::PayWorker | OrderKind::PayWorkerLast => self.ledger.payable(&WorkerId(account)),
        };
        let tokens = tokens.0;
        let sign = || {
            // The query id is an echo for the sender; the contract does not look at it.
            let (query_id, excesses_to) = (tokens, self.settings.wallet);
            let order = PaymentOrder { kind, contract: *contract, query_id, tokens, excesses_to };
            let signed = order.sign(&self.settings.key);
            (signed, Bytes::from(signed.to_boc()))
        };
        let newest = self.orders.0.entry((kind, *contract)).or_insert_with(sign);
        if tokens > newest.0.order().tokens {
            *newest = sign();
        }
        newest
    }

    /// The newest order as messages carry it.
    pub(super) fn signed(&mut self, kind: OrderKind, contract: Option<Address>) -> proxy::SignedPayment {
        match contract {
            None => proxy::SignedPayment::Empty,
            Some(contract) => proxy::SignedPayment::Signed { data: self.order(kind, &contract).1.clone() },
        }
    }

    /// Charges a request, and queues its notices. Returns what was charged and what the worker loses.
    pub(super) fn settle(
        &mut self,
        request: &Request,
        claimed: AdjustedTokens,
    ) -> (AdjustedTokens, AdjustedTokens) {
        let worker = self.worker(request.worker).map(|worker| worker.account);
        let id = RequestId(request.id);
        let (charged, overrun) = match worker {
            // A worker that is gone claims nothing more.
            None => {
                self.ledger.release(id);
                (AdjustedTokens::ZERO, AdjustedTokens::ZERO)
            }
            Some(worker) => match self.ledger.settle(id, worker, claimed) {
                Ok(settlement) => (settlement.charged, settlement.overrun),
                Err(_) => {
                    self.ledger.release(id);
                    (AdjustedTokens::ZERO, claimed)
                }
            },
        };
        self.notices.push_back(Notice {
            after: self.ledger.position(),
            client: request.client,
            client_request: request.client_request,
            worker: request.worker,
            worker_request: request.attempt,
            tokens: charged.to_wire(),
        });
        if self.ledger.durable() >= self.ledger.position() {
            self.send_notices();
        }
        (charged, overrun)
    }

    /// Records up to `position` are durable: the notices and signatures that they cover may leave.
    ///
    /// # Errors
    /// The position lies ahead of everything that was handed out.
    pub fn persisted(&mut self, position: u64) -> Result<(), MarkError> {
        self.ledger.mark_durable(position)?;
        self.send_notices();
        self.grant_refunds();
        Ok(())
    }

    fn send_notices(&mut self) {
        let durable = self.ledger.durable();
        while let Some(notice) = self.notices.pop_front_if(|notice| notice.after <= durable) {
            let owner = self.client_mut(notice.client).and_then(|client| client.wallet);
            let (db_tokens, max_tokens, signed_payment) = self.client_counters(notice.client);
            if let Some(link) = self.link_mut(notice.client) {
                link.packet(&ClientRequestPayment {
                    request_id: notice.client_request,
                    signed_payment,
                    db_tokens,
                    max_tokens,
                    request_tokens: notice.tokens,
                });
            }
            let (db_tokens, max_tokens, signed_payment) = self.worker_counters(notice.worker);
            let testnet = self.settings.is_testnet;
            if let Some(link) = self.link_mut(notice.worker) {
                link.packet(&WorkerRequestPayment {
                    request_id: notice.worker_request,
                    signed_payment,
                    db_tokens,
                    max_tokens,
                    request_tokens: notice.tokens,
                    request_client_owner: owner
                        .map_or_else(ByteStr::default, |owner| owner.to_wire_string(testnet).into()),
                });
            }
        }
    }

    /// Durable tokens, twice, and the newest signed order of a client. The protocol has room for tokens that are not
    /// durable yet, but a crash would take those back, and the client would rightly refuse a proxy whose figures fell.
    pub(super) fn client_counters(&mut self, conn: ConnId) -> (i64, i64, proxy::SignedPayment) {
        let Some((account, contract)) = self.client_mut(conn).map(|client| (client.account, client.contract))
        else {
            return (0, 0, proxy::SignedPayment::Empty);
        };
        let signed = self.signed(OrderKind::ChargeClient, contract);
        let durable = self.ledger.chargeable(&account).to_wire();
        (durable, durable, signed)
    }

    /// Durable tokens, twice, and the newest signed order of a worker; as for a client.
    pub(super) fn worker_counters(&mut self, conn: ConnId) -> (i64, i64, proxy::SignedPayment) {
        let Some((account, contract)) = self.worker(conn).map(|worker| (worker.account, worker.contract))
        else {
            return (0, 0, proxy::SignedPayment::Empty);
        };
        let signed = self.signed(OrderKind::PayWorker, contract);
        let durable = self.ledger.payable(&account).to_wire();
        (durable, durable, signed)
    }
}
