//! Evidence of real machines, verified offline on its day.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::support::{complaint, text};
use super::{Place, failures, outcome, told};

/// `2025-06-20T00:00:00Z` and `2026-10-09T00:00:00Z` in seconds: the samples' collateral holds on these days.
const TDX_DAY: &str = "1750377600";
const EXTENDED_DAY: &str = "2026-10-09T00:00:00Z";
/// When the platform has no level any more.
const OUTDATED_DAY: &str = "2026-02-20T00:00:00Z";
/// All keys of the SNP samples are valid then.
const SNP_DAY: &str = "2025-06-01T00:00:00Z";

fn sample(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../cocoon-attest/tests").join(name)
}

fn tdx(name: &str) -> PathBuf {
    sample(&format!("samples/dcap-qvl/{name}.bin"))
}

/// A bundle of these answers.
fn bundle(items: &[(&str, &str, Vec<u8>)]) -> String {
    let items = items
        .iter()
        .map(|(kind, name, body)| json!({"kind": kind, "name": name, "base64": STANDARD.encode(body)}));
    json!({
        "format": "cocoon collateral bundle 1",
        "gathered_at": 1_750_377_600,
        "items": items.collect::<Vec<_>>(),
    })
    .to_string()
}

/// What Intel's service answered about a sample, as a bundle.
fn tdx_bundle(name: &str) -> String {
    let path = sample(&format!("samples/dcap-qvl/{name}_collateral.json"));
    let answers: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let text = |field: &str| answers[field].as_str().unwrap();
    let signed = |chain: &str, member: &str, content: &str, signature: &str| {
        let (chain, content, signature) = (text(chain).trim(), text(content), text(signature));
        format!("{chain}\n{{\"{member}\":{content},\"signature\":\"{signature}\"}}").into_bytes()
    };
    let fmspc: Value = serde_json::from_str(text("tcb_info")).unwrap();
    let tcb = format!("tdx/certification/v4/tcb?fmspc={}", fmspc["fmspc"].as_str().unwrap().to_uppercase());
    let quoting =
        signed("qe_identity_issuer_chain", "enclaveIdentity", "qe_identity", "qe_identity_signature");
    bundle(&[
        ("tdx", "sgx/certification/v4/rootcacrl", text("root_ca_crl").into()),
        (
            "tdx",
            "sgx/certification/v4/pckcrl?ca=platform&encoding=der",
            hex::decode(text("pck_crl")).unwrap(),
        ),
        ("tdx", "tdx/certification/v4/qe/identity", quoting),
        ("tdx", &tcb, signed("tcb_info_issuer_chain", "tcbInfo", "tcb_info", "tcb_info_signature")),
    ])
}

fn judged(place: &Place, name: &str, at: &str, more: &[&str]) -> (i32, Value) {
    let bundle = place.file("bundle.json", tdx_bundle(name));
    let mut all = vec!["--json", "--collateral", text(&bundle), "--at", at];
    all.extend(more);
    told(&place.verify(&tdx(name), &all))
}

#[test]
fn real_quotes_of_intel_s_hold_on_their_day_and_not_later() {
    let place = Place::new();
    for (name, at) in [("tdx_quote", TDX_DAY), ("tdx_quote_td15ex", EXTENDED_DAY)] {
        let (code, report) = judged(&place, name, at, &[]);
        assert_eq!(code, 0, "{name}: {report:#}");
        let node = &report["evidence"][0];
        assert_eq!((&node["kind"], &node["verdict"]["simulated"]), (&json!("tdx"), &json!(false)));
        assert_eq!(outcome(node, "binding"), "skipped", "nobody named its key");
        let data = node["report_data"].as_str().unwrap();
        assert_eq!(judged(&place, name, at, &["--report-data", data]).0, 0);
        assert_eq!(judged(&place, name, at, &["--key", &"11".repeat(32)]).0, 1);
        let image = node["verdict"]["image_hash"].as_str().unwrap();
        assert_eq!(judged(&place, name, at, &["--image", image]).0, 0);
        assert_eq!(judged(&place, name, at, &["--image", &"11".repeat(32)]).0, 1);
        // A test network's seed makes real evidence neither better nor worse.
        assert_eq!(judged(&place, name, at, &["--simulated-seed", text(&place.seed)]).0, 0);
    }
    let (code, late) = judged(&place, "tdx_quote", "2025-07-19T10:00:35Z", &[]);
    assert_eq!((code, failures(&late["evidence"][0])), (1, vec!["pck_crl"]), "{late:#}");
    let (code, report) = judged(&place, "tdx_quote_outdated", OUTDATED_DAY, &[]);
    assert_eq!((code, failures(&report["evidence"][0])), (1, vec!["tcb_status"]), "{report:#}");
}

#[test]
fn a_policy_for_intel_s_platforms_counts() {
    let place = Place::new();
    place.file("advisory.toml", "[tdx]\nmin_tcb_evaluation = 1000\n");
    let (code, report) = judged(&place, "tdx_quote", TDX_DAY, &["--policy", "advisory.toml"]);
    assert_eq!(code, 1, "{report:#}");
    assert_eq!(report["evidence"][0]["decision"]["refused"]["rule"], "verification");
}

#[test]
fn an_sgx_quote_is_no_evidence() {
    let place = Place::new();
    let output = place.verify(&tdx("sgx_quote"), &["--offline"]);
    assert_eq!(output.status.code(), Some(2), "{}", complaint(&output));
}

/// A report with its chip's certificate behind it, as a host hands it over: a table of GUID, offset and length, in
/// little-endian, that ends with an entry of zeros.
fn snp(report: &str, certificate: &str, guid: [u8; 16]) -> Vec<u8> {
    let (report, certificate) = (sample(&format!("snp/{report}")), sample(&format!("snp/{certificate}")));
    let (report, certificate) = (std::fs::read(report).unwrap(), std::fs::read(certificate).unwrap());
    let (offset, length) = (48_u32, u32::try_from(certificate.len()).unwrap());
    [&report[..], &guid, &offset.to_le_bytes(), &length.to_le_bytes(), &[0; 24], &certificate].concat()
}

/// Of a VCEK certificate (SEV-SNP guest-hypervisor communication block, section 4.1.8.1).
const VCEK: [u8; 16] =
    [0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd];

/// Firmware before 2025 looked for no aliases, and AMD's list of that day is not at hand.
const LENIENT: &str = "[sev_snp]\nrevocation = \"where_available\"\nrequire_alias_check = false\n";

#[test]
fn a_report_of_amd_s_milan_line_is_let_in_by_a_policy_that_says_so_alone() {
    let place = Place::new();
    let path = place.file("milan.bin", snp("milan-report.bin", "milan-vcek.der", VCEK));
    let verify = |more: &[&str]| {
        let mut all = vec!["--json", "--offline", "--at", SNP_DAY];
        all.extend(more);
        told(&place.verify(&path, &all))
    };
    let (code, report) = verify(&[]);
    let strict = failures(&report["evidence"][0]);
    assert_eq!(
        (code, &strict[..]),
        (1, &["product", "collateral", "platform", "tcb_floor"][..]),
        "{report:#}"
    );

    // All the rest forgiven, the line itself is still not on the list.
    place.file("lenient.toml", LENIENT);
    let (code, report) = verify(&["--policy", "lenient.toml"]);
    assert_eq!((code, failures(&report["evidence"][0])), (1, vec!["product", "tcb_floor"]), "{report:#}");

    place.file("milan.toml", format!("{LENIENT}[sev_snp.floors.milan]\nsnp = 8\n"));
    let (code, report) = verify(&["--policy", "milan.toml"]);
    assert_eq!(code, 0, "{report:#}");
    let node = &report["evidence"][0];
    assert_eq!((&node["kind"], outcome(node, "revocation")), (&json!("sev_snp"), "skipped"));
    // The end of its certificate.
    assert_eq!(node["verdict"]["expires_at"], 1_901_474_623);
}

#[test]
fn a_report_of_amd_s_genoa_line_holds() {
    let place = Place::new();
    let path = place.file("genoa.bin", snp("genoa-report.bin", "genoa-vcek.der", VCEK));
    place.file("genoa.toml", format!("{LENIENT}[sev_snp.floors.genoa]\nsnp = 8\n"));
    let more = ["--json", "--offline", "--at", SNP_DAY, "--policy", "genoa.toml"];
    let (code, report) = told(&place.verify(&path, &more));
    assert_eq!(code, 0, "{report:#}");
}

/// Evidence of GPUs says nothing without that of the machine that it is bound to, which the samples lack.
#[test]
fn a_gpu_s_report_alone_is_no_evidence() {
    let place = Place::new();
    for name in ["gpu/hopper-550.90.07.report", "gpu/blackwell-575.32.report"] {
        assert_eq!(place.verify(&sample(name), &[]).status.code(), Some(2), "{name}");
    }
    let path = place.file("container", b"COCOGPU1\0\0");
    assert_eq!(place.verify(&path, &[]).status.code(), Some(2));
}

#[test]
fn the_policy_in_the_documentation_is_one() {
    let document = include_str!("../../../../docs/trust.md");
    let blocks: Vec<_> =
        document.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    // The first is a gateway's configuration.
    assert_eq!(blocks.len(), 3, "there are two policies, a short and a whole one");
    let place = Place::new();
    for policy in &blocks[1..] {
        place.file("policy.toml", policy);
        let more = ["--policy", "policy.toml", "--as", "worker"];
        let (code, report) = judged(&place, "tdx_quote", TDX_DAY, &more);
        // It is read, and refuses: the image is not the one that it pins, or there is no GPU.
        assert_eq!(code, 1, "{report:#}");
        assert!(report["evidence"][0]["decision"]["refused"].is_object(), "{report:#}");
    }
}
