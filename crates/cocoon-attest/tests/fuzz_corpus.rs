//! The fuzz targets over the committed corpora and mutations of them: nothing a peer sends may panic.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/forge.rs"]
mod forge;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use cocoon_attest::gpu::{GpuAttestation, GpuEvidence};
use cocoon_attest::snp::SnpEvidence;
use cocoon_attest::{PeerCertificate, TdxQuote, fuzzing};
use proptest::prelude::*;

static CERTIFICATES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| corpus("peer_certificate"));
static TDX: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| corpus("tdx_evidence"));
static SNP: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| corpus("snp_evidence"));
static GPU: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| corpus("gpu_evidence"));

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = format!("{}/../../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_dir(folder).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
}

/// A file of the corpus with a few bytes changed, perhaps cut.
fn mutated(corpus: &'static [Vec<u8>]) -> impl Strategy<Value = Vec<u8>> {
    let place = any::<prop::sample::Index>;
    let changes = prop::collection::vec((place(), any::<u8>()), 0..6);
    (prop::sample::select(corpus), changes, prop::option::of(place())).prop_map(
        |(mut bytes, changes, cut)| {
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        },
    )
}

#[test]
fn the_corpus_runs_through_and_holds_readable_certificates() {
    for bytes in CERTIFICATES.iter() {
        fuzzing::peer_certificate(bytes);
    }
    let readable = CERTIFICATES.iter().filter(|bytes| PeerCertificate::parse(bytes).is_ok()).count();
    assert!(readable >= 2, "only {readable} of {} files reach beyond the parser", CERTIFICATES.len());
}

#[test]
fn the_tdx_corpus_runs_through_and_holds_quotes_of_every_form() {
    for bytes in TDX.iter() {
        fuzzing::tdx_evidence(bytes);
    }
    let quotes = TDX.iter().filter_map(|bytes| TdxQuote::parse(bytes).ok());
    let forms: BTreeSet<_> = quotes.map(|quote| (quote.version, quote.body.len())).collect();
    assert_eq!(forms.len(), 4, "{forms:?}");
}

#[test]
fn the_snp_corpus_runs_through_and_holds_reports_of_every_form() {
    for bytes in SNP.iter() {
        fuzzing::snp_evidence(bytes);
    }
    let forms = SNP.iter().filter_map(|bytes| SnpEvidence::parse(bytes).ok());
    let forms: BTreeSet<_> =
        forms.map(|evidence| (evidence.report.version, evidence.certificates.vlek.is_some())).collect();
    assert_eq!(forms, BTreeSet::from([(2, false), (3, false), (3, true), (5, false)]));
}

#[test]
fn the_gpu_corpus_runs_through_and_holds_one_and_several_gpus() {
    for bytes in GPU.iter() {
        fuzzing::gpu_evidence(bytes);
    }
    let containers = GPU.iter().filter_map(|bytes| GpuEvidence::parse(bytes).ok());
    let numbers: BTreeSet<_> = containers.map(|evidence| evidence.gpus().len()).collect();
    assert_eq!(numbers, BTreeSet::from([1, 2]));
    assert!(GPU.iter().any(|bytes| GpuAttestation::parse(bytes).is_ok()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_run_through_as_a_certificate_and_as_tdx_evidence(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        fuzzing::peer_certificate(&bytes);
        fuzzing::tdx_evidence(&bytes);
    }

    #[test]
    fn mutated_certificates_run_through(bytes in mutated(&CERTIFICATES)) {
        fuzzing::peer_certificate(&bytes);
    }

    #[test]
    fn any_extension_value_runs_through(
        which in prop::sample::select(vec![
            forge::QUOTE, forge::CLAIMS, forge::KEY_USAGE, forge::EXT_KEY_USAGE, forge::BASIC_CONSTRAINTS,
        ]),
        value in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        fuzzing::peer_certificate(&forge::Forge::fake_tdx([7; 32]).replacing(which, &value).der());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_bytes_run_through_as_snp_evidence(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        fuzzing::snp_evidence(&bytes);
    }

    #[test]
    fn mutated_snp_evidence_and_collateral_run_through(bytes in mutated(&SNP)) {
        fuzzing::snp_evidence(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn mutated_tdx_evidence_and_collateral_run_through(bytes in mutated(&TDX)) {
        fuzzing::tdx_evidence(&bytes);
    }

    #[test]
    fn any_bytes_run_through_as_gpu_evidence(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        fuzzing::gpu_evidence(&bytes);
    }

    #[test]
    fn mutated_gpu_evidence_and_collateral_run_through(bytes in mutated(&GPU)) {
        fuzzing::gpu_evidence(&bytes);
    }
}
