//! Who may use a gateway, and TLS for its callers.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::bail;
use cocoon_gateway::{AccessConfig, HttpsConfig, RequireKeys};
use serde::{Deserialize, Serialize};

/// Who may use a gateway; see [`AccessConfig`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AccessFile {
    /// When callers need a key.
    pub(crate) require_keys: Keys,
    /// Names by which browsers may reach a gateway without keys, besides this machine's.
    pub(crate) allowed_hosts: Vec<String>,
    /// Origins of pages that may use it without a key, besides this machine's.
    pub(crate) allowed_origins: Vec<String>,
    /// How long usage is kept.
    pub(crate) usage_days: u32,
}

impl Default for AccessFile {
    fn default() -> Self {
        let usage_days = AccessConfig::new(PathBuf::new()).usage_days;
        Self { require_keys: Keys::Auto, allowed_hosts: Vec::new(), allowed_origins: Vec::new(), usage_days }
    }
}

/// When callers need a key; see [`RequireKeys`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Keys {
    Auto,
    Always,
    Never,
}

impl From<Keys> for RequireKeys {
    fn from(keys: Keys) -> Self {
        match keys {
            Keys::Auto => Self::Auto,
            Keys::Always => Self::Always,
            Keys::Never => Self::Never,
        }
    }
}

/// TLS for callers; see [`HttpsConfig`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TlsFile {
    /// The certificate with its chain, PEM.
    pub(crate) cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub(crate) key_file: Option<PathBuf>,
    /// Where to listen without TLS, to lead callers on.
    pub(crate) http: Option<SocketAddr>,
    /// Whose challenges are answered there.
    pub(crate) acme_dir: Option<PathBuf>,
}

impl TlsFile {
    /// What the gateway is told; `None` without TLS.
    ///
    /// # Errors
    /// Something is missing.
    pub(crate) fn https(&self) -> anyhow::Result<Option<HttpsConfig>> {
        let (cert, key) = match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => (cert.clone(), key.clone()),
            (None, None) if self.http.is_none() && self.acme_dir.is_none() => return Ok(None),
            _ => {
                bail!("TLS for callers needs both tls.cert_file and tls.key_file (--tls-cert and --tls-key)")
            }
        };
        if self.acme_dir.is_some() && self.http.is_none() {
            bail!(
                "tls.acme_dir is served at tls.http, which is missing: challenges come without TLS, to port 80"
            );
        }
        let mut https = HttpsConfig::new(cert, key);
        (https.plain, https.acme_dir) = (self.http, self.acme_dir.clone());
        Ok(Some(https))
    }
}
