//! What the evidence says against what the policy demands.

use std::collections::BTreeSet;

use super::container::GpuEvidence;
use super::opaque::GpuMode;
use super::policy::GpuPolicy;
use super::spdm::GpuAttestation;
use super::version::{DriverVersion, VbiosVersion};
use super::x509::Certificate;

/// How many there are.
pub(super) fn number(found: usize, policy: &GpuPolicy) -> Result<String, String> {
    let (least, most) = (usize::from(policy.min_gpus), usize::from(policy.max_gpus));
    if (least..=most).contains(&found) {
        Ok(format!("{found}"))
    } else {
        Err(format!("{found}; from {least} to {most} are asked for"))
    }
}

/// Whether each is another device. A device is known by its key; a chain that cannot be read, by its bytes.
pub(super) fn unique(evidence: &GpuEvidence) -> Result<String, String> {
    let mut devices = BTreeSet::new();
    for (number, part) in evidence.gpus().iter().enumerate() {
        let device = part.chain.get(1).and_then(|der| Certificate::parse(der).ok());
        let device = device.map_or_else(|| part.chain.concat(), |device| device.key_info.to_vec());
        if !devices.insert(device) {
            return Err(format!("GPU {number} is there more than once"));
        }
    }
    Ok("no GPU is there twice".to_owned())
}

/// Whether all are joined in the same way, as NVIDIA's verifiers demand.
pub(super) fn same_mode<'r, 'a: 'r>(
    reports: impl Iterator<Item = &'r GpuAttestation<'a>>,
) -> Result<String, String> {
    let mut modes: Vec<GpuMode> = reports.map(|report| report.details.mode).collect();
    modes.dedup();
    match modes[..] {
        [] => Ok("no report can be read".to_owned()),
        [mode] => Ok(mode.name().to_owned()),
        [first, second, ..] => Err(format!("one has {}, another {}", first.name(), second.name())),
    }
}

/// The chip.
pub(super) fn chip(chip: &str, policy: &GpuPolicy) -> Result<String, String> {
    match &policy.chips {
        None => Ok(format!("{chip:?}; none is pinned")),
        Some(allowed) if allowed.contains(chip) => Ok(format!("{chip:?}")),
        Some(_) => Err(format!("{chip:?} is not among the pinned ones")),
    }
}

/// The driver.
pub(super) fn driver(driver: &DriverVersion, policy: &GpuPolicy) -> Result<String, String> {
    if policy.refused_drivers.iter().any(|refused| refused.reaches(driver) && driver.reaches(refused)) {
        return Err(format!("{driver} is refused"));
    }
    if let Some(floor) = policy.min_driver.as_ref().filter(|floor| !driver.reaches(floor)) {
        return Err(format!("{driver}; at least {floor} is asked for"));
    }
    match &policy.drivers {
        Some(allowed) if !allowed.contains(driver) => Err(format!("{driver} is not among the pinned ones")),
        _ => Ok(driver.to_string()),
    }
}

/// The firmware.
pub(super) fn vbios(vbios: VbiosVersion, chip: &str, policy: &GpuPolicy) -> Result<String, String> {
    if policy.refused_vbios.contains(&vbios) {
        return Err(format!("{vbios} is refused"));
    }
    if let Some(floor) = policy.min_vbios.get(chip).filter(|floor| vbios < **floor) {
        return Err(format!("{vbios}; at least {floor} is asked for"));
    }
    match &policy.vbios {
        Some(allowed) if !allowed.contains(&vbios) => Err(format!("{vbios} is not among the pinned ones")),
        _ => Ok(vbios.to_string()),
    }
}
