//! Accounts: between the executor's cells and what callers see.

use cocoon_chain::{AccountState, AccountStatus, BlockRef, TransactionId};
use cocoon_ton::Address;
use tycho_types::cell::{CellBuilder, HashBytes, Lazy};
use tycho_types::error::Error;
use tycho_types::models::{
    Account, AccountState as Contract, CurrencyCollection, IntAddr, OptionalAccount, ShardAccount, StdAddr,
    StorageInfo,
};
use tycho_types::num::Tokens;

/// An account nobody has sent anything to.
pub(super) fn empty() -> Result<ShardAccount, Error> {
    Ok(ShardAccount {
        account: Lazy::new(&OptionalAccount::EMPTY)?,
        last_trans_hash: HashBytes::ZERO,
        last_trans_lt: 0,
    })
}

/// An account that has coins and no contract.
pub(super) fn with_coins(address: Address, nanoton: u64, now: u32) -> Result<ShardAccount, Error> {
    let account = Account {
        address: IntAddr::Std(standard(address)),
        storage_stat: StorageInfo { last_paid: now, ..Default::default() },
        last_trans_lt: 0,
        balance: CurrencyCollection::from(Tokens::new(u128::from(nanoton))),
        state: Contract::Uninit,
    };
    Ok(ShardAccount { account: Lazy::new(&OptionalAccount(Some(account)))?, ..empty()? })
}

/// The same account with `nanoton` less; `None` where it has not as much.
pub(super) fn withdraw(state: &ShardAccount, nanoton: u64) -> Result<Option<ShardAccount>, Error> {
    let Some(mut account) = state.load_account()? else {
        return Ok(None);
    };
    let Some(left) = account.balance.tokens.checked_sub(Tokens::new(u128::from(nanoton))) else {
        return Ok(None);
    };
    account.balance.tokens = left;
    Ok(Some(ShardAccount { account: Lazy::new(&OptionalAccount(Some(account)))?, ..state.clone() }))
}

/// Coins of an account.
pub(super) fn balance(state: &ShardAccount) -> Result<u64, Error> {
    let tokens = state.load_account()?.map_or(Tokens::ZERO, |account| account.balance.tokens);
    // No account can have more than the supply, which fits.
    u64::try_from(tokens.into_inner()).map_err(|_| Error::IntOverflow)
}

pub(super) fn view(state: &ShardAccount, at: BlockRef) -> Result<AccountState, Error> {
    let last_transaction = (state.last_trans_lt != 0)
        .then_some(TransactionId { lt: state.last_trans_lt, hash: state.last_trans_hash.0 });
    let mut view = AccountState {
        at,
        proven: true,
        balance_nanoton: balance(state)?,
        status: AccountStatus::NonExistent,
        code: None,
        data: None,
        last_transaction,
    };
    if let Some(account) = state.load_account()? {
        view.status = match account.state {
            Contract::Uninit => AccountStatus::Uninitialised,
            Contract::Frozen(_) => AccountStatus::Frozen,
            Contract::Active(init) => {
                (view.code, view.data) = (init.code, init.data);
                AccountStatus::Active
            }
        };
    }
    Ok(view)
}

/// The hash under which a frozen account's contract can be brought back.
pub(super) fn frozen_hash(state: &ShardAccount) -> Option<[u8; 32]> {
    match state.load_account().ok()??.state {
        Contract::Frozen(hash) => Some(hash.0),
        Contract::Uninit | Contract::Active(_) => None,
    }
}

pub(super) const fn standard(address: Address) -> StdAddr {
    StdAddr::new(address.workchain(), HashBytes(*address.hash()))
}

/// The address that a message names, where it is a standard one of the two workchains.
pub(crate) fn named(address: &IntAddr) -> Option<Address> {
    match address {
        IntAddr::Std(standard) if standard.anycast.is_none() => {
            Address::new(standard.workchain, standard.address.0).ok()
        }
        IntAddr::Std(_) | IntAddr::Var(_) => None,
    }
}

/// One cell with both, for the disk.
pub(crate) fn to_cell(state: &ShardAccount) -> Result<cocoon_ton::Cell, Error> {
    CellBuilder::build_from(state)
}
