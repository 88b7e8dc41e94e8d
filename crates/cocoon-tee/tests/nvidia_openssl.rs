//! OpenSSL, which knows nothing of us, reads and verifies the simulated chains and answers about revocation, and asks
//! the same questions as the verifier does.
//!
//! Skipped, saying so, where there is no OpenSSL 3.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/openssl.rs"]
mod openssl;
#[path = "support/nvidia.rs"]
mod support;

use cocoon_attest::gpu::{GpuCollateral, GpuPolicy, GpuVerifier};
use cocoon_attest::{Collateral, UnixSeconds};
use cocoon_tee::simulated::nvidia::StatusForm;
use openssl::{openssl, openssl_3_is_here};
use support::{NONCE, NOW, evidence, nvidia};

#[test]
fn openssl_verifies_the_simulated_chain_and_the_answers_about_it() {
    if !openssl_3_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let chain = nvidia().gpu(0).part(&NONCE).chain;
    for (number, der) in chain.iter().enumerate() {
        std::fs::write(folder.join(format!("{number}.der")), der).unwrap();
        let (fine, said) = openssl(folder, &format!("x509 -inform der -in {number}.der -out {number}.pem"));
        assert!(fine, "{said}");
    }
    let read = |number| std::fs::read_to_string(folder.join(format!("{number}.pem"))).unwrap();
    std::fs::write(folder.join("between.pem"), [read(1), read(2), read(3)].concat()).unwrap();
    let at = NOW.0;
    let (fine, said) =
        openssl(folder, &format!("verify -attime {at} -CAfile 4.pem -untrusted between.pem 0.pem"));
    assert!(fine, "{said}");
    let verifier = GpuVerifier::with_roots(GpuPolicy::default(), nvidia().roots());
    let asked = verifier.collateral_needed(&evidence(&[nvidia().gpu(0)]), &Collateral::none());
    let asked: Vec<_> = asked.iter().filter_map(GpuCollateral::of).collect();
    for subject in 1..4 {
        let pair = format!("ocsp -issuer {}.pem -cert {subject}.pem -no_nonce", subject + 1);
        let (fine, said) = openssl(folder, &format!("{pair} -reqout request"));
        assert!(fine, "{said}");
        let request = std::fs::read(folder.join("request")).unwrap();
        assert!(asked.contains(&GpuCollateral::Status(request.clone())), "OpenSSL asks otherwise");
        // OpenSSL compares the answer's time with the machine's clock: from 2024 on, for 75 years.
        let form = StatusForm::lasting(UnixSeconds(1_704_067_200), 75 * 365 * 86_400);
        let answer = nvidia().status(&request, &form).unwrap();
        std::fs::write(folder.join("answer"), answer).unwrap();
        let trust = format!("-CAfile 4.pem -verify_other between.pem -attime {at}");
        let (fine, said) = openssl(folder, &format!("{pair} -respin answer {trust}"));
        assert!(fine && said.contains("Response verify OK") && said.contains(": good"), "{said}");
    }
}
