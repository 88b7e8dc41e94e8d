#![allow(clippy::unwrap_used)]

use std::time::Instant;

use cocoon_attest::{Policy, VerifierSet};
use cocoon_chain::StaticChain;
use cocoon_engine::{Engine, EngineError, EngineHealth, EngineRequest, EngineResponse};
use cocoon_net::{Clock as _, DialOptions, NodeIdentity, NodeKey, SystemClock, TlsSettings};
use cocoon_session::worker::Work;
use cocoon_wire::codec::ByteStr;
use cocoon_wire::tl::http;
use futures_util::future::BoxFuture;

use super::*;
use crate::{Worker, WorkerConfig};

const PATIENCE: Duration = Duration::from_secs(10);
const OWNER: Address = Address::basechain([1; 32]);

/// Fails its one call when the test says so.
struct Failing {
    called: Arc<Notify>,
    fail: Arc<Notify>,
}

impl Engine for Failing {
    fn call(&self, _: EngineRequest) -> BoxFuture<'_, Result<EngineResponse, EngineError>> {
        Box::pin(async {
            self.called.notify_one();
            self.fail.notified().await;
            Err(EngineError::Broken("as the test wants".into()))
        })
    }

    fn probe(&self) -> BoxFuture<'_, EngineHealth> {
        Box::pin(async { EngineHealth { ready: true, models: Vec::new(), detail: None } })
    }
}

async fn start(dir: &std::path::Path, engine: Failing) -> Worker {
    let config = WorkerConfig {
        http: ([127, 0, 0, 1], 0).into(),
        // Nobody is there.
        proxies: vec!["127.0.0.1:1".into()],
        owner: OWNER,
        model: "test/model".into(),
        model_files: None,
        coefficient: 1000,
        follow_load: None,
        max_active: 1,
        max_body_bytes: crate::DEFAULT_MAX_BODY_BYTES,
        root_address: OWNER,
        is_test: true,
        is_testnet: false,
        extensions: true,
        check_proxy_hashes: false,
        dial: DialOptions { max_difficulty: 8, timeout: PATIENCE },
        store: dir.join("worker.db"),
        settlement: None,
        paused: false,
        tracing: None,
    };
    let evidence = cocoon_tee::open("none").unwrap();
    let identity = NodeIdentity::new(NodeKey::generate(), evidence, SystemClock.now()).unwrap();
    let verifiers = Arc::new(VerifierSet::built_in());
    let tls = TlsSettings::new(identity, verifiers, Policy::any(), None, Arc::new(SystemClock)).unwrap();
    let chain = Arc::new(StaticChain::from_config(RootConfig::test_mode(OWNER)).unwrap());
    crate::start(config, tls, chain, Arc::new(engine)).await.unwrap()
}

fn work() -> Work {
    let text = ByteStr::from_static;
    let request = http::Request {
        method: text("POST"),
        url: text("/v1/chat/completions"),
        http_version: text("HTTP/1.1"),
        headers: Vec::new(),
        payload: Bytes::from_static(br#"{"model":"test/model","messages":[]}"#),
    };
    let timeout = Duration::from_secs(60);
    Work {
        id: [1; 32],
        request,
        body_bytes: None,
        coefficient: 1000,
        timeout,
        enable_debug: false,
        trace: None,
    }
}

/// Otherwise a proxy that answers the last word with its next request is told that there is no room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_is_free_before_the_last_word_can_be_heard() {
    let (dir, called, fail) = (tempfile::TempDir::new().unwrap(), Arc::default(), Arc::default());
    let worker = start(dir.path(), Failing { called: Arc::clone(&called), fail: Arc::clone(&fail) }).await;
    let shared = &worker.shared;
    let settings = settings(shared, 1, false);
    let link = Arc::new(Link::new(settings, None, shared.now(), CancellationToken::new()));
    let running = Arc::new(Running::default());
    let task = tokio::spawn(work::run(Arc::clone(shared), Arc::clone(&link), work(), running));
    tokio::time::timeout(PATIENCE, called.notified()).await.unwrap();
    {
        // Without this nothing is sent.
        let _machine = link.lock();
        fail.notify_one();
        let since = Instant::now();
        while shared.active.load(Ordering::Acquire) > 0 {
            assert!(since.elapsed() < PATIENCE, "the place is free only after the last word");
            std::thread::yield_now();
        }
    }
    tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
    assert_eq!(shared.counts.failed.load(Ordering::Relaxed), 1, "the engine was asked, and failed");
}
