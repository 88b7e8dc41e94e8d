//! The certificate of a peer: self-signed, Ed25519, one day long, carrying evidence in an extension.
//!
//! [`PeerCertificate::parse`] reads its shape, [`PeerCertificate::check`] judges it by itself (signature,
//! validity, usage). Whether its evidence is good enough is for [`Policy`](crate::Policy) to say.
//! Published nodes write version 1 although they use extensions; that is accepted here, and only here.

use bytes::Bytes;
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest as _, Sha256};

use crate::der::{self, Malformed, Reader, tag};
use crate::{Evidence, EvidenceKind, ReportData, UnixSeconds};

/// Longest evidence in a certificate, bytes: the cap of the published nodes.
pub const MAX_QUOTE_LEN: usize = 32 * 1024;
/// Longest evidence of GPUs in a certificate, bytes: eight of them.
pub const MAX_GPU_LEN: usize = 48 * 1024;
/// Longest certificate, bytes. TLS carries up to 64 KiB. Evidence of a machine needs 5 to 10 KiB, so that of eight
/// GPUs fits beside it.
pub const MAX_CERTIFICATE_LEN: usize = 60 * 1024;
/// Most extensions in a certificate (published ones have 7).
pub const MAX_EXTENSIONS: usize = 32;
/// How far a peer's clock may differ from ours at either end of a certificate's validity, seconds.
/// The same minute that the published tools grant.
pub const CLOCK_SKEW_SECONDS: u64 = 60;
/// The published extension that carries a TDX quote, or a fake one. Critical.
pub const QUOTE_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 12345, 1];
/// The published extension that carries the claims: the raw public key. Critical.
pub const CLAIMS_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 12345, 2];
/// Our extension that carries an SEV-SNP report with its certificates. Ours stand under a number of the published arc
/// that is far from the published ones, and are not critical: a node that does not know them passes over them.
pub const SNP_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 12345, 1000, 1];
/// Our extension that carries the evidence of GPUs. Not critical.
pub const GPU_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 12345, 1000, 2];

/// Longest object identifier read, bytes.
const MAX_OID_LEN: usize = 64;
/// AlgorithmIdentifier of Ed25519 without its outer tag (RFC 8410 §3: no parameters).
const ED25519_ALGORITHM: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
/// Bit 0 of KeyUsage (RFC 5280 §4.2.1.3), which DER puts at the top of the first byte.
const DIGITAL_SIGNATURE: u8 = 0x80;

/// Object identifiers as DER writes them.
mod oid {
    pub(super) const QUOTE: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xe0, 0x39, 0x01];
    pub(super) const CLAIMS: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xe0, 0x39, 0x02];
    pub(super) const SNP: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xe0, 0x39, 0x87, 0x68, 0x01];
    pub(super) const GPU: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xe0, 0x39, 0x87, 0x68, 0x02];
    pub(super) const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 0x0e];
    pub(super) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
    pub(super) const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
    pub(super) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
    pub(super) const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];
    pub(super) const EXT_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
    pub(super) const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
    pub(super) const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
}

/// Which side of a connection the certificate was presented by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerRole {
    /// The peer accepted the connection: its certificate must allow `serverAuth`.
    Server,
    /// The peer dialled: its certificate must allow `clientAuth`.
    Client,
}

impl PeerRole {
    fn usage(self) -> &'static str {
        match self {
            Self::Server => "serverAuth",
            Self::Client => "clientAuth",
        }
    }
}

/// The version field of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateVersion {
    /// What published nodes write, extensions or not.
    V1,
    /// What X.509 asks for where there are extensions; what we write.
    V3,
}

/// When a certificate may be used, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub not_before: UnixSeconds,
    /// Last second.
    pub not_after: UnixSeconds,
}

/// Why a certificate was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Longer than [`MAX_CERTIFICATE_LEN`].
    #[error("the certificate has {len} bytes, more than {MAX_CERTIFICATE_LEN}")]
    TooLarge {
        /// Its length, bytes.
        len: usize,
    },
    /// Not the DER of a certificate.
    #[error("the certificate is malformed at its {field}")]
    Malformed {
        /// Where reading stopped.
        field: &'static str,
    },
    /// Neither version 1 nor 3.
    #[error("the certificate's version is neither 1 nor 3")]
    UnsupportedVersion,
    /// The public key is not Ed25519.
    #[error("the certificate's key is not Ed25519")]
    KeyNotEd25519,
    /// The signature algorithm, inside or outside the signed part, is not Ed25519.
    #[error("the certificate's signature is not Ed25519")]
    SignatureNotEd25519,
    /// More than [`MAX_EXTENSIONS`].
    #[error("the certificate has more than {MAX_EXTENSIONS} extensions")]
    TooManyExtensions,
    /// The same extension twice.
    #[error("the certificate repeats the extension {oid}")]
    DuplicateExtension {
        /// Which, dotted.
        oid: String,
    },
    /// An extension that must be understood and is not.
    #[error("the certificate has the critical extension {oid}, which is not understood")]
    UnknownCriticalExtension {
        /// Which, dotted.
        oid: String,
    },
    /// Evidence longer than [`MAX_QUOTE_LEN`].
    #[error("the certificate's quote has {len} bytes, more than {MAX_QUOTE_LEN}")]
    QuoteTooLarge {
        /// Its length, bytes.
        len: usize,
    },
    /// Evidence of GPUs longer than [`MAX_GPU_LEN`].
    #[error("the certificate's evidence of GPUs has {len} bytes, more than {MAX_GPU_LEN}")]
    GpuEvidenceTooLarge {
        /// Its length, bytes.
        len: usize,
    },
    /// Evidence of two kinds of machine: nobody is both.
    #[error("the certificate carries evidence of two kinds of machine")]
    TwoMachines,
    /// The claims name another key than the certificate's.
    #[error("the certificate's claims are not its public key")]
    ClaimsMismatch,
    /// Issuer and subject differ.
    #[error("the certificate is not self-signed: its issuer is not its subject")]
    NotSelfSigned,
    /// The signature does not verify with the certificate's own key.
    #[error("the certificate's signature is wrong")]
    BadSignature,
    /// Its validity begins later than now plus [`CLOCK_SKEW_SECONDS`].
    #[error("the certificate is not valid before {not_before}, and it is {now}; compare the clocks")]
    NotYetValid {
        /// First second of its validity.
        not_before: UnixSeconds,
        /// Our time.
        now: UnixSeconds,
    },
    /// Its validity ended earlier than now minus [`CLOCK_SKEW_SECONDS`].
    #[error("the certificate expired {not_after}, and it is {now}; the peer must renew it")]
    Expired {
        /// Last second of its validity.
        not_after: UnixSeconds,
        /// Our time.
        now: UnixSeconds,
    },
    /// Key usage is missing or lacks `digitalSignature`.
    #[error("the certificate's key usage does not allow digitalSignature")]
    KeyUsage,
    /// Extended key usage is missing or lacks what the peer's role needs.
    #[error("the certificate's extended key usage does not allow {usage}")]
    ExtendedKeyUsage {
        /// `serverAuth` or `clientAuth`.
        usage: &'static str,
    },
    /// It claims to be a certificate authority.
    #[error("the certificate claims to be a certificate authority")]
    IsAuthority,
}

impl From<Malformed> for CertificateError {
    fn from(Malformed(field): Malformed) -> Self {
        Self::Malformed { field }
    }
}

/// A certificate whose shape has been read. It says nothing true until [`check`](Self::check) has passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    version: CertificateVersion,
    public_key: [u8; 32],
    validity: Validity,
    evidence: Evidence,
    claims: Option<Bytes>,
    fingerprint: [u8; 32],
    issuer_is_subject: bool,
    signed_part: Bytes,
    signature: [u8; 64],
    usage: Usage,
}

/// What the standard extensions allow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Usage {
    digital_signature: bool,
    server_auth: bool,
    client_auth: bool,
    authority: bool,
}

impl PeerCertificate {
    /// Reads a certificate's DER.
    ///
    /// # Errors
    /// Says what about its shape, algorithms, extensions or size is not acceptable.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > MAX_CERTIFICATE_LEN {
            return Err(CertificateError::TooLarge { len: der.len() });
        }
        let mut outer = Reader::new(der);
        let mut certificate = Reader::new(outer.expect(tag::SEQUENCE, "outermost sequence")?.content);
        outer.finish("end")?;
        let tbs = certificate.expect(tag::SEQUENCE, "signed part")?;
        let outer_algorithm = certificate.expect(tag::SEQUENCE, "signature algorithm")?.content;
        let signature = certificate.expect(tag::BIT_STRING, "signature")?;
        certificate.finish("end")?;

        let mut fields = Reader::new(tbs.content);
        let version = parse_version(&mut fields)?;
        fields.expect(tag::INTEGER, "serial number")?;
        let inner_algorithm = fields.expect(tag::SEQUENCE, "signed signature algorithm")?.content;
        let issuer = fields.expect(tag::SEQUENCE, "issuer")?.whole;
        let validity = parse_validity(fields.expect(tag::SEQUENCE, "validity")?.content)?;
        let subject = fields.expect(tag::SEQUENCE, "subject")?.whole;
        let public_key = parse_public_key(fields.expect(tag::SEQUENCE, "public key")?.content)?;
        let extensions = match fields.optional(tag::CONTEXT_3, "extensions")? {
            Some(wrapper) => parse_extensions(wrapper.content)?,
            None => Extensions::default(),
        };
        fields.finish("end of the signed part")?;

        if outer_algorithm != ED25519_ALGORITHM || inner_algorithm != ED25519_ALGORITHM {
            return Err(CertificateError::SignatureNotEd25519);
        }
        let signature = der::bit_string(signature, false, "signature")?
            .try_into()
            .map_err(|_| CertificateError::Malformed { field: "signature" })?;
        if extensions.claims.is_some_and(|claims| claims != public_key) {
            return Err(CertificateError::ClaimsMismatch);
        }
        let evidence = extensions.evidence()?;
        Ok(Self {
            version,
            public_key,
            validity,
            evidence,
            claims: extensions.claims.map(Bytes::copy_from_slice),
            fingerprint: Sha256::digest(der).into(),
            issuer_is_subject: issuer == subject,
            signed_part: Bytes::copy_from_slice(tbs.whole),
            signature,
            usage: extensions.usage,
        })
    }

    /// Judges the certificate by itself: issued and signed by its own key, valid now, meant for `role`, no
    /// authority. The first failure is returned.
    ///
    /// # Errors
    /// Says which of these does not hold.
    pub fn check(&self, now: UnixSeconds, role: PeerRole) -> Result<(), CertificateError> {
        if !self.issuer_is_subject {
            return Err(CertificateError::NotSelfSigned);
        }
        let Validity { not_before, not_after } = self.validity;
        if now.plus(CLOCK_SKEW_SECONDS) < not_before {
            return Err(CertificateError::NotYetValid { not_before, now });
        }
        if not_after.plus(CLOCK_SKEW_SECONDS) < now {
            return Err(CertificateError::Expired { not_after, now });
        }
        if self.usage.authority {
            return Err(CertificateError::IsAuthority);
        }
        if !self.usage.digital_signature {
            return Err(CertificateError::KeyUsage);
        }
        let allowed = match role {
            PeerRole::Server => self.usage.server_auth,
            PeerRole::Client => self.usage.client_auth,
        };
        if !allowed {
            return Err(CertificateError::ExtendedKeyUsage { usage: role.usage() });
        }
        // Strict: weak keys and malleable signatures do not pass.
        VerifyingKey::from_bytes(&self.public_key)
            .and_then(|key| key.verify_strict(&self.signed_part, &Signature::from_bytes(&self.signature)))
            .map_err(|_| CertificateError::BadSignature)
    }

    /// The version field.
    #[must_use]
    pub fn version(&self) -> CertificateVersion {
        self.version
    }

    /// The raw Ed25519 public key.
    #[must_use]
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    /// When the certificate may be used.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// The claims extension, if there is one; then it equals the public key.
    #[must_use]
    pub fn claims(&self) -> Option<&Bytes> {
        self.claims.as_ref()
    }

    /// SHA-256 of the whole certificate.
    #[must_use]
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// What the certificate carries for a [`Verifier`](crate::Verifier) to judge: at most [`MAX_QUOTE_LEN`] bytes about
    /// the machine and [`MAX_GPU_LEN`] about its GPUs.
    #[must_use]
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// What evidence must be bound to, to speak for this certificate.
    #[must_use]
    pub fn report_data(&self) -> ReportData {
        ReportData::for_key(&self.public_key)
    }
}

fn parse_version(fields: &mut Reader<'_>) -> Result<CertificateVersion, CertificateError> {
    let Some(wrapper) = fields.optional(tag::CONTEXT_0, "version")? else {
        return Ok(CertificateVersion::V1);
    };
    let mut inner = Reader::new(wrapper.content);
    let number = inner.expect(tag::INTEGER, "version")?.content;
    inner.finish("version")?;
    match number {
        [0] => Ok(CertificateVersion::V1),
        [2] => Ok(CertificateVersion::V3),
        _ => Err(CertificateError::UnsupportedVersion),
    }
}

fn parse_validity(content: &[u8]) -> Result<Validity, CertificateError> {
    let mut times = Reader::new(content);
    let not_before = der::time(times.any("start of validity")?, "start of validity")?;
    let not_after = der::time(times.any("end of validity")?, "end of validity")?;
    times.finish("validity")?;
    Ok(Validity { not_before: UnixSeconds(not_before), not_after: UnixSeconds(not_after) })
}

fn parse_public_key(content: &[u8]) -> Result<[u8; 32], CertificateError> {
    let mut fields = Reader::new(content);
    if fields.expect(tag::SEQUENCE, "key algorithm")?.content != ED25519_ALGORITHM {
        return Err(CertificateError::KeyNotEd25519);
    }
    let key = fields.expect(tag::BIT_STRING, "public key")?;
    fields.finish("public key")?;
    let bytes = der::bit_string(key, false, "public key")?;
    bytes.try_into().map_err(|_| CertificateError::Malformed { field: "public key" })
}

#[derive(Default)]
struct Extensions<'a> {
    quote: Option<&'a [u8]>,
    snp: Option<&'a [u8]>,
    gpus: Option<&'a [u8]>,
    claims: Option<&'a [u8]>,
    usage: Usage,
}

impl Extensions<'_> {
    /// The evidence. Each extension is for its own kind: what has the form of another is not recognised.
    fn evidence(&self) -> Result<Evidence, CertificateError> {
        let read = |bytes: &[u8], fits: fn(EvidenceKind) -> bool| {
            let read = Evidence::from_quote(Bytes::copy_from_slice(bytes));
            if fits(read.kind()) {
                read
            } else {
                Evidence::new(EvidenceKind::Unrecognised, read.bytes().clone())
            }
        };
        let machine = match (self.quote, self.snp) {
            (None, None) => Evidence::none(),
            (Some(quote), None) => read(quote, |kind| kind != EvidenceKind::SevSnp),
            (None, Some(report)) => read(report, |kind| kind == EvidenceKind::SevSnp),
            (Some(_), Some(_)) => return Err(CertificateError::TwoMachines),
        };
        Ok(match self.gpus {
            Some(gpus) => machine.with_gpus(Bytes::copy_from_slice(gpus)),
            None => machine,
        })
    }
}

fn parse_extensions(wrapper: &[u8]) -> Result<Extensions<'_>, CertificateError> {
    let mut wrapper = Reader::new(wrapper);
    let mut list = Reader::new(wrapper.expect(tag::SEQUENCE, "extensions")?.content);
    wrapper.finish("extensions")?;
    let mut extensions = Extensions::default();
    let mut seen: Vec<&[u8]> = Vec::new();
    while !list.is_empty() {
        let mut fields = Reader::new(list.expect(tag::SEQUENCE, "extension")?.content);
        let name = fields.expect(tag::OID, "extension identifier")?.content;
        if name.is_empty() || name.len() > MAX_OID_LEN {
            return Err(CertificateError::Malformed { field: "extension identifier" });
        }
        let critical = fields.boolean_or_false("extension criticality")?;
        let value = fields.expect(tag::OCTET_STRING, "extension value")?.content;
        fields.finish("extension")?;
        if seen.contains(&name) {
            return Err(CertificateError::DuplicateExtension { oid: der::dotted(name) });
        }
        if seen.len() == MAX_EXTENSIONS {
            return Err(CertificateError::TooManyExtensions);
        }
        seen.push(name);
        match name {
            oid::QUOTE | oid::SNP if value.len() > MAX_QUOTE_LEN => {
                return Err(CertificateError::QuoteTooLarge { len: value.len() });
            }
            oid::GPU if value.len() > MAX_GPU_LEN => {
                return Err(CertificateError::GpuEvidenceTooLarge { len: value.len() });
            }
            oid::QUOTE => extensions.quote = Some(value),
            oid::SNP => extensions.snp = Some(value),
            oid::GPU => extensions.gpus = Some(value),
            oid::CLAIMS => extensions.claims = Some(value),
            oid::BASIC_CONSTRAINTS => extensions.usage.authority = parse_basic_constraints(value)?,
            oid::KEY_USAGE => extensions.usage.digital_signature = parse_key_usage(value)?,
            oid::EXT_KEY_USAGE => parse_extended_key_usage(value, &mut extensions.usage)?,
            // Names and key identifiers decide nothing: a peer is its key.
            oid::SUBJECT_KEY_ID | oid::SUBJECT_ALT_NAME | oid::AUTHORITY_KEY_ID => {}
            _ if critical => {
                return Err(CertificateError::UnknownCriticalExtension { oid: der::dotted(name) });
            }
            _ => {}
        }
    }
    Ok(extensions)
}

/// Whether it says "authority".
fn parse_basic_constraints(value: &[u8]) -> Result<bool, CertificateError> {
    let mut outer = Reader::new(value);
    let mut fields = Reader::new(outer.expect(tag::SEQUENCE, "basic constraints")?.content);
    outer.finish("basic constraints")?;
    let authority = fields.boolean_or_false("basic constraints")?;
    fields.optional(tag::INTEGER, "path length")?;
    fields.finish("basic constraints")?;
    Ok(authority)
}

/// Whether it allows `digitalSignature`.
fn parse_key_usage(value: &[u8]) -> Result<bool, CertificateError> {
    let mut outer = Reader::new(value);
    let bits = der::bit_string(outer.expect(tag::BIT_STRING, "key usage")?, true, "key usage")?;
    outer.finish("key usage")?;
    Ok(bits.first().is_some_and(|first| first & DIGITAL_SIGNATURE != 0))
}

fn parse_extended_key_usage(value: &[u8], usage: &mut Usage) -> Result<(), CertificateError> {
    let mut outer = Reader::new(value);
    let mut purposes = Reader::new(outer.expect(tag::SEQUENCE, "extended key usage")?.content);
    outer.finish("extended key usage")?;
    while !purposes.is_empty() {
        match purposes.expect(tag::OID, "extended key usage")?.content {
            oid::SERVER_AUTH => usage.server_auth = true,
            oid::CLIENT_AUTH => usage.client_auth = true,
            _ => {}
        }
    }
    Ok(())
}
