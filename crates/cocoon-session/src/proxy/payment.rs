//! What is owed for requests: settlement in the ledger, and payment notices once that is durable.
//!
//! Order of events, whatever crashes in between: settle, log, durable, and only then a signature or a notice that
//! covers it. Signing happens once per account and commit, not once per request.

use std::collections::BTreeMap;

use bytes::Bytes;
use cocoon_ledger::{AdjustedTokens, ClientId, Ledger, MarkError, RequestId, WorkerId};
use cocoon_ton::address::Address;
use cocoon_ton::payment::{OrderKind, PaymentOrder};
use cocoon_wire::codec::ByteStr;
use cocoon_wire::tl::proxy::{ClientRequestPayment, SignedPayment, WorkerRequestPayment};

use super::request::Request;
use super::{ConnId, Proxy, ProxySettings};

/// A notice that waits for its record to be durable.
#[derive(Debug)]
pub(super) struct Notice {
    after: u64,
    client: ConnId,
    client_request: [u8; 32],
    worker: ConnId,
    worker_request: [u8; 32],
    tokens: i64,
}

/// The newest signed order of each account.
#[derive(Debug, Default)]
pub(super) struct SignedOrders {
    clients: BTreeMap<ClientId, (u64, Bytes)>,
    workers: BTreeMap<WorkerId, (u64, Bytes)>,
}

impl SignedOrders {
    fn client(
        &mut self,
        settings: &ProxySettings,
        ledger: &Ledger,
        account: ClientId,
        contract: Option<Address>,
    ) -> SignedPayment {
        let Some(contract) = contract else { return SignedPayment::Empty };
        let tokens = ledger.chargeable(&account).0;
        let held = self.clients.entry(account).or_insert_with(|| (0, Bytes::new()));
        refresh(held, settings, OrderKind::ChargeClient, contract, tokens)
    }

    pub(super) fn worker(
        &mut self,
        settings: &ProxySettings,
        ledger: &Ledger,
        account: WorkerId,
        contract: Option<Address>,
    ) -> SignedPayment {
        let Some(contract) = contract else { return SignedPayment::Empty };
        let tokens = ledger.payable(&account).0;
        let held = self.workers.entry(account).or_insert_with(|| (0, Bytes::new()));
        refresh(held, settings, OrderKind::PayWorker, contract, tokens)
    }
}

fn refresh(
    held: &mut (u64, Bytes),
    settings: &ProxySettings,
    kind: OrderKind,
    contract: Address,
    tokens: u64,
) -> SignedPayment {
    if held.1.is_empty() || tokens > held.0 {
        // The query id is an echo for the sender; the contract does not look at it.
        let order = PaymentOrder { kind, contract, query_id: tokens, tokens, excesses_to: settings.wallet };
        *held = (tokens, Bytes::from(order.sign(&settings.key).to_boc()));
    }
    SignedPayment::Signed { data: held.1.clone() }
}

impl Proxy {
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
    pub(super) fn client_counters(&mut self, conn: ConnId) -> (i64, i64, SignedPayment) {
        let Some((account, contract)) = self.client_mut(conn).map(|client| (client.account, client.contract))
        else {
            return (0, 0, SignedPayment::Empty);
        };
        let signed = self.orders.client(&self.settings, &self.ledger, account, contract);
        let durable = self.ledger.chargeable(&account).to_wire();
        (durable, durable, signed)
    }

    /// Durable tokens, twice, and the newest signed order of a worker; as for a client.
    pub(super) fn worker_counters(&mut self, conn: ConnId) -> (i64, i64, SignedPayment) {
        let Some((account, contract)) = self.worker(conn).map(|worker| (worker.account, worker.contract))
        else {
            return (0, 0, SignedPayment::Empty);
        };
        let signed = self.orders.worker(&self.settings, &self.ledger, account, contract);
        let durable = self.ledger.payable(&account).to_wire();
        (durable, durable, signed)
    }
}
