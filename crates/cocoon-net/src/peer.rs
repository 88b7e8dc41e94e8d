//! Who the peer is: from its certificate, by way of evidence and collateral, to the policy's decision.

use cocoon_attest::{
    Collateral, CollateralUnavailable, Evidence, EvidenceKind, PeerCertificate, PolicyDecision, ReportData,
    Verdict,
};
use rustls::pki_types::CertificateDer;

use crate::{ConnectFailure, TlsSettings};

/// A peer that the policy let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its raw Ed25519 key.
    pub public_key: [u8; 32],
    /// SHA-256 of its certificate.
    pub certificate_fingerprint: [u8; 32],
    /// The kind of evidence it showed, verified or not; see [`PeerIdentity::attested_kind`].
    pub kind: EvidenceKind,
    /// The evidence it showed.
    pub evidence: Evidence,
    /// What became of that evidence. Under the policy `any` it is not checked.
    pub verdict: Verdict,
    /// The verified hash of the image it runs; `None` where nothing was verified.
    pub image_hash: Option<[u8; 32]>,
}

impl PeerIdentity {
    /// The kind of evidence that was verified; `None` where none was.
    #[must_use]
    pub fn attested_kind(&self) -> Option<EvidenceKind> {
        self.verdict.accepted().then_some(self.kind)
    }
}

/// Decides about the peer behind a finished handshake.
pub(crate) async fn identify(
    settings: &TlsSettings,
    certificates: Option<&[CertificateDer<'_>]>,
) -> Result<PeerIdentity, ConnectFailure> {
    // The handshake does not finish without a certificate; should it ever, the peer is refused.
    let der = certificates
        .and_then(<[_]>::first)
        .ok_or(ConnectFailure::Tls(rustls::Error::NoCertificatesPresented))?;
    let certificate = PeerCertificate::parse(der).map_err(ConnectFailure::Certificate)?;
    let evidence = certificate.evidence();
    let policy = settings.policy();
    let verdict = if !policy.needs_evidence() {
        Verdict::unchecked(evidence.kind(), "the policy asks for no evidence")
    } else if !policy.accepts_kind(evidence.kind()) {
        Verdict::unchecked(evidence.kind(), "the policy does not accept this kind")
    } else {
        verify(settings, &evidence, &certificate.report_data()).await?
    };
    if let PolicyDecision::Refused { rule, detail } = policy.decide(&verdict) {
        return Err(ConnectFailure::Refused { rule, detail });
    }
    Ok(PeerIdentity {
        public_key: *certificate.public_key(),
        certificate_fingerprint: *certificate.fingerprint(),
        kind: evidence.kind(),
        image_hash: verdict.image_hash,
        evidence,
        verdict,
    })
}

/// Judges evidence with what must be fetched for that, and tells the source what was refused with it.
async fn verify(
    settings: &TlsSettings,
    evidence: &Evidence,
    binding: &ReportData,
) -> Result<Verdict, ConnectFailure> {
    let requests = settings.verifier().collateral_needed(evidence);
    let judge = |collateral| settings.verifier().verify(evidence, collateral, binding, settings.now());
    if requests.is_empty() {
        return Ok(judge(&Collateral::none()));
    }
    let Some(source) = settings.collateral() else {
        let reason = "no source is configured".to_owned();
        return Err(ConnectFailure::Collateral(CollateralUnavailable { kind: evidence.kind(), reason }));
    };
    let collateral = source.fetch(&requests).await.map_err(ConnectFailure::Collateral)?;
    let mut verdict = judge(&collateral);
    if !verdict.accepted() {
        source.refused(&requests);
        verdict.explain(&collateral);
    }
    Ok(verdict)
}
