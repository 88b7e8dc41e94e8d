//! Keys and certificates of a simulated vendor: P-256, deterministic from a seed.
//!
//! The form is that of "Intel SGX PCK Certificate and Certificate Revocation List Profile Specification".

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cocoon_attest::UnixSeconds;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use sha2::{Digest as _, Sha256};

use super::der::{
    BOOLEAN, CONTEXT_0, CONTEXT_3, INTEGER, OCTET_STRING, OID, SET, UTF8_STRING, bit_string, integer,
    sequence, tlv, utc_time,
};

/// AlgorithmIdentifier of ecdsa-with-SHA256 (RFC 5758 §3.2).
const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// AlgorithmIdentifier of a P-256 key (RFC 5480 §2.1.1).
const P256_KEY: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07,
];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANISATION: &[u8] = &[0x55, 0x04, 0x0a];
pub(super) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
pub(super) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 0x14];
/// What every simulated certificate names as its organisation, whatever else it imitates.
pub const SIMULATED: &str = "Simulated, proves nothing";

/// A P-256 key for simulated evidence. Not secret: whoever knows the seed has it.
#[derive(Clone)]
pub struct TestKey(SigningKey);

impl TestKey {
    /// The key of this purpose under this seed.
    #[must_use]
    pub fn derive(seed: &[u8; 32], purpose: &str) -> Self {
        let mut digest = Sha256::new().chain_update(seed).chain_update(purpose).finalize();
        loop {
            // All but one in 2^32 digests are valid keys; the next one is as good.
            match SigningKey::from_slice(&digest) {
                Ok(key) => return Self(key),
                Err(_) => digest = Sha256::digest(digest),
            }
        }
    }

    /// Signs (RFC 6979, so always the same): r and s.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature: Signature = self.0.sign(message);
        signature.to_bytes().into()
    }

    /// The public key: x and y.
    #[must_use]
    pub fn public(&self) -> [u8; 64] {
        let point = self.0.verifying_key().to_sec1_point(false);
        // An uncompressed point is the byte 4 and 64 more.
        point.as_bytes().get(1..).and_then(|key| key.try_into().ok()).unwrap_or([0; 64])
    }

    /// Signs in X.509's way: the part, the algorithm, the signature.
    fn signed(&self, part: &[u8]) -> Vec<u8> {
        let signature = self.sign(part);
        let value = sequence(&[&integer(&signature[..32]), &integer(&signature[32..])]);
        sequence(&[part, ECDSA_SHA256, &bit_string(&value, 0)])
    }
}

/// What a certificate is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its common name.
    pub name: String,
    /// Unique under its issuer.
    pub serial: Vec<u8>,
    /// First second of its validity, from 1970 to 2049.
    pub from: UnixSeconds,
    /// Last second.
    pub to: UnixSeconds,
    /// Whether it is an authority, and how many authorities may stand below it.
    pub authority: Option<u8>,
    /// Further extensions, not critical: identifier in DER's form, and value.
    pub extensions: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A key with its certificate.
#[derive(Clone)]
pub struct Identity {
    key: TestKey,
    profile: Profile,
    certificate: Vec<u8>,
}

impl Identity {
    /// A root: certified by itself.
    #[must_use]
    pub fn root(key: TestKey, profile: Profile) -> Self {
        let certificate = certificate(&key, &profile.name, &key, &profile);
        Self { key, profile, certificate }
    }

    /// Certifies another key. Whether it may is for those who check.
    #[must_use]
    pub fn issue(&self, key: TestKey, profile: Profile) -> Self {
        let certificate = certificate(&self.key, &self.profile.name, &key, &profile);
        Self { key, profile, certificate }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &TestKey {
        &self.key
    }

    /// The certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// What the certificate says.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The serial number in the certificate.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.profile.serial
    }

    /// The certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        pem(&self.certificate)
    }

    /// A revocation list over these serial numbers, DER.
    #[must_use]
    pub fn revoke(&self, serials: &[Vec<u8>], from: UnixSeconds, to: UnixSeconds) -> Vec<u8> {
        let time = utc_time(from);
        let entries: Vec<Vec<u8>> =
            serials.iter().map(|serial| sequence(&[&integer(serial), &time])).collect();
        let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
        // An empty list is left out (RFC 5280 §5.1.2.6).
        let revoked = if entries.is_empty() { Vec::new() } else { sequence(&entries) };
        let number = extension(CRL_NUMBER, false, &integer(&[1]));
        let part = sequence(&[
            &[INTEGER, 1, 1],
            ECDSA_SHA256,
            &name(&self.profile.name),
            &time,
            &utc_time(to),
            &revoked,
            &tlv(CONTEXT_0, &sequence(&[&number])),
        ]);
        self.key.signed(&part)
    }
}

/// A certificate in PEM.
pub(super) fn pem(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in body.as_bytes().chunks(64) {
        text.extend(line.iter().copied().map(char::from));
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

fn certificate(issuer_key: &TestKey, issuer: &str, key: &TestKey, profile: &Profile) -> Vec<u8> {
    let point = [&[4], &key.public()[..]].concat();
    let constraints = match profile.authority {
        Some(below) => sequence(&[&[BOOLEAN, 1, 0xff], &integer(&[below])]),
        None => sequence(&[]),
    };
    // keyCertSign and cRLSign, or digitalSignature and nonRepudiation (RFC 5280 §4.2.1.3).
    let usage = if profile.authority.is_some() { bit_string(&[0x06], 1) } else { bit_string(&[0xc0], 6) };
    let mut extensions =
        vec![extension(KEY_USAGE, true, &usage), extension(BASIC_CONSTRAINTS, true, &constraints)];
    extensions.extend(profile.extensions.iter().map(|(id, value)| extension(id, false, value)));
    let part = sequence(&[
        &tlv(CONTEXT_0, &[INTEGER, 1, 2]),
        &integer(&profile.serial),
        ECDSA_SHA256,
        &name(issuer),
        &sequence(&[&utc_time(profile.from), &utc_time(profile.to)]),
        &name(&profile.name),
        &sequence(&[P256_KEY, &bit_string(&point, 0)]),
        &tlv(CONTEXT_3, &tlv(super::der::SEQUENCE, &extensions.concat())),
    ]);
    issuer_key.signed(&part)
}

pub(super) fn extension(id: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[BOOLEAN, 1, 0xff] } else { &[] };
    sequence(&[&tlv(OID, id), critical, &tlv(OCTET_STRING, value)])
}

/// A name of a simulated vendor, DER.
pub(super) fn name(common: &str) -> Vec<u8> {
    let part =
        |kind: &[u8], text: &str| tlv(SET, &sequence(&[&tlv(OID, kind), &tlv(UTF8_STRING, text.as_bytes())]));
    sequence(&[&part(COMMON_NAME, common), &part(ORGANISATION, SIMULATED)])
}
