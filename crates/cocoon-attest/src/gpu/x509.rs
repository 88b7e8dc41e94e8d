//! The X.509 of NVIDIA's certificates (RFC 5280), as far as they use it: ECDSA with SHA-384 on P-384 throughout.
//! Everything else is refused, critical extensions that are not understood among it.

use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1, UnparsedPublicKey};

use crate::UnixSeconds;
use crate::der::{self, Malformed, Reader, tag};
use crate::x509::{
    BASIC_CONSTRAINTS, CERT_SIGN, DIGITAL_SIGNATURE, KEY_USAGE, basic_constraints, common_name,
};

/// AlgorithmIdentifier of ecdsa-with-SHA384 without its outer tag (RFC 5758 §3.2: no parameters).
const ECDSA_SHA384: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
/// AlgorithmIdentifier of a P-384 key without its outer tag (RFC 5480 §2.1.1).
const P384_KEY: &[u8] =
    &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
/// SHA-384 as an object identifier (NIST, 2.16.840.1.101.3.4.2.2).
const SHA384: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02];
/// An uncompressed point on P-384, bytes.
const POINT_LEN: usize = 97;

const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
/// `id-kp-OCSPSigning` (RFC 6960 §4.2.2.2).
const OCSP_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x09];
/// 2.23.133.5.4.1: the device's key and the firmware it vouches for (TCG, "DICE Attestation Architecture"). Hopper.
const COMPOSITE_DEVICE_ID: &[u8] = &[0x67, 0x81, 0x05, 0x05, 0x04, 0x01];
/// 2.23.133.5.4.1.1, `tcg-dice-TcbInfo`, of the same. Blackwell.
const TCB_INFO: &[u8] = &[0x67, 0x81, 0x05, 0x05, 0x04, 0x01, 0x01];
/// `fwids` in a `TcbInfo`.
const CONTEXT_6: u8 = 0xa6;

/// Most extensions in a certificate (NVIDIA's have 6).
const MAX_EXTENSIONS: usize = 24;

/// Something signed in X.509's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Signed<'a> {
    content: &'a [u8],
    /// r and s in DER.
    signature: &'a [u8],
}

impl Signed<'_> {
    /// Whether the certificate's key signed this.
    pub(super) fn is_by(&self, certificate: &Certificate<'_>) -> bool {
        verifies(certificate.point, self.content, self.signature)
    }
}

/// Whether the key (an uncompressed point) made this signature (r and s in DER).
pub(super) fn verifies(point: &[u8], content: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, point).verify(content, signature).is_ok()
}

/// A certificate, read but not verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Certificate<'a> {
    pub(super) der: &'a [u8],
    signed: Signed<'a>,
    /// As DER writes the integer.
    pub(super) serial: &'a [u8],
    /// The whole name in DER.
    pub(super) issuer: &'a [u8],
    /// The whole name in DER.
    pub(super) subject: &'a [u8],
    pub(super) not_before: UnixSeconds,
    pub(super) not_after: UnixSeconds,
    /// SubjectPublicKeyInfo in DER.
    pub(super) key_info: &'a [u8],
    /// The key: an uncompressed point.
    pub(super) point: &'a [u8],
    authority: bool,
    /// Most authorities below this one.
    path_len: Option<u8>,
    usage: u8,
    /// Whether it may answer for its issuer about revocation.
    pub(super) signs_status: bool,
    /// What it says of the firmware whose key it certifies.
    pub(super) firmware: Option<Firmware<'a>>,
}

/// The firmware whose key is certified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Firmware<'a> {
    /// SHA-384 of the firmware.
    pub(super) id: [u8; 48],
    /// The key of the device that vouches for it, SubjectPublicKeyInfo in DER, where it is named.
    pub(super) device_key: Option<&'a [u8]>,
}

impl<'a> Certificate<'a> {
    pub(super) fn parse(der: &'a [u8]) -> Result<Self, Malformed> {
        let (signed, mut fields) = signed(der)?;
        if fields.expect(tag::CONTEXT_0, "version")?.content != [tag::INTEGER, 1, 2] {
            return Err(Malformed("version"));
        }
        let serial = fields.expect(tag::INTEGER, "serial number")?.content;
        algorithm(&mut fields)?;
        let issuer = fields.expect(tag::SEQUENCE, "issuer")?.whole;
        let mut validity = Reader::new(fields.expect(tag::SEQUENCE, "validity")?.content);
        let not_before = UnixSeconds(der::time(validity.any("notBefore")?, "notBefore")?);
        let not_after = UnixSeconds(der::time(validity.any("notAfter")?, "notAfter")?);
        validity.finish("validity")?;
        let subject = fields.expect(tag::SEQUENCE, "subject")?.whole;
        let key = fields.expect(tag::SEQUENCE, "public key")?;
        let mut certificate = Self {
            der,
            signed,
            serial,
            issuer,
            subject,
            not_before,
            not_after,
            key_info: key.whole,
            point: point(key.content)?,
            authority: false,
            path_len: None,
            usage: 0,
            signs_status: false,
            firmware: None,
        };
        if let Some(extensions) = fields.optional(tag::CONTEXT_3, "extensions")? {
            certificate.read_extensions(extensions.content)?;
        }
        fields.finish("certificate")?;
        Ok(certificate)
    }

    fn read_extensions(&mut self, content: &'a [u8]) -> Result<(), Malformed> {
        let mut seen: Vec<&[u8]> = Vec::new();
        let mut outer = Reader::new(content);
        let mut list = Reader::new(outer.expect(tag::SEQUENCE, "extensions")?.content);
        outer.finish("extensions")?;
        while !list.is_empty() {
            let mut extension = Reader::new(list.expect(tag::SEQUENCE, "extension")?.content);
            let oid = extension.expect(tag::OID, "extension")?.content;
            let critical = extension.boolean_or_false("extension")?;
            let value = extension.expect(tag::OCTET_STRING, "extension")?.content;
            extension.finish("extension")?;
            if seen.contains(&oid) || seen.len() == MAX_EXTENSIONS {
                return Err(Malformed("extensions"));
            }
            seen.push(oid);
            match oid {
                BASIC_CONSTRAINTS => (self.authority, self.path_len) = basic_constraints(value)?,
                KEY_USAGE => self.usage = key_usage(value)?,
                EXTENDED_KEY_USAGE => self.signs_status = names_ocsp_signing(value)?,
                COMPOSITE_DEVICE_ID => self.firmware = Some(composite_device_id(value)?),
                TCB_INFO => self.firmware = Some(tcb_info(value)?),
                _ if critical => return Err(Malformed("unknown critical extension")),
                _ => {}
            }
        }
        Ok(())
    }

    /// The subject's common name; empty without one.
    pub(super) fn common_name(&self) -> &'a str {
        common_name(self.subject).unwrap_or_default()
    }

    /// Whether `issuer` says so: by its name and its key's signature, and it is an authority that may have
    /// `authorities_below` further authorities between itself and the end of the chain.
    pub(super) fn issued_by(&self, issuer: &Certificate<'_>, authorities_below: u8) -> Result<(), String> {
        let (own, by) = (self.common_name(), issuer.common_name());
        if self.issuer != issuer.subject {
            return Err(format!("{own:?} names another issuer than {by:?}"));
        }
        if !issuer.is_authority() {
            return Err(format!("{by:?} may not issue certificates"));
        }
        if issuer.path_len.is_some_and(|most| most < authorities_below) {
            return Err(format!("{by:?} may not stand so high in a chain"));
        }
        if !self.signed.is_by(issuer) {
            return Err(format!("the signature on {own:?} is not by {by:?}"));
        }
        Ok(())
    }

    /// Whether it may issue certificates.
    pub(super) fn is_authority(&self) -> bool {
        self.authority && self.usage & CERT_SIGN != 0
    }

    /// Whether it signs data and is no authority.
    pub(super) fn signs_data(&self) -> bool {
        !self.authority && self.usage & CERT_SIGN == 0 && self.usage & DIGITAL_SIGNATURE != 0
    }

    /// Whether it is valid at this time.
    pub(super) fn valid_at(&self, now: UnixSeconds) -> Result<(), String> {
        let (name, from, to) = (self.common_name(), self.not_before, self.not_after);
        if now < from || to < now {
            return Err(format!("{name:?} is valid from {from} to {to}; it is {now}"));
        }
        Ok(())
    }
}

/// Splits what is signed from its signature; the reader stands in what is signed.
pub(super) fn signed(bytes: &[u8]) -> Result<(Signed<'_>, Reader<'_>), Malformed> {
    let mut outer = Reader::new(bytes);
    let mut parts = Reader::new(outer.expect(tag::SEQUENCE, "outer sequence")?.content);
    outer.finish("outer sequence")?;
    let content = parts.expect(tag::SEQUENCE, "signed part")?;
    let signature = signature(&mut parts)?;
    parts.finish("signature")?;
    Ok((Signed { content: content.whole, signature }, Reader::new(content.content)))
}

/// The algorithm and the signature, where [`signed`] does not fit.
pub(super) fn signed_as<'a>(content: &'a [u8], parts: &mut Reader<'a>) -> Result<Signed<'a>, Malformed> {
    Ok(Signed { content, signature: signature(parts)? })
}

fn signature<'a>(parts: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    algorithm(parts)?;
    der::bit_string(parts.expect(tag::BIT_STRING, "signature")?, false, "signature")
}

fn algorithm(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    match reader.expect(tag::SEQUENCE, "signature algorithm")?.content {
        ECDSA_SHA384 => Ok(()),
        _ => Err(Malformed("signature algorithm")),
    }
}

fn point(key_info: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(key_info);
    let algorithm = reader.expect(tag::SEQUENCE, "key algorithm")?.content;
    let point = der::bit_string(reader.expect(tag::BIT_STRING, "public key")?, false, "public key")?;
    reader.finish("public key")?;
    if algorithm == P384_KEY && point.len() == POINT_LEN && point.first() == Some(&4) {
        Ok(point)
    } else {
        Err(Malformed("public key"))
    }
}

fn key_usage(value: &[u8]) -> Result<u8, Malformed> {
    let what = "key usage";
    let mut reader = Reader::new(value);
    let bits = der::bit_string(reader.expect(tag::BIT_STRING, what)?, true, what)?;
    reader.finish(what)?;
    bits.first().copied().ok_or(Malformed(what))
}

fn names_ocsp_signing(value: &[u8]) -> Result<bool, Malformed> {
    let what = "extended key usage";
    let mut reader = Reader::new(value);
    let mut purposes = Reader::new(reader.expect(tag::SEQUENCE, what)?.content);
    reader.finish(what)?;
    let mut found = false;
    while !purposes.is_empty() {
        found |= purposes.expect(tag::OID, what)?.content == OCSP_SIGNING;
    }
    Ok(found)
}

/// Hopper's: a version, the device's key, and the digest of the firmware it started.
fn composite_device_id(value: &[u8]) -> Result<Firmware<'_>, Malformed> {
    let what = "device identity";
    let mut reader = Reader::new(value);
    let mut parts = Reader::new(reader.expect(tag::SEQUENCE, what)?.content);
    reader.finish(what)?;
    if parts.expect(tag::INTEGER, what)?.content != [1] {
        return Err(Malformed(what));
    }
    let device_key = parts.expect(tag::SEQUENCE, what)?.whole;
    let id = firmware_digest(&mut parts)?;
    parts.finish(what)?;
    Ok(Firmware { id, device_key: Some(device_key) })
}

/// Blackwell's: of a `DiceTcbInfo`, the first of the firmware digests, as NVIDIA's verifiers read it.
fn tcb_info(value: &[u8]) -> Result<Firmware<'_>, Malformed> {
    let what = "TCB information";
    let mut reader = Reader::new(value);
    let mut parts = Reader::new(reader.expect(tag::SEQUENCE, what)?.content);
    reader.finish(what)?;
    while !parts.is_empty() {
        let part = parts.any(what)?;
        if part.tag == CONTEXT_6 {
            return Ok(Firmware { id: firmware_digest(&mut Reader::new(part.content))?, device_key: None });
        }
    }
    Err(Malformed(what))
}

fn firmware_digest(parts: &mut Reader<'_>) -> Result<[u8; 48], Malformed> {
    let what = "firmware digest";
    let mut digest = Reader::new(parts.expect(tag::SEQUENCE, what)?.content);
    if digest.expect(tag::OID, what)?.content != SHA384 {
        return Err(Malformed(what));
    }
    let id = digest.expect(tag::OCTET_STRING, what)?.content;
    digest.finish(what)?;
    id.try_into().map_err(|_| Malformed(what))
}
