//! The judgement of a quote, check by check.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::check;
use super::checks::{
    Found, Platform, Trusted, check_binding, check_list, check_qe_identity, check_service_td,
    check_signatures, check_signed, check_tcb_info, platform_chain, said, second_reading,
};
use super::collateral::Answers;
use super::policy::{TcbStatus, TdxPolicy};
use super::quote::{QeReport, SignedQuote};
use super::tcb;
use super::x509::Certificate;
use crate::{
    Collateral, CollateralRequest, Evidence, EvidenceKind, Measurements, Outcome, ReportData, UnixSeconds,
    Verdict, Verifier,
};

/// Intel's root certificate ("Intel SGX Root CA", valid to the end of 2049, SHA-256
/// 44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3), as published at
/// <https://certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.cer>.
const INTEL_ROOT: &[u8] = include_bytes!("intel-sgx-root-ca.der");

/// A certificate that cannot be a root of trust.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this certificate cannot be a test root: {reason}; give the simulated platform's root in DER")]
pub struct RootError {
    reason: String,
}

#[derive(Debug, Clone)]
struct Root {
    der: Bytes,
    test: bool,
}

/// Judges TDX quotes, by Intel's root and, on test networks, by further ones.
#[derive(Debug, Clone)]
pub struct TdxVerifier {
    roots: Vec<Root>,
    policy: TdxPolicy,
}

impl TdxVerifier {
    /// Trusts Intel's root and no other.
    #[must_use]
    pub fn new(policy: TdxPolicy) -> Self {
        Self { roots: vec![Root { der: Bytes::from_static(INTEL_ROOT), test: false }], policy }
    }

    /// Trusts a further root: that of a simulated platform. **For test networks only**: whoever holds its key can
    /// make any evidence. A verdict that rests on it says so.
    ///
    /// # Errors
    /// The certificate, in DER, is not a self-signed authority of the form that Intel's is.
    pub fn with_test_root(mut self, root: &[u8]) -> Result<Self, RootError> {
        let certificate =
            Certificate::parse(root).map_err(|malformed| RootError { reason: said(malformed) })?;
        certificate.issued_by(&certificate, 1).map_err(|reason| RootError { reason })?;
        self.roots.push(Root { der: Bytes::copy_from_slice(root), test: true });
        Ok(self)
    }

    /// What is demanded beyond a sound proof.
    #[must_use]
    pub fn policy(&self) -> &TdxPolicy {
        &self.policy
    }
}

impl Verifier for TdxVerifier {
    fn collateral_needed(&self, evidence: &Evidence) -> Vec<CollateralRequest> {
        let read = || {
            let quote = SignedQuote::parse(evidence.bytes()).ok()?;
            let chain = platform_chain(&quote).ok()?;
            let platform = Platform::read(&chain).ok()?;
            Some(Answers::requests(platform.by, platform.pck.fmspc).to_vec())
        };
        read().unwrap_or_default()
    }

    fn verify(
        &self,
        evidence: &Evidence,
        collateral: &Collateral,
        binding: &ReportData,
        now: UnixSeconds,
    ) -> Verdict {
        let mut report = Report { verdict: Verdict::new(evidence.kind()), expires: UnixSeconds(u64::MAX) };
        if evidence.kind() != EvidenceKind::Tdx {
            let detail = format!("this is {} evidence, not tdx", evidence.kind());
            report.verdict.record(check::QUOTE_FORMAT, Outcome::Failed, detail);
            return report.verdict;
        }
        match SignedQuote::parse(evidence.bytes()) {
            Ok(quote) => self.judge(&mut report, evidence.bytes(), &quote, collateral, binding, now),
            Err(error) => report.verdict.record(check::QUOTE_FORMAT, Outcome::Failed, error.to_string()),
        }
        if report.verdict.accepted() {
            report.verdict.expires_at = Some(report.expires);
        }
        report.verdict
    }
}

impl TdxVerifier {
    fn judge(
        &self,
        report: &mut Report,
        bytes: &[u8],
        quote: &SignedQuote<'_>,
        collateral: &Collateral,
        binding: &ReportData,
        now: UnixSeconds,
    ) {
        let measurements = &quote.quote.measurements;
        report.verdict.measurements = Some(Measurements::Tdx(*measurements));
        report.verdict.image_hash = Some(measurements.image_hash());
        let form = format!("version {}, {:?} body", quote.quote.version, quote.quote.body);
        report.verdict.record(check::QUOTE_FORMAT, Outcome::Passed, form);

        let chain = platform_chain(quote).unwrap_or_default();
        let trusted = report.check(check::CERTIFICATE_CHAIN, self.trusted_platform(quote, &chain, now));
        match &trusted {
            Some(trusted) => {
                report.verdict.simulated = trusted.simulated;
                report.expires(trusted.expires());
                report.check(check::QUOTE_SIGNATURE, check_signatures(quote, &trusted.platform.leaf));
            }
            None => report.skip(check::QUOTE_SIGNATURE, "nobody trusted vouches for the platform's key"),
        }
        report.check(check::BINDING, check_binding(&quote.quote.report_data, binding));
        let attributes = self.policy.judge_td_attributes(measurements);
        report.check(check::TD_ATTRIBUTES, attributes.map(|found| ((), found)));
        report.check(check::XFAM, self.policy.judge_xfam(measurements).map(|found| ((), found)));
        report.check(check::SERVICE_TD, check_service_td(quote));

        let Some(trusted) = trusted else {
            for name in check::NEED_COLLATERAL {
                report.skip(name, "nobody trusted vouches for the platform");
            }
            return;
        };
        let requests = Answers::requests(trusted.platform.by, trusted.platform.pck.fmspc);
        let answers = Answers::take(&requests, collateral)
            .map(|answers| (answers, "all there: revocation lists, TCB information, QE identity".to_owned()));
        let Some(answers) = report.check(check::COLLATERAL, answers) else {
            for name in check::NEED_COLLATERAL.iter().skip(1) {
                report.skip(name, "collateral is missing");
            }
            return;
        };
        self.judge_collateral(report, bytes, quote, &trusted, &answers, now);
    }

    /// Everything that rests on collateral.
    fn judge_collateral(
        &self,
        report: &mut Report,
        bytes: &[u8],
        quote: &SignedQuote<'_>,
        trusted: &Trusted<'_>,
        answers: &Answers,
        now: UnixSeconds,
    ) {
        let measurements = &quote.quote.measurements;
        let (root, platform) = (&trusted.root, &trusted.platform);
        let root_list = check_list(&answers.root_crl, root, &[root, &platform.authority], now);
        let root_list = report.check(check::ROOT_CRL, root_list);
        let pck_list = check_list(&answers.pck_crl, &platform.authority, &[&platform.leaf], now);
        let pck_list = report.check(check::PCK_CRL, pck_list);
        for list in [&root_list, &pck_list].into_iter().flatten() {
            report.expires(list.next_update());
        }

        let signed_by_intel = |answer: &[u8]| match &root_list {
            Some(list) => check_signed(answer, root, list, now),
            None => Err("the root's revocation list, which must spare its signer, does not hold".to_owned()),
        };
        let info = signed_by_intel(&answers.tcb_info)
            .and_then(|signed| check_tcb_info(signed, &platform.pck, &self.policy, now));
        let info = report.check(check::TCB_INFO, info);
        let enclave = QeReport::read(quote.qe_report).ok_or_else(|| "the QE report is cut".to_owned());
        let identity = signed_by_intel(&answers.qe_identity).and_then(|signed| {
            check_qe_identity(signed, enclave.as_ref().map_err(Clone::clone)?, &self.policy, now)
        });
        let identity = report.check(check::QE_IDENTITY, identity);
        report.expires(info.as_ref().map(|info| info.expires));
        report.expires(identity.as_ref().map(|identity| identity.expires));

        let (Some(info), Some(identity), Ok(enclave)) = (info, identity, enclave) else {
            for name in [check::TDX_MODULE, check::TCB_STATUS, check::ADVISORIES, check::SECOND_READING] {
                report.skip(name, "TCB information or QE identity do not hold");
            }
            return;
        };
        let module = tcb::check_module(&info.content, measurements)
            .and_then(|found| self.policy.judge_module(measurements).map(|()| ((), found)));
        report.check(check::TDX_MODULE, module);
        let standing =
            tcb::standing(&info.content, &identity.content, &platform.pck, enclave.svn, measurements)
                .and_then(|standing| {
                    let until = self.policy.judge_status(standing.status, standing.tcb_date, now)?;
                    let found = format!(
                        "{:?}, evaluated by data set {}",
                        standing.status, info.content.tcb_evaluation_data_number
                    );
                    Ok(((standing, until), found))
                });
        let Some((standing, until)) = report.check(check::TCB_STATUS, standing) else {
            report.skip(check::ADVISORIES, "the platform's status is refused already");
            report.skip(check::SECOND_READING, "refused already");
            return;
        };
        report.expires(until);
        report.check(check::ADVISORIES, self.check_advisories(&standing.advisories));

        if report.verdict.first_failure().is_some() {
            report.skip(check::SECOND_READING, "refused already");
            return;
        }
        let library = second_reading(bytes, root.der, answers, &info, &identity, now).and_then(|claims| {
            let status = TcbStatus::from(claims.0);
            if status != standing.status {
                return Err(format!("the library finds {status:?} where {:?} was found", standing.status));
            }
            Ok((UnixSeconds(claims.1), "the library dcap-qvl finds the same".to_owned()))
        });
        if let Some(expires) = report.check(check::SECOND_READING, library) {
            report.expires(expires);
        }
    }

    fn check_advisories(&self, open: &[String]) -> Found<()> {
        let refused: Vec<&str> = open
            .iter()
            .filter(|id| self.policy.refused_advisories.contains(*id))
            .map(String::as_str)
            .collect();
        if !refused.is_empty() {
            return Err(format!("open to {}, which the policy refuses", refused.join(", ")));
        }
        let found =
            if open.is_empty() { "none open".to_owned() } else { format!("open: {}", open.join(", ")) };
        Ok(((), found))
    }

    /// The platform's chain, from one of the roots down to its own certificate.
    fn trusted_platform<'a>(
        &'a self,
        quote: &SignedQuote<'_>,
        chain: &'a [Vec<u8>],
        now: UnixSeconds,
    ) -> Found<Trusted<'a>> {
        // Once more, for the reason where there is no chain.
        platform_chain(quote)?;
        let platform = Platform::read(chain)?;
        let mut reason = String::new();
        for candidate in &self.roots {
            let root = Certificate::parse(&candidate.der).map_err(said)?;
            match platform.authority.issued_by(&root, 1) {
                Ok(()) => {
                    platform.leaf.issued_by(&platform.authority, 0)?;
                    platform.leaf.signs_data()?;
                    for certificate in [&root, &platform.authority, &platform.leaf] {
                        certificate.valid_at(now)?;
                    }
                    let found = if candidate.test {
                        let print = hex::encode(Sha256::digest(&candidate.der));
                        format!("up to the TEST root {print}: this proves nothing about hardware")
                    } else {
                        format!(
                            "up to Intel's root, platform model {}",
                            hex::encode_upper(platform.pck.fmspc)
                        )
                    };
                    return Ok((Trusted { root, platform, simulated: candidate.test }, found));
                }
                Err(why) => reason = why,
            }
        }
        Err(format!("no trusted root: {reason}"))
    }
}

/// A verdict in the making.
struct Report {
    verdict: Verdict,
    expires: UnixSeconds,
}

impl Report {
    /// Records what was found, and hands on what the check yields.
    fn check<T>(&mut self, name: &str, found: Found<T>) -> Option<T> {
        match found {
            Ok((value, detail)) => {
                self.verdict.record(name, Outcome::Passed, detail);
                Some(value)
            }
            Err(detail) => {
                self.verdict.record(name, Outcome::Failed, detail);
                None
            }
        }
    }

    fn skip(&mut self, name: &str, why: &str) {
        self.verdict.record(name, Outcome::Skipped, why);
    }

    /// The verdict stops holding when this does.
    fn expires(&mut self, at: impl Into<Option<UnixSeconds>>) {
        self.expires = at.into().map_or(self.expires, |at| self.expires.min(at));
    }
}
