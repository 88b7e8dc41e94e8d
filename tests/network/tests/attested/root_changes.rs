//! Images that leave the root configuration's lists while answers are under way.

use std::time::{Duration, Instant};

use cocoon_attest::EvidenceKind;
use cocoon_network_tests::{FixedEngine, Reply, ScriptedEngine, Streaming, delta, within};
use serde_json::Value;

use crate::world::{
    NEXT_WORKER_IMAGE, PROXY_IMAGE, PROXY_MACHINE, WORKER_IMAGE, World, answered_by, ask, ask_until,
    marked_stream, refused_because,
};

/// A connection that ends at once ends well before any time-out.
const AT_ONCE: Duration = Duration::from_secs(2);

/// The error that ends a streamed answer, as OpenAI's clients see it.
fn last_error(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "the answer had begun: {reply:?}");
    assert!(!reply.body.contains("[DONE]"), "presented as complete: {reply:?}");
    let mut events = reply.body.lines().filter_map(|line| line.strip_prefix("data: "));
    let last = events.next_back().and_then(|event| serde_json::from_str::<Value>(event).ok());
    last.unwrap_or_else(|| panic!("no event at the end: {reply:?}"))["error"].clone()
}

#[tokio::test]
async fn when_the_proxys_image_leaves_the_list_its_connections_end_at_once_and_come_back_with_it() {
    let world = World::new();
    let network = world.network(world.tdx(PROXY_MACHINE, PROXY_IMAGE)).await;
    let (engine, mut calls) = ScriptedEngine::new();
    let (worker, _) = world.worker(&network, 1, world.snp(2, WORKER_IMAGE), 1000, engine).await;
    let gateway = world.gateway(&network).await;
    let mut stream = Streaming::post(gateway.http_addr(), &marked_stream().body).await;
    let answering = within("the call", calls.recv()).await.unwrap().stream();
    assert!(answering.send(delta("before")).await);
    stream.until("before").await;

    let began = Instant::now();
    let mut root = world.root();
    (root.version, root.proxy_hashes) = (2, [[1; 32]].into());
    network.chain.replace(root).unwrap();
    let reply = stream.finish().await;
    assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
    let error = last_error(&reply);
    assert!(error["type"].is_string() && error["code"].is_string(), "{reply:?}");
    // The worker is told nothing more either, and lets go.
    answering.dropped().await;
    refused_because(&gateway, "image_hash", "not on the root contract's list").await;
    let left = |line: &cocoon_network_tests::Event| {
        line.message == "disconnected from a proxy" && line.field("ended").contains("image_hash")
    };
    world.log.wait("the worker to leave", left).await;

    let mut root = world.root();
    root.version = 3;
    network.chain.replace(root).unwrap();
    within("the worker to come back", worker.ready()).await;
    within("the gateway to come back", gateway.ready()).await;
    let answering = async {
        loop {
            within("a call", calls.recv()).await.unwrap().answer("after");
        }
    };
    tokio::select! {
        () = answering => {}
        reply = ask_until(&gateway, 200) => assert!(reply.body.contains("after"), "{reply:?}"),
    }
    world.log.assert_no_errors();
}

#[tokio::test]
async fn when_a_workers_image_leaves_the_list_its_answer_ends_and_what_had_not_begun_goes_to_another() {
    let world = World::new();
    let network = world.network(world.tdx(PROXY_MACHINE, PROXY_IMAGE)).await;
    let (engine, mut calls) = ScriptedEngine::new();
    // The cheaper one gets the work as long as it is let in.
    let (_old, old) = world.worker(&network, 1, world.tdx(1, WORKER_IMAGE), 100, engine).await;
    let engine = FixedEngine("from the next version".into());
    let (_next, next) = world.worker(&network, 2, world.tdx(2, NEXT_WORKER_IMAGE), 4000, engine).await;
    let gateway = world.gateway(&network).await;
    // A worker that has answered nothing yet gets one request at a time.
    let known = async { within("the first call", calls.recv()).await.unwrap().answer("known") };
    let (reply, ()) = tokio::join!(ask(&gateway), known);
    assert_eq!(answered_by(&reply)["fingerprint"], *old, "{reply:?}");
    let mut stream = Streaming::post(gateway.http_addr(), &marked_stream().body).await;
    let answering = within("the call", calls.recv()).await.unwrap().stream();
    assert!(answering.send(delta("before")).await);
    stream.until("before").await;
    assert!(stream.head().contains(&old), "{}", stream.head());
    let waiting = async {
        let waiting = ask(&gateway);
        tokio::pin!(waiting);
        let call = tokio::select! {
            call = calls.recv() => call.unwrap(),
            reply = &mut waiting => panic!("not by the cheaper one: {reply:?}"),
        };
        // From here on two requests are at the old worker, one of them without a first byte.
        let began = Instant::now();
        let mut root = world.root();
        root.version = 2;
        let hash = world.vendors.image_hash(EvidenceKind::Tdx, WORKER_IMAGE).unwrap();
        root.worker_hashes.remove(&hash);
        network.chain.replace(root).unwrap();
        let reply = waiting.await;
        call.given_up().await;
        (reply, began)
    };
    let (reply, began) = within("the other request", waiting).await;
    assert_eq!(answered_by(&reply)["fingerprint"], *next, "{reply:?}");
    let ended = stream.finish().await;
    assert!(began.elapsed() < AT_ONCE, "it took {:?}", began.elapsed());
    let error = last_error(&ended);
    assert!(error["type"].is_string() && error["code"].is_string(), "{ended:?}");
    answering.dropped().await;
    for _ in 0..3 {
        assert_eq!(answered_by(&ask(&gateway).await)["fingerprint"], *next);
    }
    let refused = |line: &cocoon_network_tests::Event| {
        line.message == "refused a connection" && line.field("cause").contains("image_hash")
    };
    world.log.wait("the worker not to be let in again", refused).await;
    world.log.assert_no_errors();
}
