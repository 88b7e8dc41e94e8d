//! Who a client is, and what it works with.

use std::sync::Arc;

use cocoon_ton::address::Address;
use cocoon_ton::root::RootConfig;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Who the client is, and what it works with.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// The client's wallet, by which proxies know it.
    pub wallet: Address,
    /// Whether the network is a test network.
    pub is_test: bool,
    /// Whether addresses are written in the testnet form.
    pub is_testnet: bool,
    /// Proves to a proxy, by its hash on chain, that we are this client.
    pub secret: ClientSecret,
    /// Root configuration to work with.
    pub root: Arc<RootConfig>,
    /// Address of the root contract.
    pub root_address: Address,
    /// Whether to offer extension set 1.
    pub extensions: bool,
    /// Whether only workers that were allowed may see requests. A proxy that cannot be told so is not used.
    pub restrict_workers: bool,
}

/// What proves to a proxy, by its hash on chain, that we are this client.
#[derive(Clone)]
pub enum ClientSecret {
    /// The same for every proxy, as published nodes have it.
    Shared(Zeroizing<Vec<u8>>),
    /// Another one for each proxy contract, derived from this: what one proxy has heard opens nothing at another.
    PerProxy(Zeroizing<Vec<u8>>),
}

impl std::fmt::Debug for ClientSecret {
    /// Not the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Shared(_) => "Shared(..)",
            Self::PerProxy(_) => "PerProxy(..)",
        })
    }
}

impl ClientSecret {
    /// What the proxy with this contract is told.
    #[must_use]
    pub fn for_proxy(&self, proxy: &Address) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Shared(secret) => secret.clone(),
            Self::PerProxy(secret) => {
                let derived = Sha256::new()
                    .chain_update(b"cocoon client secret")
                    .chain_update(Sha256::digest(secret))
                    .chain_update(proxy.workchain().to_be_bytes())
                    .chain_update(proxy.hash())
                    .finalize();
                Zeroizing::new(derived.to_vec())
            }
        }
    }

    /// The hash that stands on chain for it.
    #[must_use]
    pub fn hash_for_proxy(&self, proxy: &Address) -> [u8; 32] {
        Sha256::digest(self.for_proxy(proxy).as_slice()).into()
    }
}
