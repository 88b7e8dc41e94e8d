//! What a verification found.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::opaque::GpuMode;
use super::version::{DriverVersion, VbiosVersion};
use crate::{Check, Outcome, UnixSeconds, hexed};

/// What one GPU says about itself, and which one it is. Believed as far as the checks passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuReport {
    /// SHA-256 of the SubjectPublicKeyInfo of the key that is burnt into it.
    #[serde(with = "hexed::array")]
    pub device: [u8; 32],
    /// The name in that key's certificate, such as `GH100 A01 GSP BROM`.
    pub model: String,
    /// The chip: the first word of that name.
    pub chip: String,
    /// The driver that talks to it.
    pub driver: DriverVersion,
    /// Its firmware.
    pub vbios: VbiosVersion,
    /// The board: project, its variant, and the chip's, such as `1010 0200 882`.
    pub board: String,
    /// How it is joined to others.
    pub mode: GpuMode,
}

/// The outcome of a verification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuVerdict {
    /// The GPUs whose report and chain could be read, in the order of the evidence.
    pub gpus: Vec<GpuReport>,
    /// Every check, in the order made. The module's documentation lists them.
    pub checks: Vec<Check>,
    /// When the verdict stops holding (certificates or collateral run out).
    pub expires_at: Option<UnixSeconds>,
    /// Names of the checks that failed for want of an answer of NVIDIA's, and for nothing else.
    #[serde(skip)]
    pub unanswered: BTreeSet<String>,
}

impl GpuVerdict {
    /// Whether the evidence holds: something was checked, and nothing failed.
    #[must_use]
    pub fn accepted(&self) -> bool {
        self.checks.iter().any(|check| check.outcome == Outcome::Passed) && self.first_failure().is_none()
    }

    /// The first check that failed.
    #[must_use]
    pub fn first_failure(&self) -> Option<&Check> {
        self.checks.iter().find(|check| check.outcome == Outcome::Failed)
    }

    /// A check by its name.
    #[must_use]
    pub fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }

    /// Whether all that speaks against the evidence is that collateral could not be had. Not told of a verdict that was
    /// read from somewhere.
    #[must_use]
    pub fn lacks_collateral(&self) -> bool {
        let mut failed = self.checks.iter().filter(|check| check.outcome == Outcome::Failed).peekable();
        failed.peek().is_some() && failed.all(|check| self.unanswered.contains(&check.name))
    }

    pub(super) fn add(&mut self, name: String, outcome: Outcome, detail: impl Into<String>) {
        self.checks.push(Check { name, outcome, detail: detail.into() });
    }

    pub(super) fn ends(&mut self, at: UnixSeconds) {
        self.expires_at = Some(self.expires_at.map_or(at, |known| known.min(at)));
    }
}
