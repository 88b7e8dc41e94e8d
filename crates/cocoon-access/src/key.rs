//! The secret that a caller shows, and the hash that is kept of it.
//!
//! A key is `ck-`, 43 digits of base 62 for 256 random bits, and 6 digits for their CRC-32: letters and digits only, so that
//! a double click takes all of it, a prefix that scanners for leaked secrets can look for, and a checksum by which a typing
//! error is told from a key that does not exist.
//!
//! Only SHA-256 of the random bits is kept. A slow hash (Argon2, scrypt) makes guessing dear where people choose their
//! passwords. Here there is nothing to guess: 2^256 keys are equally likely, and no number of cheap guesses finds one. A
//! slow hash would only make each request slower, and let strangers burn the gateway's processor.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// What every key begins with.
pub const SECRET_PREFIX: &str = "ck-";
/// Digits for the 256 random bits: 62^43 is just above 2^256.
const BODY_DIGITS: usize = 43;
/// Digits for the checksum.
const CHECK_DIGITS: usize = 6;
/// Digits of a key that are shown to tell keys apart: 36 of its 256 bits.
const HINT_DIGITS: usize = 6;
/// Nothing else is hashed with this in front.
const DOMAIN: &[u8] = b"cocoon gateway API key\0";
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// An API key in full. Wiped from memory when dropped; not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct KeySecret(Zeroizing<[u8; 32]>);

/// A text that is no API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Not of the form of a key.
    #[error("a key is {SECRET_PREFIX} and 49 letters and digits")]
    Form,
    /// The checksum does not fit: something was left out or mistyped.
    #[error("the key was not copied whole: its checksum does not fit")]
    Checksum,
}

impl KeySecret {
    /// The key of these random bits.
    #[must_use]
    pub fn from_random(bits: [u8; 32]) -> Self {
        Self(Zeroizing::new(bits))
    }

    /// Whether a text is meant to be a key of ours.
    #[must_use]
    pub fn is_meant_by(text: &str) -> bool {
        text.starts_with(SECRET_PREFIX)
    }

    /// Reads a key.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let digits = text.strip_prefix(SECRET_PREFIX).ok_or(SecretError::Form)?.as_bytes();
        if digits.len() != BODY_DIGITS + CHECK_DIGITS {
            return Err(SecretError::Form);
        }
        let (body, check) = digits.split_at(BODY_DIGITS);
        let mut bits = Zeroizing::new([0_u8; 32]);
        for &digit in body {
            let mut carry = value(digit).ok_or(SecretError::Form)?;
            for byte in bits.iter_mut().rev() {
                carry += u32::from(*byte) * 62;
                [.., *byte] = carry.to_be_bytes();
                carry >>= 8;
            }
            if carry != 0 {
                return Err(SecretError::Form);
            }
        }
        let mut sum = 0_u64;
        for &digit in check {
            sum = sum * 62 + u64::from(value(digit).ok_or(SecretError::Form)?);
        }
        if sum != u64::from(crc32fast::hash(&bits[..])) {
            return Err(SecretError::Checksum);
        }
        Ok(Self(bits))
    }

    /// The key as its holder gets it.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut body = Zeroizing::new([b'0'; BODY_DIGITS]);
        let mut rest = self.0.clone();
        for place in body.iter_mut().rev() {
            let mut remainder = 0_u32;
            for byte in rest.iter_mut() {
                let dividend = remainder << 8 | u32::from(*byte);
                [.., *byte] = (dividend / 62).to_be_bytes();
                remainder = dividend % 62;
            }
            *place = digit(remainder);
        }
        let mut check = [b'0'; CHECK_DIGITS];
        let mut sum = crc32fast::hash(&self.0[..]);
        for place in check.iter_mut().rev() {
            *place = digit(sum % 62);
            sum /= 62;
        }
        let mut text =
            Zeroizing::new(String::with_capacity(SECRET_PREFIX.len() + BODY_DIGITS + CHECK_DIGITS));
        text.push_str(SECRET_PREFIX);
        text.extend(body.iter().chain(&check).map(|&digit| char::from(digit)));
        text
    }

    /// What is kept of it.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash(Sha256::new().chain_update(DOMAIN).chain_update(&self.0[..]).finalize().into())
    }

    /// Its first digits, by which people tell keys apart.
    #[must_use]
    pub fn hint(&self) -> String {
        self.to_text()[..SECRET_PREFIX.len() + HINT_DIGITS].to_owned()
    }
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySecret(..)")
    }
}

fn digit(value: u32) -> u8 {
    // Every value is a remainder of a division by 62.
    DIGITS.get(value as usize).copied().unwrap_or(b'0')
}

fn value(digit: u8) -> Option<u32> {
    match digit {
        b'0'..=b'9' => Some(u32::from(digit - b'0')),
        b'A'..=b'Z' => Some(u32::from(digit - b'A') + 10),
        b'a'..=b'z' => Some(u32::from(digit - b'a') + 36),
        _ => None,
    }
}

/// SHA-256 of a key's random bits.
#[derive(Debug, Clone, Copy)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// By what hashes are looked up. An attacker cannot choose it: it follows from a hash of what he sent, so how long a
    /// look-up takes tells nothing about keys that exist.
    pub(crate) fn bucket(&self) -> [u8; 16] {
        let mut bucket = [0; 16];
        bucket.copy_from_slice(&self.0[..16]);
        bucket
    }

    /// Whether both are the same; takes the same time whatever they are.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// From its 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(digits: &str) -> Option<Self> {
        let mut hash = [0; 32];
        hex::decode_to_slice(digits, &mut hash).ok()?;
        Some(Self(hash))
    }

    /// As 64 hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_has_one_form_whatever_its_bits() {
        for bits in [[0; 32], [0xff; 32], [7; 32]] {
            let text = KeySecret::from_random(bits).to_text();
            assert_eq!(text.len(), 52);
            assert!(text.starts_with("ck-") && text[3..].bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
        let secret = KeySecret::from_random([7; 32]);
        assert!(secret.to_text().starts_with(&secret.hint()) && secret.hint().len() == 9);
        assert_eq!(format!("{secret:?}"), "KeySecret(..)");
    }

    #[test]
    fn what_is_no_key_is_refused_and_a_mistyped_one_is_told_apart() {
        let text = KeySecret::from_random([0x5a; 32]).to_text();
        for bad in
            ["", "ck-", "sk-proj-abc", &text[..51], &format!("{}0", *text), &text.replace("ck-", "Ck-")]
        {
            assert_eq!(KeySecret::parse(bad), Err(SecretError::Form), "{bad}");
        }
        let beyond = format!("ck-{}", "z".repeat(49));
        assert_eq!(KeySecret::parse(&beyond), Err(SecretError::Form), "over 256 bits");
        for at in 3..text.len() {
            let mut changed = text.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let error = KeySecret::parse(std::str::from_utf8(&changed).unwrap()).unwrap_err();
            assert!(matches!(error, SecretError::Checksum | SecretError::Form), "digit {at}");
        }
        let other = format!("{}é{}", &text[..5], &text[7..]);
        assert_eq!(KeySecret::parse(&other), Err(SecretError::Form));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(bits: [u8; 32]) {
            let secret = KeySecret::from_random(bits);
            let read = KeySecret::parse(&secret.to_text()).unwrap();
            prop_assert!(read == secret && read.hash().is(&secret.hash()));
            let hash = KeyHash::from_hex(&secret.hash().to_hex()).unwrap();
            prop_assert!(hash.is(&secret.hash()) && !hash.is(&KeySecret::from_random([1; 32]).hash()));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "(ck-)?.{0,60}") {
            let _ = KeySecret::parse(&text);
        }
    }
}
