//! What is remembered of each channel, so that no coins are forgotten: enough to find, read and close its contract.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_ton::cell::{decode_boc, encode_boc};
use cocoon_ton::payment::OrderKind;
use cocoon_ton::{Address, ClientState, SignedPayment, StateInit, VerifyingKey};
use serde::{Deserialize, Serialize};

/// Channels remembered. Each takes up to 4.5 KB of the store's largest value (1 MiB).
pub(crate) const MAX_CHANNELS: usize = 200;
/// Largest contract of a client that is remembered, in bytes.
const MAX_INIT_BYTES: usize = 64 * 1024;

/// A channel as it is remembered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    /// What the client contract starts with; its address follows.
    pub(crate) init: StateInit,
    /// What that says.
    pub(crate) begin: ClientState,
    /// Hash of the proxy contract's code.
    pub(crate) proxy_code_hash: [u8; 32],
    /// When the proxy was first met, in Unix seconds.
    pub(crate) first_seen_unix_time: u64,
    /// The proxy's order to refund everything.
    pub(crate) refund: Option<SignedPayment>,
    /// Everything is to be got back.
    pub(crate) leave: bool,
    /// The client contract's newest transaction is not before this logical time; 0 where it was never seen deployed.
    pub(crate) seen_lt: u64,
    /// The contract is closed and empty; this much was spent through it.
    pub(crate) finished_spent_nanoton: Option<u64>,
}

impl Record {
    /// A channel that was just heard of.
    pub(crate) fn new(init: StateInit, proxy_code_hash: [u8; 32], now: u64) -> Result<Self, String> {
        let begin = ClientState::from_data(&init.data).map_err(|error| error.to_string())?;
        Ok(Self {
            init,
            begin,
            proxy_code_hash,
            first_seen_unix_time: now,
            refund: None,
            leave: false,
            seen_lt: 0,
            finished_spent_nanoton: None,
        })
    }

    /// Whether coins may be in the channel, or were.
    fn was_used(&self) -> bool {
        self.seen_lt > 0
    }

    fn stored(&self, contract: &Address) -> Stored {
        Stored {
            contract: contract.to_raw_string(),
            proxy: self.begin.proxy.to_raw_string(),
            min_stake_nanoton: self.begin.stake_nanoton,
            init: STANDARD.encode(encode_boc(&self.init.cell())),
            proxy_code_hash: hex::encode(self.proxy_code_hash),
            first_seen_unix_time: self.first_seen_unix_time,
            refund: self.refund.map(|refund| STANDARD.encode(refund.to_boc())),
            leave: self.leave,
            seen_lt: self.seen_lt,
            finished_spent_nanoton: self.finished_spent_nanoton,
        }
    }
}

/// A record in the store. `contract`, `proxy` and `min_stake_nanoton` follow from `init` and are for people.
#[derive(Serialize, Deserialize)]
struct Stored {
    contract: String,
    proxy: String,
    min_stake_nanoton: u64,
    /// The contract's initial state, a bag of cells in base64.
    init: String,
    proxy_code_hash: String,
    first_seen_unix_time: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refund: Option<String>,
    #[serde(default)]
    leave: bool,
    #[serde(default)]
    seen_lt: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    finished_spent_nanoton: Option<u64>,
}

#[derive(Default, Serialize, Deserialize)]
struct StoredBook {
    /// Spent through channels that are forgotten.
    #[serde(default)]
    forgotten_spent_nanoton: u64,
    channels: Vec<Stored>,
}

/// All records, by the client contract's address.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Records {
    pub(crate) by_contract: BTreeMap<Address, Record>,
    pub(crate) forgotten_spent_nanoton: u64,
}

impl Records {
    /// Reads what [`Self::to_json`] wrote.
    pub(crate) fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let stored: StoredBook = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let mut records =
            Self { by_contract: BTreeMap::new(), forgotten_spent_nanoton: stored.forgotten_spent_nanoton };
        for stored in stored.channels {
            let (contract, record) =
                read(&stored).map_err(|why| format!("the channel {}: {why}", stored.contract))?;
            records.by_contract.insert(contract, record);
        }
        Ok(records)
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        let channels = self.by_contract.iter().map(|(contract, record)| record.stored(contract)).collect();
        let stored = StoredBook { forgotten_spent_nanoton: self.forgotten_spent_nanoton, channels };
        // Strings and numbers only: serialising them cannot fail.
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// Makes room for one more, where there is none, out of those that cannot hold coins and are not in use. Says whether
    /// there is room now.
    pub(crate) fn make_room(&mut self, in_use: impl Fn(&Address) -> bool) -> bool {
        if self.by_contract.len() < MAX_CHANNELS {
            return true;
        }
        let idle = |record: &Record| !record.was_used() || record.finished_spent_nanoton.is_some();
        let oldest = self
            .by_contract
            .iter()
            .filter(|(contract, record)| idle(record) && !in_use(contract))
            .min_by_key(|(_, record)| record.first_seen_unix_time)
            .map(|(contract, _)| *contract);
        let Some(record) = oldest.and_then(|contract| self.by_contract.remove(&contract)) else {
            return false;
        };
        let spent = record.finished_spent_nanoton.unwrap_or(0);
        self.forgotten_spent_nanoton = self.forgotten_spent_nanoton.saturating_add(spent);
        true
    }
}

fn read(stored: &Stored) -> Result<(Address, Record), String> {
    let bytes = |text: &str| STANDARD.decode(text).map_err(|error| error.to_string());
    let cell = decode_boc(&bytes(&stored.init)?, MAX_INIT_BYTES).map_err(|error| format!("init: {error}"))?;
    let init = StateInit::from_cell(&cell).map_err(|error| format!("init: {error}"))?;
    let contract = init.address();
    if Address::parse(&stored.contract).map(|(address, _)| address) != Ok(contract) {
        return Err(format!("its address does not follow from its init, which gives {contract}"));
    }
    let proxy_code_hash = hex::decode(&stored.proxy_code_hash)
        .ok()
        .and_then(|hash| hash.try_into().ok())
        .ok_or("proxy_code_hash is not 32 bytes in hexadecimal digits")?;
    let mut record = Record::new(init, proxy_code_hash, stored.first_seen_unix_time)?;
    record.leave = stored.leave;
    record.seen_lt = stored.seen_lt;
    record.finished_spent_nanoton = stored.finished_spent_nanoton;
    if let Some(refund) = &stored.refund {
        let refund = SignedPayment::parse(&bytes(refund)?).map_err(|error| format!("refund: {error}"))?;
        let key = VerifyingKey::from_bytes(&record.begin.proxy_public_key)
            .map_err(|_| "the proxy's public key is no Ed25519 key")?;
        refund
            .verify(&key, OrderKind::RefundClient, &contract)
            .map_err(|error| format!("refund: {error}"))?;
        record.refund = Some(refund);
    }
    Ok((contract, record))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cocoon_ton::{PaymentOrder, RootConfig, SigningKey, client_state_init, code};

    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[5; 32])
    }

    fn record(number: u8, first_seen_unix_time: u64) -> (Address, Record) {
        let mut params = RootConfig::test_mode(Address::basechain([1; 32])).params;
        params.client_code = Some(code::client().clone());
        let proxy = Address::basechain([number; 32]);
        let public = key().verifying_key().to_bytes();
        let init = client_state_init(&params, &Address::basechain([2; 32]), &proxy, &public).unwrap();
        (init.address(), Record::new(init, [9; 32], first_seen_unix_time).unwrap())
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let mut records = Records { forgotten_spent_nanoton: 77, ..Records::default() };
        let (contract, mut first) = record(1, 10);
        let order = PaymentOrder {
            kind: OrderKind::RefundClient,
            contract,
            query_id: 3,
            tokens: 4,
            excesses_to: contract,
        };
        first.refund = Some(order.sign(&key()));
        first.leave = true;
        first.seen_lt = 12;
        let (other, mut second) = record(2, 11);
        second.finished_spent_nanoton = Some(5);
        records.by_contract = [(contract, first), (other, second)].into();
        let json = records.to_json();
        assert_eq!(Records::from_json(&json).unwrap(), records);
        assert!(serde_json::from_slice::<serde_json::Value>(&json).unwrap()["channels"].is_array());
    }

    #[test]
    fn a_record_that_contradicts_itself_is_refused() {
        let (contract, record) = record(1, 10);
        let records = Records { by_contract: [(contract, record)].into(), forgotten_spent_nanoton: 0 };
        let text = String::from_utf8(records.to_json()).unwrap();
        let other = Address::basechain([7; 32]).to_raw_string();
        let forged = text.replace(&contract.to_raw_string(), &other);
        assert!(Records::from_json(forged.as_bytes()).unwrap_err().contains("does not follow"));
        assert!(Records::from_json(text.replace(&"09".repeat(32), "09").as_bytes()).is_err());
    }

    #[test]
    fn only_what_cannot_hold_coins_makes_room_and_what_it_spent_stays_counted() {
        let mut records = Records::default();
        for number in 0..MAX_CHANNELS {
            let (contract, mut record) = record(u8::try_from(number).unwrap(), number as u64);
            record.seen_lt = 1;
            records.by_contract.insert(contract, record);
        }
        assert!(!records.make_room(|_| false), "all may hold coins");
        let finished = *records.by_contract.keys().next().unwrap();
        records.by_contract.get_mut(&finished).unwrap().finished_spent_nanoton = Some(6);
        assert!(!records.make_room(|contract| *contract == finished), "it is in use");
        assert!(records.make_room(|_| false));
        assert_eq!(records.forgotten_spent_nanoton, 6);
        assert_eq!(records.by_contract.len(), MAX_CHANNELS - 1);
        assert!(records.to_json().len() * MAX_CHANNELS / (MAX_CHANNELS - 1) < cocoon_store::MAX_VALUE_BYTES);
    }
}
