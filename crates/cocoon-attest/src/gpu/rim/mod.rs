//! Reference values as NVIDIA publishes them: Reference Integrity Manifests, one for each driver version and one for
//! each firmware version of a board.
//!
//! A manifest is a SWID tag (ISO/IEC 19770-2:2015) with an enveloped XML signature. Only exactly the shape that
//! NVIDIA's have is read (`rim/__init__.py` in `nvtrust`, `rim.cpp` in `attestation-sdk`, and the manifests
//! themselves): one signature at the end over the whole document, canonical XML 1.1, SHA-384, ECDSA on P-384. What is
//! read is the very tree whose canonical form was hashed, so nothing that is not signed can be taken for a value.

mod signature;
mod xml;

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::x509::Certificate;
use crate::UnixSeconds;
use xml::Element;

/// Longest answer of the service, bytes: a manifest in Base64, in JSON.
pub(super) const MAX_ANSWER_LEN: usize = 512 * 1024;
/// ISO/IEC 19770-2:2015.
const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
/// The namespace of the values' attributes.
const SHA384_VALUES: &str = "http://www.w3.org/2001/04/xmlenc#sha384";
/// Most values for one measurement. NVIDIA's have up to about ten.
const MAX_ALTERNATIVES: usize = 64;
/// Certificates in a manifest: signer, two authorities, root.
const CHAIN_LEN: usize = 4;

/// The values for each measurement that counts, by NVIDIA's index: SPDM's less one.
pub(super) type Values = BTreeMap<u8, Vec<[u8; 48]>>;

/// A manifest whose signature holds; the chain of its signer is not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Of the driver or the firmware.
    pub(super) version: String,
    /// The chip, such as `GH100`.
    pub(super) product: String,
    pub(super) values: Values,
    /// DER, signer first.
    pub(super) chain: Vec<Vec<u8>>,
}

/// The service's answer.
#[derive(Deserialize)]
struct Answer<'a> {
    id: &'a str,
    /// The manifest in Base64.
    rim: Cow<'a, str>,
}

/// The manifest in the service's answer to the question for `id`, or the manifest by itself.
///
/// # Errors
/// Says what is wrong.
pub(super) fn read(bytes: &[u8], id: &str) -> Result<Manifest, String> {
    match unwrap(bytes)? {
        (Some(named), _) if named != id => Err("the service's answer is to another question".to_owned()),
        (_, xml) => Manifest::parse(&xml),
    }
}

/// When the first of the certificates of a manifest runs out; `None` for what is no manifest.
pub(super) fn runs_out(bytes: &[u8]) -> Option<UnixSeconds> {
    let (_, xml) = unwrap(bytes).ok()?;
    let manifest = Manifest::parse(&xml).ok()?;
    let ends = manifest.chain.iter().map(|der| Certificate::parse(der).ok().map(|found| found.not_after));
    ends.collect::<Option<Vec<_>>>()?.into_iter().min()
}

/// The manifest's text, and its identifier where the service has put the manifest into an answer of its own.
fn unwrap(bytes: &[u8]) -> Result<(Option<&str>, Cow<'_, [u8]>), String> {
    if bytes.len() > MAX_ANSWER_LEN {
        return Err(format!("it is longer than {MAX_ANSWER_LEN} bytes"));
    }
    if bytes.first() != Some(&b'{') {
        return Ok((None, bytes.into()));
    }
    let answer: Answer<'_> =
        serde_json::from_slice(bytes).map_err(|_| "the service's answer is not of its known form")?;
    let xml = STANDARD.decode(answer.rim.as_bytes()).map_err(|_| "the service's answer is not Base64")?;
    Ok((Some(answer.id), xml.into()))
}

impl Manifest {
    /// Reads a manifest and verifies its signature with the key of the certificate that stands in it.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let root = xml::parse(bytes)?;
        if !root.is(SWID, "SoftwareIdentity") {
            return Err("it is no SWID tag".to_owned());
        }
        let chain = signature::verify(&root)?;
        let meta = root.only_child(SWID, "Meta")?;
        let values = read_values(root.only_child(SWID, "Payload")?)?;
        Ok(Self {
            version: meta.attribute("", "colloquialVersion")?.to_owned(),
            product: meta.attribute("", "product")?.to_owned(),
            values,
            chain,
        })
    }

    /// Verifies the signer's chain up to a root whose SubjectPublicKeyInfo has this SHA-256, and gives the
    /// certificates.
    pub(super) fn verified_chain(
        &self,
        root_key: &[u8; 32],
        now: UnixSeconds,
    ) -> Result<Vec<Certificate<'_>>, String> {
        let mut chain = Vec::new();
        for der in &self.chain {
            let certificate = Certificate::parse(der)
                .map_err(|fault| format!("a certificate is malformed at its {}", fault.0))?;
            certificate.valid_at(now)?;
            chain.push(certificate);
        }
        let [signer, .., root] = &chain[..] else { return Err("it has no certificates".to_owned()) };
        if chain.len() != CHAIN_LEN {
            return Err(format!("it has {} certificates instead of {CHAIN_LEN}", chain.len()));
        }
        if Sha256::digest(root.key_info)[..] != root_key[..] {
            return Err("the root of its certificates is not the trusted one".to_owned());
        }
        if !signer.signs_data() {
            return Err(format!("{:?} is not certified to sign", signer.common_name()));
        }
        for (below, (certificate, issuer)) in (0_u8..).zip(chain.iter().zip(chain.iter().skip(1))) {
            certificate.issued_by(issuer, below)?;
        }
        Ok(chain)
    }
}

fn read_values(payload: &Element<'_>) -> Result<Values, String> {
    let mut values = Values::new();
    let mut seen = [false; 256];
    for resource in payload.elements() {
        if !resource.is(SWID, "Resource") || resource.attribute("", "type")? != "Measurement" {
            return Err("its payload has something else than measurements".to_owned());
        }
        let fault = || "a measurement in it is not of the known form".to_owned();
        let index: u8 = resource.attribute("", "index")?.parse().map_err(|_| fault())?;
        let count: usize = resource.attribute("", "alternatives")?.parse().map_err(|_| fault())?;
        // SPDM's index is one more and cannot be 255.
        if index >= 254 || !(1..=MAX_ALTERNATIVES).contains(&count) || seen[usize::from(index)] {
            return Err(fault());
        }
        seen[usize::from(index)] = true;
        match resource.attribute("", "active")? {
            "False" => continue,
            "True" => {}
            _ => return Err(fault()),
        }
        if resource.attribute("", "size")? != "48" {
            return Err(fault());
        }
        let mut alternatives = Vec::new();
        for number in 0..count {
            let digits = resource.attribute(SHA384_VALUES, &format!("Hash{number}"))?;
            let mut digest = [0; 48];
            hex::decode_to_slice(digits, &mut digest).map_err(|_| fault())?;
            alternatives.push(digest);
        }
        values.insert(index, alternatives);
    }
    if values.is_empty() { Err("it has no measurements that count".to_owned()) } else { Ok(values) }
}
