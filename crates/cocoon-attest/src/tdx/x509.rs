//! The certificates and revocation lists of Intel's provisioning certification service, read strictly.
//!
//! Source: "Intel SGX PCK Certificate and Certificate Revocation List Profile Specification": everything is ECDSA
//! with SHA-256 on P-256, X.509 version 3, lists of version 2. Whatever differs is refused, critical extensions
//! that are not understood among it.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

use crate::UnixSeconds;
use crate::der::{self, Malformed, Reader, tag};
use crate::x509::{
    BASIC_CONSTRAINTS, CERT_SIGN, DIGITAL_SIGNATURE, KEY_USAGE, basic_constraints, common_name,
};

/// AlgorithmIdentifier of ecdsa-with-SHA256 without its outer tag (RFC 5758 §3.2: no parameters).
const ECDSA_SHA256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// AlgorithmIdentifier of a P-256 key without its outer tag (RFC 5480 §2.1.1).
const P256_KEY: &[u8] = &[
    0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
    0x01, 0x07,
];
/// Another bit of KeyUsage, beside [`CERT_SIGN`].
const CRL_SIGN: u8 = 0x02;
/// Most extensions in a certificate or list (Intel's have 6), and most entries of a name.
const MAX_EXTENSIONS: usize = 16;

/// Checks an ECDSA signature on P-256 with SHA-256; `key` is x and y, `signature` r and s.
pub(super) fn verifies(key: &[u8; 64], message: &[u8], signature: &[u8; 64]) -> bool {
    let mut point = [4; 65];
    point[1..].copy_from_slice(key);
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point[..]).verify(message, signature).is_ok()
}

/// Something signed in X.509's way: the bytes signed, and r and s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Signed<'a> {
    part: &'a [u8],
    signature: [u8; 64],
}

/// A certificate, read but not verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Certificate<'a> {
    pub(super) der: &'a [u8],
    signed: Signed<'a>,
    /// As DER writes the integer.
    serial: &'a [u8],
    issuer: &'a [u8],
    subject: &'a [u8],
    /// First and last second.
    validity: (UnixSeconds, UnixSeconds),
    /// x and y.
    pub(super) key: [u8; 64],
    authority: bool,
    /// Most authorities below this one.
    path_len: Option<u8>,
    usage: u8,
}

impl<'a> Certificate<'a> {
    pub(super) fn parse(der: &'a [u8]) -> Result<Self, Malformed> {
        let (signed, tbs) = signed(der)?;
        let mut fields = Reader::new(tbs);
        let version = fields.expect(tag::CONTEXT_0, "version")?.content;
        if version != [tag::INTEGER, 1, 2] {
            return Err(Malformed("version: it is not 3"));
        }
        let serial = fields.expect(tag::INTEGER, "serial number")?.content;
        expect_algorithm(&mut fields)?;
        let issuer = fields.expect(tag::SEQUENCE, "issuer")?.whole;
        let validity = validity(fields.expect(tag::SEQUENCE, "validity")?.content)?;
        let subject = fields.expect(tag::SEQUENCE, "subject")?.whole;
        let key = public_key(fields.expect(tag::SEQUENCE, "public key")?.content)?;
        let list = fields.expect(tag::CONTEXT_3, "extensions")?;
        fields.finish("end of the signed part")?;
        let mut certificate = Self {
            der,
            signed,
            serial,
            issuer,
            subject,
            validity,
            key,
            authority: false,
            path_len: None,
            usage: 0,
        };
        for extension in extensions(list.content)? {
            match extension.name {
                BASIC_CONSTRAINTS => {
                    (certificate.authority, certificate.path_len) = basic_constraints(extension.value)?;
                }
                KEY_USAGE => certificate.usage = key_usage(extension.value)?,
                _ if extension.critical => return Err(Malformed("critical extension: it is not understood")),
                _ => {}
            }
        }
        Ok(certificate)
    }

    /// The subject's common name; empty without one.
    pub(super) fn common_name(&self) -> &'a str {
        common_name(self.subject).unwrap_or_default()
    }

    /// The issuer's common name; empty without one.
    pub(super) fn issuer_name(&self) -> &'a str {
        common_name(self.issuer).unwrap_or_default()
    }

    /// The last second of its validity.
    pub(super) fn not_after(&self) -> UnixSeconds {
        self.validity.1
    }

    /// Whether `issuer` says so: its name, its key's signature, and it is an authority that may have
    /// `authorities_below` further authorities between itself and the end of the chain.
    pub(super) fn issued_by(&self, issuer: &Certificate<'_>, authorities_below: u8) -> Result<(), String> {
        let (own, by) = (self.common_name(), issuer.common_name());
        if self.issuer != issuer.subject {
            return Err(format!("{own:?} names another issuer than {by:?}"));
        }
        if !issuer.authority || issuer.usage & CERT_SIGN == 0 {
            return Err(format!("{by:?} may not issue certificates"));
        }
        if issuer.path_len.is_some_and(|most| most < authorities_below) {
            return Err(format!("{by:?} may not stand so high in a chain"));
        }
        if !verifies(&issuer.key, self.signed.part, &self.signed.signature) {
            return Err(format!("the signature on {own:?} is not by {by:?}"));
        }
        Ok(())
    }

    /// Whether it is valid at this time.
    pub(super) fn valid_at(&self, now: UnixSeconds) -> Result<(), String> {
        let (name, (from, to)) = (self.common_name(), self.validity);
        if now < from {
            return Err(format!("{name:?} is not valid before {from}"));
        }
        if to < now {
            return Err(format!("{name:?} expired {to}"));
        }
        Ok(())
    }

    /// Whether it signs data and is no authority itself.
    pub(super) fn signs_data(&self) -> Result<(), String> {
        if self.authority || self.usage & DIGITAL_SIGNATURE == 0 {
            return Err(format!("{:?} is not a certificate to sign data with", self.common_name()));
        }
        Ok(())
    }
}

/// A revocation list, read but not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RevocationList<'a> {
    signed: Signed<'a>,
    issuer: &'a [u8],
    /// Of issue and of the next one.
    validity: (UnixSeconds, UnixSeconds),
    revoked: Vec<&'a [u8]>,
}

impl<'a> RevocationList<'a> {
    pub(super) fn parse(der: &'a [u8]) -> Result<Self, Malformed> {
        let (signed, tbs) = signed(der)?;
        let mut fields = Reader::new(tbs);
        if fields.expect(tag::INTEGER, "version")?.content != [1] {
            return Err(Malformed("version: it is not 2"));
        }
        expect_algorithm(&mut fields)?;
        let issuer = fields.expect(tag::SEQUENCE, "issuer")?.whole;
        let from = UnixSeconds(der::time(fields.any("this update")?, "this update")?);
        let to = UnixSeconds(der::time(fields.any("next update")?, "next update")?);
        let mut revoked = Vec::new();
        if let Some(list) = fields.optional(tag::SEQUENCE, "revoked certificates")? {
            let mut entries = Reader::new(list.content);
            while !entries.is_empty() {
                let entry = entries.expect(tag::SEQUENCE, "revoked certificate")?;
                let mut entry = Reader::new(entry.content);
                revoked.push(entry.expect(tag::INTEGER, "revoked serial number")?.content);
            }
        }
        if let Some(list) = fields.optional(tag::CONTEXT_0, "extensions")?
            && extensions(list.content)?.iter().any(|extension| extension.critical)
        {
            return Err(Malformed("critical extension: it is not understood"));
        }
        fields.finish("end of the signed part")?;
        Ok(Self { signed, issuer, validity: (from, to), revoked })
    }

    /// When the next list is due.
    pub(super) fn next_update(&self) -> UnixSeconds {
        self.validity.1
    }

    /// Whether `issuer` issued it and it is of now.
    pub(super) fn current(&self, issuer: &Certificate<'_>, now: UnixSeconds) -> Result<(), String> {
        let by = issuer.common_name();
        if self.issuer != issuer.subject {
            return Err(format!("the revocation list is not {by:?}'s"));
        }
        if !issuer.authority || issuer.usage & CRL_SIGN == 0 {
            return Err(format!("{by:?} may not issue revocation lists"));
        }
        if !verifies(&issuer.key, self.signed.part, &self.signed.signature) {
            return Err(format!("the signature on the revocation list is not by {by:?}"));
        }
        let (from, to) = self.validity;
        if now < from {
            return Err(format!("the revocation list of {by:?} is of the future: {from}"));
        }
        // RFC 5280 §5.1.2.5: the next list is out by then.
        if to <= now {
            return Err(format!("the revocation list of {by:?} expired {to}"));
        }
        Ok(())
    }

    /// Whether it leaves this certificate valid.
    pub(super) fn spares(&self, certificate: &Certificate<'_>) -> Result<(), String> {
        if self.revoked.contains(&certificate.serial) {
            return Err(format!("{:?} is revoked", certificate.common_name()));
        }
        Ok(())
    }
}

/// Splits what X.509 signs: the signed part with its tag, its signature, and the content of that part.
fn signed(der: &[u8]) -> Result<(Signed<'_>, &[u8]), Malformed> {
    let mut outer = Reader::new(der);
    let mut parts = Reader::new(outer.expect(tag::SEQUENCE, "outermost sequence")?.content);
    outer.finish("end")?;
    let part = parts.expect(tag::SEQUENCE, "signed part")?;
    expect_algorithm(&mut parts)?;
    let signature = der::bit_string(parts.expect(tag::BIT_STRING, "signature")?, false, "signature")?;
    parts.finish("end")?;
    Ok((Signed { part: part.whole, signature: ecdsa_signature(signature)? }, part.content))
}

fn expect_algorithm(fields: &mut Reader<'_>) -> Result<(), Malformed> {
    if fields.expect(tag::SEQUENCE, "signature algorithm")?.content != ECDSA_SHA256 {
        return Err(Malformed("signature algorithm: it is not ECDSA with SHA-256"));
    }
    Ok(())
}

/// Ecdsa-Sig-Value (RFC 5480): two integers, each brought to 32 bytes.
fn ecdsa_signature(der: &[u8]) -> Result<[u8; 64], Malformed> {
    let malformed = Malformed("signature");
    let mut outer = Reader::new(der);
    let mut numbers = Reader::new(outer.expect(tag::SEQUENCE, "signature")?.content);
    outer.finish("signature")?;
    let mut signature = [0; 64];
    for half in signature.chunks_exact_mut(32) {
        let number = numbers.expect(tag::INTEGER, "signature")?.content;
        let digits = match number {
            [0, digits @ ..] if digits.first().is_some_and(|first| *first >= 0x80) => digits,
            [first, ..] if *first < 0x80 => number,
            _ => return Err(malformed),
        };
        let start = half.len().checked_sub(digits.len()).ok_or(malformed)?;
        half[start..].copy_from_slice(digits);
    }
    numbers.finish("signature")?;
    Ok(signature)
}

fn validity(content: &[u8]) -> Result<(UnixSeconds, UnixSeconds), Malformed> {
    let mut times = Reader::new(content);
    let from = der::time(times.any("start of validity")?, "start of validity")?;
    let to = der::time(times.any("end of validity")?, "end of validity")?;
    times.finish("validity")?;
    Ok((UnixSeconds(from), UnixSeconds(to)))
}

fn public_key(content: &[u8]) -> Result<[u8; 64], Malformed> {
    let mut fields = Reader::new(content);
    if fields.expect(tag::SEQUENCE, "key algorithm")?.content != P256_KEY {
        return Err(Malformed("key algorithm: it is not P-256"));
    }
    let point = der::bit_string(fields.expect(tag::BIT_STRING, "public key")?, false, "public key")?;
    fields.finish("public key")?;
    match point {
        [4, key @ ..] => key.try_into().map_err(|_| Malformed("public key")),
        _ => Err(Malformed("public key: it is not an uncompressed point")),
    }
}

struct Extension<'a> {
    name: &'a [u8],
    critical: bool,
    value: &'a [u8],
}

fn extensions(wrapper: &[u8]) -> Result<Vec<Extension<'_>>, Malformed> {
    let mut wrapper = Reader::new(wrapper);
    let mut list = Reader::new(wrapper.expect(tag::SEQUENCE, "extensions")?.content);
    wrapper.finish("extensions")?;
    let mut found: Vec<Extension<'_>> = Vec::new();
    while !list.is_empty() {
        let mut fields = Reader::new(list.expect(tag::SEQUENCE, "extension")?.content);
        let name = fields.expect(tag::OID, "extension identifier")?.content;
        let critical = fields.boolean_or_false("extension criticality")?;
        let value = fields.expect(tag::OCTET_STRING, "extension value")?.content;
        fields.finish("extension")?;
        if found.len() == MAX_EXTENSIONS || found.iter().any(|other| other.name == name) {
            return Err(Malformed("extensions: too many, or one twice"));
        }
        found.push(Extension { name, critical, value });
    }
    Ok(found)
}

fn key_usage(value: &[u8]) -> Result<u8, Malformed> {
    let mut outer = Reader::new(value);
    let bits = der::bit_string(outer.expect(tag::BIT_STRING, "key usage")?, true, "key usage")?;
    outer.finish("key usage")?;
    Ok(bits.first().copied().unwrap_or_default())
}
