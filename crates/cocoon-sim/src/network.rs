//! The parties of a simulated network: keys, addresses, prices, the root configuration that all share.

use std::sync::Arc;

use cocoon_ledger::{Multiplier, PricePerToken, Tariff};
use cocoon_session::DEFAULT_MAX_BODY_BYTES;
use cocoon_session::client::{ClientSecret, ClientSettings};
use cocoon_session::proxy::ProxySettings;
use cocoon_session::worker::WorkerSettings;
use cocoon_ton::{Address, RootConfig, SigningKey, VerifyingKey, proxy_address};
use zeroize::Zeroizing;

use crate::checks::Breach;
use crate::rng::Rng;

/// Models on offer, in full.
pub(crate) const MODELS: [&str; 2] = ["sim/alpha@main:00", "sim/beta@main:00"];

pub(crate) const TARIFF: Tariff = Tariff {
    price_per_token: PricePerToken(20),
    worker_fee_per_token: PricePerToken(17),
    prompt: Multiplier(10_000),
    cached: Multiplier(2_500),
    completion: Multiplier(40_000),
    reasoning: Multiplier(40_000),
};

/// What all nodes agree on.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) root: Arc<RootConfig>,
    pub(crate) root_address: Address,
    key: SigningKey,
    owner: Address,
    contract: Address,
    extensions: bool,
    trust_long: bool,
}

impl Network {
    pub(crate) fn random(rng: &mut Rng) -> Result<Self, Breach> {
        let mut root = RootConfig::test_mode(Address::basechain([1; 32]));
        root.version = 3;
        root.params.price_per_token_nanoton = TARIFF.price_per_token.0;
        root.params.worker_fee_per_token_nanoton = TARIFF.worker_fee_per_token.0;
        let root_address = Address::basechain([2; 32]);
        let key = SigningKey::from_bytes(&rng.bytes32());
        let owner = Address::basechain(rng.bytes32());
        let contract = proxy_address(&root.params, &root_address, &owner, &key.verifying_key().to_bytes())
            .map_err(|why| Breach(why.to_string()))?;
        let root = Arc::new(root);
        let (extensions, trust_long) = (rng.chance(75), rng.chance(30));
        Ok(Self { root, root_address, key, owner, contract, extensions, trust_long })
    }

    /// The chain shows other parameters from now on: all contracts get new addresses. Prices stay.
    pub(crate) fn change_params(&mut self) -> Result<(), Breach> {
        let mut root = self.root.as_ref().clone();
        root.version += 1;
        root.params.min_client_stake_nanoton += 1;
        let key = self.key.verifying_key().to_bytes();
        self.contract = proxy_address(&root.params, &self.root_address, &self.owner, &key)
            .map_err(|why| Breach(why.to_string()))?;
        self.root = Arc::new(root);
        Ok(())
    }

    /// The proxy's contract by the newest parameters.
    pub(crate) fn contract(&self) -> Address {
        self.contract
    }

    /// The key that signs orders.
    pub(crate) fn key(&self) -> VerifyingKey {
        self.key.verifying_key()
    }

    /// Whether the proxy lets clients in that are not registered on chain.
    pub(crate) fn trusts_long(&self) -> bool {
        self.trust_long
    }

    /// Settings of one life of the proxy; each life has its own randomness.
    pub(crate) fn proxy(&self, rng: &mut Rng) -> ProxySettings {
        ProxySettings {
            key: self.key.clone(),
            owner: self.owner,
            contract: self.contract,
            wallet: self.owner,
            root_address: self.root_address,
            root: Arc::clone(&self.root),
            tariff: TARIFF,
            is_test: true,
            is_testnet: false,
            check_models: false,
            trust_long_authorization: self.trust_long,
            extensions: self.extensions,
            max_body_bytes: DEFAULT_MAX_BODY_BYTES,
            seed: rng.bytes32(),
        }
    }

    pub(crate) fn client(&self, rng: &mut Rng) -> ClientSettings {
        let extensions = rng.chance(75);
        ClientSettings {
            wallet: Address::basechain(rng.bytes32()),
            is_test: true,
            is_testnet: false,
            secret: ClientSecret::Shared(Zeroizing::new(rng.bytes32().to_vec())),
            root: Arc::clone(&self.root),
            root_address: self.root_address,
            extensions,
            restrict_workers: extensions && self.extensions && rng.chance(30),
        }
    }

    pub(crate) fn worker(&self, rng: &mut Rng) -> WorkerSettings {
        let model = MODELS[rng.size(0, MODELS.len() - 1)].to_owned();
        WorkerSettings {
            owner: Address::basechain(rng.bytes32()),
            model,
            coefficient: [500, 1000, 1500][rng.size(0, 2)],
            paused: rng.chance(10),
            proxies: 1,
            max_active: u32::try_from(rng.range(1, 12)).unwrap_or(1),
            is_test: true,
            is_testnet: false,
            root: Arc::clone(&self.root),
            root_address: self.root_address,
            extensions: rng.chance(75),
            max_body_bytes: DEFAULT_MAX_BODY_BYTES,
        }
    }
}
