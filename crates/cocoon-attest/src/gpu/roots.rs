//! The roots that a verifier trusts.

use sha2::{Digest as _, Sha256};

use super::container::GpuEvidence;
use super::x509::Certificate;

/// NVIDIA's roots in DER, as `nvtrust` and `attestation-sdk` carry them. Public data.
const DEVICE_ROOT: &[u8] = include_bytes!("nvidia/device-identity-root-ca.der");
const REFERENCE_ROOT: &[u8] = include_bytes!("nvidia/rim-root-ca.der");
/// The pins: SHA-256 of the SubjectPublicKeyInfo of "NVIDIA Device Identity CA" and "NVIDIA CoRIM signing Root CA".
const DEVICE_PIN: [u8; 32] =
    *b"\xa9\x0c\x4e\xb5\xac\xfd\x3e\x3d\x03\xa2\x5d\xb6\xa2\x6b\x84\xf7\x20\xad\x05\x03\x19\x6c\
    \x62\x7c\x21\xdd\xd4\x8d\xd8\x5b\x06\xa4";
const REFERENCE_PIN: [u8; 32] =
    *b"\xde\xc1\xdc\x31\x64\x77\xaa\x85\x1e\xeb\xdf\x51\x32\x7a\xe9\xf8\x64\xbc\x8d\x89\x25\
    \x46\x57\xed\x1e\x7e\xb9\x16\x8a\xf1\xe1\xa3";

/// The roots that a verifier trusts: one for GPUs, one for reference values. Either by SHA-256 of its
/// SubjectPublicKeyInfo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuRoots {
    pub(super) device: [u8; 32],
    pub(super) reference: [u8; 32],
    simulated: bool,
}

impl GpuRoots {
    /// NVIDIA's, for production.
    #[must_use]
    pub fn nvidia() -> Self {
        Self { device: DEVICE_PIN, reference: REFERENCE_PIN, simulated: false }
    }

    /// Others, for test networks, as certificates in DER: what they vouch for is no proof of hardware, and the
    /// verdict says so. `None` where one is no certificate of the form that NVIDIA uses.
    #[must_use]
    pub fn simulated(device: &[u8], reference: &[u8]) -> Option<Self> {
        Some(Self { device: key_hash(device)?, reference: key_hash(reference)?, simulated: true })
    }

    /// Whether these are not NVIDIA's.
    #[must_use]
    pub fn is_simulated(&self) -> bool {
        self.simulated
    }

    /// NVIDIA's root for GPUs in DER; for whoever completes a chain.
    #[must_use]
    pub fn nvidia_device_root() -> &'static [u8] {
        DEVICE_ROOT
    }

    /// NVIDIA's root for reference values in DER.
    #[must_use]
    pub fn nvidia_reference_root() -> &'static [u8] {
        REFERENCE_ROOT
    }
}

fn key_hash(der: &[u8]) -> Option<[u8; 32]> {
    Certificate::parse(der).ok().map(|root| Sha256::digest(root.key_info).into())
}

/// Trust in whatever root stands in the evidence; for fuzzing.
pub(crate) fn root_that_comes_along(bytes: &[u8]) -> Option<GpuRoots> {
    let evidence = GpuEvidence::parse(bytes).ok()?;
    let root = evidence.gpus().first()?.chain.last()?;
    GpuRoots::simulated(root, root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_roots_have_the_pinned_keys_and_signed_themselves() {
        let read = GpuRoots::simulated(DEVICE_ROOT, REFERENCE_ROOT);
        assert_eq!(read, Some(GpuRoots { simulated: true, ..GpuRoots::nvidia() }));
        for root in [DEVICE_ROOT, REFERENCE_ROOT] {
            let root = Certificate::parse(root);
            assert!(root.is_ok_and(|root| root.issued_by(&root, 0).is_ok()));
        }
    }
}
