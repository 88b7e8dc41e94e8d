//! Reading the contracts of one channel, and not believing everything.

use std::time::Duration;

use cocoon_chain::{AccountState, AccountStatus, BlockRef, Chain, ChainError};
use cocoon_ton::contracts::{ContractStatus, ProxyState, WorkerState};
use cocoon_ton::{Address, Cell, CellError};
use tokio::time::timeout;

use super::{behind, no_answer};
use crate::channel::Terms;

/// How long a chain may take to show an account.
const ANSWER: Duration = Duration::from_secs(30);

/// What the chain shows of one channel.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// The worker contract; `None` where it is not deployed.
    pub(super) worker: Option<WorkerState>,
    pub(super) worker_held_nanoton: u64,
    /// State of the proxy contract; `None` where it is not there.
    pub(super) proxy_status: Option<ContractStatus>,
    pub(super) proxy_held_nanoton: u64,
}

/// Why a channel cannot be settled.
#[derive(Debug)]
pub(super) enum Cause {
    /// The chain does not answer: none can.
    Chain(ChainError),
    /// What it shows there is not what must be there.
    Contract(String),
}

/// The contracts of one channel, at `not_before` or a later block.
pub(super) async fn look(chain: &dyn Chain, terms: &Terms, not_before: BlockRef) -> Result<Seen, Cause> {
    let worker = account(chain, terms.contract, not_before).await?;
    let code = terms.init.code.repr_hash().0;
    let state = contract(terms.contract, &worker, &code, WorkerState::from_data)?;
    if let Some(state) = &state {
        let start = &terms.start;
        let ours = (state.owner, state.proxy, state.proxy_public_key, &state.params);
        if ours != (start.owner, start.proxy, start.proxy_public_key, &start.params) {
            return Err(another(&terms.contract, "it has other parties or prices"));
        }
    }
    let proxy = account(chain, terms.start.proxy, not_before).await?;
    let proxy_state = contract(terms.start.proxy, &proxy, &terms.proxy_code, ProxyState::from_data)?;
    if proxy_state.as_ref().is_some_and(|state| state.public_key != terms.start.proxy_public_key) {
        return Err(another(&terms.start.proxy, "it has another key"));
    }
    Ok(Seen {
        worker: state,
        worker_held_nanoton: worker.balance_nanoton,
        proxy_status: proxy_state.map(|state| state.status),
        proxy_held_nanoton: proxy.balance_nanoton,
    })
}

async fn account(chain: &dyn Chain, address: Address, not_before: BlockRef) -> Result<AccountState, Cause> {
    let answer = timeout(ANSWER, chain.account_state(address)).await;
    match answer.unwrap_or_else(|_| Err(no_answer(&address.to_string(), ANSWER))) {
        Ok(state) if state.at.seqno < not_before.seqno => {
            Err(Cause::Chain(behind(&address, state.at, not_before)))
        }
        Ok(state) => Ok(state),
        Err(error @ ChainError::Unavailable { .. }) => Err(Cause::Chain(error)),
        Err(error) => Err(Cause::Contract(error.to_string())),
    }
}

/// What the contract knows; `None` where it is not deployed.
fn contract<T>(
    address: Address,
    account: &AccountState,
    code_hash: &[u8; 32],
    read: impl FnOnce(&Cell) -> Result<T, CellError>,
) -> Result<Option<T>, Cause> {
    match account.status {
        AccountStatus::NonExistent | AccountStatus::Uninitialised => return Ok(None),
        AccountStatus::Frozen => {
            let why = format!("the contract {address} is frozen because it owes storage fees; send it coins");
            return Err(Cause::Contract(why));
        }
        AccountStatus::Active => {}
    }
    let (Some(code), Some(data)) = (&account.code, &account.data) else {
        return Err(another(&address, "the chain does not show its code and data"));
    };
    if code.repr_hash().0 != *code_hash {
        return Err(another(&address, "it has another code"));
    }
    read(data).map(Some).map_err(|error| another(&address, &error.to_string()))
}

fn another(address: &Address, why: &str) -> Cause {
    Cause::Contract(format!("the chain shows another contract at {address} than must be there: {why}"))
}
