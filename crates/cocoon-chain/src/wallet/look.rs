//! Reading the wallet, from endpoints that may be behind one another.

use std::sync::PoisonError;

use tokio::time::{Instant, sleep};

use super::{SendError, WalletDriver, WalletView};
use crate::{AccountState, AccountStatus, ChainError};

/// What was seen last of the wallet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Newest {
    block_seqno: u32,
    /// Of a deployed wallet. One that is not deployed may be a wallet that the chain has deleted, and counts anew.
    seqno: Option<u32>,
}

impl WalletDriver {
    /// The wallet now; asks again until `deadline` while there is no answer, or one from the past.
    pub(super) async fn look(&self, deadline: Instant) -> Result<WalletView, SendError> {
        let mut pause = self.pause();
        loop {
            let refused = match self.chain.account_state(self.wallet.address()).await {
                Ok(account) => {
                    let view = self.read(&account)?;
                    match self.accept(&view) {
                        Ok(()) => return Ok(view),
                        Err(error) => error,
                    }
                }
                Err(error @ ChainError::Unavailable { .. }) => error,
                Err(error) => return Err(error.into()),
            };
            if Instant::now() >= deadline {
                return Err(refused.into());
            }
            tracing::debug!(error = %refused, "a wallet cannot be read; asking again");
            sleep(pause).await;
            pause = (pause * 2).min(self.timing.last_poll);
        }
    }

    fn read(&self, account: &AccountState) -> Result<WalletView, SendError> {
        let address = self.wallet.address();
        let deployed = match account.status {
            AccountStatus::Active => true,
            AccountStatus::NonExistent | AccountStatus::Uninitialised => false,
            AccountStatus::Frozen => return Err(SendError::Frozen(address)),
        };
        let seqno = match &account.data {
            Some(data) if deployed => self
                .wallet
                .seqno_from_data(data)
                .map_err(|source| ChainError::UnexpectedData { address, source })?,
            None if deployed => {
                return Err(ChainError::BadAnswer(format!("the wallet {address} has no data")).into());
            }
            _ => 0,
        };
        Ok(WalletView {
            address,
            kind: self.wallet.kind(),
            balance_nanoton: account.balance_nanoton,
            seqno,
            deployed,
            at: account.at,
            last: account.last_transaction,
        })
    }

    /// Remembers the answer, unless it is older than one before it.
    fn accept(&self, view: &WalletView) -> Result<(), ChainError> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let seqno = view.deployed.then_some(view.seqno);
        if let Some(known) = *newest {
            let counts_back = known.seqno.zip(seqno).is_some_and(|(known, seqno)| seqno < known);
            if view.at.seqno < known.block_seqno || counts_back {
                return Err(ChainError::BadAnswer(format!(
                    "block {} with the wallet's number {} comes after block {} with the number {}: an endpoint is \
                     behind, or follows another network",
                    view.at.seqno,
                    view.seqno,
                    known.block_seqno,
                    known.seqno.unwrap_or(0),
                )));
            }
        }
        *newest = Some(Newest { block_seqno: view.at.seqno, seqno });
        Ok(())
    }
}
