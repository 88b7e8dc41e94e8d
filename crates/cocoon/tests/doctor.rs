//! `cocoon doctor` on the machine that runs the tests, whatever that is.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use support::{cocoon, run, text};

#[test]
fn this_machine_is_judged_in_json_that_agrees_with_the_exit_status() {
    let output = run(&["doctor", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let summary = &told["summary"];
    let code = output.status.code().unwrap();
    assert!([0, 1, 3].contains(&code), "{code}: {summary}");
    assert_eq!(summary["exit_code"], code);
    let checks = told["checks"].as_array().unwrap();
    let count = |outcome: &str| checks.iter().filter(|check| check["outcome"] == outcome).count();
    assert_eq!(summary["problems"], count("problem"));
    assert_eq!(code == 1, count("problem") > 0);
    for check in checks {
        let needs_mending = ["problem", "warning"].contains(&check["outcome"].as_str().unwrap());
        assert_eq!(check["mend"].is_string(), needs_mending, "{check}");
        assert!(["group", "name", "found"].iter().all(|field| check[field].is_string()), "{check}");
    }
}

#[test]
fn text_ends_with_the_verdict_and_the_next_step_and_has_no_colours_in_a_pipe() {
    let output = run(&["doctor", "--role", "gateway"]);
    let told = String::from_utf8(output.stdout).unwrap();
    let mut last = told.lines().rev().skip_while(|line| !line.starts_with("next: "));
    assert!(last.next().is_some(), "{told}");
    let verdict = last.next().unwrap();
    let words = if output.status.success() { "ready as a gateway" } else { "not ready as a gateway" };
    assert!(verdict.starts_with(words), "{verdict}");
    assert!(!told.contains('\x1b'));
}

#[test]
fn a_configuration_that_cannot_be_used_is_a_problem_with_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("worker.toml");
    std::fs::write(&file, "[engine]\nbuildin = true\n").unwrap();
    let output = cocoon(&["doctor", "--config", text(&file)]).current_dir(&directory).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("`engine.builtin`"), "{told}");
}
