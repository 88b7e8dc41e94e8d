//! TLS to a PCCS, whose certificate is one of its own.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use cocoon_attest::tdx::collateral;
use cocoon_collateral::{FetcherOptions, OptionsError, PccsTrust};
use cocoon_tee::simulated::tdx::SimulatedIntel;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use support::{NOW, Reply, TestClock, Vendor, ask, fetcher, options, path, pem};
use tokio_rustls::TlsAcceptor;

fn acceptor(certificate: CertificateDer<'static>, key: &KeyPair) -> TlsAcceptor {
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

fn root_list() -> Bytes {
    let all = SimulatedIntel::from_seed(&[7; 32]).collateral(NOW);
    all.get(&collateral::root_crl()).unwrap().clone()
}

/// What comes of asking a PCCS that shows this certificate.
async fn asked(tls: TlsAcceptor, trust: PccsTrust) -> Result<Bytes, String> {
    let vendor = Vendor::start_with(Some(tls)).await;
    vendor.says(&path(&collateral::root_crl()), Reply::ok(hex::encode(root_list())));
    let options = FetcherOptions { pccs_trust: trust, ..options(&vendor.url) };
    match ask(&fetcher(&options, &TestClock::at(NOW)), &collateral::root_crl()).await {
        (Some(body), None) => Ok(body),
        (_, note) => Err(note.unwrap()),
    }
}

fn file(folder: &tempfile::TempDir, name: &str, pem: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, pem).unwrap();
    path
}

#[tokio::test]
async fn a_certificate_that_a_pccs_made_itself_is_taken_only_where_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    for is_ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
        // Another host's name, as installers put it there.
        let mut params = CertificateParams::new(vec!["pccs.example".to_owned()]).unwrap();
        params.is_ca = is_ca;
        let own = params.self_signed(&key).unwrap();
        let strangers = params.self_signed(&other).unwrap();
        let listed = file(&folder, "own.pem", &pem(own.der()));
        let strangers = file(&folder, "strangers.pem", &pem(strangers.der()));
        let tls = acceptor(own.der().clone(), &key);
        let hexed = Bytes::from(hex::encode(root_list()));
        assert_eq!(asked(tls.clone(), PccsTrust::Anybody).await, Ok(hexed.clone()));
        assert_eq!(asked(tls.clone(), PccsTrust::CaFile(listed)).await, Ok(hexed));
        for trust in [PccsTrust::PublicRoots, PccsTrust::CaFile(strangers)] {
            let refused = asked(tls.clone(), trust.clone()).await.unwrap_err();
            assert!(refused.contains("certificate"), "{trust:?}: {refused}");
        }
    }
}

#[tokio::test]
async fn a_listed_authority_vouches_for_the_host_it_names_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let listed = file(&folder, "ca.pem", &pem(authority.der()));
    for (host, is_good) in [("localhost", true), ("pccs.example", false)] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let came = asked(acceptor(certificate.der().clone(), &key), PccsTrust::CaFile(listed.clone())).await;
        assert_eq!(came.is_ok(), is_good, "{host}: {came:?}");
    }
}

#[test]
fn a_file_without_certificates_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let endless = file(&folder, "long.pem", &"#".repeat((1 << 20) + 1));
    for path in [file(&folder, "empty.pem", ""), endless, folder.path().join("missing.pem")] {
        let options =
            FetcherOptions { pccs_trust: PccsTrust::CaFile(path.clone()), ..FetcherOptions::default() };
        let error = cocoon_collateral::Fetcher::new(&options, Arc::new(|| NOW)).unwrap_err();
        assert!(matches!(error, OptionsError::CaFile { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}
