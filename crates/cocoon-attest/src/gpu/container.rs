//! The container: the evidence of all GPUs of one machine in one piece.
//!
//! All numbers are big-endian. The form, from front to back:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `COCOGPU1` |
//! | 1 | how many certificates follow |
//! | 2 + n, for each | length and DER of a certificate; every certificate once, in the order of first use |
//! | 1 | how many GPUs follow |
//! | for each: 1 + n | length of its chain, and the chain as places in the list of certificates, leaf first |
//! | for each: 2 | length of its report |
//! | for each: 1 | 0: the report follows. 1: what follows is how it differs from the first GPU's, of the same length |
//!
//! Differences are a count (2 bytes) of runs, each of the bytes to skip (2), the bytes to replace (2) and those bytes.
//! The GPUs of a machine share authorities, driver and firmware, so both together make eight Hopper GPUs three times
//! smaller. There is one way to write given evidence, and only that way is read.

use bytes::Bytes;

/// The first bytes of a container; the last of them is the version.
const MAGIC: &[u8; 8] = b"COCOGPU1";
/// The report follows.
const WHOLE: u8 = 0;
/// Differences from the first report follow.
const DIFFERENCES: u8 = 1;
/// Two runs with fewer equal bytes between them than this are one: a run's header takes as many, bytes.
const MIN_GAP: usize = 4;

/// What one GPU shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuPart {
    /// The SPDM request and response, as the driver hands them out (`nvmlConfComputeGpuAttestationReport_t`).
    pub report: Bytes,
    /// The attestation certificate chain, each certificate in DER, leaf first.
    pub chain: Vec<Bytes>,
}

/// What all GPUs of a machine show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuEvidence {
    gpus: Vec<GpuPart>,
}

/// The bytes are no container, or the parts do not fit into one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GpuEvidenceError {
    /// Something else, or a version that is not known.
    #[error("this is no GPU evidence of version 1")]
    Magic,
    /// It ends before its time.
    #[error("the GPU evidence is cut off")]
    CutOff,
    /// It goes on after its end.
    #[error("the GPU evidence has bytes behind its end")]
    TrailingBytes,
    /// A count or length is beyond its limit, or zero.
    #[error("the GPU evidence has a number of {0} outside its limits")]
    Limit(&'static str),
    /// A chain names a certificate that is not there.
    #[error("a certificate chain in the GPU evidence names a certificate that is not there")]
    NoSuchCertificate,
    /// The same evidence has another, proper form.
    #[error("the GPU evidence is not in its one proper form")]
    NotCanonical,
}

use GpuEvidenceError::{CutOff, Limit};

impl GpuEvidence {
    /// Longest container, bytes: what fits into a certificate beside a CPU's evidence.
    pub const MAX_LEN: usize = crate::MAX_GPU_LEN;
    /// Most GPUs: twice what today's machines have.
    pub const MAX_GPUS: usize = 16;
    /// Most certificates in a chain. Hopper and Blackwell have 5.
    pub const MAX_CHAIN: usize = 8;
    /// Longest certificate, bytes: the driver's room for a whole chain (`NVML_GPU_ATTESTATION_CERT_CHAIN_SIZE`).
    pub const MAX_CERTIFICATE_LEN: usize = 0x1400;
    /// Longest report, bytes: the driver's room for it (`NVML_CC_GPU_ATTESTATION_REPORT_SIZE`).
    pub const MAX_REPORT_LEN: usize = 0x2000;

    /// Puts parts together.
    ///
    /// # Errors
    /// Says which count or length is outside its limits.
    pub fn new(gpus: Vec<GpuPart>) -> Result<Self, GpuEvidenceError> {
        let within = |len: usize, most: usize, what| {
            if (1..=most).contains(&len) { Ok(()) } else { Err(Limit(what)) }
        };
        within(gpus.len(), Self::MAX_GPUS, "GPUs")?;
        for gpu in &gpus {
            within(gpu.report.len(), Self::MAX_REPORT_LEN, "bytes in a report")?;
            within(gpu.chain.len(), Self::MAX_CHAIN, "certificates in a chain")?;
            for certificate in &gpu.chain {
                within(certificate.len(), Self::MAX_CERTIFICATE_LEN, "bytes in a certificate")?;
            }
        }
        Ok(Self { gpus })
    }

    /// The parts, one for each GPU: at least one.
    #[must_use]
    pub fn gpus(&self) -> &[GpuPart] {
        &self.gpus
    }

    /// Reads a container.
    ///
    /// # Errors
    /// Says what keeps the bytes from being one.
    pub fn parse(bytes: &[u8]) -> Result<Self, GpuEvidenceError> {
        if bytes.len() > Self::MAX_LEN {
            return Err(Limit("bytes"));
        }
        let rest = bytes.strip_prefix(MAGIC).ok_or(GpuEvidenceError::Magic)?;
        let mut reader = Reader { rest };
        let mut certificates = Vec::new();
        for _ in 0..reader.byte()? {
            let len = reader.number()?;
            certificates.push(Bytes::copy_from_slice(reader.take(len)?));
        }
        let mut gpus: Vec<GpuPart> = Vec::new();
        for _ in 0..reader.byte()? {
            let places = reader.byte()?;
            let places = reader.take(usize::from(places))?;
            let chain = places.iter().map(|place| certificates.get(usize::from(*place)).cloned());
            let chain = chain.collect::<Option<Vec<_>>>().ok_or(GpuEvidenceError::NoSuchCertificate)?;
            let len = reader.number()?;
            if len > Self::MAX_REPORT_LEN || gpus.len() == Self::MAX_GPUS {
                return Err(Limit("GPUs or bytes in a report"));
            }
            let report = match (reader.byte()?, gpus.first()) {
                (WHOLE, _) => Bytes::copy_from_slice(reader.take(len)?),
                (DIFFERENCES, Some(first)) if first.report.len() == len => {
                    reader.differences(&first.report)?.into()
                }
                _ => return Err(GpuEvidenceError::NotCanonical),
            };
            gpus.push(GpuPart { report, chain });
        }
        if !reader.rest.is_empty() {
            return Err(GpuEvidenceError::TrailingBytes);
        }
        let evidence = Self::new(gpus)?;
        // Certificates out of order, twice or unused, and differences written in another way, show here.
        if evidence.write()? == bytes { Ok(evidence) } else { Err(GpuEvidenceError::NotCanonical) }
    }

    /// Writes the container.
    ///
    /// # Errors
    /// It would be longer than [`MAX_LEN`](Self::MAX_LEN).
    pub fn write(&self) -> Result<Bytes, GpuEvidenceError> {
        let mut certificates: Vec<&Bytes> = Vec::new();
        let mut parts = vec![count(self.gpus.len())];
        for gpu in &self.gpus {
            parts.push(count(gpu.chain.len()));
            for certificate in &gpu.chain {
                let place = certificates.iter().position(|known| *known == certificate);
                parts.push(count(place.unwrap_or(certificates.len())));
                if place.is_none() {
                    certificates.push(certificate);
                }
            }
            parts.extend(number(gpu.report.len()));
            let first = self.gpus.first().filter(|first| !std::ptr::eq(*first, gpu));
            let differences = first.and_then(|first| differences(&first.report, &gpu.report));
            match differences.filter(|differences| differences.len() < gpu.report.len()) {
                Some(differences) => {
                    parts.push(DIFFERENCES);
                    parts.extend(differences);
                }
                None => {
                    parts.push(WHOLE);
                    parts.extend(&gpu.report[..]);
                }
            }
        }
        // 16 chains of 8: a byte counts them.
        let mut written = [&MAGIC[..], &[count(certificates.len())]].concat();
        for certificate in certificates {
            written.extend(number(certificate.len()));
            written.extend(&certificate[..]);
        }
        written.extend(parts);
        if written.len() > Self::MAX_LEN { Err(Limit("bytes")) } else { Ok(written.into()) }
    }
}

/// A count that [`GpuEvidence::new`] has kept within a byte.
fn count(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

/// A length that [`GpuEvidence::new`] has kept within two bytes.
fn number(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes()
}

/// How `report` differs from `first`; `None` where their lengths do.
fn differences(first: &[u8], report: &[u8]) -> Option<Vec<u8>> {
    if first.len() != report.len() {
        return None;
    }
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for at in (0..first.len()).filter(|at| first[*at] != report[*at]) {
        match runs.last_mut() {
            Some(run) if at - run.end < MIN_GAP => run.end = at + 1,
            _ => runs.push(at..at + 1),
        }
    }
    let mut written = number(runs.len()).to_vec();
    let mut done = 0;
    for run in runs {
        written.extend(number(run.start - done));
        written.extend(number(run.len()));
        done = run.end;
        written.extend(&report[run]);
    }
    Some(written)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], GpuEvidenceError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(CutOff)?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, GpuEvidenceError> {
        self.take(1).map(|byte| byte[0])
    }

    fn number(&mut self) -> Result<usize, GpuEvidenceError> {
        self.take(2).map(|bytes| usize::from(bytes[0]) << 8 | usize::from(bytes[1]))
    }

    /// A report of the first one's length.
    fn differences(&mut self, first: &[u8]) -> Result<Vec<u8>, GpuEvidenceError> {
        let mut report = first.to_vec();
        let mut done = 0;
        for _ in 0..self.number()? {
            let start = done + self.number()?;
            let len = self.number()?;
            let changed = self.take(len)?;
            done = start + len;
            report.get_mut(start..done).ok_or(GpuEvidenceError::NotCanonical)?.copy_from_slice(changed);
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn part(report: &[u8], chain: &[&[u8]]) -> GpuPart {
        GpuPart {
            report: Bytes::copy_from_slice(report),
            chain: chain.iter().map(|der| Bytes::copy_from_slice(der)).collect(),
        }
    }

    fn machine() -> impl Strategy<Value = GpuEvidence> {
        let certificates = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..30), 1..12);
        let gpu = (
            proptest::collection::vec(any::<prop::sample::Index>(), 1..6),
            proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
            proptest::option::of(1_usize..300),
        );
        let gpus = proptest::collection::vec(gpu, 1..=GpuEvidence::MAX_GPUS);
        (certificates, proptest::collection::vec(any::<u8>(), 1..300), gpus).prop_map(
            |(certificates, base, gpus)| {
                let parts = gpus.into_iter().map(|(chain, changes, length)| {
                    let mut report = base.clone();
                    report.resize(length.unwrap_or(base.len()), 7);
                    for (at, value) in changes {
                        let at = at.index(report.len());
                        report[at] = value;
                    }
                    let chain: Vec<&[u8]> = chain.iter().map(|place| &place.get(&certificates)[..]).collect();
                    part(&report, &chain)
                });
                GpuEvidence::new(parts.collect()).unwrap()
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_as_itself(evidence in machine()) {
            let written = evidence.write().unwrap();
            prop_assert_eq!(GpuEvidence::parse(&written), Ok(evidence));
        }

        #[test]
        fn a_container_cut_anywhere_or_with_more_behind_it_is_refused(
            evidence in machine(),
            cut in any::<prop::sample::Index>(),
        ) {
            let written = evidence.write().unwrap();
            prop_assert!(GpuEvidence::parse(&written[..cut.index(written.len())]).is_err());
            let longer = [&written[..], &[0]].concat();
            prop_assert_eq!(GpuEvidence::parse(&longer), Err(GpuEvidenceError::TrailingBytes));
        }

        #[test]
        fn whatever_is_read_is_in_the_one_proper_form(
            evidence in machine(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut written = evidence.write().unwrap().to_vec();
            for (at, value) in changes {
                let at = at.index(written.len());
                written[at] = value;
            }
            if let Ok(read) = GpuEvidence::parse(&written) {
                prop_assert_eq!(read.write().unwrap(), written);
            }
        }

        #[test]
        fn arbitrary_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = GpuEvidence::parse(&bytes);
            let _ = GpuEvidence::parse(&[MAGIC, &bytes[..]].concat());
        }
    }

    #[test]
    fn shared_certificates_and_bytes_are_stored_once() {
        let report = [9; 4000];
        let one = GpuEvidence::new(vec![part(&report, &[&[1; 900], &[2; 600]])]).unwrap();
        let mut other = report;
        other[100] = 1;
        let two = GpuEvidence::new(vec![
            part(&report, &[&[1; 900], &[2; 600]]),
            part(&other, &[&[1; 900], &[2; 600]]),
        ]);
        let added = two.unwrap().write().unwrap().len() - one.write().unwrap().len();
        assert_eq!(added, 3 + 2 + 1 + 2 + 4 + 1);
    }

    #[test]
    fn numbers_outside_their_limits_are_refused() {
        let good = part(&[1], &[&[1]]);
        for (gpus, what) in [
            (vec![], "GPUs"),
            (vec![good.clone(); 17], "GPUs"),
            (vec![part(&[], &[&[1]])], "bytes in a report"),
            (vec![part(&[0; GpuEvidence::MAX_REPORT_LEN + 1], &[&[1]])], "bytes in a report"),
            (vec![part(&[1], &[])], "certificates in a chain"),
            (vec![part(&[1], &[&[1][..]; 9])], "certificates in a chain"),
            (vec![part(&[1], &[&[]])], "bytes in a certificate"),
            (vec![part(&[1], &[&[0; GpuEvidence::MAX_CERTIFICATE_LEN + 1]])], "bytes in a certificate"),
        ] {
            assert_eq!(GpuEvidence::new(gpus), Err(Limit(what)));
        }
        assert!(GpuEvidence::new(vec![good; 16]).is_ok());
        let unlike = (0..16_u8).map(|gpu| part(&[gpu; GpuEvidence::MAX_REPORT_LEN], &[&[gpu]])).collect();
        assert_eq!(GpuEvidence::new(unlike).unwrap().write(), Err(Limit("bytes")));
        assert_eq!(GpuEvidence::parse(&[0; GpuEvidence::MAX_LEN + 1]), Err(Limit("bytes")));
    }

    #[test]
    fn the_same_evidence_in_another_form_is_refused() {
        let written = GpuEvidence::new(vec![part(&[5, 6], &[&[1]]), part(&[5, 6], &[&[1]])]);
        let written = written.unwrap().write().unwrap();
        assert_eq!(written[8..], [1, 0, 1, 1, 2, 1, 0, 0, 2, 0, 5, 6, 1, 0, 0, 2, 0, 5, 6]);
        let twice = [b"COCOGPU1", &[2, 0, 1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 0, 5][..]].concat();
        assert_eq!(GpuEvidence::parse(&twice), Err(GpuEvidenceError::NotCanonical), "a certificate twice");
        let unknown = [b"COCOGPU1", &[1, 0, 1, 1, 1, 1, 1, 0, 1, 0, 5][..]].concat();
        assert_eq!(GpuEvidence::parse(&unknown), Err(GpuEvidenceError::NoSuchCertificate));
        let first = [b"COCOGPU1", &[1, 0, 1, 1, 1, 1, 0, 0, 1, 1, 0, 0][..]].concat();
        assert_eq!(GpuEvidence::parse(&first), Err(GpuEvidenceError::NotCanonical), "differing from nothing");
        assert_eq!(GpuEvidence::parse(b"COCOGPU2\x01"), Err(GpuEvidenceError::Magic));
    }
}
