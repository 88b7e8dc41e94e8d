//! A chain for the commands that look at accounts and send messages.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use clap::{Args, ValueEnum};
use cocoon_chain::{Chain, ToncenterChain, ToncenterOptions};
use cocoon_ton::Address;
use cocoon_ton::wallet::{MAINNET_ID, TESTNET_ID};

use crate::keys;

const DEFAULT_URL: &str = "http://127.0.0.1:8081";
/// Longest API key, in bytes.
const MAX_API_KEY_BYTES: u64 = 1024;

/// Which chain, and how it is reached.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Chain")]
pub(crate) struct ChainAccess {
    /// A server with toncenter's HTTP API, version 2: a running `cocoon chain`, or <https://toncenter.com>
    #[arg(long, value_name = "URL", default_value = DEFAULT_URL, env = "COCOON_CHAIN_URL")]
    pub(crate) url: String,

    /// Whether the coins are worth something there [default: what is known of the URL]
    #[arg(long, value_enum, value_name = "NETWORK")]
    pub(crate) network: Option<NetworkKind>,

    /// A private file with the server's API key
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
}

/// What kind of network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkKind {
    /// Coins with a value.
    Main,
    /// Coins without, the embedded chain's included.
    Test,
}

impl NetworkKind {
    /// Whether addresses are written as on test networks.
    pub(crate) fn is_testnet(self) -> bool {
        self == Self::Test
    }

    /// The number that the addresses of v5r1 wallets depend on.
    pub(crate) const fn id(self) -> i32 {
        match self {
            Self::Main => MAINNET_ID,
            Self::Test => TESTNET_ID,
        }
    }
}

impl ChainAccess {
    /// What kind of network it is: as told, else as known of the public servers and of this machine's own.
    ///
    /// # Errors
    /// It is neither told nor known.
    pub(crate) fn network(&self) -> anyhow::Result<NetworkKind> {
        if let Some(network) = self.network {
            return Ok(network);
        }
        let uri: Option<http::Uri> = self.url.trim().parse().ok();
        match uri.as_ref().and_then(http::Uri::host).map(|host| host.trim_matches(['[', ']'])) {
            Some("toncenter.com") => Ok(NetworkKind::Main),
            Some("testnet.toncenter.com" | "localhost") => Ok(NetworkKind::Test),
            Some(host) if host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()) => {
                Ok(NetworkKind::Test)
            }
            _ => bail!("what network does {} belong to? Say --network main or --network test", self.url),
        }
    }

    /// The chain, without any root contract. Nothing is asked for yet.
    ///
    /// # Errors
    /// The URL or the key cannot be used.
    pub(crate) fn open(&self) -> anyhow::Result<Arc<dyn Chain>> {
        // No root contract is followed, so this one is never looked at.
        let nobody = Address::basechain([0; 32]);
        let mut options = ToncenterOptions::new(self.url.clone(), nobody, self.network()?.is_testnet());
        if let Some(path) = &self.api_key_file {
            options.api_key = Some(keys::load_text(path, MAX_API_KEY_BYTES)?);
        }
        Ok(Arc::new(ToncenterChain::without_root(&options)?))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn network(url: &str) -> Option<NetworkKind> {
        let access = ChainAccess { url: url.to_owned(), network: None, api_key_file: None };
        access.network().ok()
    }

    #[test]
    fn a_network_is_known_by_its_url_or_must_be_told() {
        for url in [
            "http://127.0.0.1:8081",
            "http://localhost:1/api/v2",
            "http://[::1]:1",
            "https://testnet.toncenter.com",
        ] {
            assert_eq!(network(url), Some(NetworkKind::Test), "{url}");
        }
        assert_eq!(network("https://toncenter.com/api/v2"), Some(NetworkKind::Main));
        for url in ["https://example.com", "http://127.0.0.1.example.com", "nonsense", ""] {
            assert_eq!(network(url), None, "{url}");
        }
    }
}
