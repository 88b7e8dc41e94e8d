//! Writes certificates as published nodes do, and every kind of bad one, byte by byte.
#![allow(dead_code, unreachable_pub, missing_docs)]

use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest as _, Sha512};

pub const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
pub const QUOTE: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xe0, 0x39, 0x01];
pub const CLAIMS: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xe0, 0x39, 0x02];
pub const SNP: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xe0, 0x39, 0x87, 0x68, 0x01];
pub const GPU: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xe0, 0x39, 0x87, 0x68, 0x02];
pub const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
pub const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
pub const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
pub const EXT_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
pub const SERVER_AUTH: &[u8] = &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
pub const CLIENT_AUTH: &[u8] = &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// Start of the default validity: 2026-11-21 02:41:27 UTC.
pub const NOT_BEFORE: u64 = 1_795_228_887;
/// End of the default validity, a day later.
pub const NOT_AFTER: u64 = NOT_BEFORE + 86_400;

pub struct Extension {
    pub oid: Vec<u8>,
    pub critical: bool,
    pub value: Vec<u8>,
}

/// A certificate to be written; every field may be spoilt first.
pub struct Forge {
    pub seed: [u8; 32],
    pub version: Option<u8>,
    pub issuer: &'static str,
    pub subject: &'static str,
    pub not_before: &'static str,
    pub not_after: &'static str,
    pub key_algorithm: Vec<u8>,
    pub signed_algorithm: Vec<u8>,
    pub outer_algorithm: Vec<u8>,
    pub extensions: Vec<Extension>,
    pub spoil_signature: bool,
}

impl Forge {
    /// What a published node writes under the policy `any`: version 1, extensions all the same.
    pub fn published(seed: [u8; 32]) -> Self {
        Self {
            seed,
            version: None,
            issuer: "localhost",
            subject: "localhost",
            not_before: "261121024127Z",
            not_after: "261122024127Z",
            key_algorithm: ED25519.to_vec(),
            signed_algorithm: ED25519.to_vec(),
            outer_algorithm: ED25519.to_vec(),
            extensions: Vec::new(),
            spoil_signature: false,
        }
        .with(BASIC_CONSTRAINTS, true, &tlv(0x30, &[]))
        .with(KEY_USAGE, true, &[0x03, 0x02, 0x07, 0x80])
        .with(EXT_KEY_USAGE, true, &tlv(0x30, &[SERVER_AUTH, CLIENT_AUTH].concat()))
        .with(SUBJECT_ALT_NAME, false, &tlv(0x30, &tlv(0x82, b"127.0.0.1")))
    }

    /// What a published node writes under the policy `fake_tdx`.
    pub fn fake_tdx(seed: [u8; 32]) -> Self {
        let key = public_key(&seed);
        Self::published(seed).with(QUOTE, true, &Sha512::digest(key)).with(CLAIMS, true, &key)
    }

    pub fn with(mut self, oid: &[u8], critical: bool, value: &[u8]) -> Self {
        self.extensions.push(Extension { oid: oid.to_vec(), critical, value: value.to_vec() });
        self
    }

    pub fn without(mut self, oid: &[u8]) -> Self {
        self.extensions.retain(|extension| extension.oid != oid);
        self
    }

    pub fn replacing(self, oid: &[u8], value: &[u8]) -> Self {
        self.without(oid).with(oid, true, value)
    }

    pub fn der(&self) -> Vec<u8> {
        let key = SigningKey::from_bytes(&self.seed);
        let tbs = tlv(0x30, &self.signed_fields(key.verifying_key().as_bytes()));
        let mut signature = key.sign(&tbs).to_bytes();
        if self.spoil_signature {
            signature[10] ^= 1;
        }
        let outer_algorithm = tlv(0x30, &self.outer_algorithm);
        tlv(0x30, &[tbs, outer_algorithm, bit_string(&signature)].concat())
    }

    fn signed_fields(&self, public_key: &[u8]) -> Vec<u8> {
        let key_info = [tlv(0x30, &self.key_algorithm), bit_string(public_key)].concat();
        let mut fields = Vec::new();
        if let Some(version) = self.version {
            fields.extend(tlv(0xa0, &[0x02, 0x01, version]));
        }
        fields.extend([0x02, 0x01, 0x07]);
        fields.extend(tlv(0x30, &self.signed_algorithm));
        fields.extend(name(self.issuer));
        fields.extend(tlv(0x30, &[time(self.not_before), time(self.not_after)].concat()));
        fields.extend(name(self.subject));
        fields.extend(tlv(0x30, &key_info));
        if !self.extensions.is_empty() {
            let list: Vec<u8> = self.extensions.iter().flat_map(extension).collect();
            fields.extend(tlv(0xa3, &tlv(0x30, &list)));
        }
        fields
    }
}

pub fn public_key(seed: &[u8; 32]) -> [u8; 32] {
    SigningKey::from_bytes(seed).verifying_key().to_bytes()
}

pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    let mut out = vec![tag];
    match content.len() {
        0..0x80 => out.push(length[3]),
        0x80..0x100 => out.extend([0x81, length[3]]),
        0x100..0x1_0000 => out.extend([0x82, length[2], length[3]]),
        _ => out.extend([0x83, length[1], length[2], length[3]]),
    }
    out.extend(content);
    out
}

fn bit_string(bytes: &[u8]) -> Vec<u8> {
    tlv(0x03, &[&[0], bytes].concat())
}

fn name(common_name: &str) -> Vec<u8> {
    let attribute = [&[0x06, 0x03, 0x55, 0x04, 0x03][..], &tlv(0x0c, common_name.as_bytes())].concat();
    tlv(0x30, &tlv(0x31, &tlv(0x30, &attribute)))
}

fn time(text: &str) -> Vec<u8> {
    tlv(if text.len() == 13 { 0x17 } else { 0x18 }, text.as_bytes())
}

fn extension(extension: &Extension) -> Vec<u8> {
    let mut fields = tlv(0x06, &extension.oid);
    if extension.critical {
        fields.extend([0x01, 0x01, 0xff]);
    }
    fields.extend(tlv(0x04, &extension.value));
    tlv(0x30, &fields)
}
