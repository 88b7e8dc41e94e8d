//! The books of one proxy: what each client was charged, what each worker earned, what is reserved.
//!
//! Every change of a balance goes through one private function, `Ledger::post`, which also writes the record that
//! replays it. Reservations are not persisted: a crash forgets them, and the work they covered falls on the
//! proxy. Counters never fall, a request is charged at most once, an account that was closed never moves again, and
//! always charges of clients = earnings of workers + what the proxy keeps, in tokens and in nanoton.

mod account;
mod check;

use std::collections::{BTreeMap, VecDeque};

pub use self::account::{ClientAccount, WorkerAccount};

use crate::error::{ApplyError, CloseError, MarkError, ReserveError, SettleError};
use crate::ids::{ClientId, RequestId, WorkerId};
use crate::record::{Change, Record};
use crate::tariff::Rates;
use crate::units::{AdjustedTokens, MAX_COUNTER, Nanoton, Overflow};

/// Most reservations that are open at once, all clients together.
pub const MAX_RESERVATIONS: usize = 1 << 20;

/// The outcome of a settled request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settlement {
    /// Who was charged.
    pub client: ClientId,
    /// Who earned it.
    pub worker: WorkerId,
    /// By how much both counters rose.
    pub charged: AdjustedTokens,
    /// What the worker claimed.
    pub claimed: AdjustedTokens,
    /// What of the claim nobody pays: claimed - charged.
    pub overrun: AdjustedTokens,
    /// What the charge costs the client.
    pub cost: Nanoton,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reservation {
    client: ClientId,
    amount: AdjustedTokens,
    cost: Nanoton,
    rates: Rates,
}

/// A charge whose record is not known to be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Undurable {
    position: u64,
    client: ClientId,
    client_total: AdjustedTokens,
    worker: WorkerId,
    worker_total: AdjustedTokens,
}

/// Running sums over all accounts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    charged: AdjustedTokens,
    cost: Nanoton,
    reserved: AdjustedTokens,
    reserved_cost: Nanoton,
    kept: Nanoton,
}

/// The books of one proxy. See the [module](self).
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    pub(crate) position: u64,
    durable: u64,
    pub(crate) clients: BTreeMap<ClientId, ClientAccount>,
    pub(crate) workers: BTreeMap<WorkerId, WorkerAccount>,
    reservations: BTreeMap<RequestId, Reservation>,
    undurable: VecDeque<Undurable>,
    outbox: Vec<Record>,
    totals: Totals,
}

impl Ledger {
    /// Empty books at position 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes what the chain shows of a client: its **lifetime** funds, absolute. That is what its contract can be
    /// charged now plus what it has paid so far (tokens used on chain times price); both move
    /// when a charge reaches the chain, and their sum does not grow by it. Opens the account where it is new; unchanged
    /// funds write no record. Funds may fall below what is charged (a chain may be rolled back): then
    /// nothing more can be reserved.
    ///
    /// # Errors
    /// [`ApplyError`] only where the ledger's position overflows.
    pub fn set_client_funds(&mut self, client: ClientId, funds: Nanoton) -> Result<(), ApplyError> {
        if self.clients.get(&client).is_some_and(|account| account.funds == funds) {
            return Ok(());
        }
        self.record(Change::ClientFunds { client, funds })
    }

    /// A client's account, if funds were ever seen for it.
    pub fn client(&self, client: &ClientId) -> Option<&ClientAccount> {
        self.clients.get(client)
    }

    /// A worker's account, if it ever earned anything.
    pub fn worker(&self, worker: &WorkerId) -> Option<&WorkerAccount> {
        self.workers.get(worker)
    }

    /// All clients, by identifier.
    pub fn clients(&self) -> impl Iterator<Item = (&ClientId, &ClientAccount)> {
        self.clients.iter()
    }

    /// All workers, by identifier.
    pub fn workers(&self) -> impl Iterator<Item = (&WorkerId, &WorkerAccount)> {
        self.workers.iter()
    }

    /// What the proxy keeps of everything charged so far.
    pub fn proxy_kept(&self) -> Nanoton {
        self.totals.kept
    }

    /// What all clients were charged so far: tokens and their cost.
    pub fn charged(&self) -> (AdjustedTokens, Nanoton) {
        (self.totals.charged, self.totals.cost)
    }

    /// How many requests have an open reservation.
    pub fn reservations(&self) -> usize {
        self.reservations.len()
    }

    /// Sets `amount` aside for a request, at the rates that its charge will have. A charge never exceeds it.
    ///
    /// # Errors
    /// [`ReserveError`]; nothing is reserved then.
    pub fn reserve(
        &mut self,
        request: RequestId,
        client: ClientId,
        amount: AdjustedTokens,
        rates: Rates,
    ) -> Result<(), ReserveError> {
        if self.reservations.contains_key(&request) {
            return Err(ReserveError::DuplicateRequest(request));
        }
        if self.reservations.len() >= MAX_RESERVATIONS {
            return Err(ReserveError::TooManyReservations);
        }
        let account = self.clients.get_mut(&client).ok_or(ReserveError::UnknownClient(client))?;
        if account.is_closed() {
            return Err(ReserveError::ClientClosed(client));
        }
        let cost = amount.checked_cost(rates.price()).ok_or(Overflow { what: "cost of the reservation" })?;
        let available = account.available();
        if cost > available {
            return Err(ReserveError::InsufficientFunds { needed: cost, available });
        }
        // Everything charged plus everything reserved must fit, so that no later settlement can overflow:
        // neither the client's counter nor the worker's, which are both at most these sums.
        let totals = &mut self.totals;
        let tokens = sum(&[totals.charged.0, totals.reserved.0, amount.0]);
        if tokens.is_none_or(|tokens| tokens > MAX_COUNTER) {
            return Err(Overflow { what: "sum of all tokens" }.into());
        }
        if sum(&[totals.cost.0, totals.reserved_cost.0, cost.0]).is_none() {
            return Err(Overflow { what: "sum of all costs" }.into());
        }
        // Each is part of a sum that was just seen to fit.
        totals.reserved.0 += amount.0;
        totals.reserved_cost.0 += cost.0;
        account.reserved.0 += amount.0;
        account.reserved_cost.0 += cost.0;
        account.reservations += 1;
        self.reservations.insert(request, Reservation { client, amount, cost, rates });
        Ok(())
    }

    /// Ends a request with a charge: the least of the claim, the reservation, and what the client's funds cover. The
    /// reservation is released; an overrun is the worker's loss. A charge of zero writes no record.
    ///
    /// # Errors
    /// [`SettleError`] without effect, also where the request was settled before.
    pub fn settle(
        &mut self,
        request: RequestId,
        worker: WorkerId,
        claimed: AdjustedTokens,
    ) -> Result<Settlement, SettleError> {
        let reservation = *self.reservations.get(&request).ok_or(SettleError::UnknownRequest(request))?;
        let Reservation { client, amount, rates, .. } = reservation;
        let account = self.clients.get(&client).copied().unwrap_or_default();
        let unspent = account.funds.left_after(account.cost);
        let covered = match rates.price().0 {
            0 => amount,
            price => AdjustedTokens(unspent.0 / price),
        };
        let tokens = claimed.min(amount).min(covered);
        let cost = tokens.checked_cost(rates.price()).ok_or(ApplyError::from(Overflow { what: "cost" }))?;
        if tokens > AdjustedTokens::ZERO {
            let earner = self.workers.get(&worker).copied().unwrap_or_default();
            if earner.is_closed() {
                return Err(SettleError::WorkerClosed(worker));
            }
            let earned = earner.earned;
            let total = |counter: AdjustedTokens| {
                counter.checked_add(tokens).ok_or(ApplyError::from(Overflow { what: "counter" }))
            };
            let (client_total, worker_total) = (total(account.charged)?, total(earned)?);
            self.record(Change::Charge {
                request,
                client,
                worker,
                tokens,
                rates,
                client_total,
                worker_total,
            })?;
        }
        self.release(request);
        let overrun = claimed.left_after(tokens);
        Ok(Settlement { client, worker, charged: tokens, claimed, overrun, cost })
    }

    /// Ends a request without a charge. Returns whether it had a reservation.
    pub fn release(&mut self, request: RequestId) -> bool {
        let Some(reservation) = self.reservations.remove(&request) else { return false };
        let Reservation { client, amount, cost, .. } = reservation;
        self.totals.reserved = self.totals.reserved.left_after(amount);
        self.totals.reserved_cost = self.totals.reserved_cost.left_after(cost);
        if let Some(account) = self.clients.get_mut(&client) {
            account.reserved = account.reserved.left_after(amount);
            account.reserved_cost = account.reserved_cost.left_after(cost);
            account.reservations = account.reservations.saturating_sub(1);
        }
        true
    }

    /// Closes a client's account for good, and opens it where it is new: nothing is charged to it from now on, so its
    /// counter is final. Gives the position of the record that says so; an order over the final count may be signed
    /// once that is durable ([`Ledger::closed_durably`]). Closing again changes nothing.
    ///
    /// # Errors
    /// [`CloseError::Busy`] while requests of this client are in flight: refuse new ones, and wait for the last.
    pub fn close_client(&mut self, client: ClientId) -> Result<u64, CloseError> {
        let account = self.clients.get(&client).copied().unwrap_or_default();
        if let Some(position) = account.closed {
            return Ok(position);
        }
        if account.reservations > 0 {
            return Err(CloseError::Busy { reservations: account.reservations });
        }
        self.record(Change::CloseClient { client, client_total: account.charged })?;
        Ok(self.position)
    }

    /// Closes a worker's account for good, and opens it where it is new: it earns nothing from now on. As
    /// [`Ledger::close_client`]; which requests a worker has is not known here, so those that it still has go unpaid.
    ///
    /// # Errors
    /// [`ApplyError`] only where the ledger's position overflows.
    pub fn close_worker(&mut self, worker: WorkerId) -> Result<u64, ApplyError> {
        let account = self.workers.get(&worker).copied().unwrap_or_default();
        if let Some(position) = account.closed {
            return Ok(position);
        }
        self.record(Change::CloseWorker { worker, worker_total: account.earned })?;
        Ok(self.position)
    }

    /// Whether a client's account was closed for good.
    pub fn is_closed(&self, client: &ClientId) -> bool {
        self.clients.get(client).is_some_and(ClientAccount::is_closed)
    }

    /// Whether a worker's account was closed for good.
    pub fn is_worker_closed(&self, worker: &WorkerId) -> bool {
        self.workers.get(worker).is_some_and(WorkerAccount::is_closed)
    }

    /// Whether a client's account is closed and no crash can open it again: then [`Ledger::chargeable`] is final.
    pub fn closed_durably(&self, client: &ClientId) -> bool {
        let closed = self.clients.get(client).and_then(|account| account.closed);
        closed.is_some_and(|position| position <= self.durable)
    }

    /// Whether a worker's account is closed and no crash can open it again: then [`Ledger::payable`] is final.
    pub fn worker_closed_durably(&self, worker: &WorkerId) -> bool {
        let closed = self.workers.get(worker).and_then(|account| account.closed);
        closed.is_some_and(|position| position <= self.durable)
    }

    /// The records written since the last call, in order. Append them to a durable log after each step.
    pub fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.outbox)
    }

    /// How many records were ever written: the position of the newest.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Up to where records are known to be durable.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Notes that all records up to `position` are durable. A lower position than before changes nothing.
    ///
    /// # Errors
    /// [`MarkError`] where that is more than was ever taken; nothing is changed then.
    pub fn mark_durable(&mut self, position: u64) -> Result<(), MarkError> {
        // What still lies in the outbox cannot be durable.
        let taken = self.outbox.first().map_or(self.position, |record| record.position - 1);
        if position > taken {
            return Err(MarkError { durable: position, position: taken });
        }
        self.durable = self.durable.max(position);
        while let Some(charge) = self.undurable.pop_front_if(|charge| charge.position <= position) {
            if let Some(account) = self.clients.get_mut(&charge.client) {
                account.durable = charge.client_total;
            }
            if let Some(account) = self.workers.get_mut(&charge.worker) {
                account.durable = charge.worker_total;
            }
        }
        Ok(())
    }

    /// Up to what total a notice or signature may charge this client now: what durable records cover.
    pub fn chargeable(&self, client: &ClientId) -> AdjustedTokens {
        self.clients.get(client).map_or(AdjustedTokens::ZERO, |account| account.durable)
    }

    /// Up to what total a notice or signature may pay this worker now: what durable records cover.
    pub fn payable(&self, worker: &WorkerId) -> AdjustedTokens {
        self.workers.get(worker).map_or(AdjustedTokens::ZERO, |account| account.durable)
    }

    /// Replays a record that comes from the durable log; it counts as durable and is not written again. For a
    /// ledger that is being restored, before it serves.
    ///
    /// # Errors
    /// [`ApplyError`] without effect where the record does not continue these books.
    pub fn apply(&mut self, record: &Record) -> Result<(), ApplyError> {
        if let Some(unwritten) = self.outbox.first() {
            return Err(ApplyError::OutOfOrder { position: unwritten.position, found: record.position });
        }
        self.post(record)?;
        // The outbox is empty, so the ledger's own position is never ahead of itself.
        self.mark_durable(record.position)
            .map_err(|error| ApplyError::OutOfOrder { position: error.position, found: record.position })
    }

    /// Posts a new change and keeps its record for the log.
    fn record(&mut self, change: Change) -> Result<(), ApplyError> {
        let position = self.position.checked_add(1).ok_or(Overflow { what: "position" })?;
        let record = Record { position, change };
        self.post(&record)?;
        self.outbox.push(record);
        Ok(())
    }

    /// The one place where a balance changes. All or nothing.
    fn post(&mut self, record: &Record) -> Result<(), ApplyError> {
        let position = record.position;
        if self.position.checked_add(1) != Some(position) {
            return Err(ApplyError::OutOfOrder { position: self.position, found: position });
        }
        match record.change {
            Change::ClientFunds { client, funds } => {
                self.clients.entry(client).or_default().funds = funds;
            }
            Change::Charge { client, worker, tokens, rates, client_total, worker_total, .. } => {
                let mut payer = self.clients.get(&client).copied().unwrap_or_default();
                let mut earner = self.workers.get(&worker).copied().unwrap_or_default();
                if payer.is_closed() || earner.is_closed() {
                    return Err(ApplyError::Closed { position });
                }
                let mut totals = self.totals;
                charge(&mut payer, &mut earner, &mut totals, tokens, rates)?;
                if (payer.charged, earner.earned) != (client_total, worker_total) {
                    return Err(ApplyError::TotalsDiffer { position });
                }
                self.totals = totals;
                self.clients.insert(client, payer);
                self.workers.insert(worker, earner);
                self.undurable.push_back(Undurable { position, client, client_total, worker, worker_total });
            }
            Change::CloseClient { client, client_total } => {
                let account = self.clients.get(&client).copied().unwrap_or_default();
                check_closing(position, account.closed, account.charged, client_total)?;
                self.clients.insert(client, ClientAccount { closed: Some(position), ..account });
            }
            Change::CloseWorker { worker, worker_total } => {
                let account = self.workers.get(&worker).copied().unwrap_or_default();
                check_closing(position, account.closed, account.earned, worker_total)?;
                self.workers.insert(worker, WorkerAccount { closed: Some(position), ..account });
            }
        }
        self.position = position;
        Ok(())
    }

    /// Books read back from a snapshot: everything in them is durable, and the sums follow from the accounts.
    pub(crate) fn from_accounts(
        position: u64,
        mut clients: BTreeMap<ClientId, ClientAccount>,
        mut workers: BTreeMap<WorkerId, WorkerAccount>,
        kept: Nanoton,
    ) -> Result<Self, Overflow> {
        let mut totals = Totals { kept, ..Totals::default() };
        for account in clients.values_mut() {
            totals.charged = bounded(totals.charged.checked_add(account.charged))?;
            totals.cost =
                totals.cost.checked_add(account.cost).ok_or(Overflow { what: "sum of all costs" })?;
            account.durable = account.charged;
        }
        for account in workers.values_mut() {
            account.durable = account.earned;
        }
        Ok(Self { position, durable: position, clients, workers, totals, ..Self::default() })
    }
}

fn sum(numbers: &[u64]) -> Option<u64> {
    numbers.iter().try_fold(0_u64, |sum, &number| sum.checked_add(number))
}

fn bounded(tokens: Option<AdjustedTokens>) -> Result<AdjustedTokens, Overflow> {
    tokens.filter(|tokens| tokens.0 <= MAX_COUNTER).ok_or(Overflow { what: "sum of all tokens" })
}

/// An account is closed once, at the count that the books arrive at.
fn check_closing(
    position: u64,
    closed: Option<u64>,
    counter: AdjustedTokens,
    total: AdjustedTokens,
) -> Result<(), ApplyError> {
    match closed {
        Some(_) => Err(ApplyError::Closed { position }),
        None if counter != total => Err(ApplyError::TotalsDiffer { position }),
        None => Ok(()),
    }
}

/// Moves one charge through copies of the accounts it touches.
fn charge(
    payer: &mut ClientAccount,
    earner: &mut WorkerAccount,
    totals: &mut Totals,
    tokens: AdjustedTokens,
    rates: Rates,
) -> Result<(), Overflow> {
    let money = |amount: Option<Nanoton>| amount.ok_or(Overflow { what: "money" });
    let cost = money(tokens.checked_cost(rates.price()))?;
    let value = money(tokens.checked_cost(rates.worker_fee()))?;
    totals.charged = bounded(totals.charged.checked_add(tokens))?;
    totals.cost = money(totals.cost.checked_add(cost))?;
    // The fee never exceeds the price, and `kept` is at most the cost just checked.
    totals.kept = money(cost.checked_sub(value).and_then(|kept| totals.kept.checked_add(kept)))?;
    payer.charged = bounded(payer.charged.checked_add(tokens))?;
    payer.cost = money(payer.cost.checked_add(cost))?;
    earner.earned = bounded(earner.earned.checked_add(tokens))?;
    earner.value = money(earner.value.checked_add(value))?;
    Ok(())
}
