//! What must be fetched before GPU evidence can be judged.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::opaque::GpuDetails;
use super::{ocsp, rim};
use crate::{CollateralRequest, EvidenceKind, UnixSeconds};

const MANIFEST: &str = "rim/";
const STATUS: &str = "ocsp/";

/// One thing to fetch, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuCollateral {
    /// The reference values with this identifier: `GET /v1/rim/<identifier>` at NVIDIA's RIM service
    /// (`https://rim.attestation.nvidia.com`). The answer is taken as it comes, JSON around Base64; so is the manifest
    /// by itself. As a request: `rim/<identifier>`.
    Manifest(String),
    /// Whether a certificate is revoked: this question (`OCSPRequest`, DER) by `POST` as `application/ocsp-request` to
    /// NVIDIA's OCSP service (`https://ocsp.ndis.nvidia.com`). As a request: `ocsp/` and the question in Base64 with
    /// the URL-safe alphabet and without padding.
    Status(Vec<u8>),
}

impl GpuCollateral {
    /// What a request asks for; `None` where it is another vendor's, or none of these.
    #[must_use]
    pub fn of(request: &CollateralRequest) -> Option<Self> {
        if request.kind != EvidenceKind::NvidiaGpu {
            return None;
        }
        if let Some(question) = request.name.strip_prefix(STATUS) {
            return URL_SAFE_NO_PAD.decode(question).ok().map(Self::Status);
        }
        request.name.strip_prefix(MANIFEST).map(|id| Self::Manifest(id.to_owned()))
    }

    /// As a request.
    #[must_use]
    pub fn request(&self) -> CollateralRequest {
        let name = match self {
            Self::Manifest(id) => format!("{MANIFEST}{id}"),
            Self::Status(question) => format!("{STATUS}{}", URL_SAFE_NO_PAD.encode(question)),
        };
        CollateralRequest { kind: EvidenceKind::NvidiaGpu, name }
    }
}

/// When an answer of NVIDIA's OCSP service about a certificate stops holding, as it says itself. `None` for what is no
/// such answer, the service's refusal to give one included (RFC 6960 §2.3).
#[must_use]
pub fn status_runs_out(answer: &[u8]) -> Option<UnixSeconds> {
    ocsp::runs_out(answer)
}

/// When the first of the certificates of a manifest runs out, as NVIDIA's RIM service gives it or by itself. `None` for
/// what is no manifest, or one that its signature does not fit.
#[must_use]
pub fn manifest_runs_out(answer: &[u8]) -> Option<UnixSeconds> {
    rim::runs_out(answer)
}

/// The identifiers of a GPU's reference values: of its driver, and of its firmware (`get_driver_rim_id` and
/// `get_vbios_rim_id` in `attestation-sdk`). `chip` is the certified one.
pub(super) fn manifests(details: &GpuDetails, chip: &str) -> [String; 2] {
    let driver = &details.driver;
    let driver = if chip == "GH100" {
        format!("NV_GPU_DRIVER_GH100_{driver}")
    } else {
        // Older drivers for Blackwell do not name the chip, and have reference values for the first one only.
        format!("NV_GPU_CC_DRIVER_{}_{driver}", details.chip.as_deref().unwrap_or("GB100"))
    };
    let GpuDetails { project, project_sku, chip_sku, vbios, .. } = details;
    let project = project.to_ascii_uppercase();
    let (project_sku, chip_sku) = (project_sku.to_ascii_uppercase(), chip_sku.to_ascii_uppercase());
    [driver, format!("NV_GPU_VBIOS_{project}_{project_sku}_{chip_sku}_{}", vbios.digits())]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn requests_and_what_they_ask_for_are_the_same_thing() {
        for wanted in [
            GpuCollateral::Manifest("NV_GPU_DRIVER_GH100_550.90.07".to_owned()),
            GpuCollateral::Status(vec![0x30, 0xff, 0xfe, 0]),
        ] {
            assert_eq!(GpuCollateral::of(&wanted.request()), Some(wanted));
        }
        let others = CollateralRequest { kind: EvidenceKind::Tdx, name: "rim/x".to_owned() };
        assert_eq!(GpuCollateral::of(&others), None);
        let odd = CollateralRequest { kind: EvidenceKind::NvidiaGpu, name: "ocsp/*".to_owned() };
        assert_eq!(GpuCollateral::of(&odd), None);
    }
}
