//! What a node shows about the machine it runs on, and where that comes from.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha512};

use crate::hexed;
use crate::snp::SnpReport;

/// The kinds of evidence. Names are those of the published policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EvidenceKind {
    /// Nothing is shown.
    None,
    /// The report data alone, signed by nobody: for development, proves nothing.
    FakeTdx,
    /// An Intel TDX quote, version 4 or 5.
    Tdx,
    /// An AMD SEV-SNP attestation report.
    SevSnp,
    /// What an NVIDIA GPU says about itself. Stands beside a CPU's evidence, never alone.
    NvidiaGpu,
    /// Bytes of no known form.
    Unrecognised,
}

impl EvidenceKind {
    /// Whether this kind proves nothing about hardware and belongs on test networks only.
    #[must_use]
    pub fn is_simulated(self) -> bool {
        self == Self::FakeTdx
    }

    /// The name used in configuration and answers: `none`, `fake_tdx`, `tdx`, `sev_snp`, `nvidia_gpu`,
    /// `unrecognised`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::FakeTdx => "fake_tdx",
            Self::Tdx => "tdx",
            Self::SevSnp => "sev_snp",
            Self::NvidiaGpu => "nvidia_gpu",
            Self::Unrecognised => "unrecognised",
        }
    }
}

impl std::fmt::Display for EvidenceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Evidence as it travels: of the machine, and perhaps of its GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    kind: EvidenceKind,
    bytes: Bytes,
    gpus: Option<Bytes>,
}

impl Evidence {
    /// No evidence.
    #[must_use]
    pub fn none() -> Self {
        Self { kind: EvidenceKind::None, bytes: Bytes::new(), gpus: None }
    }

    /// Evidence of a kind that the caller knows, as its [`EvidenceSource`] made it.
    #[must_use]
    pub fn new(kind: EvidenceKind, bytes: Bytes) -> Self {
        Self { kind, bytes, gpus: None }
    }

    /// The same, with evidence of the machine's GPUs beside it.
    #[must_use]
    pub fn with_gpus(mut self, gpus: Bytes) -> Self {
        self.gpus = Some(gpus);
        self
    }

    /// Evidence of a machine whose kind nobody names, as a file holds it. The kind is read off the form: 64 bytes are a fake quote, a TDX quote starts with version 4 or 5 and TEE type 0x81, and
    /// an SNP report of version 2 to 5 names signature algorithm 1 at its place. No quote is taken for a report:
    /// where a report's version goes on with zeros, a quote has its key type, which never is zero.
    #[must_use]
    pub fn from_quote(bytes: Bytes) -> Self {
        let kind = match &bytes[..] {
            quote if quote.len() == ReportData::LEN => EvidenceKind::FakeTdx,
            [2..=5, 0, 0, 0, rest @ ..]
                if rest.len() >= SnpReport::LEN - 4 && rest[0x30..0x34] == [1, 0, 0, 0] =>
            {
                EvidenceKind::SevSnp
            }
            [4 | 5, 0, _, _, 0x81, 0, 0, 0, ..] => EvidenceKind::Tdx,
            _ => EvidenceKind::Unrecognised,
        };
        Self { kind, bytes, gpus: None }
    }

    /// What this claims to be.
    #[must_use]
    pub fn kind(&self) -> EvidenceKind {
        self.kind
    }

    /// The evidence of the machine itself.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The evidence of its GPUs, where there is any.
    #[must_use]
    pub fn gpus(&self) -> Option<&Bytes> {
        self.gpus.as_ref()
    }
}

/// The 64 bytes that evidence vouches for besides the machine: what binds it to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReportData(#[serde(with = "hexed::array")] pub [u8; 64]);

impl ReportData {
    /// Length, bytes.
    pub const LEN: usize = 64;

    /// SHA-512 of the raw Ed25519 public key, as published nodes bind their certificates.
    #[must_use]
    pub fn for_key(public_key: &[u8; 32]) -> Self {
        Self(Sha512::digest(public_key).into())
    }
}

/// Why evidence could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no {kind} evidence: {reason}")]
pub struct EvidenceError {
    /// What was asked for.
    pub kind: EvidenceKind,
    /// What stands in the way, and what to do about it.
    pub reason: String,
}

/// Makes evidence about this machine. May block: call it where blocking is allowed.
pub trait EvidenceSource: Send + Sync {
    /// What it makes.
    fn kind(&self) -> EvidenceKind;

    /// Whether its evidence proves nothing about hardware and belongs on test networks only.
    fn is_simulated(&self) -> bool {
        self.kind().is_simulated()
    }

    /// Evidence bound to `report_data`.
    ///
    /// # Errors
    /// Says why the machine gives none.
    fn evidence(&self, report_data: &ReportData) -> Result<Evidence, EvidenceError>;
}

/// Makes evidence about this machine's GPUs. May block, for seconds: call it where blocking is allowed.
pub trait GpuSource: Send + Sync {
    /// Evidence of every GPU, signed by each with this nonce ([`gpu::nonce`](crate::gpu::nonce())), as
    /// [`GpuEvidence`](crate::gpu::GpuEvidence) writes it.
    ///
    /// # Errors
    /// Says why the machine gives none.
    fn evidence(&self, nonce: &[u8; 32]) -> Result<Bytes, EvidenceError>;

    /// Whether its evidence proves nothing about hardware and belongs on test networks only.
    fn is_simulated(&self) -> bool;
}
