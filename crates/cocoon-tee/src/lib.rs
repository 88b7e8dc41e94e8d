//! Where a node's evidence comes from, chosen by name in its configuration.
//!
//! So far: none at all, and the simulated quote of test networks. Hardware drivers join the list here.
#![forbid(unsafe_code)]

pub mod configfs;
pub mod sealing;
pub mod simulated;

use std::sync::Arc;

use cocoon_attest::{Evidence, EvidenceError, EvidenceKind, EvidenceSource, ReportData};

/// The names that [`open`] knows.
pub const NAMES: &[&str] = &["none", "fake_tdx"];

/// There is no evidence source of this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown evidence source {name:?}; there are {}", NAMES.join(", "))]
pub struct UnknownSource {
    /// What was asked for.
    pub name: String,
}

/// The evidence source of this name.
///
/// # Errors
/// There is none.
pub fn open(name: &str) -> Result<Arc<dyn EvidenceSource>, UnknownSource> {
    match name {
        "none" => Ok(Arc::new(NoEvidence)),
        "fake_tdx" => Ok(Arc::new(FakeTdx)),
        _ => Err(UnknownSource { name: name.to_owned() }),
    }
}

/// Whether this source proves nothing about the machine and is for test networks only. The caller refuses such
/// a source elsewhere and marks its answers.
#[must_use]
pub fn is_simulated(source: &dyn EvidenceSource) -> bool {
    source.is_simulated()
}

/// Shows nothing: for clients, and for nodes among peers whose policy is `any`.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoEvidence;

impl EvidenceSource for NoEvidence {
    fn kind(&self) -> EvidenceKind {
        EvidenceKind::None
    }

    fn evidence(&self, _report_data: &ReportData) -> Result<Evidence, EvidenceError> {
        Ok(Evidence::none())
    }
}

/// The simulated quote that published nodes use for development: the report data, signed by nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct FakeTdx;

impl EvidenceSource for FakeTdx {
    fn kind(&self) -> EvidenceKind {
        EvidenceKind::FakeTdx
    }

    fn evidence(&self, report_data: &ReportData) -> Result<Evidence, EvidenceError> {
        Ok(Evidence::new(EvidenceKind::FakeTdx, report_data.0.to_vec().into()))
    }
}

#[cfg(test)]
mod tests {
    use cocoon_attest::{Collateral, FakeTdxVerifier, UnixSeconds, Verifier as _};

    use super::*;

    #[test]
    fn every_name_opens_and_others_are_refused_with_the_list() {
        for name in NAMES {
            assert_eq!(open(name).map(|source| source.kind().name()), Ok(*name));
        }
        let message = open("tdx").err().map(|error| error.to_string());
        assert_eq!(message.as_deref(), Some("unknown evidence source \"tdx\"; there are none, fake_tdx"));
    }

    #[test]
    fn only_the_fake_source_is_simulated() {
        assert!(is_simulated(&FakeTdx));
        assert!(!is_simulated(&NoEvidence));
    }

    #[test]
    fn a_fake_quote_is_accepted_for_its_own_key_only() {
        let [mine, other] = [[1; 32], [2; 32]].map(|key| ReportData::for_key(&key));
        let evidence = FakeTdx.evidence(&mine).unwrap();
        let accepted = |binding| {
            FakeTdxVerifier.verify(&evidence, &Collateral::none(), binding, UnixSeconds(0)).accepted()
        };
        assert!(accepted(&mine));
        assert!(!accepted(&other));
    }
}
