//! The verifier: evidence, collateral and the time become a verdict.

use super::chain::{self, Gathered};
use super::evidence::SnpEvidence;
use super::judge;
use super::policy::{SnpPolicy, SnpRevocation};
use super::product::{SnpProduct, SnpTcb};
use super::report::{self, SnpReport, SnpSigningKey};
use super::roots::{SnpRoots, Worth};
use super::x509::Certificate;
use crate::{
    Collateral, CollateralRequest, Evidence, EvidenceKind, Measurements, Outcome, ReportData, UnixSeconds,
    Verdict, Verifier,
};

/// The checks that need the endorsement key's certificate.
const ON_THE_KEY: [&str; 3] = ["signature", "chip", "tcb_certificate"];

/// The certificates without which no signature can be judged.
struct Needed<'g> {
    product: SnpProduct,
    ark: &'g [u8],
    intermediate: &'g [u8],
    endorsement: &'g [u8],
}

/// Verifies SEV-SNP evidence against its own roots and policy. The module's documentation lists the checks.
#[derive(Debug, Clone)]
pub struct SnpVerifier {
    roots: SnpRoots,
    policy: SnpPolicy,
}

impl SnpVerifier {
    /// A verifier that trusts AMD.
    #[must_use]
    pub fn new(policy: SnpPolicy) -> Self {
        Self::with_roots(policy, SnpRoots::amd())
    }

    /// A verifier that trusts other roots; for test networks.
    #[must_use]
    pub fn with_roots(policy: SnpPolicy, roots: SnpRoots) -> Self {
        Self { roots, policy }
    }

    /// What it demands.
    #[must_use]
    pub fn policy(&self) -> &SnpPolicy {
        &self.policy
    }
}

impl Verifier for SnpVerifier {
    fn collateral_needed(&self, evidence: &Evidence) -> Vec<CollateralRequest> {
        if evidence.kind() != EvidenceKind::SevSnp {
            return Vec::new();
        }
        SnpEvidence::parse(evidence.bytes()).map_or_else(
            |_| Vec::new(),
            |parsed| {
                let nothing = Collateral::none();
                let gathered = Gathered::find(&parsed, &nothing, &self.roots);
                let (mut requests, _) = gathered.missing(&parsed.report);
                requests.extend(gathered.outdated.filter(|_| gathered.endorsement.is_some()));
                requests
            },
        )
    }

    fn verify(
        &self,
        evidence: &Evidence,
        collateral: &Collateral,
        binding: &ReportData,
        now: UnixSeconds,
    ) -> Verdict {
        let mut verdict = Verdict::new(evidence.kind());
        if evidence.kind() != EvidenceKind::SevSnp {
            verdict.record("format", Outcome::Failed, format!("this is {} evidence", evidence.kind()));
            return verdict;
        }
        let parsed = match SnpEvidence::parse(evidence.bytes()) {
            Ok(parsed) => parsed,
            Err(error) => {
                verdict.record("format", Outcome::Failed, error.to_string());
                return verdict;
            }
        };
        let report = &parsed.report;
        verdict.measurements = Some(Measurements::SevSnp(*report));
        verdict.image_hash = Some(report.image_hash());
        verdict.record("format", Outcome::Passed, format!("a report of version {}", report.version));
        let gathered = Gathered::find(&parsed, collateral, &self.roots);
        self.judge_signer(&mut verdict, &parsed, &gathered);
        self.judge_chain(&mut verdict, &parsed, &gathered, now);
        judge::report(&mut verdict, report, gathered.product, &self.policy, binding);
        verdict
    }
}

/// Records a check that passed or failed, each with what was found.
pub(super) fn record(verdict: &mut Verdict, name: &str, found: Result<String, String>) -> bool {
    let passed = found.is_ok();
    let (outcome, detail) = match found {
        Ok(detail) => (Outcome::Passed, detail),
        Err(detail) => (Outcome::Failed, detail),
    };
    verdict.record(name, outcome, detail);
    passed
}

/// Records checks that could not be made.
fn skip(verdict: &mut Verdict, names: &[&str], why: &str) {
    for name in names {
        verdict.record(name, Outcome::Skipped, why);
    }
}

impl SnpVerifier {
    /// Who signed, and on what machine: what the report and the policy say of it.
    fn judge_signer(&self, verdict: &mut Verdict, evidence: &SnpEvidence<'_>, gathered: &Gathered<'_>) {
        let report = &evidence.report;
        let product = match (gathered.product, report.cpuid) {
            (Some(product), _) if self.policy.floors.contains_key(&product) => Ok(product.to_string()),
            (Some(product), _) => Err(format!("the policy does not accept {product}")),
            (None, Some([family, model, _])) if report.products().is_empty() => {
                Err(format!("CPUID family {family:#x}, model {model:#x} is no known SNP product"))
            }
            (None, _) => Err("the report does not say, and no certificate at hand does".to_owned()),
        };
        record(verdict, "product", product);
        let name = report.signing_key.name();
        let allowed = match report.signing_key {
            SnpSigningKey::Vcek => self.policy.allow_vcek,
            SnpSigningKey::Vlek => self.policy.allow_vlek,
            SnpSigningKey::None => false,
        };
        let signing_key = if report.chip_key_masked || report.signing_key == SnpSigningKey::None {
            Err("the host kept the firmware from signing the report".to_owned())
        } else if allowed {
            Ok(format!("signed with a {name}, as the report says"))
        } else {
            Err(format!("signed with a {name}, which the policy does not accept"))
        };
        record(verdict, "signing_key", signing_key);
    }

    /// Collateral, chain and signature.
    fn judge_chain(
        &self,
        verdict: &mut Verdict,
        evidence: &SnpEvidence<'_>,
        gathered: &Gathered<'_>,
        now: UnixSeconds,
    ) {
        let needed = self.judge_collateral(verdict, evidence, gathered);
        let Some(Needed { product, ark, intermediate, endorsement }) = needed else {
            let why = "not every certificate is at hand";
            skip(verdict, &["root", "intermediate", "endorsement", "validity", "revocation"], why);
            return skip(verdict, &ON_THE_KEY, why);
        };
        let signer = evidence.report.signing_key;
        let broken = "the certificate chain does not hold";
        let (ark, worth) = match chain::root(ark, product, &self.roots) {
            Ok(ark) => ark,
            Err(fault) => {
                record(verdict, "root", Err(fault));
                skip(verdict, &["intermediate", "endorsement", "validity", "revocation"], broken);
                return skip(verdict, &ON_THE_KEY, broken);
            }
        };
        verdict.simulated = worth == Worth::Simulated;
        record(
            verdict,
            "root",
            Ok(match worth {
                Worth::Amd => format!("AMD's root for {product}"),
                Worth::Simulated => format!("a TEST root for {product}: this proves nothing about hardware"),
            }),
        );
        let ask = match chain::intermediate(intermediate, &ark, product, signer) {
            Ok(ask) => ask,
            Err(fault) => {
                record(verdict, "intermediate", Err(fault));
                skip(verdict, &["endorsement", "validity", "revocation"], broken);
                return skip(verdict, &ON_THE_KEY, broken);
            }
        };
        let named = ask.common_name().unwrap_or_default().to_owned();
        record(verdict, "intermediate", Ok(format!("{named}, signed by the root")));
        let key = match chain::endorsement(endorsement, &ask, signer) {
            Ok(key) => key,
            Err(fault) => {
                record(verdict, "endorsement", Err(fault));
                skip(verdict, &["validity", "revocation"], broken);
                return skip(verdict, &ON_THE_KEY, broken);
            }
        };
        let whose =
            key.provider().map_or("one chip's key".to_owned(), |provider| format!("key of {provider:?}"));
        record(verdict, "endorsement", Ok(format!("{whose}, signed by {named}")));
        self.judge_time(verdict, [&ark, &ask, &key], gathered, now);
        judge_key(verdict, evidence, product, &key);
    }

    /// Whether everything is at hand; if so, the certificates.
    fn judge_collateral<'g>(
        &self,
        verdict: &mut Verdict,
        evidence: &SnpEvidence<'_>,
        gathered: &'g Gathered<'_>,
    ) -> Option<Needed<'g>> {
        let (mut requests, hopeless) = gathered.missing(&evidence.report);
        if self.policy.revocation == SnpRevocation::WhereAvailable {
            requests.retain(|request| !chain::asks_for_list(request));
        }
        let names = requests.iter().map(|request| gathered.collateral.describe(request));
        let names = names.chain(hopeless.map(str::to_owned)).collect::<Vec<_>>().join(", ");
        if evidence.report.signing_key == SnpSigningKey::None {
            skip(verdict, &["collateral"], "a report without signature needs none");
            return None;
        }
        let found = if names.is_empty() {
            Ok("every certificate is at hand".to_owned())
        } else {
            Err(format!("collateral missing: {names}"))
        };
        record(verdict, "collateral", found);
        Some(Needed {
            product: gathered.product?,
            ark: gathered.ark.as_deref()?,
            intermediate: gathered.intermediate.as_deref()?,
            endorsement: gathered.endorsement.as_deref()?,
        })
    }

    /// Validity and revocation, and with them when the verdict expires.
    fn judge_time(
        &self,
        verdict: &mut Verdict,
        chain: [&Certificate<'_>; 3],
        gathered: &Gathered<'_>,
        now: UnixSeconds,
    ) {
        let fault = ["root", "intermediate certificate", "endorsement certificate"]
            .into_iter()
            .zip(chain)
            .find(|(_, certificate)| now < certificate.not_before || now > certificate.not_after)
            .map(|(name, certificate)| {
                let (from, to) = (certificate.not_before, certificate.not_after);
                format!("the {name} is valid from {from} to {to}; it is {now}")
            });
        let mut ends = chain.map(|certificate| certificate.not_after).into_iter().min();
        record(verdict, "validity", fault.map_or(Ok("all certificates are valid now".to_owned()), Err));
        if gathered.lists.is_empty() {
            let why = match self.policy.revocation {
                SnpRevocation::Required => "the revocation list is not at hand",
                SnpRevocation::WhereAvailable => "no revocation list is at hand; the policy goes on without",
            };
            skip(verdict, &["revocation"], why);
        } else {
            let [ark, ..] = chain;
            let found = chain::current_list(&gathered.lists, ark, now).and_then(|list| {
                ends = ends.min(Some(list.next_update));
                match chain.iter().find(|certificate| list.revokes(certificate)) {
                    Some(revoked) => {
                        let name = revoked.common_name().unwrap_or("without a name");
                        Err(format!("the root has revoked the certificate {name:?}"))
                    }
                    None => Ok(format!("not among the {} that the root has revoked", list.len())),
                }
            });
            record(verdict, "revocation", found);
        }
        verdict.expires_at = ends;
    }
}

/// The report against the key's certificate.
fn judge_key(verdict: &mut Verdict, evidence: &SnpEvidence<'_>, product: SnpProduct, key: &Certificate<'_>) {
    let report = &evidence.report;
    let (signed, _) = evidence.report_bytes.split_at(SnpReport::SIGNED_LEN);
    let genuine = report::signature(evidence.report_bytes)
        .is_some_and(|signature| key.key.signed_report(signed, &signature));
    let found = if genuine {
        Ok("the certificate's key signed the report")
    } else {
        Err("the certificate's key did not sign the report")
    };
    record(verdict, "signature", found.map(str::to_owned).map_err(str::to_owned));
    if report.signing_key == SnpSigningKey::Vlek {
        verdict.record("chip", Outcome::Skipped, "a VLEK stands for a provider, not for a chip");
    } else {
        let (chip, rest) = report.chip_id.split_at(product.chip_id_len());
        let same = key.hardware_id(chip.len()) == Some(chip) && rest.iter().all(|byte| *byte == 0);
        let found =
            if same { Ok(hex::encode(chip)) } else { Err("the certificate is another chip's".to_owned()) };
        record(verdict, "chip", found);
    }
    let certified = chain::certified_tcb(key, product);
    let found = if certified == Some(report.reported_tcb.0) {
        Ok(SnpTcb::read(report.reported_tcb, product).to_string())
    } else {
        let reported = hex::encode(report.reported_tcb.0);
        let certified = certified.map_or("none".to_owned(), hex::encode);
        Err(format!("the report says {reported}, the certificate is for {certified}"))
    };
    record(verdict, "tcb_certificate", found);
}
