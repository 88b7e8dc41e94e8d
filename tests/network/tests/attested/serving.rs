//! Attested workers at an attested proxy, for a gateway that demands both.

use cocoon_network_tests::{ScriptedEngine, within};
use serde_json::json;

use crate::world::{PROXY_IMAGE, PROXY_MACHINE, WORKER_IMAGE, World, answered_by, ask, json as body, page};

#[tokio::test]
async fn a_tdx_machine_with_a_gpu_and_an_snp_machine_serve_and_every_answer_names_who_gave_it() {
    let world = World::new();
    let network = world.network(world.tdx(PROXY_MACHINE, PROXY_IMAGE)).await;
    let ((intel, mut of_intel), (amd, mut of_amd)) = (ScriptedEngine::new(), ScriptedEngine::new());
    let (_tdx, tdx) = world.worker(&network, 1, world.tdx_with_gpu(1, WORKER_IMAGE), 1000, intel).await;
    let (_snp, snp) = world.worker(&network, 2, world.snp(2, WORKER_IMAGE), 1000, amd).await;
    let gateway = world.gateway(&network).await;

    // Each takes two at a time, so that four at once reach both.
    let asking = async { tokio::join!(ask(&gateway), ask(&gateway), ask(&gateway), ask(&gateway)) };
    let answering = async {
        let calls = within("calls to both", async {
            let mut calls = Vec::new();
            for _ in 0..2 {
                calls.push((of_intel.recv().await.unwrap(), "from the TDX machine"));
                calls.push((of_amd.recv().await.unwrap(), "from the SNP machine"));
            }
            calls
        });
        calls.await.into_iter().for_each(|(call, text)| call.answer(text));
    };
    let ((first, second, third, fourth), ()) = tokio::join!(asking, answering);
    let replies = [first, second, third, fourth];
    for (fingerprint, kind, text) in
        [(&tdx, "tdx", "from the TDX machine"), (&snp, "sev_snp", "from the SNP machine")]
    {
        let by_it: Vec<_> = replies.iter().filter(|reply| reply.body.contains(text)).collect();
        assert_eq!(by_it.len(), 2, "{replies:#?}");
        for reply in by_it {
            let worker = answered_by(reply);
            assert_eq!(worker["fingerprint"], **fingerprint, "{reply:?}");
            assert_eq!((&worker["attestation"], &worker["verified_by"]), (&json!(kind), &json!("gateway")));
            assert!(reply.head.contains(&format!("x-cocoon-worker: {fingerprint}")), "{reply:?}");
            let proxy = &body(reply)["cocoon"]["proxy"];
            assert_eq!(proxy["attestation"], "tdx", "{reply:?}");
        }
    }

    let shown = page(&gateway, &format!("/v1/attestation/{tdx}")).await;
    assert_eq!((&shown["allowed"], &shown["verdict"]["kind"]), (&json!(true), &json!("tdx")), "{shown:#}");
    assert_eq!(shown["verdict"]["gpu"]["gpus"].as_array().unwrap().len(), 1, "{shown:#}");
    let shown = page(&gateway, &format!("/v1/attestation/{snp}")).await;
    assert_eq!(
        (&shown["allowed"], &shown["verdict"]["kind"]),
        (&json!(true), &json!("sev_snp")),
        "{shown:#}"
    );
    // Complete as it is, this evidence proves nothing about hardware, and says so.
    assert_eq!(shown["verdict"]["simulated"], true);
    world.log.assert_no_errors();
}
