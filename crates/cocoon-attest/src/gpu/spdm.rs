//! The attestation report: an SPDM GET_MEASUREMENTS request and the response to it, one behind the other.
//!
//! Sources: DMTF DSP0274, "Security Protocol and Data Model Specification", version 1.1, "GET_MEASUREMENTS request
//! message", "Successful MEASUREMENTS response message", "DMTF specification for the Measurement field of a
//! measurement block"; NVIDIA's own verifiers (`nvtrust`, `attestation-sdk`), whose code is the only public
//! description of the opaque data.

use std::collections::BTreeMap;

use super::opaque::{self, GpuDetails};

/// SPDM 1.1.
const VERSION: u8 = 0x11;
const GET_MEASUREMENTS: u8 = 0xe0;
const MEASUREMENTS: u8 = 0x60;
/// In the request's first parameter: a signed answer is asked for.
const SIGNATURE_REQUESTED: u8 = 1;
/// The request's second parameter: every measurement is asked for.
const ALL_MEASUREMENTS: u8 = 0xff;
/// In a measurement block: the measurement is in DMTF's own form.
const DMTF: u8 = 1;
/// The request, bytes.
const REQUEST_LEN: usize = 37;
/// The signature, bytes: r and s on P-384.
const SIGNATURE_LEN: usize = 96;

/// A report, read but not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuAttestation<'a> {
    /// What the requester put into the request, and the GPU signed.
    pub nonce: [u8; 32],
    /// The measurements by SPDM index, which counts from 1. (NVIDIA's reference values count from 0.)
    pub measurements: BTreeMap<u8, &'a [u8]>,
    /// What the GPU says about itself besides.
    pub details: GpuDetails,
    /// What is signed: request and response up to the signature.
    pub signed: &'a [u8],
    /// r and s, 48 bytes each, big-endian.
    pub signature: &'a [u8; SIGNATURE_LEN],
}

/// The bytes are no report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GpuReportError {
    /// It ends before its time.
    #[error("the report is cut off in its {0}")]
    CutOff(&'static str),
    /// A field has a value that it must not have.
    #[error("the report's {0} is not what it must be")]
    Unexpected(&'static str),
    /// It goes on after its end.
    #[error("the report has bytes behind its signature")]
    TrailingBytes,
}

use GpuReportError::{CutOff, TrailingBytes, Unexpected};

impl<'a> GpuAttestation<'a> {
    /// Reads a report.
    ///
    /// # Errors
    /// Says what keeps the bytes from being one.
    pub fn parse(report: &'a [u8]) -> Result<Self, GpuReportError> {
        let (request, mut response) = report
            .split_at_checked(REQUEST_LEN)
            .map(|(request, rest)| (request, Fields(rest)))
            .ok_or(CutOff("request"))?;
        let nonce = read_request(request)?;
        let [version, code, _, _] = response.array("response header")?;
        if version != VERSION {
            return Err(Unexpected("response version"));
        }
        if code != MEASUREMENTS {
            return Err(Unexpected("response code"));
        }
        let [blocks, low, middle, high] = response.array("number of measurements")?;
        let len = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let measurements = measurements(blocks, response.take(len, "measurements")?)?;
        // The responder's own nonce: it makes two answers differ, and means nothing here.
        response.take(32, "response nonce")?;
        let len = response.number("length of opaque data")?;
        let details = opaque::read(response.take(len, "opaque data")?)?;
        let signed = &report[..report.len() - response.0.len()];
        let signature = response.0.first_chunk().ok_or(CutOff("signature"))?;
        if response.0.len() > SIGNATURE_LEN {
            return Err(TrailingBytes);
        }
        Ok(Self { nonce, measurements, details, signed, signature })
    }
}

fn read_request(request: &[u8]) -> Result<[u8; 32], GpuReportError> {
    let mut request = Fields(request);
    let [version, code, attributes, operation] = request.array("request header")?;
    if version != VERSION {
        return Err(Unexpected("request version"));
    }
    if code != GET_MEASUREMENTS {
        return Err(Unexpected("request code"));
    }
    if attributes & SIGNATURE_REQUESTED == 0 {
        return Err(Unexpected("request for a signature"));
    }
    if operation != ALL_MEASUREMENTS {
        return Err(Unexpected("request for all measurements"));
    }
    request.array("request nonce")
}

fn measurements(blocks: u8, record: &[u8]) -> Result<BTreeMap<u8, &[u8]>, GpuReportError> {
    if blocks == 0 {
        return Err(Unexpected("number of measurements"));
    }
    let mut record = Fields(record);
    let mut found = BTreeMap::new();
    for _ in 0..blocks {
        let [index, specification] = record.array("measurement block")?;
        if specification != DMTF {
            return Err(Unexpected("measurement specification"));
        }
        let len = record.number("measurement block")?;
        let mut block = Fields(record.take(len, "measurement block")?);
        // The kind of value: a digest or a bit stream, of what. Reference values say which digest belongs where.
        block.take(1, "measurement")?;
        let len = block.number("measurement")?;
        let value = block.take(len, "measurement")?;
        // 0 and 255 stand for something else in requests, so no block can have them.
        if !block.0.is_empty() || index == 0 || index == u8::MAX || found.insert(index, value).is_some() {
            return Err(Unexpected("measurement block"));
        }
    }
    if record.0.is_empty() { Ok(found) } else { Err(Unexpected("length of measurements")) }
}

/// Little-endian fields from front to back.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], GpuReportError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(CutOff(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GpuReportError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(CutOff(what))?;
        self.0 = rest;
        Ok(*taken)
    }

    /// Two bytes.
    pub(super) fn number(&mut self, what: &'static str) -> Result<usize, GpuReportError> {
        self.array(what).map(|bytes| usize::from(u16::from_le_bytes(bytes)))
    }
}
