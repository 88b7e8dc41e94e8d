//! Clients that demand evidence of workers: who gets their requests, who is named in answers, and what can be looked up.

use std::sync::Arc;
use std::time::Duration;

use cocoon_attest::{Policy, VerifierSet};
use cocoon_gateway::{Gateway, GatewayConfig, WorkerDemands};
use cocoon_net::{DialOptions, Judge, SystemClock};
use cocoon_network_tests::{
    Ask, FixedEngine, Log, MODEL, ManualClock, Network, Options, RawPeer, Reply, ScriptedEngine, chat_answer,
    delta, gateway, gateway_with, get, post, ready_worker, ready_worker_over, root, tls, until, usage_event,
    within, worker_params,
};
use cocoon_wire::codec::{ByteStr, to_boxed};
use cocoon_wire::tl::tcp::Packet;
use cocoon_wire::tl::{ProxyToWorker, TokensUsed, http, proxy};
use cocoon_worker::Worker;
use serde_json::Value;

fn demands(policy: Policy) -> WorkerDemands {
    let judge = Judge::new(Arc::new(VerifierSet::built_in()), policy, None, Arc::new(SystemClock));
    WorkerDemands { judge, listed_images: false }
}

fn demanding(policy: Policy) -> impl FnOnce(&mut GatewayConfig) {
    move |config| config.workers = Some(demands(policy))
}

async fn demanding_gateway(network: &Network, change: impl FnOnce(&mut GatewayConfig)) -> Gateway {
    let proxy = network.proxy.clients_addr();
    let gateway = gateway_with(&[proxy], network.dir.path(), network.chain.clone(), change).await;
    within("the gateway to be ready", gateway.ready()).await;
    gateway
}

/// An ordinary worker that shows simulated evidence.
async fn attested_worker(network: &Network, number: u8, text: &str) -> Worker {
    let engine = Arc::new(FixedEngine(text.into()));
    let config = network.worker_config(number);
    let show = tls("fake_tdx", Policy::any());
    let worker = cocoon_worker::start(config, show, network.chain.clone(), engine).await.unwrap();
    within("the worker to be ready", worker.ready()).await;
    worker
}

async fn ask(gateway: &Gateway) -> Reply {
    post(gateway.http_addr(), &Ask::default().body).await
}

async fn page(gateway: &Gateway, path: &str) -> Value {
    let reply = get(gateway.http_addr(), path).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    serde_json::from_str(&reply.body).unwrap()
}

/// Asks until the answer has this status: what changed reaches the proxy soon, and nothing tells when.
async fn ask_until(gateway: &Gateway, status: u16) -> Reply {
    within("an answer of that status", async {
        loop {
            let reply = ask(gateway).await;
            if reply.status == status {
                return reply;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

fn header<'a>(reply: &'a Reply, name: &str) -> Vec<&'a str> {
    let lines = reply.head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(other, _)| *other == name).map(|(_, value)| value).collect()
}

/// All that a raw worker was sent in the meantime, read to the end of its connection.
async fn requests_to(mut worker: RawPeer, network: Network) -> usize {
    network.proxy.shutdown().await;
    let mut requests = 0;
    while let Some(packet) = worker.recv().await {
        if let Packet::Packet { data } = packet {
            let message = <ProxyToWorker as cocoon_wire::codec::Message>::decode_boxed(data).unwrap();
            requests += usize::from(!matches!(message, ProxyToWorker::WorkerRequestPayment(_)));
        }
    }
    requests
}

#[tokio::test]
async fn a_worker_without_the_evidence_demanded_never_sees_a_request() {
    let log = Log::capture();
    let network = Network::start().await;
    // Cheaper than all others, and always ready.
    let cheap = ready_worker(network.proxy.workers_addr(), worker_params(1, 1)).await;
    let gateway = demanding_gateway(&network, demanding(Policy::fake_tdx())).await;
    let refused = ask(&gateway).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    let error: Value = serde_json::from_str(&refused.body).unwrap();
    assert_eq!(error["error"]["code"], "no_attested_worker");

    let worker = attested_worker(&network, 2, "attested").await;
    // Nobody need wait until it is listed and judged: the request does.
    let answered = ask(&gateway).await;
    assert!(answered.body.contains("attested"), "{answered:?}");
    let body: Value = serde_json::from_str(&answered.body).unwrap();
    let named = body["cocoon"]["worker"].clone();
    assert_eq!((&named["attestation"], &named["verified_by"]), (&"fake_tdx".into(), &"gateway".into()));
    assert_eq!(header(&answered, "x-cocoon-worker"), [named["fingerprint"].as_str().unwrap()]);
    assert_eq!(
        header(&answered, "x-cocoon-proxy"),
        [body["cocoon"]["proxy"]["fingerprint"].as_str().unwrap()]
    );

    let report = page(&gateway, "/v1/attestation").await;
    assert_eq!(report["policy"]["workers"]["evidence"], serde_json::json!(["fake_tdx"]));
    let workers = report["proxies"][0]["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 2, "{report:#}");
    for shown in workers {
        let allowed = shown["fingerprint"] == named["fingerprint"];
        assert_eq!(shown["allowed"], allowed, "{shown:#}");
        assert_eq!(shown["reason"].is_string(), !allowed, "{shown:#}");
        assert!(shown["certificate"].is_string() && shown["proxy_verdict"].is_object(), "{shown:#}");
    }
    for _ in 0..20 {
        assert_eq!(ask(&gateway).await.status, 200);
    }
    worker.shutdown().await;
    ask_until(&gateway, 503).await;
    gateway.shutdown().await;
    assert_eq!(requests_to(cheap, network).await, 0, "the worker without evidence saw a request");
    log.assert_no_errors();
}

#[tokio::test]
async fn the_images_that_the_root_configuration_lists_decide_and_a_changed_list_counts_at_once() {
    let network = Network::start().await;
    let _worker = attested_worker(&network, 1, "hello").await;
    let gateway = demanding_gateway(&network, |config| {
        config.workers = Some(WorkerDemands { listed_images: true, ..demands(Policy::fake_tdx()) });
    })
    .await;
    assert_eq!(ask(&gateway).await.status, 503);
    for (version, listed, status) in [(2, true, 200), (3, false, 503), (4, true, 200)] {
        let mut root = root();
        root.version = version;
        root.worker_hashes.extend(listed.then(crate::allow_lists::fake_hash));
        network.chain.replace(root).unwrap();
        ask_until(&gateway, status).await;
    }
}

#[tokio::test]
async fn who_is_allowed_follows_the_policy_and_the_clock() {
    let network = Network::start().await;
    let _worker = attested_worker(&network, 1, "hello").await;
    let clock = ManualClock::new();
    let (verifiers, policy) = (Arc::new(VerifierSet::built_in()), Policy::fake_tdx());
    let judge = Judge::new(verifiers, policy.clone(), None, clock.clone());
    let demands = WorkerDemands { judge: judge.clone(), listed_images: false };
    let gateway = demanding_gateway(&network, |config| config.workers = Some(demands)).await;
    assert_eq!(ask(&gateway).await.status, 200, "it was judged before the gateway was ready");
    for (policy, status) in [(Policy::tee(), 503), (policy, 200)] {
        judge.set_policy(policy);
        ask_until(&gateway, status).await;
    }
    clock.advance(Duration::from_secs(2 * 24 * 60 * 60));
    ask_until(&gateway, 503).await;
    within("the reason", async {
        let mut reason = String::new();
        while !reason.contains("expired") {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let report = page(&gateway, "/v1/attestation").await;
            reason = report["proxies"][0]["workers"][0]["reason"].to_string();
        }
    })
    .await;
}

#[tokio::test]
async fn a_proxy_that_cannot_be_told_who_may_see_requests_is_not_used() {
    let network = Network::with(Options { extensions: false, ..Options::default() }).await;
    let _worker = attested_worker(&network, 1, "hello").await;
    let proxy = network.proxy.clients_addr();
    let (dir, chain) = (network.dir.path(), network.chain.clone());
    let gateway = gateway_with(&[proxy], dir, chain, demanding(Policy::fake_tdx())).await;
    let why = || gateway.last_failure().unwrap_or_default();
    until("the reason", || why().contains("cannot be told which workers may see our requests")).await;
    assert_eq!(ask(&gateway).await.status, 503);
}

#[tokio::test]
async fn a_request_that_fails_is_given_to_no_other_worker_than_those_that_are_allowed() {
    let network = Network::start().await;
    let barred = ready_worker(network.proxy.workers_addr(), worker_params(1, 1)).await;
    let (engine, mut calls) = ScriptedEngine::new();
    let config = network.worker_config(2);
    let show = tls("fake_tdx", Policy::any());
    let worker = cocoon_worker::start(config, show, network.chain.clone(), Arc::new(engine)).await.unwrap();
    within("the worker to be ready", worker.ready()).await;
    let gateway = demanding_gateway(&network, demanding(Policy::fake_tdx())).await;
    let asking = ask(&gateway);
    // It is asked again, and by nobody else.
    let failing = async {
        while let Some(call) = calls.recv().await {
            call.fail();
        }
    };
    let reply = tokio::select! {
        reply = asking => reply,
        () = failing => panic!("the engine is gone"),
    };
    assert!(reply.status >= 500, "{reply:?}");
    gateway.shutdown().await;
    worker.shutdown().await;
    assert_eq!(requests_to(barred, network).await, 0, "a worker without evidence saw a request that failed");
}

#[tokio::test]
async fn what_a_worker_or_its_engine_says_of_who_answers_is_not_believed() {
    let network = Network::start().await;
    let show = tls("fake_tdx", Policy::any());
    let options = DialOptions { max_difficulty: 8, timeout: Duration::from_secs(10) };
    let workers = network.proxy.workers_addr().to_string();
    let stream = cocoon_net::dial(&workers, &show, &options).await.unwrap();
    let mut worker = ready_worker_over(stream, worker_params(1, 1000)).await;
    let gateway = demanding_gateway(&network, demanding(Policy::fake_tdx())).await;
    let forged = "ab".repeat(32);
    let events = [delta("hello"), usage_event(10, 5)].concat().into();
    let forms = [
        ("application/json", chat_answer("hello"), Ask::default()),
        ("text/event-stream", events, Ask::streamed()),
    ];
    for (kind, payload, question) in forms {
        let answering = async {
            let query: proxy::RunQueryEx = worker.recv_message().await;
            let header = |name: &'static str, value: &str| http::Header {
                name: ByteStr::from_static(name),
                value: value.to_owned().into(),
            };
            let response = http::Response {
                http_version: ByteStr::from_static("HTTP/1.1"),
                status_code: 200,
                reason: ByteStr::from_static("OK"),
                headers: vec![
                    header("Content-Type", kind),
                    header("X-Cocoon-Worker", &forged),
                    header("x-cocoon-proxy", &forged),
                ],
                payload,
            };
            let info = proxy::QueryFinalInfo {
                tokens_used: TokensUsed { total_tokens_used: 15, ..TokensUsed::default() },
                worker_debug: None,
                timings: None,
            };
            let answer = to_boxed(&response);
            worker
                .packet(&proxy::QueryAnswerEx {
                    request_id: query.request_id,
                    answer,
                    final_info: Some(info),
                })
                .await;
        };
        let asking = post(gateway.http_addr(), &question.body);
        let (reply, ()) = tokio::join!(asking, answering);
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(!reply.head.contains(&forged) && !reply.body.contains(&forged), "{reply:?}");
        let [named] = header(&reply, "x-cocoon-worker")[..] else { panic!("{reply:?}") };
        let [proxy] = header(&reply, "x-cocoon-proxy")[..] else { panic!("{reply:?}") };
        for name in [named, proxy] {
            assert!(reply.body.contains(&format!("\"fingerprint\":\"{name}\"")), "{reply:?}");
            page(&gateway, &format!("/v1/attestation/{name}")).await;
        }
        let shown = page(&gateway, &format!("/v1/attestation/{named}")).await;
        assert_eq!(shown["allowed"], true, "{shown:#}");
    }
}

#[tokio::test]
async fn who_answered_can_be_looked_up_also_once_it_is_gone() {
    let network = Network::with(Options { worker_policy: Policy::fake_tdx(), ..Options::default() }).await;
    let worker = attested_worker(&network, 1, "hello").await;
    let proxy = network.proxy.clients_addr();
    // Without demands of its own: the proxy's verdict is shown as such.
    let gateway = gateway(&[proxy], network.dir.path(), network.chain.clone()).await;
    within("the gateway to be ready", gateway.ready()).await;
    let answered = ask_until(&gateway, 200).await;
    let name = header(&answered, "x-cocoon-worker").concat();
    let path = format!("/v1/attestation/{name}");
    let shown = page(&gateway, &path).await;
    assert_eq!((&shown["connected"], &shown["verified_by"]), (&true.into(), &"proxy".into()), "{shown:#}");
    assert_eq!((&shown["verdict"], &shown["allowed"]), (&Value::Null, &true.into()));
    assert_eq!(shown["proxy_verdict"]["kind"], "fake_tdx");
    assert!(shown["models"][0].as_str().unwrap().starts_with(MODEL), "{shown:#}");
    let certificate = shown["certificate"].clone();

    let again = ask(&gateway).await;
    let body: Value = serde_json::from_str(&again.body).unwrap();
    assert_eq!(body["cocoon"]["worker"]["attestation"], "fake_tdx");
    assert_eq!(body["cocoon"]["worker"]["verified_by"], "proxy");
    let proxy =
        page(&gateway, &format!("/v1/attestation/{}", header(&again, "x-cocoon-proxy").concat())).await;
    assert_eq!((&proxy["role"], &proxy["connected"]), (&"proxy".into(), &true.into()));

    let report = page(&gateway, "/v1/attestation?model=test%2Fmodel").await;
    assert_eq!(report["proxies"][0]["workers"][0]["fingerprint"], name.as_str());
    let report = page(&gateway, "/v1/attestation?model=other").await;
    assert_eq!(report["proxies"][0]["workers_total"], 0);

    worker.shutdown().await;
    network.proxy.shutdown().await;
    within("the end of the connection", async {
        while page(&gateway, &path).await["connected"] != false {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(page(&gateway, &path).await["certificate"], certificate);
    for (path, status) in [("00".repeat(32), 404), ("00".repeat(31), 400), ("zz".repeat(32), 400)] {
        assert_eq!(get(gateway.http_addr(), &format!("/v1/attestation/{path}")).await.status, status);
    }
}
