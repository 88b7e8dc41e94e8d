//! Keys and certificates of the form that NVIDIA's have: P-384, version 3, valid to the end of the year 9999.

use cocoon_attest::UnixSeconds;
use p384::ecdsa::signature::Signer as _;
use p384::ecdsa::{Signature, SigningKey};
use sha2::{Digest as _, Sha384};

use super::super::der::{
    BOOLEAN, CONTEXT_0, CONTEXT_3, INTEGER, SEQUENCE, bit_string, integer, json_time, sequence, tlv,
};
use super::super::pki::{BASIC_CONSTRAINTS, KEY_USAGE, extension, name};

pub(super) const GENERALIZED_TIME: u8 = 0x18;
/// AlgorithmIdentifier of ecdsa-with-SHA384 (RFC 5758 §3.2).
pub(super) const ECDSA_SHA384: &[u8] =
    &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
/// AlgorithmIdentifier of a P-384 key (RFC 5480 §2.1.1).
const P384_KEY: &[u8] = &[
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00,
    0x22,
];
/// The end of the year 9999.
const NEVER: UnixSeconds = UnixSeconds(253_402_300_799);

/// A P-384 key for simulated evidence. Not secret: whoever knows the seed has it.
#[derive(Clone)]
pub struct TestKey(SigningKey);

impl TestKey {
    /// The key of this purpose under this seed.
    #[must_use]
    pub fn derive(seed: &[u8; 32], purpose: &str) -> Self {
        let mut digest = Sha384::new().chain_update(seed).chain_update(purpose).finalize();
        loop {
            // Nearly every digest is a valid key; the next one is as good.
            match SigningKey::from_slice(&digest) {
                Ok(key) => return Self(key),
                Err(_) => digest = Sha384::digest(digest),
            }
        }
    }

    /// Signs (RFC 6979, so always the same): r and s.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 96] {
        let signature: Signature = self.0.sign(message);
        signature.to_bytes().into()
    }

    /// The public key: an uncompressed point.
    #[must_use]
    pub fn point(&self) -> Vec<u8> {
        self.0.verifying_key().to_sec1_point(false).as_bytes().to_vec()
    }

    /// The public key as SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn info(&self) -> Vec<u8> {
        sequence(&[P384_KEY, &bit_string(&self.point(), 0)])
    }

    /// A signature in X.509's way: a BIT STRING.
    pub(super) fn signature(&self, part: &[u8]) -> Vec<u8> {
        let signature = self.sign(part);
        bit_string(&sequence(&[&integer(&signature[..48]), &integer(&signature[48..])]), 0)
    }
}

/// What a certificate is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its common name.
    pub name: String,
    /// Unique under its issuer.
    pub serial: Vec<u8>,
    /// First second of its validity.
    pub from: UnixSeconds,
    /// Last second.
    pub to: UnixSeconds,
    /// Whether it is an authority.
    pub authority: bool,
    /// The first byte of its key usage (RFC 5280 §4.2.1.3): 0x80 to sign data, 0x04 certificates.
    pub usage: u8,
    /// Further extensions, not critical: identifier in DER's form, and value.
    pub extensions: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Profile {
    /// An authority.
    #[must_use]
    pub fn authority(name: &str, serial: &[u8]) -> Self {
        Self { authority: true, usage: 0x06, ..Self::signer(name, serial) }
    }

    /// A key that signs data.
    #[must_use]
    pub fn signer(name: &str, serial: &[u8]) -> Self {
        Self {
            name: name.to_owned(),
            serial: serial.to_vec(),
            from: super::BEGINNING,
            to: NEVER,
            authority: false,
            usage: 0x80,
            extensions: Vec::new(),
        }
    }
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

    /// Its name as certificates have it, DER.
    pub(super) fn subject(&self) -> Vec<u8> {
        name(&self.profile.name)
    }
}

fn certificate(issuer_key: &TestKey, issuer: &str, key: &TestKey, profile: &Profile) -> Vec<u8> {
    let mut extensions = Vec::new();
    if profile.authority {
        extensions.push(extension(BASIC_CONSTRAINTS, true, &sequence(&[&[BOOLEAN, 1, 0xff]])));
    }
    let unused = u8::try_from(profile.usage.trailing_zeros().min(7)).unwrap_or(0);
    extensions.push(extension(KEY_USAGE, true, &bit_string(&[profile.usage], unused)));
    extensions.extend(profile.extensions.iter().map(|(id, value)| extension(id, false, value)));
    let part = sequence(&[
        &tlv(CONTEXT_0, &[INTEGER, 1, 2]),
        &integer(&profile.serial),
        ECDSA_SHA384,
        &name(issuer),
        &sequence(&[&time(profile.from), &time(profile.to)]),
        &name(&profile.name),
        &key.info(),
        &tlv(CONTEXT_3, &tlv(SEQUENCE, &extensions.concat())),
    ]);
    sequence(&[&part, ECDSA_SHA384, &issuer_key.signature(&part)])
}

/// GeneralizedTime, as NVIDIA has it even where RFC 5280 has the other form.
pub(super) fn time(at: UnixSeconds) -> Vec<u8> {
    let digits: String = json_time(at).chars().filter(|digit| !matches!(digit, '-' | ':' | 'T')).collect();
    tlv(GENERALIZED_TIME, digits.as_bytes())
}
