//! The root configuration out of the root contract's account, and the checks that every source of one must pass.

use cocoon_ton::{Address, Cell, RootConfig};

use crate::ChainError;

/// Reads the root configuration from the data of the account at `address`; `None` where nothing is deployed there.
///
/// # Errors
/// [`ChainError::NotFound`], [`ChainError::Root`] for data that is no root contract's or has a layout of params that is
/// not known, [`ChainError::FeeOverPrice`].
pub fn read_root(address: Address, data: Option<&Cell>) -> Result<RootConfig, ChainError> {
    let data = data.ok_or_else(|| ChainError::NotFound(format!("a root contract at {address}")))?;
    let origin = origin(address);
    let config =
        RootConfig::from_state(data).map_err(|source| ChainError::Root { origin: origin.clone(), source })?;
    checked(config, &origin)
}

/// How errors name the root contract.
pub(crate) fn origin(address: Address) -> String {
    format!("the root contract {address}")
}

/// The ledger keeps the difference of price and fee for the proxy, so the fee must not be larger.
pub(crate) fn checked(config: RootConfig, origin: &str) -> Result<RootConfig, ChainError> {
    let price_nanoton = config.params.price_per_token_nanoton;
    let worker_fee_nanoton = config.params.worker_fee_per_token_nanoton;
    if worker_fee_nanoton > price_nanoton {
        return Err(ChainError::FeeOverPrice {
            origin: origin.to_owned(),
            price_nanoton,
            worker_fee_nanoton,
        });
    }
    Ok(config)
}
