//! What an operator can set.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::route::{INTEL_PCS, KDS, NVIDIA_OCSP, NVIDIA_RIM};

/// How a [`Fetcher`](crate::Fetcher) is to fetch and keep.
#[derive(Debug, Clone)]
pub struct FetcherOptions {
    /// A PCS or PCCS: what comes before `/sgx/certification/v4/...`. Intel's own by default, or a PCCS of one's own
    /// (`https://localhost:8081`) or of a cloud.
    pub pccs_url: String,
    /// Whose TLS certificate is good enough at `pccs_url`.
    pub pccs_trust: PccsTrust,
    /// Where the root authority's revocation list is. `None`: where Intel publishes it if `pccs_url` is Intel's (its
    /// PCS has none), otherwise at the PCCS, `/sgx/certification/v4/rootcacrl`. Some clouds' caches have none
    /// either; set [`INTEL_ROOT_CRL`](crate::INTEL_ROOT_CRL) there.
    pub root_crl_url: Option<String>,
    /// AMD's Key Distribution Service, or a mirror of it.
    pub kds_url: String,
    /// NVIDIA's service for reference measurements (RIM).
    pub nvidia_rim_url: String,
    /// NVIDIA's OCSP responder.
    pub nvidia_ocsp_url: String,
    /// The service key that NVIDIA gives to customers; its two services get it over TLS only.
    pub nvidia_key: Option<ApiKey>,
    /// Where answers are kept, or nowhere. Created for its owner alone; processes may share it.
    pub cache_dir: Option<PathBuf>,
    /// Whether nothing is fetched: what the cache has must do.
    pub offline: bool,
    /// Longest wait for a TCP and TLS connection to a service.
    pub connect_timeout: Duration,
    /// Longest time of one exchange with a service.
    pub fetch_timeout: Duration,
    /// Longest time that a caller waits, for everything that one judgement takes. Fetching goes on behind its back, for
    /// the next one. An acceptor has 10 s for TLS, this, and the judgement itself.
    pub patience: Duration,
    /// How soon after a fetch the same thing is fetched again because it was refused or had run out already, in
    /// whole seconds of the clock that is passed in.
    pub refetch_pause: Duration,
}

impl Default for FetcherOptions {
    /// The vendors' services, trusted by the public roots; no cache; 5 s to connect, 15 s to fetch, 6 s of patience, 60 s
    /// before the same is fetched again.
    fn default() -> Self {
        Self {
            pccs_url: INTEL_PCS.to_owned(),
            pccs_trust: PccsTrust::PublicRoots,
            root_crl_url: None,
            kds_url: KDS.to_owned(),
            nvidia_rim_url: NVIDIA_RIM.to_owned(),
            nvidia_ocsp_url: NVIDIA_OCSP.to_owned(),
            nvidia_key: None,
            cache_dir: None,
            offline: false,
            connect_timeout: Duration::from_secs(5),
            fetch_timeout: Duration::from_secs(15),
            patience: Duration::from_secs(6),
            refetch_pause: Duration::from_secs(60),
        }
    }
}

/// Whose TLS certificate is good enough at a PCCS. As nothing fetched is trusted, this guards privacy (which platforms
/// one asks about) and availability, not verdicts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PccsTrust {
    /// One that a public authority vouches for.
    #[default]
    PublicRoots,
    /// One in this PEM file, or signed by one in it: for a PCCS with a certificate of its own.
    CaFile(PathBuf),
    /// Anybody's: a PCCS is installed with a certificate that it made itself.
    Anybody,
}

/// A key for a service. It is never shown and zeroised when dropped.
#[derive(Clone)]
pub struct ApiKey(Zeroizing<String>);

impl ApiKey {
    /// This key.
    #[must_use]
    pub fn new(key: String) -> Self {
        Self(Zeroizing::new(key))
    }

    pub(crate) fn reveal(&self) -> &str {
        self.0.trim()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

/// Options that cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// A URL that is none of a service.
    #[error("{what}: {hint}")]
    Url {
        /// Which option.
        what: &'static str,
        /// What is wrong with it, and what to write.
        hint: &'static str,
    },
    /// The file with certificates for a PCCS.
    #[error("the PCCS's certificates in {}: {reason}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The folder of the cache.
    #[error("the folder {} for collateral: {reason}", path.display())]
    CacheDir {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: std::io::Error,
    },
    /// The key cannot be sent.
    #[error("the NVIDIA service key: {0}")]
    Key(&'static str),
    /// TLS does not work at all.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}
