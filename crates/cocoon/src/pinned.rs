//! TLS to a gateway: by the certificate that lies beside it, or by the authorities that browsers trust.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use cocoon_collateral::tls_by;
use hyper_rustls::ConfigBuilderExt as _;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, Error};

use crate::config::read_text;

/// Largest file of certificates, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Settings for a client: `certificate` is the one file whose first certificate the server must show.
///
/// # Errors
/// The file holds none.
pub(crate) fn tls(certificate: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let Some(path) = certificate else {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        return Ok(builder.with_webpki_roots().with_no_client_auth());
    };
    let text = read_text(path, MAX_FILE_BYTES).with_context(|| format!("cannot read {}", path.display()))?;
    let Some(Ok(expected)) = CertificateDer::pem_slice_iter(text.as_bytes()).next() else {
        bail!("{} holds no certificate in PEM form", path.display());
    };
    // That one and no other: stricter than any authority, so names and dates say nothing more.
    Ok(tls_by(move |shown, _, _, _| {
        if *shown == expected {
            return Ok(());
        }
        Err(Error::General("the gateway shows another certificate than the one in tls.cert_file".to_owned()))
    })?)
}
