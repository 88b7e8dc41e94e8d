//! `cocoon market`: what a network offers, and a gateway that asks for a key.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use support::{Listen, Running, cocoon, complaint, get_json, run, text, wait_for};

const ROOT_ADDRESS: &str = "EQBT4hy4vMEZ9uxSCuhw_gBKh9_AwmHXLe7Wo0O4Vh-4kRjJ";
const OWNER: &str = "0QBgPMq7ye2WRcudRHK_-yjHwMXjeN-UCzAuoo06TR6hmgHV";
const MODEL: &str = "builtin/extractive-summary";

fn printed(output: Output) -> String {
    assert!(output.status.success(), "{}", complaint(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_networks_market_is_shown_as_a_table_and_as_json() {
    let directory = tempfile::tempdir().unwrap();
    let command = cocoon(&["up", "--dir", text(directory.path()), "--port-base", "0", "--json"]);
    let mut running = Running::start(command, Listen::Stdout);
    let endpoints = running.json_with("gateway");
    let gateway = endpoints["gateway"].as_str().unwrap();
    let address = gateway.trim_start_matches("http://");
    let market = wait_for("both workers' offers", || {
        let market = get_json(gateway, "/v1/market");
        (market["models"][0]["workers"] == 2).then_some(market)
    });
    let named = |offers: &Value| {
        let offers = offers.as_array().unwrap().iter();
        offers.map(|offer| offer["worker"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    let workers = named(&market["models"][0]["offers"]);
    assert_eq!(workers.len(), 2);

    let table = printed(run(&["market", "--gateway", address]));
    assert!(table.starts_with(MODEL), "{table}");
    assert!(table.contains("prompt TON/M") && table.contains("can do: "), "{table}");
    for worker in &workers {
        assert!(table.contains(&worker[..12]), "{worker} is not in {table}");
    }
    // By its URL, too.
    let told: Value =
        serde_json::from_str(&printed(run(&["market", "--gateway", gateway, "--json"]))).unwrap();
    let shown = &told["models"][0];
    assert_eq!((&shown["id"], &shown["price"]), (&json!(MODEL), &market["models"][0]["price"]));
    assert_eq!(named(&shown["offers"]), workers);

    let one = printed(run(&["market", "--gateway", address, "extractive"]));
    assert!(one.starts_with(MODEL), "{one}");
    let none = printed(run(&["market", "--gateway", address, "no-such-model"]));
    assert!(none.contains("No worker offers"), "{none}");
    assert_eq!(running.stop(), Some(0));
}

/// A gateway that asks for a key, one that it takes, and what ends it all.
fn locked(directory: &Path) -> (Running, String, String) {
    let root = json!({
        "registered_proxies": [], "price_per_token": 7, "worker_fee_per_token": 5,
        "last_proxy_seqno": 1, "version": 1, "params_version": 1, "root_owner_address": OWNER,
    });
    std::fs::write(directory.join("root.json"), root.to_string()).unwrap();
    let path = directory.join("gateway.toml");
    let config = format!(
        "dir = \"gateway\"\nhttp = \"127.0.0.1:0\"\n[access]\nrequire_keys = \"always\"\n\
         [root]\nfile = \"root.json\"\naddress = \"{ROOT_ADDRESS}\"\n"
    );
    std::fs::write(&path, config).unwrap();
    let made = printed(run(&["keys", "add", "alice", "--config", text(&path), "--json"]));
    let made: Value = serde_json::from_str(&made).unwrap();
    let command = cocoon(&["gateway", "--config", text(&path), "--log-format", "json"]);
    let mut running = Running::start(command, Listen::Stderr);
    let address = running.json_with("http")["http"].as_str().unwrap().to_owned();
    (running, address, made["secret"].as_str().unwrap().to_owned())
}

#[test]
fn a_gateway_that_asks_for_a_key_is_sent_one_and_without_it_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let (running, address, key) = locked(directory.path());
    let market = |more: &[&str]| cocoon(&[&["market", "--gateway", address.as_str()], more].concat());

    let refused = market(&[]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = complaint(&refused);
    for words in ["did not provide an API key", "cocoon keys add", "COCOON_API_KEY", "--api-key-file"] {
        assert!(said.contains(words), "{words} is not in {said}");
    }

    let by_environment = market(&[]).env("COCOON_API_KEY", &key).output().unwrap();
    assert!(printed(by_environment).contains("No worker offers anything"));
    let file = directory.path().join("key.txt");
    std::fs::write(&file, format!("{key}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let with_file = ["--api-key-file", text(&file), "--json"];
    // The file goes before the environment.
    let by_file = market(&with_file).env("COCOON_API_KEY", "ck-wrong").output().unwrap();
    let told: Value = serde_json::from_str(&printed(by_file)).unwrap();
    assert_eq!((&told["object"], &told["models"]), (&json!("market"), &json!([])));

    // Its evidence is looked at in the same way.
    let url = format!("http://{address}");
    let attest = || cocoon(&["attest", "show", &url]);
    assert!(complaint(&attest().output().unwrap()).contains("COCOON_API_KEY"));
    let looked = attest().env("COCOON_API_KEY", &key).output().unwrap();
    assert!(complaint(&looked).contains("no node in it"), "{}", complaint(&looked));

    let wrong = market(&[]).env("COCOON_API_KEY", format!("{key}x")).output().unwrap();
    let said = complaint(&wrong);
    assert!(said.contains("Incorrect API key") && said.contains("cocoon keys list"), "{said}");
    assert!(!said.contains(&key), "a key is never repeated");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(complaint(&market(&with_file).output().unwrap()).contains("key.txt"), "others can read it");
    let afar = ["market", "--gateway", "192.0.2.1:10000", "--api-key-file", text(&file)];
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(complaint(&run(&afar)).contains("in the clear"), "{}", complaint(&run(&afar)));
    assert_eq!(running.stop(), Some(0));
}
