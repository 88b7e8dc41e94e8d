//! Image hashes and models that the root configuration lists.

use std::sync::Arc;

use cocoon_attest::Policy;
use cocoon_network_tests::{
    FixedEngine, Log, MODEL, Network, Options, RawPeer, root, tls, within, worker_params,
};
use cocoon_ton::RootConfig;
use cocoon_ton::root::model_hash;
use cocoon_wire::tl::worker;

/// The one image hash of simulated evidence: SHA-256 of 448 zero bytes, which start so.
const FAKE_PREFIX: &str = "5c55c8f4";

fn listed(worker_hashes: &[[u8; 32]], models: &[&str]) -> RootConfig {
    let mut root = root();
    root.worker_hashes = worker_hashes.iter().copied().collect();
    root.model_hashes = models.iter().map(|model| model_hash(model)).collect();
    root
}

/// That hash.
pub(crate) fn fake_hash() -> [u8; 32] {
    use cocoon_attest::{
        Collateral, EvidenceSource as _, FakeTdxVerifier, ReportData, UnixSeconds, Verifier as _,
    };
    let report = ReportData::for_key(&[1; 32]);
    let evidence = cocoon_tee::FakeTdx.evidence(&report).unwrap();
    let verdict = FakeTdxVerifier.verify(&evidence, &Collateral::none(), &report, UnixSeconds(0));
    verdict.image_hash.unwrap()
}

#[tokio::test]
async fn workers_images_must_be_listed_and_a_changed_list_counts_at_once() {
    let log = Log::capture();
    let options = Options {
        check_worker_hashes: true,
        worker_policy: Policy::fake_tdx(),
        root: listed(&[[1; 32]], &[MODEL]),
        ..Options::default()
    };
    let policy = Policy::fake_tdx();
    let network = Network::with_tls(options, tls("fake_tdx", policy), tls("none", Policy::any())).await;
    let engine = Arc::new(FixedEngine("hello".into()));
    let show = || tls("fake_tdx", Policy::fake_tdx());
    let config = network.worker_config(1);
    let worker = cocoon_worker::start(config, show(), network.chain.clone(), engine.clone()).await.unwrap();
    let refused = log.wait("the refusal", |line| line.message == "refused a connection").await;
    assert!(refused.field("cause").contains(FAKE_PREFIX), "{refused:?}");
    assert!(!refused.field("peer").is_empty());

    let mut root = listed(&[[1; 32], fake_hash()], &[MODEL]);
    root.version = 2;
    network.chain.replace(root).unwrap();
    within("the worker to be let in", worker.ready()).await;
    let client = network.client(11).await;
    network.assert_serves(&client).await;

    let mut root = listed(&[], &[MODEL]);
    root.version = 3;
    network.chain.replace(root).unwrap();
    let refusals = log.lines().iter().filter(|line| line.message == "refused a connection").count();
    let config = network.worker_config(2);
    let late = cocoon_worker::start(config, show(), network.chain.clone(), engine).await.unwrap();
    log.wait_count("another refusal", refusals + 1, |line| line.message == "refused a connection").await;
    let _ = late;
}

#[tokio::test]
async fn models_must_be_listed_where_hashes_are_checked() {
    let log = Log::capture();
    let options = Options {
        check_worker_hashes: true,
        worker_policy: Policy::fake_tdx(),
        root: listed(&[fake_hash()], &["other/model"]),
        ..Options::default()
    };
    let network =
        Network::with_tls(options, tls("fake_tdx", Policy::fake_tdx()), tls("none", Policy::any())).await;
    let show = tls("fake_tdx", Policy::fake_tdx());
    let options = cocoon_net::DialOptions { max_difficulty: 8, ..Default::default() };
    let stream = cocoon_net::dial(&network.proxy.workers_addr().to_string(), &show, &options).await.unwrap();
    let mut peer = RawPeer::over(stream);
    peer.send(&cocoon_wire::tl::tcp::Packet::Connect { id: 1 }).await;
    let connect = worker::ConnectToProxy { params: worker_params(1, 1000) };
    let refused = peer.query::<worker::ConnectedToProxy>(&connect).await.unwrap_err();
    assert!(refused.contains("invalid worker model"), "{refused}");
    peer.closed().await;
    log.closed(peer.local, "invalid worker model").await;
}

#[tokio::test]
async fn a_worker_gives_itself_only_to_proxies_whose_image_is_listed() {
    let log = Log::capture();
    let show = || tls("fake_tdx", Policy::fake_tdx());
    let network = Network::with_tls(Options::default(), show(), tls("none", Policy::any())).await;
    let mut config = network.worker_config(1);
    config.check_proxy_hashes = true;
    let engine = Arc::new(FixedEngine("hello".into()));
    let worker = cocoon_worker::start(config, show(), network.chain.clone(), engine).await.unwrap();
    let refused = log.wait("the refusal", |line| line.message == "cannot connect to a proxy").await;
    assert!(refused.field("cause").contains(FAKE_PREFIX), "{refused:?}");
    let mut root = root();
    root.proxy_hashes.insert(fake_hash());
    root.version = 2;
    network.chain.replace(root).unwrap();
    within("the worker to come", worker.ready()).await;
}
