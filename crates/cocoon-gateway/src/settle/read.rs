//! Reading the contracts of a channel, and telling a chain that contradicts itself.

use cocoon_chain::{AccountState, AccountStatus, BlockRef, Chain, ChainError};
use cocoon_ton::contracts::ContractStatus;
use cocoon_ton::{Address, ClientState, ProxyState};

use super::record::Record;

/// What the chain shows cannot be. Nothing is sent on the strength of it.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The chain cannot be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Another contract lives at an address that follows from the contract expected there.
    #[error(
        "the chain shows another contract at {address} than the one that its address follows from: {what}"
    )]
    OtherContract {
        /// The account.
        address: Address,
        /// What differs.
        what: &'static str,
    },
    /// The chain shows less than it has shown before.
    #[error("the chain shows {address} as it was some time ago; an endpoint is behind, or lies")]
    WentBack {
        /// The account.
        address: Address,
    },
}

/// A channel's contracts at one moment.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    /// The client contract; `None` where it is not deployed.
    pub(super) client: Option<ClientState>,
    /// Coins of its account.
    pub(super) held_nanoton: u64,
    /// Logical time of its newest transaction; 0 where it is not deployed.
    pub(super) client_lt: u64,
    /// It owes storage fees and is put aside by the chain.
    pub(super) frozen: bool,
    /// The proxy contract; `None` where it is not there.
    pub(super) proxy: Option<ProxyState>,
    /// Coins of the proxy contract's account.
    pub(super) proxy_held_nanoton: u64,
}

/// Reads both contracts of a channel, from blocks not older than `since`.
pub(super) async fn read(
    chain: &dyn Chain,
    contract: Address,
    record: &Record,
    since: BlockRef,
) -> Result<Shown, ReadError> {
    let proxy = record.begin.proxy;
    let (client_account, proxy_account) =
        tokio::join!(chain.account_state(contract), chain.account_state(proxy));
    let client_account = fresh(contract, client_account?, since)?;
    let proxy_account = fresh(proxy, proxy_account?, since)?;
    let client = client_state(contract, record, &client_account)?;
    let client_lt = match client {
        Some(_) => client_account.last_transaction.map_or(0, |last| last.lt),
        None => 0,
    };
    let frozen = client_account.status == AccountStatus::Frozen;
    // What was seen deployed cannot vanish; an account that owes too much is frozen first.
    if client_lt < record.seen_lt && !frozen {
        return Err(ReadError::WentBack { address: contract });
    }
    Ok(Shown {
        client,
        held_nanoton: client_account.balance_nanoton,
        client_lt,
        frozen,
        proxy: proxy_state(record, &proxy_account)?,
        proxy_held_nanoton: proxy_account.balance_nanoton,
    })
}

fn fresh(address: Address, account: AccountState, since: BlockRef) -> Result<AccountState, ReadError> {
    if account.at.seqno < since.seqno {
        return Err(ReadError::WentBack { address });
    }
    Ok(account)
}

fn client_state(
    contract: Address,
    record: &Record,
    account: &AccountState,
) -> Result<Option<ClientState>, ReadError> {
    let other = |what| ReadError::OtherContract { address: contract, what };
    let code_hash = record.init.code.repr_hash();
    let Some(data) = data_of(contract, account, code_hash.0)? else { return Ok(None) };
    let state = ClientState::from_data(data)
        .map_err(|source| ChainError::UnexpectedData { address: contract, source })?;
    let begin = &record.begin;
    if (state.owner, state.proxy) != (begin.owner, begin.proxy) {
        return Err(other("owner or proxy"));
    }
    if state.proxy_public_key != begin.proxy_public_key {
        return Err(other("the proxy's key"));
    }
    if state.params != begin.params || state.stake_nanoton < begin.stake_nanoton {
        return Err(other("params or stake"));
    }
    Ok(Some(state))
}

fn proxy_state(record: &Record, account: &AccountState) -> Result<Option<ProxyState>, ReadError> {
    let address = record.begin.proxy;
    let Some(data) = data_of(address, account, record.proxy_code_hash)? else { return Ok(None) };
    let state =
        ProxyState::from_data(data).map_err(|source| ChainError::UnexpectedData { address, source })?;
    if state.public_key != record.begin.proxy_public_key {
        return Err(ReadError::OtherContract { address, what: "the proxy's key" });
    }
    Ok(Some(state))
}

/// The data of a contract with that code; `None` where there is no contract.
fn data_of(
    address: Address,
    account: &AccountState,
    code_hash: [u8; 32],
) -> Result<Option<&cocoon_ton::Cell>, ReadError> {
    if account.status != AccountStatus::Active {
        return Ok(None);
    }
    match (&account.code, &account.data) {
        (Some(code), Some(data)) if code.repr_hash().0 == code_hash => Ok(Some(data)),
        (Some(_), Some(_)) => Err(ReadError::OtherContract { address, what: "the code" }),
        _ => {
            Err(ChainError::BadAnswer(format!("it shows a contract at {address} without code or data"))
                .into())
        }
    }
}

/// Whether nothing is in the channel any more, nor is to come.
pub(super) fn is_finished(shown: &Shown) -> bool {
    shown.held_nanoton < cocoon_settle::WORTH_FETCHING_NANOTON
        && shown
            .client
            .as_ref()
            .is_some_and(|state| state.status == ContractStatus::Closed && state.balance_nanoton == 0)
}
