//! Whose turn it is to be looked up on chain.
//!
//! Whoever connects and names a wallet causes a lookup, before any secret, and lookups take their turns at the chain's
//! server among those of settlement. So few go on at a time, and fewest for strangers: settlement is never far behind in
//! that queue. Those who wait for the same contract are answered together.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cocoon_session::proxy::ConnId;
use cocoon_ton::address::Address;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Lookups at a time of contracts that the books know.
const KNOWN: usize = 8;
/// Lookups at a time of other contracts.
const STRANGERS: usize = 2;

#[derive(Debug)]
pub(crate) struct Lookups {
    known: Semaphore,
    strangers: Semaphore,
    /// Who waits for a lookup that has not begun, by contract.
    waiting: Mutex<HashMap<Address, Vec<ConnId>>>,
}

impl Default for Lookups {
    fn default() -> Self {
        let (known, strangers) = (Semaphore::new(KNOWN), Semaphore::new(STRANGERS));
        Self { known, strangers, waiting: Mutex::default() }
    }
}

impl Lookups {
    /// Notes that a connection waits for a contract. Whether nobody else does.
    pub(crate) fn is_first(&self, conn: ConnId, contract: Address) -> bool {
        let mut waiting = self.lock();
        let conns = waiting.entry(contract).or_default();
        conns.push(conn);
        conns.len() == 1
    }

    /// Waits for a turn.
    pub(crate) async fn turn(&self, known: bool) -> Option<SemaphorePermit<'_>> {
        // Neither is ever closed.
        if known { &self.known } else { &self.strangers }.acquire().await.ok()
    }

    /// A lookup begins: for these connections. Who comes later is not told of a state that is older than his coming.
    pub(crate) fn begin(&self, contract: &Address) -> Vec<ConnId> {
        self.lock().remove(contract).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Address, Vec<ConnId>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
