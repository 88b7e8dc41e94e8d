//! A TON-style chain inside the process: accounts, messages, fees, storage debts and contracts on a real virtual
//! machine, without validators and without a network.
//!
//! * [`Core`] is the state machine: messages and the time go in, blocks come out. No I/O, no clock, no randomness;
//!   the same inputs give the same blocks, hashes included.
//! * [`LocalChain`] runs it: on a thread of its own, with a file and a clock, for async code. With a root contract it is
//!   a [`cocoon_chain::Chain`] ([`RootedChain`]).
//! * [`toncenter`] answers toncenter's HTTP API, so that wallets and libraries for TON work unchanged.
//! * [`ChainConfig`] is the blockchain configuration that it runs under: the public network's prices and limits.
//!
//! # How it differs from a public TON network
//! * One block holds all accounts, of the basechain and the masterchain; block `n` stands for masterchain block `n` and
//!   for shard block `n` of the undivided basechain. Their hashes commit to the content but are not those of TON's
//!   block cells, so nothing about the chain can be proven to a stranger.
//! * The virtual machine is version 12. Contracts must not need more.
//! * There are no validators, no elections, no special accounts, no public libraries, no tick-tock transactions, and
//!   no extra currencies. Collected fees leave the circulation and are counted ([`Core::supply`]).
//! * Coins come from a faucet with [`SUPPLY_NANOTON`]. A grant is made by the chain itself, as the network mints: the
//!   receiver has a transaction for it, the faucet has none.

mod chain;
mod config;
mod core;
mod decode;
mod message;
mod node;
mod store;
pub mod toncenter;

pub use chain::{LocalChain, Moment, RootedChain};
pub use config::{ChainConfig, ConfigError, GLOBAL_ID, VM_VERSION};
pub use core::{
    Block, BlockError, BlockHeader, CommittedTransaction, Core, Draft, FAUCET_HASH, Fees, GETTER_GAS_LIMIT,
    GetterError, GrantError, MAX_PENDING_INPUTS, MAX_STACK_DEPTH, MAX_STACK_ITEMS,
    MAX_TRANSACTIONS_PER_BLOCK, Refusal, RefusedInput, RestoreError, SUPPLY_NANOTON, SubmitError, Supply,
    method_id,
};
pub use decode::decode_transaction;
pub use message::{ExternalMessage, MAX_EXTERNAL_MESSAGE_BYTES, MessageError};
pub use node::{
    DEFAULT_MAX_FILE_BYTES, MAX_BLOCKS_TO_SETTLE, MAX_SUBSCRIPTIONS, MIN_INTERVAL, OpenError, Options,
    Production, TimeSource,
};
pub use store::StoreError;
