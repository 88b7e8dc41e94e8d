//! OpenSSL, which knows nothing of us, reads and verifies the simulated certificates and revocation lists.
//!
//! Skipped, saying so, where there is no OpenSSL 3.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/openssl.rs"]
mod openssl;
#[path = "support/snp.rs"]
mod support;

use cocoon_attest::snp::SnpProduct;
use openssl::{openssl, openssl_3_is_here};
use support::{NOW, machine};

#[test]
fn openssl_verifies_the_simulated_chains_and_lists() {
    if !openssl_3_is_here() {
        return;
    }
    for product in SnpProduct::ALL {
        for machine in [machine(product), machine(product).with_vlek()] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            let vlek = machine.endorsement_form().by_asvk;
            let authority = if vlek { machine.amd().asvk() } else { machine.amd().ask() };
            let files = [
                ("ark", machine.amd().ark()),
                ("ask", authority),
                ("key", &machine.endorsement()),
                ("crl", &machine.revocation_list().unwrap()),
            ];
            for (name, der) in files {
                std::fs::write(folder.join(name), der).unwrap();
            }
            for name in ["ark", "ask"] {
                let (fine, said) = openssl(folder, &format!("x509 -inform der -in {name} -out {name}.pem"));
                assert!(fine, "{said}");
            }
            let at = NOW.0;
            let chain = format!("verify -attime {at} -CAfile ark.pem -untrusted ask.pem key");
            let (fine, said) = openssl(folder, &chain);
            assert!(fine, "{said}");
            let (fine, said) = openssl(folder, "crl -inform der -in crl -CAfile ark.pem -noout");
            assert!(fine && said.contains("verify OK"), "{said}");
            // A root that did not sign is no root of this chain.
            let (fine, _) = openssl(folder, &format!("verify -attime {at} -CAfile ask.pem key"));
            assert!(!fine);
        }
    }
}
