//! The encrypted way to a service.

use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::options::{OptionsError, PccsTrust};

/// Largest file with certificates, bytes.
const MAX_CA_FILE_LEN: u64 = 1 << 20;
/// Most certificates in it.
const MAX_CA_CERTIFICATES: usize = 64;

/// TLS to servers whose certificate (with those that came beside it, the server's name and the time) `takes` finds good
/// enough, where no public authority is asked. Whether the server holds the certificate's key is checked as ever.
///
/// # Errors
/// TLS cannot be set up.
pub fn tls_by<T>(takes: T) -> Result<ClientConfig, Error>
where
    T: Fn(&CertificateDer<'_>, &[CertificateDer<'_>], &ServerName<'_>, UnixTime) -> Result<(), Error>,
    T: Send + Sync + 'static,
{
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(By { takes, algorithms: provider.signature_verification_algorithms });
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// TLS to a service that meets this demand; `None` for what the public roots vouch for.
pub(crate) fn client_config(trust: &PccsTrust) -> Result<Option<ClientConfig>, OptionsError> {
    let config = match trust {
        PccsTrust::PublicRoots => return Ok(None),
        PccsTrust::CaFile(path) => {
            let wrong = |reason| OptionsError::CaFile { path: path.clone(), reason };
            let listed = read_certificates(path).map_err(wrong)?;
            let authorities = listed_roots(&listed)?;
            tls_by(move |end_entity, intermediates, name, now| {
                // Good as it stands: a self-signed server certificate is no authority in the public sense.
                if listed.contains(end_entity) {
                    return Ok(());
                }
                let authorities = authorities.as_ref();
                let authorities =
                    authorities.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
                authorities.verify_server_cert(end_entity, intermediates, name, &[], now).map(|_| ())
            })?
        }
        PccsTrust::Anybody => tls_by(|_, _, _, _| Ok(()))?,
    };
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

/// Those among the listed certificates that may vouch for others, if any may.
fn listed_roots(
    listed: &[CertificateDer<'static>],
) -> Result<Option<Arc<WebPkiServerVerifier>>, OptionsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(listed.iter().cloned());
    if roots.is_empty() {
        return Ok(None);
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let built = built.map_err(|error| Error::General(error.to_string()))?;
    Ok(Some(built))
}

/// Takes the certificates that its function takes.
struct By<T> {
    takes: T,
    algorithms: WebPkiSupportedAlgorithms,
}

impl<T> fmt::Debug for By<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("By(..)")
    }
}

impl<T> ServerCertVerifier for By<T>
where
    T: Fn(&CertificateDer<'_>, &[CertificateDer<'_>], &ServerName<'_>, UnixTime) -> Result<(), Error>,
    T: Send + Sync,
{
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        (self.takes)(end_entity, intermediates, server_name, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
