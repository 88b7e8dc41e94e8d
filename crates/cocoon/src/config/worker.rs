//! The worker's configuration; `examples/worker.toml` documents every field.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cocoon_ton::Address;
use cocoon_worker::{Bounds, DEFAULT_MAX_BODY_BYTES, FollowConfig};
use serde::{Deserialize, Serialize};

use super::RoleFile;
use super::attestation::{Attestation, CollateralFile, Shown};
use super::money::{ChainFile, WorkerMoney};
use super::shared::{DialPow, Root, address_text};
use crate::telemetry::TelemetryFile;

/// The worker's configuration as written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WorkerFile {
    /// Where operators look and steer.
    pub(crate) http: SocketAddr,
    /// Keys and counters.
    pub(crate) dir: PathBuf,
    /// Worker ports of proxies; empty: those of the root configuration.
    pub(crate) proxies: Vec<String>,
    /// Who is paid.
    #[serde(with = "address_text")]
    pub(crate) owner: Option<Address>,
    /// Full model name.
    pub(crate) model: Option<String>,
    /// The model's files, to be compared with its name: an archive or a directory.
    pub(crate) model_path: Option<PathBuf>,
    /// Price in 1/1000 of the base price.
    pub(crate) coefficient: u32,
    /// How the price moves.
    pub(crate) price: PriceFile,
    /// Requests at a time.
    pub(crate) max_active: u32,
    /// Largest body of a request.
    pub(crate) max_body_bytes: NonZeroU64,
    /// Whether to start without taking requests.
    pub(crate) paused: bool,
    /// Whether a proxy's image hash must be on the root's list.
    pub(crate) check_proxy_hashes: bool,
    /// Whether to offer protocol extensions.
    pub(crate) extensions: bool,
    /// What answers.
    pub(crate) engine: EngineFile,
    /// The root contract.
    pub(crate) root: Root,
    /// How to reach the chain.
    pub(crate) chain: ChainFile,
    /// How to settle.
    pub(crate) money: WorkerMoney,
    /// What we show and demand.
    pub(crate) attestation: Attestation,
    /// Where to fetch what verifying takes.
    pub(crate) collateral: CollateralFile,
    /// Where traces go.
    pub(crate) telemetry: TelemetryFile,
    /// Work for peers.
    pub(crate) pow: DialPow,
}

/// How the price moves.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PriceFile {
    /// Whether it follows the load; otherwise it is the coefficient.
    pub(crate) follow_load: bool,
    /// Lowest coefficient.
    pub(crate) floor: u32,
    /// Highest coefficient.
    pub(crate) ceiling: u32,
    /// A step, in percent of the price.
    pub(crate) pace_percent: f64,
    /// Seconds between steps.
    pub(crate) every_seconds: u32,
}

impl Default for PriceFile {
    fn default() -> Self {
        Self { follow_load: false, floor: 500, ceiling: 4000, pace_percent: 5.0, every_seconds: 30 }
    }
}

impl PriceFile {
    /// For the worker; `None`: the price is fixed.
    ///
    /// # Errors
    /// The pace is no percentage that a price can have.
    pub(crate) fn follow(&self) -> anyhow::Result<Option<FollowConfig>> {
        if !self.follow_load {
            return Ok(None);
        }
        if !(0.1..=50.0).contains(&self.pace_percent) {
            anyhow::bail!("price.pace_percent must be between 0.1 and 50");
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 500")]
        let pace_permille = (self.pace_percent * 10.0).round() as u32;
        let bounds = Bounds { floor: self.floor, ceiling: self.ceiling, pace_permille };
        Ok(Some(FollowConfig { bounds, every: Duration::from_secs(self.every_seconds.into()) }))
    }
}

/// What answers: one of the two.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EngineFile {
    /// An OpenAI-style HTTP server.
    pub(crate) url: Option<String>,
    /// The built-in extractive summariser.
    pub(crate) builtin: bool,
    /// What the server can do, by name, where it is not to be found out.
    pub(crate) abilities: Option<Vec<String>>,
}

impl Default for WorkerFile {
    fn default() -> Self {
        Self {
            http: SocketAddr::from(([127, 0, 0, 1], 12_000)),
            dir: "cocoon-worker".into(),
            proxies: Vec::new(),
            owner: None,
            model: None,
            model_path: None,
            coefficient: 1000,
            price: PriceFile::default(),
            max_active: 64,
            max_body_bytes: NonZeroU64::new(DEFAULT_MAX_BODY_BYTES).unwrap_or(NonZeroU64::MIN),
            paused: false,
            check_proxy_hashes: false,
            extensions: true,
            engine: EngineFile::default(),
            root: Root::default(),
            chain: ChainFile::default(),
            money: WorkerMoney::default(),
            attestation: Attestation::default(),
            collateral: CollateralFile::default(),
            telemetry: TelemetryFile::default(),
            pow: DialPow::default(),
        }
    }
}

impl RoleFile for WorkerFile {
    const ROLE: &'static str = "worker";

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
