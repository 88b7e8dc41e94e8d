//! Where a node's evidence comes from, chosen by name in its configuration.
//!
//! From real machines by way of Linux ([`configfs`]): an Intel TDX quote, an AMD SEV-SNP report. For test networks from
//! [`simulated`] machines, or the published fake quote. And none at all. A machine's secret is also where keys that
//! survive a restart come from: [`sealing`].
#![forbid(unsafe_code)]

pub mod configfs;
pub mod nvidia;
pub mod sealing;
pub mod simulated;

use std::path::Path;
use std::sync::Arc;

use cocoon_attest::{Evidence, EvidenceError, EvidenceKind, EvidenceSource, GpuSource, ReportData, gpu};

use configfs::{ConfigfsTsm, Provider, SnpMachine, TdxMachine, TsmError};

/// The names that [`open`] knows.
pub const NAMES: &[&str] = &["none", "fake_tdx", "tdx", "sev_snp", "auto"];

/// Why there is no evidence source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is none of this name.
    #[error("unknown evidence source {name:?}; there are {}", NAMES.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// There is one of this name, on test networks only: it needs the network's seed.
    #[error(
        "the evidence source {name:?} is simulated and made from a test network's seed; there is none here"
    )]
    NeedsSeed {
        /// What was asked for.
        name: String,
    },
    /// The machine was to say what it is, and something is wrong with it.
    #[error("cannot tell what evidence this machine gives: {0}")]
    Machine(#[from] TsmError),
}

/// The evidence source of this name. Those of real machines, `tdx` and `sev_snp`, are not asked for anything yet: what is
/// wrong with them shows with the first evidence. `auto` is what [`detect`] finds, and `none` where there is nothing to
/// be found; it fails where something is there but cannot be used, rather than passing for a machine without.
///
/// # Errors
/// There is no source of this name, or `auto` found something that cannot be used.
pub fn open(name: &str) -> Result<Arc<dyn EvidenceSource>, OpenError> {
    open_at(name, Path::new(ConfigfsTsm::USUAL_BASE))
}

/// The same, where the kernel's directory of reports is elsewhere.
///
/// # Errors
/// As with [`open`].
pub fn open_at(name: &str, base: &Path) -> Result<Arc<dyn EvidenceSource>, OpenError> {
    let tsm = || ConfigfsTsm::open(base);
    match name {
        "none" => Ok(Arc::new(NoEvidence)),
        "fake_tdx" => Ok(Arc::new(FakeTdx)),
        "tdx" => Ok(Arc::new(TdxMachine::new(tsm()))),
        "sev_snp" => Ok(Arc::new(SnpMachine::new(tsm()))),
        "auto" => match tsm().provider() {
            Ok(Provider::TdxGuest) => Ok(Arc::new(TdxMachine::new(tsm()))),
            Ok(Provider::SevGuest) => Ok(Arc::new(SnpMachine::new(tsm()))),
            Err(absent) if absent.is_absence() => Ok(Arc::new(NoEvidence)),
            Err(error) => Err(error.into()),
        },
        "simulated_tdx" | "simulated_sev_snp" => Err(OpenError::NeedsSeed { name: name.to_owned() }),
        _ => Err(OpenError::Unknown { name: name.to_owned() }),
    }
}

/// What evidence this machine gives, by the kernel's directory of reports ([`ConfigfsTsm::USUAL_BASE`]).
///
/// # Errors
/// Why it gives none, and what to do; [`TsmError::is_absence`] tells a machine that is no trusted environment from one
/// where something is wrong.
pub fn detect(base: &Path) -> Result<EvidenceKind, TsmError> {
    ConfigfsTsm::open(base).provider().map(Provider::evidence_kind)
}

/// Whether this source proves nothing about the machine and is for test networks only. The caller refuses such
/// a source elsewhere and marks its answers.
#[must_use]
pub fn is_simulated(source: &dyn EvidenceSource) -> bool {
    source.is_simulated()
}

/// A machine that shows its GPUs, too: their evidence is made for the machine's, and both for one key.
pub struct WithGpus {
    /// The machine.
    pub machine: Arc<dyn EvidenceSource>,
    /// Its GPUs.
    pub gpus: Arc<dyn GpuSource>,
}

impl EvidenceSource for WithGpus {
    fn kind(&self) -> EvidenceKind {
        self.machine.kind()
    }

    fn is_simulated(&self) -> bool {
        self.machine.is_simulated() || self.gpus.is_simulated()
    }

    fn evidence(&self, report_data: &ReportData) -> Result<Evidence, EvidenceError> {
        let machine = self.machine.evidence(report_data)?;
        let nonce = gpu::nonce(report_data, machine.bytes());
        Ok(machine.with_gpus(self.gpus.evidence(&nonce)?))
    }
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
        let nowhere = Path::new("/nonexistent/tsm/report");
        for name in NAMES {
            let kind = open_at(name, nowhere).map(|source| source.kind().name());
            // A machine that is none shows nothing.
            assert_eq!(kind, Ok(if *name == "auto" { "none" } else { *name }));
        }
        let message = open("sgx").err().map(|error| error.to_string());
        let list = "unknown evidence source \"sgx\"; there are none, fake_tdx, tdx, sev_snp, auto";
        assert_eq!(message.as_deref(), Some(list));
        for name in ["simulated_tdx", "simulated_sev_snp"] {
            assert_eq!(open(name).err(), Some(OpenError::NeedsSeed { name: name.to_owned() }));
        }
    }

    #[test]
    fn a_machine_that_is_none_is_told_from_one_that_fails() {
        let nowhere = Path::new("/nonexistent/tsm/report");
        assert!(detect(nowhere).is_err_and(|error| error.is_absence()));
        let evidence = open_at("tdx", nowhere).unwrap().evidence(&ReportData([0; 64]));
        assert!(evidence.is_err_and(|error| error.reason.contains("modprobe tdx_guest")));
        // A directory that answers to nothing is there, but of no use.
        let broken = tempfile::tempdir().unwrap();
        assert!(detect(broken.path()).is_err_and(|error| !error.is_absence()));
        assert!(matches!(open_at("auto", broken.path()), Err(OpenError::Machine(_))));
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
