//! What a verifier demands of GPUs, beyond that the evidence is genuine.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::spdm::GpuAttestation;
use super::version::{DriverVersion, VbiosVersion};
use crate::hexed;

/// What to do where something cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Demand {
    /// Refuse.
    #[default]
    Required,
    /// Go on, and say so in the verdict. What is at hand counts all the same.
    WhereAvailable,
}

/// The demands, as they may stand in an operator's file. The default is strict and takes any genuine GPU whose
/// measurements are NVIDIA's reference values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GpuPolicy {
    /// Least number of GPUs.
    pub min_gpus: u8,
    /// Most GPUs.
    pub max_gpus: u8,
    /// The only chips accepted, such as `GH100`, where given.
    pub chips: Option<BTreeSet<String>>,
    /// What to do without reference values. Only they tell production from debugging.
    pub reference_values: Demand,
    /// What to do without the OCSP service's word on revocation.
    pub revocation: Demand,
    /// Whether several GPUs may be joined by "protected PCIe", in which what passes between them over NVLink is in
    /// the clear. That mode needs the switches' attestation, too, which is not verified here.
    pub allow_protected_pcie: bool,
    /// Oldest driver.
    pub min_driver: Option<DriverVersion>,
    /// The only drivers accepted, where given.
    pub drivers: Option<BTreeSet<DriverVersion>>,
    /// Drivers that are not.
    pub refused_drivers: BTreeSet<DriverVersion>,
    /// Oldest firmware by chip. A chip that is not named has no floor.
    pub min_vbios: BTreeMap<String, VbiosVersion>,
    /// The only firmware accepted, where given.
    pub vbios: Option<BTreeSet<VbiosVersion>>,
    /// Firmware that is not.
    pub refused_vbios: BTreeSet<VbiosVersion>,
    /// Reference values that the operator vouches for. They stand in for NVIDIA's where driver and firmware fit.
    pub pinned: Vec<PinnedValues>,
}

impl Default for GpuPolicy {
    fn default() -> Self {
        Self {
            min_gpus: 1,
            max_gpus: u8::MAX,
            chips: None,
            reference_values: Demand::Required,
            revocation: Demand::Required,
            allow_protected_pcie: false,
            min_driver: None,
            drivers: None,
            refused_drivers: BTreeSet::new(),
            min_vbios: BTreeMap::new(),
            vbios: None,
            refused_vbios: BTreeSet::new(),
            pinned: Vec::new(),
        }
    }
}

/// Reference values for one driver and one firmware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedValues {
    /// The driver.
    pub driver: DriverVersion,
    /// The firmware.
    pub vbios: VbiosVersion,
    /// The measurements that count. None would be no reference values at all, and is treated so.
    pub measurements: Vec<PinnedMeasurement>,
}

/// What one measurement may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedMeasurement {
    /// Which one, counted from 0 as in NVIDIA's reference values: SPDM's index less one.
    pub index: u8,
    /// The values that it may have, SHA-384 in hexadecimal.
    pub digests: Vec<Digest384>,
}

/// SHA-384, in hexadecimal where it is text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest384(#[serde(with = "hexed::array")] pub [u8; 48]);

impl PinnedValues {
    /// The values of a GPU that is known to be as it should be. Measurements that are all zero are left out: nothing
    /// is measured there. So are those that are not SHA-384, and the video decoder's where that is off.
    #[must_use]
    pub fn of(report: &GpuAttestation<'_>) -> Self {
        let counted = |index: u8| index != super::VIDEO_DECODER || report.details.video_decoder;
        let measured = report.measurements.iter().filter_map(|(index, value)| {
            let digest = <[u8; 48]>::try_from(*value).ok().filter(|digest| *digest != [0; 48])?;
            let index = index.checked_sub(1).filter(|index| counted(*index))?;
            Some(PinnedMeasurement { index, digests: vec![Digest384(digest)] })
        });
        Self {
            driver: report.details.driver.clone(),
            vbios: report.details.vbios,
            measurements: measured.collect(),
        }
    }
}
