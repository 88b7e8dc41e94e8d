//! Who we are: an Ed25519 key and the short-lived certificate that shows our evidence for it.
//!
//! The key stays, the certificate is renewed before it expires. TLS reads the certificate anew for every
//! handshake, so a renewal touches no connection that is up.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cocoon_attest::{
    CLAIMS_OID, CLOCK_SKEW_SECONDS, Evidence, EvidenceError, EvidenceKind, EvidenceSource, GPU_OID,
    MAX_CERTIFICATE_LEN, MAX_GPU_LEN, MAX_QUOTE_LEN, QUOTE_OID, ReportData, SNP_OID, UnixSeconds,
};
use ed25519_dalek::{Signer as _, SigningKey};
use rand::RngCore as _;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

use crate::{Clock, tls};

/// How long a certificate is valid: one day, as published nodes issue them.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// A certificate is renewed when this much or less of it is left: a third, so that a machine that cannot make
/// evidence for a while has hours to recover.
const RENEW_WHEN_LEFT: Duration = Duration::from_secs(8 * 60 * 60);
/// How often the rotation task looks at the clock, and how soon it tries again after a failure.
const ROTATION_CHECK: Duration = Duration::from_secs(60);
/// The last second that a certificate can name (9999-12-31 23:59:59).
const LAST_SECOND: u64 = 253_402_300_799;

/// The node's private key; wiped from memory when dropped.
#[derive(Clone)]
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// A fresh random key.
    #[must_use]
    pub fn generate() -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rand::rng().fill_bytes(&mut *seed);
        Self::from_seed(&seed)
    }

    /// The key of this seed (the 32-byte secret of RFC 8032).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The raw public key.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(secret)")
    }
}

/// Why a certificate could not be issued.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The machine gave no evidence.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// The certificate could not be written.
    #[error("cannot issue the node's certificate: {0}")]
    Issue(#[from] rcgen::Error),
}

/// Our key, our evidence source, and the certificate of the day.
pub struct NodeIdentity {
    key: NodeKey,
    source: Arc<dyn EvidenceSource>,
    issued: RwLock<Issued>,
}

#[derive(Clone)]
struct Issued {
    certified: Arc<CertifiedKey>,
    not_after: UnixSeconds,
}

impl NodeIdentity {
    /// Issues the first certificate. Blocks as long as the evidence source does.
    ///
    /// # Errors
    /// The source gives no evidence, or the certificate cannot be written.
    pub fn new(
        key: NodeKey,
        source: Arc<dyn EvidenceSource>,
        now: UnixSeconds,
    ) -> Result<Arc<Self>, IdentityError> {
        let issued = RwLock::new(issue(&key, source.as_ref(), now)?);
        Ok(Arc::new(Self { key, source, issued }))
    }

    /// The raw public key, by which peers know us.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.key.public_key()
    }

    /// The kind of evidence we show.
    #[must_use]
    pub fn evidence_kind(&self) -> cocoon_attest::EvidenceKind {
        self.source.kind()
    }

    /// The current certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> Vec<u8> {
        self.certified().cert.first().map_or_else(Vec::new, |der| der.to_vec())
    }

    /// When the current certificate ends.
    pub(crate) fn not_after(&self) -> UnixSeconds {
        self.current().not_after
    }

    /// Issues a new certificate if little of the current one is left (or the clock went back before it), and
    /// says whether it did. Connections that are up are not touched. Blocks as long as the evidence source
    /// does.
    ///
    /// # Errors
    /// As [`NodeIdentity::new`]; the current certificate stays in use.
    pub fn rotate_if_due(&self, now: UnixSeconds) -> Result<bool, IdentityError> {
        let left = self.current().not_after.0.saturating_sub(now.0);
        let fresh = RENEW_WHEN_LEFT.as_secs() + 1..=CERTIFICATE_LIFETIME.as_secs();
        if fresh.contains(&left) {
            return Ok(false);
        }
        let issued = issue(&self.key, self.source.as_ref(), now)?;
        *self.issued.write().unwrap_or_else(PoisonError::into_inner) = issued;
        Ok(true)
    }

    /// Certificate and key for the next handshake.
    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.current().certified
    }

    fn current(&self) -> Issued {
        self.issued.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeIdentity").field("evidence", &self.source.kind()).finish_non_exhaustive()
    }
}

/// Keeps the certificate fresh until the handle is dropped. A failure is logged and tried again a minute later.
pub fn spawn_rotation(identity: Arc<NodeIdentity>, clock: Arc<dyn Clock>) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            tokio::time::sleep(ROTATION_CHECK).await;
            let (identity, now) = (Arc::clone(&identity), clock.now());
            match tokio::task::spawn_blocking(move || identity.rotate_if_due(now)).await {
                Ok(Ok(true)) => tracing::info!("renewed the node's certificate"),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew the node's certificate; trying again"),
                Err(error) => tracing::warn!(%error, "renewing the node's certificate failed; trying again"),
            }
        }
    }))
}

fn issue(key: &NodeKey, source: &dyn EvidenceSource, now: UnixSeconds) -> Result<Issued, IdentityError> {
    let public_key = key.public_key();
    let evidence = source.evidence(&ReportData::for_key(&public_key))?;
    // Published peers allow no clock skew, so ours is allowed for here.
    let not_before =
        now.0.saturating_sub(CLOCK_SKEW_SECONDS).min(LAST_SECOND - CERTIFICATE_LIFETIME.as_secs());
    let not_after = not_before + CERTIFICATE_LIFETIME.as_secs();
    let certificate =
        certificate_params(&public_key, &evidence, not_before, not_after)?.self_signed(&RcgenKey(key))?;
    if certificate.der().len() > MAX_CERTIFICATE_LEN {
        let len = certificate.der().len();
        let reason =
            format!("the certificate with it would have {len} bytes, more than {MAX_CERTIFICATE_LEN}");
        return Err(EvidenceError { kind: evidence.kind(), reason }.into());
    }
    let certified = CertifiedKey::new(vec![certificate.der().clone()], Arc::new(TlsKey(key.clone())));
    Ok(Issued { certified: Arc::new(certified), not_after: UnixSeconds(not_after) })
}

/// The fields of a published certificate, with version 3 and without anything about the node's owner.
fn certificate_params(
    public_key: &[u8; 32],
    evidence: &Evidence,
    not_before: u64,
    not_after: u64,
) -> Result<rcgen::CertificateParams, IdentityError> {
    let mut params = rcgen::CertificateParams::default();
    let time = |second| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(second);
    (params.not_before, params.not_after) = (time(not_before), time(not_after));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "Cocoon");
    params.distinguished_name.push(rcgen::DnType::CommonName, "localhost");
    params.subject_alt_names = vec![
        rcgen::SanType::DnsName("localhost".try_into()?),
        // Not a name at all, but published diallers look for exactly this, wherever the peer really is.
        rcgen::SanType::DnsName("127.0.0.1".try_into()?),
        rcgen::SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        rcgen::SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ];
    // Brings basic constraints "no authority" and the subject key identifier.
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.custom_extensions = evidence_extensions(public_key, evidence)?;
    Ok(params)
}

/// A quote as published nodes show it, critical and with claims; a report, and evidence of GPUs, in extensions of ours
/// that others pass over.
fn evidence_extensions(
    public_key: &[u8; 32],
    evidence: &Evidence,
) -> Result<Vec<rcgen::CustomExtension>, IdentityError> {
    let mut extensions = Vec::new();
    let mut add = |oid: &[u64], content: &[u8], critical: bool, max: usize| {
        if content.len() > max {
            let reason = format!("it has {} bytes, and certificates hold {max} at most", content.len());
            return Err(EvidenceError { kind: evidence.kind(), reason });
        }
        let mut extension = rcgen::CustomExtension::from_oid_content(oid, content.to_vec());
        extension.set_criticality(critical);
        extensions.push(extension);
        Ok(())
    };
    match evidence.kind() {
        EvidenceKind::None => {}
        EvidenceKind::SevSnp => add(SNP_OID, evidence.bytes(), false, MAX_QUOTE_LEN)?,
        _ => {
            add(QUOTE_OID, evidence.bytes(), true, MAX_QUOTE_LEN)?;
            add(CLAIMS_OID, public_key, true, public_key.len())?;
        }
    }
    if let Some(gpus) = evidence.gpus() {
        add(GPU_OID, gpus, false, MAX_GPU_LEN)?;
    }
    Ok(extensions)
}

/// The node's key as the certificate writer wants it.
struct RcgenKey<'a>(&'a NodeKey);

impl rcgen::PublicKeyData for RcgenKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.0.as_ref().as_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for RcgenKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.0.0.sign(message).to_vec())
    }
}

/// The node's key as TLS wants it.
struct TlsKey(NodeKey);

impl fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsKey(secret)")
    }
}

impl rustls::sign::SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        offered
            .contains(&SignatureScheme::ED25519)
            .then(|| Box::new(Self(self.0.clone())) as Box<dyn rustls::sign::Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(tls::public_key_info(&self.0.public_key()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl rustls::sign::Signer for TlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Ok(self.0.0.sign(message).to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// Hands the certificate of the day to every handshake.
impl rustls::server::ResolvesServerCert for NodeIdentity {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }
}

impl rustls::client::ResolvesClientCert for NodeIdentity {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
