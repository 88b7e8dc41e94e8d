//! Simulated answers about revocation (RFC 6960).

use cocoon_attest::UnixSeconds;
use sha2::{Digest as _, Sha256};

use super::super::der::{CONTEXT_0, ENUMERATED, INTEGER, OCTET_STRING, OID, SEQUENCE, sequence, tlv};
use super::pki::{ECDSA_SHA384, time};
use super::{Identity, Profile, TestKey};

/// `id-pkix-ocsp-basic`.
const BASIC: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
/// `id-kp-OCSPSigning`.
const OCSP_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x09];
/// The responder's name in an answer.
const BY_NAME: u8 = 0xa1;

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Responder {
    /// A key that the certificate's issuer has certified for just that.
    Delegate,
    /// The issuer itself.
    Issuer,
    /// A key that the issuer has certified, but for something else.
    Misused,
    /// A key that names the issuer as its own and is not certified by it.
    Stranger,
}

/// What is said of the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Not revoked.
    Good,
    /// Revoked.
    Revoked,
    /// Not known.
    Unknown,
}

/// What an answer is to be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusForm {
    /// Who answers.
    pub by: Responder,
    /// What it says.
    pub word: Word,
    /// From when it counts.
    pub from: UnixSeconds,
    /// Until when, where it says so.
    pub to: Option<UnixSeconds>,
}

impl StatusForm {
    /// A usual answer that counts for so many seconds.
    #[must_use]
    pub fn lasting(from: UnixSeconds, seconds: u64) -> Self {
        Self { by: Responder::Delegate, word: Word::Good, from, to: Some(from.plus(seconds)) }
    }
}

/// The serial number that a question is about, and the name (`CertID`, DER) that it has there.
pub(super) fn asked(question: &[u8]) -> Option<(&[u8], &[u8])> {
    // OCSPRequest, TBSRequest, requestList, Request: one in the other, without anything else.
    let id = (0..4).try_fold(question, |inside, _| element(inside).map(|(_, content, _)| content))?;
    let (_, fields, _) = element(id)?;
    // Past the algorithm and the issuer's hashes.
    let serial = (0..3).try_fold(fields, |fields, _| element(fields).map(|(_, _, after)| after))?;
    let (tag, digits, _) = element(serial)?;
    let start = digits.iter().take_while(|byte| **byte == 0).count();
    (tag == INTEGER).then_some((&digits[start..], id))
}

/// The answer about the certificate of this name.
pub(super) fn write(id: &[u8], issuer: &Identity, form: &StatusForm) -> Vec<u8> {
    let responder = responder(issuer, form.by);
    let word = match form.word {
        Word::Good => tlv(0x80, &[]),
        Word::Revoked => tlv(0xa1, &time(form.from)),
        Word::Unknown => tlv(0x82, &[]),
    };
    let until = form.to.map(|to| tlv(CONTEXT_0, &time(to))).unwrap_or_default();
    let status = sequence(&[id, &word, &time(form.from), &until]);
    let data = sequence(&[&tlv(BY_NAME, &responder.subject()), &time(form.from), &tlv(SEQUENCE, &status)]);
    let certificates = tlv(CONTEXT_0, &tlv(SEQUENCE, responder.certificate()));
    let basic = sequence(&[&data, ECDSA_SHA384, &responder.key().signature(&data), &certificates]);
    let typed = sequence(&[&tlv(OID, BASIC), &tlv(OCTET_STRING, &basic)]);
    sequence(&[&[ENUMERATED, 1, 0], &tlv(CONTEXT_0, &typed)])
}

fn responder(issuer: &Identity, by: Responder) -> Identity {
    // Any key will do that is the same every time.
    let seed: [u8; 32] = Sha256::digest(issuer.key().point()).into();
    let key = TestKey::derive(&seed, "simulated OCSP responder");
    let mut profile = Profile::signer("NVIDIA OCSP Responder", &[9]);
    let purpose = (EXTENDED_KEY_USAGE.to_vec(), sequence(&[&tlv(OID, OCSP_SIGNING)]));
    match by {
        Responder::Issuer => issuer.clone(),
        Responder::Misused => issuer.issue(key, profile),
        Responder::Delegate => {
            profile.extensions.push(purpose);
            issuer.issue(key, profile)
        }
        Responder::Stranger => {
            profile.extensions.push(purpose);
            let other = Identity::root(TestKey::derive(&seed, "stranger"), issuer.profile().clone());
            other.issue(key, profile)
        }
    }
}

/// Tag, value, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => rest.split_first().map(|(len, rest)| (usize::from(*len), rest))?,
        0x82 => rest.split_first_chunk().map(|(len, rest)| (usize::from(u16::from_be_bytes(*len)), rest))?,
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(len)?;
    Some((tag, content, after))
}
