//! Evidence of a network that runs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::support::{Listen, Running, cocoon, complaint, get_json, http, text};
use super::{Place, failures, outcome, shown, told};

/// Seconds in two days: certificates last one.
const TWO_DAYS: u64 = 2 * 86_400;

struct Net {
    place: Place,
    running: Running,
    endpoints: Value,
}

impl Net {
    fn up() -> Self {
        let mut place = Place::new();
        let dir = place.path("net");
        let command = cocoon(&["up", "--dir", text(&dir), "--port-base", "0", "--json"]);
        let mut running = Running::start(command, Listen::Stdout);
        let endpoints = running.json_with("gateway");
        place.seed = dir.join("simulated-seed.hex");
        Self { place, running, endpoints }
    }

    fn gateway(&self) -> &str {
        self.endpoints["gateway"].as_str().unwrap()
    }

    /// Verifies with the seed, as JSON.
    fn verified(&self, source: &str, more: &[&str]) -> (i32, Value) {
        self.place.verified(source.as_ref(), more)
    }
}

#[test]
fn the_nodes_of_a_network_are_verified_from_wherever_their_evidence_is() {
    let net = Net::up();
    a_port_proves_itself_to_who_has_the_seed(&net);
    a_gateway_tells_of_all_nodes(&net);
    what_was_saved_is_verified_again_offline(&net);
    certificates_are_read_in_every_form(&net);
    a_policy_decides_by_role_and_image(&net);
    assert_eq!(net.running.stop(), Some(0));
}

fn a_port_proves_itself_to_who_has_the_seed(net: &Net) {
    for port in ["workers", "clients"] {
        let address = net.endpoints["proxy"][port].as_str().unwrap();
        let (code, judged) = net.verified(address, &[]);
        assert_eq!((code, &judged["verified"]), (0, &json!(true)), "{judged:#}");
        let node = &judged["evidence"][0];
        assert_eq!(node["verdict"]["simulated"], true);
        assert_eq!(outcome(node, "certificate"), "passed");
        assert_eq!(outcome(node, "binding"), "passed");
    }
    // Its vendors are nobody's without the seed.
    let address = net.endpoints["proxy"]["clients"].as_str().unwrap();
    let output = net.place.attest(&["verify", address, "--offline"]);
    assert_eq!(output.status.code(), Some(1), "{}", complaint(&output));
    assert!(shown(&output).contains("does not hold"), "{}", shown(&output));

    let output = net.place.attest(&["show", address, "--json"]);
    let (code, seen) = told(&output);
    assert_eq!((code, &seen["verified"]), (0, &json!(false)));
    assert_eq!(seen["evidence"][0]["claims"]["checks"][0]["outcome"], "skipped");
    assert_eq!(seen["evidence"][0]["public_key"].as_str().unwrap().len(), 64);
    assert!(seen["evidence"][0]["claims"]["expires_at"].is_null(), "{seen:#}");
}

fn a_gateway_tells_of_all_nodes(net: &Net) {
    let (code, judged) = net.verified(net.gateway(), &[]);
    assert_eq!(code, 0, "{judged:#}");
    assert!(judged["judged_as_of"].is_u64());
    let nodes = judged["evidence"].as_array().unwrap();
    let names: Vec<_> = nodes.iter().map(|node| node["name"].as_str().unwrap()).collect();
    let of = |role: &str| names.iter().filter(|name| name.starts_with(role)).count();
    assert_eq!((of("proxy"), of("worker")), (1, 2), "{names:?}");
    for node in nodes {
        for field in ["name", "kind", "report_data", "public_key", "fingerprint"] {
            assert!(node[field].is_string(), "{field}: {node:#}");
        }
        for field in ["bytes", "not_before", "not_after"] {
            assert!(node[field].is_u64(), "{field}: {node:#}");
        }
        assert_eq!((&node["holds"], &node["decision"]), (&json!(true), &json!("allowed")));
        assert!(node["verdict"]["image_hash"].is_string() && node["verdict"]["measurements"].is_object());
    }
    // One of the workers has a GPU.
    let with_gpus: Vec<_> = nodes.iter().filter(|node| node["gpu_bytes"].is_u64()).collect();
    assert_eq!(with_gpus.len(), 1);
    assert!(with_gpus[0]["verdict"]["gpu"]["gpus"][0]["driver"].is_string(), "{:#}", with_gpus[0]);
    let output = net.place.verify(net.gateway().as_ref(), &["--simulated-seed", text(&net.place.seed)]);
    let told = shown(&output);
    assert!(told.contains("3 of 3 nodes: evidence holds and is let in"), "{told}");
    assert!(told.contains("simulated and proves nothing"), "{told}");
    // Not one of them without.
    let output = net.place.verify(net.gateway().as_ref(), &["--offline"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(shown(&output).contains("0 of 3 nodes"), "{}", shown(&output));
    // Another seed is as good as none.
    let other = Place::new();
    let (code, judged) = other.verified(net.gateway().as_ref(), &[]);
    assert_eq!((code, &judged["verified"]), (1, &json!(false)));
}

fn what_was_saved_is_verified_again_offline(net: &Net) {
    let (status, all) = http(net.gateway(), "GET", "/v1/attestation", "");
    assert_eq!(status, 200, "{all}");
    let saved = net.place.file("saved.json", &all);
    // A bare name, as people write it.
    let (code, judged) = net.verified(text(&saved), &["--save-collateral", "that-day.json"]);
    assert_eq!(code, 0, "{judged:#}");
    let day = judged["judged_as_of"].as_u64().unwrap();
    let bundle: Value =
        serde_json::from_slice(&std::fs::read(net.place.path("that-day.json")).unwrap()).unwrap();
    assert!(!bundle["items"].as_array().unwrap().is_empty(), "{bundle:#}");

    let then = day.to_string();
    let (code, again) = net.verified(text(&saved), &["--collateral", "that-day.json", "--at", &then]);
    assert_eq!((code, &again["judged_as_of"]), (0, &json!(day)), "{again:#}");
    let verdicts = |judged: &Value| {
        let nodes = judged["evidence"].as_array().unwrap();
        nodes.iter().map(|node| node["verdict"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(verdicts(&again), verdicts(&judged));

    let late = (day + TWO_DAYS).to_string();
    let output = net.place.verify(
        &saved,
        &["--simulated-seed", text(&net.place.seed), "--collateral", "that-day.json", "--at", &late],
    );
    assert_eq!(output.status.code(), Some(1));
    let words = shown(&output).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("does not hold: certificate: the certificate expired"), "{words}");
    let (_, judged) = net.verified(text(&saved), &["--collateral", "that-day.json", "--at", &late]);
    assert_eq!(failures(&judged["evidence"][0])[0], "certificate", "{judged:#}");

    // An empty bundle has nothing to verify with.
    let empty = json!({"format": "cocoon collateral bundle 1", "gathered_at": day, "items": []});
    net.place.file("empty.json", empty.to_string());
    let (code, judged) = net.verified(text(&saved), &["--collateral", "empty.json", "--at", &then]);
    assert_eq!(code, 1);
    assert!(judged["evidence"].as_array().unwrap().iter().all(|node| node["holds"] == false), "{judged:#}");

    let fingerprint = again["evidence"][1]["fingerprint"].as_str().unwrap();
    let one = get_json(net.gateway(), &format!("/v1/attestation/{fingerprint}"));
    let saved = net.place.file("one.json", one.to_string());
    let (code, judged) = net.verified(text(&saved), &[]);
    assert_eq!((code, &judged["evidence"][0]["fingerprint"]), (0, &json!(fingerprint)), "{judged:#}");
}

/// The certificate that a gateway tells of, by role.
fn told_certificate(net: &Net, role: &str) -> Vec<u8> {
    let all = get_json(net.gateway(), "/v1/attestation");
    let mut rest = vec![&all];
    while let Some(value) = rest.pop() {
        match value {
            Value::Array(items) => rest.extend(items),
            Value::Object(members) => {
                if members.get("role") == Some(&json!(role))
                    && let Some(Value::String(certificate)) = members.get("certificate")
                {
                    return STANDARD.decode(certificate).unwrap();
                }
                rest.extend(members.values());
            }
            _ => {}
        }
    }
    panic!("no {role}: {all:#}");
}

fn certificates_are_read_in_every_form(net: &Net) {
    let der = told_certificate(net, "worker");
    let base64 = STANDARD.encode(&der);
    let lines: Vec<_> = base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    for (name, content) in [
        ("certificate.der", der.clone()),
        ("certificate.pem", pem.into_bytes()),
        ("certificate.txt", base64.into_bytes()),
        ("certificate.hex", hex::encode(&der).into_bytes()),
    ] {
        let path = net.place.file(name, content);
        let (code, judged) = net.verified(text(&path), &[]);
        assert_eq!(code, 0, "{name}: {judged:#}");
        assert!(judged["evidence"][0]["fingerprint"].is_string());
    }
    // A changed byte anywhere is noticed, and so is a lost one.
    for at in (0..der.len()).step_by(der.len() / 12) {
        let mut changed = der.clone();
        changed[at] ^= 1;
        let path = net.place.file("changed.der", changed);
        let output = net.place.verify(&path, &["--simulated-seed", text(&net.place.seed)]);
        assert!([Some(1), Some(2)].contains(&output.status.code()), "byte {at}: {}", shown(&output));
        let path = net.place.file("cut.der", &der[..at]);
        let output = net.place.verify(&path, &["--simulated-seed", text(&net.place.seed)]);
        assert_eq!(output.status.code(), Some(2), "cut at {at}");
    }
}

fn a_policy_decides_by_role_and_image(net: &Net) {
    let der = told_certificate(net, "worker");
    let path = net.place.file("worker.der", der);
    let (_, judged) = net.verified(text(&path), &[]);
    let image = judged["evidence"][0]["verdict"]["image_hash"].as_str().unwrap().to_owned();
    let other = "ab".repeat(32);
    let refused_by = |judged: &Value| judged["evidence"][0]["decision"]["refused"]["rule"].clone();

    assert_eq!(net.verified(text(&path), &["--image", &image]).0, 0);
    assert_eq!(net.verified(text(&path), &["--image", &other, "--image", &image]).0, 0);
    let (code, judged) = net.verified(text(&path), &["--image", &other]);
    assert_eq!((code, refused_by(&judged)), (1, json!("pinned_image")));
    assert_eq!(failures(&judged["evidence"][0]), [""; 0], "the evidence itself holds");

    net.place.file("right.toml", format!("[worker]\nimages = [\"{image}\"]\n[proxy]\nimages = []\n"));
    assert_eq!(net.verified(text(&path), &["--policy", "right.toml", "--as", "worker"]).0, 0);
    // Nobody says that it is a worker, and of a proxy the policy demands what nobody has.
    let (code, judged) = net.verified(text(&path), &["--policy", "right.toml"]);
    assert_eq!((code, refused_by(&judged)), (1, json!("pinned_image")));
    net.place.file("wrong.toml", format!("[worker]\nimages = [\"{other}\"]\n"));
    let (code, judged) = net.verified(text(&path), &["--policy", "wrong.toml", "--as", "worker"]);
    assert_eq!((code, refused_by(&judged)), (1, json!("pinned_image")));
    net.place.file("client.toml", "[client]\naccept = [\"fake_tdx\"]\n[worker]\ngpus = \"required\"\n");
    let (code, judged) = net.verified(text(&path), &["--policy", "client.toml", "--as", "client"]);
    assert_eq!((code, refused_by(&judged)), (1, json!("evidence_kind")));
    // The gateway tells which of them are workers: one lacks GPUs, and the proxy needs none.
    let (code, judged) = net.verified(net.gateway(), &["--policy", "client.toml"]);
    let nodes = judged["evidence"].as_array().unwrap();
    let refused: Vec<_> = nodes.iter().filter(|node| node["holds"] == false).collect();
    assert_eq!((code, refused.len()), (1, 1), "{judged:#}");
    assert_eq!(refused[0]["decision"]["refused"]["rule"], "gpu_evidence");
    assert!(refused[0]["name"].as_str().unwrap().starts_with("worker"), "{:#}", refused[0]);

    for (name, content, words) in [
        ("misspelt.toml", "[wroker]\n", "unknown field"),
        ("kind.toml", "[proxy]\naccept = [\"none\"]\n", "no evidence that could be accepted"),
        ("hash.toml", "[proxy]\nimages = [\"12\"]\n", "images"),
    ] {
        net.place.file(name, content);
        let output = net.place.verify(&path, &["--policy", name]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(complaint(&output).contains(words), "{name}: {}", complaint(&output));
    }
}
