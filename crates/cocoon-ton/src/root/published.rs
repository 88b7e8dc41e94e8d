//! The JSON form in which published nodes read a root configuration in test mode (`rootConfig.pseudo`).
//!
//! Every field but the owner may be missing or null and is then empty or zero; unknown fields are ignored; numbers may
//! be written as strings; hashes are base64. What the form has no field for is fixed: see [`RootConfig::test_mode`].

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, Deserializer, Unexpected, Visitor};
use serde::{Deserialize, Serialize};

use super::{MAX_PUBLISHED_JSON_BYTES, RegisteredProxy, RootConfig, RootConfigError, model_hash};
use crate::address::Address;
use crate::cell::ContractCode;
use crate::contracts::RootParams;

/// Longest entry that an error repeats, in characters.
const MAX_QUOTED_CHARS: usize = 64;

/// Numbers in the form are signed 32-bit ones that must not be negative.
const MAX_NUMBER: u32 = i32::MAX.cast_unsigned();

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Published {
    proxy_hashes: Option<Vec<String>>,
    worker_hashes: Option<Vec<String>>,
    model_hashes: Option<Vec<String>>,
    #[serde(skip_serializing)]
    model_types: Option<Vec<String>>,
    registered_proxies: Option<Vec<PublishedProxy>>,
    price_per_token: Number,
    worker_fee_per_token: Number,
    last_proxy_seqno: Number,
    version: Number,
    params_version: Number,
    proxy_sc_code: Option<String>,
    worker_sc_code: Option<String>,
    client_sc_code: Option<String>,
    root_owner_address: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct PublishedProxy {
    seqno: Number,
    address: Option<String>,
}

impl RootConfig {
    /// Reads a root configuration in the published test-mode form.
    ///
    /// Fixed by the form: layout version 1, unique id 13, test network, delays of 600 s and 300 s, minimum stakes of
    /// 1 TON, neutral multipliers. `model_types` are names whose part before `@` is hashed and allowed;
    /// `model_hashes` are added as they are.
    ///
    /// # Errors
    /// [`RootConfigError`] names the field and what is wrong with it.
    pub fn from_published_json(text: &str) -> Result<Self, RootConfigError> {
        if text.len() > MAX_PUBLISHED_JSON_BYTES {
            return Err(RootConfigError::TooLarge(text.len()));
        }
        let file: Published = serde_json::from_str(text)?;
        let owner: Address = file.root_owner_address.unwrap_or_default().parse()?;

        let mut config = Self::test_mode(owner);
        config.proxy_hashes = hashes("proxy_hashes", file.proxy_hashes)?;
        config.worker_hashes = hashes("worker_hashes", file.worker_hashes)?;
        config.model_hashes = hashes("model_hashes", file.model_hashes)?;
        for name in file.model_types.unwrap_or_default() {
            let base_name = name.split_once('@').map_or(name.as_str(), |(base, _)| base);
            config.model_hashes.insert(model_hash(base_name));
        }
        for proxy in file.registered_proxies.unwrap_or_default() {
            let endpoints = proxy.address.unwrap_or_default().parse()?;
            config.registered_proxies.push(RegisteredProxy { seqno: proxy.seqno.0, endpoints });
        }
        config.last_proxy_seqno = file.last_proxy_seqno.0;
        config.version = file.version.0;
        config.params.params_version = file.params_version.0;
        config.params.price_per_token_nanoton = u64::from(file.price_per_token.0);
        config.params.worker_fee_per_token_nanoton = u64::from(file.worker_fee_per_token.0);
        config.params.proxy_code = Some(code("proxy_sc_code", file.proxy_sc_code)?);
        config.params.worker_code = Some(code("worker_sc_code", file.worker_sc_code)?);
        config.params.client_code = Some(code("client_sc_code", file.client_sc_code)?);
        Ok(config)
    }

    /// Writes the configuration in the published test-mode form, for [`Self::from_published_json`] and for published
    /// nodes.
    ///
    /// # Errors
    /// [`RootConfigError::NotRepresentable`] when a value that the form fixes is another one here, or a number does
    /// not fit 31 bits.
    pub fn to_published_json(&self) -> Result<String, RootConfigError> {
        self.check_fixed_by_the_form()?;
        let number = |value: u64, what| {
            u32::try_from(value)
                .ok()
                .filter(|&value| value <= MAX_NUMBER)
                .map(Number)
                .ok_or(RootConfigError::NotRepresentable(what))
        };
        let base64 = |hashes: &BTreeSet<[u8; 32]>| Some(hashes.iter().map(|h| STANDARD.encode(h)).collect());
        let hex_code = |code: &Option<ContractCode>| {
            code.as_ref().map(|code| if code.is_empty() { String::new() } else { hex::encode(code.to_boc()) })
        };
        let proxies = self
            .registered_proxies
            .iter()
            .map(|proxy| {
                Ok(PublishedProxy {
                    seqno: number(proxy.seqno.into(), "a proxy's seqno is over 2^31 - 1")?,
                    address: Some(proxy.endpoints.to_string()),
                })
            })
            .collect::<Result<_, RootConfigError>>()?;
        let file = Published {
            proxy_hashes: base64(&self.proxy_hashes),
            worker_hashes: base64(&self.worker_hashes),
            model_hashes: base64(&self.model_hashes),
            model_types: None,
            registered_proxies: Some(proxies),
            price_per_token: number(self.params.price_per_token_nanoton, "the price is over 2^31 - 1")?,
            worker_fee_per_token: number(
                self.params.worker_fee_per_token_nanoton,
                "the worker fee is over 2^31 - 1",
            )?,
            last_proxy_seqno: number(self.last_proxy_seqno.into(), "last_proxy_seqno is over 2^31 - 1")?,
            version: number(self.version.into(), "version is over 2^31 - 1")?,
            params_version: number(self.params.params_version.into(), "params_version is over 2^31 - 1")?,
            proxy_sc_code: hex_code(&self.params.proxy_code),
            worker_sc_code: hex_code(&self.params.worker_code),
            client_sc_code: hex_code(&self.params.client_code),
            root_owner_address: Some(self.owner.to_string()),
        };
        Ok(serde_json::to_string_pretty(&file)?)
    }

    /// Compares what the form has no field for with what it fixes.
    fn check_fixed_by_the_form(&self) -> Result<(), RootConfigError> {
        let here = &self.params;
        if here.proxy_code.is_none() || here.worker_code.is_none() || here.client_code.is_none() {
            return Err(RootConfigError::NotRepresentable("it needs the code of all three contracts"));
        }
        let form = Self::test_mode(self.owner).params;
        let form_with_our_fields = RootParams {
            params_version: here.params_version,
            price_per_token_nanoton: here.price_per_token_nanoton,
            worker_fee_per_token_nanoton: here.worker_fee_per_token_nanoton,
            proxy_code: here.proxy_code.clone(),
            worker_code: here.worker_code.clone(),
            client_code: here.client_code.clone(),
            ..form
        };
        if *here == form_with_our_fields {
            Ok(())
        } else {
            Err(RootConfigError::NotRepresentable(
                "it fixes layout version 1, unique id 13, a test network, delays of 600 s and 300 s, stakes of 1 TON \
                 and neutral multipliers",
            ))
        }
    }
}

fn hashes(field: &'static str, list: Option<Vec<String>>) -> Result<BTreeSet<[u8; 32]>, RootConfigError> {
    list.unwrap_or_default()
        .into_iter()
        .map(|text| {
            let bytes = STANDARD.decode(&text).ok().and_then(|bytes| bytes.try_into().ok());
            bytes.ok_or_else(|| RootConfigError::Hash {
                field,
                value: text.chars().take(MAX_QUOTED_CHARS).collect(),
            })
        })
        .collect()
}

fn code(field: &'static str, text: Option<String>) -> Result<ContractCode, RootConfigError> {
    let text = text.unwrap_or_default();
    if text.is_empty() {
        return Ok(ContractCode::empty());
    }
    let bytes = hex::decode(&text).map_err(|_| RootConfigError::CodeNotHex(field))?;
    ContractCode::from_boc(&bytes).map_err(|source| RootConfigError::Code { field, source })
}

/// A number from 0 to [`MAX_NUMBER`], written as a number or as a string; null is 0.
#[derive(Debug, Default, Serialize)]
struct Number(u32);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor;

        impl Visitor<'_> for NumberVisitor {
            type Value = Number;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "a number from 0 to {MAX_NUMBER}")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Number, E> {
                u32::try_from(value)
                    .ok()
                    .filter(|&value| value <= MAX_NUMBER)
                    .map(Number)
                    .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(value), &self))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Number, E> {
                match value.parse::<u64>() {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Err(E::invalid_value(Unexpected::Str(value), &self)),
                }
            }

            fn visit_unit<E: de::Error>(self) -> Result<Number, E> {
                Ok(Number(0))
            }
        }

        deserializer.deserialize_any(NumberVisitor)
    }
}
