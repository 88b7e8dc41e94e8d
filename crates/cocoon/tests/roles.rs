//! The three roles as processes of their own, each with its configuration file, around one root configuration.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{Listen, Running, cocoon, get_json, http, text, wait_for};

const ROOT_ADDRESS: &str = "EQBT4hy4vMEZ9uxSCuhw_gBKh9_AwmHXLe7Wo0O4Vh-4kRjJ";
const OWNER: &str = "0QBgPMq7ye2WRcudRHK_-yjHwMXjeN-UCzAuoo06TR6hmgHV";
const MODEL: &str = "builtin/extractive-summary";

fn root_config(path: &Path, proxies: Value) {
    let root = json!({
        "registered_proxies": proxies, "price_per_token": 7, "worker_fee_per_token": 5,
        "last_proxy_seqno": 1, "version": 1, "params_version": 1, "root_owner_address": OWNER,
    });
    std::fs::write(path, root.to_string()).unwrap();
}

/// Starts a role on ports that the system picks; they are in its log.
fn start(directory: &Path, role: &str, config: &str) -> (Running, Value) {
    let path = directory.join(format!("{role}.toml"));
    let root = format!("\n[root]\nfile = \"root.json\"\naddress = \"{ROOT_ADDRESS}\"\n");
    std::fs::write(&path, format!("dir = \"{role}\"\nhttp = \"127.0.0.1:0\"\n{config}{root}")).unwrap();
    let command = cocoon(&[role, "--config", text(&path), "--log-format", "json"]);
    let mut running = Running::start(command, Listen::Stderr);
    let log = running.json_with("http");
    (running, log)
}

#[test]
fn three_processes_serve_a_request_and_agree_on_its_price() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root.json");
    root_config(&root, json!([]));
    let config = "listen_workers = \"127.0.0.1:0\"\nlisten_clients = \"127.0.0.1:0\"\n\
                  [attestation]\npresent = \"fake_tdx\"\nrequire_of_workers = \"fake_tdx\"\n";
    let (proxy, proxy_log) = start(directory.path(), "proxy", config);
    let [proxy_http, workers, clients] =
        ["http", "workers", "clients"].map(|field| proxy_log[field].as_str().unwrap());
    root_config(&root, json!([{"seqno": 1, "address": format!("{workers} {clients}")}]));

    let config = "coefficient = 2000\n[engine]\nbuiltin = true\n\
                  [attestation]\npresent = \"fake_tdx\"\nrequire = \"fake_tdx\"\n";
    let (worker, worker_log) = start(directory.path(), "worker", config);
    // A gateway asks for models when it connects and then every few seconds: it need not wait for its second question.
    wait_for("the worker at the proxy", || (http(proxy_http, "GET", "/health", "").0 == 200).then_some(()));
    let (gateway, gateway_log) =
        start(directory.path(), "gateway", "[attestation]\nrequire = \"fake_tdx\"\n");
    let [worker_http, gateway_http] = [&worker_log, &gateway_log].map(|log| log["http"].as_str().unwrap());

    wait_for("the model at the gateway", || {
        let (status, list) = http(gateway_http, "GET", "/v1/models", "");
        (status == 200 && list.contains(MODEL)).then_some(())
    });
    let body = json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": "Summarise in 1 sentence: The sea was calm. The sea was blue. Tom ate."}],
    });
    let (status, answer) = http(gateway_http, "POST", "/v1/chat/completions", &body.to_string());
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert!(answer["choices"][0]["message"]["content"].as_str().unwrap().contains("sea"), "{answer}");

    // At a coefficient of 2, each token counts double.
    let tokens = 2 * answer["usage"]["total_tokens"].as_u64().unwrap();
    let books = wait_for("the charge", || {
        let books = get_json(proxy_http, "/jsonstats")["books"].take();
        (books["charged_tokens"] != 0).then_some(books)
    });
    assert_eq!(books["charged_tokens"], tokens);
    assert_eq!(books["paid_nanoton"], tokens * 7);
    assert_eq!(books["earned_nanoton"], tokens * 5);
    assert_eq!(books["kept_nanoton"], tokens * 2);
    let earned = wait_for("the worker's notice", || {
        let earned = get_json(worker_http, "/jsonstats")["earned"].take();
        (earned["tokens"] != 0).then_some(earned)
    });
    assert_eq!(earned["nanoton"], tokens * 5);

    // A service reads its root configuration again, and goes on.
    for role in [&gateway, &worker, &proxy] {
        role.signal("HUP");
    }
    get_json(proxy_http, "/jsonstats");
    for role in [gateway, worker, proxy] {
        assert_eq!(role.stop(), Some(0));
    }
}
