//! A node's contracts, found in the history of its wallet on the chain: it tells of a node whether it runs or not.

use std::collections::BTreeSet;

use cocoon_chain::{AccountState, Chain, ChainError, MAX_TRANSACTIONS_PER_CALL, Transaction};
use cocoon_ton::contracts::ContractStatus;
use cocoon_ton::{Address, ClientState, ProxyState, WorkerState};

use super::node::NodeFile;
use crate::record::{Record, Value};

/// Most pages of an account's history that are looked through.
const MAX_PAGES: usize = 40;
/// Most accounts that are looked at.
const MAX_ACCOUNTS: usize = 256;

/// What the chain shows of a node's contracts.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The contracts.
    pub(super) contracts: Vec<Record>,
    /// Whether the history is too long to be looked through, so that some may be missing.
    pub(super) incomplete: bool,
}

/// Looks for the contracts of a node with this wallet.
///
/// # Errors
/// The chain does not answer.
pub(super) async fn find(
    chain: &dyn Chain,
    node: &NodeFile,
    wallet: Address,
    owner: Address,
) -> Result<Found, ChainError> {
    let mut search = Search { chain, found: Found::default(), looked: BTreeSet::from([wallet, owner]) };
    let told = search.history(wallet).await?;
    let told: Vec<Address> = told.iter().flat_map(told_by).collect();
    match node {
        NodeFile::Gateway(_) => {
            for (address, account) in search.accounts(told).await? {
                let channel = parse(&account, ClientState::from_data).filter(|state| state.owner == wallet);
                search.found.contracts.extend(channel.map(|state| channel_record(address, &account, &state)));
            }
        }
        NodeFile::Worker(_) => {
            for (address, account) in search.accounts(told).await? {
                let payee = parse(&account, WorkerState::from_data).filter(|state| state.owner == owner);
                search.found.contracts.extend(payee.map(|state| payee_record(address, &account, &state)));
            }
        }
        NodeFile::Proxy(_) => search.proxies(told, owner).await?,
    }
    Ok(search.found)
}

struct Search<'a> {
    chain: &'a dyn Chain,
    found: Found,
    looked: BTreeSet<Address>,
}

impl Search<'_> {
    /// A proxy's contracts, then those of its clients and workers, which also write to it.
    async fn proxies(&mut self, told: Vec<Address>, owner: Address) -> Result<(), ChainError> {
        let mut proxies = Vec::new();
        let mut others = Vec::new();
        for (address, account) in self.accounts(told).await? {
            match parse(&account, ProxyState::from_data).filter(|state| state.owner == owner) {
                Some(state) => {
                    self.found.contracts.push(proxy_record(address, &account, &state));
                    proxies.push(address);
                }
                None => others.push((address, account)),
            }
        }
        for &proxy in &proxies {
            let history = self.history(proxy).await?;
            let writers = history.iter().filter_map(|transaction| transaction.in_message.as_ref()?.source);
            others.extend(self.accounts(writers.collect()).await?);
        }
        for (address, account) in others {
            let client =
                parse(&account, ClientState::from_data).filter(|state| proxies.contains(&state.proxy));
            self.found.contracts.extend(client.map(|state| channel_record(address, &account, &state)));
            let worker =
                parse(&account, WorkerState::from_data).filter(|state| proxies.contains(&state.proxy));
            self.found.contracts.extend(worker.map(|state| payee_record(address, &account, &state)));
        }
        Ok(())
    }

    /// An account's transactions, the oldest first.
    async fn history(&mut self, address: Address) -> Result<Vec<Transaction>, ChainError> {
        let mut all: Vec<Transaction> = Vec::new();
        for _ in 0..MAX_PAGES {
            let after_lt = all.last().map_or(0, |last| last.id.lt);
            match self.chain.transactions_since(address, after_lt, MAX_TRANSACTIONS_PER_CALL).await {
                Ok(page) if page.is_empty() => return Ok(all),
                Ok(page) => all.extend(page),
                // A server that does not reach back so far.
                Err(ChainError::Unsupported { .. } | ChainError::NotFound(_)) => break,
                Err(error) => return Err(error),
            }
        }
        self.found.incomplete = true;
        Ok(all)
    }

    /// Those accounts that were not looked at yet.
    async fn accounts(
        &mut self,
        addresses: Vec<Address>,
    ) -> Result<Vec<(Address, AccountState)>, ChainError> {
        let mut accounts = Vec::new();
        for address in addresses {
            if self.looked.len() >= MAX_ACCOUNTS {
                self.found.incomplete = true;
                break;
            }
            if self.looked.insert(address) {
                accounts.push((address, self.chain.account_state(address).await?));
            }
        }
        Ok(accounts)
    }
}

fn told_by(transaction: &Transaction) -> impl Iterator<Item = Address> {
    transaction.out_messages.iter().filter_map(|message| message.destination)
}

/// The contract's state, if it is such a contract: their layouts cannot be taken for each other.
fn parse<T, E>(account: &AccountState, read: impl FnOnce(&cocoon_ton::Cell) -> Result<T, E>) -> Option<T> {
    account.data.as_ref().and_then(|data| read(data).ok())
}

fn status(status: ContractStatus) -> Value {
    let word = match status {
        ContractStatus::Open => "open",
        ContractStatus::Closing => "closing",
        ContractStatus::Closed => "closed",
    };
    Value::Text(word.to_owned())
}

fn unlock(unix_time: u32) -> Option<Value> {
    (unix_time > 0).then(|| Value::Time(unix_time.into()))
}

fn channel_record(address: Address, account: &AccountState, state: &ClientState) -> Record {
    Record::new("client", "", "client contract")
        .with("contract", Value::Address(address))
        .with("status", status(state.status))
        .with("to_spend", Value::Coins(state.balance_nanoton))
        .with("of_that_stake", Value::Coins(state.stake_nanoton))
        .with("charged", Value::Tokens(state.tokens_used))
        .with_some("refund_from", unlock(state.unlock_unix_time))
        .with("proxy", Value::Address(state.proxy))
        .with("coins_for_storage", Value::Coins(account.balance_nanoton))
}

fn payee_record(address: Address, account: &AccountState, state: &WorkerState) -> Record {
    Record::new("worker", "", "worker contract")
        .with("contract", Value::Address(address))
        .with("status", status(state.status))
        .with("paid", Value::Tokens(state.tokens))
        .with("owner", Value::Address(state.owner))
        .with("proxy", Value::Address(state.proxy))
        .with("coins_for_storage", Value::Coins(account.balance_nanoton))
}

fn proxy_record(address: Address, account: &AccountState, state: &ProxyState) -> Record {
    Record::new("proxy", "", "proxy contract")
        .with("contract", Value::Address(address))
        .with("status", status(state.status))
        .with("earned", Value::Coins(state.balance_nanoton))
        .with("stake", Value::Coins(state.stake_nanoton))
        .with_some("next_step_from", unlock(state.unlock_unix_time))
        .with("coins_in_all", Value::Coins(account.balance_nanoton))
}
