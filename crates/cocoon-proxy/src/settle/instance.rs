//! One proxy contract: what its history told, and the accounts that hang on it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cocoon_chain::settler::Step;
use cocoon_chain::{
    AccountState, AccountStatus, BlockRef, Chain, ChainError, MAX_TRANSACTIONS_PER_CALL, Message, Transaction,
};
use cocoon_ledger::Ledger;
use cocoon_session::proxy::ClientChainState;
use cocoon_settle::Purpose;
use cocoon_settle::proxy::{ClientAccount, Commits, WorkerAccount, committed_position};
use cocoon_ton::cell::{decode_boc, encode_boc};
use cocoon_ton::contracts::{
    ClientState, CodeMissing, ContractStatus, ProxyState, StateInit, WorkerState, client_state_init,
    proxy_state_init,
};
use cocoon_ton::message::{Body, ClientCounters, ClientRequest};
use cocoon_ton::{Address, Cell, RootParams, SigningKey};
use serde::{Deserialize, Serialize};

use super::{SettlementError, expected};
use crate::core::Core;

/// Accounts whose state is asked for in one round; the rest follows in the next.
const MAX_LOOKUPS: usize = 64;
/// How long what is known of a worker's open contract is good enough.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Largest stored parameters, in bytes.
const MAX_PARAMS_BYTES: usize = 256 * 1024;

/// Who the proxy is, whatever the parameters.
#[derive(Clone)]
pub(crate) struct Identity {
    /// Signs payment orders.
    pub(crate) key: SigningKey,
    /// The proxy's owner.
    pub(crate) owner: Address,
    /// The root contract.
    pub(crate) root: Address,
    /// The wallet, whose commits count.
    pub(crate) wallet: Address,
}

/// What is known of one proxy contract.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstanceStatus {
    /// The proxy contract.
    pub contract: Option<Address>,
    /// Version of the root's parameters that it belongs to.
    pub params_version: u32,
    /// Its state; `None` where it is not deployed, or was not read yet.
    pub status: Option<ContractStatus>,
    /// All coins that it holds, its clients' included.
    pub held_nanoton: u64,
    /// What its owner may take out.
    pub balance_nanoton: u64,
    /// Its stake.
    pub stake_nanoton: u64,
    /// When the next step of closing is possible, in Unix seconds; 0 while it is open.
    pub unlock_unix_time: u32,
    /// Number of the newest commit of the books.
    pub commit_seqno: u32,
    /// Nothing is left to do with it.
    pub finished: bool,
}

/// A client's account as far as the chain has shown it.
#[derive(Debug, Clone)]
struct Known {
    /// `None`: not deployed.
    state: Option<ClientState>,
    held_nanoton: u64,
    /// Logical time of the news. Older news changes nothing.
    lt: u64,
}

/// What a round needs to plan.
pub(super) struct Synced {
    pub(super) state: Option<ProxyState>,
    pub(super) held_nanoton: u64,
    pub(super) clients: Vec<ClientAccount>,
    pub(super) workers: Vec<WorkerAccount>,
    /// There is more to look up.
    pub(super) more: bool,
}

pub(super) struct Instance {
    identity: Identity,
    pub(super) params: RootParams,
    pub(super) contract: Address,
    pub(super) init: StateInit,
    /// Logical time of the newest transaction that was read.
    pub(super) cursor: u64,
    pub(super) commits: Commits,
    pub(super) finished: bool,
    clients: HashMap<Address, Known>,
    /// Each with the time at which it was looked at.
    workers: HashMap<Address, (WorkerAccount, Instant)>,
    status: InstanceStatus,
    saved: AtomicBool,
}

/// An instance as stored.
#[derive(Serialize, Deserialize)]
struct Record {
    contract: String,
    params: String,
    cursor: u64,
    commit_seqno: u32,
    commit_position: u64,
    commit_unix_time: u64,
    finished: bool,
}

impl Instance {
    pub(super) fn new(params: RootParams, identity: &Identity) -> Result<Self, CodeMissing> {
        let key = identity.key.verifying_key().to_bytes();
        let init = proxy_state_init(&params, &identity.root, &identity.owner, &key)?;
        let contract = init.address();
        let status = InstanceStatus {
            contract: Some(contract),
            params_version: params.params_version,
            ..InstanceStatus::default()
        };
        Ok(Self {
            identity: identity.clone(),
            params,
            contract,
            init,
            cursor: 0,
            commits: Commits::default(),
            finished: false,
            clients: HashMap::new(),
            workers: HashMap::new(),
            status,
            saved: AtomicBool::new(false),
        })
    }

    /// Whether nothing was ever seen of it on the chain.
    pub(super) fn fresh(&self) -> bool {
        self.cursor == 0
    }

    pub(super) fn saved(&self) -> bool {
        self.saved.load(Ordering::Relaxed)
    }

    pub(super) fn mark_saved(&self) {
        self.saved.store(true, Ordering::Relaxed);
    }

    pub(super) fn status(&self) -> InstanceStatus {
        let (commit_seqno, finished) = (self.commits.seqno, self.finished);
        InstanceStatus { commit_seqno, finished, ..self.status.clone() }
    }

    /// Reads what is new in the contract's history, then the contract, then the accounts that may need something; all
    /// from blocks not older than `since`, at which everything the wallet sent had arrived.
    pub(super) async fn sync(
        &mut self,
        chain: &dyn Chain,
        core: &Arc<Core>,
        winding_up: bool,
        since: BlockRef,
    ) -> Result<Synced, SettlementError> {
        loop {
            let news =
                chain.transactions_since(self.contract, self.cursor, MAX_TRANSACTIONS_PER_CALL).await?;
            for transaction in &news {
                self.take(transaction, core);
            }
            if news.len() < MAX_TRANSACTIONS_PER_CALL {
                break;
            }
        }
        let account = fresh(chain, self.contract, since).await?;
        let read = |data| {
            ProxyState::from_data(data)
                .map_err(|source| ChainError::UnexpectedData { address: self.contract, source })
        };
        let data = data_with_code(&account, &self.init.code);
        if data.is_none() && matches!(account.status, AccountStatus::Active | AccountStatus::Frozen) {
            let reason = match account.status {
                AccountStatus::Frozen => "is frozen because it owes storage fees; send it coins",
                _ => "is shown with another contract than the one that its address follows from",
            };
            return Err(ChainError::BadAnswer(format!("{} {reason}", self.contract)).into());
        }
        let state = data.map(read).transpose()?;
        let state = state.map(|state| expected(self.contract, state, &self.identity)).transpose()?;
        self.status.held_nanoton = account.balance_nanoton;
        self.status.status = state.as_ref().map(|state| state.status);
        if let Some(state) = &state {
            self.status.balance_nanoton = state.balance_nanoton;
            self.status.stake_nanoton = state.stake_nanoton;
            self.status.unlock_unix_time = state.unlock_unix_time;
        }
        let winding_up =
            winding_up || state.as_ref().is_some_and(|state| state.status != ContractStatus::Open);
        let more = self.look_up(chain, core, winding_up, since).await?;
        Ok(Synced {
            held_nanoton: account.balance_nanoton,
            state,
            clients: self.accounts(core),
            workers: self.workers.values().map(|(worker, _)| worker.clone()).collect(),
            more,
        })
    }

    /// Takes in one transaction of the proxy contract.
    fn take(&mut self, transaction: &Transaction, core: &Arc<Core>) {
        self.cursor = self.cursor.max(transaction.id.lt);
        self.saved.store(false, Ordering::Relaxed);
        let Some(message) = &transaction.in_message else { return };
        let Some(source) = message.source.filter(|_| !message.bounced) else { return };
        match Body::parse(&message.body) {
            Body::ClientProxyRequest { owner, counters, request, .. } => {
                self.take_notice(source, owner, &counters, request, message, core);
            }
            // Numbers rise; a lower one would be an older commit that came late.
            Body::SaveState { seqno, unique_hash, .. }
                if source == self.identity.wallet && seqno > self.commits.seqno =>
            {
                let position = committed_position(&unique_hash).unwrap_or(self.commits.position);
                self.commits = Commits { seqno, position, unix_time: transaction.unix_time };
            }
            _ => {}
        }
    }

    /// Takes in what was done, which its notice will tell only when it arrives: else it would be done once more.
    pub(super) fn done(&mut self, step: &Step) {
        // A worker's contract, and one that refused what seemed possible, is looked at again.
        self.workers.remove(&step.transfer.to);
        if step.is_refused() {
            self.clients.remove(&step.transfer.to);
            return;
        }
        let known = self.clients.get_mut(&step.transfer.to).and_then(|known| known.state.as_mut());
        let Some(state) = known.filter(|_| step.is_done()) else { return };
        let (Purpose::Charge { tokens } | Purpose::GrantRefund { tokens }) = step.transfer.purpose else {
            return;
        };
        let price = state.params.price_per_token_nanoton;
        let charged = tokens.saturating_sub(state.tokens_used).saturating_mul(price);
        state.tokens_used = state.tokens_used.max(tokens);
        state.balance_nanoton = state.balance_nanoton.saturating_sub(charged);
        if matches!(step.transfer.purpose, Purpose::GrantRefund { .. }) {
            (state.status, state.balance_nanoton) = (ContractStatus::Closed, 0);
        }
    }

    /// A client contract's notice. Anybody can send a message of that form: only the contract that follows from
    /// the owner named in it counts.
    fn take_notice(
        &mut self,
        source: Address,
        owner: Address,
        counters: &ClientCounters,
        request: Option<ClientRequest>,
        message: &Message,
        core: &Arc<Core>,
    ) {
        let key = self.identity.key.verifying_key().to_bytes();
        let genuine = client_state_init(&self.params, &owner, &self.contract, &key)
            .is_ok_and(|init| init.address() == source);
        if !genuine {
            tracing::debug!(%source, %owner, "a notice from an account that is no client contract of this proxy");
            return;
        }
        let state = ClientState {
            owner,
            proxy: self.contract,
            proxy_public_key: key,
            status: counters.status,
            balance_nanoton: counters.balance,
            stake_nanoton: counters.stake,
            tokens_used: counters.tokens_used,
            unlock_unix_time: 0,
            secret_hash: counters.secret_hash,
            params: self.params.clone(),
        };
        let chain_state = chain_state(&state);
        let known = self.clients.get(&source);
        if known.is_none_or(|known| known.lt < message.created_lt) {
            let held_nanoton =
                known.map_or(cocoon_settle::ACCOUNT_RESERVE_NANOTON, |known| known.held_nanoton);
            let known = Known { state: Some(state), held_nanoton, lt: message.created_lt };
            self.clients.insert(source, known);
            core.run(|proxy, _| proxy.client_seen(&source, chain_state));
        }
        let newest = self.clients.get(&source).and_then(|known| known.state.as_ref()).map(self::chain_state);
        if let Some((ClientRequest::Register { nonce }, newest)) = request.zip(newest) {
            core.run(|proxy, _| proxy.client_registered(&source, nonce.cast_signed(), newest));
        }
    }

    /// Asks for the accounts that the books know and that no notice told about, at most [`MAX_LOOKUPS`] of them.
    /// Says whether some are left.
    async fn look_up(
        &mut self,
        chain: &dyn Chain,
        core: &Arc<Core>,
        winding_up: bool,
        since: BlockRef,
    ) -> Result<bool, SettlementError> {
        let (clients, workers) = core.look(|proxy| {
            let ledger = proxy.ledger();
            let clients = ledger.clients().map(|(id, _)| Address::basechain(id.0));
            let workers = ledger.workers().map(|(id, _)| Address::basechain(id.0));
            let unknown: Vec<_> = clients.filter(|contract| !self.clients.contains_key(contract)).collect();
            let wanted = workers.filter(|contract| winding_up && self.wants_look(contract));
            (unknown, wanted.collect::<Vec<_>>())
        });
        let left = clients.len() > MAX_LOOKUPS || workers.len() > MAX_LOOKUPS;
        for contract in clients.into_iter().take(MAX_LOOKUPS) {
            self.look_up_client(chain, core, contract, since).await?;
        }
        for contract in workers.into_iter().take(MAX_LOOKUPS) {
            let account = fresh(chain, contract, since).await?;
            let state =
                match self.params.worker_code.as_ref().and_then(|code| data_with_code(&account, code.cell()))
                {
                    Some(data) => WorkerState::from_data(data)
                        .map(Some)
                        .map_err(|source| ChainError::UnexpectedData { address: contract, source })?,
                    None => None,
                };
            let state = state.filter(|state| state.proxy == self.contract);
            let held_nanoton = account.balance_nanoton;
            let worker = WorkerAccount { contract, state, held_nanoton };
            self.workers.insert(contract, (worker, Instant::now()));
        }
        Ok(left)
    }

    /// Whether a worker's contract was never looked at, or is open and was not for a while: others come first meanwhile.
    fn wants_look(&self, worker: &Address) -> bool {
        self.workers.get(worker).is_none_or(|(worker, looked)| {
            let open = worker.state.as_ref().is_some_and(|state| state.status != ContractStatus::Closed);
            open && looked.elapsed() >= LOOK_AGAIN
        })
    }

    async fn look_up_client(
        &mut self,
        chain: &dyn Chain,
        core: &Arc<Core>,
        contract: Address,
        since: BlockRef,
    ) -> Result<(), SettlementError> {
        let account = fresh(chain, contract, since).await?;
        let state =
            match self.params.client_code.as_ref().and_then(|code| data_with_code(&account, code.cell())) {
                Some(data) => ClientState::from_data(data)
                    .map(Some)
                    .map_err(|source| ChainError::UnexpectedData { address: contract, source })?,
                None => None,
            };
        // Another proxy contract's client is that instance's business.
        let state = state.filter(|state| state.proxy == self.contract);
        if let Some(state) = &state {
            let chain_state = chain_state(state);
            core.run(|proxy, _| proxy.client_seen(&contract, chain_state));
        }
        let lt = account.last_transaction.map_or(0, |last| last.lt);
        self.clients.insert(contract, Known { state, held_nanoton: account.balance_nanoton, lt });
        Ok(())
    }

    /// Clients that may need a charge or a refund.
    fn accounts(&self, core: &Arc<Core>) -> Vec<ClientAccount> {
        core.look(|proxy| {
            let ledger = proxy.ledger();
            let open = self.clients.iter().filter(|(_, known)| {
                known.state.as_ref().is_some_and(|state| state.status != ContractStatus::Closed)
            });
            open.map(|(&contract, known)| ClientAccount {
                contract,
                state: known.state.clone(),
                held_nanoton: known.held_nanoton,
                signed_tokens: ledger.chargeable(&cocoon_ledger::ClientId(*contract.hash())).0,
            })
            .collect()
        })
    }

    /// Whether some client's use is to be charged, by what is known.
    pub(super) fn charge_is_due(&self, ledger: &Ledger, percent: u64) -> bool {
        ledger.clients().any(|(id, _)| {
            let known = self.clients.get(&Address::basechain(id.0));
            let Some(state) = known.and_then(|known| known.state.as_ref()) else { return known.is_none() };
            let uncharged = ledger.chargeable(id).0.saturating_sub(state.tokens_used);
            let credit = state.balance_nanoton.min(state.stake_nanoton);
            let used = uncharged.saturating_mul(state.params.price_per_token_nanoton);
            state.status == ContractStatus::Open
                && uncharged > 0
                && used >= cocoon_settle::share(credit, percent)
        })
    }
}

/// An account as of `since` or later: what is planned from an older view was done already.
async fn fresh(
    chain: &dyn Chain,
    address: Address,
    since: BlockRef,
) -> Result<AccountState, SettlementError> {
    let account = chain.account_state(address).await?;
    if account.at.seqno < since.seqno {
        let (shown, seen) = (account.at.seqno, since.seqno);
        let reason = format!(
            "{address} was shown at block {shown}, though block {seen} was seen: an endpoint is behind"
        );
        return Err(ChainError::Unavailable { reason, retry_after: None }.into());
    }
    Ok(account)
}

/// What the contract with this code knows; `None` where there is none, or another one: that of other parameters.
fn data_with_code<'a>(account: &'a AccountState, code: &Cell) -> Option<&'a Cell> {
    let shown = account.code.as_ref().filter(|_| account.status == AccountStatus::Active)?;
    account.data.as_ref().filter(|_| shown.repr_hash() == code.repr_hash())
}

fn chain_state(state: &ClientState) -> ClientChainState {
    ClientChainState::new(state, state.params.price_per_token_nanoton)
}

/// The stored form of a list of instances.
pub(super) fn write_list(instances: &[Instance]) -> Bytes {
    let records: Vec<_> = instances
        .iter()
        .map(|instance| Record {
            contract: instance.contract.to_raw_string(),
            params: hex::encode(encode_boc(&instance.params.cell_for_root())),
            cursor: instance.cursor,
            commit_seqno: instance.commits.seqno,
            commit_position: instance.commits.position,
            commit_unix_time: instance.commits.unix_time,
            finished: instance.finished,
        })
        .collect();
    // Texts and numbers only: serialising them cannot fail.
    serde_json::to_vec(&records).unwrap_or_default().into()
}

/// Reads the stored form.
pub(super) fn read_list(bytes: &[u8], identity: &Identity) -> Result<Vec<Instance>, SettlementError> {
    let damaged = |what: &dyn std::fmt::Display| SettlementError::Damaged(what.to_string());
    let records: Vec<Record> = serde_json::from_slice(bytes).map_err(|error| damaged(&error))?;
    let read = |record: Record| {
        let params = hex::decode(&record.params).map_err(|error| damaged(&error))?;
        let cell = decode_boc(&params, MAX_PARAMS_BYTES).map_err(|error| damaged(&error))?;
        let params = RootParams::from_cell(&cell).map_err(|error| damaged(&error))?;
        let mut instance = Instance::new(params, identity)?;
        if instance.contract.to_raw_string() != record.contract {
            return Err(SettlementError::Damaged(format!(
                "the proxy contract {} does not belong to this key, owner and root",
                record.contract
            )));
        }
        instance.cursor = record.cursor;
        instance.commits = Commits {
            seqno: record.commit_seqno,
            position: record.commit_position,
            unix_time: record.commit_unix_time,
        };
        instance.finished = record.finished;
        instance.mark_saved();
        Ok(instance)
    };
    records.into_iter().map(read).collect()
}
