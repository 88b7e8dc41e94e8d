//! Who the peer is.

use std::sync::Arc;

use bytes::Bytes;
use cocoon_attest::{Evidence, EvidenceKind, PeerCertificate, Verdict};
use rustls::pki_types::CertificateDer;

use crate::{ConnectFailure, Judge};

/// A peer that the policy let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its raw Ed25519 key.
    pub public_key: [u8; 32],
    /// Its certificate, DER.
    pub certificate: Bytes,
    /// SHA-256 of its certificate.
    pub certificate_fingerprint: [u8; 32],
    /// The kind of evidence it showed, verified or not; see [`PeerIdentity::attested_kind`].
    pub kind: EvidenceKind,
    /// The evidence it showed.
    pub evidence: Evidence,
    /// What became of that evidence. Under the policy `any` it is not checked.
    pub verdict: Arc<Verdict>,
    /// The verified hash of the image it runs; `None` where nothing was verified.
    pub image_hash: Option<[u8; 32]>,
}

impl PeerIdentity {
    /// The kind of evidence that was verified; `None` where none was.
    #[must_use]
    pub fn attested_kind(&self) -> Option<EvidenceKind> {
        self.verdict.accepted().then_some(self.kind)
    }

    /// Whether hardware vouches for it: evidence was verified, and not by a simulated vendor's root.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.verdict.accepted() && !self.verdict.simulated
    }
}

/// Decides about the peer behind a finished handshake.
pub(crate) async fn identify(
    judge: &Judge,
    certificates: Option<&[CertificateDer<'_>]>,
) -> Result<(PeerIdentity, PeerCertificate), ConnectFailure> {
    // The handshake does not finish without a certificate; should it ever, the peer is refused.
    let der = certificates
        .and_then(<[_]>::first)
        .ok_or(ConnectFailure::Tls(rustls::Error::NoCertificatesPresented))?;
    let certificate = PeerCertificate::parse(der).map_err(ConnectFailure::Certificate)?;
    let verdict = judge.decide(&certificate).await?;
    let evidence = certificate.evidence().clone();
    let peer = PeerIdentity {
        public_key: *certificate.public_key(),
        certificate: Bytes::copy_from_slice(der),
        certificate_fingerprint: *certificate.fingerprint(),
        kind: evidence.kind(),
        image_hash: verdict.image_hash,
        evidence,
        verdict,
    };
    Ok((peer, certificate))
}
