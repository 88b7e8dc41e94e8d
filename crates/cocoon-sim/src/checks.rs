//! What must hold in every history. Each check stands alone, so that tests can show that it fails.

use std::collections::{BTreeMap, BTreeSet};

use cocoon_ledger::{Change, ClientId, Ledger, PeerCounters, Record, RequestId, WorkerId};
use cocoon_session::{PaymentCounters, ProxyTerms, Time};
use cocoon_ton::{OrderKind, SignedPayment, VerifyingKey};

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Breach(pub String);

/// A caller's request, as its node names it.
pub type CallId = [u8; 32];

/// One worker's answer to a call.
#[derive(Debug, Default)]
struct Written {
    bytes: Vec<u8>,
    complete: bool,
}

#[derive(Debug)]
struct Call {
    deadline: Time,
    /// Most adjusted tokens that it may cost.
    bound: u64,
    ended: bool,
    answers: BTreeMap<[u8; 32], Written>,
}

/// The book of everything that is checked.
#[derive(Debug, Default)]
pub struct Checks {
    calls: BTreeMap<CallId, Call>,
    /// The call behind each id that a worker saw; the first one is the ledger's.
    attempts: BTreeMap<[u8; 32], CallId>,
    charged: BTreeSet<RequestId>,
    /// Final counts of accounts that were closed.
    closed: BTreeMap<ClientId, u64>,
    durable_clients: BTreeMap<ClientId, u64>,
    durable_workers: BTreeMap<WorkerId, u64>,
    client_notices: BTreeSet<CallId>,
    worker_notices: BTreeSet<[u8; 32]>,
    verified: BTreeSet<Vec<u8>>,
}

fn breach<T>(what: impl Into<String>) -> Result<T, Breach> {
    Err(Breach(what.into()))
}

/// The first bytes of an id, for people.
pub(crate) fn short(id: &[u8; 32]) -> String {
    id[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Checks {
    /// A caller submitted a request that may cost `bound` adjusted tokens at most.
    ///
    /// # Errors
    /// The id was used before.
    pub fn submitted(&mut self, id: CallId, deadline: Time, bound: u64) -> Result<(), Breach> {
        if self.calls.contains_key(&id) {
            return breach(format!("call {} was submitted twice", short(&id)));
        }
        self.calls.insert(id, Call { deadline, bound, ended: false, answers: BTreeMap::new() });
        Ok(())
    }

    /// The request ended for its caller: completed, failed, cancelled, or with the caller's own end.
    ///
    /// # Errors
    /// It is unknown, or ended before.
    pub fn ended(&mut self, id: &CallId) -> Result<(), Breach> {
        let Some(call) = self.calls.get_mut(id) else {
            return breach(format!("unknown call {} ended", short(id)));
        };
        if call.ended {
            return breach(format!("call {} ended twice", short(id)));
        }
        call.ended = true;
        call.answers = BTreeMap::new();
        Ok(())
    }

    /// Nothing may come for a request after its end.
    ///
    /// # Errors
    /// It is unknown or ended before.
    pub fn running(&self, id: &CallId) -> Result<(), Breach> {
        match self.calls.get(id) {
            Some(call) if !call.ended => Ok(()),
            _ => breach(format!("an event came for call {}, which is not running", short(id))),
        }
    }

    /// Every request ends by its deadline and a little.
    ///
    /// # Errors
    /// One did not.
    pub fn overdue(&self, now: Time, slack: std::time::Duration) -> Result<(), Breach> {
        match self.calls.iter().find(|(_, call)| !call.ended && call.deadline.plus(slack) < now) {
            None => Ok(()),
            Some((id, _)) => breach(format!("call {} outlives its deadline", short(id))),
        }
    }

    /// A worker got a call under the id `attempt`.
    pub fn attempt(&mut self, id: CallId, attempt: [u8; 32]) {
        self.attempts.insert(attempt, id);
        if let Some(call) = self.calls.get_mut(&id).filter(|call| !call.ended) {
            call.answers.insert(attempt, Written::default());
        }
    }

    /// An engine wrote body bytes; `complete` where these are the last.
    pub fn wrote(&mut self, attempt: &[u8; 32], bytes: &[u8], complete: bool) {
        let id = self.attempts.get(attempt);
        if let Some(written) =
            id.and_then(|id| self.calls.get_mut(id)).and_then(|call| call.answers.get_mut(attempt))
        {
            written.bytes.extend_from_slice(bytes);
            written.complete |= complete;
        }
    }

    /// What the caller received of an engine's answer is what one engine wrote: all of it where `complete`.
    ///
    /// # Errors
    /// It is not.
    pub fn received(&self, id: &CallId, bytes: &[u8], complete: bool) -> Result<(), Breach> {
        let mut answers = self.calls.get(id).into_iter().flat_map(|call| call.answers.values());
        let matches = answers.any(|written| {
            if complete {
                written.complete && written.bytes == bytes
            } else {
                written.bytes.starts_with(bytes)
            }
        });
        if matches || (!complete && bytes.is_empty()) {
            return Ok(());
        }
        breach(format!(
            "call {} received {} bytes that no engine wrote so (complete: {complete})",
            short(id),
            bytes.len()
        ))
    }

    /// The proxy wrote a record.
    ///
    /// # Errors
    /// A request is charged a second time, or over its bound.
    pub fn recorded(&mut self, record: &Record) -> Result<(), Breach> {
        let Change::Charge { request, client, tokens, .. } = &record.change else { return Ok(()) };
        if self.closed.contains_key(client) {
            return breach(format!("client {} is charged after its account was closed", short(&client.0)));
        }
        if !self.charged.insert(*request) {
            return breach(format!("request {} was charged twice", short(&request.0)));
        }
        let call = self.attempts.get(&request.0).and_then(|id| self.calls.get(id));
        match call {
            Some(call) if tokens.0 > call.bound => {
                breach(format!("{} tokens were charged where {} are reserved", tokens.0, call.bound))
            }
            _ => Ok(()),
        }
    }

    /// The proxy signed that a client's contract be closed at this count.
    ///
    /// # Errors
    /// The count is not what is durable, or differs from that of an order before.
    pub fn closed(&mut self, client: ClientId, tokens: u64) -> Result<(), Breach> {
        let (durable, _) = self.durable_totals(&client.0);
        if tokens != durable {
            return breach(format!("a client is closed at {tokens} tokens where {durable} are durable"));
        }
        match self.closed.insert(client, tokens) {
            Some(before) if before != tokens => {
                breach(format!("a client was closed at {before} tokens, and is closed again at {tokens}"))
            }
            _ => Ok(()),
        }
    }

    /// A record became durable.
    pub fn durable(&mut self, record: &Record) {
        if let Change::Charge { client, worker, client_total, worker_total, .. } = &record.change {
            self.durable_clients.insert(*client, client_total.0);
            self.durable_workers.insert(*worker, worker_total.0);
        }
    }

    /// Durable totals of a client and a worker, by the log.
    #[must_use]
    pub fn durable_totals(&self, account: &[u8; 32]) -> (u64, u64) {
        (
            self.durable_clients.get(&ClientId(*account)).copied().unwrap_or(0),
            self.durable_workers.get(&WorkerId(*account)).copied().unwrap_or(0),
        )
    }

    /// A proxy showed counters to a client or a worker.
    ///
    /// # Errors
    /// They fell, they name what is not durable, or their order does not verify.
    pub fn shown(
        &mut self,
        known: &mut PeerCounters,
        counters: &PaymentCounters,
        terms: &ProxyTerms,
        kind: OrderKind,
    ) -> Result<(), Breach> {
        let (client, worker) = self.durable_totals(terms.pair_contract.hash());
        let durable = if kind == OrderKind::ChargeClient { client } else { worker };
        let signed = counters.signed.as_ref().map(|bytes| self.verify(bytes, terms, kind)).transpose()?;
        known
            .observe(counters.db_tokens, counters.max_tokens, signed)
            .map_err(|why| Breach(why.to_string()))?;
        for (what, shown) in [("signed", signed.unwrap_or(0)), ("shown as saved", known.db())] {
            if shown > durable {
                return breach(format!("{shown} tokens are {what} where only {durable} are durable"));
            }
        }
        Ok(())
    }

    fn verify(&mut self, bytes: &[u8], terms: &ProxyTerms, kind: OrderKind) -> Result<u64, Breach> {
        let wrong = |why: &dyn std::fmt::Display| Breach(format!("a signed order does not hold: {why}"));
        let payment = SignedPayment::parse(bytes).map_err(|why| wrong(&why))?;
        // Ed25519 is slow without optimisation, and the same order comes again and again.
        if !self.verified.contains(bytes) {
            let key = VerifyingKey::from_bytes(&terms.public_key).map_err(|why| wrong(&why))?;
            payment.verify(&key, kind, &terms.pair_contract).map_err(|why| wrong(&why))?;
            self.verified.insert(bytes.to_vec());
        }
        Ok(payment.order().tokens)
    }

    /// A client got the payment notice of a call.
    ///
    /// # Errors
    /// The second one.
    pub fn client_notice(&mut self, id: CallId) -> Result<(), Breach> {
        if self.client_notices.insert(id) {
            return Ok(());
        }
        breach(format!("call {} got two payment notices", short(&id)))
    }

    /// A worker got the payment notice of a request.
    ///
    /// # Errors
    /// The second one.
    pub fn worker_notice(&mut self, attempt: [u8; 32]) -> Result<(), Breach> {
        if self.worker_notices.insert(attempt) {
            return Ok(());
        }
        breach(format!("request {} got two payment notices", short(&attempt)))
    }

    /// A call whose answer and connection both lived to the end must have got its notice.
    ///
    /// # Errors
    /// It has none.
    pub fn acknowledged(&self, id: &CallId) -> Result<(), Breach> {
        if self.client_notices.contains(id) {
            return Ok(());
        }
        breach(format!("call {} was answered but its payment notice never came", short(id)))
    }

    /// Sums agree.
    ///
    /// # Errors
    /// They do not.
    pub fn books(&self, ledger: &Ledger) -> Result<(), Breach> {
        ledger.check_invariants().map_err(|why| Breach(why.to_string()))?;
        let charged: u128 = ledger.clients().map(|(_, account)| u128::from(account.charged.0)).sum();
        let cost: u128 = ledger.clients().map(|(_, account)| u128::from(account.cost.0)).sum();
        let earned: u128 = ledger.workers().map(|(_, account)| u128::from(account.earned.0)).sum();
        let value: u128 = ledger.workers().map(|(_, account)| u128::from(account.value.0)).sum();
        if charged != earned {
            return breach(format!("clients are charged {charged} tokens, workers earned {earned}"));
        }
        if cost != value + u128::from(ledger.proxy_kept().0) {
            return breach(format!("clients pay {cost} nanoton, workers and proxy get another sum"));
        }
        Ok(())
    }
}
