//! `cocoon keys`, with a gateway that runs and without one.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use serde_json::{Value, json};
use support::{Listen, Running, cocoon, complaint, run, text};

const ROOT_ADDRESS: &str = "EQBT4hy4vMEZ9uxSCuhw_gBKh9_AwmHXLe7Wo0O4Vh-4kRjJ";
const OWNER: &str = "0QBgPMq7ye2WRcudRHK_-yjHwMXjeN-UCzAuoo06TR6hmgHV";

/// A gateway's configuration whose root lists no proxies.
fn configuration(directory: &Path, more: &str) -> String {
    let root = json!({
        "registered_proxies": [], "price_per_token": 7, "worker_fee_per_token": 5,
        "last_proxy_seqno": 1, "version": 1, "params_version": 1, "root_owner_address": OWNER,
    });
    std::fs::write(directory.join("root.json"), root.to_string()).unwrap();
    let path = directory.join("gateway.toml");
    let config = format!(
        "dir = \"gateway\"\nhttp = \"127.0.0.1:0\"\n{more}\n[root]\nfile = \"root.json\"\naddress = \"{ROOT_ADDRESS}\"\n"
    );
    std::fs::write(&path, config).unwrap();
    text(&path).to_owned()
}

fn start(config: &str) -> (Running, String) {
    let mut running =
        Running::start(cocoon(&["gateway", "--config", config, "--log-format", "json"]), Listen::Stderr);
    let log = running.json_with("http");
    let address = log["http"].as_str().unwrap().to_owned();
    (running, address)
}

fn keys(config: &str, arguments: &[&str]) -> Value {
    let all = [&["keys"], arguments, &["--config", config, "--json"]].concat();
    let output = run(&all);
    assert!(output.status.success(), "{arguments:?}: {}", complaint(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(config: &str, arguments: &[&str]) -> String {
    let output = run(&[&["keys"], arguments, &["--config", config]].concat());
    assert!(!output.status.success(), "{arguments:?}");
    complaint(&output)
}

fn status_with(address: &str, key: &str) -> String {
    let mut tcp = TcpStream::connect(address).unwrap();
    let request = format!(
        "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\r\n"
    );
    tcp.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    tcp.read_to_string(&mut reply).unwrap();
    reply.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn keys_are_made_before_the_first_start_and_handled_while_the_gateway_runs() {
    let directory = tempfile::tempdir().unwrap();
    let config = configuration(directory.path(), "[access]\nrequire_keys = \"always\"");
    // Without a key it does not start, and says how to make one.
    let output = run(&["gateway", "--config", &config]);
    assert!(!output.status.success());
    assert!(complaint(&output).contains("cocoon keys add"), "{}", complaint(&output));

    let made = keys(&config, &["add", "alice", "--budget", "1.5 TON", "--rpm", "60", "--expires", "90d"]);
    let alice = made["secret"].as_str().unwrap();
    assert!(alice.starts_with("ck-") && alice.len() == 52);
    assert_eq!((&made["budget_nanoton"], &made["requests_per_minute"]), (&json!(1_500_000_000), &json!(60)));
    let token = directory.path().join("gateway/admin-token.hex");
    let mode = std::os::unix::fs::PermissionsExt::mode(&token.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    let (running, address) = start(&config);
    assert_eq!((status_with(&address, alice), status_with(&address, "none")), ("200".into(), "401".into()));
    let bob = keys(&config, &["add", "bob", "--model", "a/*", "--model", "b"]);
    assert_eq!(bob["models"], json!(["a/*", "b"]));
    let bob = bob["secret"].as_str().unwrap();
    assert_eq!(status_with(&address, bob), "200", "good at once");
    assert_eq!(keys(&config, &["set", "bob", "--endpoint", "chat"])["endpoints"], json!(["chat"]));
    let open = keys(&config, &["set", "bob", "--model", "none", "--endpoint", "none"]);
    assert_eq!((&open["models"], &open["endpoints"]), (&json!(["*"]), &json!([])));
    assert_eq!(keys(&config, &["set", "bob", "--disable", "--name", "robert"])["state"], "disabled");
    assert_eq!(status_with(&address, bob), "401");
    let rotated = keys(&config, &["rotate", "alice", "--grace", "1h"]);
    assert_eq!(status_with(&address, rotated["secret"].as_str().unwrap()), "200");
    assert_eq!(status_with(&address, alice), "200", "for another hour");
    assert_eq!(keys(&config, &["revoke", "alice"])["state"], "revoked");
    assert_eq!(status_with(&address, alice), "401");
    assert_eq!(keys(&config, &["list"])["data"].as_array().unwrap().len(), 1);
    assert_eq!(keys(&config, &["list", "--all"])["data"].as_array().unwrap().len(), 2);
    assert!(refused(&config, &["add", "robert"]).contains("already"));
    assert!(refused(&config, &["show", "nobody"]).contains("no such key"));
    assert!(refused(&config, &["set", "robert"]).contains("nothing to change"));
    let url = format!("http://{address}");
    let there = run(&["keys", "list", "--url", &url, "--token-file", text(&token)]);
    assert!(String::from_utf8(there.stdout).unwrap().contains("robert"));
    let afar = run(&["keys", "list", "--url", "http://192.0.2.1", "--token-file", text(&token)]);
    assert!(complaint(&afar).contains("in the clear"), "{}", complaint(&afar));
    assert_eq!(running.stop(), Some(0));

    // And without it again.
    assert_eq!(keys(&config, &["show", "robert"])["state"], "disabled");
    let usage = run(&["keys", "usage", "--config", &config, "--csv"]);
    assert!(String::from_utf8(usage.stdout).unwrap().starts_with("day,key,key_name,model"));
    let told = run(&["keys", "list", "--config", &config]);
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("robert") && !told.contains("alice") && !told.contains(&bob[12..]), "{told}");
}
