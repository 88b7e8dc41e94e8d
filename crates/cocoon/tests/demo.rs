//! `cocoon demo`: a summary through a whole network, and sums that agree.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use support::{complaint, run};

const TEXT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/harbour.txt");

#[test]
fn a_demo_summarises_the_file_and_its_sums_agree() {
    let output = run(&["demo", TEXT, "--sentences", "2", "--json"]);
    assert!(output.status.success(), "{}", complaint(&output));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();

    let text = std::fs::read_to_string(TEXT).unwrap().replace('\n', " ");
    let summary = result["summary"].as_str().unwrap();
    assert!(summary.matches('.').count() == 2, "{summary}");
    for sentence in summary.split_inclusive('.') {
        assert!(text.contains(sentence.trim()), "not of the text: {sentence}");
    }

    let number = |pointer: &str| result.pointer(pointer).and_then(Value::as_u64).unwrap();
    let tokens = number("/usage/total_tokens");
    assert!(tokens > 100);
    assert_eq!(number("/usage/prompt_tokens") + number("/usage/completion_tokens"), tokens);
    assert_eq!(number("/charged_tokens"), tokens);
    assert_eq!(number("/client_paid_nanoton"), tokens * 20);
    assert_eq!(number("/worker_earned_nanoton"), tokens * 18);
    assert_eq!(number("/proxy_kept_nanoton"), tokens * 2);
    assert_eq!(result["sums_agree"], true);

    // On chain, to the nanoton: what all had before is what all have now, and the fees.
    let settlement = &result["settlement"];
    let nano = |value: &Value| value.as_str().unwrap().parse::<i128>().unwrap();
    let of = |party: &str, when: &str| nano(&settlement["balances"][party][when]["nanoton"]);
    let change = |party: &str| of(party, "after") - of(party, "before");
    let changes: i128 = ["owner", "client", "proxy", "workers"].into_iter().map(change).sum();
    assert_eq!(nano(&settlement["difference_nanoton"]), 0);
    assert_eq!(changes, -nano(&settlement["fees"]["nanoton"]));
    for (party, for_tokens) in [("owner", 0), ("client", -20), ("proxy", 2), ("workers", 18)] {
        let line = &settlement["balances"][party];
        let for_tokens = for_tokens * i128::from(tokens);
        assert_eq!(nano(&line["for_tokens_nanoton"]), for_tokens, "{party}");
        let fees = nano(&line["fees_nanoton"]);
        assert_eq!(change(party), for_tokens - fees, "{party}");
        // A whole life of contracts and half a year of their storage.
        assert!((0..200_000_000).contains(&fees), "{party} paid {fees} of fees");
    }
}

#[test]
fn a_demo_for_people_shows_the_summary_and_who_paid_whom() {
    let output = run(&["demo", TEXT]);
    assert!(output.status.success(), "{}", complaint(&output));
    let (warnings, shown) = (complaint(&output), String::from_utf8(output.stdout).unwrap());
    for words in [
        "harbour",
        "Metered",
        "Client paid",
        "Worker earned",
        "Proxy kept",
        "sums agree",
        "Nothing is missing",
    ] {
        assert!(shown.contains(words), "{words} is missing in: {shown}");
    }
    assert!(!shown.contains('\x1b'), "colours without a terminal: {shown}");
    assert_eq!(warnings, "", "nothing to warn of");
}
