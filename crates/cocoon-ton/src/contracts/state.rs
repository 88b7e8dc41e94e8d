//! What a proxy's, a client's or a worker's contract knows at the moment: its data.

use crate::address::Address;
use crate::cell::{Cell, CellError, Reader};
use crate::contracts::{ParamsError, RootParams};

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
    /// The number that stands for it in data and messages, in two bits.
    pub(crate) const fn number(self) -> u64 {
        match self {
            Self::Open => 0,
            Self::Closing => 1,
            Self::Closed => 2,
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, CellError> {
        match reader.uint(2, "state")? {
            0 => Ok(Self::Open),
            1 => Ok(Self::Closing),
            2 => Ok(Self::Closed),
            // The contracts write 0, 1 and 2 only.
            _ => Err(CellError::UnknownValue { field: "state", value: 3 }),
        }
    }
}

/// The proxy contract's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyState {
    /// Who runs the proxy and is paid stake and earnings.
    pub owner: Address,
    /// The key that signs orders.
    pub public_key: [u8; 32],
    /// The root contract whose params it was made from.
    pub root: Address,
    /// Whether it is in use.
    pub status: ContractStatus,
    /// Coins that the owner has earned and may withdraw.
    pub balance_nanoton: u64,
    /// The owner's coins that stay until the contract is closed.
    pub stake_nanoton: u64,
    /// While closing: Unix time from which the close can be completed. Once closed: Unix time from which the owner may
    /// take what nobody claimed. 0 while open.
    pub unlock_unix_time: u32,
    /// What the contract was made with, without the proxy code.
    pub params: RootParams,
}

impl ProxyState {
    /// Reads the contract's data.
    ///
    /// # Errors
    /// When the data does not have the proxy layout.
    pub fn from_data(data: &Cell) -> Result<Self, CellError> {
        const WHAT: &str = "the proxy contract's data";
        let mut reader = Reader::new(data, WHAT)?;
        let state = Self {
            owner: reader.address("owner")?,
            public_key: reader.bytes("public_key")?,
            root: reader.address("root")?,
            status: ContractStatus::read(&mut reader)?,
            balance_nanoton: reader.coins_or_more("balance")?,
            stake_nanoton: reader.coins_or_more("stake")?,
            unlock_unix_time: reader.u32("unlock_ts")?,
            params: read_params(&mut reader)?,
        };
        reader.end(WHAT)?;
        Ok(state)
    }
}

/// The client contract's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientState {
    /// The client: the node wallet that pays in and is refunded.
    pub owner: Address,
    /// The contract of the proxy that it pays.
    pub proxy: Address,
    /// The key that signs charges.
    pub proxy_public_key: [u8; 32],
    /// Whether it may be charged.
    pub status: ContractStatus,
    /// Coins that may be spent, the stake included.
    pub balance_nanoton: u64,
    /// Coins that the owner cannot withdraw while the contract is open. It may name more than it has, or than exist; then
    /// this is the largest number.
    pub stake_nanoton: u64,
    /// Adjusted tokens charged so far. Never falls.
    pub tokens_used: u64,
    /// Unix time from which a closing contract may be refunded by force; 0 when it is not closing.
    pub unlock_unix_time: u32,
    /// SHA-256 of the secret that short authorisation asks for; zeros while none is set.
    pub secret_hash: [u8; 32],
    /// What the contract was made with, without any code.
    pub params: RootParams,
}

impl ClientState {
    /// Reads the contract's data.
    ///
    /// # Errors
    /// When the data does not have the client layout.
    pub fn from_data(data: &Cell) -> Result<Self, CellError> {
        const WHAT: &str = "the client contract's data";
        let mut reader = Reader::new(data, WHAT)?;
        let status = ContractStatus::read(&mut reader)?;
        let balance_nanoton = reader.coins("balance")?;
        let stake_nanoton = reader.coins_or_more("stake")?;
        let tokens_used = reader.uint(64, "tokens_used")?;
        let unlock_unix_time = reader.u32("unlock_ts")?;
        let secret_hash = reader.bytes("secret_hash")?;
        let parties_cell = reader.reference("parties")?;
        let params = read_params(&mut reader)?;
        reader.end(WHAT)?;

        let mut parties = Reader::new(&parties_cell, "the client contract's parties")?;
        let state = Self {
            owner: parties.address("owner")?,
            proxy: parties.address("proxy")?,
            proxy_public_key: parties.bytes("proxy_public_key")?,
            status,
            balance_nanoton,
            stake_nanoton,
            tokens_used,
            unlock_unix_time,
            secret_hash,
            params,
        };
        parties.end("the client contract's parties")?;
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
    /// What the contract was made with, without any code.
    pub params: RootParams,
}

impl WorkerState {
    /// Reads the contract's data.
    ///
    /// # Errors
    /// When the data does not have the worker layout.
    pub fn from_data(data: &Cell) -> Result<Self, CellError> {
        const WHAT: &str = "the worker contract's data";
        let mut reader = Reader::new(data, WHAT)?;
        let state = Self {
            owner: reader.address("owner")?,
            proxy: reader.address("proxy")?,
            proxy_public_key: reader.bytes("proxy_public_key")?,
            status: ContractStatus::read(&mut reader)?,
            tokens: reader.uint(64, "tokens")?,
            params: read_params(&mut reader)?,
        };
        reader.end(WHAT)?;
        Ok(state)
    }
}

fn read_params(reader: &mut Reader<'_>) -> Result<RootParams, CellError> {
    RootParams::from_cell(&reader.reference("params")?).map_err(|error| match error {
        ParamsError::UnknownVersion(value) => CellError::UnknownValue { field: "struct_version", value },
        ParamsError::Cell(error) => error,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::RootConfig;
    use crate::cell::Writer;
    use crate::code;
    use crate::contracts::{client_state_init, proxy_state_init, worker_state_init};

    fn address(byte: u8) -> Address {
        Address::basechain([byte; 32])
    }

    fn params() -> RootParams {
        let mut params = RootConfig::test_mode(address(0)).params;
        params.proxy_code = Some(code::proxy().clone());
        params.worker_code = Some(code::worker().clone());
        params.client_code = Some(code::client().clone());
        params.min_client_stake_nanoton = 7;
        params
    }

    fn without_code() -> RootParams {
        RootParams { proxy_code: None, worker_code: None, client_code: None, ..params() }
    }

    #[test]
    fn a_new_proxy_contract_is_open_and_has_nothing() {
        let data = proxy_state_init(&params(), &address(1), &address(2), &[3; 32]).unwrap().data;
        let expected = ProxyState {
            owner: address(2),
            public_key: [3; 32],
            root: address(1),
            status: ContractStatus::Open,
            balance_nanoton: 0,
            stake_nanoton: 0,
            unlock_unix_time: 0,
            params: RootParams { proxy_code: None, ..params() },
        };
        assert_eq!(ProxyState::from_data(&data).unwrap(), expected);
        assert!(ClientState::from_data(&data).is_err());
        assert!(WorkerState::from_data(&data).is_err());
    }

    #[test]
    fn a_new_client_contract_has_the_least_stake_and_no_coins() {
        let data = client_state_init(&params(), &address(1), &address(2), &[3; 32]).unwrap().data;
        let state = ClientState::from_data(&data).unwrap();
        assert_eq!((state.owner, state.proxy, state.proxy_public_key), (address(1), address(2), [3; 32]));
        assert_eq!((state.balance_nanoton, state.stake_nanoton), (0, 7));
        assert_eq!(state.params, without_code());
    }

    #[test]
    fn a_new_worker_contract_has_paid_for_nothing() {
        let data = worker_state_init(&params(), &address(1), &address(2), &[3; 32]).unwrap().data;
        let state = WorkerState::from_data(&data).unwrap();
        assert_eq!((state.owner, state.proxy, state.proxy_public_key), (address(1), address(2), [3; 32]));
        assert_eq!((state.status, state.tokens), (ContractStatus::Open, 0));
        assert_eq!(state.params, without_code());
    }

    #[test]
    fn a_proxy_contract_s_data_is_read_field_by_field() {
        let data = Writer::new()
            .address(&address(1))
            .bytes(&[2; 32])
            .address(&address(3))
            .uint(2, 2)
            .coins(4)
            .coins(5)
            .uint(6, 32)
            .reference(params().cell_for_proxy())
            .build();
        let state = ProxyState::from_data(&data).unwrap();
        assert_eq!((state.owner, state.public_key, state.root), (address(1), [2; 32], address(3)));
        assert_eq!(state.status, ContractStatus::Closed);
        assert_eq!((state.balance_nanoton, state.stake_nanoton, state.unlock_unix_time), (4, 5, 6));
    }

    #[test]
    fn a_stake_of_more_coins_than_exist_hides_nothing() {
        let huge = |writer: Writer| writer.uint(9, 4).bytes(&[0xff; 9]);
        let parties = Writer::new().address(&address(1)).address(&address(2)).bytes(&[3; 32]).build();
        let client = huge(Writer::new().uint(1, 2).coins(8))
            .uint(77, 64)
            .uint(0, 32)
            .bytes(&[9; 32])
            .reference(parties)
            .reference(params().cell_without_code())
            .build();
        let state = ClientState::from_data(&client).unwrap();
        assert_eq!((state.status, state.balance_nanoton), (ContractStatus::Closing, 8));
        assert_eq!((state.stake_nanoton, state.tokens_used), (u64::MAX, 77));
        let proxy = Writer::new().address(&address(1)).bytes(&[2; 32]).address(&address(3)).uint(0, 2);
        let proxy = huge(huge(proxy)).uint(6, 32).reference(params().cell_for_proxy()).build();
        assert_eq!(ProxyState::from_data(&proxy).unwrap().balance_nanoton, u64::MAX);
    }

    #[test]
    fn a_client_contract_s_data_is_read_field_by_field() {
        let parties = Writer::new().address(&address(1)).address(&address(2)).bytes(&[3; 32]).build();
        let data = Writer::new()
            .uint(1, 2)
            .coins(2_500_000_000)
            .coins(1_000_000_000)
            .uint(77, 64)
            .uint(1_700_000_000, 32)
            .bytes(&[9; 32])
            .reference(parties)
            .reference(params().cell_without_code())
            .build();
        let expected = ClientState {
            owner: address(1),
            proxy: address(2),
            proxy_public_key: [3; 32],
            status: ContractStatus::Closing,
            balance_nanoton: 2_500_000_000,
            stake_nanoton: 1_000_000_000,
            tokens_used: 77,
            unlock_unix_time: 1_700_000_000,
            secret_hash: [9; 32],
            params: without_code(),
        };
        assert_eq!(ClientState::from_data(&data).unwrap(), expected);
        assert!(WorkerState::from_data(&data).is_err(), "the layouts must not be taken for each other");
        assert!(ProxyState::from_data(&data).is_err(), "the layouts must not be taken for each other");
    }

    #[test]
    fn a_worker_contract_s_data_is_read_field_by_field() {
        let data = worker(2, params().cell_without_code());
        let state = WorkerState::from_data(&data).unwrap();
        assert_eq!((state.owner, state.proxy), (address(1), address(2)));
        assert_eq!((state.proxy_public_key, state.status), ([3; 32], ContractStatus::Closed));
        assert_eq!(state.tokens, u64::MAX);
    }

    #[test]
    fn what_a_newer_contract_may_say_is_refused_by_name() {
        let error = WorkerState::from_data(&worker(3, params().cell_without_code())).unwrap_err();
        assert_eq!(error, CellError::UnknownValue { field: "state", value: 3 });
        let error = WorkerState::from_data(&worker(0, Writer::new().uint(4, 8).build())).unwrap_err();
        assert_eq!(error, CellError::UnknownValue { field: "struct_version", value: 4 });
    }

    fn worker(status: u64, params: Cell) -> Cell {
        Writer::new()
            .address(&address(1))
            .address(&address(2))
            .bytes(&[3; 32])
            .uint(status, 2)
            .uint(u64::MAX, 64)
            .reference(params)
            .build()
    }
}
