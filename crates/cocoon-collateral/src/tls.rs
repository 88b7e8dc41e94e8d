//! The encrypted way to a service.

use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::options::{OptionsError, PccsTrust};

/// Largest file with certificates, bytes.
const MAX_CA_FILE_LEN: u64 = 1 << 20;
/// Most certificates in it.
const MAX_CA_CERTIFICATES: usize = 64;

/// TLS to a service that meets this demand; `None` for what the public roots vouch for.
pub(crate) fn client_config(trust: &PccsTrust) -> Result<Option<ClientConfig>, OptionsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let trusted = match trust {
        PccsTrust::PublicRoots => return Ok(None),
        PccsTrust::CaFile(path) => {
            let wrong = |reason| OptionsError::CaFile { path: path.clone(), reason };
            let certificates = read_certificates(path).map_err(wrong)?;
            let authorities = listed_roots(&certificates, &provider)?;
            Trusted::Listed { certificates, authorities }
        }
        PccsTrust::Anybody => Trusted::Anybody,
    };
    let verifier = Arc::new(Lenient { trusted, provider: Arc::clone(&provider) });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Some(config))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut pem = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_CA_FILE_LEN + 1).read_to_end(&mut pem).map_err(|error| error.to_string())?;
    if u64::try_from(pem.len()).is_ok_and(|len| len > MAX_CA_FILE_LEN) {
        return Err(format!("it is longer than {MAX_CA_FILE_LEN} bytes"));
    }
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&pem).take(MAX_CA_CERTIFICATES + 1).collect();
    match certificates {
        Ok(certificates) if certificates.len() > MAX_CA_CERTIFICATES => {
            Err(format!("it has more than {MAX_CA_CERTIFICATES} certificates"))
        }
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err("there is no certificate in PEM in it".to_owned()),
    }
}

/// Those whom a listed certificate vouches for as an authority.
fn listed_roots(
    listed: &[CertificateDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<WebPkiServerVerifier>>, OptionsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(listed.iter().cloned());
    if roots.is_empty() {
        return Ok(None);
    }
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    let built = built.map_err(|error| Error::General(error.to_string()))?;
    Ok(Some(built))
}

/// Who is good enough.
enum Trusted {
    /// Whoever answers.
    Anybody,
    Listed {
        /// Good as they stand: a self-signed server certificate is no authority in the public sense.
        certificates: Vec<CertificateDer<'static>>,
        /// Those among them that may vouch for others, if any may.
        authorities: Option<Arc<WebPkiServerVerifier>>,
    },
}

/// Takes listed certificates, those signed by a listed one, or any.
struct Lenient {
    trusted: Trusted,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Lenient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lenient(..)")
    }
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authorities = match &self.trusted {
            Trusted::Anybody => return Ok(ServerCertVerified::assertion()),
            Trusted::Listed { certificates, .. } if certificates.contains(end_entity) => {
                return Ok(ServerCertVerified::assertion());
            }
            Trusted::Listed { authorities, .. } => authorities.as_ref(),
        };
        let authorities = authorities.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
