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
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} s after 1970", self.0)
    }
}
