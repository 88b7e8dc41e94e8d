//! The fuzz target over the committed corpus and mutations of it: nothing a peer sends may panic.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/forge.rs"]
mod forge;

use std::sync::LazyLock;

use cocoon_attest::{PeerCertificate, TdxQuote, fuzzing};
use proptest::prelude::*;

static CORPUS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| corpus("peer_certificate"));
static TDX_CORPUS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| corpus("tdx_evidence"));

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = format!("{}/../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_dir(folder).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
}

#[test]
fn the_corpus_runs_through_and_holds_readable_certificates() {
    for bytes in CORPUS.iter() {
        fuzzing::peer_certificate(bytes);
    }
    let readable = CORPUS.iter().filter(|bytes| PeerCertificate::parse(bytes).is_ok()).count();
    assert!(readable >= 2, "only {readable} of {} files reach beyond the parser", CORPUS.len());
}

#[test]
fn the_tdx_corpus_runs_through_and_holds_quotes_of_every_form() {
    for bytes in TDX_CORPUS.iter() {
        fuzzing::tdx_evidence(bytes);
    }
    let forms: std::collections::BTreeSet<_> = TDX_CORPUS
        .iter()
        .filter_map(|bytes| TdxQuote::parse(bytes).ok())
        .map(|quote| (quote.version, quote.body.len()))
        .collect();
    assert_eq!(forms.len(), 4, "{forms:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn mutated_tdx_evidence_and_collateral_run_through(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = which.get(&TDX_CORPUS).clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        fuzzing::tdx_evidence(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_run_through(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        fuzzing::peer_certificate(&bytes);
        fuzzing::tdx_evidence(&bytes);
    }

    #[test]
    fn mutated_certificates_run_through(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = which.get(&CORPUS).clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        fuzzing::peer_certificate(&bytes);
    }

    #[test]
    fn any_extension_value_runs_through(
        which in prop::sample::select(vec![
            forge::QUOTE, forge::CLAIMS, forge::KEY_USAGE, forge::EXT_KEY_USAGE, forge::BASIC_CONSTRAINTS,
        ]),
        value in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        fuzzing::peer_certificate(&forge::Forge::fake_tdx([7; 32]).replacing(which, &value).der());
    }
}
