//! Vendors' services that hang: a peer is told what is missing, before the time of its set-up is over.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use cocoon_attest::snp::{SnpPolicy, SnpVerifier};
use cocoon_attest::{EvidenceKind, Policy, VerifierSet};
use cocoon_collateral::{Fetcher, FetcherOptions};
use cocoon_net::{
    AcceptOptions, Clock as _, DialOptions, NodeIdentity, NodeKey, SystemClock, TlsSettings, accept, dial,
};
use cocoon_tee::simulated::Vendors;
use tokio::net::TcpListener;

/// Takes connections, and says nothing.
async fn hanging_service() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.unwrap());
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acceptor_whose_service_hangs_names_it_in_its_refusal() {
    let clock = Arc::new(SystemClock);
    let vendors = Vendors::from_seed(&[7; 32]);
    let source = vendors.source(EvidenceKind::SevSnp, 1, "worker").unwrap();
    let identity = |source| NodeIdentity::new(NodeKey::generate(), source, clock.now()).unwrap();
    let nothing = identity(cocoon_tee::open("none").unwrap());
    let snp = SnpVerifier::with_roots(SnpPolicy::with_floors(vendors.snp_floors()), vendors.snp_roots());
    let verifiers = VerifierSet::new().with(EvidenceKind::SevSnp, Arc::new(snp));
    let options = FetcherOptions { kds_url: hanging_service().await, ..FetcherOptions::default() };
    let fetcher = Fetcher::new(&options, Arc::new(|| SystemClock.now())).unwrap();
    let demanding = Policy::tee();
    let acceptor = TlsSettings::new(
        nothing,
        Arc::new(verifiers),
        demanding,
        Some(Arc::new(fetcher)),
        Arc::new(SystemClock),
    );
    let acceptor = acceptor.unwrap();
    let verifiers = Arc::new(VerifierSet::new());
    let dialler =
        TlsSettings::new(identity(source), verifiers, Policy::any(), None, Arc::new(SystemClock)).unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let accept_options = AcceptOptions { difficulty: 4, timeout: Duration::from_secs(60) };
    let dial_options = DialOptions::default();
    let begun = Instant::now();
    let accepting = async { accept(listener.accept().await.unwrap().0, &acceptor, &accept_options).await };
    let (accepted, _dialled) = tokio::join!(accepting, dial(&address, &dialler, &dial_options));
    let refusal = accepted.unwrap_err().to_string();
    assert!(refusal.contains("AMD's KDS has not answered yet"), "{refusal}");
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}
