//! Accounts as the chain shows them, and how they end: what a client may spend, whether its contract closes, and the
//! orders over final counts.
//!
//! An account is closed in the books first, when nothing of it is under way any more; once that record is durable, no
//! order can ever name more than its final count, and only then is the order signed that closes the contract.

use std::time::Duration;

use cocoon_ledger::{ClientId, Nanoton, WorkerId};
use cocoon_ton::address::Address;
use cocoon_ton::contracts::{ClientState, ContractStatus};
use cocoon_ton::payment::{OrderKind, SignedPayment};
use cocoon_wire::tl::client;

use super::request::Rejection;
use super::{ClientPeer, ClientStage, ConnId, Peer, Proxy};
use crate::{ErrorCode, Time, Violation};

/// How long requests under way may still take once their client's contract closes. It takes what nobody charged along
/// when its delay is over, so it must not hold its account open by requests that take longer.
pub const CLOSING_GRACE: Duration = Duration::from_secs(60);

/// Kind of the rejection of requests whose account is being closed, or is closed.
pub(super) const ACCOUNT_CLOSING: &str = "account_closing";
/// What a client is told whose contract is closing or closed.
const CLIENT_CLOSING: &str = "this client's contract with the proxy is closing, or closed for good: it has left; go on with another wallet, which \
     for a gateway is another directory";
/// What a client is told of whom the chain knows more than the books: every order would be refused as an old one, and what
/// it uses could not be charged.
const BOOKS_BEHIND: &str = "the proxy's books know of fewer tokens than were charged on chain: its database was lost or is old; \
     its operator has to bring the newest one back";
/// Why the connections of a worker are closed whose account ends.
const WORKER_CLOSING: &str = "the worker's account at this proxy is closed; its last payout is on its way";

/// What the chain shows of a client's contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientChainState {
    /// Whether it may be charged, and goes on.
    pub status: ContractStatus,
    /// Coins that it may spend, the stake included.
    pub balance_nanoton: u64,
    /// Coins that its owner cannot take out while it is open.
    pub stake_nanoton: u64,
    /// Adjusted tokens charged on chain so far.
    pub tokens_used: u64,
    /// Nanoton per adjusted token, from the contract's own parameters.
    pub price_per_token_nanoton: u64,
    /// SHA-256 of the secret with which the client authorises itself.
    pub secret_hash: [u8; 32],
}

impl ClientChainState {
    /// From the contract's data and the price in its parameters, in nanoton per adjusted token.
    #[must_use]
    pub const fn new(state: &ClientState, price_per_token_nanoton: u64) -> Self {
        Self {
            status: state.status,
            balance_nanoton: state.balance_nanoton,
            stake_nanoton: state.stake_nanoton,
            tokens_used: state.tokens_used,
            price_per_token_nanoton,
            secret_hash: state.secret_hash,
        }
    }

    /// What may be charged to the client in all: what was, and the smaller of balance and stake. The stake is what
    /// the owner cannot withdraw behind the proxy's back; use beyond it might never be paid. A closed contract
    /// cannot be charged any more.
    #[must_use]
    pub fn lifetime_funds(&self) -> Nanoton {
        let charged = self.tokens_used.saturating_mul(self.price_per_token_nanoton);
        let chargeable = match self.status {
            ContractStatus::Open | ContractStatus::Closing => self.balance_nanoton.min(self.stake_nanoton),
            ContractStatus::Closed => 0,
        };
        Nanoton(charged.saturating_add(chargeable))
    }

    pub(super) fn is_open(&self) -> bool {
        self.status == ContractStatus::Open
    }
}

/// Coins that a client has beyond what it may use before it is charged.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Credit {
    beyond_nanoton: u64,
}

impl Credit {
    pub(super) fn of(state: &ClientChainState) -> Self {
        let usable = state.balance_nanoton.min(state.stake_nanoton);
        let beyond_nanoton = if state.is_open() { state.balance_nanoton - usable } else { 0 };
        Self { beyond_nanoton }
    }

    /// Whether a charge would make room for what does not fit now.
    pub(super) fn covers(self, needed: Nanoton, available: Nanoton) -> bool {
        self.beyond_nanoton >= needed.left_after(available).0
    }
}

/// How far the closing of an account is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseProgress {
    /// Requests of it are under way; it takes no new ones. Ask again.
    Busy,
    /// It is closed in the books, which are not durable yet. Ask again.
    Recorded,
    /// It is closed for good; the order that closes its contract at the final count.
    Done(SignedPayment),
}

/// A client that waits for its refund order until the record of its closing is durable.
#[derive(Debug)]
pub(super) struct WaitingRefund {
    conn: ConnId,
    query: i64,
}

impl Proxy {
    /// News from the chain about a client, at any time: its funds count from now on, and where its contract is closing
    /// or closed it takes no new requests. A changed secret concerns handshakes to come. News about a contract
    /// that neither has an account nor is connected changes nothing.
    pub fn client_seen(&mut self, contract: &Address, state: ClientChainState) {
        let account = ClientId(*contract.hash());
        let mut served = self.ledger.client(&account).is_some();
        for conn in self.conns.values_mut() {
            if let Peer::Client(client) = &mut conn.peer
                && client.contract.as_ref() == Some(contract)
            {
                client.chain = Some(state);
                served |= client.stage == ClientStage::Ready;
            }
        }
        if !served {
            return;
        }
        if !state.is_open() {
            self.begin_closing(account);
        }
        self.note_funds(account, state);
        self.flush_records();
    }

    /// Keeps what the chain shows of a client; where the ledger cannot, the client's connections end.
    pub(super) fn note_funds(&mut self, account: ClientId, state: ClientChainState) {
        let Err(error) = self.ledger.set_client_funds(account, state.lifetime_funds()) else { return };
        for (&conn, state) in &self.conns {
            if matches!(&state.peer, Peer::Client(client) if client.account == account) {
                self.doomed.insert(conn, Violation::Mismatch(error.to_string()));
            }
        }
    }

    fn begin_closing(&mut self, account: ClientId) {
        if self.closing.insert(account) {
            self.hurried.push(account);
        }
    }

    /// Gives the requests of clients that have begun to close no more than [`CLOSING_GRACE`].
    pub(super) fn hurry(&mut self, now: Time) {
        let accounts = std::mem::take(&mut self.hurried);
        if accounts.is_empty() {
            return;
        }
        let late = now.plus(CLOSING_GRACE);
        for (&key, request) in &mut self.requests {
            let Some(Peer::Client(client)) = self.conns.get(&request.client).map(|conn| &conn.peer) else {
                continue;
            };
            if request.deadline > late && accounts.contains(&client.account) {
                self.deadlines.remove(&(request.deadline, key));
                request.deadline = late;
                self.deadlines.insert((late, key));
            }
        }
    }

    /// Closes a client's account, for a contract that is closing on chain or has to be left; the client need not be
    /// connected. It takes no new requests from the first call on, and those under way end within [`CLOSING_GRACE`] and
    /// [`DRAIN_TIME`](super::DRAIN_TIME). Call again until it is done; then, and after
    /// a restart too, it gives the same order.
    pub fn close_client(&mut self, contract: &Address) -> CloseProgress {
        let account = ClientId(*contract.hash());
        self.begin_closing(account);
        // A position that overflows would keep it busy for ever; the log is full long before.
        if self.ledger.close_client(account).is_err() {
            return CloseProgress::Busy;
        }
        self.flush_records();
        if !self.ledger.closed_durably(&account) {
            return CloseProgress::Recorded;
        }
        CloseProgress::Done(self.order(OrderKind::RefundClient, contract).0)
    }

    /// Closes a worker's account, as [`Proxy::close_client`] does a client's: it gets no new requests from the first
    /// call on, and its connections are closed once it has none.
    pub fn close_worker(&mut self, contract: &Address) -> CloseProgress {
        let account = WorkerId(*contract.hash());
        self.closing_workers.insert(account);
        let is_its = |peer: &Peer| matches!(peer, Peer::Worker(worker) if worker.account == account);
        let conns: Vec<_> =
            self.conns.iter().filter(|(_, conn)| is_its(&conn.peer)).map(|(&id, _)| id).collect();
        for &conn in &conns {
            self.leave(conn, WORKER_CLOSING);
        }
        if self.requests.values().any(|request| conns.contains(&request.worker))
            || self.ledger.close_worker(account).is_err()
        {
            return CloseProgress::Busy;
        }
        self.flush_records();
        if !self.ledger.worker_closed_durably(&account) {
            return CloseProgress::Recorded;
        }
        CloseProgress::Done(self.order(OrderKind::PayWorkerLast, contract).0)
    }

    /// A client wants to leave with what is left of its balance.
    pub(super) fn on_refund_request(&mut self, conn: ConnId, query: i64) {
        let Some(account) = self.client_mut(conn).map(|client| client.account) else { return };
        let active = self.active_requests(account);
        if active > 0 {
            let active_queries = i64::try_from(active).unwrap_or(i64::MAX);
            self.answer(conn, query, &client::Refund::Rejected { active_queries });
            return;
        }
        let waits = self.refunds.iter().any(|refund| refund.conn == conn);
        let closed = self.ledger.close_client(account).map_err(|error| error.to_string());
        match (closed, waits) {
            (Ok(_), false) => {
                self.refunds.push(WaitingRefund { conn, query });
                self.grant_refunds();
            }
            (Ok(_), true) => self.refuse_query(conn, query, "the refund is being written down; wait for it"),
            (Err(error), _) => self.refuse_query(conn, query, &error),
        }
    }

    /// Requests of an account that are under way, or whose answers were not read to the end.
    fn active_requests(&self, account: ClientId) -> u64 {
        let under_way = self.ledger.client(&account).map_or(0, |account| account.reservations);
        let answers = self.conns.values().map(|conn| match &conn.peer {
            Peer::Client(client) if client.account == account => client.outbox.open_answers(),
            _ => 0,
        });
        under_way.max(answers.sum::<usize>() as u64)
    }

    /// Answers those refund requests whose account is closed durably by now.
    pub(super) fn grant_refunds(&mut self) {
        for refund in std::mem::take(&mut self.refunds) {
            let Some(client) = self.client_mut(refund.conn) else { continue };
            let (account, contract) = (client.account, client.contract);
            match contract {
                Some(contract) if self.ledger.closed_durably(&account) => {
                    let data = self.order(OrderKind::RefundClient, &contract).1.clone();
                    self.answer(refund.conn, refund.query, &client::Refund::Refund { data });
                }
                _ => self.refunds.push(refund),
            }
        }
    }

    /// Refuses a client that cannot be served by what the chain shows of it, and has its connection closed. `false`
    /// where it goes on.
    pub(super) fn turn_away(&mut self, conn: ConnId, query: i64) -> bool {
        let Some(client) = self.client_mut(conn) else { return true };
        let (account, chain) = (client.account, client.chain);
        let why = match chain {
            Some(state) if !state.is_open() => CLIENT_CLOSING,
            _ if self.is_behind(&account, chain) => BOOKS_BEHIND,
            _ => return false,
        };
        self.refuse_query(conn, query, why);
        self.doomed.insert(conn, Violation::Mismatch(format!("refused: {why}")));
        true
    }

    /// Whether more was charged on chain than the books know of.
    fn is_behind(&self, account: &ClientId, chain: Option<ClientChainState>) -> bool {
        let charged = self.ledger.client(account).map_or(0, |account| account.charged.0);
        chain.is_some_and(|state| state.tokens_used > charged)
    }

    /// Whether the account of a client may have new requests.
    pub(super) fn check_account(&self, client: &ClientPeer) -> Result<(), Rejection> {
        let account = &client.account;
        if self.closing.contains(account) || self.ledger.is_closed(account) {
            return Err((402, ACCOUNT_CLOSING, CLIENT_CLOSING.to_owned()));
        }
        if self.is_behind(account, client.chain) {
            return Err((503, "service_unavailable", BOOKS_BEHIND.to_owned()));
        }
        Ok(())
    }

    pub(super) fn refuse_query(&mut self, conn: ConnId, query: i64, words: &str) {
        if let Some(link) = self.link_mut(conn) {
            link.refuse(query, ErrorCode::NOT_READY, words);
        }
    }
}
