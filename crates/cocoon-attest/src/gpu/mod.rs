//! NVIDIA GPUs: reading what they say about themselves in confidential-computing mode, and verifying it.
//!
//! # Evidence
//! [`GpuEvidence`]: for each GPU of a machine the attestation report and the attestation certificate chain, as the
//! driver hands them out. A GPU signs whatever nonce it is given, so a report by itself says nothing about who shows
//! it: [`nonce()`] ties it to the evidence of the CPU beside it, and by that to a key. What the evidence lacks is named
//! as [`CollateralRequest`](crate::CollateralRequest)s; see [`GpuCollateral`].
//!
//! # What is checked
//! [`GpuVerifier`] records each of these as a named [`Check`](crate::Check). First those of all GPUs together:
//!
//! | name | holds when |
//! |---|---|
//! | `container` | the bytes are [`GpuEvidence`] in its one proper form |
//! | `gpu_count` | there are as many GPUs as the policy asks for |
//! | `unique` | no GPU is there twice, by the key that is burnt into it |
//! | `same_mode` | all are joined to the machine in the same way |
//!
//! then, for each GPU, these with its number before them, as in `gpu0.signature`:
//!
//! | name | holds when |
//! |---|---|
//! | `certificate_chain` | five certificates up to the pinned root, each signed by the next, which is an authority |
//! | `validity` | all of them are valid at the time of verification |
//! | `revocation` | NVIDIA's OCSP service says now of all but leaf and root that they are not revoked |
//! | `format` | the report is an SPDM 1.1 request for all measurements with its signed response |
//! | `firmware_id` | report and leaf name the same firmware, and the leaf the device that certified it |
//! | `signature` | the leaf's key signed request and response |
//! | `nonce` | the request had the expected nonce |
//! | `chip` | the certified chip is among the pinned ones, if any are |
//! | `driver` | the driver reaches the policy's floor, is among the pinned ones if any are, and not refused |
//! | `vbios` | likewise, the firmware |
//! | `reference_values` | there are reference values for driver and firmware, pinned or in manifests that hold |
//! | `measurements` | what was measured are those values |
//! | `cc_mode` | the mode is one that the policy accepts, and the measurements show that developer tools are off |
//!
//! A check that cannot be made, because another did not hold or because the policy goes on without something, is
//! `Skipped` and says why.
//!
//! # What a report shows about the mode
//! No field says "confidential computing is on" or "debugging is off". That there is a report at all shows the former:
//! the GPU answers only in that mode. For the latter NVIDIA's own verifiers go by the measurements (their claims
//! `secboot` and `dbgstat` follow from nothing else), and so does `cc_mode` here: without reference values it is
//! `Skipped`. The mode in which several GPUs share NVLink in the clear is said, by newer firmware in two fields.
//!
//! # What is not checked
//! NVSwitches have attestation of their own. That a GPU stays in its mode after its report is up to the driver in the
//! attested machine, which ends the session when the GPU is reset. A board's firmware manifest names the board only
//! in its identifier, not in what is signed.
//!
//! # Sources
//! DMTF DSP0274 1.1 for the messages, RFC 5280 and RFC 6960 for certificates and their status, W3C's specifications
//! for manifests. For what NVIDIA puts into them the sources are its open verifiers, `nvtrust` and `attestation-sdk`,
//! and real evidence: there is no specification.

mod chain;
mod collateral;
mod container;
mod judge;
mod ocsp;
mod opaque;
mod policy;
mod reference;
mod rim;
mod roots;
mod spdm;
mod verdict;
mod verifier;
mod version;
mod x509;

use sha2::{Digest as _, Sha256};

use crate::ReportData;

pub use collateral::{GpuCollateral, manifest_runs_out, status_runs_out};
pub use container::{GpuEvidence, GpuEvidenceError, GpuPart};
pub use opaque::{GpuDetails, GpuMode};
pub use policy::{Demand, Digest384, GpuPolicy, PinnedMeasurement, PinnedValues};
pub use roots::GpuRoots;
pub(crate) use roots::root_that_comes_along;
pub use spdm::{GpuAttestation, GpuReportError};
pub use verdict::{GpuReport, GpuVerdict};
pub use verifier::GpuVerifier;
pub(crate) use verifier::read_collateral;
pub use version::{DriverVersion, GpuVersionError, VbiosVersion};

/// What the nonce is for, so that no hash made for something else can stand in for it.
const NONCE_PURPOSE: &[u8] = b"cocoon gpu evidence 1";
/// The measurement, counted from 0, that counts only while the first video decoder is on.
const VIDEO_DECODER: u8 = 35;

/// The nonce that GPUs must sign to stand beside this evidence of a CPU, which is bound to `report_data`: SHA-256 of
/// `cocoon gpu evidence 1`, the report data, and SHA-256 of the CPU's evidence. So both were made for one another, by
/// code that the CPU's evidence measures.
#[must_use]
pub fn nonce(report_data: &ReportData, cpu_evidence: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(NONCE_PURPOSE)
        .chain_update(report_data.0)
        .chain_update(Sha256::digest(cpu_evidence))
        .finalize()
        .into()
}
