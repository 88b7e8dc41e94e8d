//! Who may use this gateway: API keys, their limits and budgets, and what was used.
//!
//! The rules are `cocoon-access`' ([`cocoon_access::Desk`]); here are the clock, the store and HTTP. A request comes past
//! the [`door`] (whose is it, and may a browser's page send it), gets a [`Pass`] for as long as it lasts, and sets coins
//! aside for each attempt ([`holds`]). Operators use the [`admin`] API.
//!
//! One lock guards all keys; each step of a request holds it for a microsecond. What changes is written in groups like the
//! proxies' counters ([`crate::book`]): `kill -9` loses at most the newest group. Coins set aside count as spent
//! after that, so what is lost is never to the payer's disadvantage. What an operator changes is durable when he is told.

mod admin;
mod door;
mod holds;
mod keeper;
mod offline;
mod pass;
mod refusal;
mod scope;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cocoon_access::{Counts, Desk, KeyId, KeySecret, Moment};
use cocoon_net::MonotonicClock;
use cocoon_store::SqliteStore;
use zeroize::Zeroizing;

pub(crate) use door::{Visitor, enter, is_preflight, preflight};
pub(crate) use keeper::TIDY_EVERY;
pub use offline::{OfflineKeys, OfflineReply};
pub(crate) use pass::Pass;
pub(crate) use refusal::{Limits, error_of, stamp_error};
pub(crate) use scope::Scope;

use admin::Slowly;
use holds::Holds;

/// Longest that usage is kept where nothing else is configured, in days.
const DEFAULT_USAGE_DAYS: u32 = 400;
/// Stands in metrics for the keys beyond those that are told apart.
const OTHER_KEYS: &str = "other";
/// Shortest admin token, in bytes.
const MIN_TOKEN_BYTES: usize = 32;

/// When callers need a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequireKeys {
    /// On every address but loopback ones.
    #[default]
    Auto,
    /// Always; for a gateway on loopback behind a server that the world reaches.
    Always,
    /// Never; only on loopback.
    Never,
}

/// Who may use a gateway.
#[derive(Clone)]
pub struct AccessConfig {
    /// SQLite file with the keys and what was used.
    pub store: PathBuf,
    /// When callers need a key.
    pub require_keys: RequireKeys,
    /// Names by which browsers may reach a gateway that needs no key, besides those of this machine.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may use a gateway without a key, besides those of this machine: `https://app.example`.
    pub allowed_origins: Vec<String>,
    /// What opens `/admin`; without it there is no such thing. At least 32 bytes.
    pub admin_token: Option<Zeroizing<String>>,
    /// How long usage is kept, in days.
    pub usage_days: u32,
}

impl AccessConfig {
    /// Keys in this file, and nothing out of the ordinary.
    #[must_use]
    pub fn new(store: PathBuf) -> Self {
        Self {
            store,
            require_keys: RequireKeys::Auto,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            admin_token: None,
            usage_days: DEFAULT_USAGE_DAYS,
        }
    }
}

impl std::fmt::Debug for AccessConfig {
    /// All but the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessConfig")
            .field("store", &self.store)
            .field("require_keys", &self.require_keys)
            .field("allowed_hosts", &self.allowed_hosts)
            .field("allowed_origins", &self.allowed_origins)
            .field("admin", &self.admin_token.is_some())
            .field("usage_days", &self.usage_days)
            .finish()
    }
}

impl AccessConfig {
    /// Says what makes no sense on this address.
    pub(crate) fn check(&self, http: SocketAddr) -> Result<(), String> {
        if self.require_keys == RequireKeys::Never && !http.ip().is_loopback() {
            return Err(format!(
                "require_keys = \"never\" would let everybody who reaches {http} spend this gateway's balance; listen on a \
                 loopback address, or leave require_keys away"
            ));
        }
        if self.admin_token.as_ref().is_some_and(|token| token.len() < MIN_TOKEN_BYTES) {
            return Err(format!("the admin token needs at least {MIN_TOKEN_BYTES} bytes"));
        }
        if self.usage_days == 0 || self.usage_days > 3660 {
            return Err(format!("usage_days must be 1 to 3660, not {}", self.usage_days));
        }
        if let Some(origin) = self.allowed_origins.iter().find(|origin| !door::is_origin(origin)) {
            return Err(format!(
                "{origin:?} is no origin of a web page; one is written https://app.example, without a path"
            ));
        }
        Ok(())
    }

    fn keys_needed(&self, http: SocketAddr) -> bool {
        match self.require_keys {
            RequireKeys::Always => true,
            RequireKeys::Auto => !http.ip().is_loopback(),
            RequireKeys::Never => false,
        }
    }
}

/// All that has to do with who may do what.
pub(crate) struct Access {
    desk: Mutex<Desk>,
    holds: Mutex<Holds>,
    store: Arc<SqliteStore>,
    clock: MonotonicClock,
    config: AccessConfig,
    /// Every request needs a key.
    keys_needed: bool,
    /// Answers to wrong admin tokens.
    slowly: Slowly,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Access {
    pub(crate) fn now(&self) -> Moment {
        Moment(self.clock.micros())
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        // No code panics while it holds the lock, and the desk is whole at every step.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holds(&self) -> MutexGuard<'_, Holds> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each key used since the start, as `cocoon keys` names it by its id.
    pub(crate) fn sums(&self) -> Vec<(String, Counts)> {
        let desk = self.desk();
        let name = |key: Option<KeyId>| key.map_or_else(|| OTHER_KEYS.to_owned(), |key| key.to_string());
        desk.sums().map(|(key, counts)| (name(key), *counts)).collect()
    }

    /// Until days' budgets begin anew.
    fn seconds_to_midnight(&self) -> u64 {
        self.now().seconds_to_midnight()
    }

    /// Why this gateway must not listen yet.
    pub(crate) fn why_not_open(&self, http: SocketAddr) -> Option<String> {
        if !self.keys_needed || self.desk().has_usable_keys(self.now()) {
            return None;
        }
        Some(format!(
            "callers at {http} need a key, and there is none yet. Make one, which is shown once: \
             `cocoon keys add NAME`, with the same --config (or --dir) as the gateway's"
        ))
    }
}

/// 256 random bits as a key.
fn new_secret() -> KeySecret {
    KeySecret::from_random(rand::random())
}
