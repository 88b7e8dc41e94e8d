//! The versions of driver and firmware.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most numbers in a driver's version. NVIDIA's have two or three.
const MAX_NUMBERS: usize = 4;

/// A driver's version, such as `550.90.07`. Versions are ordered number by number, as NVIDIA counts them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DriverVersion {
    /// First in the order.
    numbers: Vec<u32>,
    /// As the driver writes it: `07` is not `7` in the names of reference values.
    text: String,
}

/// A VBIOS's version, such as `96.00.9F.00.01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VbiosVersion(pub [u8; 5]);

/// The text is no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no {0}")]
pub struct GpuVersionError(&'static str);

impl FromStr for DriverVersion {
    type Err = GpuVersionError;

    fn from_str(text: &str) -> Result<Self, GpuVersionError> {
        let numbers = text.split('.').map(|digits| {
            (!digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()))
                .then(|| digits.parse().ok())
                .flatten()
        });
        match numbers.take(MAX_NUMBERS + 1).collect::<Option<Vec<u32>>>() {
            Some(numbers) if (2..=MAX_NUMBERS).contains(&numbers.len()) => {
                Ok(Self { numbers, text: text.to_owned() })
            }
            _ => Err(GpuVersionError("driver version such as 550.90.07")),
        }
    }
}

impl DriverVersion {
    /// Whether it is this one or a later one, however either is spelt.
    #[must_use]
    pub fn reaches(&self, floor: &Self) -> bool {
        self.numbers >= floor.numbers
    }
}

impl fmt::Display for DriverVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl VbiosVersion {
    /// From a report's field: eight bytes, the first four of which are a little-endian number.
    pub(super) fn from_report(bytes: &[u8]) -> Option<Self> {
        match *bytes {
            [a, b, c, d, e, _, _, _] => Some(Self([d, c, b, a, e])),
            _ => None,
        }
    }

    /// Ten digits, as the names of reference values have them.
    pub(super) fn digits(self) -> String {
        hex::encode_upper(self.0)
    }
}

impl FromStr for VbiosVersion {
    type Err = GpuVersionError;

    fn from_str(text: &str) -> Result<Self, GpuVersionError> {
        let mut bytes = [0; 5];
        let mut parts = text.split('.');
        let read = |part: &str, byte: &mut u8| hex::decode_to_slice(part, std::slice::from_mut(byte)).ok();
        let all = bytes.iter_mut().try_for_each(|byte| parts.next().and_then(|part| read(part, byte)));
        match (all, parts.next()) {
            (Some(()), None) => Ok(Self(bytes)),
            _ => Err(GpuVersionError("VBIOS version such as 96.00.9F.00.01")),
        }
    }
}

impl fmt::Display for VbiosVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e] = self.0;
        write!(f, "{a:02X}.{b:02X}.{c:02X}.{d:02X}.{e:02X}")
    }
}

macro_rules! as_text {
    ($version:ty) => {
        impl TryFrom<String> for $version {
            type Error = GpuVersionError;

            fn try_from(text: String) -> Result<Self, GpuVersionError> {
                text.parse()
            }
        }

        impl From<$version> for String {
            fn from(version: $version) -> Self {
                version.to_string()
            }
        }
    };
}

as_text!(DriverVersion);
as_text!(VbiosVersion);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn drivers_are_ordered_number_by_number_and_keep_their_spelling() {
        let driver = |text: &str| text.parse::<DriverVersion>().unwrap();
        assert!(driver("535.86.09") < driver("535.104.05"));
        assert!(driver("550.90.07") < driver("590.12"));
        assert!(driver("575.32") < driver("575.32.01"));
        assert_eq!(driver("550.90.07").to_string(), "550.90.07");
        assert!(driver("550.90.07").reaches(&driver("550.90.7")));
        assert!(!driver("550.90").reaches(&driver("550.90.7")));
        for text in ["", "550", "550.", "550.x", "550.+1", "1.2.3.4.5", "550.99999999999", "550.90 "] {
            assert!(text.parse::<DriverVersion>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_vbios_version_is_five_bytes_in_hexadecimal() {
        let version = VbiosVersion::from_report(&[0, 0x9f, 0, 0x96, 1, 0, 0, 0]).unwrap();
        assert_eq!(version.to_string(), "96.00.9F.00.01");
        assert_eq!(version.digits(), "96009F0001");
        assert_eq!("96.00.9f.00.01".parse(), Ok(version));
        for text in ["", "96.00.9F.00", "96.00.9F.00.01.00", "96.0.9F.00.01", "96.00.9G.00.01"] {
            assert!(text.parse::<VbiosVersion>().is_err(), "{text:?}");
        }
        assert_eq!(VbiosVersion::from_report(&[0; 7]), None);
    }
}
