//! Standard TON addresses: a workchain and the 256-bit hash of the contract's initial state.
//!
//! An address has a raw form (`0:` and 64 hex digits) and a friendly one: 48 characters of base64 or base64url over
//! 36 bytes: tag, workchain, hash, and a CRC-16 of the 34 bytes before it. The tag says whether messages to the
//! address should bounce and whether it is meant for the test network only; neither is part of the address, so
//! [`Address`] does not carry them.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// Length of the friendly form, in characters.
pub const FRIENDLY_LEN: usize = 48;
/// Tag byte of a bounceable address.
const TAG_BOUNCEABLE: u8 = 0x11;
/// Tag byte of a non-bounceable address.
const TAG_NON_BOUNCEABLE: u8 = 0x51;
/// Tag bit of an address that must not be used outside the test network.
const TAG_TESTNET_BIT: u8 = 0x80;
/// Longest text that an error repeats, in characters.
const MAX_QUOTED_CHARS: usize = 80;

/// A standard address in the basechain (workchain 0) or the masterchain (workchain -1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    workchain: i8,
    hash: [u8; 32],
}

impl Address {
    /// An address of the given workchain.
    ///
    /// # Errors
    /// [`AddressParseError::Workchain`] for any workchain but 0 and -1.
    pub fn new(workchain: i8, hash: [u8; 32]) -> Result<Self, AddressParseError> {
        if workchain == 0 || workchain == -1 {
            Ok(Self { workchain, hash })
        } else {
            Err(AddressParseError::Workchain(i64::from(workchain)))
        }
    }

    /// An address in the basechain, where all of Cocoon's contracts live.
    pub const fn basechain(hash: [u8; 32]) -> Self {
        Self { workchain: 0, hash }
    }

    /// 0 for the basechain, -1 for the masterchain.
    pub const fn workchain(&self) -> i8 {
        self.workchain
    }

    /// The 256 bits that name the account inside its workchain.
    pub const fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Reads any textual form, and says in which format it was written (`None` for the raw form).
    ///
    /// # Errors
    /// Wrong length, characters outside the alphabet (or of both alphabets at once), checksum, tag or workchain.
    pub fn parse(text: &str) -> Result<(Self, Option<AddressFormat>), AddressParseError> {
        if text.contains(':') {
            return Ok((parse_raw(text)?, None));
        }
        let (address, format) = parse_friendly(text)?;
        Ok((address, Some(format)))
    }

    /// The raw form: workchain, colon, 64 lower-case hex digits.
    pub fn to_raw_string(&self) -> String {
        format!("{}:{}", self.workchain, hex::encode(self.hash))
    }

    /// The friendly form, 48 characters.
    pub fn to_friendly_string(&self, format: AddressFormat) -> String {
        let mut bytes = [0u8; 36];
        bytes[0] = format.tag();
        bytes[1] = self.workchain.to_be_bytes()[0];
        bytes[2..34].copy_from_slice(&self.hash);
        let crc = crc16_xmodem(&bytes[..34]);
        bytes[34..].copy_from_slice(&crc.to_be_bytes());
        if format.url_safe { URL_SAFE.encode(bytes) } else { STANDARD.encode(bytes) }
    }

    /// The form that Cocoon nodes exchange: base64url, non-bounceable, with the test-network mark on a test network.
    pub fn to_wire_string(&self, testnet: bool) -> String {
        self.to_friendly_string(if testnet { AddressFormat::WIRE_TESTNET } else { AddressFormat::WIRE })
    }
}

/// The form that goes on the wire outside a test network: [`AddressFormat::WIRE`].
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_friendly_string(AddressFormat::WIRE))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.to_raw_string())
    }
}

impl FromStr for Address {
    type Err = AddressParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text).map(|(address, _)| address)
    }
}

/// How a friendly address is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressFormat {
    /// Whether a message that the receiver cannot process should return.
    pub bounceable: bool,
    /// Whether the address is meant for the test network only.
    pub testnet: bool,
    /// base64url (`-` and `_`) rather than base64 (`+` and `/`).
    pub url_safe: bool,
}

impl AddressFormat {
    /// What Cocoon nodes write on the wire: base64url, non-bounceable (`UQ...`).
    pub const WIRE: Self = Self { bounceable: false, testnet: false, url_safe: true };
    /// [`Self::WIRE`] on a test network (`0Q...`).
    pub const WIRE_TESTNET: Self = Self { bounceable: false, testnet: true, url_safe: true };

    fn tag(self) -> u8 {
        let base = if self.bounceable { TAG_BOUNCEABLE } else { TAG_NON_BOUNCEABLE };
        if self.testnet { base | TAG_TESTNET_BIT } else { base }
    }
}

impl Default for AddressFormat {
    fn default() -> Self {
        Self::WIRE
    }
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressParseError {
    /// Neither the raw form nor 48 characters.
    #[error(
        "an address has 48 characters of base64, or is written WORKCHAIN:64-HEX-DIGITS; this has {0} characters"
    )]
    Length(usize),
    /// A character that is in neither alphabet, or characters of both alphabets in one address.
    #[error("the address '{0}' is neither plain base64 nor plain base64url")]
    Alphabet(String),
    /// The checksum does not fit: a typing mistake.
    #[error("the checksum of the address '{0}' is wrong; compare it with its source character by character")]
    Checksum(String),
    /// A first byte that is no address tag.
    #[error("the address has the unknown tag byte {0:#04x}")]
    Tag(u8),
    /// A workchain other than 0 and -1.
    #[error("the workchain {0} does not exist; use 0 (basechain) or -1 (masterchain)")]
    Workchain(i64),
    /// A raw form whose workchain is not a number or whose hash is not 64 hex digits.
    #[error("a raw address is WORKCHAIN:64-HEX-DIGITS; '{0}' is not")]
    Raw(String),
}

fn parse_raw(text: &str) -> Result<Address, AddressParseError> {
    let raw_error = || AddressParseError::Raw(quoted(text));
    let (workchain, digits) = text.split_once(':').ok_or_else(raw_error)?;
    let workchain: i64 = workchain.parse().map_err(|_| raw_error())?;
    let mut hash = [0u8; 32];
    hex::decode_to_slice(digits, &mut hash).map_err(|_| raw_error())?;
    let workchain = i8::try_from(workchain).map_err(|_| AddressParseError::Workchain(workchain))?;
    Address::new(workchain, hash)
}

fn parse_friendly(text: &str) -> Result<(Address, AddressFormat), AddressParseError> {
    let chars = text.chars().count();
    if chars != FRIENDLY_LEN {
        return Err(AddressParseError::Length(chars));
    }
    // Without any of the four characters that differ, the alphabets agree: such a text counts as base64url.
    let url_safe = !text.contains(['+', '/']);
    let decoded = if url_safe { URL_SAFE.decode(text) } else { STANDARD.decode(text) };
    let bytes: [u8; 36] = decoded
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| AddressParseError::Alphabet(quoted(text)))?;
    if crc16_xmodem(&bytes[..34]).to_be_bytes() != bytes[34..] {
        return Err(AddressParseError::Checksum(quoted(text)));
    }
    let bounceable = match bytes[0] & !TAG_TESTNET_BIT {
        TAG_BOUNCEABLE => true,
        TAG_NON_BOUNCEABLE => false,
        _ => return Err(AddressParseError::Tag(bytes[0])),
    };
    let format = AddressFormat { bounceable, testnet: bytes[0] & TAG_TESTNET_BIT != 0, url_safe };
    let mut hash = [0u8; 32];
    hash.copy_from_slice(&bytes[2..34]);
    let address = Address::new(i8::from_be_bytes([bytes[1]]), hash)?;
    Ok((address, format))
}

fn quoted(text: &str) -> String {
    text.chars().take(MAX_QUOTED_CHARS).flat_map(char::escape_default).collect()
}

/// CRC-16/XMODEM: polynomial 0x1021, initial value 0, no reflection.
fn crc16_xmodem(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0u16, |crc, &byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 }
        })
    })
}
