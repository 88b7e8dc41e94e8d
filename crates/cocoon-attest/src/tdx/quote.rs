//! What an Intel TDX quote says, read but not verified.
//!
//! Sources: "Intel TDX DCAP Quoting Library API", appendix A (quote formats version 4 and 5, quote bodies of
//! TDX 1.0 and 1.5, signature data and QE certification data), and `sgx_quote_5.h` of Intel's DCAP sources for
//! body type 4 (TDX 1.5 extended). All integers are little-endian.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{MAX_QUOTE_LEN, ReportData, hexed};

/// Why bytes are not a readable TDX quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuoteError {
    /// Shorter than header and report body.
    #[error("the quote has {len} bytes, fewer than its header and body")]
    TooShort {
        /// Its length, bytes.
        len: usize,
    },
    /// Longer than [`MAX_QUOTE_LEN`].
    #[error("the quote has {len} bytes, more than {MAX_QUOTE_LEN}")]
    TooLong {
        /// Its length, bytes.
        len: usize,
    },
    /// Neither version 4 nor 5.
    #[error("the quote's version is {version}, not 4 or 5")]
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
    /// A version 5 body of a kind that is not known, or whose length does not fit its kind.
    #[error("the quote's body is of kind {kind} with {len} bytes, which is no known kind of trust domain")]
    UnsupportedBody {
        /// What it says.
        kind: u16,
        /// The length it claims, bytes.
        len: u32,
    },
    /// The attestation key is not ECDSA on P-256.
    #[error("the quote's attestation key is of type {kind}, not ECDSA on P-256 (2)")]
    UnsupportedKey {
        /// What it says.
        kind: u16,
    },
    /// The quoting enclave is not Intel's.
    #[error("the quote comes from another vendor's quoting enclave than Intel's")]
    UnknownVendor,
    /// The signature data do not add up.
    #[error("the quote is malformed at its {field}")]
    Malformed {
        /// Where reading stopped.
        field: &'static str,
    },
}

/// Which report body a quote carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TdBody {
    /// TDX 1.0: all of version 4, kind 2 in version 5.
    Td10,
    /// TDX 1.5: kind 3.
    Td15,
    /// TDX 1.5 with the extended report: kind 4.
    Td15Extended,
}

impl TdBody {
    /// Length of the body, bytes.
    #[must_use]
    pub const fn len(self) -> usize {
        match self {
            Self::Td10 => 584,
            Self::Td15 => 648,
            Self::Td15Extended => 885,
        }
    }

    /// No body is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        false
    }

    fn of_kind(kind: u16) -> Option<Self> {
        match kind {
            2 => Some(Self::Td10),
            3 => Some(Self::Td15),
            4 => Some(Self::Td15Extended),
            _ => None,
        }
    }
}

/// The measurements of a trust domain, as its report gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TdxMeasurements {
    /// Security versions of the TDX module and its platform when the trust domain was launched; byte 0 is the
    /// module's own, byte 1 its major version.
    #[serde(with = "hexed::array")]
    pub tee_tcb_svn: [u8; 16],
    /// Measurement of the TDX module.
    #[serde(with = "hexed::array")]
    pub mr_seam: [u8; 48],
    /// Signer of the TDX module; zero for Intel's.
    #[serde(with = "hexed::array")]
    pub mr_signer_seam: [u8; 48],
    /// Attributes of the TDX module; zero for a production module.
    #[serde(with = "hexed::array")]
    pub seam_attributes: [u8; 8],
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
    /// What TDX 1.5 adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub td15: Option<Td15Measurements>,
}

/// What the report of TDX 1.5 adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Td15Measurements {
    /// As `tee_tcb_svn`, but of now: higher after the module was updated under a running trust domain.
    #[serde(with = "hexed::array")]
    pub tee_tcb_svn2: [u8; 16],
    /// Hash over the service trust domains bound to this one (migration); zero for none.
    #[serde(with = "hexed::array")]
    pub mr_service_td: [u8; 48],
    /// In the extended report: hash over the service trust domains bound now; zero for none.
    #[serde(with = "hexed::array")]
    pub current_service_td: [u8; 48],
}

/// One run-time measurement register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Register(#[serde(with = "hexed::array")] pub [u8; 48]);

impl TdxMeasurements {
    /// All zero: what a fake quote stands for.
    pub(crate) const FAKE: Self = Self {
        tee_tcb_svn: [0; 16],
        mr_seam: [0; 48],
        mr_signer_seam: [0; 48],
        seam_attributes: [0; 8],
        td_attributes: [0; 8],
        xfam: [0; 8],
        mr_td: [0; 48],
        mr_config_id: [0; 48],
        mr_owner: [0; 48],
        mr_owner_config: [0; 48],
        rtmr: [Register([0; 48]); 4],
        td15: None,
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
    /// The quote's version: 4 or 5.
    pub version: u16,
    /// Which body it carries.
    pub body: TdBody,
    /// What was measured.
    pub measurements: TdxMeasurements,
    /// What the quote is bound to.
    pub report_data: ReportData,
}

impl TdxQuote {
    const HEADER_LEN: usize = 48;
    /// Header and body of the shortest quote, bytes; the signature follows.
    pub const MIN_LEN: usize = Self::HEADER_LEN + TdBody::Td10.len();

    /// Reads header and body of a version 4 or 5 quote.
    ///
    /// # Errors
    /// The bytes are too short, of another version, or of another kind of enclave.
    pub fn parse(bytes: &[u8]) -> Result<Self, QuoteError> {
        Self::split(bytes).map(|(quote, _signed, _rest)| quote)
    }

    /// Reads header and body: the quote, the bytes that its signature covers, and those that follow.
    fn split(bytes: &[u8]) -> Result<(Self, &[u8], &[u8]), QuoteError> {
        let too_short = QuoteError::TooShort { len: bytes.len() };
        let (header, rest) = bytes.split_first_chunk::<{ Self::HEADER_LEN }>().ok_or(too_short)?;
        let version = u16::from_le_bytes([header[0], header[1]]);
        if version != 4 && version != 5 {
            return Err(QuoteError::UnsupportedVersion { version });
        }
        let tee_type = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        if tee_type != 0x81 {
            return Err(QuoteError::NotTdx { tee_type });
        }
        let (body, rest) = if version == 4 {
            (TdBody::Td10, rest)
        } else {
            let ([k0, k1, l0, l1, l2, l3], rest) = rest.split_first_chunk::<6>().ok_or(too_short)?;
            let (kind, len) = (u16::from_le_bytes([*k0, *k1]), u32::from_le_bytes([*l0, *l1, *l2, *l3]));
            let known = TdBody::of_kind(kind).filter(|body| usize::try_from(len) == Ok(body.len()));
            (known.ok_or(QuoteError::UnsupportedBody { kind, len })?, rest)
        };
        let (content, rest) = rest.split_at_checked(body.len()).ok_or(too_short)?;
        let (measurements, report_data) = read_body(content, body).ok_or(too_short)?;
        let signed = &bytes[..bytes.len() - rest.len()];
        Ok((Self { version, body, measurements, report_data }, signed, rest))
    }
}

/// Reads a body; `None` if it is shorter than its kind, which the caller has ruled out.
fn read_body(content: &[u8], body: TdBody) -> Option<(TdxMeasurements, ReportData)> {
    let mut fields = Fields(content);
    let mut measurements = TdxMeasurements {
        tee_tcb_svn: fields.take()?,
        mr_seam: fields.take()?,
        mr_signer_seam: fields.take()?,
        seam_attributes: fields.take()?,
        td_attributes: fields.take()?,
        xfam: fields.take()?,
        mr_td: fields.take()?,
        mr_config_id: fields.take()?,
        mr_owner: fields.take()?,
        mr_owner_config: fields.take()?,
        rtmr: [
            Register(fields.take()?),
            Register(fields.take()?),
            Register(fields.take()?),
            Register(fields.take()?),
        ],
        td15: None,
    };
    let report_data = ReportData(fields.take()?);
    if body != TdBody::Td10 {
        let mut td15 = Td15Measurements {
            tee_tcb_svn2: fields.take()?,
            mr_service_td: fields.take()?,
            current_service_td: [0; 48],
        };
        if body == TdBody::Td15Extended {
            // VM index, instance identifier, device information, service TDs at creation (hash, attributes),
            // and the platform at creation (two SVNs and its model) come before the hash of now.
            fields.bytes(1 + 32 + 48 + 48 + 8 + 16 + 16 + 12)?;
            td15.current_service_td = fields.take()?;
        }
        measurements.td15 = Some(td15);
    }
    Some((measurements, report_data))
}

/// A whole quote with its signature data, read but not verified.
#[derive(Debug, Clone, Copy)]
pub(super) struct SignedQuote<'a> {
    pub(super) quote: TdxQuote,
    /// Header and body: what the attestation key signed.
    pub(super) signed: &'a [u8],
    /// By the attestation key, r and s.
    pub(super) signature: &'a [u8; 64],
    /// P-256, x and y.
    pub(super) attestation_key: &'a [u8; 64],
    /// The quoting enclave's own report, as the platform's key signed it.
    pub(super) qe_report: &'a [u8; QeReport::LEN],
    /// By the platform's provisioning certification key, r and s.
    pub(super) qe_report_signature: &'a [u8; 64],
    /// Whatever the quoting enclave hashed together with its key.
    pub(super) qe_auth_data: &'a [u8],
    /// What `certification_data` is; 5 for a chain of PEM certificates.
    pub(super) certification_kind: u16,
    pub(super) certification_data: &'a [u8],
}

/// Vendor identifier of Intel's quoting enclave (quote header, "QE Vendor ID").
const INTEL_QE_VENDOR: [u8; 16] = *b"\x93\x9a\x72\x33\xf7\x9c\x4c\xa9\x94\x0a\x0d\xb3\x95\x7f\x06\x07";
/// Attestation key type: ECDSA-256-with-P-256.
const ECDSA_P256: u16 = 2;
/// Certification data that hold the QE report and the platform's certificate.
const QE_REPORT_CERTIFICATION: u16 = 6;
/// Certification data that hold the PCK certificate chain in PEM.
pub(super) const PCK_CHAIN: u16 = 5;

impl<'a> SignedQuote<'a> {
    /// Reads a whole quote. Zero bytes after it are padding, which the published tools leave in place.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, QuoteError> {
        if bytes.len() > MAX_QUOTE_LEN {
            return Err(QuoteError::TooLong { len: bytes.len() });
        }
        let (quote, signed, rest) = TdxQuote::split(bytes)?;
        let key_kind = u16::from_le_bytes([bytes[2], bytes[3]]);
        if key_kind != ECDSA_P256 {
            return Err(QuoteError::UnsupportedKey { kind: key_kind });
        }
        if bytes[12..28] != INTEL_QE_VENDOR {
            return Err(QuoteError::UnknownVendor);
        }
        let mut after = Fields(rest);
        let mut data = Fields(after.sized_u32().ok_or(malformed("signature data"))?);
        if after.0.iter().any(|byte| *byte != 0) {
            return Err(malformed("end: bytes follow it"));
        }
        let signature = data.chunk().ok_or(malformed("signature"))?;
        let attestation_key = data.chunk().ok_or(malformed("attestation key"))?;
        if data.take().map(u16::from_le_bytes) != Some(QE_REPORT_CERTIFICATION) {
            return Err(malformed("certification data"));
        }
        let mut certification = Fields(data.sized_u32().ok_or(malformed("certification data"))?);
        data.finish("signature data")?;
        let parsed = Self {
            quote,
            signed,
            signature,
            attestation_key,
            qe_report: certification.chunk().ok_or(malformed("QE report"))?,
            qe_report_signature: certification.chunk().ok_or(malformed("QE report's signature"))?,
            qe_auth_data: certification.sized_u16().ok_or(malformed("QE authentication data"))?,
            certification_kind: certification
                .take()
                .map(u16::from_le_bytes)
                .ok_or(malformed("certificate"))?,
            certification_data: certification.sized_u32().ok_or(malformed("certificate"))?,
        };
        certification.finish("certification data")?;
        Ok(parsed)
    }
}

/// The quoting enclave's report (Intel SDM volume 3D, "REPORT structure"), as far as anything rests on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QeReport {
    pub(super) misc_select: u32,
    pub(super) attributes: [u8; 16],
    pub(super) mr_signer: [u8; 32],
    pub(super) product: u16,
    pub(super) svn: u16,
    pub(super) report_data: [u8; 64],
}

impl QeReport {
    pub(super) const LEN: usize = 384;

    /// `None` never happens: the fields add up to [`LEN`](Self::LEN).
    pub(super) fn read(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let mut fields = Fields(bytes);
        fields.bytes(16)?;
        let misc_select = u32::from_le_bytes(fields.take()?);
        fields.bytes(28)?;
        let attributes = fields.take()?;
        fields.bytes(32 + 32)?;
        let mr_signer = fields.take()?;
        fields.bytes(96)?;
        let (product, svn) = (u16::from_le_bytes(fields.take()?), u16::from_le_bytes(fields.take()?));
        fields.bytes(60)?;
        Some(Self { misc_select, attributes, mr_signer, product, svn, report_data: fields.take()? })
    }
}

fn malformed(field: &'static str) -> QuoteError {
    QuoteError::Malformed { field }
}

/// Takes fields off the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn chunk<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(field)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.chunk().copied()
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(field)
    }

    fn sized_u16(&mut self) -> Option<&'a [u8]> {
        let len = u16::from_le_bytes(self.take()?);
        self.bytes(usize::from(len))
    }

    fn sized_u32(&mut self) -> Option<&'a [u8]> {
        let len = u32::from_le_bytes(self.take()?);
        self.bytes(usize::try_from(len).ok()?)
    }

    fn finish(&self, field: &'static str) -> Result<(), QuoteError> {
        if self.0.is_empty() { Ok(()) } else { Err(malformed(field)) }
    }
}
