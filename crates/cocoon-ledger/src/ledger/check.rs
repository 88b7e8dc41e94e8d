//! Whether the books balance.

use std::collections::BTreeMap;

use super::Ledger;
use crate::error::InvariantViolation;
use crate::ids::ClientId;

impl Ledger {
    /// Recomputes every sum from the accounts and compares. Linear in the number of accounts and reservations.
    ///
    /// # Errors
    /// The first [`InvariantViolation`] found.
    pub fn check_invariants(&self) -> Result<(), InvariantViolation> {
        let wide = |numbers: &mut dyn Iterator<Item = u64>| numbers.map(u128::from).sum::<u128>();
        let charged = wide(&mut self.clients.values().map(|account| account.charged.0));
        let cost = wide(&mut self.clients.values().map(|account| account.cost.0));
        let earned = wide(&mut self.workers.values().map(|account| account.earned.0));
        let value = wide(&mut self.workers.values().map(|account| account.value.0));
        let kept = u128::from(self.totals.kept.0);
        if charged != earned {
            return Err(InvariantViolation::Tokens { charged, earned });
        }
        if cost != value + kept {
            return Err(InvariantViolation::Money { cost, value, kept });
        }
        if charged != u128::from(self.totals.charged.0) || cost != u128::from(self.totals.cost.0) {
            return Err(InvariantViolation::Totals);
        }
        self.check_reservations()?;
        let behind = self.clients.values().any(|account| account.durable > account.charged)
            || self.workers.values().any(|account| account.durable > account.earned)
            || self.durable > self.position;
        if behind { Err(InvariantViolation::Durable) } else { Ok(()) }
    }

    fn check_reservations(&self) -> Result<(), InvariantViolation> {
        let mut sums: BTreeMap<ClientId, (u128, u128, u64)> = BTreeMap::new();
        for reservation in self.reservations.values() {
            let (amount, cost, count) = sums.entry(reservation.client).or_default();
            *amount += u128::from(reservation.amount.0);
            *cost += u128::from(reservation.cost.0);
            *count += 1;
        }
        let (mut amount, mut cost) = (0, 0);
        for (client, account) in &self.clients {
            let held =
                (u128::from(account.reserved.0), u128::from(account.reserved_cost.0), account.reservations);
            let late = account.is_closed() && account.reservations > 0;
            if sums.remove(client).unwrap_or_default() != held || late {
                return Err(InvariantViolation::Reserved(*client));
            }
            (amount, cost) = (amount + held.0, cost + held.1);
        }
        if let Some((client, _)) = sums.pop_first() {
            return Err(InvariantViolation::Reserved(client));
        }
        let totals = (u128::from(self.totals.reserved.0), u128::from(self.totals.reserved_cost.0));
        if totals == (amount, cost) { Ok(()) } else { Err(InvariantViolation::Totals) }
    }
}
