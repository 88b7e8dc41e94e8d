//! AMD's authorities: certificates and revocation lists in the form of AMD 57230.

use std::sync::LazyLock;

use cocoon_attest::UnixSeconds;
use cocoon_attest::snp::{SnpProduct, SnpRoot, SnpRoots, SnpTcbBytes};
use sha2::{Digest as _, Sha256};

use super::rsa::TestRsaKey;
use crate::simulated::der::{
    BOOLEAN, CONTEXT_0, CONTEXT_3, OID, SET, UTF8_STRING, bit_string, integer, sequence, tlv, utc_time,
};
use crate::simulated::pki::{BASIC_CONSTRAINTS, KEY_USAGE, SIMULATED, extension};

/// AlgorithmIdentifier of RSASSA-PSS with SHA-384, MGF1 with SHA-384 and 48 bytes of salt (RFC 4055 §3.1).
const PSS_SHA384: &[u8] = b"\x30\x41\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a\x30\x34\xa0\x0f\x30\x0d\x06\x09\x60\
    \x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\xa1\x1c\x30\x1a\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08\x30\x0d\x06\
    \x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\xa2\x03\x02\x01\x30";
/// AlgorithmIdentifier of an RSA key.
const RSA_KEY: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
/// AlgorithmIdentifier of a P-384 key.
const P384_KEY: &[u8] = b"\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22";
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANISATION: &[u8] = &[0x55, 0x04, 0x0a];
/// 1.3.6.1.4.1.3704.1.
const AMD_ARC: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x9c, 0x78, 0x01];
const IA5_STRING: u8 = 0x16;
/// Serial numbers of ARK, ASK and ASVK.
const SERIALS: [&[u8]; 3] = [&[1, 0, 0], &[1, 0, 1], &[1, 1, 1]];

/// From when to when, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first second.
    pub from: UnixSeconds,
    /// The last second.
    pub to: UnixSeconds,
}

impl Default for Span {
    /// 2020-01-01 to 2044-12-31: as long as AMD's authorities last.
    fn default() -> Self {
        Self { from: UnixSeconds(1_577_836_800), to: UnixSeconds(2_366_841_599) }
    }
}

/// How the authorities are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AmdForm {
    /// Of which product line.
    pub product: SnpProduct,
    /// Validity of the root.
    pub ark: Span,
    /// Validity of the authority over chips.
    pub ask: Span,
    /// Validity of the authority over providers.
    pub asvk: Span,
}

/// How the certificate of a key that signs reports is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndorsementForm {
    /// The key: x and y, behind the byte 4.
    pub public_key: [u8; 97],
    /// Its validity.
    pub valid: Span,
    /// The TCB that it is for.
    pub tcb: SnpTcbBytes,
    /// The chip, for a VCEK.
    pub chip: Option<Vec<u8>>,
    /// The provider, for a VLEK.
    pub provider: Option<String>,
    /// Whether the authority over providers is to sign, not that over chips.
    pub by_asvk: bool,
}

/// The authorities of one product line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulatedAmd {
    product: SnpProduct,
    ark: Vec<u8>,
    ask: Vec<u8>,
    asvk: Vec<u8>,
}

impl SimulatedAmd {
    /// The authorities of this product line, valid from 2020 to 2044.
    #[must_use]
    pub fn new(product: SnpProduct) -> Self {
        static USUAL: LazyLock<[SimulatedAmd; 3]> = LazyLock::new(|| {
            let span = Span::default();
            SnpProduct::ALL.map(|product| {
                SimulatedAmd::with_form(&AmdForm { product, ark: span, ask: span, asvk: span })
            })
        });
        let [milan, genoa, turin] = &*USUAL;
        match product {
            SnpProduct::Milan => milan.clone(),
            SnpProduct::Genoa => genoa.clone(),
            SnpProduct::Turin => turin.clone(),
        }
    }

    /// The authorities of this form.
    #[must_use]
    pub fn with_form(form: &AmdForm) -> Self {
        let product = form.product;
        let root = name(&ark_name(product));
        let authority = |subject: &str, serial, valid, key: &TestRsaKey| {
            let key_info = sequence(&[RSA_KEY, &bit_string(&key.public_der(), 0)]);
            let may_sign_lists = subject == ark_name(product);
            let usage: u8 = if may_sign_lists { 0x06 } else { 0x04 };
            let extensions = [
                extension(BASIC_CONSTRAINTS, true, &sequence(&[&tlv(BOOLEAN, &[0xff])])),
                extension(KEY_USAGE, true, &bit_string(&[usage], if may_sign_lists { 1 } else { 2 })),
            ];
            certificate(
                TestRsaKey::ark(),
                &root,
                &name(subject),
                serial,
                valid,
                &key_info,
                &extensions.concat(),
            )
        };
        Self {
            product,
            ark: authority(&ark_name(product), SERIALS[0], form.ark, TestRsaKey::ark()),
            ask: authority(&ask_name(product), SERIALS[1], form.ask, TestRsaKey::ask()),
            asvk: authority(&asvk_name(product), SERIALS[2], form.asvk, TestRsaKey::asvk()),
        }
    }

    /// The roots for a verifier on a test network: the same key for every product line.
    #[must_use]
    pub fn roots() -> SnpRoots {
        SnpRoots::simulated(Self::root_keys())
    }

    /// These roots one by one.
    #[must_use]
    pub fn root_keys() -> [SnpRoot; 3] {
        let key_info = sequence(&[RSA_KEY, &bit_string(&TestRsaKey::ark().public_der(), 0)]);
        let key_hash = Sha256::digest(key_info).into();
        SnpProduct::ALL.map(|product| SnpRoot { product, key_hash })
    }

    /// The root, DER.
    #[must_use]
    pub fn ark(&self) -> &[u8] {
        &self.ark
    }

    /// The authority over chips, DER.
    #[must_use]
    pub fn ask(&self) -> &[u8] {
        &self.ask
    }

    /// The authority over providers, DER.
    #[must_use]
    pub fn asvk(&self) -> &[u8] {
        &self.asvk
    }

    /// Serial number of the authority over chips.
    #[must_use]
    pub fn ask_serial() -> &'static [u8] {
        SERIALS[1]
    }

    /// Serial number of the authority over providers.
    #[must_use]
    pub fn asvk_serial() -> &'static [u8] {
        SERIALS[2]
    }

    /// The certificate of a key that signs reports, DER.
    #[must_use]
    pub fn endorse(&self, form: &EndorsementForm) -> Vec<u8> {
        let product = self.product;
        let (signer, issuer) = if form.by_asvk {
            (TestRsaKey::asvk(), asvk_name(product))
        } else {
            (TestRsaKey::ask(), ask_name(product))
        };
        let subject = if form.provider.is_some() { "SEV-VLEK" } else { "SEV-VCEK" };
        let own = |oid: &[u8], value: &[u8]| extension(&[AMD_ARC, oid].concat(), false, value);
        let order: [u8; 8] = match product {
            SnpProduct::Milan | SnpProduct::Genoa => [1, 2, 4, 5, 6, 7, 3, 8],
            SnpProduct::Turin => [9, 1, 2, 3, 5, 6, 7, 8],
        };
        let mut extensions = own(&[1], &integer(&[u8::from(product == SnpProduct::Turin)]));
        extensions.extend(own(&[2], &tlv(IA5_STRING, product.name().as_bytes())));
        for (index, version) in order.into_iter().zip(form.tcb.0) {
            extensions.extend(own(&[3, index], &integer(&[version])));
        }
        if let Some(chip) = &form.chip {
            extensions.extend(own(&[4], chip));
        }
        if let Some(provider) = &form.provider {
            extensions.extend(own(&[5], &tlv(IA5_STRING, provider.as_bytes())));
        }
        let key_info = sequence(&[P384_KEY, &bit_string(&form.public_key, 0)]);
        certificate(signer, &name(&issuer), &name(subject), &[0], form.valid, &key_info, &extensions)
    }

    /// The root's revocation list, DER: current in this time, revoking these serial numbers.
    #[must_use]
    pub fn revocation_list(&self, current: Span, revoked: &[&[u8]]) -> Vec<u8> {
        let entries: Vec<u8> = revoked
            .iter()
            .flat_map(|serial| sequence(&[&integer(serial), &utc_time(current.from)]))
            .collect();
        let entries = if entries.is_empty() { entries } else { sequence(&[&entries]) };
        let content = sequence(&[
            &integer(&[1]),
            PSS_SHA384,
            &name(&ark_name(self.product)),
            &utc_time(current.from),
            &utc_time(current.to),
            &entries,
        ]);
        signed(TestRsaKey::ark(), &content)
    }
}

fn ark_name(product: SnpProduct) -> String {
    format!("ARK-{product}")
}

fn ask_name(product: SnpProduct) -> String {
    format!("SEV-{product}")
}

fn asvk_name(product: SnpProduct) -> String {
    format!("SEV-VLEK-{product}")
}

fn name(common_name: &str) -> Vec<u8> {
    let part =
        |oid: &[u8], text: &str| tlv(SET, &sequence(&[&tlv(OID, oid), &tlv(UTF8_STRING, text.as_bytes())]));
    sequence(&[&part(ORGANISATION, SIMULATED), &part(COMMON_NAME, common_name)])
}

fn certificate(
    signer: &TestRsaKey,
    issuer: &[u8],
    subject: &[u8],
    serial: &[u8],
    valid: Span,
    key_info: &[u8],
    extensions: &[u8],
) -> Vec<u8> {
    let content = sequence(&[
        &tlv(CONTEXT_0, &integer(&[2])),
        &integer(serial),
        PSS_SHA384,
        issuer,
        &sequence(&[&utc_time(valid.from), &utc_time(valid.to)]),
        subject,
        key_info,
        &tlv(CONTEXT_3, &sequence(&[extensions])),
    ]);
    signed(signer, &content)
}

fn signed(signer: &TestRsaKey, content: &[u8]) -> Vec<u8> {
    sequence(&[content, PSS_SHA384, &bit_string(&signer.sign(content), 0)])
}
