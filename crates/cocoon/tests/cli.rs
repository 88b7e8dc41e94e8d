//! The command line as people meet it: help, versions, mistakes.
#![allow(clippy::unwrap_used)]

mod support;

use support::{cocoon, complaint, run, text};

#[test]
fn help_is_there_for_every_command_and_shows_examples() {
    for command in [
        &["--help"][..],
        &["up", "--help"],
        &["demo", "--help"],
        &["gateway", "--help"],
        &["proxy", "--help"],
        &["worker", "--help"],
        &["chain", "--help"],
        &["chain", "faucet", "--help"],
        &["chain", "advance", "--help"],
        &["chain", "status", "--help"],
        &["model", "--help"],
        &["model", "pack", "--help"],
        &["model", "hash", "--help"],
        &["model", "verify", "--help"],
        &["tx", "--help"],
        &["root", "--help"],
        &["doctor", "--help"],
        &["keys", "--help"],
        &["keys", "add", "--help"],
        &["keys", "usage", "--help"],
    ] {
        let output = run(command);
        assert!(output.status.success(), "{command:?}");
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(help.contains("Usage:") && help.contains("Examples:"), "{command:?}: {help}");
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let output = run(&["--version"]);
    let version = format!("cocoon {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), version);
}

#[test]
fn wrong_arguments_are_a_usage_error() {
    for arguments in [
        &["fly"][..],
        &[],
        &["up", "--workers", "0"],
        &["up", "--workers", "65"],
        &["up", "--port-base", "65000"],
        &["up", "--model", "x"],
        &["doctor", "--role", "baker"],
        &["demo"],
        &["demo", "x", "--sentences", "0"],
        &["gateway", "--http", "nowhere"],
        &["root", "images", "add", "gateway", "00"],
        &["model", "pack"],
        &["model", "hash", "x", "--name", "a"],
        &["model", "hash", "x", "--name", "a@b", "--commit", "c"],
        &["model", "verify", "x"],
        &["model", "verify", "x", "00"],
        &["model", "verify", "x", "a@b"],
        &["tx"],
        &["tx", "x", "--limit", "5"],
    ] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_file_that_cannot_be_summarised_is_told_with_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.txt");
    let binary = directory.path().join("binary");
    std::fs::write(&binary, [0, 159, 146, 150]).unwrap();
    for (path, words) in [(&missing, "No such file"), (&binary, "not a text")] {
        let output = run(&["demo", text(path)]);
        assert_eq!(output.status.code(), Some(1));
        let complaint = complaint(&output);
        assert!(complaint.contains(words) && complaint.contains(text(path)), "{complaint}");
    }
}

#[test]
fn a_role_without_what_it_needs_says_how_to_give_it() {
    let directory = tempfile::tempdir().unwrap();
    let complain = |role: &str, arguments: &[&str]| {
        let mut all = vec![role];
        all.extend(arguments);
        let output = cocoon(&all).current_dir(&directory).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        complaint(&output)
    };
    for role in ["gateway", "proxy", "worker"] {
        let message = complain(role, &[]);
        let variable = format!("COCOON_{}_ROOT_FILE", role.to_uppercase());
        assert!(message.contains("root.file is missing") && message.contains(&variable), "{message}");
        let message = complain(role, &["--config", "nowhere.toml"]);
        assert!(message.contains("nowhere.toml") && message.contains("No such file"), "{message}");
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/session-v2.keys.json");
    let message = complain("worker", &["--root-file", root]);
    assert!(message.contains("root_owner_address"), "{message}");
}

#[test]
fn a_misspelt_field_of_a_configuration_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("proxy.toml");
    std::fs::write(&path, "listen_worker = \"127.0.0.1:1\"").unwrap();
    let output = run(&["proxy", "--config", text(&path)]);
    let complaint = complaint(&output);
    assert!(complaint.contains("did you mean `listen_workers`?"), "{complaint}");
}

#[test]
fn a_wrong_log_level_is_told_with_the_right_ones() {
    let output = run(&["demo", "x", "--log", "lou=d=er"]);
    let complaint = complaint(&output);
    assert!(complaint.contains("error, warn, info, debug or trace"), "{complaint}");
}
