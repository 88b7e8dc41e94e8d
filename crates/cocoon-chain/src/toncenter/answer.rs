//! The server's answers, read leniently in form and strictly in content.
//!
//! Servers differ: numbers come as numbers or as texts, hashes in base64 or hex, and what is not there is an empty text,
//! zero, null, or missing. Only the fields that we need are read; all others are skipped without being taken apart.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use cocoon_ton::cell::{MAX_DEPTH, decode_boc};
use cocoon_ton::{Address, Cell};
use serde::de::{Deserialize, Deserializer, IgnoredAny, Visitor};
use serde_json::value::RawValue;
use tycho_types::boc::Boc;

use super::failure::Failure;
use crate::decode::{DecodedTransaction, decode_transaction};
use crate::types::{AccountState, AccountStatus, BlockRef, TransactionId};

/// Largest code or data of an account, as a bag of cells, in bytes.
pub(super) const MAX_STATE_BOC_BYTES: usize = 1 << 20;
/// Largest transaction with all its messages, as a bag of cells, in bytes.
pub(super) const MAX_TRANSACTION_BOC_BYTES: usize = 2 << 20;
/// Deepest transaction, in cells: TON's own limit. Over [`MAX_DEPTH`], because a transaction has messages inside it that
/// may be that deep, and anybody can send such a message.
const MAX_TRANSACTION_DEPTH: u16 = 1024;
const _: () = assert!(MAX_TRANSACTION_DEPTH > MAX_DEPTH);

/// What every answer is wrapped in.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Frame<'a> {
    ok: Option<bool>,
    #[serde(borrow)]
    pub(super) result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    code: Option<Number>,
}

impl Frame<'_> {
    /// Servers that speak JSON-RPC alone say nothing but the result.
    pub(super) fn is_success(&self) -> bool {
        self.ok.unwrap_or_else(|| self.error.is_none_or(|error| error.get() == "null"))
    }

    /// The status in the body.
    pub(super) fn code(&self) -> Option<u16> {
        let code = self.code.as_ref()?.0.parse().ok()?;
        (400..=599).contains(&code).then_some(code)
    }

    /// The error: a text, an object with a message, or in place of the result.
    pub(super) fn words(&self) -> String {
        #[derive(serde::Deserialize)]
        struct Worded {
            message: String,
        }
        let told = self.error.or(self.result).map_or("", RawValue::get);
        let text = serde_json::from_str::<String>(told).ok();
        let message = || serde_json::from_str::<Worded>(told).ok().map(|worded| worded.message);
        text.or_else(message).unwrap_or_else(|| told.to_owned())
    }
}

/// A whole number, itself or as a text; anything else is the empty text.
#[derive(Debug, Default)]
pub(super) struct Number(String);

impl Number {
    /// `None` for what is not such a number.
    pub(super) fn get<T: std::str::FromStr>(&self) -> Option<T> {
        self.0.parse().ok()
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor;
        impl Visitor<'_> for NumberVisitor {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number or a text with one")
            }

            fn visit_i64<E>(self, number: i64) -> Result<Number, E> {
                Ok(Number(number.to_string()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Number, E> {
                Ok(Number(number.to_string()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Number, E> {
                Ok(Number(text.trim().to_owned()))
            }

            fn visit_unit<E>(self) -> Result<Number, E> {
                Ok(Number::default())
            }
        }
        deserializer.deserialize_any(NumberVisitor)
    }
}

/// A text, or something else where there is none.
#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
enum MaybeText {
    Text(String),
    None(IgnoredAny),
}

impl MaybeText {
    fn cell(&self, what: &str) -> Result<Option<Cell>, Failure> {
        match self {
            Self::Text(text) if !text.is_empty() => cell(text, what).map(Some),
            Self::Text(_) | Self::None(_) => Ok(None),
        }
    }
}

fn bytes(text: &str, what: &str) -> Result<Vec<u8>, Failure> {
    let text = text.trim();
    let decoded = STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text));
    decoded.map_err(|_| Failure::nonsense(format!("{what} is not base64")))
}

/// A cell of at most [`MAX_STATE_BOC_BYTES`].
pub(super) fn cell(text: &str, what: &str) -> Result<Cell, Failure> {
    let cell = decode_boc(&bytes(text, what)?, MAX_STATE_BOC_BYTES);
    cell.map_err(|error| Failure::nonsense(format!("{what}: {error}")))
}

/// 32 bytes, in base64 or hex.
fn hash(text: &str) -> Result<[u8; 32], Failure> {
    let hex = |text: &str| {
        let digits: Option<Vec<u8>> =
            text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
        Some(digits?.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte * 16 + digit)).collect())
    };
    let decoded: Option<Vec<u8>> = if text.len() == 64 { hex(text) } else { bytes(text, "a hash").ok() };
    let hash = decoded.and_then(|bytes| bytes.try_into().ok());
    hash.ok_or_else(|| Failure::nonsense("the hash of a transaction is not 32 bytes in base64 or hex"))
}

/// Which transaction, as servers write it.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Id {
    lt: Number,
    #[serde(default)]
    hash: String,
}

impl Id {
    /// `None` for logical time zero: there is no transaction.
    fn read(&self) -> Result<Option<TransactionId>, Failure> {
        let lt: u64 = self.lt.get().ok_or_else(|| Failure::nonsense("a logical time is not a number"))?;
        if lt == 0 {
            return Ok(None);
        }
        Ok(Some(TransactionId { lt, hash: hash(&self.hash)? }))
    }
}

/// A block, as servers write it.
#[derive(Debug, serde::Deserialize)]
pub(super) struct BlockId {
    pub(super) seqno: u32,
}

/// The result of `getAddressInformation`.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Account {
    balance: Number,
    code: Option<MaybeText>,
    data: Option<MaybeText>,
    last_transaction_id: Option<Id>,
    block_id: BlockId,
    sync_utime: u64,
    state: String,
}

impl Account {
    pub(super) fn read(self) -> Result<AccountState, Failure> {
        // Older servers answer -1 for an account that does not exist.
        let balance: i128 =
            self.balance.get().ok_or_else(|| Failure::nonsense("the balance is not a number"))?;
        let balance_nanoton = u64::try_from(balance.max(0))
            .map_err(|_| Failure::nonsense("the balance is more than all coins that exist"))?;
        let last_transaction = self.last_transaction_id.as_ref().map(Id::read).transpose()?.flatten();
        let status = match self.state.as_str() {
            "active" => AccountStatus::Active,
            "frozen" => AccountStatus::Frozen,
            // The same word for both; but an account with neither a contract nor coins is deleted.
            "uninitialized" | "uninit" | "nonexist" if balance_nanoton == 0 => AccountStatus::NonExistent,
            "uninitialized" | "uninit" | "nonexist" => AccountStatus::Uninitialised,
            _ => return Err(Failure::nonsense("the state of the account is none that accounts have")),
        };
        let (mut code, mut data) = (None, None);
        if status == AccountStatus::Active {
            let read = |field: &Option<MaybeText>, what| match field {
                Some(text) => text.cell(what),
                None => Ok(None),
            };
            (code, data) = (read(&self.code, "the code")?, read(&self.data, "the data")?);
            if code.is_none() {
                return Err(Failure::nonsense("the account is active but has no code"));
            }
        }
        let at = BlockRef { seqno: self.block_id.seqno, unix_time: self.sync_utime };
        Ok(AccountState { at, proven: false, balance_nanoton, status, code, data, last_transaction })
    }
}

/// One transaction of the result of `getTransactions`.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Item {
    data: String,
    transaction_id: Id,
}

impl Item {
    /// Reads the transaction from its cell. Whatever else the server says beside it must agree or is not looked at.
    pub(super) fn read(&self, account: Address) -> Result<DecodedTransaction, Failure> {
        let bytes = bytes(&self.data, "a transaction")?;
        if bytes.len() > MAX_TRANSACTION_BOC_BYTES {
            let reason = format!(
                "a transaction has {} bytes, over the limit of {MAX_TRANSACTION_BOC_BYTES}",
                bytes.len()
            );
            return Err(Failure::nonsense(reason));
        }
        let cell = Boc::decode(&bytes).map_err(|error| {
            Failure::nonsense(format!("a transaction is not a bag of cells with one root: {error}"))
        })?;
        if cell.repr_depth() > MAX_TRANSACTION_DEPTH {
            return Err(Failure::nonsense("a transaction is nested deeper than any can be"));
        }
        let decoded = decode_transaction(account, &cell)
            .map_err(|error| Failure::nonsense(format!("a transaction: {error}")))?;
        if self.transaction_id.read()? != Some(decoded.transaction.id) {
            return Err(Failure::nonsense(format!(
                "the transaction of logical time {} is called by the wrong name",
                decoded.transaction.id.lt
            )));
        }
        Ok(decoded)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn account(change: impl FnOnce(&mut Value)) -> Result<AccountState, Failure> {
        let mut answer = json!({
            "@type": "raw.fullAccountState",
            "balance": "1000",
            "extra_currencies": [],
            "code": "te6ccgEBAQEAAgAAAA==",
            "data": "te6ccgEBAQEAAgAAAA==",
            "last_transaction_id": { "lt": "5", "hash": STANDARD.encode([7; 32]) },
            "block_id": { "seqno": 9, "shard": "-9223372036854775808" },
            "frozen_hash": "",
            "sync_utime": 1_700_000_000,
            "state": "active",
        });
        change(&mut answer);
        let account: Account =
            serde_json::from_value(answer).map_err(|error| Failure::nonsense(error.to_string()))?;
        account.read()
    }

    #[test]
    fn an_account_is_read_in_every_form_that_servers_use() {
        let usual = account(|_| ()).unwrap();
        assert_eq!((usual.balance_nanoton, usual.status, usual.proven), (1000, AccountStatus::Active, false));
        assert_eq!(usual.at, BlockRef { seqno: 9, unix_time: 1_700_000_000 });
        assert_eq!(usual.last_transaction, Some(TransactionId { lt: 5, hash: [7; 32] }));
        assert_eq!(account(|answer| answer["balance"] = json!(1000)).unwrap(), usual);
        let hex = |answer: &mut Value| answer["last_transaction_id"]["hash"] = json!("07".repeat(32));
        assert_eq!(account(hex).unwrap(), usual);
        let nobody = account(|answer| {
            answer["balance"] = json!(-1);
            answer["state"] = json!("uninitialized");
            answer["code"] = json!(0);
            answer["last_transaction_id"] = json!({ "lt": "0", "hash": "" });
        });
        assert_eq!(nobody.unwrap().status, AccountStatus::NonExistent);
        let funded = account(|answer| answer["state"] = json!("uninitialized")).unwrap();
        assert_eq!((funded.status, funded.code), (AccountStatus::Uninitialised, None));
    }

    #[test]
    fn an_account_that_cannot_be_is_refused() {
        for (field, wrong) in [
            ("balance", json!("x")),
            ("balance", json!("18446744073709551616")),
            ("balance", json!([])),
            ("code", json!("")),
            ("code", json!("!")),
            ("code", json!("AAAA")),
            ("state", json!("well")),
            ("last_transaction_id", json!({ "lt": "5", "hash": "" })),
            ("last_transaction_id", json!({ "lt": "-5", "hash": "" })),
            ("block_id", json!({ "seqno": -1 })),
            ("sync_utime", json!("soon")),
        ] {
            assert!(account(|answer| answer[field] = wrong.clone()).is_err(), "{field}: {wrong}");
        }
    }
}
