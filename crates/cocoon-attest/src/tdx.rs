//! What an Intel TDX quote says: its measurements and the image hash over them. No signature is checked here.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{ReportData, hexed};

/// Why bytes are not a readable TDX quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// Shorter than header and report body.
    #[error("the quote has {len} bytes, fewer than the {} of header and body", TdxQuote::MIN_LEN)]
    TooShort {
        /// Its length, bytes.
        len: usize,
    },
    /// Not version 4.
    #[error("the quote's version is {version}, not 4")]
    UnsupportedVersion {
        /// What it says.
        version: u16,
    },
    /// Not of a trust domain.
    #[error("the quote's TEE type is {tee_type:#x}, not TDX (0x81)")]
    NotTdx {
        /// What it says.
        tee_type: u32,
    },
}

/// The measurements of a trust domain, as its report gives them (Intel TDX DCAP Quoting Library API, "TD Quote
/// Body" for TDX 1.0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TdxMeasurements {
    /// Measurement of the TDX module.
    #[serde(with = "hexed::array")]
    pub mr_seam: [u8; 48],
    /// Attributes of the trust domain; bit 0 of byte 0 is DEBUG.
    #[serde(with = "hexed::array")]
    pub td_attributes: [u8; 8],
    /// Processor features the trust domain may use.
    #[serde(with = "hexed::array")]
    pub xfam: [u8; 8],
    /// Measurement of the initial contents.
    #[serde(with = "hexed::array")]
    pub mr_td: [u8; 48],
    /// Configuration identifier set by the host.
    #[serde(with = "hexed::array")]
    pub mr_config_id: [u8; 48],
    /// Owner identifier set by the host.
    #[serde(with = "hexed::array")]
    pub mr_owner: [u8; 48],
    /// Owner configuration set by the host.
    #[serde(with = "hexed::array")]
    pub mr_owner_config: [u8; 48],
    /// Measurements made at run time: firmware, boot loader, kernel, application.
    pub rtmr: [Register; 4],
}

/// One run-time measurement register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Register(#[serde(with = "hexed::array")] pub [u8; 48]);

impl TdxMeasurements {
    /// All zero: what a fake quote stands for.
    pub(crate) const FAKE: Self = Self {
        mr_seam: [0; 48],
        td_attributes: [0; 8],
        xfam: [0; 8],
        mr_td: [0; 48],
        mr_config_id: [0; 48],
        mr_owner: [0; 48],
        mr_owner_config: [0; 48],
        rtmr: [Register([0; 48]); 4],
    };

    /// The hash by which the root contract lists allowed images: SHA-256 over `mr_td`, `mr_config_id`,
    /// `mr_owner`, `mr_owner_config`, the four registers, and 64 zero bytes for the blanked report data.
    /// It leaves out `td_attributes` (so DEBUG), `xfam` and `mr_seam`: a verifier must judge those itself.
    #[must_use]
    pub fn image_hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for measurement in [&self.mr_td, &self.mr_config_id, &self.mr_owner, &self.mr_owner_config] {
            hash.update(measurement);
        }
        for register in &self.rtmr {
            hash.update(register.0);
        }
        hash.update([0; ReportData::LEN]);
        hash.finalize().into()
    }
}

/// A TDX quote's header and body, read but not verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TdxQuote {
    /// What was measured.
    pub measurements: TdxMeasurements,
    /// What the quote is bound to.
    pub report_data: ReportData,
}

impl TdxQuote {
    const HEADER_LEN: usize = 48;
    const BODY_LEN: usize = 584;
    /// Header and body, bytes; the signature follows.
    pub const MIN_LEN: usize = Self::HEADER_LEN + Self::BODY_LEN;

    /// Reads a version 4 quote.
    ///
    /// # Errors
    /// The bytes are too short, of another version, or of another kind of enclave.
    pub fn parse(bytes: &[u8]) -> Result<Self, QuoteError> {
        let too_short = QuoteError::TooShort { len: bytes.len() };
        let (header, rest) = bytes.split_first_chunk::<{ Self::HEADER_LEN }>().ok_or(too_short)?;
        let version = u16::from_le_bytes([header[0], header[1]]);
        if version != 4 {
            return Err(QuoteError::UnsupportedVersion { version });
        }
        let tee_type = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        if tee_type != 0x81 {
            return Err(QuoteError::NotTdx { tee_type });
        }
        let mut body = Fields(rest.first_chunk::<{ Self::BODY_LEN }>().ok_or(too_short)?);
        let _tee_tcb_svn: [u8; 16] = body.take();
        let mr_seam = body.take();
        let _mr_signer_seam: [u8; 48] = body.take();
        let _seam_attributes: [u8; 8] = body.take();
        let measurements = TdxMeasurements {
            mr_seam,
            td_attributes: body.take(),
            xfam: body.take(),
            mr_td: body.take(),
            mr_config_id: body.take(),
            mr_owner: body.take(),
            mr_owner_config: body.take(),
            rtmr: [(); 4].map(|()| Register(body.take())),
        };
        Ok(Self { measurements, report_data: ReportData(body.take()) })
    }
}

/// Takes fixed fields off a body whose length was checked as a whole.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        // The fields above add up to BODY_LEN, so the body never runs out.
        let (field, rest) = self.0.split_first_chunk::<N>().unwrap_or((&[0; N], &[]));
        self.0 = rest;
        *field
    }
}
