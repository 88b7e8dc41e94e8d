//! Who a proxy is, and how it works.

use std::sync::Arc;

use cocoon_ledger::Tariff;
use cocoon_ton::address::Address;
use cocoon_ton::root::RootConfig;
use ed25519_dalek::SigningKey;

/// Who the proxy is, and how it works.
#[derive(Debug, Clone)]
pub struct ProxySettings {
    /// Signs payment orders.
    pub key: SigningKey,
    /// The proxy's owner.
    pub owner: Address,
    /// The proxy's own contract: it follows from root address, root configuration, owner and key.
    pub contract: Address,
    /// The root contract.
    pub root_address: Address,
    /// Where contracts send left-over coins: the proxy's wallet.
    pub wallet: Address,
    /// Root configuration to work with.
    pub root: Arc<RootConfig>,
    /// Prices, from the root configuration.
    pub tariff: Tariff,
    /// Whether the network is a test network.
    pub is_test: bool,
    /// Whether addresses are written in the testnet form.
    pub is_testnet: bool,
    /// Whether a worker's model must be listed in the root configuration.
    pub check_models: bool,
    /// Whether a client that asks for long authorisation is let in without a registration on chain: for a chain that
    /// executes nothing.
    pub trust_long_authorization: bool,
    /// Whether to agree to extension set 1.
    pub extensions: bool,
    /// Largest body of a request, in bytes, where it streams.
    pub max_body_bytes: u64,
    /// 256 random bits, from which ids and nonces are made.
    pub seed: [u8; 32],
}
