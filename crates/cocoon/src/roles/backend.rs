//! The chain that a role works with.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use cocoon_chain::{Chain, StaticChain, ToncenterChain, ToncenterOptions};
use cocoon_ton::Address;

use crate::config::{ChainFile, Root, required};
use crate::keys;
use crate::signals::{Asked, Signals};

/// Longest key for a server's API, in bytes.
const MAX_API_KEY_BYTES: u64 = 1024;

/// The chain that a role works with.
pub(crate) struct Backend {
    /// The chain.
    pub(crate) chain: Arc<dyn Chain>,
    /// Whether coins move on it.
    pub(crate) settles: bool,
    /// The chain again, where it is a file that can change.
    file: Option<Arc<StaticChain>>,
}

impl Backend {
    /// A chain on which coins move.
    pub(crate) fn settling(chain: Arc<dyn Chain>) -> Self {
        Self { chain, settles: true, file: None }
    }

    /// The chain that a configuration names: a server, or a fixed root configuration.
    ///
    /// # Errors
    /// It is not named, or cannot be used.
    pub(crate) async fn open(role: &str, root: &Root, chain: &ChainFile) -> anyhow::Result<Self> {
        if let Some(url) = &chain.url {
            let toncenter = open_toncenter(url, chain, *root_address(role, root)?, root.is_test).await?;
            return Ok(Self::settling(Arc::new(toncenter)));
        }
        if !root.is_test {
            bail!(
                "root.is_test = false is a network with real coins: name a server with its chain's API in chain.url"
            );
        }
        let hint =
            "name a server with the chain's API in chain.url, or the JSON file of a fixed root configuration";
        let file = required(role, "root.file", root.file.as_ref(), hint)?;
        let unread = || {
            format!(
                "cannot read the root configuration, {}: it is a JSON file with a fixed one (docs/operations.md); to take it \
                 from a chain, set chain.url and root.address instead of root.file",
                file.display()
            )
        };
        let chain = Arc::new(StaticChain::from_file(file.clone()).await.with_context(unread)?);
        Ok(Self { chain: chain.clone(), settles: false, file: Some(chain) })
    }
}

/// A chain behind a server with toncenter's API.
///
/// # Errors
/// It cannot be reached, or has no such root contract.
async fn open_toncenter(
    url: &str,
    file: &ChainFile,
    root: Address,
    is_test: bool,
) -> anyhow::Result<ToncenterChain> {
    let mut options = ToncenterOptions::new(url, root, is_test);
    let api_key = file.api_key_file.as_deref().map(|path| keys::load_text(path, MAX_API_KEY_BYTES));
    options.api_key = api_key.transpose()?;
    options.requests_per_second = file.requests_per_second;
    options.poll_every = file.poll();
    ToncenterChain::open(options).await.with_context(|| format!("the chain at {url}"))
}

/// Until the process shall end; why, where a role has `stopped` by itself. On SIGHUP a fixed root configuration is read
/// again.
pub(super) async fn wait(
    signals: &mut Signals,
    backend: &Backend,
    stopped: impl Future<Output = String>,
) -> Option<String> {
    let asked = async {
        while signals.next().await == Asked::Reload {
            let Some(file) = &backend.file else { continue };
            match file.reload().await {
                Ok(changed) => tracing::info!(changed, "read the root configuration again"),
                Err(error) => tracing::error!(%error, "the root configuration stays as it was"),
            }
        }
    };
    tokio::select! {
        () = asked => {
            tracing::info!("finishing requests under way; a second signal ends at once");
            None
        }
        why = stopped => Some(why),
    }
}

pub(super) fn root_address<'a>(role: &str, root: &'a Root) -> anyhow::Result<&'a Address> {
    let hint = "name the root contract; `cocoon up` writes its own to DIR/endpoints.json while it runs";
    required(role, "root.address", root.address.as_ref(), hint)
}
