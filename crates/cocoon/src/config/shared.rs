//! What all roles have in common.

use std::path::PathBuf;

use cocoon_ton::Address;
use serde::{Deserialize, Serialize};

/// The root contract: who takes part, and what tokens cost.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Root {
    /// The root configuration, JSON in the published test-mode form.
    pub(crate) file: Option<PathBuf>,
    /// Address of the root contract.
    #[serde(with = "address_text")]
    pub(crate) address: Option<Address>,
    /// Whether it is a test network, whose coins are worth nothing.
    pub(crate) is_test: bool,
    /// Whether addresses are written in the testnet form.
    pub(crate) is_testnet: bool,
    /// The seed of a test network's simulated machines and their vendors: 64 hexadecimal digits in a private file.
    pub(crate) simulated_seed_file: Option<PathBuf>,
}

impl Default for Root {
    fn default() -> Self {
        Self { file: None, address: None, is_test: true, is_testnet: false, simulated_seed_file: None }
    }
}

/// The proof of work that we do when dialling.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DialPow {
    /// Most bits that we do for a peer.
    pub(crate) max_difficulty: u8,
}

impl Default for DialPow {
    fn default() -> Self {
        Self { max_difficulty: cocoon_net::DialOptions::default().max_difficulty }
    }
}

/// A field that has no sensible default.
///
/// # Errors
/// It is missing; says how to give it.
pub(crate) fn required<'a, T>(
    role: &str,
    field: &str,
    value: Option<&'a T>,
    hint: &str,
) -> anyhow::Result<&'a T> {
    value.ok_or_else(|| {
        let variable = super::load::variable(role, field);
        anyhow::anyhow!("{field} is missing: {hint} (in the configuration file, or as {variable})")
    })
}

/// An address as text, in any of its forms.
pub(super) mod address_text {
    use cocoon_ton::Address;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(
        address: &Option<Address>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Address>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(de::Error::custom)).transpose()
    }
}
