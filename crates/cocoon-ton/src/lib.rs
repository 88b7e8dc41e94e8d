//! What the nodes know of TON: addresses, cells, the data layouts that contract addresses depend on, the root
//! contract's configuration, and the payment orders that a proxy signs.
//!
//! Pure: no I/O, no clock, no randomness. Bytes, keys and query ids come in as arguments.
//!
//! * [`address`]   standard addresses in all their textual forms.
//! * [`cell`]      bounded decoding of bags of cells, and the field encodings that the contracts use.
//! * [`code`]      code of our contracts, and of the published node wallet.
//! * [`contracts`] initial data of the proxy, worker, client and wallet contracts, and the addresses that follow.
//! * [`message`]   bodies of messages to those contracts.
//! * [`mnemonic`]  a key as 24 words.
//! * [`payment`]   Ed25519-signed orders: "charge this client up to N tokens", "pay this worker up to N tokens".
//! * [`root`]      what nodes need of the root contract, from its state or from a published test-mode file.
//! * [`wallet`]    wallets: their addresses, and signed messages that have them send.

pub mod address;
pub mod cell;
pub mod code;
pub mod contracts;
pub mod message;
pub mod mnemonic;
pub mod payment;
pub mod root;
pub mod wallet;

pub use address::{Address, AddressFormat, AddressParseError};
pub use cell::{Cell, CellError, ContractCode};
pub use contracts::{
    ClientState, ProxyState, RootParams, StateInit, StructVersion, WorkerState, client_address,
    client_state_init, proxy_address, proxy_state_init, root_state_init, wallet_address, worker_address,
    worker_state_init,
};
pub use ed25519_dalek::{SigningKey, VerifyingKey};
pub use message::{Body, RootChange};
pub use mnemonic::{Mnemonic, MnemonicError};
pub use payment::{
    OrderKind, PaymentOrder, PaymentParseError, PaymentVerifyError, ProxyCloseKind, SignedPayment,
    SignedProxyClose,
};
pub use root::{ProxyEndpoints, RegisteredProxy, RootConfig, RootConfigError};
pub use wallet::{OutMessage, SignError, Wallet, WalletKind};

/// Nanotons in one TON.
pub const NANOTON_PER_TON: u64 = 1_000_000_000;
