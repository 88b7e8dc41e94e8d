//! The params cell: prices, delays, stakes and contract code, as the root contract keeps it and hands it down.

use crate::cell::{Cell, CellError, ContractCode, Reader, Writer};
use crate::contracts::code_from;

/// A price multiplier that changes nothing: the unit is 1/10000.
pub const NEUTRAL_MULTIPLIER: u32 = 10_000;
/// Minimum stake where the params are too old to name one: 1 TON.
pub const DEFAULT_MIN_STAKE_NANOTON: u64 = 1_000_000_000;

/// Layout of the params cell. Each version has the fields of the one before it and more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StructVersion {
    /// Prices and delays.
    V0 = 0,
    /// Minimum stakes; the published test mode uses this one.
    V1 = 1,
    /// Multipliers for cached and reasoning tokens.
    V2 = 2,
    /// Multipliers for prompt and completion tokens; today's contracts use this one.
    V3 = 3,
}

impl StructVersion {
    /// The version that a number names, if it is one we know.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::V0),
            1 => Some(Self::V1),
            2 => Some(Self::V2),
            3 => Some(Self::V3),
            _ => None,
        }
    }

    /// 0..=3.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// All fields of the params cell. Multipliers are in 1/10000, delays in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootParams {
    /// Layout that the cells are written in. Contract addresses depend on it.
    pub struct_version: StructVersion,
    /// Rises with every change of the params.
    pub params_version: u32,
    /// Tells networks apart.
    pub unique_id: u32,
    /// A test network, where the coins are worth nothing.
    pub is_test: bool,
    /// What a client pays per adjusted token.
    pub price_per_token_nanoton: u64,
    /// What of it a worker gets.
    pub worker_fee_per_token_nanoton: u64,
    /// Weight of a prompt token.
    pub prompt_tokens_price_multiplier: u32,
    /// Weight of a prompt token that the engine had cached.
    pub cached_tokens_price_multiplier: u32,
    /// Weight of a completion token.
    pub completion_tokens_price_multiplier: u32,
    /// Weight of a reasoning token.
    pub reasoning_tokens_price_multiplier: u32,
    /// How long a proxy's contract stays closing before it pays out.
    pub proxy_delay_before_close_seconds: u32,
    /// How long a client's contract stays closing before the client may force a refund.
    pub client_delay_before_close_seconds: u32,
    /// Least stake of a proxy.
    pub min_proxy_stake_nanoton: u64,
    /// Least stake of a client: part of the initial data of its contract, hence of its address.
    pub min_client_stake_nanoton: u64,
    /// Code of the proxy contract.
    pub proxy_code: Option<ContractCode>,
    /// Code of the worker contract.
    pub worker_code: Option<ContractCode>,
    /// Code of the client contract.
    pub client_code: Option<ContractCode>,
}

impl RootParams {
    /// The cell as the root contract keeps it: with all code.
    pub fn cell_for_root(&self) -> Cell {
        self.to_cell([&self.proxy_code, &self.worker_code, &self.client_code])
    }

    /// The cell in a proxy contract's data: worker and client code, which it derives addresses from, not its own.
    pub fn cell_for_proxy(&self) -> Cell {
        self.to_cell([&None, &self.worker_code, &self.client_code])
    }

    /// The cell in a worker's or a client's contract data: no code.
    pub fn cell_without_code(&self) -> Cell {
        self.to_cell([&None, &None, &None])
    }

    /// Reads a params cell of any known version. Fields that the version lacks get their neutral values.
    ///
    /// # Errors
    /// [`ParamsError::UnknownVersion`], or [`ParamsError::Cell`] when the layout does not fit.
    pub fn from_cell(cell: &Cell) -> Result<Self, ParamsError> {
        let mut reader = Reader::new(cell, "the params cell")?;
        let number = reader.u8("struct_version")?;
        let struct_version = StructVersion::from_number(number).ok_or(ParamsError::UnknownVersion(number))?;
        let (v1, v2, v3) = (
            struct_version >= StructVersion::V1,
            struct_version >= StructVersion::V2,
            struct_version >= StructVersion::V3,
        );
        let multiplier = |reader: &mut Reader<'_>, present: bool, field| {
            if present { reader.u32(field) } else { Ok(NEUTRAL_MULTIPLIER) }
        };
        let stake = |reader: &mut Reader<'_>, field| {
            if v1 { reader.coins(field) } else { Ok(DEFAULT_MIN_STAKE_NANOTON) }
        };
        // Field initialisers run in the order written, which is the order of the fields in the cell.
        let params = Self {
            struct_version,
            params_version: reader.u32("params_version")?,
            unique_id: reader.u32("unique_id")?,
            is_test: reader.bit("is_test")?,
            price_per_token_nanoton: reader.coins("price_per_token")?,
            worker_fee_per_token_nanoton: reader.coins("worker_fee_per_token")?,
            prompt_tokens_price_multiplier: multiplier(&mut reader, v3, "prompt_tokens_price_multiplier")?,
            cached_tokens_price_multiplier: multiplier(&mut reader, v2, "cached_tokens_price_multiplier")?,
            completion_tokens_price_multiplier: multiplier(
                &mut reader,
                v3,
                "completion_tokens_price_multiplier",
            )?,
            reasoning_tokens_price_multiplier: multiplier(
                &mut reader,
                v2,
                "reasoning_tokens_price_multiplier",
            )?,
            proxy_delay_before_close_seconds: reader.u32("proxy_delay_before_close")?,
            client_delay_before_close_seconds: reader.u32("client_delay_before_close")?,
            min_proxy_stake_nanoton: stake(&mut reader, "min_proxy_stake")?,
            min_client_stake_nanoton: stake(&mut reader, "min_client_stake")?,
            proxy_code: code_from(reader.maybe_reference("proxy_sc_code")?)?,
            worker_code: code_from(reader.maybe_reference("worker_sc_code")?)?,
            client_code: code_from(reader.maybe_reference("client_sc_code")?)?,
        };
        reader.end("the params cell")?;
        Ok(params)
    }

    fn to_cell(&self, codes: [&Option<ContractCode>; 3]) -> Cell {
        let version = self.struct_version;
        let mut writer = Writer::new()
            .uint(u64::from(version.number()), 8)
            .uint(u64::from(self.params_version), 32)
            .uint(u64::from(self.unique_id), 32)
            .uint(u64::from(self.is_test), 1)
            .coins(self.price_per_token_nanoton)
            .coins(self.worker_fee_per_token_nanoton);
        for (since, multiplier) in [
            (StructVersion::V3, self.prompt_tokens_price_multiplier),
            (StructVersion::V2, self.cached_tokens_price_multiplier),
            (StructVersion::V3, self.completion_tokens_price_multiplier),
            (StructVersion::V2, self.reasoning_tokens_price_multiplier),
        ] {
            if version >= since {
                writer = writer.uint(u64::from(multiplier), 32);
            }
        }
        writer = writer
            .uint(u64::from(self.proxy_delay_before_close_seconds), 32)
            .uint(u64::from(self.client_delay_before_close_seconds), 32);
        if version >= StructVersion::V1 {
            writer = writer.coins(self.min_proxy_stake_nanoton).coins(self.min_client_stake_nanoton);
        }
        for code in codes {
            writer = writer.maybe_reference(code.as_ref().map(ContractCode::cell));
        }
        writer.build()
    }
}

/// Why a cell is not a params cell that we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    /// Newer than this program.
    #[error("the params cell has layout version {0}; this program knows 0 to 3, so it needs an update")]
    UnknownVersion(u8),
    /// The fields do not fit the layout.
    #[error("the params cell does not fit its layout: {0}")]
    Cell(#[from] CellError),
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn params(version: u8, words: [u32; 8], coins: [u64; 4], codes: [bool; 3]) -> RootParams {
        let code = |present: bool| present.then(ContractCode::empty);
        RootParams {
            struct_version: StructVersion::from_number(version).unwrap(),
            params_version: words[0],
            unique_id: words[1],
            is_test: words[0] % 2 == 1,
            price_per_token_nanoton: coins[0],
            worker_fee_per_token_nanoton: coins[1],
            prompt_tokens_price_multiplier: words[2],
            cached_tokens_price_multiplier: words[3],
            completion_tokens_price_multiplier: words[4],
            reasoning_tokens_price_multiplier: words[5],
            proxy_delay_before_close_seconds: words[6],
            client_delay_before_close_seconds: words[7],
            min_proxy_stake_nanoton: coins[2],
            min_client_stake_nanoton: coins[3],
            proxy_code: code(codes[0]),
            worker_code: code(codes[1]),
            client_code: code(codes[2]),
        }
    }

    /// What is left of the params in a layout that lacks some fields.
    fn as_stored(mut params: RootParams) -> RootParams {
        if params.struct_version < StructVersion::V3 {
            params.prompt_tokens_price_multiplier = NEUTRAL_MULTIPLIER;
            params.completion_tokens_price_multiplier = NEUTRAL_MULTIPLIER;
        }
        if params.struct_version < StructVersion::V2 {
            params.cached_tokens_price_multiplier = NEUTRAL_MULTIPLIER;
            params.reasoning_tokens_price_multiplier = NEUTRAL_MULTIPLIER;
        }
        if params.struct_version < StructVersion::V1 {
            params.min_proxy_stake_nanoton = DEFAULT_MIN_STAKE_NANOTON;
            params.min_client_stake_nanoton = DEFAULT_MIN_STAKE_NANOTON;
        }
        params
    }

    proptest! {
        #[test]
        fn params_of_every_version_read_back(
            version in 0u8..=3, words: [u32; 8], coins: [u64; 4], codes: [bool; 3],
        ) {
            let params = as_stored(params(version, words, coins, codes));
            prop_assert_eq!(RootParams::from_cell(&params.cell_for_root()).unwrap(), params);
        }
    }

    #[test]
    fn a_proxy_s_cell_lacks_its_own_code_and_the_others_have_none() {
        let all = params(3, [u32::MAX; 8], [u64::MAX; 4], [true; 3]);
        let codes = |cell: &Cell| {
            let read = RootParams::from_cell(cell).unwrap();
            [read.proxy_code, read.worker_code, read.client_code].map(|code| code.is_some())
        };
        assert_eq!(codes(&all.cell_for_root()), [true; 3]);
        assert_eq!(codes(&all.cell_for_proxy()), [false, true, true]);
        assert_eq!(codes(&all.cell_without_code()), [false; 3]);
    }
}
