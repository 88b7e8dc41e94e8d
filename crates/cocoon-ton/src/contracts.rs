//! The data that the proxy, worker, client and wallet contracts start with, and the addresses that follow from it.
//!
//! A contract's address is the hash of its initial state: code and data. Both sides of every handshake recompute the
//! addresses, so the layouts here match the published contracts bit for bit. All of Cocoon's contracts live in the
//! basechain.

mod init;
mod params;
mod state;

use self::init::state_init_hash;
pub use init::StateInit;
pub use params::{DEFAULT_MIN_STAKE_NANOTON, NEUTRAL_MULTIPLIER, ParamsError, RootParams, StructVersion};
pub use state::{ClientState, ContractStatus, ProxyState, WorkerState};

use crate::address::Address;
use crate::cell::{Cell, CellError, ContractCode, Writer};
use crate::code;
use crate::root::RootConfig;

/// Hash of the code of the published node wallet.
pub const WALLET_CODE_HASH: [u8; 32] = [
    0x7a, 0x48, 0xf0, 0x5c, 0xee, 0xf4, 0x0f, 0x06, 0xca, 0xbb, 0xaa, 0x39, 0xc1, 0xc5, 0xa6, 0x7b, 0x24,
    0xe8, 0xbb, 0x59, 0xd8, 0xcf, 0x8a, 0x74, 0xe4, 0x99, 0x88, 0xa5, 0xf4, 0x4c, 0xf6, 0x6a,
];
/// Depth of the code of the published node wallet.
pub const WALLET_CODE_DEPTH: u16 = 6;

/// Address of the contract of the proxy that `owner` runs with `public_key` under the root contract at `root`.
///
/// # Errors
/// [`CodeMissing`] when `params` lacks the proxy code.
pub fn proxy_address(
    params: &RootParams,
    root: &Address,
    owner: &Address,
    public_key: &[u8; 32],
) -> Result<Address, CodeMissing> {
    proxy_state_init(params, root, owner, public_key).map(|init| init.address())
}

/// What the contract of the proxy that `owner` runs with `public_key` under the root contract at `root` starts with.
///
/// # Errors
/// [`CodeMissing`] when `params` lacks the proxy code.
pub fn proxy_state_init(
    params: &RootParams,
    root: &Address,
    owner: &Address,
    public_key: &[u8; 32],
) -> Result<StateInit, CodeMissing> {
    let data = Writer::new()
        .address(owner)
        .bytes(public_key)
        .address(root)
        .uint(0, 2) // state: open
        .coins(0) // balance
        .coins(0) // stake
        .uint(0, 32) // unlock time
        .reference(params.cell_for_proxy())
        .build();
    let code = params.proxy_code.as_ref().ok_or(CodeMissing("proxy"))?;
    Ok(StateInit { code: code.cell().clone(), data })
}

/// Address of the contract between the worker owned by `owner` and the proxy at `proxy`.
///
/// # Errors
/// [`CodeMissing`] when `params` lacks the worker code.
pub fn worker_address(
    params: &RootParams,
    owner: &Address,
    proxy: &Address,
    proxy_public_key: &[u8; 32],
) -> Result<Address, CodeMissing> {
    worker_state_init(params, owner, proxy, proxy_public_key).map(|init| init.address())
}

/// What the contract between the worker owned by `owner` and the proxy at `proxy` starts with.
///
/// # Errors
/// [`CodeMissing`] when `params` lacks the worker code.
pub fn worker_state_init(
    params: &RootParams,
    owner: &Address,
    proxy: &Address,
    proxy_public_key: &[u8; 32],
) -> Result<StateInit, CodeMissing> {
    let data = Writer::new()
        .address(owner)
        .address(proxy)
        .bytes(proxy_public_key)
        .uint(0, 2) // state: open
        .uint(0, 64) // tokens paid so far
        .reference(params.cell_without_code())
        .build();
    let code = params.worker_code.as_ref().ok_or(CodeMissing("worker"))?;
    Ok(StateInit { code: code.cell().clone(), data })
}

/// Address of the contract between the client owned by `owner` (a client names its wallet) and the proxy at `proxy`.
///
/// # Errors
/// [`CodeMissing`] when `params` lacks the client code.
pub fn client_address(
    params: &RootParams,
    owner: &Address,
    proxy: &Address,
    proxy_public_key: &[u8; 32],
) -> Result<Address, CodeMissing> {
    client_state_init(params, owner, proxy, proxy_public_key).map(|init| init.address())
}

/// What the contract between the client owned by `owner` (a client names its wallet) and the proxy at `proxy` starts
/// with.
///
/// # Errors
/// [`CodeMissing`] when `params` lacks the client code.
pub fn client_state_init(
    params: &RootParams,
    owner: &Address,
    proxy: &Address,
    proxy_public_key: &[u8; 32],
) -> Result<StateInit, CodeMissing> {
    let parties = Writer::new().address(owner).address(proxy).bytes(proxy_public_key).build();
    let data = Writer::new()
        .uint(0, 2) // state: open
        .coins(0) // balance
        .coins(params.min_client_stake_nanoton) // stake
        .uint(0, 64) // tokens used
        .uint(0, 32) // unlock time
        .bytes(&[0; 32]) // secret hash
        .reference(parties)
        .reference(params.cell_without_code())
        .build();
    let code = params.client_code.as_ref().ok_or(CodeMissing("client"))?;
    Ok(StateInit { code: code.cell().clone(), data })
}

/// What a root contract with our code and this configuration starts with.
pub fn root_state_init(config: &RootConfig) -> StateInit {
    StateInit { code: code::root().cell().clone(), data: config.to_state_data() }
}

/// Address of a node wallet: a small contract of its own, controlled by `public_key` and, in the last resort, by
/// `owner`. The code is given by hash and depth ([`WALLET_CODE_HASH`], [`WALLET_CODE_DEPTH`]): the address needs no more.
pub fn wallet_address(
    public_key: &[u8; 32],
    owner: &Address,
    code_hash: &[u8; 32],
    code_depth: u16,
) -> Address {
    let data = Writer::new()
        .uint(0, 32) // seqno
        .uint(0, 32) // subwallet
        .bytes(public_key)
        .uint(0, 32) // status
        .address(owner)
        .build();
    Address::basechain(state_init_hash((*code_hash, code_depth), (data.repr_hash().0, data.repr_depth())))
}

/// The root configuration does not hold the code that an address depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the root configuration holds no {0} contract code, so the address cannot be computed")]
pub struct CodeMissing(pub &'static str);

pub(crate) fn code_from(cell: Option<Cell>) -> Result<Option<ContractCode>, CellError> {
    cell.map(ContractCode::from_cell).transpose()
}
