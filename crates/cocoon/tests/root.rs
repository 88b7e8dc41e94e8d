//! `cocoon root` and the list of `cocoon tx` against a running chain: a network's root contract from its making to its
//! next owner.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use cocoon_ton::wallet::TESTNET_ID;
use cocoon_ton::{Mnemonic, SigningKey, Wallet};
use serde_json::{Value, json};
use support::{Listen, Running, cocoon, complaint, run, text};

struct Net {
    _chain: Running,
    url: String,
    directory: tempfile::TempDir,
}

impl Net {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("chain");
        let arguments = ["chain", "--listen", "127.0.0.1:0", "--json", "--dir", text(&state)];
        let mut chain = Running::start(cocoon(&arguments), Listen::Stdout);
        let url = chain.json_with("api")["url"].as_str().unwrap().to_owned();
        Self { _chain: chain, url, directory }
    }

    fn private_file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn fund(&self, address: &str, amount: &str) {
        let output = run(&["chain", "faucet", address, amount, "--url", &self.url]);
        assert!(output.status.success(), "{}", complaint(&output));
    }

    /// Runs `cocoon root ARGUMENTS` with the wallet in `file`.
    fn root(&self, file: &Path, arguments: &[&str]) -> Output {
        let mut all = vec!["root"];
        all.extend(arguments);
        all.extend(["--url", &self.url, "--wallet", text(file)]);
        run(&all)
    }

    fn json(&self, file: &Path, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["--yes", "--json"]);
        let output = self.root(file, &all);
        assert!(output.status.success(), "{arguments:?}: {}", complaint(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn show(&self, root: &str) -> Value {
        let output = run(&["root", "show", "--address", root, "--url", &self.url, "--json"]);
        assert!(output.status.success(), "{}", complaint(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[test]
fn a_root_contract_is_made_changed_shown_and_handed_over() {
    let net = Net::start();
    let key = SigningKey::from_bytes(&[7; 32]);
    let wallet = Wallet::v5r1(key.verifying_key().to_bytes(), TESTNET_ID).address();
    let owner = net.private_file("owner.hex", &format!("{}\n", hex::encode(key.to_bytes())));
    net.fund(&wallet.to_raw_string(), "5");

    let deploy = ["deploy", "--price", "20n", "--worker-fee", "18n", "--unique-id", "77"];
    let made = net.json(&owner, &deploy);
    let root = made["root"]["address"].as_str().unwrap().to_owned();
    assert_eq!(made["root"]["owner"], wallet.to_wire_string(true));
    assert_eq!(made["root"]["params"]["price_per_token"]["nanoton"], "20");
    assert!(made["root"]["contract"].as_str().unwrap().ends_with("(as in this program)"), "{made}");
    assert!(made["root"]["balance"]["ton"].as_str().unwrap().starts_with("0.599"), "{made}");
    let again = net.root(&owner, &deploy);
    assert!(complaint(&again).contains("there already"), "{}", complaint(&again));

    let with_root = |arguments: &[&'static str]| {
        let mut all: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        all.extend(["--address".to_owned(), root.clone()]);
        all
    };
    let change = |arguments: &[&'static str]| {
        let all = with_root(arguments);
        net.json(&owner, &all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let complain = |arguments: &[&'static str]| {
        let mut all = with_root(arguments);
        all.push("--yes".to_owned());
        let output = net.root(&owner, &all.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        complaint(&output)
    };
    let priced = change(&["prices", "--price", "30n"]);
    assert_eq!(priced["sent"]["arrived"][0]["outcome"], "done", "{priced}");
    assert_eq!(priced["root"]["params"]["worker_fee_per_token"]["nanoton"], "18");
    change(&["params", "--client-delay", "200", "--min-client-stake", "0.25"]);
    let hash = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";
    change(&["images", "add", "worker", hash]);
    change(&["images", "add", "proxy", hash]);
    change(&["images", "remove", "proxy", hash]);
    change(&["models", "add", "a@b:c"]);
    change(&["proxies", "register", "10.0.0.1:1", "10.0.0.1:2"]);
    change(&["proxies", "update", "1", "10.0.0.2:3"]);
    assert!(complain(&["upgrade", "contracts"]).contains("already"));
    assert!(complain(&["upgrade", "root"]).contains("already"));
    assert!(complain(&["proxies", "unregister", "2"]).contains("no proxy is listed"));
    assert!(complain(&["prices", "--worker-fee", "31n"]).contains("pay more than it takes"));

    let shown = net.show(&root);
    assert_eq!(shown["version"], 8);
    assert_eq!(shown["params"]["price_per_token"], json!({"nanoton": "30", "ton": "0.00000003 TON"}));
    assert_eq!(
        (&shown["params"]["client_delay"]["seconds"], &shown["params"]["version"]),
        (&json!(200), &json!(2))
    );
    assert_eq!(shown["params"]["min_client_stake"]["ton"], "0.25 TON");
    assert_eq!((&shown["worker_images"], &shown["proxy_images"]), (&json!([hash]), &json!([])));
    assert_eq!(shown["models_by_hash"].as_array().unwrap().len(), 1);
    assert_eq!(shown["proxies"][0]["for_clients"], "10.0.0.2:3");

    let listed = run(&["tx", &root, "--url", &net.url, "--limit", "3", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["contract"], "Cocoon root");
    let names: Vec<&Value> = listed["transactions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|transaction| &transaction["in_message"]["body"]["name"])
        .collect();
    assert_eq!(names, ["root_update_proxy", "root_register_proxy", "root_add_model_type"]);

    let next = Mnemonic::generate(|bytes| rand::Rng::fill(&mut rand::rng(), bytes)).unwrap();
    let next_owner = net.private_file("next.txt", next.phrase());
    let next_wallet = Wallet::v4r2(next.signing_key().verifying_key().to_bytes()).address();
    net.fund(&next_wallet.to_raw_string(), "1");
    let address = next_wallet.to_raw_string();
    net.json(&owner, &["owner", &address, "--address", &root]);
    assert!(complain(&["prices", "--price", "40n"]).contains("obeys"));
    let by_next = ["prices", "--price", "40n", "--address", &root, "--wallet-kind", "v4r2"];
    assert_eq!(net.json(&next_owner, &by_next)["root"]["version"], 10);
}

#[test]
fn nothing_is_sent_without_a_yes_coins_or_a_private_key() {
    let net = Net::start();
    let key = net.private_file("key.hex", &"07".repeat(32));
    let deploy = ["deploy", "--price", "20n", "--worker-fee", "18n", "--json"];
    let poor = net.root(&key, &[&deploy[..], &["--yes"]].concat());
    let wallet = Wallet::v5r1(SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes(), TESTNET_ID);
    let wanted = format!("to {}", wallet.address().to_wire_string(true));
    let poor = complaint(&poor);
    assert!(poor.contains("send at least 0.65") && poor.contains(&wanted), "{poor}");
    net.fund(&wallet.address().to_raw_string(), "1");
    let unasked = net.root(&key, &deploy);
    assert!(complaint(&unasked).contains("--yes"), "{}", complaint(&unasked));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let shared = net.root(&key, &deploy);
    assert!(complaint(&shared).contains("chmod 600"), "{}", complaint(&shared));
    for (content, words) in [("07", "neither 24 words nor 64"), ("one two three", "no mnemonic")] {
        let file = net.private_file("other", content);
        let wrong = net.root(&file, &deploy);
        assert_eq!(wrong.status.code(), Some(1));
        assert!(complaint(&wrong).contains(words), "{}", complaint(&wrong));
    }
    let file = net.private_file("other", &"07".repeat(32));
    let ownerless = net.root(&file, &[&deploy[..], &["--wallet-kind", "cocoon"]].concat());
    assert!(complaint(&ownerless).contains("--wallet-owner"), "{}", complaint(&ownerless));
}

#[test]
fn what_is_no_root_contract_is_told() {
    let net = Net::start();
    let nowhere = "0:00000000000000000000000000000000000000000000000000000000000000aa";
    for arguments in [
        &["root", "show", "--address", nowhere, "--url", &net.url][..],
        &["root", "show", "--address", nowhere, "--url", "http://127.0.0.1:1"],
        &["root", "show", "--address", nowhere, "--url", "https://example.com"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!(run(&["root", "show", "--address", "here"]).status.code(), Some(2));
    let listed = run(&["tx", nowhere, "--url", &net.url]);
    assert!(String::from_utf8(listed.stdout).unwrap().contains("nothing was ever sent there"));
    assert_eq!(run(&["tx", "nobody", "--url", &net.url]).status.code(), Some(2));
}
