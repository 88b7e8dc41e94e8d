//! Parameters of requests: from a query all are texts, from JSON numbers may be numbers.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use cocoon_ton::cell::decode_boc;
use cocoon_ton::{Address, Cell};
use serde_json::{Map, Value};

use super::ApiError;
use crate::MAX_EXTERNAL_MESSAGE_BYTES;

/// The parameters of one request.
pub(super) struct Params(pub(super) Map<String, Value>);

impl Params {
    /// The parameter, unless it is missing, null or empty.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null() && value.as_str() != Some(""))
    }

    fn required(&self, name: &str) -> Result<&Value, ApiError> {
        self.get(name).ok_or_else(|| ApiError::parameter(name, "is required"))
    }

    pub(super) fn text(&self, name: &str) -> Result<&str, ApiError> {
        self.required(name)?.as_str().ok_or_else(|| ApiError::parameter(name, "a text is required"))
    }

    pub(super) fn address(&self, name: &str) -> Result<Address, ApiError> {
        self.text(name)?.parse().map_err(|error| ApiError::parameter(name, error))
    }

    /// A whole number, itself or as a text.
    pub(super) fn number<T: TryFrom<i64>>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let number = match self.get(name) {
            None => return Ok(None),
            Some(Value::String(text)) => text.trim().parse::<i64>().ok(),
            Some(value) => value.as_i64(),
        };
        let number = number.and_then(|number| T::try_from(number).ok());
        number.map(Some).ok_or_else(|| ApiError::parameter(name, "is not a whole number in its range"))
    }

    pub(super) fn required_number<T: TryFrom<i64>>(&self, name: &str) -> Result<T, ApiError> {
        self.required(name)?;
        self.number(name)?.ok_or_else(|| ApiError::parameter(name, "is required"))
    }

    pub(super) fn base64(&self, name: &str) -> Result<Vec<u8>, ApiError> {
        decode_base64(self.text(name)?).ok_or_else(|| ApiError::parameter(name, "is not base64"))
    }

    /// A cell, as a bag of cells in base64.
    pub(super) fn cell(&self, name: &str) -> Result<Option<Cell>, ApiError> {
        if self.get(name).is_none() {
            return Ok(None);
        }
        let cell = decode_boc(&self.base64(name)?, MAX_EXTERNAL_MESSAGE_BYTES);
        cell.map(Some).map_err(|error| ApiError::parameter(name, error))
    }

    /// Yes or no, itself or as a text; `None` for anything else.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        match self.get(name)? {
            Value::Bool(flag) => Some(*flag),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// 32 bytes, in hex or base64.
    pub(super) fn hash(&self, name: &str) -> Result<Option<[u8; 32]>, ApiError> {
        if self.get(name).is_none() {
            return Ok(None);
        }
        let text = self.text(name)?;
        let bytes = hex::decode(text).ok().or_else(|| decode_base64(text));
        let hash = bytes.and_then(|bytes| bytes.try_into().ok());
        hash.map(Some).ok_or_else(|| ApiError::parameter(name, "is not 32 bytes in hex or base64"))
    }
}

/// base64 in either alphabet.
pub(super) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}
