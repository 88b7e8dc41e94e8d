//! TLS for callers: the certificate that a browser or a client checks, not the evidence that nodes show one another.
//!
//! The files are read again when they change, so whatever renews them (certbot, lego) need not tell anybody. Files that
//! cannot be used stop a start; later, what was good stays in use, and the log says why.

mod files;
mod plain;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

pub use files::HttpsError;
pub(crate) use plain::serve_plain;

use files::Fingerprint;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What a client is told that we speak.
const ALPN: &[u8] = b"http/1.1";

/// TLS on the HTTP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsConfig {
    /// The certificate and those between it and its root, PEM.
    pub cert_file: PathBuf,
    /// Its key, PEM; readable by its owner (and group) alone.
    pub key_file: PathBuf,
    /// Where to listen without TLS, for what is below.
    pub plain: Option<SocketAddr>,
    /// Directory whose `.well-known/acme-challenge/` is served there, for whoever issues certificates (RFC 8555 §8.3).
    /// Everything else is led to the address with TLS.
    pub acme_dir: Option<PathBuf>,
    /// How often the files are looked at; 5 s.
    pub look_every: Duration,
    /// How long a handshake may take; 10 s.
    pub handshake_timeout: Duration,
}

impl HttpsConfig {
    /// With these files, and nothing without TLS.
    #[must_use]
    pub fn new(cert_file: PathBuf, key_file: PathBuf) -> Self {
        Self {
            cert_file,
            key_file,
            plain: None,
            acme_dir: None,
            look_every: LOOK_EVERY,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// The certificate that is shown now.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// TLS, ready for connections.
#[derive(Debug)]
pub(crate) struct Https {
    config: HttpsConfig,
    current: Arc<Current>,
    seen: Fingerprint,
    pub(crate) server: Arc<ServerConfig>,
}

impl Https {
    /// Reads the files. Waits for the disk.
    pub(crate) fn open(config: HttpsConfig) -> Result<Self, HttpsError> {
        let (seen, key) = files::load(&config)?;
        let current = Arc::new(Current(RwLock::new(Arc::new(key))));
        let mut server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| HttpsError::Tls(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        server.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { config, current, seen, server: Arc::new(server) })
    }

    pub(crate) fn handshake_timeout(&self) -> Duration {
        self.config.handshake_timeout
    }
}

/// Takes new files as they come, until `stop`.
pub(crate) async fn keep_fresh(https: Arc<Https>, stop: CancellationToken) {
    // What was tried last, good or bad: each version of the files is tried, and complained about, once.
    let mut tried = https.seen;
    loop {
        tokio::select! {
            () = tokio::time::sleep(https.config.look_every) => {}
            () = stop.cancelled() => return,
        }
        let config = https.config.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let seen = files::fingerprint(&config);
            (seen != tried).then(|| (seen, files::load(&config)))
        });
        // A look that panicked, or a runtime that ends, leaves things as they are.
        let Ok(Some((seen, loaded))) = looked.await else { continue };
        tried = seen;
        match loaded {
            Ok((loaded, key)) => {
                tried = loaded;
                *https.current.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
                tracing::info!(file = %https.config.cert_file.display(), "took the new certificate");
            }
            Err(error) => tracing::error!(%error, "the new certificate cannot be used; the old one stays"),
        }
    }
}
