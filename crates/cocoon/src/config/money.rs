//! How a role reaches the chain, and how it settles there.

use std::path::PathBuf;
use std::time::Duration;

use cocoon_settle::client::ClientPolicy;
use cocoon_settle::proxy::ProxyPolicy;
use cocoon_settle::worker::WorkerPolicy;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::amount;

/// Coins as text: `"1.5 TON"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Coins(pub(crate) u64);

impl Serialize for Coins {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&cocoon_ledger::Nanoton(self.0))
    }
}

impl<'de> Deserialize<'de> for Coins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        amount::parse(&text).map(|amount| Self(amount.nano())).map_err(de::Error::custom)
    }
}

/// The chain, as all roles reach it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ChainFile {
    /// A server with toncenter's HTTP API; none: a fixed root configuration, and nothing moves.
    pub(crate) url: Option<String>,
    /// A private file with the server's API key.
    pub(crate) api_key_file: Option<PathBuf>,
    /// Requests to it in a second; none: as its rules have it.
    pub(crate) requests_per_second: Option<f64>,
    /// Seconds between two looks at the chain.
    pub(crate) poll_seconds: Option<u32>,
}

impl ChainFile {
    /// Whether the server is on this machine, where nobody counts requests.
    fn is_local(&self) -> bool {
        // An embedded chain of this process has no URL.
        self.url.as_ref().is_none_or(|url| {
            let uri = url.parse::<http::Uri>().ok();
            let host = uri.as_ref().and_then(http::Uri::host).map(|host| host.trim_matches(['[', ']']));
            host.is_some_and(|host| {
                host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
            })
        })
    }

    /// How often to look without being told to.
    pub(crate) fn poll(&self) -> Duration {
        let seconds = self.poll_seconds.unwrap_or(if self.is_local() { 1 } else { 15 });
        Duration::from_secs(seconds.max(1).into())
    }

    /// Least time between two rounds.
    pub(crate) fn min_pause(&self) -> Duration {
        if self.is_local() { Duration::from_millis(20) } else { Duration::from_secs(1) }
    }
}

/// How a gateway spends.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct GatewayMoney {
    /// What is paid in at a proxy; none: the least that the root allows.
    deposit: Option<Coins>,
    /// What may ever be paid in; none: one deposit.
    budget: Option<Coins>,
    /// Pay in more below this share of the deposit, in percent.
    top_up_below_percent: u64,
    /// Whether a proxy must have the stake that the root asks for.
    require_proxy_stake: bool,
}

impl Default for GatewayMoney {
    fn default() -> Self {
        let policy = ClientPolicy::default();
        Self {
            deposit: None,
            budget: None,
            top_up_below_percent: policy.top_up_below_percent,
            require_proxy_stake: policy.require_proxy_stake,
        }
    }
}

impl GatewayMoney {
    /// With a deposit and a budget, in nanoton.
    pub(crate) fn spending(deposit: u64, budget: u64) -> Self {
        Self { deposit: Some(Coins(deposit)), budget: Some(Coins(budget)), ..Self::default() }
    }

    /// The policy under a root that asks for this stake, in nanoton.
    pub(crate) fn policy(&self, min_stake: u64) -> ClientPolicy {
        let deposit_nanoton = self.deposit.map_or(min_stake, |deposit| deposit.0.max(min_stake));
        ClientPolicy {
            deposit_nanoton,
            budget_nanoton: self.budget.map_or(deposit_nanoton, |budget| budget.0),
            top_up_below_percent: self.top_up_below_percent.min(100),
            require_proxy_stake: self.require_proxy_stake,
            ..ClientPolicy::default()
        }
    }
}

/// How a proxy settles.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ProxyMoney {
    /// Stake beyond what the root asks for.
    extra_stake: Coins,
    /// Charge a client at this share of what may stay uncharged, in percent.
    charge_at_percent: u64,
    /// Take the earnings from so many on.
    withdraw_at: Coins,
    /// Commit the books at least this often while they move, in seconds.
    commit_every_seconds: u64,
}

impl Default for ProxyMoney {
    fn default() -> Self {
        let policy = ProxyPolicy::default();
        Self {
            extra_stake: Coins(policy.extra_stake_nanoton),
            charge_at_percent: policy.charge_at_percent,
            withdraw_at: Coins(policy.withdraw_at_nanoton),
            commit_every_seconds: policy.commit_every_seconds,
        }
    }
}

impl From<ProxyMoney> for ProxyPolicy {
    fn from(money: ProxyMoney) -> Self {
        Self {
            extra_stake_nanoton: money.extra_stake.0,
            charge_at_percent: money.charge_at_percent.clamp(1, 100),
            withdraw_at_nanoton: money.withdraw_at.0,
            commit_every_seconds: money.commit_every_seconds,
        }
    }
}

/// How a worker settles.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WorkerMoney {
    /// Have the owner paid once so much is due.
    payout_at: Coins,
    /// Work only for proxies whose contract can pay.
    pub(crate) require_backing: bool,
}

impl Default for WorkerMoney {
    fn default() -> Self {
        Self { payout_at: Coins(WorkerPolicy::default().payout_at_nanoton), require_backing: true }
    }
}

impl From<WorkerMoney> for WorkerPolicy {
    fn from(money: WorkerMoney) -> Self {
        Self { payout_at_nanoton: money.payout_at.0 }
    }
}
