//! Whether certificates have been revoked: questions to NVIDIA's OCSP service, and its answers (RFC 6960).
//!
//! Questions carry no nonce: this crate draws no random numbers, and the service's answers may then be shared by all
//! who ask. An answer is as fresh as it says itself.

use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384};

use super::x509::{self, Certificate, Signed};
use crate::UnixSeconds;
use crate::der::{self, Element, Malformed, Reader, tag};

/// Longest answer, bytes. NVIDIA's come with one certificate and take about 2 KiB.
pub(super) const MAX_LEN: usize = 16 * 1024;
/// How long an answer without end counts, seconds (`DEFAULT_NEXT_UPDATE_TTL_SECONDS` in `attestation-sdk`).
const DEFAULT_LIFETIME: u64 = 3600;
/// How much the service's clock may be ahead of ours, seconds.
const CLOCK_SKEW: u64 = 300;

/// SHA-1 as an object identifier. Here and wherever it occurs in this protocol it is part of a name: of which
/// certificate is meant. What the answer is worth is decided by signatures.
const SHA1_NAME: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];
/// SHA-256 and SHA-384, which the service may use instead.
const SHA256_NAME: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
const SHA384_NAME: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02];
const NULL: &[u8] = &[0x05, 0x00];
/// `id-pkix-ocsp-basic`.
const BASIC: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
const ENUMERATED: u8 = 0x0a;
const CONTEXT_1: u8 = 0xa1;
/// Statuses of a certificate: implicit tags 0, 1 and 2.
const GOOD: u8 = 0x80;
const REVOKED: u8 = 0xa1;
/// Who answers: by its name, or by its key.
const BY_NAME: u8 = 0xa1;
const BY_KEY: u8 = 0xa2;
/// Most certificates' statuses in an answer; ours ask for one.
const MAX_STATUSES: usize = 16;

/// Tag, length and value. Serial numbers come out of certificates, so nothing here reaches 64 KiB.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len()).unwrap_or(u16::MAX);
    let [high, low] = len.to_be_bytes();
    let header = match len {
        0..=0x7f => vec![tag, low],
        0x80..=0xff => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [&header, content].concat()
}

/// The name of a certificate towards the service (`CertID`), DER, as OpenSSL writes it and so NVIDIA's verifier asks.
fn certificate_id(subject: &Certificate<'_>, issuer: &Certificate<'_>) -> Vec<u8> {
    let hashed =
        |bytes| element(tag::OCTET_STRING, digest::digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref());
    let parts = [
        element(tag::SEQUENCE, &[&element(tag::OID, SHA1_NAME), NULL].concat()),
        hashed(issuer.subject),
        hashed(issuer.point),
        element(tag::INTEGER, subject.serial),
    ];
    element(tag::SEQUENCE, &parts.concat())
}

/// Whether a `CertID` is this certificate's, whatever it is hashed with.
fn names(id: &[u8], subject: &Certificate<'_>, issuer: &Certificate<'_>) -> Result<bool, Malformed> {
    let what = "certificate";
    let mut fields = Reader::new(id);
    let algorithm = fields.expect(tag::SEQUENCE, what)?.content;
    let name = fields.expect(tag::OCTET_STRING, what)?.content;
    let key = fields.expect(tag::OCTET_STRING, what)?.content;
    let serial = fields.expect(tag::INTEGER, what)?.content;
    fields.finish(what)?;
    // Parameters are left out, or NULL.
    let oid = Reader::new(algorithm.strip_suffix(NULL).unwrap_or(algorithm)).expect(tag::OID, what)?.content;
    let algorithm = match oid {
        SHA1_NAME => &SHA1_FOR_LEGACY_USE_ONLY,
        SHA256_NAME => &SHA256,
        SHA384_NAME => &SHA384,
        _ => return Ok(false),
    };
    let is = |hash: &[u8], bytes| hash == digest::digest(algorithm, bytes).as_ref();
    Ok(serial == subject.serial && is(name, issuer.subject) && is(key, issuer.point))
}

/// The question (`OCSPRequest`), DER.
pub(super) fn request(subject: &Certificate<'_>, issuer: &Certificate<'_>) -> Vec<u8> {
    let request = element(tag::SEQUENCE, &certificate_id(subject, issuer));
    let list = element(tag::SEQUENCE, &request);
    element(tag::SEQUENCE, &element(tag::SEQUENCE, &list))
}

/// An answer, read but not verified.
struct Answer<'a> {
    signed: Signed<'a>,
    responder: Element<'a>,
    statuses: Vec<Status<'a>>,
    certificates: Vec<Certificate<'a>>,
}

struct Status<'a> {
    /// What is in the `CertID`.
    id: &'a [u8],
    status: u8,
    from: UnixSeconds,
    to: UnixSeconds,
}

/// Judges the answer about one certificate.
///
/// # Errors
/// Says why it does not hold, or that the certificate is revoked. Otherwise gives the last second of the answer.
pub(super) fn judge(
    answer: &[u8],
    subject: &Certificate<'_>,
    issuer: &Certificate<'_>,
    now: UnixSeconds,
) -> Result<UnixSeconds, String> {
    let name = subject.common_name();
    let answer =
        Answer::parse(answer).map_err(|fault| format!("the answer is malformed at its {}", fault.0))?;
    let ends = answer.judge_responder(issuer, now)?;
    let status = answer.statuses.iter().find(|status| names(status.id, subject, issuer) == Ok(true));
    let status = status.ok_or_else(|| format!("the answer is not about {name:?}"))?;
    if now.plus(CLOCK_SKEW) < status.from || status.to < now {
        let (from, to) = (status.from, status.to);
        return Err(format!("the answer about {name:?} is for the time from {from} to {to}; it is {now}"));
    }
    match status.status {
        GOOD => Ok(status.to.min(ends)),
        REVOKED => Err(format!("{name:?} is revoked")),
        _ => Err(format!("the service does not know {name:?}")),
    }
}

impl<'a> Answer<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_LEN {
            return Err(Malformed("length"));
        }
        let mut outer = Reader::new(bytes);
        let mut parts = Reader::new(outer.expect(tag::SEQUENCE, "outer sequence")?.content);
        outer.finish("outer sequence")?;
        // 0 is `successful`; all others come without an answer.
        if parts.expect(ENUMERATED, "status")?.content != [0] {
            return Err(Malformed("status: the service refuses to answer"));
        }
        let mut wrapped = Reader::new(parts.expect(tag::CONTEXT_0, "body")?.content);
        parts.finish("body")?;
        let mut typed = Reader::new(wrapped.expect(tag::SEQUENCE, "body")?.content);
        wrapped.finish("body")?;
        if typed.expect(tag::OID, "type")?.content != BASIC {
            return Err(Malformed("type"));
        }
        let basic = typed.expect(tag::OCTET_STRING, "body")?.content;
        typed.finish("body")?;
        Self::parse_basic(basic)
    }

    fn parse_basic(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut outer = Reader::new(bytes);
        let mut parts = Reader::new(outer.expect(tag::SEQUENCE, "body")?.content);
        outer.finish("body")?;
        let data = parts.expect(tag::SEQUENCE, "data")?;
        let signed = x509::signed_as(data.whole, &mut parts)?;
        let mut certificates = Vec::new();
        if let Some(wrapped) = parts.optional(tag::CONTEXT_0, "certificates")? {
            let mut wrapped = Reader::new(wrapped.content);
            let mut list = Reader::new(wrapped.expect(tag::SEQUENCE, "certificates")?.content);
            wrapped.finish("certificates")?;
            while !list.is_empty() {
                certificates.push(Certificate::parse(list.expect(tag::SEQUENCE, "certificates")?.whole)?);
            }
        }
        parts.finish("body")?;
        let mut fields = Reader::new(data.content);
        let version = fields.optional(tag::CONTEXT_0, "version")?;
        if version.is_some_and(|version| version.content != [tag::INTEGER, 1, 0]) {
            return Err(Malformed("version"));
        }
        let responder = fields.any("responder")?;
        let produced = fields.any("time")?;
        der::time(produced, "time")?;
        let mut list = Reader::new(fields.expect(tag::SEQUENCE, "statuses")?.content);
        let mut statuses = Vec::new();
        while !list.is_empty() {
            if statuses.len() == MAX_STATUSES {
                return Err(Malformed("statuses"));
            }
            statuses.push(Status::parse(list.expect(tag::SEQUENCE, "status")?.content)?);
        }
        if let Some(extensions) = fields.optional(CONTEXT_1, "extensions")? {
            no_critical(extensions.content)?;
        }
        fields.finish("data")?;
        Ok(Self { signed, responder, statuses, certificates })
    }

    /// Whether the issuer itself answers, or one whom it has certified for just that (RFC 6960 §4.2.2.2). Gives the
    /// last second of that certificate.
    fn judge_responder(&self, issuer: &Certificate<'_>, now: UnixSeconds) -> Result<UnixSeconds, String> {
        if self.responder_is(issuer) && self.signed.is_by(issuer) {
            return Ok(issuer.not_after);
        }
        let delegate = self.certificates.iter().find(|certificate| self.responder_is(certificate));
        let delegate = delegate.ok_or("the answer does not come with the certificate of who gives it")?;
        delegate.issued_by(issuer, 0).map_err(|fault| format!("who answers: {fault}"))?;
        delegate.valid_at(now).map_err(|fault| format!("who answers: {fault}"))?;
        if !delegate.signs_status || delegate.is_authority() {
            return Err("who answers is not certified to answer about revocation".to_owned());
        }
        if !self.signed.is_by(delegate) {
            return Err("the answer is not signed by who is said to give it".to_owned());
        }
        Ok(delegate.not_after)
    }

    fn responder_is(&self, certificate: &Certificate<'_>) -> bool {
        match self.responder.tag {
            BY_NAME => self.responder.content == certificate.subject,
            BY_KEY => {
                let mut key = Reader::new(self.responder.content);
                let named = key.expect(tag::OCTET_STRING, "responder").map(|hash| hash.content);
                let own = digest::digest(&SHA1_FOR_LEGACY_USE_ONLY, certificate.point);
                key.is_empty() && named == Ok(own.as_ref())
            }
            _ => false,
        }
    }
}

impl<'a> Status<'a> {
    fn parse(content: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Reader::new(content);
        let id = fields.expect(tag::SEQUENCE, "certificate")?.content;
        let status = fields.any("status")?;
        let from = UnixSeconds(der::time(fields.any("thisUpdate")?, "thisUpdate")?);
        let mut to = from.plus(DEFAULT_LIFETIME);
        if let Some(wrapped) = fields.optional(tag::CONTEXT_0, "nextUpdate")? {
            let mut wrapped = Reader::new(wrapped.content);
            to = UnixSeconds(der::time(wrapped.any("nextUpdate")?, "nextUpdate")?);
            wrapped.finish("nextUpdate")?;
        }
        if let Some(extensions) = fields.optional(CONTEXT_1, "status extensions")? {
            no_critical(extensions.content)?;
        }
        fields.finish("status")?;
        if status.tag == GOOD && !status.content.is_empty() {
            return Err(Malformed("status"));
        }
        Ok(Self { id, status: status.tag, from, to })
    }
}

/// A critical extension would change what the answer means.
fn no_critical(content: &[u8]) -> Result<(), Malformed> {
    let mut outer = Reader::new(content);
    let mut list = Reader::new(outer.expect(tag::SEQUENCE, "extensions")?.content);
    outer.finish("extensions")?;
    while !list.is_empty() {
        let mut extension = Reader::new(list.expect(tag::SEQUENCE, "extension")?.content);
        extension.expect(tag::OID, "extension")?;
        if extension.boolean_or_false("extension")? {
            return Err(Malformed("unknown critical extension"));
        }
        extension.expect(tag::OCTET_STRING, "extension")?;
        extension.finish("extension")?;
    }
    Ok(())
}

/// When the first of an answer's statuses runs out; `None` for what is no answer.
pub(super) fn runs_out(bytes: &[u8]) -> Option<UnixSeconds> {
    Answer::parse(bytes).ok()?.statuses.iter().map(|status| status.to).min()
}

/// Reads bytes as an answer; for fuzzing.
pub(super) fn read(bytes: &[u8]) {
    if let Ok(answer) = Answer::parse(bytes) {
        assert!(answer.statuses.len() <= MAX_STATUSES, "more statuses than allowed");
    }
}
