//! The opaque data of a report: what the GPU says about itself besides its measurements, signed with them.
//!
//! There is no public specification; the fields and their forms are those that NVIDIA's verifiers read
//! (`spdm_msrt_resp_msg.py` in `nvtrust`, `gpu_opaque_data_parser.cpp` and `evidence.cpp` in `attestation-sdk`).

use std::collections::BTreeMap;

use super::spdm::{Fields, GpuReportError};
use super::version::{DriverVersion, VbiosVersion};

/// Newest form of the opaque data that is known (`MAX_OPAQUE_DATA_VERSION` in `attestation-sdk`).
const MAX_VERSION: u64 = 1;
/// Longest text in a field, bytes.
const MAX_TEXT: usize = 64;

/// Identifiers of fields (`GpuOpaqueDataType` in `attestation-sdk`).
pub(super) mod field {
    pub(in super::super) const DRIVER_VERSION: u16 = 3;
    pub(in super::super) const VBIOS_VERSION: u16 = 6;
    pub(in super::super) const NVDEC0_STATUS: u16 = 11;
    pub(in super::super) const BOARD_ID: u16 = 14;
    pub(in super::super) const CHIP_SKU: u16 = 15;
    pub(in super::super) const PROJECT: u16 = 17;
    pub(in super::super) const PROJECT_SKU: u16 = 18;
    pub(in super::super) const FIRMWARE_ID: u16 = 20;
    pub(in super::super) const PROTECTED_PCIE_STATUS: u16 = 21;
    pub(in super::super) const OPAQUE_DATA_VERSION: u16 = 34;
    pub(in super::super) const CHIP_INFO: u16 = 35;
    pub(in super::super) const FEATURE_FLAG: u16 = 36;
}

/// How the GPU is joined to the machine and to other GPUs, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GpuMode {
    /// One GPU passed to one confidential machine ("SPT").
    SinglePassthrough,
    /// Several GPUs passed to one confidential machine, what passes between them protected ("MPT").
    MultiplePassthrough,
    /// Several GPUs and their switches passed to one confidential machine, what passes over NVLink in the clear
    /// ("PPCIE").
    ProtectedPcie,
    /// Older firmware, which only says that it is not [`ProtectedPcie`](Self::ProtectedPcie), or nothing.
    Unsaid,
}

impl GpuMode {
    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SinglePassthrough => "single passthrough",
            Self::MultiplePassthrough => "multiple passthrough",
            Self::ProtectedPcie => "protected PCIe",
            Self::Unsaid => "mode not said",
        }
    }
}

/// What a GPU says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuDetails {
    /// The driver that talks to it.
    pub driver: DriverVersion,
    /// Its firmware.
    pub vbios: VbiosVersion,
    /// The board's project, such as `1010`.
    pub project: String,
    /// The project's variant, such as `0200`.
    pub project_sku: String,
    /// The chip's variant, such as `882`.
    pub chip_sku: String,
    /// The board, where it says so.
    pub board_id: Option<u32>,
    /// The chip for which the driver has reference values, where it says so (Blackwell).
    pub chip: Option<String>,
    /// SHA-384 of the firmware that holds the attestation key, where it says so.
    pub firmware_id: Option<[u8; 48]>,
    /// Whether its first video decoder is on; only then measurement 36 counts.
    pub video_decoder: bool,
    /// How it is joined to others.
    pub mode: GpuMode,
}

/// Reads the opaque data. Fields that are not known are passed over: newer firmware has more.
pub(super) fn read(bytes: &[u8]) -> Result<GpuDetails, GpuReportError> {
    let mut rest = Fields(bytes);
    let mut fields = BTreeMap::new();
    while !rest.0.is_empty() {
        let id = rest.number("opaque data")?;
        let len = rest.number("opaque data")?;
        if fields.insert(id, rest.take(len, "opaque data")?).is_some() {
            return Err(GpuReportError::Unexpected("opaque data, which has a field twice,"));
        }
    }
    Read { fields }.details()
}

struct Read<'a> {
    fields: BTreeMap<usize, &'a [u8]>,
}

impl Read<'_> {
    fn details(&self) -> Result<GpuDetails, GpuReportError> {
        use GpuReportError::Unexpected;
        let version = self.little_endian(field::OPAQUE_DATA_VERSION, "opaque data version")?.unwrap_or(0);
        if version > MAX_VERSION {
            return Err(Unexpected("opaque data version"));
        }
        let driver = self.text(field::DRIVER_VERSION, "driver version")?;
        let video_decoder = match self.get(field::NVDEC0_STATUS) {
            Some([0x55]) => false,
            Some([0xaa]) => true,
            _ => return Err(Unexpected("video decoder status")),
        };
        Ok(GpuDetails {
            driver: driver.parse().map_err(|_| Unexpected("driver version"))?,
            vbios: self
                .get(field::VBIOS_VERSION)
                .and_then(VbiosVersion::from_report)
                .ok_or(Unexpected("VBIOS version"))?,
            project: self.text(field::PROJECT, "project")?,
            project_sku: self.text(field::PROJECT_SKU, "project variant")?,
            chip_sku: self.text(field::CHIP_SKU, "chip variant")?,
            board_id: self
                .get(field::BOARD_ID)
                .map(|bytes| bytes.try_into().map(u32::from_le_bytes).map_err(|_| Unexpected("board")))
                .transpose()?,
            chip: self.get(field::CHIP_INFO).map(|_| self.text(field::CHIP_INFO, "chip")).transpose()?,
            firmware_id: self
                .get(field::FIRMWARE_ID)
                .map(|bytes| bytes.try_into().map_err(|_| Unexpected("firmware identifier")))
                .transpose()?,
            video_decoder,
            mode: self.mode(version)?,
        })
    }

    fn get(&self, id: u16) -> Option<&[u8]> {
        self.fields.get(&usize::from(id)).copied()
    }

    /// The flag of version 1, or the older status; where both are there, they must agree.
    fn mode(&self, version: u64) -> Result<GpuMode, GpuReportError> {
        let unexpected = Err(GpuReportError::Unexpected("mode"));
        let flag = self.little_endian(field::FEATURE_FLAG, "mode")?.filter(|_| version >= 1);
        let protected = match self.get(field::PROTECTED_PCIE_STATUS) {
            None => None,
            Some([0x55]) => Some(false),
            Some([0xaa]) => Some(true),
            Some(_) => return unexpected,
        };
        match (flag, protected) {
            (Some(0), None | Some(false)) => Ok(GpuMode::SinglePassthrough),
            (Some(1), None | Some(false)) => Ok(GpuMode::MultiplePassthrough),
            (Some(2), None | Some(true)) | (None, Some(true)) => Ok(GpuMode::ProtectedPcie),
            (None, None | Some(false)) => Ok(GpuMode::Unsaid),
            _ => unexpected,
        }
    }

    fn little_endian(&self, id: u16, what: &'static str) -> Result<Option<u64>, GpuReportError> {
        let Some(bytes) = self.get(id) else { return Ok(None) };
        let mut number = [0; 8];
        let len = bytes.len();
        number.get_mut(..len).ok_or(GpuReportError::Unexpected(what))?.copy_from_slice(bytes);
        Ok(Some(u64::from_le_bytes(number)))
    }

    /// Text, padded with zeros. It becomes part of names to fetch, so only what versions and names are made of passes.
    fn text(&self, id: u16, what: &'static str) -> Result<String, GpuReportError> {
        let padded = self.get(id).unwrap_or_default();
        let end = padded.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
        match std::str::from_utf8(&padded[..end]) {
            Ok(text) if (1..=MAX_TEXT).contains(&end) && text.bytes().all(|byte| allowed(&byte)) => {
                Ok(text.to_owned())
            }
            _ => Err(GpuReportError::Unexpected(what)),
        }
    }
}
