//! `cocoon attest`: evidence of a running network, of files in every form, and of real machines, verified offline.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

#[path = "attest/forms.rs"]
mod forms;
#[path = "attest/network.rs"]
mod network;
#[path = "attest/real.rs"]
mod real;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use support::{cocoon, complaint, text};

/// A folder with a test network's seed.
struct Place {
    root: tempfile::TempDir,
    seed: PathBuf,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let seed = root.path().join("seed.hex");
        std::fs::write(&seed, format!("{}\n", "5e".repeat(32))).unwrap();
        std::fs::set_permissions(&seed, std::fs::Permissions::from_mode(0o600)).unwrap();
        Self { root, seed }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Writes a file.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Runs `cocoon attest` in this folder.
    fn attest(&self, arguments: &[&str]) -> Output {
        let mut all = vec!["attest"];
        all.extend(arguments);
        let output = cocoon(&all).current_dir(&self.root).output().unwrap();
        let said = complaint(&output);
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
        output
    }

    /// Verifies, with what else is given.
    fn verify(&self, source: &Path, more: &[&str]) -> Output {
        let mut all = vec!["verify", text(source)];
        all.extend(more);
        self.attest(&all)
    }

    /// Verifies with the seed, as JSON.
    fn verified(&self, source: &Path, more: &[&str]) -> (i32, Value) {
        let mut all = vec!["--json", "--simulated-seed", text(&self.seed)];
        all.extend(more);
        told(&self.verify(source, &all))
    }
}

/// The exit status, and the JSON on standard output.
fn told(output: &Output) -> (i32, Value) {
    let json = serde_json::from_slice(&output.stdout);
    let json = json.unwrap_or_else(|error| panic!("{error}: {}", complaint(output)));
    (output.status.code().unwrap(), json)
}

/// The text on standard output.
fn shown(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// How a check ended.
fn outcome<'a>(judged: &'a Value, name: &str) -> &'a str {
    let checks = judged["verdict"]["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == name);
    check.unwrap_or_else(|| panic!("no check {name}: {judged:#}"))["outcome"].as_str().unwrap()
}

/// The names of the checks that failed.
fn failures(judged: &Value) -> Vec<&str> {
    let checks = judged["verdict"]["checks"].as_array().unwrap();
    let failed = checks.iter().filter(|check| check["outcome"] == "failed");
    failed.map(|check| check["name"].as_str().unwrap()).collect()
}
