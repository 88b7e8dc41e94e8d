//! The proxy's configuration; `examples/proxy.toml` documents every field.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use cocoon_net::ListenerOptions;
use cocoon_proxy::DEFAULT_MAX_BODY_BYTES;
use cocoon_ton::Address;
use serde::{Deserialize, Serialize};

use super::RoleFile;
use super::attestation::{CollateralFile, ProxyAttestation, Shown};
use super::money::{ChainFile, ProxyMoney};
use super::shared::{Root, address_text};
use crate::telemetry::TelemetryFile;

/// Bits of work asked of peers where nobody but this machine can connect: a formality.
pub(crate) const LOOPBACK_DIFFICULTY: u8 = 4;

/// The proxy's configuration as written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ProxyFile {
    /// Where operators look.
    pub(crate) http: SocketAddr,
    /// Where workers dial.
    pub(crate) listen_workers: SocketAddr,
    /// Where clients dial.
    pub(crate) listen_clients: SocketAddr,
    /// Keys and ledger.
    pub(crate) dir: PathBuf,
    /// Where coins go in the end.
    #[serde(with = "address_text")]
    pub(crate) owner: Option<Address>,
    /// Whether workers' image hashes and models must be on the root's lists.
    pub(crate) check_worker_hashes: bool,
    /// Whether a client is let in on its word where no chain can carry its registration.
    pub(crate) trust_long_authorization: bool,
    /// Whether to agree to protocol extensions.
    pub(crate) extensions: bool,
    /// The root contract.
    pub(crate) root: Root,
    /// How to reach the chain.
    pub(crate) chain: ChainFile,
    /// How to settle.
    pub(crate) money: ProxyMoney,
    /// What we show and demand.
    pub(crate) attestation: ProxyAttestation,
    /// Where to fetch what verifying takes.
    pub(crate) collateral: CollateralFile,
    /// Where traces go.
    pub(crate) telemetry: TelemetryFile,
    /// Work that peers do.
    pub(crate) pow: AcceptPow,
    /// Limits on requests, and on connections for each of the two ports.
    pub(crate) limits: Limits,
}

/// The proof of work asked of those who dial.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AcceptPow {
    /// Bits of work; none: by where we listen.
    pub(crate) difficulty: Option<u8>,
}

/// Limits on requests and connections.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    /// Largest body of a request.
    pub(crate) max_body_bytes: NonZeroU64,
    /// Connections at a time.
    pub(crate) max_connections: usize,
    /// Those at a time from one address.
    pub(crate) max_connections_per_ip: usize,
    /// Being set up at a time.
    pub(crate) max_pending: usize,
    /// Being set up at a time from one address.
    pub(crate) max_pending_per_ip: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let ListenerOptions {
            max_connections, max_connections_per_ip, max_pending, max_pending_per_ip, ..
        } = ListenerOptions::default();
        let max_body_bytes = NonZeroU64::new(DEFAULT_MAX_BODY_BYTES).unwrap_or(NonZeroU64::MIN);
        Self { max_body_bytes, max_connections, max_connections_per_ip, max_pending, max_pending_per_ip }
    }
}

impl Default for ProxyFile {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            http: loopback(11_000),
            listen_workers: loopback(11_001),
            listen_clients: loopback(11_002),
            dir: "cocoon-proxy".into(),
            owner: None,
            check_worker_hashes: false,
            trust_long_authorization: true,
            extensions: true,
            root: Root::default(),
            chain: ChainFile::default(),
            money: ProxyMoney::default(),
            attestation: ProxyAttestation::default(),
            collateral: CollateralFile::default(),
            telemetry: TelemetryFile::default(),
            pow: AcceptPow::default(),
            limits: Limits::default(),
        }
    }
}

impl RoleFile for ProxyFile {
    const ROLE: &'static str = "proxy";

    fn dir(&self) -> &Path {
        &self.dir
    }

    fn root(&self) -> &Root {
        &self.root
    }

    fn shown(&self) -> Shown {
        self.attestation.shown()
    }
}

impl ProxyFile {
    /// Limits and proof of work for both ports. Beyond loopback, the published 20 bits are asked unless configured.
    pub(crate) fn listener(&self) -> ListenerOptions {
        let Limits { max_connections, max_connections_per_ip, max_pending, max_pending_per_ip, .. } =
            self.limits;
        let mut options = ListenerOptions {
            max_connections,
            max_connections_per_ip,
            max_pending,
            max_pending_per_ip,
            ..ListenerOptions::default()
        };
        let loopback = self.listen_workers.ip().is_loopback() && self.listen_clients.ip().is_loopback();
        if let Some(difficulty) = self.pow.difficulty.or(loopback.then_some(LOOPBACK_DIFFICULTY)) {
            options.accept.difficulty = difficulty;
        }
        options
    }
}
