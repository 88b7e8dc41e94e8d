//! The single checks of a quote and its collateral: what holds, or why not, in words.

use dcap_qvl::intel::PckExtension;
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{QeIdentity, QuoteCollateralV3, QuotePolicy, TcbInfo};
use sha2::{Digest as _, Sha256};

use super::collateral::{Answers, PckAuthority, SignedAnswer, read_chain, time, write_chain};
use super::policy::TdxPolicy;
use super::quote::{PCK_CHAIN, QeReport, SignedQuote, Td15Measurements};
use super::x509::{Certificate, RevocationList, verifies};
use crate::der::Malformed;
use crate::{ReportData, UnixSeconds};

/// The name of the certificate that signs TCB information and identities (Intel's certificate profile, section 4).
const TCB_SIGNER: &str = "Intel SGX TCB Signing";
/// DEBUG in an enclave's attributes (Intel SDM volume 3D, "ATTRIBUTES").
const ENCLAVE_DEBUG: u128 = 2;

/// What a check yields and what it found in words, or why it failed.
pub(super) type Found<T> = Result<(T, String), String>;

/// The certificates about a platform, read but not verified.
pub(super) struct Platform<'a> {
    pub(super) leaf: Certificate<'a>,
    pub(super) authority: Certificate<'a>,
    pub(super) by: PckAuthority,
    pub(super) pck: PckExtension,
}

impl<'a> Platform<'a> {
    /// The root may come along in a chain, but counts for nothing: the trusted one is used.
    pub(super) fn read(chain: &'a [Vec<u8>]) -> Result<Self, String> {
        let [leaf, authority] = chain.get(..2).unwrap_or_default() else {
            return Err("the chain lacks the platform's certificate or its issuer's".to_owned());
        };
        let (leaf, authority) =
            (Certificate::parse(leaf).map_err(said)?, Certificate::parse(authority).map_err(said)?);
        let by = PckAuthority::of_common_name(leaf.issuer_name())
            .ok_or("the platform's certificate is by no authority for platforms")?;
        let pck = dcap_qvl::intel::parse_pck_extension(leaf.der)
            .map_err(|error| format!("the platform's certificate does not describe it: {error}"))?;
        Ok(Self { leaf, authority, by, pck })
    }
}

/// A platform that a root vouches for.
pub(super) struct Trusted<'a> {
    pub(super) root: Certificate<'a>,
    pub(super) platform: Platform<'a>,
    /// Whether the root is a test root.
    pub(super) simulated: bool,
}

impl Trusted<'_> {
    pub(super) fn expires(&self) -> UnixSeconds {
        let below = self.platform.leaf.not_after().min(self.platform.authority.not_after());
        below.min(self.root.not_after())
    }
}

/// The chain of certificates in a quote.
pub(super) fn platform_chain(quote: &SignedQuote<'_>) -> Result<Vec<Vec<u8>>, String> {
    if quote.certification_kind != PCK_CHAIN {
        return Err(format!(
            "the quote carries certification data of kind {}, not the platform's certificates ({PCK_CHAIN}); \
             register the machine with a PCCS so that its quoting service puts them in",
            quote.certification_kind
        ));
    }
    let (chain, rest) = read_chain(quote.certification_data)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err("bytes follow the certificates".to_owned());
    }
    Ok(chain)
}

/// From the platform's key to the quote: it signed the quoting enclave's report, which names the attestation key,
/// which signed the quote.
pub(super) fn check_signatures(quote: &SignedQuote<'_>, leaf: &Certificate<'_>) -> Found<()> {
    if !verifies(&leaf.key, quote.qe_report, quote.qe_report_signature) {
        return Err("the quoting enclave's report is not signed by the platform's key".to_owned());
    }
    let hash = Sha256::new().chain_update(quote.attestation_key).chain_update(quote.qe_auth_data).finalize();
    let named = QeReport::read(quote.qe_report).map(|report| report.report_data);
    if named.is_none_or(|named| named[..32] != hash[..] || named[32..] != [0; 32]) {
        return Err("the quoting enclave's report is about another attestation key".to_owned());
    }
    if !verifies(quote.attestation_key, quote.signed, quote.signature) {
        return Err("the quote is not signed by its attestation key".to_owned());
    }
    Ok(((), "platform key, quoting enclave and attestation key, up to the quote".to_owned()))
}

pub(super) fn check_binding(found: &ReportData, binding: &ReportData) -> Found<()> {
    if found != binding {
        return Err("the report data is not SHA-512 of the certificate's key".to_owned());
    }
    Ok(((), "the report data is SHA-512 of the certificate's key".to_owned()))
}

/// A service trust domain could move this one to another machine; nothing here judges those.
pub(super) fn check_service_td(quote: &SignedQuote<'_>) -> Found<()> {
    let bound = |td: Td15Measurements| td.mr_service_td != [0; 48] || td.current_service_td != [0; 48];
    if quote.quote.measurements.td15.is_some_and(bound) {
        return Err("another trust domain is bound to this one and may move it".to_owned());
    }
    Ok(((), "no other trust domain is bound to this one".to_owned()))
}

pub(super) fn check_list<'a>(
    der: &'a [u8],
    issuer: &Certificate<'_>,
    certificates: &[&Certificate<'_>],
    now: UnixSeconds,
) -> Found<RevocationList<'a>> {
    let list = RevocationList::parse(der).map_err(|malformed| format!("the list: {}", said(malformed)))?;
    list.current(issuer, now)?;
    for certificate in certificates {
        list.spares(certificate)?;
    }
    Ok((list, format!("by {:?}, revokes nothing used here", issuer.common_name())))
}

/// An answer that Intel signed: its content, and when its signer's certificate expires.
pub(super) struct SignedContent {
    pub(super) answer: SignedAnswer,
    pub(super) expires: UnixSeconds,
}

pub(super) fn check_signed(
    answer: &[u8],
    root: &Certificate<'_>,
    root_list: &RevocationList<'_>,
    now: UnixSeconds,
) -> Result<SignedContent, String> {
    let answer = SignedAnswer::parse(answer)?;
    let signer = answer.chain.first().ok_or("the certificate of its signer is missing")?;
    let signer = Certificate::parse(signer).map_err(said)?;
    if signer.common_name() != TCB_SIGNER {
        return Err(format!("its signer is {:?}, not {TCB_SIGNER:?}", signer.common_name()));
    }
    signer.issued_by(root, 0)?;
    signer.signs_data()?;
    signer.valid_at(now)?;
    root_list.spares(&signer)?;
    if !verifies(&signer.key, answer.content.as_bytes(), &answer.signature) {
        return Err("its signature is wrong".to_owned());
    }
    let expires = signer.not_after();
    Ok(SignedContent { answer, expires })
}

/// Signed content as read, with what the second reading needs.
pub(super) struct Held<T> {
    pub(super) content: T,
    pub(super) answer: SignedAnswer,
    pub(super) expires: UnixSeconds,
}

pub(super) fn check_dates(issued: &str, next: &str, now: UnixSeconds) -> Result<UnixSeconds, String> {
    let (issued, next) = (time(issued, "date of issue")?, time(next, "date of the next one")?);
    if now < issued {
        return Err(format!("it is of the future: {issued}"));
    }
    if next < now {
        return Err(format!("it expired {next}"));
    }
    Ok(next)
}

pub(super) fn check_evaluation(number: u32, policy: &TdxPolicy) -> Result<(), String> {
    if number < policy.min_tcb_evaluation {
        return Err(format!("it is of data set {number}; the policy demands {}", policy.min_tcb_evaluation));
    }
    Ok(())
}

pub(super) fn check_tcb_info(
    signed: SignedContent,
    pck: &PckExtension,
    policy: &TdxPolicy,
    now: UnixSeconds,
) -> Found<Held<TcbInfo>> {
    let info: TcbInfo = serde_json::from_str(&signed.answer.content)
        .map_err(|error| format!("its content is not understood: {error}"))?;
    if info.id != "TDX" || info.version != 3 || info.tcb_type != 0 {
        return Err(format!("it is {:?} version {} type {}", info.id, info.version, info.tcb_type));
    }
    let about = |text: &str, own: &[u8]| hex::decode(text).is_ok_and(|bytes| bytes == own);
    if !about(&info.fmspc, &pck.fmspc) || !about(&info.pce_id, &pck.pce_id) {
        return Err(format!("it is about platform model {:?}, not this one", info.fmspc));
    }
    let next = check_dates(&info.issue_date, &info.next_update, now)?;
    check_evaluation(info.tcb_evaluation_data_number, policy)?;
    let found = format!("signed, issued {}, next {}", info.issue_date, info.next_update);
    Ok((Held { content: info, answer: signed.answer, expires: signed.expires.min(next) }, found))
}

pub(super) fn check_qe_identity(
    signed: SignedContent,
    enclave: &QeReport,
    policy: &TdxPolicy,
    now: UnixSeconds,
) -> Found<Held<QeIdentity>> {
    let identity: QeIdentity = serde_json::from_str(&signed.answer.content)
        .map_err(|error| format!("its content is not understood: {error}"))?;
    if identity.id != "TD_QE" || !matches!(identity.version, 2 | 3) {
        return Err(format!("it is {:?} version {}", identity.id, identity.version));
    }
    let next = check_dates(&identity.issue_date, &identity.next_update, now)?;
    check_evaluation(identity.tcb_evaluation_data_number, policy)?;
    if enclave.mr_signer != identity.mrsigner || enclave.product != identity.isvprodid {
        return Err("the quoting enclave is not Intel's".to_owned());
    }
    let misc_mask = u32::from_le_bytes(identity.miscselect_mask);
    let misc = u32::from_le_bytes(identity.miscselect);
    let mask = u128::from_le_bytes(identity.attributes_mask);
    let attributes = u128::from_le_bytes(identity.attributes);
    let own = u128::from_le_bytes(enclave.attributes);
    if enclave.misc_select & misc_mask != misc & misc_mask
        || own & mask != attributes & mask
        || own & ENCLAVE_DEBUG != 0
    {
        return Err("the quoting enclave runs with other attributes than Intel says".to_owned());
    }
    let found = format!("signed, issued {}, the quoting enclave fits it", identity.issue_date);
    Ok((Held { content: identity, answer: signed.answer, expires: signed.expires.min(next) }, found))
}

/// What the library `dcap-qvl` makes of it all: status and earliest expiry.
pub(super) fn second_reading(
    quote: &[u8],
    root: &[u8],
    answers: &Answers,
    info: &Held<TcbInfo>,
    identity: &Held<QeIdentity>,
    now: UnixSeconds,
) -> Result<(dcap_qvl::TcbStatus, u64), String> {
    let collateral = QuoteCollateralV3 {
        pck_crl_issuer_chain: String::new(),
        root_ca_crl: answers.root_crl.clone(),
        pck_crl: answers.pck_crl.clone(),
        tcb_info_issuer_chain: write_chain(&info.answer.chain),
        tcb_info: info.answer.content.clone(),
        tcb_info_signature: info.answer.signature.to_vec(),
        qe_identity_issuer_chain: write_chain(&identity.answer.chain),
        qe_identity: identity.answer.content.clone(),
        qe_identity_signature: identity.answer.signature.to_vec(),
        pck_certificate_chain: None,
    };
    // The library's own policy is left out: what it claims is judged here.
    let claims = QuoteVerifier::new(root.to_vec())
        .verify_with_policy(quote, collateral, now.0, &QuotePolicy::claims_only(now.0))
        .map_err(|error| format!("the library dcap-qvl refuses: {error:#}"))?;
    Ok((claims.tcb.status, claims.earliest_expiration_date))
}

pub(super) fn said(malformed: Malformed) -> String {
    format!("a certificate or list is malformed at its {}", malformed.0)
}
