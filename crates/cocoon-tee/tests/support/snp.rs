//! What the tests of SNP evidence share.
#![allow(dead_code, unreachable_pub)]

use std::sync::LazyLock;

use cocoon_attest::snp::{SnpCertificates, SnpPolicy, SnpProduct, SnpReport, SnpTcb, SnpVerifier};
use cocoon_attest::{
    Collateral, Evidence, EvidenceKind, Outcome, ReportData, UnixSeconds, Verdict, Verifier as _,
};
use cocoon_tee::simulated::snp::{SimulatedAmd, SimulatedSnp};

/// 2026-11-21.
pub const NOW: UnixSeconds = UnixSeconds(1_795_228_887);
pub const BINDING: ReportData = ReportData([0x5a; 64]);

pub fn machine(product: SnpProduct) -> SimulatedSnp {
    SimulatedSnp::new(product, &[7; 32], b"image")
}

/// The strictest there is by default, with the simulated machines' own TCB as the floor.
pub fn policy() -> SnpPolicy {
    static POLICY: LazyLock<SnpPolicy> = LazyLock::new(|| {
        let own = |product| (product, SnpTcb::read(machine(product).report.reported_tcb, product));
        SnpPolicy::with_floors(SnpProduct::ALL.map(own))
    });
    POLICY.clone()
}

pub fn judge_with(policy: SnpPolicy, evidence: &Evidence, now: UnixSeconds) -> Verdict {
    SnpVerifier::with_roots(policy, SimulatedAmd::roots()).verify(
        evidence,
        &Collateral::none(),
        &BINDING,
        now,
    )
}

pub fn judge(evidence: &Evidence) -> Verdict {
    judge_with(policy(), evidence, NOW)
}

pub fn judge_machine(machine: &SimulatedSnp) -> Verdict {
    judge(&machine.evidence_for(&BINDING))
}

pub fn evidence(report: &[u8], certificates: &SnpCertificates<'_>) -> Evidence {
    Evidence::new(EvidenceKind::SevSnp, [report, &certificates.write()].concat().into())
}

pub fn failures(verdict: &Verdict) -> Vec<String> {
    let failed = verdict.checks.iter().filter(|check| check.outcome == Outcome::Failed);
    failed.map(|check| check.name.clone()).collect()
}

/// Certificates and report of a machine, each to be tampered with.
#[derive(Clone)]
pub struct Parts {
    pub report: [u8; SnpReport::LEN],
    pub endorsement: Vec<u8>,
    pub ask: Vec<u8>,
    pub ark: Vec<u8>,
    pub crl: Option<Vec<u8>>,
    pub vlek: bool,
}

impl Parts {
    pub fn of(machine: &SimulatedSnp) -> Self {
        let vlek = machine.endorsement_form().by_asvk;
        let amd = machine.amd();
        Self {
            report: machine.signed_report(&BINDING),
            endorsement: machine.endorsement(),
            ask: if vlek { amd.asvk() } else { amd.ask() }.to_vec(),
            ark: amd.ark().to_vec(),
            crl: machine.revocation_list(),
            vlek,
        }
    }

    pub fn evidence(&self) -> Evidence {
        let certificates = SnpCertificates {
            vcek: (!self.vlek).then_some(&self.endorsement[..]),
            vlek: self.vlek.then_some(&self.endorsement[..]),
            ask: Some(&self.ask),
            ark: Some(&self.ark),
            crl: self.crl.as_deref(),
        };
        evidence(&self.report, &certificates)
    }

    pub fn failures(&self) -> Vec<String> {
        failures(&judge(&self.evidence()))
    }
}
