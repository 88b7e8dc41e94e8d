//! The whole books as bytes, so that a log need not be kept from its beginning.

use std::collections::BTreeMap;

use crate::codec::{DecodeError, Reader};
use crate::error::InvariantViolation;
use crate::ids::{ClientId, WorkerId};
use crate::ledger::{ClientAccount, Ledger, WorkerAccount};
use crate::units::{AdjustedTokens, Nanoton, Overflow};

/// Version of the encoding; the first byte of every snapshot.
const VERSION: u8 = 2;
/// The version before, in which no account could be closed. Read, never written.
const VERSION_WITHOUT_CLOSED: u8 = 1;

/// Why bytes are not the books of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The bytes are not a snapshot.
    #[error("the snapshot cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// Sums do not fit.
    #[error("the snapshot's amounts do not fit: {0}")]
    Overflow(#[from] Overflow),
    /// The books do not balance.
    #[error("the snapshot's books do not balance: {0}")]
    Invariant(#[from] InvariantViolation),
}

impl Ledger {
    /// All balances at [`Ledger::position`], without reservations. Equal books give equal bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(33 + 57 * self.clients.len() + 49 * self.workers.len());
        out.push(VERSION);
        let number = |out: &mut Vec<u8>, number: u64| out.extend_from_slice(&number.to_le_bytes());
        number(&mut out, self.position);
        number(&mut out, self.proxy_kept().0);
        // `usize` is at most 64 bits on every target of Rust.
        number(&mut out, self.clients.len() as u64);
        number(&mut out, self.workers.len() as u64);
        for (client, account) in &self.clients {
            out.extend_from_slice(&client.0);
            for amount in [account.funds.0, account.charged.0, account.cost.0] {
                number(&mut out, amount);
            }
            out.push(u8::from(account.is_closed()));
        }
        for (worker, account) in &self.workers {
            out.extend_from_slice(&worker.0);
            for amount in [account.earned.0, account.value.0] {
                number(&mut out, amount);
            }
            out.push(u8::from(account.is_closed()));
        }
        out
    }

    /// The books of a snapshot. All of them count as durable.
    ///
    /// # Errors
    /// [`RestoreError`] for bytes that are no snapshot, and for books that do not balance.
    pub fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        let has_closed = match version {
            VERSION => true,
            VERSION_WITHOUT_CLOSED => false,
            other => return Err(DecodeError::Version(other).into()),
        };
        let position = reader.u64()?;
        let closed = |reader: &mut Reader<'_>| match if has_closed { reader.u8()? } else { 0 } {
            0 => Ok(None),
            1 => Ok(Some(position)),
            _ => Err(DecodeError::Contradiction("an account is neither open nor closed")),
        };
        let kept = Nanoton(reader.u64()?);
        let (client_count, worker_count) = (reader.u64()?, reader.u64()?);
        let mut clients = BTreeMap::new();
        // A false count ends at the end of the bytes: nothing is allocated on its word.
        for _ in 0..client_count {
            let client = ClientId(reader.array()?);
            let (funds, charged, cost) = (reader.u64()?, reader.u64()?, reader.u64()?);
            let account = ClientAccount {
                funds: Nanoton(funds),
                charged: AdjustedTokens(charged),
                cost: Nanoton(cost),
                closed: closed(&mut reader)?,
                ..ClientAccount::default()
            };
            insert_ascending(&mut clients, client, account)?;
        }
        let mut workers = BTreeMap::new();
        for _ in 0..worker_count {
            let worker = WorkerId(reader.array()?);
            let (earned, value) = (reader.u64()?, reader.u64()?);
            let account = WorkerAccount {
                earned: AdjustedTokens(earned),
                value: Nanoton(value),
                closed: closed(&mut reader)?,
                ..WorkerAccount::default()
            };
            insert_ascending(&mut workers, worker, account)?;
        }
        reader.end()?;
        let ledger = Self::from_accounts(position, clients, workers, kept)?;
        ledger.check_invariants()?;
        Ok(ledger)
    }
}

fn insert_ascending<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: V) -> Result<(), DecodeError> {
    if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
        return Err(DecodeError::Contradiction("accounts are not in ascending order"));
    }
    map.insert(key, value);
    Ok(())
}
