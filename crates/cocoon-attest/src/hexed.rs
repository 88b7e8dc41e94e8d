//! Byte arrays as lower-case hexadecimal text in serialised verdicts.

/// `[u8; N]` as one string; for `#[serde(with = "hexed::array")]`.
pub(crate) mod array {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<const N: usize, S: Serializer>(
        bytes: &[u8; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(crate) fn deserialize<'de, const N: usize, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let mut bytes = [0; N];
        hex::decode_to_slice(text.as_bytes(), &mut bytes).map_err(D::Error::custom)?;
        Ok(bytes)
    }
}

/// `Option<[u8; 32]>` as a string or null; for `#[serde(with = "hexed::option")]`.
pub(crate) mod option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Hexed(#[serde(with = "super::array")] [u8; 32]);

    pub(crate) fn serialize<S: Serializer>(
        bytes: &Option<[u8; 32]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        bytes.map(Hexed).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<[u8; 32]>, D::Error> {
        Ok(Option::<Hexed>::deserialize(deserializer)?.map(|hexed| hexed.0))
    }
}

/// A word of bits as `0x` and hexadecimal digits, since TOML's integers lack the topmost bit; an integer is read, too.
pub(crate) mod mask {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u64),
        Text(String),
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(crate) fn serialize<S: Serializer>(bits: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{bits:#x}"))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Number(bits) => Ok(bits),
            Written::Text(text) => {
                let digits = text.strip_prefix("0x").unwrap_or_default();
                u64::from_str_radix(digits, 16).map_err(|_| {
                    D::Error::custom(format!("{text:?} is no mask of bits; write 0x and digits"))
                })
            }
        }
    }
}

/// A set of `[u8; N]`, or none, as strings.
pub(crate) mod set {
    use std::collections::BTreeSet;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(transparent)]
    struct Hexed<const N: usize>(#[serde(with = "super::array")] [u8; N]);

    pub(crate) fn serialize<const N: usize, S: Serializer>(
        set: &Option<BTreeSet<[u8; N]>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        set.as_ref().map(|set| set.iter().copied().map(Hexed).collect::<Vec<_>>()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, const N: usize, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<BTreeSet<[u8; N]>>, D::Error> {
        let set = Option::<Vec<Hexed<N>>>::deserialize(deserializer)?;
        Ok(set.map(|set| set.into_iter().map(|hexed| hexed.0).collect()))
    }
}
