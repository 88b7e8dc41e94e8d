//! Evidence of the NVIDIA GPUs of this machine, through their driver.
//!
//! [`DriverGpus`] asks a [`GpuDriver`] and makes sure that what it hands out belongs together: that every GPU is in
//! confidential-computing mode without developer tools, that each report signs the nonce, and that neither GPUs nor
//! driver changed meanwhile. A verifier elsewhere believes none of this and judges the evidence itself; here it is for
//! the operator, who learns what is wrong before peers refuse the node.

#[cfg(all(feature = "nvml", target_os = "linux"))]
mod nvml;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cocoon_attest::gpu::{GpuAttestation, GpuEvidence, GpuMode, GpuPart};
use cocoon_attest::{EvidenceError, EvidenceKind, GpuSource};

#[cfg(all(feature = "nvml", target_os = "linux"))]
pub use nvml::Nvml;

/// How often evidence is gathered anew where the GPUs changed meanwhile.
const ATTEMPTS: usize = 3;

/// The mode that the driver says all its GPUs are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuModes {
    /// Whether confidential computing is on.
    pub confidential: bool,
    /// Whether developer tools are, which open a GPU to the host.
    pub developer_tools: bool,
    /// Whether the GPUs are joined by protected PCIe.
    pub protected_pcie: bool,
}

/// What tells one state of the machine's GPUs from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuInventory {
    /// The driver's version.
    pub driver: String,
    /// The mode of all of them.
    pub modes: GpuModes,
    /// Each GPU's UUID and firmware version, in the driver's order.
    pub gpus: Vec<(String, String)>,
}

/// Why the driver does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuDriverError {
    /// There is no driver, or none that runs.
    #[error("the NVIDIA driver is not there: {0}")]
    NotThere(String),
    /// It refuses, or fails.
    #[error("the NVIDIA driver cannot say its {what}: {reason}")]
    Failed {
        /// What it was asked for.
        what: &'static str,
        /// In its own words.
        reason: String,
    },
}

/// What is needed of NVIDIA's driver.
pub trait GpuDriver: Send + Sync {
    /// What there is now.
    ///
    /// # Errors
    /// The driver does not answer.
    fn inventory(&self) -> Result<GpuInventory, GpuDriverError>;

    /// The attestation report of a GPU, by its place in the inventory, for this nonce: request and response.
    ///
    /// # Errors
    /// The driver or the GPU does not answer.
    fn report(&self, gpu: usize, nonce: &[u8; 32]) -> Result<Vec<u8>, GpuDriverError>;

    /// Its attestation certificate chain in PEM, leaf first.
    ///
    /// # Errors
    /// The driver or the GPU does not answer.
    fn certificate_chain(&self, gpu: usize) -> Result<Vec<u8>, GpuDriverError>;
}

/// The GPUs of this machine as a source of evidence.
#[derive(Debug, Clone)]
pub struct DriverGpus<D> {
    driver: D,
}

impl<D: GpuDriver> DriverGpus<D> {
    /// All GPUs that this driver knows.
    #[must_use]
    pub fn new(driver: D) -> Self {
        Self { driver }
    }

    /// The evidence, if GPUs and driver stayed the same while it was made; what there is now, if not.
    fn attempt(
        &self,
        before: &GpuInventory,
        nonce: &[u8; 32],
    ) -> Result<Result<Bytes, GpuInventory>, String> {
        usable(before)?;
        let mut parts = Vec::new();
        for gpu in 0..before.gpus.len() {
            let part = self.part(gpu, nonce);
            let after = self.driver.inventory().map_err(|error| error.to_string())?;
            if after != *before {
                return Ok(Err(after));
            }
            let part = part.map_err(|reason| format!("GPU {gpu}: {reason}"))?;
            check(&part, before, gpu, nonce).map_err(|reason| format!("GPU {gpu}: {reason}"))?;
            parts.push(part);
        }
        let evidence = GpuEvidence::new(parts).and_then(|evidence| evidence.write());
        evidence.map(Ok).map_err(|error| error.to_string())
    }

    fn part(&self, gpu: usize, nonce: &[u8; 32]) -> Result<GpuPart, String> {
        let chain = self.driver.certificate_chain(gpu).map_err(|error| error.to_string())?;
        let report = self.driver.report(gpu, nonce).map_err(|error| error.to_string())?;
        let chain = certificates(&chain).ok_or("the driver's certificate chain is not PEM")?;
        Ok(GpuPart { report: report.into(), chain })
    }
}

impl<D: GpuDriver> GpuSource for DriverGpus<D> {
    fn evidence(&self, nonce: &[u8; 32]) -> Result<Bytes, EvidenceError> {
        let failed = |reason: String| EvidenceError { kind: EvidenceKind::NvidiaGpu, reason };
        let mut inventory = self.driver.inventory().map_err(|error| failed(error.to_string()))?;
        for _ in 0..ATTEMPTS {
            match self.attempt(&inventory, nonce).map_err(failed)? {
                Ok(evidence) => return Ok(evidence),
                Err(changed) => inventory = changed,
            }
        }
        Err(failed(
            "GPUs or driver keep changing while evidence is made; wait until the driver has settled".into(),
        ))
    }

    fn is_simulated(&self) -> bool {
        false
    }
}

/// Whether there is anything to show.
fn usable(inventory: &GpuInventory) -> Result<(), String> {
    let GpuModes { confidential, developer_tools, protected_pcie } = inventory.modes;
    if inventory.gpus.is_empty() {
        return Err("there is no GPU".to_owned());
    }
    if !confidential && !protected_pcie {
        return Err(
            "the GPUs are not in confidential-computing mode; it is set on the host, with a GPU reset \
                    (NVIDIA's gpu-admin-tools: --set-cc-mode=on)"
                .to_owned(),
        );
    }
    if developer_tools {
        return Err(
            "the GPUs run with developer tools, which open them to the host; set the mode to `on`, not \
                    `devtools`"
                .to_owned(),
        );
    }
    Ok(())
}

/// Whether a report is of this nonce and of the driver and firmware that the driver says.
fn check(part: &GpuPart, inventory: &GpuInventory, gpu: usize, nonce: &[u8; 32]) -> Result<(), String> {
    let report = GpuAttestation::parse(&part.report).map_err(|error| error.to_string())?;
    if report.nonce != *nonce {
        return Err("its report is for another nonce".to_owned());
    }
    let (driver, vbios) = (report.details.driver.to_string(), report.details.vbios.to_string());
    let says = inventory.gpus.get(gpu).map(|(_, vbios)| vbios.as_str()).unwrap_or_default();
    if driver != inventory.driver || !vbios.eq_ignore_ascii_case(says) {
        return Err(format!(
            "its report is of driver {driver} and VBIOS {vbios}, the driver says {} and {says}",
            inventory.driver
        ));
    }
    if (report.details.mode == GpuMode::ProtectedPcie) != inventory.modes.protected_pcie {
        return Err(format!("its report says {}, the driver says otherwise", report.details.mode.name()));
    }
    Ok(())
}

/// The certificates in a PEM text (RFC 7468), DER. Drivers end it with a zero byte or not.
fn certificates(pem: &[u8]) -> Option<Vec<Bytes>> {
    let text = std::str::from_utf8(pem).ok()?;
    let mut rest = text.trim_end_matches('\0');
    let mut found = Vec::new();
    while let Some((_, begun)) = rest.split_once("-----BEGIN CERTIFICATE-----") {
        let (body, after) = begun.split_once("-----END CERTIFICATE-----")?;
        let body: String = body.split_ascii_whitespace().collect();
        found.push(STANDARD.decode(body).ok()?.into());
        rest = after;
    }
    Some(found)
}
