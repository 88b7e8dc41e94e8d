//! A gateway's store and wallet without the gateway.

use std::sync::Arc;

use cocoon_chain::settler::{Emptied, Step};
use cocoon_chain::wallet::SendError;
use cocoon_chain::{Chain, MAX_TRANSACTIONS_PER_CALL, Message, Transaction};
use cocoon_settle::{Plan, Transfer};
use cocoon_store::StoreError;
use cocoon_ton::Address;
use cocoon_ton::contracts::ContractStatus;

use super::operate::{Channels, LeaveConfig, OperateError, WalletEnd};
use super::record::Record;
use super::round::Entry;
use super::{ReadError, Settlement};
use crate::book::{Book, BookLoadError};

/// Messages that are followed to see whether coins are still on their way.
const MAX_FOLLOWED: usize = 64;
/// Pages of an account's transactions that are looked through for one message.
const MAX_PAGES: usize = 16;
/// How long a message may be under way, in seconds of the chain's time. What left no trace for so long went to an account
/// that did not exist, and came back from there.
const SECONDS_UNDER_WAY: u64 = 600;

/// A gateway's money without the gateway.
pub(super) struct Till {
    pub(super) book: Arc<Book>,
    pub(super) settlement: Settlement,
    owner: Option<Address>,
    chain: Arc<dyn Chain>,
}

impl Till {
    pub(super) async fn open(config: LeaveConfig, chain: Arc<dyn Chain>) -> Result<Self, OperateError> {
        let LeaveConfig { store, settlement } = config;
        let owner = settlement.wallet.owner();
        let opened = {
            let chain = Arc::clone(&chain);
            tokio::task::spawn_blocking(move || {
                let book = Book::open(&store)?;
                // No connections are made, so no secret is needed.
                let settlement = Settlement::open(settlement, &[], chain, &book)?;
                Ok((Arc::new(book), settlement))
            })
            .await
        };
        // Opening panicked or the runtime is shutting down: neither says more.
        let (book, settlement) = opened.unwrap_or(Err(BookLoadError::Store(StoreError::Closed)))?;
        Ok(Self { book, settlement, owner, chain })
    }

    pub(super) async fn close(self) -> Result<(), OperateError> {
        let book = self.book;
        // As above.
        tokio::task::spawn_blocking(move || book.close()).await.unwrap_or(Err(StoreError::Closed))?;
        Ok(())
    }

    /// The open channels that are meant.
    pub(super) async fn open_channels(&self, which: Channels) -> Result<Vec<Entry>, OperateError> {
        let view = self.settlement.settler.settled().await?;
        let (mut entries, unread) = self.settlement.look(&self.book, &view).await?;
        if let Some(error) = unread {
            return Err(error.into());
        }
        entries.retain(|entry| {
            let open = entry.shown.client.as_ref().is_some_and(|state| state.status == ContractStatus::Open);
            open && match which {
                Channels::All => true,
                Channels::One(contract) => contract == entry.contract,
            }
        });
        match which {
            _ if !entries.is_empty() => Ok(entries),
            Channels::One(contract) => Err(OperateError::UnknownChannel(contract)),
            Channels::All => Err(OperateError::NoChannel),
        }
    }

    /// Sends all transfers, as many at once as the wallet can.
    pub(super) async fn send(&self, mut transfers: Vec<Transfer>) -> Result<Vec<Step>, OperateError> {
        let settler = &self.settlement.settler;
        let mut steps = Vec::new();
        while !transfers.is_empty() {
            let view = settler.settled().await?;
            let funds = settler.funds(&view);
            let later = transfers.split_off(transfers.len().min(funds.max_messages));
            let plan =
                Plan { transfers: std::mem::replace(&mut transfers, later), ..Plan::default() }.fit(&funds);
            if let Some(needs) = plan.needs {
                return Err(OperateError::Funds(needs));
            }
            steps.extend(settler.carry_out(&view, plan).await?);
        }
        Ok(steps)
    }

    /// Sends the wallet's coins to its owner.
    pub(super) async fn empty_wallet(&self, keep_nanoton: u64) -> Result<Emptying, OperateError> {
        let settler = &self.settlement.settler;
        match settler.empty(keep_nanoton).await {
            Ok(Some(emptied)) => Ok(Emptying::More(emptied)),
            Ok(None) => Ok(Emptying::Over(match self.owner {
                Some(owner) => WalletEnd::Sent { owner, nanoton: 0 },
                None => WalletEnd::NoOwner { nanoton: settler.settled().await?.balance_nanoton },
            })),
            Err(SendError::PublishedWalletLow { have_nanoton: nanoton, .. }) => {
                Ok(Emptying::Over(WalletEnd::OwnersTextNeeded { owner: self.owner, nanoton }))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether all that came of the channels' newest transactions has arrived, so that no coins are on their way.
    pub(super) async fn all_arrived(&self) -> Result<bool, OperateError> {
        for (contract, record) in self.settlement.used_channels() {
            let account = self.chain.account_state(contract).await?;
            let Some(last) = account.last_transaction else { continue };
            if last.lt < record.seen_lt {
                return Err(ReadError::WentBack { address: contract }.into());
            }
            let newest = self.chain.transactions_since(contract, last.lt.saturating_sub(1), 1).await?;
            if !self.consequences_arrived(newest, contract, record.begin.proxy, account.at.unix_time).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether what these transactions sent to the wallet and between the two contracts has arrived, and what came of that.
    async fn consequences_arrived(
        &self,
        mut transactions: Vec<Transaction>,
        contract: Address,
        proxy: Address,
        now: u64,
    ) -> Result<bool, OperateError> {
        let wallet = self.settlement.settler.address();
        let mut followed = 0;
        while let Some(transaction) = transactions.pop() {
            if transaction.unix_time.saturating_add(SECONDS_UNDER_WAY) < now {
                continue;
            }
            for message in &transaction.out_messages {
                let to = message.destination.filter(|to| [wallet, contract, proxy].contains(to));
                followed += 1;
                let Some(to) = to.filter(|_| followed <= MAX_FOLLOWED) else { continue };
                match self.arrival(transaction.account, to, message).await? {
                    Some(arrival) if to != wallet => transactions.push(arrival),
                    Some(_) => {}
                    None => return Ok(false),
                }
            }
        }
        Ok(true)
    }

    /// The transaction by which a message arrived.
    async fn arrival(
        &self,
        from: Address,
        to: Address,
        message: &Message,
    ) -> Result<Option<Transaction>, OperateError> {
        let mut after_lt = message.created_lt.saturating_sub(1);
        for _ in 0..MAX_PAGES {
            let page = self.chain.transactions_since(to, after_lt, MAX_TRANSACTIONS_PER_CALL).await?;
            let (full, last) = (page.len() >= MAX_TRANSACTIONS_PER_CALL, page.last().map(|last| last.id.lt));
            let arrived = |transaction: &Transaction| {
                let incoming = transaction.in_message.as_ref();
                incoming.is_some_and(|incoming| {
                    incoming.source == Some(from) && incoming.created_lt == message.created_lt
                })
            };
            if let Some(found) = page.into_iter().find(arrived) {
                return Ok(Some(found));
            }
            match last {
                Some(lt) if full => after_lt = lt,
                _ => break,
            }
        }
        Ok(None)
    }
}

impl Settlement {
    /// The channels that were ever seen on the chain.
    fn used_channels(&self) -> Vec<(Address, Record)> {
        let inner = self.lock();
        let used = inner.records.by_contract.iter();
        used.filter(|(contract, record)| record.seen_lt > 0 && inner.channels.contains_key(contract))
            .map(|(contract, record)| (*contract, record.clone()))
            .collect()
    }
}

/// How far a wallet is emptied.
pub(super) enum Emptying {
    More(Emptied),
    Over(WalletEnd),
}
