//! `cocoon wallet` against a running chain: wallets are made, filled and emptied, and nodes' coins come home.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use cocoon_ton::wallet::{MAINNET_ID, TESTNET_ID};
use cocoon_ton::{Address, Mnemonic, SigningKey, Wallet};
use serde_json::Value;
use support::{Listen, Running, cocoon, complaint, http, run, text};

/// Words whose key and addresses the JavaScript libraries of TON have told.
const WORDS: &str = "where mandate throw lobster finger quality salon come swap same junk ensure belt lawsuit drift heavy merit party orphan meadow hobby jump error wagon";

struct Net {
    chain: Running,
    url: String,
    directory: tempfile::TempDir,
}

impl Net {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (chain, url) = chain(&directory.path().join("chain"), "127.0.0.1:0");
        Self { chain, url, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn private_file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn fund(&self, address: &str, amount: &str) {
        let output = run(&["chain", "faucet", address, amount, "--url", &self.url]);
        assert!(output.status.success(), "{}", complaint(&output));
    }

    /// A new wallet with coins: its file and its address on this chain.
    fn person(&self, name: &str, amount: &str) -> (PathBuf, String) {
        let file = self.path(name);
        let made = json(&run(&["wallet", "create", text(&file), "--json"]));
        let address = made["test_networks"]["address"].as_str().unwrap().to_owned();
        self.fund(&address, amount);
        (file, address)
    }

    /// Runs `cocoon wallet ARGUMENTS` on this chain.
    fn wallet(&self, arguments: &[&str]) -> Output {
        run(&[&["wallet"][..], arguments, &["--url", &self.url]].concat())
    }

    fn show(&self, file: &Path, more: &[&str]) -> Value {
        json(&self.wallet(&[&["show", "--json", "--wallet", text(file)][..], more].concat()))
    }

    fn balance(&self, file: &Path) -> u64 {
        nano(&self.show(file, &[])["balance"])
    }
}

fn chain(directory: &Path, listen: &str) -> (Running, String) {
    let arguments = ["chain", "--listen", listen, "--json", "--dir", text(directory)];
    let mut chain = Running::start(cocoon(&arguments), Listen::Stdout);
    let url = chain.json_with("api")["url"].as_str().unwrap().to_owned();
    (chain, url)
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", complaint(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn nano(coins: &Value) -> u64 {
    coins["nanoton"].as_str().unwrap().parse().unwrap()
}

fn with_input(arguments: &[&str], input: &str) -> Output {
    let mut child = cocoon(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have had enough before the end.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn refused(output: &Output, words: &str) {
    assert_eq!(output.status.code(), Some(1), "{}", complaint(output));
    assert!(complaint(output).contains(words), "{words}: {}", complaint(output));
}

#[test]
fn a_new_wallet_is_a_private_file_of_words_that_is_never_overwritten_nor_shown() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("words.txt");
    let output = run(&["wallet", "create", text(&file)]);
    assert!(output.status.success(), "{}", complaint(&output));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let words = std::fs::read_to_string(&file).unwrap();
    let key = Mnemonic::parse(&words).unwrap().signing_key().verifying_key().to_bytes();
    let shown = String::from_utf8(output.stdout).unwrap();
    for (wallet, testnet) in [(Wallet::v5r1(key, MAINNET_ID), false), (Wallet::v5r1(key, TESTNET_ID), true)] {
        assert!(shown.contains(&wallet.address().to_wire_string(testnet)), "{shown}");
    }
    assert!(shown.contains("TON (GRAM)") && shown.contains("is the money"), "{shown}");
    let phrase: Vec<&str> = words.split_whitespace().collect();
    assert!(!shown.contains(&phrase[..2].join(" ")), "the words were shown");

    refused(&run(&["wallet", "create", text(&file)]), "never overwritten");
    refused(&with_input(&["wallet", "import", text(&file)], WORDS), "never overwritten");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), words);

    let other = directory.path().join("other.txt");
    refused(&run(&["wallet", "create", text(&other), "--show-words"]), "for terminals only");
    assert!(!other.exists());
}

#[test]
fn words_and_keys_are_taken_over_as_other_programs_wrote_them() {
    let directory = tempfile::tempdir().unwrap();
    let import = |name: &str, input: &str, more: &[&str]| {
        let file = directory.path().join(name);
        let arguments = [&["wallet", "import", text(&file), "--json"][..], more].concat();
        (with_input(&arguments, input), file)
    };
    // Twelve words on each of two lines, with numbers of capitals and a trailing line.
    let (first, second) = WORDS.split_at(WORDS.match_indices(' ').nth(11).unwrap().0);
    let (output, file) = import("a.txt", &format!("{}\n{second}\n\n", first.to_uppercase()), &[]);
    let told = json(&output);
    let key = Mnemonic::parse(WORDS).unwrap().signing_key();
    let public = key.verifying_key().to_bytes();
    let main = Wallet::v5r1(public, MAINNET_ID).address();
    assert_eq!(told["main_network"]["raw_address"], main.to_raw_string());
    assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), WORDS);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    let (output, _) = import("b.txt", &hex::encode(key.to_bytes()), &["--kind", "v4r2"]);
    let told = json(&output);
    let v4r2 = "0:6a08ca027efda3b52f4d2f38e81ac035a0fe19efd14206a34980b597ee284490";
    assert_eq!(told["main_network"]["raw_address"], v4r2, "as @ton/crypto and @ton/ton have it");
    assert_eq!(told["test_networks"]["raw_address"], v4r2);

    for (name, input, words) in [
        (
            "c",
            WORDS.replacen("salon", "salom", 1),
            "word 7 of the mnemonic is in no list of words; did you mean 'salon'?",
        ),
        ("d", WORDS.replacen("where mandate", "mandate where", 1), "do not belong together"),
        ("e", first.to_owned(), "a mnemonic has 24 words, this has 12"),
        ("f", "beef".to_owned(), "neither a key nor 24 words"),
        ("g", String::new(), "standard input is empty"),
        ("h", "word ".repeat(2_000), "at most 4096 bytes"),
    ] {
        let (output, file) = import(name, &input, &[]);
        refused(&output, words);
        assert!(!complaint(&output).contains("lobster"), "a secret was repeated");
        assert!(!file.exists());
    }
}

#[test]
fn coins_go_from_wallet_to_wallet_and_each_step_is_told() {
    let net = Net::start();
    let (anna, annas) = net.person("anna.txt", "10");
    let before = net.show(&anna, &[]);
    assert_eq!((nano(&before["balance"]), &before["seqno"]), (10_000_000_000, &Value::from(0)));
    assert_eq!(before["link"], format!("ton://transfer/{annas}"));
    assert_eq!(before["state"], "not deployed yet: its first message does that");

    let bert = net.private_file("bert.txt", WORDS);
    let v4r2 = ["--wallet-kind", "v4r2"];
    let berts = net.show(&bert, &v4r2)["address"].as_str().unwrap().to_owned();
    let pay = ["send", &berts, "1.5", "--comment", "order 17", "--wallet", text(&anna), "--yes"];
    let output = net.wallet(&pay);
    let shown = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{shown}{}", complaint(&output));
    for words in ["fee at most", "1.5 TON", "order 17", "transaction", "No contract is at that address yet"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert_eq!(nano(&net.show(&bert, &v4r2)["balance"]), 1_500_000_000);
    let after = net.show(&anna, &[]);
    assert_eq!((&after["state"], &after["seqno"]), (&Value::from("deployed"), &Value::from(1)));

    let back = json(&net.wallet(
        &[&["send", &annas, "--all", "--wallet", text(&bert), "--yes", "--json"][..], &v4r2].concat(),
    ));
    let arrived = nano(&back["arrived"][0]["value"]);
    assert!((1_490_000_000..1_500_000_000).contains(&arrived), "{back}");
    assert_eq!(nano(&net.show(&bert, &v4r2)["balance"]), 0);
    assert!(net.balance(&anna) > 9_980_000_000);
    let listed = json(&run(&["tx", &berts, "--url", &net.url, "--json"]));
    assert!(listed.to_string().contains("order 17"), "{listed}");
}

#[test]
fn what_must_not_be_sent_is_refused_before_anybody_is_asked() {
    let net = Net::start();
    let (file, address) = net.person("words.txt", "2");
    let master = Address::new(-1, [0xab; 32]).unwrap().to_wire_string(true);
    let plain = Address::basechain([5; 32]).to_wire_string(false);
    let mut mistyped = plain.clone();
    let last = if mistyped.ends_with('A') { "B" } else { "A" };
    mistyped.replace_range(mistyped.len() - 1.., last);
    let send = |to: &str, amount: &str, more: &[&str]| {
        net.wallet(&[&["send", to, amount, "--wallet", text(&file)][..], more].concat())
    };
    refused(&send(&plain, "1", &[]), "--yes");
    refused(&send(&plain, "2", &["--yes"]), "funds needed: send at least 0.00");
    refused(&send(&master, "1", &["--yes"]), "masterchain");
    refused(&send(&address, "1", &["--yes", "--network", "main"]), "marked as one of test networks");
    assert_eq!(net.balance(&file), 2_000_000_000, "something was sent");
    for (to, amount, words) in [
        (mistyped.as_str(), "1", "checksum"),
        ("EQshort", "1", "48 characters"),
        (&format!("7:{}", "ab".repeat(32)), "1", "workchain 7"),
        (&plain, "1.0000000001", "more than nine decimals"),
        (&plain, "-1", "unexpected argument"),
        (&plain, "99999999999", "more coins than there are"),
        (&plain, "all", "unit"),
    ] {
        let output = send(to, amount, &["--yes"]);
        assert_eq!(output.status.code(), Some(2), "{to} {amount}");
        assert!(complaint(&output).contains(words), "{words}: {}", complaint(&output));
    }
    assert_eq!(send(&plain, "1", &["--all"]).status.code(), Some(2));
    assert_eq!(net.wallet(&["send", &plain, "--wallet", text(&file)]).status.code(), Some(2));
    // Said twice, it is done.
    let forced = send(&master, "0.5", &["--yes", "--force"]);
    assert!(forced.status.success(), "{}", complaint(&forced));
    assert!(net.balance(&file) < 1_500_000_000);
}

#[test]
fn a_file_that_others_read_or_that_is_damaged_is_refused_and_a_stopped_chain_is_named() {
    let net = Net::start();
    let open = net.private_file("open.txt", WORDS);
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o640)).unwrap();
    refused(&net.wallet(&["show", "--wallet", text(&open)]), "chmod 600");
    let swapped = net.private_file("swapped.txt", &WORDS.replacen("where mandate", "mandate where", 1));
    refused(&net.wallet(&["show", "--wallet", text(&swapped)]), "do not belong together");
    refused(&net.wallet(&["show", "--wallet", text(&net.path("nowhere.txt"))]), "nowhere.txt");
    let node = net.private_file("node.txt", WORDS);
    let published = ["show", "--wallet", text(&node), "--wallet-kind", "published"];
    refused(&net.wallet(&published), "--wallet-owner");
    assert_eq!(run(&["wallet", "show"]).status.code(), Some(2), "neither a file nor a role");

    let Net { chain, url, directory } = net;
    assert_eq!(chain.stop(), Some(0));
    let file = directory.path().join("node.txt");
    let output = run(&["wallet", "show", "--wallet", text(&file), "--url", &url]);
    refused(&output, &format!("no answer from the chain at {url}"));
}

#[test]
fn a_published_node_wallet_under_2_ton_is_emptied_by_its_owner() {
    let net = Net::start();
    let (owner, owners) = net.person("owner.txt", "1");
    let (stranger, _) = net.person("stranger.txt", "1");
    let seed = [7; 32];
    let key = net.private_file("key.txt", &hex::encode(seed));
    let public = SigningKey::from_bytes(&seed).verifying_key().to_bytes();
    let node = Wallet::published(public, owners.parse().unwrap());
    net.fund(&node.address().to_string(), "1.5");
    let node_wallet = ["--wallet", text(&key), "--wallet-kind", "published", "--wallet-owner", &owners];
    let exit = |more: &[&str]| net.wallet(&[&["exit", "node"][..], &node_wallet, more].concat());
    assert_eq!(net.show(&key, &node_wallet[2..])["wallet"], "published");

    refused(&exit(&[]), "--yes");
    let alone = exit(&["--yes"]);
    refused(&alone, "--owner-wallet FILE");
    assert!(complaint(&alone).contains("comment w"), "{}", complaint(&alone));
    refused(&exit(&["--yes", "--owner-wallet", text(&stranger)]), "--owner-wallet-kind");

    let told = json(&exit(&["--yes", "--json", "--owner-wallet", text(&owner)]));
    assert_eq!(told["moved_by"], "its owner's text w");
    assert!(nano(&told["owner_has"]) > 2_450_000_000, "{told}");
    assert!(nano(&told["left_in_wallet"]) < 20_000_000, "{told}");
    assert_eq!(nano(&told["owner_has"]), net.balance(&owner));

    // From 2 TON on, its key is enough; and what is done is not done again.
    net.fund(&node.address().to_string(), "3");
    assert_eq!(json(&exit(&["--yes", "--json"]))["moved_by"], "the node's key");
    let balance = net.balance(&owner);
    assert!(balance > 5_400_000_000, "{balance}");
    assert!(exit(&["--yes", "--owner-wallet", text(&owner)]).status.success());
    assert_eq!(net.balance(&owner), balance);
    // A person's wallet has no owner who could have it emptied.
    refused(&net.wallet(&["exit", "node", "--wallet", text(&owner), "--yes"]), "has no owner");
}

/// A network that was used and stopped, with its chain running again.
struct Stopped {
    net: Net,
    dir: PathBuf,
}

impl Stopped {
    fn after_one_question() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path().join("net");
        let arguments = ["up", "--port-base", "0", "--workers", "1", "--json", "--dir", text(&dir)];
        let mut up = Running::start(cocoon(&arguments), Listen::Stdout);
        let ready = up.json_with("gateway");
        let gateway = ready["gateway"].as_str().unwrap();
        let question = serde_json::json!({
            "model": ready["models"][0],
            "messages": [{"role": "user", "content": "Cats sleep. Dogs bark at night. Tea is warm."}],
        });
        let (status, answer) = http(gateway, "POST", "/v1/chat/completions", &question.to_string());
        assert_eq!(status, 200, "{answer}");
        let config = dir.join("gateway/gateway.toml");
        let exit = ["wallet", "exit", "gateway", "--yes", "--config", text(&config)];
        let running = run(&exit);
        refused(&running, "must be stopped first: Ctrl-C");
        assert_eq!(up.stop(), Some(0));
        refused(&run(&exit), "cocoon chain --dir");
        let url = ready["chain"].as_str().unwrap().trim_end_matches("/api/v2").to_owned();
        let (chain, url) = chain(&dir, url.trim_start_matches("http://"));
        Self { net: Net { chain, url, directory }, dir }
    }

    fn config(&self, role: &str) -> String {
        let node = if role == "worker" { "worker-1" } else { role };
        text(&self.dir.join(node).join(format!("{role}.toml"))).to_owned()
    }

    fn node(&self, arguments: &[&str], role: &str) -> Value {
        let config = self.config(role);
        json(&run(&[&["wallet"][..], arguments, &["--config", &config, "--json"]].concat()))
    }

    /// A way out with a delay, which is passed by moving the chain's clock. Tells what came back, in nanoton.
    fn exit_with_delay(&self, role: &str) -> u64 {
        let config = self.config(role);
        let exit = cocoon(&["wallet", "exit", role, "--yes", "--config", &config]);
        let mut exit = Running::start(exit, Listen::Stdout);
        let wait = exit.line_with("waiting until");
        assert!(wait.contains("UTC"), "{wait}");
        let moved = run(&["chain", "advance", "1000", "--url", &self.net.url]);
        assert!(moved.status.success(), "{}", complaint(&moved));
        let line = exit.line_with("came back ");
        let (_, exact) = line.split_once('(').unwrap();
        assert_eq!(exit.wait(), Some(0));
        exact.trim_end_matches(" nanoton)").parse().unwrap()
    }
}

#[test]
fn a_stopped_network_s_coins_are_moved_and_come_home() {
    let stopped = Stopped::after_one_question();
    let gateway = stopped.node(&["show", "gateway"], "gateway");
    assert_eq!(gateway["contracts"].as_array().unwrap().len(), 1);
    let channel = &gateway["contracts"][0];
    assert_eq!((&channel["kind"], &channel["status"]), (&Value::from("client"), &Value::from("open")));
    let in_channel = nano(&channel["to_spend"]);

    let paid = stopped.node(&["deposit", "2", "--yes"], "gateway");
    assert!(nano(&paid["wallet_had"]) - nano(&paid["wallet_has"]) > 2_000_000_000, "{paid}");
    let richer = stopped.node(&["show", "gateway"], "gateway");
    assert_eq!(nano(&richer["contracts"][0]["to_spend"]), in_channel + 2_000_000_000);
    let taken = stopped.node(&["withdraw", "gateway", "--yes"], "gateway");
    assert!(nano(&taken["wallet_has"]) > nano(&taken["wallet_had"]), "{taken}");

    let (person, _) = stopped.net.person("person.txt", "5");
    let funded = ["fund", "worker", "1.25", "--yes", "--wallet", text(&person)];
    let before = nano(&stopped.node(&["show", "worker"], "worker")["balance"]);
    stopped.node(&funded, "worker");
    let worker = stopped.node(&["show", "worker"], "worker");
    // A little goes for the account's storage.
    let funded = before + 1_250_000_000;
    assert!((funded - 1_000_000..=funded).contains(&nano(&worker["balance"])), "{worker}");
    let worked = stopped.node(&["withdraw", "worker", "--yes"], "worker");
    assert!(nano(&worked["paid"]) > 0 && nano(&worked["still_due"]) == 0, "{worked}");
    assert_eq!(nano(&worked["owner_has"]), nano(&worked["paid"]));
    let earned = stopped.node(&["withdraw", "proxy", "--yes"], "proxy");
    assert!(nano(&earned["owner_has"]) > nano(&earned["owner_had"]), "{earned}");

    let invested = nano(&taken["wallet_has"]) + in_channel;
    // Fees go off, and what lay in the channel for its storage comes on top.
    let home = stopped.exit_with_delay("gateway");
    assert!((invested - 500_000_000..invested + 500_000_000).contains(&home), "{home} of {invested}");
    let home = stopped.node(&["exit", "worker", "--yes"], "worker");
    assert!(nano(&home["came_back"]) > 1_900_000_000, "{home}");
    assert_eq!(nano(&home["left_in_wallet"]), 0);
    // The proxy, when it closes, gives it back.
    let kept = &home["left_elsewhere"];
    assert_eq!((kept.as_array().unwrap().len(), nano(&kept[0]["amount"])), (1, 110_000_000), "{kept}");
    assert!(kept[0]["why"].as_str().unwrap().contains("comes back when the proxy closes it"), "{kept}");
    let home = stopped.exit_with_delay("proxy");
    assert!(home > 2_000_000_000, "{home}");
    let shown = stopped.node(&["show", "proxy"], "proxy");
    assert_eq!(shown["contracts"][0]["status"], "closed");
    // Once more does no harm.
    let again = stopped.node(&["exit", "gateway", "--yes"], "gateway");
    assert_eq!(nano(&again["came_back"]), 0, "{again}");
}

#[test]
fn a_node_s_wallet_can_be_filled_before_its_first_start() {
    let stopped = Stopped::after_one_question();
    let template = std::fs::read_to_string(stopped.config("gateway")).unwrap();
    let new = stopped.net.path("new-gateway");
    let config = stopped.net.path("new.toml");
    let moved: Vec<String> = template
        .lines()
        .map(
            |line| {
                if line.starts_with("dir = ") { format!("dir = {:?}", text(&new)) } else { line.to_owned() }
            },
        )
        .collect();
    std::fs::write(&config, moved.join("\n")).unwrap();
    refused(
        &run(&["wallet", "exit", "gateway", "--yes", "--config", text(&config)]),
        "no wallet-key.hex lies there",
    );

    let show = ["wallet", "show", "gateway", "--config", text(&config)];
    let shown = run(&show);
    let words = String::from_utf8(shown.stdout.clone()).unwrap();
    assert!(shown.status.success(), "{}", complaint(&shown));
    assert!(words.contains("funds needed: send at least 10.") && words.contains("?amount=10"), "{words}");
    assert_eq!(new.join("wallet-key.hex").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let told = json(&run(&[&show[..], &["--json"]].concat()));
    stopped.net.fund(told["address"].as_str().unwrap(), told["missing"]["ton"].as_str().unwrap());
    let told = json(&run(&[&show[..], &["--json"]].concat()));
    assert_eq!(told.get("missing"), None, "{told}");
}

#[test]
fn every_command_explains_itself_with_examples() {
    for command in [
        &[][..],
        &["create"],
        &["import"],
        &["show"],
        &["send"],
        &["fund"],
        &["deposit"],
        &["withdraw", "gateway"],
        &["withdraw", "worker"],
        &["withdraw", "proxy"],
        &["exit", "gateway"],
        &["exit", "worker"],
        &["exit", "proxy"],
        &["exit", "node"],
    ] {
        let output = run(&[&["wallet"][..], command, &["--help"]].concat());
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(help.contains("Usage:") && help.contains("Examples:"), "{command:?}: {help}");
    }
}
