//! The X.509 of AMD's certificates and revocation lists (RFC 5280), as far as they use it.
//!
//! Signatures are RSASSA-PSS with SHA-384, MGF1 with SHA-384 and a salt of 48 bytes throughout; keys are RSA for
//! authorities and P-384 for endorsement keys (KDS, "VCEK certificate format"). Everything else is refused.

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, RSA_PSS_2048_8192_SHA384, UnparsedPublicKey};
use base64::Engine as _;

use crate::UnixSeconds;
use crate::der::{self, Malformed, Reader, tag};
use crate::x509::{BASIC_CONSTRAINTS, CERT_SIGN, KEY_USAGE, common_name};

/// Most extensions in a certificate (a VCEK has 11).
const MAX_EXTENSIONS: usize = 32;
/// Longest certificate or list, bytes.
pub(super) const MAX_LEN: usize = 64 * 1024;

/// AlgorithmIdentifier of the signatures, without its outer tag, up to the trailer field.
const PSS_SHA384: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a\x30\x34\xa0\x0f\x30\x0d\x06\x09\x60\x86\x48\
    \x01\x65\x03\x04\x02\x02\x05\x00\xa1\x1c\x30\x1a\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08\x30\x0d\x06\x09\x60\
    \x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\xa2\x03\x02\x01\x30";
/// The same with the trailer field's default spelt out, which DER forbids and AMD's older certificates do.
const PSS_SHA384_TRAILER: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a\x30\x39\xa0\x0f\x30\x0d\x06\x09\x60\
    \x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\xa1\x1c\x30\x1a\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08\x30\x0d\x06\
    \x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\xa2\x03\x02\x01\x30\xa3\x03\x02\x01\x01";
/// `rsaEncryption`, no parameters.
const RSA_KEY: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
/// `id-ecPublicKey` on `secp384r1`.
const P384_KEY: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22";

/// AMD's own arc of extensions, 1.3.6.1.4.1.3704.1 (KDS, "VCEK certificate extensions").
const AMD_ARC: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x9c, 0x78, 0x01];
const IA5_STRING: u8 = 0x16;

/// A certified key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key<'a> {
    /// An RSAPublicKey in DER.
    Rsa(&'a [u8]),
    /// An uncompressed point.
    P384(&'a [u8]),
}

impl Key<'_> {
    /// Whether this key made an RSASSA-PSS signature with SHA-384.
    fn signed(&self, content: &[u8], signature: &[u8]) -> bool {
        let Self::Rsa(key) = self else { return false };
        UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, key).verify(content, signature).is_ok()
    }

    /// Whether this key made an ECDSA signature with SHA-384, r and s of 48 bytes.
    pub(super) fn signed_report(&self, content: &[u8], signature: &[u8; 96]) -> bool {
        let Self::P384(key) = self else { return false };
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key).verify(content, signature).is_ok()
    }
}

/// Something with a signature beneath it.
#[derive(Debug, Clone, Copy)]
struct Signed<'a> {
    content: &'a [u8],
    signature: &'a [u8],
}

/// A certificate.
#[derive(Debug)]
pub(super) struct Certificate<'a> {
    signed: Signed<'a>,
    pub(super) serial: &'a [u8],
    /// The whole name in DER.
    pub(super) issuer: &'a [u8],
    /// The whole name in DER.
    pub(super) subject: &'a [u8],
    pub(super) not_before: UnixSeconds,
    pub(super) not_after: UnixSeconds,
    /// SubjectPublicKeyInfo in DER.
    pub(super) key_info: &'a [u8],
    pub(super) key: Key<'a>,
    /// Whether it may sign certificates: CA, with that key usage.
    pub(super) is_authority: bool,
    /// AMD's own extensions, by what follows their arc.
    amd: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Certificate<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (signed, mut fields) = signed(bytes)?;
        let mut version = Reader::new(fields.expect(tag::CONTEXT_0, "version")?.content);
        if version.expect(tag::INTEGER, "version")?.content != [2] {
            return Err(Malformed("version"));
        }
        version.finish("version")?;
        let serial = fields.expect(tag::INTEGER, "serial number")?.content;
        algorithm(&mut fields)?;
        let issuer = fields.expect(tag::SEQUENCE, "issuer")?.whole;
        let mut validity = Reader::new(fields.expect(tag::SEQUENCE, "validity")?.content);
        let not_before = UnixSeconds(der::time(validity.any("notBefore")?, "notBefore")?);
        let not_after = UnixSeconds(der::time(validity.any("notAfter")?, "notAfter")?);
        validity.finish("validity")?;
        let subject = fields.expect(tag::SEQUENCE, "subject")?.whole;
        let key_info = fields.expect(tag::SEQUENCE, "public key")?;
        let key = read_key(key_info.content)?;
        let mut certificate = Self {
            signed,
            serial,
            issuer,
            subject,
            not_before,
            not_after,
            key_info: key_info.whole,
            key,
            is_authority: false,
            amd: Vec::new(),
        };
        if let Some(extensions) = fields.optional(tag::CONTEXT_3, "extensions")? {
            certificate.read_extensions(extensions.content)?;
        }
        fields.finish("certificate")?;
        Ok(certificate)
    }

    fn read_extensions(&mut self, content: &'a [u8]) -> Result<(), Malformed> {
        let (mut is_ca, mut may_certify) = (false, false);
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
            if let Some(own) = oid.strip_prefix(AMD_ARC) {
                self.amd.push((own, value));
            } else if oid == BASIC_CONSTRAINTS {
                let mut reader = Reader::new(value);
                let constraints = reader.expect(tag::SEQUENCE, "basic constraints")?;
                reader.finish("basic constraints")?;
                is_ca = Reader::new(constraints.content).boolean_or_false("basic constraints")?;
            } else if oid == KEY_USAGE {
                let mut reader = Reader::new(value);
                let usage = reader.expect(tag::BIT_STRING, "key usage")?;
                reader.finish("key usage")?;
                let bits = der::bit_string(usage, true, "key usage")?;
                may_certify = bits.first().is_some_and(|bits| bits & CERT_SIGN != 0);
            } else if critical {
                return Err(Malformed("unknown critical extension"));
            }
        }
        self.is_authority = is_ca && may_certify;
        Ok(())
    }

    /// Whether this certificate names `issuer` as its issuer and bears its signature.
    pub(super) fn is_signed_by(&self, issuer: &Certificate<'_>) -> bool {
        self.issuer == issuer.subject && issuer.key.signed(self.signed.content, self.signed.signature)
    }

    /// The subject's common name, where it has one that is text.
    pub(super) fn common_name(&self) -> Option<&'a str> {
        common_name(self.subject)
    }

    /// The issuer's common name.
    pub(super) fn issuer_common_name(&self) -> Option<&'a str> {
        common_name(self.issuer)
    }

    fn amd_extension(&self, own: &[u8]) -> Option<&'a [u8]> {
        self.amd.iter().find(|(oid, _)| *oid == own).map(|(_, value)| *value)
    }

    /// The security version number in AMD's extension 3.`index` (KDS: 1 boot loader, 2 TEE, 3 SNP, 4 to 7 reserved,
    /// 8 microcode, 9 FMC); `None` where it is missing or no number from 0 to 255.
    pub(super) fn security_version(&self, index: u8) -> Option<u8> {
        let mut reader = Reader::new(self.amd_extension(&[3, index])?);
        let number = reader.expect(tag::INTEGER, "security version").ok()?.content;
        reader.finish("security version").ok()?;
        match *number {
            [version] if version < 0x80 => Some(version),
            [0, version] if version >= 0x80 => Some(version),
            _ => None,
        }
    }

    /// The chip in AMD's extension 4. AMD puts its bytes there without a tag; an OCTET STRING is taken, too.
    pub(super) fn hardware_id(&self, len: usize) -> Option<&'a [u8]> {
        let value = self.amd_extension(&[4])?;
        if value.len() == len {
            return Some(value);
        }
        let mut reader = Reader::new(value);
        let id = reader.expect(tag::OCTET_STRING, "hardware identifier").ok()?.content;
        reader.finish("hardware identifier").ok()?;
        (id.len() == len).then_some(id)
    }

    /// Whether AMD's extension 4 (chip) is there, in whatever form.
    pub(super) fn names_a_chip(&self) -> bool {
        self.amd_extension(&[4]).is_some()
    }

    /// The cloud provider in AMD's extension 5.
    pub(super) fn provider(&self) -> Option<&'a str> {
        let mut reader = Reader::new(self.amd_extension(&[5])?);
        let name = reader.expect(IA5_STRING, "provider").ok()?.content;
        reader.finish("provider").ok()?;
        std::str::from_utf8(name).ok()
    }
}

/// A revocation list.
#[derive(Debug)]
pub(super) struct RevocationList<'a> {
    signed: Signed<'a>,
    issuer: &'a [u8],
    pub(super) this_update: UnixSeconds,
    pub(super) next_update: UnixSeconds,
    revoked: Vec<&'a [u8]>,
}

impl<'a> RevocationList<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (signed, mut fields) = signed(bytes)?;
        // Version 2 where there is one (RFC 5280 §5.1.2.1).
        if fields.optional(tag::INTEGER, "version")?.is_some_and(|version| version.content != [1]) {
            return Err(Malformed("version"));
        }
        algorithm(&mut fields)?;
        let issuer = fields.expect(tag::SEQUENCE, "issuer")?.whole;
        let this_update = UnixSeconds(der::time(fields.any("thisUpdate")?, "thisUpdate")?);
        // RFC 5280 §5.1.2.5 demands it, and without it a list would be good for ever.
        let next_update = UnixSeconds(der::time(fields.any("nextUpdate")?, "nextUpdate")?);
        let mut revoked = Vec::new();
        if let Some(list) = fields.optional(tag::SEQUENCE, "revoked certificates")? {
            let mut list = Reader::new(list.content);
            while !list.is_empty() {
                let mut entry = Reader::new(list.expect(tag::SEQUENCE, "revoked certificate")?.content);
                revoked.push(entry.expect(tag::INTEGER, "revoked certificate")?.content);
                der::time(entry.any("revocation date")?, "revocation date")?;
                if let Some(extensions) = entry.optional(tag::SEQUENCE, "entry extensions")? {
                    entry_extensions(extensions.content)?;
                }
                entry.finish("revoked certificate")?;
            }
        }
        if let Some(extensions) = fields.optional(tag::CONTEXT_0, "list extensions")? {
            let mut outer = Reader::new(extensions.content);
            entry_extensions(outer.expect(tag::SEQUENCE, "list extensions")?.content)?;
            outer.finish("list extensions")?;
        }
        fields.finish("revocation list")?;
        Ok(Self { signed, issuer, this_update, next_update, revoked })
    }

    /// Whether this list names `issuer` as its issuer and bears its signature.
    pub(super) fn is_signed_by(&self, issuer: &Certificate<'_>) -> bool {
        self.issuer == issuer.subject && issuer.key.signed(self.signed.content, self.signed.signature)
    }

    /// Whether the list's issuer has revoked a certificate of its own.
    pub(super) fn revokes(&self, certificate: &Certificate<'_>) -> bool {
        certificate.issuer == self.issuer && self.revoked.contains(&certificate.serial)
    }

    pub(super) fn len(&self) -> usize {
        self.revoked.len()
    }
}

/// Extensions of a list or of its entries: a critical one would change what the list means (as an indirect or a
/// delta list would), so only the reason for a revocation, which never is critical, and the like may be there.
fn entry_extensions(content: &[u8]) -> Result<(), Malformed> {
    let mut list = Reader::new(content);
    while !list.is_empty() {
        let mut extension = Reader::new(list.expect(tag::SEQUENCE, "list extension")?.content);
        extension.expect(tag::OID, "list extension")?;
        if extension.boolean_or_false("list extension")? {
            return Err(Malformed("unknown critical extension"));
        }
        extension.expect(tag::OCTET_STRING, "list extension")?;
        extension.finish("list extension")?;
    }
    Ok(())
}

/// Splits what is signed from its signature; the reader stands in what is signed.
fn signed(bytes: &[u8]) -> Result<(Signed<'_>, Reader<'_>), Malformed> {
    if bytes.len() > MAX_LEN {
        return Err(Malformed("length"));
    }
    let mut outer = Reader::new(bytes);
    let mut parts = Reader::new(outer.expect(tag::SEQUENCE, "outer sequence")?.content);
    outer.finish("outer sequence")?;
    let content = parts.expect(tag::SEQUENCE, "signed part")?;
    algorithm(&mut parts)?;
    let signature = der::bit_string(parts.expect(tag::BIT_STRING, "signature")?, false, "signature")?;
    parts.finish("signature")?;
    Ok((Signed { content: content.whole, signature }, Reader::new(content.content)))
}

fn algorithm(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    match reader.expect(tag::SEQUENCE, "signature algorithm")?.content {
        PSS_SHA384 | PSS_SHA384_TRAILER => Ok(()),
        _ => Err(Malformed("signature algorithm")),
    }
}

fn read_key(content: &[u8]) -> Result<Key<'_>, Malformed> {
    let mut reader = Reader::new(content);
    let algorithm = reader.expect(tag::SEQUENCE, "key algorithm")?.content;
    let key = der::bit_string(reader.expect(tag::BIT_STRING, "public key")?, false, "public key")?;
    reader.finish("public key")?;
    match algorithm {
        RSA_KEY => Ok(Key::Rsa(key)),
        P384_KEY => Ok(Key::P384(key)),
        _ => Err(Malformed("key algorithm")),
    }
}

/// The certificates in an answer of the Key Distribution Service: one in DER, or several in PEM (RFC 7468).
/// `None` where it is neither, or too long.
pub(super) fn unwrap_pem(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    if bytes.len() > MAX_LEN {
        return None;
    }
    if bytes.first() == Some(&tag::SEQUENCE) {
        return Some(vec![bytes.to_vec()]);
    }
    let mut rest = std::str::from_utf8(bytes).ok()?;
    let mut found = Vec::new();
    while let Some((_, begun)) = rest.split_once("-----BEGIN CERTIFICATE-----") {
        let (body, after) = begun.split_once("-----END CERTIFICATE-----")?;
        let body: String = body.split_ascii_whitespace().collect();
        found.push(base64::engine::general_purpose::STANDARD.decode(body).ok()?);
        rest = after;
    }
    Some(found)
}
