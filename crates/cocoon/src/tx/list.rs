//! An account's newest transactions.

use cocoon_chain::{AccountState, AccountStatus, Chain, ChainError, MAX_TRANSACTIONS_PER_CALL, Transaction};
use cocoon_ton::{Address, Cell, ClientState, ProxyState, VerifyingKey, WorkerState};

use super::kinds::kind_of;
use crate::record::{Record, Value};

/// Most transactions that are shown.
pub(crate) const MAX_SHOWN: u16 = 200;
/// How far back the first look goes, in logical time: some ten blocks.
const FIRST_WINDOW: u64 = 10_000_000;

/// The newest `limit` transactions, at most [`MAX_SHOWN`], oldest first.
///
/// A chain tells the oldest ones after some moment, so the moment is moved back, twice as far each time, until there are
/// enough.
///
/// # Errors
/// What the chain says.
pub(super) async fn newest(
    chain: &dyn Chain,
    account: &AccountState,
    address: Address,
    limit: u16,
) -> Result<Vec<Transaction>, ChainError> {
    let limit = usize::from(limit.min(MAX_SHOWN));
    let Some(last) = account.last_transaction else { return Ok(Vec::new()) };
    let mut window = FIRST_WINDOW;
    loop {
        let after = last.lt.saturating_sub(window);
        let mut found = chain.transactions_since(address, after, MAX_TRANSACTIONS_PER_CALL).await?;
        // So many that not all came at once.
        let mut more = found.len() == MAX_TRANSACTIONS_PER_CALL;
        while more && let Some(newest) = found.last() {
            let next = chain.transactions_since(address, newest.id.lt, MAX_TRANSACTIONS_PER_CALL).await?;
            more = next.len() == MAX_TRANSACTIONS_PER_CALL;
            found.extend(next);
            found.drain(..found.len().saturating_sub(MAX_TRANSACTIONS_PER_CALL));
        }
        if found.len() >= limit || after == 0 {
            found.drain(..found.len().saturating_sub(limit));
            return Ok(found);
        }
        window = window.saturating_mul(4);
    }
}

/// The account as a record, and the key of the proxy whose orders its contract obeys.
pub(super) fn describe_account(address: Address, account: &AccountState) -> (Record, Option<VerifyingKey>) {
    let status = match account.status {
        AccountStatus::NonExistent => "nothing was ever sent there",
        AccountStatus::Uninitialised => "has coins, but no contract",
        AccountStatus::Active => "active",
        AccountStatus::Frozen => "frozen: it owes storage fees",
    };
    let kind = account.code.as_ref().and_then(kind_of);
    let contract = account.code.as_ref().map(|code| match kind {
        Some(kind) => Value::Text(kind.to_owned()),
        None => Value::Text(format!("unknown, with code {}", hex::encode(code.repr_hash().0))),
    });
    let record = Record::new("account", "", "account")
        .with("address", Value::Address(address))
        .with("status", Value::Text(status.to_owned()))
        .with_some("contract", contract)
        .with("balance", Value::Coins(account.balance_nanoton));
    let data = account.data.as_ref();
    let key = kind.zip(data).and_then(|(kind, data)| proxy_key(kind, data));
    (record.with_some("proxy_key", key.map(|key| Value::Hash(key.to_bytes()))), key)
}

fn proxy_key(kind: &str, data: &Cell) -> Option<VerifyingKey> {
    let bytes = match kind.rsplit(' ').next()? {
        "client" => ClientState::from_data(data).ok()?.proxy_public_key,
        "worker" => WorkerState::from_data(data).ok()?.proxy_public_key,
        "proxy" => ProxyState::from_data(data).ok()?.public_key,
        _ => return None,
    };
    VerifyingKey::from_bytes(&bytes).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cocoon_localchain::{LocalChain, Options, Production};

    use super::*;
    use crate::chain_access::ChainAccess;
    use crate::chain_server::ChainServer;

    #[tokio::test]
    async fn the_newest_transactions_of_a_long_history_are_found() {
        let production = Production::Manual;
        let chain = LocalChain::open(&Options { production, ..Options::default() }).unwrap();
        let address = Address::basechain([5; 32]);
        for _ in 0..3 {
            for _ in 0..200 {
                chain.grant(address, 1_000_000_000).await.unwrap();
            }
            chain.settle().await.unwrap();
            // So that the history spans more logical time than the first look.
            for _ in 0..15 {
                chain.produce_block().await.unwrap();
            }
        }
        let server = ChainServer::start(chain.clone(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let access = ChainAccess { url: server.url(), network: None, api_key_file: None };
        let client = access.open().unwrap();
        let account = client.account_state(address).await.unwrap();
        let all: Vec<u64> = {
            let found = chain.history(address, u64::MAX, 0, MAX_TRANSACTIONS_PER_CALL).await.unwrap();
            found.iter().rev().map(|made| made.lt).collect()
        };
        for limit in [1, 10, 200] {
            let found = newest(client.as_ref(), &account, address, limit).await.unwrap();
            let found: Vec<u64> = found.iter().map(|transaction| transaction.id.lt).collect();
            assert_eq!(found, all[all.len() - usize::from(limit)..], "the newest {limit}");
        }
        let nobody = Address::basechain([6; 32]);
        let account = client.account_state(nobody).await.unwrap();
        assert_eq!(newest(client.as_ref(), &account, nobody, 10).await.unwrap(), []);
    }
}
