//! What was verified runs out, is renewed, or is revoked.

use std::time::Duration;

use cocoon_attest::{EvidenceKind, Policy};
use cocoon_gateway::Gateway;
use cocoon_network_tests::{Event, FixedEngine, ScriptedEngine, Streaming, delta, within};

use crate::forgeries::platform_serial;
use crate::world::{
    NEXT_LOOK, PROXY_IMAGE, PROXY_MACHINE, WORKER_IMAGE, World, answered_by, ask, ask_until, json,
    marked_stream, page, refused_because,
};

/// How long what Intel publishes lasts in these tests.
const LASTS: Duration = Duration::from_secs(3 * 60 * 60);
const MINUTE: Duration = Duration::from_secs(60);

fn engine(text: &str) -> FixedEngine {
    FixedEngine(text.into())
}

fn disconnected(line: &Event) -> bool {
    line.message.starts_with("disconnected") || line.message.contains("connection to the proxy ended")
}

/// Nobody has lost a connection.
fn assert_all_connected(world: &World) {
    let lost: Vec<_> = world.log.lines().into_iter().filter(disconnected).collect();
    assert!(lost.is_empty(), "{lost:#?}");
}

/// Waits for the proxy to have dropped a worker because of this check.
async fn dropped(world: &World, check: &str) {
    let fits = |line: &Event| {
        line.message == "disconnected"
            && line.field("role") == "Worker"
            && line.field("ended").contains(check)
    };
    world.log.wait(check, fits).await;
}

async fn serves(gateway: &Gateway, fingerprint: &str) {
    assert_eq!(answered_by(&ask(gateway).await)["fingerprint"], *fingerprint);
}

#[tokio::test]
async fn with_collateral_renewed_everybody_stays() {
    let world = World::new();
    world.shelf.changes().intel_lasts = Some(LASTS);
    let network = world.network(world.tdx(PROXY_MACHINE, PROXY_IMAGE)).await;
    let (_worker, name) =
        world.worker(&network, 1, world.tdx_with_gpu(1, WORKER_IMAGE), 1000, engine("hello")).await;
    let gateway = world.gateway(&network).await;
    serves(&gateway, &name).await;
    for _ in 0..4 {
        world.later(LASTS + MINUTE).await;
        assert_eq!(answered_by(&ask_until(&gateway, 200).await)["fingerprint"], *name);
    }
    assert_all_connected(&world);
    world.log.assert_no_errors();
}

#[tokio::test]
async fn without_new_collateral_a_worker_goes_when_the_old_runs_out_and_not_before() {
    let world = World::new();
    world.shelf.changes().intel_lasts = Some(LASTS);
    let network = world.network(world.snp(PROXY_MACHINE, PROXY_IMAGE)).await;
    let (_worker, name) = world.worker(&network, 1, world.tdx(1, WORKER_IMAGE), 1000, engine("hello")).await;
    let gateway = world.gateway(&network).await;
    world.shelf.changes().silent.push(EvidenceKind::Tdx);
    world.later(LASTS - MINUTE).await;
    serves(&gateway, &name).await;
    assert_all_connected(&world);

    world.later(MINUTE + Duration::from_secs(1)).await;
    dropped(&world, "collateral").await;
    let reply = ask_until(&gateway, 503).await;
    assert!(json(&reply)["error"]["code"].is_string(), "{reply:?}");

    // Intel answers again: the worker comes back by itself. The gateway may have looked in between, and looks
    // again within a minute.
    world.shelf.changes().silent.clear();
    let back = loop {
        world.clock.advance(MINUTE);
        world.look_again();
        let soon = tokio::time::timeout(Duration::from_secs(2), ask_until(&gateway, 200));
        if let Ok(reply) = soon.await {
            break reply;
        }
    };
    assert_eq!(answered_by(&back)["fingerprint"], *name);
}

#[tokio::test]
async fn without_new_collateral_a_proxy_is_left_when_the_old_runs_out_and_not_before() {
    let world = World::new();
    world.shelf.changes().intel_lasts = Some(LASTS);
    let network = world.network(world.tdx(PROXY_MACHINE, PROXY_IMAGE)).await;
    let (worker, name) = world.worker(&network, 1, world.snp(2, WORKER_IMAGE), 1000, engine("hello")).await;
    let gateway = world.gateway(&network).await;
    world.shelf.changes().silent.push(EvidenceKind::Tdx);
    world.later(LASTS - MINUTE).await;
    serves(&gateway, &name).await;
    assert_all_connected(&world);

    world.later(MINUTE + Duration::from_secs(1)).await;
    refused_because(&gateway, "verification", "collateral").await;
    let left = |line: &Event| {
        line.message == "disconnected from a proxy" && line.field("ended").contains("collateral")
    };
    world.log.wait("the worker to leave", left).await;

    world.shelf.changes().silent.clear();
    world.later(MINUTE).await;
    within("the worker to come back", worker.ready()).await;
    assert_eq!(answered_by(&ask_until(&gateway, 200).await)["fingerprint"], *name);
}

#[tokio::test]
async fn a_gpus_verdict_too_holds_until_it_runs_out_while_nvidia_does_not_answer() {
    let world = World::new();
    let network = world.network(world.snp(PROXY_MACHINE, PROXY_IMAGE)).await;
    let (_worker, name) =
        world.worker(&network, 1, world.tdx_with_gpu(1, WORKER_IMAGE), 1000, engine("hello")).await;
    let gateway = world.gateway(&network).await;
    // Everybody has judged it by now.
    ask_until(&gateway, 200).await;
    world.shelf.changes().silent.push(EvidenceKind::NvidiaGpu);
    for _ in 0..3 {
        world.later(NEXT_LOOK).await;
        // The gateway may pause the worker while it looks, but never loses it.
        assert_eq!(answered_by(&ask_until(&gateway, 200).await)["fingerprint"], *name);
    }
    assert_all_connected(&world);
    // What NVIDIA says of revocation lasts a day.
    world.later(22 * NEXT_LOOK).await;
    dropped(&world, "gpu_verification").await;
}

#[tokio::test]
async fn a_worker_whose_platform_intel_revokes_goes_at_the_next_look_and_another_takes_over() {
    let world = World::new();
    let network = world.network(world.snp(PROXY_MACHINE, PROXY_IMAGE)).await;
    let (scripted, mut calls) = ScriptedEngine::new();
    let (_revoked, revoked) = world.worker(&network, 1, world.tdx(1, WORKER_IMAGE), 500, scripted).await;
    let (_other, other) =
        world.worker(&network, 2, world.tdx(3, WORKER_IMAGE), 1000, engine("from another platform")).await;
    let gateway = world.gateway(&network).await;
    let mut stream = Streaming::post(gateway.http_addr(), &marked_stream().body).await;
    let answering = within("the call", calls.recv()).await.unwrap().stream();
    assert!(answering.send(delta("before")).await);
    stream.until("before").await;
    assert!(stream.head().contains(&revoked), "{}", stream.head());

    world.shelf.changes().revoked_platforms.push(platform_serial(&world, 1));
    world.later(NEXT_LOOK).await;
    dropped(&world, "pck_crl").await;
    let ended = stream.finish().await;
    assert!(ended.body.contains("\"error\"") && !ended.body.contains("[DONE]"), "{ended:?}");
    answering.dropped().await;
    for _ in 0..3 {
        serves(&gateway, &other).await;
    }
    let refused =
        |line: &Event| line.message == "refused a connection" && line.field("cause").contains("pck_crl");
    world.log.wait("the worker not to be let in again", refused).await;
}

#[tokio::test]
async fn a_worker_whose_gpu_nvidia_revokes_goes_at_the_next_look() {
    let world = World::new();
    let network = world.network(world.snp(PROXY_MACHINE, PROXY_IMAGE)).await;
    let (_worker, name) =
        world.worker(&network, 1, world.tdx_with_gpu(1, WORKER_IMAGE), 1000, engine("hello")).await;
    let gateway = world.gateway(&network).await;
    serves(&gateway, &name).await;
    let gpu = world.vendors.gpus(1, 1).gpus.remove(0);
    world.shelf.changes().revoked_gpus.push(gpu.device.profile().serial.clone());
    world.later(NEXT_LOOK).await;
    dropped(&world, "gpu0.revocation").await;
    ask_until(&gateway, 503).await;
}

#[tokio::test]
async fn a_proxy_whose_platform_intel_revokes_is_left_at_the_next_look() {
    let world = World::new();
    let network = world.network(world.tdx(PROXY_MACHINE, PROXY_IMAGE)).await;
    let (_worker, name) = world.worker(&network, 1, world.snp(2, WORKER_IMAGE), 1000, engine("hello")).await;
    let gateway = world.gateway(&network).await;
    serves(&gateway, &name).await;
    world.shelf.changes().revoked_platforms.push(platform_serial(&world, PROXY_MACHINE));
    world.later(NEXT_LOOK).await;
    refused_because(&gateway, "verification", "pck_crl").await;
}

#[tokio::test]
async fn the_gateway_sees_a_revocation_itself_where_the_proxy_does_not_look() {
    let world = World::new();
    let machine = world.snp(PROXY_MACHINE, PROXY_IMAGE);
    let network = world.network_demanding(machine, Policy::any(), false).await;
    let (_worker, name) = world.worker(&network, 1, world.tdx(1, WORKER_IMAGE), 1000, engine("hello")).await;
    let gateway = world.gateway(&network).await;
    serves(&gateway, &name).await;
    world.shelf.changes().revoked_platforms.push(platform_serial(&world, 1));
    world.later(NEXT_LOOK).await;
    let reply = ask_until(&gateway, 503).await;
    assert_eq!(json(&reply)["error"]["code"], "no_attested_worker");
    let shown = page(&gateway, &format!("/v1/attestation/{name}")).await;
    assert!(shown["reason"].as_str().unwrap_or_default().contains("pck_crl"), "{shown:#}");
}
