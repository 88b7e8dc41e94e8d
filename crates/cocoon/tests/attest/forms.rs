//! Evidence made here, in every form, and what is none.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::support::{complaint, text};
use super::{Place, outcome, shown};

const KEY: &str = "5590a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e";
const KINDS: [&str; 2] = ["simulated_tdx", "simulated_sev_snp"];

fn made(place: &Place, kind: &str) -> PathBuf {
    let path = place.path(kind);
    let seed = text(&place.seed);
    let output = place.attest(&[
        "make",
        "--key",
        KEY,
        "--present",
        kind,
        "--simulated-seed",
        seed,
        "--out",
        text(&path),
    ]);
    assert!(output.status.success(), "{}", complaint(&output));
    assert!(shown(&output).contains(" bytes in "), "{}", shown(&output));
    path
}

#[test]
fn simulated_evidence_is_made_and_holds_for_its_key_alone() {
    let place = Place::new();
    for kind in KINDS {
        let path = made(&place, kind);
        let (code, judged) = place.verified(&path, &["--key", KEY]);
        assert_eq!(code, 0, "{kind}: {judged:#}");
        assert_eq!(outcome(&judged["evidence"][0], "binding"), "passed");
        let other = "00".repeat(32);
        let (code, judged) = place.verified(&path, &["--key", &other]);
        assert_eq!((code, outcome(&judged["evidence"][0], "binding")), (1, "failed"), "{kind}");
        // With no key named, everything else is checked, and that is said.
        let (code, judged) = place.verified(&path, &[]);
        assert_eq!((code, outcome(&judged["evidence"][0], "binding")), (0, "skipped"), "{kind}");
        let data = judged["evidence"][0]["report_data"].as_str().unwrap().to_owned();
        assert_eq!(place.verified(&path, &["--report-data", &data]).0, 0);
        assert_eq!(place.verified(&path, &["--report-data", &"00".repeat(64)]).0, 1);
        // Without the seed its vendors are nobody's.
        assert_eq!(place.verify(&path, &["--key", KEY, "--offline"]).status.code(), Some(1));
        let show = shown(&place.attest(&["show", text(&path)]));
        assert!(show.contains("Nothing of this was verified") && !show.contains("holds:"), "{show}");
    }
}

#[test]
fn evidence_is_read_as_bytes_hex_and_base64_from_files_and_standard_input() {
    let place = Place::new();
    for kind in KINDS {
        let bytes = std::fs::read(made(&place, kind)).unwrap();
        let hex = hex::encode(&bytes);
        let wrapped: Vec<_> =
            hex.as_bytes().chunks(60).map(|line| std::str::from_utf8(line).unwrap()).collect();
        for content in [
            bytes.clone(),
            hex.clone().into_bytes(),
            hex.to_uppercase().into_bytes(),
            wrapped.join("\r\n").into_bytes(),
            format!("  {}\n", STANDARD.encode(&bytes)).into_bytes(),
        ] {
            let path = place.file("evidence", content);
            assert_eq!(place.verified(&path, &["--key", KEY]).0, 0, "{kind}");
            let mut command = super::cocoon(&[
                "attest",
                "verify",
                "-",
                "--key",
                KEY,
                "--simulated-seed",
                text(&place.seed),
            ]);
            let output = command.stdin(std::fs::File::open(&path).unwrap()).output().unwrap();
            assert!(output.status.success(), "{}", complaint(&output));
        }
    }
}

#[test]
fn evidence_without_a_file_is_printed_as_base64() {
    let place = Place::new();
    let output = place.attest(&["make", "--key", KEY, "--present", "fake_tdx"]);
    assert!(output.status.success(), "{}", complaint(&output));
    let path = place.file("fake", shown(&output));
    // Nobody signed it, so the strict policy does not let it in, and without a key nothing at all was checked.
    let (code, judged) = place.verified(&path, &["--key", KEY]);
    assert_eq!((code, &judged["evidence"][0]["verdict"]["simulated"]), (1, &serde_json::json!(true)));
    place.file("fake.toml", "[proxy]\naccept = [\"fake_tdx\"]\n");
    assert_eq!(place.verified(&path, &["--key", KEY, "--policy", "fake.toml"]).0, 0);
    assert_eq!(place.verified(&path, &["--policy", "fake.toml"]).0, 1);
}

#[test]
fn evidence_is_not_made_without_a_machine_or_a_seed_or_over_another_file() {
    let place = Place::new();
    let make = |more: &[&str]| {
        let mut all = vec!["make", "--key", KEY];
        all.extend(more);
        let output = place.attest(&all);
        assert!(!output.status.success(), "{more:?}");
        complaint(&output)
    };
    // The machine that runs the tests may be one of them, but not both.
    if !Path::new("/sys/kernel/config/tsm").exists() {
        for (kind, words) in [("tdx", "tdx"), ("sev_snp", "sev_snp"), ("auto", "cocoon doctor")] {
            let message = make(&["--present", kind]);
            assert!(message.contains(words) && message.len() < 600, "{kind}: {message}");
        }
    }
    assert!(make(&["--present", "none"]).contains("makes no evidence"));
    assert!(make(&["--present", "moon"]).contains("there is no kind \"moon\""));
    assert!(make(&["--present", "simulated_tdx"]).contains("simulated"));
    let missing = place.path("missing");
    assert!(make(&["--present", "simulated_tdx", "--simulated-seed", text(&missing)]).contains("missing"));
    let there = place.file("there", "mine");
    let seed = text(&place.seed);
    let message = make(&["--present", "simulated_tdx", "--simulated-seed", seed, "--out", text(&there)]);
    assert!(message.contains("exists"), "{message}");
    assert_eq!(std::fs::read_to_string(&there).unwrap(), "mine");
    assert_eq!(place.attest(&["make"]).status.code(), Some(2));
    assert_eq!(place.attest(&["make", "--key", "12"]).status.code(), Some(2));
}

#[test]
fn what_is_no_evidence_ends_with_2() {
    let place = Place::new();
    let quote = std::fs::read(made(&place, "simulated_tdx")).unwrap();
    let deep = "[".repeat(100_000);
    let many = format!("{{\"a\":[{}0]}}", "{\"\":0},".repeat(700_000));
    let certificate = "{\"certificate\": \"MAA=\"}";
    for (name, content) in [
        ("empty", Vec::new()),
        ("newline", b"\n".to_vec()),
        ("words", b"hello, world".to_vec()),
        ("zeros", vec![0; 4096]),
        ("ones", vec![0xff; 70_000]),
        ("sequence", vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff]),
        ("sequence-only", vec![0x30]),
        ("pem", b"-----BEGIN CERTIFICATE-----".to_vec()),
        ("pem-nothing", b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n".to_vec()),
        ("pem-garbage", b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n".to_vec()),
        ("object", b"{}".to_vec()),
        ("object-none", b"{\"proxies\": []}".to_vec()),
        ("object-bad", b"{\"certificate\": \"!\"}".to_vec()),
        ("object-short", certificate.as_bytes().to_vec()),
        ("array", b"[1, 2]".to_vec()),
        ("deep", deep.into_bytes()),
        ("deep-object", "{\"a\":".repeat(100_000).into_bytes()),
        ("many", many.into_bytes()),
        ("start-of-quote", quote[..7].to_vec()),
        ("hex-odd", b"abc".to_vec()),
    ] {
        let path = place.file(name, content);
        for command in ["verify", "show"] {
            let output = place.attest(&[command, text(&path)]);
            assert_eq!(output.status.code(), Some(2), "{command} {name}: {}", complaint(&output));
        }
    }
    // A file that never ends is not read to its end.
    let huge = std::fs::File::create(place.path("huge")).unwrap();
    huge.set_len(1 << 40).unwrap();
    let output = place.verify(&place.path("huge"), &[]);
    assert_eq!(output.status.code(), Some(2), "{}", complaint(&output));
}

#[test]
fn evidence_that_is_cut_off_or_changed_does_not_hold() {
    let place = Place::new();
    for kind in KINDS {
        let mut whole = std::fs::read(made(&place, kind)).unwrap();
        // Intel's quotes end with zeros that mean nothing.
        whole.truncate(whole.iter().rposition(|byte| *byte != 0).unwrap() + 1);
        for len in (0..whole.len()).step_by(whole.len() / 12) {
            let path = place.file("cut", &whole[..len]);
            let output = place.verify(&path, &["--simulated-seed", text(&place.seed), "--key", KEY]);
            assert!([Some(1), Some(2)].contains(&output.status.code()), "{kind} cut at {len}");
            let path = place.file("long", [&whole[..], &vec![0; len + 1]].concat());
            let output = place.verify(&path, &["--simulated-seed", text(&place.seed)]);
            assert!(output.status.code().is_some_and(|code| code <= 2), "{kind} longer by {len}");
        }
    }
}

#[test]
fn a_source_that_is_not_there_is_told() {
    let place = Place::new();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let gateway = format!("http://{closed}");
    for (source, code, words) in [
        ("nowhere.json", 2, "neither a file nor HOST:PORT"),
        ("host:notaport", 2, "neither a file nor HOST:PORT"),
        ("host:70000", 2, "neither a file nor HOST:PORT"),
        ("no-such-host.invalid:1", 2, "no-such-host.invalid:1"),
        ("http://no-such-host.invalid:1", 2, "no answer from http://no-such-host.invalid:1"),
        ("http://", 2, "write http://HOST:PORT"),
        (closed.as_str(), 2, closed.as_str()),
        (gateway.as_str(), 2, "refused"),
        (".", 2, "Is a directory"),
    ] {
        let output = place.verify(source.as_ref(), &[]);
        let message = complaint(&output);
        assert_eq!(output.status.code(), Some(code), "{source}: {message}");
        assert!(message.contains(words), "{source}: {message}");
    }
}

#[test]
fn a_server_that_is_no_gateway_is_told() {
    let url = super::support::model_server("x", || serde_json::json!({}));
    let place = Place::new();
    // It answers everything with a list of models: no node is in it.
    let output = place.verify(url.as_ref(), &[]);
    assert_eq!(output.status.code(), Some(2), "{}", complaint(&output));
}

#[test]
fn times_of_any_size_are_judged_without_a_fall() {
    let place = Place::new();
    let path = made(&place, "simulated_tdx");
    for time in ["0", "1", "18446744073709551615", "253402300800", "1970-01-01T00:00:00Z"] {
        let output = place.verify(&path, &["--simulated-seed", text(&place.seed), "--at", time]);
        assert!(output.status.code().is_some_and(|code| code <= 2), "{time}: {}", complaint(&output));
    }
    for time in ["yesterday", "-1", "2026-02-30T00:00:00Z", "18446744073709551616"] {
        assert_eq!(place.verify(&path, &["--at", time]).status.code(), Some(2), "{time}");
    }
}

#[test]
fn collateral_is_kept_in_a_file_of_ours_and_nothing_else_is_replaced() {
    let place = Place::new();
    let path = made(&place, "simulated_sev_snp");
    let save = |to: &Path| {
        let more = ["--simulated-seed", text(&place.seed), "--save-collateral", text(to)];
        place.verify(&path, &more)
    };
    let kept = place.file("kept.json", "an older one");
    assert!(save(&kept).status.success());
    assert!(std::fs::read_to_string(&kept).unwrap().contains("cocoon collateral bundle 1"));
    let pipe = place.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let folder = place.path("folder");
    std::fs::create_dir(&folder).unwrap();
    for other in [&pipe, &folder, &place.path("no/such/folder/file")] {
        let output = save(other);
        assert_eq!(output.status.code(), Some(1), "{other:?}: {}", shown(&output));
        assert!(complaint(&output).contains("cannot write"), "{}", complaint(&output));
    }
    assert!(!std::fs::metadata(&pipe).unwrap().is_file(), "a pipe was replaced by a file");
}
