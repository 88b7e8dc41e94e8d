//! What the root contract's owner may tell it.

use super::op;
use crate::address::Address;
use crate::cell::{Cell, CellError, ContractCode, Reader, Writer};
use crate::root::{ProxyEndpoints, load_proxy_endpoints, store_proxy_endpoints};

/// A change of the root contract. Prices and stakes are in nanoton, delays in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are named as the params they replace")]
pub enum RootChange {
    /// Allows workers with this image hash.
    AddWorkerImage([u8; 32]),
    /// No longer allows workers with this image hash.
    DelWorkerImage([u8; 32]),
    /// Allows a model, by [`model_hash`](crate::root::model_hash).
    AddModel([u8; 32]),
    /// No longer allows a model.
    DelModel([u8; 32]),
    /// Allows proxies with this image hash.
    AddProxyImage([u8; 32]),
    /// No longer allows proxies with this image hash.
    DelProxyImage([u8; 32]),
    /// Lists a proxy under the next number.
    RegisterProxy(ProxyEndpoints),
    /// Drops the proxy with this number from the list.
    UnregisterProxy(u32),
    /// Lists another place for the proxy with this number.
    UpdateProxy { seqno: u32, endpoints: ProxyEndpoints },
    /// Sets the prices of a token.
    ChangePrices { price: u64, worker_fee: u64 },
    /// Sets prices, delays and least stakes.
    ChangeParams {
        price: u64,
        worker_fee: u64,
        proxy_delay: u32,
        client_delay: u32,
        min_proxy_stake: u64,
        min_client_stake: u64,
    },
    /// Sets the code of contracts to come.
    UpgradeContracts { proxy: ContractCode, worker: ContractCode, client: ContractCode },
    /// Replaces the root contract's own code.
    UpgradeCode(ContractCode),
    /// Replaces the root contract's data and code, in a layout of its own.
    UpgradeFull { data: Cell, code: ContractCode },
    /// Empties all lists.
    Reset,
    /// Hands the root contract over.
    ChangeOwner(Address),
}

impl RootChange {
    /// The operation code.
    pub const fn op(&self) -> u32 {
        match self {
            Self::AddWorkerImage(_) => op::ROOT_ADD_WORKER_TYPE,
            Self::DelWorkerImage(_) => op::ROOT_DEL_WORKER_TYPE,
            Self::AddModel(_) => op::ROOT_ADD_MODEL_TYPE,
            Self::DelModel(_) => op::ROOT_DEL_MODEL_TYPE,
            Self::AddProxyImage(_) => op::ROOT_ADD_PROXY_TYPE,
            Self::DelProxyImage(_) => op::ROOT_DEL_PROXY_TYPE,
            Self::RegisterProxy(_) => op::ROOT_REGISTER_PROXY,
            Self::UnregisterProxy(_) => op::ROOT_UNREGISTER_PROXY,
            Self::UpdateProxy { .. } => op::ROOT_UPDATE_PROXY,
            Self::ChangePrices { .. } => op::ROOT_CHANGE_PRICE,
            Self::ChangeParams { .. } => op::ROOT_CHANGE_PARAMS,
            Self::UpgradeContracts { .. } => op::ROOT_UPGRADE_CONTRACTS,
            Self::UpgradeCode(_) => op::ROOT_UPGRADE,
            Self::UpgradeFull { .. } => op::ROOT_UPGRADE_FULL,
            Self::Reset => op::ROOT_RESET,
            Self::ChangeOwner(_) => op::ROOT_CHANGE_OWNER,
        }
    }

    /// Appends what follows the query id.
    pub(super) fn store(&self, writer: Writer) -> Writer {
        match self {
            Self::AddWorkerImage(hash)
            | Self::DelWorkerImage(hash)
            | Self::AddModel(hash)
            | Self::DelModel(hash)
            | Self::AddProxyImage(hash)
            | Self::DelProxyImage(hash) => writer.bytes(hash),
            Self::RegisterProxy(endpoints) => store_proxy_endpoints(writer, endpoints),
            Self::UnregisterProxy(seqno) => writer.uint(u64::from(*seqno), 32),
            Self::UpdateProxy { seqno, endpoints } => {
                store_proxy_endpoints(writer.uint(u64::from(*seqno), 32), endpoints)
            }
            Self::ChangePrices { price, worker_fee } => writer.coins(*price).coins(*worker_fee),
            Self::ChangeParams {
                price,
                worker_fee,
                proxy_delay,
                client_delay,
                min_proxy_stake,
                min_client_stake,
            } => writer
                .coins(*price)
                .coins(*worker_fee)
                .uint(u64::from(*proxy_delay), 32)
                .uint(u64::from(*client_delay), 32)
                .coins(*min_proxy_stake)
                .coins(*min_client_stake),
            Self::UpgradeContracts { proxy, worker, client } => writer
                .reference(proxy.cell().clone())
                .reference(worker.cell().clone())
                .reference(client.cell().clone()),
            Self::UpgradeCode(code) => writer.reference(code.cell().clone()),
            Self::UpgradeFull { data, code } => writer.reference(data.clone()).reference(code.cell().clone()),
            Self::Reset => writer,
            Self::ChangeOwner(owner) => writer.address(owner),
        }
    }

    /// Reads what follows the query id; `None` when `op` is none of the root contract's.
    pub(super) fn load(op: u32, reader: &mut Reader<'_>) -> Result<Option<Self>, CellError> {
        Ok(Some(match op {
            op::ROOT_ADD_WORKER_TYPE => Self::AddWorkerImage(reader.bytes("hash")?),
            op::ROOT_DEL_WORKER_TYPE => Self::DelWorkerImage(reader.bytes("hash")?),
            op::ROOT_ADD_MODEL_TYPE => Self::AddModel(reader.bytes("hash")?),
            op::ROOT_DEL_MODEL_TYPE => Self::DelModel(reader.bytes("hash")?),
            op::ROOT_ADD_PROXY_TYPE => Self::AddProxyImage(reader.bytes("hash")?),
            op::ROOT_DEL_PROXY_TYPE => Self::DelProxyImage(reader.bytes("hash")?),
            op::ROOT_REGISTER_PROXY => Self::RegisterProxy(endpoints(reader)?),
            op::ROOT_UNREGISTER_PROXY => Self::UnregisterProxy(reader.u32("seqno")?),
            op::ROOT_UPDATE_PROXY => {
                Self::UpdateProxy { seqno: reader.u32("seqno")?, endpoints: endpoints(reader)? }
            }
            op::ROOT_CHANGE_PRICE => {
                Self::ChangePrices { price: reader.coins("price")?, worker_fee: reader.coins("worker_fee")? }
            }
            op::ROOT_CHANGE_PARAMS => Self::ChangeParams {
                price: reader.coins("price")?,
                worker_fee: reader.coins("worker_fee")?,
                proxy_delay: reader.u32("proxy_delay")?,
                client_delay: reader.u32("client_delay")?,
                min_proxy_stake: reader.coins("min_proxy_stake")?,
                min_client_stake: reader.coins("min_client_stake")?,
            },
            op::ROOT_UPGRADE_CONTRACTS => {
                Self::UpgradeContracts { proxy: code(reader)?, worker: code(reader)?, client: code(reader)? }
            }
            op::ROOT_UPGRADE => Self::UpgradeCode(code(reader)?),
            op::ROOT_UPGRADE_FULL => {
                Self::UpgradeFull { data: reader.shallow_reference("data")?, code: code(reader)? }
            }
            op::ROOT_RESET => Self::Reset,
            op::ROOT_CHANGE_OWNER => Self::ChangeOwner(reader.address("owner")?),
            _ => return Ok(None),
        }))
    }
}

fn code(reader: &mut Reader<'_>) -> Result<ContractCode, CellError> {
    reader.reference("code").and_then(ContractCode::from_cell)
}

fn endpoints(reader: &mut Reader<'_>) -> Result<ProxyEndpoints, CellError> {
    load_proxy_endpoints(reader)?.ok_or(CellError::Missing("endpoints that we know"))
}
