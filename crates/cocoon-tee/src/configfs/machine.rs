//! The machines that configfs-tsm speaks for, as sources of evidence.

use cocoon_attest::snp::{SnpCertificates, SnpReport};
use cocoon_attest::{
    Evidence, EvidenceError, EvidenceKind, EvidenceSource, MAX_QUOTE_LEN, ReportData, TdxQuote,
};

use super::{ConfigfsTsm, Provider, TsmError};

/// This machine as an Intel trust domain.
#[derive(Clone)]
pub struct TdxMachine {
    tsm: ConfigfsTsm,
}

impl TdxMachine {
    /// The machine behind this directory. Whether it is one shows with the first quote.
    #[must_use]
    pub fn new(tsm: ConfigfsTsm) -> Self {
        Self { tsm }
    }

    /// A quote bound to these data.
    ///
    /// # Errors
    /// The kernel gives none, or one that is not bound to them.
    pub fn quote(&self, report_data: &ReportData) -> Result<Evidence, TsmError> {
        let report = self.tsm.report(Provider::TdxGuest, report_data)?;
        let quote = TdxQuote::parse(&report.outblob).map_err(|error| malformed(&error))?;
        if quote.report_data != *report_data {
            return Err(TsmError::OtherReportData);
        }
        Ok(Evidence::new(EvidenceKind::Tdx, report.outblob.into()))
    }
}

impl EvidenceSource for TdxMachine {
    fn kind(&self) -> EvidenceKind {
        EvidenceKind::Tdx
    }

    fn evidence(&self, report_data: &ReportData) -> Result<Evidence, EvidenceError> {
        self.quote(report_data).map_err(|error| unavailable(EvidenceKind::Tdx, &error))
    }
}

/// This machine as an AMD SEV-SNP guest.
#[derive(Clone)]
pub struct SnpMachine {
    tsm: ConfigfsTsm,
}

impl SnpMachine {
    /// The machine behind this directory. Whether it is one shows with the first report.
    #[must_use]
    pub fn new(tsm: ConfigfsTsm) -> Self {
        Self { tsm }
    }

    /// A report bound to these data, and the host's certificate table behind it. A table that cannot be read, which is
    /// the host's doing, is left out: verifiers fetch certificates that do not come along.
    ///
    /// # Errors
    /// The kernel gives none, or one that is not bound to the data; or both parts are too long together.
    pub fn report(&self, report_data: &ReportData) -> Result<(SnpReport, Evidence), TsmError> {
        let parts = self.tsm.report(Provider::SevGuest, report_data)?;
        let report = SnpReport::parse(&parts.outblob).map_err(|error| malformed(&error))?;
        if report.report_data != *report_data {
            return Err(TsmError::OtherReportData);
        }
        let mut bytes = parts.outblob;
        let certificates = SnpCertificates::parse(&parts.auxblob).unwrap_or_default();
        if certificates != SnpCertificates::default() {
            bytes.extend(parts.auxblob);
        }
        if bytes.len() > MAX_QUOTE_LEN {
            return Err(TsmError::EvidenceTooLong { len: bytes.len() });
        }
        Ok((report, Evidence::new(EvidenceKind::SevSnp, bytes.into())))
    }
}

impl EvidenceSource for SnpMachine {
    fn kind(&self) -> EvidenceKind {
        EvidenceKind::SevSnp
    }

    fn evidence(&self, report_data: &ReportData) -> Result<Evidence, EvidenceError> {
        match self.report(report_data) {
            Ok((_report, evidence)) => Ok(evidence),
            Err(error) => Err(unavailable(EvidenceKind::SevSnp, &error)),
        }
    }
}

fn malformed(error: &dyn std::error::Error) -> TsmError {
    TsmError::Malformed { file: "outblob", reason: error.to_string() }
}

fn unavailable(kind: EvidenceKind, error: &TsmError) -> EvidenceError {
    EvidenceError { kind, reason: error.to_string() }
}
