//! What a gateway needs to know, and the limits that it keeps.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cocoon_net::DialOptions;
use cocoon_openai::{
    BodyForm, DEFAULT_MAX_COEFFICIENT, DEFAULT_MAX_TOKENS, DEFAULT_TIMEOUT_SECONDS, Endpoint, RequestDefaults,
};
use cocoon_ton::Address;
use cocoon_trace::Tracing;
use zeroize::Zeroizing;

use crate::access::AccessConfig;
use crate::attestation::WorkerDemands;
use crate::https::HttpsConfig;
use crate::idempotency::IdempotencyLimits;
use crate::settle::{MIN_SECRET_BYTES, SettlementConfig};

/// Bytes of a request that are left for its headers and framing beside the body.
pub(crate) const HEADER_ALLOWANCE_BYTES: usize = 64 * 1024;
/// The longest that a request or its body can be given.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(86_400);
/// The most that a limit on bodies can be set to, in bytes.
const LARGEST_BODY_BYTES: usize = 1 << 30;

/// What a gateway needs to know.
#[derive(Clone)]
pub struct GatewayConfig {
    /// Where to listen for HTTP.
    pub http: SocketAddr,
    /// `host:port` of proxies' client ports. Empty: those that the root configuration registers.
    pub proxies: Vec<String>,
    /// The client's wallet, by which proxies know it.
    pub wallet: Address,
    /// Proves to a proxy, by its hash on chain, that we are this client.
    pub secret: Zeroizing<Vec<u8>>,
    /// The root contract.
    pub root_address: Address,
    /// Whether the network is a test network.
    pub is_test: bool,
    /// Whether addresses are written in the testnet form.
    pub is_testnet: bool,
    /// Whether to offer our protocol extensions (cancel, credit). Published proxies ignore the offer.
    pub extensions: bool,
    /// Let in only proxies whose image hash the root configuration lists, also as that list changes. Needs a policy
    /// that asks for evidence.
    pub check_proxy_hashes: bool,
    /// What is demanded of workers; their evidence is then judged here, whatever proxies say, and proxies that cannot be
    /// told which workers may see requests are not used. Needs [`Self::extensions`]. `None`: proxies see to it.
    pub workers: Option<WorkerDemands>,
    /// How to dial proxies.
    pub dial: DialOptions,
    /// SQLite file that remembers the proxies' counters and what was disputed.
    pub store: PathBuf,
    /// How to pay; its wallet must be [`Self::wallet`]. `None` for a chain on which nothing moves.
    pub settlement: Option<SettlementConfig>,
    /// Who may use the gateway.
    pub access: AccessConfig,
    /// TLS for callers.
    pub https: Option<HttpsConfig>,
    /// Limits on requests and connections.
    pub limits: GatewayLimits,
    /// Where to write down what becomes of requests. `None`: nowhere.
    pub tracing: Option<Tracing>,
}

impl GatewayConfig {
    /// Says what of the settlement makes no sense.
    pub(crate) fn check_settlement(&self) -> Result<(), String> {
        let Some(settlement) = &self.settlement else { return Ok(()) };
        let wallet = settlement.wallet.address();
        if wallet != self.wallet {
            return Err(format!("it pays from {wallet}, but proxies are told the wallet {}", self.wallet));
        }
        if settlement.key.verifying_key().as_bytes() != settlement.wallet.public_key() {
            return Err(format!("its key is not that of the wallet {wallet}"));
        }
        if self.secret.len() < MIN_SECRET_BYTES {
            return Err(format!(
                "whoever knows the client's secret can spend the channels' coins; it needs at least \
                 {MIN_SECRET_BYTES} random bytes, not {}",
                self.secret.len()
            ));
        }
        if settlement.poll.is_zero() {
            return Err("poll must be above 0".to_owned());
        }
        Ok(())
    }
}

impl std::fmt::Debug for GatewayConfig {
    /// All but the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayConfig")
            .field("http", &self.http)
            .field("proxies", &self.proxies)
            .field("wallet", &self.wallet)
            .field("root_address", &self.root_address)
            .field("is_test", &self.is_test)
            .field("extensions", &self.extensions)
            .field("check_proxy_hashes", &self.check_proxy_hashes)
            .field("workers", &self.workers)
            .field("store", &self.store)
            .field("settlement", &self.settlement)
            .field("access", &self.access)
            .field("https", &self.https)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Limits on requests and connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatewayLimits {
    /// Largest request body, in bytes; 8 MiB. A request over it gets 413. Conversations and forms have limits of their own.
    pub max_body_bytes: usize,
    /// Largest request body of chat, responses and messages, in bytes; 32 MiB, because of images and sound in it.
    pub max_conversation_bytes: usize,
    /// Largest form with files, in bytes; 64 MiB.
    pub max_upload_bytes: usize,
    /// Bodies above 64 KiB of all requests under way together, in bytes; 256 MiB. Beyond that, large requests get 429. A
    /// body is held up to three times while it is passed on.
    pub max_held_bytes: usize,
    /// Largest request head, in bytes; 32 KiB, at least 8 KiB. A larger one gets 431.
    pub max_header_bytes: usize,
    /// Largest answer that is held in memory until its price is known, in bytes; 16 MiB. A larger one that is not streamed
    /// passes unread, without its price.
    pub max_answer_bytes: usize,
    /// HTTP connections at a time; 16,384. When all are taken, the one that has idled longest makes room; where none idles,
    /// more wait in the system's queue.
    pub max_connections: usize,
    /// For the whole head of a request, also the longest that a connection may idle between two; 30 s.
    pub header_timeout: Duration,
    /// For the body of a request; 60 s. Each 64 KiB that come give a second of it back.
    pub body_timeout: Duration,
    /// How long a caller may read nothing while an answer waits for it; 120 s.
    pub stall_timeout: Duration,
    /// How long a shutdown waits for requests under way; 10 s.
    pub drain_timeout: Duration,
    /// When a request that failed is sent again, and when it is sent twice.
    pub retry: RetryLimits,
    /// How many answers are kept for requests with an `Idempotency-Key`.
    pub idempotency: IdempotencyLimits,
    /// Limit on each choice of an answer, in tokens, where the request names none; 4096. It is written into the body,
    /// so that a reservation binds.
    pub default_max_tokens: u32,
    /// Highest price coefficient, in thousandths, where the request names none; 4000, as published.
    pub default_max_coefficient: u32,
    /// Deadline where the request names none; 120 s, as published.
    pub default_timeout: Duration,
}

/// When a request that has no answer yet is sent again, and when it is sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryLimits {
    /// Attempts that may have reached a worker, for one request; 3, at least 1.
    pub max_attempts: u32,
    /// How long a request waits for a proxy and a worker to come back where there are none now; 10 s, and never beyond its
    /// deadline. 0: it fails at once.
    pub patience: Duration,
    /// Second attempts of all requests together, in percent of the requests; 20.
    pub budget_percent: u32,
    /// Second attempts per second that there may be however few requests there are; 10.
    pub budget_floor: u32,
    /// A request without the first byte of its answer after this time is sent a second time, and the first answer counts.
    /// `None`: only where its caller asks for that. Both attempts may cost.
    pub hedge_after: Option<Duration>,
}

impl Default for RetryLimits {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            patience: Duration::from_secs(10),
            budget_percent: 20,
            budget_floor: 10,
            hedge_after: None,
        }
    }
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            max_body_bytes: 8 << 20,
            max_conversation_bytes: 32 << 20,
            max_upload_bytes: 64 << 20,
            max_held_bytes: 256 << 20,
            max_header_bytes: 32 << 10,
            max_answer_bytes: 16 << 20,
            max_connections: 16_384,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(120),
            drain_timeout: Duration::from_secs(10),
            retry: RetryLimits::default(),
            idempotency: IdempotencyLimits::default(),
            default_max_tokens: DEFAULT_MAX_TOKENS.unsigned_abs(),
            default_max_coefficient: DEFAULT_MAX_COEFFICIENT.unsigned_abs(),
            default_timeout: Duration::from_secs(DEFAULT_TIMEOUT_SECONDS),
        }
    }
}

impl GatewayLimits {
    fn of_bodies(&self) -> [(&'static str, usize); 3] {
        [
            ("max_body_bytes", self.max_body_bytes),
            ("max_conversation_bytes", self.max_conversation_bytes),
            ("max_upload_bytes", self.max_upload_bytes),
        ]
    }

    /// How much of the room for bodies one key may have: half of it, and at least one body of any kind.
    pub(crate) fn held_bytes_of_a_key(&self) -> usize {
        self.of_bodies().into_iter().map(|(_, limit)| limit).fold(self.max_held_bytes / 2, usize::max)
    }

    /// Says which limit makes no sense.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (name, limit) in self.of_bodies() {
            if limit == 0 || limit > LARGEST_BODY_BYTES {
                return Err(format!("{name} must be 1 to {LARGEST_BODY_BYTES}, not {limit}"));
            }
            if limit > self.max_held_bytes {
                return Err(format!("{name} must be at most max_held_bytes, {}", self.max_held_bytes));
            }
        }
        if self.max_header_bytes < 8 << 10 || self.max_header_bytes > HEADER_ALLOWANCE_BYTES / 2 {
            let largest = HEADER_ALLOWANCE_BYTES / 2;
            return Err(format!("max_header_bytes must be 8192 to {largest}, not {}", self.max_header_bytes));
        }
        if self.max_connections == 0 || self.max_connections > 1 << 20 {
            return Err(format!("max_connections must be 1 to 1048576, not {}", self.max_connections));
        }
        if i32::try_from(self.default_max_tokens).is_err() || self.default_max_tokens == 0 {
            return Err("default_max_tokens must be 1 to 2147483647".to_owned());
        }
        if self.default_max_coefficient > 999_999_999 {
            return Err("default_max_coefficient must be at most 999999999".to_owned());
        }
        if !(1..=16).contains(&self.retry.max_attempts) {
            return Err(format!("max_attempts must be 1 to 16, not {}", self.retry.max_attempts));
        }
        if self.retry.budget_percent > 1000 || self.retry.budget_floor > 10_000 {
            return Err(
                "retry_budget_percent must be at most 1000 and retry_budget_floor at most 10000".to_owned()
            );
        }
        if self.idempotency.answer_bytes > self.idempotency.bytes {
            return Err("idempotency_answer_bytes must be at most idempotency_bytes".to_owned());
        }
        // Moments are reckoned from these.
        for (name, time) in [("body_timeout", self.body_timeout), ("default_timeout", self.default_timeout)] {
            if time > LONGEST_TIMEOUT {
                return Err(format!("{name} must be at most {} seconds", LONGEST_TIMEOUT.as_secs()));
            }
        }
        if self.default_timeout.is_zero() {
            return Err("default_timeout must be above 0".to_owned());
        }
        Ok(())
    }

    /// Largest body of a request to an endpoint, in bytes.
    pub(crate) fn body_bytes(&self, endpoint: Endpoint) -> usize {
        match endpoint.counted() {
            Endpoint::Chat | Endpoint::Responses | Endpoint::Messages => self.max_conversation_bytes,
            _ if endpoint.form() == BodyForm::Multipart => self.max_upload_bytes,
            _ => self.max_body_bytes,
        }
    }

    pub(crate) fn request_defaults(&self) -> RequestDefaults {
        RequestDefaults {
            max_tokens: i32::try_from(self.default_max_tokens).unwrap_or(i32::MAX),
            max_coefficient: i32::try_from(self.default_max_coefficient).unwrap_or(i32::MAX),
            timeout: self.default_timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cocoon_settle::client::ClientPolicy;
    use cocoon_ton::{SigningKey, Wallet};

    use super::*;

    #[test]
    fn a_limit_that_makes_no_sense_is_named() {
        assert_eq!(GatewayLimits::default().check(), Ok(()));
        let refused = |change: fn(&mut GatewayLimits)| {
            let mut limits = GatewayLimits::default();
            change(&mut limits);
            limits.check().unwrap_err()
        };
        assert!(refused(|limits| limits.max_upload_bytes = (1 << 30) + 1).contains("max_upload_bytes"));
        assert!(refused(|limits| limits.max_conversation_bytes = 0).contains("max_conversation_bytes"));
        assert!(refused(|limits| limits.max_held_bytes = 1 << 20).contains("max_held_bytes"));
        assert!(refused(|limits| limits.max_body_bytes = 0).contains("max_body_bytes"));
        assert!(refused(|limits| limits.max_header_bytes = 1).contains("max_header_bytes"));
        assert!(refused(|limits| limits.max_connections = 0).contains("max_connections"));
        assert!(refused(|limits| limits.retry.max_attempts = 0).contains("max_attempts"));
        assert!(refused(|limits| limits.retry.budget_percent = 1001).contains("retry_budget_percent"));
        assert!(refused(|limits| limits.default_max_tokens = u32::MAX).contains("default_max_tokens"));
        assert!(refused(|limits| limits.default_timeout = Duration::ZERO).contains("default_timeout"));
        assert!(refused(|limits| limits.body_timeout = Duration::MAX).contains("body_timeout"));
    }

    #[test]
    fn each_kind_of_request_has_its_own_limit() {
        let limits = GatewayLimits {
            max_body_bytes: 1,
            max_conversation_bytes: 2,
            max_upload_bytes: 3,
            ..GatewayLimits::default()
        };
        for (endpoint, bytes) in [
            (Endpoint::Embeddings, 1),
            (Endpoint::Completions, 1),
            (Endpoint::Chat, 2),
            (Endpoint::Messages, 2),
            (Endpoint::Responses, 2),
            (Endpoint::CountTokens, 2),
            (Endpoint::InputTokens, 2),
            (Endpoint::Transcriptions, 3),
            (Endpoint::ImageEdits, 3),
        ] {
            assert_eq!(limits.body_bytes(endpoint), bytes, "{endpoint}");
        }
    }

    #[test]
    fn a_settlement_that_makes_no_sense_is_refused_in_words_and_shows_no_secret() {
        let key = SigningKey::from_bytes(&[0xab; 32]);
        let wallet = Wallet::cocoon(key.verifying_key().to_bytes(), Address::basechain([1; 32]));
        let good = GatewayConfig {
            tracing: None,
            http: ([127, 0, 0, 1], 0).into(),
            proxies: Vec::new(),
            wallet: wallet.address(),
            secret: Zeroizing::new(b"sixteen or more!".to_vec()),
            root_address: Address::basechain([2; 32]),
            is_test: true,
            is_testnet: false,
            extensions: true,
            check_proxy_hashes: false,
            workers: None,
            dial: DialOptions { max_difficulty: 8, timeout: Duration::from_secs(1) },
            store: PathBuf::new(),
            settlement: Some(SettlementConfig {
                wallet,
                key,
                policy: ClientPolicy::default(),
                poll: Duration::from_secs(1),
                min_pause: Duration::from_millis(20),
            }),
            access: AccessConfig::new(PathBuf::new()),
            https: None,
            limits: GatewayLimits::default(),
        };
        assert_eq!(good.check_settlement(), Ok(()));
        let shown = format!("{good:?}");
        assert!(
            !shown.contains("sixteen") && !shown.contains("171, 171") && !shown.contains("abab"),
            "{shown}"
        );
        let refused = |change: fn(&mut GatewayConfig, &mut SettlementConfig)| {
            let mut config = good.clone();
            let mut settlement = config.settlement.take().unwrap();
            change(&mut config, &mut settlement);
            config.settlement = Some(settlement);
            config.check_settlement().unwrap_err()
        };
        assert!(refused(|config, _| config.wallet = Address::basechain([9; 32])).contains("pays from"));
        assert!(refused(|config, _| config.secret = Zeroizing::default()).contains("secret"));
        assert!(
            refused(|_, settlement| settlement.key = SigningKey::from_bytes(&[1; 32]))
                .contains("not that of")
        );
        assert!(refused(|_, settlement| settlement.poll = Duration::ZERO).contains("poll"));
    }
}
