//! The fuzz target of GPU evidence over its committed corpus and mutations of it.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::sync::LazyLock;

use cocoon_attest::fuzzing;
use cocoon_attest::gpu::{GpuAttestation, GpuEvidence};
use proptest::prelude::*;

static CORPUS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/gpu_evidence");
    std::fs::read_dir(folder).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
});

#[test]
fn the_corpus_runs_through_and_holds_one_and_several_gpus() {
    for bytes in CORPUS.iter() {
        fuzzing::gpu_evidence(bytes);
    }
    let containers = CORPUS.iter().filter_map(|bytes| GpuEvidence::parse(bytes).ok());
    let numbers: BTreeSet<_> = containers.map(|evidence| evidence.gpus().len()).collect();
    assert_eq!(numbers, BTreeSet::from([1, 2]));
    assert!(CORPUS.iter().any(|bytes| GpuAttestation::parse(bytes).is_ok()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_run_through(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        fuzzing::gpu_evidence(&bytes);
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
        fuzzing::gpu_evidence(&bytes);
    }
}
