//! What was heard of each account, so that a server cannot take time back.
//!
//! A public service is many servers, some a few blocks behind. An answer from before one that was given already must not
//! be believed: a node would plan again what it has done.

use std::collections::HashMap;

use cocoon_ton::Address;

use crate::types::{AccountState, AccountStatus, BlockRef, TransactionId};

/// Most accounts that are remembered; beyond it, the half that was asked for least recently is forgotten.
pub(super) const MAX_MARKS: usize = 10_000;

/// Why an answer does not fit what was heard before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Misfit {
    /// It is from an earlier time. Another try may do.
    Older(String),
    /// It contradicts what was heard.
    Contradiction(String),
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    seqno: u32,
    last: Option<TransactionId>,
    used: u64,
}

#[derive(Debug, Default)]
pub(super) struct Marks {
    accounts: HashMap<Address, Mark>,
    newest: BlockRef,
    clock: u64,
}

impl Marks {
    /// The newest block of all answers.
    pub(super) const fn newest_block(&self) -> BlockRef {
        self.newest
    }

    /// The newest transaction of the account that was heard of.
    pub(super) fn last(&self, address: Address) -> Option<TransactionId> {
        self.accounts.get(&address)?.last
    }

    /// Compares a state with what was heard of the account, and remembers it.
    pub(super) fn state(&mut self, address: Address, state: &AccountState) -> Result<(), Misfit> {
        if let Some(mark) = self.accounts.get(&address) {
            if state.at.seqno < mark.seqno {
                let (now, before) = (state.at.seqno, mark.seqno);
                let reason =
                    format!("went back in time: {address} as of block {now}, after one as of block {before}");
                return Err(Misfit::Older(reason));
            }
            // The public network forgets the last transaction of an account that is deleted.
            let is_deleted = state.status == AccountStatus::NonExistent
                && state.last_transaction.is_none()
                && state.at.seqno > mark.seqno;
            if !is_deleted {
                newer(address, mark.last, state.last_transaction)?;
            }
        }
        self.newest = self.newest.max(state.at);
        self.remember(address, Some(state.at.seqno), state.last_transaction);
        Ok(())
    }

    /// Compares the newest transaction of a history with what was heard of the account, and remembers it.
    pub(super) fn transaction(
        &mut self,
        address: Address,
        newest: Option<TransactionId>,
    ) -> Result<(), Misfit> {
        newer(address, self.last(address), newest)?;
        self.remember(address, None, newest);
        Ok(())
    }

    fn remember(&mut self, address: Address, seqno: Option<u32>, last: Option<TransactionId>) {
        if self.accounts.len() >= MAX_MARKS && !self.accounts.contains_key(&address) {
            let mut used: Vec<u64> = self.accounts.values().map(|mark| mark.used).collect();
            let (_, &mut median, _) = used.select_nth_unstable(MAX_MARKS / 2);
            self.accounts.retain(|_, mark| mark.used > median);
        }
        self.clock += 1;
        let mark = self.accounts.entry(address).or_insert(Mark { seqno: 0, last: None, used: 0 });
        mark.used = self.clock;
        mark.seqno = mark.seqno.max(seqno.unwrap_or(0));
        mark.last = mark.last.max(last);
    }
}

fn newer(address: Address, before: Option<TransactionId>, now: Option<TransactionId>) -> Result<(), Misfit> {
    let Some(before) = before else {
        return Ok(());
    };
    match now {
        Some(now) if now.lt == before.lt && now.hash != before.hash => {
            Err(Misfit::Contradiction(format!("{address} has two transactions of logical time {}", now.lt)))
        }
        Some(now) if now.lt >= before.lt => Ok(()),
        _ => {
            let now = now.map_or(0, |now| now.lt);
            let reason = format!(
                "went back in time: the newest transaction of {address} has logical time {now}, after one of {}",
                before.lt
            );
            Err(Misfit::Older(reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Address = Address::basechain([1; 32]);

    fn state(seqno: u32, lt: u64, hash: u8) -> AccountState {
        AccountState {
            at: BlockRef { seqno, unix_time: 0 },
            proven: false,
            balance_nanoton: 0,
            status: if lt == 0 { AccountStatus::NonExistent } else { AccountStatus::Active },
            code: None,
            data: None,
            last_transaction: (lt != 0).then_some(TransactionId { lt, hash: [hash; 32] }),
        }
    }

    #[test]
    fn time_only_goes_on() {
        let mut marks = Marks::default();
        assert_eq!(marks.state(WHO, &state(5, 10, 1)), Ok(()));
        assert_eq!(marks.state(WHO, &state(5, 10, 1)), Ok(()), "nothing new");
        assert_eq!(marks.state(WHO, &state(6, 12, 2)), Ok(()));
        for older in [state(5, 12, 2), state(7, 10, 1), state(6, 0, 0)] {
            assert!(matches!(marks.state(WHO, &older), Err(Misfit::Older(_))), "{older:?}");
        }
        assert!(matches!(marks.state(WHO, &state(7, 12, 9)), Err(Misfit::Contradiction(_))));
        assert!(matches!(marks.transaction(WHO, None), Err(Misfit::Older(_))));
        assert_eq!(marks.state(Address::basechain([2; 32]), &state(1, 1, 1)), Ok(()), "another account");
        assert_eq!(marks.state(WHO, &state(9, 0, 0)), Ok(()), "deleted later");
        assert_eq!(marks.newest_block().seqno, 9);
    }

    #[test]
    fn accounts_are_forgotten_when_there_are_too_many_but_not_those_in_use() {
        let mut marks = Marks::default();
        for number in 0..3 * MAX_MARKS {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_be_bytes());
            assert_eq!(marks.state(Address::basechain(hash), &state(1, 1, 1)), Ok(()));
            assert_eq!(marks.state(WHO, &state(1, 1, 1)), Ok(()));
            assert!(marks.accounts.len() <= MAX_MARKS);
        }
        assert!(marks.last(WHO).is_some());
    }
}
