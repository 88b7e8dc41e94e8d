//! `cocoon keys`: who may use a gateway, and what they used.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use cocoon_ledger::Nanoton;

use super::roles::environment;
use crate::amount;
use crate::calendar;
use crate::config::{self, GatewayFile};

/// Longest time that is read: a hundred years, in seconds.
const MAX_SPAN_SECONDS: u64 = 100 * 366 * 86_400;

/// Make, list, change and revoke the API keys of a gateway, and see what they used.
///
/// A key is shown once, when it is made. Each may be limited to models and endpoints, to requests and tokens per minute, to
/// so many requests at a time, and to a budget in all and per day. Works with the gateway that runs, by its admin API, or,
/// while none runs, on its database. docs/teams.md explains it all.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cocoon keys add alice --config gateway.toml --budget-per-day '0.5 TON' --rpm 60
  cocoon keys list --config gateway.toml
  cocoon keys set alice --config gateway.toml --model 'Qwen/*' --expires 90d
  cocoon keys usage --config gateway.toml --from 2026-11-01 --csv > november.csv
  cocoon keys revoke alice --config gateway.toml
  cocoon keys list --url https://gateway.example.com --token-file admin-token.hex")]
pub(crate) struct Keys {
    #[command(subcommand)]
    pub(crate) command: KeysCommand,
}

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    Add(AddKey),
    List(ListKeys),
    Show(OneKey),
    Set(SetKey),
    Revoke(RevokeKey),
    Rotate(RotateKey),
    Usage(KeyUsage),
}

/// Which gateway.
#[derive(Debug, Args)]
pub(crate) struct GatewayArgs {
    /// The gateway's configuration; in the environment: COCOON_GATEWAY_FIELD
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    config: Option<PathBuf>,

    /// The gateway's directory
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    dir: Option<String>,

    /// A gateway that runs elsewhere; over https, or on this machine
    #[arg(long, value_name = "URL", requires = "token_file")]
    pub(crate) url: Option<String>,

    /// A private file with that gateway's admin token: admin-token.hex of its directory
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(crate) token_file: Option<PathBuf>,

    /// Print JSON instead of text, as the admin API gives it
    #[arg(long)]
    pub(crate) json: bool,
}

impl GatewayArgs {
    /// The configuration of a gateway of this machine.
    ///
    /// # Errors
    /// See [`config::load`].
    pub(crate) fn load(&self) -> anyhow::Result<GatewayFile> {
        let flags = self.dir.clone().map(|dir| ("dir", dir));
        config::load(self.config.as_deref(), environment(), flags.into_iter().collect())
    }
}

/// What may be set for a key.
#[derive(Debug, Args)]
pub(crate) struct SettingArgs {
    /// When it ends: 90d, 12h, a time as 2027-01-01T00:00:00Z, or never
    #[arg(long, value_name = "WHEN", value_parser = expiry)]
    pub(crate) expires: Option<Expiry>,

    /// A model that it is for, exactly or with *; may be given several times; none for no limit. Default: all
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Vec<String>,

    /// An endpoint that it is for, such as chat or embeddings; may be given several times; none for no limit. Default: all
    /// that models answer
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) endpoint: Vec<String>,

    /// What it may spend in all, such as '5 TON'; none for no limit
    #[arg(long, value_name = "COINS", value_parser = coins)]
    pub(crate) budget: Option<Limit>,

    /// What it may spend on each day (UTC); none for no limit
    #[arg(long, value_name = "COINS", value_parser = coins)]
    pub(crate) budget_per_day: Option<Limit>,

    /// Requests per minute; none for no limit
    #[arg(long, value_name = "NUMBER", value_parser = number)]
    pub(crate) rpm: Option<Limit>,

    /// Tokens per minute, of prompts and answers; none for no limit
    #[arg(long, value_name = "NUMBER", value_parser = number)]
    pub(crate) tpm: Option<Limit>,

    /// Requests at the same time; none for no limit
    #[arg(long, value_name = "NUMBER", value_parser = number)]
    pub(crate) concurrent: Option<Limit>,
}

/// A limit, or that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) Option<u64>);

/// When a key ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiry {
    Never,
    /// In seconds since 1970.
    At(u64),
    /// In seconds from now.
    In(u64),
}

/// Make a key; it is shown once.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cocoon keys add alice --config gateway.toml
  cocoon keys add batch --config gateway.toml --model 'Qwen/*' --endpoint chat --budget '20 TON' --concurrent 8
  cocoon keys add prometheus --config gateway.toml --endpoint metrics")]
pub(crate) struct AddKey {
    /// What people call it
    #[arg(value_name = "NAME")]
    pub(crate) name: String,

    #[command(flatten)]
    pub(crate) settings: SettingArgs,

    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
}

/// List all keys.
#[derive(Debug, Args)]
pub(crate) struct ListKeys {
    /// Revoked ones, too
    #[arg(long)]
    pub(crate) all: bool,

    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
}

/// Show one key: its limits, and what it spent.
#[derive(Debug, Args)]
pub(crate) struct OneKey {
    /// Its name or its id
    #[arg(value_name = "KEY")]
    pub(crate) key: String,

    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
}

/// Change what is set for a key; what is not named stays as it is.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cocoon keys set alice --config gateway.toml --budget '10 TON' --rpm none
  cocoon keys set alice --config gateway.toml --disable")]
pub(crate) struct SetKey {
    /// Its name or its id
    #[arg(value_name = "KEY")]
    pub(crate) key: String,

    #[command(flatten)]
    pub(crate) settings: SettingArgs,

    /// Another name
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Refuse it for now
    #[arg(long, conflicts_with = "enable")]
    pub(crate) disable: bool,

    /// Take it again
    #[arg(long)]
    pub(crate) enable: bool,

    /// Give back what was counted as spent without an agreed cost: for requests that were under way when the gateway died,
    /// and what proxies charged beyond reservations
    #[arg(long)]
    pub(crate) forgive_unsettled: bool,

    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
}

/// End a key for good, at once.
///
/// Requests of the key that are under way end as usual; no new one begins. What it used stays in lists.
#[derive(Debug, Args)]
pub(crate) struct RevokeKey {
    /// Its name or its id
    #[arg(value_name = "KEY")]
    pub(crate) key: String,

    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
}

/// Give a key a new secret, which is shown once; all else stays.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  cocoon keys rotate alice --config gateway.toml --grace 24h     the old one is good for another day")]
pub(crate) struct RotateKey {
    /// Its name or its id
    #[arg(value_name = "KEY")]
    pub(crate) key: String,

    /// How long the old secret stays good: 30m, 24h, up to 30d. Default: not at all
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub(crate) grace: Option<u64>,

    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
}

/// Show requests, tokens and coins by day, key, model and endpoint.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cocoon keys usage --config gateway.toml                      the last 30 days
  cocoon keys usage --config gateway.toml --key alice --from 2026-11-01 --to 2026-11-30
  cocoon keys usage --config gateway.toml --csv > usage.csv")]
pub(crate) struct KeyUsage {
    /// First day, UTC
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub(crate) from: Option<String>,

    /// Last day
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub(crate) to: Option<String>,

    /// Only this key, by name or id; none for callers without a key
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,

    /// Only this model
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,

    /// Print comma-separated values, for spreadsheets
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,

    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
}

fn coins(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    amount::parse(text).map(|Nanoton(nanoton)| Limit(Some(nanoton))).map_err(|error| error.to_string())
}

fn number(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    let number = text.parse().ok().filter(|number| *number > 0);
    number.map(|number| Limit(Some(number))).ok_or_else(|| "write a number above 0, or none".to_owned())
}

fn expiry(text: &str) -> Result<Expiry, String> {
    if text == "never" {
        return Ok(Expiry::Never);
    }
    if let Ok(seconds) = span(text) {
        return Ok(Expiry::In(seconds));
    }
    calendar::parse(text)
        .map(Expiry::At)
        .map_err(|_| "write 90d, 12h, a time as 2027-01-01T00:00:00Z, or never".to_owned())
}

/// `90d`, `12h`, `30m`, `45s` in seconds.
fn span(text: &str) -> Result<u64, String> {
    let wrong = || "write a time as 90d, 12h, 30m or 45s".to_owned();
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let unit = match unit {
        "d" => 86_400,
        "h" => 3600,
        "m" => 60,
        "s" => 1,
        _ => return Err(wrong()),
    };
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    count.checked_mul(unit).filter(|seconds| *seconds <= MAX_SPAN_SECONDS).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_times_are_read_as_people_write_them() {
        assert_eq!(coins("1.5 TON"), Ok(Limit(Some(1_500_000_000))));
        assert_eq!((coins("none"), number("none")), (Ok(Limit(None)), Ok(Limit(None))));
        assert!(number("0").is_err() && number("-1").is_err() && coins("much").is_err());
        assert_eq!((span("90d"), span("30m")), (Ok(7_776_000), Ok(1800)));
        for text in ["", "d", "5", "5w", "-5d", "99999999999d", "é"] {
            assert!(span(text).is_err(), "{text}");
        }
        assert_eq!(expiry("never"), Ok(Expiry::Never));
        assert_eq!(expiry("12h"), Ok(Expiry::In(43_200)));
        assert_eq!(expiry("2027-01-01T00:00:00Z"), Ok(Expiry::At(1_798_761_600)));
        assert!(expiry("tomorrow").is_err());
    }
}
