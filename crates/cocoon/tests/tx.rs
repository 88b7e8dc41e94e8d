//! `cocoon tx`: where cells may come from, and what is said of what is none.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write as _;
use std::process::Stdio;

use serde_json::Value;
use support::{cocoon, complaint, run, text};

/// `text` with "hello" to the basechain account of 32 bytes of 2, signed for nobody in particular: a body alone.
const COMMENT: &str = "b5ee9c7201010101000b0000120000000068656c6c6f";

fn json(output: &std::process::Output) -> Value {
    assert!(output.status.success(), "{}", complaint(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn from_stdin(arguments: &[&str], input: &[u8]) -> std::process::Output {
    let mut command = cocoon(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may have had enough before the end.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

#[test]
fn cells_come_as_text_in_a_file_or_from_standard_input() {
    let bytes = hex::decode(COMMENT).unwrap();
    let base64 = "te6ccgEBAQEACwAAEgAAAABoZWxsbw==";
    let directory = tempfile::tempdir().unwrap();
    let binary = directory.path().join("message.boc");
    std::fs::write(&binary, &bytes).unwrap();
    let words = directory.path().join("message.txt");
    std::fs::write(&words, format!("{}\n{}\n", &base64[..10], &base64[10..])).unwrap();
    let shouted = COMMENT.to_uppercase();
    let unpadded = base64.trim_end_matches('=');
    for input in [COMMENT, &shouted, base64, unpadded, text(&binary), text(&words)] {
        assert_eq!(json(&run(&["tx", "--json", input]))["text"], "hello", "{input}");
    }
    for input in [&bytes[..], base64.as_bytes(), COMMENT.as_bytes()] {
        assert_eq!(json(&from_stdin(&["tx", "-", "--json"], input))["text"], "hello");
    }
    let output = run(&["tx", COMMENT]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.starts_with("text: a text\n") && !shown.contains('\u{1b}'), "{shown}");
}

#[test]
fn what_is_no_bag_of_cells_is_wrong_usage_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let noise = directory.path().join("noise");
    std::fs::write(&noise, [0xff, 0xfe, 0]).unwrap();
    let large = directory.path().join("large");
    std::fs::write(&large, "0".repeat(6 * 1024 * 1024)).unwrap();
    let cut = &COMMENT[..30];
    for (input, words) in [
        ("", "neither"),
        ("no-such-file.boc", "neither hex or base64"),
        ("b5ee9c7", "is a part of it missing?"),
        ("00112233", "one begins with b5ee9c72"),
        (cut, "is a part of it missing?"),
        (text(&noise), "holds neither"),
        (text(&large), "over 2 MiB"),
    ] {
        let output = run(&["tx", input]);
        assert_eq!(output.status.code(), Some(2), "{input:.40}");
        assert!(complaint(&output).contains(words), "{input:.40}: {}", complaint(&output));
        assert!(output.stdout.is_empty());
    }
    assert_eq!(from_stdin(&["tx", "-"], b"").status.code(), Some(2));
    assert_eq!(run(&["tx", COMMENT, "--proxy-key", "12"]).status.code(), Some(2));
}
