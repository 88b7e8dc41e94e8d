//! The fuzz target over the committed corpus and mutations of it: nothing a peer sends may panic.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/forge.rs"]
mod forge;

use std::sync::LazyLock;

use cocoon_attest::{PeerCertificate, fuzzing};
use proptest::prelude::*;

static CORPUS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/peer_certificate");
    std::fs::read_dir(folder).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
});

#[test]
fn the_corpus_runs_through_and_holds_readable_certificates() {
    for bytes in CORPUS.iter() {
        fuzzing::peer_certificate(bytes);
    }
    let readable = CORPUS.iter().filter(|bytes| PeerCertificate::parse(bytes).is_ok()).count();
    assert!(readable >= 2, "only {readable} of {} files reach beyond the parser", CORPUS.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_run_through(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        fuzzing::peer_certificate(&bytes);
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
