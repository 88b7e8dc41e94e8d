//! A simulated machine, its quote, its collateral, and the judgement of them.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::sync::LazyLock;

use cocoon_attest::tdx::{TdxMeasurements, TdxPolicy, TdxVerifier};
use cocoon_attest::{
    Collateral, Evidence, EvidenceKind, Outcome, ReportData, UnixSeconds, Verdict, Verifier as _,
};
use cocoon_tee::simulated::tdx::{QuoteForm, SimulatedIntel, SimulatedMachine, trust_domain};

/// 2026-11-21 02:41:27 UTC, an hour after the collateral was issued.
pub const NOW: UnixSeconds = UnixSeconds(1_795_228_887);
pub const ISSUED: UnixSeconds = UnixSeconds(NOW.0 - 3_600);
pub const DAY: u64 = 86_400;

/// Everything that a verdict rests on; a test spoils one thing of it.
#[derive(Clone)]
pub struct Case {
    pub intel: SimulatedIntel,
    pub machine: SimulatedMachine,
    pub form: QuoteForm,
    pub td: TdxMeasurements,
    pub key: [u8; 32],
    pub collateral: Collateral,
    pub policy: TdxPolicy,
    pub now: UnixSeconds,
}

impl Case {
    pub fn new() -> Self {
        static SOUND: LazyLock<Case> = LazyLock::new(Case::sound);
        SOUND.clone()
    }

    fn sound() -> Self {
        let intel = SimulatedIntel::from_seed(&[7; 32]);
        Self {
            machine: intel.machine(1),
            collateral: intel.collateral(ISSUED),
            intel,
            form: QuoteForm::V4,
            td: trust_domain("worker"),
            key: [1; 32],
            policy: TdxPolicy::strict(),
            now: NOW,
        }
    }

    pub fn quote(&self) -> Vec<u8> {
        self.machine.quote(self.form, &self.td, &ReportData::for_key(&self.key))
    }

    pub fn judge(&self) -> Verdict {
        self.judge_quote(self.quote())
    }

    pub fn judge_quote(&self, quote: Vec<u8>) -> Verdict {
        let verifier =
            TdxVerifier::new(self.policy.clone()).with_test_root(self.intel.root_certificate()).unwrap();
        let evidence = Evidence::new(EvidenceKind::Tdx, quote.into());
        verifier.verify(&evidence, &self.collateral, &ReportData::for_key(&self.key), self.now)
    }
}

/// The names of the checks that failed.
pub fn failures(verdict: &Verdict) -> Vec<&str> {
    let failed = verdict.checks.iter().filter(|check| check.outcome == Outcome::Failed);
    failed.map(|check| check.name.as_str()).collect()
}

/// What a check found.
pub fn detail<'a>(verdict: &'a Verdict, name: &str) -> &'a str {
    &verdict.checks.iter().find(|check| check.name == name).unwrap().detail
}
