//! What must be fetched to judge a quote, and how the answers are read.
//!
//! Requests go by the path and query of the Intel PCS API, version 4 ("Intel SGX and Intel TDX Provisioning
//! Certification Service API documentation"), so a fetcher only puts the address of a PCS or PCCS in front.
//! Nothing here is trusted for where it came from.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::x509::RevocationList;
use crate::der::{self, Element, tag};
use crate::{Collateral, CollateralRequest, EvidenceKind, UnixSeconds};

/// Longest answer to one request that is read, bytes. Intel's longest, a revocation list, has 4 KiB.
pub const MAX_ANSWER_LEN: usize = 1024 * 1024;
/// Most certificates in a chain (Intel's have 3).
const MAX_CHAIN: usize = 4;
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
const END: &[u8] = b"-----END CERTIFICATE-----";

/// The revocation list of the root authority: DER, or its hexadecimal text as a PCCS gives it.
#[must_use]
pub fn root_crl() -> CollateralRequest {
    request("sgx/certification/v4/rootcacrl".to_owned())
}

/// The revocation list of the authority that issued the platform's certificate, `platform` or `processor`: DER,
/// or its hexadecimal text.
#[must_use]
pub fn pck_crl(authority: PckAuthority) -> CollateralRequest {
    request(format!("sgx/certification/v4/pckcrl?ca={}&encoding=der", authority.name()))
}

/// What TCB a model of platform should have: a [`signed_answer`].
#[must_use]
pub fn tcb_info(fmspc: [u8; 6]) -> CollateralRequest {
    request(format!("tdx/certification/v4/tcb?fmspc={}", hex::encode_upper(fmspc)))
}

/// What the quoting enclave should be: a [`signed_answer`].
#[must_use]
pub fn qe_identity() -> CollateralRequest {
    request("tdx/certification/v4/qe/identity".to_owned())
}

fn request(name: String) -> CollateralRequest {
    CollateralRequest { kind: EvidenceKind::Tdx, name }
}

/// An answer whose signer comes in a header of the response (`TCB-Info-Issuer-Chain`,
/// `SGX-Enclave-Identity-Issuer-Chain`): that chain in PEM, percent-decoded, and after it the body as it came.
#[must_use]
pub fn signed_answer(issuer_chain: &str, body: &[u8]) -> Bytes {
    [issuer_chain.trim().as_bytes(), b"\n", body].concat().into()
}

/// The response headers that may hold the signer's chain of the answer to this request, percent-encoded; none where
/// the answer carries its own proof. Older PCCSs use the second name.
#[must_use]
pub fn issuer_chain_headers(request: &CollateralRequest) -> &'static [&'static str] {
    if request.name.starts_with("tdx/certification/v4/tcb?") {
        &["TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"]
    } else if *request == qe_identity() {
        &["SGX-Enclave-Identity-Issuer-Chain"]
    } else {
        &[]
    }
}

/// When the answer to a request runs out, by its own word, so that a cache can fetch the next one in time; `None` if
/// it is no such answer. Nothing is verified: this says when to fetch, not what to trust.
#[must_use]
pub fn runs_out(answer: &[u8]) -> Option<UnixSeconds> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Dated {
        next_update: String,
    }
    if answer.len() > MAX_ANSWER_LEN {
        return None;
    }
    if let Ok(list) = RevocationList::parse(&unhexed(answer)) {
        return Some(list.next_update());
    }
    let signed = SignedAnswer::parse(answer).ok()?;
    let dated: Dated = serde_json::from_str(&signed.content).ok()?;
    time(&dated.next_update, "date of the next one").ok()
}

/// The authorities below the root that issue certificates of platforms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PckAuthority {
    /// Of platforms with one or more packages, registered with Intel.
    Platform,
    /// Of single processors.
    Processor,
}

impl PckAuthority {
    /// As requests name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Processor => "processor",
        }
    }

    /// By the common name of its certificate.
    pub(super) fn of_common_name(name: &str) -> Option<Self> {
        match name {
            "Intel SGX PCK Platform CA" => Some(Self::Platform),
            "Intel SGX PCK Processor CA" => Some(Self::Processor),
            _ => None,
        }
    }
}

/// Certificates in PEM at the start of a text, and what follows them.
pub(super) fn read_chain(mut text: &[u8]) -> Result<(Vec<Vec<u8>>, &[u8]), String> {
    let mut chain = Vec::new();
    loop {
        text = text.trim_ascii_start();
        let Some(rest) = text.strip_prefix(BEGIN) else {
            return Ok((chain, text));
        };
        if chain.len() == MAX_CHAIN {
            return Err(format!("the chain has more than {MAX_CHAIN} certificates"));
        }
        let end = rest
            .windows(END.len())
            .position(|window| window == END)
            .ok_or("a certificate in PEM does not end")?;
        let body: Vec<u8> = rest[..end].iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        chain.push(STANDARD.decode(body).map_err(|_| "a certificate in PEM is not base64")?);
        text = &rest[end + END.len()..];
    }
}

/// A certificate in PEM, as the verifying library wants it.
pub(super) fn write_chain(chain: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for der in chain {
        let body = STANDARD.encode(der);
        text.push_str(&format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"));
    }
    text
}

/// A signed answer, read but not verified.
pub(super) struct SignedAnswer {
    /// The signer first.
    pub(super) chain: Vec<Vec<u8>>,
    /// The JSON exactly as it was signed.
    pub(super) content: String,
    /// r and s.
    pub(super) signature: [u8; 64],
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, rename = "tcbInfo", alias = "enclaveIdentity")]
    content: &'a RawValue,
    signature: &'a str,
}

impl SignedAnswer {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (chain, body) = read_chain(bytes)?;
        let answer: Answer<'_> =
            serde_json::from_slice(body).map_err(|error| format!("not the JSON expected: {error}"))?;
        let mut signature = [0; 64];
        hex::decode_to_slice(answer.signature, &mut signature)
            .map_err(|_| "its signature is not 64 bytes in hexadecimal")?;
        Ok(Self { chain, content: answer.content.get().to_owned(), signature })
    }
}

/// Everything fetched for one quote.
pub(super) struct Answers {
    pub(super) root_crl: Vec<u8>,
    pub(super) pck_crl: Vec<u8>,
    pub(super) tcb_info: Bytes,
    pub(super) qe_identity: Bytes,
}

impl Answers {
    /// What must be fetched for a platform of this model and authority.
    pub(super) fn requests(authority: PckAuthority, fmspc: [u8; 6]) -> [CollateralRequest; 4] {
        [root_crl(), pck_crl(authority), tcb_info(fmspc), qe_identity()]
    }

    /// Takes the answers to these requests.
    ///
    /// # Errors
    /// Names every answer that is missing or too long.
    pub(super) fn take(requests: &[CollateralRequest; 4], collateral: &Collateral) -> Result<Self, String> {
        let missing: Vec<String> = requests
            .iter()
            .filter(|request| collateral.get(request).is_none())
            .map(|request| collateral.describe(request))
            .collect();
        if !missing.is_empty() {
            return Err(format!("collateral missing: {}", missing.join(", ")));
        }
        let [root_crl, pck_crl, tcb_info, qe_identity] = requests.each_ref().map(|request| {
            let answer = collateral.get(request).cloned().unwrap_or_default();
            if answer.len() > MAX_ANSWER_LEN {
                return Err(format!("the answer to {} is longer than {MAX_ANSWER_LEN} bytes", request.name));
            }
            Ok(answer)
        });
        Ok(Self {
            root_crl: unhexed(&root_crl?),
            pck_crl: unhexed(&pck_crl?),
            tcb_info: tcb_info?,
            qe_identity: qe_identity?,
        })
    }
}

/// DER as it is, or from its hexadecimal text. A list in DER starts with 0x30, "0" as text, but is never all text.
fn unhexed(answer: &[u8]) -> Vec<u8> {
    hex::decode(answer.trim_ascii()).unwrap_or_else(|_| answer.to_vec())
}

/// A time in JSON: `2026-11-21T07:38:48Z` and no other form.
pub(super) fn time(text: &str, what: &'static str) -> Result<UnixSeconds, String> {
    let bytes = text.as_bytes();
    let at = |index: usize, expected: u8| bytes.get(index) == Some(&expected);
    let shaped =
        bytes.len() == 20 && at(4, b'-') && at(7, b'-') && at(10, b'T') && at(13, b':') && at(16, b':');
    let compact: Vec<u8> = bytes.iter().copied().filter(|byte| !b"-T:".contains(byte)).collect();
    let element = Element { tag: tag::GENERALIZED_TIME, content: &compact, whole: &compact };
    match der::time(element, what) {
        Ok(seconds) if shaped => Ok(UnixSeconds(seconds)),
        _ => Err(format!("its {what} is not a time in UTC")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_one_form_only() {
        assert_eq!(time("2026-11-21T02:41:27Z", "date"), Ok(UnixSeconds(1_795_228_887)));
        for text in
            ["2026-11-21T02:41:27", "2026-11-21 02:41:27Z", "20261121024127Z", "2026-13-21T02:41:27Z", ""]
        {
            assert!(time(text, "date").is_err(), "{text}");
        }
    }

    #[test]
    fn chains_survive_writing_and_reading_and_leave_what_follows() {
        let chain = vec![vec![1, 2, 3], vec![0; 200]];
        let text = format!("{}{{}}", write_chain(&chain));
        assert_eq!(read_chain(text.as_bytes()), Ok((chain, b"{}".as_slice())));
        assert_eq!(read_chain(b"{}"), Ok((Vec::new(), b"{}".as_slice())));
        assert!(read_chain(b"-----BEGIN CERTIFICATE-----\nAAAA").is_err());
        assert!(read_chain(write_chain(&vec![vec![1]; MAX_CHAIN + 1]).as_bytes()).is_err());
    }
}
