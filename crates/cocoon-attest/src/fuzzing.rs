//! Entry points for fuzzing, run over random bytes by the fuzzer and over a corpus by the tests.

use crate::gpu::{self, GpuAttestation, GpuEvidence, GpuPolicy, GpuRoots, GpuVerifier};
use crate::snp::{self, SnpCertificates, SnpEvidence, SnpPolicy, SnpRoots, SnpVerifier};
use crate::tdx::{self, TdxPolicy, TdxVerifier};
use crate::{
    Collateral, Evidence, EvidenceKind, PeerCertificate, PeerRole, Policy, ReportData, TdxQuote, UnixSeconds,
    Verdict, Verifier as _, VerifierSet,
};

/// Takes any bytes through everything a peer's certificate goes through. Must return for every input.
pub fn peer_certificate(bytes: &[u8]) {
    let Ok(certificate) = PeerCertificate::parse(bytes) else {
        return;
    };
    let now = certificate.validity().not_before;
    for role in [PeerRole::Server, PeerRole::Client] {
        for time in [now, UnixSeconds(0), UnixSeconds(u64::MAX)] {
            // Either answer is fine; returning is what is tested.
            let _ = certificate.check(time, role);
        }
    }
    let evidence = certificate.evidence();
    let verdict =
        VerifierSet::built_in().verify(evidence, &Collateral::none(), &certificate.report_data(), now);
    let unchecked = Verdict::unchecked(evidence.kind(), "fuzzing");
    assert!(!Policy::fake_tdx().decide(&unchecked).is_allowed(), "unverified evidence was let in");
    let _ = Policy::fake_tdx().decide(&verdict);
    let _ = TdxQuote::parse(evidence.bytes());
}

/// Takes any bytes through everything that reads TDX evidence and its collateral. Must return for every input.
pub fn tdx_evidence(bytes: &[u8]) {
    let evidence = Evidence::new(EvidenceKind::Tdx, bytes.to_vec().into());
    let intel = TdxVerifier::new(TdxPolicy::strict());
    // Trusting the root that comes along lets the search get past it.
    let verifier = tdx::root_that_comes_along(bytes)
        .and_then(|root| intel.clone().with_test_root(&root).ok())
        .unwrap_or(intel);
    let mut collateral = Collateral::none();
    // The same bytes once more as the answer to everything that they ask for.
    for request in verifier.collateral_needed(&evidence) {
        collateral.insert(request, evidence.bytes().clone());
    }
    for collateral in [Collateral::none(), collateral] {
        let verdict =
            verifier.verify(&evidence, &collateral, &ReportData([0; 64]), UnixSeconds(1_795_228_887));
        assert!(!verdict.accepted(), "a quote was accepted without collateral");
    }
    tdx::read_collateral(bytes);
}

/// Takes any bytes through everything that reads SNP evidence and its collateral. Must return for every input.
pub fn snp_evidence(bytes: &[u8]) {
    if let Ok(parsed) = SnpEvidence::parse(bytes) {
        let table = parsed.certificates.write();
        assert_eq!(SnpCertificates::parse(&table), Ok(parsed.certificates), "a table changed on its way");
    }
    let evidence = Evidence::new(EvidenceKind::SevSnp, bytes.to_vec().into());
    // Trusting the root that comes along lets the search get past it; accepting no product, that nothing passes.
    let roots = snp::root_that_comes_along(bytes).unwrap_or_else(SnpRoots::amd);
    let verifier = SnpVerifier::with_roots(SnpPolicy::with_floors([]), roots);
    let mut collateral = Collateral::none();
    // The same bytes once more as the answer to everything that they ask for.
    for request in verifier.collateral_needed(&evidence) {
        collateral.insert(request, evidence.bytes().clone());
    }
    for collateral in [Collateral::none(), collateral] {
        let verdict =
            verifier.verify(&evidence, &collateral, &ReportData([0; 64]), UnixSeconds(1_795_228_887));
        assert!(!verdict.accepted(), "a product was accepted that no policy allows");
    }
    snp::read_collateral(bytes);
}

/// Takes any bytes through everything that reads GPU evidence and its collateral. Must return for every input.
pub fn gpu_evidence(bytes: &[u8]) {
    if let Ok(parsed) = GpuEvidence::parse(bytes) {
        assert_eq!(parsed.write().as_deref(), Ok(bytes), "a container changed on its way");
        for part in parsed.gpus() {
            let _ = GpuAttestation::parse(&part.report);
        }
    }
    let _ = GpuAttestation::parse(bytes);
    // Trusting the root that comes along lets the search get past it; asking for no GPU, that nothing passes.
    let roots = gpu::root_that_comes_along(bytes).unwrap_or_else(GpuRoots::nvidia);
    let verifier = GpuVerifier::with_roots(GpuPolicy { max_gpus: 0, ..GpuPolicy::default() }, roots);
    let mut collateral = Collateral::none();
    // The same bytes once more as the answer to everything that they ask for.
    for request in verifier.collateral_needed(bytes, &Collateral::none()) {
        collateral.insert(request, bytes.to_vec().into());
    }
    for collateral in [Collateral::none(), collateral] {
        let verdict = verifier.verify(bytes, &collateral, &[0; 32], UnixSeconds(1_795_228_887));
        assert!(!verdict.accepted(), "GPUs were accepted where none may be");
    }
    gpu::read_collateral(bytes);
}
