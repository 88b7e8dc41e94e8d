//! A simulated machine with GPUs before the verifier that production uses.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use bytes::Bytes;
use cocoon_attest::gpu::{GpuEvidence, GpuPart, GpuPolicy, GpuVerdict, GpuVerifier};
use cocoon_attest::{Collateral, Outcome, UnixSeconds};
use cocoon_tee::simulated::nvidia::{SimulatedGpu, SimulatedNvidia};

/// 2026-11-21.
pub const NOW: UnixSeconds = UnixSeconds(1_795_228_887);
pub const NONCE: [u8; 32] = [0x5a; 32];

pub fn nvidia() -> SimulatedNvidia {
    SimulatedNvidia::from_seed(&[1; 32])
}

pub fn container(parts: Vec<GpuPart>) -> Bytes {
    GpuEvidence::new(parts).unwrap().write().unwrap()
}

pub fn evidence(gpus: &[SimulatedGpu]) -> Bytes {
    container(gpus.iter().map(|gpu| gpu.part(&NONCE)).collect())
}

/// Everything that the verifier asks for, answered by these services.
pub fn fetched(
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

pub fn judge_with(
    policy: GpuPolicy,
    evidence: &[u8],
    nvidia: &SimulatedNvidia,
    now: UnixSeconds,
) -> GpuVerdict {
    let verifier = GpuVerifier::with_roots(policy, nvidia.roots());
    let mut requests = Vec::new();
    for _ in 0..GpuVerifier::ROUNDS {
        let needed = verifier.collateral_needed(evidence, &nvidia.collateral(&requests, now));
        requests.extend(needed);
    }
    verifier.verify(evidence, &nvidia.collateral(&requests, now), &NONCE, now)
}

pub fn judge(evidence: &[u8]) -> GpuVerdict {
    judge_with(GpuPolicy::default(), evidence, &nvidia(), NOW)
}

pub fn failures(verdict: &GpuVerdict) -> Vec<&str> {
    let failed = verdict.checks.iter().filter(|check| check.outcome == Outcome::Failed);
    failed.map(|check| check.name.as_str()).collect()
}

pub fn outcome(verdict: &GpuVerdict, name: &str) -> Outcome {
    verdict.check(name).unwrap_or_else(|| panic!("no check {name} in {verdict:#?}")).outcome
}
