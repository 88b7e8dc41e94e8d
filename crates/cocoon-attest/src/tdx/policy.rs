//! What is demanded of an Intel platform beyond a sound proof.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::TdxMeasurements;
use crate::{UnixSeconds, hexed};

/// The state of a platform's TCB, in Intel's words ("Intel TDX DCAP Quoting Library API", `sgx_ql_qv_result_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TcbStatus {
    /// Nothing is missing.
    UpToDate,
    /// Software in the trust domain must mitigate known weaknesses.
    SWHardeningNeeded,
    /// The platform's settings (BIOS) must change.
    ConfigurationNeeded,
    /// Both of the above.
    ConfigurationAndSWHardeningNeeded,
    /// Firmware, microcode or the TDX module lack fixes.
    OutOfDate,
    /// As before, and settings must change.
    OutOfDateConfigurationNeeded,
    /// Started on an old TDX module that was updated since: to be started anew.
    TDRelaunchAdvised,
    /// As before, and settings must change.
    TDRelaunchAdvisedConfigurationNeeded,
    /// Its keys are known to be compromised. No policy accepts it.
    Revoked,
}

impl From<dcap_qvl::TcbStatus> for TcbStatus {
    fn from(status: dcap_qvl::TcbStatus) -> Self {
        use dcap_qvl::TcbStatus as Library;
        match status {
            Library::UpToDate => Self::UpToDate,
            Library::SWHardeningNeeded => Self::SWHardeningNeeded,
            Library::ConfigurationNeeded => Self::ConfigurationNeeded,
            Library::ConfigurationAndSWHardeningNeeded => Self::ConfigurationAndSWHardeningNeeded,
            Library::OutOfDate => Self::OutOfDate,
            Library::OutOfDateConfigurationNeeded => Self::OutOfDateConfigurationNeeded,
            Library::TDRelaunchAdvised => Self::TDRelaunchAdvised,
            Library::TDRelaunchAdvisedConfigurationNeeded => Self::TDRelaunchAdvisedConfigurationNeeded,
            Library::Revoked => Self::Revoked,
        }
    }
}

/// For how long a state other than up to date is put up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tolerance {
    /// For good.
    Always,
    /// For this many days after the date of the TCB level that the platform has (`tcbDate`: when Intel last
    /// found nothing missing at that level), as Intel's own appraisal counts its grace period.
    DaysAfterTcbDate(u32),
}

/// What is demanded. The default is strict: up to date, production, nothing bound to it, no unusual features.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TdxPolicy {
    /// Which states pass. One that is not listed is refused; [`TcbStatus::Revoked`] always is.
    pub tcb: BTreeMap<TcbStatus, Tolerance>,
    /// Intel's security advisories (`INTEL-SA-00001`) that a platform must not be open to.
    pub refused_advisories: BTreeSet<String>,
    /// The lowest `tcbEvaluationDataNumber` that collateral may have; it rises with each of Intel's TCB recoveries.
    pub min_tcb_evaluation: u32,
    /// Which bits of `td_attributes` may be set. All others must be zero, whatever they mean.
    #[serde(with = "hexed::mask")]
    pub allowed_td_attributes: u64,
    /// Which bits of `td_attributes` must be set.
    #[serde(with = "hexed::mask")]
    pub required_td_attributes: u64,
    /// Which bits of `xfam` may be set.
    #[serde(with = "hexed::mask")]
    pub allowed_xfam: u64,
    /// The TDX modules by their measurement `mr_seam`; `None` leaves it at the signer and version that Intel's
    /// collateral demands (Intel lists no measurements there).
    #[serde(with = "hexed::set")]
    pub tdx_modules: Option<BTreeSet<[u8; 48]>>,
}

/// Bits of `td_attributes` ("Intel TDX Module ABI Specification" 348551, table "ATTRIBUTES Definition").
const TD_ATTRIBUTE_BITS: &[(u32, &str)] = &[
    (0, "DEBUG"),
    (4, "HGS_PLUS_PROF"),
    (5, "PERF_PROF"),
    (6, "PMT_PROF"),
    (16, "ICSSD"),
    (17, "SERVTD_EXT"),
    (27, "LASS"),
    (28, "SEPT_VE_DISABLE"),
    (29, "MIGRATABLE"),
    (30, "PKS"),
    (31, "KL"),
    (62, "TPA"),
    (63, "PERFMON"),
];
/// `x87` and `SSE`: part of every trust domain (same specification, table "XFAM Definition", fixed to one).
const XFAM_FIXED: u64 = 0b11;

impl TdxPolicy {
    /// Attributes that take no protection away: single-step defence, LASS, SEPT_VE_DISABLE, supervisor protection
    /// keys, performance monitoring within the trust domain.
    pub const USUAL_TD_ATTRIBUTES: u64 = 1 << 16 | 1 << 27 | 1 << 28 | 1 << 30 | 1 << 63;
    /// SEPT_VE_DISABLE: without it the host can bring the guest to handle faults on its own memory.
    pub const REQUIRED_TD_ATTRIBUTES: u64 = 1 << 28;
    /// What TDX 1.5 modules allow at most (`XFAM_FIXED0`): x87, SSE, AVX, AVX-512, PT, PKRU, CET, UINTR, LBR, AMX.
    pub const USUAL_XFAM: u64 = 0x0006_dbe7;

    /// The default: see the fields' constants.
    #[must_use]
    pub fn strict() -> Self {
        Self {
            tcb: BTreeMap::from([(TcbStatus::UpToDate, Tolerance::Always)]),
            refused_advisories: BTreeSet::new(),
            min_tcb_evaluation: 0,
            allowed_td_attributes: Self::USUAL_TD_ATTRIBUTES,
            required_td_attributes: Self::REQUIRED_TD_ATTRIBUTES,
            allowed_xfam: Self::USUAL_XFAM,
            tdx_modules: None,
        }
    }

    /// Puts up with a further state.
    #[must_use]
    pub fn tolerate(mut self, status: TcbStatus, tolerance: Tolerance) -> Self {
        self.tcb.insert(status, tolerance);
        self
    }

    /// Whether this state, of a TCB level of this date, passes now; until when, or why not.
    pub(super) fn judge_status(
        &self,
        status: TcbStatus,
        tcb_date: UnixSeconds,
        now: UnixSeconds,
    ) -> Result<Option<UnixSeconds>, String> {
        match self.tcb.get(&status).filter(|_| status != TcbStatus::Revoked) {
            None => Err(format!("the platform is {status:?}, which the policy refuses")),
            Some(Tolerance::Always) => Ok(None),
            Some(Tolerance::DaysAfterTcbDate(days)) => {
                let end = tcb_date.plus(u64::from(*days) * 86_400);
                if now <= end {
                    Ok(Some(end))
                } else {
                    Err(format!("the platform is {status:?}, and its grace of {days} days is over"))
                }
            }
        }
    }

    pub(super) fn judge_td_attributes(&self, measurements: &TdxMeasurements) -> Result<String, String> {
        let bits = u64::from_le_bytes(measurements.td_attributes);
        let refused = bits & !self.allowed_td_attributes;
        if refused != 0 {
            return Err(format!("{} set, which the policy refuses", named(refused)));
        }
        let lacking = self.required_td_attributes & !bits;
        if lacking != 0 {
            return Err(format!("{} not set, which the policy requires", named(lacking)));
        }
        Ok(format!("{} set, no debugging, nothing unknown", named(bits)))
    }

    pub(super) fn judge_xfam(&self, measurements: &TdxMeasurements) -> Result<String, String> {
        let bits = u64::from_le_bytes(measurements.xfam);
        let refused = bits & !self.allowed_xfam;
        if refused != 0 {
            return Err(format!("features {refused:#x} are not among those allowed"));
        }
        if bits & XFAM_FIXED != XFAM_FIXED {
            return Err("x87 and SSE are part of every trust domain, and missing here".to_owned());
        }
        Ok(format!("features {bits:#x}, all allowed"))
    }

    pub(super) fn judge_module(&self, measurements: &TdxMeasurements) -> Result<(), String> {
        match &self.tdx_modules {
            Some(allowed) if !allowed.contains(&measurements.mr_seam) => {
                Err(format!("the TDX module {} is not on the list", hex::encode(measurements.mr_seam)))
            }
            _ => Ok(()),
        }
    }
}

impl Default for TdxPolicy {
    fn default() -> Self {
        Self::strict()
    }
}

/// The names of these bits.
fn named(bits: u64) -> String {
    let name = |bit: u32| {
        let known = TD_ATTRIBUTE_BITS.iter().find(|(number, _)| *number == bit);
        known.map_or_else(|| format!("bit {bit}"), |(_, name)| (*name).to_owned())
    };
    let names: Vec<String> = (0..64).filter(|bit| bits >> bit & 1 == 1).map(name).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}
