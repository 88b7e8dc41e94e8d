//! What a client's or a worker's contract knows at the moment: the changing part of its data.

use crate::address::Address;
use crate::cell::{Cell, CellError, Reader};

/// Life of a client, worker or proxy contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContractStatus {
    /// In use.
    Open,
    /// The owner asked to close it; a delay runs.
    Closing,
    /// No more payments.
    Closed,
}

impl ContractStatus {
    fn read(reader: &mut Reader<'_>) -> Result<Self, CellError> {
        match reader.uint(2, "state")? {
            0 => Ok(Self::Open),
            1 => Ok(Self::Closing),
            2 => Ok(Self::Closed),
            // The contracts write 0, 1 and 2 only.
            _ => Err(CellError::Malformed("the contract's state is 3, which has no meaning".into())),
        }
    }
}

/// The changing part of a client contract's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientState {
    /// Whether it may be charged.
    pub status: ContractStatus,
    /// Coins that may be spent, the stake included.
    pub balance_nanoton: u64,
    /// Coins that the owner cannot withdraw while the contract is open.
    pub stake_nanoton: u64,
    /// Adjusted tokens charged so far. Never falls.
    pub tokens_used: u64,
    /// Unix time from which a closing contract may be refunded by force; 0 when it is not closing.
    pub unlock_unix_time: u32,
    /// SHA-256 of the secret that short authorisation asks for; zeros while none is set.
    pub secret_hash: [u8; 32],
}

impl ClientState {
    /// Reads the contract's data.
    ///
    /// # Errors
    /// When the data does not have the client layout.
    pub fn from_data(data: &Cell) -> Result<Self, CellError> {
        let mut reader = Reader::new(data, "the client contract's data")?;
        let state = Self {
            status: ContractStatus::read(&mut reader)?,
            balance_nanoton: reader.coins("balance")?,
            stake_nanoton: reader.coins("stake")?,
            tokens_used: reader.uint(64, "tokens_used")?,
            unlock_unix_time: reader.u32("unlock_ts")?,
            secret_hash: reader.bytes("secret_hash")?,
        };
        reader.reference("parties")?;
        reader.reference("params")?;
        reader.end("the client contract's data")?;
        Ok(state)
    }
}

/// The worker contract's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerState {
    /// Who is paid.
    pub owner: Address,
    /// The contract of the proxy that pays.
    pub proxy: Address,
    /// The key that signs payment orders.
    pub proxy_public_key: [u8; 32],
    /// Whether it may still be paid.
    pub status: ContractStatus,
    /// Adjusted tokens paid for so far. Never falls.
    pub tokens: u64,
}

impl WorkerState {
    /// Reads the contract's data.
    ///
    /// # Errors
    /// When the data does not have the worker layout.
    pub fn from_data(data: &Cell) -> Result<Self, CellError> {
        let mut reader = Reader::new(data, "the worker contract's data")?;
        let state = Self {
            owner: reader.address("owner")?,
            proxy: reader.address("proxy")?,
            proxy_public_key: reader.bytes("proxy_public_key")?,
            status: ContractStatus::read(&mut reader)?,
            tokens: reader.uint(64, "tokens")?,
        };
        reader.reference("params")?;
        reader.end("the worker contract's data")?;
        Ok(state)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cell::Writer;

    fn address(byte: u8) -> Address {
        Address::basechain([byte; 32])
    }

    #[test]
    fn a_client_contract_s_data_is_read_field_by_field() {
        let empty = Writer::new().build();
        let data = Writer::new()
            .uint(1, 2)
            .coins(2_500_000_000)
            .coins(1_000_000_000)
            .uint(77, 64)
            .uint(1_700_000_000, 32)
            .bytes(&[9; 32])
            .reference(empty.clone())
            .reference(empty)
            .build();
        let expected = ClientState {
            status: ContractStatus::Closing,
            balance_nanoton: 2_500_000_000,
            stake_nanoton: 1_000_000_000,
            tokens_used: 77,
            unlock_unix_time: 1_700_000_000,
            secret_hash: [9; 32],
        };
        assert_eq!(ClientState::from_data(&data).unwrap(), expected);
        assert!(WorkerState::from_data(&data).is_err(), "the layouts must not be taken for each other");
    }

    #[test]
    fn a_worker_contract_s_data_is_read_field_by_field() {
        let data = Writer::new()
            .address(&address(1))
            .address(&address(2))
            .bytes(&[3; 32])
            .uint(2, 2)
            .uint(u64::MAX, 64)
            .reference(Writer::new().build())
            .build();
        let state = WorkerState::from_data(&data).unwrap();
        assert_eq!((state.owner, state.proxy), (address(1), address(2)));
        assert_eq!((state.proxy_public_key, state.status), ([3; 32], ContractStatus::Closed));
        assert_eq!(state.tokens, u64::MAX);
    }
}
