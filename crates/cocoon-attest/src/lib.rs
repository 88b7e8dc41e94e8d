//! What a peer proves about itself: its certificate, its evidence, and the decision whether that is enough.
//!
//! Pure: bytes, keys and the time come in as arguments and a typed answer comes out. Nothing here opens a
//! socket, reads a clock or draws a random number, so every verdict can be replayed and every parser fuzzed.
//!
//! The way of a connection through this crate:
//! [`PeerCertificate::parse`] → [`PeerCertificate::check`] → [`PeerCertificate::evidence`] →
//! [`Verifier::verify`] → [`Policy::decide`].
#![forbid(unsafe_code)]

mod certificate;
mod collateral;
mod der;
mod evidence;
pub mod fuzzing;
pub mod gpu;
mod hexed;
mod policy;
pub mod snp;
pub mod tdx;
mod verify;
mod x509;

pub use certificate::{
    CLAIMS_OID, CLOCK_SKEW_SECONDS, CertificateError, CertificateVersion, GPU_OID, MAX_CERTIFICATE_LEN,
    MAX_EXTENSIONS, MAX_GPU_LEN, MAX_QUOTE_LEN, PeerCertificate, PeerRole, QUOTE_OID, SNP_OID, Validity,
};
pub use collateral::{
    CollateralFuture, CollateralSource, CollateralUnavailable, Fetched, fetch_all, fetch_needed,
};
pub use evidence::{Evidence, EvidenceError, EvidenceKind, EvidenceSource, GpuSource, ReportData};
pub use policy::{
    AcceptedEvidence, Demands, GpuDemand, OperatorPolicy, Policy, PolicyDecision, PolicyError, PolicyRule,
    TestRoots,
};
pub use tdx::{QuoteError, Register, TdxMeasurements, TdxQuote};
pub use verify::{
    Check, Collateral, CollateralRequest, FakeTdxVerifier, Measurements, Outcome, Verdict, Verifier,
    VerifierSet,
};

/// A point in time: whole seconds since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// This many seconds later, or the last representable second.
    #[must_use]
    pub fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }
}

impl std::fmt::Display for UnixSeconds {
    /// `2026-11-29 12:00:00 UTC`; beyond the year 9999, which no certificate can name, the seconds.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const LAST: u64 = 253_402_300_799;
        const DAY: u64 = 86_400;
        if self.0 > LAST {
            return write!(f, "{} s after 1970", self.0);
        }
        // Days from 0000-03-01 on, so that a leap day is the last of its year; cycles of 400 years have 146,097 days.
        let days = self.0 / DAY + 719_468;
        let (cycle, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = cycle * 400 + year + later;
        let second = self.0 % DAY;
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(f, "{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

#[cfg(test)]
mod tests {
    use super::UnixSeconds;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_795_228_887, "2026-11-21 02:41:27 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (253_402_300_799, "9999-12-31 23:59:59 UTC"),
            (253_402_300_800, "253402300800 s after 1970"),
        ] {
            assert_eq!(UnixSeconds(seconds).to_string(), text);
        }
    }
}
