//! Entry points for fuzzing, run over random bytes by the fuzzer and over a corpus by the tests.

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
