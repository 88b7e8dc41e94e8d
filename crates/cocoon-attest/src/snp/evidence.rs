//! The container: a report, and behind it the host's certificate table.
//!
//! The table is what the host answers to an extended guest request (GHCB, "SNP Extended Guest Request") and what
//! Linux hands out as `auxblob`: entries of 24 bytes (GUID in the order of its text, offset and length as 32-bit
//! little-endian numbers counted from the start of the table), an entry of zeros, and the certificates in DER
//! anywhere behind. What follows the last certificate is padding. The host writes the table: nothing in it is
//! trusted, and an unknown entry is passed over.

use super::report::{SnpReport, SnpReportError};

/// GUIDs of the entries (GHCB, "Certificate table").
mod guid {
    pub(super) const VCEK: [u8; 16] = *b"\x63\xda\x75\x8d\xe6\x64\x45\x64\xad\xc5\xf4\xb9\x3b\xe8\xac\xcd";
    pub(super) const VLEK: [u8; 16] = *b"\xa8\x07\x4b\xc2\xa2\x5a\x48\x3e\xaa\xe6\x39\xc0\x45\xa0\xb8\xa1";
    pub(super) const ASK: [u8; 16] = *b"\x4a\xb7\xb3\x79\xbb\xac\x4f\xe4\xa0\x2f\x05\xae\xf3\x27\xc7\x82";
    pub(super) const ARK: [u8; 16] = *b"\xc0\xb4\x06\xa4\xa8\x03\x49\x52\x97\x43\x3f\xb6\x01\x4c\xd0\xae";
    pub(super) const CRL: [u8; 16] = *b"\x92\xf8\x1b\xc3\x58\x11\x4d\x3d\x97\xff\xd1\x9f\x88\xdc\x67\xea";
}

/// Most entries in a table.
const MAX_ENTRIES: usize = 16;
/// Length of an entry, bytes.
const ENTRY_LEN: usize = 24;

/// Why bytes are not SNP evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnpEvidenceError {
    /// Too short for a report.
    #[error("the evidence has {len} bytes, fewer than the {} of a report", SnpReport::LEN)]
    TooShort {
        /// Its length, bytes.
        len: usize,
    },
    /// Longer than any evidence.
    #[error("the evidence has {len} bytes, more than {}", SnpEvidence::MAX_LEN)]
    TooLong {
        /// Its length, bytes.
        len: usize,
    },
    /// The report cannot be read.
    #[error(transparent)]
    Report(#[from] SnpReportError),
    /// The table does not end, or points outside itself.
    #[error("the certificate table is malformed: {reason}")]
    Table {
        /// How.
        reason: &'static str,
    },
}

/// The certificates of a table, in DER, unverified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SnpCertificates<'a> {
    /// The chip's key.
    pub vcek: Option<&'a [u8]>,
    /// The cloud provider's key.
    pub vlek: Option<&'a [u8]>,
    /// The ASK, or where a VLEK is used the ASVK: the format has one place for both.
    pub ask: Option<&'a [u8]>,
    /// The root.
    pub ark: Option<&'a [u8]>,
    /// The root's revocation list.
    pub crl: Option<&'a [u8]>,
}

impl SnpCertificates<'_> {
    /// Writes the table, and behind it the certificates. Nothing at all where there are none.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let known = [
            (guid::VCEK, self.vcek),
            (guid::VLEK, self.vlek),
            (guid::ASK, self.ask),
            (guid::ARK, self.ark),
            (guid::CRL, self.crl),
        ];
        let present: Vec<_> =
            known.into_iter().filter_map(|(guid, der)| der.map(|der| (guid, der))).collect();
        if present.is_empty() {
            return Vec::new();
        }
        let (mut table, mut data) = (Vec::new(), Vec::new());
        let start = (present.len() + 1) * ENTRY_LEN;
        for (guid, der) in present {
            // Certificates are far from 4 GiB; one that were not is refused as malformed by every reader.
            let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
            table.extend_from_slice(&guid);
            table.extend_from_slice(&number(start + data.len()));
            table.extend_from_slice(&number(der.len()));
            data.extend_from_slice(der);
        }
        table.extend_from_slice(&[0; ENTRY_LEN]);
        table.append(&mut data);
        table
    }
}

impl<'a> SnpCertificates<'a> {
    /// Reads a table; nothing, and zeros alone, are an empty one.
    ///
    /// # Errors
    /// The table does not end, has over 16 entries, names an entry twice or points outside itself.
    pub fn parse(table: &'a [u8]) -> Result<Self, SnpEvidenceError> {
        let malformed = |reason| SnpEvidenceError::Table { reason };
        let mut certificates = Self::default();
        if table.is_empty() {
            return Ok(certificates);
        }
        for index in 0..=MAX_ENTRIES {
            let entry = table.get(index * ENTRY_LEN..).and_then(<[u8]>::first_chunk::<ENTRY_LEN>);
            let entry = entry.ok_or(malformed("it has no end"))?;
            if *entry == [0; ENTRY_LEN] {
                return Ok(certificates);
            }
            let (guid, place) = entry.split_at(16);
            let place = [0, 4].map(|at| {
                let number: [u8; 4] = [place[at], place[at + 1], place[at + 2], place[at + 3]];
                usize::try_from(u32::from_le_bytes(number)).unwrap_or(usize::MAX)
            });
            let [offset, len] = place;
            let der = offset.checked_add(len).and_then(|end| table.get(offset..end));
            let der = der.ok_or(malformed("an entry points outside it"))?;
            let slot = match <[u8; 16]>::try_from(guid) {
                Ok(guid::VCEK) => &mut certificates.vcek,
                Ok(guid::VLEK) => &mut certificates.vlek,
                Ok(guid::ASK) => &mut certificates.ask,
                Ok(guid::ARK) => &mut certificates.ark,
                Ok(guid::CRL) => &mut certificates.crl,
                _ => continue,
            };
            if slot.replace(der).is_some() {
                return Err(malformed("it has two entries of one kind"));
            }
        }
        Err(malformed("it has too many entries"))
    }
}

/// SNP evidence, taken apart but not verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnpEvidence<'a> {
    /// The report's bytes.
    pub report_bytes: &'a [u8; SnpReport::LEN],
    /// What they say.
    pub report: SnpReport,
    /// The certificates that came with it.
    pub certificates: SnpCertificates<'a>,
}

impl<'a> SnpEvidence<'a> {
    /// Longest evidence, bytes: that of a peer's certificate, which is more than Linux's 16 KiB for the table.
    pub const MAX_LEN: usize = crate::MAX_QUOTE_LEN;

    /// Takes evidence apart: a report, and the table if anything follows.
    ///
    /// # Errors
    /// One of the two cannot be read.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, SnpEvidenceError> {
        if bytes.len() > Self::MAX_LEN {
            return Err(SnpEvidenceError::TooLong { len: bytes.len() });
        }
        let (report_bytes, table) = bytes
            .split_first_chunk::<{ SnpReport::LEN }>()
            .ok_or(SnpEvidenceError::TooShort { len: bytes.len() })?;
        let report = SnpReport::parse(report_bytes)?;
        Ok(Self { report_bytes, report, certificates: SnpCertificates::parse(table)? })
    }
}
