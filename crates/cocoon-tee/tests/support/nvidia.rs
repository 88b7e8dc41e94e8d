//! A simulated machine with GPUs before the verifier that production uses.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::sync::LazyLock;

use bytes::Bytes;
use cocoon_attest::gpu::{GpuEvidence, GpuPart, GpuPolicy, GpuVerdict, GpuVerifier};
use cocoon_attest::{Collateral, Outcome, UnixSeconds};
use cocoon_tee::simulated::nvidia::{SimulatedGpu, SimulatedNvidia};

/// 2026-11-21.
pub(crate) const NOW: UnixSeconds = UnixSeconds(1_795_228_887);
pub(crate) const NONCE: [u8; 32] = [0x5a; 32];

/// Made once: signing takes its time.
static NVIDIA: LazyLock<SimulatedNvidia> = LazyLock::new(|| SimulatedNvidia::from_seed(&[1; 32]));

pub(crate) fn nvidia() -> SimulatedNvidia {
    NVIDIA.clone()
}

pub(crate) fn container(parts: Vec<GpuPart>) -> Bytes {
    GpuEvidence::new(parts).unwrap().write().unwrap()
}

pub(crate) fn evidence(gpus: &[SimulatedGpu]) -> Bytes {
    container(gpus.iter().map(|gpu| gpu.part(&NONCE)).collect())
}

/// Everything that the verifier asks for, answered by these services.
pub(crate) fn fetched(
    verifier: &GpuVerifier,
    evidence: &[u8],
    nvidia: &SimulatedNvidia,
    now: UnixSeconds,
) -> Collateral {
    let mut requests = Vec::new();
    for _ in 0..GpuVerifier::ROUNDS {
        let needed = verifier.collateral_needed(evidence, &nvidia.collateral(&requests, now));
        requests.extend(needed);
    }
    let collateral = nvidia.collateral(&requests, now);
    assert_eq!(verifier.collateral_needed(evidence, &collateral), [], "more rounds are needed than said");
    collateral
}

pub(crate) fn judge_with(
    policy: GpuPolicy,
    evidence: &[u8],
    nvidia: &SimulatedNvidia,
    now: UnixSeconds,
) -> GpuVerdict {
    let verifier = GpuVerifier::with_roots(policy, nvidia.roots());
    let collateral = fetched(&verifier, evidence, nvidia, now);
    verifier.verify(evidence, &collateral, &NONCE, now)
}

/// What the services answer about the first GPUs, once for all tests.
static COLLATERAL: LazyLock<Collateral> = LazyLock::new(|| {
    let verifier = GpuVerifier::with_roots(GpuPolicy::default(), nvidia().roots());
    let gpus: Vec<_> = (0..12).map(|number| nvidia().gpu(number)).collect();
    fetched(&verifier, &evidence(&gpus), &nvidia(), NOW)
});

/// Evidence of any of the first GPUs, with everything about them at hand.
pub(crate) fn judge_by(policy: GpuPolicy, evidence: &[u8]) -> GpuVerdict {
    GpuVerifier::with_roots(policy, nvidia().roots()).verify(evidence, &COLLATERAL, &NONCE, NOW)
}

pub(crate) fn judge(evidence: &[u8]) -> GpuVerdict {
    judge_by(GpuPolicy::default(), evidence)
}

pub(crate) fn failures(verdict: &GpuVerdict) -> Vec<&str> {
    let failed = verdict.checks.iter().filter(|check| check.outcome == Outcome::Failed);
    failed.map(|check| check.name.as_str()).collect()
}

pub(crate) fn outcome(verdict: &GpuVerdict, name: &str) -> Outcome {
    verdict.check(name).unwrap_or_else(|| panic!("no check {name} in {verdict:#?}")).outcome
}
