//! Verification: evidence, collateral and the time become a verdict that people and programs can read.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::gpu::{self, GpuVerdict, GpuVerifier};
use crate::snp::SnpReport;
use crate::{Evidence, EvidenceKind, ReportData, TdxMeasurements, UnixSeconds, hexed};

/// One thing to fetch before evidence can be judged. What the names mean is between a verifier and the source
/// of collateral for its kind (for TDX: the PCK chain, TCB information, revocation lists).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CollateralRequest {
    /// Whose collateral.
    pub kind: EvidenceKind,
    /// What exactly, in the vendor's words.
    pub name: String,
}

/// What was fetched, by request. Untrusted until the verifier has checked its signatures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collateral {
    items: BTreeMap<CollateralRequest, Bytes>,
    failures: BTreeMap<CollateralRequest, String>,
}

impl Collateral {
    /// Nothing fetched.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds the answer to one request; a later answer replaces an earlier one.
    pub fn insert(&mut self, request: CollateralRequest, bytes: Bytes) {
        self.items.insert(request, bytes);
    }

    /// The answer to a request, if there is one.
    #[must_use]
    pub fn get(&self, request: &CollateralRequest) -> Option<&Bytes> {
        self.items.get(request)
    }

    /// Adds all of these, answers and failures.
    pub fn absorb(&mut self, other: Self) {
        self.items.extend(other.items);
        self.failures.extend(other.failures);
    }

    /// Every answer with its request, in the order of the requests.
    pub fn iter(&self) -> impl Iterator<Item = (&CollateralRequest, &Bytes)> {
        self.items.iter()
    }

    /// Notes why a request could not be answered anew. There may be an older answer all the same.
    pub fn note_failure(&mut self, request: CollateralRequest, reason: String) {
        self.failures.insert(request, reason);
    }

    /// What could not be fetched, and why: for the words of a refusal, never for a decision.
    pub fn failures(&self) -> impl Iterator<Item = (&CollateralRequest, &str)> {
        self.failures.iter().map(|(request, reason)| (request, reason.as_str()))
    }

    /// The request's name and, where fetching failed, why.
    pub(crate) fn describe(&self, request: &CollateralRequest) -> String {
        match self.failures.get(request) {
            Some(reason) => format!("{} ({reason})", request.name),
            None => request.name.clone(),
        }
    }
}

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not hold: the evidence is not accepted.
    Failed,
    /// It was not made; the detail says why.
    Skipped,
}

/// One named check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// A stable short name, such as `binding`.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found, in words. Never a secret.
    pub detail: String,
}

/// What was measured, by kind of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Measurements {
    /// Of an Intel trust domain; all zero for a fake one.
    Tdx(TdxMeasurements),
    /// Of an AMD SEV-SNP guest: its whole report.
    SevSnp(SnpReport),
}

/// The outcome of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What kind of evidence was judged.
    pub kind: EvidenceKind,
    /// Every check, in the order made.
    pub checks: Vec<Check>,
    /// What the evidence says was measured, where it could be read.
    pub measurements: Option<Measurements>,
    /// The hash by which the root contract lists allowed images.
    #[serde(with = "hexed::option")]
    pub image_hash: Option<[u8; 32]>,
    /// What became of the evidence of the machine's GPUs, where any was shown. [`accepted`](Self::accepted) speaks of the
    /// machine alone; what is demanded of its GPUs is for a policy to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuVerdict>,
    /// It rests on a test root, or on nothing: no proof of hardware.
    pub simulated: bool,
    /// When the verdict stops holding (collateral runs out); `None`: not before the certificate does.
    pub expires_at: Option<UnixSeconds>,
}

impl Verdict {
    /// A verdict without checks yet; it is not accepted.
    #[must_use]
    pub fn new(kind: EvidenceKind) -> Self {
        let simulated = kind.is_simulated();
        Self {
            kind,
            checks: Vec::new(),
            measurements: None,
            image_hash: None,
            gpu: None,
            simulated,
            expires_at: None,
        }
    }

    /// A verdict on evidence that nobody asked to have verified; it is not accepted.
    #[must_use]
    pub fn unchecked(kind: EvidenceKind, why: &str) -> Self {
        let mut verdict = Self::new(kind);
        verdict.record("evidence", Outcome::Skipped, why);
        verdict
    }

    /// Adds a check.
    pub fn record(&mut self, name: &str, outcome: Outcome, detail: impl Into<String>) {
        self.checks.push(Check { name: name.to_owned(), outcome, detail: detail.into() });
    }

    /// Whether the evidence holds: something was checked, and nothing failed.
    #[must_use]
    pub fn accepted(&self) -> bool {
        self.checks.iter().any(|check| check.outcome == Outcome::Passed) && self.first_failure().is_none()
    }

    /// Whether all of the evidence holds, that of GPUs included where any was shown.
    #[must_use]
    pub fn accepted_as_a_whole(&self) -> bool {
        self.accepted() && self.gpu.as_ref().is_none_or(GpuVerdict::accepted)
    }

    /// Whether all that speaks against the evidence is that collateral could not be had: of the machine, of its GPUs, or
    /// of both.
    #[must_use]
    pub fn lacks_collateral(&self) -> bool {
        let machine = self.first_failure().is_none_or(|check| check.name == "collateral");
        let gpu = self.gpu.as_ref().is_none_or(|gpu| gpu.accepted() || gpu.lacks_collateral());
        !self.accepted_as_a_whole() && machine && gpu
    }

    /// The first check that failed.
    #[must_use]
    pub fn first_failure(&self) -> Option<&Check> {
        self.checks.iter().find(|check| check.outcome == Outcome::Failed)
    }
}

/// Judges evidence of one kind or several. Pure: whatever must be fetched is named first and handed in.
pub trait Verifier: Send + Sync {
    /// What to fetch before [`verify`](Self::verify) can judge this evidence.
    fn collateral_needed(&self, evidence: &Evidence) -> Vec<CollateralRequest>;

    /// What else, once these answers are there: some of them bring new questions.
    fn further_collateral(&self, evidence: &Evidence, at_hand: &Collateral) -> Vec<CollateralRequest> {
        let _ = (evidence, at_hand);
        Vec::new()
    }

    /// Judges evidence that must be bound to `binding`, at the time `now`. Missing collateral is a failed
    /// check, never an acceptance.
    fn verify(
        &self,
        evidence: &Evidence,
        collateral: &Collateral,
        binding: &ReportData,
        now: UnixSeconds,
    ) -> Verdict;
}

/// Judges the published development evidence: report data that nobody signed. Accepting it proves that the
/// peer follows the protocol, and nothing about its machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct FakeTdxVerifier;

impl Verifier for FakeTdxVerifier {
    fn collateral_needed(&self, _evidence: &Evidence) -> Vec<CollateralRequest> {
        Vec::new()
    }

    fn verify(
        &self,
        evidence: &Evidence,
        _collateral: &Collateral,
        binding: &ReportData,
        _now: UnixSeconds,
    ) -> Verdict {
        let mut verdict = Verdict::new(evidence.kind());
        if evidence.kind() != EvidenceKind::FakeTdx {
            verdict.record("kind", Outcome::Failed, format!("this is {} evidence", evidence.kind()));
            return verdict;
        }
        verdict.record("hardware", Outcome::Skipped, "simulated evidence proves nothing about the machine");
        if evidence.bytes()[..] != binding.0 {
            verdict.record(
                "binding",
                Outcome::Failed,
                "the report data is not SHA-512 of the certificate's key",
            );
            return verdict;
        }
        verdict.record("binding", Outcome::Passed, "the report data is SHA-512 of the certificate's key");
        verdict.measurements = Some(Measurements::Tdx(TdxMeasurements::FAKE));
        verdict.image_hash = Some(TdxMeasurements::FAKE.image_hash());
        verdict
    }
}

/// Verifiers by kind of evidence. A kind without one fails.
#[derive(Clone, Default)]
pub struct VerifierSet {
    by_kind: BTreeMap<EvidenceKind, Arc<dyn Verifier>>,
    gpus: Vec<GpuVerifier>,
}

impl VerifierSet {
    /// No verifier: everything fails.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The verifier that needs no policy: of the published fake evidence. Others come with an
    /// [`OperatorPolicy`](crate::OperatorPolicy).
    #[must_use]
    pub fn built_in() -> Self {
        Self::new().with(EvidenceKind::FakeTdx, Arc::new(FakeTdxVerifier))
    }

    /// Adds or replaces the verifier of a kind.
    #[must_use]
    pub fn with(mut self, kind: EvidenceKind, verifier: Arc<dyn Verifier>) -> Self {
        self.by_kind.insert(kind, verifier);
        self
    }

    /// Adds a verifier of GPUs. Of several, with roots of their own, the first one counts whose roots fit.
    #[must_use]
    pub fn with_gpus(mut self, verifier: GpuVerifier) -> Self {
        self.gpus.push(verifier);
        self
    }

    fn verify_machine(
        &self,
        evidence: &Evidence,
        collateral: &Collateral,
        binding: &ReportData,
        now: UnixSeconds,
    ) -> Verdict {
        if let Some(verifier) = self.by_kind.get(&evidence.kind()) {
            return verifier.verify(evidence, collateral, binding, now);
        }
        let mut verdict = Verdict::new(evidence.kind());
        let detail = match evidence.kind() {
            EvidenceKind::None => "the certificate carries no evidence".to_owned(),
            kind => format!("this node cannot verify {kind} evidence"),
        };
        verdict.record("evidence", Outcome::Failed, detail);
        verdict
    }

    /// Judges GPUs beside a machine: they must have signed a nonce that follows from its evidence.
    fn verify_gpus(
        &self,
        verdict: &mut Verdict,
        evidence: &Evidence,
        collateral: &Collateral,
        binding: &ReportData,
        now: UnixSeconds,
    ) {
        let Some(gpus) = evidence.gpus() else { return };
        let nonce = gpu::nonce(binding, evidence.bytes());
        let mut found = GpuVerdict::default();
        for verifier in &self.gpus {
            found = verifier.verify(gpus, collateral, &nonce, now);
            let failed = |check: &Check| check.outcome == Outcome::Failed;
            let other_root = |check: &Check| check.name.ends_with(".certificate_chain") && failed(check);
            if !found.checks.iter().any(other_root) {
                verdict.simulated |= verifier.trusts_simulated();
                break;
            }
        }
        if found.accepted() {
            verdict.expires_at = [verdict.expires_at, found.expires_at].into_iter().flatten().min();
        }
        verdict.gpu = Some(found);
    }
}

impl Verifier for VerifierSet {
    fn collateral_needed(&self, evidence: &Evidence) -> Vec<CollateralRequest> {
        let mut needed = self
            .by_kind
            .get(&evidence.kind())
            .map(|verifier| verifier.collateral_needed(evidence))
            .unwrap_or_default();
        needed.extend(self.further_collateral(evidence, &Collateral::none()));
        needed
    }

    fn further_collateral(&self, evidence: &Evidence, at_hand: &Collateral) -> Vec<CollateralRequest> {
        let Some(gpus) = evidence.gpus() else { return Vec::new() };
        self.gpus.iter().flat_map(|verifier| verifier.collateral_needed(gpus, at_hand)).collect()
    }

    fn verify(
        &self,
        evidence: &Evidence,
        collateral: &Collateral,
        binding: &ReportData,
        now: UnixSeconds,
    ) -> Verdict {
        let mut verdict = self.verify_machine(evidence, collateral, binding, now);
        self.verify_gpus(&mut verdict, evidence, collateral, binding, now);
        verdict
    }
}
