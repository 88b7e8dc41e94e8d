//! The fuzz target of SNP evidence over its committed corpus and mutations of it.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::sync::LazyLock;

use cocoon_attest::fuzzing;
use cocoon_attest::snp::SnpEvidence;
use proptest::prelude::*;

static CORPUS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/snp_evidence");
    std::fs::read_dir(folder).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
});

#[test]
fn the_corpus_runs_through_and_holds_reports_of_every_form() {
    for bytes in CORPUS.iter() {
        fuzzing::snp_evidence(bytes);
    }
    let forms = CORPUS.iter().filter_map(|bytes| SnpEvidence::parse(bytes).ok());
    let forms: BTreeSet<_> =
        forms.map(|evidence| (evidence.report.version, evidence.certificates.vlek.is_some())).collect();
    assert_eq!(forms, BTreeSet::from([(2, false), (3, false), (3, true), (5, false)]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_bytes_run_through(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        fuzzing::snp_evidence(&bytes);
    }

    #[test]
    fn mutated_evidence_and_collateral_run_through(
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
        fuzzing::snp_evidence(&bytes);
    }
}
