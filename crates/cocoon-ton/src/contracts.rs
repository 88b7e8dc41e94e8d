//! The data that the proxy, worker, client and wallet contracts start with, and the addresses that follow from it.
//!
//! A contract's address is the hash of its initial state: code and data. Both sides of every handshake recompute the
//! addresses, so the layouts here match the published contracts bit for bit. All of Cocoon's contracts live in the
//! basechain.

mod params;
mod state;

use sha2::{Digest as _, Sha256};

pub use params::{DEFAULT_MIN_STAKE_NANOTON, NEUTRAL_MULTIPLIER, ParamsError, RootParams, StructVersion};
pub use state::{ClientState, ContractStatus, WorkerState};

use crate::address::Address;
use crate::cell::{Cell, CellError, ContractCode, Writer};

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
    Ok(contract_address(code, &data))
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
    let data = Writer::new()
        .address(owner)
        .address(proxy)
        .bytes(proxy_public_key)
        .uint(0, 2) // state: open
        .uint(0, 64) // tokens paid so far
        .reference(params.cell_without_code())
        .build();
    let code = params.worker_code.as_ref().ok_or(CodeMissing("worker"))?;
    Ok(contract_address(code, &data))
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
    Ok(contract_address(code, &data))
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

fn contract_address(code: &ContractCode, data: &Cell) -> Address {
    Address::basechain(state_init_hash((code.hash(), code.depth()), (data.repr_hash().0, data.repr_depth())))
}

/// Representation hash of a `StateInit` with code and data, no split depth, no special flag and no libraries, from
/// the (hash, depth) of both. The representation of a cell is two descriptor bytes, its bits, then the depths and the
/// hashes of its references.
fn state_init_hash(code: ([u8; 32], u16), data: ([u8; 32], u16)) -> [u8; 32] {
    /// An ordinary cell with two references.
    const REFERENCES: u8 = 2;
    /// Five bits: floor(5 / 8) + ceil(5 / 8).
    const LENGTH: u8 = 1;
    /// The bits 00110 (code and data present), completed by 100.
    const BITS: u8 = 0b0011_0100;
    Sha256::new()
        .chain_update([REFERENCES, LENGTH, BITS])
        .chain_update(code.1.to_be_bytes())
        .chain_update(data.1.to_be_bytes())
        .chain_update(code.0)
        .chain_update(data.0)
        .finalize()
        .into()
}

pub(crate) fn code_from(cell: Option<Cell>) -> Result<Option<ContractCode>, CellError> {
    cell.map(ContractCode::from_cell).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_from_parts_is_that_of_the_built_state_init() {
        let code = Writer::new().uint(7, 9).reference(Writer::new().uint(1, 1).build()).build();
        let data = Writer::new().uint(5, 3).build();
        let built = Writer::new()
            .uint(0, 2)
            .maybe_reference(Some(&code))
            .maybe_reference(Some(&data))
            .uint(0, 1)
            .build();
        let from_parts =
            state_init_hash((code.repr_hash().0, code.repr_depth()), (data.repr_hash().0, data.repr_depth()));
        assert_eq!(built.repr_hash().0, from_parts);
    }
}
