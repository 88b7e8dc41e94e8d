//! The verifier: evidence, collateral and the time become a verdict.

use std::collections::{BTreeMap, BTreeSet};

use super::collateral::{self, GpuCollateral};
use super::container::GpuEvidence;
use super::ocsp;
use super::policy::{Demand, GpuPolicy};
use super::rim::{self, Manifest};
use super::roots::GpuRoots;
use super::spdm::GpuAttestation;
use super::verdict::{GpuReport, GpuVerdict};
use super::x509::{self, Certificate};
use super::{chain, judge, reference};
use crate::{Collateral, CollateralRequest, Outcome, UnixSeconds};

/// The checks of one GPU that need its report.
const ON_THE_REPORT: [&str; 9] = [
    "firmware_id",
    "signature",
    "nonce",
    "chip",
    "driver",
    "vbios",
    "reference_values",
    "measurements",
    "cc_mode",
];

/// Verifies GPU evidence against its own roots and policy. The module's documentation lists the checks.
#[derive(Debug, Clone)]
pub struct GpuVerifier {
    roots: GpuRoots,
    policy: GpuPolicy,
}

impl GpuVerifier {
    /// How often [`collateral_needed`](Self::collateral_needed) may have something new to ask for: reference values
    /// come with certificates, whose revocation is the next question.
    pub const ROUNDS: usize = 2;

    /// A verifier that trusts NVIDIA.
    #[must_use]
    pub fn new(policy: GpuPolicy) -> Self {
        Self::with_roots(policy, GpuRoots::nvidia())
    }

    /// A verifier that trusts other roots; for test networks.
    #[must_use]
    pub fn with_roots(policy: GpuPolicy, roots: GpuRoots) -> Self {
        Self { roots, policy }
    }

    /// Whether its roots are those of a simulated vendor.
    #[must_use]
    pub fn trusts_simulated(&self) -> bool {
        self.roots.is_simulated()
    }

    /// What it demands.
    #[must_use]
    pub fn policy(&self) -> &GpuPolicy {
        &self.policy
    }

    /// What to fetch, beside what is at hand, before [`verify`](Self::verify) can judge this evidence. To be asked
    /// again with what was fetched, [`ROUNDS`](Self::ROUNDS) times or until nothing is needed any more.
    ///
    /// Nothing is needed for evidence that is not signed by a GPU of a trusted root: nobody else makes this node
    /// fetch anything.
    #[must_use]
    pub fn collateral_needed(&self, evidence: &[u8], at_hand: &Collateral) -> Vec<CollateralRequest> {
        let Ok(evidence) = GpuEvidence::parse(evidence) else { return Vec::new() };
        let mut links = Links::default();
        let mut needed = BTreeSet::new();
        for part in evidence.gpus() {
            let genuine = GpuAttestation::parse(&part.report).ok().and_then(|report| {
                let chain = chain::verified(&part.chain, &self.roots, &mut links).ok()?;
                chain::signed_report(&chain, &report).then_some((chain, report))
            });
            let Some((chain, report)) = genuine else { continue };
            needed.extend(statuses(&chain[1..]));
            if self.policy.pinned.iter().any(|pinned| reference::fits(pinned, &report.details)) {
                continue;
            }
            for id in collateral::manifests(&report.details, chain::chip(&chain)) {
                let request = GpuCollateral::Manifest(id.clone()).request();
                let manifest = at_hand.get(&request).and_then(|answer| rim::read(answer, &id).ok());
                needed.extend(manifest.iter().flat_map(manifest_statuses));
                needed.insert(request);
            }
        }
        needed.into_iter().filter(|request| at_hand.get(request).is_none()).collect()
    }

    /// Judges evidence whose GPUs must have signed this nonce ([`nonce`](super::nonce())), at the time `now`.
    #[must_use]
    pub fn verify(
        &self,
        evidence: &[u8],
        collateral: &Collateral,
        nonce: &[u8; 32],
        now: UnixSeconds,
    ) -> GpuVerdict {
        let mut verdict = GpuVerdict::default();
        let evidence = match GpuEvidence::parse(evidence) {
            Ok(evidence) => evidence,
            Err(error) => {
                verdict.add("container".to_owned(), Outcome::Failed, error.to_string());
                return verdict;
            }
        };
        verdict.add("container".to_owned(), Outcome::Passed, "it can be read");
        let found = judge::number(evidence.gpus().len(), &self.policy);
        record(&mut verdict, "gpu_count".to_owned(), found);
        record(&mut verdict, "unique".to_owned(), judge::unique(&evidence));
        let reports =
            evidence.gpus().iter().map(|part| GpuAttestation::parse(&part.report)).collect::<Vec<_>>();
        record(&mut verdict, "same_mode".to_owned(), judge::same_mode(reports.iter().flatten()));
        let mut session = Session {
            roots: &self.roots,
            policy: &self.policy,
            collateral,
            nonce,
            now,
            verdict,
            links: Links::default(),
            statuses: BTreeMap::new(),
            manifests: BTreeMap::new(),
        };
        for (number, (part, report)) in evidence.gpus().iter().zip(&reports).enumerate() {
            let chain = session.judge_chain(number, &part.chain);
            match report {
                Ok(report) => session.judge_report(number, report, chain.as_deref()),
                Err(fault) => {
                    session.record(number, "format", Err(fault.to_string()));
                    session.skip(number, &ON_THE_REPORT, "the report cannot be read");
                }
            }
        }
        session.verdict
    }
}

/// The questions whether these certificates, each signed by the next, are revoked. The root answers to nobody.
fn statuses(chain: &[Certificate<'_>]) -> Vec<CollateralRequest> {
    let pairs = chain.iter().zip(chain.iter().skip(1));
    pairs.map(|(subject, issuer)| GpuCollateral::Status(ocsp::request(subject, issuer)).request()).collect()
}

fn manifest_statuses(manifest: &Manifest) -> Vec<CollateralRequest> {
    let chain = manifest.chain.iter().map(|der| Certificate::parse(der));
    chain.collect::<Result<Vec<_>, _>>().map(|chain| statuses(&chain)).unwrap_or_default()
}

/// Records a check that passed or failed, with what was found.
fn record(verdict: &mut GpuVerdict, name: String, found: Result<String, String>) {
    match found {
        Ok(detail) => verdict.add(name, Outcome::Passed, detail),
        Err(detail) => verdict.add(name, Outcome::Failed, detail),
    }
}

/// Which certificate was found to be signed by which: GPUs share most of theirs, and signatures cost.
#[derive(Default)]
pub(super) struct Links<'e> {
    known: BTreeSet<(&'e [u8], &'e [u8], u8)>,
}

impl<'e> Links<'e> {
    pub(super) fn judge(
        &mut self,
        certificate: &Certificate<'e>,
        issuer: &Certificate<'e>,
        below: u8,
    ) -> Result<(), String> {
        let link = (certificate.der, issuer.der, below);
        if !self.known.contains(&link) {
            certificate.issued_by(issuer, below)?;
            self.known.insert(link);
        }
        Ok(())
    }
}

/// One verification on its way.
pub(super) struct Session<'e> {
    pub(super) roots: &'e GpuRoots,
    pub(super) policy: &'e GpuPolicy,
    pub(super) collateral: &'e Collateral,
    nonce: &'e [u8; 32],
    pub(super) now: UnixSeconds,
    pub(super) verdict: GpuVerdict,
    links: Links<'e>,
    /// What was found about revocation, by question.
    statuses: BTreeMap<CollateralRequest, Result<UnixSeconds, String>>,
    /// What was found about reference values, by identifier.
    pub(super) manifests: BTreeMap<String, reference::Judged>,
}

/// What is known about whether certificates are revoked.
pub(super) enum Revocation {
    /// None is, until then.
    NotRevoked(UnixSeconds),
    /// The service has not been asked about this one.
    NotAtHand(String),
    /// One is revoked, or an answer does not hold.
    Refused(String),
}

impl<'e> Session<'e> {
    /// Records a GPU's check.
    pub(super) fn record(&mut self, number: usize, name: &str, found: Result<String, String>) {
        record(&mut self.verdict, format!("gpu{number}.{name}"), found);
    }

    /// Records a GPU's check that failed for want of an answer.
    pub(super) fn record_unanswered(&mut self, number: usize, name: &str, fault: String) {
        self.verdict.unanswered.insert(format!("gpu{number}.{name}"));
        self.record(number, name, Err(fault));
    }

    /// Records checks of a GPU that could not be made.
    pub(super) fn skip(&mut self, number: usize, names: &[&str], why: &str) {
        for name in names {
            self.verdict.add(format!("gpu{number}.{name}"), Outcome::Skipped, why);
        }
    }

    /// The certificates of one GPU: chain, validity and revocation. Gives them where the chain holds.
    fn judge_chain(&mut self, number: usize, chain: &'e [bytes::Bytes]) -> Option<Vec<Certificate<'e>>> {
        let chain = match chain::verified(chain, self.roots, &mut self.links) {
            Ok(chain) => chain,
            Err(fault) => {
                self.record(number, "certificate_chain", Err(fault));
                self.skip(number, &["validity", "revocation"], "the certificate chain does not hold");
                return None;
            }
        };
        let whose = if self.roots.is_simulated() {
            "a simulated root: no proof of hardware"
        } else {
            "NVIDIA's root"
        };
        let model = chain::model(&chain);
        self.record(number, "certificate_chain", Ok(format!("{model}, up to {whose}")));
        let valid = chain.iter().try_for_each(|certificate| certificate.valid_at(self.now));
        self.record(number, "validity", valid.map(|()| "all certificates are valid now".to_owned()));
        if let Some(ends) = chain.iter().map(|certificate| certificate.not_after).min() {
            self.verdict.ends(ends);
        }
        // The leaf is made by the device itself and in no list, as NVIDIA's verifiers have it.
        match self.revocation(&chain[1..]) {
            Revocation::NotRevoked(ends) => {
                self.verdict.ends(ends);
                self.record(number, "revocation", Ok("no certificate is revoked".to_owned()));
            }
            Revocation::Refused(fault) => self.record(number, "revocation", Err(fault)),
            Revocation::NotAtHand(fault) if self.policy.revocation == Demand::Required => {
                self.record_unanswered(number, "revocation", fault);
            }
            Revocation::NotAtHand(fault) => {
                let why = format!("{fault}; the policy goes on without");
                self.skip(number, &["revocation"], &why);
            }
        }
        Some(chain)
    }

    /// Whether certificates, each signed by the next up to a root, are revoked.
    pub(super) fn revocation(&mut self, chain: &[Certificate<'_>]) -> Revocation {
        let mut ends = UnixSeconds(u64::MAX);
        let mut missing = None;
        for (subject, issuer) in chain.iter().zip(chain.iter().skip(1)) {
            let request = GpuCollateral::Status(ocsp::request(subject, issuer)).request();
            let Some(answer) = self.collateral.get(&request) else {
                let name = subject.common_name();
                let described = || self.collateral.describe(&request);
                missing.get_or_insert_with(|| {
                    format!("whether {name:?} is revoked is not known: collateral missing: {}", described())
                });
                continue;
            };
            let now = self.now;
            let judged =
                self.statuses.entry(request).or_insert_with(|| ocsp::judge(answer, subject, issuer, now));
            match judged {
                Ok(until) => ends = ends.min(*until),
                Err(fault) => return Revocation::Refused(fault.clone()),
            }
        }
        missing.map_or(Revocation::NotRevoked(ends), Revocation::NotAtHand)
    }

    /// The report of one GPU, and its signature where the chain holds.
    fn judge_report(
        &mut self,
        number: usize,
        report: &GpuAttestation<'_>,
        chain: Option<&[Certificate<'e>]>,
    ) {
        let details = &report.details;
        let measured = report.measurements.len();
        self.record(number, "format", Ok(format!("a report with {measured} measurements")));
        match chain {
            None => self.skip(number, &["firmware_id", "signature"], "the certificate chain does not hold"),
            Some(chain) => {
                self.record(number, "firmware_id", chain::firmware(chain, details.firmware_id.as_ref()));
                let genuine = chain::signed_report(chain, report);
                let found = if genuine {
                    Ok("the GPU's key signed the report".to_owned())
                } else {
                    Err("the GPU's key did not sign the report".to_owned())
                };
                self.record(number, "signature", found);
            }
        }
        let found = if report.nonce == *self.nonce {
            Ok("made for this key and this CPU's evidence".to_owned())
        } else {
            Err("made for something else: another key, machine or time".to_owned())
        };
        self.record(number, "nonce", found);
        let Some(chain) = chain else {
            self.skip(number, &ON_THE_REPORT[3..], "the certificate chain does not hold");
            return;
        };
        let chip = chain::chip(chain);
        self.record(number, "chip", judge::chip(chip, self.policy));
        self.record(number, "driver", judge::driver(&details.driver, self.policy));
        self.record(number, "vbios", judge::vbios(details.vbios, chip, self.policy));
        self.judge_values(number, report, chip);
        self.verdict.gpus.push(GpuReport {
            device: chain::device(chain),
            model: chain::model(chain).to_owned(),
            chip: chip.to_owned(),
            driver: details.driver.clone(),
            vbios: details.vbios,
            board: format!("{} {} {}", details.project, details.project_sku, details.chip_sku),
            mode: details.mode,
        });
    }
}

/// Reads bytes as each kind of collateral; for fuzzing.
pub(crate) fn read_collateral(bytes: &[u8]) {
    ocsp::read(bytes);
    // Any answer is fine; returning is what is tested.
    let _ = x509::Certificate::parse(bytes);
    let _ = rim::read(bytes, "NV_GPU_DRIVER_GH100_550.90.07");
    let _ = (collateral::status_runs_out(bytes), collateral::manifest_runs_out(bytes));
}
