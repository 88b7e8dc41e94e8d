//! The gateway's configuration; `examples/gateway.toml` documents every field.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cocoon_gateway::{GatewayLimits, IdempotencyLimits, RetryLimits};
use cocoon_ton::Address;
use serde::{Deserialize, Serialize};

use super::RoleFile;
use super::access::{AccessFile, TlsFile};
use super::attestation::{CollateralFile, GatewayAttestation, Shown};
use super::money::{ChainFile, GatewayMoney};
use super::shared::{DialPow, Root, address_text};
use crate::telemetry::TelemetryFile;

/// The gateway's configuration as written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct GatewayFile {
    /// Where OpenAI clients connect.
    pub(crate) http: SocketAddr,
    /// Keys and state.
    pub(crate) dir: PathBuf,
    /// Client ports of proxies; empty: those of the root configuration.
    pub(crate) proxies: Vec<String>,
    /// Where coins go in the end.
    #[serde(with = "address_text")]
    pub(crate) owner: Option<Address>,
    /// The secret whose hash the client contract knows; none: the empty text of the published test mode.
    pub(crate) secret_file: Option<PathBuf>,
    /// Whether a proxy's image hash must be on the root's list.
    pub(crate) check_proxy_hashes: bool,
    /// Whether a worker's image hash must be on the root's list, too, where workers are judged here.
    pub(crate) check_worker_hashes: bool,
    /// Whether to offer protocol extensions.
    pub(crate) extensions: bool,
    /// The root contract.
    pub(crate) root: Root,
    /// How to reach the chain.
    pub(crate) chain: ChainFile,
    /// How to spend.
    pub(crate) money: GatewayMoney,
    /// What we show and demand.
    pub(crate) attestation: GatewayAttestation,
    /// Where to fetch what verifying takes.
    pub(crate) collateral: CollateralFile,
    /// Who may use it.
    pub(crate) access: AccessFile,
    /// TLS for callers.
    pub(crate) tls: TlsFile,
    /// Where traces go.
    pub(crate) telemetry: TelemetryFile,
    /// Work for peers.
    pub(crate) pow: DialPow,
    /// Limits on requests and connections.
    pub(crate) limits: Limits,
}

/// Limits on requests and connections; see [`GatewayLimits`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    max_body_bytes: usize,
    max_conversation_bytes: usize,
    max_upload_bytes: usize,
    max_held_bytes: usize,
    max_header_bytes: usize,
    max_answer_bytes: usize,
    pub(crate) max_connections: usize,
    header_timeout_seconds: u64,
    body_timeout_seconds: u64,
    stall_timeout_seconds: u64,
    drain_timeout_seconds: u64,
    max_attempts: u32,
    patience_seconds: u64,
    retry_budget_percent: u32,
    retry_budget_floor: u32,
    /// 0: never.
    hedge_after_ms: u64,
    idempotency_hours: u64,
    idempotency_entries: usize,
    idempotency_bytes: usize,
    idempotency_answer_bytes: usize,
    default_max_tokens: u32,
    default_max_coefficient: u32,
    default_timeout_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let limits = GatewayLimits::default();
        Self {
            max_body_bytes: limits.max_body_bytes,
            max_conversation_bytes: limits.max_conversation_bytes,
            max_upload_bytes: limits.max_upload_bytes,
            max_held_bytes: limits.max_held_bytes,
            max_header_bytes: limits.max_header_bytes,
            max_answer_bytes: limits.max_answer_bytes,
            max_connections: limits.max_connections,
            header_timeout_seconds: limits.header_timeout.as_secs(),
            body_timeout_seconds: limits.body_timeout.as_secs(),
            stall_timeout_seconds: limits.stall_timeout.as_secs(),
            drain_timeout_seconds: limits.drain_timeout.as_secs(),
            max_attempts: limits.retry.max_attempts,
            patience_seconds: limits.retry.patience.as_secs(),
            retry_budget_percent: limits.retry.budget_percent,
            retry_budget_floor: limits.retry.budget_floor,
            hedge_after_ms: 0,
            idempotency_hours: limits.idempotency.time.as_secs() / 3600,
            idempotency_entries: limits.idempotency.entries,
            idempotency_bytes: limits.idempotency.bytes,
            idempotency_answer_bytes: limits.idempotency.answer_bytes,
            default_max_tokens: limits.default_max_tokens,
            default_max_coefficient: limits.default_max_coefficient,
            default_timeout_seconds: limits.default_timeout.as_secs(),
        }
    }
}

impl From<Limits> for GatewayLimits {
    fn from(limits: Limits) -> Self {
        Self {
            max_body_bytes: limits.max_body_bytes,
            max_conversation_bytes: limits.max_conversation_bytes,
            max_upload_bytes: limits.max_upload_bytes,
            max_held_bytes: limits.max_held_bytes,
            max_header_bytes: limits.max_header_bytes,
            max_answer_bytes: limits.max_answer_bytes,
            max_connections: limits.max_connections,
            header_timeout: Duration::from_secs(limits.header_timeout_seconds),
            body_timeout: Duration::from_secs(limits.body_timeout_seconds),
            stall_timeout: Duration::from_secs(limits.stall_timeout_seconds),
            drain_timeout: Duration::from_secs(limits.drain_timeout_seconds),
            retry: RetryLimits {
                max_attempts: limits.max_attempts,
                patience: Duration::from_secs(limits.patience_seconds),
                budget_percent: limits.retry_budget_percent,
                budget_floor: limits.retry_budget_floor,
                hedge_after: (limits.hedge_after_ms > 0)
                    .then(|| Duration::from_millis(limits.hedge_after_ms)),
            },
            idempotency: IdempotencyLimits {
                time: Duration::from_secs(limits.idempotency_hours.saturating_mul(3600)),
                entries: limits.idempotency_entries,
                bytes: limits.idempotency_bytes,
                answer_bytes: limits.idempotency_answer_bytes,
            },
            default_max_tokens: limits.default_max_tokens,
            default_max_coefficient: limits.default_max_coefficient,
            default_timeout: Duration::from_secs(limits.default_timeout_seconds),
        }
    }
}

impl Default for GatewayFile {
    fn default() -> Self {
        Self {
            http: SocketAddr::from(([127, 0, 0, 1], 10_000)),
            dir: "cocoon-gateway".into(),
            proxies: Vec::new(),
            owner: None,
            secret_file: None,
            check_proxy_hashes: false,
            check_worker_hashes: false,
            extensions: true,
            root: Root::default(),
            chain: ChainFile::default(),
            money: GatewayMoney::default(),
            attestation: GatewayAttestation::default(),
            collateral: CollateralFile::default(),
            access: AccessFile::default(),
            tls: TlsFile::default(),
            telemetry: TelemetryFile::default(),
            pow: DialPow::default(),
            limits: Limits::default(),
        }
    }
}

impl RoleFile for GatewayFile {
    const ROLE: &'static str = "gateway";

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
