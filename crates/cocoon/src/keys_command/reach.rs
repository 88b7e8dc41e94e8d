//! How keys are reached: by the admin API of a gateway that runs, or in the database of one that does not.

use std::path::Path;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use cocoon_gateway::OfflineKeys;
use http::Method;
use serde_json::Value;

use crate::cli::GatewayArgs;
use crate::config::{GatewayFile, read_text};
use crate::dir::StateDir;
use crate::gateway_client::{GatewayClient, words_of};
use crate::keys;
use crate::roles::{ACCESS, ADMIN_ADDRESS, ADMIN_TOKEN};

/// Longest address in a file, in bytes.
const MAX_ADDRESS_BYTES: u64 = 1024;
/// Longest token, in bytes.
const MAX_TOKEN_BYTES: u64 = 1024;

/// A way to the keys.
pub(super) enum Reach {
    /// A gateway that runs.
    Running(Box<GatewayClient>),
    /// The database of one that does not, whose directory we hold.
    Stopped(OfflineKeys, StateDir),
}

impl Reach {
    /// Finds the gateway.
    ///
    /// # Errors
    /// There is none, or it cannot be told how to reach it.
    pub(super) async fn open(args: &GatewayArgs) -> anyhow::Result<Self> {
        if let (Some(url), Some(file)) = (&args.url, &args.token_file) {
            let token = keys::load_text(file, MAX_TOKEN_BYTES)?;
            return Ok(Self::Running(Box::new(GatewayClient::at(url, Some(token), None)?)));
        }
        let file = args.load()?;
        // A relative one of one part has an empty parent: where we are.
        let parent = file.dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        if !file.dir.exists() && !parent.is_none_or(Path::exists) {
            bail!("there is no directory {}; name the gateway with --config or --dir", file.dir.display());
        }
        match StateDir::try_open(&file.dir)? {
            Some(dir) => {
                let store = dir.path().join(ACCESS);
                let opened = tokio::task::spawn_blocking(move || OfflineKeys::open(&store)).await?;
                Ok(Self::Stopped(opened.context("the gateway's keys")?, dir))
            }
            None => Ok(Self::Running(Box::new(beside(&file)?))),
        }
    }

    /// Whether a gateway runs.
    pub(super) fn is_running(&self) -> bool {
        matches!(self, Self::Running(_))
    }

    /// Asks, and expects JSON.
    ///
    /// # Errors
    /// No answer came, or a refusal.
    pub(super) async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.bytes(method, path, body).await?).context("the answer is not JSON")
    }

    /// Asks.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub(super) async fn bytes(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Bytes> {
        let sent = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let (status, body) = match self {
            Self::Running(running) => running.ask(method, path, sent).await?,
            Self::Stopped(keys, _) => {
                let reply = keys.request(&method, path, &sent).await;
                (reply.status, reply.body)
            }
        };
        if !(200..300).contains(&status) {
            bail!("{}", words_of(status, &body));
        }
        Ok(body)
    }

    /// Closes what is open.
    ///
    /// # Errors
    /// What could not be stored.
    pub(super) fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Running(_) => Ok(()),
            Self::Stopped(keys, _dir) => keys.close().context("the gateway's keys could not be stored"),
        }
    }
}

/// The gateway that holds this directory.
fn beside(file: &GatewayFile) -> anyhow::Result<GatewayClient> {
    let (address, token) = (file.dir.join(ADMIN_ADDRESS), file.dir.join(ADMIN_TOKEN));
    let shown = file.dir.display();
    let url = read_text(&address, MAX_ADDRESS_BYTES).with_context(|| {
        format!(
            "another process holds {shown}, but it left no {ADMIN_ADDRESS}: it is starting, or is another `cocoon keys`; \
             try again in a moment"
        )
    })?;
    let token = keys::load_text(&token, MAX_TOKEN_BYTES)?;
    // On this machine its own certificate is what it is known by, whatever names it is for.
    GatewayClient::at(url.trim(), Some(token), file.tls.cert_file.as_deref())
}
