//! The blockchain configuration: prices and limits of the public TON network, as far as contracts can notice them.

use tycho_executor::ParsedConfig;
use tycho_types::cell::{Cell, HashBytes};
use tycho_types::dict::Dict;
use tycho_types::models::{
    BlockchainConfig, BlockchainConfigParams, GasLimitsPrices, GlobalCapabilities, GlobalVersion,
    MsgForwardPrices, StoragePrices, WorkchainDescription, WorkchainFormat, WorkchainFormatBasic,
};

/// Version of the virtual machine. The public network is ahead; contracts must not need more than this.
pub const VM_VERSION: u32 = 12;
/// Network number that contracts and wallets can read: that of the public test network, so that nothing signed for
/// this chain counts on the public one.
pub const GLOBAL_ID: i32 = -3;

/// Capability bits of the public network.
const CAPABILITIES: u64 = 0x1ee;
/// Address of the configuration contract in the masterchain. No such account exists here.
const CONFIG_ADDRESS: HashBytes = HashBytes([0x55; 32]);
/// Address of the elector in the masterchain. No such account exists here.
const ELECTOR_ADDRESS: HashBytes = HashBytes([0x33; 32]);

/// The configuration that the chain runs under.
///
/// Prices (parameters 18, 20, 21, 24 and 25) are the public network's of 2026. Parameter 12 describes the basechain in
/// the first of TON's two formats, the one the executor reads. Parameter 43 (size limits) is absent: the executor reads
/// newer versions of it wrongly, and its defaults are the network's limits.
#[derive(Debug)]
pub struct ChainConfig(ParsedConfig);

/// Why a configuration cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("the blockchain configuration cannot be built: {0}")]
pub struct ConfigError(#[from] tycho_types::error::Error);

impl ChainConfig {
    /// The public network's prices and limits.
    ///
    /// # Errors
    /// [`ConfigError`] where a parameter does not fit its cell; that would be a mistake in this module.
    pub fn new() -> Result<Self, ConfigError> {
        let config = BlockchainConfig { address: CONFIG_ADDRESS, params: params()? };
        Ok(Self(ParsedConfig::parse(config, 0)?))
    }

    /// The root of the dictionary of parameters, as contracts find it in their context.
    pub fn root(&self) -> Option<Cell> {
        self.0.raw.params.as_dict().root().clone()
    }

    pub(crate) const fn parsed(&self) -> &ParsedConfig {
        &self.0
    }
}

fn params() -> Result<BlockchainConfigParams, ConfigError> {
    let mut params = BlockchainConfig::new_empty(CONFIG_ADDRESS).params;
    params.set_elector_address(&ELECTOR_ADDRESS)?;
    params.set_global_version(&GlobalVersion {
        version: VM_VERSION,
        capabilities: GlobalCapabilities::new(CAPABILITIES),
    })?;
    params.set_workchains(&workchains()?)?;
    params.set_storage_prices(&[StoragePrices {
        utime_since: 0,
        bit_price_ps: 1,
        cell_price_ps: 500,
        mc_bit_price_ps: 1000,
        mc_cell_price_ps: 500_000,
    }])?;
    params.set_global_id(GLOBAL_ID)?;
    for masterchain in [true, false] {
        params.set_gas_prices(masterchain, &gas_prices(masterchain))?;
        params.set_msg_forward_prices(masterchain, &forward_prices(masterchain))?;
    }
    params.set_fundamental_addresses(&[CONFIG_ADDRESS, ELECTOR_ADDRESS])?;
    Ok(params)
}

fn workchains() -> Result<Dict<i32, WorkchainDescription>, ConfigError> {
    let basechain = WorkchainDescription {
        enabled_since: 0,
        actual_min_split: 0,
        min_split: 0,
        max_split: 0,
        active: true,
        accept_msgs: true,
        zerostate_root_hash: HashBytes::ZERO,
        zerostate_file_hash: HashBytes::ZERO,
        version: 0,
        format: WorkchainFormat::Basic(WorkchainFormatBasic { vm_version: -1, vm_mode: 0 }),
    };
    let mut workchains = Dict::new();
    workchains.set(0, basechain)?;
    Ok(workchains)
}

/// Prices are in nanoton times 2^16 per unit of gas; one unit costs 400 nanoton in the basechain.
const fn gas_prices(masterchain: bool) -> GasLimitsPrices {
    let nanoton_per_gas: u64 = if masterchain { 10_000 } else { 400 };
    GasLimitsPrices {
        gas_price: nanoton_per_gas << 16,
        gas_limit: 1_000_000,
        special_gas_limit: if masterchain { 70_000_000 } else { 1_000_000 },
        gas_credit: 10_000,
        block_gas_limit: if masterchain { 2_500_000 } else { 10_000_000 },
        freeze_due_limit: 100_000_000,
        delete_due_limit: 1_000_000_000,
        flat_gas_limit: 100,
        flat_gas_price: 100 * nanoton_per_gas,
    }
}

/// Prices of bits and cells are in nanoton times 2^16.
const fn forward_prices(masterchain: bool) -> MsgForwardPrices {
    MsgForwardPrices {
        lump_price: if masterchain { 10_000_000 } else { 400_000 },
        bit_price: if masterchain { 10_000 << 16 } else { 400 << 16 },
        cell_price: if masterchain { 1_000_000 << 16 } else { 40_000 << 16 },
        ihr_price_factor: 98_304,
        first_frac: 21_845,
        next_frac: 21_845,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_the_public_networks() {
        // Cells of the public network's configuration, as of 2026.
        let root = ChainConfig::new().unwrap().root().unwrap();
        let params = BlockchainConfigParams::from_raw(root);
        let raw = |id: u32| hex::encode(params.get_raw_cell(id).unwrap().unwrap().data());
        let expected = [
            (
                20,
                "d1000000000000006400000000000f4240de000000002710000000000000000f4240000000\
             00042c1d80000000000000271000000000002625a00000000005f5e100000000003b9aca00",
            ),
            (
                21,
                "d100000000000000640000000000009c40de000000000190000000000000000f4240000000\
             00000f4240000000000000271000000000009896800000000005f5e100000000003b9aca00",
            ),
            (24, "ea000000000098968000000000271000000000000f424000000001800055555555"),
            (25, "ea0000000000061a800000000001900000000000009c4000000001800055555555"),
        ];
        for (id, cell) in expected {
            assert_eq!(raw(id), cell, "parameter {id}");
        }
    }

    #[test]
    fn what_the_executor_reads_wrongly_is_left_out() {
        let root = ChainConfig::new().unwrap().root().unwrap();
        let params = BlockchainConfigParams::from_raw(root);
        assert!(params.get_raw_cell(43).unwrap().is_none());
        assert_eq!(params.get_workchains().unwrap().get(0).unwrap().unwrap().version, 0);
    }
}
