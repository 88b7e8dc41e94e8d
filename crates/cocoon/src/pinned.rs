//! TLS to a gateway: by the certificate that lies beside it, or by the authorities that browsers trust.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use hyper_rustls::ConfigBuilderExt as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::config::read_text;

/// Largest file of certificates, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Settings for a client: `certificate` is the one file whose first certificate the server must show.
///
/// # Errors
/// The file holds none.
pub(crate) fn tls(certificate: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let Some(path) = certificate else { return Ok(builder.with_webpki_roots().with_no_client_auth()) };
    let text = read_text(path, MAX_FILE_BYTES).with_context(|| format!("cannot read {}", path.display()))?;
    let Some(Ok(expected)) = CertificateDer::pem_slice_iter(text.as_bytes()).next() else {
        bail!("{} holds no certificate in PEM form", path.display());
    };
    let verifier = Arc::new(Pinned { expected, provider });
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Takes one certificate and no other: stricter than any authority, so names and dates say nothing more.
#[derive(Debug)]
struct Pinned {
    expected: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.expected {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::General("the gateway shows another certificate than the one in tls.cert_file".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
