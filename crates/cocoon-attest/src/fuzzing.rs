//! Entry points for fuzzing, run over random bytes by the fuzzer and over a corpus by the tests.

use crate::{
    Collateral, PeerCertificate, PeerRole, Policy, TdxQuote, UnixSeconds, Verdict, Verifier as _, VerifierSet,
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
        VerifierSet::built_in().verify(&evidence, &Collateral::none(), &certificate.report_data(), now);
    let unchecked = Verdict::unchecked(evidence.kind(), "fuzzing");
    assert!(!Policy::fake_tdx().decide(&unchecked).is_allowed(), "unverified evidence was let in");
    let _ = Policy::fake_tdx().decide(&verdict);
    let _ = TdxQuote::parse(evidence.bytes());
}
