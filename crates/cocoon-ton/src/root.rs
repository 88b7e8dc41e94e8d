//! What nodes need of the root contract: who may take part, where proxies are, and what tokens cost.
//!
//! It comes from the contract's state ([`RootConfig::from_state`]) or, in test mode, from a JSON file in the form that
//! published nodes read ([`RootConfig::from_published_json`]).

mod published;
mod state;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddrV4;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

pub(crate) use state::{load_proxy_endpoints, store_proxy_endpoints};

use crate::address::{Address, AddressParseError};
use crate::cell::{CellError, ContractCode};
use crate::contracts::{
    DEFAULT_MIN_STAKE_NANOTON, NEUTRAL_MULTIPLIER, ParamsError, RootParams, StructVersion,
};

/// Largest test-mode file that we read, in bytes.
pub const MAX_PUBLISHED_JSON_BYTES: usize = 1024 * 1024;
/// Longest endpoint text of a registered proxy, in bytes: the root contract counts it in 7 bits.
pub const MAX_ENDPOINTS_BYTES: usize = 127;
/// Most entries that we take from one list of the root contract's state.
pub const MAX_LIST_ENTRIES: usize = 100_000;

/// `unique_id` that the published test mode fixes.
pub const TEST_MODE_UNIQUE_ID: u32 = 13;
/// Delay that the published test mode fixes for closing a proxy.
pub const TEST_MODE_PROXY_DELAY_SECONDS: u32 = 600;
/// Delay that the published test mode fixes for closing a client.
pub const TEST_MODE_CLIENT_DELAY_SECONDS: u32 = 300;

/// The root contract as nodes see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootConfig {
    /// Who may change the root contract.
    pub owner: Address,
    /// Image hashes that a proxy may have.
    pub proxy_hashes: BTreeSet<[u8; 32]>,
    /// Proxies to dial, in the order of their sequence numbers or of the file.
    pub registered_proxies: Vec<RegisteredProxy>,
    /// Sequence number that the newest proxy got. Never falls.
    pub last_proxy_seqno: u32,
    /// Image hashes that a worker may have.
    pub worker_hashes: BTreeSet<[u8; 32]>,
    /// SHA-256 of each model name that a worker may serve; see [`model_hash`].
    pub model_hashes: BTreeSet<[u8; 32]>,
    /// Rises with every change of the lists.
    pub version: u32,
    /// Prices, delays, stakes and contract code.
    pub params: RootParams,
}

impl RootConfig {
    /// A root configuration as the published test mode fixes it, with empty lists, empty contract code and prices of
    /// zero: a start for a network of one's own.
    pub fn test_mode(owner: Address) -> Self {
        Self {
            owner,
            proxy_hashes: BTreeSet::new(),
            registered_proxies: Vec::new(),
            last_proxy_seqno: 0,
            worker_hashes: BTreeSet::new(),
            model_hashes: BTreeSet::new(),
            version: 0,
            params: RootParams {
                struct_version: StructVersion::V1,
                params_version: 0,
                unique_id: TEST_MODE_UNIQUE_ID,
                is_test: true,
                price_per_token_nanoton: 0,
                worker_fee_per_token_nanoton: 0,
                prompt_tokens_price_multiplier: NEUTRAL_MULTIPLIER,
                cached_tokens_price_multiplier: NEUTRAL_MULTIPLIER,
                completion_tokens_price_multiplier: NEUTRAL_MULTIPLIER,
                reasoning_tokens_price_multiplier: NEUTRAL_MULTIPLIER,
                proxy_delay_before_close_seconds: TEST_MODE_PROXY_DELAY_SECONDS,
                client_delay_before_close_seconds: TEST_MODE_CLIENT_DELAY_SECONDS,
                min_proxy_stake_nanoton: DEFAULT_MIN_STAKE_NANOTON,
                min_client_stake_nanoton: DEFAULT_MIN_STAKE_NANOTON,
                proxy_code: Some(ContractCode::empty()),
                worker_code: Some(ContractCode::empty()),
                client_code: Some(ContractCode::empty()),
            },
        }
    }

    /// Whether a proxy with this image may take part.
    pub fn allows_proxy_hash(&self, image_hash: &[u8; 32]) -> bool {
        self.proxy_hashes.contains(image_hash)
    }

    /// Whether a worker with this image may take part.
    pub fn allows_worker_hash(&self, image_hash: &[u8; 32]) -> bool {
        self.worker_hashes.contains(image_hash)
    }

    /// Whether a worker may serve the model with this full name, `name@commit:verityhash`.
    pub fn allows_model(&self, full_name: &str) -> bool {
        self.model_hashes.contains(&model_hash(full_name))
    }
}

/// The hash by which the root contract lists a model: SHA-256 of the full name, `name@commit:verityhash`.
pub fn model_hash(full_name: &str) -> [u8; 32] {
    Sha256::digest(full_name.as_bytes()).into()
}

/// A proxy that the root contract lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegisteredProxy {
    /// Number under which it was registered.
    pub seqno: u32,
    /// Where to dial it.
    pub endpoints: ProxyEndpoints,
}

/// Where a proxy listens. The root contract has room for IPv4 only.
///
/// Written `ip:port` when one endpoint serves both, else `ip:port_for_workers ip:port_for_clients`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProxyEndpoints {
    /// Workers dial this.
    pub for_workers: SocketAddrV4,
    /// Clients dial this.
    pub for_clients: SocketAddrV4,
}

impl fmt::Display for ProxyEndpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.for_workers == self.for_clients {
            write!(f, "{}", self.for_workers)
        } else {
            write!(f, "{} {}", self.for_workers, self.for_clients)
        }
    }
}

impl FromStr for ProxyEndpoints {
    type Err = EndpointsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_ENDPOINTS_BYTES {
            return Err(EndpointsError::TooLong(text.len()));
        }
        let (workers, clients) = text.split_once(' ').unwrap_or((text, text));
        Ok(Self { for_workers: parse_endpoint(workers)?, for_clients: parse_endpoint(clients)? })
    }
}

/// `ip:port` or `[ip:port]`, as published nodes read it.
fn parse_endpoint(text: &str) -> Result<SocketAddrV4, EndpointsError> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<SocketAddrV4>() {
        Ok(address) if address.port() != 0 => Ok(address),
        _ => Err(EndpointsError::NotAnEndpoint(text.to_owned())),
    }
}

/// Why a text does not say where a proxy listens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointsError {
    /// Over [`MAX_ENDPOINTS_BYTES`].
    #[error("the proxy's address has {0} bytes, over the limit of {MAX_ENDPOINTS_BYTES}")]
    TooLong(usize),
    /// Not an IPv4 address and a port.
    #[error(
        "'{0}' is not IP:PORT with an IPv4 address and a port from 1 to 65535; \
         write 'IP:PORT' or 'IP:PORT_FOR_WORKERS IP:PORT_FOR_CLIENTS'"
    )]
    NotAnEndpoint(String),
}

/// Why a root configuration cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RootConfigError {
    /// The file is over [`MAX_PUBLISHED_JSON_BYTES`].
    #[error("the root configuration has {0} bytes, over the limit of {MAX_PUBLISHED_JSON_BYTES}")]
    TooLarge(usize),
    /// Not JSON, or a field has the wrong type.
    #[error("the root configuration is not in the published form: {0}")]
    Json(#[from] serde_json::Error),
    /// The owner is missing or no address.
    #[error("root_owner_address of the root configuration: {0}")]
    Owner(#[from] AddressParseError),
    /// A hash that is not 32 bytes of base64.
    #[error("{field} of the root configuration: '{value}' is not 32 bytes in base64")]
    Hash {
        /// The list.
        field: &'static str,
        /// The entry.
        value: String,
    },
    /// A proxy's address.
    #[error("registered_proxies of the root configuration: {0}")]
    Endpoints(#[from] EndpointsError),
    /// Contract code that is not hex.
    #[error("{0} of the root configuration is not hex")]
    CodeNotHex(&'static str),
    /// Contract code that is no bag of cells.
    #[error("{field} of the root configuration: {source}")]
    Code {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        source: CellError,
    },
    /// The state of the root contract does not have the known layout.
    #[error("the root contract's state does not fit its layout: {0}")]
    State(#[from] CellError),
    /// The params in the state do not have a known layout.
    #[error("the root contract's state: {0}")]
    Params(#[from] ParamsError),
    /// A list in the state is broken.
    #[error("the root contract's state: its list {0} cannot be read")]
    List(&'static str),
    /// A list in the state is over [`MAX_LIST_ENTRIES`].
    #[error("the root contract's state: its list {0} has over {MAX_LIST_ENTRIES} entries")]
    ListTooLong(&'static str),
    /// The published form has no room for this configuration.
    #[error("the published test-mode form cannot express this root configuration: {0}")]
    NotRepresentable(&'static str),
}
